"""What the dashboard says, against the same figures worked out from the tables without SQL; and its SQL in Athena's
dialect."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import duckdb
import pytest
import sqlglot

from forecast_platform.dashboard import questions as ask
from forecast_platform.dashboard.app import PAGES
from forecast_platform.dashboard.pages import View
from forecast_platform.dashboard.questions import Scope
from forecast_platform.dashboard.source import Source
from forecast_platform_tests.defs.graph import Graph

WEEK = dt.timedelta(weeks=1)
Row = dict[str, Any]


@pytest.fixture
def state(source: Source) -> Any:
    return source.state()


@pytest.fixture(scope="session")
def tables(published: Graph) -> dict[str, list[Row]]:
    return {
        name: published.lake.read(name).to_pylist() for name in ("forecasts", "cleaned_series", "forecast_accuracy")
    }


@pytest.fixture
def newest(state: Any) -> dt.date:
    return ask.forecast_weeks(state)[0]


def sales(tables: dict[str, list[Row]], scope: Scope) -> dict[dt.date, float]:
    found: dict[dt.date, float] = defaultdict(float)
    for r in tables["cleaned_series"]:
        if r["observed"] and scope.store in ("", r["store"]) and scope.dept in ("", r["dept"]):
            found[r["week"]] += r["sales"]
    return found


def of(tables: dict[str, list[Row]], week: dt.date, scope: Scope) -> dict[dt.date, Row]:
    return {
        r["target_week"]: r
        for r in tables["forecasts"]
        if (r["forecast_week"], r["level"], r["store"] or "", r["dept"] or "")
        == (week, scope.level, scope.store, scope.dept)
    }


@pytest.mark.parametrize("scope", [Scope(), Scope("1"), Scope("", "2"), Scope("2", "3")], ids=lambda s: s.name)
def test_a_forecast_stands_beside_the_run_before_and_last_year(
    state: Any, tables: dict[str, list[Row]], newest: dt.date, scope: Scope
) -> None:
    rows = ask.forecast(state, scope, newest, ("p10", "p50", "p90"))
    now, before, sold = of(tables, newest, scope), of(tables, newest - WEEK, scope), sales(tables, scope)
    assert [r["target_week"] for r in rows] == sorted(now)
    for r in rows:
        week = r["target_week"]
        assert (r["p10"], r["p50"], r["p90"]) == tuple(now[week][c] for c in ("p10", "p50", "p90"))
        assert r["previous"] == (before[week]["p50"] if week in before else None)
        assert r["last_year"] == pytest.approx(sold.get(week - 52 * WEEK))
    assert sum(r["previous"] is not None for r in rows) == len(rows) - 1


def test_history_is_the_sum_of_what_was_observed(state: Any, tables: dict[str, list[Row]], newest: dt.date) -> None:
    for scope in (Scope(), Scope("3"), Scope("1", "4")):
        found = {r["week"]: r["sales"] for r in ask.history(state, scope, newest - 20 * WEEK, newest) if r["sales"]}
        wanted = {w: v for w, v in sales(tables, scope).items() if newest - 20 * WEEK <= w <= newest}
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize("horizon", [1, 3, None])
def test_scores_are_those_of_the_rows(state: Any, tables: dict[str, list[Row]], newest: dt.date, horizon: Any) -> None:
    found = ask.scores(state, Scope("", "2"), newest, horizon)
    assert found
    for row in found:
        rows = [r for r in tables["forecast_accuracy"] if r["week"] == row["week"] and r["level"] == "series"
                and r["dept"] == "2" and horizon in (None, r["horizon"])]  # fmt: skip
        actual = sum(abs(r["actual"]) for r in rows)
        assert row["forecasts"] == len(rows)
        assert row["wape"] == pytest.approx(sum(abs(r["p50"] - r["actual"]) for r in rows) / actual)
        assert row["bias"] == pytest.approx(sum(r["p50"] - r["actual"] for r in rows) / actual)
        assert row["coverage"] == pytest.approx(sum(r["in_interval"] for r in rows) / len(rows))
        known = [r for r in rows if r["naive"] is not None]
        assert row["naive_wape"] == pytest.approx(
            sum(abs(r["naive"] - r["actual"]) for r in known) / sum(abs(r["actual"]) for r in known)
        )


def test_the_review_queue_counts_miss_bias_and_change_in_money(
    state: Any, tables: dict[str, list[Row]], newest: dt.date
) -> None:
    queue = ask.review_queue(state, newest)
    everyone = {(r["store"], r["dept"]) for r in of_all(tables, newest)}
    assert {(r["store"], r["dept"]) for r in queue} == everyone
    assert [r["money"] for r in queue] == sorted((r["money"] for r in queue), reverse=True)
    for r in queue:
        scope = Scope(r["store"], r["dept"])
        now, before = of(tables, newest, scope), of(tables, newest - WEEK, scope)
        shared = sorted(set(now) & set(before))[: ask.NEXT]
        change = sum(now[w]["p50"] - before[w]["p50"] for w in shared) / len(shared)
        assert r["change"] == pytest.approx(change)
        ahead = [a for a in tables["forecast_accuracy"] if a["level"] == "series" and a["horizon"] == 1
                 and (a["store"], a["dept"]) == (r["store"], r["dept"])]  # fmt: skip
        last = [a for a in ahead if a["week"] == newest]
        miss = abs(last[0]["error"]) if last and not last[0]["in_interval"] else 0
        assert r["miss"] == pytest.approx(miss)
        assert r["money"] == pytest.approx(miss + r["bias"] + abs(change))
        # Three scored weeks are too few to call a series biased.
        assert len(ahead) <= 3
        assert r["bias"] == 0


def of_all(tables: dict[str, list[Row]], week: dt.date) -> list[Row]:
    return [r for r in tables["forecasts"] if r["forecast_week"] == week and r["level"] == "series"]


def test_a_series_that_errs_one_way_for_weeks_is_called_biased() -> None:
    state, week = made_up(errors=[10, 12, 9, 11, -1]), dt.date(2025, 2, 7)
    (row,) = ask.review_queue(state, week)
    assert row["bias"] == pytest.approx((10 + 12 + 9 + 11 - 1) / 5)
    assert row["miss"] == 1  # the newest week lay outside its interval
    assert row["change"] == 5
    assert row["money"] == pytest.approx(row["bias"] + 1 + 5)
    state = made_up(errors=[10, -12, 9, -11, 1])
    assert ask.review_queue(state, week)[0]["bias"] == 0


class made_up:
    """One series with the errors given, the last in the week of 2025-02-07, each outside its interval."""

    version = "made up"

    def __init__(self, errors: Sequence[float]) -> None:
        newest = dt.date(2025, 2, 7)
        self._con = duckdb.connect()
        self._con.execute(
            "CREATE TABLE forecast_accuracy (week DATE, level VARCHAR, store VARCHAR, dept VARCHAR, horizon INT, "
            "actual DOUBLE, p50 DOUBLE, error DOUBLE, abs_error DOUBLE, in_interval BOOLEAN)"
        )
        for k, error in enumerate(reversed(errors)):
            self._con.execute(
                "INSERT INTO forecast_accuracy VALUES (?, 'series', '1', '1', 1, 100, ?, ?, ?, false)",
                [newest - k * WEEK, 100 + error, error, abs(error)],
            )
        self._con.execute(
            "CREATE TABLE forecasts (forecast_week DATE, level VARCHAR, store VARCHAR, dept VARCHAR, target_week DATE, "
            "p50 DOUBLE)"
        )
        for made, p50 in ((newest - WEEK, 100), (newest, 105)):
            for k in range(1, 6):
                self._con.execute(
                    "INSERT INTO forecasts VALUES (?, 'series', '1', '1', ?, ?)", [made, newest + k * WEEK, p50]
                )

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._con.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()


def test_the_heat_map_shows_each_series_once(state: Any, tables: dict[str, list[Row]], newest: dt.date) -> None:
    found = ask.heat_map(state, newest, "bias", 4)
    assert found.stores == ["1", "2", "3"]
    assert found.depts == ["1", "2", "3", "4"]
    (store, dept), (value, actual) = next(iter(found.cells.items()))
    rows = [
        r
        for r in tables["forecast_accuracy"]
        if (r["level"], r["store"], r["dept"], r["horizon"]) == ("series", store, dept, 1)
    ]
    assert actual == pytest.approx(sum(abs(r["actual"]) for r in rows))
    assert value == pytest.approx(sum(r["error"] for r in rows) / actual)


def test_misses_and_revisions_add_up(state: Any, tables: dict[str, list[Row]], newest: dt.date) -> None:
    misses = ask.misses(state, newest, "series", Scope("1"))
    assert {r["store"] for r in misses} == {"1"}
    assert [r["abs_error"] for r in misses] == sorted((abs(r["p50"] - r["actual"]) for r in misses), reverse=True)
    stores = ask.revisions(state, newest, "store", Scope())
    (total,) = ask.revisions(state, newest, "total", Scope())
    assert total["previous_week"] == newest - WEEK
    now, before = of(tables, newest, Scope()), of(tables, newest - WEEK, Scope())
    assert total["change"] == pytest.approx(sum(now[w]["p50"] - before[w]["p50"] for w in set(now) & set(before)))
    assert len(stores) == 3


def test_calibration_is_the_share_at_or_below_each_quantile(
    state: Any, tables: dict[str, list[Row]], newest: dt.date
) -> None:
    found = dict(ask.calibration(state, Scope(), newest, ("p10", "p50", "p90"), 1))
    sold = {(r["week"], r["store"], r["dept"]): r["sales"] for r in tables["cleaned_series"] if r["observed"]}
    rows = [r for r in tables["forecasts"] if r["level"] == "series" and r["horizon"] == 1
            and (r["target_week"], r["store"], r["dept"]) in sold]  # fmt: skip
    for column, level in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        below = [sold[r["target_week"], r["store"], r["dept"]] <= r[column] for r in rows]
        assert found[level] == pytest.approx(sum(below) / len(below))


class Recording:
    """A state that remembers what it was asked."""

    def __init__(self, state: Any) -> None:
        self._state, self.version = state, state.version
        self.asked: dict[str, tuple[tuple[Any, ...], list[Row]]] = {}

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        answer: list[Row] = self._state.rows(sql, parameters)
        self.asked[sql] = tuple(parameters), answer
        return answer


def test_every_question_is_asked_in_sql_that_athena_reads_too(published: Graph, source: Source) -> None:
    recording = Recording(source.state())
    for _, build in PAGES.values():
        for query in ({}, {"store": "1", "dept": "2", "horizon": "all"}, {"store": "2", "by": "series"}):
            build(View(recording, published.platform.settings, query))
    assert len(recording.asked) > 25
    connection = published.lake.attach(duckdb.connect())
    for sql, (parameters, answer) in recording.asked.items():
        as_athena = sqlglot.transpile(sql, read="athena", write="duckdb")[0]  # raises where Athena could not parse it
        found = connection.sql(as_athena, params=list(parameters)).to_arrow_table().to_pylist()
        assert same(found, answer), sql


def same(a: list[Row], b: list[Row]) -> bool:
    def comparable(rows: list[Row]) -> list[list[Any]]:
        return sorted(
            ([round(v, 6) if isinstance(v, float) else v for v in r.values()] for r in rows), key=lambda r: repr(r)
        )

    return comparable(a) == comparable(b)
