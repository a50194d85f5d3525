"""The published forecasts: one row per series and week ahead with its quantiles, totals by store and department, and a
reason for every series that has none. Replaced whole, in one commit, so a reader sees the old week or the new one."""

import datetime as dt
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from dagster_duckdb import DuckDBResource

from forecast_platform.defs import pictures
from forecast_platform.defs.batch_predictions import batch_predictions, model_in_force, predictions_of
from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.column_lineage import column_lineage
from forecast_platform.defs.deepar_model import deepar_model
from forecast_platform.defs.partitions import OWNERS, as_known, history_of, scored_again, weekly, weeks_of
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.lake.lake import run_columns, with_columns
from forecast_platform.levels import KEYS, SUMS, attribute_levels
from forecast_platform.publishing.accuracy import rescore
from forecast_platform.publishing.forecasts import forecast_rows, member_rows


@dg.asset(
    deps=[history_of(raw_sales), history_of(cleaned_series), deepar_model, batch_predictions],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    group_name="forecast",
    kinds={"iceberg", "table"},
    owners=OWNERS,
    description=__doc__,
)
def forecast_table(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, (week,), mode = Stage(context), weeks_of(context), as_known(context)
    settings, lake = platform.settings, platform.lake
    model = model_in_force(platform, week)
    made = predictions_of(platform, week)
    run = run_columns(context.run_id)
    with lake_connection(platform, duckdb, "cleaned_series", "stores", "departments") as con:
        by_attributes = attribute_levels(con, settings.levels)
        landed = con.execute("SELECT max(landed_at) FROM cleaned_series WHERE week = ?", [week]).fetchone()
    made.check(model.version, by_attributes, mode)
    levels = (*SUMS, *by_attributes)
    notices = [
        f"{model.version} was trained before there was a level {level.name}: until the next training its intervals are "
        f"widened by the factor of {level.of} or total, whichever is larger"
        for level in by_attributes
        if level.name not in model.calibration.sums
    ]
    for notice in notices:
        context.log.warning(notice)
    widths = {level.name: model.calibration.factor(level) for level in levels}

    def published(*, lead_time: bool) -> pa.Table:
        shards = made.shards(settings.quantiles, settings.prediction_length)
        asked = (week, settings.quantiles, settings.quantile_columns, widths, levels)
        found = forecast_rows(shards, *asked, lead_time=lead_time)
        return with_columns(found, model_version=model.version, as_known=mode, **run)

    rows = published(lead_time=False)
    beside = made.beside()
    without, silent = beside["no_forecast"], beside["stopping_series"]
    known = [[*pc.unique(rows[name]).drop_null().to_pylist(), *without[name].to_pylist()] for name in KEYS]
    members = member_rows(by_attributes, *known)
    series = pc.sum(pc.equal(rows["level"], "series")).as_py() // settings.prediction_length
    for name, found in (beside | {"level_members": members}).items():
        lake.replace_weeks(name, [week], with_columns(found, forecast_week=pa.scalar(week, pa.date32()), **run))
    lake.replace_weeks("lead_time_demand", [week], published(lead_time=True))
    changed = lake.replace_weeks("forecasts", [week], rows)
    # Whatever the order of runs: weeks ahead that have been sold already are scored by what was published now.
    with duckdb.get_connection() as con:
        scores = rescore(lake, con, published=[week])
    scored_again(context, sorted(set(scores["week"].to_pylist())), f"the forecast of {week} was published")
    metadata: dict[str, Any] = {"notices": notices} if notices else {}
    if changed and landed and landed[0]:
        delay = (dt.datetime.now(dt.UTC) - landed[0].astimezone(dt.UTC)).total_seconds()
        metadata["seconds_from_landing"] = round(delay, 1)
        context.log.info(f"published {week}: {delay:.1f} s after the week's sales landed")
    picture = pictures.total_with_fan(lake, settings, week)
    with lake_connection(platform, duckdb, "forecast_revisions") as con:
        revisions = pictures.largest_revisions(con, week)
    return dg.MaterializeResult(
        metadata=stage.metadata(
            lake.specs["forecasts"].schema,
            rows=len(rows),
            series=series,
            without_forecast=len(without),
            stopping=len(silent),
            stopping_share_of_sales=pc.sum(silent["share_of_sales"]).as_py() or 0.0,
            changed=changed,
            model_version=model.version,
            as_known=mode,
            forecast=picture,
            largest_revisions=revisions,
            dashboard=dg.MetadataValue.url(f"{settings.dashboard_url}/?week={week}"),
            **metadata,
        )
        | column_lineage("forecast_table", settings.quantile_columns)
    )
