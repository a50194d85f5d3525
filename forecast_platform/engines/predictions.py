"""What a batch prediction leaves in its folder: forecasts of every series, in sales, and the sums of their paths.

    predictions.json        what was asked for, and each shard's files with their hashes; written last
    series-000.parquet ..   store, dept, last_week (of sales known), mean and quantiles of each week ahead, and
                            quantiles of the lead-time demand
    beside-NAME.parquet ..  rows of a table that say more of the week's series
    sums-000.parquet ..     by level and group, the exact sums of the shard's sample paths (history/shards.Sums)

Sample paths are not kept: totals need only their sums, and the paths are most of the bytes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import EXACT, Groups, Sums
from forecast_platform.levels import Level

NAME = "predictions.json"
_VERSION = 3
_AGAIN = "run batch_predictions again"
_LEAD_TIME = "lead_time"  # begins the names of its columns

Floats = NDArray[np.float64]


class BatchError(RuntimeError):
    """A batch prediction is not there, or damaged; the message names the file and what to do."""


@dataclass(frozen=True)
class ShardForecast:
    """Forecasts of B series over H weeks, in sales.

    Attributes:
        store, dept, last_week: of each series, with the last week of sales known; shape (B,).
        mean: of the sample paths, shape (B, H). quantiles: shape (B, Q, H), ascending in Q.
        lead_time: quantiles of the sales of the first 1 .. H weeks added up, shape (B, Q, H).
        sums: by level, the S sample paths of each group's series added up, values (G, S, H); named by Level.keys.
    """

    store: NDArray[np.str_]
    dept: NDArray[np.str_]
    last_week: NDArray[np.datetime64]
    mean: Floats
    quantiles: Floats
    lead_time: Floats
    sums: Mapping[str, Sums]

    @classmethod
    def of(
        cls, panel: Panel, quantiles: Floats, asked: Sequence[float], paths: Floats, levels: Sequence[Level]
    ) -> ShardForecast:
        """The forecasts of a panel's series, from their quantiles at the levels `asked` and sample paths (B, S, H).

        Raises:
            BatchError: a value is not finite, or too large to be added exactly; the message names the series.
        """
        fine = [(np.abs(values) < EXACT).all(axis=(1, 2)) for values in (quantiles, paths)]  # NaN is not
        bad = ~(fine[0] & fine[1])
        if bad.any():
            at = int(bad.argmax())
            raise BatchError(
                f"store {panel.store[at]}, department {panel.dept[at]}: the forecast is not finite or beyond "
                f"{EXACT:.1e}, which cannot be added exactly"
            )
        found = Sums.by_several([Groups.of(each.keys(panel.store, panel.dept)) for each in levels], paths)
        sums = {each.name: of_level for each, of_level in zip(levels, found, strict=True)}
        last = panel.weeks[panel.last_row].astype("datetime64[D]")
        lead_time = hazen(paths.cumsum(axis=2), asked)
        lead_time[:, :, 0] = quantiles[:, :, 0]  # the demand of one week is its forecast, to the last bit
        return cls(panel.store, panel.dept, last, paths.mean(axis=1), quantiles, lead_time, sums)

    @classmethod
    def together(cls, parts: Sequence[ShardForecast]) -> ShardForecast:
        """The forecasts of several shards as one, one after the other; all have the same levels."""
        sums = {level: reduce(Sums.__add__, [part.sums[level] for part in parts]) for level in parts[0].sums}
        return cls(
            np.concatenate([part.store for part in parts]),
            np.concatenate([part.dept for part in parts]),
            np.concatenate([part.last_week for part in parts]),
            np.concatenate([part.mean for part in parts]),
            np.concatenate([part.quantiles for part in parts]),
            np.concatenate([part.lead_time for part in parts]),
            sums,
        )


@dataclass(frozen=True)
class Predictions:
    """The folder of one batch prediction."""

    folder: Path
    _hashed: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # names of its files

    @classmethod
    def write(
        cls,
        folder: Path,
        shards: Iterable[ShardForecast],
        quantiles: Sequence[float],
        horizon: int,
        model: str,
        as_known: str,
        levels: Sequence[Level] = (),
        beside: Mapping[str, pa.Table] = {},
    ) -> Predictions:
        """Write the forecasts shard by shard as they come; `folder` is replaced when all are there. See `finish`."""
        building = folder.with_name(folder.name + ".building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        written = [write_shard(building, number, shard, quantiles) for number, shard in enumerate(shards)]
        return cls.finish(building, folder, written, quantiles, horizon, model, as_known, levels, beside)

    @classmethod
    def finish(
        cls,
        building: Path,
        folder: Path,
        written: Sequence[Mapping[str, Any]],
        quantiles: Sequence[float],
        horizon: int,
        model: str,
        as_known: str,
        levels: Sequence[Level] = (),
        beside: Mapping[str, pa.Table] = {},
    ) -> Predictions:
        """Complete the predictions whose shards were written to `building`, which becomes `folder`.

        Args:
            written: what `write_shard` returned for each shard.
            model: version of the model that made them. as_known: of the data as known "now" or "then". levels: the
                levels by attributes, with the groups that they had.
            beside: rows of tables that say more of the week's series, to be published with the forecasts.
        """
        for name, table in beside.items():
            pq.write_table(table, building / f"beside-{name}.parquet", compression="zstd")
        contents = {
            "version": _VERSION,
            "model": model,
            "as_known": as_known,
            "groups": _digest(levels),
            "horizon": horizon,
            "quantiles": list(quantiles),
            "shards": written,
            "beside": {name: _hash(building / f"beside-{name}.parquet") for name in beside},
        }
        (building / NAME).write_text(json.dumps(contents, indent=1))
        for path in [*building.glob("shard-*.json"), *building.glob(".*")]:  # the latter by attempts that died
            path.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
        return cls(folder)

    @classmethod
    def at(cls, folder: Path) -> Predictions:
        """The predictions in a folder. Raises BatchError when there are none."""
        if not (folder / NAME).exists() or cls(folder).said.get("version") != _VERSION:
            raise BatchError(f"{folder} holds no predictions of this version; {_AGAIN} for its week")
        return cls(folder)

    @property
    def said(self) -> dict[str, Any]:
        """What predictions.json says."""
        found: dict[str, Any] = json.loads((self.folder / NAME).read_text())
        return found

    def check(self, model: str, levels: Sequence[Level], as_known: str) -> None:
        """Raises BatchError when they are of another model, of the data as known at another time, or of other groups
        than those of the levels by attributes: they would be published under the wrong name."""
        contents = self.said
        if "as_known" not in contents:
            raise BatchError(f"{self.folder} does not say when its data was known; {_AGAIN}")
        if contents["as_known"] != as_known:
            raise BatchError(
                f"{self.folder} is of the data as known {contents['as_known']}, not as known {as_known}; {_AGAIN}"
            )
        if contents["model"] != model:
            raise BatchError(f"{self.folder} is of model {contents['model']}; the week's is {model} now; {_AGAIN}")
        if contents["groups"] != _digest(levels):
            raise BatchError(
                f"{self.folder} was summed by other groups than stores/ and departments/ say now; {_AGAIN}"
            )

    def beside(self) -> dict[str, pa.Table]:
        """The rows of other tables that were kept with them. Raises BatchError when a file is missing or not the one
        that was written."""
        files = {f"beside-{name}.parquet": digest for name, digest in self.said["beside"].items()}
        return {name: self._read(files, f"beside-{name}.parquet") for name in self.said["beside"]}

    @property
    def series(self) -> int:
        return sum(shard["series"] for shard in self.said["shards"])

    @property
    def last_week(self) -> dt.date | None:
        """The newest week of sales known of any series; None where there is no series."""
        weeks = [shard["last_week"] for shard in self.said["shards"]]
        return dt.date.fromisoformat(max(weeks)) if weeks else None

    def shards(self, quantiles: Sequence[float], horizon: int) -> Iterator[ShardForecast]:
        """Shard by shard, each verified.

        Raises:
            BatchError: see `forecasts` and `sums`.
        """
        contents = self._contents_of(quantiles, horizon)
        for shard in contents["shards"]:
            series = self._series(shard, quantiles, "", _LEAD_TIME)
            yield _forecast(series, _by_level(self._sums(shard), horizon), quantiles)

    def forecasts(self, quantiles: Sequence[float], horizon: int, *, lead_time: bool = False) -> Iterator[pa.Table]:
        """The forecasts of every series, a table a shard, each verified: `store`, `dept`, `mean`, and the quantiles in
        their order, of the weeks or of the lead-time demand; each a list of H weeks. By store and department.

        Raises:
            BatchError: they are of other quantiles or another horizon, a file is missing or not the one that was
                written, or holds other series than it should, values that are not finite, or quantiles that cross.
        """
        for shard in self._contents_of(quantiles, horizon)["shards"]:
            found = self._series(shard, quantiles, _LEAD_TIME if lead_time else "").drop(["last_week"])
            order = pc.sort_indices(found, [("store", "ascending"), ("dept", "ascending")])
            yield found if np.array_equal(order, np.arange(len(order))) else found.take(order)

    def sums(self) -> dict[str, Sums]:
        """The sums of the sample paths of all shards, by level; see ShardForecast. Beside them one shard at a time is
        in memory.

        Raises:
            BatchError: a file is missing or not the one that was written.
        """
        contents, names = self.said, dict[str, list[str]]()
        for shard in contents["shards"]:
            keys = self._sums(shard, ["level", "key"])
            for level, key in zip(keys["level"].to_pylist(), keys["key"].to_pylist(), strict=True):
                names.setdefault(level, []).append(key)
        total: dict[str, Sums] = {}
        for shard in contents["shards"]:
            for level, part in _by_level(self._sums(shard), contents["horizon"]).items():
                if level not in total:
                    groups = np.unique(np.array(names[level], dtype=np.str_))
                    nothing = np.zeros((len(groups), *part.whole.shape[1:]), dtype=np.int64)
                    total[level] = Sums(groups, nothing, nothing.copy())
                at = np.searchsorted(total[level].names, part.names)
                total[level].whole[at] += part.whole
                total[level].rest[at] += part.rest
        return total

    def _contents_of(self, quantiles: Sequence[float], horizon: int) -> dict[str, Any]:
        contents = self.said
        if contents["quantiles"] != list(quantiles) or contents["horizon"] != horizon:
            raise BatchError(
                f"{self.folder / NAME} is of quantiles {contents['quantiles']} over {contents['horizon']} weeks, not "
                f"{list(quantiles)} over {horizon}; {_AGAIN}"
            )
        return contents

    def check_files(self, shard: Mapping[str, Any]) -> None:
        """Raises BatchError when a file that a shard names is missing, or not the one that was written."""
        for name in shard["files"]:
            self._checked(shard["files"], name)

    def _series(self, shard: Mapping[str, Any], quantiles: Sequence[float], *prefixes: str) -> pa.Table:
        """A shard's series with the quantiles of these prefixes, verified."""
        name, _ = shard["files"]
        parts = {prefix: _columns(quantiles, prefix) for prefix in prefixes}
        found = self._read(
            shard["files"], name, ["store", "dept", "last_week", "mean", *itertools.chain(*parts.values())]
        )
        where = self.folder / name
        if len(found) != shard["series"]:
            raise BatchError(f"{where} has {len(found)} series, should have {shard['series']}; {_AGAIN}")
        for part, columns in {"mean": ["mean"], **parts}.items():
            what = {"": "quantiles", _LEAD_TIME: "lead time"}.get(part, part)
            below = None
            for column in columns:
                values = _array(found[column])
                if (bad := ~np.isfinite(values).all(axis=1)).any():
                    raise BatchError(f"{where}: {_name(found, bad)}: {what} is not finite")
                if below is not None and (crossed := (values < below).any(axis=1)).any():
                    raise BatchError(f"{where}: {_name(found, crossed)}: {what} cross")
                below = values
        return found

    def _sums(self, shard: Mapping[str, Any], columns: list[str] | None = None) -> pa.Table:
        _, name = shard["files"]
        return self._read(shard["files"], name, columns)

    def _read(self, files: Mapping[str, str], name: str, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(self._checked(files, name), columns=columns)

    def _checked(self, files: Mapping[str, str], name: str) -> Path:
        """The path of a file, whose hash is checked when it is first read."""
        path = self.folder / name
        if not path.exists():
            raise BatchError(f"{path} is missing; {_AGAIN}")
        if name not in self._hashed and _hash(path) != files[name]:
            raise BatchError(f"{path} is not the file that was written; {_AGAIN}")
        self._hashed.add(name)
        return path


def hazen(paths: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles (B, Q, H) of sample paths (B, S, H). They are np.quantile's by method "hazen" to the last bit, in a
    fifth of its time: it selects each value by itself, and one sort finds them all."""
    ascending, last = np.sort(paths, axis=1), paths.shape[1] - 1
    position = (paths.shape[1] * np.asarray(levels, dtype=np.float64) + 0.5) - 1
    below = np.floor(position)
    part = (position - below)[:, None]
    low, high = (ascending[:, np.clip(at, 0, last).astype(np.int64)] for at in (below, below + 1))
    between = high - low
    return np.asarray(np.where(part >= 0.5, high - between * (1 - part), low + between * part))


def write_shard(
    folder: Path, number: int, shard: ShardForecast, quantiles: Sequence[float], more: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Write a shard's files, and last its entry for predictions.json, with `more` in it; returns the entry.

    Each file is whole or not there: another attempt at the shard may write the same files at the same time.
    """
    tables = {"series": _series(shard, quantiles), "sums": _sums(shard)}
    files = {f"{what}-{number:03d}.parquet": table for what, table in tables.items()}
    hashes = {}
    for name, table in files.items():
        with _replacing(folder / name) as temporary:
            pq.write_table(table, temporary, compression="zstd")
            hashes[name] = _hash(temporary)
    last = max(shard.last_week.tolist(), default=None)
    entry = {"series": len(shard.store), "last_week": last and last.isoformat(), "files": hashes, **more}
    with _replacing(folder / f"shard-{number:03d}.json") as temporary:
        temporary.write_text(json.dumps(entry))
    return entry


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file that takes the place of `path` when it is written."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    yield temporary
    os.replace(temporary, path)


def written_shard(folder: Path, number: int) -> dict[str, Any] | None:
    """What `write_shard` returned for a shard that was finished earlier; None where none was."""
    path = folder / f"shard-{number:03d}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _series(shard: ShardForecast, quantiles: Sequence[float]) -> pa.Table:
    return pa.table(
        {
            "store": pa.array(shard.store.tolist(), pa.string()),
            "dept": pa.array(shard.dept.tolist(), pa.string()),
            "last_week": pa.array(shard.last_week),
            "mean": _rows(shard.mean),
            **{c: _rows(shard.quantiles[:, i]) for i, c in enumerate(_columns(quantiles))},
            **{c: _rows(shard.lead_time[:, i]) for i, c in enumerate(_columns(quantiles, _LEAD_TIME))},
        }
    )


def _sums(shard: ShardForecast) -> pa.Table:
    parts = [
        pa.table(
            {
                "level": pa.repeat(level, len(sums.names)),
                "key": pa.array(sums.names.tolist(), pa.string()),
                "whole": _rows(sums.whole.reshape(len(sums.names), -1)),
                "rest": _rows(sums.rest.reshape(len(sums.names), -1)),
            }
        )
        for level, sums in shard.sums.items()
    ]
    return pa.concat_tables(parts)


def _forecast(series: pa.Table, sums: Mapping[str, Sums], quantiles: Sequence[float]) -> ShardForecast:
    return ShardForecast(
        np.array(series["store"].to_pylist(), dtype=np.str_),
        np.array(series["dept"].to_pylist(), dtype=np.str_),
        series["last_week"].to_numpy().astype("datetime64[D]"),
        _array(series["mean"]),
        np.stack([_array(series[c]) for c in _columns(quantiles)], axis=1),
        np.stack([_array(series[c]) for c in _columns(quantiles, _LEAD_TIME)], axis=1),
        sums,
    )


def _by_level(sums: pa.Table, horizon: int) -> dict[str, Sums]:
    found = {}
    for level in sums["level"].unique().to_pylist():
        rows = sums.filter(pc.equal(sums["level"], level))
        names = np.array(rows["key"].to_pylist(), dtype=np.str_)
        whole, rest = (_array(rows[part]).reshape(len(names), -1, horizon) for part in ("whole", "rest"))
        found[level] = Sums(names, whole, rest)
    return found


def _columns(quantiles: Sequence[float], prefix: str = "") -> list[str]:
    """Names of the columns of the quantiles, or of those of the lead-time demand."""
    return [f"{prefix} {q:g}".strip() for q in quantiles]


def _rows(values: NDArray[Any]) -> pa.Array:
    """One list per row of (N, K)."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    lists = column.combine_chunks()
    return np.asarray(lists.flatten().to_numpy()).reshape(len(lists), column.type.list_size)


def _digest(levels: Sequence[Level]) -> str:
    """Digest of the groups of some levels."""
    groups = [{"name": each.name, "of": each.of, "values": dict(each.values)} for each in levels]
    return hashlib.sha256(json.dumps(groups, sort_keys=True).encode()).hexdigest()[:20]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(found: pa.Table, bad: Any) -> str:
    i = int(bad.argmax())
    return f"store {found['store'][i]}, department {found['dept'][i]}"
