"""Failed runs are written down without secrets, and crossed out by the run that mends them and by no other."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import pytest

from forecast_platform import failures
from forecast_platform.failures import Failure, Run, record_failures, record_success, without_secrets
from forecast_platform.lake.lake import Lake
from forecast_platform_tests.conftest import weeks_of

NOW = dt.datetime(2025, 2, 3, 7, tzinfo=dt.UTC)
W1, W2 = dt.date(2025, 1, 24), dt.date(2025, 1, 31)


def open_ones(lake: Lake) -> list[tuple]:
    rows = lake.query("SELECT week, job, step FROM open_failures ORDER BY failed_at, step").to_pylist()
    return [tuple(row.values()) for row in rows]


def fail(
    lake: Lake, run_id: str, job: str, weeks: tuple = (W1,), step: str = "deepar_model", message: str = "no"
) -> None:
    record_failures(lake, Run(run_id, job, weeks), [Failure(step, message)], NOW, ("hunter2",))


def test_a_failure_is_written_down_once_with_the_newest_of_its_weeks(lake: Lake):
    for _ in range(2):
        fail(lake, "r1", "ingest_history", (W1, W2), "raw_sales")
    (row,) = lake.read("run_failures").to_pylist()
    assert (row["week"], row["weeks"], row["run_id"], row["step"], row["failed_at"]) == (W2, 2, "r1", "raw_sales", NOW)


@pytest.mark.parametrize(
    ("job", "step", "by", "weeks", "mended"),
    [
        ("weekly_forecast", "deepar_model", "weekly_forecast", (W1,), True),
        ("weekly_forecast", "deepar_model", "weekly_forecast", (W2,), False),
        ("weekly_forecast", "deepar_model", "ingest_history", (W1, W2), False),
        ("weekly_forecast", "raw_sales", "ingest_history", (W1, W2), True),
        ("ingest_history", "cleaned_series", "weekly_forecast", (W1,), True),
        ("ingest_history", "", "ingest_history", (W1, W2), True),
        ("lake_maintenance", "maintain_lake", "lake_maintenance", (), True),
        ("lake_maintenance", "maintain_lake", "weekly_forecast", (W1,), False),
    ],
)
def test_what_mends_a_failure(lake: Lake, job, step, by, weeks, mended):
    fail(lake, "r1", job, (W1,) if job != "lake_maintenance" else (), step)
    fail(lake, "r2", "weekly_forecast", (dt.date(2024, 1, 5),), "other")
    record_success(lake, Run("r3", by, weeks), NOW + dt.timedelta(hours=1))
    assert len(open_ones(lake)) == 2 - mended
    if mended:
        row = next(r for r in lake.read("run_failures").to_pylist() if r["run_id"] == "r1")
        assert (row["mended_by"], row["message"]) == ("r3", "no")


def test_a_success_without_failures_writes_nothing(lake: Lake):
    record_success(lake, Run("r1", "weekly_forecast", (W1,)), NOW)
    assert lake.snapshot("run_failures") is None


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("no login with hunter2 here", "no login with *** here"),
        ("postgresql://me:geheim@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("GET https://a.example/x?api_key=abc&week=1", "GET https://a.example/x?api_key=***&week=1"),
        ("SMTP_PASSWORD='geheim' is set", "SMTP_PASSWORD='***' is set"),
        ("https://hooks.slack.com/services/T1/B2/xyz timed out", "https://hooks.slack.com/*** timed out"),
        ("AKIAABCDEFGHIJKLMNOP was denied", "*** was denied"),
        ("store 1, dept 2: 3 weeks are missing", "store 1, dept 2: 3 weeks are missing"),
    ],
)
def test_no_secret_is_written_down(lake: Lake, text, clean):
    assert without_secrets(text, ("hunter2", "")) == clean
    fail(lake, "r1", "weekly_forecast", message=text)
    assert lake.read("run_failures")["message"].to_pylist() == [clean]


def test_a_lake_that_cannot_be_written_does_not_hide_the_failure(lake: Lake, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(lake, "replace", full)
    fail(lake, "r1", "weekly_forecast")
    assert "the failure of run r1 could not be written down" in caplog.text


def test_a_failed_run_of_the_graph_is_written_down_by_the_sensor_and_mended_by_the_next(with_history, retailer):
    """The week after the history has no sales: a blocking check ends the run, and says what it found."""
    from forecast_platform.defs.run_failures import failed_runs, failed_steps, mended_runs, run_of

    graph, week = with_history, weeks_of(retailer)[-3]
    result = graph.week(week, only=["raw_sales", "cleaned_series"])
    assert not result.success
    (failed,) = failed_steps(result.events)
    assert "week_complete" in failed.message
    run = graph.instance.get_run_by_id(result.run_id)
    event = next(e for e in reversed(result.events) if e.event_type_value == "PIPELINE_FAILURE")
    context = dg.build_run_status_sensor_context(
        "failed_runs", event, graph.instance, run, resources={"platform": graph.platform}
    )
    failed_runs(context.for_run_failure())
    assert open_ones(graph.lake) == [(week, "weekly_forecast", failed.step)]

    what = run_of("another", run.job_name, {"dagster/partition": str(week)})
    assert what == failures.Run("another", "weekly_forecast", (week,))
    record_success(graph.lake, what, NOW)
    assert open_ones(graph.lake) == []
    assert mended_runs.default_status is dg.DefaultSensorStatus.RUNNING


def test_the_sensors_are_loaded():
    from forecast_platform.definitions import defs

    names = {sensor.name for sensor in defs.sensors or ()}
    assert {"failed_runs", "mended_runs", "notifier", "landing_sensor"} <= names
