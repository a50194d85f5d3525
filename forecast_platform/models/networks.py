"""DeepAR's candidates: networks on sales, on counts, and on the ratio to last year's outlook.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecast_platform import deepar
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer
from forecast_platform.models.candidate import Parameters, Prior, Progress, Quantiles
from forecast_platform.models.combine import InSales
from forecast_platform.models.encoding import Categories, to_series_set
from forecast_platform.models.last_year.reference import YEAR
from forecast_platform.models.target import (
    BLIND_FEATURES,
    PIECES,
    RATIO,
    REFERENCE,
    SALES,
    Target,
    build_target,
    origins,
    ratio_possible,
)

SKIP, COUNTS = "sales, lag skip", "sales, counts"
# The networks the platform ships, in SageMaker's names; what differs from SageMaker's defaults was measured
# (docs/ablations.md).
_SALES = {
    "context_length": "12",
    "learning_rate": "0.005",
    "learning_rate_schedule": "cosine",
    "num_layers": "1",
    "embedding_dimension": "4",
    "num_networks": "2",
}
SHIPPED: dict[str, dict[str, str]] = {
    SALES: _SALES,
    # A straight line from the last weeks to the forecast, beside the network: hard to beat for a random walk.
    SKIP: {**_SALES, "lag_skip": "on"},
    # Sales in pieces: few in a week, often none.
    COUNTS: {**_SALES, "likelihood": "negative-binomial"},
    # What Amazon's built-in DeepAR can be given: its own target, the reference as a feature.
    REFERENCE: {**_SALES, "num_networks": "1"},
    # A ratio to last year has no season and no size left to learn.
    RATIO: {
        **_SALES,
        "context_length": "4",
        "num_cells": "16",
        "embedding_dimension": "1",
        "scaling_length": "26",
        "time_features": "ignore",
        "lag_support": "24",
        "num_networks": "2",
        "blind_features": str(BLIND_FEATURES),
        "training_windows": "last",
    },
}
# How long to train, in training windows drawn, see `with_epochs`.
TRAIN_WINDOWS = {SALES: 200_000, PIECES: 200_000, REFERENCE: 200_000, RATIO: 400_000}  # by a target's networks together
REPEATS, CASE_REPEATS = 2, 5  # how often an observation (of the ratio: a case) is drawn at most, by each network
LEAST_WINDOWS = 16_000  # from fewer a network learns next to nothing, so a small retailer's are drawn more often
MOST_REPEATS = 15  # but cases of the ratio at most so often
# DeepAR's own lower limit (SageMaker: "at least 300 observations across all training time series").
MIN_OBSERVATIONS = 300
# The ratio to last year suits most retailers; sales by themselves are for the others. Where columns are known ahead it
# is the other way round: last year's week carries last year's promotions, which this year's need not follow.
PRIORS = {
    RATIO: Prior(4, 1), REFERENCE: Prior(4, 1), SALES: Prior(0.5, 2), SKIP: Prior(0.5, 2), COUNTS: Prior(0.5, 1, 10),
}  # fmt: skip
LARGE_COUNT = 100.0  # with a median from here on, counts need no distribution of their own
FEW_RETURNS = 0.02  # the part of a counting retailer's weeks that may be below 0: more was returned than sold


@dataclass(frozen=True)
class Network:
    """One of SHIPPED. See candidate.Candidate."""

    name: str
    learns: bool = True

    @property
    def parameters(self) -> Mapping[str, str]:
        return SHIPPED[self.name]

    @property
    def seasonal(self) -> bool:
        return target_of(self.name) in (RATIO, REFERENCE)

    @property
    def prior(self) -> Prior:
        return PRIORS[self.name]

    def unable(self, history: Panel, horizon: int, parameters: Parameters) -> str:
        if self.name == COUNTS and not _small_counts(history):
            return "sales are not small whole numbers"
        since = YEAR if target_of(self.name) == RATIO else 0
        context = int(parameters["context_length"])
        if target_of(self.name) in (RATIO, REFERENCE) and not ratio_possible(history, context, horizon):
            need = YEAR + context + horizon
            return f"needs {need} weeks, of them a year to refer to; there are {len(history.weeks)}"
        seen = history.observed[:, since:]
        long = seen.shape[1] - seen.argmax(axis=1) >= horizon
        known = int(seen[long].sum())
        return "" if known >= MIN_OBSERVATIONS else f"{known} observations to train on, {MIN_OBSERVATIONS} are needed"

    def forecast(
        self,
        parameters: Parameters,
        history: Panel,
        horizon: int,
        quantiles: Sequence[float],
        num_samples: int = 100,
        progress: Progress | None = None,
        retailer: Retailer = WHOLE,
    ) -> Quantiles:
        return network_forecast(self.name, parameters, history, horizon, quantiles, num_samples, progress, retailer)


def target_of(name: str) -> str:
    """What a candidate forecasts: SALES, PIECES, REFERENCE or RATIO."""
    return {SKIP: SALES, COUNTS: PIECES}.get(name, name)


def trainable(panel: Panel, parameters: Parameters) -> Panel:
    """The series DeepAR trains on: those of at least prediction_length weeks. The others are only forecast."""
    return panel.select((len(panel.weeks) - panel.first) >= int(parameters["prediction_length"]))


def with_epochs(name: str, parameters: Parameters, panel: Panel) -> dict[str, str]:
    """The hyperparameters with `epochs`, where none are given and the candidate is a network.

    They are enough to draw TRAIN_WINDOWS windows. But each observation is drawn no more than REPEATS times (a case of
    the ratio CASE_REPEATS times), or the networks would learn a small retailer by heart. An epoch draws one window of
    each series, or of each case.
    """
    if name not in SHIPPED:
        return dict(parameters)
    windows = TRAIN_WINDOWS[target_of(name)] // int(parameters.get("num_networks", "1"))  # of each network
    if target_of(name) == RATIO:
        cases = len(panel) * len(origins(panel))
        repeats = min(max(LEAST_WINDOWS / cases, CASE_REPEATS), MOST_REPEATS)
        return {"epochs": str(max(round(min(windows / cases, repeats)), 1)), **parameters}
    windows = min(windows, max(REPEATS * int(panel.observed.sum()), LEAST_WINDOWS))
    an_epoch = max(len(panel), int(parameters.get("mini_batch_size", deepar.HyperParameters.mini_batch_size)))
    return {"epochs": str(min(max(windows // an_epoch, 10), 1000)), **parameters}


def training_set(parameters: Parameters, target: Target) -> tuple[deepar.SeriesSet, Categories]:
    """The records that a network is trained on, of the series long enough to train on, and their categories."""
    panels = [trainable(case, parameters) for case in target.cases()]
    categories = Categories.of(*panels)

    def series(panel: Panel) -> deepar.SeriesSet:
        features = None if panel.covariates is None else panel.covariates.values[:, :, : len(panel.weeks)]
        return to_series_set(panel, categories, features)

    return deepar.SeriesSet.concatenate([series(panel) for panel in panels if len(panel)]), categories


def fit(
    parameters: Parameters, target: Target, progress: Progress | None = None, checkpoint: Any = None
) -> tuple[deepar.Model, Categories]:
    """Train on `training_set`. Returns the model, and the codes of stores and departments that it was trained with."""
    series, categories = training_set(parameters, target)

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        if progress:
            progress("train", done, total)

    with one_thread():
        model = deepar.train(
            series, deepar.HyperParameters.parse(dict(parameters)), progress=report, checkpoint=checkpoint
        )
    return model, categories


def network_forecast(
    name: str,
    parameters: Parameters,
    history: Panel,
    horizon: int,
    quantiles: Sequence[float],
    num_samples: int = 100,
    progress: Progress | None = None,
    retailer: Retailer = WHOLE,
) -> Quantiles:
    """Train a network on the history and forecast with it: quantiles (N, Q, H), in sales."""
    ready, _ = complete(history, horizon)
    target = build_target(divide_exposure(ready), horizon, target_of(name), retailer=retailer)
    chosen = {**with_epochs(name, parameters, history), "prediction_length": str(horizon)}
    model, categories = fit(chosen, target, progress)
    with one_thread():
        result = deepar.predict(
            model,
            to_series_set(target.panel, categories, target.features),
            num_samples=num_samples,
            quantiles=tuple(f"{q:g}" for q in quantiles),
            seed=int(parameters["seed"]),
            output_types=("quantiles",),
        )
    assert result.quantiles is not None
    return InSales.of(target, ready).quantiles(result.quantiles.astype(np.float64))


def _small_counts(panel: Panel) -> bool:
    """Whether sales are whole numbers, mostly small, hardly ever below 0, and not to be divided by an exposure."""
    sales = panel.sales[panel.observed]
    whole = bool((sales < 0).mean() <= FEW_RETURNS and (sales == np.floor(sales)).all())
    return whole and panel.exposure is None and float(np.median(sales)) < LARGE_COUNT


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch: networks this small are slower on several, and other processes can use the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


NETWORKS = tuple(Network(name) for name in SHIPPED)
