"""Alarms, on moto: what the platform tells arrives as the metrics that they lie on, and they go off when they should.

moto keeps alarms but never judges one, so `goes_off` does, by CloudWatch's own rules, over the figures that moto gives.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest

from forecast_platform.clouds.aws import metrics
from forecast_platform.clouds.aws.cloud import AwsCloud
from forecast_platform.defs.monitoring import monitor
from forecast_platform.defs.run_failures import failed_runs
from forecast_platform.engines.sagemaker.jobs import JobError
from forecast_platform.failures import Failure, Run, record_failures, record_success
from forecast_platform.monitoring import AGE_OF_FORECAST, HEARTBEAT, JOBS_FAILED, OPEN_FAILURES, measures
from forecast_platform.settings import Settings
from forecast_platform_tests.clouds.aws.gate import Gate, gate
from forecast_platform_tests.conftest import SMALL, ForecastHome
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.infra.template import ACCOUNT, PATH, load, resolve
from forecast_platform_tests.infra.test_templates import deploy

__all__ = ["gate"]

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

ROOT = PATH.parents[1]
PARAMETERS = {"AlarmEmail": "ops@example.com"}
AWS = {
    "profile": "aws",
    "landing_url": "s3://drop/landing",
    "storage_url": "s3://drop/storage",
    "role_arn": f"arn:aws:iam::{ACCOUNT}:role/forecast-sagemaker",
    "image": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/forecast:1",
}


class Alarms:
    """Those of a deployed stack."""

    def __init__(self, s3: Any, endpoint: str) -> None:
        self.stack, _ = deploy(PARAMETERS, s3, endpoint)
        self.cloudwatch = boto3.Session().client("cloudwatch")
        found = self.cloudwatch.describe_alarms()["MetricAlarms"]
        self.by_name = {alarm["AlarmName"].removeprefix("forecast-"): alarm for alarm in found}

    def goes_off(self, name: str, now: dt.datetime) -> bool:
        """Whether every period before `now` is beyond the threshold, where it holds no figure: treated as said."""
        alarm = self.by_name[name]
        period = dt.timedelta(seconds=alarm["Period"])
        beyond = {"GreaterThanThreshold": lambda v, t: v > t, "LessThanThreshold": lambda v, t: v < t}
        judged = []
        for back in range(alarm["EvaluationPeriods"]):
            points = self.cloudwatch.get_metric_statistics(
                Namespace=alarm["Namespace"],
                MetricName=alarm["MetricName"],
                Dimensions=alarm["Dimensions"],
                StartTime=now - (back + 1) * period,
                EndTime=now - back * period,
                Period=alarm["Period"],
                Statistics=[alarm["Statistic"]],
            )["Datapoints"]
            if points:
                (point,) = points
                judged.append(beyond[alarm["ComparisonOperator"]](point[alarm["Statistic"]], alarm["Threshold"]))
            else:
                judged.append(alarm["TreatMissingData"] == "breaching")
        return all(judged)


@pytest.fixture
def alarms(s3: Any, endpoint: str) -> Alarms:
    return Alarms(s3, endpoint)


def tick(graph: Graph, cursor: str | None = None) -> tuple[str, str | None]:
    """What the sensor says, and its cursor."""
    with dg.build_sensor_context(instance=graph.instance, cursor=cursor, resources=graph.resources) as context:
        return str(monitor.evaluate_tick(context).skip_message), context.cursor


def soon() -> dt.datetime:
    """The end of a period that holds this moment."""
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)


def test_before_anybody_says_anything_the_silent_ones_are_on_and_the_others_off(alarms: Alarms) -> None:
    on = {name for name in alarms.by_name if alarms.goes_off(name, soon())}
    assert on == {"no-forecast", "daemon-silent"}
    assert alarms.by_name.keys() - on == {"run-failed", "job-failed", "queue-age", "dead-letters"}


def test_what_the_sensor_tells_ends_the_silence_and_a_failure_is_heard_until_it_is_mended(
    alarms: Alarms, home: Path
) -> None:
    graph = Graph(Settings(**SMALL, **AWS))
    now = dt.datetime.now(dt.UTC)
    said, cursor = tick(graph)
    assert said == "told: Heartbeat 1, OpenFailures 0"
    assert alarms.goes_off("no-forecast", soon()), "there is none"
    run = Run("r1", "weekly_forecast", (now.date(),))
    record_failures(graph.lake, run, [Failure("deepar_model", "no")], now)
    assert "OpenFailures 1" in tick(graph, cursor)[0]
    assert alarms.goes_off("run-failed", soon())
    record_success(graph.lake, Run("r2", "weekly_forecast", run.weeks), now)
    assert "OpenFailures 0" in tick(graph, cursor)[0]
    names = {metric["MetricName"] for metric in alarms.cloudwatch.list_metrics(Namespace="Forecast")["Metrics"]}
    assert names == {HEARTBEAT, OPEN_FAILURES}


@pytest.mark.parametrize(("days", "off"), [(10, False), (12, True)])
def test_a_week_without_its_forecast_is_heard(alarms: Alarms, lake: Any, days: int, off: bool) -> None:
    """The newest forecast is of a week that ended so many days ago: of the next one it is due by the eleventh."""
    now = dt.datetime.now(dt.UTC)
    told = measures(lake, now.date() - dt.timedelta(days=days + 1), now)
    assert int(told[AGE_OF_FORECAST]) == days
    for hours in (1.9, 1.5, 0.9, 0.1):
        put_at(alarms, {AGE_OF_FORECAST: told[AGE_OF_FORECAST]}, now - dt.timedelta(hours=hours))
    assert alarms.goes_off("no-forecast", now) is off
    assert alarms.goes_off("no-forecast", now + dt.timedelta(hours=3)), "nothing was said since"


def put_at(alarms: Alarms, told: dict[str, float], when: dt.datetime) -> None:
    """As metrics.put does, some time ago."""
    about = [{"Name": metrics.DIMENSION, "Value": "forecast"}]
    data = [{"MetricName": name, "Dimensions": about, "Value": v, "Timestamp": when} for name, v in told.items()]
    alarms.cloudwatch.put_metric_data(Namespace=metrics.NAMESPACE, MetricData=data)


def test_the_daemon_s_silence_is_heard_within_half_an_hour(alarms: Alarms) -> None:
    now = dt.datetime.now(dt.UTC)
    for minutes in (3, 8, 13, 18, 23, 28):
        put_at(alarms, {HEARTBEAT: 1}, now - dt.timedelta(minutes=minutes))
    assert not alarms.goes_off("daemon-silent", now)
    assert not alarms.goes_off("daemon-silent", now + dt.timedelta(minutes=20)), "one tick may take its time"
    assert alarms.goes_off("daemon-silent", now + dt.timedelta(minutes=31))


def test_the_newest_week_is_looked_for_once_a_publication(
    forecast_home: ForecastHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = forecast_home.restore()
    told: list[dict[str, float]] = []
    monkeypatch.setattr(type(graph.platform.cloud), "monitored", True)
    monkeypatch.setattr(type(graph.platform.cloud), "report", lambda self, given: told.append(given) or True)
    _, cursor = tick(graph)
    assert cursor == f"{graph.lake.snapshot('forecasts')} {forecast_home.week}"
    ended = dt.datetime.combine(forecast_home.week + dt.timedelta(days=1), dt.time(), dt.UTC)
    assert told[0][AGE_OF_FORECAST] == pytest.approx(
        (dt.datetime.now(dt.UTC) - ended).total_seconds() / 86400, abs=0.01
    )
    asked = graph.lake.query
    monkeypatch.setattr(graph.lake, "query", lambda sql: asked(sql) if "open_failures" in sql else pytest.fail(sql))
    tick(graph, cursor)
    assert told[1].keys() == told[0].keys()


def test_a_job_that_failed_is_heard_and_another_failure_is_not(alarms: Alarms, home: Path) -> None:
    graph = Graph(Settings(**SMALL, **AWS))
    for error, off in ((ValueError("no"), False), (JobError("training job forecast-1: Failed"), True)):
        fail_with(graph, error)
        assert alarms.goes_off("job-failed", soon()) is off
    assert len(graph.lake.read("run_failures")) == 2


def fail_with(graph: Graph, error: Exception) -> None:
    """A run whose step fails as those of the graph do, and the sensor that hears of it."""

    @dg.op
    def work() -> None:
        raise dg.Failure(str(error)) from error

    @dg.job
    def job() -> None:
        work()

    result = job.execute_in_process(instance=graph.instance, raise_on_error=False)
    (event,) = [e for e in result.all_events if e.event_type_value == "PIPELINE_FAILURE"]
    run = graph.instance.get_run_by_id(result.run_id)
    context = dg.build_run_status_sensor_context(
        "failed_runs", event, graph.instance, run, resources={"platform": graph.platform}
    )
    failed_runs(context.for_run_failure())


def test_whoever_may_not_tell_goes_on_and_says_so(
    gate: Gate, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecast_platform.clouds.aws.clients._RETRIES", {"total_max_attempts": 1})
    gate.denied |= {"PutMetricData", "POST service"}
    cloud = AwsCloud(Settings(**SMALL, **AWS))
    assert not cloud.report({JOBS_FAILED: 1})
    assert "takes cloudwatch:PutMetricData in the namespace Forecast" in caplog.text


def test_a_laptop_tells_nobody(graph: Graph) -> None:
    assert tick(graph)[0] == "nobody watches: this profile has no monitoring"


def resources(*paths: Path) -> list[dict[str, Any]]:
    return [resource["Properties"] for path in paths for resource in load(path)["Resources"].values()]


@pytest.mark.parametrize("page", ["day_two.md", "operations.md"])
def test_the_pages_count_and_price_what_the_templates_make(page: str) -> None:
    numbers = {"five": 5, "six": 6, "seven": 7, "eight": 8}
    text = (ROOT / "docs" / "aws" / page).read_text().replace("\n", " ")
    ((metrics_, alarms_),) = re.findall(r"(\w+) metrics at 0\.30 and (\w+) alarms at 0\.10", text)
    made = resources(PATH, PATH.with_name("host.yaml"))
    of_ours = {properties["MetricName"] for properties in made if properties.get("Namespace") == metrics.NAMESPACE}
    assert numbers[metrics_] == len(of_ours)
    assert numbers[alarms_] == sum("AlarmName" in properties for properties in made)


def test_what_an_alarm_says_leads_to_a_page_that_knows_it() -> None:
    told = set()
    for properties in resources(PATH, PATH.with_name("host.yaml")):
        for page in re.findall(r"docs/\S+?\.md", properties.get("AlarmDescription", "")):
            name = properties["AlarmName"]["Fn::Sub"].removeprefix("${Name}-")
            known = (ROOT / page).read_text()
            told.add(name)
            assert f"`{name}`" in known or ("DeadLettersUrl" in known and name == "dead-letters"), name
    assert {"daemon-silent", "no-backup", "no-forecast"} <= told


def test_every_alarm_says_what_to_do_and_is_mailed(alarms: Alarms) -> None:
    (topic,) = [t["TopicArn"] for t in boto3.Session().client("sns").list_topics()["Topics"]]
    for name, alarm in alarms.by_name.items():
        assert re.search(r"\b(mend|open|ask|see|is Dagster)\b", alarm["AlarmDescription"], re.I), name
        assert len(alarm["AlarmDescription"]) <= 1024
        assert alarm["AlarmActions"], name
    assert topic.endswith(":forecast-alarms")
    told = {dimension["Value"] for alarm in alarms.by_name.values() for dimension in alarm["Dimensions"]
            if alarm["Namespace"] == metrics.NAMESPACE}  # fmt: skip
    assert told == {resolve().outputs["JobPrefix"]}, "the settings tell under the name that the alarms lie on"


def test_what_alarms_lie_on_is_what_the_platform_tells() -> None:
    resources = load()["Resources"].values()
    lies_on = {r["Properties"]["MetricName"] for r in resources if r["Properties"].get("Namespace") == "Forecast"}
    assert lies_on == {HEARTBEAT, AGE_OF_FORECAST, OPEN_FAILURES, JOBS_FAILED}


def test_the_budget_is_told_of_by_mail() -> None:
    stack = resolve(PATH.with_name("budget.yaml"), **PARAMETERS)
    budget = stack.resources["Budget"]
    assert budget["Budget"]["BudgetLimit"] == {"Amount": "250", "Unit": "USD"}
    assert len(budget["NotificationsWithSubscribers"]) == 2
    for notification in budget["NotificationsWithSubscribers"]:
        assert notification["Subscribers"] == [{"SubscriptionType": "EMAIL", "Address": "ops@example.com"}]
