"""A line a minute of which tests run and for how long, so that a log that ends early says where it stood."""

from __future__ import annotations

import threading
import time

import pytest

EVERY = 60.0


class Pulse:
    """Of the process that collects what the others report, or of the only one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._begun: dict[str, float] = {}
        self._started, self._ended = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._done = 0

    def pytest_sessionstart(self) -> None:
        self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._begun[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._begun.pop(nodeid, None)
        self._done += 1

    def pytest_sessionfinish(self) -> None:
        self._ended.set()

    def line(self) -> str:
        now = time.monotonic()
        # A worker is told of its next test before it ends the last.
        running = sorted((begun, name) for name, begun in self._begun.copy().items())
        named = ", ".join(f"{name.rpartition('/')[2]} ({now - begun:.0f} s)" for begun, name in running)
        return f"{(now - self._started) / 60:.0f} min, {self._done:,} tests done; running: {named or 'none'}"

    def _beat(self) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        while reporter is not None and not self._ended.wait(EVERY):
            reporter.write(f"\n{self.line()}\n")
