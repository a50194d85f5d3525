"""Blocks: a table given in parts is the table given whole, in bounded memory, and half of one is nothing."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.expressions import And, EqualTo

from forecast_platform.lake import blocks
from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.lake.maintenance import maintain
from forecast_platform.lake.tables import LakeError
from forecast_platform_tests.lake.conftest import QUANTILES, SPECS, clean_rows, one_week, snapshots, week
from forecast_platform_tests.processes import forked

TABLE = "cleaned_series"
LEVELS = (
    ("series", "1", "2"),
    ("series", "1", "3"),
    ("series", "20", "1"),
    ("store", "1", None),
    ("total", None, None),
)


def forecasts(p50: float = 1.0, weeks: int = 2, targets: int = 3, run_id: str = "run") -> pa.Table:
    """Rows of several weeks and levels, in the table's order."""
    rows = [
        {
            "forecast_week": week(w),
            "level": level,
            "store": store,
            "dept": dept,
            "target_week": week(w + h),
            "horizon": h,
            "p50": p50 + h,
            "run_id": run_id,
        }
        for w in range(weeks)
        for level, store, dept in LEVELS
        for h in range(1, targets + 1)
    ]
    return pa.Table.from_pylist(rows, schema=SPECS["forecasts"].schema)


def split(rows: pa.Table, ends: list[int]) -> Iterator[pa.Table]:
    ends = sorted({0, len(rows), *(min(end, len(rows)) for end in ends)})
    yield from (rows[start:end] for start, end in itertools.pairwise(ends))


def files(lake: Lake, name: str) -> set[Path]:
    return set(Path(lake.catalog.properties["warehouse"].removeprefix("file://"), "forecast", name).rglob("*.parquet"))


WHOLE = forecasts()


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ends=st.lists(st.integers(0, len(WHOLE))), group=st.integers(1, 12))
def test_blocks_split_anywhere_are_one_table(tmp_path_factory, ends, group):
    lake = Lake.local(tmp_path_factory.mktemp("lake"), QUANTILES)
    weeks = [week(0), week(1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SERIES_GROUP_ROWS", group)
        patch.setattr(blocks, "FILE_GROUPS", 2)
        assert lake.replace_weeks("forecasts", weeks, split(WHOLE, ends))
    assert lake.read("forecasts") == WHOLE
    assert lake.query("SELECT count(*) AS n, sum(p50) AS s FROM forecasts").to_pylist() == [{"n": 30, "s": 90.0}]
    named = files(lake, "forecasts")
    assert not lake.replace_weeks("forecasts", weeks, forecasts(run_id="another"))
    assert not lake.replace_weeks("forecasts", weeks, split(forecasts(run_id="another"), ends[::2]))
    assert files(lake, "forecasts") == named, "what was no news leaves no files"
    assert snapshots(lake, "forecasts") == 1
    assert lake.replace_weeks("forecasts", weeks, split(forecasts(p50=2.0), ends))
    assert lake.read("forecasts") == forecasts(p50=2.0)
    for path in files(lake, "forecasts") - named:
        for at in range(pq.read_metadata(path).num_row_groups):
            rows = pq.ParquetFile(path).read_row_group(at, ["forecast_week", "level"])
            assert len(rows) <= blocks.SERIES_GROUP_ROWS
            assert len(set(rows["level"].to_pylist())) == len(set(rows["forecast_week"].to_pylist())) == 1


class TestOrder:
    def test_a_key_that_comes_again_is_named_and_nothing_is_left(self, lake):
        rows = one_week(week(0), 1.0)
        with pytest.raises(LakeError, match=r'cleaned_series: two rows .*"week": "2024-01-05", "store": "4", "dept"'):
            lake.replace_weeks(TABLE, [week(0)], [rows, rows[4:]])
        assert lake.snapshot(TABLE) is None
        assert files(lake, TABLE) == set()

    def test_blocks_out_of_order_are_refused_because_a_key_could_come_again(self, lake):
        rows = one_week(week(0), 1.0)
        with pytest.raises(LakeError, match=r'in order, but .*"store": "0".* came after .*"store": "4"'):
            lake.replace_weeks(TABLE, [week(0)], [rows[3:], rows[:3]])

    def test_rows_within_a_block_may_come_in_any_order(self, lake):
        rows = one_week(week(0), 1.0)
        assert lake.replace_weeks(TABLE, [week(0)], [rows[:3].take([2, 0, 1]), rows[3:]])
        assert lake.read(TABLE) == rows

    def test_levels_and_weeks_may_take_turns(self, lake):
        """As shards do, each with its series and its part of the sums' levels."""
        rows = forecasts()
        series = [n for n, level in enumerate(rows["level"].to_pylist()) if level == "series"]
        others = [n for n in range(len(rows)) if n not in series]
        turns = [rows.take(series[:4]), rows.take(others[:3]), rows.take(series[4:]), rows.take(others[3:])]
        assert lake.replace_weeks("forecasts", [week(0), week(1)], turns)
        assert lake.read("forecasts") == rows

    def test_a_week_that_is_not_replaced_is_refused(self, lake):
        with pytest.raises(LakeError, match=r"rows of \['2024-01-12'\] are outside"):
            lake.replace_weeks(TABLE, [week(0)], [one_week(week(0), 1.0), one_week(week(1), 1.0)])
        assert files(lake, TABLE) == set()

    def test_an_error_of_whoever_makes_the_blocks_leaves_nothing(self, lake):
        def broken():
            yield one_week(week(0), 1.0)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            lake.replace_weeks(TABLE, [week(0)], broken())
        assert lake.snapshot(TABLE) is None
        assert files(lake, TABLE) == set()

    def test_no_blocks_empty_the_weeks(self, lake):
        lake.replace_weeks(TABLE, [week(0), week(1)], pa.concat_tables([one_week(week(n), 1.0) for n in range(2)]))
        assert lake.replace_weeks(TABLE, [week(0)], iter([]))
        assert set(lake.read(TABLE)["week"].to_pylist()) == {week(1)}
        assert not lake.replace_weeks(TABLE, [week(0)], [SPECS[TABLE].schema.empty_table()])


def test_a_reader_of_batches_is_blocks(lake):
    rows = one_week(week(0), 1.0, series=9)
    assert lake.replace(TABLE, any_of("week", [str(week(0))]), rows.to_reader(2))
    assert lake.read(TABLE) == rows


@pytest.mark.parametrize("change", [("sales", None), ("sales", 1.0000000001), ("observed", False), ("store", "00")])
def test_any_difference_is_news(lake, change):
    rows = one_week(week(0), 1.0, series=3)
    lake.replace_weeks(TABLE, [week(0)], [rows])
    column, value = change
    changed = pa.Table.from_pylist([rows.to_pylist()[0] | {column: value}], schema=rows.schema)
    assert lake.replace_weeks(TABLE, [week(0)], [changed, rows[1:]])
    assert lake.read(TABLE)[column].to_pylist()[0] == value


def test_values_exchanged_between_rows_are_news(lake):
    rows = clean_rows({(week(0), str(n), "1"): float(n) for n in range(4)})
    lake.replace_weeks(TABLE, [week(0)], [rows])
    exchanged = clean_rows({(week(0), str(n), "1"): float(n ^ 1) for n in range(4)})
    assert lake.replace_weeks(TABLE, [week(0)], [exchanged])
    assert lake.read(TABLE) == exchanged


def _killed_midway(warehouse: Path, after: int) -> None:
    def deadly() -> Iterator[pa.Table]:
        for number in range(10):
            if number == after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield clean_rows({(week(0), f"{number}{i}", "1"): 9.0 for i in range(5)})

    Lake.local(warehouse, QUANTILES).replace_weeks(TABLE, [week(0)], deadly())


@pytest.mark.kill
@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_writer_killed_midway_leaves_the_table_as_it_was(lake, warehouse, after, monkeypatch):
    rows = pa.concat_tables([one_week(week(n), 1.0) for n in range(2)])
    lake.replace_weeks(TABLE, [week(0), week(1)], rows)
    state = lake.snapshot(TABLE)
    process = forked().Process(target=_killed_midway, args=(warehouse, after))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert Lake.local(warehouse, QUANTILES).snapshot(TABLE) == state
    assert lake.read(TABLE) == rows
    assert lake.replace_weeks(TABLE, [week(0)], [one_week(week(0), 9.0)])


def _large(warehouse: Path, series: int) -> None:
    block = 50_000
    base = forecasts(weeks=1, targets=1)[:1]
    lake = Lake.local(warehouse, ())
    values = np.random.default_rng(0)

    def made() -> Iterator[pa.Table]:
        for start in range(0, series, block):
            n = min(block, series - start)
            columns = {f.name: pa.repeat(base[f.name][0], n) for f in lake.specs["forecasts"].schema}
            columns["store"] = pa.array([f"{i:08d}" for i in range(start, start + n)])
            columns["mean"] = pa.array(values.random(n))
            yield pa.table(columns)

    lake.table("forecasts")
    next(made())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lake.replace_weeks("forecasts", [week(0)], made())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 250_000, f"{grown} KB for {series} rows"


def test_memory_does_not_grow_with_the_table(warehouse):
    process = forked().Process(target=_large, args=(warehouse, 3_000_000))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def test_dates_of_a_moment_are_kept(lake):
    """Types pass through a file of ours as they do through one of pyiceberg's."""
    rows = one_week(week(0), 1.0, series=1)
    moment = pa.array([dt.datetime(2024, 1, 6, 12, tzinfo=dt.UTC)], rows.schema.field("landed_at").type)
    rows = rows.set_column(rows.schema.get_field_index("landed_at"), rows.schema.field("landed_at"), moment)
    lake.replace_weeks(TABLE, [week(0)], [rows])
    assert lake.read(TABLE) == rows
    assert lake.query(f"SELECT landed_at AS m FROM {TABLE}")["m"][0].as_py() == moment[0].as_py()


class TestMemory:
    """A query that has no memory left goes on on disk, below the home, and leaves nothing there."""

    LARGE = "SELECT md5(i::VARCHAR) AS text FROM range(3_000_000) AS t(i)"

    @pytest.fixture
    def lake(self, warehouse):
        return Lake.local(warehouse, QUANTILES, memory_gb=0.05)

    def test_what_does_not_fit_is_spilled_and_cleaned_up(self, lake, warehouse):
        with lake.connection(TABLE) as con:
            assert con.execute("SELECT current_setting('memory_limit')").fetchall() == [("47.6 MiB",)]
            con.execute(f"CREATE TEMP TABLE large AS {self.LARGE}")
            assert sum(path.stat().st_size for path in (warehouse / "spill").iterdir()) > 10_000_000
            lake.attach(con, TABLE)  # as a run does to see the newest state
        assert not (warehouse / "spill").exists()

    def test_so_is_what_people_ask(self, lake, warehouse):
        found = lake.query(f"SELECT count(*) AS n FROM (SELECT * FROM ({self.LARGE}) ORDER BY text OFFSET 1)")
        assert found.to_pylist() == [{"n": 2_999_999}]
        assert not (warehouse / "spill").exists()

    def test_what_a_killed_process_left_is_swept(self, lake, warehouse):
        left = warehouse / "spill" / "duckdb_temp_1_0_storage_DEFAULT-0.tmp"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"x")
        now = dt.datetime.now(dt.UTC)
        maintain(lake, keep=dt.timedelta(1), now=now)
        assert left.exists(), "it may be in use"
        maintain(lake, keep=dt.timedelta(1), now=now + dt.timedelta(2))
        assert not left.exists()


class TestBatches:
    def test_all_rows_some_at_a_time(self, lake):
        rows = pa.concat_tables([one_week(week(n), float(n), series=70_000) for n in range(2)])
        lake.replace_weeks(TABLE, [week(0), week(1)], rows)
        found = list(lake.batches(TABLE))
        assert len(found) > 2
        assert pa.Table.from_batches(found).sort_by([(c, "ascending") for c in SPECS[TABLE].key]) == rows.sort_by(
            [(c, "ascending") for c in SPECS[TABLE].key]
        )

    def test_filter_and_columns(self, lake):
        lake.replace_weeks(TABLE, [week(0), week(1)], pa.concat_tables([one_week(week(n), float(n)) for n in range(2)]))
        found = lake.batches(TABLE, EqualTo("week", str(week(1))), ["sales", "store"]).read_all()
        assert found.column_names == ["sales", "store"]
        assert set(found["sales"].to_pylist()) == {1.0}

    def test_an_empty_table_has_its_schema(self, lake):
        for name, spec in SPECS.items():
            assert lake.batches(name).read_all().schema.equals(spec.schema)


class TestWhatIsOpened:
    """Files that cannot hold what is asked for may be broken: nobody looks."""

    @staticmethod
    def break_all_but(lake: Lake, name: str, *parts: str) -> None:
        broken = [path for path in files(lake, name) if not any(part in str(path) for part in parts)]
        assert broken
        for path in broken:
            path.write_bytes(b"broken")

    @pytest.mark.parametrize("home", ["lake", "env=test"])
    def test_a_week_that_is_not_asked_for(self, tmp_path, home):
        lake = Lake.local(tmp_path / home, QUANTILES)
        for number in range(3):
            lake.replace_weeks(TABLE, [week(number)], one_week(week(number), float(number)))
        sql = f"SELECT * EXCLUDE (store) FROM {TABLE} WHERE week = (SELECT max(week) FROM {TABLE}) LIMIT 1"
        (row,) = lake.query(sql).to_pylist()
        assert list(row) == [c for c in SPECS[TABLE].schema.names if c != "store"]
        assert (row["week"], row["sales"]) == (week(2), 2.0)
        if home == "lake":  # another folder of such a name would be taken for a column
            self.break_all_but(lake, TABLE, str(week(1)), str(week(2)))  # the first is asked for its columns
            assert lake.query(f"SELECT sum(sales) AS s FROM {TABLE} WHERE week = ?", [week(1)]).to_pylist() == [
                {"s": 5.0}
            ]

    def test_only(self, lake, monkeypatch):
        monkeypatch.setattr(blocks, "SERIES_GROUP_ROWS", 3)
        monkeypatch.setattr(blocks, "FILE_GROUPS", 1)
        lake.replace_weeks("forecasts", [week(0)], forecasts(weeks=1))
        assert len(files(lake, "forecasts")) == len(LEVELS)
        lake.replace("calendar", any_of("source_key", ["a"]), SPECS["calendar"].schema.empty_table())
        for only, rows in (
            ({"level": ["series"], "store": ["1"], "dept": ["3"]}, [("1", "3")] * 3),
            ({"level": ["total"]}, [(None, None)] * 3),
            ({"store": ["1", "20"], "level": ["store"]}, [("1", None)] * 3),
            ({"store": ["unknown"]}, []),
        ):
            with lake.connection("forecasts", "calendar", only=only) as con:
                assert con.execute("SELECT store, dept FROM forecasts").fetchall() == rows
        whole = lake.query("SELECT count(*) AS n FROM forecasts").to_pylist()
        assert lake.query("SELECT count(*) AS n FROM forecasts", only={"target_week": [week(2)]}).to_pylist() == whole
        assert whole == [{"n": 15}]

    def test_other_weeks_and_stores_when_rows_are_read_by_a_filter(self, lake, monkeypatch):
        monkeypatch.setattr(blocks, "SERIES_GROUP_ROWS", 3)
        monkeypatch.setattr(blocks, "FILE_GROUPS", 1)
        lake.replace_weeks("forecasts", [week(0), week(1)], forecasts())
        where = And(EqualTo("forecast_week", str(week(1))), EqualTo("store", "20"))
        expected = lake.read("forecasts", where)
        (named,) = {task.file.file_path for task in lake.table("forecasts").scan(row_filter=where).plan_files()}
        self.break_all_but(lake, "forecasts", named.rpartition("/")[2])
        assert lake.read("forecasts", where) == expected
        assert len(expected) == 3
