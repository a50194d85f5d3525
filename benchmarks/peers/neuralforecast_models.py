"""DeepAR, NHITS and TFT of neuralforecast."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import DistributionLoss, MQLoss
from neuralforecast.models import NHITS, TFT, DeepAR

from benchmarks.measure import PATHS, QUANTILES, Floats, Job, Outcome, answer, timed
from benchmarks.peers.lightning import QUIET

STEPS = {"deepar": 450, "nhits": 150, "tft": 200}  # about one to two CPU minutes
CELLS = {"deepar": 40, "nhits": 512, "tft": 64}


def build(variant: str, common: dict[str, Any]) -> Any:
    if variant == "deepar":
        # As many layers and cells as SageMaker's, for speeds to be comparable; its own default is 128 cells.
        loss = DistributionLoss("StudentT", quantiles=list(QUANTILES), num_samples=PATHS[0])
        return DeepAR(input_size=52, lstm_hidden_size=CELLS["deepar"], trajectory_samples=PATHS[0], loss=loss, **common)
    loss = MQLoss(quantiles=list(QUANTILES))
    if variant == "nhits":
        return NHITS(input_size=52, loss=loss, **common)
    # Its own 128 cells and 1,024 windows a step see 200 windows a second and take 3 GB.
    return TFT(input_size=52, loss=loss, hidden_size=CELLS["tft"], windows_batch_size=256, **common)


def run(job: Job) -> Outcome:
    frame = job.history().rename(columns={"series": "unique_id", "week": "ds", "sales": "y"})
    frame = frame[["unique_id", "ds", "y"]].fillna({"y": 0.0})  # it takes no gaps
    n = frame["unique_id"].nunique()
    steps = 5 if job.quick else STEPS[job.variant]
    common = {
        "h": job.horizon,
        "max_steps": steps,
        "scaler_type": "robust",
        "start_padding_enabled": True,  # or short series are dropped
        "random_seed": job.seed,
        **QUIET,
    }
    model = build(job.variant, common)
    forecaster = NeuralForecast(models=[model], freq="W-FRI")
    _, train_cpu_s = timed(lambda: forecaster.fit(frame))

    def forecast(paths: int) -> Floats:
        if paths:
            forecaster.models[0].n_samples = paths
        out = forecaster.predict().sort_values(["unique_id", "ds"])
        names = [c for c in out.columns if c not in ("unique_id", "ds", type(model).__name__)]
        return out[names[-len(QUANTILES) :]].to_numpy(float).reshape(n, job.horizon, -1).transpose(0, 2, 1)

    samples = PATHS if job.variant == "deepar" else (0,)
    forecasts = {paths: timed(lambda paths=paths: forecast(paths)) for paths in samples}
    return Outcome(
        quantiles=np.ascontiguousarray(forecasts[samples[0]][0]),
        train_cpu_s=train_cpu_s,
        windows=steps * model.windows_batch_size,
        predict_cpu_s={paths: seconds for paths, (_, seconds) in forecasts.items()},
        series=n,
        settings={"max_steps": steps, "input_size": 52, "cells": CELLS[job.variant], "scaler_type": "robust"},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    answer(run, ("neuralforecast", "torch"))
