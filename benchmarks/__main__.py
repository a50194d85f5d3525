"""Run the benchmarks: python -m benchmarks [--quick] [--only NAME] [--fresh] [--speed] (or `make bench`)."""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import protocol, report
from benchmarks.measure import Job
from forecast_platform.history.panel import Panel

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / ".bench"  # logs, forecasts and quick results; not in git
QUICK_STORES = ("1", "2", "3")
FEV = "fev-bench"


@dataclass(frozen=True)
class Model:
    """What is run: a variant of a program, at each cutoff with each seed."""

    name: str
    program: str
    variant: str
    seeds: tuple[int, ...] = (0,)
    cutoffs: tuple[str, ...] = protocol.CUTOFFS
    slow: bool = False  # left out of --quick

    @property
    def peer(self) -> bool:
        return self.program != "ours"

    @property
    def module(self) -> str:
        return f"benchmarks.peers.{self.program}" if self.peer else f"benchmarks.{self.program}"


# Models whose speeds are compared run one after the other: a shared machine has faster and slower hours.
MODELS = (
    Model("ours", "ours", "backtest", seeds=(0, 1, 2)),
    Model("ours-network", "ours", "network", cutoffs=protocol.CUTOFFS[:1]),
    Model("ours-plain", "ours", "plain", seeds=(0, 1, 2)),
    Model("gluonts-sagemaker", "gluonts_deepar", "sagemaker", seeds=(0, 1)),
    Model("gluonts-defaults", "gluonts_deepar", "defaults"),
    Model("neuralforecast-deepar", "neuralforecast_models", "deepar"),
    Model("pytorch-forecasting-deepar", "pytorch_forecasting_deepar", "deepar"),
    Model("lightgbm-ratio", "lightgbm_ratio", "ratio"),
    Model("statsforecast-theta", "statsforecast_models", "theta"),
    Model("statsforecast-autoets", "statsforecast_models", "autoets", slow=True),
    Model("neuralforecast-nhits", "neuralforecast_models", "nhits", slow=True),
    Model("neuralforecast-tft", "neuralforecast_models", "tft", slow=True),
    Model("ours-fev", "ours", "fev", seeds=(0, 1, 2), cutoffs=(FEV,)),
)
# Speeds are compared by runs in turns, so that a faster or slower hour meets all alike.
IN_TURNS = ("ours-plain", "gluonts-sagemaker", "ours-network", "neuralforecast-deepar")
ROUNDS = 5


@dataclass(frozen=True)
class Data:
    """The sales, and the files made from them that models are given."""

    folder: Path
    sales: pd.DataFrame
    panel: Panel
    digest: str
    exports: Path

    @classmethod
    def load(cls, source: Path, exports: Path, quick: bool) -> Data:
        folder = source.parent
        if quick:
            raw = pd.read_csv(source, dtype=str)
            folder = exports / "data"
            folder.mkdir()
            raw[raw["Store"].isin(QUICK_STORES)].to_csv(folder / "sales.csv", index=False)
            source = folder / "sales.csv"
        sales = protocol.read_sales(source)
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
        return cls(folder, sales, protocol.to_panel(sales), digest, exports)

    def export(self, cutoff: str) -> tuple[Path, Path]:
        paths = self.exports / f"{cutoff}.parquet", self.exports / f"{cutoff}.reference.parquet"
        if cutoff != FEV and not paths[0].exists():
            protocol.export(self.panel, dt.date.fromisoformat(cutoff), *paths)
        return paths

    def describe(self) -> dict[str, Any]:
        return {"rows": len(self.sales), "series": len(self.panel), "sha256": self.digest}


class Runner:
    """Runs models, one process at a time.

    Args:
        python: interpreter of the peers' environment.
        results: folder of the results, one JSON a run.
        command: what was asked for, for the results.
    """

    def __init__(self, data: Data, python: Path, results: Path, quick: bool, command: str) -> None:
        self.data, self.python, self.results, self.quick = data, python, results, quick
        self.work = SCRATCH / ("quick" if quick else "full")
        for folder in (results, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.machine = machine()
        self.command = command

    def kept(self, model: Model, cutoff: str, seed: int) -> bool:
        """Whether there is a result of this code, data and machine."""
        path = self._path(model, cutoff, seed)
        return path.exists() and json.loads(path.read_text())["fingerprint"] == self._fingerprint(model)

    def process(self, model: Model, cutoff: str, seed: int) -> tuple[dict[str, Any], Path]:
        """Run a model. Returns its outcome, and the path of its forecasts without suffix.

        Raises:
            RuntimeError: the process fails.
        """
        panel, reference = self.data.export(cutoff)
        out = self.work / f"{model.name}.{cutoff}.seed{seed}"
        job = Job(
            variant=model.variant,
            cutoff=cutoff,
            horizon=protocol.HORIZON,
            seed=seed,
            panel=str(panel),
            reference=str(reference),
            data=str(self.data.folder),
            out=str(out),
            quick=self.quick,
        )
        python = self.python if model.peer else Path(sys.executable)
        log = out.with_name(f"{out.name}.log")
        with log.open("w") as sink, tempfile.TemporaryDirectory() as cwd:  # libraries leave files where they run
            code = subprocess.run(  # noqa: S603 - our own modules
                [str(python), "-m", model.module, json.dumps(asdict(job))],
                cwd=cwd, env=self._environment(cwd), stdout=sink, stderr=subprocess.STDOUT,
            ).returncode  # fmt: skip
        if code:
            raise RuntimeError(f"exit code {code}; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-8:]))
        return json.loads(Path(f"{out}.json").read_text()), out

    def run(self, model: Model, cutoff: str, seed: int) -> str:
        """Run, score, write the result; returns a line about it."""
        outcome, out = self.process(model, cutoff, seed)
        scores = outcome["extra"].pop("scores", None) or self._scores(model, cutoff, out)
        result = {
            "model": model.name,
            "cutoff": cutoff,
            "seed": seed,
            "fingerprint": self._fingerprint(model),
            **self._origin(),
            "outcome": {name: value for name, value in outcome.items() if name != "quantiles"},
            "scores": scores,
        }
        self._path(model, cutoff, seed).write_text(json.dumps(result, indent=1) + "\n")
        main = scores.get("deepar") or scores.get(model.name) or {}
        parts = [f"WAPE {main['wape']:.4f}, wQL {main['wql']:.4f}"] if main else []
        return ", ".join([*parts, f"training {outcome['train_cpu_s']:.0f} CPU s"])

    def speed_kept(self, models: Sequence[Model]) -> bool:
        """Whether there are speeds of runs in turns, of this code, data and machine."""
        path = self.results / report.SPEED
        return path.exists() and json.loads(path.read_text())["fingerprints"] == self._fingerprints(models)

    def speed(self, models: Sequence[Model], rounds: int) -> None:
        """Run the models one after the other at the first cutoff, `rounds` times, and write what each run took."""
        taken: list[dict[str, Any]] = []
        # The fingerprints are taken before the runs: sources may change meanwhile.
        result = {"fingerprints": self._fingerprints(models), **self._origin(), "rounds": taken}
        for number in range(rounds):
            print(f"speed, round {number + 1} of {rounds} ...", flush=True)
            outcomes = {model.name: self.process(model, protocol.CUTOFFS[0], seed=number)[0] for model in models}
            kept = ("train_cpu_s", "windows", "predict_cpu_s", "series")
            taken.append({name: {key: outcome[key] for key in kept} for name, outcome in outcomes.items()})
        (self.results / report.SPEED).write_text(json.dumps(result, indent=1) + "\n")

    def _fingerprints(self, models: Sequence[Model]) -> dict[str, str]:
        return {model.name: self._fingerprint(model) for model in models}

    def _origin(self) -> dict[str, Any]:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        machine, data = self.machine, self.data.describe()
        return {"date": now, "commit": commit(), "command": self.command, "machine": machine, "data": data}

    def _scores(self, model: Model, cutoff: str, out: Path) -> dict[str, dict[str, float]]:
        """Scores by model: the command line writes forecasts of several models, any other process of one or none."""
        day = dt.date.fromisoformat(cutoff)
        if (several := Path(f"{out}.all.parquet")).exists():
            rows = pd.read_parquet(several)
            return {str(name): self._score(day, part) for name, part in rows.groupby("model", sort=False)}
        one = Path(f"{out}.parquet")
        return {model.name: self._score(day, pd.read_parquet(one))} if one.exists() else {}

    def _score(self, cutoff: dt.date, rows: pd.DataFrame) -> dict[str, float]:
        return protocol.checked_score(self.data.sales, self.data.panel, cutoff, rows)

    def _path(self, model: Model, cutoff: str, seed: int) -> Path:
        return self.results / f"{model.name}.{cutoff}.seed{seed}.json"

    def _fingerprint(self, model: Model) -> str:
        """Digest of what decides a result, which is kept until one of these changes."""
        here, package = ROOT / "benchmarks", ROOT / "forecast_platform"
        if model.peer:
            files = [here / "peers" / f"{model.program}.py", here / "peers-requirements.txt"]
        else:
            parts = ("deepar", "history", "models")
            files = [here / "ours.py", *(file for part in parts for file in (package / part).rglob("*.py"))]
        content = hashlib.sha256(json.dumps([asdict(model), self.machine, self.data.digest]).encode())
        for path in sorted(files):
            content.update(path.read_bytes())
        return content.hexdigest()[:16]

    def _environment(self, home: str) -> dict[str, str]:
        """The environment of a run: one thread, and the default settings."""
        threads = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FORECAST_")}
        clean |= {f"{name}_NUM_THREADS": "1" for name in threads}
        clean |= {"PYTHONPATH": str(ROOT), "FORECAST_HOME": home, "TQDM_DISABLE": "1"}
        return clean | ({"FORECAST_HYPERPARAMETERS": '{"epochs": "2"}'} if self.quick else {})


def machine() -> dict[str, Any]:
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}


def commit(tree: Path = ROOT) -> str:
    """The commit of a working tree, with + if it has changes."""
    git = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(git, cwd=tree, capture_output=True, text=True)  # noqa: S603 - no input
    return done.stdout.strip() or "unknown"


def _published_arguments(options: argparse.Namespace) -> list[str]:
    """The command-line arguments to publish: those that decide what is run, not where the peers are."""
    only = ["--only", options.only] if options.only else []
    return only + [f"--{name}" for name in ("quick", "fresh", "speed") if getattr(options, name)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="three stores, a moment of training, the fast peers: a try"
    )
    parser.add_argument(
        "--only", default="", metavar="NAME", help="models whose name starts so, such as gluonts or ours"
    )
    parser.add_argument("--fresh", action="store_true", help="run again what there are results of")
    parser.add_argument("--speed", action="store_true", help="nothing but the speeds: ours and peers in turns, afresh")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="the peers' environment")
    options = parser.parse_args(arguments)

    folder = protocol.sales_folder(ROOT)
    source = protocol.sales_file(folder)
    if source is None:
        text = (
            f"no sales.csv or sales.csv.gz in {folder}: the benchmarks run on sales of Kaggle's Walmart competition "
            "(Store Sales Forecasting). Put them there, or name their folder in FORECAST_WALMART_DIR."
        )
        print(text, file=sys.stderr)
        return 2
    chosen = [m for m in MODELS if m.name.startswith(options.only) and not (options.quick and m.slow)]
    if not chosen:
        print(f"no model starts with {options.only!r}; there are: {', '.join(m.name for m in MODELS)}", file=sys.stderr)
        return 2
    python = options.peers.absolute() / "bin" / "python"
    if options.speed:
        chosen = []
    timed = [m for m in MODELS if m.name in IN_TURNS] if options.speed or not options.only else []
    if any(m.peer for m in [*chosen, *timed]) and not python.exists():
        print(f"the peers' environment is not there ({python}): make bench builds it", file=sys.stderr)
        return 2

    results = SCRATCH / "quick" / "results" if options.quick else ROOT / "benchmarks" / "results"
    page = SCRATCH / "quick" / "benchmarks.md" if options.quick else ROOT / "docs" / "benchmarks.md"
    seeds = 1 if options.quick else None
    runs = [(m, cutoff, seed) for m in chosen for seed in m.seeds[:seeds] for cutoff in m.cutoffs]
    failed = 0
    with tempfile.TemporaryDirectory() as exports:
        data = Data.load(source, Path(exports), options.quick)
        command = " ".join(["python -m benchmarks", *_published_arguments(options)])
        runner = Runner(data, python, results, options.quick, command)
        for number, run in enumerate(runs, 1):
            name = f"[{number}/{len(runs)}] {run[0].name}, {run[1]}, seed {run[2]}"
            if not options.fresh and runner.kept(*run):
                print(f"{name}: kept", flush=True)
                continue
            print(f"{name} ...", flush=True)
            began = time.perf_counter()
            try:
                print(f"  {runner.run(*run)}, {time.perf_counter() - began:.0f} s in all", flush=True)
            except (RuntimeError, AssertionError, ValueError) as error:
                failed += 1
                print(f"  failed: {error}", file=sys.stderr, flush=True)
        if options.speed or (timed and (options.fresh or not runner.speed_kept(timed))):
            try:
                runner.speed(timed, 1 if options.quick else ROUNDS)
            except RuntimeError as error:
                failed += 1
                print(f"  failed: {error}", file=sys.stderr, flush=True)
    report.write(results, page)
    print(f"{len(runs)} runs wanted, {failed} failures; {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
