"""A week's whole forecast as files for people and for other systems: CSV and Parquet, with names and the plan.

One row per level, group and week ahead. `plan` is a person's figure where there is one (table `overrides`), else p50.
`store_name` and `dept_name` are the attribute `name` of `stores/` and `departments/`; empty where none has landed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from forecast_platform.lake.tables import QUANTILE, VIEWS

FOLDER = "exports/forecasts"  # of the home, or of the bucket
READ = ("forecasts", "overrides", "level_members", "stores", "departments")  # tables of the lake
KEY = ("level", "store", "dept", "member", "target_week")
_TEXTS = ("store", "store_name", "dept", "dept_name", "member")
# A spreadsheet runs what begins like a formula; names of stores come from files that others wrote.
_HARMLESS = "CASE WHEN left(NAME, 1) IN ('=', '+', '-', '@', '\t', '\r') THEN '''' || NAME ELSE NAME END AS NAME"


class NothingToExport(LookupError):
    """The lake holds no forecast of the week, or a quantile that was asked for is not published."""


def write_exports(
    con: duckdb.DuckDBPyConnection, week: dt.date, folder: Path, quantiles: Sequence[str] = ()
) -> Iterator[tuple[str, Path, int]]:
    """Write the forecast of a week; equal tables give equal rows in equal order.

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
    published = [name for name, *_ in con.execute("DESCRIBE forecasts").fetchall() if QUANTILE.fullmatch(name)]
    if unknown := sorted(set(quantiles) - set(published)):
        raise NothingToExport(f"{', '.join(unknown)} is not published; there are {', '.join(published)}")
    ((rows,),) = con.execute("SELECT count(*) FROM forecasts WHERE forecast_week = ?", [week]).fetchall()
    if not rows:
        raise NothingToExport(f"there is no forecast of {week}; run forecast_table for its week")
    folder.mkdir(parents=True, exist_ok=True)
    text, columnar = (folder / f"{week}.{kind}" for kind in ("csv", "parquet"))
    con.execute(f"COPY ({_select(week, quantiles or published)}) TO {_at(columnar)} (FORMAT parquet, COMPRESSION zstd)")
    # From the rows that were just written, in their order: to sort them is most of the work.
    harmless = ", ".join(_HARMLESS.replace("NAME", name) for name in _TEXTS)
    con.execute(f"COPY (SELECT * REPLACE ({harmless}) FROM {_at(columnar)}) TO {_at(text)} (FORMAT csv, HEADER)")  # noqa: S608
    for path in (text, columnar):
        yield f"{FOLDER}/{path.name}", path, rows


def _at(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _select(week: dt.date, quantiles: Sequence[str]) -> str:
    store, dept = (
        f"LEFT JOIN (SELECT {of}, max(value) AS {of}_name FROM {table} WHERE name = 'name' GROUP BY {of}) USING ({of})"  # noqa: S608
        for of, table in (("store", "stores"), ("dept", "departments"))
    )
    # The view is of the newest forecast there is: here that of the week.
    return f"""
        WITH forecasts AS (FROM main.forecasts WHERE forecast_week = DATE '{week}'),
        planned AS ({VIEWS["forecast_with_overrides"]}),
        named AS (FROM planned {store} {dept})
        SELECT forecast_week, level, {", ".join(_TEXTS)}, target_week, horizon, plan, override, mean,
               {", ".join(quantiles)}, model_version, as_known
        FROM named ORDER BY {", ".join(f"named.{name} NULLS FIRST" for name in KEY)}
    """  # noqa: S608 (only our own SQL is composed)
