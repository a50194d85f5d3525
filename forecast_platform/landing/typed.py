"""Files whose values have types: parquet and workbooks, as columns of the text a CSV would hold."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecast_platform.landing.content import Content
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.files import Opened, Rows, empty_file, listed, no_rows, setting, unreadable
from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.values import mask

BATCH = 1 << 18  # rows of parquet read at one time


# --- parquet


def open_parquet(data: Content, key: str, dialect: Dialect) -> Opened:
    """Raises FileRefused where the file is damaged."""
    if not len(data):
        raise empty_file(key)
    try:
        file = pq.ParquetFile(data.rewound())
        header = list(file.schema_arrow.names)  # decodes them
    except Exception as error:  # damaged bytes surface as almost any error
        raise unreadable(key, error) from None
    return Opened(key, header, lambda wanted: _parquet_rows(file, key, header, wanted, dialect))


def _parquet_rows(
    file: pq.ParquetFile, key: str, header: list[str], wanted: Sequence[int], dialect: Dialect
) -> Iterator[Rows]:
    schema = file.schema_arrow
    if not file.metadata.num_rows:
        raise no_rows(key)
    for i in wanted:
        if not _readable(schema.field(i).type):
            raise FileRefused(
                "wrong_type",
                (
                    f"{key}: column {header[i]!r} is of type {schema.field(i).type}, which can't be read; "
                    "write it as text, a number, a date or a boolean."
                ),
            )
    typed = frozenset(i for i in wanted if not _is_text(schema.field(i).type))
    first = 1
    for batch in _batches(file, key, [header[i] for i in wanted]):
        try:
            columns = {i: _as_text(_one(batch.column(at)), dialect.time_zone) for at, i in enumerate(wanted)}
        except (pa.ArrowException, ValueError) as error:
            raise unreadable(key, error) from None

        def records(rows: Sequence[int], columns: dict[int, pa.Array] = columns, first: int = first) -> list[str]:
            at = np.asarray(rows, np.int64)
            try:
                values = _whole_rows(file, at - 1)
            except Exception:  # a column nobody asked for is damaged or of an odd type: keep those that were read
                values = pa.table({header[i]: c for i, c in columns.items()}).take(at - first).to_pylist()
            return [json.dumps(row, default=str, ensure_ascii=False) for row in values]

        yield Rows(columns, np.arange(first, first + len(batch)), [], records, typed)
        first += len(batch)
    if first - 1 != file.metadata.num_rows:  # a damaged file can end early without an error
        raise unreadable(key, f"{first - 1:,} of its {file.metadata.num_rows:,} rows could be read")


def _whole_rows(file: pq.ParquetFile, at: np.ndarray) -> list[dict[str, Any]]:
    """All columns of the rows at some positions, in their order. Only the row groups that hold them are read."""
    ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
    groups = np.searchsorted(ends, at, side="right")
    found: dict[int, dict[str, Any]] = {}
    for group in np.unique(groups).tolist():
        these = at[groups == group]
        inside = these - (ends[group - 1] if group else 0)
        rows = file.read_row_group(group).take(pa.array(inside)).to_pylist()
        found |= zip(these.tolist(), rows, strict=True)
    return [found[position] for position in at.tolist()]


def _batches(file: pq.ParquetFile, key: str, names: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        for batch in file.iter_batches(BATCH, columns=names):
            batch.validate(full=True)
            # By name, because a reader gives columns in the file's order.
            yield batch.select(names)
    except Exception as error:  # damaged bytes surface as almost any error
        raise unreadable(key, error) from None


def _one(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    kind, is_a = _plain_type(kind), pa.types
    return any(
        check(kind)
        for check in (is_a.is_string, is_a.is_large_string, is_a.is_string_view, is_a.is_binary, is_a.is_large_binary)
    )


def _readable(kind: pa.DataType) -> bool:
    is_a = pa.types
    typed = (is_a.is_integer, is_a.is_floating, is_a.is_decimal, is_a.is_boolean, is_a.is_date, is_a.is_timestamp)
    return _is_text(kind) or any(check(_plain_type(kind)) for check in (*typed, is_a.is_null))


def _as_text(values: pa.Array, time_zone: str) -> pa.Array:
    """A typed column as a CSV would write it: whole numbers without a point, dates as ISO."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_timestamp(kind):
        if kind.tz:
            # Midnight where the shop is, or where the writer was.
            values = pc.local_timestamp(values.cast(pa.timestamp(kind.unit, time_zone)) if time_zone else values)
        midnight = pc.equal(pc.floor_temporal(values, unit="day"), values)
        day = pc.cast(values, pa.date32(), safe=False)
        moment = pc.cast(pc.floor_temporal(values, unit="second"), pa.timestamp("s"))
        return pc.if_else(midnight, pc.cast(day, pa.string()), pc.cast(moment, pa.string()))
    if pa.types.is_date64(kind):
        return pc.cast(pc.cast(values, pa.date32()), pa.string())
    if pa.types.is_floating(kind):
        if pa.types.is_float16(kind):
            values = pc.cast(values, pa.float32())
        text = pc.cast(values, pa.string())
        # Arrow writes 1e+15 for large whole numbers, which would be odd as the name of a store.
        whole = mask(pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**53)))
        digits = pc.cast(pc.cast(pc.if_else(pa.array(whole), values, None), pa.int64()), pa.string())
        text = pc.if_else(pa.array(whole), digits, text)
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.string()), text)
    return pc.cast(values, pa.string())


# --- workbooks


def open_workbook(data: Content, key: str, dialect: Dialect) -> Opened:
    """A sheet of an .xlsx file: its first row that holds anything, after the titles, is the header.

    Raises:
        FileRefused: it is damaged, or which sheet to read is unclear.
    """
    rows = sheet_cells(data, key, dialect)
    top = next((i for i, row in enumerate(rows) if i >= dialect.skip_rows and any(c != "" for c in row)), None)
    if top is None:
        raise no_rows(key)
    header = [_cell(cell) or "" for cell in rows[top]]
    while header and not header[-1].strip():
        header.pop()
    return Opened(key, header, lambda wanted: _sheet_rows(rows, top, key, wanted, dialect))


def sheet_cells(data: Content, key: str, dialect: Dialect) -> list[list[Any]]:
    """The rows of the sheet to read, "" where a cell is empty; see `open_workbook`."""
    import python_calamine

    if not len(data):
        raise empty_file(key)
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(data.rewound())
        shown = [s.name for s in book.sheets_metadata if s.visible == python_calamine.SheetVisibleEnum.Visible]
        cells = {name: book.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in shown}
    except Exception as error:  # damaged bytes surface as almost any error
        raise unreadable(key, error) from None
    filled = [name for name, rows in cells.items() if any(cell != "" for row in rows for cell in row)]
    if not filled:
        raise empty_file(key)
    name = dialect.sheet or filled[0]
    if name not in cells or (not dialect.sheet and len(filled) > 1):
        raise FileRefused(
            "which_sheet",
            f"{key} has the sheets {listed(cells)}; say which one to read with {setting('sheet', filled[0])}.",
        )
    return cells[name]


def _sheet_rows(rows: list[list[Any]], top: int, key: str, wanted: Sequence[int], dialect: Dialect) -> Iterator[Rows]:
    line = np.array([i + 1 for i, row in enumerate(rows) if i > top and any(cell != "" for cell in row)], np.int64)
    if not len(line):
        raise no_rows(key)
    typed, columns = set(), {}
    for i in wanted:
        cells = [rows[at - 1][i] if i < len(rows[at - 1]) else "" for at in line.tolist()]
        if any(cell != "" for cell in cells) and not any(isinstance(cell, str) and cell != "" for cell in cells):
            typed.add(i)
        # A number among texts is written as the texts are.
        point = "." if i in typed else dialect.decimal or "."
        columns[i] = pa.array([_cell(cell, point) for cell in cells], pa.string())

    def records(lines: Sequence[int]) -> list[str]:
        return [json.dumps(rows[at - 1], default=str, ensure_ascii=False) for at in lines]

    yield Rows(columns, line, [], records, frozenset(typed))


@functools.singledispatch
def _cell(value: Any, point: str = ".") -> str | None:
    return str(value)


@_cell.register
def _(value: str, point: str = ".") -> str | None:
    return value


@_cell.register
def _(value: bool, point: str = ".") -> str | None:
    return "TRUE" if value else "FALSE"


@_cell.register
def _(value: float, point: str = ".") -> str | None:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value).replace(".", point)


@_cell.register
def _(value: dt.datetime, point: str = ".") -> str | None:
    return value.date().isoformat() if value.time() == dt.time() else value.isoformat(sep=" ", timespec="seconds")
