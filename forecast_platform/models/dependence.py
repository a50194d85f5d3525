"""What moves series together: one set of joint sample paths, so that sums of any kind come from the same draws.

Each series keeps its own distribution of each week ahead. Which of its values go together with which of the others' is
drawn from shared normal shocks (a Gaussian copula): of the total, of the store, of the department, and the series' own.
A part of each passes within the week, a part lasts over the weeks ahead and slowly fades. How large the parts are is
told by the errors of backtests: how much more sums over stores, departments and all vary than independent series would.
Little evidence moves little from a usual retailer's.

A shock is a function of its name and the seed alone: the same in every shard, without a word between them.

Letters: N series, Q quantiles, S sample paths, H weeks ahead, K names, G sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forecast_platform.deepar.randomness import mix
from forecast_platform.levels import LEVELS, Level

if TYPE_CHECKING:
    from forecast_platform.models.calibration import Window

SHOCKS = ("total", "store", "dept", "series")  # levels; the last is each series' own
OWN = SHOCKS.index("series")
FADING = 0.9  # what is left of a lasting shock a week later

# Correlations of a usual retailer's errors: of two series of neither one store nor one department, of one store, of one
# department, and of a series with itself; in the same week, and what of it lasts. Walmart's before autumn 2011.
USUAL = np.array([[0.05, 0.02], [0.15, 0.06], [0.25, 0.10], [1.00, 0.30]])
DOUBT = 8  # weeks of one sum's errors that the usual counts as
FARTHEST = 3.0  # an error of more standard deviations counts as one of so many
MOST_SHARED = 0.95

Floats = NDArray[np.float64]
Names = NDArray[np.str_]
_KINDS = {level.name: level for level in LEVELS}


@dataclass(frozen=True)
class Dependence:
    """Parts of the variance of a series' normal scores, summing to 1.

    Attributes:
        passing, lasting: of the shocks of the total, the store, the department and the series itself, by name.
    """

    passing: Mapping[str, float] = field(default_factory=lambda: {**dict.fromkeys(SHOCKS, 0.0), "series": 1.0})
    lasting: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SHOCKS, 0.0))

    @classmethod
    def fit(cls, windows: Sequence[Window], levels: Sequence[float]) -> Dependence:
        """From backtests with quantiles at `levels`, ascending, with 0.5; they need not be wide enough."""
        told = np.sum([_told_by(w, levels) for w in windows], axis=0) if windows else np.zeros((5, 4))
        variance, together, lasting, lasts, weeks = told
        if not variance[OWN] > 0:
            return cls._of(*USUAL.T)
        own, together = variance[OWN] / together[OWN], together / together[OWN]
        usual, usually_lasting = (_of_sums(each, together) for each in USUAL.T)
        weight = weeks / (weeks + DOUBT)
        # In logarithms: how much more than independent ones sums vary differs by orders of magnitude.
        varies = np.maximum(variance / variance[OWN], 1e-3)
        found = np.exp(weight * np.log(varies) + (1 - weight) * np.log(usual))
        part = usually_lasting / usual
        if lasts[OWN] > 0:
            part = weight * np.clip(lasting / (lasts * own) / varies, 0, 1) + (1 - weight) * part
        same, other = (_of_pairs(each, together, u) for each, u in zip((found, found * part), USUAL.T, strict=True))
        return cls._of(same, other)

    @classmethod
    def _of(cls, same: Floats, lasting: Floats) -> Dependence:
        """By the correlations of the four kinds of pairs, as USUAL has them."""
        variance = _apart(same)
        variance[:3] *= min(1.0, MOST_SHARED / max(variance[:3].sum(), MOST_SHARED))
        variance[3] = 1 - variance[:3].sum()
        lasts = np.minimum(_apart(lasting), variance)
        parts = (dict(zip(SHOCKS, each.tolist(), strict=True)) for each in (variance - lasts, lasts))
        return cls(*parts)

    def spread(self, level: Level, store: Names, dept: Names, widths: Floats) -> Floats:
        """Standard deviations of the sums of a level, shape (G, H), of N series with the standard deviations `widths`,
        shape (N, H)."""
        groups, group = level.groups(store, dept)
        variance = np.zeros((len(groups), widths.shape[1]))
        for name in SHOCKS:
            # Series of one shock add up by their widths, those of different ones by their squares.
            both = np.stack([group, np.unique(_KINDS[name].keys(store, dept), return_inverse=True)[1]])
            pairs, pair = np.unique(both, axis=1, return_inverse=True)
            together = np.zeros((pairs.shape[1], widths.shape[1]))
            np.add.at(together, pair.reshape(-1), widths)
            np.add.at(variance, pairs[0], (self.passing[name] + self.lasting[name]) * together**2)
        return np.asarray(np.sqrt(variance))

    def order(self, store: Names, dept: Names, horizon: int, num_samples: int, seed: int) -> NDArray[np.int64]:
        """Which of S paths of N series takes the smallest value of each week, which the next, shape (N, H, S): for each
        series and week a permutation of 0 .. S-1."""
        scores = np.zeros((len(store), horizon, num_samples))
        fading = FADING ** _weeks_apart(horizon)
        for name in SHOCKS:
            passing, lasting = self.passing[name], self.lasting[name]
            if passing + lasting > 0:
                names, member = np.unique(_KINDS[name].keys(store, dept), return_inverse=True)
                over_time = np.asarray(np.linalg.cholesky(lasting * fading + passing * np.eye(horizon)), np.float64)
                scores += _shocks(name, names.tolist(), over_time, num_samples, seed)[member.reshape(-1)]
        return scores.argsort(axis=2)

    def arranged(self, samples: Floats, store: Names, dept: Names, seed: int) -> Floats:
        """Sample paths (N, S, H) with the same values in each week, dealt to the paths so that series and weeks go
        together as they should."""
        from forecast_platform.models import shocks  # Numba takes a while to load

        order = self.order(store, dept, samples.shape[2], samples.shape[1], seed)
        dealt = np.empty(samples.shape)
        shocks.deal(np.sort(samples.astype(np.float64, order="C", copy=False), axis=1), order, dealt)
        return dealt


def _shocks(kind: str, names: Sequence[str], over_time: Floats, num_samples: int, seed: int) -> Floats:
    """Normal scores of K names, shape (K, H, S), correlated over time by a lower triangle (H, H). Each week's draw
    shares the normal distribution evenly among the paths.

    Every number is made by itself, without sums in an order of the machine's choice: not a bit depends on the others.
    """
    from forecast_platform.models import shocks  # Numba takes a while to load

    horizon = len(over_time)
    digests = [int.from_bytes(hashlib.sha256(f"{kind}\0{name}".encode()).digest()[:8]) for name in names]
    keys = mix(np.array(digests, dtype=np.uint64) + np.uint64(seed))
    words = np.empty((len(keys), horizon, num_samples), np.uint64)
    shocks.random_words(keys, words)
    normal = np.array([NormalDist().inv_cdf((k + 0.5) / num_samples) for k in range(num_samples)])
    found = np.zeros(words.shape)
    shocks.add_over_time(words.argsort(axis=2), normal / (normal.std() or 1.0), over_time, found)
    return found


def _weeks_apart(horizon: int) -> NDArray[np.int64]:
    return np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))


def _told_by(w: Window, levels: Sequence[float]) -> Floats:
    """What a backtest tells of the sums of the four SHOCKS, shape (5, 4); it adds up over backtests.

    Variance of their errors; what it would be were all series of a sum one; the product of errors in two weeks, the
    farther the less; what that would be of independent series that last; and how many weeks of one sum tell as much.
    """
    low, high, middle = 0, len(levels) - 1, list(levels).index(0.5)
    away = w.y - w.quantiles[:, middle]
    above, below = w.quantiles[:, high] - w.quantiles[:, middle], w.quantiles[:, middle] - w.quantiles[:, low]
    width = np.where(away >= 0, above, below) / NormalDist().inv_cdf(levels[high])
    width = np.where(w.mask & (width > 0), width, 0)
    error = np.clip(away, -FARTHEST * width, FARTHEST * width)
    own = (width**2).sum()
    if not own > 0:
        return np.zeros((5, 4))
    horizon = w.y.shape[1]
    apart = _weeks_apart(horizon)
    fading = np.where(apart > 0, FADING**apart, 0)
    variance, together, lasting, lasts, groups = np.zeros((5, 4))
    lasts[:] = (width.T @ width * fading**2).sum() / own
    for at, name in enumerate(SHOCKS):
        names, member = _KINDS[name].groups(w.store, w.dept)
        errors, widths = np.zeros((2, len(names), horizon))
        np.add.at(errors, member, error)
        np.add.at(widths, member, width)
        variance[at], together[at] = (errors**2).sum() / own, (widths**2).sum() / own
        lasting[at] = (errors.T @ errors * fading).sum() / own
        size = (widths**2).sum(axis=1)
        groups[at] = size.sum() ** 2 / (size**2).sum()
    # A sum that is mostly its series' own errors says little about what they share.
    clear = 1 - 1 / _of_sums(USUAL[:, 0], together)
    clear[OWN] = 1.0
    return np.stack([variance, together, lasting, lasts, horizon * groups * clear**2])


def _apart(correlations: Floats) -> Floats:
    """Variances of the four shocks from the correlations of the four kinds of pairs: the total's is in all of them."""
    total, store, dept, own = correlations.tolist()
    total = max(total, 0.0)
    store, dept = max(store - total, 0.0), max(dept - total, 0.0)
    return np.array([total, store, dept, max(own - total - store - dept, 0.0)])


def _of_sums(correlations: Floats, together: Floats) -> Floats:
    """Variances of sums of the four SHOCKS from the correlations of the four kinds of pairs, both of shape (4,), where
    those of independent series are 1.

    Args:
        together: what they would be were all series of a sum one.
    """
    total, store, dept, own = correlations
    in_store, in_dept, elsewhere = _pairs(together)
    of_store, of_dept = own + in_store * store, own + in_dept * dept
    return np.array([of_store + of_dept - own + elsewhere * total, of_store, of_dept, own])


def _of_pairs(sums: Floats, together: Floats, usual: Floats) -> Floats:
    """The other way round; the usual correlation where there are no such pairs."""
    total, store, dept, own = sums
    in_store, in_dept, elsewhere = _pairs(together)
    of_store = (store - own) / in_store if in_store else usual[1]
    of_dept = (dept - own) / in_dept if in_dept else usual[2]
    of_total = (total - store - dept + own) / elsewhere if elsewhere else min(usual[0], of_store, of_dept)
    return np.array([of_total, of_store, of_dept, own])


def _pairs(together: Floats) -> tuple[float, float, float]:
    """How many others a series is in pairs with: of its store, of its department, of neither; 0 for next to none."""
    total, store, dept, own = together.tolist()
    counts = (store - own, dept - own, total - store - dept + own)
    in_store, in_dept, elsewhere = (count if count > 1e-6 else 0.0 for count in counts)
    return in_store, in_dept, elsewhere
