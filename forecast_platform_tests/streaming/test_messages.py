"""Messages one by one: what counts and what is refused, by the rules and settings of files."""

from __future__ import annotations

import datetime as dt
import json
import random
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.landing.dialects import Dialect
from forecast_platform.streaming.messages import Messages, Reader, Verdicts
from forecast_platform.weeks import WeekCalendar
from forecast_platform_tests.streaming.broker import sale

FIRST = dt.date(2026, 10, 2)
NOW = dt.datetime(2026, 10, 21, 12, tzinfo=dt.UTC)


def read(*values: Any, gone: tuple[dt.date, ...] = (), now: dt.datetime = NOW, **dialect: Any) -> Verdicts:
    data = [v if isinstance(v, bytes | None) else json.dumps(v).encode() for v in values]
    batch = Messages(data, np.zeros(len(data), np.int32), np.arange(len(data)), ["0"], {})
    reading = Reader(Dialect("", **dialect), WeekCalendar(), FIRST).read(batch, now, gone)
    assert len(reading.rows) + len(reading.poison) + reading.earlier == len(values)
    return reading


def rows(*values: Any, **dialect: Any) -> list[tuple[Any, ...]]:
    found = read(*values, **dialect)
    assert not found.poison.to_pylist()
    return [tuple(row.values()) for row in found.rows.to_pylist()]


WEEK = dt.date(2026, 10, 16)

POISON = {
    "text": (b"1;2;2026-10-12;5", "not_json"),
    "half": (b'{"store": "1", "dept": ', "not_json"),
    "not utf-8": (b'{"store": "\xff"}', "not_json"),
    "nothing": (None, "not_json"),
    "empty": (b"", "not_json"),
    "a list": (b"[1, 2]", "not_json"),
    "a number": (b"5", "not_json"),
    "two objects": (b'{"store": "1"} {"store": "2"}', "not_json"),
    "NaN": (b'{"store": "1", "dept": "2", "date": "2026-10-12", "weekly_sales": NaN}', "not_json"),
    "NaN as text": (sale("1", "2", "2026-10-12", "NaN"), "missing_weekly_sales"),
    "no amount": ({"store": "1", "dept": "2", "date": "2026-10-12"}, "missing_weekly_sales"),
    "null amount": (sale("1", "2", "2026-10-12", None), "missing_weekly_sales"),
    "no store": ({"dept": "2", "date": "2026-10-12", "weekly_sales": 5}, "missing_store"),
    "null dept": ({"store": "1", "dept": None, "date": "2026-10-12", "weekly_sales": 5}, "missing_dept"),
    "no date": ({"store": "1", "dept": "2", "weekly_sales": 5}, "missing_date"),
    "a flag": (sale("1", "2", "2026-10-12", True), "wrong_type"),
    "an object": (sale("1", "2", "2026-10-12", {"value": 5}), "wrong_type"),
    "a broken store": ({"store": 1.5, "dept": "2", "date": "2026-10-12", "weekly_sales": 5}, "wrong_type"),
    "a number as date": ({"store": "1", "dept": "2", "date": 1760266800000, "weekly_sales": 5}, "wrong_type"),
    "words": (sale("1", "2", "2026-10-12", "five"), "not_a_number"),
    "a comma": (sale("1", "2", "2026-10-12", "5,00"), "not_a_number"),
    "1e300": (sale("1", "2", "2026-10-12", 1e300), "out_of_range"),
    "no day": (sale("1", "2", "2026-02-30", 5), "bad_date"),
    "year 1": (sale("1", "2", "0001-01-01", 5), "bad_date"),
    "1970": (sale("1", "2", "1970-01-01", 5), "week_before_first"),
    "tomorrow's tomorrow": (sale("1", "2", "2026-10-23", 5), "date_in_future"),
    "2199": (sale("1", "2", "2199-01-01", 5), "date_in_future"),
    "a zone": (sale("1", "2", "2026-10-12T10:00:00+02:00", 5), "time_zone"),
    "a week not kept": (sale("1", "2", "2026-10-06", 5), "too_late"),
}


def test_each_kind_of_poison_is_refused_with_its_reason_and_costs_no_other_message() -> None:
    good = sale("1", "2", "2026-10-12", 5)
    values = [good, *(value for value, _ in POISON.values()), good]
    found = read(*values, gone=(dt.date(2026, 10, 9),))
    told = {row["line"]: row for row in found.poison.to_pylist()}
    assert {name: told[1 + i]["rule"] for i, name in enumerate(POISON)} == {n: rule for n, (_, rule) in POISON.items()}
    assert len(found.rows) == 2
    assert all(row["message"] for row in told.values())
    assert told[1]["record"] == "1;2;2026-10-12;5"


def test_a_message_alone_meets_the_same_fate() -> None:
    for value, rule in POISON.values():
        assert read(value, gone=(dt.date(2026, 10, 9),)).poison["rule"].to_pylist() == [rule]


def test_moments_that_are_none_are_refused_beside_others() -> None:
    """One that is no day has all of a batch read one by one."""
    moments = ["2026-06-31T10:00:00Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "2026-10-16T23:30:00Z"]
    values = [*(sale("1", "2", moment, 5) for moment in moments), {**sale("1", "2", "", 5), "date": None}]
    found = read(*values, time_zone="Europe/Berlin")
    assert found.rows["week"].to_pylist() == [dt.date(2026, 10, 23)]
    assert sorted(found.poison["line"].to_pylist()) == [0, 1, 2, 4]


_GOOD = sale("1", 2, "2026-10-12T10:00:00Z", 1.5)
_ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
_MESSAGES = st.binary(max_size=9) | st.fixed_dictionaries(
    {}, optional={name: st.just(value) | _ODD for name, value in _GOOD.items()}
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(_MESSAGES | st.just(_GOOD), max_size=8), st.sampled_from(["", "Asia/Tokyo"]))
def test_whatever_a_message_holds_it_is_a_row_or_poison_and_the_same_alone(values: list[Any], zone: str) -> None:
    refused = read(*values, time_zone=zone).poison["line"].to_pylist()
    alone = [i for i, value in enumerate(values) if len(read(value, time_zone=zone).poison)]
    assert sorted(refused) == alone


def test_returns_whole_numbers_and_texts_are_amounts() -> None:
    values = [
        sale("1", 2, "2026-10-12", -5),
        sale(" 1 ", "2", "2026-10-16", 2**60 // 2**25),
        sale("1", "2", WEEK, "7.5"),
    ]
    assert sorted(rows(*values)) == [
        (WEEK, "1", "2", Decimal(-5)), (WEEK, "1", "2", Decimal("7.5")), (WEEK, "1", "2", Decimal(2**35)),
    ]  # fmt: skip


def test_names_constants_numbers_and_keys_are_those_of_the_settings() -> None:
    value = {"filiale": "08", "am": "12.10.2026 17:05", "umsatz": "1.234,50"}
    columns = {"store": "markt|filiale", "date": "am", "weekly_sales": "umsatz"}
    assert rows(value, columns=columns, department="all", decimal=",", date_format="%d.%m.%Y",
                normalise_keys=("numbers",)) == [(WEEK, "8", "all", Decimal("1234.5"))]  # fmt: skip
    assert rows({**value, "markt": "9"}, value, columns=columns, department="all", decimal=",",
                date_format="%d.%m.%Y") == [
        (WEEK, "9", "all", Decimal("1234.5")), (WEEK, "08", "all", Decimal("1234.5")),
    ]  # fmt: skip


@pytest.mark.parametrize("label", ["end", "start"])
def test_a_day_is_the_shops_own_and_counts_for_the_week_that_holds_it(label: str) -> None:
    late = sale("1", "2", "2026-10-16T23:30:00Z", 5)  # Friday in UTC, Saturday in Berlin
    assert [row[0] for row in rows(late, time_zone="Europe/Berlin", week_label=label)] == [WEEK + dt.timedelta(days=7)]
    assert [row[0] for row in rows(late, time_zone="America/New_York", week_label=label)] == [WEEK]


def test_weeks_before_the_first_are_left_out_and_counted() -> None:
    found = read(sale("1", "2", "2026-09-25", 5), sale("1", "2", "2026-09-26", 5))
    assert (found.earlier, found.rows["week"].to_pylist()) == (1, [FIRST])


def test_amounts_are_kept_as_they_are_written() -> None:
    random.seed(0)
    texts = [f"{random.randrange(-(10**7), 10**7) / 100:.2f}" for _ in range(5000)] + ["0.1", "1e-6", "123456789.12"]
    values = [f'{{"store": "1", "dept": "2", "date": "2026-10-12", "weekly_sales": {text}}}'.encode() for text in texts]
    found = read(*values).rows["sales"]
    assert found.to_pylist() == [Decimal(text) for text in texts]
    assert pc.sum(found).as_py() == sum(map(Decimal, texts))


def test_an_empty_batch_gives_nothing() -> None:
    assert read().rows.num_rows == 0
    assert isinstance(read().rows, pa.Table)
