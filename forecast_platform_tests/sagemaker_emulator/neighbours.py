"""The services beside SageMaker that its users read: CloudWatch Logs and Service Quotas."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from forecast_platform_tests.sagemaker_emulator.validation import ApiError, service_model


class Logs:
    """CloudWatch Logs as far as reading goes: group -> stream -> [(milliseconds, line)]."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, list[tuple[int, str]]]] = {}
        self.lock = threading.Lock()

    def add(self, group: str, stream: str, line: str) -> None:
        with self.lock:
            self.groups.setdefault(group, {}).setdefault(stream, []).append((round(time.time() * 1000), line))

    def text(self, job: str) -> str:
        """All of a job's lines, for assertions."""
        with self.lock:
            streams = [
                lines for group in self.groups.values() for name, lines in group.items() if name.startswith(f"{job}/")
            ]
        return "\n".join(line for lines in streams for _, line in lines)

    def describe_log_streams(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            streams = self._group(request)
            prefix, after = request.get("logStreamNamePrefix", ""), request.get("nextToken", "")
            names = sorted(name for name in streams if name.startswith(prefix) and name > after)
            page = names[: request.get("limit", 50)]
            more = {"nextToken": page[-1]} if len(names) > len(page) else {}
            return {"logStreams": [{"logStreamName": name} for name in page], **more}

    def get_log_events(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            lines = self._group(request).get(request["logStreamName"])
            if lines is None:
                raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
            limit, token = request.get("limit", 10000), request.get("nextToken")
            if token:
                first = int(token.partition("/")[2])
            else:
                first = 0 if request.get("startFromHead") else max(0, len(lines) - limit)
            page = lines[first : first + limit]
            return {
                "events": [{"timestamp": at, "message": line, "ingestionTime": at} for at, line in page],
                "nextForwardToken": f"f/{first + len(page)}",  # the same again at the end, as CloudWatch does
                "nextBackwardToken": f"b/{first}",
            }

    def _group(self, request: dict[str, Any]) -> dict[str, list[tuple[int, str]]]:
        if request["logGroupName"] not in self.groups:
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        return self.groups[request["logGroupName"]]


class Quotas(dict[str, int]):
    """Instances allowed by usage, e.g. {"ml.c5.2xlarge for training job usage": 0}; 20 where not given."""

    def __missing__(self, usage: str) -> int:
        return 20

    def list_service_quotas(self, request: dict[str, Any]) -> dict[str, Any]:
        quotas = list(self._all())
        first, size = int(request.get("NextToken", 0)), request.get("MaxResults", 100)
        more = {"NextToken": str(first + size)} if first + size < len(quotas) else {}
        return {"Quotas": quotas[first : first + size], **more}

    def get_service_quota(self, request: dict[str, Any]) -> dict[str, Any]:
        for quota in self._all():
            if quota["QuotaCode"] == request["QuotaCode"]:
                return {"Quota": quota}
        raise ApiError("NoSuchResourceException", "The request failed because the specified quota does not exist.")

    def _all(self) -> Iterator[dict[str, Any]]:
        for job in ("training", "transform"):
            for kind in service_model("sagemaker").shape_for(f"{job.capitalize()}InstanceType").enum:
                usage = f"{kind} for {job} job usage"
                yield {
                    "ServiceCode": "sagemaker",
                    "QuotaName": usage,
                    # AWS's codes are as opaque; these are not AWS's.
                    "QuotaCode": "L-" + hashlib.sha256(usage.encode()).hexdigest()[:8].upper(),
                    "Value": float(self[usage]),
                    "Adjustable": True,
                }
