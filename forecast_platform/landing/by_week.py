"""The accepted rows of one sales file, by week: few stay in memory, many lie on disk.

Whatever compares rows with one another (copies, sums, what a file changes) compares rows of one week, and the lake
keeps them by week. So one week at a time is all that has to fit into memory, however long a history is.
"""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecast_platform.landing.kinds import SALES_SCHEMA

IN_MEMORY = 1 << 22  # rows of a file that may stay in memory: some 150 MB
_NAMES = ("store", "dept")


class ByWeek:
    """Rows in the file's order within each week.

    Args:
        schema: SALES_SCHEMA, or one with more columns.

    Attributes:
        weeks: those there were rows of, in the order they were met.
    """

    def __init__(self, schema: pa.Schema = SALES_SCHEMA) -> None:
        self.schema = schema
        # Names are numbers here, in the order they were met: that is shorter, and quicker to compare.
        self._schema = pa.schema([pa.field(f.name, pa.int32()) if f.name in _NAMES else f for f in schema])
        self._codes: dict[str, dict[str, int]] = {name: {} for name in _NAMES}
        self._found: dict[dt.date, list[pa.Table | tuple[Path, int]]] = {}
        self._held: list[pa.Table] = []
        self._folder: Path | None = None
        self._counts: dict[dt.date, int] = {}
        self._all_names = True

    def __len__(self) -> int:
        return sum(self._counts.values())

    @property
    def weeks(self) -> list[dt.date]:
        """Those that have rows, in the order they were met."""
        return [week for week, count in self._counts.items() if count]

    def count(self, week: dt.date) -> int:
        """How many rows a week has."""
        return self._counts.get(week, 0)

    def add(self, rows: pa.Table) -> None:
        """Take the next rows of the file, of any weeks."""
        if not len(rows):
            return
        day = _days(rows)
        first = np.zeros(day.max() + 1, np.int64)
        first[day[::-1]] = np.arange(len(day))[::-1]
        counts = np.bincount(day)
        for at in np.sort(first[counts > 0]).tolist():
            week = rows["week"][at].as_py()
            self._counts[week] = self._counts.get(week, 0) + int(counts[day[at]])
        self._held.append(self._coded(rows))
        if sum(map(len, self._held)) > IN_MEMORY:
            self._write(self._take_held())

    def of(self, week: dt.date) -> pa.Table:
        """The rows of a week."""
        rows = self.coded(week)
        columns = {name: self.names(name).take(rows[name].combine_chunks()) for name in _NAMES}
        return pa.table([columns.get(f.name, rows[f.name]) for f in self.schema], self.schema)

    def coded(self, week: dt.date) -> pa.Table:
        """The rows of a week, with positions in `names` for stores and departments."""
        if self._held:
            held = self._take_held()
            if self._folder:
                self._write(held)
            else:
                for day, rows in held:
                    self._found.setdefault(day, []).append(rows)
        parts = [part if isinstance(part, pa.Table) else _read(*part) for part in self._found.get(week, ())]
        return pa.concat_tables(parts).combine_chunks() if parts else self._schema.empty_table()

    def names(self, column: str) -> pa.Array:
        """The stores or departments that rows were added of."""
        return pa.array(list(self._codes[column]), pa.string())

    def names_left(self, column: str) -> list[str]:
        """Those of them that have rows."""
        names = list(self._codes[column])
        if self._all_names:
            return names
        left = np.zeros(len(names), bool)
        for week in self.weeks:
            left[self.coded(week)[column].to_numpy()] = True
        return [name for name, there in zip(names, left.tolist(), strict=True) if there]

    def replace(self, week: dt.date, rows: pa.Table) -> None:
        """Put fewer rows in the place of a week's."""
        coded = self._coded(rows)
        self._all_names = False
        self._counts[week] = len(coded)
        self._found[week] = [] if self._folder else [coded]
        if self._folder and len(coded):
            self._write([(week, coded)])

    def pairs(self, rows: pa.Table) -> NDArray[np.int64]:
        """One number for the store and department of each coded row."""
        store, dept = (rows[name].combine_chunks().to_numpy().astype(np.int64) for name in _NAMES)
        return np.asarray(store * max(len(self._codes["dept"]), 1) + dept)

    def tables(self, weeks: Sequence[dt.date] | None = None) -> Iterator[pa.Table]:
        """The rows of each week, ascending; of some weeks, or all."""
        return (self.of(week) for week in sorted(self.weeks if weeks is None else weeks))

    def table(self) -> pa.Table:
        """All rows in the order of the file. Of a small file: they are all in memory then."""
        found = pa.concat_tables([self.schema.empty_table(), *self.tables()])
        return found.sort_by([("line", "ascending"), ("week", "ascending")]).combine_chunks()

    def _coded(self, rows: pa.Table) -> pa.Table:
        columns: dict[str, Any] = {}
        for name in _NAMES:
            encoded = rows[name].combine_chunks().dictionary_encode()
            known = self._codes[name]
            codes = [known.setdefault(text, len(known)) for text in encoded.dictionary.to_pylist()]
            columns[name] = pa.array(codes, pa.int32()).take(encoded.indices)
        return pa.table([columns.get(f.name, rows[f.name]) for f in self._schema], self._schema)

    def _take_held(self) -> list[tuple[dt.date, pa.Table]]:
        rows = pa.concat_tables(self._held).combine_chunks()
        self._held = []
        day = _days(rows)
        order = np.argsort(day, kind="stable")
        rows, day = rows.take(pa.array(order)), day[order]
        starts = np.append(0, np.flatnonzero(day[1:] != day[:-1]) + 1)
        stops = np.append(starts[1:], len(day))
        return [
            (rows["week"][start].as_py(), rows.slice(start, stop - start))
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]

    def _write(self, weeks: list[tuple[dt.date, pa.Table]]) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="landing-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{len(list(self._folder.iterdir()))}.arrow"
        with pa.ipc.new_file(path, self._schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            for number, (week, rows) in enumerate(weeks):
                (batch,) = rows.combine_chunks().to_batches()
                file.write_batch(batch)
                self._found.setdefault(week, []).append((path, number))


def _days(rows: pa.Table) -> NDArray[Any]:
    """The week of each row as a number of days, from 0 on: small numbers are sorted much faster."""
    day: NDArray[Any] = rows["week"].combine_chunks().cast(pa.int32()).to_numpy()
    day = day - day.min()
    return day.astype(np.uint16) if day.max() < 1 << 16 else day


def _read(path: Path, number: int) -> pa.Table:
    with pa.ipc.open_file(path) as file:
        return pa.Table.from_batches([file.get_batch(number)])


def has_twins(rows: ByWeek, week: dt.date) -> bool:
    """Whether two rows of a week are of one store and department."""
    pairs = np.sort(rows.pairs(rows.coded(week)))
    return bool((pairs[1:] == pairs[:-1]).any())


def sums_by(rows: pa.Table, column: str, count: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Sum of sales by a column of coded rows, shape (count,), and which of them have a row."""
    code = rows[column].combine_chunks().to_numpy()
    sales = np.asarray(pc.fill_null(rows["sales"].combine_chunks(), 0.0))
    return np.bincount(code, sales, count).astype(np.float64), np.bincount(code, minlength=count) > 0
