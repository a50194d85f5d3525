from __future__ import annotations

import pytest
import torch

from forecast_platform.deepar.lstm_layer import LSTMLayer, doubled_candidate, lstm_cell

T, F, N, B = 7, 5, 6, 4


def arguments(seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = (T, F, B), (4 * N, F), (4 * N, B), (4 * N, N)
    return [torch.randn(s, generator=g, dtype=torch.float64).mul_(0.5).requires_grad_() for s in shapes]


def plain(x, w_in, constant, w_rec):
    """The same layer through autograd, in the textbook's formulas."""
    h, c, out = x.new_zeros(N, B), x.new_zeros(N, B), []
    for step in x:
        i, f, o, g = (w_in @ step + constant + w_rec @ h).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out)


def test_states_and_gradients_are_those_of_the_textbook():
    spare = {}
    for seed in range(3):  # from the second on in memory already used
        ours, theirs = arguments(seed), arguments(seed)
        weight = torch.randn(T, N, B, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        got, want = LSTMLayer.apply(*ours, spare), plain(*theirs)
        assert torch.allclose(got, want, atol=1e-12)
        (got * weight).sum().backward()
        (want * weight).sum().backward()
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-12)


def test_memory_is_used_again_but_never_while_it_is_needed():
    spare = {}
    first, second = (LSTMLayer.apply(*arguments(seed), spare) for seed in (0, 1))
    assert torch.allclose(first, plain(*arguments(0)), atol=1e-12)
    assert first.data_ptr() != second.data_ptr()
    loss = first.sum()
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)  # nothing has been written over it yet
    third = LSTMLayer.apply(*arguments(2), spare)
    assert third.data_ptr() == first.data_ptr()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert sum(len(unused) for unused in spare.values()) == 0


def test_sums_of_any_size_give_finite_states():
    """tanh comes from a sigmoid; far out both are flat."""
    sums = torch.tensor([-1e30, -200.0, -1e-3, 0.0, 1e-3, 200.0, 1e30])
    wanted = sums.double()
    gates = doubled_candidate(torch.stack([sums] * 4))
    c, h, squashed = 2.0 * torch.full((1, 7), 0.3), torch.empty(1, 7), torch.empty(1, 7)
    lstm_cell(gates, gates.chunk(4), c, h, c, squashed)
    cell = wanted.sigmoid() * 0.3 + wanted.sigmoid() * wanted.tanh()
    assert torch.allclose(c[0].double() / 2, cell, atol=1e-6)
    assert torch.allclose(h[0].double(), wanted.sigmoid() * cell.tanh(), atol=1e-6)
