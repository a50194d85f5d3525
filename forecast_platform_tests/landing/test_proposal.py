"""Proposals: settings that read a file as it was meant, or a question; never another table."""

from __future__ import annotations

import datetime as dt
import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast_platform.landing.judgement import Known, judge
from forecast_platform.landing.proposal import Answer, Proposal, propose
from forecast_platform.landing.rules import parse_sales
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEKDAYS
from forecast_platform_tests.landing.field_cases import CASES, HEAD, REGION, days_of, weeks_from, xlsx_of

NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
BY_NAME = {(case.kind, case.have): case for case in CASES}


def look(path: Path, before: Mapping[str, Any] = {}, answers: Mapping[str, Any] = {}) -> Proposal:
    s = Settings(**{**before, **answers})
    return propose(path, path.name, s.contract, NOW, s.first_week, s.limits, s.model_fields_set, answers)


def put(folder: Path, data: str | bytes, name: str = "sales.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(path: Path, chosen: Mapping[str, Any]) -> pa.Table:
    """The rows by these settings, as `forecast import` takes them. Raises FileRefused."""
    s = Settings(**chosen)
    parsed = parse_sales(path, path.name, s.contract, s.calendar, s.calendar.last_started(NOW))
    verdict = judge(parsed, Known(()), path.name, s.contract, s.limits)
    if verdict.refusal:
        raise verdict.refusal
    return parsed.accepted


def asked(proposal: Proposal) -> list[list[dict[str, Any]]]:
    return [[dict(choice.settings) for choice in question.choices] for question in proposal.questions]


def agree(path: Path, answer: Mapping[str, Any] = {}, before: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The settings after all questions, each answered with the choice that agrees with `answer`."""
    answers: dict[str, Any] = {}
    for _ in range(10):
        proposal = look(path, before, answers)
        if not proposal.questions:
            assert proposal.parsed is not None, proposal.refusal
            return {**before, **answers, **proposal.settings}
        for question in proposal.questions:
            found = [c for c in question.choices if fits(c, answer)]
            assert found, (question, answer)
            answers |= found[0].with_text("North" if found[0].free else "")
    raise AssertionError("it asks and asks")


def fits(choice: Answer, answer: Mapping[str, Any]) -> bool:
    return all(name in answer and answer[name] == value for name, value in choice.settings.items())


# --- files as people have them: what is proposed, what is asked, and the figures by it

SILENT = [
    ("numbers", "decimals of three digits: 0.125, 12.345, 1500"),
    ("numbers", "the minus sign U+2212 alone"),
    ("dates", "midnight timestamps"),
    ("dates", "a timestamp with a time zone"),
    ("dates", "weeks before 2010"),
    ("transactions", "one row twice among many"),
    ("keys", "no department column"),
    ("keys", "stores 08 and 8 and 8.0"),
    ("flags", "a letter in the holiday flag"),
    ("flags", "1.0 and 0.0"),
    ("spreadsheets", "a first line sep=;"),
    ("spreadsheets", "empty fields after the last one, rows of nothing else"),
    ("spreadsheets", "UTF-16 with its mark; UTF-8 with one"),
    ("spreadsheets", "tabs, .tsv in capitals"),
    ("spreadsheets", "an .xlsx with dates and numbers"),
    ("containers", "a .zip of one file; .csv.gz"),
    ("containers", "parquet of integers, decimals, dictionaries and timestamps"),
    ("containers", "weeks as columns"),
    ("partial files", "the last line has no end: 98 of 98765"),
]


@pytest.mark.parametrize("name", SILENT, ids=lambda name: f"{name[0]}: {name[1]}")
def test_what_the_settings_read_is_left_alone(name: tuple[str, str], tmp_path: Path) -> None:
    case = BY_NAME[name]
    proposal = look(put(tmp_path, case.bytes, case.name))
    assert (dict(proposal.settings), proposal.questions, proposal.refusal) == ({}, (), None)


# (case, settings before) -> what is proposed at once, what is asked, the answer, the figures.
GUIDED: list[tuple[tuple[str, str], dict[str, Any], dict[str, Any], list[Any], dict[str, Any], list[float | None]]] = [
    (
        ("numbers", "whole euros with thousands points: 1.234"),
        {},
        {"delimiter": ";", "date_format": "%d.%m.%Y"},
        [[{"decimal": "."}, {"decimal": ","}]],
        {"decimal": ","},
        [1234, 1250, 998, 1410],
    ),
    (
        ("numbers", "1.234,56 and 850 in one column"),
        {},
        {"delimiter": ";", "date_format": "%d.%m.%Y", "decimal": ","},
        [],
        {},
        [1234.56, 1234, 850, 12500, 0.5],
    ),
    (("numbers", "groups by commas: 1,234.50"), {}, {"decimal": "."}, [], {}, [1234.5, 2000, 850]),
    (
        ("dates", "`--preset walmart`, but mm/dd/yyyy"),
        {"preset": "walmart"},
        {"date_format": "%m/%d/%Y"},
        [],
        {},
        [1000 + i for i in range(52)],
    ),
    (("dates", "16.10.2026 where ISO dates are expected"), {}, {"date_format": "%d.%m.%Y"}, [], {}, [1, 2, 3]),
    (
        ("dates", "weeks end on Saturday"),
        {},
        {},
        [[{"week_ends": "SAT"}, {"week_label": "start"}]],
        {"week_ends": "SAT"},
        [100, 101, 102],
    ),
    (
        ("dates", 'ISO weeks, `date_format = "%G-W%V"`; 2024 has no week 53'),
        {},
        {"date_format": "%G-W%V", "week_ends": "SUN"},
        [],
        {},
        [5, 6, 7],
    ),
    (("days", "a file of days"), {}, {"aggregate": "sum"}, [], {}, [70, 70, 70]),
    (
        ("transactions", "three sales of 9.99 at one time"),
        {},
        {},
        [[{"aggregate": "sum"}, {"aggregate": "last"}]],
        {"aggregate": "last"},
        [9.99, 7],
    ),
    (
        ("keys", "a further column, channel, splits the rows"),
        {},
        {},
        [[{"aggregate": "sum"}, {"aggregate": "last"}]],
        {"aggregate": "sum"},
        [11],
    ),
    (("keys", "a department column by another name"), {}, {"columns": {"dept": "Warengruppe"}}, [], {}, [5]),
    (("keys", "no store column, one shop"), {}, {}, [[{"store": "{}"}]], {"store": "{}"}, [5]),
    (("totals", "a store Total"), {}, {"totals": "leave_out"}, [], {}, [5, 6]),
    (
        ("totals", "a store 9999 that is the sum of three others, three weeks long"),
        {},
        {},
        [[{"totals": {"store": ["9999"]}}, {"totals": "keep"}]],
        {"totals": {"store": ["9999"]}},
        [5, 6, 7, 10, 12, 14, 15, 18, 21],
    ),
    (
        ("totals", "stores 1 to 4 beside North (1 and 2), ten weeks long"),
        {},
        {},
        [[{"totals": {"store": ["North"]}}, {"totals": "keep"}]],
        {"totals": {"store": ["North"]}},
        [float(sales) for week in REGION for sales in week],
    ),
    (("spreadsheets", "two lines of titles, `skip_rows = 2`"), {}, {"skip_rows": 2}, [], {}, [5]),
    (("spreadsheets", "cp1252"), {}, {"encoding": "cp1252"}, [], {}, [5]),
    (("spreadsheets", "semicolons where commas are expected"), {}, {"delimiter": ";"}, [], {}, [5]),
]


@pytest.mark.parametrize(
    ("name", "before", "proposed", "questions", "answer", "sales"), GUIDED, ids=[f"{n[0]}: {n[1]}" for n, *_ in GUIDED]
)
def test_a_file_as_people_have_it(
    name: tuple[str, str],
    before: dict[str, Any],
    proposed: dict[str, Any],
    questions: list[Any],
    answer: dict[str, Any],
    sales: list[float | None],
    tmp_path: Path,
) -> None:
    case = BY_NAME[name]
    path = put(tmp_path, case.bytes, case.name)
    proposal = look(path, before)
    assert proposal.refusal is not None
    assert dict(proposal.settings) == proposed
    assert asked(proposal) == questions
    assert read(path, agree(path, answer, before))["sales"].to_pylist() == pytest.approx(sales)


def test_signs_and_markers_are_asked_about(tmp_path: Path) -> None:
    path = put(tmp_path, BY_NAME["numbers", "minus behind, currency, NBSP, parentheses, U+2212, markers"].bytes)
    proposal = look(path)
    assert dict(proposal.settings) == {"currency": "$", "accounting": True, "decimal": "."}
    (missing,) = asked(proposal)
    markers = ("NA", "NaN", "NULL", "null", "#N/A")
    assert missing == [{"missing": {"weekly_sales": (*markers, "-")}}, {"missing": {"weekly_sales": markers}}]
    rows = read(path, agree(path, missing[0]))
    assert rows["sales"].to_pylist() == pytest.approx([-100, 1234.5, 1234.5, -55.1, -5, None, None])


@pytest.mark.parametrize(
    "name",
    [
        ("containers", "a .zip of two files"),
        ("containers", "a gzip cut short"),
        ("keys", 'a column mapped away: `columns = {dept = "store"}`'),
    ],
    ids=str,
)
def test_what_no_settings_read_stays_refused(name: tuple[str, str], tmp_path: Path) -> None:
    case = BY_NAME[name]
    proposal = look(put(tmp_path, case.bytes, case.name), case.settings)
    assert proposal.refusal is not None
    assert not proposal.helps or name[0] == "keys"


# --- other cases of the same kinds

GERMAN = "Umsätze je Filiale\nStand: 20.11.2026; ohne Gewähr\n\nFiliale;Warengruppe;Woche bis;Umsatz (EUR)\n"


def test_a_german_export_with_titles_in_an_old_encoding(tmp_path: Path) -> None:
    rows = "".join(f"Köln;Käse;{16 + 7 * i if i < 3 else 6:02d}.1{i // 3}.2026;1.{i}00,50 €\n" for i in range(3))
    path = put(tmp_path, (GERMAN + rows).encode("cp1252"))
    chosen = agree(path)
    assert chosen == {
        "encoding": "cp1252",
        "delimiter": ";",
        "skip_rows": 3,
        "columns": {"store": "Filiale", "dept": "Warengruppe", "date": "Woche bis", "weekly_sales": "Umsatz (EUR)"},
        "date_format": "%d.%m.%Y",
        "currency": "€",
        "decimal": ",",
    }
    rows = read(path, chosen)
    assert rows["sales"].to_pylist() == [1000.5, 1100.5, 1200.5]
    assert rows["store"].to_pylist() == ["Köln"] * 3


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Magasin|Rayon|Semaine|Ventes", {"store": 0, "dept": 1, "date": 2, "weekly_sales": 3}),
        ("Fecha|Tienda|Categoría|Importe", {"date": 0, "store": 1, "dept": 2, "weekly_sales": 3}),
        ("매장|부서|주|매출", {"store": 0, "dept": 1, "date": 2, "weekly_sales": 3}),
        ("Vendite|Reparto|Negozio|Settimana", {"weekly_sales": 0, "dept": 1, "store": 2, "date": 3}),
        ("Sklep|Kategoria|Tydzień|Sprzedaż", {"store": 0, "dept": 1, "date": 2, "weekly_sales": 3}),
        ("Store ID|Item|Week ending|Net sales", {"store": 0, "dept": 1, "date": 2, "weekly_sales": 3}),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_in_other_languages_and_orders(
    header: str, columns: dict[str, int], delimiter: str, tmp_path: Path
) -> None:
    names = header.split("|")
    cells = {"store": "North", "dept": "Bread", "weekly_sales": "10.5"}
    rows = [
        delimiter.join(
            (cells | {"date": f"2026-10-{day:02d}"})[next(r for r, i in columns.items() if i == at)] for at in range(4)
        )
        for day in (2, 9, 16, 23)
    ]
    path = put(tmp_path, "\n".join([delimiter.join(names), *rows, ""]))
    chosen = agree(path)
    assert chosen["columns"] == {role: names[at] for role, at in columns.items()}
    assert read(path, chosen)["sales"].to_pylist() == [10.5] * 4


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        (HEAD + "1,a,02/10/2026,5\n1,a,09/10/2026,6\n", ["%d/%m/%Y", "%m/%d/%Y"]),
        (HEAD + "1,a,05/05/2026,5\n", ["%d/%m/%Y", "%m/%d/%Y"]),
        (HEAD + "1,a,01-02-2026,5\n1,a,01-03-2026,5\n1,a,01-04-2026,5\n1,a,01-05-2026,5\n", ["%d-%m-%Y", "%m-%d-%Y"]),
        (HEAD + "1,a,13.11.26,5\n1,a,20.11.26,5\n", ["%d.%m.%y", "%y.%m.%d"]),
        (HEAD + "1,a,202401,5\n1,a,202402,5\n", ["%G%V"]),
    ],
)
def test_the_order_of_day_and_month_is_asked(text: str, choices: list[str], tmp_path: Path) -> None:
    (question,) = asked(look(put(tmp_path, text)))
    assert sorted(choice["date_format"] for choice in question) == sorted(choices)


def test_dates_of_spreadsheets_half_of_which_were_swapped_are_asked_about(tmp_path: Path) -> None:
    rows = [[1, "a", dt.date(2026, 10, 2), 5], [1, "a", "16/10/2026", 6], [1, "a", "23/10/2026", 7]]
    path = put(tmp_path, xlsx_of([["store", "dept", "date", "weekly_sales"], *rows]), "sales.xlsx")
    (question,) = asked(look(path))
    assert all("|" in choice["date_format"] for choice in question)


@pytest.mark.parametrize(
    ("header", "row", "among"),
    [
        ("store,dept,date,Umsatz,Menge", "1,a,2026-11-20,5,3", ["Umsatz", "Menge"]),
        ("store,dept,date,Sales,Sales last year", "1,a,2026-11-20,5,3", ["Sales", "Sales last year"]),
        ("store,dept,date,Netto,Brutto", "1,a,2026-11-20,5,3", ["Netto", "Brutto"]),
        # Pieces beside what they cost: added up they would be no money, and prices are no sales.
        ("store,dept,date,quantity,total", "1,a,2026-11-20,5,3", ["quantity", "total"]),
        ("store,dept,date,Stück,Einzelpreis", "1,a,2026-11-20,5,3", ["Stück", "Einzelpreis"]),
        ("store,dept,date,판매량,금액", "1,a,2026-11-20,5,3", ["판매량", "금액"]),
        ("store,dept,date,qty,paid", "1,a,2026-11-20,2,3.00", ["qty", "paid"]),
    ],
)
def test_which_of_two_columns_is_sales_is_asked(header: str, row: str, among: list[str], tmp_path: Path) -> None:
    path = put(tmp_path, f"{header}\n{row}\n")
    (question,) = asked(look(path))
    assert [choice["columns"]["weekly_sales"] for choice in question] == among
    chosen = agree(path, {"columns": {"weekly_sales": among[1]}})
    assert read(path, chosen)["sales"].to_pylist() == [3]


def test_pieces_beside_no_figure_of_money_are_sales(tmp_path: Path) -> None:
    path = put(tmp_path, "store,dept,date,receipt,units\n1,a,2026-11-20,77,5\n")
    assert read(path, agree(path))["sales"].to_pylist() == [5]


def test_sales_that_look_like_dates_are_sales(tmp_path: Path) -> None:
    path = put(tmp_path, "Filiale;Sparte;Woche;Umsatz\n1;a;13.11.2026;12102024\n1;a;20.11.2026;202415\n")
    assert read(path, agree(path))["sales"].to_pylist() == [12102024, 202415]


def test_the_columns_found_go_with_an_answer(tmp_path: Path) -> None:
    path = put(tmp_path, "Sparte,Woche,Umsatz\na,2026-11-20,5\n")
    ((one,),) = asked(look(path))
    found = {"date": "Woche", "weekly_sales": "Umsatz", "dept": "Sparte"}
    assert one == {"columns": found, "store": "{}"}


def test_two_columns_of_dates_are_asked_about(tmp_path: Path) -> None:
    path = put(tmp_path, "store,dept,ordered,delivered,sales\n1,a,2026-11-13,2026-11-20,5\n")
    (question,) = asked(look(path))
    assert [choice["columns"]["date"] for choice in question] == ["ordered", "delivered"]


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("Week ending", {"week_ends": "SUN"}), ("Week commencing", {"week_ends": "SAT", "week_label": "start"})],
)
def test_a_name_says_which_day_of_the_week_a_date_is(name: str, chosen: dict[str, str], tmp_path: Path) -> None:
    path = put(tmp_path, f"store,dept,{name},weekly_sales\n" + weeks_from("2026-10-18", [1, 2, 3]))
    assert agree(path) == {"columns": {"date": name}} | chosen


def test_days_that_fit_no_week_ask_for_its_last_day(tmp_path: Path) -> None:
    path = put(tmp_path, HEAD + days_of("2026-11-02", 19))  # Monday to Friday, two weeks and a half
    proposal = look(path)
    assert dict(proposal.settings) == {"aggregate": "sum"}
    (question,) = asked(proposal)
    assert {"week_ends": "FRI"} in question
    assert {"week_ends": "SUN"} in question
    assert read(path, agree(path, {"week_ends": "SUN"}))["sales"].to_pylist() == [70, 70]


def test_days_twice_are_not_added_up_unasked(tmp_path: Path) -> None:
    path = put(tmp_path, HEAD + days_of("2026-10-31", 21) + days_of("2026-10-31", 21))
    assert asked(look(path)) == [[{"aggregate": "sum"}]]


def test_a_week_without_a_row_is_asked_about(tmp_path: Path) -> None:
    rows = weeks_from("2026-10-02", [1, 2, 3, 4]) + "1,b,2026-10-02,5\n1,b,2026-10-23,6\n"
    path = put(tmp_path, (HEAD + rows).replace(",", ";"))
    (question,) = asked(look(path))
    assert [choice["no_row"] for choice in question] == ["zero", "unknown", "auto"]
    assert agree(path, {"no_row": "zero"}) == {"delimiter": ";", "no_row": "zero"}
    assert not look(path, {"no_row": "auto"}).questions, "it is said already"


def test_numbered_days_as_columns_ask_for_the_first(tmp_path: Path) -> None:
    header = "Filiale;Artikel;" + ";".join(f"T{i}" for i in range(1, 15))
    path = put(tmp_path, f"{header}\n1;a;" + ";".join(["2"] * 14) + "\n")
    assert asked(look(path)) == [[{"date_format": "T%n from {}"}]]
    chosen = look(path, {}, {"date_format": "T%n from 2026-10-31"})
    assert chosen.settings["aggregate"] == "sum"
    assert chosen.parsed is not None
    assert chosen.parsed.accepted["sales"].to_pylist() == [14, 14]


def test_weeks_as_columns_in_another_way_of_writing(tmp_path: Path) -> None:
    path = put(tmp_path, "Filiale;Warengruppe;16.10.2026;23.10.2026\nKöln;Brot;1,5;2,5\n")
    chosen = agree(path)
    assert read(path, chosen)["sales"].to_pylist() == [1.5, 2.5]
    assert chosen["date_format"] == "%d.%m.%Y"


def test_transactions_with_times_of_day(tmp_path: Path) -> None:
    rows = "".join(
        f"1;a;{day:%d.%m.%Y} {hour:02d}:15;2,50\n"
        for day in (dt.date(2026, 10, 31) + dt.timedelta(days=i) for i in range(14))
        for hour in (9, 17)
    )
    path = put(tmp_path, "Filiale;Artikel;Datum;Betrag\n" + rows)
    chosen = agree(path)
    assert chosen["aggregate"] == "sum"
    assert read(path, chosen)["sales"].to_pylist() == [35, 35]


def test_moments_with_a_zone_ask_where_the_stores_are(tmp_path: Path) -> None:
    path = put(tmp_path, HEAD + "1,a,2026-11-12T23:00:00Z,5\n1,a,2026-11-19T23:00:00Z,6\n")
    (question,) = asked(look(path))
    assert {"time_zone": "{}"} in question
    berlin = look(path, {}, {"time_zone": "Europe/Berlin"})
    assert berlin.parsed is not None
    assert [str(week) for week in berlin.parsed.accepted["week"].to_pylist()] == ["2026-11-13", "2026-11-20"]


def test_a_workbook_with_titles_and_other_names(tmp_path: Path) -> None:
    rows: list[list[Any]] = [["Umsatz je Woche"], [], ["Filiale", "Sparte", "Woche", "Umsatz"]]
    rows += [["Nord", "Brot", dt.date(2026, 11, 13 + 7 * i), 10.5 + i] for i in range(2)]
    path = put(tmp_path, xlsx_of(rows), "umsatz.xlsx")
    chosen = agree(path)
    assert chosen["skip_rows"] == 2
    assert read(path, chosen)["sales"].to_pylist() == [10.5, 11.5]


def test_parquet_with_other_names(tmp_path: Path) -> None:
    table = pa.table({"branch": [1], "sku": ["x"], "ds": [dt.date(2026, 11, 20)], "revenue": [7.5]})
    pq.write_table(table, tmp_path / "sales.parquet")
    path = tmp_path / "sales.parquet"
    assert read(path, agree(path))["sales"].to_pylist() == [7.5]


@pytest.mark.parametrize(
    "dates",
    [
        ["15. September 2026", "16. Oktober 2026", "20. November 2026"],  # strptime knows English names
        ["46000", "46007"],  # of a spreadsheet
        ["11/13/2026 12:00:00 AM", "11/20/2026 12:00:00 AM"],
    ],
)
def test_dates_in_no_known_format_are_not_read_in_part(dates: list[str], tmp_path: Path) -> None:
    path = put(tmp_path, "store;dept;date;weekly_sales\n" + "".join(f"1;a;{day};5\n" for day in dates))
    assert not look(path).helps


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("Filiale;Datum;Umsatz\n\n1;1. März 2026;5", r"'Datum' holds '1\. März 2026' in line 3\..* in English only"),
        ("store,date,sales\n1,2026-11-20,5\n1,11/27/2026 9:30 AM,5", r"'11/27/2026 9:30 AM' \(line 3\)\..*without AM"),
        ("store,dept,year,week,sales\n1,1,2026,47,5", r"'week' holds '47' in line 2\..*weeks as 2026-W47"),
    ],
)
def test_dates_that_no_settings_read_are_named_by_line_and_how_to_write_them(
    rows: str, said: str, tmp_path: Path
) -> None:
    proposal = look(put(tmp_path, rows + "\n"))
    assert not proposal.helps
    assert re.search(said, str(proposal.refusal))
    assert "sales.csv" in str(proposal.refusal)


def test_an_old_korean_encoding_gives_its_words_or_a_question(tmp_path: Path) -> None:
    path = put(tmp_path, "매장,부서,주,매출\n강남,빵,2026-11-20,5\n".encode("cp949"))
    proposal = look(path)
    meant = proposal.settings.get("encoding") or [choice["encoding"] for choice in asked(proposal)[0]]
    assert "cp949" in meant
    assert read(path, agree(path, {"encoding": "cp949"}))["store"].to_pylist() == ["강남"]


@pytest.mark.parametrize(
    "text",
    [
        "store;Warengruppe;13.11.2026;20.11.2026\n1;a;5;6\n",
        "Warengruppe;Ventes;St\u00fcck;date;store\na;5;6;2026-11-20;1\n",
        "store;date;Netto\n1;2026-11-20;5\n",
    ],
)
def test_what_may_be_sales_is_not_taken_for_others(text: str, tmp_path: Path) -> None:
    proposal = look(put(tmp_path, text))
    assert proposal.kind == "sales" or not proposal.helps


def test_stores_in_another_dialect_are_taken_for_stores(tmp_path: Path) -> None:
    proposal = look(put(tmp_path, "store;region\n1;Nord\n2;Süd\n", "stores.csv"))
    assert (proposal.kind, dict(proposal.settings)) == ("stores", {"delimiter": ";"})


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    proposal = look(put(tmp_path, weeks_from("2026-10-02", [1, 2, 3]).replace(",", ";")))
    assert not proposal.helps
    assert proposal.refusal is not None
    assert proposal.refusal.rule == "no_header"


def test_months_are_no_weeks(tmp_path: Path) -> None:
    rows = "".join(f"1;a;01.{month:02d}.2026;5\n" for month in range(1, 11))
    proposal = look(put(tmp_path, HEAD.replace(",", ";") + rows), {}, {"date_format": "%d.%m.%Y"})
    assert not proposal.helps


def test_the_beginning_of_a_large_file_is_looked_at(tmp_path: Path) -> None:
    rows = "".join(f"{store};a;{day:02d}.10.2026;1,5\n" for store in range(60_000) for day in (9, 16, 23, 30))
    path = put(tmp_path, gzip.compress((HEAD.replace(",", ";") + rows).encode(), 1), "sales.csv.gz")
    proposal = look(path)
    assert dict(proposal.settings) == {"delimiter": ";", "date_format": "%d.%m.%Y", "decimal": ","}
    assert not proposal.whole


def test_a_home_with_sales_keeps_its_way_of_reading(tmp_path: Path) -> None:
    now = Settings().contract
    other = look(put(tmp_path, (HEAD + weeks_from("2026-10-02", [1])).replace(",", ";"))).beside_others(now)
    assert not other.helps
    assert other.refusal is not None
    assert "delimiter" in other.refusal.message
    more = look(put(tmp_path, "Filiale,dept,date,weekly_sales\n1,a,2026-11-20,5\n")).beside_others(now)
    assert dict(more.settings) == {"columns": {"store": "Filiale"}}
    dates = put(tmp_path, HEAD + weeks_from("2026-10-16", [1, 2, 3], "%m/%d/%Y"))
    assert dict(look(dates).beside_others(now).settings) == {"date_format": "%Y-%m-%d|%m/%d/%Y"}
    british = {"date_format": "%d/%m/%Y"}
    confused = look(dates, british).beside_others(Settings(**british).contract)
    assert not confused.helps, "days and months of files to come would be swapped"


# --- a tidy table in any dialect comes back as it was, or there is a question

WORDS = {
    "store": ["store", "Filiale", "Magasin", "tienda", "Shop"],
    "dept": ["dept", "Warengruppe", "Rayon", "Category"],
    "date": ["date", "Woche", "Semaine", "week ending", "fecha"],
    "weekly_sales": ["weekly_sales", "Umsatz", "Ventes", "revenue"],
}
FORMS = ["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%m-%d-%Y", "%Y%m%d", "%d.%m.%y", "%m/%d/%y", "%d-%b-%Y"]


def number(cents: int, decimal: str, thousands: str, places: int) -> str:
    """A number of so many hundredths (places 2), thousandths (3) or whole ones (0)."""
    whole, part = divmod(abs(cents), 10**places)
    text = f"{whole:,}".replace(",", thousands) + (f"{decimal}{part:0{places}d}" if places else "")
    return f"-{text}" if cents < 0 else text


Written = tuple[bytes, dict[tuple[str, str, dt.date], float], dict[str, str]]


@st.composite
def written_tables(draw: st.DrawFn) -> Written:
    """A file, what it means, and the answers that say so."""
    decimal, thousands = draw(st.sampled_from([(".", ""), (".", ","), (",", ""), (",", "."), (",", " "), (".", "'")]))
    delimiter = draw(st.sampled_from([";", "\t", "|", ","]))
    form = draw(st.sampled_from(FORMS))
    places = draw(st.sampled_from([0, 2, 3]))
    first = draw(st.dates(dt.date(2024, 1, 1), dt.date(2026, 5, 1)))
    first += dt.timedelta(days=(draw(st.sampled_from([4, 4, 5, 6])) - first.weekday()) % 7)
    weeks = [first + dt.timedelta(days=7 * i) for i in range(draw(st.integers(1, 6)))]
    stores = draw(st.lists(st.sampled_from(["1", "2", "Köln", "B 7"]), min_size=1, max_size=3, unique=True))
    depts = draw(st.lists(st.sampled_from(["Brot", "Käse", "12"]), min_size=1, max_size=2, unique=True))
    order = draw(st.permutations(list(WORDS)))
    header = [draw(st.sampled_from(WORDS[role])) for role in order]
    lines, truth = [header], {}
    for store in stores:
        for dept in depts:
            for week in weeks:
                cents = draw(st.integers(-3_000_000, 30_000_000))
                truth[store, dept, week] = cents / 10**places
                cells = {"store": store, "dept": dept, "date": week.strftime(form)}
                cells["weekly_sales"] = number(cents, decimal, thousands, places)
                lines.append([cells[role] for role in order])
    quoted = [[f'"{cell}"' if delimiter in cell else cell for cell in line] for line in lines]
    titles = draw(st.sampled_from(["", "Report\n", "Umsatz, gesamt\nStand heute\n\n"]))
    text = titles + "".join(delimiter.join(line) + "\n" for line in quoted)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]))
    meant = {"decimal": decimal, "date_format": form, "week_ends": WEEKDAYS[first.weekday()]}
    return text.encode(encoding), truth, meant


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written_tables())
def test_the_same_table_or_a_question(tmp_path: Path, written: Written) -> None:
    data, truth, meant = written
    path = put(tmp_path, data)
    proposal = look(path)
    if not proposal.questions:
        assert table(read(path, proposal.settings)) == pytest.approx(truth)
    assert table(read(path, agree(path, meant))) == pytest.approx(truth), "the right answers give it"


_CELLS = st.sampled_from(
    [
        "",
        "1",
        "1.234",
        "1,5",
        "(3)",
        "-",
        "a",
        "ä",
        "%d",
        "x:y",
        '"',
        "d_1",
        "−",
        "€",
        "\x00",
        "#N/A",
        "Total",
        "Umsatz",
        "store",
        "date",
        "Filiale",
        "2026-11-20",
        "20.11.2026",
        "11/20/26",
        "2026-W12",
        "202612",
        "2026-11-20T01:02:03Z",
    ]
)


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.lists(_CELLS, max_size=6), max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "cp1252", "utf-16-le", "utf-8-sig"]),
    st.sampled_from([".csv", ".tsv", ".txt", ".xlsx", ".parquet", ".csv.gz"]),
)
def test_whatever_lies_there_is_refused_politely(
    tmp_path: Path, rows: list[list[str]], delimiter: str, encoding: str, end: str
) -> None:
    text = "\n".join(delimiter.join(row) for row in rows)
    proposal = look(put(tmp_path, text.encode(encoding, "replace"), f"sales{end}"))
    assert proposal.refusal is not None or proposal.parsed is not None


def table(rows: pa.Table) -> dict[tuple[str, str, dt.date], float]:
    columns: Sequence[list[Any]] = [rows[name].to_pylist() for name in ("store", "dept", "week", "sales")]
    return {(store, dept, week): sales for store, dept, week, sales in zip(*columns, strict=True)}
