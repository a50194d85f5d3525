"""The inner loops of dependence.py, compiled by Numba: NumPy would wait for memory here, for half of a prediction.

The results are NumPy's to the last bit: each sum and product is rounded by itself, in the order that it is written in.

Letters: N series, S sample paths, H weeks ahead, K names.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from forecast_platform.compiled import compiled

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_ONE, _M1, _M2 = (np.uint64(word) for word in (1, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_S0, _S1, _S2, _WEEK = (np.uint64(bits) for bits in (30, 27, 31, 32))


def _array(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C")


@numba.njit(inline="always")
def _mix(x: np.uint64) -> np.uint64:
    """randomness.mix of one word."""
    x = (x ^ (x >> _S0)) * _M1
    x = (x ^ (x >> _S1)) * _M2
    return x ^ (x >> _S2)


@compiled(_array(numba.uint64, 1), _array(numba.uint64, 3))
def random_words(keys: Words, words: Words) -> None:
    """A random word for each week and path of each name, shape (K, H, S), by the name's key, shape (K,)."""
    _, horizon, paths = words.shape
    counted = np.empty((horizon, paths), np.uint64)
    for week in range(horizon):
        for path in range(paths):
            counted[week, path] = _mix(((np.uint64(week) << _WEEK) | np.uint64(path)) + _ONE)
    for name in range(len(keys)):
        for week in range(horizon):
            for path in range(paths):
                words[name, week, path] = _mix(counted[week, path] ^ keys[name])


@compiled(_array(numba.int64, 3), _array(numba.float64, 1), _array(numba.float64, 2), _array(numba.float64, 3))
def add_over_time(order: NDArray[np.int64], normal: Floats, over_time: Floats, shocks: Floats) -> None:
    """Add over_time @ draws to the shocks of each name.

    Args:
        order: shape (K, H, S); normal: shape (S,). A name's draws are normal[order[name]].
        over_time: lower triangle, shape (H, H).
        shocks: shape (K, H, S), changed in place.
    """
    names, horizon, paths = order.shape
    drawn = np.empty((horizon, paths))
    for name in range(names):
        for week in range(horizon):
            for path in range(paths):
                drawn[week, path] = normal[order[name, week, path]]
            shock = shocks[name, week]
            for earlier in range(week + 1):
                part, draw = over_time[week, earlier], drawn[earlier]
                for path in range(paths):
                    shock[path] += part * draw[path]


@compiled(_array(numba.float64, 3), _array(numba.int64, 3), _array(numba.float64, 3))
def deal(ascending: Floats, order: NDArray[np.int64], dealt: Floats) -> None:
    """Give each series' and week's r-th value to the path order[series, week, r].

    Args:
        ascending: values in ascending order, shape (N, S, H). order: shape (N, H, S).
        dealt: where the paths are written, shape (N, S, H).
    """
    series, paths, horizon = ascending.shape
    for one in range(series):
        for week in range(horizon):
            for rank in range(paths):
                dealt[one, order[one, week, rank], week] = ascending[one, rank, week]
