"""Small sets and models shared by the DeepAR tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from forecast_platform import deepar
from forecast_platform.deepar.artifact import Model


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_series(n: int = 12, length: int = 60, seed: int = 0, features: int = 0, extra: int = 0):
    """Weekly series of unequal lengths and levels with some weeks missing, two categories each."""
    rng = np.random.default_rng(seed)
    lengths = length - rng.integers(0, 10, n)
    level = 10 ** rng.uniform(0, 4, n)
    targets = [
        level[i] * (1 + 0.3 * np.sin(np.arange(m) / 4) + 0.1 * rng.normal(size=m)) for i, m in enumerate(lengths)
    ]
    for t in targets:
        t[rng.integers(1, len(t) - 1, 3)] = np.nan
    start = np.datetime64("2010-02-05") + 7 * rng.integers(0, 20, n)
    feats = [rng.normal(3, 2, (features, m + extra)) for m in lengths] if features else None
    cat = np.stack([np.arange(n) % 3, np.arange(n) % 4], axis=1)
    return deepar.SeriesSet.from_arrays(start, targets, cat, feats)


def make_hp(**changes: object) -> deepar.HyperParameters:
    values = {
        "time_freq": "1W",
        "context_length": "8",
        "prediction_length": "6",
        "epochs": "3",
        "num_cells": "8",
        "embedding_dimension": "2",
        "mini_batch_size": "32",
        "learning_rate": "0.01",
    }
    return deepar.HyperParameters.parse(values | {k: str(v) for k, v in changes.items()})


def train_and_kill(series: deepar.SeriesSet, hp: deepar.HyperParameters, folder: Path, epochs: int) -> None:
    """A training with checkpoints in `folder` every two epochs, stopped after so many."""

    class Killed(Exception):
        pass

    def kill(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == epochs:
            raise Killed

    with pytest.raises(Killed):
        deepar.train(series, hp, progress=kill, checkpoint=folder, checkpoint_every=2)


@pytest.fixture(scope="session")
def series():
    return make_series()


@pytest.fixture(scope="session")
def model(series) -> Model:
    torch.set_num_threads(1)
    return deepar.train(series, make_hp())


@pytest.fixture(scope="session")
def feature_model() -> Model:
    torch.set_num_threads(1)
    return deepar.train(make_series(features=2), make_hp())
