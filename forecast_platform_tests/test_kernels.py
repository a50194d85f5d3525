"""Products whose rows do not depend on how many there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.kernels import of_few, product


@settings(derandomize=True, deadline=None, max_examples=60)
@given(rows=st.integers(0, 40), sources=st.integers(1, 30), columns=st.integers(1, 30), seed=st.integers(0, 9))
def test_they_are_numpys_and_a_row_is_the_same_in_any_company(rows, sources, columns, seed):
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(rows, sources)), rng.normal(size=(sources, columns))
    few = np.where(rng.random(weights.shape) < 0.2, weights, 0)
    some = rng.permutation(rows)[: rows // 2]
    for ours, weight in ((product, weights), (of_few, few)):
        found = ours(x, weight)
        np.testing.assert_allclose(found, x @ weight, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ours(x[some], weight), found[some])


def test_several_matrices_at_once_and_other_types():
    cells = np.arange(24).reshape(2, 3, 4)
    weights = np.eye(4)[:, ::-1].astype(np.float32)
    assert of_few(cells, weights.astype(float)).tolist() == cells[..., ::-1].tolist()
    assert product(cells[0].astype(np.float32), weights).tolist() == cells[0, :, ::-1].tolist()


@pytest.mark.parametrize("weights", [np.zeros((4, 3)), np.zeros((4, 0))])
def test_no_weights_no_sums(weights):
    assert of_few(np.ones((2, 4)), weights).tolist() == np.zeros((2, weights.shape[1])).tolist()
