"""The checks of `forecast doctor` where SageMaker does the work. See clouds/aws/doctor.py."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from forecast_platform.clouds.aws.clients import client
from forecast_platform.clouds.aws.doctor import DEPLOY, SETTINGS, Finding, ask
from forecast_platform.clouds.aws.storage import Storage
from forecast_platform.engines.sagemaker import requests
from forecast_platform.engines.sagemaker.cost import Spending
from forecast_platform.settings import Settings

# Docker's own form. `docker push` of today's Docker gives OCI's, and an index where it attests the build's provenance.
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def checks(settings: Settings) -> dict[str, Callable[[], str]]:
    """The checks of these settings, by name, in the order a person mends them."""
    found = {
        "role": lambda: _role(settings.role_arn),
        "quota": lambda: _quota(settings),
        "caps": lambda: _caps(settings),
    }
    if settings.engine_name == "sagemaker-container":
        found["image"] = lambda: _image(settings.image)
    return found


def _role(arn: str) -> str:
    name = arn.rpartition("/")[2]
    mend = f"there is no such role: {DEPLOY}, and set FORECAST_ROLE_ARN to the stack's RoleArn; {SETTINGS}"
    role = ask(arn, client("iam").get_role, "iam:GetRole on it", {"NoSuchEntity": mend}, RoleName=name)["Role"]
    if role["Arn"] != arn:
        raise Finding(f"{arn}: the role of that name is {role['Arn']}; set FORECAST_ROLE_ARN to it")
    trust = role["AssumeRolePolicyDocument"]
    trust = json.loads(unquote(trust)) if isinstance(trust, str) else trust
    if not any(
        statement["Effect"] == "Allow" and "sagemaker.amazonaws.com" in _list(statement["Principal"].get("Service"))
        for statement in _list(trust["Statement"])
        if isinstance(statement.get("Principal"), dict)
    ):
        raise Finding(
            f"{arn} does not trust sagemaker.amazonaws.com, so no job can run as it; FORECAST_ROLE_ARN is the stack's "
            f"RoleArn (not PlatformRoleArn); {SETTINGS}"
        )
    return f"{arn}: SageMaker may take it"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _quota(settings: Settings) -> str:
    """New accounts have 0 of most instance types, and learn it only when a job is refused."""
    training = "spot training job" if settings.spot else "training job"
    wanted = {
        f"{settings.train_instance} for {training} usage": requests.train_instances(settings),
        f"{settings.transform_instance} for transform job usage": settings.transform_instances,
    }
    found: dict[str, dict[str, Any]] = {}
    for quota in _quotas():
        if quota["QuotaName"] in wanted:
            found[quota["QuotaName"]] = quota
    short = []
    for name, need in wanted.items():
        if name not in found:
            short.append(f"no quota is called {name!r}; is that an instance type of this region?")
        elif found[name]["Value"] < need:
            short.append(
                f"{name} is {found[name]['Value']:.0f} and {need} needed: aws service-quotas "
                f"request-service-quota-increase --service-code sagemaker --quota-code {found[name]['QuotaCode']} "
                f"--desired-value {need} (AWS takes hours to days)"
            )
    if short:
        raise Finding("; ".join(short))
    return ", ".join(f"{name} {found[name]['Value']:.0f}" for name in wanted)


def _quotas() -> list[dict[str, Any]]:
    """Every SageMaker quota. There is no search by name, and codes differ from type to type. What every account begins
    with comes first, then what this one has: a quota that was never changed is among the former only."""
    quotas, found = client("service-quotas"), []
    for operation, permission in (
        ("list_aws_default_service_quotas", "servicequotas:ListAWSDefaultServiceQuotas"),
        ("list_service_quotas", "servicequotas:ListServiceQuotas"),
    ):
        pages = quotas.get_paginator(operation).paginate(ServiceCode="sagemaker", PaginationConfig={"PageSize": 100})
        found += ask("the quotas of SageMaker", pages.build_full_result, permission)["Quotas"]
    return found


def _caps(settings: Settings) -> str:
    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    ledger = Spending(Storage(settings.storage_url), settings.prices, settings.max_job_usd, settings.max_month_usd, now)
    seconds = settings.max_job_minutes * 60
    worst = {
        "a training": ledger.usd(settings.train_instance, requests.train_instances(settings), seconds),
        "a transform": ledger.usd(settings.transform_instance, settings.transform_instances, seconds),
    }
    for what, usd in worst.items():
        if usd > settings.max_job_usd:
            raise Finding(
                f"{what} could cost {usd:.2f} USD in its {settings.max_job_minutes} minutes and would be refused; "
                f"raise FORECAST_MAX_JOB_USD ({settings.max_job_usd:.2f}), or lower FORECAST_MAX_JOB_MINUTES"
            )
    caps = ", ".join(f"{what} at most {usd:.2f} USD" for what, usd in worst.items())
    spent = ledger.month_usd(now())
    return f"{caps}; {spent:.2f} of {settings.max_month_usd:.2f} USD of this month spent or reserved"


def _image(image: str) -> str:
    registry, _, rest = image.partition("/")
    repository, _, tag = rest.partition(":")
    parts = registry.split(".")
    if len(parts) < 6 or parts[1:3] != ["dkr", "ecr"] or not tag:
        raise Finding(f"{image} is no address of an image in ECR; FORECAST_IMAGE is the stack's Image; {SETTINGS}")
    missing = {
        "RepositoryNotFoundException": f"there is no repository {repository}: {DEPLOY}, and set FORECAST_IMAGE",
        "ImageNotFoundException": f"there is no image of that tag: make image IMAGE={image}",
    }
    ecr = client("ecr")
    if parts[3] != ecr.meta.region_name:
        raise Finding(
            f"{image} lies in {parts[3]}, SageMaker runs in {ecr.meta.region_name} and takes it from there only"
        )
    reply = ask(
        image,
        ecr.describe_images,
        "ecr:DescribeImages",
        missing,
        registryId=parts[0],
        repositoryName=repository,
        imageIds=[{"imageTag": tag}],
    )
    (found,) = reply["imageDetails"]
    manifest = found.get("imageManifestMediaType", _MANIFEST)
    if manifest != _MANIFEST:
        raise Finding(
            f"{image} has a manifest of type {manifest}, which SageMaker refuses; it takes {_MANIFEST}, as make image "
            "pushes it (in the repository a tag is never written twice: aws ecr batch-delete-image first)"
        )
    size = f", {found['imageSizeInBytes'] / 1e6:.0f} MB" if "imageSizeInBytes" in found else ""
    return f"{image}: pushed {found['imagePushedAt']:%Y-%m-%d %H:%M}{size}"
