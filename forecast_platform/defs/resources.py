"""What the assets are given: the twins of one profile. The only place that chooses between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb
from dagster_duckdb import DuckDBResource

from forecast_platform.clouds.base import cloud_of, open_landing
from forecast_platform.engines.base import Engine
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.sagemaker import engine_of
from forecast_platform.engines.spark.cluster import SparkEngine
from forecast_platform.engines.spark.emr import EmrServerlessEngine
from forecast_platform.engines.workers import worker_count
from forecast_platform.landing.place import Landing
from forecast_platform.settings import Settings, get_settings


class Platform:
    """Everything outside an asset's own logic: settings, landing place, lake, engine. Nothing is opened before use."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cloud = cloud_of(settings)
        self.lake = self.cloud.lake
        self.engine = build_engine(settings)

    @property
    def landing(self) -> Landing:
        return open_landing(self.settings.landing)


def build_engine(settings: Settings) -> Engine:
    """Where DeepAR runs, by the settings."""
    if settings.engine_name == "local":
        return LocalEngine(settings.models, worker_count(settings.workers))
    if settings.engine_name == "spark":
        if settings.spark_application:
            return EmrServerlessEngine(settings, worker_count(settings.workers))
        return SparkEngine(settings)
    return engine_of(settings)


def build_resources() -> dict[str, object]:
    return {"platform": Platform(get_settings()), "duckdb": DuckDBResource(database=":memory:")}


@contextlib.contextmanager
def lake_connection(platform: Platform, resource: DuckDBResource, *names: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB over these tables and views of the lake as they are now, or over all of it; it holds no lock,
    so a query never waits for a pipeline."""
    with resource.get_connection() as con:
        yield platform.lake.attach(con, *names)
