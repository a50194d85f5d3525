"""The engine of our own image: the platform's whole training, choice and judgement included, in one SageMaker job.

The job runs models.trained.train_into, as LocalEngine does, on the same panel to the last bit. What it leaves is
verified before it becomes a model here.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import tarfile
from pathlib import Path

from forecast_platform import deepar
from forecast_platform.engines.base import EngineError
from forecast_platform.engines.sagemaker.engine import SageMakerEngine
from forecast_platform.history.panel import Panel
from forecast_platform.history.panel_file import save_panel
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.registry import plans
from forecast_platform.models.trained import ARTIFACT, TREES_FILE, TrainedModel, TrainedTrees, code_version
from forecast_platform.settings import Settings

_MAX_RECORD = 64 << 20  # bytes of training.json or a network; real ones have some thousand


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
        versions, told = [], [network.version for network in trained.networks]
        for file in trained.files:
            if file != ARTIFACT:
                (received / file).write_bytes(member(received / "output.tar.gz", file))
        for network in trained.networks:
            # SageMaker packs as it likes; packed anew, equal models are equal bytes. Reading checks hashes and version.
            read = deepar.load_artifact(received / network.file)
            versions.append(deepar.save_artifact(read, building / network.file))
        if trained.trees:
            (received / TREES_FILE).rename(building / TREES_FILE)
            told.append(trained.trees.version)
            versions.append(TrainedTrees.of(building / TREES_FILE).version)
        shutil.rmtree(received)
        if (trained.digest, told) != (key, versions):
            raise EngineError(
                f"{self.storage.uri(output)} describes model {told} of {trained.digest}; {versions} of {key} "
                "was asked for. Is FORECAST_IMAGE built from this code? Then remove that object and run again"
            )


def member(path: Path, name: str) -> bytes:
    """One file of a .tar.gz, read in memory: nothing is extracted, so no name in it can lead anywhere.

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
