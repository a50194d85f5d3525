"""The weekly grid: one row per active series and week, in the version in force; gaps are null, or
zeros marked `filled` where leaving weeks out is a series' habit; returns and closed stores are flagged."""

import datetime as dt
from collections.abc import Iterable, Iterator

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from dagster_duckdb import DuckDBResource

from forecast_platform.defs.column_lineage import column_lineage
from forecast_platform.defs.partitions import OWNERS, weekly, weeks_of
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.history.cleaning import CELLS_PER_GB, clean_weeks
from forecast_platform.landing.ledger import Ledger, mark_cleaned
from forecast_platform.weeks import key


@dg.asset(
    deps=[raw_sales],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=500),
    group_name="series",
    kinds={"iceberg", "duckdb"},
    owners=OWNERS,
    description=__doc__,
)
def cleaned_series(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, weeks, lake = Stage(context), weeks_of(context), platform.lake
    ledger = Ledger.of(lake)
    settings = platform.settings
    at_most = int(settings.memory_gb * CELLS_PER_GB)
    tallies: dict[dt.date, dict[str, int]] = {}
    with lake_connection(platform, duckdb, "raw_sales", "landings") as con:
        rows = clean_weeks(con, weeks[0], weeks[-1], settings.active_weeks, settings.no_row, at_most)
        changed = lake.replace_weeks("cleaned_series", weeks, _tallied(rows, tallies))
    total, filled = (sum(tally[name] for tally in tallies.values()) for name in ("series", "filled"))
    mark_cleaned(lake, ledger, weeks)
    for week in weeks:
        context.add_asset_metadata(tallies.get(week, {"series": 0}), partition_key=key(week))
    return dg.MaterializeResult(
        metadata=stage.metadata(lake.specs["cleaned_series"].schema, rows=total, weeks=len(weeks), changed=changed)
        | {"no_row": settings.no_row, "filled_as_zero": filled, "share_filled": filled / max(total, 1)}
        | column_lineage("cleaned_series")
    )


_FLAGS = {"returns": "is_return", "restated": "is_restated", "filled": "filled", "store_closed": "store_closed"}


def _tallied(rows: Iterable[pa.Table], tallies: dict[dt.date, dict[str, int]]) -> Iterator[pa.Table]:
    """The tables of weeks, counted while they pass."""
    for table in rows:
        flags = {name: pc.sum(table[column]).as_py() for name, column in _FLAGS.items()}
        gaps = len(table) - pc.sum(table["observed"]).as_py()
        tallies[table["week"][0].as_py()] = {"series": len(table), "gaps": gaps, **flags}
        yield table
