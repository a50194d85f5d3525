from __future__ import annotations

import pytest
import torch

from forecast_platform.deepar.lstm_layer import LSTMLayers, doubled_candidate, lstm_cell

T, N, B = 7, 6, 4


def arguments(layers=2, features=5, dropout=True, seed=0):
    """Inputs, constant, mask and the weights of each layer, in the layers' order."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).mul_(0.5).requires_grad_()

    widths = [features] + [N] * (layers - 1)
    weights = [draw(4 * N, w) for w in widths] + [draw(4 * N, N) for _ in widths]
    weights += [draw(4 * N) for _ in widths[1:]]
    keep = (torch.rand(layers - 1, N, B, generator=g) > 0.3).double() / 0.7 if dropout and layers > 1 else None
    return draw(T, features, B), draw(4 * N, B), keep, weights


def ours(x, constant, keep, weights, spare):
    return LSTMLayers.apply(x, constant, keep, spare, (len(weights) + 1) // 3, *weights)


def plain(x, constant, keep, weights):
    """The same layers through autograd, one after the other, in the textbook's formulas."""
    layers = (len(weights) + 1) // 3
    for layer in range(layers):
        w_in, w_rec = weights[layer], weights[layers + layer]
        if layer:
            constant = weights[2 * layers + layer - 1][:, None]
            x = x if keep is None else x * keep[layer - 1]
        h, c, out = x.new_zeros(N, B), x.new_zeros(N, B), []
        for step in x:
            i, f, o, g = (w_in @ step + constant + w_rec @ h).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        x = torch.stack(out)
    return x


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("features", [5, 9])  # fewer and more than cells
@pytest.mark.parametrize("dropout", [True, False])
def test_states_and_gradients_are_those_of_the_textbook(layers, features, dropout):
    spare = {}
    for seed in range(3):  # from the second on in memory already used
        mine, theirs = (arguments(layers, features, dropout, seed) for _ in range(2))
        weight = torch.randn(T, N, B, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        got, want = ours(*mine, spare), plain(*theirs)
        assert torch.allclose(got, want, atol=1e-12)
        (got * weight).sum().backward()
        (want * weight).sum().backward()
        for a, b in zip([*mine[:2], *mine[3]], [*theirs[:2], *theirs[3]], strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-12)
    assert sum(len(unused) for unused in spare.values()) == 1


def test_memory_is_used_again_but_never_while_it_is_needed():
    spare = {}
    first, second = (ours(*arguments(seed=seed), spare) for seed in (0, 1))
    assert torch.allclose(first, plain(*arguments(seed=0)), atol=1e-12)
    assert first.data_ptr() != second.data_ptr()
    loss = first.sum()
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)  # nothing has been written over it yet
    third = ours(*arguments(seed=2), spare)
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
