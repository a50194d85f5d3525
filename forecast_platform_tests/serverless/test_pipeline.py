"""The pipeline without a server over loopback: files put to S3, S3's event, the Lambda, a batch transform on the
emulated SageMaker, its event, the Lambda, files in S3, the crawler. The forecasts are the graph's, byte for byte."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from forecast_platform.clouds.aws.storage import Storage
from forecast_platform.engines.predictions import BatchError
from forecast_platform.engines.sagemaker.container.training import ContainerEngine
from forecast_platform.engines.sagemaker.jobs import JobError
from forecast_platform.serverless import pipeline
from forecast_platform.serverless.lambda_function import lambda_handler, transform_handler
from forecast_platform.settings import Settings, get_settings
from forecast_platform_tests.conftest import SMALL, ForecastHome
from forecast_platform_tests.infra import serverless
from forecast_platform_tests.infra.calls import Call, recorded
from forecast_platform_tests.infra.template import resolve
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator

NOW = dt.datetime(2025, 2, 20, tzinfo=dt.UTC)
AWS = {
    "profile": "aws",
    "storage_url": "s3://drop/storage",
    "landing_url": "s3://drop/landing",
    "role_arn": "arn:aws:iam::123456789012:role/forecast-sagemaker",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/forecast:1",
}


def as_variables(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as the environment of a Lambda has them."""

    def text(value: Any) -> str:
        return (
            json.dumps(value)
            if isinstance(value, dict)
            else ",".join(map(str, value))
            if isinstance(value, tuple)
            else str(value)
        )

    return {f"FORECAST_{name.upper()}": text(value) for name, value in settings.items()}


def created(key: str) -> dict[str, Any]:
    """As EventBridge tells of an object of the bucket."""
    detail = {"bucket": {"name": "drop"}, "object": {"key": key, "size": 1, "etag": "a", "sequencer": "01"}}
    return {"source": "aws.s3", "detail-type": "Object Created", "detail": detail, "time": "2025-02-20T00:00:00Z"}


def ended(job: str) -> dict[str, Any]:
    """As EventBridge tells of a transform. What else it says is asked of SageMaker itself."""
    detail = {"TransformJobName": job, "TransformJobStatus": "Completed"}
    return {"source": "aws.sagemaker", "detail-type": "SageMaker Transform Job State Change", "detail": detail}


class Cloud:
    """What the stack and a person before it made: the landed files of a home, its model in SageMaker."""

    def __init__(self, home: ForecastHome, sagemaker: Emulator, s3: Any, folder: Path) -> None:
        self.home, self.sagemaker, self.s3, self.folder, self.week = home.home, sagemaker, s3, folder, home.week
        self.files = sorted(
            (path for path in (home.home / "landing").rglob("*") if path.is_file()),
            key=lambda path: path.stat().st_mtime,
        )
        for path in self.files:
            self.land(path.relative_to(home.home / "landing").as_posix(), path.read_bytes())
        self.storage = Storage(AWS["storage_url"])
        self.storage.upload_folder(home.home / "models", "models")
        self.model = pipeline.train(self.engine(), self.new_folder(), NOW)

    def engine(self) -> ContainerEngine:
        return ContainerEngine(Settings(**SMALL, **AWS), sleep=lambda seconds: None)

    def new_folder(self) -> Path:
        place = self.folder / str(len(list(self.folder.iterdir())))
        place.mkdir()
        return place

    def land(self, name: str, data: bytes) -> dict[str, Any]:
        self.s3.put_object(Bucket="drop", Key=f"landing/{name}", Body=data)
        return created(f"landing/{name}")

    def begin(self) -> dict[str, Any]:
        return pipeline.begin(self.engine(), self.model, self.new_folder(), NOW)

    def publish(self, job: str) -> dict[str, Any]:
        return pipeline.publish(self.engine(), job, self.new_folder())

    def objects(self, below: str) -> dict[str, str]:
        """Key -> content's digest."""
        return {item.key: item.etag for item in self.storage.list(below)}

    @property
    def paid(self) -> list[str]:
        self.sagemaker.wait_idle()
        return self.sagemaker.billed


@pytest.fixture
def cloud(
    forecast_home: ForecastHome, sagemaker: Emulator, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cloud:
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    return Cloud(forecast_home, sagemaker, s3, tmp_path / "work")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What was asked of AWS: service, operation and its parameters."""
    return recorded(monkeypatch)


@pytest.fixture
def functions(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the Lambdas, and a crawler."""
    glue = boto3.Session().client("glue")
    glue.create_database(DatabaseInput={"Name": "forecast_files"})
    target = {"S3Targets": [{"Path": "s3://drop/storage/exports/forecasts", "Exclusions": ["**.csv"]}]}
    role = "arn:aws:iam::123456789012:role/crawler"
    glue.create_crawler(Name="forecast-forecasts", Role=role, DatabaseName="forecast_files", Targets=target)
    variables = as_variables(SMALL | AWS) | {"MODEL_NAME": cloud.model, "CRAWLER": "forecast-forecasts"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()


def test_from_a_file_in_the_bucket_to_the_graph_s_very_forecasts(
    cloud: Cloud, functions: None, calls: list[Call]
) -> None:
    stack = resolve(serverless.PATH, **serverless.RUNS)
    assert cloud.paid == [], "the model was the graph's, found by what decides it"
    (*_, last) = cloud.files
    event = created("landing/" + last.relative_to(cloud.home / "landing").as_posix())
    cloud.sagemaker.hold()
    begun = lambda_handler(event)
    assert begun["week"] == str(cloud.week)
    assert begun["why"] == f"{begun['job']} is still running"
    assert lambda_handler(event)["job"] == begun["job"], "S3 delivers at least once"
    cloud.sagemaker.release()
    (paid,) = cloud.paid
    assert paid == begun["job"]
    begun_by = list(calls)

    said = transform_handler(ended(begun["job"]))
    assert [file["file"] for file in said["published"]] == [
        f"s3://drop/storage/exports/forecasts/{cloud.week}.{kind}" for kind in ("csv", "parquet")
    ]
    ours = cloud.home / "exports" / "forecasts"
    names = {f"exports/forecasts/{cloud.week}.{kind}" for kind in ("csv", "parquet")}
    for name in names:
        data = cloud.storage.get_bytes(name)
        there = ours / name.rpartition("/")[2]
        if name.endswith("csv"):
            assert data == there.read_bytes()
        else:
            assert pq.read_table(io.BytesIO(data)).equals(pq.read_table(there))
            assert pq.read_table(there).num_rows == said["published"][0]["rows"] > 0
    crawler = boto3.Session().client("glue").get_crawler(Name="forecast-forecasts")["Crawler"]
    assert crawler["State"] == "RUNNING"
    (target,) = crawler["Targets"]["S3Targets"]
    assert all(f"s3://drop/storage/{name}".startswith(f"{target['Path']}/") for name in names)

    # With the rights of the functions' roles, all of which are used.
    publishing = next(i for i, (service, _, _) in enumerate(calls) if service == "glue")
    used = serverless.check_rights(stack, "PublishRole", calls[len(begun_by) : publishing + 1])
    used |= serverless.check_rights(stack, "BeginRole", begun_by)
    unused = serverless.actions(stack, "BeginRole") - used
    assert unused == serverless.UNUSED_WITHOUT_FAILURE

    # Events come twice and late: nothing is paid for, nothing changes.
    state = cloud.objects("")
    assert transform_handler(ended(begun["job"])) == said
    again = lambda_handler(event)
    assert again["published"] == said["published"]
    assert (cloud.objects(""), cloud.paid) == (state, [paid])

    # A file that can't be read waits in quarantine with its reason, and the forecast stays as it was.
    bad = lambda_handler(cloud.land("sales/bad.csv", b"week;turnover\n2025-01-31;5\n"))
    assert bad["job"] == begun["job"]
    (key,) = cloud.objects("quarantine/sales/bad.csv")
    (reason,) = csv.DictReader(io.StringIO(cloud.storage.get_bytes(key).decode()))
    assert reason["rule"]
    assert "sales/bad.csv" in reason["message"]
    assert cloud.objects("exports") == {name: state[name] for name in state if name.startswith("exports")}
    assert cloud.paid == [paid]
    assert lambda_handler(created("elsewhere/a.csv")) == {"ignored": "nothing below the landing place"}
    assert transform_handler(ended("payroll-1")) == {"ignored": "payroll-1"}


class Stopped(Exception):
    """A Lambda ends here, as by its time limit."""


WRITES = ("put_bytes", "put_file", "delete")


def each_write(monkeypatch: pytest.MonkeyPatch, step: Callable[[], Any], most: int) -> Any:
    """Stop a step before its first write to S3, then before its second, and so on until it runs through; what was
    written before stays. Returns what the last one says."""
    for survived in range(most):
        left = survived

        def stopping(real: Any) -> Any:
            def write(self: Storage, *args: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Stopped
                left -= 1
                return real(self, *args)

            return write

        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(Storage, name, stopping(getattr(Storage, name)))
            try:
                return step()
            except Stopped:
                continue
    raise AssertionError(f"more than {most} writes")


def test_a_lambda_that_dies_before_any_of_its_writes_is_paid_once_and_ends_the_same(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = pipeline.landed_of(cloud.engine(), cloud.new_folder(), NOW)
    monkeypatch.setattr(pipeline, "landed_of", lambda *args: landed)  # it writes nothing where nothing was refused
    begun = each_write(monkeypatch, cloud.begin, 20)
    assert len(cloud.paid) == 1
    said = each_write(monkeypatch, lambda: cloud.publish(begun["job"]), 20)
    state = cloud.objects("exports")
    assert said["published"]
    assert cloud.publish(begun["job"]) == said
    assert cloud.begin()["published"] == said["published"]
    assert cloud.objects("exports") == state
    assert len(cloud.paid) == 1


def test_an_answer_that_newer_files_overtook_is_not_published(cloud: Cloud) -> None:
    older = cloud.begin()
    row = next(csv.DictReader(io.StringIO(cloud.files[-1].read_text())))
    names = list(row)
    sales = next(name for name in names if "sales" in name.lower())
    text = cloud.files[-1].read_text().replace(f",{row[sales]}", f",{float(row[sales]) + 1}", 1)
    cloud.land(cloud.files[-1].relative_to(cloud.home / "landing").as_posix(), text.encode())
    newer = cloud.begin()
    assert newer["job"] != older["job"]
    cloud.sagemaker.wait_idle()
    assert cloud.publish(newer["job"])["published"]
    state = cloud.objects("exports")
    late = cloud.publish(older["job"])
    assert (late["published"], late["why"]) == ([], f"{older['job']} is of files that newer ones followed")
    assert cloud.objects("exports") == state


def test_files_that_land_meanwhile_are_left_to_their_own_event(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred files at once each is an event; one job is enough."""
    real = pipeline.series_of

    def landing_meanwhile(*args: Any) -> Any:
        cloud.land("stores/more.csv", b"store,name\n1,Ulm\n")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "series_of", landing_meanwhile)
        assert "files have landed meanwhile" in cloud.begin()["why"]
    assert cloud.paid == []
    assert cloud.begin()["job"]
    assert len(cloud.paid) == 1


@pytest.mark.parametrize(
    ("fault", "how", "attempts", "told"),
    [("internal", "", 2, ""), ("algorithm", "", 1, "read its log"), ("corrupt_output", "flip", 2, "")],
)
def test_a_job_that_fails_is_made_again_where_that_may_help_and_said_where_not(
    cloud: Cloud, fault: str, how: str, attempts: int, told: str
) -> None:
    cloud.sagemaker.faults.add("CreateTransformJob", fault, detail=how)
    cloud.sagemaker.hold()
    job = cloud.begin()["job"]
    cloud.sagemaker.release()
    cloud.sagemaker.wait_idle()
    if told:
        for _ in range(2):
            with pytest.raises(JobError, match=told):
                cloud.publish(job)
        assert cloud.objects("exports") == {}
    else:
        if fault == "corrupt_output":
            with pytest.raises(BatchError, match="not the answer of its shard"):
                cloud.publish(job)
        assert f"{job[:-1]}2 tries again" in cloud.publish(job)["why"]
        assert "is followed by" in cloud.publish(job)["why"], "the event came twice"
        cloud.sagemaker.wait_idle()
        assert cloud.publish(job.replace("-a1", "-a2"))["published"]
    assert len([1 for kind, _ in cloud.sagemaker.jobs if kind == "transform"]) == attempts


def test_what_makes_no_forecast_is_said(cloud: Cloud, functions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for item in cloud.s3.list_objects_v2(Bucket="drop", Prefix="landing/sales/")["Contents"]:
        cloud.s3.delete_object(Bucket="drop", Key=item["Key"])
    said = lambda_handler(cloud.land("sales/bad.csv", b"nothing"))
    assert "no complete week of sales; see s3://drop/storage/quarantine/sales/bad.csv/" in said["nothing"]
    assert cloud.paid == []
