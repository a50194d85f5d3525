"""Series that stop: the probability that a silent series sells again, and its forecast given that probability.

A series is silent while it has no sales (no row, or a zero) though its store reports. The length of a silence is
measured in missed sales, u = weeks of silence x share of weeks in which the series used to sell. From u = 1 on, the
probability p(h) that it ends within h weeks comes from the retailer's history, for steady and intermittent series
apart. Of all earlier silences that got as long, p(h) is the number that ended within h weeks, over the number expected
had the series gone on selling at their rates. A prior 1 / (1 + (u / 3)^2) counts as PRIOR silences more. Where the
series itself has returned n times from silences of at least that length, p(h) becomes (p(h) + n) / (1 + n); from
n = TIMES on they are a habit, and the forecast is not lowered.

The forecast becomes a mixture: 0 with the probability that the series has not returned by then, else what it was.

Letters: N series, T weeks, H weeks ahead, K quantiles or paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecast_platform.history.absence import INTERMITTENT, TIMES
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Groups, Retailer

LATE = 4  # weeks for which a store without any row counts as late; after that as silent
EDGES = np.array([1, 2, 3, 4, 6, 9, 13, 19, 28, 40])  # missed sales at which the classes of silences begin
ALWAYS = 0.9  # rate from which on a series counts as one that sells every week
PRIOR = 20.0  # silences that the prior counts as

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Silence:
    """How silent each series is at each week, by that week and those before; all of shape (N, T).

    Attributes:
        sold: whether it sold.
        weeks: of silence since its last sale, while its store reported; 0 before its first.
        rate: the share of weeks in which it used to sell, as of its last sale.
    """

    sold: Mask
    weeks: Floats
    rate: Floats

    @classmethod
    def of(cls, panel: Panel, retailer: Retailer = WHOLE) -> Silence:
        sold = np.nan_to_num(panel.sales) > 0
        stores = Groups.of(panel.store)
        rows, anybody = retailer.sums((stores, panel.observed), (Groups.one(len(panel)), panel.observed))
        reported, store = rows > 0, stores.member
        silent = np.zeros(reported.shape)  # weeks a whole store has been silent while others reported
        for t in range(len(panel.weeks)):
            before = silent[:, t - 1] if t else np.zeros(len(stores))
            silent[:, t] = np.where(reported[:, t], 0, before + float(anybody[0, t] > 0))
        counts = reported[store].astype(float)
        if panel.exposure is not None:  # a week without an open day is no silence
            counts[panel.exposure.values[0][:, : counts.shape[1]] == 0] = 0
        position = np.arange(len(panel.weeks))
        last = np.maximum.accumulate(np.where(sold, position, -1), axis=1)
        first = np.where(sold.any(axis=1), sold.argmax(axis=1), len(position))[:, None]
        total, sales = np.cumsum(counts, axis=1), np.cumsum(sold, axis=1, dtype=np.float64)

        def then(cells: Floats) -> Floats:
            return np.take_along_axis(cells, np.maximum(last, 0), axis=1)

        started = last >= 0
        lost = silent[store]
        weeks = np.where(started, total - then(total) + np.where(lost > LATE, lost, 0), 0)
        life = then(total) - np.take_along_axis(total, np.minimum(first, len(position) - 1), axis=1) + 1
        rate = np.where(started, (then(sales) + 1) / (np.maximum(life, then(sales)) + 2), 0)
        return cls(sold, weeks, np.minimum(rate, 1.0))

    @property
    def degree(self) -> Ints:
        """The class of each silence by its missed sales: a position in EDGES, -1 below the first, where nothing is
        unusual. Shape (N, T)."""
        # A series that always sold misses one sale a week, although its smoothed rate is below 1.
        missed = self.weeks * np.where(self.rate > ALWAYS, 1, self.rate)
        return np.asarray(np.searchsorted(EDGES, missed, side="right") - 1, dtype=np.int64)

    @property
    def steady(self) -> Mask:
        """Whether it used to sell more often than an intermittent series."""
        return np.asarray(self.rate > 1 / INTERMITTENT)


def returning(silence: Silence, horizon: int, retailer: Retailer = WHOLE) -> Floats:
    """The probability that a silence ends within 1 .. H weeks, from all of the history: silences that did, over those
    expected to had the series gone on selling at its rate. Shape (2, len(EDGES), H): intermittent and steady series, by
    degree.
    """
    degree, weeks = silence.degree, silence.sold.shape[1]
    came = np.zeros_like(degree, dtype=bool)
    came[:, 1:] = (degree[:, 1:] > degree[:, :-1]) & (degree[:, 1:] >= 0)
    series, week = np.nonzero(came)
    # The week of the next sale after each, beyond every horizon where there is none.
    position = np.where(silence.sold, np.arange(weeks), weeks + horizon + 1)
    following = np.minimum.accumulate(position[:, ::-1], axis=1)[:, ::-1][series, week] - week
    ahead = np.arange(1, horizon + 1)
    known = week[:, None] + ahead <= weeks - 1
    ended = known & (following[:, None] <= ahead)
    alive = known * (1 - (1 - silence.rate[series, week])[:, None] ** ahead)
    kinds = Groups(np.arange(2 * len(EDGES)), silence.steady[series, week] * len(EDGES) + degree[series, week])
    shape = (2, len(EDGES), horizon)
    returned, expected = (each.reshape(shape) for each in retailer.sums((kinds, ended), (kinds, alive)))
    prior = (1 / (1 + (EDGES / 3) ** 2))[:, None]
    share = np.clip((returned + PRIOR * prior) / (expected + PRIOR), 0, 1)
    # More return the longer one waits, and fewer the longer the silence.
    return np.asarray(np.minimum.accumulate(np.maximum.accumulate(share, axis=2), axis=1))


def probability_of_return(panel: Panel, horizon: int, retailer: Retailer = WHOLE) -> Floats:
    """The probability that each series has sold again by each week ahead, shape (N, H). It is 1 where the series is not
    silent, or its silence is a habit, and never falls with the weeks ahead.

    Args:
        panel: ends at the cutoff and holds, with the rest of the retailer, all series, those that ended long ago too:
            they are the evidence.
    """
    [found] = retailer.keep(lambda: (_probability_of_return(panel, horizon, retailer),))
    return found


def _probability_of_return(panel: Panel, horizon: int, retailer: Retailer) -> Floats:
    silence = Silence.of(panel, retailer)
    degree = silence.degree[:, -1]
    chance = returning(silence, horizon, retailer)[silence.steady[:, -1].astype(int), np.maximum(degree, 0)]
    # Silences of at least this length from which the series did return.
    ending = np.zeros_like(silence.sold)
    ending[:, 1:] = silence.sold[:, 1:] & (silence.weeks[:, :-1] >= np.maximum(silence.weeks[:, -1:], 1))
    own = ending.sum(axis=1)[:, None]
    return np.asarray(np.where((degree[:, None] >= 0) & (own < TIMES), (chance + own) / (1 + own), 1.0))


def fade_quantiles(quantiles: Floats, levels: Sequence[float], returns: Floats) -> Floats:
    """Quantiles of the mixture with 0.

    Args:
        quantiles: shape (N, K, H), ascending in K. levels: K of them, ascending. returns: shape (N, H).
    """
    faded = quantiles.copy()
    asked = np.asarray(levels, dtype=float)
    for i, h in zip(*np.nonzero(returns < 1), strict=True):
        p, known = returns[i, h], quantiles[i, :, h]
        # The part below 0 comes first, then 0 with probability 1 - p, then the rest.
        below = np.interp(0.0, known, asked) if known[0] < 0 else 0.0
        inner = np.where(asked < p * below, asked, asked - (1 - p)) / max(p, 1e-9)
        nothing = (asked >= p * below) & (asked <= p * below + 1 - p)
        faded[i, :, h] = np.where(nothing, 0.0, np.interp(inner, asked, known))
        # Beyond the known levels np.interp takes the outermost quantile, which may lie on the wrong side of 0.
        faded[i, :, h] = np.maximum.accumulate(faded[i, :, h])
    return faded


def fade_paths(paths: Floats, returns: Floats, keys: Sequence[str]) -> Floats:
    """Paths of the mixture: in each week a share 1 - returns of a series' paths is 0. A path that has returned
    keeps its values from then on.

    Args:
        paths: shape (N, K, H). returns: shape (N, H), not falling. keys: N names; a series' name decides which of its
            paths are 0, so that they are the same in every run.
    """
    faded = paths.copy()
    count = paths.shape[1]
    for i in np.flatnonzero((returns < 1).any(axis=1)).tolist():
        seed = int.from_bytes(hashlib.sha256(keys[i].encode()).digest()[:8], "big")
        rank = (np.random.default_rng(seed).permutation(count) + 0.5) / count
        faded[i][rank[:, None] > returns[i]] = 0.0
    return faded


def stopping(panel: Panel, retailer: Retailer = WHOLE) -> pa.Table:
    """The series that are silent beyond their habits at the panel's end: store, dept, last_week (of a sale),
    silent_weeks, probability_of_return (within the horizon) and share_of_sales (the series' share of the retailer's
    sales in the year up to the panel's end).

    Args:
        panel: with its `returns`.

    Raises:
        ValueError: it has none.
    """
    if panel.returns is None:
        raise ValueError("the panel does not say which series return; it comes from publishing.forecastable")
    silence = Silence.of(panel, retailer)
    stopped = (silence.degree[:, -1] >= 0) & (panel.returns[:, -1] < 1)
    last = len(panel.weeks) - 1 - silence.sold[:, ::-1].argmax(axis=1)
    year = np.maximum(np.nan_to_num(panel.sales[:, -52:]), 0).sum(axis=1)
    at = np.flatnonzero(stopped)
    whole = float(retailer.total(year)) or 1.0
    return pa.table(
        {
            "store": pa.array(panel.store[at].tolist(), pa.string()),
            "dept": pa.array(panel.dept[at].tolist(), pa.string()),
            "last_week": pa.array(panel.weeks[last[at]].astype("datetime64[D]"), pa.date32()),
            "silent_weeks": pa.array(np.round(silence.weeks[at, -1]).astype(np.int64)),
            "probability_of_return": pa.array(panel.returns[at, -1]),
            "share_of_sales": pa.array(year[at] / whole),
        }
    )
