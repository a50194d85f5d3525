"""The LSTM layer: one step's elementwise half, and the unroll over all steps with its own backward pass.

Dimension letters as in network.py. Gate order: input, forget, output, candidate (Hochreiter and Schmidhuber 1997,
with the forget gate of Gers et al. 2000). tanh(x) = 2 sigmoid(2x) - 1 and torch's sigmoid takes a tenth of its
tanh's time, so the candidate's sum is handed over doubled and one sigmoid serves all four gates; the state kept
between steps is twice the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from forecast_platform.deepar.arithmetic import large_products

_MINUS_ONE = torch.tensor(-1.0)
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


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
    """Buffers of an unroll over T steps of N cells and B columns, and their views per step.

    They are used again batch after batch: some hundreds of views and their memory cost a tenth of a training step.
    """

    def __init__(self, x: Tensor, n: int) -> None:
        steps, _, batch = x.shape
        self.gates, self.d_gates = (x.new_zeros(steps, 4 * n, batch) for _ in range(2))
        # row 0 is the state before the first step and stays 0
        self.hidden, self.cell, self.half = (x.new_zeros(steps + 1, n, batch) for _ in range(3))
        self.squashed, self.through = (x.new_zeros(steps, n, batch) for _ in range(2))
        h, c, s = self.hidden.unbind(0), self.cell.unbind(0), self.squashed.unbind(0)
        parts = [whole.chunk(4) for whole in self.gates]
        self.forward = list(zip(self.gates.unbind(0), parts, h[:-1], c[:-1], h[1:], c[1:], s, strict=True))
        sigmoids, d_sigmoids = (whole[:, : 3 * n].unbind(0) for whole in (self.gates, self.d_gates))
        d_parts = [whole.chunk(4) for whole in self.d_gates]
        halves = self.half[:-1].unbind(0)
        known = zip(parts, sigmoids, halves, s, self.through.unbind(0), strict=True)
        wanted = zip(self.d_gates.unbind(0), d_sigmoids, d_parts, strict=True)
        self.backward = list(zip(known, wanted, strict=True))


Spare = dict[tuple[Any, ...], list[Workspace]]
"""Workspaces not in use, by shape and type."""


class LSTMLayer(torch.autograd.Function):
    """Hidden states (T, N, B) from inputs x (T, I, B), from a zero state.

    constant (4N, B) or (4N, 1) is added to the gates' sums at each step. One buffer holds the projected inputs and
    then, in place, all gates, so a step costs one matrix product and a handful of elementwise calls; autograd's tape
    would record some twenty. A workspace is taken from `spare` and given back by the backward pass; the hidden states
    lie in it and last until then, and autograd refuses to go back twice where the next batch has written over them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_in: Tensor, constant: Tensor, w_rec: Tensor, spare: Spare) -> Tensor:
        n = w_rec.shape[1]
        key = (x.shape[0], n, x.shape[2], x.dtype, x.device)
        unused = spare.setdefault(key, [])
        work = unused.pop() if unused else Workspace(x, n)
        with large_products(x.device):
            project(doubled_candidate(w_in), x, doubled_candidate(constant), out=work.gates)
        recurrent = doubled_candidate(w_rec)
        for gates, parts, h, c, h_next, c_next, s in work.forward:
            gates.addmm_(recurrent, h)
            lstm_cell(gates, parts, c, h_next, c_next, s)
        ctx.save_for_backward(x, w_in, w_rec, work.gates, work.hidden, work.cell, work.squashed)
        ctx.work, ctx.unused, ctx.one_constant = work, unused, constant.shape[1] == 1
        return work.hidden[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w_in, w_rec, gates, hidden, cell, squashed = ctx.saved_tensors
        work, n = ctx.work, w_rec.shape[1]
        d_gates = work.d_gates
        torch.mul(cell, 0.5, out=work.half)
        # d cell / d hidden = o (1 - tanh(cell)^2) = o - h tanh(cell)
        torch.addcmul(gates[:, 2 * n : 3 * n], hidden[1:], squashed, value=-1.0, out=work.through)
        dh, dc = torch.zeros_like(cell[0]), torch.zeros_like(cell[0])
        back, d_hidden = w_rec.t().contiguous(), grads[0].unbind(0)
        for t in range(len(gates) - 1, -1, -1):
            ((i, f, _, g), sigmoids, c, s, through), (d_all, d_sigmoids, (di, df, do, dg)) = work.backward[t]
            dh.add_(d_hidden[t])
            dc.addcmul_(dh, through)
            torch.mul(dc, g, out=di)
            torch.mul(dc, c, out=df)
            torch.mul(dh, s, out=do)
            torch.mul(dc, i, out=dg)
            _sigmoid_backward(d_sigmoids, sigmoids, grad_input=d_sigmoids)
            _tanh_backward(dg, g, grad_input=dg)
            if t:
                dc.mul_(f)
                torch.mm(back, d_all, out=dh)
        dx = None
        with large_products(x.device):
            d_rec = torch.bmm(d_gates, hidden[:-1].transpose(1, 2)).sum(0)
            d_in = torch.bmm(d_gates, x.transpose(1, 2)).sum(0)
            if ctx.needs_input_grad[0]:
                dx = torch.bmm(w_in.t().contiguous().expand(len(gates), -1, -1), d_gates)
        d_constant = d_gates.sum(0)
        if ctx.one_constant:
            d_constant = d_constant.sum(1, keepdim=True)
        if ctx.unused is not None:
            ctx.unused.append(work)
            ctx.unused = None
        return dx, d_in, d_constant, d_rec, None
