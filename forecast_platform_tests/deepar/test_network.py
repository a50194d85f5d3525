from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform import deepar
from forecast_platform.deepar.likelihoods import get_likelihood
from forecast_platform.deepar.network import DeepARNetwork, NetworkShape, large_products, lstm_step, unroll
from forecast_platform.deepar.training import window_loss
from forecast_platform.deepar.windows import WindowBatch

from .conftest import make_hp, make_series

T, N, B = 9, 6, 5


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


def arguments(layers=2, features=5, dropout=True, seed=0, batch=B):
    """Inputs, constant, mask and the weights of each layer, float64."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).mul_(0.5).requires_grad_()

    widths = [features] + [N] * (layers - 1)
    weights = [draw(4 * N, w) for w in widths], [draw(4 * N, N) for _ in widths], [draw(4 * N) for _ in widths[1:]]
    drawn = torch.rand(layers - 1, N, batch, generator=g)
    keep = (drawn > 0.3).double() / 0.7 if dropout and layers > 1 else None
    return draw(T, features, batch), draw(4 * N, batch), keep, weights


def single(x, constant, keep, weights):
    """The same in float32, which the kernels take."""

    def rounded(t):
        return t.detach().float().requires_grad_()

    mask = None if keep is None else keep.float()
    return rounded(x), rounded(constant), mask, tuple([rounded(t) for t in some] for some in weights)


def run(arguments, spare):
    x, constant, keep, weights = arguments
    return unroll(x, constant, keep, spare, weights)


def leaves(x, constant, keep, weights):
    return [x, constant, *(t for some in weights for t in some)]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("features", [5, 9])  # fewer and more than cells
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("batch", [1, B, 35])  # narrower and wider than the CPU's vectors
def test_kernels_give_the_states_and_gradients_of_the_textbook(layers, features, dropout, batch):
    spare = {}
    for seed in range(3):  # from the second on in memory already used
        theirs = arguments(layers, features, dropout, seed, batch)
        mine = single(*theirs)
        weight = torch.randn(T, N, batch, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        got, want = run(mine, spare), run(theirs, {})
        assert torch.allclose(got.double(), want, atol=1e-6)
        (got * weight.float()).sum().backward()
        (want * weight).sum().backward()
        for a, b in zip(leaves(*mine), leaves(*theirs), strict=True):
            assert torch.allclose(a.grad.double(), b.grad, rtol=1e-5, atol=1e-5)
    assert sum(len(unused) for unused in spare.values()) == 1


def test_memory_is_used_again_but_never_while_it_is_needed():
    spare = {}
    first, second = (run(single(*arguments(seed=seed)), spare) for seed in (0, 1))
    assert torch.allclose(first.double(), run(arguments(seed=0), {}), atol=1e-6)
    assert first.data_ptr() != second.data_ptr()
    loss = first.sum()
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)  # nothing has been written over it yet
    third = run(single(*arguments(seed=2)), spare)
    assert third.data_ptr() == first.data_ptr()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert sum(len(unused) for unused in spare.values()) == 0


def test_views_of_larger_memory_are_taken_as_they_are():
    """A batch is cut from windows cut ahead, and the gradient of a sum is a single number seen as many."""
    x, constant, keep, weights = single(*arguments())
    wide = torch.cat([x, x], 2).detach()
    got = unroll(wide[..., :B], constant, torch.cat([keep, keep], 2)[..., :B], {}, weights)
    assert torch.equal(got, unroll(x, constant, keep, {}, weights))
    got.sum().backward()
    mine, weights[1][0].grad = weights[1][0].grad, None
    (unroll(x, constant, keep, {}, weights) * torch.ones(T, N, B)).sum().backward()
    assert torch.equal(mine, weights[1][0].grad)


def stepped(gates, known, paths, cell):
    cell, hidden = cell.clone(), torch.empty_like(cell)
    lstm_step(gates.clone(), known, paths, cell, hidden)
    return cell.double(), hidden.double()


@given(seed=st.integers(0, 1000), series=st.integers(0, 4), paths=st.integers(1, 40), spare=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_sampling_step_is_the_textbooks(seed, series, paths, spare):
    """Each series' columns take what is known of it, and those that are no series' take nothing."""
    g = torch.Generator().manual_seed(seed)
    columns = series * paths + spare + 1
    gates = torch.randn(4 * N, columns, generator=g) * 3
    cell, known = torch.randn(N, columns, generator=g), torch.randn(4 * N, series, generator=g)
    want = stepped(gates.double(), known.double(), paths, cell.double())
    for got, wanted in zip(stepped(gates, known, paths, cell), want, strict=True):
        assert torch.allclose(got, wanted, atol=1e-6)
    alone = torch.cat([known.repeat_interleave(paths, 1), torch.zeros(4 * N, spare + 1)], 1)
    for got, wanted in zip(stepped(gates, known, paths, cell), stepped(gates + alone, None, 1, cell), strict=True):
        assert torch.equal(got, wanted)


def test_sums_of_any_size_give_finite_states():
    """Far out sigmoid and tanh are flat."""
    sums = torch.tensor([-1e30, -200.0, -44.0, -1e-3, 0.0, 1e-3, 44.0, 200.0, 1e30])
    wanted = sums.double()
    c, h = stepped(torch.stack([sums] * 4), None, 1, torch.full((1, 9), 0.3))
    cell = wanted.sigmoid() * 0.3 + wanted.sigmoid() * wanted.tanh()
    assert torch.allclose(c[0], cell, atol=1e-6)
    assert torch.allclose(h[0], wanted.sigmoid() * cell.tanh(), atol=1e-6)


def test_what_is_no_number_stays_none():
    """A training that diverges is to be seen, not to be clipped into a number."""
    c, h = stepped(torch.full((4, 3), torch.nan), None, 1, torch.zeros(1, 3))
    assert c.isnan().all()
    assert h.isnan().all()
    x, constant, keep, weights = single(*arguments())
    with torch.no_grad():
        weights[1][0][0, 0] = torch.nan
    assert run((x, constant, keep, weights), {})[1:].isnan().any()


def test_kernels_are_compiled_where_no_cache_can_be_kept(tmp_path):
    """As in a container whose file system is read-only."""
    blocked = tmp_path / "a-file"
    blocked.write_text("")
    code = "import torch; from forecast_platform.deepar.network import lstm_step as s; "
    code += "c = torch.ones(1, 1); s(torch.zeros(4, 1), None, 1, c, c.clone()); print(round(c.item(), 6))"
    # Numba's only locator left is a folder that can't be made
    env = {
        **os.environ,
        "NUMBA_CACHE_LOCATOR_CLASSES": "EnvironmentCacheLocator",
        "NUMBA_CACHE_DIR": str(blocked / "x"),
        "NUMBA_OPT": "0",  # in half the time
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "0.5", done.stderr


@pytest.mark.parametrize("shape", [(160, 48, 3200), (160, 160, 1024), (40, 160, 128)])
def test_large_products_keep_float32s_digits_whichever_library_computes_them(shape):
    rows, inner, columns = shape
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=g), torch.randn(inner, columns, generator=g)
    with large_products(torch.device("cpu")):
        got = a @ b
    assert float((got.double() - a.double() @ b.double()).abs().max()) < 1e-4


def test_the_setting_is_put_back_also_after_an_error():
    before = torch.get_float32_matmul_precision()
    large = large_products(torch.device("cpu"))
    for _ in range(2):
        with contextlib.suppress(RuntimeError), large:
            torch.ones(2, 3) @ torch.ones(2, 3)
        assert torch.get_float32_matmul_precision() == before


def test_a_gpus_precision_is_left_alone():
    before = torch.get_float32_matmul_precision()
    with large_products(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == before
