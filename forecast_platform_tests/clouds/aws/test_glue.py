"""The lake in Glue and S3: the same promises as on disk, kept over the wire by another catalog and another storage.

moto's Glue takes every update whatever version it names, so two writers at once are no test of the real one: how a
refusal is met is tested on disk (test_lake.py), what counts as one is tested here.
"""

from __future__ import annotations

import datetime as dt
import http.server
import threading

import duckdb
import pyarrow.dataset as ds
import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.httpsession import URLLib3Session
from pyarrow.fs import S3FileSystem
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import StaticTable

from forecast_platform.clouds.aws import glue
from forecast_platform.clouds.aws.clients import client
from forecast_platform.clouds.aws.glue import glue_lake
from forecast_platform.dashboard.source import Source
from forecast_platform.lake.duck import dataset
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.maintenance import merge
from forecast_platform.lake.tables import LakeError
from forecast_platform.landing.ledger import Entry, Ledger, record
from forecast_platform_tests.lake import test_lake
from forecast_platform_tests.lake.conftest import (
    QUANTILES,
    SPECS,
    OpenLake,
    content,
    forecast_rows,
    one_week,
    snapshots,
    week,
)

WAREHOUSE, DATABASE, TABLE = "s3://drop/platform/lake", "retail", "cleaned_series"


@pytest.fixture
def another(s3) -> OpenLake:
    return lambda quantiles: glue_lake(WAREHOUSE, DATABASE, quantiles)


@pytest.fixture
def lake(another) -> Lake:
    return another(QUANTILES)


class TestReplace:
    """What depends on the catalog and the storage; how rows are checked and compared does not."""

    test_a_replaced_week_leaves_no_trace = (
        test_lake.TestReplace.test_a_replaced_week_leaves_no_trace_of_the_old_one_and_no_mark_on_others
    )
    test_many_weeks_are_one_commit = test_lake.TestReplace.test_many_weeks_are_one_commit
    test_weeks_without_rows_are_emptied = test_lake.TestReplace.test_weeks_without_rows_are_emptied
    test_equal_content_commits_nothing = (
        test_lake.TestReplace.test_equal_content_commits_nothing_and_keeps_its_provenance
    )
    test_a_filter_on_other_columns = test_lake.TestReplace.test_a_filter_on_other_columns_replaces_just_its_rows


class TestWidened(test_lake.TestWidened):
    # It takes a catalog that refuses the second of two writers.
    test_widened_by_two_at_once = None


test_a_table_created_by_another = test_lake.test_a_table_created_by_another_between_look_and_create


def test_tables_are_where_they_belong_and_glue_describes_them(lake, s3):
    """Also when the database has a location of its own, as one made in the console has."""
    client("glue").create_database(DatabaseInput={"Name": DATABASE, "LocationUri": "s3://drop/elsewhere"})
    lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 1.0))
    found = client("glue").get_table(DatabaseName=DATABASE, Name=TABLE)["Table"]
    assert found["StorageDescriptor"]["Location"] == f"{WAREHOUSE}/{DATABASE}/{TABLE}"
    assert found["Parameters"]["table_type"] == "ICEBERG"
    columns = {column["Name"]: column["Type"] for column in found["StorageDescriptor"]["Columns"]}
    assert {"week": "date", "store": "string", "sales": "double", "observed": "boolean"}.items() <= columns.items()
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="drop")["Contents"]]
    assert all(key.startswith(f"platform/lake/{DATABASE}/{TABLE}/") for key in keys)


def test_reading_creates_nothing(lake):
    """Whoever may only read can look at a lake that is not there yet."""
    lake.catalog.create_namespace_if_not_exists(DATABASE)
    con = lake.attach(duckdb.connect())
    for name in [*SPECS, *test_lake.VIEWS]:
        assert con.execute(f"SELECT count(*) FROM {name}").fetchall() == [(0,)]
    assert {lake.snapshot(name) for name in SPECS} == {None}
    assert client("glue").get_tables(DatabaseName=DATABASE)["TableList"] == []


class TestQuery:
    def test_tables_views_and_parameters(self, lake):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 2.0, series=3))
        for number, p50 in enumerate((10.0, 11.0)):
            lake.replace_weeks("forecasts", [week(number)], forecast_rows(week(number), p50))
        sql = f"SELECT sum(sales) AS s FROM {TABLE} WHERE week = ? AND store IN ('1', '2')"
        assert lake.query(sql, [week(0)]).to_pylist() == [{"s": 4.0}]
        (changed,) = lake.query("SELECT previous_p50, p50 FROM forecast_revisions").to_pylist()
        assert changed == {"previous_p50": 10.0, "p50": 11.0}
        assert lake.query("SELECT DISTINCT forecast_week AS w FROM latest_forecast").to_pylist() == [{"w": week(1)}]

    test_cursors = test_lake.TestQuery.test_cursors_of_an_attached_connection_see_every_table

    def test_a_file_whose_partition_does_not_match_is_never_opened(self, lake, s3):
        for number in range(3):
            lake.replace_weeks(TABLE, [week(number)], one_week(week(number), float(number)))
        table = lake.table(TABLE)
        files = dataset(SPECS[TABLE], table, list(table.scan().plan_files()))
        assert len(list(files.get_fragments(filter=ds.field("week") == week(1)))) == 1
        for item in s3.list_objects_v2(Bucket="drop", Prefix=f"platform/lake/{DATABASE}/{TABLE}/data/")["Contents"]:
            if f"week={week(1)}" not in item["Key"]:
                s3.delete_object(Bucket="drop", Key=item["Key"])
        sql = f"SELECT DISTINCT sales FROM {TABLE} WHERE week = ?"
        assert lake.query(sql, [week(1)]).to_pylist() == [{"sales": 1.0}]

    @pytest.mark.parametrize("sql", [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('s3://drop/platform/lake/*')",
        "COPY (SELECT 1 AS a) TO '/tmp/lake-test.parquet'",
        "ATTACH '/tmp/lake-test.duckdb' AS other",
        "SET enable_external_access = true",
    ])  # fmt: skip
    def test_nothing_else_can_be_read_or_written(self, lake, sql):
        lake.specs = {
            TABLE: SPECS[TABLE],
            "forecasts": SPECS["forecasts"],
            "forecast_accuracy": SPECS["forecast_accuracy"],
        }
        with pytest.raises(LakeError, match="Tables and views: cleaned_series"):
            lake.query(sql)


# Requests: each costs a few milliseconds, and money.


@pytest.fixture
def requests(s3, monkeypatch) -> list[str]:
    """Everything that the server is asked from now on."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication as Server

    seen: list[str] = []
    answer = Server.__call__

    def noted(self, environ, start_response):
        seen.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ.get('HTTP_X_AMZ_TARGET', '')}")
        return answer(self, environ, start_response)

    monkeypatch.setattr(Server, "__call__", noted)
    return seen


def test_the_ledger_is_read_when_it_changed_and_then_what_is_new_of_it(lake, another, requests):
    def land(number: int) -> None:
        moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=number)
        record(lake, Entry(f"sales/{number}.csv", str(number), "sales", moment, "ingested"))

    def asked(look: Lake) -> tuple[int, int]:
        """Landings known, and requests that it took; of them those for data."""
        requests.clear()
        assert [e.key for e in Ledger.of(look).entries] == [f"sales/{n}.csv" for n in range(landed)]
        return len(requests), sum(".parquet" in request for request in requests)

    landed = 8
    for number in range(landed):
        land(number)
    reader = another(QUANTILES)
    assert asked(reader)[1] == 3 * landed
    assert asked(reader) == (3, 0), "an idle look asks Glue where the state is, and looks at that"
    land(landed)
    landed += 1
    assert asked(reader)[1] == 3, "a file that is known is not read again"
    assert merge(lake, "landings") == landed
    assert asked(another(QUANTILES))[1] == 3
    assert asked(reader)[1] == 3
    assert asked(reader) == (3, 0)


# Commits


def _refused(status: int, retries: int = 0, code: str = "ConcurrentModificationException") -> ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": retries}}
    return ClientError(answer, "UpdateTable")


def _conflict(retries: int) -> CommitFailedException:
    error = CommitFailedException("Glue detected concurrent update")
    error.__cause__ = _refused(400, retries)
    return error


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (_conflict(0), CommitFailedException),
        (_conflict(1), CommitStateUnknownException),  # the first try may have landed, its reply lost
        (ReadTimeoutError(endpoint_url="https://glue"), CommitStateUnknownException),
        (_refused(500, code="InternalServiceException"), CommitStateUnknownException),
        (_refused(400, code="AccessDeniedException"), ClientError),
    ],
)
def test_what_glue_says_of_a_commit(answer, meaning):
    def update() -> None:
        raise answer

    with pytest.raises(meaning):
        glue.commit(update)


@pytest.mark.parametrize("lands", [True, False], ids=["landed", "did not land"])
def test_a_commit_whose_reply_is_lost_ends_in_the_right_rows(lake, lands):
    lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 1.0))
    lake.catalog.glue = client("glue", retries={"max_attempts": 1})
    lost = []

    def lose_the_first(request, **_: object) -> AWSResponse | None:
        if lost:
            return None
        lost.append(request)
        if lands:
            assert (
                URLLib3Session().send(request.prepare() if hasattr(request, "prepare") else request).status_code == 200
            )
        raise ReadTimeoutError(endpoint_url=request.url)

    lake.catalog.glue.meta.events.register("before-send.glue.UpdateTable", lose_the_first)
    assert lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 9.0)), "the table changed, and we changed it"
    assert lost
    assert set(content(lake.read(TABLE)).values()) == {9.0}
    assert snapshots(lake) == 3


# Access to S3


def test_a_state_that_is_shown_is_read_with_keys_that_came_after_it_was_opened(gate, monkeypatch):
    """As the dashboard does: a state is opened at a publication and shown for a week, while a role's keys last hours.
    The keys come as a container's do, and a file of another week is opened after those of the first have expired."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{gate.url}/credentials")
    gate.key = "first"
    lake = glue_lake(WAREHOUSE, DATABASE, QUANTILES)
    for number, value in enumerate((1.0, 2.0)):
        lake.replace_weeks(TABLE, [week(number)], one_week(week(number), value))
    table = lake.table(TABLE)
    source = Source(lake)
    state = source.state()

    def sales(of: dt.date) -> float:
        return state.rows(f"SELECT max(sales) AS sales FROM {TABLE} WHERE week = '{of}'")[0]["sales"]

    assert sales(week(0)) == 1.0
    gate.key = "second"
    assert sales(week(1)) == 2.0, "refused: the first keys have expired"
    assert state is source.state(), "nothing was opened anew"
    gate.key = "third"
    assert table.scan().to_arrow().num_rows == 2 * one_week(week(0), 1.0).num_rows
    assert lake.replace_weeks(TABLE, [week(2)], one_week(week(2), 3.0))


def test_no_thread_that_reads_needs_the_interpreter(lake):
    """A file system written in Python does: its threads waited for a thread that held the interpreter and waited for
    them, once in some hundred readings, and nothing could end that."""
    lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 1.0))
    table = lake.table(TABLE)
    (task,) = table.scan().plan_files()
    scheme, bucket, _ = table.io.parse_location(task.file.file_path)
    assert type(table.io.fs_by_scheme(scheme, bucket)) is S3FileSystem


def test_the_state_that_a_crawler_pinned_is_read_after_20_commits(lake):
    """A Glue crawler writes down the metadata file it found, and looks again the next morning."""
    lake.replace_weeks(TABLE, [week(0)], one_week(week(0), 0.5))
    pinned = lake.table(TABLE)
    for value in range(20):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), float(value)))
    crawled = StaticTable.from_metadata(pinned.metadata_location, properties={**glue.file_io(None).properties})
    assert set(crawled.scan().to_arrow()["sales"].to_pylist()) == {0.5}
    assert set(content(lake.read(TABLE)).values()) == {19.0}


def test_connections_are_kept_while_the_keys_last(lake):
    turns = iter(range(10))

    def renew() -> dict[str, str]:
        turn = next(turns)
        soon = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1 if turn == 0 else 60)).isoformat()
        return {"access_key": f"key{turn}", "secret_key": "s", "token": f"token{turn}", "expiry_time": soon}

    credentials = RefreshableCredentials.create_from_metadata(renew(), refresh_using=renew, method="test")
    io = glue.RenewedFileIO(credentials)
    seen = [io.of_now() for _ in range(3)]
    assert seen[0].properties["s3.access-key-id"] == "key1", "key0 was about to end"
    assert seen[0].properties["s3.session-token"] == "token1"
    assert seen[0] is seen[2]


def test_an_endpoint_of_our_own_is_used_and_amazons_is_left_to_the_library(s3, endpoint, monkeypatch):
    assert glue.file_io(None).properties["s3.endpoint"].rstrip("/") == endpoint
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for region in ("us-east-1", "eu-central-1", "cn-north-1"):
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        properties = glue.file_io(None).properties
        assert "s3.endpoint" not in properties
        assert properties["s3.region"] == region
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://bucket.vpce-1-2.s3.cn-north-1.vpce.amazonaws.com.cn")
    assert "vpce" in glue.file_io(None).properties["s3.endpoint"]


def test_slow_down_is_waited_out(s3, monkeypatch):
    """Three refusals in a row, of which pyarrow by itself would survive two."""
    refusals = []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            refusals.append(self.path)
            self.send_response(503 if len(refusals) <= 3 else 200)
            self.send_header("Content-Length", "3")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        try:
            assert len(glue.file_io(None).new_input("s3://drop/a")) == 3
        finally:
            server.shutdown()
    assert len(refusals) == 4
