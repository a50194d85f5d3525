"""One asset's work as people see it: progress while it runs, seconds and memory when it is done."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import pyarrow as pa

from forecast_platform.engines.base import Engine

# Dagster keeps the local variables of the first caller for ever. Here there are none. In an asset that would be a
# database connection, still open when the process ends.
dg.MarkdownMetadataValue("")

# Where progress is shown besides the run's log. The command line sets it for runs in its own process.
_show: Callable[[str, int, int], None] | None = None


def show_progress(show: Callable[[str, int, int], None] | None) -> None:
    """Call `show(what, done, total)` as the assets of this process make progress; (asset, 0, 0) when one starts."""
    global _show
    _show = show


class Stage:
    """Wall and CPU seconds and peak memory of one asset's work, and its progress."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._log = context.log
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._tenths: dict[str, int] = {}
        if _show:
            _show(context.asset_key.to_user_string(), 0, 0)

    def progress(self, what: str, done: int, total: int) -> None:
        """A log line for every tenth of the work."""
        tenth = done * 10 // total
        if self._tenths.get(what) != tenth:
            self._tenths[what] = tenth
            self._log.info(f"{what}: {done} of {total}")
        if _show:
            _show(what, done, total)

    @staticmethod
    def receipt(engine: Engine) -> dict[str, Any]:
        """What an engine's work has cost since the last receipt, with links."""
        return {
            name: dg.MetadataValue.md(", ".join(f"[{text}]({url})" for text, url in value.items()))
            if isinstance(value, dict)
            else value
            for name, value in engine.receipt().items()
        }

    def elapsed(self) -> tuple[float, float]:
        """Wall and CPU seconds so far."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def metadata(self, schema: pa.Schema | None = None, **more: Any) -> dict[str, Any]:
        """`more` with the costs of the work, and the table's columns where there is a table."""
        wall, cpu = self.elapsed()
        unit = 1024 * 1024 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        columns = (
            {}
            if schema is None
            else {
                "dagster/column_schema": dg.TableSchema(
                    columns=[
                        dg.TableColumn(f.name, str(f.type), (f.metadata or {}).get(b"doc", b"").decode())
                        for f in schema
                    ]
                )
            }
        )
        return {
            **more,
            "seconds": round(wall, 2),
            "cpu_seconds": round(cpu, 2),
            "process_peak_mb": round(peak),
            **columns,
        }
