"""The outlook: last year's reference with the growth of the last weeks, and with its peaks lowered.

Growth against last year can be taken over few weeks or many, in full or shrunk towards the growth of the series' store
and department, with last year's peaks at their full height or lower. Each combination is a variant. Which variant is
right differs by department: groceries that run 9% above last year go on doing so; toys that ran 30% above it for a
month do not, and a peak is in part chance. So a department's outlook is a weighted mean of the variants, by how well
each would have forecast the department's own history.

Growth is a trimmed mean over weeks: a week of promotion or of empty shelves is no growth.

Letters: N series, T weeks known, H weeks ahead, K variants, D departments.
"""

from __future__ import annotations

import dataclasses
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

# The variants are all combinations of these three:
WINDOWS: tuple[int, ...] = (8, 18, 39)  # weeks over which growth is taken
OWN_POWERS: tuple[float, ...] = (0.3, 0.6, 0.9)  # weight of a series' own growth against that of its groups
# A week x times as large as usual by the reference is forecast x ** (1 - damping) times as large as usual.
PEAK_DAMPINGS: tuple[float, ...] = (0.0, 0.05, 0.1)
STORE, DEPARTMENT = 0.5, 0.2  # growth of the groups = growth of the store ** 0.5 * growth of the department ** 0.2
DOUBT = 2  # growth seen in so many weeks has half of its weight
TRIM = 0.2  # part of the weeks that is left out at each end, by growth
OWN_RANGE, GROUP_RANGE = (0.2, 5.0), (0.5, 2.0)  # growth is cut to these
# The spread of the intervals, see `aligned_last_year`:
DOUBT_OF_SPREAD = 8  # the spread of series of similar size counts as much as so many weeks of a series' own
LIKE_ALL = 5  # the spread of all series counts as much as so many series of similar size
LEAST_SQUARE = 1e-4  # mean square of relative errors that is taken at least: a spread of 1%
USUAL_SQUARE = 0.04  # where no error is known: a spread of 20%
# How variants are weighted:
STEP = 4  # weeks between the origins in the history from which variants are tried
AHEAD = 12  # weeks after an origin that are forecast
SHARPNESS = 60.0  # a variant whose error is 1% above that of the department's best has exp(-0.6) of its weight


@dataclass(frozen=True)
class Outlook:
    """The outlook as of any week of the history.

    Leak-free: nothing but the history and its reference is read, and variants are tried from origins in the history.

    Attributes:
        reference: shape (N, T + H), positive; NaN in the first year.
        known_weeks: the weeks of the history after the first year.
        weights: of each variant for each series, shape (K, N), summing to 1 over the variants.
    """

    reference: Floats
    known_weeks: _KnownWeeks
    weights: Floats

    @classmethod
    def lined_up(cls, panel: Panel, horizon: int, retailer: Retailer = WHOLE) -> tuple[tuple[Event, ...], Outlook]:
        """The events worth lining up, and the outlook of the reference lined up by them.

        Several candidates start from it, so a retailer that keeps results makes it once.

        Args:
            panel: ends at the cutoff; sales divided by exposure.

        Raises:
            ValueError: see `last_year`.
        """

        def make() -> tuple[tuple[Event, ...], Outlook]:
            events = worth_lining_up(panel, retailer)
            lined_up = dataclasses.replace(panel, events=events)
            return events, cls.of(panel, last_year(lined_up, horizon, retailer=retailer), retailer)

        named = (panel.store, panel.dept, panel.weeks, panel.sales)
        content = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in named))
        return retailer.once(("outlook", content.digest(), panel.sales.shape, panel.events, horizon), make)

    @classmethod
    def of(cls, panel: Panel, reference: Floats, retailer: Retailer = WHOLE) -> Outlook:
        """The outlook of a panel that ends at the cutoff, given its reference, shape (N, T + H)."""
        known_weeks = _KnownWeeks.of(panel, reference, retailer)
        return cls(reference, known_weeks, _weights(known_weeks, retailer)[:, known_weeks.depts.member])

    def as_of(self, week: int, among: slice) -> Floats:
        """The outlook as of `week` weeks known, for the weeks `among`, before or after it, in sales.

        The weights of the variants are those of the whole history. NaN where the reference is NaN. With a year or less
        known there is no growth yet: it is the reference.
        """
        reference = self.reference[:, among]
        if week <= YEAR:
            return reference
        # One variant after the other: NumPy adds up the last digits in another order where there is one series alone.
        level, slope = np.zeros(self.weights.shape[1]), np.zeros(self.weights.shape[1])
        for weight, (own_level, own_slope) in zip(self.weights, self.known_weeks.variants(week - YEAR), strict=True):
            level += weight * own_level
            slope += weight * own_slope
        return np.asarray(np.exp(level[:, None] + slope[:, None] * np.log(reference)))


def aligned_last_year(history: Panel, horizon: int, quantiles: Sequence[float], retailer: Retailer = WHOLE) -> Floats:
    """The outlook with normal intervals: a candidate that does not learn.

    The standard deviation is relative to the outlook. It is the root mean square of relative errors of the outlook in
    the last year, per series, shrunk towards that of series of similar size: the less is sold, the wider it is.

    Returns:
        Shape (N, Q, horizon). Where there is no outlook, for want of history, the last observation stands in for it.

    Raises:
        ValueError: see `last_year`.
    """
    known = len(history.weeks)
    all_weeks = Outlook.lined_up(history, horizon, retailer)[1].as_of(known, slice(None))
    last = np.abs(history.sales[np.arange(len(history)), history.last])[:, None]
    centre = np.where(np.isnan(all_weeks), last, all_weeks)[:, known:]
    error = np.clip((history.sales / all_weeks[:, :known])[:, -YEAR:] - 1, -1, 1)
    count = (~np.isnan(error)).sum(axis=1)
    squares = np.where(np.isnan(error), 0, error) ** 2
    own = squares.sum(axis=1) / np.maximum(count, 1)
    pooled = _spread_by_size(own, count > 0, volume(history.sales), retailer)
    spread = np.sqrt((squares.sum(axis=1) + DOUBT_OF_SPREAD * pooled) / (count + DOUBT_OF_SPREAD))
    z = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    width = np.abs(centre) * spread[:, None]
    return np.asarray(centre[:, None, :] + z[None, :, None] * width[:, None, :])


def _spread_by_size(squares: Floats, known: NDArray[np.bool_], size: Floats, retailer: Retailer) -> Floats:
    """The geometric mean of the mean squared errors of series of similar size (within a factor of 2), shrunk towards
    that of all series; shape (N,). Geometric, because intermittent series have errors as large as can be.

    Args:
        squares: each series' mean squared relative error, shape (N,). known: whether it has one.
        size: mean sales a week, shape (N,).
    """
    logs = np.log(np.clip(squares, LEAST_SQUARE, 1)) * known
    both = np.stack([logs, known], axis=1)
    relative = np.maximum(size, 1e-12) / (retailer.median(size) or 1.0)
    classes = Groups.of(np.rint(np.log2(relative)).astype(np.int64))
    of_class, of_all = retailer.sums((classes, both), (Groups.one(len(both)), both))
    total, count = of_all[0]
    all_weeks = total / count if count else np.log(USUAL_SQUARE)
    found = (of_class[:, 0] + LIKE_ALL * all_weeks) / (of_class[:, 1] + LIKE_ALL)
    return np.asarray(np.exp(found)[classes.member])


def _weights(known_weeks: _KnownWeeks, retailer: Retailer) -> Floats:
    """The weight of each variant for each department, shape (K, D), summing to 1 over the variants: the smaller its
    errors from origins in the history, the larger. Equal weights where the history is too short to try variants."""
    [errors] = retailer.keep(lambda: (_errors_of_variants(known_weeks),))
    depts, sold = known_weeks.depts, np.abs(known_weeks.sold).sum(axis=1)
    errors, size = retailer.sums((depts, errors), (depts, sold))
    errors = errors.T
    least = errors.min(axis=0)
    unit = np.maximum(least, 1e-6 * size)
    weights = np.exp(-SHARPNESS * (errors - least) / np.where(unit > 0, unit, 1))
    return np.asarray(weights / weights.sum(axis=0))


def _errors_of_variants(known_weeks: _KnownWeeks) -> Floats:
    """Each series' absolute errors by each variant, added up over origins in the last two years, shape (N, K)."""
    count = len(WINDOWS) * len(OWN_POWERS) * len(PEAK_DAMPINGS)
    errors = np.zeros((len(known_weeks.sold), count))
    weeks = known_weeks.sold.shape[1]
    for origin in range(weeks - STEP, max(STEP, weeks - 2 * YEAR) - 1, -STEP):
        ahead = slice(origin, origin + AHEAD)
        logs, known, sold = known_weeks.log_reference[:, ahead], known_weeks.known[:, ahead], known_weeks.sold[:, ahead]
        shapes = {slope: np.exp(slope * logs) for slope in (1 - damping for damping in PEAK_DAMPINGS)}
        for column, (level, slope) in zip(errors.T, known_weeks.variants(origin), strict=True):
            column += (np.abs(sold - np.exp(level)[:, None] * shapes[slope]) * known).sum(axis=1)
    return errors


@dataclass(frozen=True)
class _KnownWeeks:
    """The weeks of the history after the first year.

    Attributes:
        known: where there are both sales and a reference, shape (N, T - YEAR).
        sold, reference: shape (N, T - YEAR), 0 where not known.
        log_reference: its logarithm, known or not, shape (N, T - YEAR).
        stores, depts: which series they have.
        of_stores, of_depts: their sums of sold and reference, shape (2, groups, T - YEAR).
    """

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
        """Each variant as of an origin (a week after the first year), as a level, shape (N,), and a slope:
        log(outlook) = level + slope * log(reference)."""
        for window in WINDOWS:
            weeks = slice(max(origin - window, 0), origin)
            store, dept = (
                np.log(np.clip(_trimmed_growth(*totals[:, :, weeks]), *GROUP_RANGE))[groups.member]
                for totals, groups in ((self.of_stores, self.stores), (self.of_depts, self.depts))
            )
            of_groups = STORE * store + DEPARTMENT * dept
            growth = _trimmed_growth(self.sold[:, weeks], self.reference[:, weeks])
            count = self.known[:, weeks].sum(axis=1)
            usable = (growth > 0) & (count > 0)
            own = np.where(usable, np.log(np.clip(np.where(usable, growth, 1), *OWN_RANGE)), of_groups)
            usual = self.log_reference[:, weeks].mean(axis=1)
            for power, damping in itertools.product(OWN_POWERS, PEAK_DAMPINGS):
                yield of_groups + power * count / (count + DOUBT) * (own - of_groups) + damping * usual, 1 - damping


def _trimmed_growth(sold: Floats, reference: Floats) -> Floats:
    """Each row's mean growth (sold / reference a week, weighted by the reference) without the TRIM lowest and highest,
    shape (N,); 1 where there are no weeks."""
    growth = np.divide(sold, reference, out=np.ones_like(sold), where=reference > 0)
    order = np.argsort(growth, axis=1)
    growth, weight = (np.take_along_axis(x, order, axis=1) for x in (growth, reference))
    until = weight.cumsum(axis=1)
    total = until[:, -1:]
    kept = np.maximum(np.minimum(until, (1 - TRIM) * total) - np.maximum(until - weight, TRIM * total), 0)
    whole = kept.sum(axis=1)
    return np.asarray(np.divide((growth * kept).sum(axis=1), whole, out=np.ones_like(whole), where=whole > 0))
