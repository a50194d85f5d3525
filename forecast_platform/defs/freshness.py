"""Whether the newest week that should have a forecast has one, asked every night. It should when the next week ends.

By partition: an asset's freshness policy is content with any materialization, such as one of a week of years ago
(dagster#34023).
"""

import dagster as dg

from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.jobs import MAX_RUNTIME
from forecast_platform.settings import get_settings

# The last minute before the next week ends, when its partition begins to exist. Cron's Sunday is 0, as is day_offset's.
_DEADLINE = f"59 23 * * {(get_settings().calendar.day_offset - 1) % 7}"

(newest_week_forecast,) = dg.build_time_partition_freshness_checks(
    assets=[forecast_table], deadline_cron=_DEADLINE, severity=dg.AssetCheckSeverity.WARN
)

freshness = dg.define_asset_job(
    "freshness", selection=dg.AssetSelection.checks(newest_week_forecast), description=__doc__, tags=MAX_RUNTIME
)

nightly_freshness = dg.ScheduleDefinition(
    job=freshness, cron_schedule="7 0 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
