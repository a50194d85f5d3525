"""A forecast in somebody's table: what changed is exchanged, in one transaction, on a real PostgreSQL."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform.databases import DatabaseError, connected, without_password
from forecast_platform.publishing.exports import ExportRows, Selection
from forecast_platform.publishing.warehouse import Written, write_table
from forecast_platform_tests.postgres import Postgres

WEEK = dt.date(2025, 1, 31)
SCHEMA = pa.schema(
    {"forecast_week": pa.date32(), "level": pa.string(), "store": pa.string(), "store_name": pa.string(),
     "dept": pa.string(), "member": pa.string(), "target_week": pa.date32(), "horizon": pa.int32(),
     "plan": pa.float64(), "override": pa.float64(), "p50": pa.float64()}
)  # fmt: skip
ALL = Selection()


class Run:
    """A week's forecast of some stores, as it is exported."""

    def __init__(self, folder: Path, week: dt.date = WEEK) -> None:
        self.folder, self.week = folder, week
        self.rows: dict[tuple[str, str | None], dict[str, Any]] = {}

    def has(self, store: str | None, plan: float, name: str | None = None) -> Run:
        level = "store" if store else "total"
        target = self.week + dt.timedelta(days=7)
        self.rows[level, store] = {
            "forecast_week": self.week, "level": level, "store": store, "store_name": name, "target_week": target,
            "horizon": 1, "plan": plan, "p50": plan,
        }  # fmt: skip
        return self

    def write(self, url: str, chosen: Selection = ALL, schema: pa.Schema = SCHEMA, table: str = "forecasts") -> Written:
        path = self.folder / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(list(self.rows.values()), schema), path)
        return write_table(url, table, ExportRows(path, len(self.rows), 2), self.week, chosen)


def plans(database: Postgres) -> list[tuple[object, ...]]:
    return database.run("SELECT forecast_week::text, level, store, plan FROM forecasts ORDER BY 1, 2, 3")


def test_what_changed_is_exchanged_and_the_rest_is_left_alone(database: Postgres, tmp_path: Path) -> None:
    url, run = database.url, Run(tmp_path).has(None, 30).has("1", 10, "O'Hara; =1+1").has("2", 20)
    assert run.write(url) == Written(3, 3, 0)
    first = database.run("SELECT max(exported_at) FROM forecasts")
    assert run.write(url) == Written(3, 0, 0)
    del run.rows["store", "2"]
    assert run.has(None, 31).has("3", 5).write(url) == Written(3, 2, 2)
    assert plans(database) == [
        (str(WEEK), "store", "1", 10),
        (str(WEEK), "store", "3", 5),
        (str(WEEK), "total", "", 31),
    ]
    assert database.run("SELECT exported_at, store_name FROM forecasts WHERE store = '1'") == [
        (*first[0], "O'Hara; =1+1")
    ]

    before = Run(tmp_path, WEEK - dt.timedelta(days=7)).has("1", 9)
    assert before.write(url) == Written(1, 1, 0)
    assert len(plans(database)) == 4
    # A part of the week leaves its other rows.
    part = Run(tmp_path).has("1", 11)
    assert part.write(url, Selection(stores=("1",))) == Written(1, 1, 1)
    assert len(plans(database)) == 4
    key = database.run(
        "SELECT string_agg(a.attname, ' ' ORDER BY a.attnum) FROM pg_index i JOIN pg_attribute a "
        "ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
        "WHERE i.indrelid = 'forecasts'::regclass AND i.indisprimary"
    )
    assert key == [("forecast_week level store dept member target_week",)]


def test_a_quantile_that_is_new_becomes_a_column(database: Postgres, tmp_path: Path) -> None:
    run = Run(tmp_path).has("1", 10)
    run.write(database.url)
    run.rows["store", "1"]["p90"] = 12.0
    assert run.write(database.url, schema=SCHEMA.append(pa.field("p90", pa.float64()))) == Written(1, 1, 1)
    assert database.run("SELECT p50, p90 FROM forecasts") == [(10, 12)]
    # Without it again nothing stands there that a run before has said.
    assert run.write(database.url) == Written(1, 1, 1)
    assert database.run("SELECT p50, p90 FROM forecasts") == [(10, None)]
    assert run.write(database.url) == Written(1, 0, 0)


def test_who_dies_in_between_leaves_the_forecast_of_before(database: Postgres, tmp_path: Path) -> None:
    run = Run(tmp_path).has("1", 10)
    run.write(database.url)
    database.run("ALTER TABLE forecasts ADD CHECK (plan < 100)")
    with pytest.raises(DatabaseError, match="violates check constraint"):
        run.has("1", 1000).has("2", 20).write(database.url)
    assert plans(database) == [(str(WEEK), "store", "1", 10)]

    def die() -> None:
        with connected(database.url) as con, con.cursor() as cursor:
            cursor.execute("DELETE FROM forecasts")
            raise KeyError

    with pytest.raises(KeyError):
        die()
    assert len(plans(database)) == 1


def test_a_table_of_somebody_elses_is_not_touched(database: Postgres, tmp_path: Path) -> None:
    database.run(
        "CREATE TABLE forecasts (forecast_week date, note text)", "INSERT INTO forecasts VALUES (now(), 'mine')"
    )
    run = Run(tmp_path).has("1", 10)
    with pytest.raises(DatabaseError, match="is another one, it has no column level"):
        run.write(database.url)
    assert database.run("SELECT note FROM forecasts") == [("mine",)]
    with pytest.raises(DatabaseError, match="no name of a table"):
        run.write(database.url, table="forecasts; DROP TABLE forecasts")
    database.run("CREATE SCHEMA plans")
    assert run.write(database.url, table="plans.forecasts").inserted == 1
    with pytest.raises(DatabaseError, match='schema "none" does not exist'):
        run.write(database.url, table="none.forecasts")


def test_people_go_on_reading_while_two_write(database: Postgres, tmp_path: Path) -> None:
    """The second waits for the first, and neither fails by the key."""
    import threading

    url = database.with_password
    Run(tmp_path).has("1", 1).write(url)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    runs = [Run(tmp_path / "a").has("1", 2).has("2", 2), Run(tmp_path / "b").has("1", 3).has("2", 3)]
    troubles: list[Exception] = []

    def write(run: Run) -> None:
        try:
            run.write(url)
        except Exception as error:
            troubles.append(error)

    with connected(url) as con, con.cursor() as cursor:
        cursor.execute("LOCK TABLE forecasts IN SHARE ROW EXCLUSIVE MODE")
        threads = [threading.Thread(target=write, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        assert plans(database) == [(str(WEEK), "store", "1", 1)]
    for thread in threads:
        thread.join()
    assert troubles == []
    assert {row[3] for row in plans(database)} in ({2}, {3})
    assert len(plans(database)) == 2


def test_another_warehouse_takes_it_by_the_same_sql(tmp_path: Path) -> None:
    url, run = f"sqlite:///{tmp_path}/w.db", Run(tmp_path).has("1", 10).has("2", 20)
    for _ in range(2):
        assert run.write(url).rows == 2
    del run.rows["store", "2"]
    run.has("1", 11).write(url)
    with connected(url) as con, con.cursor() as cursor:
        cursor.execute("SELECT forecast_week, store, plan FROM forecasts")
        assert cursor.fetchall() == [(str(WEEK), "1", 11.0)]


def test_an_address_is_shown_as_it_was_given_but_for_its_password() -> None:
    plain = "postgresql://planner@db/shop?sslmode=require"
    assert without_password("sqlite:///here.db") == "sqlite:///here.db"
    assert without_password(plain) == plain
    assert without_password(plain.replace("@", ":s3cret@")) == plain
