"""Checks that guard the chain. A blocking check that fails stops what comes after it in the same run.

Checks of assets that take a run a week have partitions of weeks. The others have none: from a run over many weeks
Dagster 1.13 keeps one result without a week, and shows the check of each week as never ended.
"""

import itertools

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.defs.batch_predictions import batch_predictions, model_in_force, predictions_of
from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.deepar_model import deepar_model
from forecast_platform.defs.forecast_accuracy import forecast_accuracy
from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.partitions import as_known, weekly, weeks_of
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.engines.predictions import BatchError
from forecast_platform.history.cleaning import completeness
from forecast_platform.history.reading import observations
from forecast_platform.panels import KNOWN
from forecast_platform.scores import SCORE
from forecast_platform.weeks import key

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@dg.asset_check(asset=cleaned_series, blocking=True, description="enough of the recently active series reported")
def week_complete(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.AssetCheckResult:
    weeks, threshold = weeks_of(context), platform.settings.complete_share
    with lake_connection(platform, duckdb, "cleaned_series") as con:
        # Of a history only the last week can still become complete, and no forecast comes from a run of several weeks.
        last = con.execute("SELECT max(week) FROM cleaned_series WHERE observed AND week <= ?", [weeks[-1]]).fetchone()
        week = weeks[0] if len(weeks) == 1 else (last[0] if last and last[0] else weeks[-1])
        result = completeness(con, [week])[0]
    missing = ", ".join(result.missing_stores[:10]) or "none"
    return dg.AssetCheckResult(
        passed=result.complete(threshold),
        severity=ERROR if len(weeks) == 1 else WARN,
        description=(
            f"week {week}: {result.present:,} of {result.expected:,} recently active series reported "
            f"({result.share:.0%}; complete at {threshold:.0%}); stores not heard of: {missing}"
        ),
        metadata={
            "week": key(week),
            "expected": result.expected,
            "present": result.present,
            "share": result.share,
            "missing_stores": list(result.missing_stores),
        },
    )


@dg.asset_check(asset=cleaned_series, description="no store was closed: a whole store that usually sells sold nothing")
def no_store_closed(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.AssetCheckResult:
    """Names closures, from which nothing is learned, and what was filled; asks for open days, which are better."""
    run, settings = weeks_of(context), platform.settings
    between = [run[0], run[-1]]
    with lake_connection(platform, duckdb, "cleaned_series") as con:
        closed = con.execute(
            "SELECT store, count(DISTINCT week), min(week), max(week) FROM cleaned_series "
            "WHERE store_closed AND week BETWEEN ? AND ? GROUP BY store ORDER BY max(week) DESC, store",
            between,
        ).fetchall()
        filled, cells = con.execute(
            "SELECT count(*) FILTER (filled), count(*) FROM cleaned_series WHERE week BETWEEN ? AND ?", between
        ).fetchone() or (0, 0)
    told = [
        f"store {store} in the week of {last}"
        if weeks == 1
        else f"store {store} in {weeks} weeks from {first} to {last}"
        for store, weeks, first, last in closed
    ]
    named = ", ".join(told[:10])
    more = f" and {len(closed) - 10} more" if len(closed) > 10 else ""
    zeros = f"{filled:,} of {cells:,} cells had no row and count as zero sales (no_row = {settings.no_row})"
    advice = (
        ". These stores sold nothing, though they usually do: closed, or their sales are missing. Nothing is learned "
        "from these weeks; land features with open_days by store and week to say it, and what is ahead"
    )
    return dg.AssetCheckResult(
        passed=not closed,
        severity=WARN,
        description=f"closed: {named}{more}{advice}; {zeros}" if closed else f"no store was closed; {zeros}",
        metadata={"closures": told[:100], "filled_as_zero": filled, "share_filled": filled / max(cells, 1)},
    )


@dg.asset_check(
    asset=deepar_model, partitions_def=weekly, description="the model beat last year's week in its rolling backtest"
)
def beats_seasonal_naive(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    judgement = model_in_force(platform, weeks_of(context)[-1]).judgement
    return dg.AssetCheckResult(
        passed=judgement.verdict != "below_naive",
        severity=WARN,
        description=judgement.why,
        metadata={"verdict": judgement.verdict},
    )


@dg.asset_check(
    asset=batch_predictions,
    partitions_def=weekly,
    blocking=True,
    description="neither model nor inputs know anything after the week",
)
def no_future_data(context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    week = weeks_of(context)[-1]
    try:
        last = predictions_of(platform, week).last_week or week
    except BatchError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    trained = model_in_force(platform, week).trained_as_of
    return dg.AssetCheckResult(
        passed=last <= week and trained <= week,
        description=f"newest week in the inputs {last}, model trained as of {trained}, forecast from {week}",
    )


@dg.asset_check(
    asset=batch_predictions,
    partitions_def=weekly,
    blocking=True,
    description="every line has its whole horizon, is finite, in order, and belongs to the series it was asked for",
)
def outputs_verified(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    settings = platform.settings
    try:
        made = predictions_of(platform, weeks_of(context)[-1])
        series = sum(len(s.mean) for s in made.shards(settings.quantiles, settings.prediction_length))
    except BatchError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    return dg.AssetCheckResult(passed=True, description=f"{series:,} series verified", metadata={"series": series})


@dg.asset_check(
    asset=forecast_table,
    partitions_def=weekly,
    blocking=True,
    description="every known series has a forecast or a reason",
)
def forecast_or_reason(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.AssetCheckResult:
    week, horizon, mode = weeks_of(context)[-1], platform.settings.prediction_length, as_known(context)
    with lake_connection(platform, duckdb, *KNOWN, "forecasts", "no_forecast") as con:
        # Series with rows in force. Those of others were withdrawn by a restatement, or had not landed then.
        con.register("in_force", observations(con, week, mode).select("store", "dept").distinct().to_arrow_table())
        known, whole, reasons, lost, both = con.execute(
            """
            WITH known AS (SELECT DISTINCT store, dept FROM raw_sales WHERE week <= $week AND sales IS NOT NULL),
            forecast AS (
                SELECT store, dept, count(*) AS weeks FROM forecasts
                WHERE forecast_week = $week AND level = 'series' GROUP BY store, dept
            ),
            reason AS (SELECT store, dept FROM no_forecast WHERE forecast_week = $week),
            superseded AS (
                SELECT store, dept FROM known ANTI JOIN in_force USING (store, dept)
            )
            SELECT (SELECT count(*) FROM known), (SELECT count(*) FROM forecast WHERE weeks = $horizon),
                   (SELECT count(*) FROM reason),
                   (SELECT count(*) FROM known ANTI JOIN forecast USING (store, dept)
                    ANTI JOIN reason USING (store, dept) ANTI JOIN superseded USING (store, dept)),
                   (SELECT count(*) FROM forecast SEMI JOIN reason USING (store, dept))
                   + (SELECT count(*) FROM forecast WHERE weeks <> $horizon)
            """,
            {"week": week, "horizon": horizon},
        ).fetchone() or (0, 0, 0, 0, 0)
    return dg.AssetCheckResult(
        passed=lost == 0 and both == 0,
        description=(
            f"{known:,} series known by {week}: {whole:,} forecast, {reasons:,} with a reason, {lost:,} with neither"
        ),
        metadata={"known": known, "forecast": whole, "reasons": reasons, "neither": lost, "wrong": both},
    )


@dg.asset_check(
    asset=forecast_table, partitions_def=weekly, blocking=True, description="published quantiles ascend and are finite"
)
def quantiles_ordered(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.AssetCheckResult:
    columns = platform.settings.quantile_columns
    right = [f"isfinite({c})" for c in columns] + [f"{a} <= {b}" for a, b in itertools.pairwise(columns)]
    with lake_connection(platform, duckdb, "forecasts") as con:
        rows, bad = con.execute(
            f"""SELECT count(*), count(*) FILTER (NOT coalesce({" AND ".join(right)}, false))
                FROM forecasts WHERE forecast_week = ?""",  # noqa: S608 (names of ours)
            [weeks_of(context)[-1]],
        ).fetchone() or (0, 0)
    return dg.AssetCheckResult(passed=bad == 0, description=f"{rows:,} rows, {bad} of them wrong")


@dg.asset_check(asset=forecast_accuracy, description="realised coverage of the published interval is near nominal")
def interval_coverage(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.AssetCheckResult:
    quantiles = platform.settings.quantiles
    with lake_connection(platform, duckdb, "forecast_accuracy") as con:
        row = con.execute(
            f"SELECT {SCORE['coverage']}, count(in_interval), avg(coalesce(interval, ?)) FROM forecast_accuracy "  # noqa: S608
            "WHERE level = 'series' AND week BETWEEN ? AND ?",
            [quantiles[-1] - quantiles[0], weeks_of(context)[0], weeks_of(context)[-1]],
        ).fetchone()
    coverage, cells, nominal = row if row else (None, 0, None)
    if not cells:
        return dg.AssetCheckResult(passed=True, description="no earlier forecast of these weeks to score yet")
    return dg.AssetCheckResult(
        passed=abs(coverage - nominal) <= 0.1,
        severity=WARN,
        description=f"{coverage:.1%} of {cells:,} actuals fell into the {nominal:.0%} interval",
        metadata={"coverage": coverage, "nominal": nominal, "cells": cells},
    )
