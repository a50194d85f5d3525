"""The fixtures of the AWS tests: gate.py, and forecast_platform_tests/sagemaker_emulator/fixtures.py."""

from forecast_platform_tests.clouds.aws.gate import gate
from forecast_platform_tests.sagemaker_emulator.fixtures import sagemaker, sagemaker_server

__all__ = ["gate", "sagemaker", "sagemaker_server"]
