"""Where work runs: the protocol of an engine, and what is the same in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from forecast_platform import deepar
from forecast_platform.engines.predictions import Predictions, ShardForecast
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer, over_shards
from forecast_platform.levels import SUMS
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.combine import Combination
from forecast_platform.models.encoding import to_series_set
from forecast_platform.models.networks import COUNTS, one_thread, target_of
from forecast_platform.models.registry import CANDIDATES
from forecast_platform.models.target import Target, build_target
from forecast_platform.models.trained import TrainedModel
from forecast_platform.models.without_learning import between, draw_paths
from forecast_platform.settings import Settings

# What is asked of a candidate that forecasts without a network: paths are drawn between these quantiles.
SAID = (0.001, 0.005, *(k / 100 for k in range(1, 100)), 0.995, 0.999)
_AT_ONCE = 2_000  # series, whose sample paths are in memory together

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
        """The same for DeepAR, as DEEPAR_INFERENCE_CONFIG has it; the seed goes beside it."""
        return {
            "num_samples": self.num_samples,
            "output_types": ["quantiles", "samples"],
            "quantiles": [f"{q:g}" for q in self.quantiles],
        }


@dataclass(frozen=True)
class Prepared:
    """A shard of N series, ready to be forecast by a model.

    Attributes:
        panel: which series, with their covariates complete.
        target: what the network is shown; None where there is none.
        said: the candidate's own quantiles where there is no network, at SAID, shape (N, len(SAID), H).
        combination: how outputs become sales.
        notices: about covariates, in words.
    """

    panel: Panel
    target: Target | None
    said: Floats | None
    combination: Combination
    notices: tuple[str, ...]

    def forecast(self, outputs: tuple[Floats, Floats], asked: Asked, among: slice = slice(None)) -> ShardForecast:
        """In sales, from quantiles (B, Q, H) and sample paths (B, S, H) as the network or candidate says them.

        Args:
            among: which of the series they are of.
        """
        panel, how = only(self.panel, among), self.combination.select(among)
        quantiles, samples = outputs
        paths = how.paths(samples, quantiles[:, asked.quantiles.index(0.5)], names_of(panel))
        return ShardForecast.of(panel, how.quantiles(quantiles, asked.quantiles), paths, (*SUMS, *panel.levels))


def prepare(model: TrainedModel, panel: Panel, retailer: Retailer = WHOLE) -> Prepared:
    """The first half of a forecast, the same wherever the network runs.

    Args:
        panel: series to forecast that ends at the cutoff: all of them, or with its `retailer` a shard.

    Raises:
        ValueError: a covariate the model was trained with is missing, now or for the weeks ahead.
    """
    horizon = int(model.hyperparameters["prediction_length"])
    ready, notices = complete(panel, horizon, wanted=model.features, retailer=retailer)
    if not model.learns:
        candidate = CANDIDATES[model.target]
        said, lead = candidate.forecast(model.hyperparameters, panel, horizon, SAID, retailer=retailer)
        combination = Combination.of_sales(lead).trusting(panel, model.share, model.calibration, retailer)
        return Prepared(ready, None, said, combination, notices)
    view = build_target(divide_exposure(ready), horizon, target_of(model.target), model.holidays, retailer)
    if model.target == COUNTS:  # negative sales, or weeks divided by open days, may have come since it was trained
        counts = np.maximum(np.round(view.panel.sales), 0)
        view = replace(view, panel=replace(view.panel, sales=counts))
    combination = Combination.of_target(view, ready).trusting(panel, model.share, model.calibration, retailer)
    return Prepared(ready, view, None, combination, notices)


def predict_here(
    model: TrainedModel, panel: Panel, folder: Path, asked: Asked, shards: int, progress: Progress | None = None
) -> tuple[Predictions, tuple[str, ...]]:
    """Engine.predict in this process: one shard in memory at a time, and of it the sample paths of some series."""
    horizon = int(model.hyperparameters["prediction_length"])
    network = deepar.load_artifact(model.artifact) if model.learns else None
    parts = split(panel, shards)
    notices: list[str] = []

    def forecasts() -> Iterator[ShardForecast]:
        for number, ready in enumerate(over_shards(parts, lambda shard, rest: prepare(model, shard, rest)), 1):
            notices[:] = ready.notices
            blocks = [slice(low, low + _AT_ONCE) for low in range(0, len(ready.panel), _AT_ONCE)]
            with one_thread():
                outputs = ((_outputs(model, network, ready, block, asked), block) for block in blocks)
                found = [ready.forecast(each, asked, block) for each, block in outputs]
            yield ShardForecast.together(found)
            if progress:
                progress("predict", number, len(parts))

    made = Predictions.write(folder, forecasts(), asked.quantiles, horizon, model.version, asked.as_known, panel.levels)
    return made, tuple(notices)


def names_of(panel: Panel) -> list[str]:
    """What decides the random numbers of each series."""
    return [f"{store}\0{dept}" for store, dept in zip(panel.store, panel.dept, strict=True)]


def only(panel: Panel, among: slice) -> Panel:
    """Some of a panel's series."""
    keep = np.zeros(len(panel), dtype=bool)
    keep[among] = True
    return panel.select(keep)


def split(panel: Panel, shards: int) -> list[Panel]:
    """The panel in as many shards of about the same number of series, none of them empty."""
    if not len(panel):
        return []
    bounds = np.arange(len(panel)) * min(shards, len(panel)) // len(panel)
    return [panel.select(bounds == shard) for shard in np.unique(bounds)] if bounds[-1] else [panel]


def _outputs(
    model: TrainedModel, network: deepar.Model | None, ready: Prepared, block: slice, asked: Asked
) -> tuple[Floats, Floats]:
    """Quantiles and sample paths of some of the series, in the network's units."""
    if network is None or ready.target is None:
        assert ready.said is not None
        said = ready.said[block]
        paths = draw_paths(said, SAID, names_of(only(ready.panel, block)), asked.num_samples, asked.seed)
        return between(said, SAID, np.array(asked.quantiles)), paths
    seen = only(ready.target.panel, block)
    features = None if seen.covariates is None else seen.covariates.values
    config = asked.config()
    found = deepar.predict(
        network,
        to_series_set(seen, model.categories, features),
        asked.num_samples,
        config["quantiles"],
        asked.seed,
        config["output_types"],
    )
    assert found.quantiles is not None
    assert found.samples is not None
    return found.quantiles.astype(np.float64), found.samples.astype(np.float64)


class Engine(Protocol):
    """Where DeepAR runs. Engines differ in the machine that does the work, not in the forecasts.

    Attributes:
        models: folder of the models at hand.
        run_id: of the run that asks, for engines that name it on what they create.
    """

    models: Path
    run_id: str

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
        panel: Panel,
        folder: Path,
        asked: Asked,
        shards: int,
        progress: Progress | None = None,
    ) -> tuple[Predictions, tuple[str, ...]]:
        """Forecasts of all series of a panel that ends at the cutoff, and notices about its covariates.

        Args:
            folder: is replaced; its name is the week's.
            shards: into how many the series are divided; results do not depend on it.

        Raises:
            ValueError: a covariate the model was trained with is missing, now or for the weeks ahead.
        """
        ...

    def predictions(self, folder: Path) -> Predictions:
        """Those made earlier, also by another machine. Raises BatchError when they are nowhere to be found."""
        ...

    def receipt(self) -> dict[str, Any]:
        """What the work since the last receipt cost, for the asset's page; empty where nothing is billed. A dict in it
        is links: name -> address."""
        ...


class EngineError(RuntimeError):
    """The machine that DeepAR runs on did not do the work, or would cost too much; the message says what to do."""
