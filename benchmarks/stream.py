"""How fast transactions become weekly sums, beside a plain consumer: python -m benchmarks.stream.

A broker on loopback (librdkafka's mock cluster, a process of its own) holds a topic. Each reader takes all of it in a
process of its own, in turn, several times: `forecast stream`'s loop with its state on disk; and a plain consumer that
polls, parses with json.loads and adds up in a dict, which checks nothing and keeps nothing. Then a million series,
without a broker: messages are made by number, and what is looked at is memory. Results: benchmarks/results/stream.json;
the page is a part of docs/streams.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.__main__ import ROOT, commit, machine
from benchmarks.measure import peak_mb

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "stream.json", ROOT / "docs" / "streams.md"
MESSAGES, SERIES, ROUNDS = 300_000, 3_000, 3
MANY_MESSAGES, MANY_SERIES = 2_000_000, 1_000_000
TOPIC = "transactions"
WEEK = dt.date(2025, 10, 10)
_BERLIN = dt.timezone(dt.timedelta(hours=2))  # in that week
OURS, PLAIN, MANY = "ours", "plain", "many"


def message(number: int, series: int) -> bytes:
    """A transaction of some series, in the week that ends on WEEK."""
    key = number * 7_919 % series
    at = dt.datetime(2025, 10, 4, 6, tzinfo=_BERLIN) + dt.timedelta(seconds=number * 37 % 518_400)
    return (
        f'{{"receipt": "{number:012d}", "till": {number % 9}, "store": "{key // 1000}", "dept": "{key % 1000}", '
        f'"date": "{at.isoformat()}", "weekly_sales": {number * 31 % 9_973 / 100}}}'
    ).encode()


def broker(messages: int) -> None:
    """Hold the topic until standard input ends; says the address when it is full."""
    import confluent_kafka as ck

    producer = ck.Producer(
        {"bootstrap.servers": "made-up", "test.mock.num.brokers": 1, "compression.type": "zstd", "log_level": 0,
         "queue.buffering.max.messages": messages, "linger.ms": 100}
    )  # fmt: skip
    (at,) = producer.list_topics(timeout=10).brokers.values()
    for number in range(messages):
        producer.produce(TOPIC, message(number, SERIES), partition=number % 4)
    producer.flush(300)
    print(f"{at.host}:{at.port}", flush=True)
    sys.stdin.read()


def plain(servers: str, messages: int) -> dict[str, Any]:
    """What anybody would write first."""
    import confluent_kafka as ck

    consumer = ck.Consumer({"bootstrap.servers": servers, "group.id": "plain", "auto.offset.reset": "earliest"})
    consumer.assign([ck.TopicPartition(TOPIC, partition, 0) for partition in range(4)])
    began, cpu, seen = time.perf_counter(), time.process_time(), 0
    sums: dict[tuple[str, str, dt.date], float] = {}
    while seen < messages:
        found = consumer.poll(1.0)
        if found is None or found.error():
            continue
        value = json.loads(found.value())
        day = dt.datetime.fromisoformat(value["date"]).date()
        key = value["store"], value["dept"], day + dt.timedelta(days=(4 - day.weekday()) % 7)
        sums[key] = sums.get(key, 0.0) + value["weekly_sales"]
        seen += 1
    return _figures(began, cpu, seen, len(sums), sum(sums.values()))


def ours(servers: str, messages: int) -> dict[str, Any]:
    from forecast_platform.streaming.kafka import Topic

    return _streamed(Topic(TOPIC, {"bootstrap.servers": servers}), messages)


class Made:
    """Messages made by number, in place of a broker: one partition."""

    name = "made"

    def __init__(self, messages: int, series: int) -> None:
        self.messages, self.series, self.next = messages, series, 0

    def assign(self, positions: Mapping[str, int], since: dt.datetime) -> None: ...
    def note(self, positions: Mapping[str, int]) -> None: ...

    def ends(self) -> dict[str, int]:
        return {"0": self.messages}

    def poll(self, seconds: float) -> Any:
        from forecast_platform.streaming.messages import Messages

        numbers = range(self.next, min(self.next + 10_000, self.messages))
        self.next = numbers.stop
        values = [message(number, self.series) for number in numbers]
        return Messages(values, np.zeros(len(values), np.int32), np.array(numbers, np.int64), ["0"], {})


def many(messages: int, series: int) -> dict[str, Any]:
    return _streamed(Made(messages, series), messages)


def _streamed(source: Any, messages: int) -> dict[str, Any]:
    import gc

    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from forecast_platform.lake.lake import Lake
    from forecast_platform.landing.dialects import Dialect
    from forecast_platform.landing.place import FolderLanding
    from forecast_platform.streaming.messages import Reader
    from forecast_platform.streaming.state import StreamState
    from forecast_platform.streaming.stream import Stream, Windows
    from forecast_platform.weeks import WeekCalendar

    gc.set_threshold(200_000, 20, 100)  # as the command does
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        state = StreamState(home / "stream.duckdb", 0.5)
        state.begin(WEEK, "")
        stream = Stream(
            source, state, Reader(Dialect("", time_zone="Europe/Berlin"), WeekCalendar(), WEEK),
            Windows(dt.timedelta(days=1), dt.timedelta(weeks=1000)), FolderLanding(home / "landing"),
            Lake.local(home / "lake", ("p50",)), "stream", lambda: dt.datetime.now(dt.UTC),
        )  # fmt: skip
        began, cpu = time.perf_counter(), time.process_time()
        counts = stream.run(once=True)
        assert (counts.messages, counts.poison) == (messages, 0)
        week = pq.read_table(home / "landing" / counts.files[0])
        found = _figures(began, cpu, messages, len(week), float(pc.sum(week["weekly_sales"]).as_py()))
        return found | {"state_mb": round((home / "stream.duckdb").stat().st_size / 2**20)}


def _figures(began: float, cpu: float, messages: int, series: int, total: float) -> dict[str, Any]:
    seconds = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    return {"messages": messages, "series": series, "total": round(total, 2), "peak_mb": round(peak_mb())} | {
        name: round(value, 3) for name, value in seconds.items()
    }


def _asked(*arguments: str) -> dict[str, Any]:
    """What a reader says of itself, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.stream", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603 (ours)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(messages: int, rounds: int, many_messages: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.stream", "--as", "broker", "--messages", str(messages)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: S603
    assert holder.stdout is not None
    try:
        servers = holder.stdout.readline().strip()
        runs = [
            {"reader": reader, **_asked("--as", reader, "--servers", servers, "--messages", str(messages))}
            for _ in range(rounds)
            for reader in (PLAIN, OURS)
        ]
    finally:
        holder.communicate("")
    assert len({(run["total"], run["series"]) for run in runs}) == 1, "the readers disagree"
    runs.append({"reader": MANY, **_asked("--as", MANY, "--messages", str(many_messages))})
    about = {
        **machine(),
        "load": round(os.getloadavg()[1], 1),
        "date": str(dt.datetime.now(dt.UTC).date()),
        "commit": commit(),
    }
    return {"about": about, "runs": runs}


def page(kept: Mapping[str, Any]) -> str:
    """The part of docs/streams.md on speed."""
    about, runs = kept["about"], kept["runs"]
    of = {reader: [run for run in runs if run["reader"] == reader] for reader in (OURS, PLAIN, MANY)}
    pace = {r: statistics.median(run["messages"] / run["cpu_s"] for run in of[r]) for r in (OURS, PLAIN)}
    (large,) = of[MANY]
    lines = [
        f"Messages a CPU second: **{pace[OURS] / pace[PLAIN]:.2f} times** those of a plain consumer (`poll`, "
        f"`json.loads`, a dict; nothing checked, nothing kept), medians of {len(of[OURS])} rounds in one run on one "
        f"topic of {of[OURS][0]['messages']:,} messages and {of[OURS][0]['series']:,} series:",
        "",
        "| | messages a CPU second | CPU s, wall s of each round | peak MB |",
        "|---|---|---|---|",
    ]
    for reader, name in ((OURS, "`forecast stream`"), (PLAIN, "plain consumer")):
        times = "; ".join(f"{run['cpu_s']:.1f}, {run['wall_s']:.1f}" for run in of[reader])
        lines.append(f"| {name} | {pace[reader]:,.0f} | {times} | {max(run['peak_mb'] for run in of[reader]):,} |")
    lines += [
        "",
        f"{large['messages']:,} messages of {large['series']:,} series, made in the same process in place of a broker: "
        f"peak {large['peak_mb']:,} MB, state {large['state_mb']:,} MB on disk, {large['cpu_s']:.0f} CPU s with the "
        "making.",
        "",
        f"`python -m benchmarks.stream`, {about['date']}, at commit {about['commit']}; {about['cores']} cores of "
        f"{about['cpu']}, {about['system']}, Python {about['python']}, at a load of {about['load']:.1f}.",
    ]
    return "\n".join(lines)


def written(text: str, kept: Mapping[str, Any]) -> str:
    """The page with its part on speed made anew."""
    begin, end = "<!-- speed, by python -m benchmarks.stream; do not edit -->\n", "<!-- end of speed -->"
    return re.sub(f"(?s){re.escape(begin)}.*{re.escape(end)}", lambda _: f"{begin}{page(kept)}\n{end}", text)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--many", type=int, default=MANY_MESSAGES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--as", dest="role", choices=("broker", OURS, PLAIN, MANY), help=argparse.SUPPRESS)
    parser.add_argument("--servers", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role == "broker":
        broker(options.messages)
    elif options.role == MANY:
        print(json.dumps(many(options.messages, MANY_SERIES)))
    elif options.role:
        print(json.dumps((ours if options.role == OURS else plain)(options.servers, options.messages)))
    else:
        kept = measure(options.messages, options.rounds, options.many)
        options.results.write_text(json.dumps(kept, indent=1) + "\n")
        options.page.write_text(written(options.page.read_text(), kept))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
