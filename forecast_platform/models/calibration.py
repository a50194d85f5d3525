"""Factors that widen intervals until they hold the share of actuals they promise: one for each band of the horizon and
class of volume.

Split conformal (Vovk et al. 2005; Romano et al. 2019, in units of the model's own width): on windows the model did not
see, by what factor would its interval have had to be wider to hold its share? The median is left alone.

Intervals of sums come from joint sample paths (dependence.py). Each level has a last factor, near 1, for what these
intervals are still too narrow or too wide by.

Letters: N series, Q quantiles, H weeks ahead, G sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from forecast_platform.levels import SUMS, Level
from forecast_platform.models.dependence import Dependence

BANDS, CLASSES = 3, 4  # of the horizon, of volume
_NARROWEST, _WIDEST = 0.5, 3.0
_NARROWEST_SUM, _WIDEST_SUM = 0.7, 3.0
# Factors are shrunk towards 1, as if it had been found in so many cells more, or in so many groups more of a level.
_PRIOR_CELLS = 100
_PRIOR_GROUPS = 20

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """One backtest.

    Attributes:
        y, mask: sales and which of them count, shape (N, H).
        quantiles: the forecast, shape (N, Q, H).
        volume: see `volume`, shape (N,). store, dept: shape (N,).
    """

    y: Floats
    mask: NDArray[np.bool_]
    quantiles: Floats
    volume: Floats
    store: NDArray[np.str_]
    dept: NDArray[np.str_]


@dataclass(frozen=True)
class Calibration:
    """Factors by which intervals are widened about the median.

    Attributes:
        factors: of series: a row for each band of the horizon, nearest first; a column for each class of volume,
            smallest first.
        edges: volumes between the classes, ascending.
        sums: name of a level of sums -> its factor, after the series' own.
        dependence: which values of series go together in a sample path.
    """

    factors: tuple[tuple[float, ...], ...] = ((1.0,),)
    edges: tuple[float, ...] = ()
    sums: Mapping[str, float] = field(default_factory=lambda: {level.name: 1.0 for level in SUMS})
    dependence: Dependence = field(default_factory=Dependence)

    @classmethod
    def fit(cls, windows: Sequence[Window], levels: Sequence[float], sums: Sequence[Level] = SUMS) -> Calibration:
        """The factors by backtests: those that the outermost pair of quantiles (p10 and p90, say) would have needed."""
        low, high, middle = 0, len(levels) - 1, list(levels).index(0.5)
        share = levels[high] - levels[low]
        edges = np.quantile(np.concatenate([w.volume for w in windows]), np.arange(1, CLASSES) / CLASSES)
        needed: list[list[Floats]] = [[] for _ in range(BANDS * CLASSES)]
        for w in windows:
            q = w.quantiles
            error = w.y - q[:, middle]
            side = np.where(error >= 0, q[:, high] - q[:, middle], q[:, middle] - q[:, low])
            usable = w.mask & (side > 0)
            ratio = np.abs(error) / np.where(usable, side, 1)
            factor = _bands(w.y.shape[1])[None] * CLASSES + np.searchsorted(edges, w.volume)[:, None]
            for at in range(BANDS * CLASSES):
                needed[at].append(ratio[usable & (factor == at)])
        factors = np.array([_factor(np.concatenate(parts), share) for parts in needed]).reshape(BANDS, CLASSES)
        found = cls(
            tuple(tuple(float(f) for f in row) for row in factors),
            tuple(float(e) for e in edges),
            dependence=Dependence.fit(windows, levels),
        )
        return replace(found, sums={level.name: found._sum_factor(level, windows, levels) for level in sums})

    def _sum_factor(self, level: Level, windows: Sequence[Window], levels: Sequence[float]) -> float:
        """The factor of a level: how much wider the interval of a sum of several series has to be than the dependence
        alone makes it."""
        low, high, middle = 0, len(levels) - 1, list(levels).index(0.5)
        ratios, groups = [], 0
        for w in windows:
            widths = np.where(w.mask, self.widths(w.volume, w.y.shape[1]), 0)
            error = _sums(level, w, np.where(w.mask, w.y - w.quantiles[:, middle], 0))
            below, above = (
                self.dependence.spread(level, w.store, w.dept, widths * side)
                for side in (
                    w.quantiles[:, middle] - w.quantiles[:, low],
                    w.quantiles[:, high] - w.quantiles[:, middle],
                )
            )
            side = np.where(error >= 0, above, below)
            several = (side > 0) & (_sums(level, w, np.ones_like(widths)) > 1)
            ratios.append((np.abs(error) / np.where(side > 0, side, 1))[several])
            groups += int(several.any(axis=1).sum())
        ratio = np.concatenate(ratios)
        if not len(ratio):
            return 1.0
        quantile = np.clip(np.quantile(ratio, levels[high] - levels[low]), _NARROWEST_SUM, _WIDEST_SUM)
        return float(quantile ** (groups / (groups + _PRIOR_GROUPS)))

    def factor(self, level: Level) -> float:
        """The factor of a level of sums.

        A level by an attribute that came after the training has no factor of its own. Its groups lie between one store
        (or department) and the total, so the larger of those two factors is taken: rather too wide than too narrow.
        """
        if level.name in self.sums:
            return self.sums[level.name]
        return max(self.sums[level.of], self.sums[SUMS[-1].name])

    def widths(self, volume: Floats, horizon: int) -> Floats:
        """The factor of each series and week ahead, shape (N, horizon)."""
        factors = np.array(self.factors)
        band = _bands(horizon) * len(factors) // BANDS
        return np.asarray(factors[band][:, np.searchsorted(self.edges, volume)].T)


def volume(sales: Floats, weeks: int = 52) -> Floats:
    """Each series' mean absolute sales a week over the last `weeks` weeks, NaN (not observed) left out, shape (N,)."""
    recent = np.abs(sales[:, -weeks:])
    seen = ~np.isnan(recent)
    return np.asarray(np.where(seen, recent, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1))


def _sums(level: Level, w: Window, values: Floats) -> Floats:
    """Sums of values, shape (N, H), over the groups of a level, shape (G, H)."""
    groups, member = level.groups(w.store, w.dept)
    sums = np.zeros((len(groups), values.shape[1]))
    np.add.at(sums, member, values)
    return sums


def _bands(horizon: int) -> NDArray[np.int64]:
    """The band of each week ahead, shape (horizon,)."""
    return np.arange(horizon) * BANDS // horizon


def _factor(ratio: Floats, share: float) -> float:
    """The factor that would have made intervals hold the share, given errors over half widths, shape (cells,)."""
    if not len(ratio):
        return 1.0
    quantile = np.clip(np.quantile(ratio, share), _NARROWEST, _WIDEST)
    return float(quantile ** (len(ratio) / (len(ratio) + _PRIOR_CELLS)))
