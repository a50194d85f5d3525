"""Counter-based uniforms: each number is a pure function of (seed, series content, step, path).

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


def uniforms(keys: Words, steps: int, paths: NDArray[np.int64], kinds: int) -> NDArray[np.float32]:
    """float32 (kinds, steps, len(keys), len(paths)) strictly inside (0, 1); kinds is 1 or 2.

    `paths` are the numbers of the paths wanted. A path's uniforms do not depend on which others are drawn with it,
    nor on how many steps or series.
    """
    step = np.arange(steps, dtype=np.uint64)[:, None, None] << np.uint64(32)
    x = mix((step | paths.astype(np.uint64)) * _GAMMA + keys[:, None])
    out = np.empty((kinds, *x.shape), dtype=np.float32)
    for k in range(kinds):
        # 23 bits and half a step: exact in float32 and never 0 or 1
        part = (x >> np.uint64(41 - 23 * k)) & np.uint64((1 << 23) - 1)
        np.multiply(part, 2.0**-23, out=out[k], casting="unsafe")
        out[k] += np.float32(2.0**-24)
    return out
