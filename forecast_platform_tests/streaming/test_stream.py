"""Topics on a real broker become weekly files: when, of which messages, and never of one twice."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform.lake.lake import Lake
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.place import FolderLanding
from forecast_platform.landing.rules import parse_sales
from forecast_platform.streaming.kafka import Topic
from forecast_platform.streaming.messages import AMOUNT, ROWS, Messages, Reader
from forecast_platform.streaming.state import StreamError, StreamState
from forecast_platform.streaming.stream import POISON, Counts, Stream, Windows, as_file
from forecast_platform.weeks import WeekCalendar
from forecast_platform_tests.streaming.broker import Broker, sale

WEEKS = [dt.date(2026, 10, 2), dt.date(2026, 10, 9), dt.date(2026, 10, 16)]
CLOSED = dt.datetime(2026, 10, 18, tzinfo=dt.UTC)  # a day after the last of the WEEKS
DAY = dt.timedelta(days=1)


class Shop:
    """A home that a topic streams into, at a time that the test says."""

    def __init__(self, broker: Broker, topic: str, home: Path) -> None:
        self.broker, self.topic, self.home = broker, topic, home
        self.now, self.lines = CLOSED, list[str]()
        self.lake = Lake.local(home / "lake", ("p10", "p50", "p90"))
        self.windows = Windows(lateness=DAY, keep=8 * 7 * DAY)
        self.source: type[Topic] = Topic

    def clock(self) -> dt.datetime:
        return self.now

    def send(self, *values: Any, at: dt.datetime | None = None) -> None:
        self.broker.send(self.topic, values, at)

    def state(self) -> StreamState:
        return StreamState(self.home / "stream.duckdb", 1)

    def stream(self, first: dt.date = WEEKS[0], **dialect: Any) -> Counts:
        state, topic = self.state(), self.source(self.topic, self.broker.conf)
        try:
            if state.first_week is None:
                state.begin(first, "")
            reader = Reader(Dialect("", **dialect), WeekCalendar(), first)
            landing = FolderLanding(self.home / "landing")
            return Stream(
                topic, state, reader, self.windows, landing, self.lake, "stream", self.clock, self.lines.append
            ).run(once=True)
        finally:
            state.close()
            topic.close()

    def weeks(self) -> dict[dt.date, dict[tuple[str, str], float]]:
        """What the files hold."""
        found: dict[dt.date, dict[tuple[str, str], float]] = {}
        for path in sorted((self.home / "landing/sales").glob("*.parquet")):
            for row in pq.read_table(path).to_pylist():
                key = row["store"], row["dept"]
                assert key not in found.setdefault(row["date"], {})
                found[row["date"]][key] = float(row["weekly_sales"])
            assert path.name.endswith(f"_{max(found)}.parquet")
        return found


@pytest.fixture
def shop(broker: Broker, topic: str, tmp_path: Path) -> Shop:
    return Shop(broker, topic, tmp_path)


def test_a_week_is_landed_when_its_lateness_is_over_and_all_of_it_was_read(shop: Shop) -> None:
    shop.send(*(sale(str(k % 2), str(k % 3), week - k % 7 * DAY, 1.1) for week in WEEKS for k in range(60)))
    shop.now = CLOSED - dt.timedelta(seconds=1)
    assert shop.stream().messages == 180
    cells = {(str(s), str(d)): 11.0 for s in range(2) for d in range(3)}
    assert shop.weeks() == dict.fromkeys(WEEKS[:2], cells)
    shop.now = CLOSED
    assert (shop.stream().messages, shop.weeks()) == (0, dict.fromkeys(WEEKS, cells))
    assert shop.stream().files == []


def test_late_messages_restate_their_whole_week_once_a_lateness(shop: Shop) -> None:
    shop.send(sale("1", "1", WEEKS[0], 10), sale("1", "2", WEEKS[0], 20), sale("1", "1", WEEKS[1], 30))
    shop.stream()
    shop.send(sale("1", "1", WEEKS[0], -3), sale("2", "1", WEEKS[0], 5))
    shop.now += DAY / 2
    assert shop.stream().files == []
    shop.now += DAY / 2
    assert shop.stream().files == [f"sales/stream_{WEEKS[0]}.parquet"]
    assert shop.weeks() == {
        WEEKS[0]: {("1", "1"): 7, ("1", "2"): 20, ("2", "1"): 5}, WEEKS[1]: {("1", "1"): 30}
    }  # fmt: skip


def test_messages_of_weeks_that_are_not_kept_any_more_are_refused(shop: Shop) -> None:
    shop.send(sale("1", "1", WEEKS[0], 10))
    shop.stream()
    shop.now += 8 * 7 * DAY
    shop.stream()
    shop.send(sale("1", "1", WEEKS[0], 5), sale("1", "1", WEEKS[1], 7))
    assert shop.stream().poison == 1
    assert shop.weeks() == {WEEKS[0]: {("1", "1"): 10}, WEEKS[1]: {("1", "1"): 7}}


def test_what_is_refused_lies_in_the_quarantine_by_partition_and_offset(shop: Shop) -> None:
    shop.send(sale("1", "1", WEEKS[0], 10), b"{", sale("1", "1", "yesterday", 5), None)
    assert shop.stream().poison == 3
    shop.send(b"[")
    shop.stream()  # at the same time by the clock
    columns = ["source_key", "line", "rule", "field", "value", "record"]
    rows = shop.lake.read("quarantine", columns=columns).to_pylist()
    name = f"kafka:{shop.topic}"
    assert sorted(tuple(row.values()) for row in rows) == [
        (f"{name}/0", 1, "not_json", "", "", "["),
        (f"{name}/1", 0, "not_json", "", "", "{"),
        (f"{name}/2", 0, "bad_date", "date", "yesterday", rows[0]["record"] and sale_text("yesterday")),
        (f"{name}/3", 0, "not_json", "", "", ""),
    ]
    assert shop.weeks() == {WEEKS[0]: {("1", "1"): 10}}


def sale_text(date: str) -> str:
    return f'{{"store": "1", "dept": "1", "date": "{date}", "weekly_sales": 5}}'


def test_where_most_messages_are_refused_the_settings_are_wrong_and_no_message_is_used_up(shop: Shop) -> None:
    shop.send(*(sale("1", "1", f"{week:%d.%m.%Y}", 1) for week in WEEKS[:2] for _ in range(80)))
    with pytest.raises(StreamError, match=r"160 of 160 messages were refused.*FORECAST_DATE_FORMAT.*bad_date"):
        shop.stream()
    shop.stream(date_format="%d.%m.%Y")
    assert shop.weeks() == {week: {("1", "1"): 80} for week in WEEKS[:2]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"aggregate": "sum"},
        {"aggregate": "last", "totals": "leave_out"},
        {"week_label": "start"},
        {"week_label": "start", "aggregate": "sum"},
        {"date_format": "%d.%m.%Y", "decimal": ",", "thousands": "."},
        {"date_format": "%G-W%V"},
        {"columns": {"store": "Filiale", "weekly_sales": "amount"}, "store": "9", "department": "all"},
        {"time_zone": "Asia/Tokyo", "normalise_keys": ("numbers",)},
    ],
    ids=str,
)
def test_the_files_are_read_by_whatever_settings_other_files_need(settings: dict[str, Any], tmp_path: Path) -> None:
    sums = {("1", "2"): "1234.567", ("1", "3"): "0.100000", ("2", "2"): "-5"}
    amounts = pa.array(map(Decimal, sums.values()), AMOUNT)
    rows = pa.table({"store": [s for s, _ in sums], "dept": [d for _, d in sums], "sales": amounts})
    pq.write_table(as_file(rows, WEEKS[0], Dialect("", **settings)), tmp_path / "week.parquet")
    parsed = parse_sales(
        tmp_path / "week.parquet", "sales/week.parquet", Dialect("", **settings), WeekCalendar(), WEEKS[0]
    )
    assert not parsed.rejected.to_pylist()
    found = parsed.accepted.select(["store", "dept", "week", "sales"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [(s, d, WEEKS[0], float(v)) for (s, d), v in sums.items()]


class Again(Topic):
    """Delivers the messages from a partition's beginning once more."""

    def poll(self, seconds: float) -> Messages:
        batch = super().poll(seconds)
        if len(batch.values) and not getattr(self, "gone_back", False):
            self.gone_back = True
            for name in {batch.names[code] for code in batch.partition.tolist()}:
                self._consumer.seek(ck.TopicPartition(self.topic, int(name), 0))
        return batch


def test_a_message_that_is_delivered_twice_counts_once(shop: Shop) -> None:
    shop.source = Again
    shop.send(*(sale("1", "1", WEEKS[0], 1) for _ in range(100)))
    shop.stream()
    shop.send(*(sale("1", "1", WEEKS[0], 1) for _ in range(100)))
    shop.now += DAY
    assert shop.stream().messages == 100
    assert shop.weeks() == {WEEKS[0]: {("1", "1"): 200}}


def test_weeks_before_the_first_are_left_to_files(shop: Shop) -> None:
    shop.send(*(sale("1", "1", week, 1) for week in WEEKS))
    assert shop.stream(first=WEEKS[1]).earlier == 1
    assert list(shop.weeks()) == WEEKS[1:]


def test_a_topic_that_lost_messages_of_a_week_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = dt.datetime(2026, 9, 29, tzinfo=dt.UTC)  # three days into the first week
    shop.send(*(sale("1", "1", WEEKS[1], 1) for _ in range(40)), at=sent)
    offsets = Topic.offsets  # as after retention: the first three are gone

    def later(self: Topic, partitions: list[int], which: Any) -> dict[int, int]:
        return {p: max(offset, 3) for p, offset in offsets(self, partitions, which).items()}

    monkeypatch.setattr(Topic, "offsets", later)
    with pytest.raises(StreamError, match=r"deleted the messages of partition . before offset 3"):
        shop.stream()
    home = shop.home
    shop.home = home / "later"
    shop.stream(first=WEEKS[1])
    assert shop.weeks() == {WEEKS[1]: {("1", "1"): 28}}
    shop.home, shop.now = home / "begun before the week", sent - 7 * DAY
    shop.stream()


def test_a_topic_that_lost_what_was_to_be_read_next_is_refused(shop: Shop) -> None:
    shop.send(*(sale("1", "1", WEEKS[0], 1) for _ in range(4)))
    state = shop.state()
    state.begin(WEEKS[0], "")
    state.commit(ROWS.empty_table(), POISON.empty_table(), {"0": 9}, CLOSED)
    state.close()
    with pytest.raises(
        StreamError, match=r"partition 0 of .* holds the offsets 0 to 1, and .* go on with 9.*--restart"
    ):
        shop.stream()


def test_of_two_homes_each_gets_everything(shop: Shop, tmp_path: Path) -> None:
    """Two processes in one home are refused: test_kills.py."""
    shop.send(*(sale("1", str(k), WEEKS[0], k) for k in range(50)))
    shop.stream()
    found, shop.home = shop.weeks(), tmp_path / "other"
    shop.stream()
    assert shop.weeks() == found


def test_progress_says_how_many_messages_how_fast_the_lag_and_the_open_weeks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.send(*(sale("1", "1", WEEKS[2], 1) for _ in range(30)), b"{")
    shop.now = CLOSED - 2 * DAY
    ticks = itertools.count()
    monkeypatch.setattr(shop, "clock", lambda: shop.now + dt.timedelta(seconds=20) * next(ticks))
    monkeypatch.setattr("forecast_platform.streaming.kafka.MOST", 8)
    shop.stream()
    counted = [int(line.split()[0]) for line in shop.lines]
    assert counted == sorted(counted)
    assert counted[-1] == 31
    lags = [int(found[1]) for line in shop.lines if (found := re.search(r"lag (\d+)", line))]
    assert [31 - lag for lag in lags] == counted
    assert max(lags) > 0
    assert re.fullmatch(rf"31 messages, .*/s, lag 0, open weeks: {WEEKS[2]}, 1 refused", shop.lines[-1])


def test_brokers_that_do_not_answer_and_topics_that_are_not_there_are_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StreamError, match=r"nowhere.*FORECAST_KAFKA_TOPIC"):
        Topic("nowhere", shop.broker.conf).assign({}, CLOSED)
    monkeypatch.setattr("forecast_platform.streaming.kafka.PATIENCE", 1.0)
    with pytest.raises(StreamError, match="brokers do not answer"):
        Topic("any", {"bootstrap.servers": "127.0.0.1:9", "log_level": "0"}).assign({}, CLOSED)
    with pytest.raises(StreamError, match="kafka_conf: No such configuration property"):
        Topic("any", {"securty.protocol": "ssl"})
    with pytest.raises(StreamError, match=r"enable\.auto\.commit can't be set"):
        Topic("any", {"enable.auto.commit": "true"})
