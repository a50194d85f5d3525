from __future__ import annotations

import numpy as np
import pytest
import torch

from forecast_platform.deepar import SeriesSet
from forecast_platform.deepar.windows import Standardiser, WindowSource, forecast_starts

from .conftest import make_series

LAGS = (1, 2, 5, 12)
NONE = Standardiser(0.0, 1.0, np.zeros(0, np.float32), np.zeros(0, np.float32))


def source_of(series, scaled=True, moments=NONE, context=6, horizon=4, freq="1W", lags=LAGS):
    return WindowSource(
        series, time_freq=freq, lags=lags, context=context, horizon=horizon, scaled=scaled, moments=moments
    )


def test_each_lag_of_a_ramp_is_the_reference_minus_the_lag():
    series = SeriesSet.from_arrays(["2010-02-05"] * 2, [np.arange(1.0, 41), np.arange(101.0, 131)])
    starts = torch.tensor([20, 25])
    batch = source_of(series, scaled=False).windows(torch.tensor([0, 1]), starts)
    ref = torch.stack([torch.arange(15.0, 25), torch.arange(120.0, 130)], 1)  # values at t - C .. t + H - 1
    assert torch.equal(batch.z, ref)
    for k, lag in enumerate(LAGS):
        assert torch.equal(batch.varying[:, k], ref - lag)
        assert batch.varying[:, len(LAGS) + k].min() == 1


@pytest.mark.parametrize("cat", [True, False])
def test_windows_cut_together_are_those_cut_apart(cat):
    series = make_series()
    source = source_of(series if cat else SeriesSet.from_arrays(series.start, (series.values, series.indptr)))
    which, start = torch.arange(12), torch.arange(20, 32)
    together = source.windows(which, start)
    for at in (slice(0, 5), slice(5, 12)):
        part, alone = together.columns(at), source.windows(which[at], start[at])
        for got, want in zip(vars(part).values(), vars(alone).values(), strict=True):
            assert got is want is None or torch.allclose(got, want, rtol=1e-6)


def test_before_the_start_lags_are_zero_and_unobserved():
    series = SeriesSet.from_arrays(["2010-02-05"], [np.arange(1.0, 31)])
    batch = source_of(series, scaled=False).windows(torch.tensor([0]), torch.tensor([3]))
    lag5, seen5 = batch.varying[:, 2, 0], batch.varying[:, len(LAGS) + 2, 0]
    position = torch.arange(-3, 7)
    assert torch.equal(seen5, (position >= 5).float())
    assert torch.equal(lag5, torch.where(position >= 5, position - 4.0, 0.0))
    assert torch.equal(batch.observed[:, 0], (position >= 0).float())


def test_a_missing_week_is_zero_and_unobserved_at_every_lag():
    target = np.arange(1.0, 41)
    target[18] = np.nan
    batch = source_of(SeriesSet.from_arrays(["2010-02-05"], [target]), scaled=False).windows(
        torch.tensor([0]), torch.tensor([20])
    )
    position = torch.arange(14, 24)
    for k, lag in enumerate(LAGS):
        missing = position - lag == 18
        assert torch.equal(batch.varying[:, len(LAGS) + k, 0] == 0, missing)
        assert (batch.varying[missing, k] == 0).all()


def test_scale_is_mean_absolute_observed_context_then_history_then_one():
    def scale(target, start):
        series = SeriesSet.from_arrays(["2010-02-05"], [target])
        return float(source_of(series).windows(torch.tensor([0]), torch.tensor([start])).scale[0])

    target = np.full(40, -2.0)
    target[14:17] = [np.nan, 4.0, 4.0]
    assert scale(target, 20) == pytest.approx((4 + 4 + 2 + 2 + 2) / 5)
    gap = np.full(40, 3.0)
    gap[14:20] = np.nan
    gap[20:] = 1e6  # the future, which the fallback must not see
    assert scale(gap, 20) == pytest.approx(3.0)
    gap[14:20] = 0.0
    assert scale(gap, 20) == pytest.approx(3.0 * 14 / 20)
    assert scale(np.r_[np.zeros(30), 5.0], 20) == 1.0


def test_the_future_changes_no_input_before_it():
    rng = np.random.default_rng(0)
    target = rng.normal(5, 1, 60)
    for at in range(30, 34):
        changed = target.copy()
        changed[at:] += 100
        before, after = (
            source_of(SeriesSet.from_arrays(["2010-02-05"], [t])).windows(torch.tensor([0]), torch.tensor([30]))
            for t in (target, changed)
        )
        row = at - (30 - 6)
        assert torch.equal(before.scale, after.scale)
        assert torch.equal(before.varying[: row + 1], after.varying[: row + 1])
        if row + 1 < len(before.varying):
            assert not torch.equal(before.varying[row + 1], after.varying[row + 1])


def test_callers_arrays_are_never_changed():
    series = make_series(features=1)
    values, feats = series.values.copy(), series.dynamic_feat.copy()
    moments = Standardiser.fit(series, use_features=True)
    source = source_of(series, moments=moments)
    source.windows(torch.arange(12), torch.full((12,), 30))
    source.windows(torch.arange(12), torch.full((12,), 30))
    assert np.array_equal(series.values, values, equal_nan=True)
    assert np.array_equal(series.dynamic_feat, feats)


def test_dynamic_features_are_standardised_and_aligned():
    feat = np.arange(40.0)[None]
    series = SeriesSet.from_arrays(["2010-02-05"], [np.ones(40)], dynamic_feat=[feat])
    moments = Standardiser.fit(series, use_features=True)
    batch = source_of(series, moments=moments).windows(torch.tensor([0]), torch.tensor([3]))
    position = np.arange(-3, 7)
    expected = np.where(position >= 0, (position - feat.mean()) / feat.std(), 0.0)
    assert batch.varying[:, -1, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_a_longer_scaling_window_reaches_behind_the_context():
    series = SeriesSet.from_arrays(["2010-02-05"], [np.arange(1.0, 61)])

    def scale(length):
        source = WindowSource(
            series, time_freq="1W", lags=LAGS, context=6, horizon=4, scaled=True, moments=NONE, scaling_length=length
        )
        batch = source.windows(torch.tensor([0]), torch.tensor([40]))
        # Whatever the scale, the targets and lags stay where they are.
        assert torch.equal(batch.z[:, 0], torch.arange(35.0, 45))
        assert torch.allclose(batch.varying[:, 0, 0] * batch.scale[0], torch.arange(34.0, 44))
        return float(batch.scale[0])

    assert scale(0) == pytest.approx(np.mean(np.arange(35, 41)))
    assert scale(26) == pytest.approx(np.mean(np.arange(15, 41)))


def test_time_features_can_be_left_out():
    series = SeriesSet.from_arrays(["2010-02-05"], [np.arange(1.0, 61)])
    arguments = {"time_freq": "1W", "lags": LAGS, "context": 6, "horizon": 4, "scaled": True, "moments": NONE}
    with_them, without = (WindowSource(series, **arguments, time_features=wanted) for wanted in (True, False))
    at = torch.tensor([0]), torch.tensor([30])
    calendar = slice(2 * len(LAGS), None)
    assert with_them.windows(*at).varying[:, calendar].abs().sum() > 0
    assert without.windows(*at).varying[:, calendar].abs().sum() == 0
    assert torch.equal(
        with_them.windows(*at).varying[:, : 2 * len(LAGS)], without.windows(*at).varying[:, : 2 * len(LAGS)]
    )


def test_windows_start_after_an_observed_value_and_end_inside_the_series():
    nan = np.nan
    series = SeriesSet.from_arrays(
        ["2010-02-05"] * 4, [np.ones(10), [nan, nan, *np.ones(8)], np.ones(4), [nan, nan, nan, 1]]
    )
    first, last = forecast_starts(series, 4)
    assert first.tolist() == [1, 3, 1, 4]
    assert last.tolist() == [6, 6, 1, 4]
