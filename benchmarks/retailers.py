"""Retailers of any size, made up a store at a time: a million series are written as Parquet in little memory.

A store's sales follow from the seed and its number alone, so any range of series can be made by itself and is always
the same. They have all that takes the platform time: seasons and holidays by department, shocks of the total, the store
and the series, series that begin or end within the history, intermittent articles, missing weeks.

Letters: D departments of a store, N series, T weeks.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.signal import lfilter

from forecast_platform.history.holidays import retail_events
from forecast_platform.weeks import WEEK

DEPTS = 100  # of each store
FIRST = dt.date(2022, 12, 30)
QUARTER = 13  # weeks a file
SCHEMA = pa.schema(
    {"store": pa.int32(), "dept": pa.int32(), "date": pa.date32(), "weekly_sales": pa.float64()}  # as they land
)
_AT_ONCE = 50  # stores made and written at one time

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Retailer:
    """A made-up retailer. Series i is department i % DEPTS + 1 of store i // DEPTS + 1.

    Attributes:
        series: N. weeks: T, from FIRST on.
    """

    series: int
    weeks: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.series < 1 or self.weeks < 1:
            raise ValueError(f"a retailer needs a series and a week; got {self.series} and {self.weeks}")

    @property
    def stores(self) -> int:
        return -(-self.series // DEPTS)

    def week(self, number: int) -> dt.date:
        """The date that a week ends on; 0 is the first week."""
        return FIRST + number * WEEK

    def sales(self, first: int, last: int) -> Floats:
        """Sales of the series first .. last - 1, shape (last - first, T); NaN where there is no row."""
        stores = range(first // DEPTS, -(-last // DEPTS))
        made = np.concatenate([self._store(store) for store in stores])
        return made[first - stores.start * DEPTS : last - stores.start * DEPTS]

    def rows(self, first: int, last: int, weeks: range) -> pa.Table:
        """Sales of the series first .. last - 1 in some weeks, as rows of SCHEMA sorted by week, store, department."""
        sales = self.sales(first, last)[:, weeks.start : weeks.stop].T
        week, series = np.nonzero(~np.isnan(sales))
        days = np.datetime64(FIRST) + 7 * (weeks.start + week)
        number = first + series
        columns = [number // DEPTS + 1, number % DEPTS + 1, days, sales[week, series]]
        return pa.table([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)

    def write(self, folder: Path, weeks: range) -> int:
        """Write the rows of some weeks, a file for each QUARTER of weeks; how many rows they are."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = [range(w, min(w + QUARTER, weeks.stop)) for w in range(weeks.start, weeks.stop, QUARTER)]
        count = 0
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(pq.ParquetWriter(folder / f"sales_{self.week(part[-1])}.parquet", SCHEMA))
                for part in parts
            ]
            for first, last in self._blocks():
                rows = self.rows(first, last, weeks)
                count += len(rows)
                # By week first, so that each file's rows of the block lie together.
                ends = np.searchsorted(
                    rows["date"].to_numpy(), [np.datetime64(self.week(part.stop)) for part in parts]
                ).tolist()
                for file, begin, end in zip(files, [0, *ends], ends, strict=False):
                    file.write_table(rows.slice(begin, end - begin))
        return count

    def _blocks(self) -> Iterator[tuple[int, int]]:
        size = _AT_ONCE * DEPTS
        return ((first, min(first + size, self.series)) for first in range(0, self.series, size))

    @functools.cached_property
    def _common(self) -> tuple[Floats, Floats]:
        """What all stores have in common: logarithms of each department's sales by week, (D, T), and the standard
        deviation of its noise, (D, 1)."""
        rng = np.random.default_rng([self.seed, 0])
        weeks = np.datetime64(FIRST) + 7 * np.arange(self.weeks)
        year = 2 * np.pi * (weeks - weeks.astype("datetime64[Y]")).astype(float) / 365.25
        logs = rng.normal(8.5, 1.2, (DEPTS, 1)) + rng.normal(0.02, 0.05, (DEPTS, 1)) * np.arange(self.weeks) / 52
        for harmonic in (1, 2, 3):
            size, late = rng.gamma(2, 0.08 / harmonic, (DEPTS, 1)), rng.uniform(0, 2 * np.pi, (DEPTS, 1))
            logs += size * np.cos(harmonic * year - late)
        for event in retail_events(FIRST, self.week(self.weeks), "US"):
            lift = rng.normal(0.15, 0.25, (DEPTS, 1))
            for day in event.dates:
                ahead = np.ceil((np.datetime64(day) - weeks).astype(float) / 7)  # 0 in the day's own week
                logs += lift * np.where((ahead >= 0) & (ahead <= event.before), 0.5 ** np.abs(ahead), 0)
        logs += _shocks(rng, self.weeks, 0.02)
        return logs, rng.uniform(0.04, 0.25, (DEPTS, 1))

    def _store(self, store: int) -> Floats:
        """Sales of a store's departments, (D, T)."""
        logs, noise = self._common
        rng = np.random.default_rng([self.seed, 1 + store])
        shape = logs.shape
        own = rng.normal(0, 0.5) + rng.normal(0, 0.4, (DEPTS, 1)) + _shocks(rng, self.weeks, 0.03)
        sales = np.exp(logs + own + noise * rng.standard_normal(shape))
        when, kind = np.arange(self.weeks), rng.random((DEPTS, 1))
        tenth = self.weeks // 10
        begin = rng.integers(0, self.weeks - tenth, (DEPTS, 1))
        end = rng.integers(tenth, self.weeks, (DEPTS, 1))
        rare = kind < 0.08  # sold now and then, a few pieces; no row where none
        pieces = rng.poisson(rng.uniform(0.1, 1.5, (DEPTS, 1)), shape)
        sales = np.where(rare, np.where(pieces, 9.5 * pieces, np.nan), sales)
        new, ended = (kind >= 0.08) & (kind < 0.14), (kind >= 0.14) & (kind < 0.17)
        gone = (new & (when < begin)) | (ended & (when > end)) | (rng.random(shape) < 0.002)
        return np.round(np.where(gone, np.nan, sales), 2)


def _shocks(rng: np.random.Generator, weeks: int, size: float) -> Floats:
    """Shocks that last some weeks, of standard deviation `size`, (T,)."""
    persistence = 0.8
    new = rng.standard_normal(weeks) * size * np.sqrt(1 - persistence**2)
    return np.asarray(lfilter([1.0], [1.0, -persistence], new))
