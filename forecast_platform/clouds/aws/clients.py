"""What every use of AWS shares: the maker of boto3 clients, addresses in S3, and errors in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

# Adaptive: after a throttled call the client slows itself down, which a fleet of retries at full speed would not.
_RETRIES = {"mode": "adaptive", "max_attempts": 10}


def client(service: str, **config: Any) -> Any:
    """A client of an AWS service, of its own session.

    Credentials, region and endpoints are boto3's own business (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL and so on).

    Args:
        service: boto3's name of it, for example "sagemaker".
        config: more of botocore.config.Config, or other values of what is set here.

    Raises:
        botocore.exceptions.NoRegionError: no region is configured, and the service needs one.
    """
    import boto3  # half a second that the local profile need not pay
    from botocore.config import Config

    given = {"retries": _RETRIES, "connect_timeout": 10, "user_agent_extra": "forecast-platform", **config}
    # A session of our own: boto3's default one is shared by threads and remembers old credentials.
    return boto3.Session().client(service, config=Config(**given))


def split_s3(url: str) -> tuple[str, str]:
    """(bucket, key or prefix without "/" at its ends) of s3://bucket/key; an empty bucket for any other address."""
    if not url.startswith("s3://"):
        return "", ""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key.strip("/")


@contextlib.contextmanager
def translated(to: Callable[[str, str], Exception]) -> Iterator[None]:
    """Turn AWS's errors within the block into errors of ours.

    Args:
        to: makes the error from AWS's code and its text. Where AWS could not be reached the code is "", and the text
            says what to check.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        said = error.response.get("Error", {})
        raise to(str(said.get("Code")), str(said.get("Message", ""))) from error
    except (BotoCoreError, Boto3Error) as error:
        check = "check the AWS credentials, AWS_REGION and AWS_ENDPOINT_URL of this process"
        raise to("", f"{error}; {check}") from error
