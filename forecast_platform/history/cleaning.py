"""From rows in force to clean series: the weekly grid with its gaps, and what else is known of its weeks.

history/versions.py says which version of a row is in force. Superseded versions stay in `raw_sales`, so the same
question can be asked as of any earlier moment.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecast_platform.history.absence import AUTO, NoRow, judge
from forecast_platform.history.grid import Grid, Matrix
from forecast_platform.history.shards import Retailer, over_shards

RECENT_WEEKS = 4
CELLS_PER_GB = 1 << 21  # cells (a series' week) worked on at one time, for each GB of memory a run may take
_FILLED, _CLOSED = 1, 2  # marks of a cell

# Rows of `cleaned_series` that a file had, not filled zeros (null: written before any were filled).
LANDED = "observed AND NOT coalesce(filled, false)"


def clean_weeks(
    con: duckdb.DuckDBPyConnection,
    first: dt.date,
    last: dt.date,
    active_weeks: int,
    no_row: NoRow = AUTO,
    at_most: int = 4 * CELLS_PER_GB,
) -> Iterator[pa.Table]:
    """Rows of `cleaned_series` for the weeks first .. last, from all rows of weeks <= last that have landed: a table
    for each week that has any, in the order of weeks, stores and departments.

    A series has a row for every week from its first observation until it counts as closed. So a gap is a row with null
    sales, and a closed series has no rows until it is observed again.

    Args:
        con: connection the lake is attached to.
        active_weeks: a series without sales for this many weeks is closed and has no row.
        no_row: what a week without a row means, see history/absence.py. Filled zeros are marked `filled`,
            and count as observed.
        at_most: cells worked on at one time, see Grid.

    Raises:
        ValueError: see Grid.
    """
    grid = Grid(con, first, last, at_most)
    begin = max(grid.position(first), 0)
    marks = _marks(grid, begin, active_weeks, no_row)
    seen = np.full(len(grid), -active_weeks)  # the week of each series' last observation
    for week in range(max(begin - active_weeks, 0), len(grid.weeks)):
        sales = grid.sales(week)
        seen[~np.isnan(sales)] = week
        open_series = np.flatnonzero(week - seen < active_weeks)
        if week >= begin and len(open_series):
            yield _rows(grid, week, open_series, sales, marks.row(week - begin))


def _marks(grid: Grid, begin: int, active_weeks: int, no_row: NoRow) -> Matrix:
    """Which cells from the week `begin` on are filled zeros, or of a closed store; (weeks, series)."""

    def judged(series: range, retailer: Retailer) -> NDArray[np.uint8]:
        absence = judge(grid.panel(series), no_row, active_weeks, retailer)
        return (_FILLED * absence.filled + _CLOSED * absence.closed).astype(np.uint8).T[begin:]

    marks = Matrix(len(grid.weeks) - begin, len(grid), np.uint8)
    shards = grid.shards()
    for series, found in zip(shards, over_shards(shards, judged), strict=True):
        marks.write(0, found, series.start)
    return marks


def _rows(
    grid: Grid, week: int, series: NDArray[np.int64], sales: NDArray[np.float64], marks: NDArray[np.uint8]
) -> pa.Table:
    """The rows of `cleaned_series` of one week."""
    sales, marks = sales[series], marks[series]
    n, restated = (of_week[series] for of_week in grid.versions(week))
    landed, filled = ~np.isnan(sales), (marks & _FILLED) > 0
    landing, at = pa.array(n - 1, mask=~landed), pa.array(series)
    count = len(series)
    return pa.table(
        {
            "week": pa.repeat(pa.scalar(grid.weeks[week].astype(dt.date), pa.date32()), count),
            "store": grid.store.take(at),
            "dept": grid.dept.take(at),
            "sales": pa.array(np.where(landed, sales, 0.0), mask=~(landed | filled)),
            "observed": landed | filled,
            "is_return": landed & (sales < 0),
            "is_restated": restated,
            "is_holiday": pa.repeat(bool(grid.holiday[week]), count),
            "landed_at": grid.landings["landed_at"].take(landing),
            "source_key": grid.landings["source_key"].take(landing),
            "filled": filled,
            "store_closed": (marks & _CLOSED) > 0,
        }
    )


@dataclass(frozen=True)
class Completeness:
    """How much of a week has been reported.

    Attributes:
        expected: series with a row in the RECENT_WEEKS weeks before, except those with a filled zero in them: they
            leave weeks out by habit.
        present: expected series with a row in the week.
        rows: series with a row in the week, new ones too.
        missing_stores: stores with expected series but without any row in the week.
    """

    week: dt.date
    expected: int
    present: int
    rows: int
    missing_stores: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the expected series that reported; 1 for the first weeks, of which nothing was expected."""
        return self.present / self.expected if self.expected else float(self.rows > 0)

    def complete(self, threshold: float) -> bool:
        return self.rows > 0 and self.share >= threshold


def completeness(con: duckdb.DuckDBPyConnection, weeks: Sequence[dt.date]) -> list[Completeness]:
    """Completeness of each week, from `cleaned_series`."""
    result = []
    for week in weeks:
        row = con.execute(
            """
            WITH recent AS (
                SELECT store, dept FROM cleaned_series
                WHERE observed AND week < $week AND week >= $since
                GROUP BY store, dept HAVING NOT bool_or(coalesce(filled, false))
            ),
            this_week AS (
                SELECT store, dept FROM cleaned_series WHERE observed AND NOT coalesce(filled, false) AND week = $week
            )
            SELECT (SELECT count(*) FROM recent),
                   (SELECT count(*) FROM recent SEMI JOIN this_week USING (store, dept)),
                   (SELECT count(*) FROM this_week),
                   (SELECT list(DISTINCT store ORDER BY store) FROM recent
                    WHERE store NOT IN (SELECT store FROM this_week))
            """,
            {"week": week, "since": week - dt.timedelta(weeks=RECENT_WEEKS)},
        ).fetchone()
        assert row is not None
        result.append(Completeness(week, row[0], row[1], row[2], tuple(row[3] or ())))
    return result


def newest_complete_week(con: duckdb.DuckDBPyConnection, threshold: float) -> dt.date | None:
    """The last week whose sales are complete, by `cleaned_series`; None while there is none."""
    newest_first = f"SELECT DISTINCT week FROM cleaned_series WHERE {LANDED} ORDER BY week DESC"  # noqa: S608 (only our own SQL is composed)
    weeks: list[dt.date] = [row[0] for row in con.execute(newest_first).fetchall()]
    for week in weeks:
        if completeness(con, [week])[0].complete(threshold):
            return week
    return None
