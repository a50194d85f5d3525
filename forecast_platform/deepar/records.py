"""SageMaker's record files: JSON Lines (.json, .json.gz) and Parquet, to and from a SeriesSet.

A record is {"start": "YYYY-MM-DD HH:MM:SS", "target": [..], "cat": [..]?, "dynamic_feat": [[..]]?}; a
missing target value is null or "NaN". Other fields are ignored, except near misses of these names.
"""

from __future__ import annotations

import difflib
import gzip
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from forecast_platform.deepar.hyperparameters import ContractError
from forecast_platform.deepar.series import Frequency, SeriesSet

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_FIELDS = ("start", "target", "cat", "dynamic_feat")
_ENDINGS = (".json", ".json.gz", ".parquet")
_START = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?")
_NUMBERS = frozenset({int, float})


def read_records(paths: Paths, time_freq: str | None = None) -> SeriesSet:
    """Read files or folders of records, in sorted path order.

    Folders are read recursively; names that start with "." and _SUCCESS are skipped, as by the service.
    time_freq, when given, is checked. Raises ContractError naming file, line, rule and fix.
    """
    if time_freq is not None:
        Frequency.parse(time_freq)
    builder = _Builder()
    for path in list_files(paths):
        if path.name.endswith(".parquet"):
            _read_parquet(path, builder)
        else:
            for number, line in _lines(path):
                builder.add(parse_line(line, path.name, number), f"{path.name} line {number}")
    return builder.build()


def from_lines(lines: Iterable[bytes], name: str, first: int = 1) -> SeriesSet:
    """Records from JSON Lines in memory, such as a transform's request. Raises ContractError naming the line.

    Args:
        name: what messages call the lines' source. first: the number of the first line in it.
    """
    builder = _Builder()
    for number, line in enumerate(lines, first):
        if line.strip():
            builder.add(parse_line(line, name, number), f"{name} line {number}")
    return builder.build()


def from_objects(objects: Sequence[Any]) -> SeriesSet:
    """Records already parsed from JSON, such as an endpoint request's "instances". Raises ContractError."""
    builder = _Builder()
    for number, record in enumerate(objects):
        where = f"instance {number}"
        if not isinstance(record, dict):
            raise ContractError(f"{where}: a record is a JSON object; this is a {type(record).__name__}")
        builder.add(_check_record(record, where), where)
    return builder.build()


def list_files(paths: Paths) -> list[Path]:
    """The record files under `paths`. Raises ContractError when there is none or an ending is unknown.

    A path to a single file is taken whatever its ending, and read as JSON Lines unless it ends in .parquet.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: list[Path] = []
    for entry in map(Path, given):
        if entry.is_dir():
            inside = (p for p in sorted(entry.rglob("*")) if p.is_file())
            shown = [p for p in inside if not _skipped(p.relative_to(entry))]
            for path in shown:
                if not path.name.endswith(_ENDINGS):
                    raise ContractError(f"{path}: unknown ending; name record files {', '.join(_ENDINGS)}")
            found += shown
        elif entry.is_file():
            found.append(entry)
        else:
            raise ContractError(f"{entry}: there is no such file or folder")
    if not found:
        raise ContractError(f"no record files under {', '.join(map(str, given))}")
    return found


def parse_line(line: bytes, file: str, number: int) -> dict[str, Any]:
    """One JSON line to a checked record: start datetime64[s], target float64, cat, dynamic_feat or None."""
    where = f"{file} line {number}"
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as e:
        raise ContractError(f"{where}: {_json_hint(line, str(e))}") from e
    if not isinstance(record, dict):
        raise ContractError(f"{where}: a record is a JSON object; this is a {type(record).__name__}")
    return _check_record(record, where)


def write_records(series: SeriesSet, path: str | os.PathLike[str]) -> int:
    """Write JSON Lines, gzip when the name ends in .gz; a missing value is null. Returns the lines written.

    Equal sets give equal bytes. The file appears whole or not at all.
    """
    starts = np.datetime_as_string(series.start, unit="s")

    def lines() -> Iterator[bytes]:
        for i in range(len(series)):
            record: dict[str, Any] = {"start": starts[i].replace("T", " "), "target": series.target(i)}
            if series.cat is not None:
                record["cat"] = series.cat[i]
            feats = series.features(i)
            if feats is not None:
                record["dynamic_feat"] = np.ascontiguousarray(feats)
            yield orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)

    return write_lines(lines(), Path(path))


def write_lines(lines: Iterable[bytes], path: Path) -> int:
    """Write lines under a temporary name in the same folder, then rename. Returns how many."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    count = 0
    try:
        with open(temporary, "wb") as raw:
            packed = path.name.endswith(".gz")
            out: Any = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) if packed else raw
            for line in lines:
                out.write(line + b"\n")
                count += 1
            if packed:
                out.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


class _Builder:
    """Collects records into flat arrays; all need the same number of categories and of dynamic features."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.labels: list[str] = []

    def add(self, record: dict[str, Any], label: str) -> None:
        if self.records:
            for name in ("cat", "dynamic_feat"):
                have, first = record[name], self.records[0][name]
                n, m = (-1 if v is None else len(v) for v in (have, first))
                if n != m:
                    raise ContractError(
                        f"{label}: {name} has {_count(n)}, in {self.labels[0]} it has {_count(m)}; "
                        "all records need the same number"
                    )
        self.records.append(record)
        self.labels.append(label)

    def build(self) -> SeriesSet:
        if not self.records:
            raise ContractError("the record files hold no records")
        first = self.records[0]
        cat = None
        if first["cat"]:
            cat = np.array([r["cat"] for r in self.records], dtype=np.int64)
        return SeriesSet.from_arrays(
            np.array([r["start"] for r in self.records], dtype="datetime64[s]"),
            [r["target"] for r in self.records],
            cat,
            [r["dynamic_feat"] for r in self.records] if first["dynamic_feat"] is not None else None,
            self.labels,
        )


def _count(n: int) -> str:
    return "no values" if n < 0 else f"{n} values"


def _skipped(relative: Path) -> bool:
    return relative.name == "_SUCCESS" or any(part.startswith(".") for part in relative.parts)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; empty ones are skipped."""
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb") as f:
            for number, line in enumerate(f, start=1):
                if line.strip():
                    yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise ContractError(f"{path.name}: not a whole gzip file ({e}); write it again") from e


def _json_hint(line: bytes, error: str) -> str:
    text = line.strip()
    if re.search(rb"[:\[,\s]-?(NaN|Infinity|nan|inf)\b", text):
        return 'bare NaN or Infinity is not JSON; write null or "NaN" for a missing value'
    if text in (b"{", b"[", b"}", b"]") or (text.startswith(b"{") and not text.endswith(b"}")):
        return "the object does not end on this line; write each record on one line, not pretty-printed"
    return f"not valid JSON ({error}); write one JSON object per line"


def _check_record(record: dict[str, Any], where: str) -> dict[str, Any]:
    for name in record.keys() - set(_FIELDS):
        near = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.8)
        if near:
            raise ContractError(f"{where}: unknown field {name!r}; did you mean {near[0]!r}?")
    for name in ("start", "target"):
        if record.get(name) is None:
            raise ContractError(f"{where}: field {name!r} is missing")
    cat, feats = record.get("cat"), record.get("dynamic_feat")
    if isinstance(cat, int) and not isinstance(cat, bool):
        cat = [cat]  # the service takes a single category as a bare number
    if cat is not None and (not isinstance(cat, list) or any(type(c) is not int or c < 0 for c in cat)):
        raise ContractError(f"{where}: cat is {_short(cat)}; it must be an array of whole numbers from 0")
    return {
        "start": _parse_start(record["start"], where),
        "target": _parse_target(record["target"], where),
        "cat": cat,
        "dynamic_feat": None if feats is None else _parse_features(feats, where),
    }


def _parse_start(text: Any, where: str) -> np.datetime64:
    if isinstance(text, str) and _START.fullmatch(text.strip()):
        try:
            return np.datetime64(text.strip().replace(" ", "T"), "s")
        except ValueError:
            pass
    hint = "without a time zone " if isinstance(text, str) and re.search(r"(Z|[+-]\d\d:?\d\d)$", text) else ""
    raise ContractError(f'{where}: start is {_short(text)}; write "YYYY-MM-DD HH:MM:SS" {hint}'.rstrip())


def _parse_target(values: Any, where: str) -> np.ndarray[Any, Any]:
    if not isinstance(values, list) or not values:
        raise ContractError(f"{where}: target is {_short(values)}; it must be an array of at least one value")
    kinds = set(map(type, values))
    if not kinds <= _NUMBERS:
        for position, v in enumerate(values):
            if v is not None and type(v) not in _NUMBERS and v != "NaN":
                raise ContractError(
                    f'{where}: target[{position}] is {_short(v)}; write a number, or null or "NaN" when missing'
                )
    return np.array(values, dtype=np.float64)  # None and "NaN" both become NaN


def _parse_features(rows: Any, where: str) -> np.ndarray[Any, Any]:
    if not isinstance(rows, list) or not rows or not all(isinstance(r, list) and r for r in rows):
        raise ContractError(f"{where}: dynamic_feat must be an array of arrays, one per feature")
    lengths = sorted({len(r) for r in rows})
    if len(lengths) > 1:
        raise ContractError(f"{where}: dynamic_feat has features of {lengths[0]} and {lengths[-1]} values")
    for k, row in enumerate(rows):
        if not set(map(type, row)) <= _NUMBERS:
            position = next(i for i, v in enumerate(row) if type(v) not in _NUMBERS)
            raise ContractError(
                f"{where}: dynamic_feat[{k}][{position}] is {_short(row[position])}; "
                "dynamic features must be numbers, with none missing"
            )
    return np.array(rows, dtype=np.float64)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _read_parquet(path: Path, builder: _Builder) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as e:
        raise ContractError(f"{path.name}: not a readable Parquet file ({e})") from e
    columns = [name for name in _FIELDS if name in table.column_names]
    for number, row in enumerate(table.select(columns).to_pylist(), start=1):
        where = f"{path.name} row {number}"
        start = row.get("start")
        if hasattr(start, "isoformat"):
            if getattr(start, "tzinfo", None) is not None:
                raise ContractError(f"{where}: start has a time zone; write it without one")
            row["start"] = start.isoformat()
        if isinstance(row.get("target"), list) and row["target"]:
            # a missing value in Parquet is null or NaN; strings, which JSON allows, cannot occur
            row["target"] = [float("nan") if v is None else v for v in row["target"]]
        builder.add(_check_record(row, where), where)
