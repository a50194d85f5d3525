"""The page of the leaderboard, figure by figure, against the file that the backtest left in the home."""

from __future__ import annotations

import csv
import datetime as dt
import html
import io
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from forecast_platform.lake.lake import Lake
from forecast_platform.models.leaderboard import FILE, SERVED, WHOLE, Decision, Leaderboard, Tally
from forecast_platform.words import PLAIN
from forecast_platform_tests.dashboard.test_pages import serve
from forecast_platform_tests.dashboard.test_troubles import MONDAY, Story
from forecast_platform_tests.defs.graph import Graph

FIRST, SECOND = dt.date(2024, 6, 28), dt.date(2024, 11, 29)


@pytest.fixture
def board(published: Graph) -> Leaderboard:
    found = Leaderboard.load(published.platform.settings.home)
    assert found
    return found


def rows_of(text: str, label: str) -> list[list[str]]:
    """The cells of a table's body, by its region's label."""
    (table,) = re.findall(rf'aria-label="{re.escape(label)}".*?<tbody>(.*?)</tbody>', text, re.S)
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
    ]


def test_the_standings_are_those_of_the_file(client: TestClient, board: Leaderboard) -> None:
    text = client.get("/leaderboard").text
    shown = rows_of(text, "Candidates, best first")
    assert [row[0] for row in shown] == ["what is served" if n == SERVED else n for n in board.candidates]
    assert len(shown) == 3
    for row, name in zip(shown, board.candidates, strict=True):
        whole, regret = board.tally(name), board.mean_regret(name)
        assert whole
        at = len(board.forecast_at(name))
        assert row[1] == f"{regret:.3f}"
        assert row[3:8] == [
            PLAIN.percent(whole.wql), PLAIN.percent(whole.wape), PLAIN.percent(whole.coverage80, 0), f"{at} of 2",
            f"{whole.cells:,}"
        ]  # fmt: skip
    regret = board.mean_regret(SERVED)
    assert regret
    assert f"{abs(regret - 1):.1%} {'behind' if regret > 1 else 'ahead of'}" in text
    assert f'<pre tabindex="0">{board.command}</pre>' in text
    assert f"of the sales up to the week of {board.until}" in text
    assert "<b>last_year</b> from " in text
    assert "needs 52 weeks; there are 49" in text
    assert "<b>sales, counts</b> at every cutoff: sales are not small whole numbers" in text


def test_the_decisions_are_told_by_cutoff(client: TestClient, board: Leaderboard) -> None:
    shown = rows_of(client.get("/leaderboard").text, "Decisions by cutoff")
    assert [row[0] for row in shown] == [str(cutoff) for cutoff in board.cutoffs]
    for row, decision in zip(shown, board.decisions, strict=True):
        best = board.best(decision.cutoff)
        assert best
        mine, least = board.tally(SERVED, WHOLE, decision.cutoff), board.tally(best, WHOLE, decision.cutoff)
        assert mine
        assert least
        assert row[1:5] == [
            PLAIN.percent(mine.wql), PLAIN.percent(least.wql), f"{board.regret(SERVED, decision.cutoff):.3f}", best
        ]  # fmt: skip
        assert decision.why
        assert row[5].endswith(decision.why)
        for name, weight in decision.weights.items():
            assert f"{name} {weight:.0%}" in row[5]


@pytest.mark.parametrize("measure", ["wql", "wape", "coverage"])
def test_the_heat_table_shows_each_slice(client: TestClient, board: Leaderboard, measure: str) -> None:
    text = client.get(f"/leaderboard?measure={measure}").text
    (head,) = re.findall(r'<table class="heatmap slices">.*?</tr>\s*<tr>(.*?)</tr>', text, re.S)
    names = re.findall(r"<th[^>]*>(.*?)</th>", head)
    known = [of for of in board.slices if measure == "wape" or of[0] != "level" or of == WHOLE]
    assert names == [name for _, name in known]
    assert ("total" in names) == (measure == "wape")
    label = {"wql": "error of all quantiles (wQL)", "wape": "error of the median (WAPE)",
             "coverage": "share inside the 80% interval"}[measure]  # fmt: skip
    shown = rows_of(text, f"{label} by candidate and slice")
    assert shown[2][0] == "last_year (not all cutoffs)"
    for row, name in zip(shown, board.candidates, strict=True):
        for cell, of in zip(row[1:], known, strict=True):
            tally = board.tally(name, of)
            value = tally and {"wql": tally.wql, "wape": tally.wape, "coverage": tally.coverage80}[measure]
            assert cell == ("" if value is None else f"{value * 100:.{0 if measure == 'coverage' else 1}f}")
    if measure != "coverage":
        (cells,) = re.findall(r'<table class="heatmap slices">.*?<tbody>(.*?)</tbody>', text, re.S)
        served, level, partly = re.findall(r"<tr>(.*?)</tr>", cells, re.S)
        best = [row.count(" best") for row in (served, level, partly)]
        assert best[0] + best[1] >= len(known)
        assert best[2] == 0, "who forecast fewer weeks is not compared"


def test_its_files_hold_every_cutoff_and_slice(client: TestClient, board: Leaderboard) -> None:
    answer = client.get("/leaderboard?format=csv&table=scores")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == len(board.tallies)
    for row, wanted in zip(rows, board.rows(), strict=True):
        assert (row["candidate"], row["cutoff"], row["by"], row["of"]) == (
            wanted["candidate"], wanted["cutoff"], wanted["by"], wanted["of"]
        )  # fmt: skip
        assert float(row["wape"]) == pytest.approx(wanted["wape"], abs=5e-5)


def test_weights_are_shown_where_there_are_any(home: Path, lake: Lake) -> None:
    Story(lake).week(0).told()
    tally = Tally(10, 100.0, 9.0, 7.0, 8)
    decisions = (
        Decision(FIRST, "close & <b>", {"last_year": 0.25, "recent_level": 0.75, "ratio": 0.0}),
        Decision(SECOND, "alone"),
    )
    tallies = {(name, cutoff, WHOLE): tally for name in (SERVED, "recent_level") for cutoff in (FIRST, SECOND)}
    Leaderboard(4, SECOND, decisions, tallies, MONDAY, "forecast x", "here").save(home)
    with serve(lake) as client:
        text = client.get("/leaderboard").text
    assert "recent_level 75%, last_year 25%<details" in text
    assert "close &amp; &lt;b&gt;" in text
    assert "level with" in text


def test_without_one_it_says_what_to_run(home: Path, lake: Lake) -> None:
    Story(lake).week(0).told()
    with serve(lake) as client:
        text = client.get("/leaderboard").text
        assert "No leaderboard has been made for this home yet." in text
        assert "forecast backtest --cutoffs 6 --candidate all" in text
        assert client.get("/leaderboard?format=csv").status_code == 200
        (home / FILE).write_text('{"format": 99}')
        text = client.get("/leaderboard").text
    assert "is of another version, or damaged; make it again." in text
    assert "forecast backtest --cutoffs 6 --candidate all" in text
