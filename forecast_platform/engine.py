"""The DeepAR engine as the platform uses it: train a model for a week, transform a batch with it.

A model is addressed by the digest of everything that decides it (data, hyperparameters, seed, engine code). Asking for
the same training again returns the stored model, so reruns and backfills in any order give equal forecasts.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock

from forecast_platform import deepar
from forecast_platform.evaluation.calibration import Calibration, volume
from forecast_platform.selection import (
    COUNTS,
    MIN_OBSERVATIONS,
    Judgement,
    Plans,
    Progress,
    choose,
    fit,
    one_thread,
    plans,
    target_of,
    trainable,
    with_epochs,
)
from forecast_platform.series.batch import Batch, BatchError, write_batch
from forecast_platform.series.covariates import complete, divide_exposure
from forecast_platform.series.encoding import Categories, digest
from forecast_platform.series.panel import Panel
from forecast_platform.series.silence import probability_of_return
from forecast_platform.series.target import SALES, build_target
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK, WeekCalendar


class TooLittleHistory(ValueError):
    """There is not enough data to train on; the message says how much there is and how much is needed."""


@dataclass(frozen=True)
class Model:
    """A trained model on disk: model.tar.gz and training.json in `folder`.

    Attributes:
        target: the candidate chosen, a key of selection.SHIPPED.
        share, calibration: how its forecasts are combined with the reference's and widened (selection.Choice).
        features: covariates it was trained with, in order.
        holidays: events it was given as features of their own, see build_target.
    """

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
    share: float = 1.0
    calibration: Calibration = field(default_factory=Calibration)
    features: tuple[str, ...] = ()
    holidays: tuple[str, ...] = ()
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
        factors, edges = data["calibration"]["factors"], data["calibration"]["edges"]
        data |= {
            "folder": folder,
            "categories": Categories.from_json(data["categories"]),
            "judgement": judgement,
            "trained_as_of": dt.date.fromisoformat(data["trained_as_of"]),
            "calibration": Calibration(tuple(map(tuple, factors)), tuple(edges), tuple(data["calibration"]["sums"])),
            "features": tuple(data["features"]),
            "holidays": tuple(data.get("holidays", ())),
        }
        return cls(**data)


@functools.cache
def code_version() -> str:
    """Hash of the source that decides a model: a change of code is a change of model."""
    content = hashlib.sha256()
    package = Path(__file__).parent
    parts = ("deepar", "series", "evaluation")
    for path in sorted([package / "selection.py", *(f for part in parts for f in (package / part).glob("*.py"))]):
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def training_week(week: dt.date, calendar: WeekCalendar, retrain_every_weeks: int) -> dt.date:
    """The week whose model serves `week`: the last one of a fixed rhythm, so that it depends on nothing but the
    calendar and every order of a backfill gives the same models."""
    position = int(calendar.index(week))
    return week - (position % retrain_every_weeks) * WEEK


def training_panel(panel: Panel, trained_as_of: dt.date, candidates: Plans) -> Panel:
    """What the model in force at the panel's end is trained on: the weeks up to `trained_as_of`, or all of them when
    those are too few to train on and judge."""
    if panel.position(trained_as_of) < 0:
        return panel
    earlier = panel.until(trained_as_of)
    first = next(iter(candidates.values()))
    need = int(first["context_length"]) + 2 * int(first["prediction_length"])
    enough = len(earlier.weeks) >= need and trainable(earlier, first).observed.sum() >= MIN_OBSERVATIONS
    return earlier if enough else panel


def training_key(panel: Panel, candidates: Plans, num_samples: int) -> str:
    """Digest of everything that decides a model: data, hyperparameters, code.

    Raises:
        ValueError: a covariate declared as known ahead is not, for the weeks ahead.
    """
    first = next(iter(candidates.values()))
    full = {name: with_epochs(name, parameters, panel) for name, parameters in candidates.items()}
    # Which columns can be used depends on the weeks ahead, and one may be covariate or exposure.
    ready, _ = complete(panel, int(first["prediction_length"]))
    used = repr([part and part.names for part in (ready.covariates, ready.exposure)])
    return digest(panel, json.dumps(full, sort_keys=True), str(num_samples), used, code_version())


def check_history(panel: Panel, candidates: Plans) -> None:
    """Raises TooLittleHistory when no candidate could be trained."""
    first = next(iter(candidates.values()))
    need = int(first["context_length"]) + int(first["prediction_length"])
    observations = int(trainable(panel, first).observed.sum())
    if len(panel.weeks) < need or observations < MIN_OBSERVATIONS:
        raise TooLittleHistory(
            f"{len(panel.weeks)} weeks and {int(panel.observed.sum())} observations up to {panel.weeks[-1]}; a model "
            f"needs {need} weeks (context_length + prediction_length) and {MIN_OBSERVATIONS} observations in series of "
            f"prediction_length weeks or more (now {observations}). Land more history under sales/."
        )


def train_into(
    folder: Path,
    key: str,
    panel: Panel,
    candidates: Plans,
    progress: Progress | None = None,
    num_samples: int = 100,
    checkpoint: Path | None = None,
) -> None:
    """Choose among the candidates, train the chosen one on everything, and write model.tar.gz and training.json."""
    choice = choose(panel, candidates, num_samples, progress)
    parameters = with_epochs(choice.name, candidates[choice.name], panel)
    horizon = int(parameters["prediction_length"])
    ready, _ = complete(panel, horizon)
    view = build_target(divide_exposure(ready), horizon, target_of(choice.name))
    started = time.perf_counter()
    model, categories = fit(parameters, view, progress, checkpoint)
    version = deepar.save_artifact(model, folder / "model.tar.gz")
    Model(
        folder=folder,
        version=version,
        digest=key,
        trained_as_of=panel.weeks[-1].astype(dt.date),
        categories=categories,
        hyperparameters=dict(parameters),
        series=len(panel),
        observations=int(panel.observed.sum()),
        judgement=choice.judgement,
        target=choice.name,
        share=choice.share,
        calibration=choice.calibration,
        features=ready.covariates.names if ready.covariates else (),
        loss_curve=[float(loss) for loss in model.loss_curve],
        train_seconds=time.perf_counter() - started,
        train_windows=int(model.train_windows),
    ).save()


def prepare_batch(model: Model, panel: Panel, folder: Path, shards: int) -> tuple[Batch, tuple[str, ...]]:
    """Engine.prepare, the same wherever DeepAR runs."""
    horizon = int(model.hyperparameters["prediction_length"])
    ready, notices = complete(panel, horizon, wanted=model.features)
    view = build_target(divide_exposure(ready), horizon, target_of(model.target), model.holidays)
    if model.target == COUNTS:  # returns, or weeks divided by open days, may have come since it was trained
        counts = np.maximum(np.round(view.panel.sales), 0)
        view = replace(view, panel=replace(view.panel, sales=counts))
    widths = model.calibration.widths(volume(panel.sales), horizon)
    returns = probability_of_return(panel, horizon) if panel.returns is None else panel.returns
    return write_batch(folder, ready, view, model.categories, shards, model.share, widths, returns), notices


def inference_config(num_samples: int, quantiles: Sequence[float]) -> dict[str, Any]:
    """What a batch asks of DeepAR, as DEEPAR_INFERENCE_CONFIG has it."""
    return {
        "num_samples": num_samples,
        "output_types": ["quantiles", "samples"],
        "quantiles": [f"{q:g}" for q in quantiles],
    }


class Engine(Protocol):
    """Where DeepAR runs. The twins differ in the machine that does the work, not in what comes out.

    Attributes:
        models: folder of the models at hand.
        run_id: of the run that asks, for engines that name it on what they create.
    """

    models: Path
    run_id: str

    def candidates(self, settings: Settings) -> Plans:
        """What may be trained, by an installation's settings."""
        ...

    def train(self, panel: Panel, candidates: Plans, progress: Progress | None = None, num_samples: int = 100) -> Model:
        """The model for a panel that ends at its cutoff: stored, or chosen among the candidates and trained now.

        Raises:
            TooLittleHistory: fewer weeks than one training window, or fewer observations than DeepAR accepts.
            ValueError: a covariate declared as known ahead is not, for the weeks ahead.
        """
        ...

    def model(self, key: str) -> Model:
        """A model trained earlier, by its digest. Raises ModelLost when it is nowhere to be found."""
        ...

    def prepare(self, model: Model, panel: Panel, folder: Path, shards: int) -> tuple[Batch, tuple[str, ...]]:
        """Batch files for all series of a panel that ends at the cutoff, and notices about its covariates.

        Raises:
            ValueError: a covariate the model was trained with is missing, now or for the weeks ahead.
        """
        ...

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
        ...

    def batch(self, folder: Path) -> Batch:
        """A batch transformed earlier, also by another machine. Raises BatchError when it is nowhere to be found."""
        ...

    def receipt(self) -> dict[str, Any]:
        """What the work since the last receipt cost, for the asset's page; empty where nothing is billed. A dict in it
        is links: name -> address."""
        ...


class EngineError(RuntimeError):
    """The machine that DeepAR runs on did not do the work, or would cost too much; the message says what to do."""


class ModelLost(LookupError):
    """A model named in the `models` table is not stored any more; the message says what to do."""


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

    def train(self, panel: Panel, candidates: Plans, progress: Progress | None = None, num_samples: int = 100) -> Model:
        """See Engine.train."""
        key = training_key(panel, candidates, num_samples)
        folder = self.models / key
        if (folder / "training.json").exists():
            return Model.load(folder)
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
        return Model.load(folder)

    def model(self, key: str) -> Model:
        """See Engine.model."""
        if not (self.models / key / "training.json").exists():
            raise ModelLost(f"{self.models / key} holds no model; materialize deepar_model for its week again")
        return Model.load(self.models / key)

    def prepare(self, model: Model, panel: Panel, folder: Path, shards: int) -> tuple[Batch, tuple[str, ...]]:
        """See Engine.prepare."""
        return prepare_batch(model, panel, folder, shards)

    def transform(
        self,
        model: Model,
        batch: Batch,
        num_samples: int,
        quantiles: Sequence[float],
        seed: int,
        progress: Progress | None = None,
    ) -> int:
        """See Engine.transform."""
        network = deepar.load_artifact(model.artifact)
        config = inference_config(num_samples, quantiles)
        shards = batch.shards()
        lines = 0
        for number, (source, output) in enumerate(shards, 1):
            with one_thread():
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
