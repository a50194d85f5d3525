"""The business week: a week is named by the date it ends on.

Every conversion between dates, partition keys, positions on the weekly grid and Dagster's day numbers lives
here. pandas' bare "W" means weeks ending on Sunday and is never used: a Friday retailer loses every row to it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEEK = dt.timedelta(days=7)
EARLIEST = dt.date(1980, 1, 1)  # no retailer's weekly files reach further back

Dates = NDArray[np.datetime64]


class WeekError(ValueError):
    """A date that does not end a business week, or a key that is no date."""


@dataclass(frozen=True)
class WeekCalendar:
    """The weekly grid of one retailer.

    Args:
        ends: weekday a week ends on, one of MON .. SUN.
        first_week: first date the grid may hold; rounded up to the next week end.
    """

    ends: str = "FRI"
    first_week: dt.date = EARLIEST

    def __post_init__(self) -> None:
        name = self.ends.strip().upper()[:3]
        if name not in WEEKDAYS:
            raise WeekError(f"week_ends is {self.ends!r}; use one of {', '.join(WEEKDAYS)}")
        object.__setattr__(self, "ends", name)
        object.__setattr__(self, "first_week", self.week_of(self.first_week))

    @property
    def weekday(self) -> int:
        """Weekday number of the week's last day, Monday = 0 (as datetime.date.weekday)."""
        return WEEKDAYS.index(self.ends)

    @property
    def weekday_name(self) -> str:
        return _NAMES[self.weekday]

    @property
    def day_offset(self) -> int:
        """Dagster's WeeklyPartitionsDefinition(day_offset=...): Sunday = 0."""
        return (self.weekday + 1) % 7

    def week_of(self, day: dt.date) -> dt.date:
        """The week end on or after `day`."""
        return day + dt.timedelta(days=(self.weekday - day.weekday()) % 7)

    def last_started(self, now: dt.datetime) -> dt.date:
        """The newest week whose end date has been reached at `now` (UTC): the newest partition key."""
        return self.week_of(now.date() - dt.timedelta(days=6))

    def parse(self, key: str) -> dt.date:
        """Week from its partition key.

        Raises:
            WeekError: the key is not an ISO date, or ends no week of this calendar.
        """
        try:
            day = dt.date.fromisoformat(key)
        except ValueError:
            raise WeekError(f"{key!r} is not a week; write its last day as YYYY-MM-DD") from None
        return self.require(day)

    def require(self, day: dt.date) -> dt.date:
        """`day` if it ends a week, else WeekError naming the weekday expected and the nearest week."""
        if day.weekday() != self.weekday:
            raise WeekError(
                f"{day} is a {_NAMES[day.weekday()]}, but weeks end on {self.weekday_name}; "
                f"the week holding it is {self.week_of(day)}"
            )
        return day

    def between(self, first: dt.date, last: dt.date) -> list[dt.date]:
        """All week ends from first to last, both included."""
        first, last = self.require(first), self.require(last)
        return [first + i * WEEK for i in range((last - first).days // 7 + 1)]

    def index(self, days: Any) -> NDArray[np.int64]:
        """Number of each week, counted from 2010 on whatever the first week is. Dates must be week ends (unchecked)."""
        return (np.asarray(days, dtype="datetime64[D]") - self._origin).astype(np.int64) // 7

    def dates(self, index: Any) -> Dates:
        """Inverse of `index`."""
        return self._origin + np.asarray(index, dtype=np.int64) * np.timedelta64(7, "D")

    @property
    def _origin(self) -> np.datetime64:
        return np.datetime64(self.week_of(dt.date(2010, 1, 1)), "D")

    def week_ends(self, days: Any) -> Dates:
        """The week end on or after each date: `week_of`, vectorised."""
        day = np.asarray(days, dtype="datetime64[D]")
        return np.asarray(day + ((self.weekday - (day.astype(np.int64) + 3) % 7) % 7).astype("timedelta64[D]"))

    def is_week_end(self, days: Any) -> NDArray[np.bool_]:
        """Which dates end a week, vectorised."""
        # 1970-01-01 was a Thursday (weekday 3).
        number = np.asarray(days, dtype="datetime64[D]").astype(np.int64)
        return np.asarray((number + 3) % 7 == self.weekday)


def key(week: dt.date) -> str:
    """Partition key of a week: its ISO date."""
    return week.isoformat()


def ahead(week: dt.date, horizon: int) -> list[dt.date]:
    """The `horizon` weeks that follow `week`."""
    return [week + h * WEEK for h in range(1, horizon + 1)]
