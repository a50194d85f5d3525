"""What the texts of a file say about how it is written: encoding, fields, dates, numbers.

Each function gives every way of reading that fits, and never picks one of several: proposal.py asks a person then.
Encodings are ranked by charset-normalizer, whose first guess alone is wrong on short names; delimiters and titles are
found here, because DuckDB's sniffer takes another delimiter where a file ends with a line of totals or a note.
"""

from __future__ import annotations

import csv
import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.landing.judgement import FORMATS
from forecast_platform.landing.kinds import CANONICAL, SYNONYMS, one_of
from forecast_platform.landing.reading import words
from forecast_platform.landing.values import (
    COMMA,
    ISO,
    ISO_WEEK,
    POINT,
    DateStyle,
    Days,
    NumberStyle,
    check_formats,
    mask,
    to_numbers,
)

# --- encodings

_ENCODINGS = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp949", "cp932", "gb18030", "big5")
_OLD_ENCODINGS = ("cp850", "mac_roman")  # looked at where none of the others gives words


def encodings(data: bytes) -> list[tuple[str, str]]:
    """(codec, text) of each way to read bytes that are no UTF-8, likeliest first; codecs that agree count once."""
    if b"\0" in data[:200]:  # every second byte of ASCII in UTF-16
        codec = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
        return [(codec, text)] if (text := _decoded(data, codec)) is not None else []
    for codecs in (_ENCODINGS, _OLD_ENCODINGS):
        found: dict[str, str] = {}
        for codec in codecs:
            text = _decoded(data, codec)
            if text is not None and _has_words(text):
                found.setdefault(text, codec)
        if found:
            ranked = _ranked(data) if len(found) > 1 else []
            order = sorted(found, key=lambda text: ranked.index(text) if text in ranked else len(ranked))
            return [(found[text], text) for text in order]
    return []


def _decoded(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return None


def _ranked(data: bytes) -> list[str]:
    import charset_normalizer

    return [str(match) for match in charset_normalizer.from_bytes(data)]


def _has_words(text: str) -> bool:
    """Whether what is beyond ASCII are letters as words have them, or signs as texts have them."""
    for word in set(re.findall(r"[^\s,;|\t\"]*[^\x00-\x7f][^\s,;|\t\"]*", text)):
        letters = [c for c in word if c.isalpha()]
        strange = [c for c in letters if ord(c) > 127]
        signs = [c for c in word if ord(c) > 127 and not c.isalpha()]
        if any(unicodedata.category(c) in ("Cc", "Cn", "Co", "So", "Sk", "Lm") for c in word if ord(c) > 127):
            return False
        if any(c not in "€£¥°–—’‘“”«»·…\u00a0\u202f№§" for c in signs) or (signs and strange and len(word) < 2):
            return False
        if signs and letters and re.search(r"[^\W\d_][£¥°…§«»·][^\W\d_]|[^\W\d_][£¥°§][^\W\d_]|^[£¥§°][^\W\d_]", word):
            return False
        scripts = {_script(c) for c in letters}
        if len(scripts) > 1 and not scripts <= {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}:
            return False
        if scripts == {"LATIN"} and len(letters) > 2 and 2 * len(strange) > len(letters):
            return False
        if re.search(r"[^\W\d_A-Z]{2,}", word) and any(
            a.islower() and b.isupper() and ord(b) > 127 for a, b in itertools.pairwise(word)
        ):
            return False
    return True


@functools.cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split(" ")[0].replace("IDEOGRAPH", "CJK")


# --- tables

DELIMITERS = (",", ";", "\t", "|")
_LINES = 300  # that are looked at
_TITLES = 30  # lines that may stand before the header


@dataclass(frozen=True)
class Shape:
    """Where a table lies in lines of fields.

    Attributes:
        known: columns of its header whose names are known.
        share: of the lines with fields, those that have as many as most.
        width: fields of most lines.
        skip: lines of titles before the header.
    """

    known: int
    share: float
    width: int
    skip: int


def delimited(text: str) -> list[tuple[str, Shape]]:
    """(delimiter, shape) for each that makes a table of the text, the best first."""
    lines = text.split("\n", _LINES)[:_LINES]
    said = re.match(r'\s*"?sep=(.)"?\s*$', lines[0], re.IGNORECASE)
    found = []
    for delimiter in [said.group(1)] if said else DELIMITERS:
        reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
        rows, at = list[tuple[int, list[str]]](), 0
        try:
            for fields in reader:
                if not (said and at == 0):
                    rows.append((at, fields))
                at = reader.line_num
        except csv.Error:
            continue
        if (shape := table(rows)) is not None:
            found.append((delimiter, shape))
    return sorted(found, key=lambda each: (each[1].known, each[1].share, each[1].width), reverse=True)


def table(rows: Iterable[tuple[int, Sequence[str]]]) -> Shape | None:
    """The table among rows of (line, fields): its header is the first row with two names that are known, or else with
    as many fields as most."""
    filled = [(line, list(fields)) for line, fields in rows if any(field.strip() for field in fields)]
    wide = [(line, fields) for line, fields in filled if len(fields) > 1]
    if not wide:
        return None
    width = Counter(len(fields) for _, fields in wide).most_common(1)[0][0]
    known = {line: sum(map(_known, fields)) for line, fields in wide}
    by_name = [line for line, _ in wide[:_TITLES] if known[line] > 1]
    by_width = [line for line, fields in wide[:_TITLES] if len(fields) == width and sum(map(bool, fields)) > 1]
    header = next(iter(by_name or by_width), None)
    if header is None:
        return None
    titles = any(line < header for line, _ in filled)
    share = sum(len(fields) == width for _, fields in wide) / len(filled)
    return Shape(known[header], share, width, header if titles else 0)


def _known(name: str) -> bool:
    return meant(name) != "" or name.strip().lower() in CANONICAL


_UNITS = one_of("in|eur|euro|euros|usd|dollar|gbp|chf|krw|jpy|pln|sek|dkk|nok|czk")


def meant(name: str) -> str:
    """The canonical name that a column's name is a word for; empty where it is none's."""
    plain = words(unicodedata.normalize("NFC", name))
    plain = " ".join(word for word in plain.split() if word not in _UNITS) or plain
    return next((role for role, names in SYNONYMS.items() if plain in names or plain == words(role)), "")


# Long words for sales, found within other names: Umsatz Vorjahr.
_STEMS = tuple(name for name in SYNONYMS["weekly_sales"] if " " not in name and len(name) > 4)


def speaks_of_sales(name: str) -> bool:
    """Whether a column's name holds a word for sales."""
    plain = words(unicodedata.normalize("NFC", name))
    return any(stem in plain for stem in _STEMS) or any(word in SYNONYMS["weekly_sales"] for word in plain.split())


# Words for pieces sold, and parts of words for what they cost.
_PIECES = one_of(
    "units|unit sales|units sold|quantity|qty|menge|stück|stückzahl|anzahl|absatz|quantité|cantidad|unidades|quantità|"
    "quantidade|aantal|판매량"
)
_MONEY = re.compile(
    "price|preis|prix|precio|prezzo|preço|prijs|pris|cena|fiyat|цена|сумма|total|summe|gesamt|net|brut|gross|cost|paid|"
    "価格|単価|金額|合計|价格|单价|金额|合计|가격|단가|금액|합계"
)


def means_pieces(name: str) -> bool:
    """Whether a column's name is a word for pieces sold."""
    return words(unicodedata.normalize("NFC", name)) in _PIECES


def speaks_of_money(name: str) -> bool:
    """Whether a column's name may hold a word for what something costs."""
    return bool(_MONEY.search(words(unicodedata.normalize("NFC", name))))


_STARTS = one_of("start|starts|starting|begin|begins|beginning|commencing|from|ab|von|beginn|anfang|du|desde")
_ENDS = one_of("end|ends|ended|ending|weekending|bis|ende|wochenende|to|fin|fine|hasta|until|weekeinde")


def label(name: str) -> str:
    """Which day of its week a column of dates names, by its name: "start", "end" or empty."""
    said = set(words(name).split())
    starts, ends = bool(said & _STARTS), bool(said & _ENDS)
    return "" if starts == ends else "start" if starts else "end"


# --- dates

_MORE: tuple[str, ...] = (
    "%m.%d.%Y",
    "%m.%d.%y",
    "%d-%m-%y",
    "%m-%d-%y",
    "%y-%m-%d",
    "%y/%m/%d",
    "%y.%m.%d",
    "%d%m%Y",
    "%m%d%Y",
)
_MORE += ("%Y. %m. %d", "%Y. %m. %d.", "%d-%b-%y", "%d %b %y", "%d-%B-%Y", "%B %d, %Y", "%b %d, %Y", "%d. %B %Y")
_MORE += ("%G W%V", "%GW%V", "%G-KW%V", "%G KW%V", "%G/KW%V", "KW%V %G", "KW %V %G", "KW%V/%G", "KW %V/%G", "KW%V-%G")
_BARE = ("%G-%V", "%G/%V", "%G%V", "%V/%G", "%V.%G", "%V-%G")  # may be months, or weeks counted in another way
_ALL = (*FORMATS, *_MORE, *_BARE)


@dataclass(frozen=True)
class Reading:
    """One way to read a column of dates.

    Attributes:
        date_format: as the setting has it.
        days: of each text, NaT where it is none.
        sure: a date in this format is nothing else.
    """

    date_format: str
    days: Days
    sure: bool = True

    @property
    def order(self) -> str:
        """What tells it from other formats: not whether a month's name is short."""
        return self.date_format.replace("%B", "%b")

    @property
    def regular(self) -> bool:
        """Dates week by week, or day by day, as only the right way to read many of them gives."""
        days = np.unique(self.days[~np.isnat(self.days)]).astype(np.int64)
        gaps = np.diff(days)
        if len(days) < 4:
            return False
        weekly = not (gaps % 7).any() and np.median(gaps) == 7
        return bool(weekly or (len(days) >= 14 and days[-1] - days[0] < 1.5 * len(days)))


def readings(texts: Sequence[str], weekday: int, own: str = "") -> tuple[list[Reading], Days]:
    """Every way to read dates: the formats that read all texts that any reads, or else the pairs of formats.

    Args:
        texts: distinct ones.
        weekday: that stands for a week, Monday = 0.
        own: the format of now, tried first.

    Returns:
        The readings, and a day for each text that any format reads.
    """
    # Of a moment with a zone the day is told by itself, in the format that it has.
    column = pa.array([re.sub(r"(:[0-9.,]+) ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2})$", r"\1", t) for t in texts], pa.string())
    single: dict[str, Days] = {}
    for form in dict.fromkeys([*([own] if own else []), *_ALL]):
        days = DateStyle(tuple(form.split("|")), weekday, times=True).days(column)
        if not np.isnat(days).all():
            single[form] = days
    any_day = np.full(len(texts), np.datetime64("NaT"), "datetime64[D]")
    for days in single.values():
        any_day = np.where(np.isnat(any_day), days, any_day)
    wanted = ~np.isnat(any_day)
    whole = [
        Reading(form, days, form not in _BARE) for form, days in single.items() if not np.isnat(days[wanted]).any()
    ]
    if not whole:
        forms = [form for form in single if form not in _BARE]
        for i, one in enumerate(forms):
            for other in forms[i + 1 :]:
                days = np.where(np.isnat(single[one]), single[other], single[one])
                if not np.isnat(days[wanted]).any() and _apart(f"{one}|{other}"):
                    whole.append(Reading(f"{one}|{other}", days, sure=False))
    # A short and a long name of a month that is both.
    kept: dict[str, Reading] = {}
    for reading in whole:
        kept.setdefault(reading.order, reading)
    return list(kept.values()), any_day


def _apart(date_format: str) -> bool:
    try:
        check_formats(date_format)
    except ValueError:
        return False
    return True


def decided(found: Sequence[Reading]) -> Reading | None:
    """The one way to read a file's dates, where the file decides."""
    if len(found) == 1 and (found[0].sure or (found[0].regular and ISO_WEEK[:2] not in found[0].date_format)):
        return found[0]
    regular = [reading for reading in found if reading.regular]
    return regular[0] if len(regular) == 1 and (regular[0].sure or "%V" not in regular[0].date_format) else None


# --- numbers

# Beside the signs of Unicode's class Sc.
_CURRENCIES = one_of(
    "EUR|USD|GBP|CHF|JPY|KRW|CNY|RMB|PLN|CZK|HUF|SEK|NOK|DKK|RON|BGN|TRY|RUB|UAH|BRL|MXN|ARS|CLP|COP|INR|AUD|CAD|NZD|"
    "ZAR|kr|Kr|zł|Kč|Ft|Fr|Fr.|lei|R$|руб|руб.|р.|원|円|元|Euro"
)
_FOOTPRINT = re.compile(r"^[+\-(\u2212]*\s*[0-9.,][0-9.,'\u2019\s\u00a0\u202f\u2009]*\s*[-)]*$")
# Texts that say that there is no value, and nothing else.
NO_VALUE = one_of(
    "#N/A|N/A|n/a|#NA|NA|na|N.A.|n.a.|#NV|#DIV/0!|#REF!|#VALUE!|#WERT!|#BEZUG!|#NAME?|NaN|nan|NULL|null|(null)|None|none|"
    "nil|k.A.|k. A.|n.v.|missing"
)
# Texts that may say that there is no value, or that it is zero.
DASHES = frozenset(("-", "--", "\u2013", "\u2014", ".", "x", "?", "*", "/"))


@dataclass(frozen=True)
class Numbers:
    """How a column's numbers can be read.

    Attributes:
        decimals: the values of the setting `decimal` by which all that are numbers can be read.
        differ: of several of these, a text that is one number or another.
        currency: the signs beside them.
        accounting: some have parentheses, or a minus behind.
        no_value, dashes: texts that are no numbers, of NO_VALUE and DASHES.
        unread: texts that no setting reads.
    """

    decimals: tuple[str, ...]
    differ: str = ""
    currency: tuple[str, ...] = ()
    accounting: bool = False
    no_value: tuple[str, ...] = ()
    dashes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def numbers(texts: Sequence[str]) -> Numbers:
    """How distinct texts are numbers."""
    no_value = tuple(t for t in texts if t in NO_VALUE)
    dashes = tuple(t for t in texts if t in DASHES)
    rest = [t for t in texts if t not in NO_VALUE and t not in DASHES]
    currency = sorted({sign for t in rest if (sign := _currency(t))})
    accounting = any(re.search(r"^\(.*[0-9].*\)$|[0-9][^0-9]*-$", t) for t in rest)
    column = pa.array(rest, pa.string())
    read = {}
    for name, style in (("", NumberStyle()), (".", POINT), (",", COMMA)):
        style = NumberStyle(style.decimal, style.thousands, tuple(currency), accounting)
        read[name] = (to_numbers(column, style), mask(pc.is_valid(to_numbers(column, style))))
    able = read[""][1] | read["."][1] | read[","][1]
    unread = tuple(t for t, good in zip(rest, able.tolist(), strict=True) if not good)
    fits = [name for name, (_, good) in read.items() if (good == able).all()]
    differ = ""
    if "," in fits and (others := [name for name in ("", ".") if name in fits]):
        here = mask(pc.not_equal(read[others[0]][0], read[","][0]))
        if _no_thousands(rest):
            fits.remove(",")
        elif here.any():
            differ = rest[int(here.argmax())]
            fits = [".", ","]
    if "" in fits and not differ:
        fits = [""]  # they are plain
    return Numbers(tuple(fits), differ, tuple(currency), accounting, no_value, dashes, unread)


def _no_thousands(texts: Iterable[str]) -> bool:
    """Whether points can be no thousands: there is a group like 0.125."""
    return any(re.search(r"(^|[^0-9.,])0\.[0-9]{3}(?![0-9])", text) for text in texts)


def _currency(text: str) -> str:
    """The sign or code of a currency beside a number."""
    bare = re.sub(r"^[+\-(\u2212]+\s*|\s*[-)]+$", "", text)
    for pattern in (r"^([^0-9\s+\-(.,]+\.?)\s*[+\-(]*[0-9.,]", r"[0-9.,]\s*([^0-9\s+\-().,]+\.?)$"):
        if (match := re.search(pattern, bare)) and _is_currency(match[1]):
            return match[1]
    return ""


def _is_currency(sign: str) -> bool:
    return sign in _CURRENCIES or (len(sign) == 1 and unicodedata.category(sign) == "Sc")


def number_like(text: str) -> bool:
    """Whether a text is a number in one way or another."""
    sign = _currency(text)
    return bool(_FOOTPRINT.match(text.replace(sign, "").strip() if sign else text)) and any(map(str.isdigit, text))


def date_like(texts: Sequence[str]) -> bool:
    """Whether texts are dates in one way or another; below a few there may be a line of totals."""
    some = list(texts[:400])
    if not some or sum(any(map(str.isdigit, text)) for text in some) < 0.5 * len(some):
        return False
    _, day = readings(some, 4, ISO)
    return bool((~np.isnat(day)).mean() >= 0.5)
