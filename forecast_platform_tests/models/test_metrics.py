"""Metrics: by hand, against a second derivation, and by the properties their definitions promise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast_platform.models.metrics import coverage, mase, score, standard_error, wape, weighted_quantile_loss

NINE = tuple(i / 10 for i in range(1, 10))


def windows():
    """(y, mask, forecast over NINE, history) of a few random series, some cells masked."""

    def build(draw_shape):
        n, h, t, seed = draw_shape
        rng = np.random.default_rng(seed)
        y = rng.normal(50, 40, (n, h))
        mask = rng.random((n, h)) < 0.8
        mask[0, 0] = True
        forecast = np.sort(y[:, None] + rng.normal(0, 20, (n, 9, h)), axis=1)
        history = np.where(rng.random((n, t)) < 0.8, rng.normal(50, 40, (n, t)), np.nan)
        return y, mask, forecast, history

    return st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(1, 120), st.integers(0, 2**32 - 1)).map(build)


def second_derivation(y, mask, forecast, levels, history):
    """The protocol's formulas cell by cell, in plain Python, from its words."""
    cells = [(i, h) for i in range(len(y)) for h in range(y.shape[1]) if mask[i, h]]
    volume = sum(abs(y[c]) for c in cells)
    p10, p50, p90 = (forecast[:, list(levels).index(level)] for level in (0.1, 0.5, 0.9))
    losses = []
    for k, level in enumerate(levels):
        pinball = 0.0
        for i, h in cells:
            q = forecast[i, k, h]
            pinball += level * (y[i, h] - q) if y[i, h] >= q else (1 - level) * (q - y[i, h])
        losses.append(2 * pinball / volume)
    scaled = []
    for i in range(len(y)):
        seen = [t for t, v in enumerate(history[i]) if not math.isnan(v)]
        x = [] if not seen else [0.0 if math.isnan(v) else v for v in history[i][seen[0] :]]
        season = 52 if len(x) > 53 else 1
        steps = [abs(x[t] - x[t - season]) for t in range(season, len(x))]
        errors = [abs(y[i, h] - p50[i, h]) for j, h in cells if j == i]
        if steps and sum(steps) > 0 and errors:
            scaled.append((sum(errors) / len(errors)) / (sum(steps) / len(steps)))
    return {
        "wape": sum(abs(y[c] - p50[c]) for c in cells) / volume,
        "wql": sum(losses) / len(losses),
        "coverage80": sum(p10[c] <= y[c] <= p90[c] for c in cells) / len(cells),
        "width80": sum(p90[c] - p10[c] for c in cells) / volume,
        "mase": float(np.median(scaled)) if scaled else math.nan,
        "bias": sum(p50[c] - y[c] for c in cells) / volume,
        "series": len(y),
        "cells": len(cells),
    }


@settings(deadline=None, max_examples=60)
@given(windows())
def test_scores_equal_the_protocol_in_plain_python(window):
    y, mask, forecast, history = window
    ours = dataclasses.asdict(score(y, mask, forecast, NINE, history))
    assert ours == pytest.approx(second_derivation(y, mask, forecast, NINE, history), rel=1e-9, nan_ok=True)


def test_by_hand():
    y = np.array([[10.0, 20.0], [0.0, -10.0]])
    p50 = np.array([[12.0, 20.0], [1.0, -15.0]])
    assert wape(y, p50) == pytest.approx((2 + 0 + 1 + 5) / 40)
    assert wape(y, p50, [[True, True], [False, False]]) == pytest.approx(2 / 30)
    # One level, 0.9, 2 too high and 10 too low: 2 * (0.1 * 2 + 0.9 * 10) / 30.
    assert weighted_quantile_loss([[10.0, 20.0]], [[[12.0, 10.0]]], [0.9]) == pytest.approx(2 * 9.2 / 30)
    assert coverage([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 4.0, 0.0], [1.0, 2.0, 5.0, 3.0]) == 0.5
    # Steps of the history are 2 and 4 (its gap is a 0), so the scale is 3 and the error of 6 scores 2.
    assert mase([[10.0]], [[16.0]], [[np.nan, 2.0, np.nan, 4.0]]) == pytest.approx([2.0])


def test_mase_takes_the_year_where_there_is_more_than_one():
    t = np.arange(54.0)
    assert mase([[0.0]], [[52.0]], [t]) == pytest.approx([1.0])  # season 52: every step is 52
    assert mase([[0.0]], [[52.0]], [t[:53]]) == pytest.approx([52.0])  # 53 weeks: season 1
    late = np.concatenate([np.full(40, np.nan), t[:20]])
    assert mase([[0.0]], [[3.0]], [late]) == pytest.approx([3.0])  # the weeks before the first don't count


def test_undefined_is_nan_and_says_so_nowhere_else():
    empty = score([[0.0, 0.0]], [[True, True]], np.zeros((1, 3, 2)), (0.1, 0.5, 0.9), [[5.0, 5.0]])
    assert math.isnan(empty.wape)
    assert math.isnan(empty.mase)
    assert empty.coverage80 == 1
    narrow = score([[1.0]], [[True]], [[[1.0]]], (0.5,), [[1.0, 2.0]])
    assert math.isnan(narrow.coverage80)
    assert math.isnan(narrow.width80)
    assert narrow.wape == 0


@settings(deadline=None, max_examples=40)
@given(windows())
def test_a_perfect_forecast_scores_zero(window):
    y, mask, _, history = window
    perfect = score(y, mask, np.repeat(y[:, None], 9, axis=1), NINE, history)
    assert (perfect.wape, perfect.wql, perfect.width80, perfect.bias) == (0, 0, 0, 0)
    assert perfect.coverage80 == 1
    assert perfect.mase == 0 or math.isnan(perfect.mase)


@settings(deadline=None, max_examples=40)
@given(windows(), st.floats(1e-3, 1e4))
def test_the_unit_of_the_sales_does_not_matter(window, unit):
    y, mask, forecast, history = window
    plain = score(y, mask, forecast, NINE, history)
    scaled = score(y * unit, mask, forecast * unit, NINE, history * unit)
    a, b = dataclasses.asdict(plain), dataclasses.asdict(scaled)
    # Multiplication may move a value that sits on a bound of its interval to the other side.
    assert abs(a.pop("coverage80") - b.pop("coverage80")) <= 1 / plain.cells + 1e-9
    assert a == pytest.approx(b, rel=1e-6, nan_ok=True)


@settings(deadline=None, max_examples=40)
@given(windows())
def test_the_quantile_loss_of_a_point_forecast_is_its_wape(window):
    y, mask, forecast, _ = window
    point = forecast[:, 4]
    degenerate = np.repeat(point[:, None], 9, axis=1)
    assert weighted_quantile_loss(y, degenerate, NINE, mask) == pytest.approx(wape(y, point, mask))


@settings(deadline=None, max_examples=40)
@given(windows(), hnp.arrays(np.float64, (), elements=st.sampled_from([np.nan, 1e300, -1e300])))
def test_what_lies_under_the_mask_does_not_matter(window, junk):
    y, mask, forecast, history = window
    plain = score(y, mask, forecast, NINE, history)
    hidden = ~mask
    masked = score(np.where(hidden, junk, y), mask, np.where(hidden[:, None], junk, forecast), NINE, history)
    assert dataclasses.asdict(masked) == pytest.approx(dataclasses.asdict(plain), nan_ok=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantiles": (0.1, 0.9, 0.5)}, "must ascend"),
        ({"quantiles": (0.1, 0.4, 0.9)}, "hold 0.5"),
        ({"quantiles": (0.0, 0.5, 0.9)}, "between 0 and 1"),
        ({"forecast": np.zeros((1, 2, 2))}, r"want \(N, H\) and \(N, 3, H\)"),
        ({"mask": [[True]]}, "mask has shape"),
        ({"y": [[1.0, np.nan]]}, "no finite actual"),
        ({"forecast": np.full((1, 3, 2), np.inf)}, "no finite forecast"),
        ({"history": [1.0, 2.0]}, "history has shape"),
    ],
)
def test_wrong_input_is_named(change, message):
    good = {
        "y": [[1.0, 2.0]], "mask": [[True, True]], "history": [[1.0, 2.0]],
        "forecast": np.zeros((1, 3, 2)), "quantiles": (0.1, 0.5, 0.9),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        score(**(good | change))


def test_the_standard_error_is_how_far_other_stores_scatter():
    rng = np.random.default_rng(0)
    stores, series = 40, 5

    def drawn():
        """Stores differ in size, and in how hard they are to forecast."""
        size, hard = rng.lognormal(4, 0.5, stores), rng.lognormal(-2, 0.5, stores)
        y = np.repeat(size, series)[:, None] * rng.lognormal(0, 0.2, (stores * series, 6))
        error = y[:, None] * np.repeat(hard, series)[:, None, None] * rng.normal(size=(stores * series, 1, 6))
        forecast = y[:, None] + error + np.linspace(-1, 1, 9)[:, None]
        mask = rng.random(y.shape) < 0.9
        stated = standard_error(y, forecast, NINE, mask, np.repeat(np.arange(stores), series))
        return weighted_quantile_loss(y, forecast, NINE, mask), stated

    found = np.array([drawn() for _ in range(300)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.1)


def test_one_store_says_nothing_of_others():
    y = np.ones((3, 2))
    assert math.isnan(standard_error(y, np.ones((3, 1, 2)), (0.5,), np.ones((3, 2), bool), ["A"] * 3))
    assert standard_error(y, np.ones((3, 1, 2)), (0.5,), np.ones((3, 2), bool), ["A", "A", "B"]) == 0
