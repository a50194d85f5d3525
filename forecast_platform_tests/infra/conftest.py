"""moto's CloudFormation, for the tests that deploy something."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _cloudformation(request: pytest.FixtureRequest) -> None:
    if "endpoint" in request.fixturenames:
        from moto.cloudformation.parsing import ResourceMap

        from forecast_platform_tests.infra import cloudformation  # imports all of moto: seconds

        request.getfixturevalue("monkeypatch").setattr(ResourceMap, "build_resource_diff", cloudformation.diff)
