"""`forecast doctor --profile aws`: each fault of an installation is found, alone, with what mends it.

moto is the AWS here, with the template's resources made by its API, and gate.py in front of it, which knows quotas and
refuses.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import NoRegionError
from click.testing import CliRunner

from forecast_platform.cli import main
from forecast_platform.clouds.aws import doctor
from forecast_platform.clouds.aws.clients import client
from forecast_platform.clouds.aws.storage import Storage, StorageError
from forecast_platform.engines.sagemaker import doctor as sagemaker
from forecast_platform.engines.sagemaker.cost import Spending
from forecast_platform.settings import Settings
from forecast_platform_tests.clouds.aws.gate import TRAINING, Gate

TRUST = {
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}]
}


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
    asked = {name: gate.calls[name] for name in ("ListAWSDefaultServiceQuotas", "ListServiceQuotas")}
    assert asked == {"ListAWSDefaultServiceQuotas": 3, "ListServiceQuotas": 1}


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"landing_url": "s3://nowhere/landing"}, "landing", "no bucket nowhere: make deploy"),
        ({"storage_url": "s3://nowhere"}, "storage", "FORECAST_STORAGE_URL"),
        ({"queue_url": "http://127.0.0.1/123456789012/gone"}, "queue", "no such queue: make deploy"),
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
        ("StartQueryExecution", "workgroup", "athena:StartQueryExecution"),
        ("GetQueryResults", "workgroup", "s3:GetObject on s3://store/athena/*"),
        ("ListAWSDefaultServiceQuotas", "quota", "servicequotas:ListAWSDefaultServiceQuotas"),
        ("ListServiceQuotas", "quota", "servicequotas:ListServiceQuotas"),
        ("DescribeImages", "image", "ecr:DescribeImages"),
    ],
)
def test_a_refusal_names_the_permission(
    installation: dict[str, str], gate: Gate, denied: str, check: str, permission: str
) -> None:
    gate.denied = {denied}
    found = findings(installation, check)
    assert "access denied" in found[check].lower().replace("accessdenied", "access denied")
    assert permission in found[check]


def test_a_quota_of_zero_comes_with_the_request_for_more(installation: dict[str, str], gate: Gate) -> None:
    gate.applied[TRAINING] = 0
    assert (
        "aws service-quotas request-service-quota-increase --service-code sagemaker --quota-code L-00000001"
        in (findings(installation)["quota"])
    )


def test_a_quota_that_was_never_changed_is_known_by_its_default(installation: dict[str, str], gate: Gate) -> None:
    """ListServiceQuotas does not name it at all."""
    gate.defaults[TRAINING], gate.applied = 4, {}
    assert findings(installation, "quota") == {}
    gate.defaults[TRAINING] = 0
    assert f"{TRAINING} is 0 and 1 needed" in findings(installation, "quota")["quota"]


@pytest.mark.parametrize(
    "manifest",
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"],
)
def test_an_image_that_sagemaker_refuses_is_a_finding(
    installation: dict[str, str], endpoint: str, manifest: str
) -> None:
    body = {"schemaVersion": 2, "mediaType": manifest, "config": {"digest": "sha256:" + "1" * 64}, "layers": []}
    moto("ecr", endpoint).put_image(repositoryName="deepar", imageManifest=json.dumps(body), imageTag="plain")
    found = findings(installation, "image", image=installation["image"].replace(":abc", ":plain"))
    assert f"a manifest of type {manifest}, which SageMaker refuses" in found["image"]


@pytest.mark.parametrize(
    ("given", "region"),
    [
        ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-west-1"}, "eu-central-1"),
        ({"AWS_PROFILE": "shop"}, "sa-east-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_PROFILE": "shop"}, "eu-central-1"),
        ({}, None),
    ],
    ids=lambda value: ",".join(value) or "nothing" if isinstance(value, dict) else "",
)
def test_the_region_is_what_is_set_and_never_guessed(
    given: dict[str, str], region: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With botocore's own resolution, and S3, which takes us-east-1 by itself where nothing is set."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[profile shop]\nregion = sa-east-1\n")
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x")
    for name, value in {"AWS_CONFIG_FILE": str(tmp_path / "config"), **keys, **given}.items():
        monkeypatch.setenv(name, value)
    told = doctor.checks(Settings())["region"]
    if region is None:
        with pytest.raises(doctor.Finding, match=r"^no AWS region is set: AWS_REGION="):
            told()
        with pytest.raises(NoRegionError, match="AWS_REGION"):
            client("s3")
        return
    assert told() == region
    assert [client(service).meta.region_name for service in ("s3", "sqs")] == [region, region]


def test_events_that_failed_and_a_queue_without_dead_letters_are_findings(
    installation: dict[str, str], endpoint: str
) -> None:
    sqs = moto("sqs", endpoint)
    bare = sqs.create_queue(QueueName="bare")["QueueUrl"]
    assert "no dead-letter queue" in findings(installation, "queue", queue_url=bare)["queue"]
    sqs.send_message(QueueUrl=installation["queue_url"].replace("landing", "dead"), MessageBody="poison")
    found = findings(installation, "queue")
    assert "1 events failed for good" in found["queue"]
    arn = "arn:aws:sqs:us-east-1:123456789012"
    assert f"start-message-move-task --source-arn {arn}:dead --destination-arn {arn}:landing" in found["queue"]
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
    assert looked_at == ["versions", "torch", "home", "contract", "words", *all_checks(settings), "upgrade"]
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
