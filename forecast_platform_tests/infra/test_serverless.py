"""The second template: sound, narrow, deployed on moto as far as moto goes, and what it says of the code is so."""

from __future__ import annotations

import fnmatch
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.events.models import EventPattern

from forecast_platform.publishing.exports import FOLDER
from forecast_platform.serverless import lambda_function
from forecast_platform.settings import Settings
from forecast_platform_tests.infra.serverless import PATH, RUNS, actions
from forecast_platform_tests.infra.template import ACCOUNT, REGION, allows, listed, load, resolve, statements
from forecast_platform_tests.serverless.test_pipeline import created, ended

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")


def test_cfn_lint_finds_nothing_and_it_fits_into_a_request() -> None:
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(PATH)]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PATH.stat().st_size <= 51_200
    assert not re.search(r"[:-] [&*]\w", PATH.read_text()), "CloudFormation knows no anchors"
    for name, spec in load(PATH)["Parameters"].items():
        assert spec.get("Description"), name
        assert "Default" in spec, name


def test_without_a_model_there_are_buckets_and_nothing_that_runs() -> None:
    """The first deployment: a training needs the buckets, and the functions the model."""
    first, whole = resolve(PATH), resolve(PATH, **RUNS)
    assert {"LandingBucket", "StorageBucket", "ExecutionRole", "Crawler"} <= first.types.keys()
    assert not [kind for kind in first.types.values() if kind.startswith(("AWS::Lambda", "AWS::Events"))]
    assert len([kind for kind in whole.types.values() if kind == "AWS::Lambda::Function"]) == 2


def test_the_functions_are_those_of_the_code_with_settings_that_exist() -> None:
    stack = resolve(PATH, **RUNS)
    for name in ("BeginFunction", "PublishFunction"):
        function = stack.resources[name]
        module, _, handler = function["Handler"].partition(".")
        assert module == "lambda_function"
        assert callable(getattr(lambda_function, handler))
        variables = function["Environment"]["Variables"]
        given = {k.removeprefix("FORECAST_").lower(): v for k, v in variables.items() if k.startswith("FORECAST_")}
        assert given.pop("home") == "/var/task"
        settings = Settings(**given)
        assert settings.engine_name == "sagemaker-container"
        assert settings.memory_gb * 1024 < int(function["MemorySize"])
        others = {name for name in variables if not name.startswith("FORECAST_")}
        assert others == {"MODEL_NAME", "CRAWLER"}
        assert all(f"`{name}`" in str(lambda_function.__doc__) for name in others)
        assert variables["CRAWLER"] == stack.resources["Crawler"]["Name"]
    described = {output["Description"] for output in load(PATH)["Outputs"].values()}
    for setting in (text for text in described if text.startswith("FORECAST_")):
        assert setting.removeprefix("FORECAST_").lower() in Settings.model_fields


def test_events_reach_the_functions_and_failures_the_dead_letter_queue() -> None:
    stack = resolve(PATH, **RUNS)
    landed, ended = (stack.resources[name]["EventPattern"] for name in ("FileLanded", "TransformEnded"))
    bucket = stack.resources["LandingBucket"]
    assert bucket["NotificationConfiguration"]["EventBridgeConfiguration"]["EventBridgeEnabled"] is True
    assert landed["detail"]["bucket"]["name"] == [bucket["BucketName"]]
    assert (
        stack.outputs["LandingUrl"]
        == f"s3://{bucket['BucketName']}/{landed['detail']['object']['key'][0]['prefix'].rstrip('/')}"
    )
    assert ended["detail"]["TransformJobName"] == [{"prefix": f"{stack.outputs['JobPrefix']}-"}]
    dead = f"arn:aws:sqs:{REGION}:{ACCOUNT}:weekly-dead-letters"
    (policy,) = stack.resources["DeadLettersPolicy"]["PolicyDocument"]["Statement"]
    assert (policy["Principal"], policy["Action"]) == ({"Service": "events.amazonaws.com"}, "sqs:SendMessage")
    assert policy["Resource"] == dead
    for rule, function in (("FileLanded", "Begin"), ("TransformEnded", "Publish")):
        (target,) = stack.resources[rule]["Targets"]
        permission = stack.resources[f"{function}Permission"]
        assert target["Arn"].endswith(f":function:{permission['FunctionName']}")
        assert permission["SourceArn"].endswith(f":rule/{stack.resources[rule]['Name']}")
        retries = stack.resources[f"{function}Retries"]
        assert retries["DestinationConfig"]["OnFailure"]["Destination"] == dead
        assert allows(stack.policies(f"{function}Role"), "sqs:SendMessage", dead)
        # What never reaches the function; no listing finds it here.
        assert target["DeadLetterConfig"] == {"Arn": dead}
        assert permission["SourceArn"] in policy["Condition"]["ArnEquals"]["aws:SourceArn"]


def test_rules_take_the_events_that_are_for_their_function_and_no_others() -> None:
    """The events of test_pipeline.py, which both functions are run on, by moto's EventBridge."""
    stack = resolve(PATH, **RUNS)
    landing = stack.resources["LandingBucket"]["BucketName"]

    def takes(rule: str, event: dict[str, Any], **detail: Any) -> bool:
        pattern = EventPattern(None, stack.resources[rule]["EventPattern"])
        return pattern.matches_event({**event, "detail": {**event["detail"], **detail}})  # type: ignore[typeddict-item]

    here = {"bucket": {"name": landing}}
    assert takes("FileLanded", created("landing/sales/a.csv"), **here)
    assert not takes("FileLanded", created("landing/sales/a.csv"))
    assert not takes("FileLanded", created("elsewhere/a.csv"), **here)
    assert not takes("FileLanded", created("landing/sales/a.csv") | {"detail-type": "Object Deleted"}, **here)
    for status in ("Completed", "Failed", "Stopped"):
        assert takes("TransformEnded", ended("weekly-a-a1"), TransformJobStatus=status)
    assert not takes("TransformEnded", ended("weekly-a-a1"), TransformJobStatus="InProgress")
    assert not takes("TransformEnded", ended("payroll-1"))


def test_the_crawler_sees_the_parquet_and_not_the_csv_beside_it() -> None:
    stack = resolve(PATH, **RUNS)
    (target,) = stack.resources["Crawler"]["Targets"]["S3Targets"]
    assert target["Path"] == f"{stack.outputs['StorageUrl']}/{FOLDER}"
    seen = [f"2025-01-31.{kind}" for kind in ("csv", "parquet")]
    left = [name for name in seen if not any(fnmatch.fnmatch(name, glob) for glob in target["Exclusions"])]
    assert left == ["2025-01-31.parquet"]
    bucket = f"arn:aws:s3:::{stack.resources['StorageBucket']['BucketName']}"
    policy = stack.policies("CrawlerRole")
    assert allows(policy, "s3:GetObject", f"{bucket}/{FOLDER}/2025-01-31.parquet")
    assert not allows(policy, "s3:GetObject", f"{bucket}/models/a/model.tar.gz")


def test_no_right_is_wider_than_it_must_be() -> None:
    stack = resolve(PATH, **RUNS)
    only_star = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}
    for where, statement in statements(stack):
        if statement["Effect"] == "Deny" or "Principal" in statement:
            continue
        assert not [action for action in listed(statement["Action"]) if "*" in action], where
        for resource in listed(statement["Resource"]):
            assert resource != "*" or set(listed(statement["Action"])) <= only_star, where
    landing = f"arn:aws:s3:::{stack.resources['LandingBucket']['BucketName']}/landing/sales/a.csv"
    job = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:transform-job/weekly-20250131-transform-a-a1"
    for role in ("BeginRole", "PublishRole"):
        policy = stack.policies(role)
        assert allows(policy, "s3:GetObject", landing) is (role == "BeginRole")
        assert not allows(policy, "s3:PutObject", landing)
        assert allows(policy, "sagemaker:CreateTransformJob", job, sagemaker__InstanceTypes="ml.c5.2xlarge")
        assert not allows(policy, "sagemaker:CreateTransformJob", job, sagemaker__InstanceTypes="ml.p4d.24xlarge")
        assert not {"iam:PassRole", "sagemaker:CreateTrainingJob", "sagemaker:CreateModel"} & actions(stack, role)


def test_each_row_of_the_page_s_fault_table_is_a_test() -> None:
    page = (PATH.parents[1] / "docs" / "aws" / "serverless.md").read_text()
    section = page.partition("## What fails, and what happens then")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| what fails")]
    assert len(rows) >= 9
    for row in rows:
        (found,) = re.findall(r"`([\w/]+/test_\w+\.py)` `(test_\w+)` \|$", row)
        assert f"def {found[1]}(" in (PATH.parents[1] / "forecast_platform_tests" / found[0]).read_text(), row


def test_its_image_has_a_repository_that_its_jobs_alone_read_and_a_tag_is_written_once() -> None:
    stack = resolve(PATH, **RUNS, ImageTag="abc-1")
    repository = stack.resources["Repository"]
    assert repository["ImageTagMutability"] == "IMMUTABLE"
    image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{repository['RepositoryName']}:abc-1"
    assert stack.outputs["Image"] == image
    for name in ("BeginFunction", "PublishFunction"):
        assert stack.resources[name]["Environment"]["Variables"]["FORECAST_IMAGE"] == image
    pulled = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{repository['RepositoryName']}"
    assert allows(stack.policies("ExecutionRole"), "ecr:BatchGetImage", pulled)
    assert not allows(stack.policies("ExecutionRole"), "ecr:BatchGetImage", pulled + "-other")


def test_it_deploys_first_without_a_model_then_with_one(s3: Any) -> None:
    """moto passes over what a bucket tells EventBridge."""
    session = boto3.Session()
    cloudformation = session.client("cloudformation")

    def made() -> tuple[dict[str, Any], set[str]]:
        (stack,) = cloudformation.describe_stacks(StackName="weekly")["Stacks"]
        assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        functions = {f["FunctionName"]: f for f in session.client("lambda").list_functions()["Functions"]}
        return functions, {rule["Name"] for rule in session.client("events").list_rules()["Rules"]}

    given: dict[str, Any] = {"StackName": "weekly", "TemplateBody": PATH.read_text()}
    cloudformation.create_stack(**given, Capabilities=["CAPABILITY_IAM"])
    assert made() == ({}, set())
    assert session.client("glue").list_crawlers()["CrawlerNames"] == ["weekly-forecasts"]
    names = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    assert {f"weekly-{which}-{ACCOUNT}-{REGION}" for which in ("landing", "storage")} <= names

    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("lambda_function.py", "")
    for name in ("FunctionKey", "LayerKey"):
        s3.put_object(Bucket=f"weekly-storage-{ACCOUNT}-{REGION}", Key=RUNS[name], Body=code.getvalue())
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in RUNS.items()]
    cloudformation.update_stack(**given, Parameters=parameters, Capabilities=["CAPABILITY_IAM"])
    functions, rules = made()
    assert {name: f["Handler"] for name, f in functions.items()} == {
        "weekly-begin": "lambda_function.lambda_handler",
        "weekly-publish": "lambda_function.transform_handler",
    }
    assert functions["weekly-begin"]["Environment"]["Variables"]["MODEL_NAME"] == RUNS["ModelName"]
    assert rules == {"weekly-file-landed", "weekly-transform-ended"}
