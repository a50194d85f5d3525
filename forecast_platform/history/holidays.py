"""Holidays that move weekly sales, as events: a name and its date in each year.

They come from the calendar a retailer landed; where there is none, from the `holidays` package for a country. A week
near an event is compared with the week as near to it a year before, so what counts is the distance in days between two
years' dates. There are only a handful of events a year, so they are Python dates, not arrays.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Weeks before and after the event's own week whose sales it changes, for well-known events (measured on Walmart).
WINDOWS = {
    "Thanksgiving": (1, 1),
    "Christmas": (3, 1),
    "Easter": (2, 1),
    "Super Bowl": (1, 0),
    "Labor Day": (1, 0),
    "Pentecost": (1, 0),
    "Lunar New Year": (3, 1),
    "Eid al-Fitr": (3, 1),
    "Eid al-Adha": (1, 1),
    "Diwali": (3, 1),
}
OTHER_WINDOW = (1, 0)

# Words in a holiday's name, the event it is a part of, and the days from it to the event. The first match counts.
_PARTS = (
    ("good friday", "Easter", 2),
    ("karfreitag", "Easter", 2),
    ("easter monday", "Easter", -1),
    ("ostermontag", "Easter", -1),
    ("easter", "Easter", 0),
    ("ostern", "Easter", 0),
    ("ostersonntag", "Easter", 0),
    ("black friday", "Thanksgiving", -1),
    ("thanksgiving", "Thanksgiving", 0),
    ("christmas eve", "Christmas", 1),
    ("heiligabend", "Christmas", 1),
    ("boxing day", "Christmas", -1),
    ("christmas", "Christmas", 0),
    ("weihnacht", "Christmas", 0),
    ("superbowl", "Super Bowl", 0),
    ("super bowl", "Super Bowl", 0),
    ("labor day", "Labor Day", 0),
    ("labour day", "Labor Day", 0),
    ("pentecost monday", "Pentecost", -1),
    ("whit monday", "Pentecost", -1),
    ("pfingstmontag", "Pentecost", -1),
    ("pentecost", "Pentecost", 0),
    ("pfingst", "Pentecost", 0),
    ("chinese new year", "Lunar New Year", 0),
    ("lunar new year", "Lunar New Year", 0),
    ("eid al-fitr", "Eid al-Fitr", 0),
    ("eid al-adha", "Eid al-Adha", 0),
    ("diwali", "Diwali", 0),
)
_YEAR_OF_WEEKS = 364
# Days from a holiday to the same holiday a year later: a lunar year has 354, or 384 with a 13th month.
_YEAR_APART = range(340, 400)
_ONE_HOLIDAY = 60  # days; dates of one name no further apart than this belong to one holiday


@dataclass(frozen=True)
class Event:
    """A named day that moves through the weeks from year to year.

    Attributes:
        dates: its date in each year, ascending, each about a year after the one before.
        before, after: weeks before and after the event's own week whose sales it changes.
    """

    name: str
    dates: tuple[dt.date, ...]
    before: int = 1
    after: int = 1


def events_for(
    first: dt.date, last: dt.date, calendar: Iterable[tuple[str, dt.date]], country: str
) -> tuple[Event, ...]:
    """The events of a retailer's weeks.

    In a landed calendar each name with dates in two consecutive years is an event. Before and after the calendar's
    years, the country's rule continues an event where the rule agrees with its first or last date; other events end.

    Args:
        first, last: first and last week of the data.
        calendar: (name, date) of the landed calendar, any order; empty: the country's holidays alone.
        country: ISO code, for example US.

    Raises:
        ValueError: the country is unknown.
    """
    usual = retail_events(first, last, country)
    named = _by_event(calendar)
    if not named:
        return usual
    for event in usual:
        known = named.get(event.name, [])
        if known and known[0] in event.dates:
            known[:0] = [day for day in event.dates if day < known[0]]
        if known and known[-1] in event.dates:
            known += [day for day in event.dates if day > known[-1]]
    return _moving(named)


def retail_events(first: dt.date, last: dt.date, country: str = "US") -> tuple[Event, ...]:
    """The holidays of WINDOWS that `country` keeps, from the year before `first` to the year after `last`.

    Raises:
        ValueError: the country is unknown.
    """
    return _kept_by(country.upper(), first.year - 1, last.year + 1)


@functools.cache
def _kept_by(country: str, first_year: int, last_year: int) -> tuple[Event, ...]:
    import holidays

    rules = getattr(holidays, country, None) if len(country) == 2 else None
    if rules is None:
        raise ValueError(
            f"country is {country!r}, whose holidays are not known; write an ISO code such as US, DE or GB, or land a "
            "calendar (name, date) under calendar/"
        )
    years = range(first_year, last_year + 1)
    days = rules(
        years=years,
        language="en_US" if "en_US" in rules.supported_languages else None,
        categories=[c for c in rules.supported_categories if c != "school"],
        observed=False,
    )
    found = _by_event((name, day) for day, names in days.items() for name in names.split("; "))
    if country == "US":
        found["Super Bowl"] = [_super_bowl(year) for year in years]
    return _moving({name: found[name] for name in WINDOWS if name in found})


def _by_event(days: Iterable[tuple[str, dt.date]]) -> dict[str, list[dt.date]]:
    """First day of each year's holiday, by event. Holidays that are part of a known event are under its name."""
    found: dict[str, set[dt.date]] = {}
    for name, day in days:
        event, shift = next(((e, s) for word, e, s in _PARTS if word in name.lower()), (name, 0))
        found.setdefault(event, set()).add(day + dt.timedelta(days=shift))
    return {event: _first_days(sorted(dates)) for event, dates in found.items()}


def _first_days(dates: Sequence[dt.date]) -> list[dt.date]:
    before = [dt.date.min, *dates]
    return [day for day, previous in zip(dates, before, strict=False) if (day - previous).days > _ONE_HOLIDAY]


def _moving(named: dict[str, list[dt.date]]) -> tuple[Event, ...]:
    """Events of dates that follow each other year by year. A year left out splits an event in two. An
    event whose dates are always 52 weeks apart does not move, and is left out."""
    events = []
    for name, dates in named.items():
        runs: list[list[dt.date]] = []
        for day in dates:
            if runs and (day - runs[-1][-1]).days in _YEAR_APART:
                runs[-1].append(day)
            else:
                runs.append([day])
        before, after = WINDOWS.get(name, OTHER_WINDOW)
        for run in runs:
            if any((day - previous).days != _YEAR_OF_WEEKS for previous, day in itertools.pairwise(run)):
                events.append(Event(name, tuple(run), before, after))
    return tuple(events)


def _super_bowl(year: int) -> dt.date:
    """The first Sunday of February; since 2022 the second, as the season got a week longer."""
    first = dt.date(year, 2, 1)
    return first + dt.timedelta(days=(6 - first.weekday()) % 7 + (7 if year >= 2022 else 0))
