"""One drop with a good file and a bad one, through the real assets: the run succeeds, the reason is named where a
person looks, and every row of the good file is in."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.defs.graph import Graph, Result

WEEK = dt.date(2025, 1, 31)
HEAD = "store,dept,date,weekly_sales\n"
GOOD = (HEAD + "".join(f"{store},{dept},{WEEK},{store}{dept}.5\n" for store in (1, 2) for dept in (1, 2, 3))).encode()


@dataclass
class Bad:
    """A file that should trouble nobody.

    Attributes:
        rules: rule -> number of lines in quarantine under it.
        accepted: rows of it that are good all the same.
        named: texts in the failing contract check, beside the file's name.
    """

    name: str
    data: bytes
    rules: dict[str, int] = field(default_factory=dict)
    accepted: int = 0
    named: tuple[str, ...] = ()


def csv(*rows: str, head: str = HEAD) -> bytes:
    return (head + "".join(row + "\n" for row in rows)).encode()


def parquet(**columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def workbook() -> bytes:
    """As much of an .xlsx as any reader asks for first: a zip with a workbook in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


# Compresses badly, so that a part of it is no whole file.
_NOISE = random.Random(0)
LONG = csv(*(f"9,{i},{WEEK},{_NOISE.random()}" for i in range(500)))
WIDE = ",".join(f"extra_{i}" for i in range(196))

CASES = {
    "wrong weekday": Bad("x.csv", csv("9,1,2025-01-30,5", "9,2,2025-01-30,5"), {"nothing_accepted": 1}),
    "unknown columns": Bad(
        "x.csv", csv(f"9,1,{WEEK},5,red,7", head="store,dept,date,weekly_sales,colour,markdown\n"), accepted=1,
        named=("unknown columns ignored: colour, markdown",),
    ),
    "missing columns": Bad("x.csv", csv("9,5", head="store,weekly_sales\n"), {"missing_columns": 1}),
    "columns of another language": Bad(
        "x.csv", csv(f"9;1;{WEEK};5", head="Filiale;Abteilung;Datum;Umsatz\n"), {"missing_columns": 1}
    ),
    "text in numbers": Bad(
        "x.csv", csv(f"9,1,{WEEK},many", f"9,2,{WEEK},$5", f'9,3,{WEEK},"1,000.00"', f"9,4,{WEEK},5"),
        {"not_a_number": 3}, accepted=1,
    ),
    "numbers no shop sells": Bad(
        "x.csv", csv(f"9,1,{WEEK},1e300", f"9,2,{WEEK},inf", f"9,3,{WEEK},-5"),
        {"out_of_range": 1, "not_a_number": 1}, accepted=1,
    ),
    "duplicate rows": Bad(
        "x.csv", csv(*[f"9,1,{WEEK},5"] * 3, f"9,2,{WEEK},5", f"9,2,{WEEK},6"),
        {"duplicate_row": 2, "conflicting_duplicate": 2}, accepted=1,
    ),
    "absurd dates": Bad(
        "x.csv",
        csv("9,1,2025-02-31,5", "9,2,0001-01-01,5", "9,3,31/01/2025,5", "9,4,soon,5", "9,5,,5", "9,6,1979-12-28,5",
            "9,7,2199-12-27,5", f"9,8,{WEEK},5"),
        {"bad_date": 4, "missing_date": 1, "week_before_first": 1, "week_in_future": 1}, accepted=1,
    ),
    "ragged rows": Bad(
        "x.csv", csv(f"9,1,{WEEK}", f"9,2,{WEEK},5,6,7", f"9,3,{WEEK},5"), {"wrong_column_count": 2}, accepted=1
    ),
    "empty file": Bad("x.csv", b"", {"empty_file": 1}),
    "blank file": Bad("x.csv", b"\r\n \r\n", {"empty_file": 1}),
    "header only": Bad("x.csv", HEAD.encode(), {"no_rows": 1}),
    "truncated gzip": Bad("x.csv.gz", gzip.compress(LONG)[:2000], {"truncated_gzip": 1}),
    "not gzip at all": Bad("x.csv.gz", LONG, {"not_gzip": 1}),
    "not UTF-8": Bad("x.csv", csv(f"9,1,{WEEK},5") + "9,Käse,".encode("latin-1"), {"encoding": 1}),
    "an open quote": Bad("x.csv", csv(f'9,"1,{WEEK},5', f"9,2,{WEEK},5"), {"nothing_accepted": 1}),
    "parquet of other types": Bad(
        "x.parquet",
        parquet(store=pa.array([9]), dept=pa.array([1]), date=pa.array([str(WEEK)]), weekly_sales=pa.array([[1, 2]])),
        {"wrong_type": 1},
    ),
    "parquet of odd but clear types": Bad(
        "x.parquet",
        parquet(
            store=pa.array([9.0, 9.0]), dept=pa.array(["1", "2"]).dictionary_encode(),
            date=pa.array([dt.datetime(2025, 1, 31), dt.datetime(2025, 1, 31, 12)]),
            weekly_sales=pa.array(["5", "6"]),
        ),
        {"bad_date": 1}, accepted=1,
    ),
    "half a parquet": Bad(
        "x.parquet", parquet(store=pa.array([9]), dept=pa.array([1]))[:100], {"unreadable": 1}
    ),
    "two hundred columns": Bad(
        "x.csv", csv(f"9,1,{WEEK},5" + ",0" * 196, head=f"{HEAD.strip()},{WIDE}\n"), accepted=1,
        named=("unknown columns ignored: extra_0, extra_1",),
    ),
    "half a spreadsheet": Bad("x.xlsx", workbook(), {"unreadable": 1}),
    "a format nobody reads": Bad("x.ods", workbook(), {"unknown_format": 1}),
    "a spreadsheet named csv": Bad("x.csv", b"PK\x03\x04" + bytes(range(256)) * 4, {"encoding": 1}),
}  # fmt: skip


@pytest.fixture
def graph(home: Path, tables_home: Callable[[Path], Path]) -> Graph:
    """The rules of rows are tried on files of a few rows; when most of a file is wrong is test_judgement's business."""
    tables_home(home)
    return Graph(Settings(**SMALL, most_refused=1, most_duplicates=1))


def ingest(graph: Graph) -> Result:
    return graph.week(WEEK, only=["raw_sales", "cleaned_series"])


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES.keys())
def test_a_bad_file_is_named_with_its_rule_and_the_good_one_goes_in(graph: Graph, bad: Bad):
    key = f"sales/{bad.name}"
    graph.land({"sales/good.csv": GOOD, key: bad.data})
    result = ingest(graph)
    assert result.success
    assert result.failures == {}

    found = graph.lake.query(
        "SELECT source_key, rule, count(*) AS n, min(message) AS message FROM quarantine GROUP BY ALL"
    ).to_pylist()
    assert {row["rule"]: row["n"] for row in found} == bad.rules
    assert {row["source_key"] for row in found} <= {key}
    accepted = {
        row["source_key"]: row["n"]
        for row in graph.lake.query("SELECT source_key, count(*) AS n FROM raw_sales GROUP BY ALL").to_pylist()
    }
    assert accepted == {"sales/good.csv": 6} | ({key: bad.accepted} if bad.accepted else {})
    cleaned = graph.lake.query("SELECT store, count(*) AS n FROM cleaned_series GROUP BY ALL ORDER BY 1").to_pylist()
    expected = {"1": 3, "2": 3} | ({"9": bad.accepted} if bad.accepted else {})
    assert {row["store"]: row["n"] for row in cleaned} == expected

    check = result.checks["landing_contract"]
    assert not check.passed
    for text in (key, *bad.rules, *bad.named):
        assert text in (check.description or "")
    assert result.checks["row_conservation"].passed
    for row in found:
        assert row["message"], "what to do about it"
        assert "Traceback" not in row["message"]


def test_a_good_file_alone_passes_the_contract(graph: Graph):
    graph.land({"sales/good.csv": GOOD})
    check = ingest(graph).checks["landing_contract"]
    assert check.passed
    assert check.description == "every line accepted"


def test_a_file_that_was_mended_and_landed_again_passes_the_contract(graph: Graph):
    graph.land({"sales/good.csv": GOOD, "sales/x.csv": CASES["text in numbers"].data})
    assert not ingest(graph).checks["landing_contract"].passed
    graph.land({"sales/x.csv": csv(f"9,1,{WEEK},5")})
    check = ingest(graph).checks["landing_contract"]
    assert check.passed, check.description


def test_a_rerun_of_the_week_still_names_its_bad_lines(graph: Graph):
    graph.land({"sales/good.csv": GOOD, "sales/x.csv": CASES["text in numbers"].data})
    first = ingest(graph).checks["landing_contract"].description
    assert ingest(graph).checks["landing_contract"].description == first


def test_a_restatement_of_as_many_rows_adds_up(graph: Graph):
    for sales in (5, 6, 7):
        graph.land({"sales/a.csv": csv(f"1,1,{WEEK},{sales}", f"1,2,{WEEK},{sales}")})
        assert ingest(graph).checks["row_conservation"].passed


def test_rows_that_went_missing_are_noticed(graph: Graph):
    """The conservation check finds what only a bug or a hand in the tables can do."""
    from forecast_platform.lake.lake import any_of

    graph.land({"sales/good.csv": GOOD})
    assert ingest(graph).checks["row_conservation"].passed
    rows = graph.lake.read("raw_sales")
    graph.lake.replace("raw_sales", any_of("source_key", ["sales/good.csv"]), rows.slice(1))
    check = ingest(graph).checks["row_conservation"]
    assert not check.passed
    assert check.metadata["files_that_do_not_add_up"].value == ["sales/good.csv"]
