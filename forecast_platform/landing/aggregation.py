"""Days and transactions added up to weeks, some rows at a time. Only weeks that are whole in a file are added up."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.landing.by_week import ByWeek
from forecast_platform.landing.kinds import SALES_SCHEMA
from forecast_platform.weeks import WeekCalendar

_KEYS = ["store", "dept", "week"]
_SUMMED = ["line_min", *_KEYS, "sales_sum", "is_holiday_max", "line_count"]
_LONG = 3  # weeks of a file that show on which days its shops are open
_SHORT_WEEK = 6  # days that fill a week in a file of fewer weeks

# Rows of days by their lines: (line, column, message).
Waiting = list[tuple[int, str, str]]


class Weeks:
    """The weeks of one file.

    A week counts as whole when the file reaches from its first open day to its last one. A weekday is
    open if it occurs anywhere in a file of at least three weeks; in a shorter file a week needs six days. So the first
    and the last week of a file wait unless they are whole: their sums would be too small, and nobody would be told.

    Args:
        newest_week: the last week that is over.
    """

    def __init__(self, calendar: WeekCalendar, newest_week: dt.date) -> None:
        self._calendar, self._newest = calendar, newest_week
        self._sums = ByWeek(SALES_SCHEMA.append(pa.field("count", pa.int64())))
        self._days: list[pa.Table] = []
        self._edges: list[pa.Table] = []  # rows of the first and the last week so far, which may have to wait

    def add(self, rows: pa.Table) -> None:
        """Take rows of SALES_SCHEMA whose `week` is a day."""
        if len(rows):
            day = rows["week"].combine_chunks()
            week = pa.array(self._calendar.week_ends(day.to_numpy(zero_copy_only=False)))
            rows = rows.append_column("day", day).set_column(3, "week", pc.cast(week, pa.date32()))
            summed = rows.group_by(_KEYS, use_threads=False).aggregate(
                [
                    ("sales", "sum", pc.ScalarAggregateOptions(min_count=1)),
                    ("is_holiday", "max"),
                    ("line", "min"),
                    ("line", "count"),
                ]
            )
            self._sums.add(pa.table([summed[name] for name in _SUMMED], self._sums.schema))
            days = pa.concat_tables([*self._days, rows.select(["store", "day"])])
            self._days = [days.group_by(["store", "day"], use_threads=False).aggregate([])]
            edges = pa.concat_tables([*self._edges, rows.select(["line", "week", "day"])])
            first, last = pc.min_max(edges["week"]).values()
            self._edges = [edges.filter(pc.or_(pc.equal(edges["week"], first), pc.equal(edges["week"], last)))]

    def whole(self, weeks: ByWeek) -> tuple[int, Waiting, list[str]]:
        """Add up the whole weeks.

        Args:
            weeks: takes their rows.

        Returns:
            How many rows of the file they are made of, the rows that wait, and notes.
        """
        if not self._days:
            return 0, [], []
        (by_store,) = self._days
        days = np.unique(by_store["day"].to_numpy().astype("datetime64[D]"))
        incomplete = self._incomplete(days)
        made_of = 0
        for week in self._sums.weeks:
            if week in incomplete:
                continue
            total = (
                self._sums.of(week)
                .group_by(_KEYS, use_threads=False)
                .aggregate(
                    [
                        ("sales", "sum", pc.ScalarAggregateOptions(min_count=1)),
                        ("is_holiday", "max"),
                        ("line", "min"),
                        ("count", "sum"),
                    ]
                )
            )
            made_of += pc.sum(total["count_sum"]).as_py()
            weeks.add(pa.table([total[name] for name in _SUMMED[:-1]], SALES_SCHEMA).sort_by("line"))
        return made_of, self._waiting(incomplete), self._notes(days, by_store, incomplete)

    def _incomplete(self, days: np.ndarray) -> dict[dt.date, str]:
        """The weeks that wait, each with the reason."""
        weeks = self._calendar.week_ends(days)
        if (weeks == days).all():
            return {}  # rows of weeks, split by something else than days
        found, number = np.unique(weeks, return_counts=True)
        reasons = {}
        if len(found) < _LONG:
            for week, count in zip(found.tolist(), number.tolist(), strict=True):
                if count < _SHORT_WEEK:
                    reasons[week] = f"the file holds {count} of its days"
            return reasons
        opened = np.unique((days.astype(np.int64) + 3) % 7)  # Monday = 0
        for week, edge, late in ((found[0], days[0], False), (found[-1], days[-1], True)):
            all_days = week - np.arange(6, -1, -1)
            expected = all_days[np.isin((all_days.astype(np.int64) + 3) % 7, opened)]
            if late and edge < expected[-1]:
                reasons[week.item()] = f"the file ends on {edge}"
            if not late and edge > expected[0]:
                reasons[week.item()] = f"the file begins on {edge}"
        return reasons

    def _waiting(self, incomplete: dict[dt.date, str]) -> Waiting:
        if not incomplete:
            return []
        (rows,) = self._edges
        rows = rows.filter(pc.is_in(rows["week"], pa.array(list(incomplete), pa.date32())))
        return [(row["line"], "date", f"{row['day']} in the week ending {row['week']}") for row in rows.to_pylist()]

    def _notes(self, days: np.ndarray, by_store: pa.Table, incomplete: dict[dt.date, str]) -> list[str]:
        notes = [
            f"the week ending {week} is not whole, {why}: its rows wait; land them again with the whole week"
            for week, why in sorted(incomplete.items())
        ]
        if self._calendar.is_week_end(days).all():
            notes.append("all dates end weeks, so rows are taken for parts of weeks, not of days")
            return notes
        # An open weekday of which no store has a row.
        opened = np.unique((days.astype(np.int64) + 3) % 7)
        every = np.arange(days[0], days[-1] + 1)
        absent = np.setdiff1d(every[np.isin((every.astype(np.int64) + 3) % 7, opened)], days)
        if len(absent):
            some = ", ".join(map(str, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            notes.append(f"no store has a row of {some}: closed, or days that are missing from their weeks' sums")
        # A store that stops in the middle of its last week has the sum of a few days there.
        last = by_store.group_by("store", use_threads=False).aggregate([("day", "max"), ("day", "count")])
        end = last["day_max"].to_numpy().astype("datetime64[D]")
        weeks = self._calendar.week_ends(end)
        stopped = (end < days[-1]) & (weeks < self._calendar.week_ends(days)[-1]) & (end < weeks - 1)
        stopped &= last["day_count"].to_numpy() > 7 * _LONG
        if stopped.any():
            names = last["store"].filter(pa.array(stopped)).to_pylist()
            some = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            notes.append(f"stores {some} have no rows to the end of their last week: closed, or rows that are missing")
        return notes
