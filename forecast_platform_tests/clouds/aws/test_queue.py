"""The landing sensor told by SQS: S3's own notifications on moto, and bodies made by hand where moto lacks a field."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.clouds.aws import queue as queues
from forecast_platform.clouds.aws.landing import S3Landing
from forecast_platform.clouds.aws.queue import Queue, QueueError
from forecast_platform.defs.landing_sensor import landing_sensor, seconds_between_ticks
from forecast_platform.landing import trigger
from forecast_platform.landing.kinds import KINDS
from forecast_platform.landing.ledger import Entry, record
from forecast_platform.settings import Settings
from forecast_platform_tests.clouds.aws.gate import Gate
from forecast_platform_tests.clouds.aws.test_events import record as s3_record
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.defs.test_landing_sensor import Ticking, W, sales


@pytest.fixture
def sqs(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of SQS, with a queue named "landing" that has a dead-letter queue, and tells of the bucket `drop`."""
    import boto3

    monkeypatch.setattr(queues, "WAIT_SECONDS", 0)
    monkeypatch.setattr(queues, "VISIBILITY", 1)
    client = boto3.Session().client("sqs")
    dead = client.create_queue(QueueName="dead")["QueueUrl"]
    redrive = {"deadLetterTargetArn": arn(client, dead), "maxReceiveCount": "3"}
    url = client.create_queue(QueueName="landing", Attributes={"RedrivePolicy": json.dumps(redrive)})["QueueUrl"]
    client.landing, client.dead = url, dead
    s3.put_bucket_notification_configuration(
        Bucket="drop",
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn(client, url), "Events": ["s3:ObjectCreated:*"]}]
        },
    )
    return client


@pytest.fixture
def sensor(home: Path, sqs: Any) -> Ticking:
    """The sensor after its first tick, which lists; the next full listing is ten minutes away."""
    ticking = Ticking(Graph(Settings(**SMALL, landing_url="s3://drop/in", queue_url=sqs.landing)))
    ticking.tick()
    return ticking


@pytest.fixture
def listings(sensor: Ticking, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each full listing."""
    done: list[str] = []
    real = S3Landing.list

    def counted(self: S3Landing, *args: Any, **named: Any) -> Any:
        done.append(self.url)
        return real(self, *args, **named)

    monkeypatch.setattr(S3Landing, "list", counted)
    return done


def arn(client: Any, url: str) -> str:
    return str(client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


def waiting(client: Any, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def reappear() -> None:
    time.sleep(1.1)  # more than VISIBILITY


def weeks(result: Any) -> list[str]:
    return [r.partition_key for r in result.run_requests]


def test_an_hour_without_files_is_a_few_hundred_requests(
    home: Path, s3: Any, sqs: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lake in Glue, as it is on AWS: what the sensor costs while nothing lands, which is nearly always."""
    cloud = {"profile": "aws", "engine": "local", "storage_url": "s3://drop/storage", "landing_url": "s3://drop/in"}
    graph = Graph(Settings(**{**SMALL, **cloud}, queue_url=sqs.landing))
    there = graph.platform.landing.put("sales/a.csv", sales(W[0]))
    record(graph.lake, Entry(there.key, there.version, "sales", there.arrived_at, "ingested", first_week=W[0]))
    sensor = Ticking(graph)
    sensor.tick()
    sqs.purge_queue(QueueUrl=sqs.landing)

    def requests() -> Counter[str]:
        gate.calls.clear()
        assert sensor.tick().skip_message == "nothing new landed"
        return Counter(gate.calls)

    idle = requests()
    assert idle["ReceiveMessage"] == 1
    monkeypatch.setattr(trigger, "RECONCILE", dt.timedelta(0))
    listing = requests()
    assert listing["GET drop"] - idle["GET drop"] == 1 + len(KINDS)
    ticks, listings = 3600 // seconds_between_ticks("s3://drop/in"), 6
    hour = ticks * sum(idle.values()) + listings * (1 + len(KINDS))
    assert hour <= 550, idle
    assert landing_sensor.minimum_interval_seconds == seconds_between_ticks(""), "nothing is paid for on a laptop"


def test_the_test_event_is_taken_out(sensor: Ticking, sqs: Any):
    assert waiting(sqs, sqs.landing) == 0


def test_an_event_starts_its_run_without_a_listing_and_goes_when_the_cursor_is_stored(
    sensor: Ticking, sqs: Any, s3: Any, listings: list[str]
):
    s3.put_object(Bucket="drop", Key="in/sales/a b+ä.csv", Body=sales(W[4]))
    assert weeks(sensor.tick()) == ["2025-01-31"]
    assert waiting(sqs, sqs.landing) == 1, "kept until the cursor that knows of it is stored"
    reappear()
    assert weeks(sensor.tick()) == []
    assert waiting(sqs, sqs.landing) == 0
    assert listings == []


def test_a_sensor_killed_before_its_cursor_is_stored_asks_again(sensor: Ticking, sqs: Any, s3: Any):
    s3.put_object(Bucket="drop", Key="in/sales/a.csv", Body=sales(W[4]))
    before = sensor.cursor
    (lost,) = sensor.tick().run_requests
    sensor.cursor = before  # Dagster never stored it
    reappear()
    (again,) = sensor.tick().run_requests
    assert again.run_key == lost.run_key, "so that Dagster starts it once, had it got so far"
    assert waiting(sqs, sqs.landing) == 1
    reappear()
    sensor.tick()
    assert waiting(sqs, sqs.landing) == 0


def test_a_sensor_killed_between_cursor_and_delete_asks_no_more(
    sensor: Ticking, sqs: Any, s3: Any, monkeypatch: pytest.MonkeyPatch
):
    s3.put_object(Bucket="drop", Key="in/sales/a.csv", Body=sales(W[4]))
    assert weeks(sensor.tick()) == ["2025-01-31"]
    reappear()
    with monkeypatch.context() as patch:
        patch.setattr(Queue, "delete", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sensor.tick()
    reappear()
    assert weeks(sensor.tick()) == []
    assert waiting(sqs, sqs.landing) == 0


def test_repeated_and_reordered_events_are_one_run(sensor: Ticking, sqs: Any, s3: Any):
    for week in (W[3], W[4]):
        s3.put_object(Bucket="drop", Key="in/sales/a.csv", Body=sales(week))
    sqs.purge_queue(QueueUrl=sqs.landing)
    for sequencer in ("0B", "0A", "0B", "0A"):
        body = {"Records": [s3_record("in/sales/a.csv", sequencer=sequencer)]}
        sqs.send_message(QueueUrl=sqs.landing, MessageBody=json.dumps(body))
    assert weeks(sensor.tick()) == ["2025-01-31"], "what lies there counts, not what was said of it"
    reappear()
    assert weeks(sensor.tick()) == []
    assert waiting(sqs, sqs.landing) == 0


def test_a_lost_event_is_found_by_the_listing(
    sensor: Ticking, sqs: Any, s3: Any, listings: list[str], monkeypatch: pytest.MonkeyPatch
):
    s3.put_object(Bucket="drop", Key="in/sales/a.csv", Body=sales(W[4]))
    sqs.purge_queue(QueueUrl=sqs.landing)
    assert weeks(sensor.tick()) == []
    monkeypatch.setattr(trigger, "RECONCILE", dt.timedelta(0))
    assert weeks(sensor.tick()) == ["2025-01-31"]
    assert len(listings) == 1


def test_a_poison_message_is_named_and_left_for_the_dead_letter_queue(sensor: Ticking, sqs: Any, s3: Any):
    sqs.send_message(QueueUrl=sqs.landing, MessageBody='{"hello": 1}')
    s3.put_object(Bucket="drop", Key="in/sales/a.csv", Body=sales(W[4]))
    assert weeks(sensor.tick()) == ["2025-01-31"], "it holds up nothing"
    for _ in range(2):
        reappear()
        assert "left for the dead-letter queue: an S3 event was expected; found JSON with hello" in str(
            sensor.tick().skip_message
        )
    reappear()
    assert sensor.tick().skip_message == "nothing new landed"
    assert (waiting(sqs, sqs.landing), waiting(sqs, sqs.dead)) == (0, 1)


def test_events_of_elsewhere_of_deletions_and_of_files_gone_are_taken_out(sensor: Ticking, sqs: Any):
    for body in (
        s3_record("elsewhere/sales/a.csv"),
        s3_record("in/sales/gone.csv"),
        s3_record("in/sales/a.csv", "ObjectRemoved:Delete"),
        s3_record("in/sales/.hidden"),
        s3_record("in/other/x.csv"),
    ):
        sqs.send_message(QueueUrl=sqs.landing, MessageBody=json.dumps({"Records": [body]}))
    assert sensor.tick().skip_message == "nothing new landed"
    assert waiting(sqs, sqs.landing) == 0


def test_without_its_queue_the_sensor_lists_and_says_why(sensor: Ticking, sqs: Any, s3: Any):
    s3.put_object(Bucket="drop", Key="in/sales/a.csv", Body=sales(W[4]))
    sqs.delete_queue(QueueUrl=sqs.landing)
    assert weeks(sensor.tick()) == ["2025-01-31"]
    assert "there is no such queue; set FORECAST_QUEUE_URL" in str(sensor.tick().skip_message)


def test_many_events_are_cheaper_listed(sensor: Ticking, sqs: Any, listings: list[str], monkeypatch: Any):
    monkeypatch.setattr(trigger, "MOST_LOOKS", 1)
    for name in "ab":
        body = {"Records": [s3_record(f"in/sales/{name}.csv")]}
        sqs.send_message(QueueUrl=sqs.landing, MessageBody=json.dumps(body))
    sensor.tick()
    assert len(listings) == 1


def test_a_receive_is_bounded_in_messages_and_in_time(sqs: Any, monkeypatch: pytest.MonkeyPatch):
    sqs.purge_queue(QueueUrl=sqs.landing)
    for start in range(0, 30, 10):
        entries = [{"Id": str(i), "MessageBody": f'{{"Records": [], "n": {start + i}}}'} for i in range(10)]
        sqs.send_message_batch(QueueUrl=sqs.landing, Entries=entries)
    with monkeypatch.context() as patch:
        patch.setattr(queues, "MOST_MESSAGES", 15)
        assert len(Queue(sqs.landing).receive()) == 20, "whole replies, until there are enough"
    ticks = iter([0.0, 1.0, 99.0])
    assert len(Queue(sqs.landing, clock=lambda: next(ticks)).receive()) == 10


def test_a_refused_queue_is_explained(sqs: Any):
    from botocore.stub import Stubber

    for code, words in (("AccessDenied", "allow sqs:ReceiveMessage"), ("InternalError", "try again")):
        queue = Queue(sqs.landing)
        with Stubber(queue._client) as stub:
            stub.add_client_error("receive_message", code)
            with pytest.raises(QueueError, match=words):
                queue.receive()
