"""Figures, money, dates and week numbers by locale, read back from what people see."""

from __future__ import annotations

import datetime as dt

import pytest
from babel import Locale
from babel.numbers import parse_decimal
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform.figures import figure, figures
from forecast_platform.settings import Settings
from forecast_platform.words import PLAIN, Words, week_number

LOCALES = ("en", "en_US", "en_GB", "de_DE", "de_CH", "ko_KR", "fr_FR", "hi_IN", "pl_PL", "sv_SE", "ar_EG")
amounts = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda v: v == 0 or abs(v) >= 1e-6)
days = st.dates(dt.date(1980, 1, 1), dt.date(2100, 12, 31))


def read(text: str, locale: str) -> float:
    return float(parse_decimal(text.replace("\N{MINUS SIGN}", "-"), locale=locale))


@given(amounts, st.sampled_from(LOCALES))
def test_every_locale_shows_the_same_digits(value: float, locale: str) -> None:
    words = Words(locale)
    shown = float(figure(value).replace(",", ""))
    assert read(words.number(value), locale) == shown
    assert (shown == 0) == (value == 0)
    assert read(words.signed(value).removeprefix("+"), locale) == shown


@given(st.lists(amounts, min_size=1, max_size=5), st.sampled_from(LOCALES))
def test_a_column_too(values: list[float], locale: str) -> None:
    found = [read(text, locale) for text in Words(locale).numbers(values)]
    assert found == [float(text.replace(",", "")) for text in figures(values)]


@given(amounts, st.sampled_from(LOCALES), st.sampled_from(["EUR", "KRW", "USD"]))
def test_money_is_the_number_with_a_sign(value: float, locale: str, money: str) -> None:
    words = Words(locale, money)
    text = words.cash(value)
    assert words.unit in text
    bare = text.replace(words.unit, "").strip("\N{NO-BREAK SPACE}\N{RIGHT-TO-LEFT MARK} ")
    bare = bare.replace("\N{RIGHT-TO-LEFT MARK}", "").replace("-\N{NO-BREAK SPACE}", "-")
    assert read(bare, locale) == float(figure(value).replace(",", ""))


@given(amounts)
def test_plain_english_is_as_it_always_was(value: float) -> None:
    assert PLAIN.number(value) == figure(value)
    assert PLAIN.cash(value) == figure(value)
    assert PLAIN.percent(value / 1e12) == f"{value / 1e12:.1%}".replace("-", "\N{MINUS SIGN}")


@pytest.mark.parametrize(
    ("locale", "money", "short", "cash", "percent", "day", "week", "key"),
    [
        ("en", "", "45.3M", "12,346", "7.9%", "2025-11-21", "2025-11-21", "2025-11-21"),
        ("en_US", "USD", "$45.3M", "$12,346", "7.9%", "Nov 21, 2025", "Nov 21, 2025 (week 47)", "2025-11-21 · week 47"),
        ("de_DE", "EUR", "45,3 Mio. €", "12.346 €", "7,9 %", "21.11.2025", "21.11.2025 (KW 47)", "2025-11-21 · KW 47"),
        (
            "ko-KR",
            "KRW",
            "₩4,530만",
            "₩12,346",
            "7.9%",
            "2025. 11. 21.",
            "2025. 11. 21. (47주차)",
            "2025-11-21 · 47주차",
        ),
    ],
)  # fmt: skip
def test_as_people_of_a_country_write(
    locale: str, money: str, short: str, cash: str, percent: str, day: str, week: str, key: str
) -> None:
    words, ended = Words(locale, money), dt.date(2025, 11, 21)
    found = [words.short_cash(45.3e6), words.cash(12345.6), words.percent(0.0791)]
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in found] == [short, cash, percent]
    assert [words.day(ended), words.week(ended), words.week_key(ended)] == [day, week, key]


@given(days)
def test_iso_weeks_are_those_of_python(day: dt.date) -> None:
    assert week_number(day, 0, 4) == day.isocalendar()[:2]


@given(days)
def test_a_week_in_germany_that_ends_on_sunday_is_the_iso_week(day: dt.date) -> None:
    sunday = day + dt.timedelta(days=6 - day.weekday())
    assert Words("de_DE").week_number(sunday) == sunday.isocalendar()[:2]
    assert Words("de").week_number(sunday) == sunday.isocalendar()[:2]


@given(days, st.sampled_from(LOCALES))
def test_a_business_week_has_the_number_of_most_of_its_days(end: dt.date, locale: str) -> None:
    rule = Locale.parse(locale if "_" in locale else "en_US")
    words = Words(rule.language + "_" + (rule.territory or ""))
    numbers = [week_number(end - dt.timedelta(days=k), rule.first_week_day, rule.min_week_days) for k in range(7)]
    assert numbers.count(words.week_number(end)) >= 4


@given(days)
def test_american_weeks_begin_on_sunday_and_the_first_holds_new_year(day: dt.date) -> None:
    year, week = week_number(day, 6, 1)
    sunday = day - dt.timedelta(days=(day.weekday() + 1) % 7)
    first = dt.date(year, 1, 1) - dt.timedelta(days=(dt.date(year, 1, 1).weekday() + 1) % 7)
    assert sunday == first + dt.timedelta(weeks=week - 1)
    assert week <= 53


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"locale": "de_DX"}, "near it: de_DE"),
        ({"locale": "german"}, "near it: de"),
        ({"locale": ""}, "locale is ''"),
        ({"money": "eur"}, "near it: EUR"),
        ({"money": "€"}, "ISO 4217"),
    ],
)
def test_what_is_no_locale_or_currency_is_refused_with_what_is_near(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Settings(**given)  # type: ignore[arg-type]


def test_a_locale_without_texts_has_english_ones_and_its_own_figures() -> None:
    words = Words("fr_FR")
    assert (words.language, words.has_texts, words.number(1234.0)) == ("en", False, "1\N{NARROW NO-BREAK SPACE}234")
    assert words.weeks(8) == "8 weeks"
    assert Words("de_AT").weeks(1) == "1 Woche"
    assert Words("ko_KR").weeks(1) == "1주"
