"""Ingestion: landed objects that are not in the lake yet become rows, or quarantined lines with a reason.

Order of commits for one object: its quarantined lines, its accepted rows, then its line in `landings`. The last is what
marks the object as done, and the two before replace whatever an interrupted try left, so a run that dies anywhere
is mended by running again. Row conservation holds per object: rows = accepted + quarantined.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.lake.lake import Lake, any_of, with_columns
from forecast_platform.landing import rules
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.kinds import FileRefused
from forecast_platform.landing.place import Landing, LandingObject
from forecast_platform.weeks import WeekCalendar

_TABLES = {"sales": "raw_sales", "stores": "stores", "features": "features", "calendar": "calendar"}


@dataclass(frozen=True)
class Ingested:
    """What became of one landed object; a row of `landings`."""

    key: str
    version: str
    kind: str
    landed_at: dt.datetime
    status: str  # "ingested" or "refused"
    rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    weeks: tuple[dt.date, ...] = ()
    rule: str | None = None
    message: str | None = None
    ignored_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """What the lake already holds: the newest landing of each key, as it was listed then."""

    objects: dict[str, LandingObject]
    landed_at: dict[str, dt.datetime]
    newest_week: dt.date | None
    spans: dict[str, tuple[dt.date, dt.date]]  # first and last week of the version in force

    @classmethod
    def of(cls, lake: Lake) -> Ledger:
        rows = lake.read("landings").sort_by("landed_at").to_pylist()
        return cls(
            {
                r["source_key"]: LandingObject(
                    r["source_key"], r["source_version"], r["size"], r["arrived_at"], r["landed_at"]
                )
                for r in rows
            },
            {r["source_key"]: r["landed_at"] for r in rows},
            max((r["last_week"] for r in rows if r["kind"] == "sales" and r["last_week"]), default=None),
            {r["source_key"]: (r["first_week"], r["last_week"]) for r in rows if r["status"] == "ingested"},
        )

    def twin(self, obj: LandingObject) -> str | None:
        """Another key of the same kind whose newest version is the same bytes."""
        for other in self.objects.values():
            if other.version == obj.version and other.kind == obj.kind and other.key != obj.key:
                return other.key
        return None

    def is_news(self, obj: LandingObject) -> bool:
        """Whether the object's content is not in the lake yet, under this key or another."""
        known = self.objects.get(obj.key)
        same = known is not None and known.version == obj.version
        return obj.kind is not None and not same and self.twin(obj) is None

    def touched(
        self, obj: LandingObject, weeks: Sequence[dt.date], calendar: WeekCalendar, newest_week: dt.date
    ) -> list[dt.date]:
        """The weeks that change when a sales file holding `weeks` goes in: those, and the ones that the version it
        replaces held, since rows it no longer has must go. A file of future weeks waits, so it touches its own only.
        """
        first, last = self.spans.get(obj.key, (None, None))
        if first is None or last is None or (weeks and min(weeks) > newest_week):
            return list(weeks)
        return sorted({*weeks, *calendar.between(first, last)})


def ingest_landed(
    lake: Lake,
    landing: Landing,
    contract: Dialect,
    calendar: WeekCalendar,
    now: dt.datetime,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Ingested]:
    """Bring every landed object that is new, or new in content, into the lake.

    A sales file that holds only weeks that have not begun waits in the landing folder until they do.

    Returns:
        One entry per object ingested or refused now, oldest arrival first.

    Raises:
        LandingError: the landing place can't be listed or read (never taken for "no files").
    """
    ledger = Ledger.of(lake)
    newest_week = calendar.last_started(now)
    done = []
    for obj in landing.list(known=ledger.objects):
        if not ledger.is_news(obj):
            continue
        data = landing.read(obj)
        if obj.kind == "sales" and _only_future_weeks(data, obj, contract, calendar, newest_week):
            progress(f"{obj.key}: waits, its weeks have not begun")
            continue
        done.append(_ingest(lake, obj, data, contract, calendar, newest_week, ledger.landed_at.get(obj.key)))
        # A copy further down the list is then known as one, as it would be after an interruption here.
        ledger.objects[obj.key] = obj
        progress(f"{obj.key}: {done[-1].accepted:,} rows accepted, {done[-1].quarantined:,} quarantined")
    return done


def landing_time(obj: LandingObject, previous: dt.datetime | None) -> dt.datetime:
    """When this version counts as landed: when its content was last written, but after the version it replaces.

    Taken from the object, not the clock, so that ingesting again after a crash gives the same rows.
    """
    for moment in (obj.modified_at, obj.arrived_at):
        if previous is None or moment > previous:
            return moment
    return (previous or obj.arrived_at) + dt.timedelta(microseconds=1)


def _only_future_weeks(
    data: bytes, obj: LandingObject, contract: Dialect, calendar: WeekCalendar, newest_week: dt.date
) -> bool:
    try:
        weeks = rules.weeks_in(data, obj.key, contract, calendar)
    except FileRefused:
        return False  # parsing will say so again, and quarantine it
    return bool(weeks) and min(weeks) > newest_week


def _ingest(
    lake: Lake,
    obj: LandingObject,
    data: bytes,
    contract: Dialect,
    calendar: WeekCalendar,
    newest_week: dt.date,
    previous: dt.datetime | None,
) -> Ingested:
    assert obj.kind is not None
    landed_at = landing_time(obj, previous)
    try:
        parsed = rules.parse(obj.kind, data, obj.key, contract, calendar, newest_week)
    except FileRefused as refusal:
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
        _replace_source(lake, "quarantine", _quarantine_rows(refused, obj, landed_at), obj, landed_at)
        result = Ingested(
            obj.key, obj.version, obj.kind, landed_at, "refused", rule=refusal.rule, message=refusal.message
        )
    else:
        table = _TABLES[obj.kind]
        _replace_source(lake, "quarantine", _quarantine_rows(parsed.rejected, obj, landed_at), obj, landed_at)
        if table == "stores":
            lake.replace(table, any_of("source_key", [obj.key]), _with_source(parsed.accepted, obj, landed_at))
        else:
            # Every version is kept: a restated week never destroys what was known before.
            _replace_source(lake, table, _with_source(parsed.accepted, obj, landed_at), obj, landed_at)
        weeks: Sequence[dt.date] = ()
        if "week" in parsed.accepted.column_names:
            weeks = sorted(w for w in pc.unique(parsed.accepted["week"]).to_pylist() if w)
        result = Ingested(
            obj.key,
            obj.version,
            obj.kind,
            landed_at,
            "ingested",
            parsed.rows,
            parsed.accepted_rows,
            len(parsed.rejected),
            tuple(weeks),
            ignored_columns=parsed.ignored_columns,
        )
    _replace_source(lake, "landings", _ledger_row(lake, obj, result), obj, landed_at)
    return result


def _with_source(rows: pa.Table, obj: LandingObject, landed_at: dt.datetime) -> pa.Table:
    return with_columns(
        rows,
        source_key=obj.key,
        source_version=obj.version,
        landed_at=pa.scalar(landed_at, pa.timestamp("us", tz="UTC")),
    )


def _quarantine_rows(rejected: pa.Table, obj: LandingObject, landed_at: dt.datetime) -> pa.Table:
    rows = rejected.rename_columns(["field" if c == "column" else c for c in rejected.column_names])
    return with_columns(_with_source(rows, obj, landed_at), landed_date=landed_at.date())


def _replace_source(lake: Lake, table: str, rows: pa.Table, obj: LandingObject, landed_at: dt.datetime) -> None:
    from pyiceberg.expressions import And

    lake.replace(table, And(any_of("source_key", [obj.key]), any_of("landed_at", [landed_at.isoformat()])), rows)


def _ledger_row(lake: Lake, obj: LandingObject, result: Ingested) -> pa.Table:
    row = {
        "source_key": obj.key,
        "source_version": obj.version,
        "landed_at": result.landed_at,
        "kind": result.kind,
        "size": obj.size,
        "status": result.status,
        "rows": result.rows,
        "accepted": result.accepted,
        "quarantined": result.quarantined,
        "weeks": len(result.weeks),
        "first_week": min(result.weeks, default=None),
        "last_week": max(result.weeks, default=None),
        "rule": result.rule,
        "message": result.message,
        "ignored_columns": ", ".join(result.ignored_columns) or None,
        "arrived_at": obj.arrived_at,
    }
    return pa.Table.from_pylist([row], schema=lake.specs["landings"].schema)
