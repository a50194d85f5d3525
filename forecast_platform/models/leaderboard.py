"""The leaderboard: scores at past cutoffs of every candidate, and of what the platform would have served; by slices.

A slice is some of the scored cells (series x week), such as the weeks 1 to 4 ahead. Of each forecast only sums over
slices are kept, so that slices add up to the whole, and cutoffs to a year. Ratios such as WAPE are made last.

Letters: S series scored, Q quantile levels, H weeks ahead.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.panel import Panel
from forecast_platform.levels import LEVELS, Level
from forecast_platform.models.backtest import BacktestRefused, BacktestResult, Forecaster, backtest, scored_window
from forecast_platform.models.calibration import volume
from forecast_platform.models.candidate import Plans, Progress
from forecast_platform.models.choose import Choice
from forecast_platform.models.registry import CANDIDATES

SERVED = "deepar"  # what the platform serves, by its name in files of backtests
FILE = "leaderboard.json"
MIN_WEEKS = 30  # see `backtest`
BAND = 4  # weeks ahead in a slice by horizon
BY = ("level", "horizon", "volume", "season")  # what slices are by
WHOLE = ("level", LEVELS[0].name)
VOLUMES = ("largest", "large", "small", "smallest")  # a quarter of the series each
SEASONS = ("Jan-Mar", "Apr-Jun", "Jul-Sep", "Oct-Dec")
_FORMAT = 1

Floats = NDArray[np.float64]
Cells = NDArray[np.bool_]
Slice = tuple[str, str]  # one of BY, and which: ("horizon", "1 to 4")


class LeaderboardLost(LookupError):
    """The saved leaderboard cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Tally:
    """Sums over the scored cells of a slice.

    Attributes:
        cells: how many. In a slice by a level of sums, a cell is a group's week.
        actual: sum|y|. abs_error: sum|y - p50|.
        quantile_loss: the sum of 2 x pinball loss, a mean over the quantile levels; None for sums of series, of which
            only the sum of medians is known.
        inside: how many cells are in [p10, p90]; None likewise, and where these were not forecast.
    """

    cells: int
    actual: float
    abs_error: float
    quantile_loss: float | None = None
    inside: int | None = None

    def __add__(self, other: Tally) -> Tally:
        loss = None if self.quantile_loss is None or other.quantile_loss is None else (
            self.quantile_loss + other.quantile_loss)  # fmt: skip
        inside = None if self.inside is None or other.inside is None else self.inside + other.inside
        return Tally(
            self.cells + other.cells, self.actual + other.actual, self.abs_error + other.abs_error, loss, inside
        )

    @property
    def wape(self) -> float | None:
        return _ratio(self.abs_error, self.actual)

    @property
    def wql(self) -> float | None:
        return _ratio(self.quantile_loss, self.actual)

    @property
    def coverage80(self) -> float | None:
        return _ratio(self.inside, self.cells)


@dataclass(frozen=True)
class Decision:
    """What was decided at a cutoff.

    Attributes:
        why: the platform's choice in words. weights: candidate -> its weight in what is served.
        unable: candidate -> why it could not forecast.
        cpu_seconds: candidate, or SERVED -> CPU time of its forecast, training included.
    """

    cutoff: dt.date
    why: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    unable: Mapping[str, str] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaderboard:
    """The candidates' tallies at each cutoff and slice, SERVED among them.

    Attributes:
        until: the last week of the data.
        tallies: (candidate, cutoff, slice) -> its tally; slices without a scored cell are left out.
        made_at, command, data: when and how it was made, for people.
    """

    horizon: int
    until: dt.date
    decisions: tuple[Decision, ...]
    tallies: Mapping[tuple[str, dt.date, Slice], Tally]
    made_at: dt.datetime | None = None
    command: str = ""
    data: str = ""

    @property
    def cutoffs(self) -> list[dt.date]:
        return [decision.cutoff for decision in self.decisions]

    @functools.cached_property
    def slices(self) -> list[Slice]:
        """In the order of BY; seasons from January on, whatever the order of the cutoffs."""
        found = dict.fromkeys(of for _, _, of in self.tallies)
        return sorted(found, key=lambda of: (BY.index(of[0]), SEASONS.index(of[1]) if of[0] == "season" else 0))

    @functools.cached_property
    def candidates(self) -> list[str]:
        """Those able at most cutoffs first; among equals the lowest mean regret first."""

        def place(name: str) -> tuple[int, float]:
            mean = self.mean_regret(name)
            return -len(self.forecast_at(name)), math.inf if mean is None else mean

        return sorted(self._names, key=place)

    def forecast_at(self, name: str) -> list[dt.date]:
        """The cutoffs at which a candidate was able."""
        return [cutoff for cutoff in self.cutoffs if (name, cutoff, WHOLE) in self.tallies]

    def tally(self, name: str, of: Slice = WHOLE, cutoff: dt.date | None = None) -> Tally | None:
        """At a cutoff, or over all at which the candidate was able; None where nothing was scored."""
        cutoffs = self.cutoffs if cutoff is None else [cutoff]
        found = [self.tallies[name, each, of] for each in cutoffs if (name, each, of) in self.tallies]
        return functools.reduce(Tally.__add__, found) if found else None

    def best(self, cutoff: dt.date) -> str | None:
        """The candidate that hindsight would have picked: the one with the lowest wQL after the cutoff."""
        scored = {name: self._wql(name, cutoff) for name in self._names if name != SERVED}
        known = {name: wql for name, wql in scored.items() if wql is not None}
        return min(known, key=lambda name: known[name]) if known else None

    def regret(self, name: str, cutoff: dt.date) -> float | None:
        """wQL / that of the best single candidate in hindsight; below 1 where a blend was better than each of them."""
        best = self.best(cutoff)
        own, best_wql = self._wql(name, cutoff), self._wql(best, cutoff) if best else None
        if own is None or best_wql is None:
            return None
        return _ratio(own, best_wql) if best_wql else (1.0 if own == 0 else None)

    def mean_regret(self, name: str) -> float | None:
        """The mean over the cutoffs at which there is a regret; None without any."""
        known = [regret for cutoff in self.cutoffs if (regret := self.regret(name, cutoff)) is not None]
        return sum(known) / len(known) if known else None

    @functools.cached_property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _, _ in self.tallies))

    def _wql(self, name: str, cutoff: dt.date) -> float | None:
        tally = self.tally(name, WHOLE, cutoff)
        return tally.wql if tally else None

    @property
    def unable(self) -> list[tuple[str, str, list[dt.date]]]:
        """Of each candidate that could not forecast: its name, why, and the cutoffs at which that was so."""
        found: dict[tuple[str, str], list[dt.date]] = {}
        for decision in self.decisions:
            for name, why in decision.unable.items():
                found.setdefault((name, why), []).append(decision.cutoff)
        return [(name, why, cutoffs) for (name, why), cutoffs in found.items()]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each candidate, cutoff and slice, with its sums and the scores made of them."""
        return [
            {"candidate": name, "cutoff": cutoff.isoformat(), "by": by, "of": of, **asdict(tally),
             "wape": tally.wape, "wql": tally.wql, "coverage80": tally.coverage80}
            for (name, cutoff, (by, of)), tally in self.tallies.items()
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Fit for json.dumps. `candidates` are best first. `best` and `regret` are for readers; `load` does without."""
        return {
            "format": _FORMAT,
            "made_at": self.made_at.isoformat() if self.made_at else None,
            "command": self.command,
            "data": self.data,
            "until": self.until.isoformat(),
            "horizon": self.horizon,
            "candidates": {name: {"mean_regret": self.mean_regret(name), "cutoffs": len(self.forecast_at(name))}
                           for name in self.candidates},
            "cutoffs": [
                {**asdict(decision), "cutoff": decision.cutoff.isoformat(), "best": self.best(decision.cutoff),
                 "regret": {name: self.regret(name, decision.cutoff) for name in self.candidates
                            if decision.cutoff in self.forecast_at(name)}}
                for decision in self.decisions
            ],
            "rows": self.rows(),
        }  # fmt: skip

    def save(self, folder: Path) -> Path:
        """Write FILE in the folder, whole or not at all; its path."""
        path = folder / FILE
        building = path.with_name(f".{FILE}.{os.getpid()}")
        building.write_text(json.dumps(self.to_json()))
        building.replace(path)
        return path

    @classmethod
    def load(cls, folder: Path) -> Leaderboard | None:
        """The leaderboard saved in the folder; None where there is none.

        Raises:
            LeaderboardLost: the file is of another version, or damaged.
        """
        path = folder / FILE
        try:
            data = json.loads(path.read_text())
            if data["format"] != _FORMAT:
                raise ValueError(data["format"])
            decisions = tuple(
                Decision(dt.date.fromisoformat(each["cutoff"]), each["why"], each["weights"], each["unable"],
                         each["cpu_seconds"])
                for each in data["cutoffs"]
            )  # fmt: skip
            tallies = {
                (row["candidate"], dt.date.fromisoformat(row["cutoff"]), (row["by"], row["of"])): Tally(
                    row["cells"], row["actual"], row["abs_error"], row["quantile_loss"], row["inside"]
                )
                for row in data["rows"]
            }
            until, made_at = dt.date.fromisoformat(data["until"]), dt.datetime.fromisoformat(data["made_at"])
            return cls(data["horizon"], until, decisions, tallies, made_at, data["command"], data["data"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise LeaderboardLost(f"{path} is of another version, or damaged; make it again") from error


def spread_cutoffs(panel: Panel, count: int, horizon: int) -> list[dt.date]:
    """Cutoffs spread evenly over a year, so that every season is scored. The last is the latest that a whole horizon
    follows. Of a short history there may be fewer.

    Raises:
        BacktestRefused: the history is too short for one.
    """
    last = len(panel.weeks) - 1 - horizon
    first = max(MIN_WEEKS - 1, last - round(52 * (count - 1) / count))
    if last < first:
        raise BacktestRefused(
            f"{len(panel.weeks)} weeks of history are too few: a cutoff needs {MIN_WEEKS} weeks before it and "
            f"{horizon} after it"
        )
    # From the last one back, so that a single cutoff is the latest.
    positions = np.unique(np.round(np.linspace(last, first, count)).astype(int))
    found: list[dt.date] = panel.weeks[positions].astype(dt.date).tolist()
    return found


def leaderboard(
    panel: Panel,
    cutoffs: Sequence[dt.date],
    horizon: int,
    served: Callable[[Callable[[Choice], None]], Forecaster],
    candidates: Plans,
    quantiles: Sequence[float],
    num_samples: int = 100,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
    each: Callable[[BacktestResult], None] = lambda result: None,
) -> Leaderboard:
    """Forecast and score what the platform would serve and every able candidate, once at every cutoff.

    Candidates are scored alone and without calibration.

    Args:
        panel, cutoffs, horizon, quantiles: see `backtest`.
        served: makes the platform's forecaster, given a function to be called with its choice.
        candidates: with their hyperparameters.
        tell: called with lines on what is done and decided.
        each: called with every result and its forecasts, which are not kept here.

    Raises:
        BacktestRefused, ValueError: see `backtest`; before anything is forecast where a cutoff is wrong.
    """
    cutoffs = sorted(set(cutoffs))
    backtest(panel, cutoffs, horizon, {}, quantiles, MIN_WEEKS)  # without forecasters it only checks the arguments
    decisions, tallies = [], {}
    for cutoff in cutoffs:
        listener = _Listener(tell)
        history = panel.until(cutoff)
        unable = {name: why for name, given in candidates.items()
                  if (why := CANDIDATES[name].unable(history, horizon, given))}  # fmt: skip
        for name, why in unable.items():
            tell(f"{name} at {cutoff}: not able: {why}")
        able = {name: _forecaster(name, given, num_samples, progress)
                for name, given in candidates.items() if name not in unable}  # fmt: skip
        window = scored_window(panel, cutoff, horizon, MIN_WEEKS)
        seconds = {}
        for name, forecaster in {SERVED: served(listener), **able}.items():
            (result,) = backtest(panel, [cutoff], horizon, {name: forecaster}, quantiles, MIN_WEEKS, tell)
            each(result)
            columns = [result.forecasts[f"p{round(q * 100)}"].to_numpy() for q in quantiles]
            forecast = np.stack(columns).reshape(len(quantiles), -1, horizon).swapaxes(0, 1)
            forecast = forecast[window.among_known, :, : window.y.shape[1]]
            for of, tally in tallied(panel, cutoff, horizon, forecast, quantiles).items():
                tallies[name, cutoff, of] = tally
            seconds[name] = result.cpu_seconds
        decisions.append(Decision(cutoff, "; ".join(listener.why), listener.weights, unable, seconds))
    return Leaderboard(horizon, panel.weeks[-1].astype(dt.date), tuple(decisions), tallies)


def tallied(
    panel: Panel, cutoff: dt.date, horizon: int, forecast: Floats, quantiles: Sequence[float]
) -> dict[Slice, Tally]:
    """The tallies of one forecast, by slice. The slices by horizon, by volume and by season each add up to WHOLE.

    Args:
        forecast: of the scored series, for the weeks ahead that have actuals, shape (S, Q, weeks).
    """
    window = scored_window(panel, cutoff, horizon, MIN_WEEKS)
    y, mask = window.y, window.mask
    end = panel.position(cutoff) + 1
    levels = list(quantiles)
    median = forecast[:, levels.index(0.5)]
    loss = np.zeros_like(y)
    for i, chance in enumerate(levels):
        error = y - forecast[:, i]
        loss += 2 * np.maximum(chance * error, (chance - 1) * error) / len(levels)
    inside = None
    if 0.1 in levels and 0.9 in levels:
        inside = (forecast[:, levels.index(0.1)] <= y) & (y <= forecast[:, levels.index(0.9)])

    def tally(cells: Cells) -> Tally:
        cells = cells & mask
        inside_count = None if inside is None else int(inside[cells].sum())
        error_sum, loss_sum = float(np.abs(y - median)[cells].sum()), float(loss[cells].sum())
        return Tally(int(cells.sum()), float(np.abs(y[cells]).sum()), error_sum, loss_sum, inside_count)

    names = panel.store[window.scored], panel.dept[window.scored]
    found = {WHOLE: tally(mask)}
    for level in (*LEVELS[1:], *panel.levels):
        found["level", level.name] = _tally_of_sums(level, names, y, median, mask)
    week = np.arange(y.shape[1])
    for start in range(0, horizon, BAND):
        last = min(start + BAND, horizon)
        name = f"{start + 1} to {last}" if last > start + 1 else f"{last}"
        found["horizon", name] = tally((week >= start) & (week < last) & mask)
    order = np.argsort(-volume(panel.sales[window.scored, :end]), kind="stable")
    for name, part in zip(VOLUMES, np.array_split(order, len(VOLUMES)), strict=True):
        found["volume", name] = tally(np.isin(np.arange(len(y)), part)[:, None] & mask)
    months = panel.weeks[end : end + y.shape[1]].astype("datetime64[M]").astype(int) % 12
    for quarter, name in enumerate(SEASONS):
        found["season", name] = tally((months // 3 == quarter) & mask)
    return {of: each for of, each in found.items() if each.cells}


def _tally_of_sums(level: Level, names: tuple[Any, Any], y: Floats, median: Floats, mask: Cells) -> Tally:
    """The tally of a level of sums, from the sums of actuals and of medians over each group.

    Args:
        names: stores and departments of the series, shape (S,) each.
    """
    groups, member = level.groups(*names)
    actual, forecast, counted = (np.zeros((len(groups), y.shape[1])) for _ in range(3))
    for sums, values in ((actual, y), (forecast, median), (counted, mask)):
        np.add.at(sums, member, np.where(mask, values, 0))
    return Tally(int((counted > 0).sum()), float(np.abs(actual).sum()), float(np.abs(actual - forecast).sum()))


def _forecaster(name: str, given: Mapping[str, str], num_samples: int, progress: Progress | None) -> Forecaster:
    """One candidate as a forecaster."""

    def forecast(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
        asked = {**given, "prediction_length": str(horizon)}
        return CANDIDATES[name].forecast(asked, history, horizon, quantiles, num_samples, progress)

    return forecast


class _Listener:
    """Called with each choice of the platform: keeps what a Decision holds, and tells why."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.why: list[str] = []
        self.weights: dict[str, float] = {}
        self._tell = tell

    def __call__(self, choice: Choice) -> None:
        self.why.append(choice.judgement.why)
        self.weights.update(choice.blend.usual)
        self._tell(choice.judgement.why)


def _ratio(part: float | None, whole: float) -> float | None:
    return part / whole if part is not None and whole > 0 else None
