"""The machine that Dagster runs on: its template, and its script over a real PostgreSQL.

No Docker runs here. A stand-in notes what `docker` is asked for and runs what would run in a container of Postgres or
of the platform here, against a PostgreSQL of this test's own; `aws` is the real command, on moto.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
import yaml

from forecast_platform.draining import drained
from forecast_platform_tests.infra.template import ACCOUNT, REGION, load, resolve

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

ROOT = Path(__file__).parents[2]
PATH = ROOT / "infra" / "host.yaml"
SCRIPT = ROOT / "infra" / "host.sh"
GIVEN = {"Profile": "forecast-machine", "StorageBucket": "drop", "VpcId": "vpc-1", "SubnetId": "subnet-1"}


# ------------------------------------------------------------------------------------------------------------- template


def test_cfn_lint_finds_nothing() -> None:
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(PATH)]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(spec.get("Description") for spec in load(PATH)["Parameters"].values())


def test_nothing_reaches_the_machine_its_disk_is_encrypted_and_its_keys_are_asked_for_with_a_token() -> None:
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"
    for given, of_key in (({}, {}), ({"KmsKeyArn": key}, {"KmsKeyId": key})):
        stack = resolve(PATH, **GIVEN, **given)
        group, machine = stack.resources["NobodyIn"], stack.resources["Machine"]
        assert "SecurityGroupIngress" not in group
        assert {rule["ToPort"] for rule in group["SecurityGroupEgress"]} == {80, 443}
        (disk,) = machine["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True
        assert {name: value for name, value in disk["Ebs"].items() if name == "KmsKeyId"} == of_key
        options = {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 2}
        assert machine["MetadataOptions"] == options
        assert "KeyName" not in machine, "people come by Session Manager"
    kinds = set(resolve(PATH, **GIVEN).types.values())
    assert not [kind for kind in kinds if "Ingress" in kind or "EIP" in kind]


def test_logs_end_and_go_to_the_group_whose_name_the_role_may_write_to() -> None:
    stack = resolve(PATH, **GIVEN)
    group = stack.resources["Logs"]
    assert int(group["RetentionInDays"]) == 90
    (allowed,) = [s for s in resolve().policies("PlatformRole") if s["Sid"] == "Print"]
    assert allowed["Resource"].endswith(f":log-group:{group['LogGroupName']}:*")
    compose, logs = (yaml.safe_load((ROOT / "docker" / f"{n}.yaml").read_text()) for n in ("compose", "awslogs"))
    assert logs["services"].keys() == compose["services"].keys()
    options = {name: service["logging"]["options"]["awslogs-group"] for name, service in logs["services"].items()}
    assert set(options.values()) == {"${LOG_GROUP:?host.env has it}"}


def user_data() -> str:
    return str(resolve(PATH, **GIVEN).resources["Machine"]["UserData"])


def test_user_data_starts_what_the_release_holds() -> None:
    script = user_data()
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "/opt/forecast/release/infra/host.sh install" in script
    assert "s3://drop/host/release.tar.gz" in script
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert {"infra/host.sh", "docker/compose.yaml", "docker/platform.Dockerfile"} <= set(tracked)
    assert os.access(SCRIPT, os.X_OK)
    (written,) = re.findall(r'echo "(.*?)" \| tr', script)
    for name in ("BUCKET", "NAME", "LOG_GROUP", "AWS_DEFAULT_REGION"):
        assert f"{name}=" in written


def test_it_deploys_and_the_machine_is_as_written(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto passes over the disk, the metadata's options and the machine's group."""
    session = boto3.Session()
    ec2, iam, cloudformation = (session.client(name) for name in ("ec2", "iam", "cloudformation"))
    subnet = ec2.describe_subnets()["Subnets"][0]
    iam.create_instance_profile(InstanceProfileName="forecast-machine")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    # moto knows no parameters of Canonical's.
    monkeypatch.setattr("moto.cloudformation.parsing.ResourceMap.parse_ssm_parameter", lambda *_: image)
    given = {**GIVEN, "VpcId": subnet["VpcId"], "SubnetId": subnet["SubnetId"]}
    cloudformation.create_stack(
        StackName="forecast-host",
        TemplateBody=PATH.read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
    )
    (made,) = cloudformation.describe_stacks(StackName="forecast-host")["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    outputs = {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}
    ((machine,),) = (
        r["Instances"] for r in ec2.describe_instances(InstanceIds=[outputs["InstanceId"]])["Reservations"]
    )
    assert machine["SubnetId"] == subnet["SubnetId"]
    groups = ec2.describe_security_groups()["SecurityGroups"]
    (group,) = (group for group in groups if group["Description"].startswith("No way in"))
    assert group["IpPermissions"] == []
    (logs,) = session.client("logs").describe_log_groups(logGroupNamePrefix=outputs["LogGroup"])["logGroups"]
    assert logs["retentionInDays"] == 90
    (alarm,) = session.client("cloudwatch").describe_alarms(AlarmNames=["forecast-no-backup"])["MetricAlarms"]
    assert (alarm["MetricName"], alarm["TreatMissingData"]) == ("Backups", "breaching")


# ------------------------------------------------------------------------------------------------------------- draining


class TestDraining:
    @pytest.fixture
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance

    def run(self, instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> str:
        @dg.job
        def job() -> None: ...

        return instance.create_run_for_job(job, status=status, tags={"dagster/partition": "2025-01-31"}).run_id

    def test_runs_under_way_are_waited_for_and_no_others(self, instance: dg.DagsterInstance) -> None:
        self.run(instance, dg.DagsterRunStatus.NOT_STARTED)
        self.run(instance, dg.DagsterRunStatus.FAILURE)
        going, said, waited = self.run(instance, dg.DagsterRunStatus.STARTED), list[str](), list[float]()

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                run = instance.get_run_by_id(going)
                assert run
                instance.report_run_canceled(run)

        assert drained(instance, 5, sleep, said.append)
        assert len(waited) == 3
        assert said == [f"under way: job 2025-01-31 ({going})"]

    def test_after_its_minutes_it_gives_up(self, instance: dg.DagsterInstance) -> None:
        self.run(instance, dg.DagsterRunStatus.STARTED)
        assert not drained(instance, 0, say=lambda text: None)


# ----------------------------------------------------------------------------------- the script, over a real PostgreSQL

DOCKER = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
open(os.environ["DOCKER_LOG"], "a").write(" ".join(words) + "\\n")
while words and words[0] != "compose":
    sys.exit(0)
words = words[1:]
while words[0].startswith("-"):
    words = words[2:]
verb, *words = words
if verb not in ("exec", "run"):
    sys.exit(0)
while words[0].startswith("-"):
    words = words[1:]
service, *command = words
assert service in ("postgres", "code"), service
sys.exit(subprocess.run(command).returncode)
"""


class Machine:
    """What user data makes of a machine, its containers' programs run here."""

    def __init__(self, folder: Path, port: int, binaries: Path, endpoint: str) -> None:
        self.folder, self.log = folder, folder / "docker.log"
        for name in ("bin", "cron", "opt/release", "home"):
            (folder / name).mkdir(parents=True)
        docker = folder / "bin" / "docker"
        docker.write_text(DOCKER.format(python=sys.executable))
        docker.chmod(0o755)
        (folder / "opt" / "host.env").write_text(
            f"BUCKET=drop\nNAME=forecast\nLOG_GROUP=/forecast/forecast\nAWS_DEFAULT_REGION={REGION}\n"
        )
        # docker/dagster.yaml as it is, but for the port.
        config = (ROOT / "docker" / "dagster.yaml").read_text()
        assert "port: 5432" in config
        (folder / "home" / "dagster.yaml").write_text(config.replace("port: 5432", f"port: {port}"))
        self.environment = {
            "PATH": os.pathsep.join(
                map(str, (folder / "bin", binaries, Path(sys.executable).parent, os.environ["PATH"]))
            ),
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "DOCKER_LOG": str(self.log),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "DAGSTER_HOME": str(folder / "home"),
            "DAGSTER_POSTGRES_HOST": "127.0.0.1",
            "DAGSTER_POSTGRES_USER": "dagster",
            "DAGSTER_POSTGRES_PASSWORD": "x",
            "DAGSTER_POSTGRES_DB": "dagster",
            "DAGSTER_LOGS_BUCKET": "drop",
            "HOST_FOLDER": str(folder / "opt"),
            "HOST_BIN": str(folder / "bin"),
            "HOST_CRON": str(folder / "cron"),
        }

    def start(self, *words: str, script: Path | None = None) -> subprocess.Popen[str]:
        command = [str(script or self.folder / "bin" / "forecast-host"), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=self.environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def run(self, *words: str, script: Path | None = None, code: int = 0) -> str:
        process = self.start(*words, script=script)
        told, _ = process.communicate(timeout=240)
        assert process.returncode == code, told
        return told

    def asked(self) -> list[str]:
        """What docker was asked for since, without the files' names."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return [re.sub(r"(-f|--env-file) \S+ ", "", line).removeprefix("compose ") for line in lines]

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                if name.startswith(("DAGSTER_", "AWS_")):
                    patch.setenv(name, value)
            with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
                yield instance


@pytest.fixture(scope="module")
def postgres() -> Iterator[tuple[int, Path]]:
    """Port and programs of a PostgreSQL with a role and a database `dagster`, as the image of Postgres makes them. It
    refuses to run as root, so root lends it to nobody."""
    pytest.importorskip("dagster_postgres", reason="needs dagster-postgres")
    found = shutil.which("postgres")
    if not found or not shutil.which("pg_ctl"):
        pytest.skip("needs PostgreSQL's own programs")
    binaries = Path(found).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    as_nobody: list[str] = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv, since PostgreSQL does not run as root")
        shutil.chown(folder, "nobody")
        as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    def run(*words: str) -> None:
        command = [*as_nobody, str(binaries / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "dagster", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster")
        yield port, binaries
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def machine(postgres: tuple[int, Path], s3: Any, endpoint: str, tmp_path: Path) -> Machine:
    """One whose user data is about to install the release, which lies in S3 beside the settings."""
    if not shutil.which("aws"):
        pytest.skip("needs the aws command")
    made = Machine(tmp_path / "machine", *postgres, endpoint)
    release = tmp_path / "release.tar.gz"
    with tarfile.open(release, "w:gz") as archive:
        for name in ("infra", "docker"):
            archive.add(ROOT / name, name)
    s3.upload_file(str(release), "drop", "host/release.tar.gz")
    s3.put_object(Bucket="drop", Key="host/aws.env", Body=b"FORECAST_PROFILE=aws\n")
    with tarfile.open(release) as archive:
        archive.extractall(made.folder / "opt" / "release", filter="data")
    return made


def a_run(instance: dg.DagsterInstance) -> str:
    @dg.op
    def work() -> None: ...

    @dg.job
    def weekly() -> None:
        work()

    return weekly.execute_in_process(instance=instance).run_id


def test_a_run_outlives_the_machine_by_the_nightly_dump(machine: Machine, s3: Any) -> None:
    release = machine.folder / "opt" / "release"
    installed = release / "infra" / "host.sh"
    machine.run("install", script=installed)
    assert machine.asked()[:3] == ["build", "up -d --wait postgres", "run --rm -T code dagster instance migrate"]
    (first,) = machine.run("backups").split()
    environment = (release / "docker" / "aws.env").read_text()
    assert "FORECAST_PROFILE=aws" in environment
    assert re.search(r"^DAGSTER_POSTGRES_PASSWORD=[0-9a-f]{48}$", environment, flags=re.M)
    assert (release / "docker" / "aws.env").stat().st_mode & 0o077 == 0
    cron = (machine.folder / "cron" / "forecast").read_text().splitlines()
    assert cron[1].endswith(" root forecast-host backup")

    with machine.instance() as instance:
        run_id = a_run(instance)
        events = len(instance.all_logs(run_id))
    command = cron[1].rpartition("forecast-host ")[2]
    time.sleep(1.1)  # dumps are named by the second
    newest = machine.run(command).split()[-1]
    assert machine.run("backups").split() == sorted([first, newest])
    told = boto3.Session().client("cloudwatch").list_metrics(Namespace="Forecast")["Metrics"]
    assert [(m["MetricName"], m["Dimensions"]) for m in told] == [
        ("Backups", [{"Name": "Installation", "Value": "forecast"}])
    ]

    # The machine is lost. Another one takes its place, with an empty database.
    subprocess.run(["dropdb", "--force", "-U", "dagster", "dagster"], env=machine.environment, check=True)
    subprocess.run(["createdb", "-U", "dagster", "dagster"], env=machine.environment, check=True)
    (machine.folder / "opt" / "postgres.env").unlink()
    assert f"restored {newest}" in machine.run("install", script=installed)
    with machine.instance() as instance:
        run = instance.get_run_by_id(run_id)
        assert run
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert len(instance.all_logs(run_id)) == events
        another = a_run(instance)

    # An older dump by its name, over a database that holds more.
    machine.asked()
    assert f"restored {first}" in machine.run("restore", first)
    assert machine.asked()[0] == "stop daemon webserver dashboard code"
    with machine.instance() as instance:
        assert instance.get_run_by_id(run_id) is None
        assert instance.get_run_by_id(another) is None
    # One that is not there changes nothing.
    machine.run("restore", "2020-01-01.dump", code=1)
    assert machine.asked() == []


def test_an_update_waits_for_runs_dumps_and_migrates_before_it_starts(machine: Machine) -> None:
    machine.run("install", script=machine.folder / "opt" / "release" / "infra" / "host.sh")
    machine.asked()
    with machine.instance() as instance:

        @dg.job
        def weekly() -> None: ...

        run_id = instance.create_run_for_job(weekly, status=dg.DagsterRunStatus.STARTED).run_id

    # It gives up where a run goes on for too long, and everything is as before.
    tag = (machine.folder / "opt" / "release" / "docker" / "aws.env").read_text()
    told = machine.run("update", "0", code=1)
    assert f"under way: weekly - ({run_id})" in told
    assert "not updated: runs are still under way" in told
    drain = "exec -T code python -m forecast_platform.draining"
    assert machine.asked() == ["build", "stop daemon webserver", f"{drain} 0", "start daemon webserver"]
    assert (machine.folder / "opt" / "release" / "docker" / "aws.env").read_text() == tag, "nor is the new image used"

    # So it does where the dump fails, or there would be no daemon from then on.
    (machine.folder / "bin" / "pg_dump").write_text("#!/bin/sh\nexit 3\n")
    (machine.folder / "bin" / "pg_dump").chmod(0o755)
    machine.run("update", "now", code=3)
    assert machine.asked()[-1] == "start daemon webserver"
    (machine.folder / "bin" / "pg_dump").unlink()

    (machine.folder / "opt" / "own.env").write_text("FORECAST_PRESET=walmart")
    process = machine.start("update")
    assert process.stdout
    assert any(f"under way: weekly - ({run_id})" in line for line in process.stdout), "it waits for none"
    with machine.instance() as instance:
        run = instance.get_run_by_id(run_id)
        assert run
        instance.report_run_canceled(run)
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert machine.asked() == [
        "build",
        "stop daemon webserver",
        f"{drain} 720",
        "exec -T postgres pg_dump -U dagster --format=custom dagster",
        "stop code dashboard",
        "run --rm -T code dagster instance migrate",
        "up -d --remove-orphans",
        "image prune --all --force",
    ]
    after = (machine.folder / "opt" / "release" / "docker" / "aws.env").read_text()
    assert after.partition("PLATFORM_IMAGE=")[2] != tag.partition("PLATFORM_IMAGE=")[2]
    assert "FORECAST_PRESET=walmart" in after.splitlines(), "what people set stays"
    password = re.compile(r"^DAGSTER_POSTGRES_PASSWORD=.*$", flags=re.M)
    assert password.findall(after) == password.findall(tag)


def test_the_page_tells_of_every_command_and_every_alarm() -> None:
    page = (ROOT / "docs" / "aws" / "day_two.md").read_text()
    commands = set(re.findall(r"^#   forecast-host (\w+)", SCRIPT.read_text(), flags=re.M))
    assert commands == set(re.findall(r"^\| `forecast-host (\w+)", page, flags=re.M))
    names = {
        str(resource["AlarmName"]).removeprefix("forecast-")
        for stack in (resolve(), resolve(PATH, **GIVEN))
        for resource in stack.resources.values()
        if "AlarmName" in resource
    }
    section = page.partition("## What wakes somebody")[2].partition("\n## ")[0]
    assert names <= set(re.findall(r"`([a-z-]+)`", section))
    outputs = set(re.findall(r"`(\w+(?:Arn|Profile))`", page.partition("## Who may do what")[2].partition("\n## ")[0]))
    assert outputs - load()["Parameters"].keys() <= load()["Outputs"].keys()


def test_what_it_says_of_itself_names_every_command(machine: Machine) -> None:
    told = machine.run(script=SCRIPT, code=2)
    assert set(re.findall(r"forecast-host (\w+)", told)) == {
        "status",
        "start",
        "backup",
        "backups",
        "restore",
        "update",
    }
