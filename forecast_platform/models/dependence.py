"""The dependence of series and weeks: one set of joint sample paths, so that sums of any kind come from the same draws.

Each series keeps its own distribution of each week ahead. Which of its values go together with which of the others' is
drawn from normal shocks (a Gaussian copula): of the total, of the store, of the department, and of the series itself. A
part of each shock passes within the week. The other part lasts over the weeks ahead and slowly fades.

The sizes of these parts come from the errors of backtests: how much more the sums over stores, departments and all
series vary than sums of independent series would. Little evidence moves them little from those of a usual retailer.

A shock is a function of its name and the seed alone, so it is the same in every shard.

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

# Correlations of a usual retailer's errors: those of Walmart before autumn 2011. Rows are the four kinds of pairs: two
# series with neither store nor department in common, of one store, of one department, and a series with itself.
# Columns: in the same week, and the part of that which lasts.
USUAL = np.array([[0.05, 0.02], [0.15, 0.06], [0.25, 0.10], [1.00, 0.30]])
PRIOR_WEEKS = 8  # USUAL counts as much as so many weeks of one sum's errors
MOST_DEVIATIONS = 3.0  # larger errors are cut to so many standard deviations
MOST_SHARED = 0.95  # of a series' variance that shared shocks may have

Floats = NDArray[np.float64]
Names = NDArray[np.str_]
_KINDS = {level.name: level for level in LEVELS}


@dataclass(frozen=True)
class Dependence:
    """The variance of a series' normal scores in parts that sum to 1.

    Attributes:
        passing, lasting: name of a shock, from SHOCKS -> the part of it that passes, and that lasts.
    """

    passing: Mapping[str, float] = field(default_factory=lambda: {**dict.fromkeys(SHOCKS, 0.0), "series": 1.0})
    lasting: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SHOCKS, 0.0))

    @classmethod
    def fit(cls, windows: Sequence[Window], levels: Sequence[float]) -> Dependence:
        """By backtests with quantiles at `levels`, ascending, with 0.5. Intervals may be too narrow or too wide."""
        evidence = np.sum([_evidence(w, levels) for w in windows], axis=0) if windows else np.zeros((5, 4))
        variance, perfect, lagged, lagged_if_lasting, weeks = evidence
        if not variance[OWN] > 0:
            return cls._of(*USUAL.T)
        own_variance, perfect = variance[OWN] / perfect[OWN], perfect / perfect[OWN]
        usual, usually_lasting = (_of_sums(each, perfect) for each in USUAL.T)
        weight = weeks / (weeks + PRIOR_WEEKS)
        # Shrunk towards the usual ones as logarithms, because these variances differ by orders of magnitude.
        varies = np.maximum(variance / variance[OWN], 1e-3)
        found = np.exp(weight * np.log(varies) + (1 - weight) * np.log(usual))
        part = usually_lasting / usual
        if lagged_if_lasting[OWN] > 0:
            part = weight * np.clip(lagged / (lagged_if_lasting * own_variance) / varies, 0, 1) + (1 - weight) * part
        same, other = (_of_pairs(each, perfect, u) for each, u in zip((found, found * part), USUAL.T, strict=True))
        return cls._of(same, other)

    @classmethod
    def _of(cls, same: Floats, lasting: Floats) -> Dependence:
        """By the correlations of the four kinds of pairs: the two columns of USUAL."""
        variance = _variances(same)
        variance[:3] *= min(1.0, MOST_SHARED / max(variance[:3].sum(), MOST_SHARED))
        variance[3] = 1 - variance[:3].sum()
        lasts = np.minimum(_variances(lasting), variance)
        parts = (dict(zip(SHOCKS, each.tolist(), strict=True)) for each in (variance - lasts, lasts))
        return cls(*parts)

    def spread(self, level: Level, store: Names, dept: Names, widths: Floats) -> Floats:
        """Standard deviations of the sums of a level, shape (G, H), of N series with the standard deviations `widths`,
        shape (N, H)."""
        groups, group = level.groups(store, dept)
        variance = np.zeros((len(groups), widths.shape[1]))
        for name in SHOCKS:
            # Series with the same shock move as one, so their widths add up; of different shocks variances add up.
            both = np.stack([group, np.unique(_KINDS[name].keys(store, dept), return_inverse=True)[1]])
            pairs, pair = np.unique(both, axis=1, return_inverse=True)
            summed = np.zeros((pairs.shape[1], widths.shape[1]))
            np.add.at(summed, pair.reshape(-1), widths)
            np.add.at(variance, pairs[0], (self.passing[name] + self.lasting[name]) * summed**2)
        return np.asarray(np.sqrt(variance))

    def order(self, store: Names, dept: Names, horizon: int, num_samples: int, seed: int) -> NDArray[np.int64]:
        """The paths of each series and week in ascending order of their values, shape (N, H, S): a permutation of
        0 .. S-1 that says which path has the smallest value, which the next."""
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
        """Joint sample paths, shape (N, S, H): in each week a series keeps its values, and `order` says which path has
        which."""
        from forecast_platform import kernels  # Numba takes a while to load

        order = self.order(store, dept, samples.shape[2], samples.shape[1], seed)
        joint = np.empty(samples.shape)
        kernels.deal(np.sort(samples.astype(np.float64, order="C", copy=False), axis=1), order, joint)
        return joint


def _shocks(kind: str, names: Sequence[str], over_time: Floats, num_samples: int, seed: int) -> Floats:
    """Shocks as normal scores, for K names, shape (K, H, S). In each week the S scores share the normal distribution
    evenly. The order of sums is fixed, so a name's scores are the same bits whatever the other names are.

    Args:
        over_time: Cholesky factor of the covariance of the weeks, lower triangle, shape (H, H).
    """
    from forecast_platform import kernels  # Numba takes a while to load

    horizon = len(over_time)
    digests = [int.from_bytes(hashlib.sha256(f"{kind}\0{name}".encode()).digest()[:8]) for name in names]
    keys = mix(np.array(digests, dtype=np.uint64) + np.uint64(seed))
    words = np.empty((len(keys), horizon, num_samples), np.uint64)
    kernels.random_words(keys, words)
    normal = np.array([NormalDist().inv_cdf((k + 0.5) / num_samples) for k in range(num_samples)])
    found = np.zeros(words.shape)
    kernels.add_over_time(words.argsort(axis=2), normal / (normal.std() or 1.0), over_time, found)
    return found


def _weeks_apart(horizon: int) -> NDArray[np.int64]:
    return np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))


def _evidence(w: Window, levels: Sequence[float]) -> Floats:
    """What a backtest says of the errors of sums over the groups of each of SHOCKS, shape (5, 4). It can be added up
    over backtests. Rows, all but the last relative to the variance that the intervals promise for independent series:

    0. the variance of the errors;
    1. what it would be with perfectly correlated series;
    2. products of errors in two different weeks, weighted by FADING ** weeks between them;
    3. what these would be for independent series whose shocks all last;
    4. how many weeks of one sum's errors are as much evidence.
    """
    low, high, middle = 0, len(levels) - 1, list(levels).index(0.5)
    error = w.y - w.quantiles[:, middle]
    above, below = w.quantiles[:, high] - w.quantiles[:, middle], w.quantiles[:, middle] - w.quantiles[:, low]
    width = np.where(error >= 0, above, below) / NormalDist().inv_cdf(levels[high])
    width = np.where(w.mask & (width > 0), width, 0)
    error = np.clip(error, -MOST_DEVIATIONS * width, MOST_DEVIATIONS * width)
    independent = (width**2).sum()
    if not independent > 0:
        return np.zeros((5, 4))
    horizon = w.y.shape[1]
    apart = _weeks_apart(horizon)
    fading = np.where(apart > 0, FADING**apart, 0)
    variance, perfect, lagged, lagged_if_lasting, groups = np.zeros((5, 4))
    lagged_if_lasting[:] = (width.T @ width * fading**2).sum() / independent
    for at, name in enumerate(SHOCKS):
        names, member = _KINDS[name].groups(w.store, w.dept)
        errors, widths = np.zeros((2, len(names), horizon))
        np.add.at(errors, member, error)
        np.add.at(widths, member, width)
        variance[at], perfect[at] = (errors**2).sum() / independent, (widths**2).sum() / independent
        lagged[at] = (errors.T @ errors * fading).sum() / independent
        size = (widths**2).sum(axis=1)
        groups[at] = size.sum() ** 2 / (size**2).sum()
    # Sums of usual series: the part of their variance that series share. Where it is small a sum is little evidence.
    shared = 1 - 1 / _of_sums(USUAL[:, 0], perfect)
    shared[OWN] = 1.0
    return np.stack([variance, perfect, lagged, lagged_if_lasting, horizon * groups * shared**2])


def _variances(correlations: Floats) -> Floats:
    """Variances of the four SHOCKS from the correlations of the four kinds of pairs, see USUAL. Two series of one store
    share the shocks of the total and the store, and so on."""
    total, store, dept, series = correlations.tolist()
    total = max(total, 0.0)
    store, dept = max(store - total, 0.0), max(dept - total, 0.0)
    return np.array([total, store, dept, max(series - total - store - dept, 0.0)])


def _of_sums(correlations: Floats, perfect: Floats) -> Floats:
    """Variances of sums over the groups of each of SHOCKS, shape (4,), relative to those of independent series.

    Args:
        correlations: of the four kinds of pairs, see USUAL, shape (4,).
        perfect: what the variances would be with perfectly correlated series, shape (4,).
    """
    total, store, dept, series = correlations
    in_store, in_dept, elsewhere = _pairs(perfect)
    of_store, of_dept = series + in_store * store, series + in_dept * dept
    return np.array([of_store + of_dept - series + elsewhere * total, of_store, of_dept, series])


def _of_pairs(sums: Floats, perfect: Floats, usual: Floats) -> Floats:
    """The correlations from the variances: the inverse of `_of_sums`. `usual` ones where there are no such pairs."""
    total, store, dept, series = sums
    in_store, in_dept, elsewhere = _pairs(perfect)
    of_store = (store - series) / in_store if in_store else usual[1]
    of_dept = (dept - series) / in_dept if in_dept else usual[2]
    of_total = (total - store - dept + series) / elsewhere if elsewhere else min(usual[0], of_store, of_dept)
    return np.array([of_total, of_store, of_dept, series])


def _pairs(perfect: Floats) -> tuple[float, float, float]:
    """With how many others a series is in pairs, as a mean weighted by size: those of its store, of its department, of
    neither; 0 for next to none."""
    total, store, dept, series = perfect.tolist()
    counts = (store - series, dept - series, total - store - dept + series)
    in_store, in_dept, elsewhere = (count if count > 1e-6 else 0.0 for count in counts)
    return in_store, in_dept, elsewhere
