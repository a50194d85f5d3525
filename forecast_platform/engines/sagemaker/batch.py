"""The files of a Batch Transform: input shards in DeepAR's JSON Lines, a manifest that says which line is which series,
and verified outputs joined back to their series: SageMaker's output carries neither ids nor dates."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecast_platform.engines.predictions import BatchError
from forecast_platform.history.panel import Panel
from forecast_platform.models.encoding import Categories, ragged
from forecast_platform.models.target import Target

_JSON = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class Batch:
    """One folder: input/shard-000.json .., manifest.parquet, output/shard-000.json.out .."""

    folder: Path

    @property
    def manifest(self) -> pa.Table:
        """One row per series: shard, line, store, dept, last_week, sha256 of the input line."""
        return pq.read_table(self.folder / "manifest.parquet")

    def shards(self) -> list[tuple[Path, Path]]:
        """(input, output) of each shard."""
        inputs = sorted((self.folder / "input").glob("*.json"))
        return [(path, self.folder / "output" / f"{path.name}.out") for path in inputs]


@dataclass(frozen=True)
class Outputs:
    """Verified output of one shard of B series, in the network's units.

    Attributes:
        rows: the shard's rows of the manifest.
        quantiles: shape (B, Q, H), ascending in Q. samples: shape (B, S, H).
    """

    rows: pa.Table
    quantiles: NDArray[np.float64]
    samples: NDArray[np.float64]


def write_batch(folder: Path, panel: Panel, target: Target, categories: Categories, shards: int) -> Batch:
    """Input shards and manifest for all series of `panel`, which ends at the cutoff, as the network's `target`.

    Replaces `folder`.
    """
    seen = target.panel
    values, indptr = ragged(seen)
    cat = categories.encode(seen).tolist()
    starts = [f"{day} 00:00:00" for day in seen.weeks[seen.first].astype(str)]
    records: Iterable[dict[str, Any]] = (
        {"start": starts[i], "target": values[indptr[i] : indptr[i + 1]], "cat": cat[i]} for i in range(len(panel))
    )
    if target.features is not None:
        # (N, F, T + H), as the network reads
        rows = np.ascontiguousarray(np.moveaxis(target.features, 0, 1), dtype=np.float32)
        records = (
            {**record, "dynamic_feat": np.ascontiguousarray(row[:, since:])}
            for record, row, since in zip(records, rows, seen.first.tolist(), strict=True)
        )
    # orjson writes NaN as null, which is how DeepAR spells a missing value.
    lines = [orjson.dumps(record, option=_JSON) for record in records]
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "input").mkdir(parents=True)
    (building / "output").mkdir()
    shard_of = np.arange(len(panel)) * min(shards, len(panel)) // len(panel)
    line_of = np.arange(len(panel)) - np.searchsorted(shard_of, shard_of)
    for shard in np.unique(shard_of):
        members = np.flatnonzero(shard_of == shard)
        (building / "input" / f"shard-{shard:03d}.json").write_bytes(b"".join(lines[int(i)] + b"\n" for i in members))
    manifest = pa.table(
        {
            "shard": pa.array([f"shard-{s:03d}.json" for s in shard_of]),
            "line": pa.array(line_of),
            "store": pa.array(panel.store.tolist()),
            "dept": pa.array(panel.dept.tolist()),
            "last_week": pa.array(panel.weeks[panel.last_row].astype("datetime64[D]")),
            "sha256": pa.array([hashlib.sha256(line).hexdigest() for line in lines]),
        }
    )
    pq.write_table(manifest, building / "manifest.parquet")
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return Batch(folder)


def read_batch(batch: Batch, quantiles: tuple[float, ...], horizon: int) -> Iterator[Outputs]:
    """Outputs shard by shard, each verified and joined to its series. Numbers are read as the 32-bit floats that the
    network computes with, however many digits the output has.

    Raises:
        BatchError: an output is missing or short, a line does not parse, has the wrong length, holds a value that is
            not finite, or quantiles that cross; or an input is no longer the one the manifest describes.
    """
    manifest = batch.manifest
    names = [f"{q:g}" for q in quantiles]
    found = {source.name: (source, output) for source, output in batch.shards()}
    for name in manifest["shard"].unique().to_pylist():
        if name not in found:
            raise BatchError(f"{batch.folder / 'input' / name} is missing; run batch_predictions again")
        source, output = found[name]
        rows = manifest.filter(pa.compute.equal(manifest["shard"], name))
        inputs = source.read_bytes().splitlines()
        if len(inputs) != len(rows):
            raise BatchError(f"{source} has {len(inputs)} lines, the manifest {len(rows)}; run batch_predictions again")
        for line, (text, expected) in enumerate(zip(inputs, rows["sha256"].to_pylist(), strict=True), 1):
            if hashlib.sha256(text).hexdigest() != expected:
                raise BatchError(f"{source}: line {line} is not the one in the manifest; run batch_predictions again")
        if not output.exists():
            raise BatchError(f"{output} is missing: the transform of {source.name} did not finish; run it again")
        lines = output.read_bytes().splitlines()
        if len(lines) != len(rows):
            raise BatchError(f"{output} has {len(lines)} lines for {len(rows)} series; run batch_predictions again")
        answers = [_parse(output, number, text) for number, text in enumerate(lines, 1)]
        try:
            q = np.array([[a["quantiles"][name] for name in names] for a in answers], dtype=np.float32)
            samples = np.array([a["samples"] for a in answers], dtype=np.float32)
        except (KeyError, ValueError, TypeError) as error:
            raise BatchError(f"{output}: lines lack quantiles or samples, or differ in shape: {error}") from error
        for part, array in (("quantiles", q), ("samples", samples)):
            if array.ndim != 3:
                raise BatchError(f"{output}: {part} are nested {array.ndim - 1} deep, should be 2")
            if array.shape[-1] != horizon:
                raise BatchError(f"{output}: {part} has {array.shape[-1]} weeks, prediction_length is {horizon}")
            bad = ~np.isfinite(array).reshape(len(rows), -1).all(axis=1)
            if bad.any():
                raise BatchError(f"{output}: line {bad.argmax() + 1}: {part} is not finite")
        crossed = (np.diff(q, axis=1) < 0).any(axis=(1, 2))
        if crossed.any():
            raise BatchError(f"{output}: line {crossed.argmax() + 1}: quantiles cross")
        yield Outputs(rows, q.astype(np.float64), samples.astype(np.float64))


def _parse(output: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BatchError(f"{output}: line {number} is not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise BatchError(f"{output}: line {number} is not a JSON object")
    return answer
