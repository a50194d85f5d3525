"""Queries in Athena: what is sent, how it is waited for, how rows get their types.

moto takes the requests over the wire but runs no SQL: it gives rows that were registered before, one page, always
successful. Pages, failures and throttling are answers checked against botocore's service model (Stubber). That Athena
itself accepts our SQL is shown by its dialect (lake/test_sql_dialects.py) and at last by an account.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import urllib.request

import pyarrow as pa
import pytest
import sqlglot
from botocore.stub import ANY, Stubber
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform.clouds.aws.athena import Athena, AthenaError, create_views, literal
from forecast_platform.clouds.aws.clients import NO_REGION, client
from forecast_platform.clouds.aws.glue import glue_lake
from forecast_platform.lake.tables import VIEWS


def column(name: str, kind: str, **more: int) -> dict[str, object]:
    return {"Name": name, "Type": kind, **more}


def row(*values: str | None) -> dict[str, object]:
    return {"Data": [{} if value is None else {"VarCharValue": value} for value in values]}


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def athena(s3, waits) -> Athena:
    client("athena").create_work_group(
        Name="planning", Configuration={"ResultConfiguration": {"OutputLocation": "s3://drop/results/"}}
    )
    return Athena("planning", "retail", wait=waits.append)


@pytest.fixture
def answer(endpoint):
    """Registers the rows of the next query with moto."""

    def register(columns: list[dict[str, object]], *rows: dict[str, object]) -> None:
        body = {"results": [{"rows": list(rows), "column_info": columns}]}
        url = f"{endpoint}/moto-api/static/athena/query-results"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()

    return register


class TestOverTheWire:
    def test_every_type(self, athena, answer):
        zoned = "timestamp with time zone"
        table = {
            ("boolean", "true"): True,
            ("tinyint", "-7"): -7,
            ("integer", "8"): 8,
            ("bigint", "9007199254740993"): 9007199254740993,
            ("float", "1.5"): 1.5,
            ("double", "1.0E10"): 1e10,
            ("double", "Infinity"): float("inf"),
            ("decimal", "12.50"): decimal.Decimal("12.50"),
            ("date", "2024-01-05"): dt.date(2024, 1, 5),
            ("timestamp", "2024-01-05 06:07:08.123"): dt.datetime(2024, 1, 5, 6, 7, 8, 123000),
            ("timestamp", "2024-01-05 06:07:08.123456789"): dt.datetime(2024, 1, 5, 6, 7, 8, 123456),
            (zoned, "2024-01-05 06:00:00.000000 UTC"): dt.datetime(2024, 1, 5, 6, tzinfo=dt.UTC),
            (zoned, "2024-07-05 06:00:00.000 Europe/Berlin"): dt.datetime(2024, 7, 5, 4, tzinfo=dt.UTC),
            (zoned, "2024-01-05 06:00:00.000 +02:00"): dt.datetime(2024, 1, 5, 4, tzinfo=dt.UTC),
            ("varchar", "total"): "total",
            ("varchar", ""): "",
            ("varbinary", "66 6f"): b"fo",
            ("array", "[1, 2]"): "[1, 2]",
            ("map", "{a=1}"): "{a=1}",
            ("row", "{x=1, y=}"): "{x=1, y=}",
            ("json", '{"a":1}'): '{"a":1}',
        }  # fmt: skip
        names = [f"c{n}" for n in range(len(table))]
        columns = [column(name, kind, Precision=5, Scale=2) for name, (kind, _) in zip(names, table, strict=True)]
        answer(columns, row(*names), row(*(text for _, text in table)), row(*[None] * len(table)))
        found = athena.query("SELECT 1")
        assert [found[name].to_pylist() for name in names] == [[value, None] for value in table.values()]
        assert found.schema.field("c3").type == pa.int64()
        assert found.schema.field("c7").type == pa.decimal128(5, 2)

    def test_the_request(self, athena, answer):
        answer([column("n", "bigint")], row("n"), row("3"))
        sql = "SELECT count(*) AS n FROM forecasts WHERE store = ? AND forecast_week = ?"
        assert athena.query(sql, ["1' OR '1'='1", dt.date(2024, 1, 5)]).to_pylist() == [{"n": 3}]
        (query_id,) = client("athena").list_query_executions(WorkGroup="planning")["QueryExecutionIds"]
        execution = client("athena").get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
        assert execution["Query"] == sql
        assert execution["QueryExecutionContext"] == {"Catalog": "AwsDataCatalog", "Database": "retail"}
        assert execution["ExecutionParameters"] == ["'1'' OR ''1''=''1'", "DATE '2024-01-05'"]

    def test_no_rows_keep_their_columns(self, athena, answer):
        answer([column("week", "date")], row("week"))
        assert athena.query("SELECT week FROM forecasts").schema == pa.schema([("week", pa.date32())])

    def test_views_are_made_over_tables_that_are_there_with_columns_athena_can_write_down(self, athena):
        lake = glue_lake("s3://drop/lake", "retail", ("p10", "p50", "p90"))
        assert create_views(athena, lake) == list(VIEWS)
        tables = {found["Name"] for found in client("glue").get_tables(DatabaseName="retail")["TableList"]}
        assert set(lake.specs) <= tables
        sent = [
            client("athena").get_query_execution(QueryExecutionId=query_id)["QueryExecution"]["Query"]
            for query_id in client("athena").list_query_executions(WorkGroup="planning")["QueryExecutionIds"]
        ]
        (latest,) = (sql for sql in sent if "VIEW latest_forecast " in sql)
        assert "p90, model_version" in latest, "columns by name"
        assert "CAST(created_at AT TIME ZONE 'UTC' AS TIMESTAMP) AS created_at" in latest
        for sql in sent:
            assert sqlglot.parse_one(sql, read="athena").key == "create"

    @pytest.fixture
    def on_aws(self, athena, monkeypatch):
        from forecast_platform.settings import get_settings

        for name, value in {
            "PROFILE": "aws",
            "ENGINE": "local",
            "STORAGE_URL": "s3://drop",
            "LANDING_URL": "s3://drop/landing",
            "DATABASE": "retail",
            "WORKGROUP": "planning",
        }.items():
            monkeypatch.setenv(f"FORECAST_{name}", value)
        get_settings.cache_clear()
        yield
        get_settings.cache_clear()

    def test_the_command_asks_athena_and_with_local_the_lake(self, on_aws, answer, monkeypatch):
        from forecast_platform.cli import main

        answer([column("n", "bigint")], row("n"), row("41"))
        ask = ["query", "SELECT count(*) AS n FROM forecasts", "--format", "json"]
        assert json.loads(CliRunner().invoke(main, ask).output) == [{"n": 41}]
        assert json.loads(CliRunner().invoke(main, [*ask, "--local"]).output) == [{"n": 0}]
        assert "retail.latest_forecast" in CliRunner().invoke(main, ["views"]).output.splitlines()
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        refused = CliRunner().invoke(main, [*ask, "--local"])
        assert (refused.exit_code, refused.output) == (1, f"Error: {NO_REGION}\n")

    def test_nightly_maintenance_renews_the_views(self, on_aws, home):
        from forecast_platform.defs.lake_maintenance import lake_maintenance
        from forecast_platform.defs.resources import Platform
        from forecast_platform.settings import Settings

        assert lake_maintenance.execute_in_process(resources={"platform": Platform(Settings())}).success
        sent = client("athena").list_query_executions(WorkGroup="planning")["QueryExecutionIds"]
        assert len(sent) == len(VIEWS)


class TestAnswers:
    """What moto never says."""

    @pytest.fixture
    def stubbed(self, s3, waits):
        boto = client("athena", retries={"max_attempts": 1})
        with Stubber(boto) as stub:
            yield Athena("planning", "retail", boto, waits.append), stub
            stub.assert_no_pending_responses()

    @staticmethod
    def starts(stub: Stubber) -> None:
        request = {
            "QueryString": "SELECT 1",
            "ClientRequestToken": ANY,
            "QueryExecutionContext": {"Catalog": "AwsDataCatalog", "Database": "retail"},
            "WorkGroup": "planning",
        }
        stub.add_response("start_query_execution", {"QueryExecutionId": "q1"}, request)

    @staticmethod
    def is_in(stub: Stubber, state: str, kind: str = "DML", **more: object) -> None:
        execution = {"QueryExecutionId": "q1", "StatementType": kind, "Status": {"State": state, **more}}
        stub.add_response("get_query_execution", {"QueryExecution": execution}, {"QueryExecutionId": "q1"})

    @staticmethod
    def gives(stub: Stubber, columns, rows, token: str | None = None, following: str | None = None) -> None:
        page = {"ResultSet": {"Rows": rows, "ResultSetMetadata": {"ColumnInfo": columns}}}
        request = {"QueryExecutionId": "q1", "MaxResults": 1000} | ({"NextToken": token} if token else {})
        stub.add_response("get_query_results", page | ({"NextToken": following} if following else {}), request)

    def test_pages_are_put_together_and_only_the_first_row_of_all_is_the_header(self, stubbed):
        athena, stub = stubbed
        self.starts(stub)
        self.is_in(stub, "SUCCEEDED")
        columns = [column("store", "varchar"), column("n", "integer")]
        self.gives(stub, columns, [row("store", "n"), row("1", "1")], following="more")
        self.gives(stub, columns, [row("2", "2"), row(None, "3")], token="more")
        assert athena.query("SELECT 1").to_pylist() == [
            {"store": "1", "n": 1},
            {"store": "2", "n": 2},
            {"store": None, "n": 3},
        ]

    def test_a_listing_has_no_header(self, stubbed):
        athena, stub = stubbed
        self.starts(stub)
        self.is_in(stub, "SUCCEEDED", kind="UTILITY")
        self.gives(stub, [column("tab_name", "string")], [row("tab_name"), row("forecasts")])
        assert athena.query("SELECT 1")["tab_name"].to_pylist() == ["tab_name", "forecasts"]

    def test_looks_come_ever_less_often_and_never_in_step(self, stubbed, waits):
        athena, stub = stubbed
        self.starts(stub)
        for _ in range(15):
            self.is_in(stub, "RUNNING")
        self.is_in(stub, "SUCCEEDED")
        self.gives(stub, [column("a", "integer")], [row("a")])
        athena.query("SELECT 1")
        assert 0.07 <= waits[0] <= 0.1
        assert all(2.1 <= wait <= 3.0 for wait in waits[-3:])
        assert len(set(waits)) == len(waits)

    @pytest.mark.parametrize(("retryable", "hint"), [(True, "trying again may help"), (False, "TABLE_NOT_FOUND")])
    def test_a_failure_gives_athenas_reason(self, stubbed, retryable, hint):
        athena, stub = stubbed
        self.starts(stub)
        reason = "TABLE_NOT_FOUND: line 1:15: Table 'retail.nothing' does not exist"
        self.is_in(stub, "FAILED", StateChangeReason=reason, AthenaError={"ErrorCategory": 2, "Retryable": retryable})
        with pytest.raises(AthenaError, match=hint) as failure:
            athena.query("SELECT 1")
        assert failure.value.retryable is retryable
        assert reason in str(failure.value)

    def test_cancelled_by_somebody_else(self, stubbed):
        athena, stub = stubbed
        self.starts(stub)
        self.is_in(stub, "CANCELLED")
        with pytest.raises(AthenaError, match="q1 cancelled"):
            athena.query("SELECT 1")

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
    def test_an_interrupted_wait_stops_the_query(self, stubbed, interruption):
        athena, stub = stubbed

        def interrupted(seconds: float) -> None:
            raise interruption

        athena._wait = interrupted
        self.starts(stub)
        self.is_in(stub, "RUNNING")
        stub.add_response("stop_query_execution", {}, {"QueryExecutionId": "q1"})
        with pytest.raises(interruption):
            athena.query("SELECT 1")

    @pytest.mark.parametrize(
        ("code", "text", "hint", "retryable"),
        [
            ("TooManyRequestsException", "Rate exceeded", "trying again may help", True),
            ("AccessDeniedException", "not authorized to perform: athena:StartQueryExecution", "planning", False),
            ("InvalidRequestException", "WorkGroup planning is not found.", "FORECAST_WORKGROUP is planning", False),
            ("InvalidRequestException", "No output location provided.", "result location", False),
            ("InvalidRequestException", "line 1:1: mismatched input 'SELEC'", "mismatched input", False),
        ],
    )
    def test_a_refusal_is_explained(self, stubbed, code, text, hint, retryable):
        athena, stub = stubbed
        stub.add_client_error("start_query_execution", code, text)
        with pytest.raises(AthenaError, match=hint) as failure:
            athena.query("SELECT 1")
        assert failure.value.retryable is retryable

    def test_text_that_is_no_value_of_its_type(self, stubbed):
        athena, stub = stubbed
        self.starts(stub)
        self.is_in(stub, "SUCCEEDED")
        self.gives(stub, [column("a", "date")], [row("a"), row("yesterday")])
        with pytest.raises(AthenaError, match="a date that cannot be read"):
            athena.query("SELECT 1")


class TestLiteral:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "NULL"),
            (True, "true"),
            (7, "7"),
            (1.5, "DOUBLE '1.5'"),
            (float("-inf"), "DOUBLE '-Infinity'"),
            (decimal.Decimal("1E+3"), "DECIMAL '1000'"),
            ("it's", "'it''s'"),
            ("", "''"),
            (dt.date(2024, 1, 5), "DATE '2024-01-05'"),
            (dt.datetime(2024, 1, 5, 6), "TIMESTAMP '2024-01-05 06:00:00.000000'"),
            (
                dt.datetime(2024, 1, 5, 6, tzinfo=dt.timezone(dt.timedelta(hours=2))),
                "TIMESTAMP '2024-01-05 04:00:00.000000 UTC'",
            ),
        ],
    )
    def test_each_kind(self, value, text):
        assert literal(value) == text

    @given(st.text(max_size=400))
    def test_text_stays_one_literal_with_the_same_value(self, text):
        (parsed,) = sqlglot.parse(f"SELECT {literal(text)}", read="trino")
        (found,) = parsed.expressions
        assert found.is_string
        assert found.this == text

    def test_what_has_no_literal(self):
        with pytest.raises(TypeError, match="no Athena literal"):
            literal(object())
        with pytest.raises(ValueError, match="1,024"):
            literal("x" * 1023)
