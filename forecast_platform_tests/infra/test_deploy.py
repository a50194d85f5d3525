"""`make deploy`, `make image` and `make settings` by the real `aws` command, on moto, until the doctor is green; `make
serverless` and `make serverless-model` until the first forecast.

Docker alone is played: by a script that puts into ECR what the options it is given would have pushed.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import tomlkit
from click.testing import CliRunner

from forecast_platform.cli import main
from forecast_platform.demo import history_files, make_retailer
from forecast_platform_tests.clouds.aws.gate import Gate, gate
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.infra.template import ACCOUNT, load
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator
from forecast_platform_tests.sagemaker_emulator.fixtures import sagemaker, sagemaker_server
from forecast_platform_tests.serverless.test_package import RUN, needs_strip, runtime
from forecast_platform_tests.serverless.test_pipeline import created, ended

__all__ = ["gate", "sagemaker", "sagemaker_server"]

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
    from moto.cloudformation.models import ChangeSet

    execute = ChangeSet.apply

    def apply(change: ChangeSet) -> None:
        change.stack.template_dict = change.template_dict
        execute(change)
        change.stack.output_map = change.stack._create_output_map()
        change.stack.parameters = dict(change.stack.stack_parameters)  # with the defaults, as the next one names them

    monkeypatch.setattr(ChangeSet, "apply", apply)
    monkeypatch.setattr(
        "moto.cloudformation.responses.CloudFormationResponse._validate_different_update", lambda *_: None
    )


def stacks() -> list[Any]:
    from moto.cloudformation.models import cloudformation_backends

    return list(cloudformation_backends[ACCOUNT][REGION].stacks.values())


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
    (stack,) = stacks()
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
    monkeypatch.setattr("moto.cloudformation.parsing.ResourceMap.parse_ssm_parameter", lambda *_: image)
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


def test_the_budget_is_a_stack_of_its_own(machine: Machine) -> None:
    """`make budget`, twice."""
    for _ in range(2):
        machine.make("budget", "PARAMETERS=AlarmEmail=ops@example.com MonthlyBudgetUsd=90")
    budgets = boto3.Session().client("budgets", region_name="us-east-1")
    (budget,) = budgets.describe_budgets(AccountId=ACCOUNT)["Budgets"]
    assert (budget["BudgetName"], budget["BudgetLimit"]["Amount"]) == (f"forecast-{REGION}", 90)


def test_after_a_first_creation_that_was_rolled_back(machine: Machine, doctor: Callable[[str], Any]) -> None:
    """Its stack can't be updated any more. What it had made is gone: see DeletionPolicy in test_templates.py."""
    empty = {"Resources": {"Left": {"Type": "AWS::SNS::Topic"}}}
    cloudformation = boto3.Session().client("cloudformation", region_name=REGION)
    cloudformation.create_stack(StackName="forecast", TemplateBody=json.dumps(empty))
    (failed,) = stacks()
    failed.status = "ROLLBACK_COMPLETE"
    machine.make("deploy", "CODE=abc")
    (made,) = stacks()
    assert made.stack_id != failed.stack_id
    told = doctor(machine.make("settings"))
    assert [line.split()[1] for line in told.output.splitlines() if line.startswith("FAIL")] == ["image"], told.output


@needs_strip
def test_without_a_server_from_nothing_to_the_first_forecast_and_again(
    machine: Machine, sagemaker: Emulator, tmp_path: Path
) -> None:
    """The commands of docs/aws/serverless.md, in its order. What the second deployment made is then run as Lambda would
    run it: the zips that it named, in the environment that it gave, on events."""
    addresses = {name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL_")}
    region = "us-east-1"  # the emulator's
    machine.environment |= addresses | {"AWS_REGION": region, "FORECAST_HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "settings.toml").write_text(tomlkit.dumps(SMALL))  # goes along in function.zip
    assert "Successfully created/updated stack" in machine.make("serverless", "CODE=abc")
    machine.make("image", "STACK=weekly", "CODE=abc")
    settings = dict(line.split("=", 1) for line in machine.make("settings", "STACK=weekly").splitlines())
    assert (settings["AWS_REGION"], settings["FORECAST_PROFILE"]) == (region, "aws")
    retailer = make_retailer(stores=6, depts=6, first=dt.date(2024, 11, 8), last=dt.date(2025, 1, 31))
    files = history_files(retailer, dt.date(2025, 1, 31), dirty_rows=0)
    for name, data in files.items():
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_bytes(data)
    subprocess.run(
        ["aws", "s3", "sync", "--quiet", str(tmp_path / "files"), settings["FORECAST_LANDING_URL"]],
        env=machine.environment, check=True,
    )  # fmt: skip

    # This Python plays Lambda's, so make is told another name of it where Lambda's own could not load the layer.
    train = ("serverless-model", "CODE=abc", f"ZIPS={tmp_path / 'zips'}", "RUNTIME=python3.12")
    told = machine.make(*train)
    model = re.findall(r"^model (\S+)$", told, flags=re.M)[0]
    assert "Successfully created/updated stack" in told
    session = boto3.Session(region_name=region)
    functions = {f["FunctionName"]: f for f in session.client("lambda").list_functions()["Functions"]}
    assert {name: f["Runtime"] for name, f in functions.items()} == dict.fromkeys(
        ("weekly-begin", "weekly-publish"), "python3.12"
    )
    assert functions["weekly-begin"]["Environment"]["Variables"]["MODEL_NAME"] == model

    s3, bucket = session.client("s3"), f"weekly-storage-{ACCOUNT}-{region}"
    for item in s3.list_objects_v2(Bucket=bucket, Prefix="code/")["Contents"]:
        s3.download_file(bucket, item["Key"], str(tmp_path / "code.zip"))
        with zipfile.ZipFile(tmp_path / "code.zip") as archive:
            archive.extractall(tmp_path / "lambda" / item["Key"].partition("/")[2].partition("-")[0])

    def run(function: str, event: dict[str, Any]) -> dict[str, Any]:
        variables = functions[function]["Environment"]["Variables"] | {
            "FORECAST_HOME": str(tmp_path / "lambda/function")
        }
        keys = {name: value for name, value in machine.environment.items() if name.startswith("AWS_")}
        place = [str(tmp_path / "lambda" / part) for part in ("function", "layer/python")]
        place.append(str(runtime(tmp_path / "runtime")))
        handler = functions[function]["Handler"].partition(".")[2]
        command = [sys.executable, "-I", "-S", "-c", RUN, json.dumps(place), handler, json.dumps(event)]
        done = subprocess.run(command, env=keys | variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-2]))

    (sales,) = (name for name in files if name.startswith("sales/"))
    landed = created(f"landing/{sales}")
    landed["detail"]["bucket"]["name"] = settings["FORECAST_LANDING_URL"].split("/")[2]
    begun = run("weekly-begin", landed)
    assert "job" in begun, begun
    sagemaker.wait_idle()
    assert run("weekly-publish", ended(begun["job"]))["published"]
    text = s3.get_object(Bucket=bucket, Key="exports/forecasts/2025-01-31.csv")["Body"].read().decode()
    levels = [row["level"] for row in csv.DictReader(io.StringIO(text))]
    assert levels.count("total") == SMALL["prediction_length"]
    assert session.client("glue").get_crawler(Name="weekly-forecasts")["Crawler"]["State"] == "RUNNING"

    paid = list(sagemaker.billed)
    assert "No changes to deploy" in machine.make(*train)
    assert sagemaker.billed == paid
    assert len(paid) == 2, "one training, one transform"


def test_a_layer_that_lambda_could_not_load_is_refused_before_anything_is_paid_for(machine: Machine) -> None:
    """Python 3.11's runtime is Amazon Linux 2, whose C library is older than pyarrow's wheels need."""
    with pytest.raises(AssertionError, match=r"glibc 2\.26.*make serverless-model VENV=\S+ PYTHON=python3\.12"):
        machine.make("serverless-model", "CODE=abc", "RUNTIME=python3.11")
    allowed = load(ROOT / "infra" / "serverless.yaml")["Parameters"]["Runtime"]
    assert allowed["AllowedValues"] == ["python3.12", "python3.13"]
    assert allowed["Default"] in allowed["AllowedValues"]
