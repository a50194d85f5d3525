"""Any engine can read the tables: ClickHouse, which shares no code with ours, agrees after every kind of write.

It is given the table's folder and nothing else, on disk and in S3, and has to find the same counts, sums and quantiles
as DuckDB does through our own lake. It runs embedded (chdb) in a process of its own, so that neither its memory nor
its signal handlers are the test's.

The rows are Walmart's where they are (FORECAST_WALMART_DIR): all 421,570 on disk, those of the newest 20 weeks in S3,
where the server of the tests is slow. Elsewhere they are the demo retailer's.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from forecast_platform.clouds.aws.glue import glue_lake
from forecast_platform.demo import MadeUpRetailer, history_files
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.maintenance import maintain
from forecast_platform.landing.rules import parse_sales
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK
from forecast_platform_tests.lake.conftest import SPECS, forecast_rows

REPOSITORY = Path(__file__).resolve().parents[2]
WALMART = REPOSITORY / os.environ.get("FORECAST_WALMART_DIR", "../shared/data/walmart") / "sales.csv.gz"
TABLE = "cleaned_series"
NARROW, WIDE = ("p10", "p50", "p90"), ("p5", "p10", "p50", "p90")

# Keys are strings, so both engines sort them alike; quantiles are interpolated in both.
QUESTIONS = {
    TABLE: (
        "SELECT dept, count(*), count(sales), sum(sales), min(week), max(week), {quantile} FROM {source} "
        "GROUP BY dept ORDER BY dept",
        ("quantile_cont(sales, 0.9)", "quantileExactInclusive(0.9)(sales)"),
    ),
    "forecasts": (
        "SELECT forecast_week, count(*), count(p5), sum(p5), sum(p50), {quantile} FROM {source} "
        "GROUP BY forecast_week ORDER BY forecast_week",
        ("quantile_cont(p50, 0.5)", "quantileExactInclusive(0.5)(p50)"),
    ),
}

_CLICKHOUSE = """
import chdb, sys
print(chdb.query(sys.argv[1], "JSONCompact").data())
"""

Source = Callable[[str], str]


@pytest.fixture(scope="module")
def sales(retailer: MadeUpRetailer) -> pa.Table:
    """Rows of cleaned_series."""
    if WALMART.exists():
        settings, name, data = Settings(preset="walmart"), WALMART.name, WALMART.read_bytes()
    else:
        settings, last = Settings(), retailer.weeks[-1].astype(dt.date)
        ((name, data),) = ((n, d) for n, d in history_files(retailer, last, dirty_rows=0).items() if "sales/" in n)
    parsed = parse_sales(
        data, name, settings.contract, settings.calendar, settings.calendar.last_started(dt.datetime.now(dt.UTC))
    )
    found = parsed.accepted.select(["week", "store", "dept", "sales", "is_holiday"])
    schema = SPECS[TABLE].schema
    missing = {n: pa.nulls(len(found), schema.field(n).type) for n in schema.names if n not in found.column_names}
    for column, values in missing.items():
        found = found.append_column(column, values)
    return found


class Witness:
    """Asks both engines, of one lake."""

    def __init__(self, open_lake: Callable[[tuple[str, ...]], Lake], source: Source, folder: Path) -> None:
        self.open_lake, self.source, self.folder = open_lake, source, folder
        self.ours = open_lake(WIDE)

    def agrees(self, table: str = TABLE, rows: int | None = None) -> None:
        question, (ours, theirs) = QUESTIONS[table]
        asked = question.format(quantile=ours, source=table)
        expected = [[_plain(v) for v in row.values()] for row in self.ours.query(asked).to_pylist()]
        assert expected
        asked = question.format(quantile=theirs, source=self.source(table))
        run = subprocess.run(
            [sys.executable, "-c", _CLICKHOUSE, asked], cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout)["data"]
        for their, our in zip(found, expected, strict=True):
            assert [_as(o, t) for o, t in zip(our, their, strict=True)] == our
        if rows is not None:
            assert sum(int(row[1]) for row in found) == rows


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value


def _as(ours: Any, theirs: Any) -> Any:
    """Their value: ours when it equals it. Counts come as text, as 64 bits do in JSON; sums differ in the last digit,
    by the order of their terms."""
    if isinstance(ours, int | float) and theirs is not None:
        return ours if math.isclose(float(theirs), ours, rel_tol=1e-9) else float(theirs)
    return theirs


def on_disk(folder: Path) -> Witness:
    return Witness(
        lambda quantiles: Lake.local(folder / "lake", quantiles),
        lambda table: f"icebergLocal('{folder}/lake/forecast/{table}/')",
        folder,
    )


@pytest.fixture(params=["on disk", "in S3"])
def witness(request, tmp_path) -> Witness:
    if request.param == "on disk":
        return on_disk(tmp_path / "home")
    request.getfixturevalue("s3")
    endpoint = request.getfixturevalue("endpoint")
    return Witness(
        lambda quantiles: glue_lake("s3://drop/lake", "retail", quantiles),
        lambda table: f"icebergS3('{endpoint}/drop/lake/retail/{table}/', 'testing', 'testing')",
        tmp_path,
    )


def test_clickhouse_agrees_after_every_kind_of_write(witness, sales, request):
    weeks = sorted(pc.unique(sales["week"]).to_pylist())
    if "in S3" in request.node.name:
        weeks = weeks[-20:]
        sales = sales.filter(pc.greater_equal(sales["week"], weeks[0]))
    *old, last = weeks
    newest = sales.filter(pc.equal(sales["week"], last))
    lake = witness.open_lake(NARROW)

    lake.replace_weeks(TABLE, old, sales.filter(pc.less(sales["week"], last)))  # many weeks at once
    witness.agrees(rows=len(sales) - len(newest))
    lake.replace_weeks(TABLE, [last], newest)  # a new week is appended
    witness.agrees(rows=len(sales))

    half = newest.set_column(3, "sales", pc.divide(newest["sales"], 2.0)).slice(1)
    lake.replace_weeks(TABLE, [last], half)  # a week is replaced
    witness.agrees(rows=len(sales) - 1)
    emptied = sum(pc.is_in(sales["week"], pa.array(weeks[:2])).to_pylist())
    lake.replace_weeks(TABLE, weeks[:2], sales.schema.empty_table())  # weeks are emptied
    witness.agrees(rows=len(sales) - 1 - emptied)

    forecasts = 2
    lake.replace_weeks("forecasts", [last], forecast_rows(last, 1.0))
    wide = witness.open_lake(WIDE)
    wide.replace_weeks("forecasts", [last + WEEK], forecast_rows(last + WEEK, 2.0, quantiles=WIDE))  # columns are added
    witness.agrees("forecasts", rows=2 * forecasts)

    report = maintain(
        wide, keep=dt.timedelta(days=1), now=dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    )  # expiry and sweep
    assert {t.name: t.expired > 0 and t.deleted > 0 for t in report.tables}[TABLE]
    witness.agrees(rows=len(sales) - 1 - emptied)
    witness.agrees("forecasts", rows=2 * forecasts)
    wide.replace_weeks(TABLE, [last], newest)  # and on it goes
    witness.agrees(rows=len(sales) - emptied)

    if "on disk" in request.node.name:  # a home that was moved, and then written to
        moved = on_disk(witness.folder.rename(witness.folder.with_name("moved")))
        moved.open_lake(WIDE).replace_weeks(TABLE, [last], half)
        moved.agrees(rows=len(sales) - 1 - emptied)
