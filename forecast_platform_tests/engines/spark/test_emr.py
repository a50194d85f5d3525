"""EMR Serverless: what a job is asked, what it leaves in S3, and what comes of it here."""

import contextlib
import io
import pickle
import re
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from forecast_platform import spark_job
from forecast_platform.clouds.aws import clients
from forecast_platform.defs.emr_serverless import through_pipes
from forecast_platform.engines.base import EngineError
from forecast_platform.engines.spark.emr import EmrServerlessEngine, finish_shards, request
from forecast_platform.settings import Settings
from forecast_platform_tests.engines.spark.conftest import contents
from forecast_platform_tests.engines.test_predictions import ASKED

AWS = {
    "profile": "aws", "engine": "spark", "storage_url": "s3://drop/store", "landing_url": "s3://drop/in",
    "role_arn": "arn:aws:iam::123456789012:role/spark", "spark_archive": "s3://drop/spark.tar.gz",
}  # fmt: skip
SETTINGS = Settings(**AWS, spark_application="00f1r2o3n4t5", spark_conf={"spark.executor.memory": "8g"})


def sent(work: Any, items: Any) -> Iterator[Any]:
    """As a cluster maps: nothing but bytes goes there and comes back."""
    for item in items:
        there = pickle.loads(pickle.dumps((work, item)))
        yield pickle.loads(pickle.dumps(there[0](there[1])))


def test_the_request_is_one_that_aws_knows():
    from botocore.session import get_session
    from botocore.validate import validate_parameters

    asked = request(SETTINGS, "s3://drop/store/transforms/2025-01-31/spark/abc", "2025-01-31", "eu-central-1")
    operation = get_session().get_service_model("emr-serverless").operation_model("StartJobRun")
    validate_parameters({**asked, "clientToken": "t"}, operation.input_shape)
    assert asked["applicationId"] == "00f1r2o3n4t5"
    assert asked["executionTimeoutMinutes"] == 60
    submit = asked["jobDriver"]["sparkSubmit"]
    assert submit["entryPoint"] == "s3://drop/store/transforms/2025-01-31/spark/abc/job.py"
    given = dict(re.findall(r"--conf (\S+?)=(\S+)", submit["sparkSubmitParameters"]))
    assert given["spark.archives"] == "s3://drop/spark.tar.gz#environment"
    assert given["spark.executor.memory"] == "8g"
    assert given["spark.executorEnv.PYSPARK_PYTHON"] == "./environment/bin/python"
    for machine in ("spark.emr-serverless.driverEnv", "spark.executorEnv"):
        assert given[f"{machine}.AWS_REGION"] == "eu-central-1"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"profile": "local", "spark_application": "a"}, "spark_application needs profile aws and engine spark"),
        ({**AWS, "spark_application": "a", "spark_archive": ""}, "profile aws needs FORECAST_SPARK_ARCHIVE"),
        ({**AWS, "spark_application": "a", "role_arn": ""}, "profile aws needs FORECAST_ROLE_ARN"),
    ],
)
def test_half_of_the_settings_is_refused(given, says):
    with pytest.raises(ValidationError, match=says):
        Settings(**given)


@pytest.fixture
def engine(s3, tmp_path, monkeypatch) -> EmrServerlessEngine:
    (tmp_path / "worker").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "worker"))
    return EmrServerlessEngine(SETTINGS)


def argument(asked: dict[str, Any]) -> str:
    [url] = asked["jobDriver"]["sparkSubmit"]["entryPointArguments"]
    return url


def test_a_job_finishes_shards_and_what_it_left_is_published(engine, model, shards, here, tmp_path, s3):
    told: list[str] = []
    engine.submit = lambda asked: finish_shards(argument(asked), sent, told.append)
    made, _ = engine.predict(model, shards, tmp_path / "week", ASKED)
    assert contents(made) == here
    assert told == [f"{done} of 4 shards" for done in range(1, 5)]
    kept = [item["Key"].split("/", 5)[-1] for item in s3.list_objects_v2(Bucket="drop")["Contents"]]
    assert len([name for name in kept if name.startswith("finished/")]) == 3 * 4
    assert not list((tmp_path / "worker").rglob("*.npz")), "a finished shard leaves nothing on a worker"


def test_a_job_tried_again_is_done_again_as_the_sums_are_of_all_shards(engine, model, shards, here, tmp_path):
    def dies(work, items):
        for number, outcome in enumerate(sent(work, items)):
            if outcome is True and number == 2:
                raise KeyboardInterrupt
            yield outcome

    def submit(asked):
        with pytest.raises(KeyboardInterrupt):
            finish_shards(argument(asked), dies, print)
        finish_shards(argument(asked), sent, print)

    engine.submit = submit
    made, _ = engine.predict(model, shards, tmp_path / "week", ASKED)
    assert contents(made) == here


def test_a_job_that_left_a_shard_out_is_refused(engine, model, shards, tmp_path, s3):
    def submit(asked):
        finish_shards(argument(asked), sent, print)
        for item in s3.list_objects_v2(Bucket="drop")["Contents"]:
            if item["Key"].endswith("finished/shard-001.json"):
                s3.delete_object(Bucket="drop", Key=item["Key"])

    engine.submit = submit
    with pytest.raises(EngineError, match="the job left shard 1 out of s3://drop/store/transforms/week/spark/"):
        engine.predict(model, shards, tmp_path / "week", ASKED)
    assert not list(tmp_path.glob("week*"))


class TestPipes:
    """The emulator of EMR Serverless runs nothing; the job runs here when it is started, and its output is its log."""

    @pytest.fixture
    def application(self, engine, monkeypatch) -> str:
        made = clients.client("emr-serverless").create_application(
            name="forecast", releaseLabel="emr-7.9.0", type="SPARK", clientToken="t"
        )["applicationId"]
        original = clients.client

        def client(service: str, **more: Any) -> Any:
            found = original(service, **more)
            if service == "emr-serverless":
                found.meta.events.register(  # which the emulator does not know
                    "before-call.emr-serverless.GetDashboardForJobRun",
                    lambda **_: (SimpleNamespace(status_code=200), {"url": "https://dashboard"}),
                )
                found.meta.events.register(
                    "provide-client-params.emr-serverless.StartJobRun", lambda params, **_: self.asked.update(params)
                )
                found.meta.events.register(
                    "after-call.emr-serverless.StartJobRun",
                    lambda parsed, **_: self.runs(parsed["applicationId"], parsed["jobRunId"], monkeypatch),
                )
            return found

        self.asked: dict[str, Any] = {}
        monkeypatch.setattr(clients, "client", client)
        monkeypatch.setattr(spark_job, "Cluster", lambda settings: sent)
        return made

    def runs(self, application: str, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What EMR Serverless would do with the request that it got."""
        submit = self.asked["jobDriver"]["sparkSubmit"]
        names = "spark.emr-serverless.driverEnv."
        given = dict(re.findall(r"--conf (\S+?)=(\S+)", submit["sparkSubmitParameters"]))
        out = io.StringIO()
        with monkeypatch.context() as patch:
            for name, value in given.items():
                if name.startswith(names):
                    patch.setenv(name.removeprefix(names), value)
            patch.setattr(sys, "argv", ["job.py", *submit["entryPointArguments"]])
            with contextlib.redirect_stdout(out):
                spark_job.main()
        logs = clients.client("logs")
        group, stream = "/aws/emr-serverless", f"/applications/{application}/jobs/{job}/SPARK_DRIVER"
        logs.create_log_group(logGroupName=group)
        now = int(1000 * time.time()) + 1000
        for kind, lines in (("stdout", out.getvalue().splitlines() or ["nothing"]), ("stderr", ["nothing"])):
            logs.create_log_stream(logGroupName=group, logStreamName=f"{stream}/{kind}")
            events = [{"timestamp": now, "message": line} for line in lines]
            logs.put_log_events(logGroupName=group, logStreamName=f"{stream}/{kind}", logEvents=events)

    def test_a_run_of_dagster_starts_a_job_and_hears_of_it(self, engine, application, model, shards, here, tmp_path):
        engine._settings = SETTINGS.model_copy(update={"spark_application": application})
        made = []

        @dg.asset
        def forecasts(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            engine.submit = through_pipes(context)
            made.append(engine.predict(model, shards, tmp_path / "week", ASKED)[0])
            return dg.MaterializeResult()

        with dg.DagsterInstance.ephemeral() as instance:
            done = dg.materialize([forecasts], instance=instance)
            log = [entry.user_message for entry in instance.all_logs(done.run_id)]
        assert contents(made[0]) == here
        assert [line for line in log if "of 4 shards" in line] == [f"{k} of 4 shards" for k in range(1, 5)]

    def test_a_job_that_failed_fails_the_run(self, engine, application, model, shards, tmp_path, monkeypatch):
        from moto.emrserverless import models

        monkeypatch.setattr(models, "JOB_STATUS", "FAILED")
        monkeypatch.setattr(spark_job, "main", lambda: None)  # a process opens Pipes once
        engine._settings = SETTINGS.model_copy(update={"spark_application": application})

        @dg.asset
        def forecasts(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            engine.submit = through_pipes(context)
            with pytest.raises(EngineError, match="EMR Serverless job failed"):
                engine.predict(model, shards, tmp_path / "week", ASKED)
            return dg.MaterializeResult()

        assert dg.materialize([forecasts]).success
