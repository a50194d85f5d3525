"""The checks of `forecast doctor` on profile aws: each asks AWS one question, and says the command that mends a no.

A check returns a line that says what is well, or raises Finding. Whatever else it raises is a finding too. Checks do
not depend on each other, so that one run names everything there is to mend.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from forecast_platform.clouds.aws.clients import client
from forecast_platform.settings import Settings

_DEPLOY = "make deploy"
_SETTINGS = "make settings, which prints the outputs of the stack as settings"
_DENIED = ("AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation", "AuthorizationError")


class Finding(RuntimeError):
    """Something is not as the platform needs it; the message says what, where, and how to mend it."""


def checks(settings: Settings) -> dict[str, Callable[[], str]]:
    """The checks of these settings (profile aws), by name, in the order a person mends them."""
    found = {
        "identity": _identity,
        "landing": lambda: _landing(settings.landing_url),
        "storage": lambda: _storage(settings.storage_url),
        "queue": lambda: _queue(settings.queue_url),
        "catalog": lambda: _catalog(settings.database),
        "workgroup": lambda: _workgroup(settings.workgroup),
    }
    if settings.engine_name != "local":
        found["role"] = lambda: _role(settings.role_arn)
        found["quota"] = lambda: _quota(settings)
        found["caps"] = lambda: _caps(settings)
    if settings.engine_name == "sagemaker-container":
        found["image"] = lambda: _image(settings.image)
    return found


def _ask(
    what: str, call: Callable[..., Any], permission: str, missing: dict[str, str] | None = None, **given: Any
) -> Any:
    """The reply of one call.

    Args:
        missing: AWS error code -> what it means here and how to mend it.

    Raises:
        Finding: AWS refused, or could not be reached.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call(**given)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in (missing or {}):
            raise Finding(f"{what}: {(missing or {})[code]}") from error
        if code in _DENIED:
            raise Finding(
                f"{what}: access denied; allow {permission} to the identity above (the platform role of infra/ has it)"
            ) from error
        raise Finding(f"{what}: {error}") from error
    except BotoCoreError as error:
        raise Finding(f"{what}: {error}; check AWS_REGION, the credentials and AWS_ENDPOINT_URL") from error


def _identity() -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        sts = client("sts")
        me = sts.get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise Finding(
            f"no valid AWS credentials ({error}): aws sso login, aws configure, or the role of the machine"
        ) from error
    return f"{me['Arn']} in {sts.meta.region_name}"


def _bucket(url: str) -> tuple[str, str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""


def _no_bucket(bucket: str, setting: str) -> dict[str, str]:
    mend = f"there is no bucket {bucket}: {_DEPLOY}, or set {setting}; {_SETTINGS}"
    return {"NoSuchBucket": mend, "404": mend}


def _landing(url: str) -> str:
    bucket, prefix = _bucket(url)
    found = _ask(
        url,
        client("s3").list_objects_v2,
        "s3:ListBucket",
        _no_bucket(bucket, "FORECAST_LANDING_URL"),
        Bucket=bucket,
        Prefix=f"{prefix}sales/",
    )
    files = f"{found['KeyCount']}{'+' if found['IsTruncated'] else ''}"
    return f"{url}: {files} files of sales" if found["KeyCount"] else f"{url}: no sales yet; forecast import FILE..."


def _storage(url: str) -> str:
    """Writes, reads, lists and deletes a probe of its own."""
    bucket, prefix = _bucket(url)
    s3, key = client("s3"), f"{prefix}doctor/{uuid.uuid4().hex}"
    where = {"Bucket": bucket, "Key": key}
    missing = _no_bucket(bucket, "FORECAST_STORAGE_URL")
    _ask(url, s3.put_object, f"s3:PutObject on {url}/*", missing, **where, Body=b"probe")
    try:
        _ask(url, s3.get_object, f"s3:GetObject on {url}/*", missing, **where)
        _ask(url, s3.list_objects_v2, f"s3:ListBucket on {bucket}", missing, Bucket=bucket, Prefix=key)
    finally:
        _ask(url, s3.delete_object, f"s3:DeleteObject on {url}/*", missing, **where)
    return f"{url}: written, read, listed and deleted"


def _queue(url: str) -> str:
    if not url:
        return "none set: landed files are found by listing alone (FORECAST_QUEUE_URL is the stack's QueueUrl)"
    sqs = client("sqs")
    gone = f"there is no such queue: {_DEPLOY} TRIGGER=sqs, and set FORECAST_QUEUE_URL; {_SETTINGS}"
    missing = dict.fromkeys(("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"), gone)

    def attributes(of: str, permission: str) -> dict[str, str]:
        found: dict[str, str] = _ask(
            of, sqs.get_queue_attributes, permission, missing, QueueUrl=of, AttributeNames=["All"]
        )["Attributes"]
        return found

    own = attributes(url, "sqs:GetQueueAttributes")
    waiting = own["ApproximateNumberOfMessages"]
    if "RedrivePolicy" not in own:
        raise Finding(
            f"{url} has no dead-letter queue, so a message that cannot be read comes back for ever: {_DEPLOY}, or "
            f"aws sqs set-queue-attributes --queue-url {url} --attributes RedrivePolicy=..."
        )
    dead = json.loads(own["RedrivePolicy"])["deadLetterTargetArn"].rpartition(":")[2]
    letters = attributes(f"{url.rpartition('/')[0]}/{dead}", "sqs:GetQueueAttributes on the dead-letter queue")
    if failed := int(letters["ApproximateNumberOfMessages"]):
        raise Finding(
            f"{failed} events failed for good and lie in {dead}; mend the cause (see the landing sensor), then "
            f"aws sqs start-message-move-task --source-arn {letters['QueueArn']}"
        )
    return f"{url}: {waiting} waiting, none failed"


def _catalog(database: str) -> str:
    mend = f"there is no Glue database {database}: {_DEPLOY}, or set FORECAST_DATABASE"
    missing = {"EntityNotFoundException": mend}
    glue = client("glue")
    _ask(f"Glue database {database}", glue.get_database, "glue:GetDatabase", missing, Name=database)
    tables = _ask(f"Glue database {database}", glue.get_tables, "glue:GetTables", missing, DatabaseName=database)
    iceberg = [
        table for table in tables["TableList"] if table.get("Parameters", {}).get("table_type", "").upper() == "ICEBERG"
    ]
    return f"{database}: {len(iceberg)} Iceberg tables"


def _workgroup(name: str) -> str:
    mend = f"there is no workgroup {name}: {_DEPLOY}, or set FORECAST_WORKGROUP; {_SETTINGS}"
    missing = {"InvalidRequestException": mend}
    found = _ask(
        f"Athena workgroup {name}", client("athena").get_work_group, "athena:GetWorkGroup", missing, WorkGroup=name
    ).get("WorkGroup")
    if not found:
        raise Finding(f"Athena workgroup {name}: {mend}")
    config = found.get("Configuration", {})
    if found.get("State", "ENABLED") != "ENABLED":
        raise Finding(f"workgroup {name} is disabled: aws athena update-work-group --work-group {name} --state ENABLED")
    location = config.get("ResultConfiguration", {}).get("OutputLocation")
    if not location and not config.get("ManagedQueryResultsConfiguration", {}).get("Enabled"):
        raise Finding(
            f"workgroup {name} has no place for results: aws athena update-work-group --work-group {name} "
            "--configuration-updates 'ResultConfigurationUpdates={OutputLocation=s3://BUCKET/athena/}'"
        )
    limit = config.get("BytesScannedCutoffPerQuery")
    if not limit:
        raise Finding(
            f"workgroup {name} has no limit of bytes scanned: aws athena update-work-group --work-group {name} "
            "--configuration-updates BytesScannedCutoffPerQuery=10737418240"
        )
    return f"{name}: results in {location or 'managed storage'}, at most {limit / 1e9:.1f} GB scanned a query"


def _role(arn: str) -> str:
    name = arn.rpartition("/")[2]
    mend = f"there is no such role: {_DEPLOY}, and set FORECAST_ROLE_ARN to the stack's RoleArn; {_SETTINGS}"
    role = _ask(arn, client("iam").get_role, "iam:GetRole on it", {"NoSuchEntity": mend}, RoleName=name)["Role"]
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
            f"RoleArn (not PlatformRoleArn); {_SETTINGS}"
        )
    return f"{arn}: SageMaker may take it"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _quota(settings: Settings) -> str:
    """New accounts have 0 of most instance types, and learn it only when a job is refused."""
    training = "spot training job" if settings.spot else "training job"
    wanted = {
        f"{settings.train_instance} for {training} usage": 1,
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


def _quotas() -> Iterator[dict[str, Any]]:
    """Every SageMaker quota. There is no search by name, and codes differ from type to type."""
    quotas = client("service-quotas")
    page: dict[str, Any] = {}
    while True:
        reply = _ask(
            "the quotas of SageMaker",
            quotas.list_service_quotas,
            "servicequotas:ListServiceQuotas",
            ServiceCode="sagemaker",
            MaxResults=100,
            **page,
        )
        yield from reply["Quotas"]
        if not reply.get("NextToken"):
            return
        page = {"NextToken": reply["NextToken"]}


def _caps(settings: Settings) -> str:
    from forecast_platform.clouds.aws.storage import Storage
    from forecast_platform.engines.sagemaker.cost import Spending

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    ledger = Spending(Storage(settings.storage_url), settings.prices, settings.max_job_usd, settings.max_month_usd, now)
    seconds = settings.max_job_minutes * 60
    worst = {
        "a training": ledger.usd(settings.train_instance, 1, seconds),
        "a transform": ledger.usd(settings.transform_instance, settings.transform_instances, seconds),
    }
    for what, usd in worst.items():
        if usd > settings.max_job_usd:
            raise Finding(
                f"{what} could cost {usd:.2f} USD in its {settings.max_job_minutes} minutes and would be refused; "
                f"raise FORECAST_MAX_JOB_USD ({settings.max_job_usd:.2f}), or lower FORECAST_MAX_JOB_MINUTES"
            )
    told = ", ".join(f"{what} at most {usd:.2f} USD" for what, usd in worst.items())
    spent = ledger.month_usd(now())
    return f"{told}; {spent:.2f} of {settings.max_month_usd:.2f} USD of this month spent or reserved"


def _image(image: str) -> str:
    registry, _, rest = image.partition("/")
    repository, _, tag = rest.partition(":")
    parts = registry.split(".")
    if len(parts) < 6 or parts[1:3] != ["dkr", "ecr"] or not tag:
        raise Finding(f"{image} is no address of an image in ECR; FORECAST_IMAGE is the stack's Image; {_SETTINGS}")
    missing = {
        "RepositoryNotFoundException": f"there is no repository {repository}: {_DEPLOY}, and set FORECAST_IMAGE",
        "ImageNotFoundException": f"there is no image of that tag: make image IMAGE={image}",
    }
    ecr = client("ecr")
    if parts[3] != ecr.meta.region_name:
        raise Finding(
            f"{image} lies in {parts[3]}, SageMaker runs in {ecr.meta.region_name} and takes it from there only"
        )
    reply = _ask(
        image,
        ecr.describe_images,
        "ecr:DescribeImages",
        missing,
        registryId=parts[0],
        repositoryName=repository,
        imageIds=[{"imageTag": tag}],
    )
    (found,) = reply["imageDetails"]
    size = f", {found['imageSizeInBytes'] / 1e6:.0f} MB" if "imageSizeInBytes" in found else ""
    return f"{image}: pushed {found['imagePushedAt']:%Y-%m-%d %H:%M}{size}"
