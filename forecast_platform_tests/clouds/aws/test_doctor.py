"""`forecast doctor --profile aws`: each fault of an installation is found, alone, with what mends it.

moto is the AWS here, with the template's resources made by its API. It knows no SageMaker quotas, so those are served
by a few lines of our own; and it takes any credentials, so refusals are made by a proxy in front of it.
"""

from __future__ import annotations

import datetime as dt
import functools
import http.server
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from forecast_platform.cli import main
from forecast_platform.clouds.aws import doctor
from forecast_platform.clouds.aws.storage import Storage, StorageError
from forecast_platform.engines.sagemaker import doctor as sagemaker
from forecast_platform.engines.sagemaker.cost import Spending
from forecast_platform.settings import Settings

TRUST = {
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}]
}
TRAINING, TRANSFORM = "ml.c5.2xlarge for training job usage", "ml.c5.2xlarge for transform job usage"


_OF_THE_HOP = ("host", "connection", "expect", "content-length", "transfer-encoding", "date", "server")


class Gate(http.server.ThreadingHTTPServer):
    """Stands in front of moto: answers SageMaker's quotas, refuses what is in `denied`, passes on the rest."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.denied: set[str] = set()
        self.quotas: dict[str, float] = {TRAINING: 1, TRANSFORM: 1}
        self.pages_read = 0

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
        target = self.headers.get("X-Amz-Target", "")
        action = target.rpartition(".")[2] or f"{self.command} {self.path.partition('?')[0].split('/')[1]}"
        if action in self.server.denied and target:
            return self._send(400, json.dumps({"__type": "AccessDeniedException", "message": "no"}).encode())
        if action in self.server.denied:
            return self._send(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        if target.startswith("ServiceQuotas"):
            return self._send(200, json.dumps(self._quotas(json.loads(body))).encode())
        headers = {"Content-Type": "application/octet-stream"}  # or urllib calls it a form
        headers |= {key: value for key, value in self.headers.items() if key.lower() not in _OF_THE_HOP}
        request = urllib.request.Request(self.server.behind + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request) as reply:
                self._send(reply.status, reply.read(), dict(reply.headers))
        except urllib.error.HTTPError as error:
            self._send(error.code, error.read(), dict(error.headers))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _quotas(self, request: dict[str, Any]) -> dict[str, Any]:
        """One quota a page: they are hundreds in truth, so a page that is not read is a quota not found."""
        assert request["ServiceCode"] == "sagemaker"
        self.server.pages_read += 1
        items = [("ml.c5.2xlarge for endpoint usage", 7.0), *self.server.quotas.items()]
        number = int(request.get("NextToken", 0))
        name, value = items[number]
        page = {"Quotas": [{"QuotaName": name, "QuotaCode": f"L-{number:08}", "Value": value}]}
        return page | ({"NextToken": str(number + 1)} if number + 1 < len(items) else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            if key.lower() not in _OF_THE_HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
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


@functools.cache
def moto(service: str, endpoint: str) -> Any:
    """Made once: making one reads the service's whole model."""
    import boto3

    return boto3.Session().client(service, endpoint_url=endpoint)


@pytest.fixture
def installation(gate: Gate, endpoint: str) -> dict[str, str]:
    """A sound installation. Returns the settings it is described by, without FORECAST_."""

    def client(service: str) -> Any:
        return moto(service, endpoint)

    client("s3").create_bucket(Bucket="store")
    client("s3").put_object(Bucket="drop", Key="landing/sales/2025-01-31.csv", Body=b"x")
    sqs = client("sqs")
    sqs.create_queue(QueueName="dead")
    redrive = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead", "maxReceiveCount": 5}
    queue = sqs.create_queue(QueueName="landing", Attributes={"RedrivePolicy": json.dumps(redrive)})["QueueUrl"]
    client("glue").create_database(DatabaseInput={"Name": "forecast"})
    client("athena").create_work_group(
        Name="forecast",
        Configuration={
            "ResultConfiguration": {"OutputLocation": "s3://store/athena/"},
            "BytesScannedCutoffPerQuery": 10737418240,
        },
    )
    role = client("iam").create_role(RoleName="jobs", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
    repository = client("ecr").create_repository(repositoryName="deepar")["repository"]["repositoryUri"]
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
    manifest |= {"config": {"digest": "sha256:" + "0" * 64}, "layers": []}
    client("ecr").put_image(repositoryName="deepar", imageManifest=json.dumps(manifest), imageTag="abc")
    return {
        "profile": "aws",
        "landing_url": "s3://drop/landing",
        "storage_url": "s3://store/platform",
        "queue_url": queue,
        "role_arn": role,
        "image": f"{repository}:abc",
    }


def all_checks(settings: Settings) -> dict[str, Callable[[], str]]:
    return doctor.checks(settings) | (sagemaker.checks(settings) if settings.engine_name != "local" else {})


def findings(installation: dict[str, str], *only: str, **changes: Any) -> dict[str, str]:
    """The findings of all checks or of some, by check; a sound installation has none."""
    found = {}
    checks = all_checks(Settings(**{**installation, **changes}))
    for name in only or checks:
        try:
            assert checks[name]()
        except (doctor.Finding, StorageError) as finding:
            found[name] = str(finding)
    return found


def test_a_sound_installation_has_no_finding_and_keeps_nothing_of_the_probe(
    installation: dict[str, str], s3: Any, gate: Gate
) -> None:
    assert findings(installation) == {}
    assert s3.list_objects_v2(Bucket="store")["KeyCount"] == 0
    assert gate.pages_read == 3


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"landing_url": "s3://nowhere/landing"}, "landing", "no bucket nowhere: make deploy"),
        ({"storage_url": "s3://nowhere"}, "storage", "FORECAST_STORAGE_URL"),
        ({"queue_url": "http://127.0.0.1/123456789012/gone"}, "queue", "no such queue: make deploy TRIGGER=sqs"),
        ({"database": "gone"}, "catalog", "FORECAST_DATABASE"),
        ({"workgroup": "gone"}, "workgroup", "FORECAST_WORKGROUP"),
        ({"role_arn": "arn:aws:iam::123456789012:role/gone"}, "role", "no such role: make deploy"),
        ({"image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/deepar:old"}, "image", "make image IMAGE="),
        ({"image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/gone:abc"}, "image", "no repository gone"),
        ({"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/deepar:abc"}, "image", "lies in eu-west-1"),
        ({"image": "docker.io/deepar:abc"}, "image", "no address of an image in ECR"),
        ({"train_instance": "ml.m5.large"}, "quota", "ml.m5.large for training job usage"),
        ({"spot": True}, "quota", "ml.c5.2xlarge for spot training job usage"),
        ({"engine": "sagemaker-builtin", "train_instances": 3}, "quota", "--desired-value 3"),
        ({"transform_instances": 2}, "quota", "--quota-code L-00000002 --desired-value 2"),
        ({"max_job_usd": 0.1}, "caps", "FORECAST_MAX_JOB_USD"),
    ],
)
def test_a_wrong_setting_is_one_finding_with_what_mends_it(
    installation: dict[str, str], changes: dict[str, Any], check: str, words: str
) -> None:
    found = findings(installation, **changes)
    assert check in found
    assert words in found[check]
    # Storage also keeps the ledger that the caps are told from; nothing else hangs together.
    assert set(found) - {check} <= ({"caps"} if check == "storage" else set())


@pytest.mark.parametrize(
    ("denied", "check", "permission"),
    [
        ("GET drop", "landing", "s3:ListBucket"),
        ("PUT store", "storage", "s3:PutObject"),
        ("DELETE store", "storage", "s3:DeleteObject"),
        ("GetQueueAttributes", "queue", "sqs:GetQueueAttributes"),
        ("GetDatabase", "catalog", "glue:GetDatabase"),
        ("GetTables", "catalog", "glue:GetTables"),
        ("GetWorkGroup", "workgroup", "athena:GetWorkGroup"),
        ("ListServiceQuotas", "quota", "servicequotas:ListServiceQuotas"),
        ("DescribeImages", "image", "ecr:DescribeImages"),
    ],
)
def test_a_refusal_names_the_permission(
    installation: dict[str, str], gate: Gate, denied: str, check: str, permission: str
) -> None:
    gate.denied = {denied}
    found = findings(installation, check)
    assert "access denied" in found[check]
    assert permission in found[check]


def test_a_quota_of_zero_comes_with_the_request_for_more(installation: dict[str, str], gate: Gate) -> None:
    gate.quotas[TRAINING] = 0
    assert (
        "aws service-quotas request-service-quota-increase --service-code sagemaker --quota-code L-00000001"
        in (findings(installation)["quota"])
    )


def test_events_that_failed_and_a_queue_without_dead_letters_are_findings(
    installation: dict[str, str], endpoint: str
) -> None:
    sqs = moto("sqs", endpoint)
    bare = sqs.create_queue(QueueName="bare")["QueueUrl"]
    assert "no dead-letter queue" in findings(installation, "queue", queue_url=bare)["queue"]
    sqs.send_message(QueueUrl=installation["queue_url"].replace("landing", "dead"), MessageBody="poison")
    found = findings(installation, "queue")
    assert "1 events failed for good" in found["queue"]
    assert "start-message-move-task --source-arn arn:aws:sqs:us-east-1:123456789012:dead" in found["queue"]
    assert findings(installation, "queue", queue_url="") == {}, "without a queue, listing alone finds the files"


def test_a_role_of_another_service_is_named(installation: dict[str, str], endpoint: str) -> None:
    trust = json.dumps(TRUST).replace("sagemaker", "ec2")
    iam = moto("iam", endpoint)
    arn = iam.create_role(RoleName="platform", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    assert "does not trust sagemaker.amazonaws.com" in findings(installation, "role", role_arn=arn)["role"]


def test_a_workgroup_without_results_or_limit_is_a_finding(installation: dict[str, str], endpoint: str) -> None:
    athena = moto("athena", endpoint)
    athena.create_work_group(Name="bare", Configuration={})
    assert "no place for results" in findings(installation, "workgroup", workgroup="bare")["workgroup"]
    location = {"ResultConfiguration": {"OutputLocation": "s3://store/athena/"}}
    athena.create_work_group(Name="endless", Configuration=location)
    assert "no limit of bytes scanned" in findings(installation, "workgroup", workgroup="endless")["workgroup"]


def test_the_engine_decides_what_is_looked_at(installation: dict[str, str]) -> None:
    ours = all_checks(Settings(**installation))
    builtin = all_checks(Settings(**{**installation, "engine": "sagemaker-builtin", "image": ""}))
    here = all_checks(Settings(**{**installation, "engine": "local", "image": "", "role_arn": ""}))
    assert set(ours) - set(builtin) == {"image"}
    assert set(builtin) - set(here) == {"role", "quota", "caps"}


def test_the_command_shows_every_line_and_fails_on_findings(
    installation: dict[str, str], home: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in installation.items():
        if name != "profile":
            monkeypatch.setenv(f"FORECAST_{name.upper()}", value)
    now = dt.datetime.now(dt.UTC)
    settings = Settings(**installation)
    Spending(Storage(settings.storage_url), {}, 10, 200, lambda: now).reserve("forecast-x", "ml.c5.2xlarge", 1, 3600)
    sound = CliRunner().invoke(main, ["doctor", "--profile", "aws"])
    assert sound.exit_code == 0, sound.output
    looked_at = [line.split()[1] for line in sound.output.splitlines() if line.startswith("ok ")]
    assert looked_at == ["versions", "torch", "home", "contract", *all_checks(settings), "upgrade"]
    assert "0.41 of 200.00 USD of this month" in sound.output
    gate.denied = {"GetDatabase"}
    monkeypatch.setenv("FORECAST_WORKGROUP", "gone")
    ill = CliRunner().invoke(main, ["doctor", "--profile", "aws"])
    assert ill.exit_code == 1
    assert [line.split()[1] for line in ill.output.splitlines() if line.startswith("FAIL")] == [
        "catalog",
        "workgroup",
        "upgrade",
    ]
    monkeypatch.delenv("FORECAST_STORAGE_URL")
    unset = CliRunner().invoke(main, ["doctor", "--profile", "aws"])
    assert unset.exit_code == 1
    assert "profile aws needs FORECAST_STORAGE_URL; the outputs of infra/ name them" in unset.output
