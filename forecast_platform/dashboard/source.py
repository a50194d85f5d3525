"""The lake as the dashboard reads it: one DuckDB connection over the newest states, and answers kept until they change.

No lock is held and nothing is copied: a table's state is a list of files that never change, so what is asked of one
state has one answer. The states are looked up again every few seconds; when one has changed, a new connection takes
over, and pages under way finish on the old one.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import duckdb

from forecast_platform.lake.lake import Lake

CHECK_SECONDS = 5.0
# Each lookup is a request where the catalog is Glue; the other tables change together with one of these.
WATCHED = ("landings", "models", "forecasts", "forecast_accuracy", "overrides")
ANSWERS_KEPT = 2_000

Rows = list[dict[str, Any]]


class Source:
    """Answers questions in SQL.

    Args:
        lake: read only, through its own views.
        clock: seconds; how old the last look at the states is.
    """

    def __init__(self, lake: Lake, clock: Callable[[], float] = time.monotonic) -> None:
        self._lake, self._clock = lake, clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._state: _State | None = None

    def state(self) -> _State:
        """The newest state of the lake, looked up at most every CHECK_SECONDS."""
        with self._lock:
            if self._state is None or self._clock() - self._looked >= CHECK_SECONDS:
                version = self._version()
                if self._state is None or version != self._state.version:
                    self._state = _State(version, self._lake)
                self._looked = self._clock()
            return self._state

    def close(self) -> None:
        """Let go of the lake; the next question opens it again."""
        with self._lock:
            if self._state is not None:
                self._state.close()
            self._state = None

    def _version(self) -> str:
        snapshots = [f"{name}={self._lake.snapshot(name)}" for name in WATCHED]
        return hashlib.sha256("\0".join(snapshots).encode()).hexdigest()[:16]


class _State:
    """The lake between two commits."""

    def __init__(self, version: str, lake: Lake) -> None:
        self.version = version
        # One question at a time: DuckDB uses all cores for one anyway.
        self._connection, self._one_at_a_time = lake.attach(duckdb.connect()), threading.Lock()
        self._answer = functools.lru_cache(ANSWERS_KEPT)(self._ask)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Rows as dictionaries. Asked once per state; callers must not change them."""
        return self._answer(sql, tuple(parameters))

    def close(self) -> None:
        with self._one_at_a_time:
            self._connection.close()

    def _ask(self, sql: str, parameters: tuple[Any, ...]) -> Rows:
        with self._one_at_a_time:
            found = self._connection.execute(sql, list(parameters))
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
