"""Sentences that deeper rooms have recorded in English, for a reader of another language.

Tables keep them as they were said, because programs and people of all languages read these. A page tells such a
sentence by its shape and says it again; one of another shape stays as it is.
"""

from __future__ import annotations

import datetime as dt
import re

from forecast_platform.words import N_, Words

# As publishing/series.py says why a series has no forecast, and models/choose.py and defs/deepar_model.py why a model
# serves.
_SENTENCES = (
    N_("closed: no sales for %(count)s weeks, the last in the week of %(week)s; a series is closed after %(limit)s"),
    N_("store closed from %(week)s to %(until)s by %(author)s: %(reason)s"),
    N_("store closed from %(week)s by %(author)s: %(reason)s"),
    N_("department closed from %(week)s to %(until)s by %(author)s: %(reason)s"),
    N_("department closed from %(week)s by %(author)s: %(reason)s"),
    N_("pinned by %(setting)s; when trained: %(rest)s"),
    N_("served: %(served)s; not judged: %(reason)s"),
    N_("served: %(served)s; weighed in %(count)s windows of the past; in the newest, the %(horizon)s weeks after "
       "%(week)s, its WAPE / wQL are %(wape)s / %(wql)s (give or take %(error)s, from store to store), and those of "
       "last year's week, the bar to pass, %(naive_wape)s / %(naive_wql)s"),
    N_("served: %(served)s; weighed in %(count)s windows of the past; in the newest, the %(horizon)s weeks after "
       "%(week)s, its WAPE / wQL are %(wape)s / %(wql)s, and those of last year's week, the bar to pass, "
       "%(naive_wape)s / %(naive_wql)s"),
)  # fmt: skip
_SHAPES = {"week": r"\d{4}-\d\d-\d\d", "until": r"\d{4}-\d\d-\d\d", "count": r"\d+", "limit": r"\d+", "horizon": r"\d+"}
_SHAPES |= dict.fromkeys(("wape", "wql", "error", "naive_wape", "naive_wql"), r"\d+\.\d+")


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"%\((\w+)\)s", text)
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [f"(?P<{name}>{_SHAPES.get(name, '.+?')})" for name in parts[1::2]]
    return re.compile("".join(parts), re.DOTALL)


_PATTERNS = [(text, _pattern(text)) for text in _SENTENCES]


def recorded(words: Words, said: str) -> str:
    """A recorded sentence in the reader's language, with figures and weeks as they are written there."""
    for text, pattern in _PATTERNS:
        if found := pattern.fullmatch(said):
            return words.gettext(
                text, **{name: _value(words, name, value) for name, value in found.groupdict().items()}
            )
    return said


def _value(words: Words, name: str, value: str) -> str:
    if name in ("week", "until"):
        return words.week(dt.date.fromisoformat(value))
    if name == "rest":
        return recorded(words, value)
    shape = _SHAPES.get(name)
    if shape is None:
        return value
    return words.number(int(value)) if shape == r"\d+" else words.fixed(float(value), len(value.partition(".")[2]))
