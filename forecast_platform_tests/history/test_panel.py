"""The panel: the long table on a grid, and what of it was known at a cutoff."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.history.panel import Panel, natural_key
from forecast_platform.weeks import WEEK
from forecast_platform_tests.history.conftest import FRIDAY, make_panel

cells = st.dictionaries(
    st.tuples(st.sampled_from(["1", "2", "10", "x", "007"]), st.sampled_from(["3", "20", "b"]), st.integers(0, 30)),
    st.floats(-1e9, 1e9),
    min_size=1,
    max_size=40,
)


def table_of(values: dict) -> pa.Table:
    rows = [{"store": s, "dept": d, "week": FRIDAY + w * WEEK, "sales": x} for (s, d, w), x in values.items()]
    schema = pa.schema([("store", pa.string()), ("dept", pa.string()), ("week", pa.date32()), ("sales", pa.float64())])
    return pa.Table.from_pylist(rows, schema=schema)


def cells_of(panel: Panel) -> dict:
    week = [(w.astype(dt.date) - FRIDAY).days // 7 for w in panel.weeks]
    return {
        (str(panel.store[i]), str(panel.dept[i]), week[t]): float(panel.sales[i, t])
        for i, t in zip(*np.nonzero(panel.observed), strict=True)
    }


@settings(derandomize=True, deadline=None)
@given(cells)
def test_every_cell_of_the_table_is_in_the_panel_and_nothing_else(values):
    panel = Panel.from_table(table_of(values))
    assert cells_of(panel) == values
    assert set(np.diff(panel.weeks).astype(int)) <= {7}
    assert panel.observed.any(axis=1).all()
    names = list(zip(panel.store.tolist(), panel.dept.tolist(), strict=True))
    assert names == sorted(set(names), key=lambda n: (natural_key(n[0]), natural_key(n[1])))
    for i in range(len(panel)):
        seen = [t for t in range(len(panel.weeks)) if panel.observed[i, t]]
        assert (panel.first[i], panel.last[i]) == (seen[0], seen[-1])


def test_names_have_one_natural_order_whatever_they_hold():
    names = ["10", "9", "09", "²", "٣", "", "b", "1.5", "-2", "a10"]
    want = ["09", "9", "10", "", "-2", "1.5", "a10", "b", "²", "٣"]
    for given_names in (names, names[::-1]):
        assert sorted(given_names, key=natural_key) == want


@settings(derandomize=True, deadline=None)
@given(cells, st.integers(0, 40))
def test_until_is_the_panel_of_the_rows_up_to_the_cutoff(values, number):
    cutoff = FRIDAY + number * WEEK
    panel = Panel.from_table(table_of(values))
    known = {key: x for key, x in values.items() if key[2] <= number}
    if number < min(w for _, _, w in values):
        with pytest.raises(ValueError, match=f"no data up to {cutoff}: the first week is"):
            panel.until(cutoff)
        return
    past = panel.until(cutoff)
    assert cells_of(past) == known
    assert past.weeks[-1] == np.datetime64(cutoff), "also when the data stops earlier"
    assert past.weeks[0] == panel.weeks[0]
    assert past.observed.any(axis=1).all()


def test_null_sales_are_unobserved():
    panel = make_panel({("1", "1"): [None, 1.0, None, 3.0], ("1", "2"): [None] * 4})
    assert len(panel) == 1
    assert panel.weeks.tolist() == [FRIDAY + i * WEEK for i in (1, 2, 3)]
    np.testing.assert_array_equal(panel.sales, [[1.0, np.nan, 3.0]])


def test_nothing_observed_is_an_error():
    with pytest.raises(ValueError, match="no observed sales"):
        make_panel({("1", "1"): [None, None]})


def test_a_cell_twice_is_an_error():
    table = table_of({("1", "1", 0): 1.0, ("2", "1", 0): 1.0})
    with pytest.raises(ValueError, match="occurs twice"):
        Panel.from_table(pa.concat_tables([table, table.slice(0, 1)]))


def test_names_that_look_alike_are_different_series():
    panel = make_panel({("1", "23"): [1.0], ("12", "3"): [2.0], ("01", "23"): [3.0]})
    names = sorted(zip(panel.store.tolist(), panel.dept.tolist(), strict=True))
    assert names == [("01", "23"), ("1", "23"), ("12", "3")]


def test_position_may_lie_outside(panel):
    assert panel.position(FRIDAY) == 0
    assert panel.position(FRIDAY - WEEK) == -1
    assert panel.position(np.datetime64(FRIDAY + 100 * WEEK)) == 100


def test_select(panel):
    chosen = panel.select(panel.store == "2")
    assert chosen.dept.tolist() == ["2", "10", "x"]
    assert chosen.sales.shape == (3, 12)
