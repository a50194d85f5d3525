"""Ingestion on a real lake and a real folder: what became of each row, and that dying anywhere changes nothing."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from forecast_platform.lake.lake import Lake
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.ingest import ingest_landed
from forecast_platform.landing.judgement import Limits
from forecast_platform.landing.ledger import Entry, Ledger
from forecast_platform.landing.place import LandingError, LandingObject
from forecast_platform.weeks import WeekCalendar
from forecast_platform_tests.conftest import contents, snapshots
from forecast_platform_tests.history.conftest import clean_table
from forecast_platform_tests.landing.dated import DatedLanding

CONTRACT = Dialect.named("canonical")
CALENDAR = WeekCalendar(ends="FRI", first_week=dt.date(2024, 1, 5))
NOW = dt.datetime(2025, 2, 3, 9, tzinfo=dt.UTC)  # the newest week is 2025-01-31
W1, W2, W3 = dt.date(2025, 1, 17), dt.date(2025, 1, 24), dt.date(2025, 1, 31)
NEXT = dt.date(2025, 2, 7)


def sales(*rows: tuple[Any, ...]) -> bytes:
    """A sales file of rows (store, dept, date, sales)."""
    return "\n".join(["store,dept,date,weekly_sales", *(",".join(map(str, row)) for row in rows), ""]).encode()


class Place:
    """A lake and the folder whose files go into it."""

    def __init__(self, folder: Path) -> None:
        self.lake = Lake.local(folder / "lake", ("p10", "p50", "p90"))
        self.landing = DatedLanding(folder / "landing")

    def land(self, key: str, data: bytes, at: dt.datetime | None = None) -> None:
        self.landing.land(key, data, at)

    def ingest(self, now: dt.datetime = NOW) -> list[Entry]:
        # Files are small here, so a line or two may be half of one.
        limits = Limits(most_refused=1, most_duplicates=1)
        return ingest_landed(self.lake, self.landing, CONTRACT, CALENDAR, now, limits=limits)

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.lake.read(table, columns=columns).to_pylist()]

    def cleaned(self) -> list[tuple[Any, ...]]:
        """(week, store, dept, sales) of what the series of W1 .. W3 would be now."""
        con = self.lake.attach(duckdb.connect())
        try:
            rows = clean_table(con, W1, W3, active_weeks=52).to_pylist()
        finally:
            con.close()
        return sorted((r["week"], r["store"], r["dept"], r["sales"]) for r in rows if r["observed"])


@pytest.fixture
def place(tmp_path: Path, tables_home: Callable[[Path], Path]) -> Place:
    return Place(tables_home(tmp_path))


# --- rows


@pytest.mark.usefixtures("far_from_utc")
@pytest.mark.parametrize("hour", [0, 4, 20, 23])
def test_a_line_is_quarantined_under_the_day_its_file_landed_in_utc(place: Place, hour: int):
    moment = dt.datetime(2025, 2, 2, hour, 30, tzinfo=dt.UTC)
    place.land("sales/a.csv", sales((1, 1, W3, 10), (1, 2, W3, "1O.5")), at=moment)
    place.ingest()
    assert place.rows("quarantine", "landed_date", "landed_at") == [(moment.date(), moment)]
    assert place.rows("raw_sales", "week", "landed_at") == [(W3, moment)]


def test_every_row_is_accepted_or_quarantined_with_its_line_rule_and_value(place: Place):
    place.land("sales/a.csv", sales((1, 1, W3, 10), (1, 2, W3, "1O.5"), (1, 3, "2025-01-30", 7), (1, 1, W3, 10)))
    (done,) = place.ingest()
    assert (done.rows, done.accepted, done.quarantined) == (4, 1, 3)
    assert place.rows("raw_sales", "week", "store", "dept", "sales", "line") == [(W3, "1", "1", 10.0, 2)]
    assert place.rows("quarantine", "line", "rule", "field", "value", "record") == [
        (3, "not_a_number", "weekly_sales", "1O.5", "1,2,2025-01-31,1O.5"),
        (4, "wrong_weekday", "date", "2025-01-30", "1,3,2025-01-30,7"),
        (5, "duplicate_row", "", "line 2", "1,1,2025-01-31,10"),
    ]


def test_the_ledger_adds_up(place: Place):
    place.land("sales/a.csv", sales((1, 1, W1, 10), (1, 1, W3, 11), (1, 2, W3, "x")))
    place.land("sales/b.csv", sales((2, 1, W2, 10)))
    place.ingest()
    ledger = place.rows("landings", "source_key", "rows", "accepted", "quarantined", "first_week", "last_week")
    assert ledger == [("sales/a.csv", 3, 2, 1, W1, W3), ("sales/b.csv", 1, 1, 0, W2, W2)]
    assert len(place.rows("raw_sales", "line")) == 3
    assert len(place.rows("quarantine", "line")) == 1


def test_ingesting_again_commits_nothing(place: Place):
    place.land("sales/a.csv", sales((1, 1, W3, 10), (1, 2, W3, "x")))
    place.land("stores/s.csv", b"store,type\n1,A\n")
    place.ingest()
    before = snapshots(place.lake)
    assert place.ingest() == []
    assert snapshots(place.lake) == before


def test_each_kind_goes_to_its_table(place: Place):
    place.land("sales/a.csv", sales((1, 1, W3, 10)))
    place.land("stores/s.csv", b"store,type\n1,A\n")
    place.land("departments/d.csv", b"dept,category\n1,food\n,toys\n")
    place.land("features/f.csv", f"store,date,fuel\n1,{NEXT},3.5\n".encode())
    place.land("calendar/c.csv", b"name,date\nNew Year,2025-01-01\n")
    place.land("misplaced.csv", sales((1, 1, W3, 99)))
    place.ingest()
    assert place.rows("raw_sales", "sales") == [(10.0,)]
    assert place.rows("stores", "store", "name", "value") == [("1", "type", "A")]
    assert place.rows("departments", "dept", "name", "value") == [("1", "category", "food")]
    assert place.rows("quarantine", "source_key", "rule") == [("departments/d.csv", "missing_dept")]
    assert place.rows("features", "week", "name", "value") == [(NEXT, "fuel", 3.5)]
    assert place.rows("calendar", "name", "date") == [("New Year", dt.date(2025, 1, 1))]
    assert len(place.rows("landings", "kind")) == 5, "the file in no folder of a kind is not touched"


# --- restatements


def test_versions_of_features_and_calendars_are_kept_and_stores_are_as_they_are_now(place: Place):
    for value in (1, 2):
        place.land("stores/s.csv", f"store,type\n1,{value}\n".encode())
        place.land("features/f.csv", f"store,date,fuel\n1,{W3},{value}\n".encode())
        place.land("calendar/c.csv", f"name,date\nNew Year,2025-01-0{value}\n".encode())
        place.ingest()
    assert place.rows("stores", "value") == [("2",)]
    assert place.rows("features", "value") == [(1.0,), (2.0,)]
    assert place.rows("calendar", "date") == [(dt.date(2025, 1, 1),), (dt.date(2025, 1, 2),)]


def test_a_week_sent_again_drops_what_it_no_longer_has(place: Place):
    place.land("sales/a.csv", sales((1, 1, W3, 10), (1, 2, W3, 20)))
    place.ingest()
    place.land("sales/a.csv", sales((1, 1, W3, 11)))
    place.ingest()
    assert place.cleaned() == [(W3, "1", "1", 11.0)]
    assert sorted(place.rows("raw_sales", "dept", "sales")) == [("1", 10.0), ("1", 11.0), ("2", 20.0)], "kept for ever"


def test_a_row_in_two_files_counts_as_it_landed_last(place: Place):
    day = dt.timedelta(days=1)
    place.land("sales/b.csv", sales((1, 1, W3, 10), (2, 2, W3, 20)), at=NOW)
    place.land("sales/a.csv", sales((1, 1, W3, 11)), at=NOW + day)
    place.ingest()
    assert place.cleaned() == [(W3, "1", "1", 11.0), (W3, "2", "2", 20.0)]


def test_a_version_that_comes_back_is_in_force_again(place: Place):
    first, second = sales((1, 1, W3, 10)), sales((1, 1, W3, 11))
    for data in (first, second, first):
        place.land("sales/a.csv", data)
        assert len(place.ingest()) == 1
    assert place.cleaned() == [(W3, "1", "1", 10.0)]
    assert len(place.rows("landings", "source_key")) == 3


def test_an_unreadable_restatement_leaves_the_last_good_version_in_force(place: Place):
    place.land("sales/a.csv", sales((1, 1, W3, 10)))
    place.ingest()
    place.land("sales/a.csv", b"\xff\xfe nothing a person can read")
    (done,) = place.ingest()
    assert done.status == "refused"
    assert place.cleaned() == [(W3, "1", "1", 10.0)]


def test_the_same_bytes_under_another_name_change_nothing(place: Place):
    data = sales((1, 1, W3, 10))
    place.land("sales/a.csv", data)
    place.ingest()
    before = snapshots(place.lake)
    place.land("sales/copy of a.csv", data)
    (done,) = place.ingest()
    assert (done.status, done.rows) == ("known", 0)
    assert "the same bytes as sales/a.csv" in str(done.message)
    after = snapshots(place.lake)
    assert {name for name in after if after[name] != before[name]} == {"landings"}
    assert place.ingest() == []


def test_the_same_bytes_under_two_names_in_one_drop_are_ingested_once(place: Place):
    data = sales((1, 1, W3, 10))
    place.land("sales/a.csv", data)
    place.land("sales/b.csv", data)
    assert [d.status for d in place.ingest()] == ["ingested", "known"]
    assert place.ingest() == []
    assert place.rows("raw_sales", "sales") == [(10.0,)]


def test_the_same_bytes_in_another_folder_are_another_kind_of_file(place: Place):
    data = f"store,dept,date,weekly_sales\n1,1,{W3},10\n".encode()
    place.land("sales/a.csv", data)
    place.land("features/a.csv", data)
    assert [d.kind for d in sorted(place.ingest(), key=lambda d: d.kind)] == ["features", "sales"]


# --- files that cannot go in


def test_a_refused_file_is_recorded_with_its_rule_and_the_others_go_through(place: Place):
    place.land("sales/broken.csv.gz", b"\x1f\x8b\x08\x00half")
    place.land("sales/columns.csv", b"shop,amount\n1,2\n")
    place.land("sales/good.csv", sales((1, 1, W3, 10)))
    place.ingest()
    statuses = dict(place.rows("landings", "source_key", "status"))
    assert statuses == {"sales/broken.csv.gz": "refused", "sales/columns.csv": "refused", "sales/good.csv": "ingested"}
    assert place.rows("quarantine", "source_key", "line", "rule") == [
        ("sales/broken.csv.gz", None, "truncated_gzip"),
        ("sales/columns.csv", None, "missing_columns"),
    ]
    assert place.rows("raw_sales", "source_key") == [("sales/good.csv",)]
    assert place.ingest() == [], "refused once, not at every look"


def test_a_file_of_the_future_waits_and_goes_in_when_its_week_begins(place: Place):
    place.land("sales/next.csv", sales((1, 1, NEXT, 10)))
    (waits,) = place.ingest()
    assert (waits.status, waits.rule, waits.message) == (
        "waiting",
        "not_begun",
        "its first week 2025-02-07 has not begun; it goes in when it does",
    )
    assert place.rows("raw_sales", "line") == place.rows("quarantine", "line") == []
    assert place.ingest() == [], "not read again at every look"
    (done,) = place.ingest(dt.datetime(2025, 2, 7, tzinfo=dt.UTC))
    assert (done.status, done.accepted) == ("ingested", 1)


def test_rows_of_the_future_beside_others_are_quarantined_not_lost(place: Place):
    place.land("sales/both.csv", sales((1, 1, W3, 10), (1, 1, NEXT, 11)))
    place.ingest()
    assert place.rows("quarantine", "line", "rule") == [(3, "week_in_future")]


def test_a_landing_place_that_is_gone_is_an_error_not_an_empty_folder(place: Place):
    shutil.rmtree(place.landing.root)
    with pytest.raises(LandingError, match="is gone"):
        place.ingest()


# --- when a version landed


def moment(hour: int) -> dt.datetime:
    return dt.datetime(2025, 2, 1, hour, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("arrived", "previous", "expected"),
    [
        (9, None, moment(9)),
        (9, 7, moment(9)),
        (7, 7, moment(7) + dt.timedelta(microseconds=1)),
        (6, 7, moment(7) + dt.timedelta(microseconds=1)),
    ],
    ids=["first", "later", "same time", "clock back"],
)
def test_the_order_is_that_of_arrival_but_after_the_same_name_before_and_never_that_of_writing(
    arrived: int, previous: int | None, expected: dt.datetime
):
    before = [Entry("sales/a.csv", "v", "sales", moment(previous), "ingested")] if previous is not None else []
    for modified in (5, 8, 12):
        obj = LandingObject("sales/a.csv", "w", 1, moment(arrived), moment(modified))
        assert Ledger(before).place(obj) == expected


def test_versions_of_one_file_land_one_after_the_other_whatever_their_times_say(place: Place):
    for number, at in enumerate([NOW, NOW - dt.timedelta(days=9), NOW, NOW + dt.timedelta(seconds=1)]):
        place.land("sales/a.csv", sales((1, 1, W3, number)), at=at)
        place.ingest()
    landed = [row[0] for row in sorted(place.rows("landings", "landed_at"))]
    assert len(set(landed)) == 4
    assert Ledger.of(place.lake).newest["sales/a.csv"].landed_at == landed[-1]
    assert place.cleaned() == [(W3, "1", "1", 3.0)]


# --- dying anywhere


class Interrupted(Exception):
    pass


def interrupt_at(lake: Lake, number: int) -> Callable[[], int]:
    """Let the `number`-th commit of `lake` fail before it happens. Returns a count of the commits asked for."""
    replace, asked = lake.replace, 0

    def counting(*args: Any) -> bool:
        nonlocal asked
        asked += 1
        if asked == number:
            raise Interrupted
        return replace(*args)

    lake.replace = counting  # type: ignore[method-assign]
    return lambda: asked


def test_interrupted_between_any_two_commits_and_run_again_gives_the_tables_of_an_undisturbed_run(
    place: Place, tmp_path: Path
):
    place.land("sales/restated.csv", sales((1, 1, W1, 10), (1, 2, W1, "x")), at=NOW - dt.timedelta(days=9))
    place.land("stores/s.csv", b"store,type\n1,A\n2,B\n")
    place.ingest()
    # Iceberg writes down absolute paths: the lake is put back to where it was before each try.
    shutil.copytree(tmp_path / "lake", tmp_path / "lake before")
    restated = sales((1, 1, W1, 11), (1, 2, W1, "y"), (1, 1, W2, 20), (1, 1, W2, 21), (2, 1, W3, 30))
    place.land("sales/restated.csv", restated, at=NOW)
    place.land("stores/s.csv", b"store,type\n1,C\n")
    place.land("sales/broken.csv.gz", b"\x1f\x8b\x08\x00half")
    place.land("sales/copy.csv", restated)

    def fresh() -> Place:
        shutil.rmtree(tmp_path / "lake")
        shutil.copytree(tmp_path / "lake before", tmp_path / "lake")
        return Place(tmp_path)

    undisturbed = fresh()
    commits = interrupt_at(undisturbed.lake, -1)
    undisturbed.ingest()
    expected = contents(undisturbed.lake)
    assert commits() == 9  # refused: quarantine, ledger; ingested: quarantine, rows, ledger; known: ledger
    for number in range(1, commits() + 1):
        died = fresh()
        interrupt_at(died.lake, number)
        with pytest.raises(Interrupted):
            died.ingest()
        again = Place(tmp_path)
        again.ingest()
        assert contents(again.lake) == expected, f"commit {number}"
        settled = snapshots(again.lake)
        assert again.ingest() == []
        assert snapshots(again.lake) == settled
