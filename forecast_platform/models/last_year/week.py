"""Forecasts that need no learning: what a model has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.models.metrics import SEASON, check_quantiles

# A series needs so many seasonal differences, or their spread is not used: a quarter of a year.
MIN_DIFFERENCES = 13

Floats = NDArray[np.float64]


def seasonal_naive(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """Last year's week as the forecast, with normal intervals: (N, Q, H) float64, in the units of the sales.

    The median is the value 52 weeks back, the year repeating for horizons beyond 52; where that week was not
    observed, the series' last observation. The standard deviation at step h is s * sqrt(k), s the root mean
    square of the series' seasonal differences x[t] - x[t - 52] and k = 1 + (h - 1) // 52 the seasons ahead. A
    series with fewer than MIN_DIFFERENCES of them takes the root mean square of its first differences, times
    sqrt(h); a series with neither gets an interval of width 0. (Hyndman & Athanasopoulos, "Forecasting:
    Principles and Practice", 3rd ed., sections 5.2 and 5.5.)

    Args:
        history: sales up to the cutoff, which is its last week (Panel.until).
        horizon: H, weeks ahead.
        quantiles: Q ascending levels that hold 0.5.

    Raises:
        ValueError: horizon below 1, or quantiles out of order.
    """
    levels = check_quantiles(quantiles)
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; at least one week ahead is needed")
    x = history.sales
    step = np.arange(horizon)
    year = np.pad(x, ((0, 0), (SEASON, 0)), constant_values=np.nan)[:, -SEASON:]
    last_value = x[np.arange(len(x)), history.last][:, None]
    median = year[:, step % SEASON]
    median = np.where(np.isnan(median), last_value, median)

    seasonal, pairs = _rms_difference(x, SEASON)
    walk, _ = _rms_difference(x, 1)
    spread = np.where(
        (pairs >= MIN_DIFFERENCES)[:, None],
        seasonal[:, None] * np.sqrt(1 + step // SEASON),
        walk[:, None] * np.sqrt(1 + step),
    )
    z = np.array([NormalDist().inv_cdf(level) for level in levels])
    z[np.isclose(levels, 0.5)] = 0
    forecast: Floats = median[:, None] + z[:, None] * spread[:, None]
    return forecast


def _rms_difference(x: Floats, lag: int) -> tuple[Floats, NDArray[np.int64]]:
    """Root mean square of x[t] - x[t - lag] over the observed pairs (0 if none), and how many there are."""
    step = x[:, lag:] - x[:, :-lag]
    pairs = (~np.isnan(step)).sum(axis=1)
    return np.sqrt(np.nansum(step**2, axis=1) / np.maximum(pairs, 1)), pairs
