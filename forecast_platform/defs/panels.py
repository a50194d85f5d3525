"""The series as the assets of a week see them, by the settings: one reading for model, forecast and table."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import duckdb
import pyarrow as pa

from forecast_platform.history.panel import Panel
from forecast_platform.history.reading import known_by, read_panel
from forecast_platform.lake.closures import closings
from forecast_platform.levels import attribute_levels
from forecast_platform.publishing.forecasts import forecastable
from forecast_platform.settings import Settings

# What is read of the lake here.
KNOWN = ("raw_sales", "landings", "cleaned_series", "features", "calendar", "closures", "stores", "departments")


def known_panel(con: duckdb.DuckDBPyConnection, week: dt.date, mode: str, settings: Settings) -> Panel:
    """All series up to a week. See `read_panel`, also for what it raises. Attributes are those of now: they have no
    history, and past forecasts keep theirs (table level_members)."""
    levels = attribute_levels(con, settings.levels)
    return replace(read_panel(con, week, mode, settings.meaning), levels=levels)


def forecast_series(
    con: duckdb.DuckDBPyConnection, week: dt.date, mode: str, settings: Settings
) -> tuple[Panel, pa.Table]:
    """The series to forecast from a week, and those that get a reason instead. See `forecastable`."""
    said = closings(con, known_by(week) if mode == "then" else None)
    panel = known_panel(con, week, mode, settings)
    return forecastable(panel, settings.active_weeks, settings.prediction_length, said)
