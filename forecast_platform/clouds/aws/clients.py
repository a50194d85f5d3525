"""The one maker of boto3 clients: how often we retry, how long we wait, and how we introduce ourselves."""

from __future__ import annotations

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
