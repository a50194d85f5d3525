"""A container that does next to nothing, for tests of the emulator: `python -m ... train|serve`.

Its hyperparameters say what it does. train: `say` is logged (| begins a new line), `fail` is written to the failure
file, `exit` is the exit code, `wait` is a number of seconds (SIGTERM ends it early, with a model), `checkpoint` "1"
counts its starts in a checkpoint and waits on the first. The model lists what it found. serve: answers each line with
{"mean": [n]}, n being the length of the line's target, 400 for a line with "bad" in it and 500 for one with "broken".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BASE = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def train() -> int:
    given = json.loads((BASE / "input/config/hyperparameters.json").read_text())
    found = {
        "files": sorted(str(p.relative_to(BASE)) for p in (BASE / "input").rglob("*") if p.is_file()),
        "environment": dict(os.environ),
        "config": {p.stem: json.loads(p.read_text()) for p in (BASE / "input/config").iterdir()},
    }
    (BASE / "model/found.json").write_text(json.dumps(found))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(given.get("say", "").replace("|", "\n"), flush=True)
    if given.get("checkpoint"):
        counter = BASE / "checkpoints/starts"
        starts = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(starts + 1))
        time.sleep(0 if starts else 60)
    time.sleep(float(given.get("wait", 0)))
    if given.get("fail"):
        (BASE / "output/failure").write_text(given["fail"])
    (BASE / "output/data/report.txt").write_text("done")
    return int(given.get("exit", 0))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/execution-parameters":
            self.answer(200, os.environ.get("OFFER", "{}").encode())
        else:
            self.answer(200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b"bad" in body or b"broken" in body:
            self.answer(400 if b"bad" in body else 500, b"cannot read this line")
            return
        out: list[dict[str, Any]] = [{"mean": [len(json.loads(line)["target"])]} for line in body.splitlines()]
        print(f"{len(out)} lines as {self.headers['Content-Type']} for {self.headers['Accept']}", flush=True)
        self.answer(200, b"".join(json.dumps(o).encode() + b"\n" for o in out))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve() -> int:
    print(json.dumps(dict(os.environ)), flush=True)
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(train() if sys.argv[1] == "train" else serve())
