"""What goes out to people: the week's page and the Tableau extract, read back and held against the tables."""

from __future__ import annotations

import base64
import datetime as dt
import io
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from forecast_platform import definitions
from forecast_platform.dashboard.pages import BadView
from forecast_platform.dashboard.report import weekly_report
from forecast_platform.dashboard.source import Source
from forecast_platform.defs import pictures
from forecast_platform.lake.lake import Lake
from forecast_platform.publishing import tableau as hyper
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.dashboard.test_troubles import NEWEST, WEEK, Story
from forecast_platform_tests.defs.graph import Graph

needs_tableau = pytest.mark.skipif(not hyper.available(), reason="no tableauhyperapi here: install the extra 'tableau'")


@pytest.fixture
def newest(published: Graph) -> dt.date:
    week: dt.date = max(published.lake.read("forecasts", columns=["forecast_week"])["forecast_week"].to_pylist())
    return week


def test_the_report_says_what_the_tables_say(published: Graph, source: Source, newest: dt.date) -> None:
    report = weekly_report(source.state(), published.platform.settings, newest)
    total = [
        r
        for r in published.lake.read("forecasts").to_pylist()
        if r["forecast_week"] == newest and r["level"] == "total"
    ]
    assert report.summary.startswith(f"Forecast after the week of {newest}: next 4 weeks ")
    assert str(total[-1]["target_week"]) in report.html
    assert "<script" not in report.html
    assert 'src="' not in report.html  # it needs nothing beside it
    assert 'rel="stylesheet"' not in report.html


def test_the_report_begins_with_what_is_wrong_with_the_newest_week_alone(lake: Lake) -> None:
    Story(lake).week(2).week(1).week(0, stores=("1",), forecast=False).told()
    state = Source(lake).state()
    newest, past = (weekly_report(state, Settings(**SMALL), NEWEST - k * WEEK) for k in (1, 2))
    assert newest.html.index("is incomplete: 2 of the 18 series") < newest.html.index('class="tiles"')
    assert "incomplete" not in past.html
    assert newest.png != past.png


def test_the_picture_is_a_page_and_the_same_twice(published: Graph, source: Source, newest: dt.date) -> None:
    from matplotlib.image import imread

    first, second = (weekly_report(source.state(), published.platform.settings, newest) for _ in range(2))
    assert first == second
    height, width, _ = imread(io.BytesIO(first.png), format="png").shape
    assert 1.40 < height / width < 1.42  # A4


def test_a_week_without_a_forecast_has_no_report(published: Graph, source: Source) -> None:
    with pytest.raises(BadView, match="No forecast was published for the week of 2024-01-05"):
        weekly_report(source.state(), published.platform.settings, dt.date(2024, 1, 5))


def test_the_weekly_run_keeps_both_files(published: Graph, newest: dt.date) -> None:
    folder = published.platform.settings.home / "reports"
    assert (folder / f"{newest}.html").read_text().startswith("<!doctype html>")
    assert (folder / f"{newest}.png").read_bytes().startswith(b"\x89PNG")


def test_a_runs_picture_is_that_of_the_dashboard(published: Graph, newest: dt.date) -> None:
    from matplotlib.image import imread

    made = pictures.total_with_fan(published.lake, published.platform.settings, newest)
    head, _, code = made.md_str.rstrip(")").partition("base64,")
    assert head.startswith(f"![total sales and forecast from {newest}](data:image/png;")
    assert (imread(io.BytesIO(base64.b64decode(code)), format="png") < 0.9).any()
    none = pictures.total_with_fan(published.lake, published.platform.settings, newest + WEEK)
    assert none.md_str.startswith(f"No forecast was published for the week of {newest + WEEK}")


@needs_tableau
def test_the_extract_read_back_is_the_lake(published: Graph, tmp_path: Path, newest: dt.date) -> None:
    con = published.lake.attach(duckdb.connect())
    extract = hyper.write_extract(con, tmp_path / "out" / "forecast.hyper")
    wanted = {
        (r["level"], r["store"], r["dept"], r["member"], str(r["target_week"])): r["p50"]
        for r in published.lake.read("forecasts").to_pylist()
        if r["forecast_week"] == newest
    }
    assert hyper.read_latest(extract.path) == wanted
    assert extract.rows["sales"] == sum(published.lake.read("cleaned_series")["observed"].to_pylist())
    assert extract.rows["forecast_accuracy"] == len(published.lake.read("forecast_accuracy"))
    told = "SELECT count(*), sum(change), max(previous_week) FROM"
    in_view = (
        f"{told} (SELECT * FROM forecast_revisions WHERE forecast_week = (SELECT max(forecast_week) FROM forecasts))"
    )
    ours = con.execute(f"{told} ({hyper.TABLES['forecast_revisions']})").fetchone()
    assert ours == con.execute(in_view).fetchone()
    assert extract.rows["forecast_revisions"] == ours[0] > 0
    assert [p.name for p in extract.path.parent.iterdir()] == ["forecast.hyper"]  # nothing left beside it


@needs_tableau
def test_the_extract_is_an_asset(published: Graph) -> None:
    from forecast_platform.defs.tableau_extract import tableau_extract

    result = dg.materialize([tableau_extract], resources=published.resources, instance=published.instance)
    (event,) = result.asset_materializations_for_node("tableau_extract")
    path = Path(str(event.metadata["file"].value))
    assert path == published.platform.settings.home / "exports" / "forecast.hyper"
    assert event.metadata["rows_latest_forecast"].value == len(hyper.read_latest(path))


@needs_tableau
def test_the_extract_is_asked_for_after_a_publication_and_not_again() -> None:
    instance = dg.DagsterInstance.ephemeral()
    defs = definitions.defs

    def asked(cursor: Any = None) -> Any:
        return dg.evaluate_automation_conditions(
            defs=defs, instance=instance, cursor=cursor, asset_selection=dg.AssetSelection.assets("tableau_extract")
        )

    quiet = asked()
    assert quiet.total_requested == 0
    # One week of many: the others stay missing, as they do when a history has just landed.
    for name in ("forecast_table", "forecast_accuracy"):
        instance.report_runless_asset_event(dg.AssetMaterialization(name, partition="2025-01-31"))
    published = asked(quiet.cursor)
    assert published.total_requested == 1
    assert asked(published.cursor).total_requested == 0
