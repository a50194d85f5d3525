"""Processes of their own, forked from one that has imported what costs seconds to import.

It is multiprocessing's forkserver: started at first use, one for each process that runs tests, and ended with it.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from forecast_platform_tests import quickly

_PRELOADED = [
    "boto3",
    "dagster._core.execution.execute_in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.sqlite_storage",
    "holidays.countries",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow",
    "pyiceberg.table",
    "pytest",
    "scipy.signal",
    "scipy.stats",
    "torch",
    "upath",
    "forecast_platform.cli",
    "forecast_platform.dashboard.report",
    "forecast_platform.deepar.training",
    "forecast_platform.definitions",
    "forecast_platform.engines.base",
    "forecast_platform.homes",
    "forecast_platform.runner",
    "forecast_platform_tests.quickly",
]


@functools.cache  # containers are started in threads, which are not to see the environment change
def forked() -> ForkServerContext:
    """Where processes are forked; their environment is that of the first who asked, without settings of ours."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("FORECAST_", "DAGSTER_", "AWS_"))]:
            patch.delenv(name)
        patch.setenv("FORECAST_HOME", str(Path(tempfile.gettempdir()) / "forecast-tests-have-no-home"))
        context.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
    return context


def python(
    *arguments: str, cwd: Path, env: Mapping[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ...` or `python -c CODE ...`, in a process that lacks nothing of a new one but its imports.

    Only other packages are there already: ours are imported anew, because some read the settings when they are.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = forked().Process(target=_become, args=(arguments, str(cwd), dict(env), *map(str, streams)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout)
        out, err = (path.read_text() if path.exists() else "" for path in streams)
        return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def end_with_tests() -> None:
    """In a forked process: it does not outlive the one it was forked from, and SIGTERM ends it as any other;
    Dagster may have had it ignored when what forks was started."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _become(arguments: Sequence[str], cwd: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    end_with_tests()
    os.environ.clear()
    os.environ.update(env)
    sys.dont_write_bytecode = False  # a server of processes was told by the environment of whoever runs the tests
    quickly.apply()
    os.chdir(cwd)
    for number, path in ((1, stdout), (2, stderr)):
        stream = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, number)
        os.close(stream)
    # Those of the parent are pytest's.
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    for name in [name for name in sys.modules if name.partition(".")[0] == "forecast_platform"]:
        del sys.modules[name]
    option, what, *rest = arguments
    sys.argv = [what if option == "-m" else option, *rest]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(what, {"__name__": "__main__"})
