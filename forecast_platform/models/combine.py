"""From what a candidate says to what is forecast, in sales: its units, its share of the median, the widths of its
intervals, the least that is sold, open days, and series that have stopped.

Written once: backtests judge what `Combination` gives, and publication publishes it.

Letters: N series, Q quantile levels, S sample paths, H weeks ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
class Combination:
    """How a candidate's output for N series and H weeks ahead becomes a forecast.

    Attributes:
        unit, offset: sales = output * unit - offset, open days included; shape (N, H).
        lead: what is forecast without learning, in sales; shape (N, H).
        share: the candidate's part of the median; the rest is the lead's.
        widths: factors of the intervals about the median, shape (N, H).
        least: what no forecast goes below, shape (N,), from `least_sales`.
        returns: the probability that each series still sells, shape (N, H), see silence.probability_of_return.
    """

    unit: Floats
    offset: Floats
    lead: Floats
    share: float
    widths: Floats
    least: Floats
    returns: Floats

    @classmethod
    def of_target(cls, target: Target, panel: Panel) -> Combination:
        """The candidate alone: its outputs in sales, and nothing below the least of them.

        Args:
            panel: the one that the target was built from, before it was divided by its exposure.
        """
        opened = exposure_ahead(panel, target.unit.shape[1])
        times = np.ones_like(target.unit) if opened is None else opened
        alone = cls._alone(target.unit * times, target.offset[:, None] * times, target.lead * times)
        return replace(alone, least=least_sales(panel.sales))

    @classmethod
    def of_sales(cls, lead: Floats) -> Combination:
        """The candidate alone, whose outputs are sales already."""
        return cls._alone(np.ones_like(lead), np.zeros_like(lead), lead)

    @classmethod
    def _alone(cls, unit: Floats, offset: Floats, lead: Floats) -> Combination:
        return cls(unit, offset, lead, 1.0, np.ones_like(unit), np.full(len(unit), -np.inf), np.ones_like(unit))

    def select(self, among: slice) -> Combination:
        """That of some of the series."""
        return replace(
            self,
            unit=self.unit[among],
            offset=self.offset[among],
            lead=self.lead[among],
            widths=self.widths[among],
            least=self.least[among],
            returns=self.returns[among],
        )

    def trusting(self, panel: Panel, share: float, calibration: Calibration, retailer: Retailer = WHOLE) -> Combination:
        """The same by what backtests found out, for the series of a panel that ends at the cutoff.

        Args:
            retailer: where the panel is a shard that does not say yet which series return.
        """
        horizon = self.unit.shape[1]
        return replace(
            self,
            share=share,
            widths=calibration.widths(volume(panel.sales), horizon),
            least=least_sales(panel.sales),
            returns=probability_of_return(panel, horizon, retailer) if panel.returns is None else panel.returns,
        )

    def quantiles(self, outputs: Floats, levels: Sequence[float]) -> Floats:
        """What is forecast, in sales, shape (N, Q, H).

        Args:
            outputs: the candidate's quantiles, shape (N, Q, H). levels: Q of them, ascending, with 0.5.
        """
        said = in_sales(outputs, self.unit, self.offset)
        return fade_quantiles(self._moved(said, said[:, list(levels).index(0.5)]), levels, self.returns)

    def paths(self, outputs: Floats, median: Floats, keys: Sequence[str]) -> Floats:
        """The same for sample paths, shape (N, S, H).

        Args:
            median: the candidate's, as it says it, shape (N, H).
            keys: name the series, so that which path fades when is the same in every shard.
        """
        said, median = (in_sales(each, self.unit, self.offset) for each in (outputs, median[:, None]))
        return fade_paths(self._moved(said, median[:, 0]), self.returns, keys)

    def _moved(self, said: Floats, median: Floats) -> Floats:
        return combine(said, median, self.lead, self.share, self.widths, self.least)


def combine(forecast: Floats, median: Floats, lead: Floats, share: float, widths: Floats, least: Floats) -> Floats:
    """A candidate's quantiles or paths moved to a median it shares with the lead, and spread about it.

    Args:
        forecast: shape (N, K, H), in sales; median, lead and widths (1: as they are) are (N, H).
        share: the candidate's part of the median.
        least: shape (N,), from `least_sales`.
    """
    centre = share * median + (1 - share) * lead
    spread = centre[:, None] + (forecast - median[:, None]) * widths[:, None]
    return np.maximum(spread, least[:, None, None]) + 0.0  # which makes 0 of -0


def in_sales(outputs: Floats, unit: Floats, offset: Floats) -> Floats:
    """Outputs, shape (N, K, H), K quantiles or paths, in sales; unit and offset have shape (N, H)."""
    return np.asarray(outputs * unit[:, None] - offset[:, None])


def least_sales(history: Floats) -> Floats:
    """What no forecast of a series goes below, shape (N,): 0 unless its history (N, T) knows returns above sales."""
    return np.where((history < 0).any(axis=1), -np.inf, 0.0)
