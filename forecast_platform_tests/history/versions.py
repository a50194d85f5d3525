"""The rule of versions from its words, in plain Python, cell by cell: what the SQL is held to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Key = tuple[Any, str, str]  # week, store, dept


@dataclass(frozen=True)
class Delivery:
    """One row of the ledger and the rows that came with it, {(week, store, dept): value}."""

    key: str
    version: str
    at: dt.datetime
    rows: Mapping[Key, Any]
    arrived: dt.datetime | None = None
    status: str = "ingested"
    withdrawn_at: dt.datetime | None = None
    quarantined: int = 0

    @property
    def arrival(self) -> tuple[str, dt.datetime]:
        return self.version, self.arrived or self.at


@dataclass
class Versions:
    """Key -> (the delivery its last version came with, its value); keys delivered more than once."""

    last: dict[Key, tuple[Delivery, Any]] = field(default_factory=dict)
    in_force: dict[Key, tuple[Delivery, Any]] = field(default_factory=dict)
    restated: set[Key] = field(default_factory=set)


def versions(deliveries: Iterable[Delivery], known_before: dt.datetime) -> Versions:
    readings: dict[tuple[str, dt.datetime], Delivery] = {}
    for one in sorted(deliveries, key=lambda one: (one.at, one.key)):
        if one.status in ("ingested", "withdrawn") and one.at < known_before:
            readings[one.arrival] = one
    counted = [
        one
        for one in sorted(readings.values(), key=lambda one: (one.at, one.key))
        if one.withdrawn_at is None or one.withdrawn_at >= known_before
    ]
    found = Versions()
    for one in counted:
        for key, value in one.rows.items():
            if key in found.last:
                found.restated.add(key)
            found.last[key] = (one, value)
    for key, (one, value) in found.last.items():
        later = counted[counted.index(one) + 1 :]
        if not any(_leaves_out(other, one, key) for other in later):
            found.in_force[key] = (one, value)
    return found


def _leaves_out(later: Delivery, earlier: Delivery, key: Key) -> bool:
    week, store, dept = key
    theirs = {(s, d) for w, s, d in later.rows if w == week}
    ours = {(s, d) for w, s, d in earlier.rows if w == week}
    stores, depts = {s for s, _ in theirs}, {d for _, d in theirs}
    resent, whole = bool(theirs & ours), later.quarantined == 0
    return resent and whole and store in stores and (dept in depts or stores == {store})
