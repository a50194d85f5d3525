"""Realised accuracy: the SQL against pandas, level by level, and against the metrics module."""

from __future__ import annotations

import ast
import datetime as dt
import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import forecast_platform
from forecast_platform.lake.tables import table_specs
from forecast_platform.models.metrics import wape, weighted_quantile_loss
from forecast_platform.publishing import accuracy as module
from forecast_platform.publishing.accuracy import score_weeks
from forecast_platform.weeks import WEEK

LEVELS, COLUMNS = (0.1, 0.5, 0.9), ("p10", "p50", "p90")
SPECS = table_specs(COLUMNS)
FIRST = dt.date(2023, 1, 6)
SERIES = [("1", "1"), ("1", "2"), ("10", "1")]
LAST = 59  # week number of the last cutoff; forecasts reach 3 weeks further


def actuals(seed: int = 0) -> pd.DataFrame:
    """70 weeks; (1, 2) has a gap in weeks 8 and 61, (10, 1) begins in week 20 and has returns."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, (store, dept) in enumerate(SERIES):
        for w in range(20 if store == "10" else 0, 70):
            gap = (store, dept) == ("1", "2") and w in (8, 61)
            returned = 500 if (i, w) == (2, 62) else 0
            sales = None if gap else round(float(rng.normal(100 * (i + 1), 40)), 2) - returned
            rows.append({"week": FIRST + w * WEEK, "store": store, "dept": dept, "sales": sales, "observed": not gap})
    return pd.DataFrame(rows)


def forecasts(seed: int = 1) -> pd.DataFrame:
    """Two cutoffs, three weeks ahead, on every level."""
    rng = np.random.default_rng(seed)
    members = [("series", s, d) for s, d in SERIES] + [("store", "1", None), ("store", "10", None)]
    members += [("dept", None, "1"), ("dept", None, "2"), ("total", None, None)]
    rows = []
    for cutoff in (LAST - 1, LAST):
        for level, store, dept in members:
            for h in (1, 2, 3):
                p10, p50, p90 = np.sort(rng.normal(200, 80, 3)).round(3)
                week = FIRST + cutoff * WEEK
                rows.append({
                    "forecast_week": week, "level": level, "store": store, "dept": dept, "target_week": week + h * WEEK,
                    "horizon": h, "mean": p50 + 1, "p10": p10, "p50": p50, "p90": p90, "model_version": f"m{cutoff}",
                })  # fmt: skip
    return pd.DataFrame(rows)


def connection(sales: pd.DataFrame, published: pd.DataFrame) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    for name, frame in (("cleaned_series", sales), ("forecasts", published)):
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        con.register(name, pa.Table.from_pylist(rows, schema=SPECS[name].schema))
    con.register("level_members", SPECS["level_members"].schema.empty_table())
    return con


def score(first: int = 0, last: int = 69, sales=None, published=None) -> pd.DataFrame:
    con = connection(actuals() if sales is None else sales, forecasts() if published is None else published)
    rows = pa.concat_tables(score_weeks(con, [FIRST + n * WEEK for n in range(first, last + 1)]))
    assert set(rows.column_names) == set(SPECS["forecast_accuracy"].schema.names)
    rows.select(SPECS["forecast_accuracy"].schema.names).cast(SPECS["forecast_accuracy"].schema)
    return pd.DataFrame(rows.to_pylist())


def by_level(sales: pd.DataFrame, level: str) -> pd.Series:
    keys = {"series": ["store", "dept"], "store": ["store"], "dept": ["dept"], "total": []}[level]
    observed = sales[sales["observed"]].astype({"sales": float})
    return observed.groupby(["week", *keys])["sales"].sum()


KEY = ["week", "forecast_week", "level", "store", "dept"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return score()


def test_equals_a_recomputation_in_pandas(rows):
    sales, expected = actuals(), []
    for f in forecasts().to_dict("records"):
        names = tuple(f[k] for k in ("store", "dept") if pd.notna(f[k]))
        known = by_level(sales, f["level"]).to_dict()

        def at(week, names=names, known=known):
            return known.get((week, *names) if names else week)

        actual, naive = at(f["target_week"]), at(f["target_week"] - dt.timedelta(weeks=52))
        if actual is None:
            continue
        losses = [2 * max(q * (actual - f[c]), (q - 1) * (actual - f[c])) for q, c in zip(LEVELS, COLUMNS, strict=True)]
        expected.append({
            "week": f["target_week"], **{k: f[k] for k in ("forecast_week", "horizon", "level", "store", "dept")},
            "actual": actual, "mean": f["mean"], "p50": f["p50"], "error": f["p50"] - actual,
            "abs_error": abs(f["p50"] - actual), "quantile_loss": sum(losses) / 3,
            "in_interval": f["p10"] <= actual <= f["p90"], "naive": naive,
            "naive_abs_error": None if naive is None else abs(naive - actual), "model_version": f["model_version"],
        })  # fmt: skip
    assert len(rows) == len(expected) == 48 - 4, "a forecast of a week without sales has no score"
    found, wanted = (
        frame.assign(store=frame["store"].fillna(""), dept=frame["dept"].fillna("")).sort_values(KEY, ignore_index=True)
        for frame in (rows, pd.DataFrame(expected))
    )
    pd.testing.assert_frame_equal(found[wanted.columns], wanted, check_dtype=False, rtol=1e-9)


def test_actuals_add_up_from_series_to_total(rows):
    assert len(rows)
    for _, part in rows.groupby(["forecast_week", "week"]):
        sums = part.groupby("level")["actual"].sum()
        assert sums.to_dict() == pytest.approx(dict.fromkeys(("series", "store", "dept", "total"), sums["total"]))


@pytest.mark.parametrize("level", ["series", "store", "dept", "total"])
def test_sums_are_the_metrics_modules_wape_and_wql(rows, level):
    part = rows[rows["level"] == level]
    joined = part.merge(forecasts().rename(columns={"target_week": "week"}), on=KEY, suffixes=("", "_f"))
    assert len(joined) == len(part)
    y, volume = joined["actual"].to_numpy()[:, None], joined["actual"].abs().sum()
    quantiles = joined[["p10", "p50_f", "p90"]].to_numpy()[:, :, None]
    wql = weighted_quantile_loss(y, quantiles, LEVELS)
    assert joined["quantile_loss"].sum() / volume == pytest.approx(wql, rel=1e-12)
    assert joined["abs_error"].sum() / volume == pytest.approx(wape(y, quantiles[:, 1]), rel=1e-12)


def test_the_naive_is_last_years_week_and_null_where_there_was_none():
    sales = actuals()
    rows = score(sales=sales)
    series = rows[(rows["level"] == "series") & (rows["store"] == "10")]
    assert series["naive"].isna().all(), "it began after that week of last year"
    assert series["naive_abs_error"].isna().all()
    assert series["error"].notna().all()
    other = rows[(rows["level"] == "series") & (rows["store"] == "1") & (rows["dept"] == "1")]
    assert len(other)
    for r in other.to_dict("records"):
        last_year = sales[(sales["week"] == r["week"] - dt.timedelta(days=364)) & (sales["dept"] == "1")]
        assert r["naive"] == last_year[last_year["store"] == "1"]["sales"].item()


def test_every_earlier_forecast_of_a_week_is_scored_and_no_other_week():
    rows = score(first=LAST + 1, last=LAST + 1)
    assert set(rows["week"]) == {FIRST + (LAST + 1) * WEEK}
    assert set(zip(rows["forecast_week"], rows["horizon"], strict=True)) == {
        (FIRST + (LAST - 1) * WEEK, 2), (FIRST + LAST * WEEK, 1)
    }  # fmt: skip
    assert rows.groupby("forecast_week").size().tolist() == [8, 8]


def test_weeks_one_by_one_are_the_range():
    singly = pd.concat([score(w, w) for w in range(LAST, LAST + 4)])
    whole = score(LAST, LAST + 3)
    assert len(singly) == len(whole)
    key = singly.set_index(KEY).sort_index()["quantile_loss"].to_list()
    assert key == whole.set_index(KEY).sort_index()["quantile_loss"].to_list()


@pytest.mark.parametrize(("actual", "inside"), [(99.0, False), (100.0, True), (200.0, True), (201.0, False)])
def test_the_interval_holds_its_bounds(actual, inside):
    sales = pd.DataFrame([{"week": FIRST + 60 * WEEK, "store": "1", "dept": "1", "sales": actual, "observed": True}])
    one = forecasts().query("level == 'series' and horizon == 1 and dept == '1' and store == '1'").iloc[-1:]
    published = one.assign(p10=100.0, p50=150.0, p90=200.0)
    rows = score(sales=sales, published=published)
    assert rows["in_interval"].tolist() == [inside]
    assert rows["actual"].tolist() == [actual]


def test_nothing_to_score():
    con = connection(actuals(), forecasts())
    assert list(score_weeks(con, [FIRST])) == []


@pytest.mark.parametrize("at_once", [1, 20, 10_000])
def test_rows_come_in_the_order_of_the_key_however_many_are_scored_at_once(monkeypatch, at_once):
    weeks = [FIRST + n * WEEK for n in range(LAST, LAST + 4)]
    whole = list(score_weeks(connection(actuals(), forecasts()), weeks))
    assert len(whole) == 1
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    parts = list(score_weeks(connection(actuals(), forecasts()), weeks))
    assert (len(parts) > 1) == (at_once < 44)
    rows = pa.concat_tables(parts)
    assert rows.equals(whole[0])
    assert rows.equals(rows.sort_by([(name, "ascending") for name in SPECS["forecast_accuracy"].key]))


def test_one_quantile_is_the_median():
    rows = score(published=forecasts().assign(p10=None, p90=None))
    assert (rows["interval"] == 0).all()
    assert rows["quantile_loss"].to_numpy() == pytest.approx(rows["abs_error"].to_numpy())


def test_the_formulas_of_scores_are_written_in_one_place():
    """A second WAPE is sooner or later another one. Losses of a row are in publishing/accuracy.py, ratios here."""
    root = Path(forecast_platform.__file__).parent
    ratio = re.compile(r"(abs_error|quantile_loss|\berror)\)\s*/|avg\([^)]*in_interval", re.IGNORECASE)
    found = [str(path.relative_to(root)) for path in root.rglob("*.py") if ratio.search(_sql(path))]
    assert found == ["scores.py"]


def _sql(path: Path) -> str:
    """The texts in a file that are no docstrings, as SQL may be."""
    texts = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
    return "\n".join(text for text in texts if isinstance(text, str) and not text[:1].isupper())
