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
Said = NDArray[np.float64]  # what a candidate says: quantiles (N, Q, H), in sales


class Prior(NamedTuple):
    """A candidate's weight, against those of the others, before any backtest has said something.

    Attributes:
        plain: where nothing is known ahead; 0: then it is not tried beside others.
        planned: where promotions, prices or the like are known ahead.
        sparse: how many times as large it is for series that sell now and then.
    """

    plain: float
    planned: float
    sparse: float = 1.0


class Candidate(Protocol):
    """One candidate.

    Attributes:
        name: in settings, tables and reports.
        learns: it is trained, which an engine may do elsewhere, and leaves an artifact to forecast with.
        parameters: its hyperparameters, as shipped.
        seasonal: whether it knows the season from last year, however quiet the last weeks were.
        prior: see Prior and blend.py.
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
    ) -> Said:
        """Learn from the history, if it learns, and forecast every series of it.

        Args:
            quantiles: ascending levels that hold 0.5.
            retailer: where the history is a shard, the sums over all of them. Who learns is given all series.
        """
        ...
