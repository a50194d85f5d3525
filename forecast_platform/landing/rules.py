"""The rules of rows: every row of a landed file is accepted, or rejected with the first rule it breaks.

A file that can't be read at all raises FileRefused. Rule names are public: people filter by them.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.kinds import (
    CALENDAR_SCHEMA,
    FEATURES_SCHEMA,
    REJECTED_SCHEMA,
    SALES_SCHEMA,
    STORES_SCHEMA,
    FileRefused,
    Parsed,
)
from forecast_platform.landing.reading import (
    File,
    canonical,
    csv_header,
    csv_text,
    delimiter_hint,
    format_of,
    listed,
    missing_columns,
    open_parquet,
    read_columns,
    short,
)
from forecast_platform.landing.values import EXAMPLE, Mask, mask, strict_date, to_days
from forecast_platform.weeks import WeekCalendar

LARGEST = 1e12  # beyond any week's sales of one department, in any currency
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_TRUE = pa.array(["true", "t", "yes", "y", "1"])
_FALSE = pa.array(["false", "f", "no", "n", "0"])


def parse(kind: str, data: bytes, key: str, dialect: Dialect, calendar: WeekCalendar, newest_week: dt.date) -> Parsed:
    """The rows of a file of that kind.

    Raises:
        FileRefused: the file can't be read at all.
    """
    if kind == "sales":
        return parse_sales(data, key, dialect, calendar, newest_week)
    if kind == "features":
        return parse_features(data, key, dialect, calendar)
    return parse_stores(data, key, dialect) if kind == "stores" else parse_calendar(data, key, dialect)


# --- the four kinds


def parse_sales(data: bytes, key: str, contract: Dialect, calendar: WeekCalendar, newest_week: dt.date) -> Parsed:
    """Sales by store, department and week; a missing marker in the sales is accepted as null.

    Args:
        data: the file's bytes.
        key: its name; the extension tells the format and messages name it.
        newest_week: the last week sales may be reported for.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = read_columns(data, key, contract, ("store", "dept", "date", "weekly_sales"), ("is_holiday",))
    review = _Review(file)
    store, dept = review.required("store"), review.required("dept")
    week = review.weeks(calendar, newest_week)
    sales = review.numbers("weekly_sales")
    holiday = review.booleans("is_holiday") if "is_holiday" in file.names else pa.nulls(file.n, pa.bool_())
    review.duplicates([store, dept, week], [sales, holiday], "store, dept and week")
    return review.parsed(pa.table([file.line, store, dept, week, sales, holiday], SALES_SCHEMA))


def parse_stores(data: bytes, key: str, contract: Dialect) -> Parsed:
    """Attributes of stores, long: any column beside `store` is an attribute, named in lower case.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = read_columns(data, key, contract, ("store",), None)
    review = _Review(file)
    store = review.required("store")
    values = {name: file.text(name) for name in file.names if name != "store"}
    review.duplicates([store], list(values.values()), "store")
    return review.parsed(_long(STORES_SCHEMA, {"line": file.line, "store": store}, values))


def parse_features(data: bytes, key: str, contract: Dialect, calendar: WeekCalendar) -> Parsed:
    """Covariates by store (and department, when there is such a column) and week, long.

    Any column beside the keys is a covariate, named in lower case: numbers, or TRUE/FALSE as 1/0. Future
    weeks are welcome: they are covariates known ahead.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = read_columns(data, key, contract, ("store", "date"), None)
    names = [name for name in file.names if name not in ("store", "dept", "date")]
    if not names:
        raise missing_columns(key, contract, ["a covariate"], file.header)
    review = _Review(file)
    store = review.required("store")
    dept = file.text("dept") if "dept" in file.names else pa.nulls(file.n, pa.string())
    week = review.weeks(calendar, None)
    values = {name: review.numbers(name, booleans=True) for name in names}
    review.duplicates([store, dept, week], list(values.values()), "store, dept and week")
    keys = {"line": file.line, "store": store, "dept": dept, "week": week}
    return review.parsed(_long(FEATURES_SCHEMA, keys, values))


def parse_calendar(data: bytes, key: str, contract: Dialect) -> Parsed:
    """Holidays by name (column `name` or `holiday`) and date, on any weekday.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = read_columns(data, key, contract, ("name", "date"), ())
    review = _Review(file)
    name, date = review.required("name"), review.dates()
    review.duplicates([name, date], [], "name and date")
    return review.parsed(pa.table([file.line, name, date], CALENDAR_SCHEMA))


def weeks_in(data: bytes, key: str, contract: Dialect, calendar: WeekCalendar) -> list[dt.date]:
    """The weeks of the calendar a file speaks of, ascending: a peek that reads the date column only.

    Dates that parse_sales would reject, and those before the calendar's first week, are left out.

    Raises:
        FileRefused: the file can't be read at all.
    """
    file = read_columns(data, key, contract, ("date",), ())
    days = to_days(file.text("date"), file.date_format)
    days = np.unique(days[~np.isnat(days)])
    days = days[calendar.is_week_end(days) & (days >= np.datetime64(calendar.first_week, "D"))]
    return list(days.tolist())


def kind_of(data: bytes, key: str, contract: Dialect) -> str:
    """Which of KINDS a file is, by its header alone.

    Raises:
        FileRefused: `unknown_kind`, or the file can't be read at all.
    """
    header = (
        open_parquet(data, key).schema_arrow.names
        if format_of(key) == ".parquet"
        else (csv_header(csv_text(data, key, contract), key, contract))
    )
    names = set(canonical(header, contract))
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
            f"date, ...) nor calendar (name, date): its columns are {listed(header)}. "
            f"Map their names with FORECAST_COLUMNS or use a preset; covariates by department go under features/."
            f"{delimiter_hint(header, contract)}"
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

    def __init__(self, file: File) -> None:
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
        self.reject(f"missing_{column}", column, mask(pc.is_null(text)), lambda _: message)
        return text

    def dates(self) -> pa.Array:
        text = self.required("date")
        form = self.file.date_format
        days = to_days(text, form)
        self.reject(
            "bad_date",
            "date",
            np.isnat(days),
            lambda value: (
                f"{short(value)} is not a date written like {EXAMPLE.strftime(form)} ({form}); "
                "mend the date or set FORECAST_DATE_FORMAT"
            ),
        )
        return pa.array(days)

    def weeks(self, calendar: WeekCalendar, newest_week: dt.date | None) -> pa.Array:
        week = self.dates()
        days = week.to_numpy(zero_copy_only=False).astype("datetime64[D]")
        first = calendar.first_week

        def wrong_weekday(value: str) -> str:
            day = strict_date(value, self.file.date_format)
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
                f"{short(value)} is before {first}, the first week kept; leave it out, or set an earlier "
                "FORECAST_FIRST_WEEK"
            ),
        )
        if newest_week is not None:
            self.reject(
                "week_in_future",
                "date",
                days > np.datetime64(newest_week, "D"),
                lambda value: (
                    f"{short(value)} is after {newest_week}, the newest week there can be sales of; correct the "
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
            mask(pc.invert(good)),
            lambda value: (
                f"{short(value)} is not a plain number such as -1234.56; write it without currency, thousands "
                "separators or a decimal comma, and leave the field empty where nothing was reported"
            ),
        )
        number = pc.cast(pc.if_else(good, plain, pa.scalar(None, pa.string())), pa.float64())
        number = pc.add(number, 0.0)  # -0.0 is 0.0, also when rows are compared
        self.reject(
            "out_of_range",
            column,
            mask(pc.greater(pc.abs(number), LARGEST)),
            lambda value: (
                f"{short(value)} is beyond {LARGEST:.0e}, more than any week holds; correct it or leave it empty"
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
            mask(unknown),
            lambda value: f"{short(value)} is neither TRUE nor FALSE; write one of them or leave the field empty",
        )
        return pc.if_else(known, pc.is_in(lower, _TRUE), pa.scalar(None, pa.bool_()))

    def duplicates(self, keys: list[pa.Array], values: list[pa.Array], what: str) -> None:
        """Among the rows good so far: copies lose to the first, rows that contradict each other all lose."""
        rows = np.flatnonzero(self.verdict < 0)
        groups = [codes(key)[rows] for key in keys]
        order = np.lexsort(groups[::-1])  # stable, so the first line of a group comes first
        start = _changes(groups, order)
        if start.all():
            return
        group = np.cumsum(start) - 1
        sorted_rows = rows[order]
        first = sorted_rows[np.flatnonzero(start)][group]
        unlike = np.zeros(len(rows), bool)
        for value in values:
            code = codes(value)
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


def _rows_mask(n: int, rows: NDArray[np.int64]) -> Mask:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return mask


def codes(values: pa.Array) -> NDArray[np.int32]:
    """A small integer for each distinct value; -1 for null."""
    return np.asarray(pc.fill_null(pc.dictionary_encode(values).indices, -1))


def _changes(groups: list[NDArray[np.int32]], order: NDArray[np.int64]) -> Mask:
    """Where, in this order, any code differs from the row before. The first row does."""
    change = np.ones(len(order), bool)
    if len(order):
        change[1:] = False
        for code in groups:
            change[1:] |= np.diff(code[order]) != 0
    return change
