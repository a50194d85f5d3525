"""The weekly partitions, and what a run is about: its weeks and how much it may know."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType

from forecast_platform.clouds.base import cloud_of
from forecast_platform.landing.ledger import Ledger
from forecast_platform.settings import get_settings
from forecast_platform.weeks import key

CALENDAR = get_settings().calendar
# Whether a code server is loading these, whose partitions people and the daemon see. A run, a command or a test has
# every week of the calendar, whatever it brings in.
SHOWN = DefinitionsLoadContext.is_set() and DefinitionsLoadContext.get().load_type is DefinitionsLoadType.INITIALIZATION


def first_landed(ledger: Ledger) -> dt.date:
    """The week that partitions should begin with: the first that landed, or of an empty lake the first there may be."""
    landed = ledger.first_week
    return max(CALENDAR.first_week, CALENDAR.week_of(landed)) if landed else CALENDAR.first_week


def _first() -> dt.date:
    if not SHOWN:
        return CALENDAR.first_week
    try:
        cloud = cloud_of(get_settings())
        return first_landed(Ledger.of(cloud.lake)) if cloud.begun() else CALENDAR.first_week
    except Exception:  # any trouble of the lake: too many weeks do no harm, while a platform that does not load does
        logging.getLogger(__name__).warning("the lake cannot be asked for its first week", exc_info=True)
        return CALENDAR.first_week


# A partition is a business week, its key the date it ends on. With end_offset=1 the newest key exists from that date.
FIRST = _first()
weekly = dg.WeeklyPartitionsDefinition(start_date=key(FIRST), day_offset=CALENDAR.day_offset, end_offset=1)

# Weeks of history that a week depends on in the lineage view. What is read is all of them.
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
    """Record that this step scored other weeks than its run is about."""
    for week in weeks:
        context.log_event(dg.AssetMaterialization("forecast_accuracy", description=why, partition=key(week)))
