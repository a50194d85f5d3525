"""The kinds of files that land, the columns of each, and what reading one gives."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

KINDS = ("sales", "stores", "features", "calendar")
FORMATS = (".csv", ".csv.gz", ".parquet")
CANONICAL = ("store", "dept", "date", "weekly_sales", "is_holiday", "name")

SALES_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "store": pa.string(),
        "dept": pa.string(),
        "week": pa.date32(),
        "sales": pa.float64(),
        "is_holiday": pa.bool_(),
    }
)
STORES_SCHEMA = pa.schema({"line": pa.int64(), "store": pa.string(), "name": pa.string(), "value": pa.string()})
FEATURES_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "store": pa.string(),
        "dept": pa.string(),
        "week": pa.date32(),
        "name": pa.string(),
        "value": pa.float64(),
    }
)
CALENDAR_SCHEMA = pa.schema({"line": pa.int64(), "name": pa.string(), "date": pa.date32()})
REJECTED_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "rule": pa.string(),
        "column": pa.string(),
        "value": pa.string(),
        "message": pa.string(),
        "record": pa.string(),
    }
)


class FileRefused(Exception):
    """A landed file that can't be read at all.

    Attributes:
        rule: stable name of the reason, for example `truncated_gzip`.
        message: the file, what was expected and found, and how to mend it.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(rule, message)
        self.rule = rule
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} [{self.rule}]"


@dataclass(frozen=True)
class Parsed:
    """What became of a file's rows: `rows == accepted_rows + len(rejected)`, always.

    Attributes:
        accepted: SALES_SCHEMA, STORES_SCHEMA, FEATURES_SCHEMA or CALENDAR_SCHEMA, in the file's order. `line`
            is the 1-based line the row starts on, counting the header and blank lines (parquet: 1-based row).
            Stores and features are long: one row per file row and attribute column.
        rejected: REJECTED_SCHEMA, one row per rejected line, by line: the first rule it breaks, where,
            what to do about it, and the whole record as text so that nothing is lost.
        ignored_columns: columns of the file that nothing was read from.
        rows: rows in the file.
        accepted_rows: rows of the file that were accepted.
    """

    accepted: pa.Table
    rejected: pa.Table
    ignored_columns: tuple[str, ...]
    rows: int
    accepted_rows: int
