"""What a monitoring system is told: a few numbers about the lake, by name.

On profile aws they are metrics of CloudWatch (clouds/aws/metrics.py), and the alarms of infra/ lie on them. Those that
say how things stand are told again and again by defs/monitoring.py: where they fail to come, the daemon is silent.

| metric | unit | |
|---|---|---|
| Heartbeat | 1 | the daemon runs |
| ForecastAgeDays | days | since the week ended that the newest forecast knows; not told while there is none |
| OpenFailures | steps | of runs that failed and that no later run has mended |
| JobsFailed | jobs | that failed for good, told when their run has failed |
"""

from __future__ import annotations

import datetime as dt

from forecast_platform.lake.lake import Lake

HEARTBEAT, AGE_OF_FORECAST, OPEN_FAILURES, JOBS_FAILED = "Heartbeat", "ForecastAgeDays", "OpenFailures", "JobsFailed"


def newest_forecast(lake: Lake) -> dt.date | None:
    """The newest week that a forecast knows."""
    week: dt.date | None = lake.query("SELECT max(forecast_week) AS week FROM forecasts")["week"][0].as_py()
    return week


def measures(lake: Lake, newest: dt.date | None, now: dt.datetime) -> dict[str, float]:
    """How things stand.

    Args:
        newest: see `newest_forecast`. now: aware.
    """
    failures = lake.query("SELECT count(*) AS n FROM open_failures")["n"][0].as_py()
    found = {HEARTBEAT: 1.0, OPEN_FAILURES: float(failures)}
    if newest:
        ended = dt.datetime.combine(newest + dt.timedelta(days=1), dt.time(), dt.UTC)
        found[AGE_OF_FORECAST] = (now - ended) / dt.timedelta(days=1)
    return found
