"""Kernels compiled by Numba: the elementwise half of an LSTM's step (in sampling, and forwards and backwards in
training), and the draw from Student's t.

torch needs some ten calls a step for each; a call takes a microsecond to start and as long to work. A kernel is one
pass that keeps a cell in registers from the gates' pre-activations to the new state. Matrix products stay torch's.

Arrays are float32 and C-contiguous. Dimension letters as in network.py, with K layers; gates are in the parameters'
order: input, forget, output, candidate.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from forecast_platform.compiled import compiled

Floats = NDArray[np.float32]

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
    """Whether the kernels take such a tensor: float32 on the CPU."""
    return bool(like.device.type == "cpu" and like.dtype == torch.float32)


_1D, _2D, _3D, _4D, _5D = (numba.types.Array(numba.float32, dimensions, "C") for dimensions in (1, 2, 3, 4, 5))
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
def student_t(raw: Floats, log_u: Floats, cosine: Floats, floor: np.float32, out: Floats) -> None:
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
def step(gates: Floats, known: Floats, paths: int, cells: Floats, hidden: Floats) -> None:
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
    tick: int, gates: Floats, cells: Floats, squashed: Floats, rows: Floats, constant: Floats, keep: Floats
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
    d_top: Floats,
    gates: Floats,
    cells: Floats,
    squashed: Floats,
    keep: Floats,
    d_rows: Floats,
    d_cells: Floats,
    d_gates: Floats,
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
