"""The engine of a laptop: DeepAR in this process, models in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from forecast_platform import deepar
from forecast_platform.engines.base import inference_config, prepare_batch
from forecast_platform.engines.batch import Batch, BatchError, draw
from forecast_platform.history.panel import Panel
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.networks import one_thread
from forecast_platform.models.registry import plans
from forecast_platform.models.trained import ModelLost, TrainedModel, check_history, train_into, training_key
from forecast_platform.settings import Settings


class LocalEngine:
    """DeepAR in this process, models in a folder. See Engine.

    Args:
        models: where models are kept, one folder per digest.
    """

    def __init__(self, models: Path) -> None:
        self.models, self.run_id = models, ""

    def candidates(self, settings: Settings) -> Plans:
        """See Engine.candidates."""
        return plans(settings)

    def train(
        self, panel: Panel, candidates: Plans, progress: Progress | None = None, num_samples: int = 100
    ) -> TrainedModel:
        """See Engine.train."""
        key = training_key(panel, candidates, num_samples)
        folder = self.models / key
        if (folder / "training.json").exists():
            return TrainedModel.load(folder)
        check_history(panel, candidates)
        self.models.mkdir(parents=True, exist_ok=True)
        # Weeks of one backfill want the same model at once: one run trains it, the others wait. The lock ends with its
        # process, so a killed training blocks nobody.
        with FileLock(self.models / f".{key}.lock"):
            if not (folder / "training.json").exists():
                building, checkpoint = self.models / f"{key}.building", self.models / f"{key}.checkpoint"
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir()
                train_into(building, key, panel, candidates, progress, num_samples, checkpoint)
                building.rename(folder)
                shutil.rmtree(checkpoint, ignore_errors=True)
        return TrainedModel.load(folder)

    def model(self, key: str) -> TrainedModel:
        """See Engine.model."""
        if not (self.models / key / "training.json").exists():
            raise ModelLost(f"{self.models / key} holds no model; materialize deepar_model for its week again")
        return TrainedModel.load(self.models / key)

    def prepare(self, model: TrainedModel, panel: Panel, folder: Path, shards: int) -> tuple[Batch, tuple[str, ...]]:
        """See Engine.prepare."""
        return prepare_batch(model, panel, folder, shards)

    def transform(
        self,
        model: TrainedModel,
        batch: Batch,
        num_samples: int,
        quantiles: Sequence[float],
        seed: int,
        progress: Progress | None = None,
    ) -> int:
        """See Engine.transform."""
        network = deepar.load_artifact(model.artifact) if model.learns else None
        config = inference_config(num_samples, quantiles)
        shards = batch.shards()
        lines = 0
        for number, (source, output) in enumerate(shards, 1):
            with one_thread():
                if network is None:
                    lines += draw(source, output, config, seed)
                else:
                    lines += deepar.transform(network, source, output, config, seed=seed)
            if progress:
                progress("predict", number, len(shards))
        return lines

    def batch(self, folder: Path) -> Batch:
        """See Engine.batch."""
        if not (folder / "manifest.parquet").exists():
            raise BatchError(f"{folder} holds no batch; materialize batch_predictions for its week again")
        return Batch(folder)

    def receipt(self) -> dict[str, Any]:
        """See Engine.receipt."""
        return {}
