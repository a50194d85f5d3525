"""Intervals as wide as they should have been: one factor a band of the horizon and a class of volume.

Split conformal (Vovk et al. 2005; Romano et al. 2019, in units of the model's own width): on windows the model did not
see, how much wider would its interval have had to be to hold the share it promises? The median is left alone.

Sums are drawn from joint paths, by the dependence that the windows show (dependence.py). What their intervals still
lack, or have too much of, is a last factor of each level, near 1.

Letters: N series, Q quantiles, H weeks ahead, G sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from forecast_platform.levels import SUMS, Level
from forecast_platform.models.dependence import Dependence

BANDS, CLASSES = 3, 4
_DOUBT = 100  # cells that the model's own width counts as
_NARROWEST, _WIDEST = 0.5, 3.0
_NARROWEST_SUM, _WIDEST_SUM = 0.7, 3.0
_DOUBT_OF_SUMS = 20  # groups in a window that a factor of 1 counts as

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """One backtest: actual sales y (N, H), which cells count, quantiles (N, Q, H), and each series' volume, store and
    department (N,)."""

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
        factors: one row per band of the horizon, nearest first, one column per class of volume, smallest first.
        edges: volumes between the classes, ascending.
        sums: factor of each level of sums by its name, on top of its series' own.
        dependence: what moves series together.
    """

    factors: tuple[tuple[float, ...], ...] = ((1.0,),)
    edges: tuple[float, ...] = ()
    sums: Mapping[str, float] = field(default_factory=lambda: {level.name: 1.0 for level in SUMS})
    dependence: Dependence = field(default_factory=Dependence)

    @classmethod
    def fit(cls, windows: Sequence[Window], levels: Sequence[float], sums: Sequence[Level] = SUMS) -> Calibration:
        """From the widest central interval among the quantile levels (p10 to p90, say)."""
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
        found = cls(
            tuple(tuple(float(f) for f in row) for row in factors),
            tuple(float(e) for e in edges),
            dependence=Dependence.fit(windows, levels),
        )
        return replace(found, sums={level.name: found._sum_factor(level, windows, levels) for level in sums})

    def _sum_factor(self, level: Level, windows: Sequence[Window], levels: Sequence[float]) -> float:
        """How much wider than the dependence makes it the interval of a sum of several has to be to hold its share."""
        low, high, middle = 0, len(levels) - 1, list(levels).index(0.5)
        ratios, groups = [], 0
        for w in windows:
            widths = np.where(w.mask, self.widths(w.volume, w.y.shape[1]), 0)
            away = _sums(level, w, np.where(w.mask, w.y - w.quantiles[:, middle], 0))
            below, above = (
                self.dependence.spread(level, w.store, w.dept, widths * side)
                for side in (
                    w.quantiles[:, middle] - w.quantiles[:, low],
                    w.quantiles[:, high] - w.quantiles[:, middle],
                )
            )
            side = np.where(away >= 0, above, below)
            several = (side > 0) & (_sums(level, w, np.ones_like(widths)) > 1)
            ratios.append((np.abs(away) / np.where(side > 0, side, 1))[several])
            groups += int(several.any(axis=1).sum())
        ratio = np.concatenate(ratios)
        if not len(ratio):
            return 1.0
        wanted = np.clip(np.quantile(ratio, levels[high] - levels[low]), _NARROWEST_SUM, _WIDEST_SUM)
        return float(wanted ** (groups / (groups + _DOUBT_OF_SUMS)))

    def factor(self, level: Level) -> float:
        """The factor of a level of sums.

        A level by an attribute that came after the training has none of its own. Its groups hold more than one store
        (or department) and less than all, so the larger factor of those two stands in: rather too wide than too narrow.
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
    """Mean size of a series' weekly sales over the last `weeks` weeks (NaN: not observed), shape (N,)."""
    recent = np.abs(sales[:, -weeks:])
    seen = ~np.isnan(recent)
    return np.asarray(np.where(seen, recent, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1))


def _sums(level: Level, w: Window, values: Floats) -> Floats:
    """Sums of (N, H) by the groups of a level, shape (G, H)."""
    groups, member = level.groups(w.store, w.dept)
    sums = np.zeros((len(groups), values.shape[1]))
    np.add.at(sums, member, values)
    return sums


def _bands(horizon: int) -> NDArray[np.int64]:
    """The band of each week ahead, shape (horizon,)."""
    return np.arange(horizon) * BANDS // horizon


def _factor(ratio: Floats, held: float) -> float:
    if not len(ratio):
        return 1.0
    wanted = np.clip(np.quantile(ratio, held), _NARROWEST, _WIDEST)
    return float(wanted ** (len(ratio) / (len(ratio) + _DOUBT)))
