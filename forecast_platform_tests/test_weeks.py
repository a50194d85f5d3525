"""The business week, for every weekday a retailer may close its week on."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecast_platform import weeks
from forecast_platform.weeks import WEEK, WEEKDAYS, WeekCalendar, WeekError

# Weeks begin and end in UTC, wherever the machine stands.
pytestmark = pytest.mark.usefixtures("far_from_utc")
repeatable = hypothesis_settings(derandomize=True)

# Years around every awkward day: leap years and not, century years, years of 53 weeks.
days = st.dates(dt.date(1990, 1, 1), dt.date(2101, 12, 31))
ends = st.sampled_from(WEEKDAYS)
year_ends = st.builds(
    lambda year, offset: dt.date(year, 1, 1) + dt.timedelta(days=offset), st.integers(1999, 2101), st.integers(-8, 8)
)
leap_days = st.builds(
    lambda year, offset: dt.date(year, 2, 28) + dt.timedelta(days=offset), st.integers(1999, 2101), st.integers(-1, 3)
)
any_day = st.one_of(days, year_ends, leap_days)


@repeatable
@given(ends, any_day)
def test_week_of_is_the_one_week_end_from_the_day_to_six_days_later(end, day):
    calendar = WeekCalendar(end)
    week = calendar.week_of(day)
    assert week.weekday() == WEEKDAYS.index(end) == calendar.weekday
    assert day <= week < day + WEEK
    assert calendar.week_of(week) == week
    assert calendar.week_of(week - dt.timedelta(days=6)) == week
    assert calendar.week_of(week + dt.timedelta(days=1)) == week + WEEK


@repeatable
@given(ends, any_day)
def test_keys_round_trip(end, day):
    calendar = WeekCalendar(end)
    week = calendar.week_of(day)
    assert calendar.parse(weeks.key(week)) == week
    assert calendar.require(week) == week


@repeatable
@given(ends, any_day, any_day, st.integers(0, 120))
def test_grid_positions_round_trip(end, first, day, length):
    calendar = WeekCalendar(end, first_week=first)
    assert first <= calendar.first_week < first + WEEK
    start = calendar.week_of(day)
    grid = calendar.between(start, start + length * WEEK)
    assert len(grid) == length + 1
    assert set(np.diff(np.array(grid, "datetime64[D]")).astype(int)) <= {7}
    position = calendar.index(grid)
    assert position.dtype == np.int64
    assert (np.diff(position) == 1).all()
    assert calendar.dates(position).tolist() == grid
    # Counted alike whatever the first week is: training keeps its rhythm when earlier weeks land.
    assert calendar.index(grid).tolist() == WeekCalendar(end).index(grid).tolist()
    assert calendar.dates(0) == np.datetime64(calendar.week_of(dt.date(2010, 1, 1)))


@repeatable
@given(ends, any_day)
def test_between_is_empty_when_turned_round(end, day):
    calendar = WeekCalendar(end)
    week = calendar.week_of(day)
    assert calendar.between(week, week) == [week]
    assert calendar.between(week, week - WEEK) == []


@repeatable
@given(ends, any_day, st.times())
def test_last_started_is_the_newest_week_end_that_has_come(end, day, time):
    calendar = WeekCalendar(end)
    newest = calendar.last_started(dt.datetime.combine(day, time, dt.UTC))
    assert newest <= day < newest + WEEK
    assert newest.weekday() == calendar.weekday


@repeatable
@given(ends, st.lists(any_day, min_size=1, max_size=30))
def test_is_week_end_says_of_many_dates_what_weekday_says_of_one(end, some_days):
    found = WeekCalendar(end).is_week_end(np.array(some_days, "datetime64[D]"))
    assert found.tolist() == [day.weekday() == WEEKDAYS.index(end) for day in some_days]


def test_is_week_end_before_1970():
    day = dt.date(1969, 12, 26)
    assert WeekCalendar("FRI").is_week_end(day)
    assert not WeekCalendar("THU").is_week_end(day)


@repeatable
@given(ends, any_day)
def test_pandas_anchored_weeks_are_the_same_weeks(end, day):
    calendar = WeekCalendar(end)
    assert pd.Timestamp(day).to_period(f"W-{end}").end_time.date() == calendar.week_of(day)
    week = calendar.week_of(day)
    grid = pd.date_range(week, periods=60, freq=f"W-{end}")
    assert [t.date() for t in grid] == calendar.between(week, week + 59 * WEEK)


def test_pandas_bare_week_is_wrong_for_every_retailer_but_a_sunday_one():
    fridays = WeekCalendar("FRI").between(dt.date(2012, 1, 6), dt.date(2012, 12, 28))
    sales = pd.Series(1.0, index=pd.DatetimeIndex(fridays))
    assert sales.asfreq("W-FRI").notna().all()
    assert sales.asfreq("W").isna().all(), "every row is lost"
    assert [
        pd.Timestamp(2012, 1, 6).to_period("W").end_time.date() == WeekCalendar(end).week_of(dt.date(2012, 1, 6))
        for end in WEEKDAYS
    ] == [False] * 6 + [True]


@given(ends, any_day, st.integers(1, 120), st.times())
@hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
@example("FRI", dt.date(2010, 2, 5), 143, dt.time(0, 0))
@example("SUN", dt.date(2023, 12, 31), 1, dt.time(23, 59, 59))
def test_dagster_makes_the_same_keys_and_each_from_its_own_date_on(end, first, number, time):
    assume(first.year < 2090)
    calendar = WeekCalendar(end, first_week=first)
    partitions = dg.WeeklyPartitionsDefinition(
        start_date=weeks.key(calendar.first_week), day_offset=calendar.day_offset, end_offset=1
    )
    newest = calendar.first_week + number * WEEK
    expected = [weeks.key(week) for week in calendar.between(calendar.first_week, newest)]
    for moment in (dt.datetime.combine(newest, time, dt.UTC), dt.datetime.combine(newest, dt.time(), dt.UTC)):
        assert partitions.get_partition_keys(current_time=moment) == expected
        assert calendar.last_started(moment) == newest
    before = dt.datetime.combine(newest, dt.time(), dt.UTC) - dt.timedelta(seconds=1)
    assert partitions.get_partition_keys(current_time=before) == expected[:-1]


@pytest.mark.parametrize("end", WEEKDAYS)
def test_day_offset_is_dagsters_weekday(end):
    """Dagster counts from Sunday = 0."""
    sunday_based = {"SUN": 0, "MON": 1, "TUE": 2, "WED": 3, "THU": 4, "FRI": 5, "SAT": 6}
    assert WeekCalendar(end).day_offset == sunday_based[end]


def test_errors_say_what_to_write():
    calendar = WeekCalendar("FRI")
    with pytest.raises(WeekError, match=r"2024-01-03 is a Wednesday, but weeks end on Friday.* 2024-01-05"):
        calendar.parse("2024-01-03")
    for text in ("03/01/2024", "2024-02-30", "week 3", ""):
        with pytest.raises(WeekError, match="is not a week; write its last day as YYYY-MM-DD"):
            calendar.parse(text)
    with pytest.raises(WeekError, match="week_ends is 'Freitag'; use one of MON, TUE, WED, THU, FRI, SAT, SUN"):
        WeekCalendar("Freitag")
    with pytest.raises(WeekError, match="Sunday"):
        WeekCalendar("SUN").between(dt.date(2024, 1, 6), dt.date(2024, 1, 14))


@repeatable
@given(ends, any_day)
def test_the_error_names_the_week_that_holds_the_day(end, day):
    calendar = WeekCalendar(end)
    assume(day.weekday() != calendar.weekday)
    with pytest.raises(WeekError) as error:
        calendar.require(day)
    for part in (f"{day:%A}", calendar.weekday_name, str(calendar.week_of(day))):
        assert part in str(error.value)


@pytest.mark.parametrize("text", ["fri", " Friday ", "FRI", "friday"])
def test_weekdays_may_be_written_out(text):
    assert WeekCalendar(text) == WeekCalendar("FRI")
    assert WeekCalendar(text).weekday_name == "Friday"


@repeatable
@given(ends, any_day, st.integers(1, 60))
def test_ahead_are_the_weeks_that_follow(end, day, horizon):
    calendar = WeekCalendar(end)
    week = calendar.week_of(day)
    assert [week, *weeks.ahead(week, horizon)] == calendar.between(week, week + horizon * WEEK)
