"""The cloud of a laptop: folders below $FORECAST_HOME. See base.Cloud."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from forecast_platform.lake.guard import check, hold
from forecast_platform.lake.lake import Lake
from forecast_platform.landing.place import Landing
from forecast_platform.settings import Settings


class LocalCloud:
    """See base.Cloud.

    Args:
        open_landing: opens the landing place at an address, which may be of another cloud.
    """

    beside: tuple[str, ...] = ("dagster-duckdb",)
    monitored = False

    def __init__(self, settings: Settings, open_landing: Callable[[str], Landing]) -> None:
        self.home, self._open_landing = settings.home, open_landing
        self._warehouse, self._landing = settings.warehouse, settings.landing
        self.lake = Lake.local(settings.warehouse, settings.quantile_columns, settings.memory_gb / 2)

    def hold(self) -> IO[Any]:
        check(self._warehouse)
        self._warehouse.mkdir(parents=True, exist_ok=True)
        return hold(self._warehouse)

    def checks(self) -> dict[str, Callable[[], str]]:
        return {"landing": self._check_landing, "lake": self._check_lake}

    def _check_landing(self) -> str:
        return f"{self._landing}: {len(self._open_landing(self._landing).list())} files"

    def _check_lake(self) -> str:
        rows = self.lake.query(
            "SELECT (SELECT count(*) FROM raw_sales), (SELECT max(week) FROM cleaned_series), "
            "(SELECT max(forecast_week) FROM forecasts)"
        )
        count, week, forecast = (column[0].as_py() for column in rows.columns)
        return f"{self._warehouse}: {count:,} raw rows, newest week {week}, newest forecast {forecast}"

    def begun(self) -> bool:
        return (self._warehouse / "catalog.db").exists()

    def keep(self, name: str, data: bytes | Path) -> str:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_name(f".{path.name}.{os.getpid()}")
        if isinstance(data, Path):
            shutil.copyfile(data, building)
        else:
            building.write_bytes(data)
        building.replace(path)
        return str(path)

    def kept(self, name: str) -> tuple[str, Path | None]:
        return str(self.home / name), self.home / name

    def query(self, sql: str) -> pa.Table:
        return self.lake.query(sql)

    def report(self, measures: Mapping[str, float]) -> bool:
        return False

    def renew_views(self) -> list[str]:
        return []  # the lake has its views always
