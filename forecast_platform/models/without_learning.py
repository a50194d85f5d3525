"""Candidates that learn nothing from the retailer: last year's week, last year lined up by its holidays, the recent
level, the last value, a forecast of intermittent sales, and a network that ships trained.

They can forecast where a history is too short to train on, and they win where there is nothing to learn.

Letters: N series, Q quantile levels, H weeks ahead, T weeks known.
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
from forecast_platform.history.shards import WHOLE, Groups, Retailer
from forecast_platform.models.candidate import Parameters, Prior, Progress, Quantiles
from forecast_platform.models.last_year.outlook import aligned_last_year
from forecast_platform.models.last_year.reference import MAX_HORIZON, YEAR
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.pretrained import network
from forecast_platform.models.target import FIRST_ORIGIN

FEWEST_WEEKS = 8  # of the retailer's history: one or two weeks say nothing of a level
HALF_LIFE = 13  # observations after which a week counts half
SIZES_HALF_LIFE = 52  # the same for sizes of intermittent sales, which are few
OF_DEPARTMENT = 2.0  # the department's probability of a sale counts as much as so many weeks of the series' own
SEASON_SALES = 30.0  # an index of 1 counts as much as so many series with a sale, in each week of the year
SEASON_RANGE = (0.2, 5.0)  # a seasonal index is cut to this
FEW_CHANGES = 4  # with fewer changes from week to week, their spread says nothing

Floats = NDArray[np.float64]
# History, H, quantile levels, the retailer that the history is a shard of -> quantiles (N, Q, H).
Forecast = Callable[[Panel, int, Sequence[float], Retailer], Floats]


@dataclass(frozen=True)
class WithoutLearning:
    """A forecast straight from the history. See candidate.Candidate.

    Attributes:
        weeks: weeks of history that it needs. horizon: weeks ahead that it reaches; 0: any.
    """

    name: str
    prior: Prior
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
    ) -> Quantiles:
        ready, _ = complete(history, horizon, retailer=retailer)
        forecast = self.quantiles_of(divide_exposure(ready), horizon, quantiles, retailer)
        return multiply_exposure(forecast, ready, horizon)


def recent_level(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """Quantiles of each series' past weeks, later weeks weighing more; the same for every week ahead. (N, Q, H), in the
    units of the sales."""
    found = weighted_quantiles(history.sales, _recency(history, HALF_LIFE), quantiles)
    return np.repeat(found[:, :, None], horizon, axis=2)


def intermittent(history: Panel, horizon: int, quantiles: Sequence[float], retailer: Retailer = WHOLE) -> Floats:
    """For intermittent sales: 0 with some probability, else one of the sizes of the series' own sales. (N, Q, H), in
    the units of the sales.

    The probability that a week has a sale is updated in weeks without sales too, so it falls when an article stops
    (Teunter, Syntetos and Babai 2011). It is shrunk towards the department's. The department's seasonal index makes
    sales more frequent; where they cannot become so, in articles that sell every week, it makes them larger.
    """
    sales, known = np.nan_to_num(history.sales), len(history.weeks)
    sold, weight, depts = sales > 0, _recency(history, HALF_LIFE), Groups.of(history.dept)
    usual = sales.sum(axis=1) / history.observed.sum(axis=1)
    usual_sales = usual[:, None] * history.observed
    with_sale, weeks = (weight * sold).sum(axis=1), weight.sum(axis=1)
    of_dept, dept_with_sale, dept_weeks = retailer.sums(
        (depts, np.stack([sales, usual_sales, sold], axis=1)), (depts, with_sale), (depts, weeks)
    )
    season = _seasonal_index(of_dept, known + horizon)[depts.member]
    prior = (dept_with_sale / dept_weeks)[depts.member]
    chance = np.clip((with_sale + OF_DEPARTMENT * prior) / (weeks + OF_DEPARTMENT), 1e-4, 0.999)
    ahead = season[:, known:] / ((weight * season[:, :known]).sum(axis=1) / weeks)[:, None]
    chance_ahead = 1 - (1 - chance)[:, None] ** ahead
    levels = ((np.arange(50) + 0.5) / 50).tolist()
    found = weighted_quantiles(np.where(sold, sales, np.nan), _recency(history, SIZES_HALF_LIFE), levels)
    found = np.where(sold.any(axis=1, keepdims=True), found, 0.0)
    found = found[:, :, None] * (ahead * chance[:, None] / chance_ahead)[:, None]
    among_sales = (np.asarray(quantiles) - (1 - chance_ahead[:, :, None])) / chance_ahead[:, :, None]  # (N, H, Q)
    return np.where(among_sales.swapaxes(1, 2) > 0, between(found, levels, np.clip(among_sales, 0, 1)), 0.0)


def last_value(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """Each series' last observation, with normal intervals that grow as those of a random walk. Their spread is that of
    the series' changes from week to week, or its last value where there are few changes. (N, Q, H), in the units of the
    sales."""
    sales = history.sales
    last = sales[np.arange(len(sales)), history.last]
    step = np.diff(sales, axis=1)
    count = (~np.isnan(step)).sum(axis=1)
    own = np.sqrt(np.nansum(step**2, axis=1) / np.maximum(count, 1))
    spread = np.where(count >= FEW_CHANGES, own, np.abs(last))[:, None] * np.sqrt(1 + np.arange(horizon))
    z = np.array([NormalDist().inv_cdf(level) for level in quantiles])
    return np.asarray(last[:, None, None] + z[None, :, None] * spread[:, None])


def pretrained(history: Panel, horizon: int, quantiles: Sequence[float], retailer: Retailer = WHOLE) -> Floats:
    """The forecast of the network that ships trained (pretrained/network.py). (N, Q, H), in the units of the sales."""
    forecast = network.shipped().forecast(network.Inputs.of(history, horizon, retailer))
    return between(forecast, network.LEVELS, np.asarray(quantiles))


def draw_paths(forecast: Floats, levels: Sequence[float], names: Sequence[str], num_samples: int, seed: int) -> Floats:
    """Sample paths from quantiles, week by week, with the uniforms that networks sample with: in each week the paths
    share the distribution evenly. The uniforms of a series depend on its name and the seed alone.

    Args:
        forecast: quantiles at `levels`, shape (N, L, H). names: of the N series.

    Returns:
        Paths, shape (N, S, H).
    """
    digests = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in names]
    keys = mix(np.array(digests, dtype=np.uint64) + np.uint64(seed))
    chance = uniforms(keys, forecast.shape[2], num_samples, 1)[0].swapaxes(0, 1)  # (N, H, S)
    return between(forecast, levels, chance)


def between(forecast: Floats, levels: Sequence[float], asked: NDArray[Any]) -> Floats:
    """Quantiles at any levels: linear between those known, constant beyond them.

    Args:
        forecast: quantiles at `levels`, shape (N, L, H).
        asked: the levels asked for, shape (K,); or those of each series and week, shape (N, H, K).

    Returns:
        Shape (N, K, H).
    """
    values, known = forecast.swapaxes(1, 2), np.asarray(levels)
    chance = np.broadcast_to(asked, (*values.shape[:2], asked.shape[-1]))
    at = np.clip(np.searchsorted(known, chance, side="right"), 1, len(known) - 1)
    part = np.clip((chance - known[at - 1]) / (known[at] - known[at - 1]), 0, 1)
    low, high = (np.take_along_axis(values, where, axis=2) for where in (at - 1, at))
    return np.ascontiguousarray((low + part * (high - low)).swapaxes(1, 2))


def _recency(history: Panel, half_life: float) -> Floats:
    """The weight of each week: halved with every `half_life` observations after it; 0 where not observed, (N, T)."""
    later = np.cumsum(history.observed[:, ::-1], axis=1)[:, ::-1] - 1
    return np.where(history.observed, 0.5 ** (later / half_life), 0.0)


def weighted_quantiles(values: Floats, weights: Floats, levels: Sequence[float]) -> Floats:
    """Weighted quantiles of each row of values, shape (N, T), NaN left out: linear between the midpoints of the values'
    weights, shape (N, Q). With equal weights it is numpy's method "hazen". NaN for a row without values."""
    weights = np.where(np.isnan(values), 0, weights)
    order = np.argsort(values, axis=1, kind="stable")  # NaN last
    values, weights = (np.take_along_axis(each, order, axis=1) for each in (values, weights))
    until = np.cumsum(weights, axis=1)
    middle = (until - weights / 2) / np.where(until[:, -1:] > 0, until[:, -1:], 1)
    last = np.maximum((weights > 0).sum(axis=1) - 1, 0)[:, None]
    found = []
    for level in levels:
        above = np.minimum((middle < level).sum(axis=1)[:, None], last)
        below = np.maximum(above - 1, 0)
        low, high, start, end = (
            np.take_along_axis(each, at, axis=1)[:, 0] for each in (values, middle) for at in (below, above)
        )
        part = np.clip((level - start) / np.where(end > start, end - start, 1), 0, 1)
        found.append(low + part * (high - low))
    return np.stack(found, axis=1)


def _seasonal_index(of_dept: Floats, weeks: int) -> Floats:
    """The seasonal index of each department and week: its sales over what its series usually sell, smoothed over the
    weeks of the year near it and shrunk towards 1. Shape (D, weeks), 1 where nothing is known.

    Args:
        of_dept: its sales, what its series usually sell, and how many of them sold anything, shape (D, 3, T).
        weeks: from the first week of the history on.
    """
    place = np.arange(of_dept.shape[2]) % YEAR
    year = np.stack([of_dept[:, :, place == week].sum(axis=2) for week in range(YEAR)], axis=2)
    near = np.sum([(1 - abs(shift) / 4) * np.roll(year, shift, axis=2) for shift in range(-3, 4)], axis=0)
    sold, usual, count = near.swapaxes(0, 1)
    index = np.clip(np.divide(sold, usual, out=np.ones_like(sold), where=usual > 0), *SEASON_RANGE)
    shrunk = (index * count + SEASON_SALES) / (count + SEASON_SALES)
    return np.asarray(shrunk[:, np.arange(weeks) % YEAR])


def _by_itself(forecast: Callable[[Panel, int, Sequence[float]], Floats]) -> Forecast:
    """The forecast of each series by itself: it needs nothing of the retailer."""
    return lambda history, horizon, quantiles, _: forecast(history, horizon, quantiles)


WITHOUT_LEARNING = (
    WithoutLearning("aligned_last_year", Prior(2, 1), aligned_last_year, FIRST_ORIGIN, MAX_HORIZON, seasonal=True),
    WithoutLearning("pretrained", Prior(6, 2), pretrained, FIRST_ORIGIN, MAX_HORIZON, seasonal=True),
    WithoutLearning("last_year", Prior(0.25, 0.25), _by_itself(seasonal_naive), YEAR, seasonal=True),
    WithoutLearning("recent_level", Prior(0.25, 0.25, 10), _by_itself(recent_level), FEWEST_WEEKS),
    WithoutLearning("intermittent", Prior(0.25, 0.25, 100), intermittent, FEWEST_WEEKS),
    WithoutLearning("last_value", Prior(0.25, 0.25), _by_itself(last_value), FEWEST_WEEKS),
)
