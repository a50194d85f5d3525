"""`forecast-container serve`, as real processes: SageMaker's HTTP contract, the same bytes however lines are sent."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecast_platform import deepar
from forecast_platform.engines.sagemaker.container import inference
from forecast_platform_tests.deepar.conftest import make_hp, make_series
from forecast_platform_tests.processes import forked
from forecast_platform_tests.sagemaker_emulator.runtime import MODULE, Container, make_layout

LINES, JSON = {"Content-Type": "application/jsonlines"}, {"Content-Type": "application/json"}
CONFIG = {"num_samples": 20, "quantiles": ["0.1", "0.5", "0.9"]}
ENVIRONMENT = {"DEEPAR_INFERENCE_CONFIG": json.dumps(CONFIG), "DEEPAR_SEED": "7", "MODEL_SERVER_WORKERS": "2"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A serving container over a folder whose model/ holds a model."""

    def __init__(self, base: Path, warm: bool = True, **environment: str) -> None:
        self.port, self.said = free_port(), []  # type: int, list[str]
        began = time.monotonic()
        full = {**ENVIRONMENT, "SAGEMAKER_BIND_TO_PORT": str(self.port), **environment}
        self.process = Container(MODULE, "serve", base, full, self.said.append, warm)
        wait_for_ping(self.port, lambda: self.process.wait(0) is not None)
        self.seconds = time.monotonic() - began

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.signal(signal.SIGKILL)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = self.connect()
        connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def forecast(self, *lines: bytes) -> bytes:
        status, answer = self.call("POST", "/invocations", b"\n".join(lines), LINES)
        assert status == 200, answer
        return answer

    def raw(self, request: bytes) -> bytes:
        """Everything the server says to these bytes until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def wait_for_ping(port: int, gone: Any) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/ping")
            assert connection.getresponse().status == 200, "the port opens when the model is loaded"
            connection.close()
            return
        except ConnectionRefusedError:
            assert not gone(), "the server did not come up"
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture(scope="module")
def model() -> Any:
    """Two categories and two dynamic features."""
    return deepar.train(make_series(n=30, features=2), make_hp(epochs=1))


@pytest.fixture(scope="module")
def base(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    forked()
    folder = tmp_path_factory.mktemp("ml")
    make_layout(folder)
    deepar.save_artifact(model, folder / "model")
    return folder


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Server]:
    """Started as the image starts it, by a new interpreter."""
    with Server(base, warm=False) as started:
        yield started
        assert started.process.stop(30) == 0, started.said


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """1100 lines: more than two blocks."""
    path = tmp_path_factory.mktemp("records") / "in.json"
    deepar.write_records(make_series(n=1100, features=2, extra=6), path)
    return path.read_bytes().splitlines()


@pytest.fixture(scope="module")
def answers(model: Any, records: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What the local engine makes of the same lines."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "in.json").write_bytes(b"\n".join(records))
    deepar.transform(model, folder / "in.json", folder / "out", CONFIG, seed=7)
    return (folder / "out").read_bytes().splitlines()


class TestForecasts:
    def test_many_lines_are_the_bytes_of_the_local_transform(self, server, records, answers):
        assert server.forecast(*records, b"").splitlines() == answers

    def test_however_lines_are_divided_among_requests(self, server, records, answers):
        draw = random.Random(0)
        for size in (1, 1, 2, 7, 63, 512, 513):
            at = draw.sample(range(len(records)), size)
            assert server.forecast(*(records[i] for i in at)).splitlines() == [answers[i] for i in at]

    def test_clients_at_once_get_what_they_get_alone(self, server, records, answers):
        """Six of them, over kept connections, with large and small and refused requests between."""

        def client(number: int) -> None:
            draw, connection = random.Random(number), server.connect()
            for step in range(8):
                at = draw.sample(range(len(records)), draw.choice((1, 1, 5, 600)))
                bad = step % 4 == 3
                body = b"\n".join([*(records[i] for i in at), *([b"{"] if bad else [])])
                connection.request("POST", "/invocations", body, LINES)
                response = connection.getresponse()
                answer = response.read()
                assert response.status == (400 if bad else 200)
                assert bad or answer.splitlines() == [answers[i] for i in at]

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(client, range(6)))

    def test_an_endpoints_request_has_its_own_configuration(self, server, records, answers, model):
        instances = [json.loads(line) for line in records[:3]]
        status, answer = server.call("POST", "/invocations", json.dumps({"instances": instances}), JSON)
        assert status == 200
        assert json.loads(answer) == {"predictions": [json.loads(a) for a in answers[:3]]}
        configuration = {"output_types": ["samples", "quantiles"], "quantiles": ["0.9"], "num_samples": 5}
        body = json.dumps({"instances": instances, "configuration": configuration})
        status, answer = server.call("POST", "/invocations", body, {"Content-Type": "application/json; charset=utf-8"})
        first = json.loads(answer)["predictions"][0]
        assert (status, list(first), list(first["quantiles"])) == (200, ["quantiles", "samples"], ["0.9"])
        assert np.array(first["samples"]).shape == (5, 6)

    def test_a_new_interpreter_is_soon_ready(self, server):
        """SageMaker gives it minutes; this bound is generous for a busy machine."""
        assert server.seconds < 60
        assert server.said[0].endswith("with 2 workers")


def record(**changes: Any) -> str:
    good = {"start": "2010-02-05", "target": [1.0, 2.0], "cat": [0, 0], "dynamic_feat": [[1.0] * 8, [2.0] * 8]}
    return json.dumps({k: v for k, v in {**good, **changes}.items() if v is not None})


MALFORMED: dict[str, tuple[str, str]] = {
    "NaN": (record(target=[float("nan")], dynamic_feat=[[1] * 7] * 2), "line 2: bare NaN or Infinity is not JSON"),
    "pretty": (json.dumps(json.loads(record()), indent=1), "line 2: the object does not end on this line"),
    "half": (record()[:40], "line 2: the object does not end on this line"),
    "no object": ("[1, 2]", "line 2: a record is a JSON object; this is a list"),
    "no cat": (record(cat=None), "line 2: cat has no values, in request line 1 it has 2 values"),
    "one cat": (record(cat=[0]), "line 2: cat has 1 values, in request line 1 it has 2 values"),
    "unseen": (record(cat=[0, 9]), "line 2: cat[1] is 9; training saw 0 .. 3"),
    "no features": (record(dynamic_feat=None), "line 2: dynamic_feat has no values"),
    "one feature": (record(dynamic_feat=[[1] * 8]), "line 2: dynamic_feat has 1 values"),
    "short": (record(dynamic_feat=[[1] * 2] * 2), "line 2: dynamic_feat has 2 values per feature; at inference"),
    "gap": (record(dynamic_feat=[[1] * 7 + [None]] * 2), "line 2: dynamic_feat[0][7] is None"),
    "no target": (record(target=[]), "line 2: target is []; it must be an array of at least one value"),
    "zone": (record(start="2010-02-05T00:00:00Z"), "line 2: start is '2010-02-05T00:00:00Z'; write"),
    "typo": (record(targets=[1]), "line 2: unknown field 'targets'; did you mean 'target'?"),
    "text": ("start,target", "line 2: not valid JSON"),
    "bytes": ("\x00\xff", "line 2: not valid JSON"),
}  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize("case", MALFORMED)
    def test_a_bad_line_is_400_with_line_and_rule(self, server, case):
        line, says = MALFORMED[case]
        status, answer = server.call(
            "POST", "/invocations", f"{record()}\n{line}\n{record()}\n".encode("latin-1"), LINES
        )
        assert status == 400
        assert answer.decode().startswith("request line ")
        assert says in answer.decode()

    def test_all_lines_without_what_the_model_uses(self, server):
        status, answer = server.call("POST", "/invocations", record(cat=None), LINES)
        assert (status, answer) == (400, b"the model uses 2 categories per series; this set has 0")

    def test_a_line_keeps_its_number_in_a_large_request(self, server, records):
        """The first of two bad ones, in whichever block."""
        lines = [*records[:700], b"", b"{}", *records[700:1000], b"{"]
        status, answer = server.call("POST", "/invocations", b"\n".join(lines), LINES)
        assert (status, answer) == (400, b"request line 702: field 'start' is missing")

    @pytest.mark.parametrize("body", ["", "\n", " \r\n\n"])
    def test_an_empty_request(self, server, body):
        assert server.call("POST", "/invocations", body, LINES) == (
            400,
            b"the request is empty; send at least one record",
        )

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("{", "the request is not JSON"),
            ('{"instances": [{"start": "2010-02-05", "target": [NaN]}]}', "a missing value is null, never NaN"),
            ("[]", 'the request is {"instances": [..]'),
            ('{"instances": []}', "at least one instance"),
            ('{"instances": [7]}', "instance 0: a record is a JSON object"),
            (f'{{"instances": [{record()}, {record(cat=[0, 9])}]}}', "instance 1: cat[1] is 9"),
            (f'{{"instances": [{record()}], "configuration": 3}}', "configuration is a JSON object"),
            (f'{{"instances": [{record()}], "configuration": {{"num_sample": 3}}}}', "configuration has 'num_sample'"),
            (f'{{"instances": [{record()}], "configuration": {{"quantiles": ["2"]}}}}', "quantile '2' is not a number"),
        ],
    )
    def test_a_bad_endpoint_request(self, server, body, says):
        status, answer = server.call("POST", "/invocations", body, JSON)
        assert status == 400
        assert says in answer.decode()

    def test_a_fault_of_ours_is_logged_without_data(self):
        def fail(text: str) -> bytes:
            raise RuntimeError(f"sales were {text}")

        found = inference.guarded(fail, "123.45")
        assert isinstance(found, str)
        assert found.startswith("RuntimeError in\n")
        assert "test_container_serve.py" in found
        assert "123.45" not in found


class TestHTTP:
    def test_execution_parameters_keep_to_sagemakers_limits(self, server):
        status, answer = server.call("GET", "/execution-parameters")
        assert status == 200
        assert json.loads(answer) == {
            "MaxConcurrentTransforms": 2,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": 6,
        }

    @pytest.mark.parametrize(
        ("method", "path", "headers", "status"),
        [
            ("GET", "/", {}, 404),
            ("POST", "/ping2", {}, 404),
            ("POST", "/ping", {}, 405),
            ("GET", "/invocations", {}, 405),
            ("DELETE", "/invocations", {}, 405),
            ("POST", "/invocations", {}, 415),
            ("POST", "/invocations", {"Content-Type": "text/csv"}, 415),
            ("GET", "/ping?x=1", {}, 200),
        ],
    )
    def test_other_requests_are_refused_by_their_status(self, server, method, path, headers, status):
        assert server.call(method, path, b"x" if method == "POST" else None, headers)[0] == status

    def test_a_connection_is_kept_also_after_a_refusal(self, server, records, answers):
        connection = server.connect()
        connection.connect()
        port = connection.sock.getsockname()
        for path, headers, status in (
            ("/invocations", {"Content-Type": "text/csv"}, 415),
            ("/nowhere", {}, 404),
            ("/ping", {}, 405),
            ("/invocations", LINES, 200),
        ):
            connection.request("POST", path, records[0], headers)
            response = connection.getresponse()
            answer = response.read()
            assert response.status == status
            assert response.getheader("Allow") == ("GET" if status == 405 else None)
            assert connection.sock.getsockname() == port
        assert answer.splitlines() == answers[:1]

    def test_chunks_are_a_body(self, server, records, answers):
        body = b"\n".join(records[:3])
        parts = iter([body[:10], body[10:11], body[11:]])
        status, answer = server.call("POST", "/invocations", parts, {**LINES, "Transfer-Encoding": "chunked"})
        assert (status, answer.splitlines()) == (200, answers[:3])

    @pytest.mark.parametrize(
        ("head", "body", "status"),
        [
            (b"Transfer-Encoding: chunked", b"5\r\nab", 400),
            (b"Transfer-Encoding: chunked", b"zz\r\n", 400),
            (b"Transfer-Encoding: chunked", b"-5\r\n", 400),
            (b"Transfer-Encoding: chunked", b"ffffffff\r\n", 413),
            (b"Content-Length: 10", b"ab", 400),
            (b"Content-Length: -1", b"", 400),
            (b"Content-Length: 1e3", b"", 400),
            (b"Content-Length: 104857601", b"", 413),
            (b"X: y", b"", 411),
        ],
    )
    def test_a_body_that_is_not_whole_or_too_large_ends_the_connection(self, server, head, body, status):
        said = server.raw(b"POST /invocations HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
        assert said.startswith(b"HTTP/1.1 %d " % status), said
        assert b"\r\nConnection: close\r\n" in said

    def test_a_client_that_waits_for_continue_is_told_to(self, server, records, answers):
        head = f"POST /invocations HTTP/1.1\r\nContent-Type: {LINES['Content-Type']}\r\nExpect: 100-continue\r\n"
        head += f"Content-Length: {len(records[0])}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.sendall(records[0])
            assert connection.recv(65536).endswith(answers[0] + b"\n")

    def test_a_client_that_goes_away_harms_nobody(self, server, records, answers):
        for request in (b"", b"nonsense\r\n\r\n", b"POST /invocations HTTP/1.1\r\nContent-Length: 50\r\n\r\nab"):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(request)
        assert server.forecast(records[0]).splitlines() == answers[:1]


@pytest.mark.kill
class TestEnd:
    def test_sigterm_answers_what_is_under_way_and_no_more(self, base, records):
        with Server(base, MODEL_SERVER_WORKERS="1") as server:
            idle = server.connect()
            idle.request("GET", "/ping")
            idle.getresponse().read()
            body = b"\n".join(records)
            with ThreadPoolExecutor(1) as pool:
                under_way = pool.submit(server.call, "POST", "/invocations", body, LINES)
                wait_until_busy(server)
                server.process.signal(signal.SIGTERM, group=False)
                status, answer = under_way.result(60)
            assert (status, len(answer.splitlines())) == (200, len(records))
            assert server.process.wait(30) == 0
            assert server.said[-1] == "stopped"
            with pytest.raises(ConnectionRefusedError):
                server.call("GET", "/ping")

    def test_a_worker_that_dies_ends_the_server(self, base, records):
        with Server(base, MODEL_SERVER_WORKERS="1") as server:
            for worker in workers_of(server):
                os.kill(worker, signal.SIGKILL)
            status, answer = server.call("POST", "/invocations", records[0], LINES)
            assert (status, answer) == (500, b"a worker process died, perhaps for lack of memory")
            assert server.process.wait(30) == 1

    def test_workers_end_with_a_server_that_is_killed(self, base):
        with Server(base) as server:
            workers = workers_of(server)
            assert len(workers) == 2
            server.process.signal(signal.SIGKILL, group=False)
            end = time.monotonic() + 20
            while any(running(worker) for worker in workers):
                assert time.monotonic() < end
                time.sleep(0.05)

    @pytest.mark.parametrize(
        ("environment", "says"),
        [
            ({"DEEPAR_INFERENCE_CONFIG": "{"}, "DEEPAR_INFERENCE_CONFIG is '{'; it must be a JSON object"),
            ({"DEEPAR_INFERENCE_CONFIG": '{"num_samples": 0}'}, "num_samples is 0; give a whole number"),
            ({"DEEPAR_SEED": "x"}, "DEEPAR_SEED is 'x'; it must be a whole number"),
            ({"MODEL_SERVER_WORKERS": "0"}, "MODEL_SERVER_WORKERS is at least 1"),
        ],
    )
    def test_an_environment_that_can_not_be_used_ends_it_at_once(self, base, environment, says):
        said: list[str] = []
        assert Container(MODULE, "serve", base, {**ENVIRONMENT, **environment}, said.append).wait(60) == 2
        assert len(said) == 1
        assert said[0].startswith(f"ClientError: {says}")

    def test_no_model_ends_it_at_once(self, tmp_path):
        make_layout(tmp_path)
        said: list[str] = []
        assert Container(MODULE, "serve", tmp_path, ENVIRONMENT, said.append).wait(60) == 2
        assert said == [f"ClientError: {tmp_path}/model: the artifact lacks model.json"]

    def test_the_same_server_from_the_command_line(self, base, model, records, answers, tmp_path):
        deepar.save_artifact(model, tmp_path / "model.tar.gz")
        port = free_port()
        command = [sys.executable, "-m", "forecast_platform.cli", "deepar", "serve", "--port", str(port)]
        with subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **ENVIRONMENT}, stderr=subprocess.PIPE
        ) as process:
            try:
                wait_for_ping(port, lambda: process.poll() is not None)
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request("POST", "/invocations", records[0], LINES)
                assert connection.getresponse().read().splitlines() == answers[:1]
            finally:
                process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def workers_of(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def running(pid: int) -> bool:
    try:
        return stat(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_busy(server: Server) -> None:
    """Until the worker computes: by the processor time it has used."""
    (worker,) = workers_of(server)

    def used() -> int:
        return sum(map(int, stat(worker)[11:13]))

    before, end = used(), time.monotonic() + 30
    while used() <= before + 2:
        assert time.monotonic() < end
        time.sleep(0.005)
