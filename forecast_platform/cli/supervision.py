"""A program and everything it starts, ended together. `dagster dev` starts a webserver, a daemon and code servers, and
when it is ended by SIGTERM it leaves them running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def supervise(command: Sequence[str], patience: float = 20.0) -> int:
    """Run a program in a process group of its own until it ends or we are asked to end (Ctrl-C, SIGTERM, SIGHUP). It is
    then interrupted, as by Ctrl-C; after `patience` seconds, and in any case when it has ended, whatever is left of the
    group is ended too.

    Returns:
        Its exit status; 0 when it ended because we were asked to.
    """
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 (a command of ours)
    asked_at: list[float] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if not asked_at:
            process.send_signal(signal.SIGINT)
        asked_at.append(time.monotonic())

    before = {number: signal.signal(number, ask) for number in ENDING}
    try:
        while process.poll() is None and not (asked_at and time.monotonic() - asked_at[0] > patience):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        _end_group(process, min(patience, 3.0))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0 if asked_at else int(process.returncode)


def _end_group(process: subprocess.Popen[bytes], patience: float) -> None:
    """The group's id is that of its first process, and is not given away while one of the group lives."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                process.poll()  # collects its exit status; else it would count as one of the group for ever
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            break
    process.wait()
