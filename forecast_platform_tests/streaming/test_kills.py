"""`forecast stream` in a process of its own, killed at every step, asked to end, and started twice."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.lake.lake import Lake
from forecast_platform.streaming.state import StreamState
from forecast_platform_tests.processes import end_with_tests, forked
from forecast_platform_tests.streaming.broker import Broker, sale
from forecast_platform_tests.streaming.test_stream import Shop

pytestmark = pytest.mark.kill

WEEKS = [dt.date(2025, 10, 3), dt.date(2025, 10, 10)]  # long over
MESSAGES = 400

# What is called, and whether the process dies before or after the call; each at its second call, where there is one.
POINTS = [
    (name, when)
    for name in ("poll", "half", "transaction", "commit", "note", "week", "put", "landed", "replace", "quarantined")
    for when in ("before", "after")
]


def _places() -> dict[str, tuple[Any, str]]:
    from forecast_platform.landing.place import FolderLanding
    from forecast_platform.streaming import state
    from forecast_platform.streaming.kafka import Topic
    from forecast_platform.streaming.state import StreamState

    return {
        "poll": (Topic, "poll"),
        "half": (state, "_plain"),  # in a transaction: sums are in, and how far that is not yet
        "transaction": (StreamState, "_merge"),  # the last thing in it
        "commit": (StreamState, "commit"),
        "note": (Topic, "note"),
        "week": (StreamState, "week"),
        "put": (FolderLanding, "put"),
        "landed": (StreamState, "landed"),
        "replace": (Lake, "replace"),
        "quarantined": (StreamState, "quarantined"),
    }


def _stream(
    home: str, servers: str, topic: str, out: str, arguments: list[str], die: tuple[str, str, int] | None
) -> None:
    """In a process of its own: the command, with small bites, until the place is reached so many times."""
    end_with_tests()
    os.environ |= {
        "FORECAST_HOME": home, "FORECAST_KAFKA_SERVERS": servers, "FORECAST_KAFKA_TOPIC": topic,
        "FORECAST_STREAM_LATENESS_HOURS": "0", "FORECAST_STREAM_KEEP_WEEKS": "1000",
        "FORECAST_KAFKA_CONF": '{"log_level": "0"}', "FORECAST_MOST_REFUSED": "1",
    }  # fmt: skip
    for number in (1, 2):
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    from forecast_platform.cli import main
    from forecast_platform.settings import get_settings
    from forecast_platform.streaming import kafka, stream

    get_settings.cache_clear()  # the process was forked from one that knows the settings of before
    kafka.MOST, stream.MOST = 37, 90
    if die:
        name, when, calls = die
        owner, attribute = _places()[name]
        original: Callable[..., Any] = getattr(owner, attribute)
        left = [calls]

        def deadly(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, attribute, deadly)
    main(["stream", *arguments])


class Home(Shop):
    def start(self, *arguments: str, die: tuple[str, str, int] | None = None) -> BaseProcess:
        process = forked().Process(
            target=_stream, args=(str(self.home), self.broker.servers, self.topic, str(self.said), list(arguments), die)
        )
        process.start()
        return process

    def once(self, *arguments: str, die: tuple[str, str, int] | None = None) -> int | None:
        process = self.start("--once", *arguments, die=die)
        process.join(120)
        return process.exitcode

    def begun(self) -> bool:
        state = self.open_state()
        try:
            return state.first_week is not None
        finally:
            state.close()

    def open_state(self) -> StreamState:
        return StreamState(self.home / "streams" / f"{self.topic}.duckdb", 1)

    @property
    def said(self) -> Path:
        self.home.mkdir(exist_ok=True)
        return self.home.with_suffix(".txt")

    def quarantined(self) -> Counter[tuple[str, int]]:
        rows = self.lake.read("quarantine", columns=["source_key", "line"]).to_pylist()
        return Counter((row["source_key"], row["line"]) for row in rows)


def sales() -> list[Any]:
    good = [sale(str(k % 3), str(k % 5), WEEKS[k // 7 % 2], k % 11 + 0.1) for k in range(MESSAGES)]
    return [b"poison" if k % 50 == 7 else value for k, value in enumerate(good)]


@pytest.fixture(scope="module")
def undisturbed(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(broker, "killed", tmp_path_factory.mktemp("undisturbed") / "home")
    home.send(*sales())
    assert home.once("--first-week", str(WEEKS[0])) == 0, home.said.read_text()
    return home


def test_without_a_kill_every_message_counts_once(undisturbed: Home) -> None:
    expected: dict[dt.date, dict[tuple[str, str], float]] = {}
    for value in sales():
        if isinstance(value, dict):
            week = expected.setdefault(dt.date.fromisoformat(value["date"]), {})
            key = value["store"], value["dept"]
            week[key] = round(week.get(key, 0) + value["weekly_sales"], 6)
    assert undisturbed.weeks() == expected
    assert len(undisturbed.quarantined()) == MESSAGES / 50
    assert set(undisturbed.quarantined().values()) == {1}


@pytest.mark.parametrize(("name", "when"), POINTS)
def test_a_kill_anywhere_loses_nothing_and_counts_nothing_twice(
    undisturbed: Home, name: str, when: str, tmp_path: Path
) -> None:
    home = Home(undisturbed.broker, "killed", tmp_path / "home")
    calls = 1 if name in ("replace", "quarantined") else 2
    assert home.once("--first-week", str(WEEKS[0]), die=(name, when, calls)) == -signal.SIGKILL, home.said.read_text()
    begun = () if home.begun() else ("--first-week", str(WEEKS[0]))
    assert home.once(*begun) == 0, home.said.read_text()
    assert home.weeks() == undisturbed.weeks()
    assert home.quarantined() == undisturbed.quarantined()
    files = {path.name: path.read_bytes() for path in (home.home / "landing/sales").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (undisturbed.home / "landing/sales").iterdir()}


def test_messages_that_come_between_a_kill_and_the_next_start_restate_the_week(broker: Broker, tmp_path: Path) -> None:
    home = Home(broker, "between", tmp_path / "home")
    home.send(*(sale("1", "1", WEEKS[0], 1) for _ in range(100)))
    first = ("--first-week", str(WEEKS[0]))
    assert home.once(*first, die=("put", "after", 1)) == -signal.SIGKILL
    assert home.weeks() == {WEEKS[0]: {("1", "1"): 100}}
    home.send(*(sale("1", "1", WEEKS[0], 1) for _ in range(50)))
    assert home.once() == 0, home.said.read_text()
    assert home.weeks() == {WEEKS[0]: {("1", "1"): 150}}


def test_sigterm_ends_it_cleanly_and_a_second_one_is_refused_in_words(broker: Broker, tmp_path: Path) -> None:
    home = Home(broker, "ended", tmp_path / "home")
    home.send(*sales())
    process = home.start("--first-week", str(WEEKS[0]))
    _wait(lambda: len(home.weeks()) == 2)
    assert home.once() == 1
    assert "another forecast stream reads this topic for this home" in home.said.read_text()
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 0, home.said.read_text()
    assert f"{MESSAGES:,} messages, 2 weeks landed" in home.said.read_text()


def test_a_stream_is_told_where_to_begin_and_settings_that_decide_sums_hold(broker: Broker, tmp_path: Path) -> None:
    home = Home(broker, "begun", tmp_path / "home")
    home.send(sale("1", "1", WEEKS[0], 1), sale("1", "1", WEEKS[1], 1))
    assert home.once() == 1
    assert "say with --first-week from which week on" in home.said.read_text()
    assert home.once("--first-week", "2025-10-04") == 1
    assert "is a Saturday, but weeks end on Friday" in home.said.read_text()
    assert home.once("--first-week", str(WEEKS[1])) == 0
    assert "1 were of weeks before the first one, and left out" in home.said.read_text()
    assert home.once("--first-week", str(WEEKS[0])) == 1
    assert f"answers for the weeks from {WEEKS[1]} on" in home.said.read_text()
    (home.home / "settings.toml").write_text('time_zone = "Asia/Tokyo"\n')
    assert home.once() == 1
    assert "time_zone none, normalise_keys none, and now these are" in home.said.read_text()
    assert home.once("--restart", "--first-week", str(WEEKS[0])) == 0, home.said.read_text()
    assert home.weeks() == {week: {("1", "1"): 1} for week in WEEKS}


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)
