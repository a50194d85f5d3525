"""From what a candidate says to what is forecast."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.models.calibration import Calibration
from forecast_platform.models.combine import Combination, least_sales, spread_about
from forecast_platform_tests.history.conftest import make_panel

HORIZON = 12
NO_LEAST = np.full(4, -np.inf)


class TestSpread:
    @settings(derandomize=True, deadline=None, max_examples=30)
    @given(seed=st.integers(0, 999), width=st.floats(0.5, 3))
    def test_the_median_stays_and_the_distances_from_it_are_those_said_times_the_width(self, seed, width):
        blend = np.sort(np.random.default_rng(seed).normal(0, 100, (4, 5, HORIZON)), axis=1)
        found = spread_about(blend, blend[:, 2], np.full((4, HORIZON), width), NO_LEAST)
        np.testing.assert_array_equal(found[:, 2], blend[:, 2])
        np.testing.assert_allclose(found - found[:, [2]], (blend - blend[:, [2]]) * width, atol=1e-9)
        assert (np.diff(found, axis=1) >= -1e-9).all()

    def test_each_series_and_week_has_a_width_of_its_own(self):
        blend = np.array([[[8.0, 8.0], [10.0, 10.0], [14.0, 14.0]]])
        found = spread_about(blend, blend[:, 1], np.array([[1.0, 0.5]]), NO_LEAST[:1])
        np.testing.assert_array_equal(found, [[[8, 9], [10, 10], [14, 12]]])

    def test_a_series_that_never_was_below_0_is_not_forecast_below_it(self):
        least = least_sales(np.array([[0.0, np.nan, 5.0], [np.nan, -1e-3, 5.0]]))
        blend = np.array([[[-3.0], [1.0], [4.0]]] * 2)
        ones = np.ones((2, 1))
        found = spread_about(blend, blend[:, 1], ones, least)
        np.testing.assert_array_equal(found[:, :, 0], [[0, 1, 4], [-3, 1, 4]])
        none = spread_about(np.full((1, 1, 1), -0.0), np.zeros((1, 1)), ones[:1], least[:1])
        assert not np.signbit(none).any(), "nobody is shown -0"

    def test_a_return_of_long_ago_is_remembered(self):
        panel = make_panel({("1", "1"): [-5.0, *[10.0] * 70], ("1", "2"): [10.0] * 71})
        how = Combination.of(panel, 3, Calibration())
        found = how.quantiles(np.array([[[-8.0] * 3, [10.0] * 3, [20.0] * 3]] * 2), (0.1, 0.5, 0.9))
        np.testing.assert_array_equal(found[:, 0], [[-8.0] * 3, [0.0] * 3])
