"""The newest forecast, sales, accuracy and revisions as one .hyper file for Tableau, read back after writing."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.defs.cleaned_series import cleaned_series
from forecast_platform.defs.forecast_accuracy import forecast_accuracy
from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.partitions import OWNERS
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.publishing import tableau as hyper

# After a publication, once its run is over. Not eager(): that waits until no week at all is missing, which is never.
_WHEN_PUBLISHED = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)

# Tableau's library is a large extra, and not every platform has it.
if hyper.available():

    @dg.asset(
        deps=[cleaned_series, forecast_table, forecast_accuracy],
        group_name="hand_over",
        kinds={"tableau"},
        owners=OWNERS,
        description=__doc__,
        automation_condition=_WHEN_PUBLISHED,
    )
    def tableau_extract(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
    ) -> dg.MaterializeResult:
        stage = Stage(context)
        with lake_connection(platform, duckdb) as con:
            extract = hyper.write_extract(con, platform.settings.home / "exports" / "forecast.hyper")
        kept = platform.cloud.keep("exports/forecast.hyper", extract.path)
        return dg.MaterializeResult(
            metadata=stage.metadata(
                file=dg.MetadataValue.path(kept),
                megabytes=round(extract.path.stat().st_size / 1e6, 1),
                **{f"rows_{name}": rows for name, rows in extract.rows.items()},
            )
        )

    extract_sensor = dg.AutomationConditionSensorDefinition(
        "extract_sensor",
        target=dg.AssetSelection.assets(tableau_extract),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Writes the Tableau extract anew when a forecast was published or its sales landed.",
    )
