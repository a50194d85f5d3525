"""The SQS queue of the landing bucket's events, as the landing sensor uses it.

A message is deleted only when a stored cursor holds its effect. Until then it comes back after VISIBILITY seconds, so a
tick that dies anywhere loses nothing, and no message has to be remembered: one that comes back names
an object that the cursor or the lake knows by then. A message that can't be read is never deleted here: after the
queue's maxReceiveCount SQS moves it to the dead-letter queue. Messages are received at least twice, once to be noticed
and once to be deleted, so maxReceiveCount should be 5 or more.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from forecast_platform.clouds.aws.clients import client, translated
from forecast_platform.clouds.aws.events import EventError, ObjectEvent, parse

WAIT_SECONDS = 1  # long polling asks all of SQS's servers; a tick can't wait longer
VISIBILITY = 60  # seconds; by then a tick has ended or was killed
MOST_MESSAGES = 100  # of one tick, which is killed after 60 seconds
MOST_SECONDS = 15


class QueueError(RuntimeError):
    """The queue can't be used; the message says what to do."""


@dataclass(frozen=True)
class Message:
    """One received message: the objects it names, or the trouble with it when it can't be read."""

    message_id: str
    receipt: str
    events: tuple[ObjectEvent, ...] = ()
    trouble: str = ""


class Queue:
    """A queue, by its URL. No connection is opened before the first call.

    Args:
        url: as SQS gives it: https://sqs.region.amazonaws.com/account/name.
        clock: seconds, monotonic.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url, self._clock = url, clock

    @functools.cached_property
    def _client(self) -> Any:
        # Fewer retries than usual: a tick has 60 seconds, and without its queue it lists the bucket.
        return client("sqs", retries={"mode": "standard", "total_max_attempts": 3}, read_timeout=15)

    def receive(self) -> list[Message]:
        """What waits now, up to MOST_MESSAGES. The messages stay in the queue, hidden for VISIBILITY seconds.

        Raises:
            QueueError: the queue can't be read.
        """
        found: list[Message] = []
        until = self._clock() + MOST_SECONDS
        with self._explained("sqs:ReceiveMessage"):
            while len(found) < MOST_MESSAGES and self._clock() < until:
                reply = self._client.receive_message(
                    QueueUrl=self.url,
                    MaxNumberOfMessages=10,  # the API's limit
                    WaitTimeSeconds=WAIT_SECONDS,
                    VisibilityTimeout=VISIBILITY,
                )
                received = reply.get("Messages", ())
                found += [_read(item) for item in received]
                if not received:
                    break
        return found

    def delete(self, messages: Sequence[Message]) -> None:
        """Take messages out of the queue. One that SQS does not delete comes back, and is deleted then.

        Raises:
            QueueError: the queue refuses.
        """
        with self._explained("sqs:DeleteMessage"):
            for start in range(0, len(messages), 10):  # the API's limit
                entries = [
                    {"Id": str(i), "ReceiptHandle": m.receipt} for i, m in enumerate(messages[start : start + 10])
                ]
                self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)

    def _explained(self, permission: str) -> contextlib.AbstractContextManager[None]:
        def to(code: str, text: str) -> QueueError:
            return QueueError(f"the queue {self.url}: {f'{_advice(code, permission)} ({code})' if code else text}")

        return translated(to)


def _read(item: dict[str, Any]) -> Message:
    try:
        return Message(item["MessageId"], item["ReceiptHandle"], tuple(parse(item["Body"])))
    except EventError as error:
        return Message(item["MessageId"], item["ReceiptHandle"], trouble=str(error))


def _advice(code: str, permission: str) -> str:
    if "NonExistentQueue" in code or "QueueDoesNotExist" in code:
        return "there is no such queue; set FORECAST_QUEUE_URL as the outputs of infra/ name it, or leave it empty"
    if "AccessDenied" in code:
        return f"access denied; allow {permission} on it to the identity this process runs as"
    return "SQS refused the request; see the code and try again"
