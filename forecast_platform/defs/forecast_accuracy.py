"""Realised accuracy: as a week's sales land, every earlier forecast of it is scored, beside last year's week. What is
published later, for a week whose sales are there already, is scored by the step that publishes it, forecast_table."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.defs import pictures
from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.column_lineage import column_lineage
from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.partitions import OWNERS, history_of, scored_again, weekly, weeks_of
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.publishing.accuracy import rescore
from forecast_platform.scores import SCORES
from forecast_platform.settings import get_settings
from forecast_platform.weeks import key

# Week W is scored against the forecasts made in the weeks before it.
_earlier = dg.TimeWindowPartitionMapping(
    start_offset=-get_settings().prediction_length, end_offset=-1, allow_nonexistent_upstream_partitions=True
)


@dg.asset(
    deps=[history_of(cleaned_series), dg.AssetDep(forecast_table, partition_mapping=_earlier)],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=500),
    group_name="accuracy",
    kinds={"iceberg", "duckdb"},
    owners=OWNERS,
    description=__doc__,
)
def forecast_accuracy(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, weeks, settings, lake = Stage(context), weeks_of(context), platform.settings, platform.lake
    with duckdb.get_connection() as con:
        scored = rescore(lake, con, sold=weeks)
    between = [weeks[0], weeks[-1]]
    with lake_connection(platform, duckdb, "forecast_accuracy") as con:
        (rows,) = con.execute(
            "SELECT count(*) FROM forecast_accuracy WHERE week BETWEEN ? AND ?", between
        ).fetchone() or (0,)
        scores = con.execute(
            f"""
            SELECT week, forecast_weeks, wape, wql, coverage, naive_wape FROM (
                SELECT week, count(DISTINCT forecast_week) AS forecast_weeks, {SCORES}
                FROM forecast_accuracy WHERE level = 'series' AND week BETWEEN ? AND ? GROUP BY week
            )
            """,  # noqa: S608 (only our own SQL is composed)
            between,
        ).fetchall()
        shown = {}
        if scores:
            shown = {
                "worst_series": pictures.worst_series(con, weeks[-1]),
                "coverage_by_horizon": pictures.coverage_by_horizon(con, *between),
                "dashboard": dg.MetadataValue.url(f"{settings.dashboard_url}/accuracy"),
            }
    scored_again(context, sorted(set(scored) - set(weeks)), "last year's week changed")
    for week, *numbers in scores:
        names = ("forecasts_scored", "wape", "wql", "coverage", "naive_wape")
        metadata = {name: value for name, value in zip(names, numbers, strict=True) if value is not None}
        context.add_asset_metadata(metadata, partition_key=key(week))
    return dg.MaterializeResult(
        metadata=stage.metadata(lake.specs["forecast_accuracy"].schema, rows=rows, **shown)
        | column_lineage("forecast_accuracy")
    )
