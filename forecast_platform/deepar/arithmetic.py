"""Settings of torch that make CPU arithmetic faster and leave its results alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


@contextmanager
def quiet_denormals() -> Iterator[None]:
    """Flush denormals: gradients decaying through them make every product many times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class _ThroughOneDNN(AbstractContextManager[None]):
    """Matrix products by oneDNN instead of MKL; entering costs a tenth of a microsecond.

    The setting is the whole process's. Two threads that cross can leave it on, where it changes no digit.
    """

    def __init__(self) -> None:
        self.before = torch.get_float32_matmul_precision()

    def __enter__(self) -> None:
        torch.set_float32_matmul_precision("medium")

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self.before)


def large_products(device: torch.device) -> AbstractContextManager[None]:
    """A context for matrix products of millions of operations, to be entered any number of times.

    Under precision "medium" torch hands products to oneDNN, whose kernels are twice as fast as MKL's on AMD and
    no slower elsewhere, but start later: small products gain nothing. "Medium" also allows oneDNN to round to
    bfloat16, which it does where the CPU has tiles (AMX); there, and on a GPU, the context does nothing.
    """
    return _ThroughOneDNN() if device.type == "cpu" and _one_dnn_is_exact() else nullcontext()


@functools.cache
def _one_dnn_is_exact() -> bool:
    a = torch.arange(64 * 64, dtype=torch.float32).view(64, 64).cos()
    with _ThroughOneDNN():
        got = a @ a
    return bool(torch.allclose(got.double(), a.double() @ a.double(), rtol=0.0, atol=1e-4))
