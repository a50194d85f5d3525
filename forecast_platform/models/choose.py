"""Which candidate forecasts, how far it is trusted and how wide its intervals are: chosen by backtests before the
cutoff.

None is best everywhere: the ratio to last year's week wins on seasonal retail and loses where last year says little.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.history.silence import probability_of_return
from forecast_platform.levels import SUMS
from forecast_platform.models.backtest import Forecaster, scored_window
from forecast_platform.models.calibration import Calibration, Window, volume
from forecast_platform.models.candidate import Parameters, Plans, Progress, Said
from forecast_platform.models.combine import Combination, least_sales
from forecast_platform.models.last_year.reference import YEAR
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.metrics import Scores, score
from forecast_platform.models.registry import CANDIDATES, in_order
from forecast_platform.models.target import RATIO

# Trains a network somewhere and forecasts with it: the signature of `networks.network_forecast`.
NetworkForecast = Callable[..., Said]

VALIDATION_WEEKS = 13  # a backtest before the cutoff looks at most this far ahead
VALIDATION_WINDOWS = 2
SHORTEST_WINDOW = 4
SHARES = np.arange(0, 11) / 10
NEAR = 0.1


@dataclass(frozen=True)
class Judgement:
    """A model's rolling backtest against last year's week, made before the model was trained on everything.

    `why` says in words what the figures mean; the scores are None when the history was too short to hold out weeks.
    """

    verdict: str  # "passed", "below_naive" or "unjudged"
    why: str
    cutoff: dt.date | None = None
    wape: float | None = None
    wql: float | None = None
    coverage80: float | None = None
    naive_wape: float | None = None
    naive_wql: float | None = None


@dataclass(frozen=True)
class Choice:
    """What the backtests before a cutoff decided.

    Attributes:
        name: of the candidate, a key of registry.CANDIDATES.
        share: its part of the median; the rest is that of what is forecast without learning.
        calibration: factors of the intervals' widths.
    """

    name: str
    judgement: Judgement
    share: float = 1.0
    calibration: Calibration = dataclasses.field(default_factory=Calibration)


def shipped_forecaster(
    candidates: Plans, num_samples: int = 100, progress: Progress | None = None, told: Callable[[str], None] = print
) -> Forecaster:
    """What the platform would do at a cutoff: choose by backtests before it, then train and forecast."""

    def forecast(history: Panel, horizon: int, quantiles: Sequence[float]) -> NDArray[np.float64]:
        asked = {name: {**given, "prediction_length": str(horizon)} for name, given in candidates.items()}
        choice = choose(history, asked, num_samples, progress)
        told(choice.judgement.why)
        levels = sorted({*quantiles, 0.5})
        chosen = CANDIDATES[choice.name]
        found, lead = chosen.forecast(asked[choice.name], history, horizon, levels, num_samples, progress)
        combination = Combination.of_sales(lead).trusting(history, choice.share, choice.calibration)
        combined = combination.quantiles(found, levels)
        return combined[:, [levels.index(q) for q in quantiles]]

    return forecast


def choose(
    panel: Panel,
    candidates: Plans,
    num_samples: int = 100,
    progress: Progress | None = None,
    forecast: NetworkForecast | None = None,
    windows: int = VALIDATION_WINDOWS,
) -> Choice:
    """Train every candidate without the last weeks and forecast those; keep the one with the lowest mean wQL. Its share
    and the width of its intervals come from that window and an earlier one.

    Args:
        panel: ends at the cutoff.
        candidates: from `plans`.
        forecast: where networks are trained; None: in this process.
        windows: held out, at most; each costs a training of every candidate that comes near the best.
    """
    candidates = in_order(candidates)
    first = next(iter(candidates))
    horizon = min(int(candidates[first]["prediction_length"]), VALIDATION_WEEKS)
    # Where hardly more than a year is known, a shorter window leaves the ratio something to learn from.
    spare = (len(panel.weeks) - YEAR - int(candidates[RATIO]["context_length"])) // 2 if RATIO in candidates else 0
    horizon = min(horizon, spare) if spare >= SHORTEST_WINDOW else horizon
    reach = horizon + max(int(parameters.get("context_length", 1)) for parameters in candidates.values())
    if len(panel.weeks) < reach + horizon:
        why = f"{len(panel.weeks)} weeks of history are too few to hold out {horizon} of them"
        return Choice(first, Judgement("unjudged", why))
    cutoffs = [panel.weeks[-1 - k * horizon].astype(dt.date) for k in range(1, windows + 1)
               if len(panel.weeks) - k * horizon >= reach]  # fmt: skip
    history = panel.until(cutoffs[0])
    full = int(candidates[first]["prediction_length"])
    unable = {
        name: why
        for name, parameters in candidates.items()
        if (why := CANDIDATES[name].unable(history, horizon, parameters))
        or (why := CANDIDATES[name].unable(panel, full, parameters))
    }
    able = [name for name in candidates if name not in unable]
    if not able:
        return Choice(first, Judgement("unjudged", f"up to {cutoffs[0]} {_in_words(unable)}"))
    if not scored_window(panel, cutoffs[0], horizon, horizon).scored.any():
        why = f"no trained series was observed in the {horizon} weeks after {cutoffs[0]}"
        return Choice(able[0], Judgement("unjudged", why))

    def trial(name: str, cutoff: dt.date) -> _Trial:
        return _try(forecast, name, candidates[name], panel, cutoff, horizon, num_samples, progress)

    trials = {name: [trial(name, cutoffs[0])] for name in able}
    scores = {name: found[0].scores(_share(name, found)) for name, found in trials.items()}
    least = min(s.wql for s in scores.values())
    # One window is one season: whoever comes near the best in it is tried in an earlier one as well.
    near = [name for name in able if scores[name].wql <= (1 + NEAR) * least]
    for cutoff in cutoffs[1:]:
        earlier = panel.until(cutoff)
        if not any(CANDIDATES[name].unable(earlier, horizon, candidates[name]) for name in near):
            for name in near:
                trials[name].append(trial(name, cutoff))
    best = min(near, key=lambda name: np.mean([t.scores(_share(name, trials[name])).wql for t in trials[name]]))
    share = _share(best, trials[best])
    naive = _naive_scores(panel, cutoffs[0], horizon)
    told = ", ".join(f"{name} {s.wape:.4f} / {s.wql:.4f}" for name, s in scores.items())
    tried = len(trials[best])
    judgement = Judgement(
        "passed" if scores[best].wape <= naive.wape else "below_naive",
        f"WAPE / wQL over the {horizon} weeks after {cutoffs[0]}: {told}, "
        f"the bar, last year's week as it is, {naive.wape:.4f} / {naive.wql:.4f}; "
        f"chosen by wQL{f', the mean of {tried} windows' if tried > 1 else ''}; {best}'s share {share:.2f}"
        + (f"; not able: {_in_words(unable)}" if unable else ""),
        cutoffs[0],
        scores[best].wape,
        scores[best].wql,
        scores[best].coverage80,
        naive.wape,
        naive.wql,
    )
    found = Calibration.fit([t.window(share) for t in trials[best]], LEVELS, (*SUMS, *panel.levels))
    return Choice(best, judgement, share, found)


LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MIDDLE = LEVELS.index(0.5)


@dataclass(frozen=True)
class _Trial:
    """A candidate's forecast of a window before the cutoff, of the series scored: actual sales and which cells count
    (N, H), the candidate's quantiles (N, Q, H), what is forecast without learning (N, H), the series' history (N, T),
    the probability that each returns (N, H), store and department (N,)."""

    y: NDArray[np.float64]
    mask: NDArray[np.bool_]
    said: NDArray[np.float64]
    lead: NDArray[np.float64]
    history: NDArray[np.float64]
    returns: NDArray[np.float64]
    store: NDArray[np.str_]
    dept: NDArray[np.str_]

    def forecast(self, share: float) -> NDArray[np.float64]:
        alone = Combination.of_sales(self.lead)
        how = dataclasses.replace(alone, share=share, least=least_sales(self.history), returns=self.returns)
        return how.quantiles(self.said, LEVELS)

    def scores(self, share: float) -> Scores:
        return score(self.y, self.mask, self.forecast(share), LEVELS, self.history)

    def window(self, share: float) -> Window:
        return Window(self.y, self.mask, self.forecast(share), volume(self.history), self.store, self.dept)


def _try(
    elsewhere: NetworkForecast | None,
    name: str,
    parameters: Parameters,
    panel: Panel,
    cutoff: dt.date,
    horizon: int,
    num_samples: int,
    progress: Progress | None,
) -> _Trial:
    window = scored_window(panel, cutoff, horizon, horizon)
    then = panel.until(cutoff)
    candidate = CANDIDATES[name]
    if elsewhere and candidate.learns:
        found, lead = elsewhere(name, parameters, then, horizon, LEVELS, num_samples, progress)
    else:
        found, lead = candidate.forecast(parameters, then, horizon, LEVELS, num_samples, progress)
    returns = probability_of_return(then, horizon)
    history = panel.sales[window.scored, : panel.position(cutoff) + 1]
    rows, weeks = window.among_known, window.y.shape[1]
    who = panel.store[window.scored], panel.dept[window.scored]
    return _Trial(
        window.y, window.mask, found[rows, :, :weeks], lead[rows, :weeks], history, returns[rows, :weeks], *who
    )


def _naive_scores(panel: Panel, cutoff: dt.date, horizon: int) -> Scores:
    window = scored_window(panel, cutoff, horizon, horizon)
    forecast = seasonal_naive(panel.until(cutoff), horizon, LEVELS)[window.among_known, :, : window.y.shape[1]]
    return score(window.y, window.mask, forecast, LEVELS, panel.sales[window.scored, : panel.position(cutoff) + 1])


def _in_words(unable: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in unable.items())


def _share(name: str, trials: Sequence[_Trial]) -> float:
    """The candidate's share: the one nearest to its usual whose absolute error is next to the least.

    The weeks tried are one season and the weeks to come another, so a small gain in them is no reason to lean far from
    the usual.
    """
    candidate = CANDIDATES[name]
    if candidate.share_tolerance is None:
        return candidate.usual_share
    errors = [sum(float(np.abs((t.y - t.forecast(s)[:, _MIDDLE])[t.mask]).sum()) for t in trials) for s in SHARES]
    good = SHARES[np.array(errors) <= (1 + candidate.share_tolerance) * min(errors)]
    return float(good[np.abs(good - candidate.usual_share).argmin()])
