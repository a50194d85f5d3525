"""Intervals as wide as they should have been: one factor a band of the horizon and a class of volume.

Split conformal (Vovk et al. 2005; Romano et al. 2019, in units of the model's own width): on windows the model did not
see, how much wider would its interval have had to be to hold the share it promises? The median is left alone. Letters:
N series, Q quantiles, H weeks ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BANDS, CLASSES = 3, 4
_DOUBT = 100  # cells' worth of belief in the model's own width
_NARROWEST, _WIDEST = 0.5, 3.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """One backtest: actual sales y (N, H), which cells count, quantiles (N, Q, H), and each series' volume (N,)."""

    y: Floats
    mask: NDArray[np.bool_]
    quantiles: Floats
    volume: Floats


@dataclass(frozen=True)
class Calibration:
    """Factors by which intervals are widened about the median.

    Attributes:
        factors: one row per band of the horizon, nearest first, one column per class of volume, smallest first.
        edges: volumes between the classes, ascending.
    """

    factors: tuple[tuple[float, ...], ...] = ((1.0,),)
    edges: tuple[float, ...] = ()

    @classmethod
    def fit(cls, windows: Sequence[Window], levels: Sequence[float]) -> Calibration:
        """From the widest central interval among the levels (p10 to p90, say)."""
        low, high, middle = 0, len(levels) - 1, list(levels).index(0.5)
        held = levels[high] - levels[low]
        edges = np.quantile(np.concatenate([w.volume for w in windows]), np.arange(1, CLASSES) / CLASSES)
        needed: list[list[Floats]] = [[] for _ in range(BANDS * CLASSES)]
        for w in windows:
            q = w.quantiles
            away = w.y - q[:, middle]
            side = np.where(away >= 0, q[:, high] - q[:, middle], q[:, middle] - q[:, low])
            usable = w.mask & (side > 0)
            ratio = np.abs(away) / np.where(usable, side, 1)
            cell = _bands(w.y.shape[1])[None] * CLASSES + np.searchsorted(edges, w.volume)[:, None]
            for at in range(BANDS * CLASSES):
                needed[at].append(ratio[usable & (cell == at)])
        factors = np.array([_factor(np.concatenate(parts), held) for parts in needed]).reshape(BANDS, CLASSES)
        return cls(tuple(tuple(float(f) for f in row) for row in factors), tuple(float(e) for e in edges))

    def widths(self, volume: Floats, horizon: int) -> Floats:
        """The factor of each series and week ahead, shape (N, horizon)."""
        factors = np.array(self.factors)
        band = _bands(horizon) * len(factors) // BANDS
        return np.asarray(factors[band][:, np.searchsorted(self.edges, volume)].T)


def volume(sales: Floats, weeks: int = 52) -> Floats:
    """Mean size of a series' weekly sales over the last `weeks` weeks (NaN: not observed), shape (N,)."""
    recent = np.abs(sales[:, -weeks:])
    seen = ~np.isnan(recent)
    return np.asarray(np.where(seen, recent, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1))


def _bands(horizon: int) -> NDArray[np.int64]:
    """The band of each week ahead, shape (horizon,)."""
    return np.arange(horizon) * BANDS // horizon


def _factor(ratio: Floats, held: float) -> float:
    if not len(ratio):
        return 1.0
    wanted = np.clip(np.quantile(ratio, held), _NARROWEST, _WIDEST)
    return float(wanted ** (len(ratio) / (len(ratio) + _DOUBT)))
