"""From verified predictions to the rows people query: dates, levels, totals, and reasons where there is no forecast."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from forecast_platform.history.shards import Sums
from forecast_platform.levels import KEYS, LEVELS, NAMES, SUMS, Level, names_of
from forecast_platform.models.combine import least_sales
from forecast_platform.weeks import WEEK

# Series, or groups with their sample paths, whose rows are made at once: tens of megabytes.
_AT_ONCE, _GROUPS_AT_ONCE = 10_000, 1_000

# NAMES of N groups (absent: null), and N * H values each of the mean and the quantiles.
_Found = tuple[Mapping[str, pa.Array], pa.Array, list[pa.Array]]


def forecast_rows(
    sums: Mapping[str, Sums],
    series: Iterable[pa.Table],
    cutoff: dt.date,
    quantiles: tuple[float, ...],
    columns: tuple[str, ...],
    widths: Mapping[str, float] | None = None,
    levels: Sequence[Level] = SUMS,
    *,
    lead_time: bool = False,
) -> Iterator[pa.Table]:
    """Rows of `forecasts` for one cutoff, some at a time, in the order of its key: every series, and totals by store,
    by department and over all.

    Totals come from summed sample paths, because quantiles do not add up. The paths of different series are joint ones
    (models/dependence.py). Where intervals of the sums are still too narrow, `widths` widens them about their median.

    Args:
        sums: of the sample paths, by level, see Predictions.sums.
        series: store, dept, mean and the quantiles, ascending, see Predictions.forecasts.
        quantiles: levels, ascending; `columns` are their column names.
        widths: factor of the width by level (store, dept, total), see models/calibration.py; None: 1.
        levels: of the totals.
        lead_time: rows of `lead_time_demand` instead: the first weeks added up, one to all of them. The quantiles of
            `series` are then those of the lead-time demand.
    """
    ahead = "weeks" if lead_time else "horizon"
    for level in sorted((LEVELS[0], *levels), key=lambda each: each.name):
        if level.name == LEVELS[0].name:
            for names, mean, found in _of_series(series, lead_time):
                yield _rows(level.name, names, mean, found, cutoff, columns, ahead)
        elif sums:  # else every series is closed
            names, mean, found = _of_sums(
                sums[level.name], quantiles, widths[level.name] if widths else None, lead_time
            )
            yield _rows(level.name, names, mean, found, cutoff, columns, ahead)


def _of_series(series: Iterable[pa.Table], lead_time: bool) -> Iterator[_Found]:
    for shard in series:
        for part in shard.combine_chunks().to_batches(_AT_ONCE):
            mean, *quantiles = (part[name].flatten() for name in part.schema.names[len(KEYS) :])
            if lead_time:
                mean = pa.array(mean.to_numpy().reshape(len(part), -1).cumsum(axis=1).ravel())
            yield {name: part[name] for name in KEYS}, mean, quantiles


def _of_sums(total: Sums, quantiles: tuple[float, ...], width: float | None, lead_time: bool) -> _Found:
    named = names_of(total.names)
    order, mean, found = np.lexsort(named.T[::-1]), [], []
    for start in range(0, len(order), _GROUPS_AT_ONCE):
        at = order[start : start + _GROUPS_AT_ONCE]
        paths = Sums(total.names[at], total.whole[at], total.rest[at]).values  # (G, S, H)
        paths = paths.cumsum(axis=2) if lead_time else paths
        q = np.quantile(paths, quantiles, axis=1, method="hazen")  # (Q, G, H)
        if width is not None:
            median = np.median(paths, axis=1)
            q = np.maximum(median + width * (q - median), least_sales(paths.reshape(len(paths), -1))[:, None])
        mean.append(paths.mean(axis=1))
        found.append(q)
    names = {name: pa.array([v or None for v in named[order, i].tolist()], pa.string()) for i, name in enumerate(NAMES)}
    return names, pa.array(np.concatenate(mean).ravel()), [pa.array(q.ravel()) for q in np.concatenate(found, axis=1)]


def member_rows(levels: Sequence[Level], store: Sequence[str], dept: Sequence[str]) -> pa.Table:
    """Rows of `level_members` (level, store, dept, member): the group of each store or department at each level by an
    attribute, also of those whose attribute has landed but that have not sold yet.

    Args:
        store, dept: those that were forecast, or got a reason instead; a name may be repeated.
    """
    rows = []
    for level in levels:
        named = np.array(sorted({*(store if level.of == "store" else dept), *level.values}))
        for name, member in zip(named.tolist(), level.member_of(named).tolist(), strict=True):
            rows.append({"level": level.name, level.of: name, "member": member})
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in ("level", *NAMES)]))


def probability_above(value: float, known: Sequence[float], quantiles: Sequence[float]) -> float:
    """The probability that more than a value is sold: straight between the published quantiles. Beyond the outermost no
    more is known: with p10 .. p90, 0.9 means 0.9 or more.

    Args:
        known: values of the quantiles, ascending. quantiles: their levels.
    """
    at = sum(each <= value for each in known)
    if at in (0, len(known)):
        return float(1 - quantiles[min(at, len(known) - 1)])
    part = (value - known[at - 1]) / (known[at] - known[at - 1])
    return float(1 - quantiles[at - 1] - part * (quantiles[at] - quantiles[at - 1]))


def _rows(
    level: str,
    names: Mapping[str, pa.Array],
    mean: pa.Array,
    quantiles: Sequence[pa.Array],
    cutoff: dt.date,
    columns: tuple[str, ...],
    ahead: str,
) -> pa.Table:
    """Rows of the N groups of `names`, from N * H values each of the mean and the quantiles."""
    n = len(next(iter(names.values())))
    horizon, week = len(mean) // n, np.datetime64(cutoff, "D")
    steps = np.tile(np.arange(1, horizon + 1, dtype=np.int32), n)
    group = pa.array(np.repeat(np.arange(n), horizon))
    return pa.table(
        {
            "forecast_week": pa.repeat(pa.scalar(cutoff, pa.date32()), len(mean)),
            "level": pa.repeat(level, len(mean)),
            **{c: names[c].take(group) if c in names else pa.nulls(len(mean), pa.string()) for c in NAMES},
            "target_week": pa.array((week + steps * np.timedelta64(WEEK)).astype("datetime64[D]"), pa.date32()),
            ahead: steps,
            "mean": mean,
            **dict(zip(columns, quantiles, strict=True)),
        }
    )
