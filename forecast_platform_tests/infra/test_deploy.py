"""`make deploy`, `make image` and `make settings` by the real `aws` command, on moto, until the doctor is green.

Docker alone is played: by a script that puts into ECR what the options it is given would have pushed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from moto.cloudformation.models import ChangeSet, cloudformation_backends
from moto.cloudformation.parsing import ResourceMap
from moto.cloudformation.responses import CloudFormationResponse

from forecast_platform.cli import main
from forecast_platform_tests.clouds.aws.gate import Gate, gate
from forecast_platform_tests.infra.template import ACCOUNT

__all__ = ["gate"]

# moto names what it passes over.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Tried to parse"),
    pytest.mark.skipif(not (shutil.which("aws") and shutil.which("make")), reason="needs the aws command and make"),
]

ROOT, REGION = Path(__file__).parents[2], "eu-central-1"
DOCKER = r"""#!{python}
import json, os, sys
import boto3
words = sys.argv[1:]
open(os.environ["DOCKER_LOG"], "a").write(" ".join(words) + "\n")
if words[0] == "login":
    assert sys.stdin.read().strip()
else:
    plain = "--provenance=false" in words and "type=registry,oci-mediatypes=false" in words
    kind = "docker.distribution.manifest.v2" if plain else "oci.image.index.v1"
    manifest = dict(schemaVersion=2, mediaType=f"application/vnd.{{kind}}+json", layers=[])
    manifest["config"] = dict(digest="sha256:" + "0" * 64)
    name, _, tag = words[words.index("--tag") + 1].partition("/")[2].partition(":")
    boto3.client("ecr").put_image(repositoryName=name, imageManifest=json.dumps(manifest), imageTag=tag)
"""


class Machine:
    """A machine with `aws` and `make`, whose environment has credentials, a region by the name AWS_REGION, no more."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.log, commands = folder / "docker.log", folder / "bin"
        commands.mkdir()
        docker = commands / "docker"
        docker.write_text(DOCKER.format(python=sys.executable))
        docker.chmod(0o755)
        (folder / ".installed").touch()
        self.venv = folder
        self.environment = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "DOCKER_LOG": str(self.log),
        }

    def make(self, *words: str) -> str:
        """What it printed."""
        tools = [f"VENV={self.venv}", f"BIN={Path(sys.executable).parent}"]
        done = subprocess.run(
            ["make", "-s", *tools, *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(autouse=True)
def change_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto executes them, but leaves the stack's outputs as they were; and one without a change it refuses at once,
    where CloudFormation makes it and lets it fail."""
    execute = ChangeSet.apply

    def apply(change: ChangeSet) -> None:
        change.stack.template_dict = change.template_dict
        execute(change)
        change.stack.output_map = change.stack._create_output_map()
        change.stack.parameters = dict(change.stack.stack_parameters)  # with the defaults, as the next one names them

    monkeypatch.setattr(ChangeSet, "apply", apply)
    monkeypatch.setattr(CloudFormationResponse, "_validate_different_update", lambda *_: None)


@pytest.fixture
def machine(gate: Gate, tmp_path: Path) -> Machine:
    return Machine(tmp_path, gate.url)


@pytest.fixture
def doctor(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Any]:
    """Asks the doctor in an environment of the machine's credentials and the settings printed, and nothing else."""

    def ask(settings: str) -> Any:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FORECAST_"))]:
            monkeypatch.delenv(name)
        given = dict(line.split("=", 1) for line in settings.splitlines())
        credentials = {name: value for name, value in machine.environment.items() if name.startswith("AWS_")}
        del credentials["AWS_REGION"]  # the settings give it
        kept = {"FORECAST_HOME": str(tmp_path / "home"), "DAGSTER_HOME": "", "PYTHONSAFEPATH": ""}
        for name, value in {**credentials, **given, **kept}.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, ["doctor", "--profile", "aws"])

    return ask


def test_from_nothing_to_a_green_doctor_and_again_also_after_an_update_that_was_rolled_back(
    machine: Machine, doctor: Callable[[str], Any], gate: Gate
) -> None:
    assert "Successfully created/updated stack" in machine.make("deploy")
    settings = machine.make("settings")
    assert f"AWS_REGION={REGION}" in settings.splitlines()
    told = doctor(settings)
    assert [line.split()[1] for line in told.output.splitlines() if line.startswith("FAIL")] == ["image"], told.output
    assert "make image" in told.output
    machine.make("image")
    assert "is there already" in machine.make("image"), "a tag is never written twice"
    assert machine.log.read_text().count("buildx build") == 1
    told = doctor(settings)
    assert told.exit_code == 0, told.output
    assert f"ok    region    {REGION}" in told.output

    code = f"CODE={settings.partition('FORECAST_IMAGE=')[2].split()[0].rpartition(':')[2].partition('-')[0]}"
    (stack,) = cloudformation_backends[ACCOUNT][REGION].stacks.values()
    for status in ("CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"):
        stack.status = status
        assert "No changes to deploy" in machine.make("deploy", code)
    assert machine.make("settings") == settings
    told = doctor(settings)
    assert told.exit_code == 0, told.output


def test_the_machine_is_made_of_the_stack_s_outputs_and_the_release_is_what_is_committed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`make host`. moto knows no parameters of Canonical's."""
    machine.make("deploy", "CODE=abc", "PARAMETERS=AlarmEmail=ops@example.com")
    session = boto3.Session(region_name=REGION)
    ec2, s3 = session.client("ec2"), session.client("s3")
    image, subnet = ec2.describe_images()["Images"][0]["ImageId"], ec2.describe_subnets()["Subnets"][0]
    monkeypatch.setattr(ResourceMap, "parse_ssm_parameter", lambda *_: image)
    machine.make("host", f"PARAMETERS=VpcId={subnet['VpcId']} SubnetId={subnet['SubnetId']}")
    (reservation,) = ec2.describe_instances()["Reservations"]
    assert reservation["Instances"][0]["SubnetId"] == subnet["SubnetId"]
    bucket = f"forecast-storage-{ACCOUNT}-{REGION}"
    told = s3.get_object(Bucket=bucket, Key="host/aws.env")["Body"].read().decode()
    assert told == machine.make("settings")
    assert "DASHBOARD_ROLE_ARN=arn:" in told
    s3.download_file(bucket, "host/release.tar.gz", str(tmp_path / "release.tar.gz"))
    with tarfile.open(tmp_path / "release.tar.gz") as archive:
        assert {"infra/host.sh", "docker/awslogs.yaml", "forecast_platform/draining.py"} <= set(archive.getnames())
        assert archive.getmember("infra/host.sh").mode & 0o100
    (alarm,) = session.client("cloudwatch").describe_alarms(AlarmNames=["forecast-no-backup"])["MetricAlarms"]
    assert alarm["AlarmActions"] == [session.client("sns").list_topics()["Topics"][0]["TopicArn"]]


def test_after_a_first_creation_that_was_rolled_back(machine: Machine, doctor: Callable[[str], Any]) -> None:
    """Its stack can't be updated any more. What it had made is gone: see DeletionPolicy in test_templates.py."""
    empty = {"Resources": {"Left": {"Type": "AWS::SNS::Topic"}}}
    cloudformation = boto3.Session().client("cloudformation", region_name=REGION)
    cloudformation.create_stack(StackName="forecast", TemplateBody=json.dumps(empty))
    (failed,) = cloudformation_backends[ACCOUNT][REGION].stacks.values()
    failed.status = "ROLLBACK_COMPLETE"
    machine.make("deploy", "CODE=abc")
    (made,) = cloudformation_backends[ACCOUNT][REGION].stacks.values()
    assert made.stack_id != failed.stack_id
    told = doctor(machine.make("settings"))
    assert [line.split()[1] for line in told.output.splitlines() if line.startswith("FAIL")] == ["image"], told.output
