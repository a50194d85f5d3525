"""The lineage of columns names columns that exist, and leaves out only what comes from no column."""

from __future__ import annotations

import pytest

from forecast_platform.defs.column_lineage import SOURCES, column_lineage
from forecast_platform.lake.tables import PROVENANCE, table_specs

COLUMNS = ("p10", "p50", "p90")
TABLES = {"deepar_model": "models", "forecast_table": "forecasts"}
# Of the run or the settings, counted, or of files that are no asset: they come from no column of another table.
OF_NO_COLUMN = {
    "cleaned_series": set(),
    "deepar_model": {"week", "as_known", "hyperparameters"},
    "forecast_table": {"level", "member", "horizon", "as_known"},
    "forecast_accuracy": set(),
}


def columns_of(asset: str) -> set[str]:
    return set(table_specs(COLUMNS)[TABLES.get(asset, asset)].schema.names)


@pytest.mark.parametrize("asset", SOURCES)
def test_every_column_has_its_sources(asset: str) -> None:
    found = column_lineage(asset, COLUMNS)["dagster/column_lineage"].deps_by_column
    assert set(found) == columns_of(asset) - set(PROVENANCE) - OF_NO_COLUMN[asset]
    for sources in found.values():
        assert sources
        for source in sources:
            assert source.column_name in columns_of(source.asset_key.to_user_string())
