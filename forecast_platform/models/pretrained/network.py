"""A small network that ships trained: it has learnt on made-up retailers how last year's outlook errs.

It forecasts how far sales will be from the outlook, in units of how far they usually are:

    output[i, h] = (sales[i, h] - outlook[i, h]) / ((outlook[i, h] + usual[i]) * spread[i])

No season and no size is left in that, so what holds for one retailer holds for another, and a retailer of one series
gets what thousands have taught. The network reads how the series, its store, its department and the whole retailer ran
against the outlook lately, and what kind of week is ahead; it says LEVELS quantiles of the output. Nothing is trained
where it forecasts.

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
# Of WEIGHTS. Other weights are another model, and code_version reads this.
SHA256 = "facd79eba71b192705fc34dbe49e8cb53b69d91e7fa9a627d9a924fc671a5109"
FARTHEST = 4.0  # standard deviations from the mean that an input is cut at

_DOUBT = 8  # weeks that the middle series' spread counts as
_CUT = 5.0  # spreads from the outlook that an error is cut at
_AT_ONCE = 4096  # rows: what is worked on stays in the cache

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """What the network sees, and the units of what it says.

    Attributes:
        series: of each series, shape (N, F). weeks: of each week ahead besides, shape (N, H, F').
        outlook: in sales, shape (N, H). unit: sales that an output of 1 stands for, shape (N, H).
    """

    series: Floats
    weeks: Floats
    outlook: Floats
    unit: Floats

    @classmethod
    def of(cls, history: Panel, horizon: int, retailer: Retailer = WHOLE) -> Inputs:
        """The inputs at the end of a history of at least a year and a few weeks (target.FIRST_ORIGIN)."""
        known = _Known.of(history, horizon, retailer)
        series = [*known.errors(), *known.of_groups(), *known.life(), *known.other_ways()]
        weeks = np.stack(list(known.weeks_ahead()), axis=2)
        return cls(np.stack(series, axis=1), weeks, known.ahead, (known.ahead + known.usual) * known.spread)


@dataclass(frozen=True)
class _Added:
    """What is added up over groups of series, of each of R series or groups.

    Attributes:
        more, outlook: sales beyond the outlook, and the outlook, of the weeks observed, shape (R, P).
        reference: shape (R, P + H). members: how many series, shape (R, 1).
        errors: of the level of the weeks before and of the outlook, shape (R, 2).
        met: errors in spreads times the weeks' size, and size squared, shape (R, 2).
    """

    more: Floats
    outlook: Floats
    reference: Floats
    members: Floats
    errors: Floats
    met: Floats

    def by(self, groups: Sequence[Groups], retailer: Retailer) -> list[_Added]:
        """The sums by each way of grouping. All are asked for at once: a round costs every shard."""
        parts = [getattr(self, each.name) for each in fields(self)]
        wide = np.concatenate(parts, axis=1)
        ends = np.cumsum([part.shape[1] for part in parts])[:-1]
        sums = retailer.sums(*((each, wide) for each in groups))
        return [_Added(*np.split(each, ends, axis=1)) for each in sums]


@dataclass(frozen=True)
class _Known:
    """What the inputs are made of.

    Attributes:
        reference: shape (N, T + H). past, ahead: the outlook of the P weeks known and the H ahead.
        sold, observed: shape (N, P), sold 0 where not observed. usual: a usual week, shape (N, 1).
        spread: of errors against the outlook, in parts of outlook and usual week, shape (N, 1); pooled: the middle one.
        z: errors in spreads, cut, 0 where not observed, shape (N, P).
        groups: stores, departments and the whole retailer. own: of each series; totals: of each of the groups.
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
    own: _Added
    totals: list[_Added]

    @classmethod
    def of(cls, history: Panel, horizon: int, retailer: Retailer) -> _Known:
        known = len(history.weeks)
        events, outlook = Outlook.lined_up(history, horizon, retailer)
        reference, every = outlook.reference, outlook.as_of(known, slice(YEAR, None))
        past, ahead = every[:, : known - YEAR], every[:, known - YEAR :]
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
        flat = np.where(observed & (weeks > 0), sold - level / np.maximum(weeks, 1), 0.0)
        more = np.where(observed, sold - past, 0.0)
        errors = [np.minimum(np.abs(each) / (past + usual), 1).sum(axis=1) for each in (flat, more)]
        size = _size(reference, usual)[:, YEAR:known] * observed
        own = _Added(
            more,
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
        """Each series' own errors lately: their size, which side, how even, whether they last."""
        z = self.z
        yield np.log(self.spread[:, 0])
        yield self._all_alike(np.log(self.pooled))
        yield from np.pad(z, ((0, 0), (6, 0)))[:, -6:].T
        yield from (self._mean(z, weeks) for weeks in (4, 8, 13, 26, YEAR))
        yield from (np.sqrt(self._mean(z**2, weeks)) for weeks in (4, 13, 26))
        yield from (self._mean(np.abs(z), weeks) for weeks in (8, YEAR))
        neighbours = np.pad(z[:, 1:] * z[:, :-1], ((0, 0), (1, 0)))
        yield from (self._mean(neighbours, weeks) for weeks in (13, YEAR))

    def of_groups(self) -> Iterator[Floats]:
        """How store, department and retailer ran against the outlook, and of how many series that is."""
        for groups, total in zip(self.groups, self.totals, strict=True):
            for weeks in (1, 4, 13):
                more, base = total.more[:, -weeks:].sum(axis=1), total.outlook[:, -weeks:].sum(axis=1)
                ratio = np.divide(more, base, out=np.zeros_like(more), where=base > 0)
                yield np.clip(ratio / self.pooled, -_CUT, _CUT)[groups.member]
            yield np.log(total.members[:, 0])[groups.member]

    def life(self) -> Iterator[Floats]:
        """How long the retailer and the series are known, weeks without sales, and the growth in the outlook."""
        history, total = self.history, len(self.history.weeks)
        yield self._all_alike(np.log(total / 104))
        yield np.log((total - history.first) / 104)
        yield np.log1p(np.minimum(total - 1 - history.last, 26))
        yield np.log1p(self.observed[:, -YEAR:].sum(axis=1))
        nothing = (self.observed & (self.sold <= 0)).astype(np.float64)
        yield from (self._mean(nothing, weeks) for weeks in (13, YEAR))
        yield 1 - self.observed[:, -26:].mean(axis=1)
        growth = np.log(np.maximum(self.ahead, 1e-9)).mean(axis=1) - np.log(self.reference[:, total:]).mean(axis=1)
        growth = np.clip(growth, -1, 1)
        yield from (growth / self.spread[:, 0], growth)

    def other_ways(self) -> Iterator[Floats]:
        """What the level alone would have been worth beside the outlook, and how large and small weeks were met."""
        for flat, outlook in (self.own.errors.T, self._of_all(self.totals[-1].errors)):
            yield np.log((flat + 1e-6) / (outlook + 1e-6))
        met, size = self.own.met.T
        yield np.clip(met / (size + 0.5), -_CUT, _CUT)
        met_by_all, size_of_all = self._of_all(self.totals[-1].met)
        yield np.clip(met_by_all / (size_of_all + 1), -_CUT, _CUT)
        yield np.log1p(size)

    def weeks_ahead(self) -> Iterator[Floats]:
        """Of each week ahead, (N, H): how far, how large for whom, near which days, how far from the level."""
        ahead, known = self.ahead, len(self.history.weeks)
        horizon = ahead.shape[1]
        steps = np.broadcast_to(np.arange(1.0, horizon + 1), ahead.shape)
        yield from (np.log(steps), steps / 12)
        size = _size(self.reference, self.usual)[:, known:]
        yield from (size, np.abs(size))
        # A week that is high for the whole retailer or near a named day is a season; one of a series may be chance.
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
        """Of the last weeks, nearer to 0 the fewer of them were observed, shape (N,)."""
        return np.asarray(values[:, -weeks:].sum(axis=1) / (self.observed[:, -weeks:].sum(axis=1) + 1))

    def _all_alike(self, value: float) -> Floats:
        return np.full(len(self.z), value)

    def _of_all(self, total: Floats) -> Floats:
        """The one row of the retailer's totals, for each series: shape (columns, N)."""
        return np.repeat(total.T, len(self.z), axis=1)


def _size(of: Floats, usual: Floats) -> Floats:
    return np.asarray(np.log((of + 0.1 * usual) / (1.1 * usual)))


def _before(values: Floats, weeks: int) -> Floats:
    """The sum of the `weeks` values before each, shape (N, T)."""
    until = np.pad(values.cumsum(axis=1), ((0, 0), (weeks + 1, 0)))
    return np.asarray(until[:, weeks:-1] - until[:, : values.shape[1]])


def _near(weeks: NDArray[np.datetime64], horizon: int, events: Sequence[Event]) -> Floats:
    """1 for the weeks whose sales follow one of the events, else 0, shape (T + H,)."""
    ends = weeks[0] + 7 * np.arange(len(weeks) + horizon)
    near = np.zeros(len(ends))
    for event in events:
        days = (ends[:, None] - np.array(event.dates, dtype="datetime64[D]")).astype(np.int64)
        after = days // 7  # weeks from the event's own week
        near[((after >= -event.before) & (after <= event.after)).any(axis=1)] = 1
    return near


@dataclass(frozen=True)
class Network:
    """Layers of sums and SiLU (x / (1 + exp -x)), K of them side by side whose quantiles are averaged.

    Attributes:
        mean, std: of the inputs in training, shape (F + F',).
        members: of each of the K, weights (inputs, outputs) and biases (outputs,), layer by layer. The last layer's
            outputs are the median and the steps from each level to the next, before softplus.
    """

    mean: Floats
    std: Floats
    members: tuple[tuple[tuple[Floats, Floats], ...], ...]

    def say(self, inputs: Inputs) -> Floats:
        """Quantiles in sales at LEVELS, shape (N, Q, H)."""
        n, horizon = inputs.outlook.shape
        of_series = inputs.series.shape[1]
        series = self._standard(inputs.series, slice(None, of_series))
        weeks = self._standard(inputs.weeks, slice(of_series, None)).reshape(n * horizon, -1)
        which = np.repeat(np.arange(n), horizon)
        said = np.zeros((n * horizon, len(LEVELS)))
        for layers in self.members:
            (weight, bias), *rest = layers
            known = _product(series, weight[:of_series]) + bias
            for low in range(0, len(said), _AT_ONCE):
                rows = slice(low, low + _AT_ONCE)
                x = known[which[rows]] + _product(weeks[rows], weight[of_series:])
                for weight_, bias_ in rest:
                    x = _product(x / (1 + np.exp(-x)), weight_) + bias_
                said[rows] += quantiles_of(x) / len(self.members)
        said = said.reshape(n, horizon, -1).swapaxes(1, 2)
        return inputs.outlook[:, None] + inputs.unit[:, None] * said

    def _standard(self, values: Floats, columns: slice) -> Floats:
        return np.clip((values - self.mean[columns]) / self.std[columns], -FARTHEST, FARTHEST)

    def to_bytes(self) -> bytes:
        named = {"mean": self.mean, "std": self.std}
        for k, layers in enumerate(self.members):
            for layer, (weight, bias) in enumerate(layers):
                named |= {f"{k}.{layer}.weight": weight, f"{k}.{layer}.bias": bias}
        return bytes(save({name: np.ascontiguousarray(values, np.float32) for name, values in named.items()}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Network:
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
def shipped() -> Network:
    """The network that ships.

    Raises:
        ValueError: the file of its weights is not the one this code was released with.
    """
    data = WEIGHTS.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{WEIGHTS} is not the file of this release; install the package again")
    return Network.from_bytes(data)


def quantiles_of(outputs: Floats) -> Floats:
    """The median and the steps from level to level, before softplus, to quantiles: shape (R, Q) both."""
    steps = np.logaddexp(0, outputs[:, 1:])
    below = -np.cumsum(steps[:, :MIDDLE][:, ::-1], axis=1)[:, ::-1]
    above = np.cumsum(steps[:, MIDDLE:], axis=1)
    return np.asarray(outputs[:, :1] + np.concatenate([below, np.zeros((len(outputs), 1)), above], axis=1))


def _product(x: Floats, weight: Floats) -> Floats:
    """`x @ weight`, see products.py."""
    from forecast_platform.models.products import product  # Numba takes a while to load

    return product(x, weight)
