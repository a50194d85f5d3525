"""Runs what stands in an emulated SageMaker image: the platform's container, as a real process per host.

The process is the image's own entry point, `forecast-container train|serve`, over a folder laid out as SageMaker lays
out /opt/ml, with an environment of nothing but what SageMaker and the image would set (no AWS
credentials among it: the container has no business with S3). Importing torch costs seconds, so the process is forked
from one that has imported it already (forecast_platform_tests/processes.py); `warm=False` starts a new interpreter
instead.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from forecast_platform_tests import quickly
from forecast_platform_tests.processes import end_with_tests, forked

MODULE = "forecast_platform.engines.sagemaker.container.main"
_LAYOUT = ("input/config", "input/data", "model", "output/data", "checkpoints")


def make_layout(base: Path) -> None:
    for folder in _LAYOUT:
        (base / folder).mkdir(parents=True, exist_ok=True)


class Container:
    """A running container.

    Args:
        module: what `python -m` would run.
        command: "train" or "serve", as SageMaker passes it to the image's entry point.
        base: what would be /opt/ml.
        environment: beyond what the image itself sets.
        log: called with each line the container writes, from a thread of its own.
    """

    def __init__(
        self,
        module: str,
        command: str,
        base: Path,
        environment: dict[str, str],
        log: Callable[[str], None],
        warm: bool = True,
    ) -> None:
        full = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "SAGEMAKER_BASE_DIR": str(base),
            "TMPDIR": str(base),
            **environment,
        }
        self._forked: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        if warm:
            context = forked()
            reader, writer = context.Pipe(duplex=False)
            self._forked = context.Process(target=_enter, args=(module, command, str(base), full, writer), daemon=False)
            self._forked.start()
            writer.close()
            output: IO[bytes] = os.fdopen(os.dup(reader.fileno()), "rb")
            reader.close()
            self.pid = int(self._forked.pid)
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, command],
                cwd=base,
                env=full,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert self._process.stdout is not None
            output, self.pid = self._process.stdout, self._process.pid
        self._reader = threading.Thread(target=_copy_lines, args=(output, log), daemon=True)
        self._reader.start()

    def wait(self, seconds: float) -> int | None:
        """The exit code as a shell gives it (128 + signal for a killed process), None while it runs."""
        if self._process is not None:
            try:
                code: int | None = self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
        else:
            self._forked.join(seconds)
            code = self._forked.exitcode
        if code is None:
            return None
        self.signal(signal.SIGKILL)  # a container ends with its first process
        self._reader.join(5)
        return code if code >= 0 else 128 - code

    def stop(self, grace: float) -> int:
        """SIGTERM, and SIGKILL after `grace` seconds (SageMaker's: 120)."""
        self.signal(signal.SIGTERM, group=False)
        code = self.wait(grace)
        if code is None:
            self.signal(signal.SIGKILL)
            code = self.wait(30)
        assert code is not None, f"container {self.pid} outlived SIGKILL"
        return code

    def signal(self, number: int, group: bool = True) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)


def _copy_lines(output: Any, log: Callable[[str], None]) -> None:
    with io.TextIOWrapper(output, errors="replace") as lines:
        for line in lines:
            log(line.rstrip("\n"))


def _enter(module: str, command: str, base: str, environment: dict[str, str], writer: Any) -> None:
    """The first function of a forked container: become what a new interpreter would have been."""
    os.setsid()
    end_with_tests()
    quickly.apply()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(base)
    os.dup2(writer.fileno(), 1)
    os.dup2(writer.fileno(), 2)
    writer.close()
    # The parent's streams are those of pytest.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = [module, command]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Bucket:
    """S3 as SageMaker's hosts use it: folders down, folders and archives up.

    Args:
        client: a boto3 S3 client.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def keys(self, uri: str) -> list[str]:
        """Keys below s3://bucket/prefix, sorted; empty when there are none, or no bucket."""
        bucket, prefix = split_uri(uri)
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        try:
            found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        except self.client.exceptions.NoSuchBucket:
            return []
        return sorted(key for key in found if not key.endswith("/"))

    def get(self, bucket: str, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def put(self, uri: str, data: bytes) -> None:
        bucket, key = split_uri(uri)
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def download(self, uri: str, folder: Path) -> int:
        """Every object of a prefix into a folder; returns how many there were."""
        bucket, keys = split_uri(uri)[0], self.keys(uri)
        for key in keys:
            target = folder / relative_key(uri, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.get(bucket, key))
        return len(keys)

    def upload(self, folder: Path, uri: str) -> None:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(f"{uri.rstrip('/')}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def split_uri(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def relative_key(uri: str, key: str) -> str:
    """What remains of a key below the prefix of `uri`, which may be a folder, a whole key, or the start of names."""
    prefix = split_uri(uri)[1]
    folder = prefix.rstrip("/") + "/" if key.startswith(prefix.rstrip("/") + "/") else prefix.rpartition("/")[0] + "/"
    return key.removeprefix(folder if folder != "/" else "")


def pack(folder: Path) -> bytes | None:
    """A folder as .tar.gz, or None when it holds nothing."""
    if not any(folder.iterdir()):
        return None
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return raw.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        tar.extractall(folder, filter="data")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float, poll: float = 0.02) -> bool:
    """Wait for a condition; False when it did not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll)
    return True
