"""The way from Firehose that docs/streams.md names, on moto: objects of JSON lines, added up by week, landed."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import boto3
import duckdb
import pytest

from forecast_platform.clouds.aws.landing import S3Landing
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.ingest import ingest_landed
from forecast_platform.weeks import WeekCalendar
from forecast_platform_tests.streaming.broker import sale

WEEK = dt.date(2025, 10, 10)
NOW = dt.datetime(2025, 10, 12, tzinfo=dt.UTC)
# What a schedule runs after the week's end, over the week's objects.
SUMS = """
COPY (
    SELECT store, dept, DATE '2025-10-10' AS date, CAST(sum(weekly_sales) AS DECIMAL(18, 2)) AS weekly_sales
    FROM (SELECT DISTINCT receipt, line, store, dept, weekly_sales
          FROM read_json('{folder}/*', format = 'newline_delimited', columns = {{
              receipt: 'VARCHAR', line: 'INT', store: 'VARCHAR', dept: 'VARCHAR', date: 'DATE',
              weekly_sales: 'DOUBLE'}})
          WHERE date BETWEEN DATE '2025-10-04' AND DATE '2025-10-10')
    GROUP BY store, dept ORDER BY store, dept
) TO '{folder}.parquet'
"""


@pytest.fixture
def firehose(s3: Any) -> Any:
    client = boto3.client("firehose")
    client.create_delivery_stream(
        DeliveryStreamName="tills",
        ExtendedS3DestinationConfiguration={
            "RoleARN": "arn:aws:iam::123456789012:role/firehose",
            "BucketARN": "arn:aws:s3:::drop",
            "Prefix": "landing/raw/",
        },
    )
    return client


def put(firehose: Any, sold: list[dict[str, Any]], end: str) -> None:
    records = [{"Data": (json.dumps(one) + end).encode()} for one in sold]
    firehose.put_record_batch(DeliveryStreamName="tills", Records=records)


def bodies(s3: Any) -> list[bytes]:
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="drop", Prefix="landing/raw/")["Contents"]]
    return [s3.get_object(Bucket="drop", Key=key)["Body"].read() for key in keys]


def test_objects_of_json_lines_become_the_weeks_file(firehose: Any, s3: Any, lake: Lake, tmp_path: Any) -> None:
    days = [WEEK - dt.timedelta(days=k) for k in range(9)]
    sold = [sale(str(k % 2), str(k % 3), days[k % 9], 1.25, receipt=f"r{k // 4}", line=k % 4) for k in range(90)]
    put(firehose, sold[:40], "\n")
    put(firehose, sold[40:], "\n")
    put(firehose, sold[40:50], "\n")  # delivered again
    landing = S3Landing("s3://drop/landing")
    assert landing.list() == []  # raw/ is somebody else's
    folder = tmp_path / "raw"
    folder.mkdir()
    for i, body in enumerate(bodies(s3)):
        (folder / str(i)).write_bytes(body)
    duckdb.sql(SUMS.format(folder=folder))
    landing.put("sales/2025-10-10.parquet", tmp_path / "raw.parquet")
    (entry,) = ingest_landed(lake, landing, Dialect.named("canonical"), WeekCalendar(), NOW)
    assert (entry.status, entry.accepted, entry.quarantined) == ("ingested", 6, 0)
    found = lake.query("SELECT sum(sales) AS total, any_value(week) AS week FROM raw_sales").to_pylist()
    inside = [one for one in sold if one["date"] > str(WEEK - dt.timedelta(days=7))]
    assert found == [{"total": 1.25 * len(inside), "week": WEEK}]


def test_records_without_line_ends_are_one_line_and_an_object_as_it_is_is_refused(
    firehose: Any, s3: Any, lake: Lake
) -> None:
    sold = [sale("1", "1", WEEK, 1), sale("1", "2", WEEK, 2)]
    put(firehose, sold, "")
    (body,) = bodies(s3)
    assert body == b"".join(json.dumps(one).encode() for one in sold)
    landing = S3Landing("s3://drop/landing")
    landing.put("sales/tills-1-2025-10-10", body)
    (entry,) = ingest_landed(lake, landing, Dialect.named("canonical"), WeekCalendar(), NOW)
    assert (entry.status, entry.rule) == ("refused", "unknown_format")
