"""Spark on EMR Serverless: the shards of a prediction as one job of an application, their files in S3.

The job does nothing but finish shards. It leaves the files that LocalEngine keeps of a finished shard. They are brought
here, where a prediction then finds every shard finished. A job that failed starts again from the beginning: to go on
with some of the shards it would need the sums of all.

    transforms/<week>/spark/<key>/ask.json       what the job is asked; <key> is of all that decides the forecasts
    .../job.py                                   what Spark starts
    .../models/<digest>/ .. , shards/00000/ ..   what it reads
    .../finished/                                series and sums of each shard, and its entry for predictions.json
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from forecast_platform.clouds.aws.clients import session
from forecast_platform.clouds.aws.storage import Storage
from forecast_platform.engines.base import (
    NOTHING,
    Asked,
    EngineError,
    Shard,
    Work,
    building_of,
    predict_here,
    prediction_key,
)
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import Predictions, written_shard
from forecast_platform.history.panel_file import NAME as PANEL
from forecast_platform.history.shards import Retailer, Run, over_shards
from forecast_platform.models.candidate import Progress
from forecast_platform.models.trained import TrainedModel
from forecast_platform.settings import Settings

_PYTHON = "./environment/bin/python"
_JOB = "from forecast_platform.spark_job import main\n\nmain()\n"


class EmrServerlessEngine(LocalEngine):
    """Several shards that are files are forecast by a job of EMR Serverless; all else runs here. See Engine.

    Args:
        settings: of profile aws, with an application.
    """

    def __init__(self, settings: Settings, workers: int = 1) -> None:
        super().__init__(settings.models, workers)
        self._settings = settings

    def predict(
        self,
        model: TrainedModel,
        shards: Sequence[Shard],
        folder: Path,
        asked: Asked,
        progress: Progress | None = None,
        beside: Mapping[str, pa.Table] = NOTHING,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """See Engine.predict. A single shard is forecast here: a job takes minutes to start.

        Raises:
            EngineError: the job failed, or left a shard out.
            StorageError: S3 can't be read or written.
        """
        places = [shard for shard in shards if isinstance(shard, Path)]
        if len(places) == len(shards) > 1:
            key = prediction_key(model, shards, asked)
            storage, building = Storage(self._settings.storage_url), building_of(folder, key)
            root = f"transforms/{folder.name}/spark/{key}"
            for file in (*model.files, "training.json"):
                storage.put_file(model.folder / file, f"{root}/models/{model.digest}/{file}")
            for number, place in enumerate(places):
                storage.put_file(place / PANEL, f"{root}/shards/{number:05d}/{PANEL}")
            ask = {"model": model.digest, "shards": len(shards), "asked": dataclasses.asdict(asked)}
            storage.put_bytes(f"{root}/ask.json", json.dumps(ask).encode())
            storage.put_bytes(f"{root}/job.py", _JOB.encode())
            self.submit(request(self._settings, storage.uri(root), folder.name, session().region_name))
            storage.download_folder(f"{root}/finished", building)
            if lost := [number for number in range(len(shards)) if written_shard(building, number) is None]:
                shutil.rmtree(building)
                raise EngineError(
                    f"the job left shard {lost[0]} out of {storage.uri(root)}; run batch_predictions again"
                )
        return predict_here(model, shards, folder, asked, progress, beside, self.run)


def request(settings: Settings, url: str, week: str, region: str) -> dict[str, Any]:
    """The request for a job, as emr-serverless StartJobRun takes it.

    Args:
        url: the prediction's folder in S3.
        region: of that bucket. A machine of EMR is not relied on to say where it is.
    """
    conf = {
        "spark.archives": f"{settings.spark_archive}#environment",
        "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON": _PYTHON,
        "spark.emr-serverless.driverEnv.PYSPARK_PYTHON": _PYTHON,
        "spark.executorEnv.PYSPARK_PYTHON": _PYTHON,
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.emr-serverless.driverEnv.AWS_REGION": region,
        "spark.executorEnv.AWS_REGION": region,
        **settings.spark_conf,
    }
    return {
        "applicationId": settings.spark_application,
        "executionRoleArn": settings.role_arn,
        "name": f"{settings.job_prefix}-{week}",
        "executionTimeoutMinutes": settings.max_job_minutes,
        "jobDriver": {
            "sparkSubmit": {
                "entryPoint": f"{url}/job.py",
                "entryPointArguments": [url],
                "sparkSubmitParameters": " ".join(f"--conf {name}={value}" for name, value in conf.items()),
            }
        },
        "configurationOverrides": {"monitoringConfiguration": {"cloudWatchLoggingConfiguration": {"enabled": True}}},
    }


def finish_shards(url: str, run: Run, told: Callable[[str], None]) -> None:
    """What the job does: the shards of the prediction at `url`, mapped by `run`.

    Args:
        told: is told how many are done.
    """
    ask = json.loads(Storage(url).get_bytes("ask.json"))
    asked = Asked(**{**ask["asked"], "quantiles": tuple(ask["asked"]["quantiles"])})
    step = _Stored(url, ask["model"], asked)
    for done, _ in enumerate(over_shards(range(ask["shards"]), step, run), 1):
        told(f"{done} of {ask['shards']} shards")


@dataclass(frozen=True)
class _Stored:
    """Work on shards whose files lie in storage: brought to the disk of a worker's machine, and back when written."""

    url: str
    model: str
    asked: Asked

    def __call__(self, number: int, retailer: Retailer) -> bool:
        """Leaves the shard's files in storage, and last its entry for predictions.json."""
        storage = _storage(self.url)
        here = Path(tempfile.gettempdir()) / "forecast" / hashlib.sha256(self.url.encode()).hexdigest()[:12]
        own = here / f"{number:05d}"
        model, shard = here / self.model, own / PANEL
        _brought(storage, f"models/{self.model}", model, last="training.json")
        if not shard.exists():
            storage.get_file(f"shards/{number:05d}/{PANEL}", shard)
        work = Work(TrainedModel.load(model), self.asked, own)
        entry = work((number, own), retailer.keeping(own / "kept"))
        for name in (*entry["files"], f"shard-{number:03d}.json"):
            storage.put_file(own / name, f"finished/{name}")
        shutil.rmtree(own, ignore_errors=True)
        return True


@functools.cache
def _storage(url: str) -> Storage:
    """One for the process: each Storage makes a client of its own, which takes longer than a request."""
    return Storage(url)


def _brought(storage: Storage, key: str, folder: Path, last: str) -> None:
    """Every object below `key`, as files; other processes of the machine may be bringing them as well."""
    if not (folder / last).exists():
        names = [item.key.removeprefix(f"{key}/") for item in storage.list(key)]
        for name in sorted(names, key=lambda name: (name == last, name)):
            storage.get_file(f"{key}/{name}", folder / name)
