"""The lake's promises: replaced whole, once, by anyone, while others read; and SQL that can only read."""

from __future__ import annotations

import datetime as dt
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, NoSuchTableError
from pyiceberg.expressions import EqualTo

from forecast_platform.lake.lake import Lake, any_of, run_columns, with_columns
from forecast_platform.lake.tables import COLUMNS, PROVENANCE, VIEWS, LakeError, about_column
from forecast_platform_tests.lake.conftest import (
    QUANTILES,
    SPECS,
    clean_rows,
    content,
    forecast_rows,
    one_week,
    snapshots,
    week,
)
from forecast_platform_tests.processes import forked

TABLE = "cleaned_series"


def test_everything_is_inside_the_warehouse(lake, warehouse):
    """Also when its name holds blanks and quotes, which an address would escape."""
    lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 1.0))
    assert {path.name for path in warehouse.parent.iterdir()} == {warehouse.name}
    assert len(list(warehouse.rglob("*.parquet"))) == 1
    assert lake.query(f"SELECT count(*) AS n FROM {TABLE}").to_pylist() == [{"n": 5}]


def test_a_folder_that_no_address_can_name_is_refused(tmp_path):
    with pytest.raises(LakeError, match="rename it"):
        Lake.local(tmp_path / "lake #1", QUANTILES).table(TABLE)


class TestReplace:
    def test_new_week(self, lake):
        assert lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 1.0))
        assert set(content(lake.read(TABLE)).values()) == {1.0}

    def test_a_replaced_week_leaves_no_trace_of_the_old_one_and_no_mark_on_others(self, lake):
        for number in range(3):
            lake.replace_weeks(TABLE, [week(number)], one_week(week(number), float(number), series=4))
        assert lake.replace_weeks(TABLE, [week(1)], clean_rows({(week(1), "9", "9"): None}))
        expected = {(week(n), str(i), "1"): float(n) for n in (0, 2) for i in range(4)} | {(week(1), "9", "9"): None}
        assert content(lake.read(TABLE)) == expected

    def test_many_weeks_are_one_commit(self, lake):
        weeks = [week(n) for n in range(30)]
        rows = pa.concat_tables([one_week(w, 1.0) for w in weeks])
        lake.replace_weeks(TABLE, weeks, rows)
        assert snapshots(lake) == 1
        lake.replace_weeks(TABLE, weeks, pa.concat_tables([one_week(w, 2.0, series=2) for w in weeks]))
        found = content(lake.read(TABLE))
        assert len(found) == 60
        assert set(found.values()) == {2.0}

    def test_weeks_without_rows_are_emptied(self, lake):
        weeks = [week(n) for n in range(3)]
        lake.replace_weeks(TABLE, weeks, pa.concat_tables([one_week(w, 1.0) for w in weeks]))
        lake.replace_weeks(TABLE, weeks[:2], one_week(weeks[1], 5.0, series=1))
        assert {w for w, _, _ in content(lake.read(TABLE))} == set(weeks[1:])
        assert lake.replace_weeks(TABLE, weeks, SPECS[TABLE].schema.empty_table())
        assert len(lake.read(TABLE)) == 0

    def test_an_empty_replacement_of_nothing_commits_nothing(self, lake):
        assert not lake.replace_weeks(TABLE, [week(0)], SPECS[TABLE].schema.empty_table())
        assert lake.snapshot(TABLE) is None

    def test_equal_content_commits_nothing_and_keeps_its_provenance(self, lake):
        lake.replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 3.0, run_id="first"))
        before = lake.read("forecasts")
        state = lake.snapshot("forecasts")
        again = forecast_rows(week(0), 3.0, run_id="second")
        shuffled = again.take([1, 0]).select(sorted(again.column_names))
        assert not lake.replace_weeks("forecasts", [week(0)], shuffled)
        assert lake.snapshot("forecasts") == state
        assert lake.read("forecasts") == before
        assert set(before["run_id"].to_pylist()) == {"first"}
        assert lake.replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 3.5, run_id="third"))
        assert set(lake.read("forecasts")["run_id"].to_pylist()) == {"third"}

    @pytest.mark.parametrize("change", [("sales", None), ("sales", 1.0000000001), ("observed", False)])
    def test_any_other_difference_is_committed(self, lake, change):
        rows = one_week(week(0), 1.0, series=1)
        lake.replace_weeks(TABLE, [week(0)], rows)
        column, value = change
        at = rows.column_names.index(column)
        changed = rows.set_column(at, rows.field(at), pa.array([value], rows.field(at).type))
        assert lake.replace_weeks(TABLE, [week(0)], changed)
        assert lake.read(TABLE)[column].to_pylist() == [value]

    def test_a_repeated_key_is_named_and_nothing_is_written(self, lake):
        rows = pa.concat_tables([one_week(week(0), 1.0), one_week(week(0), 2.0, series=1)])
        with pytest.raises(LakeError, match=r'cleaned_series: two rows .*"week": "2024-01-05", "store": "0", "dept"'):
            lake.replace_weeks(TABLE, [week(0)], rows)
        assert lake.snapshot(TABLE) is None

    def test_nulls_in_the_key_are_equal_to_each_other(self, lake):
        rows = forecast_rows(week(0), 1.0, targets=1)
        at = rows.column_names.index("dept")
        total = rows.set_column(at, "dept", pa.array([None], pa.string()))
        assert lake.replace_weeks("forecasts", [week(0)], pa.concat_tables([rows, total]))
        with pytest.raises(LakeError, match="two rows"):
            lake.replace_weeks("forecasts", [week(0)], pa.concat_tables([total, total]))

    def test_missing_columns_are_named(self, lake):
        with pytest.raises(LakeError, match=r"cleaned_series: rows lack the columns \['dept', 'sales'\]"):
            lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 1.0).drop_columns(["sales", "dept"]))

    def test_rows_of_a_week_that_is_not_replaced_are_refused(self, lake):
        with pytest.raises(LakeError, match=r"cleaned_series: rows of \['2024-01-12'\] are outside the weeks replaced"):
            lake.replace_weeks(TABLE, [week(0)], one_week(week(1), 1.0))

    def test_a_filter_on_other_columns_replaces_just_its_rows(self, lake):
        def calendar(source: str, *names: str) -> pa.Table:
            moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
            where = {"source_key": source, "source_version": "1", "landed_at": moment, "line": 2}
            rows = [{"name": n, "date": week(0), **where} for n in names]
            return pa.Table.from_pylist(rows, schema=SPECS["calendar"].schema)

        lake.replace("calendar", any_of("source_key", ["a"]), calendar("a", "easter", "labour"))
        lake.replace("calendar", any_of("source_key", ["b"]), calendar("b", "easter"))
        lake.replace("calendar", any_of("source_key", ["a"]), calendar("a", "carnival"))
        rows = [(r["source_key"], r["name"]) for r in lake.read("calendar").to_pylist()]
        assert rows == [("a", "carnival"), ("b", "easter")]

    def test_unknown_table(self, lake):
        with pytest.raises(LakeError, match="no table 'sales'; the lake holds landings, quarantine, raw_sales"):
            lake.table("sales")


class TestRead:
    def test_rows_come_in_key_order_whatever_the_order_written(self, lake):
        keys = {(week(n), s, d): 1.0 for n in (2, 0, 1) for s in ("2", "10", "1") for d in ("b", "a")}
        lake.replace_weeks(TABLE, {w for w, _, _ in keys}, clean_rows(keys))
        assert list(content(lake.read(TABLE))) == sorted(keys)

    def test_columns_are_those_asked_for_in_key_order(self, lake):
        lake.replace_weeks(TABLE, [week(0)], clean_rows({(week(0), s, "1"): float(s) for s in ("3", "1", "2")}))
        rows = lake.read(TABLE, columns=["sales"])
        assert rows.column_names == ["sales"]
        assert rows["sales"].to_pylist() == [1.0, 2.0, 3.0]

    def test_filter(self, lake):
        lake.replace_weeks(TABLE, [week(0), week(1)], pa.concat_tables([one_week(week(n), 1.0) for n in range(2)]))
        assert {w for w, _, _ in content(lake.read(TABLE, EqualTo("week", str(week(1)))))} == {week(1)}

    def test_empty_tables_have_their_schema(self, lake):
        for name, spec in SPECS.items():
            assert lake.read(name).schema == spec.schema

    def test_helpers(self):
        rows = with_columns(pa.table({"a": [1, 2]}), **run_columns("r"))
        assert rows.column_names == ["a", *PROVENANCE]
        assert rows["run_id"].to_pylist() == ["r", "r"]
        assert rows["created_at"][0].as_py().tzinfo is not None


class TestQuery:
    @pytest.fixture(scope="class")
    def warehouse(self, tmp_path_factory):
        return tmp_path_factory.mktemp("query") / "it's a lake"

    @pytest.fixture(scope="class")
    def filled(self, warehouse):
        lake = Lake.local(warehouse, QUANTILES)
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 2.0, series=3))
        for number, p50 in enumerate((10.0, 11.0)):
            lake.replace_weeks("forecasts", [week(number)], forecast_rows(week(number), p50))
        for name in lake.specs:
            lake.table(name)
        return lake

    def test_every_table_and_view_answers_also_when_empty(self, tmp_path):
        con = Lake.local(tmp_path / "lake", QUANTILES).attach(duckdb.connect())
        for name in [*SPECS, *VIEWS]:
            assert con.execute(f"SELECT count(*) FROM {name}").fetchall() == [(0,)]

    def test_cursors_of_an_attached_connection_see_every_table(self, another):
        """Filled, empty and widened ones: each thread of a dashboard has a cursor of its own."""
        another(QUANTILES).replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 1.0))
        con = another(("p5", *QUANTILES)).attach(duckdb.connect())
        with ThreadPoolExecutor(1) as pool:
            for name in [*SPECS, *VIEWS]:
                (rows,) = pool.submit(
                    lambda n: con.cursor().execute(f"SELECT count(*) FROM {n}").fetchone(), name
                ).result()
                assert rows == (2 if name in ("forecasts", "latest_forecast", "forecast_with_overrides") else 0)

    def test_parameters_are_bound_and_never_read_as_sql(self, filled):
        sql = f"SELECT count(*) AS n FROM {TABLE} WHERE store = ? AND week = ?"
        assert filled.query(sql, ["1", week(0)]).to_pylist() == [{"n": 1}]
        assert filled.query(sql, ["1' OR '1' = '1", week(0)]).to_pylist() == [{"n": 0}]
        named = f"SELECT sum(sales) AS s FROM {TABLE} WHERE week = $w"
        assert filled.query(named, {"w": week(0)}).to_pylist() == [{"s": 6.0}]

    def test_latest_forecast_and_revisions(self, filled):
        assert {r["forecast_week"] for r in filled.query("SELECT * FROM latest_forecast").to_pylist()} == {week(1)}
        (row,) = filled.query("SELECT * FROM forecast_revisions").to_pylist()
        assert row | {"level": "", "store": "", "dept": ""} == {
            "forecast_week": week(1),
            "level": "",
            "store": "",
            "dept": "",
            "member": None,
            "target_week": week(2),
            "p50": 11.0,
            "previous_week": week(0),
            "previous_p50": 10.0,
            "change": 1.0,
        }

    @pytest.mark.parametrize(
        "sql", ["DESCRIBE forecasts", "SHOW TABLES", f"SUMMARIZE {TABLE}", f"FROM {TABLE}", "VALUES (1)"]
    )
    def test_other_ways_to_read(self, filled, sql):
        assert len(filled.query(sql)) > 0

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM read_text('/etc/hosts')",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM glob('/etc/*')",
            "SELECT * FROM read_csv('{lake}/../secret.csv')",
            "SELECT getenv('HOME')",
        ],
    )
    def test_files_outside_are_closed(self, filled, warehouse, sql):
        (warehouse.parent / "secret.csv").write_text("a\n1\n")
        folder = str(warehouse).replace("'", "''")
        with pytest.raises(LakeError):
            filled.query(sql.replace("{lake}", folder))

    @pytest.mark.parametrize("sql", [
        "COPY (SELECT 1 AS a) TO '{lake}/new.parquet'",
        "COPY (SELECT 1 AS a) TO '{lake}/../new.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{lake}/new.parquet'",
        "SELECT 1; COPY (SELECT 1 AS a) TO '{lake}/new.parquet'",
        "EXPORT DATABASE '{lake}/new'",
        "ATTACH '{lake}/new.duckdb' AS other",
        "ATTACH '{lake}/catalog.db' AS other",
        "CREATE TABLE new AS SELECT 1 AS a",
        "INSERT INTO cleaned_series VALUES (1)",
        "DELETE FROM cleaned_series",
        "DROP VIEW cleaned_series",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ])  # fmt: skip
    def test_nothing_can_be_written(self, filled, warehouse, sql):
        def everything():
            return {p: p.read_bytes() for p in warehouse.parent.rglob("*") if p.is_file()}

        before = everything()
        folder = str(warehouse).replace("'", "''")
        with pytest.raises(LakeError, match="Tables and views: landings"):
            filled.query(sql.replace("{lake}", folder))
        assert everything() == before

    def test_a_data_file_of_the_lake_cannot_be_overwritten(self, filled):
        path = filled.table(TABLE).inspect.files()["file_path"][0].as_py().removeprefix("file://").replace("'", "''")
        with pytest.raises(LakeError, match="only SELECT"):
            filled.query(f"COPY (SELECT 0 AS sales) TO '{path}'")
        assert set(content(filled.read(TABLE)).values()) == {2.0}

    @pytest.mark.parametrize("sql", ["SELECT * FROM nothing", "SELEC 1", "", "-- just a comment", "SELECT 1; SELECT 2"])
    def test_errors_list_what_there_is_to_ask(self, filled, sql):
        with pytest.raises(LakeError, match=f"Tables and views: .*{TABLE}.*latest_forecast"):
            filled.query(sql)

    def test_attached_connections_see_the_lake_as_of_now(self, filled):
        con = filled.attach(duckdb.connect())
        filled.replace_weeks(TABLE, [week(0)], one_week(week(0), 7.0))
        assert con.execute(f"SELECT max(sales) FROM {TABLE}").fetchall() == [(2.0,)]
        assert filled.attach(con).execute(f"SELECT max(sales) FROM {TABLE}").fetchall() == [(7.0,)]
        filled.replace_weeks(TABLE, [week(0)], one_week(week(0), 2.0, series=3))


class TestWidened:
    """Settings gained quantiles: the table gains columns, and old rows hold null there."""

    WIDE = ("p5", *QUANTILES, "p95")

    @pytest.fixture
    def wide(self, lake, another):
        lake.replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 1.0))
        return another(self.WIDE)

    def test_old_rows_are_null_and_queries_work_before_anything_new_is_written(self, wide):
        rows = wide.read("forecasts")
        assert rows["p5"].to_pylist() == [None, None]
        assert rows["p50"].to_pylist() == [1.0, 1.0]
        assert rows.schema.names == [*wide.specs["forecasts"].schema.names]
        asked = wide.query("SELECT p5, p50, p95 FROM latest_forecast")
        assert asked.to_pylist() == [{"p5": None, "p50": 1.0, "p95": None}] * 2

    def test_old_and_new_rows_together(self, wide):
        wide.replace_weeks("forecasts", [week(1)], forecast_rows(week(1), 2.0, quantiles=self.WIDE))
        sql = "SELECT DISTINCT forecast_week, p5, p50 FROM forecasts ORDER BY 1"
        assert [tuple(r.values()) for r in wide.query(sql).to_pylist()] == [(week(0), None, 1.0), (week(1), 2.0, 2.0)]
        assert wide.replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 1.0, quantiles=self.WIDE))
        assert wide.read("forecasts")["p95"].null_count == 0

    def test_a_lake_with_fewer_quantiles_still_reads_and_writes(self, wide, lake):
        wide.replace_weeks("forecasts", [week(1)], forecast_rows(week(1), 2.0, quantiles=self.WIDE))
        assert lake.read("forecasts").schema.names == [*lake.specs["forecasts"].schema.names]
        assert not lake.replace_weeks("forecasts", [week(1)], forecast_rows(week(1), 2.0))
        assert lake.replace_weeks("forecasts", [week(2)], forecast_rows(week(2), 3.0))
        assert wide.query("SELECT p5, p50 FROM latest_forecast LIMIT 1").to_pylist() == [{"p5": None, "p50": 3.0}]

    def test_widened_by_two_at_once(self, lake, another):
        lake.table("forecasts")
        wider = [another((*QUANTILES, f"p{i}")) for i in (20, 20, 30, 40)]
        start = threading.Barrier(len(wider))

        def widen(one: Lake) -> list[str]:
            start.wait()
            return one.table("forecasts").schema().column_names

        with ThreadPoolExecutor(len(wider)) as pool:
            names = list(pool.map(widen, wider))
        assert all({f"p{i}"} <= set(found) for i, found in zip((20, 20, 30, 40), names, strict=True))
        assert {"p20", "p30", "p40"} <= set(lake.table("forecasts").schema().column_names)


# Concurrency: each writer and reader has its own Lake, as each process has.


def _write(warehouse: Path, weeks: list[dt.date], sales: float, rounds: int, start=None) -> int:
    lake = Lake.local(warehouse, QUANTILES)
    if start:
        start.wait()
    return sum(lake.replace_weeks(TABLE, [w], one_week(w, sales + i)) for i in range(rounds) for w in weeks)


def test_writers_of_different_weeks_all_win(warehouse):
    Lake.local(warehouse, QUANTILES).table(TABLE)
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(_write, warehouse, [week(n)], 100.0 * n, 4, start) for n in range(4)]
        assert [job.result() for job in jobs] == [4] * 4
    lake = Lake.local(warehouse, QUANTILES)
    assert content(lake.read(TABLE)) == {(week(n), str(i), "1"): 100.0 * n + 3 for n in range(4) for i in range(5)}
    assert snapshots(lake) == 4 + 3 * 4 * 2, "a first write is one snapshot, a replacement a delete and an append"


@pytest.mark.parametrize("existing", [False, True], ids=["a new week", "an existing week"])
def test_writers_of_the_same_week_leave_the_rows_of_one(warehouse, existing):
    lake = Lake.local(warehouse, QUANTILES)
    lake.table(TABLE)
    for round_ in range(3):
        target = week(0 if existing else round_)
        if existing:
            lake.replace_weeks(TABLE, [target], one_week(target, -1.0 - round_))
        start = threading.Barrier(3)
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(_write, warehouse, [target], 10.0 * n, 1, start) for n in range(3)]
            assert [job.result() for job in jobs] == [1, 1, 1]
        found = content(lake.read(TABLE, any_of("week", [str(target)])))
        assert len(found) == 5
        assert len(set(found.values())) == 1
        assert set(found.values()) <= {0.0, 10.0, 20.0}


def test_readers_never_see_half_a_week(warehouse):
    lake = Lake.local(warehouse, QUANTILES)
    _write(warehouse, [week(0), week(1)], 0.0, 1)
    done, seen = threading.Event(), []

    def read_rows() -> None:
        reader = Lake.local(warehouse, QUANTILES)
        while not done.is_set():
            seen.append(reader.read(TABLE, EqualTo("week", str(week(0))), ["sales"])["sales"].to_pylist())

    def read_sql() -> None:
        reader = Lake.local(warehouse, QUANTILES)
        reader.specs = {
            name: reader.specs[name]
            for name in (
                TABLE,
                "forecasts",
                "forecast_accuracy",
                "lead_time_demand",
                "level_members",
                "overrides",
                "run_failures",
            )
        }  # those only
        while not done.is_set():
            rows = reader.query(f"SELECT sales FROM {TABLE} WHERE week = ?", [week(0)])
            seen.append(rows["sales"].to_pylist())

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read_rows), pool.submit(read_sql)]
        try:
            _write(warehouse, [week(0)], 1.0, 15)
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert len(seen) > 10
    assert all(len(values) == 5 and len(set(values)) == 1 for values in seen)
    assert lake.read(TABLE, EqualTo("week", str(week(0))))["sales"].to_pylist() == [15.0] * 5


def _first_use(warehouse: Path, number: int) -> None:
    lake = Lake.local(warehouse, QUANTILES)
    for name in lake.specs:
        lake.table(name)
    lake.replace_weeks(TABLE, [week(number)], one_week(week(number), float(number)))


@pytest.mark.kill
def test_two_processes_create_the_lake_at_once(warehouse):
    processes = [forked().Process(target=_first_use, args=(warehouse, n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0]
    lake = Lake.local(warehouse, QUANTILES)
    assert content(lake.read(TABLE)) == {(week(n), str(i), "1"): float(n) for n in range(2) for i in range(5)}
    assert len(lake.table(TABLE).specs()[lake.table(TABLE).metadata.default_spec_id].fields) == 1


def test_a_table_created_by_another_between_look_and_create(lake, another, monkeypatch):
    other = another(QUANTILES)
    catalog = lake.catalog
    load, calls = catalog.load_table, []

    def late(identifier):
        calls.append(identifier)
        if len(calls) == 1:
            other.table(TABLE)
            raise NoSuchTableError("not yet, when we looked")
        return load(identifier)

    monkeypatch.setattr(catalog, "load_table", late)
    assert lake.table(TABLE).metadata.table_uuid == other.table(TABLE).metadata.table_uuid


# Commits whose outcome is unknown: a lost reply, a timeout, a 5xx.


class Unreliable:
    """A catalog's commit that does or does not land and then reports what it likes."""

    def __init__(self, monkeypatch, lake: Lake, lands: bool, error: type[Exception], times: int = 1) -> None:
        catalog = lake.catalog
        self.commits = 0
        commit = catalog.commit_table

        def unreliable(*arguments, **named):
            self.commits += 1
            answer = commit(*arguments, **named) if lands or self.commits > times else None
            if self.commits <= times:
                raise error("504 gateway timeout")
            return answer

        monkeypatch.setattr(catalog, "commit_table", unreliable)


def _files_named(lake: Lake) -> set[Path]:
    """Files every snapshot of the table needs."""
    table = lake.table(TABLE)
    named = {table.metadata_location}
    for snapshot in table.metadata.snapshots:
        named.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            named.add(manifest.manifest_path)
            named |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
    return {Path(name.removeprefix("file://")) for name in named}


@pytest.fixture
def two_weeks(lake):
    lake.replace_weeks(TABLE, [week(0), week(1)], pa.concat_tables([one_week(week(n), float(n)) for n in range(2)]))
    return lake


AFTER = {(week(0), str(i), "1"): 9.0 for i in range(5)} | {(week(1), str(i), "1"): 1.0 for i in range(5)}


def test_commit_that_landed_but_was_reported_unknown_is_not_written_twice(two_weeks, warehouse, monkeypatch):
    catalog = Unreliable(monkeypatch, two_weeks, lands=True, error=CommitStateUnknownException)
    before = {p for p in warehouse.rglob("*") if p.is_file()}
    assert two_weeks.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0)), "the table changed, and we changed it"
    assert catalog.commits == 1
    assert snapshots(two_weeks) == 3
    assert content(two_weeks.read(TABLE)) == AFTER
    assert before <= set(warehouse.rglob("*")), "a file was deleted"
    assert all(path.exists() for path in _files_named(two_weeks))


def test_commit_that_did_not_land_and_was_reported_unknown_is_tried_again(two_weeks, warehouse, monkeypatch):
    catalog = Unreliable(monkeypatch, two_weeks, lands=False, error=CommitStateUnknownException, times=2)
    before = {p for p in warehouse.rglob("*") if p.is_file()}
    assert two_weeks.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0))
    assert catalog.commits == 3
    assert content(two_weeks.read(TABLE)) == AFTER
    assert before <= set(warehouse.rglob("*"))
    assert all(path.exists() for path in _files_named(two_weeks))


@pytest.mark.parametrize("lands", [True, False])
def test_a_commit_reported_failed_ends_in_the_same_rows_whether_it_landed_or_not(two_weeks, monkeypatch, lands):
    Unreliable(monkeypatch, two_weeks, lands=lands, error=CommitFailedException)
    assert two_weeks.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0))
    assert snapshots(two_weeks) == 3
    assert content(two_weeks.read(TABLE)) == AFTER
    assert all(path.exists() for path in _files_named(two_weeks))


@pytest.mark.parametrize("lands", [True, False])
def test_an_error_nobody_foresaw_is_raised_and_a_rerun_mends_it(two_weeks, monkeypatch, lands):
    Unreliable(monkeypatch, two_weeks, lands=lands, error=OSError)
    with pytest.raises(OSError, match="gateway"):
        two_weeks.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0))
    assert all(path.exists() for path in _files_named(two_weeks)), "what may have landed keeps its files"
    assert two_weeks.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0)) is not lands
    assert content(two_weeks.read(TABLE)) == AFTER


def test_a_writer_that_never_wins_gives_up_with_a_word(two_weeks, monkeypatch):
    monkeypatch.setattr("forecast_platform.lake.lake.time.sleep", lambda seconds: None)
    catalog = Unreliable(monkeypatch, two_weeks, lands=False, error=CommitStateUnknownException, times=10**6)
    with pytest.raises(LakeError, match="cleaned_series: 20 commits in a row"):
        two_weeks.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0))
    assert catalog.commits == 20


# Whatever the sequence of writes, the table equals a dictionary.

_WEEKS = st.sets(st.sampled_from([week(n) for n in range(4)]), min_size=1)
_SERIES = st.sampled_from(["1", "2", "10"])


class LakeIsADictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.lake = Lake.local(Path(self.folder.name), QUANTILES)
        self.model: dict[tuple[dt.date, str, str], float | None] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(weeks=_WEEKS, data=st.data())
    def replace(self, weeks, data):
        values = st.one_of(st.none(), st.floats(-1e6, 1e6))
        keys = st.tuples(st.sampled_from(sorted(weeks)), _SERIES, _SERIES)
        rows = data.draw(st.dictionaries(keys, values, max_size=6))
        old = {key: v for key, v in self.model.items() if key[0] in weeks}
        assert self.lake.replace_weeks(TABLE, weeks, clean_rows(rows)) == (old != rows)
        self.model = {key: v for key, v in self.model.items() if key[0] not in weeks} | rows

    @rule(weeks=_WEEKS)
    def replace_by_the_same(self, weeks):
        state = self.lake.snapshot(TABLE)
        rows = {key: v for key, v in self.model.items() if key[0] in weeks}
        assert not self.lake.replace_weeks(TABLE, weeks, clean_rows(rows))
        assert self.lake.snapshot(TABLE) == state

    @rule()
    def open_again(self):
        self.lake = Lake.local(Path(self.folder.name), QUANTILES)

    @rule(one=st.sampled_from([week(n) for n in range(4)]))
    def read_a_week(self, one):
        rows = self.lake.read(TABLE, any_of("week", [str(one)]))
        assert content(rows) == {key: v for key, v in self.model.items() if key[0] == one}

    @invariant()
    def all_rows_are_there_in_order(self):
        found = content(self.lake.read(TABLE))
        assert found == self.model
        assert list(found) == sorted(found)


TestLakeIsADictionary = LakeIsADictionary.TestCase
TestLakeIsADictionary.settings = settings(max_examples=12, stateful_step_count=8, deadline=None, derandomize=True)


def test_columns_that_came_with_a_new_version_are_there_before_anything_is_written(another):
    """Nobody has to write first: pages and commands of a new version open the home of an old one."""
    another(("p10", "p50", "p90")).replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 5.0))
    newer = another(("p5", "p50", "p95"))
    found = newer.query("SELECT p5, p10, p50 FROM forecasts ORDER BY target_week")
    assert found["p5"].null_count == len(found) == 2
    assert found["p10"].null_count == 0


def test_every_column_says_what_it_means_also_in_the_lake(lake: Lake):
    """And nothing is said of columns there are not."""
    said = set()
    for name, spec in lake.specs.items():
        for field in spec.schema:
            about = field.metadata[b"doc"].decode()
            assert about == about_column(name, field.name)
            assert about.endswith("."), f"{name}.{field.name}"
            assert lake.table(name).schema().find_field(field.name).doc == about
            said |= {field.name, f"{name}.{field.name}"}
    assert set(COLUMNS) <= said
    with pytest.raises(KeyError):
        about_column("forecasts", "made_up")
