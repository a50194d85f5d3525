"""The LSTM: a step while sampling, and the unroll of all layers over all steps with its own backward pass.

Dimension letters as in network.py, K for layers. Gate order: input, forget, output, candidate (Hochreiter and
Schmidhuber 1997, with the forget gate of Gers et al. 2000). On the CPU in float32 the elementwise half is compiled
(kernels.py); anywhere else, such as on a GPU, it is torch's, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from forecast_platform.deepar import kernels
from forecast_platform.deepar.arithmetic import large_products

LARGE = 1_000_000  # multiplications of a tick's product from which oneDNN makes up for its later start


def lstm_step(gates: Tensor, known: Tensor | None, paths: int, cell: Tensor, hidden: Tensor) -> None:
    """The elementwise half of a step, in place: cell (N, B) becomes the new one, hidden (N, B) receives its state.

    gates (4N, B) are products, and hold nothing of use afterwards. known (4N, b), if any, is added to them first, for
    b series whose `paths` columns each stand side by side.
    """
    if _has_kernels(gates):
        n = len(cell)
        added = gates.new_empty(4 * n, 0) if known is None else known
        products, constants = (t.view(4, n, t.shape[1]).numpy() for t in (gates, added))
        kernels.step(products, constants, paths, cell.numpy(), hidden.numpy())
        return
    if known is not None:
        gates[:, : paths * known.shape[1]].view(*known.shape, paths).add_(known[..., None])
    i, f, o, g = gates.chunk(4)
    cell.mul_(f.sigmoid()).addcmul_(i.sigmoid(), g.tanh())
    torch.mul(o.sigmoid(), cell.tanh(), out=hidden)


def _has_kernels(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype == torch.float32


def project(weight: Tensor, x: Tensor, constant: Tensor) -> Tensor:
    """weight (O, I) times x (T, I, B), plus constant (O, B) or (O, 1): (T, O, B)."""
    steps = x.shape[0]
    wide = constant[None].expand(steps, weight.shape[0], x.shape[2])
    return torch.baddbmm(wide, weight[None].expand(steps, -1, -1), x)


class Workspace:
    """Buffers of an unroll of K layers of N cells over T steps of B columns, used again batch after batch.

    `forward_arrays` and `backward_arrays` are what the kernels take, where each is said to hold what. rows, gates and
    d_gates are what the products of a tick take and give: rows (K, I + N, B) are a layer's inputs over its hidden state
    before the step.
    """

    def __init__(self, x: Tensor, n: int, layers: int) -> None:
        steps, features, batch = x.shape
        ticks = steps + layers - 1
        self.steps, self.layers, self.cells = steps, layers, n
        self.inputs = inputs = features if layers == 1 else max(features, n)
        self.handed = handed = n if layers > 1 else 0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, batch)

        # rows and cells are a tick longer: a step leaves its state where the next one looks for it
        self.rows, cells = zeros(ticks + 1, layers, inputs + n), zeros(ticks + 1, layers, n)
        self.gates, self.d_gates = zeros(ticks, layers, 4 * n), zeros(ticks, layers, 4 * n)
        squashed = zeros(ticks, layers, n)
        self.constant, self.keep = zeros(layers, 4 * n), torch.ones(layers, n, batch)
        self.d_rows, self.d_cells = zeros(layers, handed + n), zeros(layers, n)
        self.weights = torch.zeros(layers, 4 * n, inputs + n)
        self.products = large_products(x.device) if self.weights.numel() * batch > LARGE else nullcontext()

        self.top = self.rows[layers:, -1, inputs:]
        gates, d_gates = (of.view(ticks, layers, 4, n, batch).numpy() for of in (self.gates, self.d_gates))
        constant = self.constant.view(layers, 4, n, batch).numpy()
        state = gates, cells.numpy(), squashed.numpy()
        self.forward_arrays = *state, self.rows.numpy(), constant, self.keep.numpy()
        self.backward_arrays = *state, self.keep.numpy(), self.d_rows.numpy(), self.d_cells.numpy(), d_gates
        self.by_tick = list(zip(self.rows[:ticks], self.gates, self.d_gates, strict=True))


Spare = dict[tuple[int, ...], list[Workspace]]
"""Workspaces not in use, by their sizes."""


def unroll(
    x: Tensor, constant: Tensor, keep: Tensor | None, spare: Spare, weights: tuple[Sequence[Tensor], ...]
) -> Tensor:
    """Hidden states (T, N, B) of the last layer from inputs x (T, F, B), from a zero state.

    constant (4N, B) is added to the first layer's sums at each step. keep (K - 1, N, B) multiplies what a layer hands
    to the next, or is None. weights are each layer's w_in, each layer's w_rec, and the bias of each but the first.
    """
    if _has_kernels(x):
        flat = (each for some in weights for each in some)
        hidden: Tensor = LSTMLayers.apply(x, constant, keep, spare, len(weights[0]), *flat)  # type: ignore[no-untyped-call]
        return hidden
    w_in, w_rec, biases = weights
    for layer, (inputs, recurrent) in enumerate(zip(w_in, w_rec, strict=True)):
        if layer:
            constant = biases[layer - 1][:, None]
            x = x if keep is None else x * keep[layer - 1]
        h = c = x.new_zeros(recurrent.shape[1], x.shape[2])
        states = []
        for sums in project(inputs, x, constant):
            i, f, o, g = (sums + recurrent @ h).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        x = torch.stack(states)
    return x


class LSTMLayers(torch.autograd.Function):
    """`unroll` with the compiled kernels.

    Layer l computes step t at tick t + l, when the layer below has just left that step's input. So a tick is one
    matrix product and one kernel for all layers, where autograd's tape would record some twenty calls a layer. An
    upper layer's first ticks and a lower one's last are no steps: what they compute is cleared or never read, and has
    no gradient.

    A workspace is taken from `spare` and given back by the backward pass; the hidden states lie in it and last until
    then, and autograd refuses to go back twice where the next batch has written over them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, constant: Tensor, keep: Tensor | None, spare: Spare, layers: int, *weights: Tensor
    ) -> Tensor:
        w_in, w_rec, biases = weights[:layers], weights[layers : 2 * layers], weights[2 * layers :]
        n = w_rec[0].shape[1]
        unused = spare.setdefault((*x.shape, n, layers), [])
        work = unused.pop() if unused else Workspace(x, n, layers)
        work.rows[: work.steps, 0, : x.shape[1]] = x
        work.constant[0] = constant
        for layer, bias in enumerate(biases, 1):
            work.constant[layer] = bias[:, None]
        work.keep[:-1] = 1.0 if keep is None else keep
        for into, inputs, recurrent in zip(work.weights, w_in, w_rec, strict=True):
            into[:, : inputs.shape[1]] = inputs
            into[:, work.inputs :] = recurrent
        with work.products:
            for tick, (rows, gates, _) in enumerate(work.by_tick):
                torch.bmm(work.weights, rows, out=gates)
                kernels.forward_tick(tick, *work.forward_arrays)
        ctx.save_for_backward(work.rows, work.gates)
        ctx.work, ctx.unused, ctx.widths = work, unused, [w.shape[1] for w in w_in]
        return work.top

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, _ = ctx.saved_tensors  # looks whether all is as the forward pass left it
        work = ctx.work
        ticks, layers, n, inputs = len(work.by_tick), work.layers, work.cells, work.inputs
        back = torch.cat([work.weights[:, :, : work.handed], work.weights[:, :, inputs:]], 2)
        back = back.transpose(1, 2).contiguous()
        work.d_rows.zero_()
        work.d_cells.zero_()
        d_top = grads[0].contiguous().numpy()
        with work.products:
            for tick in range(ticks - 1, -1, -1):
                kernels.backward_tick(tick, d_top, *work.backward_arrays)
                if tick:
                    torch.bmm(back, work.by_tick[tick][2], out=work.d_rows)
        dx = None
        with large_products(rows.device):
            every = torch.bmm(work.d_gates.flatten(0, 1), rows[:ticks].flatten(0, 1).transpose(1, 2))
            if ctx.needs_input_grad[0]:
                first = work.weights[0, :, : ctx.widths[0]].t()
                dx = torch.bmm(first.expand(work.steps, -1, -1), work.d_gates[: work.steps, 0])
        d_weights = every.view(ticks, layers, 4 * n, -1).sum(0)
        d_in = [grad[:, :width] for grad, width in zip(d_weights, ctx.widths, strict=True)]
        d_constant = work.d_gates.sum(0)
        if ctx.unused is not None:
            ctx.unused.append(work)
            ctx.unused = None
        return dx, d_constant[0], None, None, None, *d_in, *d_weights[:, :, inputs:], *d_constant[1:].sum(2)
