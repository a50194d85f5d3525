"""Roles apart: each may do what it was seen to do, over the wire, and nothing that nobody was seen to do."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from forecast_platform.clouds.aws import doctor, queue
from forecast_platform.clouds.aws.athena import Athena
from forecast_platform.clouds.aws.clients import client, session
from forecast_platform.clouds.aws.glue import glue_lake
from forecast_platform.dashboard.source import Source
from forecast_platform.demo import MadeUpRetailer, history_files, make_retailer
from forecast_platform.engines.sagemaker import doctor as sagemaker_doctor
from forecast_platform.engines.sagemaker import engine_of
from forecast_platform.engines.sagemaker.specs import TRAIN, TRANSFORM
from forecast_platform.lake.maintenance import maintain
from forecast_platform.lake.tables import VIEWS, table_specs
from forecast_platform.settings import Settings
from forecast_platform_tests.clouds.aws.gate import Gate, gate
from forecast_platform_tests.conftest import SMALL, weeks_of
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.defs.test_landing_sensor import Ticking
from forecast_platform_tests.infra.calls import asked, asked_of_s3, check, recorded
from forecast_platform_tests.infra.template import ACCOUNT, PATH, REGION, Stack, allows, listed, load, resolve
from forecast_platform_tests.infra.test_alarms import tick
from forecast_platform_tests.infra.test_templates import deploy
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator
from forecast_platform_tests.sagemaker_emulator.fixtures import sagemaker, sagemaker_server

__all__ = ["gate", "sagemaker", "sagemaker_server"]

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

# Athena asks for these with the rights of who asks it; moto's does not.
BY_ATHENA = {"athena:GetDataCatalog", "s3:GetBucketLocation", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"}
# Systems Manager's agent on the machine, and Docker, which prints to CloudWatch.
BY_THE_MACHINE = {
    *("logs:CreateLogStream", "logs:PutLogEvents"),
    *("ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel"),
    *("ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"),
}
# What BI tools list before they ask; none runs here. GetQueryResultsStream is how Athena's JDBC driver reads.
BY_BI = {
    *("athena:ListDatabases", "athena:GetDatabase", "athena:ListTableMetadata", "athena:GetTableMetadata"),
    *("athena:ListWorkGroups", "athena:ListDataCatalogs", "athena:GetQueryResultsStream", "athena:GetWorkGroup"),
    *("athena:StopQueryExecution", "glue:GetDatabases", "glue:GetPartitions", "glue:GetTables", "s3:ListBucket"),
}


def actions(stack: Stack, role: str) -> set[str]:
    return {action for statement in stack.policies(role) for action in listed(statement["Action"])}


class Installation:
    """A stack on moto, and settings as its outputs give them."""

    def __init__(self, s3: Any, endpoint: str) -> None:
        self.stack, outputs = deploy({}, s3, endpoint)
        # moto gives roles a name of its own.
        trust = {"Principal": {"Service": "sagemaker.amazonaws.com"}, "Effect": "Allow", "Action": "sts:AssumeRole"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        boto3.Session().client("iam").create_role(RoleName="ExecutionRole", AssumeRolePolicyDocument=policy)
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
        manifest |= {"config": {"digest": "sha256:" + "0" * 64}, "layers": []}
        name, _, tag = self.stack.outputs["Image"].partition("/")[2].partition(":")
        put = boto3.Session().client("ecr").put_image
        put(repositoryName=name, imageManifest=json.dumps(manifest), imageTag=tag)
        described = {name: output["Description"] for name, output in load()["Outputs"].items()}
        given = {
            described[name].removeprefix("FORECAST_").lower(): value
            for name, value in {**self.stack.outputs, "QueueUrl": outputs["QueueUrl"]}.items()
            if described[name].startswith("FORECAST_")
        }
        self.settings = Settings(**{**SMALL, **given, "profile": "aws", "transform_shards": 2})


@pytest.fixture(scope="module")
def retailer() -> MadeUpRetailer:
    return make_retailer(stores=6, depts=6, first=dt.date(2024, 11, 8), last=dt.date(2025, 1, 31))


@pytest.mark.timeout(900)  # thousands of requests, each recorded on its way
def test_the_platform_the_etl_and_the_dashboard_have_the_rights_they_use_and_no_others(
    gate: Gate, sagemaker: Emulator, s3: Any, endpoint: str, retailer: MadeUpRetailer, home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS")  # the gate's
    installation = Installation(s3, endpoint)
    stack, settings = installation.stack, installation.settings

    # A file lands: S3 alone is asked.
    gate.plain.clear()
    bucket = settings.landing_url.removeprefix("s3://").partition("/")[0]
    lander = boto3.Session().client("s3")
    for name, data in history_files(retailer, weeks_of(retailer)[-1], dirty_rows=2).items():
        lander.put_object(Bucket=bucket, Key=f"landing/{name}", Body=data)
    large = lander.create_multipart_upload(Bucket=bucket, Key="landing/sales/large.csv")["UploadId"]
    lander.abort_multipart_upload(Bucket=bucket, Key="landing/sales/large.csv", UploadId=large)
    assert check(stack, "EtlRole", asked_of_s3(gate.plain)) == actions(stack, "EtlRole")

    # The platform: sensor, graph, jobs, doctor, SQL, maintenance.
    gate.plain.clear()
    calls = recorded(monkeypatch)
    graph = Graph(settings)
    graph.platform.engine = engine_of(settings, sleep=lambda seconds: time.sleep(min(seconds, 0.02)))
    monkeypatch.setattr(queue, "VISIBILITY", 1)
    sensor = Ticking(graph)
    assert f"weekly_forecast {weeks_of(retailer)[-1]}" in sensor.until_rest()
    time.sleep(1.1)  # messages come back, and are taken out: the lake holds what they tell of
    sensor.tick()
    for word, job in sagemaker.jobs:
        graph.platform.engine.jobs.stop(TRAIN if word == "training" else TRANSFORM, job)  # type: ignore[attr-defined]
    checks = doctor.checks(settings) | sagemaker_doctor.checks(settings)
    gate.applied |= dict.fromkeys(gate.defaults, 1)
    for name, ask in checks.items():
        assert ask(), name
    graph.platform.cloud.renew_views()
    with contextlib.suppress(InterruptedError):
        interrupted(settings).query("SELECT 1")
    assert "told: Heartbeat 1" in tick(graph)[0]
    maintain(graph.lake, dt.timedelta(0), dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    used = check(stack, "PlatformRole", asked(calls) + asked_of_s3(gate.plain))
    assert actions(stack, "PlatformRole") - used - {"sts:AssumeRole"} == BY_ATHENA | BY_THE_MACHINE

    # The dashboard.
    gate.plain.clear()
    calls.clear()
    lake = glue_lake(f"{settings.storage_url}/lake", settings.database, settings.quantile_columns)
    state = Source(lake).state()
    for name in (*table_specs(settings.quantile_columns), *VIEWS):
        state.rows(f"SELECT * FROM {name}")
    assert state.rows("SELECT count(*) AS n FROM forecasts")[0]["n"]
    used = check(stack, "DashboardRole", asked(calls) + asked_of_s3(gate.plain))
    assert used == actions(stack, "DashboardRole")

    # A reader: what Athena does for one who asks for a table is the dashboard's, by tables.
    tables = {name: f"{settings.storage_url}/lake/forecast/{name}/" for name in table_specs(())}
    for name, location in tables.items():
        assert lake.catalog.load_table(("forecast", name)).location() + "/" == location
    assert actions(stack, "ReaderRole") - BY_BI - BY_ATHENA == {
        *("athena:StartQueryExecution", "athena:GetQueryExecution", "athena:GetQueryResults"),
        *("glue:GetDatabase", "glue:GetTable", "s3:GetObject", "s3:PutObject"),
    }


def interrupted(settings: Settings) -> Athena:
    """An Athena whose queries never end, and whose user loses patience."""
    athena = client("athena")

    def never(**_: Any) -> dict[str, Any]:
        return {"QueryExecution": {"Status": {"State": "RUNNING"}}}

    def wait(seconds: float) -> None:
        raise InterruptedError

    athena.get_query_execution = never
    return Athena(settings.workgroup, settings.database, athena, wait)


# --------------------------------------------------------------------------------------------------- readers, by table

NOT_FOR_READERS = {"raw_sales", "landings", "quarantine", "notices"}


def test_readers_read_tables_for_people_and_every_view_of_theirs_whole() -> None:
    reader, glue = resolve().policies("ReaderRole"), f"arn:aws:glue:{REGION}:{ACCOUNT}:table/forecast"
    storage = f"arn:aws:s3:::forecast-storage-{ACCOUNT}-{REGION}/lake/forecast"

    def may(name: str) -> bool:
        return allows(reader, "glue:GetTable", f"{glue}/{name}")

    def files(name: str) -> bool:
        return allows(reader, "s3:GetObject", f"{storage}/{name}/data/a.parquet")

    tables = table_specs(())
    assert {name for name in tables if not may(name)} == NOT_FOR_READERS
    assert {name for name in tables if not files(name)} == NOT_FOR_READERS
    assert [name for name in VIEWS if may(name)] == list(VIEWS)
    read = {name for name in tables for sql in VIEWS.values() if f" {name}" in sql}
    assert not read & NOT_FOR_READERS, "a view for people is over a table that is not"


# --------------------------------------------------------------------------- the dashboard's identity on one machine


class _Machine(BaseHTTPRequestHandler):
    """EC2's metadata service (IMDSv2) of a machine with the platform's profile."""

    def log_message(self, *_: Any) -> None: ...

    def do_PUT(self) -> None:
        self._say("token")

    def do_GET(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token"] == "token"
        soon = f"{dt.datetime.now(dt.UTC) + dt.timedelta(hours=6):%FT%TZ}"
        keys = {"AccessKeyId": "ASIAPLATFORM", "SecretAccessKey": "s", "Token": "t", "Expiration": soon}
        keys["Code"] = "Success"
        self._say(json.dumps(keys) if self.path.endswith("/platform") else "platform")

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def machine() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Machine)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_on_one_machine_the_dashboard_s_container_takes_the_dashboard_s_role(
    machine: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = yaml.safe_load((PATH.parents[1] / "docker" / "compose.yaml").read_text())
    service = compose["services"]["dashboard"]
    (config,) = service["configs"]
    assert service["environment"]["AWS_CONFIG_FILE"] == config["target"]
    assert "AWS_CONFIG_FILE" not in compose["services"]["code"]["environment"]
    role = f"arn:aws:iam::{ACCOUNT}:role/dashboard"
    asked_for = "${DASHBOARD_ROLE_ARN:?make settings prints it}"
    content = compose["configs"][config["source"]]["content"]
    assert asked_for in content
    (tmp_path / "config").write_text(content.replace(asked_for, role))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", machine)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", REGION)
    assert session().get_credentials().method == "assume-role"
    assert client("sts").get_caller_identity()["Arn"].startswith(f"arn:aws:sts::{ACCOUNT}:assumed-role/dashboard/")
    by = resolve()
    assert by.resources["DashboardRole"]["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {
        "AWS": f"arn:aws:iam::{ACCOUNT}:role/PlatformRole"
    }
    assert allows(by.policies("PlatformRole"), "sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/DashboardRole")
