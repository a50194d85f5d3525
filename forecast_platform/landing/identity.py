"""Keys that look like one another: 08, 8 and 8.0; composed and decomposed accents; blanks at the end; case.

Spreadsheets drop leading zeros, other tools add `.0`, and two systems seldom agree on case. What a person reads as one
store is then two or three series, each with a part of the history. Everything here is about the texts alone: it knows
no file and no lake.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["numbers", "case"]
RULES: tuple[Rule, ...] = ("numbers", "case")

_NUMBER = re.compile(r"0*([0-9]+)(?:\.0)?")
# How many series must begin in one week for a warning.
TOGETHER = 5
TOGETHER_SHARE = 0.1
_SAME = 0.5  # keys shared between what vanished and what appeared, of all their keys


def normal_form(text: str, rules: Iterable[str] = ()) -> str:
    """A key as it is kept: in Unicode's normal form C without blanks around it, and by the rules asked for.

    Args:
        rules: "numbers" takes leading zeros and a trailing .0 from keys that are numbers; "case" folds case.

    Raises:
        ValueError: a rule of another name.
    """
    asked = set(rules)
    if unknown := sorted(asked - set(RULES)):
        raise ValueError(f"no rule {unknown[0]!r} for keys; there are {', '.join(RULES)}")
    kept = _composed(text).strip()
    if "case" in asked:
        # Folding can undo the normal form, and what it makes can be folded again.
        kept = _composed(_composed(kept).casefold()).casefold()
        kept = _composed(kept).strip()
    if "numbers" in asked and (match := _NUMBER.fullmatch(kept)):
        kept = match[1]
    return kept


@dataclass(frozen=True, order=True)
class Pair:
    """Two keys that are probably one.

    Attributes:
        kept: the one known longer, or the plainer one of two new ones.
        other: the one that looks like it.
        why: in words, what they differ in.
    """

    kept: str
    other: str
    why: str


def look_alikes(known: Iterable[str], new: Iterable[str]) -> list[Pair]:
    """Keys among `new` that look like another one, known or new, but are not written like it.

    Keys known by now are not compared with one another. The result is sorted, and the same for any order of the keys.
    """
    before, coming = set(known), set(new)
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for text in before | coming:
        alike[_loose(text)].append(text)
    pairs = []
    for texts in alike.values():
        if len(texts) == 1:
            continue
        # Of several known ones, or of new ones alone, the plainest is kept.
        kept = min(texts, key=lambda text: (text not in before, text != normal_form(text), len(text), text))
        pairs += [Pair(kept, text, _why(kept, text)) for text in texts if text != kept and text not in before]
    return sorted(pairs)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_STEPS: dict[str, Callable[[str], str]] = {
    "accents composed or decomposed (Unicode NFC, NFD)": _composed,
    "blanks": lambda text: " ".join(text.split()),
    "case": str.casefold,
    "leading zeros or a trailing .0": lambda text: m[1] if (m := _NUMBER.fullmatch(text.strip())) else text,
}


def _loose(text: str, without: str = "") -> str:
    """The text after all steps but one."""
    for name, step in _STEPS.items():
        if name != without:
            text = step(text)
    return text


def _why(one: str, other: str) -> str:
    """How they differ: the steps without which they would not be equal."""
    needed = [name for name in _STEPS if _loose(one, name) != _loose(other, name)]
    return "they differ in " + (" and in ".join(needed) or "how they are written")


@dataclass(frozen=True)
class Life:
    """A series and the weeks of its first and last row."""

    store: str
    dept: str
    first: dt.date
    last: dt.date


def started_together(lives: Sequence[Life], since: dt.date | None = None) -> list[str]:
    """Warnings about many series that begin in the same week: a store or department may have been renamed.

    Where the keys of another store (or department) end the week before, it is named.

    Args:
        lives: every series known.
        since: only weeks from this one on are looked at; None: all but the first week of the data.
    """
    if not lives:
        return []
    begin = min(life.first for life in lives)
    texts = []
    for week in sorted({life.first for life in lives}):
        if week == begin or (since is not None and week < since):
            continue
        born = [life for life in lives if life.first == week]
        # Series that sold until the week before, and not since.
        gone = [life for life in lives if life.last == week - dt.timedelta(days=7)]
        renamed = _renamed("store", born, gone, lives, week) + _renamed("dept", born, gone, lives, week)
        texts += renamed
        before = sum(life.first < week for life in lives)
        if not renamed and len(born) >= max(TOGETHER, TOGETHER_SHARE * before):
            stores = sorted({life.store for life in born})
            named = ", ".join(stores[:5]) + (f" and {len(stores) - 5} more" if len(stores) > 5 else "")
            texts.append(
                f"{len(born):,} series begin in the week of {week} (stores {named}), beside {before:,} known before: "
                "new, or known under another key?"
            )
    return texts


def _renamed(field: str, born: Sequence[Life], gone: Sequence[Life], lives: Sequence[Life], week: dt.date) -> list[str]:
    """Stores (or departments) that are new in a week whose other keys are those of one that ended the week before."""
    other, word = ("dept", "store") if field == "store" else ("store", "department")
    older = {getattr(life, field) for life in lives if life.first < week}
    living = {getattr(life, field) for life in lives if life.last >= week}
    appeared, vanished = (defaultdict(set), defaultdict(set))  # type: tuple[dict[str, set[str]], dict[str, set[str]]]
    for part, found in ((born, appeared), (gone, vanished)):
        for life in part:
            found[getattr(life, field)].add(getattr(life, other))
    texts = []
    for new in sorted(appeared.keys() - older):
        match = [
            old
            for old in sorted(vanished.keys() - living)
            if len(appeared[new] & vanished[old]) >= max(_SAME * len(appeared[new] | vanished[old]), 2)
        ]
        if match:
            texts.append(
                f"{word} {new} begins in the week of {week} with {len(appeared[new])} series, just as {word} "
                f"{match[0]} ends with {len(vanished[match[0]])} of the same: renamed? Then land its history under one "
                "key, or it starts without a history"
            )
    return texts
