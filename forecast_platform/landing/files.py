"""A landed file as columns of text, whatever its format: what the readers give and the rules of rows take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.values import ISO, DateStyle, Days, NumberStyle, to_numbers


@dataclass(frozen=True)
class Rows:
    """Some consecutive rows of a file, as columns of text.

    Attributes:
        columns: position in the header -> text per row, not yet trimmed.
        line: 1-based line each row starts on, [rows].
        ragged: (line, fields) of the rows that do not fit the header; they are in no column.
        records: lines -> the whole rows as text.
        typed: positions of the columns that were numbers or dates, not text, in the file.
        open_end: the last of them, and of the file, has no line end, so that its last field may be cut short.
        cells: where a row is one cell of a line: the name of its column, per row.
    """

    columns: dict[int, pa.Array]
    line: NDArray[np.int64]
    ragged: list[tuple[int, int]]
    records: Callable[[Sequence[int]], list[str]]
    typed: frozenset[int] = frozenset()
    cells: pa.Array | None = None
    open_end: bool = False


@dataclass(frozen=True)
class Opened:
    """A file whose header is known.

    Attributes:
        header: column names as written in the file.
        rows: reads the columns at these positions, some rows at a time.
        wide: its rows are the cells of a table whose columns are weeks or days.
    """

    key: str
    header: list[str]
    rows: Callable[[Sequence[int]], Iterator[Rows]]
    wide: bool = False


@dataclass(frozen=True)
class Block:
    """Rows by the names of their columns.

    Attributes:
        names: canonical or lower-case name -> position in the header, for the columns that were read.
        constants: canonical name -> its value in every row, for the columns that the file does not have.
    """

    key: str
    header: list[str]
    names: dict[str, int]
    rows: Rows
    dialect: Dialect
    constants: Mapping[str, str]
    _texts: dict[str, pa.Array] = field(default_factory=dict)
    _days: dict[str, Days] = field(default_factory=dict)
    _numbers: dict[str, pa.Array] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Rows that fit the header."""
        return len(self.rows.line)

    def text(self, column: str) -> pa.Array:
        """A column trimmed, null where it holds a missing marker."""
        if column in self.constants:
            return pa.repeat(pa.scalar(self.constants[column], pa.string()), self.n)
        if column not in self._texts:
            trimmed = pc.utf8_trim_whitespace(self.rows.columns[self.names[column]])
            absent = pc.is_in(trimmed, pa.array(self.dialect.missing_in(column), pa.string()))
            self._texts[column] = pc.if_else(absent, pa.scalar(None, pa.string()), trimmed)
        return self._texts[column]

    def label(self, column: str) -> str:
        """The column as the file calls it."""
        return self.header[self.names[column]].strip() if column in self.names else column

    def typed(self, column: str) -> bool:
        return self.names.get(column) in self.rows.typed

    def days(self, column: str) -> Days:
        """Day of each text of a column, NaT where there is none."""
        if column not in self._days:
            self._days[column] = self.dates(column).days(self.text(column))
        return self._days[column]

    def number(self, column: str) -> pa.Array:
        """float64 of each text of a column, null where there is none."""
        if column not in self._numbers:
            self._numbers[column] = to_numbers(self.text(column), self.numbers(column))
        return self._numbers[column]

    def dates(self, column: str = "date") -> DateStyle:
        """How dates are read: those that were dates in the file are ISO."""
        style = self.dialect.dates
        return DateStyle((ISO,), style.weekday, style.times, style.zone, style.starts) if self.typed(column) else style

    def numbers(self, column: str) -> NumberStyle:
        """How numbers are read: those that were numbers in the file are plain."""
        return NumberStyle() if self.typed(column) else self.dialect.numbers


def listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(short_name, names[:20])) + more


def short_name(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


def short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")


def setting(name: str, value: str | Mapping[str, Sequence[str]]) -> str:
    """How a person sets it: `FORECAST_DECIMAL=,` (in settings.toml: decimal = ",")."""
    if not isinstance(value, str):  # names by column; a text in JSON is one in TOML
        table = ", ".join(f"{column} = {json.dumps(list(v), ensure_ascii=False)}" for column, v in value.items())
        text = json.dumps(dict(value), ensure_ascii=False)
        return f"FORECAST_{name.upper()}='{text}' (settings.toml: {name} = {{{table}}})"
    return f'FORECAST_{name.upper()}={value} (settings.toml: {name} = "{value}")'


def empty_file(key: str) -> FileRefused:
    return FileRefused("empty_file", f"{key} is empty; land it again with a header and rows.")


def no_rows(key: str) -> FileRefused:
    return FileRefused("no_rows", f"{key} holds a header and no rows; land it again with rows.")


def unreadable(key: str, error: object) -> FileRefused:
    reason = short_name(" ".join(str(error).split()))
    return FileRefused("unreadable", f"{key} is damaged: {reason}. Write it anew and land it again.")


def ignored(header: Sequence[str], names: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the columns that nothing was read from, but for those without a name and values."""
    used = set(names.values())
    return tuple(name.strip() or f"(column {i + 1})" for i, name in enumerate(header) if i not in used)
