"""LightGBM on the cases that the ratio's networks are trained on, to see what it would add to them.

A row is a series, an origin (a past week) and a week ahead. Its target is the ratio to the outlook as of the origin;
its features are ratios before the origin. Absolute errors are weighted by the sales that a ratio of 1 stands for.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Floats
from forecast_platform.history.panel import Panel
from forecast_platform.models.target import RATIO, Target, build_target

SPANS = (1, 2, 4, 8, 13, 26)  # weeks before the origin that features average over
ROWS, ROUNDS = 400_000, 150
PARAMETERS = {
    "objective": "l1",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 200,
    "max_bin": 63,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "num_threads": 1,
    "verbose": -1,
    "deterministic": True,
}


def median(history: Panel, horizon: int, seed: int) -> Floats:
    """The forecast of sales in the weeks after the history, shape (N, horizon)."""
    import lightgbm as lgb  # of the extra trees

    target = build_target(history, horizon, RATIO)
    codes = np.stack([np.unique(names, return_inverse=True)[1] for names in (history.store, history.dept)], axis=1)
    rng = np.random.default_rng(seed)
    cases = target.cases()
    part = min(1.0, ROWS / sum(case.sales[:, -horizon:].size for case in cases))
    position = {name: i for i, name in enumerate(zip(history.store.tolist(), history.dept.tolist(), strict=True))}
    rows = []
    for case in cases:
        rows_of_case = np.array([position[name] for name in zip(case.store.tolist(), case.dept.tolist(), strict=True)])
        x, weight = _features(case, horizon, codes[rows_of_case], target.offset[rows_of_case])
        y = case.sales[:, -horizon:].ravel()
        use = ~np.isnan(y) & (rng.random(len(y)) < part)
        rows.append((x[use], y[use], weight[use]))
    x, y, weight = (np.concatenate(each) for each in zip(*rows, strict=True))
    given: dict[str, Any] = {**PARAMETERS, "seed": seed}
    data = lgb.Dataset(x, y, weight=weight, categorical_feature=[0, 1], params=given)
    booster = lgb.train(given, data, ROUNDS)
    x, _ = _features(_ahead(target, horizon), horizon, codes, target.offset)
    ratio = np.asarray(booster.predict(x, num_threads=1)).reshape(len(history), horizon)
    return ratio * target.unit - target.offset[:, None]


def _ahead(target: Target, horizon: int) -> Panel:
    """The panel to forecast from in the form of a case: with the weeks ahead, as NaN."""
    panel = target.panel
    unknown = np.full((len(panel), horizon), np.nan)
    weeks = panel.weeks[0] + 7 * np.arange(len(panel.weeks) + horizon)
    return dataclasses.replace(panel, weeks=weeks, sales=np.concatenate([panel.sales, unknown], axis=1))


def _features(case: Panel, horizon: int, codes: NDArray[np.int64], usual: Floats) -> tuple[Floats, Floats]:
    """Rows (N * horizon, F) of a case, and their weights."""
    assert case.covariates is not None
    known = case.sales[:, :-horizon]
    size = case.covariates.values[-1][:, -horizon:].ravel()  # the feature target.SIZE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of weeks without observations is NaN, as wanted
        levels = [np.nanmean(known[:, -span:], axis=1) for span in SPANS]
        spread = np.nanstd(known, axis=1)
    series = np.column_stack([codes, *levels, spread, np.log(np.maximum(usual, 1e-3))])
    step = np.tile(np.arange(1, horizon + 1), len(case))
    weight = np.repeat(np.maximum(usual, 0), horizon) * (1.1 * np.exp(size) + 0.9)
    return np.column_stack([np.repeat(series, horizon, axis=0), step, size]), weight
