"""Which version of a row is in force at a moment, computed from `raw_sales` and `landings` and nothing else.

A row's key is (store, dept, week). Landings are ordered by arrival, those of one moment by name; the last one that
holds a key wins. A landing also restates: a row whose last version came with an earlier landing is withdrawn when a
later one re-sends that landing's week without it, that is when the later one

- holds at least one key of the earlier one's in that week (files that share a week but no key split the week between
  them, and never remove each other's rows),
- holds the row's store in that week, and
- holds the row's department in that week, in any store, or no store but this one (a file of one department restates
  that department only), and
- was accepted whole: of a file with quarantined lines nobody can tell which rows it lacks.

File names play no part: a file of other weeks under the same name adds, it never removes.

The landings that count at a moment are those ingested before it and not withdrawn by then. Of a file that was read
again where it lay (same bytes, same arrival), the newest reading counts.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator

import duckdb
import pyarrow as pa

EVER = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)

# The landings of a kind that count at $known_before, one a file and arrival, numbered in their order.
_COUNTED = """
    SELECT source_key, landed_at, whole, CAST(row_number() OVER (ORDER BY landed_at, source_key) AS INTEGER) AS n
    FROM (
        SELECT source_key, landed_at, withdrawn_at, coalesce(quarantined, 0) = 0 AS whole
        FROM landings
        WHERE kind = '{kind}' AND status IN ('ingested', 'withdrawn') AND landed_at < $known_before
        QUALIFY row_number() OVER (
            PARTITION BY source_version, coalesce(arrived_at, landed_at) ORDER BY landed_at DESC, source_key DESC
        ) = 1
    )
    WHERE withdrawn_at IS NULL OR withdrawn_at >= $known_before
"""

# Common table expressions, to follow WITH, of the weeks $since .. $last as known before $known_before:
#   in_force   one row per key in force: `row`, `n` of the landing it came with, `restated`: delivered more than once
# A landing holds a key once. So a week of one landing is in force as it was delivered; only weeks of several, which are
# few, are grouped (latest: each key as it was last) and searched for what a later landing left out (withdrawn).
VERSIONS = f"""
    counted AS ({_COUNTED.format(kind="sales")}),
    delivered AS NOT MATERIALIZED (
        SELECT store, dept, week, n, line,
               {{sales: sales, is_holiday: is_holiday, landed_at: r.landed_at, source_key: r.source_key}} AS row
        FROM raw_sales AS r JOIN counted AS c ON c.source_key = r.source_key AND c.landed_at = r.landed_at
        WHERE week BETWEEN $since AND $last
    ),
    shared AS MATERIALIZED (SELECT week FROM delivered GROUP BY week HAVING min(n) < max(n)),
    several AS MATERIALIZED (SELECT * FROM delivered WHERE week IN (FROM shared)),
    latest AS MATERIALIZED (
        SELECT store, dept, week, max(n) AS n, count(*) > 1 AS restated, arg_max(row, n) AS row
        FROM several GROUP BY store, dept, week
    ),
    dropped AS (
        SELECT store, dept, week, n FROM latest
        JOIN (SELECT store, week, max(n) AS newest FROM latest GROUP BY store, week) USING (store, week)
        WHERE n < newest
    ),
    resent AS (
        SELECT DISTINCT earlier.n AS earlier, later.n AS later, earlier.week
        FROM several AS earlier
        JOIN (SELECT DISTINCT n, week FROM dropped) AS d ON d.n = earlier.n AND d.week = earlier.week
        JOIN several AS later
          ON later.week = earlier.week AND later.store = earlier.store AND later.dept = earlier.dept
         AND later.n > earlier.n
        WHERE later.n IN (SELECT n FROM counted WHERE whole)
    ),
    restating AS (
        SELECT n, week, store, dept, min(store) OVER here = max(store) OVER here AS one_store
        FROM several SEMI JOIN (SELECT DISTINCT later AS n, week FROM resent) USING (n, week)
        WINDOW here AS (PARTITION BY n, week)
    ),
    withdrawn AS (
        SELECT DISTINCT d.store, d.dept, d.week
        FROM dropped AS d
        JOIN resent AS r ON r.earlier = d.n AND r.week = d.week
        JOIN (SELECT DISTINCT n, week, store, one_store FROM restating) AS s
          ON s.n = r.later AND s.week = d.week AND s.store = d.store
        LEFT JOIN (SELECT DISTINCT n, week, dept FROM restating) AS p
          ON p.n = r.later AND p.week = d.week AND p.dept = d.dept
        WHERE s.one_store OR p.dept IS NOT NULL
    ),
    in_force AS (
        SELECT store, dept, week, n, row, false AS restated FROM delivered WHERE week NOT IN (FROM shared)
        UNION ALL
        SELECT store, dept, week, n, row, restated FROM latest ANTI JOIN withdrawn USING (store, dept, week)
    )
"""  # noqa: S608 (only our own SQL is composed)

BEGINNING = dt.date(1, 1, 1)


# Covariates in force, known before $known_before: one row per (store, dept, week, name), future weeks too, because what
# is planned is known now. A file adds rows. Where it re-sends values of a covariate for a store and week, those of them
# that it lacks are withdrawn.
FEATURES = f"""
    WITH counted AS ({_COUNTED.format(kind="features")}),
    last_version AS (
        SELECT store, dept, week, name, max(n) AS n, count(DISTINCT n) > 1 AS restated,
               arg_max({{value: value}}, CAST(n AS BIGINT) << 40 | line).value AS value
        FROM features AS f JOIN counted AS c ON c.source_key = f.source_key AND c.landed_at = f.landed_at
        GROUP BY store, dept, week, name
    )
    SELECT store, dept, week, name, value FROM last_version
    QUALIFY n >= coalesce(max(n) FILTER (restated) OVER (PARTITION BY store, week, name), 0)
"""  # noqa: S608 (only our own SQL is composed)

# Named days in force, known before $known_before. Files of different names add to each other. Of files of one name, the
# last that holds days of a year replaces that year: a list of next year's days takes nothing away, and a corrected list
# replaces the wrong one.
CALENDAR = f"""
    WITH counted AS ({_COUNTED.format(kind="calendar")}),
    named AS (
        SELECT name, date, n FROM calendar AS d
        JOIN counted AS c ON c.source_key = d.source_key AND c.landed_at = d.landed_at
        QUALIFY n = max(n) OVER (PARTITION BY c.source_key, year(date))
    )
    SELECT DISTINCT name, date FROM named ORDER BY date, name
"""  # noqa: S608 (only our own SQL is composed)


def in_force(
    con: duckdb.DuckDBPyConnection, since: dt.date, last: dt.date, known_before: dt.datetime = EVER
) -> pa.Table:
    """Rows (store, dept, week, sales, is_holiday, landed_at, source_key) in force for the weeks since .. last."""
    sql = f"WITH {VERSIONS} SELECT store, dept, week, unnest(row) FROM in_force"  # noqa: S608 (only our own SQL)
    with joins_as_written(con):
        return con.sql(sql, params={"since": since, "last": last, "known_before": known_before}).to_arrow_table()


@contextlib.contextmanager
def joins_as_written(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Have DuckDB hash the right side of each join, where VERSIONS has the few landings.

    Left to itself it takes the rows of a few weeks for the smaller side and hashes all of them, several times over: ten
    times the memory, and of a million series more than there is.
    """
    con.execute("SET disabled_optimizers = 'build_side_probe_side'")
    try:
        yield
    finally:
        con.execute("RESET disabled_optimizers")
