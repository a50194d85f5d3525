"""What every use of AWS shares: the maker of boto3 clients, addresses in S3, and errors in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

# Adaptive: after a throttled call the client slows itself down, which a fleet of retries at full speed would not.
_RETRIES = {"mode": "adaptive", "max_attempts": 10}


# The order of the `aws` command and of AWS's other libraries. botocore by itself does not read the first.
_REGION = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
NO_REGION = "no AWS region is set: AWS_REGION=..., or region in the profile that AWS_PROFILE names"


def session() -> Any:
    """A session of boto3's, of one's own: its default one is shared by threads and remembers old credentials.

    Credentials and endpoints are its own business (AWS_PROFILE, AWS_ENDPOINT_URL and so on). The region is that of
    AWS_REGION, else of AWS_DEFAULT_REGION, else of the profile; never guessed, where S3 alone would take us-east-1.

    Raises:
        botocore.exceptions.NoRegionError: no region is set.
    """
    import boto3  # half a second that the local profile need not pay
    import botocore.session
    from botocore.exceptions import NoRegionError

    found = boto3.Session(botocore_session=botocore.session.Session(session_vars={"region": _REGION}))
    if not found.region_name:
        error = NoRegionError()
        error.args = (NO_REGION,)
        raise error
    return found


def client(service: str, **config: Any) -> Any:
    """A client of an AWS service, of a `session` of its own.

    Args:
        service: boto3's name of it, for example "sagemaker".
        config: more of botocore.config.Config, or other values of what is set here.

    Raises:
        botocore.exceptions.NoRegionError: no region is set.
    """
    from botocore.config import Config

    given = {"retries": _RETRIES, "connect_timeout": 10, "user_agent_extra": "forecast-platform", **config}
    return session().client(service, config=Config(**given))


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
