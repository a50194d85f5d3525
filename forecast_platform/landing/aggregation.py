"""Days and transactions added up to weeks, some rows at a time. Only weeks that are whole in a file are added up."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.landing.kinds import SALES_SCHEMA
from forecast_platform.weeks import WeekCalendar

_KEYS = ["store", "dept", "week"]
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
        self._sums: list[pa.Table] = []
        self._days: list[pa.Table] = []
        self._edges: list[pa.Table] = []  # rows of the first and the last week of each part, which may have to wait

    def add(self, rows: pa.Table) -> pa.Table:
        """Take rows of SALES_SCHEMA whose `week` is a day. Returns none of them."""
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
            self._sums.append(summed)
            self._days.append(rows.group_by(["store", "day"], use_threads=False).aggregate([]))
            first, last = pc.min_max(rows["week"]).values()
            edge = pc.or_(pc.equal(rows["week"], first), pc.equal(rows["week"], last))
            self._edges.append(rows.filter(edge).select(["line", "week", "day"]))
        return SALES_SCHEMA.empty_table()

    def whole(self) -> tuple[pa.Table, int, Waiting, list[str]]:
        """Rows of the whole weeks, how many rows of the file they are made of, the rows that wait, and notes."""
        if not self._sums:
            return SALES_SCHEMA.empty_table(), 0, [], []
        parts = pa.concat_tables(self._sums)
        total = parts.group_by(_KEYS, use_threads=False).aggregate(
            [
                ("sales_sum", "sum", pc.ScalarAggregateOptions(min_count=1)),
                ("is_holiday_max", "max"),
                ("line_min", "min"),
                ("line_count", "sum"),
            ]
        )
        by_store = pa.concat_tables(self._days).group_by(["store", "day"], use_threads=False).aggregate([])
        days = np.unique(by_store["day"].to_numpy().astype("datetime64[D]"))
        incomplete = self._incomplete(days)
        waits = pc.is_in(total["week"], pa.array(list(incomplete), pa.date32()))
        kept = total.filter(pc.invert(waits))
        accepted = pa.table(
            [kept["line_min_min"], *(kept[k] for k in _KEYS), kept["sales_sum_sum"], kept["is_holiday_max_max"]],
            SALES_SCHEMA,
        ).sort_by([("line", "ascending"), ("week", "ascending")])
        return (
            accepted.combine_chunks(),
            pc.sum(kept["line_count_sum"]).as_py() or 0,
            self._waiting(incomplete),
            self._notes(days, by_store, incomplete),
        )

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
        rows = pa.concat_tables(self._edges)
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
