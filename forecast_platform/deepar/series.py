"""Ragged time series as flat arrays, and the lags and time features that belong to their frequency.

Series i owns `values[indptr[i]:indptr[i + 1]]`; a missing observation is NaN. Positions count whole steps of the
series' own frequency from its own start, so a weekly series keeps whatever weekday it starts on. No torch, no files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forecast_platform.deepar.hyperparameters import ContractError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Starts = NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """N series of one frequency.

    Attributes:
        start: datetime64[s] (N,), the time of each series' first value.
        values: float32 (total,), NaN where missing.
        indptr: int64 (N + 1,), offsets into values.
        cat: int64 (N, n_cat) 0-based categories, or None.
        dynamic_feat: float32 (total_feat, F), time along the rows, or None.
        feat_indptr: int64 (N + 1,), offsets into the rows of dynamic_feat.
        labels: where series came from ("a.json line 3"), used in messages; may be empty.
    """

    start: Starts
    values: Floats
    indptr: Ints
    cat: Ints | None = None
    dynamic_feat: Floats | None = None
    feat_indptr: Ints | None = None
    labels: Sequence[str] = field(default=(), repr=False)

    @classmethod
    def from_arrays(
        cls,
        start: ArrayLike,
        targets: Sequence[ArrayLike] | tuple[ArrayLike, ArrayLike],
        cat: ArrayLike | None = None,
        dynamic_feat: Sequence[ArrayLike] | None = None,
        labels: Sequence[str] = (),
    ) -> SeriesSet:
        """Build a set from a list of arrays, or from a tuple (flat values, indptr). Inputs are copied.

        dynamic_feat holds one (F, length) array per series. Raises ContractError when shapes disagree, a
        series is empty, or a value is infinite or too large for float32.
        """
        first = np.atleast_1d(np.array(start, dtype="datetime64[s]"))
        if isinstance(targets, tuple) and len(targets) == 2:
            values = np.array(targets[0], dtype=np.float64).reshape(-1)
            indptr = np.array(targets[1], dtype=np.int64).reshape(-1)
        else:
            parts = [np.asarray(t, dtype=np.float64).reshape(-1) for t in targets]
            values = np.concatenate(parts) if parts else np.zeros(0)
            indptr = _offsets([len(p) for p in parts])
        if len(indptr) != len(first) + 1 or indptr[0] != 0 or indptr[-1] != len(values):
            raise ContractError(
                f"{len(first)} start times were given for {len(indptr) - 1} targets holding {len(values)} values"
            )
        categories = None
        if cat is not None:
            raw = np.asarray(cat)
            if raw.dtype.kind not in "iu":
                raise ContractError(f"cat has dtype {raw.dtype}; categories are 0-based whole numbers")
            categories = raw.astype(np.int64).reshape(len(first), -1)
        feats, feat_indptr = None, None
        if dynamic_feat is not None:
            feats, feat_indptr = _stack_features(dynamic_feat, len(first))
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        out = cls(first, narrow, indptr, categories, feats, feat_indptr, labels)
        out.validate()
        return out

    @classmethod
    def concatenate(cls, sets: Sequence[SeriesSet]) -> SeriesSet:
        """All series of the sets in one, in order. Either all sets have cat, or none; likewise dynamic_feat."""

        def joined(name: str) -> Any:
            parts = [getattr(each, name) for each in sets]
            return None if parts[0] is None else np.concatenate(parts)

        def offsets(name: str) -> Ints | None:
            parts = [getattr(each, name) for each in sets]
            return None if parts[0] is None else _offsets(np.concatenate([np.diff(part) for part in parts]))

        indptr = offsets("indptr")
        assert indptr is not None
        labels = [label for each in sets for label in each.labels]
        feats = joined("dynamic_feat"), offsets("feat_indptr")
        return cls(joined("start"), joined("values"), indptr, joined("cat"), *feats, labels)

    def validate(self) -> None:
        """Raise ContractError for an empty series, a bad start, or a value that is not a finite float32."""
        if np.isnat(self.start).any():
            raise ContractError(f"{self.name(int(np.isnat(self.start).argmax()))}: start is not a time")
        empty = self.lengths < 1
        if empty.any():
            raise ContractError(f"{self.name(int(empty.argmax()))}: target is empty; give at least one value")
        if np.isinf(self.values).any():
            where = int(np.isinf(self.values).argmax())
            i = int(np.searchsorted(self.indptr, where, side="right")) - 1
            raise ContractError(
                f"{self.name(i)}: target value {where - int(self.indptr[i])} is infinite or beyond 3.4e38; "
                "use null for a missing value"
            )
        if self.dynamic_feat is not None and not np.isfinite(self.dynamic_feat).all():
            assert self.feat_indptr is not None
            row = int((~np.isfinite(self.dynamic_feat)).any(axis=1).argmax())
            i = int(np.searchsorted(self.feat_indptr, row, side="right")) - 1
            raise ContractError(
                f"{self.name(i)}: dynamic_feat has a missing or infinite value at position "
                f"{row - int(self.feat_indptr[i])}; dynamic features must be complete"
            )

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> Ints:
        """int64 (N,), values per series, missing ones included."""
        return np.diff(self.indptr)

    @property
    def num_cat(self) -> int:
        return 0 if self.cat is None else int(self.cat.shape[1])

    @property
    def num_dynamic_feat(self) -> int:
        return 0 if self.dynamic_feat is None else int(self.dynamic_feat.shape[1])

    def name(self, index: int) -> str:
        """How messages call series `index`."""
        return self.labels[index] if len(self.labels) else f"series {index}"

    def target(self, index: int) -> Floats:
        return self.values[self.indptr[index] : self.indptr[index + 1]]

    def features(self, index: int) -> Floats | None:
        """(F, length) dynamic features of one series."""
        if self.dynamic_feat is None or self.feat_indptr is None:
            return None
        return self.dynamic_feat[self.feat_indptr[index] : self.feat_indptr[index + 1]].T

    def take(self, index: ArrayLike) -> SeriesSet:
        """The series at these positions, in this order."""
        at = np.asarray(index, dtype=np.int64).reshape(-1)
        values, indptr = _take_ragged(self.values, self.indptr, at)
        feats, feat_indptr = None, None
        if self.dynamic_feat is not None and self.feat_indptr is not None:
            feats, feat_indptr = _take_ragged(self.dynamic_feat, self.feat_indptr, at)
        labels = [self.labels[int(i)] for i in at] if len(self.labels) else ()
        cat = None if self.cat is None else self.cat[at]
        return SeriesSet(self.start[at], values, indptr, cat, feats, feat_indptr, labels)

    def without_last(self, steps: int) -> SeriesSet:
        """Every series cut `steps` values shorter; dynamic features stay. Series must be longer than that."""
        lengths = self.lengths - steps
        if (lengths < 1).any():
            i = int((lengths < 1).argmax())
            raise ContractError(
                f"{self.name(i)}: a test series needs more than prediction_length = {steps} values; "
                f"it has {int(self.lengths[i])}"
            )
        keep = np.arange(len(self.values)) < np.repeat(self.indptr[:-1] + lengths, self.lengths)
        indptr = _offsets(lengths)
        return SeriesSet(
            self.start, self.values[keep], indptr, self.cat, self.dynamic_feat, self.feat_indptr, self.labels
        )


def check_dynamic_feat(series: SeriesSet, prediction_length: int, *, inference: bool) -> None:
    """One rule for both modes: len(target) values in training, prediction_length more at inference.

    Raises ContractError naming the series and both lengths.
    """
    if series.dynamic_feat is None or series.feat_indptr is None:
        return
    want = series.lengths + (prediction_length if inference else 0)
    have = np.diff(series.feat_indptr)
    wrong = have != want
    if wrong.any():
        i = int(wrong.argmax())
        rule = "len(target) + prediction_length" if inference else "len(target)"
        raise ContractError(
            f"{series.name(i)}: dynamic_feat has {int(have[i])} values per feature; at "
            f"{'inference' if inference else 'training'} it needs {rule} = {int(want[i])}"
        )


def _offsets(lengths: ArrayLike) -> Ints:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def _take_ragged(flat: NDArray[Any], indptr: Ints, at: Ints) -> tuple[NDArray[Any], Ints]:
    lengths = np.diff(indptr)[at]
    out = _offsets(lengths)
    source = np.arange(out[-1]) + np.repeat(indptr[at] - out[:-1], lengths)
    return flat[source], out


def _stack_features(parts: Sequence[ArrayLike], n: int) -> tuple[Floats, Ints]:
    if len(parts) != n:
        raise ContractError(f"dynamic_feat was given for {len(parts)} of {n} series")
    arrays = [np.atleast_2d(np.asarray(p, dtype=np.float32)) for p in parts]
    widths = {a.shape[0] for a in arrays}
    if len(widths) > 1:
        raise ContractError(f"series have different numbers of dynamic features: {sorted(widths)}")
    return np.concatenate([a.T for a in arrays]), _offsets([a.shape[1] for a in arrays])


_BASE = {"M": ("M", 1), "W": ("D", 7), "D": ("D", 1), "H": ("h", 1), "min": ("m", 1)}


@dataclass(frozen=True)
class Frequency:
    """The length of a step, such as 1W or 15min: `step` times numpy's datetime unit `base`."""

    multiple: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Frequency:
        match = re.fullmatch(r"([1-9]\d*)(M|W|D|H|min)", text)
        if match is None:
            raise ContractError(f"time_freq is {text!r}; write a positive integer and one of M, W, D, H, min")
        return cls(int(match[1]), match[2])

    @property
    def base(self) -> str:
        return _BASE[self.unit][0]

    @property
    def step(self) -> int:
        return self.multiple * _BASE[self.unit][1]

    def ordinals(self, start: NDArray[np.datetime64]) -> NDArray[np.int64]:
        """Start times as counts of the base unit since 1970."""
        return start.astype(f"datetime64[{self.base}]").astype(np.int64)

    @property
    def num_features(self) -> int:
        return {"M": 1, "W": 2, "D": 3, "H": 4, "min": 5}[self.unit]


# Per unit: n for the lags 1 .. n, then (season in units, how many seasons back, steps on either side of each).
_SEASONS: dict[str, tuple[int, tuple[tuple[float, int, int], ...]]] = {
    "M": (7, ((12, 3, 1),)),
    "W": (8, ((12, 1, 0), (52, 3, 1))),
    "D": (7, ((7, 4, 1), (30.5, 1, 0), (365, 2, 1))),
    "H": (7, ((24, 7, 1), (168, 3, 1), (8736, 1, 1))),
    "min": (7, ((60, 3, 1), (1440, 7, 1), (10080, 3, 1))),
}


def lags_for(time_freq: str, longest: int) -> tuple[int, ...]:
    """Lags in steps, ascending, for a frequency. Those that a series of `longest` values could not fill are left out.

    1W gives 1..8, 12, 51-53, 103-105, 155-157. A longer step means fewer steps a season: 2W gives 25-27 for 51-53.
    """
    freq = Frequency.parse(time_freq)
    short, seasons = _SEASONS[freq.unit]
    lags = set(range(1, short + 1))
    for season, count, width in seasons:
        for k in range(1, count + 1):
            centre = round(season * k / freq.multiple)
            lags |= {centre + d for d in range(-width, width + 1)}
    return tuple(sorted(lag for lag in lags if 1 <= lag < max(longest, 2)))


def calendar_features(ordinals: NDArray[np.int64], freq: Frequency) -> NDArray[np.float32]:
    """Time features of base-unit ordinals, each in [-0.5, 0.5]: float32 (n, F).

    M: month of year. W: day of month, ISO week of year. D: day of week, of month, of year. H adds the hour
    of day, min the minute of hour: the features SageMaker documents per frequency.
    """
    times = ordinals.astype(f"datetime64[{freq.base}]")
    months = times.astype("datetime64[M]")
    if freq.unit == "M":
        columns = [(months.astype(np.int64) % 12) / 11]
    else:
        days = times.astype("datetime64[D]")
        day_number = days.astype(np.int64)
        weekday = (day_number + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
        day_of_month = (days - months.astype("datetime64[D]")).astype(np.int64) / 30
        if freq.unit == "W":
            thursday = days - weekday + 3  # a week belongs to the year of its Thursday
            first = thursday.astype("datetime64[Y]").astype("datetime64[D]")
            columns = [day_of_month, ((thursday - first).astype(np.int64) // 7) / 52]
        else:
            new_year = days.astype("datetime64[Y]").astype("datetime64[D]")
            columns = [weekday / 6, day_of_month, (days - new_year).astype(np.int64) / 365]
            if freq.unit in ("H", "min"):
                columns.append((times.astype("datetime64[h]").astype(np.int64) % 24) / 23)
            if freq.unit == "min":
                columns.append((ordinals % 60) / 59)
    return (np.stack(columns, axis=1) - 0.5).astype(np.float32)


@dataclass(frozen=True)
class Calendar:
    """Time features of a whole set as one table, from which a window takes its rows by index.

    Row `first[i] + stride * t` holds the features of series i at position t, for -before <= t < after.
    """

    table: NDArray[np.float32]
    first: NDArray[np.int64]
    stride: int

    @classmethod
    def build(cls, start: NDArray[np.datetime64], freq: Frequency, before: int, last: NDArray[np.int64]) -> Calendar:
        """`before` positions of padding in front of each start; `last` (N,) is each series' last position."""
        ordinal = freq.ordinals(start)
        low = int(ordinal.min()) - before * freq.step
        # The coarsest grid that all starts share: one row a step, not one a minute, where the series are aligned.
        grid = int(np.gcd.reduce(np.append(np.abs(ordinal - low), freq.step)))
        high = int((ordinal + last * freq.step).max())
        rows = np.arange(low, high + 1, grid, dtype=np.int64)
        return cls(calendar_features(rows, freq), (ordinal - low) // grid, freq.step // grid)
