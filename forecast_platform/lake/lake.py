"""The lake: Iceberg tables, replaced atomically, read by anyone without a lock.

Every write is `replace(table, where, rows)`: the rows matching `where` are exchanged for `rows` in one commit. Readers
see the old rows or the new ones, never neither and never half. Writing the content that is already there commits
nothing, so a rerun leaves the table as it was.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.lake.duck import bound, literal, scan, show
from forecast_platform.lake.tables import (
    LOCAL,
    NAMESPACE,
    PROVENANCE,
    QUANTILE,
    SPILL,
    VIEWS,
    LakeError,
    TableSpec,
    table_specs,
)

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import FileScanTask, Table

    from forecast_platform.lake.blocks import Blocks, NewRows
    from forecast_platform.lake.files import Files


# Measured on 300 weekly commits: at Iceberg's defaults a commit grew from .14 to .73 CPU s, with these it stays flat.
# Who reads a table by the file of one state, as a Glue crawler's table does, can do so for 100 commits more.
_PROPERTIES = {
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "100",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "commit.retry.num-retries": "20",
    "commit.retry.max-wait-ms": "2000",
    "write.parquet.compression-codec": "zstd",
}
_CONFLICT_RETRIES = 20


class Lake:
    """The tables of `table_specs` in one Iceberg catalog, opened at first use.

    Args:
        catalog: opens the catalog; called once per process.
        namespace: the catalog's name of the schema the tables are in.
        quantile_columns: published quantiles, the columns of `forecasts`.
        files: opens the storage of a warehouse, for maintenance; None: a disk.
        memory_gb: what a query of DuckDB may take before it spills to disk; None: as DuckDB decides.
        spill: folder for that, made when needed; what a killed process left there is swept by maintenance.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        namespace: str,
        quantile_columns: Sequence[str],
        files: Callable[[str], Files] | None = None,
        memory_gb: float | None = None,
        spill: Path | None = None,
    ) -> None:
        self._open, self.files = catalog, files
        self._memory_gb, self.spill = memory_gb, spill
        self.namespace = namespace
        self._catalog: Catalog | None = None
        self._planned: dict[str, tuple[str, list[FileScanTask]]] = {}  # table -> its metadata file, its files by that
        self.specs: dict[str, TableSpec] = table_specs(tuple(quantile_columns))

    @classmethod
    def local(cls, warehouse: Path, quantile_columns: Sequence[str], memory_gb: float | None = None) -> Lake:
        """The tables under a folder. Raises LakeError at first use, see lake/local.py."""

        def opened() -> Catalog:
            from forecast_platform.lake.local import local_catalog

            return local_catalog(warehouse)

        return cls(opened, NAMESPACE, quantile_columns, memory_gb=memory_gb, spill=warehouse / SPILL)

    @property
    def catalog(self) -> Catalog:
        """The catalog, opened at first use."""
        if self._catalog is None:
            self._catalog = self._open()
        return self._catalog

    def table(self, name: str) -> Table:
        """The current state of a table, created when missing and widened when the settings gained columns.

        Raises:
            LakeError: the table has columns that this version does not know.
        """
        from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError

        spec = self.specs.get(name)
        if spec is None:
            raise LakeError(f"no table {name!r}; the lake holds {', '.join(self.specs)}")
        identifier = (self.namespace, name)
        try:
            table = self.catalog.load_table(identifier)
        except NoSuchTableError:
            try:
                with self.catalog.create_table_transaction(
                    identifier,
                    schema=spec.schema,
                    # Said outright, because a Glue database may have a location of its own.
                    location=f"{self.catalog.properties['warehouse']}/{self.namespace}/{name}",
                    properties={**_PROPERTIES, "comment": spec.about},
                ) as transaction:
                    if spec.partition:
                        with transaction.update_spec() as partitioning:
                            partitioning.add_identity(spec.partition)
            except (TableAlreadyExistsError, CommitFailedException):
                pass  # another process was quicker
            table = self.catalog.load_table(identifier)
        _refuse_newer(table, spec)
        for attempt in range(_CONFLICT_RETRIES):
            if not _lacking(table, spec):
                return table
            try:
                with table.update_schema() as update:
                    update.union_by_name(spec.schema)
            except CommitFailedException:
                _wait(attempt)  # another process wrote first, perhaps these columns
            table = self.catalog.load_table(identifier)
        raise LakeError(f"{name}: could not add columns, {_CONFLICT_RETRIES} times another writer was first; run again")

    def lacking(self) -> dict[str, list[str]]:
        """Columns that tables made by an earlier version lack, by table. They read as null, and are added when the
        table is next used.

        Raises:
            LakeError: a table has columns that this version does not know.
        """
        from pyiceberg.exceptions import NoSuchTableError

        found = {}
        for name, spec in self.specs.items():
            with contextlib.suppress(NoSuchTableError):
                table = self.catalog.load_table((self.namespace, name))
                _refuse_newer(table, spec)
                if lacking := _lacking(table, spec):
                    found[name] = lacking
        return found

    def replace(
        self, name: str, where: BooleanExpression, rows: pa.Table | Blocks | Callable[[pa.Table], pa.Table]
    ) -> bool:
        """Exchange the rows matching `where` for `rows`, in one atomic commit.

        Args:
            where: filter on the table's columns; on the partition column wherever there is one.
            rows: every column of the table's schema, any order; all of them must match `where`. Or blocks of them, such
                as a reader of record batches, of which one at a time is in memory, see `write_blocks`. Or a function
                that makes them from the rows there now; it is called again when another writer was first.

        Returns:
            False when the table already held exactly these rows (PROVENANCE aside): then nothing is committed.

        Raises:
            LakeError: the key repeats in `rows`, blocks are out of order, or other writers kept winning.
        """
        from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ValidationException

        from forecast_platform.lake.blocks import NewRows
        from forecast_platform.lake.transaction import ThriftyTransaction

        spec = self.specs[name]
        new: NewRows | None = None
        unknown = False
        for attempt in range(_CONFLICT_RETRIES):
            table = self.table(name)
            if callable(rows):
                new = NewRows(rows(scan(spec, table, where).to_table()), spec, table)
            elif new is None:
                new = NewRows(rows, spec, table)
            if self._same(scan(spec, table, where), new, table):
                if not unknown:
                    new.drop(table)
                return unknown  # a commit of ours that was reported lost had landed
            try:
                with warnings.catch_warnings(), ThriftyTransaction(table) as transaction:
                    # The first write of a week has nothing to delete, which pyiceberg warns about.
                    warnings.filterwarnings("ignore", message="Delete operation did not match")
                    transaction.delete(where)
                    if len(new):
                        with transaction.update_snapshot().merge_append() as added:
                            for file in new.files(table):
                                added.append_data_file(file)
                return True
            except (CommitFailedException, ValidationException, CommitStateUnknownException) as error:
                # Refused because another writer was first, or the outcome is unknown. Either way nothing is cleaned
                # up: the next round reads back what the table holds now, and a commit that did land is seen there.
                unknown = unknown or isinstance(error, CommitStateUnknownException)
                _wait(attempt)
        raise LakeError(f"{name}: {_CONFLICT_RETRIES} commits in a row met another writer; run again when it is done")

    def replace_weeks(self, name: str, weeks: Iterable[dt.date], rows: pa.Table | Blocks) -> bool:
        """`replace` for whole weeks of a week-partitioned table, many weeks in one commit.

        Raises:
            LakeError: also when `rows` holds another week, which would be added instead of replaced.
        """
        partition = self.specs[name].partition
        assert partition is not None, f"{name} is not partitioned by week"
        keys = {w.isoformat() for w in weeks}

        def checked(block: pa.Table | pa.RecordBatch) -> pa.Table | pa.RecordBatch:
            found = pc.unique(block[partition]).to_pylist() if partition in block.schema.names else []
            if strays := set(map(str, found)) - keys:
                raise LakeError(f"{name}: rows of {sorted(strays)} are outside the weeks replaced")
            return block

        given = checked(rows) if isinstance(rows, pa.Table) else map(checked, rows)
        return self.replace(name, any_of(partition, keys), given)

    def read(self, name: str, where: BooleanExpression | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows as Arrow, in key order."""
        spec = self.specs[name]
        wanted = list(columns or spec.schema.names)
        # Sorting needs the key, also when the caller does not want it back.
        rows = self.batches(name, where, list(dict.fromkeys([*wanted, *spec.key]))).read_all()
        return rows.sort_by([(c, "ascending") for c in spec.key]).select(wanted)

    def batches(
        self, name: str, where: BooleanExpression | None = None, columns: Sequence[str] | None = None
    ) -> pa.RecordBatchReader:
        """Rows as Arrow, some at a time and in no order that could be relied on, for tables larger than memory.

        Args:
            where: filter; files and groups of rows that cannot match it are not read.
        """
        spec = self.specs[name]
        return scan(spec, self.table(name), where, columns).to_reader()

    def parts(self, name: str, known: Collection[str] = ()) -> dict[str, pa.Table | None]:
        """Rows by the file that they are in. A file never changes, so a caller needs to read it only once.

        Args:
            known: names of files that are not read again; their value is None.
        """
        spec, table = self.specs[name], self.table(name)
        tasks = {task.file.file_path: task for task in table.scan().plan_files()}

        def read(path: str) -> pa.Table | None:
            return None if path in known else scan(spec, table, tasks=[tasks[path]]).to_table()

        with ThreadPoolExecutor(8) as pool:  # each takes several requests where files are in S3
            return dict(zip(tasks, pool.map(read, tasks), strict=True))

    def attach(
        self, con: duckdb.DuckDBPyConnection, *names: str, only: Mapping[str, Collection[str]] | None = None
    ) -> duckdb.DuckDBPyConnection:
        """Show tables and views of the lake in a DuckDB connection, as of now, and bound its memory. Holds no lock and
        writes nothing.

        Args:
            names: tables and views, where it is known what will be read: each costs some milliseconds. Without names
                all are shown.
            only: column -> the values that will be asked for, such as one store. In tables with that column, files that
                cannot hold these values are left out. Rows with other values may still be shown, so the SQL has to
                filter too.
        """
        self.bound(con)
        _ = self.catalog  # opened once, before there are threads
        views = {view: sql for view, sql in VIEWS.items() if not names or view in names}
        beneath = set(re.findall(r"\w+", " ".join(views.values())))
        tables = [name for name in self.specs if not names or name in names or name in beneath]
        with ThreadPoolExecutor(len(tables)) as pool:  # each table takes several requests where files are in S3
            planned = list(pool.map(self._plan, tables))
        for name, (table, tasks) in zip(tables, planned, strict=True):
            show(con, self.specs[name], table, _holding(table, tasks, only or {}))
        for view, sql in views.items():
            con.execute(f"CREATE OR REPLACE VIEW {view} AS {sql}")
        return con

    @contextlib.contextmanager
    def connection(
        self, *names: str, only: Mapping[str, Collection[str]] | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of one's own that shows these tables, see `attach`; closed afterwards."""
        with duckdb.connect() as con:
            yield self.attach(con, *names, only=only)

    def bound(self, con: duckdb.DuckDBPyConnection) -> None:
        """Bound the memory of a connection that the lake is not attached to."""
        bound(con, self._memory_gb, self.spill)

    def _plan(self, name: str) -> tuple[Table | None, list[FileScanTask]]:
        """A table's current state and the files of it; None and no files where it does not exist yet."""
        from pyiceberg.exceptions import NoSuchTableError

        try:
            table = self.catalog.load_table((self.namespace, name))
        except NoSuchTableError:
            return None, []
        state, tasks = self._planned.get(name, ("", []))
        if state != table.metadata_location:
            tasks = list(table.scan().plan_files())
            if any(task.delete_files for task in tasks):
                raise LakeError(f"{name} holds merge-on-read deletes, which we never write; compact the table first")
            self._planned[name] = table.metadata_location, tasks
        return table, tasks

    def query(self, sql: str, parameters: Any = None, only: Mapping[str, Collection[str]] | None = None) -> pa.Table:
        """Run one SELECT (or WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE) over all tables and views.

        Nothing else is run: COPY and ATTACH could write into the lake's folder, which the connection has to be able to
        read. Files outside of it cannot be reached.

        Args:
            only: see `attach`.

        Raises:
            LakeError: the SQL is wrong or does not only read; the message lists the tables there are.
        """
        con = duckdb.connect()
        try:
            if [s.type for s in con.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
                raise duckdb.InvalidInputException("only SELECT can be asked here, one statement at a time")
            # Only what the SQL names is shown; all of it where it names nothing, as in SHOW TABLES.
            words = {word.lower() for word in re.findall(r"\w+", sql)}
            self.attach(con, *(name for name in (*self.specs, *VIEWS) if name in words), only=only)
            if (warehouse := self.catalog.properties["warehouse"]).startswith(LOCAL):
                con.execute(f"SET allowed_directories = [{literal(warehouse.removeprefix(LOCAL))}]")
            con.execute("SET enable_external_access = false")
            con.execute("SET lock_configuration = true")
            relation = con.sql(sql, params=parameters)
            return relation.to_arrow_table() if relation is not None else pa.table({})
        except duckdb.Error as error:
            tables = ", ".join([*self.specs, *VIEWS])
            raise LakeError(f"{error}\nTables and views: {tables}") from error
        finally:
            con.close()

    def _same(self, there: ds.Scanner, new: NewRows, table: Table) -> bool:
        """Whether a table has exactly the new rows, in any order, PROVENANCE aside."""
        if len(new) != there.count_rows():
            return False
        columns = [c for c in new.spec.schema.names if c not in PROVENANCE]
        if new.rows is not None:
            order = [(c, "ascending") for c in new.spec.order]
            return bool(there.to_table().sort_by(order).select(columns).equals(new.rows.select(columns)))
        # Too many for memory, so sums of hashes are compared. A row's hash is hashed again: otherwise two rows could
        # exchange values and leave the sum as it was.
        total = f"sum(hash(hash({', '.join(columns)})))"
        with duckdb.connect() as con:
            self.bound(con)
            both = [
                con.from_arrow(rows).aggregate(total).fetchall() for rows in (there.to_reader(), new.batches(table))
            ]
        return bool(both[0] == both[1])

    def snapshot(self, name: str) -> int | None:
        """Identifier of the table's current state, a key for caches and provenance; None: it is empty or missing."""
        from pyiceberg.exceptions import NoSuchTableError

        if name not in self.specs:
            raise LakeError(f"no table {name!r}; the lake holds {', '.join(self.specs)}")
        try:
            table = self.catalog.load_table((self.namespace, name))
        except NoSuchTableError:
            return None  # and not made: who may only read asks, too
        _refuse_newer(table, self.specs[name])
        current = table.current_snapshot()
        return current.snapshot_id if current else None


def _holding(table: Table | None, tasks: list[FileScanTask], only: Mapping[str, Collection[str]]) -> list[FileScanTask]:
    """The files that may hold rows with these values, by the least and the largest value of each column in a file."""
    from pyiceberg.expressions import AlwaysTrue, And
    from pyiceberg.expressions.visitors import _InclusiveMetricsEvaluator

    if table is None:
        return tasks
    asked = [
        any_of(column, map(str, values)) for column, values in only.items() if column in table.schema().column_names
    ]
    if not asked:
        return tasks
    evaluator = _InclusiveMetricsEvaluator(table.schema(), And(AlwaysTrue(), *asked))
    return [task for task in tasks if evaluator.eval(task.file)]


def _lacking(table: Table, spec: TableSpec) -> list[str]:
    there = set(table.schema().column_names)
    return [name for name in spec.schema.names if name not in there]


def _refuse_newer(table: Table, spec: TableSpec) -> None:
    """A week written again by a version that does not know a column would lose what stands in it."""
    known = set(spec.schema.names)
    new = [c for c in table.schema().column_names if c not in known and not QUANTILE.fullmatch(c)]
    if new:
        raise LakeError(
            f"the table {spec.name} was written by a newer version: this one does not know its columns "
            f"{', '.join(new)}. Use the version that wrote it, or a backup from before; nothing was changed"
        )


def any_of(column: str, values: Iterable[str]) -> BooleanExpression:
    """Filter for `replace` and `read`: the column holds one of these values (dates and times in ISO format)."""
    from pyiceberg.expressions import In

    return In(column, set(values))  # type: ignore[call-arg]  # pydantic's plugin does not know its __init__


def with_columns(rows: pa.Table, **values: Any) -> pa.Table:
    """Rows with constant columns appended."""
    for name, value in values.items():
        scalar = value if isinstance(value, pa.Scalar) else pa.scalar(value)
        rows = rows.append_column(name, pa.repeat(scalar, len(rows)))
    return rows


def run_columns(run_id: str) -> dict[str, Any]:
    """PROVENANCE of rows written now by a run."""
    return {"run_id": run_id, "created_at": dt.datetime.now(dt.UTC)}


def _wait(attempt: int) -> None:
    """Let another writer finish: .05 s, doubling up to 2 s, at random so that two do not meet again."""
    time.sleep(min(2.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
