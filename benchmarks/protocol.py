"""The protocol: which series and weeks count, what every model is shown, and how its forecasts are scored.

A series is a store and department on a weekly grid, from its first week on. Forecasts are 12 weeks ahead, with the
quantiles .1 .. .9. Models are trained on the series at least 30 weeks old at the cutoff. Of these, the ones observed
after the cutoff are scored. A missing week inside a series' span counts as 0; weeks after its last observation are not
scored.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.measure import COLUMNS, QUANTILES, Floats
from forecast_platform.history.panel import Panel
from forecast_platform.models.backtest import Forecaster, backtest
from forecast_platform.models.last_year.reference import last_year
from forecast_platform.models.metrics import wape, weighted_quantile_loss

CUTOFFS = ("2012-08-03", "2011-11-04")  # the second window holds Thanksgiving and Christmas
HORIZON = 12
MIN_WEEKS = 30


def sales_folder(root: Path) -> Path:
    """The folder in which to look for the sales, given the root of a checkout."""
    return Path(os.environ.get("FORECAST_WALMART_DIR") or root.parent / "shared" / "data" / "walmart")


def sales_file(folder: Path) -> Path | None:
    """The file of sales of Kaggle's Walmart competition in a folder, packed or not; None where there is none."""
    return next((p for p in (folder / "sales.csv.gz", folder / "sales.csv") if p.exists()), None)


def read_sales(path: Path) -> pd.DataFrame:
    """Columns store, dept (str), week, sales."""
    raw = pd.read_csv(path, dtype={"Store": str, "Dept": str})
    day_first = raw["Date"].str.contains("/").any()
    week = pd.to_datetime(raw["Date"], format="%d/%m/%Y" if day_first else "%Y-%m-%d")
    return pd.DataFrame({"store": raw["Store"], "dept": raw["Dept"], "week": week, "sales": raw["Weekly_Sales"]})


def to_panel(sales: pd.DataFrame) -> Panel:
    columns = {name: pa.array(sales[name].tolist()) for name in ("store", "dept", "sales")}
    return Panel.from_table(pa.table({**columns, "week": sales["week"].to_numpy().astype("datetime64[D]")}))


def old_enough(panel: Panel, cutoff: dt.date) -> Panel:
    """What models are trained on: the history up to the cutoff of series of at least MIN_WEEKS weeks."""
    history = panel.until(cutoff)
    return history.select(len(history.weeks) - history.first >= MIN_WEEKS)


def export(panel: Panel, cutoff: dt.date, panel_path: Path, reference_path: Path) -> None:
    """Write the history at a cutoff for the peers, and last year's aligned weeks for HORIZON weeks more.

    Both have columns series, store, dept, week; the first sales (NaN where not observed, each series from its first
    week on), the second reference (NaN in the first year). Nothing after the cutoff goes into either.
    """
    known = old_enough(panel, cutoff)
    # The reference shares noise with the department, so it is made from all series, the young ones too.
    everyone = panel.until(cutoff)
    reference = last_year(everyone, HORIZON)[len(everyone.weeks) - everyone.first >= MIN_WEEKS]
    _long(known, known.sales, "sales", known.first).to_parquet(panel_path, index=False)
    _long(known, reference, "reference", np.zeros(len(known), np.int64)).to_parquet(reference_path, index=False)


def _long(panel: Panel, values: Floats, name: str, first: NDArray[np.int64]) -> pd.DataFrame:
    """One row a series and week, from each series' first position on."""
    width = values.shape[1]
    weeks = (panel.weeks[0] + 7 * np.arange(width)).astype("datetime64[ns]")
    i, t = np.nonzero(np.arange(width) >= first[:, None])
    columns = {"series": i, "store": panel.store[i], "dept": panel.dept[i], "week": weeks[t], name: values[i, t]}
    return pd.DataFrame(columns)


def score(panel: Panel, cutoff: dt.date, forecasts: pd.DataFrame) -> dict[str, float]:
    """The project's own metrics of a model's rows (store, dept, target_week, p10 .. p90). A missing row counts as 0."""

    def from_rows(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
        weeks = pd.DatetimeIndex((history.weeks[-1] + 7 * np.arange(1, horizon + 1)).astype("datetime64[ns]"))
        keys = pd.MultiIndex.from_arrays([
            np.repeat(history.store, horizon).astype(object),
            np.repeat(history.dept, horizon).astype(object),
            np.tile(weeks, len(history)),
        ])  # fmt: skip
        rows = forecasts.set_index([forecasts["store"], forecasts["dept"], pd.to_datetime(forecasts["target_week"])])
        values = rows[list(COLUMNS)].reindex(keys).fillna(0.0).to_numpy(float)
        return values.reshape(len(history), horizon, len(quantiles)).transpose(0, 2, 1)

    [result] = backtest(panel, [cutoff], HORIZON, {"peer": from_rows}, QUANTILES, MIN_WEEKS)
    return {name: float(value) for name, value in asdict(result.scores).items()}


def independent_score(sales: pd.DataFrame, cutoff: dt.date, forecasts: pd.DataFrame) -> dict[str, float]:
    """A second implementation of the protocol, with tables in place of arrays, so that a mistake in either shows."""
    cut, week = pd.Timestamp(cutoff), pd.Timedelta(days=7)
    key = ["store", "dept"]
    span = sales.groupby(key)["week"].agg(first="min", last="max")
    ahead = sales[(sales["week"] > cut) & (sales["week"] <= cut + HORIZON * week)]
    span = span[span["first"] <= cut - (MIN_WEEKS - 1) * week]
    span = span.loc[span.index.intersection(pd.MultiIndex.from_frame(ahead[key].drop_duplicates()))]
    weeks = pd.DataFrame({"week": [cut + i * week for i in range(1, HORIZON + 1)]})
    cells = span.reset_index().merge(weeks, how="cross")
    cells = cells[cells["week"] <= cells["last"]].merge(sales, how="left", on=[*key, "week"])
    rows = forecasts.assign(week=pd.to_datetime(forecasts["target_week"]))[[*key, "week", *COLUMNS]]
    cells = cells.merge(rows, how="left", on=[*key, "week"]).fillna({"sales": 0.0, **dict.fromkeys(COLUMNS, 0.0)})
    y, volume = cells["sales"], cells["sales"].abs().sum()
    pinball = [
        ((y - cells[c]) * q).where(y >= cells[c], (cells[c] - y) * (1 - q))
        for c, q in zip(COLUMNS, QUANTILES, strict=True)
    ]
    errors = cells.assign(error=(y - cells["p50"]).abs()).groupby(key)["error"].mean()
    before = sales[sales["week"] <= cut].set_index([*key, "week"])["sales"].unstack("week")
    scaled = []
    for name, error in errors.items():
        # From the first week on, a missing one as 0.
        x = before.loc[name, span.loc[name, "first"] : cut].fillna(0.0).reset_index(drop=True)
        step = x.diff(52 if len(x) > 53 else 1).abs().mean()
        scaled += [error / step] if step > 0 else []
    return {
        "wape": (y - cells["p50"]).abs().sum() / volume,
        "wql": float(np.mean([2 * part.sum() / volume for part in pinball])),
        "coverage80": y.between(cells["p10"], cells["p90"]).mean(),
        "mase": float(np.median(scaled)),
        "bias": (cells["p50"] - y).sum() / volume,
        "series": len(span),
        "cells": len(cells),
    }


def checked_score(sales: pd.DataFrame, panel: Panel, cutoff: dt.date, forecasts: pd.DataFrame) -> dict[str, float]:
    """`score`, checked against `independent_score`.

    Raises:
        AssertionError: they differ.
    """
    scores, again = score(panel, cutoff, forecasts), independent_score(sales, cutoff, forecasts)
    for name, value in again.items():
        if not np.isclose(scores[name], value, rtol=1e-6, atol=1e-9):
            raise AssertionError(f"{name} is {scores[name]} by the project's metrics and {value} by the check")
    return scores


# fev-bench (arXiv 2509.26468), task walmart: 39 weeks ahead, one window, and each series ends in its own last week.
FEV_HORIZON = 39
FEV_MIN_OBSERVED = 2 * FEV_HORIZON + 1
FEV_SLACK = 7  # weeks; 39 and 7 are as far as the aligned reference reaches


def fev_task(panel: Panel) -> tuple[Panel, NDArray[np.int64], Floats]:
    """The task's series without their last FEV_HORIZON weeks, the position of the week before those, and those weeks.

    Series end in different weeks of the calendar, and so do their windows. No week to be forecast is left in the panel,
    not even in a series whose window lies before the other series' cutoff.

    Returns:
        History; positions (N,), in whose weeks nothing need be observed; truth (N, FEV_HORIZON), NaN in gaps.
    """
    panel = panel.select(panel.observed.sum(axis=1) >= FEV_MIN_OBSERVED)
    window = panel.last[:, None] + np.arange(1 - FEV_HORIZON, 1)
    rows = np.arange(len(panel))[:, None]
    truth = panel.sales[rows, window]
    sales = panel.sales.copy()
    sales[rows, window] = np.nan
    return Panel(panel.store, panel.dept, panel.weeks, sales), panel.last - FEV_HORIZON, truth


def fev_origins(cut: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Forecast origins (positions) -> the series forecast from each.

    An origin for each distinct last week would mean a training each. So a series may be forecast from up to FEV_SLACK
    weeks before its window, over a longer horizon: that uses less data than is allowed, never more. The latest origin,
    that of nearly all series, has no slack.
    """
    origins: dict[int, NDArray[np.int64]] = {}
    end = cut.max()
    origins[int(end)] = np.flatnonzero(cut == end)
    left = np.unique(cut[cut < end])
    while left.size:
        served = (cut >= left[0]) & (cut <= left[0] + FEV_SLACK) & (cut < end)
        origins[int(left[0])] = np.flatnonzero(served)
        left = left[left > left[0] + FEV_SLACK]
    return origins


def fev_forecast(history: Panel, cut: NDArray[np.int64], forecaster: Forecaster) -> Floats:
    """Quantile forecasts (N, Q, FEV_HORIZON) of each series' own window.

    Args:
        cut: position of the last week before each series' window.
    """
    out = np.full((len(history), len(QUANTILES), FEV_HORIZON), np.nan)
    for origin, members in fev_origins(cut).items():
        known = history.until(history.weeks[origin].astype(dt.date))
        gap = cut[members] - origin
        forecast = np.asarray(forecaster(known, FEV_HORIZON + int(gap.max()), QUANTILES))
        at = {key: i for i, key in enumerate(zip(known.store, known.dept, strict=True))}
        for i, skip in zip(members, gap, strict=True):
            row = at[history.store[i], history.dept[i]]
            out[i] = forecast[row, :, skip : skip + FEV_HORIZON]
    return out


def fev_score(truth: Floats, forecast: Floats) -> dict[str, Any]:
    mask = ~np.isnan(truth)
    y = np.nan_to_num(truth)
    return {
        "wape": wape(y, forecast[:, QUANTILES.index(0.5)], mask),
        "wql": weighted_quantile_loss(y, forecast, QUANTILES, mask),
        "series": len(truth),
        "cells": int(mask.sum()),
    }


def last_value(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """Each series' last observation at every quantile and week ahead."""
    last = history.sales[np.arange(len(history)), history.last]
    return np.broadcast_to(last[:, None, None], (len(last), len(quantiles), horizon))
