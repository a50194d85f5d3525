"""The platform from Python: what docs/python.md shows is run, and what it gives is what the tables hold."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pandas as pd
import pytest

import forecast_platform as fp
from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform.lake.tables import LakeError
from forecast_platform.models.leaderboard import WHOLE, Decision, Leaderboard, Tally
from forecast_platform_tests.conftest import SMALL, HistoryHome, landing_day, weeks_of

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def home(history_home: HistoryHome, retailer: MadeUpRetailer) -> Path:
    """A home of which a week was forecast, and the next week's sales have landed."""
    graph, weeks = history_home.restore(), weeks_of(retailer)
    assert graph.week(weeks[-4]).success
    graph.land(dict([week_file(retailer, weeks[-3])]), at=landing_day(weeks[-3]))
    assert graph.history(weeks[-3], weeks[-3], ("raw_sales", "cleaned_series", "forecast_accuracy")).success
    return graph.platform.settings.home


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    for name, value in SMALL.items():
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else text
        monkeypatch.setenv(f"FORECAST_{name.upper()}", text)


def test_the_page_runs_as_it_is_written(home: Path, small: None) -> None:
    known = {"home": home}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL):
        exec(block, known)
    ahead, total, one = (known[name] for name in ("ahead", "total", "one"))
    assert len(ahead) == 12 * 4
    assert len(total) == 4
    assert total["p50"].sum() == pytest.approx(ahead["mean"].sum(), rel=0.2)
    pd.testing.assert_frame_equal(
        one, ahead[(ahead["store"] == "1") & (ahead["dept"] == "2")].reset_index(drop=True), check_dtype=False
    )
    assert list(known["said"].columns[:3]) == ["week", "horizon", "wape"]
    assert known["said"]["forecasts"].sum() == len(
        known["p"].query("SELECT 1 FROM forecast_accuracy WHERE level = 'series'")
    ) > 6  # fmt: skip
    assert known["raw"]["rows"].sum() > 400
    scores = known["scores"]
    assert set(scores["model"]) == {"deepar", "aligned_last_year", "seasonal_naive"}
    assert scores["wape"].between(0, 5).all()
    assert scores["wape"].is_monotonic_increasing


def test_accuracy_is_that_of_the_rows(home: Path) -> None:
    p = fp.open(home)
    rows = p.query("SELECT * FROM forecast_accuracy WHERE level = 'series'")
    (found,) = p.accuracy().to_dict("records")
    assert found["wape"] == pytest.approx(rows["abs_error"].sum() / rows["actual"].abs().sum())
    assert found["wql"] == pytest.approx(rows["quantile_loss"].sum() / rows["actual"].abs().sum())
    assert found["coverage"] == pytest.approx(rows["in_interval"].astype(float).mean())


def test_sales_too_large_to_be_added_exactly_are_named_with_their_series(home: Path, small: None) -> None:
    p = fp.open(home)
    sales = p.query("SELECT store, dept, week, sales FROM cleaned_series WHERE observed")
    at = sales.index[(sales["store"] == "2") & (sales["dept"] == "3")][5]
    sales.loc[at, "sales"] = -5e15
    told = rf"store 2, department 3, week of {sales.loc[at, 'week']:%Y-%m-%d}: sales of -5e\+15 are beyond 1e\+12"
    with pytest.raises(ValueError, match=told):
        p.backtest(sales, cutoffs=["2024-12-06"], horizon=4)


def test_a_leaderboard_is_read_as_it_was_kept(history_home: HistoryHome) -> None:
    path, cutoff = history_home.copy(), dt.date(2024, 12, 6)
    assert fp.open(path).leaderboard().empty
    tally = Tally(10, 100.0, 9.0, 7.0, 8)
    Leaderboard(
        4, cutoff, (Decision(cutoff),), {("last_year", cutoff, WHOLE): tally}, dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    ).save(path)
    (row,) = fp.open(path).leaderboard().to_dict("records")
    assert (row["candidate"], row["cutoff"], row["by"], row["of"]) == ("last_year", "2024-12-06", "level", "series")
    assert (row["wape"], row["wql"], row["coverage80"], row["cells"]) == pytest.approx((0.09, 0.07, 0.8, 10))


def test_lead_time_demand_is_of_the_first_weeks_and_says_how_likely_more_is(home: Path) -> None:
    p = fp.open(home)
    for level in ("series", "total"):
        week, one = p.forecasts(level=level), p.lead_time_demand(1, level=level)
        first = week[week["horizon"] == 1].reset_index(drop=True)
        keys = ["store", "dept", "target_week", "mean", "p10", "p50", "p90"]
        pd.testing.assert_frame_equal(one[keys], first[keys])
        three = p.lead_time_demand(3, level=level)
        assert three["mean"].sum() == pytest.approx(week.loc[week["horizon"] <= 3, "mean"].sum())
        assert (three["target_week"] == first["target_week"] + pd.Timedelta(weeks=2)).all()
    (row,) = p.lead_time_demand(3, store="1", dept="2").to_dict("records")

    def above(value: float) -> float:
        (found,) = p.lead_time_demand(3, store="1", dept="2", above=value)["above"]
        return float(found)

    assert above(row["p50"]) == pytest.approx(0.5)
    assert above((row["p50"] + row["p90"]) / 2) == pytest.approx(0.3)
    assert [above(row["p10"] - 1), above(row["p90"] + 1)] == pytest.approx([0.9, 0.1])
    with pytest.raises(ValueError, match="5 weeks are asked for; forecasts are of 1 to 4"):
        p.lead_time_demand(5)


def test_two_homes_are_open_at_once_and_the_environment_stays_as_it_was(
    home: Path, history_home: HistoryHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECAST_HOME", "/nowhere")
    full, empty = fp.open(home), fp.open(history_home.copy())
    assert len(full.forecasts()) > 0
    assert len(empty.forecasts()) == 0
    assert full.forecasts(week=dt.date(1999, 1, 1)).empty
    import os

    assert os.environ["FORECAST_HOME"] == "/nowhere"


def test_what_cannot_be_asked_is_said_in_words(home: Path, tmp_path: Path) -> None:
    p = fp.open(home)
    with pytest.raises(ValueError, match="no level 'region'; the levels are series, store, dept, total"):
        p.forecasts(level="region")
    with pytest.raises(ValueError, match="no level 'region'"):
        p.lead_time_demand(2, level="region")
    with pytest.raises(ValueError, match="not by colour"):
        p.accuracy(by="colour")
    with pytest.raises(ValueError, match="sales lack dept, week; they have store, sales"):
        p.backtest(pd.DataFrame({"store": ["1"], "sales": [1.0]}), ["2024-12-06"])
    with pytest.raises(LakeError):
        p.query("DROP TABLE forecasts")
    with pytest.raises(FileNotFoundError, match="no home of forecast_platform; make one with: forecast import"):
        fp.open(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no home"):
        fp.open(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is made by asking"
