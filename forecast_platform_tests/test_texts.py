"""Every language says everything: the same texts, with the same places for values."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from babel.messages.catalog import Message

from forecast_platform.words import LANGUAGES, SOURCE, Words
from forecast_platform_tests.texts import LOCALE, ROOT, read, template

OTHERS = [language for language in LANGUAGES if language != SOURCE]


def parts(text: str | tuple[str, ...] | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def places(text: str) -> set[str]:
    return set(re.findall(r"%\((\w+)\)s|(?:<(/?b)>)", text)) if text else set()  # type: ignore[arg-type]


def test_there_are_german_and_korean() -> None:
    assert {"de", "ko"} <= set(OTHERS)
    assert len(template()) > 300


@pytest.mark.parametrize("language", OTHERS)
def test_a_language_has_every_text_and_no_other(language: str) -> None:
    """Where this fails: python -m forecast_platform_tests.texts, then translate what is empty."""
    wanted, there = template(), read(LOCALE / f"{language}.po")
    assert {m.id for m in wanted if m.id} == {m.id for m in there if m.id}
    assert not there.obsolete
    for message in there:
        if not message.id:
            continue
        assert not message.fuzzy, message.id
        assert all(parts(message.string)), message.id
        assert len(parts(message.string)) == (there.num_plurals if message.pluralizable else 1), message.id


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_the_places_of_its_text(language: str) -> None:
    def all_places(message: Message, text: str) -> set[str]:
        return places(text) - ({("num", "")} if message.pluralizable else set())  # "1 series" needs no count

    messages = [message for message in read(LOCALE / f"{language}.po") if message.id]
    assert len(messages) > 100
    for message in messages:
        wanted = set().union(*(all_places(message, each) for each in parts(message.id)))
        for text in parts(message.string):
            found = all_places(message, text)
            assert found <= wanted, message.id
            assert found == wanted or message.pluralizable, message.id
            given = dict.fromkeys((name for name, _ in places(" ".join(parts(message.id)))), "x")
            assert "%(" not in text % {**given, "num": "1"}


@pytest.mark.parametrize("language", OTHERS)
def test_a_term_is_one_word_everywhere(language: str) -> None:
    """The table at the head of the file is what its texts say."""
    head = (LOCALE / f"{language}.po").read_text().partition('msgid ""')[0]
    store = {"de": "Filiale", "ko": "점포"}
    if language in store:
        assert store[language] in head
        for message in read(LOCALE / f"{language}.po"):
            said = re.sub(r"%\(\w+\)s", "", " ".join(parts(message.id)))
            if re.search(r"\b[Ss]tores?\b", said):
                assert store[language] in " ".join(parts(message.string)), message.id


def test_a_language_is_one_file(tmp_path: Path) -> None:
    """French, of which there is nothing, in a copy of the package: its file is made, filled, and read."""
    import shutil

    copy = shutil.copytree(ROOT, tmp_path / "forecast_platform", ignore=shutil.ignore_patterns("__pycache__", "models"))
    shutil.copytree(ROOT / "models", copy / "models", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    (tmp_path / "forecast_platform_tests").mkdir()
    (tmp_path / "forecast_platform_tests" / "__init__.py").touch()
    shutil.copy(ROOT.parent / "forecast_platform_tests" / "texts.py", tmp_path / "forecast_platform_tests")

    def run(*command: str) -> str:
        return subprocess.run([sys.executable, "-P", *command], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
                              check=True, capture_output=True, text=True).stdout  # fmt: skip

    run("-m", "forecast_platform_tests.texts", "fr")
    made = copy / "locale" / "fr.po"
    assert {m.id for m in read(made)} == {m.id for m in read(LOCALE / "de.po")}
    text = made.read_text()
    made.write_text(text.replace('msgid "Heat map"\nmsgstr ""', 'msgid "Heat map"\nmsgstr "Carte de chaleur"'))
    said = "from forecast_platform.words import *; print(LANGUAGES, Words('fr_CA').gettext('Heat map'))"
    assert run("-c", said) == "('en', 'de', 'fr', 'ko') Carte de chaleur\n"


def test_texts_are_packaged() -> None:
    assert '"locale/*.po"' in (ROOT.parent / "pyproject.toml").read_text()
    assert Words("de").gettext("Heat map") == "Heatmap"
