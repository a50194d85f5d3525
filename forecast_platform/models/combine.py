"""From the forecasts of candidates to the one that is published: units, open days, widths of intervals, a lower bound,
and series that have stopped.

Both backtests and publication use `Combination`, so what is scored is what is published.

Letters: N series, Q quantile levels, S sample paths, H weeks ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.covariates import exposure_ahead
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer
from forecast_platform.history.silence import fade_paths, fade_quantiles, probability_of_return
from forecast_platform.models.calibration import Calibration, volume
from forecast_platform.models.target import Target

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class InSales:
    """Turns a network's outputs into sales = output * unit - offset.

    Attributes:
        unit, offset: in sales, multiplied by the exposure of the weeks ahead, shape (N, H).
        least: see `least_sales`, shape (N,).
    """

    unit: Floats
    offset: Floats
    least: Floats

    @classmethod
    def of(cls, target: Target, panel: Panel) -> InSales:
        """For a target, and the panel that it was built from, before that was divided by its exposure."""
        exposure = exposure_ahead(panel, target.unit.shape[1])
        factor = np.ones_like(target.unit) if exposure is None else exposure
        return cls(target.unit * factor, target.offset[:, None] * factor, least_sales(panel.sales))

    def quantiles(self, outputs: Floats, among: slice = slice(None)) -> Floats:
        """Quantiles or paths in sales, shape (N, K, H).

        Args:
            outputs: shape (N, K, H), of all series, or of those `among` them.
        """
        forecast = outputs * self.unit[among, None]
        forecast -= self.offset[among, None]
        return _at_least(forecast, self.least[among])


@dataclass(frozen=True)
class Combination:
    """How a blend of candidates for N series and H weeks ahead becomes a forecast.

    Attributes:
        widths: factors of the intervals about the median, shape (N, H).
        least: what no forecast goes below, shape (N,), from `least_sales`.
        returns: the probability that each series still sells, shape (N, H), see silence.probability_of_return.
    """

    widths: Floats
    least: Floats
    returns: Floats

    @classmethod
    def of(cls, panel: Panel, horizon: int, calibration: Calibration, retailer: Retailer = WHOLE) -> Combination:
        """For the series of a panel that ends at the cutoff.

        Args:
            calibration: from backtests.
            retailer: where the panel is a shard without `returns`, the sums over all shards.
        """
        return cls(
            calibration.widths(volume(panel.sales), horizon),
            least_sales(panel.sales),
            probability_of_return(panel, horizon, retailer) if panel.returns is None else panel.returns,
        )

    def select(self, among: slice) -> Combination:
        """The combination of some of the series."""
        return Combination(self.widths[among], self.least[among], self.returns[among])

    def quantiles(self, blend: Floats, levels: Sequence[float]) -> Floats:
        """What is forecast, shape (N, Q, H).

        Args:
            blend: quantiles in sales, shape (N, Q, H). levels: Q of them, ascending, with 0.5.
        """
        spread = spread_about(blend, blend[:, list(levels).index(0.5)], self.widths, self.least)
        return fade_quantiles(spread, levels, self.returns)

    def paths(self, blend: Floats, median: Floats, keys: Sequence[str]) -> Floats:
        """The same for sample paths, shape (N, S, H).

        Args:
            blend: paths in sales, shape (N, S, H). median: the blend's, shape (N, H).
            keys: a name for each series, which decides in what order its paths fade: the same in every shard.
        """
        return fade_paths(spread_about(blend, median, self.widths, self.least), self.returns, keys)


def spread_about(forecast: Floats, median: Floats, widths: Floats, least: Floats) -> Floats:
    """median + widths * (forecast - median), but not below `least`; shape (N, K, H).

    Args:
        forecast: quantiles or paths, shape (N, K, H).
        median, widths: shape (N, H).
        least: from `least_sales`, shape (N,).
    """
    spread = forecast - median[:, None]
    spread *= widths[:, None]
    spread += median[:, None]
    return _at_least(spread, least)


def _at_least(forecast: Floats, least: Floats) -> Floats:
    """The forecast, shape (N, K, H), raised to `least`, shape (N,); in place, to spare memory."""
    np.maximum(forecast, least[:, None, None], out=forecast)
    forecast += 0.0  # makes 0 of -0
    return forecast


def least_sales(history: Floats) -> Floats:
    """The lower bound of each series' forecast, shape (N,): 0, or -inf where its history, shape (N, T), was below 0."""
    return np.where((history < 0).any(axis=1), -np.inf, 0.0)
