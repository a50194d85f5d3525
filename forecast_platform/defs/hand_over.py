"""What goes out to people who open neither Dagster nor SQL: the week on one page, and an extract for Tableau."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.dashboard import hyper
from forecast_platform.defs.forecast_accuracy import forecast_accuracy
from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.partitions import OWNERS, weekly, weeks_of
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage

# After a publication, once its run is over. Not eager(): that waits until no week at all is missing, which is never.
_WHEN_PUBLISHED = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)


@dg.asset(
    deps=[forecast_table, forecast_accuracy],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    group_name="hand_over",
    kinds={"html"},
    owners=OWNERS,
    code_version="1",
    description="The week on one page, as HTML and PNG, to be mailed: the total, what to review first, who was off.",
)
def weekly_report(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    from forecast_platform.dashboard.report import weekly_report as write
    from forecast_platform.dashboard.source import Source

    stage, (week,) = Stage(context), weeks_of(context)
    report = write(Source(platform.lake).state(), platform.settings, week)
    html = platform.keep(f"reports/{week}.html", report.html.encode())
    png = platform.keep(f"reports/{week}.png", report.png)
    return dg.MaterializeResult(
        metadata=stage.metadata(
            subject=report.summary,
            html=dg.MetadataValue.path(html),
            png=dg.MetadataValue.path(png),
            dashboard=dg.MetadataValue.url(f"{platform.settings.dashboard_url}/?week={week}"),
        )
    )


@dg.asset(
    deps=[forecast_table, forecast_accuracy],
    group_name="hand_over",
    kinds={"tableau"},
    owners=OWNERS,
    code_version="1",
    description="The newest forecast, sales, accuracy and revisions as one .hyper file, read back after writing.",
    automation_condition=_WHEN_PUBLISHED,
)
def tableau_extract(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage = Stage(context)
    with lake_connection(platform, duckdb) as con:
        extract = hyper.write_extract(con, platform.settings.home / "exports" / "forecast.hyper")
    kept = platform.keep("exports/forecast.hyper", extract.path.read_bytes())
    return dg.MaterializeResult(
        metadata=stage.metadata(
            file=dg.MetadataValue.path(kept),
            megabytes=round(extract.path.stat().st_size / 1e6, 1),
            **{f"rows_{name}": rows for name, rows in extract.rows.items()},
        )
    )


_extract_sensor = dg.AutomationConditionSensorDefinition(
    "extract_sensor",
    target=dg.AssetSelection.assets(tableau_extract),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Writes the Tableau extract anew when a forecast was published or its sales landed.",
)

# Tableau's library is an extra of some size that not every platform has.
hand_over = [weekly_report, *([tableau_extract] if hyper.available() else [])]
hand_over_sensors = [_extract_sensor] if hyper.available() else []
