"""Page one begins with what is wrong, worked out from the tables: each kind of trouble, and that nothing is claimed
that was not looked at."""

from __future__ import annotations

import datetime as dt
import html
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.expressions import AlwaysTrue
from starlette.testclient import TestClient

from forecast_platform.dashboard.app import build_app
from forecast_platform.dashboard.source import Source
from forecast_platform.dashboard.troubles import Findings, troubles
from forecast_platform.lake.lake import Lake
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL

WEEK = dt.timedelta(weeks=1)
NEWEST = dt.date(2025, 1, 31)
MONDAY = dt.datetime(2025, 2, 3, 6, tzinfo=dt.UTC)  # its sales land three days after it ends
STORES = tuple("123456789")


class Story:
    """A lake told week by week: who reported, what landed when, what was forecast."""

    def __init__(self, lake: Lake) -> None:
        self.lake, self.landed, self.refused = lake, [], []  # type: ignore[var-annotated]

    def week(self, back: int, stores: Sequence[str] = STORES, forecast: bool = True, days: int = 3) -> Story:
        """The week `back` weeks before NEWEST: two departments of each of `stores` report, `days` after it ends."""
        week = NEWEST - back * WEEK
        rows = [
            {"week": week, "store": s, "dept": d, "sales": 10.0, "observed": True, "is_return": False,
             "is_restated": False, "is_holiday": False, "landed_at": MONDAY, "source_key": "s"}
            for s in stores for d in "ab"
        ]  # fmt: skip
        self._replace("cleaned_series", week, rows)
        at = dt.datetime.combine(week + dt.timedelta(days=days), dt.time(6), dt.UTC)
        self.file(f"sales/{week}.csv", at, rows=len(rows), accepted=len(rows), first_week=week, last_week=week, weeks=1)
        if forecast:
            made = {"forecast_week": week, "level": "series", "store": "1", "dept": "a", "target_week": week + WEEK,
                    "horizon": 1, "created_at": at + dt.timedelta(hours=1), "p10": 8.0, "p50": 10.0, "p90": 12.0,
                    "mean": 10.0}  # fmt: skip
            self._replace("forecasts", week, [made, made | {"level": "total", "store": None, "dept": None}])
        return self

    def file(self, key: str, at: dt.datetime, status: str = "ingested", **more: Any) -> Story:
        self.landed.append(
            {"source_key": key, "source_version": str(len(self.landed)), "landed_at": at, "arrived_at": at,
             "kind": "sales", "status": status, "quarantined": 0, "accepted": 0, "rows": 0} | more
        )  # fmt: skip
        return self

    def line(self, key: str, at: dt.datetime, line: int, rule: str, message: str) -> Story:
        self.refused.append(
            {"landed_date": at.date(), "source_key": key, "source_version": "0", "landed_at": at, "line": line,
             "rule": rule, "field": "date", "value": "?", "message": message}
        )  # fmt: skip
        return self

    def told(self, now: dt.datetime | None = MONDAY + dt.timedelta(hours=2), *sql: str) -> Findings:
        self._all("landings", self.landed)
        self._all("quarantine", self.refused)
        state = Source(self.lake).state()
        for statement in sql:
            state._connection.execute(statement)
        return troubles(state, Settings(**SMALL), now)

    def _replace(self, table: str, week: dt.date, rows: list[dict[str, Any]]) -> None:
        self.lake.replace_weeks(table, [week], pa.Table.from_pylist(rows, schema=self.lake.specs[table].schema))

    def _all(self, table: str, rows: list[dict[str, Any]]) -> None:
        schema = self.lake.specs[table].schema
        self.lake.replace(table, AlwaysTrue(), pa.Table.from_pylist(rows, schema=schema))


@pytest.fixture
def story(lake: Lake) -> Story:
    return Story(lake).week(4).week(3).week(2).week(1)


def kinds(found: Findings) -> list[str]:
    return [t.kind for t in found.troubles]


def test_when_all_is_well_one_line_says_what_was_looked_at(story: Story) -> None:
    found = story.week(0).told()
    assert not found
    assert found.checked.startswith(
        "the week of 2025-01-31 is complete (18 of 18 series); no week is late; no file since then was refused, "
        "waits or was warned about"
    )


def test_an_incomplete_week_comes_first_and_names_who_is_missing(story: Story) -> None:
    """29 of 167 series landed, the run failed, and the page said "ingested, 29, 0 refused"."""
    found = story.week(0, stores=("1", "2"), forecast=False).told()
    (first, *_) = found.troubles
    assert (first.kind, first.serious) == ("incomplete", True)
    assert "4 of the 18 series that usually report have landed (22%, 80% are needed)" in first.text
    assert "the week of 2025-01-24 at most" in first.text
    assert "Nothing came from stores 3, 4, 5, 6, 7, 8, 9." in first.text
    assert first.step.endswith("forecast run --week 2025-01-31")
    assert "complete" not in found.checked


def test_a_store_missing_from_a_week_that_counts_as_complete_is_named(story: Story) -> None:
    (only,) = story.week(0, stores=STORES[:8]).told().troubles
    assert (only.kind, only.serious) == ("incomplete", False)
    assert "Nothing came from store 9." in only.text


def test_a_complete_week_without_a_forecast_is_said(story: Story) -> None:
    (only,) = story.week(0, forecast=False).told().troubles
    assert only.text == (
        "The week of 2025-01-31 is complete, but has no forecast: what is shown was made after the week of 2025-01-24."
    )
    assert "forecast run --week 2025-01-31" in only.step


def test_a_week_is_late_by_how_the_weeks_before_came(story: Story) -> None:
    assert kinds(story.told(MONDAY + dt.timedelta(hours=1))) == []
    (late,) = story.told(MONDAY + dt.timedelta(days=2)).troubles
    assert (late.kind, late.serious) == ("late", True)
    assert "no sales of the week of 2025-01-31 have landed" in late.text


def test_a_history_that_nobody_continues_is_old_and_not_late(lake: Lake) -> None:
    story = Story(lake).week(1, days=400).week(0, days=400)
    (only,) = story.told(MONDAY + dt.timedelta(days=700)).troubles
    assert (only.kind, only.serious) == ("old", False)
    assert "week of 2025-01-31, 100 weeks ago" in only.text


def test_a_refused_file_is_named_with_its_rule_and_next_step_until_a_good_week_came(story: Story) -> None:
    story.file("sales/old.csv", MONDAY - 3 * WEEK, "refused", rule="no_date", message="an old story")
    story.file("sales/new.csv", MONDAY - dt.timedelta(hours=1), "refused", rule="daily", message="set aggregate = sum")
    (only,) = story.told().troubles
    assert (only.kind, only.serious) == ("refused", True)
    assert only.text == "sales/new.csv was refused (daily); none of it is in the forecast."
    assert only.step == "set aggregate = sum"
    # The newest week came afterwards: what was refused before it is history, which the page Data and runs keeps.
    assert kinds(story.week(0).told()) == []


def test_a_file_that_was_mended_under_its_name_is_no_trouble(story: Story) -> None:
    story.file("sales/a.csv", MONDAY, "refused", rule="daily", message="?")
    story.file("sales/a.csv", MONDAY + dt.timedelta(minutes=1), accepted=5, rows=5)
    assert kinds(story.told()) == []


def test_a_file_that_waits_and_one_that_lost_rows_are_named(story: Story) -> None:
    at = MONDAY - dt.timedelta(hours=1)
    story.file("sales/future.csv", at, "waiting", message="accept it with forecast landing accept")
    story.file("sales/part.csv", at, rows=10, accepted=7, quarantined=3)
    for line, rule in ((2, "no_date"), (3, "no_date"), (4, "negative")):
        story.line("sales/part.csv", at, line, rule, f"mend {rule}")
    story.file("sales/future.csv.gz", at, "waiting", rule="not_begun", message="it waits for its weeks to begin")
    waits, lost, time = story.told().troubles
    assert (time.kind, time.serious) == ("waiting", False)
    assert (waits.kind, waits.serious) == ("waiting", True)  # for a person
    assert waits.step == "accept it with forecast landing accept"
    assert (lost.kind, lost.serious) == ("partly refused", True)
    assert lost.text == "sales/part.csv: 3 of 10 rows were refused, most by the rule no_date."
    assert lost.step == "mend no_date"


def test_warnings_of_a_landing_are_told_where_the_lake_keeps_them(story: Story) -> None:
    story.file("sales/odd.csv", MONDAY - dt.timedelta(hours=1), rows=9, accepted=9)
    kept = "*" if "warnings" not in story.lake.specs["landings"].schema.names else "* EXCLUDE (warnings)"
    (only,) = story.told(
        MONDAY,
        f"CREATE TABLE l AS SELECT {kept}, CASE WHEN source_key = 'sales/odd.csv' THEN 'half of last week' END "
        "AS warnings FROM landings",
        "DROP VIEW landings",
        "ALTER TABLE l RENAME TO landings",
    ).troubles
    assert only.text == "sales/odd.csv was taken with a warning: half of last week"


def test_a_failed_run_is_told_until_another_mended_it(story: Story) -> None:
    def failed(week: dt.date, at: dt.datetime, step: str = "deepar_model") -> str:
        return f"INSERT INTO open_failures VALUES ('{week}', 'abcdef12', '{step}', 'out of memory\nat line 7', '{at}')"

    made = (
        "DROP VIEW IF EXISTS open_failures",
        "CREATE TABLE open_failures (week DATE, run_id VARCHAR, step VARCHAR, message VARCHAR, failed_at TIMESTAMPTZ)",
    )
    again = failed(NEWEST, MONDAY, "forecast_table")
    (only,) = story.told(MONDAY, *made, failed(NEWEST, MONDAY - WEEK), again).troubles
    assert (only.kind, only.serious) == ("failed", True)
    assert only.text == (
        "The run for the week of 2025-01-31 failed at the step forecast_table, 2025-02-03 06:00 UTC: out of memory"
    )
    assert "forecast run --week 2025-01-31" in only.step
    assert "no run failed" in story.told(MONDAY, *made).checked


def test_series_that_fall_silent_are_named(story: Story) -> None:
    made = (
        "DROP VIEW IF EXISTS stopping_series",
        "CREATE TABLE stopping_series (forecast_week DATE, store VARCHAR, dept VARCHAR, last_week DATE, "
        "silent_weeks INT, probability_of_return DOUBLE)",
        # Those of the newest forecast count; what was silent before it is history.
        "INSERT INTO stopping_series SELECT DATE '2025-01-24', '7', CAST(range AS VARCHAR), DATE '2025-01-03', 4, "
        "0.1 + range / 100 FROM range(11)",
        "INSERT INTO stopping_series VALUES ('2025-01-17', '8', 'a', '2024-12-20', 4, 0.5)",
    )
    (only,) = story.told(MONDAY, *made).troubles
    assert (only.kind, only.serious) == ("stopping", False)
    assert only.text.startswith("11 series have stopped selling: store 7, dept 0 (4 weeks, back with 10%);")
    assert "and 3 more" in only.text


def test_it_is_the_first_thing_on_the_page_and_escaped(story: Story, lake: Lake) -> None:
    story.file("sales/<b>.csv", MONDAY, "refused", rule="daily", message="<script>alert(1)</script>")
    story.week(0, stores=("1",), forecast=False).told()
    with TestClient(build_app(Settings(**SMALL), Source(lake), hosts=("testserver",))) as client:
        text = client.get("/").text
        assert text.index("is incomplete: 2 of the 18 series") < text.index('class="tiles"')
        assert "sales/&lt;b&gt;.csv" in text
        # The 2 series that reported are no collapse of the total; each of them is what it is.
        assert "Sales are drawn up to the week of 2025-01-24" in text
        drawn = [r for r in client.get("/").text.split("<tr>") if "2025-01-31</th>" in r]
        assert not any("<td>20</td>" in r for r in drawn)
        assert "Sales are drawn" not in client.get("/explore?store=1&dept=a").text
        assert json.loads(_points(client.get("/explore").text))["lines"][0]["values"][-1] is None
        assert json.loads(_points(client.get("/explore?store=1&dept=a").text))["lines"][0]["values"][-1] == 10
        assert "<script>alert" not in text
        assert "is incomplete: 2 of the 18 series" in client.get("/runs").text
        found = client.get("/?format=csv&table=troubles").text
    assert 'incomplete,True,"The week of 2025-01-31 is incomplete' in found


def _points(text: str) -> str:
    return html.unescape(text.split('data-chart="')[1].split('"')[0])


def test_before_the_first_forecast_the_page_says_what_stands_in_its_way(lake: Lake) -> None:
    story = Story(lake).file("sales/a.csv", MONDAY, "refused", rule="daily", message="set aggregate = sum")
    story.told()
    with TestClient(build_app(Settings(**SMALL), Source(lake), hosts=("testserver",))) as client:
        answer = client.get("/")
    assert answer.status_code == 404
    assert "No forecast has been published yet" in answer.text
    assert "sales/a.csv was refused (daily)" in answer.text
    assert "set aggregate = sum" in answer.text
