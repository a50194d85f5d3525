"""Figures as people read them: digits by size, so that a small number is never shown as 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

DIGITS = 2  # significant ones, at least
_SMALLEST = 1e-6  # below this a figure is written with an exponent

# Writes a number with so many decimals, or with an exponent where they are None.
Write = Callable[[float, int | None], str]


def english(value: float, decimals: int | None) -> str:
    """12,345.6 or 8.7e-09."""
    return f"{value:.{DIGITS - 1}e}" if decimals is None else f"{value:,.{decimals}f}"


def figure(value: float | None, write: Write = english) -> str:
    """A figure with two significant digits or all of its whole ones: 0.0032, 0.47, 3.2, 12,345; "" for none.

    Only 0 itself is shown as 0. Below a millionth it has an exponent: 8.7e-09.
    """
    if value is None or not math.isfinite(value):
        return ""
    value = float(value)
    if value and abs(value) < _SMALLEST:
        return write(value, None)
    decimals = _decimals(value)
    shown = f"{value:.{decimals}f}".rstrip("0").partition(".")[2] if decimals else ""
    return _fixed(value, len(shown), write)


def figures(values: Sequence[float | None], write: Write = english) -> list[str]:
    """The figures of one column, with the decimals of its middle value; what they would show as 0 keeps its own."""
    known = [None if v is None or not math.isfinite(v) else float(v) for v in values]
    sizes = [abs(v) for v in known if v]
    decimals = _decimals(median(sizes)) if sizes else 0
    return [
        "" if v is None else _fixed(v, decimals, write) if not v or round(v, decimals) else figure(v, write)
        for v in known
    ]


def _decimals(value: float) -> int:
    """Decimals that show two significant digits."""
    return max(DIGITS - 1 - math.floor(math.log10(abs(value))), 0) if value else 0


def _fixed(value: float, decimals: int, write: Write) -> str:
    if decimals > 12:  # a column of figures far below 1
        return write(value, None) if value else "0"
    return write(round(value, decimals) + 0.0, decimals)  # not -0
