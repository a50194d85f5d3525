"""Tells Dagster of files that landed in S3, for installations where Dagster itself can't poll the queue.

Handler: `lambda_function.lambda_handler` of the zip that `make lambda` builds. It takes S3 notifications directly,
through SNS, by EventBridge, or as batches of an SQS queue, and reports each object as an observation of the asset
`landing`; the landing sensor looks at what was observed. Reporting one twice does no harm.

| environment variable | meaning |
|---|---|
| `DAGSTER_URL` | address of Dagster's webserver, as the Lambda reaches it |
| `LANDING_PREFIX` | only objects below it are reported; empty: all |
| `MODEL_NAME` | version of the model that the runs are pinned to; empty: none |
| `DAGSTER_TOKEN_SECRET_ARN` | secret whose text is sent as a token; empty: none, Dagster itself asks for none |

Needs nothing but the standard library and boto3, which the Lambda runtime has.
"""

from __future__ import annotations

import functools
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecast_platform.clouds.aws.events import newest, parse

TIMEOUT_SECONDS = 10


class NotReported(RuntimeError):
    """Dagster was not told of some objects. Raised so that Lambda tries again."""


@dataclass(frozen=True)
class Config:
    """See the table above."""

    dagster_url: str
    landing_prefix: str = ""
    model_name: str = ""
    token_secret_arn: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Config:
        """Raises ValueError when DAGSTER_URL is missing or no web address."""
        url = environment.get("DAGSTER_URL", "")
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"DAGSTER_URL should be http(s)://host[:port] of Dagster's webserver; it is {url!r}")
        prefix = environment.get("LANDING_PREFIX", "").strip("/")
        model, secret = environment.get("MODEL_NAME", ""), environment.get("DAGSTER_TOKEN_SECRET_ARN", "")
        return cls(url.rstrip("/"), f"{prefix}/" if prefix else "", model, secret)


def observations(event: str | Mapping[str, Any], config: Config) -> list[dict[str, Any]]:
    """The bodies of /report_asset_observation/landing for one S3 message, one for each object below the prefix.

    Raises:
        EventError: the message is no S3 event.
    """
    bodies = []
    for found in newest(parse(event)):
        # A name that ends with "/" is a folder as the S3 console makes it.
        if not found.key.startswith(config.landing_prefix) or found.key.endswith("/"):
            continue
        metadata: dict[str, Any] = {"url": found.url, "size": found.size}
        more = {"etag": found.etag, "version_id": found.version_id, "model": config.model_name}
        metadata |= {name: value for name, value in more.items() if value}
        # The version is metadata and no data_version, which would mark every week of raw_sales as out of date.
        bodies.append({"metadata": metadata})
    return bodies


def lambda_handler(event: Mapping[str, Any], context: Any = None) -> dict[str, Any]:
    """Report what the event says has landed.

    Returns:
        Of an SQS batch: {"batchItemFailures": [...]}, the messages that SQS should deliver again (switch on
        ReportBatchItemFailures). Of anything else: {"reported": number of objects}.

    Raises:
        EventError: the event is none of S3. NotReported: Dagster could not be told.
    """
    config = Config.of(os.environ)
    records = event.get("Records")
    if isinstance(records, list) and records and all(r.get("eventSource") == "aws:sqs" for r in records):
        failed = [r["messageId"] for r in records if not _handled(r["body"], config)]
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}
    return {"reported": _report(event, config)}


def _handled(body: str, config: Config) -> bool:
    try:
        _report(body, config)
    except (ValueError, NotReported) as error:
        print(f"left in the queue: {error}")  # print is the Lambda's log
        return False
    return True


def _report(event: str | Mapping[str, Any], config: Config) -> int:
    """Every object is tried before a failure is raised, so that one does not hold up the others."""
    bodies = observations(event, config)
    failures = [f"{body['metadata']['url']}: {why}" for body in bodies if (why := _post(body, config))]
    if failures:
        raise NotReported("; ".join(failures))
    return len(bodies)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, which reports nothing and succeeds."""

    def redirect_request(self, *args: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _post(body: dict[str, Any], config: Config) -> str:
    """Why Dagster did not take it; empty when it did."""
    headers = {"Content-Type": "application/json"}
    if config.token_secret_arn:
        token = secret_token(config.token_secret_arn)
        # The first is what proxies before Dagster ask for, the second is Dagster+'s.
        headers |= {"Authorization": f"Bearer {token}", "Dagster-Cloud-Api-Token": token}
    address = f"{config.dagster_url}/report_asset_observation/landing"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")  # noqa: S310, see Config
    try:
        with _opener.open(request, timeout=TIMEOUT_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            secret_token.cache_clear()  # it may have been renewed
        return f"{address} answered {error.code} {error.reason}"
    except OSError as error:
        return f"{address} can't be reached: {error}"


@functools.cache
def secret_token(secret_arn: str) -> str:
    import boto3

    return str(boto3.Session().client("secretsmanager").get_secret_value(SecretId=secret_arn)["SecretString"]).strip()
