"""The cloud of a laptop: folders below $FORECAST_HOME. See base.Cloud."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from forecast_platform.lake.lake import Lake
from forecast_platform.settings import Settings


class LocalCloud:
    """See base.Cloud."""

    beside: tuple[str, ...] = ("dagster-duckdb",)

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self._warehouse = settings.warehouse
        self.lake = Lake.local(settings.warehouse, settings.quantile_columns)

    def begun(self) -> bool:
        return (self._warehouse / "catalog.db").exists()

    def keep(self, name: str, data: bytes) -> str:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_name(f".{path.name}.{os.getpid()}")
        building.write_bytes(data)
        building.replace(path)
        return str(path)

    def kept(self, name: str) -> tuple[str, Path | None]:
        return str(self.home / name), self.home / name

    def query(self, sql: str) -> pa.Table:
        return self.lake.query(sql)

    def renew_views(self) -> list[str]:
        return []  # the lake has its views always
