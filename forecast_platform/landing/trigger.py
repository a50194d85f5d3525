"""What landed files start: a pure function from (what is new, what is remembered) to run requests.

Rules. One run a week for all its files, earliest week first, one run at a time, so weeks follow each other in order. A
drop of many weeks is history: one run brings all of it in, then one forecast is made from the newest complete week. A
week behind the newest is restated, and the newest week is forecast again afterwards. Files whose weeks have not begun,
or lie before the first week, are parked and named. Files whose weeks a short look does not tell, or that have none, get
a run that only ingests; the ledger then says which weeks they touched, and those get their runs. Whatever the ledger
says has not been cleaned is asked for, so nothing depends on the look, or on a run that died.

A run that failed or was cancelled is asked for again, TRIES times in all. Then its weeks are given up and named until a
run for them succeeds.

Where events tell of landed files (from S3, by queue or Lambda), only these files and the remembered ones are looked at.
A full listing every RECONCILE finds what events missed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.place import LandingObject
from forecast_platform.weeks import WeekCalendar, key

Kind = Literal["week", "history", "files"]

TRIES = 3
RECONCILE = dt.timedelta(minutes=10)
MOST_LOOKS = 50  # objects looked at one by one; a listing shows 1,000 in the time of one look


@dataclass(frozen=True)
class Request:
    """One run to start.

    kind: "week" runs the whole graph for `last` (= `first`), "history" brings in first .. last without forecasting,
    "files" only reads files that belong to no week.
    model: version of the model that the run is pinned to; empty: none.
    """

    kind: Kind
    first: dt.date
    last: dt.date
    run_key: str
    model: str = ""


@dataclass
class Memory:
    """The sensor's cursor.

    Attributes:
        epoch: when this memory began; part of every run key, so that a reset cursor never meets an old key.
        sent: number of requests so far; part of every run key, so that content that comes back runs again.
        requested: object key -> version that a run has been asked for, until the ledger shows it.
        pending: week -> versions waiting for their run.
        loose: versions that belong to no week, or to weeks not known yet, and wait for a run.
        unknown: whether some of the loose may hold weeks that come before the pending.
        asked: the request whose run has not ended: its run key, and what goes back to `pending` and `loose` when the
            run fails; empty: none.
        failures: week, or "files" -> runs for it that failed in a row.
        given_up: week, or "files" -> [what became of the last of TRIES runs for it, when that was seen, ISO 8601].
        parked: object key -> why it waits.
        spans: object key -> [version, first week, last week] of the parked, which need not be looked into again.
        refresh: the newest complete week is to be forecast when nothing else waits.
        later: object keys not looked into yet, because there was too much to read at one time.
        listed: when everything was last listed, ISO 8601, where files are told of; empty: not yet.
        observed: number of the last observation of the landing place taken in (Dagster's storage id).
        model: version of the model that the Lambda pins, as last observed.
    """

    epoch: str
    sent: int = 0
    requested: dict[str, str] = field(default_factory=dict)
    pending: dict[str, list[str]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    parked: dict[str, str] = field(default_factory=dict)
    refresh: bool = False
    spans: dict[str, list[str]] = field(default_factory=dict)
    later: list[str] = field(default_factory=list)
    listed: str = ""
    observed: int = 0
    model: str = ""
    unknown: bool = False
    asked: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, list[str]] = field(default_factory=dict)

    @property
    def waiting(self) -> set[str]:
        """Keys that are looked at each time until the lake holds their content, also without a new event."""
        return {*self.requested, *self.parked, *self.later}

    @classmethod
    def load(cls, cursor: str | None, now: dt.datetime) -> Memory:
        return cls(**json.loads(cursor)) if cursor else cls(epoch=f"{now:%Y%m%d%H%M%S}")

    def dump(self) -> str:
        return json.dumps(self.__dict__, sort_keys=True)

    def _request(
        self, kind: Kind, first: dt.date, last: dt.date, why: Sequence[str], weeks: dict[str, list[str]]
    ) -> Request:
        content = hashlib.sha256("\0".join(sorted(why)).encode()).hexdigest()[:12]
        self.sent += 1
        run_key = f"{key(last)}:{content}:{self.epoch}.{self.sent}"
        self.asked = {"run_key": run_key, "weeks": weeks, "loose": self.loose}
        # A run reads everything that has landed, so no loose file is left waiting.
        self.loose, self.unknown = [], False
        return Request(kind, first, last, run_key, self.model)

    def ended(self, success: bool, now: dt.datetime, what: str = "") -> None:
        """The run asked for has ended. One that did not succeed is asked for again, TRIES times in all.

        Args:
            what: what became of it, for people.
        """
        asked, self.asked = self.asked, {}
        labels = [*asked["weeks"], *(["files"] if asked["loose"] else [])]
        for label in labels:
            if success:
                self.failures.pop(label, None)
                self.given_up.pop(label, None)
            else:
                self.failures[label] = self.failures.get(label, 0) + 1
                if self.failures[label] >= TRIES:
                    self.given_up[label] = [what, now.isoformat()]
        if success or all(label in self.given_up for label in labels):
            return
        self.requested = {}  # what the run did not bring in is news again
        for week, versions in asked["weeks"].items():
            if week not in self.given_up:
                self.pending[week] = [*versions, *self.pending.get(week, [])]
        if "files" not in self.given_up:
            self.loose = [*asked["loose"], *self.loose]

    def mended(self, label: str) -> None:
        """A run for what was given up has succeeded since."""
        self.failures.pop(label, None)
        self.given_up.pop(label, None)


def keys_to_look_at(memory: Memory, told: Iterable[str], now: dt.datetime) -> list[str] | None:
    """The objects to look at, given those that events `told` of; None: list everything."""
    keys = {*told, *memory.waiting}
    due = not memory.listed or now - dt.datetime.fromisoformat(memory.listed) >= RECONCILE
    return None if due or len(keys) > MOST_LOOKS else sorted(keys)


def notice(
    memory: Memory,
    new: Sequence[LandingObject],
    weeks_in: Callable[[LandingObject], Sequence[dt.date] | None],
    calendar: WeekCalendar,
    now: dt.datetime,
    byte_limit: int = 256 * 1024 * 1024,
) -> None:
    """Put new objects into the memory: under the weeks they hold, or parked, or loose.

    Args:
        new: objects whose content the ledger does not hold, oldest arrival first: of all that lie there, or of those
            from keys_to_look_at.
        weeks_in: the weeks a sales file holds, None where a short look does not tell; raises FileRefused when nothing
            can.
        byte_limit: size of the files looked into at one time; the rest is noticed the next time.
    """
    newest = calendar.last_started(now)
    memory.requested = {o.key: o.version for o in new if memory.requested.get(o.key) == o.version}
    spans = {o.key: memory.spans[o.key] for o in new if memory.spans.get(o.key, [""])[0] == o.version}
    memory.parked, memory.spans, memory.later = {}, {}, []
    looked_into = 0
    for obj in new:
        if obj.kind is None or obj.key in memory.requested:
            continue
        if obj.key in spans:
            _, first, last = spans[obj.key]
            if why := _waits(dt.date.fromisoformat(first), dt.date.fromisoformat(last), calendar, newest):
                memory.parked[obj.key], memory.spans[obj.key] = why, spans[obj.key]
                continue
        if looked_into and looked_into + obj.size > byte_limit:
            memory.later.append(obj.key)
            continue
        looked_into += obj.size
        try:
            found = weeks_in(obj) if obj.kind == "sales" else []
        except FileRefused:
            found = []
        weeks = list(found or ())
        known = [w for w in weeks if calendar.first_week <= w <= newest]
        if weeks and not known and (why := _waits(min(weeks), max(weeks), calendar, newest)):
            memory.parked[obj.key], memory.spans[obj.key] = why, [obj.version, key(min(weeks)), key(max(weeks))]
            continue
        memory.requested[obj.key] = obj.version
        for week in known:
            memory.pending.setdefault(key(week), []).append(obj.version)
        if not known:
            memory.loose.append(obj.version)
            memory.unknown = memory.unknown or found is None


def ingest_first(memory: Memory, first: dt.date) -> None:
    """Weeks before `first` have no run of their own: their files are only ingested, and the ledger then names them."""
    for week in [w for w in memory.pending if w < key(first)]:
        memory.loose += memory.pending.pop(week)
        memory.unknown = True


def uncleaned(memory: Memory, weeks: Iterable[dt.date]) -> None:
    """Put weeks into the memory that the ledger says have not been cleaned, but for those given up."""
    for week in weeks:
        if key(week) not in memory.pending and key(week) not in memory.given_up:
            memory.pending[key(week)] = ["ledger"]


def _waits(first: dt.date, last: dt.date, calendar: WeekCalendar, newest: dt.date) -> str:
    """Why a file of these weeks waits; empty when it does not."""
    if first > newest:
        return f"its first week {first} has not begun"
    if last < calendar.first_week:
        return f"its last week {last} lies before {calendar.first_week}; set FORECAST_FIRST_WEEK"
    return ""


def next_request(
    memory: Memory,
    history_weeks: int,
    newest_landed: dt.date | None,
    newest_complete: Callable[[], dt.date | None],
    arrival_week: dt.date,
) -> Request | None:
    """The next run to start, taken out of the memory; None when nothing waits. Ask only while no such run is going.

    Args:
        history_weeks: a drop of more weeks than this is history.
        newest_landed: the newest week already in the lake.
        newest_complete: the newest complete week in the lake; asked only when a forecast is to be refreshed.
        arrival_week: the week that runs for files without a week are filed under.
    """
    weeks = sorted(dt.date.fromisoformat(k) for k in memory.pending)
    if memory.loose and (memory.unknown or not weeks):
        return memory._request("files", arrival_week, arrival_week, memory.loose, {})
    if len(weeks) > history_weeks:
        waiting, memory.pending = memory.pending, {}
        memory.refresh = True
        versions = [v for found in waiting.values() for v in found]
        return memory._request("history", weeks[0], weeks[-1], versions, waiting)
    if weeks:
        week = weeks[0]
        versions = memory.pending.pop(key(week))
        if not memory.pending and newest_landed and week < newest_landed:
            memory.refresh = True
        return memory._request("week", week, week, versions, {key(week): versions})
    if memory.refresh:
        memory.refresh = False
        week_or_none = newest_complete()
        if week_or_none:
            why = ["refresh"]
            return memory._request("week", week_or_none, week_or_none, why, {key(week_or_none): why})
    return None
