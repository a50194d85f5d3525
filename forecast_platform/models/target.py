"""What the network is asked to forecast: sales, sales with last year's week as a feature, or their ratio to an outlook.

Amazon's built-in DeepAR cannot be given another target than sales, so there the reference is a feature.

The ratio has no season left in it, which a short history cannot teach. Where little is sold a plain ratio would be all
noise, so the series' usual sales are added to both sides of it:

    output[i, t] = (sales[i, t] + offset[i]) / (outlook[i, t] + offset[i])

A small week is then near 1 and counts little. A peak counts in full, as it should when the next peak is to be forecast.

The ratio is trained on cases. A case is an origin (a past week), the half year before it and the horizon after it. All
its weeks are divided by the outlook as of its origin, as the forecast will be divided by the outlook as of the cutoff.
With a later outlook the network would learn to trust one that has seen the weeks to be forecast.
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
PIECES = "pieces"  # sales without those below 0, for a network of counts
_LARGEST_RATIO = 5.0
DAMPING = 1.0  # the offset, in usual weeks of sales
SIZE = "size_of_week"  # the last feature: how large the week is for the series
BLIND_FEATURES = 1  # so many of the last features are kept from half of the networks
MEMORY = 26  # weeks before a case's origin that the network sees
CASES = 120_000  # about so many at most, a series and an origin each
FIRST_ORIGIN = YEAR + 4  # weeks known: an outlook needs a year and a few weeks more
SHORTEST_AHEAD = 4  # known weeks after a case's origin, at least

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """What a network is trained on and forecasts from: N series that end at the cutoff, H weeks ahead.

    Attributes:
        panel: what it forecasts from: the same series in the same order, in units of the target. Its covariates are
            the network's features, complete, over the panel's weeks and H more.
        cases: makes the panels it is trained on, with features for their own weeks. Those of the ratio have an origin
            each, and hold the series that were seen before it and after it; their last H weeks are to be forecast.
            Other targets have one, the panel.
        unit: sales that an output of 1 stands for, the offset included, shape (N, H).
        offset: in sales, shape (N,).
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
            networks whose calendar features know nothing but the week of the year. An event that the panel does not
            have is 0 everywhere.

    Raises:
        ValueError: the kind is none of these, there is less than a year of history to refer to, or the horizon is
            beyond MAX_HORIZON.
    """
    if kind not in (SALES, PIECES, REFERENCE, RATIO):
        raise ValueError(f"networks have no target {kind!r}")
    n, known = len(panel), len(panel.weeks)
    if holidays:
        return _with_holidays(build_target(panel, horizon, kind, retailer=retailer), panel, horizon, holidays)
    if kind == PIECES:
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
        """The weeks around an origin as ratios to the outlook as of then; NaN after the cutoff."""
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
    # Series not seen lately are forecast by the outlook: they get a ratio of 1, for the network needs a value.
    view.sales[np.isnan(view.sales).all(axis=1), -1] = 1.0
    return Target(view, cases, outlook.as_of(known, slice(known, None)) + offset[:, None], offset)


def origins(panel: Panel) -> range:
    """Origins of the ratio's cases, as weeks known, latest first: every week, or fewer, evenly spaced, of a large
    retailer."""
    last = len(panel.weeks) - SHORTEST_AHEAD
    step = max(math.ceil(len(panel) * (last - FIRST_ORIGIN) / CASES), 1)
    return range(max(last - step // 2, FIRST_ORIGIN), FIRST_ORIGIN - 1, -step)


def holidays_of(panel: Panel) -> tuple[str, ...]:
    """Names of the events that lie in the panel's weeks: a network can learn the effect of no others."""
    first, last = panel.weeks[0].astype(dt.date) - dt.timedelta(days=6), panel.weeks[-1].astype(dt.date)
    names = {event.name for event in _events(panel) if any(first <= day <= last for day in event.dates)}
    return tuple(sorted(names))


def _events(panel: Panel) -> tuple[Event, ...]:
    if panel.events is not None:
        return panel.events
    return retail_events(panel.weeks[0].astype(dt.date), panel.weeks[-1].astype(dt.date))


def _with_holidays(target: Target, panel: Panel, horizon: int, holidays: Sequence[str]) -> Target:
    """The target with a feature for each holiday after its other features; not for the ratio, whose cases have weeks of
    their own."""
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
    """The features of REFERENCE and RATIO from week `since` on: each covariate now and in the weeks that the reference
    was taken from; last SIZE, the logarithm of the reference over a usual week's (0 in the first year)."""
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
