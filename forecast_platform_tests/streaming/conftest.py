from __future__ import annotations

import re

import pytest

from forecast_platform_tests.streaming.broker import Broker


@pytest.fixture(scope="session")
def broker() -> Broker:
    """One for all tests: each takes a topic of its own."""
    return Broker()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return re.sub("[^A-Za-z0-9]+", "-", request.node.name).strip("-")
