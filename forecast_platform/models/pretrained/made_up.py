"""Made-up retailers: what the pretrained network learns from, so that no real shop's sales are in what ships.

Every retailer is drawn from wide priors: how many stores and departments it has and how long they are known, what
seasons, holidays and promotions do to them, how shocks of the total, a store, a department or a single series persist,
how noisy sales are, and which weeks and series are missing. A network that does well over all of them has learnt what
the errors of one week say of the next, and how wide intervals must be. Both hold for a retailer it has never seen.

Letters: S stores, D departments, N series, T weeks.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.holidays import Event, retail_events
from forecast_platform.history.panel import Panel

SHORTEST, LONGEST = 56, 160  # weeks of history
AHEAD = 46  # weeks after the history
MOST_STORES, MOST_DEPTS, MOST_SERIES = 30, 25, 150
COUNTRIES = ("US", "US", "US", "US", "GB", "DE", "FR", "BR", "IN", "CN")
_YEAR = 365.25

Floats = NDArray[np.float64]


def make_up(rng: np.random.Generator) -> tuple[Panel, int]:
    """A retailer, and how many of its weeks are history; AHEAD more follow."""
    known = int(rng.integers(SHORTEST, LONGEST + 1))
    total = known + AHEAD
    first = np.datetime64("2004-01-02") + int(rng.integers(0, 7000))
    weeks = first + 7 * np.arange(total)
    store, dept = _series(rng)
    stores, depts, count = int(store.max()) + 1, int(dept.max()) + 1, len(store)

    country = str(rng.choice(COUNTRIES))
    events = retail_events(weeks[0].astype(dt.date), weeks[-1].astype(dt.date), country)
    logs = _season(rng, weeks, depts)[dept]
    logs += _season(rng, weeks, count) * rng.choice([0.0, 0.1, 0.3])
    logs += _holidays(rng, weeks, events, depts)[dept]
    shock_scale = _log_uniform(rng, 0.15, 1.0)
    for group, size in ((np.zeros(count, int), 1), (store, stores), (dept, depts), (np.arange(count), count)):
        logs += shock_scale * _shocks(rng, size, total)[group]
    level = rng.normal(0, _log_uniform(rng, 0.3, 1.5), count)
    level += rng.normal(0, 0.4, stores)[store] + rng.normal(0, _log_uniform(rng, 0.2, 1.2), depts)[dept]
    logs += _promotions(rng, store, dept, total) * shock_scale**0.5

    noise_size = _log_uniform(rng, 0.02, 0.5) * np.exp(rng.normal(0, 0.4, count) - rng.uniform(0, 0.4) * level)
    sales = np.exp(level[:, None] + logs - logs.mean(axis=1, keepdims=True))
    sales *= np.exp(_noise(rng, np.minimum(noise_size, 1.2), total))
    if rng.random() < 0.4:  # pieces
        mean = sales * _log_uniform(rng, 0.3, 300)
        spread = _log_uniform(rng, 0.01, 1.0) if rng.random() < 0.5 else 0.0  # overdispersion: 0 is Poisson
        rate = mean * rng.gamma(1 / spread, spread, mean.shape) if spread else mean
        sales = rng.poisson(np.minimum(rate, 1e6)).astype(np.float64)
    else:
        sales *= _log_uniform(rng, 10, 1e5)
    sales = _with_gaps(rng, sales, store, known)
    keep = (~np.isnan(sales[:, :known])).any(axis=1) & (np.nan_to_num(sales[:, :known]) > 0).any(axis=1)
    if not keep.any():
        return make_up(rng)
    names = np.array([str(k + 1) for k in range(max(stores, depts))])
    known_events = None if rng.random() < 0.2 else events  # not every retailer says where it sells
    return Panel(names[store][keep], names[dept][keep], weeks, sales[keep], events=known_events), known


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _series(rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Store and department of each series, shapes (N,): most stores have most departments."""
    stores = int(_log_uniform(rng, 1, MOST_STORES + 1))
    depts = min(int(_log_uniform(rng, 1, MOST_DEPTS + 1)), MOST_SERIES // stores)
    store, dept = (each.ravel() for each in np.indices((stores, depts)))
    present = rng.random(len(store)) < rng.choice([1.0, 0.9, 0.6])
    present[int(rng.integers(len(present)))] = True
    return np.unique(store[present], return_inverse=True)[1], np.unique(dept[present], return_inverse=True)[1]


def _season(rng: np.random.Generator, weeks: NDArray[np.datetime64], groups: int) -> Floats:
    """A smooth season for each group, in part common to all of them, some days early or late from year to year;
    logarithms, shape (groups, T)."""
    year = (weeks - weeks.astype("datetime64[Y]")).astype(np.int64) / _YEAR
    shift = _autoregressive(rng, np.full(groups, 0.97), len(weeks)) * rng.choice([0.0, 2.0, 5.0]) / _YEAR
    shift += _autoregressive(rng, np.full(1, 0.95), len(weeks)) * rng.choice([0.0, 3.0]) / _YEAR
    shape = np.zeros((groups, len(weeks)))
    common, size = rng.uniform(), _log_uniform(rng, 0.01, 0.6)
    for harmonic in (1, 2, 3):
        own, shared = rng.normal(0, 1, (2, groups, 1)), rng.normal(0, 1, (2, 1, 1))
        cosine, sine = (np.sqrt(common) * shared + np.sqrt(1 - common) * own) * size / harmonic
        angle = 2 * np.pi * harmonic * (year + shift)
        shape += cosine * np.cos(angle) + sine * np.sin(angle)
    return shape * np.exp(rng.normal(0, 0.7, (groups, 1)))


def _holidays(rng: np.random.Generator, weeks: NDArray[np.datetime64], events: tuple[Event, ...], depts: int) -> Floats:
    """What holidays, and a few days of the retailer's own, do to each department; logarithms, shape (D, T). The height
    of a peak differs from year to year."""
    days = [(np.array(event.dates, dtype="datetime64[D]"), event.before) for event in events]
    years = np.arange(weeks[0].astype("datetime64[Y]") - 1, weeks[-1].astype("datetime64[Y]") + 2)
    for _ in range(int(rng.integers(0, 5))):  # back to school, mother's day, an anniversary sale
        days.append((years.astype("datetime64[D]") + int(rng.integers(0, 365)), int(rng.integers(0, 5))))
    if rng.random() < 0.6:  # Christmas, whether or not the calendar moves it
        days.append((years.astype("datetime64[D]") + 358, 3))
    logs = np.zeros((depts, len(weeks)))
    strength, noise, affected = _log_uniform(rng, 0.05, 0.8), _log_uniform(rng, 0.01, 0.25), rng.uniform(0.1, 0.9)
    for dates, before in days:
        height = rng.normal(rng.uniform(-0.2, 0.8), 0.6, depts) * strength * (rng.random(depts) < affected)
        for day in dates:
            ahead = (day - weeks).astype(np.int64)  # 0 .. -6 in the day's own week
            weeks_before = np.ceil(ahead / 7)  # weeks until that week
            ramp = np.where((weeks_before >= 0) & (weeks_before <= before), 0.5**weeks_before, 0.0)
            after = np.where((weeks_before < 0) & (weeks_before >= -2), rng.uniform(-0.2, 0.0), 0.0)
            height_factor = np.exp(rng.normal(0, noise, depts)) * np.exp(rng.normal(0, noise / 2))
            logs += (height * height_factor)[:, None] * (ramp + after)
    return logs


def _shocks(rng: np.random.Generator, groups: int, total: int) -> Floats:
    """Growth, steps to another level, and shocks that last some weeks; logarithms, shape (groups, T)."""
    logs = np.cumsum(rng.normal(0, _log_uniform(rng, 0.01, 0.15) / 52, (groups, 1)) * np.ones(total), axis=1)
    if rng.random() < 0.6:
        logs += np.cumsum(rng.normal(0, _log_uniform(rng, 0.001, 0.03), (groups, total)), axis=1)
    if rng.random() < 0.5:
        steps = rng.random((groups, total)) < _log_uniform(rng, 0.02, 1.0) / 52
        logs += np.cumsum(steps * rng.normal(0, _log_uniform(rng, 0.03, 0.5), (groups, total)), axis=1)
    for _ in range(2):  # quick and slow ones
        persistence = np.full(groups, rng.uniform(0, 0.97))
        logs += _autoregressive(rng, persistence, total) * _log_uniform(rng, 0.002, 0.12)
    return logs


def _autoregressive(rng: np.random.Generator, persistence: Floats, total: int) -> Floats:
    """Autoregressive noise of standard deviation 1, shape (groups, T); `persistence` holds coefficients, (groups,)."""
    new = rng.normal(0, 1, (total, len(persistence)))
    out = np.empty_like(new)
    out[0] = new[0]
    innovation = np.sqrt(1 - persistence**2)
    for t in range(1, total):
        out[t] = persistence * out[t - 1] + innovation * new[t]
    return out.T


def _noise(rng: np.random.Generator, size: Floats, total: int) -> Floats:
    """Independent noise of each series and week, often with heavy tails; logarithms, shape (N, T)."""
    freedom = _log_uniform(rng, 3, 60)
    draw = rng.standard_t(freedom, (len(size), total)) / np.sqrt(freedom / (freedom - 2))
    return np.asarray(size[:, None] * np.clip(draw, -6, 6))


def _promotions(rng: np.random.Generator, store: NDArray[np.int64], dept: NDArray[np.int64], total: int) -> Floats:
    """Promotions that are not in any plan, some of them again a year later; logarithms, shape (N, T)."""
    logs = np.zeros((len(store), total))
    for group in (np.arange(len(store)), dept, store):
        if rng.random() < 0.85:
            continue
        groups = int(group.max()) + 1
        starts = rng.random((groups, total)) < _log_uniform(rng, 0.5, 15) / 52
        again = rng.random((groups, total)) < rng.choice([0.0, 0.5, 0.9])
        for t in range(52, total):
            starts[:, t] |= starts[:, t - 52] & again[:, t]
        lift = starts * rng.normal(rng.uniform(0, 1), 0.4, (groups, total)) * _log_uniform(rng, 0.1, 1.5)
        following = np.pad(lift, ((0, 0), (1, 0)))[:, :-1] * rng.uniform(-0.4, 0.4)
        logs += (lift + following)[group]
    return logs


def _with_gaps(rng: np.random.Generator, sales: Floats, store: NDArray[np.int64], known: int) -> Floats:
    """The sales, shape (N, T), with new and stopping series, closed stores, missing weeks, intermittent articles and
    returns."""
    count, total = sales.shape
    weeks = np.arange(total)
    if rng.random() < 0.3:
        rare = np.less(rng.random(count), rng.uniform(0, 1))
        activity = _autoregressive(rng, np.full(count, rng.choice([0.0, 0.7])), total)
        inactive = np.less(activity, rng.normal(-0.5, 0.7, (count, 1)))
        sales = np.where(rare[:, None] & inactive, rng.choice([0.0, np.nan]), sales)
    if rng.random() < 0.4:
        new = rng.random(count) < rng.choice([0.1, 0.3])
        sales = np.where(new[:, None] & (weeks < rng.integers(0, known, (count, 1))), np.nan, sales)
    if rng.random() < 0.4:
        stopping = rng.random(count) < rng.choice([0.05, 0.2])
        sales = np.where(stopping[:, None] & (weeks >= rng.integers(known // 2, total, (count, 1))), np.nan, sales)
    if rng.random() < 0.3:
        stores = int(store.max()) + 1
        begin, duration = rng.integers(0, total, (stores, 1)), rng.integers(1, 5, (stores, 1))
        closed = (weeks >= begin) & (weeks < begin + duration) & (rng.random((stores, 1)) < 0.5)
        sales = np.where(closed[store], rng.choice([0.0, np.nan]), sales)
    if rng.random() < 0.5:
        sales = np.where(rng.random(sales.shape) < _log_uniform(rng, 0.001, 0.05), np.nan, sales)
    if rng.random() < 0.1:  # more brought back than sold
        returned = rng.random(sales.shape) < 0.01
        sales = np.where(returned, -0.2 * sales, sales)
    return sales
