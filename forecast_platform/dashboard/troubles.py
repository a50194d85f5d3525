"""What is wrong now, in the order in which a person should hear of it: the first thing on page one.

Worked out from the lake's tables each time, not recorded by what failed: a run that died without a word leaves a week
without a forecast, and that is seen here. What could not be checked is not claimed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from forecast_platform.dashboard.questions import Rows, State
from forecast_platform.figures import figure
from forecast_platform.history.cleaning import Completeness, completeness
from forecast_platform.history.lateness import ARRIVALS, arrivals, lateness
from forecast_platform.history.panel import natural_key
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK

NAMED = 8  # stores, files or series that are named; beyond that only their number
FINE = ("ingested", "known", "withdrawn")  # statuses of a landing that are no trouble
LOOKED_BACK = 13  # weeks in which the newest complete one is looked for
WAITS_FOR_TIME = "not_begun"  # the rule of a file whose weeks have not begun: nobody has to do anything


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong.

    Attributes:
        kind: in a word.
        serious: forecasts are missing or rest on other data than people think; else it is merely odd.
        text: what happened, naming week, stores or files.
        step: what to do next.
        see: page of the dashboard that shows more, perhaps with an anchor; empty: none.
    """

    kind: str
    serious: bool
    text: str
    step: str
    see: str = ""


@dataclass(frozen=True)
class Findings:
    """All that is wrong, what is serious first, and a line on what was looked at and is well.

    Attributes:
        complete_to: the newest complete week; what has landed of later ones is not everything.
        newest: the newest week of which anything landed.
    """

    troubles: tuple[Trouble, ...]
    checked: str
    complete_to: dt.date | None
    newest: dt.date | None

    def __bool__(self) -> bool:
        return bool(self.troubles)


def troubles(state: State, settings: Settings, now: dt.datetime | None = None) -> Findings:
    """What is wrong with the newest weeks.

    Args:
        now: timezone-aware; None: nothing is late, as in a report of a week that may be long past.
    """
    there = {r["table_name"] for r in state.rows("SELECT table_name FROM information_schema.tables")}
    (last,) = state.rows("SELECT max(week) AS week FROM cleaned_series")
    weeks = state.rows(
        "SELECT DISTINCT week FROM cleaned_series WHERE observed AND week > ? ORDER BY week DESC",
        [(last["week"] or dt.date.max) - LOOKED_BACK * WEEK],
    )
    newest = [state.apply(_completeness, r["week"]) for r in weeks[:1]]
    good = next((c for r in weeks if (c := state.apply(_completeness, r["week"])).complete(settings.complete_share)),
                None)  # fmt: skip
    since = _arrival(state, good.week) if good else None
    found = [
        *_failed(state, there),
        *(t for c in newest for t in _incomplete(c, good, settings.complete_share)),
        *_unforecast(state, good),
        *(_late(state, newest, now) if now else ()),
        *_files(state, since),
        *_stopping(state, there),
    ]
    return Findings(
        tuple(sorted(found, key=lambda t: not t.serious)),
        _checked(newest, there, found),
        good.week if good else None,
        newest[0].week if newest else None,
    )


def _completeness(con: Any, week: dt.date) -> Completeness:
    return completeness(con, [week])[0]


def _arrival(state: State, week: dt.date) -> dt.datetime | None:
    """When the week's sales first landed."""
    (row,) = state.rows(
        """SELECT min(arrived_at) AS arrived_at FROM landings
           WHERE kind = 'sales' AND accepted > 0 AND first_week <= ? AND last_week >= ?""",
        [week, week],
    )
    moment: dt.datetime | None = row["arrived_at"]
    return moment


def _incomplete(newest: Completeness, good: Completeness | None, threshold: float) -> list[Trouble]:
    """The newest week, when not all of it has been reported."""
    if newest.complete(threshold) and not newest.missing_stores:
        return []
    missing = f" Nothing came from {_named('store', newest.missing_stores)}." if newest.missing_stores else ""
    landed = f"{newest.present:,} of the {newest.expected:,} series that usually report have landed"
    if newest.complete(threshold):
        return [
            Trouble(
                "incomplete", False, f"The week of {newest.week} counts as complete, {landed}.{missing}",
                "Land what is missing: the week is then restated and forecast again.", "runs#landed",
            )
        ]  # fmt: skip
    basis = f"the newest forecast can rest on the week of {good.week} at most" if good else "nothing can be forecast"
    return [
        Trouble(
            "incomplete", True,
            f"The week of {newest.week} is incomplete: {landed} ({newest.share:.0%}, {threshold:.0%} are needed), so "
            f"{basis}.{missing}",
            f"Land the rest of the week's sales, then: forecast run --week {newest.week}", "runs#landed",
        )
    ]  # fmt: skip


def _unforecast(state: State, good: Completeness | None) -> list[Trouble]:
    """The newest complete week, when no forecast was made from it."""
    if good is None:
        return []
    (row,) = state.rows("SELECT max(forecast_week) AS week FROM forecasts WHERE level = 'total'")
    if row["week"] is not None and row["week"] >= good.week:
        return []
    shown = f"what is shown was made after the week of {row['week']}" if row["week"] else "there is none at all"
    return [
        Trouble(
            "unforecast", True, f"The week of {good.week} is complete, but has no forecast: {shown}.",
            f"If no run is under way: forecast run --week {good.week} (its last lines say what fails)", "runs",
        )
    ]  # fmt: skip


def _late(state: State, newest: Sequence[Completeness], now: dt.datetime) -> list[Trouble]:
    """Sales that should have landed by now, going by how the weeks before came."""
    late = lateness(arrivals(state.rows(ARRIVALS)), now)
    if late is not None:
        return [
            Trouble("late", True, f"Late: {late.text}.",
                    "Ask whoever delivers them; every figure here ends before them.", "runs#landed")
        ]  # fmt: skip
    old = (now.date() - newest[0].week) // WEEK if newest else 0
    if old < 2:
        return []
    return [
        Trouble("old", False, f"The newest sales are those of the week of {newest[0].week}, {old} weeks ago. No week "
                "has come in its turn so far, so none counts as late.",
                "Land the weeks since, if there are any.", "runs#landed")
    ]  # fmt: skip


def _files(state: State, since: dt.datetime | None) -> list[Trouble]:
    """Newest versions of files that were refused, wait, lost rows or were warned about, since the newest complete week
    came (None: ever)."""
    after, parameters = ("WHERE l.arrived_at >= ?", [since]) if since else ("", [])
    rows = state.rows(
        f"""SELECT l.* FROM landings AS l
            JOIN (SELECT source_key, max(landed_at) AS landed_at FROM landings GROUP BY source_key) AS n
              ON n.source_key = l.source_key AND n.landed_at = l.landed_at
            {after} ORDER BY l.landed_at DESC, l.source_key""",  # noqa: S608 (a condition of ours)
        parameters,
    )
    # Of a lake made before there were warnings and withdrawals, landings have no such columns.
    rows = [r for r in rows if r.get("withdrawn_at") is None]  # a withdrawal is somebody's own doing, with a reason
    found = [t for row in rows[: 10 * NAMED] for t in _file(state, row)]
    return found if len(found) <= NAMED else [
        *found[:NAMED],
        Trouble("refused", any(t.serious for t in found[NAMED:]), f"{len(found) - NAMED} more files or warnings.",
                "The page Data and runs has them all.", "runs#landed"),
    ]  # fmt: skip


def _file(state: State, row: dict[str, Any]) -> list[Trouble]:
    key, found = row["source_key"], []
    if row["status"] not in FINE:
        waits = row["status"] == "waiting"
        rule = f" ({row['rule']})" if row["rule"] else ""
        found.append(
            Trouble(row["status"], not waits or row["rule"] != WAITS_FOR_TIME,
                    f"{key} {'waits' if waits else 'was ' + row['status']}{rule}; none of it is in the forecast.",
                    row["message"] or "The page Data and runs has its rule and what to do.", "runs#landed")
        )  # fmt: skip
    elif row["quarantined"]:
        worst = state.rows(
            """SELECT rule, count(*) AS n, max(message) AS message FROM quarantine
               WHERE source_key = ? AND landed_at = ? GROUP BY rule ORDER BY n DESC, rule LIMIT 1""",
            [key, row["landed_at"]],
        )
        rule = f", most by the rule {worst[0]['rule']}" if worst else ""
        few = row["quarantined"] <= 0.01 * (row["rows"] or 0)
        found.append(
            Trouble("partly refused", not few,
                    f"{key}: {row['quarantined']:,} of {row['rows']:,} rows were refused{rule}.",
                    (worst[0]["message"] if worst else None) or "See the quarantine.", "runs#quarantine")
        )  # fmt: skip
    if row.get("vanished"):
        found.append(
            Trouble("restated", False, f"{key} took {row['vanished']:,} rows out of force that were known before, "
                    f"and changed {row.get('changed') or 0:,}.",
                    "Look whether that was meant; forecast landing withdraw brings them back.", "runs#landed")
        )  # fmt: skip
    if row.get("warnings"):
        found.append(Trouble("odd", False, f"{key} was taken with a warning: {row['warnings']}",
                             "Look whether the file means what it says.", "runs#landed"))  # fmt: skip
    return found


def _failed(state: State, there: set[str]) -> list[Trouble]:
    """The last failure of each week that no run has mended since, newest first."""
    if "open_failures" not in there:
        return []
    rows = state.rows(
        """SELECT f.week, f.run_id, f.step, f.message, f.failed_at FROM open_failures AS f
           JOIN (SELECT week, max(failed_at) AS failed_at FROM open_failures GROUP BY week) AS n
             ON n.failed_at = f.failed_at AND n.week IS NOT DISTINCT FROM f.week
           ORDER BY f.failed_at DESC, f.run_id LIMIT 3"""
    )
    return [
        Trouble(
            "failed", True,
            f"The run {'for the week of ' + str(r['week']) if r['week'] else 'that brings files in'} failed at the "
            f"step {r['step']}, {r['failed_at'].astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC: {_first_line(r['message'])}",
            f"Mend that, then: forecast run{' --week ' + str(r['week']) if r['week'] else ''}"
            f" (run {str(r['run_id'])[:8]} in Dagster has the whole log)",
            "runs#stages",
        )
        for r in rows
    ]  # fmt: skip


def _stopping(state: State, there: set[str]) -> list[Trouble]:
    """Series that have fallen silent while others of their store still sell."""
    if "stopping_series" not in there:
        return []
    rows: Rows = state.rows(
        f"""SELECT store, dept, last_week, silent_weeks, probability_of_return, count(*) OVER () AS of_all
            FROM stopping_series
            WHERE forecast_week = (SELECT max(forecast_week) FROM forecasts WHERE level = 'total')
            ORDER BY probability_of_return, store, dept LIMIT {NAMED}"""  # noqa: S608 (a number)
    )
    if not rows:
        return []
    count = rows[0]["of_all"]
    named = [
        f"store {r['store']}, dept {r['dept']} ({figure(r['silent_weeks'])} weeks, back with "
        f"{r['probability_of_return']:.0%})"
        for r in rows
    ]
    more = f" and {count - len(rows):,} more" if count > len(rows) else ""
    some = "1 series has stopped selling" if count == 1 else f"{count:,} series have stopped selling"
    return [
        Trouble("stopping", False, f"{some}: {'; '.join(named)}{more}. Their forecasts fade out.",
                "Tell the platform which are gone: forecast close STORE DEPT", "runs#without")
    ]  # fmt: skip


def _checked(newest: Sequence[Completeness], there: set[str], found: Sequence[Trouble]) -> str:
    """What was looked at and is well, in a line."""
    kinds = {t.kind for t in found}
    said = []
    if newest and "incomplete" not in kinds:
        week = newest[0]
        counted = f" ({week.present:,} of {week.expected:,} series)" if week.expected else ""
        said.append(f"the week of {week.week} is complete{counted}")
    if not kinds & {"late", "old"}:
        said.append("no week is late")
    if not kinds & {"refused", "waiting", "partly refused", "restated", "odd"}:
        said.append(f"no file {'since then ' if said else ''}was refused, waits or was warned about")
    if "open_failures" in there and "failed" not in kinds:
        said.append("no run failed")
    if "stopping_series" in there and "stopping" not in kinds:
        said.append("no series stopped")
    return "; ".join(said)


def _named(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(sorted(names, key=natural_key)[:NAMED])}{more}"


def _first_line(text: str | None) -> str:
    lines: Iterable[str] = (text or "no message").strip().splitlines()
    return next(iter(lines), "no message")[:300]
