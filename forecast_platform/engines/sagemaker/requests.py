"""The bodies of the SageMaker requests, as pure functions of the settings: which fields we set, and why.

Names and tags are not part of them (see jobs.Spec). What is left out is left to SageMaker's default on purpose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from forecast_platform.engines.sagemaker.container.serving import MAX_PAYLOAD_MB, SHARD
from forecast_platform.settings import Settings

VOLUME_GB = 30  # panel, image layers and checkpoints together stay far below
# The most that a spot job of an algorithm without checkpoints may wait and run (Amazon's DeepAR has none).
SPOT_WITHOUT_CHECKPOINTS = 3600
MOST_MB = 100  # limit of one request, and of all requests under way on one instance together
ENVIRONMENT_VALUE = 10240  # characters, the API's limit
# Amazon's algorithms define these themselves; for an image of ours SageMaker reads them from the log by these rules.
METRICS = [
    {"Name": "train:loss", "Regex": r"#quality_metric: host=\S+, epoch=\d+, train loss <loss>=(\S+)"},
    {"Name": "train:final_loss", "Regex": r"#quality_metric: host=\S+, train final_loss <loss>=(\S+)"},
    {"Name": "train:progress", "Regex": r"#progress_metric: host=\S+, completed (\d+) %"},
]


def builtin_image(region: str) -> str:
    """Amazon's DeepAR image in a region. Reads a table that the sagemaker package brings; asks nobody."""
    from sagemaker.core import image_uris  # type: ignore[import-untyped]  # a second; only this engine pays it

    return str(image_uris.retrieve("forecasting-deepar", region))


def train_instances(settings: Settings) -> int:
    """Of a training job: our networks are small and train on one."""
    return settings.train_instances if settings.engine_name == "sagemaker-builtin" else 1


def run_seconds(settings: Settings, checkpoints: bool) -> int:
    """The longest a training may run."""
    limit = 60 * settings.max_job_minutes
    return min(limit, SPOT_WITHOUT_CHECKPOINTS) if settings.spot and not checkpoints else limit


def _vpc(settings: Settings) -> dict[str, Any]:
    """Where jobs run: in subnets of one's own, where the settings name some. A transform runs where its model says."""
    if not settings.vpc_subnets:
        return {}
    return {"VpcConfig": {"Subnets": [*settings.vpc_subnets], "SecurityGroupIds": [*settings.vpc_security_groups]}}


def _key(settings: Settings, name: str) -> dict[str, str]:
    """The settings' KMS key under the name of a request's field."""
    return {name: settings.kms_key} if settings.kms_key else {}


def training(
    settings: Settings,
    image: str,
    hyperparameters: Mapping[str, str],
    channel: str,
    source: str,
    output: str,
    checkpoints: str = "",
) -> dict[str, Any]:
    """create_training_job. Several instances are each given their part of the objects, at least one.

    Args:
        image: Amazon's DeepAR or ours.
        hyperparameters: strings all, as the API wants them.
        channel: name of the one input channel, whose objects lie below `source`.
        output: where <job>/output/model.tar.gz goes.
        checkpoints: where they are kept between attempts; empty: the image has none, which says it is Amazon's.
    """
    seconds, instances = run_seconds(settings, bool(checkpoints)), train_instances(settings)
    stopping = {"MaxRuntimeInSeconds": seconds}
    if settings.spot:
        # Waiting included. With checkpoints an interrupted training goes on where it was, so it may wait as long again.
        stopping["MaxWaitTimeInSeconds"] = 2 * seconds if checkpoints else SPOT_WITHOUT_CHECKPOINTS
    algorithm: dict[str, Any] = {"TrainingImage": image, "TrainingInputMode": "File"}
    request: dict[str, Any] = {
        "AlgorithmSpecification": algorithm,
        "RoleArn": settings.role_arn,
        "HyperParameters": dict(hyperparameters),
        "InputDataConfig": [
            {
                "ChannelName": channel,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": source,
                        "S3DataDistributionType": "ShardedByS3Key" if instances > 1 else "FullyReplicated",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": output, **_key(settings, "KmsKeyId")},
        "ResourceConfig": {
            "InstanceType": settings.train_instance,
            "InstanceCount": instances,
            "VolumeSizeInGB": VOLUME_GB,
            **_key(settings, "VolumeKmsKeyId"),
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": settings.spot,
        **_vpc(settings),
    }
    if checkpoints:
        algorithm["MetricDefinitions"] = METRICS  # refused for Amazon's own algorithms
        request["CheckpointConfig"] = {"S3Uri": checkpoints}
        request["EnableNetworkIsolation"] = True  # our image talks to nobody; S3 is SageMaker's part
    return request


def model(settings: Settings, image: str, artifact: str, isolated: bool) -> dict[str, Any]:
    """create_model: the image with a model.tar.gz. It costs nothing and serves transforms only."""
    return {
        "PrimaryContainer": {"Image": image, "ModelDataUrl": artifact},
        "ExecutionRoleArn": settings.role_arn,
        **({"EnableNetworkIsolation": True} if isolated else {}),
        **_vpc(settings),
    }


def transform(settings: Settings, model_name: str, source: str, output: str, largest: int = 0) -> dict[str, Any]:
    """create_transform_job of our image: each object is one request (container/shards.py).

    Args:
        source, output: prefixes of the input shards and of the .out objects.
        largest: bytes of the largest shard.

    Raises:
        ValueError: it is larger than SageMaker sends.
    """
    megabytes = math.ceil(largest / 1e6)
    if megabytes > MOST_MB:
        raise ValueError(
            f"a shard with the sums that it needs has {megabytes} MB, and SageMaker sends at most {MOST_MB}: there are "
            "too many stores and departments for it; use FORECAST_ENGINE=spark, or local on a larger machine"
        )
    # What our image asks for at /execution-parameters, unless a shard needs more: then fewer at the same time.
    larger = {"MaxPayloadInMB": megabytes, "MaxConcurrentTransforms": MOST_MB // max(megabytes, 1)}
    return {
        **(larger if megabytes > MAX_PAYLOAD_MB else {}),
        "ModelName": model_name,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source}},
            "ContentType": SHARD,
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": output,
            "Accept": SHARD,
            "AssembleWith": "None",
            **_key(settings, "KmsKeyId"),
        },
        "TransformResources": _machines(settings),
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": 3600, "InvocationsMaxRetries": 1},
    }


def _machines(settings: Settings) -> dict[str, Any]:
    return {
        "InstanceType": settings.transform_instance,
        "InstanceCount": settings.transform_instances,
        **_key(settings, "VolumeKmsKeyId"),
    }


def transform_lines(
    settings: Settings, model_name: str, source: str, output: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    """create_transform_job of Amazon's image, over JSON Lines.

    Args:
        config: of the inference, as DEEPAR_INFERENCE_CONFIG has it.

    Raises:
        ValueError: the inference configuration is longer than an environment variable may be.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    if len(text) > ENVIRONMENT_VALUE:
        raise ValueError(f"the inference configuration has {len(text)} characters, at most {ENVIRONMENT_VALUE} fit")
    return {
        "ModelName": model_name,
        # Amazon's DeepAR fails on several records at once.
        "BatchStrategy": "SingleRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source}},
            "ContentType": "application/jsonlines",
            "SplitType": "Line",  # the default sends a whole file as one request
        },
        "TransformOutput": {
            "S3OutputPath": output,
            "Accept": "application/jsonlines",
            "AssembleWith": "Line",  # the default writes all answers on one line
            **_key(settings, "KmsKeyId"),
        },
        "TransformResources": _machines(settings),
        "Environment": {"DEEPAR_INFERENCE_CONFIG": text},
    }
