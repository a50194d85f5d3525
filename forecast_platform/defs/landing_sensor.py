"""Files that land start the runs of their weeks. See landing/trigger.py for the rules."""

import datetime as dt

import dagster as dg

from forecast_platform.defs.jobs import history_assets, ingest_history, weekly_forecast
from forecast_platform.defs.partitions import weekly
from forecast_platform.defs.resources import Platform
from forecast_platform.landing.contract import weeks_in
from forecast_platform.landing.ingest import Ledger
from forecast_platform.landing.store import LandingObject
from forecast_platform.landing.trigger import Memory, Request, next_request, notice
from forecast_platform.series.cleaning import newest_complete_week
from forecast_platform.weeks import key

# Every run that this sensor starts carries the tag; one of them at a time.
LANDING_TAG = {"forecast/started_by": "landing"}
_UNFINISHED = [
    s
    for s in dg.DagsterRunStatus
    if s not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]


@dg.sensor(
    jobs=[weekly_forecast, ingest_history],
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=__doc__,
)
def landing_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    settings, lake, landing = platform.settings, platform.lake, platform.landing
    now = dt.datetime.now(dt.UTC)
    memory = Memory.load(context.cursor, now)
    ledger = Ledger.of(lake)
    new = [o for o in landing.list(known=ledger.objects) if ledger.is_news(o)]

    def weeks_touched(obj: LandingObject) -> list[dt.date]:
        weeks = weeks_in(landing.read(obj), obj.key, settings.contract, settings.calendar)
        return ledger.touched(obj, weeks, settings.calendar, settings.calendar.last_started(now))

    notice(memory, new, weeks_touched, settings.calendar, now)
    parked = "; ".join(f"{name} waits: {why}" for name, why in sorted(memory.parked.items()))
    busy = context.instance.get_runs_count(dg.RunsFilter(tags=LANDING_TAG, statuses=_UNFINISHED))
    request = None
    if not busy:
        request = next_request(
            memory,
            settings.history_weeks,
            ledger.newest_week,
            lambda: newest_complete_week(lake, settings.complete_share),
            settings.calendar.last_started(now),
        )
    if request:
        if parked:
            context.log.info(parked)
        return dg.SensorResult(run_requests=[_run_request(request, history_assets(lake))], cursor=memory.dump())
    waiting = ", ".join(sorted(memory.pending)[:5]) or "nothing"
    reason = f"a run is going; waiting for it: {waiting}" if busy else "nothing new landed"
    return dg.SensorResult(skip_reason="; ".join(filter(None, [reason, parked])), cursor=memory.dump())


def _run_request(request: Request, history: list[str]) -> dg.RunRequest:
    if request.kind == "history":
        first, last = (key(w) for w in (request.first, request.last))
        return dg.RunRequest(
            run_key=request.run_key,
            job_name=ingest_history.name,
            asset_selection=[dg.AssetKey(name) for name in history],
            tags={
                **LANDING_TAG,
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            },
        )
    # An unknown partition would end the whole tick, again and again; the trigger parks such weeks, so this cannot be.
    assert weekly.has_partition_key(key(request.last)), f"{request.last} is no week of this calendar"
    job, only = (ingest_history, [dg.AssetKey("raw_sales")]) if request.kind == "files" else (weekly_forecast, None)
    return dg.RunRequest(
        run_key=request.run_key,
        job_name=job.name,
        partition_key=key(request.last),
        asset_selection=only,
        tags=LANDING_TAG,
    )
