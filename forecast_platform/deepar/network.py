"""The recurrent network. No I/O, no calendar, no randomness of its own.

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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forecast_platform.deepar.arithmetic import large_products


@dataclass(frozen=True)
class NetworkShape:
    """All sizes of a network: `features` counts time features, age and dynamic features (F).

    skip_to: the raw output that a linear path from the lags and their flags is added to; None for no such path.
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


class _Layer(torch.autograd.Function):
    """An LSTM layer, input projection included, with its own backward pass.

    One buffer holds the projected inputs and then, in place, all gates, so a step costs one matrix product
    and a handful of elementwise calls; autograd's tape would record some twenty. Gate order: input, forget,
    output, candidate (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_in: Tensor, constant: Tensor, w_rec: Tensor) -> Tensor:
        n, large = w_rec.shape[1], large_products(x.device)
        with large:
            gates = _project(doubled_candidate(w_in), x, doubled_candidate(constant))
        steps, _, batch = gates.shape
        hidden, cell = gates.new_empty(steps + 1, n, batch), gates.new_empty(steps + 1, n, batch)
        hidden[0], cell[0] = 0.0, 0.0
        squashed = gates.new_empty(steps, n, batch)
        recurrent, h, c = doubled_candidate(w_rec), hidden.unbind(0), cell.unbind(0)
        for t, (whole, s) in enumerate(zip(gates.unbind(0), squashed.unbind(0), strict=True)):
            whole.addmm_(recurrent, h[t])
            lstm_cell(whole, whole.chunk(4), c[t], h[t + 1], c[t + 1], s)
        ctx.save_for_backward(x, w_in, constant, w_rec, gates, hidden, cell, squashed)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w_in, constant, w_rec, gates, hidden, cell, squashed = ctx.saved_tensors
        n = w_rec.shape[1]
        d_gates = torch.empty_like(gates)
        dh, dc = torch.zeros_like(cell[0]), torch.zeros_like(cell[0])
        back = w_rec.t().contiguous()
        through = (gates[:, 2 * n : 3 * n] * (1.0 - squashed * squashed)).unbind(0)  # d cell / d hidden
        d_hidden, c, s = grads[0].unbind(0), (0.5 * cell).unbind(0), squashed.unbind(0)
        sigmoids, i, f, _, g = _split(gates, n)
        d_all, d_parts = d_gates.unbind(0), _split(d_gates, n)
        d_sigmoids, di, df, do, dg = d_parts
        for t in range(len(gates) - 1, -1, -1):
            dh.add_(d_hidden[t])
            dc.addcmul_(dh, through[t])
            torch.mul(dc, g[t], out=di[t])
            torch.mul(dc, c[t], out=df[t])
            torch.mul(dh, s[t], out=do[t])
            torch.mul(dc, i[t], out=dg[t])
            torch.ops.aten.sigmoid_backward.grad_input(d_sigmoids[t], sigmoids[t], grad_input=d_sigmoids[t])
            torch.ops.aten.tanh_backward.grad_input(dg[t], g[t], grad_input=dg[t])
            dc.mul_(f[t])
            if t:
                torch.mm(back, d_all[t], out=dh)
        with large_products(x.device):
            d_rec = torch.bmm(d_gates, hidden[:-1].transpose(1, 2)).sum(0)
            d_in = torch.bmm(d_gates, x.transpose(1, 2)).sum(0)
            dx = torch.matmul(w_in.t(), d_gates) if ctx.needs_input_grad[0] else None
        d_constant = d_gates.sum(0)
        if constant.shape[1] == 1:
            d_constant = d_constant.sum(1, keepdim=True)
        return dx, d_in, d_constant, d_rec


def _split(gates: Tensor, n: int) -> tuple[tuple[Tensor, ...], ...]:
    """Per-step views of gates (T, 4N, B): the three sigmoid gates together, then i, f, o and g."""
    cuts = ((0, 3 * n), (0, n), (n, 2 * n), (2 * n, 3 * n), (3 * n, 4 * n))
    return tuple(gates[:, low:high].unbind(0) for low, high in cuts)


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
    tanh(x) = 2 sigmoid(2x) - 1, and torch's sigmoid takes a tenth of its tanh's time.
    """
    i, f, o, g = parts
    gates.sigmoid_()
    torch.add(_MINUS_ONE, g, alpha=2, out=g)
    torch.mul(f, c, out=c_out)
    c_out.addcmul_(i, g, value=2.0)
    torch.sigmoid(c_out, out=squashed)
    torch.add(_MINUS_ONE, squashed, alpha=2, out=squashed)
    torch.mul(o, squashed, out=h_out)


_MINUS_ONE = torch.tensor(-1.0)


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
        if generator is not None:
            self._initialise(generator)

    def _initialise(self, generator: torch.Generator) -> None:
        n = self.shape.num_cells
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.startswith("embedding"):
                    p.normal_(0.0, 0.1, generator=generator)
                elif p.dim() == 2 and name != "w_skip":  # a skip of zero leaves the network as it is without
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
            return _project(self.w_in[0], varying, self.constant(static))

    def head(self, hidden: Tensor) -> list[Tensor]:
        """(T, N, B) to P raw outputs of shape (T, B)."""
        return list(_project(self.w_out, hidden, self.b_out[:, None]).unbind(1))

    def skip(self, varying: Tensor) -> Tensor:
        """What the lags (T, 2L + F, B) add to raw output `skip_to`: (T, B)."""
        return torch.matmul(self.w_skip, varying[:, : 2 * self.shape.num_lags])[:, 0]

    def forward(self, varying: Tensor, static: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Teacher-forced unroll to P raw outputs of shape (T, B).

        keep (layers - 1, N, B) is the dropout mask between layers, already divided by its keep rate; one
        mask serves all steps of a window (Gal and Ghahramani 2016).
        """
        hidden = self.layer(0, varying, self.constant(static))
        for layer in range(1, self.shape.num_layers):
            below = hidden if keep is None else hidden * keep[layer - 1]
            hidden = self.layer(layer, below, self.bias[layer][:, None])
        raw = self.head(hidden)
        if self.shape.skip_to is not None:
            raw[self.shape.skip_to] = raw[self.shape.skip_to] + self.skip(varying)
        return raw

    def layer(self, layer: int, x: Tensor, constant: Tensor) -> Tensor:
        """Hidden states (T, N, B) from a zero state; constant (4N, B) or (4N, 1) is added at each step."""
        out: Tensor = _Layer.apply(x, self.w_in[layer], constant, self.w_rec[layer])  # type: ignore[no-untyped-call]
        return out

    def encode(self, varying: Tensor, static: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Without gradients: each layer's h and twice its cell after the last step, (N, B) each."""
        hidden, constant, states = varying, self.constant(static), []
        large = large_products(varying.device)
        n = self.shape.num_cells
        for layer in range(self.shape.num_layers):
            if layer:
                constant = self.bias[layer][:, None]
            with large:
                gates = _project(doubled_candidate(self.w_in[layer]), hidden, doubled_candidate(constant))
            hidden = gates.new_empty(len(gates), n, gates.shape[2])
            h, c, s = (gates.new_zeros(n, gates.shape[2]) for _ in range(3))
            recurrent = doubled_candidate(self.w_rec[layer])
            for whole, out in zip(gates.unbind(0), hidden.unbind(0), strict=True):
                with large:
                    whole.addmm_(recurrent, h)
                lstm_cell(whole, whole.chunk(4), c, out, c, s)
                h = out
            states.append((h.clone(), c))
        return states


def _project(weight: Tensor, x: Tensor, constant: Tensor) -> Tensor:
    """weight (O, I) times x (T, I, B), plus constant (O, B) or (O, 1): (T, O, B)."""
    steps = x.shape[0]
    return torch.baddbmm(
        constant[None].expand(steps, weight.shape[0], x.shape[2]), weight[None].expand(steps, -1, -1), x
    )
