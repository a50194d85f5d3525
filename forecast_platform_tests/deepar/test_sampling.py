from __future__ import annotations

import copy
import datetime as dt
import json
import math

import numpy as np
import pytest
import torch

from forecast_platform import deepar, kernels
from forecast_platform.deepar import ContractError, SeriesSet, sampling, write_records
from forecast_platform.deepar.artifact import Model, network_shape
from forecast_platform.deepar.network import DeepARNetwork
from forecast_platform.deepar.randomness import keys_apart, series_keys, uniforms
from forecast_platform.deepar.windows import Standardiser

from .conftest import make_hp, make_series

ALL = ("mean", "quantiles", "samples")


def reference_paths(model: Model, series: SeriesSet, i: int, num_samples: int, seed: int) -> np.ndarray:
    """The sampling path in plain float64, one path and one step at a time: (S, H)."""
    hp, moments = model.hyperparameters, model.moments
    weights = [{k: v.double().numpy() for k, v in net.state_dict().items()} for net in model.networks]
    y, past = series.target(i).astype(float), len(series.target(i))
    start = series.start[i].astype(object).date()
    feats = series.features(i)
    context = y[max(0, past - hp.context_length) :]
    scale = float(np.nanmean(np.abs(context))) if (~np.isnan(context)).any() else 0.0
    scale = scale or float(np.nanmean(np.abs(y))) or 1.0
    k = len(weights)
    key = series_keys(series, seed)[i : i + 1]
    share = [len(range(j, num_samples, k)) for j in range(k)]
    draws = [uniforms(keys_apart(key, j), hp.prediction_length, share[j], 2)[:, :, 0].astype(float) for j in range(k)]
    out = np.zeros((num_samples, hp.prediction_length))
    for s in range(num_samples):
        w, u = weights[s % k], draws[s % k][:, :, s // k]
        static = [(math.log(scale) - moments.log_scale_mean) / moments.log_scale_std]
        for number, c in enumerate(series.cat[i]):
            static += list(w[f"embedding.{number}"][c])
        history = list(y)
        state = [(np.zeros(hp.num_cells), np.zeros(hp.num_cells)) for _ in range(hp.num_layers)]
        for t in range(past - hp.context_length, past + hp.prediction_length):
            lagged = [history[t - lag] if t - lag >= 0 else np.nan for lag in model.lags]
            day = start + dt.timedelta(7 * t)
            x = [0.0 if np.isnan(v) else v / scale for v in lagged]
            x += [0.0 if np.isnan(v) else 1.0 for v in lagged]
            x += [(day.day - 1) / 30 - 0.5, (day.isocalendar().week - 1) / 52 - 0.5, math.log10(2 + max(t, 0))]
            if feats is not None:
                x += list((feats[:, t] - moments.feat_mean) / moments.feat_std if t >= 0 else feats[:, 0] * 0)
            below = np.array(x)
            for layer in range(hp.num_layers):
                h, c = state[layer]
                gates = w[f"w_in.{layer}"] @ below + w[f"w_rec.{layer}"] @ h + w[f"bias.{layer}"]
                if layer == 0:
                    gates = gates + w["w_static"] @ np.array(static)
                gi, gf, go, gg = np.split(gates, 4)
                c = c / (1 + np.exp(-gf)) + np.tanh(gg) / (1 + np.exp(-gi))
                h = np.tanh(c) / (1 + np.exp(-go))
                state[layer], below = (h, c), h
            if t >= past:
                raw = w["w_out"] @ below + w["b_out"]
                if "w_skip" in w:
                    raw[1] += w["w_skip"][0] @ x[: 2 * len(lagged)]
                df, width = 2 + np.logaddexp(0, raw[0]), np.logaddexp(0, raw[2]) + 1e-4
                u1, u2 = u[:, t - past]
                draw = raw[1] + width * math.sqrt(df * (u1 ** (-2 / df) - 1)) * math.cos(2 * math.pi * u2)
                out[s, t - past] = draw * scale
                history.append(draw * scale)
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 1},
        {"num_layers": 2},
        {"num_layers": 3},
        {"num_layers": 1, "lag_skip": "on", "epochs": 20},
        {"num_layers": 2, "lag_skip": "on", "epochs": 20, "num_networks": 3},
    ],
)
def test_the_fast_path_equals_the_slow_reference(changes):
    train = make_series(features=2)
    model = deepar.train(train, make_hp(**changes))
    series = make_series(features=2, extra=6)
    got = deepar.predict(model, series, 5, seed=3, output_types=("samples",)).samples
    for i in (0, 4, 11):
        assert got[i] == pytest.approx(
            reference_paths(model, series, i, 5, 3), rel=1e-3, abs=1e-3 * float(np.abs(got[i]).mean())
        )


def test_a_lag_longer_than_the_context_is_fed_from_the_path():
    series = make_series()
    model = deepar.train(series, make_hp(context_length=2, prediction_length=14, epochs=1))
    assert {1, 8, 12} <= set(model.lags)
    got = deepar.predict(model, series, 3, output_types=("samples",)).samples
    assert got[1] == pytest.approx(
        reference_paths(model, series, 1, 3, 0), rel=1e-3, abs=1e-3 * float(np.abs(got[1]).mean())
    )


@pytest.fixture(scope="module")
def mixture(series) -> Model:
    return deepar.train(series, make_hp(num_networks=3, lag_skip="on", learning_rate=0.05))


def test_path_p_is_drawn_by_network_p_mod_k(mixture, series):
    """Forcing each network's location apart shows whose path is whose, and that the shares differ by one at most."""
    parts = copy.deepcopy(mixture)
    with torch.no_grad():
        for k, network in enumerate(parts.networks):
            network.w_out.zero_()
            network.w_skip.zero_()
            network.b_out.copy_(torch.tensor([5.0, 10.0 * k, -30.0]))
    f = deepar.predict(parts, series, 11, output_types=ALL)
    network = np.round(f.samples / f.samples[:, 1:2]).astype(int)  # the location of path p in units of path 1's
    assert np.array_equal(network, np.broadcast_to((np.arange(11) % 3)[None, :, None], network.shape))
    assert np.allclose(f.mean, f.samples.mean(axis=1), rtol=1e-5)
    want = np.quantile(f.samples, np.arange(1, 10) / 10, axis=1, method="hazen").transpose(1, 0, 2)
    assert np.allclose(f.quantiles, want, rtol=1e-4)


def test_fewer_samples_than_networks_use_the_first_ones(mixture, series):
    first = copy.deepcopy(mixture)
    first.networks = first.networks[:2]
    got, want = (deepar.predict(m, series, 2, output_types=("samples",)).samples for m in (mixture, first))
    assert np.array_equal(got, want)


def test_several_networks_of_one_path_each_repeat_in_turn(series):
    model = deepar.train(series, make_hp(likelihood="deterministic-L1", num_networks=2, lag_skip="on"))
    samples = deepar.predict(model, series, 5, output_types=("samples",)).samples
    assert np.array_equal(samples[:, 0], samples[:, 2])
    assert np.array_equal(samples[:, 1], samples[:, 3])
    assert not np.array_equal(samples[:, 0], samples[:, 1])


@pytest.mark.parametrize("which", ["model", "mixture"])
def test_company_order_and_sharding_do_not_matter(which, series, request, monkeypatch):
    model = request.getfixturevalue(which)
    whole = deepar.predict(model, series, 30, output_types=ALL)
    order = np.random.default_rng(0).permutation(len(series))
    shuffled = deepar.predict(model, series.take(order), 30, output_types=ALL)
    chunked = deepar.predict(model, series, 30, output_types=ALL, batch_series=5)
    alone = [deepar.predict(model, series.take([i]), 30, output_types=ALL) for i in range(len(series))]
    monkeypatch.setattr(sampling, "DECODE_COLUMNS", 70)
    apart = deepar.predict(model, series, 30, output_types=ALL)
    for name in ("mean", "quantiles", "samples"):
        want = getattr(whole, name)
        assert np.array_equal(getattr(shuffled, name), want[order])
        assert np.array_equal(np.concatenate([getattr(a, name) for a in alone]), want)
        assert np.array_equal(getattr(chunked, name), want)
        assert np.array_equal(getattr(apart, name), want)


def test_a_gpus_steps_draw_the_same_paths_as_the_compiled_ones(mixture, series, monkeypatch):
    """Off the CPU every step is torch's; the random numbers are the same ones."""
    compiled = deepar.predict(mixture, series, 30, output_types=("samples",)).samples
    monkeypatch.setattr(kernels, "serve", lambda like: False)
    steps = deepar.predict(mixture, series, 30, output_types=("samples",)).samples
    assert not np.array_equal(steps, compiled)
    assert steps == pytest.approx(compiled, rel=1e-3, abs=1e-4 * float(np.abs(compiled).mean()))


def test_fifty_paths_give_quantiles_as_good_as_a_hundred_independent_ones(model, series, monkeypatch):
    want = np.mean([deepar.predict(model, series, 4000, seed=9 + k).quantiles for k in range(2)], axis=0)

    def error(paths):
        got = [deepar.predict(model, series, paths, seed=k).quantiles for k in range(8)]
        width = want[:, 8] - want[:, 0]
        return (((np.array(got) - want) / width[:, None]) ** 2).mean(axis=(0, 1, 3))[[0, 4, 8]] ** 0.5

    ours = error(50)
    independent = np.random.default_rng(0)
    monkeypatch.setattr(
        "forecast_platform.deepar.sampling.uniforms",
        lambda keys, steps, paths, kinds: independent.uniform(1e-7, 1, (kinds, steps, len(keys), paths)).astype("f4"),
    )
    theirs = error(100)
    assert (ours[[0, 2]] < 1.1 * theirs[[0, 2]]).all()
    assert ours[1] < 0.5 * theirs[1]


def test_the_seed_matters_and_repeats(model, series):
    a, b, c = (deepar.predict(model, series, seed=s).mean for s in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_mean_and_quantiles_are_those_of_the_samples(model, series):
    f = deepar.predict(model, series, 41, quantiles=("0.05", "0.5", "0.9"), output_types=ALL)
    assert f.mean.shape == (12, 6)
    assert f.quantiles.shape == (12, 3, 6)
    assert f.samples.shape == (12, 41, 6)
    assert {x.dtype for x in (f.mean, f.quantiles, f.samples)} == {np.dtype("float32")}
    assert np.allclose(f.mean, f.samples.mean(axis=1), rtol=1e-5, atol=1e-3)
    want = np.quantile(f.samples, [0.05, 0.5, 0.9], axis=1, method="hazen").transpose(1, 0, 2)
    assert np.allclose(f.quantiles, want, rtol=1e-5, atol=1e-3)
    assert (np.diff(f.quantiles, axis=1) >= 0).all()
    assert f.quantile_levels == ("0.05", "0.5", "0.9")


@pytest.mark.parametrize("paths", [20, 50, 200])
def test_the_width_of_an_interval_does_not_depend_on_the_number_of_paths(model, series, paths):
    ends = ("0.1", "0.9")
    few, many = (deepar.predict(model, series, n, quantiles=ends).quantiles for n in (paths, 4000))
    assert np.diff(few, axis=1).sum() == pytest.approx(np.diff(many, axis=1).sum(), rel=0.02)


def test_only_what_was_asked_for_comes_back(model, series):
    f = deepar.predict(model, series, 5, output_types=("quantiles",))
    assert (f.mean, f.samples) == (None, None)


def test_a_one_value_series_an_all_missing_one_and_short_ones_get_forecasts(model):
    nan = np.nan
    series = SeriesSet.from_arrays(
        ["2010-02-05"] * 4, [[7.0], [nan], [1.0, nan, nan], [0.0] * 30], cat=[[0, 0], [1, 1], [3, 4], [2, 2]]
    )
    f = deepar.predict(model, series)
    assert np.isfinite(f.mean).all()
    assert np.isfinite(f.quantiles).all()


def test_missing_weeks_are_not_zeros(model, series):
    values = series.values.copy()
    values[np.isnan(values)] = 0.0
    zeros = SeriesSet.from_arrays(series.start, (values, series.indptr), series.cat)
    assert not np.allclose(deepar.predict(model, series).mean, deepar.predict(model, zeros).mean, rtol=0.01)


def test_l1_gives_degenerate_quantiles(series):
    model = deepar.train(series, make_hp(likelihood="deterministic-L1"))
    f = deepar.predict(model, series, 10, output_types=ALL)
    assert f.samples.shape == (12, 10, 6)
    assert np.array_equal(f.quantiles, np.repeat(f.mean[:, None], 9, axis=1))


@pytest.mark.parametrize(
    ("cat", "message"),
    [
        ([[0, 5]], r"series 0: cat\[1\] is 5; training saw 0 .. 3, and 4 stands for a category not seen"),
        ([[-1, 0]], r"cat\[0\] is -1"),
        ([[0]], "the model uses 2 categories per series; this set has 1"),
        (None, "the model uses 2 categories per series; this set has 0"),
    ],
)
def test_bad_categories_at_inference_are_named(model, cat, message):
    with pytest.raises(ContractError, match=message):
        deepar.predict(model, SeriesSet.from_arrays(["2010-02-05"], [[1.0]], cat))


def test_dynamic_features_must_reach_over_the_horizon(feature_model):
    with pytest.raises(ContractError, match=r"series 0: .* inference it needs len\(target\) \+ prediction_length"):
        deepar.predict(feature_model, make_series(features=2))
    with pytest.raises(ContractError, match="uses 2 dynamic features per series; this set has 0"):
        deepar.predict(feature_model, make_series())


def test_future_dynamic_features_matter_from_their_own_step_on(feature_model):
    base = make_series(features=2, extra=6)
    feats = [base.features(i).copy() for i in range(len(base))]
    for f in feats:
        f[:, -3] += 5.0
    changed = SeriesSet.from_arrays(base.start, (base.values, base.indptr), base.cat, feats)
    keys = series_keys(base, 0)

    original = sampling.series_keys
    sampling.series_keys = lambda series, seed: keys  # the paths' numbers follow content; hold them still
    try:
        a, b = (deepar.predict(feature_model, s, 20, output_types=("samples",)).samples for s in (base, changed))
    finally:
        sampling.series_keys = original
    assert np.array_equal(a[:, :, :3], b[:, :, :3])
    assert not np.allclose(a[:, :, 3:], b[:, :, 3:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"quantiles": ("1.5",)}, "quantile '1.5'"),
        ({"quantiles": ("half",)}, "quantile 'half'"),
        ({"output_types": ("median",)}, r"output_types is \['median'\]; use one or more of"),
        ({"output_types": ()}, "output_types is"),
    ],
)
def test_bad_requests_are_named(model, series, changes, message):
    with pytest.raises(ContractError, match=message):
        deepar.predict(model, series, **changes)


def test_golden_slice_of_a_pinned_model():
    """Weights by formula, no training: a change of any formula on the way to a forecast shows here."""
    hp, lags = make_hp(num_cells=4), (1, 2, 4, 52)
    network = DeepARNetwork(network_shape(hp, (2,), 0, lags))
    with torch.no_grad():
        for k, p in enumerate(network.parameters()):
            p.copy_((torch.arange(p.numel()) * 0.7 + k).sin().view_as(p) * 0.5)
    none = np.zeros(0, np.float32)
    model = Model(hp, (2,), 0, lags, Standardiser(2.0, 1.5, none, none), [network.eval()])
    t = np.arange(70.0)
    series = SeriesSet.from_arrays(["2010-02-05", "2011-11-04"], [50 + 20 * np.sin(t / 5), 10 + t[:30]], [[0], [1]])
    f = deepar.predict(model, series, 200, quantiles=("0.1", "0.9"), seed=1)
    assert f.mean[:, :3] == pytest.approx(np.array(GOLDEN_MEAN), rel=1e-4)
    assert f.quantiles[:, :, 5] == pytest.approx(np.array(GOLDEN_QUANTILES), rel=1e-4)


GOLDEN_MEAN = [[29.958437, 29.792971, 29.831457], [17.323496, 17.412384, 17.513760]]
GOLDEN_QUANTILES = [[-20.829634, 81.242905], [-14.764730, 50.424690]]


def test_one_object_a_line_in_order_with_the_default_configuration(model, series, tmp_path):
    write_records(series, tmp_path / "in.json")
    assert deepar.transform(model, tmp_path / "in.json", tmp_path / "out.json.out") == 12
    rows = [json.loads(line) for line in (tmp_path / "out.json.out").read_text().splitlines()]
    want = deepar.predict(model, series)
    assert [list(r) for r in rows] == [["mean", "quantiles"]] * 12
    assert list(rows[0]["quantiles"]) == [f"0.{q}" for q in range(1, 10)]
    assert np.array([r["mean"] for r in rows], dtype=np.float32) == pytest.approx(want.mean)
    assert np.array([r["quantiles"]["0.9"] for r in rows], dtype=np.float32) == pytest.approx(want.quantiles[:, 8])


def test_the_configuration_is_followed(model, series, tmp_path):
    write_records(series, tmp_path / "in.json")
    config = {"num_samples": 7, "output_types": ["quantiles", "samples"], "quantiles": ["0.5"]}
    deepar.transform(model, tmp_path / "in.json", tmp_path / "o", config, seed=2)
    row = json.loads((tmp_path / "o").read_text().splitlines()[3])
    assert list(row) == ["quantiles", "samples"]
    assert np.array(row["samples"]).shape == (7, 6)
    assert np.median(row["samples"], axis=0) == pytest.approx(row["quantiles"]["0.5"], rel=1e-5)


def test_blocks_do_not_change_the_bytes(model, series, tmp_path, monkeypatch):
    write_records(series, tmp_path / "in.json")
    deepar.transform(model, tmp_path / "in.json", tmp_path / "a")
    monkeypatch.setattr(sampling, "TRANSFORMED_AT_ONCE", 5)
    deepar.transform(model, tmp_path / "in.json", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"start":"2010-02-05","target":[NaN],"cat":[0,0]}', "in.json line 13: bare NaN"),
        ('{"start":"2010-02-05","target":[1],"cat":[0,9]}', r"in.json line 13: cat\[1\] is 9; training saw 0 .. 3"),
    ],
)
def test_one_bad_line_fails_the_whole_file(model, series, tmp_path, line, message):
    write_records(series, tmp_path / "in.json")
    with open(tmp_path / "in.json", "a") as f:
        f.write(line + "\n")
    with pytest.raises(ContractError, match=message):
        deepar.transform(model, tmp_path / "in.json", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in.json"]


def test_a_failure_on_the_way_leaves_nothing(model, series, tmp_path, monkeypatch):
    write_records(series, tmp_path / "in.json")
    monkeypatch.setattr(sampling, "TRANSFORMED_AT_ONCE", 5)
    calls = []
    original = sampling.predict

    def fail_second(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("disk full")
        return original(*args, **kwargs)

    monkeypatch.setattr(sampling, "predict", fail_second)
    with pytest.raises(OSError, match="disk full"):
        deepar.transform(model, tmp_path / "in.json", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"samples": 3}, "the inference configuration has 'samples'"),
        ({"num_samples": "3"}, "num_samples is '3'"),
        ({"quantiles": "0.5"}, "quantiles is '0.5'; it must be an array"),
        ({"output_types": ["median"]}, "output_types is"),
    ],
)
def test_bad_configurations_are_named(model, series, tmp_path, config, message):
    write_records(series, tmp_path / "in.json")
    with pytest.raises(ContractError, match=message):
        deepar.transform(model, tmp_path / "in.json", tmp_path / "out", config)
