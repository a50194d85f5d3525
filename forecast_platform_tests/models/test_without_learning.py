"""Candidates that learn nothing: able or not in words, honest quantiles, and served like any other."""

from __future__ import annotations

import datetime as dt
from functools import reduce
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from forecast_platform.engines.base import SAID, Asked
from forecast_platform.engines.local import LocalEngine
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import Sums
from forecast_platform.models.blend import Blend
from forecast_platform.models.choose import choose
from forecast_platform.models.combine import Combination
from forecast_platform.models.registry import CANDIDATES, plans
from forecast_platform.models.trained import TrainedModel
from forecast_platform.models.without_learning import draw_paths
from forecast_platform.settings import Settings

LEVELS = (0.1, 0.5, 0.835)  # the last between two that candidates are asked for
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
        "sales, lag skip", "sales, counts", "trees",
    }  # fmt: skip
    for name in NAMES:
        assert list(asked(name)) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_quantiles_ascend_for_every_series_and_week(pieces: Panel, name: str):
    said = CANDIDATES[name].forecast({}, pieces, 5, LEVELS)
    assert said.shape == (12, 3, 5)
    assert np.isfinite(said).all()
    assert (np.diff(said, axis=1) >= 0).all()


def test_who_cannot_says_what_is_missing(pieces: Panel):
    short = pieces.until(pieces.weeks[20].astype(dt.date))
    assert CANDIDATES["last_year"].unable(short, 4, {}) == "needs 52 weeks; there are 21"
    assert CANDIDATES["aligned_last_year"].unable(short, 4, {}) == "needs 56 weeks; there are 21"
    assert CANDIDATES["recent_level"].unable(short, 4, {}) == ""
    assert CANDIDATES["aligned_last_year"].unable(pieces, 47, {}) == "reaches 46 weeks ahead; 47 are asked for"
    able = {**asked("recent_level"), **asked("aligned_last_year"), **asked("last_year")}
    choice = choose(short, able)
    assert choice.blend.names == ("recent_level",)
    assert "not able: aligned_last_year: needs 56 weeks; there are 21; last_year: needs" in choice.judgement.why


@pytest.mark.parametrize("horizon", [1, 46, 47, 60])
@pytest.mark.parametrize("name", NAMES)
def test_who_says_nothing_against_it_forecasts(pieces: Panel, name: str, horizon: int):
    if not CANDIDATES[name].unable(pieces, horizon, {}):
        said = CANDIDATES[name].forecast({}, pieces, horizon, LEVELS)
        assert said.shape == (12, 3, horizon)
    else:
        assert name in ("aligned_last_year", "pretrained")
        assert horizon > 46


def test_the_recent_level_is_that_of_the_last_weeks(pieces: Panel):
    said = CANDIDATES["recent_level"].forecast({}, pieces, 2, LEVELS)
    last = np.quantile(pieces.sales[:, -26:], LEVELS, axis=1, method="hazen").T
    np.testing.assert_array_equal(said, np.repeat(last[:, :, None], 2, axis=2))


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
        made, _ = local.predict(model, pieces, tmp_path / f"batch{shards}", Asked(LEVELS, 200, 3), shards)
        assert made.series == len(pieces)
        parts = list(made.shards(LEVELS, 4))
        total = reduce(Sums.__add__, [part.sums["total"] for part in parts]).values[0]
        found.append((np.concatenate([p.quantiles for p in parts]), total))
    (quantiles, total), again = found
    np.testing.assert_array_equal(quantiles, again[0])
    np.testing.assert_array_equal(total, again[1])
    said = CANDIDATES[name].forecast({}, pieces, 4, SAID)
    asked_for = np.apply_along_axis(lambda known: np.interp(LEVELS, SAID, known), 1, said)
    how = Combination.of(pieces, 4, model.calibration)
    np.testing.assert_allclose(quantiles, how.quantiles(asked_for, LEVELS), rtol=1e-5, atol=1e-5)
    # Paths are the distribution that the quantiles say, and each series has its own.
    names = [f"{store}\0{dept}" for store, dept in zip(pieces.store, pieces.dept, strict=True)]
    drawn = draw_paths(said, SAID, names, 200, 3)
    drawn = model.calibration.dependence.arranged(drawn, pieces.store, pieces.dept, 3)
    paths = how.paths(drawn, asked_for[:, 1], names)
    np.testing.assert_allclose(total, paths.sum(axis=0))
    between = (paths >= quantiles[:, [0]] - 1e-9) & (paths <= quantiles[:, [2]] + 1e-9)
    assert between.mean() >= 0.72
    assert np.abs(np.corrcoef(paths[:, :, 0])[~np.eye(12, dtype=bool)]).max() < 0.7
