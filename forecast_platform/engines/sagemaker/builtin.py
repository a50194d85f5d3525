"""The engine of Amazon's own DeepAR image, which knows no last year, share or calibration.

Dynamic features give it what they can: the holiday-aligned reference (models/target.py, REFERENCE) and
the holidays. What the platform adds around a network stays: the judgement, the network's share and the widths of the
intervals come from the same `models.choose.choose`, with the network trained and asked on SageMaker. One window is held
out, not two: each costs a training and a transform. So the calibration knows one season only.

Amazon's DeepAR takes no seed: training again gives another model. The platform trains once per digest and keeps it.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform.deepar.hyperparameters import DEFAULTS, REQUIRED
from forecast_platform.engines.base import Asked
from forecast_platform.engines.sagemaker import requests
from forecast_platform.engines.sagemaker.batch import write_batch
from forecast_platform.engines.sagemaker.engine import SageMakerEngine
from forecast_platform.engines.sagemaker.records import Rules, write_training
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.models.candidate import Parameters, Plans, Progress
from forecast_platform.models.choose import choose
from forecast_platform.models.combine import Combination, in_sales
from forecast_platform.models.encoding import Categories
from forecast_platform.models.networks import target_of, trainable
from forecast_platform.models.registry import plans
from forecast_platform.models.target import REFERENCE, Target, build_target, holidays_of
from forecast_platform.models.trained import TrainedModel, code_version
from forecast_platform.settings import Settings

EPOCHS = "100"  # where the settings say nothing; the length of an epoch is Amazon's own
WINDOWS = 1
_AMAZONS = {*REQUIRED, *DEFAULTS}


def candidates(settings: Settings) -> Plans:
    """One candidate, the reference unless the settings name another target, with Amazon's hyperparameters only.

    Raises:
        ValueError: the settings hold one that is ours.
    """
    if ours := sorted(set(settings.hyperparameters) - _AMAZONS):
        raise ValueError(
            f"engine sagemaker-builtin takes Amazon's hyperparameters only; remove {', '.join(ours)} from "
            "FORECAST_HYPERPARAMETERS, or use sagemaker-container"
        )
    name = REFERENCE if settings.target == "auto" else settings.target
    given = plans(settings.model_copy(update={"target": name}))[name]
    return {name: {"epochs": EPOCHS, **{key: value for key, value in given.items() if key in _AMAZONS}}}


class _Fit:
    """One training of Amazon's image on a history: where its artifact is, and how to ask it."""

    def __init__(
        self,
        engine: SageMakerEngine,
        key: str,
        work: Path,
        name: str,
        parameters: Parameters,
        history: Panel,
        progress: Progress | None,
    ) -> None:
        self.engine, self.key, self.work, self.history = engine, key, work, history
        self.horizon = int(parameters["prediction_length"])
        self.holidays = holidays_of(history)
        ready, _ = complete(history, self.horizon)
        self.ready = ready
        self.target: Target = build_target(divide_exposure(ready), self.horizon, target_of(name), self.holidays)
        panel = trainable(self.target.panel, parameters)
        self.categories = Categories.of(panel, stand_ins=True)
        self.features = 0 if panel.covariates is None else len(panel.covariates.columns)
        self.week = history.weeks[-1].astype(object)
        self.root = f"models/{key}/{self.week}"
        folder = work / "train"
        shutil.rmtree(folder, ignore_errors=True)
        write_training(panel, self.categories, folder / "train.json")
        (self.artifact,), self.described = engine.run_training(
            key, self.week, dict(parameters), "train", folder, self.root, ("model.tar.gz",), progress
        )

    def forecast(self, quantiles: Sequence[float], num_samples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See models.networks.network_forecast."""
        engine = self.engine
        shards = engine.settings.transform_instances
        batch = write_batch(self.work / "batch", self.ready, self.target, self.categories, shards)
        rules = Rules.of(self.categories, self.features, self.horizon)
        twin = engine.run_transform(
            self.key, self.artifact, self.week, rules, batch, f"{self.root}/held-out",
            Asked(tuple(quantiles), num_samples, 0).config(), 0, self.artifact,
        )  # fmt: skip
        parts = engine.verified(twin, batch, quantiles, self.horizon)
        alone = Combination.of_target(self.target, self.ready)
        return in_sales(np.concatenate([part.quantiles for part in parts]), alone.unit, alone.offset), alone.lead


class BuiltinEngine(SageMakerEngine):
    """`sagemaker-builtin`. See SageMakerEngine."""

    seeded = resumes = isolated = False

    @functools.cached_property
    def image(self) -> str:
        return requests.builtin_image(self.jobs.region)

    def candidates(self, settings: Settings) -> Plans:
        """See Engine.candidates, and `candidates`."""
        return candidates(settings)

    def key(self, panel: Panel, candidates: Plans, num_samples: int) -> str:
        """The same data and hyperparameters make another model than ours."""
        ours = super().key(panel, candidates, num_samples)
        return hashlib.sha256(f"sagemaker-builtin {ours}".encode()).hexdigest()[:20]

    def train_by_jobs(
        self, building: Path, key: str, panel: Panel, candidates: Plans, num_samples: int, progress: Progress | None
    ) -> None:
        """Judge on a window held out, then train on everything. See SageMakerEngine.train_by_jobs."""
        work = building / "work"

        def forecast(
            name: str,
            parameters: Parameters,
            history: Panel,
            horizon: int,
            quantiles: Sequence[float],
            num_samples: int = 100,
            progress: Progress | None = None,
        ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            asked = {**parameters, "prediction_length": str(horizon)}
            return _Fit(self, key, work, name, asked, history, progress).forecast(quantiles, num_samples)

        choice = choose(panel, candidates, num_samples, progress, forecast, WINDOWS)
        parameters = candidates[choice.name]
        started = time.perf_counter()
        fit = _Fit(self, key, work, choice.name, parameters, panel, progress)
        self.storage.get_file(fit.artifact, building / "model.tar.gz")
        shutil.rmtree(work, ignore_errors=True)
        covariates = fit.ready.covariates
        TrainedModel(
            folder=building,
            version=_version(building / "model.tar.gz"),
            digest=key,
            trained_as_of=fit.week,
            categories=fit.categories,
            hyperparameters=dict(parameters),
            series=len(panel),
            observations=int(panel.observed.sum()),
            judgement=choice.judgement,
            target=choice.name,
            share=choice.share,
            calibration=choice.calibration,
            features=covariates.names if covariates else (),
            holidays=fit.holidays,
            code=code_version(),
            loss_curve=_final_loss(fit.described),
            train_seconds=float(fit.described.get("TrainingTimeInSeconds", time.perf_counter() - started)),
        ).save()


def _version(artifact: Path) -> str:
    """A name by content: the archive is Amazon's and says nothing of itself."""
    with artifact.open("rb") as file:
        return "sagemaker-" + hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _final_loss(described: dict[str, Any]) -> list[float]:
    found = {m["MetricName"]: float(m["Value"]) for m in described.get("FinalMetricDataList", ())}
    return [found["train:final_loss"]] if "train:final_loss" in found else []
