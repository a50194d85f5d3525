"""Athena: SQL over the lake's tables in Glue, for people and for business intelligence tools.

Results are read by GetQueryResults, 1,000 rows a request. It works where the workgroup keeps results by itself, tells
null from an empty string, and asks for s3:GetObject where they lie in a bucket. Whoever wants millions of rows reads
the lake's files instead: `glue_lake(...).query`, or `forecast query --local`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import functools
import random
import time
import uuid
import zoneinfo
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from forecast_platform.clouds.aws.clients import translated
from forecast_platform.lake.tables import VIEWS

if TYPE_CHECKING:
    from forecast_platform.lake.lake import Lake

Parameter = str | bool | int | float | decimal.Decimal | dt.date | dt.datetime | None

# Athena's types and those of Arrow; other types (array, map, row, json, time, ...) stay text.
_TYPES = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "real": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
}


class AthenaError(RuntimeError):
    """A query was refused, failed or was cancelled; the message gives Athena's reason.

    Attributes:
        retryable: Athena says that the same query may succeed later.
    """

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message + ("; Athena says that trying again may help" if retryable else ""))
        self.retryable = retryable


class Athena:
    """Queries in one workgroup, over one database of the Glue catalog.

    Args:
        workgroup: says where results go and how much a query may scan.
        client: boto3's client of Athena; by default ours, which retries throttled requests.
        wait: sleeps for so many seconds between two looks at a running query.
    """

    def __init__(
        self, workgroup: str, database: str, client: Any = None, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._workgroup, self._database, self._given, self._wait = workgroup, database, client, wait

    @functools.cached_property
    def _client(self) -> Any:
        from forecast_platform.clouds.aws.clients import client

        return self._given or client("athena")

    def query(self, sql: str, parameters: Sequence[Parameter] = ()) -> pa.Table:
        """Run one statement and wait for it; when the wait is broken off, by Ctrl-C or anything else, it is stopped.

        Args:
            sql: Athena's SQL, which is Trino's.
            parameters: values of the question marks in its WHERE clauses, in order.

        Returns:
            Rows as Arrow, typed; without columns when the statement gives none.

        Raises:
            AthenaError: see there.
        """
        request = {
            "QueryString": sql,
            "ClientRequestToken": str(uuid.uuid4()),  # a request that is sent again starts nothing new
            "QueryExecutionContext": {"Catalog": "AwsDataCatalog", "Database": self._database},
            "WorkGroup": self._workgroup,
        }
        if parameters:
            request["ExecutionParameters"] = [literal(value) for value in parameters]
        with self._explained():
            query_id = self._client.start_query_execution(**request)["QueryExecutionId"]
            try:
                execution = self._finished(query_id)
            except BaseException:
                with contextlib.suppress(Exception):  # the reason to stop is what the caller has to hear of
                    self._client.stop_query_execution(QueryExecutionId=query_id)
                raise
            status = execution["Status"]
            if status["State"] != "SUCCEEDED":
                reason = status.get("StateChangeReason", "no reason given")
                retryable = status.get("AthenaError", {}).get("Retryable", False)
                raise AthenaError(f"query {query_id} {status['State'].lower()}: {reason}", retryable)
            return self._rows(query_id, has_header=execution.get("StatementType") == "DML")

    def _finished(self, query_id: str) -> dict[str, Any]:
        """The query's execution when it has ended, looked at after .1 s, then at growing intervals of at most 3 s."""
        pause = 0.1
        while True:
            execution: dict[str, Any] = self._client.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
            if execution["Status"]["State"] not in ("QUEUED", "RUNNING"):
                return execution
            self._wait(pause * random.uniform(0.7, 1.0))  # noqa: S311 (jitter)
            pause = min(3.0, pause * 1.5)

    def _rows(self, query_id: str, has_header: bool) -> pa.Table:
        columns: list[dict[str, Any]] = []
        rows: list[list[str | None]] = []
        for page in self._pages(query_id):
            columns = columns or page["ResultSetMetadata"]["ColumnInfo"]
            rows += ([cell.get("VarCharValue") for cell in row["Data"]] for row in page["Rows"])
        names = [column["Name"] for column in columns]
        if has_header and rows and rows[0] == names:  # the first row of a SELECT names its columns
            del rows[0]
        arrays = [
            _typed([row[at] for row in rows], column["Type"], column.get("Precision", 38), column.get("Scale", 0))
            for at, column in enumerate(columns)
        ]
        return pa.Table.from_arrays(arrays, names=names)

    def _pages(self, query_id: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("get_query_results")
        for page in pages.paginate(QueryExecutionId=query_id, PaginationConfig={"PageSize": 1000}):
            yield page["ResultSet"]

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        def to(code: str, text: str) -> AthenaError:
            advice = ""
            if "AccessDenied" in code:
                advice = f"; give the right to the identity this process runs as, on workgroup {self._workgroup}"
            elif "output location" in text:
                advice = f"; give workgroup {self._workgroup} a result location (infra/ does)"
            elif "WorkGroup" in text:
                advice = f"; FORECAST_WORKGROUP is {self._workgroup}"
            throttled = code in ("TooManyRequestsException", "ThrottlingException")
            return AthenaError(f"Athena: {code and f'{code}: '}{text}{advice}", retryable=throttled)

        return translated(to)


def create_views(athena: Athena, lake: Lake) -> list[str]:
    """Create the lake's views in Athena, or bring them up to date; their tables too where they are missing.

    Returns:
        The views' names.

    Raises:
        AthenaError: Athena refused one.
    """
    for name in lake.specs:
        lake.table(name)  # a view over a table that is not there is refused
    with lake.attach(duckdb.connect()) as con:
        for view, sql in VIEWS.items():
            columns = ", ".join(_for_a_view(name, kind) for name, kind, *_ in con.sql(f"DESCRIBE {view}").fetchall())
            athena.query(f"CREATE OR REPLACE VIEW {view} AS SELECT {columns} FROM ({sql})")  # noqa: S608 (ours)
    return list(VIEWS)


def _for_a_view(name: str, kind: str) -> str:
    """A column by its name, because a view over SELECT * goes stale when its table gains one. And times as UTC without
    a zone: Athena's views are written down in Hive's types, which know none ("Unsupported Hive type")."""
    return f"CAST({name} AT TIME ZONE 'UTC' AS TIMESTAMP) AS {name}" if kind == "TIMESTAMP WITH TIME ZONE" else name


def literal(value: Parameter) -> str:
    """A value as a literal of Athena's SQL, which is what execution parameters are made of.

    Text is quoted and can never become SQL. Numbers keep their type: a bare 1.5 would be a decimal.

    Raises:
        TypeError: Athena has no literal for values of this kind.
        ValueError: longer than the 1,024 characters that a parameter may have.
    """
    match value:
        case None:
            text = "NULL"
        case bool():
            text = str(value).lower()
        case str():
            text = "'" + value.replace("'", "''") + "'"
        case int():
            text = str(value)
        case float():
            text = f"DOUBLE '{_double(value)}'"
        case decimal.Decimal():
            text = f"DECIMAL '{value:f}'"
        case dt.datetime():
            zone = "" if value.tzinfo is None else " UTC"
            moment = value if value.tzinfo is None else value.astimezone(dt.UTC)
            text = f"TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S.%f}{zone}'"
        case dt.date():
            text = f"DATE '{value.isoformat()}'"
        case _:
            raise TypeError(f"no Athena literal for {value!r}, a {type(value).__name__}")
    if len(text) > 1024:
        raise ValueError(f"a parameter of {len(text)} characters; Athena takes 1,024")
    return text


def _double(value: float) -> str:
    """As Java's Double.parseDouble reads it, which Trino uses."""
    return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(repr(value), repr(value))


def _typed(values: list[str | None], kind: str, precision: int, scale: int) -> pa.Array:
    """A column of Athena's result, which is all text, in its own type.

    Raises:
        AthenaError: the text is no value of that type.
    """
    text = pa.array(values, pa.string())
    try:
        if kind == "timestamp with time zone":
            return pa.array([None if v is None else _moment(v) for v in values], pa.timestamp("us", "UTC"))
        if kind == "timestamp":
            moments = [None if v is None else dt.datetime.fromisoformat(v) for v in values]
            return pa.array(moments, pa.timestamp("us"))
        if kind == "varbinary":
            return pa.array([None if v is None else bytes.fromhex(v) for v in values], pa.binary())
        if kind == "decimal":
            return text.cast(pa.decimal128(precision, scale))
        return text.cast(_TYPES.get(kind, pa.string()))
    except (ValueError, KeyError) as error:
        raise AthenaError(f"Athena gave a {kind} that cannot be read: {error}") from error


def _moment(text: str) -> dt.datetime:
    """A time such as 2024-01-05 06:00:00.000 UTC, with a zone's name or +02:00."""
    day, clock, zone = text.split(" ")
    if zone[0] in "+-":
        return dt.datetime.fromisoformat(f"{day} {clock}{zone}")
    return dt.datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=zoneinfo.ZoneInfo(zone))
