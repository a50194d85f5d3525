"""Fixtures of the AWS tests.

| fixture | what it gives |
|---|---|
| `sagemaker` | the SageMaker emulator on loopback beside `s3`, reset, with boto3 pointed at it |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forecast_platform_tests.sagemaker_emulator.emulator import Emulator


@pytest.fixture(scope="session")
def sagemaker_server(endpoint: str) -> Iterator[Emulator]:
    emulator = Emulator(endpoint)
    emulator.start()
    yield emulator
    emulator.stop()


@pytest.fixture
def sagemaker(sagemaker_server: Emulator, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator, empty; its calls, faults and settings are attributes. Jobs still running at the end are ended."""
    for service in ("SAGEMAKER", "CLOUDWATCH_LOGS", "SERVICE_QUOTAS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", sagemaker_server.url)
    sagemaker_server.reset()
    yield sagemaker_server
    sagemaker_server.reset()
