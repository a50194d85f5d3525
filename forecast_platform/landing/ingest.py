"""Ingestion: landed objects that are not in the lake yet become rows, or quarantined lines with a reason.

Order of commits for one object: its quarantined lines, its accepted rows, then its line in `landings`. The last is what
marks the object as done, and the two before replace whatever an interrupted try left. So a run that dies anywhere
is mended by running again. Row conservation holds per object: rows = accepted + quarantined.

Each file is read and parsed once. A sales file is then judged as a whole, and held against what is in force: what it
would change is counted, and one that would remove too much waits for a person.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.lake.lake import Lake, any_of, with_columns
from forecast_platform.landing import rules
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.digest import reading_digest
from forecast_platform.landing.effect import Effect, Standing
from forecast_platform.landing.judgement import Known, Limits, judge
from forecast_platform.landing.kinds import ATTRIBUTES, KINDS, FileRefused, Parsed
from forecast_platform.landing.ledger import (
    INGESTED,
    KNOWN,
    NOT_BEGUN,
    REFUSED,
    TICK,
    WAITING,
    Entry,
    Ledger,
    record,
    replace_source,
)
from forecast_platform.landing.place import Landing, LandingObject
from forecast_platform.weeks import WeekCalendar

TABLES = {kind: "raw_sales" if kind == "sales" else kind for kind in KINDS}
DEFAULTS = Limits()
REMOVES_ROWS = "removes_rows"


@dataclass(frozen=True)
class Order:
    """What a person asks for one file, whatever the ledger says of it.

    what: "again": it counts as arriving now; "reread": it is read again, in the place it has; "accept": the same, and
    neither judgement nor removals hold it up.
    """

    what: Literal["again", "reread", "accept"]
    reason: str = ""
    author: str = ""


def ingest_landed(
    lake: Lake,
    landing: Landing,
    contract: Dialect,
    calendar: WeekCalendar,
    now: dt.datetime,
    progress: Callable[[str], None] = lambda message: None,
    limits: Limits = DEFAULTS,
    orders: Mapping[str, Order] | None = None,
) -> list[Entry]:
    """Bring every landed object that is news into the lake.

    A sales file that holds only weeks that have not begun waits in the landing place until they do.

    Args:
        limits: from where on a file is refused as a whole, warned about, or waits.
        orders: by key; given, only these files are looked at.

    Returns:
        One entry per object that was news, oldest arrival first.

    Raises:
        LandingError: the landing place can't be listed or read (never taken for "no files").
    """
    ledger = Ledger.of(lake)
    objects = landing.list(known=ledger.objects)
    desk = _Desk(lake, ledger, contract, calendar, now, limits, {o.key for o in objects})
    done = []
    try:
        for obj in objects:
            order = (orders or {}).get(obj.key)
            if obj.kind is None or (order is None if orders is not None else not desk.is_news(obj)):
                continue
            # A copy later in the list is then recognised, as it would be after an interruption here.
            done.append(desk.take(obj, landing, order))
            progress(told(done[-1]))
    finally:
        desk.standing.close()
    return done


def told(entry: Entry) -> str:
    """What became of a file, in one line."""
    if entry.status != INGESTED:
        return f"{entry.key}: {entry.status}: {entry.message}"
    text = f"{entry.key}: {entry.accepted:,} rows accepted, {entry.quarantined:,} quarantined"
    if entry.kind == "sales":
        text += f"; in force: {entry.appeared:,} appeared, {entry.changed:,} changed, {entry.vanished:,} vanished"
    return "; ".join([text, *entry.warnings])


class _Desk:
    """Takes in one file after another."""

    def __init__(
        self,
        lake: Lake,
        ledger: Ledger,
        dialect: Dialect,
        calendar: WeekCalendar,
        now: dt.datetime,
        limits: Limits,
        lying: set[str],
    ) -> None:
        self.lake, self.ledger, self.dialect, self.calendar = lake, ledger, dialect, calendar
        self.newest_week, self.limits, self.lying = calendar.last_started(now), limits, lying
        self.reading = reading_digest(dialect, calendar, limits)
        self.standing = Standing(lake, ledger)

    def is_news(self, obj: LandingObject) -> bool:
        return self.ledger.is_news(obj, self.reading, self.newest_week)

    def take(self, obj: LandingObject, landing: Landing, order: Order | None) -> Entry:
        assert obj.kind is not None
        again = order is not None and order.what == "again"
        before = None if again else self.ledger.reading(obj)
        entry = Entry(
            obj.key,
            obj.version,
            obj.kind,
            before.landed_at + TICK if before else self.ledger.place(obj),
            INGESTED,
            obj.size,
            reading=self.reading,
            arrived_at=before.arrived_at or before.landed_at if before else obj.arrived_at,
            modified_at=obj.modified_at,
            reason=(order.reason or None) if order else None,
            author=(order.author or None) if order else None,
        )
        twin = self.ledger.seen(obj) if before is None and not again else None
        if twin and twin.status == INGESTED and self._renamed(obj, twin):
            return self._known(entry, twin, f"{twin.key} under another name; its rows are in the lake")
        weeks_to_come: list[dt.date] = []
        try:
            with landing.opened(obj) as path:
                parsed = rules.parse(obj.kind, path, obj.key, self.dialect, self.calendar, self.newest_week)
                if obj.kind == "sales" and self._all_to_come(parsed):
                    weeks_to_come = rules.weeks_in(path, obj.key, self.dialect, self.calendar)
        except FileRefused as refusal:
            return self._hold(entry, REFUSED, refusal)
        entry = replace(
            entry,
            rows=parsed.rows,
            accepted=parsed.accepted_rows,
            quarantined=len(parsed.rejected),
            ignored_columns=parsed.ignored_columns,
            columns=parsed.header,
            warnings=parsed.notes if obj.kind != "sales" else (),  # of sales the verdict says them
        )
        if obj.kind != "sales":
            if twin and twin.status == INGESTED and not self._since(twin):
                return self._known(entry, twin, f"the same bytes as {twin.key}, whose rows are in the lake")
            return self._store(entry, parsed, Effect())
        if weeks_to_come and weeks_to_come[0] > self.newest_week:
            return self._not_begun(entry, weeks_to_come)
        return self._sales(entry, parsed, before, twin, order is not None and order.what == "accept")

    def _sales(self, entry: Entry, parsed: Parsed, before: Entry | None, twin: Entry | None, accepted: bool) -> Entry:
        weeks = sorted(parsed.sales.weeks)
        entry = _spanning(entry, weeks)
        effect = self.standing.effect(entry, parsed.sales)
        if effect.nothing and twin and twin.status == INGESTED and weeks:
            return self._known(entry, twin, f"the same bytes as {twin.key}: landing them would change nothing")
        last = self.newest_week if self.dialect.sums else max(weeks, default=None)  # sums count twice in any week
        known = Known(self.standing.known(weeks[0], last) if weeks and last else (), self._columns())
        verdict = judge(parsed, known, entry.key, self.dialect, self.limits)
        entry = replace(entry, warnings=(*entry.warnings, *verdict.warnings))
        if verdict.refusal and not verdict.acceptable:
            return self._hold(entry, REFUSED, verdict.refusal)
        if not accepted and (removals := effect.too_much(self.limits.most_removed)):
            also = f", and more in {len(removals) - 1:,} other places" if len(removals) > 1 else ""
            message = (
                f"{entry.key} would remove {removals[0]}{also}; more than {self.limits.most_removed:.0%} "
                f"(FORECAST_MOST_REMOVED) waits, and nothing of it counts. If the rows are to go: forecast landing "
                f"accept {entry.key}; else land the whole file"
            )
            return self._hold(entry, WAITING, FileRefused(REMOVES_ROWS, message))
        if verdict.refusal and not accepted:
            return self._hold(entry, WAITING, verdict.refusal)
        if before and before.status == INGESTED and before.first_week and before.last_week:
            # Rows of an earlier reading that this one lacks must go, too.
            weeks = sorted({*weeks, *self.calendar.between(before.first_week, before.last_week)})
        if accepted:
            entry = replace(entry, message=f"accepted by {entry.author}: {entry.reason}")
        return self._store(replace(entry, to_clean=tuple(weeks)), parsed, effect)

    def _renamed(self, obj: LandingObject, twin: Entry) -> bool:
        return obj.key != twin.key and twin.key not in self.lying and obj.modified_at == twin.modified_at

    def _since(self, twin: Entry) -> bool:
        """Whether another file of the kind was ingested after this one."""
        return any(e.kind == twin.kind and e.status == INGESTED and e.order > twin.order for e in self.ledger.entries)

    def _columns(self) -> tuple[str, ...] | None:
        found = [e.columns for e in self.ledger.entries if e.kind == "sales" and e.status == INGESTED and e.columns]
        return found[-1] if found else None

    def _all_to_come(self, parsed: Parsed) -> bool:
        """Whether it may be that a file holds only weeks that have not begun."""
        return not parsed.accepted_rows and "week_in_future" in parsed.rejected["rule"].to_pylist()

    def _not_begun(self, entry: Entry, weeks: Sequence[dt.date]) -> Entry:
        """The entry of a file that holds only weeks that have not begun: it waits, and nothing of it is kept."""
        message = f"its first week {weeks[0]} has not begun; it goes in when it does"
        entry = replace(entry, status=WAITING, rule=NOT_BEGUN, message=message, accepted=0, quarantined=0)
        entry = replace(entry, weeks=len(weeks), first_week=weeks[0], last_week=weeks[-1], warnings=())
        record(self.lake, entry)
        self.ledger.add(entry)
        return entry

    def _known(self, entry: Entry, twin: Entry, message: str) -> Entry:
        entry = replace(entry, status=KNOWN, message=message, rows=0, accepted=0, quarantined=0, weeks=0)
        entry = replace(entry, first_week=None, last_week=None, warnings=())
        record(self.lake, entry)
        self.ledger.add(entry)
        return entry

    def _hold(self, entry: Entry, status: str, refusal: FileRefused) -> Entry:
        """Take nothing of a file, and say why in the quarantine and the ledger."""
        entry = replace(entry, status=status, rule=refusal.rule, message=refusal.message)
        entry = replace(entry, rows=0, accepted=0, quarantined=0, weeks=0, first_week=None, last_week=None)
        refused = pa.table(
            {
                "line": pa.array([None], pa.int64()),
                "rule": [refusal.rule],
                "column": pa.array([None], pa.string()),
                "value": pa.array([None], pa.string()),
                "message": [refusal.message],
                "record": pa.array([None], pa.string()),
            }
        )
        replace_source(self.lake, "quarantine", _quarantine_rows(refused, entry), entry)
        record(self.lake, entry)
        self.ledger.add(entry)
        return entry

    def _store(self, entry: Entry, parsed: Parsed, effect: Effect) -> Entry:
        table = TABLES[entry.kind]
        entry = replace(entry, appeared=effect.appeared, changed=effect.changed, vanished=effect.vanished)
        entry = replace(entry, stored=len(parsed.kept))
        if entry.kind == "features":
            entry = _spanning(entry, sorted(pc.unique(parsed.accepted["week"]).to_pylist()))
        replace_source(self.lake, "quarantine", _quarantine_rows(parsed.rejected, entry), entry)
        if of := ATTRIBUTES.get(entry.kind):
            # A file says what the stores (or departments) it holds are now; of the others it says nothing.
            held = pc.unique(parsed.accepted[of]).to_pylist()
            if held:
                self.lake.replace(table, any_of(of, held), _with_source(parsed.accepted, entry))
        else:
            # Every version is kept: a restated week never destroys what was known before.
            replace_source(self.lake, table, _rows_of(parsed, entry), entry)
        record(self.lake, entry)
        self.ledger.add(entry)
        if entry.kind == "sales":
            self.standing.add(entry, parsed.sales)
        return entry


def _rows_of(parsed: Parsed, entry: Entry) -> pa.Table | Iterator[pa.Table]:
    if isinstance(parsed.kept, pa.Table):
        return _with_source(parsed.kept, entry)
    return (_with_source(rows, entry) for rows in parsed.kept.tables())


def _spanning(entry: Entry, weeks: Sequence[dt.date]) -> Entry:
    return replace(entry, weeks=len(weeks), first_week=min(weeks, default=None), last_week=max(weeks, default=None))


def _with_source(rows: pa.Table, entry: Entry) -> pa.Table:
    return with_columns(
        rows,
        source_key=entry.key,
        source_version=entry.version,
        landed_at=pa.scalar(entry.landed_at, pa.timestamp("us", tz="UTC")),
    )


def _quarantine_rows(rejected: pa.Table, entry: Entry) -> pa.Table:
    rows = rejected.rename_columns(["field" if c == "column" else c for c in rejected.column_names])
    return with_columns(_with_source(rows, entry), landed_date=entry.landed_at.date())
