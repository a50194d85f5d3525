"""Weekly department sales forecasts with DeepAR, as a Dagster asset graph.

import forecast_platform as fp
p = fp.open("~/my_forecasts")
p.forecasts()                # pandas frames: docs/python.md
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forecast_platform.surface import Home

__version__ = "0.1.0"
__all__ = ["open"]


def open(home: str | Path | None = None) -> Home:
    """A home to ask, from Python.

    Args:
        home: its folder; None: $FORECAST_HOME, or ./.forecast.

    Raises:
        FileNotFoundError: there is no such folder.
        pydantic.ValidationError: its settings are wrong; the text names file, setting and rule.
    """
    from forecast_platform.surface import Home

    return Home(home)
