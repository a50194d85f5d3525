"""The two jobs over weeks: the whole graph for one week, and bringing in many weeks without forecasting each."""

from __future__ import annotations

import dagster as dg

from forecast_platform.lake.lake import Lake
from forecast_platform.settings import get_settings

# One that hangs would hold up every later week. Stopping it stops its SageMaker jobs.
MAX_RUNTIME = {"dagster/max_runtime": str(round(get_settings().max_run_hours * 3600))}

_INGEST = ["raw_sales", "cleaned_series", "forecast_accuracy"]

weekly_forecast = dg.define_asset_job(
    "weekly_forecast",
    # Whether the newest week has a forecast is no matter of a run of another week.
    selection=dg.AssetSelection.assets(
        *_INGEST, "deepar_model", "batch_predictions", "forecast_table", "exports", "weekly_report"
    )
    - dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("forecast_table"), "freshness_check")),
    description="One week, from landed files to published forecasts.",
    tags=MAX_RUNTIME,
)

ingest_history = dg.define_asset_job(
    "ingest_history",
    selection=dg.AssetSelection.assets(*_INGEST),
    description="Many weeks of landed files into clean series and realised accuracy, without a forecast for each.",
    tags=MAX_RUNTIME,
)


def history_assets(lake: Lake) -> list[str]:
    """What a history run materializes: realised accuracy only once there are forecasts to score, since each asset
    costs an event for each of the weeks."""
    return _INGEST if lake.snapshot("forecasts") else _INGEST[:2]
