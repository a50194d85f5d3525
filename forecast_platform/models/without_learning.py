"""Candidates that learn nothing here: last year's week, last year lined up by its holidays, the recent level, and a
network that ships trained.

They are at hand where a history is too short to train on, and they win where there is nothing to learn.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform.deepar.randomness import mix, uniforms
from forecast_platform.history.covariates import complete, divide_exposure, multiply_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer
from forecast_platform.models.candidate import Parameters, Progress, Said
from forecast_platform.models.last_year.outlook import aligned_last_year
from forecast_platform.models.last_year.reference import MAX_HORIZON, YEAR
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.pretrained import network
from forecast_platform.models.target import FIRST_ORIGIN

RECENT_WEEKS = 26
FEWEST_WEEKS = 8  # of the retailer's history: a week or two are no level
FEW_CHANGES = 4  # from week to week, below which their spread says nothing

Floats = NDArray[np.float64]
# History, H, levels, the rest of the retailer -> (N, Q, H).
Forecast = Callable[[Panel, int, Sequence[float], Retailer], Floats]


@dataclass(frozen=True)
class WithoutLearning:
    """A forecast straight from the history. See candidate.Candidate.

    Attributes:
        weeks: of history that it needs. horizon: weeks ahead that it reaches; 0: any.
    """

    name: str
    prior: float
    quantiles_of: Forecast
    weeks: int
    horizon: int = 0
    seasonal: bool = False
    learns: bool = False

    @property
    def parameters(self) -> Mapping[str, str]:
        return {}

    def unable(self, history: Panel, horizon: int, parameters: Parameters) -> str:
        if self.horizon and horizon > self.horizon:
            return f"reaches {self.horizon} weeks ahead; {horizon} are asked for"
        known = len(history.weeks)
        return "" if known >= self.weeks else f"needs {self.weeks} weeks; there are {known}"

    def forecast(
        self,
        parameters: Parameters,
        history: Panel,
        horizon: int,
        quantiles: Sequence[float],
        num_samples: int = 100,
        progress: Progress | None = None,
        retailer: Retailer = WHOLE,
    ) -> Said:
        ready, _ = complete(history, horizon, retailer=retailer)
        said = self.quantiles_of(divide_exposure(ready), horizon, quantiles, retailer)
        return multiply_exposure(said, ready, horizon)


def recent_level(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """The distribution of each series' last RECENT_WEEKS observed weeks, the same for every week ahead: what is left to
    say of articles that sell now and then. (N, Q, H), in the units of the sales."""
    order = np.cumsum(history.observed[:, ::-1], axis=1)[:, ::-1]  # 1 for a series' last observation, then 2 ..
    recent = np.where(history.observed & (order <= RECENT_WEEKS), history.sales, np.nan)
    found = np.nanquantile(recent, quantiles, axis=1, method="hazen").T
    return np.repeat(found[:, :, None], horizon, axis=2)


def last_value(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """Each series' last observation, with intervals that grow as a random walk's would: from the spread of its changes
    from week to week, or as wide as its level where there are few of them. (N, Q, H), in units of the sales."""
    sales = history.sales
    last = sales[np.arange(len(sales)), history.last]
    step = np.diff(sales, axis=1)
    count = (~np.isnan(step)).sum(axis=1)
    own = np.sqrt(np.nansum(step**2, axis=1) / np.maximum(count, 1))
    spread = np.where(count >= FEW_CHANGES, own, np.abs(last))[:, None] * np.sqrt(1 + np.arange(horizon))
    z = np.array([NormalDist().inv_cdf(level) for level in quantiles])
    return np.asarray(last[:, None, None] + z[None, :, None] * spread[:, None])


def pretrained(history: Panel, horizon: int, quantiles: Sequence[float], retailer: Retailer = WHOLE) -> Floats:
    """By the network that ships trained, (N, Q, H): see pretrained/network.py."""
    said = network.shipped().say(network.Inputs.of(history, horizon, retailer))
    return between(said, network.LEVELS, np.asarray(quantiles))


def draw_paths(said: Floats, levels: Sequence[float], names: Sequence[str], num_samples: int, seed: int) -> Floats:
    """Sample paths by quantiles, week by week, with the uniforms that networks sample with: the paths share the
    distribution evenly. A series' paths depend on its name and the seed alone.

    Args:
        said: quantiles, shape (N, L, H), at `levels`. names: of the N series.

    Returns:
        Paths, shape (N, S, H).
    """
    digests = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in names]
    keys = mix(np.array(digests, dtype=np.uint64) + np.uint64(seed))
    chance = uniforms(keys, said.shape[2], num_samples, 1)[0].swapaxes(0, 1)  # (N, H, S)
    return between(said, levels, chance)


def between(said: Floats, levels: Sequence[float], asked: NDArray[Any]) -> Floats:
    """Quantiles at any levels, straight between those known and level beyond them.

    Args:
        said: at `levels`, shape (N, L, H). asked: shape (K,), or (N, H, K): of each series and week its own.

    Returns:
        Shape (N, K, H).
    """
    values, known = said.swapaxes(1, 2), np.asarray(levels)
    chance = np.broadcast_to(asked, (*values.shape[:2], asked.shape[-1]))
    at = np.clip(np.searchsorted(known, chance, side="right"), 1, len(known) - 1)
    part = np.clip((chance - known[at - 1]) / (known[at] - known[at - 1]), 0, 1)
    low, high = (np.take_along_axis(values, where, axis=2) for where in (at - 1, at))
    return np.ascontiguousarray((low + part * (high - low)).swapaxes(1, 2))


def _each(forecast: Callable[[Panel, int, Sequence[float]], Floats]) -> Forecast:
    """One that looks at each series by itself."""
    return lambda history, horizon, quantiles, _: forecast(history, horizon, quantiles)


WITHOUT_LEARNING = (
    WithoutLearning("aligned_last_year", 4.0, aligned_last_year, FIRST_ORIGIN, MAX_HORIZON, seasonal=True),
    WithoutLearning("pretrained", 4.0, pretrained, FIRST_ORIGIN, MAX_HORIZON, seasonal=True),
    WithoutLearning("last_year", 0.25, _each(seasonal_naive), YEAR, seasonal=True),
    WithoutLearning("recent_level", 0.25, _each(recent_level), FEWEST_WEEKS),
    WithoutLearning("last_value", 0.25, _each(last_value), FEWEST_WEEKS),
)
