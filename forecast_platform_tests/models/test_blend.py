"""How candidates are weighed: by evidence against a prior, per kind of series."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.models.blend import KINDS, Blend, Trial, fit, kinds

LEVELS = (0.1, 0.5, 0.9)
Z = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
PRIOR = {"a": 4.0, "b": 4.0, "c": 0.5}


def trial(seed: int, bias: Mapping[str, float], series: int = 30, kind=None, season: bool = False, noise=0.1) -> Trial:
    """Candidates that are off by a part of sales, and by noise, which is the same for all: what none of them knows."""
    rng = np.random.default_rng(seed)
    y = rng.lognormal(5, 1, (series, 4))
    unknown = noise * rng.normal(size=y.shape)
    forecasts = {}
    for name, off in bias.items():
        median = y * (1 + off + unknown)
        forecasts[name] = median[:, None] + Z[None, :, None] * 0.1 * y[:, None]
    kind = np.zeros(series, dtype=int) if kind is None else kind
    return Trial(y, np.ones(y.shape, dtype=bool), kind, forecasts, LEVELS, season)


def test_without_evidence_the_prior_stands():
    assert fit([], PRIOR) == Blend.by(PRIOR)


def test_who_is_alike_keeps_its_prior_and_who_is_worse_loses_its_own():
    found = fit([trial(seed, {"a": 0.0, "b": 0.0, "c": 1.0}) for seed in range(4)], PRIOR).usual
    assert found["a"] == pytest.approx(found["b"], abs=0.1)
    assert found["c"] < 0.02


def test_a_small_difference_moves_little_and_a_large_one_decides():
    small = fit([trial(0, {"a": 0.0, "b": 0.01}, noise=0.2)], {"a": 1, "b": 1}).usual
    large = fit([trial(0, {"a": 0.0, "b": 0.5})], {"a": 1, "b": 1}).usual
    assert 0.3 < small["b"] < 0.6
    assert large["b"] < 0.08


def test_those_that_err_to_either_side_are_worth_more_together_than_either():
    found = fit([trial(0, {"a": 0.2, "b": -0.25}, noise=0.01)], {"a": 1, "b": 1}).usual
    assert 0.4 < found["b"] < 0.6


def test_the_season_that_is_forecast_counts_double():
    of_others = [trial(1, {"a": 0.0, "b": 0.2}), trial(2, {"a": 0.2, "b": 0.0})]
    of_season = [trial(1, {"a": 0.0, "b": 0.2}), trial(2, {"a": 0.2, "b": 0.0}, season=True)]
    prior = {"a": 1.0, "b": 1.0}
    assert fit(of_season, prior).usual["b"] > fit(of_others, prior).usual["b"] + 0.05


def test_who_is_tried_less_often_is_weighed_in_its_own_windows_against_the_blend_of_the_others():
    trials = [trial(k, {"a": 0.0, "c": 0.6}) for k in range(3)] + [trial(5, {"a": 0.0, "c": 0.6, "b": 0.0}, noise=0.1)]
    found = fit(trials, PRIOR).usual
    assert found["c"] < 0.05
    assert found["b"] == pytest.approx(0.5, abs=0.15)


def test_who_was_never_tried_keeps_its_prior():
    found = fit([trial(0, {"a": 0.0, "b": 1.0})], PRIOR)
    assert found.weights["c"] == pytest.approx((0.5 / 8.5,) * len(KINDS))
    np.testing.assert_allclose(np.sum(list(found.weights.values()), axis=0), 1)


def test_a_candidate_that_knows_no_season_is_penalised():
    trials = [trial(0, {"a": 0.0, "b": 0.0})]
    prior = {"a": 1.0, "b": 1.0}
    assert fit(trials, prior, {"b": 0.5}).usual["b"] < 0.2 < fit(trials, prior).usual["b"]


def test_a_kind_of_series_has_weights_of_its_own_where_it_has_enough_to_say():
    rng = np.random.default_rng(0)
    y, unknown = rng.lognormal(5, 0.5, (400, 4)), 0.1 * rng.normal(size=(400, 4))
    kind = np.arange(400) % 2
    forecasts = {}
    for name, off in (("a", (0.0, 0.4)), ("b", (0.4, 0.0))):
        median = y * (1 + np.array(off)[kind][:, None] + unknown)
        forecasts[name] = median[:, None] + Z[None, :, None] * 0.1 * y[:, None]
    found = fit([Trial(y, np.ones(y.shape, dtype=bool), kind, forecasts, LEVELS)], {"a": 1, "b": 1})
    assert found.weights["a"][0] > 0.9 > 0.1 > found.weights["a"][1]
    few = fit([Trial(y[:4], np.ones((4, 4), dtype=bool), kind[:4], {n: s[:4] for n, s in forecasts.items()}, LEVELS)],
              {"a": 1, "b": 1})  # fmt: skip
    assert abs(few.weights["a"][0] - few.weights["a"][1]) < 0.6


def test_a_large_window_is_sampled_and_says_the_same():
    large = fit([trial(0, {"a": 0.0, "b": 0.05}, series=5000)], {"a": 1, "b": 1}).usual
    part = fit([trial(0, {"a": 0.0, "b": 0.05}, series=600)], {"a": 1, "b": 1}).usual
    assert large["a"] == pytest.approx(part["a"], abs=0.05)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), biases=st.lists(st.floats(-1, 3), min_size=1, max_size=4))
def test_weights_are_never_below_0_and_sum_to_1_and_depend_on_nothing_else(seed, biases):
    bias = {str(k): value for k, value in enumerate(biases)}
    prior = dict.fromkeys((*bias, "never tried"), 1.0)
    trials = [trial(seed + k, bias, series=5, kind=np.arange(5) % 3) for k in range(2)]
    found = fit(trials, prior)
    weights = np.array(list(found.weights.values()))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert fit(trials, prior) == found
    # In money of another size all is the same.
    scaled = [
        Trial(1000 * t.y, t.mask, t.kind, {name: 1000 * each for name, each in t.forecasts.items()}, t.levels)
        for t in trials
    ]
    np.testing.assert_allclose(np.array(list(fit(scaled, prior).weights.values())), weights, atol=1e-6)


def test_nothing_sold_and_nothing_forecast_is_right_and_no_division_by_zero():
    y = np.zeros((5, 4))
    forecasts = {"a": np.zeros((5, 3, 4)), "b": np.zeros((5, 3, 4)), "c": np.ones((5, 3, 4))}
    trials = [Trial(y, np.ones(y.shape, dtype=bool), np.zeros(5, dtype=int), forecasts, LEVELS)] * 2
    with np.errstate(all="raise"):
        found = fit(trials, {"a": 3.0, "b": 1.0, "c": 4.0}).usual
    assert found["a"] == pytest.approx(0.75, abs=0.05)
    assert found["c"] < 0.1


def test_an_article_that_sold_nothing_in_the_weeks_tried_is_not_left_to_who_says_nothing_ever():
    """One series, right by luck to the last bit: little evidence, and no reason for an interval of width 0."""
    y = np.zeros((1, 4))
    forecasts = {"level": np.tile(np.array([0.0, 0.1, 1.0])[None, :, None], (1, 1, 4)), "nothing": np.zeros((1, 3, 4))}
    trials = [Trial(y, np.ones(y.shape, dtype=bool), np.array([2]), forecasts, LEVELS)] * 3
    found = fit(trials, {"level": 9.0, "nothing": 1.0})
    assert found.weights["level"][2] > 0.15


def test_a_candidate_far_off_takes_nothing_and_hides_nothing_of_the_others():
    trials = [trial(seed, {"a": 0.0, "b": 0.3, "wild": 1e6}) for seed in range(4)]
    with_it, without = fit(trials, {"a": 1, "b": 1, "wild": 1}).usual, fit(trials, {"a": 1, "b": 1}).usual
    assert with_it["wild"] == 0
    assert with_it["b"] == pytest.approx(without["b"], abs=0.01)


class TestBlend:
    def test_quantiles_are_the_mean_by_each_series_own_weights(self):
        blend = Blend({"a": (1.0, 0.5, 0.0), "b": (0.0, 0.5, 1.0)})
        forecasts = {"a": np.full((3, 2, 1), 10.0), "b": np.full((3, 2, 1), 20.0), "another": np.zeros((3, 2, 1))}
        found = blend.quantiles(forecasts, np.array([0, 1, 2]))
        np.testing.assert_array_equal(found[:, 0, 0], [10, 15, 20])

    def test_of_some_only_each_has_the_same_part_of_the_others_as_before(self):
        blend = Blend({"a": (0.6, 1.0, 0.2), "b": (0.3, 0.0, 0.4), "c": (0.1, 0.0, 0.4)})
        found = blend.among(["b", "c"])
        np.testing.assert_allclose(found.weights["b"], (0.75, 0.5, 0.5))
        np.testing.assert_allclose(found.weights["c"], (0.25, 0.5, 0.5))

    def test_the_usual_weights_heaviest_first(self):
        assert list(Blend({"a": (0.2, 0.2, 0.5), "b": (0.8, 0.8, 0.5)}).usual) == ["b", "a"]


def test_kinds_by_age_and_by_how_often_it_sells():
    sales = np.full((4, 130), 5.0)
    sales[1, :40] = np.nan
    sales[2, ::3] = 0
    sales[2, 1::3] = 0
    sales[3, :100], sales[3, 100::2] = np.nan, 0
    assert [KINDS[k] for k in kinds(sales)] == ["steady", "young", "intermittent", "intermittent"]
