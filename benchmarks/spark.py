"""What Spark costs beside one process, in CPU seconds a series: python -m benchmarks.spark [series].

Walmart's 3,331 series, several times where more are asked for, are forecast in shards by a candidate that needs no
training: by one process, and by Spark's local-cluster with two executors, whose JVMs and Python workers count. Starting
sessions and compiling kernels does not count, nor a first prediction. What a task costs beside its work is the same for
shards of any size, so the ratio falls with the series of a shard.

Needs Java 17, the extra `spark` and FORECAST_WALMART_DIR; the result is printed as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import protocol
from benchmarks.__main__ import ROOT, machine
from forecast_platform.engines.base import Asked, Shard, predict_here, split
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.spark.cluster import Cluster
from forecast_platform.history.panel_file import save_panel
from forecast_platform.history.shards import Run
from forecast_platform.models.registry import plans
from forecast_platform.models.trained import TrainedModel
from forecast_platform.settings import Settings

SHARDS = 4
ASKED = Asked((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 100, 0)
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """CPU seconds of this process and all its descendants, those that have ended included."""
    parent, cpu = {}, {}
    for process_folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process_folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parent[int(process_folder.name)] = int(fields[1])
        cpu[int(process_folder.name)] = sum(map(int, fields[11:15])) / _TICKS
    ours, found = {os.getpid()}, 0
    while len(ours) > found:
        found = len(ours)
        ours |= {process for process, above in parent.items() if above in ours}
    return sum(cpu[process] for process in ours)


def measured(model: TrainedModel, shards: list[Shard], run: Run) -> dict[str, Any]:
    """CPU and wall seconds of a prediction, after a first one that does not count, and how often a shard was mapped."""
    tasks = 0

    def counting(work: Any, items: Any) -> Any:
        nonlocal tasks
        tasks += len(items)
        return run(work, items)

    for _ in range(2):
        tasks = 0
        with tempfile.TemporaryDirectory() as folder:
            before, since = cpu_seconds(), time.monotonic()
            made, _ = predict_here(model, shards, Path(folder) / "week", ASKED, run=counting)
            cpu, wall = cpu_seconds() - before, time.monotonic() - since
            files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made.folder.iterdir()}
            each = 1000 * cpu / made.series
    return {"cpu_ms_a_series": each, "wall_s": wall, "tasks": tasks, "files": files}


def main(series: int) -> None:
    if (sales := protocol.sales_file(protocol.sales_folder(ROOT))) is None:
        sys.exit("FORECAST_WALMART_DIR names no folder with the Walmart files")
    rows = protocol.read_sales(sales)
    times = -(-series // rows.groupby(["store", "dept"]).ngroups)
    panel = protocol.to_panel(pd.concat([rows.assign(store=rows["store"] + "-" * k) for k in range(times)]))
    panel = panel.select(np.arange(len(panel)) < series)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        some = panel.select(np.arange(len(panel)) % max(len(panel) // 100, 1) == 0)
        model = LocalEngine(home / "models").train(some, plans(Settings(target="pretrained")))
        shards = [save_panel(part, home / str(at)).parent for at, part in enumerate(split(panel, SHARDS))]
        here = measured(model, shards, map)
        spark = measured(model, shards, Cluster(Settings(engine="spark", spark_master="local-cluster[2,1,1024]")))
    same = here.pop("files") == spark.pop("files")
    ratio = spark["cpu_ms_a_series"] / here["cpu_ms_a_series"]
    a_task = (spark["cpu_ms_a_series"] - here["cpu_ms_a_series"]) * len(panel) / (1000 * spark["tasks"])
    result = {"series": len(panel), "shards": SHARDS, "here": here, "spark": spark, "ratio": ratio, "same_files": same}
    result |= {"cpu_s_a_task": a_task}
    print(json.dumps({**result, "machine": machine()}, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3_331)
