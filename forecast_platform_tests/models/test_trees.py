"""The trees: promotions and Christmases, young and odd retailers, the same from a file and for any number of shards."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import over_shards
from forecast_platform.models import trees as module
from forecast_platform.models.registry import AUTO, CANDIDATES, plans
from forecast_platform.models.trees import LEVEL, LEVELS, OUTLOOK, Trees, installed, train
from forecast_platform.settings import Settings

H = 4
QUANTILES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
MEDIAN = QUANTILES.index(0.5)
TREES = CANDIDATES["trees"]
GIVEN = {"prediction_length": str(H), "seed": "0"}


def shop(weeks: int = 70, stores: int = 4, seed: int = 1) -> Panel:
    """Stores of four articles of very different size, with noise and nothing else."""
    rng = np.random.default_rng(seed)
    n = 4 * stores
    sales = rng.uniform(1, 6, (n, 1)) ** 3 * rng.lognormal(0, 0.1, (n, weeks))
    store, dept = np.arange(n) // 4 + 1, np.arange(n) % 4 + 1
    return Panel(
        store.astype(str), dept.astype(str), np.datetime64("2022-01-07") + 7 * np.arange(weeks), sales, events=()
    )


def with_promotions(panel: Panel) -> tuple[Panel, np.ndarray]:
    """Promotions in one week of five, planned H weeks past the panel's end, each of which doubles sales."""
    rng, weeks = np.random.default_rng(5), len(panel.weeks)
    promo = (rng.random((len(panel), weeks + H)) < 0.2).astype(float)
    promo[: len(panel) // 2, weeks + 1], promo[len(panel) // 2 :, weeks + 1] = 1, 0
    covariates = Covariates((Declaration("promo"),), promo[None])
    return dataclasses.replace(panel, sales=panel.sales * (1 + promo[:, :weeks]), covariates=covariates), promo[
        :, weeks:
    ]


def forecast(panel: Panel, horizon: int = H) -> np.ndarray:
    ahead = TREES.forecast({**GIVEN, "prediction_length": str(horizon)}, panel, horizon, QUANTILES)
    assert ahead.shape == (len(panel), len(QUANTILES), horizon)
    assert np.isfinite(ahead).all()
    assert (np.diff(ahead, axis=1) >= 0).all()
    return ahead


def test_a_promotion_that_doubles_sales_is_forecast_and_a_week_without_it_too():
    plain = shop()
    usual = np.exp(np.log(plain.sales).mean(axis=1))[:, None]
    panel, promo = with_promotions(plain)
    times = forecast(panel)[:, MEDIAN] / usual
    assert promo.any()
    assert not promo.all()
    assert np.median(times[promo == 1]) == pytest.approx(2, abs=0.25)
    assert np.median(times[promo == 0]) == pytest.approx(1, abs=0.15)
    unknowing = forecast(dataclasses.replace(panel, covariates=None))[:, MEDIAN] / usual
    assert np.median(unknowing[promo == 1]) < 1.4, "it is the plan that tells"


def test_a_season_that_came_last_year_comes_again():
    panel = shop(110)
    peak = np.ones(110)
    peak[[52 - 3, 104 - 3]] = 3  # a week of each year
    panel = dataclasses.replace(panel, sales=panel.sales * peak)
    past = panel.until(panel.weeks[99].astype(dt.date))
    assert train(past, H).unit == OUTLOOK
    ahead = forecast(past)[:, MEDIAN]
    assert np.median(ahead[:, 1] / ahead[:, [0, 2, 3]].mean(axis=1)) == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize("weeks", [30, 55, 56, 60, 110])
@pytest.mark.parametrize("horizon", [1, 13, 47])
def test_young_and_old_retailers_near_and_far(weeks, horizon):
    panel = shop(weeks)
    assert TREES.unable(panel, horizon, {}) == ""
    forecast(panel, horizon)


def test_returns_gaps_late_comers_and_those_that_stopped():
    panel = shop()
    panel.sales[0, ::3] *= -1
    panel.sales[1] = 0
    panel.sales[2, 20:60:2] = np.nan
    panel.sales[3, :-1] = np.nan
    panel.sales[4, 30:] = np.nan
    panel.sales[5] *= np.random.default_rng(2).random(70) < 0.1
    ahead = forecast(panel)
    assert abs(ahead[1]).max() < 1e-3
    assert ahead[0, 0].min() < 0


def test_open_days_are_divided_and_multiplied():
    panel, _ = with_promotions(shop())
    days = np.full((1, len(panel), 70 + H), 6.0)
    days[:, :, 10::20] = 3
    days[:, :8, 71] = 0
    days[:, 8:, 72] = 3
    opened = dataclasses.replace(
        panel, sales=panel.sales * days[0, :, :70] / 6, exposure=Covariates((Declaration("open_days"),), days)
    )
    ahead, whole = forecast(opened), forecast(panel)
    np.testing.assert_array_equal(ahead[:8, :, 1], 0)
    np.testing.assert_allclose(ahead[8:, :, 2], whole[8:, :, 2] / 2, rtol=0.1)


def test_what_comes_after_the_cutoff_and_is_not_planned_changes_nothing():
    panel, _ = with_promotions(shop(80))
    panel = dataclasses.replace(panel, covariates=Covariates(
        (Declaration("promo"), Declaration("rain", known=False)),
        np.concatenate([panel.covariates.values, np.random.default_rng(3).uniform(0, 9, (1, 16, 80 + H))]),
    ))  # fmt: skip
    other = dataclasses.replace(
        panel, sales=panel.sales.copy(), covariates=Covariates(panel.covariates.columns, panel.covariates.values.copy())
    )
    other.sales[:, 66:] *= 7
    other.covariates.values[1, :, 66:] = 100
    cutoff = panel.weeks[65].astype(dt.date)
    np.testing.assert_array_equal(forecast(panel.until(cutoff)), forecast(other.until(cutoff)))


@pytest.mark.parametrize("weeks", [50, 80])
def test_a_file_of_it_says_the_same_and_so_do_shards(weeks, tmp_path: Path):
    panel, _ = with_promotions(shop(weeks))
    trained = train(panel, H, seed=3)
    ahead = trained.forecast(panel, H, QUANTILES)
    again = train(panel, H, seed=3)
    assert again == trained, "the same seed, the same trees"
    trained.save(tmp_path / "trees.json")
    loaded = Trees.load(tmp_path / "trees.json")
    assert loaded == trained
    parts = [panel.select(np.arange(16) % 3 == k) for k in range(3)]
    rows = [np.flatnonzero(np.arange(16) % 3 == k) for k in range(3)]
    found = over_shards(parts, lambda part, retailer: loaded.forecast(part, H, QUANTILES, retailer))
    for at, part in zip(rows, found, strict=True):
        np.testing.assert_array_equal(part, ahead[at])
    newcomer = dataclasses.replace(panel, store=np.where(panel.store == "4", "9", panel.store))
    assert np.isfinite(loaded.forecast(newcomer, H, QUANTILES)).all(), "a store that was not there"


def test_a_file_of_another_version_is_refused(tmp_path: Path):
    (tmp_path / "trees.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="of another version of the platform; train again"):
        Trees.load(tmp_path / "trees.json")


def test_between_its_levels_quantiles_are_those_of_a_normal_distribution():
    ahead = np.array([-1.2816, 0.0, 2 * 1.2816]).reshape(1, 3, 1)
    found = module.between(ahead, (*LEVELS, 0.3, 0.7, 0.99))[0, :, 0]
    np.testing.assert_allclose(found, [-1.2816, 0, 2.5631, -0.5244, 2 * 0.5244, 2 * 2.3263], rtol=1e-3)


def test_who_cannot_says_why(monkeypatch):
    assert TREES.unable(shop(20, stores=1), H, {}) == "48 observations to train on, 300 are needed"
    monkeypatch.setattr(module, "installed", lambda: "")
    assert TREES.unable(shop(), H, {}) == "needs LightGBM: pip install 'forecast-platform[trees]'"


def test_it_knows_nothing_of_networks_parameters():
    assert "trees" in AUTO
    settings = Settings.model_construct(target="trees", prediction_length=H, hyperparameters={"num_cells": "7"})
    assert plans(settings) == {"trees": {"lightgbm": installed(), "prediction_length": "4", "seed": str(settings.seed)}}


def test_the_level_is_the_unit_where_last_year_says_nothing():
    panel, _ = with_promotions(shop(110))
    wild = np.where(np.random.default_rng(8).random((16, 110)) < 0.3, 6, 1)
    assert train(dataclasses.replace(panel, sales=panel.sales * wild), H).unit == LEVEL
