"""The seasonal naive forecast, case by case."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from forecast_platform.history.panel import Panel
from forecast_platform.models.last_year.week import MIN_DIFFERENCES, seasonal_naive

LEVELS = (0.1, 0.5, 0.9)


def panel(*rows) -> Panel:
    sales = np.array(rows, float)
    ids = np.arange(len(sales)).astype(str)
    return Panel(ids, ids, np.datetime64("2020-01-03") + 7 * np.arange(sales.shape[1]), sales)


def test_the_median_is_last_years_week_and_the_year_repeats():
    x = np.arange(130.0)
    q = seasonal_naive(panel(x), 60, LEVELS)
    assert q.shape == (1, 3, 60)
    assert q.dtype == np.float64
    np.testing.assert_array_equal(q[0, 1], np.concatenate([x[78:130], x[78:86]]))


def test_a_missing_week_is_the_last_observation():
    x = np.arange(130.0)
    x[80] = np.nan  # the third week ahead, a year back
    x[-1] = np.nan
    assert seasonal_naive(panel(x), 4, LEVELS)[0, 1].tolist() == [78, 79, 128, 81]


def test_intervals_come_from_the_seasonal_differences_and_widen_by_the_year():
    rng = np.random.default_rng(0)
    x = rng.normal(100, 10, 156)
    q = seasonal_naive(panel(x), 105, LEVELS)[0]
    s = np.sqrt(np.mean((x[52:] - x[:-52]) ** 2))
    half = norm.ppf(0.9) * s * np.sqrt(np.repeat([1, 2, 3], [52, 52, 1]))
    np.testing.assert_allclose(q[2] - q[1], half)
    np.testing.assert_allclose(q[1] - q[0], half)


def test_a_short_series_is_a_random_walk_around_its_last_value():
    x = np.array([np.nan, 4.0, 7.0, np.nan, 3.0])  # steps between neighbours only: 3
    q = seasonal_naive(panel(x), 4, LEVELS)[0]
    assert q[1].tolist() == [3.0] * 4
    np.testing.assert_allclose(q[2] - q[1], norm.ppf(0.9) * 3 * np.sqrt([1, 2, 3, 4]))


def test_the_year_is_believed_from_a_quarter_of_differences_on():
    rng = np.random.default_rng(1)
    x = rng.normal(100, 10, 52 + MIN_DIFFERENCES)
    late = x.copy()
    late[0] = np.nan
    wide = seasonal_naive(panel(x, late), 9, LEVELS)
    spread = wide[:, 2] - wide[:, 1]
    np.testing.assert_allclose(spread[0], spread[0, 0])  # seasonal: the same all year
    np.testing.assert_allclose(spread[1] / spread[1, 0], np.sqrt(np.arange(1, 10)))  # random walk
    np.testing.assert_array_equal(wide[0, 1], wide[1, 1])  # the median is last year's week either way


def test_a_single_observation_is_forecast_as_itself():
    q = seasonal_naive(panel([np.nan, 5.0, np.nan]), 3, LEVELS)
    assert (q == 5.0).all()


@pytest.mark.parametrize(("horizon", "levels"), [(0, LEVELS), (3, (0.9, 0.5)), (3, (0.1, 0.9))])
def test_wrong_arguments_are_refused(horizon, levels):
    with pytest.raises(ValueError, match=r"horizon is 0|quantiles must ascend"):
        seasonal_naive(panel([1.0, 2.0]), horizon, levels)
