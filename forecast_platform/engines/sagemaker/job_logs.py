"""The log of a running SageMaker job, line by line as CloudWatch gets it.

A log is for people: trouble in reading it is reported once and never ends a job.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from forecast_platform.clouds.aws.clients import client

KEPT = 15  # last lines, told when a job fails: SageMaker's own reason is often no more than "see job logs"
_PROGRESS = re.compile(r"#progress_metric: host=\S+, completed (\d+) ?% of epochs")


class LogTail:
    """New lines of one job since the last `read`.

    Args:
        group: /aws/sagemaker/TrainingJobs or /aws/sagemaker/TransformJobs.
        job: the job's name; its streams are named <job>/...
        log: gets each line.
        progress: gets the percentage of "#progress_metric" lines.
    """

    def __init__(
        self, group: str, job: str, log: Callable[[str], None], progress: Callable[[int], None] | None = None
    ) -> None:
        self._group, self._job, self._log, self._progress = group, job, log, progress
        self._tokens: dict[str, str] = {}
        self._broken = False
        self.last: deque[str] = deque(maxlen=KEPT)

    @functools.cached_property
    def _client(self) -> Any:
        return client("logs", retries={"mode": "standard", "total_max_attempts": 2}, read_timeout=10)

    def read(self) -> None:
        """Pass on what is new. Streams appear after minutes; until then there is nothing to pass on."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self._broken:
            return
        try:
            for stream in self._streams():
                self._follow(stream)
        except (ClientError, BotoCoreError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
            if code == "ResourceNotFoundException" or "Throttling" in code:
                return
            self._broken = True
            self._log(f"the job's log cannot be read ({error}); see {self._group} in CloudWatch")

    def _streams(self) -> list[str]:
        pages = self._client.get_paginator("describe_log_streams").paginate(
            logGroupName=self._group, logStreamNamePrefix=f"{self._job}/"
        )
        return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]

    def _follow(self, stream: str) -> None:
        while True:
            token = self._tokens.get(stream)
            reply = self._client.get_log_events(
                logGroupName=self._group,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            for event in reply["events"]:
                self._say(event["message"].rstrip())
            self._tokens[stream] = reply["nextForwardToken"]
            if reply["nextForwardToken"] == token:
                return  # the same token again: the end, for now

    def _say(self, line: str) -> None:
        self.last.append(line)
        self._log(line)
        found = _PROGRESS.search(line)
        if found and self._progress:
            self._progress(min(int(found[1]), 100))
