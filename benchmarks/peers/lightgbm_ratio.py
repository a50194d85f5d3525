"""LightGBM on the ratio of sales to the holiday-aligned last year: one direct quantile model for all weeks ahead.

A row is a series, an origin and a step ahead. Its target is sales / reference at the target week, its features are what
was known at the origin. The reference of a week is made of weeks about a year before it, so it is known at the origin.
"""

from __future__ import annotations

import warnings

import lightgbm as lgb
import numpy as np
import pandas as pd

from benchmarks.measure import QUANTILES, Floats, Job, Outcome, answer, timed

SPANS = (1, 2, 4, 8, 13, 26)  # weeks before the origin that features average over
FIRST_ORIGIN = 64  # a year of reference and a quarter of ratios
EVERY = 3  # weeks between origins: neighbours say nearly the same
PARAMETERS = {
    "objective": "quantile",
    "learning_rate": 0.08,
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


def wide(frame: pd.DataFrame, value: str) -> Floats:
    """(N, T) on the calendar of the whole panel."""
    return frame.pivot(index="series", columns="week", values=value).to_numpy(float)


def features(ratio: Floats, reference: Floats, static: Floats, origin: int, horizon: int, week: int) -> Floats:
    """Rows (N * H, F) of one origin: columns 0 .. origin of `ratio` are all that is read of it."""
    known = ratio[:, : origin + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of a span without observations is NaN, as wanted
        levels = [np.nanmean(known[:, -span:], axis=1) for span in SPANS]
        spread = np.nanstd(known[:, -26:], axis=1)
    everyone = np.nanmean(known[:, -4:])
    size = np.log(np.nanmean(reference[:, max(origin - 25, 0) : origin + 1], axis=1))
    series = np.column_stack([*levels, spread, size, np.full(len(ratio), everyone), static])
    step = np.tile(np.arange(1, horizon + 1), len(ratio))
    ahead = reference[:, origin + 1 : origin + 1 + horizon]
    calendar = (week + origin + step) % 52
    return np.column_stack(
        [np.repeat(series, horizon, axis=0), step, calendar, np.log(ahead.ravel()) - np.repeat(size, horizon)]
    )


def run(job: Job) -> Outcome:
    history, frame = job.history(), pd.read_parquet(job.reference)
    known = history["week"].nunique()
    sales, reference = wide(history, "sales"), wide(frame, "reference")
    static = job.static()
    codes = static[["store", "dept"]].to_numpy(float)
    week = frame["week"].min().isocalendar().week
    n, horizon = len(sales), job.horizon
    ratio = np.clip(sales / reference[:, :known], -5, 5)
    rounds = 10 if job.quick else 100

    def train() -> list[lgb.Booster]:
        rows, target, weight = [], [], []
        for origin in reversed(range(known - 2, FIRST_ORIGIN - 1, -EVERY)):
            steps = min(horizon, known - 1 - origin)
            y = ratio[:, origin + 1 : origin + 1 + steps].ravel()
            x = features(ratio, reference[:, :known], codes, origin, steps, week)
            use = ~np.isnan(y)
            rows.append(x[use])
            target.append(y[use])
            # The error that counts is in sales.
            weight.append(reference[:, origin + 1 : origin + 1 + steps].ravel()[use])
        shared = {**PARAMETERS, "seed": job.seed}
        data = lgb.Dataset(
            np.concatenate(rows),
            np.concatenate(target),
            weight=np.concatenate(weight),
            params=shared,
            free_raw_data=False,
        )
        return [lgb.train({**shared, "alpha": q}, data, rounds) for q in QUANTILES]

    boosters, train_cpu_s = timed(train)

    def forecast() -> Floats:
        x = features(ratio, reference, codes, known - 1, horizon, week)
        ratios = np.stack([b.predict(x, num_threads=1).reshape(n, horizon) for b in boosters], axis=1)
        return ratios * reference[:, None, known:]

    quantiles, seconds = timed(forecast)
    return Outcome(
        quantiles=quantiles,
        train_cpu_s=train_cpu_s,
        windows=None,
        predict_cpu_s={0: seconds},
        series=n,
        settings={**PARAMETERS, "rounds": rounds},
    )


if __name__ == "__main__":
    answer(run, ("lightgbm",))
