"""What Lambda calls: `lambda_function.lambda_handler` for a file that landed, `lambda_function.transform_handler` for a
transform that ended.

| environment variable | meaning |
|---|---|
| `MODEL_NAME` | SageMaker's model that forecasts, as `python -m forecast_platform.serverless` prints it |
| `CRAWLER` | Glue crawler that is started after a publication; empty: none |
| `FORECAST_...` | the platform's settings (docs/settings.md) |

Events are hints: both handlers look at what lies in S3 and what SageMaker says. A failure is raised, so that Lambda
tries again and then hands the event to its dead-letter queue.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forecast_platform.clouds.aws.events import newest, parse


def lambda_handler(event: Mapping[str, Any], context: Any = None) -> dict[str, Any]:
    """A file has landed: have the newest complete week forecast, see pipeline.begin.

    Raises:
        EventError: the event is none of S3. What pipeline.begin raises, but for NothingToForecast, which is told.
    """
    from forecast_platform.engines.sagemaker.container.training import ContainerEngine
    from forecast_platform.serverless import pipeline
    from forecast_platform.settings import get_settings

    settings = get_settings()
    landed = [found.url for found in newest(parse(event)) if found.url.startswith(f"{settings.landing}/")]
    if not landed:
        return {"ignored": "nothing below the landing place"}
    with tempfile.TemporaryDirectory() as folder:
        engine = ContainerEngine(settings)
        try:
            said = pipeline.begin(engine, os.environ["MODEL_NAME"], Path(folder), dt.datetime.now(dt.UTC))
        except pipeline.NothingToForecast as error:
            said = {"nothing": str(error)}
    return _told({"landed": landed} | said)


def transform_handler(event: Mapping[str, Any], context: Any = None) -> dict[str, Any]:
    """A transform of ours has ended: publish what it answered, see pipeline.publish, also for what it raises."""
    from forecast_platform.engines.sagemaker.container.training import ContainerEngine
    from forecast_platform.serverless import pipeline
    from forecast_platform.settings import get_settings

    job, settings = event["detail"]["TransformJobName"], get_settings()
    if not job.startswith(f"{settings.job_prefix}-"):
        return {"ignored": job}
    with tempfile.TemporaryDirectory() as folder:
        return _told({"job": job} | pipeline.publish(ContainerEngine(settings), job, Path(folder)))


def _told(said: dict[str, Any]) -> dict[str, Any]:
    from forecast_platform.serverless import pipeline

    crawler = os.environ.get("CRAWLER", "")
    if crawler and said.get("published"):
        pipeline.start_crawler(crawler)
    print(said)  # the Lambda's log
    return said
