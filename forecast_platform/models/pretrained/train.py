"""Train the network that ships, from nothing: python -m forecast_platform.models.pretrained.train

Each made-up retailer follows from its number, so the same command on the same machine and versions gives the same file.
It takes some six minutes of one core. The SHA-256 that it prints has then to be written into network.py.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forecast_platform.models.networks import one_thread
from forecast_platform.models.pretrained.made_up import AHEAD, make_up
from forecast_platform.models.pretrained.network import FARTHEST, LEVELS, MIDDLE, WEIGHTS, Ensemble, Floats, Inputs

RETAILERS, MEMBERS, CELLS, LAYERS, EPOCHS = 2500, 2, 64, 2, 3
BATCH, LEARNING_RATE, WARM_UP = 1024, 3e-3, 0.1
SERIES = 30  # of a retailer, at most
NEAR, FAR = 8, 4  # weeks of a series: from the first 13 weeks ahead, and from those after them
# wQL is a mean over the nine deciles. The levels beyond them have less weight, for few cases decide them.
IMPORTANCE = tuple(1.0 if 0.1 <= level <= 0.9 else 0.3 for level in LEVELS)
_LARGEST_OUTPUT = 60.0

_NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


@dataclass(frozen=True)
class Cases:
    """C weeks ahead of made-up series.

    Attributes:
        inputs: shape (C, F). outputs: what a perfect forecast would be, shape (C,). weights: shape (C,).
    """

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    weights: Floats


def cases_of(number: int) -> Cases | None:
    """The cases of a retailer, given its number, from one cutoff; None where no week after it can be learnt from.

    In wQL a case weighs as much as its unit. Here it weighs the root of that, for otherwise a few large series would be
    all that counts. All retailers weigh the same: their weights are scaled to equal losses of the outlook with normal
    intervals.
    """
    rng = np.random.default_rng(number)
    panel, known = make_up(rng)
    inputs = Inputs.of(panel.until(panel.weeks[known - 1].astype(dt.date)), AHEAD)
    actual = panel.sales[:, known:]
    weeks = np.concatenate([rng.permutation(13)[:NEAR], 13 + rng.permutation(AHEAD - 13)[:FAR]])
    series = rng.permutation(len(actual))[:SERIES]
    i, h = (each.ravel() for each in np.meshgrid(series, weeks, indexing="ij"))
    i, h = (each[~np.isnan(actual[i, h])] for each in (i, h))
    unit = inputs.unit[i, h]
    output = (actual[i, h] - inputs.outlook[i, h]) / unit
    loss = _pinball(output[:, None] - _NORMAL, np.array(LEVELS)).mean(axis=1)
    if not (loss > 0).any():
        return None
    size = np.sqrt(unit / unit.max())
    inputs_of_case = np.concatenate([inputs.series[i], inputs.weeks[i, h]], axis=1)
    output = np.clip(output, -_LARGEST_OUTPUT, _LARGEST_OUTPUT)
    return Cases(inputs_of_case.astype(np.float32), output.astype(np.float32), size / (size * loss).sum())


def gather(retailers: int) -> Cases:
    """The cases of the retailers 0, 1, ...; weights are cut at their 99.9% quantile and have the mean 1."""
    found = [cases for number in range(retailers) if (cases := cases_of(number)) is not None]
    inputs, outputs, weights = (
        np.concatenate([getattr(cases, name) for cases in found]) for name in ("inputs", "outputs", "weights")
    )
    weights = np.minimum(weights, np.quantile(weights, 0.999))
    return Cases(inputs, outputs, weights / weights.mean())


def train(cases: Cases, members: int = MEMBERS, epochs: int = EPOCHS) -> Ensemble:
    mean = cases.inputs.mean(axis=0, dtype=np.float64)
    std = cases.inputs.std(axis=0, dtype=np.float64) + 1e-6
    x = torch.from_numpy(np.clip((cases.inputs - mean) / std, -FARTHEST, FARTHEST).astype(np.float32))
    y, weights = torch.from_numpy(cases.outputs), torch.from_numpy(cases.weights.astype(np.float32))
    with one_thread():
        trained = tuple(_member(x, y, weights, epochs, seed) for seed in range(members))
    return Ensemble(mean, std, trained)


def _member(x: Tensor, y: Tensor, weights: Tensor, epochs: int, seed: int) -> tuple[tuple[Floats, Floats], ...]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [x.shape[1]] + [CELLS] * LAYERS
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    last = nn.Linear(CELLS, len(LEVELS))
    with torch.no_grad():
        for layer in layers:
            for p in layer.parameters():
                bound = layer.in_features**-0.5
                p.uniform_(-bound, bound, generator=generator)
        # Before training its forecast is the outlook with normal intervals.
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, *np.log(np.expm1(np.diff(_NORMAL)))]))
    layers.append(last)
    parameters = [p for layer in layers for p in layer.parameters()]
    batches = max(len(x) // BATCH, 1)
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps + 1, pct_start=WARM_UP)
    levels, importance = torch.tensor(LEVELS), torch.tensor(IMPORTANCE)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for batch in torch.split(order, BATCH)[:batches]:
            out = x[batch]
            for layer in layers[:-1]:
                out = nn.functional.silu(layer(out))
            error = y[batch, None] - torch_quantiles(layers[-1](out))
            loss = (torch.maximum(levels * error, (levels - 1) * error) * importance).mean(1)
            optimizer.zero_grad()
            (loss * weights[batch]).mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    return tuple((layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy()) for layer in layers)


def torch_quantiles(outputs: Tensor) -> Tensor:
    """network.quantiles_of in PyTorch, for its gradients."""
    middle, steps = outputs[:, :1], nn.functional.softplus(outputs[:, 1:])
    below = -steps[:, :MIDDLE].flip(1).cumsum(1).flip(1)
    return torch.cat([middle + below, middle, middle + steps[:, MIDDLE:].cumsum(1)], 1)


def _pinball(error: Floats, levels: Floats) -> Floats:
    return np.maximum(levels * error, (levels - 1) * error)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--retailers", type=int, default=RETAILERS)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args(arguments)
    data = train(gather(given.retailers)).to_bytes()
    given.out.write_bytes(data)
    print(f"{given.out}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
