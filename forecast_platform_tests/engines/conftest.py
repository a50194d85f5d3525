"""The fixtures of history: forecast_platform_tests/history/conftest.py."""

from forecast_platform_tests.history.conftest import panel

__all__ = ["panel"]
