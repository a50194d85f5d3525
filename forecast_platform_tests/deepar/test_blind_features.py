"""Networks that do without the last dynamic features, so that their errors differ from the others'.

Paths are drawn by the whole content of a series, features that nobody looks at included; a likelihood without a spread
shows what the network alone makes of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast_platform import deepar
from forecast_platform.deepar import ContractError, SeriesSet
from forecast_platform.deepar.artifact import Model

from .conftest import make_hp, make_series, train_and_kill

TRAINING, AHEAD = make_series(features=2), make_series(features=2, extra=6)


def hp_of(**changes: object) -> deepar.HyperParameters:
    return make_hp(likelihood="deterministic-L1", **changes)


def other(series: SeriesSet, feature: int) -> SeriesSet:
    """With other values of one feature, in the history and in the weeks ahead."""
    values = series.dynamic_feat.copy()
    values[:, feature] = np.random.default_rng(1).normal(3, 2, len(values))
    return replace(series, dynamic_feat=values)


def forecast(model: Model, series: SeriesSet, network: int = 0) -> np.ndarray:
    """Of one of the networks alone."""
    alone = replace(model, networks=[model.networks[network]])
    return deepar.predict(alone, series, 2, output_types=("samples",)).samples


@pytest.fixture(scope="module")
def half() -> Model:
    return deepar.train(TRAINING, hp_of(num_networks=4, blind_features=1))


def test_every_other_network_does_not_depend_on_the_last_feature_and_all_depend_on_the_first(half):
    for network in range(4):
        plain = forecast(half, AHEAD, network)
        assert np.array_equal(forecast(half, other(AHEAD, 1), network), plain) is (network % 2 == 0)
        assert not np.array_equal(forecast(half, other(AHEAD, 0), network), plain)


def test_a_network_alone_is_blind():
    blind, seeing = (deepar.train(TRAINING, hp_of(blind_features=b)) for b in (1, 0))
    assert np.array_equal(forecast(blind, other(AHEAD, 1)), forecast(blind, AHEAD))
    assert not np.array_equal(forecast(seeing, other(AHEAD, 1)), forecast(seeing, AHEAD))


def test_what_a_blind_network_is_not_shown_does_not_teach_it_either():
    first, second = (deepar.train(s, hp_of(blind_features=1)) for s in (TRAINING, other(TRAINING, 1)))
    assert first.loss_curve == second.loss_curve
    np.testing.assert_array_equal(forecast(first, AHEAD), forecast(second, AHEAD))


def test_it_may_be_blind_for_all_features():
    model = deepar.train(TRAINING, hp_of(blind_features=2))
    both = other(other(AHEAD, 0), 1)
    np.testing.assert_array_equal(forecast(model, both), forecast(model, AHEAD))


def test_it_survives_being_stored(half, tmp_path):
    deepar.save_artifact(half, tmp_path / "model.tar.gz")
    loaded = deepar.load_artifact(tmp_path / "model.tar.gz")
    assert loaded.hyperparameters.blind_features == 1
    np.testing.assert_array_equal(forecast(loaded, other(AHEAD, 1)), forecast(half, AHEAD))


@pytest.mark.parametrize("killed", [1, 4, 7])
def test_resumed_equals_uninterrupted(tmp_path, killed):
    hp = hp_of(epochs=6, num_networks=2, blind_features=1)
    whole = deepar.train(TRAINING, hp)
    train_and_kill(TRAINING, hp, tmp_path, killed)
    resumed = deepar.train(TRAINING, hp, checkpoint=tmp_path, checkpoint_every=2)
    assert (resumed.version, resumed.loss_curve) == (whole.version, whole.loss_curve)
    for one, same in zip(whole.networks, resumed.networks, strict=True):
        assert all(torch.equal(v, same.state_dict()[name]) for name, v in one.state_dict().items())


@pytest.mark.parametrize(("features", "blind"), [(0, 1), (2, 3)])
def test_more_than_there_are_is_an_error_that_names_both_numbers(features, blind):
    with pytest.raises(ContractError, match=rf"blind_features is {blind}; the series have {features} dynamic"):
        deepar.train(make_series(features=features), hp_of(blind_features=blind))


@pytest.mark.parametrize("text", ["-1", "one", "1.5"])
def test_what_is_no_number_of_features_is_refused(text):
    with pytest.raises(ContractError, match="blind_features"):
        hp_of(blind_features=text)
