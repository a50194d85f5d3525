"""Batch prediction files: input shards in DeepAR's JSON Lines, a manifest that says which line is which series, and
verified outputs joined back to their series. The same files serve the local engine and SageMaker Batch Transform, whose
output carries neither ids nor dates."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecast_platform.deepar.randomness import mix, uniforms
from forecast_platform.history.panel import Panel
from forecast_platform.models.combine import Combination
from forecast_platform.models.encoding import Categories, ragged
from forecast_platform.models.target import Target

_JSON = orjson.OPT_SERIALIZE_NUMPY
_DRAWN_AT_ONCE = 2_000  # series, so that memory stays the same however many there are
_BY_WEEK = ("unit", "offset", "lead", "widths", "returns")  # fields of Combination of shape (N, H)


class BatchError(RuntimeError):
    """A batch's output does not fit its manifest; the message names the shard and line."""


@dataclass(frozen=True)
class Batch:
    """One folder: input/shard-000.json .., manifest.parquet, output/shard-000.json.out .."""

    folder: Path

    @property
    def manifest(self) -> pa.Table:
        """One row per series: shard, line, store, dept, last_week, sha256 of the input line, and its part of the
        Combination (models/combine.py) that makes a forecast of the network's outputs."""
        return pq.read_table(self.folder / "manifest.parquet")

    def shards(self) -> list[tuple[Path, Path]]:
        """(input, output) of each shard."""
        inputs = sorted((self.folder / "input").glob("*.json"))
        return [(path, self.folder / "output" / f"{path.name}.out") for path in inputs]


@dataclass(frozen=True)
class ShardForecast:
    """Verified output of one shard of B series, in sales.

    Attributes:
        rows: the shard's rows of the manifest.
        mean: shape (B, H), of the samples. quantiles: (B, Q, H), ascending in Q. samples: (B, S, H).
    """

    rows: pa.Table
    mean: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    samples: NDArray[np.float64]


def write_batch(
    folder: Path,
    panel: Panel,
    target: Target,
    categories: Categories,
    shards: int,
    combination: Combination | None = None,
) -> Batch:
    """Input shards and manifest for all series of `panel`, which ends at the cutoff, as the network's `target`.

    Replaces `folder`.

    Args:
        panel: with its exposure, where the target was built from the divided panel.
        combination: how outputs become sales; None: the network alone.
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
    how = combination or Combination.of_target(target, panel)
    return _write(folder, panel, lines, how, shards)


def write_said(
    folder: Path,
    panel: Panel,
    quantiles: NDArray[np.float64],
    levels: Sequence[float],
    combination: Combination,
    shards: int,
) -> Batch:
    """The same of a candidate that forecasts without a network: its quantiles (N, Q, H) are the input, and `draw` makes
    the outputs of them."""
    names = [f"{level:g}" for level in levels]
    rows = np.ascontiguousarray(quantiles, dtype=np.float32)  # as exact as a network's, and half as long in JSON
    lines = [orjson.dumps({"quantiles": dict(zip(names, said, strict=True))}, option=_JSON) for said in rows]
    return _write(folder, panel, lines, combination, shards)


def _write(folder: Path, panel: Panel, lines: Sequence[bytes], how: Combination, shards: int) -> Batch:
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
            **{name: _lists(getattr(how, name)) for name in _BY_WEEK},
            "share": pa.array(np.full(len(panel), how.share)),
            "least": pa.array(how.least),
        }
    )
    pq.write_table(manifest, building / "manifest.parquet")
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return Batch(folder)


def read_batch(batch: Batch, quantiles: tuple[float, ...], horizon: int) -> Iterator[ShardForecast]:
    """Outputs shard by shard, each verified and joined to its series.

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
            q = np.array([[a["quantiles"][name] for name in names] for a in answers], dtype=np.float64)
            samples = np.array([a["samples"] for a in answers], dtype=np.float64)
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
        if not set(_BY_WEEK) <= set(rows.column_names):
            raise BatchError(f"{batch.folder} was written by an earlier version; run batch_predictions again")
        how = Combination(
            share=rows["share"][0].as_py(),
            least=rows["least"].to_numpy(),
            **{name: np.array(rows[name].to_pylist()) for name in _BY_WEEK},
        )
        stores, depts = (rows[c].to_pylist() for c in ("store", "dept"))
        keys = [f"{store}\0{dept}" for store, dept in zip(stores, depts, strict=True)]
        samples = how.paths(samples, q[:, quantiles.index(0.5)], keys)
        q = how.quantiles(q, quantiles)
        yield ShardForecast(rows, samples.mean(axis=1), q, samples)


def draw(source: Path, output: Path, config: Mapping[str, Any], seed: int) -> int:
    """Answer the lines of `write_said` as DeepAR answers its own: quantiles and sample paths. Returns how many.

    A path of a series is drawn by its quantiles week by week, with the uniforms that networks sample with: the paths
    share the distribution evenly, and depend on the series' line and the seed alone.

    Args:
        config: num_samples and quantiles, as in inference_config.
    """
    names = list(config["quantiles"])
    lines = source.read_bytes().splitlines()
    with output.open("wb") as file:
        for start in range(0, len(lines), _DRAWN_AT_ONCE):
            block = lines[start : start + _DRAWN_AT_ONCE]
            said = [orjson.loads(line)["quantiles"] for line in block]
            levels = np.array([float(level) for level in said[0]])
            values = np.array([list(each.values()) for each in said]).swapaxes(1, 2)  # (B, H, L)
            digests = np.array([int.from_bytes(hashlib.sha256(line).digest()[:8]) for line in block], np.uint64)
            chance = uniforms(mix(digests + np.uint64(seed)), values.shape[1], int(config["num_samples"]), 1)[0]
            paths = np.ascontiguousarray(_between(values, levels, chance.swapaxes(0, 1)).swapaxes(1, 2))  # (B, S, H)
            asked = np.broadcast_to([float(name) for name in names], (*values.shape[:2], len(names)))
            quantiles = np.ascontiguousarray(_between(values, levels, asked).swapaxes(1, 2))  # (B, Q, H)
            for of_series, samples in zip(quantiles, paths, strict=True):
                answer = {"quantiles": dict(zip(names, of_series, strict=True)), "samples": samples}
                file.write(orjson.dumps(answer, option=_JSON) + b"\n")
    return len(lines)


def _between(values: NDArray[np.float64], levels: NDArray[np.float64], chance: NDArray[Any]) -> NDArray[np.float64]:
    """Quantiles at any levels, straight between those known and level beyond them.

    Args:
        values: at `levels`, shape (B, H, L). chance: shape (B, H, K).

    Returns:
        Shape (B, H, K).
    """
    at = np.clip(np.searchsorted(levels, chance, side="right"), 1, len(levels) - 1)
    part = np.clip((chance - levels[at - 1]) / (levels[at] - levels[at - 1]), 0, 1)
    low, high = (np.take_along_axis(values, where, axis=2) for where in (at - 1, at))
    return np.asarray(low + part * (high - low))


def _lists(values: NDArray[np.float64]) -> pa.Array:
    """One list per row of (N, H)."""
    return pa.array(values.tolist(), pa.list_(pa.float64()))


def _parse(output: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BatchError(f"{output}: line {number} is not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise BatchError(f"{output}: line {number} is not a JSON object")
    return answer
