"""The series as the assets of a week see them, by the settings: one reading for model, forecast and table."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb

from forecast_platform.engines.base import Engine
from forecast_platform.history.panel import Panel
from forecast_platform.history.reading import known_by, read_panel, sample, sources
from forecast_platform.lake.closures import closings
from forecast_platform.levels import attribute_levels
from forecast_platform.publishing.series import Listed, list_series
from forecast_platform.settings import Settings

# What is read of the lake here.
KNOWN = ("raw_sales", "landings", "cleaned_series", "features", "calendar", "closures", "stores", "departments")


def known_panel(con: duckdb.DuckDBPyConnection, week: dt.date, mode: str, settings: Settings) -> tuple[Panel, str]:
    """All series up to a week to learn from, or of a large retailer a sample of them, and which sample in words, "" for
    all. See `read_panel`, also for what it raises. Attributes are those of now: they have no history, and past
    forecasts keep theirs (table level_members)."""
    levels = attribute_levels(con, settings.levels)
    among = sample(con, week, mode, settings.training_series)
    panel = replace(read_panel(con, week, mode, settings.meaning, among), levels=levels)
    if among is None:
        return panel, ""
    return panel, (
        f"learnt from {len(panel):,} of {among.series:,} series, in {len(among.stores):,} stores and "
        f"{len(among.depts):,} departments (FORECAST_TRAINING_SERIES)"
    )


def listed_series(
    con: duckdb.DuckDBPyConnection, week: dt.date, mode: str, settings: Settings, folder: Path, engine: Engine
) -> Listed:
    """The series to forecast from a week, and those that get a reason instead, in shards that fit into memory.

    Args:
        folder: where the shards go, where there are several; it is replaced.
        engine: where the work is to run.

    Raises:
        ValueError: nothing had been observed by then, or see `list_series`.
    """
    s, levels = settings, attribute_levels(con, settings.levels)
    said = closings(con, known_by(week) if mode == "then" else None)
    ((weeks,),) = con.execute("SELECT 1 + date_diff('week', min(week), max(week)) FROM cleaned_series").fetchall()
    ((columns,),) = con.execute("SELECT count(DISTINCT name) FROM features").fetchall()
    at_most, at_least = engine.shard_size(s, weeks or 1, columns)
    shutil.rmtree(folder, ignore_errors=True)
    found = sources(con, week, mode, s.meaning, folder / "rows", at_most, at_least)
    return list_series(found, folder, s.active_weeks, s.prediction_length, said, levels, engine.run)
