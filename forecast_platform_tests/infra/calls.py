"""What was asked of AWS, in IAM's words: the actions, resources and context of recorded calls.

Calls of boto3 are recorded where it makes them, all but those to S3: these are recorded where they arrive
(clouds/aws/gate.py), because the lake's files are read and written without boto3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import botocore.client
import pytest

from forecast_platform_tests.infra.template import ACCOUNT, REGION, Stack, allows

Call = tuple[str, str, dict[str, Any]]
Asked = tuple[str, str, dict[str, Any]]  # action, resource, context


def recorded(patch: pytest.MonkeyPatch) -> list[Call]:
    """Grows with each call of boto3: service, operation, parameters."""
    found: list[Call] = []
    real = botocore.client.BaseClient._make_api_call

    def call(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        found.append((self.meta.service_model.service_name, operation, parameters))
        return real(self, operation, parameters)

    patch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    return found


def check(stack: Stack, role: str, asked: Iterable[Asked]) -> set[str]:
    """That a role allows all of it. Returns the actions."""
    used, policy, lacking = set(), stack.policies(role), set()
    for action, resource, context in asked:
        used.add(action)
        if not allows(policy, action, resource, **context):
            lacking.add(f"{action} on {resource} {context or ''}")
    assert not lacking, f"{role} lacks {sorted(lacking)}"
    return used


def asked(calls: Iterable[Call]) -> list[Asked]:
    """What calls of boto3 take, without those to S3."""
    return [
        each for service, operation, given in calls if service != "s3" for each in _asked(service, operation, given)
    ]


def _asked(service: str, operation: str, given: dict[str, Any]) -> list[Asked]:
    def arn(of: str, name: str) -> str:
        return f"arn:aws:{of}:{REGION}:{ACCOUNT}:{name}"

    if service == "glue":
        database = given.get("DatabaseName") or given["Name"]
        resources = ["catalog", f"database/{database}"]
        if "DatabaseName" in given:
            resources.append(
                f"table/{database}/{given.get('Name') or given.get('TableInput', {}).get('Name') or 'all'}"
            )
        return [(f"glue:{operation}", arn("glue", name), {}) for name in resources]
    if service == "sqs":
        queue = arn("sqs", given["QueueUrl"].rpartition("/")[2])
        return [(f"sqs:{operation.removesuffix('Batch')}", queue, {})]
    if service == "sagemaker":
        kind = next(kind for kind in ("TrainingJob", "TransformJob", "Model") if operation.endswith(kind))
        named = re.sub(r"(?<=[a-z])J", "-j", kind).lower()
        target = arn("sagemaker", f"{named}/{given[f'{kind}Name']}")
        resources = given.get("ResourceConfig") or given.get("TransformResources") or {}
        context = {"sagemaker__InstanceTypes": resources["InstanceType"]} if resources else {}
        found: list[Asked] = [(f"sagemaker:{operation}", target, context)]
        found += [("sagemaker:AddTags", target, {})] if given.get("Tags") else []
        role = given.get("RoleArn") or given.get("ExecutionRoleArn")
        return found + ([("iam:PassRole", role, {"iam__PassedToService": "sagemaker.amazonaws.com"})] if role else [])
    if service == "logs":
        stream = f":log-stream:{given['logStreamName']}" if "logStreamName" in given else ":"
        return [(f"logs:{operation}", arn("logs", f"log-group:{given['logGroupName']}{stream}"), {})]
    if service == "athena":
        # What asks about a query is judged by its workgroup.
        return [(f"athena:{operation}", arn("athena", f"workgroup/{given.get('WorkGroup', 'forecast')}"), {})]
    if service == "ecr":
        return [(f"ecr:{operation}", arn("ecr", f"repository/{given['repositoryName']}"), {})]
    if service == "iam":
        return [(f"iam:{operation}", f"arn:aws:iam::{ACCOUNT}:role/{given['RoleName']}", {})]
    if service == "service-quotas":
        return [(f"servicequotas:{operation}", "*", {})]
    if service == "cloudwatch":
        return [(f"cloudwatch:{operation}", "*", {"cloudwatch__namespace": given["Namespace"]})]
    if (service, operation) == ("sts", "GetCallerIdentity"):
        return []  # anybody may
    raise NotImplementedError(f"{service} {operation}")


def asked_of_s3(requests: Iterable[tuple[str, str, bytes]]) -> list[Asked]:
    """What requests as they arrive at S3 take: method, path and body of each."""
    return [each for request in requests for each in _asked_of_s3(*request)]


def _asked_of_s3(method: str, path: str, body: bytes) -> list[Asked]:
    parts = urlsplit(path)
    bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    if not bucket or bucket == "service":  # of another service, which boto3 was asked for
        return []
    arn = f"arn:aws:s3:::{bucket}"
    if not key:
        if method == "POST":
            return [
                ("s3:DeleteObject", f"{arn}/{name}", {}) for name in re.findall(r"<Key>([^<]+)</Key>", body.decode())
            ]
        if "location" in query:
            return [("s3:GetBucketLocation", arn, {})]
        assert method in ("GET", "HEAD"), (method, path)
        return [("s3:ListBucket", arn, {"s3__prefix": query["prefix"][0]} if query.get("prefix") else {})]
    if method == "DELETE":
        return [("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", f"{arn}/{key}", {})]
    return [("s3:GetObject" if method in ("GET", "HEAD") else "s3:PutObject", f"{arn}/{key}", {})]
