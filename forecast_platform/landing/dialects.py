"""Dialects: how one organisation writes its files, and the named ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forecast_platform.landing.kinds import CANONICAL
from forecast_platform.landing.values import EXAMPLE, strict_date
from forecast_platform.weeks import WeekCalendar


@dataclass(frozen=True)
class Dialect:
    """How to read one organisation's files.

    Args:
        name: the preset it comes from.
        week_ends: weekday a week ends on, MON .. SUN.
        columns: canonical name -> name in the file, for the names that differ (case does not matter). A file
            that has no column of the mapped name may still use the canonical one.
        date_format: strptime format of dates kept as text.
        delimiter: one ASCII character.
        missing: texts that mean "no value", in any column, compared after trimming.
        encoding: Python codec of CSV files.

    Raises:
        ValueError: a field that can't work, with what to write instead.
    """

    name: str
    week_ends: str = "FRI"
    columns: Mapping[str, str] = field(default_factory=dict)
    date_format: str = "%Y-%m-%d"
    delimiter: str = ","
    missing: tuple[str, ...] = ("", "NA", "NaN", "NULL", "null")
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        object.__setattr__(self, "week_ends", WeekCalendar(ends=self.week_ends).ends)
        if unknown := sorted(set(self.columns) - set(CANONICAL)):
            raise ValueError(f"columns maps {', '.join(unknown)}; names to map are {', '.join(CANONICAL)}")
        if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n\0':
            raise ValueError(f"delimiter is {self.delimiter!r}; use one ASCII character such as , ; or a tab")
        try:
            whole_date = strict_date(EXAMPLE.strftime(self.date_format), self.date_format) == EXAMPLE
        except ValueError:
            whole_date = False
        if not whole_date:
            raise ValueError(f"date_format {self.date_format!r} is no whole date; write it like %d/%m/%Y")
        try:
            "a".encode(self.encoding)
        except LookupError:
            raise ValueError(f"encoding {self.encoding!r} is unknown; use utf-8, cp1252 or latin-1") from None

    @classmethod
    def named(cls, name: str) -> Dialect:
        """The preset of that name, or ValueError naming the presets."""
        if name not in PRESETS:
            raise ValueError(f"no preset is named {name!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[name]

    def replace(self, **changes: Any) -> Dialect:
        """A copy with these fields changed; an empty text or mapping keeps this contract's own."""
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v})


PRESETS: dict[str, Dialect] = {
    "canonical": Dialect("canonical"),
    "walmart": Dialect(
        "walmart",
        columns={
            "store": "Store",
            "dept": "Dept",
            "date": "Date",
            "weekly_sales": "Weekly_Sales",
            "is_holiday": "IsHoliday",
        },
        date_format="%d/%m/%Y",
    ),
}
