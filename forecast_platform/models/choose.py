"""Which candidates forecast, with what weights, and how wide the intervals are: decided by backtests before the cutoff.

No candidate is best everywhere: the ratio to last year's week wins on seasonal retail and loses where last year says
little. Candidates that do not learn cost next to nothing to try. They are tried in windows all over the history, first
of all in the season to be forecast, one and two years ago. Each trial of a network costs a training, so networks are
tried in one or two windows.

Letters: N series, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import Retailer
from forecast_platform.history.silence import probability_of_return
from forecast_platform.levels import SUMS
from forecast_platform.models.backtest import Forecaster, scored_window
from forecast_platform.models.blend import KINDS, Blend, Trial, fit, kinds
from forecast_platform.models.calibration import Calibration, Window, volume
from forecast_platform.models.candidate import Plans, Progress, Quantiles
from forecast_platform.models.combine import Combination, least_sales
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.last_year.reference import YEAR
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.metrics import Scores, score, standard_error
from forecast_platform.models.registry import CANDIDATES, in_order
from forecast_platform.models.target import FIRST_ORIGIN

# Trains a network, here or elsewhere, and forecasts with it: the signature of `networks.network_forecast`.
NetworkForecast = Callable[..., Quantiles]

# "Free" candidates do not learn: no training has to be paid for to try them.
VALIDATION_WEEKS = 13  # a backtest before the cutoff looks at most so many weeks ahead
TRAINED_WINDOWS = 2  # windows in which networks are tried
FREE_WINDOWS = 8  # windows in which free candidates are tried, at most
FREE_SERIES = 12_000  # series x windows in which they are tried, at most: of a large retailer fewer windows
SHORTEST_WINDOW = 4  # weeks
FEW_OBSERVATIONS = 1000  # with fewer, and no column known ahead, networks are not tried beside free candidates
PROHIBITIVE = 0.5  # a network with a penalty above this is not worth its training
LEAST_LEARNED, LEAST_FREE = 0.1, 0.03  # candidates of less weight are left out: learned ones cost a training each
WORTH_TRYING = 0.05  # a network with this weight after the first window is tried in a second
WORTH_ADDING = 0.005  # a network has to lower the blend's wQL in the first window by this part, or it is left out
MOST_LEARNED = 2  # learned candidates in the blend
MOST_NAMED = 3  # candidates that `in_words` names
KNOWN = 0.75  # a window calibrates the intervals if at least this part of today's weeks was known before it
FLAT = "recent_level"  # its error says how hard it is to forecast without a season
HARDER = 1.2  # a season so many times as hard as the other windows may be so by chance
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Judgement:
    """How the blend did against last year's week in the newest backtest window, before it was trained on all weeks.

    Attributes:
        why: in a sentence or two, for people.
        cutoff: the last week before the window. It and the scores are None where the history was too short to hold
            weeks out.
        alone: candidate -> its WAPE and wQL by itself, in the same weeks.
        left_out: candidate -> why it was not tried.
    """

    verdict: str  # "passed", "below_naive" or "unjudged"
    why: str
    cutoff: dt.date | None = None
    wape: float | None = None
    wql: float | None = None
    coverage80: float | None = None
    naive_wape: float | None = None
    naive_wql: float | None = None
    alone: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What the backtests before a cutoff decided.

    Attributes:
        blend: weights of candidates, keys of registry.CANDIDATES.
        calibration: factors of the intervals' widths.
    """

    blend: Blend
    judgement: Judgement
    calibration: Calibration = dataclasses.field(default_factory=Calibration)


def shipped_forecaster(
    candidates: Plans,
    num_samples: int = 100,
    progress: Progress | None = None,
    told: Callable[[Choice], None] = lambda choice: print(choice.judgement.why),
) -> Forecaster:
    """What the platform would do at a cutoff: choose by backtests before it, then train and forecast.

    Args:
        told: called with each choice before it is acted on.
    """

    def forecast(history: Panel, horizon: int, quantiles: Sequence[float]) -> NDArray[np.float64]:
        asked = {name: {**given, "prediction_length": str(horizon)} for name, given in candidates.items()}
        choice = choose(history, asked, num_samples, progress)
        told(choice)
        levels, retailer = sorted({*quantiles, 0.5}), Retailer()
        forecasts = {
            name: CANDIDATES[name].forecast(asked[name], history, horizon, levels, num_samples, progress, retailer)
            for name in choice.blend.names
        }
        combination = Combination.of(history, horizon, choice.calibration)
        combined = combination.quantiles(choice.blend.quantiles(forecasts, kinds(history.sales)), levels)
        return combined[:, [levels.index(q) for q in quantiles]]

    return forecast


def choose(
    panel: Panel,
    candidates: Plans,
    num_samples: int = 100,
    progress: Progress | None = None,
    forecast: NetworkForecast | None = None,
    windows: int = TRAINED_WINDOWS,
) -> Choice:
    """Let every candidate forecast past weeks that it has not seen, and weigh the candidates by their errors.

    Args:
        panel: ends at the cutoff.
        candidates: from `plans`.
        forecast: trains networks and forecasts with them; None: in this process.
        windows: windows in which networks are tried, at most. Each costs a training of every network tried there.
    """
    candidates = in_order(candidates)
    asked_horizon = int(next(iter(candidates.values()))["prediction_length"])
    unable = {
        name: why
        for name, parameters in candidates.items()
        if (why := CANDIDATES[name].unable(panel, asked_horizon, parameters))
    }
    able = [name for name in candidates if name not in unable]
    if not able:
        why = f"no candidate is able ({_first_reason(unable)})"
        return _unjudged(panel, Blend.alone(next(iter(candidates))), why, unable)
    backtests = _Backtests(panel, candidates, num_samples, progress, forecast)
    horizon = _held_out(panel, asked_horizon)
    free = [name for name in able if not CANDIDATES[name].learns]
    learned = [name for name in able if CANDIDATES[name].learns]
    last = len(panel.weeks) - horizon  # weeks known before the newest window, which ends at the cutoff
    if last < 1 or not scored_window(panel, _week(panel, last), horizon, horizon).scored.any():
        why = f"{len(panel.weeks)} weeks of history are too few to hold out {horizon} of them" if last < 1 else (
            f"no series of {horizon} weeks or more was observed in the {horizon} weeks after {_week(panel, last)}"
        )  # fmt: skip
        return _unjudged(panel, _served(Blend.by(_prior(panel, free or learned[:1]))), why, unable)

    known_panel = panel.until(_week(panel, last))
    untried = {
        name: why for name in learned if (why := CANDIDATES[name].unable(known_panel, horizon, candidates[name]))
    }
    observations = int(panel.observed.sum())
    if free and observations < FEW_OBSERVATIONS and not _planned(panel):
        few = f"{observations} observations, and no column known ahead, are too few for a network to add anything"
        untried |= {name: few for name in learned if name not in untried}
    learned = [name for name in learned if name not in untried]
    triable = [name for name in free if not CANDIDATES[name].unable(known_panel, horizon, candidates[name])]
    if not triable and not learned:  # such as a single network asked for by name: it serves without a backtest
        left_out = {name: (unable | untried)[name] for name in candidates if name in unable or name in untried}
        why = f"no candidate is able with the weeks up to {_week(panel, last)}"
        if left_out:
            why += f" ({_first_reason(left_out)})"
        blend = _served(Blend.by(_prior(panel, free))) if free else Blend.alone(next(iter(untried)))
        return _unjudged(panel, blend, why, left_out)
    with_networks = _trained_origins(panel, horizon, windows)
    origins = _origins(panel, horizon) if free else []
    tried = [backtests.window(origin, horizon, free, keep=origin in with_networks) for origin in origins]
    # Columns known ahead can make up for the season that a candidate does not know: no penalties then.
    penalties = {} if _planned(panel) else _penalties(tried, able)
    untried |= {name: "is tried only where a column is known ahead" for name in learned
                if free and not _planned(panel) and not CANDIDATES[name].prior.plain}  # fmt: skip
    untried |= {name: "knows no season, and the season ahead is hard to forecast without" for name in learned
                if penalties.get(name, 0.0) > PROHIBITIVE and name not in untried}  # fmt: skip
    learned = [name for name in learned if name not in untried]
    for origin in with_networks:
        past = backtests.window(origin, horizon, [*free, *learned])
        tried = [past, *(t for t in tried if t.origin != origin)]
        if origin == last:
            scores = {name: past.scores(Blend.alone(name)) for name in past.forecasts}
            weights, too_little = _worth_adding(panel, past, tried, learned, penalties)
            untried |= {name: f"changes the blend's error by {change:+.1%}" for name, change in too_little.items()}
            learned = [name for name in learned if name not in too_little and max(weights[name]) >= WORTH_TRYING]
    newest = next(past for past in tried if past.origin == last)
    prior = _prior(panel, [n for n in candidates if (n in newest.forecasts or n in free) and n not in untried])
    blend = _served(fit([past.trial for past in tried], prior, penalties, _sparse(prior)))
    # Errors made with far less history say nothing of how wide intervals have to be now.
    recent = [past for past in tried if past.origin >= KNOWN * len(panel.weeks)] or [newest]
    of_blend = [past for past in recent if not past.forecasts.keys().isdisjoint(blend.names)]
    return Choice(
        blend,
        _judged(panel, horizon, newest, blend, scores, len(tried), unable | untried),
        Calibration.fit([past.calibration_window(blend) for past in of_blend], LEVELS, (*SUMS, *panel.levels)),
    )


def _unjudged(panel: Panel, blend: Blend, why: str, left_out: Mapping[str, str]) -> Choice:
    """A choice without a backtest: intervals are left as they are, and the dependence is that of a usual retailer."""
    served = in_words(blend, kinds(panel.sales))
    judgement = Judgement("unjudged", f"served: {served}; not judged: {why}", left_out=left_out)
    return Choice(blend, judgement, Calibration(dependence=Dependence.fit([], LEVELS)))


def _judged(
    panel: Panel,
    horizon: int,
    newest: _PastWindow,
    blend: Blend,
    scores: Mapping[str, Scores],
    windows: int,
    left_out: Mapping[str, str],
) -> Judgement:
    """The blend's scores in the newest window, beside those of each candidate and of last year's week.

    Args:
        windows: how many were tried.
        scores: of each candidate alone.
    """
    cutoff = _week(panel, newest.origin)
    served, naive = newest.scores(blend), _naive_scores(panel, cutoff, horizon)
    return Judgement(
        "passed" if served.wape <= naive.wape else "below_naive",
        f"served: {in_words(blend, kinds(panel.sales))}; weighed in {windows} windows of the past; in the newest, the "
        f"{horizon} weeks after {cutoff}, its WAPE / wQL are {served.wape:.4f} / {served.wql:.4f}"
        f"{newest.error(blend)}, and those of last year's week, the bar to pass, {naive.wape:.4f} / {naive.wql:.4f}",
        cutoff,
        served.wape,
        served.wql,
        served.coverage80,
        naive.wape,
        naive.wql,
        {name: (each.wape, each.wql) for name, each in scores.items()},
        left_out,
    )


def in_words(blend: Blend, kind: NDArray[np.int64]) -> str:
    """The weights for people: "52% ratio, 48% aligned_last_year (young series 60% pretrained, 40% ratio)". The weights
    of the most frequent kind of series come first. Candidates beyond MOST_NAMED are added up.

    Args:
        kind: of each series, see blend.kinds, shape (N,).
    """
    found, count = np.unique(kind, return_counts=True)
    words = {}
    for k in found[count.argsort()[::-1]].tolist():
        parts = sorted(((weights[k], name) for name, weights in blend.weights.items()), reverse=True)
        parts = [(weight, name) for weight, name in parts if weight >= 0.005]
        if unnamed := parts[MOST_NAMED:]:
            parts = [*parts[:MOST_NAMED], (sum(weight for weight, _ in unnamed), f"the other {len(unnamed)}")]
        words[KINDS[k]] = ", ".join(f"{100 * weight:.0f}% {name}" for weight, name in parts)
    (_, usual), *rest = words.items()
    others = "; ".join(f"{name} series {parts}" for name, parts in rest if parts != usual)
    return f"{usual} ({others})" if others else usual


@dataclass(frozen=True)
class _PastWindow:
    """What the candidates forecast in one window before the cutoff, for the N series that are scored there.

    Attributes:
        origin: how many weeks were known before the window, T.
        trial: what weights are fitted to.
        history: sales before the window, shape (N, T).
        returns: the probability that each series still sells, shape (N, H), see silence.probability_of_return.
        store, dept: shape (N,).
    """

    origin: int
    trial: Trial
    history: NDArray[np.float64]
    returns: NDArray[np.float64]
    store: NDArray[np.str_]
    dept: NDArray[np.str_]

    @property
    def forecasts(self) -> Mapping[str, NDArray[np.float64]]:
        return self.trial.forecasts

    def forecast(self, blend: Blend) -> NDArray[np.float64]:
        """What the blend, of those of its candidates that were tried here, would have forecast; shape (N, Q, H)."""
        forecasts = blend.among(list(self.forecasts)).quantiles(self.forecasts, self.trial.kind)
        combination = Combination(np.ones_like(self.returns), least_sales(self.history), self.returns)
        return combination.quantiles(forecasts, LEVELS)

    def scores(self, blend: Blend) -> Scores:
        return score(self.trial.y, self.trial.mask, self.forecast(blend), LEVELS, self.history)

    def error(self, blend: Blend) -> str:
        """The standard error of the blend's wQL over stores, in words; "" of one store."""
        trial = self.trial
        found = standard_error(trial.y, self.forecast(blend), LEVELS, trial.mask, self.store)
        return "" if np.isnan(found) else f" (give or take {found:.4f}, from store to store)"

    def calibration_window(self, blend: Blend) -> Window:
        trial = self.trial
        return Window(trial.y, trial.mask, self.forecast(blend), volume(self.history), self.store, self.dept)


@dataclass
class _Backtests:
    """Lets candidates forecast past windows. Forecasts are kept, so none is made twice."""

    panel: Panel
    candidates: Plans
    num_samples: int
    progress: Progress | None
    network_forecast: NetworkForecast | None

    def __post_init__(self) -> None:
        self.forecasts: dict[tuple[int, str], Quantiles] = {}
        self.retailers: dict[int, Retailer] = {}

    def window(self, origin: int, horizon: int, names: Iterable[str], keep: bool = False) -> _PastWindow:
        """What those of the candidates that are able forecast when `origin` weeks are known.

        Args:
            keep: more candidates will be tried in this window, so keep what candidates share, such as an outlook.
        """
        retailer = self.retailers.pop(origin, None) or Retailer()
        if keep:
            self.retailers[origin] = retailer
        panel, cutoff = self.panel, _week(self.panel, origin)
        window = scored_window(panel, cutoff, horizon, horizon)
        known_panel = panel.until(cutoff)
        rows, weeks = window.among_known, window.y.shape[1]
        forecasts = {}
        for name in names:
            if not CANDIDATES[name].unable(known_panel, horizon, self.candidates[name]):
                forecasts[name] = self._forecast(origin, name, known_panel, horizon, retailer)[rows, :, :weeks]
        history = panel.sales[window.scored, :origin]
        back = len(panel.weeks) - origin
        trial = Trial(window.y, window.mask, kinds(history), forecasts, LEVELS, season=back % YEAR == 0)
        returns = probability_of_return(known_panel, horizon)[rows, :weeks]
        return _PastWindow(origin, trial, history, returns, panel.store[window.scored], panel.dept[window.scored])

    def _forecast(self, origin: int, name: str, known_panel: Panel, horizon: int, retailer: Retailer) -> Quantiles:
        if (origin, name) not in self.forecasts:
            candidate = CANDIDATES[name]
            forecast = functools.partial(candidate.forecast, retailer=retailer)
            if self.network_forecast and candidate.learns:
                forecast = functools.partial(self.network_forecast, name)
            self.forecasts[origin, name] = forecast(
                self.candidates[name], known_panel, horizon, LEVELS, self.num_samples, self.progress
            )
        return self.forecasts[origin, name]


def _held_out(panel: Panel, horizon: int) -> int:
    """How many weeks a window holds out. With hardly more than a year of history they are fewer, so that there is
    something left to learn from."""
    horizon = min(horizon, VALIDATION_WEEKS)
    spare = len(panel.weeks) - FIRST_ORIGIN
    # Half of the weeks after the first year are left to candidates that are trained on them; or else none.
    for enough in (spare // 2, spare):
        if enough >= SHORTEST_WINDOW:
            return min(horizon, enough)
    return horizon


def _origins(panel: Panel, horizon: int) -> list[int]:
    """The windows in which free candidates are tried, by the weeks known before each: first the one that ends at the
    cutoff, then those of the season to be forecast one and two years ago, then others back through the history, one
    horizon apart."""
    known = len(panel.weeks)
    most = max(min(FREE_WINDOWS, FREE_SERIES // len(panel)), 2)
    season = [known - years * YEAR for years in (1, 2)]
    others = range(known - 2 * horizon, 0, -horizon)
    found = dict.fromkeys(origin for origin in (known - horizon, *season, *others) if 0 < origin <= known - horizon)
    usable = [origin for origin in found if scored_window(panel, _week(panel, origin), horizon, horizon).scored.any()]
    return usable[:most]


def _trained_origins(panel: Panel, horizon: int, windows: int) -> list[int]:
    """The same for networks: first the window that ends at the cutoff; then that of the season to be forecast a year
    ago, where a year was known before it, or else the window before the first."""
    known = len(panel.weeks)
    year_ago = known - YEAR
    second = year_ago if year_ago >= FIRST_ORIGIN + horizon else known - 2 * horizon
    wanted = [origin for origin in (known - horizon, second) if origin > 0][:windows]
    return [origin for origin in wanted if scored_window(panel, _week(panel, origin), horizon, horizon).scored.any()]


def _prior(panel: Panel, names: Collection[str]) -> dict[str, float]:
    """Each candidate's prior, planned or plain. A prior of 0, of a candidate asked for by name, becomes 1."""
    priors = {name: CANDIDATES[name].prior for name in names}
    return {name: (prior.planned if _planned(panel) else prior.plain) or 1.0 for name, prior in priors.items()}


def _sparse(names: Iterable[str]) -> dict[str, float]:
    return {name: CANDIDATES[name].prior.sparse for name in names}


def _planned(panel: Panel) -> bool:
    """Whether any column is known ahead."""
    return panel.covariates is not None and bool(panel.covariates.known.any())


def _worth_adding(
    panel: Panel,
    newest: _PastWindow,
    tried: Sequence[_PastWindow],
    learned: Sequence[str],
    penalties: Mapping[str, float],
) -> tuple[Mapping[str, tuple[float, ...]], dict[str, float]]:
    """The weights of a blend without the networks that add too little to it.

    Networks join the free candidates one by one, the one with the largest prior first. The first always joins. Each
    after it has to lower the blend's error (wQL in the newest window) by the part WORTH_ADDING.

    Returns:
        The blend's weights; and network -> relative change of the error, for each that adds too little.
    """

    def blended(names: list[str]) -> tuple[Blend, float]:
        blend = fit([past.trial for past in tried], _prior(panel, names), penalties, _sparse(names))
        return blend, newest.scores(blend).wql

    expected = _prior(panel, [name for name in learned if name in newest.forecasts])
    first, *others = sorted(expected, key=lambda name: -expected[name]) or [""]
    names = [name for name in newest.forecasts if name == first or name not in expected]
    blend, error = blended(names)
    too_little = {}
    for name in others:
        found, new_error = blended([*names, name])
        if new_error < (1 - WORTH_ADDING) * error:
            names, blend, error = [*names, name], found, new_error
        else:
            too_little[name] = new_error / error - 1 if error else 0.0
    return blend.weights, too_little


def _penalties(tried: Sequence[_PastWindow], names: Collection[str]) -> dict[str, float]:
    """Candidates that know no season -> how much higher their loss will be than in the trials, as blend.fit wants it.

    Where FLAT had a higher wQL in the season to be forecast, one and two years ago, than in the other windows, it will
    have so again. Empty where no candidate knows the season, for then all of them are as badly off.
    """
    flat = [(past.trial.season, past.scores(Blend.alone(FLAT)).wql) for past in tried if FLAT in past.forecasts]
    wql = {which: [value for season, value in flat if season == which and value > 0] for which in (True, False)}
    if not all(wql.values()) or not any(CANDIDATES[name].seasonal for name in names):
        return {}
    harder = np.mean(wql[True]) / np.mean(wql[False])
    penalty = max(float(harder) - HARDER, 0.0)
    return {name: penalty for name in names if not CANDIDATES[name].seasonal}


def _served(blend: Blend) -> Blend:
    """The blend without candidates of too little weight, and with MOST_LEARNED of those that learn at most."""
    most = {name: max(weights) for name, weights in blend.weights.items()}
    learned = sorted((name for name in most if CANDIDATES[name].learns), key=lambda name: -most[name])
    kept = {name for name in learned[:MOST_LEARNED] if most[name] >= LEAST_LEARNED}
    kept |= {name for name in most if not CANDIDATES[name].learns and most[name] >= LEAST_FREE}
    return blend.among([name for name in blend.names if name in kept] or [max(most, key=lambda name: most[name])])


def _week(panel: Panel, known: int) -> dt.date:
    """The last of the first `known` weeks."""
    week: dt.date = panel.weeks[known - 1].astype(dt.date)
    return week


def _naive_scores(panel: Panel, cutoff: dt.date, horizon: int) -> Scores:
    window = scored_window(panel, cutoff, horizon, horizon)
    forecast = seasonal_naive(panel.until(cutoff), horizon, LEVELS)[window.among_known, :, : window.y.shape[1]]
    return score(window.y, window.mask, forecast, LEVELS, panel.sales[window.scored, : panel.position(cutoff) + 1])


def _first_reason(unable: Mapping[str, str]) -> str:
    """For people: why the first is not able, and how many others are not. All are in Judgement.left_out."""
    (name, why), *others = unable.items()
    return f"{name}: {why}" + (f"; and {len(others)} others" if others else "")
