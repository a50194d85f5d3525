"""All series on one weekly grid, kept on disk: the rows in force, read from the lake once, some weeks at a time.

It is written by weeks and read by weeks or by series, so it never has to fit into memory.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.history.versions import BEGINNING, EVER, VERSIONS, joins_as_written

DAY = dt.timedelta(days=1)

_SERIES = """
    CREATE OR REPLACE TEMP TABLE series AS
    SELECT store, dept, CAST(row_number() OVER (ORDER BY store, dept) - 1 AS INTEGER) AS series
    FROM (SELECT DISTINCT store, dept FROM raw_sales WHERE week <= ?)
"""
_CELLS = f"""
    WITH {VERSIONS}
    SELECT series, week - $since AS day, n, restated, coalesce(row.is_holiday, false) AS is_holiday,
           coalesce(row.sales, CAST('nan' AS DOUBLE)) AS sales
    FROM in_force JOIN series USING (store, dept)
"""  # noqa: S608 (only our own SQL is composed)
_LANDINGS = f"WITH {VERSIONS} SELECT n, landed_at, source_key FROM counted ORDER BY n"  # noqa: S608


class Grid:
    """N series over T weeks, the last of which is `last`.

    Args:
        con: connection the lake is attached to.
        since: from this week on the grid keeps which landing each value came with.
        at_most: cells in memory at one time, or those of one week or one series if they are more.

    Attributes:
        store, dept: names of the series, ascending, shape (N,).
        weeks: shape (T,), datetime64[D].
        holiday: whether a row marks the week as a holiday week, shape (T,).
        landings: (n, landed_at, source_key) of the landings that count, n = 1, 2, ...

    Raises:
        ValueError: a week does not end on the weekday of `last`.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, since: dt.date, last: dt.date, at_most: int) -> None:
        con.execute(_SERIES, [last])
        names = con.sql("SELECT store, dept FROM series ORDER BY series").to_arrow_table()
        self.store, self.dept = (names[column].combine_chunks() for column in ("store", "dept"))
        ((first,),) = con.execute("SELECT min(week) FROM raw_sales WHERE week <= ?", [last]).fetchall()
        count = (last - (first or last)).days // 7 + 1
        self.weeks = np.datetime64(last, "D") - 7 * np.arange(count - 1, -1, -1)
        self.holiday = np.zeros(count, bool)
        known = {"last": last, "known_before": EVER}
        self.landings = con.sql(_LANDINGS, params={"since": BEGINNING, **known}).to_arrow_table().combine_chunks()
        self._at_most, self._kept = at_most, max(self.position(since), 0)
        self._sales = Matrix(count, len(self), np.float64)
        self._versions = Matrix(count - self._kept, len(self), np.int32)
        step = max(at_most // max(len(self), 1), 1)
        for start in range(0, count, step):
            self._read(con, start, min(start + step, count))

    def __len__(self) -> int:
        return len(self.store)

    def position(self, week: dt.date) -> int:
        """Position of a week; may lie outside 0 .. T-1."""
        return int((np.datetime64(week, "D") - self.weeks[0]).astype(int) // 7)

    def _read(self, con: duckdb.DuckDBPyConnection, start: int, stop: int) -> None:
        first, last = (self.weeks[at].astype(dt.date) for at in (start, stop - 1))
        since = first - 6 * DAY  # all days of the first week: sales dated on any but the last are an error
        with joins_as_written(con):
            rows = con.sql(_CELLS, params={"since": since, "last": last, "known_before": EVER}).fetchnumpy()
        week, odd = np.divmod(rows["day"] - 6, 7)
        if odd.any():
            raise ValueError(
                f"there are sales of {since + int(rows['day'][odd.argmax()]) * DAY}, but weeks end on {last:%A}: "
                "withdraw the file that holds them, or have it read again: forecast landing reread KEY"
            )
        self.holiday[start + np.unique(week[rows["is_holiday"]])] = True
        sales = np.full((stop - start, len(self)), np.nan)
        sales[week, rows["series"]] = rows["sales"]
        self._sales.write(start, sales)
        if stop > self._kept:
            versions = np.zeros(sales.shape, np.int32)
            versions[week, rows["series"]] = np.where(rows["restated"], -rows["n"], rows["n"])
            at = max(start, self._kept)
            self._versions.write(at - self._kept, versions[at - start :])

    def sales(self, week: int) -> NDArray[np.float64]:
        """Sales of all series in a week, NaN where there is no row or no value; shape (N,)."""
        return self._sales.row(week)

    def versions(self, week: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Of each series in a week, both of shape (N,): the number n of the landing that its row came with, 0 without a
        row; whether the row was delivered more than once."""
        found = self._versions.row(week - self._kept)
        return np.abs(found), found < 0

    def shards(self) -> list[range]:
        """Ranges of the series, each small enough to be in memory as a panel."""
        step = max(self._at_most // len(self.weeks), 1)
        return [range(start, min(start + step, len(self))) for start in range(0, len(self), step)]

    def panel(self, series: range) -> Panel:
        """The panel of some series, as reported. A series may be without any observation."""
        store, dept = (
            np.array(names[series.start : series.stop].to_pylist(), np.str_) for names in (self.store, self.dept)
        )
        return Panel(store, dept, self.weeks, np.ascontiguousarray(self._sales.columns(series).T))


class Matrix:
    """A matrix of numbers in a temporary file, zero at first."""

    def __init__(self, height: int, width: int, kind: type[np.generic]) -> None:
        self._height, self._width, self._kind = height, width, np.dtype(kind)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this)
        self._file.truncate(height * width * self._kind.itemsize)

    def write(self, row: int, rows: NDArray[Any], column: int = 0) -> None:
        """Overwrite with these rows, the first one at `row`, whole rows or from `column` on."""
        if rows.shape[1] == self._width:
            rows = rows.reshape(1, -1)
        for at, values in enumerate(rows):
            self._file.seek(((row + at) * self._width + column) * self._kind.itemsize)
            self._file.write(np.ascontiguousarray(values, self._kind).data)

    def row(self, row: int) -> NDArray[Any]:
        return self._read(row * self._width, self._width)

    def columns(self, columns: range) -> NDArray[Any]:
        """Shape (height, columns)."""
        found = np.empty((self._height, len(columns)), self._kind)
        for row in range(self._height):
            found[row] = self._read(row * self._width + columns.start, len(columns))
        return found

    def _read(self, start: int, count: int) -> NDArray[Any]:
        self._file.seek(start * self._kind.itemsize)
        return np.frombuffer(self._file.read(count * self._kind.itemsize), self._kind)
