"""Maintenance: old files vanish, and nothing that anybody could still need does."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.stub import Stubber
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.expressions import EqualTo

from forecast_platform.clouds.aws.files import BucketFiles
from forecast_platform.clouds.aws.glue import glue_lake
from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.lake.maintenance import Report, TableReport, maintain, merge
from forecast_platform.landing.ledger import Ledger
from forecast_platform_tests.lake.conftest import QUANTILES, content, forecast_rows, one_week, snapshots, week
from forecast_platform_tests.processes import forked

TABLE = "cleaned_series"
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def later(days: float) -> dt.datetime:
    """The files written so far are that old at this time."""
    return now() + days * DAY


def files(warehouse: Path, table: str = TABLE) -> set[Path]:
    return {p for p in (warehouse / "forecast" / table).rglob("*") if p.is_file()}


def of(report: Report, name: str = TABLE) -> TableReport:
    (table,) = (t for t in report.tables if t.name == name)
    return table


@pytest.fixture
def worn(lake) -> Lake:
    return wear(lake)


def wear(lake: Lake) -> Lake:
    """A lake of two weeks, one of them replaced many times, and a second table."""
    for i in range(4):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), float(i)))
    lake.replace_weeks(TABLE, [week(1)], one_week(week(1), 100.0))
    lake.replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 1.0))
    return lake


EXPECTED = {(week(n), str(i), "1"): v for n, v in ((0, 3.0), (1, 100.0)) for i in range(5)}


def test_after_many_replacements_old_files_vanish_and_all_rows_stay(worn, warehouse):
    before, sizes = files(warehouse), {p: p.stat().st_size for p in files(warehouse)}
    report = maintain(worn, keep=7 * DAY, now=later(30))
    after = files(warehouse)
    done = of(report)
    assert done.expired == 7
    assert snapshots(worn) == 1
    assert done.deleted == len(before - after) > 10
    assert done.deleted_bytes == sum(sizes[p] for p in before - after)
    assert (done.left, done.left_bytes) == (len(after), sum(p.stat().st_size for p in after))
    assert len([p for p in after if p.suffix == ".parquet"]) == 2
    assert content(worn.read(TABLE)) == EXPECTED
    assert content(Lake.local(warehouse, QUANTILES).read(TABLE)) == EXPECTED
    assert worn.query(f"SELECT sum(sales) AS s FROM {TABLE}").to_pylist() == [{"s": 515.0}]
    assert len(worn.read("forecasts")) == 2
    assert "cleaned_series: 0 small files merged, 7 states forgotten" in str(report)


def test_a_second_maintenance_changes_nothing_but_metadata(worn, warehouse):
    maintain(worn, keep=7 * DAY, now=later(30))
    state, before = worn.table(TABLE).metadata_location, files(warehouse)
    assert of(maintain(worn, keep=7 * DAY, now=later(30))).expired == 0
    assert worn.table(TABLE).metadata_location == state
    assert {p for p in before if p.suffix == ".parquet"} <= files(warehouse)


def test_the_table_is_written_on_after_maintenance(worn):
    maintain(worn, keep=DAY, now=later(30))
    assert worn.replace_weeks(TABLE, [week(0)], one_week(week(0), 8.0))
    assert not worn.replace_weeks(TABLE, [week(1)], one_week(week(1), 100.0))
    assert set(content(worn.read(TABLE)).values()) == {8.0, 100.0}


def test_nothing_happens_to_what_is_young(worn, warehouse):
    before = files(warehouse)
    report = maintain(worn, keep=dt.timedelta(0), now=now())
    assert of(report).expired == of(report).deleted == 0
    assert files(warehouse) == before
    assert snapshots(worn) == 8


def test_readers_who_opened_the_table_within_the_grace_keep_working(worn, warehouse):
    """keep = 0 asks to forget at once; whoever opened a state less than `grace` ago still finds its files."""
    scan = worn.table(TABLE).scan()
    connection = worn.attach(duckdb.connect())
    worn.replace_weeks(TABLE, [week(0)], one_week(week(0), 50.0))
    for path in files(warehouse):  # written long ago, replaced just now
        os.utime(path, (0, 0))
    maintain(worn, keep=dt.timedelta(0), now=now() + 23 * HOUR)
    assert content(scan.to_arrow()) == EXPECTED
    assert connection.execute(f"SELECT max(sales) FROM {TABLE} WHERE week = ?", [week(0)]).fetchall() == [(3.0,)]


def test_files_of_a_commit_under_way_are_left_alone_until_they_are_old(worn, warehouse):
    orphan = warehouse / "forecast" / TABLE / "data" / "week=2024-01-05" / "uncommitted.parquet"
    pq.write_table(one_week(week(0), 1.0), orphan)
    old = later(30).timestamp()
    os.utime(orphan, (old - 3600, old - 3600))
    maintain(worn, keep=DAY, now=later(30))
    assert orphan.exists()
    maintain(worn, keep=DAY, now=later(32))
    assert not orphan.exists()


@pytest.mark.parametrize("lands", [True, False])
def test_a_commit_of_unknown_outcome_keeps_its_files_while_it_can_still_land(worn, warehouse, monkeypatch, lands):
    commit = worn.catalog.commit_table
    held = []

    def lost(*arguments, **named):
        held.append((arguments, named))
        if lands:
            commit(*arguments, **named)
        raise KeyboardInterrupt("killed while waiting for the reply")

    monkeypatch.setattr(worn.catalog, "commit_table", lost)
    with pytest.raises(KeyboardInterrupt):
        worn.replace_weeks(TABLE, [week(2)], one_week(week(2), 3.0))
    monkeypatch.undo()
    maintain(worn, keep=dt.timedelta(0), now=now() + 20 * HOUR)
    if not lands:  # the request was only slow, and lands now
        worn.catalog.commit_table(*held[0][0], **held[0][1])
    assert content(worn.read(TABLE)) == EXPECTED | {(week(2), str(i), "1"): 3.0 for i in range(5)}


def test_time_travel_within_keep_still_works(lake, warehouse):
    """Also to a moment whose state was written long before and replaced a while after."""
    states = []
    for i in range(4):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), float(i)))
        states.append((lake.snapshot(TABLE), now()))
    moment = states[1][1]
    # `keep` begins between the second and the third write: the second was in force then and has to stay.
    report = maintain(lake, keep=10 * DAY, now=moment + 10 * DAY)
    assert of(report).expired == 2  # the first state, and the deletion on the way to the second
    table = lake.table(TABLE)
    assert table.snapshot_as_of_timestamp(int(moment.timestamp() * 1000)).snapshot_id == states[1][0]
    for i in (1, 2, 3):
        rows = table.scan(snapshot_id=states[i][0]).to_arrow()
        assert set(content(rows).values()) == {float(i)}
    assert table.snapshot_by_id(states[0][0]) is None


def test_a_tagged_state_is_kept(worn):
    table = worn.table(TABLE)
    tagged = table.snapshots()[0].snapshot_id
    table.manage_snapshots().create_tag(tagged, "audit").commit()
    maintain(worn, keep=DAY, now=later(30))
    assert set(content(worn.table(TABLE).scan(snapshot_id=tagged).to_arrow()).values()) == {0.0}


def test_a_table_that_cannot_be_read_keeps_every_file(worn, warehouse):
    manifest_list = Path(worn.table(TABLE).current_snapshot().manifest_list.removeprefix("file://"))
    manifest_list.write_bytes(b"not avro")
    before = files(warehouse)
    forecasts = of(maintain(worn, keep=DAY, now=later(30)), "forecasts")
    report = of(maintain(worn, keep=DAY, now=later(30)))
    assert report.skipped
    assert report.deleted == 0
    assert {p for p in before if p.suffix in (".parquet", ".avro")} <= files(warehouse)
    assert not forecasts.skipped, "the other tables are maintained"


def test_a_catalog_made_anew_over_old_files_deletes_none_of_them(worn, warehouse):
    (warehouse / "catalog.db").unlink()
    anew = Lake.local(warehouse, QUANTILES)
    before = files(warehouse)
    assert of(maintain(anew, keep=DAY, now=later(30))).skipped == "it does not exist"
    anew.table(TABLE)
    anew.replace_weeks(TABLE, [week(5)], one_week(week(5), 1.0))
    assert "another table" in of(maintain(anew, keep=DAY, now=later(30))).skipped
    assert before <= files(warehouse)


def test_nothing_outside_the_warehouse_or_behind_a_link_is_touched(worn, warehouse, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "precious.parquet").write_text("mine")
    beside = warehouse / "notes.txt"
    beside.write_text("mine")
    data = warehouse / "forecast" / TABLE / "data"
    (data / "linked").symlink_to(outside)
    (data / "linked.parquet").symlink_to(outside / "precious.parquet")
    maintain(worn, keep=DAY, now=later(30))
    assert (outside / "precious.parquet").read_text() == "mine"
    assert (data / "linked.parquet").is_symlink()
    assert beside.exists()
    assert (warehouse / "catalog.db").exists()


def test_a_lake_never_used(lake, warehouse):
    report = maintain(lake, keep=DAY, now=now())
    assert {t.skipped for t in report.tables} == {"it does not exist"}
    assert not (warehouse / "forecast").exists(), "maintenance creates nothing"


def test_the_present_has_a_time_zone(lake):
    with pytest.raises(ValueError, match="time zone"):
        maintain(lake, keep=DAY, now=dt.datetime(2024, 1, 1))


def test_a_writer_that_is_first_wins(worn, monkeypatch):
    commit = worn.catalog.commit_table

    def refused(*arguments, **named):
        monkeypatch.setattr(worn.catalog, "commit_table", commit)
        raise CommitFailedException("another writer was first")

    monkeypatch.setattr(worn.catalog, "commit_table", refused)
    first = worn.specs.pop(TABLE)
    worn.specs = {TABLE: first}
    report = of(maintain(worn, keep=DAY, now=later(30)))
    assert (report.expired, report.skipped) == (0, "")
    assert content(worn.read(TABLE)) == EXPECTED
    assert of(maintain(worn, keep=DAY, now=later(30))).expired == 7


def test_an_expiry_of_unknown_outcome_deletes_nothing_now(worn, warehouse, monkeypatch):
    def lost(*arguments, **named):
        raise CommitStateUnknownException("504")

    monkeypatch.setattr(worn.catalog, "commit_table", lost)
    before = files(warehouse)
    assert "504" in of(maintain(worn, keep=DAY, now=later(30))).skipped
    assert before <= files(warehouse)


def test_writers_and_readers_go_on_meanwhile(worn, warehouse):
    """Maintenance of the past runs while the present is written: nobody fails, nothing is lost."""
    done, reports = threading.Event(), []

    def keep_house() -> None:
        housekeeper = Lake.local(warehouse, QUANTILES)
        while not done.is_set():
            reports.append(of(maintain(housekeeper, keep=dt.timedelta(0), now=now(), grace=dt.timedelta(seconds=2))))

    def read() -> None:
        reader = Lake.local(warehouse, QUANTILES)
        while not done.is_set():
            values = content(reader.read(TABLE)).values()
            assert len(values) == 10
            assert len(set(values)) == 2

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(keep_house), pool.submit(read)]
        try:
            deadline = now() + dt.timedelta(seconds=3.5)
            i = 0
            while now() < deadline:
                i += 1
                worn.replace_weeks(TABLE, [week(0)], one_week(week(0), 1000.0 + i))
        finally:
            done.set()
        for other in others:
            other.result()
    assert sum(r.deleted for r in reports) > 0
    assert {r.skipped for r in reports} == {""}
    assert set(content(worn.read(TABLE)).values()) == {1000.0 + i, 100.0}


def test_a_table_folder_that_is_gone_is_said_so(worn, warehouse):
    shutil.rmtree(warehouse / "forecast" / TABLE)
    assert of(maintain(worn, keep=DAY, now=later(30))).skipped


class TestInS3:
    """The same sweep over a bucket: its listing, its clock, its deletion in batches."""

    @pytest.fixture
    def worn(self, s3) -> Lake:
        return wear(glue_lake("s3://drop/platform/lake", "retail", QUANTILES))

    @pytest.fixture
    def keys(self, s3):
        def listed() -> dict[str, int]:
            return {item["Key"]: item["Size"] for item in s3.list_objects_v2(Bucket="drop").get("Contents", ())}

        return listed

    def test_old_files_vanish_all_rows_stay_and_neighbours_too(self, worn, s3, keys):
        table = "platform/lake/retail/cleaned_series"
        neighbours = {f"{table}_mine/data/a.parquet", f"{table}.parquet", "platform/lake/notes.txt", f"{table}/data/"}
        for key in neighbours:
            s3.put_object(Bucket="drop", Key=key, Body=b"")
        before = keys()
        young = maintain(worn, keep=dt.timedelta(0), now=now())
        assert (of(young).expired, of(young).deleted, keys()) == (0, 0, before)

        done = of(maintain(worn, keep=7 * DAY, now=later(30)))
        after = keys()
        gone = before.keys() - after.keys()
        # Metadata of long ago is deleted by commits, the one of this expiry is new.
        assert (done.expired, done.deleted, done.deleted_bytes) == (7, len(gone), sum(before[key] for key in gone))
        assert done.deleted > 10
        assert all(key.startswith(f"{table}/") for key in gone)
        assert neighbours <= after.keys()
        mine = [size for key, size in after.items() if key.startswith(f"{table}/") and not key.endswith("/")]
        assert (done.left, done.left_bytes) == (len(mine), sum(mine))
        assert content(worn.read(TABLE)) == EXPECTED
        assert worn.query(f"SELECT sum(sales) AS s FROM {TABLE}").to_pylist() == [{"s": 515.0}]
        assert worn.replace_weeks(TABLE, [week(0)], one_week(week(0), 8.0))

    def test_a_table_made_anew_over_old_files_deletes_none_of_them(self, worn, keys):
        before = keys()
        worn.catalog.drop_table(("retail", TABLE))
        worn.replace_weeks(TABLE, [week(5)], one_week(week(5), 1.0))
        assert "another table" in of(maintain(worn, keep=DAY, now=later(30))).skipped
        assert before.keys() <= keys().keys()

    def test_a_table_that_lives_elsewhere_is_not_swept(self, worn, keys):
        worn.catalog.properties["warehouse"] = "s3://drop/platform/lak"
        before = keys()
        assert "outside the warehouse" in of(maintain(worn, keep=DAY, now=later(30))).skipped
        assert {key for key in before if key.endswith(".parquet")} <= keys().keys()

    def test_three_names_of_one_place(self, s3):
        """Spark writes s3a:// and s3n:// for what others call s3://; such a file is named, and is not swept."""
        bucket = BucketFiles("s3://drop/lake")
        assert {bucket.address(f"{scheme}://drop/a%20b/c.parquet") for scheme in ("s3", "s3a", "s3n")} == {
            "s3://drop/a%20b/c.parquet"
        }
        for elsewhere in ("file:///lake/a", "/lake/a", "hdfs://drop/a"):
            with pytest.raises(ValueError, match="not in S3"):
                bucket.address(elsewhere)

    def test_files_go_by_the_thousand_and_a_refusal_is_told(self, s3):
        bucket = BucketFiles("s3://drop/lake")
        objects = [{"Key": f"lake/{n}"} for n in range(1001)]
        refused = {"Key": "lake/1000", "Code": "AccessDenied", "Message": "Access Denied"}
        with Stubber(bucket._client) as stub:
            for batch, reply in ((objects[:1000], {}), (objects[1000:], {"Errors": [refused]})):
                request = {"Bucket": "drop", "Delete": {"Objects": batch, "Quiet": True}}
                stub.add_response("delete_objects", reply, request)
            with pytest.raises(OSError, match="lake/1000 was not deleted: AccessDenied"):
                bucket.delete([f"s3://drop/{found['Key']}" for found in objects])
            stub.assert_no_pending_responses()


# Many small files become one, and no row changes.


LANDED = dt.datetime(2024, 1, 6, tzinfo=dt.UTC)


def land(lake: Lake, *numbers: int) -> None:
    """One file of a week's sales a day, each beside the others, and its line in the ledger."""
    for n in numbers:
        source = {"source_key": f"sales/{n}.csv", "source_version": str(n), "landed_at": LANDED + n * HOUR}
        rows = [
            {"week": week(w), "store": str(s), "dept": "1", "sales": float(n), "line": s, **source}
            for w in range(2)
            for s in range(3)
        ]
        where = any_of("source_key", [source["source_key"]])
        lake.replace("raw_sales", where, pa.Table.from_pylist(rows, schema=lake.specs["raw_sales"].schema))
        row = pa.Table.from_pylist(
            [{**source, "kind": "sales", "status": "ingested"}], schema=lake.specs["landings"].schema
        )
        lake.replace("landings", where, row)


def parquet(lake: Lake, name: str) -> int:
    return len(list(lake.table(name).scan().plan_files()))


class TestMerging:
    @pytest.fixture
    def landed(self, lake) -> Lake:
        land(lake, *range(5))
        return lake

    def test_no_row_changes_and_one_file_a_partition_is_left(self, landed):
        before = {name: landed.read(name) for name in ("raw_sales", "landings")}
        states = {name: snapshots(landed, name) for name in before}
        report = maintain(landed, keep=DAY, now=now())
        assert {name: of(report, name).merged for name in before} == {"raw_sales": 10, "landings": 5}
        assert {name: of(report, name).skipped for name in before} == dict.fromkeys(before, "")
        assert {name: parquet(landed, name) for name in before} == {"raw_sales": 2, "landings": 1}
        assert {name: snapshots(landed, name) for name in before} == {name: n + 1 for name, n in states.items()}
        assert {name: landed.read(name) for name in before} == before
        assert landed.query("SELECT count(*) AS n, sum(sales) AS s FROM raw_sales").to_pylist() == [
            {"n": 30, "s": 60.0}
        ]
        assert {merge(landed, name) for name in before} == {0}, "that was all"

    def test_what_was_merged_can_still_be_replaced_and_time_travel_sees_it_as_it_was(self, landed):
        state = landed.snapshot("raw_sales")
        merge(landed, "raw_sales")
        land(landed, 2)
        nothing = landed.specs["raw_sales"].schema.empty_table()
        assert landed.replace("raw_sales", any_of("source_key", ["sales/3.csv"]), nothing)
        assert set(landed.read("raw_sales")["sales"].to_pylist()) == {0.0, 1.0, 2.0, 4.0}
        assert len(landed.table("raw_sales").scan(snapshot_id=state).to_arrow()) == 30

    def test_the_ledger_is_the_same(self, landed):
        entries = Ledger.of(landed).entries
        merge(landed, "landings")
        assert Ledger.of(landed).entries == entries
        land(landed, 7)
        assert len(Ledger.of(landed).entries) == 6

    def test_columns_of_other_settings_stay(self, lake, another):
        wide = another((*QUANTILES, "p95"))
        rows = [forecast_rows(week(0), float(n), quantiles=(*QUANTILES, "p95")) for n in range(4)]
        for n, found in enumerate(rows):
            at = found.schema.get_field_index("dept")
            found = found.set_column(at, found.schema.field(at), pa.array([str(n)] * len(found)))
            wide.replace("forecasts", EqualTo("dept", str(n)), found)
        before = wide.read("forecasts")
        assert merge(lake, "forecasts") == 4
        assert wide.read("forecasts") == before
        assert before["p95"].null_count == 0

    @pytest.mark.parametrize("same", [True, False], ids=["the same rows", "other rows"])
    def test_a_writer_meanwhile_wins(self, landed, another, monkeypatch, same):
        commit = landed.catalog.commit_table

        def late(*arguments, **named):
            monkeypatch.setattr(landed.catalog, "commit_table", commit)
            land(another(QUANTILES), *([9] if not same else []))
            if same:
                writer = another(QUANTILES)
                gone = writer.specs["raw_sales"].schema.empty_table()
                writer.replace("raw_sales", any_of("source_key", ["sales/1.csv"]), gone)
            return commit(*arguments, **named)

        monkeypatch.setattr(landed.catalog, "commit_table", late)
        assert merge(landed, "raw_sales") == 0
        expected = {0.0, 2.0, 3.0, 4.0} if same else {0.0, 1.0, 2.0, 3.0, 4.0, 9.0}
        rows = landed.read("raw_sales")
        assert set(rows["sales"].to_pylist()) == expected
        assert len(rows) == 6 * len(expected)
        assert merge(landed, "raw_sales") == 2 * len(expected)
        assert landed.read("raw_sales") == rows

    def test_readers_midway_keep_what_they_opened(self, landed):
        scan, connection = landed.table("raw_sales").scan(), landed.attach(duckdb.connect())
        stream = landed.batches("raw_sales")
        maintain(landed, keep=dt.timedelta(0), now=now() + 23 * HOUR)
        assert parquet(landed, "raw_sales") == 2
        assert len(scan.to_arrow()) == len(stream.read_all()) == 30
        assert connection.execute("SELECT count(*) FROM raw_sales").fetchall() == [(30,)]

    @pytest.mark.kill
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_killed_at_its_commit(self, landed, warehouse, when):
        before = landed.read("raw_sales")
        process = forked().Process(target=_merge_and_die, args=(warehouse, when))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        again = Lake.local(warehouse, QUANTILES)
        assert again.read("raw_sales") == before
        assert merge(again, "raw_sales") == (10 if when == "before" else 0)
        assert again.read("raw_sales") == before
        maintain(again, keep=DAY, now=later(30))
        assert len(list((warehouse / "forecast" / "raw_sales").rglob("*.parquet"))) == 2
        assert again.read("raw_sales") == before


def _merge_and_die(warehouse: Path, when: str) -> None:
    lake = Lake.local(warehouse, QUANTILES)
    commit = lake.catalog.commit_table

    def deadly(*arguments, **named):
        if when == "after":
            commit(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    lake.catalog.commit_table = deadly  # type: ignore[method-assign]
    merge(lake, "raw_sales")
