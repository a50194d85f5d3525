"""Schemas of the lake's tables: the names, types and grain that SQL, dashboards and tests rely on."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from forecast_platform.levels import by_level_sql, by_member_sql
from forecast_platform.scores import scores_sql

NAMESPACE = "forecast"
QUANTILE = re.compile(r"p\d{1,2}")  # a column of a published quantile; which there are, the settings say
LOCAL = "file://"  # begins a location on disk

_DAY = pa.date32()
_TIME = pa.timestamp("us", tz="UTC")
_STR = pa.string()

# Where a row came from: the landed object, its version, and when that version landed.
_SOURCE: list[tuple[str, pa.DataType]] = [("source_key", _STR), ("source_version", _STR), ("landed_at", _TIME)]
# Which run wrote a row and when. Not part of the content: rewriting equal content changes nothing.
PROVENANCE = ("run_id", "created_at")
_RUN: list[tuple[str, pa.DataType]] = [("run_id", _STR), ("created_at", _TIME)]


@dataclass(frozen=True)
class TableSpec:
    """One table: its columns, the column it is partitioned by, and the key that is unique in it."""

    name: str
    about: str
    schema: pa.Schema
    key: tuple[str, ...]
    partition: str | None = None


def table_specs(quantile_columns: tuple[str, ...]) -> dict[str, TableSpec]:
    """All tables by name. `quantile_columns` are the published quantiles, e.g. ("p10", "p50", "p90")."""
    quantiles = [(name, pa.float64()) for name in quantile_columns]
    specs = [
        TableSpec(
            "landings",
            "one row per landed version of a file: what was in it and what became of it",
            pa.schema(
                [
                    *_SOURCE,
                    ("kind", _STR),
                    ("size", pa.int64()),
                    ("status", _STR),
                    ("rows", pa.int64()),
                    ("accepted", pa.int64()),
                    ("quarantined", pa.int64()),
                    ("stored", pa.int64()),  # rows made of those accepted, fewer where days are added up
                    ("weeks", pa.int64()),
                    ("first_week", _DAY),
                    ("last_week", _DAY),
                    ("rule", _STR),
                    ("message", _STR),
                    ("ignored_columns", _STR),
                    ("arrived_at", _TIME),
                    ("modified_at", _TIME),
                    ("reading", _STR),  # digest of the settings it was read with
                    ("columns", _STR),
                    ("warnings", _STR),
                    # Of sales: rows in force that came, were given another value, and went when it was ingested.
                    ("appeared", pa.int64()),
                    ("changed", pa.int64()),
                    ("vanished", pa.int64()),
                    ("to_clean", _STR),  # weeks it touched that have not been cleaned since
                    ("withdrawn_at", _TIME),
                    ("reason", _STR),
                    ("author", _STR),
                ]
            ),
            ("source_key", "source_version", "landed_at"),
        ),
        TableSpec(
            "quarantine",
            "every rejected line or file, with the rule it broke and how to mend it",
            pa.schema(
                [
                    ("landed_date", _DAY),
                    *_SOURCE,
                    ("line", pa.int64()),
                    ("rule", _STR),
                    ("field", _STR),
                    ("value", _STR),
                    ("message", _STR),
                    ("record", _STR),
                ]
            ),
            ("source_key", "source_version", "landed_at", "line", "field"),
            "landed_date",
        ),
        TableSpec(
            "raw_sales",
            "every landed version of every accepted row; never overwritten by a restatement",
            pa.schema(
                [
                    ("week", _DAY),
                    ("store", _STR),
                    ("dept", _STR),
                    ("sales", pa.float64()),
                    ("is_holiday", pa.bool_()),
                    *_SOURCE,
                    ("line", pa.int64()),
                ]
            ),
            ("source_key", "source_version", "landed_at", "line", "week"),
            "week",
        ),
        TableSpec(
            "stores",
            "attributes of stores",
            pa.schema([("store", _STR), ("name", _STR), ("value", _STR), *_SOURCE, ("line", pa.int64())]),
            ("source_key", "store", "name"),
        ),
        TableSpec(
            "departments",
            "attributes of departments",
            pa.schema([("dept", _STR), ("name", _STR), ("value", _STR), *_SOURCE, ("line", pa.int64())]),
            ("source_key", "dept", "name"),
        ),
        TableSpec(
            "features",
            "every landed version of the covariates by store (and department) and week, known ahead or observed",
            pa.schema(
                [
                    ("week", _DAY),
                    ("store", _STR),
                    ("dept", _STR),
                    ("name", _STR),
                    ("value", pa.float64()),
                    *_SOURCE,
                    ("line", pa.int64()),
                ]
            ),
            ("source_key", "landed_at", "week", "store", "dept", "name"),
        ),
        TableSpec(
            "calendar",
            "every landed version of named days such as holidays",
            pa.schema([("name", _STR), ("date", _DAY), *_SOURCE, ("line", pa.int64())]),
            ("source_key", "landed_at", "name", "date"),
        ),
        TableSpec(
            "cleaned_series",
            "the weekly grid: one row per active series and week, latest version of each",
            pa.schema(
                [
                    ("week", _DAY),
                    ("store", _STR),
                    ("dept", _STR),
                    ("sales", pa.float64()),
                    ("observed", pa.bool_()),
                    ("is_return", pa.bool_()),
                    ("is_restated", pa.bool_()),
                    ("is_holiday", pa.bool_()),
                    ("landed_at", _TIME),
                    ("source_key", _STR),
                    ("filled", pa.bool_()),
                    ("store_closed", pa.bool_()),
                ]
            ),
            ("week", "store", "dept"),
            "week",
        ),
        TableSpec(
            "models",
            "the model in force at each week: what it saw, how it was judged, why it serves",
            pa.schema(
                [
                    ("week", _DAY),
                    ("version", _STR),
                    ("trained_as_of", _DAY),
                    ("training_digest", _STR),
                    ("target", _STR),
                    ("network_share", pa.float64()),
                    ("as_known", _STR),
                    ("series", pa.int64()),
                    ("observations", pa.int64()),
                    ("hyperparameters", _STR),
                    ("backtest_cutoff", _DAY),
                    ("backtest_wape", pa.float64()),
                    ("backtest_wql", pa.float64()),
                    ("backtest_coverage80", pa.float64()),
                    ("naive_wape", pa.float64()),
                    ("naive_wql", pa.float64()),
                    ("verdict", _STR),
                    ("why", _STR),
                    *_RUN,
                ]
            ),
            ("week",),
            "week",
        ),
        TableSpec(
            "forecasts",
            "published forecasts: per series, store, department, in total, and by the attributes of the setting "
            "`levels`: then `level` is the attribute and `member` its value",
            pa.schema(
                [
                    ("forecast_week", _DAY),
                    ("level", _STR),
                    ("store", _STR),
                    ("dept", _STR),
                    ("member", _STR),  # of levels by attributes: which group
                    ("target_week", _DAY),
                    ("horizon", pa.int32()),
                    ("mean", pa.float64()),
                    *quantiles,
                    ("model_version", _STR),
                    ("as_known", _STR),
                    *_RUN,
                ]
            ),
            ("forecast_week", "level", "store", "dept", "member", "target_week"),
            "forecast_week",
        ),
        TableSpec(
            "level_members",
            "the group of each store or department, at each level by an attribute of theirs, as of each forecast",
            pa.schema(
                [("forecast_week", _DAY), ("level", _STR), ("store", _STR), ("dept", _STR), ("member", _STR), *_RUN]
            ),
            ("forecast_week", "level", "store", "dept"),
            "forecast_week",
        ),
        TableSpec(
            "no_forecast",
            "the series that got no forecast, each with the reason",
            pa.schema(
                [("forecast_week", _DAY), ("store", _STR), ("dept", _STR), ("last_week", _DAY), ("reason", _STR), *_RUN]
            ),
            ("forecast_week", "store", "dept"),
            "forecast_week",
        ),
        TableSpec(
            "forecast_accuracy",
            "every earlier forecast of a week, scored when its actuals landed",
            pa.schema(
                [
                    ("week", _DAY),
                    ("forecast_week", _DAY),
                    ("horizon", pa.int32()),
                    ("level", _STR),
                    ("store", _STR),
                    ("dept", _STR),
                    ("member", _STR),  # of levels by attributes: which group
                    ("actual", pa.float64()),
                    ("mean", pa.float64()),
                    ("p50", pa.float64()),
                    ("error", pa.float64()),
                    ("abs_error", pa.float64()),
                    ("quantile_loss", pa.float64()),
                    ("in_interval", pa.bool_()),
                    ("interval", pa.float64()),  # the share of sales it was to hold; of homes before: null
                    ("naive", pa.float64()),
                    ("naive_abs_error", pa.float64()),
                    ("model_version", _STR),
                ]
            ),
            ("week", "forecast_week", "level", "store", "dept", "member"),
            "week",
        ),
        TableSpec(
            "overrides",
            "figures that people gave beside a forecast, each with its reason, author and expiry",
            pa.schema(
                [
                    ("store", _STR),
                    ("dept", _STR),
                    ("target_week", _DAY),
                    ("value", pa.float64()),
                    ("reason", _STR),
                    ("author", _STR),
                    ("expires", _DAY),
                    ("made_at", _TIME),
                ]
            ),
            ("store", "dept", "target_week", "made_at"),
        ),
        TableSpec(
            "run_failures",
            "every run that failed, by step: the newest of its weeks, why, and the run that mended it",
            pa.schema(
                [
                    ("week", _DAY),
                    ("weeks", pa.int64()),
                    ("run_id", _STR),
                    ("job", _STR),
                    ("step", _STR),
                    ("message", _STR),
                    ("failed_at", _TIME),
                    ("mended_at", _TIME),
                    ("mended_by", _STR),
                ]
            ),
            ("run_id", "step"),
        ),
        TableSpec(
            "notices",
            "what was sent to whom (setting notify), so that nobody is told twice",
            pa.schema(
                [
                    ("kind", _STR),
                    ("about", _STR),
                    ("target", _STR),
                    ("subject", _STR),
                    ("tried_at", _TIME),
                    ("told_at", _TIME),
                    ("attempts", pa.int64()),
                    ("trouble", _STR),
                ]
            ),
            ("kind", "about", "target"),
        ),
        TableSpec(
            "closures",
            "departments, or whole stores (dept null), that people closed from a week on; the newest row counts",
            pa.schema(
                [
                    ("store", _STR),
                    ("dept", _STR),
                    ("from_week", _DAY),
                    ("to_week", _DAY),
                    ("reason", _STR),
                    ("author", _STR),
                    ("made_at", _TIME),
                ]
            ),
            ("store", "dept", "from_week", "made_at"),
        ),
        TableSpec(
            "stopping_series",
            "series that are silent beyond their habits at a forecast's week, and the probability that they return",
            pa.schema(
                [
                    ("forecast_week", _DAY),
                    ("store", _STR),
                    ("dept", _STR),
                    ("last_week", _DAY),
                    ("silent_weeks", pa.int64()),
                    ("probability_of_return", pa.float64()),
                    ("share_of_sales", pa.float64()),
                    *_RUN,
                ]
            ),
            ("forecast_week", "store", "dept"),
            "forecast_week",
        ),
    ]
    return {spec.name: spec for spec in specs}


# Views for people, on top of the tables, in SQL that DuckDB and Athena read alike.
VIEWS = {
    "latest_forecast": """
        SELECT * FROM forecasts WHERE forecast_week = (SELECT max(forecast_week) FROM forecasts)
    """,
    "forecast_revisions": """
        SELECT f.forecast_week, f.level, f.store, f.dept, f.member, f.target_week, f.p50,
               f.previous_week, f.previous_p50, f.p50 - f.previous_p50 AS change
        FROM (
            SELECT forecast_week, level, store, dept, member, target_week, p50,
                   lag(forecast_week) OVER (
                       PARTITION BY level, store, dept, member, target_week ORDER BY forecast_week
                   ) AS previous_week,
                   lag(p50) OVER (
                       PARTITION BY level, store, dept, member, target_week ORDER BY forecast_week
                   ) AS previous_p50
            FROM forecasts
        ) AS f
        WHERE f.previous_week IS NOT NULL
    """,
    "forecast_accuracy_by_department": f"""
        SELECT week, horizon, dept, count(*) AS stores, sum(actual) AS actual, sum(p50) AS p50,
               sum(abs_error) AS abs_error, {scores_sql("wape", "naive_wape", "coverage")}
        FROM forecast_accuracy
        WHERE level = 'series'
        GROUP BY week, horizon, dept
    """,  # noqa: S608 (only our own SQL is composed)
    "store_closures": """
        SELECT c.store, c.week, c.series
        FROM (
            SELECT store, week, count(*) AS series FROM cleaned_series WHERE store_closed GROUP BY store, week
        ) AS c
        JOIN (
            SELECT store, max(week) AS last_week FROM cleaned_series
            WHERE observed AND NOT coalesce(store_closed, false)
            GROUP BY store
        ) AS s ON s.store = c.store AND s.last_week > c.week
    """,
    # A figure of a series moves the plan of its store, its department, its groups by attributes and the total by what
    # it adds to the series' p50: the p50 of a sum is not the sum of the p50, so it is moved and not replaced.
    "forecast_with_overrides": """
        WITH latest AS (
            SELECT * FROM forecasts WHERE forecast_week = (SELECT max(forecast_week) FROM forecasts)
        ), given AS (
            SELECT a.store, a.dept, a.target_week, a.value, a.reason, a.author, a.expires, s.forecast_week,
                   a.value - s.p50 AS added
            FROM overrides AS a
            JOIN (
                SELECT store, dept, target_week, max(made_at) AS made_at FROM overrides
                GROUP BY store, dept, target_week
            ) AS n ON n.store = a.store AND n.dept = a.dept AND n.target_week = a.target_week AND n.made_at = a.made_at
            JOIN latest AS s
              ON s.level = 'series' AND s.store = a.store AND s.dept = a.dept AND s.target_week = a.target_week
             AND a.expires >= s.forecast_week
        ), sums AS (
            __SUMS__
        ), weeks AS (
            SELECT DISTINCT forecast_week, level, target_week AS week FROM latest WHERE member IS NOT NULL
        ), added AS (
            SELECT level, store, dept, CAST(NULL AS VARCHAR) AS member, week AS target_week, value AS added FROM sums
            UNION ALL
            SELECT level, CAST(NULL AS VARCHAR), CAST(NULL AS VARCHAR), member, week, value FROM (__MEMBERS__) AS g
        )
        SELECT f.*, o.value AS override, coalesce(o.value, f.p50 + coalesce(m.added, 0)) AS plan,
               o.reason AS override_reason, o.author AS override_author, o.expires AS override_expires
        FROM latest AS f
        LEFT JOIN given AS o
          ON f.level = 'series' AND o.store = f.store AND o.dept = f.dept AND o.target_week = f.target_week
        LEFT JOIN added AS m
          ON m.level = f.level AND m.target_week = f.target_week
         AND m.store IS NOT DISTINCT FROM f.store AND m.dept IS NOT DISTINCT FROM f.dept
         AND m.member IS NOT DISTINCT FROM f.member
    """.replace("__SUMS__", by_level_sql("given", "target_week", "added")).replace(
        "__MEMBERS__", by_member_sql("sums", "weeks")
    ),
    "open_failures": """
        SELECT week, weeks, run_id, job, step, message, failed_at FROM run_failures WHERE mended_at IS NULL
    """,
}
