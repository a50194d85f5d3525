"""From landed files in S3 to forecasts in S3, in two steps with a batch transform between them.

    begin      all landed files -> clean series -> one request -> a named job, for which nobody waits
    publish    the job's answer -> dates, ids, quantiles, totals -> exports/forecasts/WEEK.csv and .parquet

A step starts from what lies in S3 alone, and what it writes there is named by its content. So each may be repeated, or
die at any point: the same files are the same job, which is paid for once, and the same answer is the same export.

    quarantine/FILE/VERSION.csv           lines of a landed file, or all of it, that were refused, each with the reason
    transforms/WEEK/DIGEST/input, output  what the job reads and writes, see engines/sagemaker/engine.py
    transforms/WEEK/DIGEST/beside         tables for the second step: names, and series without a forecast
    transforms/WEEK/DIGEST/job.json       the job as it was asked for
    transforms/WEEK/begun/WHEN-DIGEST     it was begun, and how new the files were; only the newest is published
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import io
import json
import operator
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from forecast_platform.clouds.aws.clients import client
from forecast_platform.clouds.aws.storage import NotStored
from forecast_platform.clouds.base import open_landing
from forecast_platform.engines.base import Asked
from forecast_platform.engines.predictions import BatchError, Predictions
from forecast_platform.engines.sagemaker import requests
from forecast_platform.engines.sagemaker.container.shards import opened_request, received, write_requests
from forecast_platform.engines.sagemaker.container.training import ContainerEngine
from forecast_platform.engines.sagemaker.decision import Cause, cause_of
from forecast_platform.engines.sagemaker.jobs import JobError
from forecast_platform.engines.sagemaker.specs import TRANSFORM, Spec, state_of
from forecast_platform.history.cleaning import CELLS_PER_GB, clean_weeks, newest_complete_week
from forecast_platform.history.panel import Panel
from forecast_platform.history.panel_file import load_panel, save_panel
from forecast_platform.history.reading import sources
from forecast_platform.lake.lake import Lake, any_of, run_columns, with_columns
from forecast_platform.landing.ingest import ingest_landed
from forecast_platform.landing.ledger import Ledger
from forecast_platform.landing.place import Landing
from forecast_platform.levels import SUMS, attribute_levels
from forecast_platform.models.candidate import Progress
from forecast_platform.models.trained import TrainedModel, training_panel, training_week
from forecast_platform.panels import KNOWN, known_panel
from forecast_platform.publishing.exports import READ, write_exports
from forecast_platform.publishing.forecasts import forecast_rows
from forecast_platform.publishing.series import forecastable
from forecast_platform.settings import Settings
from forecast_platform.weeks import key

_SHARD = "shard-000.zip"
_NAMES = ("stores", "departments")
_SOURCE = ("source_key", "source_version")
_REFUSED = ("line", "rule", "field", "value", "message", "record")


class NothingToForecast(ValueError):
    """What has landed makes no forecast; the message says why."""


@dataclasses.dataclass(frozen=True)
class _Landed:
    """What has landed, in a lake of this step's own; its newest complete week; the order of its files, see `_order`."""

    lake: Lake
    week: dt.date
    order: str


def begin(engine: ContainerEngine, model_name: str, folder: Path, now: dt.datetime) -> dict[str, Any]:
    """Have the newest complete week forecast, see the module.

    Args:
        model_name: of SageMaker's model, which `train` or a run of Dagster made.
        folder: empty, for what is made on the way.

    Returns:
        The week, the job and, where it had ended already, what `publish` says; for the log.

    Raises:
        NothingToForecast, LandingError, JobError, SpendRefused: the message says what to do.
    """
    storage, settings = engine.storage, engine.settings
    landed = landed_of(engine, folder, now)
    week = landed.week
    model = _model(engine, model_name, folder)
    if model.trained_as_of > week:
        raise JobError(f"{model_name} was trained on weeks up to {model.trained_as_of}, which {week} did not know")
    panel, without = series_of(settings, landed, folder)
    if not len(panel):
        raise NothingToForecast(f"every series up to {week} is closed")
    if _order(open_landing(settings.landing)) != landed.order:
        # Of a hundred files at once the last is forecast, and not a hundred times as many as there are by then.
        return {"week": str(week), "why": "files have landed meanwhile; their own events have the week forecast"}
    shard = save_panel(panel, folder / "panel").parent
    asked = Asked(settings.quantiles, settings.num_samples, settings.seed)
    digest, largest = write_requests(model, [(0, shard)], None, asked, folder / "input")
    twin = f"transforms/{key(week)}/{digest}"
    beside = {name: landed.lake.read(name) for name in _NAMES} | {"no_forecast": without}
    for name, table in beside.items():
        storage.put_bytes(f"{twin}/beside/{name}.parquet", _parquet(table))
    spec = engine.sent(
        twin,
        [folder / "input" / _SHARD],
        lambda source, output: requests.transform(settings, model_name, source, output, largest),
        week,
        engine.tags(week=str(week), digest=model.digest, version=model.version),
    )
    asked_for = dataclasses.asdict(spec) | {"kind": TRANSFORM.word}
    storage.put_bytes(f"{twin}/job.json", json.dumps(asked_for, default=str, sort_keys=True).encode())
    job = engine.jobs.begin(spec)
    # After the job: where one is refused, the one before is still published.
    storage.put_bytes(f"transforms/{key(week)}/begun/{landed.order}-{digest}", b"")
    return {"week": str(week), "job": job} | publish(engine, job, folder / "publish")


def publish(engine: ContainerEngine, job: str, folder: Path) -> dict[str, Any]:
    """Publish what a job has answered, see the module.

    A failure that may pass (no capacity, an error of AWS) gets another attempt, as often as in decision.py of
    engines/sagemaker; an answer that is gone, or was damaged and removed, one.

    Args:
        folder: for what is made on the way.

    Returns:
        What was published, or why nothing was; for the log.

    Raises:
        JobError: it failed; BatchError: its answer is damaged. The message says what to do.
    """
    storage = engine.storage
    described = engine.jobs.ended(TRANSFORM, job)
    if described is None:
        return {"published": [], "why": f"{job} is still running"}
    output = storage.key(described["TransformOutput"]["S3OutputPath"])
    twin, week = output.rpartition("/")[0], dt.date.fromisoformat(output.split("/")[1])
    try:
        spec, attempt = _spec(engine, twin), int(job.rpartition("-a")[2])
    except NotStored:
        return {"published": [], "why": f"{job} was not begun here"}
    if engine.jobs.exists(spec.kind, spec.name(attempt + 1)):
        return {"published": [], "why": f"{job} is followed by {spec.name(attempt + 1)}"}
    state = state_of(TRANSFORM, described)
    cause = cause_of(state, storage.exists(spec.artefacts[0]))
    if cause is not None:
        if attempt <= (1 if cause is Cause.ARTEFACTS else cause.retries):
            again = engine.jobs.begin(spec)
            return {"published": [], "why": f"{job}: {state.status} {state.reason}; {again} tries again"}
        raise JobError(f"{job}: {state.status} {state.reason}; {cause.advice}")
    begun = [item.key.rpartition("-")[2] for item in storage.list(f"transforms/{key(week)}/begun")]
    digest = twin.rpartition("/")[2]
    if digest not in begun:
        raise JobError(f"{job} has ended before it was noted that it began; try again")
    if begun[-1] != digest:
        return {"published": [], "why": f"{job} is of files that newer ones followed"}

    made, model = _answer(engine, described["ModelName"], twin, folder)
    lake = _published(engine, made, model, week, twin, job, folder)
    written = []
    with lake.connection(*READ) as con:
        for name, path, rows in write_exports(con, week, folder / "exports"):
            storage.put_file(path, name)
            written.append({"file": storage.uri(name), "rows": rows})
    storage.put_bytes(f"exports/no_forecast/{week}.csv", _csv(_kept(engine, twin, "no_forecast")))
    return {"published": written, "series": made.series, "model": model.version}


def train(engine: ContainerEngine, folder: Path, now: dt.datetime, progress: Progress | None = None) -> str:
    """The model for the newest complete week, found or trained by a job that is waited for; the name of SageMaker's
    model of it.

    Raises:
        NothingToForecast, TooLittleHistory, ValueError, JobError, SpendRefused: see Engine.train.
    """
    settings, landed = engine.settings, landed_of(engine, folder, now)
    candidates = engine.candidates(settings)
    with landed.lake.connection(*KNOWN) as con:
        panel, _ = known_panel(con, landed.week, "now", settings)
    trained_as_of = training_week(landed.week, settings.calendar, settings.retrain_every_weeks)
    panel = training_panel(panel, trained_as_of, candidates)
    model = engine.train(panel, candidates, progress, settings.num_samples)
    tags = engine.tags(week=str(landed.week), digest=model.digest, version=model.version)
    return engine.served(model, tags, folder)


def start_crawler(name: str) -> None:
    """Have a Glue crawler look at the exports; one that runs already is enough."""
    glue = client("glue")
    try:
        glue.start_crawler(Name=name)
    except glue.exceptions.CrawlerRunningException:
        print(f"crawler {name} runs already")


# --- the steps of begin


def landed_of(engine: ContainerEngine, folder: Path, now: dt.datetime) -> _Landed:
    """Read and clean all that has landed, and put what was refused into quarantine.

    Raises:
        NothingToForecast: there is no complete week.
    """
    settings = engine.settings
    lake = Lake.local(folder / "lake", settings.quantile_columns, settings.memory_gb / 2)
    landing = open_landing(settings.landing)
    order = _order(landing)
    ingest_landed(lake, landing, settings.contract, settings.calendar, now, print, settings.limits)
    ledger, week = Ledger.of(lake), None
    refused = _quarantine(engine, lake)
    if ledger.first_week and ledger.newest_week:
        weeks = settings.calendar.between(ledger.first_week, ledger.newest_week)
        cells = int(settings.memory_gb * CELLS_PER_GB)
        with lake.connection("raw_sales", "landings") as con:
            rows = clean_weeks(con, weeks[0], weeks[-1], settings.active_weeks, settings.no_row, cells)
            lake.replace_weeks("cleaned_series", weeks, rows)
        with lake.connection("cleaned_series") as con:
            week = newest_complete_week(con, settings.complete_share)
    if week is None:
        where = f"; see {', '.join(refused)}" if refused else ""
        raise NothingToForecast(f"{landing.url} holds no complete week of sales{where}")
    return _Landed(lake, week, order)


def series_of(settings: Settings, landed: _Landed, folder: Path) -> tuple[Panel, pa.Table]:
    """The series to forecast and rows of the others with the reason, as publishing.series lists them; what it tells of
    events beside takes packages that are too large for a Lambda."""
    with landed.lake.connection(*KNOWN) as con:
        (source,) = sources(con, landed.week, "now", settings.meaning, folder / "rows", sys.maxsize)
        levels = attribute_levels(con, settings.levels)
    panel = dataclasses.replace(source.panel(), levels=levels)
    return forecastable(panel, settings.active_weeks, settings.prediction_length)


def _order(landing: Landing) -> str:
    """Text that differs wherever other files lie there, and is greater the newer the newest of them is."""
    objects = [found for found in landing.list() if found.kind]
    newest = max((found.modified_at.timestamp() for found in objects), default=0)
    content = hashlib.sha256(repr(sorted((found.key, found.version) for found in objects)).encode()).hexdigest()
    return f"{newest:012.0f}-{len(objects):06d}-{content[:12]}"


def _quarantine(engine: ContainerEngine, lake: Lake) -> list[str]:
    """Keep what was refused, a file for each landed version of a file; returns where."""
    refused, found = lake.read("quarantine"), []
    for source in sorted(set(zip(*(refused[name].to_pylist() for name in _SOURCE), strict=True))):
        mine = (pc.field(name) == value for name, value in zip(_SOURCE, source, strict=True))
        name = f"quarantine/{'/'.join(source)}.csv"
        engine.storage.put_bytes(name, _csv(refused.filter(functools.reduce(operator.and_, mine)).select(_REFUSED)))
        found.append(engine.storage.uri(name))
    return found


def _model(engine: ContainerEngine, name: str, folder: Path) -> TrainedModel:
    """What the platform keeps of SageMaker's model `name`."""
    artifact = engine.storage.key(engine.jobs.model(name)["PrimaryContainer"]["ModelDataUrl"])
    place = folder / "model"
    engine.storage.get_file(f"{artifact.rpartition('/')[0]}/training.json", place / "training.json")
    return TrainedModel.load(place)


# --- the steps of publish


def _spec(engine: ContainerEngine, twin: str) -> Spec:
    """The job as `begin` asked for it."""
    said = json.loads(engine.storage.get_bytes(f"{twin}/job.json"))
    return Spec(
        **said | {"kind": TRANSFORM, "week": dt.date.fromisoformat(said["week"]), "artefacts": tuple(said["artefacts"])}
    )


def _answer(engine: ContainerEngine, model_name: str, twin: str, folder: Path) -> tuple[Predictions, TrainedModel]:
    """The verified answer of a job, and the model that made it.

    Raises:
        BatchError: it is damaged. It is removed, so that it is not found again.
    """
    storage = engine.storage
    asked = folder / "asked"
    asked.mkdir(parents=True)
    said = opened_request(storage.get_bytes(f"{twin}/input/{_SHARD}"), asked)
    panel = load_panel(asked)
    storage.get_file(f"{twin}/output/{_SHARD}.out", folder / "answer")
    building = folder / "building"
    building.mkdir()
    try:
        written = received(folder / "answer", building, 0, len(panel))
    except BatchError:
        storage.delete(f"{twin}/output")
        raise
    model = _model(engine, model_name, folder)
    made = Predictions.finish(
        building,
        folder / "predictions",
        [written],
        said["quantiles"],
        model.horizon,
        model.version,
        said["as_known"],
        panel.levels,
    )
    return made, model


def _published(
    engine: ContainerEngine, made: Predictions, model: TrainedModel, week: dt.date, twin: str, job: str, folder: Path
) -> Lake:
    """A lake of this step's own with the rows of a forecast, as defs/forecast_table.py makes them."""
    quantiles = tuple(made.said["quantiles"])
    columns = tuple(f"p{round(100 * q)}" for q in quantiles)
    lake, run = Lake.local(folder / "lake", columns, engine.settings.memory_gb / 2), run_columns(job)
    levels = (*SUMS, *load_panel(folder / "asked").levels)
    widths = {level.name: model.calibration.factor(level) for level in levels}
    series = made.forecasts(quantiles, model.horizon)
    more = {"model_version": model.version, "as_known": made.said["as_known"], **run}
    rows = forecast_rows(made.sums(), series, week, quantiles, columns, widths, levels)
    lake.replace_weeks("forecasts", [week], (with_columns(part, **more) for part in rows))
    for name in _NAMES:
        rows_of = _kept(engine, twin, name)
        if len(rows_of):
            lake.replace(name, any_of("name", rows_of["name"].unique().to_pylist()), rows_of)
    return lake


def _kept(engine: ContainerEngine, twin: str, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(engine.storage.get_bytes(f"{twin}/beside/{name}.parquet")))


def _csv(table: pa.Table) -> bytes:
    data = io.BytesIO()
    csv.write_csv(table, data)
    return data.getvalue()


def _parquet(table: pa.Table) -> bytes:
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    return data.getvalue()
