"""Last year's week: no leak, holidays on their day, and every kind of short or odd series."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.history.holidays import Event, retail_events
from forecast_platform.history.panel import Panel
from forecast_platform.models.last_year.outlook import aligned_last_year
from forecast_platform.models.last_year.reference import (
    HALF_YEAR,
    MAX_HORIZON,
    SECOND_YEAR,
    STORE_PULSE,
    YEAR,
    last_year,
    one_year_back,
    worth_lining_up,
)

REPO = Path(__file__).parents[3]
WALMART = Path(os.environ.get("FORECAST_WALMART_DIR") or REPO.parent / "shared" / "data" / "walmart")
FIRST = dt.date(2010, 2, 5)  # a Friday, the first week of the Walmart data
QUANTILES = tuple(k / 10 for k in range(1, 10))
DAY = dt.timedelta(days=1)


def grid(weeks: int, first: dt.date = FIRST) -> np.ndarray:
    return np.datetime64(first, "D") + 7 * np.arange(weeks)


def panel_of(sales, depts=None, first: dt.date = FIRST, stores=None) -> Panel:
    """One store a row and all rows in one department, unless `stores` and `depts` say otherwise."""
    sales = np.array(sales, dtype=float)
    n = len(sales)
    depts = ["1"] * n if depts is None else depts
    stores = range(n) if stores is None else stores
    return Panel(np.array(stores).astype(str), np.array(depts, dtype=str), grid(sales.shape[1], first), sales)


def random_panel(seed: int, weeks: int, n: int = 6, gaps: float = 0.0, stores=None) -> Panel:
    """Levels and shapes of their own in two departments, far above the floor of 5 % of a series' level."""
    rng = np.random.default_rng(seed)
    sales = rng.uniform(50, 500, (n, 1)) * rng.uniform(0.5, 2, (n, weeks))
    sales[:, 1:][rng.random((n, weeks - 1)) < gaps] = np.nan
    return panel_of(sales, [str(i % 2) for i in range(n)], stores=stores)


def perturb(panel: Panel, since: int, seed: int = 0) -> Panel:
    """The panel with other sales from week `since` on, in some cells none."""
    rng = np.random.default_rng(seed)
    sales = panel.sales.copy()
    sales[:, since:] = rng.uniform(-1e4, 1e4, sales[:, since:].shape)
    sales[:, since:][rng.random(sales[:, since:].shape) < 0.2] = np.nan
    return Panel(panel.store, panel.dept, panel.weeks, sales)


def column(weeks: np.ndarray, end: dt.date, horizon: int = 12, events=None) -> dict[dt.date, float]:
    """The source weeks of the week ending at `end`, with their weights in sevenths."""
    weights = one_year_back(weeks, horizon, events)[:, (end - weeks[0].astype(dt.date)).days // 7]
    return {weeks[i].astype(dt.date): round(7 * weights[i], 9) for i in np.flatnonzero(weights)}


# ------------------------------------------------------------------------------------------------- leak


def read_nothing_after_the_cutoff(forecast: Callable[[Panel, int], np.ndarray]) -> Callable[[], None]:
    """A test that other sales after the cutoff change nothing."""

    @settings(derandomize=True, deadline=None, max_examples=15)
    @given(
        seed=st.integers(0, 99),
        known=st.integers(2, 130),
        horizon=st.integers(1, MAX_HORIZON),
        gaps=st.sampled_from([0, 0.3]),
    )
    def test(seed, known, horizon, gaps):
        panel = random_panel(seed, known + 30, gaps=gaps, stores=[1, 1, 2, 2, 3, 3])
        cutoff = panel.weeks[known - 1].astype(dt.date)
        past, other = (each.until(cutoff) for each in (panel, perturb(panel, known, seed)))
        np.testing.assert_array_equal(forecast(past, horizon), forecast(other, horizon))

    return test


test_last_year_reads_nothing_after_the_cutoff = read_nothing_after_the_cutoff(last_year)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), known=st.integers(53, 130), horizon=st.integers(1, HALF_YEAR))
def test_what_a_series_own_weeks_served_is_what_the_same_week_shows_later(seed, known, horizon):
    """A network trained on references it will not be shown would learn something else."""
    panel = random_panel(seed, 180)
    served = last_year(panel.until(panel.weeks[known - 1].astype(dt.date)), horizon, mix=0)
    np.testing.assert_allclose(served, last_year(panel, 1, mix=0)[:, : known + horizon], rtol=1e-9)


@pytest.mark.parametrize("known", [80, 105, 140])
def test_what_was_served_is_nearly_what_the_same_week_shows_later(known):
    """The mix and the shares of stores are those of all the history there is, which grows."""
    rng = np.random.default_rng(known)
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(180) / YEAR) + rng.lognormal(0, 0.1, (2, 180))
    sales = season[[0, 1] * 6] * rng.uniform(50, 500, (12, 1)) * rng.lognormal(0, 0.1, (12, 180))
    panel = panel_of(sales, ["a", "b"] * 6, stores=np.arange(12) // 2)
    served = last_year(panel.until(panel.weeks[known - 1].astype(dt.date)), 12)[:, known:]
    later = last_year(panel, 1)[:, known : known + 12]
    assert np.abs(served / later - 1).mean() < 0.03


@pytest.mark.parametrize("t", [60, 63, 64, 97, 100, 103])  # 63 and 64 hold or follow Easter 2011, 97 is Christmas
def test_the_own_weeks_of_a_year_back_are_all_that_is_read(t):
    panel = random_panel(1, 130)
    latest = t - YEAR + 3  # Easter lies up to three weeks earlier this year
    sales = panel.sales.copy()
    sales[:, latest + 1 :] *= np.random.default_rng(t).uniform(0.5, 2, sales[:, latest + 1 :].shape)
    other = Panel(panel.store, panel.dept, panel.weeks, sales)
    want, got = last_year(panel, 12, mix=0), last_year(other, 12, mix=0)
    np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])


@pytest.mark.parametrize("t", [104, 113, 130, 141])
def test_the_year_before_last_reads_half_a_year_around_last_year_and_no_later(t):
    panel = random_panel(1, 130)
    latest = t - YEAR + HALF_YEAR
    sales = panel.sales.copy()
    sales[:, latest + 1 :] *= np.random.default_rng(t).uniform(0.5, 2, sales[:, latest + 1 :].shape)
    other = Panel(panel.store, panel.dept, panel.weeks, sales)
    want, got = last_year(panel, 12, mix=0), last_year(other, 12, mix=0)
    np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])
    sales[:, latest] *= np.random.default_rng(t).uniform(1.1, 2, len(sales))
    assert (last_year(other, 12, mix=0)[:, t] != want[:, t]).all(), "and it does read up to there"


# ------------------------------------------------------------------------------------------ one year back


def brute_force(first: dt.date, known: int, total: int) -> np.ndarray:
    """Day by day: which known week holds the day that each day goes back to."""
    named = retail_events(first, first + 7 * total * DAY)
    reach = {"Thanksgiving": (1, 1), "Christmas": (3, 1), "Easter": (2, 1), "Super Bowl": (1, 0), "Labor Day": (1, 0)}
    week_of = {first + (7 * i + d) * DAY: i for i in range(-60, total + 60) for d in range(-6, 1)}
    weights = np.zeros((known, total))
    for t in range(total):
        near = []
        for event in named:
            for number, day in enumerate(event.dates[1:], 1):
                away, (before, after) = t - week_of.get(day, 10**6), reach[event.name]
                if -before <= away <= after:
                    near.append((abs(away), day, event.dates[number - 1]))
        for d in range(-6, 1):
            day = first + (7 * t + d) * DAY
            back = day - 364 * DAY
            if near:
                _, this, previous = min(near)
                back = previous + (day - this)
            assert week_of[day] == t
            if 0 <= week_of[back] < known:
                weights[week_of[back], t] += 1 / 7
    return weights


@pytest.mark.parametrize("first", [FIRST, FIRST + 2 * DAY, FIRST - 2 * DAY, FIRST + 1 * DAY], ids=lambda d: f"{d:%A}")
def test_each_source_week_holds_the_days_gone_back_to(first):
    known, horizon = 143, 40
    weights = one_year_back(grid(known, first), horizon)
    assert weights.shape == (known, known + horizon)
    np.testing.assert_allclose(weights, brute_force(first, known, known + horizon), atol=1e-12)
    np.testing.assert_allclose(weights[:, YEAR + 4 :].sum(axis=0), 1)
    assert (weights.sum(axis=0) < 1 + 1e-9).all()
    assert not weights[:, : YEAR - 3].any(), "before the first week there is nothing to go back to"


def test_an_ordinary_week_goes_back_52_weeks():
    weeks = grid(143)
    for end in (dt.date(2011, 3, 4), dt.date(2011, 9, 9), dt.date(2012, 2, 10), dt.date(2012, 9, 7)):
        assert column(weeks, end) == {end - 364 * DAY: 7}


def test_christmas_goes_back_by_day():
    weeks = grid(143)
    # Sunday 25 December 2011 goes back to Saturday: the week's first day, the 24th, to Friday the 24th.
    assert column(weeks, dt.date(2011, 12, 30)) == {dt.date(2010, 12, 24): 1, dt.date(2010, 12, 31): 6}
    assert column(weeks, dt.date(2011, 12, 23)) == {dt.date(2010, 12, 17): 1, dt.date(2010, 12, 24): 6}
    # 2012 is a leap year, 366 days: two of the days.
    assert column(weeks, dt.date(2012, 12, 28)) == {dt.date(2011, 12, 23): 2, dt.date(2011, 12, 30): 5}
    # Three weeks before and one after go along, no more.
    assert len(column(weeks, dt.date(2011, 12, 9))) == 2
    assert column(weeks, dt.date(2011, 12, 2)) == {dt.date(2010, 12, 3): 7}, "Thanksgiving's week after"
    assert len(column(weeks, dt.date(2012, 1, 6))) == 2
    assert column(weeks, dt.date(2012, 1, 13)) == {dt.date(2011, 1, 14): 7}


def test_thanksgiving_goes_back_to_thanksgiving():
    weeks = grid(143)
    assert column(weeks, dt.date(2012, 11, 23)) == {dt.date(2011, 11, 25): 7}
    # 2013's falls on the 28th, 371 days after 2012's: a fixed 52 weeks would miss it.
    assert column(grid(160), dt.date(2013, 11, 29), 46) == {dt.date(2012, 11, 23): 7}


def test_easter_goes_back_to_easter():
    weeks = grid(143)
    # Sunday 8 April 2012 and Sunday 24 April 2011 both open their weeks, 50 weeks apart.
    assert column(weeks, dt.date(2012, 4, 13)) == {dt.date(2011, 4, 29): 7}
    assert column(weeks, dt.date(2012, 4, 6)) == {dt.date(2011, 4, 22): 7}
    assert column(weeks, dt.date(2012, 3, 30)) == {dt.date(2011, 4, 15): 7}
    assert column(weeks, dt.date(2012, 4, 20)) == {dt.date(2011, 5, 6): 7}
    assert column(weeks, dt.date(2012, 3, 23)) == {dt.date(2011, 3, 25): 7}
    assert column(weeks, dt.date(2012, 4, 27)) == {dt.date(2011, 4, 29): 7}


def test_no_events_is_52_weeks_everywhere():
    weights = one_year_back(grid(80), 40, ())
    np.testing.assert_allclose(weights, np.eye(80, 120, k=YEAR))


def test_events_of_ones_own():
    weeks = grid(143)
    sale = Event("Sale", (dt.date(2010, 6, 2), dt.date(2011, 6, 17)), before=0, after=2)  # a Wednesday, then a Friday
    assert column(weeks, dt.date(2011, 6, 10), events=[sale]) == {dt.date(2010, 6, 11): 7}, "none before"
    assert column(weeks, dt.date(2011, 6, 17), events=[sale]) == {dt.date(2010, 5, 28): 2, dt.date(2010, 6, 4): 5}
    assert column(weeks, dt.date(2011, 7, 1), events=[sale]) == {dt.date(2010, 6, 11): 2, dt.date(2010, 6, 18): 5}
    assert column(weeks, dt.date(2011, 7, 8), events=[sale]) == {dt.date(2010, 7, 9): 7}
    assert column(weeks, dt.date(2011, 12, 30), events=[sale]) == {dt.date(2010, 12, 31): 7}, (
        "Christmas is not asked for"
    )
    assert column(weeks, dt.date(2012, 6, 15), events=[sale]) == {dt.date(2011, 6, 17): 7}, "no date this year"
    # Between two events the nearer one leads.
    other = Event("Other", (dt.date(2010, 6, 30), dt.date(2011, 6, 29)), before=1, after=0)
    assert column(weeks, dt.date(2011, 7, 1), events=[sale, other]) == {dt.date(2010, 7, 2): 7}


def test_retail_events_are_on_their_days():
    days = {event.name: set(event.dates) for event in retail_events(FIRST, dt.date(2012, 10, 26))}
    assert {dt.date(2010, 11, 25), dt.date(2011, 11, 24), dt.date(2012, 11, 22)} < days["Thanksgiving"]
    assert {dt.date(2010, 4, 4), dt.date(2011, 4, 24), dt.date(2012, 4, 8), dt.date(2013, 3, 31)} < days["Easter"]
    assert {(day.month, day.day) for day in days["Christmas"]} == {(12, 25)}
    assert all(min(dates).year == 2009 and max(dates).year == 2013 for dates in days.values())


# ---------------------------------------------------------------------------------------------- last year


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 99),
    known=st.integers(1, 150),
    horizon=st.integers(1, MAX_HORIZON),
    mix=st.sampled_from([None, 0.0, 0.5, 1.0]),
    gaps=st.sampled_from([0, 0.3, 0.95]),
)
def test_the_first_year_is_unknown_and_the_rest_positive(seed, known, horizon, mix, gaps):
    reference = last_year(random_panel(seed, known, gaps=gaps), horizon, mix)
    assert reference.shape == (6, known + horizon)
    assert np.isnan(reference[:, :YEAR]).all()
    assert np.isfinite(reference[:, YEAR:]).all()
    assert (reference[:, YEAR:] > 0).all()


def test_three_times_the_sales_is_three_times_the_reference():
    panel = random_panel(3, 130)
    one = panel.sales.copy()
    one[2] *= 3
    one = Panel(panel.store, panel.dept, panel.weeks, one)
    whole = Panel(panel.store, panel.dept, panel.weeks, 3 * panel.sales)
    factor = np.where(np.arange(6) == 2, 3.0, 1.0)[:, None]
    np.testing.assert_allclose(last_year(one, 12, mix=0), factor * last_year(panel, 12, mix=0))
    for mix in (None, 0, 0.5, 1):
        np.testing.assert_allclose(last_year(whole, 12, mix), 3 * last_year(panel, 12, mix))
    np.testing.assert_allclose(aligned_last_year(whole, 12, QUANTILES), 3 * aligned_last_year(panel, 12, QUANTILES))
    # Series of another store and department do not move.
    np.testing.assert_array_equal(last_year(one, 12, 0.5)[1::2], last_year(panel, 12, 0.5)[1::2])


@pytest.mark.parametrize(("depts", "mix"), [("ab", 0.5), ("ab", 1.0), ("aa", 0.0)])
def test_what_repeats_every_52_weeks_is_its_own_reference(depts, mix):
    year = np.random.default_rng(0).uniform(50, 500, (2, YEAR))
    sales = np.tile(year, 4)
    reference = last_year(panel_of(sales[:, :130], list(depts)), 40, mix, events=())
    np.testing.assert_allclose(reference[:, YEAR:], sales[:, YEAR:170])


def test_series_of_one_shape_are_their_own_reference_with_the_department():
    year = np.random.default_rng(0).uniform(50, 500, YEAR)
    sales = np.tile(year, 4) * np.array([[1.0], [10.0], [0.2]])
    reference = last_year(panel_of(sales[:, :130]), 40, events=())
    np.testing.assert_allclose(reference[:, YEAR:], sales[:, YEAR:170])


def test_the_department_takes_out_the_noise_of_one_week():
    sales = np.full((10, 100), 100.0)
    sales[0, 30] = 200.0
    # The other department of each store is quiet: the store had no week of its own.
    sales = np.concatenate([sales, np.full((10, 100), 1e5)])
    reference = last_year(panel_of(sales, ["a"] * 10 + ["b"] * 10, stores=[*range(10)] * 2), 12, 0.5, events=())
    # Share of 13 weeks: 1400 of 13100; the department's week: 1100.
    assert reference[0, 82] == pytest.approx(0.5 * 200 + 0.5 * 1100 * 1400 / 13100, rel=1e-3)


class TestStorePulse:
    """A week in which one store of four sold more in every department, or only in one of them."""

    @staticmethod
    def reference(bumped: slice) -> np.ndarray:
        """Of four stores of four departments, in the week a year after store 0 sold twice as much in some of them."""
        sales = np.full((4, 4, 100), 100.0)
        sales[0, bumped, 30] = 200.0
        panel = panel_of(sales.reshape(16, 100), [*"abcd"] * 4, stores=np.repeat(range(4), 4))
        return last_year(panel, 12, mix=1, events=())[:, 82].reshape(4, 4)

    def test_a_storewide_bump_comes_back_in_part_in_all_its_departments(self):
        found = self.reference(slice(None))
        # Without the pulse: a quarter of 500, over 13 weeks in which its share was 1400 of 5300.
        plain = 500 * 1400 / 5300
        pulse = found[0] / plain
        assert pulse == pytest.approx(np.full(4, (200 / 125) ** STORE_PULSE), rel=0.05)
        assert (pulse > 1.1).all()
        assert (pulse < 1.4).all(), "less than the 200 / 125 there were: a store's ups and downs are in part noise"
        assert (found[1:] < plain).all(), "the other stores had no such week"

    def test_a_bump_in_one_department_is_no_week_of_the_store(self):
        found, storewide = self.reference(slice(0, 1)), self.reference(slice(None))
        assert (found[0, 1:] < 1.1 * 100).all()
        assert (found[0, 1:] < storewide[0, 1:]).all()


class TestMix:
    """How much of the department's shape: fitted to the history."""

    SEASON = 1 + 0.6 * np.sin(2 * np.pi * np.arange(130) / YEAR)
    SHIFTED = 1 + 0.6 * np.sin(2 * np.pi * (np.arange(130) + 6.5 * np.arange(8)[:, None]) / YEAR)

    def panel(self, shapes: np.ndarray, noise: float) -> Panel:
        rng = np.random.default_rng(7)
        return panel_of(300 * shapes * rng.lognormal(0, noise, shapes.shape), stores=range(len(shapes)))

    def distance(self, panel: Panel, mix: float) -> float:
        """How far the fitted reference is from the one of a given mix."""
        return float(np.nanmean(np.abs(last_year(panel, 12, events=()) - last_year(panel, 12, mix, events=()))))

    def test_own_weeks_lead_where_the_series_of_a_department_differ(self):
        panel = self.panel(self.SHIFTED, 0.02)
        assert self.distance(panel, 0.2) < self.distance(panel, 0.4)
        assert self.distance(panel, 0.2) < 1e-9, "never all their own: one year is noisy"

    def test_the_department_leads_where_its_series_are_alike_and_noisy(self):
        panel = self.panel(np.tile(self.SEASON, (30, 1)), 0.4)
        assert self.distance(panel, 0.9) < self.distance(panel, 0.5)

    def test_each_department_has_its_own(self):
        alike = np.tile(self.SEASON, (8, 1)) * np.random.default_rng(3).lognormal(0, 0.3, (8, 130))
        sales = np.concatenate([alike, self.SHIFTED]) * 300
        panel = panel_of(sales, ["alike"] * 8 + ["different"] * 8)
        fitted = last_year(panel, 12, events=())[:, YEAR:104]
        own, shared = (last_year(panel, 12, mix, events=())[:, YEAR:104] for mix in (0, 1))
        part = ((fitted - own) * (shared - own)).sum(axis=1) / ((shared - own) ** 2).sum(axis=1)
        assert part[:8].max() - part[:8].min() < 1e-9
        assert part[:8].mean() > part[8:].mean() + 0.1


class TestSecondYear:
    def test_a_series_that_doubles_every_year_takes_last_years_level(self):
        year = np.random.default_rng(0).uniform(50, 500, YEAR)
        sales = np.concatenate([year, 2 * year, 4 * year])[None]
        np.testing.assert_allclose(last_year(panel_of(sales), 12, mix=0, events=())[:, 104:], sales[:, 52:116])

    def test_it_takes_out_a_part_of_what_was_odd_about_last_year(self):
        sales = np.full((1, 130), 100.0)
        sales[0, 80] = 200.0  # week 132 looks back at it
        reference = last_year(panel_of(sales), 12, mix=0, events=())
        level = 1 + 1 / 50  # of the weeks around week 80, 50 of them seen
        assert reference[0, 132] == pytest.approx((1 - SECOND_YEAR) * 200 + SECOND_YEAR * 100 * level, rel=0.01)

    def test_where_it_was_not_seen_last_year_stands_alone(self):
        sales = random_panel(2, 130, n=1).sales
        whole, young = panel_of(sales), sales.copy()
        young[:, :YEAR] = np.nan
        young = last_year(panel_of(young), 12, mix=0, events=())
        np.testing.assert_allclose(young[:, 104:], sales[:, 52:90])
        assert (np.abs(last_year(whole, 12, mix=0, events=())[:, 104:] - young[:, 104:]) > 1e-6).all()


def test_christmas_is_referred_to_christmas():
    sales = np.full((2, 130), 100.0)
    weeks = grid(130)
    sales[:, weeks == np.datetime64("2010-12-24")] = 300.0
    reference = last_year(panel_of(sales), 12, mix=0)
    at = {end: reference[0, int((np.datetime64(end) - weeks[0]).astype(int)) // 7] for end in
          ("2011-12-16", "2011-12-23", "2011-12-30", "2012-01-06")}  # fmt: skip
    assert list(at.values()) == pytest.approx([100, 300 * 6 / 7 + 100 / 7, 300 / 7 + 100 * 6 / 7, 100])


def test_an_event_is_lined_up_unless_the_history_speaks_against_it():
    """Moved by four weeks: where sales move with it, where they stay, and where it was seen only once."""
    feast = Event("feast", (dt.date(2010, 9, 15), dt.date(2011, 8, 18), dt.date(2012, 9, 14)))
    weeks, rng = grid(110), np.random.default_rng(3)
    plain = 100 + rng.normal(0, 1, (4, 110))

    def kept(sales, known=110):
        panel = panel_of(sales[:, :known])
        return worth_lining_up(Panel(panel.store, panel.dept, panel.weeks, panel.sales, events=(feast,)))

    moving, staying = plain.copy(), plain.copy()
    moving[:, np.isin(weeks, np.array(["2010-09-17", "2011-08-19"], "datetime64[D]"))] *= 3
    staying[:, np.isin(weeks, np.array(["2010-09-17", "2011-09-16"], "datetime64[D]"))] *= 3
    assert kept(moving) == (feast,)
    assert kept(staying) == ()
    assert kept(staying, known=75) == (feast,)


def test_a_series_without_a_last_year_has_the_shape_of_its_department():
    sales = random_panel(5, 110, n=4).sales
    sales[0, :90] = np.nan
    panel = panel_of(sales)
    reference = last_year(panel, 12, events=())
    others = sales[1:].sum(axis=0)
    beside = sales[0, 90:].sum() / others[90:].sum()
    np.testing.assert_allclose(reference[0, YEAR:], beside * others[: 110 + 12 - YEAR])


@pytest.mark.parametrize("weeks", [1, 4, 20, 52])
def test_a_new_series_does_not_count_itself_among_those_of_last_year(weeks):
    """All sell 100 a week; one of three began some weeks ago, and its department is half as large again since."""
    sales = np.full((3, 120), 100.0)
    sales[2, :-weeks] = np.nan
    np.testing.assert_allclose(last_year(panel_of(sales), 12, events=())[2, YEAR:], 100.0)


def test_a_department_whose_returns_eat_its_sales_has_no_shape():
    """A share of next to nothing would be anything: the series has its own level, the mean size of its weeks."""
    sales = np.tile([200.0, -198.0], (6, 60))
    sales[0] = np.nan
    sales[0, -12::3] = 150.0
    np.testing.assert_allclose(last_year(panel_of(sales), 12, events=())[0, YEAR:], 150.0)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_a_new_series_of_a_new_department_has_its_own_level(mix):
    sales = np.full((3, 80), 100.0)
    sales[1:, :60] = np.nan
    reference = last_year(panel_of(sales, ["1", "2", "3"]), 12, mix)
    np.testing.assert_allclose(reference[:, YEAR:], 100)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_an_easter_before_the_first_week_leaves_the_level(mix):
    """Easter 2011 comes a year and three weeks after Easter 2010, which this panel does not reach."""
    for late in range(15):
        reference = last_year(panel_of(np.full((2, 70), 100.0), first=dt.date(2010, 4, 2) + late * DAY), 4, mix)
        np.testing.assert_allclose(reference[:, YEAR:], 100)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_a_week_partly_before_the_first_week_is_measured_by_the_rest(mix):
    """The week of Christmas 2011 goes back to 24 December 2010 by a seventh: the day before this panel."""
    panel = panel_of(np.full((2, 60), 100.0), first=dt.date(2010, 12, 31))
    assert one_year_back(panel.weeks, 1)[:, YEAR].sum() == pytest.approx(6 / 7)
    np.testing.assert_allclose(last_year(panel, 4, mix)[:, YEAR:], 100)


@pytest.mark.parametrize("seen", [3, 4])
def test_a_share_takes_four_weeks_or_else_the_whole_history(seen):
    sales = np.full((2, 120), 100.0)
    sales[0, 20:60] = np.nan
    sales[0, 40 : 40 + seen] = 400.0
    # Each store has another department, so large and quiet that it had no week of its own.
    sales = np.concatenate([sales, np.full((2, 120), 1e7)])
    # Ever: 80 weeks of 100 and three of 400, all beside 100. In the 37 weeks a year after its hole, it is beside last
    # year's department, in which its usual sales stand for it.
    usual = (80 * 100 + 3 * 400) / 83
    share = 400 / 500 if seen == 4 else 83 * usual / (43 * 200 + 37 * (100 + usual) + 3 * 500)
    reference = last_year(panel_of(sales, [*"aabb"], stores=[0, 1, 0, 1]), 12, mix=1, events=())
    assert reference[0, 41 + YEAR] == pytest.approx(share * 500, rel=1e-3)


def test_a_lonely_series_is_its_own_department():
    sales = random_panel(2, 120, n=1).sales
    np.testing.assert_allclose(last_year(panel_of(sales), 12, mix=0.5), last_year(panel_of(sales), 12, mix=0))
    seen_once = np.full((1, 60), np.nan)
    seen_once[0, 7] = 5.0
    np.testing.assert_allclose(last_year(panel_of(seen_once), 46)[0, YEAR:], 5.0)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_odd_series_stay_finite_and_positive(mix):
    sales = random_panel(4, 120, n=8).sales
    sales[0] = 0
    sales[1] *= -1
    sales[2, 20:40] = -1e6
    sales[3] = 1e-300
    sales[4] = 0
    sales[5] *= -1
    sales[6, 1:] = np.nan
    sales[7, ::2] *= -1
    depts = ["a", "a", "a", "a", "zero", "negative", "a", "a"]
    panel = panel_of(sales, depts)
    reference = last_year(panel, 12, mix)
    assert np.isfinite(reference[:, YEAR:]).all()
    assert (reference[:, YEAR:] > 0).all()
    level = np.nanmean(np.abs(sales), axis=1)
    assert (reference[:, YEAR:] >= 0.05 * level[:, None] - 1e-9).all(), "a week of returns is no unit to measure by"
    forecast = aligned_last_year(panel, 12, QUANTILES)
    assert np.isfinite(forecast).all()
    assert (np.diff(forecast, axis=1) >= 0).all()


@pytest.mark.parametrize("horizon", [0, -1, MAX_HORIZON + 1, 52])
def test_a_horizon_out_of_reach_names_both_numbers(horizon):
    for call in (last_year, lambda p, h: aligned_last_year(p, h, QUANTILES)):
        with pytest.raises(ValueError, match=rf"horizon is {horizon}; .* 1 \.\. {MAX_HORIZON} weeks"):
            call(random_panel(0, 110), horizon)
