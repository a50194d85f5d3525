"""The CloudFormation template: sound, deployable in every combination of its choices, and giving no right too many.

moto's CloudFormation makes buckets, queues, rules, roles and the repository; it passes over bucket and queue policies,
Glue, Athena and alarms, and a bucket's notifications. Those are read from the resolved template instead, and the
notifications are then set by the API as CloudFormation would.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.clouds.aws.events import parse
from forecast_platform.engines.sagemaker.decision import job_name
from forecast_platform.settings import Settings
from forecast_platform_tests.infra.template import (
    ACCOUNT,
    PATH,
    PSEUDO,
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

KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a1b2c3d-0000-0000-0000-000000000000"
GUARDED = {"KmsKeyArn": KEY, "SubnetIds": "subnet-0a1b,subnet-2c3d", "SecurityGroupIds": "sg-4e5f"}
OPTIONS = (
    ({}, {"Crawler": "yes"}),
    ({}, {"AlarmEmail": "ops@example.com"}),
    (
        {},
        {
            "ReaderPrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/tableau",
            "EtlPrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/etl",
            **GUARDED,
        },
    ),
)
COMBINATIONS = [{key: value for part in parts for key, value in part.items()} for parts in itertools.product(*OPTIONS)]

# Where AWS itself knows no narrower resource.
ONLY_STAR = {
    "ecr:GetAuthorizationToken",
    "cloudwatch:PutMetricData",
    "servicequotas:ListServiceQuotas",
    "servicequotas:ListAWSDefaultServiceQuotas",
    "athena:ListWorkGroups",
    "athena:ListDataCatalogs",
    # Of a machine that is not managed yet there is nothing else to name.
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
}
ONLY_STAR_IN_A_VPC = {
    f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")
}


def named(parameters: dict[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in parameters.items()) or "defaults"


@pytest.fixture(params=COMBINATIONS, ids=named)
def stack(request: pytest.FixtureRequest) -> Stack:
    return resolve(**request.param)


def test_cfn_lint_finds_nothing() -> None:
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--include-checks", "I", "--", str(PATH)]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(PATH.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_template_can_be_read_in_every_partition(path: Path) -> None:
    """CloudFormation refuses a template that names a type it does not know there, whatever the conditions say. Of the
    budget, which GovCloud does not know, that is known: it is a template of its own."""
    regions = ["us-east-1", "cn-north-1", "cn-northwest-1"]
    regions += [] if path.stem == "budget" else ["us-gov-west-1", "us-gov-east-1"]
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--regions", *regions, "--", str(path)]
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
    assert (described["Region"], stack.outputs["Region"]) == ("AWS_REGION", REGION)
    given = {
        described[name].removeprefix("FORECAST_").lower(): value
        for name, value in stack.outputs.items()
        if described[name].startswith("FORECAST_")
    }
    settings = Settings(profile="aws", **given)  # type: ignore[arg-type]
    for name, output in given.items():
        found = getattr(settings, name)
        assert (",".join(found) if isinstance(found, tuple) else found) == output
    assert {name.replace("_", "") for name in given} == {
        name.lower() for name in stack.outputs if described[name].startswith("FORECAST_")
    }
    assert given["queue_url"]


def test_every_setting_of_the_aws_profile_is_an_output_or_in_the_guide() -> None:
    names = list(Settings.model_fields)
    of_aws = {"profile", "landing_url", *names[names.index("storage_url") :]}
    produced = {output["Description"].removeprefix("FORECAST_").lower() for output in load()["Outputs"].values()}
    docs = PATH.parents[1] / "docs"
    guide = "".join((docs / name).read_text() for name in ("aws.md", "aws/operations.md", "aws/details.md"))
    missing = [name for name in of_aws if name not in produced and f"FORECAST_{name.upper()}" not in guide]
    assert not missing, f"no page about AWS tells of {missing}"


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
                wide = set(actions) - ONLY_STAR - ONLY_STAR_IN_A_VPC
                assert not wide, f"{where}.{statement['Sid']}: {wide}"
            else:
                assert re.fullmatch(r"arn:aws:[a-z0-9]+:[a-z0-9-]*:(\d{12}|\*)?:[^*]\S*", resource), resource
                if ":*:" in resource:
                    assert resource.endswith("repository/forecasting-deepar"), f"{where}: any account in {resource}"
    used = {a for _, s in statements(resolve(**GUARDED)) if s.get("Resource") == "*" for a in listed(s["Action"])}
    assert used == ONLY_STAR | ONLY_STAR_IN_A_VPC, "an exception that nothing needs any more"


@pytest.mark.parametrize("path", [PATH, PATH.with_name("serverless.yaml")], ids=lambda path: path.stem)
def test_policies_of_a_role_fit_into_what_iam_takes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,240 characters a role, all its inline policies together; here with the longest names and region."""
    monkeypatch.setitem(PSEUDO, "AWS::Partition", "aws-us-gov")
    monkeypatch.setitem(PSEUDO, "AWS::Region", "ap-southeast-1")
    choices = GUARDED | {"Name": "a" * 21, "Database": "b" * 60} | ({"Crawler": "yes"} if path == PATH else {})
    stack = resolve(path, **choices)
    roles = [name for name, kind in stack.types.items() if kind == "AWS::IAM::Role"]
    assert len(roles) > 1
    for role in roles:
        length = len(json.dumps(stack.policies(role), separators=(",", ":")))
        assert 100 < length < 9_500, (role, length)  # leaves room for each document's frame


def test_services_act_for_this_account_only(stack: Stack) -> None:
    """Against the confused deputy: a service that acts for any account must say for which one. EC2 cannot be asked by
    others to take a role, so it sends no such key."""
    asked = set()
    for where, statement in statements(stack):
        service = statement.get("Principal", {}) if statement["Effect"] == "Allow" else {}
        asked.add(service.get("Service"))
        if service.get("Service") == "events.amazonaws.com":  # names the rule, and with it the account
            assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": RULE}}, where
        elif service and service.get("Service") not in (None, "ec2.amazonaws.com"):
            assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == ACCOUNT, where
    assert {"events.amazonaws.com", "sagemaker.amazonaws.com"} <= asked


def sagemaker(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"


SMALL, LARGE = "ml.c5.2xlarge", "ml.p4d.24xlarge"
BUCKETS = {where: f"arn:aws:s3:::forecast-{where}-{ACCOUNT}-{REGION}" for where in ("landing", "storage")}
LANDING, STORAGE = BUCKETS["landing"], BUCKETS["storage"]
TRAINING = sagemaker("training-job", "forecast-20250131-abc-a0")
EXECUTION = f"arn:aws:iam::{ACCOUNT}:role/ExecutionRole"
GLUE = f"arn:aws:glue:{REGION}:{ACCOUNT}"
RULE = f"arn:aws:events:{REGION}:{ACCOUNT}:rule/LandedFiles"


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
        ("DashboardRole", True, "s3:GetObject", f"{STORAGE}/lake/forecast/quarantine/data/a.parquet", {}),
        ("DashboardRole", False, "s3:PutObject", f"{STORAGE}/lake/forecast/forecasts/data/a.parquet", {}),
        ("DashboardRole", False, "s3:GetObject", f"{LANDING}/landing/sales/a.csv", {}),
        ("DashboardRole", False, "glue:UpdateTable", f"{GLUE}:table/forecast/forecasts", {}),
        ("EtlRole", True, "s3:PutObject", f"{LANDING}/landing/sales/a.csv", {}),
        ("EtlRole", False, "s3:PutObject", f"{LANDING}/elsewhere/a.csv", {}),
        ("EtlRole", False, "s3:GetObject", f"{LANDING}/landing/sales/a.csv", {}),
        ("EtlRole", False, "s3:PutObject", f"{STORAGE}/lake/forecast/forecasts/data/a.parquet", {}),
        ("ReaderRole", True, "s3:GetObject", f"{STORAGE}/lake/forecast/forecasts/data/a.parquet", {}),
        ("ReaderRole", False, "s3:GetObject", f"{STORAGE}/lake/forecast/raw_sales/data/a.parquet", {}),
        ("ReaderRole", False, "glue:GetTable", f"{GLUE}:table/forecast/quarantine", {}),
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
    kept = [rule.get("Prefix", "") for rule in stack.resources["StorageBucket"]["LifecycleConfiguration"]["Rules"]]
    assert not [prefix for prefix in kept if prefix.startswith(("lake", "models"))], "tables and models never expire"


@pytest.mark.parametrize("path", [PATH, PATH.with_name("serverless.yaml")], ids=lambda path: path.stem)
def test_under_a_key_every_bucket_is_and_every_role_that_touches_one_may_use_it(path: Path) -> None:
    crawler = {"Crawler": "yes"} if path == PATH else {}
    with_key, without = resolve(path, **GUARDED, **crawler), resolve(path, **crawler)
    for stack, algorithm in ((with_key, "aws:kms"), (without, "AES256")):
        for name, kind in stack.types.items():
            if kind == "AWS::S3::Bucket":
                (rule,) = stack.resources[name]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
                how = {"SSEAlgorithm": algorithm} | ({"KMSMasterKeyID": KEY} if stack is with_key else {})
                assert rule["ServerSideEncryptionByDefault"] == how
                assert rule.get("BucketKeyEnabled", False) is (stack is with_key)
            if kind == "AWS::Athena::WorkGroup":
                result = stack.resources[name]["WorkGroupConfiguration"]["ResultConfiguration"]
                option = {"EncryptionOption": "SSE_KMS", "KmsKey": KEY}
                assert result["EncryptionConfiguration"] == (
                    option if stack is with_key else {"EncryptionOption": "SSE_S3"}
                )
    for role in (name for name, kind in with_key.types.items() if kind == "AWS::IAM::Role"):
        policy = with_key.policies(role)
        actions = {action for statement in policy for action in listed(statement["Action"])}
        assert allows(policy, "kms:Decrypt", KEY), role
        assert allows(policy, "kms:GenerateDataKey", KEY) is ("s3:PutObject" in actions), role
    assert allows(with_key.policies("ExecutionRole"), "kms:Encrypt", KEY)
    interface = f"arn:aws:ec2:{REGION}:{ACCOUNT}:network-interface/eni-1"
    assert allows(with_key.policies("ExecutionRole"), "ec2:CreateNetworkInterface", interface)
    left = with_key.resources.keys() - without.resources.keys()
    assert left - {"CrawlUnderTheKey"} == {"WriteUnderTheKey", "ReadUnderTheKey", "JobsUnderTheKey", "JobsInTheVpc"}


def test_what_holds_data_outlives_the_stack_and_a_creation_that_failed_leaves_nothing() -> None:
    """What it left would be in the way of the next try, because it has a name of its own. Whatever outlives the stack
    is imported by that name: docs/aws.md."""
    resources = load()["Resources"]
    kept = {name: r["DeletionPolicy"] for name, r in resources.items() if r.get("DeletionPolicy", "Delete") != "Delete"}
    assert kept == dict.fromkeys(("LandingBucket", "StorageBucket", "GlueDatabase"), "RetainExceptOnCreate")
    assert {resources[name]["UpdateReplacePolicy"] for name in kept} == {"Retain"}


def test_events_of_files_reach_the_queue_and_what_nobody_can_read_its_dead_letters() -> None:
    stack = resolve()
    landing = stack.resources["LandingBucket"]
    assert landing["NotificationConfiguration"] == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}
    rule, queue = stack.resources["LandedFiles"], f"arn:aws:sqs:{REGION}:{ACCOUNT}:forecast-landing"
    assert rule["EventPattern"]["detail"] == {
        "bucket": {"name": [landing["BucketName"]]},
        "object": {"key": [{"prefix": "landing/"}]},
    }
    assert [target["Arn"] for target in rule["Targets"]] == [queue]
    (statement,) = stack.resources["QueuePolicy"]["PolicyDocument"]["Statement"]
    assert (statement["Action"], statement["Resource"]) == ("sqs:SendMessage", queue)
    assert stack.resources["Queue"]["RedrivePolicy"] == {
        "deadLetterTargetArn": f"{queue}-dead-letters",
        "maxReceiveCount": 5,
    }


def test_an_image_is_never_exchanged_under_its_tag() -> None:
    assert resolve().resources["Repository"]["ImageTagMutability"] == "IMMUTABLE"


def test_session_manager_reaches_the_machine_and_it_reads_no_secret() -> None:
    """docs/aws.md opens Dagster's UI so. The five actions are those of Systems Manager's own guide."""
    platform = resolve().policies("PlatformRole")
    for action in sorted(a for a in ONLY_STAR if a.startswith("ssm")):
        assert allows(platform, action, "*")
    assert not [a for s in platform for a in listed(s["Action"]) if a.startswith(("ssm:Get", "secretsmanager:"))]


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
    s3.put_bucket_notification_configuration(
        Bucket=stack.resources["LandingBucket"]["BucketName"],
        NotificationConfiguration={"EventBridgeConfiguration": {}},
    )
    return stack, {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}


@pytest.mark.parametrize("parameters", COMBINATIONS, ids=named)
def test_every_combination_deploys(parameters: dict[str, str], s3: Any, endpoint: str) -> None:
    stack, outputs = deploy(parameters, s3, endpoint)
    assert set(outputs) == set(stack.outputs)
    assert outputs["LandingUrl"] == stack.outputs["LandingUrl"]
    roles = {role["Arn"]: role for role in client("iam", endpoint).list_roles()["Roles"]}
    assert len(roles) == list(stack.types.values()).count("AWS::IAM::Role")
    assert "sagemaker.amazonaws.com" in json.dumps(roles[outputs["RoleArn"]]["AssumeRolePolicyDocument"])


def test_a_file_put_into_the_deployed_bucket_is_a_message_in_the_deployed_queue(s3: Any, endpoint: str) -> None:
    stack, outputs = deploy({}, s3, endpoint)
    sqs = client("sqs", endpoint)
    bucket = outputs["LandingUrl"].removeprefix("s3://").partition("/")[0]
    s3.put_object(Bucket=bucket, Key="landing/sales/a b+c.csv", Body=b"x")
    s3.put_object(Bucket=bucket, Key="elsewhere/2025-01-31.csv", Body=b"x")
    received = sqs.receive_message(QueueUrl=outputs["QueueUrl"], MaxNumberOfMessages=10).get("Messages", [])
    (event,) = [event for message in received for event in parse(message["Body"])]
    assert event.url == f"s3://{bucket}/landing/sales/a b+c.csv", "in EventBridge's form names are not encoded"
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
