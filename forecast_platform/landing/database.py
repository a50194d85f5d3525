"""Rows of somebody's database as landed files: `forecast import --from`, and the schedule for it.

The answer to a query becomes a Parquet file in the landing place, and goes on like every other: the same dialect,
judgement and ledger. Sales are asked for by week: after the first time only the newest weeks, some that are known among
them, because shops restate. A week that the database says as it did last time lands nothing. What it said last time is
known from `raw_sales`: the rows of the last file of the same name that holds the week; and from `quarantine`: its rows
that were refused. So a file that a person landed over it stays in force until the database itself says something else.

Weeks are taken when they are over: of the one under way only a part has been sold.
"""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecast_platform.databases import DatabaseError, batches, connected, database_name, without_password
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.by_week import ByWeek
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.effect import compare
from forecast_platform.landing.judgement import EXPECTED
from forecast_platform.landing.kinds import SALES_SCHEMA, FileRefused
from forecast_platform.landing.ledger import INGESTED, WITHDRAWN, Entry, Ledger
from forecast_platform.landing.place import Landing, LandingObject
from forecast_platform.landing.reading import canonical, missing_columns
from forecast_platform.landing.rules import parse_sales
from forecast_platform.weeks import WEEK, WeekCalendar

_NEEDED = {  # columns without which a kind cannot be told from others; stores and departments may be settings
    "sales": ("store", "date", "weekly_sales"), "stores": ("store",), "departments": ("dept",),
    "features": ("store", "date"), "calendar": ("name", "date"),
}  # fmt: skip
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Ask:
    """What is asked of a database.

    Attributes:
        url: see databases.py.
        query: one SELECT, which gives the columns of the kind.
        name: what the files are called by: sales/NAME/2025-01-31.parquet.
        kind: one of KINDS. Only sales are asked for by week; others are taken whole each time.
        weeks: known weeks that are asked for again.
        seconds: after which the query is stopped.
        everything: all weeks are asked for and landed, whatever is known.
    """

    url: str
    query: str
    name: str
    kind: str = "sales"
    weeks: int = 8
    seconds: float = 600
    everything: bool = False


def asked(url: str, query: str, name: str, kind: str, weeks: int, seconds: float, everything: bool, home: Path) -> Ask:
    """An Ask, checked.

    Args:
        query: SQL, or NAME.sql: a file of it, in the working directory or the home.
        name: empty: as the database is called.

    Raises:
        DatabaseError: there is no such file, or the name is none for a file.
    """
    if re.fullmatch(r"\S+\.sql", query):
        path = next((path for path in (Path(query), home / query) if path.is_file()), None)
        if path is None:
            raise DatabaseError(f"there is no file {query} with the query, neither here nor in {home}")
        query = path.read_text()
    name = name or re.sub(r"[^\w.-]+", "-", database_name(url)).strip("._-") or "database"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise DatabaseError(f"{name!r} is no name for files; use letters, digits, - and _, such as shop")
    return Ask(url, query, name, kind, weeks, seconds, everything)


@dataclass(frozen=True)
class Taken:
    """What came of it.

    Attributes:
        landed: the file; None where the database says what it said before.
        rows: of the answer. weeks: those landed.
        since: first week asked for; None: from the first there is.
        lost: weeks that are known from the database, and of which it has no row any more. They stay in force.
    """

    landed: LandingObject | None
    rows: int
    weeks: tuple[dt.date, ...] = ()
    since: dt.date | None = None
    lost: tuple[dt.date, ...] = ()

    def __str__(self) -> str:
        asked = f"asked from the week of {self.since} on" if self.since else "asked for everything"
        if self.landed is None:
            text = f"{asked}: {self.rows:,} rows, all as they were; nothing to land"
        else:
            span = f", weeks {self.weeks[0]} .. {self.weeks[-1]} ({len(self.weeks)} of them)" if self.weeks else ""
            text = f"{asked}: {self.rows:,} rows; landed {self.landed.key} ({self.landed.size:,} bytes{span})"
        if self.lost:
            text += (
                f"; the database has no row any more of {', '.join(map(str, self.lost))}, which stay in force: "
                "withdraw their file if they are to go (forecast landing list)"
            )
        return text


def take(ask: Ask, dialect: Dialect, calendar: WeekCalendar, lake: Lake, landing: Landing, now: dt.datetime) -> Taken:
    """Ask a database, and land what is new. Nothing is landed unless the whole answer has come.

    Args:
        now: timezone-aware; weeks that are over then, where the shops are, are taken.

    Raises:
        DatabaseError: it cannot be reached or answered, or the answer lacks columns; nothing was landed.
        LandingError: the file could not be written.
    """
    ledger, by_week = Ledger.of(lake), ask.kind == "sales"
    before = [e for e in ledger.entries if _is_of(e, ask.name)] if by_week and not ask.everything else []
    newest = max((e.last_week for e in before if e.last_week), default=None)
    since = newest - (ask.weeks - 1) * WEEK if newest else None
    with tempfile.TemporaryDirectory(prefix="forecast-import-") as folder:
        answer = Path(folder) / "answer.parquet"
        rows, date = _fetch(ask, dialect, calendar, since, now, answer)
        if not rows:
            return Taken(None, 0, (), since, tuple(sorted(_said(lake, before, since))) if since else ())
        if not by_week:
            key, seen = f"{ask.kind}/{ask.name}.parquet", ledger.newest
            landed = landing.put(key, answer)
            same = key in seen and seen[key].version == landed.version
            return Taken(None if same else landed, rows)
        weeks = sorted(_weeks_of(answer, date, calendar))
        news, lost = weeks, tuple[dt.date, ...]()
        if since is not None:
            said = _said(lake, before, since)
            news = _news(answer, date, weeks, said, _refused(lake, before), dialect, calendar, now)
            lost = tuple(sorted(week for week in said if week not in weeks))
        if not news:
            return Taken(None, rows, (), since, lost)
        # Days are judged by the weeks beside them: of a single week it cannot be told on which days shops are open.
        if len(news) < len(weeks) and dialect.aggregate == "sum":
            news = weeks
        if len(news) < len(weeks):
            answer = _only(answer, date, set(news), calendar)
        span = str(news[0]) if len(news) == 1 else f"{news[0]}_{news[-1]}"
        return Taken(landing.put(f"sales/{ask.name}/{span}.parquet", answer), rows, tuple(news), since, lost)


# --- the answer


def _fetch(
    ask: Ask, dialect: Dialect, calendar: WeekCalendar, since: dt.date | None, now: dt.datetime, path: Path
) -> tuple[int, str]:
    """Write the answer to a file, some rows at a time; how many there are, and the column of the date ("": none)."""
    # A comment at the end of the query would take the parenthesis with it.
    inner = f"(\n{ask.query.strip().rstrip(';')}\n) AS q"
    with connected(ask.url, ask.seconds, read_only=True, time_zone=dialect.time_zone) as connection:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {inner} WHERE 1 = 0")  # noqa: S608
            schema = cursor.fetch_arrow_table().schema
        header = schema.names
        date = _date_column(ask, dialect, schema)  # before rows are read
        sql, order = f"SELECT * FROM {inner}", [str(n + 1) for n in range(len(header))]  # noqa: S608
        if ask.kind == "sales":
            column, zone = '"' + date.replace('"', '""') + '"', ZoneInfo(dialect.time_zone or "UTC")
            # Weeks that ended before today.
            until = calendar.last_started(dt.datetime.combine(now.astimezone(zone).date() - _DAY, dt.time(), dt.UTC))
            bounds = [f"q.{column} < '{until + _DAY}'"]
            if since is not None:  # the first day of that week
                bounds.append(f"q.{column} >= '{since - WEEK + _DAY}'")
            sql += f" WHERE {' AND '.join(bounds)}"
            order.insert(0, str(header.index(date) + 1))
        with connection.cursor() as cursor:
            # In one order, so that equal rows are equal bytes.
            cursor.execute(f"{sql} ORDER BY {', '.join(order)}")
            answer = batches(cursor, ask.url, ask.seconds)
            return _write(schema, answer, path, date, dialect.time_zone), date


def _date_column(ask: Ask, dialect: Dialect, schema: pa.Schema) -> str:
    """Check the columns of the answer; the one of the date.

    Raises:
        DatabaseError: one is missing or of a type that cannot be compared with days, and how to mend the query.
    """
    where, header = without_password(ask.url), schema.names
    if len(set(header)) < len(header):
        raise DatabaseError(f"{where}: two columns of the query have one name; give each its own with AS")
    names = canonical(header, dialect)
    missing = [name for name in _NEEDED[ask.kind] if name not in names]
    if ask.kind == "sales" and dialect.store:
        missing = [name for name in missing if name != "store"]
    if missing:
        hint = missing_columns("the query's answer", dialect, missing, header).message
        raise DatabaseError(f"{where}: {hint} Or name them in the query: SELECT ... AS {missing[0]}")
    date = header[names.index("date")] if "date" in names else ""
    if ask.kind == "sales":
        kind = schema.field(date).type
        if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
            raise DatabaseError(
                f"{where}: the column {date} is {kind}, and weeks are asked for by days: write CAST({date} AS date) AS "
                f"{date}, or to_date({date}, 'DD.MM.YYYY') AS {date}, in the query"
            )
        if pa.types.is_timestamp(kind) and kind.tz and not dialect.time_zone:
            raise DatabaseError(
                f"{where}: the column {date} holds moments with a time zone; say where the shops are with "
                "FORECAST_TIME_ZONE (settings.toml: time_zone), such as Europe/Berlin, or cast it to a date in the "
                "query"
            )
    return date


def _write(answered: pa.Schema, answer: Iterable[pa.RecordBatch], path: Path, date: str, zone: str) -> int:
    """Write batches as Parquet, in types that files are read in; how many rows. Moments of the date are the shops' own
    from here on."""
    schema = pa.schema([pa.field(f.name, _plain(f.type, f.name == date)) for f in answered])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in answer:
            columns = [_as(column, field.type, zone) for column, field in zip(batch.columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += len(batch)
    return count


def _plain(kind: pa.DataType, is_date: bool) -> pa.DataType:
    """The type that a column lands with. A number of any size comes as text that says what it is; left as text it would
    be read by the decimal sign of people's files."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.float64() if getattr(kind, "type_name", "") == "numeric" else kind.storage_type
    return pa.timestamp(kind.unit) if is_date and pa.types.is_timestamp(kind) else kind


def _as(column: pa.Array, kind: pa.DataType, zone: str) -> pa.Array:
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    if storage.type == kind:
        return storage
    if pa.types.is_timestamp(kind):
        return pc.local_timestamp(pc.cast(storage, pa.timestamp(kind.unit, zone)))
    return pc.cast(storage, kind)


# --- weeks


def _weeks_of(path: Path, date: str, calendar: WeekCalendar) -> set[dt.date]:
    """The weeks that a file has rows of."""
    weeks: set[dt.date] = set()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[date]):
            weeks |= set(np.unique(_weeks(batch.column(0), calendar)).tolist())
    return weeks


def _only(path: Path, date: str, weeks: Collection[dt.date], calendar: WeekCalendar) -> Path:
    """A file of the rows of some weeks."""
    found, wanted = path.with_name("news.parquet"), np.array(sorted(weeks), dtype="datetime64[D]")
    with pq.ParquetFile(path) as file, pq.ParquetWriter(found, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches():
            writer.write_batch(batch.filter(pa.array(np.isin(_weeks(batch.column(date), calendar), wanted))))
    return found


def _weeks(column: pa.Array, calendar: WeekCalendar) -> np.ndarray:
    """The week of each day, whether days name it by its end, its start or one between. No day is empty: the database
    has compared them."""
    days = pc.cast(column, pa.date32(), safe=False).to_numpy(zero_copy_only=False)
    return calendar.week_ends(days.astype("datetime64[D]"))


def _is_of(entry: Entry, name: str) -> bool:
    # Also what a person withdrew: the database has said it, and saying it again is no news.
    return entry.key.startswith(f"sales/{name}/") and entry.status in (INGESTED, WITHDRAWN)


def _said(lake: Lake, entries: Sequence[Entry], since: dt.date) -> dict[dt.date, pa.Table]:
    """What a database said last of each week from one on: the rows of the newest file of its that has the week."""
    with lake.connection("raw_sales") as con:
        con.register("those", _moments(entries))
        rows = con.sql(
            """
            SELECT week, store, dept, sales, is_holiday FROM raw_sales SEMI JOIN those USING (source_key, landed_at)
            WHERE week >= $since
            QUALIFY landed_at = max(landed_at) OVER (PARTITION BY week)
            """,
            params={"since": since},
        ).to_arrow_table()
    return {week: rows.filter(pc.equal(rows["week"], week)) for week in pc.unique(rows["week"]).to_pylist()}


def _refused(lake: Lake, entries: Sequence[Entry]) -> pa.Array:
    """The rows of a database that were refused so far, as text."""
    with lake.connection("quarantine") as con:
        con.register("those", _moments([e for e in entries if e.quarantined]))
        rows = con.sql("SELECT DISTINCT record FROM quarantine SEMI JOIN those USING (source_key, landed_at)")
        return rows.to_arrow_table()["record"].combine_chunks()


def _moments(entries: Sequence[Entry]) -> pa.Table:
    return pa.table(
        {
            "source_key": pa.array([e.key for e in entries], pa.string()),
            "landed_at": pa.array([e.landed_at for e in entries], pa.timestamp("us", tz="UTC")),
        }
    )


def _news(
    answer: Path,
    date: str,
    weeks: Sequence[dt.date],
    said: dict[dt.date, pa.Table],
    refused: pa.Array,
    dialect: Dialect,
    calendar: WeekCalendar,
    now: dt.datetime,
) -> list[dt.date]:
    """The weeks of an answer that are not as they were said last, or have a row to refuse that was not refused yet. Of
    an answer that cannot be read: all, so that the ledger says why."""
    try:
        parsed = parse_sales(answer, "answer.parquet", dialect, calendar, calendar.last_started(now))
    except FileRefused:
        return list(weeks)
    rows: ByWeek = parsed.sales
    none = SALES_SCHEMA.empty_table()
    new = parsed.rejected.filter(pc.invert(pc.is_in(parsed.rejected["record"], refused)))
    new = new.filter(pc.invert(pc.is_in(new["rule"], pa.array(EXPECTED))))
    lines = pc.subtract(new["line"], 1)  # which count from 1
    bad = set(_weeks(pq.read_table(answer, columns=[date])[date].take(lines), calendar).tolist()) if len(new) else set()
    with duckdb.connect() as con:
        return [
            week
            for week in weeks
            if week in bad
            or not compare(con, said.get(week, none), rows.of(week) if rows.count(week) else none).nothing
        ]
