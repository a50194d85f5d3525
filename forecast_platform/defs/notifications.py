"""Tells people what is new (setting notify): failures, late weeks, refused files, reports. See notify.py."""

import datetime as dt

import dagster as dg

from forecast_platform.defs.resources import Platform
from forecast_platform.notify import tell_news

_TOLD_OF = ("run_failures", "landings", "forecasts", "notices")


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING, jobs=[], description=__doc__)
def notifier(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SkipReason:
    if not platform.settings.notify:
        return dg.SkipReason("nobody is to be told: the setting notify is empty")
    now = dt.datetime.now(dt.UTC)
    # A week becomes late as time passes; everything else comes with a change of these tables.
    state = f"{now:%Y-%m-%dT%H} " + " ".join(str(platform.lake.snapshot(name)) for name in _TOLD_OF)
    if state == context.cursor:
        return dg.SkipReason("nothing new")
    lines = tell_news(platform.lake, platform.settings, now)
    for line in lines:
        context.log.info(line)
    context.update_cursor(state)
    return dg.SkipReason("; ".join(lines) or "nothing new to tell")
