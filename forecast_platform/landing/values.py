"""Texts as dates: whole columns at a time."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_YEARS = range(1900, 2200)  # a date outside is a typing error or a placeholder

Mask = NDArray[np.bool_]


EXAMPLE = dt.date(2012, 10, 26)
ISO = "%Y-%m-%d"


def strict_date(text: str, form: str) -> dt.date:
    """The date `text` writes in `form`, or ValueError. A time of day other than midnight is not a date."""
    moment = dt.datetime.strptime(text, form)  # noqa: DTZ007 - a date has no zone
    if moment.time() != dt.time() or moment.year not in _YEARS:
        raise ValueError(f"{text} is no date of the years {_YEARS.start} to {_YEARS.stop - 1}")
    return moment.date()


@functools.cache
def _shape(form: str) -> str:
    """Pattern that any date in this format matches, so that strptime need not look at garbage."""
    digits = {"Y": "(19|2[01])[0-9]{2}", "y": "[0-9]{2}", "m": "[0-9]{1,2}", "d": "[0-9]{1,2}"}
    pattern = ""
    for directive, literal in re.findall(r"%(.)|([^%])", form):
        pattern += digits.get(directive, "[ -~]{1,20}") if directive else re.escape(literal)
    return f"^{pattern}$"


def to_days(text: pa.Array, form: str) -> NDArray[np.datetime64]:
    """Day of each text, NaT where it is null or no date.

    strptime runs once per distinct text that has a date's shape: a file has few, however many rows.
    """
    encoded = pc.dictionary_encode(text)
    distinct = encoded.dictionary
    days = np.full(len(distinct) + 1, np.datetime64("NaT", "D"))  # the last one stands for null
    for i in np.flatnonzero(mask(pc.match_substring_regex(distinct, _shape(form)))).tolist():
        with contextlib.suppress(ValueError):  # 30 February has the shape of a date, and stays NaT
            days[i] = np.datetime64(strict_date(distinct[i].as_py(), form), "D")
    return np.asarray(days[np.asarray(pc.fill_null(encoded.indices, -1))])


def mask(condition: pa.Array) -> Mask:
    """Where the condition holds; null counts as no."""
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=bool)
