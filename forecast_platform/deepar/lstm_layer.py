"""The LSTM: one step's elementwise half, and the unroll of all layers over all steps with its own backward pass.

Dimension letters as in network.py. Gate order: input, forget, output, candidate (Hochreiter and Schmidhuber 1997,
with the forget gate of Gers et al. 2000). tanh(x) = 2 sigmoid(2x) - 1 and torch's sigmoid takes a tenth of its
tanh's time, so the candidate's sum is handed over doubled and one sigmoid serves all four gates; the state kept
between steps is twice the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from forecast_platform.deepar.arithmetic import large_products

_MINUS_ONE, _MINUS_TWO = torch.tensor(-1.0), torch.tensor(-2.0)
LARGE = 1_000_000  # multiplications of a tick's product from which oneDNN makes up for its later start
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def doubled_candidate(rows: Tensor, dim: int = 0) -> Tensor:
    """Weights or sums of the four gates with the candidate's doubled, as `lstm_cell` takes them."""
    gates, candidate = rows.tensor_split([3 * rows.shape[dim] // 4], dim)
    return torch.cat([gates, 2.0 * candidate], dim)


def lstm_cell(
    gates: Tensor, parts: Sequence[Tensor], c: Tensor, h_out: Tensor, c_out: Tensor, squashed: Tensor
) -> None:
    """The elementwise half of a step, in place.

    gates (4N, B) are the gates' sums, the candidate's doubled; parts are its views i, f, o and g. c (N, B) is twice
    the old cell; h_out, c_out, squashed receive the new state and tanh of the cell. c_out may be c.
    """
    i, f, o, g = parts
    gates.sigmoid_()
    torch.add(_MINUS_ONE, g, alpha=2, out=g)
    torch.mul(f, c, out=c_out)
    c_out.addcmul_(i, g, value=2.0)
    torch.sigmoid(c_out, out=squashed)
    torch.add(_MINUS_ONE, squashed, alpha=2, out=squashed)
    torch.mul(o, squashed, out=h_out)


def project(weight: Tensor, x: Tensor, constant: Tensor, out: Tensor | None = None) -> Tensor:
    """weight (O, I) times x (T, I, B), plus constant (O, B) or (O, 1): (T, O, B)."""
    steps = x.shape[0]
    wide = constant[None].expand(steps, weight.shape[0], x.shape[2])
    return torch.baddbmm(wide, weight[None].expand(steps, -1, -1), x, out=out)


class Workspace:
    """Buffers of an unroll of L layers of N cells over T steps of B columns, and their views per tick.

    Per tick and layer, one below the other:
        rows: the layer's inputs, and N hidden states before the step.
        block: 2 tanh of the candidate, twice the cell before the step, then the gates input, forget, candidate (as a
            sigmoid) and output. In this order one product serves three gates on the way back.

    All is used again batch after batch: some hundreds of views and their memory cost a tenth of a training step.
    """

    def __init__(self, x: Tensor, n: int, layers: int) -> None:
        steps, features, batch = x.shape
        ticks = steps + layers - 1
        self.steps, self.layers, self.cells = steps, layers, n
        self.inputs = inputs = features if layers == 1 else max(features, n)

        def zeros(*shape: int) -> Tensor:
            return x.new_zeros(*shape, batch)

        # rows and block are a tick longer: a step leaves its state where the next one looks for it
        self.rows = zeros(ticks + 1, layers, inputs + n)
        self.block = zeros(ticks + 1, layers, 6 * n)
        self.squashed = zeros(ticks, layers, n)
        self.d_gates = zeros(ticks, layers, 4 * n)
        self.through, self.dc = zeros(layers, n), zeros(layers, n)
        self.d_rows = zeros(layers, 2 * n if layers > 1 else n)
        self.constant = zeros(layers, 4 * n)
        self.weights = x.new_zeros(layers, 4 * n, inputs + n)
        self.products = large_products(x.device) if self.weights.numel() * batch > LARGE else nullcontext()

        hidden = self.rows[:, :, inputs:]
        self.top = hidden[layers:, -1]
        gates, parts = self.block[:, :, 2 * n :], self.block.view(ticks + 1, layers, 6, n, batch)
        g, c, i, f, candidate, o = parts.unbind(2)
        whole_tick = _by_tick(self.rows, gates, hidden[1:, :-1], self.rows[1:, 1:, :n])
        per_part = _by_tick(g, c, c[1:], i, f, candidate, o, self.squashed, hidden[1:])
        self.forward = list(zip(whole_tick, per_part, strict=True))
        d_parts = self.d_gates.view(ticks, layers, 4, n, batch)
        known = _by_tick(parts[:, :, :3], gates, f, o, self.squashed, hidden[1:])
        self.backward = list(zip(known, _by_tick(self.d_gates, d_parts[:, :, :3], d_parts[:, :, 3]), strict=True))


def _by_tick(*buffers: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(buffer.unbind(0) for buffer in buffers), strict=False))


Spare = dict[tuple[Any, ...], list[Workspace]]
"""Workspaces not in use, by shape and type."""


def _in_block(rows: Tensor) -> Tensor:
    """Rows of the gates as parameters have them, in a block's order and the candidate's doubled."""
    i, f, o, g = rows.chunk(4)
    return torch.cat([i, f, 2.0 * g, o])


def _from_block(grad: Tensor) -> Tensor:
    """Gradients (..., 4N, K) of rows as a block has them, in the parameters' order.

    The candidate's come as an eighth: its row was doubled, and its sigmoid enters twice the cell four times over.
    """
    i, f, g, o = grad.chunk(4, -2)
    return torch.cat([i, f, o, 8.0 * g], -2)


class LSTMLayers(torch.autograd.Function):
    """Hidden states (T, N, B) of the last layer from inputs x (T, F, B), from a zero state.

    constant (4N, B) is added to the first layer's sums at each step. keep (layers - 1, N, B) multiplies what a layer
    hands to the next, or is None. weights are each layer's w_in, then each layer's w_rec, then the bias of each but
    the first.

    Layer l computes step t at tick t + l, when the layer below has just left that step's input. So all layers share
    the calls of a tick, a matrix product and some ten elementwise ones, where autograd's tape would record some
    twenty a layer. An upper layer's first ticks and a lower one's last are no steps: what they compute is cleared or
    never read, and has no gradient.

    A workspace is taken from `spare` and given back by the backward pass; the hidden states lie in it and last until
    then, and autograd refuses to go back twice where the next batch has written over them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, constant: Tensor, keep: Tensor | None, spare: Spare, layers: int, *weights: Tensor
    ) -> Tensor:
        w_in, w_rec, biases = weights[:layers], weights[layers : 2 * layers], weights[2 * layers :]
        n = w_rec[0].shape[1]
        unused = spare.setdefault((*x.shape, n, layers, x.dtype, x.device), [])
        work = unused.pop() if unused else Workspace(x, n, layers)
        work.rows[: work.steps, 0, : x.shape[1]] = x
        work.constant[0] = _in_block(constant)
        for layer, bias in enumerate(biases, 1):
            work.constant[layer] = _in_block(bias)[:, None]
        for into, inputs, recurrent in zip(work.weights, w_in, w_rec, strict=True):
            into[:, : inputs.shape[1]] = _in_block(inputs)
            into[:, work.inputs :] = _in_block(recurrent)
        with work.products:
            for tick, ((rows, gates, lower, above), parts) in enumerate(work.forward):
                g, c, c_next, i, f, candidate, o, squashed, h = parts
                torch.bmm(work.weights, rows, out=gates)
                gates.add_(work.constant)
                gates.sigmoid_()
                torch.add(_MINUS_TWO, candidate, alpha=4, out=g)
                torch.mul(f, c, out=c_next)
                c_next.addcmul_(i, g)
                torch.sigmoid(c_next, out=squashed)
                torch.add(_MINUS_ONE, squashed, alpha=2, out=squashed)
                torch.mul(o, squashed, out=h)
                if tick < layers - 1:
                    c_next[tick + 1 :] = 0.0
                    h[tick + 1 :] = 0.0
                if keep is not None:
                    torch.mul(lower, keep, out=above)
                elif layers > 1:
                    above.copy_(lower)
        ctx.save_for_backward(work.rows, work.block, work.squashed)
        ctx.work, ctx.unused, ctx.keep, ctx.widths = work, unused, keep, [w.shape[1] for w in w_in]
        return work.top

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, *_ = ctx.saved_tensors  # looks whether all is as the forward pass left it
        work, keep = ctx.work, ctx.keep
        layers, n, d_rows, dc, through = work.layers, work.cells, work.d_rows, work.dc, work.through
        eighths = work.weights.clone()
        eighths[:, 2 * n : 3 * n] *= 4.0
        handed = d_rows.shape[1] - n  # inputs that are the layer's below; none in a single layer
        back = torch.cat([eighths[:, :, :handed], eighths[:, :, work.inputs :]], 2).transpose(1, 2).contiguous()
        dc.zero_()
        d_rows.zero_()
        dh, dc_each, d_hidden = d_rows[:, handed:], dc[:, None], grads[0].unbind(0)
        d_top, d_lower, d_above = dh[-1], dh[:-1], d_rows[1:, :handed]
        with work.products:
            for tick in range(len(work.backward) - 1, -1, -1):
                (three, gates, f, o, squashed, h), (d_gates, d_three, d_o) = work.backward[tick]
                if keep is not None:
                    d_lower.addcmul_(d_above, keep)
                elif layers > 1:
                    d_lower.add_(d_above)
                if tick >= layers - 1:
                    d_top.add_(d_hidden[tick - layers + 1])
                else:
                    dc[tick + 1 :] = 0.0
                    dh[tick + 1 :] = 0.0
                # d cell / d hidden = o (1 - tanh(cell)^2) = o - h tanh(cell), and half of it for twice the cell
                torch.addcmul(o, h, squashed, value=-1.0, out=through)
                dc.addcmul_(dh, through, value=0.5)
                torch.mul(dc_each, three, out=d_three)
                torch.mul(dh, squashed, out=d_o)
                _sigmoid_backward(d_gates, gates, grad_input=d_gates)
                if tick:
                    dc.mul_(f)
                    torch.bmm(back, d_gates, out=d_rows)
        ticks, dx = len(work.backward), None
        with large_products(rows.device):
            every = torch.bmm(work.d_gates.flatten(0, 1), rows[:ticks].flatten(0, 1).transpose(1, 2))
            if ctx.needs_input_grad[0]:
                first = eighths[0, :, : ctx.widths[0]].t()
                dx = torch.bmm(first.expand(work.steps, -1, -1), work.d_gates[: work.steps, 0])
        d_weights = _from_block(every.view(ticks, layers, 4 * n, -1).sum(0))
        d_in = [grad[:, :width] for grad, width in zip(d_weights, ctx.widths, strict=True)]
        d_constant = _from_block(work.d_gates.sum(0))
        if ctx.unused is not None:
            ctx.unused.append(work)
            ctx.unused = None
        return dx, d_constant[0], None, None, None, *d_in, *d_weights[:, :, work.inputs :], *d_constant[1:].sum(2)
