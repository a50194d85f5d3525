"""A candidate that learns nothing takes a class and a line in the registry: it is then weighed, kept and served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from forecast_platform.engines.base import Asked, split
from forecast_platform.engines.local import LocalEngine
from forecast_platform.history.panel import Panel
from forecast_platform.models.candidate import Candidate, Parameters, Prior
from forecast_platform.models.registry import CANDIDATES, plans
from forecast_platform.models.trained import TrainedModel
from forecast_platform.settings import Settings

H, LEVELS = 4, (0.1, 0.5, 0.9)


class Straight:
    """As the last eight weeks went on average, on a straight line; 5% about it."""

    name, learns, seasonal = "straight", False, False
    parameters: ClassVar[Parameters] = {}
    prior = Prior(1, 1)

    def unable(self, history: Panel, horizon: int, parameters: Parameters) -> str:
        return "" if len(history.weeks) > 8 else f"needs 9 weeks; there are {len(history.weeks)}"

    def forecast(
        self, parameters: Parameters, history: Panel, horizon: int, quantiles: Sequence[float], *more: Any, **named: Any
    ) -> np.ndarray:
        last = history.sales[:, -1, None]
        middle = last + (last - history.sales[:, -9, None]) / 8 * np.arange(1, horizon + 1)
        return middle[:, None] * (0.95 + 0.1 * np.array(quantiles)[:, None])


def rising(weeks: int) -> Panel:
    """Twelve series that sell a little more every week, which nothing shipped knows in so short a history."""
    store, dept = np.arange(12) // 3 + 1, np.arange(12) % 3 + 1
    noise = np.random.default_rng(0).normal(1, 0.01, (12, weeks))
    sales = (100 * (1 + np.arange(12)))[:, None] * 1.05 ** np.arange(weeks) * noise
    days = np.datetime64("2024-01-05") + 7 * np.arange(weeks)
    return Panel(store.astype(str), dept.astype(str), days, sales, events=())


def test_a_class_and_a_line_in_the_registry_are_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new: Candidate = Straight()
    monkeypatch.setitem(CANDIDATES, new.name, new)
    given = plans(Settings(prediction_length=H), only=(new.name, "recent_level", "last_value"))
    local, panel = LocalEngine(tmp_path / "models"), rising(40)
    model = local.train(panel, given)
    assert model.target == new.name
    assert model.blend.usual[new.name] > 0.8
    assert model.tried[new.name].keys() == {"weights", "wape", "wql"}
    assert TrainedModel.load(model.folder) == model
    made, _ = local.predict(model, split(panel, 3), tmp_path / "week", Asked(LEVELS, 50, 0))
    found = np.concatenate([part.quantiles[:, 1] for part in made.shards(LEVELS, H)])
    np.testing.assert_allclose(found, panel.sales[:, -1, None] * 1.05 ** np.arange(1, H + 1), rtol=0.06)


def test_one_that_is_not_able_says_so_in_the_models_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CANDIDATES, Straight.name, Straight())
    given = plans(Settings(prediction_length=H), only=(Straight.name, "last_value"))
    model = LocalEngine(tmp_path).train(rising(8), given)
    assert model.tried[Straight.name] == {"left_out": "needs 9 weeks; there are 8"}
    assert model.target == "last_value"
