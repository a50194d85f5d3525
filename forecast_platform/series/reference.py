"""Last year's week as a reference: holidays lined up by name and distance, noise shared with the department.

For series i and week t the reference is built from weeks about one year before t only:

    reference[i, t] = (1 - mix) * own[i, t'] + mix * share[i] * department[t']

t' is t one year back. Near a named holiday, each of the week's seven days goes back to the day as far from last year's
holiday, so a week may fall on two source weeks in parts; other weeks go back 364 days. `share` is the series' share of
its department over the weeks around t', which takes the noise out of a single week. Where the series was not observed a
year ago, the department's shape stands in alone; where there is no department either, the series' own level.

Leak-free by construction: with up to MAX_HORIZON weeks ahead nothing after the cutoff is read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from forecast_platform.series.holidays import Event, retail_events
from forecast_platform.series.panel import Panel

YEAR = 52
SHARE_WEEKS = 6  # weeks to each side of t' over which the share of the department is taken
MAX_HORIZON = YEAR - SHARE_WEEKS
GROWTH_WEEKS = 26


def one_year_back(
    weeks: NDArray[np.datetime64], horizon: int, events: Sequence[Event] | None = None
) -> NDArray[np.float64]:
    """Weights of source weeks for target weeks.

    Args:
        weeks: the T known week-ending dates, seven days apart.
        horizon: weeks after them to be served, H.

    Returns:
        Shape (T, T + H): column t holds the weights of the known weeks that week t goes back to. They sum to 1, or to
        less where last year lies before the first week.
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


def _nearest(end: dt.date, events: Sequence[Event]) -> tuple[dt.date, dt.date] | None:
    """The event in whose weeks the week ending at `end` lies, its date this year and last year; None otherwise."""
    best: tuple[int, dt.date, dt.date] | None = None
    for event in events:
        for this, previous in zip(event.dates[1:], event.dates, strict=False):
            # Weeks from the event's own week to this one: 0 when the event lies in it.
            offset = (end - this).days // 7
            if -event.before <= offset <= event.after and (best is None or abs(offset) < best[0]):
                best = (abs(offset), this, previous)
    return (best[1], best[2]) if best else None


def last_year(
    panel: Panel, horizon: int, mix: float = 0.5, events: Sequence[Event] | None = None
) -> NDArray[np.float64]:
    """The reference of every series for all known weeks and `horizon` weeks ahead.

    Args:
        panel: N series over T weeks, ending at the cutoff.
        mix: part of the department's shape, 0 .. 1.

    Returns:
        Shape (N, T + horizon), positive; NaN in the first year, for which there is nothing to refer to.

    Raises:
        ValueError: the horizon is longer than MAX_HORIZON.
    """
    if not 0 < horizon <= MAX_HORIZON:
        raise ValueError(f"horizon is {horizon}; the reference reaches 1 .. {MAX_HORIZON} weeks ahead")
    sales, observed = np.nan_to_num(panel.sales), panel.observed.astype(float)
    weeks = len(panel.weeks)
    back = one_year_back(panel.weeks, horizon, events)
    _, dept = np.unique(panel.dept, return_inverse=True)
    department = np.zeros((dept.max() + 1, weeks))
    np.add.at(department, dept, sales)
    # Sales of the department in the weeks the series was observed in: what its share is a share of.
    around = _around(weeks, weeks + horizon)
    beside = department[dept] * observed
    own_part, beside_part = sales @ around, beside @ around
    # A share needs a few weeks; where last year has too few, the share of the whole history stands in.
    share = np.where(
        (observed @ around >= 4) & (beside_part > 0), own_part / np.where(beside_part > 0, beside_part, 1), np.nan
    )
    whole = sales.sum(axis=1) / np.where(beside.sum(axis=1) > 0, beside.sum(axis=1), np.nan)
    share = np.where(np.isnan(share), whole[:, None], share)
    # Weights of the source weeks in which anything of the department was observed; likewise `seen` for the series.
    traded = np.zeros_like(department)
    np.maximum.at(traded, dept, observed)
    traded = (traded @ back)[dept]
    shape = np.where(traded > 0.5, share * (department @ back)[dept] / np.where(traded > 0, traded, 1), np.nan)
    seen = observed @ back
    own = np.where(seen > 0.5, (sales @ back) / np.where(seen > 0, seen, 1), np.nan)
    reference = np.where(np.isnan(own), shape, (1 - mix) * own + mix * shape)
    level = np.abs(sales).sum(axis=1, keepdims=True) / np.maximum(observed.sum(axis=1, keepdims=True), 1)
    reference = np.where(np.isnan(reference), level, reference)
    # A week of returns or of nothing is no unit to measure another week by.
    reference = np.maximum(reference, np.maximum(0.05 * level, 1e-6))
    reference[:, :YEAR] = np.nan
    return np.asarray(reference)


def _around(weeks: int, total: int) -> NDArray[np.float64]:
    """Shape (weeks, total): 1 for the known weeks within SHARE_WEEKS of one year before each week."""
    distance = np.arange(weeks)[:, None] - (np.arange(total)[None] - YEAR)
    return np.asarray(np.abs(distance) <= SHARE_WEEKS, dtype=float)


def growth(panel: Panel, reference: NDArray[np.float64], power: float = 0.7) -> NDArray[np.float64]:
    """How each series runs against its reference lately, shrunk towards 1, shape (N,).

    Sales over reference, summed over the last GROWTH_WEEKS weeks that have both, to the power `power` (less for series
    with few such weeks): part of a series' recent growth does not last.
    """
    since = max(len(panel.weeks) - GROWTH_WEEKS, 0)
    recent, base = panel.sales[:, since:], reference[:, since : len(panel.weeks)]
    both = ~np.isnan(recent) & ~np.isnan(base)
    sold, referred = np.where(both, recent, 0).sum(axis=1), np.where(both, base, 0).sum(axis=1)
    count = both.sum(axis=1)
    usable = (sold > 0) & (referred > 0)
    ratio = np.clip(np.where(usable, sold / np.where(referred > 0, referred, 1), 1.0), 0.2, 5.0)
    return np.asarray(ratio ** (power * count / (count + 4)))


def aligned_last_year(history: Panel, horizon: int, quantiles: Sequence[float]) -> NDArray[np.float64]:
    """The reference times growth as a forecast of its own, without learning: a baseline for backtests.

    Intervals are normal, from the spread of sales about reference times growth over the last year of the history, per
    series and mixed with that of all series, relative to the reference.

    Returns:
        Shape (N, Q, horizon). With less than a year and a few weeks of history it is the last observed level.

    Raises:
        ValueError: see `last_year`.
    """
    known = len(history.weeks)
    reference = last_year(history, horizon)
    level = growth(history, reference)
    ahead = reference[:, known:]
    short = np.isnan(ahead)
    if short.any():
        last = history.sales[np.arange(len(history)), history.last]
        ahead = np.where(short, np.abs(last)[:, None], ahead)
    centre = ahead * level[:, None]
    error = history.sales[:, -YEAR:] / (reference[:, :known] * level[:, None])[:, -YEAR:] - 1
    error = np.clip(error, -1, 1)
    count = (~np.isnan(error)).sum(axis=1)
    squares = np.where(np.isnan(error), 0, error) ** 2
    pooled = squares.sum() / max(count.sum(), 1) if count.any() else 0.04
    spread = np.sqrt((squares.sum(axis=1) + 8 * pooled) / (count + 8))
    z = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    width = np.abs(centre) * spread[:, None]
    return np.asarray(centre[:, None, :] + z[None, :, None] * width[:, None, :])
