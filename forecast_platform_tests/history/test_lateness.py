"""A week is late by how the weeks before it came, and by nothing else."""

from __future__ import annotations

import datetime as dt

import pytest

from forecast_platform.history.lateness import Late, arrivals, lateness
from forecast_platform.words import PLAIN

pytestmark = pytest.mark.usefixtures("far_from_utc")
WEEK = dt.timedelta(days=7)
FRIDAY = dt.date(2025, 11, 7)


def at(week: dt.date, hours: float) -> dt.datetime:
    """So many hours after the week was over."""
    return dt.datetime.combine(week + dt.timedelta(days=1), dt.time(), dt.UTC) + dt.timedelta(hours=hours)


def weekly(hours: list[float]) -> dict[dt.date, dt.datetime]:
    """The last weeks up to FRIDAY, each so many hours after it was over."""
    return {(w := FRIDAY - i * WEEK): at(w, h) for i, h in enumerate(reversed(hours))}


def test_a_week_is_due_a_day_after_the_latest_usual_hour():
    came, following = weekly([30, 54, 30, 30]), FRIDAY + WEEK
    assert lateness(came, at(following, 77)) is None
    assert lateness(came, at(following, 79)) == Late(following, at(following, 78), 1, FRIDAY)


def test_more_weeks_are_missing_the_longer_nothing_comes():
    late = lateness(weekly([30, 30, 30]), at(FRIDAY + 3 * WEEK, 55))
    assert late is not None
    assert (late.week, late.missing) == (FRIDAY + WEEK, 3)
    assert "2025-11-14 and 2 after it" in late.text(PLAIN)
    assert "2025-11-07" in late.text(PLAIN)


def test_a_history_that_landed_at_once_says_nothing_about_the_usual_hour():
    came = {FRIDAY - i * WEEK: at(FRIDAY, 12) for i in range(20)}
    following = FRIDAY + WEEK
    assert lateness(came, at(following, 24 * 7 - 1)) is None, "one week came in its turn: the next has a week's time"
    assert lateness(came, at(following, 24 * 7)) is not None


def test_nobody_waits_for_an_old_data_set():
    assert lateness({FRIDAY - i * WEEK: at(FRIDAY, 24 * 4000) for i in range(50)}, at(FRIDAY, 24 * 5000)) is None
    assert lateness({}, at(FRIDAY, 1)) is None


def test_an_hour_of_long_ago_is_forgotten():
    came = weekly([160, *[30] * 8])
    assert lateness(came, at(FRIDAY + WEEK, 55)) is not None


@pytest.mark.parametrize("order", [1, -1])
def test_a_week_came_when_its_first_file_did(order):
    rows = [
        {"first_week": FRIDAY - 30 * WEEK, "last_week": FRIDAY - WEEK, "arrived_at": at(FRIDAY - WEEK, 30)},
        {"first_week": FRIDAY, "last_week": FRIDAY, "arrived_at": at(FRIDAY, 31)},
        {"first_week": FRIDAY - WEEK, "last_week": FRIDAY, "arrived_at": at(FRIDAY, 90)},
    ][::order]
    came = arrivals(rows)
    assert came[FRIDAY] == at(FRIDAY, 31)
    assert came[FRIDAY - WEEK] == came[FRIDAY - 5 * WEEK] == at(FRIDAY - WEEK, 30)
    assert len(came) == 17
    assert arrivals([]) == {}
