"""What costs tests much of their time and no test is about: it is done once, in each process that runs tests or is
forked for one."""

from __future__ import annotations

import functools
import gc
import json
import multiprocessing
import sqlite3
from typing import Any


@functools.cache  # once in a process
def apply() -> None:
    """Change this process's libraries to its end."""
    _collect_garbage_seldom()
    _lose_nothing_by_power()
    _read_service_models_once()
    _work_out_schemas_of_manifests_once()
    _read_migrations_once()


def _collect_garbage_seldom() -> None:
    """What is imported stays to the end, millions of objects; to look through them is a tenth of the time."""
    if multiprocessing.parent_process():  # whose end is not preceded by a last look
        gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _lose_nothing_by_power() -> None:
    """A catalog waits for the disk, some milliseconds a commit. A killed process loses nothing where it does not."""
    import sqlalchemy.event
    from sqlalchemy.engine import Engine

    def at_once(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(Engine, "connect", at_once)


def _read_service_models_once() -> None:
    """Every boto3 session looks for services and parses megabytes of JSON of its own, a few tenths of a second."""
    import botocore.session

    botocore.session.create_loader = functools.cache(botocore.session.create_loader)


def _work_out_schemas_of_manifests_once() -> None:
    """pyiceberg does that for every file it opens, a third of what it costs to land a small file."""
    import pyiceberg.avro.file as avro

    resolve, resolved = avro.resolve_reader, dict[Any, Any]()

    @functools.cache
    def schema_of(text: str) -> Any:
        return avro.AvroSchemaConversion().avro_to_iceberg(json.loads(text))

    def reader(file: Any, read: Any, types: Any = avro.EMPTY_DICT, enums: Any = avro.EMPTY_DICT) -> Any:
        key = id(file), id(read), tuple(types.items()), tuple(enums.items())
        if key not in resolved:
            resolved[key] = resolve(file, read, types, enums), file, read  # kept, so that no other has their id
        return resolved[key][0]

    avro.AvroFileHeader.get_schema = lambda self: schema_of(self.meta["avro.schema"])  # type: ignore[method-assign]
    avro.resolve_reader = reader


def _read_migrations_once() -> None:
    """Dagster reads every migration there ever was for each new file of SQLite, one of them for every run."""
    from alembic.script import ScriptDirectory

    read = ScriptDirectory.from_config

    @functools.cache
    def of(folder: str) -> Any:
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", folder)
        return read(config)

    ScriptDirectory.from_config = lambda config: of(config.get_main_option("script_location"))  # type: ignore[method-assign]
