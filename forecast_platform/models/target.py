"""What the network is asked to forecast: sales, sales with last year's week beside them, or their ratio to an outlook.

A network that takes no target of ours, such as Amazon's built-in DeepAR, is given the reference as a feature. The ratio
has no season left in it, which is what a short history cannot teach. Measured by itself it would be wildest where
little is sold, so both sides of it are padded with the series' usual sales:

    output[i, t] = (sales[i, t] + offset[i]) / (outlook[i, t] + offset[i])

Near 1 a small week counts little and a peak in full, as it should when the next peak is to be forecast.

An outlook is one of a week: what was known then. So is every case the ratio is trained on: a past week, the half year
before it and the horizon after it, both measured by that week's outlook, as they will be at the cutoff. Measured by a
later one, the network would learn to trust an outlook that has seen the weeks it forecasts.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.holidays import Event, retail_events
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer
from forecast_platform.models.last_year.outlook import Outlook
from forecast_platform.models.last_year.reference import MAX_HORIZON, YEAR, one_year_back, times

SALES, REFERENCE, RATIO = "sales", "reference", "ratio"
PIECES = "pieces"  # sales for a network of counts, which knows no returns
_LARGEST_RATIO = 5.0
DAMPING = 1.0  # the offset, in usual weeks of sales
# Last feature of the ratio: how large the week is for the series. Half the networks do without it (BLIND_FEATURES).
SIZE = "size_of_week"
BLIND_FEATURES = 1
MEMORY = 26  # weeks before a case's origin that the network sees
CASES = 120_000  # hardly more are made of a retailer
FIRST_ORIGIN = YEAR + 4  # an outlook needs a few weeks beside last year's
SHORTEST_AHEAD = 4  # and a case a few weeks to forecast

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """The network's view of N series that end at the cutoff, H weeks ahead.

    Attributes:
        panel: what it is conditioned on; the same series in the same order, with its features: covariates of the
            panel's weeks and H more, complete.
        cases: makes what it is trained on, panels with features of their own weeks. For the ratio each holds some of
            the series, the last H weeks of which are to be forecast from the others; otherwise it is the panel.
        unit: shape (N, H), sales that an output of 1 stands for, the offset included.
        offset: shape (N,), in sales.
    """

    panel: Panel
    cases: Callable[[], tuple[Panel, ...]]
    unit: Floats
    offset: Floats

    @property
    def features(self) -> Floats | None:
        """Shape (F, N, weeks of the panel + H)."""
        return None if self.panel.covariates is None else self.panel.covariates.values


def ratio_possible(panel: Panel, context_length: int, horizon: int) -> bool:
    """Whether there is a year to refer to and, after it, enough weeks to learn from."""
    return horizon <= MAX_HORIZON and len(panel.weeks) >= YEAR + context_length + horizon


def build_target(
    panel: Panel, horizon: int, kind: str, holidays: Sequence[str] = (), retailer: Retailer = WHOLE
) -> Target:
    """The target of a panel that ends at its cutoff.

    Args:
        panel: from `complete`: its covariates, if any, cover the weeks ahead.
        kind: SALES, PIECES, REFERENCE or RATIO.
        holidays: names of events, each of which becomes a feature of its own: 1 in the week it lies in, else 0. For
            networks whose calendar knows weeks of the year only. One that the panel's events do not hold is never 1.

    Raises:
        ValueError: there is less than a year of history to refer to, or the horizon is beyond MAX_HORIZON; or the kind
            is another.
    """
    if kind not in (SALES, PIECES, REFERENCE, RATIO):
        raise ValueError(f"networks have no target {kind!r}")
    n, known = len(panel), len(panel.weeks)
    if holidays:
        return _with_holidays(build_target(panel, horizon, kind, retailer=retailer), panel, horizon, holidays)
    if kind == PIECES:  # in a week of more returns than sales nothing was sold
        return build_target(dataclasses.replace(panel, sales=np.maximum(panel.sales, 0)), horizon, SALES)
    if kind == SALES:
        return Target(panel, lambda: (panel,), np.ones((n, horizon)), np.zeros(n))
    if known <= YEAR:
        raise ValueError(f"{known} weeks of history have no last year to refer to; use the target {SALES!r}")
    events, outlook = Outlook.lined_up(panel, horizon, retailer)
    panel, reference = dataclasses.replace(panel, events=events), outlook.reference
    if kind == REFERENCE:
        view = dataclasses.replace(panel, covariates=_features(panel, horizon, reference, 0), exposure=None)
        return Target(view, lambda: (view,), np.ones((n, horizon)), np.zeros(n))
    offset = DAMPING * reference[:, YEAR:known].mean(axis=1)
    sales = np.concatenate([panel.sales, np.full((n, horizon), np.nan)], axis=1)
    features = _features(panel, horizon, reference, YEAR)

    def case(origin: int) -> Panel:
        """The weeks around a week of the history in units of its outlook; sales after the cutoff are NaN."""
        weeks = slice(max(origin - MEMORY, YEAR), origin + horizon)
        unit = outlook.as_of(origin, weeks) + offset[:, None]
        ratio = np.clip((sales[:, weeks] + offset[:, None]) / unit, -_LARGEST_RATIO, _LARGEST_RATIO)
        inside = slice(weeks.start - YEAR, weeks.stop - YEAR)
        return dataclasses.replace(
            panel,
            weeks=panel.weeks[0] + 7 * np.arange(weeks.start, weeks.stop),
            sales=ratio,
            covariates=dataclasses.replace(features, values=features.values[:, :, inside]),
            exposure=None,
        )

    def cases() -> tuple[Panel, ...]:
        made = []
        for one in map(case, origins(panel)):
            before, after = one.observed[:, :-horizon], one.observed[:, -horizon:]
            made.append(one.select(np.logical_and(before.any(axis=1), after.any(axis=1))))
        return tuple(each for each in made if len(each))

    view = case(known)
    view = dataclasses.replace(view, weeks=view.weeks[:-horizon], sales=view.sales[:, :-horizon])
    # A series not seen lately is forecast as its outlook is.
    view.sales[np.isnan(view.sales).all(axis=1), -1] = 1.0
    return Target(view, cases, outlook.as_of(known, slice(known, None)) + offset[:, None], offset)


def origins(panel: Panel) -> range:
    """The weeks of the history that the ratio's cases start from: all of them, or of a large retailer some, evenly."""
    last = len(panel.weeks) - SHORTEST_AHEAD
    step = max(math.ceil(len(panel) * (last - FIRST_ORIGIN) / CASES), 1)
    return range(max(last - step // 2, FIRST_ORIGIN), FIRST_ORIGIN - 1, -step)


def holidays_of(panel: Panel) -> tuple[str, ...]:
    """Names of the events that lie in the panel's weeks: what a network could learn to tell apart."""
    first, last = panel.weeks[0].astype(dt.date) - dt.timedelta(days=6), panel.weeks[-1].astype(dt.date)
    names = {event.name for event in _events(panel) if any(first <= day <= last for day in event.dates)}
    return tuple(sorted(names))


def _events(panel: Panel) -> tuple[Event, ...]:
    if panel.events is not None:
        return panel.events
    return retail_events(panel.weeks[0].astype(dt.date), panel.weeks[-1].astype(dt.date))


def _with_holidays(target: Target, panel: Panel, horizon: int, holidays: Sequence[str]) -> Target:
    """The target with the holidays' features after its others; not for the ratio, whose cases are other weeks."""
    view = target.panel
    ends = view.weeks[0] + 7 * np.arange(len(view.weeks) + horizon)
    flags = np.zeros((len(holidays), len(view), len(ends)))
    for flag, name in zip(flags, holidays, strict=True):
        for event in _events(panel):
            if event.name == name:
                # Days from the event to the end of each week: 0 .. 6 in the week it lies in.
                days = (ends[:, None] - np.array(event.dates, dtype="datetime64[D]")).astype(np.int64)
                flag[:, ((days >= 0) & (days < 7)).any(axis=1)] = 1
    columns = tuple(Declaration(f"holiday {name}", declared=False) for name in holidays)
    if view.covariates is not None:
        columns, flags = view.covariates.columns + columns, np.concatenate([view.covariates.values, flags])
    view = dataclasses.replace(view, covariates=Covariates(columns, flags))
    return dataclasses.replace(target, panel=view, cases=lambda: (view,))


def feature_count(kind: str, covariates: int, holidays: int = 0) -> int:
    """How many features a target's panel has, given how many covariates and holidays."""
    return (covariates if kind in (SALES, PIECES) else 2 * covariates + 1) + holidays


def _features(panel: Panel, horizon: int, reference: Floats, since: int) -> Covariates:
    """What sales beside last year depend on, from week `since` on: covariates now and in the weeks the reference was
    taken from, and last of all the week's size by the reference (0, the usual, in the first year)."""
    columns: list[Declaration] = []
    values: list[Floats] = []
    if panel.covariates is not None:
        known = len(panel.weeks)
        back = one_year_back(panel.weeks, horizon, panel.events)
        then = times(panel.covariates.values[:, :, :known], back)
        for declaration, now, before in zip(panel.covariates.columns, panel.covariates.values, then, strict=True):
            columns += [declaration, dataclasses.replace(declaration, name=f"{declaration.name}_last_year")]
            values += [now[:, since:], before[:, since:]]
    usual = reference[:, YEAR:].mean(axis=1, keepdims=True)
    columns.append(Declaration(SIZE, declared=False))
    values.append(np.nan_to_num(np.log((reference + 0.1 * usual) / (1.1 * usual)))[:, since:])
    return Covariates(tuple(columns), np.stack(values))
