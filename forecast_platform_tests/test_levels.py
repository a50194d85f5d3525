"""Levels by attributes: what the setting asks for, who is in which group, and sums by the groups in SQL."""

from __future__ import annotations

import datetime as dt

import duckdb
import numpy as np
import pytest

from forecast_platform.levels import LEVELS, UNKNOWN, Level, attribute_levels, by_level_sql, by_member_sql
from forecast_platform.settings import Settings

STORE, DEPT = np.array(["1", "1", "2", "3", "10"]), np.array(["a", "b", "a", "a", "b"])
REGION = Level("region", of="store", values={"1": "North", "2": "South", "10": "North", "99": "South", "3": ""})
KIND = Level("kind", of="dept", values={"a": "food"})


@pytest.fixture
def con():
    with duckdb.connect() as con:
        con.execute("CREATE TABLE stores (store VARCHAR, name VARCHAR, value VARCHAR)")
        con.execute("CREATE TABLE departments (dept VARCHAR, name VARCHAR, value VARCHAR)")
        stores = [("1", "region", "North"), ("2", "region", None), ("1", "type", "A")]
        con.executemany("INSERT INTO stores VALUES (?, ?, ?)", stores)
        con.executemany("INSERT INTO departments VALUES (?, ?, ?)", [("a", "type", "food"), ("b", "type", "other")])
        yield con


def test_the_groups_of_the_levels_declared_are_those_of_their_columns():
    for level, names, of_series in (
        (LEVELS[1], [["1", "", ""], ["10", "", ""], ["2", "", ""], ["3", "", ""]], [0, 0, 2, 3, 1]),
        (LEVELS[2], [["", "a", ""], ["", "b", ""]], [0, 1, 0, 0, 1]),
        (LEVELS[3], [["", "", ""]], [0] * 5),
    ):
        groups, group = level.groups(STORE, DEPT)
        assert (groups.tolist(), group.tolist()) == (names, of_series)
    groups, group = LEVELS[0].groups(STORE, DEPT)
    assert groups[group].tolist() == [[s, d, ""] for s, d in zip(STORE.tolist(), DEPT.tolist(), strict=True)]


def test_every_series_is_in_one_group_of_an_attribute_also_without_a_value():
    groups, group = REGION.groups(STORE, DEPT)
    assert groups.tolist() == [["", "", "North"], ["", "", "South"], ["", "", UNKNOWN]]
    assert group.tolist() == [0, 0, 1, 2, 0]
    groups, group = KIND.groups(STORE, DEPT)
    assert (groups[:, 2].tolist(), group.tolist()) == (["food", UNKNOWN], [0, 1, 0, 0, 1])
    nobody, nothing = REGION.groups(STORE[:0], DEPT[:0])
    assert (nobody.shape, nothing.shape) == ((0, 3), (0,))


def test_a_subset_of_the_series_has_the_same_groups():
    whole, of_whole = REGION.groups(STORE, DEPT)
    for keep in ([0], [2, 3], [4, 1]):
        groups, group = REGION.groups(STORE[keep], DEPT[keep])
        assert groups[group].tolist() == whole[of_whole][keep].tolist()


def test_levels_have_the_values_that_landed(con):
    assert attribute_levels(con, ()) == ()
    assert attribute_levels(con, ("region", "dept.type")) == (
        Level("region", of="store", values={"1": "North"}),
        Level("dept.type", of="dept", values={"a": "food", "b": "other"}),
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("regoin", r"asks for regoin, but no file .* Did you mean region\? There are: region \(stores/\), type \(dep"),
        ("type", r"which stores and departments both have; write store\.type or dept\.type"),
        ("dept.region", r"asks for dept.region, but no file .* Did you mean region\?"),
    ],
)
def test_what_is_no_column_or_two_is_refused(con, asked, says):
    with pytest.raises(ValueError, match=says):
        attribute_levels(con, (asked,))


def test_without_any_file_it_says_so(con):
    con.execute("DELETE FROM stores")
    con.execute("DELETE FROM departments")
    with pytest.raises(ValueError, match=r"no file under stores/ or departments/ has such a column\. There are: none"):
        attribute_levels(con, ("region",))


@pytest.mark.parametrize(
    ("value", "says"),
    [("region,total", "total, which is a level already"), ("region,Region", "a name twice: region, r")],
)
def test_the_setting_takes_names_once_and_none_of_ours(home, monkeypatch, value, says):
    monkeypatch.setenv("FORECAST_LEVELS", value)
    with pytest.raises(ValueError, match=says):
        Settings()


def test_the_setting_is_a_list_in_the_file_and_words_in_the_environment(home, monkeypatch):
    home.mkdir()
    (home / "settings.toml").write_text('levels = ["Region", "dept.kind"]')
    assert Settings().levels == ("region", "dept.kind")
    monkeypatch.setenv("FORECAST_LEVELS", " type, size ")
    assert Settings().levels == ("type", "size")


def test_sums_in_sql_are_those_of_the_groups_of_their_forecast(con):
    """Store 2 moves from North to South between two forecasts, and store 3 came after the first."""
    week = dt.date(2025, 1, 31)
    sold = {("1", "a"): 1.0, ("1", "b"): 20.0, ("2", "a"): 300.0, ("3", "b"): 4000.0}
    con.execute("CREATE TABLE sold (store VARCHAR, dept VARCHAR, week DATE, sales DOUBLE)")
    con.executemany("INSERT INTO sold VALUES (?, ?, ?, ?)", [(*key, week, value) for key, value in sold.items()])
    con.execute(
        "CREATE TABLE level_members (forecast_week DATE, level VARCHAR, store VARCHAR, dept VARCHAR, member VARCHAR)"
    )
    before, after = dt.date(2025, 1, 17), dt.date(2025, 1, 24)
    members = [(before, "region", "1", None, "North"), (before, "region", "2", None, "North"),
               (after, "region", "1", None, "North"), (after, "region", "2", None, "South"),
               (after, "region", "3", None, "South"), (after, "kind", None, "a", "food"),
               (after, "kind", None, "b", "food")]  # fmt: skip
    con.executemany("INSERT INTO level_members VALUES (?, ?, ?, ?, ?)", members)
    con.execute(
        "CREATE TABLE weeks AS SELECT DISTINCT forecast_week, level, DATE '2025-01-31' AS week FROM level_members"
    )
    con.execute(f"CREATE VIEW sums AS {by_level_sql('sold', 'week', 'sales')}")
    found = con.sql(
        f"SELECT forecast_week, level, member, week, value FROM ({by_member_sql('sums', 'weeks')})"
    ).fetchall()
    assert sorted(found) == [
        (before, "region", "North", week, 321.0),
        (after, "kind", "food", week, 4321.0),
        (after, "region", "North", week, 21.0),
        (after, "region", "South", week, 4300.0),
    ]
