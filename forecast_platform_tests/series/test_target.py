"""The network's view of the series: sales, or the ratio to last year, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from forecast_platform.series.panel import Panel
from forecast_platform.series.reference import YEAR, growth, last_year
from forecast_platform.series.target import DEEPAR_SHARE, RATIO, SALES, build_target, ratio_possible, rescale

WEEKS, HORIZON = 100, 12


@pytest.fixture
def years() -> Panel:
    """Six series with a season, the last of them seen in the first year only, the one before a young one."""
    rng = np.random.default_rng(3)
    season = 100 + 40 * np.sin(2 * np.pi * np.arange(WEEKS) / 52)
    sales = season * rng.uniform(1, 20, (6, 1)) * rng.lognormal(0, 0.05, (6, WEEKS))
    sales[4, :80] = np.nan
    sales[5, 40:] = np.nan
    weeks = np.datetime64("2022-01-07") + 7 * np.arange(WEEKS)
    return Panel(np.array(list("111222")), np.array(list("abcabc")), weeks, sales)


def test_sales_are_sales(years: Panel):
    target = build_target(years, HORIZON, SALES)
    assert target.panel is years
    outputs = np.arange(6 * 3 * HORIZON, dtype=float).reshape(6, 3, HORIZON)
    np.testing.assert_array_equal(target.rescale(outputs, outputs[:, 1]), outputs)


def test_the_ratio_is_sales_over_the_reference_after_the_first_year(years: Panel):
    target = build_target(years, HORIZON, RATIO)
    reference = last_year(years, HORIZON)
    assert target.panel.weeks.tolist() == years.weeks[YEAR:].tolist()
    np.testing.assert_allclose(target.panel.sales[:5], years.sales[:5, YEAR:] / reference[:5, YEAR:WEEKS])
    np.testing.assert_array_equal(target.unit, reference[:, WEEKS:])
    np.testing.assert_array_equal(target.level, growth(years, reference))
    assert np.isfinite(target.unit).all()
    assert (target.unit > 0).all()
    # No season is left: the spread over the weeks is that of the noise.
    assert np.nanstd(target.panel.sales[:4], axis=1).max() < 0.12


def test_a_series_of_the_first_year_alone_still_has_a_value_to_start_from(years: Panel):
    target = build_target(years, HORIZON, RATIO)
    assert len(target.panel) == len(years)
    assert target.panel.observed[5].sum() == 1
    assert target.panel.sales[5, -1] == 1.0


def test_the_median_is_led_by_both_and_the_spread_by_the_network():
    unit, level = np.array([[100.0, 200.0]]), np.array([1.2])
    outputs = np.array([[[0.8, 0.7], [1.0, 0.9], [1.3, 1.4]]])  # (1, 3 quantiles, 2 weeks)
    found = rescale(outputs, outputs[:, 1], unit, level)
    middle = (DEEPAR_SHARE * outputs[:, 1] + (1 - DEEPAR_SHARE) * 1.2) * unit
    np.testing.assert_allclose(found[:, 1], middle)
    np.testing.assert_allclose(np.diff(found, axis=1), np.diff(outputs, axis=1) * unit[:, None])


def test_ratios_that_are_no_measure_are_cut(years: Panel):
    sales = years.sales.copy()
    sales[0, 90], sales[1, 91] = 1e9, -1e9
    target = build_target(Panel(years.store, years.dept, years.weeks, sales), HORIZON, RATIO)
    assert np.nanmax(target.panel.sales) <= 5
    assert np.nanmin(target.panel.sales) >= -5


def test_nothing_after_the_cutoff_is_known(years: Panel):
    cutoff = years.weeks[85].item()
    later = years.sales.copy()
    later[:, 86:] *= 7
    changed = Panel(years.store, years.dept, years.weeks, later)
    before, after = (build_target(p.until(cutoff), HORIZON, RATIO) for p in (years, changed))
    np.testing.assert_array_equal(before.panel.sales, after.panel.sales)
    np.testing.assert_array_equal(before.unit, after.unit)
    np.testing.assert_array_equal(before.level, after.level)


def test_the_ratio_needs_a_year_and_weeks_to_learn_from(years: Panel):
    assert ratio_possible(years, 12, HORIZON)
    assert not ratio_possible(years.until(years.weeks[74].item()), 12, HORIZON)
    assert not ratio_possible(years, 12, 47)
    with pytest.raises(ValueError, match="52 weeks of history have no last year"):
        build_target(years.until(years.weeks[51].item()), HORIZON, RATIO)
