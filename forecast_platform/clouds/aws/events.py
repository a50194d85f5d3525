"""What S3 says about new objects, in each of the forms it arrives in. Standard library only: the Lambda ships it.

| form | by way of |
|---|---|
| `{"Records": [{"eventSource": "aws:s3", ...}]}` | S3 notification to SQS or Lambda; keys are URL-encoded |
| `{"Type": "Notification", "Message": ...}` | the same through SNS to SQS |
| `{"Records": [{"EventSource": "aws:sns", "Sns": {"Message": ...}}]}` | the same through SNS to Lambda |
| `{"source": "aws.s3", "detail-type": "Object Created", ...}` | EventBridge; keys are plain |
| `{"Event": "s3:TestEvent", ...}` | sent once, when notifications are switched on |

S3 delivers at least once and in any order, so events are hints where to look; what lies there is asked of S3 itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus


class EventError(ValueError):
    """A message that is no S3 event in any form known here: it says what was expected and found."""


@dataclass(frozen=True)
class ObjectEvent:
    """One object was created or replaced.

    Attributes:
        key: as the object is named, not URL-encoded.
        etag: of its content, without quotes; empty where the event carries none.
        version_id: empty for buckets without versioning.
        size: bytes.
        sequencer: hexadecimal, orders the events of one key; empty where the sender has none.
        time: ISO 8601 in UTC, as sent.
    """

    bucket: str
    key: str
    etag: str = ""
    version_id: str = ""
    size: int = 0
    sequencer: str = ""
    time: str = ""

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def order(self) -> str:
        """The sequencer such that text order is S3's order: it says to pad the shorter of two with zeros on the
        right, and then to compare as text. Zero being the least digit, dropping them gives the same order."""
        return self.sequencer.upper().rstrip("0")


def parse(body: str | bytes | Mapping[str, Any]) -> list[ObjectEvent]:
    """The objects that a message says were created. Deletions, other events and s3:TestEvent give none.

    Args:
        body: the message's JSON text, or the same already decoded.

    Raises:
        EventError: anything else.
    """
    return _parse(body, enveloped=False)


def newest(events: Iterable[ObjectEvent]) -> list[ObjectEvent]:
    """The newest event of each object, by address; the order and repetition of `events` do not matter."""
    last: dict[str, ObjectEvent] = {}
    for event in events:
        last[event.url] = max(last.get(event.url, event), event, key=_newness)
    return [last[url] for url in sorted(last)]


def _newness(event: ObjectEvent) -> tuple[object, ...]:
    # By order and time; the rest decides between equals, always in the same way.
    return event.order, event.time, event.version_id, event.etag, event.size, event.sequencer


def _parse(body: Any, enveloped: bool) -> list[ObjectEvent]:
    message = _decoded(body)
    if message.get("Event") == "s3:TestEvent":
        return []
    if "Records" in message:
        records = message["Records"]
        if not isinstance(records, list):
            raise EventError(f"Records should be a list; it is {_kind(records)}")
        return [event for record in records for event in _of_record(record, enveloped)]
    if message.get("source") == "aws.s3" and "detail" in message:
        return _of_eventbridge(message)
    if message.get("Type") == "Notification" and not enveloped:
        return _parse(message.get("Message"), enveloped=True)
    raise EventError(f"an S3 event was expected; found JSON with {', '.join(sorted(message)[:5]) or 'nothing in it'}")


def _decoded(body: Any) -> Mapping[str, Any]:
    if isinstance(body, str | bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise EventError(f"an S3 event is JSON; this is not: {str(error)[:100]}") from error
    if not isinstance(body, Mapping):
        raise EventError(f"an S3 event is a JSON object; this is {_kind(body)}")
    return body


def _of_record(record: Any, enveloped: bool) -> list[ObjectEvent]:
    source = _text(record, "eventSource", "EventSource")
    if source == "aws:sns" and not enveloped:
        return _parse(_table(record, "Sns").get("Message"), enveloped=True)
    if not source.endswith(":s3"):  # S3-compatible stores put their own name in front
        raise EventError(f"a record of S3 was expected; found eventSource {source[:40]!r}")
    version = _text(record, "eventVersion")
    if version.partition(".")[0] != "2":
        raise EventError(f"eventVersion 2.x is understood; found {version[:20]!r}")
    if not _text(record, "eventName").removeprefix("s3:").startswith("ObjectCreated:"):
        return []
    s3 = _table(record, "s3")
    found = _table(s3, "object")
    try:
        key = unquote_plus(_text(found, "key"), errors="strict")
    except UnicodeDecodeError as error:
        raise EventError(f"the key {found['key'][:200]!r} does not decode to UTF-8") from error
    return [_event(_table(s3, "bucket"), key, found, etag="eTag", version_id="versionId", time=record.get("eventTime"))]


def _of_eventbridge(message: Mapping[str, Any]) -> list[ObjectEvent]:
    if _text(message, "detail-type") != "Object Created":
        return []
    detail = _table(message, "detail")
    found = _table(detail, "object")
    return [
        _event(
            _table(detail, "bucket"),
            _text(found, "key"),
            found,
            etag="etag",
            version_id="version-id",
            time=message.get("time"),
        )
    ]


def _event(
    bucket: Mapping[str, Any], key: str, found: Mapping[str, Any], etag: str, version_id: str, time: Any
) -> ObjectEvent:
    name, size = _text(bucket, "name"), found.get("size")
    for text in (name, key):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EventError(f"{text[:200]!r} is no UTF-8 text") from error
    if not name or not key:
        raise EventError("the event names no bucket, or no object")
    return ObjectEvent(
        name,
        key,
        _optional(found.get(etag)).strip('"'),
        _optional(found.get(version_id)),
        size if isinstance(size, int) else 0,
        _optional(found.get("sequencer")),
        _optional(time),
    )


def _optional(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _table(value: Any, name: str) -> Mapping[str, Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, Mapping):
        raise EventError(f"the event's {name} should be a JSON object; it is {_kind(found)}")
    return found


def _text(value: Any, *names: str) -> str:
    if isinstance(value, Mapping):
        for name in names:
            if isinstance(value.get(name), str):
                return str(value[name])
    raise EventError(f"the event has no text under {names[0]}")


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__
