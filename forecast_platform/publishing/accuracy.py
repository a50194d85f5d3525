"""Realised accuracy: every earlier forecast of a week, scored by the week's sales.

The rows are a function of the tables `forecasts` and `cleaned_series` as they are, whatever the order in which they
came to be: whoever changes one of the two calls `rescore` with the weeks changed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from forecast_platform.lake.lake import Lake, LakeError

# A store's actual is the sum of all its observed series, also of those that opened after the forecast was made: the
# planner's question is what the store sold.
_ACCURACY = """
    WITH actual AS (
        SELECT 'series' AS level, week, store, dept, sales FROM cleaned_series WHERE observed
        UNION ALL
        SELECT 'store', week, store, NULL, sum(sales) FROM cleaned_series WHERE observed GROUP BY week, store
        UNION ALL
        SELECT 'dept', week, NULL, dept, sum(sales) FROM cleaned_series WHERE observed GROUP BY week, dept
        UNION ALL
        SELECT 'total', week, NULL, NULL, sum(sales) FROM cleaned_series WHERE observed GROUP BY week
    )
    SELECT f.target_week AS week, f.forecast_week, f.horizon, f.level, f.store, f.dept, a.sales AS actual, f.mean,
           f.p50, f.p50 - a.sales AS error, abs(f.p50 - a.sales) AS abs_error,
           ({losses}) / {n} AS quantile_loss,
           a.sales BETWEEN f.{low} AND f.{high} AS in_interval,
           n.sales AS naive, abs(n.sales - a.sales) AS naive_abs_error, f.model_version
    FROM forecasts AS f
    JOIN actual AS a
      ON a.level = f.level AND a.week = f.target_week
     AND a.store IS NOT DISTINCT FROM f.store AND a.dept IS NOT DISTINCT FROM f.dept
    LEFT JOIN actual AS n
      ON n.level = f.level AND n.week = f.target_week - 364
     AND n.store IS NOT DISTINCT FROM f.store AND n.dept IS NOT DISTINCT FROM f.dept
    WHERE list_contains($weeks, f.target_week)
"""

# The target weeks whose scores depend on forecasts made in the weeks $published (those scored before included: a
# forecast may reach less far now), or on what was sold in the weeks $sold, as actual or as last year's week.
_CONCERNED = """
    SELECT target_week AS week FROM forecasts
    WHERE list_contains($published, forecast_week) OR list_contains($sold, target_week - 364)
    UNION SELECT week FROM forecast_accuracy WHERE list_contains($published, forecast_week)
    UNION SELECT unnest($sold)
    ORDER BY week
"""
_TRIES = 20


def rescore(
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    quantiles: Sequence[float],
    columns: Sequence[str],
    published: Sequence[dt.date] = (),
    sold: Sequence[dt.date] = (),
) -> pa.Table:
    """Score every week again that a change concerns, and put the scores into `forecast_accuracy`.

    Runs may do so at the same time: one that wrote scores of a state that has changed meanwhile scores again, so the
    last scores written are those of the newest state.

    Args:
        con: a connection of this call's own; the lake is attached to it.
        published: weeks whose forecasts were published, perhaps in place of others.
        sold: weeks whose sales are new, or may have changed.

    Returns:
        The rows of all weeks concerned, see `score_weeks`.

    Raises:
        LakeError: others kept changing forecasts or sales.
    """
    for _ in range(_TRIES):
        state = lake.snapshot("forecasts"), lake.snapshot("cleaned_series")
        lake.attach(con, "forecasts", "cleaned_series", "forecast_accuracy")
        asked = {"published": _days(published), "sold": _days(sold)}
        weeks = [week for (week,) in con.execute(_CONCERNED, asked).fetchall()]
        rows = score_weeks(con, weeks, quantiles, columns)
        lake.replace_weeks("forecast_accuracy", weeks, rows)
        if state == (lake.snapshot("forecasts"), lake.snapshot("cleaned_series")):
            return rows
    raise LakeError(f"forecasts or sales changed {_TRIES} times while they were scored; run forecast_accuracy again")


def score_weeks(
    con: duckdb.DuckDBPyConnection, weeks: Sequence[dt.date], quantiles: Sequence[float], columns: Sequence[str]
) -> pa.Table:
    """Rows of `forecast_accuracy` for some target weeks.

    `quantile_loss` is the mean over the published quantiles of 2 * pinball loss, so that sum(quantile_loss) /
    sum(|actual|) is the mean wQL. `in_interval` is the outermost pair of quantiles. `naive` is the sales of 52 weeks
    earlier, null where there were none.

    Args:
        con: connection the lake is attached to.
    """
    losses = " + ".join(
        f"2 * greatest({q!r} * (a.sales - f.{c}), ({q!r} - 1) * (a.sales - f.{c}))"
        for q, c in zip(quantiles, columns, strict=True)
    )
    sql = _ACCURACY.format(losses=losses, n=len(columns), low=columns[0], high=columns[-1])
    return con.sql(sql, params={"weeks": _days(weeks)}).to_arrow_table()


def _days(weeks: Sequence[dt.date]) -> duckdb.Value:
    """A list of dates as a parameter, also when it is empty."""
    return duckdb.Value(list(weeks), duckdb.list_type(duckdb.sqltypes.DATE))
