"""Which candidates forecast, with what weights, and how wide the intervals are: decided by backtests before the cutoff.

None is best everywhere: the ratio to last year's week wins on seasonal retail and loses where last year says little.
Candidates without learning cost nothing to try, so they are tried all over the history, above all in the season that is
to be forecast, a year and two ago; each trial of a network costs a training, so those are tried in a window or two.

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
from forecast_platform.models.candidate import Plans, Progress, Said
from forecast_platform.models.combine import Combination, least_sales
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.last_year.reference import YEAR
from forecast_platform.models.last_year.week import seasonal_naive
from forecast_platform.models.metrics import Scores, score, standard_error
from forecast_platform.models.registry import CANDIDATES, in_order
from forecast_platform.models.target import FIRST_ORIGIN

# Trains a network somewhere and forecasts with it: the signature of `networks.network_forecast`.
NetworkForecast = Callable[..., Said]

VALIDATION_WEEKS = 13  # a backtest before the cutoff looks at most this far ahead
TRAINED_WINDOWS = 2  # in which networks are tried
FREE_WINDOWS, FREE_SERIES = 8, 12_000  # candidates without learning are tried in so many, if they have few series
SHORTEST_WINDOW = 4
FEW_OBSERVATIONS = 1000
PROHIBITIVE = 0.5  # a toll with which a network is not worth its training
# Weights below which a candidate is left out: a training for so little pays for nobody.
LEAST_LEARNED, LEAST_FREE = 0.1, 0.03
WORTH_TRYING = 0.05  # a weight in the first window with which a network is tried in a second
# What a network has to lower the error by there (wQL), beside those expected more of, or it is left out.
WORTH_ADDING = 0.005
MOST_LEARNED = 2
MOST_TOLD = 3
KNOWN = 0.75  # of today's weeks, that a window has to have known for the intervals' widths to be taken from it
FLAT, HARDER = "recent_level", 1.2  # so much harder is chance
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Judgement:
    """A model's rolling backtest against last year's week, made before the model was trained on everything.

    Attributes:
        why: in a sentence or two, for people. The scores are None when the history was too short to hold out weeks.
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
        told: is given each choice before it is acted on.
    """

    def forecast(history: Panel, horizon: int, quantiles: Sequence[float]) -> NDArray[np.float64]:
        asked = {name: {**given, "prediction_length": str(horizon)} for name, given in candidates.items()}
        choice = choose(history, asked, num_samples, progress)
        told(choice)
        levels, whole = sorted({*quantiles, 0.5}), Retailer()
        said = {
            name: CANDIDATES[name].forecast(asked[name], history, horizon, levels, num_samples, progress, whole)
            for name in choice.blend.names
        }
        combination = Combination.of(history, horizon, choice.calibration)
        combined = combination.quantiles(choice.blend.quantiles(said, kinds(history.sales)), levels)
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
    """Let every candidate forecast weeks that are known already, without having seen them, and weigh them by that.

    Args:
        panel: ends at the cutoff.
        candidates: from `plans`.
        forecast: where networks are trained; None: in this process.
        windows: in which networks are tried, at most; each costs a training of every network that comes near the best.
    """
    candidates = in_order(candidates)
    full = int(next(iter(candidates.values()))["prediction_length"])
    unable = {
        name: why
        for name, parameters in candidates.items()
        if (why := CANDIDATES[name].unable(panel, full, parameters))
    }
    able = [name for name in candidates if name not in unable]
    if not able:
        return _unjudged(panel, Blend.alone(next(iter(candidates))), f"not able: {_in_words(unable)}", unable)
    trying = _Trying(panel, candidates, num_samples, progress, forecast)
    horizon = _held_out(panel, full)
    free = [name for name in able if not CANDIDATES[name].learns]
    learned = [name for name in able if CANDIDATES[name].learns]
    last = len(panel.weeks) - horizon  # weeks known at the window before the cutoff
    if last < 1 or not scored_window(panel, _week(panel, last), horizon, horizon).scored.any():
        why = f"{len(panel.weeks)} weeks of history are too few to hold out {horizon} of them" if last < 1 else (
            f"no series of {horizon} weeks or more was observed in the {horizon} weeks after {_week(panel, last)}"
        )  # fmt: skip
        return _unjudged(panel, _served(Blend.by(_prior(panel, free or learned[:1]))), why, unable)

    then = panel.until(_week(panel, last))
    untried = {name: why for name in learned if (why := CANDIDATES[name].unable(then, horizon, candidates[name]))}
    seen = int(panel.observed.sum())
    if free and seen < FEW_OBSERVATIONS and not _planned(panel):
        few = f"{seen} observations without columns known ahead teach a network nothing that the others do not know"
        untried |= {name: few for name in learned if name not in untried}
    learned = [name for name in learned if name not in untried]
    triable = [name for name in free if not CANDIDATES[name].unable(then, horizon, candidates[name])]
    if not triable and not learned:  # who asks for one network and has too little to judge it gets it unjudged
        left_out = {name: (unable | untried)[name] for name in candidates if name in unable or name in untried}
        why = f"up to {_week(panel, last)} {_in_words(left_out) or 'nothing is able'}"
        blend = _served(Blend.by(_prior(panel, free))) if free else Blend.alone(next(iter(untried)))
        return _unjudged(panel, blend, why, left_out)
    with_networks = _trained_origins(panel, horizon, windows)
    origins = _origins(panel, horizon) if free else []
    trials = [trying.trial(at, horizon, free, again=at in with_networks) for at in origins]
    tolls = {} if _planned(panel) else _tolls(trials, able)  # a plan says what no level can
    untried |= {name: "pays where columns are known ahead" for name in learned
                if free and not _planned(panel) and not CANDIDATES[name].prior.plain}  # fmt: skip
    untried |= {name: "knows no season, and the one ahead is hard without" for name in learned
                if tolls.get(name, 0.0) > PROHIBITIVE and name not in untried}  # fmt: skip
    learned = [name for name in learned if name not in untried]
    for at in with_networks:
        trial = trying.trial(at, horizon, [*free, *learned])
        trials = [trial, *(t for t in trials if t.at != at)]
        if at == last:
            scores = {name: trial.scores(Blend.alone(name)) for name in trial.said}
            so_far, little = _worth_adding(panel, trial, trials, learned, tolls)
            untried |= {name: f"{added:+.1%} to the error of the others" for name, added in little.items()}
            learned = [name for name in learned if name not in little and max(so_far.weights[name]) >= WORTH_TRYING]
    newest = next(trial for trial in trials if trial.at == last)
    prior = _prior(panel, [n for n in candidates if (n in newest.said or n in free) and n not in untried])
    blend = _served(fit([trial.evidence for trial in trials], prior, tolls, _sparse(prior)))
    # Errors of when far less was known say nothing of today's intervals.
    recent = [trial for trial in trials if trial.at >= KNOWN * len(panel.weeks)] or [newest]
    held = [trial.window(blend) for trial in recent if not trial.said.keys().isdisjoint(blend.names)]
    return Choice(
        blend,
        _judged(panel, horizon, newest, blend, scores, len(trials), unable | untried),
        Calibration.fit(held, LEVELS, (*SUMS, *panel.levels)),
    )


def _unjudged(panel: Panel, blend: Blend, why: str, left_out: Mapping[str, str]) -> Choice:
    """Intervals as candidates say them; what moves series together as with a usual retailer."""
    served = in_words(blend, kinds(panel.sales))
    judgement = Judgement("unjudged", f"served: {served}; not judged: {why}", left_out=left_out)
    return Choice(blend, judgement, Calibration(dependence=Dependence.fit([], LEVELS)))


def _judged(
    panel: Panel,
    horizon: int,
    newest: _Tried,
    blend: Blend,
    scores: Mapping[str, Scores],
    windows: int,
    left_out: Mapping[str, str],
) -> Judgement:
    """The blend in the window before the cutoff, beside its candidates and last year's week."""
    cutoff = _week(panel, newest.at)
    served, naive = newest.scores(blend), _naive_scores(panel, cutoff, horizon)
    return Judgement(
        "passed" if served.wape <= naive.wape else "below_naive",
        f"served: {in_words(blend, kinds(panel.sales))}; weighed in {windows} windows of the past; in the last, the "
        f"{horizon} weeks after {cutoff}, WAPE / wQL were {served.wape:.4f} / {served.wql:.4f}{newest.error(blend)}, "
        f"those of the bar, last year's week as it is, {naive.wape:.4f} / {naive.wql:.4f}",
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
    """The weights for people: "52% ratio, 48% aligned_last_year (young series 60% pretrained, 40% ratio)". Of more
    than MOST_TOLD candidates the others go together.

    Args:
        kind: of the series, shape (N,).
    """
    found, count = np.unique(kind, return_counts=True)
    told = {}
    for k in found[count.argsort()[::-1]].tolist():
        parts = sorted(((weights[k], name) for name, weights in blend.weights.items()), reverse=True)
        parts = [(weight, name) for weight, name in parts if weight >= 0.005]
        if others := parts[MOST_TOLD:]:
            parts = [*parts[:MOST_TOLD], (sum(weight for weight, _ in others), f"the other {len(others)}")]
        told[KINDS[k]] = ", ".join(f"{100 * weight:.0f}% {name}" for weight, name in parts)
    (_, usual), *rest = told.items()
    beside = "; ".join(f"{name} series {parts}" for name, parts in rest if parts != usual)
    return f"{usual} ({beside})" if beside else usual


@dataclass(frozen=True)
class _Tried:
    """A window before the cutoff, at which `at` weeks were known, of the series scored: what blend.Trial holds, and the
    series' history (N, T), the probability that each returns (N, H), store and department (N,)."""

    at: int
    evidence: Trial
    history: NDArray[np.float64]
    returns: NDArray[np.float64]
    store: NDArray[np.str_]
    dept: NDArray[np.str_]

    @property
    def said(self) -> Mapping[str, NDArray[np.float64]]:
        return self.evidence.said

    def forecast(self, blend: Blend) -> NDArray[np.float64]:
        """As those candidates of the blend that were tried here would have forecast it; shape (N, Q, H)."""
        said = blend.among(list(self.said)).quantiles(self.said, self.evidence.kind)
        how = Combination(np.ones_like(self.returns), least_sales(self.history), self.returns)
        return how.quantiles(said, LEVELS)

    def scores(self, blend: Blend) -> Scores:
        return score(self.evidence.y, self.evidence.mask, self.forecast(blend), LEVELS, self.history)

    def error(self, blend: Blend) -> str:
        """How far the wQL of other stores may be from that of these, in words."""
        seen = self.evidence
        found = standard_error(seen.y, self.forecast(blend), LEVELS, seen.mask, self.store)
        return "" if np.isnan(found) else f" (give or take {found:.4f}, from store to store)"

    def window(self, blend: Blend) -> Window:
        seen = self.evidence
        return Window(seen.y, seen.mask, self.forecast(blend), volume(self.history), self.store, self.dept)


@dataclass
class _Trying:
    """Makes trials, and no forecast twice."""

    panel: Panel
    candidates: Plans
    num_samples: int
    progress: Progress | None
    elsewhere: NetworkForecast | None

    def __post_init__(self) -> None:
        self.made: dict[tuple[int, str], Said] = {}
        self.whole: dict[int, Retailer] = {}

    def trial(self, at: int, horizon: int, names: Iterable[str], again: bool = False) -> _Tried:
        """What those of the names that are able say when `at` weeks are known.

        Args:
            again: more candidates will be tried there: what they share is kept.
        """
        whole = self.whole.pop(at, None) or Retailer()
        if again:
            self.whole[at] = whole
        panel, cutoff = self.panel, _week(self.panel, at)
        window = scored_window(panel, cutoff, horizon, horizon)
        then = panel.until(cutoff)
        rows, weeks = window.among_known, window.y.shape[1]
        said = {}
        for name in names:
            if not CANDIDATES[name].unable(then, horizon, self.candidates[name]):
                said[name] = self._said(at, name, then, horizon, whole)[rows, :, :weeks]
        history = panel.sales[window.scored, :at]
        back = len(panel.weeks) - at
        evidence = Trial(window.y, window.mask, kinds(history), said, LEVELS, season=back % YEAR == 0)
        returns = probability_of_return(then, horizon)[rows, :weeks]
        return _Tried(at, evidence, history, returns, panel.store[window.scored], panel.dept[window.scored])

    def _said(self, at: int, name: str, then: Panel, horizon: int, whole: Retailer) -> Said:
        if (at, name) not in self.made:
            candidate = CANDIDATES[name]
            forecast = functools.partial(candidate.forecast, retailer=whole)
            if self.elsewhere and candidate.learns:
                forecast = functools.partial(self.elsewhere, name)
            self.made[at, name] = forecast(
                self.candidates[name], then, horizon, LEVELS, self.num_samples, self.progress
            )
        return self.made[at, name]


def _held_out(panel: Panel, horizon: int) -> int:
    """Weeks of a window: where hardly more than a year is known a shorter one leaves something to learn from."""
    horizon = min(horizon, VALIDATION_WEEKS)
    spare = len(panel.weeks) - FIRST_ORIGIN
    for enough in (spare // 2, spare):  # for what is trained on weeks after its first year; for what is not
        if enough >= SHORTEST_WINDOW:
            return min(horizon, enough)
    return horizon


def _origins(panel: Panel, horizon: int) -> list[int]:
    """Weeks known at the windows in which candidates without learning are tried: the one before the cutoff, those of
    the same season a year and two ago, and others back through the history, one horizon apart."""
    known = len(panel.weeks)
    most = max(min(FREE_WINDOWS, FREE_SERIES // len(panel)), 2)
    season = [known - years * YEAR for years in (1, 2)]
    others = range(known - 2 * horizon, 0, -horizon)
    found = dict.fromkeys(at for at in (known - horizon, *season, *others) if 0 < at <= known - horizon)
    usable = [at for at in found if scored_window(panel, _week(panel, at), horizon, horizon).scored.any()]
    return usable[:most]


def _trained_origins(panel: Panel, horizon: int, windows: int) -> list[int]:
    """The same for networks: the window before the cutoff, then the one a year ago where there was a year before it."""
    known = len(panel.weeks)
    year_ago = known - YEAR
    second = year_ago if year_ago >= FIRST_ORIGIN + horizon else known - 2 * horizon
    wanted = [at for at in (known - horizon, second) if at > 0][:windows]
    return [at for at in wanted if scored_window(panel, _week(panel, at), horizon, horizon).scored.any()]


def _prior(panel: Panel, names: Collection[str]) -> dict[str, float]:
    """Who has none, and is asked for by name, has one all the same."""
    priors = {name: CANDIDATES[name].prior for name in names}
    return {name: (prior.planned if _planned(panel) else prior.plain) or 1.0 for name, prior in priors.items()}


def _sparse(names: Iterable[str]) -> dict[str, float]:
    return {name: CANDIDATES[name].prior.sparse for name in names}


def _planned(panel: Panel) -> bool:
    """Whether any column is known ahead."""
    return panel.covariates is not None and bool(panel.covariates.known.any())


def _worth_adding(
    panel: Panel, newest: _Tried, trials: Sequence[_Tried], learned: Sequence[str], tolls: Mapping[str, float]
) -> tuple[Blend, dict[str, float]]:
    """The blend by a window in which networks were tried, without those that would add too little to it.

    Networks join the others one by one, those expected most of first. The first joins as it is; each after it has to
    lower the error of the blend by WORTH_ADDING.

    Returns:
        The blend; and of each network that adds too little by how much it changes the error, relative.
    """

    def blended(names: list[str]) -> tuple[Blend, float]:
        blend = fit([trial.evidence for trial in trials], _prior(panel, names), tolls, _sparse(names))
        return blend, newest.scores(blend).wql

    expected = _prior(panel, [name for name in learned if name in newest.said])
    first, *others = sorted(expected, key=lambda name: -expected[name]) or [""]
    names = [name for name in newest.said if name == first or name not in expected]
    blend, error = blended(names)
    little = {}
    for name in others:
        found, less = blended([*names, name])
        if less < (1 - WORTH_ADDING) * error:
            names, blend, error = [*names, name], found, less
        else:
            little[name] = less / error - 1 if error else 0.0
    return blend, little


def _tolls(trials: Sequence[_Tried], names: Collection[str]) -> dict[str, float]:
    """What candidates that know no season are expected to lose beyond what the trials show: a level that was harder to
    forecast in the season ahead, a year or two ago, than in the windows tried will be so again. Nothing where nobody
    knows better."""
    tried = [(trial.evidence.season, trial.scores(Blend.alone(FLAT)).wql) for trial in trials if FLAT in trial.said]
    wql = {which: [value for season, value in tried if season == which and value > 0] for which in (True, False)}
    if not all(wql.values()) or not any(CANDIDATES[name].seasonal for name in names):
        return {}
    harder = np.mean(wql[True]) / np.mean(wql[False])
    toll = max(float(harder) - HARDER, 0.0)
    return {name: toll for name in names if not CANDIDATES[name].seasonal}


def _served(blend: Blend) -> Blend:
    """Without the candidates that have too little weight to be worth their while."""
    most = {name: max(weights) for name, weights in blend.weights.items()}
    learned = sorted((name for name in most if CANDIDATES[name].learns), key=lambda name: -most[name])
    kept = {name for name in learned[:MOST_LEARNED] if most[name] >= LEAST_LEARNED}
    kept |= {name for name in most if not CANDIDATES[name].learns and most[name] >= LEAST_FREE}
    return blend.among([name for name in blend.names if name in kept] or [max(most, key=lambda name: most[name])])


def _week(panel: Panel, known: int) -> dt.date:
    """The last of so many weeks."""
    week: dt.date = panel.weeks[known - 1].astype(dt.date)
    return week


def _naive_scores(panel: Panel, cutoff: dt.date, horizon: int) -> Scores:
    window = scored_window(panel, cutoff, horizon, horizon)
    forecast = seasonal_naive(panel.until(cutoff), horizon, LEVELS)[window.among_known, :, : window.y.shape[1]]
    return score(window.y, window.mask, forecast, LEVELS, panel.sales[window.scored, : panel.position(cutoff) + 1])


def _in_words(unable: Mapping[str, str]) -> str:
    """The first of them; all are in Judgement.left_out."""
    told = [f"{name}: {why}" for name, why in unable.items()]
    return told[0] + (f"; nor are {len(told) - 1} others" if told[1:] else "") if told else ""
