"""The engine of a laptop: DeepAR in this process, models in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock

from forecast_platform.engines.base import NOTHING, Asked, Shard, Submit, predict_here
from forecast_platform.engines.predictions import Predictions
from forecast_platform.engines.workers import Workers, series_at_once
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import Run
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.registry import plans
from forecast_platform.models.trained import ModelLost, TrainedModel, check_history, train_into, training_key
from forecast_platform.settings import Settings


class LocalEngine:
    """DeepAR in this process, models in a folder. See Engine.

    Args:
        models: where models are kept, one folder per digest.
        workers: processes that work on shards at the same time, where there are several.
    """

    submit: Submit

    def __init__(self, models: Path, workers: int = 1) -> None:
        self.models, self.run_id = models, ""
        self.run: Run = Workers(workers) if workers > 1 else map

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

    def predict(
        self,
        model: TrainedModel,
        shards: Sequence[Shard],
        folder: Path,
        asked: Asked,
        progress: Progress | None = None,
        beside: Mapping[str, pa.Table] = NOTHING,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """See Engine.predict."""
        return predict_here(model, shards, folder, asked, progress, beside, self.run)

    def shard_size(self, settings: Settings, weeks: int, columns: int) -> tuple[int, int]:
        """See Engine.shard_size."""
        return series_at_once(settings.memory_gb, settings.workers, weeks, columns), settings.transform_shards

    def predictions(self, folder: Path) -> Predictions:
        """See Engine.predictions."""
        return Predictions.at(folder)

    def receipt(self) -> dict[str, Any]:
        """See Engine.receipt."""
        return {}
