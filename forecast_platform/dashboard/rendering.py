"""Templates, and how numbers and times are written in them."""

from __future__ import annotations

import datetime as dt
import functools
from pathlib import Path
from typing import Any

import jinja2

from forecast_platform.dashboard.charts import short


@functools.cache
def environment() -> jinja2.Environment:
    """The templates; whatever they are given is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (number, percent, signed, moment, day, clock, short)
    made.filters |= {function.__name__: function for function in filters}
    return made


def number(value: Any) -> str:
    """12,345 and an en dash for nothing."""
    return "–" if value is None else f"{value:,.0f}"


def signed(value: Any) -> str:
    """+1,234, -1,234."""
    return "–" if value is None else f"{value:+,.0f}".replace("-", "\N{MINUS SIGN}")


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
