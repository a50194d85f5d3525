"""The model behind HTTP, as SageMaker's endpoints and Batch Transform ask for it.

| request | answer |
|---|---|
| GET /ping | 200: the model is loaded; the port opens no earlier |
| GET /execution-parameters | what Batch Transform should send |
| POST /invocations, application/jsonlines | one record a line in, one JSON object a line out, in order |
| POST /invocations, application/json | {"instances": [..], "configuration": {..}} to {"predictions": [..]} |

What the contract refuses is 400, with line and rule. A forecast depends on its record, configuration and seed alone,
never on the other lines of its request nor on other requests.

Threads of this process talk HTTP; forecasts are made in worker processes, one thread each, between which the lines of a
large request are divided. Workers are forked when the model is loaded, so they start at once and share its memory.

| environment | meaning |
|---|---|
| DEEPAR_INFERENCE_CONFIG | JSON: num_samples, output_types, quantiles where a request does not say (as Amazon's) |
| DEEPAR_SEED | seed of the sample paths; default 0 |
| MODEL_SERVER_WORKERS | worker processes; default one for each CPU |
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from forecast_platform.deepar.hyperparameters import ContractError

if TYPE_CHECKING:
    from forecast_platform.deepar.batch_transform import InferenceConfig
    from forecast_platform.deepar.model import Model

JSON_LINES, JSON = "application/jsonlines", "application/json"
MAX_BODY = 100 << 20  # SageMaker's own limit of a payload
MAX_PAYLOAD_MB = 6
BLOCK = 512  # lines a worker takes at once: what the network encodes together
DRAIN_SECONDS = 100.0  # SageMaker kills 120 seconds after SIGTERM


class BadRequest(Exception):
    """A request that is answered with `status` and the message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


# ------------------------------------------------------------------------------------------------ in the workers


class _Worker:
    """What a worker process has from its fork: the model and the settings."""

    model: Model
    config: dict[str, Any]
    seed: int


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _ready() -> None:
    """Nothing to do: its answer says that the workers run."""


def _forecast_lines(lines: Sequence[bytes], first: int) -> bytes:
    """One JSON object a line. Raises ContractError naming the line, the first of which has the number `first`."""
    from forecast_platform.deepar.batch_transform import InferenceConfig
    from forecast_platform.deepar.records import from_lines

    if not any(line.strip() for line in lines):
        return b""  # the end of a request whose other lines are elsewhere
    records = from_lines(lines, "request", first)
    return b"".join(line + b"\n" for line in _forecast(records, InferenceConfig.parse(_Worker.config)))


def _forecast_request(body: bytes) -> bytes:
    """An endpoint's request. Raises ContractError naming the instance."""
    from forecast_platform.deepar.batch_transform import InferenceConfig
    from forecast_platform.deepar.records import from_objects

    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ContractError(f"the request is not JSON ({error}); a missing value is null, never NaN") from error
    if not isinstance(request, dict) or not isinstance(request.get("instances"), list) or not request["instances"]:
        raise ContractError('the request is {"instances": [..], "configuration": {..}} with at least one instance')
    own = request.get("configuration") or {}
    if not isinstance(own, dict):
        raise ContractError(f"configuration is a JSON object; this is a {type(own).__name__}")
    config = InferenceConfig.parse({**_Worker.config, **own})
    return b'{"predictions":[' + b",".join(_forecast(from_objects(request["instances"]), config)) + b"]}"


def _forecast(records: Any, config: InferenceConfig) -> list[bytes]:
    from forecast_platform.deepar.batch_transform import predictions

    series = _Worker.model.prepare(records)
    made = predictions(_Worker.model, series, config, _Worker.seed)
    return [orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY) for answer in made]


def _guarded(function: Any, *arguments: Any) -> bytes | ContractError | str:
    """The answer, what the contract refuses, or where a fault of ours is: without its message, which may hold data."""
    try:
        return bytes(function(*arguments))
    except ContractError as error:
        return error
    except Exception as error:
        return f"{type(error).__name__} in\n{''.join(traceback.format_tb(error.__traceback__))}"


# ------------------------------------------------------------------------------------------------ over HTTP


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], pool: ProcessPoolExecutor, workers: int) -> None:
        super().__init__(address, _Handler)
        self.pool, self.workers = pool, workers
        self.broken = self.draining = False
        self.active, self.idle = 0, threading.Condition()

    def fail(self) -> None:
        """A worker died, and the pool with it: end, and let whoever started the server start it again."""
        self.broken = True
        os.kill(os.getpid(), signal.SIGTERM)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, mostly."""
        _log(f"connection lost: {type(sys.exception()).__name__}")

    def drain(self) -> bool:
        """Wait for the requests under way; False when they took too long."""
        self.draining = True
        with self.idle:
            return self.idle.wait_for(lambda: self.active == 0, DRAIN_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"  # keep-alive
    server_version, sys_version = "forecast-platform", ""
    disable_nagle_algorithm = True
    timeout = 600.0  # a connection without a word for so long is closed
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = do_GET

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _answer(self) -> None:
        with self.server.idle:
            self.server.active += 1
        try:
            kind, status = "text/plain; charset=utf-8", HTTPStatus.OK
            try:
                kind, answer = self._route()
            except BadRequest as error:
                status, answer = error.status, str(error).encode()
            except ContractError as error:
                status, answer = HTTPStatus.BAD_REQUEST, str(error).encode()
            except BrokenProcessPool:
                status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, b"a worker process died, perhaps for lack of memory"
                _log(answer.decode())
                self.server.fail()
            self._send(status, kind, answer)
        finally:
            with self.server.idle:
                self.server.active -= 1
                self.server.idle.notify_all()

    def _send(self, status: HTTPStatus, kind: str, answer: bytes) -> None:
        if status is not HTTPStatus.OK:
            _log(f"{self.command} {self.path[:100]!r} {status.value}")
        if self.server.draining:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", _ROUTES[self._path()])
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)
        self.wfile.flush()

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _route(self) -> tuple[str, bytes]:
        """Content type and body of the answer."""
        body = self._body()
        method = _ROUTES.get(self._path())
        if method is None:
            raise BadRequest(HTTPStatus.NOT_FOUND, f"there is {', '.join(_ROUTES)}")
        if self.command != method:
            raise BadRequest(HTTPStatus.METHOD_NOT_ALLOWED, f"{self._path()} takes {method}")
        if self._path() == "/ping":
            return "text/plain; charset=utf-8", b""
        if self._path() == "/execution-parameters":
            concurrent = min(self.server.workers, 100 // MAX_PAYLOAD_MB)  # together at most 100 MB, says SageMaker
            parameters = {
                "MaxConcurrentTransforms": concurrent,
                "BatchStrategy": "MULTI_RECORD",
                "MaxPayloadInMB": MAX_PAYLOAD_MB,
            }
            return JSON, json.dumps(parameters).encode()
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in (JSON_LINES, JSON):
            raise BadRequest(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type is {kind[:40]!r}; use {JSON_LINES} or {JSON}"
            )
        return kind, self._invoke(kind, body)

    def _invoke(self, kind: str, body: bytes) -> bytes:
        submit = self.server.pool.submit
        if not body.strip():
            raise ContractError("the request is empty; send at least one record")
        parts: list[Future[Any]]
        if kind == JSON:
            parts = [submit(_guarded, _forecast_request, body)]
        else:
            lines = body.split(b"\n")
            parts = [
                submit(_guarded, _forecast_lines, lines[i : i + BLOCK], i + 1) for i in range(0, len(lines), BLOCK)
            ]
        answers = []
        for part in parts:
            answer = part.result()
            if isinstance(answer, bytes):
                answers.append(answer)
                continue
            for other in parts:
                other.cancel()
            if isinstance(answer, ContractError):
                raise answer
            _log(answer)
            raise BadRequest(HTTPStatus.INTERNAL_SERVER_ERROR, "the forecast failed; the server's log says where")
        return b"".join(answers)

    def _body(self) -> bytes:
        """The whole body, so that the next request on the connection begins where this one ends."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._chunked()
        length = self.headers.get("Content-Length")
        if length is None:
            if self.command in ("POST", "PUT", "PATCH"):
                raise self._ends(HTTPStatus.LENGTH_REQUIRED, "give Content-Length, or send chunks")
            return b""
        if not (length.isascii() and length.isdigit()):
            raise self._ends(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        if int(length) > MAX_BODY:
            raise self._too_large()
        return self._read(int(length))

    def _chunked(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            size_text = self.rfile.readline(1024).partition(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                size = -1
            if size < 0:
                raise self._ends(HTTPStatus.BAD_REQUEST, "the chunks are not whole")
            if size == 0:
                while self.rfile.readline(65536).strip():
                    pass  # trailers
                return b"".join(parts)
            total += size
            if total > MAX_BODY:
                raise self._too_large()
            parts.append(self._read(size))
            self._read(2)

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise self._ends(HTTPStatus.BAD_REQUEST, f"the body ends after {len(data)} of {size} bytes")
        return data

    def _too_large(self) -> BadRequest:
        return self._ends(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request holds at most {MAX_BODY >> 20} MB; send fewer lines"
        )

    def _ends(self, status: HTTPStatus, message: str) -> BadRequest:
        """A refusal that leaves unread bytes behind, so it is the last answer on this connection."""
        self.close_connection = True
        return BadRequest(status, message)

    def log_message(self, format: str, *args: Any) -> None:
        """Only what goes wrong is worth a line; `_send` writes it, without data."""


_ROUTES = {"/ping": "GET", "/execution-parameters": "GET", "/invocations": "POST"}


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------ the server


def serve(model: Path, host: str, port: int) -> int:
    """Serve a model, packed or unpacked, until SIGTERM or SIGINT; requests under way are answered first.

    Returns the exit code: 0, 1 when a worker died or requests did not end in time, 2 for a model or an environment
    that can't be used.
    """
    import torch

    from forecast_platform import deepar
    from forecast_platform.deepar.batch_transform import InferenceConfig

    torch.set_num_threads(1)
    try:
        _Worker.config = _from_environment("DEEPAR_INFERENCE_CONFIG", {}, dict)
        InferenceConfig.parse(_Worker.config)
        _Worker.seed = _from_environment("DEEPAR_SEED", 0, int)
        workers = _from_environment("MODEL_SERVER_WORKERS", _cpus(), int)
        if workers < 1 or not 0 <= _Worker.seed < 2**63:
            raise ContractError("MODEL_SERVER_WORKERS is at least 1, and DEEPAR_SEED from 0 to 2^63 - 1")
        _Worker.model = deepar.load_artifact(model)
    except ContractError as error:
        _log(f"ClientError: {error}")
        return 2
    # Forked by the first submit, while this process has one thread, and before signals are held back.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start_worker, (os.getpid(),))
    pool.submit(_ready).result()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = _Server((host, port), pool, workers)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    _log(f"serving model {_Worker.model.version} at http://{host}:{server.server_port} with {workers} workers")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.shutdown()
    drained = server.drain()
    server.server_close()
    pool.shutdown(wait=drained and not server.broken, cancel_futures=True)
    _log("stopped" if drained else f"stopped with requests unanswered after {DRAIN_SECONDS:.0f} s")
    return 0 if drained and not server.broken else 1


def _from_environment(name: str, default: Any, kind: type) -> Any:
    text = os.environ.get(name, "")
    if not text.strip():
        return default
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if type(value) is not kind:
        raise ContractError(
            f"{name} is {text[:80]!r}; it must be a JSON {'object' if kind is dict else 'whole number'}"
        )
    return value


def _cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
