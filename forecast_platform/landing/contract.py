"""The landing contract, version 1: the bytes of a landed file become accepted rows and rejected rows.

A file that can't be read at all raises FileRefused. In a file that can, every row ends in exactly one place:
accepted, or rejected with the first rule it breaks. Rule names are public: people filter by them.

Reading has two halves. `_read` turns any format into columns of text with a line number per row, and the
validation that follows sees nothing else, so a CSV, its gzip and its parquet twin mean the same thing.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime as dt
import functools
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecast_platform.weeks import WeekCalendar

KINDS = ("sales", "stores", "features", "calendar")
FORMATS = (".csv", ".csv.gz", ".parquet")
CANONICAL = ("store", "dept", "date", "weekly_sales", "is_holiday", "name")

SALES_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "store": pa.string(),
        "dept": pa.string(),
        "week": pa.date32(),
        "sales": pa.float64(),
        "is_holiday": pa.bool_(),
    }
)
STORES_SCHEMA = pa.schema({"line": pa.int64(), "store": pa.string(), "name": pa.string(), "value": pa.string()})
FEATURES_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "store": pa.string(),
        "dept": pa.string(),
        "week": pa.date32(),
        "name": pa.string(),
        "value": pa.float64(),
    }
)
CALENDAR_SCHEMA = pa.schema({"line": pa.int64(), "name": pa.string(), "date": pa.date32()})
REJECTED_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "rule": pa.string(),
        "column": pa.string(),
        "value": pa.string(),
        "message": pa.string(),
        "record": pa.string(),
    }
)

LARGEST = 1e12  # beyond any week's sales of one department, in any currency
_YEARS = range(1900, 2200)  # a date outside is a typing error or a placeholder
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_TRUE = pa.array(["true", "t", "yes", "y", "1"])
_FALSE = pa.array(["false", "f", "no", "n", "0"])

Mask = NDArray[np.bool_]


class FileRefused(Exception):
    """A landed file that can't be read at all.

    Attributes:
        rule: stable name of the reason, for example `truncated_gzip`.
        message: the file, what was expected and found, and how to mend it.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(rule, message)
        self.rule = rule
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} [{self.rule}]"


@dataclass(frozen=True)
class SalesContract:
    """How to read one organisation's files.

    Args:
        name: the preset it comes from.
        week_ends: weekday a week ends on, MON .. SUN.
        columns: canonical name -> name in the file, for the names that differ (case does not matter). A file
            that has no column of the mapped name may still use the canonical one.
        date_format: strptime format of dates kept as text.
        delimiter: one ASCII character.
        missing: texts that mean "no value", in any column, compared after trimming.
        encoding: Python codec of CSV files.

    Raises:
        ValueError: a field that can't work, with what to write instead.
    """

    name: str
    week_ends: str = "FRI"
    columns: Mapping[str, str] = field(default_factory=dict)
    date_format: str = "%Y-%m-%d"
    delimiter: str = ","
    missing: tuple[str, ...] = ("", "NA", "NaN", "NULL", "null")
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        object.__setattr__(self, "week_ends", WeekCalendar(ends=self.week_ends).ends)
        if unknown := sorted(set(self.columns) - set(CANONICAL)):
            raise ValueError(f"columns maps {', '.join(unknown)}; names to map are {', '.join(CANONICAL)}")
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n\0':
            raise ValueError(f"delimiter is {self.delimiter!r}; use one ASCII character such as , ; or a tab")
        try:
            whole_date = _strict_date(_EXAMPLE.strftime(self.date_format), self.date_format) == _EXAMPLE
        except ValueError:
            whole_date = False
        if not whole_date:
            raise ValueError(f"date_format {self.date_format!r} is no whole date; write it like %d/%m/%Y")
        try:
            "a".encode(self.encoding)
        except LookupError:
            raise ValueError(f"encoding {self.encoding!r} is unknown; use utf-8, cp1252 or latin-1") from None

    @classmethod
    def named(cls, name: str) -> SalesContract:
        """The preset of that name, or ValueError naming the presets."""
        if name not in PRESETS:
            raise ValueError(f"no preset is named {name!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[name]

    def replace(self, **changes: Any) -> SalesContract:
        """A copy with these fields changed; an empty text or mapping keeps this contract's own."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v})


@dataclass(frozen=True)
class Parsed:
    """What became of a file's rows: `rows == accepted_rows + len(rejected)`, always.

    Attributes:
        accepted: SALES_SCHEMA, STORES_SCHEMA, FEATURES_SCHEMA or CALENDAR_SCHEMA, in the file's order. `line`
            is the 1-based line the row starts on, counting the header and blank lines (parquet: 1-based row).
            Stores and features are long: one row per file row and attribute column.
        rejected: REJECTED_SCHEMA, one row per rejected line, by line: the first rule it breaks, where,
            what to do about it, and the whole record as text so that nothing is lost.
        ignored_columns: columns of the file that nothing was read from.
        rows: rows in the file.
        accepted_rows: rows of the file that were accepted.
    """

    accepted: pa.Table
    rejected: pa.Table
    ignored_columns: tuple[str, ...]
    rows: int
    accepted_rows: int


# --- the four kinds


def parse_sales(data: bytes, key: str, contract: SalesContract, calendar: WeekCalendar, newest_week: dt.date) -> Parsed:
    """Sales by store, department and week; a missing marker in the sales is accepted as null.

    Args:
        data: the file's bytes.
        key: its name; the extension tells the format and messages name it.
        newest_week: the last week sales may be reported for.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = _read(data, key, contract, ("store", "dept", "date", "weekly_sales"), ("is_holiday",))
    review = _Review(file)
    store, dept = review.required("store"), review.required("dept")
    week = review.weeks(calendar, newest_week)
    sales = review.numbers("weekly_sales")
    holiday = review.booleans("is_holiday") if "is_holiday" in file.names else pa.nulls(file.n, pa.bool_())
    review.duplicates([store, dept, week], [sales, holiday], "store, dept and week")
    return review.parsed(pa.table([file.line, store, dept, week, sales, holiday], SALES_SCHEMA))


def parse_stores(data: bytes, key: str, contract: SalesContract) -> Parsed:
    """Attributes of stores, long: any column beside `store` is an attribute, named in lower case.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = _read(data, key, contract, ("store",), None)
    review = _Review(file)
    store = review.required("store")
    values = {name: file.text(name) for name in file.names if name != "store"}
    review.duplicates([store], list(values.values()), "store")
    return review.parsed(_long(STORES_SCHEMA, {"line": file.line, "store": store}, values))


def parse_features(data: bytes, key: str, contract: SalesContract, calendar: WeekCalendar) -> Parsed:
    """Covariates by store (and department, when there is such a column) and week, long.

    Any column beside the keys is a covariate, named in lower case: numbers, or TRUE/FALSE as 1/0. Future
    weeks are welcome: they are covariates known ahead.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = _read(data, key, contract, ("store", "date"), None)
    names = [name for name in file.names if name not in ("store", "dept", "date")]
    if not names:
        raise _missing_columns(key, contract, ["a covariate"], file.header)
    review = _Review(file)
    store = review.required("store")
    dept = file.text("dept") if "dept" in file.names else pa.nulls(file.n, pa.string())
    week = review.weeks(calendar, None)
    values = {name: review.numbers(name, booleans=True) for name in names}
    review.duplicates([store, dept, week], list(values.values()), "store, dept and week")
    keys = {"line": file.line, "store": store, "dept": dept, "week": week}
    return review.parsed(_long(FEATURES_SCHEMA, keys, values))


def parse_calendar(data: bytes, key: str, contract: SalesContract) -> Parsed:
    """Holidays by name (column `name` or `holiday`) and date, on any weekday.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = _read(data, key, contract, ("name", "date"), ())
    review = _Review(file)
    name, date = review.required("name"), review.dates()
    review.duplicates([name, date], [], "name and date")
    return review.parsed(pa.table([file.line, name, date], CALENDAR_SCHEMA))


def weeks_in(data: bytes, key: str, contract: SalesContract, calendar: WeekCalendar) -> list[dt.date]:
    """The weeks of the calendar a file speaks of, ascending: a peek that reads the date column only.

    Dates that parse_sales would reject, and those before the calendar's first week, are left out.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = _read(data, key, contract, ("date",), ())
    days = _dates(file.text("date"), file.date_format)
    days = np.unique(days[~np.isnat(days)])
    days = days[calendar.is_week_end(days) & (days >= np.datetime64(calendar.first_week, "D"))]
    return list(days.tolist())


def kind_of(data: bytes, key: str, contract: SalesContract) -> str:
    """Which of KINDS a file is, by its header alone.

    Raises:
        FileRefused: `unknown_kind`, or the file can't be read at all.
    """
    header = (
        _parquet(data, key).schema_arrow.names
        if _format(key) == ".parquet"
        else (_csv_header(_csv_text(data, key, contract), key, contract))
    )
    names = set(_canonical(header, contract))
    if "weekly_sales" in names:
        return "sales"
    if "name" in names and "date" in names and "store" not in names:
        return "calendar"
    # What has departments may be sales whose columns are not mapped, so covariates by department must be named as such.
    if "store" in names and "dept" not in names:
        return "features" if "date" in names else "stores"
    raise FileRefused(
        "unknown_kind",
        (
            f"{key} is neither sales (store, dept, date, weekly_sales), stores (store, ...), features (store, "
            f"date, ...) nor calendar (name, date): its columns are {_listed(header)}. "
            f"Map their names with FORECAST_COLUMNS or use a preset; covariates by department go under features/."
            f"{_delimiter_hint(header, contract)}"
        ),
    )


def _long(schema: pa.Schema, keys: dict[str, Any], values: dict[str, pa.Array]) -> pa.Table:
    """One row per file row and value column, in the file's order."""
    n = len(keys["line"])
    blocks = [
        pa.table([*keys.values(), pa.repeat(pa.scalar(name, pa.string()), n), value], schema)
        for name, value in values.items()
    ]
    if not blocks:
        return schema.empty_table()
    return pa.concat_tables(blocks).take(np.arange(n * len(blocks)).reshape(len(blocks), n).T.ravel())


# --- row by row


@dataclass(frozen=True)
class _Finding:
    rule: str
    column: str
    message: Callable[[str], str]  # value -> what to do
    values: Any  # one text per row of the file: what was found there


class _Review:
    """Holds each row's verdict: the first rule it breaks, in the order the rules are asked."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self.findings: list[_Finding] = []
        self.verdict = np.full(file.n, -1, np.int32)  # index into findings, -1 = good so far

    def reject(self, rule: str, column: str, bad: Mask, message: Callable[[str], str], values: Any = None) -> None:
        """Give this rule to the rows in `bad` that broke none before."""
        new = bad & (self.verdict < 0)
        if new.any():
            self.verdict[new] = len(self.findings)
            found = self.file.text(column) if values is None else values
            self.findings.append(_Finding(rule, column, message, found))

    def required(self, column: str) -> pa.Array:
        text = self.file.text(column)
        absent = ", ".join(marker for marker in self.file.missing.to_pylist() if marker)
        message = f"{self.file.label(column)} is missing (empty or one of {absent}); every row needs one"
        self.reject(f"missing_{column}", column, _mask(pc.is_null(text)), lambda _: message)
        return text

    def dates(self) -> pa.Array:
        text = self.required("date")
        form = self.file.date_format
        days = _dates(text, form)
        self.reject(
            "bad_date",
            "date",
            np.isnat(days),
            lambda value: (
                f"{_short(value)} is not a date written like {_EXAMPLE.strftime(form)} ({form}); "
                "mend the date or set FORECAST_DATE_FORMAT"
            ),
        )
        return pa.array(days)

    def weeks(self, calendar: WeekCalendar, newest_week: dt.date | None) -> pa.Array:
        week = self.dates()
        days = week.to_numpy(zero_copy_only=False).astype("datetime64[D]")
        first = calendar.first_week

        def wrong_weekday(value: str) -> str:
            day = _strict_date(value, self.file.date_format)
            return (
                f"{day} is a {day:%A}; weeks end on {calendar.weekday_name} and the one holding it ends on "
                f"{calendar.week_of(day)}; correct the date, or set FORECAST_WEEK_ENDS if {day:%A} is right"
            )

        self.reject("wrong_weekday", "date", ~calendar.is_week_end(days), wrong_weekday)
        self.reject(
            "week_before_first",
            "date",
            days < np.datetime64(first, "D"),
            lambda value: (
                f"{_short(value)} is before {first}, the first week kept; leave it out, or set an earlier "
                "FORECAST_FIRST_WEEK"
            ),
        )
        if newest_week is not None:
            self.reject(
                "week_in_future",
                "date",
                days > np.datetime64(newest_week, "D"),
                lambda value: (
                    f"{_short(value)} is after {newest_week}, the newest week there can be sales of; correct the "
                    "date, or land the file again once that week has ended"
                ),
            )
        return week

    def numbers(self, column: str, booleans: bool = False) -> pa.Array:
        """float64, null where missing (and where rejected). `booleans` reads true/false as 1/0."""
        text = plain = self.file.text(column)
        if booleans:
            lower = pc.utf8_lower(text)
            plain = pc.if_else(pc.equal(lower, "true"), "1", pc.if_else(pc.equal(lower, "false"), "0", text))
        good = pc.match_substring_regex(plain, _NUMBER)  # null where the text is
        self.reject(
            "not_a_number",
            column,
            _mask(pc.invert(good)),
            lambda value: (
                f"{_short(value)} is not a plain number such as -1234.56; write it without currency, thousands "
                "separators or a decimal comma, and leave the field empty where nothing was reported"
            ),
        )
        number = pc.cast(pc.if_else(good, plain, pa.scalar(None, pa.string())), pa.float64())
        number = pc.add(number, 0.0)  # -0.0 is 0.0, also when rows are compared
        self.reject(
            "out_of_range",
            column,
            _mask(pc.greater(pc.abs(number), LARGEST)),
            lambda value: (
                f"{_short(value)} is beyond {LARGEST:.0e}, more than any week holds; correct it or leave it empty"
            ),
        )
        return number

    def booleans(self, column: str) -> pa.Array:
        lower = pc.utf8_lower(self.file.text(column))
        known = pc.is_in(lower, pa.concat_arrays([_TRUE, _FALSE]))
        unknown = pc.and_(pc.is_valid(lower), pc.invert(known))
        self.reject(
            "not_a_boolean",
            column,
            _mask(unknown),
            lambda value: f"{_short(value)} is neither TRUE nor FALSE; write one of them or leave the field empty",
        )
        return pc.if_else(known, pc.is_in(lower, _TRUE), pa.scalar(None, pa.bool_()))

    def duplicates(self, keys: list[pa.Array], values: list[pa.Array], what: str) -> None:
        """Among the rows good so far: copies lose to the first, rows that contradict each other all lose."""
        rows = np.flatnonzero(self.verdict < 0)
        codes = [_codes(key)[rows] for key in keys]
        order = np.lexsort(codes[::-1])  # stable, so the first line of a group comes first
        start = _changes(codes, order)
        if start.all():
            return
        group = np.cumsum(start) - 1
        sorted_rows = rows[order]
        first = sorted_rows[np.flatnonzero(start)][group]
        unlike = np.zeros(len(rows), bool)
        for value in values:
            code = _codes(value)
            unlike |= code[sorted_rows] != code[first]
        contested = np.bincount(group, unlike)[group] > 0

        # Each row is told of one other: the first of its group, or for the first itself the one after it.
        other = np.where(start, np.append(sorted_rows[1:], -1), first)
        told = np.empty(self.file.n, np.int64)
        told[sorted_rows] = self.file.line[other]
        lines = _Lines(told)
        copies = _rows_mask(self.file.n, sorted_rows[~start & ~contested])
        self.reject(
            "duplicate_row",
            "",
            copies,
            lambda value: f"an exact copy of {value} ({what}), which was kept; nothing is lost, remove the copy",
            lines,
        )
        conflicts = _rows_mask(self.file.n, sorted_rows[contested])
        self.reject(
            "conflicting_duplicate",
            "",
            conflicts,
            lambda value: (
                f"same {what} as {value} but other values; nobody can tell which is right, so none was taken; "
                "keep the right one and land the file again"
            ),
            lines,
        )

    def parsed(self, table: pa.Table) -> Parsed:
        """`table` without the rejected rows, and those. Its `line` ties a long table to the file's rows."""
        file, good = self.file, self.verdict < 0
        if not good.all():
            table = table.filter(pc.is_in(table["line"], pa.array(file.line[good])))
        rejected = [
            (
                line,
                "wrong_column_count",
                "",
                str(fields),
                (
                    f"{fields} fields where the header has {len(file.header)}; quote fields that hold the "
                    "delimiter or a line break"
                ),
            )
            for line, fields in file.ragged
        ]
        for i, finding in enumerate(self.findings):
            rows = np.flatnonzero(self.verdict == i)
            message = functools.cache(finding.message)  # a whole file can be wrong in one way
            values = [value or "" for value in finding.values.take(rows).to_pylist()]
            for line, value in zip(file.line[rows].tolist(), values, strict=True):
                rejected.append((line, finding.rule, finding.column, value, message(value)))
        rejected.sort()
        columns = [list(column) for column in zip(*rejected, strict=True)] or [[]] * 5
        columns.append(file.records(columns[0]) if rejected else [])
        return Parsed(
            accepted=table,
            rejected=pa.table(columns, REJECTED_SCHEMA),
            ignored_columns=file.ignored,
            rows=file.n + len(file.ragged),
            accepted_rows=int(good.sum()),
        )


class _Lines:
    """Line numbers that look like an Arrow column of texts "line 7", written out only where asked for."""

    def __init__(self, number: NDArray[np.int64]) -> None:
        self.number = number

    def take(self, rows: NDArray[np.int64]) -> pa.Array:
        return pa.array([f"line {n}" for n in self.number[rows].tolist()], pa.string())


def _mask(condition: pa.Array) -> Mask:
    """Where the condition holds; null counts as no."""
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=bool)


def _rows_mask(n: int, rows: NDArray[np.int64]) -> Mask:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return mask


def _codes(values: pa.Array) -> NDArray[np.int32]:
    """A small integer for each distinct value; -1 for null."""
    return np.asarray(pc.fill_null(pc.dictionary_encode(values).indices, -1))


def _changes(codes: list[NDArray[np.int32]], order: NDArray[np.int64]) -> Mask:
    """Where, in this order, any code differs from the row before. The first row does."""
    change = np.ones(len(order), bool)
    if len(order):
        change[1:] = False
        for code in codes:
            change[1:] |= np.diff(code[order]) != 0
    return change


# --- dates

_EXAMPLE = dt.date(2012, 10, 26)
_ISO = "%Y-%m-%d"


def _strict_date(text: str, form: str) -> dt.date:
    """The date `text` writes in `form`, or ValueError. A time of day other than midnight is not a date."""
    moment = dt.datetime.strptime(text, form)  # noqa: DTZ007 - a date has no zone
    if moment.time() != dt.time() or moment.year not in _YEARS:
        raise ValueError(f"{text} is no date of the years {_YEARS.start} to {_YEARS.stop - 1}")
    return moment.date()


@functools.cache
def _shape(form: str) -> str:
    """Pattern that any date in this format matches, so that strptime need not look at garbage."""
    digits = {"Y": "(19|2[01])[0-9]{2}", "y": "[0-9]{2}", "m": "[0-9]{1,2}", "d": "[0-9]{1,2}"}
    pattern = ""
    for directive, literal in re.findall(r"%(.)|([^%])", form):
        pattern += digits.get(directive, "[ -~]{1,20}") if directive else re.escape(literal)
    return f"^{pattern}$"


def _dates(text: pa.Array, form: str) -> NDArray[np.datetime64]:
    """Day of each text, NaT where it is null or no date.

    strptime runs once per distinct text that has a date's shape: a file has few, however many rows.
    """
    encoded = pc.dictionary_encode(text)
    distinct = encoded.dictionary
    days = np.full(len(distinct) + 1, np.datetime64("NaT", "D"))  # the last one stands for null
    for i in np.flatnonzero(_mask(pc.match_substring_regex(distinct, _shape(form)))).tolist():
        with contextlib.suppress(ValueError):  # 30 February has the shape of a date, and stays NaT
            days[i] = np.datetime64(_strict_date(distinct[i].as_py(), form), "D")
    return np.asarray(days[np.asarray(pc.fill_null(encoded.indices, -1))])


# --- bytes to text


@dataclass(frozen=True)
class _File:
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


def _read(
    data: bytes, key: str, contract: SalesContract, required: Sequence[str], optional: Sequence[str] | None
) -> _File:
    """Read the required columns and, if present, the optional ones; `optional=None` reads every named one."""
    reader: Callable[[bytes, str, SalesContract, _Select], _File]
    reader = _read_parquet if _format(key) == ".parquet" else _read_csv

    def select(header: list[str]) -> dict[str, int]:
        names = _canonical(header, contract)
        if missing := [name for name in required if name not in names]:
            raise _missing_columns(key, contract, missing, header)
        wanted = {name for name in names if name} if optional is None else {*required, *optional}
        if twice := sorted({name for name in wanted if names.count(name) > 1}):
            raise FileRefused(
                "duplicate_columns",
                (
                    f"{key} has more than one column {_listed(twice)}, so which to read is unclear: "
                    f"{_listed(header)}. Rename or drop all but one."
                ),
            )
        return {name: i for i, name in enumerate(names) if name in wanted}

    return reader(data, key, contract, select)


_Select = Callable[[list[str]], dict[str, int]]


def _format(key: str) -> str:
    for suffix in FORMATS:
        if key.lower().endswith(suffix):
            return suffix
    raise FileRefused("unknown_format", f"{key} is none of {', '.join(FORMATS)}; save it as one of them.")


def _canonical(header: Sequence[str], contract: SalesContract) -> list[str]:
    """Each column's canonical name, or its own in lower case; "" for a column to ignore."""
    plain = [name.strip().lower() for name in header]
    mapped = {name.strip().lower(): canonical for canonical, name in contract.columns.items()}
    taken = {mapped[name] for name in plain if name in mapped}
    # A canonical name means itself, unless the file also has the column mapped to it: the mapping decides.
    names = [mapped.get(name, "" if name in taken else name) for name in plain]
    if "name" not in names and "store" not in names:  # a calendar of holidays
        names = ["name" if name == "holiday" else name for name in names]
    return names


def _ignored(header: list[str], names: Mapping[str, int]) -> tuple[str, ...]:
    used = set(names.values())
    return tuple(name.strip() or f"(column {i + 1})" for i, name in enumerate(header) if i not in used)


def _missing_columns(key: str, contract: SalesContract, missing: Sequence[str], header: Sequence[str]) -> FileRefused:
    mapped = contract.columns
    expected = [f"{name} (as {mapped[name]!r})" if name in mapped else name for name in missing]
    return FileRefused(
        "missing_columns",
        (
            f"{key} lacks the column {_listed(expected)}; it has {_listed(header)}. "
            f"Map it with FORECAST_COLUMNS or use a preset.{_delimiter_hint(header, contract)}"
        ),
    )


def _delimiter_hint(header: Sequence[str], contract: SalesContract) -> str:
    if len(header) == 1:
        for other in ",;\t|":
            if other in header[0] and other != contract.delimiter:
                return f" Its fields seem to be separated by {other!r}: set FORECAST_DELIMITER."
    return ""


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(_short_name, names[:20])) + more


def _short_name(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")


# --- CSV


def _csv_text(data: bytes, key: str, contract: SalesContract) -> bytes:
    """The file's text as UTF-8 with \\n line ends, no BOM; refused when there is none."""
    if _format(key) == ".csv.gz" and data:
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
    reason = _short_name(" ".join(str(error).split()))
    return FileRefused("unreadable", f"{key} is damaged: {reason}. Write it anew and land it again.")


def _csv_rows(text: bytes, key: str, contract: SalesContract) -> Iterator[tuple[int, list[str]]]:
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


def _csv_header(text: bytes, key: str, contract: SalesContract) -> list[str]:
    return next(_csv_rows(text, key, contract))[1]


@dataclass(frozen=True)
class _Layout:
    """Where the rows of a CSV text lie, the header first: four arrays over the rows that are not blank."""

    line: NDArray[np.int64]  # the row starts on
    start: NDArray[np.int64]  # byte
    stop: NDArray[np.int64]  # byte after the last
    fields: NDArray[np.int64]


def _read_csv(data: bytes, key: str, contract: SalesContract, select: _Select) -> _File:
    text = _csv_text(data, key, contract)
    header = _csv_header(text, key, contract)
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

    return _File(
        key,
        header,
        names,
        _ignored(header, names),
        columns,
        line[good],
        list(zip(line[~good].tolist(), layout.fields[1:][~good].tolist(), strict=True)),
        records,
        contract.date_format,
        pa.array(contract.missing, pa.string()),
    )


def _split(
    text: bytes, width: int, names: dict[str, int], key: str, contract: SalesContract
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
    text: bytes, layout: _Layout, width: int, names: dict[str, int], contract: SalesContract, any_good: bool
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


def _parquet(data: bytes, key: str) -> pq.ParquetFile:
    if not data:
        raise FileRefused("empty_file", f"{key} is empty; land it again with rows.")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        file.schema_arrow.names  # decodes them  # noqa: B018
        return file
    except Exception as error:  # damaged bytes surface as almost any error
        raise _unreadable(key, error) from None


def _read_parquet(data: bytes, key: str, contract: SalesContract, select: _Select) -> _File:
    file = _parquet(data, key)
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
    return _File(
        key,
        schema.names,
        names,
        _ignored(schema.names, names),
        columns,
        np.arange(1, table.num_rows + 1),
        [],
        records,
        _ISO if typed else contract.date_format,
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
        whole = _mask(pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**53)))
        digits = pc.cast(pc.cast(pc.if_else(pa.array(whole), values, None), pa.int64()), pa.string())
        text = pc.if_else(pa.array(whole), digits, text)
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.string()), text)
    return pc.cast(values, pa.string())


PRESETS: dict[str, SalesContract] = {
    "canonical": SalesContract("canonical"),
    "walmart": SalesContract(
        "walmart",
        columns={
            "store": "Store",
            "dept": "Dept",
            "date": "Date",
            "weekly_sales": "Weekly_Sales",
            "is_holiday": "IsHoliday",
        },
        date_format="%d/%m/%Y",
    ),
}
