"""A week's forecast as files for people and for other systems: CSV, Parquet, Excel, DuckDB; with names and the plan.

One row per level, group and week ahead. `plan` is a person's figure where there is one (table `overrides`), else p50.
`store_name` and `dept_name` are the attribute `name` of `stores/` and `departments/`; empty where none has landed.

Every form is made from one Parquet file: to plan and sort the rows is most of the work, and of that file any part can
be had again without keeping it in memory.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from forecast_platform.lake.duck import literal
from forecast_platform.lake.tables import QUANTILE, VIEWS, about_column
from forecast_platform.levels import KEYS, LEVELS
from forecast_platform.publishing.sheets import DIGITS, Sheet, harmless_sql, rounded_sql, write_xlsx

FOLDER = "exports/forecasts"  # of the home, or of the bucket
READ = ("forecasts", "overrides", "level_members", "stores", "departments")  # tables of the lake for whole runs
READ_SELECTED = (*READ, "cleaned_series")  # and for what is rounded
KEY = ("level", "store", "dept", "member", "target_week")
FORMS = ("xlsx", "csv", "parquet", "duckdb")
TABLE = "forecasts"  # in a DuckDB file
_TEXTS = ("store", "store_name", "dept", "dept_name", "member")
_ROWS = 50_000  # in memory at a time
_ABOUT = {
    "store_name": "Name of the store: the column name of stores/.",
    "dept_name": "Name of the department: the column name of departments/.",
    "plan": "A person's figure where there is one, else p50; of a sum its p50 and what such figures add to it.",
    "override": "The figure that a person gave.",
}


class NothingToExport(LookupError):
    """The lake holds no forecast of the week, of what was chosen, or a quantile that was asked for is not published."""


@dataclass(frozen=True)
class Selection:
    """What of a week's forecast is wanted. Each part that is empty chooses all.

    Attributes:
        levels: such as series or total.
        stores, depts: rows of one of these: series, and of a store alone its sum.
        groups: (level, member), such as ("region", "North"): the group, its stores (or departments) and their series.
        quantiles: columns such as "p10".
        digits: decimals that figures are rounded to, see sheets.rounded; None: they stay as they are.
    """

    levels: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    depts: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    quantiles: tuple[str, ...] = ()
    digits: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is every row of the week."""
        return not (self.levels or self.stores or self.depts or self.groups)

    @property
    def words(self) -> str:
        """What is chosen, to name files by; empty for all."""
        few = {"level": self.levels, "store": self.stores, "dept": self.depts,
               "group": tuple(map(" ".join, self.groups))}  # fmt: skip
        parts = [
            f"{name} {' '.join(chosen[:3])}{' and more' * (len(chosen) > 3)}" for name, chosen in few.items() if chosen
        ]
        return " ".join(parts)


def write_exports(
    con: duckdb.DuckDBPyConnection, week: dt.date, folder: Path, quantiles: Sequence[str] = ()
) -> Iterator[tuple[str, Path, int]]:
    """Write the whole forecast of a week, unrounded; equal tables give equal rows in equal order.

    Args:
        con: shows the tables READ of the lake.
        week: the last week that the forecast knew.
        folder: where the files go: WEEK.csv and WEEK.parquet.
        quantiles: columns such as "p10"; none: all that are published.

    Yields:
        Of each file its name below the home or the bucket, where it lies now, and its number of rows.

    Raises:
        NothingToExport: see there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, columnar = (folder / f"{week}.{kind}" for kind in ("csv", "parquet"))
    rows = _write_rows(con, week, Selection(quantiles=tuple(quantiles)), columnar)
    _to_csv(columnar, text, None)
    for path in (text, columnar):
        yield f"{FOLDER}/{path.name}", path, rows


def export(
    con: duckdb.DuckDBPyConnection, week: dt.date, chosen: Selection, path: Path, form: str, unit: str = ""
) -> dict[str, int]:
    """Write what is chosen of a week's forecast as one file, rounded by the data's digits; whole or not at all.

    Args:
        con: shows the tables READ_SELECTED of the lake.
        path: of the file, which is replaced. Beside it lies what is worked on.
        form: one of FORMS.
        unit: sign of the currency of sales, see sheets.write_xlsx; the other forms have none.

    Returns:
        Number of rows by sheet, or by the name of the file.

    Raises:
        NothingToExport: see there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with rows_of(con, week, chosen, path.parent) as rows:
        made = rows.path.with_name(f"made.{form}")
        counts = {path.name: rows.count}
        if form == "xlsx":
            counts = write_xlsx(made, rows.sheets(), rows.digits, unit)
        elif form == "csv":
            _to_csv(rows.path, made, rows.digits)
        elif form == "duckdb":
            _to_duckdb(rows.path, made)
        else:
            made = rows.path
        os.replace(made, path)
    return counts


@dataclass(frozen=True)
class ExportRows:
    """A week's rows in a file, sorted by KEY with numbers as numbers, to be read some at a time."""

    path: Path
    count: int
    digits: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows."""
        with pq.ParquetFile(self.path) as file:
            yield from file.iter_batches(_ROWS)

    @property
    def schema(self) -> pa.Schema:
        return pq.read_schema(self.path)

    def sheets(self) -> Iterator[Sheet]:
        """A sheet for each level, sums first, without the columns that are empty there; and what columns mean."""
        names = self.schema.names
        counted = ", ".join(f"count({_quoted(name)})" for name in names)
        with duckdb.connect() as con:
            found = {
                level: [name for name, there in zip(names, counts, strict=True) if there or name == "override"]
                for level, *counts in con.execute(
                    f"SELECT level, {counted} FROM {_at(self.path)} GROUP BY level"  # noqa: S608
                ).fetchall()
            }
            last = [each.name for each in reversed(LEVELS)]  # total, dept, store, series; attributes come before series
            for level in sorted(
                found, key=lambda name: (name == LEVELS[0].name, name not in last, name != "total", name)
            ):
                columns = [name for name in found[level] if name != "level"]
                yield Sheet(level, columns, self._of_level(con, level, columns))
        yield Sheet("columns", ("column", "meaning"), [(name, meaning(name)) for name in names])

    def _of_level(
        self, con: duckdb.DuckDBPyConnection, level: str, columns: Sequence[str]
    ) -> Iterator[Sequence[object]]:
        sql = f"SELECT {', '.join(map(_quoted, columns))} FROM {_at(self.path)} WHERE level = ?"  # noqa: S608
        with con.cursor() as cursor:
            cursor.execute("SET preserve_insertion_order = true")
            found = cursor.execute(sql, [level])
            while rows := found.fetchmany(_ROWS):
                yield from rows


@contextlib.contextmanager
def rows_of(con: duckdb.DuckDBPyConnection, week: dt.date, chosen: Selection, beside: Path) -> Iterator[ExportRows]:
    """What is chosen of a week's forecast, rounded by the data's digits, in a file that lies in a folder of its own
    below `beside` until the block ends.

    Raises:
        NothingToExport: see there.
    """
    ((digits,),) = con.execute(DIGITS).fetchall()
    with tempfile.TemporaryDirectory(prefix=".export-", dir=beside) as folder:
        path = Path(folder) / "rows.parquet"
        count = _write_rows(con, week, replace(chosen, digits=digits or 0), path)
        yield ExportRows(path, count, digits or 0)


def newest_week(con: duckdb.DuckDBPyConnection) -> dt.date:
    """The week of the newest forecast.

    Raises:
        NothingToExport: there is none.
    """
    week: dt.date | None
    ((week,),) = con.execute("SELECT max(forecast_week) FROM forecasts WHERE level = 'total'").fetchall()
    if week is None:
        raise NothingToExport("there is no forecast yet; make one with: forecast run")
    return week


def file_name(week: dt.date, chosen: Selection, form: str) -> str:
    """Such as forecast-2025-01-31-store-1.xlsx."""
    words = re.sub(r"[^\w.]+", "-", f"forecast {week} {chosen.words}").strip("-")
    return f"{words[:120]}.{form}"


def meaning(column: str) -> str:
    """What a column of an export means."""
    return _ABOUT.get(column) or about_column("forecasts", column)


def _write_rows(con: duckdb.DuckDBPyConnection, week: dt.date, chosen: Selection, path: Path) -> int:
    """Write a week's chosen rows as Parquet; how many."""
    described = con.execute("DESCRIBE forecasts").fetchall()
    published = [name for name, *_ in described if QUANTILE.fullmatch(name)]
    if unknown := sorted(set(chosen.quantiles) - set(published)):
        raise NothingToExport(f"{', '.join(unknown)} is not published; there are {', '.join(published)}")
    levels = [name for (name,) in con.execute(
        "SELECT DISTINCT level FROM forecasts WHERE forecast_week = ? ORDER BY level", [week]).fetchall()]  # fmt: skip
    if not levels:
        raise NothingToExport(f"there is no forecast of {week}; run forecast_table for its week")
    asked = {*chosen.levels, *(level for level, _ in chosen.groups)}
    if missing := sorted(asked - set(levels)):
        raise NothingToExport(f"the forecast of {week} has no level {', '.join(missing)}; it has {', '.join(levels)}")
    conditions, values = _conditions(week, chosen)
    sql = _select(week, chosen, published, conditions)
    con.execute(f"COPY ({sql}) TO {_at(path)} (FORMAT parquet, COMPRESSION zstd)", values)
    count: int = pq.read_metadata(path).num_rows
    if not count:
        raise NothingToExport(f"the forecast of {week} has no row of {chosen.words}")
    return count


def _to_csv(rows: Path, path: Path, digits: int | None) -> None:
    """Text that a spreadsheet would run is made text for it; figures of data without decimals have no point."""
    names = pq.read_schema(rows).names
    changed = [f"{harmless_sql(name)} AS {name}" for name in _TEXTS]
    if digits == 0:
        figures = [name for name in names if pa.types.is_floating(pq.read_schema(rows).field(name).type)]
        changed += [f"regexp_replace(CAST({name} AS VARCHAR), '\\.0$', '') AS {name}" for name in figures]
    changed_rows = f"SELECT * REPLACE ({', '.join(changed)}) FROM {_at(rows)}"  # noqa: S608
    with duckdb.connect() as con:
        con.execute(f"COPY ({changed_rows}) TO {_at(path)} (FORMAT csv, HEADER)")


def _to_duckdb(rows: Path, path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute(f"CREATE TABLE {TABLE} AS FROM {_at(rows)}")


def _at(path: Path) -> str:
    return literal(str(path))


def _quoted(name: str) -> str:
    return f'"{name}"'


def _select(week: dt.date, chosen: Selection, published: Sequence[str], conditions: Sequence[str]) -> str:
    store, dept = (
        f"LEFT JOIN (SELECT {of}, max(value) AS {of}_name FROM {table} WHERE name = 'name' GROUP BY {of}) USING ({of})"  # noqa: S608
        for of, table in (("store", "stores"), ("dept", "departments"))
    )
    figures = ["plan", "override", "mean", *(name for name in published if name in (chosen.quantiles or published))]
    values = {name: name for name in figures}
    if chosen.digits is not None:
        values = {name: f"{rounded_sql(name, chosen.digits)} AS {name}" for name in figures}
    order = [f"named.{name}" for name in KEY]
    if chosen.digits is not None:  # for people: store 2 before store 10
        order = [f"TRY_CAST(named.{name} AS DOUBLE), named.{name}" if name in KEYS else f"named.{name}" for name in KEY]
    # The view is of the newest forecast there is: here that of the week.
    return f"""
        WITH forecasts AS (FROM main.forecasts WHERE forecast_week = DATE '{week}'),
        planned AS ({VIEWS["forecast_with_overrides"]}),
        named AS (FROM planned {store} {dept})
        SELECT forecast_week, level, {", ".join(_TEXTS)}, target_week, horizon, {", ".join(values.values())},
               model_version, as_known
        FROM named WHERE {" AND ".join(("TRUE", *conditions))}
        ORDER BY {", ".join(f"{name} NULLS FIRST" for name in order)}
    """  # noqa: S608 (only our own SQL is composed)


def _conditions(week: dt.date, chosen: Selection) -> tuple[list[str], dict[str, list[str]]]:
    """What the chosen rows fulfil, and the values of its parameters."""
    conditions, values = list[str](), dict[str, list[str]]()
    for name, wanted in (("level", chosen.levels), ("store", chosen.stores), ("dept", chosen.depts)):
        if wanted:
            conditions.append(f"list_contains(${name}s, named.{name})")
            values[f"{name}s"] = list(wanted)
    if chosen.groups:
        values |= {"attributes": [level for level, _ in chosen.groups], "members": [name for _, name in chosen.groups]}
        pairs = "(SELECT unnest($attributes), unnest($members))"
        of = f"FROM main.level_members WHERE forecast_week = DATE '{week}' AND (level, member) IN {pairs}"
        inside = (f"named.{key} IN (SELECT {key} {of} AND {key} IS NOT NULL)" for key in ("store", "dept"))
        conditions.append(f"((named.level, named.member) IN {pairs} OR {' OR '.join(inside)})")
    return conditions, values
