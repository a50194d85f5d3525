"""From a database to the forecast and on to a workbook and a database: through the graph, on a real PostgreSQL."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from forecast_platform.cli import main
from forecast_platform.defs.database_import import database_import
from forecast_platform.demo import MadeUpRetailer
from forecast_platform.settings import Settings, get_settings
from forecast_platform_tests.conftest import SMALL, ForecastHome, weeks_of
from forecast_platform_tests.defs.graph import QUIET, Graph
from forecast_platform_tests.postgres import Postgres
from forecast_platform_tests.processes import python

QUERY = "SELECT store, dept, week AS date, sales AS weekly_sales FROM sales"


@pytest.fixture
def shop(database: Postgres, retailer: MadeUpRetailer, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """The retailer's sales in a table, but for those of its last week."""
    from adbc_driver_postgresql import dbapi

    weeks = weeks_of(retailer)
    store, dept, week = np.nonzero(~np.isnan(retailer.sales))
    rows = pa.table(
        {
            "store": retailer.stores[store].astype(str),
            "dept": retailer.depts[dept].astype(str),
            "week": retailer.weeks[week],
            "sales": retailer.sales[store, dept, week].round(2),
        }
    )
    with dbapi.connect(database.with_password) as con, con.cursor() as cursor:
        cursor.adbc_ingest("all_sales", rows, mode="create")
        cursor.execute(f"CREATE TABLE sales AS SELECT * FROM all_sales WHERE week < '{weeks[-1]}'")
        con.commit()
    get_settings.cache_clear()
    return database


def asked(graph: Graph) -> dict[str, Any]:
    """Ask the database, as the schedule does; what the run says of it."""
    job = database_import.graph.to_job(resource_defs={"platform": graph.resources["platform"]})
    done = job.execute_in_process(instance=graph.instance, run_config=QUIET)
    (event,) = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_from_a_database_to_a_workbook_and_a_database(
    shop: Postgres, home: Path, retailer: MadeUpRetailer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weeks, name = weeks_of(retailer), "plans.weekly"
    shop.run("CREATE SCHEMA plans")
    given = {"import_from": shop.url, "import_query": QUERY, "export_to": shop.url, "export_table": name}
    graph = Graph(Settings(**SMALL, **given))
    said = asked(graph)
    assert said["landed"] == f"sales/shop/{weeks[0]}_{weeks[-2]}.parquet"
    assert graph.history(weeks[0], weeks[-3]).success
    assert graph.week(weeks[-2]).success

    # A week later: one more week, and the one before restated.
    shop.run(
        f"INSERT INTO sales SELECT * FROM all_sales WHERE week = '{weeks[-1]}'",
        f"UPDATE sales SET sales = sales + 1000 WHERE week = '{weeks[-2]}' AND store = '1' AND dept = '1'",
    )
    said = asked(graph)
    assert said["landed"] == f"sales/shop/{weeks[-2]}_{weeks[-1]}.parquet"
    assert graph.history(weeks[-2], weeks[-1]).success
    result = graph.week(weeks[-1])
    assert result.success, result.failures
    assert asked(graph)["landed"] == "nothing"
    (changed,) = graph.lake.query(
        "SELECT sales, is_restated FROM cleaned_series WHERE week = ? AND store = '1' AND dept = '1'", [weeks[-2]]
    ).to_pylist()
    ((before,),) = shop.run(f"SELECT sales FROM all_sales WHERE week = '{weeks[-2]}' AND store = '1' AND dept = '1'")
    assert (changed["sales"], changed["is_restated"]) == (pytest.approx(float(str(before)) + 1000), True)

    # Both weeks' forecasts are in the table, the lake's own values.
    kept = graph.lake.query("SELECT * FROM forecasts WHERE forecast_week = ?", [weeks[-1]]).to_pylist()
    said_of_it = result.metadata("exports")["database"]
    assert said_of_it.startswith(f"{shop.url}, table {name}: {len(kept)} rows")
    assert shop.password not in said_of_it
    there = shop.run(
        f"SELECT level, store, dept, target_week, p50, plan FROM {name} WHERE forecast_week = '{weeks[-1]}'"
    )
    assert {row[:4]: row[4] for row in there} == {
        (r["level"], r["store"] or "", r["dept"] or "", r["target_week"]): round(r["p50"], 2) for r in kept
    }
    assert len(there) == len(kept)
    assert shop.run(f"SELECT count(DISTINCT forecast_week) FROM {name}") == [(2,)]

    # And on to people.
    monkeypatch.chdir(tmp_path)
    done = forecast("export")
    assert done.exit_code == 0, done.output
    book = openpyxl.load_workbook(tmp_path / f"forecast-{weeks[-1]}.xlsx")
    assert book["series"].max_row - 1 == sum(r["level"] == "series" for r in kept)
    done = forecast("export", "--to", shop.url, "--table", name)
    assert "rows, all there already" in done.output


def forecast(*arguments: str) -> Result:
    get_settings.cache_clear()
    try:
        return CliRunner().invoke(main, list(arguments))
    finally:
        get_settings.cache_clear()


def test_passwords_are_given_by_the_environment_alone(home: Path) -> None:
    for command, option in ((["import", "--query", QUERY], "--from"), (["export"], "--to")):
        done = forecast(*command, option, "postgresql://me:hunter2@127.0.0.1/shop")
        assert done.exit_code == 2
        assert f"{option} holds a password" in done.output
        assert "PGPASSWORD" in done.output
        assert "hunter2" not in done.output


def test_import_says_what_it_needs(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("store,dept,date,weekly_sales\n1,1,2025-01-31,5\n")
    for arguments, said in (
        ([], "give FILES; or a database with --from"),
        (["--from", "postgresql://me@127.0.0.1/shop"], "--from needs --query"),
        ([str(tmp_path / "a.csv"), "--query", QUERY], "give FILES or --from, not both"),
        (["--from", "shop", "--query", QUERY], "'shop' is no address of a database"),
    ):
        done = forecast("import", *arguments)
        assert done.exit_code, arguments
        assert said in " ".join(done.output.split())


def test_export_says_what_it_needs(home: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["a.xlsx", "--format", "csv"], "ends in .xlsx, and --format is csv"),
        (["a.pdf"], "a.pdf ends in none of xlsx, csv, parquet, duckdb"),
        (["--group", "North"], "--group is LEVEL=NAME, such as region=North; got 'North'"),
        (["--to", "export_to"], "the setting export_to is empty"),
        (["a.csv", "--to", "postgresql://me@127.0.0.1/shop"], "give OUTPUT or --to, not both"),
        ([], "has no forecast yet; start with: forecast import FILE"),
    ):
        done = forecast("export", *arguments)
        assert done.exit_code, arguments
        assert said in " ".join(done.output.split())
    assert not home.exists()


def test_a_folder_gets_a_file_whose_name_says_what_it_is(
    forecast_home: ForecastHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(forecast_home.home))
    done = forecast("export", str(tmp_path / "new"), "--level", "total", "--format", "csv")
    assert done.exit_code == 0, done.output
    path = tmp_path / "new" / f"forecast-{forecast_home.week}-level-total.csv"
    assert f"wrote {path} (" in done.output
    assert len(path.read_text().splitlines()) == 1 + SMALL["prediction_length"]
    done = forecast("export", "--store", "99")
    assert (done.exit_code, "has no row of store 99" in done.output) == (1, True)


SCHEDULES = """
from forecast_platform.definitions import defs
print([(s.name, s.cron_schedule, s.default_status.value) for s in defs.schedules if "database" in s.name])
"""


def test_the_schedule_is_there_where_it_is_set_and_only_there(home: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FORECAST_")}
    given = {
        "FORECAST_IMPORT_FROM": "postgresql://me@127.0.0.1/shop", "FORECAST_IMPORT_QUERY": QUERY,
        "FORECAST_IMPORT_SCHEDULE": "30 5 * * *",
    }  # fmt: skip
    for settings, there in (({}, "[]"), (given, "[('database_import_schedule', '30 5 * * *', 'RUNNING')]")):
        env = {**clean, "FORECAST_HOME": str(home), **settings}
        done = python("-c", textwrap.dedent(SCHEDULES), cwd=home.parent, env=env)
        assert done.stdout.strip() == there, done.stderr
