"""DeepAR of GluonTS: with its own defaults, and with those of SageMaker's DeepAR."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from gluonts.torch.model.deepar import DeepAREstimator
from lightning.pytorch import seed_everything

from benchmarks.measure import PATHS, QUANTILES, Floats, Job, Outcome, answer, timed
from benchmarks.peers.lightning import QUIET


def run(job: Job) -> Outcome:
    seed_everything(job.seed)
    static = job.static()
    data = [
        # A gap stays NaN: GluonTS masks it, as ours does.
        {"start": pd.Period(week, "W-FRI"), "target": target, "feat_static_cat": [store, dept]}
        for target, week, store, dept in zip(
            job.targets(), static["week"], static["store"], static["dept"], strict=True
        )
    ]
    settings: dict[str, object] = {"batch_size": 32, "num_batches_per_epoch": 50}
    if job.variant == "sagemaker":
        # An epoch is one window a series, as in ours.
        settings = {
            "context_length": 12,
            "batch_size": 128,
            "num_batches_per_epoch": -(-len(data) // 128),
            "num_feat_static_cat": 2,
            "cardinality": [static["store"].nunique(), static["dept"].nunique()],
            "embedding_dimension": [10, 10],
        }
    epochs = 1 if job.quick else 100  # GluonTS's default
    estimator = DeepAREstimator(
        freq="W-FRI", prediction_length=job.horizon, **settings, trainer_kwargs={"max_epochs": epochs, **QUIET}
    )
    predictor, train_cpu_s = timed(lambda: estimator.train(data))

    def forecast(paths: int) -> Floats:
        predictor.prediction_net.model.num_parallel_samples = paths
        return np.array([[f.quantile(q) for q in QUANTILES] for f in predictor.predict(data)])

    torch.manual_seed(job.seed)
    forecasts = {paths: timed(lambda paths=paths: forecast(paths)) for paths in PATHS}
    return Outcome(
        quantiles=forecasts[PATHS[0]][0],
        train_cpu_s=train_cpu_s,
        windows=epochs * settings["num_batches_per_epoch"] * settings["batch_size"],
        predict_cpu_s={paths: seconds for paths, (_, seconds) in forecasts.items()},
        series=len(data),
        settings={**settings, "max_epochs": epochs},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer(run, ("gluonts", "torch"))
