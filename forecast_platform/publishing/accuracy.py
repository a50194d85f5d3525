"""Realised accuracy: every earlier forecast of a week, scored by the week's sales.

The rows are a function of the tables `forecasts`, `level_members` and `cleaned_series` as they are now, in whatever
order these were written: whoever changes one of them calls `rescore` with the weeks changed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

import duckdb
import pyarrow as pa

from forecast_platform.lake.lake import Lake
from forecast_platform.lake.tables import QUANTILE, LakeError
from forecast_platform.levels import by_level_sql, by_member_sql
from forecast_platform.weeks import WEEK

# A store's actual is the sum of all its observed series, also of those that opened after the forecast was made: the
# planner's question is what the store sold. A group's actual, and its sales of last year, are those of the stores (or
# departments) that were in the group when the forecast was made, because the forecast is for those. A store that was
# not known then is in no group.
_ACCURACY = """
    WITH sums AS (
        {sums}
    ), weeks AS (
        SELECT DISTINCT forecast_week, level, unnest([target_week, target_week - 364]) AS week FROM forecasts AS f
        WHERE {among} AND member IS NOT NULL
    ), actual AS (
        SELECT NULL AS forecast_week, level, week, store, dept, NULL AS member, value AS sales FROM sums
        UNION ALL
        SELECT forecast_week, level, week, NULL, NULL, member, value FROM ({members})
    )
    SELECT f.target_week AS week, f.forecast_week, f.horizon, f.level, f.store, f.dept, f.member, a.sales AS actual,
           f.mean, f.p50, f.p50 - a.sales AS error, abs(f.p50 - a.sales) AS abs_error,
           ({losses}) / ({count}) AS quantile_loss,
           a.sales BETWEEN coalesce({rising}) AND coalesce({falling}) AS in_interval,
           {widest} - {narrowest} AS interval,
           n.sales AS naive, abs(n.sales - a.sales) AS naive_abs_error, f.model_version
    FROM forecasts AS f
    JOIN actual AS a
      ON a.level = f.level AND a.week = f.target_week
     AND a.store IS NOT DISTINCT FROM f.store AND a.dept IS NOT DISTINCT FROM f.dept
     AND a.member IS NOT DISTINCT FROM f.member
     AND (a.member IS NULL OR a.forecast_week = f.forecast_week)
    LEFT JOIN actual AS n
      ON n.level = f.level AND n.week = f.target_week - 364
     AND n.store IS NOT DISTINCT FROM f.store AND n.dept IS NOT DISTINCT FROM f.dept
     AND n.member IS NOT DISTINCT FROM f.member
     AND (n.member IS NULL OR n.forecast_week = f.forecast_week)
    WHERE {among}
    ORDER BY 1, 2, 4, 5, 6, 7  -- the table's key; nulls last
"""

# The target weeks whose scores depend on forecasts made in the weeks $published, or on sales of the weeks $sold, as
# actual or as last year's week. Weeks scored before are among them, because a forecast may reach less far now.
_CONCERNED = """
    SELECT target_week AS week FROM forecasts
    WHERE list_contains($published, forecast_week) OR list_contains($sold, target_week - 364)
    UNION SELECT week FROM forecast_accuracy WHERE list_contains($published, forecast_week)
    UNION SELECT unnest($sold)
    ORDER BY week
"""
# The number of rows by target week and the forecast's week, for target weeks that have sales.
_SCORED = """
    SELECT target_week, forecast_week, count(*) FROM forecasts
    WHERE target_week IN (SELECT DISTINCT week FROM cleaned_series WHERE observed AND list_contains($weeks, week))
    GROUP BY target_week, forecast_week ORDER BY target_week, forecast_week
"""
_AT_ONCE = 1_000_000  # rows scored at once, about: some hundreds of megabytes
_DECIDING = ("forecasts", "cleaned_series", "level_members")
_TRIES = 20


def rescore(
    lake: Lake, con: duckdb.DuckDBPyConnection, published: Sequence[dt.date] = (), sold: Sequence[dt.date] = ()
) -> list[dt.date]:
    """Score every week again that a change concerns, and put the scores into `forecast_accuracy`.

    Runs may do so at the same time. Where the tables changed meanwhile a run scores again, so the last scores written
    are those of the newest tables.

    Args:
        con: a connection of this call's own; the lake is attached to it.
        published: weeks whose forecasts were published, perhaps in place of others.
        sold: weeks whose sales are new, or may have changed.

    Returns:
        The weeks concerned that have scores now, ascending.

    Raises:
        LakeError: others kept changing forecasts or sales.
    """
    for _ in range(_TRIES):
        state = [lake.snapshot(name) for name in _DECIDING]
        lake.attach(con, *_DECIDING, "forecast_accuracy")
        asked = {"published": _days(published), "sold": _days(sold)}
        weeks = [week for (week,) in con.execute(_CONCERNED, asked).fetchall()]
        lake.replace_weeks("forecast_accuracy", weeks, score_weeks(con, weeks))
        if state == [lake.snapshot(name) for name in _DECIDING]:
            lake.attach(con, "forecast_accuracy")
            scored = "SELECT DISTINCT week FROM forecast_accuracy WHERE list_contains(?, week) ORDER BY week"
            return [week for (week,) in con.execute(scored, [_days(weeks)]).fetchall()]
    raise LakeError(f"forecasts or sales changed {_TRIES} times while they were scored; run forecast_accuracy again")


def score_weeks(con: duckdb.DuckDBPyConnection, weeks: Sequence[dt.date]) -> Iterator[pa.Table]:
    """Rows of `forecast_accuracy` for some target weeks, about _AT_ONCE at a time, in the order of its key.

    Each forecast is scored by the quantiles it was published with, whichever are published now. `quantile_loss` is the
    mean over them of 2 * pinball loss, so that sum(quantile_loss) / sum(|actual|) is the mean wQL. `in_interval` says
    whether the actual is inside the outermost pair of quantiles, which should hold the share `interval`. `naive` is the
    sales of 52 weeks earlier, null where there were none.

    Args:
        con: connection the lake is attached to.
    """
    levels = quantile_levels(con)
    names = list(levels)
    losses = " + ".join(
        f"coalesce(2 * greatest({q!r} * (a.sales - f.{c}), ({q!r} - 1) * (a.sales - f.{c})), 0)"
        for c, q in levels.items()
    )
    for pairs in _together(con.execute(_SCORED, {"weeks": _days(weeks)}).fetchall()):
        targets, made = (sorted(set(each)) for each in zip(*pairs, strict=True))
        sold = f"week IN {_dates([*targets, *(target - 52 * WEEK for target in targets)])}"
        sql = _ACCURACY.format(
            sums=by_level_sql("cleaned_series", "week", "sales", f"observed AND {sold}"),
            members=by_member_sql("sums", "weeks"),
            losses=losses,
            count=" + ".join(f"(f.{c} IS NOT NULL)::INT" for c in names),
            rising=", ".join(f"f.{c}" for c in names),
            falling=", ".join(f"f.{c}" for c in reversed(names)),
            narrowest=_first_of(names, levels),
            widest=_first_of(names[::-1], levels),
            # The conditions on single weeks let files and groups of rows be passed over unread.
            among=f"f.forecast_week IN {_dates(made)} AND f.target_week IN {_dates(targets)} AND "
            f"(f.target_week, f.forecast_week) IN ({', '.join(map(_dates, pairs))})",
        )
        yield con.sql(sql).to_arrow_table()


def _together(counted: Sequence[tuple[dt.date, dt.date, int]]) -> Iterator[list[tuple[dt.date, dt.date]]]:
    """(target week, forecast's week) in their order, as many at a time as have _AT_ONCE rows, but at least one."""
    pairs: list[tuple[dt.date, dt.date]] = []
    rows = 0
    for target, made, count in counted:
        if pairs and rows + count > _AT_ONCE:
            yield pairs
            pairs, rows = [], 0
        pairs.append((target, made))
        rows += count
    if pairs:
        yield pairs


def quantile_levels(con: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Every quantile that was ever published, by its column of `forecasts`, ascending. A forecast that was published
    without one has null there."""
    names = [row[0] for row in con.execute("DESCRIBE forecasts").fetchall()]
    found = sorted((int(name[1:]), name) for name in names if QUANTILE.fullmatch(name))
    return {name: percent / 100 for percent, name in found}


def _first_of(names: Sequence[str], levels: dict[str, float]) -> str:
    """The level of the first of these quantiles that a forecast has, in SQL."""
    return f"CASE {' '.join(f'WHEN f.{c} IS NOT NULL THEN {levels[c]!r}' for c in names)} END"


def _dates(days: Iterable[dt.date]) -> str:
    """Dates as a list in SQL."""
    return "(" + ", ".join(f"DATE '{day}'" for day in days) + ")"


def _days(weeks: Sequence[dt.date]) -> duckdb.Value:
    """A list of dates as a parameter, also when it is empty."""
    return duckdb.Value(list(weeks), duckdb.list_type(duckdb.sqltypes.DATE))
