"""Texts of code and templates into locale/LANGUAGE.po: python -m forecast_platform_tests.texts [LANGUAGE ...]

A language that is named and not there yet gets a file with nothing translated. Texts that are gone are taken out, new
ones wait for their translation; test_texts.py holds that none does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

import forecast_platform

ROOT = Path(forecast_platform.__file__).parent
LOCALE = ROOT / "locale"
METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2")]
KEYWORDS: dict[str, Any] = {"_": None, "gettext": None, "N_": None, "ngettext": (1, 2)}
OPTIONS = {"**/templates/**.html": {"trimmed": "true", "newstyle_gettext": "true"}}


def template() -> Catalog:
    """Every text that is to be translated, with where it stands."""
    found = Catalog(charset="utf-8")
    for file, _line, text, comments, context in extract_from_dir(ROOT, METHODS, OPTIONS, KEYWORDS):
        found.add(text, locations=[(file, 0)], auto_comments=comments, context=context)
    return found


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, path.stem)


def update(language: str) -> None:
    """Bring a language's file in line with the code."""
    path = LOCALE / f"{language}.po"
    known = read(path) if path.exists() else Catalog(language, charset="utf-8")
    known.update(template(), no_fuzzy_matching=True, update_creation_date=False)
    known.obsolete.clear()
    known.fuzzy = False
    for message in known:
        # Where a text stands, without the line: those change with every edit.
        message.locations = sorted({(file, None) for file, _ in message.locations})
    with path.open("wb") as file:
        write_po(file, known, width=120, sort_output=True, omit_header=False, include_lineno=False)


if __name__ == "__main__":
    for language in sys.argv[1:] or sorted(path.stem for path in LOCALE.glob("*.po")):
        update(language)
