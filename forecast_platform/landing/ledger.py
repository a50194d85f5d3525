"""The ledger: what the lake knows of the files that landed, and which of those lying there are news.

A file is news when its bytes are not those its name landed with last. Bytes that are known are read again only where
they were not wholly accepted: refused, waiting, or partly quarantined, and read by other settings since.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa

from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.landing.place import LandingObject
from forecast_platform.weeks import WeekCalendar, key

INGESTED, REFUSED, WAITING, KNOWN, WITHDRAWN = "ingested", "refused", "waiting", "known", "withdrawn"
NOT_BEGUN = "not_begun"  # the rule that a file of future weeks waits by
TICK = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class Entry:
    """One landing: what became of one version of one file. A row of `landings`.

    Attributes:
        landed_at: its place in the order: when it arrived, but after the landing of that name before it.
        status: ingested; refused; waiting, for its weeks or for a person; known: its rows were there already;
            withdrawn.
        rows, accepted, quarantined: of the file. Where days are added up, `stored` rows are made of those accepted.
        weeks: number of weeks it has rows of.
        appeared, changed, vanished: rows in force that came, were given another value, and went with it (sales).
        reading: digest of the settings it was read by.
        to_clean: the weeks it touched that have not been cleaned since.
        arrived_at: when these bytes arrived. Readings of a file where it lies share it.
    """

    key: str
    version: str
    kind: str
    landed_at: dt.datetime
    status: str
    size: int = 0
    rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    stored: int | None = None
    weeks: int = 0
    first_week: dt.date | None = None
    last_week: dt.date | None = None
    rule: str | None = None
    message: str | None = None
    ignored_columns: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    appeared: int = 0
    changed: int = 0
    vanished: int = 0
    reading: str | None = None
    to_clean: tuple[dt.date, ...] = ()
    arrived_at: dt.datetime | None = None
    modified_at: dt.datetime | None = None
    withdrawn_at: dt.datetime | None = None
    reason: str | None = None
    author: str | None = None

    @property
    def arrival(self) -> tuple[str, str, dt.datetime]:
        """What is the same for every reading of a file where it lies."""
        return self.kind, self.version, self.arrived_at or self.landed_at

    @property
    def order(self) -> tuple[dt.datetime, str]:
        return self.landed_at, self.key

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Entry:
        """From a row of `landings`. Where an older home left a column empty, the field has its default."""
        found = {name: row[name] for name in _PLAIN if row.get(name) is not None}
        for name, joint in _LISTS.items():
            found[name] = tuple(part for part in (row.get(name) or "").split(joint) if part)
        found["to_clean"] = tuple(dt.date.fromisoformat(w) for w in (row.get("to_clean") or "").split())
        return cls(key=row["source_key"], version=row["source_version"], **found)

    def row(self) -> dict[str, Any]:
        """As a row of `landings`."""
        found: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        for name, joint in _LISTS.items():
            found[name] = joint.join(getattr(self, name)) or None
        found["to_clean"] = " ".join(map(key, self.to_clean)) or None
        return {"source_key": self.key, "source_version": self.version, **found}


_LISTS = {"ignored_columns": ", ", "columns": "\n", "warnings": "; "}
_PLAIN = [
    f.name for f in dataclasses.fields(Entry) if f.name not in ("key", "version", "to_clean") and f.name not in _LISTS
]


class Ledger:
    """Every landing so far, in order.

    Attributes:
        entries: by (landed_at, key).
        newest: name -> the last landing under it.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = sorted(entries, key=lambda e: e.order)
        self.newest: dict[str, Entry] = {}
        self._readings: dict[tuple[str, str, dt.datetime], Entry] = {}
        self._versions: dict[tuple[str, str], Entry] = {}
        for entry in self.entries:
            self._note(entry)

    @classmethod
    def of(cls, lake: Lake) -> Ledger:
        """The lake's, as of now. What was read of one state of the table is not read again."""
        state = lake.snapshot("landings")
        known = _read.get(lake)
        if known is None or known[0] != state:
            known = _read[lake] = state, [Entry.of(row) for row in lake.read("landings").to_pylist()]
        return cls(known[1])

    def add(self, entry: Entry) -> None:
        """Take in a landing recorded just now."""
        self.entries.append(entry)
        self.entries.sort(key=lambda e: e.order)
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        at = self.newest.get(entry.key)
        if at is None or at.order <= entry.order:
            self.newest[entry.key] = entry
        if entry.status == KNOWN:
            return
        reading, version = self._readings.get(entry.arrival), self._versions.get((entry.kind, entry.version))
        if reading is None or reading.order <= entry.order:
            self._readings[entry.arrival] = entry
        if version is None or version.order <= entry.order:
            self._versions[entry.kind, entry.version] = entry

    @property
    def objects(self) -> dict[str, LandingObject]:
        """The newest landing of each name as it was listed then."""
        return {
            e.key: LandingObject(e.key, e.version, e.size, e.arrived_at or e.landed_at, e.modified_at or e.landed_at)
            for e in self.newest.values()
        }

    @property
    def newest_week(self) -> dt.date | None:
        """The newest week of which sales are in the lake."""
        weeks = (e.last_week for e in self.entries if e.kind == "sales" and e.status == INGESTED and e.last_week)
        return max(weeks, default=None)

    @property
    def first_week(self) -> dt.date | None:
        """The first week of which sales are in the lake, or were, and have not been cleaned away."""
        landed = (e.first_week for e in self.entries if e.kind == "sales" and e.status == INGESTED and e.first_week)
        return min((*landed, *(w for e in self.entries for w in e.to_clean)), default=None)

    def to_clean(self, calendar: WeekCalendar) -> list[dt.date]:
        """Weeks whose rows changed and that have not been cleaned since."""
        weeks = {w for e in self.entries for w in e.to_clean}
        return sorted(w for w in weeks if w >= calendar.first_week and w.weekday() == calendar.weekday)

    def reading(self, obj: LandingObject) -> Entry | None:
        """The last reading of the bytes that lie under this name, if the name landed with them last."""
        newest = self.newest.get(obj.key)
        if newest is None or newest.version != obj.version:
            return None
        if newest.status == KNOWN:  # its rows came with another name
            return self._versions.get((newest.kind, newest.version), newest)
        return self._readings.get(newest.arrival, newest)

    def seen(self, obj: LandingObject) -> Entry | None:
        """The last landing of the same bytes, as the same kind of file, under any name."""
        return self._versions.get((obj.kind or "", obj.version))

    def is_news(self, obj: LandingObject, reading: str, newest_week: dt.date) -> bool:
        """Whether the object is to be read: it is not in the lake yet, or could not be taken whole and may be now.

        Args:
            reading: digest of the settings in force.
            newest_week: the newest week that has begun.
        """
        if obj.kind is None:
            return False
        before = self.reading(obj)
        if before is None:
            return True
        if before.rule == NOT_BEGUN:
            return before.first_week is not None and before.first_week <= newest_week
        unread = before.status in (REFUSED, WAITING) or (before.status == INGESTED and before.quarantined > 0)
        return unread and before.reading != reading

    def place(self, obj: LandingObject) -> dt.datetime:
        """The place in the order of an object that arrives: its arrival, but after its name's landing before.

        Taken from the object, not the clock, so that ingesting again after a crash gives the same rows.
        """
        before = self.newest.get(obj.key)
        return obj.arrived_at if before is None or obj.arrived_at > before.landed_at else before.landed_at + TICK

    def find(self, name: str) -> Entry:
        """The landing of that name, or NAME@VERSION (or the beginning of one) for one of several.

        Raises:
            LedgerError: there is none, with the nearest name; or a version's beginning fits several.
        """
        if name in self.newest:
            return self.newest[name]
        plain, _, version = name.rpartition("@")
        fits = [e for e in self.entries if e.key == plain and version and e.version.startswith(version)]
        if len({e.version for e in fits}) > 1:
            raise LedgerError(f"{name} may be {', '.join(sorted({e.version for e in fits}))}; write more of it")
        if fits:
            return fits[-1]
        names = sorted(self.newest)
        near = difflib.get_close_matches(name, names, 1, 0.5)
        near = near or [n for n in names if n.rpartition("/")[2] == name.rpartition("/")[2]][:1]
        hint = f"did you mean {near[0]}?" if near else "see what has: forecast landing list"
        raise LedgerError(f"no file landed as {name}; {hint}")


# For each open lake: the state of `landings` read last, and its entries.
_read: WeakKeyDictionary[Lake, tuple[int | None, list[Entry]]] = WeakKeyDictionary()


class LedgerError(Exception):
    """What was asked of a landing cannot be done; the message says why, and what to do."""


def record(lake: Lake, entry: Entry) -> None:
    """Write the entry into `landings`, over one of the same name and place in the order."""
    rows = pa.Table.from_pylist([entry.row()], schema=lake.specs["landings"].schema)
    replace_source(lake, "landings", rows, entry)


def replace_source(lake: Lake, table: str, rows: pa.Table | Iterable[pa.Table], entry: Entry) -> None:
    """Exchange a table's rows of one landing."""
    from pyiceberg.expressions import And

    where = And(any_of("source_key", [entry.key]), any_of("landed_at", [entry.landed_at.isoformat()]))
    lake.replace(table, where, rows)


def mark_cleaned(lake: Lake, seen: Ledger, weeks: Iterable[dt.date]) -> None:
    """Note that these weeks have been cleaned, with everything that the ledger held when it was `seen`."""
    from pyiceberg.expressions import And

    done = set(weeks)
    before = {e.order for e in seen.entries if done & set(e.to_clean)}
    if not before:
        return

    def without(rows: pa.Table) -> pa.Table:
        entries = [Entry.of(row) for row in rows.to_pylist()]
        left = [
            dataclasses.replace(e, to_clean=tuple(w for w in e.to_clean if w not in done)) if e.order in before else e
            for e in entries
        ]
        return pa.Table.from_pylist([e.row() for e in left], schema=lake.specs["landings"].schema)

    names, moments = {name for _, name in before}, {moment.isoformat() for moment, _ in before}
    lake.replace("landings", And(any_of("source_key", names), any_of("landed_at", moments)), without)


def change(lake: Lake, entry: Entry, **values: Any) -> Entry:
    """Give an entry of `landings` other values, as it is there now."""
    from pyiceberg.expressions import And

    changed = [entry]

    def with_values(rows: pa.Table) -> pa.Table:
        changed[:] = [dataclasses.replace(Entry.of(row), **values) for row in rows.to_pylist()]
        return pa.Table.from_pylist([e.row() for e in changed], schema=lake.specs["landings"].schema)

    where = And(any_of("source_key", [entry.key]), any_of("landed_at", [entry.landed_at.isoformat()]))
    lake.replace("landings", where, with_values)
    return changed[0]
