"""What stands before moto, for what moto does not do: it refuses, expires keys, knows SageMaker's quotas, counts."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import re
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

TRAINING, TRANSFORM = "ml.c5.2xlarge for training job usage", "ml.c5.2xlarge for transform job usage"
_OF_THE_HOP = ("host", "connection", "expect", "content-length", "transfer-encoding", "date", "server")


class Gate(http.server.ThreadingHTTPServer):
    """Refuses what is in `denied`, answers for quotas and keys itself, passes on the rest.

    Attributes:
        denied: actions, as in `calls`.
        defaults, applied: SageMaker's quotas as every account begins with, and those of this one that differ or were
            ever asked to be raised.
        calls: action -> requests so far: "GetTable", or of S3 the method and the bucket, as in "GET drop".
        plain: method, path and body of each request without an action in its head, as those to S3.
        key: the access key that is good now. None: every key is. `gate.url/credentials` gives it, to be renewed at
            every use.
    """

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.denied: set[str] = set()
        self.defaults: dict[str, float] = {"ml.c5.2xlarge for endpoint usage": 7, TRAINING: 0, TRANSFORM: 1}
        self.applied: dict[str, float] = {TRAINING: 1}
        self.calls: Counter[str] = Counter()
        self.plain: list[tuple[str, str, bytes]] = []
        self.key: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Gate
    protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue", for which boto3 would wait a second
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None: ...

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/credentials":
            soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
            given = {
                "AccessKeyId": self.server.key,
                "SecretAccessKey": "s",
                "Token": "t",
                "Expiration": f"{soon:%FT%TZ}",
            }
            return self._send(200, json.dumps(given).encode())
        target = self.headers.get("X-Amz-Target", "")
        action = target.rpartition(".")[2] or f"{self.command} {self.path.partition('?')[0].split('/')[1]}"
        self.server.calls[action] += 1
        if not target:
            self.server.plain.append((self.command, self.path, body))
        signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        if self.server.key and (not signed or signed[1] != self.server.key):
            return self._refuse(target, "ExpiredToken" if not target else "ExpiredTokenException")
        if action in self.server.denied:
            return self._refuse(target, "AccessDenied" if not target else "AccessDeniedException")
        if target.startswith("ServiceQuotas"):
            return self._send(200, json.dumps(self._quotas(action, json.loads(body))).encode())
        headers = {"Content-Type": "application/octet-stream"}  # or urllib calls it a form
        headers |= {key: value for key, value in self.headers.items() if key.lower() not in _OF_THE_HOP}
        request = urllib.request.Request(self.server.behind + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request) as reply:
                self._send(reply.status, reply.read(), dict(reply.headers))
        except urllib.error.HTTPError as error:
            self._send(error.code, error.read(), dict(error.headers))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _refuse(self, target: str, code: str) -> None:
        if target:
            return self._send(400, json.dumps({"__type": code, "message": "no"}).encode())
        return self._send(403, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    def _quotas(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """One quota a page: they are hundreds in truth, so a page that is not read is a quota not found."""
        assert request["ServiceCode"] == "sagemaker"
        of = self.server.defaults if action == "ListAWSDefaultServiceQuotas" else self.server.applied
        codes = {name: f"L-{number:08}" for number, name in enumerate({**self.server.defaults, **self.server.applied})}
        items, number = list(of.items()), int(request.get("NextToken", 0))
        page = {"Quotas": [{"QuotaName": n, "QuotaCode": codes[n], "Value": v} for n, v in items[number : number + 1]]}
        return page | ({"NextToken": str(number + 1)} if number + 1 < len(items) else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            if key.lower() not in _OF_THE_HOP:
                self.send_header(key, value)
        length = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def gate(s3: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    server = Gate(endpoint)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")  # else bodies come in chunks
    yield server
    server.shutdown()
    server.server_close()
