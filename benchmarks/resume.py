"""A prediction that is killed again and again must end as one that nobody disturbed: python -m benchmarks.resume.

A made-up retailer (`retailers.py`) is imported, cleaned and forecast in many small shards, as in `benchmarks.scale`.
Then its predictions are removed and made again by processes that are killed (SIGKILL) at random moments, but for the
last one. Printed as JSON: whether every file of the predictions has the same bytes, how many shards each process found
finished, and what the disturbed prediction took beside the undisturbed one. The exit code is 1 where a byte differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import scale
from benchmarks.__main__ import ROOT, SCRATCH, machine
from benchmarks.retailers import Retailer
from forecast_platform.engines import capacity

SETTINGS = {"memory_gb": "1", "target": "sales", "hyperparameters": '{"epochs": "2"}'}


def _dying(after: float) -> scale.Start:
    """Starts a stage and kills it after so many seconds, unless it has ended by itself."""

    def start(order: str, environment: Mapping[str, str], log: Path) -> tuple[int, float, float]:
        command = [sys.executable, "-P", str(Path(scale.__file__).with_name("scale_stage.py")), order]
        with log.open("w") as sink:
            process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)  # noqa: S603 - our own
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait(), 0.0, 0.0

    return start


def _files(home: Path) -> dict[str, str]:
    """Name and SHA-256 of every file of the predictions of a home, by their own list."""
    (found,) = home.rglob("predictions.json")
    return {
        name: digest for shard in json.loads(found.read_text())["shards"] for name, digest in shard["files"].items()
    }


def resume(series: int, kills: int, seed: int, work: Path) -> dict[str, Any]:
    """What the module says."""
    stages = {stage.name: stage for stage in scale.STAGES}
    moments, finished = random.Random(seed), list[int]()  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory(dir=work) as folder:
        trial = scale.Trial(Retailer(series, scale.WEEKS + 1, seed), Path(folder), SETTINGS, scale.start)
        tree = scale.Tree.of("home", ROOT)
        home = trial.folder / tree.name
        trial.retailer.write(trial.folder / "history", range(trial.known_weeks))
        trial.land(home, "history")
        for name in (*capacity.HISTORY, capacity.TRAIN):
            trial.run(stages[name], tree)
        undisturbed = trial.run(stages[capacity.PREDICT], tree)
        expected = _files(home)
        (made,) = (path.parent for path in home.rglob("predictions.json"))
        shutil.rmtree(made)
        last = None
        for _ in range(kills):
            # From the end of its imports to the time the whole prediction takes.
            after = undisturbed["start_cpu_s"] + moments.uniform(0, undisturbed["wall_s"])
            try:
                replace(trial, start=_dying(after)).run(stages[capacity.PREDICT], tree)
                break  # nothing was left to be killed
            except RuntimeError:
                finished.append(len(list(home.rglob("*.building/shard-*.json"))))
            print(f"killed after {after:.1f} s, {finished[-1]} shards finished", file=sys.stderr, flush=True)
            if list(home.rglob("predictions.json")):
                break  # it went on, ended, and was killed in its checks
        else:
            last = trial.run(stages[capacity.PREDICT], tree)["cpu_s"]
        return {
            "series": series,
            "shards": undisturbed["said"]["shards"],
            "kills": len(finished),
            "finished_shards": finished,
            "same_bytes": _files(home) == expected,
            "undisturbed_cpu_s": undisturbed["cpu_s"],
            "last_cpu_s": last,
        }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument("--series", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the retailer and of the moments")
    parser.add_argument("--work", type=Path, default=SCRATCH, help="where there is room for files and a home")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    found = resume(options.series, options.kills, options.seed, options.work)
    print(json.dumps({**found, "machine": machine()}, indent=1))
    return 0 if found["same_bytes"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
