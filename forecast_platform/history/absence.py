"""What a week without a row means, and which weeks a whole store was closed.

A week without a row is a zero where the store reported that week and leaving weeks out is the series' habit. A habit is
at least TIMES times, and either in a quarter of its weeks (an average interval of 1.32 weeks between rows, the bound of
intermittent demand by Syntetos, Boylan and Croston, 2005) or about as often as the mean and variance of its sales
predict zeros. A gap in a steady series is a missing report and stays unknown. Where a store or series has zeros in its
rows at least as often as it leaves weeks out, no row means something else and stays unknown too.

A week is a closure where a whole store sold nothing, though other stores reported, and by the habits of its series the
probability of that is at most CLOSED. Sales of a closed store say nothing about the weeks to come, so nothing is
learned from them.

Every cell is decided by its own week and the weeks before. So a decision is final: a later week never changes it, a
backtest knows no more than the graph did, and the order in which weeks land does not matter.

Letters: N series, T weeks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Groups, Retailer

NoRow = Literal["unknown", "zero", "auto"]
UNKNOWN: NoRow = "unknown"
AUTO: NoRow = "auto"

INTERMITTENT = 1.32  # weeks between rows
TIMES = 3  # times that a series must have left weeks out before it is a habit
WEEKS = 8  # length of a series' life from which on it can have habits
NEAR_CHANCE = 3.0  # factor by which weeks left out may differ from the zeros expected by chance, up or down
CLOSED = 0.02  # a store without sales counts as closed where the probability of that is at most this

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Absence:
    """What the cells of a panel without sales mean.

    Attributes:
        filled: there is no row, which means zero sales; shape (N, T).
        closed: the series' store was closed, with rows or without; shape (N, T).
    """

    filled: Mask
    closed: Mask


def judge(panel: Panel, no_row: NoRow, active_weeks: int, retailer: Retailer = WHOLE) -> Absence:
    """Decide every cell by its week and those before.

    Args:
        panel: as reported, without filled zeros.
        no_row: "auto" decides as the module says, "zero" takes every week without a row for a zero if the store
            reported, "unknown" none.
        active_weeks: a series without a row for so many weeks is closed, and its cells are not judged.
    """
    seen = _Reports.of(panel, active_weeks, retailer)
    zeros, gaps = (np.cumsum(cells, axis=1) for cells in (panel.sales == 0, seen.gap))
    chance = _sells_nothing(panel, seen)
    log_chance, *by_store = retailer.sums((seen.store, np.log(chance)), (seen.store, zeros), (seen.store, gaps))
    quiet = (seen.sold == 0) & seen.others & (np.exp(log_chance) <= CLOSED)
    closed = quiet[seen.store.member] & seen.alive
    if no_row == "unknown":
        return Absence(np.zeros_like(seen.row), closed)
    filled = seen.gap & ~closed
    if no_row == "auto":
        # A series or store with zeros in its rows at least as often as weeks left out means something else by no row.
        own, of_store = ((z > 0) & (z >= g) for z, g in ((zeros, gaps), by_store))
        filled &= _habit(panel, seen) & ~(own | of_store[seen.store.member])
    return Absence(filled, closed)


def interpret(panel: Panel, no_row: NoRow, active_weeks: int, retailer: Retailer = WHOLE) -> Panel:
    """The panel to learn from: 0 where no row means zero, marked in `filled`; NaN where a store was closed.

    From here on the panel says when a series counts as closed (`active_weeks`).

    Where exposure (open days) is given, closures are not guessed: it says when a store was closed.
    """
    absence = judge(panel, no_row, active_weeks, retailer)
    sales = np.where(absence.filled, 0.0, panel.sales)
    closed = absence.closed
    if panel.exposure is not None:
        closed = closed & np.isnan(panel.exposure.values[0][:, : closed.shape[1]])
    # A series that has never sold keeps its zeros: they are all that is known of it.
    sold = np.nan_to_num(panel.sales) != 0
    sales[closed & (np.cumsum(sold, axis=1) > 0)] = np.nan
    return replace(panel, sales=sales, filled=absence.filled, active_weeks=active_weeks)


@dataclass(frozen=True)
class _Reports:
    """What was reported. All are of shape (N, T) except store, sold and others.

    row: there is a row. alive: the series has had a row in the last `active_weeks` weeks. gap: it is alive and without
    a row, though its store reported. before: position of the last row up to each week, -1 where there is none. store:
    of each series. sold: how many series of each store sold, (stores, T). others: whether at least half of the other
    stores with living series have a row, (stores, T).
    """

    row: Mask
    gap: Mask
    alive: Mask
    before: NDArray[np.int64]
    store: Groups
    sold: Floats
    others: Mask

    @classmethod
    def of(cls, panel: Panel, active_weeks: int, retailer: Retailer) -> _Reports:
        row = panel.observed
        weeks = np.arange(row.shape[1])
        before = np.maximum.accumulate(np.where(row, weeks, -1), axis=1)
        alive = (before >= 0) & (weeks - before < active_weeks)
        store = Groups.of(panel.store)
        every = retailer.every((store, row), (store, alive), (store, np.nan_to_num(panel.sales) != 0))
        open_stores, reporting = ((each.whole > 0).sum(axis=0) for each in (every[1], every[0]))
        rows, living, sold = (each.of_groups(store) for each in every)
        reported = rows > 0
        rest = open_stores - (living > 0)
        others = (rest > 0) & (2 * (reporting - reported) >= rest)
        # For the only living series of a store no other series shows that the store reported, so other stores decide.
        sole = living[store.member] - alive == 0
        gap = alive & ~row & np.where(sole, others[store.member], reported[store.member])
        return cls(row, gap, alive, before, store, sold, others)

    def so_far(self, cells: Mask | Floats) -> Floats:
        """The sum of a series' cells up to its last row. A silence that still goes on is no part of its habits."""
        total = np.cumsum(cells, axis=1, dtype=np.float64)
        return np.where(self.before >= 0, np.take_along_axis(total, np.maximum(self.before, 0), axis=1), 0.0)


def _habit(panel: Panel, seen: _Reports) -> Mask:
    """Whether leaving weeks out is a habit of the series, by what is known at its last row."""
    rows, gaps = seen.so_far(seen.row), seen.so_far(seen.gap)
    weeks = np.maximum(rows + gaps, 1)
    # A row after one or more gaps ends one time of leaving weeks out.
    earlier = np.concatenate([np.zeros((len(gaps), 1)), gaps[:, :-1]], axis=1)
    times = np.cumsum(seen.row & (gaps > earlier), axis=1)
    share = gaps / weeks
    often = share >= 1 - 1 / INTERMITTENT
    # The share of zeros expected by chance if gaps were zeros: exp(-mean^2 / variance), as for a Poisson number of
    # sales of equal size. The variance is half the mean squared step from week to week.
    known = seen.row | seen.gap
    sales = np.where(seen.row, panel.sales, 0.0)
    pair = np.zeros_like(known)
    pair[:, 1:] = known[:, 1:] & known[:, :-1]
    step = np.zeros_like(sales)
    step[:, 1:] = np.diff(sales, axis=1)
    scatter = seen.so_far(pair * step**2) / np.maximum(2 * seen.so_far(pair), 1)
    mean = np.maximum(seen.so_far(sales) / weeks, 0)
    expected = np.exp(-np.divide(mean**2, scatter, out=np.full_like(mean, np.inf), where=scatter > 0))
    by_chance = (share <= NEAR_CHANCE * expected) & (expected <= NEAR_CHANCE * share)
    return np.asarray((weeks >= WEEKS) & (times >= TIMES) & (often | by_chance))


def _sells_nothing(panel: Panel, seen: _Reports) -> Floats:
    """(N, T), the probability that a series sells nothing in a week, by its weeks before; 1 where it never sold or is
    not alive."""
    sold = np.nan_to_num(panel.sales) != 0
    known = seen.row | seen.gap
    # A series' habit as of its last sale, so that a long closure does not become one.
    weeks = np.arange(sold.shape[1])
    last = np.maximum.accumulate(np.where(sold, weeks, -1), axis=1)

    def then(cells: Mask) -> Floats:
        return np.where(last >= 0, np.take_along_axis(np.cumsum(cells, axis=1), np.maximum(last, 0), axis=1), 0)

    chance = 1 - (then(sold) + 1) / (then(known) + 2)
    chance = np.concatenate([np.ones((len(chance), 1)), chance[:, :-1]], axis=1)  # known before the week
    return np.where(seen.alive & (last >= 0), chance, 1.0)


def told(panel: Panel) -> str:
    """One line for people: how many cells were filled."""
    if panel.filled is None or not panel.filled.any():
        return "weeks without a row: none counts as zero sales"
    series, cells = int(panel.filled.any(axis=1).sum()), int(panel.filled.sum())
    return (
        f"weeks without a row: {cells:,} count as zero sales ({cells / panel.observed.sum():.1%} of the weeks known), "
        f"in {series:,} of {len(panel):,} series"
    )
