"""Gradient boosted trees (LightGBM, the extra `trees`): all series, all weeks ahead and all covariates in one model.

A row is a series, an origin (a past week to forecast from) and a week ahead. Its features are what was known at the
origin and what is planned for the week ahead. Its target is the logarithm of sales over a unit known at the origin. The
unit is the outlook of last year; or the series' level, its mean over half a year, in two cases: there is no year of
history yet, or columns are known ahead and the level was nearer to what was sold. (Last year's week carries last year's
promotion.) A row's weight is its unit in sales.

Three quantiles are trained. Others are interpolated between their logarithms, linearly in normal quantiles.

Letters: N series over T weeks, Q quantile levels, H weeks ahead, F covariates.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.covariates import complete, divide_exposure, multiply_exposure
from forecast_platform.history.derived import TO_USUAL, source_of
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Retailer
from forecast_platform.models.candidate import Parameters, Prior, Progress, Quantiles
from forecast_platform.models.encoding import Categories
from forecast_platform.models.last_year.outlook import Outlook
from forecast_platform.models.last_year.reference import MAX_HORIZON, YEAR, one_year_back, times
from forecast_platform.models.networks import MIN_OBSERVATIONS
from forecast_platform.models.target import FIRST_ORIGIN, SHORTEST_AHEAD

LEVELS = (0.1, 0.5, 0.9)
OUTLOOK, LEVEL = "outlook", "level"  # units
ROUNDS, ROWS = 70, 200_000  # boosting rounds; rows to train on, about, drawn at random from more
STEP = 4  # weeks between origins
MEMORY = 26  # weeks before the origin that the level is taken from
SHORTEST_MEMORY = 8  # weeks known before the first origin
PADDING = 0.2  # added to sales and units, in usual weeks of sales: near 0 a logarithm makes much of little
LEAST = 0.02  # of the unit: sales below this count as this much
SPANS = (1, 2, 4, 8, 13)  # weeks before the origin; features are their mean logarithms over the level
RATIO_SPANS = (2, 4, 8, 26)  # likewise, over the outlook
PARAMETERS: dict[str, Any] = {
    "objective": "quantile",
    "learning_rate": 0.08,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "max_bin": 63,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    # The same on every machine.
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
PRIOR = Prior(0, 4)  # without a column known ahead it adds next to nothing to the others
_FORMAT = 1

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trees:
    """A trained model.

    Attributes:
        boosters: one for each of LEVELS, as LightGBM's model text.
        unit: OUTLOOK or LEVEL.
        categories: codes of stores and departments.
        features: covariates it was trained with, in order.
    """

    boosters: tuple[str, ...]
    unit: str
    categories: Categories
    features: tuple[str, ...]

    def save(self, path: Path) -> None:
        content = {**dataclasses.asdict(self), "categories": self.categories.to_json(), "format": _FORMAT}
        path.write_text(json.dumps(content))

    @classmethod
    def load(cls, path: Path) -> Trees:
        """What `save` wrote.

        Raises:
            ValueError: it is of another version of the platform.
        """
        content = json.loads(path.read_text())
        if content.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} holds trees of another version of the platform; train again")
        content |= {name: tuple(content[name]) for name in ("boosters", "features")}
        return cls(**{**content, "categories": Categories.from_json(content["categories"])})

    def forecast(self, panel: Panel, horizon: int, quantiles: Sequence[float], retailer: Retailer = WHOLE) -> Floats:
        """Quantiles of every series of the panel, shape (N, Q, H), in sales.

        Args:
            panel: ends at the cutoff; all series, or a shard of `retailer`.
            quantiles: any levels, ascending.

        Raises:
            ValueError: a covariate the model was trained with is missing, now or for the weeks ahead.
        """
        import lightgbm

        ready, _ = complete(panel, horizon, self.features, retailer)
        view = _View.of(ready, horizon, self.categories, retailer)
        rows = view.rows(len(panel.weeks), self.unit)
        logs = np.stack([
            np.asarray(lightgbm.Booster(model_str=text).predict(rows.features, num_threads=1)).reshape(rows.unit.shape)
            for text in self.boosters
        ], axis=1)  # fmt: skip
        forecast = np.exp(between(np.sort(logs, axis=1), quantiles) + rows.unit[:, None]) - rows.padding[:, None, None]
        return multiply_exposure(forecast, ready, horizon)


def train(panel: Panel, horizon: int, seed: int = 0, progress: Progress | None = None) -> Trees:
    """Train on the history of a panel that holds every series.

    Raises:
        ValueError: a covariate declared as known ahead is not, for the weeks ahead.
    """
    import lightgbm

    ready, _ = complete(panel, horizon)
    categories = Categories.of(panel)
    view = _View.of(ready, horizon, categories)
    origins = range(len(panel.weeks) - SHORTEST_AHEAD, SHORTEST_MEMORY - 1, -STEP)
    with_outlook = [origin for origin in origins if view.has_outlook(origin)]
    promoted = bool(view.planned) and _level_is_nearer(view, with_outlook)
    unit = OUTLOOK if with_outlook and not promoted else LEVEL
    cases = [(view.sold(origin), view.rows(origin, unit)) for origin in (with_outlook if unit == OUTLOOK else origins)]
    rng = np.random.default_rng(seed)
    part = min(ROWS / max(sum(np.count_nonzero(~np.isnan(sold)) for sold, _ in cases), 1), 1.0)
    features, targets, weights = [], [], []
    for sold, rows in cases:
        use = ~np.isnan(sold) & (rng.random(sold.shape) < part)
        size = np.exp(rows.unit)
        target = np.log(np.maximum(sold + rows.padding[:, None], LEAST * size)) - rows.unit
        features.append(rows.features[use.ravel()])
        targets.append(target[use])
        weights.append(size[use])
    weight = np.concatenate(weights)
    given = {**PARAMETERS, "seed": seed}
    data = lightgbm.Dataset(
        np.concatenate(features),
        np.concatenate(targets),
        weight=weight / weight.mean(),
        categorical_feature=[0, 1],
        params=given,
    )
    boosters = []
    for done, level in enumerate(LEVELS):
        if progress:
            progress("train", done, len(LEVELS))
        boosters.append(lightgbm.train({**given, "alpha": level}, data, ROUNDS).model_to_string())
    return Trees(tuple(boosters), unit, categories, ready.covariates.names if ready.covariates else ())


def _level_is_nearer(view: _View, origins: Sequence[int]) -> bool:
    """Whether the level alone was nearer to what was sold after the origins than the outlook, by absolute errors."""
    errors = {OUTLOOK: 0.0, LEVEL: 0.0}
    for origin in origins:
        sold, known = view.sold(origin), view.at(origin)
        for name in errors:
            forecast = np.exp(known.unit(name, view.horizon)) - known.padding[:, None]
            errors[name] += float(np.nansum(np.abs(forecast - sold)))
    return errors[LEVEL] < errors[OUTLOOK]


@dataclass(frozen=True)
class _SeriesRows:
    """The rows of N series from one origin.

    Attributes:
        features: shape (N * H, features).
        unit: logarithm of the unit, padding included, shape (N, H).
        padding: in sales, shape (N,).
    """

    features: NDArray[np.float32]
    unit: Floats
    padding: Floats


@dataclass(frozen=True)
class _KnownSales:
    """What was known of sales at an origin. All but the padding are logarithms, padding included.

    Attributes:
        padding: in sales, shape (N,).
        logs: sales of the last M weeks, MEMORY or fewer, shape (N, M), NaN where not observed.
        level: their mean, shape (N,).
        outlook, ahead: the outlook of the last weeks of these that have one, and of the H weeks ahead, shape (N, H);
            None where there is no outlook yet.
    """

    padding: Floats
    logs: Floats
    level: Floats
    outlook: Floats | None = None
    ahead: Floats | None = None

    def unit(self, name: str, horizon: int) -> Floats:
        """The logarithm of the unit named, shape (N, H)."""
        if name == LEVEL:
            return np.repeat(self.level[:, None], horizon, axis=1)
        assert self.ahead is not None
        return self.ahead


@dataclass(frozen=True)
class _View:
    """What rows are made of.

    Attributes:
        codes: of store and department, shape (N, 2).
        sales: divided by exposure, shape (N, T), NaN where not observed.
        usual: mean absolute sales from the first week to each week, shape (N, T).
        outlook: None where there is no year yet.
        covariates: name -> values, shape (N, T + H), derived columns among them.
        planned: the covariates that are not derived; prices as logarithms.
        last_year: name -> values of `planned` in the weeks that the reference was taken from, shape (N, T + H), NaN in
            the first year.
    """

    horizon: int
    codes: NDArray[np.int64]
    sales: Floats
    usual: Floats
    outlook: Outlook | None
    covariates: Mapping[str, Floats]
    planned: Mapping[str, Floats]
    last_year: Mapping[str, Floats]

    @classmethod
    def of(cls, ready: Panel, horizon: int, categories: Categories, retailer: Retailer = WHOLE) -> _View:
        """Of a panel from `complete`."""
        panel = divide_exposure(ready)
        sums, counts = np.abs(np.nan_to_num(panel.sales)).cumsum(axis=1), panel.observed.cumsum(axis=1)
        usual = np.maximum(sums / np.maximum(counts, 1), 1e-9)
        given = ready.covariates
        covariates = {} if given is None else dict(zip(given.names, given.values, strict=True))
        planned = {
            name: np.log(np.where(values > 0, values, 1)) if f"{name}, {TO_USUAL}" in covariates else values
            for name, values in covariates.items()
            if not source_of(name)
        }
        outlook, then, known = None, {}, len(panel.weeks)
        if known >= FIRST_ORIGIN and horizon <= MAX_HORIZON:
            events, outlook = Outlook.lined_up(panel, horizon, retailer)
            back = one_year_back(panel.weeks, horizon, events)
            there = back.sum(axis=0) > 0.99
            then = {name: np.where(there, times(each[:, :known], back), np.nan) for name, each in planned.items()}
        return cls(horizon, categories.encode(panel), panel.sales, usual, outlook, covariates, planned, then)

    def has_outlook(self, origin: int) -> bool:
        return self.outlook is not None and origin >= FIRST_ORIGIN

    def sold(self, origin: int) -> Floats:
        """What was sold in the weeks ahead, shape (N, H); NaN where not observed, and for series not seen before the
        origin."""
        before = np.asarray((~np.isnan(self.sales[:, :origin])).any(axis=1))
        sold = self.sales[:, origin : origin + self.horizon]
        sold = np.where(before[:, None], sold, np.nan)
        return np.pad(sold, ((0, 0), (0, self.horizon - sold.shape[1])), constant_values=np.nan)

    def at(self, origin: int) -> _KnownSales:
        """What was known when `origin` weeks were."""
        usual = self.usual[:, origin - 1]
        padding = PADDING * usual
        since = max(origin - MEMORY, 0)
        logs = np.log(np.maximum(self.sales[:, since:origin] + padding[:, None], LEAST * usual[:, None]))
        found = _mean(logs)
        level = np.where(np.isnan(found), np.log(usual + padding), found)
        if self.outlook is None or not self.has_outlook(origin):
            return _KnownSales(padding, logs, level)
        outlook = self.outlook.as_of(origin, slice(max(since, YEAR), origin + self.horizon))
        outlook = np.log(np.maximum(outlook, 0) + padding[:, None])
        return _KnownSales(padding, logs, level, outlook[:, : -self.horizon], outlook[:, -self.horizon :])

    def rows(self, origin: int, unit: str) -> _SeriesRows:
        """The rows of all series from an origin, given as weeks known."""
        known, weeks, shape = self.at(origin), slice(origin, origin + self.horizon), (len(self.sales), self.horizon)
        of_series = [_mean(known.logs[:, -span:]) - known.level for span in SPANS]
        of_series += [_mean((known.logs - known.level[:, None]) ** 2) ** 0.5, known.level]
        over_level = np.full(shape, np.nan) if known.ahead is None else known.ahead - known.level[:, None]
        of_weeks = [np.broadcast_to(np.arange(self.horizon), shape), over_level]
        of_weeks += [values[:, weeks] for values in self.covariates.values()]
        for values in self.planned.values():
            usually, lately = (values[:, max(origin - span, 0) : origin].mean(axis=1) for span in (MEMORY, STEP))
            of_weeks.append(values[:, weeks] - usually[:, None])
            of_series.append(lately - usually)
        if unit == OUTLOOK:
            assert known.outlook is not None
            ratio = known.logs[:, -known.outlook.shape[1] :] - known.outlook
            of_series += [_mean(ratio[:, -span:]) for span in RATIO_SPANS]
            of_weeks += [values[:, weeks] - self.last_year[name][:, weeks] for name, values in self.planned.items()]
        series = np.column_stack([self.codes, *of_series])
        features = np.column_stack([np.repeat(series, self.horizon, axis=0), *(each.ravel() for each in of_weeks)])
        return _SeriesRows(features.astype(np.float32), known.unit(unit, self.horizon), known.padding)


def _mean(values: Floats) -> Floats:
    """The mean of each row without NaN; NaN where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=1))


def between(logs: Floats, quantiles: Sequence[float]) -> Floats:
    """Quantiles at any levels, shape (N, Q, H), from those at LEVELS, shape (N, 3, H): linear in the quantiles of a
    normal distribution, between the three and beyond them."""
    known, asked = (np.array([NormalDist().inv_cdf(level) for level in levels]) for levels in (LEVELS, quantiles))
    at = np.clip(np.searchsorted(known, asked, side="right"), 1, len(known) - 1)
    part = ((asked - known[at - 1]) / (known[at] - known[at - 1]))[:, None]
    return np.asarray(logs[:, at - 1] + part * (logs[:, at] - logs[:, at - 1]))


def installed() -> str:
    """The version of LightGBM at hand; "" where there is none."""
    try:
        return importlib.metadata.version("lightgbm")
    except importlib.metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class TreesCandidate:
    """See candidate.Candidate."""

    name: str = "trees"
    learns: bool = True
    prior: Prior = PRIOR
    seasonal: bool = True

    @property
    def parameters(self) -> Mapping[str, str]:
        return {"lightgbm": installed()}  # part of what decides a model: another version trains other trees

    def unable(self, history: Panel, horizon: int, parameters: Parameters) -> str:
        if not installed():
            return "needs LightGBM: pip install 'forecast-platform[trees]'"
        known = int(history.observed[:, SHORTEST_MEMORY:].sum())
        return "" if known >= MIN_OBSERVATIONS else f"{known} observations to train on, {MIN_OBSERVATIONS} are needed"

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
        return train(history, horizon, int(parameters["seed"]), progress).forecast(history, horizon, quantiles)


TREES = TreesCandidate()
