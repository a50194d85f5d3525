"""Keeping the lake small: small files become one, old states are forgotten, files that no state names are deleted.

Where a partition (or a table without any) has several small files, as after a landing a day, they are written again as
one, sorted, in one commit that changes no row. Where another writer changes the table meanwhile, its commit stands and
the merge waits for another night.

Every replacement leaves the files it replaced, and pyiceberg deletes none of them. `maintain` forgets the states
(snapshots) that were replaced more than `keep` ago, then sweeps each table's folder. A file goes only when nothing
reachable names it and it is older than `grace`: so a commit under way, or one whose outcome is unknown, keeps its
files, as does a reader who opened the table within `grace`. Choose `grace` longer than the longest run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from forecast_platform.lake.duck import scan
from forecast_platform.lake.files import DiskFiles
from forecast_platform.lake.lake import Lake

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table

DAY = dt.timedelta(days=1)
SMALL_BYTES, SMALL_FILES = 8_000_000, 4  # what is worth merging: files below that size, so many in a partition


@dataclass(frozen=True)
class TableReport:
    """What was done to one table.

    Attributes:
        merged: small files that became fewer.
        expired: snapshots forgotten.
        deleted, deleted_bytes: files swept away.
        left, left_bytes: files in the table's folder afterwards.
        skipped: why nothing was swept; empty when it was.
    """

    name: str
    merged: int = 0
    expired: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    left: int = 0
    left_bytes: int = 0
    skipped: str = ""


@dataclass(frozen=True)
class Report:
    tables: tuple[TableReport, ...]

    def __str__(self) -> str:
        return "\n".join(
            f"{t.name}: {t.merged} small files merged, {t.expired} states forgotten, "
            f"{t.deleted} files ({t.deleted_bytes:,} bytes) deleted, {t.left} ({t.left_bytes:,} bytes) left"
            + (f"; not swept: {t.skipped}" if t.skipped else "")
            for t in self.tables
        )


def maintain(lake: Lake, keep: dt.timedelta, now: dt.datetime, grace: dt.timedelta = DAY) -> Report:
    """Merge the small files of every table of a lake, expire and sweep. Writers and readers may go on meanwhile.

    Args:
        keep: how far back time travel reaches; at least `grace`, so that no open reader loses its files.
        now: the present, timezone-aware.
        grace: age below which a file is never deleted.
    """
    if now.tzinfo is None:
        raise ValueError(f"now is {now}, without a time zone; pass datetime.now(UTC)")
    for left in lake.spill.glob("*") if lake.spill else ():  # by a process that was killed
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < (now - grace).timestamp():
                left.unlink()
    return Report(tuple(_maintain(lake, name, now - max(keep, grace), now - grace) for name in lake.specs))


def _maintain(lake: Lake, name: str, keep_from: dt.datetime, young_from: dt.datetime) -> TableReport:
    from pyiceberg.exceptions import CommitFailedException, NoSuchTableError

    merged = expired = 0
    try:
        merged = merge(lake, name)
        table = lake.catalog.load_table((lake.namespace, name))  # Lake.table would create it over another one's files
        old = _superseded(table, keep_from)
        try:
            if old:
                table.maintenance.expire_snapshots().by_ids(old).commit()
                expired = len(old)
        except CommitFailedException:
            pass  # a writer was first; the next maintenance forgets them
        storage = (lake.files or DiskFiles)(lake.catalog.properties["warehouse"])
        # Listed before the state is read: what is committed in between is seen as named.
        files = list(storage.under(storage.folder(table.location())))
        table = lake.catalog.load_table((lake.namespace, name))
        named = {storage.address(location) for location in reachable(table)}
        unnamed = [file for file in files if file.address not in named]
        if len(unnamed) == len(files):
            raise ValueError(f"none of the {len(files)} files in its folder is known to it")
        _refuse_other_tables(table, [file.address for file in unnamed])
        dead = [file for file in unnamed if file.written < young_from.timestamp()]
        storage.delete([file.address for file in dead])
    except NoSuchTableError:
        return TableReport(name, merged, expired, skipped="it does not exist")
    except Exception as error:  # whatever it is, an unreadable table keeps every file
        return TableReport(name, merged, expired, skipped=f"{type(error).__name__}: {error}")
    size, dead_size = (sum(file.size for file in group) for group in (files, dead))
    return TableReport(name, merged, expired, len(dead), dead_size, len(files) - len(dead), size - dead_size)


def merge(lake: Lake, name: str) -> int:
    """Write a table's small files again, those of a partition as one, in one commit. The rows stay as they are.

    Returns:
        How many files that was; 0 where there are not enough of them, or another writer was first.

    Raises:
        NoSuchTableError: there is no such table.
        LakeError: a key is there twice.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    from forecast_platform.lake.blocks import NewRows

    table = lake.catalog.load_table((lake.namespace, name))
    partitions = defaultdict(list)
    for task in table.scan().plan_files():
        if task.file.file_size_in_bytes < SMALL_BYTES:
            partitions[task.file.spec_id, task.file.partition].append(task)
    small = [task for tasks in partitions.values() if len(tasks) >= SMALL_FILES for task in tasks]
    if not small:
        return 0
    # All columns that the table has, also those of other settings.
    spec = dataclasses.replace(lake.specs[name], schema=schema_to_pyarrow(table.schema(), include_field_ids=False))
    with duckdb.connect() as con:
        lake.bound(con)
        rows = con.from_arrow(scan(spec, table, tasks=small).to_reader()).order(", ".join(spec.order))
        new = NewRows(rows.to_arrow_reader(), spec, table)
    try:
        with table.transaction() as transaction, transaction.update_snapshot().overwrite() as exchange:
            exchange.delete_by_predicate(AlwaysTrue())  # conflicts with any commit of others meanwhile: theirs stands
            for task in small:
                exchange.delete_data_file(task.file)
            for file in new.files(table):
                exchange.append_data_file(file)
    except (CommitFailedException, ValidationException):
        return 0  # the new files are swept when they are old, as those of every writer that lost
    return len(small)


def _superseded(table: Table, keep_from: dt.datetime) -> list[int]:
    """Snapshots that were no longer in force at `keep_from`: all before the one in force then, except named ones."""
    before = [entry for entry in table.history() if entry.timestamp_ms <= keep_from.timestamp() * 1000]
    in_force = {entry.snapshot_id for entry in before[-1:]} | {ref.snapshot_id for ref in table.metadata.refs.values()}
    started = before[-1].timestamp_ms if before else 0
    return [s.snapshot_id for s in table.snapshots() if s.timestamp_ms <= started and s.snapshot_id not in in_force]


def reachable(table: Table) -> set[str]:
    """The location of every file the table's metadata or one of its snapshots needs."""
    metadata = table.metadata
    named = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    named |= {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}
    manifests: dict[str, ManifestFile] = {}
    for snapshot in metadata.snapshots:
        named.add(snapshot.manifest_list)
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    for path, manifest in manifests.items():
        named |= {path, *(entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io))}
    return named


def _refuse_other_tables(table: Table, unnamed: list[str]) -> None:
    """ValueError when the folder also holds another table's states, as it does after the catalog was lost and made
    anew: to this table all their files would look forgotten."""
    for address in unnamed:
        if not address.endswith(".metadata.json"):
            continue
        with contextlib.suppress(FileNotFoundError), table.io.new_input(address).open() as file:
            other = json.loads(file.read())
            if other.get("snapshots") and other.get("table-uuid") != str(table.metadata.table_uuid):
                raise ValueError(f"{address} is the state of another table; move that table's files away first")
