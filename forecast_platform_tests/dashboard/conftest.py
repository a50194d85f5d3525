"""A small retailer with four published weeks, and the dashboard over it."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from forecast_platform.dashboard.app import build_app
from forecast_platform.dashboard.source import CHECK_SECONDS, Source
from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform.lake.lake import Lake
from forecast_platform.panels import KNOWN, known_panel
from forecast_platform.surface import run_leaderboard
from forecast_platform_tests.conftest import QUANTILES, ForecastHome, landing_day, made_once, open_graph, weeks_of
from forecast_platform_tests.defs.graph import Graph


@pytest.fixture(scope="session")
def published(forecast_home: ForecastHome, tmp_path_factory: pytest.TempPathFactory, retailer: MadeUpRetailer) -> Graph:
    """The home with two forecasts, and two more weeks; two lines of the first of their files are no sales."""

    def make(folder: Path) -> None:
        graph, weeks = open_graph(Path(shutil.copytree(forecast_home.home, folder / "home"))), weeks_of(retailer)
        for week, dirty in zip(weeks[-2:], (f"1,1,{weeks[-2]},many\n1,2,2025-01-01,3\n", ""), strict=True):
            name, data = week_file(retailer, week)
            graph.land({name: data + dirty.encode()}, at=landing_day(week))
            assert graph.week(week, drawn=week == weeks[-1]).success
        keep_leaderboard(graph, [weeks[-9], weeks[-5]], ["last_year", "recent_level", "sales, counts"])

    made = made_once(tmp_path_factory, "dashboard", make) / "home"
    return open_graph(Path(shutil.copytree(made, tmp_path_factory.mktemp("dashboard") / "home")))


@pytest.fixture
def lake(home: Path, tables_home: Callable[[Path], Path]) -> Lake:
    return Lake.local(tables_home(home) / "lake", QUANTILES)


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


@pytest.fixture(scope="session")
def look(published: Graph) -> tuple[Source, list[float]]:
    """What all tests ask, which answers a question once: and its clock."""
    now = [0.0]
    return Source(published.lake, clock=lambda: now[0]), now


@pytest.fixture
def source(look: tuple[Source, list[float]]) -> Source:
    """As one opened for this test: its first question looks for the newest state."""
    source, now = look
    now[0] += 2 * CHECK_SECONDS
    return source


@pytest.fixture
def client(published: Graph, source: Source) -> TestClient:
    """Not entered, for an app that ends closes the source of all."""
    app = build_app(published.platform.settings, source, hosts=("testserver",))
    return TestClient(app, raise_server_exceptions=True)
