"""Templates, and how numbers and times are written in them."""

from __future__ import annotations

import datetime as dt
import functools
from pathlib import Path
from typing import Any

import jinja2

from forecast_platform.dashboard.charts import short
from forecast_platform.figures import figure, figures


@functools.cache
def environment() -> jinja2.Environment:
    """The templates; whatever they are given is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (number, numbers, percent, signed, change, weeks, sentence, moment, day, clock, short)
    made.filters |= {function.__name__: function for function in filters}
    return made


def number(value: Any) -> str:
    """12,345, 0.47, and an en dash for nothing."""
    return figure(value) or "–"


def numbers(values: Any) -> list[str]:
    """The numbers of one column, with equal decimals."""
    return [text or "–" for text in figures(list(values))]


def signed(value: Any) -> str:
    """+1,234, -1,234, +0.12."""
    if not value:
        return number(value)
    return ("+" if value > 0 else "\N{MINUS SIGN}") + figure(abs(value))


def change(value: Any) -> str:
    """A change as a share, or in money where a share of what was before has no meaning."""
    return percent(value.share, 1, True) if value.share is not None else signed(value.amount)


def sentence(text: str) -> str:
    """The text with a capital in front; names in it stay as they are."""
    return text[:1].upper() + text[1:]


def weeks(count: Any) -> str:
    """1 week, 8 weeks."""
    return "1 week" if count == 1 else f"{number(count)} weeks"


def percent(value: Any, digits: int = 1, sign: bool = False) -> str:
    """0.0791 as 7.9%."""
    if value is None:
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}%}".replace("-", "\N{MINUS SIGN}")


def moment(value: dt.datetime | None) -> str:
    """A time to the minute, UTC."""
    return "–" if value is None else f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def day(value: dt.datetime | None) -> str:
    """The date of a time."""
    return moment(value)[:10]


def clock(value: dt.datetime | None) -> str:
    """The time of day of a time."""
    return moment(value)[11:]
