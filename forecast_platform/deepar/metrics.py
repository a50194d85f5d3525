"""SageMaker's test metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecast_platform.deepar.series import SeriesSet

if TYPE_CHECKING:
    from forecast_platform.deepar.model import Model


def rmse(actual: NDArray[Any], mean: NDArray[Any]) -> float:
    """Root mean squared error over the cells where `actual` is not NaN; arrays of one shape."""
    error = np.asarray(actual, dtype=np.float64) - mean
    return float(np.sqrt(np.nanmean(error * error)))


def weighted_quantile_loss(actual: NDArray[Any], forecast: NDArray[Any], tau: float) -> float:
    """wQL(tau) = 2 sum(pinball) / sum|actual| over observed cells (SageMaker's wQuantileLoss).

    NaN when every observed actual is zero.
    """
    seen = ~np.isnan(actual)
    total = float(np.abs(actual[seen], dtype=np.float64).sum())
    return 2.0 * _pinball(actual, forecast, tau) / total if total > 0 else float("nan")


def score(
    actual: NDArray[Any], mean: NDArray[Any], quantiles: NDArray[Any], levels: Sequence[float]
) -> dict[str, float]:
    """All of SageMaker's test scores. actual, mean (N, H); quantiles (N, Q, H)."""
    cells = max(int((~np.isnan(actual)).sum()), 1)
    out = {"RMSE": rmse(actual, mean)}
    loss = [2.0 * _pinball(actual, quantiles[:, k], q) / cells for k, q in enumerate(levels)]
    weighted = [weighted_quantile_loss(actual, quantiles[:, k], q) for k, q in enumerate(levels)]
    out["mean_absolute_QuantileLoss"] = float(np.mean(loss)) * cells
    out["mean_wQuantileLoss"] = float(np.mean(weighted))
    return out | {f"wQuantileLoss[{q:g}]": w for q, w in zip(levels, weighted, strict=True)}


def evaluate(model: Model, test: SeriesSet, device: str = "cpu") -> dict[str, float]:
    """Withhold the last prediction_length values of each test series, forecast and score them.

    Raises ContractError when a test series is not longer than prediction_length.
    """
    from forecast_platform.deepar.sampling import predict

    hp = model.hyperparameters
    horizon = hp.prediction_length
    known = test.without_last(horizon)
    at = test.indptr[1:, None] - horizon + np.arange(horizon)
    levels = [str(q) for q in hp.test_quantiles]
    forecast = predict(model, known, hp.num_eval_samples, levels, seed=hp.seed, device=device)
    assert forecast.mean is not None
    assert forecast.quantiles is not None
    return score(test.values[at], forecast.mean, forecast.quantiles, hp.test_quantiles)


def _pinball(actual: NDArray[Any], forecast: NDArray[Any], tau: float) -> float:
    error = np.asarray(actual, dtype=np.float64) - forecast
    return float(np.nansum(np.maximum(tau * error, (tau - 1.0) * error)))
