"""Series that are sparse, that stopped, or that a person closed, from a landed file to the published table."""

from __future__ import annotations

import csv
import datetime as dt
import io
from pathlib import Path

import pytest
from click.testing import CliRunner

from forecast_platform.cli import main
from forecast_platform.settings import Settings, get_settings
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.defs.graph import Graph

SHAPES = Path(__file__).parents[1] / "field_cases" / "shapes" / "sales.csv"
EARLIER = dt.timedelta(weeks=104)  # so that the weeks have been, whenever this runs
LAST = dt.date(2026, 11, 20) - EARLIER
FIRST = LAST - dt.timedelta(weeks=80)  # the weeks before add nothing but time


def shapes(without: tuple[str, ...] = ("huge",)) -> bytes:
    """The field case with `n1` closed in one week; `huge` would be all of every total."""
    out = io.StringIO()
    rows = csv.DictReader(SHAPES.read_text().splitlines())
    writer = csv.DictWriter(out, rows.fieldnames or [])
    writer.writeheader()
    for row in rows:
        week = dt.date.fromisoformat(row["date"]) - EARLIER
        if row["store"] in without or week < FIRST:
            continue
        shut = row["store"] == "n1" and week == LAST - dt.timedelta(weeks=20)
        writer.writerow({**row, "date": str(week), "weekly_sales": "0" if shut else row["weekly_sales"]})
    return out.getvalue().encode()


@pytest.fixture
def forecast(graph: Graph) -> Graph:
    """The field case landed, cleaned and forecast."""
    made = Graph(Settings(**{**SMALL, "target": "ratio", "num_samples": 100}))
    made.land({"sales/sales.csv": shapes()})
    history = made.history(FIRST, LAST)
    assert history.success
    closed = history.checks["no_store_closed"]
    assert not closed.passed
    assert f"store n1 in the week of {LAST - dt.timedelta(weeks=20)}" in (closed.description or "")
    assert "open_days" in (closed.description or "")
    assert made.week(LAST).success
    return made


def test_the_field_case_comes_out_right(forecast: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def means() -> dict[str, list[float]]:
        rows = forecast.lake.query(
            "SELECT store, dept, mean, p10, p50, p90 FROM latest_forecast WHERE level = 'series' ORDER BY horizon"
        ).to_pylist()
        found: dict[str, list[float]] = {}
        for row in rows:
            assert row["p10"] <= row["p50"] <= row["p90"]
            found.setdefault(f"{row['store']} {row['dept']}", []).append(row["mean"])
        return found

    series = means()
    # One network of an epoch serves here: its level is rough.
    assert 0.5 < sum(series["sparse_rows x"]) / 4 < 6, "it was 14 to 17, the mean of the weeks that have a row"
    # The network is hardly trained here, so the level is a rough one; a seventh of it is left.
    assert sum(series["gone_10w x"]) / 4 < 300, "it was 1,000"
    assert sum(series["zero_10w x"]) / 4 < 300
    medians = forecast.lake.query("SELECT store, max(p50) AS p50 FROM forecasts WHERE level = 'series' GROUP BY 1")
    gone = {row["store"] for row in medians.to_pylist() if row["p50"] == 0}
    assert gone >= {"gone_10w", "zero_10w", "one_row_old"}
    assert sum(series["one_row_old x"]) / 4 < 40, "it was 583 to 708"
    assert min(series["constant x"]) > 60
    assert min(series["n1 C"]) > 1200, "a closed week did not halve it"

    stopping = forecast.lake.query("SELECT * FROM stopping_series ORDER BY store").to_pylist()
    assert [row["store"] for row in stopping] == ["gone_10w", "one_row_old", "zero_10w"]
    assert [row["silent_weeks"] for row in stopping] == [10, 39, 10]
    assert all(row["probability_of_return"] < 0.2 for row in stopping)
    filled = forecast.lake.query("SELECT DISTINCT store FROM cleaned_series WHERE filled").to_pylist()
    assert filled == [{"store": "sparse_rows"}]
    assert {"store": "n1", "week": LAST - dt.timedelta(weeks=20), "series": 4} in forecast.lake.query(
        "SELECT * FROM store_closures"
    ).to_pylist()

    # Totals are of what is published: the rest of a series that is probably gone, and nothing of one that is closed.
    def totals() -> list[float]:
        rows = forecast.lake.query(
            "SELECT mean FROM latest_forecast WHERE level = 'total' ORDER BY horizon"
        ).to_pylist()
        return [row["mean"] for row in rows]

    assert totals() == pytest.approx([sum(weeks) for weeks in zip(*series.values(), strict=True)], rel=1e-6)
    get_settings.cache_clear()
    monkeypatch.setenv("FORECAST_PREDICTION_LENGTH", "4")
    said = ["--reason", "lease ended", "--author", "ana"]
    try:
        told = CliRunner().invoke(main, ["close", "n1", *said])
        assert told.exit_code == 0, told.output
        assert f"store n1 is closed from the week of {LAST + dt.timedelta(weeks=1)}: 4 series" in told.output
        refused = CliRunner().invoke(main, ["close", "n7", *said])
        assert refused.exit_code == 1
        assert "no store n7 is known" in refused.output
        run = forecast.week(LAST, ["batch_predictions", "forecast_table"])
        assert run.success, run.failures
        left = means()
        assert not [name for name in left if name.startswith("n1 ")]
        assert totals() == pytest.approx([sum(weeks) for weeks in zip(*left.values(), strict=True)], rel=1e-6)
        reasons = forecast.lake.read("no_forecast").to_pylist()
        assert {(r["store"], r["dept"]) for r in reasons} == {("n1", d) for d in "ABCD"}
        assert all("by ana: lease ended" in r["reason"] for r in reasons)
        told = CliRunner().invoke(main, ["reopen", "n1", "--reason", "signed again", "--author", "ana"])
        assert told.exit_code == 0, told.output
        assert forecast.week(LAST, ["batch_predictions", "forecast_table"]).success
        assert means() == series, "to the last bit, as in any rerun"
    finally:
        get_settings.cache_clear()
