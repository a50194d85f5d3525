"""Messages as sales: JSON objects become rows of stores, departments and weeks, or poison with a reason.

A message is judged by the rules of a file's rows (landing/rules.py) and read by the same settings: names of fields,
dates and their zone, how numbers in texts are written, spellings of keys. So a transaction means the same either way.
"""

from __future__ import annotations

import datetime as dt
import functools
import operator
import zoneinfo
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.files import Block, Rows, short
from forecast_platform.landing.kinds import REJECTED_SCHEMA
from forecast_platform.landing.rules import transactions
from forecast_platform.weeks import WeekCalendar

FIELDS = ("store", "dept", "date", "weekly_sales")
# Amounts are kept to a millionth and added up as whole numbers of them: in any order, so that a sum is the same to the
# last digit however often a stream was interrupted.
AMOUNT = pa.decimal128(38, 6)
ROWS = pa.schema({"week": pa.date32(), "store": pa.string(), "dept": pa.string(), "sales": AMOUNT})
LONGEST = 10_000  # characters of a message that is quarantined

_NUMBERS = {int, float}
_KEYS = {str, int, type(None)}
_AMOUNTS = {str, int, float, type(None)}


@dataclass(frozen=True)
class Messages:
    """Some messages as they came.

    Attributes:
        values: what each holds; None: nothing.
        partition: of each, its number in `names`, [messages].
        offset: of each in its partition, [messages].
        names: partitions.
        ends: partition -> the offset that comes next, where a partition was read to its end.
    """

    values: Sequence[bytes | None]
    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    names: Sequence[str]
    ends: Mapping[str, int]

    def take(self, at: NDArray[np.intp]) -> Messages:
        """Some of its messages."""
        values = [self.values[i] for i in at.tolist()]
        return replace(self, values=values, partition=self.partition[at], offset=self.offset[at])


@dataclass(frozen=True)
class Verdicts:
    """What became of a batch: messages = rows + earlier + poison.

    Attributes:
        rows: ROWS, one a message.
        poison: REJECTED_SCHEMA, whose `line` is the message's position in the batch.
        earlier: messages of weeks before the first that the stream answers for.
    """

    rows: pa.Table
    poison: pa.Table
    earlier: int


@dataclass(frozen=True)
class Reader:
    """How messages of one topic are read.

    Args:
        dialect: how files are read.
        first_week: the first week of which all sales come by the stream.
    """

    dialect: Dialect
    calendar: WeekCalendar
    first_week: dt.date

    @functools.cached_property
    def zone(self) -> dt.tzinfo:
        """The time zone of the shops; UTC where it is not set."""
        return zoneinfo.ZoneInfo(self.dialect.time_zone) if self.dialect.time_zone else dt.UTC

    @functools.cached_property
    def _days(self) -> Dialect:
        """Days are days here, whatever a date in a file stands for; and times are read."""
        return replace(self.dialect, aggregate="sum", week_label="end")

    def read(self, batch: Messages, now: dt.datetime, gone: Collection[dt.date] = ()) -> Verdicts:
        """Judge messages.

        Args:
            now: a message from after tomorrow is refused.
            gone: weeks whose sums are not kept any more, so that nothing can be added to them.
        """
        documents, faults = _parsed(batch.values)
        columns, at = self._columns(documents, faults)
        last_day = now.astimezone(self.zone).date() + dt.timedelta(days=1)
        kept, rejected = [ROWS.empty_table()], [_faults(faults, batch)]
        amounts = columns.pop("weekly_sales")
        numbers = np.fromiter((type(value) in _NUMBERS for value in amounts), bool, len(amounts))
        earlier = 0
        for typed in (True, False):
            some = np.flatnonzero(numbers == typed)
            if not len(some):
                continue
            whole = len(some) == len(amounts)
            texts = columns if whole else {name: column.take(pa.array(some)) for name, column in columns.items()}
            given = amounts if whole else [amounts[i] for i in some.tolist()]
            block = self._block({**texts, "weekly_sales": _amounts(given, typed)}, at[some], typed, batch)
            rows, refused = transactions(block, self.calendar, last_day)
            rejected.append(refused)
            week = rows["week"].to_numpy()
            ours, late = week >= np.datetime64(self.first_week, "D"), np.isin(week, np.array(list(gone), week.dtype))
            earlier += int((~ours).sum())
            if late.any():
                rejected.append(_too_late(rows.filter(pa.array(late & ours)), batch))
            if late.any() or not ours.all():
                rows = rows.filter(pa.array(ours & ~late))
            sales = pc.cast(rows["sales"], AMOUNT, safe=False)
            kept.append(pa.table([rows["week"], rows["store"], rows["dept"], sales], ROWS))
        return Verdicts(pa.concat_tables(kept), pa.concat_tables(rejected), earlier)

    def _columns(
        self, documents: list[Any], faults: dict[int, tuple[str, str, str, str]]
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Texts of stores, departments and dates, amounts as they are, and each row's position in the batch. What has
        other values than these is put to the faults."""
        at = [i for i in range(len(documents)) if i not in faults] if faults else list(range(len(documents)))
        found = documents if not faults else [documents[i] for i in at]
        first = [choices[0] for choices in self._names]
        try:
            values = list(zip(*map(operator.itemgetter(*first), found), strict=True)) or [()] * len(FIELDS)
        except KeyError:  # some have other names, or lack a field
            values = [tuple(next((d[c] for c in choices if c in d), None) for d in found) for choices in self._names]
        allowed: tuple[set[type], ...] = (_KEYS, _KEYS, {str, type(None)}, _AMOUNTS)
        if not all(set(map(type, column)) <= types for column, types in zip(values, allowed, strict=True)):
            good = []
            for row, cells in enumerate(zip(*values, strict=True)):
                wrong = [k for k, cell in enumerate(cells) if type(cell) not in allowed[k]]
                if wrong:
                    faults[at[row]] = _wrong_type(first[wrong[0]], FIELDS[wrong[0]], cells[wrong[0]])
                else:
                    good.append(row)
            at, values = [at[row] for row in good], [tuple(column[row] for row in good) for column in values]
        columns: dict[str, Any] = {name: _texts(column) for name, column in zip(FIELDS[:3], values[:3], strict=True)}
        for name, value in (("store", self.dialect.store), ("dept", self.dialect.department)):
            if value:  # of messages that do not say it
                columns[name] = pc.fill_null(columns[name], value)
        return {**columns, "weekly_sales": values[3]}, np.array(at, np.int64)

    @functools.cached_property
    def _names(self) -> list[list[str]]:
        """What messages may call each of the FIELDS; of several that one has, the first counts."""
        return [[*(c.strip() for c in self.dialect.columns.get(f, f).split("|")), f] for f in FIELDS]

    def _block(self, columns: Mapping[str, pa.Array], at: NDArray[np.int64], typed: bool, batch: Messages) -> Block:
        def records(lines: Sequence[int]) -> list[str]:
            return [_record(batch, line) for line in lines]

        numbers = frozenset({FIELDS.index("weekly_sales")}) if typed else frozenset[int]()
        rows = Rows({i: columns[name] for i, name in enumerate(FIELDS)}, at, [], records, numbers)
        return Block("", list(FIELDS), {name: i for i, name in enumerate(FIELDS)}, rows, self._days, {})


def _parsed(values: Sequence[bytes | None]) -> tuple[list[Any], dict[int, tuple[str, str, str, str]]]:
    """The objects that messages hold; and of those that hold none, by position, (rule, field, value, what to do)."""
    try:
        documents: list[Any] = list(map(orjson.loads, values))  # type: ignore[arg-type]
        if set(map(type, documents)) <= {dict}:
            return documents, {}
    except orjson.JSONDecodeError:
        pass
    documents, faults = [], {}
    for i, value in enumerate(values):
        documents.append(None)
        try:
            documents[i] = orjson.loads(value if value is not None else b"")
        except orjson.JSONDecodeError as error:
            why = f"the message is no JSON ({error}); NaN and Infinity are none either" if value else "it holds nothing"
            faults[i] = ("not_json", "", "", f"{why}; send a JSON object such as {_EXAMPLE}")
            continue
        if type(documents[i]) is not dict:
            faults[i] = ("not_json", "", "", f"the message is no JSON object; send one such as {_EXAMPLE}")
    return documents, faults


_EXAMPLE = '{"store": "1", "dept": "2", "date": "2026-10-23T17:05:00+02:00", "weekly_sales": 12.5}'


def _wrong_type(name: str, field: str, value: Any) -> tuple[str, str, str, str]:
    wanted = {"date": "a text", "weekly_sales": "a number"}.get(field, "a text or a whole number")
    text = repr(value)[:LONGEST]
    return "wrong_type", field, text, f"{name} is {short(text)}, which is of another type; send {wanted}"


def _texts(values: Sequence[Any]) -> pa.Array:
    if not set(map(type, values)) <= {str, type(None)}:
        values = [value if value is None or type(value) is str else str(value) for value in values]
    return pa.array(values, pa.string())


def _amounts(values: Sequence[Any], typed: bool) -> pa.Array:
    """As texts, because rules are for texts."""
    if not typed:
        return pa.array(values, pa.string())
    return pc.cast(pa.array(np.array(values, np.float64)), pa.string())


def _record(batch: Messages, at: int) -> str:
    return (batch.values[at] or b"")[: 4 * LONGEST].decode(errors="replace")[:LONGEST]


def _faults(faults: Mapping[int, tuple[str, str, str, str]], batch: Messages) -> pa.Table:
    rows = [(at, rule, field, value, why, _record(batch, at)) for at, (rule, field, value, why) in faults.items()]
    columns = list(zip(*rows, strict=True)) or [()] * len(REJECTED_SCHEMA)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, REJECTED_SCHEMA.types, strict=True)],
                    REJECTED_SCHEMA)  # fmt: skip


def _too_late(rows: pa.Table, batch: Messages) -> pa.Table:
    found: dict[int, tuple[str, str, str, str]] = {}
    for line, week in zip(rows["line"].to_pylist(), rows["week"].to_pylist(), strict=True):
        why = (
            f"the week of {week} is not kept any more, so nothing can be added to it; land a corrected file of it, and "
            "keep more weeks (FORECAST_STREAM_KEEP_WEEKS)"
        )
        found[line] = ("too_late", "date", str(week), why)
    return _faults(found, batch)
