"""DeepAR on SageMaker behind the platform's Engine: training jobs, batch transforms, models and batches kept in S3.

What the storage holds (all content-addressed, so the same work is found again, by any machine):

    models/<digest>/training.json, model.tar.gz ..   a model, its networks; training.json, written last, makes it one
    models/<digest>/input/, jobs/, checkpoints/      what its training read and wrote
    models/<digest>/platform.tar.gz                  all of it, as our image forecasts with
    transforms/<week>/<digest>/input/, output/       what a transform job read and wrote
    transforms/<week>/predictions/<digest>/          what was made of it, see engines/predictions.py
    transforms/<week>/batch.json                     which of these is the week's: written last
    spend/<month>/<job>.json                         see cost.py

`sagemaker-container` trains the whole platform's way, choice included, in one job of our image: its models are those of
LocalEngine, byte for byte (container/training.py). `sagemaker-builtin` trains Amazon's image (builtin.py). Both
extend SageMakerEngine.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import json
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock

from forecast_platform.clouds.aws.storage import NotStored, Storage
from forecast_platform.engines import base
from forecast_platform.engines.base import Asked, Submit
from forecast_platform.engines.predictions import NAME as PREDICTIONS
from forecast_platform.engines.predictions import BatchError, Predictions
from forecast_platform.engines.sagemaker import requests
from forecast_platform.engines.sagemaker.cost import Spending
from forecast_platform.engines.sagemaker.jobs import Jobs
from forecast_platform.engines.sagemaker.specs import TRAIN, TRANSFORM, Spec
from forecast_platform.engines.workers import series_at_once
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import Run
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.trained import ModelLost, TrainedModel, check_history, code_version, training_key
from forecast_platform.settings import Settings


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class SageMakerEngine(ABC):
    """See forecast_platform.engines.base.Engine. Nothing is opened before it is used.

    Args:
        settings: of profile aws.
        sleep, now: how to wait and what time it is; tests wait less.

    Attributes:
        resumes, isolated: whether its image takes checkpoints, and a job without network.
    """

    resumes = isolated = True
    submit: Submit

    def __init__(
        self, settings: Settings, sleep: Callable[[float], None] = time.sleep, now: Callable[[], dt.datetime] = _utc_now
    ) -> None:
        self.settings, self.models, self.run_id = settings, settings.models, ""
        self.run: Run = map
        self._sleep, self._now = sleep, now

    @functools.cached_property
    def storage(self) -> Storage:
        return Storage(self.settings.storage_url)

    @functools.cached_property
    def jobs(self) -> Jobs:
        s = self.settings
        ledger = Spending(self.storage, s.prices, s.max_job_usd, s.max_month_usd, self._now)
        return Jobs(self.storage, ledger, self._sleep, self._now)

    @property
    @abstractmethod
    def image(self) -> str:
        """The image of its jobs."""

    @abstractmethod
    def candidates(self, settings: Settings) -> Plans:
        """See Engine.candidates."""

    @abstractmethod
    def train_by_jobs(
        self, building: Path, key: str, panel: Panel, candidates: Plans, num_samples: int, progress: Progress | None
    ) -> None:
        """Train by jobs, and write the networks' artifacts and training.json to `building`."""

    # --- models

    def key(self, panel: Panel, candidates: Plans, num_samples: int) -> str:
        """What identifies a training."""
        return training_key(panel, candidates, num_samples)

    def train(
        self, panel: Panel, candidates: Plans, progress: Progress | None = None, num_samples: int = 100
    ) -> TrainedModel:
        """See Engine.train.

        Raises:
            JobError, SpendRefused: see Jobs.ensure.
        """
        key = self.key(panel, candidates, num_samples)
        try:
            return self.model(key)
        except ModelLost:
            check_history(panel, candidates)
        self.models.mkdir(parents=True, exist_ok=True)
        # One run of this machine waits for the job, the others for that run; other machines find the job by its name.
        with FileLock(self.models / f".{key}.lock"):
            try:
                return self.model(key)
            except ModelLost:
                building = self.models / f"{key}.building"
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir()
                self.train_by_jobs(building, key, panel, candidates, num_samples, progress)
                self._commit(key, building)
        return TrainedModel.load(self.models / key)

    def model(self, key: str) -> TrainedModel:
        """See Engine.model."""
        folder = self.models / key
        if not (folder / "training.json").exists():
            self.models.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{key}.", dir=self.models) as name:
                arriving = Path(name) / key
                try:
                    self.storage.get_file(f"models/{key}/training.json", arriving / "training.json")
                    for file in TrainedModel.load(arriving).files:
                        self.storage.get_file(f"models/{key}/{file}", arriving / file)
                except NotStored as error:
                    raise ModelLost(
                        f"{self.storage.uri(f'models/{key}')} holds no model; materialize deepar_model for its week "
                        "again"
                    ) from error
                with contextlib.suppress(OSError):  # another run brought it meanwhile
                    arriving.rename(folder)
        return TrainedModel.load(folder)

    def _commit(self, key: str, building: Path) -> None:
        for file in TrainedModel.load(building).files:
            self.storage.put_file(building / file, f"models/{key}/{file}")
        self.storage.put_file(building / "training.json", f"models/{key}/training.json")  # which makes it a model
        building.rename(self.models / key)
        self.storage.delete(f"models/{key}/checkpoints")

    # --- batches

    def shard_size(self, settings: Settings, weeks: int, columns: int) -> tuple[int, int]:
        """See Engine.shard_size."""
        return series_at_once(settings.memory_gb, settings.workers, weeks, columns), settings.transform_shards

    def predict(
        self,
        model: TrainedModel,
        shards: Sequence[base.Shard],
        folder: Path,
        asked: Asked,
        progress: Progress | None = None,
        beside: Mapping[str, pa.Table] = base.NOTHING,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """See Engine.predict. What needs no network is forecast here: a job would cost more than the work.

        Raises:
            RecordError: an input line breaks DeepAR's contract; nothing was sent.
            BatchError: an output does not fit its input; it is removed, so that another run makes a new attempt.
            JobError, SpendRefused: see Jobs.ensure.
        """
        root = f"transforms/{folder.name}"
        if not model.networks or not shards:
            made, notices = base.predict_here(model, shards, folder, asked, progress, beside, self.run)
        else:
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=_made(folder.parent)) as name:
                made, notices = self.predict_by_jobs(model, shards, folder, asked, beside, Path(name))
        digest = hashlib.sha256((folder / PREDICTIONS).read_bytes()).hexdigest()[:20]
        self.storage.upload_folder(folder, f"{root}/predictions/{digest}")
        pointer = json.dumps({"key": f"{root}/predictions/{digest}"}).encode()
        self.storage.put_bytes(f"{root}/batch.json", pointer)
        (folder / "batch.json").write_bytes(pointer)
        if progress:
            progress("predict", made.series, made.series)
        return made, notices

    @abstractmethod
    def predict_by_jobs(
        self,
        model: TrainedModel,
        shards: Sequence[base.Shard],
        folder: Path,
        asked: Asked,
        beside: Mapping[str, pa.Table],
        work: Path,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """`predict` by transform jobs.

        Args:
            work: a folder for what is sent and received.
        """

    def predictions(self, folder: Path) -> Predictions:
        """See Engine.predictions. Those here are taken only if they are the week's in storage, too."""
        try:
            pointer = self.storage.get_bytes(f"transforms/{folder.name}/batch.json")
        except NotStored as error:
            raise BatchError(
                f"{self.storage.uri(f'transforms/{folder.name}')} holds no predictions; run batch_predictions for "
                "its week again"
            ) from error
        here = folder / "batch.json"
        if not here.exists() or here.read_bytes() != pointer:
            self.storage.download_folder(json.loads(pointer)["key"], folder)
            here.write_bytes(pointer)
        return Predictions.at(folder)

    def receipt(self) -> dict[str, Any]:
        """See Engine.receipt."""
        charges, self.jobs.charges = self.jobs.charges, []
        if not charges:
            return {}
        return {
            "sagemaker_jobs": [c.job + (" (reused)" if c.reused else "") for c in charges],
            "instances": sorted({f"{c.instances} x {c.instance}" for c in charges}),
            "billable_seconds": sum(c.seconds * c.instances for c in charges if not c.reused),
            "cost_usd": round(sum(c.usd for c in charges), 4),
            "consoles": {c.job: c.url for c in charges},
        }

    # --- the jobs

    def tags(self, **more: str) -> dict[str, str]:
        run = {"forecast:run": self.run_id} if self.run_id else {}
        named = {f"forecast:{name}": value for name, value in more.items()}
        return {"forecast:code": code_version(), "forecast:engine": self.settings.engine_name, **run, **named}

    def run_training(
        self,
        key: str,
        week: dt.date,
        hyperparameters: dict[str, str],
        channel: str,
        folder: Path,
        root: str,
        outputs: Sequence[str],
        progress: Progress | None,
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Upload `folder` as a training job's channel and run the job; returns the storage keys of its `outputs` and
        what SageMaker says of it."""
        self.storage.upload_folder(folder, f"{root}/input/{channel}")
        checkpoints = self.storage.uri(f"models/{key}/checkpoints") if self.resumes else ""
        spec = Spec(
            TRAIN,
            week,
            requests.training(
                self.settings,
                self.image,
                hyperparameters,
                channel,
                self.storage.uri(f"{root}/input/{channel}/"),
                self.storage.uri(f"{root}/jobs"),
                checkpoints,
            ),
            tuple(f"{root}/jobs/{{job}}/output/{name}" for name in outputs),
            requests.run_seconds(self.settings, bool(checkpoints)),
            self.tags(week=str(week), digest=key),
            self.settings.job_prefix,
        )
        done = self.jobs.ensure(spec, progress and (lambda percent: progress("train", percent, 100)))
        return done.artefacts, dict(done.described)

    def sent(
        self,
        twin: str,
        inputs: Sequence[Path],
        transform: Callable[[str, str], Mapping[str, Any]],
        week: dt.date,
        tags: Mapping[str, str],
    ) -> Spec:
        """Upload the inputs of a transform; returns the job that answers them.

        Args:
            twin: storage key of the folder of the transform's inputs and outputs; equal work has an equal one.
            transform: the request, by the addresses of its inputs and outputs. week: names the job.
        """
        for path in inputs:
            self.storage.put_file(path, f"{twin}/input/{path.name}")
        return Spec(
            TRANSFORM,
            week,
            transform(self.storage.uri(f"{twin}/input/"), self.storage.uri(f"{twin}/output")),
            tuple(f"{twin}/output/{path.name}.out" for path in inputs),
            60 * self.settings.max_job_minutes,
            tags,
            self.settings.job_prefix,
        )

    def answered(self, spec: Spec, folder: Path) -> list[Path]:
        """Run a transform that was `sent`; returns its outputs, brought to a folder."""
        artefacts = self.jobs.ensure(spec).artefacts
        outputs = [folder / artefact.rpartition("/")[2] for artefact in artefacts]
        for artefact, output in zip(artefacts, outputs, strict=True):
            self.storage.get_file(artefact, output)
        return outputs

    def model_of(self, week: dt.date, artifact: str, tags: Mapping[str, str]) -> str:
        """The name of SageMaker's model of an artifact in storage."""
        request = requests.model(self.settings, self.image, self.storage.uri(artifact), isolated=self.isolated)
        return self.jobs.ensure_model(week, request, tags, self.settings.job_prefix)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
