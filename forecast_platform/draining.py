"""Waits until no run of Dagster's is under way, so that its services can be replaced without killing one.

    python -m forecast_platform.draining 720

Whoever calls it has stopped the daemon and the webserver, so that no run begins; those in the queue stay there and
begin afterwards. After so many minutes it gives up, names the runs that are still going, and ends with exit code 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import dagster as dg

UNDER_WAY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
EVERY_SECONDS = 2.0


def _say(text: str) -> None:
    print(text, flush=True)  # whoever waits reads it through a pipe


def drained(
    instance: dg.DagsterInstance,
    minutes: float,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = _say,
) -> bool:
    """Whether all runs had ended in time. A run whose process is gone looks as if it were going; only a daemon sees."""
    until, told = time.monotonic() + 60 * minutes, set[str]()
    while going := instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)):
        names = {f"{run.job_name} {run.tags.get('dagster/partition', '-')} ({run.run_id})" for run in going}
        if names != told:
            say(f"under way: {', '.join(sorted(names))}")
            told = names
        if time.monotonic() >= until:
            return False
        sleep(EVERY_SECONDS)
    return True


if __name__ == "__main__":
    with dg.DagsterInstance.get() as of_home:
        sys.exit(0 if drained(of_home, float(sys.argv[1])) else 1)
