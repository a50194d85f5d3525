"""How fast streams are: every reader takes the same messages, and the page says what its figures are."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from benchmarks import stream

ABOUT = {
    "cpu": "a processor",
    "cores": 2,
    "system": "Linux",
    "python": "3.11",
    "load": 1.0,
    "date": "2026-01-02",
    "commit": "abc",
}


def test_readers_agree_on_what_a_topic_holds() -> None:
    runs = stream.measure(messages=3_000, rounds=1, many_messages=2_000)["runs"]
    assert [run["reader"] for run in runs] == ["plain", "ours", "many"]
    sums = [json.loads(stream.message(number, stream.SERIES)) for number in range(3_000)]
    assert {run["total"] for run in runs[:2]} == {round(sum(each["weekly_sales"] for each in sums), 2)}
    days = {dt.datetime.fromisoformat(each["date"]).date() for each in sums}
    assert min(days) > stream.WEEK - dt.timedelta(days=7)
    assert max(days) <= stream.WEEK


def test_the_page_holds_the_ratio_of_medians() -> None:
    run = {"messages": 1_000, "series": 10, "total": 5.0, "peak_mb": 100, "wall_s": 1.0}
    runs = [{**run, "reader": "plain", "cpu_s": 0.1}] + [
        {**run, "reader": "ours", "cpu_s": s} for s in (0.04, 0.05, 0.3)
    ]
    runs.append({**run, "reader": "many", "cpu_s": 9.0, "state_mb": 7, "series": 1_000_000})
    text = stream.page({"about": ABOUT, "runs": runs})
    assert text.startswith("Messages a CPU second: **2.00 times**")
    assert "| `forecast stream` | 20,000 | 0.0, 1.0; 0.1, 1.0; 0.3, 1.0 | 100 |" in text
    assert "1,000,000 series" in text


@pytest.mark.skipif(not stream.RESULTS.exists(), reason="nothing was measured yet")
def test_the_page_is_of_the_results() -> None:
    text = stream.PAGE.read_text()
    assert stream.written(text, json.loads(stream.RESULTS.read_text())) == text
    assert "Messages a CPU second" in text
