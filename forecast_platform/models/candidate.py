"""What a candidate is: anything that learns from a history, or just looks at it, and forecasts.

To add one: a file with a class of this protocol, a line in registry.py, a test.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer

Parameters = Mapping[str, str]
Plans = Mapping[str, Parameters]  # name of a candidate -> its hyperparameters
Progress = Callable[[str, int, int], None]  # (what, done, total)
# What a candidate says: quantiles (N, Q, H), and what is forecast without learning (N, H), both in sales.
Said = tuple[NDArray[np.float64], NDArray[np.float64]]


class Candidate(Protocol):
    """One candidate.

    Attributes:
        name: in settings, tables and reports.
        learns: it is trained, which an engine may do elsewhere, and leaves an artifact to forecast with.
        parameters: its hyperparameters, as shipped.
        usual_share: its usual part of the median; the rest is what is forecast without learning.
        share_tolerance: what error more that usual part may cost in a backtest; None: its part is always the usual.
    """

    @property
    def name(self) -> str: ...

    @property
    def learns(self) -> bool: ...

    @property
    def parameters(self) -> Parameters: ...

    @property
    def usual_share(self) -> float: ...

    @property
    def share_tolerance(self) -> float | None: ...

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
    ) -> Said:
        """Learn from the history, if it learns, and forecast every series of it.

        Args:
            quantiles: ascending levels that hold 0.5.
            retailer: where the history is a shard, the sums over all of them. Who learns is given all series.
        """
        ...
