"""Realised accuracy: every earlier forecast of a week, scored when the week's sales have landed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import duckdb
import pyarrow as pa

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
    WHERE f.target_week BETWEEN $first AND $last
"""


def score_weeks(
    con: duckdb.DuckDBPyConnection, first: dt.date, last: dt.date, quantiles: Sequence[float], columns: Sequence[str]
) -> pa.Table:
    """Rows of `forecast_accuracy` for target weeks first .. last.

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
    return con.sql(sql, params={"first": first, "last": last}).to_arrow_table()
