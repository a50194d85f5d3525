"""The rules by which the emulated SageMaker refuses a request, before anything runs.

Most come from botocore's own service model (required members, lengths, ranges, patterns, enumerations), which botocore
itself does not check on the client's side beyond types and required members. The others are those of the service that
no model states; each says where it is from. Texts in AWS's words are those seen in public issue threads.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

REGION = "us-east-1"
ACCOUNT = "123456789012"  # moto's
BUILTIN_ACCOUNT = "522234722520"  # of Amazon's forecasting-deepar image in us-east-1
BUILTIN = f"{BUILTIN_ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/forecasting-deepar:1"
RESERVED_TAG = "aws:"


class ApiError(Exception):
    """An answer that is an error: its code, as `__type` on the wire, and the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


@functools.cache
def service_model(service: str) -> Any:
    import botocore.loaders
    import botocore.model

    return botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model(service, "service-2"), service)


def check_shape(operation: str, request: dict[str, Any]) -> None:
    """Raises ValidationException in AWS's words for everything the service model forbids."""
    faults = list(_violations(service_model("sagemaker").operation_model(operation).input_shape, request, ""))
    if faults:
        count = f"{len(faults)} validation error{'s' if len(faults) > 1 else ''} detected: "
        raise invalid(count + "; ".join(faults))


def _violations(shape: Any, value: Any, where: str) -> Iterator[str]:
    def failed(rule: str) -> str:
        return f"Value '{value}' at '{where}' failed to satisfy constraint: Member must {rule}"

    kind, limits = shape.type_name, shape.metadata
    if kind == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                path = f"{where}.{_camel(name)}".lstrip(".")
                yield f"Value null at '{path}' failed to satisfy constraint: Member must not be null"
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _violations(member, value[name], f"{where}.{_camel(name)}".lstrip("."))
        return
    size = value if kind in ("integer", "long", "float", "double") else len(value) if kind != "boolean" else 0
    what = "value" if kind in ("integer", "long", "float", "double") else "length"
    if size < limits.get("min", size):
        yield failed(f"have {what} greater than or equal to {limits['min']}")
    if size > limits.get("max", size):
        yield failed(f"have {what} less than or equal to {limits['max']}")
    if kind == "string":
        if "enum" in limits and value not in limits["enum"]:
            yield failed(f"satisfy enum value set: [{', '.join(limits['enum'])}]")
        if "pattern" in limits and not _compiled(limits["pattern"]).fullmatch(value):
            yield failed(f"satisfy regular expression pattern: {limits['pattern']}")
    elif kind == "list":
        for number, member in enumerate(value, 1):
            yield from _violations(shape.member, member, f"{where}.{number}.member")
    elif kind == "map":
        for key, member in value.items():
            yield from _violations(shape.key, key, f"{where}.key")
            yield from _violations(shape.value, member, f"{where}.{key}.member")


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # The model writes Java's expressions; these are the classes of it that ours lacks.
    for java, ours in {r"\p{L}": r"\w", r"\p{N}": r"\d", r"\p{Z}": r"\s", r"\p{Alnum}": "a-zA-Z0-9"}.items():
        pattern = pattern.replace(java, ours)
    return re.compile(pattern)


def check_role(role: str, known: set[str] | None) -> None:
    """`known` are the roles that exist and trust SageMaker; None: all of this account."""
    if role.split(":")[4] != ACCOUNT:
        raise ApiError("AccessDeniedException", "Cross-account pass role is not allowed.")
    if known is not None and role not in known:
        raise invalid(
            f"Could not assume role {role}. Please ensure that the role exists and allows principal "
            "'sagemaker.amazonaws.com' to assume the role."
        )


def check_image(image: str) -> None:
    """Amazon's DeepAR of this region, or any image in this account's ECR of this region."""
    ours = rf"{ACCOUNT}\.dkr\.ecr\.{REGION}\.amazonaws\.com/[a-z0-9][a-z0-9._/-]*[:@][\w.:-]+"
    if image != BUILTIN and not re.fullmatch(ours, image):
        raise invalid(
            f"Could not pull image {image}: emulated are {BUILTIN} and "
            f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/<repository>:<tag>."
        )


def check_tags(tags: list[dict[str, str]]) -> None:
    keys = [tag["Key"] for tag in tags]
    if len(set(keys)) < len(keys):
        raise invalid("Tag keys must be unique")
    if any(key.lower().startswith(RESERVED_TAG) for key in keys):
        raise invalid("Tag keys must not start with aws:, which is reserved for AWS use")
    if len(keys) > 50:
        raise invalid("A resource can have at most 50 tags")


def check_training(request: dict[str, Any]) -> None:
    """What CreateTrainingJob refuses that the model does not state."""
    algorithm, resources = request.get("AlgorithmSpecification") or {}, request.get("ResourceConfig") or {}
    stopping = request.get("StoppingCondition") or {}
    if not algorithm.get("TrainingImage"):
        raise invalid("You must specify either an algorithm name or a training image")
    if not resources.get("InstanceType") or not resources.get("InstanceCount") or not resources.get("VolumeSizeInGB"):
        raise invalid("ResourceConfig needs InstanceType, InstanceCount and VolumeSizeInGB")
    check_image(algorithm["TrainingImage"])
    builtin = algorithm["TrainingImage"] == BUILTIN
    if builtin and algorithm.get("MetricDefinitions"):
        raise invalid(
            "You can't override the metric definitions for Amazon SageMaker algorithms. Please retry the request "
            "without specifying metric definitions."
        )
    channels = [c["ChannelName"] for c in request.get("InputDataConfig") or ()]
    if len(set(channels)) < len(channels):
        raise invalid("Channel names must be unique")
    runtime, wait = stopping.get("MaxRuntimeInSeconds", 86400), stopping.get("MaxWaitTimeInSeconds")
    if request.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            raise invalid(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            )
        # Algorithms without checkpoints, DeepAR among them (AWS documentation, managed spot training).
        if builtin and wait > 3600:
            raise invalid("MaxWaitTimeInSeconds above 3600 is not supported for the given algorithm")
    elif wait is not None:
        raise invalid("MaxWaitTimeInSeconds requires EnableManagedSpotTraining to be true")
    if builtin and request.get("CheckpointConfig"):
        raise invalid("CheckpointConfig is not supported for the given algorithm")


def check_transform(request: dict[str, Any]) -> None:
    """What CreateTransformJob refuses that the model does not state."""
    concurrent, payload = request.get("MaxConcurrentTransforms") or 1, request.get("MaxPayloadInMB") or 0
    if payload > 100 or concurrent * payload > 100:
        raise invalid("The value of MaxConcurrentTransforms * MaxPayloadInMB must not exceed 100 MB")
    # "To enable the batch strategy, you must set the SplitType property" (AWS documentation, CreateTransformJob).
    if request.get("BatchStrategy") == "SingleRecord" and request["TransformInput"].get("SplitType", "None") == "None":
        raise invalid("BatchStrategy SingleRecord needs a SplitType other than None")


# What SageMaker can do and this emulator cannot: said rather than silently left undone.
_NOT_EMULATED = {
    "CreateTrainingJob": ("VpcConfig", "DebugHookConfig", "ProfilerConfig", "RetryStrategy", "ExperimentConfig"),
    "CreateTransformJob": ("DataProcessing", "DataCaptureConfig", "ExperimentConfig"),
    "CreateModel": ("Containers", "VpcConfig", "InferenceExecutionConfig"),
}


def check_emulated(operation: str, request: dict[str, Any]) -> None:
    given = [name for name in _NOT_EMULATED.get(operation, ()) if request.get(name)]
    for channel in (*(request.get("InputDataConfig") or ()), request.get("TransformInput") or {}):
        source = (channel.get("DataSource") or {}).get("S3DataSource") or {}
        if source and source["S3DataType"] != "S3Prefix":
            given.append(f"S3DataType {source['S3DataType']}")
        if channel.get("CompressionType", "None") != "None":
            given.append(f"CompressionType {channel['CompressionType']}")
    modes = [(request.get("AlgorithmSpecification") or {}).get("TrainingInputMode")]
    if "Pipe" in modes + [c.get("InputMode") for c in request.get("InputDataConfig") or ()]:
        given.append("TrainingInputMode Pipe")
    if (request.get("TransformInput") or {}).get("SplitType", "None") not in ("None", "Line"):
        given.append(f"SplitType {request['TransformInput']['SplitType']}")
    if given:
        raise ApiError("NotEmulated", f"{operation} with {', '.join(given)} is valid but not emulated", status=501)
