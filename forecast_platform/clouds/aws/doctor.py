"""The checks of `forecast doctor` on profile aws: each asks AWS one question, and where something is wrong names
the command that mends it.

A check returns a line that says what is well, or raises Finding. Whatever else it raises is a finding too. Checks do
not depend on each other, so that one run names everything there is to mend.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from forecast_platform.clouds.aws.athena import Athena, AthenaError
from forecast_platform.clouds.aws.clients import client, session, split_s3, translated
from forecast_platform.settings import Settings

DEPLOY = "make deploy"
SETTINGS = "make settings, which prints the outputs of the stack as settings"
_DENIED = ("AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation", "AuthorizationError")


class Finding(RuntimeError):
    """Something is not as the platform needs it; the message says what, where, and how to mend it."""


def checks(settings: Settings) -> dict[str, Callable[[], str]]:
    """The checks of these settings (profile aws), by name, in the order a person mends them."""
    return {
        "region": _region,
        "identity": _identity,
        "landing": lambda: _landing(settings.landing_url),
        "storage": lambda: _storage(settings.storage_url),
        "queue": lambda: _queue(settings.queue_url),
        "catalog": lambda: _catalog(settings.database),
        "workgroup": lambda: _workgroup(settings.workgroup, settings.database),
    }


def ask(
    what: str, call: Callable[..., Any], permission: str, missing: dict[str, str] | None = None, **given: Any
) -> Any:
    """The reply of one call.

    Args:
        missing: AWS error code -> what it means here and how to mend it.

    Raises:
        Finding: AWS refused, or could not be reached.
    """

    def to(code: str, text: str) -> Finding:
        if code in (missing or {}):
            text = (missing or {})[code]
        elif code in _DENIED:
            text = f"access denied; allow {permission} to the identity above (the platform role of infra/ has it)"
        elif code:
            text = f"{text} ({code})"
        return Finding(f"{what}: {text}")

    with translated(to):
        return call(**given)


def _region() -> str:
    with translated(lambda _, text: Finding(text)):
        return str(session().region_name)


def _identity() -> str:
    def to(code: str, text: str) -> Finding:
        said = f"{text} {code}".strip()
        return Finding(f"no valid AWS credentials ({said}): aws sso login, aws configure, or the role of the machine")

    with translated(to):
        sts = client("sts")
        me = sts.get_caller_identity()
    return f"{me['Arn']} in {sts.meta.region_name}"


def _bucket(url: str) -> tuple[str, str]:
    bucket, prefix = split_s3(url)
    return bucket, prefix and f"{prefix}/"


def _no_bucket(bucket: str, setting: str) -> dict[str, str]:
    mend = f"there is no bucket {bucket}: {DEPLOY}, or set {setting}; {SETTINGS}"
    return {"NoSuchBucket": mend, "404": mend}


def _landing(url: str) -> str:
    bucket, prefix = _bucket(url)
    found = ask(
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
    ask(url, s3.put_object, f"s3:PutObject on {url}/*", missing, **where, Body=b"probe")
    try:
        ask(url, s3.get_object, f"s3:GetObject on {url}/*", missing, **where)
        ask(url, s3.list_objects_v2, f"s3:ListBucket on {bucket}", missing, Bucket=bucket, Prefix=key)
    finally:
        ask(url, s3.delete_object, f"s3:DeleteObject on {url}/*", missing, **where)
    return f"{url}: written, read, listed and deleted"


def _queue(url: str) -> str:
    if not url:
        return "none set: landed files are found by listing alone (FORECAST_QUEUE_URL is the stack's QueueUrl)"
    sqs = client("sqs")
    gone = f"there is no such queue: {DEPLOY}, and set FORECAST_QUEUE_URL; {SETTINGS}"
    missing = dict.fromkeys(("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"), gone)

    def attributes(of: str, permission: str) -> dict[str, str]:
        found: dict[str, str] = ask(
            of, sqs.get_queue_attributes, permission, missing, QueueUrl=of, AttributeNames=["All"]
        )["Attributes"]
        return found

    own = attributes(url, "sqs:GetQueueAttributes")
    waiting = own["ApproximateNumberOfMessages"]
    if "RedrivePolicy" not in own:
        raise Finding(
            f"{url} has no dead-letter queue, so a message that cannot be read comes back for ever: {DEPLOY}, or "
            f"aws sqs set-queue-attributes --queue-url {url} --attributes RedrivePolicy=..."
        )
    dead = json.loads(own["RedrivePolicy"])["deadLetterTargetArn"].rpartition(":")[2]
    letters = attributes(f"{url.rpartition('/')[0]}/{dead}", "sqs:GetQueueAttributes on the dead-letter queue")
    if failed := int(letters["ApproximateNumberOfMessages"]):
        raise Finding(
            f"{failed} events failed for good and lie in {dead}; mend the cause (see the landing sensor), then "
            f"aws sqs start-message-move-task --source-arn {letters['QueueArn']} --destination-arn {own['QueueArn']}"
        )
    return f"{url}: {waiting} waiting, none failed"


def _catalog(database: str) -> str:
    mend = f"there is no Glue database {database}: {DEPLOY}, or set FORECAST_DATABASE"
    missing = {"EntityNotFoundException": mend}
    glue = client("glue")
    ask(f"Glue database {database}", glue.get_database, "glue:GetDatabase", missing, Name=database)
    tables = ask(f"Glue database {database}", glue.get_tables, "glue:GetTables", missing, DatabaseName=database)
    iceberg = [
        table for table in tables["TableList"] if table.get("Parameters", {}).get("table_type", "").upper() == "ICEBERG"
    ]
    return f"{database}: {len(iceberg)} Iceberg tables"


def _workgroup(name: str, database: str) -> str:
    mend = f"there is no workgroup {name}: {DEPLOY}, or set FORECAST_WORKGROUP; {SETTINGS}"
    missing = {"InvalidRequestException": mend}
    found = ask(
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
    try:
        Athena(name, database).query("SELECT 1")  # scans nothing, so costs nothing
    except AthenaError as error:
        where = f"; and s3:PutObject and s3:GetObject on {location}*" if location else ""
        raise Finding(
            f"{error}; a query needs athena:StartQueryExecution, GetQueryExecution and GetQueryResults{where}"
        ) from error
    where = location or "managed storage"
    return f"{name}: answers, results in {where}, at most {limit / 1e9:.1f} GB scanned a query"
