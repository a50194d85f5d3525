"""Forecasts of every active series with the sums of their sample paths, a shard at a time, kept as Parquet."""

import datetime as dt
import shutil
from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.deepar_model import deepar_model
from forecast_platform.defs.emr_serverless import through_pipes
from forecast_platform.defs.partitions import OWNERS, as_known, history_of, weekly, weeks_of
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.engines.base import Asked, EngineError
from forecast_platform.engines.predictions import BatchError, Predictions
from forecast_platform.lake.lake import any_of
from forecast_platform.models.trained import ModelLost, TrainedModel
from forecast_platform.panels import KNOWN, listed_series
from forecast_platform.weeks import key


def model_in_force(platform: Platform, week: dt.date) -> TrainedModel:
    """The model of a week, as the `models` table names it.

    Raises:
        dagster.Failure: there is none, or it saw weeks after `week`.
    """
    rows = platform.lake.read("models", any_of("week", [key(week)])).to_pylist()
    if not rows:
        raise dg.Failure(f"no model for {week}; materialize deepar_model for this partition first", allow_retries=False)
    try:
        model = platform.engine.model(rows[0]["training_digest"])
    except ModelLost as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if model.trained_as_of > week:
        raise dg.Failure(
            f"model {model.version} was trained on weeks up to {model.trained_as_of}, which {week} did not know",
            allow_retries=False,
        )
    return model


def folder_of(platform: Platform, week: dt.date) -> Path:
    return platform.settings.transforms / key(week)


def predictions_of(platform: Platform, week: dt.date) -> Predictions:
    return platform.engine.predictions(folder_of(platform, week))


@dg.asset(
    deps=[history_of(raw_sales), history_of(cleaned_series), deepar_model],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    group_name="forecast",
    kinds={"pytorch", "deepar"},
    owners=OWNERS,
    description=__doc__,
)
def batch_predictions(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, (week,), settings, mode = Stage(context), weeks_of(context), platform.settings, as_known(context)
    model = model_in_force(platform, week)
    platform.engine.run_id, platform.engine.submit = context.run_id, through_pipes(context)
    asked = Asked(settings.quantiles, settings.num_samples, settings.seed, mode)
    folder = folder_of(platform, week)
    series = folder.with_name(f"{folder.name}.series")
    try:
        with lake_connection(platform, duckdb, *KNOWN) as con:
            listed = listed_series(con, week, mode, settings, series, platform.engine)
        before = stage.elapsed()
        made, notices = platform.engine.predict(model, listed.shards, folder, asked, stage.progress, listed.beside)
    except (EngineError, BatchError, ValueError) as error:  # ValueError: a covariate that ends too early, say
        raise dg.Failure(str(error), stage.receipt(platform.engine), allow_retries=False) from error
    shutil.rmtree(series, ignore_errors=True)
    seconds, cpu_seconds = (max(after - b, 1e-9) for after, b in zip(stage.elapsed(), before, strict=True))
    return dg.MaterializeResult(
        metadata=stage.metadata(
            series=made.series,
            without_forecast=len(listed.beside["no_forecast"]),
            model_version=model.version,
            target=model.target,
            network_share=model.network_share,
            weights=dg.MetadataValue.json(model.blend.weights),
            covariates=list(model.features),
            notices=list(notices),
            trained_as_of=str(model.trained_as_of),
            as_known=mode,
            sample_paths=settings.num_samples,
            shards=len(made.said["shards"]),
            series_per_second=round(made.series / seconds),
            series_per_cpu_second=round(made.series / cpu_seconds),
            folder=dg.MetadataValue.path(str(folder)),
            **stage.receipt(platform.engine),
        )
    )
