"""Texts as values: dates, numbers and flags, whole columns at a time, by rules that cannot guess."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import re
import unicodedata
import zoneinfo
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Days = NDArray[np.datetime64]

EXAMPLE = dt.date(2012, 10, 26)
ISO = "%Y-%m-%d"
ISO_WEEK = "%G-W%V"
NUMBERED = "%n"  # "d_%n from 2011-01-29": d_1 is that day
_FROM = " from "

_YEARS = range(1900, 2200)  # years; a date outside them is a typing error or a placeholder
_NAT = np.datetime64("NaT", "D")


def mask(condition: pa.Array) -> Mask:
    """Where the condition holds; null counts as no."""
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=bool)


# --- dates


def formats_of(date_format: str) -> tuple[str, ...]:
    """The strptime formats of the setting `date_format`: one, or several separated by "|"."""
    parts = (re.sub(r"[ T]%H:%M(:%S)?$", "", part.strip()) for part in date_format.split("|"))  # times are read anyway
    return tuple(part for part in parts if part)


def strict_date(text: str, form: str, weekday: int = 4) -> dt.date:
    """The date `text` writes in `form`.

    Args:
        form: strptime format. One of ISO weeks (%G and %V) stands for a whole week, whose day is `weekday`.
        weekday: Monday = 0.

    Raises:
        ValueError: it is no date of the format, or has a time of day other than midnight.
    """
    if NUMBERED in form:
        found = re.fullmatch(_pattern(form), text)
        if found is None:
            raise ValueError(f"{text} is no day written like {form}")
        return dt.date.fromisoformat(form.partition(_FROM)[2].strip()) + dt.timedelta(days=int(found["n"]) - 1)
    if "%V" in form:
        found = re.fullmatch(_pattern(form), text)
        if found is None:
            raise ValueError(f"{text} is no week written like {form}")
        return dt.date.fromisocalendar(int(found["G"]), int(found["V"]), weekday + 1)  # 2024 has no week 53
    moment = dt.datetime.strptime(text, form)  # noqa: DTZ007 - a date has no zone
    if moment.time() != dt.time() or moment.year not in _YEARS:
        raise ValueError(f"{text} is no date of the years {_YEARS.start} to {_YEARS.stop - 1}")
    return moment.date()


def check_formats(date_format: str) -> None:
    """ValueError where a format writes no whole date, or two formats read one text as two dates."""
    forms = formats_of(date_format)
    for form in forms:
        try:
            whole = strict_date(example(form), form) == _example_day(form)
        except ValueError:
            whole = False
        if not whole:
            raise ValueError(f"date_format {form!r} is no whole date; write it like %d/%m/%Y, or {ISO_WEEK}")
    if not forms:
        raise ValueError(f"date_format is empty; write it like {ISO}")
    for one in forms:
        for other in forms:
            if one != other and _confusable(one, other):
                raise ValueError(f"date_format {one!r} and {other!r} can't be told apart; keep the one that is right")


def example(form: str) -> str:
    """EXAMPLE, or the first day after it that is counted, as the format writes it."""
    if NUMBERED in form:
        plain, _, first = form.partition(_FROM)
        number = (_example_day(form) - dt.date.fromisoformat(first.strip())).days + 1
        return plain.replace(NUMBERED, str(number))
    return EXAMPLE.strftime(form)


def _example_day(form: str) -> dt.date:
    if NUMBERED not in form:
        return EXAMPLE
    return max(EXAMPLE, dt.date.fromisoformat(form.partition(_FROM)[2].strip()))


@functools.cache  # 80 dates each, for every pair of formats that a file's dates are tried in
def _confusable(one: str, other: str) -> bool:
    for day in (dt.date(2011, 1, 2) + dt.timedelta(days=9 * i) for i in range(80)):
        with contextlib.suppress(ValueError):
            if NUMBERED not in one and strict_date(day.strftime(one), other, day.weekday()) != day:
                return True
    return False


@functools.cache
def _pattern(form: str) -> str:
    """Pattern of the texts of a date format, so that strptime need not look at garbage."""
    digits = {"Y": "(19|2[01])[0-9]{2}", "y": "[0-9]{2}", "m": "[0-9]{1,2}", "d": "[0-9]{1,2}"}
    digits |= {"G": "(?P<G>(?:19|2[01])[0-9]{2})", "V": "(?P<V>[0-9]{2})"}
    digits |= {"n": "(?P<n>[0-9]{1,5})"}
    pattern, form = "", form.partition(_FROM)[0]
    for directive, literal in re.findall(r"%(.)|([^%])", form):
        pattern += digits.get(directive, "[ -~]{1,20}") if directive else re.escape(literal)
    return pattern


# What may follow a day: a time, and a zone. Midnight is the day itself; other times count where days are added up.
_ZONE = "(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2})"
_TIME = (
    r"^(?P<day>.*?)(?P<time>[ T][0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?)"
    rf"(?P<zone> ?{_ZONE})?$"
)
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:?[0-9]{2})$"
_MIDNIGHT = r"^[ T]00?:00(?::00(?:[.,]0+)?)?$"


@dataclass(frozen=True)
class DateStyle:
    """How a file's dates are read.

    Args:
        formats: strptime formats that can't be confused.
        weekday: the day that stands for a week of ISO weeks, Monday = 0.
        times: a time of day is read, and dropped; else only midnight is a day, where no zone is written.
        zone: the time zone of the shops, in which a moment with a zone has its day; empty: such a moment has none.
        starts: dates name the first day of a week, six days before its last.
    """

    formats: tuple[str, ...]
    weekday: int = 4
    times: bool = False
    zone: str = ""
    starts: bool = False

    def day(self, text: str) -> dt.date:
        """The day of one text, or ValueError."""
        (day,) = self.days(pa.array([text], pa.string()))
        if np.isnat(day):
            raise ValueError(f"{text!r} is no date written like {' or '.join(self.formats)}")
        return dt.date.fromisoformat(str(day))

    def days(self, text: pa.Array) -> Days:
        """Day of each text, NaT where it is null or no date.

        strptime runs once per distinct text that has a date's shape: a file has few, however many rows.
        """
        if pc.any(pc.match_substring(text, ":")).as_py():
            return self._days_of_moments(text)
        return self._days_of_dates(text)

    def _days_of_dates(self, text: pa.Array) -> Days:
        encoded = pc.dictionary_encode(text)
        days = np.append(self._distinct(encoded.dictionary), _NAT)  # the last one stands for null
        return np.asarray(days[np.asarray(pc.fill_null(encoded.indices, -1))])

    def _distinct(self, texts: pa.Array) -> Days:
        days = np.full(len(texts), _NAT, "datetime64[D]")
        for form in self.formats:
            whole = re.sub(r"\?P<[GVn]>", "", _pattern(form))
            for i in np.flatnonzero(mask(pc.match_substring_regex(texts, f"^{whole}$")) & np.isnat(days)).tolist():
                with contextlib.suppress(ValueError):  # 30 February has the shape of a date, and stays NaT
                    days[i] = np.datetime64(strict_date(texts[i].as_py(), form, self.weekday), "D")
                    if "%V" in form:
                        continue  # it names the week whichever day stands for it
                    days[i] += np.timedelta64(6 if self.starts else 0, "D")
        return days

    def _days_of_moments(self, text: pa.Array) -> Days:
        if self.zone and pc.all(pc.match_substring_regex(text, _MOMENT)).as_py():
            return self._local(text)  # as most messages write it: half the work
        parts = pc.extract_regex(text, _TIME)
        timed = pc.is_valid(parts)
        day = pc.if_else(timed, pc.struct_field(parts, "day"), text)
        good = mask(pc.invert(timed))
        time, zone = pc.struct_field(parts, "time"), pc.struct_field(parts, "zone")
        zoned = mask(pc.and_(timed, pc.greater(pc.utf8_length(zone), 0)))
        good |= mask(timed) & ~zoned & (self.times | mask(pc.match_substring_regex(time, _MIDNIGHT)))
        days = np.where(good, self._days_of_dates(day), _NAT)
        if self.zone and zoned.any():
            at = np.flatnonzero(zoned)
            days[at] = self._local(text.take(pa.array(at)))
        return days

    def _local(self, text: pa.Array) -> Days:
        """The shop's own day of moments with a zone, which are in ISO 8601 or no dates."""
        plain = pc.replace_substring_regex(text, " ?(UTC|Z)$", "Z")
        plain = pc.replace_substring_regex(plain, " ([+-])", "\\1")
        iso = pc.if_else(pc.match_substring_regex(plain, _MOMENT), plain, None)
        try:
            moment = pc.local_timestamp(pc.cast(pc.cast(iso, pa.timestamp("us", "UTC")), pa.timestamp("us", self.zone)))
        except pa.ArrowInvalid:  # the 31st of June among them: one by one
            return np.array([t and self._local_one(t) for t in plain.to_pylist()], "datetime64[D]")
        days = pc.cast(moment, pa.date32(), safe=False).to_numpy(zero_copy_only=False).astype("datetime64[D]")
        return np.asarray(days + np.timedelta64(6 if self.starts else 0, "D"))

    def _local_one(self, text: str) -> dt.date | None:
        try:
            moment = dt.datetime.fromisoformat(text).astimezone(zoneinfo.ZoneInfo(self.zone))
            return moment.date() + dt.timedelta(days=6 if self.starts else 0)
        except (ValueError, OverflowError):  # where the shops are, 9999 may be over
            return None


def has_zone(text: pa.Array) -> Mask:
    """Which texts are moments with a time zone."""
    return mask(pc.match_substring_regex(text, rf"[0-9]:[0-9]{{2}}(:[0-9]{{2}}([.,][0-9]+)?)? ?{_ZONE}$"))


# --- numbers

PLAIN = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_SPACES = " \u00a0\u202f\u2009"  # space, NBSP, narrow NBSP, thin space
_APOSTROPHES = "'\u2019"
MINUS = "\u2212"  # the sign itself, which spreadsheets and web pages write


@dataclass(frozen=True)
class NumberStyle:
    """How a file's numbers are read.

    Args:
        decimal: the decimal sign, "." or ",".
        thousands: signs that may separate groups of three digits; a space stands for every kind of space.
        currency: signs and codes that may stand before or after a number.
        accounting: a minus may follow, and parentheses mean minus.
    """

    decimal: str = "."
    thousands: str = ""
    currency: tuple[str, ...] = ()
    accounting: bool = False

    @property
    def plain(self) -> bool:
        return self == NumberStyle()

    @property
    def _groups(self) -> str:
        wide = self.thousands.replace(" ", _SPACES)
        return wide.replace("'", _APOSTROPHES) if "'" in wide else wide

    @functools.cached_property
    def _shape(self) -> str:
        point = re.escape(self.decimal)
        groups = f"|[0-9]{{1,3}}([{re.escape(self._groups)}][0-9]{{3}})+" if self.thousands else ""
        return f"^[+-]?(([0-9]+{groups})({point}[0-9]*)?|{point}[0-9]+)([eE][+-]?[0-9]+)?$"

    def plain_text(self, text: pa.Array) -> pa.Array:
        """Each number as a plain one such as -1234.5; null where the text is null or no number of this style."""
        text = pc.replace_substring(text, MINUS, "-")
        if not self.plain:
            if self.accounting:
                inside = pc.match_substring_regex(text, r"^\([^()+-]*\)$")
                text = pc.if_else(inside, pc.binary_join_element_wise("-", pc.utf8_trim(text, "()"), ""), text)
            if self.currency:
                signs = "|".join(map(re.escape, sorted(self.currency, key=len, reverse=True)))
                text = pc.replace_substring_regex(text, rf"^([+-]?)\s*(?:{signs})\s*", "\\1")
                text = pc.replace_substring_regex(text, rf"\s*(?:{signs})\s*([+-]?)$", "\\1")
            if self.accounting:
                text = pc.replace_substring_regex(text, r"^([^+-].*?)\s*-$", "-\\1")
        good = pc.match_substring_regex(text, PLAIN if self.plain else self._shape)
        text = pc.if_else(good, text, pa.scalar(None, pa.string()))
        if self.thousands:
            text = pc.replace_substring_regex(text, f"[{re.escape(self._groups)}]", "")
        return pc.replace_substring(text, self.decimal, ".") if self.decimal != "." else text

    def __str__(self) -> str:
        return f'decimal = "{self.decimal}"'


POINT = NumberStyle(".", ", '")
COMMA = NumberStyle(",", ". '")


def to_numbers(text: pa.Array, style: NumberStyle) -> pa.Array:
    """float64 of each text, null where it is null or no number of this style. -0.0 is 0.0."""
    return pc.add(pc.cast(style.plain_text(text), pa.float64()), 0.0)


def ambiguous_thousands(texts: pa.Array) -> str | None:
    """An example, where points may separate thousands: every number with a point has groups of three digits after it,
    and no number of 1,000 or more is written without a point."""
    pointed = texts.filter(pc.match_substring(texts, "."))
    if (
        not len(pointed)
        or not pc.all(pc.match_substring_regex(pointed, r"^[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+$")).as_py()
    ):
        return None
    if pc.any(pc.match_substring_regex(texts, r"^[+-]?[0-9]{4,}$")).as_py():
        return None
    return str(pointed[0].as_py())


# --- flags

# Arrays of them are made when they are asked for: the first array of a process imports pandas, half a second of every
# command.
_TRUE = ("true", "t", "yes", "y", "1", "1.0")
_FALSE = ("false", "f", "no", "n", "0", "0.0")


def to_flags(text: pa.Array) -> tuple[pa.Array, Mask]:
    """boolean of each text, null where it is null or no flag; and which are no flags."""
    lower = pc.utf8_lower(text)
    known = pc.is_in(lower, pa.array([*_TRUE, *_FALSE]))
    return pc.if_else(known, pc.is_in(lower, pa.array(_TRUE)), pa.scalar(None, pa.bool_())), mask(
        pc.and_(pc.is_valid(lower), pc.invert(known))
    )


# --- keys


def tidy(texts: pa.Array) -> pa.Array:
    """Names in one normal form (NFC), so that an umlaut written as one character or as two gives the same name."""
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return texts
    encoded = pc.dictionary_encode(texts)  # Arrow's own utf8_normalize leaves NFC decomposed (pyarrow 25)
    names = [unicodedata.normalize("NFC", name) for name in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices)
