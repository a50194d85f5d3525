"""Iceberg tables in DuckDB. It reads files on disk by itself; for files elsewhere it is given a pyarrow dataset,
because the extension that would let it read S3 is not on the package index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from forecast_platform.lake.tables import TableSpec

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from pyarrow.fs import FileSystem
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import FileScanTask, Table


_BATCH_ROWS = 65_536


def bound(con: duckdb.DuckDBPyConnection, memory_gb: float | None, spill: Path | None) -> None:
    """Limit the memory of a connection; beyond it a query spills to a folder, which several processes may share."""
    if memory_gb is not None:
        con.execute(f"SET memory_limit = '{memory_gb * 1000:.0f}MB'")
    if spill is not None and con.execute("SELECT current_setting('temp_directory')").fetchall() != [(str(spill),)]:
        con.execute(f"SET temp_directory = {literal(str(spill))}")


def show(con: duckdb.DuckDBPyConnection, spec: TableSpec, table: Table | None, tasks: list[FileScanTask]) -> None:
    """Show one table in a DuckDB connection: files on disk read by DuckDB itself, files elsewhere by pyarrow.

    Arrow is shown by create_view, because what con.register shows is not seen by the connection's cursors.
    """
    nothing = spec.schema.empty_table()
    places = [_place(table, task) for task in tasks] if table else []
    local = [path for scheme, _, path in places if scheme == "file"]
    if table is None or not local:
        con.from_arrow(_shown(spec, table, tasks) if table and tasks else nothing).create_view(spec.name, replace=True)
        return
    files = f"[{', '.join(map(literal, local))}], {_partitioning(spec, local)}"
    if len(table.schemas()) == 1 and set(spec.schema.names) <= set(table.schema().column_names):
        rows = f"SELECT * FROM read_parquet({files})"  # noqa: S608
    else:
        # Files written before and after a change of columns differ. Reading by name takes the footer of every file. The
        # empty table adds the columns that no file has yet: those of a new version, before it has written anything.
        con.from_arrow(nothing).create_view(f"_{spec.name}", replace=True)
        rows = (
            f"SELECT * FROM read_parquet({files}, union_by_name=true) "  # noqa: S608
            f"UNION ALL BY NAME SELECT * FROM _{spec.name}"
        )
    con.execute(f"CREATE OR REPLACE VIEW {spec.name} AS {rows}")


def _partitioning(spec: TableSpec, paths: list[str]) -> str:
    """Options by which DuckDB takes a file's partition from its folder, as in data/week=2024-01-05/. It then opens no
    file of a week that is not asked for (but one, for the columns). Off where another folder has such a name, which
    would be taken for a column."""
    named = spec.partition and all(path.count("=") == path.count(f"/data/{spec.partition}=") == 1 for path in paths)
    return f"hive_partitioning=true, hive_types={{'{spec.partition}': DATE}}" if named else "hive_partitioning=false"


def scan(
    spec: TableSpec,
    table: Table,
    where: BooleanExpression | None = None,
    columns: Sequence[str] | None = None,
    tasks: list[FileScanTask] | None = None,
) -> ds.Scanner:
    """A table's rows that match, as a stream: of the spec's columns or some of them, in the spec's types; of all files
    or of some. Little is in memory at a time."""
    import pyarrow.dataset as ds
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.expressions.visitors import bind
    from pyiceberg.io.pyarrow import expression_to_pyarrow

    where = where or AlwaysTrue()
    tasks = list(table.scan(row_filter=where).plan_files()) if tasks is None else tasks
    types = [spec.schema.field(c) for c in columns or spec.schema.names]
    return dataset(spec, table, tasks).scanner(
        columns={field.name: ds.field(field.name).cast(field.type) for field in types},
        filter=expression_to_pyarrow(bind(table.schema(), where, case_sensitive=True), table.schema()),
        batch_size=_BATCH_ROWS,
        batch_readahead=2,
        fragment_readahead=1,
    )


def _shown(spec: TableSpec, table: Table, tasks: list[FileScanTask]) -> ds.FileSystemDataset:
    """`dataset` for a connection that may outlive the keys to the files: each scan has those of its moment."""
    import pyarrow.dataset as ds

    class Shown(ds.FileSystemDataset):  # type: ignore[misc]  # pyarrow is untyped
        opened = dataset(spec, table, tasks)

        def scanner(self, **asked: Any) -> ds.Scanner:
            if _file_system(table, tasks[0]) != self.opened.filesystem:
                self.opened = dataset(spec, table, tasks)
            return self.opened.scanner(**asked)

    return Shown([], Shown.opened.schema, Shown.opened.format)


def dataset(spec: TableSpec, table: Table, tasks: list[FileScanTask]) -> ds.FileSystemDataset:
    """A table's files as a pyarrow dataset: DuckDB hands it the columns and filters it needs, and a file whose
    partition does not match is never opened. Columns that a file lacks are null."""
    import pyarrow.dataset as ds
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    columns = {field.name: field for field in spec.schema}
    columns |= {field.name: field for field in schema_to_pyarrow(table.schema(), include_field_ids=False)}
    schema, form = pa.schema(list(columns.values())), ds.ParquetFileFormat()
    fragments = []
    for task in tasks:
        partition = [
            ds.field(field.name) == pa.scalar(task.file.partition[at], schema.field(field.name).type)
            for at, field in enumerate(table.specs()[task.file.spec_id].fields)
        ]
        fragments.append(form.make_fragment(_place(table, task)[2], _file_system(table, task), *partition))
    return ds.FileSystemDataset(fragments, schema, form, fragments[0].filesystem if fragments else None)


def _place(table: Table, task: FileScanTask) -> tuple[str, str, str]:
    """(scheme, bucket, path) of a file: where the table's own access to files finds it, not where its name says."""
    from pyiceberg.io.pyarrow import PyArrowFileIO

    assert isinstance(table.io, PyArrowFileIO)
    return table.io.parse_location(task.file.file_path)


def _file_system(table: Table, task: FileScanTask) -> FileSystem:
    """What opens a file now. One written in Python would be called by pyarrow's threads, which wait for the interpreter
    then, while a thread that asked for a reader waits for them and holds it: for ever."""
    from pyarrow.fs import PyFileSystem
    from pyiceberg.io.pyarrow import PyArrowFileIO

    assert isinstance(table.io, PyArrowFileIO)
    found = table.io.fs_by_scheme(*_place(table, task)[:2])
    assert not isinstance(found, PyFileSystem)
    return found


def literal(text: str) -> str:
    """Text as a literal of DuckDB's SQL."""
    return "'" + text.replace("'", "''") + "'"
