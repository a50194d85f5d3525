"""`forecast stream` with a landing place in S3, as the command runs it, on moto."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from forecast_platform.cli import main
from forecast_platform.settings import get_settings
from forecast_platform_tests.streaming.broker import Broker, sale

WEEK = dt.date(2025, 10, 10)  # long over


def test_weeks_land_in_a_bucket_and_a_late_message_restates_them_there(
    broker: Broker, topic: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HOME": str(tmp_path), "LANDING_URL": "s3://drop/landing", "KAFKA_SERVERS": broker.servers,
        "KAFKA_TOPIC": topic, "KAFKA_CONF": '{"log_level": "0"}', "STREAM_LATENESS_HOURS": "0",
        "STREAM_KEEP_WEEKS": "1000",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"FORECAST_{name}", value)
    get_settings.cache_clear()

    def stream(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["stream", "--once", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def landed() -> dict[str, list[dict[str, Any]]]:
        found = s3.list_objects_v2(Bucket="drop")["Contents"]
        bodies = {one["Key"]: s3.get_object(Bucket="drop", Key=one["Key"])["Body"].read() for one in found}
        return {key: pq.read_table(io.BytesIO(body)).to_pylist() for key, body in bodies.items()}

    broker.send(topic, [sale("1", str(k % 2), WEEK - dt.timedelta(days=k % 7), 1.25) for k in range(70)])
    assert "70 messages, 1 weeks landed" in stream("--first-week", str(WEEK))
    (key,) = landed()
    assert key.startswith("landing/sales/")
    assert {(row["store"], row["dept"], row["date"], float(row["weekly_sales"])) for row in landed()[key]} == {
        ("1", "0", WEEK, 43.75), ("1", "1", WEEK, 43.75)
    }  # fmt: skip
    assert "0 messages, 0 weeks landed" in stream()
    broker.send(topic, [sale("1", "1", WEEK, -3.75)])
    assert "1 messages, 1 weeks landed" in stream()
    (again,) = landed()
    assert again == key
    assert [float(row["weekly_sales"]) for row in landed()[key]] == [43.75, 40.0]
    assert not (tmp_path / "landing").exists()
