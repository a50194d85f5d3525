"""Tables as files that people open: CSV and Excel, with the decimals of the data and nothing that a spreadsheet runs.

Rows come one after the other and are written as they come, so a table of any length takes little memory.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet

Row = Mapping[str, Any]

# Decimals of the sales that landed, 0 .. 4, going by the newest 13 weeks; one row, one column.
DIGITS = """
    SELECT max(CASE WHEN abs(sales - round(sales, 0)) < 0.00001 THEN 0
                    WHEN abs(sales - round(sales, 1)) < 0.00001 THEN 1
                    WHEN abs(sales - round(sales, 2)) < 0.00001 THEN 2
                    WHEN abs(sales - round(sales, 3)) < 0.00001 THEN 3 ELSE 4 END) AS digits
    FROM cleaned_series
    WHERE observed AND week > (SELECT max(week) FROM cleaned_series WHERE observed) - INTERVAL 91 DAY
"""
SIGNIFICANT = 3  # digits of a small figure, at least: 0.00123 is not 0.00
RATIO_DIGITS = 4
# Ratios, which have no unit and so no digits of the data.
RATIOS = frozenset(("wape", "wape_where_naive", "naive_wape", "bias", "bias_share", "coverage", "held", "wql", "share",
          "quantile", "network_share", "backtest_wape", "backtest_coverage80",
          "coverage80", "regret", "mean_regret", "best_wql", "above"))  # fmt: skip
# Columns in the unit of sales.
SALES = re.compile(
    "p[0-9]+|plan|override|mean|sales|actual|forecast|money|miss|change|before|now|moved|previous|last_year|aligned|naive"
    "|error|abs_error|naive_abs_error|mean_error|off"
)
RISKY = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs what begins so; names come from files that others wrote

SHEET_ROWS = 1_048_575  # below the header: Excel's limit
_CELL = 32_767  # characters: Excel's limit
_WIDEST = 40
_PART = 1000


def rounded(column: str, value: float, digits: int) -> float:
    """A figure with the decimals that the landed sales have, and three significant digits at least.

    Args:
        column: a ratio has four decimals.
    """
    if not value or not math.isfinite(value):
        return value
    return round(value, RATIO_DIGITS if column in RATIOS else decimals(value, digits))


def decimals(value: float, digits: int) -> int:
    """Decimals that a figure other than 0 is written with."""
    return max(digits, SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))


def rounded_sql(value: str, digits: int) -> str:
    """`rounded` in DuckDB's SQL, of a column that is no ratio."""
    small = f"greatest({digits}, {SIGNIFICANT - 1} - floor(log10(abs({value}))))"
    return f"CASE WHEN {value} = 0 OR NOT isfinite({value}) THEN {value} ELSE round({value}, {small}::INT) END"


def harmless(value: Any) -> Any:
    """A cell of a CSV file; text that a spreadsheet would run gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(RISKY) else value


def harmless_sql(column: str) -> str:
    """`harmless` in DuckDB's SQL."""
    signs = ", ".join(f"chr({ord(sign)})" for sign in RISKY)
    return f"CASE WHEN left({column}, 1) IN ({signs}) THEN '''' || {column} ELSE {column} END"


def csv_lines(rows: Iterable[Row], digits: int) -> Iterator[str]:
    """The rows as CSV, some at a time."""
    left, begun = iter(rows), False
    while part := list(itertools.islice(left, _PART)):
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(part[0]), lineterminator="\n")
        if not begun:
            writer.writeheader()
        begun = True
        writer.writerows({k: _cell(k, v, digits) for k, v in row.items()} for row in part)
        yield out.getvalue()


def _cell(column: str, value: Any, digits: int) -> Any:
    if isinstance(value, float):
        found = rounded(column, value, digits)
        whole = not digits and column not in RATIOS and math.isfinite(found) and found and found == int(found)
        return int(found) if whole else found
    return harmless(value)


@dataclass(frozen=True)
class Sheet:
    """A table of a workbook.

    Attributes:
        name: of the sheet; where it has more rows than one can hold it goes on in "name 2" and so on.
        columns: headings; rows have a value for each.
    """

    name: str
    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]

    @classmethod
    def of(cls, name: str, rows: Iterable[Row]) -> Sheet:
        """A sheet of rows by name, all with the same names."""
        left = iter(rows)
        first = next(left, None)
        if first is None:
            return cls(name, ["no rows"], [])
        return cls(name, list(first), (list(row.values()) for row in itertools.chain([first], left)))


def write_xlsx(path: Path, sheets: Iterable[Sheet], digits: int, unit: str = "") -> dict[str, int]:
    """Write a workbook: bold headings that stay in view, filters, figures with the data's decimals, widths that fit.

    Rows lie on disk, beside `path`, while it is written.

    Args:
        digits: see `rounded`.
        unit: sign of the currency of sales, beside those figures; empty: none. The reader's Excel has the separators.

    Returns:
        Rows by sheet. Several sheets of one table begin with its name.
    """
    import xlsxwriter

    book = xlsxwriter.Workbook(
        str(path), {"constant_memory": True, "tmpdir": str(path.parent), "remove_timezone": True, "in_memory": False}
    )
    book.set_calc_mode("manual")  # there is nothing to calculate
    styles, written = _Styles(book.add_format, unit), dict[str, int]()
    for sheet in sheets:
        left, part = iter(sheet.rows), 1
        while True:
            name = _sheet_name(sheet.name, part, written)
            written[name], more = _fill(book.add_worksheet(name), sheet.columns, left, styles, digits)
            if more is None:
                break
            left, part = itertools.chain([more], left), part + 1
    book.close()
    return written


class _Styles:
    """Formats of cells, each made once."""

    def __init__(self, add: Callable[[dict[str, Any]], Format], unit: str) -> None:
        self._add, self.unit = add, unit
        self._made: dict[tuple[int, bool], Format] = {}
        self.heading = add({"bold": True, "bottom": 1, "bg_color": "#E7EEF5", "valign": "top"})
        self.day = add({"num_format": "yyyy-mm-dd", "align": "left"})
        self.moment = add({"num_format": "yyyy-mm-dd hh:mm:ss", "align": "left"})
        # As Excel's own leading apostrophe: the text stays as it is, also where somebody edits its cell.
        self.quoted = add({"quote_prefix": True})

    def number(self, places: int, sales: bool) -> Format:
        """Of a figure with so many decimals; of sales with the sign of their currency, where there is one."""
        key = places, sales and bool(self.unit)
        if key not in self._made:
            name = "#,##0" + (f".{'0' * min(places, 20)}" if places > 0 else "")
            self._made[key] = self._add({"num_format": f"{name} [${self.unit}]" if key[1] else name})
        return self._made[key]


def _fill(
    sheet: Worksheet, columns: Sequence[str], rows: Iterator[Sequence[Any]], styles: _Styles, digits: int
) -> tuple[int, Sequence[Any] | None]:
    """Write rows until there are none, or no more fit; how many, and the first that did not fit."""
    widths = [len(name) for name in columns]
    for at, name in enumerate(columns):
        sheet.write_string(0, at, name, styles.heading)
    count, more = 0, None
    for row in rows:
        if count == SHEET_ROWS:
            more = row
            break
        count += 1
        for at, (name, value) in enumerate(zip(columns, row, strict=True)):
            if value is not None:
                width = _write(sheet, count, at, name, value, styles, digits)
                if width > widths[at]:
                    widths[at] = width
    sheet.freeze_panes(1, 0)
    sheet.ignore_errors({"number_stored_as_text": "A1:XFD1048576"})  # such as a store called 1
    sheet.autofilter(0, 0, count, len(columns) - 1)
    for at, width in enumerate(widths):
        sheet.set_column(at, at, min(width, _WIDEST) + 3)  # room for the filter's button
    return count, more


def _write(sheet: Worksheet, row: int, at: int, name: str, value: Any, styles: _Styles, digits: int) -> int:
    """Write a cell that is not empty; its width in characters, about."""
    if isinstance(value, bool):
        sheet.write_boolean(row, at, value)
        return 5
    if isinstance(value, float):
        if not math.isfinite(value):
            return 0
        places = RATIO_DIGITS if name in RATIOS else decimals(value, digits) if value else digits
        found = round(value, places)
        sales = bool(SALES.fullmatch(name))
        sheet.write_number(row, at, found, styles.number(places, sales))
        return len(f"{found:,.{max(places, 0)}f} {styles.unit if sales else ''}") if abs(found) < 1e15 else 20
    if isinstance(value, int):
        sheet.write_number(row, at, value)
        return len(str(value))
    if isinstance(value, dt.datetime):
        utc = value.astimezone(dt.UTC) if value.tzinfo else value
        sheet.write_datetime(row, at, utc.replace(tzinfo=None), styles.moment)
        return 19
    if isinstance(value, dt.date):
        sheet.write_datetime(row, at, value, styles.day)
        return 10
    text = str(value)
    text = text if len(text) <= _CELL else text[: _CELL - 3] + "..."
    if text.startswith(RISKY):
        sheet.write_string(row, at, text, styles.quoted)
    else:
        sheet.write_string(row, at, text)
    return len(text)


def _sheet_name(name: str, part: int, taken: Mapping[str, int]) -> str:
    """A name that Excel allows: 31 characters without its signs, unlike all others in any case."""
    plain = "".join(" " if sign in "[]:*?/\\'" else sign for sign in name).strip() or "table"
    used = {each.lower() for each in taken}
    for number in itertools.count(part):
        suffix = f" {number}" if number > 1 else ""
        found = plain[: 31 - len(suffix)].rstrip() + suffix
        if found.lower() not in used and found.lower() != "history":  # which Excel keeps for itself
            return found
    raise AssertionError
