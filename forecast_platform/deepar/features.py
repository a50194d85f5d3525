"""What the calendar and the frequency give: lags, time features and the arithmetic of positions in time.

Positions count whole steps of the series' own frequency from its own start, so a weekly series keeps
whatever weekday it starts on. No torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_platform.deepar.hyperparameters import ContractError

_BASE = {"M": ("M", 1), "W": ("D", 7), "D": ("D", 1), "H": ("h", 1), "min": ("m", 1)}


@dataclass(frozen=True)
class Frequency:
    """A step such as 1W or 15min: `step` counts of numpy's datetime unit `base`."""

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

    def times(self, start: NDArray[np.datetime64], position: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """The time of each position; weekly and shorter steps keep the start's time of day."""
        if self.unit == "M":
            return (self.ordinals(start) + position * self.step).astype("datetime64[M]")
        out: NDArray[np.datetime64] = start + (position * self.step).astype(f"timedelta64[{self.base}]")
        return out

    @property
    def num_features(self) -> int:
        return {"M": 1, "W": 2, "D": 3, "H": 4, "min": 5}[self.unit]


# Per unit: how many short lags, then (season in units, how many of them, how far to look on either side).
_SEASONS: dict[str, tuple[int, tuple[tuple[float, int, int], ...]]] = {
    "M": (7, ((12, 3, 1),)),
    "W": (8, ((12, 1, 0), (52, 3, 1))),
    "D": (7, ((7, 4, 1), (30.5, 1, 0), (365, 2, 1))),
    "H": (7, ((24, 7, 1), (168, 3, 1), (8736, 1, 1))),
    "min": (7, ((60, 3, 1), (1440, 7, 1), (10080, 3, 1))),
}


def lags_for(time_freq: str, longest: int) -> tuple[int, ...]:
    """Lags in steps, ascending, for a frequency; those no series of `longest` values could fill are left out.

    One step per unit gives for W: 1..8, 12, 51-53, 103-105, 155-157. Multiples divide the season.
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
    """Time features of a whole set as one table, so that a window is a gather.

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
        # The coarsest grid that all starts share: for aligned series one row a step, not one a minute.
        grid = int(np.gcd.reduce(np.append(np.abs(ordinal - low), freq.step)))
        high = int((ordinal + last * freq.step).max())
        rows = np.arange(low, high + 1, grid, dtype=np.int64)
        return cls(calendar_features(rows, freq), (ordinal - low) // grid, freq.step // grid)


def age_feature(position: NDArray[np.int64]) -> NDArray[np.float32]:
    """log10(2 + t) for position t in the series; the padding before the start counts as 0."""
    return np.log10(2.0 + np.maximum(position, 0)).astype(np.float32)
