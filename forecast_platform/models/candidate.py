"""What a candidate is: anything that learns from a history, or just looks at it, and forecasts.

To add one: a file with a class of this protocol, a line in registry.py, a test.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer

Parameters = Mapping[str, str]
Plans = Mapping[str, Parameters]  # name of a candidate -> its hyperparameters
Progress = Callable[[str, int, int], None]  # (what, done, total)
Quantiles = NDArray[np.float64]  # a candidate's forecast: quantiles (N, Q, H), in sales


class Prior(NamedTuple):
    """A candidate's weight before any backtest, relative to the others' (see blend.py).

    Attributes:
        plain: where no column is known ahead. 0: there it is not tried beside candidates that do not learn.
        planned: where promotions, prices or the like are known ahead.
        sparse: factor on either for intermittent series.
    """

    plain: float
    planned: float
    sparse: float = 1.0


class Candidate(Protocol):
    """One candidate.

    Attributes:
        name: in settings, tables and reports.
        learns: whether it is trained, which an engine may do elsewhere, and leaves an artifact to forecast with.
        parameters: its hyperparameters, as shipped.
        seasonal: whether it knows the season from last year, however quiet the last weeks were.
        prior: see Prior.
    """

    @property
    def name(self) -> str: ...

    @property
    def learns(self) -> bool: ...

    @property
    def parameters(self) -> Parameters: ...

    @property
    def seasonal(self) -> bool: ...

    @property
    def prior(self) -> Prior: ...

    def unable(self, history: Panel, horizon: int, parameters: Parameters) -> str:
        """Why it cannot forecast these weeks from this history, for people; "" when it can."""
        ...

    def forecast(
        self,
        parameters: Parameters,
        history: Panel,
        horizon: int,
        quantiles: Sequence[float],
        num_samples: int = 100,
        progress: Progress | None = None,
        retailer: Retailer = WHOLE,
    ) -> Quantiles:
        """Learn from the history, if it learns, and forecast every series of it.

        Args:
            quantiles: ascending levels that hold 0.5.
            retailer: where the history is a shard, gives sums over all shards. A candidate that learns is always given
                all series.
        """
        ...
