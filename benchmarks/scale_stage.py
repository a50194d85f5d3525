"""One stage of the weekly run in a process of its own, for `benchmarks.scale`: `python -P scale_stage.py JSON`.

It imports nothing but forecast_platform, from wherever PYTHONPATH says, so that the same stage runs on other versions
of the code. What it writes: the seconds of its work without those of starting the program, and what the asset said.
"""

from __future__ import annotations

import atexit
import importlib
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

READS = 20  # series read, after the first
# What stages import when they first need it: a run of all of them pays for it once, and here it comes before the clock.
_LATE = ("torch", "scipy.stats", "scipy.signal", "matplotlib.figure", "pyiceberg.table", "holidays", "numba")


def main() -> None:
    order, said = json.loads(sys.argv[1]), dict[str, Any]()
    # Registered first, it is called last: when workers have ended, which counts, and before all that was imported is
    # taken down, which takes seconds.
    atexit.register(_write, Path(order["out"]), said)
    import forecast_platform

    tree = Path(forecast_platform.__file__).parents[1]
    if not tree.samefile(order["tree"]):
        raise RuntimeError(f"forecast_platform is of {tree}, not of {order['tree']}")
    for name in _LATE:
        importlib.import_module(name)
    said |= _read(order) if order["asset"] is None else _materialize(order)
    _write(Path(order["out"]), said)


def _write(out: Path, said: dict[str, Any]) -> None:
    if said:
        out.write_text(json.dumps({**said, "own_cpu_s": _cpu_s(), "own_peak_mb": _own_peak_mb()}))


def _materialize(order: dict[str, Any]) -> dict[str, Any]:
    """An asset of a week, or of the weeks first .. last, with its checks, in the job it belongs to."""
    import dagster as dg

    from forecast_platform.runner import Runner

    with Runner() as runner:
        job = runner.defs.resolve_job_def(order["job"])
        runner.platform.lake.read("landings")  # the lake is made before the clock starts
        first, last = order["weeks"]
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        start_cpu_s, began = _cpu_s(), time.perf_counter()
        result = job.execute_in_process(
            instance=runner.instance,
            partition_key=first if first == last else None,
            tags=tags if first != last else {},
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            asset_selection=[dg.AssetKey(order["asset"])],
        )
        wall_s = time.perf_counter() - began
    found: dict[str, Any] = {}
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            error = failure.error
            while error and error.cause:
                error = error.cause
            told = failure.user_failure_data.description if failure.user_failure_data else error and error.message
            raise RuntimeError(f"{order['asset']}: {' '.join((told or 'failed').split())}")
        if event.is_step_materialization:
            of = event.step_materialization_data.materialization
            if of.asset_key.to_user_string() == order["asset"]:
                found |= {name: value.value for name, value in of.metadata.items()}
    if not result.success:
        raise RuntimeError(f"{order['asset']} did not succeed")
    kept = {name: value for name, value in found.items() if name in order["keep"]}
    return {"wall_s": wall_s, "start_cpu_s": start_cpu_s, "said": kept}


def _read(order: dict[str, Any]) -> dict[str, Any]:
    """Forecasts of one series after another, by the Python surface: seconds and bytes read, the first apart."""
    import forecast_platform

    home = forecast_platform.open()
    (week, _), start_cpu_s, began = order["weeks"], _cpu_s(), time.perf_counter()
    seconds, cpu_seconds, sizes, rows = [], [], [], []
    for store, dept in order["series"][: 1 + READS]:
        before, since, worked = _bytes_read(), time.perf_counter(), time.process_time()
        rows.append(len(home.forecasts(week, store=store, dept=dept)))
        seconds.append(time.perf_counter() - since)
        cpu_seconds.append(time.process_time() - worked)
        sizes.append(_bytes_read() - before)
    wall_s = time.perf_counter() - began
    said = {"first_ms": 1e3 * seconds[0], "ms": 1e3 * statistics.median(seconds[1:]), "rows": rows}
    said |= {"cpu_ms": 1e3 * statistics.median(cpu_seconds[1:])}
    said |= {"first_mb": sizes[0] / 1e6, "mb": statistics.median(sizes[1:]) / 1e6}
    return {"wall_s": wall_s, "start_cpu_s": start_cpu_s, "said": said}


def _cpu_s() -> float:
    """Of this process and the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _own_peak_mb() -> float:
    # Not by getrusage: on Linux a child starts from its parent's peak.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # macOS counts bytes


def _bytes_read() -> int:
    """Asked of the system by this process so far, also from its cache; 0 where that is not counted."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return 0
    return int(next(line.split()[1] for line in counts.read_text().splitlines() if line.startswith("rchar")))


if __name__ == "__main__":
    main()
