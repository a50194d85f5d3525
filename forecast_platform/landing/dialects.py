"""Dialects: how one organisation writes its files, and the named ones."""

from __future__ import annotations

import dataclasses
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forecast_platform.landing.identity import normal_form
from forecast_platform.landing.kinds import CANONICAL
from forecast_platform.landing.values import COMMA, POINT, DateStyle, NumberStyle, check_formats, formats_of
from forecast_platform.weeks import WeekCalendar

MISSING = ("", "NA", "NaN", "NULL", "null")
AGGREGATES = ("", "refuse", "sum", "last")
TOTALS = ("refuse", "leave_out", "keep")
_NAMED = 'the names of sums, such as {store = ["North", "South"]}'


@dataclass(frozen=True)
class Dialect:
    """How to read one organisation's files. Each field is a setting of the same name.

    Args:
        name: the preset it comes from.
        week_ends: weekday a week ends on, MON .. SUN.
        week_label: a date names the "end" of its week, or its "start", six days before.
        columns: canonical name -> name in the file, for the names that differ (case does not matter); of several
            separated by "|" the first one there. A file that has no such column may still use the canonical name.
        store, department: the one store or department of files that have no such column.
        date_format: strptime format of dates kept as text; several, separated by "|", where they can't be confused.
            %G-W%V reads ISO weeks, d_%n from 2011-01-29 days counted from that one on.
        time_zone: of the shops. A time with a zone counts for its day there; empty: such a time is refused.
        delimiter: one ASCII character; empty: a tab in .tsv, what a leading `sep=` line says, else a comma.
        encoding: Python codec of text files; empty: UTF-8, or UTF-16 with its mark.
        skip_rows: lines of titles before the header.
        sheet: of a workbook; empty: its only one.
        decimal: "." or ","; empty: ".", and a file whose points may be thousands is refused. Where it is set,
            groups of three digits are read too, separated by the other sign, spaces or apostrophes.
        thousands: signs allowed between groups of three digits, in place of those.
        currency: signs and codes allowed beside a number, separated by spaces.
        accounting: a minus may follow its number, and parentheses mean minus.
        missing: column -> texts that mean "no value" there, compared after trimming; "" stands for all columns that
            are not named. Empty fields always have no value.
        aggregate: what becomes of several rows of one store, department and week. "sum" adds them up, so that days and
            transactions become weeks; "last" keeps the last one; "refuse" refuses the file. Empty: a few are
            quarantined, more refuse the file.
        totals: what becomes of rows that are sums of others: "refuse" the file; "leave_out" those whose name says so;
            "keep"; or the names of sums, column (store, dept) -> names, left out wherever they stand, beside those
            whose name says so. Sums that are neither kept nor left out refuse the file.
        normalise_keys: which spellings of a store or department are one: "numbers" (08, 8 and 8.0), "case".

    Raises:
        ValueError: a field that can't work, with what to write instead.
    """

    name: str
    week_ends: str = "FRI"
    week_label: str = "end"
    columns: Mapping[str, str] = field(default_factory=dict)
    store: str = ""
    department: str = ""
    date_format: str = "%Y-%m-%d"
    time_zone: str = ""
    delimiter: str = ""
    encoding: str = ""
    skip_rows: int = 0
    sheet: str = ""
    decimal: str = ""
    thousands: str = ""
    currency: str = ""
    accounting: bool = False
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aggregate: str = ""
    totals: str | Mapping[str, tuple[str, ...]] = "refuse"
    normalise_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "week_ends", WeekCalendar(ends=self.week_ends).ends)
        if unknown := sorted(set(self.columns) - set(CANONICAL)):
            raise ValueError(f"columns maps {', '.join(unknown)}; names to map are {', '.join(CANONICAL)}")
        if self.delimiter and (len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n\0'):
            raise ValueError(f"delimiter is {self.delimiter!r}; use one ASCII character such as , ; or a tab")
        check_formats(self.date_format)
        try:
            "a".encode(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(f"encoding {self.encoding!r} is unknown; use utf-8, cp1252 or latin-1") from None
        if self.time_zone and self.time_zone not in zoneinfo.available_timezones():
            raise ValueError(f"time_zone {self.time_zone!r} is unknown; write it like Europe/Berlin")
        if self.skip_rows < 0:
            raise ValueError(f"skip_rows is {self.skip_rows}; give the number of lines before the header")
        allowed = {"week_label": ("end", "start"), "decimal": ("", ".", ","), "aggregate": AGGREGATES}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                words = ", ".join(value or "(empty)" for value in values)
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {words}")
        if isinstance(self.totals, str):
            if self.totals not in TOTALS:
                raise ValueError(f"totals is {self.totals!r}; use one of {', '.join(TOTALS)}, or {_NAMED}")
        elif unknown := sorted(set(self.totals) - {"store", "dept"}):
            raise ValueError(f"totals names sums of {', '.join(unknown)}; they are of store or dept: {_NAMED}")
        if unknown := sorted(set(self.normalise_keys) - {"numbers", "case"}):
            raise ValueError(f"normalise_keys holds {', '.join(unknown)}; use numbers, case or both")
        if self.decimal and self.decimal in self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}; they must differ")
        if not self.decimal and self.thousands:
            raise ValueError(f'thousands is {self.thousands!r} without a decimal sign; set decimal to "." or "," too')

    @classmethod
    def named(cls, name: str) -> Dialect:
        """The preset of that name, or ValueError naming the presets."""
        if name not in PRESETS:
            raise ValueError(f"no preset is named {name!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[name]

    def replace(self, **changes: Any) -> Dialect:
        """A copy with these fields changed; an empty text or mapping keeps this dialect's own."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v})

    @property
    def dates(self) -> DateStyle:
        return DateStyle(
            formats_of(self.date_format),
            WeekCalendar(ends=self.week_ends).weekday,
            times=self.aggregate == "sum",
            zone=self.time_zone,
            starts=self.week_label == "start",
        )

    @property
    def numbers(self) -> NumberStyle:
        style = {"": NumberStyle(), ".": POINT, ",": COMMA}[self.decimal]
        changes: dict[str, Any] = {"currency": tuple(self.currency.split()), "accounting": self.accounting}
        if self.thousands:
            changes["thousands"] = self.thousands
        return dataclasses.replace(style, **changes)

    @property
    def sums(self) -> dict[str, tuple[str, ...]]:
        """Names that are left out as sums, by column, as keys are kept."""
        named = {} if isinstance(self.totals, str) else self.totals
        return {c: tuple(normal_form(name, self.normalise_keys) for name in names) for c, names in named.items()}

    def missing_in(self, column: str) -> tuple[str, ...]:
        """Texts that mean "no value" in a column of that canonical name."""
        return ("", *self.missing.get(column, self.missing.get("", MISSING)))


PRESETS: dict[str, Dialect] = {
    "canonical": Dialect("canonical"),
    # Kaggle's "Walmart Recruiting": written with dd/mm/yyyy in one copy and ISO dates in the other.
    "walmart": Dialect(
        "walmart",
        columns={
            "store": "Store",
            "dept": "Dept",
            "date": "Date",
            "weekly_sales": "Weekly_Sales",
            "is_holiday": "IsHoliday",
        },
        date_format="%d/%m/%Y|%Y-%m-%d",
    ),
    # A row a store and day, with flags for open shops, promotions and holidays (as in "Rossmann Store Sales").
    "store_days": Dialect(
        "store_days",
        week_ends="SUN",
        columns={"store": "Store", "date": "Date", "weekly_sales": "Sales"},
        department="all",
        aggregate="sum",
    ),
    # A row a store, item and day with units (as in "Favorita Grocery Sales" and "Store Item Demand").
    "item_days": Dialect(
        "item_days",
        week_ends="SUN",
        columns={
            "store": "store_nbr|store",
            "dept": "item_nbr|item|family",
            "date": "date",
            "weekly_sales": "unit_sales|sales",
        },
        aggregate="sum",
    ),
    # A row a store and item, a column a day: d_1, d_2 ... (as in "M5 Forecasting") or dates.
    "wide_items": Dialect(
        "wide_items",
        week_ends="FRI",
        columns={"store": "store_id", "dept": "item_id"},
        date_format="d_%n from 2011-01-29|%Y-%m-%d",
        aggregate="sum",
    ),
}
