"""The weekly partitions, and what a run is about: its weeks and how much it may know."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import dagster as dg

from forecast_platform.settings import get_settings
from forecast_platform.weeks import key

# A partition is a business week, its key the date it ends on. With end_offset=1 the newest key exists from that date.
_calendar = get_settings().calendar
weekly = dg.WeeklyPartitionsDefinition(
    start_date=key(_calendar.first_week), day_offset=_calendar.day_offset, end_offset=1
)

# Weeks of history a week's series, model and forecast are said to depend on in the lineage view; what they read is all.
LINEAGE_WEEKS = 52
history = dg.TimeWindowPartitionMapping(start_offset=-LINEAGE_WEEKS, allow_nonexistent_upstream_partitions=True)


def history_of(asset: dg.AssetsDefinition) -> dg.AssetDep:
    """A dependency on the asset's weeks up to the week in question."""
    return dg.AssetDep(asset, partition_mapping=history)


OWNERS = ["team:forecasting"]

# Tag of a run (or backfill) that asks for forecasts from the data versions that had landed at the time.
AS_KNOWN = "forecast/as_known"

# Tag of a run that forecasts with the model of this version (see the models table) instead of training.
PINNED = "forecast/model"


def weeks_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> list[dt.date]:
    """The weeks of this run, ascending."""
    if not context.has_partition_key_range and not context.has_partition_key:
        return []
    return sorted(dt.date.fromisoformat(k) for k in context.partition_keys)


def as_known(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> str:
    """How much the run may know, "now" or "then", from its tag.

    Raises:
        dagster.Failure: any other value.
    """
    mode = context.run.tags.get(AS_KNOWN, "now")
    if mode not in ("now", "then"):
        raise dg.Failure(f"the run's tag {AS_KNOWN} is {mode!r}; use now or then")
    return mode


def scored_again(context: dg.AssetExecutionContext, weeks: Iterable[dt.date], why: str) -> None:
    """Have it on record that this step scored other weeks than its run is about."""
    for week in weeks:
        context.log_event(dg.AssetMaterialization("forecast_accuracy", description=why, partition=key(week)))
