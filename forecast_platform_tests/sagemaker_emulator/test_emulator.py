"""The SageMaker emulator itself: each rule, each state, each fault, over boto3 and HTTP.

Most tests run the stand-in container; the last ones the platform's own.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import tarfile
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform_tests.sagemaker_emulator.emulator import Emulator
from forecast_platform_tests.sagemaker_emulator.runtime import relative_key
from forecast_platform_tests.sagemaker_emulator.transform import Parameters, split
from forecast_platform_tests.sagemaker_emulator.validation import BUILTIN

ROLE = "arn:aws:iam::123456789012:role/forecast-sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/forecast:1"
INSTANCE = "ml.c5.2xlarge"


@pytest.fixture
def emulator(sagemaker: Emulator) -> Emulator:
    """With a container that costs nothing to run."""
    sagemaker.module = "forecast_platform_tests.sagemaker_emulator.stand_in"
    return sagemaker


@pytest.fixture
def sm(sagemaker: Emulator) -> Any:
    return client("sagemaker")


@functools.cache  # it takes half a second to make one, and the server stays the same
def client(service: str, tries: int = 1) -> Any:
    """Of boto3, without what little it checks by itself."""
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": tries}, parameter_validation=False)
    return boto3.Session().client(service, config=config)


def channel(name: str = "train", prefix: str = "in/", **more: Any) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://drop/{prefix}", **more}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def training(name: str = "job", **changes: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "HyperParameters": {},
        "InputDataConfig": [channel()],
        "OutputDataConfig": {"S3OutputPath": "s3://drop/out"},
        "ResourceConfig": {"InstanceType": INSTANCE, "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        **changes,
    }


def transform(name: str = "job", instances: int = 1, **changes: Any) -> dict[str, Any]:
    request = {
        "TransformJobName": name,
        "ModelName": "model",
        "BatchStrategy": "SingleRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://drop/in/"}},
            "SplitType": "Line",
            "ContentType": "application/jsonlines",
        },
        "TransformOutput": {
            "S3OutputPath": "s3://drop/preds",
            "AssembleWith": "Line",
            "Accept": "application/jsonlines",
        },
        "TransformResources": {"InstanceType": INSTANCE, "InstanceCount": instances},
        **changes,
    }
    return {key: value for key, value in request.items() if value is not None}


def lines(*lengths: int) -> bytes:
    records = [{"start": "2024-01-05 00:00:00", "target": [1.0] * n} for n in lengths]
    return b"".join(json.dumps(r).encode() + b"\n" for r in records)


@pytest.fixture
def data(s3: Any, sagemaker: Emulator) -> None:
    s3.put_object(Bucket="drop", Key="in/a.json", Body=lines(1, 2))
    s3.put_object(Bucket="drop", Key="in/b/b.json", Body=lines(3))


@pytest.fixture
def model(sm: Any, data: None) -> None:
    sm.create_model(ModelName="model", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE})


def run(sagemaker: Emulator, sm: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Create a job, wait for its end, and describe it."""
    kind = "training" if "TrainingJobName" in request else "transform"
    getattr(sm, f"create_{kind}_job")(**request)
    sagemaker.wait_idle()
    return describe(sm, kind, request[f"{kind.capitalize()}JobName"])


def describe(sm: Any, kind: str, name: str = "job") -> dict[str, Any]:
    title = f"{kind.capitalize()}JobName"
    return dict(getattr(sm, f"describe_{kind}_job")(**{title: name}))


def reach(sm: Any, kind: str, wanted: Callable[[dict[str, Any]], bool]) -> None:
    deadline = time.monotonic() + 20
    while not wanted(found := describe(sm, kind)):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def refused(call: Callable[..., Any], **request: Any) -> tuple[str, str]:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call(**request)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def keys(s3: Any, prefix: str) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket="drop", Prefix=prefix).get("Contents", [])]


def body(s3: Any, key: str) -> bytes:
    return bytes(s3.get_object(Bucket="drop", Key=key)["Body"].read())


def transitions(described: dict[str, Any]) -> list[str]:
    return [t["Status"] for t in described["SecondaryStatusTransitions"]]


# Rules


def algorithm(**changes: Any) -> dict[str, Any]:
    return {"AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File", **changes}}


SPOT = {"EnableManagedSpotTraining": True}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"TrainingJobName": "a_b"},
            "Value 'a_b' at 'trainingJobName' failed to satisfy constraint: Member must satisfy",
        ),
        ({"TrainingJobName": "a" * 64}, "length less than or equal to 63"),
        ({"TrainingJobName": "a-"}, "regular expression pattern"),
        ({"HyperParameters": {"x": "y" * 2501}}, "length less than or equal to 2500"),
        ({"RoleArn": "arn:aws:iam::123456789012:user/me"}, "'roleArn' failed to satisfy"),
        ({"ResourceConfig": {"InstanceType": "c5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}}, "enum value set"),
        ({"ResourceConfig": {"InstanceType": INSTANCE, "InstanceCount": 1}}, "VolumeSizeInGB"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 0}}, "value greater than or equal to 1"),
        ({"InputDataConfig": []}, "length greater than or equal to 1"),
        ({"InputDataConfig": [channel(), channel()]}, "Channel names must be unique"),
        ({"InputDataConfig": [channel(prefix="none/")]}, 'No S3 objects found under S3 URL "s3://drop/none/"'),
        ({"OutputDataConfig": {"S3OutputPath": "/tmp/out"}}, "'outputDataConfig.s3OutputPath' failed"),
        (algorithm(TrainingInputMode="Files"), "satisfy enum value set: [Pipe, File, FastFile]"),
        (algorithm(TrainingImage=""), "either an algorithm name or a training image"),
        (algorithm(TrainingImage="python:3.11"), "Could not pull image python:3.11"),
        (algorithm(TrainingImage=BUILTIN, MetricDefinitions=[{"Name": "a", "Regex": "b"}]), "override the metric"),
        (SPOT, "MaxWaitTimeInSeconds. It must be present"),
        ({**SPOT, "StoppingCondition": {"MaxRuntimeInSeconds": 9, "MaxWaitTimeInSeconds": 8}}, "greater than or equal"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 9, "MaxWaitTimeInSeconds": 9}}, "EnableManagedSpotTraining"),
        (
            {
                **SPOT,
                **algorithm(TrainingImage=BUILTIN),
                "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3601},
            },
            "above 3600 is not supported",
        ),
        ({"Tags": [{"Key": "a", "Value": "1"}] * 2}, "unique"),
        ({"Tags": [{"Key": "aws:a", "Value": "1"}]}, "reserved"),
        ({"Tags": [{"Key": "a", "Value": "50%"}]}, "regular expression pattern"),
        ({"Tags": [{"Key": f"k{n}", "Value": ""} for n in range(51)]}, "length less than or equal to 50"),
        (
            {
                "InputDataConfig": [channel(S3DataDistributionType="ShardedByS3Key")],
                "ResourceConfig": {"InstanceType": INSTANCE, "InstanceCount": 3, "VolumeSizeInGB": 10},
            },
            "2 objects to shard over 3 instances",
        ),
    ],
)
def test_a_training_that_breaks_a_rule_is_refused_and_costs_nothing(
    emulator: Emulator, sm: Any, data: None, changes: dict[str, Any], says: str
) -> None:
    code, message = refused(sm.create_training_job, **training(**changes))
    assert code == "ValidationException"
    assert says in message
    assert emulator.jobs == {}
    assert emulator.billed == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"TransformJobName": "a_b"}, "regular expression pattern"),
        ({"ModelName": "other"}, 'Could not find model "arn:aws:sagemaker:us-east-1:123456789012:model/other".'),
        ({"MaxPayloadInMB": 101}, "must not exceed 100 MB"),
        ({"MaxPayloadInMB": 51, "MaxConcurrentTransforms": 2}, "must not exceed 100 MB"),
        ({"BatchStrategy": "Single"}, "[MultiRecord, SingleRecord]"),
        ({"Environment": {f"K{n}": "" for n in range(17)}}, "length less than or equal to 16"),
        ({"Environment": {"K": "v" * 10241}}, "length less than or equal to 10240"),
        ({"Environment": {"1K": "v"}}, "regular expression pattern"),
        ({"TransformResources": {"InstanceType": INSTANCE, "InstanceCount": 0}}, "greater than or equal to 1"),
        ({"ModelClientConfig": {"InvocationsMaxRetries": 4}}, "less than or equal to 3"),
        (
            {"TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://drop/in"}}}},
            "SplitType",
        ),
    ],
)
def test_a_transform_that_breaks_a_rule_is_refused(
    emulator: Emulator, sm: Any, model: None, changes: dict[str, Any], says: str
) -> None:
    code, message = refused(sm.create_transform_job, **transform(**changes))
    assert code == "ValidationException"
    assert says in message
    assert emulator.jobs == {}


def test_names_are_used_once(emulator: Emulator, sm: Any, model: None) -> None:
    run(emulator, sm, training())
    run(emulator, sm, transform())
    assert refused(sm.create_training_job, **training()) == (
        "ResourceInUse",
        "Training job names must be unique within an AWS account and region, and a training job with this name "
        "already exists (arn:aws:sagemaker:us-east-1:123456789012:training-job/job)",
    )
    assert refused(sm.create_transform_job, **transform())[0] == "ResourceInUse"
    again = {"ModelName": "model", "ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": IMAGE}}
    code, message = refused(sm.create_model, **again)
    assert code == "ValidationException"
    assert message.startswith("Cannot create already existing model")
    assert emulator.billed == ["job", "job"]


def test_models_are_described_and_deleted(emulator: Emulator, sm: Any, model: None) -> None:
    found = sm.describe_model(ModelName="model")
    assert found["PrimaryContainer"] == {"Image": IMAGE}
    sm.delete_model(ModelName="model")
    for call in (sm.describe_model, sm.delete_model):
        assert refused(call, ModelName="model")[1].startswith("Could not find model")


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"ModelName": "a_b"}, "ValidationException", "regular expression pattern"),
        ({"ExecutionRoleArn": ROLE.replace("1234", "4321")}, "AccessDeniedException", "Cross-account"),
        ({"ExecutionRoleArn": ROLE + "2"}, "ValidationException", "Could not assume role"),
        ({"PrimaryContainer": {"Image": IMAGE, "ModelDataUrl": "s3://drop/in/"}}, "ValidationException", "model data"),
        ({"PrimaryContainer": {"Image": BUILTIN.replace("522", "523")}}, "ValidationException", "Could not pull"),
    ],
)
def test_a_model_that_breaks_a_rule_is_refused(
    emulator: Emulator, sm: Any, data: None, changes: dict[str, Any], code: str, says: str
) -> None:
    emulator.roles = {ROLE}
    request = {"ModelName": "m", "ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": IMAGE}, **changes}
    assert refused(sm.create_model, **request)[0] == code
    assert says in refused(sm.create_model, **request)[1]


def test_what_it_cannot_do_it_says(emulator: Emulator, sm: Any, model: None) -> None:
    joined = transform(DataProcessing={"JoinSource": "Input"})
    assert refused(sm.create_transform_job, **joined)[0] == "NotEmulated"
    assert refused(sm.create_training_job, **training(**algorithm(TrainingInputMode="Pipe")))[0] == "NotEmulated"
    assert refused(sm.list_training_jobs)[0] == "NotEmulated"


def test_the_quota_counts_what_is_running(emulator: Emulator, sm: Any, data: None) -> None:
    usage = f"{INSTANCE} for training job usage"
    emulator.quotas[usage] = 0
    code, message = refused(sm.create_training_job, **training())
    assert code == "ResourceLimitExceeded"
    assert f"The account-level service limit '{usage}' is 0 Instances, with current utilization of 0 Inst" in message
    emulator.quotas[usage] = 1
    emulator.hold()
    sm.create_training_job(**training())
    assert "current utilization of 1 Instances" in refused(sm.create_training_job, **training("other"))[1]
    emulator.release()
    emulator.wait_idle()
    assert run(emulator, sm, training("other"))["TrainingJobStatus"] == "Completed"


def test_quotas_are_listed_page_by_page(emulator: Emulator, sm: Any) -> None:
    emulator.quotas[f"{INSTANCE} for training job usage"] = 3
    quotas = client("service-quotas")
    pages = quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    found = {quota["QuotaName"]: quota for page in pages for quota in page["Quotas"]}
    ours = found[f"{INSTANCE} for training job usage"]
    assert ours["Value"] == 3
    assert found[f"{INSTANCE} for transform job usage"]["Value"] == 20
    code = ours["QuotaCode"]
    assert quotas.get_service_quota(ServiceCode="sagemaker", QuotaCode=code)["Quota"] == ours
    assert refused(quotas.get_service_quota, ServiceCode="sagemaker", QuotaCode="L-0")[0] == "NoSuchResourceException"


def test_tags_are_kept_with_the_job_and_limited(emulator: Emulator, sm: Any, data: None) -> None:
    arn = run(emulator, sm, training(Tags=[{"Key": "week", "Value": "2025-01-31"}]))["TrainingJobArn"]
    sm.add_tags(ResourceArn=arn, Tags=[{"Key": "week", "Value": "2025-02-07"}, {"Key": "who", "Value": "a b_c.é"}])
    found = {tag["Key"]: tag["Value"] for tag in sm.list_tags(ResourceArn=arn)["Tags"]}
    assert found == {"week": "2025-02-07", "who": "a b_c.é"}
    many = [{"Key": f"k{n}", "Value": ""} for n in range(49)]
    assert refused(sm.add_tags, ResourceArn=arn, Tags=many)[1] == "A resource can have at most 50 tags"
    assert refused(sm.list_tags, ResourceArn=arn + "x")[0] == "ValidationException"


# States


def test_a_training_passes_through_its_states_and_leaves_its_artifacts(
    emulator: Emulator, sm: Any, s3: Any, data: None
) -> None:
    emulator.time_scale = 3600
    done = run(
        emulator,
        sm,
        training(
            HyperParameters={"say": "#quality_metric: host=algo-1, train final_loss <loss>=3.25"},
            Environment={"DEEPAR_SEED": "7"},
            StoppingCondition={"MaxRuntimeInSeconds": 86400},
            **algorithm(MetricDefinitions=[{"Name": "final_loss", "Regex": r"final_loss <loss>=(\S+)"}]),
        ),
    )
    assert done["TrainingJobStatus"] == done["SecondaryStatus"] == "Completed"
    assert transitions(done) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert [(m["MetricName"], m["Value"]) for m in done["FinalMetricDataList"]] == [("final_loss", 3.25)]
    assert done["CreationTime"] <= done["TrainingStartTime"] <= done["TrainingEndTime"]
    assert done["TrainingTimeInSeconds"] == done["BillableTimeInSeconds"] >= 36  # 10 ms at this scale
    assert keys(s3, "out/") == ["out/job/output/model.tar.gz", "out/job/output/output.tar.gz"]
    assert done["ModelArtifacts"]["S3ModelArtifacts"] == "s3://drop/out/job/output/model.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(body(s3, "out/job/output/model.tar.gz"))) as tar:
        found = json.load(tar.extractfile("found.json"))  # type: ignore[arg-type]
    assert [name for name in found["files"] if "/data/" in name] == [
        "input/data/train/a.json",
        "input/data/train/b/b.json",
    ]
    config = found["config"]
    assert config["resourceconfig"] == {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    assert config["inputdataconfig"]["train"]["S3DistributionType"] == "FullyReplicated"
    assert found["environment"]["TRAINING_JOB_NAME"] == "job"
    assert found["environment"]["DEEPAR_SEED"] == "7"
    assert not [name for name in found["environment"] if name.startswith("AWS_")]


def test_a_held_job_is_in_progress_until_released(emulator: Emulator, sm: Any, data: None) -> None:
    emulator.hold()
    sm.create_training_job(**training())
    reach(sm, "training", lambda d: d["SecondaryStatus"] == "Training")
    found = describe(sm, "training")
    assert found["TrainingJobStatus"] == "InProgress"
    assert "ModelArtifacts" not in found
    emulator.release()
    emulator.wait_idle()
    assert describe(sm, "training")["TrainingJobStatus"] == "Completed"


def test_what_is_not_there_is_a_validation_error(emulator: Emulator, sm: Any) -> None:
    expected = ("ValidationException", "Requested resource not found.")
    assert refused(sm.describe_training_job, TrainingJobName="job") == expected
    assert refused(sm.stop_training_job, TrainingJobName="job") == expected
    assert refused(sm.describe_transform_job, TransformJobName="job")[0] == "ValidationException"


def test_a_stopped_training_keeps_what_it_wrote_and_stops_once(
    emulator: Emulator, sm: Any, s3: Any, data: None
) -> None:
    sm.create_training_job(**training(HyperParameters={"say": "begun", "wait": "60"}))
    reach(sm, "training", lambda _: "begun" in emulator.logs.text("job"))
    sm.stop_training_job(TrainingJobName="job")
    sm.stop_training_job(TrainingJobName="job")  # while Stopping: no error
    emulator.wait_idle()
    done = describe(sm, "training")
    assert done["TrainingJobStatus"] == done["SecondaryStatus"] == "Stopped"
    assert "Stopping" in transitions(done)
    assert keys(s3, "out/") == ["out/job/output/model.tar.gz"]
    code, message = refused(sm.stop_training_job, TrainingJobName="job")
    assert (code, message) == (
        "ValidationException",
        "The request was rejected because the training job is in status Stopped",
    )


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"fail": "the data are too short", "exit": "1"}, "AlgorithmError: the data are too short, exit code: 1"),
        ({"exit": "3"}, "AlgorithmError: Exit Code: 3"),
        ({"exit": "1", "fail": "x" * 2000}, "AlgorithmError: " + "x" * 1008),
    ],
)
def test_a_failing_training_says_why(
    emulator: Emulator, sm: Any, s3: Any, data: None, parameters: dict[str, str], reason: str
) -> None:
    done = run(emulator, sm, training(HyperParameters=parameters))
    assert done["TrainingJobStatus"] == "Failed"
    assert done["FailureReason"] == reason
    assert keys(s3, "out/") == ["out/job/output/output.tar.gz"]


def test_a_training_beyond_its_time_is_stopped(emulator: Emulator, sm: Any, data: None) -> None:
    emulator.time_scale = 10_000
    done = run(emulator, sm, training(HyperParameters={"wait": "60"}))
    assert (done["TrainingJobStatus"], done["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_a_spot_training_goes_on_from_its_checkpoint_on_another_instance(
    emulator: Emulator, sm: Any, s3: Any, data: None
) -> None:
    emulator.faults.add("CreateTrainingJob", "interrupt")
    emulator.time_scale = 100
    done = run(
        emulator,
        sm,
        training(
            HyperParameters={"checkpoint": "1"},
            CheckpointConfig={"S3Uri": "s3://drop/checkpoints/job"},
            StoppingCondition={"MaxRuntimeInSeconds": 86400, "MaxWaitTimeInSeconds": 86400},
            **SPOT,
        ),
    )
    assert done["TrainingJobStatus"] == "Completed"
    assert "Interrupted" in transitions(done)
    assert body(s3, "checkpoints/job/starts") == b"2"
    assert done["BillableTimeInSeconds"] < done["TrainingTimeInSeconds"]


def test_equal_trainings_run_once_where_that_is_asked_for(emulator: Emulator, sm: Any, s3: Any, data: None) -> None:
    emulator.trained.clear()
    emulator.reuse_trainings = True
    for name, parameters in {"a": {"say": "1"}, "b": {"say": "1"}, "c": {"say": "2"}}.items():
        run(emulator, sm, training(name, HyperParameters=parameters))
    assert ["used again" in emulator.logs.text(name) for name in "abc"] == [False, True, False]
    with tarfile.open(fileobj=io.BytesIO(body(s3, "out/b/output/model.tar.gz"))) as tar:
        assert tar.getnames() == ["found.json"]


def test_logs_are_read_as_from_cloudwatch(emulator: Emulator, sm: Any, data: None) -> None:
    logs, group = client("logs"), "/aws/sagemaker/TrainingJobs"
    assert refused(logs.describe_log_streams, logGroupName=group)[0] == "ResourceNotFoundException"
    run(emulator, sm, training("job", HyperParameters={"say": "one|two|three"}))
    run(emulator, sm, training("job2", HyperParameters={"say": "other"}))
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix="job/")["logStreams"]
    assert len(streams) == 1
    name = streams[0]["logStreamName"]
    assert name.startswith("job/algo-1-")
    seen, where = [], {}
    while True:
        page = logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True, limit=2, **where)
        seen += [event["message"] for event in page["events"]]
        if page["nextForwardToken"] == where.get("nextToken"):
            break
        where = {"nextToken": page["nextForwardToken"]}
    assert seen == ["one", "two", "three"]
    last = logs.get_log_events(logGroupName=group, logStreamName=name, limit=1)["events"]
    assert [event["message"] for event in last] == ["three"]
    missing = {"logGroupName": group, "logStreamName": "x"}
    assert refused(logs.get_log_events, **missing)[0] == "ResourceNotFoundException"


# Transforms


def test_a_transform_answers_each_line_in_order_over_two_instances(
    emulator: Emulator, sm: Any, s3: Any, model: None
) -> None:
    done = run(emulator, sm, transform(instances=2, Environment={"DEEPAR_INFERENCE_CONFIG": "{}"}))
    assert done["TransformJobStatus"] == "Completed"
    assert done["CreationTime"] <= done["TransformStartTime"] <= done["TransformEndTime"]
    assert keys(s3, "preds/") == ["preds/a.json.out", "preds/b/b.json.out"]
    assert body(s3, "preds/a.json.out") == b'{"mean": [1]}\n{"mean": [2]}\n'
    text = emulator.logs.text("job")
    assert text.count('"SAGEMAKER_BATCH": "true"') == 2  # one process per instance
    assert '"SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD"' in text
    assert '"DEEPAR_INFERENCE_CONFIG": "{}"' in text
    assert text.count("1 lines as application/jsonlines for application/jsonlines") == 3
    assert text.count("[sagemaker logs]: MaxConcurrentTransforms=1, MaxPayloadInMB=6, BatchStrategy=SINGLE_RECORD") == 2


def test_without_a_strategy_lines_travel_together_and_without_assembly_run_together(
    emulator: Emulator, sm: Any, s3: Any, model: None
) -> None:
    output = {"S3OutputPath": "s3://drop/preds/", "Accept": "application/jsonlines"}
    run(emulator, sm, transform(BatchStrategy=None, TransformOutput=output))
    assert "2 lines as" in emulator.logs.text("job")
    assert body(s3, "preds/a.json.out") == b'{"mean": [1]}\n{"mean": [2]}\n'


def test_the_request_goes_before_what_the_container_offers() -> None:
    offered = {"MaxConcurrentTransforms": 8, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 2}
    assert Parameters.of({}, {}) == Parameters(1, "MultiRecord", 6)
    assert Parameters.of({}, offered) == Parameters(8, "SingleRecord", 2)
    given = {"MaxConcurrentTransforms": 3, "BatchStrategy": "MultiRecord", "MaxPayloadInMB": 0}
    assert Parameters.of(given, offered) == Parameters(3, "MultiRecord", 0)


@given(
    st.lists(st.binary(min_size=1, max_size=9).filter(lambda b: b"\n" not in b), max_size=30),
    st.sampled_from(["SingleRecord", "MultiRecord"]),
    st.sampled_from([0.00001, 0.00002, 0]),  # 10 and 20 bytes, and no limit
)
def test_payloads_hold_every_line_once_in_order_up_to_the_limit(
    lines: list[bytes], strategy: str, megabytes: float
) -> None:
    data = b"".join(line + b"\n" for line in lines)
    payloads = split(data, Parameters(1, strategy, megabytes))
    assert [line for payload in payloads for line in payload.split(b"\n")] == lines
    if strategy == "SingleRecord":
        assert payloads == lines
        return
    limit = megabytes * (1 << 20) or len(data)
    assert all(len(payload) <= limit for payload in payloads)
    assert all(len(a) + 1 + len(b.split(b"\n")[0]) > limit for a, b in itertools.pairwise(payloads))


@pytest.mark.parametrize(
    ("uri", "key", "relative"),
    [
        ("s3://b/in/", "in/x/y.json", "x/y.json"),
        ("s3://b/in", "in/y.json", "y.json"),
        ("s3://b/in/y.json", "in/y.json", "y.json"),
        ("s3://b/in/part-", "in/part-1.json", "part-1.json"),
        ("s3://b/part-", "part-1.json", "part-1.json"),
        ("s3://b", "in/y.json", "in/y.json"),
    ],
)
def test_outputs_are_named_below_the_prefix(uri: str, key: str, relative: str) -> None:
    assert relative_key(uri, key) == relative


@pytest.mark.parametrize(("word", "tries", "kind"), [("bad", 1, "ClientError: 400"), ("broken", 4, "InternalServer")])
def test_a_bad_line_costs_its_file_and_fails_the_job(
    emulator: Emulator, sm: Any, s3: Any, model: None, word: str, tries: int, kind: str
) -> None:
    s3.put_object(Bucket="drop", Key="in/a.json", Body=lines(1) + word.encode() + b"\n" + lines(2))
    done = run(emulator, sm, transform())
    assert done["TransformJobStatus"] == "Failed"
    assert done["FailureReason"] == "AlgorithmError: See job logs for more information"
    assert keys(s3, "preds/") == ["preds/b/b.json.out"]
    assert f"[sagemaker logs]: drop/in/a.json: {kind}" in emulator.logs.text("job")
    assert "cannot read this line" in emulator.logs.text("job")


def test_a_line_beyond_the_payload_fails_its_file(emulator: Emulator, sm: Any, s3: Any, model: None) -> None:
    s3.put_object(Bucket="drop", Key="in/a.json", Body=lines(300_000))
    done = run(emulator, sm, transform(MaxPayloadInMB=1))
    assert done["TransformJobStatus"] == "Failed"
    assert "Too much data for max payload size" in emulator.logs.text("job")


def test_a_stopped_transform_leaves_nothing(emulator: Emulator, sm: Any, s3: Any, model: None) -> None:
    emulator.hold()
    sm.create_transform_job(**transform())
    reach(sm, "transform", lambda d: "TransformStartTime" in d)
    sm.stop_transform_job(TransformJobName="job")
    emulator.wait_idle()
    assert describe(sm, "transform")["TransformJobStatus"] == "Stopped"
    assert keys(s3, "preds/") == []
    assert "is in status Stopped" in refused(sm.stop_transform_job, TransformJobName="job")[1]


def test_a_container_that_dies_at_once_fails_the_transform(emulator: Emulator, sm: Any, model: None) -> None:
    emulator.module = "forecast_platform_tests.sagemaker_emulator.no_such_module"
    done = run(emulator, sm, transform())
    assert done["FailureReason"] == "AlgorithmError: See job logs for more information"
    assert "no_such_module" in emulator.logs.text("job")


# Faults


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("throttle", "ThrottlingException"),
        ("server_error", "InternalFailure"),
        ("access_denied", "AccessDeniedException"),
        ("limit", "ResourceLimitExceeded"),
    ],
)
def test_a_call_goes_wrong_as_often_as_scripted(emulator: Emulator, sm: Any, data: None, kind: str, code: str) -> None:
    emulator.faults.add("CreateTrainingJob", kind, times=2)
    for _ in range(2):
        assert refused(sm.create_training_job, **training())[0] == code
    assert run(emulator, sm, training())["TrainingJobStatus"] == "Completed"
    assert emulator.calls.count(("CreateTrainingJob", "job")) == 3
    assert emulator.billed == ["job"]


@pytest.mark.parametrize("kind", ["throttle", "server_error", "lost_request"])
def test_boto3_tries_again_by_itself(emulator: Emulator, data: None, kind: str) -> None:
    emulator.faults.add("CreateTrainingJob", kind)
    assert run(emulator, client("sagemaker", tries=3), training())["TrainingJobStatus"] == "Completed"


def test_a_lost_response_has_done_its_work(emulator: Emulator, sm: Any, data: None) -> None:
    from botocore.exceptions import HTTPClientError

    emulator.faults.add("CreateTrainingJob", "lost_response", times=2)
    with pytest.raises(HTTPClientError):
        sm.create_training_job(**training("a"))
    emulator.wait_idle()
    assert describe(sm, "training", "a")["TrainingJobStatus"] == "Completed"
    # What boto3's own second try then meets.
    assert refused(client("sagemaker", tries=2).create_training_job, **training("b"))[0] == "ResourceInUse"
    emulator.wait_idle()
    assert emulator.billed == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "status", "says", "billed"),
    [
        ("capacity", "Failed", "CapacityError: Unable to provision requested ML compute capacity", False),
        ("internal", "Failed", "InternalServerError", True),
        ("algorithm", "Failed", "AlgorithmError", True),
        ("stop", "Stopped", "", True),
        ("max_wait", "Stopped", "", False),
    ],
)
@pytest.mark.parametrize("make", [training, transform])
def test_a_job_goes_wrong_once_as_scripted(
    emulator: Emulator,
    sm: Any,
    model: None,
    make: Callable[[str], dict[str, Any]],
    kind: str,
    status: str,
    says: str,
    billed: bool,
) -> None:
    title = make.__name__.capitalize()
    emulator.faults.add(f"Create{title}Job", kind)
    done = run(emulator, sm, make("first"))
    assert done[f"{title}JobStatus"] == status
    assert done.get("FailureReason", "").startswith(says)
    assert emulator.billed == ["first"] * billed
    assert run(emulator, sm, make("second"))[f"{title}JobStatus"] == "Completed"


def test_a_slow_job_waits_for_its_release(emulator: Emulator, sm: Any, data: None) -> None:
    emulator.faults.add("CreateTrainingJob", "slow")
    sm.create_training_job(**training("slow"))
    sm.create_training_job(**training("fast"))
    emulator.jobs["training", "fast"].thread.join(20)
    assert describe(sm, "training", "fast")["TrainingJobStatus"] == "Completed"
    assert describe(sm, "training", "slow")["TrainingJobStatus"] == "InProgress"
    emulator.release()
    emulator.wait_idle()
    assert describe(sm, "training", "slow")["TrainingJobStatus"] == "Completed"


@pytest.mark.parametrize(
    ("how", "left"),
    [("truncate", b'{"mean": [1]}\n'), ("drop_line", b'{"mean": [1]}\n'), ("nan", b'{"mean": [NaN]}\n{"mean": [2]}\n')],
)
def test_an_output_is_damaged_as_scripted(
    emulator: Emulator, sm: Any, s3: Any, model: None, how: str, left: bytes
) -> None:
    emulator.faults.add("CreateTransformJob", "corrupt_output", detail=how)
    assert run(emulator, sm, transform())["TransformJobStatus"] == "Completed"
    assert body(s3, "preds/a.json.out") == left
    assert body(s3, "preds/b/b.json.out") == b'{"mean": [3]}\n'


def test_faults_that_do_not_exist_are_refused(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="no fault 'thunder'"):
        emulator.faults.add("CreateTrainingJob", "thunder")
    with pytest.raises(ValueError, match="DescribeTrainingJob begins none"):
        emulator.faults.add("DescribeTrainingJob", "capacity")


# Amazon's own image: its rules, before our engine stands in for its numbers


def records(series: int = 10, weeks: int = 40, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "start": "2024-01-05 00:00:00",
            "target": [float(10 + n + w % 4) for w in range(weeks)],
            "cat": [n % 3],
            "dynamic_feat": [[1.0] * weeks],
            **changes,
        }
        for n in range(series)
    ]


PARAMETERS = {
    "time_freq": "1W",
    "context_length": "4",
    "prediction_length": "4",
    "epochs": "1",
    "num_cells": "4",
    "mini_batch_size": "32",
}


def put_records(s3: Any, found: list[dict[str, Any]], key: str = "in/train.json") -> None:
    s3.put_object(Bucket="drop", Key=key, Body="".join(json.dumps(r) + "\n" for r in found).encode())


@pytest.mark.parametrize(
    ("parameters", "changes", "says"),
    [
        ({"seed": "1"}, {}, "Additional hyperparameters are not allowed ('seed' was unexpected)"),
        ({"epochs": ""}, {}, "'epochs' is a required hyperparameter"),
        ({}, {"cat": [1]}, "did not contain examples for all categories of the 1-th categorical feature"),
        ({"cardinality": "[4]"}, {}, "3 of 4 were seen"),
        ({}, {"cat": [-1]}, "cat must be whole numbers from 0"),
        ({}, {"target": [0.0] * 40}, "training time series consist of only zeros"),
        ({}, {"target": [None] * 40}, "0 observations over all series; at least 300"),
        ({}, {"dynamic_feat": [[1.0] * 44]}, "dynamic_feat has 44 values for a target of 40; needed are 40"),
        ({}, {"dynamic_feat": [[None] * 40]}, "dynamic_feat must have no missing values"),
        ({}, {"start": None}, "train.json line 1: 'start' is missing"),
    ],
)
def test_amazons_image_fails_a_training_against_its_rules(
    emulator: Emulator, sm: Any, s3: Any, parameters: dict[str, str], changes: dict[str, Any], says: str
) -> None:
    put_records(s3, records(**changes))
    request = training(HyperParameters={**PARAMETERS, **parameters}, **algorithm(TrainingImage=BUILTIN))
    done = run(emulator, sm, request)
    assert done["TrainingJobStatus"] == "Failed"
    assert done["FailureReason"].startswith("ClientError: ")
    assert says in done["FailureReason"]


def test_amazons_image_wants_its_channels_and_file_names(emulator: Emulator, sm: Any, s3: Any) -> None:
    put_records(s3, records())
    put_records(s3, records(), "odd/train.jsonl")
    wrong = {"Additional channels": [channel(), channel("panel")], "'train' is a required": [channel("test")]}
    for says, channels in {**wrong, "ends in .json": [channel(prefix="odd/")]}.items():
        name = f"job-{len(emulator.jobs)}"
        request = training(name, HyperParameters=PARAMETERS, InputDataConfig=channels)
        done = run(emulator, sm, {**request, **algorithm(TrainingImage=BUILTIN)})
        assert says in done["FailureReason"]


def test_a_container_also_starts_from_nothing(emulator: Emulator, sm: Any, data: None) -> None:
    emulator.warm = False
    sm.create_training_job(**training(HyperParameters={"say": "begun", "wait": "60"}))
    reach(sm, "training", lambda _: "begun" in emulator.logs.text("job"))
    sm.stop_training_job(TrainingJobName="job")
    emulator.wait_idle()
    assert describe(sm, "training")["TrainingJobStatus"] == "Stopped"
    assert run(emulator, sm, training("second"))["TrainingJobStatus"] == "Completed"


# The platform's own container


SHARDS = {"a": [0, 1, 2], "b": [3, 4, 5], "c": [6, 7, 8, 9]}


def put_shards(s3: Any, ahead: int, **changes: Any) -> None:
    """The ten series as three files to transform, their features known `ahead` of the target."""
    found = records(dynamic_feat=[[1.0] * (40 + ahead)], **changes)
    for name, numbers in SHARDS.items():
        put_records(s3, [found[n] for n in numbers], f"batch/{name}.json")


def batch(name: str, **changes: Any) -> dict[str, Any]:
    request = transform(name, instances=2, Environment={"DEEPAR_INFERENCE_CONFIG": '{"num_samples": 10}'}, **changes)
    request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://drop/batch/"
    return request


@pytest.mark.parametrize("image", [IMAGE, BUILTIN])
def test_our_container_trains_and_forecasts(sagemaker: Emulator, sm: Any, s3: Any, image: str) -> None:
    put_records(s3, records())
    put_shards(s3, ahead=4)
    trained = run(sagemaker, sm, training(HyperParameters=PARAMETERS, **algorithm(TrainingImage=image)))
    assert trained["TrainingJobStatus"] == "Completed", (trained, sagemaker.logs.text("job"))
    artifact = trained["ModelArtifacts"]["S3ModelArtifacts"]
    with tarfile.open(fileobj=io.BytesIO(body(s3, artifact.removeprefix("s3://drop/")))) as tar:
        assert sorted(tar.getnames()) == ["model.json", "model.safetensors"]
    if image == BUILTIN:
        assert "train:final_loss" in {m["MetricName"] for m in trained["FinalMetricDataList"]}
    container = {"Image": image, "ModelDataUrl": artifact}
    sm.create_model(ModelName="model", ExecutionRoleArn=ROLE, PrimaryContainer=container)
    done = run(sagemaker, sm, batch("first"))
    assert done["TransformJobStatus"] == "Completed", (done, sagemaker.logs.text("first"))
    for name, numbers in SHARDS.items():
        out = [json.loads(line) for line in body(s3, f"preds/{name}.json.out").splitlines()]
        assert [len(o["mean"]) for o in out] == [4] * len(numbers)
    put_shards(s3, ahead=0)
    short = run(sagemaker, sm, batch("short"))
    assert short["FailureReason"] == "AlgorithmError: See job logs for more information"
    assert "ClientError: 400" in sagemaker.logs.text("short")
    if image == BUILTIN:
        put_shards(s3, ahead=4, cat=[3])
        assert run(sagemaker, sm, batch("unseen"))["TransformJobStatus"] == "Failed"
        assert "category 3 was not seen in training" in sagemaker.logs.text("unseen")
        put_shards(s3, ahead=4)
        many = run(sagemaker, sm, batch("many", BatchStrategy="MultiRecord"))
        assert many["FailureReason"].startswith("InternalServerError")


def test_our_container_says_what_it_could_not_train(sagemaker: Emulator, sm: Any, s3: Any) -> None:
    put_records(s3, records())
    done = run(sagemaker, sm, training(HyperParameters={**PARAMETERS, "epochs": "many"}))
    assert done["TrainingJobStatus"] == "Failed"
    assert done["FailureReason"].startswith("AlgorithmError: ")
    assert "epochs" in done["FailureReason"]


def test_our_container_stops_when_told(sagemaker: Emulator, sm: Any, s3: Any) -> None:
    put_records(s3, records())
    sm.create_training_job(**training(HyperParameters={**PARAMETERS, "epochs": "100000"}))
    reach(sm, "training", lambda _: "#quality_metric" in sagemaker.logs.text("job"))
    asked = time.monotonic()
    sm.stop_training_job(TrainingJobName="job")
    sagemaker.wait_idle()
    assert time.monotonic() - asked < sagemaker.grace
    assert describe(sm, "training")["TrainingJobStatus"] == "Stopped"
