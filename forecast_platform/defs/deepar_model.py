"""The DeepAR model in force at a week: trained on weeks up to it (or pointing to the last training), and judged."""

import datetime as dt
import json
from dataclasses import asdict

import dagster as dg
import pyarrow as pa
from dagster_duckdb import DuckDBResource

from forecast_platform.defs import pictures
from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.column_lineage import column_lineage
from forecast_platform.defs.partitions import OWNERS, PINNED, as_known, history_of, weekly, weeks_of
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.engines.base import EngineError
from forecast_platform.lake.lake import run_columns
from forecast_platform.models.pinning import pinned_training
from forecast_platform.models.trained import ModelLost, TrainedModel, training_panel, training_week
from forecast_platform.panels import KNOWN, known_panel


@dg.asset(
    deps=[history_of(raw_sales), history_of(cleaned_series)],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    group_name="model",
    kinds={"pytorch", "deepar"},
    owners=OWNERS,
    description=__doc__,
)
def deepar_model(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, (week,), mode = Stage(context), weeks_of(context), as_known(context)
    settings, lake = platform.settings, platform.lake
    platform.engine.run_id = context.run_id
    pin = context.run.tags.get(PINNED) or settings.model_name
    try:
        if pin:
            known = lake.read("models", columns=["version", "trained_as_of", "training_digest"]).to_pylist()
            model = platform.engine.model(pinned_training(known, pin, week))
            why = f"pinned by {PINNED if PINNED in context.run.tags else 'FORECAST_MODEL_NAME'}; when trained: "
        else:
            model, why = _train(stage, platform, duckdb, week, mode)
    except (ValueError, ModelLost, EngineError) as error:
        raise dg.Failure(str(error), stage.receipt(platform.engine), allow_retries=False) from error
    judgement = model.judgement
    row = {
        "week": week,
        "version": model.version,
        "trained_as_of": model.trained_as_of,
        "training_digest": model.digest,
        "as_known": mode,
        "series": model.series,
        "observations": model.observations,
        "target": model.target,
        "network_share": model.network_share,
        "hyperparameters": json.dumps(model.hyperparameters, sort_keys=True),
        "backtest_cutoff": judgement.cutoff,
        "backtest_wape": judgement.wape,
        "backtest_wql": judgement.wql,
        "backtest_coverage80": judgement.coverage80,
        "naive_wape": judgement.naive_wape,
        "naive_wql": judgement.naive_wql,
        "verdict": judgement.verdict,
        "why": why + judgement.why,
        "candidates": json.dumps(model.tried),
        **run_columns(context.run_id),
    }
    schema = lake.specs["models"].schema
    lake.replace_weeks("models", [week], pa.Table.from_pylist([row], schema=schema))
    return dg.MaterializeResult(
        metadata=stage.metadata(
            schema,
            version=model.version,
            trained_as_of=str(model.trained_as_of),
            series=model.series,
            observations=model.observations,
            target=model.target,
            network_share=model.network_share,
            weights=dg.MetadataValue.json(model.blend.weights),
            candidates=dg.MetadataValue.json(model.tried),
            covariates=list(model.features),
            interval_factors=dg.MetadataValue.json([list(row) for row in model.calibration.factors]),
            interval_factors_of_sums=dg.MetadataValue.json(dict(model.calibration.sums)),
            dependence=dg.MetadataValue.json(asdict(model.calibration.dependence)),
            verdict=judgement.verdict,
            why=why + judgement.why,
            training_seconds=round(sum(network.train_seconds for network in model.networks), 1),
            training_windows=sum(network.train_windows for network in model.networks),
            hyperparameters=dg.MetadataValue.json(model.hyperparameters),
            dashboard=dg.MetadataValue.url(f"{settings.dashboard_url}/runs#models"),
            **_artifact(model),
            **stage.receipt(platform.engine),
        )
        | column_lineage("deepar_model")
    )


def _artifact(model: TrainedModel) -> dict[str, dg.MetadataValue]:
    """Where the network that weighs most is and how it learned; nothing where none learned."""
    if not model.networks:
        return {}
    path = dg.MetadataValue.path(str(model.artifact(model.networks[0])))
    return {"artifact": path, "loss": pictures.loss_curve(model.networks[0].loss_curve)}


def _train(
    stage: Stage, platform: Platform, duckdb: DuckDBResource, week: dt.date, mode: str
) -> tuple[TrainedModel, str]:
    """The model in force at the week: stored, or trained now; and what it was learnt from, where that is a sample.

    Raises ValueError or EngineError when it can't be.
    """
    settings = platform.settings
    try:
        candidates = platform.engine.candidates(settings)
        with lake_connection(platform, duckdb, *KNOWN) as con:
            panel, of_sample = known_panel(con, week, mode, settings)
    except ValueError as error:
        raise ValueError(f"up to {week}, as known {mode}: {error}") from error
    trained_as_of = training_week(week, settings.calendar, settings.retrain_every_weeks)
    panel = training_panel(panel, trained_as_of, candidates)
    model = platform.engine.train(panel, candidates, stage.progress, settings.num_samples)
    return model, f"{of_sample}; " if of_sample else ""
