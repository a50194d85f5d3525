"""Backtests: the protocol on real data, no leak, and errors that name the model."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from forecast_platform.history.panel import Panel
from forecast_platform.models.backtest import backtest, summary_table, to_json
from forecast_platform.models.last_year.week import seasonal_naive

REPO = Path(__file__).parents[2]
WALMART = Path(os.environ.get("FORECAST_WALMART_DIR") or REPO.parent / "shared" / "data" / "walmart")
CUTOFFS = (dt.date(2012, 8, 3), dt.date(2011, 11, 4))
FIRST = np.datetime64("2020-01-03")  # a Friday


def make_panel(n: int = 6, weeks: int = 120, seed: int = 0) -> Panel:
    rng = np.random.default_rng(seed)
    sales = rng.normal(100, 30, (n, weeks))
    sales[rng.random(sales.shape) < 0.05] = np.nan
    ids = np.arange(n).astype(str)
    return Panel(ids, ids, FIRST + 7 * np.arange(weeks), sales)


def week(i: int) -> dt.date:
    return (FIRST + 7 * i).astype(dt.date)


def replace_sales(panel: Panel, sales) -> Panel:
    return Panel(panel.store, panel.dept, panel.weeks, sales)


# --------------------------------------------------------------------------------------- the real data


@pytest.fixture(scope="module")
def walmart_rows() -> pd.DataFrame:
    path = WALMART / "sales.csv.gz"
    if not path.exists():
        pytest.skip(f"needs the Walmart sales: {path} is missing; point FORECAST_WALMART_DIR at its folder")
    rows = pd.read_csv(path)
    rows.columns = ["store", "dept", "week", "sales", "is_holiday"]
    rows["week"] = pd.to_datetime(rows["week"], format="%d/%m/%Y")
    return rows


@pytest.fixture(scope="module")
def walmart(walmart_rows) -> Panel:
    return Panel.from_table(pa.table({
        "store": walmart_rows["store"].astype(str).tolist(),
        "dept": walmart_rows["dept"].astype(str).tolist(),
        "week": pa.array(walmart_rows["week"].dt.date),
        "sales": walmart_rows["sales"].to_numpy(),
    }))  # fmt: skip


def from_the_words(rows: pd.DataFrame, forecasts: pd.DataFrame, cutoff: dt.date, horizon: int) -> dict:
    """The protocol recomputed on long tables: no grid, no arrays, nothing shared with the code under test."""
    cut = pd.Timestamp(cutoff)
    key = ["store", "dept"]
    life = rows.groupby(key)["week"].agg(["min", "max"])
    before = rows[rows["week"] <= cut].groupby(key)["week"].min()
    age = (cut - before).dt.days // 7 + 1
    in_window = rows[(rows["week"] > cut) & (rows["week"] <= cut + pd.Timedelta(weeks=horizon))]
    scored = age[age >= 30].index.intersection(pd.MultiIndex.from_frame(in_window[key].drop_duplicates()))
    f = forecasts.assign(
        store=forecasts["store"].astype(int),
        dept=forecasts["dept"].astype(int),
        week=pd.to_datetime(forecasts["target_week"]),
    )
    f = f.merge(life.loc[scored].reset_index(), on=key)
    f = f[(f["week"] <= f["max"]) & (f["week"] <= rows["week"].max())]
    f = f.merge(rows, on=[*key, "week"], how="left")
    y, volume = f["sales"].fillna(0), f["sales"].abs().sum()
    loss = [2 * (lambda e, t: e.clip(lower=0) * t - e.clip(upper=0) * (1 - t))(y - f[f"p{k}0"], k / 10).sum()
            for k in range(1, 10)]  # fmt: skip
    return {
        "wape": (y - f["p50"]).abs().sum() / volume,
        "wql": sum(loss) / 9 / volume,
        "coverage80": y.between(f["p10"], f["p90"]).mean(),
        "width80": (f["p90"] - f["p10"]).sum() / volume,
        "bias": (f["p50"] - y).sum() / volume,
        "series": len(scored),
        "cells": len(f),
    }


@pytest.fixture(scope="module")
def walmart_results(walmart):
    return backtest(walmart, CUTOFFS, 12, {"seasonal naive": seasonal_naive})


def test_walmart_scores_equal_the_protocol_recomputed(walmart_rows, walmart_results):
    assert len(walmart_results) == len(CUTOFFS)
    for result in walmart_results:
        want = from_the_words(walmart_rows, result.forecasts.to_pandas(), result.cutoff, 12)
        ours = {name: getattr(result.scores, name) for name in want}
        assert ours == pytest.approx(want, rel=1e-9)


def test_walmart_seasonal_naive_is_as_published(walmart_results):
    """PEERS: 3,078 and 3,093 series scored, WAPE .108 and .119."""
    a, b = (result.scores for result in walmart_results)
    assert (a.series, b.series) == (3078, 3093)
    assert (round(a.wape, 3), round(b.wape, 3)) == (0.108, 0.119)


def test_walmart_window_may_run_past_the_data(walmart_rows, walmart):
    (result,) = backtest(walmart, [dt.date(2012, 10, 12)], 12, {"naive": seasonal_naive})
    want = from_the_words(walmart_rows, result.forecasts.to_pandas(), result.cutoff, 12)
    assert result.scores.cells == want["cells"]
    assert result.scores.wape == pytest.approx(want["wape"])
    assert result.forecasts["target_week"].to_pylist()[11] == dt.date(2013, 1, 4)


# ---------------------------------------------------------------------------------------- the protocol


def test_who_is_scored_and_which_weeks():
    sales = np.full((5, 60), np.nan)
    sales[0] = 10.0  # all of it
    sales[1, 11:] = 10.0  # 29 weeks old at the cutoff: forecast, not scored
    sales[2, :40] = 10.0  # closed at the cutoff: forecast, not scored
    sales[3, 10:42] = 10.0  # 30 weeks old, closes two weeks into the window: two cells
    sales[4, 41:] = 10.0  # unknown at the cutoff
    sales[0, 41] = np.nan  # a gap inside the span scores as 0
    ids = np.arange(5).astype(str)
    panel = Panel(ids, ids, FIRST + 7 * np.arange(60), sales)
    (result,) = backtest(panel, [week(39)], 4, {"tens": lambda h, n, q: np.full((len(h), 9, n), 10.0)})
    assert (result.scores.series, result.scores.cells) == (2, 4 + 2)
    assert result.scores.wape == pytest.approx(10 / 50)
    assert result.forecasts.num_rows == 4 * 4
    assert set(result.forecasts["store"].to_pylist()) == {"0", "1", "2", "3"}


def test_nothing_after_the_cutoff_reaches_a_forecast():
    panel, cutoffs = make_panel(), [week(80), week(100)]
    models = {"naive": seasonal_naive, "mean": lambda h, n, q: np.nanmean(h.sales) * np.ones((len(h), len(q), n))}
    plain = backtest(panel, cutoffs, 8, models)
    changed = panel.sales.copy()
    changed[:, 81:] = changed[:, 81:] * -3 + 7
    shifted = backtest(replace_sales(panel, changed), cutoffs, 8, models)
    assert len(plain) == len(cutoffs) * len(models)
    for a, b in zip(plain, shifted, strict=True):
        assert a.forecasts.equals(b.forecasts) == (a.cutoff == week(80))
        assert a.scores != b.scores


def test_a_model_can_not_spoil_the_data_for_the_next():
    def vandal(history, horizon, quantiles):
        history.sales[:] = 0
        history.store[:] = "x"
        return np.zeros((len(history), len(quantiles), horizon))

    panel = make_panel()
    alone = backtest(panel, [week(80)], 8, {"naive": seasonal_naive})
    after = backtest(panel, [week(80)], 8, {"vandal": vandal, "naive": seasonal_naive})
    assert after[1].scores == alone[0].scores
    assert "x" not in after[0].forecasts["store"].to_pylist()


def test_the_forecast_table_holds_one_row_a_series_and_week():
    panel = make_panel(3)
    (result,) = backtest(panel, [week(100)], 5, {"naive": seasonal_naive}, quantiles=(0.05, 0.5, 0.95))
    table = result.forecasts
    assert table.schema == pa.schema([
        ("model", pa.string()), ("cutoff", pa.date32()), ("store", pa.string()), ("dept", pa.string()),
        ("target_week", pa.date32()), ("p5", pa.float64()), ("p50", pa.float64()), ("p95", pa.float64()),
    ])  # fmt: skip
    assert table.num_rows == 15
    rows = table.slice(5, 5).to_pylist()  # series "1"
    want = seasonal_naive(panel.until(week(100)), 5, (0.05, 0.5, 0.95))[1]
    assert [r["target_week"] for r in rows] == [week(101 + h) for h in range(5)]
    np.testing.assert_array_equal([[r["p5"], r["p50"], r["p95"]] for r in rows], want.T)
    assert {(r["model"], r["cutoff"], r["store"]) for r in rows} == {("naive", week(100), "1")}


def test_progress_and_time_are_reported():
    lines: list[str] = []
    (result,) = backtest(make_panel(), [week(80)], 4, {"naive": seasonal_naive}, progress=lines.append)
    assert len(lines) == 2
    assert "naive at 2021-07-16: 6 series" in lines[0]
    assert result.seconds > 0
    assert result.cpu_seconds >= 0


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("cutoff", "message"),
    [
        (week(80) - dt.timedelta(days=2), r"is a Wednesday, but weeks end on Friday here; the nearest is 2021-07-16"),
        (week(80) + dt.timedelta(days=3), r"is a Monday, .* the nearest is 2021-07-16"),
        (week(119), "a week after the cutoff is needed"),
        (week(-1), "must lie from 2020-01-03 to"),
        (week(5), "nothing to score at"),
    ],
)
def test_a_wrong_cutoff_is_named(cutoff, message):
    with pytest.raises(ValueError, match=message):
        backtest(make_panel(), [cutoff], 4, {"naive": seasonal_naive})


@pytest.mark.parametrize(
    ("forecast", "message"),
    [
        (np.zeros((6, 4, 9)), "returned shape (6, 4, 9); want (series, quantiles, horizon) = (6, 9, 4)"),
        (np.zeros((5, 9, 4)), "returned shape (5, 9, 4)"),
        (np.full((6, 9, 4), np.nan), "returned non-finite values for 6 of 6 series, first store 0, dept 0"),
        (-np.arange(9.0)[:, None] * np.ones((6, 9, 4)), "returned crossing quantiles for 6 of 6 series"),
    ],
)
def test_a_wrong_forecast_names_its_model(forecast, message):
    with pytest.raises(ValueError, match=re.escape(f"model 'broken' {message}")):
        backtest(make_panel(), [week(80)], 4, {"naive": seasonal_naive, "broken": lambda *_: forecast})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"horizon": 0}, "horizon is 0"), ({"quantiles": (0.025, 0.5)}, "whole percents"),
     ({"quantiles": (0.5, 0.1)}, "must ascend")],
)  # fmt: skip
def test_wrong_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        backtest(make_panel(), [week(80)], **({"horizon": 4, "models": {"naive": seasonal_naive}} | kwargs))


# ------------------------------------------------------------------------------------------- reporting


def test_summary_and_json_carry_the_numbers():
    results = backtest(make_panel(), [week(80), week(100)], 4, {
        "naive": seasonal_naive, "zero": lambda h, n, q: np.zeros((len(h), len(q), n)),
    })  # fmt: skip
    lines = summary_table(results).splitlines()
    assert lines[0].split()[:4] == ["cutoff", "model", "WAPE", "wQL"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["2021-07-16", "naive"], ["2021-07-16", "zero"], ["2021-12-03", "naive"], ["2021-12-03", "zero"]
    ]  # fmt: skip
    assert len({len(line) for line in lines}) == 1
    data = json.loads(json.dumps(to_json(results), allow_nan=False))
    assert data["naive"]["2021-07-16"]["wape"] == results[0].scores.wape
    assert data["zero"]["2021-12-03"]["wape"] == 1.0
    assert data["zero"]["2021-12-03"]["horizon"] == 4


def test_an_undefined_metric_is_null_in_json():
    flat = replace_sales(make_panel(2), np.ones((2, 120)))
    results = backtest(flat, [week(80)], 4, {"naive": seasonal_naive}, quantiles=(0.5,))
    numbers = to_json(results)["naive"]["2021-07-16"]
    assert numbers["mase"] is None
    assert numbers["coverage80"] is None
    assert numbers["wape"] == 0
