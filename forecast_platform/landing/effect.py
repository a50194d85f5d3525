"""What a sales file does to the rows in force, found out before it goes in."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.history.versions import EVER, in_force
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.ledger import INGESTED, Entry, Ledger

KNOWN_WEEKS = 60  # that a file is judged by
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

    @property
    def nothing(self) -> pa.Table:
        """Of an empty lake."""
        return pa.table({name: pa.array([], _ROWS.field(name).type) for name in _ROWS.names[:-1]})

    def known(self, first: dt.date, last: dt.date) -> pa.Table:
        """What is in force in the weeks first .. last and the KNOWN_WEEKS up to the last."""
        since = min(first, last - dt.timedelta(weeks=KNOWN_WEEKS - 1))
        if not self._meets(since, last):
            return self.nothing
        return in_force(self._open(), since, last, EVER).select(_ROWS.names[:-1])

    def effect(self, entry: Entry, rows: pa.Table, known: pa.Table) -> Effect:
        """What is in force with the file, against `known`.

        Args:
            entry: its line in the ledger, with its place in the order.
            rows: its accepted rows.
        """
        assert entry.first_week is not None
        assert entry.last_week is not None
        if not len(known) or not self._meets(entry.first_week, entry.last_week):
            return Effect(appeared=len(rows))
        con = self._open()
        con.execute("BEGIN")
        try:
            self._insert(con, entry, rows)
            after = in_force(con, entry.first_week, entry.last_week, EVER)
        finally:
            con.execute("ROLLBACK")
            con.unregister("_new")
        weeks = rows["week"].combine_chunks().unique()
        return compare(*(table.filter(pc.is_in(table["week"], weeks)) for table in (known, after)))

    def add(self, entry: Entry, rows: pa.Table) -> None:
        """Take in a file that was recorded just now."""
        if self._con is not None:  # else it is found in the lake later
            self._insert(self._con, entry, rows)
            self._con.unregister("_new")

    def _meets(self, first: dt.date, last: dt.date) -> bool:
        return any(
            e.kind == "sales" and e.status == INGESTED and e.first_week and e.last_week
            and e.first_week <= last and e.last_week >= first
            for e in self._ledger.entries
        )  # fmt: skip

    def _open(self) -> duckdb.DuckDBPyConnection:
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


def compare(before: pa.Table, after: pa.Table) -> Effect:
    """What came, changed and went between two states of rows in force."""
    con = duckdb.connect()
    try:
        con.register("before", before)
        con.register("after", after)
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
        con.close()
    ((appeared, vanished, changed),) = [row[2:5] for row in found if row[0] is None]
    removals = [Removal(w, store or "", gone, of) for w, store, _, _, _, of, gone in found if w and gone]
    order = sorted(removals, key=lambda r: (-r.share, r.store != "", -r.removed, r.week, r.store))
    return Effect(appeared, changed, vanished, tuple(order))


def touched(rows: pa.Table) -> list[dt.date]:
    """The weeks of a file's accepted rows, ascending."""
    return sorted(pc.unique(rows["week"]).to_pylist()) if "week" in rows.column_names else []
