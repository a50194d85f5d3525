"""What Dagster loads."""

import dagster as dg

from forecast_platform.defs.batch_predictions import batch_predictions
from forecast_platform.defs.checks import all_checks
from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.deepar_model import deepar_model
from forecast_platform.defs.forecast_accuracy import forecast_accuracy
from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.jobs import ingest_history, weekly_forecast
from forecast_platform.defs.lake_maintenance import lake_maintenance, nightly_maintenance
from forecast_platform.defs.landing_sensor import landing, landing_sensor
from forecast_platform.defs.notifications import notifier
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import build_resources
from forecast_platform.defs.run_failures import failed_runs, mended_runs
from forecast_platform.defs.tableau_extract import extract_sensor, tableau_extract
from forecast_platform.defs.weekly_report import weekly_report
from forecast_platform.publishing import tableau as hyper

# Tableau's library is an extra of some size that not every platform has.
_TABLEAU = hyper.available()

defs = dg.Definitions(
    assets=[
        landing,
        raw_sales,
        cleaned_series,
        deepar_model,
        batch_predictions,
        forecast_table,
        forecast_accuracy,
        weekly_report,
        *([tableau_extract] if _TABLEAU else []),
    ],
    asset_checks=all_checks,
    jobs=[weekly_forecast, ingest_history, lake_maintenance],
    sensors=[landing_sensor, failed_runs, mended_runs, notifier, *([extract_sensor] if _TABLEAU else [])],
    schedules=[nightly_maintenance],
    resources=build_resources(),
    # One process for a run: starting processes and importing torch costs more than a stage's work does.
    executor=dg.in_process_executor,
)
