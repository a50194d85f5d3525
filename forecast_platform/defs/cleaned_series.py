"""The weekly grid: one row per active series and week, in the version in force; gaps are null, or
zeros marked `filled` where leaving weeks out is a series' habit; returns and closed stores are flagged."""

import dagster as dg
import pyarrow.compute as pc
from dagster_duckdb import DuckDBResource

from forecast_platform.defs.column_lineage import column_lineage
from forecast_platform.defs.partitions import OWNERS, weekly, weeks_of
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.history.cleaning import clean_weeks
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
    with lake_connection(platform, duckdb, "raw_sales", "landings") as con:
        settings = platform.settings
        rows = clean_weeks(con, weeks[0], weeks[-1], settings.active_weeks, settings.no_row)
        con.register("rows", rows)
        counts = {
            week: dict(zip(("series", "gaps", "returns", "restated", "filled", "store_closed"), numbers, strict=True))
            for week, *numbers in con.execute(
                """
                SELECT week, count(*), count(*) FILTER (NOT observed), count(*) FILTER (is_return),
                       count(*) FILTER (is_restated), count(*) FILTER (filled), count(*) FILTER (store_closed)
                FROM rows GROUP BY week
                """
            ).fetchall()
        }
    filled = pc.sum(rows["filled"]).as_py() or 0
    changed = lake.replace_weeks("cleaned_series", weeks, rows)
    mark_cleaned(lake, ledger, weeks)
    for week in weeks:
        context.add_asset_metadata(counts.get(week, {"series": 0}), partition_key=key(week))
    return dg.MaterializeResult(
        metadata=stage.metadata(lake.specs["cleaned_series"].schema, rows=len(rows), weeks=len(weeks), changed=changed)
        | {"no_row": settings.no_row, "filled_as_zero": filled, "share_filled": filled / max(len(rows), 1)}
        | column_lineage("cleaned_series")
    )
