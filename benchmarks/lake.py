"""What reading costs in the lake of a large retailer: made-up forecasts of a million series are written as blocks, and
then a series, a store, all departments and the totals are read.

    python -m benchmarks.lake            # 12 million rows, about 700 MB below the temporary folder
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forecast_platform.lake.lake import Lake
from forecast_platform.weeks import WEEK

QUANTILES = tuple(f"p{q}" for q in range(10, 100, 10))
WEEKS, DEPARTMENTS, BLOCK = 12, 80, 4_000  # series of a block
CUTOFF = dt.date(2024, 1, 5)


def reading(folder: Path, series: int = 1_000_000) -> dict[str, dict[str, float]]:
    """Write the forecasts of so many series, 12 weeks each, and read them as people do.

    Args:
        folder: for the lake; empty.

    Returns:
        What was done -> seconds (wall), cpu_seconds, rows and megabytes_read. Each reading has a new connection, so its
        megabytes hold the files' footers too.
    """
    lake = Lake.local(folder, QUANTILES)
    lake.table("forecasts")
    store = f"{series // DEPARTMENTS // 2:05d}"
    one = {"level": ["series"], "store": [store], "dept": ["040"]}
    found = {
        "write": _timed(lambda: lake.replace_weeks("forecasts", [CUTOFF], _made(lake, series)) and series * WEEKS),
        "one series": _asked(lake, "SELECT * FROM forecasts WHERE level = ? AND store = ? AND dept = ?", one),
        "one store": _asked(
            lake,
            "SELECT target_week, sum(p50) FROM forecasts WHERE level = ? AND store = ? GROUP BY target_week",
            {"level": ["series"], "store": [store]},
        ),
        "totals": _asked(lake, "SELECT * FROM forecasts WHERE level = ?", {"level": ["total"]}),
        "all departments": _asked(
            lake,
            "SELECT dept, target_week, sum(p50) FROM forecasts WHERE level = ? GROUP BY ALL",
            {"level": ["series"]},
        ),
    }
    assert (found["one series"]["rows"], found["totals"]["rows"]) == (WEEKS, WEEKS), found
    return found


def _asked(lake: Lake, sql: str, only: dict[str, Sequence[str]]) -> dict[str, float]:
    def ask() -> int:
        with lake.connection("forecasts", only=only) as con:
            return len(con.execute(sql, [value for (value,) in only.values()]).fetchall())

    ask()  # imports at first use are not timed
    return _timed(ask)


def _timed(work: Callable[[], int]) -> dict[str, float]:
    read, cpu, wall = _bytes_read(), time.process_time(), time.perf_counter()
    rows = work()
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - wall, 4),
        "cpu_seconds": round(time.process_time() - cpu, 4),
        "megabytes_read": round((_bytes_read() - read) / 1e6, 3),
    }


def _bytes_read() -> int:
    """What this process has read so far, from disk or the system's cache of it (Linux only)."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def _made(lake: Lake, series: int) -> Iterator[pa.Table]:
    """Rows of all series, block by block, then of the stores, then of the total."""
    schema, stores = lake.specs["forecasts"].schema, max(series // DEPARTMENTS, 1)
    keys = [(f"{at // DEPARTMENTS:05d}", f"{at % DEPARTMENTS:03d}") for at in range(min(series, BLOCK))]
    assert len(keys) % DEPARTMENTS == 0 or series < BLOCK, "a block ends with a store"
    for start in range(0, series, BLOCK):
        size = min(BLOCK, series - start)
        of = [(f"{start // DEPARTMENTS + int(store):05d}", dept) for store, dept in keys[:size]]
        yield _rows(schema, "series", of, seed=start)
    yield _rows(schema, "store", [(f"{at:05d}", None) for at in range(stores)], seed=1)
    yield _rows(schema, "total", [(None, None)], seed=2)


def _rows(schema: pa.Schema, level: str, of: Sequence[tuple[str | None, str | None]], seed: int) -> pa.Table:
    size, random = len(of) * WEEKS, np.random.default_rng(seed)
    least = random.gamma(2.0, 50.0, size)
    values: dict[str, Any] = {
        "forecast_week": CUTOFF,
        "level": level,
        "store": pa.array([store for store, _ in of for _ in range(WEEKS)], pa.string()),
        "dept": pa.array([dept for _, dept in of for _ in range(WEEKS)], pa.string()),
        "target_week": pa.array([CUTOFF + h * WEEK for h in range(1, WEEKS + 1)] * len(of)),
        "horizon": pa.array(list(range(1, WEEKS + 1)) * len(of), pa.int32()),
        "mean": pa.array(least * 1.6),
        "model_version": "made-up",
        "as_known": "now",
        "run_id": "benchmark",
        "created_at": dt.datetime(2024, 1, 5, tzinfo=dt.UTC),
        **{name: pa.array(least * (1 + 0.1 * at)) for at, name in enumerate(QUANTILES)},
    }
    columns = [
        values[f.name]
        if isinstance(values.get(f.name), pa.Array)
        else pa.repeat(pa.scalar(values.get(f.name), f.type), size)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        json.dump(reading(Path(place), *map(int, sys.argv[1:])), sys.stdout, indent=2)
