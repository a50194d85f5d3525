"""The week on one page, as HTML and PNG, to be mailed: the total, what to review first, who was off."""

import contextlib

import dagster as dg

from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.deepar_model import deepar_model
from forecast_platform.defs.forecast_accuracy import forecast_accuracy
from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.partitions import OWNERS, history_of, weekly, weeks_of
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import Platform
from forecast_platform.defs.stage import Stage


@dg.asset(
    deps=[raw_sales, history_of(cleaned_series), deepar_model, forecast_table, forecast_accuracy],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    group_name="hand_over",
    kinds={"html"},
    owners=OWNERS,
    description=__doc__,
)
def weekly_report(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    from forecast_platform.dashboard.report import weekly_report as write
    from forecast_platform.dashboard.source import Source

    stage, (week,) = Stage(context), weeks_of(context)
    with contextlib.closing(Source(platform.lake)) as source:
        report = write(source.state(), platform.settings, week)
    html = platform.cloud.keep(f"reports/{week}.html", report.html.encode())
    png = platform.cloud.keep(f"reports/{week}.png", report.png)
    return dg.MaterializeResult(
        metadata=stage.metadata(
            subject=report.summary,
            html=dg.MetadataValue.path(html),
            png=dg.MetadataValue.path(png),
            dashboard=dg.MetadataValue.url(f"{platform.settings.dashboard_url}/?week={week}"),
        )
    )
