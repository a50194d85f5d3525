"""Candidates that learn nothing: able or not in words, honest quantiles, and served like any other."""

from __future__ import annotations

import datetime as dt
from functools import reduce
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from forecast_platform.engines.base import FINE_LEVELS, Asked, split
from forecast_platform.engines.local import LocalEngine
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import Sums
from forecast_platform.models.blend import Blend
from forecast_platform.models.choose import choose
from forecast_platform.models.combine import Combination
from forecast_platform.models.registry import CANDIDATES, plans
from forecast_platform.models.trained import TrainedModel
from forecast_platform.models.without_learning import draw_paths, weighted_quantiles
from forecast_platform.settings import Settings

LEVELS = (0.1, 0.5, 0.835)  # the last between two that candidates are asked for
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
NAMES = [name for name, candidate in CANDIDATES.items() if not candidate.learns]


def panel_of(sales: np.ndarray) -> Panel:
    n, weeks = sales.shape
    store, dept = np.arange(n) // 3 + 1, np.arange(n) % 3 + 1
    return Panel(
        store.astype(str), dept.astype(str), np.datetime64("2021-01-01") + 7 * np.arange(weeks), sales, events=()
    )


@pytest.fixture
def pieces() -> Panel:
    """Articles that sell now and then, at rates of their own, for two and a half years."""
    rng = np.random.default_rng(4)
    return panel_of(rng.poisson(np.linspace(0.3, 4, 12)[:, None], (12, 130)).astype(float))


def asked(name: str, horizon: int = 4) -> dict[str, dict[str, str]]:
    return plans(Settings(target=name, prediction_length=horizon))


def test_each_can_be_asked_for_by_name():
    assert set(get_args(Settings.model_fields["target"].annotation)) == {"auto", *CANDIDATES} - {
        "sales, lag skip", "sales, counts",
    }  # fmt: skip
    for name in NAMES:
        assert list(asked(name)) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_quantiles_ascend_for_every_series_and_week(pieces: Panel, name: str):
    forecast = CANDIDATES[name].forecast({}, pieces, 5, LEVELS)
    assert forecast.shape == (12, 3, 5)
    assert np.isfinite(forecast).all()
    assert (np.diff(forecast, axis=1) >= 0).all()


def test_who_cannot_says_what_is_missing(pieces: Panel):
    short = pieces.until(pieces.weeks[20].astype(dt.date))
    assert CANDIDATES["last_year"].unable(short, 4, {}) == "needs 52 weeks; there are 21"
    assert CANDIDATES["aligned_last_year"].unable(short, 4, {}) == "needs 56 weeks; there are 21"
    assert CANDIDATES["recent_level"].unable(short, 4, {}) == ""
    assert CANDIDATES["aligned_last_year"].unable(pieces, 47, {}) == "reaches 46 weeks ahead; 47 are asked for"
    able = {**asked("recent_level"), **asked("aligned_last_year"), **asked("last_year")}
    choice = choose(short, able)
    assert choice.blend.names == ("recent_level",)
    assert choice.judgement.left_out == {
        "aligned_last_year": "needs 56 weeks; there are 21", "last_year": "needs 52 weeks; there are 21",
    }  # fmt: skip


@pytest.mark.parametrize("horizon", [1, 46, 47, 60])
@pytest.mark.parametrize("name", NAMES)
def test_who_says_nothing_against_it_forecasts(pieces: Panel, name: str, horizon: int):
    if not CANDIDATES[name].unable(pieces, horizon, {}):
        forecast = CANDIDATES[name].forecast({}, pieces, horizon, LEVELS)
        assert forecast.shape == (12, 3, horizon)
    else:
        assert name in ("aligned_last_year", "pretrained")
        assert horizon > 46


def forecast_of(name: str, sales: np.ndarray, horizon: int, levels: tuple[float, ...]) -> np.ndarray:
    return CANDIDATES[name].forecast({}, panel_of(sales), horizon, levels)


def test_in_the_recent_level_the_last_quarter_counts_as_much_as_all_before():
    sales = np.full((2, 200), 1.0)
    sales[0, -13:], sales[1, -13:-5], sales[1, -5:] = 10.0, 10.0, np.nan
    forecast = forecast_of("recent_level", sales, 3, (0.45, 0.5, 0.55))
    np.testing.assert_array_equal(forecast[0, :, 0], forecast[0, :, 2])
    assert forecast[0, 0, 0] < 2 < 9 < forecast[0, 2, 0]
    assert forecast[1, 1, 0] == 1, "eight weeks are less than half"


def test_quantiles_by_equal_weights_are_numpys():
    values = np.random.default_rng(0).normal(size=(5, 9))
    values[0, 3], values[1, 1:] = np.nan, np.nan
    expected = np.nanquantile(values, LEVELS, axis=1, method="hazen").T
    np.testing.assert_allclose(weighted_quantiles(values, np.ones((5, 9)), LEVELS), expected)
    assert np.isnan(weighted_quantiles(np.full((1, 4), np.nan), np.ones((1, 4)), LEVELS)).all()


class TestIntermittent:
    def test_nothing_with_one_chance_else_the_sizes_of_its_sales(self):
        """Every other week three or five are sold."""
        forecast = forecast_of(
            "intermittent", np.tile([0.0, 3, 0, 5], (2, 30)), 2, (0.1, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.99)
        )
        np.testing.assert_allclose(forecast[0, :, 0], [0, 0, 0, 3, 3, 5, 5, 5], atol=0.4)

    def test_who_never_sold_is_forecast_nothing(self):
        sales = np.array([np.zeros(60), np.r_[np.zeros(59), -2.0], np.tile([0.0, 4], 30)])
        forecast = forecast_of("intermittent", sales, 3, LEVELS)
        assert (forecast[:2] == 0).all()
        assert forecast[2, 2].min() > 0

    def test_the_chance_falls_with_every_week_without_a_sale(self):
        rng = np.random.default_rng(1)
        sales = (rng.random((40, 120)) < 0.4).astype(float)
        sales[0, -26:] = 0.0
        chances = np.linspace(0.01, 0.99, 99)
        none = (forecast_of("intermittent", sales, 1, tuple(chances)) == 0).mean(axis=1)[:, 0]
        assert none[0] > 0.8
        assert np.mean(none[1:]) == pytest.approx(0.6, abs=0.03)

    def test_the_season_of_a_department_brings_sales_more_often_and_more_of_what_sells_every_week(self):
        rng = np.random.default_rng(2)
        peak = np.where(np.arange(156) % 52 >= 40, 3.0, 1.0)
        rare = rng.poisson(0.15 * peak, (120, 156)).astype(float)
        often = rng.poisson(40 * peak, (120, 156)).astype(float)
        for sales, rise in ((rare, 1.8), (often, 2.5)):
            panel = panel_of(sales[:, :144])  # ends 40 weeks into the year
            low = CANDIDATES["intermittent"].forecast({}, panel_of(sales[:, :130]), 4, QUANTILES).mean()
            high = CANDIDATES["intermittent"].forecast({}, panel, 12, QUANTILES)[:, :, 4:8].mean()
            assert high > rise * low

    def test_it_errs_less_than_what_knows_no_season(self):
        rng = np.random.default_rng(3)
        season = 1 + 0.8 * np.sin(np.arange(156) * 2 * np.pi / 52)
        sales = rng.poisson(rng.uniform(0.1, 2, (150, 1)) * season).astype(float)
        loss = {}
        for name in ("intermittent", "recent_level", "aligned_last_year"):
            errors = []
            for known in (110, 130, 144):
                forecast = CANDIDATES[name].forecast({}, panel_of(sales[:, :known]), 12, QUANTILES)
                away = sales[:, None, known : known + 12] - forecast
                level = np.array(QUANTILES)[:, None]
                errors.append(np.maximum(level * away, (level - 1) * away).sum())
            loss[name] = sum(errors)
        assert loss["intermittent"] < 0.95 * loss["recent_level"]
        assert loss["intermittent"] < 0.95 * loss["aligned_last_year"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_chosen_kept_and_served(pieces: Panel, name: str, tmp_path: Path):
    """Through the engine: no artifact, a record that says so, the same rows however many shards."""
    local = LocalEngine(tmp_path / "models")
    model = local.train(pieces, asked(name))
    assert (model.target, model.networks, model.blend) == (name, (), Blend.alone(name))
    assert [path.name for path in model.folder.iterdir()] == ["training.json"]
    assert TrainedModel.load(model.folder) == model
    assert local.train(pieces, asked(name)) == model
    found = []
    for shards in (1, 5):
        made, _ = local.predict(model, split(pieces, shards), tmp_path / f"batch{shards}", Asked(LEVELS, 200, 3))
        assert made.series == len(pieces)
        parts = list(made.shards(LEVELS, 4))
        total = reduce(Sums.__add__, [part.sums["total"] for part in parts]).values[0]
        found.append((np.concatenate([p.quantiles for p in parts]), total))
    (quantiles, total), again = found
    np.testing.assert_array_equal(quantiles, again[0])
    np.testing.assert_array_equal(total, again[1])
    forecast = CANDIDATES[name].forecast({}, pieces, 4, FINE_LEVELS)
    asked_for = np.apply_along_axis(lambda known: np.interp(LEVELS, FINE_LEVELS, known), 1, forecast)
    how = Combination.of(pieces, 4, model.calibration)
    np.testing.assert_allclose(quantiles, how.quantiles(asked_for, LEVELS), rtol=1e-5, atol=1e-5)
    # Paths are the distribution that the quantiles say, and each series has its own.
    names = [f"{store}\0{dept}" for store, dept in zip(pieces.store, pieces.dept, strict=True)]
    drawn = draw_paths(forecast, FINE_LEVELS, names, 200, 3)
    drawn = model.calibration.dependence.arranged(drawn, pieces.store, pieces.dept, 3)
    paths = how.paths(drawn, asked_for[:, 1], names)
    np.testing.assert_allclose(total, paths.sum(axis=0))
    between = (paths >= quantiles[:, [0]] - 1e-9) & (paths <= quantiles[:, [2]] + 1e-9)
    assert between.mean() >= 0.72
    assert np.abs(np.corrcoef(paths[:, :, 0])[~np.eye(12, dtype=bool)]).max() < 0.7
