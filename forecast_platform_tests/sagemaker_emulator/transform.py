"""A batch transform of the emulated SageMaker: objects shared out by key, one serving process per instance.

An object's output is written only if all of it succeeded, and nothing is written when the job was stopped. What AWS
does with a trailing newline of a response under AssembleWith Line is undocumented: here every response ends in one.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecast_platform_tests.sagemaker_emulator.builtin import Inference
from forecast_platform_tests.sagemaker_emulator.jobs import INTERNAL, POLL, SEE_LOGS, Job, JobFailed
from forecast_platform_tests.sagemaker_emulator.runtime import (
    Container,
    free_port,
    make_layout,
    relative_key,
    split_uri,
    unpack,
    until,
)

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Parameters:
    """How a job talks to its containers: what the request says, else /execution-parameters, else the defaults."""

    concurrent: int
    strategy: str
    payload_mb: int

    @classmethod
    def of(cls, request: dict[str, Any], offered: dict[str, Any]) -> Parameters:
        strategies = {"SINGLE_RECORD": "SingleRecord", "MULTI_RECORD": "MultiRecord"}
        wished = str(offered.get("BatchStrategy", "MULTI_RECORD"))
        payload = request.get("MaxPayloadInMB")
        return cls(
            request.get("MaxConcurrentTransforms") or int(offered.get("MaxConcurrentTransforms", 1)),
            request.get("BatchStrategy") or strategies.get(wished, wished),
            int(offered.get("MaxPayloadInMB", 6)) if payload is None else payload,
        )


class LineFailed(Exception):
    """A request that the container did not answer with 200; the object it belongs to has no output."""


def run_transform(job: Job, base: Path) -> None:
    """The life of a transform job, up to the .out objects in S3."""
    source = job.request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    target = job.request["TransformOutput"]["S3OutputPath"].rstrip("/")
    job.check_stop()
    job.begin_paying()
    job.wait_while_held()
    if job.has("stop"):
        job.emulator.stop_job(job)
    job.check_stop()
    if job.has("internal"):
        raise JobFailed(INTERNAL)
    if job.has("algorithm"):
        raise JobFailed(SEE_LOGS)
    keys = job.emulator.bucket.keys(source)
    count = job.instances[1]
    shares = [share for share in (keys[i::count] for i in range(count)) if share]  # the other instances idle
    outputs: dict[str, bytes] = {}
    failed = False
    with concurrent.futures.ThreadPoolExecutor(max(1, len(shares))) as pool:
        hosts = [pool.submit(_run_host, job, base / f"host-{i}", share, outputs) for i, share in enumerate(shares)]
        for host in hosts:
            failed |= not host.result()
    job.check_stop()
    if job.fault and job.has("corrupt_output") and outputs:
        first = min(outputs)
        outputs[first] = corrupt(outputs[first], job.fault.detail)
    for key, data in sorted(outputs.items()):
        job.emulator.bucket.put(f"{target}/{relative_key(source, key)}.out", data)
    if failed:
        raise JobFailed(SEE_LOGS)


def corrupt(data: bytes, how: str) -> bytes:
    """A damaged output: cut off half-way ("truncate"), a line short ("drop_line"), with a NaN ("nan"), or with another
    byte in its middle ("flip")."""
    if how == "flip":
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    lines = data.splitlines(keepends=True)
    if how == "drop_line":
        return b"".join(lines[:-1])
    if how == "nan":
        record = json.loads(lines[0])
        (record["samples"][0] if "samples" in record else record["mean"])[0] = float("nan")
        return b"".join([json.dumps(record).encode() + b"\n", *lines[1:]])
    return data[: len(data) // 2]


def _run_host(job: Job, base: Path, keys: list[str], outputs: dict[str, bytes]) -> bool:
    """One instance: start the container, send it its objects, gather what came out whole. False if any failed."""
    emulator, stream = job.emulator, f"i-{job.started:.0f}{base.name[5:]}"
    data_log = job.log(f"{stream}/data-log")
    make_layout(base)
    port = free_port()
    if job.model.get("ModelDataUrl"):
        unpack(emulator.bucket.get(*split_uri(job.model["ModelDataUrl"])), base / "model")
    request = job.request
    strategy = {"SingleRecord": "SINGLE_RECORD", "MultiRecord": "MULTI_RECORD"}
    environment = {
        "MODEL_SERVER_WORKERS": "1",  # SageMaker leaves it to the image: one for each core; the tests have few
        **job.model.get("Environment", {}),
        **request.get("Environment", {}),
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(request.get("MaxPayloadInMB", 6)),
        "SAGEMAKER_BATCH_STRATEGY": strategy[request.get("BatchStrategy", "MultiRecord")],
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(request.get("MaxConcurrentTransforms") or 1),
    }
    container = Container(emulator.module, "serve", base, environment, job.log(stream), emulator.warm)
    ended = threading.Event()
    threading.Thread(target=_end_when_stopped, args=(job, container, ended), daemon=True).start()
    try:
        host = _Host(job, port, container, Inference(base / "model") if job.builtin else None)
        if not until(host.healthy, emulator.ping_seconds, POLL):
            data_log("Model server did not respond to /ping")
            return False
        job.check_stop()
        parameters = Parameters.of(request, host.execution_parameters())
        data_log(
            f"[sagemaker logs]: MaxConcurrentTransforms={parameters.concurrent}, "
            f"MaxPayloadInMB={parameters.payload_mb}, BatchStrategy={strategy[parameters.strategy]}"
        )
        if job.builtin and parameters.strategy == "MultiRecord":
            # Documented as a cause of runtime failures; seen as an internal error (sagemaker-python-sdk#1758).
            raise JobFailed(INTERNAL)
        whole = True
        bucket = split_uri(request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])[0]
        for key in keys:
            try:
                outputs[key] = _transform_object(host, emulator.bucket.get(bucket, key), parameters)
            except LineFailed as error:
                whole = False
                for part in str(error).splitlines():
                    data_log(f"[sagemaker logs]: {bucket}/{key}: {part}")
        return whole
    finally:
        ended.set()
        container.stop(emulator.grace)


def _end_when_stopped(job: Job, container: Container, ended: threading.Event) -> None:
    """A stop ends requests under way, too: their connection breaks."""
    while not ended.wait(POLL):
        if job.stopping.is_set():
            container.signal(signal.SIGTERM, group=False)
            if not ended.wait(job.emulator.grace):
                container.signal(signal.SIGKILL)
            return


def _transform_object(host: _Host, data: bytes, parameters: Parameters) -> bytes:
    by_line = host.request["TransformInput"].get("SplitType", "None") == "Line"
    payloads = split(data, parameters) if by_line else [data]
    if any(len(payload) > parameters.payload_mb * MEGABYTE for payload in payloads if parameters.payload_mb):
        raise LineFailed("ClientError: Too much data for max payload size")
    with concurrent.futures.ThreadPoolExecutor(parameters.concurrent) as pool:
        answers = list(pool.map(host.invoke, payloads))
    if host.request["TransformOutput"].get("AssembleWith", "None") == "Line":
        answers = [answer.removesuffix(b"\n") + b"\n" for answer in answers]
    return b"".join(answers)


def split(data: bytes, parameters: Parameters) -> list[bytes]:
    """Lines as payloads: each its own (SingleRecord), or as many as fit one payload (MultiRecord)."""
    lines = [line for line in data.split(b"\n") if line]
    if parameters.strategy == "SingleRecord":
        return lines
    payloads: list[bytes] = []
    limit = parameters.payload_mb * MEGABYTE or len(data) + 1
    for line in lines:
        if payloads and len(payloads[-1]) + 1 + len(line) <= limit:
            payloads[-1] += b"\n" + line
        else:
            payloads.append(line)
    return payloads


class _Host:
    """The HTTP side of one instance. One connection per thread, kept open as SageMaker does."""

    def __init__(self, job: Job, port: int, container: Container, rules: Inference | None) -> None:
        self.job, self.request, self.port, self.container, self.rules = job, job.request, port, container, rules
        self.timeout = job.request.get("ModelClientConfig", {}).get("InvocationsTimeoutInSeconds", 600)
        self._local = threading.local()

    def call(self, method: str, path: str, body: bytes | None = None, timeout: float = 2.0) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        headers = {}
        if body is not None:
            headers = {
                "Content-Type": self.request["TransformInput"].get("ContentType", ""),
                "Accept": self.request["TransformOutput"].get("Accept", "*/*"),
            }
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise

    def healthy(self) -> bool:
        self.job.check_stop()
        if self.container.wait(0) is not None:
            raise JobFailed(SEE_LOGS)
        try:
            return self.call("GET", "/ping")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def execution_parameters(self) -> dict[str, Any]:
        status, body = self.call("GET", "/execution-parameters", timeout=10)
        return dict(json.loads(body)) if status == 200 else {}

    def invoke(self, payload: bytes) -> bytes:
        """One request; what the server could not do (5xx, no answer) is tried again."""
        reason = self.rules.refusal(payload) if self.rules else None
        if reason:
            raise LineFailed(f"ClientError: 400\nMessage:\n{reason}")
        tries = 1 + self.request.get("ModelClientConfig", {}).get("InvocationsMaxRetries", 3)
        for attempt in range(1, tries + 1):
            self.job.check_stop()
            try:
                status, body = self.call("POST", "/invocations", payload, self.timeout)
            except (OSError, http.client.HTTPException) as error:
                status, body = 500, f"Unable to get response from algorithm: {error}".encode()
            if status == 200:
                return body
            if status < 500 or attempt == tries:
                kind = "ClientError" if status < 500 else "InternalServerError"
                raise LineFailed(f"{kind}: {status}\nMessage:\n{body.decode(errors='replace')}")
            time.sleep(POLL)
        raise AssertionError("unreachable")
