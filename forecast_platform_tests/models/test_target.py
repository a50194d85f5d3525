"""The network's view of the series: sales, or the ratio to last year, and the way back."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pytest

from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.models import target as module
from forecast_platform.models.last_year.outlook import Outlook
from forecast_platform.models.last_year.reference import YEAR, last_year, worth_lining_up
from forecast_platform.models.target import (
    BLIND_FEATURES,
    FIRST_ORIGIN,
    MEMORY,
    RATIO,
    REFERENCE,
    SALES,
    SHORTEST_AHEAD,
    SIZE,
    Target,
    build_target,
    origins,
    ratio_possible,
)

WEEKS, HORIZON = 100, 12


def alone(target: Target, outputs: np.ndarray) -> np.ndarray:
    """Outputs of the network in sales."""
    return outputs * target.unit[:, None] - target.offset[:, None, None]


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


def with_promo(panel: Panel) -> Panel:
    """A covariate whose value in a week is the week's number, of each series plus a thousand."""
    values = np.arange(len(panel.weeks) + HORIZON) + 1000.0 * np.arange(len(panel))[:, None]
    return dataclasses.replace(panel, covariates=Covariates((Declaration("promo"),), values[None]), events=())


def in_history(panel: Panel) -> np.ndarray:
    """The network's view of the last MEMORY weeks, in sales again, shape (N, MEMORY)."""
    target, weeks = build_target(panel, HORIZON, RATIO), slice(len(panel.weeks) - MEMORY, len(panel.weeks))
    offset = np.broadcast_to(target.offset[:, None], (len(panel), MEMORY))
    return target.panel.sales * (outlook_of(panel, WEEKS, weeks) + offset) - offset


def outlook_of(panel: Panel, week: int, among: slice) -> np.ndarray:
    panel = dataclasses.replace(panel, events=worth_lining_up(panel))
    return Outlook.of(panel, last_year(panel, HORIZON)).as_of(week, among)


def test_sales_are_sales(years: Panel):
    target = build_target(years, HORIZON, SALES)
    assert target.panel is years
    outputs = np.arange(6 * 3 * HORIZON, dtype=float).reshape(6, 3, HORIZON)
    np.testing.assert_array_equal(alone(target, outputs), outputs)


def test_the_reference_as_a_feature_leaves_sales_and_is_the_one_of_the_ratio(years: Panel):
    target, ratio = (build_target(with_promo(years), HORIZON, kind) for kind in (REFERENCE, RATIO))
    np.testing.assert_array_equal(target.panel.sales, years.sales)
    outputs = np.arange(6 * 3 * HORIZON, dtype=float).reshape(6, 3, HORIZON)
    np.testing.assert_array_equal(alone(target, outputs), outputs)
    assert target.panel.covariates.names == ratio.panel.covariates.names
    np.testing.assert_array_equal(target.features[:, :, WEEKS - MEMORY :], ratio.features)
    np.testing.assert_array_equal(target.features[0, :, :YEAR], with_promo(years).covariates.values[0, :, :YEAR])
    np.testing.assert_array_equal(target.features[-1, :, :YEAR], 0)


def test_the_ratio_of_known_weeks_in_sales_are_the_sales(years: Panel):
    np.testing.assert_allclose(in_history(years)[:5], years.sales[:5, -MEMORY:])


def test_the_ratio_of_1_is_the_outlook(years: Panel):
    target = build_target(years, HORIZON, RATIO)
    assert target.panel.weeks.tolist() == years.weeks[-MEMORY:].tolist()
    outlook = outlook_of(years, WEEKS, slice(WEEKS, None))
    np.testing.assert_allclose(alone(target, np.ones((6, 1, HORIZON)))[:, 0], outlook)
    assert (target.unit > target.offset[:, None]).all()
    assert (target.offset > 0).all()
    # No season is left: the spread over the weeks is that of the noise.
    assert np.nanstd(target.panel.sales[:4], axis=1).max() < 0.12


def test_a_small_week_counts_little_and_a_peak_in_full():
    """A week of twice the outlook is 1.5 where it is usual, less where it is small and almost 2 where it is a peak."""
    week = np.full(YEAR, 100.0)
    week[-10], week[-20] = 10.0, 1000.0
    sales = np.concatenate([week, week])[None]
    sales[0, [-5, -10, -20]] *= 2
    weeks = np.datetime64("2022-01-07") + 7 * np.arange(2 * YEAR)
    panel = Panel(np.array(["1"]), np.array(["a"]), weeks, sales, events=())
    ratio = build_target(panel, HORIZON, RATIO).panel.sales[0]
    assert ratio[-10] < 1.15 < 1.4 < ratio[-5] < 1.6 < 1.75 < ratio[-20] < 2.05


class TestCases:
    """What the ratio is trained on: past weeks as they were seen then, and what came."""

    def test_each_is_a_past_week_by_its_own_outlook(self, years: Panel):
        target = build_target(with_promo(years), HORIZON, RATIO)
        cases = target.cases()
        assert len(cases) == len(origins(years)) == WEEKS - SHORTEST_AHEAD - FIRST_ORIGIN + 1
        padded = np.concatenate([years.sales, np.full((6, HORIZON), np.nan)], axis=1)
        promo = with_promo(years).covariates.values[0]
        for origin, case in zip(origins(years), cases, strict=True):
            weeks = slice(max(origin - MEMORY, YEAR), origin + HORIZON)
            assert case.weeks.tolist() == (years.weeks[0] + 7 * np.arange(weeks.start, weeks.stop)).tolist()
            # The series of the first year is in none, the young one where it has weeks before and after.
            rows = [0, 1, 2, 3] + [4] * (origin > 80)
            assert case.store.tolist() == years.store[rows].tolist()
            offset = target.offset[rows, None]
            now = dataclasses.replace(with_promo(years), events=())
            unit = Outlook.of(now, last_year(now, HORIZON)).as_of(origin, weeks)[rows] + offset
            np.testing.assert_allclose(case.sales * unit - offset, padded[rows, weeks])
            np.testing.assert_array_equal(case.covariates.values[0], promo[rows, weeks])

    def test_no_sale_after_the_cutoff_is_in_one(self, years: Panel):
        later = dataclasses.replace(years, sales=years.sales.copy())
        later.sales[:4, 90:] *= 7
        cutoff = years.weeks[89].astype(dt.date)
        pairs = zip(*(build_target(p.until(cutoff), HORIZON, RATIO).cases() for p in (years, later)), strict=True)
        for before, after in pairs:
            np.testing.assert_array_equal(before.sales, after.sales)

    def test_a_large_retailer_has_some_of_its_weeks(self, years: Panel, monkeypatch):
        last = WEEKS - SHORTEST_AHEAD
        monkeypatch.setattr(module, "CASES", 60)
        assert list(origins(years)) == list(range(last - 2, FIRST_ORIGIN - 1, -4))
        monkeypatch.setattr(module, "CASES", 1)
        assert list(origins(years)) == [FIRST_ORIGIN], "one at least, and not the one that hardly has weeks to forecast"

    def test_sales_are_trained_on_as_they_are(self, years: Panel):
        assert build_target(years, HORIZON, SALES).cases() == (years,)
        reference = build_target(years, HORIZON, REFERENCE)
        assert reference.cases() == (reference.panel,)


def test_a_series_not_seen_lately_still_has_a_value_to_start_from(years: Panel):
    target = build_target(years, HORIZON, RATIO)
    assert len(target.panel) == len(years)
    assert target.panel.observed[5].sum() == 1
    assert target.panel.sales[5, -1] == 1.0


def test_ratios_that_are_no_measure_are_cut(years: Panel):
    sales = years.sales.copy()
    sales[0, 90], sales[1, 91] = 1e9, -1e9
    target = build_target(Panel(years.store, years.dept, years.weeks, sales), HORIZON, RATIO)
    assert np.nanmax(target.panel.sales) <= 5
    assert np.nanmin(target.panel.sales) >= -5


class TestFeatures:
    def test_sales_have_the_covariates_as_they_are(self, years: Panel):
        panel = with_promo(years)
        assert build_target(years, HORIZON, SALES).features is None
        np.testing.assert_array_equal(build_target(panel, HORIZON, SALES).features, panel.covariates.values)

    def test_the_size_of_the_week_is_last_and_all_that_blind_networks_miss(self, years: Panel):
        assert build_target(years, HORIZON, RATIO).panel.covariates.names == (SIZE,)
        covariates = build_target(with_promo(years), HORIZON, RATIO).panel.covariates
        assert covariates.names == ("promo", "promo_last_year", SIZE)
        assert BLIND_FEATURES == 1

    def test_covariates_are_those_of_the_week_and_of_the_week_it_is_measured_by(self, years: Panel):
        """With no holidays to line up, the week measured by is 52 weeks earlier."""
        now, before, _ = build_target(with_promo(years), HORIZON, RATIO).features
        number = np.arange(WEEKS - MEMORY, WEEKS + HORIZON) + 1000.0 * np.arange(6)[:, None]
        np.testing.assert_array_equal(now, number)
        np.testing.assert_allclose(before, number - YEAR)

    def test_a_week_near_a_holiday_is_measured_by_the_week_as_far_from_last_years(self, years: Panel):
        """The week of Easter 2023, 9 April, by that of 17 April 2022, not by that of 8 April."""
        sales = years.sales.copy()
        for easter in ("2022-04-22", "2023-04-14"):
            sales[:, years.position(dt.date.fromisoformat(easter))] *= 3  # so that it is worth lining up
        panel = dataclasses.replace(with_promo(years), sales=sales, events=None)
        week = panel.position(dt.date(2023, 4, 14))
        panel = _ended(panel.until(panel.weeks[week + 3].item()))
        before = build_target(panel, HORIZON, RATIO).features[1, 0, week - YEAR]
        assert before == pytest.approx(panel.position(dt.date(2022, 4, 22)))

    def test_the_size_is_that_of_the_reference_for_the_series(self, years: Panel):
        size, reference = (
            build_target(years, HORIZON, RATIO).features[-1],
            last_year(years, HORIZON, events=worth_lining_up(years))[:, WEEKS - MEMORY :],
        )
        assert size.shape == reference.shape
        np.testing.assert_array_equal(size[0].argsort(), reference[0].argsort())
        larger = dataclasses.replace(years, sales=years.sales * 10)
        np.testing.assert_allclose(build_target(larger, HORIZON, RATIO).features[-1], size, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [SALES, REFERENCE, RATIO])
def test_nothing_after_the_cutoff_is_known(years: Panel, kind: str):
    """But for what is planned: covariates known ahead are read in the weeks to be forecast."""
    cutoff = years.weeks[85].item()
    later = years.sales.copy()
    later[:, 86:] *= 7
    changed = with_promo(Panel(years.store, years.dept, years.weeks, later))
    changed.covariates.values[:, :, 86 + HORIZON :] = 9e9
    before, after = (build_target(_ended(p.until(cutoff)), HORIZON, kind) for p in (with_promo(years), changed))
    for name in ("unit", "offset", "features"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    np.testing.assert_array_equal(before.panel.sales, after.panel.sales)


def _ended(panel: Panel) -> Panel:
    """Covariates of the horizon, as `complete` leaves them."""
    values = panel.covariates.values[:, :, : len(panel.weeks) + HORIZON]
    return dataclasses.replace(panel, covariates=dataclasses.replace(panel.covariates, values=values))


def test_the_ratio_needs_a_year_and_weeks_to_learn_from(years: Panel):
    assert ratio_possible(years, 12, HORIZON)
    assert not ratio_possible(years.until(years.weeks[74].item()), 12, HORIZON)
    assert not ratio_possible(years, 12, 47)
    for kind in (REFERENCE, RATIO):
        with pytest.raises(ValueError, match="52 weeks of history have no last year"):
            build_target(years.until(years.weeks[51].item()), HORIZON, kind)
