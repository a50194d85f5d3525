"""Theta with a season of 52 weeks and non-seasonal AutoETS, of statsforecast: a model a series, no training apart."""

from __future__ import annotations

import numpy as np
from statsforecast import StatsForecast
from statsforecast.models import AutoETS, Theta

from benchmarks.measure import QUANTILES, Floats, Job, Outcome, answer, timed


def run(job: Job) -> Outcome:
    frame = job.history().rename(columns={"series": "unique_id", "week": "ds", "sales": "y"})
    frame = frame[["unique_id", "ds", "y"]].fillna({"y": 0.0})  # it takes no gaps
    n = frame["unique_id"].nunique()
    # A year of 52 weeks is beyond AutoETS, which takes seasons up to 24.
    model = Theta(season_length=52, alias="m") if job.variant == "theta" else AutoETS(season_length=1, alias="m")
    levels = [20, 40, 60, 80]
    columns = [*(f"m-lo-{level}" for level in reversed(levels)), "m", *(f"m-hi-{level}" for level in levels)]

    def forecast() -> Floats:
        engine = StatsForecast(models=[model], freq="W-FRI", n_jobs=1)
        out = engine.forecast(df=frame, h=job.horizon, level=levels).sort_values(["unique_id", "ds"])
        return out[columns].to_numpy(float).reshape(n, job.horizon, len(QUANTILES)).transpose(0, 2, 1)

    np.random.seed(job.seed)
    quantiles, seconds = timed(forecast)
    return Outcome(
        quantiles=np.nan_to_num(quantiles),
        train_cpu_s=seconds,
        windows=None,
        predict_cpu_s={0: seconds},
        series=n,
        settings={"season_length": 52 if job.variant == "theta" else 1},
    )


if __name__ == "__main__":
    answer(run, ("statsforecast",))
