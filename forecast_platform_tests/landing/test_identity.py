"""Keys that look alike, and series that begin together."""

from __future__ import annotations

import datetime as dt
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform.landing.identity import Life, Pair, look_alikes, normal_form, started_together

KEYS = st.text("0018.Aaäé\u0301 \u00a0ß", min_size=1, max_size=6)
NFD = unicodedata.normalize("NFD", "Küche")


@pytest.mark.parametrize(
    ("text", "rules", "kept"),
    [
        ("  Küche\u00a0", (), "Küche"),
        (NFD, (), "Küche"),
        ("08", (), "08"),
        ("08", ("numbers",), "8"),
        ("8.0", ("numbers",), "8"),
        ("00", ("numbers",), "0"),
        ("1.000", ("numbers",), "1.000"),  # may be a thousand
        ("8.5", ("numbers",), "8.5"),
        ("A08", ("numbers",), "A08"),
        ("KÜCHE", ("case",), "küche"),
        ("KÜCHE", ("numbers",), "KÜCHE"),
    ],
)
def test_the_normal_form(text: str, rules: tuple[str, ...], kept: str) -> None:
    assert normal_form(text, rules) == kept


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="numbers, case"):
        normal_form("8", ["digits"])


@given(KEYS, st.sets(st.sampled_from(["numbers", "case"])))
def test_the_normal_form_is_its_own(text: str, rules: set[str]) -> None:
    once = normal_form(text, rules)
    assert normal_form(once, rules) == once == unicodedata.normalize("NFC", once)


@pytest.mark.parametrize(
    ("known", "new", "why"),
    [
        ("08", "8", "leading zeros or a trailing .0"),
        ("8", "8.0", "leading zeros or a trailing .0"),
        ("Küche", NFD, "accents composed or decomposed (Unicode NFC, NFD)"),
        ("Küche", "Küche ", "blanks"),
        ("Küche", "küche", "case"),
        ("Küche", NFD.upper() + " ", "accents composed or decomposed (Unicode NFC, NFD) and in blanks and in case"),
    ],
)
def test_a_look_alike_is_named_with_what_it_differs_in(known: str, new: str, why: str) -> None:
    assert look_alikes([known], [new]) == [Pair(known, new, f"they differ in {why}")]


def test_keys_that_differ_in_more_are_two() -> None:
    assert look_alikes(["8", "10", "A8", "1"], ["80", "100", "A08", "1.000", "B"]) == []


def test_among_new_keys_the_plainer_one_is_kept() -> None:
    assert [(p.kept, p.other) for p in look_alikes([], ["08", "8.0", "8"])] == [("8", "08"), ("8", "8.0")]


def test_known_keys_are_warned_about_once() -> None:
    assert look_alikes(["08", "8"], ["9"]) == []


@given(st.lists(KEYS, max_size=8), st.lists(KEYS, max_size=8))
def test_every_look_alike_is_found_in_any_order(known: list[str], new: list[str]) -> None:
    pairs = look_alikes(known, new)
    assert pairs == look_alikes(known[::-1], new[::-1]) == sorted(pairs)
    for pair in pairs:
        assert pair.kept != pair.other
        assert pair.other in new
        assert pair.other not in known
    told = {pair.other for pair in pairs}
    for text in set(new) - set(known):
        if any(normal_form(text) == normal_form(other) for other in known):
            assert text in told


WEEK = dt.timedelta(days=7)
FIRST, LAST = dt.date(2026, 1, 2), dt.date(2026, 11, 20)
MOVED = dt.date(2026, 9, 4)


def _lives(store: str, count: int, first: dt.date = FIRST, last: dt.date = LAST) -> list[Life]:
    return [Life(store, str(d), first, last) for d in range(count)]


def test_a_renamed_store_is_named_with_the_one_that_ended() -> None:
    lives = _lives("1", 6) + _lives("8", 6, last=MOVED - WEEK) + _lives("08", 6, first=MOVED)
    (text,) = started_together(lives)
    assert "store 08 begins in the week of 2026-09-04 with 6 series, just as store 8 ends with 6 of the same" in text


def test_a_renamed_department_likewise() -> None:
    lives = _lives("1", 3) + _lives("2", 3)
    lives += [Life(store, "toys", FIRST, MOVED - WEEK) for store in "12"]
    lives += [Life(store, "Toys", MOVED, LAST) for store in "12"]
    (text,) = started_together(lives)
    assert text.startswith("department Toys begins in the week of 2026-09-04 with 2 series, just as department toys")


def test_many_series_of_no_ended_key_are_a_warning_too() -> None:
    (text,) = started_together(_lives("1", 20) + _lives("2", 6, first=MOVED))
    assert text.startswith("6 series begin in the week of 2026-09-04 (stores 2), beside 20 known before")


def test_the_first_week_a_single_new_article_and_weeks_before_are_no_warning() -> None:
    lives = [*_lives("1", 20), Life("1", "new", MOVED, LAST)]
    assert started_together(lives) == [] == started_together([])
    assert started_together(_lives("1", 20) + _lives("2", 6, first=MOVED), since=MOVED + WEEK) == []
