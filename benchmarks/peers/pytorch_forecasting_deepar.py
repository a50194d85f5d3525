"""DeepAR of pytorch-forecasting, with as many layers and cells as SageMaker's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer, seed_everything
from pytorch_forecasting import DeepAR, NormalDistributionLoss, TimeSeriesDataSet
from pytorch_forecasting.data import GroupNormalizer

from benchmarks.measure import PATHS, QUANTILES, Floats, Job, Outcome, answer, timed
from benchmarks.peers.lightning import QUIET

BATCH = 64


def run(job: Job) -> Outcome:
    seed_everything(job.seed)
    frame = job.history().fillna({"sales": 0.0})  # it takes no gaps
    frame["time"] = (frame["week"] - frame["week"].min()).dt.days // 7
    frame["series"] = frame["series"].astype(str)
    # The window after the cutoff must be there in its data; it holds no sales.
    last = frame.groupby("series", sort=False).tail(1)
    ahead = last.loc[last.index.repeat(job.horizon)].assign(sales=0.0)
    ahead["time"] += np.tile(np.arange(1, job.horizon + 1), len(last))
    n = len(last)
    epochs, batches = (1, 5) if job.quick else (40, 52)  # about one window a series an epoch

    def train() -> tuple[TimeSeriesDataSet, DeepAR]:
        data = TimeSeriesDataSet(
            frame,
            time_idx="time",
            target="sales",
            group_ids=["series"],
            static_categoricals=["store", "dept"],
            time_varying_unknown_reals=["sales"],
            max_encoder_length=52,
            min_encoder_length=12,
            max_prediction_length=job.horizon,
            target_normalizer=GroupNormalizer(groups=["series"]),
        )
        model = DeepAR.from_dataset(
            data, hidden_size=40, rnn_layers=2, learning_rate=1e-3, loss=NormalDistributionLoss()
        )
        trainer = Trainer(
            max_epochs=epochs, limit_train_batches=batches, gradient_clip_val=10.0, enable_checkpointing=False, **QUIET
        )
        trainer.fit(model, data.to_dataloader(train=True, batch_size=BATCH, num_workers=0))
        return data, model

    (data, model), train_cpu_s = timed(train)

    def forecast(paths: int) -> Floats:
        future = TimeSeriesDataSet.from_dataset(
            data, pd.concat([frame, ahead], ignore_index=True), predict=True, stop_randomization=True
        )
        loader = future.to_dataloader(train=False, batch_size=BATCH, num_workers=0)
        found = model.predict(
            loader,
            mode="quantiles",
            mode_kwargs={"quantiles": list(QUANTILES)},
            n_samples=paths,
            return_index=True,
            trainer_kwargs=dict(QUIET),  # predict writes into it
        )
        order = np.argsort(found.index["series"].astype(int).to_numpy())
        return found.output.numpy().astype(float).transpose(0, 2, 1)[order]

    forecasts = {paths: timed(lambda paths=paths: forecast(paths)) for paths in PATHS}
    return Outcome(
        quantiles=forecasts[PATHS[0]][0],
        train_cpu_s=train_cpu_s,
        windows=epochs * batches * BATCH,
        predict_cpu_s={paths: seconds for paths, (_, seconds) in forecasts.items()},
        series=n,
        settings={"max_encoder_length": 52, "hidden_size": 40, "batch_size": BATCH},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer(run, ("pytorch-forecasting", "torch"))
