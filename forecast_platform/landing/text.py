"""Delimited text: CSV and its relatives, some megabytes at a time."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.files import Opened, Rows, empty_file, no_rows, setting, unreadable
from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.values import Mask

BLOCK = 1 << 24  # bytes of text read at one time
HEAD = 1 << 20  # bytes that hold any header

_MARKS = (  # of Unicode, at the start of a file; the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_text(data: bytes, key: str, suffix: str, dialect: Dialect, head: bool = False) -> Opened:
    """The text of a file whose name ends in `suffix`.

    Args:
        head: the data are the file's beginning only, and may end anywhere.

    Raises:
        FileRefused: there is no text, or no header in it.
    """
    text = _utf8(data, key, dialect, head)
    line, start = 1, 0
    for _ in range(dialect.skip_rows):
        line, start = line + 1, text.find(b"\n", start) + 1
        if not start:
            raise FileRefused(
                "no_rows", f"{key} has no more lines than the {dialect.skip_rows} title rows of FORECAST_SKIP_ROWS."
            )
    said = re.match(rb'\s*"?sep=(.)"?[^\S\n]*\n', text[start : start + 100], re.IGNORECASE)
    if said:
        line, start = line + said.group().count(b"\n"), start + said.end()
    delimiter = dialect.delimiter or (said.group(1).decode("ascii", "replace") if said else "")
    if not delimiter:
        first = text[start:].lstrip()[:HEAD].partition(b"\n")[0]
        delimiter = "\t" if suffix == ".tsv" or (suffix == ".txt" and b"\t" in first) else ","
    header, lines = _header(text[start : start + HEAD], key, delimiter)
    for _ in range(lines):
        start = text.find(b"\n", start) + 1 or len(text)
    line += lines

    def rows(wanted: Sequence[int]) -> Iterator[Rows]:
        found = False
        for block in _blocks(text, start, line, key, delimiter, len(header), wanted):
            found = True
            yield block
        if not found:
            raise no_rows(key)

    return Opened(key, header, rows)


def _utf8(data: bytes, key: str, dialect: Dialect, head: bool) -> bytes:
    """The text as UTF-8 with \\n line ends, without a mark; refused when there is none."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), dialect.encoding or "utf-8")
    if encoding in ("utf-8", "utf-8-sig"):
        _check_utf8(data, key, head)
        text = data.removeprefix(codecs.BOM_UTF8)
    else:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(data, final=not head).encode("utf-8", "replace")
        except UnicodeError as error:
            raise _not_that_encoding(data, key, encoding, error) from None
        text = text.removeprefix(codecs.BOM_UTF8)
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not text[:HEAD].strip() and not text.strip():
        raise empty_file(key)
    return text


def _check_utf8(data: bytes, key: str, head: bool) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        try:
            decoder.decode(block, final=not head and start + BLOCK >= len(data))
        except UnicodeError:
            try:
                data.decode()  # all of it, to say where in the file
            except UnicodeError as error:
                raise _not_that_encoding(data, key, "utf-8", error) from None


def _not_that_encoding(data: bytes, key: str, encoding: str, error: UnicodeError) -> FileRefused:
    at = getattr(error, "start", 0)
    line = data.count(b"\n", 0, at) + 1
    if data[:2] == b"\x1f\x8b":
        advice = "It looks compressed: name it .gz."
    elif data[:4] == b"PK\x03\x04":
        advice = "It looks like a workbook or a zip archive: name it .xlsx or .zip."
    elif encoding == "utf-8" and b"\0" in data[:200]:
        advice = f"It looks like UTF-16: save it as UTF-8, or set {setting('encoding', 'utf-16')}."
    else:
        advice = f"Save it as UTF-8, or say how it was written, for example {setting('encoding', 'cp1252')}."
    return FileRefused(
        "encoding", f"{key} is not {encoding}: line {line}, byte {at} of the file ({data[at : at + 4]!r}). {advice}"
    )


def _csv_rows(text: bytes, key: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """(first line, last line, fields) of each row, by the csv module."""
    reader = csv.reader(io.StringIO(text.decode(errors="replace"), newline="\n"), delimiter=delimiter)
    line = 1
    try:
        for fields in reader:
            if fields:  # a blank line has none
                yield line, reader.line_num, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise unreadable(key, f"from line {line} on, {error}; is a quote left open?") from None


def _header(text: bytes, key: str, delimiter: str) -> tuple[list[str], int]:
    """The header, and how many lines it and the blank ones before it take."""
    for _, last, fields in _csv_rows(text, key, delimiter):
        return fields, last
    raise no_rows(key)


def _blocks(
    text: bytes, start: int, line: int, key: str, delimiter: str, width: int, wanted: Sequence[int]
) -> Iterator[Rows]:
    """The rows from byte `start` on, which is where `line` starts; blocks without a row are left out."""
    while start < len(text):
        stop = _end_of_rows(text, start)
        split = _split(text[start:stop], key, delimiter, width)
        if split[2] is not None and stop < len(text):  # where rows end is not told by counting quotes
            stop = len(text)
            split = _split(text[start:stop], key, delimiter, width)

        def records(lines: Sequence[int], start: int = start, stop: int = stop, first: int = line) -> list[str]:
            return _records(text[start:stop], lines, first, key, delimiter, width)

        rows = _rows(split, line, delimiter, width, wanted, records)
        if rows is not None:
            yield replace(rows, open_end=stop == len(text) and not text.endswith(b"\n"))
        line += text.count(b"\n", start, stop)
        start = stop


def _end_of_rows(text: bytes, start: int) -> int:
    """Where a block may end: after a line end that no quoted field goes across, or where the text does."""
    size = BLOCK
    while start + size < len(text):
        stop = text.rfind(b"\n", start, start + size) + 1
        while stop > start:
            if text.count(b'"', start, stop) % 2 == 0:
                return stop
            stop = text.rfind(b"\n", start, stop - 1) + 1
        size *= 2
    return len(text)


@dataclass(frozen=True)
class _Layout:
    """Where the rows of a text lie: four arrays over the rows that are not blank."""

    line: NDArray[np.int64]  # the row starts on, the first being 0
    start: NDArray[np.int64]  # byte
    stop: NDArray[np.int64]  # byte after the last
    fields: NDArray[np.int64]


def _split(text: bytes, key: str, delimiter: str, width: int) -> tuple[bytes, _Layout, list[list[str]] | None]:
    """A block's text, where its rows lie in it, and their fields where they had to be split one by one."""
    layout = _layout(text, delimiter)
    if layout is not None:
        return *_without_empty_ends(text, layout, delimiter, width), None
    # Quotes in odd places, 5" pipe: the csv module has customs for them, at a tenth of the speed.
    lines = text.split(b"\n")
    found = [
        (line - 1, _trimmed(fields, width, lines[last - 1], delimiter.encode()))
        for line, last, fields in _csv_rows(text, key, delimiter)
        if lines[line - 1].strip(delimiter.encode())
    ]
    at = np.array([line for line, _ in found], np.int64)
    breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    start = np.append(0, breaks + 1)[at]
    stop = np.append(start[1:] - 1, len(text.rstrip(b"\n")))[: len(at)]
    counts = np.array([len(fields) for _, fields in found], np.int64)
    return text, _Layout(at, start, stop, counts), [fields for _, fields in found]


def _rows(
    split: tuple[bytes, _Layout, list[list[str]] | None],
    first: int,
    delimiter: str,
    width: int,
    wanted: Sequence[int],
    records: Callable[[Sequence[int]], list[str]],
) -> Rows | None:
    """The rows of a block that starts on line `first`; None where it has none."""
    text, layout, fields = split
    if not len(layout.line):
        return None
    good = layout.fields == width
    if fields is None:
        columns = _arrow_columns(text, layout, width, wanted, delimiter, bool(good.any()))
    else:
        kept = [row for row in fields if len(row) == width]
        columns = {i: pa.array([row[i] for row in kept], pa.string()) for i in wanted}
    line = first + layout.line
    ragged = list(zip(line[~good].tolist(), layout.fields[~good].tolist(), strict=True))
    return Rows(columns, line[good], ragged, records)


def _records(text: bytes, lines: Sequence[int], first: int, key: str, delimiter: str, width: int) -> list[str]:
    """Whole rows of a block by their lines. It is split anew, because few rows are ever asked for."""
    text, layout, _ = _split(text, key, delimiter, width)
    rows = np.searchsorted(first + layout.line, np.asarray(lines, np.int64))
    return [
        text[a:b].decode(errors="replace").rstrip("\n")  # blank lines follow where the csv module split the rows
        for a, b in zip(layout.start[rows].tolist(), layout.stop[rows].tolist(), strict=True)
    ]


def _trimmed(fields: list[str], width: int, end: bytes, delimiter: bytes) -> list[str]:
    """A row's fields but those after `width` that are nothing but delimiters at the end of its line."""
    spare = len(end) - len(end.rstrip(delimiter))
    return fields[:width] if 0 < len(fields) - width <= spare else fields


def _without_empty_ends(text: bytes, layout: _Layout, delimiter: str, width: int) -> tuple[bytes, _Layout]:
    """The text without what spreadsheets add: delimiters after a row's last field, and rows of nothing else."""
    extra = layout.fields - width
    at = np.flatnonzero((extra > 0) | (layout.stop - layout.start == layout.fields - 1))
    if not len(at):
        return text, layout
    raw = np.frombuffer(text, np.uint8)
    extra, start, stop = np.maximum(extra[at], 0), layout.start[at], layout.stop[at]
    empty: Mask = np.ones(len(at), bool)
    for back in range(1, int(extra.max()) + 1):
        empty &= (extra < back) | (raw[np.maximum(stop - back, 0)] == ord(delimiter))
    nothing = stop - start == layout.fields[at] - 1
    cut = np.where(nothing, start, stop - np.where(empty, extra, 0))
    drop = np.zeros(len(raw) + 1, np.int64)
    np.add.at(drop, cut, 1)
    np.add.at(drop, stop, -1)
    text = raw[np.cumsum(drop)[:-1] == 0].tobytes()
    again = _layout(text, delimiter)
    assert again is not None, "quotes stay where they are"
    return text, again


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
    return _Layout(np.searchsorted(breaks, start), start, stop, fields)


def _arrow_columns(
    text: bytes, layout: _Layout, width: int, wanted: Sequence[int], delimiter: str, any_good: bool
) -> dict[int, pa.Array]:
    if not any_good:
        return {i: pa.array([], pa.string()) for i in wanted}
    names = [str(i) for i in wanted]
    quoted = b'"' in text
    table = pa_csv.read_csv(
        pa.py_buffer(memoryview(text)[layout.start[0] :]),
        pa_csv.ReadOptions(
            column_names=[str(i) for i in range(width)],
            # A row must fit into a block.
            block_size=max(1 << 22, 2 * int((layout.stop - layout.start).max())),
        ),
        pa_csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=lambda row: "skip",  # they are known already
        ),
        pa_csv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.string()),
            check_utf8=False,
            null_values=[],
            strings_can_be_null=False,
        ),
    )
    return {i: whole(table[str(i)]) for i in wanted}


def whole(column: pa.ChunkedArray) -> pa.Array:
    one = column.combine_chunks()
    return one if isinstance(one, pa.Array) else pa.concat_arrays(one.chunks)
