"""What stays up: started in a folder with somebody's modules, ended by SIGTERM, told of a port in use.

Processes of their own, as a person or a service manager starts them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from forecast_platform.cli.serving import listen

# `-P` as in the installed command `forecast`, which does not look for modules in the working directory.
FORECAST = [sys.executable, "-P", "-m", "forecast_platform.cli"]


def environment(home: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FORECAST_", "DAGSTER_", "PYTHONSAFEPATH"))}
    return {**clean, "FORECAST_HOME": str(home), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> object:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} took more than {seconds} s")


def below(pid: int) -> set[int]:
    """Every process that this one started, and theirs."""
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), set()).add(int(stat.parent.name))
    found, new = set(), {pid}
    while new := {child for parent in new for child in children.get(parent, ())} - found:
        found |= new
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    running = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running.add(pid)
        except OSError:
            continue
    return running


def ask(port: int, query: str) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return dict(json.load(answer)["data"])
    except OSError:
        return {}


def statuses(port: int) -> set[str]:
    """Of all runs; of none while the server is too busy to answer."""
    return {run["status"] for run in ask(port, STATUS).get("runsOrError", {}).get("results", ())}


LAUNCH = """mutation { launchRun(executionParams: {mode: "default", selector: {
  repositoryLocationName: "forecast_platform.definitions", repositoryName: "__repository__", jobName: "lake_maintenance"
}}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = """{ runsOrError { ... on Runs { results { status } } } }"""


@pytest.mark.kill
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed by /proc")
def test_ui_runs_beside_stray_modules_and_leaves_nothing_behind_when_ended(tmp_path: Path):
    """A file named as a module in the working folder broke every run, and SIGTERM left four processes running."""
    for name in ("click", "holidays", "torch", "forecast_platform"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a stray module')\n")
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        ui = subprocess.Popen(
            [*FORECAST, "ui", "--port", str(port)],
            cwd=tmp_path,
            env=environment(tmp_path / "home"),
            stdout=log,
            stderr=log,
        )
    started: set[int] = set()
    try:
        launched = wait_for(lambda: ask(port, LAUNCH), 120, "the start")
        assert launched["launchRun"]["__typename"] == "LaunchRunSuccess", launched
        ended = wait_for(lambda: statuses(port) & {"SUCCESS", "FAILURE"}, 120, "the run")
        assert ended == {"SUCCESS"}, (tmp_path / "log").read_text()
        started = below(ui.pid)
        assert len(started) >= 4
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(40) == 0
        assert alive(started) == set()
    finally:
        for pid in alive(started | below(ui.pid) | {ui.pid}):
            os.kill(pid, signal.SIGKILL)


STUBBORN = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)"])
time.sleep(60)
"""
SUPERVISED = f"""
import sys
from forecast_platform.cli.supervision import supervise
sys.exit(supervise([sys.executable, "-c", {STUBBORN!r}], patience=0.5))
"""


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_child_that_will_not_end_is_ended(number: signal.Signals):
    parent = subprocess.Popen([sys.executable, "-c", SUPERVISED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    started = below(parent.pid)
    assert len(started) == 2
    parent.send_signal(number)
    assert parent.wait(30) == 0
    assert alive(started) == set()


def test_a_program_that_ends_by_itself_gives_its_status():
    from forecast_platform.cli.supervision import supervise

    assert supervise([sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.parametrize("command", ["dashboard", "ui"])
def test_a_port_in_use_is_said_before_an_address(command: str, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [*FORECAST, command, "--port", port],
            cwd=tmp_path,
            env=environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == (
        f"Error: port {port} is in use on 127.0.0.1; end what listens there, or give another with --port\n"
    )
    assert "http://" not in result.stdout


def test_an_address_of_another_machine_is_refused_in_words():
    with pytest.raises(click.ClickException, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)
