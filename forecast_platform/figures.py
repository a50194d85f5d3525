"""Figures as people read them: digits by size, so that a small number is never shown as 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

DIGITS = 2  # significant ones, at least
_SMALLEST = 1e-6  # below this a figure is written with an exponent


def figure(value: float | None) -> str:
    """A figure with two significant digits or all of its whole ones: 0.0032, 0.47, 3.2, 12,345; "" for none.

    Only 0 itself is shown as 0. Below a millionth it has an exponent: 8.7e-09.
    """
    return "" if _none(value) else _written(float(value or 0), _decimals(float(value or 0)))


def figures(values: Sequence[float | None]) -> list[str]:
    """The figures of one column, with the decimals of its middle value; what they would show as 0 keeps its own."""
    sizes = [abs(float(v)) for v in values if v is not None and not _none(v) and v]
    decimals = _decimals(median(sizes)) if sizes else 0
    column = []
    for value in values:
        if value is None or _none(value):
            column.append("")
        else:
            number = float(value)
            column.append(_fixed(number, decimals) if not number or round(number, decimals) else figure(number))
    return column


def _none(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _decimals(value: float) -> int:
    """Decimals that show two significant digits."""
    return max(DIGITS - 1 - math.floor(math.log10(abs(value))), 0) if value else 0


def _written(value: float, decimals: int) -> str:
    if value and abs(value) < _SMALLEST:
        return f"{value:.{DIGITS - 1}e}"
    text = _fixed(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _fixed(value: float, decimals: int) -> str:
    if decimals > 12:  # a column of figures far below 1
        return f"{value:.{DIGITS - 1}e}" if value else "0"
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"  # not -0
