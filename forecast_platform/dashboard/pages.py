"""What each page shows: the view in an address, and one function a page from a view to what its template needs.

Each context holds `table`: the page's rows, which `?format=csv` gives as a file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from forecast_platform.dashboard import questions as ask
from forecast_platform.dashboard.charts import Band, Line, Mark, bars, calibration_chart, sparkline, time_chart
from forecast_platform.dashboard.questions import Rows, Scope, State
from forecast_platform.dashboard.stages import ASSETS, Stages
from forecast_platform.series.holidays import retail_events
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK


class BadView(ValueError):
    """The address asks for something that isn't there; the message says what there is."""


class View:
    """A page's address: which week, which stores and departments, and the page's own choices."""

    def __init__(
        self, state: State, settings: Settings, query: Mapping[str, str], stages: Stages | None = None
    ) -> None:
        self.state, self.settings, self._query, self.stages = state, settings, query, stages
        self.weeks = ask.forecast_weeks(state)
        if not self.weeks:
            raise BadView("No forecast has been published yet. Land sales and run the graph: forecast run")
        self.week = self._week(query.get("week", ""))
        self.scope = Scope(query.get("store", "").strip(), query.get("dept", "").strip())
        self.wants_csv = query.get("format") == "csv"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the published quantiles."""
        return self.settings.quantile_columns

    @property
    def stores(self) -> list[str]:
        return ask.names(self.state, "store")

    @property
    def depts(self) -> list[str]:
        return ask.names(self.state, "dept")

    def link(self, **changes: Any) -> dict[str, Any]:
        """The view's own parameters with some changed, for links on a page."""
        week = "" if self.week == self.weeks[0] else str(self.week)
        return {"week": week, "store": self.scope.store, "dept": self.scope.dept, **self._query_only(), **changes}

    def choose(self, name: str, options: Sequence[str], default: str) -> str:
        """A parameter with a fixed set of values."""
        value = self._query.get(name, default)
        if value not in options:
            raise BadView(f"{name} is {value!r}; it is one of {', '.join(options)}")
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
        return {k: v for k, v in self._query.items() if k not in ("week", "store", "dept", "format")}

    def _week(self, text: str) -> dt.date:
        if not text:
            return self.weeks[0]
        try:
            week = dt.date.fromisoformat(text)
        except ValueError:
            raise BadView(f"week is {text!r}; write the date a week ends on, such as {self.weeks[0]}") from None
        if week not in self.weeks:
            raise BadView(f"No forecast was published for the week of {week}; the newest is {self.weeks[0]}")
        return week


def this_week(view: View) -> dict[str, Any]:
    """The total, what changed, which model serves, what is wrong with the data; then the review queue."""
    state, week = view.state, view.week
    total = Scope()
    ahead = ask.forecast(state, total, week, view.columns)
    next_weeks = ahead[: ask.NEXT]
    revised = [r for r in next_weeks if r["previous"] is not None]
    lagged = [r for r in next_weeks if r["last_year"]]
    queue = ask.review_queue(state, week, view.scope)
    rows = int(view.choose("rows", ("12", "50", "500"), "12"))
    shown = queue if view.wants_csv else queue[:rows]
    return {
        "queue": _with_sparks(view, shown),
        "queue_length": len(queue),
        "rows": rows,
        "chart": _fan(view, total, ahead, f"All stores: sales and the forecast made after the week of {week}"),
        "ahead": ahead,
        "next_total": sum(r["p50"] for r in next_weeks),
        "next_count": len(next_weeks),
        "next_against_last_year": _ratio(lagged, "p50", "last_year"),
        "next_against_previous": _ratio(revised, "p50", "previous"),
        "model": ask.model(state, week),
        "published": ask.published(state, week),
        "problems": ask.data_problems(state),
        "recent": ask.recent(state, week),
        "waiting": _weeks_waiting(view),
        "table": shown,
    }


def explore(view: View) -> dict[str, Any]:
    """One series, store, department or the total: history, forecast, the run before, accuracy, table."""
    state, scope = view.state, view.scope
    for value, known, word in ((scope.store, view.stores, "store"), (scope.dept, view.depts, "department")):
        if value and value not in known:
            raise BadView(
                f"There is no {word} {value}; there are {', '.join(known[:12])}{' ...' if known[12:] else ''}"
            )
    ahead = ask.forecast(state, scope, view.week, view.columns)
    reason = ""
    if not ahead:
        found = [r for r in ask.without_forecast(state, view.week, 100_000)
                 if (r["store"], r["dept"]) == (scope.store, scope.dept)]  # fmt: skip
        reason = found[0]["reason"] if found else "this store and department never sold anything together"
    given = ask.overrides(state, scope, view.week)
    by_week = {r["target_week"]: r["value"] for r in given}
    ahead = [{**r, "override": by_week.get(r["target_week"])} for r in ahead]
    accuracy = ask.scores(state, scope, view.week, view.horizon(), 26, of_sum=True)
    return {
        "reason": reason,
        "ahead": ahead,
        "overrides": given,
        "chart": _fan(view, scope, ahead, f"{_upper(scope.name)}: sales and forecast"),
        "accuracy": accuracy,
        "accuracy_chart": _accuracy_chart(accuracy, "Error of its forecasts (WAPE)"),
        "horizon": view.horizon(),
        "table": ahead,
        "model": ask.model(state, view.week),
    }


def heatmap(view: View) -> dict[str, Any]:
    """Error, bias or coverage of every series, stores down and departments across."""
    measure = view.choose("measure", ("wape", "bias", "coverage"), "wape")
    weeks = int(view.choose("weeks", ("1", "4", "8", "13", "26"), "8"))
    found = ask.heat_map(view.state, view.week, measure, weeks)
    rows = [
        {
            "store": store,
            "cells": [
                {"dept": dept, "value": cell[0], "shade": _shade(measure, cell[0])} if cell else None
                for dept in found.depts
                for cell in [found.cells.get((store, dept))]
            ],
        }
        for store in found.stores
    ]
    table = [
        {"store": store, "dept": dept, measure: value, "actual": actual}
        for (store, dept), (value, actual) in sorted(
            found.cells.items(), key=lambda item: tuple(map(ask.natural, item[0]))
        )
    ]
    return {"measure": measure, "weeks": weeks, "found": found, "rows": rows, "table": table, "steps": _STEPS[measure]}


def misses(view: View) -> dict[str, Any]:
    """The forecasts of the week that cost most; from stores to departments to series."""
    usual = "series" if view.scope.store or view.scope.dept else "store"
    by = view.choose("by", ("store", "dept", "series"), usual)
    horizon = view.horizon() or 1
    rows = ask.misses(view.state, view.week, by, view.scope, horizon)
    most = max((r["abs_error"] for r in rows), default=0) or 1
    return {
        "by": by,
        "horizon": horizon,
        "rows": [{**r, "part": r["abs_error"] / most} for r in rows],
        "lost": sum(r["abs_error"] for r in rows),
        "table": rows,
    }


def revisions(view: View) -> dict[str, Any]:
    """What this run says that the run before did not."""
    by = view.choose("by", ("store", "dept", "series"), "series" if view.scope.store or view.scope.dept else "dept")
    rows = ask.revisions(view.state, view.week, by, view.scope)
    scope = view.scope
    ahead = ask.forecast(view.state, scope, view.week, view.columns)
    weeks = [r["target_week"] for r in ahead]
    lines = [
        Line("this run", "forecast", [r["p50"] for r in ahead]),
        Line("the run before", "previous", [r["previous"] for r in ahead]),
        Line("last year", "naive", [r["last_year"] for r in ahead]),
    ]
    return {
        "by": by,
        "rows": rows,
        "previous_week": rows[0]["previous_week"] if rows else None,
        "chart": time_chart(f"{_upper(scope.name)}: forecasts of the weeks ahead", weeks, lines),
        "most": max((abs(r["change"]) for r in rows), default=0) or 1,
        "table": rows,
    }


def accuracy(view: View) -> dict[str, Any]:
    """How good the forecasts were: over time, by weeks ahead, and whether the intervals hold what they promise."""
    state, scope, horizon = view.state, view.scope, view.horizon()
    of_sum = view.choose("of", ("series", "sum"), "series") == "sum"
    what = f"{_upper(scope.name)}, {'as one sum' if of_sum else 'every series'}"
    by_week = ask.scores(state, scope, view.week, horizon, of_sum=of_sum)
    by_horizon = ask.scores_by_horizon(state, scope, view.week, of_sum=of_sum)
    low, high = view.columns[0], view.columns[-1]
    wanted = (int(high[1:]) - int(low[1:])) / 100
    return {
        "horizon": horizon,
        "by_week": by_week,
        "by_horizon": by_horizon,
        "wanted": wanted,
        "of_sum": of_sum,
        "chart": _accuracy_chart(by_week, f"{what}: error by week (WAPE)"),
        "coverage_chart": time_chart(
            f"Share of sales inside {low} to {high}, which should be {wanted:.0%}",
            [r["week"] for r in by_week],
            [
                Line("observed", "forecast", [r["coverage"] for r in by_week]),
                Line("as it should be", "naive", [wanted] * len(by_week)),
            ],
            height=240,
            from_zero=True,
            percent=True,
        ),
        "horizon_chart": bars(
            "Error by weeks ahead (WAPE)",
            [str(r["horizon"]) for r in by_horizon],
            [
                Line("forecast", "forecast", [r["wape_where_naive"] for r in by_horizon]),
                Line("same week last year", "naive", [r["naive_wape"] for r in by_horizon]),
            ],
        ),
        "calibration": calibration_chart(
            "Calibration of the series' quantiles", ask.calibration(state, scope, view.week, view.columns, horizon)
        ),
        "table": by_week,
    }


def runs(view: View) -> dict[str, Any]:
    """What landed, what was refused and why, the models in force, the series without a forecast."""
    landings = ask.landings(view.state)
    return {
        "landings": landings,
        "quarantine": ask.quarantined(view.state),
        "models": ask.models(view.state),
        "without": ask.without_forecast(view.state, view.week),
        "published": ask.published(view.state, view.week),
        "stages": view.stages.recent() if view.stages else [],
        "stage_names": ASSETS,
        "table": landings,
    }


def _fan(view: View, scope: Scope, ahead: Rows, title: str) -> str:
    """Two years of sales, then the forecast with its intervals, beside the run before and last year."""
    week = view.week
    last = ahead[-1]["target_week"] if ahead else week
    past = {r["week"]: r["sales"] for r in ask.history(view.state, scope, week - 52 * ask.YEARS_SHOWN * WEEK, last)}
    if not past:
        return time_chart(title, [], [])
    first = min(past)
    weeks = [first + k * WEEK for k in range((last - first) // WEEK + 1)]
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
        Line("sales", "actual", [past.get(w) for w in weeks]),
        Line("forecast (p50)", "forecast", column("p50", known)),
    ]
    if before:
        lines.insert(1, Line("the run before", "previous", [before.get(w) for w in weeks]))
    if any(r.get("override") is not None for r in ahead):
        lines.append(Line("override", "override", [by_week[w]["override"] if w in by_week else None for w in weeks]))
    bands = [Band(f"{a} to {b}", f"fan{n}", column(a, known), column(b, known)) for n, (a, b) in enumerate(pairs)]
    return time_chart(title, weeks, lines, bands if ahead else (), _holidays(view, weeks), from_zero=True)


def _holidays(view: View, weeks: Sequence[dt.date]) -> list[Mark]:
    """The named days of the weeks shown, at the week each lies in."""
    events = retail_events(weeks[0], weeks[-1], view.settings.country)
    found: dict[int, str] = {}
    for event in events:
        for day in event.dates:
            position = -((weeks[0] - day).days // 7)  # a week holds the seven days that end on its date
            if 0 <= position < len(weeks):
                found[position] = f"{found[position]}, {event.name}" if position in found else event.name
    return [Mark(position, name) for position, name in sorted(found.items())]


def _accuracy_chart(rows: Rows, title: str) -> str:
    return time_chart(
        title,
        [r["week"] for r in rows],
        [
            Line("forecast", "forecast", [r["wape"] for r in rows]),
            Line("same week last year", "naive", [r["naive_wape"] for r in rows]),
        ],
        height=240,
        from_zero=True,
        percent=True,
    )


def _with_sparks(view: View, rows: Rows) -> Rows:
    """The rows of series, each with its last half year and the forecast as a small picture."""
    wanted = [f"{r['store']} {r['dept']}" for r in rows]
    if not wanted or view.wants_csv:
        return rows
    found = view.state.rows(
        f"""SELECT store || ' ' || dept AS series, CASE WHEN observed THEN sales END AS sales FROM cleaned_series
            WHERE week > ? AND week <= ? AND store || ' ' || dept IN ({", ".join("?" * len(wanted))})
            ORDER BY week""",  # noqa: S608 (question marks)
        [view.week - 26 * WEEK, view.week, *wanted],
    )
    ahead = view.state.rows(
        f"""SELECT store || ' ' || dept AS series, p50 AS sales FROM forecasts
            WHERE level = 'series' AND forecast_week = ? AND store || ' ' || dept IN ({", ".join("?" * len(wanted))})
            ORDER BY target_week""",  # noqa: S608 (question marks)
        [view.week, *wanted],
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


def _weeks_waiting(view: View) -> int:
    """Weeks that have ended since the newest forecast was made."""
    newest = view.settings.calendar.last_started(dt.datetime.now(dt.UTC))
    return max((newest - view.weeks[0]) // WEEK, 0)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ratio(rows: Rows, part: str, whole: str) -> float | None:
    """How much more `part` is than `whole`, as a share."""
    total = sum(r[whole] for r in rows)
    return sum(r[part] for r in rows) / total - 1 if total else None


# Upper ends of the shades of a heat map, and what they are called.
_STEPS: dict[str, list[tuple[float, str]]] = {
    "wape": [(0.05, "to 5%"), (0.1, "to 10%"), (0.2, "to 20%"), (0.4, "to 40%"), (float("inf"), "more")],
    "bias": [(-0.2, "below -20%"), (-0.05, "to -5%"), (0.05, "to 5%"), (0.2, "to 20%"), (float("inf"), "above 20%")],
    "coverage": [(0.4, "to 40%"), (0.6, "to 60%"), (0.75, "to 75%"), (0.9, "to 90%"), (float("inf"), "to 100%")],
}


def _shade(measure: str, value: float) -> str:
    step = next(n for n, (end, _) in enumerate(_STEPS[measure]) if value <= end)
    return f"{measure}{step}"
