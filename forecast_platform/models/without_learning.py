"""Candidates that learn nothing: last year's week, last year lined up by its holidays, and the recent level.

They are at hand where a history is too short to train on, and they win where there is nothing to learn.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.covariates import complete, divide_exposure, multiply_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.models.candidate import Parameters, Progress, Said
from forecast_platform.models.last_year.outlook import aligned_last_year
from forecast_platform.models.last_year.reference import MAX_HORIZON, YEAR
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.target import FIRST_ORIGIN

RECENT_WEEKS = 26

Floats = NDArray[np.float64]
Forecast = Callable[[Panel, int, Sequence[float]], Floats]  # history, H, levels -> (N, Q, H)


@dataclass(frozen=True)
class WithoutLearning:
    """A forecast straight from the history. See candidate.Candidate.

    Attributes:
        weeks: of history that it needs. horizon: weeks ahead that it reaches; 0: any.
    """

    name: str
    quantiles_of: Forecast
    weeks: int
    horizon: int = 0
    learns: bool = False
    usual_share: float = 1.0
    share_tolerance: float | None = None

    @property
    def parameters(self) -> Mapping[str, str]:
        return {}

    def unable(self, history: Panel, horizon: int, parameters: Parameters) -> str:
        if self.horizon and horizon > self.horizon:
            return f"reaches {self.horizon} weeks ahead; {horizon} are asked for"
        known = len(history.weeks)
        return "" if known >= self.weeks else f"needs {self.weeks} weeks; there are {known}"

    def forecast(
        self,
        parameters: Parameters,
        history: Panel,
        horizon: int,
        quantiles: Sequence[float],
        num_samples: int = 100,
        progress: Progress | None = None,
    ) -> Said:
        ready, _ = complete(history, horizon)
        said = self.quantiles_of(divide_exposure(ready), horizon, quantiles)
        said = multiply_exposure(said, ready, horizon)
        return said, said[:, list(quantiles).index(0.5)]


def recent_level(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """The distribution of each series' last RECENT_WEEKS observed weeks, the same for every week ahead: what is left to
    say of articles that sell now and then. (N, Q, H), in the units of the sales."""
    order = np.cumsum(history.observed[:, ::-1], axis=1)[:, ::-1]  # 1 for a series' last observation, then 2 ..
    recent = np.where(history.observed & (order <= RECENT_WEEKS), history.sales, np.nan)
    found = np.nanquantile(recent, quantiles, axis=1, method="hazen").T
    return np.repeat(found[:, :, None], horizon, axis=2)


WITHOUT_LEARNING = (
    WithoutLearning("aligned_last_year", aligned_last_year, FIRST_ORIGIN, MAX_HORIZON),
    WithoutLearning("last_year", seasonal_naive, YEAR),
    WithoutLearning("recent_level", recent_level, 1),
)
