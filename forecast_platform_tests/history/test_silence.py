"""Series that stop: how probable their return is, learned from the past, and what it makes of quantiles and paths."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecast_platform.cli.backtest import read_folder
from forecast_platform.history.panel import Panel
from forecast_platform.history.silence import (
    EDGES,
    PRIOR,
    Silence,
    fade_paths,
    fade_quantiles,
    probability_of_return,
    stopping,
)
from forecast_platform.publishing.series import forecastable
from forecast_platform.settings import Settings
from forecast_platform_tests.history.conftest import SPECS, make_panel

SHAPES = Path(__file__).parents[1] / "field_cases" / "shapes"
HORIZON = 12
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


@pytest.fixture(scope="module")
def shapes() -> Panel:
    return read_folder(SHAPES, Settings())


def steady(level: float = 100.0, weeks: int = 60) -> list[float | None]:
    return [level + t % 5 for t in range(weeks)]


def quiet(since: int, until: int = 60) -> list[float | None]:
    values = steady()
    values[since:until] = [None] * (until - since)
    return values


def with_(*series: list[float | None]) -> Panel:
    """Articles 0, 1, .. of a store that reports every week."""
    return make_panel({("1", str(i)): values for i, values in enumerate(series)} | {("1", "z"): steady()})


class TestFieldCase:
    def test_who_went_is_near_0_and_who_sells_is_untouched(self, shapes: Panel) -> None:
        returns = probability_of_return(shapes, HORIZON)
        at = {store: returns[shapes.store == store] for store in np.unique(shapes.store)}
        assert at["gone_10w"].max() < 0.2
        assert at["zero_10w"].max() < 0.2
        assert at["one_row_old"].max() < 0.05
        gone = {"gone_10w", "zero_10w", "one_row_old"}
        assert {store for store, chance in at.items() if (chance < 1).any()} == gone

    def test_they_are_flagged_at_once(self, shapes: Panel) -> None:
        active, _ = forecastable(shapes, 52, HORIZON)
        rows = {row["store"]: row for row in stopping(active).to_pylist()}
        assert rows.keys() == {"gone_10w", "zero_10w", "one_row_old"}
        assert rows["gone_10w"]["silent_weeks"] == 10
        assert rows["gone_10w"]["last_week"] == dt.date(2026, 9, 11)
        assert rows["one_row_old"]["silent_weeks"] == 39

    def test_the_rows_fit_their_table(self, shapes: Panel) -> None:
        found = stopping(forecastable(shapes, 52, HORIZON)[0])
        assert len(found)
        for name in found.column_names:
            assert found[name].type == SPECS["stopping_series"].schema.field(name).type


class TestProbability:
    def test_with_little_history_it_is_the_stated_prior(self) -> None:
        for weeks in (1, 2, 3, 6):
            chance = probability_of_return(with_(quiet(60 - weeks)), HORIZON)
            assert chance[0, 0] == pytest.approx(1 / (1 + (weeks / 3) ** 2), abs=0.12)
            assert (chance[1] == 1).all()

    def test_the_longer_the_silence_the_smaller(self) -> None:
        found = [probability_of_return(with_(quiet(60 - weeks)), HORIZON)[0, -1] for weeks in range(8)]
        assert found == sorted(found, reverse=True)
        assert found[0] == 1

    def test_a_retailer_whose_articles_come_back_is_believed(self) -> None:
        back, gone = (
            [quiet(10 + i % 7, 13 + i % 7 if returned else 60) for i in range(60)] for returned in (True, False)
        )
        returning, lost = (probability_of_return(with_(quiet(57), *others), HORIZON)[0, -1] for others in (back, gone))
        assert returning > 0.8
        assert lost < 0.3

    def test_nothing_after_the_cutoff_counts(self) -> None:
        others = [quiet(10 + i % 7, 50) for i in range(30)]
        whole = with_(quiet(27, 32), *others)
        early = whole.until(whole.weeks[29].astype(dt.date))
        other = make_panel({
            (str(s), str(d)): [None if np.isnan(x) else x for x in row]
            for s, d, row in zip(early.store, early.dept, early.sales, strict=True)
        })  # fmt: skip
        np.testing.assert_array_equal(probability_of_return(early, HORIZON), probability_of_return(other, HORIZON))

    def test_a_season_that_came_back_before_is_half_believed_at_least(self) -> None:
        values: list[float | None] = [None] * 60
        values[:6], values[30:36] = steady()[:6], steady()[:6]
        others = [quiet(10) for _ in range(30)]
        once, never = with_(values, *others), with_(quiet(36), *others)
        assert probability_of_return(once, HORIZON)[0, -1] >= 0.5
        assert probability_of_return(never, HORIZON)[0, -1] < 0.2

    def test_a_store_that_is_late_is_no_silence_and_one_that_stays_away_is(self) -> None:
        for weeks, silent in ((1, False), (4, False), (5, True), (20, True)):
            sales = {("1", str(d)): quiet(60 - weeks) for d in range(3)} | {("2", "1"): steady()}
            returns = probability_of_return(make_panel(sales), HORIZON)
            assert (returns[:3] < 1).all() == silent, weeks
            assert (returns[3] == 1).all()

    def test_weeks_without_an_open_day_are_no_silence(self) -> None:
        from dataclasses import replace

        from forecast_platform.history.covariates import Covariates, Declaration

        panel = with_(quiet(52))
        days = np.full((1, *panel.sales.shape), 6.0)
        days[0, 0, 52:] = 0
        closed = replace(panel, exposure=Covariates((Declaration("open_days"),), days))
        assert probability_of_return(panel, HORIZON)[0, 0] < 0.5
        assert probability_of_return(closed, HORIZON)[0, 0] == 1

    @given(
        st.lists(
            st.lists(st.sampled_from([None, 0.0, 1.0, 9.0, -2.0]), min_size=20, max_size=20), min_size=1, max_size=6
        )
    )
    @hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
    def test_it_is_a_probability_that_never_falls_with_the_weeks(self, series: list[list[float | None]]) -> None:
        panel = make_panel({(str(i % 2), str(i)): [1.0, *values] for i, values in enumerate(series)})
        returns = probability_of_return(panel, HORIZON)
        assert ((returns >= 0) & (returns <= 1)).all()
        assert (np.diff(returns, axis=1) >= -1e-12).all()
        silence = Silence.of(panel)
        assert (silence.weeks[silence.sold] == 0).all()
        assert (silence.degree < len(EDGES)).all()
        assert PRIOR > 0


class TestFading:
    QUANTILES = np.linspace(90, 110, 5)[None, :, None]

    def test_who_returns_surely_is_untouched_and_who_does_not_is_0(self) -> None:
        np.testing.assert_array_equal(fade_quantiles(self.QUANTILES, LEVELS, np.ones((1, 1))), self.QUANTILES)
        assert (fade_quantiles(self.QUANTILES, LEVELS, np.zeros((1, 1))) == 0).all()
        assert (fade_paths(self.QUANTILES, np.zeros((1, 1)), ["a"]) == 0).all()

    def test_a_tenth_that_returns_is_seen_above_nine_tenths(self) -> None:
        assert fade_quantiles(self.QUANTILES, LEVELS, np.full((1, 1), 0.05)).ravel().tolist() == [0] * 5
        found = fade_quantiles(self.QUANTILES, LEVELS, np.full((1, 1), 0.6)).ravel().tolist()
        assert found[:2] == [0, 0]  # .4 of it is nothing
        assert found[2] == pytest.approx(np.interp(0.1 / 0.6, LEVELS, self.QUANTILES.ravel()))

    @pytest.mark.parametrize("centre", [100.0, 5.0, -20.0], ids=["above 0", "across 0", "below 0"])
    def test_quantiles_and_paths_are_of_one_mixture(self, centre: float) -> None:
        levels = np.arange(1, 20) / 20
        paths = np.sort(np.random.default_rng(0).normal(centre, 10, (1, 4000, 1)), axis=1)
        whole = np.quantile(paths, levels, axis=1)[:, :, 0].T[..., None]
        for p in (0.23, 0.53, 0.88):
            returns = np.full((1, 1), p)
            faded = fade_paths(paths, returns, ["a"])
            assert (faded == 0).mean() == pytest.approx(1 - p, abs=0.001)
            of_paths = np.quantile(faded, levels, axis=1)[:, 0, 0]
            of_levels = fade_quantiles(whole, levels.tolist(), returns)[0, :, 0]
            inside = (levels / p > 0.06) & ((levels - 1 + p) / p < 0.94)
            np.testing.assert_allclose(of_levels[inside], of_paths[inside], atol=2.5)

    @given(st.lists(st.floats(-50, 500), min_size=5, max_size=5).map(sorted), st.floats(0, 1))
    @hypothesis_settings(max_examples=200, deadline=None, derandomize=True)
    def test_quantiles_stay_in_order_and_between_0_and_what_they_were(self, values: list[float], p: float) -> None:
        quantiles = np.array(values)[None, :, None]
        found = fade_quantiles(quantiles, LEVELS, np.full((1, 1), p))
        assert (np.diff(found, axis=1) >= 0).all()
        assert found.min() >= min(quantiles.min(), 0)
        assert found.max() <= max(quantiles.max(), 0)

    def test_a_path_that_has_returned_stays_and_reruns_are_equal(self) -> None:
        paths = np.ones((3, 50, HORIZON))
        returns = np.array([np.linspace(0.1, 0.8, HORIZON), np.ones(HORIZON), np.linspace(0.1, 0.8, HORIZON)])
        found = fade_paths(paths, returns, ["a", "b", "c"])
        assert (np.diff(found, axis=2) >= 0).all()
        np.testing.assert_allclose(found.mean(axis=1), returns, atol=0.011)
        np.testing.assert_array_equal(found, fade_paths(paths, returns, ["a", "b", "c"]))
        np.testing.assert_array_equal(found[[2, 0]], fade_paths(paths[[2, 0]], returns[[2, 0]], ["c", "a"]))
        assert (found[0] != found[2]).any(), "two series do not return in the same paths"


def test_silent_series_are_flagged_by_who_asked_for_their_return() -> None:
    with pytest.raises(ValueError, match="forecastable"):
        stopping(with_(quiet(50)))
    assert isinstance(stopping(forecastable(with_(quiet(50)), 52, HORIZON)[0]), pa.Table)
