"""Widths of intervals: as wide as the past says they should have been, about a median that stays."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.levels import SUMS, Level
from forecast_platform.models.calibration import BANDS, CLASSES, Calibration, Window, volume
from forecast_platform.models.combine import spread_about

LEVELS = tuple(k / 10 for k in range(1, 10))
Z = np.array([NormalDist().inv_cdf(q) for q in LEVELS])
HORIZON = 12
ANY = np.full(1, -np.inf)  # forecasts may be as low as they like


def window(spread, claimed, n: int = 400, horizon: int = HORIZON, seed: int = 0, skew: float = 1.0) -> Window:
    """Sales spread about 1000 by `spread`, intervals of a model that claims `claimed`; both broadcast to (n, horizon).

    Args:
        skew: how much wider sales and intervals are above the median than below.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n, horizon)) * spread
    y = 1000 + np.where(noise > 0, skew * noise, noise)
    claimed = np.broadcast_to(claimed, (n, horizon))
    z = np.where(Z > 0, skew * Z, Z)
    quantiles = 1000 + z[None, :, None] * claimed[:, None]
    store, dept = (np.arange(n) // 20).astype(str), (np.arange(n) % 20).astype(str)
    return Window(y, np.ones((n, horizon), bool), quantiles, np.arange(n) + 1.0, store, dept)


def widened(w: Window, calibration: Calibration) -> np.ndarray:
    median = w.quantiles[:, 4]
    return spread_about(w.quantiles, median, calibration.widths(w.volume, w.y.shape[1]), ANY)


def coverage(w: Window, quantiles: np.ndarray, rows=slice(None), weeks=slice(None)) -> float:
    held = (quantiles[:, 0] <= w.y) & (w.y <= quantiles[:, -1])
    return float(held[rows, weeks].mean())


@pytest.mark.parametrize("skew", [1.0, 4.0])
@pytest.mark.parametrize("claimed", [25.0, 50.0, 80.0])
def test_intervals_too_narrow_or_too_wide_hold_what_they_promise_afterwards(claimed, skew):
    calibration = Calibration.fit([window(50, claimed, n=4000, skew=skew)], LEVELS)
    later = window(50, claimed, seed=1, skew=skew)
    before, after = coverage(later, later.quantiles), coverage(later, widened(later, calibration))
    assert abs(after - 0.8) < 0.03
    assert abs(after - 0.8) <= abs(before - 0.8) + 0.02
    assert np.array(calibration.factors) == pytest.approx(np.full((BANDS, CLASSES), 50 / claimed), rel=0.25)


def test_each_class_of_volume_and_band_of_the_horizon_has_its_own_factor():
    """Small series twice as wild as claimed; the last third of the weeks ahead half as wild."""
    small, late = np.arange(4000)[:, None] < 1000, np.arange(HORIZON)[None] >= 8
    spread = np.where(small, 100, np.where(late, 25, 50))
    calibration = Calibration.fit([window(spread, 50, n=4000)], LEVELS)
    factors = np.array(calibration.factors)
    assert factors[:, 0] == pytest.approx(np.full(3, 2), rel=0.15)
    assert factors[2, 1:] == pytest.approx(np.full(3, 0.5), rel=0.2)
    assert factors[:2, 1:] == pytest.approx(np.ones((2, 3)), rel=0.15)
    later = window(spread, 50, n=4000, seed=1)
    found = widened(later, calibration)
    for rows in (slice(0, 1000), slice(1000, None)):
        for weeks in (slice(0, 4), slice(4, 8), slice(8, 12)):
            assert abs(coverage(later, found, rows, weeks) - 0.8) < 0.05


def test_factors_go_to_the_series_by_volume_whatever_their_order():
    calibration = Calibration(((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)), (100.0,))
    found = calibration.widths(np.array([7.0, 5000.0, 99.0]), 6)
    np.testing.assert_array_equal(found, [[1, 1, 3, 3, 5, 5], [2, 2, 4, 4, 6, 6], [1, 1, 3, 3, 5, 5]])


@pytest.mark.parametrize("horizon", [1, 2, 3, 5, 26, 46])
def test_another_horizon_is_cut_into_the_same_bands(horizon):
    """Near weeks take the near factor and far ones the far, in order; a single week ahead is near."""
    calibration = Calibration(((1.0,), (2.0,), (3.0,)))
    (found,) = calibration.widths(np.array([5.0]), horizon)
    assert found[0] == 1
    assert (np.diff(found) >= 0).all()
    if horizon >= 3:
        sizes = [(found == band).sum() for band in (1, 2, 3)]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("horizon", [1, 4, 40])
def test_what_no_history_could_tell_leaves_the_intervals_alone(horizon):
    np.testing.assert_array_equal(Calibration().widths(np.array([0.0, 9e9]), horizon), np.ones((2, horizon)))


def test_a_few_cells_move_the_factors_little_and_many_move_them_all_the_way():
    wild = [Calibration.fit([window(100, 50, n=n)], LEVELS).factors for n in (8, 80, 2000)]
    few, some, many = (np.mean(f) for f in wild)
    assert 1 < few < 1.15
    assert few < some < many
    assert many == pytest.approx(2, rel=0.1)


def test_cells_that_do_not_count_say_nothing():
    honest = window(50, 50)
    y = honest.y.copy()
    y[::2] = 1e9
    masked = replace(honest, y=y, mask=np.arange(400)[:, None] % 2 + np.zeros((1, HORIZON)) > 0)
    assert np.array(Calibration.fit([masked], LEVELS).factors) == pytest.approx(np.ones((3, 4)), rel=0.15)
    nothing = replace(honest, y=y, mask=np.zeros_like(honest.mask))
    assert Calibration.fit([nothing], LEVELS).factors == ((1.0,) * CLASSES,) * BANDS


def test_intervals_without_a_width_say_nothing():
    point = window(50, 0)
    assert Calibration.fit([point], LEVELS).factors == ((1.0,) * CLASSES,) * BANDS


def test_windows_add_up():
    halves = [window(100, 50, n=30, seed=seed) for seed in (0, 1)]
    both, one = (np.mean(Calibration.fit(given, LEVELS).factors) for given in (halves, halves[:1]))
    assert 1 < one < both


def test_sums_that_vary_as_their_dependence_says_need_nothing_more():
    factors = Calibration.fit([window(50, 50, seed=seed) for seed in range(24)], LEVELS).sums
    assert factors == pytest.approx({"store": 1, "dept": 1, "total": 1}, abs=0.1)


def test_what_moves_all_series_at_once_widens_sums():
    def shocked(seed: int) -> Window:
        rng = np.random.default_rng(seed)
        w = window(50, 50, seed=seed)
        return replace(w, y=w.y + 25 * rng.standard_normal((1, HORIZON)))  # half of each series' own noise

    calibration = Calibration.fit([shocked(seed) for seed in range(8)], LEVELS)
    assert np.mean(calibration.factors) == pytest.approx(np.sqrt(1 + 0.25), rel=0.1)
    # The intervals of all sums hold 80% of weeks they never saw.
    for level in SUMS:
        held = np.concatenate([holds(level, shocked(seed), calibration) for seed in range(100, 140)])
        assert held.mean() == pytest.approx(0.8, abs=0.06)


def test_a_sum_of_one_series_is_that_series_and_needs_no_factor():
    wild = window(100, 50, n=20)  # one store: its departments are the series, however far off
    assert set(wild.store) == {"0"}
    assert Calibration.fit([wild] * 8, LEVELS).sums["dept"] == 1


def holds(level: Level, w: Window, calibration: Calibration) -> np.ndarray:
    """Which sums of a level lie in their 80% intervals, shape (G, H)."""
    groups, group = level.groups(w.store, w.dept)
    widths = calibration.widths(w.volume, HORIZON) * (w.quantiles[:, -1] - w.quantiles[:, 4])
    half = calibration.factor(level) * calibration.dependence.spread(level, w.store, w.dept, widths)
    away = np.zeros((len(groups), HORIZON))
    np.add.at(away, group, w.y - w.quantiles[:, 4])
    return np.abs(away) <= half


def test_a_level_by_an_attribute_has_the_factor_that_its_groups_need():
    """Regions of five stores each share a shock that the country does not, and no shock of dependence.py is theirs."""
    region = Level("region", of="store", values={str(s): f"r{s // 5}" for s in range(20)})

    def shocked(seed: int) -> Window:
        rng = np.random.default_rng(seed)
        w = window(50, 50, seed=seed)
        groups, group = region.groups(w.store, w.dept)
        return replace(w, y=w.y + 25 * rng.standard_normal((len(groups), HORIZON))[group])

    windows = [shocked(seed) for seed in range(24)]
    calibration = Calibration.fit(windows, LEVELS, (*SUMS, region))
    assert list(calibration.sums) == ["store", "dept", "total", "region"]
    assert {**calibration.sums, "region": 0} == {**Calibration.fit(windows, LEVELS).sums, "region": 0}
    held = np.concatenate([holds(region, shocked(seed), calibration) for seed in range(100, 120)])
    assert held.mean() == pytest.approx(0.8, abs=0.05)
    # Two windows are little to go by.
    few = Calibration.fit(windows[:2], LEVELS, (*SUMS, region)).factor(region)
    assert 1 < few < 1.3 < calibration.factor(region)


def test_a_level_that_came_after_the_training_has_the_larger_factor_of_its_neighbours():
    known = Calibration(sums={"store": 1.5, "dept": 4.0, "total": 3.0, "type": 1.1})
    assert [known.factor(level) for level in SUMS] == [1.5, 4.0, 3.0]
    assert known.factor(Level("type", of="store")) == 1.1
    assert known.factor(Level("region", of="store")) == 3.0
    assert known.factor(Level("category", of="dept")) == 4.0


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 30),
    horizon=st.integers(1, 15),
    ahead=st.integers(1, 46),
    spread=st.floats(0, 1e3),
    share=st.floats(0, 1),
)
def test_whatever_was_seen_the_median_stays_and_quantiles_ascend(seed, n, horizon, ahead, spread, share):
    rng = np.random.default_rng(seed)
    past = window(spread, 50, n, horizon, seed)
    past = replace(past, mask=rng.random(past.y.shape) < share, volume=rng.lognormal(3, 2, n))
    calibration = Calibration.fit([past], LEVELS)
    factors = np.array(calibration.factors)
    assert ((factors >= 0.5) & (factors <= 3)).all()
    assert all(0.7 <= factor <= 3 for factor in calibration.sums.values())
    forecast = np.sort(rng.normal(0, 100, (5, 9, ahead)), axis=1)
    median = forecast[:, 4]
    found = spread_about(forecast, median, calibration.widths(rng.lognormal(3, 2, 5), ahead), ANY)
    np.testing.assert_allclose(found[:, 4], median)
    assert (np.diff(found, axis=1) >= 0).all()


def test_the_volume_is_the_mean_size_of_the_weeks_seen_in_the_last_year():
    sales = np.full((4, 100), np.nan)
    sales[0] = np.where(np.arange(100) < 48, 1e6, 10)
    sales[1, 90:92] = [-30, 10]
    sales[2, :40] = 7
    np.testing.assert_array_equal(volume(sales), [10, 20, 0, 0])
