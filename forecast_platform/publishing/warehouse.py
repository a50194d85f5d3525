"""A week's forecast in a table of somebody's database: what changed is exchanged in one transaction.

The same standard SQL for every database that ADBC has a driver of. The rows go into a temporary table first; of those
chosen, rows that differ or are gone are deleted, and those that are new are inserted. So a table that is up to date is
left alone, whoever reads it sees the old forecast or the new one, and a run that dies leaves the old one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.databases import DatabaseError, connected, is_postgres, without_password
from forecast_platform.lake.tables import QUANTILE
from forecast_platform.publishing import exports
from forecast_platform.publishing.exports import ExportRows, Selection, rows_of

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Cursor

KEY = ("forecast_week", *exports.KEY)
CHANGED_AT = "exported_at"  # when a row got its values
_STAGING, _CHOSEN = "forecast_export_staging", "forecast_export_chosen"
_PAIRS = pa.schema({"name": pa.string(), "value": pa.string()})
_TYPES = {pa.date32(): "DATE", pa.string(): "VARCHAR", pa.int32(): "INTEGER", pa.float64(): "DOUBLE PRECISION"}


@dataclass(frozen=True)
class Written:
    """What became of a table.

    Attributes:
        rows: that are there now of what was chosen.
        inserted, deleted: a row with other values is both; None where the database does not count.
    """

    rows: int
    inserted: int | None
    deleted: int | None

    def __str__(self) -> str:
        if self.inserted is None or self.deleted is None:
            return f"{self.rows:,} rows"
        if not (self.inserted or self.deleted):
            return f"{self.rows:,} rows, all there already"
        return f"{self.rows:,} rows, {self.inserted:,} of them new or changed, {self.deleted:,} replaced or gone"


def write_week(
    url: str, table: str, con: duckdb.DuckDBPyConnection, week: dt.date, chosen: Selection, beside: Path
) -> Written:
    """Make a table hold what is chosen of a week's forecast.

    Args:
        con: shows the tables exports.READ_SELECTED of the lake.
        beside: a folder for what is worked on.

    Raises:
        NothingToExport: see exports.py.
        DatabaseError: see `write_table`.
    """
    with rows_of(con, week, chosen, beside) as rows:
        return write_table(url, table, rows, week, chosen)


def write_table(url: str, table: str, rows: ExportRows, week: dt.date, chosen: Selection) -> Written:
    """Make a table hold these rows of a week's forecast; it is made where it is missing, and given columns it lacks.

    Rows of other weeks, and of what was not chosen, stay as they are. Names that a level does not have are "" there
    (in `store`, `dept`, `member`), because they are part of the key.

    Args:
        url: see databases.py. table: its name, or SCHEMA.NAME.
        chosen: what `rows` are of the week's forecast.

    Raises:
        DatabaseError: nothing was changed; see there.
    """
    if not re.fullmatch(r"\w+(\.\w+)?", table):
        raise DatabaseError(f"{table!r} is no name of a table; write NAME or SCHEMA.NAME")
    columns = rows.schema.names
    with connected(url) as connection, connection.cursor() as cursor:
        others = _make(cursor, table, rows.schema, url)
        if is_postgres(url):  # two at once would meet in the key; readers go on
            cursor.execute(f"LOCK TABLE {_quoted(table)} IN SHARE ROW EXCLUSIVE MODE")
        reader = pa.RecordBatchReader.from_batches(rows.schema, _keyed(rows))
        cursor.adbc_ingest(_STAGING, reader, mode="create", temporary=True)
        # Names that people chose are values of a table, as every database takes them, and never part of a statement.
        names = [(name, value) for name, values in _names(chosen).items() for value in values]
        pairs = pa.table({"name": [n for n, _ in names], "value": [v for _, v in names]}, _PAIRS)
        cursor.adbc_ingest(_CHOSEN, pairs, mode="create", temporary=True)
        deleted = _run(cursor, _delete(table, columns, others, week, chosen))
        inserted = _run(cursor, _insert(table, columns))
        for temporary in (_STAGING, _CHOSEN):
            cursor.execute(f"DROP TABLE {_quoted(temporary)}")
    return Written(rows.count, inserted, deleted)


def _make(cursor: Cursor, table: str, schema: pa.Schema, url: str) -> list[str]:
    """Make the table, or give it the columns it lacks; its columns of quantiles that are not exported now."""
    columns = [f"{_quoted(f.name)} {_TYPES[f.type]}{' NOT NULL' if f.name in KEY else ''}" for f in schema]
    columns.append(f"{_quoted(CHANGED_AT)} TIMESTAMP WITH TIME ZONE")
    key = ", ".join(map(_quoted, KEY))
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {_quoted(table)} ({', '.join(columns)}, PRIMARY KEY ({key}))")
    cursor.execute(f"SELECT * FROM {_quoted(table)} WHERE 1 = 0")  # noqa: S608
    there = {column[0] for column in cursor.description or ()}
    cursor.fetchall()
    if lacking := [name for name in (*KEY, CHANGED_AT) if name not in there]:
        raise DatabaseError(
            f"{without_password(url)}: the table {table} is another one, it has no column {', '.join(lacking)}; name a "
            "table of your own"
        )
    for field in schema:
        if field.name not in there:  # a quantile that is new
            cursor.execute(f"ALTER TABLE {_quoted(table)} ADD COLUMN {_quoted(field.name)} {_TYPES[field.type]}")
    return sorted(name for name in there if QUANTILE.fullmatch(name) and name not in schema.names)


def _keyed(rows: ExportRows) -> Iterator[pa.RecordBatch]:
    for batch in rows.batches():
        yield pa.record_batch(
            [
                pc.fill_null(column, "") if name in KEY and pa.types.is_string(column.type) else column
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            ],
            schema=rows.schema,
        )


def _delete(table: str, columns: Sequence[str], others: Sequence[str], week: dt.date, chosen: Selection) -> str:
    """Deletes the rows of what was chosen that are not in the staging table as they are. A quantile that is not
    exported now must be empty: that of a run before would stand beside the plan of this one."""
    same = " AND ".join(f"s.{_quoted(name)} = t.{_quoted(name)}" for name in KEY)
    values = [name for name in columns if name not in KEY]
    equal = " AND ".join(f"s.{_quoted(name)} IS NOT DISTINCT FROM t.{_quoted(name)}" for name in values)
    equal = " AND ".join([equal, *(f"t.{_quoted(name)} IS NULL" for name in others)])
    where = " AND ".join(_scope(week, chosen))
    return (
        f"DELETE FROM {_quoted(table)} AS t WHERE {where} AND NOT EXISTS "  # noqa: S608
        f"(SELECT 1 FROM {_quoted(_STAGING)} AS s WHERE {same} AND {equal})"
    )


def _insert(table: str, columns: Sequence[str]) -> str:
    names = ", ".join(map(_quoted, columns))
    same = " AND ".join(f"t.{_quoted(name)} = s.{_quoted(name)}" for name in KEY)
    return (
        f"INSERT INTO {_quoted(table)} ({names}, {_quoted(CHANGED_AT)}) "  # noqa: S608
        f"SELECT {', '.join(f's.{_quoted(name)}' for name in columns)}, CURRENT_TIMESTAMP "
        f"FROM {_quoted(_STAGING)} AS s "
        f"WHERE NOT EXISTS (SELECT 1 FROM {_quoted(table)} AS t WHERE {same})"
    )


def _scope(week: dt.date, chosen: Selection) -> Iterator[str]:
    """Conditions on the rows that the exported ones replace. A group's own rows are replaced one by one: which series
    belong to it is not said in the table, so none is deleted for having left it."""
    yield f"t.\"forecast_week\" = '{week}'"
    for name in _names(chosen):
        yield f"t.{_quoted(name)} IN (SELECT c.value FROM {_quoted(_CHOSEN)} AS c WHERE c.name = '{name}')"  # noqa: S608
    if chosen.groups:
        keys = " AND ".join(f"k.{_quoted(name)} = t.{_quoted(name)}" for name in KEY)
        yield f"EXISTS (SELECT 1 FROM {_quoted(_STAGING)} AS k WHERE {keys})"  # noqa: S608


def _names(chosen: Selection) -> dict[str, tuple[str, ...]]:
    """What is chosen by name: column -> values."""
    found = {"level": chosen.levels, "store": chosen.stores, "dept": chosen.depts}
    return {name: values for name, values in found.items() if values}


def _run(cursor: Cursor, sql: str) -> int | None:
    """Rows that a statement changed."""
    cursor.execute(sql)
    return cursor.rowcount if cursor.rowcount >= 0 else None


def _quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split("."))
