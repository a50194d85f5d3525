"""GluonTS's DeepAR beside ours, piece by piece: the same function, the same training step, and then other choices.

| variant | what it is |
|---|---|
| sagemaker | GluonTS told SageMaker's defaults, and its weights put into our network |
| steady | besides, its windows drawn and its learning rate kept as in ours |
| alike | besides, its inputs and its first weights as in ours |
| settled | besides, no dropout and one bias for two; the rate falls to 0, in ours as well, which is trained beside it |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from gluonts.time_feature import get_lags_for_frequency
from gluonts.torch.model.deepar import DeepAREstimator
from gluonts.transform.sampler import NumInstanceSampler
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from benchmarks.measure import PATHS, QUANTILES, Floats, Job, Outcome, answer, forecast_table, timed
from benchmarks.peers.lightning import QUIET
from forecast_platform import deepar
from forecast_platform.deepar.artifact import Model, network_shape
from forecast_platform.deepar.likelihoods import get_likelihood
from forecast_platform.deepar.network import DeepARNetwork, quiet_denormals
from forecast_platform.deepar.training import Adam, window_loss
from forecast_platform.deepar.windows import Standardiser, WindowBatch, WindowSource

CONTEXT, BATCH, EMBEDDING, CELLS = 12, 128, 10, 40
STEPS = 100
LAGS = tuple(get_lags_for_frequency("W-FRI"))
STUDENT_T = get_likelihood("student-t")


class LastEpoch(Callback):
    """Makes GluonTS keep the weights it ends with, instead of those of the epoch with the lowest loss."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.checkpoint_callback.best_model_path = ""


class OurStart(DeepAREstimator):
    """GluonTS's DeepAR with first weights drawn as ours are."""

    def create_lightning_module(self) -> Any:
        module = super().create_lightning_module()
        net = module.model
        with torch.no_grad():
            for table in net.embedder._embedders:
                table.weight.mul_(0.1)
            for name, p in net.rnn.named_parameters():
                if name.startswith("bias"):
                    p.zero_()
                if name.startswith("bias_ih"):
                    p[CELLS : 2 * CELLS] = 1.0  # an open forget gate
            for layer in net.param_proj.proj:
                layer.bias.zero_()
        return module


class Settled(OurStart):
    """Besides, one bias, and a learning rate that falls to 0 by half a cosine."""

    def create_lightning_module(self) -> Any:
        module = super().create_lightning_module()
        one_bias(module.model.rnn)
        steps = self.trainer_kwargs["max_epochs"] * self.num_batches_per_epoch

        def configure_optimizers() -> Any:
            adam = adam_of(module)
            rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: 0.5 * (1.0 + math.cos(math.pi * k / steps)))
            return {"optimizer": adam, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

        module.configure_optimizers = configure_optimizers
        return module


def one_bias(rnn: Any) -> None:
    """Of the two, whose sum would learn at twice the rate of one, leave the first."""
    for name, p in rnn.named_parameters():
        p.requires_grad_(not name.startswith("bias_hh"))


def adam_of(module: Any) -> torch.optim.Adam:
    """The optimiser with GluonTS's settings."""
    learned = [p for p in module.model.parameters() if p.requires_grad]
    return torch.optim.Adam(learned, lr=1e-3, weight_decay=1e-8)


@dataclass(frozen=True)
class Sales:
    """The series as GluonTS takes them, each divided by `unit`; `train` without, `known` with features of the horizon.

    The two are one where there are no such features.
    """

    train: list[dict[str, Any]]
    known: list[dict[str, Any]]
    cardinality: list[int]
    unit: float

    @classmethod
    def of(cls, job: Job, alike: bool) -> Sales:
        static, targets = job.static(), job.targets()
        # Ours standardises the log of the scale. A common unit centres it.
        logs = [np.log(size) for t in targets if (size := np.nanmean(np.abs(t))) > 0]
        unit = float(np.exp(np.mean(logs))) if alike else 1.0
        rows = zip(targets, static["week"], static["store"], static["dept"], strict=True)
        known = [
            {"start": pd.Period(week, "W-FRI"), "target": target / np.float32(unit), "feat_static_cat": [store, dept]}
            for target, week, store, dept in rows
        ]
        cardinality = [static["store"].nunique(), static["dept"].nunique()]
        if not alike:
            return cls(known, known, cardinality, unit)
        longest = max(len(t) for t in targets)
        flags = [_observed_lags(t, job.horizon, [lag for lag in LAGS if lag < longest]) for t in targets]
        train = [{**x, "feat_dynamic_real": f[:, : -job.horizon]} for x, f in zip(known, flags, strict=True)]
        known = [{**x, "feat_dynamic_real": f} for x, f in zip(known, flags, strict=True)]
        return cls(train, known, cardinality, unit)


def _observed_lags(target: Floats, horizon: int, lags: list[int]) -> Floats:
    """(L, T + horizon): whether each lag was observed, which GluonTS does not tell its network; a path's own were."""
    seen = np.concatenate([~np.isnan(target), np.ones(horizon, bool)])
    return np.stack([np.concatenate([np.zeros(lag), seen])[: len(seen)] for lag in lags]).astype(np.float32)


def estimator(job: Job, sales: Sales, batch: int = BATCH) -> DeepAREstimator:
    """GluonTS's DeepAR as the variant has it."""
    epochs = 1 if job.quick else 100
    given: dict[str, Any] = {}
    callbacks: list[Callback] = []
    if job.variant != "sagemaker":
        callbacks = [LastEpoch()]
        given["patience"] = 10**6  # epochs without a lower loss until the learning rate is halved
        given["train_sampler"] = NumInstanceSampler(N=1, min_past=1, min_future=job.horizon)
    if job.variant in ("alike", "settled"):
        flags = sales.train[0]["feat_dynamic_real"]
        given |= {"num_feat_dynamic_real": len(flags), "lags_seq": list(LAGS[: len(flags)])}
    if job.variant == "settled":
        given["dropout_rate"] = 0.0
    return {"alike": OurStart, "settled": Settled}.get(job.variant, DeepAREstimator)(
        freq="W-FRI",
        prediction_length=job.horizon,
        context_length=CONTEXT,
        batch_size=batch,
        num_batches_per_epoch=-(-len(sales.train) // BATCH),
        num_feat_static_cat=2,
        cardinality=sales.cardinality,
        embedding_dimension=[EMBEDDING, EMBEDDING],
        trainer_kwargs={"max_epochs": epochs, "callbacks": callbacks, **QUIET},
        **given,
    )


def ours_with(weights: dict[str, Tensor], cardinality: list[int], horizon: int) -> Model:
    """Our model with GluonTS's weights.

    GluonTS unrolls one step of context less than the scale is taken of. It has no flags of observed lags, and the log
    scale goes in as it is; its static real feature is always 0, and its two biases are as good as their sum.
    """
    given = {"time_freq": "1W", "context_length": str(CONTEXT - 1), "scaling_length": str(CONTEXT), "epochs": "1"}
    hp = deepar.HyperParameters.parse({**given, "prediction_length": str(horizon)})
    network = DeepARNetwork(network_shape(hp, tuple(cardinality), 0, LAGS)).eval()
    lags, embedded = len(LAGS), EMBEDDING * len(cardinality)
    static_real, log_scale = lags + embedded, lags + embedded + 1

    def gates(rows: Tensor) -> Tensor:
        i, f, candidate, o = rows.chunk(4)
        return torch.cat([i, f, o, candidate])

    with torch.no_grad():
        first = gates(weights["rnn.weight_ih_l0"])
        network.w_in[0][:, :lags] = first[:, :lags]
        network.w_in[0][:, 2 * lags :] = first[:, log_scale + 1 :]
        network.w_static.copy_(torch.cat([first[:, log_scale, None], first[:, lags:static_real]], 1))
        network.w_in[1].copy_(gates(weights["rnn.weight_ih_l1"]))
        for k in range(2):
            network.w_rec[k].copy_(gates(weights[f"rnn.weight_hh_l{k}"]))
            network.bias[k].copy_(gates(weights[f"rnn.bias_ih_l{k}"] + weights[f"rnn.bias_hh_l{k}"]))
            network.embedding[k].copy_(weights[f"embedder._embedders.{k}.weight"])
        network.w_out.copy_(torch.cat([weights[f"param_proj.proj.{k}.weight"] for k in range(3)]))
        network.b_out.copy_(torch.cat([weights[f"param_proj.proj.{k}.bias"] for k in range(3)]))
    none = np.zeros(0, np.float32)
    return Model(hp, tuple(cardinality), 0, LAGS, Standardiser(0.0, 1.0, none, none), [network])


@dataclass(frozen=True)
class Windows:
    """Each series' last window, cut by GluonTS and by ours."""

    theirs: dict[str, Tensor]
    ours: WindowBatch

    @classmethod
    def last(cls, job: Job, sales: Sales, series: deepar.SeriesSet) -> Windows:
        whole = estimator(job, sales, batch=len(sales.train))
        module = whole.create_lightning_module()
        cut = whole.create_validation_data_loader(whole.create_transformation().apply(sales.train, True), module)
        none = np.zeros(0, np.float32)
        source = WindowSource(
            series,
            time_freq="1W",
            lags=LAGS,
            context=CONTEXT - 1,
            horizon=job.horizon,
            scaled=True,
            moments=Standardiser(0.0, 1.0, none, none),
            scaling_length=CONTEXT,
        )
        starts = torch.from_numpy(series.lengths - job.horizon)
        return cls(next(iter(cut)), source.windows(torch.arange(len(series)), starts))

    def take(self, which: Tensor) -> Windows:
        b = self.ours
        assert b.cat is not None
        part = WindowBatch(
            b.varying[..., which], b.log_scale[which], b.scale[which], b.z[:, which], b.observed[:, which], b.cat[which]
        )
        return Windows({name: value[which] for name, value in self.theirs.items()}, part)

    def inputs(self) -> dict[str, Tensor]:
        """What GluonTS's network takes."""
        out = {name: value for name, value in self.theirs.items() if name != "future_observed_values"}
        return {k: v if k == "feat_static_cat" else v.float() for k, v in out.items()}


def same_function(module: Any, model: Model, windows: Windows) -> dict[str, float]:
    """The largest differences of the distributions that the two networks give with the same weights."""
    # Where the context is unobserved or all 0 each has a scale of its own: the batch's mean, the series' history.
    windows = windows.take(torch.nonzero(windows.theirs["past_target"][:, -CONTEXT:].abs().sum(1) > 0).view(-1))
    batch, [network] = windows.ours, model.networks
    with torch.no_grad():
        raw = network(batch.varying, network.static_features(batch.log_scale, batch.cat))
        ours = STUDENT_T.parameters(raw, batch.scale)
        theirs, *_ = module.model.unroll_lagged_rnn(**windows.inputs())
    differences = {
        name: float((mine.t() - its).abs().max())
        for name, mine, its in zip(("degrees of freedom", "location", "width"), ours, theirs, strict=True)
    }
    return {"windows": len(batch.scale), **differences}


def same_training(module: Any, windows: Windows, cardinality: list[int], horizon: int) -> dict[str, Any]:
    """Losses of STEPS steps from the same first weights on the same windows, without dropout."""
    whole = (windows.theirs["future_observed_values"].sum(1) == horizon) & (windows.ours.observed.sum(0) >= CONTEXT - 1)
    whole &= windows.ours.observed.sum(0) == CONTEXT - 1 + horizon
    windows = windows.take(torch.nonzero(whole).view(-1))
    [network] = ours_with(module.model.state_dict(), cardinality, horizon).networks
    module.model.rnn.dropout = 0.0
    one_bias(module.model.rnn)
    theirs = adam_of(module)
    parts = [p.requires_grad_() for p in network.train().parameters()]
    ours = [Adam(p.data) for p in parts]
    losses = []
    generator = torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        some = windows.take(torch.randint(len(windows.ours.scale), (BATCH,), generator=generator))
        batch = some.ours
        batch.varying[:, len(LAGS) : 2 * len(LAGS)] = 0.0
        loss = window_loss(network, STUDENT_T, batch, None)
        gradients = torch.autograd.grad(loss, parts)
        norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
        for adam, gradient in zip(ours, gradients, strict=True):
            adam.step(gradient * (10.0 / (norm + 1e-6)).clamp(max=1.0), 1e-3, step)
        theirs.zero_grad()
        given = {name: value.float() for name, value in some.theirs.items() if name == "future_observed_values"}
        its = module.model.loss(**some.inputs(), **given).mean()
        its.backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 10.0)
        theirs.step()
        # GluonTS's is of sales, ours of sales in units of the scale
        losses.append((float(loss.detach()), float(its.detach()) - float(batch.scale.log().mean())))
    return {"steps": STEPS, "first": losses[0], "last": losses[-1], "largest": max(abs(a - b) for a, b in losses)}


def run(job: Job) -> Outcome:
    seed_everything(job.seed)
    sales = Sales.of(job, job.variant in ("alike", "settled"))
    given = estimator(job, sales)
    shuffle = None if job.variant == "sagemaker" else len(sales.train)
    trained, train_cpu_s = timed(lambda: given.train_model(sales.train, shuffle_buffer_length=shuffle))
    predictor = trained.predictor

    def forecast() -> Floats:
        return np.array([[f.quantile(q) for q in QUANTILES] for f in predictor.predict(sales.known)])

    torch.manual_seed(job.seed)
    quantiles, seconds = timed(forecast)
    tables = {"theirs": forecast_table(job, quantiles * sales.unit)}
    static = job.static()
    series = deepar.SeriesSet.from_arrays(
        start=static["week"].to_numpy("datetime64[s]"),
        targets=job.targets(),
        cat=static[["store", "dept"]].to_numpy(np.int64),
    )

    def by_ours(model: Model) -> pd.DataFrame:
        levels = tuple(f"{q:g}" for q in QUANTILES)
        found = deepar.predict(model, series, PATHS[0], levels, job.seed, output_types=("quantiles",)).quantiles
        assert found is not None
        return forecast_table(job, found.astype(np.float64))

    extra = {}
    if job.variant == "sagemaker":
        model = ours_with(predictor.prediction_net.model.state_dict(), sales.cardinality, job.horizon)
        tables["ours with its weights"] = by_ours(model)
        windows = Windows.last(job, sales, series)
        extra["function"] = same_function(trained.trained_net.eval(), model, windows)
        fresh = estimator(job, sales).create_lightning_module()
        with quiet_denormals():
            extra["training"] = same_training(fresh, windows, sales.cardinality, job.horizon)
    if job.variant == "settled":
        told = {"time_freq": "1W", "context_length": str(CONTEXT), "prediction_length": str(job.horizon)}
        told |= {"epochs": str(given.trainer_kwargs["max_epochs"]), "seed": str(job.seed)}
        told |= {"dropout_rate": "0", "learning_rate_schedule": "cosine"}
        tables["ours told the same"] = by_ours(deepar.train(series, deepar.HyperParameters.parse(told)))
    rows = pd.concat([table.assign(model=name) for name, table in tables.items()])
    rows.to_parquet(f"{job.out}.all.parquet", index=False)
    return Outcome(None, train_cpu_s, None, {PATHS[0]: seconds}, len(sales.train), {}, extra)


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer(run, ("gluonts", "torch"))
