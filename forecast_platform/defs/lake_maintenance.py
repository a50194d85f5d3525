"""The nightly cleaning of the lake: old states are forgotten, files that no state names are deleted. On profile aws its
views in Athena are renewed too, so that they show columns that tables gained."""

import datetime as dt

import dagster as dg

from forecast_platform.defs.jobs import MAX_RUNTIME
from forecast_platform.defs.resources import Platform
from forecast_platform.lake.maintenance import maintain


@dg.op(description=__doc__)
def maintain_lake(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    keep = dt.timedelta(days=platform.settings.keep_states_days)
    report = maintain(platform.lake, keep, dt.datetime.now(dt.UTC))
    context.log.info(str(report))
    if views := platform.cloud.renew_views():
        context.log.info(f"views renewed: {', '.join(views)}")
    context.add_output_metadata(
        {
            "files_deleted": sum(t.deleted for t in report.tables),
            "bytes_deleted": sum(t.deleted_bytes for t in report.tables),
            "bytes_left": sum(t.left_bytes for t in report.tables),
            "tables": dg.MarkdownMetadataValue("\n".join(f"- {line}" for line in str(report).splitlines())),
        }
    )


@dg.job(description=__doc__, tags=MAX_RUNTIME)
def lake_maintenance() -> None:
    maintain_lake()


nightly_maintenance = dg.ScheduleDefinition(
    job=lake_maintenance, cron_schedule="17 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
