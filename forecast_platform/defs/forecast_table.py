"""The published forecasts: one row per series and week ahead with its quantiles, totals by store and department, and a
reason for every series that has none. Replaced whole, in one commit, so a reader sees the old week or the new one."""

import datetime as dt
from collections.abc import Iterator
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
from forecast_platform.levels import KEYS, SUMS, attribute_levels, names_of
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

    sums, horizon = made.sums(), settings.prediction_length

    def published(*, lead_time: bool) -> Iterator[pa.Table]:
        series = made.forecasts(settings.quantiles, horizon, lead_time=lead_time)
        asked = (week, settings.quantiles, settings.quantile_columns, widths, levels)
        for rows in forecast_rows(sums, series, *asked, lead_time=lead_time):
            yield with_columns(rows, model_version=model.version, as_known=mode, **run)

    # First what reads all files of the predictions: where one is damaged nothing of the week changes.
    lake.replace_weeks("lead_time_demand", [week], published(lead_time=True))
    beside = made.beside()
    without, silent = beside["no_forecast"], beside["stopping_series"]
    groups = {name: names_of(part.names) for name, part in sums.items()}
    known = [[*(groups[name][:, at] if groups else ()), *pc.unique(without[name]).to_pylist()]
             for at, name in enumerate(KEYS)]  # fmt: skip
    for name, found in (beside | {"level_members": member_rows(by_attributes, *known)}).items():
        lake.replace_weeks(name, [week], with_columns(found, forecast_week=pa.scalar(week, pa.date32()), **run))
    changed = lake.replace_weeks("forecasts", [week], published(lead_time=False))
    # Whatever the order of runs: weeks ahead that have been sold already are scored by what was published now.
    with duckdb.get_connection() as con:
        scored = rescore(lake, con, published=[week])
    scored_again(context, scored, f"the forecast of {week} was published")
    metadata: dict[str, Any] = {"notices": notices} if notices else {}
    if changed and landed and landed[0]:
        delay = (dt.datetime.now(dt.UTC) - landed[0].astimezone(dt.UTC)).total_seconds()
        metadata["seconds_from_landing"] = round(delay, 1)
        context.log.info(f"published {week}: {delay:.1f} s after the week's sales landed")
    picture = pictures.total_with_fan(lake, settings, week)
    with lake_connection(platform, duckdb, "forecasts") as con:
        revisions = pictures.largest_revisions(con, week)
    return dg.MaterializeResult(
        metadata=stage.metadata(
            lake.specs["forecasts"].schema,
            rows=horizon * (made.series + sum(len(names) for names in groups.values())),
            series=made.series,
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
