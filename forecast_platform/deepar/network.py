"""The recurrent network: its layers, and its LSTM with a backward pass of its own. No I/O, no calendar, no randomness.

Legend of dimensions:
    B  series (windows) in a batch      S  sample paths
    C  context steps                    H  forecast steps           T = C + H
    L  lags                             F  time-varying features    D  static features
    N  cells of a layer                 P  raw outputs of the likelihood

Tensors are time-major and feature-major, (T, F, B): each step is one contiguous block, gates are contiguous
slices, and a gathered window lands in place without a transpose.

The inputs of step t are, in this order: the L lagged targets z[t - lag] in units of the scale (0 where not
observed), their L observed flags, the F other time-varying features; and, the same at every step, the D
static ones: the standardised log scale and the embedded categories.

The LSTM is Hochreiter and Schmidhuber's (1997), with the forget gate of Gers et al. (2000); gates are in the order
input, forget, output, candidate, and K counts layers. On the CPU in float32 its elementwise half is compiled
(../kernels.py); anywhere else, such as on a GPU, it is torch's, step by step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forecast_platform import kernels

LARGE = 1_000_000  # multiplications in a tick's product from which oneDNN's speed makes up for its slower start


@dataclass(frozen=True)
class NetworkShape:
    """All sizes of a network: `features` counts time features, age and dynamic features (F).

    skip_to: index of the raw output that a linear skip connection from the lags and their flags is added to; None for
        no skip connection.
    """

    num_lags: int
    features: int
    cardinality: tuple[int, ...]
    embedding_dimension: int
    num_cells: int
    num_layers: int
    num_outputs: int
    skip_to: int | None = None

    @property
    def time_varying(self) -> int:
        return 2 * self.num_lags + self.features

    @property
    def static(self) -> int:
        return 1 + self.embedding_dimension * len(self.cardinality)


class DeepARNetwork(nn.Module):
    """LSTM layers over lags and features, and a linear head with the likelihood's raw outputs."""

    def __init__(self, shape: NetworkShape, generator: torch.Generator | None = None) -> None:
        """Weights are drawn from `generator`, or left at zero (to be loaded) when it is None."""
        super().__init__()
        self.shape = shape
        n = shape.num_cells
        widths = [shape.time_varying] + [n] * (shape.num_layers - 1)
        self.w_in = nn.ParameterList([nn.Parameter(torch.zeros(4 * n, w)) for w in widths])
        self.w_rec = nn.ParameterList([nn.Parameter(torch.zeros(4 * n, n)) for _ in widths])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(4 * n)) for _ in widths])
        self.w_static = nn.Parameter(torch.zeros(4 * n, shape.static))
        e = shape.embedding_dimension
        self.embedding = nn.ParameterList([nn.Parameter(torch.zeros(c, e)) for c in shape.cardinality])
        self.w_out = nn.Parameter(torch.zeros(shape.num_outputs, n))
        self.b_out = nn.Parameter(torch.zeros(shape.num_outputs))
        if shape.skip_to is not None:
            self.w_skip = nn.Parameter(torch.zeros(1, 2 * shape.num_lags))
        self.spare: Spare = {}  # buffers of training, no part of the model
        if generator is not None:
            self._initialise(generator)

    def _initialise(self, generator: torch.Generator) -> None:
        n = self.shape.num_cells
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.startswith("embedding"):
                    p.normal_(0.0, 0.1, generator=generator)
                elif p.dim() == 2 and name != "w_skip":  # the skip connection starts at zero, without effect
                    bound = n**-0.5
                    p.uniform_(-bound, bound, generator=generator)
            for b in self.bias:
                b[n : 2 * n] = 1.0  # an open forget gate at first (Jozefowicz et al. 2015)

    def static_features(self, log_scale: Tensor, cat: Tensor | None) -> Tensor:
        """(B,) standardised log scale and (B, n_cat) categories to (D, B).

        A category equal to its cardinality means "not seen in training" and takes the mean embedding.
        """
        parts = [log_scale[None]]
        for k, table in enumerate(self.embedding):
            assert cat is not None
            rows = torch.cat([table, table.mean(0, keepdim=True)]) if not self.training else table
            parts.append(rows[cat[:, k]].t())
        return torch.cat(parts)

    def constant(self, static: Tensor) -> Tensor:
        """What the static features (D, B) and the bias add to the first layer at every step: (4N, B)."""
        return torch.addmm(self.bias[0][:, None], self.w_static, static)

    def project_first(self, varying: Tensor, static: Tensor) -> Tensor:
        """(T, 2L + F, B) and (D, B) to the first layer's projected inputs (T, 4N, B)."""
        with large_products(varying.device):
            return project(self.w_in[0], varying, self.constant(static))

    def head(self, hidden: Tensor) -> list[Tensor]:
        """(T, N, B) to P raw outputs of shape (T, B)."""
        return list(project(self.w_out, hidden, self.b_out[:, None]).unbind(1))

    def skip(self, varying: Tensor) -> Tensor:
        """What the lags (T, 2L + F, B) add to raw output `skip_to`: (T, B)."""
        lags = varying[:, : 2 * self.shape.num_lags]
        return torch.bmm(self.w_skip.expand(len(lags), 1, -1), lags)[:, 0]

    def forward(self, varying: Tensor, static: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Teacher-forced unroll to P raw outputs of shape (T, B).

        keep (layers - 1, N, B) is the dropout mask between layers, already divided by its keep rate; one
        mask serves all steps of a window (Gal and Ghahramani 2016).
        """
        weights = tuple(self.w_in), tuple(self.w_rec), tuple(self.bias[1:])
        hidden = unroll(varying, self.constant(static), keep, self.spare, weights)
        raw = self.head(hidden)
        if self.shape.skip_to is not None:
            raw[self.shape.skip_to] = raw[self.shape.skip_to] + self.skip(varying)
        return raw

    def encode(self, varying: Tensor, static: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each layer's hidden state and cell after the last step, (N, B) each, without gradients."""
        hidden, constant, states = varying, self.constant(static), []
        large = large_products(varying.device)
        n = self.shape.num_cells
        for layer in range(self.shape.num_layers):
            if layer:
                constant = self.bias[layer][:, None]
            with large:
                gates = project(self.w_in[layer], hidden, constant)
            hidden = gates.new_empty(len(gates), n, gates.shape[2])
            h, c = (gates.new_zeros(n, gates.shape[2]) for _ in range(2))
            for sums, out in zip(gates.unbind(0), hidden.unbind(0), strict=True):
                with large:
                    sums.addmm_(self.w_rec[layer], h)
                lstm_step(sums, None, 1, c, out)
                h = out
            states.append((h.clone(), c))
        return states


def lstm_step(gates: Tensor, known: Tensor | None, paths: int, cell: Tensor, hidden: Tensor) -> None:
    """The elementwise half of a step, in place: cell (N, B) becomes the new cell, hidden (N, B) the new hidden state.

    gates (4N, B) are the gates' pre-activations; they are overwritten. known (4N, b), if given, is added to them first:
    column i of it to all `paths` columns of series i, which stand side by side.
    """
    if kernels.serve(gates):
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


def project(weight: Tensor, x: Tensor, constant: Tensor) -> Tensor:
    """weight (O, I) times x (T, I, B), plus constant (O, B) or (O, 1): (T, O, B)."""
    steps = x.shape[0]
    wide = constant[None].expand(steps, weight.shape[0], x.shape[2])
    return torch.baddbmm(wide, weight[None].expand(steps, -1, -1), x)


class Workspace:
    """Buffers of `unroll` for K layers of N cells, T steps and B columns, used again batch after batch.

    `forward_arrays` and `backward_arrays` are the arguments of the kernels, described there. `by_tick` holds, per tick,
    (rows, gates, d_gates), the operands of its matrix products: rows (K, I + N, B) hold each layer's inputs, padded to
    I, above its hidden state before the step; gates and d_gates are (K, 4N, B).
    """

    def __init__(self, x: Tensor, n: int, layers: int) -> None:
        steps, features, batch = x.shape
        ticks = steps + layers - 1
        self.steps, self.layers, self.cells = steps, layers, n
        self.inputs = inputs = features if layers == 1 else max(features, n)
        self.from_below = from_below = n if layers > 1 else 0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, batch)

        # rows and cells have one tick more: a step writes its state where the next one reads it
        self.rows, cells = zeros(ticks + 1, layers, inputs + n), zeros(ticks + 1, layers, n)
        self.gates, self.d_gates = zeros(ticks, layers, 4 * n), zeros(ticks, layers, 4 * n)
        squashed = zeros(ticks, layers, n)
        self.constant, self.keep = zeros(layers, 4 * n), torch.ones(layers, n, batch)
        self.d_rows, self.d_cells = zeros(layers, from_below + n), zeros(layers, n)
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

    constant (4N, B) is added to the first layer's pre-activations at each step. keep (K - 1, N, B), or None, is the
    dropout mask that multiplies the hidden states on their way to the next layer. weights are each layer's w_in, each
    layer's w_rec, and the bias of each but the first.
    """
    if kernels.serve(x):
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

    Layer l, from 0, computes step t at tick t + l: the layer below has just computed its input. So a tick is one
    matrix product and one kernel for all layers, where autograd's tape would record some twenty calls a layer. There
    are T + K - 1 ticks. In the first l of them and the last K - 1 - l, layer l has no step: what it computes there is
    set to zero or never read, and has no gradient.

    A workspace is taken from `spare` and put back by the backward pass. The hidden states that `forward` returns are a
    view of it and valid until then. A second backward pass is an error of autograd once a later batch has overwritten
    them.
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
        rows, _ = ctx.saved_tensors  # raises where they were overwritten since the forward pass
        work = ctx.work
        ticks, layers, n, inputs = len(work.by_tick), work.layers, work.cells, work.inputs
        back = torch.cat([work.weights[:, :, : work.from_below], work.weights[:, :, inputs:]], 2)
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
        with large_products(rows.device, transposed=True):
            d_by_tick = torch.bmm(work.d_gates.flatten(0, 1), rows[:ticks].flatten(0, 1).transpose(1, 2))
            if ctx.needs_input_grad[0]:
                first = work.weights[0, :, : ctx.widths[0]].t()
                dx = torch.bmm(first.expand(work.steps, -1, -1), work.d_gates[: work.steps, 0])
        d_weights = d_by_tick.view(ticks, layers, 4 * n, -1).sum(0)
        d_in = [grad[:, :width] for grad, width in zip(d_weights, ctx.widths, strict=True)]
        d_constant = work.d_gates.sum(0)
        if ctx.unused is not None:
            ctx.unused.append(work)
            ctx.unused = None
        return dx, d_constant[0], None, None, None, *d_in, *d_weights[:, :, inputs:], *d_constant[1:].sum(2)


@contextmanager
def quiet_denormals() -> Iterator[None]:
    """Flush denormals to zero: gradients that have decayed to them make every product many times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class _ThroughOneDNN(AbstractContextManager[None]):
    """Matrix products by oneDNN instead of MKL; entering costs a tenth of a microsecond.

    The setting is the whole process's: two threads that use it at the same time can leave it on. That changes no
    digit, since `large_products` uses it only where oneDNN's products are exact.
    """

    def __init__(self) -> None:
        self.before = torch.get_float32_matmul_precision()

    def __enter__(self) -> None:
        torch.set_float32_matmul_precision("medium")

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self.before)


def large_products(device: torch.device, transposed: bool = False) -> AbstractContextManager[None]:
    """A context for matrix products of millions of operations; it can be entered again and again.

    Under precision "medium" torch hands products to oneDNN, whose kernels are twice as fast as MKL's on AMD, but start
    later: small products gain nothing. On Intel they are faster only where the second factor is `transposed`, and half
    as fast elsewhere. "Medium" also allows oneDNN to round to bfloat16, which it does where the CPU has tiles (AMX);
    there, and on a GPU, the context does nothing.
    """
    gains = device.type == "cpu" and (transposed or kernels.PROCESSOR.startswith("znver"))
    return _ThroughOneDNN() if gains and _one_dnn_is_exact() else nullcontext()


@functools.cache
def _one_dnn_is_exact() -> bool:
    a = torch.arange(64 * 64, dtype=torch.float32).view(64, 64).cos()
    with _ThroughOneDNN():
        got = a @ a
    return bool(torch.allclose(got.double(), a.double() @ a.double(), rtol=0.0, atol=1e-4))
