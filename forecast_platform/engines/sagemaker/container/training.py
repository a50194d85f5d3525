"""The engine of our own image: the platform's whole training, choice and judgement included, in one SageMaker job, and
the forecasts of all shards in another.

The jobs run what LocalEngine runs, models.trained.train_into and engines.base.Work, on the same panels to the last bit.
What they leave is verified before it counts here.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from forecast_platform import deepar
from forecast_platform.engines.base import Asked, EngineError, Shard, opened, prepare
from forecast_platform.engines.predictions import BatchError, Predictions
from forecast_platform.engines.sagemaker import requests
from forecast_platform.engines.sagemaker.container.shards import (
    BUNDLE,
    bundle,
    received,
    series_of_a_request,
    write_requests,
)
from forecast_platform.engines.sagemaker.engine import SageMakerEngine
from forecast_platform.history.panel import Panel
from forecast_platform.history.panel_file import save_panel
from forecast_platform.history.shards import Retailer, over_shards
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.registry import plans
from forecast_platform.models.trained import ARTIFACT, TREES_FILE, TrainedModel, TrainedTrees, code_version
from forecast_platform.settings import Settings

_MAX_RECORD = 64 << 20  # bytes of training.json or a network; real ones have some thousand


@dataclass(frozen=True)
class _Rounds:
    """A step that asks for all the sums that forecasting a shard takes, and checks that its covariates are there."""

    model: TrainedModel

    def __call__(self, shard: tuple[int, Shard], retailer: Retailer) -> None:
        prepare(self.model, opened(shard[1]), retailer)


class ContainerEngine(SageMakerEngine):
    """`sagemaker-container`. See SageMakerEngine."""

    @property
    def image(self) -> str:
        return self.settings.image

    def candidates(self, settings: Settings) -> Plans:
        """See Engine.candidates."""
        return plans(settings)

    def train_by_jobs(
        self, building: Path, key: str, panel: Panel, candidates: Plans, num_samples: int, progress: Progress | None
    ) -> None:
        """One job: choose, train, judge. See SageMakerEngine.train_by_jobs; what it leaves is verified."""
        job = {"key": key, "candidates": candidates, "num_samples": num_samples, "code_version": code_version()}
        source = building / "input"
        save_panel(panel, source)
        (source / "training.json").write_text(json.dumps(job, indent=1, sort_keys=True))
        (model, output), _ = self.run_training(
            key, panel.weeks[-1].astype(dt.date), {"platform_training": "1"}, "panel", source, f"models/{key}",
            ("model.tar.gz", "output.tar.gz"), progress,
        )  # fmt: skip
        shutil.rmtree(source)
        received = building / "received"
        self.storage.get_file(model, received / "model.tar.gz")
        self.storage.get_file(output, received / "output.tar.gz")
        (building / "training.json").write_bytes(member(received / "output.tar.gz", "training.json"))
        trained = TrainedModel.load(building)
        versions, stated = [], [network.version for network in trained.networks]
        for file in trained.files:
            if file != ARTIFACT:
                (received / file).write_bytes(member(received / "output.tar.gz", file))
        for network in trained.networks:
            # SageMaker packs as it likes; packed anew, equal models are equal bytes. Reading checks hashes and version.
            read = deepar.load_artifact(received / network.file)
            versions.append(deepar.save_artifact(read, building / network.file))
        if trained.trees:
            (received / TREES_FILE).rename(building / TREES_FILE)
            stated.append(trained.trees.version)
            versions.append(TrainedTrees.of(building / TREES_FILE).version)
        shutil.rmtree(received)
        if (trained.digest, stated) != (key, versions):
            raise EngineError(
                f"{self.storage.uri(output)} describes model {stated} of {trained.digest}; {versions} of {key} "
                "was asked for. Is FORECAST_IMAGE built from this code? Then remove that object and run again"
            )

    def shard_size(self, settings: Settings, weeks: int, columns: int) -> tuple[int, int]:
        """See Engine.shard_size: what fits into a request, and for every instance one."""
        at_most, at_least = super().shard_size(settings, weeks, columns)
        return min(at_most, series_of_a_request(weeks, columns)), max(at_least, settings.transform_instances)

    def served(self, model: TrainedModel, tags: Mapping[str, str], work: Path) -> str:
        """The name of SageMaker's model of a whole model of the platform, which is packed in the folder `work`."""
        bundle(model, work / BUNDLE)
        self.storage.put_file(work / BUNDLE, f"models/{model.digest}/{BUNDLE}")
        return self.model_of(model.trained_as_of, f"models/{model.digest}/{BUNDLE}", tags)

    def predict_by_jobs(
        self,
        model: TrainedModel,
        shards: Sequence[Shard],
        folder: Path,
        asked: Asked,
        beside: Mapping[str, pa.Table],
        work: Path,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """One job: each shard is a request, its answer the shard's files. What couples shards is added up here.

        See SageMakerEngine.predict_by_jobs.
        """
        places: list[tuple[int, Shard]] = [
            (number, shard if isinstance(shard, Path) else save_panel(shard, work / f"panel-{number}").parent)
            for number, shard in enumerate(shards)
        ]
        for _ in over_shards(places, _Rounds(model), self.run, work):
            pass
        sums = work / "sums" if len(shards) > 1 else None
        content, largest = write_requests(model, places, sums, asked, work / "input")
        week = opened(shards[0]).weeks[-1].astype(dt.date)
        tags = self.tags(week=str(week), digest=model.digest, version=model.version)
        name = self.served(model, tags, work)
        twin = f"transforms/{folder.name}/{content}"
        spec = self.sent(
            twin,
            sorted((work / "input").iterdir()),
            lambda source, output: requests.transform(self.settings, name, source, output, largest),
            week,
            tags,
        )
        answers = self.answered(spec, work / "output")
        building = work / "building"
        building.mkdir()
        try:
            written = [
                received(answer, building, number, len(opened(shard)))
                for answer, (number, shard) in zip(answers, places, strict=True)
            ]
        except BatchError:
            self.storage.delete(f"{twin}/output")  # so that they are not found again
            raise
        levels = opened(shards[0]).levels
        made = Predictions.finish(
            building, folder, written, asked.quantiles, model.horizon, model.version, asked.as_known, levels, beside
        )
        return made, tuple(dict.fromkeys(notice for entry in written for notice in entry["notices"]))


def member(path: Path, name: str) -> bytes:
    """One file of a .tar.gz, read in memory: nothing is extracted, so no name in it can point outside a folder.

    Raises:
        EngineError: it is not there, or larger than it could be, or the archive is damaged.
    """
    try:
        with tarfile.open(path, mode="r:gz") as tar:
            for found in tar:
                if found.name.removeprefix("./") == name and found.isreg() and found.size <= _MAX_RECORD:
                    handle = tar.extractfile(found)
                    assert handle is not None
                    return handle.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise EngineError(f"{path.name} is not a whole .tar.gz: {error}") from error
    raise EngineError(f"{path.name} holds no {name}; is FORECAST_IMAGE built from this code?")
