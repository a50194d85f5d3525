"""Which version of a row is in force: the SQL against the rule in plain Python, and the rule's own cases."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecast_platform.history.versions import BEGINNING, EVER, in_force
from forecast_platform.lake.tables import table_specs
from forecast_platform.weeks import WEEK
from forecast_platform_tests.history.conftest import DUCK
from forecast_platform_tests.history.versions import Delivery, versions

SPECS = table_specs(("p50",))
FIRST = dt.date(2024, 1, 5)
START = dt.datetime(2024, 1, 6, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def connect(deliveries: list[Delivery]) -> duckdb.DuckDBPyConnection:
    con = DUCK.cursor()
    ledger, raw = [], []
    for one in deliveries:
        source = {"source_key": one.key, "source_version": one.version, "landed_at": one.at}
        state = {"status": one.status, "quarantined": one.quarantined, "withdrawn_at": one.withdrawn_at}
        ledger.append({**source, "kind": "sales", "arrived_at": one.arrived or one.at, **state})
        raw += [
            {
                "week": FIRST + w * WEEK,
                "store": s,
                "dept": d,
                "sales": float(x),
                "is_holiday": False,
                **source,
                "line": n,
            }
            for n, ((w, s, d), x) in enumerate(one.rows.items(), 2)
        ]
    for name, rows in (("landings", ledger), ("raw_sales", raw)):
        con.register(name, pa.Table.from_pylist(rows, schema=SPECS[name].schema))
    return con


def found(deliveries: list[Delivery], known_before: dt.datetime = EVER) -> dict:
    return rows_in_force(connect(deliveries), known_before)


def rows_in_force(con: duckdb.DuckDBPyConnection, known_before: dt.datetime) -> dict:
    rows = in_force(con, BEGINNING, FIRST + 999 * WEEK, known_before).to_pylist()
    return {((r["week"] - FIRST).days // 7, r["store"], r["dept"]): (r["source_key"], r["sales"]) for r in rows}


def expected(deliveries: list[Delivery], known_before: dt.datetime = EVER) -> dict:
    rule = versions(deliveries, known_before)
    return {key: (one.key, value) for key, (one, value) in rule.in_force.items()}


def file(number: int, rows: dict, key: str = "", **more) -> Delivery:
    """The file that landed `number` hours after the start."""
    name = key or f"sales/{number}.csv"
    return Delivery(name, f"{name}@{number}", START + number * HOUR, rows, **more)


_rows = st.dictionaries(
    st.tuples(st.integers(0, 1), st.sampled_from("123"), st.sampled_from("abc")), st.integers(0, 9), max_size=7
)


@st.composite
def _histories(draw) -> list[Delivery]:
    """Landings under few names, some of one moment, some withdrawn, refused or with quarantined lines, some read
    again where they lay."""
    made: dict[tuple, Delivery] = {}
    for number in range(draw(st.integers(1, 6))):
        if made and draw(st.integers(0, 4)) == 0:
            again = draw(st.sampled_from(sorted(made.values(), key=lambda one: (one.at, one.key))))
            name, version, arrived = again.key, again.version, again.arrived or again.at
            at = max(one.at for one in made.values() if one.arrival == again.arrival) + dt.timedelta(microseconds=1)
        else:
            name, version, arrived = f"sales/{draw(st.sampled_from('xyz'))}.csv", str(number), None
            at = START + draw(st.integers(0, 5)) * HOUR
        status = draw(st.sampled_from(["ingested"] * 4 + ["refused", "withdrawn"]))
        withdrawn_at = at + draw(st.integers(0, 4)) * HOUR if status == "withdrawn" else None
        rows = draw(_rows) if status != "refused" else {}
        quarantined = draw(st.sampled_from([0, 0, 0, 1]))
        made.setdefault((name, at), Delivery(name, version, at, rows, arrived, status, withdrawn_at, quarantined))
    return list(made.values())


@given(_histories(), st.integers(0, 10))
@hypothesis_settings(max_examples=20, deadline=None, derandomize=True)
def test_the_sql_is_the_rule(history, hours):
    for known_before in (EVER, START + hours * HOUR):
        assert found(history, known_before) == expected(history, known_before)


def test_the_sql_is_the_rule_for_many_histories_beside_each_other():
    """Asked at once, because to ask takes a hundred times longer than to make one up. None touches another: each has
    files and weeks of its own."""
    histories: list[list[Delivery]] = []

    @given(_histories())
    @hypothesis_settings(max_examples=200, deadline=None, derandomize=True)
    def make(history):
        number = len(histories)
        histories.append(
            [
                replace(
                    one,
                    key=f"{one.key}/{number}",
                    version=f"{one.version}/{number}",
                    rows={(w + 2 * number, s, d): x for (w, s, d), x in one.rows.items()},
                )
                for one in history
            ]
        )

    make()
    con = connect([one for history in histories for one in history])
    for known_before in (EVER, *(START + hours * HOUR for hours in range(11))):
        rows = rows_in_force(con, known_before)
        for number, history in enumerate(histories):
            mine = {key: value for key, value in rows.items() if key[0] // 2 == number}
            assert mine == expected(history, known_before), (history, known_before)


@given(_histories(), st.integers(0, 10))
@hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
def test_a_span_of_weeks_is_those_weeks_of_the_whole(history, hours):
    con, known_before = connect(history), START + hours * HOUR
    whole = in_force(con, BEGINNING, FIRST + WEEK, known_before).to_pylist()
    parts = [in_force(con, w, w, known_before).to_pylist() for w in (FIRST, FIRST + WEEK)]
    order = lambda r: (r["week"], r["store"], r["dept"])  # noqa: E731
    assert sorted([*parts[0], *parts[1]], key=order) == sorted(whole, key=order)


# --- the rule's own cases: {(week, store, dept): value}


def values(*deliveries: Delivery) -> dict:
    rows = found(list(deliveries))
    assert rows == expected(list(deliveries))
    return {key: value for key, (_, value) in rows.items()}


def test_files_that_split_a_week_never_remove_each_others_rows():
    parts = [file(i, {(0, s, d): i}) for i, (s, d) in enumerate(["1a", "1b", "2a", "2b"])]
    assert len(values(*parts)) == 4


def test_a_week_sent_again_drops_the_rows_it_no_longer_has():
    assert values(file(1, {(0, "1", "a"): 1, (0, "1", "b"): 2}), file(2, {(0, "1", "a"): 3})) == {(0, "1", "a"): 3}


def test_a_file_of_one_department_restates_that_department_only():
    whole = file(1, {(0, s, d): 1 for s in "12" for d in "ab"})
    assert values(whole, file(2, {(0, s, "a"): 2 for s in "12"})) == {
        (0, "1", "a"): 2,
        (0, "2", "a"): 2,
        (0, "1", "b"): 1,
        (0, "2", "b"): 1,
    }


def test_a_file_of_some_stores_leaves_the_others():
    whole = file(1, {(0, s, d): 1 for s in "123" for d in "ab"})
    again = file(2, {(0, "1", "a"): 2, (0, "2", "a"): 2, (0, "2", "b"): 2})
    assert {key for key, x in values(whole, again).items() if x == 1} == {(0, "3", "a"), (0, "3", "b")}


def test_other_weeks_under_the_same_name_are_added():
    one, two = ({(w, "1", "a"): 10 + w} for w in (0, 1))
    assert values(file(1, one, "sales/sales.csv"), file(2, two, "sales/sales.csv")) == one | two


def test_what_a_withdrawn_file_had_overridden_counts_again_and_the_past_still_sees_it():
    first, second = file(1, {(0, "1", "a"): 100, (0, "1", "b"): 1}), file(2, {(0, "1", "a"): 999})
    gone = Delivery(second.key, second.version, second.at, second.rows, None, "withdrawn", START + 5 * HOUR)
    assert values(first, gone) == dict(first.rows)
    assert found([first, gone], START + 5 * HOUR) == {(0, "1", "a"): (second.key, 999.0)}


def test_a_file_with_quarantined_lines_overrides_but_removes_nothing():
    whole = file(1, {(0, "1", "a"): 1, (0, "1", "b"): 1})
    assert values(whole, file(2, {(0, "1", "a"): 2}, quarantined=1)) == {(0, "1", "a"): 2, (0, "1", "b"): 1}


def test_a_file_read_again_where_it_lay_keeps_its_place_in_the_order():
    at = START + HOUR
    wrong = Delivery("sales/a.csv", "v", at, {(0, "1", "a"): 1, (1, "1", "a"): 1})
    right = Delivery("sales/a.csv", "v", at + dt.timedelta(microseconds=1), {(0, "1", "a"): 10}, at)
    assert values(wrong, file(3, {(0, "1", "a"): 7}), right) == {(0, "1", "a"): 7}, "week 1 was never in the file"
