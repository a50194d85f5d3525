"""Files as people have them, each with what happens: cases of the tests and rows of docs/files.md.

`python -m forecast_platform_tests.landing.field_cases` writes the table into the page.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
START, END = "<!-- cases -->", "<!-- end of cases -->"

HEAD = "store,dept,date,weekly_sales\n"


@dataclass(frozen=True)
class Case:
    """One file and what becomes of it.

    Attributes:
        kind: the fault it is an example of.
        have: what people have.
        happens: what happens, in words.
        data: the file.
        settings: as in settings.toml.
        sales: the accepted figures, in the file's order (of added up weeks: by first line).
        refused: the rule by which the whole file is refused; then `says` are words of its message.
        rejected: values of the rows that are quarantined.
        weeks, stores, depts: of the accepted rows, where they matter.
        notes: words of the warnings.
    """

    kind: str
    have: str
    happens: str
    data: str | bytes
    name: str = "sales.csv"
    settings: dict[str, Any] = field(default_factory=dict)
    sales: list[float | None] | None = None
    refused: str = ""
    says: tuple[str, ...] = ()
    rejected: list[str] = field(default_factory=list)
    weeks: list[str] | None = None
    stores: list[str] | None = None
    depts: list[str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> bytes:
        return self.data.encode() if isinstance(self.data, str) else self.data


def _zip(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_csv", ".csv"), text)
    return out.getvalue()


def _parquet(**columns: pa.Array) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def xlsx_of(rows: list[list[Any]]) -> bytes:
    """A workbook written by hand, so that the reader is tried on another's bytes."""
    serial = dt.date(1899, 12, 30)

    def cell(value: Any) -> str:
        if isinstance(value, dt.date):
            return f'<c s="1"><v>{(value - serial).days}</v></c>'
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    sheet = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
        f'"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" '
        f'ContentType="{office}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" ContentType='
        f'"{office}.worksheet+xml"/><Override PartName="/xl/styles.xml" ContentType="{office}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type='
        f'"{rel}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{rel}"><sheets><sheet name="Sales" '
        'sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type='
        f'"{rel}/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="r2" Type="{rel}/styles" '
        'Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs count="2"><xf numFmtId="0"/>'
        '<xf numFmtId="14"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>',
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def days_of(first: str, number: int, rows: str = "1,a,{},10\n") -> str:
    start = dt.date.fromisoformat(first)
    return "".join(rows.format(start + dt.timedelta(days=i)) for i in range(number))


def weeks_from(first: str, values: list[Any], form: str = "%Y-%m-%d", sep: str = ",", keys: str = "1,a") -> str:
    start = dt.date.fromisoformat(first)
    prefix = keys.replace(",", sep)
    return "".join(
        f"{prefix}{sep}{start + dt.timedelta(days=7 * i):{form}}{sep}{value}\n" for i, value in enumerate(values)
    )


GERMAN = {"delimiter": ";", "date_format": "%d.%m.%Y"}
# Ten weeks of four stores.
REGION = [[300 + (31 * week * week + 17 * store * week) % 101 for store in range(1, 5)] for week in range(1, 11)]


def _region() -> str:
    rows = []
    for number, week in enumerate(REGION):
        named = {"1": week[0], "2": week[1], "3": week[2], "4": week[3], "North": week[0] + week[1]}
        day = dt.date(2026, 9, 18) + dt.timedelta(weeks=number)
        rows += [f"{store},a,{day},{sales}\n" for store, sales in named.items()]
    return "".join(rows)


HEAD_DE = HEAD.replace(",", ";")
EUROS = HEAD_DE + weeks_from("2026-10-02", ["1.234", "1.250", "998", "1.410"], "%d.%m.%Y", ";")
TILL = HEAD_DE + weeks_from("2026-10-02", ["1.234,56", "1.234", "850", "12.500", "0,50"], "%d.%m.%Y", ";")
SIGNS = HEAD + "".join(
    f"s{i},x,2026-11-20,{value}\n"
    for i, value in enumerate(
        [
            "100.00-",
            '"$1,234.50"',
            "1\u00a0234.50",
            "(55.10)",
            "\u22125.00",
            "1_000",
            "0x10",
            "12%",
            "#N/A",
            "-",
            "TRUE",
        ]
    )
)
TRANSACTIONS = HEAD + "t,a,2026-11-20,9.99\n" * 3 + "t,b,2026-11-20,5\nt,b,2026-11-20,7\n"
AMERICAN = HEAD + weeks_from("2012-01-06", [1000 + i for i in range(52)], "%m/%d/%Y")

CASES = [
    # --- numbers
    Case(
        "numbers",
        "whole euros with thousands points: 1.234",
        "refused, naming the two settings it may be",
        EUROS,
        settings=GERMAN,
        refused="number_style",
        says=("'1.234'", "FORECAST_DECIMAL=,", "FORECAST_DECIMAL=."),
    ),
    Case(
        "numbers",
        'the same with `decimal = ","`',
        "read as thousands",
        EUROS,
        settings=GERMAN | {"decimal": ","},
        sales=[1234, 1250, 998, 1410],
    ),
    Case(
        "numbers",
        "1.234,56 and 850 in one column",
        "refused, naming the setting",
        TILL,
        settings=GERMAN,
        refused="number_style",
        says=("'1.234,56'", "FORECAST_DECIMAL=,"),
    ),
    Case(
        "numbers",
        'the same with `decimal = ","`',
        "read",
        TILL,
        settings=GERMAN | {"decimal": ","},
        sales=[1234.56, 1234, 850, 12500, 0.5],
    ),
    Case(
        "numbers",
        "groups by commas: 1,234.50",
        "refused, naming the setting",
        HEAD + weeks_from("2026-10-02", ['"1,234.50"', '"2,000"', "850"]),
        refused="number_style",
        says=("FORECAST_DECIMAL=.",),
    ),
    Case(
        "numbers",
        "groups by NBSP, narrow NBSP, apostrophes, with `decimal` set",
        "read",
        HEAD + weeks_from("2026-10-02", ["1\u00a0234.5", "1\u202f234.5", "1'234.5", "1\u2019234.5", "1 234.5"]),
        settings={"decimal": "."},
        sales=[1234.5] * 5,
    ),
    Case(
        "numbers",
        "decimals of three digits: 0.125, 12.345, 1500",
        "read: no thousands are written like that",
        HEAD + weeks_from("2026-10-02", ["0.125", "12.345", "1500"]),
        sales=[0.125, 12.345, 1500],
    ),
    Case(
        "numbers",
        "minus behind, currency, NBSP, parentheses, U+2212, markers",
        "mostly refused: the file is refused",
        SIGNS,
        refused="mostly_refused",
        says=("FORECAST_ACCOUNTING", "FORECAST_CURRENCY", "FORECAST_MISSING"),
    ),
    Case(
        "numbers",
        "the same with `decimal`, `currency`, `accounting` and `missing` set",
        "read; 1_000, 0x10, 12% and TRUE are no numbers",
        SIGNS,
        settings={"decimal": ".", "currency": "$", "accounting": True, "missing": ["#N/A", "-"]},
        sales=[-100, 1234.5, 1234.5, -55.1, -5, None, None],
        rejected=["1_000", "0x10", "12%", "TRUE"],
    ),
    Case(
        "numbers",
        "the minus sign U+2212 alone",
        "a minus",
        HEAD + weeks_from("2026-10-02", ["\u22125", "5", "6"]),
        sales=[-5, 5, 6],
    ),
    # --- dates
    Case(
        "dates",
        "`--preset walmart`, but mm/dd/yyyy",
        "refused, naming the format that reads all",
        AMERICAN,
        settings={"preset": "walmart"},
        refused="date_format",
        says=("%m/%d/%Y",),
    ),
    Case(
        "dates",
        "the same with `date_format` set",
        "read",
        AMERICAN,
        settings={"preset": "walmart", "date_format": "%m/%d/%Y"},
        sales=[1000 + i for i in range(52)],
    ),
    Case(
        "dates",
        "16.10.2026 where ISO dates are expected",
        "refused, naming the format",
        HEAD + weeks_from("2026-10-16", [1, 2, 3], "%d.%m.%Y"),
        refused="date_format",
        says=("%d.%m.%Y",),
    ),
    Case(
        "dates",
        "two styles in one file",
        "refused, naming both",
        HEAD + "1,a,2026-11-13,5\n1,a,20.11.2026,6\n",
        refused="date_format",
        says=("%Y-%m-%d|%d.%m.%Y",),
    ),
    Case(
        "dates",
        "two styles, and `date_format` names both",
        "read",
        HEAD + "1,a,2026-11-13,5\n1,a,20.11.2026,6\n",
        settings={"date_format": "%Y-%m-%d|%d.%m.%Y"},
        sales=[5, 6],
    ),
    Case(
        "dates",
        "years of two digits, with `date_format`",
        "read: 69 to 99 are 1969 to 1999, the others 20xx",
        HEAD + "1,a,13.11.26,5\n1,a,31.12.99,6\n",
        settings={"date_format": "%d.%m.%y"},
        sales=[5, 6],
        weeks=["2026-11-13", "1999-12-31"],
    ),
    Case(
        "dates",
        "weeks end on Saturday",
        "refused, naming `week_ends`",
        HEAD + weeks_from("2026-10-17", [100, 101, 102]),
        refused="wrong_weekday",
        says=("FORECAST_WEEK_ENDS=SAT",),
    ),
    Case(
        "dates",
        "the same with `week_ends`",
        "read",
        HEAD + weeks_from("2026-10-17", [100, 101, 102]),
        settings={"week_ends": "SAT"},
        sales=[100, 101, 102],
    ),
    Case(
        "dates",
        'weeks named by their first day, `week_label = "start"`',
        "read as the week six days later",
        HEAD + weeks_from("2026-10-17", [100, 101]),
        settings={"week_label": "start"},
        sales=[100, 101],
        weeks=["2026-10-23", "2026-10-30"],
    ),
    Case(
        "dates",
        'ISO weeks, `date_format = "%G-W%V"`; 2024 has no week 53',
        "read; the impossible week is quarantined",
        HEAD + "1,a,2024-W52,5\n1,a,2025-W01,6\n1,a,2025-W02,7\n1,a,2024-W53,8\n",
        settings={"date_format": "%G-W%V", "week_ends": "SUN"},
        sales=[5, 6, 7],
        rejected=["2024-W53"],
        weeks=["2024-12-29", "2025-01-05", "2025-01-12"],
    ),
    Case(
        "dates",
        "midnight timestamps",
        "dates",
        HEAD + "1,a,2026-11-13 00:00:00,5\n1,a,2026-11-20T00:00:00,6\n",
        sales=[5, 6],
    ),
    Case(
        "dates",
        "a timestamp with a time zone",
        "that row is quarantined, naming `time_zone`",
        HEAD + "1,a,2026-11-13 00:00:00,5\n1,a,2026-11-20T00:00:00Z,6\n",
        sales=[5],
        rejected=["2026-11-20T00:00:00Z"],
    ),
    Case(
        "dates",
        'the same with `time_zone = "Asia/Tokyo"`',
        "the shop's own day",
        HEAD + "1,a,2026-11-12T15:00:00Z,5\n1,a,2026-11-20T00:00:00+09:00,6\n",
        settings={"time_zone": "Asia/Tokyo"},
        sales=[5, 6],
        weeks=["2026-11-13", "2026-11-20"],
    ),
    Case("dates", "weeks before 2010", "read", HEAD + weeks_from("1989-09-15", [1, 2]), sales=[1, 2]),
    # --- days and transactions
    Case(
        "days",
        "a file of days",
        "refused, naming `aggregate`",
        HEAD + days_of("2026-10-31", 21),
        refused="daily_rows",
        says=("FORECAST_AGGREGATE=sum", "21 days in 3 weeks"),
    ),
    Case(
        "days",
        'the same with `aggregate = "sum"`',
        "weeks",
        HEAD + days_of("2026-10-31", 21),
        settings={"aggregate": "sum"},
        sales=[70, 70, 70],
        weeks=["2026-11-06", "2026-11-13", "2026-11-20"],
    ),
    Case(
        "days",
        "days up to a Wednesday",
        "the week that is not whole waits, named",
        HEAD + days_of("2026-10-31", 19),
        settings={"aggregate": "sum"},
        sales=[70, 70],
        rejected=[f"{dt.date(2026, 11, 14 + i)} in the week ending 2026-11-20" for i in range(5)],
        notes=("the week ending 2026-11-20 is not whole",),
    ),
    Case(
        "days",
        "days from a Tuesday on",
        "the week that is not whole waits, named",
        HEAD + days_of("2026-11-03", 18),
        settings={"aggregate": "sum"},
        sales=[70, 70],
        rejected=[f"{dt.date(2026, 11, 3 + i)} in the week ending 2026-11-06" for i in range(4)],
        notes=("the file begins on 2026-11-03",),
    ),
    Case(
        "days",
        "shops closed on Sundays, weeks that end on them",
        "whole weeks: the file says which days are open",
        HEAD + "".join(days_of(first, 6) for first in ("2026-10-26", "2026-11-02", "2026-11-09")),
        settings={"aggregate": "sum", "week_ends": "SUN"},
        sales=[60, 60, 60],
    ),
    Case(
        "days",
        "one day a file",
        "it waits: a day is no week",
        HEAD + "1,a,2026-11-18,10\n",
        settings={"aggregate": "sum"},
        refused="nothing_accepted",
        says=("week_incomplete", "2026-11-20"),
    ),
    Case(
        "days",
        "returns among transactions",
        "netted",
        HEAD + days_of("2026-11-07", 14, "1,a,{},10\n1,a,{},-4\n".replace("{}", "{0}")),
        settings={"aggregate": "sum"},
        sales=[42, 42],
    ),
    Case(
        "transactions",
        "three sales of 9.99 at one time",
        "refused, naming `aggregate`",
        TRANSACTIONS,
        refused="duplicate_rows",
        says=("FORECAST_AGGREGATE=sum", "FORECAST_AGGREGATE=last"),
    ),
    Case(
        "transactions",
        '`aggregate = "sum"`',
        "added up",
        TRANSACTIONS,
        settings={"aggregate": "sum"},
        sales=[29.97, 12],
    ),
    Case(
        "transactions",
        '`aggregate = "last"`',
        "the last one counts",
        TRANSACTIONS,
        settings={"aggregate": "last"},
        sales=[9.99, 7],
    ),
    Case(
        "transactions",
        '`aggregate = "refuse"`, one row twice among many',
        "refused",
        HEAD + weeks_from("2026-01-02", list(range(40))) + "1,a,2026-01-02,0\n",
        settings={"aggregate": "refuse"},
        refused="duplicate_rows",
    ),
    Case(
        "transactions",
        "one row twice among many",
        "the copy is quarantined",
        HEAD + weeks_from("2026-01-02", list(range(40))) + "1,a,2026-01-02,0\n",
        sales=list(map(float, range(40))),
        rejected=["line 2"],
    ),
    Case(
        "keys",
        "a further column, channel, splits the rows",
        "refused, naming the column",
        "store,dept,channel,date,weekly_sales\n1,a,web,2026-11-20,5\n1,a,shop,2026-11-20,6\n",
        refused="duplicate_rows",
        says=("channel", "FORECAST_AGGREGATE=sum"),
    ),
    Case(
        "keys",
        'the same with `aggregate = "sum"`',
        "added up",
        "store,dept,channel,date,weekly_sales\n1,a,web,2026-11-20,5\n1,a,shop,2026-11-20,6\n",
        settings={"aggregate": "sum"},
        sales=[11],
    ),
    Case(
        "keys",
        "no department column",
        "one department, with a note",
        "store,date,weekly_sales\n1,2026-11-20,5\n",
        sales=[5],
        depts=["all"],
        notes=("no department column", "FORECAST_DEPARTMENT=all"),
    ),
    Case(
        "keys",
        "a department column by another name",
        "refused with the mapping",
        "store,Warengruppe,date,weekly_sales\n1,a,2026-11-20,5\n",
        refused="missing_columns",
        says=('FORECAST_COLUMNS={"dept": "Warengruppe"}',),
    ),
    Case(
        "keys",
        "no store column, one shop",
        "refused, naming `store`",
        "dept,date,weekly_sales\na,2026-11-20,5\n",
        refused="missing_columns",
        says=("FORECAST_STORE=1",),
    ),
    Case(
        "keys",
        'the same with `store = "1"`',
        "read",
        "dept,date,weekly_sales\na,2026-11-20,5\n",
        settings={"store": "1"},
        sales=[5],
        stores=["1"],
    ),
    Case(
        "keys",
        'a column mapped away: `columns = {dept = "store"}`',
        "refused, saying which mapping takes it",
        "store,date,weekly_sales\n1,2026-11-20,5\n",
        settings={"columns": {"dept": "store"}},
        refused="missing_columns",
        says=("'store' is read as dept",),
    ),
    Case(
        "keys",
        "stores 08 and 8 and 8.0",
        "read as they are, warned about",
        HEAD + "08,a,2026-11-20,5\n8,b,2026-11-20,6\n8.0,c,2026-11-20,7\n",
        sales=[5, 6, 7],
        stores=["08", "8", "8.0"],
        notes=("look like one another", "FORECAST_NORMALISE_KEYS=numbers"),
    ),
    Case(
        "keys",
        'the same with `normalise_keys = ["numbers"]`',
        "one store",
        HEAD + "08,a,2026-11-20,5\n8,b,2026-11-20,6\n8.0,c,2026-11-20,7\n",
        settings={"normalise_keys": ["numbers"]},
        sales=[5, 6, 7],
        stores=["8", "8", "8"],
    ),
    Case(
        "keys",
        "accents of one sign and of two (NFC, NFD), blanks behind",
        "one department",
        HEAD + "1,Ba\u0308cker,2026-11-13,5\n1,B\u00e4cker ,2026-11-20,6\n",
        sales=[5, 6],
        depts=["B\u00e4cker", "B\u00e4cker"],
    ),
    Case(
        "keys",
        "a department called NA",
        "quarantined as missing",
        HEAD + "1,NA,2026-11-20,5\n1,b,2026-11-20,6\n",
        sales=[6],
        rejected=[""],
    ),
    Case(
        "keys",
        "the same with `missing = {dept = []}`",
        "a name, warned about",
        HEAD + "1,NA,2026-11-20,5\n1,b,2026-11-20,6\n",
        settings={"missing": {"dept": []}},
        sales=[5, 6],
        depts=["NA", "b"],
        notes=("'NA' is taken as a name",),
    ),
    Case(
        "totals",
        "a store Total",
        "refused, naming `totals`",
        HEAD + "1,a,2026-11-20,5\n2,a,2026-11-20,6\nTotal,a,2026-11-20,11\n",
        refused="total_rows",
        says=("store 'Total'", "FORECAST_TOTALS=leave_out", "forecast landing accept"),
    ),
    Case(
        "totals",
        'the same with `totals = "leave_out"`',
        "left out, quarantined",
        HEAD + "1,a,2026-11-20,5\n2,a,2026-11-20,6\nTotal,a,2026-11-20,11\n",
        settings={"totals": "leave_out"},
        sales=[5, 6],
        rejected=["store 'Total'"],
    ),
    Case(
        "totals",
        "a store 9999 that is the sum of three others, three weeks long",
        "refused, naming `totals`",
        HEAD
        + "".join(
            f"{s},a,2026-11-{d},{v * k}\n"
            for k, d in ((1, "06"), (2, 13), (3, 20))
            for s, v in (("1", 5), ("2", 6), ("3", 7), ("9999", 18))
        ),
        refused="total_rows",
        says=("store '9999' is the sum of all others", """FORECAST_TOTALS='{"store": ["9999"]}'"""),
    ),
    Case(
        "totals",
        "stores 1 to 4 beside North (1 and 2), ten weeks long",
        "refused, naming North, 1 and 2, and `totals`",
        HEAD + _region(),
        refused="total_rows",
        says=("store 'North' is the sum of '1' and '2'", 'totals = {store = ["North"]}'),
    ),
    Case(
        "totals",
        'the same with `totals = "leave_out"`, which leaves out what is named like a sum',
        "refused, naming North, 1 and 2, and `totals`",
        HEAD + _region(),
        settings={"totals": "leave_out"},
        refused="total_rows",
        says=("store 'North' is the sum of '1' and '2'", 'totals = {store = ["North"]}'),
    ),
    Case(
        "totals",
        'one week of stores 1, 2 and North with `totals = {store = ["North"]}`',
        "left out, quarantined",
        HEAD + "1,a,2026-11-20,5\n2,a,2026-11-20,6\nNorth,a,2026-11-20,11\n",
        settings={"totals": {"store": ["North"]}},
        sales=[5, 6],
        rejected=["store 'North'"],
    ),
    Case(
        "totals",
        "one week with a store 9999 that is the sum of three others to the cent",
        "refused, naming `totals`",
        HEAD + "1,a,2026-11-20,512.34\n2,a,2026-11-20,640.10\n3,a,2026-11-20,77.07\n9999,a,2026-11-20,1229.51\n",
        refused="total_rows",
        says=("store '9999' is the sum of all others",),
    ),
    Case(
        "totals",
        "a store Total whose sales are no sum of other rows",
        "counts, with a note",
        HEAD + "1,a,2026-11-20,5\n2,a,2026-11-20,6\nTotal,a,2026-11-20,17\n",
        sales=[5, 6, 17],
        notes=("store 'Total' is named like a sum",),
    ),
    # --- flags
    Case(
        "flags",
        "a letter in the holiday flag",
        "the sales count, the flag is unknown, with a note",
        "store,dept,date,weekly_sales,is_holiday\n1,a,2026-11-13,5,0\n1,a,2026-11-20,6,a\n",
        sales=[5, 6],
        notes=("is_holiday: 1 value is neither TRUE nor FALSE",),
    ),
    Case("flags", "1.0 and 0.0", "flags", "store,dept,date,weekly_sales,is_holiday\n1,a,2026-11-13,5,1.0\n", sales=[5]),
    # --- spreadsheets and containers
    Case("spreadsheets", "a first line sep=;", "read", "sep=;\n" + HEAD_DE + "1;a;2026-11-20;5\n", sales=[5]),
    Case(
        "spreadsheets",
        "empty fields after the last one, rows of nothing else",
        "read",
        HEAD + "1,a,2026-11-20,5,\n1,b,2026-11-20,6,,,\n,,,\n,,,,,\n",
        sales=[5, 6],
    ),
    Case(
        "spreadsheets",
        "two lines of titles, `skip_rows = 2`",
        "read",
        "Sales report\nof the week\n" + HEAD + "1,a,2026-11-20,5\n",
        settings={"skip_rows": 2},
        sales=[5],
    ),
    Case(
        "spreadsheets",
        "cp1252",
        "refused, naming `encoding`",
        (HEAD + "1,B\u00e4cker,2026-11-20,5\n").encode("cp1252"),
        refused="encoding",
        says=("FORECAST_ENCODING=cp1252", "line 2"),
    ),
    Case(
        "spreadsheets",
        'the same with `encoding = "cp1252"`',
        "read",
        (HEAD + "1,B\u00e4cker,2026-11-20,5\n").encode("cp1252"),
        settings={"encoding": "cp1252"},
        sales=[5],
        depts=["B\u00e4cker"],
    ),
    Case(
        "spreadsheets",
        "UTF-16 with its mark; UTF-8 with one",
        "read",
        (HEAD + "1,\u00e4,2026-11-20,5\n").encode("utf-16"),
        sales=[5],
        depts=["\u00e4"],
    ),
    Case(
        "spreadsheets",
        "tabs, .tsv in capitals",
        "read",
        (HEAD + "1,a,2026-11-20,5\n").replace(",", "\t"),
        name="SALES.TSV",
        sales=[5],
    ),
    Case(
        "spreadsheets",
        "semicolons where commas are expected",
        "refused, naming `delimiter`",
        HEAD_DE + "1;a;2026-11-20;5\n",
        refused="missing_columns",
        says=("FORECAST_DELIMITER",),
    ),
    Case(
        "spreadsheets",
        "an .xlsx with dates and numbers",
        "read",
        xlsx_of(
            [
                ["Store", "Dept", "Date", "Weekly_Sales"],
                [8, "a", dt.date(2026, 11, 20), 1.234],
                ["9", "b", dt.date(2026, 11, 20), -3],
            ]
        ),
        name="Sales.XLSX",
        sales=[1.234, -3],
        stores=["8", "9"],
    ),
    Case(
        "containers",
        "a .zip of one file; .csv.gz",
        "read",
        _zip(week_csv=HEAD + "1,a,2026-11-20,5\n"),
        name="w.zip",
        sales=[5],
    ),
    Case(
        "containers",
        "a .zip of two files",
        "refused",
        _zip(a_csv=HEAD, b_csv=HEAD),
        name="w.zip",
        refused="which_file",
        says=("2 files",),
    ),
    Case(
        "containers",
        "a gzip cut short",
        "refused",
        gzip.compress((HEAD + "1,a,2026-11-20,5\n").encode(), mtime=0)[:-9],
        name="w.csv.gz",
        refused="truncated_gzip",
        says=("land the whole file again",),
    ),
    Case(
        "containers",
        "parquet of integers, decimals, dictionaries and timestamps",
        "read",
        _parquet(
            store=pa.array([8], pa.uint16()),
            dept=pa.array(["a"]).dictionary_encode(),
            date=pa.array([dt.datetime(2026, 11, 20)], pa.timestamp("ns")),
            weekly_sales=pa.array([1], pa.int32()).cast(pa.decimal128(12, 2)),
        ),
        name="w.PARQUET",
        sales=[1],
        stores=["8"],
    ),
    Case(
        "partial files",
        "the last line has no end: 98 of 98765",
        "that row is quarantined",
        HEAD + "1,a,2026-11-13,12345\n1,a,2026-11-20,98",
        sales=[12345],
        rejected=["98"],
    ),
    Case(
        "partial files",
        "no line end, but as many decimals as all others; a whole flag",
        "read",
        HEAD + "1,a,2026-11-13,12345.60\n1,a,2026-11-20,98765.43",
        sales=[12345.6, 98765.43],
    ),
    Case(
        "partial files",
        "no line end, and a decimal less than all others",
        "that row is quarantined",
        HEAD + "1,a,2026-11-13,12345.60\n1,a,2026-11-20,98765.4",
        sales=[12345.6],
        rejected=["98765.4"],
    ),
    Case(
        "containers",
        "weeks as columns",
        "read; an empty cell is unknown",
        "store,dept,2026-11-13,2026-11-20\n1,a,5,6\n1,b,,7\n",
        sales=[5, 6, None, 7],
        weeks=["2026-11-13", "2026-11-20"] * 2,
    ),
    # --- other people's files, by made-up twins
    Case(
        "presets",
        "`--preset walmart`, ISO dates",
        "read",
        "Store,Dept,Date,Weekly_Sales,IsHoliday\n1,1,2010-02-05,24924.5,FALSE\n",
        settings={"preset": "walmart"},
        sales=[24924.5],
    ),
    Case(
        "presets",
        "`--preset walmart`, dd/mm/yyyy",
        "read",
        "Store,Dept,Date,Weekly_Sales,IsHoliday\n1,1,05/02/2010,24924.5,FALSE\n",
        settings={"preset": "walmart"},
        sales=[24924.5],
        weeks=["2010-02-05"],
    ),
    Case(
        "presets",
        "`--preset store_days`: a row a store and day, open and promotion flags",
        "weeks by store",
        "Store,DayOfWeek,Date,Sales,Customers,Open,Promo,StateHoliday,SchoolHoliday\n"
        + "".join(
            f"1,{1 + i % 7},{dt.date(2015, 7, 6) + dt.timedelta(days=i)},{0 if i % 7 == 6 else 100},9,1,0,0,0\n"
            for i in range(21)
        ),
        settings={"preset": "store_days"},
        sales=[600, 600, 600],
        depts=["all"] * 3,
    ),
    Case(
        "presets",
        "`--preset item_days`: a row an item, store and day, units",
        "weeks by item",
        "id,date,store_nbr,item_nbr,unit_sales,onpromotion\n"
        + "".join(f"{i},{dt.date(2013, 1, 7) + dt.timedelta(days=i)},25,103665,7.0,\n" for i in range(21)),
        settings={"preset": "item_days"},
        sales=[49, 49, 49],
        depts=["103665"] * 3,
    ),
    Case(
        "presets",
        "`--preset wide_items`: a row an item, a column a day (d_1, d_2 ...)",
        "weeks by item",
        "id,item_id,dept_id,cat_id,store_id,state_id,"
        + ",".join(f"d_{i}" for i in range(1, 22))
        + "\nA_1,A,FOOD,F,CA_1,CA,"
        + ",".join(["2"] * 21)
        + "\n",
        settings={"preset": "wide_items"},
        sales=[14, 14, 14],
        weeks=["2011-02-04", "2011-02-11", "2011-02-18"],
    ),
]


def table() -> str:
    rows = [f"| {case.kind} | {case.have} | {case.happens} |".replace("\u00e9", "e") for case in CASES]
    return "\n".join(["| kind | what people have | what happens |", "|---|---|---|", *rows])


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{rest.partition(END)[2]}")
