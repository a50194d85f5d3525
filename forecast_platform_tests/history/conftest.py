"""Landed rows in a DuckDB connection: the tables cleaning reads, without a lake on disk."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from forecast_platform.history.cleaning import clean_weeks
from forecast_platform.history.panel import Panel
from forecast_platform.lake.tables import table_specs
from forecast_platform.weeks import WEEK

SPECS = table_specs(("p10", "p50", "p90"))
FRIDAY = dt.date(2024, 1, 5)
# To start DuckDB takes longer than a question. What is registered in one of its connections is not seen in another.
DUCK = duckdb.connect(config={"threads": 1})
CLEAN = SPECS["cleaned_series"].schema.names


@dataclass(frozen=True)
class Landed:
    """One landed version of a sales file: rows of (week number, store, dept, sales, is_holiday)."""

    key: str
    at: dt.datetime
    rows: Sequence[tuple[int, str, str, float | None, bool]]
    status: str = "ingested"


def landed(key: str, at_week: float, *rows: tuple, status: str = "ingested", first: dt.date = FRIDAY) -> Landed:
    """A version landed `at_week` weeks after `first`; rows are (week, store, dept, sales[, is_holiday])."""
    at = dt.datetime.combine(first, dt.time(12), dt.UTC) + at_week * WEEK
    return Landed(key, at, [(*row, False)[:5] for row in rows], status)


def connect(versions: Iterable[Landed], first: dt.date = FRIDAY) -> duckdb.DuckDBPyConnection:
    """A connection that shows raw_sales and landings as the lake does, the ledger with other kinds of files too."""
    con = DUCK.cursor()
    raw, ledger = [], []
    for v in versions:
        source = {"source_key": v.key, "source_version": f"{v.key} {v.at.isoformat()}", "landed_at": v.at}
        ledger.append({**source, "kind": "sales", "status": v.status})
        raw += [
            {"week": first + w * WEEK, "store": s, "dept": d, "sales": x, "is_holiday": h, **source, "line": line}
            for line, (w, s, d, x, h) in enumerate(v.rows, 2)
        ]
    ledger.append({**ledger[0], "source_key": "features/f.csv", "kind": "features"} if ledger else {})
    for name, rows in (("raw_sales", raw), ("landings", ledger)):
        con.register(name, pa.Table.from_pylist(rows, schema=SPECS[name].schema))
    return con


def show_cleaned(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> duckdb.DuckDBPyConnection:
    return con.register("cleaned_series", rows.select(CLEAN).cast(SPECS["cleaned_series"].schema))


def clean_table(con: duckdb.DuckDBPyConnection, *args: Any, **kwargs: Any) -> pa.Table:
    """What clean_weeks gives, in one table."""
    schema = SPECS["cleaned_series"].schema
    found = [rows.select(CLEAN).cast(schema) for rows in clean_weeks(con, *args, **kwargs)]
    return pa.concat_tables([schema.empty_table(), *found])


def make_panel(sales: dict[tuple[str, str], Sequence[float | None]], first: dt.date = FRIDAY) -> Panel:
    """Panel from {(store, dept): sales by week}."""
    rows = [
        {"store": s, "dept": d, "week": first + i * WEEK, "sales": x}
        for (s, d), values in sales.items()
        for i, x in enumerate(values)
    ]
    schema = pa.schema([("store", pa.string()), ("dept", pa.string()), ("week", pa.date32()), ("sales", pa.float64())])
    return Panel.from_table(pa.Table.from_pylist(rows, schema=schema))


@pytest.fixture
def panel() -> Panel:
    """Five series of two stores; gaps, a late start and an early end. In an order that is not the panel's."""
    rng = np.random.default_rng(0)
    sales = {(s, d): rng.uniform(10, 90, 12).round(2).tolist() for s, d in
             [("10", "2"), ("2", "10"), ("2", "2"), ("10", "1"), ("2", "x")]}  # fmt: skip
    sales["2", "10"][4] = None
    sales["10", "1"][:5] = [None] * 5
    sales["2", "x"][9:] = [None] * 3
    return make_panel(sales)
