from __future__ import annotations

import numpy as np
import pytest
import torch

from forecast_platform import deepar
from forecast_platform.deepar.likelihoods import get_likelihood
from forecast_platform.deepar.network import DeepARNetwork, NetworkShape
from forecast_platform.deepar.training_loop import window_loss
from forecast_platform.deepar.windows import WindowBatch

from .conftest import make_hp, make_series

T, B = 9, 5


def build(layers=2, dtype=torch.float32, outputs=3, skip_to=None):
    shape = NetworkShape(4, 3, (3, 4), 2, 6, layers, outputs, skip_to)
    net = DeepARNetwork(shape, torch.Generator().manual_seed(1)).to(dtype)
    if skip_to is not None:
        with torch.no_grad():
            net.w_skip.copy_(torch.arange(8) / 10 - 0.3)
    return net


def inputs(net, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    varying = torch.randn(T, net.shape.time_varying, B, generator=g, dtype=dtype)
    cat = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 3], [1, 0]])
    return varying, net.static_features(torch.randn(B, generator=g, dtype=dtype), cat)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_layers_equal_torchs_lstm(layers):
    net = build(layers)
    varying, static = inputs(net)
    n = net.shape.num_cells
    x = torch.cat([varying, static.expand(T, -1, -1)], 1).transpose(1, 2)
    order = torch.cat([torch.arange(0, 2 * n), torch.arange(3 * n, 4 * n), torch.arange(2 * n, 3 * n)])  # i f g o
    for layer in range(layers):
        w_in = torch.cat([net.w_in[0], net.w_static], 1) if layer == 0 else net.w_in[layer]
        reference = torch.nn.LSTM(w_in.shape[1], n)
        state = {
            "weight_ih_l0": w_in[order],
            "weight_hh_l0": net.w_rec[layer][order],
            "bias_ih_l0": net.bias[layer][order],
            "bias_hh_l0": torch.zeros(4 * n),
        }
        reference.load_state_dict({k: v.detach() for k, v in state.items()})
        x = reference(x)[0]
    want = x @ net.w_out.t() + net.b_out
    got = torch.stack(net(varying, static), -1)
    assert torch.allclose(got, want, atol=1e-6)


def test_the_backward_pass_equals_numerical_differentiation():
    net = build(dtype=torch.float64)
    varying, static = (t.detach().requires_grad_() for t in inputs(net, torch.float64))
    weights = [net.w_in[0], net.w_rec[0], net.w_rec[1], net.w_in[1], net.bias[1], net.w_static]

    def run(varying, static, *_):
        return torch.stack(net(varying, static))

    assert torch.autograd.gradcheck(run, (varying, static, *weights), fast_mode=True)


def test_no_output_has_a_gradient_from_a_later_input():
    net = build()
    varying, static = inputs(net)
    varying.requires_grad_()
    for t in range(T):
        (grad,) = torch.autograd.grad(net(varying, static)[0][t].sum(), varying)
        assert (grad[t + 1 :] == 0).all()
        assert (grad[: t + 1].abs().amax(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("skip_to", [None, 1])
def test_step_by_step_equals_teacher_forced(layers, skip_to):
    net = build(layers, skip_to=skip_to).eval()
    varying, static = inputs(net)
    with torch.no_grad():
        whole = torch.stack(net(varying, static))
        for t in range(T):
            states = net.encode(varying[: t + 1], static)
            raw = torch.stack(net.head(states[-1][0][None]))[:, 0]
            if skip_to is not None:
                raw[skip_to] += net.skip(varying[t : t + 1])[0]
            assert torch.allclose(raw, whole[:, t], atol=1e-6)
            assert len(states) == layers


def test_a_skip_is_linear_in_lags_and_flags_and_reaches_the_location_alone():
    with_skip, without = build(skip_to=1), build()
    assert torch.equal(with_skip.w_rec[0], without.w_rec[0])  # its presence changes no other first weight
    varying, static = inputs(without)
    got, base = (torch.stack(net(varying, static)) for net in (with_skip, without))
    assert torch.equal(got[[0, 2]], base[[0, 2]])
    want = torch.einsum("f,tfb->tb", with_skip.w_skip[0], varying[:, :8])
    assert torch.allclose(got[1] - base[1], want, atol=1e-6)
    assert not DeepARNetwork(with_skip.shape, torch.Generator().manual_seed(1)).w_skip.any()


def test_an_unseen_category_takes_the_mean_embedding():
    net = build().eval()
    got = net.static_features(torch.zeros(1), torch.tensor([[3, 1]]))[:, 0]
    assert torch.allclose(got, torch.cat([torch.zeros(1), net.embedding[0].mean(0), net.embedding[1][1]]))


@pytest.mark.parametrize("name", ["student-t", "gaussian", "negative-binomial", "beta", "deterministic-L1"])
def test_a_value_under_the_mask_never_matters(name):
    family = get_likelihood(name)
    net = build(outputs=family.num_outputs)
    varying, _ = inputs(net)
    g = torch.Generator().manual_seed(3)
    z = torch.rand(T, B, generator=g) * 0.8 + 0.1
    observed = (torch.rand(T, B, generator=g) > 0.4).float()
    cat = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 3], [1, 0]])
    losses, grads = [], []
    for hidden in (0.0, 0.5, 0.99):
        masked = torch.where(observed > 0, z, torch.full_like(z, hidden))
        batch = WindowBatch(varying, torch.zeros(B), torch.ones(B), masked, observed, cat)
        loss = window_loss(net, family, batch, None)
        losses.append(float(loss.detach()))
        grads.append(torch.autograd.grad(loss, net.w_out)[0])
    assert losses[0] == losses[1] == losses[2]
    assert all(torch.equal(grads[0], g) and torch.isfinite(g).all() for g in grads)


def test_the_loss_is_the_mean_over_observed_cells_only():
    family = get_likelihood("deterministic-L1")
    net = build(outputs=1)
    with torch.no_grad():
        net.w_out.zero_()
    varying, _ = inputs(net)
    z = torch.full((T, B), 4.0)
    observed = torch.zeros(T, B)
    observed[2, 1] = observed[5, 3] = 1.0
    z[2, 1] = 10.0
    cat = torch.zeros(B, 2, dtype=torch.long)
    batch = WindowBatch(varying, torch.zeros(B), torch.full((B,), 2.0), z, observed, cat)
    loss = window_loss(net, family, batch, None)
    assert float(loss.detach()) == pytest.approx((10 / 2 + 4 / 2) / 2)


def test_forecasts_scale_with_the_data():
    """Eight times the data gives eight times the forecast: a power of two, so float error does not enter."""
    for likelihood in ("student-t", "gaussian"):
        hp, series = make_hp(likelihood=likelihood), make_series()
        times8 = deepar.SeriesSet.from_arrays(series.start, (series.values * 8, series.indptr), series.cat)
        one, eight = deepar.train(series, hp), deepar.train(times8, hp)
        assert eight.loss_curve == pytest.approx(one.loss_curve, rel=1e-4)
        # the paths' random numbers follow the content, so the distributions are compared through quantiles
        a = deepar.predict(one, series, 2000, quantiles=("0.25", "0.5", "0.75")).quantiles
        b = deepar.predict(eight, times8, 2000, quantiles=("0.25", "0.5", "0.75")).quantiles / 8
        width = (a[:, 2] - a[:, 0]).mean(axis=1)
        assert (np.abs(a - b).mean(axis=(1, 2)) < 0.12 * width).all()
