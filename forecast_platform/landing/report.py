"""What landed and what was wrong with it, from the lake's ledger and quarantine, for the people who sent it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from forecast_platform.history.versions import EVER, VERSIONS, joins_as_written
from forecast_platform.landing.ledger import INGESTED, Entry, Ledger
from forecast_platform.landing.place import Landing


@dataclass(frozen=True)
class BrokenRule:
    """Lines of one file that broke one rule; `line` is None when the file could not be read at all."""

    source_key: str
    rule: str
    lines: int
    line: int | None
    value: str | None
    message: str


@dataclass(frozen=True)
class LandingReport:
    """State of some weeks' landed files.

    Attributes:
        rows: rows of `raw_sales` per week, every version counted.
        troubles: rules broken by the files that were new or hold these weeks and were not mended since, most lines
            first; a file that waits for a person is one, too.
        unknown_columns: (file, columns nothing was read from) of the same files.
        warnings: (file, what is odd about it) of the same files.
        changes: what the new files did to the rows in force, a sentence each.
        not_conserved: files of which rows <> accepted + quarantined, or of which the lake lacks rows. Never any.
    """

    rows: dict[dt.date, int]
    troubles: list[BrokenRule]
    unknown_columns: list[tuple[str, str]]
    not_conserved: list[str]
    warnings: list[tuple[str, str]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every file could be taken whole, and nothing about one is odd."""
        return not (self.troubles or self.unknown_columns or self.warnings)

    @property
    def summary(self) -> str:
        parts = [
            f"{t.source_key}: {t.lines:,} x {t.rule}" + (f" (first in line {t.line})" if t.line else "")
            for t in self.troubles[:5]
        ]
        parts += [f"{source}: unknown columns ignored: {columns}" for source, columns in self.unknown_columns[:5]]
        parts += [f"{source}: {what}" for source, what in self.warnings[:5]]
        more = sum(max(0, len(found) - 5) for found in (self.troubles, self.unknown_columns, self.warnings))
        parts += [f"and {more:,} more"] if more else []
        return "; ".join([*(parts or ["every line accepted"]), *self.changes])

    def to_markdown(self) -> str:
        if not self.troubles:
            return "nothing quarantined"
        lines = ["| file | rule | lines | first line | value there | what to do |", "|---|---|---:|---:|---|---|"]
        for t in self.troubles[:20]:
            value, message = _cell(t.value), _cell(t.message)
            lines.append(f"| {t.source_key} | {t.rule} | {t.lines:,} | {t.line or 'file'} | {value} | {message} |")
        return "\n".join(lines)


def landing_report(
    con: duckdb.DuckDBPyConnection, first: dt.date, last: dt.date, new: Sequence[Entry]
) -> LandingReport:
    """Report on the files that are new or hold any of the weeks first .. last.

    Args:
        con: connection the lake is attached to.
        new: files that landed just now, whatever their weeks.
    """
    # A file is mended when it landed again under its name, with its weeks where it had any. (A name may also be that
    # of every week's export: then one week says nothing of another's.)
    con.execute(
        """
        CREATE OR REPLACE TEMP VIEW newest AS
        SELECT * FROM landings AS l
        WHERE status NOT IN ('known', 'withdrawn') AND coalesce(rule, '') <> 'not_begun' AND NOT EXISTS (
            FROM landings AS m
            WHERE m.source_key = l.source_key AND m.landed_at > l.landed_at AND m.status <> 'withdrawn'
              AND (m.first_week IS NULL OR l.first_week IS NULL
                   OR m.first_week <= l.first_week AND m.last_week >= l.last_week)
        )
        """
    )
    about = {"new": [entry.key for entry in new], "first": first, "last": last}
    troubles = con.execute(
        """
        SELECT q.source_key, q.rule, count(*) AS lines, min(q.line) AS first_line, arg_min(q.value, q.line) AS value,
               coalesce(arg_min(q.message, q.line), any_value(q.message)) AS message
        FROM quarantine AS q
        JOIN newest AS l USING (source_key, source_version, landed_at)
        WHERE q.source_key IN (SELECT unnest($new)) OR (l.first_week <= $last AND l.last_week >= $first)
        GROUP BY ALL ORDER BY lines DESC, q.source_key, q.rule
        """,
        about,
    ).fetchall()
    unknown = con.execute(
        """
        SELECT source_key, ignored_columns FROM newest
        WHERE ignored_columns IS NOT NULL AND kind = 'sales'
          AND (source_key IN (SELECT unnest($new)) OR (first_week <= $last AND last_week >= $first))
        ORDER BY source_key
        """,
        about,
    ).fetchall()
    warnings = con.execute(
        """
        SELECT source_key, warnings FROM newest
        WHERE warnings IS NOT NULL
          AND (source_key IN (SELECT unnest($new)) OR (first_week <= $last AND last_week >= $first))
        ORDER BY source_key
        """,
        about,
    ).fetchall()
    not_conserved = con.execute(
        """
        SELECT l.source_key, l.landed_at, l.rows, l.accepted, l.quarantined, l.stored, count(r.line) AS found
        FROM landings AS l LEFT JOIN raw_sales AS r USING (source_key, landed_at)
        WHERE l.kind = 'sales' AND l.status IN ('ingested', 'withdrawn')
        GROUP BY ALL HAVING l.rows <> l.accepted + l.quarantined OR coalesce(l.stored, l.accepted) <> found
        """
    ).fetchall()
    rows = con.execute(
        "SELECT week, count(*) FROM raw_sales WHERE week BETWEEN ? AND ? GROUP BY week", [first, last]
    ).fetchall()
    return LandingReport(
        dict(rows),
        [BrokenRule(*t) for t in troubles],
        unknown,
        [row[0] for row in not_conserved],
        warnings,
        changes(new),
    )


def changes(new: Sequence[Entry]) -> list[str]:
    """What files did to rows that were in force before, most first: those that only added are not named."""
    found = [e for e in new if e.status == INGESTED and (e.changed or e.vanished)]
    found.sort(key=lambda e: (-e.vanished, -e.changed, e.key))
    told = [f"{e.key}: {e.changed:,} rows changed, {e.vanished:,} vanished, {e.appeared:,} appeared" for e in found[:5]]
    if len(found) > 5:
        rest = found[5:]
        gone = sum(e.vanished for e in rest)
        told.append(f"{len(rest):,} more files: {sum(e.changed for e in rest):,} rows changed, {gone:,} vanished")
    return told


def no_longer_lying(con: duckdb.DuckDBPyConnection, ledger: Ledger, landing: Landing) -> list[str]:
    """Names of the sales files that have rows in force and whose bytes lie nowhere in the landing place: deleted, or
    moved away. Their rows stay in force until they are withdrawn.

    Raises:
        LandingError: the place can't be listed.
    """
    there = landing.list(known=ledger.objects)
    names, versions = {o.key for o in there}, {o.version for o in there}
    gone = {
        e.key: e
        for e in ledger.entries
        if e.kind == "sales" and e.status == INGESTED and e.key not in names and e.version not in versions
    }
    if not gone:
        return []
    since = min((e.first_week for e in gone.values() if e.first_week), default=None)
    last = max((e.last_week for e in gone.values() if e.last_week), default=None)
    if since is None or last is None:
        return []
    sql = f"WITH {VERSIONS} SELECT DISTINCT row.source_key FROM in_force"  # noqa: S608 (only our own SQL is composed)
    with joins_as_written(con):
        counting = con.execute(sql, {"since": since, "last": last, "known_before": EVER}).fetchall()
    return sorted(gone.keys() & {name for (name,) in counting})


def landed_markdown(done: Sequence[Entry]) -> str:
    """A table of the files that landed just now."""
    if not done:
        return "nothing new had landed"
    lines = [
        "| file | status | rows | accepted | quarantined | weeks | appeared | changed | vanished | |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|---|",
    ]
    for d in done[:50]:
        weeks = f"{d.first_week} .. {d.last_week}" if d.first_week else ""
        numbers = f"{d.rows:,} | {d.accepted:,} | {d.quarantined:,} | {weeks} | {d.appeared:,} | {d.changed:,}"
        notes = _cell("; ".join([*([d.message] if d.message else []), *d.warnings]))
        lines.append(f"| {d.key} | {d.rule or d.status} | {numbers} | {d.vanished:,} | {notes} |")
    return "\n".join(lines)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")[:200]
