"""The week's forecast as CSV and Parquet for people and other systems: keys, names, plan and quantiles; with the
setting export_to in a table of a database, too."""

import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from forecast_platform.databases import without_password
from forecast_platform.defs.forecast_table import forecast_table
from forecast_platform.defs.partitions import OWNERS, weekly, weeks_of
from forecast_platform.defs.raw_sales import raw_sales
from forecast_platform.defs.resources import Platform, lake_connection
from forecast_platform.defs.stage import Stage
from forecast_platform.publishing.exports import READ, READ_SELECTED, Selection, write_exports
from forecast_platform.publishing.warehouse import write_week


@dg.asset(
    deps=[raw_sales, forecast_table],
    partitions_def=weekly,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    group_name="hand_over",
    kinds={"csv", "parquet"},
    owners=OWNERS,
    description=__doc__,
)
def exports(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> dg.MaterializeResult:
    stage, (week,) = Stage(context), weeks_of(context)
    found: dict[str, Any] = {}
    beside = platform.settings.home / "exports"  # the files of a million series have 4 GB
    beside.mkdir(parents=True, exist_ok=True)
    url, table = platform.settings.export_to.get_secret_value(), platform.settings.export_table
    read = READ_SELECTED if url else READ
    with tempfile.TemporaryDirectory(dir=beside) as folder, lake_connection(platform, duckdb, *read) as con:
        for name, path, rows in write_exports(con, week, Path(folder)):
            kind = path.suffix[1:]
            found |= {"rows": rows, kind: dg.MetadataValue.path(platform.cloud.keep(name, path))}
        if url:
            written = write_week(url, table, con, week, Selection(), Path(folder))
            found["database"] = f"{without_password(url)}, table {table}: {written}"
    return dg.MaterializeResult(metadata=stage.metadata(**found))
