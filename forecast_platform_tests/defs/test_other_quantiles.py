"""Other quantiles from one week to the next: runs, scores, pages, the report, the extract and the command's table are
each of those that a forecast was published with."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import duckdb
import pytest
from starlette.testclient import TestClient

from forecast_platform.cli.terminal import print_forecast
from forecast_platform.dashboard.app import PAGES, build_app
from forecast_platform.dashboard.source import Source
from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform.publishing import tableau as hyper
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK, key
from forecast_platform_tests.conftest import SMALL, ForecastHome, landing_day
from forecast_platform_tests.dashboard.test_values import tiles
from forecast_platform_tests.defs.graph import Graph, Result

WIDER = {"p5": 0.05, "p50": 0.5, "p95": 0.95}


@pytest.fixture(scope="module")
def ran(forecast_home: ForecastHome, retailer: MadeUpRetailer) -> tuple[Graph, list[Result], dt.date]:
    """Two weeks after those of the home, published with p5, p50 and p95 where it was p10, p50 and p90."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECAST_HOME", str(forecast_home.copy()))
        graph = Graph(Settings(**SMALL | {"quantiles": tuple(WIDER.values())}))
    results = []
    for week in (forecast_home.week + WEEK, forecast_home.week + 2 * WEEK):
        graph.land(dict([week_file(retailer, week)]), at=landing_day(week))
        results.append(graph.week(week, drawn=True))
    return graph, results, week


def test_runs_succeed_and_every_row_is_scored_by_its_own(ran: tuple[Graph, list[Result], dt.date]) -> None:
    graph, results, week = ran
    for result in results:
        assert result.success, result.failures
        assert result.checks["quantiles_ordered"].passed
    coverage = results[-1].checks["interval_coverage"].metadata
    forecasts = {(r["forecast_week"], r["target_week"], r["level"], r["store"], r["dept"]): r
                 for r in graph.lake.query("SELECT * FROM forecasts").to_pylist()}  # fmt: skip
    found = graph.lake.query("SELECT * FROM forecast_accuracy WHERE week = ?", [week]).to_pylist()
    assert {r["forecast_week"]: r["interval"] for r in found} == pytest.approx(
        {week - 3 * WEEK: 0.8, week - 2 * WEEK: 0.8, week - WEEK: 0.9}
    )
    for r in found:
        said = forecasts[r["forecast_week"], r["week"], r["level"], r["store"], r["dept"]]
        names = WIDER if r["forecast_week"] == week - WEEK else {"p10": 0.1, "p50": 0.5, "p90": 0.9}
        losses = [2 * max(q * (r["actual"] - said[n]), (q - 1) * (r["actual"] - said[n])) for n, q in names.items()]
        assert r["quantile_loss"] == pytest.approx(sum(losses) / 3)
        low, *_, high = (said[n] for n in names)
        assert r["in_interval"] == (low <= r["actual"] <= high)
    inside = [r["in_interval"] for r in found if r["level"] == "series"]
    assert coverage["coverage"].value == pytest.approx(sum(inside) / len(inside))
    assert coverage["nominal"].value == pytest.approx(
        sum(r["interval"] for r in found if r["level"] == "series") / len(inside)
    )


def test_pages_of_either_week_show_its_own(ran: tuple[Graph, list[Result], dt.date]) -> None:
    graph, _, week = ran
    app = build_app(graph.platform.settings, Source(graph.lake), hosts=("testserver",))
    with TestClient(app, raise_server_exceptions=True) as client:
        for at, shown, hidden in ((week, "p95", "p90"), (week - 2 * WEEK, "p90", "p95")):
            for page in PAGES.keys() - {"leaderboard"}:
                answer = client.get(f"/{page}", params={"week": str(at)})
                assert answer.status_code == 200, answer.text
                assert "None" not in answer.text
                assert "nan" not in answer.text
            page = client.get("/explore", params={"week": str(at), "store": "1", "dept": "2"}).text
            assert f"{shown}<" in page
            assert f"{hidden}<" not in page
        # Of three scored weeks ahead of the newest, the last forecast promised 90%.
        _, note = tiles(client.get("/").text)["Inside the interval"]
        assert note.startswith("should be 83%"), note


def test_what_goes_out_names_the_quantiles_of_now(
    ran: tuple[Graph, list[Result], dt.date], capsys: pytest.CaptureFixture[str]
) -> None:
    graph, _, week = ran
    assert (graph.platform.settings.home / "reports" / f"{key(week)}.html").exists()
    print_forecast(SimpleNamespace(settings=graph.platform.settings, platform=graph.platform), week)  # type: ignore[arg-type]
    head, _, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["level", "store", "dept", "target_week", "horizon", "p5", "p50", "p95"]
    assert first.startswith("total")
    if hyper.available():
        with duckdb.connect() as con:
            graph.lake.attach(con)
            extract = hyper.write_extract(con, graph.platform.settings.home / "forecast.hyper")
        assert all(extract.rows.values())
