"""What a training set must satisfy, and which windows may be drawn from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.likelihoods import get_likelihood
from forecast_platform.deepar.series import SeriesSet, check_dynamic_feat

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
    """First and last forecast start of each series (N,), inclusive: at least one observed value precedes.

    The horizon fits inside the series where it can; a series too short for that keeps its one start.
    """
    seen = ~np.isnan(series.values)
    position = np.arange(len(series.values)) - np.repeat(series.indptr[:-1], series.lengths)
    unseen = np.where(seen, position, np.iinfo(np.int64).max)
    first = np.minimum(np.minimum.reduceat(unseen, series.indptr[:-1]), series.lengths - 1) + 1
    return first, np.maximum(first, series.lengths - horizon)
