"""Schemas of the lake's tables: the names, types and grain that SQL, dashboards and tests rely on; and the error that
the modules of the lake raise."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from forecast_platform.levels import by_level_sql, by_member_sql
from forecast_platform.scores import scores_sql

NAMESPACE = "forecast"
QUANTILE = re.compile(r"p\d{1,2}")  # a column of a published quantile; which there are, the settings say
LOCAL = "file://"  # begins a location on disk
SPILL = "spill"  # the folder, beside the tables, of what a query has no memory for


class LakeError(RuntimeError):
    """The lake could not be read or written; the message says what to do."""


_DAY = pa.date32()
_TIME = pa.timestamp("us", tz="UTC")
_STR = pa.string()

# Where a row came from: the landed object, its version, and when that version landed.
_SOURCE: list[tuple[str, pa.DataType]] = [("source_key", _STR), ("source_version", _STR), ("landed_at", _TIME)]
# Which run wrote a row and when. Not part of the content: rewriting equal content changes nothing.
PROVENANCE = ("run_id", "created_at")
_RUN: list[tuple[str, pa.DataType]] = [("run_id", _STR), ("created_at", _TIME)]

# What each column means, wherever a column of this name is; "table.column" where it means something else there. Shown
# by Dagster, by docs/tables.md and, as they are the columns' comments in Iceberg, by every engine.
COLUMNS = {
    "source_key": "Name of the landed file below the landing place.",
    "source_version": "Digest of the file's bytes.",
    "landed_at": "When the version landed; of several versions of a row the last one landed counts.",
    "run_id": "Dagster's id of the run that wrote the row.",
    "created_at": "When the run wrote the row.",
    "week": "Last day of the business week.",
    "store": "Store; null where the row is of several stores.",
    "dept": "Department; null where the row is of several departments.",
    "sales": "Sales of the week, in the currency of the files; null: unknown.",
    "is_holiday": "Whether the week holds a holiday, as the file says; null: it does not say.",
    "line": "Line of the file.",
    "rows": "Rows of the file, without its header.",
    "landings.kind": "Kind of file: sales, stores, departments, features or calendar.",
    "size": "Size of the file in bytes.",
    "status": "What became of it: ingested, refused, waiting, known or withdrawn.",
    "accepted": "Rows that were accepted.",
    "quarantined": "Rows that were rejected.",
    "stored": "Rows stored of those accepted; fewer where days are added up to weeks.",
    "landings.weeks": "Number of weeks that the file has rows for.",
    "first_week": "First of these weeks.",
    "landings.last_week": "Last of these weeks.",
    "landings.rule": "Rule by which the whole file was refused or waits.",
    "rule": "Rule that the line broke.",
    "landings.message": "Why the whole file was refused or waits, and what to do.",
    "quarantine.message": "What is wrong, and how to mend it.",
    "run_failures.message": "Why the step failed.",
    "ignored_columns": "Columns of the file that are not used.",
    "arrived_at": "When these bytes arrived; reading the file again where it lies does not change it.",
    "modified_at": "When the file was changed last, according to the landing place.",
    "reading": "Digest of the settings that it was read with.",
    "columns": "Columns of the file, one a line.",
    "warnings": "What was odd about the file and did not stop it.",
    "appeared": "Rows that came into force with the file (sales only).",
    "changed": "Rows in force that the file gave another value (sales only).",
    "vanished": "Rows that the file put out of force (sales only).",
    "to_clean": "Weeks it touched that have not been cleaned since.",
    "withdrawn_at": "When a person withdrew it.",
    "landings.reason": "Why a person withdrew it, accepted it or had it read again.",
    "author": "Person who did it.",
    "landed_date": "Day on which the file landed.",
    "field": "Column of the file that the rule is about.",
    "quarantine.value": "Value found there.",
    "record": "The whole line as it was.",
    "stores.name": "Name of the attribute.",
    "stores.value": "Value of the attribute.",
    "departments.name": "Name of the attribute.",
    "departments.value": "Value of the attribute.",
    "features.name": "Name of the covariate.",
    "features.value": "Value of the covariate in the week, in the unit of the file.",
    "calendar.name": "Name of the day, such as Christmas.",
    "date": "The day.",
    "forecast_events.name": "Name of the event, such as Easter; Good Friday is part of it.",
    "lined_up": "Whether last year's weeks are lined up by the event; false where the history speaks against it.",
    "observed": "Whether sales are known: landed, or filled with zero.",
    "is_return": "Whether sales are negative.",
    "is_restated": "Whether a later file gave the week another value.",
    "cleaned_series.landed_at": "When the version in force landed; null: no row did.",
    "cleaned_series.source_key": "File that the version in force came from; null: no row landed.",
    "filled": "Whether no row landed, and by the series' habit that means zero sales.",
    "store_closed": "Whether the whole store sold nothing, though it usually does.",
    "version": "Version of the model.",
    "trained_as_of": "Last week that its training knew.",
    "training_digest": "Digest of all that decides the model: data, settings, code.",
    "models.target": "Candidate of the largest weight among those that learn; where none does, among all.",
    "network_share": "The networks' part of the blend, 0 to 1; the rest is that of candidates without learning.",
    "as_known": "now: made from what is known now; then: from what had landed by the end of the week after.",
    "series": "Number of series it was trained on.",
    "observations": "Number of observed weeks of all series.",
    "hyperparameters": "Hyperparameters of training, as JSON.",
    "backtest_cutoff": "Last week that the backtest knew.",
    "backtest_wape": "WAPE in the backtest: absolute errors of the median / absolute sales.",
    "backtest_wql": "wQL in the backtest: mean over the quantiles of 2 x pinball loss / absolute sales.",
    "backtest_coverage80": "Share of sales inside the 80% interval in the backtest, 0 to 1.",
    "naive_wape": "WAPE of last year's week, over the same weeks.",
    "naive_wql": "wQL of last year's week, over the same weeks.",
    "verdict": "passed: it beat last year's week; below_naive: it did not; unjudged: too short a history.",
    "why": "Which candidates serve with what weights, and how the blend scored in the backtest.",
    "candidates": "Of each candidate, as JSON: weights by the kind of series, WAPE and wQL by itself in the backtest; "
    "or why it was left out.",
    "forecast_week": "Last week that the forecast knew.",
    "level": "How series are grouped: series, store, dept, total, or an attribute that the setting levels names.",
    "member": "Value of the attribute that the level groups by; null at the other levels.",
    "target_week": "The week that is forecast.",
    "lead_time_demand.target_week": "The last of the weeks added up.",
    "lead_time_demand.weeks": "Number of weeks after forecast_week whose sales are added up.",
    "horizon": "Weeks from forecast_week to the week forecast.",
    "mean": "Mean of the forecast, in the unit of sales.",
    "model_version": "Version of the model that made the forecast.",
    "last_week": "Last week with sales.",
    "no_forecast.reason": "Why there is no forecast.",
    "actual": "Sales of the week, as known now.",
    "p50": "Median of the forecast: sales stay below it in 50 of 100 cases.",
    "error": "p50 - actual.",
    "abs_error": "Absolute value of error.",
    "quantile_loss": "Mean over the published quantiles of 2 x pinball loss, in the unit of sales.",
    "in_interval": "Whether actual lies between the outermost quantiles; null: there was no interval.",
    "interval": "Share of sales that the interval was to hold, 0 to 1.",
    "naive": "Sales of 52 weeks before; null: unknown.",
    "naive_abs_error": "Absolute difference of naive and actual.",
    "overrides.value": "Sales of the week as the person expects them, instead of p50.",
    "reason": "Why the person decided so.",
    "expires": "Last forecast_week that it counts for.",
    "made_at": "When the person entered it.",
    "run_failures.week": "Newest week of the run.",
    "run_failures.weeks": "Number of weeks of the run.",
    "job": "Job that was run.",
    "step": "Asset, check or op that failed.",
    "failed_at": "When the run failed.",
    "mended_at": "When a later run of its weeks succeeded.",
    "mended_by": "Dagster's id of that run.",
    "notices.kind": "Kind of notice, such as a failure or a report.",
    "about": "What the notice is about.",
    "notices.target": "Who was told: the mail address, or the webhook's host with a digest of its address.",
    "subject": "Subject of what was sent.",
    "tried_at": "When it was sent last.",
    "told_at": "When it got through; null: not yet.",
    "attempts": "How often it was sent.",
    "trouble": "Why it did not get through.",
    "from_week": "First week closed.",
    "to_week": "Last week closed; null: for good.",
    "silent_weeks": "Weeks without sales up to forecast_week.",
    "probability_of_return": "Probability that it sells again within the weeks forecast, 0 to 1.",
    "share_of_sales": "Its share of the retailer's sales in the year up to forecast_week, 0 to 1.",
}


def about_column(table: str, column: str) -> str:
    """What a column means. Raises KeyError where nobody has said it."""
    if column not in COLUMNS and (quantile := re.fullmatch(r"p(\d+)", column)):
        return f"Quantile of the forecast: sales stay below it in {quantile[1]} of 100 cases."
    return COLUMNS.get(f"{table}.{column}") or COLUMNS[column]


@dataclass(frozen=True)
class TableSpec:
    """One table: its columns, the column it is partitioned by, and the key that is unique in it. Each column's meaning
    is in its metadata as `doc`, which Iceberg takes over."""

    name: str
    about: str
    schema: pa.Schema
    key: tuple[str, ...]
    partition: str | None = None

    def __post_init__(self) -> None:
        fields = [f.with_metadata({"doc": about_column(self.name, f.name)}) for f in self.schema]
        object.__setattr__(self, "schema", pa.schema(fields))

    @property
    def order(self) -> tuple[str, ...]:
        """The key in the order that rows are kept in: whoever wants one level, store or series finds it together."""
        first = (self.partition, "level", "store", "dept", "member")
        return tuple(dict.fromkeys([c for c in first if c and c in (self.partition, *self.key)] + list(self.key)))


def table_specs(quantile_columns: tuple[str, ...]) -> dict[str, TableSpec]:
    """All tables by name. `quantile_columns` are the published quantiles, e.g. ("p10", "p50", "p90")."""
    quantiles = [(name, pa.float64()) for name in quantile_columns]

    def published(ahead: str) -> pa.Schema:
        """The schema of published forecasts; `ahead` is the column with the number of weeks."""
        return pa.schema(
            [
                ("forecast_week", _DAY),
                ("level", _STR),
                ("store", _STR),
                ("dept", _STR),
                ("member", _STR),  # of levels by attributes: which group
                ("target_week", _DAY),
                (ahead, pa.int32()),
                ("mean", pa.float64()),
                *quantiles,
                ("model_version", _STR),
                ("as_known", _STR),
                *_RUN,
            ]
        )

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
                    ("stored", pa.int64()),
                    ("weeks", pa.int64()),
                    ("first_week", _DAY),
                    ("last_week", _DAY),
                    ("rule", _STR),
                    ("message", _STR),
                    ("ignored_columns", _STR),
                    ("arrived_at", _TIME),
                    ("modified_at", _TIME),
                    ("reading", _STR),
                    ("columns", _STR),
                    ("warnings", _STR),
                    ("appeared", pa.int64()),
                    ("changed", pa.int64()),
                    ("vanished", pa.int64()),
                    ("to_clean", _STR),
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
                    ("candidates", _STR),
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
            published("horizon"),
            ("forecast_week", "level", "store", "dept", "member", "target_week"),
            "forecast_week",
        ),
        TableSpec(
            "lead_time_demand",
            "published forecasts of the sales of the next weeks added up, at all levels of `forecasts`: quantiles of "
            "sums are not sums of quantiles",
            published("weeks"),
            ("forecast_week", "level", "store", "dept", "member", "weeks"),
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
            "forecast_events",
            "the dates of the events that each forecast was given, and whether last year's weeks are lined up by them",
            pa.schema([("forecast_week", _DAY), ("name", _STR), ("date", _DAY), ("lined_up", pa.bool_()), *_RUN]),
            ("forecast_week", "name", "date"),
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
                    ("interval", pa.float64()),  # the share of sales it was to hold; null in older rows
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
    "latest_lead_time_demand": """
        SELECT * FROM lead_time_demand WHERE forecast_week = (SELECT max(forecast_week) FROM forecasts)
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
    # An override of a series adds (override - p50 of the series) to the plan of its store, its department, its groups
    # by attributes and the total. They are not summed anew, because the p50 of a sum is not the sum of the p50.
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
