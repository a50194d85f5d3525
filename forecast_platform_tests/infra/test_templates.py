"""The CloudFormation template: sound, deployable in every combination of its choices, and giving no right too many.

moto's CloudFormation makes buckets, queues, roles, the Lambda and the repository; it passes over bucket and queue
policies, Glue, Athena and alarms, and a bucket's notifications. Those are read from the resolved template instead, and
the notifications are then set by the API as CloudFormation would.
"""

from __future__ import annotations

import datetime as dt
import functools
import io
import itertools
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.engines.sagemaker.decision import job_name
from forecast_platform.settings import Settings
from forecast_platform_tests.infra.template import (
    ACCOUNT,
    PATH,
    REGION,
    Stack,
    allows,
    listed,
    load,
    resolve,
    statements,
)

# moto names what it passes over.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

PUSH = {
    "Trigger": "lambda",
    "LambdaCodeBucket": "drop",
    "LambdaCodeKey": "push.zip",
    "DagsterUrl": "http://dagster:3000",
}
TOKEN = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:dagster-AbCdEf"
IN_VPC = {**PUSH, "TokenSecretArn": TOKEN, "LambdaSubnetIds": "subnet-1,subnet-2", "LambdaSecurityGroupIds": "sg-1"}
TRIGGERS = ({}, PUSH, IN_VPC)
OPTIONS = (
    ({}, {"Crawler": "yes"}),
    ({}, {"AlarmEmail": "ops@example.com"}),
    ({}, {"ReaderPrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/tableau"}),
)
COMBINATIONS = [
    {key: value for part in parts for key, value in part.items()} for parts in itertools.product(TRIGGERS, *OPTIONS)
]

# Where AWS itself knows no narrower resource.
ONLY_STAR = {
    "ecr:GetAuthorizationToken",
    "cloudwatch:PutMetricData",
    "servicequotas:ListServiceQuotas",
    "athena:ListWorkGroups",
    "athena:ListDataCatalogs",
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
}


def named(parameters: dict[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in parameters.items() if "Lambda" not in k) or "defaults"


@pytest.fixture(params=COMBINATIONS, ids=named)
def stack(request: pytest.FixtureRequest) -> Stack:
    return resolve(**request.param)


def test_cfn_lint_finds_nothing() -> None:
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(PATH)]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_fits_into_a_request_and_says_what_each_parameter_is() -> None:
    assert PATH.stat().st_size <= 51_200, "aws cloudformation deploy takes no larger template without a bucket for it"
    template = load()
    for name, spec in template["Parameters"].items():
        assert spec.get("Description"), name
        assert "Default" in spec, f"{name}: the template deploys without a single parameter"
        if spec["Type"] == "String":
            assert "AllowedPattern" in spec or "AllowedValues" in spec, name


def test_defaults_of_the_template_are_those_of_the_settings() -> None:
    parameters, fields = load()["Parameters"], Settings.model_fields
    assert parameters["Database"]["Default"] == fields["database"].default
    assert parameters["Name"]["Default"] == fields["workgroup"].default
    allowed = parameters["InstanceTypes"]["Default"].split(",")
    assert parameters["Name"]["Default"] == fields["job_prefix"].default
    assert {fields["train_instance"].default, fields["transform_instance"].default} <= set(allowed)


# ------------------------------------------------------------------------------------------------- outputs and settings


def test_every_setting_among_the_outputs_exists_and_the_platform_starts_with_them(stack: Stack) -> None:
    described = {name: output["Description"] for name, output in load()["Outputs"].items()}
    given = {
        described[name].removeprefix("FORECAST_").lower(): value
        for name, value in stack.outputs.items()
        if described[name].startswith("FORECAST_")
    }
    settings = Settings(profile="aws", **given)  # type: ignore[arg-type]
    for name, output in given.items():
        assert getattr(settings, name) == output
    assert {name.replace("_", "") for name in given} == {
        name.lower() for name in stack.outputs if described[name].startswith("FORECAST_")
    }
    assert ("queue_url" in given) == ("Queue" in stack.types), "with the Lambda as trigger no queue is polled"


def test_every_setting_of_the_aws_profile_is_an_output_or_in_the_guide() -> None:
    names = list(Settings.model_fields)
    of_aws = {"profile", "landing_url", *names[names.index("storage_url") :]}
    produced = {output["Description"].removeprefix("FORECAST_").lower() for output in load()["Outputs"].values()}
    guide = (PATH.parents[1] / "docs" / "aws.md").read_text()
    missing = [name for name in of_aws if name not in produced and f"FORECAST_{name.upper()}" not in guide]
    assert not missing, f"docs/aws.md does not tell of {missing}"


# ------------------------------------------------------------------------------------------------------------- policies


def test_no_right_is_wider_than_it_must_be(stack: Stack) -> None:
    for where, statement in statements(stack):
        if statement["Effect"] == "Deny":
            continue
        actions = listed(statement["Action"])
        assert not [action for action in actions if "*" in action], f"{where}: {actions}"
        assert "NotAction" not in statement, where
        assert "NotResource" not in statement, where
        if "Principal" in statement:
            assert statement["Principal"] != "*", where
            assert "*" not in listed(statement["Principal"].get("AWS", [])), where
            continue
        for resource in listed(statement["Resource"]):
            if resource == "*":
                assert set(actions) <= ONLY_STAR, f"{where}.{statement['Sid']}: {set(actions) - ONLY_STAR}"
            else:
                assert re.fullmatch(r"arn:aws:[a-z0-9]+:[a-z0-9-]*:(\d{12}|\*)?:[^*]\S*", resource), resource
                if ":*:" in resource:
                    assert resource.endswith("repository/forecasting-deepar"), f"{where}: any account in {resource}"
    used = {a for _, s in statements(resolve(**IN_VPC)) if s.get("Resource") == "*" for a in listed(s["Action"])}
    assert used == ONLY_STAR, "an exception that nothing needs any more"


def test_services_act_for_this_account_only(stack: Stack) -> None:
    """Against the confused deputy: a service that acts for any account must say for which one. EC2 and Lambda cannot
    be asked by others to take a role, so they send no such key."""
    for where, statement in statements(stack):
        service = statement.get("Principal", {}) if statement["Effect"] == "Allow" else {}
        if service and service.get("Service") not in (None, "ec2.amazonaws.com", "lambda.amazonaws.com"):
            assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == ACCOUNT, where
    if "Queue" in stack.types:
        (statement,) = stack.resources["QueuePolicy"]["PolicyDocument"]["Statement"]
        landing = f"arn:aws:s3:::{stack.resources['LandingBucket']['BucketName']}"
        assert statement["Condition"]["ArnEquals"]["aws:SourceArn"] == landing
    else:
        permission = stack.resources["LambdaPermission"]
        assert permission["SourceAccount"] == ACCOUNT
        assert permission["SourceArn"] == f"arn:aws:s3:::{stack.resources['LandingBucket']['BucketName']}"


@pytest.mark.parametrize(("parameters", "allowed"), [(PUSH, False), (IN_VPC, True)], ids=["without", "with a token"])
def test_the_lambda_reads_the_secret_it_is_told_of_and_no_other(parameters: dict[str, str], allowed: bool) -> None:
    stack = resolve(**parameters)
    rights, other = stack.policies("LambdaRole"), f"{TOKEN[:-6]}other1"
    assert allows(rights, "secretsmanager:GetSecretValue", TOKEN) is allowed
    assert not allows(rights, "secretsmanager:GetSecretValue", other)
    told = stack.resources["PushFunction"]["Environment"]["Variables"]["DAGSTER_TOKEN_SECRET_ARN"]
    assert told == (TOKEN if allowed else "")


def sagemaker(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"


SMALL, LARGE = "ml.c5.2xlarge", "ml.p4d.24xlarge"
BUCKETS = {where: f"arn:aws:s3:::forecast-{where}-{ACCOUNT}-{REGION}" for where in ("landing", "storage")}
LANDING, STORAGE = BUCKETS["landing"], BUCKETS["storage"]
TRAINING = sagemaker("training-job", "forecast-20250131-abc-a0")
EXECUTION = f"arn:aws:iam::{ACCOUNT}:role/ExecutionRole"
GLUE = f"arn:aws:glue:{REGION}:{ACCOUNT}"


@pytest.mark.parametrize(
    ("role", "allowed", "action", "resource", "context"),
    [
        ("PlatformRole", True, "sagemaker:CreateTrainingJob", TRAINING, {"sagemaker__InstanceTypes": SMALL}),
        ("PlatformRole", False, "sagemaker:CreateTrainingJob", TRAINING, {"sagemaker__InstanceTypes": LARGE}),
        ("PlatformRole", False, "sagemaker:CreateTrainingJob", TRAINING, {"sagemaker__InstanceTypes": [SMALL, LARGE]}),
        ("PlatformRole", False, "sagemaker:CreateTrainingJob", TRAINING, {}),
        ("PlatformRole", False, "sagemaker:StopTrainingJob", sagemaker("training-job", "payroll-1"), {}),
        ("PlatformRole", True, "sagemaker:CreateModel", sagemaker("model", "forecast-m"), {}),
        ("PlatformRole", False, "sagemaker:CreateEndpoint", sagemaker("endpoint", "forecast-e"), {}),
        ("PlatformRole", True, "iam:PassRole", EXECUTION, {"iam__PassedToService": "sagemaker.amazonaws.com"}),
        ("PlatformRole", False, "iam:PassRole", EXECUTION, {"iam__PassedToService": "ec2.amazonaws.com"}),
        ("PlatformRole", False, "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/Admin", {}),
        ("PlatformRole", True, "s3:ListBucket", LANDING, {"s3__prefix": "landing/sales/"}),
        ("PlatformRole", False, "s3:ListBucket", LANDING, {"s3__prefix": "elsewhere/"}),
        ("PlatformRole", True, "s3:ListBucket", LANDING, {}),  # so that a missing key is "no such key"
        ("PlatformRole", False, "s3:DeleteObject", f"{LANDING}/landing/sales/a.csv", {}),  # the record of what landed
        ("PlatformRole", True, "s3:DeleteObject", f"{STORAGE}/lake/forecast/forecasts/data/a.parquet", {}),
        ("PlatformRole", True, "glue:UpdateTable", f"{GLUE}:table/forecast/forecasts", {}),
        ("PlatformRole", False, "glue:UpdateTable", f"{GLUE}:table/payroll/salaries", {}),
        ("ExecutionRole", True, "s3:GetObject", f"{STORAGE}/models/a/input/train.json", {}),
        ("ExecutionRole", False, "s3:PutObject", f"{STORAGE}/lake/forecast/forecasts/data/a.parquet", {}),
        ("ExecutionRole", False, "s3:GetObject", f"{LANDING}/landing/sales/a.csv", {}),
        ("ExecutionRole", True, "s3:ListBucket", STORAGE, {"s3__prefix": "models/a/input/"}),
        ("ExecutionRole", False, "s3:ListBucket", STORAGE, {}),
        (
            "ExecutionRole",
            True,
            "ecr:BatchGetImage",
            f"arn:aws:ecr:{REGION}:522234722520:repository/forecasting-deepar",
            {},
        ),
        ("ExecutionRole", False, "ecr:BatchGetImage", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/other", {}),
        ("ReaderRole", True, "s3:GetObject", f"{STORAGE}/lake/forecast/forecasts/data/a.parquet", {}),
        ("ReaderRole", False, "s3:PutObject", f"{STORAGE}/lake/forecast/forecasts/data/a.parquet", {}),
        ("ReaderRole", True, "s3:PutObject", f"{STORAGE}/athena/1.csv", {}),
        ("ReaderRole", False, "s3:GetObject", f"{STORAGE}/models/a/model.tar.gz", {}),
        ("ReaderRole", False, "glue:UpdateTable", f"{GLUE}:table/forecast/forecasts", {}),
        ("ReaderRole", True, "athena:StartQueryExecution", f"arn:aws:athena:{REGION}:{ACCOUNT}:workgroup/forecast", {}),
        ("ReaderRole", False, "athena:StartQueryExecution", f"arn:aws:athena:{REGION}:{ACCOUNT}:workgroup/primary", {}),
    ],
)
def test_each_role_may_do_its_work_and_no_more(
    role: str, allowed: bool, action: str, resource: str, context: dict[str, Any]
) -> None:
    assert allows(resolve().policies(role), action, resource, **context) is allowed


@pytest.mark.parametrize("name", ["forecast", "a-name-of-21-letters1"])
def test_jobs_named_by_the_settings_of_the_outputs_are_allowed(name: str) -> None:
    stack = resolve(Name=name)
    settings = Settings(job_prefix=stack.outputs["JobPrefix"])
    job = job_name(settings.job_prefix, dt.date(2025, 1, 31), "transform", {}, 12)
    assert len(job) <= 63
    for kind in ("transform-job", "training-job"):
        call = (f"sagemaker:Create{kind.title().replace('-', '')}", sagemaker(kind, job))
        assert allows(stack.policies("PlatformRole"), *call, sagemaker__InstanceTypes=SMALL)
        assert not allows(resolve(Name="other").policies("PlatformRole"), *call, sagemaker__InstanceTypes=SMALL)


def test_buckets_are_private_encrypted_versioned_and_tidied(stack: Stack) -> None:
    buckets = [name for name, kind in stack.types.items() if kind == "AWS::S3::Bucket"]
    assert buckets == ["LandingBucket", "StorageBucket"]
    for name in buckets:
        bucket = stack.resources[name]
        assert all(bucket["PublicAccessBlockConfiguration"].values())
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        assert bucket["BucketEncryption"]
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
        rules = bucket["LifecycleConfiguration"]["Rules"]
        assert any("NoncurrentVersionExpiration" in rule for rule in rules)
        assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)
        (deny,) = stack.resources[f"{name}Policy"]["PolicyDocument"]["Statement"]
        assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
        assert len(deny["Resource"]) == 2
        assert load()["Resources"][name]["DeletionPolicy"] == "Retain"
    kept = [rule.get("Prefix", "") for rule in stack.resources["StorageBucket"]["LifecycleConfiguration"]["Rules"]]
    assert not [prefix for prefix in kept if prefix.startswith(("lake", "models"))], "tables and models never expire"


def test_events_of_files_have_one_destination_and_a_dead_letter_queue(stack: Stack) -> None:
    notifications = stack.resources["LandingBucket"]["NotificationConfiguration"]
    (kind,) = notifications
    assert kind == ("QueueConfigurations" if "Queue" in stack.types else "LambdaConfigurations")
    dead = f"arn:aws:sqs:{REGION}:{ACCOUNT}:forecast-landing-dead-letters"
    if "Queue" in stack.types:
        assert stack.resources["Queue"]["RedrivePolicy"] == {"deadLetterTargetArn": dead, "maxReceiveCount": 5}
    else:
        assert stack.resources["PushRetries"]["DestinationConfig"] == {"OnFailure": {"Destination": dead}}
        assert allows(stack.policies("LambdaRole"), "sqs:SendMessage", dead)
        function = stack.resources["PushFunction"]
        assert function["ReservedConcurrentExecutions"] > 0
        told = {"DAGSTER_URL", "LANDING_PREFIX", "MODEL_NAME", "DAGSTER_TOKEN_SECRET_ARN"}
        assert set(function["Environment"]["Variables"]) == told


def test_the_workgroup_enforces_its_limits() -> None:
    stack = resolve(ScanLimitBytes="20000000")
    config = stack.resources["Workgroup"]["WorkGroupConfiguration"]
    assert config["EnforceWorkGroupConfiguration"] is True
    assert config["BytesScannedCutoffPerQuery"] == "20000000"
    result = config["ResultConfiguration"]["OutputLocation"].replace("s3://", "arn:aws:s3:::")
    for role in ("ReaderRole", "PlatformRole"):
        assert allows(stack.policies(role), "s3:PutObject", f"{result}1.csv"), f"{role} could not store its results"


# ----------------------------------------------------------------------------------------------------------- deployment


@functools.cache
def client(service: str, endpoint: str) -> Any:
    """Made once: making one reads the service's whole model."""
    import boto3

    return boto3.Session().client(service, endpoint_url=endpoint)


def deploy(parameters: dict[str, str], s3: Any, endpoint: str) -> tuple[Stack, dict[str, str]]:
    """The template on moto. Returns it resolved, and the outputs that moto gave."""
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("lambda_function.py", "def lambda_handler(event, context): ...\n")
    s3.put_object(Bucket="drop", Key="push.zip", Body=code.getvalue())
    cloudformation = client("cloudformation", endpoint)
    cloudformation.create_stack(
        StackName="forecast",
        TemplateBody=PATH.read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (made,) = cloudformation.describe_stacks(StackName="forecast")["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE", made
    stack = resolve(**parameters)
    landing = stack.resources["LandingBucket"]
    s3.put_bucket_notification_configuration(
        Bucket=landing["BucketName"], NotificationConfiguration=as_request(landing["NotificationConfiguration"])
    )
    return stack, {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}


def as_request(notifications: dict[str, Any]) -> dict[str, Any]:
    """CloudFormation's spelling of notifications in S3's."""
    names = {"Queue": "QueueArn", "Function": "LambdaFunctionArn"}

    def one(item: dict[str, Any]) -> dict[str, Any]:
        (target,) = set(item) & set(names)
        rules = [{"Name": r["Name"], "Value": r["Value"]} for r in item["Filter"]["S3Key"]["Rules"]]
        return {names[target]: item[target], "Events": [item["Event"]], "Filter": {"Key": {"FilterRules": rules}}}

    words = {"QueueConfigurations": "QueueConfigurations", "LambdaConfigurations": "LambdaFunctionConfigurations"}
    return {words[kind]: [one(item) for item in items] for kind, items in notifications.items()}


@pytest.mark.parametrize("parameters", COMBINATIONS, ids=named)
def test_every_combination_deploys(parameters: dict[str, str], s3: Any, endpoint: str) -> None:
    stack, outputs = deploy(parameters, s3, endpoint)
    assert set(outputs) == set(stack.outputs) - {"Workgroup"}  # of a kind that moto passes over
    assert outputs["LandingUrl"] == stack.outputs["LandingUrl"]
    roles = {role["Arn"]: role for role in client("iam", endpoint).list_roles()["Roles"]}
    assert len(roles) == list(stack.types.values()).count("AWS::IAM::Role")
    assert "sagemaker.amazonaws.com" in json.dumps(roles[outputs["RoleArn"]]["AssumeRolePolicyDocument"])
    if "PushFunction" in stack.types:
        function = client("lambda", endpoint).get_function(FunctionName="forecast-landing")
        assert function["Configuration"]["Handler"] == "lambda_function.lambda_handler"
        assert function["Configuration"]["Environment"]["Variables"]["DAGSTER_URL"] == PUSH["DagsterUrl"]


def test_a_file_put_into_the_deployed_bucket_is_a_message_in_the_deployed_queue(s3: Any, endpoint: str) -> None:
    stack, outputs = deploy({}, s3, endpoint)
    sqs = client("sqs", endpoint)
    sqs.purge_queue(QueueUrl=outputs["QueueUrl"])  # s3:TestEvent
    bucket = outputs["LandingUrl"].removeprefix("s3://").partition("/")[0]
    s3.put_object(Bucket=bucket, Key="landing/sales/2025-01-31.csv", Body=b"x")
    s3.put_object(Bucket=bucket, Key="elsewhere/2025-01-31.csv", Body=b"x")
    received = sqs.receive_message(QueueUrl=outputs["QueueUrl"], MaxNumberOfMessages=10).get("Messages", [])
    (record,) = [record for message in received for record in json.loads(message["Body"])["Records"]]
    assert record["s3"]["bucket"]["name"] == bucket
    assert "2025-01-31.csv" in record["s3"]["object"]["key"]
    assert "elsewhere" not in record["s3"]["object"]["key"]
    # What nobody manages to handle ends in the dead-letter queue.
    for _ in range(6):
        for message in received:
            sqs.change_message_visibility(
                QueueUrl=outputs["QueueUrl"], ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
        received = sqs.receive_message(QueueUrl=outputs["QueueUrl"]).get("Messages", [])
    assert not received
    assert len(sqs.receive_message(QueueUrl=outputs["DeadLettersUrl"]).get("Messages", [])) == 1
    assert stack.resources["Queue"]["VisibilityTimeout"] == 300
