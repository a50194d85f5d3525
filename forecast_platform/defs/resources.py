"""What the assets are given: the twins of one profile. The only place that chooses between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb
from dagster_duckdb import DuckDBResource

from forecast_platform.engine import Engine, LocalEngine
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.store import Landing, open_landing
from forecast_platform.settings import Settings, get_settings


class Platform:
    """Everything outside an asset's own logic: settings, landing place, lake, engine. Nothing is opened before use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = Lake.local(settings.warehouse, settings.quantile_columns)
        self.engine: Engine = LocalEngine(settings.models)

    @property
    def landing(self) -> Landing:
        return open_landing(self.settings.landing)


def build_resources() -> dict[str, object]:
    return {"platform": Platform(get_settings()), "duckdb": DuckDBResource(database=":memory:")}


@contextlib.contextmanager
def lake_connection(platform: Platform, resource: DuckDBResource) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB over the lake as it is now; it holds no lock, so a query never waits for a pipeline."""
    with resource.get_connection() as con:
        yield platform.lake.attach(con)
