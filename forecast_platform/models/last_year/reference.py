"""Last year's week as a reference: holidays lined up by name and distance, noise reduced by the department's sales.

For series i and week t the reference is built from weeks about one year before t:

    reference[i, t] = (1 - mix) * own[i, t'] + mix * share[i, t'] * department[t']

- t' is t one year back. Near a named holiday each of the week's seven days goes back to the day equally far from last
  year's holiday, so t' may be parts of two weeks, its source weeks. Other weeks go back 364 days.
- own is the series' sales, department those of its department.
- share is the series' share of its department over the weeks around t', which is less noisy than a single week.
- mix is fitted per department.

Where the series was not observed a year ago, the department's part stands alone, with the series' share over all of its
history. Where there is no department either, the reference is the series' own level. With more than two years of
history the year before last, scaled to last year's level, joins in: one week of one year is noisy.

Leak-free by construction: with up to MAX_HORIZON weeks ahead nothing after the cutoff is read. Shares, mixes and levels
are those of the history up to the cutoff.

Letters: N series, D departments, T weeks known, H weeks ahead.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.holidays import Event, retail_events
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Groups, Retailer

YEAR = 52
SHARE_WEEKS = 6  # weeks to each side of t' over which the share of the department is taken
MAX_HORIZON = YEAR - SHARE_WEEKS
HALF_YEAR = 26
NET = 0.2  # a share of a department means nothing if its returns leave less than this part of its sales
GROWN = (0.2, 5.0)  # a department's growth in a week is cut to this range
SECOND_YEAR = 0.35  # the weight of the year before last
MIXES = np.linspace(0, 1, 11)  # the values of mix that are tried
STORE_PULSE = 0.4  # a power below 1: a store's own ups and downs are in part noise


def one_year_back(
    weeks: NDArray[np.datetime64], horizon: int, events: Sequence[Event] | None = None
) -> NDArray[np.float64]:
    """Weights of source weeks for target weeks.

    Args:
        weeks: the T known week-ending dates, seven days apart.
        horizon: weeks after them to be served, H.

    Returns:
        Shape (T, T + H): column t holds the weights of week t's source weeks. They sum to 1, or to less where source
        weeks lie before the first week.
    """
    known, total = len(weeks), len(weeks) + horizon
    ends = (weeks[0] + 7 * np.arange(total)).astype(dt.date)
    chosen = retail_events(ends[0], ends[-1]) if events is None else events
    days = np.arange(-6, 1)
    weights = np.zeros((known, total))
    for t in range(total):
        back = 7 * YEAR
        event = _nearest(ends[t], chosen)
        if event is not None:
            back = (event[0] - event[1]).days
        # Position of the week that holds each of the seven days, one year (or one event) back.
        source = -(-(7 * t + days - back) // 7)
        for week in source:
            if 0 <= week < known:
                weights[week, t] += 1 / 7
    return weights


def times(cells: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """`cells @ weights`, (..., T) by (T, M), with few weights in a column; see kernels.py."""
    from forecast_platform.kernels import of_few  # Numba takes a while to load

    return of_few(cells, weights)


def _nearest(end: dt.date, events: Sequence[Event]) -> tuple[dt.date, dt.date] | None:
    """Of the event whose weeks hold the week ending at `end`, its date this year and last year; None where there is
    none. Of several events the nearest."""
    best: tuple[int, dt.date, dt.date] | None = None
    for event in events:
        for this, previous in zip(event.dates[1:], event.dates, strict=False):
            # Weeks from the event's own week to this one: 0 when the event lies in it.
            offset = (end - this).days // 7
            if -event.before <= offset <= event.after and (best is None or abs(offset) < best[0]):
                best = (abs(offset), this, previous)
    return (best[1], best[2]) if best else None


def worth_lining_up(panel: Panel, retailer: Retailer = WHOLE) -> tuple[Event, ...]:
    """The panel's events that are worth lining up. Not every holiday moves every retailer's sales.

    An event is left out if, in the weeks near it, sales were further from last year's with the event lined up than from
    those of 52 weeks before. An event that the history has not seen twice stays: there is nothing to judge it by.
    """
    ends = (panel.weeks[0].astype(dt.date), panel.weeks[-1].astype(dt.date))
    events = retail_events(*ends) if panel.events is None else panel.events
    [errors] = retailer.keep(lambda: (_lined_up_or_not(panel, events),))
    lined_up, as_it_is = retailer.total(errors).T
    return tuple(event for event, keep in zip(events, lined_up <= as_it_is, strict=True) if keep)


def _lined_up_or_not(panel: Panel, events: Sequence[Event]) -> NDArray[np.float64]:
    """Each series' absolute differences from last year's sales, added up over the weeks near each event, shape (N,
    events, 2): with the event lined up, and 52 weeks apart."""
    sales, observed = np.nan_to_num(panel.sales), panel.observed.astype(float)
    apart = one_year_back(panel.weeks, 0, ())
    then, there = times(sales, apart), observed * (times(observed, apart) > 0.99)
    total = (then * there).sum(axis=1)
    growth = np.where(total > 0, (sales * there).sum(axis=1) / np.where(total > 0, total, 1), 1.0)[:, None]
    errors = np.zeros((len(panel), len(events), 2))
    for i, event in enumerate(events):
        back = one_year_back(panel.weeks, 0, (event,))
        near = (back != apart).any(axis=0) & (back.sum(axis=0) > 0.99)
        both = (there * (times(observed, back) > 0.99))[:, near]
        for k, source in enumerate((back, apart)):
            errors[:, i, k] = (np.abs(sales - growth * times(sales, source))[:, near] * both).sum(axis=1)
    return errors


def last_year(
    panel: Panel,
    horizon: int,
    mix: float | None = None,
    events: Sequence[Event] | None = None,
    retailer: Retailer = WHOLE,
) -> NDArray[np.float64]:
    """The reference of every series for all known weeks and `horizon` weeks ahead.

    Args:
        panel: N series over T weeks, ending at the cutoff.
        mix: the weight of the department's part, 0 .. 1; None: fitted, see `_fitted_mix`.
        events: named days to line up; None: the panel's own, or else those of retail in the US.

    Returns:
        Shape (N, T + horizon), positive; NaN in the first year, for which there is nothing to refer to.

    Raises:
        ValueError: the horizon is longer than MAX_HORIZON.
    """
    if not 0 < horizon <= MAX_HORIZON:
        raise ValueError(f"horizon is {horizon}; the reference reaches 1 .. {MAX_HORIZON} weeks ahead")
    back = one_year_back(panel.weeks, horizon, panel.events if events is None else events)
    [reference] = retailer.keep(lambda: (_last_year(panel, horizon, mix, back, retailer),))
    return reference


def _last_year(
    panel: Panel, horizon: int, mix: float | None, back: NDArray[np.float64], retailer: Retailer
) -> NDArray[np.float64]:
    known = len(panel.weeks)
    seen = _Observed.of(panel, retailer)
    share = _overall_share(seen, back, retailer)
    own, from_dept = retailer.keep(lambda: _components(seen, back, 1, share))
    part = _fitted_mix(seen, own, from_dept, retailer)[:, None] if mix is None else np.asarray(mix)
    reference = np.where(np.isnan(own), from_dept, (1 - part) * own + part * from_dept)
    if known + horizon > 2 * YEAR:
        own, from_dept = _components(seen, back[:, :known] @ back, 2, share)
        second = (1 - part) * own + part * from_dept
        second *= _level_of_last_year(seen, known + horizon)
        reference = np.where(
            np.isnan(second), reference, (1 - SECOND_YEAR) * reference + SECOND_YEAR * np.nan_to_num(second)
        )
    count = np.maximum(seen.observed.sum(axis=1, keepdims=True), 1)
    level = np.abs(seen.sales).sum(axis=1, keepdims=True) / count
    reference = np.where(np.isnan(reference), level, reference)
    # A reference is divided by, so weeks of returns or of nothing are raised to a small part of the level.
    reference = np.maximum(reference, np.maximum(0.05 * level, 1e-6))
    reference[:, :YEAR] = np.nan
    return np.asarray(reference)


@dataclass(frozen=True)
class _Observed:
    """What was observed: N series of D departments over T weeks.

    Attributes:
        sales: 0 where not observed, shape (N, T). observed: 0 or 1, shape (N, T).
        depts: which series each department has.
        department: sums of sales, scaled up for series that are missing in a week, shape (D, T).
        traded: 1 where any series of the department was observed, else 0, shape (D, T).
        pulse: sales of each series' store over what its departments' sales and usual shares make expected, (N, T).
    """

    sales: NDArray[np.float64]
    observed: NDArray[np.float64]
    depts: Groups
    department: NDArray[np.float64]
    traded: NDArray[np.float64]
    pulse: NDArray[np.float64]

    @classmethod
    def of(cls, panel: Panel, retailer: Retailer) -> _Observed:
        sales, observed = np.nan_to_num(panel.sales), panel.observed.astype(float)
        stores, depts = Groups.of(panel.store), Groups.of(panel.dept)
        # A series that is not observed between its first and last week (a closed store, a missing report) lacks in its
        # department's sum: of a department of two stores half would be missing. So the sum of the others is scaled up
        # by what the missing series usually sells.
        weeks = np.arange(len(panel.weeks))
        alive = (weeks >= panel.first[:, None]) & (weeks <= panel.last[:, None])
        usual = (np.abs(sales).sum(axis=1) / observed.sum(axis=1))[:, None]
        department, rows, there, whole = retailer.sums(
            (depts, sales), (depts, panel.observed), (depts, usual * observed), (depts, usual * alive)
        )
        department *= np.divide(whole, there, out=np.ones_like(whole), where=there > 0.1 * whole)
        dept_sales = np.maximum(department, 0)[depts.member] * observed
        total = dept_sales.sum(axis=1)
        share = np.clip(sales.sum(axis=1) / np.where(total > 0, total, np.inf), 0, 1)
        sold, expected = retailer.sums((stores, sales), (stores, dept_sales * share[:, None]))
        pulse = np.where(expected > 0, sold / np.where(expected > 0, expected, 1), 1.0)
        return cls(sales, observed, depts, department, (rows > 0).astype(float), pulse[stores.member])


def _overall_share(seen: _Observed, back: NDArray[np.float64], retailer: Retailer) -> NDArray[np.float64]:
    """Each series' share of its department over all weeks in which it was observed, shape (N,); or NaN.

    The share is to be multiplied with last year's department, of which a new series was no part. So, where possible, it
    is a share of last year's sales times the growth of those series that sold in both years.
    """
    known = seen.sales.shape[1]
    own = _weeks_of(seen.sales, seen.observed, back[:, :known])
    both = (seen.observed > 0) & ~np.isnan(own)
    now, then = retailer.sums((seen.depts, seen.sales * both), (seen.depts, np.where(both, own, 0)))
    before = _weeks_of(seen.department, seen.traded, back[:, :known])
    alike = (now > 0) & (then > 0) & (then > 0.2 * before)
    growth = np.clip(now / np.where(alike, then, 1), *GROWN)
    department = np.where(alike, growth * before, seen.department)
    dept_sales = department[seen.depts.member] * seen.observed
    whole, size = dept_sales.sum(axis=1), np.abs(dept_sales).sum(axis=1)
    return np.asarray(seen.sales.sum(axis=1) / np.where(whole > NET * size, whole, np.nan))


def _weeks_of(cells: NDArray[np.float64], there: NDArray[np.float64], back: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each row's source weeks, weighted by `back`, shape (rows, T + H).

    Args:
        cells: shape (rows, T). there: 0 or 1, same shape; cells without are left out, and it is NaN where half or more
            of the weight is.
        back: weights of source weeks, shape (T, T + H).
    """
    part = times(there, back)
    return np.where(part > 0.5, times(cells, back) / np.where(part > 0, part, 1), np.nan)


def _components(
    seen: _Observed, back: NDArray[np.float64], years: int, overall_share: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two parts of the reference, shapes (N, T + H): own, and share * department.

    Args:
        back: weights of source weeks, `years` years back, shape (T, T + H).
        overall_share: see `_overall_share`, shape (N,).
    """
    # The share is one of the department's sales in the weeks in which the series was observed.
    around = _around(back.shape[0], back.shape[1], years, SHARE_WEEKS)
    dept_sales = seen.department[seen.depts.member] * seen.observed
    own_part, dept_part = times(seen.sales, around), times(dept_sales, around)
    # A share needs a few weeks. Where there are too few, the overall share stands in; likewise for source weeks before
    # the series' first, when its department was without it.
    few = (times(seen.observed, around) < 4) | (dept_part <= NET * times(np.abs(dept_sales), around))
    few |= times(np.maximum.accumulate(seen.observed, axis=1), back) <= 0.5
    share = np.where(few, overall_share[:, None], own_part / np.where(few, 1, dept_part))
    department = _weeks_of(seen.department, seen.traded, back)[seen.depts.member]
    own = _weeks_of(seen.sales, seen.observed, back)
    return own, share * department * _store_pulse(seen, back, around)


def _store_pulse(seen: _Observed, back: NDArray[np.float64], around: NDArray[np.float64]) -> NDArray[np.float64]:
    """The pulse of each series' store in the source weeks over that of the weeks around them, to the power STORE_PULSE,
    shape (N, T + H). A store has weather, roadworks and local feasts of its own."""
    weight, weeks = back.sum(axis=0), around.sum(axis=0)
    usual = times(seen.pulse, around) / np.maximum(weeks, 1)
    ratio = times(seen.pulse, back) / np.where(weight > 0.5, weight, 1) / np.where(usual > 0, usual, 1)
    ratio = np.where((weight > 0.5) & (usual > 0), np.clip(ratio, 0.5, 2.0), 1.0)
    return np.asarray(ratio**STORE_PULSE)


def _around(weeks: int, total: int, years: int, reach: int) -> NDArray[np.float64]:
    """Shape (weeks, total): 1 for the known weeks within `reach` of `years` years before each week."""
    distance = np.arange(weeks)[:, None] - (np.arange(total)[None] - years * YEAR)
    return np.asarray(np.abs(distance) <= reach, dtype=float)


def _fitted_mix(
    seen: _Observed, own: NDArray[np.float64], from_dept: NDArray[np.float64], retailer: Retailer
) -> NDArray[np.float64]:
    """The mix for each series, shape (N,): the mean of the one with the least absolute error over its department's
    history and the one with the least over all departments, because one department's history is short."""
    [error] = retailer.keep(lambda: (_errors_of_mixes(seen, own, from_dept),))
    by_dept, together = retailer.sums((seen.depts, error), (Groups.one(len(error)), error))
    if not together.any():
        return np.full(len(error), 0.5)
    best, common = MIXES[by_dept.argmin(axis=1)], MIXES[together[0].argmin()]
    return np.asarray(np.clip((best + common) / 2, 0.2, 0.9)[seen.depts.member])


def _errors_of_mixes(seen: _Observed, own: NDArray[np.float64], from_dept: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each series' absolute error in its history with each of the MIXES, shape (N, 11)."""
    weeks = slice(YEAR, seen.sales.shape[1])
    own, from_dept = own[:, weeks], from_dept[:, weeks]
    usable = (seen.observed[:, weeks] > 0) & ~np.isnan(own) & ~np.isnan(from_dept)
    sales, own, from_dept = (np.where(usable, x, 0) for x in (seen.sales[:, weeks], own, from_dept))
    error = np.zeros((len(sales), len(MIXES)))
    for column, part in zip(error.T, MIXES, strict=True):
        mixed = (1 - part) * own + part * from_dept
        total = mixed.sum(axis=1)
        growth = np.where(total > 0, sales.sum(axis=1) / np.where(total > 0, total, 1), 1.0)
        column[:] = np.abs(sales - growth[:, None] * mixed).sum(axis=1)
    return error


def _level_of_last_year(seen: _Observed, total: int) -> NDArray[np.float64]:
    """Factors that scale the year before last to last year's level, shape (N, total): the ratio of both years' sales
    over half a year to each side, in weeks observed in both years. NaN where those are few."""
    known = seen.sales.shape[1]
    last, before = np.zeros_like(seen.sales), np.zeros_like(seen.sales)
    pair = seen.observed[:, YEAR:] * seen.observed[:, :-YEAR]
    last[:, YEAR:], before[:, :-YEAR] = pair, pair
    one, two = (_around(known, total, years, HALF_YEAR) for years in (1, 2))
    sold_last, sold_before = times(seen.sales * last, one), times(seen.sales * before, two)
    usable = (times(last, one) >= 4) & (sold_last > 0) & (sold_before > 0)
    ratio = np.where(usable, sold_last / np.where(usable, sold_before, 1), np.nan)
    return np.asarray(np.clip(ratio, 0.2, 5.0))
