"""What landed and what was wrong with it, from the lake's ledger and quarantine, for the people who sent it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from forecast_platform.landing.ingest import Ingested


@dataclass(frozen=True)
class Trouble:
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
        troubles: rules broken by the newest version of the files that were new or hold these weeks, most lines first.
        unknown_columns: (file, columns nothing was read from) of the same files.
        not_conserved: files of which rows <> accepted + quarantined, or accepted <> stored. Never any.
    """

    rows: dict[dt.date, int]
    troubles: list[Trouble]
    unknown_columns: list[tuple[str, str]]
    not_conserved: list[str]

    @property
    def summary(self) -> str:
        parts = [
            f"{t.source_key}: {t.lines:,} x {t.rule}" + (f" (first in line {t.line})" if t.line else "")
            for t in self.troubles[:5]
        ]
        parts += [f"{source}: unknown columns ignored: {columns}" for source, columns in self.unknown_columns[:5]]
        return "; ".join(parts) or "every line accepted"

    def to_markdown(self) -> str:
        if not self.troubles:
            return "nothing quarantined"
        lines = ["| file | rule | lines | first line | value there | what to do |", "|---|---|---:|---:|---|---|"]
        for t in self.troubles[:20]:
            value, message = _cell(t.value), _cell(t.message)
            lines.append(f"| {t.source_key} | {t.rule} | {t.lines:,} | {t.line or 'file'} | {value} | {message} |")
        return "\n".join(lines)


def landing_report(
    con: duckdb.DuckDBPyConnection, first: dt.date, last: dt.date, new_keys: Sequence[str]
) -> LandingReport:
    """Report on the files that are new or hold any of the weeks first .. last.

    Args:
        con: connection the lake is attached to.
        new_keys: files ingested just now, whatever their weeks.
    """
    # What is wrong with a file's newest version: one that was mended and landed again is in order.
    con.execute(
        """
        CREATE OR REPLACE TEMP VIEW newest AS
        SELECT * FROM landings QUALIFY row_number() OVER (PARTITION BY source_key ORDER BY landed_at DESC) = 1
        """
    )
    about = {"new": list(new_keys), "first": first, "last": last}
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
    not_conserved = con.execute(
        """
        SELECT l.source_key, l.landed_at, l.rows, l.accepted, l.quarantined, count(r.line) AS stored
        FROM landings AS l LEFT JOIN raw_sales AS r USING (source_key, landed_at)
        WHERE l.kind = 'sales' AND l.status = 'ingested'
        GROUP BY ALL HAVING l.rows <> l.accepted + l.quarantined OR l.accepted <> stored
        """
    ).fetchall()
    rows = con.execute(
        "SELECT week, count(*) FROM raw_sales WHERE week BETWEEN ? AND ? GROUP BY week", [first, last]
    ).fetchall()
    return LandingReport(dict(rows), [Trouble(*t) for t in troubles], unknown, [row[0] for row in not_conserved])


def landed_markdown(done: Sequence[Ingested]) -> str:
    """A table of the files ingested just now."""
    if not done:
        return "nothing new had landed"
    lines = ["| file | status | rows | accepted | quarantined | weeks |", "|---|---|---:|---:|---:|---|"]
    for d in done[:50]:
        weeks = f"{d.weeks[0]} .. {d.weeks[-1]}" if d.weeks else ""
        lines.append(f"| {d.key} | {d.rule or d.status} | {d.rows:,} | {d.accepted:,} | {d.quarantined:,} | {weeks} |")
    return "\n".join(lines)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")[:200]
