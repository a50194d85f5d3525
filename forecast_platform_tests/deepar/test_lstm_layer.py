from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.deepar.lstm_layer import lstm_step, unroll

T, N, B = 7, 6, 5


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
    code = "import torch; from forecast_platform.deepar.lstm_layer import lstm_step as s; "
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
