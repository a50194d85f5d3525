"""What the reference forecasts by itself: growth that lasts and growth that does not, peaks, and odd histories."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.history.panel import Panel
from forecast_platform.models.backtest import backtest
from forecast_platform.models.last_year import outlook as module
from forecast_platform.models.last_year.outlook import DEPARTMENT, DOUBT, STORE, Outlook, aligned_last_year
from forecast_platform.models.last_year.reference import MAX_HORIZON, YEAR, last_year
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform_tests.models.last_year.test_reference import (
    QUANTILES,
    panel_of,
    random_panel,
    read_nothing_after_the_cutoff,
)

REPO = Path(__file__).parents[3]
WALMART = Path(os.environ.get("FORECAST_WALMART_DIR") or REPO.parent / "shared" / "data" / "walmart")
WINDOW, OWN_POWER = 18, 0.7


@pytest.fixture
def one_variant(monkeypatch):
    """A single variant, so that there is nothing to weigh."""
    monkeypatch.setattr(module, "WINDOWS", (WINDOW,))
    monkeypatch.setattr(module, "OWN_POWERS", (OWN_POWER,))
    monkeypatch.setattr(module, "PEAK_DAMPINGS", (0.0,))


def outlook(panel: Panel, reference: np.ndarray) -> np.ndarray:
    """Of the weeks ahead, as of the cutoff."""
    known = len(panel.weeks)
    return Outlook.of(panel, reference).as_of(known, slice(known, None))


def growth(panel: Panel, horizon: int = 12) -> np.ndarray:
    """The outlook where every week's reference is 1."""
    return outlook(panel, np.ones((len(panel), len(panel.weeks) + horizon)))[:, 0]


# ------------------------------------------------------------------------------------------------- leak


test_the_outlook_reads_nothing_after_the_cutoff = read_nothing_after_the_cutoff(
    lambda panel, horizon: outlook(panel, last_year(panel, horizon))
)
test_nor_does_the_baseline = read_nothing_after_the_cutoff(
    lambda panel, horizon: aligned_last_year(panel, horizon, QUANTILES)
)


def test_three_times_the_sales_is_three_times_the_forecast():
    panel = random_panel(0, 130, gaps=0.1)
    tripled = Panel(panel.store, panel.dept, panel.weeks, 3 * panel.sales)
    forecasts = [outlook(each, last_year(each, 12)) for each in (panel, tripled)]
    np.testing.assert_allclose(forecasts[1], 3 * forecasts[0])


def test_as_of_an_earlier_week_only_the_weights_know_what_came_after(one_variant):
    """With one way there is nothing to weigh, so it is the outlook of a history that ends there."""
    panel = random_panel(0, 130, gaps=0.1)
    reference = last_year(panel, 12, 0.5, events=())
    whole = Outlook.of(panel, reference)
    for week in (YEAR + 5, 100, 120):
        then = panel.until(panel.weeks[week - 1].astype(dt.date))
        weeks = slice(week - 4, week + 12)
        np.testing.assert_allclose(whole.as_of(week, weeks), Outlook.of(then, reference).as_of(week, weeks))


# ------------------------------------------------------------------------------------------------- growth


def test_growth_seen_in_few_weeks_has_less_weight(one_variant):
    sales = np.ones((1, 104))
    sales[:, -WINDOW:] = 2
    group = STORE + DEPARTMENT  # alone in both
    for seen in (WINDOW, 4):
        sales[:, -WINDOW : 104 - seen] = np.nan
        own = OWN_POWER * seen / (seen + DOUBT)
        assert growth(panel_of(sales)) == pytest.approx([2 ** (group + own * (1 - group))])


def test_extreme_weeks_are_no_growth(one_variant):
    sales = np.ones((1, 104))
    sales[:, [-2, -9, -15]] = [7, 5, 0]  # two promotions, one week of empty shelves: within a fifth at each end
    assert growth(panel_of(sales)) == pytest.approx([1])


def test_a_series_without_recent_weeks_goes_with_its_store_and_department(one_variant):
    """Two stores of four departments. One store runs a half above last year, but for what it does not sell now."""
    sales = np.full((8, 104), 1.0)
    sales[:4, -WINDOW:] = 1.5
    sales[[0, 4], -WINDOW:] = np.nan
    found = growth(panel_of(sales, [*"abcdefgh"], stores=[0] * 4 + [1] * 4))
    assert found[0] == pytest.approx(1.5**STORE)
    np.testing.assert_allclose(found[4:], 1)
    beside = panel_of(sales[:4], ["a"] * 4)
    assert growth(beside)[0] == pytest.approx(1.5**DEPARTMENT), "stores of their own"


def test_returns_are_no_growth_of_their_own(one_variant):
    sales = np.full((2, 104), 1.0)
    sales[0, -WINDOW:] = -1
    assert growth(panel_of(sales, ["a", "b"]))[0] == pytest.approx(0.5 ** (STORE + DEPARTMENT)), (
        "what groups may fall to"
    )


def test_growth_is_bounded():
    found = growth(panel_of([[1e9] * 104, [1e-9] * 104], ["a", "b"]))
    assert 2 < found[0] < 5
    assert 0.2 < found[1] < 0.5


def test_without_a_week_to_compare_it_is_the_reference_itself():
    sales = random_panel(0, 104, n=3).sales
    sales[:, YEAR:] = np.nan
    panel = panel_of(sales, ["a", "b", "c"])
    reference = np.ones((3, 116))
    np.testing.assert_allclose(outlook(panel, reference), 1)
    for weeks in (YEAR, 20):
        young = panel_of(sales[:, :weeks])
        reference = last_year(young, 40)
        np.testing.assert_allclose(outlook(young, reference), reference[:, weeks:])


# --------------------------------------------------------------------------------- each department's own


def test_a_department_whose_growth_goes_on_is_believed_and_one_whose_growth_passes_is_not():
    """One in which each series goes its own way for good, one in which every eight weeks turn out otherwise."""
    rng = np.random.default_rng(1)
    steady = np.repeat(rng.uniform(0.6, 1.6, (12, 1)), 104, axis=1)
    fickle = np.repeat(rng.uniform(0.6, 1.6, (12, 13)), 8, axis=1)
    fickle[:, -8:] = steady[:, -8:]
    sales = np.concatenate([steady, fickle]) * rng.normal(1, 0.02, (24, 104))
    found = np.log(growth(panel_of(sales, ["a"] * 12 + ["b"] * 12, stores=[*range(12)] * 2)))
    lately = np.log(steady[:, 0])
    kept = [(found[rows] @ lately) / (lately @ lately) for rows in (slice(12), slice(12, None))]
    assert kept[0] > 0.85
    assert kept[1] < 0.6


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_peaks_that_were_chance_are_forecast_lower(noise):
    """A season that comes back as it was, and one that last year showed with as much chance in it."""
    rng = np.random.default_rng(0)
    season = np.tile(rng.normal(0, 0.5, YEAR), 3)[:130]
    seen = season + noise * rng.normal(0, 1, (20, 130))
    reference = np.exp(np.concatenate([np.full((20, YEAR), np.nan), seen[:, :78], seen[:, 78:90]], axis=1))
    panel = panel_of(np.exp(season)[None].repeat(20, axis=0))
    found, ahead = np.log(outlook(panel, reference)), np.log(reference[:, 130:])
    slope = np.polyfit((ahead - ahead.mean(axis=1, keepdims=True)).ravel(), found.ravel(), 1)[0]
    assert (slope > 0.97) == (noise == 0)
    assert slope > 0.85


# -------------------------------------------------------------------------------------- aligned last year


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 99),
    known=st.sampled_from([1, 2, 10, 40, 51, 52, 53, 60, 130]),
    horizon=st.integers(1, MAX_HORIZON),
    gaps=st.sampled_from([0, 0.3, 0.95]),
)
def test_the_forecast_is_finite_and_ascends(seed, known, horizon, gaps):
    forecast = aligned_last_year(random_panel(seed, known, gaps=gaps), horizon, QUANTILES)
    assert forecast.shape == (6, 9, horizon)
    assert np.isfinite(forecast).all()
    assert (np.diff(forecast, axis=1) > 0).all()


def test_the_median_is_the_outlook():
    panel = random_panel(0, 130, gaps=0.1)
    want = outlook(panel, last_year(panel, 12))
    np.testing.assert_allclose(aligned_last_year(panel, 12, [0.1, 0.5, 0.9])[:, 1], want)


def test_a_short_history_is_its_last_level():
    sales = random_panel(0, 30, n=2).sales
    sales[1, 25:] = np.nan
    median = aligned_last_year(panel_of(sales), 30, [0.5])[:, 0]
    np.testing.assert_allclose(median[:, : YEAR - 30], np.repeat([[sales[0, 29]], [sales[1, 24]]], YEAR - 30, axis=1))
    # The weeks ahead that have a year behind them have their reference.
    np.testing.assert_allclose(median[:, YEAR - 30 :], last_year(panel_of(sales), 30)[:, YEAR:])


def test_the_interval_is_as_wide_as_the_last_year_was_off():
    year = np.tile(np.random.default_rng(0).uniform(50, 500, (1, YEAR)), 3)
    sales = np.repeat(year, 2, axis=0)
    sales[1, -YEAR:] *= 1 + 0.3 * (-1.0) ** np.arange(YEAR)
    panel = panel_of(sales, ["a", "b"])
    forecast = aligned_last_year(panel, 12, [0.1, 0.5, 0.9])
    width = ((forecast[:, 2] - forecast[:, 0]) / forecast[:, 1]).mean(axis=1)
    assert width[0] < width[1]
    symmetric = forecast[:, 2] + forecast[:, 0]
    np.testing.assert_allclose(symmetric, 2 * forecast[:, 1])


# ------------------------------------------------------------------------------------------ the real data


@pytest.fixture(scope="module")
def walmart() -> Panel:
    path = WALMART / "sales.csv.gz"
    if not path.exists():
        pytest.skip(f"needs the Walmart sales: {path} is missing; point FORECAST_WALMART_DIR at its folder")
    rows = pd.read_csv(path, dtype={0: str, 1: str})
    rows.columns = ["store", "dept", "week", "sales", "is_holiday"]
    rows["week"] = pd.to_datetime(rows["week"], format="%d/%m/%Y")
    return Panel.from_table(pa.table({
        "store": rows["store"].tolist(),
        "dept": rows["dept"].tolist(),
        "week": pa.array(rows["week"].dt.date),
        "sales": rows["sales"].to_numpy(),
    }))  # fmt: skip


def test_walmart_is_well_ahead_of_the_seasonal_naive(walmart):
    limits = {dt.date(2011, 11, 4): 0.094, dt.date(2012, 8, 3): 0.080}
    results = backtest(walmart, tuple(limits), 12, {"aligned": aligned_last_year, "naive": seasonal_naive})
    scores = {(result.model, result.cutoff): result.scores for result in results}
    for cutoff, limit in limits.items():
        aligned, naive = scores["aligned", cutoff], scores["naive", cutoff]
        assert aligned.wape < limit < naive.wape
        assert aligned.wql < naive.wql
        assert 0.75 < aligned.coverage80 < 0.88


def test_a_series_with_few_weeks_is_as_uncertain_as_those_of_its_size():
    """Large series hardly ever miss, small ones by half; two are new, and what they have seen so far was quiet."""
    rng = np.random.default_rng(8)
    size, noise = np.repeat([10_000.0, 20.0], 30), np.repeat([0.03, 0.5], 30)
    sales = size[:, None] * rng.lognormal(0, noise[:, None], (60, 120))
    sales[[0, 30], :-3], sales[[0, 30], -3:] = np.nan, size[[0, 30], None]
    low, middle, high = np.moveaxis(aligned_last_year(panel_of(sales), 4, (0.1, 0.5, 0.9)), 1, 0)
    width = ((high - low) / middle).mean(axis=1)
    assert width[0] < 0.25
    assert width[30] > 0.7
    assert width[30] / width[0] > 4


def test_intervals_of_sales_that_never_vary_are_all_but_none():
    low, middle, high = np.moveaxis(aligned_last_year(panel_of(np.full((4, 120), 50.0)), 4, (0.1, 0.5, 0.9)), 1, 0)
    np.testing.assert_allclose(middle, 50)
    assert (high - low < 1).all()
