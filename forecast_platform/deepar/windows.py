"""From series to the inputs of a network: checks of a training set, the forecast starts it offers, and windows. Windows
are cut from one padded tensor of all series, a whole batch at a time, by index arithmetic.

A window around forecast start t covers positions t - C .. t + H - 1. Dimension letters as in network.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.likelihoods import get_likelihood
from forecast_platform.deepar.series import Calendar, Frequency, SeriesSet, check_dynamic_feat

MIN_OBSERVATIONS = 300


def check_training_data(series: SeriesSet, hp: HyperParameters) -> tuple[tuple[int, ...], int]:
    """Check a training set against the contract: (cardinality, number of dynamic features) to use.

    Raises ContractError for fewer than 300 observations, only zeros, no series of prediction_length values,
    categories or dynamic features that are missing or do not fit, or values outside the likelihood's domain.
    """
    if not len(series):
        raise ContractError("the training set holds no series")
    keep = series.lengths >= hp.prediction_length
    if not keep.any():
        raise ContractError(
            f"every training series is shorter than prediction_length = {hp.prediction_length}; "
            f"the longest has {int(series.lengths.max())} values"
        )
    observed = ~np.isnan(series.values)
    if int(observed.sum()) < MIN_OBSERVATIONS:
        raise ContractError(
            f"the training set holds {int(observed.sum())} observations; DeepAR needs at least {MIN_OBSERVATIONS}"
        )
    if not np.any(series.values[observed]):
        raise ContractError("training time series consist of only zeros")
    get_likelihood(hp.likelihood).check_domain(series)
    num_feat = 0 if hp.num_dynamic_feat == "ignore" else series.num_dynamic_feat
    if isinstance(hp.num_dynamic_feat, int) and num_feat != hp.num_dynamic_feat:
        raise ContractError(f"num_dynamic_feat is {hp.num_dynamic_feat}; the series have {num_feat} dynamic features")
    if num_feat:
        check_dynamic_feat(series, hp.prediction_length, inference=False)
    return _check_categories(series, hp, keep), num_feat


def _check_categories(series: SeriesSet, hp: HyperParameters, keep: NDArray[Any]) -> tuple[int, ...]:
    if hp.cardinality == "ignore" or (hp.cardinality == "auto" and series.cat is None):
        return ()
    if series.cat is None:
        raise ContractError(f"cardinality is {list(hp.cardinality)}; the series have no cat")
    cat = series.cat
    if (cat < 0).any():
        i = int((cat < 0).any(axis=1).argmax())
        raise ContractError(f"{series.name(i)}: cat is {cat[i].tolist()}; categories are 0-based")
    counts = tuple(int(c) + 1 for c in cat.max(axis=0))
    if isinstance(hp.cardinality, tuple):
        if len(hp.cardinality) != cat.shape[1]:
            raise ContractError(
                f"cardinality names {len(hp.cardinality)} categorical features; the series have {cat.shape[1]}"
            )
        for k, (have, want) in enumerate(zip(counts, hp.cardinality, strict=True)):
            if have > want:
                i = int(cat[:, k].argmax())
                raise ContractError(
                    f"{series.name(i)}: cat[{k}] is {have - 1}; cardinality {want} allows 0 .. {want - 1}"
                )
        counts = hp.cardinality
    for k, count in enumerate(counts):
        seen = np.unique(cat[keep, k])
        if len(seen) < count:
            absent = int(np.setdiff1d(np.arange(count), seen)[0])
            raise ContractError(
                "Training set did not contain examples for all categories of the "
                f"{k}-th categorical feature: {len(seen)} of {count} values occur in series of at least "
                f"prediction_length values, {absent} does not. Number categories densely from 0"
            )
    return counts


def forecast_starts(series: SeriesSet, horizon: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """First and last position where a training window's forecast may start, per series: (N,) each, inclusive.

    At least one observed value lies before a start, and the horizon ends within the series. A series too short for
    both keeps one start, right after its first observed value.
    """
    seen = ~np.isnan(series.values)
    position = np.arange(len(series.values)) - np.repeat(series.indptr[:-1], series.lengths)
    unseen = np.where(seen, position, np.iinfo(np.int64).max)
    first = np.minimum(np.minimum.reduceat(unseen, series.indptr[:-1]), series.lengths - 1) + 1
    return first, np.maximum(first, series.lengths - horizon)


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Mean and standard deviation over the training set, of the log scale and of each dynamic feature (F_dyn,).

    Stored with the model.
    """

    log_scale_mean: float
    log_scale_std: float
    feat_mean: NDArray[np.float32]
    feat_std: NDArray[np.float32]

    @classmethod
    def fit(cls, series: SeriesSet, *, use_features: bool) -> Standardiser:
        """The moments of a training set. A constant gets a standard deviation of 1: standardised, it is 0."""
        size = np.abs(np.nan_to_num(series.values)).astype(np.float64)
        count = np.add.reduceat((~np.isnan(series.values)).astype(np.int64), series.indptr[:-1])
        mean = np.add.reduceat(size, series.indptr[:-1]) / np.maximum(count, 1)
        logs = np.log(mean[mean > 0]) if (mean > 0).any() else np.zeros(1)
        feat_mean = feat_std = np.zeros(0, dtype=np.float32)
        if use_features and series.dynamic_feat is not None:
            x = series.dynamic_feat.astype(np.float64)
            std = x.std(axis=0)
            feat_mean = x.mean(axis=0).astype(np.float32)
            feat_std = np.where(std > 1e-9 * np.abs(x).max(initial=1.0), std, 1.0).astype(np.float32)
        std_log = float(logs.std())
        return cls(float(logs.mean()), std_log if std_log > 1e-6 else 1.0, feat_mean, feat_std)


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """Inputs of B windows of T steps, and their targets.

    varying (T, 2L + F, B) as network.py orders it; log_scale, scale (B,); z, observed (T, B): targets in
    original units (0 where missing) and whether they count; cat (B, n_cat) or None.
    """

    varying: Tensor
    log_scale: Tensor
    scale: Tensor
    z: Tensor
    observed: Tensor
    cat: Tensor | None

    def columns(self, at: slice) -> WindowBatch:
        """The windows at these places in the batch, as views."""
        each = (self.log_scale[at], self.scale[at], self.z[:, at], self.observed[:, at])
        return WindowBatch(self.varying[..., at], *each, None if self.cat is None else self.cat[at])


class WindowSource:
    """A set of series on a device, ready to be cut into windows.

    Padding of C + longest lag on the left and H on the right keeps every index of a window inside the
    tensor, without a branch or a clamp. Missing cells and padding are NaN there; in a window they are 0, with an
    observed mask beside them.

    Args:
        scaling_length: the scale is the mean absolute value of so many steps before the forecast start; 0 means C.
        time_features: False sets calendar and age to 0.
    """

    def __init__(
        self,
        series: SeriesSet,
        *,
        time_freq: str,
        lags: tuple[int, ...],
        context: int,
        horizon: int,
        scaled: bool,
        moments: Standardiser,
        scaling_length: int = 0,
        time_features: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        self.context, self.horizon, self.scaled = context, horizon, scaled
        self.scaling_length = scaling_length or context
        self.device = torch.device(device)
        self.moments = moments
        self.pad = max(context + max(lags), self.scaling_length)
        lengths = series.lengths
        width = self.pad + int(lengths.max()) + horizon
        padded = np.full((len(series), width), np.nan, dtype=np.float32)
        row = np.repeat(np.arange(len(series)), lengths)
        within = np.arange(len(series.values)) - np.repeat(series.indptr[:-1], lengths)
        padded[row, self.pad + within] = series.values
        self.values = torch.from_numpy(padded).to(self.device)
        self.width = width
        # All that a window reads lies in the pad + H cells up to its end. Rows are counted from their first.
        steps = context + horizon
        lead = self.pad - context
        own = torch.arange(lead, lead + steps)
        lag = torch.tensor(lags)
        self.lag_rows = (own[:, None] - lag[None]).reshape(-1).to(self.device)  # (T * L,)
        self.own_rows = slice(lead, lead + steps)
        self.num_lags = len(lags)
        calendar = Calendar.build(series.start, Frequency.parse(time_freq), context, lengths.astype(np.int64) + horizon)
        self.calendar = torch.from_numpy(calendar.table).to(self.device)
        self.calendar_first = torch.from_numpy(calendar.first).to(self.device)
        self.stride = calendar.stride
        ages = torch.arange(int(lengths.max()) + horizon, dtype=torch.float32, device=self.device)
        self.age = torch.log10(2.0 + ages)
        if not time_features:
            self.calendar.zero_()
            self.age.zero_()
        self.cat = None if series.cat is None else torch.from_numpy(series.cat).to(self.device)
        self.feats: Tensor | None = None
        if len(moments.feat_mean) and series.dynamic_feat is not None and series.feat_indptr is not None:
            x = (series.dynamic_feat - moments.feat_mean) / moments.feat_std
            self.feats = torch.from_numpy(x).to(self.device)
            self.feat_first = torch.from_numpy(series.feat_indptr[:-1]).to(self.device)
            self.feat_len = torch.from_numpy(np.diff(series.feat_indptr)).to(self.device)

    @property
    def num_features(self) -> int:
        """F: time features, age and dynamic features."""
        return self.calendar.shape[1] + 1 + len(self.moments.feat_mean)

    def windows(self, which: Tensor, start: Tensor) -> WindowBatch:
        """Windows of series `which` (B,) with forecast starts `start` (B,), positions in the series."""
        steps = self.context + self.horizon
        span = self.pad + self.horizon
        rows = self.values.view(-1).unfold(0, span, 1)
        # One contiguous slice per window, then time as the first dimension, so that each lag is a copy of rows.
        cut = rows.index_select(0, which * self.width + start).t().contiguous()  # (span, B)
        observed = ~cut.isnan()
        cut = cut.nan_to_num_(0.0)
        mask = observed.to(cut.dtype)
        scale = self._scale(cut, mask, which, start)
        z = cut[self.own_rows].clone()
        seen = mask[self.own_rows].clone()
        batch = len(which)
        lags = cut.div_(scale).index_select(0, self.lag_rows).view(steps, self.num_lags, batch)
        flags = mask.index_select(0, self.lag_rows).view(steps, self.num_lags, batch)
        position = start + torch.arange(-self.context, self.horizon, device=self.device)[:, None]  # (T, B)
        calendar = self.calendar[self.calendar_first[which] + self.stride * position].transpose(1, 2)
        age = self.age[position.clamp(min=0)][:, None]
        parts = [lags, flags, calendar, age]
        if self.feats is not None:
            inside = (position >= 0) & (position < self.feat_len[which])
            at = self.feat_first[which] + position.clamp(min=0).minimum(self.feat_len[which] - 1)
            parts.append((self.feats[at] * inside[..., None]).transpose(1, 2))
        log_scale = (scale.log() - self.moments.log_scale_mean) / self.moments.log_scale_std
        if not self.scaled:
            log_scale = torch.zeros_like(scale)
        cat = None if self.cat is None else self.cat[which]
        return WindowBatch(torch.cat(parts, 1), log_scale, scale, z, seen, cat)

    def _scale(self, cut: Tensor, mask: Tensor, which: Tensor, start: Tensor) -> Tensor:
        """(B,): the mean absolute observed value of the scaling window. Where that is empty or 0, of the whole history
        before the forecast start; where that is empty or 0 too, 1."""
        if not self.scaled:
            return torch.ones(len(which), device=self.device)
        recent = slice(self.pad - self.scaling_length, self.pad)
        count = mask[recent].sum(0)
        scale = cut[recent].abs().sum(0) / count.clamp(min=1.0)
        zero = torch.nonzero(scale <= 0).view(-1)
        if len(zero):  # rare, so the whole history is read only for these
            past = self.values[which[zero]]
            known = ~past.isnan() & (torch.arange(self.width, device=self.device) < (self.pad + start[zero])[:, None])
            total = torch.where(known, past, 0.0).abs().sum(1)
            scale[zero] = total / known.sum(1).clamp(min=1)
        return torch.where(scale > 0, scale, 1.0)
