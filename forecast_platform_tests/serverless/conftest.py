"""The fixtures of the AWS tests: forecast_platform_tests/sagemaker_emulator/fixtures.py."""

from forecast_platform_tests.sagemaker_emulator.fixtures import sagemaker, sagemaker_server

__all__ = ["sagemaker", "sagemaker_server"]
