"""A model as the platform stores it: the blend's weights, the trained networks and trees, and how they were judged.

A model is found by the digest of everything that decides it. The same training asked for again finds the stored model,
so reruns and backfills in any order give equal forecasts.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forecast_platform import deepar
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.models.blend import KINDS, Blend
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.choose import Choice, Judgement, choose
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.encoding import Categories, digest
from forecast_platform.models.networks import MIN_OBSERVATIONS, SHIPPED, fit, target_of, trainable, with_epochs
from forecast_platform.models.registry import CANDIDATES, in_order
from forecast_platform.models.target import build_target
from forecast_platform.models.trees import TREES, Trees
from forecast_platform.models.trees import train as train_trees
from forecast_platform.models.without_learning import FEWEST_WEEKS
from forecast_platform.weeks import WEEK, WeekCalendar

ARTIFACT = "model.tar.gz"  # of a model's first network
TREES_FILE = "trees.json"


class ModelLost(LookupError):
    """A model named in the `models` table is not stored any more; the message says what to do."""


class TooLittleHistory(ValueError):
    """There is not enough data to train on; the message says how much there is and how much is needed."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network of a model.

    Attributes:
        name: of its candidate, a key of registry.CANDIDATES.
        file: its artifact in the model's folder.
        version: of the artifact.
        categories: its codes of stores and departments.
        features: covariates it was trained with, in order.
        holidays: events it was given as features, see build_target.
    """

    name: str
    file: str
    version: str
    hyperparameters: dict[str, str]
    categories: Categories
    features: tuple[str, ...] = ()
    holidays: tuple[str, ...] = ()
    loss_curve: list[float] = field(default_factory=list)
    train_seconds: float = field(default=0.0, compare=False)
    train_windows: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainedNetwork:
        given = {**data, "categories": Categories.from_json(data["categories"])}
        return cls(**given | {name: tuple(data[name]) for name in ("features", "holidays")})


@dataclass(frozen=True)
class TrainedTrees:
    """Trees of a model, in TREES_FILE of its folder.

    Attributes:
        version: a digest of the file.
        features: covariates they were trained with, in order.
    """

    version: str
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: Path) -> TrainedTrees:
        """Of a file that Trees.save wrote.

        Raises:
            ValueError: it is of another version of the platform.
        """
        version = "trees-" + hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        return cls(version, Trees.load(file).features)


@dataclass(frozen=True)
class TrainedModel:
    """A model on disk: training.json and the artifacts of its networks in `folder`.

    Attributes:
        target: of the candidates that learned, the one with the largest weight; without any, of all candidates.
        hyperparameters: of the target.
        blend, calibration: see choose.Choice.
        networks, trees: what was trained; the network with the largest weight first.
        code: the code_version that trained it; "" for a model stored before it was recorded.
    """

    folder: Path
    version: str
    digest: str
    trained_as_of: dt.date
    hyperparameters: dict[str, str]
    series: int
    observations: int
    judgement: Judgement
    target: str
    blend: Blend
    calibration: Calibration = field(default_factory=Calibration)
    networks: tuple[TrainedNetwork, ...] = ()
    trees: TrainedTrees | None = None
    code: str = ""

    @property
    def horizon(self) -> int:
        """Weeks ahead."""
        return int(self.hyperparameters["prediction_length"])

    @property
    def features(self) -> tuple[str, ...]:
        """Covariates that its networks and trees were trained with, in order."""
        return next((learned.features for learned in (*self.networks, self.trees) if learned), ())

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the artifacts in its folder."""
        return (*(network.file for network in self.networks), *((TREES_FILE,) if self.trees else ()))

    @property
    def network_share(self) -> float:
        """The networks' part of the blend, as a mean over the kinds of series."""
        return sum(self.blend.usual.get(network.name, 0.0) for network in self.networks)

    @property
    def tried(self) -> dict[str, dict[str, Any]]:
        """For people: candidate -> its weights by kind of series, its WAPE and wQL by itself in the newest window, and
        why it was left out, where it has any of these."""
        found: dict[str, dict[str, Any]] = {}
        for name in CANDIDATES:
            weights = self.blend.weights.get(name)
            wape, wql = self.judgement.alone.get(name, (None, None))
            scores = {"wape": wape, "wql": wql} if wape is not None else {}
            why = {"left_out": self.judgement.left_out[name]} if name in self.judgement.left_out else {}
            by_kind = {"weights": dict(zip(KINDS, weights, strict=True))} if weights else {}
            if entry := by_kind | scores | why:
                found[name] = entry
        return found

    def artifact(self, network: TrainedNetwork) -> Path:
        return self.folder / network.file

    def save(self) -> None:
        data = {**asdict(self), "folder": None}
        for kept, network in zip(data["networks"], self.networks, strict=True):
            kept["categories"] = network.categories.to_json()
        text = json.dumps(data, indent=1, default=str)
        (self.folder / "training.json").write_text(text)

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        """The model stored in a folder.

        Raises:
            ModelLost: it was made before candidates were blended. No blend gives the forecasts of such a model, which
                had the intervals of one network about a mixed median.
        """
        data = json.loads((folder / "training.json").read_text())
        if "blend" not in data:
            raise ModelLost(
                f"{folder} holds a model made by an earlier version of the platform, which this one cannot forecast "
                "with; materialize deepar_model for its week again"
            )
        saved = data.pop("judgement")
        cutoff = saved["cutoff"] and dt.date.fromisoformat(saved["cutoff"])
        alone = {name: (wape, wql) for name, (wape, wql) in saved.get("alone", {}).items()}
        judgement = Judgement(**{**saved, "cutoff": cutoff, "alone": alone})
        factors, edges, sums = (data["calibration"][name] for name in ("factors", "edges", "sums"))
        trees = data.get("trees")
        dependence = Dependence(**data["calibration"]["dependence"])
        data |= {
            "folder": folder,
            "judgement": judgement,
            "trained_as_of": dt.date.fromisoformat(data["trained_as_of"]),
            "blend": Blend({name: tuple(weights) for name, weights in data["blend"]["weights"].items()}),
            "calibration": Calibration(tuple(map(tuple, factors)), tuple(edges), sums, dependence),
            "networks": tuple(map(TrainedNetwork.from_json, data["networks"])),
            "trees": trees and TrainedTrees(trees["version"], tuple(trees["features"])),
        }
        return cls(**data)


def code_of(folder: Path) -> str | None:
    """The `code` of the model in a folder, whichever version of the platform stored it; None without a model there."""
    file = folder / "training.json"
    return str(json.loads(file.read_text()).get("code", "")) if file.exists() else None


# What decides a model: these modules, and all modules of DECIDING that they import, directly or not.
# Everything else of the platform may change without making another model.
ROOTS = ("forecast_platform.models.trained",)
DECIDING = tuple(f"forecast_platform.{name}" for name in ("models", "history", "deepar", "kernels"))


# How this project imports its own modules. (To parse their source takes most of a second, in every process.)
_IMPORT = re.compile(r"^ *from (forecast_platform[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


@functools.cache
def code_version() -> str:
    """Digest of the source files that decide a model: any change of them, a comment's too, makes another model."""
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
        for module, names in imports_of(path.read_text()):
            waiting += [module, *(f"{module}.{entry}" for entry in names)]
    return found


def imports_of(source: str) -> list[tuple[str, list[str]]]:
    """(module, names imported from it) of this project's modules."""
    return [(module, re.findall(r"\w+", names)) for module, names in _IMPORT.findall(source)]


def training_week(week: dt.date, calendar: WeekCalendar, retrain_every_weeks: int) -> dt.date:
    """The week whose model serves `week`: every `retrain_every_weeks`-th week of the calendar has one, and the last of
    these serves. It depends on the calendar alone, so backfills in any order make the same models."""
    position = int(calendar.index(week))
    return week - (position % retrain_every_weeks) * WEEK


def training_panel(panel: Panel, trained_as_of: dt.date, candidates: Plans) -> Panel:
    """What the model in force at the panel's end is trained on: the weeks up to `trained_as_of`, or all weeks where
    those are too few to train on and to hold out."""
    if panel.position(trained_as_of) < 0:
        return panel
    earlier = panel.until(trained_as_of)
    first = next(iter(in_order(candidates).values()))
    needed = int(first.get("context_length", 0)) + 2 * int(first["prediction_length"])
    enough = len(earlier.weeks) >= needed and trainable(earlier, first).observed.sum() >= MIN_OBSERVATIONS
    return earlier if enough else panel


def training_key(panel: Panel, candidates: Plans, num_samples: int) -> str:
    """Digest of everything that decides a model: data, hyperparameters, code.

    Raises:
        ValueError: a covariate declared as known ahead is not, for the weeks ahead.
    """
    first = next(iter(in_order(candidates).values()))
    full = {name: with_epochs(name, parameters, panel) for name, parameters in candidates.items()}
    # Which columns are used, as covariates or exposure, depends on the weeks ahead. The panel's digest omits those.
    ready, _ = complete(panel, int(first["prediction_length"]))
    used = repr([part and part.names for part in (ready.covariates, ready.exposure)])
    return digest(panel, json.dumps(full, sort_keys=True), str(num_samples), used, code_version())


def check_history(panel: Panel, candidates: Plans) -> None:
    """Check that some candidate can forecast.

    Raises:
        TooLittleHistory: none can.
    """
    first = next(iter(in_order(candidates).values()))
    horizon = int(first["prediction_length"])
    so_far = f"{len(panel.weeks)} weeks and {int(panel.observed.sum())} observations up to {panel.weeks[-1]}; a model "
    free = {name: CANDIDATES[name].unable(panel, horizon, {}) for name in candidates if not CANDIDATES[name].learns}
    if all(free.values()) and free:
        reasons = "; ".join(f"{name}: {why}" for name, why in free.items())
        raise TooLittleHistory(f"{so_far}needs {FEWEST_WEEKS} weeks ({reasons}). Land more history under sales/.")
    if free:
        return
    needed = int(first["context_length"]) + horizon
    observations = int(trainable(panel, first).observed.sum())
    if len(panel.weeks) < needed or observations < MIN_OBSERVATIONS:
        raise TooLittleHistory(
            f"{so_far}needs {needed} weeks (context_length + prediction_length) and {MIN_OBSERVATIONS} observations in "
            f"series of prediction_length weeks or more (now {observations}). Land more history under sales/."
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
    """Choose the blend, train its networks and trees on the whole panel, and write them and training.json."""
    choice = choose(panel, candidates, num_samples, progress)
    names = [name for name in choice.blend.usual if name in SHIPPED]
    if TREES.name in choice.blend.names:
        given = candidates[TREES.name]
        trees = train_trees(panel, int(given["prediction_length"]), int(given["seed"]), progress)
        trees.save(folder / TREES_FILE)
    ready, _ = complete(panel, int(next(iter(candidates.values()))["prediction_length"]))
    networks: list[TrainedNetwork] = []
    for name in names:
        checkpoint_folder = checkpoint and (checkpoint if len(names) == 1 else checkpoint / name)
        file = ARTIFACT if not networks else f"model-{len(networks) + 1}.tar.gz"
        parameters = with_epochs(name, candidates[name], panel)
        networks.append(_trained(folder / file, name, parameters, ready, progress, checkpoint_folder))
    kept_model(folder, key, panel, candidates, choice, networks).save()


def kept_model(
    folder: Path, key: str, panel: Panel, candidates: Plans, choice: Choice, networks: Sequence[TrainedNetwork]
) -> TrainedModel:
    """The model of a choice, given its networks; their artifacts, and its trees, are in the folder."""
    trees = TrainedTrees.of(folder / TREES_FILE) if TREES.name in choice.blend.names else None
    versions = {network.name: network.version for network in networks} | ({TREES.name: trees.version} if trees else {})
    target = next((name for name in choice.blend.usual if name in versions), next(iter(choice.blend.usual)))
    given = {network.name: network.hyperparameters for network in networks}
    return TrainedModel(
        folder=folder,
        version=versions.get(target, f"{target}-{key[:12]}"),
        digest=key,
        trained_as_of=panel.weeks[-1].astype(dt.date),
        hyperparameters=given.get(target, dict(candidates[target])),
        series=len(panel),
        observations=int(panel.observed.sum()),
        judgement=choice.judgement,
        target=target,
        blend=choice.blend,
        calibration=choice.calibration,
        networks=tuple(networks),
        trees=trees,
        code=code_version(),
    )


def _trained(
    artifact: Path,
    name: str,
    parameters: dict[str, str],
    ready: Panel,
    progress: Progress | None,
    checkpoint: Path | None,
) -> TrainedNetwork:
    """Train a network and write its artifact.

    Args:
        ready: the panel, from `complete`.
    """
    started = time.perf_counter()
    view = build_target(divide_exposure(ready), int(parameters["prediction_length"]), target_of(name))
    model, categories = fit(parameters, view, progress, checkpoint)
    return TrainedNetwork(
        name,
        artifact.name,
        deepar.save_artifact(model, artifact),
        parameters,
        categories,
        features=ready.covariates.names if ready.covariates else (),
        loss_curve=[float(loss) for loss in model.loss_curve],
        train_seconds=time.perf_counter() - started,
        train_windows=int(model.train_windows),
    )
