"""Where work runs: the protocol of an engine, and what is the same in all of them."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import forecast_platform
from forecast_platform import deepar
from forecast_platform.engines.predictions import Predictions, ShardForecast, write_shard, written_shard
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.history.panel_file import NAME as PANEL
from forecast_platform.history.panel_file import load_panel
from forecast_platform.history.shards import WHOLE, Retailer, Run, over_shards
from forecast_platform.levels import SUMS
from forecast_platform.models.blend import kinds
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.combine import Combination, InSales
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.encoding import to_series_set
from forecast_platform.models.networks import COUNTS, one_thread, target_of
from forecast_platform.models.registry import CANDIDATES
from forecast_platform.models.target import Target, build_target
from forecast_platform.models.trained import TREES_FILE, TrainedModel, TrainedNetwork, code_version
from forecast_platform.models.trees import TREES, Trees
from forecast_platform.models.without_learning import between, draw_paths
from forecast_platform.settings import Settings

# Levels of the quantiles that a candidate without a network gives; its sample paths are drawn between them.
FINE_LEVELS = (0.001, 0.005, *(k / 100 for k in range(1, 100)), 0.995, 0.999)
NOTHING: Mapping[str, pa.Table] = MappingProxyType({})
_AT_ONCE = 512  # series whose sample paths are in memory together

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """What is asked of a batch prediction: the quantiles, from how many sample paths, drawn with which seed.

    Attributes:
        as_known: of the data as known "now" or "then".
    """

    quantiles: tuple[float, ...]
    num_samples: int
    seed: int
    as_known: str = "now"

    def config(self) -> dict[str, Any]:
        """The same for DeepAR, in the form of DEEPAR_INFERENCE_CONFIG; the seed is passed separately."""
        return {
            "num_samples": self.num_samples,
            "output_types": ["quantiles", "samples"],
            "quantiles": [f"{q:g}" for q in self.quantiles],
        }


@dataclass(frozen=True)
class ToAsk:
    """A network of the blend, and what forecasting N series with it takes: its weight in the blend (N,), its inputs
    (target), and how its outputs become sales."""

    network: TrainedNetwork
    weight: Floats
    target: Target
    in_sales: InSales


# A network's outputs for B series, in its own units: quantiles (B, Q, H) and sample paths (B, S, H).
Outputs = tuple[Floats, Floats]


@dataclass(frozen=True)
class Prepared:
    """A shard of N series, ready to be forecast by a model.

    Attributes:
        panel: the series, with their covariates complete.
        to_ask: the networks of the blend.
        without_network: the part of the blend that needs no network: weighted quantiles at FINE_LEVELS, shape
            (N, len(FINE_LEVELS), H); None where there is none.
        combination: how the blend becomes a forecast.
        dependence: which values of different series and weeks go together in a sample path.
        notices: sentences for people, about covariates.
    """

    panel: Panel
    to_ask: tuple[ToAsk, ...]
    without_network: Floats | None
    combination: Combination
    dependence: Dependence
    notices: tuple[str, ...]

    def forecast(self, outputs: Sequence[Outputs], asked: Asked, among: slice = slice(None)) -> ShardForecast:
        """The forecast of some of the series, in sales.

        Args:
            outputs: of each network. among: the series they are of.
        """
        panel, how = only(self.panel, among), self.combination.select(among)
        quantiles, paths = self._blended(outputs, asked, among, names_of(panel))
        paths = self.dependence.arranged(paths, panel.store, panel.dept, asked.seed)
        paths = how.paths(paths, quantiles[:, asked.quantiles.index(0.5)], names_of(panel))
        published = how.quantiles(quantiles, asked.quantiles)
        return ShardForecast.of(panel, published, asked.quantiles, paths, (*SUMS, *panel.levels))

    def _blended(
        self, outputs: Sequence[Outputs], asked: Asked, among: slice, names: Sequence[str]
    ) -> tuple[Floats, Floats]:
        """Quantiles and sample paths of the blend.

        Each quantile of the blend is the weighted mean of the candidates' quantiles of that level. Its sample values
        are too, each week in ascending order: Dependence.arranged decides which path each value belongs to.
        """
        if not self.to_ask:
            assert self.without_network is not None
            known = self.without_network[among]
            drawn = draw_paths(known, FINE_LEVELS, names, asked.num_samples, asked.seed)
            return between(known, FINE_LEVELS, np.array(asked.quantiles)), drawn
        own = [ask.in_sales.quantiles(found[0], among) for ask, found in zip(self.to_ask, outputs, strict=True)]
        paths = [ask.in_sales.quantiles(found[1], among) for ask, found in zip(self.to_ask, outputs, strict=True)]
        if len(paths) == 1 and self.without_network is None:
            return own[0], paths[0]
        quantiles, ascending = np.zeros_like(own[0]), np.zeros_like(paths[0])
        for ask, of_quantiles, of_paths in zip(self.to_ask, own, paths, strict=True):
            weight = ask.weight[among, None, None]
            quantiles += weight * of_quantiles
            ascending += weight * np.sort(of_paths, axis=1)
        if self.without_network is not None:
            ranks = (np.arange(asked.num_samples) + 0.5) / asked.num_samples
            quantiles += between(self.without_network[among], FINE_LEVELS, np.array(asked.quantiles))
            ascending += between(self.without_network[among], FINE_LEVELS, ranks)
        return quantiles, ascending


def prepare(model: TrainedModel, panel: Panel, retailer: Retailer = WHOLE) -> Prepared:
    """The first half of a forecast, the same wherever the networks run.

    Args:
        panel: series to forecast that ends at the cutoff: all of them, or with its `retailer` a shard.

    Raises:
        ValueError: a covariate the model was trained with is missing, now or for the weeks ahead.
    """
    horizon = model.horizon
    ready, notices = complete(panel, horizon, wanted=model.features, retailer=retailer)
    if model.code != code_version():
        warning = "its forecasts can differ from those that its intervals' widths were fitted to"
        notices = (*notices, f"{model.version} was made by another version of the platform: {warning}")
    weights = {name: np.array(weights)[kinds(panel.sales)] for name, weights in model.blend.weights.items()}
    without_network = None
    for name, weight in weights.items():
        if not CANDIDATES[name].learns:
            found = CANDIDATES[name].forecast({}, panel, horizon, FINE_LEVELS, retailer=retailer)
        elif name == TREES.name:
            found = Trees.load(model.folder / TREES_FILE).forecast(panel, horizon, FINE_LEVELS, retailer)
        else:
            continue  # networks forecast later, wherever they run
        without_network = weight[:, None, None] * found + (0 if without_network is None else without_network)
    opened = divide_exposure(ready)
    to_ask = []
    for network in model.networks:
        view = build_target(opened, horizon, target_of(network.name), network.holidays, retailer)
        if network.name == COUNTS:  # since it was trained, sales below 0 or divided by open days may have come
            counts = np.maximum(np.round(view.panel.sales), 0)
            view = replace(view, panel=replace(view.panel, sales=counts))
        to_ask.append(ToAsk(network, weights[network.name], view, InSales.of(view, ready)))
    combination = Combination.of(panel, horizon, model.calibration, retailer)
    return Prepared(ready, tuple(to_ask), without_network, combination, model.calibration.dependence, notices)


Shard = Panel | Path  # a panel, or the folder that its file lies in (history/panel_file.py)


def opened(shard: Shard) -> Panel:
    """The panel of a shard."""
    return load_panel(shard) if isinstance(shard, Path) else shard


@dataclass(frozen=True)
class Work:
    """One shard's forecast, wherever it is made. What it takes as arguments and returns can be sent between processes.

    Attributes:
        building: where the shard's files go.
    """

    model: TrainedModel
    asked: Asked
    building: Path

    def __call__(self, shard: tuple[int, Shard], retailer: Retailer) -> dict[str, Any]:
        """The entry of predictions.json for what was written, with notices about covariates."""
        number, place = shard
        if (before := written_shard(self.building, number)) is not None:
            return before
        ready = prepare(self.model, opened(place), retailer)
        blocks = [slice(low, low + _AT_ONCE) for low in range(0, len(ready.panel), _AT_ONCE)]
        with one_thread():
            found = [
                ready.forecast(
                    [_outputs(self.model, ask, block, self.asked) for ask in ready.to_ask], self.asked, block
                )
                for block in blocks
            ]
        more = {"notices": ready.notices}
        return write_shard(self.building, number, ShardForecast.together(found), self.asked.quantiles, more)


@functools.lru_cache(maxsize=4)
def _network(artifact: Path) -> deepar.Model:
    return deepar.load_artifact(artifact)


def predict_here(
    model: TrainedModel,
    shards: Sequence[Shard],
    folder: Path,
    asked: Asked,
    progress: Progress | None = None,
    beside: Mapping[str, pa.Table] = NOTHING,
    run: Run = map,
) -> tuple[Predictions, tuple[str, ...]]:
    """Engine.predict on this machine. In memory are the sample paths of some series of a shard at a time.

    Where shards are files, work is kept under the `prediction_key`: a killed prediction that is asked for again goes on
    where it was.

    Args:
        run: maps attempts to outcomes, see `over_shards`.
    """
    key = prediction_key(model, shards, asked)
    building = building_of(folder, key)
    for other in folder.parent.glob(f"{folder.name}.*.building"):
        if other != building or not key:
            shutil.rmtree(other)
    building.mkdir(parents=True, exist_ok=True)
    work = building / "work" if key else None
    step = Work(model, asked, building)
    written: list[dict[str, Any]] = []
    for entry in over_shards(list(enumerate(shards)), step, run, work):
        written.append(entry)
        if progress:
            progress("predict", len(written), len(shards))
    if work:
        shutil.rmtree(work, ignore_errors=True)
    levels = opened(shards[0]).levels if shards else ()
    made = Predictions.finish(
        building, folder, written, asked.quantiles, model.horizon, model.version, asked.as_known, levels, beside
    )
    return made, tuple(dict.fromkeys(notice for entry in written for notice in entry["notices"]))


def building_of(folder: Path, key: str) -> Path:
    """The folder in which predictions are built before they become `folder`; `key` is their `prediction_key`."""
    return folder.with_name(f"{folder.name}.{key}.building")


def prediction_key(model: TrainedModel, shards: Sequence[Shard], asked: Asked) -> str:
    """Digest of all that decides the forecasts and what shards keep on the way; "" where nothing is kept: a shard is no
    file, or there is only one. It includes the whole source, since what a shard keeps fits only the code that kept it.
    """
    found = hashlib.sha256(repr((model.digest, source_digest(), asked)).encode())
    for shard in shards:
        if not isinstance(shard, Path):
            return ""
        with (shard / PANEL).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12] if len(shards) > 1 else ""


@functools.cache
def source_digest() -> str:
    """Digest of the platform's source, as this process has it."""
    top, found = Path(forecast_platform.__file__).parent, hashlib.sha256()
    for path in sorted(top.rglob("*.py")):
        found.update(path.relative_to(top).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def names_of(panel: Panel) -> list[str]:
    """A name for each series, which decides its random numbers."""
    return [f"{store}\0{dept}" for store, dept in zip(panel.store, panel.dept, strict=True)]


def only(panel: Panel, among: slice) -> Panel:
    """Some of a panel's series."""
    keep = np.zeros(len(panel), dtype=bool)
    keep[among] = True
    return panel.select(keep)


def split(panel: Panel, shards: int) -> list[Panel]:
    """The panel in so many shards of about the same number of series, in fewer where one would be empty."""
    if not len(panel):
        return []
    bounds = np.arange(len(panel)) * min(shards, len(panel)) // len(panel)
    return [panel.select(bounds == shard) for shard in np.unique(bounds)] if bounds[-1] else [panel]


def _outputs(model: TrainedModel, ask: ToAsk, block: slice, asked: Asked) -> Outputs:
    """A network's outputs for some of the series."""
    seen = only(ask.target.panel, block)
    features = None if seen.covariates is None else seen.covariates.values
    config = asked.config()
    found = deepar.predict(
        _network(model.artifact(ask.network)),
        to_series_set(seen, ask.network.categories, features),
        asked.num_samples,
        config["quantiles"],
        asked.seed,
        config["output_types"],
    )
    assert found.quantiles is not None
    assert found.samples is not None
    return found.quantiles.astype(np.float64), found.samples.astype(np.float64)


Submit = Callable[[dict[str, Any]], None]


class Engine(Protocol):
    """Where DeepAR runs. Engines differ in the machine that does the work, not in the forecasts.

    Attributes:
        models: folder of the models at hand.
        run_id: of the run that asks; engines that create jobs tag them with it.
        submit: runs a job of this request to its end, or raises EngineError. Only an engine uses it that forecasts by a
            job of Spark elsewhere.
        run: maps work on the shards of a large retailer to outcomes, see `over_shards`.
    """

    models: Path
    run_id: str
    submit: Submit
    run: Run

    def candidates(self, settings: Settings) -> Plans:
        """What may be trained, by an installation's settings."""
        ...

    def train(
        self, panel: Panel, candidates: Plans, progress: Progress | None = None, num_samples: int = 100
    ) -> TrainedModel:
        """The model for a panel that ends at its cutoff: stored, or chosen among the candidates and trained now.

        Raises:
            TooLittleHistory: fewer weeks than one training window, or fewer observations than DeepAR accepts.
            ValueError: a covariate declared as known ahead is not, for the weeks ahead.
        """
        ...

    def model(self, key: str) -> TrainedModel:
        """A model trained earlier, by its digest. Raises ModelLost when it is nowhere to be found."""
        ...

    def predict(
        self,
        model: TrainedModel,
        shards: Sequence[Shard],
        folder: Path,
        asked: Asked,
        progress: Progress | None = None,
        beside: Mapping[str, pa.Table] = NOTHING,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """Forecasts of all series up to the cutoff, and notices about their covariates.

        Args:
            shards: panels that end at the cutoff; results do not depend on how the series are divided among them.
            folder: is replaced; its name is the week's.
            beside: rows of tables to be kept with them, see Predictions.finish.

        Raises:
            ValueError: a covariate the model was trained with is missing, now or for the weeks ahead.
        """
        ...

    def shard_size(self, settings: Settings, weeks: int, columns: int) -> tuple[int, int]:
        """How many series a shard may have at most, and how many shards there are at least.

        Args:
            weeks: of history. columns: features that landed.
        """
        ...

    def predictions(self, folder: Path) -> Predictions:
        """Predictions made earlier, also by another machine. Raises BatchError when they are nowhere to be found."""
        ...

    def receipt(self) -> dict[str, Any]:
        """What the work since the last receipt cost, for the asset's page; empty where nothing is billed. A dict in it
        is links: name -> address."""
        ...


class EngineError(RuntimeError):
    """The machine that DeepAR runs on did not do the work, or would cost too much; the message says what to do."""
