"""Processes that work on shards at the same time, of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Given = TypeVar("Given")
Outcome = TypeVar("Outcome")

# Memory of one process: what torch, numpy, numba and DuckDB take before there is a series, and what a series of some
# three years takes while it is worked on, without covariates. Measured: 310 MB, and 790 MB with Walmart's 3,257 series.
BASE_BYTES = 500e6
BYTES_A_SERIES = 130e3
FEWEST = 500  # series of a shard: what each shard costs by itself must not outweigh them


class Workers:
    """Maps attempts to outcomes, see `over_shards`, in processes that last until `close`; started at first use.

    Args:
        count: of processes.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, work: Callable[[Given], Outcome], items: Sequence[Given]) -> Iterator[Outcome]:
        """Outcomes in order.

        Raises:
            EngineError: a process was killed, as a rule because the machine had no more memory.
        """
        if self._pool is None:
            # A server that has imported the engine once: its workers start in no time and share its memory.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["forecast_platform.engines.base"])
            self._pool = ProcessPoolExecutor(self._count, context, _begin)
        try:
            yield from self._pool.map(work, items)
        except BrokenProcessPool as error:
            from forecast_platform.engines.base import EngineError

            self.close()
            raise EngineError(
                "a process that worked on a shard was killed, as a rule for lack of memory; set FORECAST_MEMORY_GB to "
                "what this machine can spare, or fewer FORECAST_WORKERS, and run again: finished shards are kept"
            ) from error

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _begin() -> None:
    end_with_parent()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def end_with_parent() -> None:
    """End this process of a pool when the one that made the pool is gone, even killed.

    The operating system's parent may be another process: a fork server, which lasts as long as its children.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a process of a pool"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def worker_count(workers: int) -> int:
    """How many processes the setting `workers` means; 0: as many as there are CPUs to use."""
    return workers or max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1)


def series_at_once(memory_gb: float, workers: int, weeks: int, columns: int = 0) -> int:
    """How many series a shard may have, so that all workers together keep to the memory.

    Args:
        weeks: of history. columns: covariates.
    """
    own = memory_gb * 1e9 / worker_count(workers) - BASE_BYTES
    each = BYTES_A_SERIES * (0.5 + 0.5 * weeks / 143) + 8 * 3 * columns * weeks
    return max(int(own / each), FEWEST)
