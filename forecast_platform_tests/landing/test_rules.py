"""One test per rule of the landing contract, by its public name."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import pickle
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.kinds import (
    CALENDAR_SCHEMA,
    DEPARTMENTS_SCHEMA,
    FEATURES_SCHEMA,
    REJECTED_SCHEMA,
    SALES_SCHEMA,
    STORES_SCHEMA,
    FileRefused,
    Parsed,
)
from forecast_platform.landing.rules import (
    kind_of,
    parse_calendar,
    parse_departments,
    parse_features,
    parse_sales,
    parse_stores,
    weeks_in,
)
from forecast_platform.weeks import WeekCalendar

CANONICAL = Dialect.named("canonical")
CALENDAR = WeekCalendar()
NEWEST = dt.date(2012, 10, 26)
HEADER = "store,dept,date,weekly_sales,is_holiday\n"
GOOD = "1,1,2012-10-26,10.5,FALSE\n"
# A row that is wrong among many is a bad row; where many are, the file is judged (test_judgement.py).
MANY = "".join(f"9,{dept},2012-10-26,{dept}.5,FALSE\n" for dept in range(40))


def sales(text: str | bytes, key: str = "sales/a.csv", contract: Dialect = CANONICAL) -> Parsed:
    data = text.encode() if isinstance(text, str) else text
    parsed = parse_sales(data, key, contract, CALENDAR, NEWEST)
    assert parsed.rows == parsed.accepted_rows + len(parsed.rejected)
    assert parsed.accepted_rows == len(parsed.accepted)
    assert parsed.accepted.schema == SALES_SCHEMA
    assert parsed.rejected.schema == REJECTED_SCHEMA
    return parsed


def refused(call, rule: str, *words: str) -> None:
    with pytest.raises(FileRefused) as caught:
        call()
    assert caught.value.rule == rule
    for word in words:
        assert word in caught.value.message


def parquet(**columns: object) -> bytes:
    return parquet_of(pa.table({name: pa.array(values) for name, values in columns.items()}))


def parquet_of(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("row", "rule", "column", "value", "words"),
    [
        ("1,2,2012-10-26,1", "wrong_column_count", "", "4", "4 fields where the header has 5"),
        ("1,2,2012-10-26,1,TRUE,x", "wrong_column_count", "", "6", "quote fields"),
        (" ,2,2012-10-26,1,", "missing_store", "store", "", "every row needs one"),
        ("NA,2,2012-10-26,1,", "missing_store", "store", "", "store"),
        ("1,,2012-10-26,1,", "missing_dept", "dept", "", "dept"),
        ("1,2,NULL,1,", "missing_date", "date", "", "date"),
        ("1,2,26/10/2012,1,", "bad_date", "date", "26/10/2012", "FORECAST_DATE_FORMAT"),
        ("1,2,2012-02-30,1,", "bad_date", "date", "2012-02-30", "2012-10-26 (%Y-%m-%d)"),
        ("1,2,0001-01-01,1,", "bad_date", "date", "0001-01-01", "not a date"),
        ("1,2,41208,1,", "bad_date", "date", "41208", "not a date"),
        ("1,2,2012-10-26x,1,", "bad_date", "date", "2012-10-26x", "not a date"),
        ("1,2,٢٠١٢-10-26,1,", "bad_date", "date", "٢٠١٢-10-26", "not a date"),
        (
            "1,2,2012-10-25,1,",
            "wrong_weekday",
            "date",
            "2012-10-25",
            "2012-10-25 is a Thursday; weeks end on Friday and the one holding it ends on 2012-10-26",
        ),
        ("1,2,2012-10-25,1,", "wrong_weekday", "date", "2012-10-25", "FORECAST_WEEK_ENDS"),
        ("1,2,1979-12-28,1,", "week_before_first", "date", "1979-12-28", "before 1980-01-04"),
        ("1,2,2012-11-02,1,", "week_in_future", "date", "2012-11-02", "after 2012-10-26"),
        ("1,2,2012-10-26,abc,", "not_a_number", "weekly_sales", "abc", "number such as -1234.56"),
        ("1,2,2012-10-26,$5,", "not_a_number", "weekly_sales", "$5", "FORECAST_CURRENCY"),
        ('1,2,2012-10-26,"1,234.50",', "not_a_number", "weekly_sales", "1,234.50", "FORECAST_THOUSANDS"),
        ('1,2,2012-10-26,"24924,5",', "not_a_number", "weekly_sales", "24924,5", "FORECAST_DECIMAL"),
        ("1,2,2012-10-26,inf,", "not_a_number", "weekly_sales", "inf", "FORECAST_MISSING"),
        ("1,2,2012-10-26,0x10,", "not_a_number", "weekly_sales", "0x10", "not a number"),
        ("1,2,2012-10-26,1 000,", "not_a_number", "weekly_sales", "1 000", "not a number"),
        ("1,2,2012-10-26,1e13,", "out_of_range", "weekly_sales", "1e13", "1e+12"),
        ("1,2,2012-10-26,-1e999,", "out_of_range", "weekly_sales", "-1e999", "1e+12"),
        ("1,1,2012-10-26,10.50,false", "duplicate_row", "", "line 2", "exact copy of line 2"),
    ],
)
def test_a_bad_row_is_rejected_by_its_rule(row: str, rule: str, column: str, value: str, words: str) -> None:
    parsed = sales(HEADER + GOOD + row + "\n" + MANY)
    (rejected,) = parsed.rejected.to_pylist()
    assert (rejected["line"], rejected["rule"], rejected["column"], rejected["value"]) == (3, rule, column, value)
    assert words in rejected["message"]
    assert rejected["record"] == row
    assert parsed.accepted["line"].to_pylist() == [2, *range(4, 44)]


def test_rows_of_the_same_key_with_other_values_are_all_rejected() -> None:
    parsed = sales(HEADER + GOOD + "1,1,2012-10-26,10.5,TRUE\n1,2,2012-10-26,1,\n" + GOOD)
    found = parsed.rejected.select(["line", "rule", "value"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        (2, "conflicting_duplicate", "line 3"),
        (3, "conflicting_duplicate", "line 2"),
        (5, "conflicting_duplicate", "line 2"),
    ]
    assert parsed.accepted["line"].to_pylist() == [4]


def test_of_identical_rows_the_first_is_kept() -> None:
    parsed = sales(HEADER + GOOD * 3 + "1,2,2012-10-26,NA,\n1,2,2012-10-26,,\n1,3,2012-10-26,-0,\n1,3,2012-10-26,0,\n")
    assert parsed.accepted["line"].to_pylist() == [2, 5, 7]
    assert parsed.rejected["line"].to_pylist() == [3, 4, 6, 8]
    assert set(parsed.rejected["rule"].to_pylist()) == {"duplicate_row"}


def test_a_missing_value_conflicts_with_a_reported_one() -> None:
    parsed = sales(HEADER + GOOD + "1,1,2012-10-26,,FALSE\n")
    assert parsed.rejected["rule"].to_pylist() == ["conflicting_duplicate"] * 2


def test_a_rejected_row_is_no_duplicate() -> None:
    parsed = sales(HEADER + GOOD + "1,1,2012-10-26,abc,FALSE\n")
    assert parsed.rejected["rule"].to_pylist() == ["not_a_number"]
    assert parsed.accepted_rows == 1


def test_the_first_rule_broken_is_the_one_named() -> None:
    parsed = sales(
        HEADER + ",,bad,x,z\n1,,bad,x,z\n1,1,bad,x,z\n1,1,2012-10-25,x,z\n1,1,2012-10-26,x,z\n1,1,2012-10-26,1e13,z\n"
    )
    assert parsed.rejected["rule"].to_pylist() == [
        "missing_store",
        "missing_dept",
        "bad_date",
        "wrong_weekday",
        "not_a_number",
        "out_of_range",
    ]


def test_a_bad_optional_flag_costs_no_sales() -> None:
    parsed = sales(HEADER + "1,1,2012-10-19,5,a\n1,1,2012-10-26,6,1.0\n1,2,2012-10-26,7,0.0\n1,3,2012-10-26,8,b\n")
    assert parsed.accepted["sales"].to_pylist() == [5, 6, 7, 8]
    assert parsed.accepted["is_holiday"].to_pylist() == [None, True, False, None]
    assert parsed.notes == (
        "is_holiday: 2 values are neither TRUE nor FALSE (first 'a' in line 2) and read as unknown; "
        "the sales of these rows count",
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-12.5", -12.5),
        ("+3", 3.0),
        (".5", 0.5),
        ("7.", 7.0),
        ("1e3", 1000.0),
        (" 4 ", 4.0),
        ("1e12", 1e12),
        ("", None),
        ("NA", None),
        ("NaN", None),
        ("NULL", None),
        ("null", None),
        ("0", 0.0),
    ],
)
def test_numbers_that_are_accepted(text: str, value: float | None) -> None:
    assert sales(f"{HEADER}1,1,2012-10-26,{text},\n").accepted["sales"].to_pylist() == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("TRUE", True),
        ("true", True),
        ("1", True),
        ("yes", True),
        ("FALSE", False),
        ("f", False),
        ("0", False),
        ("", None),
        ("NA", None),
    ],
)
def test_booleans_that_are_accepted(text: str, value: bool | None) -> None:
    assert sales(f"{HEADER}1,1,2012-10-26,1,{text}\n").accepted["is_holiday"].to_pylist() == [value]


def test_no_holiday_column_reads_as_null() -> None:
    accepted = sales("store,dept,date,weekly_sales\n007, a b ,2012-10-26,1\n").accepted
    assert accepted.to_pylist() == [
        {"line": 2, "store": "007", "dept": "a b", "week": dt.date(2012, 10, 26), "sales": 1.0, "is_holiday": None}
    ]


# --- files that can't be read


@pytest.mark.parametrize(
    ("data", "key", "rule", "words"),
    [
        (b"", "a.csv", "empty_file", "a.csv"),
        (b"\xef\xbb\xbf\n \n", "a.csv", "empty_file", "empty"),
        (b"", "a.csv.gz", "empty_file", "empty"),
        (gzip.compress(b"", mtime=0), "a.csv.gz", "empty_file", "empty"),
        (b"", "a.parquet", "empty_file", "empty"),
        (HEADER.encode(), "a.csv", "no_rows", "no rows"),
        (b"\n" + HEADER.encode() + b"\n\n", "a.csv", "no_rows", "no rows"),
        (gzip.compress(HEADER.encode() * 50, mtime=0)[:-9], "a.csv.gz", "truncated_gzip", "bytes arrived"),
        (HEADER.encode(), "a.csv.gz", "not_gzip", "drop the .gz"),
        (HEADER.encode() + b"1,1,2012-10-26,1,\n1,K\xe4se,2012-10-26,1,\n", "a.csv", "encoding", "line 3, byte 61"),
        (HEADER.encode() + b"1,K\xe4se,2012-10-26,1,\n", "a.csv", "encoding", "Save it as UTF-8"),
        (gzip.compress(HEADER.encode(), mtime=0), "a.csv", "encoding", "name it .gz"),
        (b"PK\x03\x04", "a.xlsx", "unreadable", "damaged"),
        (b"x", "a.ods", "unknown_format", ".csv, .tsv, .txt"),
        (b"store,dept,date,umsatz\n1,1,2012-10-26,1\n", "a.csv", "missing_columns", "lacks the column weekly_sales"),
        (b"store,dept,date,umsatz\n1,1,2012-10-26,1\n", "a.csv", "missing_columns", "store, dept, date, umsatz"),
        (b"store,dept,date,umsatz\n1,1,2012-10-26,1\n", "a.csv", "missing_columns", '{"weekly_sales": "umsatz"}'),
        (b"store;dept;date;weekly_sales\n1;1;2012-10-26;1\n", "a.csv", "missing_columns", "FORECAST_DELIMITER"),
        (b"store,Store,dept,date,weekly_sales\n1,1,1,2012-10-26,1\n", "a.csv", "duplicate_columns", "store"),
        (b"PAR1 nonsense PAR1", "a.parquet", "unreadable", "damaged"),
        (HEADER.encode() + b'1,1,2012-10-26,1,"' + b"x" * 200_000, "a.csv", "unreadable", "quote left open"),
        (gzip.compress(HEADER.encode(), mtime=0)[:-8] + b"\0" * 8, "a.csv.gz", "unreadable", "damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_its_rule(data: bytes, key: str, rule: str, words: str) -> None:
    refused(lambda: sales(data, key), rule, key, words)


def test_parquet_files_that_cannot_be_read() -> None:
    good = {"store": ["1"], "dept": ["1"], "date": ["2012-10-26"], "weekly_sales": [1.0]}
    refused(
        lambda: sales(parquet(**{**good, "weekly_sales": [[1.0]]}), "a.parquet"), "wrong_type", "list", "weekly_sales"
    )
    refused(lambda: sales(parquet(**{**good, "date": [{"y": 1}]}), "a.parquet"), "wrong_type", "struct")
    no_store = {k: v for k, v in good.items() if k != "store"}
    refused(lambda: sales(parquet(**no_store), "a.parquet"), "missing_columns", "store", "FORECAST_STORE")
    empty = pa.table({k: pa.array([], pa.string()) for k in good})
    refused(lambda: sales(parquet_of(empty), "a.parquet"), "no_rows")
    twice = pa.table([pa.array(["1"])] * 5, names=["store", "dept", "date", "weekly_sales", "Dept"])
    refused(lambda: sales(parquet_of(twice), "a.parquet"), "duplicate_columns", "dept")
    refused(lambda: sales(parquet(**good)[:-20], "a.parquet"), "unreadable")


def test_a_refusal_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(FileRefused("empty_file", "a.csv is empty")))
    assert (again.rule, again.message, str(again)) == ("empty_file", "a.csv is empty", "a.csv is empty [empty_file]")


# --- the contract itself


def test_presets_are_named_and_changed() -> None:
    walmart = Dialect.named("walmart")
    assert walmart.replace(week_ends="", columns={}, date_format="", delimiter="") == walmart
    assert walmart.replace(week_ends="sat", delimiter=";").week_ends == "SAT"
    with pytest.raises(ValueError, match="presets are canonical, walmart"):
        Dialect.named("kroger")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"week_ends": "XYZ"}, "MON"),
        ({"columns": {"umsatz": "weekly_sales"}}, "names to map are store"),
        ({"delimiter": ",,"}, "one ASCII character"),
        ({"delimiter": '"'}, "one ASCII character"),
        ({"date_format": "%Y"}, "whole date"),
        ({"date_format": "dd/mm/yyyy"}, "whole date"),
        ({"encoding": "utf-9"}, "utf-8"),
        ({"encoding": "hex"}, "utf-8"),
    ],
)
def test_a_contract_that_cannot_work_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CANONICAL.replace(**changes)


def test_a_mapping_reads_other_peoples_names_and_falls_back_to_the_canonical() -> None:
    german = CANONICAL.replace(
        columns={"store": "Filiale", "weekly_sales": "Umsatz"}, delimiter=";", date_format="%d.%m.%Y"
    )
    text = 'FILIALE; dept ;Date;"Umsatz";weekly_sales\n"Köln";1;26.10.2012;5;6\n'
    parsed = sales(text, contract=german)
    assert parsed.accepted.to_pylist()[0] | {"line": 0} == {
        "line": 0,
        "store": unicodedata.normalize("NFC", "Köln"),
        "dept": "1",
        "week": NEWEST,
        "sales": 5.0,
        "is_holiday": None,
    }
    assert parsed.ignored_columns == ("weekly_sales",)
    assert sales(HEADER.replace(",", ";") + "1;1;26.10.2012;7;\n", contract=german).accepted["sales"].to_pylist() == [
        7.0
    ]
    latin = sales(text.encode("cp1252"), contract=german.replace(encoding="cp1252"))
    assert latin.accepted.equals(parsed.accepted)


def test_a_time_of_day_must_be_midnight() -> None:
    stamped = CANONICAL.replace(date_format="%Y-%m-%d %H:%M:%S")
    parsed = sales(HEADER + "1,1,2012-10-26 00:00:00,1,\n1,2,2012-10-26 13:00:00,1,\n", contract=stamped)
    assert parsed.accepted["week"].to_pylist() == [NEWEST]
    assert parsed.rejected["rule"].to_pylist() == ["bad_date"]


def test_a_colon_where_no_time_is_makes_a_bad_date() -> None:
    parsed = sales(HEADER + "1,1,10/26/2012 12:00:00 AM,1,\n1,2,a:b,1,\n1,3,2012-10-26,1,\n")
    assert parsed.rejected["rule"].to_pylist() == ["bad_date", "bad_date"]


# --- the other kinds


def test_stores_become_long_attributes() -> None:
    parsed = parse_stores(
        b"Store,Type,Size,\n1,A,151315,\n2,B,NA,\n2,B,,\n,C,1,\n3,A\n4,A,1,\n4,B,1,\n", "s.csv", CANONICAL
    )
    assert parsed.accepted.schema == STORES_SCHEMA
    assert [tuple(row.values()) for row in parsed.accepted.to_pylist()] == [
        (2, "1", "type", "A"),
        (2, "1", "size", "151315"),
        (3, "2", "type", "B"),
        (3, "2", "size", None),
    ]
    assert parsed.rejected.select(["line", "rule"]).to_pylist() == [
        {"line": 4, "rule": "duplicate_row"},
        {"line": 5, "rule": "missing_store"},
        {"line": 6, "rule": "wrong_column_count"},
        {"line": 7, "rule": "conflicting_duplicate"},
        {"line": 8, "rule": "conflicting_duplicate"},
    ]
    assert (parsed.rows, parsed.accepted_rows, parsed.ignored_columns) == (7, 2, ("(column 4)",))
    refused(lambda: parse_stores(b"shop,size\n1,2\n", "s.csv", CANONICAL), "missing_columns", "store")


def test_departments_become_long_attributes() -> None:
    parsed = parse_departments(b"Dept,Category\n1,food\n2,\n2,toys\n,toys\n", "d.csv", CANONICAL)
    assert parsed.accepted.schema == DEPARTMENTS_SCHEMA
    assert [tuple(row.values()) for row in parsed.accepted.to_pylist()] == [(2, "1", "category", "food")]
    assert parsed.rejected["rule"].to_pylist() == ["conflicting_duplicate"] * 2 + ["missing_dept"]
    refused(lambda: parse_departments(b"store,size\n1,2\n", "d.csv", CANONICAL), "missing_columns", "dept")


def test_stores_without_attributes_are_accepted() -> None:
    parsed = parse_stores(b"store\n1\n\n2\n", "s.csv", CANONICAL)
    assert (parsed.rows, parsed.accepted_rows, len(parsed.accepted)) == (2, 2, 0)


def test_features_become_long_numbers() -> None:
    text = (
        b"Store,Date,Temperature,Is_Holiday\n1,2012-10-26,42.31,TRUE\n1,2030-01-04,NA,false\n"
        b"1,2012-10-25,1,\n2,2012-10-26,warm,\n"
    )
    parsed = parse_features(text, "f.csv", CANONICAL, CALENDAR)
    assert parsed.accepted.schema == FEATURES_SCHEMA
    assert [tuple(row.values()) for row in parsed.accepted.to_pylist()] == [
        (2, "1", None, NEWEST, "temperature", 42.31),
        (2, "1", None, NEWEST, "is_holiday", 1.0),
        (3, "1", None, dt.date(2030, 1, 4), "temperature", None),
        (3, "1", None, dt.date(2030, 1, 4), "is_holiday", 0.0),
    ]
    assert parsed.rejected.select(["line", "rule", "column"]).to_pylist() == [
        {"line": 4, "rule": "wrong_weekday", "column": "date"},
        {"line": 5, "rule": "not_a_number", "column": "temperature"},
    ]
    assert (parsed.rows, parsed.accepted_rows) == (4, 2)


def test_features_may_speak_of_departments() -> None:
    text = b"store,dept,date,price\n1,5,2012-10-26,2\n1,6,2012-10-26,3\n1,,2012-10-26,4\n"
    parsed = parse_features(text, "f.csv", CANONICAL, CALENDAR)
    assert parsed.accepted["dept"].to_pylist() == ["5", "6", None]
    refused(
        lambda: parse_features(b"store,date\n1,2012-10-26\n", "f.csv", CANONICAL, CALENDAR),
        "missing_columns",
        "covariate",
    )


def test_a_calendar_holds_any_weekday() -> None:
    text = (
        b"Holiday,Date,note\nChristmas,2012-12-25,x\nChristmas,2013-12-25,\n"
        b"Christmas,2013-12-25,y\n,2013-01-01,\nNone,bad,\n"
    )
    parsed = parse_calendar(text, "c.csv", CANONICAL)
    assert parsed.accepted.schema == CALENDAR_SCHEMA
    assert [tuple(row.values()) for row in parsed.accepted.to_pylist()] == [
        (2, "Christmas", dt.date(2012, 12, 25)),
        (3, "Christmas", dt.date(2013, 12, 25)),
    ]
    assert parsed.rejected["rule"].to_pylist() == ["duplicate_row", "missing_name", "bad_date"]
    assert parsed.ignored_columns == ("note",)


def test_a_holiday_is_the_day_it_is_where_dates_name_the_start_of_a_week() -> None:
    starts = CANONICAL.replace(week_label="start")
    parsed = parse_calendar(b"name,date\nChristmas,2012-12-25\n", "c.csv", starts)
    assert parsed.accepted["date"].to_pylist() == [dt.date(2012, 12, 25)]


def test_kinds_are_told_by_the_header() -> None:
    def kind(text: str, contract: Dialect = CANONICAL) -> str:
        return kind_of(text.encode(), "a.csv", contract)

    assert kind(HEADER) == "sales"
    assert kind("Filiale,dept,date,Umsatz\n", CANONICAL.replace(columns={"weekly_sales": "Umsatz"})) == "sales"
    assert kind("name,date\n") == kind("Holiday,Date\n") == "calendar"
    assert kind("Store,Date,CPI,Holiday\n") == "features"
    assert kind("Store,Type\n") == "stores"
    assert kind_of(parquet(store=["1"], size=[3]), "a.parquet", CANONICAL) == "stores"
    assert kind("Dept,Category\n") == kind("dept\n") == "departments"
    assert kind("Abteilung,art\n", CANONICAL.replace(columns={"dept": "Abteilung"})) == "departments"
    # Sales of one store whose columns are not mapped, or covariates by department.
    for text in ("dept,week,sales\n", "dept,sales\n", "dept,date,price\n", "dept,shop\n", "store,dept,price\n"):
        refused(lambda text=text: kind(text), "unknown_kind", "departments (dept, ...)" if "sales" not in text else "")
    refused(lambda: kind("a,b\n"), "unknown_kind", "a, b", "preset")
    # Sales by other names: as stores, every row after the first would be a duplicate.
    refused(lambda: kind("store,dept,week,sales\n"), "unknown_kind", "store, dept, week, sales", "FORECAST_COLUMNS")
    refused(lambda: kind("store;dept;date;weekly_sales\n").upper(), "unknown_kind", "FORECAST_DELIMITER")
    refused(lambda: kind(""), "empty_file")


def test_weeks_in_reads_only_the_weeks_of_the_calendar() -> None:
    text = HEADER + GOOD * 2 + "1,1,2012-10-19,,\n1,1,2012-10-25,,\nx\n1,1,bad,,\n1,1,2030-01-04,,\n1,1,1979-12-28,,\n"
    weeks = [dt.date(2012, 10, 19), NEWEST, dt.date(2030, 1, 4)]
    assert weeks_in(text.encode(), "a.csv", CANONICAL, CALENDAR) == weeks
    assert weeks_in(parquet(date=weeks), "a.parquet", CANONICAL, CALENDAR) == weeks
    assert weeks_in(HEADER.encode() + b"x\n", "a.csv", CANONICAL, CALENDAR) == []
    refused(lambda: weeks_in(b"store\n1\n", "a.csv", CANONICAL, CALENDAR), "missing_columns", "date")
