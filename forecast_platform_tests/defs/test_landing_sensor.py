"""The sensor over a real lake and folder: run requests and the cursor it leaves behind, tick by tick."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from forecast_platform.defs.landing_sensor import LANDING_TAG, RUN_KEY, landing_sensor
from forecast_platform.demo import MadeUpRetailer, history_files, week_file
from forecast_platform.landing.ledger import Ledger
from forecast_platform.landing.place import LandingError
from forecast_platform.settings import Settings
from forecast_platform.weeks import key
from forecast_platform_tests.conftest import SMALL, weeks_of
from forecast_platform_tests.defs.graph import Graph

GOOD = "store,dept,date,weekly_sales\n"


class Ticking:
    """The sensor and its cursor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.cursor: str | None = None
        self.run_keys: list[str] = []

    def until_rest(self) -> list[str]:
        """Ticks and the runs they ask for, until nothing is asked for: job and partition of each."""
        names: list[str] = []
        for _ in range(9):
            requests = self.tick().run_requests
            if not requests:
                return names
            (request,) = requests
            tags = {k: v for k, v in request.tags.items() if k.startswith(("forecast/", "dagster/asset_partition"))}
            week = dt.date.fromisoformat(request.partition_key) if request.partition_key else None
            only = [k.to_user_string() for k in request.asset_selection or ()]
            result = self.graph.run(request.job_name, week, only, {**tags, RUN_KEY: request.run_key})
            assert result.success, result.failures
            names.append(f"{request.job_name} {request.partition_key}")
            self.run_keys.append(request.run_key)
        raise AssertionError(f"no rest: {names}")

    def tick(self) -> Any:
        with dg.build_sensor_context(
            instance=self.graph.instance,
            cursor=self.cursor,
            definitions=self.graph.defs,
            resources=self.graph.resources,
        ) as context:
            result = landing_sensor.evaluate_tick(context)
        assert result.cursor is not None
        self.cursor = result.cursor
        return result

    def fail(self, request: dg.RunRequest, status: dg.DagsterRunStatus = dg.DagsterRunStatus.FAILURE) -> None:
        """The run that was asked for comes to nothing before it did anything."""
        job = self.graph.defs.resolve_job_def(request.job_name)
        tags = {**LANDING_TAG, RUN_KEY: request.run_key}
        self.graph.instance.create_run_for_job(job, tags=tags, status=status)

    @property
    def memory(self) -> dict[str, Any]:
        """The cursor, without what is different each time."""
        assert self.cursor is not None
        found = json.loads(self.cursor)
        assert found.pop("epoch")
        return found


@pytest.fixture
def sensor(graph: Graph) -> Ticking:
    return Ticking(graph)


def sales(*weeks: dt.date, store: int = 1) -> bytes:
    return (GOOD + "".join(f"{store},1,{week},10\n" for week in weeks)).encode()


def version(graph: Graph, name: str) -> str:
    (found,) = [o.version for o in graph.platform.landing.list() if o.key == name]
    return found


def next_week(graph: Graph) -> dt.date:
    """A week that has not begun."""
    return graph.platform.settings.calendar.last_started(dt.datetime.now(dt.UTC)) + dt.timedelta(weeks=1)


W = [dt.date(2025, 1, 3) + dt.timedelta(weeks=i) for i in range(5)]
AT_REST = {
    "sent": 0,
    "requested": {},
    "pending": {},
    "loose": [],
    "parked": {},
    "refresh": False,
    "spans": {},
    "later": [],
    "listed": "",
    "observed": 0,
    "model": "",
    "unknown": False,
    "asked": {},
    "failures": {},
    "given_up": {},
}


def test_nothing_landed_is_a_skip_that_says_so(sensor: Ticking):
    result = sensor.tick()
    assert (result.run_requests, result.skip_message) == ([], "nothing new landed")
    assert sensor.memory == AT_REST


def test_one_week_runs_the_whole_graph_for_its_partition(sensor: Ticking):
    sensor.graph.land({"sales/a.csv": sales(W[4])})
    (request,) = sensor.tick().run_requests
    assert (request.job_name, request.partition_key) == ("weekly_forecast", "2025-01-31")
    assert request.asset_selection is None
    assert request.tags["forecast/started_by"] == "landing"
    assert request.run_key.startswith("2025-01-31:")
    assert request.run_key.endswith(".1")
    found = version(sensor.graph, "sales/a.csv")
    asked = {"run_key": request.run_key, "weeks": {"2025-01-31": [found]}, "loose": []}
    assert sensor.memory == AT_REST | {"sent": 1, "requested": {"sales/a.csv": found}, "asked": asked}
    assert sensor.tick().skip_message == "nothing new landed"


def test_weeks_come_in_order_one_a_tick(sensor: Ticking):
    for week in (W[4], W[2], W[3]):
        sensor.graph.land({f"sales/{week}.csv": sales(week)})
    asked = [[r.partition_key for r in sensor.tick().run_requests] for _ in range(4)]
    assert asked == [["2025-01-17"], ["2025-01-24"], ["2025-01-31"], []]


def test_nothing_is_asked_for_while_a_landing_run_is_unfinished(sensor: Ticking):
    run = sensor.graph.instance.create_run_for_job(
        sensor.graph.defs.resolve_job_def("weekly_forecast"), tags=LANDING_TAG, status=dg.DagsterRunStatus.STARTED
    )
    for week in W[3:]:
        sensor.graph.land({f"sales/{week}.csv": sales(week)})
    result = sensor.tick()
    assert result.run_requests == []
    assert result.skip_message == "a run is going; waiting for it: 2025-01-24, 2025-01-31"
    assert sorted(sensor.memory["pending"]) == ["2025-01-24", "2025-01-31"]
    sensor.graph.instance.report_run_canceled(run)
    assert [r.partition_key for r in sensor.tick().run_requests] == ["2025-01-24"]


def test_runs_started_by_people_do_not_hold_it_up(sensor: Ticking):
    sensor.graph.instance.create_run_for_job(
        sensor.graph.defs.resolve_job_def("weekly_forecast"), status=dg.DagsterRunStatus.STARTED
    )
    sensor.graph.land({"sales/a.csv": sales(W[4])})
    assert len(sensor.tick().run_requests) == 1


def test_a_history_is_a_range_of_raw_and_clean_weeks(sensor: Ticking, retailer: MadeUpRetailer):
    weeks = weeks_of(retailer)
    sensor.graph.land(history_files(retailer, weeks[-4], dirty_rows=0))
    (request,) = sensor.tick().run_requests
    assert (request.job_name, request.partition_key) == ("ingest_history", None)
    assert [k.to_user_string() for k in request.asset_selection] == ["raw_sales", "cleaned_series"]
    tags = {
        "dagster/asset_partition_range_start": key(weeks[0]),
        "dagster/asset_partition_range_end": key(weeks[-4]),
        "forecast/started_by": "landing",
    }
    assert tags.items() <= request.tags.items()
    assert sensor.memory["refresh"] is True
    assert sensor.memory["pending"] == {}
    assert len(sensor.memory["requested"]) == 4


def test_after_a_history_the_newest_complete_week_is_forecast_once(with_history: Graph, retailer: MadeUpRetailer):
    sensor, (week, *_) = Ticking(with_history), weeks_of(retailer)[-3:]
    # The history went in by hand; the next drop finds it there. One store is not a complete week.
    with_history.land({"sales/part.csv": sales(week, W[0], *W[1:4])})
    sensor.cursor = json.dumps({"epoch": "e", **AT_REST, "refresh": True})
    assert sensor.tick().run_requests, "the drop comes first"
    sensor.graph.platform.landing.root.joinpath("sales/part.csv").unlink()
    sensor.cursor = json.dumps({"epoch": "e", **AT_REST, "refresh": True})
    (request,) = sensor.tick().run_requests
    assert (request.job_name, request.partition_key) == ("weekly_forecast", key(weeks_of(retailer)[-4]))
    assert sensor.tick().run_requests == []
    assert sensor.memory == AT_REST | {"sent": 1}


def test_files_without_a_week_run_raw_sales_for_the_week_they_arrived_in(sensor: Ticking):
    sensor.graph.land({"stores/s.csv": b"store,type\n1,A\n", "sales/broken.csv": b"\xff\xfe"})
    (request,) = sensor.tick().run_requests
    assert (request.job_name, request.partition_key) == (
        "ingest_history",
        key(next_week(sensor.graph) - dt.timedelta(weeks=1)),
    )
    assert [k.to_user_string() for k in request.asset_selection] == ["raw_sales"]
    assert sensor.memory["loose"] == []


def test_a_week_before_the_first_runs_to_quarantine_its_rows(sensor: Ticking):
    """The file's own weeks are not of this calendar, so no partition is asked for that does not exist."""
    sensor.graph.land({"sales/ancient.csv": sales(dt.date(1970, 1, 2))})
    (request,) = sensor.tick().run_requests
    assert [k.to_user_string() for k in request.asset_selection] == ["raw_sales"]
    result = sensor.graph.run(request.job_name, dt.date.fromisoformat(request.partition_key), ["raw_sales"])
    assert result.success
    (row,) = sensor.graph.lake.read("quarantine").to_pylist()
    assert row["rule"] == "nothing_accepted"
    assert "FORECAST_FIRST_WEEK" in row["message"]
    assert sensor.tick().run_requests == []


def test_a_parked_file_is_named_with_the_reason(sensor: Ticking):
    week = next_week(sensor.graph)
    sensor.graph.land({"sales/next.csv": sales(week)})
    result = sensor.tick()
    assert result.run_requests == []
    assert result.skip_message == f"nothing new landed; sales/next.csv waits: its first week {week} has not begun"
    assert sensor.memory["requested"] == {}


def test_a_week_begins_in_utc_wherever_the_machine_stands(home: Path, monkeypatch: pytest.MonkeyPatch):
    """By this machine's own clock it is tomorrow nearly all day long, the day a week ends on."""
    week = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
    graph = Graph(Settings(**SMALL, week_ends=f"{week:%A}"))
    graph.land({"sales/next.csv": sales(week)})
    with monkeypatch.context() as there:
        there.setenv("TZ", "<+2359>-23:59")
        time.tzset()
        result = Ticking(graph).tick()
    time.tzset()
    assert result.run_requests == []
    assert f"its first week {week} has not begun" in result.skip_message


def test_the_weeks_that_a_parked_file_names_do_not_stop_the_others(sensor: Ticking):
    sensor.graph.land({"sales/next.csv": sales(next_week(sensor.graph)), "sales/now.csv": sales(W[4])})
    assert [r.partition_key for r in sensor.tick().run_requests] == ["2025-01-31"]
    assert list(sensor.memory["parked"]) == ["sales/next.csv"]


def test_what_the_lake_holds_is_not_asked_for_with_a_new_cursor(with_history: Graph):
    assert Ticking(with_history).tick().skip_message == "nothing new landed"


def test_weeks_that_were_ingested_and_never_cleaned_are_asked_for(with_history: Graph, retailer: MadeUpRetailer):
    """Whatever ingested them: a run that died, or one that could not know the file's weeks."""
    weeks, sensor = weeks_of(retailer)[-3:], Ticking(with_history)
    with_history.land(dict([week_file(retailer, weeks[0])]))
    assert with_history.week(weeks[1], only=["raw_sales"]).success
    with_history.land(dict([week_file(retailer, weeks[2])]))
    assert [r.partition_key for r in sensor.tick().run_requests] == [key(weeks[0])]
    assert sorted(sensor.memory["pending"]) == [key(weeks[2])]


def test_a_file_too_large_for_a_look_is_ingested_first_and_then_its_weeks_run(
    sensor: Ticking, monkeypatch: pytest.MonkeyPatch
):
    from forecast_platform.landing import peek
    from forecast_platform.landing.place import FolderLanding

    monkeypatch.setattr(peek, "WHOLE", 10)
    sensor.graph.land({"sales/history.csv": sales(*W)})
    with monkeypatch.context() as patch:
        patch.setattr(FolderLanding, "read", lambda *_: pytest.fail("a tick reads no whole file"))
        (request,) = sensor.tick().run_requests
    assert [k.to_user_string() for k in request.asset_selection] == ["raw_sales"]
    week = dt.date.fromisoformat(request.partition_key)
    assert sensor.graph.run(request.job_name, week, ["raw_sales"], {RUN_KEY: request.run_key}).success
    (request,) = sensor.tick().run_requests
    assert request.tags["dagster/asset_partition_range_start"] == key(W[0])
    assert request.tags["dagster/asset_partition_range_end"] == key(W[-1])


# --- weeks before the first partition


class CodeServer:
    """What the sensor may ask for: one that loads the definitions again, and says how often it was asked."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)

    def create_client(self) -> CodeServer:
        return self

    def reload_code(self, timeout: int) -> None:
        self.asked.release()


def test_weeks_before_the_first_partition_are_ingested_and_run_once_the_definitions_are_loaded_again(
    sensor: Ticking, monkeypatch: pytest.MonkeyPatch
):
    """A running daemon knows the partitions that there were when it loaded the definitions."""
    from forecast_platform.defs import landing_sensor as module
    from forecast_platform.defs import partitions

    server = CodeServer()
    monkeypatch.setattr(dg.SensorEvaluationContext, "code_location_origin", server)
    monkeypatch.setattr(module, "_begun_anew", threading.Event())
    monkeypatch.setattr(partitions, "SHOWN", True)
    monkeypatch.setattr(partitions, "FIRST", W[3])
    sensor.graph.land({"sales/all.csv": sales(*W)})
    # First the file is only read, by a run that is filed under a week there is.
    (request,) = sensor.tick().run_requests
    assert [k.to_user_string() for k in request.asset_selection] == ["raw_sales"]
    week = dt.date.fromisoformat(request.partition_key)
    assert sensor.graph.run(request.job_name, week, ["raw_sales"], {RUN_KEY: request.run_key}).success
    # What can be done goes on, the rest is named; the reload is asked for once.
    (request,) = sensor.tick().run_requests
    assert request.partition_key == key(W[3])
    assert server.asked.acquire(timeout=10)
    week = dt.date.fromisoformat(request.partition_key)
    assert sensor.graph.run(request.job_name, week, ["raw_sales", "cleaned_series"], {RUN_KEY: request.run_key}).success
    (request,) = sensor.tick().run_requests
    week = dt.date.fromisoformat(request.partition_key)
    assert sensor.graph.run(request.job_name, week, ["raw_sales", "cleaned_series"], {RUN_KEY: request.run_key}).success
    result = sensor.tick()
    assert result.run_requests == []
    assert (
        f"weeks from {W[0]} to {W[2]} wait, partitions begin with {W[3]}: if this stays, reload" in result.skip_message
    )
    assert not server.asked.acquire(blocking=False)
    # As the code server loads them then.
    assert partitions.first_landed(Ledger.of(sensor.graph.lake)) == W[0]
    monkeypatch.setattr(partitions, "FIRST", W[0])
    assert [r.partition_key for r in sensor.tick().run_requests] == [key(W[0])]


def test_definitions_loaded_before_anything_landed_are_loaded_again_to_begin_with_the_data(
    with_history: Graph, retailer: MadeUpRetailer, monkeypatch: pytest.MonkeyPatch
):
    from forecast_platform.defs import landing_sensor as module
    from forecast_platform.defs import partitions

    server, sensor = CodeServer(), Ticking(with_history)
    monkeypatch.setattr(dg.SensorEvaluationContext, "code_location_origin", server)
    monkeypatch.setattr(module, "_begun_anew", threading.Event())
    sensor.tick()
    monkeypatch.setattr(partitions, "SHOWN", True)
    monkeypatch.setattr(partitions, "FIRST", weeks_of(retailer)[0])
    sensor.tick()
    assert not server.asked.acquire(timeout=0.2), "they begin there, or are a run's and not shown"
    monkeypatch.setattr(partitions, "FIRST", partitions.CALENDAR.first_week)
    assert sensor.tick().skip_message == "nothing new landed"
    assert server.asked.acquire(timeout=10)


# --- runs that fail


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_run_of_many_files_that_failed_or_was_cancelled_is_asked_for_again(sensor: Ticking, status: Any):
    sensor.graph.land({f"sales/{w}-{s}.csv": sales(w, store=s) for w in W for s in (1, 2)})
    (first,) = sensor.tick().run_requests
    sensor.fail(first, status)
    (second,) = sensor.tick().run_requests
    assert second.run_key != first.run_key
    assert (second.job_name, second.asset_selection) == (first.job_name, first.asset_selection)
    tags = {k: v for k, v in second.tags.items() if k.startswith("dagster/asset_partition")}
    assert tags.items() <= first.tags.items()
    only = [k.to_user_string() for k in second.asset_selection]
    assert sensor.graph.run(second.job_name, None, only, {**tags, RUN_KEY: second.run_key}).success
    count = sensor.graph.lake.query("SELECT count(*) AS n FROM cleaned_series WHERE observed").to_pylist()
    assert count == [{"n": 10}]
    sensor.tick()
    assert (sensor.memory["failures"], sensor.memory["given_up"]) == ({}, {})


def test_a_run_that_a_check_stopped_is_not_asked_for_again(with_history: Graph, retailer: MadeUpRetailer):
    """An incomplete week stays so until another file lands."""
    week, sensor = weeks_of(retailer)[-3], Ticking(with_history)
    with_history.land({"sales/part.csv": sales(week)})
    (request,) = sensor.tick().run_requests
    only = ["raw_sales", "cleaned_series", "deepar_model"]
    result = with_history.run(request.job_name, week, only, {RUN_KEY: request.run_key})
    assert not result.checks["week_complete"].passed
    assert not result.success
    assert sensor.tick().run_requests == []
    assert (sensor.memory["failures"], sensor.memory["given_up"]) == ({}, {})


def test_after_three_failed_runs_a_week_is_given_up_and_named_until_a_run_for_it_succeeds(sensor: Ticking):
    sensor.graph.land({"sales/a.csv": sales(W[4])})
    keys = []
    for _ in range(3):
        (request,) = sensor.tick().run_requests
        keys.append(request.run_key)
        sensor.fail(request)
    assert len(set(keys)) == 3
    for _ in range(2):
        result = sensor.tick()
        assert result.run_requests == []
        assert "GIVEN UP after 3 failed runs: 2025-01-31: run " in result.skip_message
    assert sensor.graph.week(W[4], only=["raw_sales", "cleaned_series"]).success
    assert sensor.tick().skip_message == "nothing new landed"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_landing_folder_that_cannot_be_read_is_an_error_not_silence(sensor: Ticking):
    folder = sensor.graph.platform.landing.root
    folder.chmod(0)
    try:
        with pytest.raises(LandingError, match="access denied"):
            sensor.tick()
    finally:
        folder.chmod(0o755)


def test_a_landing_place_that_is_no_folder_is_an_error_not_silence(home: Path, tmp_path: Path):

    (tmp_path / "file").write_text("not a folder")
    graph = Graph(Settings(**SMALL, landing_url=str(tmp_path / "file")))
    with pytest.raises(LandingError):
        Ticking(graph).tick()


def test_an_unreachable_bucket_is_an_error_not_silence(home: Path, monkeypatch: pytest.MonkeyPatch):
    from forecast_platform.defs.resources import Platform

    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    platform = Platform(Settings(**SMALL, landing_url="s3://no-such-bucket"))
    with dg.build_sensor_context(instance=dg.DagsterInstance.ephemeral()) as context, pytest.raises(LandingError):
        landing_sensor(context, platform=platform)


def test_a_file_replaced_while_it_is_looked_at_ends_the_tick_and_keeps_the_cursor(
    sensor: Ticking, monkeypatch: pytest.MonkeyPatch
):
    from forecast_platform.landing.place import FolderLanding

    sensor.graph.land({"sales/a.csv": sales(W[4])})
    read = FolderLanding.read

    def replaced_meanwhile(landing: FolderLanding, obj: Any) -> bytes:
        landing.put(obj.key, sales(W[3]))
        return read(landing, obj)

    with monkeypatch.context() as patch:
        patch.setattr(FolderLanding, "read", replaced_meanwhile)
        with pytest.raises(LandingError, match="replaced since"):
            sensor.tick()
    assert sensor.cursor is None
    assert [r.partition_key for r in sensor.tick().run_requests] == ["2025-01-24"]


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, home: Path, tables_home: Callable[[Path], Path]) -> Graph:
    """The graph over a landing folder, and over a bucket."""
    tables_home(home)
    if request.param == "folder":
        return Graph(Settings(**SMALL))
    request.getfixturevalue("s3")
    return Graph(Settings(**SMALL, landing_url="s3://drop/in"))


def test_the_whole_loop_from_a_history_to_rest(anywhere: Graph, retailer: MadeUpRetailer):
    """Ticks and the runs they ask for, until nothing is asked for: one forecast a drop, and everything ingested."""
    graph = anywhere
    sensor, weeks = Ticking(graph), weeks_of(retailer)
    graph.land(history_files(retailer, weeks[-4], dirty_rows=0))
    assert sensor.until_rest() == ["ingest_history None", f"weekly_forecast {weeks[-4]}"]
    graph.land(dict([week_file(retailer, weeks[-3])]))
    assert sensor.until_rest() == [f"weekly_forecast {weeks[-3]}"]
    name, data = week_file(retailer, weeks[-3])
    graph.land({name: data.replace(b",FALSE", b",TRUE")})
    assert sensor.until_rest() == [f"weekly_forecast {weeks[-3]}"]
    assert len(set(sensor.run_keys)) == 4
    forecast_weeks = graph.lake.query("SELECT DISTINCT forecast_week FROM forecasts ORDER BY 1").to_pylist()
    assert [row["forecast_week"] for row in forecast_weeks] == weeks[-4:-2]
    assert sensor.tick().run_requests == []
