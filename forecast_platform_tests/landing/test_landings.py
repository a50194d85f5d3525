"""What a landing is: decided by content, weeks and settings, in order of arrival. Each fault by its kind; the inputs
are those of public bug reports, made small."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyiceberg.expressions import EqualTo

from forecast_platform.history.reading import named_days, observations
from forecast_platform.history.versions import EVER, FEATURES
from forecast_platform.lake.lake import Lake
from forecast_platform.landing import effect
from forecast_platform.landing import ingest as ingestion
from forecast_platform.landing.by_week import ByWeek
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.ingest import Order, ingest_landed
from forecast_platform.landing.judgement import Limits, Verdict
from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.ledger import Entry, Ledger, LedgerError, mark_cleaned
from forecast_platform.landing.place import FolderLanding
from forecast_platform.landing.report import landing_report, no_longer_lying
from forecast_platform.landing.withdrawal import withdraw
from forecast_platform.weeks import WeekCalendar
from forecast_platform_tests.history.conftest import clean_table

HEAD = "store,dept,date,weekly_sales\n"
NOW = dt.datetime(2026, 11, 24, 9, tzinfo=dt.UTC)
W = [dt.date(2026, 10, 30) + dt.timedelta(weeks=i) for i in range(4)]  # to 2026-11-20
CALENDAR = WeekCalendar("FRI", dt.date(2026, 1, 2))


def text(*rows: tuple[Any, ...]) -> bytes:
    return (HEAD + "".join(",".join(map(str, row)) + "\n" for row in rows)).encode()


class Place:
    """A lake and a real folder, whose files arrive when they are written."""

    def __init__(self, folder: Path, calendar: WeekCalendar = CALENDAR, dialect: Dialect | None = None) -> None:
        self.lake = Lake.local(folder / "lake", ("p10", "p50", "p90"))
        self.landing = FolderLanding(folder / "landing", settle_seconds=0)
        self.calendar, self.dialect = calendar, dialect or Dialect.named("canonical")

    def ingest(self, orders: dict[str, Order] | None = None, most_removed: float = 0.2) -> list[Entry]:
        return ingest_landed(
            self.lake,
            self.landing,
            self.dialect,
            self.calendar,
            NOW,
            limits=Limits(most_removed=most_removed),
            orders=orders,
        )

    def land(self, key: str, data: bytes) -> Entry:
        """Land a file and ingest it."""
        self.landing.put(key, data)
        (done,) = self.ingest()
        return done

    @property
    def ledger(self) -> Ledger:
        return Ledger.of(self.lake)

    def attached(self) -> duckdb.DuckDBPyConnection:
        return self.lake.attach(duckdb.connect())

    def cleaned(self) -> dict[tuple[str, str, dt.date], float]:
        """(store, dept, week) -> sales of the clean series."""
        con = self.attached()
        try:
            rows = clean_table(con, self.calendar.first_week, self.calendar.last_started(NOW), 52).to_pylist()
        finally:
            con.close()
        return {(r["store"], r["dept"], r["week"]): r["sales"] for r in rows if r["observed"]}

    def features(self) -> list[tuple[Any, ...]]:
        """(week, store, dept, name, value) in force."""
        con = self.attached()
        sql = f"SELECT week, store, dept, name, value FROM ({FEATURES}) ORDER BY week, store, dept NULLS FIRST, name"
        rows = con.execute(sql, {"known_before": EVER}).fetchall()
        con.close()
        return rows

    def known_then(self, week: dt.date) -> dict[tuple[str, str, dt.date], float]:
        con = self.attached()
        try:
            return {tuple(row[:3]): row[3] for row in observations(con, week, "then").fetchall()}
        finally:
            con.close()


@pytest.fixture
def place(tmp_path: Path, tables_home: Callable[[Path], Path]) -> Place:
    return Place(tables_home(tmp_path))


# --- identity by name and bytes alone


@pytest.mark.parametrize("names", [["week.csv"] * 3, ["week.csv", "fix.csv", "week_again.csv"]], ids=["one", "three"])
def test_a_restored_original_counts_again(place: Place, names: list[str]):
    week, fix = (text(*(("r", "a", w, x) for w in W[1:])) for x in (100, 999))
    for name, data in zip(names, (week, fix, week), strict=True):
        assert place.land(f"sales/{name}", data).status == "ingested"
    assert set(place.cleaned().values()) == {100.0}


@pytest.mark.parametrize("at_once", [False, True])
def test_a_constant_export_name_adds_its_weeks(place: Place, at_once: bool):
    """An export called sales.csv every week; also four folders' files of one name."""
    for i, week in enumerate(W):
        data = text(("s", "a", week, 100 + i), ("s", "b", week, 200 + i))
        if at_once:
            place.landing.put(f"sales/{week}/sales.csv", data)
        else:
            done = place.land("sales/sales.csv", data)
            assert (done.appeared, done.changed, done.vanished) == (2, 0, 0)
    place.ingest()
    found = place.cleaned()
    assert (len(found), sum(found.values())) == (8, 1212.0)


def test_a_correction_moved_in_with_an_older_mtime_counts(place: Place, tmp_path: Path):
    place.land("sales/original.csv", text(("m", "a", W[3], 111)))
    correction = tmp_path / "correction.csv"
    correction.write_bytes(text(("m", "a", W[3], 222)))
    os.utime(correction, (1e9, 1e9))
    correction.rename(place.landing.root / "sales/correction.csv")
    (done,) = place.ingest()
    assert (done.changed, done.vanished) == (1, 0)
    assert place.cleaned() == {("m", "a", W[3]): 222.0}


def test_a_row_that_a_shortened_renamed_file_no_longer_delivers_is_said_and_withdrawn(place: Place):
    place.land("sales/w47.csv", text(("d", "a", W[3], 100), ("d", "b", W[3], 50)))
    (place.landing.root / "sales/w47.csv").unlink()
    done = place.land("sales/w47_v2.csv", text(("d", "a", W[3], 100)))
    assert (done.appeared, done.changed, done.vanished) == (0, 0, 1)
    assert place.cleaned() == {("d", "a", W[3]): 100.0}
    con = place.attached()
    assert "sales/w47_v2.csv: 0 rows changed, 1 vanished" in landing_report(con, W[3], W[3], [done]).summary
    assert no_longer_lying(con, place.ledger, place.landing) == [], "nothing of it is in force"


def test_a_deleted_file_stays_in_force_and_is_named(place: Place):
    place.land("sales/a.csv", text(("d", "a", W[3], 100)))
    (place.landing.root / "sales/a.csv").unlink()
    assert place.ingest() == []
    assert place.cleaned() == {("d", "a", W[3]): 100.0}
    assert no_longer_lying(place.attached(), place.ledger, place.landing) == ["sales/a.csv"]


def test_a_renamed_file_is_known_and_not_named_as_deleted(place: Place):
    place.land("sales/a.csv", text(("d", "a", W[3], 100)))
    place.land("sales/b.csv", text(("d", "a", W[3], 200)))
    (place.landing.root / "sales/a.csv").rename(place.landing.root / "sales/archived.csv")
    (done,) = place.ingest()
    assert (done.status, done.rows) == ("known", 0)
    assert "sales/a.csv under another name" in str(done.message)
    assert place.cleaned() == {("d", "a", W[3]): 200.0}, "a rename delivers nothing anew"
    assert no_longer_lying(place.attached(), place.ledger, place.landing) == []


@pytest.mark.parametrize("what", ["touched", "copied"])
def test_files_touched_or_copied_are_no_news(place: Place, what: str, tmp_path: Path):
    place.land("sales/a.csv", text(("d", "a", W[3], 100)))
    path = place.landing.root / "sales/a.csv"
    if what == "touched":
        os.utime(path)
    else:
        (tmp_path / "copy").write_bytes(path.read_bytes())
        (tmp_path / "copy").rename(path)
    assert place.ingest() == []


# --- what is not taken whole is read again when settings change


SETTINGS_LATER = {
    "sat": [("1", "a", dt.date(2026, 10, 17) + dt.timedelta(weeks=i), 100 + i) for i in range(6)],
    "dates": [("1", "b", f"{dt.date(2026, 10, 16) + dt.timedelta(weeks=i):%d.%m.%Y}", 100 + i) for i in range(6)],
}


@pytest.mark.parametrize("case", SETTINGS_LATER)
def test_rows_refused_for_a_setting_are_read_again_when_it_is_corrected(tmp_path: Path, case: str):
    place = Place(tmp_path)
    assert place.land(f"sales/{case}.csv", text(*SETTINGS_LATER[case])).accepted == 0
    assert place.ingest() == [], "not while the settings are the same"
    if case == "sat":
        place = Place(tmp_path, WeekCalendar("SAT", dt.date(2026, 1, 3)), Dialect("canonical", week_ends="SAT"))
    else:
        place = Place(tmp_path, dialect=Dialect("canonical", date_format="%d.%m.%Y"))
    (done,) = place.ingest()
    assert (done.accepted, done.quarantined) == (6, 0)
    assert sum(place.cleaned().values()) == 615
    assert place.ingest() == []


def test_what_was_accepted_whole_is_never_taken_twice(tmp_path: Path):
    place = Place(tmp_path)
    place.land("sales/a.csv", text(("1", "a", W[0], 1)))
    assert Place(tmp_path, dialect=Dialect("canonical", missing={"": ("?",)})).ingest() == []


def test_a_file_partly_refused_and_read_again_counts_once_and_in_its_place(tmp_path: Path):
    place = Place(tmp_path)
    place.land("sales/a.csv", text(("1", "a", W[0], 1), ("1", "b", W[0], "?")))
    place.land("sales/b.csv", text(("1", "a", W[0], 2), ("2", "z", W[0], 5)))
    place = Place(tmp_path, dialect=Dialect("canonical", missing={"": ("?",)}))
    (done,) = place.ingest()
    assert (done.key, done.accepted, done.quarantined) == ("sales/a.csv", 2, 0)
    found = place.cleaned()
    assert found == {("1", "a", W[0]): 2.0, ("2", "z", W[0]): 5.0}, "the later file still comes after it"


def test_again_counts_as_arriving_now_and_reread_does_not(place: Place):
    first = text(("1", "a", W[0], 1))
    place.land("sales/a.csv", first)
    place.land("sales/b.csv", text(("1", "a", W[0], 2)))
    (done,) = place.ingest({"sales/a.csv": Order("reread")})
    assert done.status == "ingested"
    assert place.cleaned() == {("1", "a", W[0]): 2.0}
    place.landing.put("sales/a.csv", first)
    (done,) = place.ingest({"sales/a.csv": Order("again")})
    assert (done.changed, done.accepted) == (1, 1)
    assert place.cleaned() == {("1", "a", W[0]): 1.0}


# --- removals wait


def big(*, depts: int, value: int = 1, week: dt.date = W[0], store: str = "1") -> list[tuple]:
    return [(store, f"d{i:02}", week, value) for i in range(depts)]


@pytest.mark.parametrize(
    ("left", "waits"), [(10, False), (8, False), (7, True)], ids=["none", "as much as the setting", "more"]
)
def test_a_drop_that_removes_more_than_the_share_waits_for_a_person(place: Place, left: int, waits: bool):
    place.land("sales/a.csv", text(*big(depts=10)))
    done = place.land("sales/a.csv", text(*big(depts=left, value=2)))
    if not waits:
        assert (done.status, done.changed, done.vanished) == ("ingested", left, 10 - left)
        return
    assert (done.status, done.rule) == ("waiting", "removes_rows")
    assert "3 of 10 rows of the week 2026-10-30 (30%)" in str(done.message)
    assert "forecast landing accept sales/a.csv" in str(done.message)
    assert set(place.cleaned().values()) == {1.0}, "nothing of it counts"
    report = landing_report(place.attached(), W[0], W[0], [done])
    assert [t.rule for t in report.troubles] == ["removes_rows"]
    assert place.ingest() == []
    (done,) = place.ingest({"sales/a.csv": Order("accept", "closed departments", "Ada")})
    assert (done.status, done.vanished, done.reason, done.author) == ("ingested", 3, "closed departments", "Ada")
    assert place.cleaned() == {("1", f"d{i:02}", W[0]): 2.0 for i in range(7)}
    assert landing_report(place.attached(), W[0], W[0], []).troubles == []


def test_a_one_row_correction_of_a_large_store_waits_and_one_beside_other_stores_removes_nothing(place: Place):
    place.land("sales/a.csv", text(*big(depts=30), *big(depts=300, store="2")))
    done = place.land("sales/fix.csv", text(("1", "d00", W[0], 5)))
    assert done.status == "waiting"
    assert "29 of 30 rows of store 1 in the week" in str(done.message)
    done = place.land("sales/fix.csv", text(("1", "d00", W[0], 5), ("2", "d00", W[0], 5)))
    assert (done.status, done.changed, done.vanished) == ("ingested", 2, 0)


def test_values_turned_into_missing_are_removed_and_a_whole_week_always_waits(place: Place):
    place.land("sales/a.csv", text(("1", "a", W[0], 1), *big(depts=5, week=W[1])))
    done = place.land("sales/b.csv", text(("1", "a", W[0], "NA")))
    assert (done.status, done.rule) == ("waiting", "removes_rows")
    done = place.land(
        "sales/c.csv", text(*big(depts=3, week=W[1], value=2), ("1", "d03", W[1], ""), ("1", "d04", W[1], ""))
    )
    assert "2 of 5 rows" in str(done.message)


def test_more_may_be_removed_where_the_setting_says_so_and_a_waiting_file_then_goes_in(place: Place):
    place.land("sales/a.csv", text(*big(depts=10)))
    assert place.land("sales/a.csv", text(*big(depts=2))).status == "waiting"
    (done,) = place.ingest(most_removed=0.9)
    assert (done.status, done.vanished) == ("ingested", 8)


def test_a_file_with_refused_lines_removes_nothing(place: Place):
    place.land("sales/a.csv", text(("1", "a", W[0], 1), ("1", "b", W[0], 1)))
    done = place.land("sales/a.csv", text(("1", "a", W[0], 2), ("1", "b", W[0], "1O")))
    assert (done.changed, done.vanished, done.quarantined) == (1, 0, 1)
    assert place.cleaned() == {("1", "a", W[0]): 2.0, ("1", "b", W[0]): 1.0}


# --- decisions


def test_withdrawing_gives_back_what_was_overridden_and_the_past_keeps_what_it_knew(place: Place):
    place.land("sales/a.csv", text(("1", "a", W[0], 100), ("1", "b", W[0], 1)))
    place.land("sales/b.csv", text(("1", "a", W[0], 999), ("1", "c", W[1], 7)))
    assert place.cleaned() == {("1", "a", W[0]): 999.0, ("1", "c", W[1]): 7.0}
    now = dt.datetime.now(dt.UTC)
    entry, effect = withdraw(place.lake, place.ledger.find("sales/b.csv"), "wrong till", "Ada", now)
    assert (effect.appeared, effect.changed, effect.vanished) == (1, 1, 1)
    assert place.cleaned() == {("1", "a", W[0]): 100.0, ("1", "b", W[0]): 1.0}
    kept = place.ledger.newest["sales/b.csv"]
    assert (kept.status, kept.reason, kept.author, kept.to_clean) == ("withdrawn", "wrong till", "Ada", (W[0], W[1]))
    con = place.attached()
    assert landing_report(con, W[0], W[1], []).not_conserved == []
    far = (now.date() - W[3]).days // 7 + 3  # a cutoff known by a moment after all this
    assert place.known_then(W[3] + dt.timedelta(weeks=far)) == place.cleaned()
    assert place.ingest() == [], "its bytes lie there still, and are no news"
    with pytest.raises(LedgerError, match="it is withdrawn"):
        withdraw(place.lake, entry, "again", "Ada", now)


def test_an_earlier_landing_of_a_constant_name_is_named_by_its_version(place: Place):
    for i, week in enumerate(W[:2]):
        place.land("sales/sales.csv", text(("1", "a", week, i)))
    first = place.ledger.entries[0]
    assert place.ledger.find(f"sales/sales.csv@{first.version[:6]}") == first
    withdraw(place.lake, first, "r", "a", dt.datetime.now(dt.UTC))
    assert place.cleaned() == {("1", "a", W[1]): 1.0}


def test_an_unknown_name_is_answered_with_the_nearest(place: Place):
    place.land("sales/2026-10-30.csv", text(("1", "a", W[0], 1)))
    for wrong in ("sales/2026-10-31.csv", "2026-10-30.csv"):
        with pytest.raises(LedgerError, match=r"did you mean sales/2026-10-30.csv\?"):
            place.ledger.find(wrong)


def test_judgement_refuses_warns_or_leaves_it_to_a_person(place: Place, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def judge(parsed, known, *settings):
        there = list(known.rows)
        seen.append((sum(map(len, there)), there[0].column_names if there else []))
        odd = FileRefused("odd_total", "sums to nothing")
        return {1: Verdict(warnings=("sums look odd",)), 2: Verdict(odd, acceptable=True), 3: Verdict(odd)}[len(seen)]

    monkeypatch.setattr(ingestion, "judge", judge)
    done = place.land("sales/a.csv", text(("1", "a", W[0], 1)))
    assert (done.status, done.warnings) == ("ingested", ("sums look odd",))
    assert not landing_report(place.attached(), W[0], W[0], [done]).passed
    assert [place.land("sales/b.csv", text(("1", "a", W[1], x))).status for x in (1, 2)] == ["waiting", "refused"]
    columns = ["store", "dept", "week", "sales", "is_holiday"]
    assert [count for count, _ in seen] == [0, 1, 1]
    assert all(set(names) <= set(columns) for _, names in seen)


def test_what_a_file_changes_is_found_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A history is as large as the retailer: of no more rows than fit into memory is the effect looked at together."""
    history = [(s, d, w, 10 * s + i) for s in (1, 2) for d in "ab" for i, w in enumerate(W)]
    restated = [(s, d, w, value + (d == "a")) for s, d, w, value in history if (s, d) != (2, "b")] + [(3, "a", W[0], 5)]
    effects, together = [], []
    tables = ByWeek.tables

    def counted(self, weeks=None):
        if weeks is not None:  # not all of them, on their way to the lake
            together.append(sum(map(self.count, weeks)))
        return tables(self, weeks)

    for at_once in (1 << 22, 5):
        place = Place(tmp_path / str(at_once))
        monkeypatch.setattr(effect, "AT_ONCE", at_once)
        with monkeypatch.context() as watched:
            watched.setattr(ByWeek, "tables", counted)
            done = [place.land("sales/a.csv", text(*history)), place.land("sales/b.csv", text(*restated))]
        effects.append([(e.status, e.appeared, e.changed, e.vanished, e.message) for e in done])
    assert effects[0] == effects[1]
    assert effects[0][0][:4] == ("ingested", 16, 0, 0)
    assert effects[0][1][:4] == ("ingested", 1, 8, 4), "department b of store 2 is gone"
    assert together == [13, 4, 3, 3, 3], "none where the lake is empty; then all at once, or a week"


# --- files that are not whole yet


def test_a_text_that_ends_within_a_line_waits_and_its_last_row_never_counts(tmp_path: Path):
    place = Place(tmp_path)
    place.landing = FolderLanding(tmp_path / "landing", settle_seconds=0.1)
    cut = text(("1", "a", W[0], 98765.43))[:-4]  # as 98765
    path = place.landing.root / "sales/a.csv"
    path.parent.mkdir()
    path.write_bytes(cut)
    time.sleep(0.15)  # settled, were it not for its last line
    assert place.ingest() == [], "it may still be growing"
    path.write_bytes(text(("1", "a", W[0], 98765.43)))
    place.landing.settle_seconds = 0
    place.ingest()
    assert place.cleaned() == {("1", "a", W[0]): 98765.43}
    path.write_bytes(cut)
    (done,) = place.ingest()
    assert (done.status, done.rule) == ("refused", "nothing_accepted")
    assert "may be cut short" in done.message
    assert place.cleaned() == {("1", "a", W[0]): 98765.43}


def test_what_is_put_whole_needs_no_last_line_end(tmp_path: Path):
    landing = FolderLanding(tmp_path, settle_seconds=0.001)
    landing.put("sales/a.csv", b"x")
    time.sleep(0.005)
    assert len(landing.list()) == 1


# --- weeks to clean


def test_the_first_week_stays_until_what_was_withdrawn_is_cleaned_away(place: Place):
    assert place.ledger.first_week is None
    place.land("sales/early.csv", text(("1", "a", W[0], 10)))
    place.land("sales/late.csv", text(("1", "a", W[2], 10)))
    mark_cleaned(place.lake, place.ledger, W)
    assert place.ledger.first_week == W[0]
    withdraw(place.lake, place.ledger.find("sales/early.csv"), "wrong", "Ada", NOW)
    assert place.ledger.first_week == W[0]
    mark_cleaned(place.lake, place.ledger, W)
    assert place.ledger.first_week == W[2]


def test_the_ledger_knows_the_weeks_that_were_never_cleaned(place: Place):
    place.land("sales/a.csv", text(("1", "a", W[0], 1), ("1", "a", W[2], 1)))
    seen = place.ledger
    place.land("sales/b.csv", text(("1", "b", W[2], 1)))
    mark_cleaned(place.lake, seen, [W[1], W[2]])
    assert {e.key: e.to_clean for e in place.ledger.entries} == {"sales/a.csv": (W[0],), "sales/b.csv": (W[2],)}
    assert place.ledger.to_clean(CALENDAR) == [W[0], W[2]]
    mark_cleaned(place.lake, place.ledger, W)
    assert place.ledger.to_clean(CALENDAR) == []


# --- any split, order, repetition, rename, death


CELLS = [(s, d, w) for s in "12" for d in "ab" for w in W[:2]]


@given(data=st.data())
@hypothesis_settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_split_order_repetition_rename_and_death_gives_the_series_of_one_clean_import(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, tables_home: Callable[[Path], Path]
):
    place = Place(tables_home(tmp_path_factory.mktemp("split")))
    parts: dict[int, list] = {}
    for number, cell in enumerate(CELLS):
        parts.setdefault(data.draw(st.integers(0, 2)), []).append((*cell, number))
    files = [text(*rows) for rows in parts.values()]
    drops = data.draw(st.permutations([*files, *data.draw(st.lists(st.sampled_from(files), max_size=1))]))
    for drop in drops:
        place.landing.put(f"sales/{data.draw(st.sampled_from('xyz'))}.csv", drop)
        if data.draw(st.booleans()):  # a run that dies at one of its commits
            replace, left = place.lake.replace, [data.draw(st.integers(0, 2))]

            def dying(*args: Any, replace=replace, left=left) -> bool:
                left[0] -= 1
                if left[0] < 0:
                    raise InterruptedError
                return replace(*args)

            place.lake.replace = dying  # type: ignore[method-assign]
            with contextlib.suppress(InterruptedError):
                place.ingest()
            place.lake.replace = replace  # type: ignore[method-assign]
        place.ingest()
    assert place.cleaned() == {cell: float(number) for number, cell in enumerate(CELLS)}


# --- the other kinds, under one name each time


def test_features_under_a_constant_name_add_their_weeks(place: Place) -> None:
    for week, price in zip(W[:3], (1, 2, 3), strict=True):
        place.landing.put("features/features.csv", f"store,date,price\n1,{week},{price}\n".encode())
        place.ingest()
    assert place.features() == [(week, "1", None, "price", price) for week, price in zip(W[:3], (1, 2, 3), strict=True)]


def test_features_sent_again_lose_what_they_no_longer_have(place: Place) -> None:
    head = "store,dept,date,promotion\n"
    place.landing.put("features/a.csv", (head + f"1,a,{W[0]},1\n1,b,{W[0]},1\n2,a,{W[0]},1\n").encode())
    place.landing.put("features/price.csv", f"store,date,price\n1,{W[0]},9\n".encode())
    place.ingest()
    place.landing.put("features/b.csv", (head + f"1,a,{W[0]},0\n").encode())
    place.ingest()
    assert place.features() == [
        (W[0], "1", None, "price", 9),
        (W[0], "1", "a", "promotion", 0),
        (W[0], "2", "a", "promotion", 1),
    ]


def test_a_calendar_under_a_constant_name_adds_its_years(place: Place) -> None:
    for text in ("Fair,2025-09-01\nFair,2025-09-02\n", "Fair,2026-09-07\n", "Fair,2026-09-08\n"):
        place.landing.put("calendar/c.csv", f"name,date\n{text}".encode())
        place.ingest()
    con = place.lake.attach(duckdb.connect())
    days = [dt.date(2025, 9, 1), dt.date(2025, 9, 2), dt.date(2026, 9, 8)]
    assert named_days(con) == [("Fair", day) for day in days]
    con.close()


def test_a_file_of_one_store_leaves_the_others_as_they_are(place: Place) -> None:
    for text in ("1,A\n2,B\n", "2,C\n"):
        place.landing.put("stores/s.csv", f"store,type\n{text}".encode())
        place.ingest()
    rows = place.lake.read("stores", columns=["store", "value"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("1", "A"), ("2", "C")]


@pytest.mark.parametrize(("kind", "of"), [("stores", "store"), ("departments", "dept")])
def test_attributes_are_as_they_landed_last_and_not_withdrawn(place: Place, kind: str, of: str) -> None:
    for text in (f"{of},type,size\n1,A,9\n2,B,9\n", f"{of},type\n2,C\n"):
        place.landing.put(f"{kind}/s.csv", text.encode())
        (entry,) = place.ingest()
    rows = place.lake.read(kind, columns=[of, "name", "value"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("1", "size", "9"), ("1", "type", "A"), ("2", "type", "C")]
    with pytest.raises(LedgerError, match=f"holds {kind}, which are as they landed last: land a corrected file"):
        withdraw(place.lake, entry, "wrong", "ana", dt.datetime.now(dt.UTC))


# --- files whose rows are not the lake's rows


def test_days_and_wide_files_go_into_the_lake_and_add_up(tmp_path: Path) -> None:
    place = Place(tmp_path, dialect=Dialect.named("canonical").replace(aggregate="sum"))
    days = [dt.date(2026, 10, 24) + dt.timedelta(days=i) for i in range(30)]  # two days into the last week
    place.landing.put("sales/days.csv", text(*((1, "a", day, 10) for day in days)))
    wide = (
        "store,dept," + ",".join(map(str, days[:28])) + "\n2,a," + ",".join(["1"] * 28) + "\n2,b," + ",".join("x" * 28)
    )
    place.landing.put("sales/wide.csv", f"{wide}\n".encode())
    first, second = place.ingest()
    assert (first.rows, first.accepted, first.quarantined, first.stored) == (30, 28, 2, 4)
    assert (second.rows, second.accepted, second.quarantined, second.stored) == (56, 28, 28, 4)
    con = place.lake.attach(duckdb.connect())
    assert con.execute("SELECT store, sum(sales), count(*) FROM raw_sales GROUP BY 1 ORDER BY 1").fetchall() == [
        ("1", 280, 4),
        ("2", 28, 4),
    ]
    assert not landing_report(con, W[0], W[3], []).not_conserved
    con.close()


def test_rows_of_many_series_are_found_in_little_memory(tmp_path: Path):
    """DuckDB does not know how many rows other weeks than the first have. It took them for few, and hashed
    all of them to look up the landings they came with."""
    series, lake = 200_000, Lake.local(tmp_path / "lake", ("p50",), memory_gb=0.1)
    source = {"source_key": "sales/history.parquet", "source_version": "1", "landed_at": NOW}
    said = {"kind": "sales", "status": "ingested", "quarantined": 0, "accepted": 4 * series, "arrived_at": NOW}
    entry = {**source, **said, "first_week": W[0], "last_week": W[3]}
    ledger = pa.Table.from_pylist([entry], schema=lake.specs["landings"].schema)
    lake.replace("landings", EqualTo("source_key", source["source_key"]), ledger)
    schema = lake.specs["raw_sales"].schema
    columns = {
        "store": pa.array(np.arange(series) // 100).cast(pa.string()),
        "dept": pa.array(np.arange(series) % 100).cast(pa.string()),
        "sales": pa.array(np.arange(series, dtype=float)),
        "is_holiday": pa.repeat(False, series),
        **{name: pa.repeat(value, series) for name, value in source.items()},
        "line": pa.array(np.arange(series)),
    }
    rows = [pa.table({"week": pa.repeat(week, series), **columns}).select(schema.names).cast(schema) for week in W]
    lake.replace_weeks("raw_sales", W, pa.concat_tables(rows))
    standing = effect.Standing(lake, Ledger.of(lake))
    standing.connection().execute("SET max_temp_directory_size = '0KB'")
    assert sum(map(len, standing.in_force(W[1], W[3]))) == 3 * series
    standing.close()


def test_files_that_follow_each_other_are_looked_at_some_weeks_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Between two files the whole rest was read at once: of a million series 49 million rows."""
    place.land("sales/a.csv", text(*(("s", "a", week, 100) for week in W[:2])))
    place.land("sales/b.csv", text(*(("s", "a", week, 100) for week in W[2:])))
    monkeypatch.setattr(effect, "AT_ONCE", 1)
    standing = effect.Standing(place.lake, place.ledger)
    assert [len(rows) for rows in standing.in_force(W[0], W[3])] == [1, 1, 1, 1]
    standing.close()
