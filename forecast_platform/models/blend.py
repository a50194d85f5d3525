"""How candidates are blended: the mean of their quantiles, weighted by how well each would have forecast the past.

Little evidence moves the weights little. They start from a stated prior (`Candidate.prior`: what suits most retailers)
and minimise, over the windows tried,

    pinball loss of the blend / the candidates' mean pinball loss  +  KL(weights || prior) / sharpness

So a candidate whose loss is higher by d, relative to the mean, keeps about exp(-sharpness * d) of its prior. The
sharpness is SHARPNESS where many series were tried, and lower where few were. The loss is that of the blend, not of
each candidate: two that err in different weeks are worth more than two that err alike. A mean of quantiles keeps the
shape of its members (Lichtendahl et al. 2013, "Is it better to average probabilities or quantiles?").

Young series, intermittent series and the others have weights of their own, which start from the weights of all series.

Letters: N series, Q quantile levels, H weeks ahead, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.absence import INTERMITTENT
from forecast_platform.models.last_year.reference import YEAR

KINDS = ("steady", "young", "intermittent")
INTERMITTENTS = KINDS.index("intermittent")
SHARPNESS = 20.0
SEASON = 2.0  # a window in the season to be forecast, one or two years earlier, counts as so many other windows
SERIES = 40  # with so many series tried, added up over the windows, the sharpness is half of SHARPNESS
YOUNG = 2 * YEAR  # a series is young for so many weeks after its first observation
HOPELESS = 10.0  # a candidate whose loss is more than so many times the median loss gets no weight
CELLS = 3000  # at most so many cells (series x week) of a trial are used, evenly spaced
_STEPS = 100

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def kinds(sales: Floats) -> Ints:
    """The kind of each series: positions in KINDS, shape (N,). Sales are (N, T), NaN where not observed."""
    seen = ~np.isnan(sales)
    age = np.where(seen.any(axis=1), sales.shape[1] - seen.argmax(axis=1), 0)
    sold = (np.nan_to_num(sales) > 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return np.where(sold < 1 / INTERMITTENT, 2, np.where(age < YOUNG, 1, 0))


@dataclass(frozen=True)
class Trial:
    """A past window: what candidates forecast from the weeks before it, and what was sold in it. Scored series only.

    Attributes:
        y, mask: sales and which of them count, shape (N, H).
        kind: see `kinds`, shape (N,).
        forecasts: candidate -> its quantiles at `levels`, shape (N, Q, H), in sales.
        season: whether the window lies in the season to be forecast, one or two years earlier.
    """

    y: Floats
    mask: NDArray[np.bool_]
    kind: Ints
    forecasts: Mapping[str, Floats]
    levels: tuple[float, ...]
    season: bool = False


@dataclass(frozen=True)
class Blend:
    """Weights of candidates.

    Attributes:
        weights: candidate -> its weight in each of KINDS; those of a kind sum to 1.
    """

    weights: Mapping[str, tuple[float, ...]]

    @classmethod
    def alone(cls, name: str) -> Blend:
        return cls({name: (1.0,) * len(KINDS)})

    @classmethod
    def by(cls, prior: Mapping[str, float]) -> Blend:
        """The same weights for all kinds."""
        total = sum(prior.values())
        return cls({name: (value / total,) * len(KINDS) for name, value in prior.items()})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def usual(self) -> dict[str, float]:
        """Candidate -> its mean weight over the kinds, heaviest first: to show people."""
        mean = {name: float(np.mean(each)) for name, each in self.weights.items()}
        return dict(sorted(mean.items(), key=lambda item: -item[1]))

    def among(self, names: Sequence[str]) -> Blend:
        """The blend of some of its candidates: their weights keep their ratios and sum to 1 again."""
        kept = {name: np.array(self.weights[name]) for name in self.weights if name in names}
        total = sum(kept.values(), np.zeros(len(KINDS)))
        return Blend({
            name: tuple(float(w) for w in np.where(total > 0, each / np.where(total > 0, total, 1), 1 / len(kept)))
            for name, each in kept.items()
        })  # fmt: skip

    def quantiles(self, forecasts: Mapping[str, Floats], kind: Ints) -> Floats:
        """The weighted mean of its candidates' forecasts, shape (N, K, H).

        Args:
            forecasts: candidate -> K quantiles, or K sample paths in ascending order, shape (N, K, H).
            kind: see `kinds`, shape (N,).
        """
        first = next(iter(self.weights))
        found = np.zeros_like(forecasts[first], dtype=np.float64)
        for name, weights in self.weights.items():
            found += np.array(weights)[kind][:, None, None] * forecasts[name]
        return found


def fit(
    trials: Sequence[Trial],
    prior: Mapping[str, float],
    penalties: Mapping[str, float] | None = None,
    sparse: Mapping[str, float] | None = None,
) -> Blend:
    """The weights by trials and a prior.

    Candidates tried in most windows are weighed first. Those tried in fewer windows (networks, which cost a training
    each) are then weighed against the blend of the first, in the windows that all of them were tried in. A candidate
    without any trial keeps its prior.

    Args:
        prior: candidate -> its weight before the trials, in any unit.
        penalties: candidate -> how much higher its loss is expected to be in the weeks to come than in the trials,
            relative to the candidates' mean loss; 0 for a candidate that is not named.
        sparse: candidate -> factor on its prior for intermittent series; 1 for a candidate that is not named.
    """
    penalties, sparse = penalties or {}, sparse or {}
    total = sum(prior.values())
    prior = {name: value / total for name, value in prior.items()}
    blend = Blend({})
    for names in _rounds(trials, list(prior)):
        among = [trial for trial in trials if all(name in trial.forecasts for name in (*blend.names, *names))]
        start = np.array([sum(prior[name] for name in blend.names), *(prior[name] for name in names)])
        forecasts = [_stacked(blend, trial, names) for trial in among]
        of_blend = sum(weight * penalties.get(name, 0.0) for name, weight in blend.usual.items())
        penalty = np.array([of_blend, *(penalties.get(name, 0.0) for name in names)])
        of_all = _fit_weights(among, forecasts, start, penalty)
        factor = np.array([1.0, *(sparse.get(name, 1.0) for name in names)])
        factors = [factor if kind == INTERMITTENTS else np.ones(len(factor)) for kind in range(len(KINDS))]
        of_kinds = np.array([
            _fit_weights(among, forecasts, start, penalty, kind, of_all, factors[kind]) for kind in range(len(KINDS))
        ])  # fmt: skip
        before = {name: of_kinds[:, 0] * np.array(weights) for name, weights in blend.weights.items()}
        found = before | dict(zip(names, of_kinds[:, 1:].T, strict=True))
        blend = Blend({name: tuple(float(w) for w in weights) for name, weights in found.items()})
    tried_prior = sum(prior[name] for name in blend.names)
    tried = {name: tuple(tried_prior * w for w in weights) for name, weights in blend.weights.items()}
    return Blend({name: tried.get(name, (value,) * len(KINDS)) for name, value in prior.items()})


def _rounds(trials: Sequence[Trial], names: Sequence[str]) -> list[list[str]]:
    """The names in groups to be weighed together: equally many trials in a group, the group with most trials first."""
    count = {name: sum(name in trial.forecasts for trial in trials) for name in names}
    return [[name for name in names if count[name] == times] for times in sorted({*count.values()} - {0}, reverse=True)]


def _stacked(blend: Blend, trial: Trial, names: Sequence[str]) -> Floats:
    """A trial's forecasts by a blend (zeros where it is empty) and by the candidates named, shape (K, N, Q, H)."""
    new = [trial.forecasts[name] for name in names]
    return np.stack([blend.quantiles(trial.forecasts, trial.kind) if blend.weights else np.zeros_like(new[0]), *new])


def _fit_weights(
    trials: Sequence[Trial],
    forecasts: Sequence[Floats],
    prior: Floats,
    penalty: Floats,
    kind: int | None = None,
    of_all: Floats | None = None,
    factor: Floats | float = 1.0,
) -> Floats:
    """The weights of K forecasts, which sum to 1, by exponentiated gradients (Kivinen and Warmuth 1997).

    Args:
        forecasts: of each trial, shape (K, N, Q, H).
        prior, penalty: shape (K,). A prior of 0 gives a weight of 0.
        kind: the position in KINDS of the series to use; None: all series.
        of_all: the weights by all series, shape (K,). The fewer series of the kind were tried, the nearer to these the
            gradients start.
        factor: on that start, shape (K,).
    """
    prior = prior / prior.sum()
    parts: list[tuple[Floats, ...]] = []  # of each trial: C quantiles of K forecasts; their sales, levels, weights (C,)
    series = 0
    for trial, forecast in zip(trials, forecasts, strict=True):
        cells = np.nonzero(trial.mask if kind is None else trial.mask & (trial.kind == kind)[:, None])
        series += len(np.unique(cells[0]))
        some = slice(None, None, -(-len(cells[0]) // CELLS) or 1)
        rows, weeks = cells[0][some], cells[1][some]
        x = forecast[:, rows, :, weeks].swapaxes(0, 1)  # (K, cells, Q)
        levels = np.broadcast_to(trial.levels, x.shape[1:]).ravel()
        y = np.repeat(trial.y[rows, weeks], x.shape[2])
        x = x.reshape(len(prior), -1)
        loss = float(prior @ _pinball(y, x, levels).sum(axis=1))
        if loss > 0:
            parts.append((x, y, levels, np.full(len(y), (SEASON if trial.season else 1.0) / loss)))
    confidence = series / (series + SERIES)  # from 0, without evidence, towards 1
    if of_all is not None:
        prior, penalty = prior**confidence * of_all ** (1 - confidence) * factor, confidence * penalty
        prior = prior / prior.sum()
    if not parts:
        weighed = prior * np.exp(-SHARPNESS * penalty)
        return np.asarray(weighed / weighed.sum())
    x, y, levels, weight = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    losses = (weight * _pinball(y, x, levels)).sum(axis=1)
    # The median by prior weight, not the least loss: one candidate that is right by luck makes no other hopeless.
    order = losses.argsort(kind="stable")
    median_loss = losses[order[np.searchsorted(np.cumsum(prior[order]), 0.5 - 1e-9)]]
    prior = np.where(losses <= HOPELESS * median_loss, prior, 0)
    prior = prior / prior.sum()
    if not prior @ losses > 0:  # no candidate that is left made an error
        return prior
    weight /= float(prior @ losses)
    sharpness = SHARPNESS * confidence
    used = prior > 0
    start = np.log(prior, out=np.full(len(prior), -np.inf), where=used)
    best, least = prior, np.inf
    logs = start
    for step in range(_STEPS):
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        mean = weights @ x
        divergence = weights[used] @ np.log(np.maximum(weights[used], 1e-300) / prior[used])
        objective = float(weight @ _pinball(y, mean, levels) + penalty @ weights + divergence / sharpness)
        if objective < least:
            best, least = weights, objective
        gradient = x @ (weight * ((y < mean) - levels)) + penalty
        # A step towards the optimum of the loss as linearised here. It is not linear, so the steps become smaller.
        rate = 1 / (2 + step / 4)
        logs = (1 - rate) * logs + rate * (start - sharpness * gradient)
    return best


def _pinball(y: Floats, forecast: Floats, levels: Floats) -> Floats:
    """Elementwise."""
    return np.asarray(np.maximum(levels * (y - forecast), (levels - 1) * (y - forecast)))
