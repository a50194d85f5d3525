"""The rules of rows: every row of a landed file is accepted, or rejected with the first rule it breaks.

A file that can't be read at all, or that misleads as a whole (judgement.py), raises FileRefused. Rule names are public:
people filter by them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecast_platform.history.panel import LARGEST
from forecast_platform.landing.aggregation import Weeks
from forecast_platform.landing.by_week import ByWeek, has_twins
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.files import Block, Opened, ignored, listed, setting, short
from forecast_platform.landing.identity import normal_form
from forecast_platform.landing.judgement import Profile
from forecast_platform.landing.kinds import (
    CALENDAR_SCHEMA,
    DEPARTMENTS_SCHEMA,
    FEATURES_SCHEMA,
    REJECTED_SCHEMA,
    SALES_SCHEMA,
    STORES_SCHEMA,
    FileRefused,
    Parsed,
)
from forecast_platform.landing.reading import blocks, canonical, delimiter_hint, likely, missing_columns, open_file
from forecast_platform.landing.totals import totals
from forecast_platform.landing.values import Mask, example, has_zone, mask, tidy, to_flags, to_numbers
from forecast_platform.weeks import WeekCalendar

_KEY = ("store", "dept", "week")
_LOOK = 100_000  # rows that are there twice in which is looked for what tells them apart
ONE_DEPARTMENT = "all"  # where a file has no departments


def parse(
    kind: str, data: bytes | Path, key: str, dialect: Dialect, calendar: WeekCalendar, newest_week: dt.date
) -> Parsed:
    """The rows of a file of that kind.

    Args:
        data: the file's bytes, or where they lie.
        key: its name; the extension tells the format and messages name it.
        newest_week: the last week sales may be reported for.

    Raises:
        FileRefused: the file can't be read, or is not what it seems.
    """
    if kind == "sales":
        return parse_sales(data, key, dialect, calendar, newest_week)
    if kind == "features":
        return parse_features(data, key, dialect, calendar)
    if kind == "departments":
        return parse_departments(data, key, dialect)
    return parse_stores(data, key, dialect) if kind == "stores" else parse_calendar(data, key, dialect)


# --- the four kinds


def parse_sales(data: bytes | Path, key: str, dialect: Dialect, calendar: WeekCalendar, newest_week: dt.date) -> Parsed:
    """Sales by store, department and week; a missing marker in the sales is accepted as null. See `parse`.

    With `aggregate = "sum"` the rows are days or transactions, and become the weeks that they fill.
    """
    file = open_file(data, key, dialect)
    constants, notes = constants_of(file, dialect)
    profile = Profile(key, dialect, calendar)
    review = _Review(file, dialect)
    weeks = Weeks(calendar, newest_week) if dialect.aggregate == "sum" else None
    kept = ByWeek()
    for block in blocks(file, dialect, ("store", "dept", "date", "weekly_sales"), ("is_holiday",), constants):
        if profile.add(block):
            profile.check()
        rows = _Rows(block)
        store, dept = rows.key("store"), rows.key("dept")
        day = rows.days(newest_week, calendar) if weeks else rows.weeks(calendar, newest_week)
        sales = rows.numbers("weekly_sales")
        holiday = rows.flags("is_holiday") if "is_holiday" in block.names else pa.nulls(block.n, pa.bool_())
        rows.finished()
        frame = review.take(rows, pa.table([rows.line, store, dept, day, sales, holiday], SALES_SCHEMA))
        (weeks or kept).add(frame)
    profile.check()
    rows_accepted, splits = len(kept), list[str]()
    if weeks:
        rows_accepted, waiting, more = weeks.whole(kept)
        notes = [*notes, *more]
        review.reject_lines("week_incomplete", waiting, "{} is not whole; it waits: land it again with the whole week")
    elif dialect.aggregate == "last":
        for week in filter(functools.partial(has_twins, kept), kept.weeks):
            kept.replace(week, _last(kept.of(week)))
    else:
        twice = _without_twins(kept, review)
        splits = _splits(file, dialect, twice) if len(twice) else []
        rows_accepted = len(kept)
    for label, why, sums in _without_totals(kept, dialect):
        if weeks:
            notes = [*notes, f"{label} {why}: left out"]
        else:
            told = zip(sums["line"].to_pylist(), _cells(file, sums, np.arange(len(sums))), strict=True)
            message = why.replace("{", "{{").replace("}", "}}")
            review.reject_lines("total_row", [(*at, label) for at in told], f"{{}} {message}, and left out")
            rows_accepted -= len(sums)
    return review.parsed(kept, rows_accepted, [*notes, *review.notes], splits)


def _without_twins(rows: ByWeek, review: _Review) -> pa.Table:
    """Reject the rows that are there twice, and give them back."""
    found = [SALES_SCHEMA.empty_table()]
    for week in rows.weeks:
        if has_twins(rows, week):
            frame = rows.of(week)
            twice = review.duplicates(frame, _KEY, ("sales", "is_holiday"), "store, dept and week")
            found.append(frame.take(pa.array(twice)))
            rows.replace(week, _without(frame, twice))
    return pa.concat_tables(found)


def _without_totals(rows: ByWeek, dialect: Dialect) -> Iterator[tuple[str, str, pa.Table]]:
    """Take out the rows of sums that the dialect leaves out, and give them back: whose they are, why, and the rows."""
    if dialect.totals in ("refuse", "keep"):
        return
    for column, names in dialect.sums.items():
        for name in names:
            if len(sums := _without_name(rows, column, name)):
                yield f"{column} {name!r}", "is named as a sum by FORECAST_TOTALS", sums
    for total in totals(rows):
        if total.said and len(sums := _without_name(rows, total.column, total.name)):
            yield total.label, f"is {total.what}", sums


def _without_name(rows: ByWeek, column: str, name: str) -> pa.Table:
    out = [SALES_SCHEMA.empty_table()]
    at = pc.index(rows.names(column), name).as_py()
    for week in rows.weeks if at >= 0 else ():
        if len(sums := np.flatnonzero(rows.coded(week)[column].combine_chunks().to_numpy() == at)):
            frame = rows.of(week)
            out.append(frame.take(pa.array(sums)))
            rows.replace(week, _without(frame, sums))
    return pa.concat_tables(out)


def parse_stores(data: bytes | Path, key: str, dialect: Dialect) -> Parsed:
    """Attributes of stores, long: any column beside `store` is an attribute, named in lower case. See `parse`."""
    return _parse_attributes(data, key, dialect, "store", STORES_SCHEMA)


def parse_departments(data: bytes | Path, key: str, dialect: Dialect) -> Parsed:
    """Attributes of departments, as parse_stores those of stores."""
    return _parse_attributes(data, key, dialect, "dept", DEPARTMENTS_SCHEMA)


def _parse_attributes(data: bytes | Path, key: str, dialect: Dialect, of: str, schema: pa.Schema) -> Parsed:
    file = open_file(data, key, dialect)
    names = [name for name in canonical(file.header, dialect) if name not in (of, "")]
    review = _Review(file, dialect)
    frames = []
    for block in blocks(file, dialect, (of,), None):
        rows = _Rows(block)
        values = [rows.line, rows.key(of), *(block.text(n) for n in names)]
        frames.append(review.take(rows, pa.table(values, ["line", of, *names])))
    frame = pa.concat_tables(frames).combine_chunks()
    frame = _without(frame, review.duplicates(frame, (of,), names, "department" if of == "dept" else of))
    return review.parsed(_long(schema, frame, ("line", of), names), len(frame))


def parse_features(data: bytes | Path, key: str, dialect: Dialect, calendar: WeekCalendar) -> Parsed:
    """Covariates by store (and department, when there is such a column) and week, long. See `parse`.

    Any column beside the keys is a covariate, named in lower case: numbers, or TRUE/FALSE as 1/0. Future
    weeks are welcome: they are covariates known ahead.
    """
    file = open_file(data, key, dialect)
    named = canonical(file.header, dialect)
    names = [name for name in named if name not in ("store", "dept", "date", "")]
    if not names:
        raise missing_columns(key, dialect, ["a covariate"], file.header)
    review = _Review(file, dialect)
    frames = []
    for block in blocks(file, dialect, ("store", "date"), None):
        rows = _Rows(block)
        store = rows.key("store")
        dept = rows.spelled("dept") if "dept" in named else pa.nulls(block.n, pa.string())
        week = rows.weeks(calendar, None)
        values = [rows.numbers(name, booleans=True) for name in names]
        rows.finished()
        columns = ["line", "store", "dept", "week", *names]
        frames.append(review.take(rows, pa.table([rows.line, store, dept, week, *values], columns)))
    frame = pa.concat_tables(frames).combine_chunks()
    frame = _without(frame, review.duplicates(frame, ("store", "dept", "week"), names, "store, dept and week"))
    return review.parsed(_long(FEATURES_SCHEMA, frame, ("line", "store", "dept", "week"), names), len(frame))


def parse_calendar(data: bytes | Path, key: str, dialect: Dialect) -> Parsed:
    """Holidays by name (column `name` or `holiday`) and date, on any weekday. See `parse`."""
    dialect = dataclasses.replace(dialect, week_label="end")  # a holiday is a day, and names no week by its start
    file = open_file(data, key, dialect)
    review = _Review(file, dialect)
    frames = []
    for block in blocks(file, dialect, ("name", "date"), ()):
        rows = _Rows(block)
        name, date = rows.required("name"), rows.dates()
        frames.append(review.take(rows, pa.table([rows.line, name, date], CALENDAR_SCHEMA)))
    frame = pa.concat_tables(frames).combine_chunks()
    frame = _without(frame, review.duplicates(frame, ("name", "date"), (), "name and date"))
    return review.parsed(frame, len(frame))


def transactions(block: Block, calendar: WeekCalendar, last_day: dt.date) -> tuple[pa.Table, pa.Table]:
    """Transactions judged one by one, by the rules of a file's rows: each is accepted or rejected.

    Args:
        block: columns store, dept, date and weekly_sales; lines ascend.
        last_day: later ones cannot have happened yet.

    Returns:
        The accepted, by line: SALES_SCHEMA, whose `week` is the one that holds the day; and the rejected,
        REJECTED_SCHEMA.
    """
    rows = _Rows(block)
    store, dept, day = rows.key("store"), rows.key("dept"), rows.past_days(calendar, last_day)
    rows.required("weekly_sales")  # a transaction without an amount is none, other than a week nothing is known of
    sales = rows.numbers("weekly_sales")
    good = pa.array(rows.verdict < 0)
    days = day.filter(good).to_numpy(zero_copy_only=False).astype("datetime64[D]")
    accepted = [column.filter(good) for column in (rows.line, store, dept)]
    accepted += [pa.array(calendar.week_ends(days)), sales.filter(good), pa.nulls(len(days), pa.bool_())]
    return pa.table(accepted, SALES_SCHEMA), _rejected(list(rows.rejected()))


def weeks_in(data: bytes | Path, key: str, dialect: Dialect, calendar: WeekCalendar) -> list[dt.date]:
    """The weeks of the calendar a file speaks of, ascending: a peek that reads the date column only.

    Dates that parse_sales would reject, and those before the calendar's first week, are left out.

    Raises:
        FileRefused: the file can't be read at all.
    """
    weeks: set[dt.date] = set()
    for block in blocks(open_file(data, key, dialect), dialect, ("date",), ()):
        days = block.days("date")
        days = np.unique(days[~np.isnat(days)])
        if dialect.aggregate == "sum":
            days = np.unique(calendar.week_ends(days))
        days = days[calendar.is_week_end(days) & (days >= np.datetime64(calendar.first_week, "D"))]
        weeks |= set(days.tolist())
    return sorted(weeks)


def kind_of(data: bytes | Path, key: str, dialect: Dialect) -> str:
    """Which of KINDS a file is, by its header alone.

    Raises:
        FileRefused: `unknown_kind`, or the file can't be read at all.
    """
    header = open_file(data, key, dialect, head=True).header
    names = set(canonical(header, dialect))
    if "weekly_sales" in names:
        return "sales"
    if "name" in names and "date" in names and "store" not in names:
        return "calendar"
    # What has departments, or speaks of sales, may be sales whose columns are not mapped: never taken for others.
    seen = likely(header, dialect, ("store", "dept", "date", "weekly_sales"))
    if "store" in names and "dept" not in names and not ("weekly_sales" in seen and ("date" in names or len(seen) > 1)):
        return "features" if "date" in names else "stores"
    if "dept" in names and not {"store", "date", "weekly_sales"} & {*names, *seen}:
        return "departments"
    missing = [name for name in ("store", "dept", "date", "weekly_sales") if name not in names]
    if "weekly_sales" in seen:
        refusal = missing_columns(key, dialect, missing, header)
        raise FileRefused("unknown_kind", f"{refusal.message} It looks like sales.")
    raise FileRefused(
        "unknown_kind",
        (
            f"{key} is neither sales (store, dept, date, weekly_sales), stores (store, ...), departments (dept, "
            f"...), features (store, date, ...) nor calendar (name, date): its columns are {listed(header)}. "
            f"Map their names with FORECAST_COLUMNS or use a preset; covariates by department go under features/."
            f"{delimiter_hint(header, dialect)}"
        ),
    )


def constants_of(file: Opened, dialect: Dialect) -> tuple[dict[str, str], list[str]]:
    """Values of the key columns that a sales file does not have, and what to say about them."""
    names = canonical(file.header, dialect)
    constants = {"store": dialect.store} if "store" not in names and dialect.store else {}
    if "dept" not in names and "dept" not in dialect.columns:
        if dialect.department:
            constants["dept"] = dialect.department
        elif not likely(file.header, dialect, ["dept"]) and "weekly_sales" in names:
            constants["dept"] = ONE_DEPARTMENT
            note = (
                f"the file has no department column, so all its rows are of one department, {ONE_DEPARTMENT!r}; "
                f"name it with {setting('department', ONE_DEPARTMENT)}, or map its column with FORECAST_COLUMNS"
            )
            return constants, [note]
    elif "dept" not in names and dialect.department:
        constants["dept"] = dialect.department
    return constants, []


def _long(schema: pa.Schema, frame: pa.Table, keys: Sequence[str], names: Sequence[str]) -> pa.Table:
    """One row per row and value column, in the frame's order."""
    n = len(frame)
    parts = [
        pa.table([*(frame[k] for k in keys), pa.repeat(pa.scalar(name, pa.string()), n), frame[name]], schema)
        for name in names
    ]
    if not parts:
        return schema.empty_table()
    return pa.concat_tables(parts).take(np.arange(n * len(parts)).reshape(len(parts), n).T.ravel())


# --- row by row


@dataclass(frozen=True)
class _Finding:
    rule: str
    column: str
    message: Callable[[str], str]  # value -> what to do
    values: Any  # one text per row of the block: what was found there


@dataclass(frozen=True)
class _Rejected:
    line: int
    rule: str
    column: str
    value: str
    message: str
    record: str


@dataclass
class _Review:
    """All rows of one file: what was rejected, and what is to be said of what was accepted.

    Of the rows themselves only where they are is kept, so that a file need not fit into memory as columns of text.
    """

    file: Opened
    dialect: Dialect
    rows: int = 0
    rejected: list[pa.Table] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    _places: list[tuple[int, int, Callable[[Sequence[int]], list[str]]]] = field(default_factory=list)
    _unread: dict[str, tuple[int, str]] = field(default_factory=dict)
    _told: list[tuple[int, str, str, str, str]] = field(default_factory=list)

    def take(self, rows: _Rows, table: pa.Table) -> pa.Table:
        """`table` without the rows that broke a rule, which are taken note of."""
        block = rows.block.rows
        self.rows += rows.block.n + len(block.ragged)
        self.names |= rows.block.names
        if rejected := list(rows.rejected()):
            self.rejected.append(_rejected(rejected))
        if rows.block.n:
            self._places.append((int(block.line[0]), int(block.line[-1]), block.records))
        for column, count, found in rows.unread:
            before, first = self._unread.get(column, (0, found))
            self._unread[column] = (before + count, first)
        good = rows.verdict < 0
        return table if good.all() else table.filter(pa.array(good))

    @property
    def notes(self) -> list[str]:
        """What is to be said of rows that were accepted, once for each column."""
        return [
            f"{column}: {count:,} {'value is' if count == 1 else 'values are'} neither TRUE nor FALSE ({found}) and "
            "read as unknown; the sales of these rows count"
            for column, (count, found) in self._unread.items()
        ]

    def duplicates(self, frame: pa.Table, keys: Sequence[str], values: Sequence[str], what: str) -> NDArray[np.int64]:
        """Positions in `frame` of the rows that are there twice: copies lose to the first, rows that contradict each
        other all lose."""
        codes = [_codes(frame[key].combine_chunks()) for key in keys]
        order = np.lexsort(codes[::-1])  # stable, so the first line of a group comes first
        start = _changes(codes, order)
        if start.all():
            return np.zeros(0, np.int64)
        group = np.cumsum(start) - 1
        first = order[np.flatnonzero(start)][group]
        unlike = np.zeros(len(order), bool)
        for value in values:
            code = _codes(frame[value].combine_chunks())
            unlike |= code[order] != code[first]
        contested = np.bincount(group, unlike)[group] > 0
        # Each row is told of one other: the first of its group, or for the first itself the one after it.
        other = np.where(start, np.append(order[1:], -1), first)
        line = frame["line"].to_numpy()
        copies, conflicts = ~start & ~contested, contested
        for rule, bad, message in (
            (
                "duplicate_row",
                copies,
                f"an exact copy of {{}} ({what}), which was kept; nothing is lost, remove the copy",
            ),
            (
                "conflicting_duplicate",
                conflicts,
                f"same {what} as {{}} but other values; nobody can tell which is right, so none was taken; "
                "keep the right one and land the file again",
            ),
        ):
            at = order[bad]
            told = zip(line[at].tolist(), _cells(self.file, frame, at), line[other[bad]].tolist(), strict=True)
            self.reject_lines(rule, [(n, cell, f"line {m}") for n, cell, m in told], message)
        return np.sort(order[copies | conflicts])

    def reject_lines(self, rule: str, told: Sequence[tuple[int, str, str]], message: str) -> None:
        """Reject rows by their lines.

        Args:
            told: (line, column, what was found there).
            message: what to do, with {} for what was found.
        """
        self._told += [(line, rule, column, value, message.format(value)) for line, column, value in told]

    def _settle(self) -> None:
        """Find the records of the lines rejected so far: each part of the file is read once for all of them."""
        told, self._told = sorted(self._told), []
        lines = np.array([line for line, *_ in told], np.int64)
        for first, last, records in self._places if told else ():
            at, end = np.searchsorted(lines, [first, last + 1]).tolist()
            if at < end:
                texts = records(lines[at:end].tolist())
                self.rejected.append(
                    _rejected([_Rejected(*row, text) for row, text in zip(told[at:end], texts, strict=True)])
                )

    def parsed(
        self, kept: pa.Table | ByWeek, accepted_rows: int, notes: Sequence[str] = (), splits: Sequence[str] = ()
    ) -> Parsed:
        self._settle()
        rejected = pa.concat_tables([REJECTED_SCHEMA.empty_table(), *self.rejected])
        return Parsed(
            kept=kept,
            rejected=rejected.sort_by([("line", "ascending"), ("column", "ascending")]),
            ignored_columns=ignored(self.file.header, self.names),
            rows=self.rows,
            accepted_rows=accepted_rows,
            header=tuple(name.strip() for name in self.file.header),
            notes=tuple(notes),
            splits=tuple(splits),
        )


def _rejected(found: Sequence[_Rejected]) -> pa.Table:
    return pa.table([[getattr(r, name) for r in found] for name in REJECTED_SCHEMA.names], REJECTED_SCHEMA)


class _Rows:
    """Holds the verdict on each row of a block: the first rule it breaks, in the order the rules are asked."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.findings: list[_Finding] = []
        self.verdict = np.full(block.n, -1, np.int32)  # index into findings, -1 = good so far
        self.unread: list[tuple[str, int, str]] = []  # column, values that could not be read, an example

    @property
    def line(self) -> pa.Array:
        return pa.array(self.block.rows.line)

    def reject(self, rule: str, column: str, bad: Mask, message: Callable[[str], str]) -> None:
        """Give this rule to the rows in `bad` that broke none before."""
        new = bad & (self.verdict < 0)
        if new.any():
            self.verdict[new] = len(self.findings)
            self.findings.append(_Finding(rule, column, message, self.block.text(column)))

    def required(self, column: str) -> pa.Array:
        text = self.block.text(column)
        absent = ", ".join(marker for marker in self.block.dialect.missing_in(column) if marker)
        markers = f" (empty or one of {absent})" if absent else " (empty)"
        message = f"{self.block.label(column)} is missing{markers}; every row needs one"
        self.reject(f"missing_{column}", column, mask(pc.is_null(text)), lambda _: message)
        return text

    def spelled(self, column: str) -> pa.Array:
        """A column of names, each in one spelling."""
        text = tidy(self.block.text(column))
        if rules := self.block.dialect.normalise_keys:
            encoded = pc.dictionary_encode(text)
            spelled = pa.array([normal_form(name, rules) for name in encoded.dictionary.to_pylist()], pa.string())
            text = spelled.take(encoded.indices)
        return text

    def key(self, column: str) -> pa.Array:
        self.required(column)
        return self.spelled(column)

    def dates(self) -> pa.Array:
        text, style = self.required("date"), self.block.dates("date")
        days = self.block.days("date")
        bad = np.isnat(days)
        if bad.any() and not style.zone:
            self.reject(
                "time_zone",
                "date",
                bad & has_zone(text),
                lambda value: (
                    f"{short(value)} has a time zone, and which day that is where the shops are is not known; "
                    f"set {setting('time_zone', 'Europe/Berlin')} or write the day alone"
                ),
            )
        examples = " or ".join(f"{example(form)} ({form})" for form in style.formats)
        self.reject(
            "bad_date",
            "date",
            bad,
            lambda value: (
                f"{short(value)} is not a date written like {examples}; mend the date or set FORECAST_DATE_FORMAT"
            ),
        )
        return pa.array(days)

    def days(self, newest_week: dt.date, calendar: WeekCalendar) -> pa.Array:
        """Days that are added up to weeks."""
        day = self.dates()
        days = day.to_numpy(zero_copy_only=False).astype("datetime64[D]")
        self._within(days, calendar)
        self.reject(
            "week_incomplete",
            "date",
            days > np.datetime64(newest_week, "D"),
            lambda value: (
                f"{short(value)} lies in a week that is not over ({newest_week} ends the newest one); it waits: "
                "land it again with the whole week"
            ),
        )
        return day

    def past_days(self, calendar: WeekCalendar, last_day: dt.date) -> pa.Array:
        """Days of transactions."""
        day = self.dates()
        days = day.to_numpy(zero_copy_only=False).astype("datetime64[D]")
        self._within(days, calendar)
        self.reject(
            "date_in_future",
            "date",
            days > np.datetime64(last_day, "D"),
            lambda value: f"{short(value)} lies after {last_day} and cannot have happened yet; set the sender's clock",
        )
        return day

    def weeks(self, calendar: WeekCalendar, newest_week: dt.date | None) -> pa.Array:
        week = self.dates()
        days = week.to_numpy(zero_copy_only=False).astype("datetime64[D]")

        def wrong_weekday(value: str) -> str:
            day = self.block.dates("date").day(value)
            return (
                f"{day} is a {day:%A}; weeks end on {calendar.weekday_name} and the one holding it ends on "
                f"{calendar.week_of(day)}; correct the date, or set FORECAST_WEEK_ENDS if {day:%A} is right"
            )

        self.reject("wrong_weekday", "date", ~calendar.is_week_end(days), wrong_weekday)
        self._within(days, calendar)
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

    def _within(self, days: NDArray[np.datetime64], calendar: WeekCalendar) -> None:
        first = calendar.first_week
        self.reject(
            "week_before_first",
            "date",
            days < np.datetime64(first, "D"),
            lambda value: (
                f"{short(value)} is before {first}, the first week kept; leave it out, or set an earlier "
                "FORECAST_FIRST_WEEK"
            ),
        )

    def numbers(self, column: str, booleans: bool = False) -> pa.Array:
        """float64, null where missing (and where rejected). `booleans` reads true/false as 1/0."""
        text, style = self.block.text(column), self.block.numbers(column)
        if booleans:
            lower = pc.utf8_lower(text)
            plain = pc.if_else(pc.equal(lower, "true"), "1", pc.if_else(pc.equal(lower, "false"), "0", text))
            number = to_numbers(plain, style)
        else:
            number = self.block.number(column)
        written = "-1234.56" if style.decimal == "." else "-1234,56"
        self.reject(
            "not_a_number",
            column,
            mask(pc.and_(pc.is_valid(text), pc.is_null(number))),
            lambda value: (
                f"{short(value)} is not a number such as {written}; write it without other signs, say how numbers are "
                "written (FORECAST_DECIMAL, FORECAST_THOUSANDS, FORECAST_CURRENCY, FORECAST_ACCOUNTING) or what means "
                "no value (FORECAST_MISSING), and leave the field empty where nothing was reported"
            ),
        )
        self.reject(
            "out_of_range",
            column,
            mask(pc.greater(pc.abs(number), LARGEST)),
            lambda value: (
                f"{short(value)} is beyond {LARGEST:.0e}, more than any week holds; correct it or leave it empty"
            ),
        )
        return number

    def flags(self, column: str) -> pa.Array:
        """boolean, null where missing and where it is none: an optional column never costs the sales of its row."""
        text = self.block.text(column)
        flag, unread = to_flags(text)
        if unread.any():
            at = int(unread.argmax())
            found = f"first {short(text[at].as_py())} in line {self.block.rows.line[at]}"
            self.unread.append((self.block.label(column), int(unread.sum()), found))
        return flag

    def finished(self) -> None:
        """Reject a last row without a line end, unless its last field is seen to be whole: 98765.43 cut short is 98."""
        rows, at = self.block.rows, self.block.n - 1
        last = next((name for name, i in self.block.names.items() if i == len(self.block.header) - 1), None)
        if not rows.open_end or last is None or at < 0 or any(line > rows.line[at] for line, _ in rows.ragged):
            return
        texts = pc.utf8_trim_whitespace(rows.columns[self.block.names[last]])
        field, others = texts[at].as_py(), texts[:at]
        if last == "is_holiday":
            whole = not field or bool(to_flags(pa.array([field]))[0].is_valid()[0].as_py())
        elif decimals := re.search(r"[.,]([0-9]+)$", field):  # all with as many decimals
            pattern = rf"[.,][0-9]{{{len(decimals[1])}}}$"
            whole = at > 0 and bool(pc.all(pc.match_substring_regex(others, pattern)).as_py())
        elif last == "date":
            whole = at > 0 and bool(pc.all(pc.equal(pc.utf8_length(others), len(field))).as_py())
        elif last in ("store", "dept"):
            whole = bool(pc.any(pc.equal(others, field)).as_py())
        else:
            whole = False
        self.reject(
            "unfinished_line",
            last,
            _rows_mask(self.block.n, at) & (not whole),
            lambda value: (
                f"the file ends with {short(value)} and no line end, so it may be cut short; end the last line and "
                "land the file again"
            ),
        )

    def rejected(self) -> Iterator[_Rejected]:
        rows, header = self.block.rows, self.block.header
        found: list[tuple[int, str, str, str, str]] = [
            (
                line,
                "wrong_column_count",
                "",
                str(fields),
                f"{fields} fields where the header has {len(header)}; quote fields that hold the delimiter or a line "
                "break",
            )
            for line, fields in rows.ragged
        ]
        for i, finding in enumerate(self.findings):
            at = np.flatnonzero(self.verdict == i)
            message = functools.cache(finding.message)  # a whole file can be wrong in one way
            values = [value or "" for value in finding.values.take(at).to_pylist()]
            cells = rows.cells.take(at).to_pylist() if rows.cells is not None else [finding.column] * len(at)
            for line, value, column in zip(rows.line[at].tolist(), values, cells, strict=True):
                found.append((line, finding.rule, column, value, message(value)))
        records = rows.records([line for line, *_ in found]) if found else []
        for row, record in zip(found, records, strict=True):
            yield _Rejected(*row, record)


def _cells(file: Opened, frame: pa.Table, rows: NDArray[np.int64]) -> list[str]:
    """Where rows are cells of one line, what tells them apart: the week; else nothing."""
    if not file.wide:
        return [""] * len(rows)
    return [str(week) for week in frame["week"].take(pa.array(rows)).to_pylist()]


def _rows_mask(n: int, row: int) -> Mask:
    one: Mask = np.zeros(n, bool)
    one[row] = True
    return one


def _without(frame: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    if not len(rows):
        return frame
    keep = np.ones(len(frame), bool)
    keep[rows] = False
    return frame.filter(pa.array(keep))


def _last(frame: pa.Table) -> pa.Table:
    """The last row of each store, department and week."""
    codes = [_codes(frame[name].combine_chunks()) for name in ("store", "dept", "week")]
    order = np.lexsort(codes[::-1])
    last = np.append(_changes(codes, order)[1:], True)
    return frame.take(pa.array(np.sort(order[last])))


def _splits(file: Opened, dialect: Dialect, twice: pa.Table) -> list[str]:
    """Columns that nothing was read from and that differ between rows of one store, department and week; by the first
    _LOOK of these rows."""
    names = canonical(file.header, dialect)
    used = {"store", "dept", "date", "weekly_sales", "is_holiday"}
    at = [i for i, name in enumerate(names) if name not in used and file.header[i].strip()]
    if not at:
        return []
    columns = (twice[:_LOOK][name].to_pylist() for name in ("line", *_KEY))
    keys = {line: key for line, *key in zip(*columns, strict=True)}
    seen: dict[int, dict[tuple[Any, ...], set[str | None]]] = {i: {} for i in at}
    for rows in file.rows(at):
        inside = [(row, keys[line]) for row, line in enumerate(rows.line.tolist()) if line in keys]
        for i in at:
            for row, key in inside:
                seen[i].setdefault(tuple(key), set()).add(rows.columns[i][row].as_py())
    return [file.header[i].strip() for i in at if any(len(values) > 1 for values in seen[i].values())]


def _codes(values: pa.Array) -> NDArray[np.int32]:
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
