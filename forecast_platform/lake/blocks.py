"""Blocks of rows, written to files of a table while they are made, so that a table may be larger than memory.

The files are in force when a commit names them (Lake.replace). Files of a writer that was killed before its commit are
swept by maintenance.

A file holds rows of one partition, in the order of TableSpec.order. A group of rows in it (Parquet's row group, with
the least and the largest value of each column) holds rows of one level, so whoever wants one series or the totals reads
the groups that may hold them and passes over the others. Measured on 12 quantiles of a million series: with groups of
8,192 rows in files of 32 groups, one series is 0.7 MB of one file; with Parquet's usual 122,880 it is 11 MB.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.lake.tables import LakeError, TableSpec

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

GROUP_ROWS = 32_768
SERIES_GROUP_ROWS = 8_192  # of tables with levels, where one series is asked for
FILE_GROUPS = 32

Blocks = Iterable[pa.Table | pa.RecordBatch]


class NewRows:
    """Rows for a table. An Arrow table is written only when it is known to differ from the table; blocks are written at
    once, since they come only once.

    Attributes:
        rows: the Arrow table, in the table's order; None: they came as blocks.

    Raises:
        LakeError: see `write_blocks`.
    """

    def __init__(self, rows: pa.Table | Blocks, spec: TableSpec, table: Table) -> None:
        self.spec = spec
        self.rows = conform(rows, spec) if isinstance(rows, pa.Table) else None
        self._files = write_blocks(table, spec, rows) if self.rows is None else None

    def __len__(self) -> int:
        return len(self.rows) if self.rows is not None else sum(file.record_count for file in self._files or ())

    def batches(self, table: Table) -> pa.RecordBatchReader:
        """The rows that came as blocks, some at a time."""
        return pa.RecordBatchReader.from_batches(self.spec.schema, _read(table, self.spec, self._files or ()))

    def files(self, table: Table) -> list[DataFile]:
        """The files of the rows, written now if they were not."""
        if self._files is None:
            self._files = write_blocks(table, self.spec, [self.rows])
        return self._files

    def drop(self, table: Table) -> None:
        """Delete the files of the rows. No commit may have named them."""
        _delete(table, self._files or ())


def conform(rows: pa.Table | pa.RecordBatch, spec: TableSpec) -> pa.Table:
    """Rows with the table's columns and types, in its order.

    Raises:
        LakeError: a column is missing, or the key is not unique.
    """
    if isinstance(rows, pa.RecordBatch):
        rows = pa.Table.from_batches([rows])
    missing = set(spec.schema.names) - set(rows.column_names)
    if missing:
        raise LakeError(f"{spec.name}: rows lack the columns {sorted(missing)}")
    rows = rows.select(spec.schema.names).cast(spec.schema).combine_chunks()
    before, _ = _neighbours(rows, spec.order)
    if not pc.all(before, min_count=0).as_py():  # much cheaper than to sort what is sorted
        rows = rows.sort_by([(c, "ascending") for c in spec.order]).combine_chunks()
        _, same = _neighbours(rows, spec.order)
        if pc.any(same).as_py():
            raise LakeError(_twice(spec, _key(rows, spec, pc.index(same, True).as_py())))
    return rows


def write_blocks(table: Table, spec: TableSpec, blocks: Blocks) -> list[DataFile]:
    """Write rows to new files of a table, which is not changed by that.

    Args:
        blocks: each with every column of the table. The rows of one partition and level come in the table's order from
            block to block; partitions and levels may follow each other in any order, but a partition that comes again
            is another file.

    Raises:
        LakeError: a column is missing, a key comes twice, or the order is broken; no file is left behind.
    """
    files: list[DataFile] = []
    open_file: _File | None = None
    try:
        for run, rows in _in_order(blocks, spec):
            partition = run[: 1 if spec.partition else 0]
            while len(rows):
                if open_file and (open_file.partition != partition or not open_file.room):
                    files.append(open_file.close())
                    open_file = None
                if open_file is None:
                    open_file = _File(table, spec, partition)
                rows = open_file.write(run, rows)
        if open_file:
            files.append(open_file.close())
            open_file = None
    except BaseException:
        if open_file:
            files.append(open_file.close())
        _delete(table, files)
        raise
    return files


def _read(table: Table, spec: TableSpec, files: Iterable[DataFile]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for file in files:
        with table.io.new_input(file.file_path).open() as stream:
            for batch in pq.ParquetFile(stream).iter_batches(GROUP_ROWS, columns=spec.schema.names):
                yield batch.select(spec.schema.names).cast(spec.schema)


def _delete(table: Table, files: Iterable[DataFile]) -> None:
    for file in files:
        table.io.delete(file.file_path)


class _File:
    """One Parquet file that is being written."""

    def __init__(self, table: Table, spec: TableSpec, partition: tuple[Any, ...]) -> None:
        import pyarrow.parquet as pq

        self.partition = partition
        self._group_rows = SERIES_GROUP_ROWS if "level" in spec.schema.names else GROUP_ROWS
        self.room = self._group_rows * FILE_GROUPS  # rows that it still takes
        self._table, self._schema = table, _file_schema(table, spec)
        folder = f"{spec.partition}={partition[0]}/" if partition else ""
        self._path = f"{table.location()}/data/{folder}{uuid.uuid4()}.parquet"
        self._output = table.io.new_output(self._path)
        self._stream = self._output.create()
        self._writer = pq.ParquetWriter(
            self._stream,
            self._schema,
            compression="zstd",
            store_schema=False,
            # Numbers with a fraction seldom repeat: a dictionary of them takes more room, and twice the time.
            use_dictionary=[field.name for field in self._schema if not pa.types.is_floating(field.type)],
        )
        self._run: tuple[Any, ...] = ()
        self._held: list[pa.Table] = []  # rows of a group that is not full

    def write(self, run: tuple[Any, ...], rows: pa.Table) -> pa.Table:
        """Returns the rows for which there was no room."""
        if run != self._run:
            self._flush()
            self._run = run
        self._held.append(rows[: self.room])
        rows, self.room = rows[self.room :], max(self.room - len(rows), 0)
        if sum(map(len, self._held)) >= self._group_rows:
            held = pa.concat_tables(self._held)
            whole = len(held) - len(held) % self._group_rows
            self._write(held[:whole])
            self._held = [held[whole:]]
        return rows

    def close(self) -> DataFile:
        from pyiceberg.io.pyarrow import (
            compute_statistics_plan,
            data_file_statistics_from_parquet_metadata,
            parquet_path_to_id_mapping,
        )
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat

        with self._stream:
            self._flush()
            self._writer.close()
        metadata, schema = self._table.metadata, self._table.schema()
        statistics = data_file_statistics_from_parquet_metadata(
            parquet_metadata=self._writer.writer.metadata,
            stats_columns=compute_statistics_plan(schema, metadata.properties),
            parquet_column_mapping=parquet_path_to_id_mapping(schema),
        )
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self._path,
            file_format=FileFormat.PARQUET,
            partition=statistics.partition(metadata.spec(), schema),
            file_size_in_bytes=len(self._output),
            sort_order_id=None,
            spec_id=metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )

    def _flush(self) -> None:
        if held := [rows for rows in self._held if len(rows)]:
            self._write(pa.concat_tables(held))
        self._held = []

    def _write(self, rows: pa.Table) -> None:
        for field in self._schema:  # columns that another version's settings gave the table
            if field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        rows = rows.select(self._schema.names).cast(self._schema)
        self._writer.write_table(rows, row_group_size=self._group_rows)


def _file_schema(table: Table, spec: TableSpec) -> pa.Schema:
    """The table's columns as they are in a file, by Iceberg's identifiers."""
    from pyiceberg.io.pyarrow import PYARROW_PARQUET_FIELD_ID_KEY, schema_to_pyarrow

    found = schema_to_pyarrow(table.schema(), include_field_ids=True)
    key = PYARROW_PARQUET_FIELD_ID_KEY
    return pa.schema([field.with_metadata({key: field.metadata[key]}) for field in found])


def _in_order(blocks: Blocks, spec: TableSpec) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """(partition and level, rows of it), each key once and larger than the one before it."""
    of = [c for c in spec.order if c in (spec.partition, "level")]
    last: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for block in blocks:
        for part in _runs(conform(block, spec), of):
            run = tuple(part[c][0].as_py() for c in of)
            first = _key(part, spec, 0)
            before = last.get(run)
            if before is not None and _comparable(first) <= _comparable(before):
                raise LakeError(
                    _twice(spec, first)
                    if first == before
                    else f"{spec.name}: blocks have to be in order, but {_shown(spec, first)} came after "
                    f"{_shown(spec, before)}"
                )
            last[run] = _key(part, spec, len(part) - 1)
            yield run, part


def _runs(rows: pa.Table, of: list[str]) -> Iterator[pa.Table]:
    """Stretches of rows that agree in these columns."""
    if not len(rows):
        return
    _, same = _neighbours(rows, of)
    ends = pc.indices_nonzero(pc.invert(same)).to_pylist() if of else []
    for start, end in itertools.pairwise([0, *(at + 1 for at in ends), len(rows)]):
        yield rows[start:end]


def _neighbours(rows: pa.Table, columns: Iterable[str]) -> tuple[pa.Array, pa.Array]:
    """For each row but the last: whether it comes before the next one by these columns (nulls last), and whether it is
    equal to it."""
    size = max(len(rows) - 1, 0)
    before, same = pa.repeat(False, size), pa.repeat(True, size)
    for column in columns:
        values = rows[column].combine_chunks()
        this, following = values[:size], values[1:]
        less, equal = pc.less(this, following), pc.equal(this, following)
        if values.null_count:
            less = pc.fill_null(less, pc.and_(pc.is_valid(this), pc.is_null(following)))
            equal = pc.fill_null(equal, pc.and_(pc.is_null(this), pc.is_null(following)))
        before, same = pc.or_(before, pc.and_(same, less)), pc.and_(same, equal)
    return before, same


def _key(rows: pa.Table, spec: TableSpec, at: int) -> tuple[Any, ...]:
    return tuple(rows[c][at].as_py() for c in spec.order)


def _comparable(key: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    return tuple((value is None, 0 if value is None else value) for value in key)


def _shown(spec: TableSpec, key: tuple[Any, ...]) -> str:
    named = dict(zip(spec.order, key, strict=True))
    return json.dumps({c: named[c] for c in spec.key}, default=str)


def _twice(spec: TableSpec, key: tuple[Any, ...]) -> str:
    return f"{spec.name}: two rows for the key {_shown(spec, key)}"
