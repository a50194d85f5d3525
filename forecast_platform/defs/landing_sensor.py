"""Files that land start the runs of their weeks. See landing/trigger.py for the rules."""

import datetime as dt
import threading
from collections.abc import Iterable, Sequence

import dagster as dg

from forecast_platform.clouds.aws.clients import split_s3
from forecast_platform.clouds.aws.queue import Message, Queue, QueueError
from forecast_platform.defs import partitions
from forecast_platform.defs.jobs import history_assets, ingest_history, weekly_forecast
from forecast_platform.defs.partitions import PINNED
from forecast_platform.defs.resources import Platform
from forecast_platform.history.cleaning import newest_complete_week
from forecast_platform.landing.ledger import Ledger
from forecast_platform.landing.peek import peek
from forecast_platform.landing.place import Landing, LandingObject
from forecast_platform.landing.trigger import (
    TRIES,
    Memory,
    Request,
    ingest_first,
    keys_to_look_at,
    next_request,
    notice,
    uncleaned,
)
from forecast_platform.settings import Settings, get_settings
from forecast_platform.weeks import key

# Where the files lie before anything is done with them. The Lambda reports each file here (clouds/aws).
landing = dg.AssetSpec(
    "landing",
    group_name="landing",
    kinds={"file"},
    owners=["team:forecasting"],
    description="The folder or bucket where files land. Other people's programs write it.",
)

# Every run that this sensor starts carries the tag; one of them at a time.
LANDING_TAG = {"forecast/started_by": "landing"}
_UNFINISHED = [
    s
    for s in dg.DagsterRunStatus
    if s not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]
RUN_KEY = "dagster/run_key"
_MOST_OBSERVATIONS = 100  # of one tick


def seconds_between_ticks(landing_url: str) -> int:
    """In S3 each tick is a handful of requests, and a file that lands once a week can wait half a minute."""
    return 30 if split_s3(landing_url)[0] else 5


@dg.sensor(
    jobs=[weekly_forecast, ingest_history],
    minimum_interval_seconds=seconds_between_ticks(get_settings().landing_url),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=__doc__,
)
def landing_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    settings, lake, place = platform.settings, platform.lake, platform.landing
    now = dt.datetime.now(dt.UTC)
    memory = Memory.load(context.cursor, now)
    ledger = Ledger.of(lake)
    objects, troubles = _look(context.instance, settings, place, memory, ledger, now)
    busy = context.instance.get_runs_count(dg.RunsFilter(tags=LANDING_TAG, statuses=_UNFINISHED))
    if memory.asked and not busy:
        _take_in_the_end(context, memory, now)
    _take_in_mending(context.instance, memory)
    newest_week = settings.calendar.last_started(now)
    new = [o for o in objects if ledger.is_news(o, settings.reading, newest_week)]

    def weeks_in(obj: LandingObject) -> list[dt.date] | None:
        return peek(place, obj, settings.contract, settings.calendar, settings.history_weeks)

    notice(memory, new, weeks_in, settings.calendar, now)
    # An unknown partition would end the whole tick, again and again.
    ingest_first(memory, partitions.FIRST)
    if not busy and not memory.asked and not _people_are_at_it(context.instance, now):
        to_clean = [w for w in ledger.to_clean(settings.calendar) if w <= newest_week]
        uncleaned(memory, [w for w in to_clean if w >= partitions.FIRST])
        troubles += _begin_anew(context, ledger, [w for w in to_clean if w < partitions.FIRST])
    troubles += [f"{name} waits: {why}" for name, why in sorted(memory.parked.items())]
    troubles += [
        f"GIVEN UP after {TRIES} failed runs: {label}: {why}; mend the cause and run it: forecast run"
        for label, (why, _) in sorted(memory.given_up.items())
    ]
    request = None
    if not busy:
        request = next_request(
            memory, settings.history_weeks, ledger.newest_week, lambda: _newest_complete(platform), newest_week
        )
    if memory.given_up:
        context.log.error("; ".join(troubles))
    if request:
        if troubles:
            context.log.info("; ".join(troubles))
        return dg.SensorResult(run_requests=[_run_request(request, history_assets(lake))], cursor=memory.dump())
    waiting = ", ".join(sorted(memory.pending)[:5]) or "nothing"
    reason = f"a run is going; waiting for it: {waiting}" if busy else "nothing new landed"
    return dg.SensorResult(skip_reason="; ".join([reason, *troubles]), cursor=memory.dump())


_begun_anew = threading.Event()


def _begin_anew(context: dg.SensorEvaluationContext, ledger: Ledger, waiting: Sequence[dt.date]) -> list[str]:
    """Have the definitions loaded again where the lake's first week is not that of the partitions. Asked once, because
    the new process takes over. Returns what to say of the weeks that wait for it.

    A code server in front of this one can do that (`dagster dev`, `dagster code-server start`). Where there is none,
    somebody has to.
    """
    first = partitions.first_landed(ledger)
    create_client = getattr(context.code_location_origin, "create_client", None)
    if partitions.SHOWN and first != partitions.FIRST and create_client and not _begun_anew.is_set():
        _begun_anew.set()
        context.log.info(
            f"partitions begin with {partitions.FIRST}, should with {first}: loading the definitions again"
        )
        # Not waited for, because the server waits for this tick before it ends.
        threading.Thread(target=create_client().reload_code, kwargs={"timeout": 180}, daemon=True).start()
    if not waiting:
        return []
    return [
        f"weeks from {waiting[0]} to {waiting[-1]} wait, partitions begin with {partitions.FIRST}: if this stays, "
        "reload the code location (Deployment, Code locations), or start Dagster again"
    ]


def _newest_complete(platform: Platform) -> dt.date | None:
    with platform.lake.connection("cleaned_series") as con:
        return newest_complete_week(con, platform.settings.complete_share)


def _take_in_the_end(context: dg.SensorEvaluationContext, memory: Memory, now: dt.datetime) -> None:
    """Tell the memory what became of the run it asked for, once it has ended."""
    runs = context.instance.get_runs(dg.RunsFilter(tags={RUN_KEY: memory.asked["run_key"]}), limit=1)
    if not runs:  # Dagster makes the run before the next tick, so its storage was emptied
        memory.asked = {}
        return
    (run,) = runs
    stopped = run.status is dg.DagsterRunStatus.FAILURE and _stopped_by_a_check(context.instance, run.run_id)
    if run.status is dg.DagsterRunStatus.SUCCESS or stopped:
        memory.ended(True, now)
        return
    what = f"run {run.run_id} ended in {run.status.value}"
    context.log.warning(f"{what}; it was for {', '.join(memory.asked['weeks']) or 'files'}")
    memory.ended(False, now, what)


def _stopped_by_a_check(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a blocking check ended the run, such as that of a week not complete yet: trying again finds the same."""
    found = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [record.event_log_entry.dagster_event for record in found]
    checks = [event.asset_check_evaluation_data for event in events if event]
    return any(
        check.blocking and not check.passed and check.severity is dg.AssetCheckSeverity.ERROR for check in checks
    )


def _take_in_mending(instance: dg.DagsterInstance, memory: Memory) -> None:
    """Forget what was given up where a run that a person started for it has succeeded since."""
    for label, (_, since) in list(memory.given_up.items()):
        succeeded = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.SUCCESS], created_after=dt.datetime.fromisoformat(since)
        )
        for run in instance.get_runs(succeeded, limit=50):
            first = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start", "")
            last = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_end", "")
            if label == "files" or first <= label <= last:
                memory.mended(label)
                break


def _people_are_at_it(instance: dg.DagsterInstance, now: dt.datetime) -> bool:
    """Whether a run not started here is going, which may be about to clean the weeks that wait."""
    lately = dg.RunsFilter(statuses=_UNFINISHED, updated_after=now - dt.timedelta(minutes=10))
    return instance.get_runs_count(lately) > 0


def _look(
    instance: dg.DagsterInstance, settings: Settings, place: Landing, memory: Memory, ledger: Ledger, now: dt.datetime
) -> tuple[Sequence[LandingObject], list[str]]:
    """What lies in the landing place, as far as there may be news; and troubles with the queue or the Lambda."""
    queue_url = settings.queue_url
    remembered, queue, troubles = memory.waiting, Queue(queue_url), []
    messages: list[Message] = []
    hears = bool(queue_url)
    try:
        messages = queue.receive() if queue_url else []
    except QueueError as error:
        hears = False
        troubles.append(f"{error}; listed instead")
    urls = {event.url for message in messages for event in message.events} | _observed(instance, memory)
    keys = None
    if hears or memory.observed:
        keys = keys_to_look_at(memory, _keys_below(place, urls), now)
        memory.listed = now.isoformat() if keys is None else memory.listed
    objects = place.look(keys) if keys is not None else place.list(known=ledger.objects)
    # The cursor stored last time, or the lake, holds the effect of every message but those that name something else.
    newest_week = settings.calendar.last_started(now)
    fresh = {o.key for o in objects if ledger.is_news(o, settings.reading, newest_week)} - remembered
    told = {m.message_id: _keys_below(place, (e.url for e in m.events)) for m in messages}
    try:
        queue.delete([m for m in messages if not m.trouble and not told[m.message_id] & fresh])
    except QueueError as error:
        troubles.append(str(error))
    troubles += [
        f"message {m.message_id} is left for the dead-letter queue: {m.trouble}" for m in messages if m.trouble
    ]
    return objects, troubles


def _observed(instance: dg.DagsterInstance, memory: Memory) -> set[str]:
    """Addresses of the files that the Lambda reported since the last look, which are then taken in."""
    since = dg.AssetRecordsFilter(asset_key=landing.key, after_storage_id=memory.observed)
    urls = set()
    for record in instance.fetch_observations(since, limit=_MOST_OBSERVATIONS, ascending=True).records:
        memory.observed = record.storage_id
        metadata = record.asset_observation.metadata if record.asset_observation else {}
        urls.add(str(metadata["url"].value) if "url" in metadata else "")
        memory.model = str(metadata["model"].value) if "model" in metadata else ""
    return urls


def _keys_below(place: Landing, urls: Iterable[str]) -> set[str]:
    return {url.removeprefix(f"{place.url}/") for url in urls if url.startswith(f"{place.url}/")}


def _run_request(request: Request, history: list[str]) -> dg.RunRequest:
    tags = LANDING_TAG | ({PINNED: request.model} if request.model else {})
    if request.kind == "history":
        first, last = (key(w) for w in (request.first, request.last))
        return dg.RunRequest(
            run_key=request.run_key,
            job_name=ingest_history.name,
            asset_selection=[dg.AssetKey(name) for name in history],
            tags={**tags, "dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )
    # The trigger parks weeks that have no partition, so this cannot be.
    assert partitions.weekly.has_partition_key(key(request.last)), f"{request.last} is no week of this calendar"
    job, only = (ingest_history, [dg.AssetKey("raw_sales")]) if request.kind == "files" else (weekly_forecast, None)
    return dg.RunRequest(
        run_key=request.run_key, job_name=job.name, partition_key=key(request.last), asset_selection=only, tags=tags
    )
