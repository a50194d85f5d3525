"""The lake as the dashboard reads it: one DuckDB connection over the newest states, and answers kept until they change.

No lock is held and nothing is copied: a table's state is a list of files that never change, so what is asked of one
state has one answer. The states are looked up again every few seconds; when one has changed, a new connection takes
over, and pages under way finish on the old one. Of a million series some answers take seconds, so a server asks a new
state what its pages will ask before it shows it, and nobody waits for that.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import duckdb

from forecast_platform.lake.lake import Lake

CHECK_SECONDS = 5.0
WATCH_SECONDS = 15.0  # between the looks of a server that prepares new states
# Each lookup is a request where the catalog is Glue; the other tables change together with one of these.
WATCHED = ("landings", "models", "forecasts", "forecast_accuracy", "overrides", "run_failures")
ROWS_KEPT = 500_000  # of answers, all together; a file of everything would push out what pages ask again and again

STREAMED = 10_000  # rows of a file in memory at a time

Rows = list[dict[str, Any]]
T = TypeVar("T")


class Source:
    """Answers questions in SQL.

    Args:
        lake: read only, through its own views.
        clock: seconds; how old the last look at the states is.
        prepare: asks a state what pages ask. With it a thread of its own looks for new states, and shows each once it
            is prepared; the first at once.
    """

    def __init__(
        self,
        lake: Lake,
        clock: Callable[[], float] = time.monotonic,
        prepare: Callable[[LakeState], None] | None = None,
    ) -> None:
        self._lake, self._clock, self._prepare = lake, clock, prepare
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._state: LakeState | None = None
        if prepare:
            threading.Thread(target=self._watch, args=(prepare,), daemon=True).start()

    def state(self) -> LakeState:
        """The newest state of the lake, looked up at most every CHECK_SECONDS; or the newest that is prepared."""
        with self._lock:
            if self._state is None or (not self._prepare and self._clock() - self._looked >= CHECK_SECONDS):
                version = self._version()
                if self._state is None or version != self._state.version:
                    self._state = LakeState(version, self._lake)
                self._looked = self._clock()
            return self._state

    def close(self) -> None:
        """Let go of the lake; the next question opens it again, but nothing is prepared any more."""
        self._closed.set()
        with self._lock:
            if self._state is not None:
                self._state.close()
            self._state = None

    def _watch(self, prepare: Callable[[LakeState], None]) -> None:
        prepared = ""
        while not self._closed.is_set():
            try:
                new = self.state()
                if new.version != (version := self._version()):
                    new = LakeState(version, self._lake)
                if new.version != prepared:
                    prepare(new)
                    prepared = new.version
                    with self._lock:
                        self._state = new
            except Exception:  # whatever it is: the state that is shown stays, and the next look may do better
                if not self._closed.is_set():
                    logging.getLogger(__name__).warning("a new state could not be prepared", exc_info=True)
            self._closed.wait(WATCH_SECONDS)

    def _version(self) -> str:
        snapshots = [f"{name}={self._lake.snapshot(name)}" for name in WATCHED if name in self._lake.specs]
        return hashlib.sha256("\0".join(snapshots).encode()).hexdigest()[:16]


class LakeState:
    """The lake between two commits."""

    def __init__(self, version: str, lake: Lake) -> None:
        self.version = version
        # One question at a time: DuckDB uses all cores for one anyway.
        self._connection, self._one_at_a_time = lake.attach(duckdb.connect()), threading.Lock()
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._kept_lock = threading.Lock()  # its own, so that what is known waits for no question under way
        self._kept = 0  # rows of all answers

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Rows as dictionaries. Asked once per state; callers must not change them."""
        return self._once((sql, *parameters), lambda: self._ask(sql, parameters))

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
        """Rows one after the other, some in memory at a time. Nothing is kept."""
        with self._connection.cursor() as cursor:
            found = cursor.execute(sql, list(parameters))
            names = [column[0] for column in found.description or ()]
            while rows := found.fetchmany(STREAMED):
                for row in rows:
                    yield dict(zip(names, row, strict=True))

    @contextlib.contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that shows the state, for who writes a file of it. Nothing is kept."""
        with self._connection.cursor() as cursor:
            yield cursor

    def apply(self, question: Callable[..., T], *arguments: Hashable) -> T:
        """What a function of (connection, *arguments) answers, so that pages ask what the pipeline itself asks. Asked
        once per state."""
        return self._once((question, *arguments), lambda: question(self._connection, *arguments))

    def close(self) -> None:
        with self._one_at_a_time:
            self._connection.close()

    def _once(self, key: Hashable, ask: Callable[[], T]) -> T:
        found, there = self._known(key)
        if not there:
            with self._one_at_a_time:
                found, there = self._known(key)  # somebody may have asked the same meanwhile
                if not there:
                    found = ask()
                    self._keep(key, found)
        answer: T = found
        return answer

    def _known(self, key: Hashable) -> tuple[Any, bool]:
        with self._kept_lock:
            if key not in self._answers:
                return None, False
            self._answers.move_to_end(key)
            return self._answers[key], True

    def _keep(self, key: Hashable, answer: Any) -> None:
        with self._kept_lock:
            self._answers[key] = answer
            self._kept += _size(answer)
            while self._kept > ROWS_KEPT and len(self._answers) > 1:
                self._kept -= _size(self._answers.popitem(last=False)[1])

    def _ask(self, sql: str, parameters: Sequence[Any]) -> Rows:
        found = self._connection.execute(sql, list(parameters))
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _size(answer: Any) -> int:
    return 1 + len(answer) if isinstance(answer, list) else 1
