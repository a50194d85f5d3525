"""A retailer with regions and categories, through the whole graph: what is forecast, scored, planned and shown for them
is of the series that were in them when the forecast was made."""

from __future__ import annotations

import datetime as dt
import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlglot
from starlette.testclient import TestClient

import forecast_platform as fp
from forecast_platform.dashboard.app import PAGES, build_app
from forecast_platform.dashboard.pages import View, misses, revisions
from forecast_platform.dashboard.source import Source
from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform.lake.overrides import add_override
from forecast_platform.models.trained import TrainedModel
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL, HistoryHome, landing_day, weeks_of
from forecast_platform_tests.dashboard.test_questions import Recording, same
from forecast_platform_tests.defs.graph import Graph, Result

WEEKS = 3  # with a forecast
LEVELS = ("region", "category")
# Store 2 moves from North to South after the first forecast, store 3 and department 4 are in no region and category.
REGIONS = [{"1": "North", "2": "North", "3": "unknown"}] + [{"1": "North", "2": "South", "3": "unknown"}] * 2
CATEGORY = {"1": "food", "2": "food", "3": "toys", "4": "unknown"}
KEY = ["week", "forecast_week", "horizon", "level", "member"]


class Told:
    """The home after three weekly runs more, the first two with the model of before there were levels."""

    def __init__(self, home: HistoryHome, retailer: MadeUpRetailer) -> None:
        graph = home.restore()
        self.home = graph.platform.settings.home
        self.weeks = weeks_of(retailer)[-4:-1]
        self.before = graph.lake.read("forecasts").to_pylist()
        self.models_before = self.models()
        files = {"stores/r.csv": b"store,Region\n1,North\n2,North\n3,\n",
                 "departments/c.csv": b"dept,Category\n1,food\n2,food\n3,toys\n4,\n"}  # fmt: skip
        graph.land(files, at=landing_day(self.weeks[0]))
        self.runs = [self.run(self.weeks[0])]
        name, data = week_file(retailer, self.weeks[1])
        graph.land({name: data, "stores/moved.csv": b"store,region\n2,South\n"}, at=landing_day(self.weeks[1]))
        self.runs.append(self.run(self.weeks[1]))
        self.models_after_two = self.models()
        graph.land(dict([week_file(retailer, self.weeks[2])]), at=landing_day(self.weeks[2]))
        self.runs.append(self.run(self.weeks[2], seed=1))  # trains anew
        self.lake = self.graph().lake

    def models(self) -> list[Path]:
        return sorted(path.parent for path in (self.home / "models").glob("*/training.json"))

    def settings(self, **changes: Any) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FORECAST_HOME", str(self.home))
            return Settings(**(SMALL | {"levels": LEVELS} | changes))

    def graph(self, **changes: Any) -> Graph:
        return Graph(self.settings(**changes))

    def run(self, week: dt.date, **changes: Any) -> Result:
        return self.graph(**changes).week(week)

    def frame(self, name: str) -> pd.DataFrame:
        return pd.DataFrame(self.lake.read(name).to_pylist())


@pytest.fixture(scope="module")
def told(first_forecast_home: HistoryHome, retailer: MadeUpRetailer) -> Told:
    found = Told(first_forecast_home, retailer)
    assert [run.success for run in found.runs] == [True] * WEEKS, [run.failures for run in found.runs]
    return found


def members(series: pd.DataFrame, regions: dict[str, str]) -> dict[str, pd.Series]:
    """Of rows of series, the group of each at each level."""
    return {"region": series["store"].map(regions), "category": series["dept"].map(CATEGORY)}


def test_the_levels_that_were_there_before_are_as_they_were(told: Told) -> None:
    rows = told.frame("forecasts")
    rows = rows[(rows["forecast_week"] == told.weeks[0]) & rows["member"].isna()]
    shown = [c for c in rows.columns if c not in ("run_id", "created_at")]
    assert rows[shown].replace({np.nan: None}).to_dict("records") == [{c: r[c] for c in shown} for r in told.before]


def test_means_of_groups_are_those_of_their_series_and_add_up_to_the_total(told: Told) -> None:
    rows = told.frame("forecasts")
    for week, regions in zip(told.weeks, REGIONS, strict=True):
        of_week = rows[rows["forecast_week"] == week]
        series = of_week[of_week["level"] == "series"]
        total = of_week[of_week["level"] == "total"].set_index("target_week")["mean"]
        for level, member in members(series, regions).items():
            found = of_week[of_week["level"] == level]
            assert found["store"].isna().all()
            assert found["dept"].isna().all()
            wanted = series.groupby([member, "target_week"])["mean"].sum()
            assert found.set_index(["member", "target_week"])["mean"].to_dict() == pytest.approx(wanted.to_dict())
            assert found.groupby("target_week")["mean"].sum().to_dict() == pytest.approx(total.to_dict())
            assert (found["p10"] < found["p90"]).all()


def test_accuracy_is_that_of_the_stores_that_were_in_the_group_then(told: Told) -> None:
    """In plain pandas. A sum by the regions of now would charge North's forecast with store 2 missing."""
    scored, forecasts, sales = (told.frame(name) for name in ("forecast_accuracy", "forecasts", "cleaned_series"))
    sales = sales[sales["observed"]]
    wanted = []
    for week, regions in zip(told.weeks, REGIONS, strict=True):
        for level, member in members(sales, regions).items():
            sums = sales.groupby([member, "week"])["sales"].sum().to_dict()
            of_level = forecasts[(forecasts["forecast_week"] == week) & (forecasts["level"] == level)]
            for f in of_level.to_dict("records"):
                actual = sums.get((f["member"], f["target_week"]))
                naive = sums.get((f["member"], f["target_week"] - dt.timedelta(weeks=52)))
                if actual is not None:
                    losses = [2 * max(q * (actual - f[c]), (q - 1) * (actual - f[c]))
                              for q, c in ((0.1, "p10"), (0.5, "p50"), (0.9, "p90"))]  # fmt: skip
                    wanted.append({
                        "week": f["target_week"], **{k: f[k] for k in ("forecast_week", "horizon", "level", "member")},
                        "actual": actual, "error": f["p50"] - actual, "quantile_loss": sum(losses) / 3, "naive": naive,
                        "in_interval": f["p10"] <= actual <= f["p90"],
                    })  # fmt: skip
    found = scored[scored["level"].isin(LEVELS)].sort_values(KEY, ignore_index=True)
    expected = pd.DataFrame(wanted).sort_values(KEY, ignore_index=True)
    assert (
        len(found) == len(expected) == 2 * (2 + 3) + 1 * (3 + 3)
    )  # two weeks of the first forecast, one of the second
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False, rtol=1e-9)


def test_a_table_made_again_alone_does_not_put_sums_of_then_under_the_groups_of_now(told: Told) -> None:
    """Predictions of the first week were summed by its regions; store 2 has moved since."""
    before = told.lake.snapshot("forecasts")
    again = told.graph().week(told.weeks[0], only=["forecast_table"])
    assert not again.success
    assert "was summed by other groups than stores/ and departments/ say now" in again.failures["forecast_table"]
    assert told.lake.snapshot("forecasts") == before


def test_actuals_of_groups_add_up_to_the_totals(told: Told) -> None:
    scored = told.frame("forecast_accuracy")
    sums = scored.groupby(["week", "forecast_week", "level"])["actual"].sum().unstack("level")
    assert sums["region"].to_dict() == pytest.approx(sums["total"].to_dict())
    assert sums["category"].to_dict() == pytest.approx(sums["total"].to_dict())


def test_a_model_of_before_serves_on_with_the_wider_factor_and_a_new_one_has_its_own(told: Told) -> None:
    assert told.models_after_two == told.models_before, "asking for levels trained a model"
    for run in told.runs[:2]:
        assert set(run.metadata("deepar_model")["interval_factors_of_sums"]) == {"store", "dept", "total"}
        region, category = run.metadata("forecast_table")["notices"]
        assert "trained before there was a level region: until the next training its intervals are widened by" in region
        assert "the factor of dept or total, whichever is larger" in category
    own = told.runs[2].metadata("deepar_model")["interval_factors_of_sums"]
    assert list(own) == ["store", "dept", "total", *LEVELS]
    assert "notices" not in told.runs[2].metadata("forecast_table")
    (new,) = set(told.models()) - set(told.models_before)
    assert TrainedModel.load(new).calibration.sums == own


def test_a_figure_of_a_series_reaches_the_plan_of_its_groups_now(told: Told) -> None:
    week = told.weeks[-1] + dt.timedelta(weeks=1)
    before = plans(told)
    rows = told.lake.query("SELECT * FROM latest_forecast WHERE store = '2' AND dept = '3' AND horizon = 1").to_pylist()
    (p50,) = (r["p50"] for r in rows)
    add_override(told.lake, "2", "3", week, p50 + 1000, "fair", "ana", week, dt.datetime(2025, 2, 1, tzinfo=dt.UTC))
    moved = {key for key, plan in plans(told).items() if plan != pytest.approx(before[key])}
    assert moved == {("series", None), ("store", None), ("dept", None), ("total", None), ("region", "South"),
                     ("category", "toys")}  # fmt: skip
    assert plans(told)["region", "South"] == pytest.approx(before["region", "South"] + 1000)


def plans(told: Told) -> dict[tuple[str, str | None], float]:
    """Sum of the plan by level and group."""
    rows = pd.DataFrame(told.lake.query("SELECT * FROM forecast_with_overrides").to_pylist())
    return {
        (level, None if pd.isna(member) else member): plan
        for (level, member), plan in rows.groupby(["level", "member"], dropna=False)["plan"].sum().items()
    }


def test_pages_show_groups_and_offer_them(told: Told) -> None:
    source = Source(told.lake)
    with TestClient(build_app(told.settings(), source, hosts=("testserver",))) as client:

        def text(path: str, status: int = 200) -> str:
            answer = client.get(path)
            assert answer.status_code == status
            return html.unescape(answer.text)

        for page in ("/", "/explore", "/misses", "/revisions", "/accuracy"):
            assert "<option>region: South</option>" in text(page)
            assert "<option selected>region: South</option>" in text(f"{page}?group=region:+South")
        shown = text("/explore?group=region:+South")
        assert "Region South: sales and forecast" in shown
        sales = pd.DataFrame(told.lake.read("cleaned_series").to_pylist())
        wanted = sales[sales["store"].eq("2") & sales["observed"]].groupby("week")["sales"].sum()
        rows = client.get("/explore?group=region:+South&format=csv&table=sales").text.splitlines()[1:]
        assert {r.split(",")[0]: float(r.split(",")[1]) for r in rows} == pytest.approx(
            {str(week): value for week, value in wanted.items()}, abs=0.01
        )
        assert "Region North" in text("/misses?by=region")
        assert "group=region%3A+North" in client.get("/misses?by=region").text
        assert "Category toys" in text("/revisions?by=category")
        assert "Store 2, dept 1" in text("/misses?group=region:+South")
        assert "Store 1, dept 1" not in text("/misses?group=region:+South")
        # Who is in a group is a matter of the forecast looked at.
        assert "Store 2, dept 1" in text(f"/?group=region:+North&week={told.weeks[0]}&rows=50")
        assert "Store 2, dept 1" not in text("/?group=region:+North&rows=50")
        assert "There is no group region: East" in text("/?group=region:+East", 404)
        assert "leave store and department empty" in text("/?group=region:+South&store=2", 404)


def test_questions_about_groups_are_asked_in_sql_that_athena_reads_too(told: Told) -> None:
    recording = Recording(Source(told.lake).state())
    for _, build in PAGES.values():
        for query in ({"group": "region: South"}, {"group": "category: food", "by": "dept"}, {"by": "region"}):
            wanted = query if build in (misses, revisions) else {k: v for k, v in query.items() if k != "by"}
            for rows in build(View(recording, told.settings(), wanted))["tables"].values():
                rows()
    asked = {sql: found for sql, found in recording.asked.items() if "member" in sql}
    assert len(asked) > 20
    with told.lake.connection() as con:
        for sql, (parameters, answer) in asked.items():
            as_athena = sqlglot.transpile(sql, read="athena", write="duckdb")[0]
            assert same(con.sql(as_athena, params=list(parameters)).to_arrow_table().to_pylist(), answer), sql


def test_python_gives_a_level_and_one_group(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_LEVELS", ",".join(LEVELS))
    home = fp.open(told.home)
    assert set(home.forecasts(level="region")["member"]) == {"North", "South", "unknown"}
    assert set(home.forecasts(level="category", member="food")["member"]) == {"food"}
    scores = home.accuracy(by=["member"], level="region")
    assert set(scores["member"]) == {"North", "South", "unknown"}
    with pytest.raises(
        ValueError, match="no level 'size'; the levels are series, store, dept, total, region, category"
    ):
        home.forecasts(level="size")


def test_an_attribute_that_is_not_there_stops_the_run_before_the_model_and_says_what_there_is(told: Told) -> None:
    run = told.run(told.weeks[-1], levels=("regoin",))
    assert not run.success
    assert "levels asks for regoin" in run.failures["deepar_model"]
    assert "Did you mean region? There are: category (departments/), " in run.failures["deepar_model"]
    assert set(run.failures) == {"deepar_model"}


def test_an_attribute_whose_column_was_taken_away_is_not_there(history_home: HistoryHome, told: Told) -> None:
    graph = history_home.restore()
    graph.land({"stores/s.csv": b"store,name\n1,a\n2,b\n3,c\n"}, at=landing_day(told.weeks[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORECAST_HOME", str(graph.platform.settings.home))
        run = Graph(Settings(**SMALL, levels=("region",))).week(told.weeks[0])
    assert "levels asks for region, but no file under stores/" in run.failures["deepar_model"]
    assert len(graph.lake.read("forecasts")) == 0
