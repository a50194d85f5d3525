from __future__ import annotations

import numpy as np
import pytest

from forecast_platform import deepar
from forecast_platform.deepar import ContractError, SeriesSet
from forecast_platform.deepar.metrics import evaluate, rmse, score, weighted_quantile_loss

ACTUAL = np.array([[1.0, 2.0], [np.nan, -4.0]])


def test_rmse_by_hand():
    assert rmse(ACTUAL, np.array([[0.0, 4.0], [9.0, -2.0]])) == pytest.approx(np.sqrt((1 + 4 + 4) / 3))


def test_weighted_quantile_loss_by_hand():
    forecast = np.array([[0.0, 4.0], [9.0, -2.0]])
    # errors 1, -2, -2 at tau 0.9: 0.9 + 0.2 + 0.2, over |1| + |2| + |-4|
    assert weighted_quantile_loss(ACTUAL, forecast, 0.9) == pytest.approx(2 * 1.3 / 7)
    assert np.isnan(weighted_quantile_loss(np.zeros((1, 2)), forecast[:1], 0.5))


def test_scores_have_sagemakers_names():
    got = score(ACTUAL, np.zeros((2, 2)), np.zeros((2, 2, 2)), (0.1, 0.5))
    assert list(got) == [
        "RMSE",
        "mean_absolute_QuantileLoss",
        "mean_wQuantileLoss",
        "wQuantileLoss[0.1]",
        "wQuantileLoss[0.5]",
    ]
    assert got["mean_wQuantileLoss"] == pytest.approx((got["wQuantileLoss[0.1]"] + got["wQuantileLoss[0.5]"]) / 2)


def test_evaluation_withholds_the_last_values(model, series):
    got = evaluate(model, series)
    hidden = series.values.copy()
    ends = series.indptr[1:, None] - 6 + np.arange(6)
    actual = hidden[ends]
    forecast = deepar.predict(model, series.without_last(6), quantiles=("0.5",))
    assert got["RMSE"] == pytest.approx(rmse(actual, forecast.mean))
    assert got["wQuantileLoss[0.5]"] == pytest.approx(weighted_quantile_loss(actual, forecast.quantiles[:, 0], 0.5))


def test_a_test_series_must_be_longer_than_the_horizon(model):
    short = SeriesSet.from_arrays(["2010-02-05"], [[1.0] * 6], [[0, 0]])
    with pytest.raises(ContractError, match="more than prediction_length = 6 values; it has 6"):
        evaluate(model, short)
