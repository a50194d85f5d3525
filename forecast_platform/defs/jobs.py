"""The two jobs: the whole graph for one week, and bringing in many weeks without forecasting each."""

from __future__ import annotations

import dagster as dg

from forecast_platform.defs.partitions import weekly

INGEST = ["raw_sales", "cleaned_series", "forecast_accuracy"]

weekly_forecast = dg.define_asset_job(
    "weekly_forecast", selection=dg.AssetSelection.assets(*INGEST, "deepar_model", "batch_predictions", "forecast_table"),
    partitions_def=weekly, description="One week, from landed files to published forecasts.",
)

ingest_history = dg.define_asset_job(
    "ingest_history", selection=dg.AssetSelection.assets(*INGEST), partitions_def=weekly,
    description="Many weeks of landed files into clean series and realised accuracy, without a forecast for each.",
)
