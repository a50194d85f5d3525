"""How candidates are blended: the mean of their quantiles, weighted by how well each would have forecast.

Little evidence moves little. Weights start from a stated prior (`Candidate.prior`: what retail usually is) and
minimise, over the windows tried,

    pinball loss of the blend / the candidates' mean pinball loss  +  KL(weights || prior) / sharpness

so a candidate that loses by d against the others keeps about exp(-sharpness d) of its prior: SHARPNESS where many
series were tried, less where few were. The loss is that of the blend, not of each candidate: two that err in different
weeks are worth more than two that err alike. A mean of quantiles keeps the shape of its members (Lichtendahl et al.
2013, "Is it better to average probabilities or quantiles?").

Young series, intermittent ones and the others have weights of their own, which start from those of all series.

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
SEASON = 2.0  # a window in the season that is forecast, a year or two ago, counts as so many others
SERIES = 40  # tried, a series in two windows being two, with which weights move half as freely as they may
YOUNG = 2 * YEAR  # weeks since its first observation below which a series is young
HOPELESS = 10.0  # a candidate that lost so many times as much as the others gets nothing
CELLS = 3000  # of a trial that are looked at, evenly, where there are more
_STEPS = 100

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def kinds(sales: Floats) -> Ints:
    """The kind of each series by its history, shape (N, T), NaN where not observed: positions in KINDS, shape (N,)."""
    seen = ~np.isnan(sales)
    age = np.where(seen.any(axis=1), sales.shape[1] - seen.argmax(axis=1), 0)
    sold = (np.nan_to_num(sales) > 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return np.where(sold < 1 / INTERMITTENT, 2, np.where(age < YOUNG, 1, 0))


@dataclass(frozen=True)
class Trial:
    """What candidates said before the cutoff of a window whose sales are known, of the series scored.

    Attributes:
        y, mask: sales and which of them count, shape (N, H).
        kind: see `kinds`, shape (N,).
        said: candidate -> its quantiles at `levels`, shape (N, Q, H), in sales.
        season: whether the window lies in the season that is forecast, in an earlier year.
    """

    y: Floats
    mask: NDArray[np.bool_]
    kind: Ints
    said: Mapping[str, Floats]
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
        """Of some of its candidates, each with the same part of the others as before."""
        kept = {name: np.array(self.weights[name]) for name in self.weights if name in names}
        total = sum(kept.values(), np.zeros(len(KINDS)))
        return Blend({
            name: tuple(float(w) for w in np.where(total > 0, each / np.where(total > 0, total, 1), 1 / len(kept)))
            for name, each in kept.items()
        })  # fmt: skip

    def quantiles(self, said: Mapping[str, Floats], kind: Ints) -> Floats:
        """The blend of what its candidates said, at any K levels or ranks: shapes (N, K, H) each."""
        first = next(iter(self.weights))
        found = np.zeros_like(said[first], dtype=np.float64)
        for name, weights in self.weights.items():
            found += np.array(weights)[kind][:, None, None] * said[name]
        return found


def fit(
    trials: Sequence[Trial],
    prior: Mapping[str, float],
    tolls: Mapping[str, float] | None = None,
    sparse: Mapping[str, float] | None = None,
) -> Blend:
    """The weights by trials and a prior.

    Those tried in most windows are weighed first. Who was tried in fewer (networks, which cost a training each) is then
    weighed against their blend in the windows that all were tried in. Who said nothing in any trial keeps its prior.

    Args:
        tolls: what a candidate is expected to lose more in the weeks to come than in the trials, relative to the
            candidates' mean loss; who has none expects nothing.
        sparse: how many times as large a candidate's prior is for intermittent series; 1 where nothing is said.
    """
    tolls, sparse = tolls or {}, sparse or {}
    total = sum(prior.values())
    prior = {name: value / total for name, value in prior.items()}
    blend = Blend({})
    for names in _rounds(trials, list(prior)):
        among = [trial for trial in trials if all(name in trial.said for name in (*blend.names, *names))]
        start = np.array([sum(prior[name] for name in blend.names), *(prior[name] for name in names)])
        said = [_beside(blend, trial, names) for trial in among]
        so_far = sum(weight * tolls.get(name, 0.0) for name, weight in blend.usual.items())
        toll = np.array([so_far, *(tolls.get(name, 0.0) for name in names)])
        every = _stacked(among, said, start, toll)
        tilt = np.array([1.0, *(sparse.get(name, 1.0) for name in names)])
        of_kinds = np.array([
            _stacked(among, said, start, toll, kind, every, tilt if kind == INTERMITTENTS else np.ones(len(tilt)))
            for kind in range(len(KINDS))
        ])  # fmt: skip
        before = {name: of_kinds[:, 0] * np.array(weights) for name, weights in blend.weights.items()}
        found = before | dict(zip(names, of_kinds[:, 1:].T, strict=True))
        blend = Blend({name: tuple(float(w) for w in weights) for name, weights in found.items()})
    mass = sum(prior[name] for name in blend.names)
    tried = {name: tuple(mass * w for w in weights) for name, weights in blend.weights.items()}
    return Blend({name: tried.get(name, (value,) * len(KINDS)) for name, value in prior.items()})


def _rounds(trials: Sequence[Trial], names: Sequence[str]) -> list[list[str]]:
    """Names that are weighed together: those tried equally often, those with most trials first."""
    count = {name: sum(name in trial.said for trial in trials) for name in names}
    return [[name for name in names if count[name] == times] for times in sorted({*count.values()} - {0}, reverse=True)]


def _beside(blend: Blend, trial: Trial, names: Sequence[str]) -> Floats:
    """What a blend (zeros where there is none yet) and some candidates said in a trial, shape (1 + names, N, Q, H)."""
    new = [trial.said[name] for name in names]
    return np.stack([blend.quantiles(trial.said, trial.kind) if blend.weights else np.zeros_like(new[0]), *new])


def _stacked(
    trials: Sequence[Trial],
    said: Sequence[Floats],
    prior: Floats,
    toll: Floats,
    kind: int | None = None,
    every: Floats | None = None,
    tilt: Floats | float = 1.0,
) -> Floats:
    """Weights of K voices that sum to 1, by exponentiated gradients (Kivinen and Warmuth 1997) from those of a prior.

    Args:
        said: in each trial, shape (K, N, Q, H).
        prior, toll: shape (K,); who has no prior gets no weight.
        kind, every: of which series, and the weights of all series, from which the fewer of a kind start the more.
        tilt: what that start is multiplied by, shape (K,).
    """
    prior = prior / prior.sum()
    parts: list[tuple[Floats, ...]] = []  # of each trial: what was said, sales and level of its quantiles, their weight
    series = 0
    for trial, voices in zip(trials, said, strict=True):
        cells = np.nonzero(trial.mask if kind is None else trial.mask & (trial.kind == kind)[:, None])
        series += len(np.unique(cells[0]))
        some = slice(None, None, -(-len(cells[0]) // CELLS) or 1)
        rows, weeks = cells[0][some], cells[1][some]
        x = voices[:, rows, :, weeks].swapaxes(0, 1)  # (K, cells, Q)
        levels = np.broadcast_to(trial.levels, x.shape[1:]).ravel()
        y = np.repeat(trial.y[rows, weeks], x.shape[2])
        x = x.reshape(len(prior), -1)
        loss = float(prior @ _pinball(y, x, levels).sum(axis=1))
        if loss > 0:
            parts.append((x, y, levels, np.full(len(y), (SEASON if trial.season else 1.0) / loss)))
    own = series / (series + SERIES)
    if every is not None:
        prior, toll = prior**own * every ** (1 - own) * tilt, own * toll
        prior = prior / prior.sum()
    if not parts:
        weighed = prior * np.exp(-SHARPNESS * toll)
        return np.asarray(weighed / weighed.sum())
    x, y, levels, weight = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    losses = (weight * _pinball(y, x, levels)).sum(axis=1)
    order = losses.argsort(kind="stable")  # the middle by the prior: who is right by luck makes nobody hopeless
    middle = losses[order[np.searchsorted(np.cumsum(prior[order]), 0.5 - 1e-9)]]
    prior = np.where(losses <= HOPELESS * middle, prior, 0)
    prior = prior / prior.sum()
    if not prior @ losses > 0:  # they were right in everything
        return prior
    weight /= float(prior @ losses)
    sharpness = SHARPNESS * own
    used = prior > 0
    start = np.log(prior, out=np.full(len(prior), -np.inf), where=used)
    best, least = prior, np.inf
    logs = start
    for step in range(_STEPS):
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        mean = weights @ x
        away = np.log(np.maximum(weights[used], 1e-300) / prior[used])
        objective = float(weight @ _pinball(y, mean, levels) + toll @ weights + weights[used] @ away / sharpness)
        if objective < least:
            best, least = weights, objective
        gradient = x @ (weight * ((y < mean) - levels)) + toll
        # Part of the way to where the optimum would be if the loss were linear; ever smaller parts, as it is not.
        rate = 1 / (2 + step / 4)
        logs = (1 - rate) * logs + rate * (start - sharpness * gradient)
    return best


def _pinball(y: Floats, said: Floats, levels: Floats) -> Floats:
    """Elementwise."""
    return np.asarray(np.maximum(levels * (y - said), (levels - 1) * (y - said)))
