from __future__ import annotations

import numpy as np
import pytest
import torch

from forecast_platform import deepar
from forecast_platform.deepar import ContractError, SeriesSet
from forecast_platform.deepar.training import evaluate, rmse, score, weighted_quantile_loss
from forecast_platform.deepar.windows import WindowSource, check_training_data

from .conftest import make_hp, make_series, train_and_kill


def rebuilt(series, **changes):
    parts = {"start": series.start, "targets": (series.values, series.indptr), "cat": series.cat}
    return SeriesSet.from_arrays(**(parts | changes))


def test_it_overfits_one_series():
    rng = np.random.default_rng(0)
    target = 100 + 10 * np.sin(np.arange(340) * 2 * np.pi / 6) + rng.normal(size=340) * 0.1
    series = SeriesSet.from_arrays(["2010-02-05"], [target])
    hp = make_hp(epochs=300, learning_rate_schedule="cosine", num_cells=16, dropout_rate=0)
    model = deepar.train(series, hp)
    want = 100 + 10 * np.sin(np.arange(340, 346) * 2 * np.pi / 6)
    got = deepar.predict(model, series, 200)
    assert np.abs(got.mean[0] - want).max() < 2.0
    assert model.loss_curve[-1] < model.loss_curve[0] - 2.0


@pytest.mark.parametrize("likelihood", ["gaussian", "negative-binomial", "beta", "deterministic-L1"])
def test_every_likelihood_learns(likelihood):
    rng = np.random.default_rng(0)
    t = np.arange(60)
    level = 0.5 + 0.3 * np.sin(t / 3)
    rows = [level * {"negative-binomial": 40, "beta": 1}.get(likelihood, 1000) for _ in range(10)]
    rows = [
        np.round(r) if "nomial" in likelihood else np.clip(r + rng.normal(size=60) * 0.01, 0.05, 0.95e4) for r in rows
    ]
    if likelihood == "beta":
        rows = [np.clip(r, 0.05, 0.95) for r in rows]
    series = SeriesSet.from_arrays(["2010-02-05"] * 10, rows)
    model = deepar.train(series, make_hp(epochs=25, likelihood=likelihood))
    assert model.loss_curve[-1] < model.loss_curve[0]
    samples = deepar.predict(model, series, 50, output_types=("samples",)).samples
    assert np.isfinite(samples).all()
    if likelihood == "negative-binomial":
        assert (samples >= 0).all()
        assert np.array_equal(samples, np.round(samples))
    if likelihood == "beta":
        assert ((samples > 0) & (samples < 1)).all()


def test_same_seed_same_weights_and_another_seed_others(series):
    a, b, c = (deepar.train(series, make_hp(seed=s)) for s in (0, 0, 1))
    assert a.version == b.version != c.version
    assert a.loss_curve == b.loss_curve


def test_the_last_windows_are_those_the_series_end_with(series, monkeypatch):
    drawn: list[tuple[torch.Tensor, torch.Tensor]] = []
    windows = WindowSource.windows
    monkeypatch.setattr(WindowSource, "windows", lambda *a: drawn.append(a[1:]) or windows(*a))
    deepar.train(series, make_hp(epochs=2, training_windows="last"))
    lengths = torch.from_numpy(series.lengths)
    horizon = make_hp().prediction_length
    assert {int(w) for which, _ in drawn for w in which} == set(range(len(series)))
    for which, start in drawn:
        assert torch.equal(start, lengths[which] - horizon)


def test_adam_is_torchs():
    from forecast_platform.deepar.training import Adam

    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.linspace(-1, 1, 50, dtype=torch.float64) for _ in range(2))
    theirs.requires_grad_()
    adam, reference = Adam(mine), torch.optim.Adam([theirs])
    for count in range(1, 30):
        theirs.grad = torch.randn(50, generator=generator, dtype=torch.float64)
        reference.param_groups[0]["lr"] = 0.01 / count
        adam.step(theirs.grad, 0.01 / count, count)
        reference.step()
        assert torch.allclose(mine, theirs.detach(), rtol=0, atol=1e-12)


def test_training_leaves_the_global_generators_alone(series):
    torch.manual_seed(5)
    np.random.seed(5)
    want = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    deepar.train(series, make_hp(epochs=1))
    assert (torch.rand(1), np.random.rand()) == want


def test_each_network_is_what_its_seed_alone_gives(series):
    together = deepar.train(series, make_hp(num_networks=3, seed=5))
    alone = [deepar.train(series, make_hp(seed=5 + k)) for k in range(3)]
    for k, single in enumerate(alone):
        want, got = single.networks[0].state_dict(), together.networks[k].state_dict()
        assert all(torch.equal(v, got[name]) for name, v in want.items())
    assert together.loss_curve == pytest.approx(np.mean([m.loss_curve for m in alone], axis=0))
    assert together.train_windows == sum(m.train_windows for m in alone)


def test_every_other_network_is_blind_to_the_last_features():
    series = make_series(features=3)
    model = deepar.train(series, make_hp(num_networks=2, blind_features=2))
    blind, seeing = (network.w_in[0] for network in model.networks)
    assert not blind[:, -2:].any()
    assert blind[:, -3].all()
    assert seeing.all()
    with pytest.raises(ContractError, match="blind_features is 4; the series have 3 dynamic features"):
        deepar.train(series, make_hp(num_networks=2, blind_features=4))


def test_the_loss_curve_of_networks_that_stop_early_is_the_mean_of_those_still_running(series):
    changes = {"epochs": 60, "early_stopping_patience": 2, "learning_rate": 0.1}
    together = deepar.train(series, make_hp(num_networks=2, **changes))
    curves = [deepar.train(series, make_hp(seed=k, **changes)).loss_curve for k in range(2)]
    short, long = sorted(curves, key=len)
    want = [*np.mean([short, long[: len(short)]], axis=0), *long[len(short) :]]
    assert together.loss_curve == pytest.approx(want)


def test_progress_runs_over_all_networks(series):
    told, lines = [], []
    deepar.train(
        series, make_hp(num_networks=2), progress=lambda done, total, _: told.append((done, total)), log=lines.append
    )
    assert told == [(done, 6) for done in range(1, 7)]
    assert "#progress_metric: host=algo-1, completed 50 % of epochs" in lines


def test_a_skip_starts_at_zero_and_learns_a_random_walk():
    rng = np.random.default_rng(0)
    walks = [100 + 10 * np.cumsum(rng.normal(size=80)) for _ in range(12)]
    series = SeriesSet.from_arrays(["2010-02-05"] * 12, walks)
    changes = {"epochs": 60, "learning_rate_schedule": "cosine"}
    skipping, plain = (deepar.train(series, make_hp(lag_skip=skip, **changes)) for skip in ("on", "off"))
    weights = skipping.networks[0].w_skip[0, : len(skipping.lags)].tolist()
    assert weights[0] == max(weights) > 0.05
    assert skipping.loss_curve[-1] < plain.loss_curve[-1]


@pytest.mark.parametrize("patience", ["", "50"])
@pytest.mark.parametrize(
    ("networks", "killed", "left"), [(1, 5, [5, 6]), (2, 9, [9, 10, 11, 12]), (2, 6, [5, 6, *range(7, 13)])]
)
def test_resumed_equals_uninterrupted(series, tmp_path, patience, networks, killed, left):
    hp = make_hp(epochs=6, early_stopping_patience=patience, num_networks=networks, lag_skip="on")
    whole = deepar.train(series, hp)
    train_and_kill(series, hp, tmp_path, killed)
    epochs = []
    resumed = deepar.train(
        series, hp, progress=lambda d, t, m: epochs.append(d), checkpoint=tmp_path, checkpoint_every=2
    )
    assert epochs == left
    assert resumed.version == whole.version
    assert resumed.loss_curve == whole.loss_curve
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_checkpoint_of_another_run_is_refused(series, tmp_path):
    deepar.train(series, make_hp(epochs=1), checkpoint=tmp_path)
    with pytest.raises(ContractError, match="other data or hyperparameters; delete it"):
        deepar.train(series, make_hp(epochs=1, seed=3), checkpoint=tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"x" * 30)
    with pytest.raises(ContractError, match="not a readable checkpoint"):
        deepar.train(series, make_hp(epochs=1), checkpoint=tmp_path)


def test_early_stopping_returns_the_lowest_loss_weights(series):
    from forecast_platform.deepar.training import TrainingLoop

    hp = make_hp(epochs=60, early_stopping_patience=2, learning_rate=0.1)
    kept = []
    original = TrainingLoop.run_epoch

    def spy(self):
        loss = original(self)
        kept.append({k: v.clone() for k, v in self.network.state_dict().items()})
        return loss

    TrainingLoop.run_epoch = spy
    try:
        model = deepar.train(series, hp)
    finally:
        TrainingLoop.run_epoch = original
    best = int(np.argmin(model.loss_curve))
    assert len(model.loss_curve) < 60
    assert len(model.loss_curve) == best + 3
    assert all(torch.equal(v, kept[best][k]) for k, v in model.networks[0].state_dict().items())


def test_the_log_lines_are_sagemakers(series):
    lines = []
    model = deepar.train(series, make_hp(num_eval_samples=20), test=series, log=lines.append)
    text = "\n".join(lines)
    import re

    for epoch in range(3):
        assert re.search(rf"^#quality_metric: host=algo-1, epoch={epoch}, train loss <loss>=-?\d", text, re.M)
    assert "#progress_metric: host=algo-1, completed 100 % of epochs" in lines
    assert re.search(r"^#quality_metric: host=algo-1, train final_loss <loss>=-?\d", text, re.M)
    assert re.search(r"^Final loss: -?\d\S* \(occurred at epoch 2\)$", text, re.M)
    for name in ("RMSE", "mean_absolute_QuantileLoss", "mean_wQuantileLoss", "wQuantileLoss[0.1]"):
        assert f"#test_score (algo-1, {name}): {model.test_metrics[name]:.10g}" in lines
    assert re.search(r"^#quality_metric: host=algo-1, test RMSE <loss>=\d", text, re.M)
    assert re.search(r"^#quality_metric: host=algo-1, test mean_wQuantileLoss <loss>=\d", text, re.M)


def test_an_epoch_is_about_one_window_per_series(series):
    model = deepar.train(series, make_hp(mini_batch_size=5, epochs=2))
    assert model.train_windows == 2 * 3 * 5  # ceil(12 / 5) batches of 5


def test_short_series_are_ignored_in_training(series):
    short = rebuilt(series.take([0, 1]), targets=[[1e9] * 5, [1e9] * 5])
    both = SeriesSet.from_arrays(
        np.r_[series.start, short.start],
        (np.r_[series.values, short.values], np.r_[series.indptr, series.indptr[-1] + short.indptr[1:]]),
        np.r_[series.cat, short.cat],
    )
    assert deepar.train(both, make_hp()).loss_curve == deepar.train(series, make_hp()).loss_curve


@pytest.mark.parametrize(
    ("changes", "hp", "message"),
    [
        ({"targets": [[1.0] * 20] * 12}, {}, "holds 240 observations; DeepAR needs at least 300"),
        ({"targets": [[0.0] * 50] * 12}, {}, "training time series consist of only zeros"),
        ({"targets": [[1.0] * 5] * 12}, {}, "shorter than prediction_length = 6; the longest has 5"),
        ({"cat": np.arange(12) % 3 * 2}, {}, "did not contain examples for all categories of the 0-th"),
        ({"cat": None}, {"cardinality": "[3,4]"}, "the series have no cat"),
        ({}, {"cardinality": "[3]"}, "names 1 categorical features; the series have 2"),
        ({}, {"cardinality": "[3,3]"}, r"series 3: cat\[1\] is 3; cardinality 3 allows 0 .. 2"),
        ({}, {"cardinality": "[3,5]"}, "1-th categorical feature: 4 of 5 values"),
        ({"cat": np.arange(12) - 1}, {}, "categories are 0-based"),
        ({}, {"num_dynamic_feat": "1"}, "num_dynamic_feat is 1; the series have 0"),
        ({}, {"likelihood": "beta"}, "likelihood beta takes values above 0 and below 1"),
    ],
)
def test_bad_training_sets_are_refused_with_the_contracts_reason(series, changes, hp, message):
    with pytest.raises(ContractError, match=message):
        deepar.train(rebuilt(series, **changes), make_hp(**hp))


def test_dynamic_feat_of_the_wrong_length_is_refused():
    with pytest.raises(ContractError, match=r"series 0: dynamic_feat has .* at training it needs"):
        deepar.train(make_series(features=1, extra=6), make_hp())


def test_cardinality_and_dynamic_features_can_be_ignored():
    series = make_series(features=1)
    assert check_training_data(series, make_hp()) == ((3, 4), 1)
    ignored = make_hp(cardinality="ignore", num_dynamic_feat="ignore")
    assert check_training_data(series, ignored) == ((), 0)
    assert deepar.train(series, ignored).networks[0].shape.static == 1


def test_divergence_is_a_named_error(series):
    with pytest.raises(ContractError, match="training diverged in epoch 0: the loss is"):
        deepar.train(rebuilt(series, targets=[[1e-30] * 30 + [1e38] * 30] * 12), make_hp(likelihood="gaussian"))


def test_negative_values_train_and_forecast(series):
    negative = rebuilt(series, targets=(-series.values, series.indptr))
    model = deepar.train(negative, make_hp(epochs=30))
    assert (np.median(deepar.predict(model, negative).mean, axis=1) < 0).mean() > 0.9


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
