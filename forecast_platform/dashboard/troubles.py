"""What is wrong now, in the order in which a person should hear of it: the first thing on page one.

Worked out from the lake's tables each time, not recorded by what failed: a run that died without a word leaves a week
without a forecast, and that is seen here. What could not be checked is not claimed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from forecast_platform.dashboard.names import Names
from forecast_platform.dashboard.questions import Rows, State
from forecast_platform.history.cleaning import Completeness, completeness
from forecast_platform.history.lateness import ARRIVALS, arrivals, lateness
from forecast_platform.history.panel import natural_key
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK
from forecast_platform.words import N_, Words

NAMED = 8  # stores, files or series that are named; beyond that only their number
FINE = ("ingested", "known", "withdrawn")  # statuses of a landing that are no trouble
LOOKED_BACK = 13  # weeks in which the newest complete one is looked for
# Words that the tables hold, and that are translated where they are shown: kinds of trouble, statuses of a landing,
# verdicts of a model, the usual attributes of stores and departments.
TERMS = (
    N_("incomplete"), N_("unforecast"), N_("late"), N_("old"), N_("refused"), N_("waiting"), N_("partly refused"),
    N_("restated"), N_("odd"), N_("failed"), N_("stopping"), N_("ingested"), N_("known"), N_("withdrawn"),
    N_("passed"), N_("below naive"), N_("unjudged"), N_("region"), N_("type"), N_("category"), N_("size"),
)  # fmt: skip
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


def troubles(state: State, settings: Settings, now: dt.datetime | None = None, names: Names | None = None) -> Findings:
    """What is wrong with the newest weeks.

    Args:
        names: how stores are called, and in which language it is said; None: as the settings have it.
        now: timezone-aware; None: nothing is late, as in a report of a week that may be long past.
    """
    names = names or Names.of(state, settings.words)
    words = names.words
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
        *_failed(state, there, words),
        *(t for c in newest for t in _incomplete(c, good, settings.complete_share, names)),
        *_unforecast(state, good, words),
        *(_late(state, newest, now, words) if now else ()),
        *_files(state, since, words),
        *_stopping(state, there, names),
    ]
    return Findings(
        tuple(sorted(found, key=lambda t: not t.serious)),
        _checked(newest, there, found, words),
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


def _incomplete(newest: Completeness, good: Completeness | None, threshold: float, names: Names) -> list[Trouble]:
    """The newest week, when not all of it has been reported."""
    if newest.complete(threshold) and not newest.missing_stores:
        return []
    words, _ = names.words, names.words.gettext
    values = {
        "week": words.week(newest.week), "present": words.number(newest.present),
        "expected": words.number(newest.expected), "share": words.percent(newest.share, 0),
        "needed": words.percent(threshold, 0),
    }  # fmt: skip
    missing = _nothing_from(newest.missing_stores, names)
    if newest.complete(threshold):
        text = _(
            "The week of %(week)s counts as complete, %(present)s of the %(expected)s series that usually report have "
            "landed.",
            **values,
        )
        step = _("Land what is missing: the week is then restated and forecast again.")
        return [Trouble("incomplete", False, f"{text}{missing}", step, "runs#landed")]
    if good:
        text = _(
            "The week of %(week)s is incomplete: %(present)s of the %(expected)s series that usually report have "
            "landed (%(share)s, %(needed)s are needed), so the newest forecast can rest on the week of %(good)s at "
            "most.",
            good=words.week(good.week),
            **values,
        )
    else:
        text = _(
            "The week of %(week)s is incomplete: %(present)s of the %(expected)s series that usually report have "
            "landed (%(share)s, %(needed)s are needed), so nothing can be forecast.",
            **values,
        )
    step = _("Land the rest of the week's sales, then: %(command)s", command=_run(newest.week))
    return [Trouble("incomplete", True, f"{text}{missing}", step, "runs#landed")]


def _unforecast(state: State, good: Completeness | None, words: Words) -> list[Trouble]:
    """The newest complete week, when no forecast was made from it."""
    if good is None:
        return []
    (row,) = state.rows("SELECT max(forecast_week) AS week FROM forecasts WHERE level = 'total'")
    if row["week"] is not None and row["week"] >= good.week:
        return []
    _, week = words.gettext, words.week(good.week)
    text = (
        _("The week of %(week)s is complete, but has no forecast: what is shown was made after the week of %(shown)s.",
          week=week, shown=words.week(row["week"]))
        if row["week"]
        else _("The week of %(week)s is complete, but has no forecast: there is none at all.", week=week)
    )  # fmt: skip
    step = _("If no run is under way: %(command)s (its last lines say what fails)",
             command=_run(good.week))  # fmt: skip
    return [Trouble("unforecast", True, text, step, "runs")]


def _late(state: State, newest: Sequence[Completeness], now: dt.datetime, words: Words) -> list[Trouble]:
    """Sales that should have landed by now, going by how the weeks before came."""
    late, _ = lateness(arrivals(state.rows(ARRIVALS)), now), words.gettext
    if late is not None:
        return [
            Trouble("late", True, _("Late: %(text)s.", text=late.text(words)),
                    _("Ask whoever delivers them; every figure here ends before them."), "runs#landed")
        ]  # fmt: skip
    old = (now.date() - newest[0].week) // WEEK if newest else 0
    if old < 2:
        return []
    text = _(
        "The newest sales are those of the week of %(week)s, %(weeks)s ago. No week has come in its turn so far, so "
        "none counts as late.", week=words.week(newest[0].week), weeks=words.weeks(old),
    )  # fmt: skip
    return [Trouble("old", False, text, _("Land the weeks since, if there are any."), "runs#landed")]


def _files(state: State, since: dt.datetime | None, words: Words) -> list[Trouble]:
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
    found = [t for row in rows[: 10 * NAMED] for t in _file(state, row, words)]
    if len(found) <= NAMED:
        return found
    left = found[NAMED:]
    text = words.ngettext("%(num)s more file or warning.", "%(num)s more files or warnings.", len(left))
    step = words.gettext("The page Data and runs has them all.")
    return [*found[:NAMED], Trouble("refused", any(t.serious for t in left), text, step, "runs#landed")]


def _file(state: State, row: dict[str, Any], words: Words) -> list[Trouble]:
    file, found, _ = row["source_key"], list[Trouble](), words.gettext
    if row["status"] not in FINE:
        waits = row["status"] == "waiting"
        values = {"file": file, "rule": f" ({row['rule']})" if row["rule"] else "", "status": words.term(row["status"])}
        text = (
            _("%(file)s waits%(rule)s; none of it is in the forecast.", **values)
            if waits
            else _("%(file)s was %(status)s%(rule)s; none of it is in the forecast.", **values)
        )
        step = row["message"] or _("The page Data and runs has its rule and what to do.")
        found.append(Trouble(row["status"], not waits or row["rule"] != WAITS_FOR_TIME, text, step, "runs#landed"))
    elif row["quarantined"]:
        worst = state.rows(
            """SELECT rule, count(*) AS n, max(message) AS message FROM quarantine
               WHERE source_key = ? AND landed_at = ? GROUP BY rule ORDER BY n DESC, rule LIMIT 1""",
            [file, row["landed_at"]],
        )
        values = {"file": file, "some": words.number(row["quarantined"]), "all": words.number(row["rows"])}
        text = (
            _("%(file)s: %(some)s of %(all)s rows were refused, most by the rule %(rule)s.", rule=worst[0]["rule"],
              **values)
            if worst
            else _("%(file)s: %(some)s of %(all)s rows were refused.", **values)
        )  # fmt: skip
        few = row["quarantined"] <= 0.01 * (row["rows"] or 0)
        step = (worst[0]["message"] if worst else None) or _("See the quarantine.")
        found.append(Trouble("partly refused", not few, text, step, "runs#quarantine"))
    if row.get("vanished"):
        text = _(
            "%(file)s took %(gone)s rows out of force that were known before, and changed %(changed)s.",
            file=file, gone=words.number(row["vanished"]), changed=words.number(row.get("changed") or 0),
        )  # fmt: skip
        step = _("Look whether that was meant; %(command)s brings them back.", command="forecast landing withdraw")
        found.append(Trouble("restated", False, text, step, "runs#landed"))
    if row.get("warnings"):
        text = _("%(file)s was taken with a warning: %(warning)s", file=file, warning=row["warnings"])
        found.append(Trouble("odd", False, text, _("Look whether the file means what it says."), "runs#landed"))
    return found


def _failed(state: State, there: set[str], words: Words) -> list[Trouble]:
    """The last failure of each week that no run has mended since, newest first."""
    if "open_failures" not in there:
        return []
    rows = state.rows(
        """SELECT f.week, f.run_id, f.step, f.message, f.failed_at FROM open_failures AS f
           JOIN (SELECT week, max(failed_at) AS failed_at FROM open_failures GROUP BY week) AS n
             ON n.failed_at = f.failed_at AND n.week IS NOT DISTINCT FROM f.week
           ORDER BY f.failed_at DESC, f.run_id LIMIT 3"""
    )
    found, _ = list[Trouble](), words.gettext
    for r in rows:
        values = {
            "step": r["step"],
            "moment": words.moment(r["failed_at"]),
            "message": _first_line(r["message"], words),
        }
        text = (
            _("The run for the week of %(week)s failed at the step %(step)s, %(moment)s: %(message)s",
              week=words.week(r["week"]), **values)
            if r["week"]
            else _("The run that brings files in failed at the step %(step)s, %(moment)s: %(message)s", **values)
        )  # fmt: skip
        step = _(
            "Mend that, then: %(command)s (run %(run)s in Dagster has the whole log)",
            command=_run(r["week"]), run=str(r["run_id"])[:8],
        )  # fmt: skip
        found.append(Trouble("failed", True, text, step, "runs#stages"))
    return found


def _stopping(state: State, there: set[str], names: Names) -> list[Trouble]:
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
    words, _ = names.words, names.words.gettext
    named = [
        _("%(series)s (%(weeks)s, back with %(share)s)", series=names.series(r["store"], r["dept"]),
          weeks=words.weeks(r["silent_weeks"]), share=words.percent(r["probability_of_return"], 0))
        for r in rows
    ]  # fmt: skip
    more = _(" and %(count)s more", count=words.number(count - len(rows))) if count > len(rows) else ""
    text = words.ngettext(
        "1 series has stopped selling: %(named)s. Its forecast fades out.",
        "%(num)s series have stopped selling: %(named)s. Their forecasts fade out.",
        count,
        named="; ".join(named) + more,
    )
    step = _("Tell the platform which are gone: %(command)s", command="forecast close STORE DEPT")
    return [Trouble("stopping", False, text, step, "runs#without")]


def _checked(newest: Sequence[Completeness], there: set[str], found: Sequence[Trouble], words: Words) -> str:
    """What was looked at and is well, in a line."""
    kinds, _ = {t.kind for t in found}, words.gettext
    said = []
    if newest and "incomplete" not in kinds:
        week = newest[0]
        values = {"week": words.week(week.week), "present": words.number(week.present)}
        said.append(
            _("the week of %(week)s is complete (%(present)s of %(expected)s series)",
              expected=words.number(week.expected), **values)
            if week.expected
            else _("the week of %(week)s is complete", **values)
        )  # fmt: skip
    if not kinds & {"late", "old"}:
        said.append(_("no week is late"))
    if not kinds & {"refused", "waiting", "partly refused", "restated", "odd"}:
        said.append(_("no file since then was refused, waits or was warned about") if said
                    else _("no file was refused, waits or was warned about"))  # fmt: skip
    if "open_failures" in there and "failed" not in kinds:
        said.append(_("no run failed"))
    if "stopping_series" in there and "stopping" not in kinds:
        said.append(_("no series stopped"))
    return "; ".join(said)


def _nothing_from(stores: Sequence[str], names: Names) -> str:
    """A sentence on the stores that sent nothing, to follow another; "" where there are none."""
    if not stores:
        return ""
    shown = [names.key("store", key) for key in sorted(stores, key=natural_key)[:NAMED]]
    left = len(stores) - len(shown)
    more = names.words.gettext(" and %(count)s more", count=names.words.number(left)) if left else ""
    text = names.words.ngettext(
        "Nothing came from store %(stores)s.", "Nothing came from stores %(stores)s.", len(stores),
        stores=", ".join(shown) + more,
    )  # fmt: skip
    return f" {text}"


def _run(week: dt.date | None) -> str:
    return f"forecast run --week {week}" if week else "forecast run"


def _first_line(text: str | None, words: Words) -> str:
    lines: Iterable[str] = (text or "").strip().splitlines()
    return next(iter(lines), words.gettext("no message"))[:300]
