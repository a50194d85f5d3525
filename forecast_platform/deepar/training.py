"""Training: from a set of series to a model, with checkpoints, SageMaker's log lines and its test scores."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from forecast_platform.deepar.artifact import Model, network_shape, select_inputs
from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.likelihoods import Likelihood, get_likelihood
from forecast_platform.deepar.network import DeepARNetwork, NetworkShape, quiet_denormals
from forecast_platform.deepar.sampling import predict
from forecast_platform.deepar.series import SeriesSet, lags_for
from forecast_platform.deepar.windows import (
    Standardiser,
    WindowBatch,
    WindowSource,
    check_training_data,
    forecast_starts,
)

Progress = Callable[[int, int, dict[str, float]], None]
Log = Callable[[str], None]

WINDOWS_AHEAD = 512  # windows cut together: the forty torch calls of a cut are the same for one batch or several
_CHECKPOINT = "checkpoint.safetensors"
_FORMAT = 2  # of a state's tensors; one of another format is not resumed


def train(
    series: SeriesSet,
    hp: HyperParameters,
    test: SeriesSet | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    log: Log | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 10,
) -> Model:
    """Train DeepAR. Same series, seed and machine give the same weights.

    Args:
        series: training series; those shorter than prediction_length are ignored.
        hp: hyperparameters.
        test: full series whose last prediction_length values are withheld and scored.
        device: torch device; the returned model is on the CPU.
        progress: called after each epoch with (epochs done, epochs, {"train_loss": ...}), over all networks.
        log: receives SageMaker's log lines.
        checkpoint: folder to save to every `checkpoint_every` epochs and to resume from; a resumed run
            ends in the same weights as an uninterrupted one.

    Raises:
        ContractError: the data or a checkpoint does not fit the contract.
    """
    began = time.process_time()
    say = log or (lambda line: None)
    cardinality, num_feat = check_training_data(series, hp)
    used = select_inputs(series, len(cardinality), num_feat)
    used = used.take(np.flatnonzero(used.lengths >= hp.prediction_length))
    # The weights of a lag that few training windows reach are hardly trained, and would spoil forecasts that reach it.
    lags = lags_for(hp.time_freq, max(int(used.lengths.max()) - hp.lag_support, 2))
    moments = Standardiser.fit(used, use_features=num_feat > 0)
    source = WindowSource(
        used,
        time_freq=hp.time_freq,
        lags=lags,
        context=hp.context_length,
        horizon=hp.prediction_length,
        scaled=get_likelihood(hp.likelihood).scaled_input,
        moments=moments,
        scaling_length=hp.scaling_length,
        time_features=hp.time_features == "auto",
        device=device,
    )
    first, last = forecast_starts(used, hp.prediction_length)
    if hp.training_windows == "last":
        first = last
    shape = network_shape(hp, cardinality, num_feat, lags)
    starts = torch.from_numpy(first), torch.from_numpy(last)
    if hp.blind_features > num_feat:
        raise ContractError(f"blind_features is {hp.blind_features}; the series have {num_feat} dynamic features")
    blind = [hp.blind_features if k % 2 == 0 else 0 for k in range(hp.num_networks)]
    loops = [TrainingLoop(hp, shape, hp.seed + k, source, *starts, b) for k, b in enumerate(blind)]
    identity = fingerprint(used, hp, lags)
    if checkpoint is not None and (saved := load_checkpoint(checkpoint, identity)) is not None:
        for k, loop in enumerate(loops):
            loop.restore(TrainingState(saved.under(f"{k}."), saved.numbers["networks"][k]))
    epochs = hp.num_networks * hp.epochs
    with quiet_denormals():
        for k, loop in enumerate(loops):
            while not loop.done:
                loss = loop.run_epoch()
                at = k * hp.epochs + loop.epoch
                say(f"#quality_metric: host=algo-1, epoch={at - 1}, train loss <loss>={loss:.10g}")
                say(f"#progress_metric: host=algo-1, completed {100 * at // epochs} % of epochs")
                if progress is not None:
                    progress(at, epochs, {"train_loss": loss})
                if checkpoint is not None and (loop.epoch % checkpoint_every == 0 or loop.epoch == hp.epochs):
                    save_checkpoint(checkpoint, identity, _state(loops))
    final = float(np.mean([loop.loss_curve[loop.final_epoch] for loop in loops]))
    say(f"Final loss: {final:.10g} (occurred at epoch {max(loop.final_epoch for loop in loops)})")
    say(f"#quality_metric: host=algo-1, train final_loss <loss>={final:.10g}")
    curve = _mean_curve([loop.loss_curve for loop in loops])
    model = Model(hp, cardinality, num_feat, lags, moments, [loop.finish() for loop in loops], curve)
    model.train_windows = sum(loop.windows for loop in loops)
    model.train_seconds = time.process_time() - began
    if test is not None:
        model.test_metrics = evaluate(model, test, device=device)
        for name, value in model.test_metrics.items():
            say(f"#test_score (algo-1, {name}): {value:.10g}")
        for name in ("RMSE", "mean_wQuantileLoss"):
            say(f"#quality_metric: host=algo-1, test {name} <loss>={model.test_metrics[name]:.10g}")
    return model


def _state(loops: list[TrainingLoop]) -> TrainingState:
    """All networks' states in one, each tensor under its network's number."""
    states = [loop.state() for loop in loops]
    tensors = {f"{k}.{name}": t for k, state in enumerate(states) for name, t in state.tensors.items()}
    return TrainingState(tensors, {"networks": [state.numbers for state in states]})


def _mean_curve(curves: list[list[float]]) -> list[float]:
    """Mean over the networks at each epoch; one that stopped early has no part in the epochs it did not run."""
    return [
        float(np.mean([curve[epoch] for curve in curves if epoch < len(curve)]))
        for epoch in range(max(len(curve) for curve in curves))
    ]


def window_loss(network: DeepARNetwork, family: Likelihood, batch: WindowBatch, keep: Tensor | None) -> Tensor:
    """Negative log-likelihood per observed cell of context and horizon; unobserved cells have no part."""
    static = network.static_features(batch.log_scale, batch.cat)
    raw = network(batch.varying, static, keep)
    z = batch.z / batch.scale if family.scaled_output else batch.z
    if family.name == "beta":
        z = torch.where(batch.observed > 0, z, 0.5)  # 0 is outside (0, 1); the mask removes the cell below
    nll = -family.log_prob(family.parameters(raw, batch.scale), z)
    return (nll * batch.observed).sum() / batch.observed.sum().clamp(min=1.0)


def _flattened(network: DeepARNetwork) -> tuple[Tensor, Tensor]:
    """All weights of the network in one tensor, and their gradients in another; its own become views of these.

    Clipping and the optimiser's step are then a few calls, not a few for each of a dozen tensors.
    """
    parts = list(network.parameters())
    flat = torch.cat([p.detach().flatten() for p in parts])
    gradient = torch.zeros_like(flat)
    sizes = [p.numel() for p in parts]
    for p, values, grad in zip(parts, torch.split(flat, sizes), torch.split(gradient, sizes), strict=True):
        p.data, p.grad = values.view_as(p), grad.view_as(p)
    return flat, gradient


class Adam:
    """Adam (Kingma and Ba 2015) on one tensor, in place. torch's class takes longer to reach its kernel than to run it.

    mean and square are the first and second moment of the gradient, before the correction for their start from zero.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.mean, self.square, self.scratch = (torch.zeros_like(weights) for _ in range(3))

    def step(self, gradient: Tensor, rate: float, count: int) -> None:
        """The step number `count`, from 1."""
        self.mean.lerp_(gradient, 0.1)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        torch.sqrt(self.square, out=self.scratch)
        self.scratch.div_(math.sqrt(1.0 - 0.999**count)).add_(1e-8)
        self.weights.addcdiv_(self.mean, self.scratch, value=-rate / (1.0 - 0.9**count))


START_WINDOWS = 1024  # at most so many windows give the outputs that training starts from


class TrainingLoop:
    """The state of one network's training between epochs.

    Args:
        hp, shape: what to train.
        seed: of the initial weights, the windows drawn and the dropout; nothing else is random.
        source: the training series.
        first, last: each series' first and last forecast start (N,), inclusive.
        blind: how many of the last dynamic features this network does not use.
    """

    def __init__(
        self,
        hp: HyperParameters,
        shape: NetworkShape,
        seed: int,
        source: WindowSource,
        first: Tensor,
        last: Tensor,
        blind: int = 0,
    ) -> None:
        self.hp, self.source, self.first, self.last, self.blind = hp, source, first, last, blind
        self.family = get_likelihood(hp.likelihood)
        self.generator = torch.Generator().manual_seed(seed)
        self.network = DeepARNetwork(shape, self.generator).to(source.device)
        # Their weights start at 0 and get no gradient, so they stay 0. Prediction then needs no rule of its own.
        self.unseen = slice(shape.time_varying - blind, None)
        with torch.no_grad():
            self.network.w_in[0][:, self.unseen] = 0.0
        self._start()
        self.loss_curve: list[float] = []
        self.weights, self.gradient = _flattened(self.network)
        self.adam = Adam(self.weights)
        self.epoch = self.windows = self.best_epoch = 0
        self.best_loss = math.inf
        self.best: dict[str, Tensor] = {}
        self.batches = -(-len(first) // self.hp.mini_batch_size)

    def _start(self) -> None:
        """Set the outputs so that the untrained network gives the distribution of all targets for every window."""
        some = torch.arange(0, len(self.last), -(-len(self.last) // START_WINDOWS))
        cut = self.source.windows(some.to(self.source.device), self.last[some].to(self.source.device))
        z = cut.z / cut.scale if self.family.scaled_output else cut.z
        found = self.family.start(z[cut.observed > 0])
        if found is not None:
            location = self.family.location
            assert location is not None
            with torch.no_grad():
                self.network.b_out.copy_(torch.tensor(found[0]))
                self.network.w_out[location] *= found[1]

    def run_epoch(self) -> float:
        """Train on ceil(N / batch) batches of series in random order, each about once. Returns the mean loss."""
        size, device = self.hp.mini_batch_size, self.source.device
        order = torch.randperm(len(self.first), generator=self.generator)
        extra = torch.randint(len(self.first), (self.batches * size - len(order),), generator=self.generator)
        order = torch.cat([order, extra])
        spread = (self.last - self.first + 1)[order].double()
        draw = torch.rand(len(order), generator=self.generator, dtype=torch.float64)
        starts = self.first[order] + (draw * spread).long()
        self.network.train()
        total = torch.zeros((), device=device)
        ahead = max(1, WINDOWS_AHEAD // size)
        for b in range(self.batches):
            if b % ahead == 0:
                some = slice(b * size, (b + ahead) * size)
                cut = self.source.windows(order[some].to(device), starts[some].to(device))
                keeps = self._dropout(len(cut.scale))
            at = slice(b % ahead * size, (b % ahead + 1) * size)
            self.gradient.zero_()
            loss = window_loss(self.network, self.family, cut.columns(at), None if keeps is None else keeps[..., at])
            loss.backward()  # type: ignore[no-untyped-call]
            if self.blind and (first := self.network.w_in[0].grad) is not None:
                first[:, self.unseen] = 0.0
            norm = torch.linalg.vector_norm(self.gradient)
            self.gradient.mul_((self.hp.gradient_clip / (norm + 1e-6)).clamp_(max=1.0))
            step = self.epoch * self.batches + b
            self.adam.step(self.gradient, self.learning_rate(step), step + 1)
            total += loss.detach()
        mean = float(total) / self.batches
        if not math.isfinite(mean):
            raise ContractError(
                f"training diverged in epoch {self.epoch}: the loss is {mean}. Lower learning_rate "
                f"(now {self.hp.learning_rate}) or look for extreme values in the series"
            )
        self.loss_curve.append(mean)
        if mean < self.best_loss and self.hp.early_stopping_patience is not None:
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        if mean < self.best_loss:
            self.best_loss, self.best_epoch = mean, self.epoch
        self.epoch += 1
        self.windows += self.batches * size
        return mean

    def learning_rate(self, step: int) -> float:
        """Constant, or half a cosine from learning_rate to 0 over all steps."""
        if self.hp.learning_rate_schedule == "constant":
            return self.hp.learning_rate
        part = step / (self.hp.epochs * self.batches)
        return self.hp.learning_rate * 0.5 * (1.0 + math.cos(math.pi * part))

    def _dropout(self, windows: int) -> Tensor | None:
        rate, layers = self.hp.dropout_rate, self.hp.num_layers
        if rate == 0.0 or layers == 1:
            return None
        draw = torch.rand(layers - 1, self.hp.num_cells, windows, generator=self.generator)
        return ((draw >= rate).float() / (1.0 - rate)).to(self.source.device)

    @property
    def done(self) -> bool:
        """All epochs run, or no lower loss for early_stopping_patience epochs."""
        patience = self.hp.early_stopping_patience
        stopped = patience is not None and self.epoch - 1 - self.best_epoch >= patience
        return stopped or self.epoch >= self.hp.epochs

    @property
    def final_epoch(self) -> int:
        """The epoch whose weights `finish` leaves."""
        return self.epoch - 1 if self.hp.early_stopping_patience is None else self.best_epoch

    def finish(self) -> DeepARNetwork:
        """The trained network, on the CPU; with early stopping, its weights of the epoch with the lowest loss."""
        if self.best:
            self.network.load_state_dict(self.best)
        self.network.spare.clear()
        for p in self.network.parameters():  # each in its own memory again
            p.data, p.grad = p.data.clone(), None
        return self.network.to("cpu").eval()

    def state(self) -> TrainingState:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {"adam.mean": self.adam.mean, "adam.square": self.adam.square}
        tensors["generator"] = self.generator.get_state()
        numbers = {
            "epoch": self.epoch,
            "windows": self.windows,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "loss_curve": self.loss_curve,
        }
        return TrainingState(tensors, numbers)

    def restore(self, state: TrainingState) -> None:
        self.network.load_state_dict(state.under("network."))
        self.best = state.under("best.")
        self.adam.mean.copy_(state.tensors["adam.mean"])
        self.adam.square.copy_(state.tensors["adam.square"])
        self.generator.set_state(state.tensors["generator"])
        self.epoch, self.windows = state.numbers["epoch"], state.numbers["windows"]
        self.best_epoch, self.best_loss = state.numbers["best_epoch"], state.numbers["best_loss"]
        self.loss_curve = list(state.numbers["loss_curve"])


@dataclass(frozen=True)
class TrainingState:
    """All a run needs to go on: named tensors and JSON-able numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name starts with `prefix`, without it."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


def fingerprint(series: SeriesSet, hp: HyperParameters, lags: tuple[int, ...]) -> str:
    """Digest of everything a run depends on, so that a checkpoint of other data is never resumed."""
    digest = hashlib.sha256(json.dumps([_FORMAT, hp.to_strings(), lags], sort_keys=True).encode())
    for part in (series.start, series.values, series.indptr, series.cat, series.dynamic_feat):
        digest.update(b"-" if part is None else part.tobytes())
    return digest.hexdigest()


def save_checkpoint(folder: Path, identity: str, state: TrainingState) -> None:
    """Write the checkpoint beside the old one, then replace it: a kill leaves one of the two, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_CHECKPOINT}.{secrets.token_hex(4)}"
    meta = {"identity": identity, "numbers": json.dumps(state.numbers)}
    try:
        save_file({k: v.contiguous().cpu() for k, v in state.tensors.items()}, temporary, metadata=meta)
        os.replace(temporary, folder / _CHECKPOINT)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(folder: Path, identity: str) -> TrainingState | None:
    """The checkpoint in `folder`, None when there is none. Raises ContractError when it is not this run's."""
    path = folder / _CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as f:
            meta = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
        numbers = json.loads(meta["numbers"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as e:
        raise ContractError(f"{path} is not a readable checkpoint ({e}); delete it to start afresh") from e
    if meta.get("identity") != identity:
        raise ContractError(
            f"{path} belongs to a run with other data or hyperparameters; delete it or choose another folder"
        )
    return TrainingState(tensors, numbers)


def rmse(actual: NDArray[Any], mean: NDArray[Any]) -> float:
    """Root mean squared error over the cells where `actual` is not NaN; arrays of one shape."""
    error = np.asarray(actual, dtype=np.float64) - mean
    return float(np.sqrt(np.nanmean(error * error)))


def weighted_quantile_loss(actual: NDArray[Any], forecast: NDArray[Any], tau: float) -> float:
    """wQL(tau) = 2 sum(pinball) / sum|actual| over observed cells (SageMaker's wQuantileLoss).

    NaN when every observed actual is zero.
    """
    seen = ~np.isnan(actual)
    total = float(np.abs(actual[seen], dtype=np.float64).sum())
    return 2.0 * _pinball(actual, forecast, tau) / total if total > 0 else float("nan")


def score(
    actual: NDArray[Any], mean: NDArray[Any], quantiles: NDArray[Any], levels: Sequence[float]
) -> dict[str, float]:
    """All of SageMaker's test scores. actual, mean (N, H); quantiles (N, Q, H)."""
    cells = max(int((~np.isnan(actual)).sum()), 1)
    out = {"RMSE": rmse(actual, mean)}
    loss = [2.0 * _pinball(actual, quantiles[:, k], q) / cells for k, q in enumerate(levels)]
    weighted = [weighted_quantile_loss(actual, quantiles[:, k], q) for k, q in enumerate(levels)]
    out["mean_absolute_QuantileLoss"] = float(np.mean(loss)) * cells
    out["mean_wQuantileLoss"] = float(np.mean(weighted))
    return out | {f"wQuantileLoss[{q:g}]": w for q, w in zip(levels, weighted, strict=True)}


def evaluate(model: Model, test: SeriesSet, device: str = "cpu") -> dict[str, float]:
    """Withhold the last prediction_length values of each test series, forecast and score them.

    Raises ContractError when a test series is not longer than prediction_length.
    """
    hp = model.hyperparameters
    horizon = hp.prediction_length
    known = test.without_last(horizon)
    at = test.indptr[1:, None] - horizon + np.arange(horizon)
    levels = [str(q) for q in hp.test_quantiles]
    forecast = predict(model, known, hp.num_eval_samples, levels, seed=hp.seed, device=device)
    assert forecast.mean is not None
    assert forecast.quantiles is not None
    return score(test.values[at], forecast.mean, forecast.quantiles, hp.test_quantiles)


def _pinball(actual: NDArray[Any], forecast: NDArray[Any], tau: float) -> float:
    error = np.asarray(actual, dtype=np.float64) - forecast
    return float(np.nansum(np.maximum(tau * error, (tau - 1.0) * error)))
