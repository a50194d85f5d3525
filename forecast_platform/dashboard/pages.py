"""What each page shows: the view in an address, and one function a page from a view to what its template needs.

Each context holds `tables`: the page's rows by name, whole and asked for only when `?format=csv&table=NAME` (or xlsx)
wants them as a file. What a page shows of them is limited and says so.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from forecast_platform.dashboard import questions as ask
from forecast_platform.dashboard.charts import (
    Band,
    Fan,
    Line,
    Mark,
    Spread,
    bars,
    calibration_chart,
    ratio_chart,
    sparkline,
    time_chart,
)
from forecast_platform.dashboard.names import Names
from forecast_platform.dashboard.questions import Rows, Scope, State
from forecast_platform.dashboard.recorded import recorded
from forecast_platform.dashboard.rendering import sentence
from forecast_platform.dashboard.stages import ASSETS, Stages
from forecast_platform.dashboard.troubles import Findings, troubles
from forecast_platform.history.holidays import Event
from forecast_platform.history.panel import natural_key
from forecast_platform.models.leaderboard import BY, SEASONS, SERVED, WHOLE, Leaderboard, LeaderboardLost, Slice, Tally
from forecast_platform.publishing.forecasts import probability_above
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK
from forecast_platform.words import LANGUAGES, N_, Words

FORMS = ("csv", "xlsx", "parquet")  # of files; parquet is of whole forecasts only
LISTED = 50  # rows of a ranking that a page shows; the file has all
OFFERED = 200  # names of stores, or of departments, that a page has in itself
FEW = 12  # rows of each list on the page of many lists

# What each candidate is, for people who plan.
IN_WORDS = {
    "ratio": N_("networks that learn how sales run against last year's week"),
    "sales": N_("networks that learn sales themselves"),
    "sales, lag skip": N_("the same for series that go on from their last weeks"),
    "sales, counts": N_("networks for pieces, of which few are sold in a week"),
    "reference": N_("a network that is told what was sold last year"),
    "trees": N_("decision trees that learn what prices and promotions do"),
    "aligned_last_year": N_("last year's week with holidays lined up and this year's growth"),
    "pretrained": N_(
        "last year's week with holidays lined up, corrected by a network that learnt on made-up retailers"
    ),
    "last_year": N_("the same week last year, as it was"),
    "recent_level": N_("what the last weeks sold, whatever the season"),
    "intermittent": N_("how often an article sells, and how much when it does"),
    "last_value": N_("the last week's sales, carried on"),
}

Tables = dict[str, Callable[[], Iterable[dict[str, Any]]]]


class BadView(ValueError):
    """The address asks for something that isn't there; the message says what there is."""


class NothingPublished(BadView):
    """There is no forecast to show yet."""


@dataclass(frozen=True)
class Change:
    """How much more one sum is than another: in money, and as a share where the other is positive. Of a negative or
    empty base a share has no meaning: a rise would be shown as a fall."""

    amount: float
    share: float | None

    @classmethod
    def between(cls, rows: Rows, part: str, whole: str) -> Change | None:
        """How much more `part` is than `whole` over the rows that have both; None where there is none."""
        both = [r for r in rows if r[part] is not None and r[whole] is not None]
        if not both:
            return None
        amount, base = sum(r[part] - r[whole] for r in both), sum(r[whole] for r in both)
        return cls(amount, amount / base if base > 0 else None)

    def told(self, words: Words) -> str:
        return words.signed_cash(self.amount) if self.share is None else words.percent(self.share, 1, True)


def words_of(settings: Settings, query: Mapping[str, str]) -> Words:
    """In which language an address asks to be answered: `lang`, else the setting's.

    Raises:
        BadView: there are no texts in that language.
    """
    language = query.get("lang", "") or settings.words.language
    if language not in LANGUAGES:
        raise BadView(f"lang is {language!r}; it is one of {', '.join(LANGUAGES)}")
    return settings.words.spoken(language)


class View:
    """A page's address: which week, which stores, departments or group of them, and the page's own choices.

    Args:
        now: timezone-aware; what is late is late by it. None: nothing is, as in a report of a week long past.
    """

    def __init__(
        self,
        state: State,
        settings: Settings,
        query: Mapping[str, str],
        stages: Stages | None = None,
        now: dt.datetime | None = None,
    ) -> None:
        self.state, self.settings, self._query, self.stages, self.now = state, settings, query, stages, now
        self.words = words_of(settings, query)
        self.names = Names.of(state, self.words)
        self.weeks = ask.forecast_weeks(state)
        if not self.weeks:
            raise NothingPublished(
                self.words.gettext("No forecast has been published yet. Land sales and run the graph: forecast run")
            )
        self.week = self._week(query.get("week", ""))
        self.scope = self._scope(*(query.get(name, "").strip() for name in ("store", "dept", "group")))
        self.form = self.choose("format", ("", *FORMS), "")
        self.wanted_table = query.get("table", "")

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns of the quantiles that the week's forecast was published with, whichever are published now."""
        return ask.quantile_columns(self.state, self.week)

    @functools.cached_property
    def events(self) -> tuple[Event, ...]:
        """The holidays that the week's forecast was given."""
        return ask.events(self.state, self.week, self.settings.country)

    @functools.cached_property
    def lined_up(self) -> tuple[Event, ...]:
        """Those of them by which last year's weeks are lined up."""
        return ask.lined_up(self.state, self.week, self.events)

    @functools.cached_property
    def findings(self) -> Findings:
        """What is wrong with the newest weeks, whichever week is looked at."""
        return troubles(self.state, self.settings, self.now, self.names)

    def is_whole(self, week: dt.date) -> bool:
        """Whether the scope's sales of a week are complete. The sum of a part would look like a collapse; a single
        series has no parts."""
        to = self.findings.complete_to
        return self.scope.level == "series" or to is None or week <= to

    @property
    def partial(self) -> dt.date | None:
        """The newest week, where it is incomplete and so left out of the scope's sums."""
        newest = self.findings.newest
        return newest if newest and not self.is_whole(newest) else None

    @property
    def file_name(self) -> str:
        """The view in a few words, to name files by: scope, choices, week."""
        scope = [f"store {self.scope.store}" if self.scope.store else "", f"dept {self.scope.dept}" if self.scope.dept
                 else "", self.scope.name if self.scope.attribute else ""]  # fmt: skip
        chosen = [f"{k} {v}" for k, v in sorted(self._query_only().items()) if k != "rows"]
        return " ".join(filter(None, [*scope, *chosen, str(self.week)]))

    @functools.cached_property
    def stores(self) -> list[str]:
        return ask.names(self.state, "store")

    @functools.cached_property
    def depts(self) -> list[str]:
        return ask.names(self.state, "dept")

    def offered(self, column: str, keys: Sequence[str]) -> Sequence[tuple[str, str]]:
        """The stores or departments that a page offers by itself, each with how it is called; of more, the script asks
        for those like what is typed."""
        return [(key, self.names.key(column, key)) for key in keys] if len(keys) <= OFFERED else ()

    @property
    def title(self) -> str:
        """The scope as headings and sentences call it."""
        return self.names.scope(self.scope)

    def in_money(self, title: str) -> str:
        """The title of a chart or table of sales, with their unit."""
        return f"{title} · {self.words.unit}" if self.words.unit else title

    @property
    def lang(self) -> str:
        """The language that the address asks for; "" where it leaves that to the setting."""
        return self._query.get("lang", "")

    @property
    def attributes(self) -> str:
        """What is known of the scope's store and department beside their names."""
        return self.names.attributes(self.state, self.scope)

    @functools.cached_property
    def groups(self) -> dict[str, list[str]]:
        """The levels by attributes there are, each with its groups."""
        return ask.groups(self.state, self.week)

    def link(self, **changes: Any) -> dict[str, Any]:
        """The view's own parameters with some changed, for links on a page. A store or department leaves the group."""
        week = "" if self.week == self.weeks[0] else str(self.week)
        group = "" if changes.get("store") or changes.get("dept") else self.scope.group
        own = {"week": week, "store": self.scope.store, "dept": self.scope.dept, "group": group}
        return {**own, **self._query_only(), **changes}

    def link_to(self, row: Mapping[str, Any], level: str, **changes: Any) -> dict[str, Any]:
        """`link` to what a row of a ranking by a level is of."""
        if level in self.groups:
            return self.link(group=f"{level}: {row['member']}", store="", dept="", **changes)
        return self.link(store=row["store"] or self.scope.store, dept=row["dept"] or self.scope.dept, **changes)

    @property
    def levels(self) -> list[tuple[str, str]]:
        """What a ranking may be by, and in words."""
        _ = self.words.gettext
        own = [("store", _("store")), ("dept", _("department")), ("series", _("store and department"))]
        return own + [(level, self.words.term(level)) for level in self.groups]

    def head_of(self, by: str) -> str:
        """The head of a ranking's first column."""
        _ = self.words.gettext
        own = {"store": _("Store"), "dept": _("Department"), "series": _("Series")}
        return own[by] if by in own else sentence(self.words.term(by))

    def row_name(self, row: Mapping[str, Any], by: str) -> str:
        """What a row of a ranking by a level is of."""
        if by == "series":
            return sentence(self.names.series(row["store"], row["dept"]))
        if by in ("store", "dept"):
            return sentence(self.names.store(row["store"]) if by == "store" else self.names.dept(row["dept"]))
        return sentence(self.names.member(by, row["member"]))

    def horizon_words(self, weeks: int | None, before: bool = False) -> str:
        """When a forecast was made, seen from the week it is of."""
        many = self.words.weeks(weeks)
        if before:
            return self.words.gettext("%(weeks)s before", weeks=many)
        return self.words.gettext("%(weeks)s ahead", weeks=many) if weeks else self.words.gettext("all weeks ahead")

    def by(self, default: str) -> str:
        """The level that a ranking is by."""
        return self.choose("by", [level for level, _ in self.levels], default)

    def choose(self, name: str, options: Sequence[str], default: str) -> str:
        """A parameter with a fixed set of values."""
        value = self._query.get(name, default)
        if value not in options:
            raise BadView(self.words.gettext("%(name)s is %(value)s; it is one of %(options)s", name=name,
                                             value=repr(value), options=", ".join(options)))  # fmt: skip
        return value

    def amount(self, name: str) -> float | None:
        """A parameter that is a number; None where it is not given."""
        text = self._query.get(name, "").strip()
        try:
            value = float(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not math.isfinite(value):
            raise BadView(
                self.words.gettext("%(name)s is %(value)s; write a number, such as 500", name=name, value=repr(text))
            )
        return value

    def horizon(self, default: str = "1") -> int | None:
        """Weeks ahead; None for all."""
        options = ["all", *(str(h) for h in range(1, self.settings.prediction_length + 1))]
        value = self.choose("horizon", options, default)
        return None if value == "all" else int(value)

    @property
    def horizons(self) -> list[int]:
        """Weeks ahead that are offered to choose from."""
        full = self.settings.prediction_length
        return sorted({h for h in (1, 4, 8) if h < full} | {full})

    def _query_only(self) -> dict[str, str]:
        own = ("week", "store", "dept", "group", "format", "table", "lang")
        return {k: v for k, v in self._query.items() if k not in own and v}

    def _scope(self, store: str, dept: str, group: str) -> Scope:
        _ = self.words.gettext
        if not group:
            return Scope(store, dept)
        if store or dept:
            raise BadView(_("%(group)s is a group of its own: leave store and department empty, or choose all groups",
                            group=group))  # fmt: skip
        known = [Scope("", "", level, name, self.week) for level, names in self.groups.items() for name in names]
        for scope in known:
            if scope.group == group:
                return scope
        there = ", ".join(scope.group for scope in known[:12]) or _("none; the setting levels asks for them")
        raise BadView(_("There is no group %(group)s in the forecast of %(week)s; there are %(there)s", group=group,
                        week=self.words.week(self.week), there=there))  # fmt: skip

    def _week(self, text: str) -> dt.date:
        _ = self.words.gettext
        if not text:
            return self.weeks[0]
        try:
            week = dt.date.fromisoformat(text)
        except ValueError:
            raise BadView(_("week is %(text)s; write the date a week ends on, such as %(week)s", text=repr(text),
                            week=self.weeks[0])) from None  # fmt: skip
        if week not in self.weeks:
            raise BadView(_("No forecast was published for the week of %(week)s; the newest is %(newest)s",
                            week=week, newest=self.weeks[0]))  # fmt: skip
        return week


def this_week(view: View) -> dict[str, Any]:
    """What is wrong; the forecast of all stores or of those chosen, which model serves; then the review queue."""
    state, week, scope, _ = view.state, view.week, view.scope, view.words.gettext
    _must_exist(view)
    ahead, given = _ahead(view)
    next_weeks = ahead[: ask.NEXT]
    rows = int(view.choose("rows", ("12", "50", "500"), "12"))
    shown = ask.review_queue(state, week, scope, rows)
    recent = ask.recent(state, week, scope)
    model = ask.model(state, week)
    return {
        "queue": _with_sparks(view, shown),
        "queue_length": shown[0]["of_all"] if shown else 0,
        "reason": "" if shown else _reason(view),
        "rows": rows,
        "chart": fan(view, scope, ahead).svg(
            view.in_money(_("%(scope)s: sales, and the forecast after the week of %(week)s",
                            scope=sentence(view.title), week=view.words.week(week))), view.words
        ),
        "ahead": ahead,
        "overrides": given,
        "next_total": sum(r["p50"] for r in next_weeks) if next_weeks else None,
        "next_count": len(next_weeks),
        "next_plan": sum(r["p50"] if r["plan"] is None else r["plan"] for r in next_weeks)
        if any(r["plan"] is not None for r in next_weeks) else None,
        "next_against_last_year": Change.between(next_weeks, "p50", "aligned"),
        "next_against_previous": Change.between(next_weeks, "p50", "previous"),
        "model": model,
        "meanings": _in_words(view, _serving(model)),
        "published": ask.published(state, week, scope),
        "recent": recent,
        "held": _held(view, recent["held"]),
        "findings": view.findings,
        "tables": {
            "queue": lambda: state.stream(*ask.review_question(state, week, scope)),
            "forecast": lambda: ahead,
            "sales": lambda: _sales(view),
            "troubles": lambda: [
                {"kind": t.kind, "serious": t.serious, "what": t.text, "next": t.step} for t in view.findings.troubles
            ],
        },
    }  # fmt: skip


def explore(view: View) -> dict[str, Any]:
    """One series, store, department or the total: history, forecast, the run before, accuracy, table."""
    state, scope, _ = view.state, view.scope, view.words.gettext
    _must_exist(view)
    ahead, given = _ahead(view)
    accuracy = ask.scores(state, scope, view.week, view.horizon(), 26, of_sum=True)
    columns, lacking = _covariates(view)
    lead_time, above = ask.lead_time_demand(state, scope, view.week, view.columns), view.amount("above")
    if above is not None:
        levels = [int(name[1:]) / 100 for name in view.columns]
        lead_time = [{**r, "above": probability_above(above, [r[c] for c in view.columns], levels)} for r in lead_time]
    model = ask.model(state, view.week)
    tried = json.loads(model.get("candidates") or "{}")  # of a model of before nothing is told
    return {
        "reason": "" if ahead else _reason(view),
        "borrowed": ask.borrowed_season(state, scope, view.week, ahead, tried, view.names),
        "ahead": ahead,
        "lead_time": lead_time,
        "above": above,
        "overrides": given,
        "chart": fan(view, scope, ahead).svg(
            view.in_money(_("%(scope)s: sales and forecast", scope=sentence(view.title))), view.words
        ),
        "covariate_charts": [_covariate_chart(view, name, values, ahead) for name, values in columns.items()],
        "lacking": lacking,
        "findings": view.findings,
        "accuracy": accuracy,
        "accuracy_chart": _accuracy_chart(view, accuracy, _("Error of its forecasts (WAPE)")),
        "horizon": view.horizon(),
        "model": model,
        "tables": {
            "forecast": lambda: ahead,
            "lead_time": lambda: lead_time,
            "sales": lambda: _sales(view),
            "accuracy": lambda: accuracy,
            "overrides": lambda: given,
            "covariates": lambda: [
                {"week": week, "name": name, "value": value}
                for name, values in columns.items()
                for week, value in sorted(values.items())
            ],
        },
    }


class _Square(NamedTuple):
    """A cell of the heat map as it is drawn; attributes, because templates look those up quickest."""

    dept: str
    text: str
    style: str
    title: str


def heatmap(view: View) -> dict[str, Any]:
    """Error, bias or coverage of every series: stores down, departments across, largest errors in money first."""
    _ = view.words.gettext
    measure = view.choose("measure", ("wape", "bias", "coverage"), "wape")
    weeks = int(view.choose("weeks", ("1", "4", "8", "13", "26"), "8"))
    order = view.choose("order", ("money", "name"), "money")
    found = ask.heat_map(view.state, view.week, measure, weeks)
    stores, depts = (
        (found.stores, found.depts)
        if order == "money"
        else (sorted(found.stores, key=natural_key), sorted(found.depts, key=natural_key))
    )
    rows = [
        {
            "store": store,
            "name": view.names.key("store", store),
            "cells": [
                _Square(
                    dept,
                    view.words.fixed(cell.value * 100, 0),
                    _shade(measure, cell.value) + (" heavy" if cell.heavy else ""),
                    _("off by %(money)s", money=view.words.cash(cell.off)) if cell.heavy else "",
                )
                if cell
                else None
                for dept in depts
                for cell in [found.cells.get((store, dept))]
            ],
        }
        for store in stores
    ]
    return {
        "measure": measure,
        "weeks": weeks,
        "order": order,
        "found": found,
        "depts": [(dept, view.names.key("dept", dept)) for dept in depts],
        "rows": rows,
        "steps": _step_words(view, measure),
        "tables": {"series": lambda: view.state.stream(*ask.cells_question(view.week, measure, weeks))},
    }


def misses(view: View) -> dict[str, Any]:
    """The forecasts of the week that cost most; from stores to departments to series."""
    by = view.by("store" if view.scope.level == "total" else "series")
    horizon = view.horizon() or 1
    rows = ask.misses(view.state, view.week, by, view.scope, horizon, LISTED)
    most = max((r["abs_error"] for r in rows), default=0) or 1
    return {
        "by": by,
        "horizon": horizon,
        "rows": [{**r, "part": r["abs_error"] / most} for r in rows],
        "lost": rows[0]["off_in_all"] if rows else 0,
        "of_all": rows[0]["of_all"] if rows else 0,
        "tables": {"misses": lambda: view.state.stream(*ask.misses_question(view.week, by, view.scope, horizon))},
    }


def revisions(view: View) -> dict[str, Any]:
    """What this run says that the run before did not."""
    by = view.by("dept" if view.scope.level == "total" else "series")
    rows = ask.revisions(view.state, view.week, by, view.scope, LISTED)
    scope, _ = view.scope, view.words.gettext
    ahead = _ahead(view)[0]
    weeks = [r["target_week"] for r in ahead]
    lines = [
        Line(_("this run"), "forecast", [r["p50"] for r in ahead]),
        Line(_("the run before"), "previous", [r["previous"] for r in ahead]),
        Line(_("last year, holidays lined up"), "naive", [r["aligned"] for r in ahead]),
    ]
    return {
        "by": by,
        "rows": rows,
        "of_all": rows[0]["of_all"] if rows else 0,
        "previous_week": rows[0]["previous_week"] if rows else None,
        "chart": time_chart(
            view.in_money(_("%(scope)s: forecasts of the weeks ahead", scope=sentence(view.title))),
            weeks,
            lines,
            words=view.words,
        ),
        "most": max((abs(r["change"]) for r in rows), default=0) or 1,
        "tables": {
            "revisions": lambda: view.state.stream(*ask.revisions_question(view.state, view.week, by, scope)),
            "forecast": lambda: ahead,
        },
    }


def accuracy(view: View) -> dict[str, Any]:
    """How good the forecasts were: over time, by weeks ahead, and whether the intervals hold what they promise."""
    state, scope, horizon, _ = view.state, view.scope, view.horizon(), view.words.gettext
    of_sum = view.choose("of", ("series", "sum"), "series") == "sum"
    title = (
        _("%(scope)s, as one sum: error by week (WAPE)", scope=sentence(view.title))
        if of_sum
        else _("%(scope)s, every series: error by week (WAPE)", scope=sentence(view.title))
    )
    by_week = ask.scores(state, scope, view.week, horizon, of_sum=of_sum)
    by_horizon = ask.scores_by_horizon(state, scope, view.week, of_sum=of_sum)
    points, calibrated = ask.calibration(state, scope, view.week, view.columns, horizon)
    return {
        "horizon": horizon,
        "by_week": by_week,
        "by_horizon": by_horizon,
        "of_sum": of_sum,
        "chart": _accuracy_chart(view, by_week, title),
        "coverage_chart": time_chart(
            _("Share of sales inside the published interval, and what it should hold"),
            [r["week"] for r in _every_week(by_week)],
            [
                Line(_("observed"), "forecast", [r["coverage"] for r in _every_week(by_week)]),
                Line(_("as it should be"), "naive", [_held(view, r["held"]) for r in _every_week(by_week)]),
            ],
            height=240,
            span=(0, 1),
            percent=True,
            words=view.words,
        ),
        "horizon_chart": bars(
            _("Error by weeks ahead (WAPE)"),
            [str(r["horizon"]) for r in by_horizon],
            [
                Line(_("forecast"), "forecast", [r["wape_where_naive"] for r in by_horizon]),
                Line(_("52 weeks before"), "naive", [r["naive_wape"] for r in by_horizon]),
            ],
            words=view.words,
        ),
        "calibration": calibration_chart(_("Calibration of the series' quantiles"), points, words=view.words),
        "calibrated_weeks": calibrated,
        "tables": {
            "weeks": lambda: by_week,
            "weeks ahead": lambda: by_horizon,
            "calibration": lambda: [{"quantile": q, "share": share} for q, share in points],
        },
    }


def leaderboard(view: View) -> dict[str, Any]:
    """What every candidate would have forecast of past weeks, beside what was served: as `forecast backtest` left it in
    the home."""
    measure, _ = view.choose("measure", tuple(_MEASURES), "wql"), view.words.gettext
    try:
        board, lost = Leaderboard.load(view.settings.home), ""
    except LeaderboardLost as error:
        board, lost = None, str(error)
    shown: dict[str, Any] = {
        "board": board,
        "lost": lost,
        "measure": measure,
        "measures": {k: _(v) for k, (v, _of) in _MEASURES.items()},
    }
    if board is None:
        return {**shown, "tables": {"scores": lambda: []}}
    standings, cutoffs = _standings(view, board), _decisions(view, board)
    served = next(row for row in standings if row["served"])
    others = [row for row in standings if not row["served"] and row["cutoffs"] == len(board.cutoffs)]
    return {
        **shown,
        "standings": standings,
        "meanings": _in_words(view, board.candidates),
        "cutoffs": cutoffs,
        "served": served,
        "throughout": others[0] if others else None,
        "last_year": next((row for row in standings if row["candidate"] == "last_year"), None),
        "chart": ratio_chart(
            _("Regret at each cutoff: wQL / that of the best candidate in hindsight"),
            [view.words.week_key(cutoff) for cutoff in board.cutoffs],
            [
                Spread(row["name"], "forecast" if row["served"] else "naive",
                       [board.regret(row["candidate"], cutoff) for cutoff in board.cutoffs], row["mean_regret"])
                for row in standings
            ],
            view.words,
        ),
        "slices": _slices(view, board, measure),
        "steps": _step_words(view, "coverage" if measure == "coverage" else "behind"),
        "tables": {
            "standings": lambda: [{k: v for k, v in row.items() if k not in ("name", "served")} for row in standings],
            "cutoffs": lambda: cutoffs,
            "scores": board.rows,
        },
    }  # fmt: skip


_MEASURES: dict[str, tuple[str, Callable[[Tally], float | None]]] = {
    "wql": (N_("error of all quantiles (wQL)"), lambda t: t.wql),
    "wape": (N_("error of the median (WAPE)"), lambda t: t.wape),
    "coverage": (N_("share inside the 80%% interval"), lambda t: t.coverage80),
}
_BY = {"level": N_("Level"), "horizon": N_("Weeks ahead"), "volume": N_("Sales volume"), "season": N_("Months")}


def _shown(view: View, candidate: str) -> str:
    return view.words.gettext("what is served") if candidate == SERVED else candidate


def _standings(view: View, board: Leaderboard) -> Rows:
    """A row for each candidate, best first."""
    rows = []
    for name in board.candidates:
        whole = board.tally(name)
        assert whole is not None
        rows.append({
            "candidate": name, "name": _shown(view, name), "served": name == SERVED,
            "mean_regret": board.mean_regret(name), "best_at": sum(board.best(c) == name for c in board.cutoffs),
            "cutoffs": len(board.forecast_at(name)), "wape": whole.wape, "wql": whole.wql,
            "coverage80": whole.coverage80, "cells": whole.cells,
            "cpu_seconds": sum(each.cpu_seconds.get(name, 0) for each in board.decisions),
        })  # fmt: skip
    return rows


def _decisions(view: View, board: Leaderboard) -> Rows:
    """A row for each cutoff: what was served, and what would have been best."""
    rows = []
    for each in board.decisions:
        best = board.best(each.cutoff)
        served, least = (board.tally(name, WHOLE, each.cutoff) if name else None for name in (SERVED, best))
        weights = [(name, part) for name, part in sorted(each.weights.items(), key=lambda pair: -pair[1]) if part]
        rows.append({
            "cutoff": each.cutoff, "wql": served.wql if served else None, "best": best,
            "best_wql": least.wql if least else None, "regret": board.regret(SERVED, each.cutoff),
            "weights": ", ".join(f"{name} {view.words.percent(part, 0)}" for name, part in weights), "why": each.why,
        })  # fmt: skip
    return rows


# What slices are called that are no number and no month.
_SLICES = (N_("largest"), N_("large"), N_("small"), N_("smallest"), N_("series"), N_("store"), N_("dept"), N_("total"))


def _slice_words(view: View, by: str, name: str) -> str:
    if by == "horizon":
        low, _, high = name.partition(" to ")
        return view.words.gettext("%(low)s to %(high)s", low=low, high=high) if high else low
    if by == "season":
        months = [1 + 3 * SEASONS.index(name) + k for k in (0, 2)]
        return "-".join(view.words.month(dt.date(2000, month, 1)) for month in months)
    return view.words.term(name)


def _slices(view: View, board: Leaderboard, measure: str) -> dict[str, Any]:
    """The heat table: a row for each candidate, a column for each slice of which the measure is known.

    A candidate that was not able at every cutoff forecast other weeks, so it is shown and not compared.
    """
    of_tally = _MEASURES[measure][1]
    able = [name for name in board.candidates if len(board.forecast_at(name)) == len(board.cutoffs)]

    def value(name: str, of: Slice) -> float | None:
        tally = board.tally(name, of)
        return of_tally(tally) if tally else None

    columns = [of for of in board.slices if any(value(name, of) is not None for name in able)]
    least = {of: min(v for name in able if (v := value(name, of)) is not None) for of in columns}

    def square(name: str, of: Slice) -> dict[str, str] | None:
        found = value(name, of)
        if found is None:
            return None
        text = view.words.fixed(found * 100, 0 if measure == "coverage" else 1)
        if name not in able:
            return {"text": text, "style": "quiet"}
        if measure == "coverage":
            return {"text": text, "style": _shade(measure, found)}
        behind = found / least[of] - 1 if least[of] else float(found > 0)
        return {"text": text, "style": _shade("behind", behind) + (" best" if found == least[of] else "")}

    groups = [(by, sum(of[0] == by for of in columns)) for by in BY]
    return {
        "groups": [(view.words.term(_BY[by]), count) for by, count in groups if count],
        "columns": [
            (_slice_words(view, by, name), k == 0 or columns[k - 1][0] != by) for k, (by, name) in enumerate(columns)
        ],
        "rows": [
            {"name": _shown(view, name), "partly": name not in able,
             "cells": [square(name, of) for of in columns]}
            for name in board.candidates
        ],
    }  # fmt: skip


def runs(view: View) -> dict[str, Any]:
    """What landed, what was refused and why, the models in force, the series without a forecast."""
    state, listed = view.state, int(view.choose("rows", (str(FEW), "100"), str(FEW)))
    stages = view.stages.recent() if view.stages else []
    return {
        "landings": ask.landings(state, listed),
        "quarantine": ask.quarantined(state, listed),
        "models": ask.models(state, listed),
        "without": ask.without_forecast(state, view.week, listed),
        "rows": listed,
        "published": ask.published(state, view.week),
        "findings": view.findings,
        "stages": stages[:listed],
        "stage_names": ASSETS,
        "tables": {
            "files": lambda: _plain(ask.landings(state)),
            "quarantine": lambda: _plain(ask.quarantined(state)),
            "models": lambda: _plain(ask.models(state)),
            "without": lambda: state.stream(*ask.without_question(view.week)),
            "stages": lambda: [
                {"week": r.week, "ended_at": r.ended_at, **{n: r.seconds.get(n) for n in ASSETS}, "usd": r.usd}
                for r in stages
            ],
        },
    }


def _in_words(view: View, names: Iterable[str]) -> list[tuple[str, str]]:
    """Candidates and what they are; those of another version of the platform are left out."""
    return [(name, view.words.term(IN_WORDS[name])) for name in names if name in IN_WORDS]


def _serving(model: Mapping[str, Any]) -> list[str]:
    """The candidates that a model serves with, heaviest first; those of a model of before are not known."""
    tried = json.loads(model.get("candidates") or "{}")
    heaviest = {name: max(each["weights"].values()) for name, each in tried.items() if "weights" in each}
    return sorted((name for name in heaviest if heaviest[name] >= 0.005), key=lambda name: -heaviest[name])


def _must_exist(view: View) -> None:
    """Refuse a store or department that there is not, naming some that there are."""
    scope, _ = view.scope, view.words.gettext
    for column, value, known, text in (
        ("store", scope.store, view.stores, N_("There is no store %(key)s; there are %(there)s")),
        ("dept", scope.dept, view.depts, N_("There is no department %(key)s; there are %(there)s")),
    ):
        if value and value not in known:
            # Somebody may have typed a name: keys are what addresses carry.
            like = ask.names_like(view.state, column, value, view.names.given[column], 12)
            there = [view.names.key(column, key) for key in like or known[:12]]
            raise BadView(_(text, key=value, there=", ".join(there) + (" ..." if len(known) > len(there) else "")))


def _reason(view: View) -> str:
    """Why the view's scope has no forecast."""
    found = ask.reason_without(view.state, view.week, view.scope)
    if found:
        return recorded(view.words, found)
    _ = view.words.gettext
    never = _("%(series)s never sold anything", series=view.title)
    return never if view.scope.level == "series" else _("none of its series is open")


def _ahead(view: View) -> tuple[Rows, Rows]:
    """The forecast of the view's scope with what people's own figures make of it, and those figures."""
    given = ask.overrides(view.state, view.scope, view.week)
    ahead = ask.forecast(view.state, view.scope, view.week, view.columns, view.lined_up)
    ahead = [{**r, "actual": r["actual"] if view.is_whole(r["target_week"]) else None} for r in ahead]
    return ask.planned(ahead, given), given


def _sales(view: View) -> Rows:
    """All sales of the view's scope by week."""
    return ask.history(view.state, view.scope, dt.date.min, dt.date.max)


def _plain(rows: Rows) -> Rows:
    """Rows without the counts that a page needs beside them."""
    return [{k: v for k, v in r.items() if not k.endswith(("of_all", "in_all"))} for r in rows]


def _span(view: View, last: dt.date) -> list[dt.date]:
    """The weeks that a chart of history shows: up to YEARS_SHOWN years, then those ahead."""
    past = ask.history(view.state, view.scope, view.week - 52 * ask.YEARS_SHOWN * WEEK, last)
    if not past:
        return []
    first = min(r["week"] for r in past)
    return [first + k * WEEK for k in range((last - first) // WEEK + 1)]


def total_fan(view: View) -> Fan:
    """The fan of all stores together."""
    return fan(view, Scope(), _ahead(view)[0])


def fan(view: View, scope: Scope, ahead: Rows) -> Fan:
    """Two years of sales, then the forecast with its intervals, beside the run before and people's own figures."""
    week, _ = view.week, view.words.gettext
    last = ahead[-1]["target_week"] if ahead else week
    weeks = _span(view, last)
    if not weeks:
        return Fan()
    past = {r["week"]: r["sales"] for r in ask.history(view.state, scope, weeks[0], last) if view.is_whole(r["week"])}
    by_week = {r["target_week"]: r for r in ahead}
    before = {r["target_week"]: r["p50"] for r in ask.previous(view.state, scope, week) if r["target_week"] in weeks}
    known = past.get(week)

    def column(name: str, start: float | None = None) -> list[float | None]:
        """Values of the forecast; it starts from the last known sales, so that the lines join."""
        return [by_week[w][name] if w in by_week else start if w == week else None for w in weeks]

    columns = view.columns
    pairs = [(columns[0], columns[-1])]
    if len(columns) >= 7:
        pairs.append((columns[2], columns[-3]))
    lines = [
        Line(_("sales"), "actual", [past.get(w) for w in weeks]),
        Line(_("forecast (p50)"), "forecast", column("p50", known)),
    ]
    if before:
        lines.insert(1, Line(_("the run before"), "previous", [before.get(w) for w in weeks]))
    if any(r["plan"] is not None for r in ahead):
        lines.append(Line(_("plan with people's own figures"), "override", column("plan")))
    bands = [
        Band(_("%(low)s to %(high)s", low=a, high=b), f"fan{n}", column(a, known), column(b, known), (a, b))
        for n, (a, b) in enumerate(pairs)
    ]
    return Fan(weeks, lines, bands if ahead else (), _holidays(view, weeks))


def _covariates(view: View) -> tuple[dict[str, dict[dt.date, float | None]], str]:
    """The columns in use by week, and what is wrong with their declaration."""
    try:
        return ask.covariates(view.state, view.scope, view.settings.declarations), ""
    except ValueError as error:
        return {}, str(error)


def _covariate_chart(view: View, name: str, values: Mapping[dt.date, float | None], ahead: Rows) -> str:
    """A column the model is given, over the same weeks as the sales above it: past as a line, planned dashed."""
    weeks = _span(view, ahead[-1]["target_week"] if ahead else view.week)
    shown, _ = name.replace("_", " "), view.words.gettext
    return time_chart(
        _("%(column)s, as the model is given it", column=sentence(shown)),
        weeks,
        [
            Line(shown, "actual", [values.get(w) if w <= view.week else None for w in weeks]),
            Line(_("planned"), "forecast", [values.get(w) if w >= view.week else None for w in weeks]),
        ],
        height=130,
        from_zero=True,
        words=view.words,
    )


def _holidays(view: View, weeks: Sequence[dt.date]) -> list[Mark]:
    """The holidays that the forecast was given, at the week each lies in; of several in a week, one mark."""
    found: dict[int, Mark] = {}
    for event in view.events:
        lined_up = event in view.lined_up
        name = event.name if lined_up else view.words.gettext("%(holiday)s (not lined up)", holiday=event.name)
        for day in event.dates:
            position = -((weeks[0] - day).days // 7)  # a week holds the seven days that end on its date
            if 0 <= position < len(weeks):
                other = found.get(position)
                together = Mark(position, f"{other.name}, {name}", other.lined_up or lined_up) if other else None
                found[position] = together or Mark(position, name, lined_up)
    return [mark for _, mark in sorted(found.items())]


def _held(view: View, held: float | None) -> float:
    """The share of sales that intervals were to hold. Forecasts scored before this was recorded had today's."""
    return held if held is not None else (int(view.columns[-1][1:]) - int(view.columns[0][1:])) / 100


def _every_week(rows: Rows) -> Rows:
    """The rows of weeks, with empty rows for the weeks between, because a chart's steps are one week each."""
    if not rows:
        return []
    by_week = {r["week"]: r for r in rows}
    nothing = dict.fromkeys(rows[0])
    first, last = rows[0]["week"], rows[-1]["week"]
    weeks = [first + k * WEEK for k in range((last - first) // WEEK + 1)]
    return [by_week.get(w, {**nothing, "week": w}) for w in weeks]


def _accuracy_chart(view: View, rows: Rows, title: str) -> str:
    rows, _ = _every_week(rows), view.words.gettext
    return time_chart(
        title,
        [r["week"] for r in rows],
        [
            Line(_("forecast"), "forecast", [r["wape"] for r in rows]),
            Line(_("52 weeks before"), "naive", [r["naive_wape"] for r in rows]),
        ],
        height=240,
        from_zero=True,
        percent=True,
        table=False,
        words=view.words,
    )


def _with_sparks(view: View, rows: Rows) -> Rows:
    """The rows of series, each with its last half year and the forecast as a small picture."""
    wanted = [f"{r['store']}\t{r['dept']}" for r in rows]
    if not wanted or view.form:
        return rows
    # Stores and departments are named by themselves too: by them the parts of a file without them are passed over.
    series, among = f"store || {ask.SEPARATOR} || dept", ([r["store"] for r in rows], [r["dept"] for r in rows], wanted)
    store, dept, both = (sorted(set(names)) for names in among)
    marks = [", ".join("?" * len(names)) for names in (store, dept, both)]
    where = f"store IN ({marks[0]}) AND dept IN ({marks[1]}) AND {series} IN ({marks[2]})"
    found = view.state.rows(
        f"""SELECT {series} AS series, CASE WHEN observed THEN sales END AS sales FROM cleaned_series
            WHERE week > ? AND week <= ? AND {where} ORDER BY week""",  # noqa: S608 (question marks)
        [view.week - 26 * WEEK, view.week, *store, *dept, *both],
    )
    ahead = view.state.rows(
        f"""SELECT {series} AS series, p50 AS sales FROM forecasts
            WHERE level = 'series' AND forecast_week = ? AND {where} ORDER BY target_week""",  # noqa: S608
        [view.week, *store, *dept, *both],
    )
    past: dict[str, list[float | None]] = {}
    coming: dict[str, list[float | None]] = {}
    for values, part in ((found, past), (ahead, coming)):
        for r in values:
            part.setdefault(r["series"], []).append(r["sales"])
    return [
        {**r, "spark": sparkline(past.get(name, []), coming.get(name, []))}
        for r, name in zip(rows, wanted, strict=True)
    ]


# Upper ends of the shades of a heat map.
_STEPS: dict[str, tuple[float, ...]] = {
    "wape": (0.05, 0.1, 0.2, 0.4, math.inf),
    "bias": (-0.2, -0.05, 0.05, 0.2, math.inf),
    "behind": (0.02, 0.1, 0.25, 0.5, math.inf),  # behind the best of its column, in parts of that
    "coverage": (0.4, 0.6, 0.75, 0.9, math.inf),
}


def _shade(measure: str, value: float) -> str:
    return f"{measure}{next(n for n, end in enumerate(_STEPS[measure]) if value <= end)}"


def _step_words(view: View, measure: str) -> list[str]:
    """What the shades are called, in their order."""
    _, percent, ends = view.words.gettext, view.words.percent, _STEPS[measure]
    found = [_("to %(share)s", share=percent(end, 0)) for end in ends[:-1]]
    if measure == "bias":
        found[0] = _("below %(share)s", share=percent(ends[0], 0))
        return [*found, _("above %(share)s", share=percent(ends[-2], 0))]
    if measure == "behind":
        found[0] = _("to %(share)s behind the best", share=percent(ends[0], 0))
    return [*found, _("to %(share)s", share=percent(1, 0)) if measure == "coverage" else _("more")]
