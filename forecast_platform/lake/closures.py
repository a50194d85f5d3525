"""Closures that people enter: a department or a whole store is closed from a week on, with reason and author, and may
be opened again. A closed series gets a reason instead of a forecast, and is in no total.

Rows are only added. Of one closing (store, department, first week) the newest row counts, so reopening adds the row
that says where it ends.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.weeks import WEEK


class ClosureRefused(ValueError):
    """There is nothing to close or reopen, or reason or author are missing; the message says which."""


@dataclass(frozen=True)
class Closing:
    """A department closed from `from_week` to `to_week`, both included; dept None: the whole store; to_week None: for
    good."""

    store: str
    dept: str | None
    from_week: dt.date
    to_week: dt.date | None
    reason: str
    author: str

    def covers(self, week: dt.date) -> bool:
        return self.from_week <= week and (self.to_week is None or week <= self.to_week)


def add_closing(lake: Lake, closing: Closing, now: dt.datetime) -> int:
    """Close a series or a store. Returns how many known series that is.

    Args:
        now: when it was entered, timezone-aware.

    Raises:
        ClosureRefused: no such series is known, or reason or author are missing.
    """
    _check(closing.reason, closing.author)
    series = _known(lake, closing.store, closing.dept)
    _add(lake, closing, now)
    return series


def reopen(lake: Lake, store: str, dept: str | None, week: dt.date, reason: str, author: str, now: dt.datetime) -> int:
    """End the closings of a series or store: from `week` on it is forecast again. Returns how many there were.

    Raises:
        ClosureRefused: it is not closed at that week, or reason or author are missing.
    """
    _check(reason, author)
    with lake.connection("closures") as con:
        closed = closings(con)
    ended = [c for c in closed if (c.store, c.dept) == (store, dept) and c.covers(week)]
    if not ended:
        others = ", ".join(f"{_name(c.store, c.dept)} from {c.from_week}" for c in closed) or "none"
        raise ClosureRefused(f"{_name(store, dept)} is not closed in the week of {week}; closed are: {others}")
    for closing in ended:
        _add(lake, Closing(store, dept, closing.from_week, week - WEEK, reason, author), now)
    return len(ended)


def closings(con: duckdb.DuckDBPyConnection, known_before: dt.datetime | None = None) -> list[Closing]:
    """The closings in force, by store, department and first week.

    Args:
        con: connection the lake is attached to.
        known_before: only what had been entered before this moment; None: all.
    """
    rows = con.execute(
        """
        SELECT store, dept, from_week, arg_max({until: to_week, reason: reason, author: author}, made_at) AS newest
        FROM closures WHERE made_at < coalesce($known_before, TIMESTAMPTZ '9999-01-01')
        GROUP BY store, dept, from_week ORDER BY store, dept NULLS FIRST, from_week
        """,
        {"known_before": known_before},
    ).fetchall()
    found = [Closing(s, d, since, row["until"], row["reason"], row["author"]) for s, d, since, row in rows]
    return [c for c in found if c.to_week is None or c.to_week >= c.from_week]


def _add(lake: Lake, closing: Closing, now: dt.datetime) -> None:
    row = {**vars(closing), "reason": closing.reason.strip(), "author": closing.author.strip(), "made_at": now}
    held = lake.read("closures", any_of("made_at", [now.isoformat()])).to_pylist()
    same = [r for r in held if all(r[k] == row[k] for k in ("store", "dept", "from_week"))]
    rows = pa.Table.from_pylist([*(r for r in held if r not in same), row], schema=lake.specs["closures"].schema)
    lake.replace("closures", any_of("made_at", [now.isoformat()]), rows)


def _check(reason: str, author: str) -> None:
    for name, text in (("reason", reason), ("author", author)):
        if not text.strip():
            raise ClosureRefused(
                f"a closure needs {'an' if name == 'author' else 'a'} {name}, for whoever reads it later"
            )


def _known(lake: Lake, store: str, dept: str | None) -> int:
    rows = lake.query("SELECT DISTINCT store, dept FROM cleaned_series").to_pylist()
    of_store = [row["dept"] for row in rows if row["store"] == store]
    if not of_store:
        raise ClosureRefused(f"no store {store} is known; there are {_some(row['store'] for row in rows)}")
    if dept is not None and dept not in of_store:
        raise ClosureRefused(f"store {store} has no department {dept}; there are {_some(of_store)}")
    return len(of_store) if dept is None else 1


def _some(names: Iterable[str], most: int = 12) -> str:
    found = sorted(set(names))
    return (", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")) or "none"


def _name(store: str, dept: str | None) -> str:
    return f"store {store}" + ("" if dept is None else f", department {dept}")
