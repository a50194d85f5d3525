"""Where work runs: the protocol of an engine, and what is the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from forecast_platform.engines.batch import Batch, write_batch, write_said
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.combine import Combination
from forecast_platform.models.networks import COUNTS, target_of
from forecast_platform.models.registry import CANDIDATES
from forecast_platform.models.target import build_target
from forecast_platform.models.trained import TrainedModel
from forecast_platform.settings import Settings

# What is asked of a candidate that forecasts without a network: paths are drawn between these quantiles.
SAID = (0.001, 0.005, *(k / 100 for k in range(1, 100)), 0.995, 0.999)


def prepare_batch(model: TrainedModel, panel: Panel, folder: Path, shards: int) -> tuple[Batch, tuple[str, ...]]:
    """Engine.prepare, the same wherever DeepAR runs."""
    horizon = int(model.hyperparameters["prediction_length"])
    ready, notices = complete(panel, horizon, wanted=model.features)
    if not model.learns:
        said, lead = CANDIDATES[model.target].forecast(model.hyperparameters, panel, horizon, SAID)
        combination = Combination.of_sales(lead).trusting(panel, model.share, model.calibration)
        return write_said(folder, panel, said, SAID, combination, shards), notices
    view = build_target(divide_exposure(ready), horizon, target_of(model.target), model.holidays)
    if model.target == COUNTS:  # returns, or weeks divided by open days, may have come since it was trained
        counts = np.maximum(np.round(view.panel.sales), 0)
        view = replace(view, panel=replace(view.panel, sales=counts))
    combination = Combination.of_target(view, ready).trusting(panel, model.share, model.calibration)
    return write_batch(folder, ready, view, model.categories, shards, combination), notices


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

    def prepare(self, model: TrainedModel, panel: Panel, folder: Path, shards: int) -> tuple[Batch, tuple[str, ...]]:
        """Batch files for all series of a panel that ends at the cutoff, and notices about its covariates.

        Raises:
            ValueError: a covariate the model was trained with is missing, now or for the weeks ahead.
        """
        ...

    def transform(
        self,
        model: TrainedModel,
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
