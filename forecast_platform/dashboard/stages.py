"""What each stage of the latest runs took and cost, from Dagster's own record; empty where there is none."""

from __future__ import annotations

import datetime as dt
import functools
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ASSETS = (
    "raw_sales",
    "cleaned_series",
    "deepar_model",
    "batch_predictions",
    "forecast_table",
    "forecast_accuracy",
    "exports",
    "weekly_report",
)


@dataclass
class StagedRun:
    """One run: the week it was for, when it ended, seconds by asset, USD paid for SageMaker (None: nothing billed)."""

    run_id: str
    week: str
    ended_at: dt.datetime
    seconds: dict[str, float] = field(default_factory=dict)
    usd: float | None = None

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class Stages:
    """Reads a Dagster instance, and only reads.

    Args:
        dagster_home: where its dagster.yaml lies; the environment's DAGSTER_HOME goes before it.
    """

    def __init__(self, dagster_home: Path) -> None:
        self._home = Path(os.environ.get("DAGSTER_HOME") or dagster_home)
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Open Dagster now, in a thread of its own: its import takes seconds that no page should wait for."""
        threading.Thread(target=lambda: self._instance, daemon=True).start()

    @functools.cached_property
    def _instance(self) -> Any:
        if not (self._home / "dagster.yaml").exists():
            return None
        import dagster as dg

        return dg.DagsterInstance.from_config(str(self._home))

    def recent(self, limit: int = 15) -> list[StagedRun]:
        """The latest runs that materialized something of one week, newest first."""
        with self._lock:
            instance = self._instance
            if instance is None:
                return []
            import dagster as dg

            runs: dict[str, StagedRun] = {}
            for asset in ASSETS:
                for record in instance.fetch_materializations(dg.AssetKey(asset), limit=limit).records:
                    materialization, moment = (
                        record.asset_materialization,
                        dt.datetime.fromtimestamp(record.timestamp, dt.UTC),
                    )
                    numbers = {
                        name: value.value
                        for name, value in (materialization.metadata if materialization else {}).items()
                    }
                    if not isinstance(numbers.get("seconds"), int | float):
                        continue
                    run = runs.setdefault(record.run_id, StagedRun(record.run_id, record.partition_key or "", moment))
                    run.seconds[asset] = float(numbers["seconds"])
                    run.ended_at = max(run.ended_at, moment)
                    if isinstance(numbers.get("cost_usd"), int | float):
                        run.usd = (run.usd or 0.0) + float(numbers["cost_usd"])
        whole = [run for run in runs.values() if "forecast_table" in run.seconds]
        return sorted(whole, key=lambda run: run.ended_at, reverse=True)[:limit]

    def close(self) -> None:
        """Let go of Dagster's storage."""
        if self.__dict__.get("_instance") is not None:
            self._instance.dispose()
