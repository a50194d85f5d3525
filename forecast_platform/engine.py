"""The DeepAR engine as the platform uses it: train a model for a week, transform a batch with it.

A model is addressed by the digest of everything that decides it (data, hyperparameters, seed, engine code). Asking for
the same training again returns the stored model, so reruns and backfills in any order give equal forecasts.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from forecast_platform import deepar
from forecast_platform.evaluation.backtest import Forecaster, backtest
from forecast_platform.evaluation.baselines import seasonal_naive
from forecast_platform.series import reference as reference_module
from forecast_platform.series import target as target_module
from forecast_platform.series.batch import Batch
from forecast_platform.series.encoding import Categories, digest, to_series_set
from forecast_platform.series.panel import Panel
from forecast_platform.series.target import RATIO, SALES, build_target, ratio_possible
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK, WeekCalendar

Progress = Callable[[str, int, int], None]  # (what, done, total)
Plans = dict[str, dict[str, str]]  # target -> hyperparameters of a network for it

# The network the platform ships, in SageMaker's names; what differs from SageMaker's defaults was measured (README).
SHIPPED: dict[str, dict[str, str]] = {
    SALES: {
        "learning_rate": "0.005",
        "learning_rate_schedule": "cosine",
        "num_layers": "1",
        "embedding_dimension": "4",
    },
    # A ratio to last year has no season and no size left to learn, and its level of lately lasts only in part.
    RATIO: {
        "learning_rate": "0.005",
        "learning_rate_schedule": "cosine",
        "num_layers": "1",
        "num_cells": "30",
        "embedding_dimension": "1",
        "scaling_length": "26",
        "scaling_power": "0.7",
        "time_features": "ignore",
        "lag_support": "24",
    },
}
TRAIN_WINDOWS = {SALES: 200_000, RATIO: 100_000}
# DeepAR's own lower limit (SageMaker: "at least 300 observations across all training time series").
MIN_OBSERVATIONS = 300


class TooLittleHistory(ValueError):
    """There is not enough data to train on; the message says how much there is and how much is needed."""


@dataclass(frozen=True)
class Judgement:
    """A model's rolling backtest against last year's week, made before the model was trained on everything.

    `why` says in words what the figures mean; the scores are None when the history was too short to hold out weeks.
    """

    verdict: str  # "passed", "below_naive" or "unjudged"
    why: str
    cutoff: dt.date | None = None
    wape: float | None = None
    wql: float | None = None
    coverage80: float | None = None
    naive_wape: float | None = None
    naive_wql: float | None = None


@dataclass(frozen=True)
class Model:
    """A trained model on disk: model.tar.gz and training.json in `folder`."""

    folder: Path
    version: str
    digest: str
    trained_as_of: dt.date
    categories: Categories
    hyperparameters: dict[str, str]
    series: int
    observations: int
    judgement: Judgement
    target: str = SALES
    loss_curve: list[float] = field(default_factory=list)
    train_seconds: float = 0.0
    train_windows: int = 0

    @property
    def artifact(self) -> Path:
        return self.folder / "model.tar.gz"

    def save(self) -> None:
        data = {**asdict(self), "categories": self.categories.to_json(), "folder": None}
        text = json.dumps(data, indent=1, default=str)
        (self.folder / "training.json").write_text(text)

    @classmethod
    def load(cls, folder: Path) -> Model:
        data = json.loads((folder / "training.json").read_text())
        judgement = Judgement(**data.pop("judgement"))
        if judgement.cutoff:
            judgement = Judgement(**{**asdict(judgement), "cutoff": dt.date.fromisoformat(str(judgement.cutoff))})
        data |= {
            "folder": folder,
            "categories": Categories.from_json(data["categories"]),
            "judgement": judgement,
            "trained_as_of": dt.date.fromisoformat(data["trained_as_of"]),
        }
        return cls(**data)


@functools.cache
def code_version() -> str:
    """Hash of the source that decides a model: a change of code is a change of model."""
    content = hashlib.sha256()
    modules = (target_module, reference_module)
    for path in [*sorted(Path(deepar.__file__).parent.glob("*.py")), *(Path(inspect.getfile(m)) for m in modules)]:
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def training_week(week: dt.date, calendar: WeekCalendar, retrain_every_weeks: int) -> dt.date:
    """The week whose model serves `week`: the last one of a fixed rhythm, so that it depends on nothing but the
    calendar and every order of a backfill gives the same models."""
    position = int(calendar.index(week))
    return week - (position % retrain_every_weeks) * WEEK


def hyperparameters(
    context_length: int, prediction_length: int, seed: int, changes: Mapping[str, str], target: str = SALES
) -> dict[str, str]:
    """The shipped hyperparameters with an installation's own changes; all values strings, as SageMaker wants them."""
    return {
        **SHIPPED[target],
        "time_freq": "1W",
        "context_length": str(context_length),
        "prediction_length": str(prediction_length),
        "seed": str(seed),
        **changes,
    }


def plans(
    settings: Settings, prediction_length: int = 0, seed: int | None = None
) -> tuple[dict[str, str], dict[str, str] | None]:
    """Hyperparameters by an installation's settings: of a network for sales, and of one for the ratio to last year's
    week where the settings let the platform choose."""

    def of(target: str) -> dict[str, str]:
        return hyperparameters(
            settings.context_length,
            prediction_length or settings.prediction_length,
            settings.seed if seed is None else seed,
            settings.hyperparameters,
            target,
        )

    return of(SALES), of(RATIO) if settings.target == "auto" else None


def trainable(panel: Panel, parameters: Mapping[str, str]) -> Panel:
    """The series DeepAR trains on: those of at least prediction_length weeks. The others are only forecast."""
    return panel.select((len(panel.weeks) - panel.first) >= int(parameters["prediction_length"]))


def training_panel(panel: Panel, trained_as_of: dt.date, parameters: Mapping[str, str]) -> Panel:
    """What the model in force at the panel's end is trained on: the weeks up to `trained_as_of`, or all of them when
    those are too few to train on and judge."""
    if panel.position(trained_as_of) < 0:
        return panel
    earlier = panel.until(trained_as_of)
    need = int(parameters["context_length"]) + 2 * int(parameters["prediction_length"])
    enough = len(earlier.weeks) >= need and trainable(earlier, parameters).observed.sum() >= MIN_OBSERVATIONS
    return earlier if enough else panel


def with_epochs(parameters: Mapping[str, str], panel: Panel, target: str = SALES) -> dict[str, str]:
    """Hyperparameters with `epochs` for about TRAIN_WINDOWS windows where none are given: an epoch is one window a
    series, so a small retailer needs more of them for the same amount of learning."""
    return {"epochs": str(min(max(TRAIN_WINDOWS[target] // len(panel), 10), 1000)), **parameters}


def deepar_forecaster(
    parameters: Mapping[str, str], num_samples: int = 100, progress: Progress | None = None, target: str = SALES
) -> Forecaster:
    """DeepAR as a backtest's forecaster: trained on the history it is given, then sampled."""

    def forecast(history: Panel, horizon: int, quantiles: Sequence[float]) -> NDArray[np.float64]:
        chosen = {**with_epochs(parameters, history, target), "prediction_length": str(horizon)}
        view = build_target(history, horizon, target)
        model, categories = _fit(chosen, view.panel, progress, None)
        levels = sorted({*quantiles, 0.5})
        with _one_thread():
            result = deepar.predict(
                model,
                to_series_set(view.panel, categories),
                num_samples=num_samples,
                quantiles=tuple(f"{q:g}" for q in levels),
                seed=int(parameters.get("seed", "0")),
            )
        assert result.quantiles is not None
        outputs = result.quantiles.astype(np.float64)
        in_sales = view.rescale(outputs, outputs[:, levels.index(0.5)])
        return in_sales[:, [levels.index(q) for q in quantiles]]

    return forecast


def shipped_forecaster(
    parameters: Mapping[str, str],
    ratio: Mapping[str, str] | None,
    num_samples: int = 100,
    progress: Progress | None = None,
) -> Forecaster:
    """What the platform would do at a cutoff: choose the target by a backtest before it, then train and forecast."""

    def forecast(history: Panel, horizon: int, quantiles: Sequence[float]) -> NDArray[np.float64]:
        target, _ = choose_target(history, parameters, ratio, num_samples, progress)
        chosen = ratio if target == RATIO and ratio else parameters
        return deepar_forecaster(chosen, num_samples, progress, target)(history, horizon, quantiles)

    return forecast


def choose_target(
    panel: Panel,
    parameters: Mapping[str, str],
    ratio: Mapping[str, str] | None,
    num_samples: int,
    progress: Progress | None,
) -> tuple[str, Judgement]:
    """Train without the last prediction_length weeks, on sales and on the ratio, and forecast those weeks.

    Returns:
        The target with the lower mean wQL, and its scores beside last year's week. SALES where nothing can be held out.
    """
    horizon, context = int(parameters["prediction_length"]), int(parameters["context_length"])
    if len(panel.weeks) < 2 * horizon + context:
        why = f"{len(panel.weeks)} weeks of history are too few to hold out {horizon} of them"
        return SALES, Judgement("unjudged", why)
    cutoff = panel.weeks[-1 - horizon].astype(dt.date)
    history = panel.until(cutoff)
    known = int(trainable(history, parameters).observed.sum())
    if known < MIN_OBSERVATIONS:
        return SALES, Judgement("unjudged", f"{known} observations up to {cutoff} are too few to train on")
    if not trainable(panel, parameters).observed[:, -horizon:].any():
        why = f"no trained series was observed in the {horizon} weeks after {cutoff}"
        return SALES, Judgement("unjudged", why)
    contenders = {SALES: deepar_forecaster(parameters, num_samples, progress)}
    if ratio is not None and ratio_possible(history, context, horizon) and _enough(history, horizon, ratio):
        contenders[RATIO] = deepar_forecaster(ratio, num_samples, progress, RATIO)
    *results, naive = backtest(
        panel, [cutoff], horizon, {**contenders, "seasonal_naive": seasonal_naive}, min_weeks=horizon
    )
    best = min(results, key=lambda result: result.scores.wql)
    scores = ", ".join(f"{r.model} {r.scores.wape:.4f}" for r in results)
    return best.model, Judgement(
        "passed" if best.scores.wape <= naive.scores.wape else "below_naive",
        f"WAPE over the {horizon} weeks after {cutoff}: {scores}, last year's week {naive.scores.wape:.4f}",
        cutoff,
        best.scores.wape,
        best.scores.wql,
        best.scores.coverage80,
        naive.scores.wape,
        naive.scores.wql,
    )


def _enough(history: Panel, horizon: int, ratio: Mapping[str, str]) -> bool:
    """Whether enough ratios are known to train on."""
    view = build_target(history, horizon, RATIO)
    return int(trainable(view.panel, ratio).observed.sum()) >= MIN_OBSERVATIONS


class LocalEngine:
    """DeepAR in this process, models in a folder.

    Args:
        models: where models are kept, one folder per digest.
    """

    def __init__(self, models: Path) -> None:
        self.models = models

    def train(
        self,
        panel: Panel,
        parameters: Mapping[str, str],
        progress: Progress | None = None,
        num_samples: int = 100,
        ratio: Mapping[str, str] | None = None,
    ) -> Model:
        """The model for a panel that ends at its cutoff: stored, or trained now and judged by a backtest.

        Args:
            parameters: hyperparameters of a network that forecasts sales.
            ratio: those of one that forecasts the ratio to last year's week; None: the ratio is not considered.

        Raises:
            TooLittleHistory: fewer weeks than one training window, or fewer observations than DeepAR accepts.
        """
        cutoff = panel.weeks[-1].astype(dt.date)
        plans: Plans = {SALES: with_epochs(parameters, panel)}
        if ratio is not None:
            plans[RATIO] = with_epochs(ratio, panel, RATIO)
        key = digest(panel, json.dumps(plans, sort_keys=True), str(num_samples), code_version())
        folder = self.models / key
        if (folder / "training.json").exists():
            return Model.load(folder)
        need = int(parameters["context_length"]) + int(parameters["prediction_length"])
        observations = int(trainable(panel, parameters).observed.sum())
        if len(panel.weeks) < need or observations < MIN_OBSERVATIONS:
            raise TooLittleHistory(
                f"{len(panel.weeks)} weeks and {int(panel.observed.sum())} observations up to {cutoff}; a model needs "
                f"{need} weeks (context_length + prediction_length) and {MIN_OBSERVATIONS} observations in series of "
                f"prediction_length weeks or more (now {observations}). Land more history under sales/."
            )
        self.models.mkdir(parents=True, exist_ok=True)
        # Weeks of one backfill want the same model at once: one run trains it, the others wait. The lock ends with its
        # process, so a killed training blocks nobody.
        with FileLock(self.models / f".{key}.lock"):
            if not (folder / "training.json").exists():
                self._train(panel, plans, key, folder, progress, num_samples)
        return Model.load(folder)

    def _train(
        self, panel: Panel, plans: Plans, key: str, folder: Path, progress: Progress | None, num_samples: int
    ) -> None:
        target, judgement = choose_target(panel, plans[SALES], plans.get(RATIO), num_samples, progress)
        parameters = plans[target]
        view = build_target(panel, int(parameters["prediction_length"]), target)
        checkpoint = self.models / f"{key}.checkpoint"
        started = time.perf_counter()
        model, categories = _fit(parameters, view.panel, progress, checkpoint)
        building = self.models / f"{key}.building"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        version = deepar.save_artifact(model, building / "model.tar.gz")
        Model(
            building,
            version,
            key,
            panel.weeks[-1].astype(dt.date),
            categories,
            dict(parameters),
            len(panel),
            int(panel.observed.sum()),
            judgement,
            target,
            [float(loss) for loss in model.loss_curve],
            time.perf_counter() - started,
            int(model.train_windows),
        ).save()
        building.rename(folder)
        shutil.rmtree(checkpoint, ignore_errors=True)

    def transform(
        self,
        model: Model,
        batch: Batch,
        num_samples: int,
        quantiles: Sequence[float],
        seed: int,
        progress: Progress | None = None,
    ) -> int:
        """Write the outputs of a batch. Returns the number of series."""
        network = deepar.load_artifact(model.artifact)
        config = {
            "num_samples": num_samples,
            "output_types": ["mean", "quantiles", "samples"],
            "quantiles": [f"{q:g}" for q in quantiles],
        }
        shards = batch.shards()
        lines = 0
        for number, (source, output) in enumerate(shards, 1):
            with _one_thread():
                lines += deepar.transform(network, source, output, config, seed=seed)
            if progress:
                progress("predict", number, len(shards))
        return lines


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small lose more to threads waiting for each other than they gain; cores are for other processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    parameters: Mapping[str, str], panel: Panel, progress: Progress | None, checkpoint: Path | None
) -> tuple[Any, Categories]:
    """Train on the series long enough to train on; their categories are the model's coding."""
    panel = trainable(panel, parameters)
    categories = Categories.of(panel)

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        if progress:
            progress("train", done, total)

    with _one_thread():
        model = deepar.train(
            to_series_set(panel, categories),
            deepar.HyperParameters.parse(dict(parameters)),
            progress=report,
            checkpoint=checkpoint,
        )
    return model, categories
