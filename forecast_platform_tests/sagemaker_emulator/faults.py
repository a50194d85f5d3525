"""Faults that a test scripts into the emulated SageMaker, of a call or of the job that a call begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from forecast_platform_tests.sagemaker_emulator.validation import ApiError

CALL_FAULTS = ("throttle", "server_error", "access_denied", "limit", "lost_response", "lost_request")
JOB_FAULTS = ("capacity", "internal", "algorithm", "stop", "slow", "interrupt", "max_wait", "corrupt_output")


@dataclass
class Fault:
    """One scripted fault, used `times` times by calls of `operation`. See Faults.add."""

    operation: str
    kind: str
    times: int = 1
    detail: str = ""


@dataclass
class Faults:
    """Faults to come, first added first used."""

    scripted: list[Fault] = field(default_factory=list)

    def add(self, operation: str, kind: str, times: int = 1, detail: str = "") -> None:
        """Let the next `times` calls of an operation go wrong.

        Of the call: throttle, server_error (500), access_denied, limit (ResourceLimitExceeded while others run),
        lost_request (the connection drops, nothing is done), lost_response (the work is done, the connection drops).
        Of the job that a Create call begins:
        capacity, internal, algorithm: it fails so, the first before and the others after it began to cost.
        stop: it stops as if someone had stopped it. slow: InProgress until `release`.
        interrupt: a spot training loses its instance once, after its first checkpoint if it writes any.
        max_wait: no spot instance came free in time.
        corrupt_output: of a transform's first object; detail: truncate, drop_line, nan or flip.
        """
        if kind not in (*CALL_FAULTS, *JOB_FAULTS):
            raise ValueError(f"no fault {kind!r}; there are {', '.join((*CALL_FAULTS, *JOB_FAULTS))}")
        if kind in JOB_FAULTS and operation not in ("CreateTrainingJob", "CreateTransformJob"):
            raise ValueError(f"{kind} is a fault of a job; {operation} begins none")
        self.scripted.append(Fault(operation, kind, times, detail))

    def take(self, operation: str, kinds: tuple[str, ...]) -> Fault | None:
        for fault in self.scripted:
            if fault.operation == operation and fault.kind in kinds and fault.times:
                fault.times -= 1
                return fault
        return None


def limit_exceeded(usage: str, limit: int, used: int, asked: int) -> ApiError:
    return ApiError(
        "ResourceLimitExceeded",
        f"The account-level service limit '{usage}' is {limit} Instances, with current utilization of {used} Instances "
        f"and a request delta of {asked} Instances. Please use AWS Service Quotas to request an increase for this "
        "quota. If AWS Service Quotas is not available, contact AWS support to request an increase for this quota.",
    )


def scripted_error(kind: str, request: dict[str, Any]) -> ApiError:
    """What a call with a fault is answered."""
    if kind == "throttle":
        return ApiError("ThrottlingException", "Rate exceeded")
    if kind == "server_error":
        return ApiError("InternalFailure", "The request processing has failed", status=500)
    if kind == "access_denied":
        return ApiError("AccessDeniedException", "User is not authorized to perform this operation")
    job = "training" if "ResourceConfig" in request else "transform"
    resources = request.get("ResourceConfig") or request["TransformResources"]
    count = resources["InstanceCount"]
    return limit_exceeded(f"{resources['InstanceType']} for {job} job usage", count, count, count)
