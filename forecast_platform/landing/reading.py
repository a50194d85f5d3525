"""A landed file's bytes as columns of text, whatever its format.

The rules that follow see nothing else, so a CSV, its gzip and its parquet twin mean the same thing.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.kinds import FORMATS, FileRefused
from forecast_platform.landing.values import ISO, Mask, mask


@dataclass(frozen=True)
class File:
    """A file as columns of text, whatever its format.

    Attributes:
        header: column names as written in the file.
        names: canonical or lower-case name -> position in the header, for the columns that were read.
        ignored: names of the other columns.
        columns: canonical name -> text per row, not yet trimmed.
        line: line each row starts on, [rows].
        ragged: (line, fields) of the rows that do not fit the header; they are in no column.
        records: lines -> the whole rows as text.
        date_format: of the text in the date column.
        missing: texts that mean "no value".
    """

    key: str
    header: list[str]
    names: dict[str, int]
    ignored: tuple[str, ...]
    columns: dict[str, pa.Array]
    line: NDArray[np.int64]
    ragged: list[tuple[int, int]]
    records: Callable[[Sequence[int]], list[str]]
    date_format: str
    missing: pa.Array
    _texts: dict[str, pa.Array] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Rows that fit the header."""
        return len(self.line)

    def text(self, column: str) -> pa.Array:
        """A column trimmed, null where it holds a missing marker."""
        if column not in self._texts:
            trimmed = pc.utf8_trim_whitespace(self.columns[column])
            absent = pc.is_in(trimmed, self.missing)
            self._texts[column] = pc.if_else(absent, pa.scalar(None, pa.string()), trimmed)
        return self._texts[column]

    def label(self, column: str) -> str:
        """The column as the file calls it."""
        return self.header[self.names[column]].strip()


def read_columns(
    data: bytes, key: str, contract: Dialect, required: Sequence[str], optional: Sequence[str] | None
) -> File:
    """Read the required columns and, if present, the optional ones; `optional=None` reads every named one."""
    reader: Callable[[bytes, str, Dialect, Select], File]
    reader = _read_parquet if format_of(key) == ".parquet" else _read_csv

    def select(header: list[str]) -> dict[str, int]:
        names = canonical(header, contract)
        if missing := [name for name in required if name not in names]:
            raise missing_columns(key, contract, missing, header)
        wanted = {name for name in names if name} if optional is None else {*required, *optional}
        if twice := sorted({name for name in wanted if names.count(name) > 1}):
            raise FileRefused(
                "duplicate_columns",
                (
                    f"{key} has more than one column {listed(twice)}, so which to read is unclear: "
                    f"{listed(header)}. Rename or drop all but one."
                ),
            )
        return {name: i for i, name in enumerate(names) if name in wanted}

    return reader(data, key, contract, select)


Select = Callable[[list[str]], dict[str, int]]


def format_of(key: str) -> str:
    for suffix in FORMATS:
        if key.lower().endswith(suffix):
            return suffix
    raise FileRefused("unknown_format", f"{key} is none of {', '.join(FORMATS)}; save it as one of them.")


def canonical(header: Sequence[str], contract: Dialect) -> list[str]:
    """Each column's canonical name, or its own in lower case; "" for a column to ignore."""
    plain = [name.strip().lower() for name in header]
    mapped = {name.strip().lower(): canonical for canonical, name in contract.columns.items()}
    taken = {mapped[name] for name in plain if name in mapped}
    # A canonical name means itself, unless the file also has the column mapped to it: the mapping decides.
    names = [mapped.get(name, "" if name in taken else name) for name in plain]
    if "name" not in names and "store" not in names:  # a calendar of holidays
        names = ["name" if name == "holiday" else name for name in names]
    return names


def ignored(header: list[str], names: Mapping[str, int]) -> tuple[str, ...]:
    used = set(names.values())
    return tuple(name.strip() or f"(column {i + 1})" for i, name in enumerate(header) if i not in used)


def missing_columns(key: str, contract: Dialect, missing: Sequence[str], header: Sequence[str]) -> FileRefused:
    mapped = contract.columns
    expected = [f"{name} (as {mapped[name]!r})" if name in mapped else name for name in missing]
    return FileRefused(
        "missing_columns",
        (
            f"{key} lacks the column {listed(expected)}; it has {listed(header)}. "
            f"Map it with FORECAST_COLUMNS or use a preset.{delimiter_hint(header, contract)}"
        ),
    )


def delimiter_hint(header: Sequence[str], contract: Dialect) -> str:
    if len(header) == 1:
        for other in ",;\t|":
            if other in header[0] and other != contract.delimiter:
                return f" Its fields seem to be separated by {other!r}: set FORECAST_DELIMITER."
    return ""


def listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(short_name, names[:20])) + more


def short_name(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


def short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")


# --- CSV


def csv_text(data: bytes, key: str, contract: Dialect) -> bytes:
    """The file's text as UTF-8 with \\n line ends, no BOM; refused when there is none."""
    if format_of(key) == ".csv.gz" and data:
        data = _gunzip(data, key)
    try:
        text = data.decode(contract.encoding)
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = data.count(b"\n", 0, at) + 1
        gzipped = " It looks compressed: name it .csv.gz." if data[:2] == b"\x1f\x8b" else ""
        raise FileRefused(
            "encoding",
            (
                f"{key} is not {contract.encoding}: line {line}, byte {at} of the file ({data[at : at + 4]!r}). "
                f"Save it as UTF-8.{gzipped}"
            ),
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise FileRefused("empty_file", f"{key} is empty; land it again with a header and rows.")
    return text.encode("utf-8", "replace")  # a codec may yield lone surrogates


def _gunzip(data: bytes, key: str) -> bytes:
    magic = b"\x1f\x8b"
    if not data.startswith(magic) and not magic.startswith(data):
        raise FileRefused("not_gzip", f"{key} is named .gz but is not gzip; compress it, or drop the .gz.")
    try:
        if len(data) < len(magic):
            raise EOFError
        return gzip.decompress(data)
    except EOFError:
        raise FileRefused(
            "truncated_gzip",
            (
                f"{key} ends in the middle of its compressed data ({len(data):,} bytes arrived); "
                "land the whole file again."
            ),
        ) from None
    except (OSError, zlib.error) as error:
        raise _unreadable(key, error) from None


def _unreadable(key: str, error: object) -> FileRefused:
    reason = short_name(" ".join(str(error).split()))
    return FileRefused("unreadable", f"{key} is damaged: {reason}. Write it anew and land it again.")


def _csv_rows(text: bytes, key: str, contract: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each row, by the csv module."""
    reader = csv.reader(io.StringIO(text.decode(), newline="\n"), delimiter=contract.delimiter)
    line = 1
    try:
        for fields in reader:
            if fields:  # a blank line has none
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise _unreadable(key, f"from line {line} on, {error}; is a quote left open?") from None


def csv_header(text: bytes, key: str, contract: Dialect) -> list[str]:
    return next(_csv_rows(text, key, contract))[1]


@dataclass(frozen=True)
class _Layout:
    """Where the rows of a CSV text lie, the header first: four arrays over the rows that are not blank."""

    line: NDArray[np.int64]  # the row starts on
    start: NDArray[np.int64]  # byte
    stop: NDArray[np.int64]  # byte after the last
    fields: NDArray[np.int64]


def _read_csv(data: bytes, key: str, contract: Dialect, select: Select) -> File:
    text = csv_text(data, key, contract)
    header = csv_header(text, key, contract)
    names = select(header)
    layout, good, columns = _split(text, len(header), names, key, contract)
    line, start, stop = layout.line[1:], layout.start[1:], layout.stop[1:]
    if not len(line):
        raise _no_rows(key)

    def records(lines: Sequence[int]) -> list[str]:
        rows = np.searchsorted(line, np.asarray(lines, np.int64))
        return [
            text[a:b].decode().rstrip("\n")  # blank lines follow where the csv module split the rows
            for a, b in zip(start[rows].tolist(), stop[rows].tolist(), strict=True)
        ]

    return File(
        key,
        header,
        names,
        ignored(header, names),
        columns,
        line[good],
        list(zip(line[~good].tolist(), layout.fields[1:][~good].tolist(), strict=True)),
        records,
        contract.date_format,
        pa.array(contract.missing, pa.string()),
    )


def _split(
    text: bytes, width: int, names: dict[str, int], key: str, contract: Dialect
) -> tuple[_Layout, Mask, dict[str, pa.Array]]:
    """The rows' layout, which of them (the header aside) have `width` fields, and those rows' columns."""
    layout = _layout(text, contract.delimiter)
    if layout is not None:
        good = layout.fields[1:] == width
        return layout, good, _arrow_columns(text, layout, width, names, contract, bool(good.any()))
    # Quotes in odd places, 5" pipe: the csv module has customs for them, at a tenth of the speed.
    rows = list(_csv_rows(text, key, contract))
    line = np.array([line for line, _ in rows])
    breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    start = np.append(0, breaks + 1)[line - 1]
    stop = np.append(start[1:] - 1, len(text.rstrip(b"\n")))
    layout = _Layout(line, start, stop, np.array([len(fields) for _, fields in rows]))
    good = layout.fields[1:] == width
    kept = [fields for _, fields in rows[1:] if len(fields) == width]
    return layout, good, {n: pa.array([f[i] for f in kept], pa.string()) for n, i in names.items()}


def _layout(text: bytes, delimiter: str) -> _Layout | None:
    """The layout by numpy, or None if quotes stand where RFC 4180 has none."""
    raw = np.frombuffer(text, np.uint8)
    line_end, field_end = raw == ord("\n"), raw == ord(delimiter)
    breaks = np.flatnonzero(line_end)
    quote = raw == ord('"')
    if quote.any():
        # A quote opens after the end of a field or line, closes before one; a doubled one closes and reopens.
        at = np.flatnonzero(quote)
        edge = np.concatenate([[True], line_end | field_end | quote, [True]])
        if len(at) % 2 or not edge[at[0::2]].all() or not edge[at[1::2] + 2].all():
            return None
        outside = ~np.logical_xor.accumulate(quote)
        line_end &= outside
        field_end &= outside
    stop = np.append(np.flatnonzero(line_end), len(raw))
    start = np.append(0, stop[:-1] + 1)
    start, stop = start[start < stop], stop[start < stop]
    separators = np.flatnonzero(field_end)
    fields = 1 + np.searchsorted(separators, stop) - np.searchsorted(separators, start)
    return _Layout(1 + np.searchsorted(breaks, start), start, stop, fields)


def _arrow_columns(
    text: bytes, layout: _Layout, width: int, names: dict[str, int], contract: Dialect, any_good: bool
) -> dict[str, pa.Array]:
    if not any_good:
        return {name: pa.array([], pa.string()) for name in names}
    wanted = [str(i) for i in names.values()]
    quoted = b'"' in text
    table = pa_csv.read_csv(
        pa.py_buffer(memoryview(text)[layout.start[1] :]),
        pa_csv.ReadOptions(
            column_names=[str(i) for i in range(width)],
            # A row must fit into a block.
            block_size=max(1 << 22, 2 * int((layout.stop - layout.start).max())),
        ),
        pa_csv.ParseOptions(
            delimiter=contract.delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=lambda row: "skip",  # they are known already
        ),
        pa_csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            check_utf8=False,
            null_values=[],
            strings_can_be_null=False,
        ),
    )
    return {name: _whole(table[str(i)]) for name, i in names.items()}


def _no_rows(key: str) -> FileRefused:
    return FileRefused("no_rows", f"{key} holds a header and no rows; land it again with rows.")


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


# --- parquet


def open_parquet(data: bytes, key: str) -> pq.ParquetFile:
    if not data:
        raise FileRefused("empty_file", f"{key} is empty; land it again with rows.")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        file.schema_arrow.names  # decodes them  # noqa: B018
        return file
    except Exception as error:  # damaged bytes surface as almost any error
        raise _unreadable(key, error) from None


def _read_parquet(data: bytes, key: str, contract: Dialect, select: Select) -> File:
    file = open_parquet(data, key)
    schema = file.schema_arrow
    names = select(schema.names)
    if not file.metadata.num_rows:
        raise _no_rows(key)
    for name in names.values():
        if not _readable(schema.field(name).type):
            raise FileRefused(
                "wrong_type",
                (
                    f"{key}: column {schema.names[name]!r} is of type {schema.field(name).type}, which can't be "
                    "read; write it as text, a number, a date or a boolean."
                ),
            )
    try:
        table = file.read(columns=[schema.names[i] for i in names.values()])
        table.validate(full=True)
        columns = {name: _as_text(_whole(table[schema.names[i]])) for name, i in names.items()}
    except Exception as error:  # damaged bytes surface as almost any error
        raise _unreadable(key, error) from None

    def records(rows: Sequence[int]) -> list[str]:
        at = np.asarray(rows, np.int64) - 1
        try:
            values = file.read().take(at).to_pylist()
        except Exception:  # a column nobody asked for is damaged or of an odd type: keep those that were read
            values = pa.table(columns).take(at).to_pylist()
        return [json.dumps(row, default=str, ensure_ascii=False) for row in values]

    typed = pa.types.is_temporal(_plain_type(schema.field(names["date"]).type)) if "date" in names else False
    return File(
        key,
        schema.names,
        names,
        ignored(schema.names, names),
        columns,
        np.arange(1, table.num_rows + 1),
        [],
        records,
        ISO if typed else contract.date_format,
        pa.array(contract.missing, pa.string()),
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _readable(kind: pa.DataType) -> bool:
    is_a, kind = pa.types, _plain_type(kind)
    return any(
        check(kind)
        for check in (
            is_a.is_string,
            is_a.is_large_string,
            is_a.is_string_view,
            is_a.is_integer,
            is_a.is_floating,
            is_a.is_decimal,
            is_a.is_boolean,
            is_a.is_date,
            is_a.is_timestamp,
            is_a.is_null,
            is_a.is_binary,
            is_a.is_large_binary,
        )
    )


def _as_text(values: pa.Array) -> pa.Array:
    """A typed column as a CSV would write it: whole numbers without a point, dates as ISO."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_timestamp(kind):
        if kind.tz:
            values = pc.local_timestamp(values)  # midnight where the writer is
        midnight = pc.equal(pc.floor_temporal(values, unit="day"), values)
        day = pc.cast(values, pa.date32(), safe=False)
        return pc.if_else(midnight, pc.cast(day, pa.string()), pc.cast(values, pa.string()))
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
