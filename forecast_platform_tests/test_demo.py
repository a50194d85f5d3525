"""The demo retailer: the same each time, with every ingredient it promises, in files an ETL would write."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import hashlib
import io
import os

import holidays
import numpy as np
import pandas as pd
import pytest

from forecast_platform.demo import (
    DEPARTMENTS,
    SALES_HEADER,
    MadeUpRetailer,
    bad_week,
    history_files,
    make_retailer,
    newest_finished_week,
    week_file,
    write_landing,
)
from forecast_platform.lake.lake import Lake
from forecast_platform.models.backtest import backtest
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform_tests.processes import python

LAST = dt.date(2025, 10, 31)
CUT = dt.date(2025, 10, 3)
HISTORY = "sales/sales_history.csv.gz"


@pytest.fixture(scope="module")
def retailer() -> MadeUpRetailer:
    return make_retailer()


def dept(retailer: MadeUpRetailer, name: str) -> np.ndarray:
    """Sales (S, T) of a department by name."""
    return retailer.sales[:, retailer.dept_names.index(name)]


def around(retailer: MadeUpRetailer, name: str, day: str, weeks: int = 1) -> float:
    """Chain sales of a department in the `weeks` weeks ending with that of `day`, over its usual week."""
    total = np.nansum(dept(retailer, name), axis=0)
    at = int(np.searchsorted(retailer.weeks, np.datetime64(day)))
    return float(total[at - weeks + 1 : at + 1].mean() / np.median(total[max(at - 26, 0) : at + 26]))


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


# ----------------------------------------------------------------------------------------- determinism


def test_a_seed_is_a_retailer(retailer):
    def digest(r: MadeUpRetailer) -> str:
        parts = {**history_files(r, CUT), **dict([week_file(r, LAST)])}
        return hashlib.sha256(b"".join(k.encode() + v for k, v in sorted(parts.items()))).hexdigest()

    assert digest(retailer) == digest(make_retailer(seed=0))
    assert digest(retailer) != digest(make_retailer(seed=1))


def test_shapes(retailer):
    assert retailer.sales.shape == (12, 14, 148)
    assert str(retailer.weeks[0]) == "2023-01-06"
    assert str(retailer.weeks[-1]) == "2025-10-31"
    assert retailer.promotion.shape == (12, 160)
    panel = retailer.panel()
    assert len(panel) == 168
    np.testing.assert_array_equal(panel.sales[14 + 3], retailer.sales[1, 3])
    assert (panel.store[14 + 3], panel.dept[14 + 3]) == ("2", "4")


@pytest.mark.parametrize(
    "size",
    [
        {"stores": 1, "depts": 1},
        {"stores": 1, "depts": 1, "last": dt.date(2023, 1, 6)},
        {"stores": 3, "depts": 20, "last": dt.date(2023, 3, 31)},
        {"first": dt.date(2023, 1, 8), "last": dt.date(2024, 1, 7), "weeks_ahead": 0},
    ],
)
def test_any_size_and_weekday(size):
    retailer = make_retailer(**size)
    last = retailer.weeks[-1].astype(dt.date)
    assert len(retailer.panel())
    assert history_files(retailer, last, dirty_rows=0)[HISTORY]


# ----------------------------------------------------------------------------------------- ingredients


def test_stores_come_in_sizes(retailer):
    assert set(retailer.store_type) == {"A", "B", "C"}
    assert len(set(retailer.region)) == 3
    size, sales = retailer.size, np.nansum(retailer.sales[:, :, -8:], axis=(1, 2))
    assert np.corrcoef(size, sales)[0, 1] > 0.7
    assert size[retailer.store_type == "A"].min() > size[retailer.store_type == "C"].max() * 3


def test_departments_have_seasons(retailer):
    assert around(retailer, "garden", "2024-05-17", 3) > 1.8
    assert around(retailer, "school and office", "2024-08-23", 3) > 1.8
    assert around(retailer, "winter goods", "2024-12-20", 4) > 1.5
    assert around(retailer, "toys", "2024-12-20", 3) > 1.5


def test_holidays_move_the_departments_they_should(retailer):
    assert around(retailer, "electronics", "2024-11-29") > 2  # Black Friday
    assert around(retailer, "candy and party", "2024-11-01") > 1.5  # Halloween
    assert around(retailer, "grocery", "2024-11-29") > 1.15  # Thanksgiving
    assert around(retailer, "snacks and drinks", "2025-02-14") > around(retailer, "snacks and drinks", "2025-02-21")
    # Easter moves by three weeks, and the candy with it: 2024-03-31 and 2025-04-20.
    candy = np.nansum(dept(retailer, "candy and party"), axis=0)
    weeks = retailer.weeks.astype(str)
    spring = [(f"{year}-03-10" < weeks) & (weeks < f"{year}-05-05") for year in (2024, 2025)]
    peaks = [str(retailer.weeks[s][candy[s].argmax()]) for s in spring]
    assert peaks == ["2024-03-29", "2025-04-18"]


def test_the_calendar_agrees_with_the_holidays_package(retailer):
    theirs = holidays.UnitedStates(years=range(2023, 2028), observed=False)
    ours = {day: name for name, day in retailer.holidays}
    for name in ("Memorial Day", "Independence Day", "Labor Day", "Thanksgiving", "Christmas"):
        days = [day for day, label in theirs.items() if label.startswith(name)]
        days = [day for day in days if day.year <= max(ours).year]
        assert days
        assert all(ours[day] == name for day in days), name
    easter = {2023: "2023-04-09", 2024: "2024-03-31", 2025: "2025-04-20", 2026: "2026-04-05"}
    bowl = {2023: "2023-02-12", 2024: "2024-02-11", 2025: "2025-02-09", 2026: "2026-02-08"}
    for name, days in (("Easter", easter), ("Super Bowl", bowl)):
        assert days.items() <= {d.year: str(d) for n, d in retailer.holidays if n == name}.items()


@pytest.mark.parametrize("last", ["2024-02-29", "2026-11-20", "2027-12-31", "2029-01-05", "2031-04-11"])
def test_holidays_follow_the_calendar_whenever_the_demo_ends(last):
    """The demo ends in the week that is over when it is run; its holidays must be where that year has them."""
    end = dt.date.fromisoformat(last)
    retailer = make_retailer(stores=2, depts=7, first=end - dt.timedelta(weeks=147), last=end)
    first, ahead = retailer.weeks[0].astype(dt.date), retailer.feature_weeks[-1].astype(dt.date)
    theirs = holidays.UnitedStates(years=range(first.year, ahead.year + 1), observed=False)
    ours = set(retailer.holidays)
    for name in ("Memorial Day", "Independence Day", "Labor Day", "Thanksgiving", "Christmas"):
        days = [d for d, label in theirs.items() if label.startswith(name) and first - dt.timedelta(6) <= d <= ahead]
        assert len(days) >= 2, name
        for day in days:
            assert (name, day) in ours, f"{name} of {day.year}"
    toys = np.nansum(dept(retailer, "toys"), axis=0)
    for year in {first.year + 1, first.year + 2}:
        week = np.datetime64(f"{year}-12-24")
        if retailer.weeks[0] + 60 < week < retailer.weeks[-1]:
            at = int(np.searchsorted(retailer.weeks, week))
            assert toys[at - 1 : at + 1].max() > 2 * np.median(toys[at - 40 : at - 6]), f"Christmas of {year}"


@pytest.mark.parametrize(
    ("now", "week"),
    [
        ("2026-11-27T23:59", "2026-11-20"),  # a Friday: its week is not over
        ("2026-11-28T00:00", "2026-11-27"),
        ("2026-12-03T12:00", "2026-11-27"),
        ("2027-01-01T12:00", "2026-12-25"),
    ],
)
def test_the_demo_ends_with_the_week_that_is_over(now, week):
    assert str(newest_finished_week(dt.datetime.fromisoformat(now).replace(tzinfo=dt.UTC))) == week


def test_the_bad_week_is_missing_from_the_history_and_lies_in_a_file_of_its_own(retailer):
    week = dt.date(2025, 9, 26)
    store, key, content = bad_week(retailer, week)
    assert key == f"sales/till_store_{store}_{week}.csv"
    header, *rows = rows_of(content)
    assert header == ["store", "dept", "date", "amount"]
    whole = rows_of(gzip.decompress(history_files(retailer, CUT, 0)[HISTORY]))
    without = rows_of(gzip.decompress(history_files(retailer, CUT, 0, (store, week))[HISTORY]))
    kept = set(map(tuple, without))
    gone = [row for row in whole if tuple(row) not in kept]
    assert [row[:4] for row in gone] == rows
    assert len(rows) > 8
    assert {(row[0], row[2]) for row in rows} == {(str(store), str(week))}


def test_promotions_are_known_ahead_and_sell(retailer):
    ahead = retailer.promotion[:, 148:]
    assert (ahead.max(axis=1) > 0).all()
    assert 0 < (retailer.promotion > 0).mean() < 0.4
    total = np.nansum(dept(retailer, "household"), axis=0)
    chain = retailer.promotion[:, :148].min(axis=0)
    change, step = np.diff(np.log(total)), np.diff(chain)
    assert change[step > 0.4].mean() > 0.05
    assert change[step < -0.4].mean() < -0.05


def test_series_open_late_and_close(retailer):
    panel = retailer.panel()
    regular = panel.dept != str(retailer.dept_names.index("special orders") + 1)
    opened, closed = panel.first[regular] > 50, panel.last[regular] < 140
    assert (panel.first[panel.store == "12"] >= 58).all()  # the last store opens midway
    assert opened.sum() > 14
    assert 1 <= closed.sum() < 20


def test_there_are_gaps_returns_and_odd_departments(retailer):
    panel = retailer.panel()
    t = np.arange(148)
    inside = (t >= panel.first[:, None]) & (t <= panel.last[:, None])
    special = panel.dept == str(retailer.dept_names.index("special orders") + 1)
    desk = panel.dept == str(retailer.dept_names.index("returns desk") + 1)
    gaps = inside & ~panel.observed
    assert 0.003 < gaps[~special].sum() / inside[~special].sum() < 0.03
    assert 0.3 < gaps[special].sum() / inside[special].sum() < 0.7
    assert (np.nansum(panel.sales[desk], axis=1) < 0).all()
    returns = panel.sales[~desk] < 0
    assert 10 < returns.sum() < 0.01 * panel.observed.sum()
    # A storm: a store without a single row for a week.
    assert np.isnan(retailer.sales[:-1]).all(axis=1).any()


def test_noise_is_larger_where_sales_are_small_and_remembers(retailer):
    log = np.log(np.where(retailer.sales > 0, retailer.sales, np.nan))
    house = log[:, retailer.dept_names.index("household")]
    house = house - np.nanmean(house, axis=0)  # what the stores share: season, holidays, promotions
    step = np.nanstd(np.diff(house, axis=1), axis=1)
    assert np.corrcoef(np.log(retailer.size), step)[0, 1] < 0
    # Successive steps of noise without memory correlate by -.5; memory makes them less opposed.
    d = np.diff(house, axis=1)
    ok = ~np.isnan(d[:, 1:]) & ~np.isnan(d[:, :-1])
    assert -0.45 < np.corrcoef(d[:, 1:][ok], d[:, :-1][ok])[0, 1] < 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_as_hard_to_forecast_as_real_retail(seed):
    (result,) = backtest(make_retailer(seed).panel(), [dt.date(2025, 8, 8)], 12, {"naive": seasonal_naive})
    assert 0.08 < result.scores.wape < 0.2
    assert 0.65 < result.scores.coverage80 < 0.95


# ----------------------------------------------------------------------------------------------- files


def sales_of(retailer: MadeUpRetailer, dirty_rows: int) -> list[list[str]]:
    return rows_of(gzip.decompress(history_files(retailer, CUT, dirty_rows)[HISTORY]))


def test_clean_history_and_week_files_hold_every_cell_once(retailer):
    rows = sales_of(retailer, 0)
    assert ",".join(rows.pop(0)) == SALES_HEADER
    for t in range(144, 148):
        key, content = week_file(retailer, retailer.weeks[t].astype(dt.date))
        assert key == f"sales/sales_{retailer.weeks[t]}.csv"
        header, *more = rows_of(content)
        assert ",".join(header) == SALES_HEADER
        assert {row[2] for row in more} == {str(retailer.weeks[t])}
        rows += more
    cells = {(int(s), int(d), date): float(sales) for s, d, date, sales, _ in rows}
    assert len(cells) == len(rows) == (~np.isnan(retailer.sales)).sum()
    assert cells[3, 5, "2025-10-31"] == retailer.sales[2, 4, -1]
    assert sum(cells.values()) == pytest.approx(np.nansum(retailer.sales))
    assert all(len(sales.split(".")[1]) == 2 for _, _, _, sales, _ in rows)


def test_holiday_weeks_are_flagged(retailer):
    flags = {(date, flag) for _, _, date, _, flag in sales_of(retailer, 0)[1:]}
    assert {("2024-11-29", "TRUE"), ("2024-12-27", "TRUE"), ("2024-12-20", "FALSE")} <= flags
    assert len(flags) == len({date for date, _ in flags})


def test_dirty_rows_are_extra_and_each_is_wrong(retailer):
    clean, dirty = sales_of(retailer, 0), sales_of(retailer, 6)
    assert len(dirty) == len(clean) + 6
    known = {tuple(row) for row in clean}
    wrong_day = [row for row in dirty[1:] if dt.date.fromisoformat(row[2]).weekday() != 4]
    text = [row for row in dirty[1:] if "O" in row[3]]
    again = [row for row, before in zip(dirty[1:], dirty, strict=False) if row == before]
    assert (len(wrong_day), len(text), len(again)) == (2, 2, 2)
    assert all(tuple(row) in known for row in again)
    assert {tuple(row) for row in dirty} - {tuple(row) for row in wrong_day + text} == known


def test_side_files(retailer):
    files = history_files(retailer, CUT)
    stores = pd.read_csv(io.BytesIO(files["stores/stores.csv"]))
    assert list(stores.columns) == ["store", "name", "type", "size", "region"]
    assert stores["name"].is_unique
    assert stores["store"].tolist() == list(range(1, 13))
    features = pd.read_csv(io.BytesIO(files["features/features.csv"]), parse_dates=["date"])
    assert list(features.columns) == ["store", "date", "promotion", "fuel_price", "temperature"]
    assert len(features) == 12 * 160
    future = features["date"] > pd.Timestamp(LAST)
    assert features.loc[future, "date"].nunique() == 12
    assert features["promotion"].between(0, 1).all()
    assert features.loc[future, ["fuel_price", "temperature"]].isna().all(axis=None)
    assert features.loc[~future, ["fuel_price", "temperature"]].notna().all(axis=None)
    named = pd.read_csv(io.BytesIO(files["calendar/holidays.csv"]), parse_dates=["date"])
    assert list(named.columns) == ["name", "date"]
    assert {"Super Bowl", "Easter", "Memorial Day", "Independence Day", "Labor Day", "Thanksgiving",
            "Black Friday", "Christmas"} <= set(named["name"])  # fmt: skip
    assert named["date"].max() >= pd.Timestamp("2026-12-25")


def test_write_landing_is_history_then_a_file_a_week(retailer, tmp_path):
    paths = write_landing(retailer, tmp_path, recent=2)
    assert [str(p.relative_to(tmp_path)) for p in paths] == [
        "stores/stores.csv", "features/features.csv", "calendar/holidays.csv", HISTORY,
        "sales/sales_2025-10-24.csv", "sales/sales_2025-10-31.csv",
    ]  # fmt: skip
    history = pd.read_csv(tmp_path / HISTORY)
    assert history["date"].str.startswith("2025-10-17").any()
    assert not history["date"].str.startswith("2025-10-24").any()
    assert paths[3].read_bytes() == history_files(retailer, dt.date(2025, 10, 17))[HISTORY]


def test_department_shares_are_those_of_a_store():
    assert sum(d.share for d in DEPARTMENTS) == pytest.approx(1, abs=0.03)
    assert min(d.share for d in DEPARTMENTS) < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: make_retailer(stores=0), "needs a store and a department"),
        (lambda r: make_retailer(last=dt.date(2025, 10, 30)), r"2025-10-30 \(Thursday\) is not whole weeks"),
        (lambda r: history_files(r, dt.date(2025, 10, 2)), "2025-10-02 is not a week of this retailer"),
        (lambda r: history_files(r, CUT, dirty_rows=-1), "dirty_rows is -1"),
        (lambda r: week_file(r, dt.date(2025, 11, 7)), "2025-11-07 is not a week"),
        (lambda r: write_landing(r, "unused", recent=148), "recent is 148"),
    ],
)
def test_errors_say_what_is_wrong(retailer, call, message):
    with pytest.raises(ValueError, match=message):
        call(retailer)


# --------------------------------------------------------------------------------------------- the command


def test_the_command_shows_every_page_alive(tmp_path):
    """A small demo: forecasts scored, a file refused and told, a figure of a person, and the newest week published."""
    quick = {
        "FORECAST_HYPERPARAMETERS": '{"epochs": "1", "num_cells": "8", "num_networks": "1"}',
        "FORECAST_NUM_SAMPLES": "20",
        "FORECAST_TARGET": "sales",
        "FORECAST_PREDICTION_LENGTH": "4",
        "FORECAST_CONTEXT_LENGTH": "4",
    }
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FORECAST_", "DAGSTER_"))}
    home = tmp_path / "home"
    size = ("--stores", "3", "--depts", "4", "--scored", "2", "--last", "2025-01-31")
    environment = {**clean, **quick, "FORECAST_HOME": str(home)}
    done = python("-m", "forecast_platform.cli", "demo", *size, cwd=tmp_path, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    lake = Lake.local(home / "lake", tuple(f"p{q}" for q in range(10, 100, 10)))
    weeks = lake.query("SELECT DISTINCT forecast_week AS w FROM forecasts ORDER BY 1")["w"].to_pylist()
    assert [str(w) for w in weeks] == ["2025-01-17", "2025-01-24", "2025-01-31"]
    scored = lake.query("SELECT DISTINCT week FROM forecast_accuracy WHERE horizon = 1 ORDER BY 1")["week"].to_pylist()
    assert [str(w) for w in scored] == ["2025-01-24", "2025-01-31"]
    models = lake.query("SELECT version, trained_as_of, week FROM models ORDER BY week").to_pylist()
    assert models[0]["version"] == models[1]["version"]
    assert all(row["trained_as_of"] <= row["week"] for row in models)
    refused = lake.query("SELECT source_key FROM landings WHERE status = 'refused'")["source_key"].to_pylist()
    assert refused == ["sales/till_store_2_2025-01-17.csv"]
    assert "is refused" in done.stdout
    (override,) = lake.query("SELECT * FROM forecast_with_overrides WHERE override IS NOT NULL").to_pylist()
    assert override["override"] > override["p50"]
    assert lake.query("SELECT count(*) AS n FROM stores WHERE name = 'name'")["n"].to_pylist() == [3]
    assert lake.query("SELECT * FROM open_failures").num_rows == 0
