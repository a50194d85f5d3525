"""Distributions: from the network's raw outputs to log-likelihoods and to samples.

Every function is elementwise over tensors of one shape. Raw outputs come as a list of `num_outputs` tensors;
targets are in units of the series' scale. There are two exceptions: counts (negative-binomial) keep their own units,
and the scale enters through the parameters (Salinas et al. 2020, DeepAR, section 3.1); beta has no scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from forecast_platform import kernels
from forecast_platform.deepar.hyperparameters import ContractError
from forecast_platform.deepar.series import SeriesSet

_SUMMED = 64  # below this mean, a count's quantile is found by adding up probabilities
_NARROWEST_START, _WIDEST_START = 0.01, 20.0  # bounds of the width that training begins with
_FLOOR = 1e-4  # keeps widths and shapes away from zero, where the likelihood is unbounded
_NARROWEST = np.float32(_FLOOR)


@dataclass(frozen=True)
class Likelihood:
    """One distribution family.

    Attributes:
        name: SageMaker's spelling.
        num_outputs: raw network outputs per step.
        scaled_input: whether the network sees targets divided by the series' scale (not for beta).
        scaled_output: whether z and the draws are in units of the scale (not for counts).
        num_uniforms: uniforms one sample needs.
        location: the index of the raw output that is the location itself, None where no output is.
    """

    name: str
    num_outputs: int
    scaled_input: bool
    scaled_output: bool
    num_uniforms: int
    location: int | None

    def parameters(self, raw: Sequence[Tensor], scale: Tensor) -> list[Tensor]:
        """Raw outputs to distribution parameters; `scale` broadcasts against them.

        student-t: df, loc, width. gaussian: loc, width. negative-binomial: mean, alpha (in counts).
        beta: a, b. deterministic-L1: loc.
        """
        if self.name == "student-t":
            return [2.0 + softplus(raw[0]), raw[1], softplus(raw[2]) + _FLOOR]
        if self.name == "gaussian":
            return [raw[0], softplus(raw[1]) + _FLOOR]
        if self.name == "negative-binomial":
            return [(softplus(raw[0]) + _FLOOR) * scale, (softplus(raw[1]) + _FLOOR) / scale.sqrt()]
        if self.name == "beta":
            return [softplus(raw[0]) + _FLOOR, softplus(raw[1]) + _FLOOR]
        return [raw[0]]

    def start(self, z: Tensor) -> tuple[list[float], float] | None:
        """Raw outputs whose distribution fits all targets z together, and its width; None for a family without a width
        of its own. z has any shape and is in units of the scale. A network that starts from these outputs has to learn
        only how windows differ, for which far fewer windows are enough."""
        if self.name not in ("student-t", "gaussian"):
            return None
        middle = float(z.median())
        width = max(1.4826 * float((z - middle).abs().median()), _NARROWEST_START)
        raw = math.log(math.expm1(min(width, _WIDEST_START)))
        return ([1.0, middle, raw] if self.name == "student-t" else [middle, raw]), width

    def log_prob(self, params: Sequence[Tensor], z: Tensor) -> Tensor:
        """Log density (or mass) of z under `params`; for deterministic-L1 minus the absolute error."""
        if self.name == "student-t":
            density: Tensor = _StudentT.apply(*params, z)  # type: ignore[no-untyped-call]
            return density
        if self.name == "gaussian":
            loc, width = params
            y = (z - loc) / width
            return -0.5 * y * y - width.log() - 0.5 * math.log(2.0 * math.pi)
        if self.name == "negative-binomial":
            mean, alpha = params
            size = 1.0 / alpha
            log1 = torch.log1p(alpha * mean)
            choose = torch.lgamma(z + size) - torch.lgamma(size) - torch.lgamma(z + 1.0)
            return choose - (z + size) * log1 + z * (alpha * mean).log()
        if self.name == "beta":
            a, b = params
            norm = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
            return norm + (a - 1.0) * z.log() + (b - 1.0) * torch.log1p(-z)
        return -(z - params[0]).abs()

    def prepare(self, uniforms: Tensor) -> list[Tensor]:
        """The part of a draw that needs no parameters: uniforms (num_uniforms, ...) to base variates.

        student-t: log u1 and cos(2 pi u2) (Bailey 1994). gaussian: a standard normal (Box and Muller 1958).
        """
        if self.name == "student-t":
            return [uniforms[0].log(), torch.cos(2.0 * math.pi * uniforms[1])]
        if self.name == "gaussian":
            return [torch.sqrt(-2.0 * uniforms[0].log()) * torch.cos(2.0 * math.pi * uniforms[1])]
        return [uniforms[k] for k in range(self.num_uniforms)]

    def sample(self, params: Sequence[Tensor], base: Sequence[Tensor]) -> Tensor:
        """One draw per element from `prepare`d variates."""
        if self.name == "student-t":
            df, loc, width = params
            # Bailey: t = sqrt(df (u1^(-2/df) - 1)) cos(2 pi u2); expm1 keeps digits where u1 is near 1.
            radius = torch.sqrt(df * torch.expm1(base[0] * (-2.0 / df)))
            return loc + width * radius * base[1]
        if self.name == "gaussian":
            return params[0] + params[1] * base[0]
        if self.name == "negative-binomial":
            draws = nbinom_ppf(_np(base[0]), _np(params[0]), _np(params[1]))
        elif self.name == "beta":
            from scipy.special import betaincinv

            draws = betaincinv(_np(params[0]), _np(params[1]), _np(base[0]))
            # float32 must not round a draw onto the border of (0, 1), where the density may be infinite
            draws = np.clip(draws, 1e-6, 1.0 - 1e-6)
        else:
            return params[0]
        return torch.from_numpy(draws.astype(np.float32)).to(params[0].device)

    def draw(self, raw: Tensor, scale: Tensor, base: Sequence[Tensor], out: Tensor) -> None:
        """`sample` from raw outputs (P, B) into `out` (B,); scale and the base variates are (B,) each."""
        if self.name == "student-t" and kernels.serve(raw):
            log_u, cosine = base
            kernels.student_t(raw.numpy(), log_u.numpy(), cosine.numpy(), _NARROWEST, out.numpy())
        else:
            out.copy_(self.sample(self.parameters(raw.unbind(0), scale), base))

    def check_domain(self, series: SeriesSet) -> None:
        """Raise ContractError naming the first series and value outside the distribution's domain."""
        v = series.values
        seen = ~np.isnan(v)
        if self.name == "negative-binomial":
            bad, rule = seen & ((v < 0) | (v != np.floor(v))), "counts: whole numbers from 0"
        elif self.name == "beta":
            bad, rule = seen & ((v <= 0) | (v >= 1)), "values above 0 and below 1"
        else:
            return
        if bad.any():
            at = int(bad.argmax())
            i = int(np.searchsorted(series.indptr, at, side="right")) - 1
            raise ContractError(
                f"{series.name(i)}: target value {at - int(series.indptr[i])} is {v[at]:g}; likelihood "
                f"{self.name} takes {rule}. Use student-t or gaussian for other data"
            )


class _StudentT(torch.autograd.Function):
    """Log density of Student's t at z by df, loc and width; z has no gradient.

    Its gradient is written out: a training step would spend more time on autograd's tape than on these formulas.
    """

    @staticmethod
    def forward(ctx: Any, df: Tensor, loc: Tensor, width: Tensor, z: Tensor) -> Tensor:
        y = (z - loc).div_(width)
        square = y * y
        half = 0.5 * df + 0.5
        log1p = torch.log1p(square / df)
        ctx.save_for_backward(df, width, y, square, half, log1p)
        norm = torch.lgamma(half).sub_(torch.lgamma(0.5 * df)).sub_((df * math.pi).sqrt_().mul_(width).log_())
        return norm.addcmul_(half, log1p, value=-1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        df, width, y, square, half, log1p = ctx.saved_tensors
        by_width = grads[0] / width
        weight = 2.0 * half / (df + square)
        weighted = weight * square
        d_df = torch.digamma(half).sub_(torch.digamma(0.5 * df)).sub_(log1p).add_((weighted - 1.0).div_(df)).mul_(0.5)
        return d_df.mul_(grads[0]), weight.mul_(y).mul_(by_width), weighted.sub_(1.0).mul_(by_width), None


_ALL = {
    "student-t": Likelihood("student-t", 3, True, True, 2, 1),
    "gaussian": Likelihood("gaussian", 2, True, True, 2, 0),
    "negative-binomial": Likelihood("negative-binomial", 2, True, False, 1, None),
    "beta": Likelihood("beta", 2, False, False, 1, None),
    "deterministic-L1": Likelihood("deterministic-L1", 1, True, True, 0, 0),
}


def get_likelihood(name: str) -> Likelihood:
    """The family of that name, as HyperParameters spells it."""
    return _ALL[name]


def _np(x: Tensor) -> NDArray[np.float64]:
    return x.detach().cpu().numpy().astype(np.float64)


def nbinom_ppf(u: NDArray[np.float64], mean: NDArray[np.float64], alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest count whose cumulative probability reaches u."""
    shape, (u, mean, alpha) = u.shape, (x.ravel() for x in (u, mean, alpha))
    size, odds = 1.0 / alpha, alpha * mean / (1.0 + alpha * mean)
    out = np.empty_like(u)
    # Adding up the probabilities of 0, 1, .. is much faster than the inverse beta function.
    which = np.flatnonzero(mean < _SUMMED)
    want, n, q = u[which], size[which], odds[which]
    mass: NDArray[np.float64] = (1.0 - q) ** n
    total = mass
    for count in range(2 * _SUMMED):
        out[which] = count
        short = total < want
        which = which[short]
        want, n, q, mass, total = (x[short] for x in (want, n, q, mass, total))
        if not len(which):
            break
        mass = mass * q * (n + count) / (count + 1.0)
        total = total + mass
    rest = np.concatenate([np.flatnonzero(mean >= _SUMMED), which])
    out[rest] = nbinom_inverse(u[rest], mean[rest], alpha[rest])
    return out.reshape(shape)


def nbinom_inverse(
    u: NDArray[np.float64], mean: NDArray[np.float64], alpha: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The same for a count of any size, by inverting the incomplete beta function."""
    from scipy.special import betainc, nbdtrik

    size = 1.0 / alpha
    p = 1.0 / (1.0 + alpha * mean)
    k = np.maximum(np.ceil(np.nan_to_num(nbdtrik(u, size, p))), 0.0)
    # nbdtrik solves for a real count; rounding can leave the whole one a step off in either direction
    k = np.where((k > 0) & (betainc(size, np.maximum(k, 1.0), p) >= u), k - 1.0, k)
    out: NDArray[np.float64] = np.where(betainc(size, k + 1.0, p) < u, k + 1.0, k)
    return out
