"""What the network is asked to forecast: sales, or their ratio to last year's week.

The ratio has no season left in it, which is what a short history cannot teach. Its forecast is led half by the network
and half by the reference itself: the median is their mean, the spread is the network's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.series.panel import Panel
from forecast_platform.series.reference import MAX_HORIZON, YEAR, growth, last_year

SALES, RATIO = "sales", "ratio"
# Measured on four cutoffs of Walmart: .3 to .7 differ by less than .001 in WAPE, and both ends are worse.
DEEPAR_SHARE = 0.5
_LARGEST_RATIO = 5.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """The network's view of N series.

    Attributes:
        panel: what it is trained on and conditioned on; the same series in the same order, ending at the cutoff.
        unit: what an output of 1 stands for in each week ahead, shape (N, H), in sales.
        level: the reference's own forecast in units, shape (N,); NaN where the network stands alone.
    """

    panel: Panel
    unit: Floats
    level: Floats

    def rescale(self, outputs: Floats, median: Floats) -> Floats:
        """`rescale` with this target's units and levels."""
        return rescale(outputs, median, self.unit, self.level)


def rescale(outputs: Floats, median: Floats, unit: Floats, level: Floats) -> Floats:
    """Outputs of the network in sales: shapes (N, K, H) quantiles or paths, with median (N, H)."""
    shift = np.where(np.isnan(level)[:, None], 0.0, (1 - DEEPAR_SHARE) * (level[:, None] - median))
    return np.asarray((outputs + shift[:, None]) * unit[:, None])


def ratio_possible(panel: Panel, context_length: int, horizon: int) -> bool:
    """Whether there is a year to refer to and, after it, enough weeks to learn from."""
    return horizon <= MAX_HORIZON and len(panel.weeks) >= YEAR + context_length + horizon


def build_target(panel: Panel, horizon: int, kind: str) -> Target:
    """The target of a panel that ends at its cutoff.

    Args:
        kind: SALES or RATIO.

    Raises:
        ValueError: the ratio is asked for with less than a year of history, or beyond MAX_HORIZON.
    """
    n = len(panel)
    if kind == SALES:
        return Target(panel, np.ones((n, horizon)), np.full(n, np.nan))
    if len(panel.weeks) <= YEAR:
        raise ValueError(f"{len(panel.weeks)} weeks of history have no last year to refer to; use the target {SALES!r}")
    reference = last_year(panel, horizon)
    known = len(panel.weeks)
    ratio = np.clip(panel.sales / reference[:, :known], -_LARGEST_RATIO, _LARGEST_RATIO)[:, YEAR:]
    # A series seen in the first year only has no ratio yet: its reference is its forecast.
    ratio[np.isnan(ratio).all(axis=1), -1] = 1.0
    return Target(
        Panel(panel.store, panel.dept, panel.weeks[YEAR:], ratio), reference[:, known:], growth(panel, reference)
    )
