"""What the pages ask the lake, in SQL that DuckDB and Athena both read, shaped for people.

Money is in the unit of the sales that landed. A forecast of level `series` is one store x department; `store`, `dept`
and `total` are its sums. Errors are p50 minus actual, so a positive bias is a forecast too high.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from forecast_platform.weeks import WEEK

Rows = list[dict[str, Any]]
RECENT = 8  # weeks over which misses, bias and coverage of a series are judged
YEARS_SHOWN = 2
NEXT = 4  # weeks ahead whose revision counts in the review queue
BIASED = 0.6  # of the absolute error: a series whose errors nearly all point one way
HEATMAP_ROWS, HEATMAP_COLUMNS = 60, 100


class State(Protocol):
    """What the questions are asked of: see source.py."""

    version: str

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows: ...


@dataclass(frozen=True)
class Scope:
    """A series, store, department or the total."""

    store: str = ""
    dept: str = ""

    @property
    def level(self) -> str:
        if self.store and self.dept:
            return "series"
        return "store" if self.store else "dept" if self.dept else "total"

    @property
    def name(self) -> str:
        parts = [f"store {self.store}" if self.store else "", f"department {self.dept}" if self.dept else ""]
        return ", ".join(filter(None, parts)) or "all stores"

    def where(self) -> tuple[str, list[Any]]:
        """Condition on the columns level, store and dept, and its parameters: the rows of the scope's own sum."""
        members, parameters = self.members()
        return f"level = ? AND {members}", [self.level, *parameters]

    def members(self, table: str = "") -> tuple[str, list[Any]]:
        """Condition on the columns store and dept of a table of series, and its parameters."""
        conditions, parameters = ["TRUE"], []
        for column, value in (("store", self.store), ("dept", self.dept)):
            if value:
                conditions.append(f"{table}.{column} = ?" if table else f"{column} = ?")
                parameters.append(value)
        return " AND ".join(conditions), parameters


def forecast_weeks(state: State) -> list[dt.date]:
    """Weeks with a published forecast, newest first."""
    return [r["week"] for r in state.rows("SELECT DISTINCT forecast_week AS week FROM forecasts ORDER BY 1 DESC")]


def names(state: State, column: str) -> list[str]:
    """Stores or departments there are, in natural order."""
    assert column in ("store", "dept")
    found = state.rows(f"SELECT DISTINCT {column} AS name FROM cleaned_series")  # noqa: S608 (a name of ours)
    return sorted((r["name"] for r in found), key=natural)


def natural(name: str | None) -> tuple[int, float, str]:
    """Sort key: numbers by value, then words."""
    text = name or ""
    return (0, float(text), "") if text.isdigit() else (1, 0.0, text)


def history(state: State, scope: Scope, first: dt.date, last: dt.date) -> Rows:
    """Sales by week: week, sales (null where nothing of the scope was observed), holiday."""
    where, parameters = scope.members()
    return state.rows(
        f"""SELECT week, sum(CASE WHEN observed THEN sales END) AS sales, max(CASE WHEN is_holiday THEN 1 ELSE 0 END) AS
                   holiday
            FROM cleaned_series WHERE week BETWEEN ? AND ? AND {where} GROUP BY week ORDER BY week""",  # noqa: S608
        [first, last, *parameters],
    )


def forecast(state: State, scope: Scope, week: dt.date, columns: Sequence[str]) -> Rows:
    """A published forecast: target_week, horizon, mean, quantiles, what the run before said, last year's sales."""
    where, parameters = scope.where()
    ahead = state.rows(
        f"""SELECT target_week, horizon, mean, {", ".join(columns)} FROM forecasts
            WHERE forecast_week = ? AND {where} ORDER BY target_week""",  # noqa: S608
        [week, *parameters],
    )
    if not ahead:
        return []
    before = {r["target_week"]: r["p50"] for r in previous(state, scope, week)}
    start = ahead[0]["target_week"]
    past = {r["week"]: r["sales"] for r in history(state, scope, start - 52 * WEEK, ahead[-1]["target_week"])}
    return [
        {
            **row,
            "previous": before.get(row["target_week"]),
            "last_year": past.get(row["target_week"] - 52 * WEEK),
            "actual": past.get(row["target_week"]),
        }
        for row in ahead
    ]


def overrides(state: State, scope: Scope, week: dt.date) -> Rows:
    """Figures that people gave for weeks after `week`, the newest of each week, where they have not expired."""
    if scope.level != "series":
        return []
    found = state.rows(
        """SELECT target_week, value, reason, author, expires, made_at FROM overrides
           WHERE store = ? AND dept = ? AND target_week > ? ORDER BY made_at""",
        [scope.store, scope.dept, week],
    )
    newest = {r["target_week"]: r for r in found}
    return [newest[w] for w in sorted(newest) if newest[w]["expires"] >= week]


def previous(state: State, scope: Scope, week: dt.date) -> Rows:
    """What the run before `week` forecast: forecast_week, target_week, p50."""
    where, parameters = scope.where()
    return state.rows(
        f"""SELECT forecast_week, target_week, p50 FROM forecasts
            WHERE forecast_week = (SELECT max(forecast_week) FROM forecasts WHERE forecast_week < ?) AND {where}
            ORDER BY target_week""",  # noqa: S608
        [week, *parameters],
    )


def model(state: State, week: dt.date) -> dict[str, Any]:
    """The model in force at a week; empty when there is none."""
    found = state.rows("SELECT * FROM models WHERE week = ?", [week])
    return found[0] if found else {}


def published(state: State, week: dt.date) -> dict[str, Any]:
    """When and what was published for a week: created_at, run_id, as_known, series, without, reported, active."""
    (row,) = state.rows(
        """SELECT max(created_at) AS created_at, max(run_id) AS run_id, max(as_known) AS as_known,
                  count(DISTINCT CASE WHEN level = 'series' THEN store || ' ' || dept END) AS series
           FROM forecasts WHERE forecast_week = ?""",
        [week],
    )
    (without,) = state.rows("SELECT count(*) AS n FROM no_forecast WHERE forecast_week = ?", [week])
    (landed,) = state.rows(
        """SELECT max(landed_at) AS landed_at, count(*) AS known, sum(CASE WHEN observed THEN 1 ELSE 0 END) AS reported
           FROM cleaned_series WHERE week = ?""",
        [week],
    )
    return {**row, "without": without["n"], **landed}


def data_problems(state: State) -> dict[str, Any]:
    """What is wrong with the newest version of the files that landed: files, rows refused, and the worst of them."""
    rows = state.rows(
        """SELECT l.source_key, l.landed_at, l.status, l.rows, l.quarantined, l.message
           FROM landings AS l
           JOIN (SELECT source_key, max(landed_at) AS landed_at FROM landings GROUP BY source_key) AS n
             ON n.source_key = l.source_key AND n.landed_at = l.landed_at
           WHERE l.quarantined > 0 OR l.status IN ('refused', 'waiting') ORDER BY l.landed_at DESC"""
    )
    return {
        "files": len(rows),
        "rows": sum(r["quarantined"] or 0 for r in rows),
        "refused": sum(r["status"] != "ingested" for r in rows),
        "newest": rows[:5],
    }


def scores(
    state: State, scope: Scope, last: dt.date, horizon: int | None = 1, weeks: int = 52, of_sum: bool = False
) -> Rows:
    """Accuracy by target week: wape, naive_wape (over the rows where last year is known), bias, coverage, wql.

    Args:
        of_sum: of the scope's sum; else of all its series together.
    """
    where, parameters = _scored(scope, of_sum)
    ahead, more = ("AND horizon = ?", [horizon]) if horizon else ("", [])
    return state.rows(
        f"""SELECT week, {_SCORES} FROM forecast_accuracy
            WHERE week > ? AND week <= ? AND {where} {ahead} GROUP BY week ORDER BY week""",  # noqa: S608
        [last - weeks * WEEK, last, *parameters, *more],
    )


def scores_by_horizon(state: State, scope: Scope, last: dt.date, weeks: int = 13, of_sum: bool = False) -> Rows:
    """Accuracy by weeks ahead, over the target weeks of the last `weeks`; see `scores`."""
    where, parameters = _scored(scope, of_sum)
    return state.rows(
        f"""SELECT horizon, {_SCORES} FROM forecast_accuracy
            WHERE week > ? AND week <= ? AND {where} GROUP BY horizon ORDER BY horizon""",  # noqa: S608
        [last - weeks * WEEK, last, *parameters],
    )


def _scored(scope: Scope, of_sum: bool) -> tuple[str, list[Any]]:
    if of_sum:
        return scope.where()
    where, parameters = scope.members()
    return f"level = 'series' AND {where}", parameters


def recent(state: State, week: dt.date) -> dict[str, Any]:
    """Accuracy of all series together, one week ahead, over the recent weeks."""
    (row,) = state.rows(
        """SELECT sum(abs_error) / nullif(sum(abs(actual)), 0) AS wape,
                  sum(naive_abs_error) / nullif(sum(CASE WHEN naive IS NOT NULL THEN abs(actual) END), 0) AS naive_wape,
                  avg(CASE WHEN in_interval THEN 1.0 ELSE 0.0 END) AS coverage
           FROM forecast_accuracy WHERE level = 'series' AND horizon = 1 AND week > ? AND week <= ?""",
        [week - RECENT * WEEK, week],
    )
    return row


_SCORES = """
    sum(abs_error) / nullif(sum(abs(actual)), 0) AS wape,
    sum(CASE WHEN naive IS NOT NULL THEN abs_error END)
        / nullif(sum(CASE WHEN naive IS NOT NULL THEN abs(actual) END), 0) AS wape_where_naive,
    sum(naive_abs_error) / nullif(sum(CASE WHEN naive IS NOT NULL THEN abs(actual) END), 0) AS naive_wape,
    sum(error) / nullif(sum(abs(actual)), 0) AS bias,
    avg(CASE WHEN in_interval THEN 1.0 ELSE 0.0 END) AS coverage,
    sum(quantile_loss) / nullif(sum(abs(actual)), 0) AS wql,
    count(*) AS forecasts"""


def calibration(
    state: State, scope: Scope, last: dt.date, columns: Sequence[str], horizon: int | None, weeks: int = 4
) -> list[tuple[float, float]]:
    """(level, share of sales at or below that quantile) of the series' forecasts for the last target weeks."""
    where, parameters = scope.members("f")
    shares = ", ".join(f"avg(CASE WHEN a.sales <= f.{c} THEN 1.0 ELSE 0.0 END) AS {c}" for c in columns)
    ahead, more = ("AND f.horizon = ?", [horizon]) if horizon else ("", [])
    (row,) = state.rows(
        f"""SELECT {shares} FROM forecasts AS f
            JOIN cleaned_series AS a ON a.week = f.target_week AND a.store = f.store AND a.dept = f.dept
            WHERE f.level = 'series' AND a.observed AND f.target_week > ? AND f.target_week <= ?
              AND f.forecast_week >= ? AND {where} {ahead}""",  # noqa: S608
        [last - weeks * WEEK, last, last - (weeks + (horizon or 60)) * WEEK, *parameters, *more],
    )
    return [(int(c[1:]) / 100, row[c]) for c in columns if row[c] is not None]


def review_queue(state: State, week: dt.date, scope: Scope | None = None) -> Rows:
    """Every series that needs a person, by the money a week that speaks for it, most first.

    Three reasons, each in money a week: `miss`, how far the newest week's sales lay outside their interval; `bias`,
    the mean error of the last RECENT weeks where nearly all of it points one way; `change`, the mean revision of the
    next NEXT weeks since the run before. `money` is their sum. Forecasts scored are those made one week ahead.
    """
    where, parameters = (scope or Scope()).members()
    return state.rows(
        f"""
        WITH recent AS (
            SELECT store, dept, avg(error) AS mean_error, sum(abs_error) AS abs_error, sum(error) AS error,
                   sum(abs(actual)) AS actual, count(*) AS weeks,
                   sum(CASE WHEN in_interval THEN 0 ELSE 1 END) AS outside
            FROM forecast_accuracy
            WHERE level = 'series' AND horizon = 1 AND week > ? AND week <= ? AND {where}
            GROUP BY store, dept
        ), newest AS (
            SELECT store, dept, actual, p50, error, in_interval FROM forecast_accuracy
            WHERE level = 'series' AND horizon = 1 AND week = ? AND {where}
        ), now AS (
            SELECT store, dept, target_week, p50 FROM forecasts
            WHERE level = 'series' AND forecast_week = ? AND target_week <= ? AND {where}
        ), before AS (
            SELECT store, dept, target_week, p50 FROM forecasts
            WHERE level = 'series' AND target_week > ? AND target_week <= ? AND {where}
              AND forecast_week = (SELECT max(forecast_week) FROM forecasts WHERE forecast_week < ?)
        ), change AS (
            SELECT n.store, n.dept, avg(n.p50 - b.p50) AS change, avg(n.p50) AS p50
            FROM now AS n
            LEFT JOIN before AS b ON b.store = n.store AND b.dept = n.dept AND b.target_week = n.target_week
            GROUP BY n.store, n.dept
        ), reasons AS (
            SELECT c.store, c.dept, c.p50, c.change, w.actual, w.p50 AS forecast, w.in_interval,
                   r.weeks, r.outside, r.error / nullif(r.actual, 0) AS bias_share, r.mean_error,
                   CASE WHEN w.in_interval THEN 0 ELSE coalesce(abs(w.error), 0) END AS miss,
                   CASE WHEN r.weeks >= 4 AND abs(r.error) > {BIASED} * r.abs_error THEN abs(r.mean_error) ELSE 0 END
                       AS bias
            FROM change AS c
            LEFT JOIN newest AS w ON w.store = c.store AND w.dept = c.dept
            LEFT JOIN recent AS r ON r.store = c.store AND r.dept = c.dept
        )
        SELECT store, dept, p50, change, actual, forecast, in_interval, weeks, outside, bias_share, mean_error,
               miss, bias, miss + bias + coalesce(abs(change), 0) AS money
        FROM reasons ORDER BY money DESC, store, dept LIMIT 500
        """,  # noqa: S608
        [
            week - RECENT * WEEK,
            week,
            *parameters,
            week,
            *parameters,
            week,
            week + NEXT * WEEK,
            *parameters,
            week,
            week + NEXT * WEEK,
            *parameters,
            week,
        ],
    )


def misses(state: State, week: dt.date, by: str, scope: Scope, horizon: int = 1) -> Rows:
    """The forecasts of a week that cost most, `by` series, store or dept: actual, p50, error, naive, in_interval."""
    level = {"series": "series", "store": "store", "dept": "dept"}[by]
    where, parameters = scope.members()
    return state.rows(
        f"""SELECT store, dept, actual, p50, error, abs_error, naive, naive_abs_error, in_interval
            FROM forecast_accuracy WHERE week = ? AND horizon = ? AND level = ? AND {where}
            ORDER BY abs_error DESC, store, dept LIMIT 200""",  # noqa: S608
        [week, horizon, level, *parameters],
    )


def revisions(state: State, week: dt.date, by: str, scope: Scope) -> Rows:
    """What changed between the run before and this one, over the weeks both forecast: before, now, change."""
    where, parameters = scope.members()
    return state.rows(
        f"""
        SELECT n.store, n.dept, sum(b.p50) AS before, sum(n.p50) AS now, sum(n.p50 - b.p50) AS change,
               sum(abs(n.p50 - b.p50)) AS moved, count(*) AS weeks, max(b.forecast_week) AS previous_week
        FROM (SELECT store, dept, target_week, p50 FROM forecasts
              WHERE forecast_week = ? AND level = ? AND {where}) AS n
        JOIN (SELECT forecast_week, store, dept, target_week, p50 FROM forecasts
              WHERE level = ? AND {where}
                AND forecast_week = (SELECT max(forecast_week) FROM forecasts WHERE forecast_week < ?)) AS b
          ON b.target_week = n.target_week
         AND coalesce(b.store, '') = coalesce(n.store, '') AND coalesce(b.dept, '') = coalesce(n.dept, '')
        GROUP BY n.store, n.dept ORDER BY abs(sum(n.p50 - b.p50)) DESC, n.store, n.dept LIMIT 200
        """,  # noqa: S608
        [week, by, *parameters, by, *parameters, week],
    )


@dataclass(frozen=True)
class HeatMap:
    """Stores down, departments across; a cell is (value, actual sales) or None.

    Attributes:
        stores_in_all, depts_in_all: how many there are; the largest are shown.
    """

    stores: list[str]
    depts: list[str]
    cells: dict[tuple[str, str], tuple[float, float]]
    stores_in_all: int
    depts_in_all: int


def heat_map(state: State, last: dt.date, measure: str, weeks: int) -> HeatMap:
    """WAPE, bias or coverage of every series over the last weeks, one week ahead."""
    value = {
        "wape": "sum(abs_error) / nullif(sum(abs(actual)), 0)",
        "bias": "sum(error) / nullif(sum(abs(actual)), 0)",
        "coverage": "avg(CASE WHEN in_interval THEN 1.0 ELSE 0.0 END)",
    }[measure]
    rows = state.rows(
        f"""SELECT store, dept, {value} AS value, sum(abs(actual)) AS actual FROM forecast_accuracy
            WHERE level = 'series' AND horizon = 1 AND week > ? AND week <= ? GROUP BY store, dept""",  # noqa: S608
        [last - weeks * WEEK, last],
    )
    by_store: dict[str, float] = {}
    by_dept: dict[str, float] = {}
    for r in rows:
        by_store[r["store"]] = by_store.get(r["store"], 0) + r["actual"]
        by_dept[r["dept"]] = by_dept.get(r["dept"], 0) + r["actual"]
    stores = sorted(sorted(by_store, key=by_store.__getitem__, reverse=True)[:HEATMAP_ROWS], key=natural)
    depts = sorted(sorted(by_dept, key=by_dept.__getitem__, reverse=True)[:HEATMAP_COLUMNS], key=natural)
    cells = {(r["store"], r["dept"]): (r["value"], r["actual"]) for r in rows if r["value"] is not None}
    return HeatMap(stores, depts, cells, len(by_store), len(by_dept))


def landings(state: State, limit: int = 60) -> Rows:
    """Files that landed, newest first."""
    return state.rows("SELECT * FROM landings ORDER BY landed_at DESC, source_key LIMIT ?", [limit])


def quarantined(state: State, limit: int = 200) -> Rows:
    """Rejected lines and files, newest first, with the rule and what to do."""
    return state.rows(
        """SELECT landed_at, source_key, line, rule, field, value, message FROM quarantine
           ORDER BY landed_at DESC, source_key, line LIMIT ?""",
        [limit],
    )


def models(state: State, limit: int = 30) -> Rows:
    """Models in force, newest week first."""
    return state.rows(
        """SELECT week, version, trained_as_of, target, network_share, backtest_wape, naive_wape, backtest_coverage80,
                  verdict, why FROM models ORDER BY week DESC LIMIT ?""",
        [limit],
    )


def without_forecast(state: State, week: dt.date, limit: int = 200) -> Rows:
    """Series that got no forecast, each with the reason."""
    return state.rows(
        """SELECT store, dept, last_week, reason FROM no_forecast WHERE forecast_week = ?
           ORDER BY last_week DESC, store, dept LIMIT ?""",
        [week, limit],
    )
