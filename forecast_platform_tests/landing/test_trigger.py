"""From landed objects to run requests: pure, so every case is a few lines and the clock is an argument."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.place import LandingObject
from forecast_platform.landing.trigger import (
    MOST_LOOKS,
    RECONCILE,
    TRIES,
    Memory,
    Request,
    keys_to_look_at,
    next_request,
    notice,
    uncleaned,
)
from forecast_platform.weeks import WeekCalendar

CALENDAR = WeekCalendar(ends="FRI", first_week=dt.date(2024, 1, 5))
NOW = dt.datetime(2025, 2, 3, 9, tzinfo=dt.UTC)  # Monday: the newest week is 2025-01-31
NEWEST = dt.date(2025, 1, 31)
HISTORY_WEEKS = 4


def week(back: int) -> dt.date:
    """So many weeks before the newest one."""
    return NEWEST - dt.timedelta(weeks=back)


def landed(key: str, version: str = "v1", size: int = 10) -> LandingObject:
    return LandingObject(key, version, size, NOW, NOW)


class Sensor:
    """The sensor's loop without Dagster: what lies in the landing place, what the lake holds, one cursor."""

    def __init__(self, cursor: str | None = None, started: dt.datetime = NOW, byte_limit: int = 10**9) -> None:
        self.memory = Memory.load(cursor, started)
        self.byte_limit = byte_limit
        self.weeks: dict[str, Sequence[dt.date] | FileRefused] = {}  # version -> what is in it
        self.files: dict[str, LandingObject] = {}
        self.ledger: dict[str, str] = {}  # key -> version that a run has ingested
        self.newest_landed: dt.date | None = None
        self.looked_into: list[str] = []

    def drop(self, key: str, *weeks: dt.date, version: str = "v1", size: int = 10) -> None:
        self.files[key] = landed(key, f"{key}@{version}", size)
        self.weeks[f"{key}@{version}"] = weeks

    def drop_unreadable(self, key: str) -> None:
        self.drop(key)
        self.weeks[f"{key}@v1"] = FileRefused("unreadable", key)

    def weeks_in(self, obj: LandingObject) -> Sequence[dt.date]:
        self.looked_into.append(obj.key)
        found = self.weeks[obj.version]
        if isinstance(found, FileRefused):
            raise found
        return found

    def tick(self, now: dt.datetime = NOW) -> Request | None:
        """One look. The run it asks for is done before the next: it ingests every file whose weeks have begun."""
        new = [o for o in self.files.values() if self.ledger.get(o.key) != o.version]
        self.memory = Memory.load(self.memory.dump(), now)
        notice(self.memory, new, self.weeks_in, CALENDAR, now, self.byte_limit)
        newest = CALENDAR.last_started(now)
        request = next_request(self.memory, HISTORY_WEEKS, self.newest_landed, lambda: self.newest_landed, newest)
        if request:
            for obj in new:
                found = self.weeks[obj.version]
                weeks = () if isinstance(found, FileRefused) else found
                if not weeks or min(weeks) <= newest:
                    self.ledger[obj.key] = obj.version
                    self.newest_landed = max([w for w in weeks if w <= newest] + [self.newest_landed or week(999)])
        return request

    def run(self, now: dt.datetime = NOW, ticks: int = 50) -> list[Request]:
        """Tick until nothing is asked for."""
        requests = []
        for _ in range(ticks):
            request = self.tick(now)
            if request is None:
                return requests
            requests.append(request)
        raise AssertionError(f"still asking after {ticks} ticks: {requests[-3:]}")


def kinds(requests: Sequence[Request]) -> list[tuple[str, dt.date, dt.date]]:
    return [(r.kind, r.first, r.last) for r in requests]


def weekly(*weeks: dt.date) -> list[tuple[str, dt.date, dt.date]]:
    return [("week", w, w) for w in weeks]


# --- what starts what


def test_one_week_is_one_request():
    sensor = Sensor()
    sensor.drop("sales/a.csv", week(0))
    assert kinds(sensor.run()) == weekly(week(0))


def test_nothing_landed_is_no_request():
    assert Sensor().run() == []


def test_several_weeks_come_in_order_one_run_each():
    sensor = Sensor()
    for back in (0, 2, 1):
        sensor.drop(f"sales/{back}.csv", week(back))
    assert kinds(sensor.run()) == weekly(week(2), week(1), week(0))


def test_two_files_of_one_week_are_one_request():
    sensor = Sensor()
    sensor.drop("sales/north.csv", week(0))
    sensor.drop("sales/south.csv", week(0))
    assert kinds(sensor.run()) == weekly(week(0))


def test_a_history_is_one_run_over_its_range_and_then_one_forecast_of_the_newest_complete_week():
    sensor = Sensor()
    sensor.drop("sales/history.csv", *(week(back) for back in range(50, -1, -1)))
    assert kinds(sensor.run()) == [("history", week(50), week(0)), *weekly(week(0))]


def test_as_many_weeks_as_the_limit_are_no_history_yet():
    sensor = Sensor()
    sensor.drop("sales/four.csv", *(week(back) for back in range(HISTORY_WEEKS)))
    assert kinds(sensor.run()) == weekly(week(3), week(2), week(1), week(0))


def test_a_history_without_a_complete_week_is_not_followed_by_a_forecast():
    memory = Memory(epoch="e", refresh=True)
    assert next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST) is None
    assert next_request(memory, HISTORY_WEEKS, week(0), lambda: week(0), NEWEST) is None, "asked once, not for ever"


def test_a_restated_old_week_runs_and_then_the_newest_is_forecast_again():
    sensor = Sensor()
    sensor.drop("sales/new.csv", week(0))
    sensor.run()
    sensor.drop("sales/old.csv", week(9))
    assert kinds(sensor.run()) == weekly(week(9), week(0))


def test_two_restated_weeks_are_followed_by_one_refresh():
    sensor = Sensor()
    sensor.drop("sales/new.csv", week(0))
    sensor.run()
    sensor.drop("sales/old.csv", week(9), week(8))
    assert kinds(sensor.run()) == weekly(week(9), week(8), week(0))


def test_the_newest_week_restated_is_one_request():
    sensor = Sensor()
    sensor.drop("sales/new.csv", week(0))
    sensor.run()
    sensor.drop("sales/new.csv", week(0), version="v2")
    assert kinds(sensor.run()) == weekly(week(0))


# --- the same again


def test_the_same_version_is_not_asked_for_twice_while_its_run_has_not_ingested_it():
    memory, obj = Memory(epoch="e"), landed("sales/a.csv")
    for expected in (1, 0, 0):
        notice(memory, [obj], lambda _: [week(0)], CALENDAR, NOW)
        asked = next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST)
        assert (asked is not None) == bool(expected)


def test_another_version_of_what_a_run_was_asked_for_is_asked_for_too():
    """The run may have read the one before."""
    memory, asked = Memory(epoch="e"), []
    for version in ("v1", "v2", "v2"):
        notice(memory, [landed("sales/a.csv", version)], lambda _: [week(0)], CALENDAR, NOW)
        asked.append(next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST))
    assert [request is not None for request in asked] == [True, True, False]


def test_content_that_goes_and_comes_back_gets_a_fresh_run_key_each_time():
    sensor, run_keys = Sensor(), []
    for version in ("A", "B", "A", "B", "A"):
        sensor.drop("sales/a.csv", week(0), version=version)
        run_keys += [r.run_key for r in sensor.run()]
    assert len(run_keys) == 5
    assert len(set(run_keys)) == 5


def test_a_version_replaced_before_its_run_started_leaves_one_request_for_the_week():
    memory = Memory(epoch="e")
    for version in ("v1", "v2"):
        notice(memory, [landed("sales/a.csv", version)], lambda _: [week(0)], CALENDAR, NOW)
    assert kinds([next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST)]) == weekly(week(0))
    assert next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST) is None


def test_a_cursor_that_was_reset_never_meets_an_old_run_key():
    run_keys = set()
    for started in (NOW, NOW + dt.timedelta(seconds=1)):
        sensor = Sensor(started=started)
        sensor.drop("sales/a.csv", week(0))
        (request,) = sensor.run()
        run_keys.add(request.run_key)
    assert len(run_keys) == 2


def test_the_run_key_names_the_week():
    sensor = Sensor()
    sensor.drop("sales/a.csv", week(0))
    (request,) = sensor.run()
    assert request.run_key.startswith("2025-01-31:")


# --- what waits


def test_a_file_of_the_future_is_parked_and_named_and_released_when_its_week_begins():
    sensor = Sensor()
    sensor.drop("sales/next.csv", week(-1))
    assert sensor.run() == []
    assert sensor.memory.parked == {"sales/next.csv": "its first week 2025-02-07 has not begun"}
    assert kinds(sensor.run(NOW + dt.timedelta(days=4))) == weekly(week(-1))
    assert sensor.memory.parked == {}


def test_a_parked_file_does_not_hold_up_the_others():
    sensor = Sensor()
    sensor.drop("sales/next.csv", week(-1))
    sensor.drop("sales/now.csv", week(0))
    assert kinds(sensor.run()) == weekly(week(0))
    assert list(sensor.memory.parked) == ["sales/next.csv"]


def test_a_file_that_reaches_into_the_future_runs_for_the_weeks_that_have_begun():
    sensor = Sensor()
    sensor.drop("sales/both.csv", week(0), week(-1))
    assert kinds(sensor.run()) == weekly(week(0))


def test_a_file_before_the_first_week_is_parked_and_the_setting_to_change_is_named():
    sensor = Sensor()
    sensor.drop("sales/ancient.csv", dt.date(2019, 1, 4))
    assert sensor.run() == []
    assert sensor.memory.parked == {
        "sales/ancient.csv": "its last week 2019-01-04 lies before 2024-01-05; set FORECAST_FIRST_WEEK"
    }


def test_a_parked_file_that_was_corrected_runs():
    sensor = Sensor()
    sensor.drop("sales/a.csv", week(-1))
    assert sensor.run() == []
    sensor.drop("sales/a.csv", week(0), version="v2")
    assert kinds(sensor.run()) == weekly(week(0))


def test_a_parked_file_that_was_taken_away_is_named_no_more():
    sensor = Sensor()
    sensor.drop("sales/a.csv", week(-1))
    sensor.run()
    sensor.files.clear()
    sensor.run()
    assert sensor.memory.parked == {}


def test_a_parked_file_is_not_read_again_at_every_look():
    sensor = Sensor()
    sensor.drop("sales/next.csv", week(-1))
    for _ in range(3):
        sensor.run()
        assert list(sensor.memory.parked) == ["sales/next.csv"]
    assert sensor.looked_into == ["sales/next.csv"]


# --- files without a week


def test_an_unreadable_file_gets_a_run_that_quarantines_it():
    sensor = Sensor()
    sensor.drop_unreadable("sales/broken.csv")
    assert kinds(sensor.run()) == [("files", NEWEST, NEWEST)]


def test_stores_features_and_calendar_are_brought_in_without_a_forecast():
    sensor = Sensor()
    for kind in ("stores", "features", "calendar"):
        sensor.drop(f"{kind}/x.csv", week(0))
    assert kinds(sensor.run()) == [("files", NEWEST, NEWEST)]
    assert sensor.looked_into == [], "only sales have weeks to run for"


def test_a_refused_file_beside_good_ones_costs_no_run_of_its_own():
    sensor = Sensor()
    sensor.drop_unreadable("sales/broken.csv")
    sensor.drop("sales/good.csv", week(0))
    assert kinds(sensor.run()) == weekly(week(0))


def test_a_file_outside_the_known_folders_starts_nothing():
    sensor = Sensor()
    sensor.drop("misplaced.csv", week(0))
    assert sensor.run() == []


def test_a_file_whose_weeks_are_unknown_is_ingested_before_any_week_runs():
    memory = Memory(epoch="e")
    weeks = {"sales/huge.csv": None, "sales/now.csv": [week(0)]}
    notice(memory, [landed(k) for k in weeks], lambda o: weeks[o.key], CALENDAR, NOW)
    asked = [next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST) for _ in range(3)]
    assert kinds([r for r in asked if r]) == [("files", NEWEST, NEWEST), *weekly(week(0))]
    uncleaned(memory, [week(3), week(0)])  # as the ledger says after the first
    assert sorted(memory.pending) == [week(3).isoformat(), week(0).isoformat()]


# --- runs that fail


@pytest.mark.parametrize("backs", [[0], [5, 4, 3, 2, 1, 0]], ids=["week", "history"])
def test_a_failed_run_is_asked_for_again_three_times_in_all_and_then_given_up(backs: list[int]):
    memory, run_keys = Memory(epoch="e"), []
    files = [landed(f"sales/{back}.csv", f"v{back}") for back in backs]
    for _ in range(9):
        notice(memory, files, lambda o: [week(int(o.version[1:]))], CALENDAR, NOW)
        request = next_request(memory, HISTORY_WEEKS, NEWEST, lambda: None, NEWEST)
        if request is None:
            break
        assert (request.first, request.last) == (week(max(backs)), week(0))
        run_keys.append(request.run_key)
        memory.ended(False, NOW, "run 7 ended in FAILURE")
    assert len(run_keys) == len(set(run_keys)) == TRIES
    assert memory.given_up == {week(b).isoformat(): ["run 7 ended in FAILURE", NOW.isoformat()] for b in backs}
    uncleaned(memory, [week(b) for b in backs])
    assert memory.pending == {}, "given up"
    notice(memory, [landed("sales/mended.csv", "v")], lambda _: [week(b) for b in backs], CALENDAR, NOW)
    assert next_request(memory, HISTORY_WEEKS, NEWEST, lambda: None, NEWEST) is not None, "a new file tries anew"
    memory.ended(True, NOW)
    assert (memory.given_up, memory.failures) == ({}, {})


def test_files_without_a_week_are_asked_for_again_too():
    memory = Memory(epoch="e")
    for _ in range(2):
        notice(memory, [landed("stores/s.csv")], lambda _: [], CALENDAR, NOW)
        request = next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST)
        assert request is not None
        assert request.kind == "files"
        memory.ended(False, NOW, "why")
    assert memory.failures == {"files": 2}


# --- a bounded look


def test_no_more_bytes_are_looked_into_than_the_limit_and_the_rest_comes_later():
    sensor = Sensor(byte_limit=25)
    for back in (2, 1, 0):
        sensor.drop(f"sales/{back}.csv", week(back), size=10)
    sensor.tick()
    assert sensor.looked_into == ["sales/2.csv", "sales/1.csv"]


def test_everything_is_looked_into_in_the_end():
    memory, seen, asked = Memory(epoch="e"), [], []
    files = [landed(f"sales/{back}.csv", f"v{back}") for back in (6, 5, 4, 3, 2, 1, 0)]

    def weeks_in(obj: LandingObject) -> list[dt.date]:
        seen.append(obj.key)
        return [week(int(obj.version[1:]))]

    for _ in range(20):
        notice(memory, files, weeks_in, CALENDAR, NOW, byte_limit=20)
        asked.append(next_request(memory, HISTORY_WEEKS, None, lambda: None, NEWEST))
    assert kinds([r for r in asked if r]) == weekly(*(week(back) for back in (6, 5, 4, 3, 2, 1, 0)))
    assert len(seen) == len(set(seen)) == 7


def test_a_file_larger_than_the_limit_is_looked_into_alone():
    sensor = Sensor(byte_limit=25)
    sensor.drop("sales/huge.csv", week(1), size=1000)
    sensor.drop("sales/small.csv", week(0))
    assert kinds(sensor.run()) == weekly(week(1))
    sensor = Sensor(byte_limit=25)
    sensor.drop("sales/huge.csv", week(0), size=1000)
    assert kinds(sensor.run()) == weekly(week(0))


def test_a_large_parked_file_does_not_use_up_every_look():
    sensor = Sensor(byte_limit=25)
    sensor.drop("sales/next.csv", week(-1), size=1000)
    sensor.drop("sales/now.csv", week(0))
    assert sensor.tick() is None
    assert kinds(sensor.run()) == weekly(week(0))


def test_what_was_too_much_for_one_look_is_looked_at_the_next_time_without_being_told_of():
    sensor = Sensor(byte_limit=25)
    for back in (2, 1, 0):
        sensor.drop(f"sales/{back}.csv", week(back), size=10)
    sensor.tick()
    assert sensor.memory.later == ["sales/0.csv"]
    assert "sales/0.csv" in sensor.memory.waiting
    sensor.tick()
    assert sensor.memory.later == []


# --- where to look


def test_everything_is_listed_first_and_every_so_often_and_what_is_told_of_in_between():
    memory = Memory("e", requested={"sales/r.csv": "v"}, parked={"sales/p.csv": "waits"}, later=["sales/l.csv"])
    assert keys_to_look_at(memory, ["sales/a.csv"], NOW) is None
    memory.listed = NOW.isoformat()
    known = ["sales/l.csv", "sales/p.csv", "sales/r.csv"]
    assert keys_to_look_at(memory, ["sales/a.csv", "sales/p.csv"], NOW) == ["sales/a.csv", *known]
    assert keys_to_look_at(memory, [], NOW + RECONCILE - dt.timedelta(seconds=1)) == known
    assert keys_to_look_at(memory, [], NOW + RECONCILE) is None


def test_more_objects_than_are_worth_looking_at_one_by_one_are_listed():
    memory = Memory("e", listed=NOW.isoformat())
    names = [f"sales/{i}.csv" for i in range(MOST_LOOKS + 1)]
    assert keys_to_look_at(memory, names[1:], NOW) == sorted(names[1:])
    assert keys_to_look_at(memory, names, NOW) is None


# --- memory


def test_the_memory_survives_being_written_down():
    memory = Memory("e", 3, {"k": "v"}, {"2025-01-31": ["v"]}, ["l"], {"p": "why"}, refresh=True)
    assert Memory.load(memory.dump(), NOW) == memory


def test_a_cursor_of_an_earlier_version_still_loads():
    fields = {"epoch": "e", "sent": 1, "requested": {}, "pending": {}, "loose": [], "parked": {}, "refresh": False}
    assert Memory.load(json.dumps(fields), NOW) == Memory("e", sent=1)


# --- any order

DROPS = st.lists(st.lists(st.integers(-2, 12), min_size=1, max_size=6, unique=True), min_size=1, max_size=6)


@given(drops=DROPS, per_look=st.integers(1, 6), data=st.data())
def test_whatever_the_order_each_known_week_of_each_file_is_asked_for_exactly_once(
    drops: list[list[int]], per_look: int, data: st.DataObject
):
    """Files arrive in any order, some at each look. Every week that has begun is covered after its file arrived, none
    twice for the same files, and between two arrivals the weeks ascend."""
    contents = {f"sales/{i}.csv": [week(back) for back in sorted(backs, reverse=True)] for i, backs in enumerate(drops)}
    waiting = data.draw(st.permutations(sorted(contents)))
    memory, there = Memory(epoch="e"), []
    uncovered: set[tuple[str, dt.date]] = set()
    run_keys: list[str] = []
    while waiting or memory.pending:
        arrived, waiting = waiting[:per_look], waiting[per_look:]
        there += [landed(key, f"version of {key}") for key in arrived]
        uncovered |= {(key, w) for key in arrived for w in contents[key] if w <= NEWEST}
        notice(memory, there, lambda o: contents[o.key], CALENDAR, NOW)
        last = dt.date.min
        for _ in range(data.draw(st.integers(0, 8)) if waiting else 99):
            request = next_request(memory, HISTORY_WEEKS, NEWEST, lambda: None, NEWEST)
            if request is None:
                break
            assert request.kind in ("week", "history")
            covered = {(key, w) for key, w in uncovered if request.first <= w <= request.last}
            assert {w for _, w in covered} >= {request.first, request.last}, "asked for without need"
            assert request.first > last, "out of order"
            last = request.last
            uncovered -= covered
            run_keys.append(request.run_key)
    assert uncovered == set()
    assert len(run_keys) == len(set(run_keys))
    assert set(memory.parked) == {key for key, weeks in contents.items() if min(weeks) > NEWEST}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 8)), min_size=1, max_size=12))
def test_whatever_is_dropped_and_replaced_the_loop_comes_to_rest(steps: list[tuple[int, int]]):
    """Each step replaces one of four files by other content, while the sensor runs."""
    sensor, run_keys = Sensor(), []
    for number, (file, back) in enumerate(steps):
        sensor.drop(f"sales/{file}.csv", week(back), version=str(number))
        requests = sensor.run(ticks=20)
        assert [(r.first, r.last) for r in requests[:1]] == ([(week(back), week(back))] if back >= 0 else [])
        run_keys += [r.run_key for r in requests]
    assert len(run_keys) == len(set(run_keys))
