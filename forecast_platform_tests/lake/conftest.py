"""A lake in a temporary folder, and rows to put into it."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from forecast_platform.lake.lake import Lake
from forecast_platform.lake.tables import table_specs
from forecast_platform.weeks import WEEK

QUANTILES = ("p10", "p50", "p90")
SPECS = table_specs(QUANTILES)
FIRST = dt.date(2024, 1, 5)


@pytest.fixture
def warehouse(tmp_path):
    return tmp_path / "it's a lake"  # a quote and blanks: paths go into SQL


OpenLake = Callable[[Sequence[str]], Lake]


@pytest.fixture
def another(warehouse) -> OpenLake:
    """Opens the test's lake for certain quantiles, as another process would."""
    return lambda quantiles: Lake.local(warehouse, quantiles)


@pytest.fixture
def lake(another) -> Lake:
    return another(QUANTILES)


def week(number: int) -> dt.date:
    return FIRST + number * WEEK


def clean_rows(*weeks: Mapping[tuple[dt.date, str, str], float | None]) -> pa.Table:
    """Rows of cleaned_series from {(week, store, dept): sales}."""
    rows = [
        {
            "week": w,
            "store": store,
            "dept": dept,
            "sales": sales,
            "observed": sales is not None,
            "is_return": False,
            "is_restated": False,
            "is_holiday": False,
            "landed_at": None,
            "source_key": "sales/a.csv",
        }
        for part in weeks
        for (w, store, dept), sales in part.items()
    ]
    return pa.Table.from_pylist(rows, schema=SPECS["cleaned_series"].schema)


def one_week(w: dt.date, sales: float, series: int = 5) -> pa.Table:
    """A week in which every series sold the same."""
    return clean_rows({(w, str(i), "1"): sales for i in range(series)})


def forecast_rows(w: dt.date, p50: float, run_id: str = "run-1", targets: int = 2, quantiles=QUANTILES) -> pa.Table:
    """Rows of forecasts of one week, for one series."""
    specs = table_specs(quantiles)
    rows = [
        {
            "forecast_week": w,
            "level": "series",
            "store": "1",
            "dept": "2",
            "target_week": w + h * WEEK,
            "horizon": h,
            "mean": p50,
            **dict.fromkeys(quantiles, p50),
            "model_version": "m",
            "as_known": "now",
            "run_id": run_id,
            "created_at": dt.datetime.now(dt.UTC),
        }
        for h in range(1, targets + 1)
    ]
    return pa.Table.from_pylist(rows, schema=specs["forecasts"].schema)


def content(table: pa.Table) -> dict[tuple[dt.date, str, str], float | None]:
    """Rows of cleaned_series as {(week, store, dept): sales}, which must be as many as the rows."""
    found = {(r["week"], r["store"], r["dept"]): r["sales"] for r in table.to_pylist()}
    assert len(found) == len(table), "a key occurs twice"
    return found


def snapshots(lake: Lake, name: str = "cleaned_series") -> int:
    return len(lake.table(name).metadata.snapshots)


def tree(folder: Path) -> dict[str, str]:
    """Every file's path and digest, links as what they point to."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
