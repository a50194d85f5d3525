"""A small network that ships trained: on made-up retailers it has learnt how last year's outlook errs.

It forecasts how far sales will be from the outlook, in units of how far they usually are:

    output[i, h] = (sales[i, h] - outlook[i, h]) / ((outlook[i, h] + usual[i]) * spread[i])

Here usual is the series' sales in a usual week, and spread the root mean square of its past errors. No season and no
size is left in the output, so what holds for one retailer holds for another: even a retailer of one series gets what
thousands have taught. The inputs say how the series, its store, its department and the whole retailer ran against the
outlook lately, and what kind of week is ahead. The outputs are quantiles at LEVELS. Nothing is trained on the
retailer's own sales.

`made_up` draws the retailers, `train` makes the weights.

Letters: N series, T weeks known, P of them after the first year, H weeks ahead, Q quantile levels, F inputs.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from forecast_platform.history.holidays import Event, retail_events
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import WHOLE, Groups, Retailer
from forecast_platform.models.last_year.outlook import Outlook
from forecast_platform.models.last_year.reference import YEAR

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
MIDDLE = LEVELS.index(0.5)
WEIGHTS = Path(__file__).with_name("weights.safetensors")
# Of the file WEIGHTS. It makes other weights another model: code_version is a digest of source files, such as this one.
SHA256 = "facd79eba71b192705fc34dbe49e8cb53b69d91e7fa9a627d9a924fc671a5109"
FARTHEST = 4.0  # inputs are cut at so many standard deviations from their mean

_DOUBT = 8  # the median spread of all series counts as much as so many weeks of a series' own
_CUT = 5.0  # errors are cut at so many spreads from the outlook
_AT_ONCE = 4096  # rows worked on at a time: they fit in the processor's cache

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """What the network reads, and what turns its outputs into sales.

    Attributes:
        series: inputs of each series, shape (N, F). weeks: further inputs of each week ahead, shape (N, H, F').
        outlook: in sales, shape (N, H). unit: sales that an output of 1 stands for, shape (N, H).
    """

    series: Floats
    weeks: Floats
    outlook: Floats
    unit: Floats

    @classmethod
    def of(cls, history: Panel, horizon: int, retailer: Retailer = WHOLE) -> Inputs:
        """The inputs at the end of a history of at least a year and a few weeks (target.FIRST_ORIGIN)."""
        known = _KnownInputs.of(history, horizon, retailer)
        series = [*known.errors(), *known.of_groups(), *known.lifetime(), *known.comparisons()]
        weeks = np.stack(list(known.weeks_ahead()), axis=2)
        return cls(np.stack(series, axis=1), weeks, known.ahead, (known.ahead + known.usual) * known.spread)


@dataclass(frozen=True)
class _Sums:
    """Numbers that can be added up over groups of series: those of R series, or the sums of R groups.

    Attributes:
        excess, outlook: sales minus the outlook, and the outlook, shape (R, P); 0 where not observed.
        reference: shape (R, P + H). members: how many series, shape (R, 1).
        errors: absolute relative errors, added up over weeks, shape (R, 2): of the level (the mean of the 13 weeks
            before each week), and of the outlook.
        size_products: sums over weeks, shape (R, 2): of errors (in spreads) times the week's size, and of size squared.
            Their ratio says whether large weeks come larger or smaller than the outlook has them.
    """

    excess: Floats
    outlook: Floats
    reference: Floats
    members: Floats
    errors: Floats
    size_products: Floats

    def by(self, groups: Sequence[Groups], retailer: Retailer) -> list[_Sums]:
        """The sums by each way of grouping. They are asked for together, because every shard waits for each request."""
        parts = [getattr(self, each.name) for each in fields(self)]
        wide = np.concatenate(parts, axis=1)
        ends = np.cumsum([part.shape[1] for part in parts])[:-1]
        sums = retailer.sums(*((each, wide) for each in groups))
        return [_Sums(*np.split(each, ends, axis=1)) for each in sums]


@dataclass(frozen=True)
class _KnownInputs:
    """What the inputs are made of.

    Attributes:
        reference: shape (N, T + H).
        past, ahead: the outlook as of now, of the P weeks known, shape (N, P), and of the H ahead, shape (N, H).
        sold, observed: shape (N, P), sold 0 where not observed.
        usual: sales in a usual week, shape (N, 1).
        spread: root mean square of errors / (outlook + usual) in the last year, shape (N, 1).
        pooled: the median spread of all series.
        z: errors / (outlook + usual) / spread, cut, 0 where not observed, shape (N, P).
        groups: stores, departments, and the whole retailer as one group.
        own: the numbers of each series. totals: their sums over each of `groups`.
    """

    history: Panel
    events: tuple[Event, ...]
    reference: Floats
    past: Floats
    ahead: Floats
    sold: Floats
    observed: NDArray[np.bool_]
    usual: Floats
    spread: Floats
    pooled: float
    z: Floats
    groups: tuple[Groups, ...]
    own: _Sums
    totals: list[_Sums]

    @classmethod
    def of(cls, history: Panel, horizon: int, retailer: Retailer) -> _KnownInputs:
        known = len(history.weeks)
        events, outlook = Outlook.lined_up(history, horizon, retailer)
        reference, all_weeks = outlook.reference, outlook.as_of(known, slice(YEAR, None))
        past, ahead = all_weeks[:, : known - YEAR], all_weeks[:, known - YEAR :]
        observed = history.observed[:, YEAR:]
        sold = np.where(observed, history.sales[:, YEAR:], 0.0)
        usual = reference[:, YEAR:known].mean(axis=1, keepdims=True)
        error = np.where(observed, (sold - past) / (past + usual), 0.0)
        count = observed[:, -YEAR:].sum(axis=1)
        squares = (np.clip(error[:, -YEAR:], -1, 1) ** 2).sum(axis=1)
        middle = retailer.median((squares / np.maximum(count, 1))[count > 0])
        pooled = 0.01 if middle is None else max(middle, 1e-6)
        spread = np.sqrt((squares + _DOUBT * pooled) / (count + _DOUBT))[:, None]
        z = np.clip(error / spread, -_CUT, _CUT)
        level, weeks = (
            _before(each, 13)[:, YEAR:]
            for each in (np.where(history.observed, history.sales, 0.0), history.observed.astype(np.float64))
        )
        level_error = np.where(observed & (weeks > 0), sold - level / np.maximum(weeks, 1), 0.0)
        excess = np.where(observed, sold - past, 0.0)
        errors = [np.minimum(np.abs(each) / (past + usual), 1).sum(axis=1) for each in (level_error, excess)]
        size = _size(reference, usual)[:, YEAR:known] * observed
        own = _Sums(
            excess,
            np.where(observed, past, 0.0),
            reference[:, YEAR:],
            np.ones((len(history), 1)),
            np.stack(errors, axis=1),
            np.stack([(z * size).sum(axis=1), (size**2).sum(axis=1)], axis=1),
        )
        groups = (Groups.of(history.store), Groups.of(history.dept), Groups.one(len(history)))
        totals, middle = own.by(groups, retailer), float(np.sqrt(pooled))
        return cls(
            history, events, reference, past, ahead, sold, observed, usual, spread, middle, z, groups, own, totals
        )

    def errors(self) -> Iterator[Floats]:
        """Of each series' errors lately: their spread, their means, their sizes, and whether they last."""
        z = self.z
        yield np.log(self.spread[:, 0])
        yield self._for_all(np.log(self.pooled))
        yield from np.pad(z, ((0, 0), (6, 0)))[:, -6:].T
        yield from (self._mean(z, weeks) for weeks in (4, 8, 13, 26, YEAR))
        yield from (np.sqrt(self._mean(z**2, weeks)) for weeks in (4, 13, 26))
        yield from (self._mean(np.abs(z), weeks) for weeks in (8, YEAR))
        neighbours = np.pad(z[:, 1:] * z[:, :-1], ((0, 0), (1, 0)))
        yield from (self._mean(neighbours, weeks) for weeks in (13, YEAR))

    def of_groups(self) -> Iterator[Floats]:
        """How store, department and retailer ran against the outlook lately, and how many series they have."""
        for groups, total in zip(self.groups, self.totals, strict=True):
            for weeks in (1, 4, 13):
                excess, base = total.excess[:, -weeks:].sum(axis=1), total.outlook[:, -weeks:].sum(axis=1)
                ratio = np.divide(excess, base, out=np.zeros_like(excess), where=base > 0)
                yield np.clip(ratio / self.pooled, -_CUT, _CUT)[groups.member]
            yield np.log(total.members[:, 0])[groups.member]

    def lifetime(self) -> Iterator[Floats]:
        """How long the retailer and the series are known, how often nothing was sold or observed, and the growth in the
        outlook."""
        history, total = self.history, len(self.history.weeks)
        yield self._for_all(np.log(total / 104))
        yield np.log((total - history.first) / 104)
        yield np.log1p(np.minimum(total - 1 - history.last, 26))
        yield np.log1p(self.observed[:, -YEAR:].sum(axis=1))
        nothing = (self.observed & (self.sold <= 0)).astype(np.float64)
        yield from (self._mean(nothing, weeks) for weeks in (13, YEAR))
        yield 1 - self.observed[:, -26:].mean(axis=1)
        growth = np.log(np.maximum(self.ahead, 1e-9)).mean(axis=1) - np.log(self.reference[:, total:]).mean(axis=1)
        growth = np.clip(growth, -1, 1)
        yield from (growth / self.spread[:, 0], growth)

    def comparisons(self) -> Iterator[Floats]:
        """How the level alone would have done against the outlook, and whether large weeks came larger or smaller."""
        for level_error, outlook in (self.own.errors.T, self._of_retailer(self.totals[-1].errors)):
            yield np.log((level_error + 1e-6) / (outlook + 1e-6))
        product, square = self.own.size_products.T
        yield np.clip(product / (square + 0.5), -_CUT, _CUT)
        product_of_all, square_of_all = self._of_retailer(self.totals[-1].size_products)
        yield np.clip(product_of_all / (square_of_all + 1), -_CUT, _CUT)
        yield np.log1p(square)

    def weeks_ahead(self) -> Iterator[Floats]:
        """Of each week ahead, shape (N, H): how far ahead, how large for the series and its groups, whether near an
        event, how far the outlook is from the level."""
        ahead, known = self.ahead, len(self.history.weeks)
        horizon = ahead.shape[1]
        steps = np.broadcast_to(np.arange(1.0, horizon + 1), ahead.shape)
        yield from (np.log(steps), steps / 12)
        size = _size(self.reference, self.usual)[:, known:]
        yield from (size, np.abs(size))
        # A week that is high for the whole retailer, or near an event, is a season. For one series it may be chance.
        for groups, total in zip(self.groups, self.totals, strict=True):
            usual = total.reference[:, : known - YEAR].mean(axis=1, keepdims=True)
            yield _size(total.reference, usual)[groups.member][:, known - YEAR :]
        days = self.history.weeks[0].astype(dt.date), self.history.weeks[-1].astype(dt.date)
        for events in (self.events, retail_events(*days) if self.history.events is None else self.history.events):
            yield np.broadcast_to(_near(self.history.weeks, horizon, events)[known:], ahead.shape)
        for weeks in (4, 13, 39):
            count = self.observed[:, -weeks:].sum(axis=1)
            level = self.sold[:, -weeks:].sum(axis=1) / np.maximum(count, 1)
            level = np.where(count > 0, level, ahead.mean(axis=1))[:, None]
            yield np.clip((level - ahead) / (ahead + self.usual) / self.spread, -_CUT, _CUT)

    def _mean(self, values: Floats, weeks: int) -> Floats:
        """The mean over the last weeks, shrunk towards 0, the more so the fewer of them were observed; shape (N,)."""
        return np.asarray(values[:, -weeks:].sum(axis=1) / (self.observed[:, -weeks:].sum(axis=1) + 1))

    def _for_all(self, value: float) -> Floats:
        return np.full(len(self.z), value)

    def _of_retailer(self, total: Floats) -> Floats:
        """A row of the retailer's totals, shape (1, columns), repeated for each series: shape (columns, N)."""
        return np.repeat(total.T, len(self.z), axis=1)


def _size(of: Floats, usual: Floats) -> Floats:
    """How large weeks are: the logarithm of their reference over a usual week's, damped near 0."""
    return np.asarray(np.log((of + 0.1 * usual) / (1.1 * usual)))


def _before(values: Floats, weeks: int) -> Floats:
    """The sum of the `weeks` values before each value, shape (N, T)."""
    until = np.pad(values.cumsum(axis=1), ((0, 0), (weeks + 1, 0)))
    return np.asarray(until[:, weeks:-1] - until[:, : values.shape[1]])


def _near(weeks: NDArray[np.datetime64], horizon: int, events: Sequence[Event]) -> Floats:
    """1 for the weeks near one of the events (from event.before weeks before it to event.after after it), else 0, shape
    (T + H,)."""
    ends = weeks[0] + 7 * np.arange(len(weeks) + horizon)
    near = np.zeros(len(ends))
    for event in events:
        days = (ends[:, None] - np.array(event.dates, dtype="datetime64[D]")).astype(np.int64)
        after = days // 7  # weeks from the event's own week
        near[((after >= -event.before) & (after <= event.after)).any(axis=1)] = 1
    return near


@dataclass(frozen=True)
class Ensemble:
    """An ensemble of K multilayer perceptrons with SiLU activations (x / (1 + exp -x)). Their quantiles are averaged.

    Attributes:
        mean, std: of the inputs in training, shape (F + F',).
        members: of each of the K, layer by layer, weights (inputs, outputs) and biases (outputs,). The last layer's
            outputs are the median, and the steps from each level to the next before softplus.
    """

    mean: Floats
    std: Floats
    members: tuple[tuple[tuple[Floats, Floats], ...], ...]

    def forecast(self, inputs: Inputs) -> Floats:
        """Quantiles in sales at LEVELS, shape (N, Q, H)."""
        n, horizon = inputs.outlook.shape
        of_series = inputs.series.shape[1]
        series = self._standard(inputs.series, slice(None, of_series))
        weeks = self._standard(inputs.weeks, slice(of_series, None)).reshape(n * horizon, -1)
        which = np.repeat(np.arange(n), horizon)
        outputs = np.zeros((n * horizon, len(LEVELS)))
        for layers in self.members:
            (weight, bias), *rest = layers
            known = _product(series, weight[:of_series]) + bias
            for low in range(0, len(outputs), _AT_ONCE):
                rows = slice(low, low + _AT_ONCE)
                x = known[which[rows]] + _product(weeks[rows], weight[of_series:])
                for weight_, bias_ in rest:
                    x = _product(x / (1 + np.exp(-x)), weight_) + bias_
                outputs[rows] += quantiles_of(x) / len(self.members)
        outputs = outputs.reshape(n, horizon, -1).swapaxes(1, 2)
        return inputs.outlook[:, None] + inputs.unit[:, None] * outputs

    def _standard(self, values: Floats, columns: slice) -> Floats:
        return np.clip((values - self.mean[columns]) / self.std[columns], -FARTHEST, FARTHEST)

    def to_bytes(self) -> bytes:
        named = {"mean": self.mean, "std": self.std}
        for k, layers in enumerate(self.members):
            for layer, (weight, bias) in enumerate(layers):
                named |= {f"{k}.{layer}.weight": weight, f"{k}.{layer}.bias": bias}
        return bytes(save({name: np.ascontiguousarray(values, np.float32) for name, values in named.items()}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Ensemble:
        named: Mapping[str, Floats] = {name: values.astype(np.float64) for name, values in load(data).items()}
        members: dict[int, dict[int, tuple[Floats, Floats]]] = {}
        for name in named:
            if name.endswith(".weight"):
                k, layer, _ = name.split(".")
                pair = named[name], named[f"{k}.{layer}.bias"]
                members.setdefault(int(k), {})[int(layer)] = pair
        ordered = tuple(tuple(layers[i] for i in sorted(layers)) for _, layers in sorted(members.items()))
        return cls(named["mean"], named["std"], ordered)


@functools.cache
def shipped() -> Ensemble:
    """The network that ships.

    Raises:
        ValueError: the file of its weights is not the one this code was released with.
    """
    data = WEIGHTS.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{WEIGHTS} is not the file of this release; install the package again")
    return Ensemble.from_bytes(data)


def quantiles_of(outputs: Floats) -> Floats:
    """Quantiles, shape (R, Q), from a network's outputs, shape (R, Q): the median, then the steps from each level to
    the next before softplus."""
    steps = np.logaddexp(0, outputs[:, 1:])
    below = -np.cumsum(steps[:, :MIDDLE][:, ::-1], axis=1)[:, ::-1]
    above = np.cumsum(steps[:, MIDDLE:], axis=1)
    return np.asarray(outputs[:, :1] + np.concatenate([below, np.zeros((len(outputs), 1)), above], axis=1))


def _product(x: Floats, weight: Floats) -> Floats:
    """`x @ weight`, see kernels.py."""
    from forecast_platform.kernels import product  # Numba takes a while to load

    return product(x, weight)
