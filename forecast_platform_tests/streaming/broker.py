"""A Kafka broker on loopback that speaks the real protocol: librdkafka's mock cluster, in this process."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Iterable
from typing import Any

import confluent_kafka as ck

PARTITIONS = 4  # of a topic that the mock cluster makes


class Broker:
    """A cluster of one broker. It lives as long as its producer; other processes reach it by `servers`.

    Attributes:
        conf: properties that find it.
    """

    def __init__(self) -> None:
        self.producer = ck.Producer(
            {
                "bootstrap.servers": "made-up",
                "test.mock.num.brokers": 1,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 2_000_000,
                "log_level": 0,
            }
        )
        (broker,) = self.producer.list_topics(timeout=10).brokers.values()
        self.servers = f"{broker.host}:{broker.port}"
        self.conf = {"bootstrap.servers": self.servers, "log_level": "0"}

    def send(self, topic: str, values: Iterable[Any], at: dt.datetime | None = None) -> None:
        """Send messages, one partition after the other in turn: bytes or None as they are, all else as JSON.

        Args:
            at: when the producer says that they were sent.
        """
        for partition, value in zip(itertools.cycle(range(PARTITIONS)), values, strict=False):
            data = value if isinstance(value, bytes | None) else json.dumps(value).encode()
            self.producer.produce(topic, data, partition=partition, timestamp=int(at.timestamp() * 1000) if at else 0)
        assert self.producer.flush(60) == 0


def sale(store: str, dept: str, date: str | dt.date, amount: Any, **more: Any) -> dict[str, Any]:
    return {"store": store, "dept": dept, "date": str(date), "weekly_sales": amount, **more}
