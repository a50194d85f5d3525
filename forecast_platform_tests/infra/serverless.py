"""infra/serverless.yaml for tests: its parameters, and what a role may do beside what was asked of AWS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forecast_platform_tests.infra.template import ACCOUNT, REGION, Stack, allows, listed

PATH = Path(__file__).parents[2] / "infra" / "serverless.yaml"
RUNS = {
    "FunctionKey": "code/function.zip",
    "LayerKey": "code/layer.zip",
    "ModelName": "weekly-20250131-model-0123456789ab",
}
# Lambda itself logs and hands events over. A log is read when a job has failed; a damaged answer, and what was reserved
# for a job that was refused, are removed.
UNUSED_WITHOUT_FAILURE = {
    *("logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage"),
    *("logs:DescribeLogStreams", "logs:GetLogEvents", "s3:DeleteObject"),
}

_OBJECTS = {"PutObject": "s3:PutObject", "GetObject": "s3:GetObject", "HeadObject": "s3:GetObject"}
_JOBS = {"CreateTransformJob", "DescribeTransformJob"}


def actions(stack: Stack, role: str) -> set[str]:
    return {action for statement in stack.policies(role) for action in listed(statement["Action"])}


def check_rights(stack: Stack, role: str, calls: list[tuple[str, str, dict[str, Any]]]) -> set[str]:
    """That a role allows each call, of which those to the bucket of the tests are to the stack's two. Returns what was
    used."""
    used, policy = set(), stack.policies(role)
    for service, operation, parameters in calls:
        for action, resource, context in _asked(service, operation, parameters):
            assert allows(policy, action, resource, **context), f"{role} lacks {action} on {resource}"
            used.add(action)
    return used


def _asked(service: str, operation: str, given: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """IAM's action, resource and context of a call."""
    if operation in _OBJECTS:
        return [(_OBJECTS[operation], _object(given["Key"]), {})]
    if operation == "ListObjectsV2":
        bucket, _, prefix = _object(given["Prefix"]).partition("/")
        return [("s3:ListBucket", bucket, {"s3__prefix": prefix})]
    if operation == "DeleteObjects":
        return [("s3:DeleteObject", _object(item["Key"]), {}) for item in given["Delete"]["Objects"]]
    if operation in _JOBS:
        job = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:transform-job/{_named(given['TransformJobName'])}"
        types = {"sagemaker__InstanceTypes": given.get("TransformResources", {}).get("InstanceType")}
        found: list[tuple[str, str, dict[str, Any]]] = [(f"sagemaker:{operation}", job, types)]
        return found + ([("sagemaker:AddTags", job, {})] if given.get("Tags") else [])
    if operation == "DescribeModel":
        model = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model/{_named(given['ModelName'])}"
        return [("sagemaker:DescribeModel", model, {})]
    if operation == "StartCrawler":
        return [("glue:StartCrawler", f"arn:aws:glue:{REGION}:{ACCOUNT}:crawler/{_named(given['Name'])}", {})]
    raise NotImplementedError(f"{service} {operation}")


def _object(key: str) -> str:
    where = "landing" if key.startswith("landing") else "storage"
    return f"arn:aws:s3:::weekly-{where}-{ACCOUNT}-{REGION}/{key.removeprefix('storage/')}"


def _named(name: str) -> str:
    """As the stack's Name would have it, which is not that of the tests."""
    return "weekly" + name.removeprefix("forecast")
