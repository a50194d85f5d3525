"""What a stream remembers, in one DuckDB file: how far each partition was read, and what that came to.

Sums of a week are those of the messages below the offsets, always: both are written in one transaction. The sums are
differences, one a store, department and week for each transaction, that are merged when there are more of them than
merged ones; so a transaction costs what is in it, whatever is kept beside it. All of it lies on disk: memory holds what
one query needs, and DuckDB spills what is more.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

SPARE = 1_000_000  # differences that are kept in any case


class StreamError(RuntimeError):
    """A stream that cannot go on; the message says why, and what to do. What was taken in before stands."""


@dataclass(frozen=True)
class Week:
    """A week of which messages came.

    Attributes:
        changed: messages of it came that are in no file.
        landed_at: when its last file was written; None: not yet.
    """

    week: dt.date
    changed: bool
    landed_at: dt.datetime | None


class StreamState:
    """The state of one topic. One process at a time has it open.

    Args:
        path: the file, made when it is missing.
        memory_gb: what a query may take.

    Attributes:
        first_week: the first week that the stream answers for; None: nothing was begun yet.
        positions: partition -> the offset of its first message that is not counted.
        weeks: those kept, ascending.
        gone: weeks that were landed and are not kept any more.
        refused: messages that were refused and are not in the lake's quarantine yet.

    Raises:
        StreamError: another process has it open.
    """

    def __init__(self, path: Path, memory_gb: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._con = duckdb.connect(str(path), config={"threads": 1, "memory_limit": f"{memory_gb}GB"})
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise StreamError(f"{path} can't be opened: {error}") from None
            raise StreamError(
                "another forecast stream reads this topic for this home; one is enough, since it reads all partitions"
            ) from None
        self._con.execute(
            """
            CREATE TABLE IF NOT EXISTS about (first_week DATE, reading VARCHAR);
            CREATE TABLE IF NOT EXISTS positions (partition VARCHAR PRIMARY KEY, next BIGINT NOT NULL);
            CREATE TABLE IF NOT EXISTS weeks (
                week DATE PRIMARY KEY, changed BOOLEAN NOT NULL, landed_at TIMESTAMP, gone BOOLEAN NOT NULL
            );
            CREATE TABLE IF NOT EXISTS sums (week DATE, store VARCHAR, dept VARCHAR, sales DECIMAL(38, 6));
            CREATE TABLE IF NOT EXISTS poison (
                moment TIMESTAMP, partition VARCHAR, line BIGINT, rule VARCHAR, field VARCHAR, value VARCHAR,
                message VARCHAR, record VARCHAR
            );
            """
        )
        self._merged = 0
        self._read()

    def close(self) -> None:
        self._con.close()

    def _read(self) -> None:
        about = self._con.execute("FROM about").fetchone()
        self.first_week: dt.date | None = about[0] if about else None
        self._reading: str = about[1] if about else ""
        self.positions: dict[str, int] = dict(self._con.execute("FROM positions ORDER BY ALL").fetchall())
        rows = self._con.execute("SELECT week, changed, landed_at, gone FROM weeks ORDER BY week").fetchall()
        self.weeks = [Week(week, changed, at and at.replace(tzinfo=dt.UTC)) for week, changed, at, gone in rows
                      if not gone]  # fmt: skip
        (self.refused,) = self._con.execute("SELECT count(*)::BIGINT FROM poison").fetchall()[0]
        self.gone = frozenset(week for week, *_, gone in rows if gone)

    def begin(self, first_week: dt.date, reading: str) -> None:
        """Start from nothing.

        Args:
            reading: text that decides which week and which series a message belongs to.
        """
        with self._transaction():
            for table in ("about", "positions", "weeks", "sums", "poison"):
                self._con.execute(f"DELETE FROM {table}")  # noqa: S608 (our own names)
            self._con.execute("INSERT INTO about VALUES ($1, $2)", [first_week, reading])

    def check(self, reading: str) -> None:
        """Raises StreamError where the sums kept are of other settings."""
        if reading != self._reading:
            raise StreamError(
                f"the sums that the stream keeps are by the settings {self._reading}, and now these are {reading}; set "
                "them back, or begin anew with --restart --first-week WEEK"
            )

    def commit(self, rows: pa.Table, poison: pa.Table, positions: Mapping[str, int], now: dt.datetime) -> None:
        """Take in what some messages came to, together with how far that is.

        Args:
            rows: ROWS, any number of a store, department and week.
            poison: columns partition, line (the offset), rule, field, value, message, record.
            positions: of the partitions that were read, the offset that comes next.
        """
        with self._transaction():
            if len(rows):
                self._con.register("_rows", rows)
                self._con.execute(
                    "INSERT INTO sums SELECT week, store, dept, sum(sales) FROM _rows GROUP BY week, store, dept"
                )
                self._con.execute(
                    """
                    INSERT INTO weeks SELECT DISTINCT week, true, NULL::TIMESTAMP, false FROM _rows
                    ON CONFLICT (week) DO UPDATE SET changed = true
                    """
                )
                self._con.unregister("_rows")
            if len(poison):
                self._con.register("_poison", poison)
                self._con.execute(
                    """
                    INSERT INTO poison
                    SELECT $1, partition, line, rule, field, value, message, record FROM _poison
                    """,
                    [_plain(now)],
                )
                self._con.unregister("_poison")
            self._con.executemany(
                "INSERT INTO positions VALUES ($1, $2) ON CONFLICT (partition) DO UPDATE SET next = excluded.next",
                list(positions.items()),
            )
            self._merge()

    def _merge(self) -> None:
        (count,) = self._con.execute("SELECT count(*) FROM sums").fetchall()[0]
        if count <= 2 * self._merged + SPARE:
            return
        self._con.execute(
            "CREATE OR REPLACE TABLE sums AS SELECT week, store, dept, sum(sales) AS sales FROM sums "
            "GROUP BY week, store, dept"
        )
        (self._merged,) = self._con.execute("SELECT count(*) FROM sums").fetchall()[0]

    def week(self, week: dt.date) -> pa.Table:
        """Sums (store, dept, sales) of a week, sorted."""
        return self._con.sql(
            "SELECT store, dept, sum(sales) AS sales FROM sums WHERE week = $1 GROUP BY ALL ORDER BY store, dept",
            params=[week],
        ).to_arrow_table()

    def landed(self, week: dt.date, at: dt.datetime) -> None:
        """Note that the week's file holds all that is known of it."""
        with self._transaction():
            self._con.execute("UPDATE weeks SET changed = false, landed_at = $2 WHERE week = $1", [week, _plain(at)])

    def forget(self, before: dt.date) -> None:
        """Keep no sums of landed weeks before that day; they are remembered as gone."""
        old = [w.week for w in self.weeks if w.week < before and w.landed_at and not w.changed]
        if old:
            with self._transaction():
                self._con.execute("UPDATE weeks SET gone = true WHERE week IN (SELECT unnest($1::DATE[]))", [old])
                self._con.execute("DELETE FROM sums WHERE week IN (SELECT unnest($1::DATE[]))", [old])

    def poison(self) -> pa.Table:
        """Messages that were refused and are not in the lake's quarantine yet, with the `moment` of their commit."""
        return self._con.sql("FROM poison ORDER BY moment, partition, line").to_arrow_table()

    def quarantined(self, until: dt.datetime) -> None:
        """Note that what was refused up to that moment is in the quarantine."""
        with self._transaction():
            self._con.execute("DELETE FROM poison WHERE moment <= $1", [until.replace(tzinfo=None)])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._con.execute("BEGIN")
        try:
            yield
            self._con.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._con.execute("ROLLBACK")
            self._read()
            raise
        self._read()


def _plain(moment: dt.datetime) -> dt.datetime:
    """In UTC, without saying so, as DuckDB keeps it."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None)
