"""Reading: formats mean the same, line numbers are right, no row is lost, bad bytes are refused politely."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import decimal
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecast_platform.landing import rules
from forecast_platform.landing import text as text_files
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.kinds import FileRefused, Parsed
from forecast_platform.weeks import WeekCalendar

CANONICAL = Dialect.named("canonical")
CALENDAR = WeekCalendar()
NEWEST = dt.date(2012, 10, 26)
HEADER = "store,dept,date,weekly_sales,is_holiday\n"
TEXT = (
    HEADER + "1,1,2012-10-19,24924.5,FALSE\n1,1,2012-10-26,-3,TRUE\n007,b b,2012-10-26,NA,\n2,1,2012-10-26,1e-07,TRUE\n"
)


def sales(data: bytes | str, key: str = "a.csv", contract: Dialect = CANONICAL) -> Parsed:
    return rules.parse_sales(data.encode() if isinstance(data, str) else data, key, contract, CALENDAR, NEWEST)


def to_parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def without_lines(table: pa.Table) -> list[dict]:
    return table.drop_columns(["line"]).to_pylist()


# --- formats


def test_csv_its_gzip_and_its_parquet_twin_mean_the_same() -> None:
    plain = sales(TEXT)
    assert plain.accepted_rows == 4
    assert sales(gzip.compress(TEXT.encode()), "a.csv.gz").accepted.equals(plain.accepted)
    assert sales(gzip.compress(TEXT[:60].encode()) + gzip.compress(TEXT[60:].encode()), "A.CSV.GZ").accepted.equals(
        plain.accepted
    )
    named = plain.accepted.rename_columns(["x", "Store", "DEPT", "date", "weekly_sales", "is_holiday"])
    twin = sales(to_parquet(named), "a.parquet")
    assert without_lines(twin.accepted) == without_lines(plain.accepted)
    assert twin.accepted["line"].to_pylist() == [1, 2, 3, 4]
    assert twin.ignored_columns == ("x",)


@pytest.mark.parametrize(
    "written",
    [
        "\ufeff" + TEXT,
        TEXT.upper(),
        TEXT.replace(",", " , "),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        TEXT.removesuffix("\n"),
        '"' + TEXT.strip().replace(",", '","').replace("\n", '"\n"') + '"\n',
        TEXT.replace("store,", '"store",'),
    ],
    ids=["bom", "upper", "padded", "crlf", "cr", "no last newline", "quoted", "one quoted"],
)
def test_ways_to_write_the_same_csv(written: str) -> None:
    expected = sales(TEXT).accepted
    if written == TEXT.upper():
        expected = sales(TEXT.replace("b b", "B B")).accepted
    assert sales(written).accepted.equals(expected)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters(delimiter: str) -> None:
    contract = CANONICAL.replace(delimiter=delimiter)
    assert sales(TEXT.replace(",", delimiter), contract=contract).accepted.equals(sales(TEXT).accepted)


def test_two_hundred_columns_are_ignored_and_named() -> None:
    extra = ",".join(f"extra{i}" for i in range(200))
    parsed = sales(f"{extra},store,dept,date,weekly_sales\n" + "x," * 200 + "1,1,2012-10-26,5\n")
    assert parsed.accepted_rows == 1
    assert parsed.ignored_columns == tuple(extra.split(","))


@pytest.mark.parametrize(
    "store",
    [
        pa.array([1], pa.int64()),
        pa.array([1], pa.uint8()),
        pa.array([1.0], pa.float64()),
        pa.array([1.0], pa.float16()),
        pa.array(["1"]),
        pa.array([" 1 "], pa.large_string()),
        pa.array(["1"], pa.string_view()),
        pa.array([b"1"]),
        pa.array(["1"]).dictionary_encode(),
        pa.array([decimal.Decimal(1)]),
    ],
    ids=lambda a: str(a.type),
)
@pytest.mark.parametrize(
    "date",
    [
        pa.array([NEWEST]),
        pa.array([NEWEST], pa.date64()),
        pa.array(["2012-10-26"]),
        pa.array([NEWEST]).dictionary_encode(),
        pa.array([dt.datetime(2012, 10, 26)], pa.timestamp("ns")),
        pa.array([dt.datetime(2012, 10, 26)], pa.timestamp("s")),
        pa.array([dt.datetime(2012, 10, 26)], pa.timestamp("us", "UTC")),
    ],
    ids=lambda a: str(a.type),
)
@pytest.mark.parametrize(
    "value",
    [pa.array([2.5]), pa.array([2.5], pa.float32()), pa.array(["2.5"]), pa.array([decimal.Decimal("2.50")])],
    ids=lambda a: str(a.type),
)
def test_parquet_types(store: pa.Array, date: pa.Array, value: pa.Array) -> None:
    data = to_parquet(pa.table({"store": store, "dept": pa.array([10**10]), "date": date, "weekly_sales": value}))
    assert without_lines(sales(data, "a.parquet").accepted) == [
        {"store": "1", "dept": "10000000000", "week": NEWEST, "sales": 2.5, "is_holiday": None}
    ]


def test_parquet_rows_are_rejected_by_the_same_rules_and_kept_whole() -> None:
    data = to_parquet(
        pa.table(
            {
                "store": pa.array([1.0, None, 1.5, 1e16, float("nan")]),
                "dept": ["1"] * 5,
                "date": pa.array([dt.datetime(2012, 10, 26, 13), *[dt.datetime(2012, 10, 26)] * 4], pa.timestamp("us")),
                "weekly_sales": [1.0, 1.0, float("inf"), float("nan"), 1.0],
                "is_holiday": [1, 0, None, 0, 1],
                "note": [["x"]] * 5,
            }
        )
    )
    parsed = sales(data, "a.parquet")
    assert parsed.rejected.select(["line", "rule"]).to_pylist() == [
        {"line": 1, "rule": "bad_date"},
        {"line": 2, "rule": "missing_store"},
        {"line": 3, "rule": "not_a_number"},
        {"line": 5, "rule": "missing_store"},
    ]
    assert '"store": 1.5' in parsed.rejected["record"][2].as_py()
    assert '"note": ["x"]' in parsed.rejected["record"][2].as_py()
    assert parsed.accepted["sales"].to_pylist() == [None]
    assert parsed.accepted["store"].to_pylist() == ["1e+16"]
    assert parsed.rows == 5


# --- line numbers


def test_lines_are_those_an_editor_shows() -> None:
    text = (
        "\n" + HEADER + "\n"  # 1 .. 3
        "1,1,2012-10-26,1,\n"  # 4
        "ragged\n\n"  # 5, 6
        '"a\nb",1,2012-10-26,2,\n'  # 7, 8
        "1,2,2012-10-26,x,\n"  # 9
        '"c ""d""\n\n,e",1,2012-10-26,y,\n'  # 10 .. 12
        '1,2,2012-10-26,"1\n",3,4\n'  # 13, 14
        "   \n"  # 15
        "1,9,2012-10-26,3,"  # 16
    )
    for written in (text, text.replace("\n", "\r\n")):
        parsed = sales(written)
        assert parsed.accepted["line"].to_pylist() == [4, 7, 16]
        assert parsed.accepted["store"].to_pylist() == ["1", "a\nb", "1"]
        assert parsed.rejected.select(["line", "rule"]).to_pylist() == [
            {"line": 5, "rule": "wrong_column_count"},
            {"line": 9, "rule": "not_a_number"},
            {"line": 10, "rule": "not_a_number"},
            {"line": 13, "rule": "wrong_column_count"},
            {"line": 15, "rule": "wrong_column_count"},
        ]
        assert parsed.rejected["record"][2].as_py() == '"c ""d""\n\n,e",1,2012-10-26,y,'


def test_a_stray_quote_costs_nothing_but_its_row() -> None:
    text = HEADER + '1,5" pipe,2012-10-26,1,\n\n1,2,2012-10-26,5",\n\n\n1,3,2012-10-26,3,\n'
    parsed = sales(text)
    assert parsed.accepted.select(["line", "dept"]).to_pylist() == [
        {"line": 2, "dept": '5" pipe'},
        {"line": 7, "dept": "3"},
    ]
    assert parsed.rejected.select(["line", "rule", "record"]).to_pylist() == [
        {"line": 4, "rule": "not_a_number", "record": '1,2,2012-10-26,5",'}
    ]


def test_an_open_quote_takes_the_rest_of_the_file_into_one_rejected_record() -> None:
    parsed = sales(HEADER + '1,1,2012-10-26,1,\n1,"2,2012-10-26,1,\n1,3,2012-10-26,1,\n')
    assert (parsed.rows, parsed.accepted_rows) == (2, 1)
    assert parsed.rejected["record"].to_pylist() == ['1,"2,2012-10-26,1,\n1,3,2012-10-26,1,']


FIELD = st.one_of(
    st.sampled_from(["1", "2", "", "NA", "2012-10-26", "x", "a b", "é"]),
    st.text(st.sampled_from('",\n ;a1'), max_size=4),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.lists(FIELD, min_size=1, max_size=5), min_size=1, max_size=8), st.sampled_from([0, 1]))
def test_the_fast_splitter_agrees_with_the_csv_module(rows: list[list[str]], quoting: int) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=quoting).writerows([["store", "b", "c"], *rows])
    text = out.getvalue()
    truth = rows_by_the_csv_module(text.encode(), 3)
    assert text_files.layout_of(text.encode(), ",") is not None
    found = whole(text.encode())
    assert [line for line, _ in found.ragged] == [line for line, fields in truth if len(fields) != 3]
    assert found.line == [line for line, fields in truth if len(fields) == 3]
    columns = [found.columns[i] for i in range(3)]
    assert list(zip(*columns, strict=True)) == [tuple(fields) for _, fields in truth if len(fields) == 3]


@dataclass
class Whole:
    """All rows of a file, put together from its blocks."""

    line: list[int]
    ragged: list[tuple[int, int]]
    columns: list[list[str]]
    records: Callable[[int], str]


def whole(data: bytes) -> Whole:
    """The three columns of a file."""
    parts = []
    with contextlib.suppress(FileRefused):  # no rows
        parts += text_files.open_text(data, "a.csv", ".csv", CANONICAL).rows([0, 1, 2])
    record = {line: rows for rows in parts for line in [*rows.line.tolist(), *(line for line, _ in rows.ragged)]}
    return Whole(
        [line for rows in parts for line in rows.line.tolist()],
        sorted(found for rows in parts for found in rows.ragged),
        [[text for rows in parts for text in rows.columns[i].to_pylist()] for i in range(3)],
        lambda line: record[line].records([line])[0],
    )


def rows_by_the_csv_module(data: bytes, width: int) -> list[tuple[int, list[str]]]:
    """(line, fields) of each row after the header that holds anything, without empty fields after its last one."""
    rows = []
    for line, last, fields in list(text_files.csv_rows(data, "a.csv", ","))[1:]:
        end = data.split(b"\n")[last - 1]
        if 0 < len(fields) - width <= len(end) - len(end.rstrip(b",")):
            fields = fields[:width]
        if data.split(b"\n")[line - 1].strip(b","):
            rows.append((line, fields))
    return rows


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from('",\n\r1a'), min_size=1, max_size=40))
def test_wherever_quotes_stand_rows_and_records_are_the_csv_modules(body: str) -> None:
    text = ("store,b,c\n" + body + "\n1,1,1\n").replace("\r\n", "\n").replace("\r", "\n").encode()
    truth = rows_by_the_csv_module(text, 3)
    found = whole(text)
    assert sorted([*found.line, *(line for line, _ in found.ragged)]) == [line for line, _ in truth]
    for line, fields in truth:
        again = next(csv.reader(io.StringIO(found.records(line), newline="\n")))
        again = again[: len(fields)]  # what is left over is empty
        assert [*again[:-1], again[-1].rstrip("\n")] == [*fields[:-1], fields[-1].rstrip("\n")], line


# --- conservation


FAULTS = [
    ",1,2012-10-26,1,",
    "1,,2012-10-26,1,",
    "1,1,,1,",
    "1,1,soon,1,",
    "1,1,2012-10-24,1,",
    "1,1,1971-01-08,1,",
    "1,1,2031-01-03,1,",
    "1,1,2012-10-26,$,",
    "1,1,2012-10-26,1e30,",
    "1,1",
    "1,1,2012-10-26,1,,x",
]
GOOD = st.builds(
    "{},{},{},{},{}".format,
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from(["2012-10-19", "2012-10-26"]),
    st.sampled_from(["1", "2.50", "-3", "NA", '"4"']),
    st.sampled_from(["TRUE", "FALSE", ""]),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(GOOD, st.sampled_from(FAULTS), st.just("")), max_size=25), st.sampled_from(["\n", "\r\n"]))
@example(["1,1,2012-10-26,1,TRUE"] * 3, "\n")
def test_every_row_ends_in_exactly_one_place(rows: list[str], newline: str) -> None:
    lines = [i for i, row in enumerate(rows, start=2) if row]
    data = newline.join([HEADER.strip(), *rows])
    if not lines:
        with pytest.raises(FileRefused, match="no_rows"):
            sales(data)
        return
    parsed = sales(data)
    assert parsed.rows == len(lines) == len(parsed.accepted) + len(parsed.rejected)
    assert sorted(parsed.accepted["line"].to_pylist() + parsed.rejected["line"].to_pylist()) == lines
    assert parsed.rejected["record"].to_pylist() == [rows[line - 2] for line in parsed.rejected["line"].to_pylist()]
    accepted = [(r["store"], r["dept"], r["week"]) for r in parsed.accepted.to_pylist()]
    assert len(set(accepted)) == len(accepted)

    # A slow reference: of the rows that break no other rule, a key whose rows agree keeps its first.
    values: dict[tuple, list] = {}
    for line, row in zip(range(2, len(rows) + 2), rows, strict=True):
        if row and row not in FAULTS:
            store, dept, week, number, holiday = row.replace('"', "").split(",")
            values.setdefault((store, dept, week), []).append((line, number, holiday))
    expected = sorted(found[0][0] for found in values.values() if len({v[1:] for v in found}) == 1)
    assert parsed.accepted["line"].to_pylist() == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["1,A,5", "1,B,5", "2,A,", ",A,1", "3", "4,x,TRUE", ""]), min_size=1, max_size=12))
def test_long_forms_conserve_rows_too(rows: list[str]) -> None:
    total = sum(bool(row) for row in rows)
    dated = [row.replace(",", ",2012-10-26,", 1) for row in rows]
    if not total:
        return
    for parsed in (
        rules.parse_stores("\n".join(["store,type,size", *rows]).encode(), "a.csv", CANONICAL),
        rules.parse_features("\n".join(["store,date,type,size", *dated]).encode(), "a.csv", CANONICAL, CALENDAR),
        rules.parse_calendar("\n".join(["x,name,date", *dated]).encode(), "a.csv", CANONICAL),
    ):
        accepted, rejected = (set(t["line"].to_pylist()) for t in (parsed.accepted, parsed.rejected))
        assert parsed.rows == total == parsed.accepted_rows + len(parsed.rejected)
        assert len(rejected) == len(parsed.rejected)
        assert len(accepted) == parsed.accepted_rows
        assert not accepted & rejected


# --- hostile bytes


def read_every_way(data: bytes, key: str) -> None:
    refusals: list[FileRefused] = []
    for call in (
        lambda: rules.kind_of(data, key, CANONICAL),
        lambda: rules.weeks_in(data, key, CANONICAL, CALENDAR),
        lambda: rules.parse_stores(data, key, CANONICAL),
        lambda: rules.parse_features(data, key, CANONICAL, CALENDAR),
        lambda: rules.parse_calendar(data, key, CANONICAL),
        lambda: sales(data, key),
    ):
        try:
            call()
        except FileRefused as refusal:
            refusals.append(refusal)
    assert all(refusal.rule and key in refusal.message for refusal in refusals)


KEYS = st.sampled_from(["a.csv", "a.csv.gz", "a.parquet", "a.txt"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200), KEYS)
def test_random_bytes_are_refused_politely(data: bytes, key: str) -> None:
    read_every_way(data, key)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=5), KEYS)
def test_damaged_files_are_refused_politely(changes: list[tuple[int, int]], key: str) -> None:
    table = pa.table({"store": ["1"], "name": ["x"], "date": ["2012-10-26"], "dept": [1], "weekly_sales": [1.0]})
    good = {
        "a.csv": TEXT.encode(),
        "a.csv.gz": gzip.compress(TEXT.encode(), mtime=0),
        "a.parquet": to_parquet(table),
        "a.txt": b"",
    }[key]
    data = bytearray(good)
    for position, value in changes:
        if data:
            data[position % len(data)] = value
    read_every_way(bytes(data), key)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.sampled_from('storedaptwklynm_, \n\r"\x00\ufeff2012-6é'), max_size=80))
def test_random_text_under_a_good_header_is_refused_politely(body: str) -> None:
    read_every_way((HEADER + body).encode(), "a.csv")


def test_a_gzip_cut_anywhere_is_truncated() -> None:
    whole = gzip.compress(TEXT.encode(), mtime=0)
    for cut in range(1, len(whole)):
        with pytest.raises(FileRefused) as caught:
            sales(whole[:cut], "a.csv.gz")
        assert caught.value.rule == "truncated_gzip", cut


def test_many_distinct_garbage_dates_are_quick() -> None:
    rows = "".join(f"1,{i},garbage{i},1,\n" for i in range(50_000))
    parsed = sales(HEADER + rows)
    assert len(parsed.rejected) == 50_000


def test_a_row_longer_than_a_block_is_read() -> None:
    text = HEADER.strip() + ",note\n1,1,2012-10-26,1,," + "x" * 5_000_000 + "\n1,2,2012-10-26,1,,y\n"
    assert sales(text).accepted_rows == 2


def test_large_files_keep_their_line_numbers_across_blocks() -> None:
    rows = [f"{i % 999},{i},2012-10-26,{i}.25,TRUE" for i in range(200_000)]
    rows[150_000] = "ragged"
    rows[170_000] = ""
    for end in ("\n", "\r\n"):
        accepted = sales(HEADER + end.join(rows)).accepted
        line = accepted["line"].to_numpy()
        assert np.array_equal(accepted["sales"].to_numpy(), line - 2 + 0.25)
        assert len(line) == 199_998
