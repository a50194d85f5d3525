"""Ours, by the same protocol: what ships through the public command line, and the engine beside its peers.

| variant | what it is |
|---|---|
| backtest | `forecast backtest`: the shipped model, its target chosen before the cutoff, and the two baselines |
| plain | the engine with exactly SageMaker's defaults and no extension: like for like with GluonTS |
| network | the shipped network for the ratio to last year alone, timed |
| fev | the shipped model on fev-bench's task |
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import protocol
from benchmarks.measure import PATHS, QUANTILES, Floats, Job, Outcome, answer, timed
from forecast_platform import deepar
from forecast_platform.cli import main as command_line
from forecast_platform.deepar import sampling, training  # noqa: F401 - so that loading them counts as import
from forecast_platform.models.choose import shipped_forecaster
from forecast_platform.models.encoding import to_series_set
from forecast_platform.models.last_year.outlook import aligned_last_year
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.networks import training_set, with_epochs
from forecast_platform.models.registry import plans
from forecast_platform.models.target import RATIO, build_target
from forecast_platform.settings import Settings


def backtest(job: Job) -> Outcome:
    scores, rows = f"{job.out}.scores.json", f"{job.out}.all.parquet"
    words = ["backtest", "--data", job.data, "--preset", "walmart", "--cutoff", job.cutoff]
    words += ["--horizon", str(job.horizon), "--seed", str(job.seed), "--json", scores, "--forecasts", rows]
    command_line(words, standalone_mode=False)
    report = json.loads(Path(scores).read_text())
    mine = report["deepar"][job.cutoff]
    return Outcome(
        quantiles=None,
        train_cpu_s=mine["cpu_seconds"],  # choosing, training and forecasting in one figure
        windows=None,
        predict_cpu_s={},
        series=mine["series"],
        settings=report["hyperparameters"],
        extra={"command": " ".join(["forecast", *words[:1], "--data", "DATA", *words[3:-4]])},
    )


def plain(job: Job) -> Outcome:
    static = job.static()
    series = deepar.SeriesSet.from_arrays(
        start=static["week"].to_numpy("datetime64[s]"),
        targets=job.targets(),
        cat=static[["store", "dept"]].to_numpy(np.int64),
    )
    given = {"time_freq": "1W", "context_length": "12", "prediction_length": str(job.horizon)}
    # 100 epochs of a window a series: the budget of GluonTS's DeepAR.
    given |= {"epochs": "1" if job.quick else "100", "seed": str(job.seed)}
    return _train_and_predict(job, series, series, given)


def network(job: Job) -> Outcome:
    sales = protocol.read_sales(_sales(job))
    history = protocol.old_enough(protocol.to_panel(sales), dt.date.fromisoformat(job.cutoff))
    given = plans(Settings(preset="walmart"), job.horizon, job.seed)[RATIO]
    given = with_epochs(RATIO, given, history)
    target = build_target(history, job.horizon, RATIO)
    series, categories = training_set(given, target)
    outcome = _train_and_predict(job, series, to_series_set(target.panel, categories, target.features), given)
    return replace(outcome, quantiles=None)  # of the ratio, not of sales


def _train_and_predict(job: Job, train: deepar.SeriesSet, everyone: deepar.SeriesSet, given: dict[str, str]) -> Outcome:
    levels = tuple(f"{q:g}" for q in QUANTILES)
    # A loop is compiled when a process first calls it, once for all processes after it: no part of what is measured.
    first = deepar.train(train, deepar.HyperParameters.parse(given | {"epochs": "1"}))
    deepar.predict(first, everyone.take(range(8)), PATHS[0], levels, job.seed, output_types=("quantiles",))
    model, train_cpu_s = timed(lambda: deepar.train(train, deepar.HyperParameters.parse(given)))

    def forecast(paths: int) -> Floats:
        found = deepar.predict(model, everyone, paths, levels, job.seed, output_types=("quantiles",))
        assert found.quantiles is not None
        return found.quantiles.astype(np.float64)

    forecasts = {paths: timed(lambda paths=paths: forecast(paths)) for paths in PATHS}  # type: ignore[misc]
    return Outcome(
        quantiles=forecasts[PATHS[0]][0],
        train_cpu_s=train_cpu_s,
        windows=model.train_windows,
        predict_cpu_s={paths: seconds for paths, (_, seconds) in forecasts.items()},
        series=len(everyone),
        settings=given,
        extra={"version": model.version},
    )


def fev(job: Job) -> Outcome:
    panel = protocol.to_panel(protocol.read_sales(_sales(job)))
    history, cut, truth = protocol.fev_task(panel)
    candidates = plans(Settings(preset="walmart"), protocol.FEV_HORIZON, job.seed)
    models = {
        "last_value": protocol.last_value,
        "seasonal_naive": seasonal_naive,
        "aligned_last_year": aligned_last_year,
        "deepar": shipped_forecaster(candidates),
    }
    scores, seconds = {}, 0.0
    for name, forecaster in models.items():
        forecast, seconds = timed(lambda f=forecaster: protocol.fev_forecast(history, cut, f))  # type: ignore[misc]
        scores[name] = protocol.fev_score(truth, forecast)
    origins = {str(panel.weeks[o]): len(m) for o, m in protocol.fev_origins(cut).items()}
    return Outcome(None, seconds, None, {}, len(truth), candidates, {"scores": scores, "origins": origins})


def _sales(job: Job) -> Path:
    path = protocol.sales_file(Path(job.data))
    assert path is not None
    return path


if __name__ == "__main__":
    torch.set_num_threads(1)
    RUN = {"backtest": backtest, "plain": plain, "network": network, "fev": fev}
    answer(lambda job: RUN[job.variant](job), ("forecast-platform", "torch", "numpy"))
