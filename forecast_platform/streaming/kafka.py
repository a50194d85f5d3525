"""Messages of a Kafka topic, by confluent-kafka (librdkafka).

All partitions are assigned to this one consumer by hand, each from the offset that our own state names. There is no
group that shares them out, so nothing is rebalanced, and a second consumer elsewhere sees every message, too. What is
committed to the broker is never read by us: it is for those who watch the lag of consumer groups.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import confluent_kafka as ck
import numpy as np
from confluent_kafka import admin

from forecast_platform.streaming.messages import Messages
from forecast_platform.streaming.state import StreamError

MOST = 10_000  # messages at one time
PATIENCE = 30.0  # seconds for an answer of the brokers
_RESERVED = {"auto.offset.reset", "enable.auto.commit", "enable.auto.offset.store", "enable.partition.eof"}

_ADMIN: Any = admin  # which has half its types


# What librdkafka mends by itself. All else ends the stream: a message that can't be unpacked would be passed over.
_PASSING = {
    getattr(ck.KafkaError, name)
    for name in ("_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_WAIT_COORD", "REQUEST_TIMED_OUT",
                 "LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION", "BROKER_NOT_AVAILABLE", "NETWORK_EXCEPTION")
}  # fmt: skip


class Topic:
    """One topic, read by one consumer.

    Args:
        conf: librdkafka's properties: servers, security, and more.

    Raises:
        StreamError: the properties are wrong, the brokers can't be reached, or there is no such topic.
    """

    def __init__(self, topic: str, conf: Mapping[str, str]) -> None:
        self.topic, self.name = topic, f"kafka:{topic}"
        if taken := sorted(_RESERVED & conf.keys()):
            raise StreamError(f"{taken[0]} can't be set: offsets are kept with the sums, not by Kafka")
        try:
            self._consumer = ck.Consumer(
                {
                    "group.id": "forecast-stream",
                    "queued.max.messages.kbytes": 32_768,
                    "fetch.queue.backoff.ms": 10,
                    **conf,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    # Where the messages that we are to go on with are gone, we do not go on with others.
                    "auto.offset.reset": "error",
                    "enable.partition.eof": True,
                    "error_cb": self._heard,
                }
            )
        except ck.KafkaException as error:
            raise StreamError(f"kafka_conf: {error.args[0].str()}") from None
        self._admin = _ADMIN.AdminClient(dict(conf))
        self._trouble = ""
        self._next: dict[int, int] = {}  # of the partitions that are read, the offset that comes next
        self._unsure: set[int] = set()  # partitions that have lost messages to retention before we came
        self._since: dt.datetime | None = None

    def close(self) -> None:
        self._consumer.close()

    def assign(self, positions: Mapping[str, int], since: dt.datetime | None) -> None:
        """Read on from these offsets; of partitions without one, and of those to come, from their first message on.

        Args:
            since: when the first week that is answered for began: no message from then on may be missing. None: it did
                not yet.
        """
        self._since = since
        self._next = {int(partition): offset for partition, offset in positions.items()}
        if lost := sorted(self._next.keys() - set(self._partitions())):
            raise StreamError(
                f"the topic {self.topic} has no partition {lost[0]} any more, so it is another one: begin anew with "
                "--restart --first-week WEEK"
            )
        self._consumer.assign([ck.TopicPartition(self.topic, p, offset) for p, offset in self._next.items()])

    def ends(self) -> dict[str, int]:
        """Of each partition, the offset that the next message will have. New partitions are read from now on.

        Raises:
            StreamError: the brokers do not answer.
        """
        partitions = self._partitions()
        if new := [p for p in partitions if p not in self._next]:
            first = self.offsets(new, _ADMIN.OffsetSpec.earliest())
            self._next |= first
            self._unsure |= {p for p in new if first[p] and self._since}
            self._consumer.incremental_assign([ck.TopicPartition(self.topic, p, first[p]) for p in new])
        return {str(p): offset for p, offset in self.offsets(partitions, _ADMIN.OffsetSpec.latest()).items()}

    def poll(self, seconds: float) -> Messages:
        """The messages that come within that time, at most MOST.

        Raises:
            StreamError: messages are gone that were to be read, or the brokers refuse us.
        """
        found: list[Any] = []
        ends: dict[str, int] = {}
        for message in self._consumer.consume(MOST, seconds):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                ends[str(message.partition())] = int(message.offset() or 0)
            elif error.code() in (ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE):
                raise StreamError(self._lost(int(message.partition() or 0)))
            elif error.code() not in _PASSING:
                raise StreamError(f"the topic {self.topic}: {error.str()}")
        if self._unsure:
            self._check_begin(found)
        partition = np.array([message.partition() for message in found], np.int32)
        offset = np.array([message.offset() for message in found], np.int64)
        names = [str(p) for p in range(int(partition.max()) + 1)] if found else []
        for p in np.unique(partition).tolist():
            self._next[p] = int(offset[partition == p][-1]) + 1
        return Messages([message.value() for message in found], partition, offset, names, ends)

    def note(self, positions: Mapping[str, int]) -> None:
        """Tell the broker how far we are, for those who watch it. Nothing depends on whether it hears that."""
        self._consumer.commit(
            offsets=[ck.TopicPartition(self.topic, int(p), offset) for p, offset in positions.items()],
            asynchronous=True,
        )

    def _heard(self, error: Any) -> None:
        self._trouble = error.str()

    def _partitions(self) -> list[int]:
        found = self._asked(lambda: self._consumer.list_topics(self.topic, timeout=PATIENCE).topics[self.topic])
        if found.error is not None:
            raise StreamError(f"the topic {self.topic}: {found.error.str()}; is its name right (FORECAST_KAFKA_TOPIC)?")
        return sorted(found.partitions)

    def offsets(self, partitions: list[int], which: Any) -> dict[int, int]:
        asked = {ck.TopicPartition(self.topic, p): which for p in partitions}
        answers = self._asked(lambda: self._admin.list_offsets(asked, request_timeout=PATIENCE))
        return {at.partition: int(self._asked(answer.result).offset) for at, answer in answers.items()}

    def _asked(self, question: Any) -> Any:
        try:
            return question()
        except ck.KafkaException as error:
            self._consumer.poll(0)  # has what the connections met told to _heard
            why = self._trouble or error.args[0].str()
            raise StreamError(
                f"the brokers do not answer ({why}); see FORECAST_KAFKA_SERVERS and FORECAST_KAFKA_CONF"
            ) from None

    def _check_begin(self, found: list[Any]) -> None:
        """Of a partition that has lost messages, the first one left must be of before the weeks we answer for."""
        assert self._since is not None
        for message in found:
            if message.partition() in self._unsure:
                self._unsure.discard(message.partition())
                kind, milliseconds = message.timestamp()
                sent = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
                if kind == ck.TIMESTAMP_NOT_AVAILABLE or sent > self._since:
                    raise StreamError(
                        f"the broker has deleted the messages of partition {message.partition()} before offset "
                        f"{message.offset()}, which was sent {sent:%Y-%m-%d %H:%M} UTC: sums of a week that began "
                        "before would lack them. Give a later --first-week, and land the weeks before as files"
                    )

    def _lost(self, partition: int) -> str:
        first, end = (
            self.offsets([partition], which)[partition]
            for which in (_ADMIN.OffsetSpec.earliest(), _ADMIN.OffsetSpec.latest())
        )
        return (
            f"partition {partition} of {self.topic} holds the offsets {first} to {end}, and the stream was to go on "
            f"with {self._next.get(partition)}: the broker has deleted what was not read yet, or the topic is another "
            "one. Sums would lack it: begin anew with --restart --first-week WEEK, and land the weeks before as files"
        )
