"""Rolling backtests: forecast from past cutoffs, score against what was sold.

The protocol: at each cutoff a model sees the weeks up to it and forecasts every series seen by then. Scored
are the series that are at least `min_weeks` grid weeks old at the cutoff and observed in the window. A
missing week inside a series' span counts as 0 (nothing was sold); weeks after its last row are not scored (it
closed).
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.models.metrics import Scores, check_quantiles, score

Floats = NDArray[np.float64]

# History up to the cutoff, horizon H, Q quantile levels -> quantile forecasts (N, Q, H).
Forecaster = Callable[[Panel, int, Sequence[float]], NDArray[Any]]

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class BacktestRefused(ValueError):
    """The data cannot answer what was asked; the message says which cutoffs they can."""


@dataclass(frozen=True)
class BacktestResult:
    """One model at one cutoff.

    Attributes:
        seconds, cpu_seconds: wall time and CPU time of this process (all its threads) in the model.
        forecasts: one row per series and week ahead, also for the series that are not scored: model, cutoff
            (date32), store, dept, target_week (date32), then p10, p20, ... (float64).
    """

    model: str
    cutoff: dt.date
    horizon: int
    scores: Scores
    seconds: float
    cpu_seconds: float
    forecasts: pa.Table


@dataclass(frozen=True)
class ScoredWindow:
    """What is scored after a cutoff: S series, in the weeks there are up to the horizon.

    Attributes:
        scored: which series of the panel, shape (N,).
        among_known: which series of panel.until(cutoff).
        y: their sales, 0 where nothing was sold, shape (S, weeks). mask: which cells count, same shape.
    """

    scored: NDArray[np.bool_]
    among_known: NDArray[np.bool_]
    y: Floats
    mask: NDArray[np.bool_]


def scored_window(panel: Panel, cutoff: dt.date, horizon: int, min_weeks: int) -> ScoredWindow:
    """What is scored after a cutoff, by the protocol above."""
    end = panel.position(cutoff) + 1
    seen = panel.observed[:, :end].any(axis=1)
    with_row = panel.observed if panel.filled is None else panel.observed & ~panel.filled
    scored = seen & (end - panel.first >= min_weeks) & with_row[:, end : end + horizon].any(axis=1)
    y = np.nan_to_num(panel.sales[scored, end : end + horizon])
    mask = np.arange(end, end + y.shape[1]) <= panel.last_row[scored][:, None]
    return ScoredWindow(scored, scored[seen], y, mask)


def backtest(
    panel: Panel,
    cutoffs: Sequence[dt.date],
    horizon: int,
    models: Mapping[str, Forecaster],
    quantiles: Sequence[float] = QUANTILES,
    min_weeks: int = 30,
    progress: Callable[[str], None] | None = None,
) -> list[BacktestResult]:
    """Forecast and score every model at every cutoff, in that order.

    A window that runs past the data is scored on the weeks there are, at least one.

    Args:
        panel: all the data; models are shown panel.until(cutoff) only, each its own copy.
        cutoffs: last weeks of history.
        horizon: weeks ahead.
        models: name -> forecaster.
        quantiles: ascending levels that hold 0.5; published as columns p1 .. p99, so whole percents.
        min_weeks: weeks from a series' first observation to the cutoff, both included, that make it count.
        progress: called with lines on what is being done.

    Raises:
        BacktestRefused: a cutoff is no week of the panel, or nothing follows it; no series can be scored.
        ValueError: a model returns a wrong shape, a non-finite value or quantiles that cross.
    """
    check_quantiles(quantiles)
    columns = [f"p{round(level * 100)}" for level in quantiles]
    if any(round(level * 100, 6) % 1 for level in quantiles):
        raise ValueError(f"quantiles become columns p1 .. p99: whole percents only; got {list(quantiles)}")
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; at least one week ahead is needed")
    for cutoff in cutoffs:
        _require_cutoff(panel, cutoff)
    report = progress or (lambda line: None)

    results = []
    for cutoff in cutoffs:
        window = scored_window(panel, cutoff, horizon, min_weeks)
        if not window.scored.any():
            raise BacktestRefused(
                f"nothing to score at {cutoff}: no series has {min_weeks} weeks by then and sales after it; the data "
                f"begin with the week of {panel.weeks[0]}, so give a later cutoff or a longer history"
            )
        past = panel.sales[window.scored, : panel.position(cutoff) + 1]
        for name, forecaster in models.items():
            history = panel.until(cutoff)
            report(f"{name} at {cutoff}: {len(history):,} series, {horizon} weeks ahead")
            wall, cpu = time.perf_counter(), time.process_time()
            forecast = forecaster(history, horizon, quantiles)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            history = panel.until(cutoff)  # the model may have changed its copy
            forecast = _checked(forecast, name, history, len(quantiles), horizon)
            scored_forecast = forecast[window.among_known, :, : window.y.shape[1]]
            scores = score(window.y, window.mask, scored_forecast, quantiles, past)
            table = _table(name, cutoff, history, forecast, columns)
            results.append(BacktestResult(name, cutoff, horizon, scores, wall, cpu, table))
            report(f"{name} at {cutoff}: WAPE {scores.wape:.4f}, wQL {scores.wql:.4f}, {wall:.1f} s")
    return results


def summary_table(results: Sequence[BacktestResult]) -> str:
    """The results as a plain text table, best WAPE first within a cutoff."""
    metrics = ["WAPE", "wQL", "cover80", "width80", "MASE", "bias", "series", "cells", "CPU s"]
    rows = [["cutoff", "model", *metrics]]
    for r in sorted(results, key=lambda r: (r.cutoff, math.isnan(r.scores.wape), r.scores.wape)):
        s = r.scores
        ratios = [f"{v:.4f}" for v in (s.wape, s.wql, s.coverage80, s.width80, s.mase)]
        counts = [f"{s.series:,}", f"{s.cells:,}", f"{r.cpu_seconds:.1f}"]
        rows.append([f"{r.cutoff}", r.model, *ratios, f"{s.bias:+.4f}", *counts])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    # Words to the left, numbers to the right.
    line = "  ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(line.format(*row) for row in rows)


def to_json(results: Sequence[BacktestResult]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """{model: {cutoff: {metric: number}}}, fit for json.dumps: a metric that is undefined is None."""
    out: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for r in results:
        numbers = asdict(r.scores)
        numbers |= {"horizon": r.horizon, "seconds": r.seconds, "cpu_seconds": r.cpu_seconds}
        out.setdefault(r.model, {})[r.cutoff.isoformat()] = {
            name: None if math.isnan(value) else value for name, value in numbers.items()
        }
    return out


def _require_cutoff(panel: Panel, cutoff: dt.date) -> None:
    weeks = panel.weeks
    first, last = weeks[0].astype(dt.date), weeks[-1].astype(dt.date)
    off = (cutoff - first).days % 7
    if off:
        near = cutoff - dt.timedelta(days=off if off < 4 else off - 7)
        raise BacktestRefused(
            f"cutoff {cutoff} is a {cutoff:%A}, but weeks end on {first:%A} here; the nearest is {near}"
        )
    if first == last:
        raise BacktestRefused(f"the data hold one week, {first}; there is none after a cutoff to score")
    if not first <= cutoff < last:
        raise BacktestRefused(
            f"cutoff {cutoff} must lie from {first} to {last - dt.timedelta(days=7)}: "
            f"the panel holds {first} .. {last}, and a week after the cutoff is needed to score"
        )


def _checked(forecast: Any, model: str, history: Panel, n_quantiles: int, horizon: int) -> Floats:
    """The forecast as float64 (N, Q, H); ValueError naming the model and the first series at fault."""
    array = np.asarray(forecast, np.float64)
    want = (len(history), n_quantiles, horizon)
    if array.shape != want:
        raise ValueError(f"model {model!r} returned shape {array.shape}; want (series, quantiles, horizon) = {want}")
    not_finite, crossing = ~np.isfinite(array), np.diff(array, axis=1) < -1e-6
    for cells, fault in ((not_finite, "non-finite values"), (crossing, "crossing quantiles")):
        bad = np.flatnonzero(cells.any(axis=(1, 2)))
        if bad.size:
            raise ValueError(
                f"model {model!r} returned {fault} for {bad.size:,} of {len(history):,} series, "
                f"first store {history.store[bad[0]]}, dept {history.dept[bad[0]]}"
            )
    return array


def _table(model: str, cutoff: dt.date, history: Panel, forecast: Floats, columns: Sequence[str]) -> pa.Table:
    n, _, horizon = forecast.shape
    target = history.weeks[-1] + 7 * np.arange(1, horizon + 1)
    return pa.table({
        "model": pa.repeat(model, n * horizon),
        "cutoff": pa.repeat(pa.scalar(cutoff, pa.date32()), n * horizon),
        "store": pa.array(np.repeat(history.store, horizon)),
        "dept": pa.array(np.repeat(history.dept, horizon)),
        "target_week": pa.array(np.tile(target, n)),
        **{column: pa.array(forecast[:, i].ravel()) for i, column in enumerate(columns)},
    })  # fmt: skip
