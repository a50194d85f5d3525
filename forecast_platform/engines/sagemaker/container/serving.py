"""The model behind HTTP, as SageMaker's endpoints and Batch Transform ask for it.

| request | answer |
|---|---|
| GET /ping | 200: the model is loaded; the port opens no earlier |
| GET /execution-parameters | what Batch Transform should send |
| POST /invocations, application/jsonlines | one record a line in, one JSON object a line out, in order |
| POST /invocations, application/zip | a shard of a retailer in, its forecasts and sums as Parquet out: shards.py |
| POST /invocations, application/json | {"instances": [..], "configuration": {..}} to {"predictions": [..]} |

What the contract refuses is 400, with line and rule. Threads of this process talk HTTP; forecasts are made by the
processes of inference.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from forecast_platform.deepar.hyperparameters import ContractError
from forecast_platform.engines.sagemaker.container.inference import Forecasters, ForecastFailed, WorkerDied, where

JSON_LINES, JSON, SHARD = "application/jsonlines", "application/json", "application/zip"
MAX_BODY = 100 << 20  # SageMaker's own limit of a payload
MAX_PAYLOAD_MB = 6
DRAIN_SECONDS = 100.0  # SageMaker kills 120 seconds after SIGTERM


class BadRequest(Exception):
    """A request that is answered with `status` and the message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def serve(model: Path, host: str, port: int) -> int:
    """Serve a model, packed or unpacked, until SIGTERM or SIGINT; requests under way are answered first.

    Returns the exit code: 0, 1 when a worker died or requests did not end in time, 2 for a model or an environment
    that can't be used.
    """
    try:
        workers = Forecasters(model)
    except ContractError as error:
        _log(f"ClientError: {error}")
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # in the threads to come, too
    server = _Server((host, port), workers)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    _log(f"serving model {workers.version} at http://{host}:{server.server_port} with {workers.count} workers")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.shutdown()
    drained = server.drain()
    server.server_close()
    workers.close(wait=drained and not server.broken)
    _log("stopped" if drained else f"stopped with requests unanswered after {DRAIN_SECONDS:.0f} s")
    return 0 if drained and not server.broken else 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], workers: Forecasters) -> None:
        super().__init__(address, _Handler)
        self.workers = workers
        self.broken = self.draining = False
        self.active, self.idle = 0, threading.Condition()

    def fail(self) -> None:
        """A worker died: end, and let whoever started the server start it again."""
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
            except WorkerDied as error:
                _log(str(error))
                status, answer = _FAILED, str(error).encode()
                self.server.fail()
            except OSError:
                raise  # the client is gone
            except Exception as error:
                _log(str(error) if isinstance(error, ForecastFailed) else where(error))
                status, answer = _FAILED, b"the forecast failed; the server's log says where"
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
            concurrent = min(
                self.server.workers.count, 100 // MAX_PAYLOAD_MB
            )  # together at most 100 MB, says SageMaker
            parameters = {
                "MaxConcurrentTransforms": concurrent,
                "BatchStrategy": "MULTI_RECORD",
                "MaxPayloadInMB": MAX_PAYLOAD_MB,
            }
            return JSON, json.dumps(parameters).encode()
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        workers = self.server.workers
        asked = {JSON_LINES: workers.forecast_lines, JSON: workers.forecast_request, SHARD: workers.forecast_shard}
        if kind not in asked:
            raise BadRequest(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type is {kind[:40]!r}; use {JSON_LINES}, {JSON} or {SHARD}"
            )
        return kind, asked[kind](body)

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


_FAILED = HTTPStatus.INTERNAL_SERVER_ERROR
_ROUTES = {"/ping": "GET", "/execution-parameters": "GET", "/invocations": "POST"}


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
