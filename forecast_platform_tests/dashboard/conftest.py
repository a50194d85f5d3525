"""A small retailer with four published weeks, and the dashboard over it."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from forecast_platform.dashboard.app import build_app
from forecast_platform.dashboard.source import Source
from forecast_platform.demo import Retailer, history_files, week_file
from forecast_platform.panels import KNOWN, known_panel
from forecast_platform.surface import run_leaderboard
from forecast_platform_tests.conftest import landing_day, made_once, open_graph, weeks_of
from forecast_platform_tests.defs.graph import Graph


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, retailer: Retailer) -> Graph:
    """History with two dirty lines up to the fourth week from the end, then a forecast after each of the last four."""

    def make(folder: Path) -> None:
        graph, weeks = open_graph(folder / "home"), weeks_of(retailer)
        graph.land(history_files(retailer, weeks[-4], dirty_rows=2), at=landing_day(weeks[-4]))
        assert graph.history(weeks[0], weeks[-4]).success
        for week in weeks[-4:]:
            name, data = week_file(retailer, week)
            graph.land({name: data}, at=landing_day(week))
            assert graph.week(week, drawn=week == weeks[-1]).success
        keep_leaderboard(graph, [weeks[-9], weeks[-5]], ["last_year", "recent_level", "sales, counts"])

    made = made_once(tmp_path_factory, "dashboard", make) / "home"
    return open_graph(Path(shutil.copytree(made, tmp_path_factory.mktemp("dashboard") / "home")))


def keep_leaderboard(graph: Graph, cutoffs: list[dt.date], candidates: list[str]) -> None:
    """As `forecast backtest --candidate` does of what landed."""
    settings = graph.platform.settings
    with graph.lake.connection(*KNOWN) as con:
        ((newest,),) = con.execute("SELECT max(week) FROM cleaned_series").fetchall()
        panel, _ = known_panel(con, newest, "now", settings)
    board = run_leaderboard(panel, settings, cutoffs, settings.prediction_length, candidates)
    replace(board, made_at=landing_day(newest), command="forecast backtest --cutoffs 2", data="here").save(
        settings.home
    )


@pytest.fixture
def source(published: Graph) -> Source:
    return Source(published.lake)


@pytest.fixture
def client(published: Graph, source: Source) -> Iterator[TestClient]:
    app = build_app(published.platform.settings, source, hosts=("testserver",))
    with TestClient(app, raise_server_exceptions=True) as made:
        yield made
