"""What to do about a SageMaker job: pure decisions from what AWS said, so that every case can be listed in a test.

SageMaker takes no idempotency token, so a job's name is its identity: the week, a digest of the exact request and the
number of the attempt. Whoever asks for the same work finds the same names and looks before creating anything:

    missing -> create    running -> attach    completed -> reuse    failed or stopped -> next attempt, or give up

A failure within one call is retried only if its cause is known to pass. A failure from an earlier call does not prevent
the next attempt, because a person ran it again; only data that cannot be read stays refused.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

MAX_ATTEMPTS = 20


class Cause(Enum):
    """Why a job ended without its outputs: how often it is retried in one call, the first wait in seconds (doubled each
    time), whether running it again later makes a new attempt, and what a person can do."""

    CAPACITY = (3, 300.0, True, "AWS had no such instance; run again later, or set another instance type")
    INTERNAL = (2, 30.0, True, "AWS failed; run again, and ask its support with the job's name when that does not help")
    SPOT = (1, 0.0, True, "no spot instance lasted; unset FORECAST_SPOT")
    RUNTIME = (0, 0.0, True, "it took longer than FORECAST_MAX_JOB_MINUTES; raise that, or take a larger instance")
    STOPPED = (0, 0.0, True, "somebody stopped it; run again for a new attempt")
    DATA = (0, 0.0, False, "the algorithm refuses this data, and would again; other data makes another job")
    ACCESS = (0, 0.0, True, "the job's role lacks a permission; allow it to FORECAST_ROLE_ARN and run again")
    DISK = (
        0,
        0.0,
        True,
        "the job's disk was full; train on less, or raise VolumeSizeInGB in engines/sagemaker/requests.py",
    )
    MEMORY = (0, 0.0, True, "the container was killed, likely out of memory; set a larger instance type and run again")
    ALGORITHM = (0, 0.0, True, "the container failed; read its log, mend it and run again")
    ARTEFACTS = (0, 0.0, True, "it completed and its outputs are not there; see what removes them, and run again")
    UNKNOWN = (0, 0.0, True, "run again when the reason is mended")

    def __init__(self, retries: int, wait: float, again: bool, advice: str) -> None:
        self.retries, self.wait, self.again, self.advice = retries, wait, again, advice


@dataclass(frozen=True)
class JobState:
    """A job as Describe tells it: status, secondary status (training only) and failure reason."""

    status: str
    detail: str = ""
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ("Completed", "Failed", "Stopped", "Deleting")


@dataclass(frozen=True)
class Action:
    """What to do next.

    Attributes:
        do: create, attach (wait for it), reuse, next (another attempt), look (describe again) or fail.
        why: for people.
        wait: seconds to wait first.
        cause: of the failure that `next` answers.
    """

    do: Literal["create", "attach", "reuse", "next", "look", "fail"]
    why: str = ""
    wait: float = 0.0
    cause: Cause | None = None


def canonical(request: Mapping[str, Any]) -> str:
    """The request as text, equal for equal requests: what the digest in a name is of."""
    return json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def job_name(prefix: str, week: dt.date, kind: str, request: Mapping[str, Any], attempt: int | None = None) -> str:
    """The name of a request's work: letters, digits and hyphens, at most 63.

    Args:
        prefix: of this installation, at most 21 characters; the roles in infra/ allow these names only.
        week: for people; the digest alone would do.
        kind: train, transform or model.
        request: the exact request without name and tags.
        attempt: from 1; None: of a model, which has no attempts.
    """
    digest = hashlib.sha256(canonical(request).encode()).hexdigest()[:12]
    return f"{prefix}-{week:%Y%m%d}-{kind}-{digest}" + ("" if attempt is None else f"-a{attempt}")


def cause_of(state: JobState, artefacts: bool = True) -> Cause | None:
    """Why a job that ended has no outputs; None when it has, or has not ended."""
    if state.status == "Completed":
        return None if artefacts else Cause.ARTEFACTS
    if state.status == "Stopped":
        return {"MaxWaitTimeExceeded": Cause.SPOT, "MaxRuntimeExceeded": Cause.RUNTIME}.get(state.detail, Cause.STOPPED)
    if state.status == "Failed":
        return next(
            (cause for cause, words in _REASONS if re.search(words, state.reason, re.IGNORECASE)), Cause.UNKNOWN
        )
    return None


# Read from the top: the first that fits counts.
_REASONS = (
    (Cause.CAPACITY, r"capacity"),
    (Cause.INTERNAL, r"^InternalServerError|internal error"),
    (Cause.DISK, r"disk space|no space left"),
    (Cause.ACCESS, r"access ?denied|not authorized|permission|forbidden|\bKMS\b|assume|\b403\b"),
    (Cause.MEMORY, r"exit code:? ?137|out of memory|OutOfMemory"),
    # "See job logs" does not say what was at fault, whatever stands before it.
    (Cause.ALGORITHM, r"^AlgorithmError|see job logs"),
    (Cause.DATA, r"^ClientError|data validation"),
)


def decide(
    state: JobState | None,
    attempt: int,
    ours: bool = False,
    failures: Mapping[Cause, int] | None = None,
    artefacts: bool = True,
) -> Action:
    """What to do about one attempt.

    Args:
        state: None when there is no job of that name.
        attempt: its number, from 1.
        ours: it ran during this call; False: it had ended, or was being stopped, before.
        failures: those of this call so far, by cause, without this one.
        artefacts: its outputs are where they belong; asked of completed jobs only.
    """
    if state is None:
        return Action("create")
    if not state.ended:
        return Action("attach", f"it is {state.detail or state.status}")  # a status we do not know yet included
    cause = cause_of(state, artefacts)
    if state.status == "Completed" and cause is None:
        return Action("reuse", "it completed")
    if cause is None:
        return _next(attempt, "it is being deleted", 0.0, Cause.UNKNOWN)
    reason = "without its outputs" if cause is Cause.ARTEFACTS else state.reason or state.detail
    why = ": ".join(text for text in (state.status, reason) if text)
    if not ours:
        if not cause.again:
            return Action("fail", f"{why}; {cause.advice}", cause=cause)
        return _next(attempt, f"an earlier attempt ended as {why}", 0.0, cause)
    met = (failures or {}).get(cause, 0)
    if met >= cause.retries:
        return Action("fail", f"{why}; {cause.advice}", cause=cause)
    return _next(attempt, why, cause.wait * 2**met, cause)


def _next(attempt: int, why: str, wait: float, cause: Cause) -> Action:
    if attempt >= MAX_ATTEMPTS:
        return Action("fail", f"{why}; {MAX_ATTEMPTS} attempts were made: {cause.advice}", cause=cause)
    return Action("next", why, wait, cause)


BUSY = (
    "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "ServiceUnavailable",
    "ServiceUnavailableException", "InternalFailure", "InternalServerError", "InternalServerException", "500", "503",
)  # fmt: skip
_PATIENCE = 6  # times that a passing refusal is waited out
_LIMIT = re.compile(r"is ([\d.]+) Instances?.*?utilization of ([\d.]+) Instances?(?:.*?delta of ([\d.]+))?", re.DOTALL)


def answer(code: str, message: str, tries: int) -> Action:
    """What to do when Create was refused.

    Args:
        code, message: of the error, as AWS spells them.
        tries: refusals waited out before in this call.
    """
    error = f"{code}: {message}"
    if code == "ResourceInUse" or (code == "ValidationException" and "already exist" in message.lower()):
        # Created by somebody else, or by us in a call whose answer was lost. The name says it is the same work.
        return Action("look", "it exists")
    wait = 0.0
    if code in BUSY:
        wait = 5.0 * 2**tries
    elif code == "ResourceLimitExceeded":
        found = _LIMIT.search(message)
        limit, used, more = (float(x or 1) for x in found.groups()) if found else (0.0, 0.0, 1.0)
        if limit < more or used == 0:
            return Action("fail", f"{error}; ask for a higher quota of this instance type in Service Quotas")
        wait = 60.0 * 2**tries
    if not wait:
        return Action("fail", f"{error}; {_advice(code)}")
    if tries >= _PATIENCE:
        return Action("fail", f"{error}, {tries} times; run again later")
    return Action("look", error, wait)


def _advice(code: str) -> str:
    if code.startswith("AccessDenied"):
        return "allow it to the identity this process runs as (the platform role of infra/)"
    if code == "ResourceNotFound":
        return "see that the role, image and S3 addresses of the settings exist"
    return "see the settings of the aws profile; `forecast doctor` checks them"
