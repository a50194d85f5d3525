"""One network's way from its seed to its weights: epochs, optimiser, early stopping, and the state to resume from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forecast_platform.deepar import checkpoints
from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.likelihoods import Likelihood, get_likelihood
from forecast_platform.deepar.network import DeepARNetwork, NetworkShape
from forecast_platform.deepar.windows import WindowBatch, WindowSource

WINDOWS_AHEAD = 512  # cut in one go, which costs the same forty calls as a single batch


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
    """All weights in one tensor, of which the network's are views from now on, and likewise their gradients.

    What is done to all of them after a batch is then a few calls, not a few for each of a dozen tensors.
    """
    parts = list(network.parameters())
    flat = torch.cat([p.detach().flatten() for p in parts])
    gradient = torch.zeros_like(flat)
    sizes = [p.numel() for p in parts]
    for p, values, grad in zip(parts, torch.split(flat, sizes), torch.split(gradient, sizes), strict=True):
        p.data, p.grad = values.view_as(p), grad.view_as(p)
    return flat, gradient


class Adam:
    """Adam (Kingma and Ba 2015) on one tensor, in place. torch's class takes more time to get to its kernel than in it.

    mean and square are the moments of the gradient, not yet corrected for their start from zero.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.mean, self.square, self.room = (torch.zeros_like(weights) for _ in range(3))

    def step(self, gradient: Tensor, rate: float, count: int) -> None:
        """The step number `count`, from 1."""
        self.mean.lerp_(gradient, 0.1)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        torch.sqrt(self.square, out=self.room)
        self.room.div_(math.sqrt(1.0 - 0.999**count)).add_(1e-8)
        self.weights.addcdiv_(self.mean, self.room, value=-rate / (1.0 - 0.9**count))


class TrainingLoop:
    """The state of one network's training between epochs.

    Args:
        hp, shape: what to train.
        seed: of the first weights, the windows drawn and the dropout; nothing else is random.
        source: the training series.
        first, last: each series' first and last forecast start (N,), inclusive.
        blind: how many of the last dynamic features it does without.
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
        # Weights that start at 0 and never get a gradient stay there: prediction needs to know nothing of it.
        self.unseen = slice(shape.time_varying - blind, None)
        with torch.no_grad():
            self.network.w_in[0][:, self.unseen] = 0.0
        self.loss_curve: list[float] = []
        self.weights, self.gradient = _flattened(self.network)
        self.adam = Adam(self.weights)
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

    def state(self) -> checkpoints.State:
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
        return checkpoints.State(tensors, numbers)

    def restore(self, state: checkpoints.State) -> None:
        self.network.load_state_dict(state.under("network."))
        self.best = state.under("best.")
        self.adam.mean.copy_(state.tensors["adam.mean"])
        self.adam.square.copy_(state.tensors["adam.square"])
        self.generator.set_state(state.tensors["generator"])
        self.epoch, self.windows = state.numbers["epoch"], state.numbers["windows"]
        self.best_epoch, self.best_loss = state.numbers["best_epoch"], state.numbers["best_loss"]
        self.loss_curve = list(state.numbers["loss_curve"])
