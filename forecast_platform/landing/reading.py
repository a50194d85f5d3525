"""From a landed file's bytes to its rows: container, format, header.

The rules that follow see columns of text only, so a CSV, its gzip, its workbook and its parquet twin mean the same.
"""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from forecast_platform.landing.content import BLOCK, Content, kept
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.files import Block, Opened, Rows, listed, setting, unreadable
from forecast_platform.landing.kinds import FORMATS, SYNONYMS, FileRefused
from forecast_platform.landing.text import HEAD, open_text
from forecast_platform.landing.typed import open_parquet, open_workbook

TEXT = (".csv", ".tsv", ".txt")
_LARGEST_UNPACKED = 8 << 30  # bytes of one archived file; more is a mistake or worse


def open_file(data: bytes | Path, key: str, dialect: Dialect, head: bool = False) -> Opened:
    """The file of that name, its header read.

    Args:
        data: its bytes, or where they lie, as long as rows are read.
        head: only the header is wanted, so no more than the beginning is unpacked.

    Raises:
        FileRefused: it is of no known format, is damaged, or has no header.
    """
    return _wide(open_table(data, key, dialect, head), dialect)


def open_table(data: bytes | Path, key: str, dialect: Dialect, head: bool = False) -> Opened:
    """The file as it is, also where its columns are weeks; see `open_file`."""
    name, content = unpacked(data, key, HEAD if head else -1)
    if name.endswith(".parquet"):
        return open_parquet(content, key, dialect)
    if name.endswith(".xlsx"):
        return open_workbook(content, key, dialect)
    suffix = next((s for s in TEXT if name.endswith(s)), ".csv")
    cut = head and len(content) >= HEAD
    return open_text(content[:HEAD] if head else content, key, suffix, dialect, cut)


def unpacked(data: bytes | Path, key: str, most: int = -1) -> tuple[str, Content]:
    """Name in lower case and bytes of a file, or of the one in an archive.

    Args:
        most: of packed texts no more bytes than this are unpacked; -1: all.

    Raises:
        FileRefused: it is of no known format, or its packing is damaged.
    """
    name = key.lower()
    if not name.endswith(FORMATS):
        raise FileRefused("unknown_format", f"{key} is none of {', '.join(FORMATS)}; save it as one of them.")
    content = Content(data)
    if name.endswith(".gz"):
        return name.removesuffix(".gz"), _gunzip(content, key, most) if len(content) else content
    return _unzip(content, key, most) if name.endswith(".zip") else (name, content)


def _gunzip(content: Content, key: str, size: int) -> Content:
    magic = b"\x1f\x8b"
    if not content[:2].startswith(magic) and not magic.startswith(content[:2]):
        raise FileRefused("not_gzip", f"{key} is named .gz but is not gzip; compress it, or drop the .gz.")
    try:
        if len(content) < len(magic):
            raise EOFError
        with gzip.GzipFile(fileobj=content.rewound()) as file:
            return kept(_parts(file, size))
    except EOFError:
        raise FileRefused(
            "truncated_gzip",
            (
                f"{key} ends in the middle of its compressed data ({len(content):,} bytes arrived); "
                "land the whole file again."
            ),
        ) from None
    except (OSError, zlib.error) as error:
        raise unreadable(key, error) from None


def _parts(file: IO[bytes] | gzip.GzipFile, size: int) -> Iterator[bytes]:
    """So many bytes of a file, or all, some at a time."""
    if size >= 0:
        yield file.read(size)
        return
    while part := file.read(BLOCK):
        yield part


def _unzip(content: Content, key: str, size: int) -> tuple[str, Content]:
    """Name and bytes of the one file in an archive."""
    try:
        with zipfile.ZipFile(content.rewound()) as archive:
            files = [f for f in archive.infolist() if not f.is_dir() and not f.filename.startswith("__MACOSX/")]
            if len(files) != 1:
                raise FileRefused(
                    "which_file",
                    f"{key} holds {len(files)} files; land an archive of one file, or the files themselves.",
                )
            name = files[0].filename.lower()
            if not name.endswith((*TEXT, ".parquet", ".xlsx")):
                raise FileRefused(
                    "unknown_format", f"{key} holds {files[0].filename}, which is no format that is read."
                )
            if files[0].file_size > _LARGEST_UNPACKED:
                raise FileRefused("too_large", f"{key} unpacks to {files[0].file_size:,} bytes; land it in parts.")
            with archive.open(files[0]) as file:
                return name, kept(_parts(file, size if name.endswith(TEXT) else -1))
    except (zipfile.BadZipFile, OSError, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise unreadable(key, error) from None


# --- names of columns


def canonical(header: Sequence[str], dialect: Dialect) -> list[str]:
    """Each column's canonical name, or its own in lower case; "" for a column to ignore."""
    plain = [name.strip().lower() for name in header]
    mapped: dict[str, str] = {}
    for name, written in dialect.columns.items():
        choices = [choice.strip().lower() for choice in written.split("|")]
        mapped |= dict.fromkeys(next(([c] for c in choices if c in plain), choices), name)
    taken = {mapped[name] for name in plain if name in mapped}
    # A canonical name means itself, unless the file also has the column mapped to it: the mapping decides.
    names = [mapped.get(name, "" if name in taken else name) for name in plain]
    if "name" not in names and "store" not in names:  # a calendar of holidays
        names = ["name" if name == "holiday" else name for name in names]
    return names


def blocks(
    file: Opened,
    dialect: Dialect,
    required: Sequence[str],
    optional: Sequence[str] | None,
    constants: Mapping[str, str] = {},
) -> Iterator[Block]:
    """The required columns and, if present, the optional ones; `optional=None` reads every named one.

    Args:
        constants: canonical name -> value in every row, instead of a column.

    Raises:
        FileRefused: a required column is missing, a wanted one is there twice, or the file is damaged.
    """
    names = canonical(file.header, dialect)
    if missing := [name for name in required if name not in names and name not in constants]:
        raise missing_columns(file.key, dialect, missing, file.header)
    wanted = {name for name in names if name} if optional is None else {*required, *optional}
    if twice := sorted({name for name in wanted if names.count(name) > 1}):
        raise FileRefused(
            "duplicate_columns",
            (
                f"{file.key} has more than one column {listed(twice)}, so which to read is unclear: "
                f"{listed(file.header)}. Rename or drop all but one."
            ),
        )
    at = {name: i for i, name in enumerate(names) if name in wanted and name not in constants}
    for rows in file.rows(list(at.values())):
        yield Block(file.key, file.header, at, rows, dialect, constants)


def missing_columns(key: str, dialect: Dialect, missing: Sequence[str], header: Sequence[str]) -> FileRefused:
    """The refusal of a file that lacks columns, with the mapping that would find them where there is one."""
    mapped = dialect.columns
    expected = [f"{name} (as {mapped[name]!r})" if name in mapped else name for name in missing]
    advice = "Map it with FORECAST_COLUMNS or use a preset."
    found = likely(header, dialect, missing)
    if found:
        columns = ", ".join(f'"{name}": "{column}"' for name, column in {**mapped, **found}.items())
        advice = f"If that is right, set FORECAST_COLUMNS={{{columns}}}."
    taken = {mapped[name].strip().lower(): name for name in mapped}
    for name in missing:
        if name in taken and name not in found:
            advice = (
                f"Its column {name!r} is read as {taken[name]}, as FORECAST_COLUMNS says; map {name} to another column."
            )
    if missing == ["store"] and "store" not in found and "store" not in taken:
        advice += f" Where all rows are of one shop, set {setting('store', '1')}."
    return FileRefused(
        "missing_columns",
        f"{key} lacks the column {listed(expected)}; it has {listed(header)}. {advice}"
        f"{delimiter_hint(header, dialect)}",
    )


def likely(header: Sequence[str], dialect: Dialect, names: Sequence[str]) -> dict[str, str]:
    """Canonical name -> the one column whose name says that it is meant, for those of `names` that have one."""
    used = set(canonical(header, dialect)) & set(SYNONYMS)
    found: dict[str, str] = {}
    for name in names:
        columns = [c.strip() for c in header if words(c) in SYNONYMS.get(name, ())]
        if len(columns) == 1 and name not in used:
            found[name] = columns[0]
    return found


def words(name: str) -> str:
    """A column's name as names are compared: in lower case, signs as blanks."""
    return re.sub(r"[\W_]+", " ", name.strip().lower()).strip()


def delimiter_hint(header: Sequence[str], dialect: Dialect) -> str:
    if len(header) == 1:
        for other in ",;\t|":
            if other in header[0] and other != dialect.delimiter:
                return f" Its fields seem to be separated by {other!r}: set FORECAST_DELIMITER."
    return ""


# --- wide files


def _wide(file: Opened, dialect: Dialect) -> Opened:
    """A file whose columns are weeks (or days), as rows of a date and a value; any other file as it is."""
    names = canonical(file.header, dialect)
    if "date" in names or "weekly_sales" in names:
        return file
    days = dialect.dates.days(pa.array([name.strip() for name in file.header], pa.string()))
    dated = np.flatnonzero(~np.isnat(days)).tolist()
    if len(dated) < 2:
        return file
    keys = [i for i in range(len(file.header)) if i not in dated]
    header = [*(file.header[i] for i in keys), "date", "weekly_sales"]
    date, value = len(keys), len(keys) + 1

    def rows(wanted: Sequence[int]) -> Iterator[Rows]:
        needed = [keys[i] for i in wanted if i < date]
        for block in file.rows([*needed, *(dated if value in wanted else [])]):
            n = len(block.line)
            # Row by row, so that lines ascend.
            row, column = np.repeat(np.arange(n), len(dated)), np.tile(np.arange(len(dated)), n)
            columns = {i: block.columns[keys[i]].take(pa.array(row)) for i in wanted if i < date}
            names = pa.array([file.header[i].strip() for i in dated], pa.string()).take(pa.array(column))
            if date in wanted:
                columns[date] = names
            if value in wanted:
                cells = pa.concat_arrays([block.columns[i] for i in dated])
                columns[value] = cells.take(pa.array(column * n + row))
            typed = {value} if all(i in block.typed for i in dated) else set()
            typed |= {i for i in wanted if i < date and keys[i] in block.typed}
            yield Rows(columns, block.line[row], block.ragged, block.records, frozenset(typed), names)

    return Opened(file.key, header, rows, wide=True)
