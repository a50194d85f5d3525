"""What the dashboard says, against the same figures worked out from the tables without SQL; and its SQL in Athena's
dialect."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pytest
import sqlglot

from forecast_platform.dashboard import questions as ask
from forecast_platform.dashboard.app import PAGES
from forecast_platform.dashboard.names import Names
from forecast_platform.dashboard.pages import Change, View
from forecast_platform.dashboard.questions import Scope
from forecast_platform.dashboard.source import Source
from forecast_platform.history.covariates import Declarations
from forecast_platform.history.holidays import Event
from forecast_platform.lake.lake import any_of
from forecast_platform.settings import Settings
from forecast_platform.words import PLAIN
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.history.conftest import clean_table
from forecast_platform_tests.history.test_known_beside_sales import Retailer

WEEK = dt.timedelta(weeks=1)
NOW = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
# A feast in the week of 2025-02-14, and a week earlier in the year, 51 weeks before.
EVENTS = (Event("Feast", (dt.date(2024, 2, 21), dt.date(2025, 2, 12)), 0, 0),)
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
    rows = ask.forecast(state, scope, newest, ("p10", "p50", "p90"), EVENTS)
    now, before, sold = of(tables, newest, scope), of(tables, newest - WEEK, scope), sales(tables, scope)
    assert [r["target_week"] for r in rows] == sorted(now)
    for r in rows:
        week = r["target_week"]
        assert (r["p10"], r["p50"], r["p90"]) == tuple(now[week][c] for c in ("p10", "p50", "p90"))
        assert r["previous"] == (before[week]["p50"] if week in before else None)
        assert r["last_year"] == pytest.approx(sold.get(week - 52 * WEEK))
        feast = week == dt.date(2025, 2, 14)
        # Days as far from the feast: the week of 2025-02-14 goes back to the one that holds 2024-02-21.
        assert r["aligned"] == pytest.approx(sold.get(week - (51 if feast else 52) * WEEK))
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
            "horizon INT, p50 DOUBLE)"
        )
        for made, p50 in ((newest - WEEK, 100), (newest, 105)):
            for k in range(1, 6):
                self._con.execute(
                    "INSERT INTO forecasts VALUES (?, 'series', '1', '1', ?, ?, ?), (?, 'total', NULL, NULL, ?, ?, ?)",
                    [made, newest + k * WEEK, k, p50] * 2,
                )

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._con.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()


def test_the_heat_map_shows_each_series_once(state: Any, tables: dict[str, list[Row]], newest: dt.date) -> None:
    found = ask.heat_map(state, newest, "bias", 4)
    scored = [r for r in tables["forecast_accuracy"] if r["level"] == "series" and r["horizon"] == 1]

    def off(column: str) -> list[str]:
        money: dict[str, float] = defaultdict(float)
        for r in scored:
            money[r[column]] += r["abs_error"]
        return sorted(money, key=money.__getitem__, reverse=True)

    # Those that were off by most money come first, and the cells that make up half of it are marked.
    assert found.stores == off("store")
    assert found.depts == off("dept")
    assert found.weeks == len({r["week"] for r in scored}) == 3
    by_money = sorted((c.off for c in found.cells.values()), reverse=True)
    heavy = sorted((c.off for c in found.cells.values() if c.heavy), reverse=True)
    assert heavy == by_money[: len(heavy)]
    assert sum(heavy) >= sum(by_money) / 2 > sum(heavy[:-1])
    (store, dept), cell = next(iter(found.cells.items()))
    rows = [
        r
        for r in tables["forecast_accuracy"]
        if (r["level"], r["store"], r["dept"], r["horizon"]) == ("series", store, dept, 1)
    ]
    assert cell.actual == pytest.approx(sum(abs(r["actual"]) for r in rows))
    assert cell.value == pytest.approx(sum(r["error"] for r in rows) / cell.actual)


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
    points, weeks = ask.calibration(state, Scope(), newest, ("p10", "p50", "p90"), 1)
    found = dict(points)
    assert weeks == 3
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

    def apply(self, question: Any, *arguments: Any) -> Any:
        return self._state.apply(question, *arguments)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        answer: list[Row] = self._state.rows(sql, parameters)
        self.asked[sql] = tuple(parameters), answer
        return answer

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Row]:
        answer = list(self._state.stream(sql, parameters))
        self.asked[sql] = tuple(parameters), answer
        return iter(answer)


def test_every_question_is_asked_in_sql_that_athena_reads_too(published: Graph, source: Source) -> None:
    recording = Recording(source.state())
    for _, build in PAGES.values():
        for query in ({}, {"store": "1", "dept": "2", "horizon": "all"}, {"store": "2", "by": "series"}):
            context = build(View(recording, published.platform.settings, query, now=NOW))
            for rows in context["tables"].values():
                rows()
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


def test_a_rise_on_a_negative_base_is_no_fall() -> None:
    """Returns of 40 became returns of 39: shown as -2.5%."""
    rows = [{"p50": -39.0, "previous": -40.0}, {"p50": 5.0, "previous": None}]
    found = Change.between(rows, "p50", "previous")
    assert found == Change(1.0, None)
    assert found.told(PLAIN) == "+1"
    assert Change(1.0, 0.025) == Change.between([{"p50": 41.0, "previous": 40.0}], "p50", "previous")
    assert Change(1.0, 0.025).told(PLAIN) == "+2.5%"
    assert Change.between([{"p50": 41.0, "previous": None}], "p50", "previous") is None


def test_series_are_told_apart_where_names_run_together(source: Source) -> None:
    """Store "a b" department "c" is not store "a" department "b c"."""
    state, week = made_up(errors=[1.0]), dt.date(2025, 2, 7)
    state._con.execute("DELETE FROM forecasts")
    for store, dept in (("a b", "c"), ("a", "b c")):
        made = [week, store, dept, week + WEEK]
        state._con.execute("INSERT INTO forecasts VALUES (?, 'series', ?, ?, ?, 1, 1)", made)
    state._con.execute("ALTER TABLE forecasts ADD COLUMN created_at TIMESTAMP")
    state._con.execute("ALTER TABLE forecasts ADD COLUMN run_id VARCHAR")
    state._con.execute("ALTER TABLE forecasts ADD COLUMN as_known VARCHAR")
    state._con.execute("CREATE TABLE no_forecast (forecast_week DATE)")
    state._con.execute("CREATE TABLE cleaned_series (week DATE, landed_at TIMESTAMP, observed BOOLEAN)")
    assert ask.published(state, week)["series"] == 2  # type: ignore[arg-type]


def test_a_plan_of_a_sum_is_moved_by_the_figures_of_its_series() -> None:
    weeks = [dt.date(2025, 2, 7), dt.date(2025, 2, 14)]
    given = [
        {"target_week": weeks[0], "value": 130.0, "p50": 100.0},
        {"target_week": weeks[0], "value": 40.0, "p50": 50.0},
    ]
    first, second = ask.planned([{"target_week": w, "p50": 1000.0} for w in weeks], given)
    assert (first["plan"], first["override"]) == (1020.0, 170.0)
    assert (second["plan"], second["override"]) == (None, None)


def test_holidays_are_those_of_the_landed_calendar_that_the_model_uses(published: Graph, source: Source) -> None:
    view = View(source.state(), published.platform.settings, {})
    landed = published.lake.read("calendar").to_pylist()
    names = {event.name for event in view.events}
    assert "Halloween" in names  # the retailer's own; no rule of the country's has it
    assert names <= {r["name"] for r in landed}, "and no holiday of the country beside it"
    assert "Halloween" in PAGES["explore"][1](view)["chart"]


def test_holidays_by_which_nothing_is_lined_up_are_marked_as_such(published: Graph, source: Source) -> None:
    view = View(source.state(), published.platform.settings, {})
    rows = published.lake.read("forecast_events", any_of("forecast_week", [view.week.isoformat()])).to_pylist()
    assert {(r["name"], r["date"]) for r in rows} == {(e.name, day) for e in view.events for day in e.dates}
    assert {e.name for e in view.lined_up} == {r["name"] for r in rows if r["lined_up"]}
    shown = [event for event in view.events if any(day <= view.week for day in event.dates[1:])]
    assert shown
    page = PAGES["explore"][1](view)["chart"]
    for event in shown:
        assert (f"{event.name} (not lined up)" in page) is (event not in view.lined_up)


def test_the_holidays_lined_up_are_those_written_down_with_the_forecast(tmp_path: Path) -> None:
    """Of three: one is lined up, one is not, and of one nothing is written, as in forecasts of before."""
    retailer = Retailer(tmp_path)
    week = retailer.week(4)
    given = [
        Event(name, (dt.date(2024, 4, day), dt.date(2025, 4, day))) for name, day in (("A", 3), ("B", 9), ("C", 20))
    ]
    rows = [{"forecast_week": week, "name": e.name, "date": day, "lined_up": e.name == "A"}
            for e in given[:2] for day in e.dates]  # fmt: skip
    schema = retailer.lake.specs["forecast_events"].schema
    retailer.lake.replace_weeks("forecast_events", [week], pa.Table.from_pylist(rows, schema=schema))
    state = Source(retailer.lake).state()
    assert [e.name for e in ask.lined_up(state, week, given)] == ["A", "C"]
    assert ask.lined_up(state, week + WEEK, given) == tuple(given)


def test_stores_named_by_digits_that_are_no_numbers_have_their_place(tmp_path: Path) -> None:
    retailer = Retailer(tmp_path)
    rows = [(store, "a", retailer.week(0), 10) for store in ("²", "10", "9", "North")]
    retailer.land("sales/0.csv", 0.5, "store,dept,date,weekly_sales", *rows)
    con = retailer.lake.attach(duckdb.connect())
    retailer.lake.replace_weeks(
        "cleaned_series", [retailer.week(0)], clean_table(con, retailer.week(0), retailer.week(0), 52)
    )
    con.close()
    assert ask.names(Source(retailer.lake).state(), "store") == ["9", "10", "North", "²"]


@pytest.mark.parametrize("as_known", ["now", "then"])
def test_holidays_marked_are_those_known_when_the_forecast_was_made(tmp_path: Path, as_known: str) -> None:
    retailer = Retailer(tmp_path, first=dt.date(2019, 1, 4))
    retailer.sales(4)
    header, days = "name,date", ("2018-06-01", "2019-06-05", "2020-06-03")
    retailer.land("calendar/c.csv", 3.5, header, *[("Fair", day) for day in days])
    made = dt.datetime.combine(retailer.week(7), dt.time(), dt.UTC)
    row = {"forecast_week": retailer.week(3), "target_week": retailer.week(4), "level": "total", "horizon": 1,
           "as_known": as_known, "created_at": made if as_known == "now" else made + 99 * WEEK}  # fmt: skip
    schema = retailer.lake.specs["forecasts"].schema
    retailer.lake.replace_weeks("forecasts", [retailer.week(3)], pa.Table.from_pylist([row], schema=schema))
    given = retailer.panel(3, as_known, Declarations()).events
    retailer.land("calendar/c.csv", 8.5, header, *[("Fest", day) for day in days])  # what nobody knew then
    view = View(Source(retailer.lake).state(), Settings(), {})
    assert [event.name for event in view.events] == ["Fair"]
    assert view.events == given


def test_holidays_of_the_country_are_those_of_all_the_weeks_the_model_saw(tmp_path: Path) -> None:
    retailer = Retailer(tmp_path, first=dt.date(2015, 1, 2))
    retailer.sales(1)
    late = [("1", "a", retailer.week(430), 10)]
    retailer.land("sales/late.csv", 430.5, "store,dept,date,weekly_sales", *late)
    con = retailer.lake.attach(duckdb.connect())
    weeks = [retailer.week(w) for w in range(431)]
    retailer.lake.replace_weeks("cleaned_series", weeks, clean_table(con, weeks[0], weeks[-1], 52))
    con.close()
    row = {"forecast_week": weeks[-1], "target_week": retailer.week(431), "level": "total", "horizon": 1,
           "as_known": "now", "created_at": dt.datetime(2030, 1, 1, tzinfo=dt.UTC)}  # fmt: skip
    schema = retailer.lake.specs["forecasts"].schema
    retailer.lake.replace_weeks("forecasts", [weeks[-1]], pa.Table.from_pylist([row], schema=schema))
    view = View(Source(retailer.lake).state(), Settings(), {})
    assert view.events == retailer.panel(430, "now", Declarations()).events


def test_what_the_model_is_given_is_what_landed_past_and_planned(published: Graph, source: Source) -> None:
    found = ask.covariates(source.state(), Scope("2", "3"), published.platform.settings.declarations)
    landed = published.lake.read("features").to_pylist()
    assert list(found) == ["promotion"]  # fuel price and temperature are known afterwards only, and not declared
    wanted = {r["week"]: r["value"] for r in landed if (r["store"], r["name"]) == ("2", "promotion")}
    assert found["promotion"] == wanted
    assert max(found["promotion"]) > ask.forecast_weeks(source.state())[0]


class TestBorrowedSeason:
    """A series of store 2 whose department (or store) others sold a year ago, or nobody."""

    WEEK = dt.date(2025, 2, 7)
    TRIED: ClassVar[Row] = {
        "pretrained": {"weights": {"steady": 0.9, "young": 0.5, "intermittent": 0.1}, "wape": 0.1},
        "ratio": {"weights": {"steady": 0.1, "young": 0.24, "intermittent": 0.0}},
        "last_value": {"weights": {"steady": 0.0, "young": 0.26, "intermittent": 0.9}},
        "trees": {"left_out": "needs LightGBM"},
    }

    def told(self, others: Sequence[tuple[str, str]], weeks: int = 10, tried: Row | None = None, sold: int = 1) -> str:
        """Of a series first sold `weeks` weeks ago, and in one week of `sold`, four weeks ahead."""
        state = made_up(errors=[1.0])
        con = state._con
        con.execute("CREATE TABLE cleaned_series (store TEXT, dept TEXT, week DATE, observed BOOLEAN, sales DOUBLE,"
                    " is_holiday BOOLEAN)")  # fmt: skip
        life = [("2", "7", k, 5.0 * (k % sold == 0)) for k in range(weeks)]
        life += [(store, dept, k, 100.0) for store, dept in others for k in range(80)]
        for store, dept, k, sales in life:
            week = self.WEEK - k * WEEK
            con.execute("INSERT INTO cleaned_series VALUES (?, ?, ?, true, ?, false)", [store, dept, week, sales])
        ahead = [{"target_week": self.WEEK + k * WEEK} for k in range(1, 5)]
        return ask.borrowed_season(state, Scope("2", "7"), self.WEEK, ahead, self.TRIED if tried is None else tried,
                                   Names(PLAIN, {"store": {}, "dept": {"7": "Dairy"}}))  # fmt: skip

    def test_it_names_department_and_store_and_the_part_of_the_forecast(self) -> None:
        assert self.told([("1", "7"), ("2", "3")]) == (
            "New: first sold in the week of 2024-12-06. A year before the weeks ahead it has no sales of its own. 74% "
            "of the forecast takes its season from department 7 · Dairy in all stores "
            "and, in part, the ups and downs of "
            "store 2, at the series' own level."
        )

    def test_a_store_or_department_that_is_new_itself_lends_nothing(self) -> None:
        assert "department 7 · Dairy in all stores, at the series" in self.told([("1", "7")])
        assert self.told([("1", "3")]).endswith(
            "Nor has department 7 · Dairy any then: 74% of the forecast is the series' own level, with no season."
        )

    def test_only_the_weeks_it_was_not_sold_a_year_before(self) -> None:
        """First sold 50 weeks before: 49 weeks before the cutoff, and two weeks ahead go back further."""
        assert "A year before the weeks ahead up to 2025-02-21 it has" in self.told([("1", "7")], weeks=50)
        assert self.told([("1", "7")], weeks=52) == ""

    def test_by_its_kind(self) -> None:
        assert ". 10% of the forecast takes" in self.told([("1", "7")], sold=3)

    def test_nothing_is_told_where_nothing_looks_at_a_season_or_nobody_knows(self) -> None:
        assert self.told([("1", "7")], tried={}) == ""
        assert self.told([("1", "7")], tried={"last_value": self.TRIED["last_value"]}) == ""
