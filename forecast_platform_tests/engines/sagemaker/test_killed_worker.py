"""A worker that is killed (SIGKILL, a real process) at any point of a job: whoever asks next finds the job, waits for
it and pays for nothing twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from forecast_platform_tests.engines.sagemaker.test_jobs import Clock, emulator, ledger, make_jobs, training, transform
from forecast_platform_tests.processes import python
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator

__all__ = ["emulator"]  # a fixture

# Each is a method of Jobs or Spending; the worker dies just before it or just after it.
POINTS = [
    ("Spending.reserve", "before"),
    ("Spending.reserve", "after"),
    ("Jobs._create", "before"),
    ("Jobs._create", "after"),
    ("Jobs._wait", "before"),
    ("Jobs._wait", "after"),
    ("Spending.settle", "before"),
    ("Spending.settle", "after"),
]
WORKER = """
import os, signal, sys
from forecast_platform.engines.sagemaker import cost, jobs
from forecast_platform_tests.engines.sagemaker.test_jobs import Clock, make_jobs, training, transform

owner, name = sys.argv[2].split(".")
where = {"Jobs": jobs.Jobs, "Spending": cost.Spending}[owner]
real = getattr(where, name)

def dying(*given, **named):
    if sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)

made = make_jobs(Clock())
spec = training() if sys.argv[1] == "train" else transform(made)
setattr(where, name, dying)
made.ensure(spec)
"""


@pytest.mark.kill
@pytest.mark.parametrize(("point", "side"), POINTS)
def test_whoever_asks_next_finds_the_job(emulator: Emulator, point: str, side: str) -> None:
    for kind in ("train", "transform") if point == "Jobs._create" else ("train",):
        died = python("-c", WORKER, kind, point, side, cwd=Path(__file__).parents[3], env=os.environ)
        assert died.returncode == -signal.SIGKILL, died.stderr
        made = make_jobs(Clock())
        spec = training() if kind == "train" else transform(made)
        before = len(emulator.billed)
        done = made.ensure(spec)
        assert done.name == spec.name(1)
        assert all(made.storage.exists(key) for key in done.artefacts)
        assert emulator.billed.count(done.name) == 1
        assert len(emulator.billed) - before <= 1
        usd, settled = ledger(made)[done.name]
        assert usd > 0
        assert settled
    assert len(emulator.billed) == len(set(emulator.billed))
