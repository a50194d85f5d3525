"""Templates, with the texts and figures of one locale in them."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2

from forecast_platform.dashboard.recorded import recorded
from forecast_platform.words import Words


@functools.cache
def environment(words: Words) -> jinja2.Environment:
    """The templates; whatever they are given is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    # The extension puts values into texts, and escapes them.
    made.install_gettext_callables(words.catalog.gettext, words.catalog.ngettext, newstyle=True)  # type: ignore[attr-defined]
    own = (words.number, words.signed, words.fixed, words.short, words.cash, words.signed_cash, words.short_cash,
           words.percent, words.weeks, words.term, words.day, words.week, words.week_key, words.moment,
           words.clock)  # fmt: skip
    made.filters |= {method.__name__: method for method in own} | {
        "sentence": sentence,
        "recorded": functools.partial(recorded, words),
    }
    return made


def sentence(text: str) -> str:
    """The text with a capital in front; names in it stay as they are."""
    return text[:1].upper() + text[1:]
