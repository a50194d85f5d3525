"""What the pages ask the lake, in SQL that DuckDB and Athena both read, shaped for people.

Money is in the unit of the sales that landed. A forecast of level `series` is one store x department; `store`, `dept`,
`total` and those by attributes (region) are its sums. Errors are p50 minus actual, so a positive bias means that
forecasts were too high. `limit` None asks for all rows; limited rows say in `of_all` how many there are.

There may be a million series and years of weeks. What is the same of all rows of a publication is asked of its total,
and what one series needs names its store, so that few parts of the files are read. See lake/blocks.py.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import duckdb
import numpy as np

from forecast_platform.history.covariates import Declarations
from forecast_platform.history.holidays import Event
from forecast_platform.history.panel import natural_key
from forecast_platform.history.reading import events_given, features_in_force, known_by
from forecast_platform.lake.tables import QUANTILE
from forecast_platform.levels import KEYS
from forecast_platform.models.blend import KINDS, kinds
from forecast_platform.models.last_year.reference import one_year_back
from forecast_platform.models.target import RATIO, REFERENCE
from forecast_platform.publishing.sheets import DIGITS
from forecast_platform.scores import SCORE, SCORES
from forecast_platform.weeks import WEEK

if TYPE_CHECKING:
    from forecast_platform.dashboard.names import Names

T = TypeVar("T")

Rows = list[dict[str, Any]]
Question = tuple[str, list[Any]]  # SQL and its parameters
RECENT = 8  # weeks over which misses, bias and coverage of a series are judged
YEARS_SHOWN = 2
NEXT = 4  # weeks ahead whose revision counts in the review queue
BIASED = 0.6  # of the absolute error, from which on nearly all of a series' errors point one way
HEATMAP_ROWS, HEATMAP_COLUMNS = 60, 100
# Candidates that start from last year's outlook, which has a season also where the series has no last year.
FROM_OUTLOOK = (RATIO, REFERENCE, "aligned_last_year", "pretrained")
YEAR_AND_MORE = 60  # weeks that surely hold the week a year back, also where a holiday moves it
SEPARATOR = "chr(9)"  # between store and department in one text, so that "1" of "11" differs from "11" of "1"


class State(Protocol):
    """What the questions are asked of: see source.py."""

    version: str

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows: ...

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[dict[str, Any]]: ...

    def cursor(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]: ...

    def apply(self, question: Callable[..., T], *arguments: Hashable) -> T: ...


@dataclass(frozen=True)
class Scope:
    """A series, store, department, group of a level by an attribute, or the total.

    Attributes:
        attribute, member: such as region and North.
        week: whose forecast says which stores or departments are in the group.
    """

    store: str = ""
    dept: str = ""
    attribute: str = ""
    member: str = ""
    week: dt.date | None = None

    @property
    def level(self) -> str:
        if self.attribute:
            return self.attribute
        if self.store and self.dept:
            return "series"
        return "store" if self.store else "dept" if self.dept else "total"

    @property
    def name(self) -> str:
        if self.attribute:
            return f"{self.attribute} {self.member}"
        parts = [f"store {self.store}" if self.store else "", f"department {self.dept}" if self.dept else ""]
        return ", ".join(filter(None, parts)) or "all stores"

    @property
    def group(self) -> str:
        """The group as an address names it; empty where the scope is none."""
        return f"{self.attribute}: {self.member}" if self.attribute else ""

    def where(self) -> tuple[str, list[Any]]:
        """Condition on the columns level, store, dept and member, and its parameters: the rows of the scope's own
        sum."""
        members, parameters = ("member = ?", [self.member]) if self.attribute else self.members()
        return f"level = ? AND {members}", [self.level, *parameters]

    def members(self, table: str = "") -> tuple[str, list[Any]]:
        """Condition on the columns store and dept of a table of series, and its parameters."""
        if self.attribute:
            of, prefix = (
                "FROM level_members WHERE forecast_week = ? AND level = ? AND member = ?",
                table and f"{table}.",
            )
            either = (f"{prefix}{key} IN (SELECT {key} {of} AND {key} IS NOT NULL)" for key in KEYS)
            return f"({' OR '.join(either)})", [self.week, self.attribute, self.member] * len(KEYS)
        conditions, parameters = ["TRUE"], []
        for column, value in (("store", self.store), ("dept", self.dept)):
            if value:
                conditions.append(f"{table}.{column} = ?" if table else f"{column} = ?")
                parameters.append(value)
        return " AND ".join(conditions), parameters


def forecast_weeks(state: State) -> list[dt.date]:
    """Weeks with a published forecast, newest first."""
    rows = state.rows("SELECT DISTINCT forecast_week AS week FROM forecasts WHERE level = 'total' ORDER BY 1 DESC")
    return [r["week"] for r in rows]


def run_before(state: State, week: dt.date) -> tuple[dt.date | None, dt.date | None]:
    """The week of the run before that of `week`, and the last week that it forecast; None where there was none."""
    found = state.rows(
        """SELECT forecast_week AS week, max(target_week) AS reach FROM forecasts
           WHERE level = 'total' AND forecast_week < ? GROUP BY forecast_week ORDER BY forecast_week DESC LIMIT 1""",
        [week],
    )
    return (found[0]["week"], found[0]["reach"]) if found else (None, None)


def names(state: State, column: str) -> list[str]:
    """Stores or departments there are, in natural order: those with a forecast or a reason instead, and those that sold
    since."""
    assert column in ("store", "dept")
    week = next(iter(forecast_weeks(state)), None)
    since = week - NEXT * WEEK if week else dt.date.min
    found = state.rows(
        f"""SELECT {column} AS name FROM forecasts WHERE forecast_week = ? AND level = ?
            UNION SELECT {column} FROM no_forecast WHERE forecast_week = ?
            UNION SELECT {column} FROM cleaned_series WHERE week > ?""",  # noqa: S608 (a name of ours)
        [week, column, week, since],
    )
    return sorted((r["name"] for r in found), key=natural_key)


def names_like(state: State, column: str, text: str, called: Mapping[str, str], limit: int) -> list[str]:
    """Some of `names` that hold a text, in their key or in what they are called; keys that begin with it first, then
    other keys, then names.

    Args:
        called: key -> name, of those that have one.
    """
    text = text.lower()

    def rank(key: str) -> int | None:
        place = key.lower().find(text)
        if place >= 0:
            return min(place, 1)
        return 2 if text in called.get(key, "").lower() else None

    found = [(place, key) for key in names(state, column) if (place := rank(key)) is not None]
    return [key for _, key in sorted(found, key=lambda pair: pair[0])[:limit]]


def groups(state: State, week: dt.date) -> dict[str, list[str]]:
    """The levels by attributes that a week's forecast was published at, and the groups of each in natural order."""
    found: dict[str, list[str]] = {}
    for r in state.rows("SELECT DISTINCT level, member FROM level_members WHERE forecast_week = ?", [week]):
        found.setdefault(r["level"], []).append(r["member"])
    return {level: sorted(found[level], key=natural_key) for level in sorted(found)}


def history(state: State, scope: Scope, first: dt.date, last: dt.date) -> Rows:
    """Sales by week: week, sales (null where nothing of the scope was observed), holiday."""
    where, parameters = scope.members()
    # Of all weeks, because a page needs several spans of them and reads them once.
    rows = state.rows(
        f"""SELECT week, sum(CASE WHEN observed THEN sales END) AS sales, max(CASE WHEN is_holiday THEN 1 ELSE 0 END) AS
                   holiday
            FROM cleaned_series WHERE {where} GROUP BY week ORDER BY week""",  # noqa: S608
        parameters,
    )
    return [r for r in rows if first <= r["week"] <= last]


def quantile_columns(state: State, week: dt.date) -> tuple[str, ...]:
    """Columns of the quantiles that the forecasts of a week were published with, ascending."""
    names = [row["column_name"] for row in state.rows("DESCRIBE forecasts", [])]
    names = sorted((n for n in names if QUANTILE.fullmatch(n)), key=lambda n: int(n[1:]))
    counts = ", ".join(f"count({n}) AS {n}" for n in names)
    asked = f"SELECT {counts} FROM forecasts WHERE forecast_week = ? AND level = 'total'"  # noqa: S608
    (row,) = state.rows(asked, [week])
    return tuple(n for n in names if row[n])


def forecast(state: State, scope: Scope, week: dt.date, columns: Sequence[str], events: Sequence[Event] = ()) -> Rows:
    """A published forecast: target_week, horizon, mean, quantiles, what the run before said, last year's sales.

    `last_year` is the week 52 weeks before, `aligned` the same with holidays lined up: where one of `events` moved, the
    days as far from it a year ago. Both are None where any of it was not observed.
    """
    where, parameters = scope.where()
    ahead = state.rows(
        f"""SELECT target_week, horizon, mean, {", ".join(columns)} FROM forecasts
            WHERE forecast_week = ? AND {where} ORDER BY target_week""",  # noqa: S608
        [week, *parameters],
    )
    if not ahead:
        return []
    before = {r["target_week"]: r["p50"] for r in previous(state, scope, week)}
    rows = history(state, scope, week - YEAR_AND_MORE * WEEK, ahead[-1]["target_week"])
    past = {r["week"]: r["sales"] for r in rows}
    targets = [r["target_week"] for r in ahead]
    aligned = aligned_last_year({w: v for w, v in past.items() if w <= week}, week, targets, events)
    return [
        {
            **row,
            "previous": before.get(row["target_week"]),
            "last_year": past.get(row["target_week"] - 52 * WEEK),
            "aligned": aligned[row["target_week"]],
            "actual": past.get(row["target_week"]),
        }
        for row in ahead
    ]


def borrowed_season(
    state: State, scope: Scope, week: dt.date, ahead: Rows, tried: Mapping[str, Any], names: Names
) -> str:
    """Where a new series' forecast has its season from, in a sentence: of the weeks ahead it has no sales of its own a
    year before. "" for other series and sums, and where the candidates that serve are not known or look at no season.

    Args:
        ahead: its forecast.
        tried: the model's candidates, as TrainedModel.tried has them.
    """
    own = [r for r in history(state, scope, dt.date.min, week) if r["sales"] is not None]
    if scope.level != "series" or not ahead or not own:
        return ""
    first, year = own[0]["week"], 52 * WEEK
    new = [r["target_week"] for r in ahead if r["target_week"] - year < first]
    [kind] = kinds(np.array([[r["sales"] for r in own]], dtype=np.float64))
    weights = {name: each["weights"][KINDS[kind]] for name, each in tried.items() if "weights" in each}
    part = sum(weight for name, weight in weights.items() if name in FROM_OUTLOOK)
    if not new or part < 0.005:
        return ""
    of_dept, of_store = (
        any(r["sales"] is not None for r in history(state, sums, new[0] - year, new[-1] - year))
        for sums in (Scope(dept=scope.dept), Scope(scope.store))
    )
    _, words = names.words.gettext, names.words
    said = [_("New: first sold in the week of %(week)s.", week=words.week(first))]
    if len(new) == len(ahead):
        said.append(_("A year before the weeks ahead it has no sales of its own."))
    else:
        said.append(
            _("A year before the weeks ahead up to %(week)s it has no sales of its own.", week=words.week(new[-1]))
        )
    values = {"share": words.percent(part, 0), "dept": names.dept(scope.dept), "store": names.store(scope.store)}
    if not of_dept:
        said.append(
            _(
                "Nor has %(dept)s any then: %(share)s of the forecast is the series' own level, with no season.",
                **values,
            )
        )
    elif of_store:
        said.append(
            _(
                "%(share)s of the forecast takes its season from %(dept)s in all stores and, in part, the ups and "
                "downs of %(store)s, at the series' own level.",
                **values,
            )
        )
    else:
        said.append(
            _(
                "%(share)s of the forecast takes its season from %(dept)s in all stores, at the series' own level.",
                **values,
            )
        )
    return " ".join(said)


def aligned_last_year(
    past: Mapping[dt.date, float | None], last: dt.date, targets: Sequence[dt.date], events: Sequence[Event]
) -> dict[dt.date, float | None]:
    """Last year's sales of each target week, holidays lined up; None where any of it is unknown.

    Args:
        past: sales by week up to `last`.
        targets: weeks after `last`.
        events: those to line up.
    """
    sources = _year_back(last, (max(targets) - last) // WEEK, tuple(events))
    found: dict[dt.date, float | None] = {}
    for target in targets:
        parts = [(past.get(week), share) for week, share in sources[(target - last) // WEEK - 1]]
        values = [value * share for value, share in parts if value is not None]
        whole = len(values) == len(parts) and sum(share for _, share in parts) > 0.99
        found[target] = sum(values) if whole else None
    return found


@functools.lru_cache(64)
def _year_back(last: dt.date, horizon: int, events: tuple[Event, ...]) -> list[list[tuple[dt.date, float]]]:
    """For each of `horizon` weeks after `last` the weeks it goes back to and their shares."""
    known = [last - k * WEEK for k in range(YEAR_AND_MORE, -1, -1)]
    weights = one_year_back(np.array(known, dtype="datetime64[D]"), horizon, events)[:, len(known) :]
    return [[(w, share) for w, share in zip(known, column, strict=True) if share] for column in weights.T.tolist()]


def events(state: State, week: dt.date, country: str) -> tuple[Event, ...]:
    """The holidays that the forecast of a week was given: those of the calendar that had landed when it was
    made, and the country's where none had."""
    made = published(state, week)
    known_before = known_by(week) if made["as_known"] == "then" else made["created_at"]
    return state.apply(events_given, week, known_before, country)


def lined_up(state: State, week: dt.date, given: Sequence[Event]) -> tuple[Event, ...]:
    """Those of the `given` holidays by which last year's weeks are lined up. Where the forecast did not
    record it: all of them."""
    rows = state.rows("SELECT name, date, lined_up FROM forecast_events WHERE forecast_week = ?", [week])
    known = {(r["name"], r["date"]): r["lined_up"] for r in rows}
    return tuple(event for event in given if known.get((event.name, event.dates[0]), True))


def covariates(state: State, scope: Scope, declarations: Declarations) -> dict[str, dict[dt.date, float | None]]:
    """Values by week, past and planned, of the columns in use for a store or series; exposure last.

    Raises:
        ValueError: a declared column never landed, see Declarations.among.
    """
    if not scope.store:
        return {}
    landed = [r["name"] for r in state.rows("SELECT DISTINCT name FROM features ORDER BY name")]
    columns, exposure = declarations.among(landed)
    wanted = [column.name for column in (*columns, *exposure)]
    found: dict[str, dict[dt.date, float | None]] = {name: {} for name in wanted}
    for row in state.apply(features_in_force, scope.store, scope.dept).to_pylist():
        if row["name"] in found:
            found[row["name"]][row["week"]] = row["value"]
    return {name: values for name, values in found.items() if values}


def overrides(state: State, scope: Scope, week: dt.date) -> Rows:
    """Figures that people gave for the scope's series and weeks after `week`, the newest of each series and week, where
    they have not expired: store, dept, target_week, value, reason, author, expires, made_at, and `p50`, the forecast
    that each stands beside."""
    where, parameters = scope.members("o")
    return state.rows(
        f"""SELECT o.store, o.dept, o.target_week, o.value, f.p50, o.reason, o.author, o.expires, o.made_at
            FROM overrides AS o
            JOIN (SELECT store, dept, target_week, max(made_at) AS made_at FROM overrides
                  GROUP BY store, dept, target_week) AS n
              ON n.store = o.store AND n.dept = o.dept AND n.target_week = o.target_week AND n.made_at = o.made_at
            JOIN forecasts AS f
              ON f.level = 'series' AND f.store = o.store AND f.dept = o.dept AND f.target_week = o.target_week
            WHERE f.forecast_week = ? AND o.expires >= ? AND {where}
            ORDER BY o.target_week, o.store, o.dept""",  # noqa: S608
        [week, week, *parameters],
    )


def lead_time_demand(state: State, scope: Scope, week: dt.date, columns: Sequence[str]) -> Rows:
    """A published forecast of the next weeks added up: weeks, target_week (the last of them), mean, quantiles."""
    where, parameters = scope.where()
    return state.rows(
        f"""SELECT weeks, target_week, mean, {", ".join(columns)} FROM lead_time_demand
            WHERE forecast_week = ? AND {where} ORDER BY weeks""",  # noqa: S608
        [week, *parameters],
    )


def planned(ahead: Rows, given: Rows) -> Rows:
    """The forecast of a scope with `override`, the sum of the figures given (a series' own figure), and `plan`: p50 and
    what those figures add to it; both None in weeks without one."""
    added: dict[dt.date, float] = {}
    value: dict[dt.date, float] = {}
    for o in given:
        added[o["target_week"]] = added.get(o["target_week"], 0.0) + o["value"] - o["p50"]
        value[o["target_week"]] = value.get(o["target_week"], 0.0) + o["value"]
    return [
        {
            **r,
            "override": value.get(r["target_week"]),
            "plan": r["p50"] + added[r["target_week"]] if r["target_week"] in added else None,
        }
        for r in ahead
    ]


def previous(state: State, scope: Scope, week: dt.date) -> Rows:
    """What the run before `week` forecast: forecast_week, target_week, p50."""
    where, parameters = scope.where()
    before, _ = run_before(state, week)
    return state.rows(
        f"""SELECT forecast_week, target_week, p50 FROM forecasts
            WHERE forecast_week = ? AND {where} ORDER BY target_week""",  # noqa: S608
        [before, *parameters],
    )


def model(state: State, week: dt.date) -> dict[str, Any]:
    """The model in force at a week; empty when there is none."""
    found = state.rows("SELECT * FROM models WHERE week = ?", [week])
    return found[0] if found else {}


def published(state: State, week: dt.date, scope: Scope | None = None) -> dict[str, Any]:
    """When and what was published for a week: created_at, run_id, as_known, series, without; and of the week's own
    sales: landed_at, and reported of known, the series that sold in it and those that are open."""
    where, parameters = (scope or Scope()).members()
    (row,) = state.rows(
        """SELECT max(created_at) AS created_at, max(run_id) AS run_id, max(as_known) AS as_known
           FROM forecasts WHERE forecast_week = ? AND level = 'total'""",
        [week],
    )
    (series,) = state.rows(
        f"""SELECT count(*) AS n FROM forecasts
            WHERE forecast_week = ? AND level = 'series' AND horizon = 1 AND {where}""",  # noqa: S608
        [week, *parameters],
    )
    (without,) = state.rows(
        f"SELECT count(*) AS n FROM no_forecast WHERE forecast_week = ? AND {where}",  # noqa: S608
        [week, *parameters],
    )
    (landed,) = state.rows(
        f"""SELECT max(landed_at) AS landed_at, count(*) AS known, sum(CASE WHEN observed THEN 1 ELSE 0 END) AS reported
            FROM cleaned_series WHERE week = ? AND {where}""",  # noqa: S608
        [week, *parameters],
    )
    return {**row, "series": series["n"], "without": without["n"], **landed, "reported": landed["reported"] or 0}


def digits(state: State) -> int:
    """Decimals of the sales that landed, see publishing/sheets.py."""
    (row,) = state.rows(DIGITS)
    return row["digits"] or 0


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
        f"""SELECT week, {SCORES} FROM forecast_accuracy
            WHERE week > ? AND week <= ? AND {where} {ahead} GROUP BY week ORDER BY week""",  # noqa: S608
        [last - weeks * WEEK, last, *parameters, *more],
    )


def scores_by_horizon(state: State, scope: Scope, last: dt.date, weeks: int = 13, of_sum: bool = False) -> Rows:
    """Accuracy by weeks ahead, over the target weeks of the last `weeks`; see `scores`."""
    where, parameters = _scored(scope, of_sum)
    return state.rows(
        f"""SELECT horizon, {SCORES} FROM forecast_accuracy
            WHERE week > ? AND week <= ? AND {where} GROUP BY horizon ORDER BY horizon""",  # noqa: S608
        [last - weeks * WEEK, last, *parameters],
    )


def _scored(scope: Scope, of_sum: bool) -> tuple[str, list[Any]]:
    if of_sum:
        return scope.where()
    where, parameters = scope.members()
    return f"level = 'series' AND {where}", parameters


def recent(state: State, week: dt.date, scope: Scope | None = None) -> dict[str, Any]:
    """Accuracy of the scope's series together, one week ahead, over the RECENT weeks; `weeks` are those of them that
    were scored."""
    where, parameters = (scope or Scope()).members()
    (row,) = state.rows(
        f"""SELECT {SCORES} FROM forecast_accuracy
            WHERE level = 'series' AND horizon = 1 AND week > ? AND week <= ? AND {where}""",  # noqa: S608
        [week - RECENT * WEEK, week, *parameters],
    )
    return row


def calibration(
    state: State, scope: Scope, last: dt.date, columns: Sequence[str], horizon: int | None, weeks: int = 4
) -> tuple[list[tuple[float, float]], int]:
    """(level, share of sales at or below that quantile) of the series' forecasts for the last target weeks, and how
    many of those weeks there were."""
    where, parameters = scope.members("f")
    shares = ", ".join(
        f"avg(CASE WHEN a.sales <= f.{c} THEN 1.0 WHEN a.sales > f.{c} THEN 0.0 END) AS {c}" for c in columns
    )
    ahead, more = ("AND f.horizon = ?", [horizon]) if horizon else ("", [])
    (row,) = state.rows(
        f"""SELECT {shares}, count(DISTINCT f.target_week) AS weeks FROM forecasts AS f
            JOIN cleaned_series AS a ON a.week = f.target_week AND a.store = f.store AND a.dept = f.dept
            WHERE f.level = 'series' AND a.observed AND f.target_week > ? AND f.target_week <= ?
              AND f.forecast_week >= ? AND {where} {ahead}""",  # noqa: S608
        [last - weeks * WEEK, last, last - (weeks + (horizon or 60)) * WEEK, *parameters, *more],
    )
    return [(int(c[1:]) / 100, row[c]) for c in columns if row[c] is not None], row["weeks"]


def review_queue(state: State, week: dt.date, scope: Scope | None = None, limit: int | None = None) -> Rows:
    """Every series that needs a person, by the money at stake a week, most first.

    Three reasons, each in money a week: `miss`, how far the newest week's sales lay outside their interval; `bias`,
    the mean error of the last RECENT weeks where nearly all of it points one way; `change`, the mean revision of the
    next NEXT weeks since the run before. `money` is their sum. Forecasts scored are those made one week ahead.
    """
    return state.rows(*review_question(state, week, scope, limit))


def review_question(state: State, week: dt.date, scope: Scope | None = None, limit: int | None = None) -> Question:
    """What `review_queue` asks. Every series has all weeks of its run, so means over them may be subtracted, and all
    that is known of a series is brought together in one pass, where a join would take a multiple."""
    where, parameters = (scope or Scope()).members()
    before, reach = run_before(state, week)
    last = week + NEXT * WEEK
    sql = f"""
        WITH known AS (
            SELECT store, dept, p50 AS now, CASE WHEN target_week <= ? THEN p50 END AS compared,
                   CAST(NULL AS DOUBLE) AS before, CAST(NULL AS DATE) AS week, CAST(NULL AS DOUBLE) AS actual,
                   CAST(NULL AS DOUBLE) AS forecast, CAST(NULL AS DOUBLE) AS error,
                   CAST(NULL AS BOOLEAN) AS in_interval
            FROM forecasts WHERE level = 'series' AND forecast_week = ? AND target_week <= ? AND {where}
            UNION ALL
            SELECT store, dept, NULL, NULL, p50, NULL, NULL, NULL, NULL, NULL FROM forecasts
            WHERE level = 'series' AND forecast_week = ? AND target_week > ? AND target_week <= ? AND {where}
            UNION ALL
            SELECT store, dept, NULL, NULL, NULL, week, actual, p50, error, in_interval FROM forecast_accuracy
            WHERE level = 'series' AND horizon = 1 AND week > ? AND week <= ? AND {where}
        ), series AS (
            SELECT store, dept, avg(now) AS p50, avg(compared) - avg(before) AS change,
                   max(CASE WHEN week = ? THEN actual END) AS actual,
                   max(CASE WHEN week = ? THEN forecast END) AS forecast,
                   max(CASE WHEN week = ? THEN error END) AS newest_error,
                   max(CASE WHEN week <> ? THEN NULL WHEN in_interval THEN 1 WHEN NOT in_interval THEN 0 END) AS inside,
                   avg(error) AS mean_error, sum(abs(error)) AS abs_error, sum(error) AS error,
                   sum(abs(actual)) AS sold, count(error) AS weeks,
                   sum(CASE WHEN NOT in_interval THEN 1 ELSE 0 END) AS outside
            FROM known GROUP BY store, dept HAVING count(now) > 0
        ), reasons AS (
            SELECT store, dept, p50, change, actual, forecast, inside = 1 AS in_interval,
                   CASE WHEN weeks > 0 THEN weeks END AS weeks, CASE WHEN weeks > 0 THEN outside END AS outside,
                   error / nullif(sold, 0) AS bias_share, mean_error,
                   CASE WHEN inside = 0 THEN abs(newest_error) ELSE 0 END AS miss,
                   CASE WHEN weeks >= 4 AND abs(error) > {BIASED} * abs_error THEN abs(mean_error) ELSE 0 END AS bias
            FROM series
        )
        SELECT store, dept, p50, change, actual, forecast, in_interval, weeks, outside, bias_share, mean_error,
               miss, bias, miss + bias + coalesce(abs(change), 0) AS money{_of_all(limit)}
        FROM reasons ORDER BY money DESC, store, dept{_limit(limit)}
        """  # noqa: S608
    return sql, [
        *(min(last, reach or week), week, last, *parameters),
        *(before, week, last, *parameters),
        *(week - RECENT * WEEK, week, *parameters),
        *([week] * 4),
    ]


def _of_all(limit: int | None) -> str:
    """How many there are, beside limited rows; to count all beside all of them would keep them in memory."""
    return "" if limit is None else ", count(*) OVER () AS of_all"


def _limit(rows: int | None) -> str:
    return "" if rows is None else f" LIMIT {int(rows)}"


def misses(state: State, week: dt.date, by: str, scope: Scope, horizon: int = 1, limit: int | None = None) -> Rows:
    """The forecasts of a week that cost most, `by` a level: actual, p50, error, naive, in_interval; of limited rows
    `off_in_all` is the sum of all their errors."""
    return state.rows(*misses_question(week, by, scope, horizon, limit))


def misses_question(week: dt.date, by: str, scope: Scope, horizon: int = 1, limit: int | None = None) -> Question:
    """What `misses` asks."""
    where, parameters = scope.members()
    in_all = "" if limit is None else ", sum(abs_error) OVER () AS off_in_all"
    sql = f"""SELECT store, dept, member, actual, p50, error, abs_error, naive, naive_abs_error, in_interval
                   {_of_all(limit)}{in_all}
            FROM forecast_accuracy WHERE week = ? AND horizon = ? AND level = ? AND {where}
            ORDER BY abs_error DESC, store, dept, member{_limit(limit)}"""  # noqa: S608
    return sql, [week, horizon, by, *parameters]


def revisions(state: State, week: dt.date, by: str, scope: Scope, limit: int | None = None) -> Rows:
    """What changed between the run before and this one, over the weeks both forecast: before, now, change."""
    return state.rows(*revisions_question(state, week, by, scope, limit))


def revisions_question(state: State, week: dt.date, by: str, scope: Scope, limit: int | None = None) -> Question:
    """What `revisions` asks. In one pass as in `review_question`; how far the single weeks `moved` is told only where
    all rows are asked for, because it takes a join."""
    where, parameters = scope.members()
    before, reach = run_before(state, week)
    both = f"level = ? AND target_week > ? AND target_week <= ? AND {where}"
    asked = [by, week, reach, *parameters]
    if limit is None:
        sql = f"""
            SELECT n.store, n.dept, n.member, sum(b.p50) AS before, sum(n.p50) AS now, sum(n.p50 - b.p50) AS change,
                   sum(abs(n.p50 - b.p50)) AS moved, count(*) AS weeks, max(b.forecast_week) AS previous_week
            FROM (SELECT store, dept, member, target_week, p50 FROM forecasts WHERE forecast_week = ? AND {both}) AS n
            JOIN (SELECT forecast_week, store, dept, member, target_week, p50 FROM forecasts
                  WHERE forecast_week = ? AND {both}) AS b
              ON b.target_week = n.target_week
             AND coalesce(b.store, '') = coalesce(n.store, '') AND coalesce(b.dept, '') = coalesce(n.dept, '')
             AND coalesce(b.member, '') = coalesce(n.member, '')
            GROUP BY n.store, n.dept, n.member
            ORDER BY abs(sum(n.p50 - b.p50)) DESC, n.store, n.dept, n.member"""  # noqa: S608
        return sql, [week, *asked, before, *asked]
    sql = f"""
        SELECT store, dept, member, before, now, now - before AS change, weeks, previous_week{_of_all(limit)}
        FROM (
            SELECT store, dept, member, sum(CASE WHEN forecast_week = ? THEN p50 END) AS before,
                   sum(CASE WHEN forecast_week = ? THEN p50 END) AS now,
                   sum(CASE WHEN forecast_week = ? THEN 1 ELSE 0 END) AS weeks, min(forecast_week) AS previous_week
            FROM forecasts WHERE forecast_week IN (?, ?) AND {both} GROUP BY store, dept, member
        ) AS pair WHERE before IS NOT NULL AND now IS NOT NULL
        ORDER BY abs(now - before) DESC, store, dept, member{_limit(limit)}"""  # noqa: S608
    return sql, [before, week, week, before, week, *asked]


@dataclass(frozen=True)
class Cell:
    """One series of a heat map: its value, the money it sold and was off by, and whether it is one of the few cells
    that make up half of all that the map is off."""

    value: float
    actual: float
    off: float
    heavy: bool = False


@dataclass(frozen=True)
class HeatMap:
    """Stores down, departments across, those that are off by most money first.

    Attributes:
        stores_in_all, depts_in_all: how many there are; those off by most are shown.
        weeks: target weeks that the values rest on.
    """

    stores: list[str]
    depts: list[str]
    cells: dict[tuple[str, str], Cell]
    stores_in_all: int
    depts_in_all: int
    weeks: int


def heat_map(state: State, last: dt.date, measure: str, weeks: int) -> HeatMap:
    """WAPE, bias or coverage of every series over the last weeks, one week ahead."""
    series, span = _cells(measure), [last - weeks * WEEK, last]
    of_most = """SELECT {0}, sum(off) AS off, count(*) OVER () AS of_all FROM series
                 GROUP BY {0} ORDER BY off DESC, {0} LIMIT {1}"""
    rows = state.rows(
        f"""WITH series AS ({series})
            SELECT c.store, c.dept, c.value, c.actual, c.off, coalesce(c.larger, 0) < c.whole / 2 AS heavy,
                   s.off AS of_store, d.off AS of_dept, s.of_all AS stores_in_all, d.of_all AS depts_in_all
            FROM (
                SELECT *, sum(off) OVER () AS whole,
                       sum(off) OVER (ORDER BY off DESC, store, dept ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                           AS larger
                FROM series
            ) AS c
            JOIN ({of_most.format("store", HEATMAP_ROWS)}) AS s ON s.store = c.store
            JOIN ({of_most.format("dept", HEATMAP_COLUMNS)}) AS d ON d.dept = c.dept""",  # noqa: S608
        span,
    )
    (scored,) = state.rows(
        """SELECT count(DISTINCT week) AS n FROM forecast_accuracy
           WHERE level = 'total' AND horizon = 1 AND week > ? AND week <= ?""",
        span,
    )
    cells = {
        (r["store"], r["dept"]): Cell(r["value"], r["actual"], r["off"], r["heavy"])
        for r in rows
        if r["value"] is not None
    }
    stores, depts = _most({r["store"]: r["of_store"] for r in rows}), _most({r["dept"]: r["of_dept"] for r in rows})
    stores_in_all, depts_in_all = (rows[0]["stores_in_all"], rows[0]["depts_in_all"]) if rows else (0, 0)
    return HeatMap(stores, depts, cells, stores_in_all, depts_in_all, scored["n"])


def cells_question(last: dt.date, measure: str, weeks: int) -> Question:
    """Every cell that a heat map could show: store, dept, the measure, actual, off."""
    sql = f"""SELECT store, dept, value AS {measure}, actual, off FROM ({_cells(measure)}) AS c
              WHERE value IS NOT NULL ORDER BY store, dept"""  # noqa: S608
    return sql, [last - weeks * WEEK, last]


def _cells(measure: str) -> str:
    return f"""SELECT store, dept, {SCORE[measure]} AS value, sum(abs(actual)) AS actual, sum(abs_error) AS off
               FROM forecast_accuracy WHERE level = 'series' AND horizon = 1 AND week > ? AND week <= ?
               GROUP BY store, dept"""  # noqa: S608


def _most(money: Mapping[str, float]) -> list[str]:
    """Names by money, most first."""
    return sorted(money, key=lambda name: (-money[name], natural_key(name)))


def landings(state: State, limit: int | None = None) -> Rows:
    """Files that landed, newest first."""
    return state.rows(
        f"SELECT *, count(*) OVER () AS of_all FROM landings ORDER BY landed_at DESC, source_key{_limit(limit)}"  # noqa: S608
    )


def quarantined(state: State, limit: int | None = None) -> Rows:
    """Rejected lines and files, newest first, with the rule and what to do."""
    return state.rows(
        f"""SELECT landed_at, source_key, line, rule, field, value, message, count(*) OVER () AS of_all FROM quarantine
            ORDER BY landed_at DESC, source_key, line{_limit(limit)}"""  # noqa: S608
    )


def models(state: State, limit: int | None = None) -> Rows:
    """Models in force, newest week first."""
    return state.rows(
        f"""SELECT week, version, trained_as_of, target, network_share, backtest_wape, naive_wape, backtest_coverage80,
                   verdict, why, count(*) OVER () AS of_all FROM models ORDER BY week DESC{_limit(limit)}"""  # noqa: S608
    )


def without_forecast(state: State, week: dt.date, limit: int | None = None) -> Rows:
    """Series that got no forecast, each with the reason."""
    return state.rows(*without_question(week, limit))


def without_question(week: dt.date, limit: int | None = None) -> Question:
    """What `without_forecast` asks."""
    sql = f"""SELECT store, dept, last_week, reason{_of_all(limit)} FROM no_forecast WHERE forecast_week = ?
              ORDER BY last_week DESC, store, dept{_limit(limit)}"""  # noqa: S608
    return sql, [week]


def reason_without(state: State, week: dt.date, scope: Scope) -> str:
    """Why a series has no forecast, as was recorded; "" where nothing was, and of a store, department or group."""
    found = state.rows(
        "SELECT reason FROM no_forecast WHERE forecast_week = ? AND store = ? AND dept = ?",
        [week, scope.store, scope.dept],
    )
    return str(found[0]["reason"]) if found else ""
