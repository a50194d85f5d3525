"""Dagster's event log of a laptop with its files kept open: by itself it opens and closes SQLite for every event, which
is most of what it takes to bring in a history, with two events for each of its weeks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy import Connection, Engine, create_engine


class OpenEventLog(SqliteEventLogStorage):
    """For a process of some runs, which ends: one that lasts would write on into files that another has wiped."""

    engines: dict[str, Engine]

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """As overridden, but for the engine, which is kept: its connections, and the statements it has compiled."""
        with self._db_lock:
            if shard not in self.engines:
                wait = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
                self.engines[shard] = create_engine(self.conn_string_for_shard(shard), connect_args=wait)
            engine = self.engines[shard]
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def dispose(self) -> None:
        """Close the files."""
        super().dispose()
        for engine in self.engines.values():
            engine.dispose()


def keep_open(instance: dg.DagsterInstance) -> None:
    """Keep the event log's files open until the instance is disposed of, where it is in SQLite."""
    log = instance.event_log_storage
    if type(log) is SqliteEventLogStorage:
        log.__class__ = OpenEventLog
        log.engines = {}  # type: ignore[attr-defined]
