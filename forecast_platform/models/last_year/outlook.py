"""What a reference forecasts by itself: how each series runs against it lately, and how much of that will last.

Growth against last year can be taken over few weeks or many, in full or shrunk towards the growth of the series' store
and department, with last year's peaks at their full height or lower. Each combination is a variant. Which one is right
differs by department. Groceries that run 9% above last year go on doing so; toys that ran 30% above it for a month do
not, and a peak is in part chance. So a department's forecast is a weighted mean of the variants, by how well each would
have forecast its own history.

Growth is a mean over weeks without the oddest of them: a week of promotion or of empty shelves is no growth.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.holidays import Event
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Groups, Retailer
from forecast_platform.models.calibration import volume
from forecast_platform.models.last_year.reference import YEAR, last_year, worth_lining_up

Floats = NDArray[np.float64]

# The variants, all combinations of: weeks over which growth is taken; the power of a series' own growth beside that
# of its store and department; how much lower peaks come back (a week x times as large by the reference is forecast
# x ** (1 - damping) times as large).
WINDOWS: tuple[int, ...] = (8, 18, 39)
OWN_POWERS: tuple[float, ...] = (0.3, 0.6, 0.9)
PEAK_DAMPINGS: tuple[float, ...] = (0.0, 0.05, 0.1)
STORE, DEPARTMENT = 0.5, 0.2  # powers of their growth
DOUBT = 2  # growth seen in so many weeks counts half
TRIM = 0.2  # the part of the weeks left out at each end, by growth
OWN_RANGE, GROUP_RANGE = (0.2, 5.0), (0.5, 2.0)
# The spread of intervals:
DOUBT_OF_SPREAD = 8  # weeks that the spread of series of its size counts as, beside a series' own
LIKE_ALL = 5  # series of its size that all together count as
LEAST_SQUARE, USUAL_SQUARE = 1e-4, 0.04  # a spread of 1%, below which nobody's is believed; of 20%, where none is known
# How variants are weighted:
STEP = 4  # weeks between the origins in the history from which variants are tried
AHEAD = 12  # weeks after an origin that are forecast
SHARPNESS = 60.0  # a variant that errs 1% more than the department's best has exp(-0.6) of its weight


@dataclass(frozen=True)
class Outlook:
    """The forecasts a reference would have made, as of any week of the history.

    Leak-free: nothing but the history and its reference is read, and the variants are tried from origins in it.

    Attributes:
        reference: shape (N, T + H), positive; NaN in the first year.
        seen: what was known in the T weeks, and from when on.
        weights: of each variant for each series, shape (K, N), summing to 1.
    """

    reference: Floats
    seen: _KnownWeeks
    weights: Floats

    @classmethod
    def lined_up(cls, panel: Panel, horizon: int, retailer: Retailer = WHOLE) -> tuple[tuple[Event, ...], Outlook]:
        """The events worth lining up, and the outlook of last year lined up by them: `of` the panel, where its sales
        are divided by its exposure. Several candidates start from it, so a retailer that keeps things makes it once.

        Raises:
            ValueError: see `last_year`.
        """

        def make() -> tuple[tuple[Event, ...], Outlook]:
            events = worth_lining_up(panel, retailer)
            return events, cls.of(panel, last_year(panel, horizon, events=events, retailer=retailer), retailer)

        named = (panel.store, panel.dept, panel.weeks, panel.sales)
        content = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in named))
        return retailer.once(("outlook", content.digest(), panel.sales.shape, panel.events, horizon), make)

    @classmethod
    def of(cls, panel: Panel, reference: Floats, retailer: Retailer = WHOLE) -> Outlook:
        """The outlook of N series over T weeks, ending at the cutoff."""
        seen = _KnownWeeks.of(panel, reference, retailer)
        return cls(reference, seen, _weights(seen, retailer)[:, seen.depts.member])

    def as_of(self, week: int, among: slice) -> Floats:
        """The weeks `among`, before or after, as forecast when `week` weeks were known, in sales.

        The weights are those of the whole history. NaN where the reference is; where no week had a reference yet, the
        reference as it is.
        """
        reference = self.reference[:, among]
        if week <= YEAR:
            return reference
        levels, slopes = zip(*self.seen.variants(week - YEAR), strict=True)
        level = np.einsum("kn,kn->n", self.weights, np.array(levels))
        slope = (np.array(slopes)[:, None] * self.weights).sum(axis=0)
        return np.asarray(np.exp(level[:, None] + slope[:, None] * np.log(reference)))


def aligned_last_year(history: Panel, horizon: int, quantiles: Sequence[float], retailer: Retailer = WHOLE) -> Floats:
    """The outlook of a reference to last year with quantiles, without learning: a baseline for backtests.

    Intervals are normal, from the spread of sales about the same forecast of the last year of the history, relative to
    the forecast: per series, mixed with that of series of about its size, because the less is sold the wider it is.

    Returns:
        Shape (N, Q, horizon). With less than a year and a few weeks of history it is the last observed level.

    Raises:
        ValueError: see `last_year`.
    """
    known = len(history.weeks)
    every = Outlook.lined_up(history, horizon, retailer)[1].as_of(known, slice(None))
    last = np.abs(history.sales[np.arange(len(history)), history.last])[:, None]
    centre = np.where(np.isnan(every), last, every)[:, known:]
    error = np.clip((history.sales / every[:, :known])[:, -YEAR:] - 1, -1, 1)
    count = (~np.isnan(error)).sum(axis=1)
    squares = np.where(np.isnan(error), 0, error) ** 2
    own = squares.sum(axis=1) / np.maximum(count, 1)
    pooled = _spread_by_size(own, count > 0, volume(history.sales), retailer)
    spread = np.sqrt((squares.sum(axis=1) + DOUBT_OF_SPREAD * pooled) / (count + DOUBT_OF_SPREAD))
    z = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    width = np.abs(centre) * spread[:, None]
    return np.asarray(centre[:, None, :] + z[None, :, None] * width[:, None, :])


def _spread_by_size(squares: Floats, known: NDArray[np.bool_], size: Floats, retailer: Retailer) -> Floats:
    """The usual mean square of relative errors of series that sell about as much, within a factor of 2, mixed with that
    of all; shape (N,). The mean is geometric: articles that sell now and then are as far off as can be.

    Args:
        squares: each series' own, shape (N,), and whether it is known. size: its mean sales a week.
    """
    logs = np.log(np.clip(squares, LEAST_SQUARE, 1)) * known
    both = np.stack([logs, known], axis=1)
    relative = np.maximum(size, 1e-12) / (retailer.median(size) or 1.0)
    classes = Groups.of(np.rint(np.log2(relative)).astype(np.int64))
    of_class, of_all = retailer.sums((classes, both), (Groups.one(len(both)), both))
    total, count = of_all[0]
    every = total / count if count else np.log(USUAL_SQUARE)
    found = (of_class[:, 0] + LIKE_ALL * every) / (of_class[:, 1] + LIKE_ALL)
    return np.asarray(np.exp(found)[classes.member])


def _weights(seen: _KnownWeeks, retailer: Retailer) -> Floats:
    """The weight of each variant for each department, shape (K, D), summing to 1 over variants: the larger, the less it
    would have erred from origins in the history. Weights are equal where the history is too short to try them."""
    [erred] = retailer.keep(lambda: (_errors_of_variants(seen),))
    errors, size = retailer.sums((seen.depts, erred), (seen.depts, np.abs(seen.sold).sum(axis=1)))
    errors = errors.T
    least = errors.min(axis=0)
    unit = np.maximum(least, 1e-6 * size)
    weights = np.exp(-SHARPNESS * (errors - least) / np.where(unit > 0, unit, 1))
    return np.asarray(weights / weights.sum(axis=0))


def _errors_of_variants(seen: _KnownWeeks) -> Floats:
    """Each series' absolute error by each variant from origins in the history, shape (N, K)."""
    count = len(WINDOWS) * len(OWN_POWERS) * len(PEAK_DAMPINGS)
    erred = np.zeros((len(seen.sold), count))
    weeks = seen.sold.shape[1]
    for origin in range(weeks - STEP, max(STEP, weeks - 2 * YEAR) - 1, -STEP):
        ahead = slice(origin, origin + AHEAD)
        logs, known, sold = seen.log_reference[:, ahead], seen.known[:, ahead], seen.sold[:, ahead]
        shapes = {slope: np.exp(slope * logs) for slope in (1 - damping for damping in PEAK_DAMPINGS)}
        for column, (level, slope) in zip(erred.T, seen.variants(origin), strict=True):
            column += (np.abs(sold - np.exp(level)[:, None] * shapes[slope]) * known).sum(axis=1)
    return erred


@dataclass(frozen=True)
class _KnownWeeks:
    """The weeks after the first year: known (N, T - YEAR), where both sales and reference are; sold and reference, of
    the same shape, 0 elsewhere; log_reference, everywhere; stores, depts, each series' own; of_stores, of_depts, their
    sold and reference, shape (2, groups, T - YEAR)."""

    known: NDArray[np.bool_]
    sold: Floats
    reference: Floats
    log_reference: Floats
    stores: Groups
    depts: Groups
    of_stores: Floats
    of_depts: Floats

    @classmethod
    def of(cls, panel: Panel, reference: Floats, retailer: Retailer) -> _KnownWeeks:
        sold, base = panel.sales[:, YEAR:], reference[:, YEAR : len(panel.weeks)]
        known = ~np.isnan(sold) & ~np.isnan(base)
        both = np.stack([np.where(known, sold, 0), np.where(known, base, 0)], axis=1)
        stores, depts = Groups.of(panel.store), Groups.of(panel.dept)
        of_stores, of_depts = (np.moveaxis(each, 1, 0) for each in retailer.sums((stores, both), (depts, both)))
        return cls(known, both[:, 0], both[:, 1], np.log(base), stores, depts, of_stores, of_depts)

    def variants(self, origin: int) -> Iterator[tuple[Floats, float]]:
        """Each variant's level (N,) and slope, by what is known before a week: the logarithm of its forecast is level +
        slope * that of the reference."""
        for window in WINDOWS:
            weeks = slice(max(origin - window, 0), origin)
            store, dept = (
                np.log(np.clip(_trimmed(*totals[:, :, weeks]), *GROUP_RANGE))[groups.member]
                for totals, groups in ((self.of_stores, self.stores), (self.of_depts, self.depts))
            )
            rest = STORE * store + DEPARTMENT * dept
            ratio = _trimmed(self.sold[:, weeks], self.reference[:, weeks])
            count = self.known[:, weeks].sum(axis=1)
            usable = (ratio > 0) & (count > 0)
            own = np.where(usable, np.log(np.clip(np.where(usable, ratio, 1), *OWN_RANGE)), rest)
            size = self.log_reference[:, weeks].mean(axis=1)
            for power, damping in itertools.product(OWN_POWERS, PEAK_DAMPINGS):
                yield rest + power * count / (count + DOUBT) * (own - rest) + damping * size, 1 - damping


def _trimmed(sold: Floats, reference: Floats) -> Floats:
    """The mean of each row's weekly ratios without the TRIM lowest and highest, a week as heavy as its reference, shape
    (N,); 1 where there are none."""
    ratio = np.divide(sold, reference, out=np.ones_like(sold), where=reference > 0)
    order = np.argsort(ratio, axis=1)
    ratio, weight = (np.take_along_axis(x, order, axis=1) for x in (ratio, reference))
    until = weight.cumsum(axis=1)
    total = until[:, -1:]
    kept = np.maximum(np.minimum(until, (1 - TRIM) * total) - np.maximum(until - weight, TRIM * total), 0)
    whole = kept.sum(axis=1)
    return np.asarray(np.divide((ratio * kept).sum(axis=1), whole, out=np.ones_like(whole), where=whole > 0))
