"""A Tableau extract of the lake: four flat tables in one .hyper file, written through Tableau's own library."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb

from forecast_platform.levels import NAMES

# What a workbook joins: by store, dept and week, and by level. Names are those of the lake.
TABLES = {
    "latest_forecast": "SELECT * FROM latest_forecast",
    "sales": "SELECT week, store, dept, sales, is_holiday, is_return FROM cleaned_series WHERE observed",
    "forecast_accuracy": "SELECT * FROM forecast_accuracy",
    # The view of this name reads every forecast ever published; for the changes since the last one two are enough.
    "forecast_revisions": """
        SELECT n.forecast_week, n.level, n.store, n.dept, n.member, n.target_week, n.p50,
               b.forecast_week AS previous_week, b.p50 AS previous_p50, n.p50 - b.p50 AS change
        FROM latest_forecast AS n
        JOIN (
            SELECT * FROM forecasts
            WHERE forecast_week = (
                SELECT max(forecast_week) FROM forecasts
                WHERE forecast_week < (SELECT max(forecast_week) FROM forecasts)
            )
        ) AS b
          ON b.level = n.level AND b.target_week = n.target_week
         AND b.store IS NOT DISTINCT FROM n.store AND b.dept IS NOT DISTINCT FROM n.dept
         AND b.member IS NOT DISTINCT FROM n.member
    """,
}


@dataclass(frozen=True)
class Extract:
    """A written extract, as read back: rows of each table."""

    path: Path
    rows: dict[str, int]


class ExtractError(RuntimeError):
    """The extract does not hold what was asked; the message says what differs."""


def available() -> bool:
    """Whether Tableau's library is installed (the extra "tableau"; Linux on x86, macOS and Windows have it)."""
    return importlib.util.find_spec("tableauhyperapi") is not None


def write_extract(con: duckdb.DuckDBPyConnection, path: Path) -> Extract:
    """Write the extract, whole or not at all, and read it back.

    Args:
        con: connection the lake is attached to.

    Raises:
        ExtractError: a table read back has other rows or another sum than the lake.
    """
    from tableauhyperapi import Connection, CreateMode, HyperProcess, TableName, Telemetry, escape_name

    path.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        building = Path(folder) / path.name
        # Its log would go to the working directory.
        quiet = {"log_dir": folder}
        with (
            HyperProcess(Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters=quiet) as process,
            Connection(process.endpoint, building, CreateMode.CREATE_AND_REPLACE) as hyper,
        ):
            hyper.catalog.create_schema("Extract")
            for name, sql in TABLES.items():
                source = Path(folder) / f"{name}.parquet"
                con.execute(f"COPY ({sql}) TO '{source}' (FORMAT parquet)")
                table = TableName("Extract", name)
                hyper.execute_command(f"CREATE TABLE {table} AS SELECT * FROM external('{source}')")  # noqa: S608 (paths of ours)
                rows[name] = hyper.execute_scalar_query(f"SELECT count(*) FROM {table}")  # noqa: S608 (a name of ours)
                measure = escape_name({"sales": "sales", "forecast_accuracy": "actual"}.get(name, "p50"))
                found = hyper.execute_scalar_query(f"SELECT sum({measure}) FROM {table}")  # noqa: S608
                wanted = con.execute(f"SELECT count(*), sum({measure}) FROM '{source}'").fetchone()  # noqa: S608
                source.unlink()  # the next table may be as large
                assert wanted is not None
                if rows[name] != wanted[0] or abs((found or 0) - (wanted[1] or 0)) > 1e-6 * abs(wanted[1] or 0):
                    raise ExtractError(
                        f"{name}: {rows[name]} rows and a sum of {found} were read back from the extract, the lake has "
                        f"{wanted[0]} and {wanted[1]}"
                    )
        os.replace(building, path)
    return Extract(path, rows)


def read_latest(path: Path) -> dict[tuple[str | None, ...], float]:
    """(level, store, dept, member, target week in ISO format) -> p50 of the extract's latest forecast, as read
    back from the file."""
    from tableauhyperapi import Connection, HyperProcess, Telemetry

    with (
        tempfile.TemporaryDirectory() as folder,
        HyperProcess(Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters={"log_dir": folder}) as process,
        Connection(process.endpoint, path) as hyper,
    ):
        names = ", ".join(("level", *NAMES))
        found = hyper.execute_list_query(f'SELECT {names}, target_week, p50 FROM "Extract"."latest_forecast"')  # noqa: S608
    return {(*of, str(week.to_date())): p50 for *of, week, p50 in found}
