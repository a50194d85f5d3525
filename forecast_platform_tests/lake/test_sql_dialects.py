"""SQL we ship means the same in Athena as in DuckDB: it parses in Athena's dialect, compares like with like, and what
sqlglot makes of it for DuckDB gives the same rows.

Shipped are the views and whatever README and docs tell people to ask. (The dashboard's questions have the same test.)
A parser is not the engine: `forecast views` and `forecast query` on an account are the last word.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from pyiceberg.expressions import AlwaysTrue
from sqlglot import exp
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.lake.tables import VIEWS
from forecast_platform_tests.lake.conftest import QUANTILES, SPECS, forecast_rows, one_week, week

ROOT = Path(__file__).resolve().parents[2]


def shipped() -> dict[str, str]:
    """Every SELECT in the views, in fenced SQL of the documentation, and in its `forecast query "..."`."""
    found = {f"view {name}": sql for name, sql in VIEWS.items()}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        asked = re.findall(r'forecast query "(SELECT [^"]*\w[^"]*)"', text)
        asked += [part for block in re.findall(r"```sql\n(.*?)```", text, re.S) for part in block.split(";")]
        asked = [sql.strip() for sql in asked if sql.strip() and sql.strip() != "SELECT ..."]
        found |= {f"{page.name} {number}": sql for number, sql in enumerate(asked, 1)}
    return found


SHIPPED = shipped()


@pytest.fixture(scope="module")
def con(tmp_path_factory) -> duckdb.DuckDBPyConnection:
    """A lake in which every shipped question has rows to find."""
    lake = Lake.local(tmp_path_factory.mktemp("dialects") / "lake", QUANTILES)
    shut = one_week(week(0), 0.0)
    shut = shut.set_column(shut.column_names.index("store_closed"), "store_closed", pa.array([True] * len(shut)))
    rows = pa.concat_tables([shut, one_week(week(1), 2.0)])
    lake.replace_weeks("cleaned_series", [week(0), week(1)], rows)
    for number in range(3):
        rows = forecast_rows(week(number), 10.0 + number, targets=4)
        rows = rows.set_column(rows.column_names.index("dept"), "dept", pa.array(["1"] * len(rows)))
        north = [row | {"level": "region", "store": None, "dept": None, "member": "North"} for row in rows.to_pylist()]
        lake.replace_weeks("forecasts", [week(number)], pa.concat_tables([rows, _rows("forecasts", north)]))
        of = {"forecast_week": week(number), "level": "region", "store": "1", "member": "North"}
        lake.replace_weeks("level_members", [week(number)], _rows("level_members", [of]))
    ahead = {"forecast_week": week(2), "level": "series", "store": "1", "dept": "1", "weeks": 2, "p50": 21.0}
    lake.replace_weeks("lead_time_demand", [week(2)], _rows("lead_time_demand", [ahead]))
    silent = {"forecast_week": week(2), "store": "1", "dept": "1", "silent_weeks": 3, "probability_of_return": 0.5}
    lake.replace_weeks("stopping_series", [week(2)], _rows("stopping_series", [silent]))
    where = {"source_key": "sales/a.csv", "source_version": "1", "landed_at": None}
    refused = {"landed_date": week(0), "line": 3, "rule": "number", "field": "weekly_sales", "value": "?", **where}
    lake.replace_weeks("quarantine", [week(0)], _rows("quarantine", [refused]))
    scores = [
        {
            "week": week(3),
            "forecast_week": week(3 - horizon),
            "horizon": horizon,
            "level": "series",
            "store": store,
            "dept": "1",
            "actual": actual,
            "p50": 90.0,
            "error": 90.0 - actual,
            "abs_error": abs(90.0 - actual),
            "in_interval": store == "1",
            "naive": None if naive is None else actual + naive,
            "naive_abs_error": naive,
        }
        for horizon in (1, 2)
        for store, actual, naive in (("1", 100.0, 50.0), ("2", 60.0, None))
    ]
    lake.replace_weeks("forecast_accuracy", [week(3)], _rows("forecast_accuracy", scores))
    failed = {"week": week(0), "run_id": "r1", "job": "weekly_forecast", "step": "deepar_model", "message": "no"}
    lake.replace("run_failures", any_of("run_id", ["r1"]), _rows("run_failures", [failed]))
    given = {"store": "1", "dept": "1", "target_week": week(3), "value": 99.5, "reason": "fair", "author": "ana",
             "expires": week(9), "made_at": dt.datetime(2025, 1, 1, tzinfo=dt.UTC)}  # fmt: skip
    lake.replace("overrides", AlwaysTrue(), _rows("overrides", [given]))
    return lake.attach(duckdb.connect())


def _rows(table: str, rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SPECS[table].schema)


def test_there_is_something_to_test():
    assert len(SHIPPED) >= len(VIEWS) + 2


@pytest.mark.parametrize("sql", SHIPPED.values(), ids=SHIPPED.keys())
class TestShipped:
    def test_gives_the_same_rows_by_way_of_athenas_dialect(self, con, sql):
        (as_athena,) = sqlglot.transpile(sql, read="athena", write="duckdb")
        expected, found = (con.sql(text).to_arrow_table() for text in (sql, as_athena))
        assert found.schema == expected.schema
        assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, expected.to_pylist()))
        assert len(found) > 0

    def test_compares_like_with_like(self, con, sql):
        assert faults(con, sql) == []


def faults(con: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    """What DuckDB lets pass and Athena refuses: text beside numbers or dates, and functions that are not in Trino."""
    tables = [name for (name,) in con.sql("SHOW TABLES").fetchall() if not name.startswith("_")]
    schema = {t: {name: kind for name, kind, *_ in con.sql(f"DESCRIBE {t}").fetchall()} for t in tables}
    tree = sqlglot.parse_one(sql, read="athena")
    unknown = [f"unknown function {call.sql()}" for call in tree.find_all(exp.Anonymous)]
    named = ["a WINDOW clause"] if tree.find(exp.Window) and "WINDOW " in sql else []
    tree = annotate_types(qualify(tree, schema=schema, dialect="athena"), schema=schema, dialect="athena")
    mixed = []
    for node in tree.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between):
        kinds = {_kind(part) for part in node.iter_expressions()} - {None}
        if len(kinds) > 1:
            mixed.append(node.sql(dialect="athena"))
    return unknown + named + mixed


def _kind(node: exp.Expression) -> str | None:
    families = {
        "text": exp.DataType.TEXT_TYPES,
        "number": exp.DataType.NUMERIC_TYPES,
        "time": exp.DataType.TEMPORAL_TYPES,
    }
    return next((name for name, types in families.items() if node.type is not None and node.type.this in types), None)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM latest_forecast WHERE store = 1",
        "SELECT * FROM forecasts WHERE forecast_week = '2024-01-05'",
        "SELECT * FROM forecasts WHERE store IN (1, 2)",
        "SELECT quantile_foo(p50) FROM forecasts",
        "SELECT lag(p50) OVER w FROM forecasts WINDOW w AS (ORDER BY horizon)",
    ],
)
def test_what_only_duckdb_takes_is_found(con, sql):
    assert faults(con, sql)


def test_a_figure_reaches_the_plan_of_its_group(con):
    sql = "SELECT level, target_week, plan - p50 FROM forecast_with_overrides ORDER BY 1, 2"
    moved = [(level, target) for level, target, by in con.sql(sql).fetchall() if by]
    assert moved == [("region", week(3)), ("series", week(3))]


def test_accuracy_by_department(con):
    """90 was forecast of 100 and 60; the naive was wrong by 50 where it could say anything."""
    rows = con.sql("SELECT * FROM forecast_accuracy_by_department ORDER BY horizon").to_arrow_table().to_pylist()
    assert [row["horizon"] for row in rows] == [1, 2]
    assert rows[0] == {
        "week": week(3),
        "horizon": 1,
        "dept": "1",
        "stores": 2,
        "actual": 160.0,
        "p50": 180.0,
        "abs_error": 40.0,
        "wape": 0.25,
        "naive_wape": 0.5,
        "coverage": 0.5,
    }
