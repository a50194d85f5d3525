"""What the weekly run costs by size, per stage: python -m benchmarks.scale --series 10000 33000 [--old TREE] [--quick].

A made-up retailer (`retailers.py`) lands as Parquet. Then each stage runs through Dagster's graph in a process of its
own (`scale_stage.py`), whose seconds, memory and disk are measured. With --old another checkout runs the same stages in
turns, so that both meet the faster and slower hours of the machine. Results: benchmarks/results/scale/SERIES.json, one
for each size; the page is docs/throughput.md; --rates writes the rates that `forecast plan` computes with.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scale_report
from benchmarks.__main__ import ROOT, SCRATCH, commit, machine
from benchmarks.retailers import DEPTS, Retailer
from benchmarks.scale_stage import READS
from forecast_platform.engines import capacity
from forecast_platform.settings import home

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "scale", ROOT / "docs" / "throughput.md"
SIZES, QUICK_SIZES = (10_000, 33_000), (300,)
WEEKS, QUICK_WEEKS = 143, 60
# Very short training, to see that everything runs.
QUICK = {
    "target": "sales",
    "hyperparameters": '{"epochs": "1", "num_cells": "8", "num_networks": "1"}',
    "context_length": "4",
    "prediction_length": "4",
}
LIBRARIES = ("dagster", "duckdb", "numpy", "pyarrow", "pyiceberg", "torch")
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")


# (order for scale_stage.py, environment, log) -> see `watched`.
Start = Callable[[str, Mapping[str, str], Path], tuple[int, float, float]]


@dataclass(frozen=True)
class Stage:
    """A stage: an asset is materialized; without an asset, series are read.

    Attributes:
        name: one of capacity.py's names.
        weeks: "history": all its weeks; "last": the last of them; "next": the week after it, whose file lands first.
        keep: names of the asset's metadata to keep in the results.
    """

    name: str
    asset: str | None
    job: str
    weeks: str
    keep: tuple[str, ...] = ()


_LANDED = ("files", "rows_accepted", "rows_quarantined")
_MODEL = ("version", "target", "weights", "network_share", "series", "training_windows", "verdict")
_FORECAST = ("series", "without_forecast", "shards", "sample_paths")
_INGEST, _WEEKLY = "ingest_history", "weekly_forecast"
STAGES = (
    Stage(capacity.IMPORT_HISTORY, "raw_sales", _INGEST, "last", _LANDED),
    Stage(capacity.CLEAN_HISTORY, "cleaned_series", _INGEST, "history", ("rows", "weeks")),
    Stage(capacity.TRAIN, "deepar_model", _WEEKLY, "last", _MODEL),
    Stage(capacity.FIND_MODEL, "deepar_model", _WEEKLY, "last", _MODEL),
    Stage(capacity.PREDICT, "batch_predictions", _WEEKLY, "last", _FORECAST),
    Stage(capacity.PUBLISH, "forecast_table", _WEEKLY, "last", ("rows", "series", "without_forecast")),
    Stage(capacity.REPORT, "weekly_report", _WEEKLY, "last"),
    Stage(scale_report.EXPORTS, "exports", _WEEKLY, "last", ("rows",)),
    Stage(capacity.IMPORT_WEEK, "raw_sales", _INGEST, "next", _LANDED),
    Stage(capacity.CLEAN_WEEK, "cleaned_series", _INGEST, "next", ("rows", "weeks")),
    Stage(capacity.SCORE_WEEK, "forecast_accuracy", _INGEST, "next", ("rows",)),
    Stage(scale_report.READ, None, "", "last"),
)


@dataclass
class Tree:
    """A checkout, and what was measured with it at one size."""

    name: str
    path: Path
    commit: str
    known: frozenset[str]  # its settings
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: str = ""

    @classmethod
    def of(cls, name: str, path: Path) -> Tree:
        """The checkout at a path.

        Raises:
            RuntimeError: there is no forecast_platform.
        """
        code = "from forecast_platform.settings import Settings; print(*Settings.model_fields)"
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-P", "-c", code], env=environment_of(path, {}), capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{path} is no checkout of forecast_platform: {done.stderr.strip()[-300:]}")
        return cls(name, path, commit(path), frozenset(done.stdout.split()))

    def has(self, stage: Stage) -> bool:
        """Whether it knows the stage's asset, each of which has a file of its name; an older one may not."""
        return stage.asset is None or (self.path / "forecast_platform" / "defs" / f"{stage.asset}.py").exists()


@dataclass(frozen=True)
class Trial:
    """A retailer of one size, landed in each tree's home.

    Attributes:
        folder: holds the files and the homes.
        settings: of the homes; a tree is given those that it knows.
        start: runs a stage's program; see `watched`.
    """

    retailer: Retailer
    folder: Path
    settings: Mapping[str, str]
    start: Start

    @property
    def known_weeks(self) -> int:
        return self.retailer.weeks - 1

    def land(self, home: Path, what: str) -> None:
        """Put the retailer's files ("history" or "next") where a home's files land."""
        landing = home / "landing" / "sales"
        landing.mkdir(parents=True, exist_ok=True)
        for file in sorted((self.folder / what).iterdir()):
            shutil.copyfile(file, landing / file.name)
        time.sleep(1.1)  # a folder leaves a file alone until it stops changing

    def run(self, stage: Stage, tree: Tree) -> dict[str, Any]:
        """Seconds, memory and disk of a stage, and what its asset reported.

        Raises:
            RuntimeError: it failed.
        """
        home, out = self.folder / tree.name, self.folder / f"{tree.name}.json"
        week = {"last": self.known_weeks - 1, "next": self.known_weeks}.get(stage.weeks)
        weeks = (0, self.known_weeks - 1) if week is None else (week, week)
        order = {
            "tree": str(tree.path),
            "asset": stage.asset,
            "job": stage.job,
            "weeks": [str(self.retailer.week(number)) for number in weeks],
            "keep": stage.keep,
            "series": self._some_series() if stage.asset is None else [],
            "out": str(out),
        }
        given = {f"FORECAST_{k.upper()}": v for k, v in self.settings.items() if k in tree.known}
        before, log = _size(home), self.folder / f"{tree.name}.{stage.name}.log"
        environment = environment_of(tree.path, given | {"FORECAST_HOME": str(home)})
        code, left_cpu_s, peak_mb = self.start(json.dumps(order), environment, log)
        if code:
            lines = log.read_text().strip().splitlines()
            raise RuntimeError(f"{stage.name}: exit {code}: {lines[-1] if lines else 'nothing said'}")
        found = json.loads(out.read_text())
        out.unlink()
        return {
            "wall_s": found["wall_s"],
            "cpu_s": found["own_cpu_s"] + left_cpu_s - found["start_cpu_s"],
            "start_cpu_s": found["start_cpu_s"],
            "peak_mb": max(peak_mb, found["own_peak_mb"]),
            "disk_mb": (_size(home) - before) / 1e6,
            "load": os.getloadavg()[0],
            "said": found["said"],
        }

    def _some_series(self) -> list[tuple[str, str]]:
        """Store and department of some series that were sold in each of the last weeks."""
        rng, found = np.random.default_rng(self.retailer.seed), []
        while len(found) < 1 + READS:
            number = int(rng.integers(self.retailer.series))
            if (self.retailer.sales(number, number + 1)[0, -20:] > 0).all():
                found.append((str(number // DEPTS + 1), str(number % DEPTS + 1)))
        return found


def measure(trial: Trial, trees: Sequence[Tree], keep: Path, about: dict[str, Any]) -> None:
    """Run all stages, each by all trees in turn, and write the results as JSON after each."""
    retailer, known = trial.retailer, trial.known_weeks
    began = time.process_time()
    written = {
        "history": retailer.write(trial.folder / "history", range(known)),
        "next": retailer.write(trial.folder / "next", range(known, known + 1)),
    }
    about |= {"rows": written["history"], "made_up_cpu_s": round(time.process_time() - began, 1)}
    for tree in trees:
        tree.stages, tree.failed = {}, ""
        trial.land(trial.folder / tree.name, "history")
    for stage in STAGES:
        for tree in trees:
            if tree.failed or not tree.has(stage):
                continue
            if stage.name == capacity.IMPORT_WEEK:
                trial.land(trial.folder / tree.name, "next")
            try:
                found = trial.run(stage, tree)
                published = tree.stages.get(capacity.PUBLISH, {"said": {"rows": 0}})["said"]["rows"]
                check(stage, found["said"], written | {"published": published}, retailer.series)
                tree.stages[stage.name] = found
                print(f"{retailer.series:>9,} {tree.name:4} {stage.name:15} {_line(found)}", flush=True)
            except RuntimeError as error:
                tree.failed = str(error)
                print(f"{retailer.series:>9,} {tree.name:4} {stage.name:15} failed: {error}", flush=True)
            kept = {t.name: {"commit": t.commit, "stages": t.stages, "failed": t.failed} for t in trees}
            keep.write_text(json.dumps({"about": about, "trees": kept}, indent=1) + "\n")


def check(stage: Stage, said: Mapping[str, Any], written: Mapping[str, int], series: int) -> None:
    """Check that a stage did all of its work, or its seconds would mean nothing.

    Args:
        said: what its asset reported.
        written: rows of the files of the history, and of the next week; and those published.

    Raises:
        RuntimeError: it did not work on all of it.
    """
    if stage.asset == "raw_sales":
        rows = written["history" if stage.weeks == "last" else "next"]
        if (said["rows_accepted"], said["rows_quarantined"]) != (rows, 0):
            raise RuntimeError(f"{said} of {rows:,} rows landed")
    elif stage.name in (capacity.PREDICT, capacity.PUBLISH):
        if said["series"] + said["without_forecast"] != series:
            raise RuntimeError(f"{said} of {series:,} series")
    elif stage.name == scale_report.EXPORTS:
        if said["rows"] != written["published"]:
            raise RuntimeError(f"{said} of {written['published']:,} rows published")
    elif stage.asset is None and min(said["rows"]) == 0:
        raise RuntimeError("series that are sold have no forecast")


def start(order: str, environment: Mapping[str, str], log: Path) -> tuple[int, float, float]:
    """Run a stage in a process of its own. See `watched`."""
    return watched([sys.executable, "-P", str(Path(__file__).with_name("scale_stage.py")), order], environment, log)


def watched(command: Sequence[str], environment: Mapping[str, str], log: Path) -> tuple[int, float, float]:
    """Run a program to its end.

    Returns:
        Its exit code; the CPU seconds of processes that outlived it, which it cannot know itself; and the peak of the
        memory of it and its children together, in MB, by sampling; 0 if it had no children.
    """
    _adopt_orphans(True)
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)  # noqa: S603 - our own
    peak, seen = 0.0, set[int]()
    try:
        while True:
            ended, status = os.waitpid(process.pid, os.WNOHANG)
            if ended:
                break
            began = time.process_time()
            pids = _family(process.pid)
            seen.update(pids[1:])
            peak = max(peak, _shared_out_mb(pids) if len(pids) > 1 else 0)  # a single process measures its own peak
            time.sleep(max(0.1, 20 * (time.process_time() - began)))  # a sample of much memory costs something
    except BaseException:
        process.kill()
        raise
    finally:
        # Twice, because a process that ends leaves its own children to this one.
        left_cpu_s = sum(_end(pid) for _ in range(2) for pid in sorted(seen))
        _adopt_orphans(False)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, left_cpu_s, peak


def _adopt_orphans(adopt: bool) -> None:
    """Whether orphans of this process's children become its own children, so that it learns their CPU seconds. One is
    the fork server, which ends after the program that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, int(adopt), 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _end(pid: int) -> float:
    """CPU seconds of a child that is about to end, and of its children; 0 where another process has collected them."""
    with contextlib.suppress(ChildProcessError):
        for _ in range(100):
            ended, _, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                return usage.ru_utime + usage.ru_stime
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, _, usage = os.wait4(pid, 0)
        return usage.ru_utime + usage.ru_stime
    return 0.0


def _family(root: int) -> list[int]:
    """A process and all running processes that it has started, directly or not (Linux only)."""
    pids = [root]
    for pid in pids:  # grows
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids += map(int, children.read_text().split())
    return pids


def _shared_out_mb(pids: Sequence[int]) -> float:
    """Memory of processes in MB, with pages that they share counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def _size(home: Path) -> int:
    """Bytes of a home without its landing folder."""
    folders = [folder for folder in home.iterdir() if folder.name != "landing"]
    files = [file for folder in folders for file in (folder.rglob("*") if folder.is_dir() else [folder])]
    return sum(file.stat().st_size for file in files if file.is_file())


def environment_of(tree: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The environment for a tree's code, with these settings and no others; numpy and torch on one thread, as in
    `make`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FORECAST_", "DAGSTER_"))}
    clean |= {f"{name}_NUM_THREADS": "1" for name in _THREADS}
    return clean | {"PYTHONPATH": str(tree), "TQDM_DISABLE": "1", **given}


def _line(found: Mapping[str, Any]) -> str:
    figures = f"{found['wall_s']:9.1f} s {found['cpu_s']:9.1f} CPU s {found['peak_mb']:9.0f} MB"
    return f"{figures} {found['disk_mb']:9.1f} MB on disk"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in LIBRARIES}


def _pair(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given:
        raise argparse.ArgumentTypeError(f"{text!r} should read NAME=VALUE")
    return name.lower(), value


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", help=f"sizes; default: {SIZES}")
    parser.add_argument("--weeks", type=int, help=f"of history; default: {WEEKS}")
    parser.add_argument("--old", type=Path, metavar="TREE", help="another checkout, measured beside this one")
    parser.add_argument(
        "--set", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="a setting; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the retailers")
    parser.add_argument("--quick", action="store_true", help="a few hundred series and a moment of training: a try")
    parser.add_argument("--kept", action="store_true", help="measure nothing: page and rates of what was kept")
    parser.add_argument(
        "--rates",
        nargs="?",
        type=Path,
        const=home() / capacity.RATES,
        metavar="FILE",
        help="write what forecast plan reckons with, of this machine; default FILE: the home's",
    )
    parser.add_argument("--work", type=Path, default=SCRATCH, help="where there is room for files and homes")
    options = parser.parse_args(arguments)
    results = SCRATCH / "quick" / "scale" if options.quick else RESULTS
    page = SCRATCH / "quick" / "throughput.md" if options.quick else PAGE
    for folder in (results, options.work, page.parent / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    failed = False
    if not options.kept:
        trees = [Tree.of("new", ROOT), *([Tree.of("old", options.old.resolve())] if options.old else [])]
        settings = dict(options.set) if not options.quick else {**QUICK, **dict(options.set)}
        if lacking := sorted(settings.keys() - trees[0].known):
            parser.error(f"no such setting: {', '.join(lacking)}")
        weeks = options.weeks or (QUICK_WEEKS if options.quick else WEEKS)
        for series in options.series or (QUICK_SIZES if options.quick else SIZES):
            about = {**machine(), "date": str(dt.datetime.now(dt.UTC).date()), "versions": _versions()}
            about |= {"series": series, "weeks": weeks, "seed": options.seed, "settings": settings}
            with tempfile.TemporaryDirectory(dir=options.work) as folder:
                trial = Trial(Retailer(series, weeks + 1, options.seed), Path(folder), settings, start)
                measure(trial, trees, results / f"{series}.json", about)
            failed = failed or any(tree.failed for tree in trees)
    scale_report.write(results, page)
    if options.rates:
        try:
            rates = scale_report.rates(results, machine())
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        options.rates.parent.mkdir(parents=True, exist_ok=True)
        options.rates.write_text(json.dumps(rates) + "\n")
        print(f"rates of {machine()['cpu']}: {options.rates}")
    print(page)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
