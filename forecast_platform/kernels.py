"""Every loop that Numba compiles: those of an LSTM's step and its draw, of matrix products, and of sample paths.

A loop is compiled when it is first called, for this machine's processor, and comes out of a cache from then on.

- An LSTM's step (in sampling, and forwards and backwards in training) and the draw from Student's t. torch needs some
  ten calls for each; a call takes a microsecond to start and as long to work. A kernel is one pass that keeps a cell in
  registers from the gates' pre-activations to the new state. Matrix products stay torch's.
- Matrix products of which each row is the same to the last bit, however many rows there are. A BLAS may add in another
  order where a matrix has more rows. Forecasts must not depend on the number of shards, so here products are rounded
  and added one by one, in the order of the columns.
- The inner loops of models/dependence.py. NumPy would wait for memory there, for half of a prediction. The results are
  NumPy's to the last bit: each sum and product is rounded by itself, in the order that it is written in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import numba
import numpy as np
from llvmlite import binding
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Arguments = ParamSpec("Arguments")
Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_config: Any = numba.config

PROCESSOR: str = binding.get_host_cpu_name()  # in LLVM's words: "znver3", "cascadelake"
_features = binding.get_host_cpu_features()
if _config.CPU_FEATURES is None and _features.get("avx512f"):
    # By itself LLVM uses half of each register, for the sake of the clock; a BLAS beside it uses all of it.
    _config.CPU_FEATURES = _features.flatten() + ",-prefer-256-bit"


def compiled(*types: Any, **options: Any) -> Callable[[Callable[Arguments, None]], Callable[Arguments, None]]:
    """For arguments of these types; one of another type or layout is an error and no second compilation.

    It is compiled at its first call, which takes a second or so, and kept in a cache beside the source or in the user's
    folder. So a process compiles and loads only what it uses.
    """
    options = {"error_model": "numpy", "nogil": True, **options}

    def made(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
        @functools.cache
        def machine_code() -> Callable[..., None]:
            try:
                found: Callable[..., None] = numba.njit(numba.void(*types), cache=True, **options)(function)
            except RuntimeError:  # there is no folder to keep it in that can be written to
                found = numba.njit(numba.void(*types), **options)(function)
            return found

        @functools.wraps(function)
        def called(*given: Arguments.args, **named: Arguments.kwargs) -> None:
            machine_code()(*given, **named)

        return called

    return made


def _array(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C")


# --- an LSTM's step, and the draw from Student's t
#
# Arrays are float32 and C-contiguous. Dimension letters as in deepar/network.py, with K layers; gates are in the
# parameters' order: input, forget, output, candidate.

_ONE, _TWO, _ZERO = np.float32(1.0), np.float32(2.0), np.float32(0.0)
# e^-x = 2^n 2^r with n whole and |r| <= 1/2. x is clipped to [-43, 43]: beyond it sigmoid and tanh are constant in
# float32, and the product of two e^43 is still finite.
_LIMIT, _MINUS_LOG2_E = np.float32(43.0), np.float32(-1.4426950408889634)
_ROUNDER, _MANTISSA = np.float32(1.5 * 2**23), np.int32(23)  # what is added to _ROUNDER is rounded to whole numbers
# The polynomial of degree 5 with the least relative error to 2^r, 7.5e-8 (a linear program over 3,001 points).
_P0, _P1, _P2 = np.float32(1.000000072), np.float32(6.931469671e-1), np.float32(2.402211972e-1)
_P3, _P4, _P5 = np.float32(5.550713274e-2), np.float32(9.675541330e-3), np.float32(1.327647187e-3)
# Likewise to atanh(s) / s for s in [0, 1/3], a polynomial in s^2: 1.6e-7.
_T0, _T1, _T2, _T3 = (np.float32(t) for t in (9.999998354e-1, 3.333800145e-1, 1.979473046e-1, 1.711302620e-1))
_HALF, _LEAST_DF = np.float32(0.5), np.float32(2.0)
_BITS_OF_ONE = np.int32(0x3F800000)


def serve(like: torch.Tensor) -> bool:
    """Whether the kernels of a step and a draw take such a tensor: float32 on the CPU."""
    return like.device.type == "cpu" and str(like.dtype) == "torch.float32"


_1D, _2D, _3D, _4D, _5D = (_array(numba.float32, dimensions) for dimensions in (1, 2, 3, 4, 5))
# A product and a sum may be fused into one operation; nothing else is rearranged, so that a cell gets the same bits
# wherever in the array it stands.
_compiled = functools.partial(compiled, fastmath={"contract"})


@numba.njit(inline="always")
def _exp_minus(x: np.float32) -> np.float32:
    """exp(-x) for x clipped to [-43, 43], in operations that the compiler can vectorise."""
    y = min(max(x, -_LIMIT), _LIMIT)
    rounded = np.float32(y * _MINUS_LOG2_E + _ROUNDER)
    r = y * _MINUS_LOG2_E - (rounded - _ROUNDER)
    p = np.float32(((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0)
    exponent = np.int32(rounded.view(np.int32) << _MANTISSA)  # n, in the exponent bits of a float
    return np.int32(p.view(np.int32) + exponent).view(np.float32)


@numba.njit(inline="always")
def _sigmoid(x: np.float32) -> np.float32:
    return _ONE / (_ONE + _exp_minus(x))


@numba.njit(inline="always")
def _expm1(x: np.float32) -> np.float32:
    """exp(x) - 1 for x from 0 to 43, as precise near 0 as elsewhere."""
    y = min(x, _LIMIT) * -_MINUS_LOG2_E
    rounded = np.float32(y + _ROUNDER)
    r = y - (rounded - _ROUNDER)
    less = np.float32(((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r)  # 2^r - 1
    whole = np.int32(np.int32(rounded.view(np.int32) << _MANTISSA) + _BITS_OF_ONE).view(np.float32)  # 2^n
    return whole * less + (whole - _ONE)


@numba.njit(inline="always")
def _softplus(x: np.float32) -> np.float32:
    """log(1 + exp(x)); NaN for NaN."""
    size = abs(x)
    e = _exp_minus(size)
    s = e / (_TWO + e)  # log(1 + e) = 2 atanh(s)
    t = s * s
    return (x + size) * _HALF + _TWO * s * (((_T3 * t + _T2) * t + _T1) * t + _T0)


@_compiled(_2D, _1D, _1D, numba.float32, _1D)
def student_t(raw: Singles, log_u: Singles, cosine: Singles, floor: np.float32, out: Singles) -> None:
    """Draws in units of the scale: Likelihood's `parameters` and `sample` in one pass.

    Args:
        raw: (3, B), raw outputs. log_u, cosine: (B,), from Likelihood.prepare. floor: the least width. out: (B,).
    """
    for_df, location, for_width = raw[0], raw[1], raw[2]
    for b in range(len(out)):
        df, width = _LEAST_DF + _softplus(for_df[b]), _softplus(for_width[b]) + floor
        radius = np.sqrt(df * _expm1(log_u[b] * (-_TWO / df)))
        out[b] = location[b] + width * radius * cosine[b]


@_compiled(_3D, _3D, numba.int64, _2D, _2D)
def step(gates: Singles, known: Singles, paths: int, cells: Singles, hidden: Singles) -> None:
    """One layer's step while sampling.

    Args:
        gates: (4, N, B), products of weights and rows.
        known: (4, N, b), to be added to the `paths` columns of each of b series; b may be 0.
        cells: (N, B), replaced by the new ones.
        hidden: (N, B), receives the new state.
    """
    n, columns = cells.shape
    add = np.zeros((4, columns), np.float32)
    add_i, add_f, add_o, add_g = add[0], add[1], add[2], add[3]
    for k in range(n):
        for part in range(4):
            for series in range(known.shape[2]):
                add[part, series * paths : (series + 1) * paths] = known[part, k, series]
        i, f, o, g, cell, state = gates[0, k], gates[1, k], gates[2, k], gates[3, k], cells[k], hidden[k]
        for b in range(columns):
            e_i, e_f = _exp_minus(i[b] + add_i[b]), _exp_minus(f[b] + add_f[b])
            e_o, e_g = _exp_minus(o[b] + add_o[b]), _exp_minus(_TWO * (g[b] + add_g[b]))
            # A gate times a tanh in one division: sigmoid(i) tanh(g) = (1 - e^-2g) / ((1 + e^-i) (1 + e^-2g))
            new = cell[b] / (_ONE + e_f) + (_ONE - e_g) / ((_ONE + e_i) * (_ONE + e_g))
            e_c = _exp_minus(_TWO * new)
            cell[b] = new
            state[b] = (_ONE - e_c) / ((_ONE + e_o) * (_ONE + e_c))


@_compiled(numba.int64, _5D, _4D, _4D, _4D, _4D, _3D)
def forward_tick(
    tick: int, gates: Singles, cells: Singles, squashed: Singles, rows: Singles, constant: Singles, keep: Singles
) -> None:
    """From the products of weights and rows to the next tick's state, for all layers (ticks: network.LSTMLayers).

    Args:
        gates: (ticks, K, 4, N, B); this tick's are the products, and are replaced by the gates.
        cells: (ticks + 1, K, N, B); this tick's are read, the next one's written.
        squashed: (ticks, K, N, B); receives tanh of the new cell.
        rows: (ticks + 1, K, I + N, B). The next tick's receive each layer's hidden state in the layer's last N rows,
            and times `keep` in the first N rows of the layer above.
        constant: (K, 4, N, B), to be added to the products.
        keep: (K, N, B); the last layer's is not used.

    A layer whose first step has not come yet is left in a zero state.
    """
    layers, n, batch = keep.shape
    inputs = rows.shape[2] - n
    for layer in range(layers):
        began = layer <= tick
        gate, add = gates[tick, layer], constant[layer]
        for k in range(n):
            i, f, o, g = gate[0, k], gate[1, k], gate[2, k], gate[3, k]
            to_i, to_f, to_o, to_g = add[0, k], add[1, k], add[2, k], add[3, k]
            old, new, squash = cells[tick, layer, k], cells[tick + 1, layer, k], squashed[tick, layer, k]
            hidden = rows[tick + 1, layer, inputs + k]
            for b in range(batch):
                i[b], f[b], o[b] = _sigmoid(i[b] + to_i[b]), _sigmoid(f[b] + to_f[b]), _sigmoid(o[b] + to_o[b])
                g[b] = _TWO * _sigmoid(_TWO * (g[b] + to_g[b])) - _ONE
                cell = f[b] * old[b] + i[b] * g[b]
                squash[b] = _TWO * _sigmoid(_TWO * cell) - _ONE
                new[b] = cell if began else _ZERO
                hidden[b] = o[b] * squash[b] if began else _ZERO
            if layer < layers - 1:
                above, kept = rows[tick + 1, layer + 1, k], keep[layer, k]
                for b in range(batch):
                    above[b] = hidden[b] * kept[b]


@_compiled(numba.int64, _3D, _5D, _4D, _4D, _3D, _3D, _3D, _5D)
def backward_tick(
    tick: int,
    d_top: Singles,
    gates: Singles,
    cells: Singles,
    squashed: Singles,
    keep: Singles,
    d_rows: Singles,
    d_cells: Singles,
    d_gates: Singles,
) -> None:
    """From the gradients at the end of a tick to those of the gates' pre-activations, for all layers.

    Args:
        d_top: (T, N, B), of the last layer's hidden states.
        gates, cells, squashed: as `forward_tick` left them.
        keep: (K, N, B), as it took them; the last layer's are ones.
        d_rows: (K, 2N, B), of the next tick's rows: N for the layer's input from the layer below, then N for its own
            hidden state. A single layer has the latter only: (1, N, B).
        d_cells: (K, N, B), of the cells after the tick; replaced by those of the cells before it.
        d_gates: (ticks, K, 4, N, B); receives this tick's.
    """
    layers, n, batch = keep.shape
    from_below = d_rows.shape[1] - n
    for layer in range(layers):
        if layer > tick:  # its first step comes later
            d_gates[tick, layer] = _ZERO
            d_cells[layer] = _ZERO
            continue
        gate, d_gate = gates[tick, layer], d_gates[tick, layer]
        for k in range(n):
            i, f, o, g = gate[0, k], gate[1, k], gate[2, k], gate[3, k]
            d_i, d_f, d_o, d_g = d_gate[0, k], d_gate[1, k], d_gate[2, k], d_gate[3, k]
            old, squash, kept = cells[tick, layer, k], squashed[tick, layer, k], keep[layer, k]
            d_cell, d_hidden = d_cells[layer, k], d_rows[layer, from_below + k]
            d_above = d_rows[layer + 1, k] if layer < layers - 1 else d_top[tick - layer, k]
            for b in range(batch):
                at_i, at_f, at_o, at_g, at_squash = i[b], f[b], o[b], g[b], squash[b]
                dh = d_hidden[b] + d_above[b] * kept[b]
                dc = d_cell[b] + dh * at_o * (_ONE - at_squash * at_squash)
                d_i[b] = dc * at_g * at_i * (_ONE - at_i)
                d_f[b] = dc * old[b] * at_f * (_ONE - at_f)
                d_o[b] = dh * at_squash * at_o * (_ONE - at_o)
                d_g[b] = dc * at_i * (_ONE - at_g * at_g)
                d_cell[b] = dc * at_f


# --- products of matrices

_MATRIX, _POSITIONS = _array(numba.float64, 2), _array(numba.int64, 2)


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


# --- sample paths
#
# Letters: N series, S sample paths, H weeks ahead, K names.

_NEXT, _M1, _M2 = (np.uint64(word) for word in (1, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_S0, _S1, _S2, _WEEK = (np.uint64(bits) for bits in (30, 27, 31, 32))


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
            counted[week, path] = _mix(((np.uint64(week) << _WEEK) | np.uint64(path)) + _NEXT)
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
