"""When a week is late: its sales should have landed by now, going by how the weeks before it came.

One rule, for the dashboard and for what is sent: the next week is due GRACE after the latest hour at which any of the
last WEEKS_LOOKED_AT weeks landed, counted from the end of its week. Only weeks that came in their turn count: those
that landed before the following week had ended. A history that lands in one go says nothing about the usual hour. With
fewer than ENOUGH such weeks, a week has until the end of the next one. Where none ever came in its turn (an old data
set, say), nothing is late.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forecast_platform.weeks import WEEK

if TYPE_CHECKING:
    from forecast_platform.words import Words

GRACE = dt.timedelta(days=1)
WEEKS_LOOKED_AT = 8
ENOUGH = 3

# Each row: first_week, last_week, arrived_at of a sales file with accepted rows. DuckDB and Athena read it alike.
ARRIVALS = """
    SELECT first_week, last_week, arrived_at FROM landings
    WHERE kind = 'sales' AND accepted > 0 AND last_week IS NOT NULL AND arrived_at IS NOT NULL
"""


@dataclass(frozen=True)
class Late:
    """The week that is waited for.

    Attributes:
        week: the oldest week that is due and has not come.
        due: when it should have been here.
        missing: how many weeks are due and have not come.
        newest: the newest week that has come.
    """

    week: dt.date
    due: dt.datetime
    missing: int
    newest: dt.date

    def text(self, words: Words) -> str:
        """One sentence for people."""
        values = {"week": words.week(self.week), "due": words.moment(self.due), "newest": words.week(self.newest)}
        return words.ngettext(
            "no sales of the week of %(week)s have landed; they were due by %(due)s, the newest week here is "
            "%(newest)s",
            "no sales of the week of %(week)s and %(after)s after it have landed; they were due by %(due)s, the newest "
            "week here is %(newest)s",
            self.missing,
            after=words.number(self.missing - 1),
            **values,
        )


def arrivals(landings: Iterable[Mapping[str, Any]]) -> dict[dt.date, dt.datetime]:
    """When each recent week first landed, from the rows of ARRIVALS.

    Args:
        landings: rows with first_week, last_week (dates of one weekly grid) and arrived_at (timezone-aware).

    Returns:
        week -> first arrival, for the newest week and the 2 * WEEKS_LOOKED_AT before it.
    """
    rows = list(landings)
    if not rows:
        return {}
    newest: dt.date = max(row["last_week"] for row in rows)
    found: dict[dt.date, dt.datetime] = {}
    for back in range(2 * WEEKS_LOOKED_AT + 1):
        week = newest - back * WEEK
        came = [row["arrived_at"] for row in rows if row["first_week"] <= week <= row["last_week"]]
        if came:
            found[week] = min(came)
    return found


def lateness(came: Mapping[dt.date, dt.datetime], now: dt.datetime) -> Late | None:
    """The week that is late at `now`, or None.

    Args:
        came: week -> when its sales first landed, timezone-aware; see `arrivals`.
        now: timezone-aware.
    """
    delays = [max(at - _end(week), dt.timedelta(0)) for week, at in sorted(came.items()) if at - _end(week) < WEEK]
    if not delays:
        return None
    usual = max(delays[-WEEKS_LOOKED_AT:]) + GRACE if len(delays) >= ENOUGH else WEEK
    newest = max(came)
    first = newest + WEEK
    due = _end(first) + usual
    if now < due:
        return None
    return Late(first, due, 1 + (now - due) // WEEK, newest)


def _end(week: dt.date) -> dt.datetime:
    """The midnight at which a week is over."""
    return dt.datetime.combine(week + dt.timedelta(days=1), dt.time(), dt.UTC)
