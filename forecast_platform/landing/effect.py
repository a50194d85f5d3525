"""What a sales file does to the rows in force, found out before it goes in."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.history.versions import EVER, in_force
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.by_week import ByWeek
from forecast_platform.landing.ledger import INGESTED, WITHDRAWN, Entry, Ledger

KNOWN_WEEKS = 60  # that a file is judged by
AT_ONCE = 1 << 22  # rows in force that are looked at together
DAY = dt.timedelta(days=1)
LEAST_REMOVED = 2  # a single row may be removed without asking, even in the smallest shop

_ROWS = pa.schema(
    {
        "store": pa.string(),
        "dept": pa.string(),
        "week": pa.date32(),
        "sales": pa.float64(),
        "is_holiday": pa.bool_(),
        "line": pa.int64(),
    }
)


@dataclass(frozen=True)
class Removal:
    """Values that a file would remove from a week, of all its stores (`store` is "") or of one."""

    week: dt.date
    store: str
    removed: int
    of: int

    @property
    def share(self) -> float:
        return self.removed / self.of

    def rank(self) -> tuple[Any, ...]:
        """The largest share first."""
        return -self.share, self.store != "", -self.removed, self.week, self.store

    def __str__(self) -> str:
        where = f"store {self.store} in the week" if self.store else "the week"
        return f"{self.removed:,} of {self.of:,} rows of {where} {self.week} ({self.share:.0%})"


@dataclass(frozen=True)
class Effect:
    """Rows in force that come, get another value and go with a file; removals, largest share first."""

    appeared: int = 0
    changed: int = 0
    vanished: int = 0
    removals: tuple[Removal, ...] = ()

    @property
    def nothing(self) -> bool:
        return not (self.appeared or self.changed or self.vanished)

    def __add__(self, other: Effect) -> Effect:
        """Of other weeks."""
        removals = sorted((*self.removals, *other.removals), key=Removal.rank)
        return Effect(
            self.appeared + other.appeared,
            self.changed + other.changed,
            self.vanished + other.vanished,
            tuple(removals),
        )

    def too_much(self, most_removed: float) -> list[Removal]:
        """The removals that a person has to allow: more than that share of a week's values (or of a
        store's in a week) and at least LEAST_REMOVED, or a whole week."""
        return [
            r
            for r in self.removals
            if (r.removed >= LEAST_REMOVED and r.share > most_removed) or (not r.store and r.removed == r.of)
        ]


class Standing:
    """The sales in force while files go in one by one. The lake is opened at the first file that meets others."""

    def __init__(self, lake: Lake, ledger: Ledger) -> None:
        self._lake, self._ledger = lake, ledger
        self._con: duckdb.DuckDBPyConnection | None = None

    def close(self) -> None:
        if self._con is not None:
            self._con.close()
            self._con = None

    def known(self, first: dt.date, last: dt.date) -> Iterable[pa.Table]:
        """What is in force in the weeks first .. last and the KNOWN_WEEKS up to the last: (store, dept, week, sales,
        is_holiday), some weeks at a time, made anew for who asks."""
        return _Known(self, min(first, last - dt.timedelta(weeks=KNOWN_WEEKS - 1)), last)

    def effect(self, entry: Entry, rows: ByWeek) -> Effect:
        """What is in force with the file, against what is without it.

        Args:
            entry: its line in the ledger, with its place in the order.
        """
        effect = Effect()
        for some in self._spans(rows.weeks, rows.count):
            if self._meets(some[0], some[-1]):
                new = pa.concat_tables(rows.tables(some))
                effect += self._difference(some, functools.partial(self._insert, entry=entry, rows=new))
            else:
                effect += Effect(appeared=sum(map(rows.count, some)))
        return effect

    def effect_of_withdrawal(self, entry: Entry, weeks: Sequence[dt.date], now: dt.datetime) -> Effect:
        """What is in force of some weeks without a landing that counts, against what is with it."""

        def withdraw(con: duckdb.DuckDBPyConnection) -> None:
            con.execute(
                "UPDATE trial.landings SET status = $1, withdrawn_at = $2 WHERE source_key = $3 AND landed_at = $4",
                [WITHDRAWN, now, entry.key, entry.landed_at],
            )

        return sum((self._difference(some, withdraw) for some in self._spans(weeks)), Effect())

    def _difference(self, weeks: list[dt.date], change: Callable[[duckdb.DuckDBPyConnection], None]) -> Effect:
        """What a change of the tables does to rows in force in some weeks; it is undone."""
        con, first, last = self.connection(), weeks[0], weeks[-1]
        before = in_force(con, first, last, EVER)
        con.execute("BEGIN")
        try:
            change(con)
            after = in_force(con, first, last, EVER)
        finally:
            con.execute("ROLLBACK")
            con.unregister("_new")
        those = pa.array(weeks, pa.date32())
        return compare(con, *(table.filter(pc.is_in(table["week"], those)) for table in (before, after)))

    def _spans(
        self, weeks: Iterable[dt.date], more: Callable[[dt.date], int] = lambda week: 0
    ) -> Iterator[list[dt.date]]:
        """The weeks ascending, as many together as fit into memory, with so many `more` rows of each."""
        left = sorted(weeks)
        while left:
            until, counts = self._until(left[0]), np.cumsum([more(week) for week in left])
            together = max(sum(week <= until for week in left[: int((counts <= AT_ONCE).sum())]), 1)
            yield left[:together]
            left = left[together:]

    def _until(self, first: dt.date) -> dt.date:
        """The last day of as many weeks from this one on as fit into memory."""
        rows = sum(
            (e.stored or e.accepted) / max((e.last_week - e.first_week).days // 7 + 1, 1)
            for e in self._ledger.entries
            if e.kind == "sales" and e.status == INGESTED and e.first_week and e.last_week
            and e.first_week <= first + 6 * DAY and first <= e.last_week  # the week that begins there
        )  # fmt: skip
        weeks = max(int(AT_ONCE / max(rows, 1)), 1)
        return first + dt.timedelta(weeks=min(weeks, 1000)) - DAY

    def in_force(self, first: dt.date, last: dt.date) -> Iterator[pa.Table]:
        """Rows in force of the weeks first .. last, some weeks at a time."""
        while first <= last:
            until = min(self._until(first), last)
            if self._meets(first, until):
                yield in_force(self.connection(), first, until, EVER).select(_ROWS.names[:-1])
            first = until + DAY

    def add(self, entry: Entry, rows: ByWeek) -> None:
        """Take in a file that was recorded just now."""
        if self._con is None:
            return  # it is found in the lake later
        if len(rows) > AT_ONCE:
            self.close()
            return
        self._insert(self._con, entry, rows.table())
        self._con.unregister("_new")

    def _meets(self, first: dt.date, last: dt.date) -> bool:
        return any(
            e.kind == "sales" and e.status == INGESTED and e.first_week and e.last_week
            and e.first_week <= last and e.last_week >= first
            for e in self._ledger.entries
        )  # fmt: skip

    def connection(self) -> duckdb.DuckDBPyConnection:
        if self._con is None:
            con = self._con = self._lake.attach(duckdb.connect(), "raw_sales", "landings")
            # Rows that an interrupted try left in raw_sales have no line in the ledger, so they do not count.
            con.execute(
                """
                CREATE SCHEMA trial;
                CREATE TABLE trial.landings AS
                SELECT source_key, source_version, landed_at, kind, status, quarantined, arrived_at, withdrawn_at
                FROM landings;
                CREATE TABLE trial.had AS SELECT source_key, landed_at FROM landings;
                CREATE TABLE trial.added AS
                SELECT week, store, dept, sales, is_holiday, source_key, landed_at, line FROM raw_sales LIMIT 0;
                CREATE VIEW trial.raw_sales AS
                SELECT week, store, dept, sales, is_holiday, source_key, landed_at, line
                FROM main.raw_sales SEMI JOIN trial.had USING (source_key, landed_at)
                UNION ALL FROM trial.added;
                SET search_path = 'trial,main';
                """
            )
        return self._con

    def _insert(self, con: duckdb.DuckDBPyConnection, entry: Entry, rows: pa.Table) -> None:
        con.execute(
            "INSERT INTO trial.landings VALUES ($1, $2, $3, 'sales', $4, $5, $6, NULL)",
            [entry.key, entry.version, entry.landed_at, INGESTED, entry.quarantined, entry.arrived_at],
        )
        con.register("_new", rows.select(_ROWS.names))
        con.execute(
            "INSERT INTO trial.added SELECT week, store, dept, sales, is_holiday, $1, $2, line FROM _new",
            [entry.key, entry.landed_at],
        )


def compare(con: duckdb.DuckDBPyConnection, before: pa.Table, after: pa.Table) -> Effect:
    """What came, changed and went between two states of rows in force; worked out in a connection that is open, since
    to start DuckDB takes longer."""
    con.register("before", before)
    con.register("after", after)
    try:
        # By week, by store in it, and in total.
        found = con.execute(
            """
            WITH cell AS (
                SELECT coalesce(b.week, a.week) AS week, coalesce(b.store, a.store) AS store,
                       b.week IS NULL AS appeared, a.week IS NULL AS vanished,
                       (a.sales, a.is_holiday) IS DISTINCT FROM (b.sales, b.is_holiday) AS differs,
                       b.sales IS NOT NULL AS had, b.sales IS NOT NULL AND a.sales IS NULL AS removed
                FROM before AS b
                FULL JOIN after AS a ON a.week = b.week AND a.store = b.store AND a.dept = b.dept
            )
            SELECT week, store, count(*) FILTER (appeared), count(*) FILTER (vanished),
                   count(*) FILTER (differs AND NOT appeared AND NOT vanished),
                   count(*) FILTER (had), count(*) FILTER (removed)
            FROM cell GROUP BY GROUPING SETS ((week, store), (week), ())
            """
        ).fetchall()
    finally:
        con.unregister("before")
        con.unregister("after")
    ((appeared, vanished, changed),) = [row[2:5] for row in found if row[0] is None]
    removals = [Removal(w, store or "", gone, of) for w, store, _, _, _, of, gone in found if w and gone]
    return Effect(appeared, changed, vanished, tuple(sorted(removals, key=Removal.rank)))


@dataclass(frozen=True)
class _Known:
    standing: Standing
    first: dt.date
    last: dt.date

    def __iter__(self) -> Iterator[pa.Table]:
        return self.standing.in_force(self.first, self.last)
