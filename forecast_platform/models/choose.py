"""Which network forecasts, how far it is trusted and how wide its intervals are: chosen by backtests before the cutoff.

No one target is best everywhere: the ratio to last year's week wins on seasonal retail and loses where last year says
little.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform import deepar
from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.history.silence import probability_of_return
from forecast_platform.models.backtest import Forecaster, scored_window
from forecast_platform.models.baselines import seasonal_naive
from forecast_platform.models.calibration import Calibration, Window, volume
from forecast_platform.models.combine import Combination, in_sales, least_sales
from forecast_platform.models.encoding import Categories, to_series_set
from forecast_platform.models.last_year.reference import YEAR
from forecast_platform.models.metrics import Scores, score
from forecast_platform.models.target import (
    BLIND_FEATURES,
    RATIO,
    REFERENCE,
    SALES,
    Target,
    build_target,
    origins,
    ratio_possible,
)
from forecast_platform.settings import Settings

Progress = Callable[[str, int, int], None]  # (what, done, total)
# Trains a candidate somewhere and forecasts with it: the signature of `network_forecast`.
NetworkForecast = Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]]
Parameters = Mapping[str, str]
Plans = Mapping[str, Parameters]  # name of a candidate -> its hyperparameters

SKIP, COUNTS = "sales, lag skip", "sales, counts"
# The networks the platform ships, in SageMaker's names; what differs from SageMaker's defaults was measured
# (docs/ablations.md).
_SALES = {
    "context_length": "12",
    "learning_rate": "0.005",
    "learning_rate_schedule": "cosine",
    "num_layers": "1",
    "embedding_dimension": "4",
    "num_networks": "2",
}
SHIPPED: dict[str, dict[str, str]] = {
    SALES: _SALES,
    # Where the last weeks say all there is, a straight line from them is hard to beat.
    SKIP: {**_SALES, "lag_skip": "on"},
    # Pieces, of which few are sold in a week and often none.
    COUNTS: {**_SALES, "likelihood": "negative-binomial"},
    # What Amazon's built-in DeepAR can be given: its own target, the reference as a feature.
    REFERENCE: {**_SALES, "num_networks": "1"},
    # A ratio to last year has no season and no size left to learn.
    RATIO: {
        **_SALES,
        "context_length": "4",
        "num_cells": "16",
        "embedding_dimension": "1",
        "scaling_length": "26",
        "time_features": "ignore",
        "lag_support": "24",
        "num_networks": "2",
        "blind_features": str(BLIND_FEATURES),
        "training_windows": "last",
    },
}
AUTO = (SALES, SKIP, COUNTS, RATIO)  # the candidates where nothing is said
TRAIN_WINDOWS = {SALES: 200_000, REFERENCE: 200_000, RATIO: 400_000}  # of all networks together
REPEATS, CASE_REPEATS = 2, 5
# DeepAR's own lower limit (SageMaker: "at least 300 observations across all training time series").
MIN_OBSERVATIONS = 300
VALIDATION_WEEKS = 13  # a backtest before the cutoff looks at most this far ahead
VALIDATION_WINDOWS = 2
SHORTEST_WINDOW = 4
SHARES = np.arange(0, 11) / 10
# Last year's week knows the season, so half of the median is its, if that costs next to nothing. The last value knows
# nothing but the level, and where that stands still it is noise.
USUAL_SHARE = {RATIO: 0.5, REFERENCE: 0.5, SALES: 0.0}
SHARE_TOLERANCE = {RATIO: 0.02, REFERENCE: 0.02, SALES: 0.005}
LARGE_COUNT = 100.0  # from here on counts are as good as any number
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
        name: of the candidate, a key of SHIPPED.
        share: the network's part of the median; the rest is the reference's.
        calibration: factors of the intervals' widths.
    """

    name: str
    judgement: Judgement
    share: float = 1.0
    calibration: Calibration = dataclasses.field(default_factory=Calibration)


def target_of(name: str) -> str:
    """What a candidate forecasts: SALES, REFERENCE or RATIO."""
    return SALES if name in (SKIP, COUNTS) else name


def plans(settings: Settings, prediction_length: int = 0, seed: int | None = None) -> dict[str, dict[str, str]]:
    """The candidates by an installation's settings, with their hyperparameters (strings, as SageMaker wants them)."""
    names: tuple[str, ...] = AUTO if settings.target == "auto" else (settings.target,)
    if "likelihood" in settings.hyperparameters:
        names = tuple(name for name in names if name != COUNTS)  # which differs from SALES in nothing else
    common = {
        "time_freq": "1W",
        "prediction_length": str(prediction_length or settings.prediction_length),
        "seed": str(settings.seed if seed is None else seed),
    }
    if settings.context_length:
        common["context_length"] = str(settings.context_length)
    return {name: {**SHIPPED[name], **common, **settings.hyperparameters} for name in names}


def trainable(panel: Panel, parameters: Parameters) -> Panel:
    """The series DeepAR trains on: those of at least prediction_length weeks. The others are only forecast."""
    return panel.select((len(panel.weeks) - panel.first) >= int(parameters["prediction_length"]))


def with_epochs(name: str, parameters: Parameters, panel: Panel) -> dict[str, str]:
    """Hyperparameters with `epochs` where none are given: enough for TRAIN_WINDOWS windows, but no more than REPEATS
    for each there is, or the networks would learn a small retailer by heart. An epoch is one window a series, or one
    of each case."""
    windows = TRAIN_WINDOWS[target_of(name)] // int(parameters.get("num_networks", "1"))
    if target_of(name) == RATIO:
        epochs = min(round(windows / (len(panel) * len(origins(panel)))), CASE_REPEATS)
        return {"epochs": str(max(epochs, 1)), **parameters}
    windows = min(windows, REPEATS * int(panel.observed.sum()))
    return {"epochs": str(min(max(windows // len(panel), 10), 1000)), **parameters}


def training_set(parameters: Parameters, target: Target) -> tuple[deepar.SeriesSet, Categories]:
    """What a network is trained on, of the series long enough to train on, and their categories."""
    panels = [trainable(case, parameters) for case in target.cases()]
    categories = Categories.of(*panels)

    def series(panel: Panel) -> deepar.SeriesSet:
        features = None if panel.covariates is None else panel.covariates.values[:, :, : len(panel.weeks)]
        return to_series_set(panel, categories, features)

    return deepar.SeriesSet.concatenate([series(panel) for panel in panels if len(panel)]), categories


def fit(
    parameters: Parameters, target: Target, progress: Progress | None = None, checkpoint: Any = None
) -> tuple[deepar.Model, Categories]:
    """Train on `training_set`; its categories are the model's coding."""
    series, categories = training_set(parameters, target)

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        if progress:
            progress("train", done, total)

    with one_thread():
        model = deepar.train(
            series, deepar.HyperParameters.parse(dict(parameters)), progress=report, checkpoint=checkpoint
        )
    return model, categories


def network_forecast(
    name: str,
    parameters: Parameters,
    history: Panel,
    horizon: int,
    quantiles: Sequence[float],
    num_samples: int = 100,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train a candidate on the history it is given and sample: quantiles (N, Q, H) of the network alone and the
    reference's forecast (N, H), both in sales."""
    ready, _ = complete(history, horizon)
    target = build_target(divide_exposure(ready), horizon, target_of(name))
    chosen = {**with_epochs(name, parameters, history), "prediction_length": str(horizon)}
    model, categories = fit(chosen, target, progress)
    with one_thread():
        result = deepar.predict(
            model,
            to_series_set(target.panel, categories, target.features),
            num_samples=num_samples,
            quantiles=tuple(f"{q:g}" for q in quantiles),
            seed=int(parameters["seed"]),
            output_types=("quantiles",),
        )
    assert result.quantiles is not None
    alone = Combination.of_target(target, ready)
    return in_sales(result.quantiles.astype(np.float64), alone.unit, alone.offset), alone.lead


def shipped_forecaster(
    candidates: Plans, num_samples: int = 100, progress: Progress | None = None, told: Callable[[str], None] = print
) -> Forecaster:
    """What the platform would do at a cutoff: choose by backtests before it, then train and forecast."""

    def forecast(history: Panel, horizon: int, quantiles: Sequence[float]) -> NDArray[np.float64]:
        asked = {name: {**given, "prediction_length": str(horizon)} for name, given in candidates.items()}
        choice = choose(history, asked, num_samples, progress)
        told(choice.judgement.why)
        levels = sorted({*quantiles, 0.5})
        found, lead = network_forecast(choice.name, asked[choice.name], history, horizon, levels, num_samples, progress)
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
        forecast: where the networks are trained; None: `network_forecast`, in this process.
        windows: held out, at most; each costs a training of every candidate that comes near the best.
    """
    ask = forecast or network_forecast
    first = next(iter(candidates))
    horizon = min(int(candidates[first]["prediction_length"]), VALIDATION_WEEKS)
    # Where hardly more than a year is known, a shorter window leaves the ratio something to learn from.
    spare = (len(panel.weeks) - YEAR - int(candidates[RATIO]["context_length"])) // 2 if RATIO in candidates else 0
    horizon = min(horizon, spare) if spare >= SHORTEST_WINDOW else horizon
    reach = horizon + max(int(parameters["context_length"]) for parameters in candidates.values())
    if len(panel.weeks) < reach + horizon:
        why = f"{len(panel.weeks)} weeks of history are too few to hold out {horizon} of them"
        return Choice(first, Judgement("unjudged", why))
    cutoffs = [panel.weeks[-1 - k * horizon].astype(dt.date) for k in range(1, windows + 1)
               if len(panel.weeks) - k * horizon >= reach]  # fmt: skip
    history = panel.until(cutoffs[0])
    full = int(candidates[first]["prediction_length"])
    able = [
        name
        for name, parameters in candidates.items()
        if _can_learn(name, parameters, history, horizon) and _can_learn(name, parameters, panel, full)
    ]
    if not able:
        known = int(history.observed.sum())
        return Choice(first, Judgement("unjudged", f"{known} observations up to {cutoffs[0]} are too few to train on"))
    if not scored_window(panel, cutoffs[0], horizon, horizon).scored.any():
        why = f"no trained series was observed in the {horizon} weeks after {cutoffs[0]}"
        return Choice(able[0], Judgement("unjudged", why))

    def trial(name: str, cutoff: dt.date) -> _Trial:
        return _try(ask, name, candidates[name], panel, cutoff, horizon, num_samples, progress)

    trials = {name: [trial(name, cutoffs[0])] for name in able}
    scores = {name: found[0].scores(_share(name, found)) for name, found in trials.items()}
    least = min(s.wql for s in scores.values())
    # One window is one season: whoever comes near the best in it is tried in an earlier one as well.
    near = [name for name in able if scores[name].wql <= (1 + NEAR) * least]
    for cutoff in cutoffs[1:]:
        if all(_can_learn(name, candidates[name], panel.until(cutoff), horizon) for name in near):
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
        f"last year's week {naive.wape:.4f} / {naive.wql:.4f}; "
        f"chosen by wQL{f', the mean of {tried} windows' if tried > 1 else ''}; network's share {share:.2f}",
        cutoffs[0],
        scores[best].wape,
        scores[best].wql,
        scores[best].coverage80,
        naive.wape,
        naive.wql,
    )
    return Choice(best, judgement, share, Calibration.fit([t.window(share) for t in trials[best]], LEVELS))


LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MIDDLE = LEVELS.index(0.5)


@dataclass(frozen=True)
class _Trial:
    """A candidate's forecast of a window before the cutoff, of the series scored: actual sales and which cells count
    (N, H), the network's quantiles (N, Q, H), the reference's forecast (N, H), the series' history (N, T), the
    probability that each returns (N, H), store and department (N,)."""

    y: NDArray[np.float64]
    mask: NDArray[np.bool_]
    network: NDArray[np.float64]
    lead: NDArray[np.float64]
    history: NDArray[np.float64]
    returns: NDArray[np.float64]
    store: NDArray[np.str_]
    dept: NDArray[np.str_]

    def forecast(self, share: float) -> NDArray[np.float64]:
        alone = Combination.of_sales(self.lead)
        how = dataclasses.replace(alone, share=share, least=least_sales(self.history), returns=self.returns)
        return how.quantiles(self.network, LEVELS)

    def scores(self, share: float) -> Scores:
        return score(self.y, self.mask, self.forecast(share), LEVELS, self.history)

    def window(self, share: float) -> Window:
        return Window(self.y, self.mask, self.forecast(share), volume(self.history), self.store, self.dept)


def _try(
    ask: NetworkForecast,
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
    found, lead = ask(name, parameters, then, horizon, LEVELS, num_samples, progress)
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


def _share(name: str, trials: Sequence[_Trial]) -> float:
    """The network's share: the one nearest to the usual whose absolute error is next to the least.

    The weeks tried are one season and the weeks to come another, so a small gain in them is no reason to lean far from
    the reference. A distribution of counts is none any more when it is moved, so there the network leads alone.
    """
    if name == COUNTS:
        return 1.0
    target = target_of(name)
    errors = [sum(float(np.abs((t.y - t.forecast(s)[:, _MIDDLE])[t.mask]).sum()) for t in trials) for s in SHARES]
    good = SHARES[np.array(errors) <= (1 + SHARE_TOLERANCE[target]) * min(errors)]
    return float(good[np.abs(good - USUAL_SHARE[target]).argmin()])


def _can_learn(name: str, parameters: Parameters, history: Panel, horizon: int) -> bool:
    """Whether there is enough to train on, in series long enough: for a ratio, after the year it refers to; and whether
    it is what the candidate is for."""
    if name == COUNTS and not _small_counts(history):
        return False
    since = YEAR if target_of(name) == RATIO else 0
    seen = history.observed[:, since:]
    if target_of(name) != SALES and not ratio_possible(history, int(parameters["context_length"]), horizon):
        return False
    long = seen.shape[1] - seen.argmax(axis=1) >= horizon
    return int(seen[long].sum()) >= MIN_OBSERVATIONS


def _small_counts(panel: Panel) -> bool:
    """Whether sales are whole numbers from 0, mostly small ones, and will be given to the network as they are."""
    sales = panel.sales[panel.observed]
    whole = bool((sales >= 0).all() and (sales == np.floor(sales)).all())
    return whole and panel.exposure is None and float(np.median(sales)) < LARGE_COUNT


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small lose more to threads waiting for each other than they gain; cores are for other processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
