"""The job that a model's process is given, what it measures of itself, and how it writes its outcome.

Both environments import this module, so it needs numpy and pandas only. A model's program imports its libraries, then
calls `answer` with a function from Job to Outcome.
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COLUMNS = tuple(f"p{round(100 * q)}" for q in QUANTILES)
PATHS = (100, 200)  # sample paths that prediction is timed with; the first is scored

T = TypeVar("T")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """One model at one cutoff with one seed.

    Attributes:
        variant: which of a program's models.
        panel: parquet of the history up to the cutoff, as protocol.export writes it.
        reference: parquet of the holiday-aligned last year, likewise.
        data: folder of the raw files, for our command line alone.
        out: where to write .json and .parquet, without suffix.
        quick: train very briefly, to see that it runs.
    """

    variant: str
    cutoff: str
    horizon: int
    seed: int
    panel: str
    reference: str
    data: str
    out: str
    quick: bool

    def history(self) -> pd.DataFrame:
        """Columns series (0 .. N-1), store, dept, week, sales: all weeks of each series from its first to the cutoff,
        NaN where nothing was observed."""
        return pd.read_parquet(self.panel)

    def targets(self) -> list[NDArray[np.float32]]:
        """Each series' sales, N arrays."""
        frame = self.history()
        cuts = np.flatnonzero(np.diff(frame["series"])) + 1
        return np.split(frame["sales"].to_numpy(np.float32), cuts)

    def static(self) -> pd.DataFrame:
        """One row a series: first week, and dense codes of its store and department."""
        first = self.history().groupby("series").first()
        codes = {name: pd.factorize(first[name])[0] for name in ("store", "dept")}
        return first[["week"]].assign(**codes)


@dataclass(frozen=True)
class Outcome:
    """What a model did.

    Attributes:
        quantiles: forecasts of the N series, (N, Q, H); None where nothing is to be scored.
        train_cpu_s: CPU seconds of training, data preparation included.
        windows: gradient samples seen; None where training has none.
        predict_cpu_s: number of sample paths (0 for a model without paths) -> CPU seconds to forecast all series.
        series: how many series that is.
        settings: the model's settings, for the reader.
        extra: anything else worth keeping in the results.
    """

    quantiles: Floats | None
    train_cpu_s: float
    windows: int | None
    predict_cpu_s: Mapping[int, float]
    series: int
    settings: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """The function's result and the CPU seconds of this process, in all its threads, that it took."""
    began = time.process_time()
    return function(), time.process_time() - began


def peak_mb() -> float:
    """Peak resident memory of this process, in MB."""
    # getrusage would do, but on Linux a child starts from its parent's peak.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # macOS counts bytes


def answer(run: Callable[[Job], Outcome], libraries: Sequence[str]) -> None:
    """Do the job given on the command line and write its outcome and forecasts.

    Args:
        libraries: distributions whose versions are reported.
    """
    import_cpu_s = time.process_time()  # the caller has imported what it needs, and done nothing else
    job = Job(**json.loads(sys.argv[1]))
    outcome = run(job)
    numbers = {**asdict(outcome), "quantiles": None, "import_cpu_s": import_cpu_s, "peak_mb": peak_mb()}
    numbers["versions"] = {name: importlib.metadata.version(name) for name in libraries}
    if outcome.quantiles is not None:
        forecast_table(job, outcome.quantiles).to_parquet(f"{job.out}.parquet", index=False)
    Path(f"{job.out}.json").write_text(json.dumps(numbers, indent=1))


def forecast_table(job: Job, quantiles: Floats) -> pd.DataFrame:
    """Forecasts (N, Q, H) as rows: store, dept, target_week, p10 .. p90. Quantiles that cross are put in order."""
    names = job.history().groupby("series")[["store", "dept"]].first()
    n, _, horizon = quantiles.shape
    if n != len(names):
        raise ValueError(f"{n} series were forecast; the panel holds {len(names)}")
    ordered = np.sort(quantiles, axis=1).transpose(0, 2, 1).reshape(n * horizon, -1)
    weeks = pd.Timestamp(job.cutoff) + pd.to_timedelta(7 * np.arange(1, horizon + 1), unit="D")
    rows = names.loc[names.index.repeat(horizon)].reset_index(drop=True)
    return rows.assign(target_week=np.tile(weeks, n), **dict(zip(COLUMNS, ordered.T, strict=True)))
