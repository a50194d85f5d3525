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

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forecast_platform.deepar.arithmetic import large_products
from forecast_platform.deepar.lstm_layer import Spare, lstm_step, project, unroll


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
        self.spare: Spare = {}  # memory of training, no part of the model
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
        """Without gradients: each layer's h and cell after the last step, (N, B) each."""
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
            for whole, out in zip(gates.unbind(0), hidden.unbind(0), strict=True):
                with large:
                    whole.addmm_(self.w_rec[layer], h)
                lstm_step(whole, None, 1, c, out)
                h = out
            states.append((h.clone(), c))
        return states
