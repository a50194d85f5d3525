"""Metrics of an installation in CloudWatch, on which the alarms of infra/ lie. What each means: monitoring.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from forecast_platform.clouds.aws.clients import client, translated

NAMESPACE, DIMENSION = "Forecast", "Installation"

logger = logging.getLogger(__name__)


class MetricsError(RuntimeError):
    """CloudWatch did not take them; the message says why."""


def put(installation: str, measures: Mapping[str, float]) -> bool:
    """Tell them. Never raises: what is told of must not fail because nobody could be told; an alarm hears the silence.

    Args:
        installation: the stack's Name, which is the setting job_prefix.

    Returns:
        Whether CloudWatch took them.
    """
    about = [{"Name": DIMENSION, "Value": installation}]
    data = [{"MetricName": name, "Dimensions": about, "Value": value} for name, value in measures.items()]

    def to(code: str, text: str) -> MetricsError:
        return MetricsError(f"{code} {text}; it takes cloudwatch:PutMetricData in the namespace {NAMESPACE}".strip())

    try:
        with translated(to):
            client("cloudwatch").put_metric_data(Namespace=NAMESPACE, MetricData=data)
    except MetricsError as error:
        logger.error("CloudWatch was not told %s: %s", ", ".join(measures), error)
        return False
    return True
