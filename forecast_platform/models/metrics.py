"""Forecast metrics, by the protocol every figure of this project is quoted in.

Shapes: N series, H weeks ahead, Q quantile levels, T weeks of history. Sales and forecasts are in the units
of the data (money a week); every metric is unitless. `mask` says which cells are scored; the others may be
NaN. A ratio whose denominator is zero is NaN, never an error: "nothing was sold" is an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SEASON = 52  # weeks in a year

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """How good a set of forecasts was.

    Attributes:
        wape: sum|y - p50| / sum|y|.
        wql: weighted quantile loss, mean over the quantile levels.
        coverage80: share of cells in [p10, p90]; 0.8 is asked. NaN where those levels were not forecast.
        width80: sum(p90 - p10) / sum|y|; NaN likewise.
        mase: median over series of the mean absolute scaled error.
        bias: sum(p50 - y) / sum|y|; positive means forecast too high.
        series, cells: how many were scored.
    """

    wape: float
    wql: float
    coverage80: float
    width80: float
    mase: float
    bias: float
    series: int
    cells: int


def score(y: ArrayLike, mask: ArrayLike, forecast: ArrayLike, quantiles: Sequence[float], history: ArrayLike) -> Scores:
    """All metrics of one forecast window.

    Args:
        y: actual sales, (N, H).
        mask: cells that count, (N, H).
        forecast: quantile forecasts, (N, Q, H).
        quantiles: the Q levels, ascending, with 0.5 among them.
        history: sales up to the cutoff, (N, T), NaN where unobserved; used for the scale of MASE.

    Raises:
        ValueError: shapes disagree, 0.5 is not among the levels, or a scored cell is not finite.
    """
    y, mask, forecast, levels = _checked(y, mask, forecast, quantiles)
    history = np.asarray(history, np.float64)
    if history.ndim != 2 or len(history) != len(y):
        raise ValueError(f"history has shape {history.shape}, y {y.shape}; want one row of history a series")
    p50 = forecast[:, _position(levels, 0.5)]
    coverage80 = width80 = float("nan")
    if _has(levels, 0.1) and _has(levels, 0.9):
        p10, p90 = forecast[:, _position(levels, 0.1)], forecast[:, _position(levels, 0.9)]
        coverage80 = coverage(y, p10, p90, mask)
        width80 = _over_volume(p90 - p10, y, mask)
    scaled = mase(y, p50, history, mask)
    scaled = scaled[~np.isnan(scaled)]
    return Scores(
        wape=wape(y, p50, mask),
        wql=weighted_quantile_loss(y, forecast, levels, mask),
        coverage80=coverage80,
        width80=width80,
        mase=float(np.median(scaled)) if len(scaled) else float("nan"),
        bias=_over_volume(p50 - y, y, mask),
        series=len(y),
        cells=int(mask.sum()),
    )


def wape(y: ArrayLike, forecast: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Weighted absolute percentage error: sum|y - forecast| / sum|y| over the scored cells.

    Also called ND (normalised deviation): Salinas et al. 2020, "DeepAR", section 4.3; Kolassa & Schuetz 2007,
    "Advantages of the MAD/Mean ratio over the MAPE". Any equal shapes.
    """
    y, forecast = np.asarray(y, np.float64), np.asarray(forecast, np.float64)
    return _over_volume(np.abs(y - forecast), y, _mask(mask, y))


def weighted_quantile_loss(
    y: ArrayLike, forecast: ArrayLike, quantiles: Sequence[float] | Floats, mask: ArrayLike | None = None
) -> float:
    """Mean over levels of 2 * sum(pinball) / sum|y|, pinball = max(t * e, (t - 1) * e), e = y - forecast.

    Salinas et al. 2020, "DeepAR", section 4.3 (rho-risk); Amazon's mean_wQuantileLoss. y (N, H), forecast
    (N, Q, H). Where all levels of a symmetric set are the same number this is the WAPE of that number.
    """
    y, forecast = np.asarray(y, np.float64), np.asarray(forecast, np.float64)
    mask = _mask(mask, y)
    # One level at a time: a (N, Q, H) temporary would double the memory of the forecasts.
    losses = []
    for i, level in enumerate(quantiles):
        error = y - forecast[:, i]
        losses.append(_over_volume(2 * np.maximum(level * error, (level - 1) * error), y, mask))
    return float(np.mean(losses))


def standard_error(
    y: ArrayLike, forecast: ArrayLike, quantiles: Sequence[float] | Floats, mask: ArrayLike, groups: ArrayLike
) -> float:
    """Standard error of the weighted quantile loss, had other groups been drawn; NaN of fewer than two.

    That of a ratio of two sums over groups drawn as wholes: Cochran 1977, "Sampling Techniques", chapters 6 and 9A,
    without the correction for a finite population. Shapes as in `weighted_quantile_loss`; groups (N,).
    """
    y, forecast, levels = np.asarray(y, np.float64), np.asarray(forecast, np.float64), np.asarray(quantiles)
    mask = _mask(mask, y)
    which, group = np.unique(np.asarray(groups), return_inverse=True)
    volume = np.bincount(group, np.where(mask, np.abs(y), 0).sum(axis=1), len(which))
    if len(which) < 2 or not volume.sum() > 0:
        return float("nan")
    loss = np.zeros(len(y))
    for i, level in enumerate(levels):
        error = np.where(mask, y - forecast[:, i], 0)
        loss += 2 * np.maximum(level * error, (level - 1) * error).sum(axis=1) / len(levels)
    losses = np.bincount(group, loss, len(which))
    residual = losses - losses.sum() / volume.sum() * volume
    return float(np.sqrt(len(which) / (len(which) - 1) * (residual**2).sum()) / volume.sum())


def coverage(y: ArrayLike, low: ArrayLike, high: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Share of scored cells with low <= y <= high, both bounds included. Any equal shapes."""
    y = np.asarray(y, np.float64)
    inside = ((y >= np.asarray(low)) & (y <= np.asarray(high)))[_mask(mask, y)]
    return float(inside.mean()) if inside.size else float("nan")


def mase(y: ArrayLike, forecast: ArrayLike, history: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Mean absolute scaled error of each series, (N,): mean|y - forecast| / mean|x[t] - x[t - m]|.

    Hyndman & Koehler 2006, "Another look at measures of forecast accuracy". x is the series' history from its
    first observation on, missing weeks as 0; season m is 52 where x holds more than 53 weeks, else 1. NaN
    where the series repeats itself exactly or has no scored cell. Report the median: a few scales near zero
    ruin the mean.
    """
    y, forecast = np.asarray(y, np.float64), np.asarray(forecast, np.float64)
    mask, history = _mask(mask, y), np.asarray(history, np.float64)
    count = mask.sum(axis=1)
    error = np.where(mask, np.abs(y - forecast), 0).sum(axis=1)
    seen = np.maximum.accumulate(~np.isnan(history), axis=1)
    x = np.where(seen, np.nan_to_num(history), np.nan)
    scale = np.where(seen.sum(axis=1) > SEASON + 1, _mean_step(x, SEASON), _mean_step(x, 1))
    usable = (count > 0) & (scale > 0)
    out: Floats = np.divide(error, count * scale, out=np.full(len(y), np.nan), where=usable)
    return out


def check_quantiles(quantiles: Sequence[float] | Floats) -> Floats:
    """The levels as an array; ValueError unless they ascend between 0 and 1 and hold 0.5."""
    levels = np.asarray(quantiles, np.float64)
    ascending = levels.ndim == 1 and (np.diff(levels, prepend=0, append=1) > 0).all()
    if not ascending or not _has(levels, 0.5):
        raise ValueError(f"quantiles must ascend between 0 and 1 and hold 0.5; got {list(quantiles)}")
    return levels


def _checked(
    y: ArrayLike, mask: ArrayLike, forecast: ArrayLike, quantiles: Sequence[float]
) -> tuple[Floats, Mask, Floats, Floats]:
    y, forecast = np.asarray(y, np.float64), np.asarray(forecast, np.float64)
    levels = check_quantiles(quantiles)
    if y.ndim != 2 or forecast.shape != (len(y), len(levels), y.shape[1]):
        raise ValueError(
            f"y has shape {y.shape} and the forecast {forecast.shape}; want (N, H) and (N, {len(levels)}, H)"
        )
    mask = _mask(mask, y)
    if not np.isfinite(y[mask]).all():
        raise ValueError("a scored cell has no finite actual; unmask it, or fill it where a gap means 0")
    if not np.isfinite(forecast.transpose(0, 2, 1)[mask]).all():
        raise ValueError("a scored cell has no finite forecast")
    return y, mask, forecast, levels


def _mask(mask: ArrayLike | None, y: Floats) -> Mask:
    cells = np.ones(y.shape, np.bool_) if mask is None else np.asarray(mask, np.bool_)
    if cells.shape != y.shape:
        raise ValueError(f"mask has shape {cells.shape}, y {y.shape}")
    return cells


def _over_volume(amount: Floats, y: Floats, mask: Mask) -> float:
    """sum(amount) / sum|y| over the scored cells."""
    volume = float(np.abs(y[mask]).sum())
    return float(amount[mask].sum()) / volume if volume > 0 else float("nan")


def _mean_step(x: Floats, lag: int) -> Floats:
    """Mean |x[t] - x[t - lag]| of each row over the pairs that exist; NaN where there is none."""
    step = np.abs(x[:, lag:] - x[:, :-lag])
    pairs = (~np.isnan(step)).sum(axis=1)
    mean: Floats = np.divide(np.nansum(step, axis=1), pairs, out=np.full(len(x), np.nan), where=pairs > 0)
    return mean


def _has(levels: Floats, level: float) -> bool:
    return bool(np.isclose(levels, level).any())


def _position(levels: Floats, level: float) -> int:
    return int(np.isclose(levels, level).argmax())
