"""The Lambda: what it reports, and the zip itself telling a real Dagster webserver, which the sensor then hears."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from forecast_platform.clouds.aws import lambda_function, package_lambda
from forecast_platform.clouds.aws.events import EventError
from forecast_platform.clouds.aws.lambda_function import Config, NotReported, lambda_handler, observations
from forecast_platform.clouds.aws.landing import S3Landing
from forecast_platform.settings import Settings
from forecast_platform_tests.clouds.aws.test_events import eventbridge, forms, record
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.defs.test_landing_sensor import Ticking, W, sales

CONFIG = Config.of({"DAGSTER_URL": "http://dagster:3000/", "LANDING_PREFIX": "in"})


def test_one_object_is_one_observation_in_every_form():
    metadata = {"url": "s3://drop/in/sales/a.csv", "size": 7, "etag": "abc", "version_id": "v"}
    for body in forms("in/sales/a.csv"):
        if not isinstance(body, bytes):
            assert observations(body, CONFIG) == [{"metadata": metadata}]


def test_the_same_object_twice_is_reported_once_and_others_not_at_all():
    names = ("in/sales/a.csv", "in/sales/a.csv", "in/sales/", "inside/b.csv", "in/sales/b.csv")
    found = observations({"Records": [record(name) for name in names]}, CONFIG)
    assert [body["metadata"]["url"] for body in found] == ["s3://drop/in/sales/a.csv", "s3://drop/in/sales/b.csv"]


def test_the_pinned_model_travels_along():
    config = Config.of({"DAGSTER_URL": "https://dagster", "MODEL_NAME": "m1"})
    (body,) = observations(eventbridge("sales/a.csv"), config)
    assert body["metadata"]["model"] == "m1"


@pytest.mark.parametrize("url", ["", "dagster:3000", "file:///etc/passwd"])
def test_a_lambda_without_an_address_says_so(url: str):
    with pytest.raises(ValueError, match="DAGSTER_URL should be"):
        Config.of({"DAGSTER_URL": url})


# --- a web server that answers as told


class Web:
    """Keeps what was posted; answers with `answers`, then with 200."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                web.posted.append({"path": self.path} | body)
                web.headers.append(dict(self.headers))
                code = web.answers.pop(0) if web.answers else 200
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/login")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_GET(self) -> None:
                raise AssertionError("a report is never a GET")

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    found = Web()
    monkeypatch.setenv("DAGSTER_URL", found.url)
    for name in ("LANDING_PREFIX", "MODEL_NAME", "DAGSTER_TOKEN_SECRET_ARN"):
        monkeypatch.delenv(name, raising=False)
    lambda_function.secret_token.cache_clear()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_notification_is_posted(web: Web):
    assert lambda_handler({"Records": [record("sales/a.csv"), record("sales/b.csv")]}) == {"reported": 2}
    assert [p["path"] for p in web.posted] == ["/report_asset_observation/landing"] * 2


@pytest.mark.parametrize("code", [302, 400, 401, 500])
def test_one_that_is_refused_is_raised_after_the_others_were_told(web: Web, code: int):
    web.answers = [code]
    with pytest.raises(NotReported, match=rf"s3://drop/sales/a.csv: .* answered {code}") as raised:
        lambda_handler({"Records": [record("sales/a.csv"), record("sales/b.csv")]})
    assert "b.csv" not in str(raised.value)
    assert len(web.posted) == 2


def test_dagster_out_of_reach_is_raised(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_URL", "http://127.0.0.1:9")
    with pytest.raises(NotReported, match="can't be reached"):
        lambda_handler(eventbridge("sales/a.csv"))


def test_what_is_no_s3_event_is_raised(web: Web):
    with pytest.raises(EventError):
        lambda_handler({"hello": 1})


def test_of_a_batch_from_a_queue_only_the_failed_messages_come_again(web: Web):
    bodies = [json.dumps({"Records": [record("a")]}), "poison", json.dumps({"Records": [record("b")]}), "{}"]
    records = [{"eventSource": "aws:sqs", "messageId": f"m{i}", "body": b} for i, b in enumerate(bodies)]
    web.answers = [200, 503]
    failed = [f["itemIdentifier"] for f in lambda_handler({"Records": records})["batchItemFailures"]]
    assert failed == ["m1", "m2", "m3"]


def test_the_token_is_a_secret_kept_until_it_is_refused(
    web: Web, s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    import boto3

    secrets = boto3.Session().client("secretsmanager")
    arn = secrets.create_secret(Name="dagster", SecretString="old")["ARN"]
    monkeypatch.setenv("DAGSTER_TOKEN_SECRET_ARN", arn)
    lambda_handler(eventbridge("a"))
    secrets.put_secret_value(SecretId=arn, SecretString="new")
    web.answers = [401]
    with pytest.raises(NotReported) as raised:
        lambda_handler(eventbridge("a"))
    lambda_handler(eventbridge("a"))
    assert [h["Authorization"] for h in web.headers] == ["Bearer old", "Bearer old", "Bearer new"]
    assert "old" not in str(raised.value) + capsys.readouterr().out


# --- the zip, and Dagster's own webserver


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    package_lambda.build(tmp_path / "dist" / "lambda.zip")
    return tmp_path / "dist" / "lambda.zip"


def test_the_zip_is_the_same_bytes_each_time_and_holds_the_code_alone(archive: Path, tmp_path: Path):
    for path in package_lambda.MEMBERS.values():
        os.utime(path)
    package_lambda.build(tmp_path / "again.zip")
    assert archive.read_bytes() == (tmp_path / "again.zip").read_bytes()
    assert zipfile.ZipFile(archive).namelist() == sorted(package_lambda.MEMBERS)


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return tmp_path / "dagster"


@pytest.fixture
def webserver(dagster_home: Path) -> Iterator[str]:
    """Dagster's webserver over an instance of its own; it needs no code location to take reports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("dagster-webserver"), "--empty-workspace", "-h", "127.0.0.1"]
    with open(dagster_home / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, "-p", str(port)],
            env=os.environ | {"DAGSTER_HOME": str(dagster_home)},
            cwd=dagster_home,
            stdout=log,
            stderr=log,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{url}/server_info").close()
                    break
                except OSError:
                    assert process.poll() is None, (dagster_home / "log").read_text()
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def test_the_zip_tells_dagster_and_the_sensor_hears_it(
    home: Path, s3: Any, archive: Path, webserver: str, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
):
    """Python without any installed package runs the handler, twice for the same file; the sensor does not list."""
    graph = Graph(Settings(**SMALL, landing_url="s3://drop/in"))
    graph.instance = dg.DagsterInstance.from_config(str(dagster_home))
    sensor = Ticking(graph)
    with graph.instance:
        sensor.tick()
        assert sensor.memory["listed"] == "", "nobody tells of files yet, so each tick lists"
        s3.put_object(Bucket="drop", Key="in/sales/a b.csv", Body=sales(W[4]))
        code = "import json, sys; sys.path.insert(0, sys.argv[1]); import lambda_function as f\n"
        code += "print(f.lambda_handler(json.loads(sys.argv[2])))"
        event = json.dumps({"Records": [record("in/sales/a b.csv"), record("in/sales/gone.csv")]})
        environment = {"DAGSTER_URL": webserver, "LANDING_PREFIX": "in", "MODEL_NAME": "m1"}
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", code, str(archive), event],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout.strip() == "{'reported': 2}", done.stderr
        (request,) = sensor.tick().run_requests
        assert (request.partition_key, request.tags["forecast/model"]) == ("2025-01-31", "m1")
        assert sensor.memory["listed"], "told of files, it lists to reconcile only"
        s3.put_object(Bucket="drop", Key="in/sales/untold.csv", Body=sales(W[3]))
        monkeypatch.setattr(S3Landing, "list", lambda *a, **k: pytest.fail("listed"))
        assert sensor.tick().run_requests == []
        records = graph.instance.fetch_observations(dg.AssetKey("landing"), limit=9).records
        assert [r.asset_observation.metadata["etag"].value for r in records] == ["abc"] * 4


def test_a_file_observed_marks_no_week_as_out_of_date(graph: Graph):
    """With a data version on the observation, Dagster would show every week of raw_sales as stale."""
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    graph.land({"sales/a.csv": sales(W[4])})
    for _ in range(2):
        (body,) = observations(eventbridge("in/sales/a.csv"), CONFIG)
        graph.instance.report_runless_asset_event(dg.AssetObservation("landing", **body))
        assert graph.run("ingest_history", W[4], ["raw_sales"]).success
    context = LoadingContextForTest(graph.instance)
    resolver = CachingStaleStatusResolver(graph.instance, graph.defs.resolve_asset_graph(), context)
    assert resolver.get_status(dg.AssetKey("raw_sales"), "2025-01-31") == StaleStatus.FRESH
