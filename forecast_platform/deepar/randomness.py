"""Counter-based uniforms: each number is a pure function of (seed, series content, step, path, number of paths).

The mixing function is the finaliser of splitmix64 (Steele, Lea and Flood 2014; constants of Stafford's
variant 13).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forecast_platform.deepar.series import SeriesSet

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S = tuple(np.uint64(s) for s in (30, 27, 31))

Words = NDArray[np.uint64]


def mix(x: Words) -> Words:
    """splitmix64's finaliser, in place."""
    x ^= x >> _S[0]
    x *= _M1
    x ^= x >> _S[1]
    x *= _M2
    x ^= x >> _S[2]
    return x


def series_keys(series: SeriesSet, seed: int) -> Words:
    """uint64 (N,): one key per series from its start, values, categories, dynamic features and the seed."""
    key = np.full(len(series), seed, dtype=np.uint64)
    parts = [series.start.astype("datetime64[s]").astype(np.int64).view(np.uint64)]
    parts.append(_ragged(series.values[:, None], series.indptr))
    if series.cat is not None:
        parts += [c.astype(np.uint64) for c in series.cat.T]
    if series.dynamic_feat is not None and series.feat_indptr is not None:
        parts.append(_ragged(series.dynamic_feat, series.feat_indptr))
    for part in parts:
        key = mix(mix(key + _GAMMA) ^ part)
    return key


def _ragged(values: NDArray[np.float32], indptr: NDArray[np.int64]) -> Words:
    """Hash of each series' rows: the sum of the mixed (position, bits) pairs, and the length."""
    lengths = np.diff(indptr)
    # one bit pattern for all NaNs, and for both zeros
    clean = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0.0))
    bits = np.ascontiguousarray(clean, dtype=np.float32).view(np.uint32).astype(np.uint64)
    position = (np.arange(len(values)) - np.repeat(indptr[:-1], lengths)).astype(np.uint64)
    column = np.arange(values.shape[1], dtype=np.uint64) << np.uint64(40)
    mixed = mix((bits << np.uint64(32)) ^ mix((position[:, None] | column) + _GAMMA))
    total = np.add.reduceat(mixed.sum(axis=1, dtype=np.uint64), indptr[:-1])
    return mix(total + lengths.astype(np.uint64))


def keys_apart(keys: Words, number: int) -> Words:
    """The keys of network `number`, so that networks draw independent numbers; number 0 keeps the series' own."""
    return mix(keys + np.array([number], np.uint64) * _GAMMA) if number else keys


def uniforms(keys: Words, steps: int, paths: int, kinds: int) -> NDArray[np.float32]:
    """float32 (kinds, steps, N, paths) inside (0, 1) for N keys; kinds, the uniforms that one draw takes, is 1 or 2.

    Each number by itself is uniform, and independent of other steps and series. The paths of one series and step are
    not independent: they spread evenly over the unit interval (kinds 1) or square (kinds 2), so that quantiles need
    fewer paths. They are the points of a lattice, shifted at random and given to the paths in random order (Cranley and
    Patterson 1976; McKay, Beckman and Conover 1979). In the interval the points are equally far apart. In the square
    they are a Fibonacci lattice (Niederreiter 1992) of ceil(paths / 2) points, and each point again with 1/2 added to
    its second coordinate, modulo 1. The likelihoods that take two uniforms use the second as an angle, whose cosine
    then changes its sign: path p + ceil(paths / 2) mirrors path p (antithetic variates).
    """
    points = paths if kinds == 1 else -(-paths // 2)
    counter = np.arange(steps, dtype=np.uint64)[:, None, None] << np.uint64(32)
    x = mix((counter | np.arange(points + kinds, dtype=np.uint64)) * _GAMMA + keys[:, None])
    # 23 bits and half a step: exact in float32 and never 0 or 1
    shift = (x[..., points:] >> np.uint64(41)).astype(np.float64) * 2.0**-23 + 2.0**-24
    # a random order: a point's number is in the lowest 20 bits, and sorting by the random bits above shuffles it
    low = np.uint64((1 << 20) - 1)
    order = np.sort((x[..., :points] & ~low) | np.arange(points, dtype=np.uint64), axis=-1) & low
    out = np.empty((kinds, *x.shape[:2], paths), dtype=np.float32)
    np.divide(order + shift[..., :1], points, out=out[0, ..., :points], casting="same_kind")
    np.minimum(out[0], _BELOW_ONE, out=out[0])  # the last cell of many may round up
    if kinds == 2:
        angle = order * _GOLDEN + shift[..., 1:]
        out[0, ..., points:] = out[0, ..., : paths - points]
        out[1, ..., :points] = angle - np.floor(angle)
        out[1, ..., points:] = out[1, ..., : paths - points] + np.float32(0.5)
        out[1, ..., points:] -= out[1, ..., points:] >= 1.0
    return out


_GOLDEN = (5.0**0.5 - 1.0) / 2.0
_BELOW_ONE = np.float32(1.0 - 2.0**-24)
