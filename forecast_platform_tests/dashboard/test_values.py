"""Every tile and headline figure of every page, against pandas over the tables people land and the forecasts published:
no SQL, no scores of ours."""

from __future__ import annotations

import datetime as dt
import html
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from forecast_platform.dashboard.app import PAGES
from forecast_platform.dashboard.pages import View
from forecast_platform.dashboard.questions import Scope
from forecast_platform.dashboard.report import weekly_report
from forecast_platform.dashboard.source import Source
from forecast_platform.lake.overrides import add_override
from forecast_platform.models.last_year.reference import one_year_back
from forecast_platform.words import PLAIN
from forecast_platform_tests.conftest import landing_day
from forecast_platform_tests.defs.graph import Graph

WEEK = dt.timedelta(weeks=1)
number, percent, short = PLAIN.number, PLAIN.percent, PLAIN.short
LEVELS = {"series": ["store", "dept"], "store": ["store"], "dept": ["dept"], "total": []}
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
SCOPES = [Scope(), Scope("2"), Scope("", "3"), Scope("1", "4")]
in_every_scope = pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)


@pytest.fixture(scope="session")
def frames(published: Graph) -> dict[str, pd.DataFrame]:
    """The tables, "" for a store or department not named; and `scored`: each forecast beside what was sold."""
    names = ("forecasts", "cleaned_series", "no_forecast", "landings", "quarantine", "models")
    tables = {name: published.lake.read(name).to_pandas(date_as_object=True) for name in names}
    for table in ("forecasts", "cleaned_series"):
        tables[table][["store", "dept"]] = tables[table][["store", "dept"]].fillna("")
    sold = tables["cleaned_series"].query("observed")
    actual = pd.concat(
        sold.groupby([*by, "week"], as_index=False)["sales"].sum().assign(level=level) for level, by in LEVELS.items()
    ).fillna({"store": "", "dept": ""})
    keys = ["level", "store", "dept", "target_week"]
    scored = tables["forecasts"].merge(actual.rename(columns={"week": "target_week", "sales": "actual"}), on=keys)
    before = actual.assign(target_week=actual["week"] + 52 * WEEK).rename(columns={"sales": "naive"})
    tables["scored"] = scored.merge(before[[*keys, "naive"]], on=keys, how="left")
    return tables


@pytest.fixture(scope="session")
def week(frames: dict[str, pd.DataFrame]) -> dt.date:
    newest: dt.date = frames["forecasts"]["forecast_week"].max()
    return newest


def view(published: Graph, source: Source, scope: Scope = Scope(), **query: str) -> View:  # noqa: B008 (frozen)
    return View(source.state(), published.platform.settings, {"store": scope.store, "dept": scope.dept, **query})


def members(rows: pd.DataFrame, scope: Scope) -> pd.DataFrame:
    for column, value in (("store", scope.store), ("dept", scope.dept)):
        rows = rows[rows[column] == value] if value else rows
    return rows


def own(rows: pd.DataFrame, scope: Scope) -> pd.DataFrame:
    """The rows of the scope's own sum, by week."""
    return members(rows[rows["level"] == scope.level], scope).set_index("target_week").sort_index()


def scores(rows: pd.DataFrame) -> dict[str, Any]:
    error, actual, known = rows["p50"] - rows["actual"], rows["actual"].abs().sum(), rows[rows["naive"].notna()]
    of_known = known["actual"].abs().sum()
    loss = sum(
        np.maximum(q * (rows["actual"] - rows[c]), (q - 1) * (rows["actual"] - rows[c])) for c, q in QUANTILES.items()
    )
    return {
        "wape": error.abs().sum() / actual,
        "wape_where_naive": (known["p50"] - known["actual"]).abs().sum() / of_known if of_known else None,
        "naive_wape": (known["naive"] - known["actual"]).abs().sum() / of_known if of_known else None,
        "bias": error.sum() / actual,
        "coverage": rows["actual"].between(rows["p10"], rows["p90"]).mean(),
        "held": 0.8,
        "wql": 2 / len(QUANTILES) * loss.sum() / actual,
        "forecasts": len(rows),
        "weeks": rows["target_week"].nunique(),
    }


def close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def tiles(text: str) -> dict[str, tuple[str, str]]:
    """Label -> value and note of every tile of a page."""
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)(?:<small>(.*?)</small>)?</dd>", text, re.S)
    assert len(found) == text.count('<div class="tile')
    return {html.unescape(label): (html.unescape(value), html.unescape(note)) for label, value, note in found}


@in_every_scope
def test_the_tiles_of_the_week(
    client: TestClient, published: Graph, source: Source, frames: dict[str, pd.DataFrame], week: dt.date, scope: Scope
) -> None:
    made = frames["forecasts"]
    ahead = own(made[made["forecast_week"] == week], scope)["p50"].iloc[:4]
    before = own(made[made["forecast_week"] == week - WEEK], scope)["p50"].reindex(ahead.index).dropna()
    sold = members(frames["cleaned_series"], scope)
    grid = sorted(set(frames["cleaned_series"]["week"]))
    by_week = sold[sold["observed"]].groupby("week")["sales"].sum().reindex(grid)
    back = one_year_back(np.array(grid, "datetime64[D]"), 4, view(published, source).lined_up)[:, len(grid) :]
    last_year = pd.Series([sum(by_week[b > 0] * b[b > 0], start=0.0) for b in back.T], ahead.index)
    both = last_year.notna()
    scored = members(frames["scored"].query("level == 'series' and horizon == 1"), scope)
    s = scores(scored[scored["target_week"] <= week])
    series = members(made[(made["forecast_week"] == week) & (made["level"] == "series")], scope)
    without = members(frames["no_forecast"].query("forecast_week == @week"), scope)
    open_now = sold[sold["week"] == week]
    created = made.loc[made["forecast_week"] == week, "created_at"].max().tz_convert("UTC")
    (model,) = frames["models"].query("week == @week").to_dict("records")
    wanted = {
        "Next 4 weeks": (
            short(ahead.sum()),
            f"{percent(ahead[both].sum() / last_year[both].sum() - 1, 1, True)} on last year, holidays lined up",
        ),
        "Since the run before": (percent(ahead[before.index].sum() / before.sum() - 1, 1, True), "of the same weeks"),
        "Error, 3 weeks": (
            percent(s["wape"]),
            "" if s["naive_wape"] is None else f"52 weeks before {percent(s['naive_wape'])}",
        ),
        "Inside the interval": (percent(s["coverage"], 0), f"should be 80%; {number(len(scored))} forecasts, 3 weeks"),
        "Series forecast": (number(series.groupby(["store", "dept"]).ngroups), f"{len(without)} have a reason instead"),
        f"Sold in the week of {week}": (f"{open_now['observed'].sum()} of {len(open_now)}", "open series"),
        "Published": (f"{created:%Y-%m-%d}", f"{created:%H:%M} UTC"),
        "Model": (model["target"], f"trained up to {model['trained_as_of']}, {model['verdict'].replace('_', ' ')}"),
    }
    text = client.get("/", params={"store": scope.store, "dept": scope.dept}).text
    assert tiles(text) == wanted
    assert f"{number(len(series) // 4)} series" in text
    queue = PAGES[""][1](view(published, source, scope))["queue"]
    assert {(r["store"], r["dept"]) for r in queue} == {*zip(series["store"], series["dept"], strict=True)}
    if scope == Scope():
        report = weekly_report(source.state(), published.platform.settings, week)
        told = tiles(report.html)
        assert told.pop("Next 4 weeks") == (
            wanted["Next 4 weeks"][0],
            f"{wanted['Since the run before'][0]} since the run before",
        )
        assert told == {label: wanted[label] for label in told}
        assert len(told) == 3
        assert short(ahead.sum()) in report.summary


@in_every_scope
def test_the_lead_time_demand_of_a_view(
    client: TestClient, published: Graph, source: Source, week: dt.date, scope: Scope
) -> None:
    table = published.lake.read("lead_time_demand").to_pandas(date_as_object=True).query("forecast_week == @week")
    table[["store", "dept"]] = table[["store", "dept"]].fillna("")
    wanted = own(table, scope)
    found = PAGES["explore"][1](view(published, source, scope))["lead_time"]
    assert [r["weeks"] for r in found] == wanted["weeks"].tolist() == [1, 2, 3, 4]
    assert [r["target_week"] for r in found] == wanted.index.tolist()
    for column in ("mean", *QUANTILES):
        assert [r[column] for r in found] == wanted[column].tolist()
    asked = {"store": scope.store, "dept": scope.dept}
    text = client.get("/explore", params=asked).text
    assert "Lead-time demand" in text
    assert number(found[-1]["p90"]) in text
    assert ("the p50 of a sum is not the sum of the p50" in text) == (scope.level != "series")
    more = (found[-1]["p50"] + found[-1]["p90"]) / 2
    text = client.get("/explore", params={**asked, "above": more}).text
    assert f'<th scope="col">More than {number(more)}</th>' in text
    assert '<td class="strong">30%</td></tr>' in text
    told = PAGES["explore"][1](view(published, source, scope, above=str(more)))["lead_time"]
    assert [r["above"] for r in told][-1] == pytest.approx(0.3)
    assert told[0]["above"] <= told[-1]["above"], "of fewer weeks less is sold"


@in_every_scope
@pytest.mark.parametrize("horizon", ["1", "4", "all"])
def test_the_scores_of_a_view(
    published: Graph, source: Source, frames: dict[str, pd.DataFrame], week: dt.date, scope: Scope, horizon: str
) -> None:
    everything = frames["scored"][frames["scored"]["target_week"] <= week]
    for page, query, of_sum in (("explore", {}, True), ("accuracy", {"of": "sum"}, True), ("accuracy", {}, False)):
        found = PAGES[page][1](view(published, source, scope, horizon=horizon, **query))
        rows = members(everything[everything["level"] == (scope.level if of_sum else "series")], scope)
        chosen = rows if horizon == "all" else rows[rows["horizon"] == int(horizon)]
        by_week = found["accuracy" if page == "explore" else "by_week"]
        assert [r["week"] for r in by_week] == sorted(set(chosen["target_week"]))
        for r in by_week:
            close(r, scores(chosen[chosen["target_week"] == r["week"]]))
        if page == "accuracy":
            assert [r["horizon"] for r in found["by_horizon"]] == sorted(set(rows["horizon"])) != []
            for r in found["by_horizon"]:
                close(r, scores(rows[rows["horizon"] == r["horizon"]]))
            each = members(everything[everything["level"] == "series"], scope)
            each = each if horizon == "all" else each[each["horizon"] == int(horizon)]
            points = {r["quantile"]: r["share"] for r in found["tables"]["calibration"]()}
            assert points == pytest.approx(
                {q: (each["actual"] <= each[c]).mean() for c, q in QUANTILES.items()} if len(each) else {}
            )
            assert found["calibrated_weeks"] == each["target_week"].nunique()


@pytest.mark.parametrize("measure", ["wape", "bias", "coverage"])
def test_the_cells_of_the_heat_map(
    published: Graph, source: Source, frames: dict[str, pd.DataFrame], measure: str
) -> None:
    found = PAGES["heatmap"][1](view(published, source, measure=measure))["found"]
    rows = frames["scored"].query("level == 'series' and horizon == 1")
    wanted = {key: scores(of)[measure] for key, of in rows.groupby(["store", "dept"])}
    assert {key: cell.value for key, cell in found.cells.items()} == pytest.approx(wanted)
    off = (rows["p50"] - rows["actual"]).abs().groupby([rows["store"], rows["dept"]]).sum()
    assert {key: cell.off for key, cell in found.cells.items()} == pytest.approx(off.to_dict())


@pytest.mark.parametrize("by", ["store", "dept", "series"])
@pytest.mark.parametrize("scope", [Scope(), Scope("2")], ids=lambda scope: scope.name)
def test_the_figures_of_misses_and_revisions(
    client: TestClient,
    frames: dict[str, pd.DataFrame],
    published: Graph,
    source: Source,
    week: dt.date,
    by: str,
    scope: Scope,
) -> None:
    seen = view(published, source, scope, by=by)
    rows = frames["scored"].query("level == @by and horizon == 1 and target_week == @week")
    rows = members(rows, scope)
    found = PAGES["misses"][1](seen)
    off = (rows["p50"] - rows["actual"]).abs()
    assert (found["of_all"], found["lost"]) == (len(rows), pytest.approx(off.sum()))
    if len(rows):
        text = client.get("/misses", params={"store": scope.store, "by": by}).text
        assert f"All {number(len(rows))} together were off by {number(off.sum())}." in text
    keyed = {(r["store"] or "", r["dept"] or ""): r for r in found["rows"]}
    assert keyed.keys() == {*zip(rows["store"], rows["dept"], strict=True)}
    for wanted in rows.to_dict("records"):
        r = keyed[wanted["store"], wanted["dept"]]
        close(r, {"actual": wanted["actual"], "p50": wanted["p50"], "error": wanted["p50"] - wanted["actual"]})
        assert r["naive"] == (pytest.approx(wanted["naive"]) if pd.notna(wanted["naive"]) else None)
        assert r["in_interval"] == (wanted["p10"] <= wanted["actual"] <= wanted["p90"])

    made = members(frames["forecasts"].query("level == @by"), scope).set_index(["store", "dept", "target_week"])["p50"]
    weeks = members(frames["forecasts"].query("level == @by"), scope).set_index(["store", "dept", "target_week"])
    pair = pd.concat(
        {k: made[(weeks["forecast_week"] == w).to_numpy()] for k, w in (("before", week - WEEK), ("now", week))},
        axis=1, join="inner",
    )  # fmt: skip
    sums = pair.groupby(level=["store", "dept"]).sum()
    found = PAGES["revisions"][1](seen)
    assert found["of_all"] == len(sums)
    assert {(r["store"] or "", r["dept"] or "") for r in found["rows"]} == set(sums.index)
    for r in found["rows"]:
        before, now = sums.loc[(r["store"] or "", r["dept"] or "")]
        close(r, {"before": before, "now": now, "change": now - before, "weeks": 3})


def test_the_counts_of_the_data_page(
    client: TestClient, frames: dict[str, pd.DataFrame], published: Graph, source: Source, week: dt.date
) -> None:
    found = PAGES["runs"][1](view(published, source))
    assert [r["of_all"] for r in found["landings"]] == [len(frames["landings"])] * len(found["landings"]) != []
    by_file = frames["landings"].set_index(["source_key", "landed_at"])
    for r in found["landings"]:
        wanted = by_file.loc[(r["source_key"], pd.Timestamp(r["landed_at"]))]
        assert (r["rows"], r["accepted"], r["quarantined"]) == tuple(wanted[["rows", "accepted", "quarantined"]])
    refused = frames["landings"]["quarantined"].sum()
    assert [r["of_all"] for r in found["quarantine"]] == [refused] * 2 == [len(frames["quarantine"])] * 2
    assert [r["week"] for r in found["models"]] == sorted(frames["models"]["week"], reverse=True)
    without = len(frames["no_forecast"].query("forecast_week == @week"))
    assert len(found["without"]) == without
    assert f"of the week of {week}: {number(without)}<" in client.get("/runs").text


def test_a_plan_of_the_next_weeks(
    client: TestClient, published: Graph, frames: dict[str, pd.DataFrame], week: dt.date
) -> None:
    from pyiceberg.expressions import AlwaysTrue

    made = frames["forecasts"].query("forecast_week == @week")
    mine = made.query("level == 'series' and store == '1' and dept == '1' and horizon == 2").iloc[0]
    add_override(published.lake, "1", "1", mine["target_week"], mine["p50"] + 1000, "fair", "ana", mine["target_week"],
                 landing_day(week))  # fmt: skip
    try:
        total = made.query("level == 'total'")["p50"].sum()
        text = client.get("/").text
        assert f"<b>{number(total + 1000)}</b>, where the forecast is {number(total)}." in text
    finally:
        published.lake.replace("overrides", AlwaysTrue(), published.lake.specs["overrides"].schema.empty_table())
