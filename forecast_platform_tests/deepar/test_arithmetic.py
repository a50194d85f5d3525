from __future__ import annotations

import contextlib

import pytest
import torch

from forecast_platform.deepar.arithmetic import large_products


@pytest.mark.parametrize("shape", [(160, 48, 3200), (160, 160, 1024), (40, 160, 128)])
def test_large_products_keep_float32s_digits_whichever_library_computes_them(shape):
    rows, inner, columns = shape
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=g), torch.randn(inner, columns, generator=g)
    with large_products(torch.device("cpu")):
        got = a @ b
    assert float((got.double() - a.double() @ b.double()).abs().max()) < 1e-4


def test_the_setting_is_put_back_also_after_an_error():
    before = torch.get_float32_matmul_precision()
    large = large_products(torch.device("cpu"))
    for _ in range(2):
        with contextlib.suppress(RuntimeError), large:
            torch.ones(2, 3) @ torch.ones(2, 3)
        assert torch.get_float32_matmul_precision() == before


def test_a_gpus_precision_is_left_alone():
    before = torch.get_float32_matmul_precision()
    with large_products(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == before
