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

from forecast_platform.landing.content import BLOCK, Content, kept
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.files import Opened, Rows, empty_file, no_rows, setting, unreadable
from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.values import Mask

HEAD = 1 << 20  # bytes that hold any header
_LONGEST = 1 << 30  # bytes from one line end outside of quotes to the next

_MARKS = (  # of Unicode, at the start of a file; the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_text(data: bytes | Content, key: str, suffix: str, dialect: Dialect, head: bool = False) -> Opened:
    """The text of a file whose name ends in `suffix`.

    Args:
        head: the data are the file's beginning only, and may end anywhere.

    Raises:
        FileRefused: there is no text, or no header in it.
    """
    text = _utf8(Content(data), key, dialect, head)
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
        first = text[start : start + HEAD].lstrip().partition(b"\n")[0]
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


def _utf8(data: Content, key: str, dialect: Dialect, head: bool) -> Content:
    """The text as UTF-8 with \\n line ends, without a mark; refused when there is none. What is so already stays where
    it lies."""
    begin = data[:4]
    encoding = next((name for mark, name in _MARKS if begin.startswith(mark)), dialect.encoding or "utf-8")
    plain, blank = encoding in ("utf-8", "utf-8-sig"), True
    for block in _decoded(data, key, encoding, head):
        plain &= b"\r" not in block
        blank &= not block.strip()
        if not plain and not blank:
            break
    if blank:
        raise empty_file(key)
    if plain:
        return Content(data, len(codecs.BOM_UTF8) if begin.startswith(codecs.BOM_UTF8) else 0)
    return kept(_with_line_ends(_decoded(data, key, encoding, head)))


def _decoded(data: Content, key: str, encoding: str, head: bool) -> Iterator[bytes]:
    """The text as UTF-8 without a mark, block by block."""
    decoder = codecs.getincrementaldecoder("utf-8" if encoding == "utf-8-sig" else encoding)()
    utf8 = encoding in ("utf-8", "utf-8-sig")
    done = lines = 0
    for part, last in _and_last(data.blocks()):
        waiting = decoder.getstate()[0]
        if utf8 and not waiting and part.isascii():
            text = part
        else:
            try:
                decoded = decoder.decode(part, final=last and not head)
            except UnicodeError as error:
                at = done - len(waiting) + getattr(error, "start", 0)
                lines += (waiting + part).count(b"\n", 0, getattr(error, "start", 0)) - waiting.count(b"\n")
                raise _not_that_encoding(data, key, encoding, at, lines + 1) from None
            text = decoded.encode("utf-8", "replace")
        if not done:
            text = text.removeprefix(codecs.BOM_UTF8)
        done, lines = done + len(part), lines + part.count(b"\n")
        yield text


def _and_last(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each with whether it is the last one."""
    before = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    yield before or b"", True


def _with_line_ends(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Every line end as \\n."""
    cut = b""
    for block in blocks:
        block = cut + block
        cut = b"\r" if block.endswith(b"\r") else b""
        yield block.removesuffix(cut).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield b"\n" if cut else b""


def _not_that_encoding(data: Content, key: str, encoding: str, at: int, line: int) -> FileRefused:
    if data[:2] == b"\x1f\x8b":
        advice = "It looks compressed: name it .gz."
    elif data[:4] == b"PK\x03\x04":
        advice = "It looks like a workbook or a zip archive: name it .xlsx or .zip."
    elif encoding.startswith("utf-8") and b"\0" in data[:200]:
        advice = f"It looks like UTF-16: save it as UTF-8, or set {setting('encoding', 'utf-16')}."
    else:
        advice = f"Save it as UTF-8, or say how it was written, for example {setting('encoding', 'cp1252')}."
    name = "utf-8" if encoding == "utf-8-sig" else encoding
    return FileRefused(
        "encoding", f"{key} is not {name}: line {line}, byte {at} of the file ({data[at : at + 4]!r}). {advice}"
    )


def csv_rows(text: bytes, key: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
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
    for _, last, fields in csv_rows(text, key, delimiter):
        return fields, last
    raise no_rows(key)


def _blocks(
    text: Content, start: int, line: int, key: str, delimiter: str, width: int, wanted: Sequence[int]
) -> Iterator[Rows]:
    """The rows from byte `start` on, which is where `line` starts; blocks without a row are left out."""
    open_end = not text[len(text) - 1 :].endswith(b"\n")
    while start < len(text):
        block = _up_to_a_row_end(text, start, key)
        split = _split(block, key, delimiter, width)
        if split[2] is not None and start + len(block) < len(text):  # where rows end is not told by counting quotes
            block = text[start:]
            split = _split(block, key, delimiter, width)
        stop = start + len(block)

        def records(lines: Sequence[int], start: int = start, stop: int = stop, first: int = line) -> list[str]:
            return _records(text[start:stop], lines, first, key, delimiter, width)

        rows = _rows(split, line, delimiter, width, wanted, records)
        if rows is not None:
            yield replace(rows, open_end=stop == len(text) and open_end)
        line += block.count(b"\n")
        start = stop


def _up_to_a_row_end(text: Content, start: int, key: str) -> bytes:
    """A block from there on, up to a line end that no quoted field goes across, or to the text's end."""
    size = BLOCK
    while start + size < len(text):
        block = text[start : start + size]
        stop = block.rfind(b"\n") + 1
        while stop > 0:
            if block.count(b'"', 0, stop) % 2 == 0:
                return block[:stop]
            stop = block.rfind(b"\n", 0, stop - 1) + 1
        size *= 2
        if size > _LONGEST:
            raise unreadable(key, f"no row ends in {_LONGEST:,} bytes from byte {start:,} on; is a quote left open?")
    return text[start:]


@dataclass(frozen=True)
class _Layout:
    """Where the rows of a text lie: four arrays over the rows that are not blank."""

    line: NDArray[np.int64]  # the row starts on, the first being 0
    start: NDArray[np.int64]  # byte
    stop: NDArray[np.int64]  # byte after the last
    fields: NDArray[np.int64]


def _split(text: bytes, key: str, delimiter: str, width: int) -> tuple[bytes, _Layout, list[list[str]] | None]:
    """A block's text, where its rows lie in it, and their fields where they had to be split one by one."""
    layout = layout_of(text, delimiter)
    if layout is not None:
        return *_without_empty_ends(text, layout, delimiter, width), None
    # Quotes in odd places, 5" pipe: the csv module has customs for them, at a tenth of the speed.
    lines = text.split(b"\n")
    found = [
        (line - 1, _trimmed(fields, width, lines[last - 1], delimiter.encode()))
        for line, last, fields in csv_rows(text, key, delimiter)
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
    again = layout_of(text, delimiter)
    assert again is not None, "quotes stay where they are"
    return text, again


def layout_of(text: bytes, delimiter: str) -> _Layout | None:
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
