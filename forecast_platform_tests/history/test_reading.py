"""A sample of a large retailer is a smaller retailer: whole stores, from the largest to the smallest."""

from __future__ import annotations

import datetime as dt

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.history.reading import FEWEST_STORES, Meaning, Sample, read_panel, sample
from forecast_platform.weeks import WEEK

LAST = dt.date(2024, 6, 28)
WEEKS = 4


def shop(stores: int, depts: int) -> duckdb.DuckDBPyConnection:
    """Store k sells k times as much as store 1 and has departments 1 .. depts, but for store 2, which has only one."""
    con = duckdb.connect()
    rows = [
        (f"s{s}", f"d{d}", LAST - week * WEEK, float(s * d), True, False)
        for s in range(1, stores + 1)
        for d in range(1, (depts if s != 2 else 1) + 1)
        for week in range(WEEKS)
    ]
    names = ("store", "dept", "week", "sales", "observed", "filled")
    con.register("cleaned_series", pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))))
    return con


@settings(derandomize=True, deadline=None, max_examples=25)
@given(stores=st.integers(1, 60), depts=st.integers(1, 30), at_most=st.integers(8, 500))
def test_it_has_about_as_many_series_as_asked_for(stores, depts, at_most):
    series = (stores - 1) * depts + 1 if stores > 1 else depts
    with shop(stores, depts) as con:
        found = sample(con, LAST, "now", at_most)
        if series <= at_most:
            assert found is None
            return
        assert found is not None
        panel = read_panel(con, LAST, "now", Meaning(), found)
    assert found.series == series
    assert len(set(found.stores)) == len(found.stores)
    assert len(set(found.depts)) == len(found.depts)
    assert set(panel.store) <= set(found.stores)
    assert set(panel.dept) <= set(found.depts)
    # To a store, or a department of the fewest stores, and the one store that has one department alone.
    slack = max(depts, FEWEST_STORES) + depts
    assert at_most - slack <= len(panel) <= at_most + slack
    if len(found.depts) < depts:  # departments are left out only where few stores are too many
        assert len(found.stores) == min(stores, FEWEST_STORES)


def test_it_is_spread_over_all_sizes():
    with shop(40, 10) as con:
        found = sample(con, LAST, "now", 100)
    assert found is not None
    sizes = [int(name[1:]) for name in found.stores]
    assert sorted(sizes) == sorted(sizes, key=lambda size: (size != 2, size))  # by size; store 2 is the smallest
    np.testing.assert_allclose(np.diff(sorted(sizes)), 4, atol=1)
    assert len(found.depts) == 10


def test_the_order_of_rows_does_not_matter():
    with shop(30, 7) as con:
        first = sample(con, LAST, "now", 60)
        rows = con.sql("SELECT * FROM cleaned_series ORDER BY hash(store || dept || week::VARCHAR)").to_arrow_table()
        con.register("cleaned_series", rows)
        assert sample(con, LAST, "now", 60) == first


def test_only_what_was_known_counts():
    with shop(30, 7) as con, pytest.raises(ValueError, match="no observed sales"):
        read_panel(con, LAST - WEEKS * WEEK, "now", Meaning(), Sample(("s1",), ("d1",), 2))
