"""From what candidates say to what is forecast, in sales: units, open days, the widths of the intervals, the least that
is sold, and series that have stopped.

Written once: backtests judge what `Combination` gives, and publication publishes it.

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
    """From a network's outputs to sales = output * unit - offset, open days included.

    Attributes:
        unit, offset: shape (N, H).
        least: see `least_sales`.
    """

    unit: Floats
    offset: Floats
    least: Floats

    @classmethod
    def of(cls, target: Target, panel: Panel) -> InSales:
        """Of a target and the panel that it was built from, before that was divided by its exposure."""
        opened = exposure_ahead(panel, target.unit.shape[1])
        times = np.ones_like(target.unit) if opened is None else opened
        return cls(target.unit * times, target.offset[:, None] * times, least_sales(panel.sales))

    def quantiles(self, outputs: Floats, among: slice = slice(None)) -> Floats:
        """Quantiles or paths in sales, shape (N, K, H), of all series or of those `among` them."""
        said = outputs * self.unit[among, None]
        said -= self.offset[among, None]
        return _at_least(said, self.least[among])


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
        """By what backtests found out, for the series of a panel that ends at the cutoff.

        Args:
            retailer: where the panel is a shard that does not say yet which series return.
        """
        return cls(
            calibration.widths(volume(panel.sales), horizon),
            least_sales(panel.sales),
            probability_of_return(panel, horizon, retailer) if panel.returns is None else panel.returns,
        )

    def select(self, among: slice) -> Combination:
        """That of some of the series."""
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
            median: the blend's, shape (N, H).
            keys: name the series, so that which path fades when is the same in every shard.
        """
        return fade_paths(spread_about(blend, median, self.widths, self.least), self.returns, keys)


def spread_about(forecast: Floats, median: Floats, widths: Floats, least: Floats) -> Floats:
    """Quantiles or paths spread about a median.

    Args:
        forecast: shape (N, K, H); median and widths (1: as they are) are (N, H).
        least: shape (N,), from `least_sales`.
    """
    spread = forecast - median[:, None]
    spread *= widths[:, None]
    spread += median[:, None]
    return _at_least(spread, least)


def _at_least(said: Floats, least: Floats) -> Floats:
    """Nothing below what is least, shape (N,); in place, for these are most of a prediction's numbers."""
    np.maximum(said, least[:, None, None], out=said)
    said += 0.0  # which makes 0 of -0
    return said


def least_sales(history: Floats) -> Floats:
    """What no forecast of a series goes below, shape (N,): 0 unless its history (N, T) knows returns above sales."""
    return np.where((history < 0).any(axis=1), -np.inf, 0.0)
