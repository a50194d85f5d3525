"""Figures below 1 keep their digits: what a person sees is never a 0 that is none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform.cli.terminal import cell
from forecast_platform.figures import figure, figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0032, "0.0032"),
        (0.47, "0.47"),
        (3.2, "3.2"),
        (12.34, "12"),
        (12_345.0, "12,345"),
        (0.0, "0"),
        (-0.0, "0"),
        (-0.0032, "-0.0032"),
        (-1999.6, "-2,000"),
        (1.0498e-05, "0.00001"),  # the article `tiny` of the field case
        (8.674e-06, "0.0000087"),
        (8.7e-09, "8.7e-09"),
        (3.0, "3"),
        (0.999, "1"),
        (None, ""),
        (math.nan, ""),
    ],
)
def test_digits_by_size(value: float | None, text: str) -> None:
    assert figure(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_nothing_but_0_is_shown_as_0_and_two_digits_are_right(value: float) -> None:
    shown = float(figure(value).replace(",", ""))
    assert (shown == 0) == (value == 0)
    assert shown == pytest.approx(value, rel=0.0501)


def test_a_column_has_one_number_of_decimals() -> None:
    assert figures([3.2, 0.5, 12.0]) == ["3.2", "0.5", "12.0"]
    assert figures([1790.35, 1569.7, 47.0]) == ["1,790", "1,570", "47"]
    assert figures([8.674e-06, 7.4e-06, 0.0]) == ["0.0000087", "0.0000074", "0.0000000"]
    assert figures([None, 5.0]) == ["", "5.0"]
    assert figures([]) == []


def test_in_a_column_of_large_figures_a_small_one_is_not_0() -> None:
    assert figures([12_345.0, 9_000.0, 0.0032]) == ["12,345", "9,000", "0.0032"]


def test_a_query_shows_small_figures_with_their_digits() -> None:
    assert [cell(v) for v in (0.0032, 1790.35, 3.0, 0.0)] == ["0.0032", "1,790.35", "3", "0"]
