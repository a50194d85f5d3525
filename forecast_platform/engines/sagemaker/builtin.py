"""The engine of Amazon's own DeepAR image, which knows nothing of last year, blends or calibration.

It gets the holiday-aligned reference (models/target.py, REFERENCE) and the holidays as dynamic features. What the
platform adds around a network stays: the judgement, the weights of the blend and the widths of the intervals come from
the same `choose`, with the network trained and asked on SageMaker. It is judged in one backtest window, not in two,
since each costs a training and a transform.

Amazon's DeepAR takes no seed: training again gives another model. The platform trains once per digest and keeps it.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forecast_platform.deepar.hyperparameters import DEFAULTS, REQUIRED
from forecast_platform.engines.base import Asked, Prepared, Shard, opened, prepare
from forecast_platform.engines.predictions import BatchError, Predictions, ShardForecast
from forecast_platform.engines.sagemaker import requests
from forecast_platform.engines.sagemaker.batch import Batch, Outputs, read_batch, write_batch
from forecast_platform.engines.sagemaker.engine import SageMakerEngine
from forecast_platform.engines.sagemaker.records import Rules, check_batch, write_training
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.models.candidate import Parameters, Plans, Progress, Quantiles
from forecast_platform.models.choose import choose
from forecast_platform.models.combine import InSales
from forecast_platform.models.encoding import Categories
from forecast_platform.models.networks import target_of, trainable
from forecast_platform.models.registry import CANDIDATES, plans
from forecast_platform.models.target import REFERENCE, Target, build_target, holidays_of
from forecast_platform.models.trained import ARTIFACT, TrainedModel, TrainedNetwork, kept_model
from forecast_platform.settings import Settings

EPOCHS = "100"  # where the settings say nothing; the length of an epoch is Amazon's own
WINDOWS = 1
_AMAZONS = {*REQUIRED, *DEFAULTS}


def candidates(settings: Settings) -> Plans:
    """One network with Amazon's hyperparameters only: REFERENCE, or the one that the setting `target` names. With
    target "auto" also the candidates that need no training.

    Raises:
        ValueError: the settings hold one that is ours.
    """
    if ours := sorted(set(settings.hyperparameters) - _AMAZONS):
        raise ValueError(
            f"engine sagemaker-builtin takes Amazon's hyperparameters only; remove {', '.join(ours)} from "
            "FORECAST_HYPERPARAMETERS, or use sagemaker-container"
        )
    name = REFERENCE if settings.target == "auto" else settings.target
    found = plans(settings.model_copy(update={"target": name}))
    if settings.target == "auto":
        found |= {free: given for free, given in plans(settings).items() if not CANDIDATES[free].learns}
    return {
        candidate: {"epochs": EPOCHS, **{key: value for key, value in given.items() if key in _AMAZONS}}
        if CANDIDATES[candidate].learns
        else given
        for candidate, given in found.items()
    }


class _Fit:
    """One training of Amazon's image on a history: where its artifact is, and how to ask it."""

    def __init__(
        self,
        engine: BuiltinEngine,
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
        write_training(panel, self.categories, folder, requests.train_instances(engine.settings))
        (self.artifact,), self.described = engine.run_training(
            key, self.week, dict(parameters), "train", folder, self.root, ("model.tar.gz",), progress
        )

    def forecast(self, quantiles: Sequence[float], num_samples: int) -> Quantiles:
        """See networks.network_forecast."""
        engine = self.engine
        shards = engine.settings.transform_instances
        batch = write_batch(self.work / "batch", self.ready, self.target, self.categories, shards)
        rules = Rules.of(self.categories, self.features, self.horizon)
        asked = Asked(tuple(quantiles), num_samples, 0)
        root, artifact = f"{self.root}/held-out", self.artifact
        parts = engine.ask(batch, rules, asked, self.horizon, root, self.key, artifact, self.week, artifact)
        outputs = np.concatenate([part.quantiles for part in parts])
        return InSales.of(self.target, self.ready).quantiles(outputs)


class BuiltinEngine(SageMakerEngine):
    """`sagemaker-builtin`. See SageMakerEngine."""

    resumes = isolated = False

    @functools.cached_property
    def image(self) -> str:
        return requests.builtin_image(self.jobs.region)

    def candidates(self, settings: Settings) -> Plans:
        """See Engine.candidates, and `candidates`."""
        return candidates(settings)

    def key(self, panel: Panel, candidates: Plans, num_samples: int) -> str:
        """Other than the key of our own training: from the same data and hyperparameters Amazon makes another model,
        and several instances yet another."""
        ours, instances = super().key(panel, candidates, num_samples), requests.train_instances(self.settings)
        spread = f" on {instances}" if instances > 1 else ""
        return hashlib.sha256(f"sagemaker-builtin {ours}{spread}".encode()).hexdigest()[:20]

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
        ) -> Quantiles:
            asked = {**parameters, "prediction_length": str(horizon)}
            return _Fit(self, key, work, name, asked, history, progress).forecast(quantiles, num_samples)

        choice = choose(panel, candidates, num_samples, progress, forecast, WINDOWS)
        networks = []
        for name in choice.blend.names:
            if CANDIDATES[name].learns:
                started = time.perf_counter()
                fit = _Fit(self, key, work, name, candidates[name], panel, progress)
                self.storage.get_file(fit.artifact, building / ARTIFACT)
                covariates = fit.ready.covariates
                networks.append(TrainedNetwork(
                    name,
                    ARTIFACT,
                    _version(building / ARTIFACT),
                    dict(candidates[name]),
                    fit.categories,
                    features=covariates.names if covariates else (),
                    holidays=fit.holidays,
                    loss_curve=_final_loss(fit.described),
                    train_seconds=float(fit.described.get("TrainingTimeInSeconds", time.perf_counter() - started)),
                ))  # fmt: skip
        shutil.rmtree(work, ignore_errors=True)
        kept_model(building, key, panel, candidates, choice, networks).save()

    def predict_by_jobs(
        self,
        model: TrainedModel,
        shards: Sequence[Shard],
        folder: Path,
        asked: Asked,
        beside: Mapping[str, pa.Table],
        work: Path,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """A job for the network; the rest is done here, with the whole retailer in memory. See
        SageMakerEngine.predict_by_jobs.

        Raises:
            RecordError: an input line breaks DeepAR's contract; nothing was sent.
        """
        panel = Panel.together([opened(shard) for shard in shards])
        ready = prepare(model, panel)
        files = max(self.settings.transform_shards, self.settings.transform_instances)
        outputs = []
        for ask in ready.to_ask:
            network = ask.network
            batch = write_batch(work / network.file, ready.panel, ask.target, network.categories, files)
            artifact = f"models/{model.digest}/{network.file}"
            rules, root, week = Rules.of_network(network), f"transforms/{folder.name}", model.trained_as_of
            outputs.append(
                self.ask(batch, rules, asked, model.horizon, root, model.digest, network.version, week, artifact)
            )
        forecasts = _forecasts(ready, outputs, asked)
        made = Predictions.write(
            folder, forecasts, asked.quantiles, model.horizon, model.version, asked.as_known, panel.levels, beside
        )
        return made, ready.notices

    def ask(
        self,
        batch: Batch,
        rules: Rules,
        asked: Asked,
        horizon: int,
        root: str,
        key: str,
        version: str,
        week: dt.date,
        artifact: str,
    ) -> list[Outputs]:
        """Check a batch, transform it with a network, and verify the outputs.

        Args:
            root: storage key below which the batch's twin goes.
            key, version, week: of the model. artifact: storage key of its model.tar.gz.

        Raises:
            BatchError: an output is damaged. It is removed, so that it is not found again.
        """
        check_batch(batch, rules)
        content = hashlib.sha256((batch.folder / "manifest.parquet").read_bytes())
        content.update(json.dumps([key, version, asked.config()], sort_keys=True).encode())
        twin = f"{root}/{content.hexdigest()[:20]}"
        self.storage.put_file(batch.folder / "manifest.parquet", f"{twin}/manifest.parquet")
        last = max(batch.manifest["last_week"].to_pylist())
        tags = self.tags(week=str(last), digest=key, version=version)
        name = self.model_of(week, artifact, tags)
        spec = self.sent(
            twin,
            [source for source, _ in batch.shards()],
            lambda source, output: requests.transform_lines(self.settings, name, source, output, asked.config()),
            last,
            tags,
        )
        self.answered(spec, batch.folder / "output")
        try:
            return list(read_batch(batch, asked.quantiles, horizon))
        except BatchError:
            self.storage.delete(f"{twin}/output")
            raise


def _forecasts(ready: Prepared, outputs: Sequence[Sequence[Outputs]], asked: Asked) -> Iterator[ShardForecast]:
    """The forecasts of each shard of lines, which are the series in their order.

    Args:
        outputs: of each network, those of each shard.
    """
    done = 0
    for parts in zip(*outputs, strict=True):
        among = slice(done, done + len(parts[0].rows))
        yield ready.forecast([(part.quantiles, part.samples) for part in parts], asked, among)
        done = among.stop


def _version(artifact: Path) -> str:
    """A name by content: the archive is Amazon's and says nothing of itself."""
    with artifact.open("rb") as file:
        return "sagemaker-" + hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _final_loss(described: dict[str, Any]) -> list[float]:
    found = {m["MetricName"]: float(m["Value"]) for m in described.get("FinalMetricDataList", ())}
    return [found["train:final_loss"]] if "train:final_loss" in found else []
