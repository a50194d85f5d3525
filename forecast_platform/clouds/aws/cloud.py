"""AWS: Iceberg tables in Glue, files in S3, SQL in Athena. See clouds/base.py, Cloud."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from forecast_platform.clouds.aws import doctor, metrics
from forecast_platform.clouds.aws.athena import Athena, create_views
from forecast_platform.clouds.aws.glue import glue_lake
from forecast_platform.clouds.aws.storage import Storage
from forecast_platform.lake.tables import SPILL
from forecast_platform.settings import Settings


class AwsCloud:
    """See clouds/base.py, Cloud."""

    beside: tuple[str, ...] = ("dagster-duckdb", "dagster-aws")
    monitored = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url, self.database, self._workgroup = settings.storage_url, settings.database, settings.workgroup
        self.lake = glue_lake(
            f"{self._url.rstrip('/')}/lake",
            self.database,
            settings.quantile_columns,
            settings.memory_gb / 2,
            settings.warehouse / SPILL,
        )

    def hold(self) -> None:
        return None  # writers are kept apart by Glue's commits

    def checks(self) -> dict[str, Callable[[], str]]:
        return doctor.checks(self._settings)

    def begun(self) -> bool:
        return True  # the stack made it

    def keep(self, name: str, data: bytes | Path) -> str:
        storage = Storage(self._url)
        if isinstance(data, Path):
            storage.put_file(data, name)
        else:
            storage.put_bytes(name, data)
        return storage.uri(name)

    def kept(self, name: str) -> tuple[str, Path | None]:
        return f"{self._url.rstrip('/')}/{name}", None

    def query(self, sql: str) -> pa.Table:
        return Athena(self._workgroup, self.database).query(sql)

    def report(self, measures: Mapping[str, float]) -> bool:
        return metrics.put(self._settings.job_prefix, measures)

    def renew_views(self) -> list[str]:
        return list(create_views(Athena(self._workgroup, self.database), self.lake))
