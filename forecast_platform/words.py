"""How figures, money, dates, weeks and sentences are written for people, by the settings `locale` and `money`.

Texts in the code and the templates are English, and the keys of their translations: locale/LANGUAGE.po, one file a
language. Numbers, currencies, dates and the rule by which weeks are numbered are those of Unicode's CLDR, as Babel has
them. "en" alone is the English of no country: dates are ISO there, and weeks have no number.
"""

from __future__ import annotations

import copy
import datetime as dt
import difflib
import functools
import gettext
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from babel import Locale, UnknownLocaleError
from babel.core import get_global
from babel.dates import format_date, format_skeleton
from babel.localedata import locale_identifiers
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import NumberPattern, get_currency_symbol, get_decimal_symbol, list_currencies

from forecast_platform.figures import Write, english, figure, figures
from forecast_platform.weeks import WEEK

NONE = "–"
_MINUS = "\N{MINUS SIGN}"  # as wide as a plus, where figures are told by their sign
_NO_COUNTRY = "en"
_TEXTS = Path(__file__).with_name("locale")
SOURCE = "en"  # the language of the texts in the code
LANGUAGES = (SOURCE, *sorted(path.stem for path in _TEXTS.glob("*.po")))


def N_(text: str) -> str:
    """Marks a text that is translated where it is shown."""
    return text


@dataclass(frozen=True)
class Words:
    """What people read, in one locale.

    Args:
        locale: such as de, de_DE or en_GB. The language of the texts is its own, or English where there are none.
        money: ISO 4217 code of what sales are in, such as EUR; empty: they may be pieces, and have no sign.

    Raises:
        ValueError: Babel knows no such locale, or no such currency.
    """

    locale: str = _NO_COUNTRY
    money: str = ""

    def __post_init__(self) -> None:
        _ = self._babel
        if self.money and self.money not in list_currencies():
            near = difflib.get_close_matches(self.money.upper(), sorted(list_currencies()), n=3, cutoff=0.6)
            raise ValueError(
                f"money is {self.money!r}, which is no currency; write its ISO 4217 code, such as EUR or KRW"
                + (f"; near it: {', '.join(near)}" if near else "")
            )

    @functools.cached_property
    def _babel(self) -> Locale:
        """With a country, which decides on weeks: of a language alone the one where most people speak it."""
        name = self.locale.replace("-", "_")
        try:
            found = Locale.parse(name)
            if found.territory is None and not self.plain:
                likely = get_global("likely_subtags").get(str(found))
                found = Locale.parse(likely) if likely else found
        except (UnknownLocaleError, ValueError):
            called = {word.lower(): code for code, word in Locale(SOURCE).languages.items() if "_" not in code}
            near = difflib.get_close_matches(name, locale_identifiers(), n=4, cutoff=0.6)
            near += [called[word] for word in difflib.get_close_matches(name.lower(), called, n=2, cutoff=0.7)]
            raise ValueError(
                f"locale is {self.locale!r}, which is not known; write a language or language_COUNTRY, such as de or "
                f"de_DE" + (f"; near it: {', '.join(near)}" if near else "")
            ) from None
        return found

    @property
    def plain(self) -> bool:
        """Whether it is the English of no country."""
        return self.locale == _NO_COUNTRY

    # ------------------------------------------------------------------------------------------------------------ texts

    @property
    def language(self) -> str:
        """Of the texts: one of LANGUAGES."""
        own: str = self._babel.language
        return own if own in LANGUAGES else SOURCE

    @property
    def has_texts(self) -> bool:
        """Whether texts are in the locale's own language."""
        return self.language == self._babel.language

    @property
    def language_name(self) -> str:
        """Of the texts' language, in English."""
        return str(Locale(self.language).english_name)

    @property
    def country(self) -> str:
        """That the locale names, such as DE; empty: none."""
        return str(Locale.parse(self.locale.replace("-", "_")).territory or "")

    @property
    def tag(self) -> str:
        """The locale as browsers write it, for what a script formats."""
        return "-".join(filter(None, (self._babel.language, self._babel.script, self._babel.territory)))

    def spoken(self, language: str) -> Words:
        """The same in another of LANGUAGES; figures and dates are then those of that language."""
        return self if language == self.language else known(language, self.money)

    @functools.cached_property
    def catalog(self) -> gettext.NullTranslations:
        """The texts of the language, read once; those of English are their own keys."""
        if self.language == SOURCE:
            return gettext.NullTranslations()
        compiled = io.BytesIO()
        with (_TEXTS / f"{self.language}.po").open("rb") as file:
            write_mo(compiled, read_po(file, self.language))
        compiled.seek(0)
        return gettext.GNUTranslations(compiled)

    def gettext(self, text: str, /, **values: object) -> str:
        """A text of ours in this language, with values in its %(places)s."""
        return self.catalog.gettext(text) % values

    def ngettext(self, one: str, more: str, count: int, /, **values: object) -> str:
        """`gettext` by a count, which %(num)s shows."""
        return self.catalog.ngettext(one, more, count) % {"num": self.number(count), **values}

    def term(self, text: str) -> str:
        """A word that may be one of ours, such as a status; else it is data, and stays as it is."""
        return self.catalog.gettext(text) if text else text

    def weeks(self, count: int | None) -> str:
        """1 week, 8 weeks."""
        return self.ngettext("%(num)s week", "%(num)s weeks", count or 0)

    # ---------------------------------------------------------------------------------------------------------- figures

    def number(self, value: float | None) -> str:
        """12,345, 0.47, and an en dash for nothing."""
        return figure(value, self._number) or NONE

    def numbers(self, values: Sequence[float | None]) -> list[str]:
        """The numbers of one column, with equal decimals; an en dash for nothing."""
        return [text or NONE for text in figures(list(values), self._number)]

    def signed(self, value: float | None) -> str:
        """+1,234, -1,234, +0.12."""
        return _sign(value) + self.number(abs(value) if value else value)

    def fixed(self, value: float | None, decimals: int) -> str:
        """With so many decimals, whatever its size: a ratio, or seconds."""
        return NONE if value is None else self._number(value, decimals)

    def short(self, value: float | None) -> str:
        """As an axis shows it: 45.3M, 12.3k, 950, 0.0032."""
        return self._short(value, self._babel.compact_decimal_formats["short"]["other"], self._number)

    def cash(self, value: float | None) -> str:
        """A number with the sign of the currency, where there is one."""
        return (figure(value, self._cash) or NONE) if self.money else self.number(value)

    def signed_cash(self, value: float | None) -> str:
        """`signed` with the sign of the currency."""
        return _sign(value) + self.cash(abs(value) if value else value)

    def short_cash(self, value: float | None) -> str:
        """As a tile shows it: €45.3M, 45,3 Mio. €."""
        if not self.money:
            return self.short(value)
        return self._short(value, self._babel.compact_currency_formats["short"]["other"], self._cash)

    @property
    def unit(self) -> str:
        """The sign of the currency; empty where there is none."""
        return str(get_currency_symbol(self.money, self._babel)) if self.money else ""

    def percent(self, value: float | None, digits: int = 1, sign: bool = False) -> str:
        """0.0791 as 7.9%."""
        if value is None:
            return NONE
        text = f"{value * 100:{'+' if sign else ''}.{digits}f}"
        shown = self._apply(self._babel.percent_formats[None], Decimal(text.lstrip("+-")).scaleb(-2), digits)
        return {"+": "+", "-": _MINUS}.get(text[0], "") + shown

    def _number(self, value: float, decimals: int | None) -> str:
        if decimals is None:
            return english(value, None).replace(".", get_decimal_symbol(self._babel))
        # Rounded as Python does, so that all languages show the same digits.
        return self._apply(self._babel.decimal_formats[None], Decimal(f"{value:.{decimals}f}"), decimals)

    def _cash(self, value: float, decimals: int | None) -> str:
        if decimals is None:
            return f"{self._number(value, None)}\N{NO-BREAK SPACE}{self.unit}"
        return self._apply(self._babel.currency_formats["standard"], Decimal(f"{value:.{decimals}f}"), decimals)

    def _short(self, value: float | None, patterns: Mapping[str, NumberPattern], write: Write) -> str:
        if value is None or not math.isfinite(value):
            return NONE
        size = max((power for power in map(int, patterns) if power <= abs(value)), default=0)
        pattern = patterns[str(size)] if size else None
        if pattern is None or set(pattern.pattern) <= set("0¤;- \N{NO-BREAK SPACE}"):  # written out at this size
            return figure(value, write)
        scaled = value / (size // 10 ** (pattern.int_prec[0] - 1))
        decimals = 0 if abs(scaled) >= 100 or f"{abs(scaled):.1f}".endswith(".0") else 1
        return self._apply(pattern, Decimal(f"{scaled:.{decimals}f}"), decimals)

    def _apply(self, pattern: NumberPattern, value: Decimal, decimals: int) -> str:
        form = self._forms.get((pattern.pattern, decimals))
        if form is None:
            form = self._forms[pattern.pattern, decimals] = self._form(pattern, decimals)
        return str(form.apply(value, self._babel, currency=self.money or None, currency_digits=False))

    @functools.cached_property
    def _forms(self) -> dict[tuple[str, int], NumberPattern]:
        return {}

    def _form(self, pattern: NumberPattern, decimals: int) -> NumberPattern:
        """A pattern of CLDR's with our digits."""
        form = copy.copy(pattern)
        # Quotes are of the pattern, not of the text; and English has k as in kg.
        plus, minus = (part.replace("'", "") for part in pattern.suffix)
        if self._babel.language == SOURCE:
            plus, minus = plus.replace("K", "k"), minus.replace("K", "k")
        form.suffix = plus, minus
        form.frac_prec, form.int_prec = (decimals, decimals), (1, 1)
        form.grouping = self._babel.decimal_formats[None].grouping
        return form

    # ------------------------------------------------------------------------------------------------- dates and weeks

    def day(self, day: dt.date | None) -> str:
        """A date, or that of a time in UTC, within a sentence: 21.11.2025; ISO in the English of no country."""
        if day is None:
            return NONE
        if isinstance(day, dt.datetime):
            day = day.astimezone(dt.UTC).date()
        return day.isoformat() if self.plain else str(format_date(day, "medium", self._babel))

    def week(self, week: dt.date | None) -> str:
        """A business week within a sentence, by the date it ends on: 21.11.2025 (KW 47)."""
        if self.plain or week is None:
            return self.day(week)
        return self.gettext("%(day)s (week %(number)s)", day=self.day(week), number=self.week_number(week)[1])

    def week_key(self, week: dt.date | None) -> str:
        """A business week at the head of a row: its ISO date, as files and addresses have it; 2025-11-21 · KW 47."""
        if self.plain or week is None:
            return self.day(week)
        return self.gettext("%(day)s · week %(number)s", day=week.isoformat(), number=self.week_number(week)[1])

    def week_number(self, week: dt.date) -> tuple[int, int]:
        """Year and number of the calendar week that holds most days of the business week that ends on a date."""
        return week_number(week - dt.timedelta(days=3), self._babel.first_week_day, self._babel.min_week_days)

    def month(self, day: dt.date, year: bool = False) -> str:
        """Nov, or Nov 2025."""
        return str(format_skeleton("yMMM", day, locale=self._babel) if year else format_date(day, "LLL", self._babel))

    def day_of_month(self, day: dt.date) -> str:
        """3 Jan 2025, under an axis."""
        if self.plain:
            return str(format_date(day, "d MMM y", self._babel))
        return str(format_skeleton("yMMMd", day, locale=self._babel))

    def moment(self, at: dt.datetime | None) -> str:
        """A time to the minute, UTC."""
        if at is None:
            return NONE
        return f"{self.day(at)} {self.clock(at)}"

    def clock(self, at: dt.datetime | None) -> str:
        """The time of day of a time."""
        return "" if at is None else f"{at.astimezone(dt.UTC):%H:%M} UTC"


def week_number(day: dt.date, first: int, least: int) -> tuple[int, int]:
    """Year and number of the calendar week that a day lies in.

    Args:
        first: weekday that weeks begin with, Monday = 0.
        least: days of the year that its week 1 holds at least. First 0 and least 4 are ISO's weeks.
    """
    begin = _begin(day, first)
    for year in (day.year + 1, day.year, day.year - 1):
        new_year = dt.date(year, 1, 1)
        one = _begin(new_year, first)
        if 7 - (new_year - one).days < least:
            one += WEEK
        if begin >= one:
            return year, (begin - one) // WEEK + 1
    raise AssertionError(day)


def _begin(day: dt.date, first: int) -> dt.date:
    return day - dt.timedelta(days=(day.weekday() - first) % 7)


def _sign(value: float | None) -> str:
    return "" if not value else "+" if value > 0 else _MINUS


@functools.cache
def known(locale: str, money: str) -> Words:
    """One for all who ask, so that texts are read once.

    Raises:
        ValueError: see Words.
    """
    return Words(locale, money)


PLAIN = known(_NO_COUNTRY, "")  # where nobody has chosen anything
