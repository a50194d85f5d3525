"""Training: windows, loss, optimiser, early stopping, checkpoints, SageMaker's log lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from forecast_platform.deepar import checkpoints
from forecast_platform.deepar.features import lags_for
from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.model import Model, network_shape, select_inputs
from forecast_platform.deepar.network import DeepARNetwork
from forecast_platform.deepar.series import SeriesSet
from forecast_platform.deepar.training_data import check_training_data, forecast_starts
from forecast_platform.deepar.windows import Batch, Standardiser, WindowSource

Progress = Callable[[int, int, dict[str, float]], None]
Log = Callable[[str], None]


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
        progress: called after each epoch with (epochs done, epochs, {"train_loss": ...}).
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
    # A lag that few windows have seen is a wild guess when it is there at the forecast.
    lags = lags_for(hp.time_freq, max(int(used.lengths.max()) - hp.lag_support, 2))
    moments = Standardiser.fit(used, use_features=num_feat > 0)
    generator = torch.Generator().manual_seed(hp.seed)
    network = DeepARNetwork(network_shape(hp, cardinality, num_feat, lags), generator).to(device)
    model = Model(hp, cardinality, num_feat, lags, moments, network)
    source = WindowSource(
        used,
        time_freq=hp.time_freq,
        lags=lags,
        context=hp.context_length,
        horizon=hp.prediction_length,
        scaled=model.likelihood.scaled_input,
        moments=moments,
        scaling_length=hp.scaling_length,
        scaling_power=hp.scaling_power,
        time_features=hp.time_features == "auto",
        device=device,
    )
    first, last = forecast_starts(used, hp.prediction_length)
    loop = _Loop(model, source, torch.from_numpy(first), torch.from_numpy(last), generator)
    fingerprint = checkpoints.fingerprint(used, hp, lags)
    if checkpoint is not None:
        loop.restore(checkpoints.load(checkpoint, fingerprint))
    with _quiet_denormals():
        while loop.epoch < hp.epochs and not loop.out_of_patience():
            loss = loop.run_epoch()
            say(f"#quality_metric: host=algo-1, epoch={loop.epoch - 1}, train loss <loss>={loss:.10g}")
            done = 100 * loop.epoch // hp.epochs
            say(f"#progress_metric: host=algo-1, completed {done} % of epochs")
            if progress is not None:
                progress(loop.epoch, hp.epochs, {"train_loss": loss})
            if checkpoint is not None and (loop.epoch % checkpoint_every == 0 or loop.epoch == hp.epochs):
                checkpoints.save(checkpoint, fingerprint, loop.state())
    loop.finish()
    final = model.loss_curve[loop.best_epoch if hp.early_stopping_patience else -1]
    at = loop.best_epoch if hp.early_stopping_patience else loop.epoch - 1
    say(f"Final loss: {final:.10g} (occurred at epoch {at})")
    say(f"#quality_metric: host=algo-1, train final_loss <loss>={final:.10g}")
    model.network = network.to("cpu").eval()
    model.train_windows = loop.windows
    model.train_seconds = time.process_time() - began
    if test is not None:
        from forecast_platform.deepar.metrics import evaluate

        model.test_metrics = evaluate(model, test, device=device)
        for name, value in model.test_metrics.items():
            say(f"#test_score (algo-1, {name}): {value:.10g}")
        for name in ("RMSE", "mean_wQuantileLoss"):
            say(f"#quality_metric: host=algo-1, test {name} <loss>={model.test_metrics[name]:.10g}")
    return model


def window_loss(network: DeepARNetwork, model: Model, batch: Batch, keep: Tensor | None) -> Tensor:
    """Negative log-likelihood per observed cell of context and horizon; unobserved cells have no part."""
    family = model.likelihood
    static = network.static_features(batch.log_scale, batch.cat)
    raw = network(batch.varying, static, keep)
    z = batch.z / batch.scale if family.scaled_output else batch.z
    if family.name == "beta":
        z = torch.where(batch.observed > 0, z, 0.5)  # 0 is outside (0, 1); the mask removes the cell below
    nll = -family.log_prob(family.parameters(raw, batch.scale), z)
    return (nll * batch.observed).sum() / batch.observed.sum().clamp(min=1.0)


class _Loop:
    """The state of a training run between epochs."""

    def __init__(
        self, model: Model, source: WindowSource, first: Tensor, last: Tensor, generator: torch.Generator
    ) -> None:
        self.model, self.source, self.network = model, source, model.network
        self.first, self.last, self.generator = first, last, generator
        self.hp = model.hyperparameters
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.hp.learning_rate, fused=True)
        self.epoch = self.windows = self.best_epoch = 0
        self.best_loss = math.inf
        self.best: dict[str, Tensor] = {}
        self.batches = -(-len(first) // self.hp.mini_batch_size)

    def run_epoch(self) -> float:
        """ceil(N / batch) batches; series in random order, so an epoch sees each about once."""
        size, device = self.hp.mini_batch_size, self.source.device
        order = torch.randperm(len(self.first), generator=self.generator)
        extra = torch.randint(len(self.first), (self.batches * size - len(order),), generator=self.generator)
        order = torch.cat([order, extra])
        spread = (self.last - self.first + 1)[order].double()
        draw = torch.rand(len(order), generator=self.generator, dtype=torch.float64)
        starts = self.first[order] + (draw * spread).long()
        self.network.train()
        total = torch.zeros((), device=device)
        for b in range(self.batches):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(self.epoch * self.batches + b)
            at = slice(b * size, (b + 1) * size)
            batch = self.source.windows(order[at].to(device), starts[at].to(device))
            self.optimizer.zero_grad(set_to_none=True)
            loss = window_loss(self.network, self.model, batch, self._dropout(size))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.hp.gradient_clip)
            self.optimizer.step()
            total += loss.detach()
        mean = float(total) / self.batches
        if not math.isfinite(mean):
            raise ContractError(
                f"training diverged in epoch {self.epoch}: the loss is {mean}. Lower learning_rate "
                f"(now {self.hp.learning_rate}) or look for extreme values in the series"
            )
        self.model.loss_curve.append(mean)
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

    def _dropout(self, batch: int) -> Tensor | None:
        rate, layers = self.hp.dropout_rate, self.hp.num_layers
        if rate == 0.0 or layers == 1:
            return None
        draw = torch.rand(layers - 1, self.hp.num_cells, batch, generator=self.generator)
        return ((draw >= rate).float() / (1.0 - rate)).to(self.source.device)

    def out_of_patience(self) -> bool:
        patience = self.hp.early_stopping_patience
        return patience is not None and self.epoch - 1 - self.best_epoch >= patience

    def finish(self) -> None:
        """With early stopping, return to the weights of the epoch with the lowest loss."""
        if self.best:
            self.network.load_state_dict(self.best)

    def state(self) -> checkpoints.State:
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"adam.{i}.{k}": v for i, slots in moments.items() for k, v in slots.items()}
        tensors["generator"] = self.generator.get_state()
        numbers = {
            "epoch": self.epoch,
            "windows": self.windows,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "loss_curve": self.model.loss_curve,
        }
        return checkpoints.State(tensors, numbers)

    def restore(self, state: checkpoints.State | None) -> None:
        if state is None:
            return
        self.network.load_state_dict(state.under("network."))
        self.best = state.under("best.")
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in state.under("adam.").items():
            index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
        whole = self.optimizer.state_dict()
        whole["state"] = slots
        self.optimizer.load_state_dict(whole)
        self.generator.set_state(state.tensors["generator"])
        self.epoch, self.windows = state.numbers["epoch"], state.numbers["windows"]
        self.best_epoch, self.best_loss = state.numbers["best_epoch"], state.numbers["best_loss"]
        self.model.loss_curve.extend(state.numbers["loss_curve"])


@contextmanager
def _quiet_denormals() -> Iterator[None]:
    """Flush denormals: gradients decaying through them make every product many times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
