"""Publication: levels that add up, dates that stay on the grid, and a reason for whoever has no forecast."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from forecast_platform.engines.predictions import Predictions, ShardForecast
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.holidays import Event
from forecast_platform.history.panel import Panel
from forecast_platform.lake.closures import Closing
from forecast_platform.levels import LEVELS, SUMS, UNKNOWN, Level
from forecast_platform.publishing import forecasts as module
from forecast_platform.publishing.forecasts import forecast_rows, member_rows
from forecast_platform.publishing.series import event_rows, forecastable
from forecast_platform.weeks import WEEK
from forecast_platform_tests.history.conftest import FRIDAY, SPECS, make_panel

LEVELS3, COLUMNS = (0.1, 0.5, 0.9), ("p10", "p50", "p90")
SERIES = [("10", "1"), ("10", "2"), ("2", "10"), ("2", "2"), ("x", "10")]
HORIZON, SAMPLES = 4, 200


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(1).normal(100, 20, (len(SERIES), SAMPLES, HORIZON))


def shards(samples: np.ndarray, *sizes: int):
    at = 0
    for size in sizes:
        part, names = samples[at : at + size], SERIES[at : at + size]
        store, dept = (np.array(each) for each in zip(*names, strict=True))
        series = Panel(store, dept, np.array([FRIDAY], dtype="datetime64[D]"), np.ones((size, 1)))
        quantiles = np.moveaxis(np.quantile(part, LEVELS3, axis=1, method="hazen"), 0, 1)
        yield ShardForecast.of(series, quantiles, LEVELS3, part, (*SUMS, REGION, KIND))
        at += size


def published(
    shards: Iterable[ShardForecast], cutoff=FRIDAY, widths=None, levels=SUMS, *, lead_time: bool = False
) -> pa.Table:
    """The rows of predictions that were written and read back."""
    with tempfile.TemporaryDirectory() as folder:
        made = Predictions.write(Path(folder) / "made", shards, LEVELS3, HORIZON, "m-1", "now")
        series = made.forecasts(LEVELS3, HORIZON, lead_time=lead_time)
        asked = (cutoff, LEVELS3, COLUMNS, widths, levels)
        return pa.concat_tables(forecast_rows(made.sums(), series, *asked, lead_time=lead_time))


@pytest.fixture(scope="module")
def rows(samples) -> pa.Table:
    return published(shards(samples, 2, 3))


def cell(rows: pa.Table, level: str, store: str | None, dept: str | None, horizon: int) -> dict:
    (found,) = [
        r for r in rows.to_pylist()
        if (r["level"], r["store"], r["dept"], r["horizon"]) == (level, store, dept, horizon)
    ]  # fmt: skip
    return found


def test_every_level_has_every_member_and_week_once(rows):
    keys = [(r["level"], r["store"], r["dept"], r["horizon"]) for r in rows.to_pylist()]
    members = (
        [("series", s, d) for s, d in SERIES] + [("store", s, None) for s in ("10", "2", "x")]
        + [("dept", None, d) for d in ("1", "10", "2")] + [("total", None, None)]
    )  # fmt: skip
    assert sorted(map(str, keys)) == sorted(str((*m, h)) for m in members for h in range(1, HORIZON + 1))
    assert set(rows["level"].to_pylist()) == {level.name for level in LEVELS}


def test_means_add_up_on_every_level(rows, samples):
    for h in range(1, HORIZON + 1):
        total = cell(rows, "total", None, None, h)["mean"]
        assert total == pytest.approx(samples[:, :, h - 1].mean(axis=1).sum(), rel=1e-12)
        for level in ("series", "store", "dept"):
            parts = [r["mean"] for r in rows.to_pylist() if (r["level"], r["horizon"]) == (level, h)]
            assert sum(parts) == pytest.approx(total, rel=1e-12), level


def test_totals_are_quantiles_of_summed_paths_not_sums_of_quantiles(rows, samples):
    for h in range(1, HORIZON + 1):
        found = cell(rows, "store", "10", None, h)
        paths = samples[0] + samples[1]
        assert [found[c] for c in COLUMNS] == pytest.approx(
            np.quantile(paths[:, h - 1], LEVELS3, method="hazen").tolist()
        )
        whole = cell(rows, "total", None, None, h)
        parts = [r for r in rows.to_pylist() if (r["level"], r["horizon"]) == ("series", h)]
        assert sum(r["p10"] for r in parts) < whole["p10"] < whole["p50"] < whole["p90"] < sum(r["p90"] for r in parts)


def test_series_come_as_the_batch_has_them(rows, samples):
    found = [(r["store"], r["dept"]) for r in rows.to_pylist() if r["level"] == "series" and r["horizon"] == 1]
    assert found == SERIES
    series = [r for r in rows.to_pylist() if r["level"] == "series"]
    assert [r["horizon"] for r in series] == [1, 2, 3, 4] * len(SERIES)
    assert [r["mean"] for r in series] == pytest.approx(samples.mean(axis=1).ravel().tolist())
    quantiles = np.moveaxis(np.quantile(samples, LEVELS3, axis=1, method="hazen"), 0, 1)
    for i, column in enumerate(COLUMNS):
        assert [r[column] for r in series] == pytest.approx(quantiles[:, i].ravel().tolist())


@pytest.mark.parametrize("cutoff", [FRIDAY, dt.date(2023, 12, 31), dt.date(2024, 2, 28)], ids=["FRI", "SUN", "WED"])
def test_target_weeks_keep_the_weekday(samples, cutoff):
    rows = published(shards(samples, 5), cutoff)
    assert set(rows["forecast_week"].to_pylist()) == {cutoff}
    for r in rows.to_pylist():
        assert r["target_week"] == cutoff + r["horizon"] * WEEK
        assert r["target_week"].weekday() == cutoff.weekday()


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 1, 1, 1), (3, 2)])
@pytest.mark.parametrize("at_once", [1, 2, 99])
def test_neither_shards_nor_what_is_made_at_once_change_a_row(monkeypatch, rows, samples, sizes, at_once):
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    monkeypatch.setattr(module, "_GROUPS_AT_ONCE", at_once)
    assert published(shards(samples, *sizes)).equals(rows)


@pytest.mark.parametrize("lead_time", [False, True])
def test_the_rows_come_in_the_order_of_the_tables_key(samples, lead_time):
    found = published(shards(samples, 3, 2), levels=(*SUMS, REGION, KIND), lead_time=lead_time)
    key = SPECS["lead_time_demand" if lead_time else "forecasts"].key
    assert found.equals(found.sort_by([(c, "ascending") for c in key]))


def test_series_that_a_shard_has_in_another_order_are_put_in_order(samples, rows):
    """A home of before has them as people count: 2 before 10."""
    order = [3, 2, 0, 1, 4]
    (whole,) = shards(samples, 5)
    names = ("store", "dept", "last_week", "mean", "quantiles", "lead_time")
    turned = replace(whole, **{name: getattr(whole, name)[order] for name in names})
    assert published([turned]).equals(rows)


def test_names_that_run_into_others_keep_their_order(samples):
    """Groups are summed by their names in one text; a tab sorts before what ends a name in it."""
    names = np.array(["a", "a\tb"])
    series = Panel(names, np.array(["1", "1"]), np.array([FRIDAY], dtype="datetime64[D]"), np.ones((2, 1)))
    quantiles = np.moveaxis(np.quantile(samples[:2], LEVELS3, axis=1, method="hazen"), 0, 1)
    found = published([ShardForecast.of(series, quantiles, LEVELS3, samples[:2], SUMS)])
    stores = found.filter(pc.equal(found["level"], "store"))
    assert stores["store"].to_pylist() == ["a"] * HORIZON + ["a\tb"] * HORIZON
    assert stores["mean"].to_numpy() == pytest.approx(samples[:2].mean(axis=1).ravel())


REGION = Level("region", of="store", values={"2": "west", "10": "west"})  # x has none
KIND = Level("kind", of="dept", values={"10": "food", "1": "tools", "99": "food"})


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 1, 1)])
def test_groups_of_attributes_are_summed_like_stores_whatever_the_shards(samples, sizes):
    found = published(shards(samples, *sizes), levels=(*SUMS, REGION, KIND))
    own = found.filter(pc.is_valid(found["member"])).to_pylist()
    parts = {("region", "west"): [0, 1, 2, 3], ("region", UNKNOWN): [4], ("kind", "food"): [2, 4],
             ("kind", "tools"): [0], ("kind", UNKNOWN): [1, 3]}  # fmt: skip
    assert {(r["level"], r["member"], r["store"], r["dept"]) for r in own} == {(*k, None, None) for k in parts}
    assert len(own) == len(parts) * HORIZON
    for r in own:
        paths = samples[parts[r["level"], r["member"]]].sum(axis=0)[:, r["horizon"] - 1]
        assert r["mean"] == pytest.approx(paths.mean())
        assert [r[c] for c in COLUMNS] == pytest.approx(np.quantile(paths, LEVELS3, method="hazen").tolist())
    alone = published(shards(samples, *sizes))
    assert found.filter(pc.is_null(found["member"])).equals(alone), "what was there without them is as it was"


def test_who_is_in_which_group_is_told_of_all_that_have_a_value_or_a_forecast():
    found = member_rows((REGION, KIND), ["2", "x", "2"], ["10", "2"])
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("region", "10", None, "west"),
        ("region", "2", None, "west"),
        ("region", "x", None, UNKNOWN),
        ("kind", None, "1", "tools"),
        ("kind", None, "10", "food"),
        ("kind", None, "2", UNKNOWN),
        ("kind", None, "99", "food"),
    ]
    assert member_rows((), ["2"], ["10"]).schema == found.schema


def test_a_sum_of_series_never_below_0_is_not_widened_below_it(samples):
    wide = {"store": 50.0, "dept": 50.0, "total": 50.0}
    found = published(shards(samples, 5), widths=wide)
    assert min(r["p10"] for r in found.to_pylist() if r["level"] != "series") == 0
    returned = samples.copy()
    returned[3, 0] = -200.0  # of store 2 and department 2
    found = published(shards(returned, 5), widths=wide)
    assert {r["store"] for r in found.to_pylist() if r["level"] == "store" and r["p10"] < 0} == {"2"}
    assert cell(found, "total", None, None, 1)["p10"] == 0, "no path of the whole falls below 0"


def test_lead_time_demand_adds_up_the_paths_of_the_first_weeks(samples):
    factors = {"store": 1.0, "dept": 1.0, "total": 2.0}
    found = published(shards(samples, 2, 3), widths=factors, lead_time=True)
    weekly = published(shards(samples, 2, 3), widths=factors)
    keys = ["level", "store", "dept", "target_week"]
    assert found.select([*keys, "weeks"]).rename_columns({"weeks": "horizon"}).equals(weekly.select([*keys, "horizon"]))
    first = found.filter(pc.equal(found["weeks"], 1)).drop(["weeks"])
    assert first.equals(weekly.filter(pc.equal(weekly["horizon"], 1)).drop(["horizon"])), "of one week: the forecast"
    for r in found.to_pylist():
        among = [r["store"] in (None, store) and r["dept"] in (None, dept) for store, dept in SERIES]
        paths = samples[among].sum(axis=0)[:, : r["weeks"]].sum(axis=1)
        assert r["mean"] == pytest.approx(paths.mean())
        want = np.quantile(paths, LEVELS3, method="hazen")
        want = want[1] + (2 if r["level"] == "total" else 1) * (want - want[1])
        assert [r[c] for c in COLUMNS] == pytest.approx(want.tolist())


@pytest.mark.parametrize("lead_time", [False, True])
def test_the_rows_have_the_tables_types(samples, lead_time):
    rows = published(shards(samples, 2, 3), lead_time=lead_time)
    schema = SPECS["lead_time_demand" if lead_time else "forecasts"].schema
    assert set(schema.names) - set(rows.column_names) == {"model_version", "as_known", "run_id", "created_at"}
    for name in rows.column_names:
        rows[name].cast(schema.field(name).type)
        assert rows[name].type == schema.field(name).type, name


def test_no_series_give_no_rows():
    assert list(forecast_rows({}, [], FRIDAY, LEVELS3, COLUMNS)) == []


class TestForecastable:
    PANEL = staticmethod(lambda: make_panel({
        ("1", "1"): [1.0] * 10, ("1", "2"): [1.0] * 6 + [None] * 4, ("10", "1"): [1.0] + [None] * 9,
        ("2", "1"): [1.0] + [None] * 8 + [2.0],
    }))  # fmt: skip

    def test_a_series_without_sales_for_active_weeks_has_a_reason_instead(self):
        active, without = forecastable(self.PANEL(), active_weeks=4)
        assert list(zip(active.store.tolist(), active.dept.tolist(), strict=True)) == [("1", "1"), ("2", "1")]
        words = "closed: no sales for {} weeks, the last in the week of {}; a series is closed after 4"
        assert without.to_pylist() == [
            {"store": s, "dept": d, "last_week": week, "reason": words.format(idle, week)}
            for s, d, week, idle in (("1", "2", FRIDAY + 5 * WEEK, 4), ("10", "1", FRIDAY, 9))
        ]

    @pytest.mark.parametrize("active_weeks", [1, 4, 5, 9, 10, 52])
    def test_everyone_has_a_forecast_or_a_reason(self, active_weeks):
        panel = self.PANEL()
        active, without = forecastable(panel, active_weeks)
        names = [*zip(active.store.tolist(), active.dept.tolist(), strict=True)]
        names += [(r["store"], r["dept"]) for r in without.to_pylist()]
        assert sorted(names) == sorted(zip(panel.store.tolist(), panel.dept.tolist(), strict=True))
        assert (len(panel.weeks) - 1 - active.last < active_weeks).all()

    def test_what_people_closed_has_their_reason_instead(self):
        panel = self.PANEL().select(np.array([True, True, True, False]))
        ahead = FRIDAY + 10 * WEEK

        def ask(*said: Closing):
            active, without = forecastable(panel, 52, 4, said)
            return list(zip(active.store.tolist(), active.dept.tolist(), strict=True)), without.to_pylist(), active

        left, without, _ = ask(Closing("1", None, ahead, None, "lease ended", "ana"))
        assert left == [("2", "1")]
        assert [(r["store"], r["dept"]) for r in without] == [("1", "1"), ("1", "2")]
        assert {r["reason"] for r in without} == {f"store closed from {ahead} by ana: lease ended"}
        left, without, active = ask(Closing("1", "1", ahead + WEEK, ahead + 2 * WEEK, "refit", "bo"))
        assert (len(left), without) == (3, [])
        assert active.returns[0].tolist() == [1, 0, 0, 1], "closed in some of the weeks it is forecast as 0 in them"
        over, elsewhere = (Closing(s, "1", FRIDAY, FRIDAY + 9 * WEEK, "refit", "bo") for s in ("1", "9"))
        for said in (over, elsewhere):
            assert len(ask(said)[0]) == 3

    def test_zeros_of_ours_do_not_keep_a_series_open(self):
        panel = self.PANEL()
        filled = np.isnan(panel.sales)
        known = replace(panel, sales=np.nan_to_num(panel.sales), filled=filled)
        for active_weeks in (4, 52):
            assert forecastable(known, active_weeks)[1] == forecastable(panel, active_weeks)[1]

    def test_reasons_fit_their_table_also_when_there_are_none(self):
        for active_weeks in (4, 52):
            _, without = forecastable(self.PANEL(), active_weeks)
            for name in without.column_names:
                assert without[name].type == SPECS["no_forecast"].schema.field(name).type


def test_sums_are_widened_about_their_median_and_series_are_not() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(100, 10, (5, 40, 4))
    plain = published(shards(samples, 2, 3))
    wide = published(shards(samples, 2, 3), widths={"store": 2.0, "dept": 3.0, "total": 4.0})
    for factor, level in ((1, "series"), (2, "store"), (3, "dept"), (4, "total")):
        a, b = (t.filter(pa.compute.equal(t["level"], level)) for t in (plain, wide))
        assert a["p50"] == b["p50"]
        assert a["mean"] == b["mean"]
        for column in ("p10", "p90"):
            before, after = (np.array(t[column]) - np.array(t["p50"]) for t in (a, b))
            np.testing.assert_allclose(after, factor * before)


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("divided", [True, False])
def test_events_are_lined_up_unless_the_history_speaks_against_them(moving: bool, divided: bool) -> None:
    """A feast that moved by four weeks: sales moved with it, or stayed. By open days: the sales are all the same, and
    what moved is how long the stores were open, so nothing speaks against it once sales are divided."""
    feast = Event("Feast", (dt.date(2010, 9, 15), dt.date(2011, 8, 18), dt.date(2012, 9, 14)))
    weeks = np.datetime64("2010-02-05") + 7 * np.arange(110)
    at = [np.datetime64("2010-09-17"), np.datetime64("2011-08-19" if moving else "2011-09-16")]
    size = np.where(np.isin(weeks, at), 3.0, 1.0)
    panel = Panel(np.array(["1"]), np.array(["1"]), weeks, 100 * size[None], events=(feast,))
    if divided:
        days = np.concatenate([size, np.ones(HORIZON)])[None, None]
        panel = replace(panel, exposure=Covariates((Declaration("open_days"),), days))
    rows = event_rows(panel, HORIZON).to_pylist()
    kept = moving or divided
    assert rows == [{"name": "Feast", "date": day, "lined_up": kept} for day in feast.dates]
