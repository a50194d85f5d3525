"""Tells the cloud's monitoring every five minutes how things stand, and with it that Dagster's daemon runs. See
monitoring.py."""

import datetime as dt

import dagster as dg

from forecast_platform.defs.resources import Platform
from forecast_platform.monitoring import measures, newest_forecast


@dg.sensor(minimum_interval_seconds=300, default_status=dg.DefaultSensorStatus.RUNNING, jobs=[], description=__doc__)
def monitor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SkipReason:
    if not platform.cloud.monitored:
        return dg.SkipReason("nobody watches: this profile has no monitoring")
    # To look for the newest week is to read all forecasts' weeks, so it is done once a publication.
    state, _, week = (context.cursor or "").partition(" ")
    if state != (now_state := str(platform.lake.snapshot("forecasts"))):
        week = str(newest_forecast(platform.lake) or "")
        context.update_cursor(f"{now_state} {week}")
    found = measures(platform.lake, dt.date.fromisoformat(week) if week else None, dt.datetime.now(dt.UTC))
    told = ", ".join(f"{name} {value:g}" for name, value in found.items())
    return dg.SkipReason(f"told: {told}" if platform.cloud.report(found) else f"NOT told: {told}; the log says why")
