"""Bodies as S3, SNS and EventBridge send them, and bodies that nobody should send."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform.clouds.aws.events import EventError, ObjectEvent, newest, parse

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def record(plain: str, name: str = "ObjectCreated:Put", **more: Any) -> dict[str, Any]:
    """As in Amazon's "Event message structure", with a field of a later version that we do not know."""
    found = {"key": quote_plus(plain, safe="/"), "size": 7, "eTag": "abc", "versionId": "v", "sequencer": "0A"} | more
    return {
        "eventVersion": "2.5",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": "2026-01-02T03:04:05.000Z",
        "eventName": name,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "drop"}, "object": found, "new": {}},
    }


def s3(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def eventbridge(key: str, kind: str = "Object Created") -> dict[str, Any]:
    found = {"key": key, "size": 7, "etag": "abc", "version-id": "v", "sequencer": "0A"}
    detail = {"version": "0", "bucket": {"name": "drop"}, "object": found, "reason": "PutObject"}
    return {"version": "0", "source": "aws.s3", "detail-type": kind, "time": "2026-01-02T03:04:05Z", "detail": detail}


def forms(key: str) -> list[Any]:
    """The same object in each form."""
    body = s3(record(key))
    return [
        body,
        body.encode(),
        json.loads(body),
        json.dumps({"Type": "Notification", "TopicArn": "arn:x", "Message": body}),
        {"Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": {"Message": body}}]},
        eventbridge(key),
        json.dumps({"Type": "Notification", "Message": json.dumps(eventbridge(key))}),
    ]


@given(KEYS)
def test_every_form_names_the_same_object_and_its_key_comes_through(key: str):
    for body in forms(key):
        (event,) = parse(body)
        assert (event.bucket, event.key, event.etag, event.version_id, event.size, event.sequencer) == (
            "drop",
            key,
            "abc",
            "v",
            7,
            "0A",
        )


def test_a_plus_is_a_space_in_notifications_and_a_plus_by_eventbridge():
    assert parse(s3(record("x", key="red+flower%2B.csv")))[0].key == "red flower+.csv"
    assert parse(eventbridge("red+flower%2B.csv"))[0].key == "red+flower%2B.csv"


@pytest.mark.parametrize(
    "body",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drop"},
        {"Records": []},
        {"Records": [record("a", "ObjectRemoved:Delete"), record("a", "ObjectRemoved:DeleteMarkerCreated")]},
        eventbridge("a", "Object Deleted"),
        {"Type": "Notification", "Message": json.dumps({"Event": "s3:TestEvent"})},
    ],
)
def test_what_creates_nothing_gives_nothing(body: Any):
    assert parse(body) == []
    assert parse(json.dumps(body)) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "this is not"),
        ("[" * 100_000, "this is not"),
        ("[]", "this is list"),
        ({}, "nothing in it"),
        ({"hello": 1}, "hello"),
        ({"Records": 5}, "Records should be a list; it is int"),
        ({"Records": [record("a") | {"eventVersion": "3.0"}]}, "eventVersion 2.x is understood; found '3.0'"),
        ({"Records": [record("a") | {"eventSource": "aws:sqs"}]}, "found eventSource 'aws:sqs'"),
        ({"Records": [record("a") | {"s3": {}}]}, "object should be a JSON object; it is missing"),
        ({"Records": [record("a", key="%ff")]}, "does not decode to UTF-8"),
        ({"Records": [record("a", key="\ud800")]}, "UTF-8"),
        ({"Records": [record("a", key="")]}, "names no"),
        ({"Type": "Notification"}, "it|this"),
        (
            json.dumps({"Type": "Notification", "Message": json.dumps({"Type": "Notification", "Message": "{}"})}),
            "an S3 event was expected",
        ),
    ],
)
def test_anything_else_is_refused_with_what_was_found(body: Any, words: str):
    with pytest.raises(EventError, match=words):
        parse(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


def corrupted(value: Any, draw: Any) -> Any:
    """A true event with one part, anywhere in it, replaced by any JSON."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: corrupted(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        return [corrupted(value[0], draw), *value[1:]]
    return draw(JSON)


@given(st.data())
def test_no_json_raises_anything_but_event_error(data: st.DataObject):
    body = corrupted(data.draw(st.sampled_from([b for b in forms("a b") if isinstance(b, dict)])), data.draw)
    for form in (body, json.dumps(body)):
        with contextlib.suppress(EventError):
            assert all(isinstance(e, ObjectEvent) and e.bucket and e.key for e in parse(form))


@given(st.text() | st.binary())
def test_no_text_raises_anything_but_event_error(body: str | bytes):
    with contextlib.suppress(EventError):
        parse(body)


# --- order

HEX = st.text("0123456789ABCDEF", max_size=8)
EVENTS = st.lists(
    st.builds(ObjectEvent, bucket=st.just("b"), key=st.sampled_from("xyz"), etag=st.sampled_from("pq"), sequencer=HEX),
    max_size=10,
)


@given(EVENTS, st.data())
def test_neither_order_nor_repetition_changes_what_is_newest(events: list[ObjectEvent], data: st.DataObject):
    again = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events)) if events else st.just([]))))
    assert newest(again) == newest(events)
    assert {e.url for e in newest(events)} == {e.url for e in events}


@given(HEX, HEX)
def test_sequencers_compare_as_s3_says(left: str, right: str):
    """Amazon: right-pad the shorter value with zeros, then compare lexicographically."""
    width = max(len(left), len(right))
    ours = ObjectEvent("b", "k", sequencer=left).order < ObjectEvent("b", "k", sequencer=right).order
    assert ours == (left.ljust(width, "0") < right.ljust(width, "0"))


def test_the_newest_of_a_key_is_by_sequencer_not_by_arrival():
    late, early = (ObjectEvent("b", "k", etag=s, sequencer=s) for s in ("0055AED6DCD90281E6", "0055AED6DCD90281E5"))
    assert newest([late, early]) == [late]
