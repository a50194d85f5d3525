"""The aws profile whole, over loopback: files put to S3, events in SQS, the sensor, the graph, training and a transform
over two instances on the emulated SageMaker, tables in Glue. The forecasts are the local profile's, row for row."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from forecast_platform.demo import MadeUpRetailer, history_files, make_retailer, week_file
from forecast_platform.engines.sagemaker import engine_of
from forecast_platform.lake.tables import PROVENANCE
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL, weeks_of
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.defs.test_landing_sensor import Ticking
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator

AWS: dict[str, Any] = {
    "profile": "aws",
    "storage_url": "s3://drop/storage",
    "landing_url": "s3://drop/landing",
    "role_arn": "arn:aws:iam::123456789012:role/forecast-sagemaker",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/forecast:1",
    "transform_instances": 2,
    "transform_shards": 3,
}


@pytest.fixture(scope="module")
def retailer() -> MadeUpRetailer:
    """A short history: every reading of it costs requests for each of its weeks."""
    return make_retailer(stores=6, depts=6, first=dt.date(2024, 11, 8), last=dt.date(2025, 1, 31))


@pytest.fixture
def queue_url(s3: Any) -> str:
    """A queue that hears of what lands in the bucket."""
    sqs = boto3.Session().client("sqs")
    url: str = sqs.create_queue(QueueName="landings")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rule = {"Name": "prefix", "Value": "landing/"}
    s3.put_bucket_notification_configuration(
        Bucket="drop",
        NotificationConfiguration={
            "QueueConfigurations": [
                {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": [rule]}}}
            ]
        },
    )
    return url


def cloud(home: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Graph:
    """The aws profile on a machine of its own: an empty home."""
    monkeypatch.setenv("FORECAST_HOME", str(home))
    graph = Graph(Settings(**{**SMALL, **AWS, **more}), drawn=True)
    graph.platform.engine = engine_of(graph.platform.settings, sleep=lambda s: time.sleep(min(s, 0.02)))
    return graph


def published(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """What was forecast and by which model, without the run's own columns."""
    found = {}
    for name in ("forecasts", "no_forecast", "models"):
        columns = [c for c in graph.lake.specs[name].schema.names if c not in PROVENANCE]
        found[name] = graph.lake.read(name, columns=columns).to_pylist()
    return found


def test_from_files_in_a_bucket_to_the_local_profile_s_very_forecasts(
    sagemaker: Emulator,
    s3: Any,
    queue_url: str,
    retailer: MadeUpRetailer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weeks = weeks_of(retailer)
    history, later = history_files(retailer, weeks[-2], dirty_rows=2), dict([week_file(retailer, weeks[-1])])

    graph = cloud(tmp_path / "cloud", monkeypatch, queue_url=queue_url)
    sensor = Ticking(graph)
    assert sensor.until_rest() == []
    for name, data in history.items():
        s3.put_object(Bucket="drop", Key=f"landing/{name}", Body=data)
    assert sensor.until_rest() == ["ingest_history None", f"weekly_forecast {weeks[-2]}"]
    for name, data in later.items():
        s3.put_object(Bucket="drop", Key=f"landing/{name}", Body=data)
    assert sensor.until_rest() == [f"weekly_forecast {weeks[-1]}"]

    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "laptop"))
    # As many shards, since sums over series differ in the last digit with the order of adding.
    local = Graph(Settings(**SMALL, transform_shards=AWS["transform_shards"]))
    local.land(history)
    assert local.history(weeks[0], weeks[-2]).success
    assert local.week(weeks[-2]).success
    local.land(later)
    assert local.week(weeks[-1]).success
    assert published(graph) == published(local)
    assert len(graph.lake.read("quarantine")) == 2

    # One training served both weeks or each had its own; every transform ran over two instances; nothing twice.
    assert len(sagemaker.billed) == len(set(sagemaker.billed))
    transforms = [job for (kind, _), job in sagemaker.jobs.items() if kind == "transform"]
    assert [job.instances for job in transforms] == [("ml.c5.2xlarge", 2)] * 2
    # Rerunning a week, from another machine, finds all of it.
    billed, state = list(sagemaker.billed), graph.lake.snapshot("forecasts")
    again = cloud(tmp_path / "elsewhere", monkeypatch, queue_url=queue_url)
    assert again.week(weeks[-1]).success
    assert sagemaker.billed == billed
    assert again.lake.snapshot("forecasts") == state
    # Files for people and other systems, and the week's page, lie beside the lake.
    for week in weeks[-2:]:
        ours = tmp_path / "laptop" / "exports" / "forecasts" / f"{week}.csv"
        there = s3.get_object(Bucket="drop", Key=f"storage/exports/forecasts/{week}.csv")["Body"].read()
        assert there == ours.read_bytes()
        assert s3.head_object(Bucket="drop", Key=f"storage/exports/forecasts/{week}.parquet")["ContentLength"]
    kept = s3.list_objects_v2(Bucket="drop", Prefix="storage/reports/")["Contents"]
    assert {item["Key"].rsplit("/", 1)[1] for item in kept} == {
        f"{w}.{kind}" for w in weeks[-2:] for kind in ("html", "png")
    }
    spent = [json.loads(s3.get_object(Bucket="drop", Key=item["Key"])["Body"].read())
             for item in s3.list_objects_v2(Bucket="drop", Prefix="storage/spend/")["Contents"]]  # fmt: skip
    assert len(spent) == len(billed)


def test_a_candidate_that_learns_nothing_is_judged_in_the_cloud_and_served_without_a_job(
    sagemaker: Emulator, s3: Any, retailer: MadeUpRetailer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judgement is a training job, as ever; forecasting is no work for one."""
    week = weeks_of(retailer)[-2]
    graph = cloud(tmp_path / "cloud", monkeypatch, target="recent_level")
    graph.land(history_files(retailer, week, dirty_rows=0))
    assert graph.history(weeks_of(retailer)[0], week).success
    result = graph.week(week)
    assert result.success, result.failures
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "laptop"))
    local = Graph(Settings(**{**SMALL, "target": "recent_level"}, transform_shards=AWS["transform_shards"]))
    local.land(history_files(retailer, week, dirty_rows=0))
    assert local.history(weeks_of(retailer)[0], week).success
    assert local.week(week).success
    assert published(graph) == published(local)
    (model,) = published(graph)["models"]
    assert model["network_share"] == 0
    assert {kind for kind, _ in sagemaker.jobs} == {"training"}
    # Another machine finds model and outputs.
    again = cloud(tmp_path / "elsewhere", monkeypatch, target="recent_level")
    assert again.week(week, only=["forecast_table"]).success
    assert published(again) == published(graph)
