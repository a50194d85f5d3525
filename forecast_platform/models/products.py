"""Products of matrices, compiled by Numba: each row is the same to the last bit, however many rows there are.

A BLAS does not promise that: it may add in another order where a matrix has more rows. Forecasts must not depend on the
number of shards, so here products are rounded and added one by one, in the order of the columns.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from forecast_platform.compiled import compiled

Floats = NDArray[np.float64]

_MATRIX = numba.types.Array(numba.float64, 2, "C")
_POSITIONS = numba.types.Array(numba.int64, 2, "C")


@compiled(_MATRIX, _POSITIONS, _MATRIX, _MATRIX)
def _of_few(cells: Floats, at: NDArray[np.int64], weights: Floats, total: Floats) -> None:
    for row in range(len(cells)):
        for source in range(len(at)):
            for column in range(at.shape[1]):
                total[row, column] += cells[row, at[source, column]] * weights[source, column]


@compiled(_MATRIX, _MATRIX, _MATRIX)
def _of_all(x: Floats, weights: Floats, total: Floats) -> None:
    for row in range(len(x)):
        for source in range(len(weights)):
            value = x[row, source]
            for column in range(weights.shape[1]):
                total[row, column] += value * weights[source, column]


def of_few(cells: Floats, weights: Floats) -> Floats:
    """`cells @ weights`, shapes (..., T) and (T, M), where each column has few weights that are not 0."""
    sources = np.count_nonzero(weights, axis=0).max(initial=0)
    # Rows of each column's weights: first those that are not 0, in order; zeros up to the longest column.
    at = np.argsort(weights == 0, axis=0, kind="stable")[:sources].astype(np.int64)
    *outer, weeks = cells.shape
    total = np.zeros((math.prod(outer), weights.shape[1]))
    rows = np.ascontiguousarray(cells, np.float64).reshape(len(total), weeks)
    _of_few(rows, at, np.ascontiguousarray(np.take_along_axis(weights, at, axis=0), np.float64), total)
    return total.reshape(*outer, weights.shape[1])


def product(x: Floats, weights: Floats) -> Floats:
    """`x @ weights`, shapes (N, T) and (T, M)."""
    total = np.zeros((len(x), weights.shape[1]))
    _of_all(np.ascontiguousarray(x, np.float64), np.ascontiguousarray(weights, np.float64), total)
    return total
