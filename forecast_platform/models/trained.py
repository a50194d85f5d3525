"""A model as the platform keeps it: chosen, trained, judged, and addressed by the digest of all that decides it.

Asking for the same training again finds the stored model, so reruns and backfills in any order give equal forecasts.
"""

from __future__ import annotations

import ast
import datetime as dt
import functools
import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from forecast_platform import deepar
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.levels import SUMS
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.choose import Judgement, choose
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.encoding import Categories, digest
from forecast_platform.models.networks import MIN_OBSERVATIONS, fit, target_of, trainable, with_epochs
from forecast_platform.models.registry import CANDIDATES, in_order
from forecast_platform.models.target import SALES, build_target
from forecast_platform.weeks import WEEK, WeekCalendar


class ModelLost(LookupError):
    """A model named in the `models` table is not stored any more; the message says what to do."""


class TooLittleHistory(ValueError):
    """There is not enough data to train on; the message says how much there is and how much is needed."""


@dataclass(frozen=True)
class TrainedModel:
    """A model on disk: training.json and, of a candidate that learns, model.tar.gz in `folder`.

    Attributes:
        target: the candidate chosen, a key of registry.CANDIDATES.
        share, calibration: how its forecasts are combined with the lead's and widened (choose.Choice).
        features: covariates it was trained with, in order.
        holidays: events it was given as features of their own, see build_target.
        code: the code_version that trained it; "" for a model stored before this was kept.
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
    code: str = ""

    @property
    def learns(self) -> bool:
        """Whether there is an artifact to forecast with; else the candidate forecasts straight from the history."""
        return CANDIDATES[self.target].learns

    @property
    def artifact(self) -> Path:
        return self.folder / "model.tar.gz"

    def save(self) -> None:
        data = {**asdict(self), "categories": self.categories.to_json(), "folder": None}
        text = json.dumps(data, indent=1, default=str)
        (self.folder / "training.json").write_text(text)

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        data = json.loads((folder / "training.json").read_text())
        judgement = Judgement(**data.pop("judgement"))
        if judgement.cutoff:
            judgement = Judgement(**{**asdict(judgement), "cutoff": dt.date.fromisoformat(str(judgement.cutoff))})
        factors, edges, sums = (data["calibration"][name] for name in ("factors", "edges", "sums"))
        if isinstance(sums, list):  # of a model made before there were levels by attributes
            sums = dict(zip((level.name for level in SUMS), sums, strict=True))
        dependence = Dependence(**data["calibration"].get("dependence", {}))  # none: each series by itself, as then
        data |= {
            "folder": folder,
            "categories": Categories.from_json(data["categories"]),
            "judgement": judgement,
            "trained_as_of": dt.date.fromisoformat(data["trained_as_of"]),
            "calibration": Calibration(tuple(map(tuple, factors)), tuple(edges), sums, dependence),
            "features": tuple(data["features"]),
            "holidays": tuple(data.get("holidays", ())),
        }
        return cls(**data)


def code_of(folder: Path) -> str | None:
    """The `code` of a stored model, whichever version of the platform stored it; None where there is none."""
    file = folder / "training.json"
    return str(json.loads(file.read_text()).get("code", "")) if file.exists() else None


# What decides a model: these modules, and whatever of DECIDING they import, directly or not. Everything else of the
# platform may change without a new model.
ROOTS = ("forecast_platform.models.trained",)
DECIDING = ("forecast_platform.models", "forecast_platform.history", "forecast_platform.deepar")


@functools.cache
def code_version() -> str:
    """Digest of the source that decides a model: a change of that code is a change of model."""
    content = hashlib.sha256()
    for _, path in sorted(deciding_modules().items()):
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def deciding_modules() -> dict[str, Path]:
    """The modules of ROOTS and of what they import, by the import statements in their source: name -> file."""
    top = Path(__file__).parents[2]
    found: dict[str, Path] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        base = top.joinpath(*name.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if name in found or not name.startswith(DECIDING) or not path.is_file():
            continue
        found[name] = path
        waiting.append(name.rpartition(".")[0])  # the package it lies in
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [each.name for each in node.names]
    return found


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
    first = next(iter(in_order(candidates).values()))
    need = int(first.get("context_length", 0)) + 2 * int(first["prediction_length"])
    enough = len(earlier.weeks) >= need and trainable(earlier, first).observed.sum() >= MIN_OBSERVATIONS
    return earlier if enough else panel


def training_key(panel: Panel, candidates: Plans, num_samples: int) -> str:
    """Digest of everything that decides a model: data, hyperparameters, code.

    Raises:
        ValueError: a covariate declared as known ahead is not, for the weeks ahead.
    """
    first = next(iter(in_order(candidates).values()))
    full = {name: with_epochs(name, parameters, panel) for name, parameters in candidates.items()}
    # Which columns can be used depends on the weeks ahead, and one may be covariate or exposure.
    ready, _ = complete(panel, int(first["prediction_length"]))
    used = repr([part and part.names for part in (ready.covariates, ready.exposure)])
    return digest(panel, json.dumps(full, sort_keys=True), str(num_samples), used, code_version())


def check_history(panel: Panel, candidates: Plans) -> None:
    """Raises TooLittleHistory when no candidate could be trained, if any is to be."""
    if not any(CANDIDATES[name].learns for name in candidates):
        return
    first = next(iter(in_order(candidates).values()))
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
    """Choose among the candidates, train the chosen one on everything, and write training.json."""
    choice = choose(panel, candidates, num_samples, progress)
    parameters = with_epochs(choice.name, candidates[choice.name], panel)
    ready, _ = complete(panel, int(parameters["prediction_length"]))
    record = TrainedModel(
        folder=folder,
        version=f"{choice.name}-{key[:12]}",
        digest=key,
        trained_as_of=panel.weeks[-1].astype(dt.date),
        categories=Categories.of(panel),
        hyperparameters=dict(parameters),
        series=len(panel),
        observations=int(panel.observed.sum()),
        judgement=choice.judgement,
        target=choice.name,
        share=choice.share,
        calibration=choice.calibration,
        code=code_version(),
    )
    if record.learns:
        record = _trained(record, ready, progress, checkpoint)
    record.save()


def _trained(record: TrainedModel, ready: Panel, progress: Progress | None, checkpoint: Path | None) -> TrainedModel:
    """Train the network and write model.tar.gz.

    Args:
        ready: the panel, from `complete`.
    """
    started = time.perf_counter()
    horizon = int(record.hyperparameters["prediction_length"])
    view = build_target(divide_exposure(ready), horizon, target_of(record.target))
    model, categories = fit(record.hyperparameters, view, progress, checkpoint)
    return replace(
        record,
        version=deepar.save_artifact(model, record.artifact),
        categories=categories,
        features=ready.covariates.names if ready.covariates else (),
        loss_curve=[float(loss) for loss in model.loss_curve],
        train_seconds=time.perf_counter() - started,
        train_windows=int(model.train_windows),
    )
