"""From verified predictions to the rows people query: dates, levels, totals, and reasons where there is no forecast."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecast_platform.levels import LEVELS, NAMES, SUMS, Level, names_of
from forecast_platform.models.combine import least_sales
from forecast_platform.weeks import WEEK

if TYPE_CHECKING:
    from forecast_platform.engines.predictions import ShardForecast
    from forecast_platform.history.shards import Sums


def forecast_rows(
    shards: Iterable[ShardForecast],
    cutoff: dt.date,
    quantiles: tuple[float, ...],
    columns: tuple[str, ...],
    sums: Mapping[str, float] | None = None,
    levels: Sequence[Level] = SUMS,
    *,
    lead_time: bool = False,
) -> pa.Table:
    """Rows of `forecasts` for one cutoff: every series, and totals by store, by department and over all.

    Totals come from summed sample paths, because quantiles do not add up. The paths of different series are joint ones
    (models/dependence.py). What their sums still lack is added by `sums`, which widens them about their median.

    Args:
        quantiles: levels, ascending; `columns` are their column names.
        sums: factor of the width by level (store, dept, total), see models/calibration.py; None: 1.
        levels: of the totals.
        lead_time: rows of `lead_time_demand` instead: the first weeks added up, one to all of them.
    """
    parts: list[pa.Table] = []
    totals: dict[str, Sums] = {}
    for shard in shards:
        names = LEVELS[0].named(shard.store, shard.dept)
        mean, q = (shard.mean.cumsum(axis=1), shard.lead_time) if lead_time else (shard.mean, shard.quantiles)
        parts.append(_rows(LEVELS[0].name, names, mean, q, cutoff, columns))
        totals = {name: totals[name] + part if name in totals else part for name, part in shard.sums.items()}
    if not totals:  # every series is closed
        none = np.zeros(0, dtype=np.str_)
        empty = np.zeros((0, 0)), np.zeros((0, len(columns), 0))
        parts.append(_rows(LEVELS[0].name, LEVELS[0].named(none, none), *empty, cutoff, columns))
    for level in levels if totals else ():
        paths = totals[level.name].values  # (G, S, H)
        paths = paths.cumsum(axis=2) if lead_time else paths
        q = np.moveaxis(np.quantile(paths, quantiles, axis=1, method="hazen"), 0, 1)
        if sums:
            median = np.median(paths, axis=1)[:, None]
            q = median + sums[level.name] * (q - median)
            q = np.maximum(q, least_sales(paths.reshape(len(paths), -1))[:, None, None])
        parts.append(_rows(level.name, names_of(totals[level.name].names), paths.mean(axis=1), q, cutoff, columns))
    rows = pa.concat_tables(parts)
    return rows.rename_columns({"horizon": "weeks"}) if lead_time else rows


def member_rows(levels: Sequence[Level], store: Sequence[str], dept: Sequence[str]) -> pa.Table:
    """Rows of `level_members` (level, store, dept, member): the group of each store or department, at each level by an
    attribute of theirs; also of those that have landed with a value and not sold yet.

    Args:
        store, dept: those that were forecast, or got a reason instead; each as often as it may be.
    """
    rows = []
    for level in levels:
        named = np.array(sorted({*(store if level.of == "store" else dept), *level.values}))
        for name, member in zip(named.tolist(), level.member_of(named).tolist(), strict=True):
            rows.append({"level": level.name, level.of: name, "member": member})
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in ("level", *NAMES)]))


def _rows(
    level: str,
    names: NDArray[np.str_],
    mean: NDArray[np.float64],
    quantiles: NDArray[np.float64],
    cutoff: dt.date,
    columns: tuple[str, ...],
) -> pa.Table:
    n, horizon = mean.shape
    week = np.datetime64(cutoff, "D")
    steps = np.arange(1, horizon + 1)

    def named(values: NDArray[np.str_]) -> pa.Array:
        return pa.array([v or None for v in np.repeat(values, horizon).tolist()], pa.string())

    return pa.table(
        {
            "forecast_week": pa.array(np.full(n * horizon, week), pa.date32()),
            "level": pa.repeat(level, n * horizon),
            **{name: named(names[:, i]) for i, name in enumerate(NAMES)},
            "target_week": pa.array(
                np.tile(week + steps * np.timedelta64(WEEK), n).astype("datetime64[D]"), pa.date32()
            ),
            "horizon": pa.array(np.tile(steps, n), pa.int32()),
            "mean": mean.ravel(),
            **{column: quantiles[:, i].ravel() for i, column in enumerate(columns)},
        }
    )
