"""From rows in force to clean series: the weekly grid with its gaps, and what else is known of its weeks.

history/versions.py says which version of a row is in force. Superseded versions stay in `raw_sales`, so the same
question can be asked as of any earlier moment.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecast_platform.history.absence import AUTO, NoRow, judge
from forecast_platform.history.panel import Panel
from forecast_platform.history.versions import BEGINNING, EVER, VERSIONS

RECENT_WEEKS = 4

# Each observation covers the grid from its own week to the week before the series' next one, or until the series
# counts as closed. So a gap is a row with null sales, and a closed series stops having rows.
_GRID = """  -- every date here is a week end, so steps of 7 days from any of them stay on the grid
    WITH versions AS (SELECT store, dept, week FROM in_force WHERE restated AND week >= $first),
    holiday AS (SELECT week, bool_or(row.is_holiday) AS is_holiday FROM in_force GROUP BY week),
    observation AS (
        SELECT store, dept, week, row,
               least(coalesce(lead(week) OVER (PARTITION BY store, dept ORDER BY week) - 7, $last),
                     week + CAST($open_days AS INTEGER), $last) AS covers_to
        FROM in_force WHERE row.sales IS NOT NULL
    ),
    grid AS (
        SELECT store, dept, row, week AS observed_week,
               unnest(generate_series(greatest(week, $first), covers_to, INTERVAL 7 DAY))::DATE AS week
        FROM observation WHERE covers_to >= $first
    )
    SELECT g.week, g.store, g.dept,
           CASE WHEN g.week = g.observed_week THEN g.row.sales WHEN m.filled THEN 0 END AS sales,
           g.week = g.observed_week OR coalesce(m.filled, false) AS observed,
           g.week = g.observed_week AND g.row.sales < 0 AS is_return,
           v.week IS NOT NULL AS is_restated,
           coalesce(h.is_holiday, false) AS is_holiday,
           CASE WHEN g.week = g.observed_week THEN g.row.landed_at END AS landed_at,
           CASE WHEN g.week = g.observed_week THEN g.row.source_key END AS source_key,
           coalesce(m.filled, false) AS filled,
           coalesce(m.closed, false) AS store_closed
    FROM grid AS g
    LEFT JOIN marks AS m ON m.store = g.store AND m.dept = g.dept AND m.week = g.week
    LEFT JOIN versions AS v ON v.store = g.store AND v.dept = g.dept AND v.week = g.week
    LEFT JOIN holiday AS h ON h.week = g.week
"""

# Rows of `cleaned_series` that a file had, not filled zeros (null: written before any were filled).
LANDED = "observed AND NOT coalesce(filled, false)"


def clean_weeks(
    con: duckdb.DuckDBPyConnection, first: dt.date, last: dt.date, active_weeks: int, no_row: NoRow = AUTO
) -> pa.Table:
    """Rows of `cleaned_series` for the weeks first .. last, from all rows of weeks <= last that have landed.

    Args:
        con: connection the lake is attached to.
        active_weeks: a series without sales for this many weeks is closed and has no row.
        no_row: what a week without a row means, see history/absence.py. Filled zeros are marked `filled`,
            and count as observed.
    """
    sql = f"WITH {VERSIONS} SELECT store, dept, week, row, restated FROM in_force"  # noqa: S608 (only our own SQL)
    in_force = con.sql(sql, params={"since": BEGINNING, "last": last, "known_before": EVER}).to_arrow_table()
    con.register("in_force", in_force)
    con.register("marks", _marks(in_force, first, last, active_weeks, no_row))
    parameters = {"first": first, "last": last, "open_days": 7 * (active_weeks - 1)}
    try:
        return con.sql(_GRID, params=parameters).to_arrow_table()
    finally:
        con.unregister("in_force")
        con.unregister("marks")


_MARKS = pa.schema(
    {"store": pa.string(), "dept": pa.string(), "week": pa.date32(), "filled": pa.bool_(), "closed": pa.bool_()}
)


def _marks(in_force: pa.Table, first: dt.date, last: dt.date, active_weeks: int, no_row: NoRow) -> pa.Table:
    """The cells of the weeks first .. last that are filled zeros, or of a closed store: _MARKS."""
    sales = pc.struct_field(in_force["row"], "sales")
    rows = pa.table({**{name: in_force[name] for name in ("store", "dept", "week")}, "sales": sales})
    if sales.null_count == len(rows):
        return _MARKS.empty_table()
    panel = Panel.from_table(rows).until(last)
    absence = judge(panel, no_row, active_weeks)
    since = max(panel.position(first), 0)
    series, week = np.nonzero((absence.filled | absence.closed)[:, since:])
    week += since
    columns = {
        "store": panel.store[series].tolist(),
        "dept": panel.dept[series].tolist(),
        "week": pa.array(panel.weeks[week].astype("datetime64[D]"), pa.date32()),
        "filled": absence.filled[series, week],
        "closed": absence.closed[series, week],
    }
    return pa.table(columns, schema=_MARKS)


@dataclass(frozen=True)
class Completeness:
    """How much of a week has been reported.

    Attributes:
        expected: series with a row in the RECENT_WEEKS weeks before, but for those that left out weeks by habit.
        present: those of them with a row in the week.
        rows: series with a row in the week, new ones too.
        missing_stores: stores of which no expected series reported.
    """

    week: dt.date
    expected: int
    present: int
    rows: int
    missing_stores: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the expected series that reported; 1 for the first weeks, of which nothing was expected."""
        return self.present / self.expected if self.expected else float(self.rows > 0)

    def complete(self, threshold: float) -> bool:
        return self.rows > 0 and self.share >= threshold


def completeness(con: duckdb.DuckDBPyConnection, weeks: Sequence[dt.date]) -> list[Completeness]:
    """Completeness of each week, from `cleaned_series`."""
    result = []
    for week in weeks:
        row = con.execute(
            """
            WITH recent AS (
                SELECT store, dept FROM cleaned_series
                WHERE observed AND week < $week AND week >= $since
                GROUP BY store, dept HAVING NOT bool_or(coalesce(filled, false))
            ),
            this_week AS (
                SELECT store, dept FROM cleaned_series WHERE observed AND NOT coalesce(filled, false) AND week = $week
            )
            SELECT (SELECT count(*) FROM recent),
                   (SELECT count(*) FROM recent SEMI JOIN this_week USING (store, dept)),
                   (SELECT count(*) FROM this_week),
                   (SELECT list(DISTINCT store ORDER BY store) FROM recent
                    WHERE store NOT IN (SELECT store FROM this_week))
            """,
            {"week": week, "since": week - dt.timedelta(weeks=RECENT_WEEKS)},
        ).fetchone()
        assert row is not None
        result.append(Completeness(week, row[0], row[1], row[2], tuple(row[3] or ())))
    return result


def newest_complete_week(con: duckdb.DuckDBPyConnection, threshold: float) -> dt.date | None:
    """The last week whose sales are complete, by `cleaned_series`; None while there is none."""
    newest_first = f"SELECT DISTINCT week FROM cleaned_series WHERE {LANDED} ORDER BY week DESC"  # noqa: S608 (only our own SQL is composed)
    weeks: list[dt.date] = [row[0] for row in con.execute(newest_first).fetchall()]
    for week in weeks:
        if completeness(con, [week])[0].complete(threshold):
            return week
    return None
