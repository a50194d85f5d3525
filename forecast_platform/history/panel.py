"""The panel: all series of a retailer on one weekly grid."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forecast_platform.history.covariates import Covariates
    from forecast_platform.history.holidays import Event
    from forecast_platform.levels import Level

LARGEST = 1e12  # beyond any week's sales of one department, in any currency
ACTIVE_WEEKS = 52  # a series without sales for so many weeks counts as closed, where no setting says otherwise


@dataclass(frozen=True)
class Panel:
    """N series over T consecutive weeks.

    Attributes:
        store, dept: identifiers, shape (N,), str; sorted by (store, dept) with numbers in number order.
        weeks: week-ending dates, shape (T,), datetime64[D], seven days apart.
        sales: shape (N, T), float64, NaN where nothing was observed. Each row has at least one observation.
        covariates: columns of the same series and weeks, reaching A >= 0 weeks past the panel's end; None: none.
        exposure: one such column: how much of each week a store was open; None: not given.
        events: holidays to line up; None: not given.
        filled: which zeros were filled in for weeks without a row (history/absence.py), shape (N, T); None: none.
        returns: the probability that each series has sold again by each week ahead (history/silence.py), shape (N, H);
            None: not computed yet.
        active_weeks: a series without a landed row for so many weeks is closed: nothing is planned for it.
        levels: the levels by attributes of stores and departments, beside levels.LEVELS.
    """

    store: NDArray[np.str_]
    dept: NDArray[np.str_]
    weeks: NDArray[np.datetime64]
    sales: NDArray[np.float64]
    covariates: Covariates | None = None
    exposure: Covariates | None = None
    events: tuple[Event, ...] | None = None
    filled: NDArray[np.bool_] | None = None
    returns: NDArray[np.float64] | None = None
    active_weeks: int = ACTIVE_WEEKS
    levels: tuple[Level, ...] = ()

    @classmethod
    def from_table(cls, table: pa.Table, span: tuple[dt.date, dt.date] | None = None) -> Panel:
        """Panel from a long table (store, dept, week, sales); null sales are unobserved.

        Args:
            span: the grid's first and last week, where the table is a shard's; None: those of the table.

        Raises:
            ValueError: the table holds no observation, or a (store, dept, week) twice.
        """
        table = table.filter(table["sales"].is_valid())
        if not len(table):
            raise ValueError("no observed sales: nothing to build series from")
        week = table["week"].to_numpy().astype("datetime64[D]")
        stores, s = _codes(table["store"])
        depts, d = _codes(table["dept"])
        pair, row = np.unique(s * len(depts) + d, return_inverse=True)
        first, end = (week.min(), week.max()) if span is None else (np.datetime64(day, "D") for day in span)
        weeks = np.arange(first, end + 1, 7)
        column = (week - weeks[0]).astype(np.int64) // 7
        cell = row * len(weeks) + column
        taken = np.zeros(len(pair) * len(weeks), bool)
        taken[cell] = True
        if np.count_nonzero(taken) != len(cell):
            raise ValueError("a (store, dept, week) occurs twice; the panel needs one value a cell")
        sales = np.full((len(pair), len(weeks)), np.nan)
        sales.ravel()[cell] = table["sales"].to_numpy()
        return cls(stores[pair // len(depts)], depts[pair % len(depts)], weeks, sales)

    @classmethod
    def together(cls, parts: Sequence[Panel]) -> Panel:
        """Shards of one retailer as one panel, its series in order."""
        if len(parts) == 1:
            return parts[0]
        store, dept = (np.concatenate([getattr(part, name) for part in parts]) for name in ("store", "dept"))
        names = zip(store.tolist(), dept.tolist(), strict=True)
        keys = [(natural_key(one), natural_key(other)) for one, other in names]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)

        together: dict[str, Any] = {}
        for name in ("sales", "filled", "returns"):
            found = [getattr(part, name) for part in parts]
            together[name] = None if found[0] is None else np.concatenate(found)[order]
        for name in ("covariates", "exposure"):
            found = [getattr(part, name) for part in parts]
            together[name] = found[0] and found[0].joined(found[1:], order)
        return replace(parts[0], store=store[order], dept=dept[order], **together)

    def __len__(self) -> int:
        return len(self.store)

    @property
    def observed(self) -> NDArray[np.bool_]:
        """Shape (N, T)."""
        return ~np.isnan(self.sales)

    @property
    def first(self) -> NDArray[np.int64]:
        """Position of each series' first observation, shape (N,)."""
        return np.asarray(self.observed.argmax(axis=1), dtype=np.int64)

    @property
    def last(self) -> NDArray[np.int64]:
        """Position of each series' last observation, shape (N,)."""
        return np.asarray(len(self.weeks) - 1 - self.observed[:, ::-1].argmax(axis=1), dtype=np.int64)

    @property
    def last_row(self) -> NDArray[np.int64]:
        """Position of each series' last observation that was landed, not filled; shape (N,)."""
        landed = self.observed if self.filled is None else self.observed & ~self.filled
        return np.asarray(len(self.weeks) - 1 - landed[:, ::-1].argmax(axis=1), dtype=np.int64)

    def position(self, week: dt.date) -> int:
        """Position of `week` on the grid; may lie outside 0 .. T-1."""
        return int((np.datetime64(week, "D") - self.weeks[0]).astype(int) // 7)

    def until(self, cutoff: dt.date) -> Panel:
        """What was known at `cutoff`: the weeks up to it, the series observed by then, and later weeks of covariates
        known ahead. The grid always ends at `cutoff`, padded with unobserved weeks where the data stops earlier."""
        end = self.position(cutoff) + 1
        if end <= 0:
            raise ValueError(f"no data up to {cutoff}: the first week is {self.weeks[0]}")
        sales, filled = self.sales[:, :end], self.filled
        if filled is not None:
            filled = filled[:, :end]
        if end > len(self.weeks):
            more = ((0, 0), (0, end - len(self.weeks)))
            sales = np.pad(sales, more, constant_values=np.nan)
            filled = None if filled is None else np.pad(filled, more)
        past = replace(
            self,
            weeks=self.weeks[0] + 7 * np.arange(end),
            sales=sales,
            covariates=self.covariates and self.covariates.until(end),
            exposure=self.exposure and self.exposure.until(end),
            filled=filled,
            returns=None,
        )
        return past.select(np.asarray(past.observed.any(axis=1)))

    def select(self, keep: NDArray[np.bool_]) -> Panel:
        return replace(
            self,
            store=self.store[keep],
            dept=self.dept[keep],
            sales=self.sales[keep],
            covariates=self.covariates and self.covariates.select(keep),
            exposure=self.exposure and self.exposure.select(keep),
            filled=None if self.filled is None else self.filled[keep],
            returns=None if self.returns is None else self.returns[keep],
        )


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Distinct values in natural order (2 before 10) and each row's index into them."""
    encoded = pa.chunked_array([column.combine_chunks()]).dictionary_encode().combine_chunks()
    values = np.array(encoded.dictionary.to_pylist(), dtype=np.str_)
    order = np.array(sorted(range(len(values)), key=lambda i: natural_key(str(values[i]))), dtype=np.int64)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    return values[order], rank[encoded.indices.to_numpy()]


def natural_key(value: str) -> tuple[int, float, str]:
    """Sort key that puts numbers in number order before text, and no two names in the same place."""
    return (0, float(value), value) if value.isascii() and value.isdigit() else (1, 0.0, value)
