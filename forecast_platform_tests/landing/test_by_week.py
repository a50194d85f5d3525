"""A file larger than memory: rows on disk, text in parts, and nothing of what is found changes by that."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform.landing import by_week, content, rules, text, typed
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.kinds import FileRefused, Parsed
from forecast_platform.weeks import WeekCalendar

CALENDAR = WeekCalendar()
NEWEST = dt.date(2012, 10, 26)
CONTRACT = Dialect.named("canonical")


def history() -> str:
    """Rows of three stores in twelve weeks, by series; some are wrong, twice, or contradict each other."""
    rng = np.random.default_rng(0)
    weeks = [NEWEST - dt.timedelta(weeks=i) for i in range(12)]
    rows = [f"{s},D\u00e9pt {d},{w},{rng.uniform(1, 99):.2f}" for s in (1, 2, 3) for d in range(9) for w in weeks]
    rows[40:40] = ["1,x,2012-10-26,oops", rows[3], f"1,D\u00e9pt 0,{weeks[1]},1", "", "too,short"]
    return "store,dept,date,weekly_sales\n" + "\n".join([*rows, rows[100], ",1,2012-10-19,4"]) + "\n"


def told(parsed: Parsed) -> tuple:
    lists = [table.to_pylist() for table in (parsed.accepted, parsed.rejected)]
    return (*lists, parsed.rows, parsed.accepted_rows, parsed.notes, parsed.splits)


def read(path: Path, contract: Dialect = CONTRACT) -> Parsed:
    return rules.parse_sales(path, path.name, contract, CALENDAR, NEWEST)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_week.ByWeek.__init__, "__defaults__", (by_week.SALES_SCHEMA, 50))
    for module in (content, text):
        monkeypatch.setattr(module, "BLOCK", 700)
    monkeypatch.setattr(content, "_IN_MEMORY", 1000)
    monkeypatch.setattr(typed, "BATCH", 60)


@pytest.mark.parametrize("aggregate", ["", "last", "sum"])
@pytest.mark.parametrize("form", ["csv", "crlf.csv", "utf16.csv", "csv.gz", "parquet"])
def test_all_is_the_same_however_little_is_in_memory(
    form: str, aggregate: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data, path, contract = history(), tmp_path / f"a.{form}", CONTRACT.replace(aggregate=aggregate)
    if form == "parquet":
        fields = [line.split(",") for line in data.splitlines() if line.count(",") == 3]
        table = pa.table({name: [row[i] for row in fields[1:]] for i, name in enumerate(fields[0])})
        pq.write_table(table, path, row_group_size=100)
    else:
        written = {"crlf.csv": data.replace("\n", "\r\n").encode(), "utf16.csv": data.encode("utf-16")}
        plain = written.get(form, data.encode())
        path.write_bytes(gzip.compress(plain) if form == "csv.gz" else plain)
    whole = told(read(path, contract))
    assert len(whole[0]) > 300
    assert whole[2] == whole[3] + len(whole[1])
    request.getfixturevalue("little_memory")
    assert told(read(path, contract)) == whole


@pytest.mark.usefixtures("little_memory")
def test_a_byte_that_is_no_text_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    data = history().encode()
    at = data.rindex("\u00e9".encode()) + 1
    (tmp_path / "a.csv").write_bytes(data[:at] + b"(" + data[at + 1 :])
    line = data.count(b"\n", 0, at) + 1
    with pytest.raises(FileRefused, match=rf"line {line}, byte {at - 1} of the file"):
        read(tmp_path / "a.csv")


@pytest.mark.usefixtures("little_memory")
def test_a_carriage_return_at_the_end_of_a_part_is_one_line_end(tmp_path: Path) -> None:
    for before in range(690, 704):
        head = "store,dept,date,weekly_sales,note\r\n1,1,2012-10-26,5,"
        body = head + "x" * (before - len(head)) + "\r\n1,2,2012-10-26,6,y\r\n"
        (tmp_path / "a.csv").write_bytes(body.encode())
        assert read(tmp_path / "a.csv").accepted["line"].to_pylist() == [2, 3]
