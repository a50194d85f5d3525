"""What people close stays closed until they reopen it, with reason and author, and nothing said is lost."""

from __future__ import annotations

import datetime as dt

import duckdb
import pytest

from forecast_platform.lake.closures import Closing, ClosureRefused, add_closing, closings, reopen
from forecast_platform.lake.lake import Lake
from forecast_platform.weeks import WEEK
from forecast_platform_tests.lake.conftest import clean_rows, week

NOW = dt.datetime(2024, 3, 1, 9, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def shop(lake: Lake) -> Lake:
    lake.replace_weeks("cleaned_series", [week(0)], clean_rows({(week(0), s, d): 1.0 for s in "12" for d in "ab"}))
    return lake


def closing(dept: str | None = "a", since: int = 1, until: int | None = None, reason: str = "moved out") -> Closing:
    return Closing("1", dept, week(since), None if until is None else week(until), reason, "ana")


def in_force(lake: Lake, known_before: dt.datetime | None = None) -> list[Closing]:
    con = lake.attach(duckdb.connect())
    return closings(con, known_before)


def test_a_department_or_a_whole_store_is_closed_and_how_many_series_that_is(shop: Lake) -> None:
    assert in_force(shop) == []
    assert add_closing(shop, closing(), NOW) == 1
    assert add_closing(shop, closing(None), NOW) == 2, "at the same moment, and both are kept"
    assert in_force(shop) == [closing(None), closing()]


def test_the_newest_word_counts_and_the_older_is_kept(shop: Lake) -> None:
    add_closing(shop, closing(reason="rebuilding"), NOW)
    add_closing(shop, closing(until=4), NOW + HOUR)
    assert in_force(shop) == [closing(until=4)]
    assert in_force(shop, NOW + HOUR) == [closing(reason="rebuilding")], "as it was known then"
    assert len(shop.read("closures")) == 2


def test_reopened_it_is_closed_for_the_weeks_before(shop: Lake) -> None:
    add_closing(shop, closing(), NOW)
    assert reopen(shop, "1", "a", week(5), "new tenant", "bo", NOW + HOUR) == 1
    (found,) = in_force(shop)
    assert [found.covers(week(n)) for n in (0, 1, 4, 5)] == [False, True, True, False]
    assert (found.reason, found.author) == ("new tenant", "bo")


def test_reopened_before_it_began_it_was_never_closed(shop: Lake) -> None:
    add_closing(shop, closing(since=3), NOW)
    reopen(shop, "1", "a", week(3), "a mistake", "ana", NOW + HOUR)
    assert in_force(shop) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Closing("7", None, week(1), None, "gone", "ana"), "no store 7 is known; there are 1, 2"),
        (Closing("1", "x", week(1), None, "gone", "ana"), "store 1 has no department x; there are a, b"),
        (closing(reason=" "), "needs a reason"),
        (Closing("1", "a", week(1), None, "gone", ""), "needs an author"),
    ],
)
def test_what_is_not_there_or_says_too_little_is_refused(shop: Lake, given: Closing, message: str) -> None:
    with pytest.raises(ClosureRefused, match=message):
        add_closing(shop, given, NOW)
    assert in_force(shop) == []


def test_only_what_is_closed_can_be_reopened(shop: Lake) -> None:
    add_closing(shop, closing(), NOW)
    with pytest.raises(ClosureRefused, match=r"department b is not closed .* closed are: store 1, department a"):
        reopen(shop, "1", "b", week(2), "why not", "ana", NOW + HOUR)


def test_closed_stores_are_found_by_sql_when_they_report_again(shop: Lake) -> None:
    """The view names weeks in which a whole store sold nothing; while it has not come back they are not bounded."""
    rows = clean_rows(
        {(week(1), s, d): 0.0 if s == "1" else 1.0 for s in "12" for d in "ab"},
        {(week(2), s, d): 1.0 for s in "12" for d in "ab"},
        {(week(3), s, d): None if s == "1" else 1.0 for s in "12" for d in "ab"},
    )
    shut = [r["store"] == "1" and r["week"] in (week(1), week(3)) for r in rows.to_pylist()]
    rows = rows.set_column(rows.column_names.index("store_closed"), "store_closed", [shut])
    shop.replace_weeks("cleaned_series", [week(n) for n in (1, 2, 3)], rows)
    assert shop.query("SELECT * FROM store_closures").to_pylist() == [{"store": "1", "week": week(1), "series": 2}]
    assert week(1) - WEEK == week(0)
