"""Ragged time series as flat arrays: what training and prediction read.

Series i owns `values[indptr[i]:indptr[i + 1]]`; a missing observation is NaN. No torch, no files.
"""

from __future__ import annotations

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
        """All series of sets that are alike in what they have, in order."""

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
