"""A piece of work for SageMaker and its results, as data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forecast_platform.engines.sagemaker.decision import JobState, job_name


@dataclass(frozen=True)
class Kind:
    """One of SageMaker's two kinds of job, as its API spells it."""

    word: str
    title: str
    page: str

    @property
    def group(self) -> str:
        return f"/aws/sagemaker/{self.title}Jobs"


TRAIN, TRANSFORM = Kind("train", "Training", "jobs"), Kind("transform", "Transform", "transform-jobs")


@dataclass(frozen=True)
class Spec:
    """A piece of work: the exact request, and what is there when it is done.

    Attributes:
        request: of create_training_job or create_transform_job, without the job's name and its tags.
        artefacts: storage keys of the outputs; "{job}" in them is the job's name.
        seconds: the longest it may run. SageMaker stops a training itself; a transform, for which it has no such limit,
            is stopped by whoever waits for it.
        tags: for whoever reads the bill; no part of the name, so that another run finds the same job.
        prefix: of names, see job_name.
    """

    kind: Kind
    week: dt.date
    request: Mapping[str, Any]
    artefacts: tuple[str, ...]
    seconds: int
    tags: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "forecast"

    def name(self, attempt: int) -> str:
        return job_name(self.prefix, self.week, self.kind.word, self.request, attempt)

    @property
    def instances(self) -> tuple[str, int]:
        """Instance type and count."""
        resources = self.request["ResourceConfig" if self.kind is TRAIN else "TransformResources"]
        return resources["InstanceType"], resources["InstanceCount"]


@dataclass(frozen=True)
class Done:
    """A completed job: its name, what Describe says of it, and the keys of its outputs."""

    name: str
    described: Mapping[str, Any]
    artefacts: tuple[str, ...]


@dataclass(frozen=True)
class Charge:
    """What one job cost: billed seconds of each instance and USD (0 when it had been paid for before)."""

    job: str
    url: str
    instance: str
    instances: int
    seconds: int
    usd: float
    reused: bool


def state_of(kind: Kind, described: Mapping[str, Any]) -> JobState:
    """A job's state, from Describe's answer."""
    return JobState(
        described[f"{kind.title}JobStatus"], described.get("SecondaryStatus", ""), described.get("FailureReason", "")
    )


def billed_seconds(kind: Kind, described: Mapping[str, Any]) -> int:
    """Seconds billed of each instance. For a transform SageMaker does not say: the time from its start to its end."""
    if kind is TRAIN:
        return int(described.get("BillableTimeInSeconds", 0))
    started, ended = described.get("TransformStartTime"), described.get("TransformEndTime")
    return max(1, round((ended - started).total_seconds())) if started and ended else 0


def on_demand_instead(request: Mapping[str, Any]) -> dict[str, Any]:
    """A training request without spot."""
    stopping = {k: v for k, v in request["StoppingCondition"].items() if k != "MaxWaitTimeInSeconds"}
    return {**request, "EnableManagedSpotTraining": False, "StoppingCondition": stopping}


def as_tags(tags: Mapping[str, str]) -> Sequence[dict[str, str]]:
    """Tags with the characters AWS refuses replaced, cut to its lengths."""

    def clean(text: str, length: int) -> str:
        return "".join(c if c.isalnum() or c in " _.:/=+-@" else "_" for c in text)[:length]

    return [{"Key": clean(key, 128), "Value": clean(value, 256)} for key, value in sorted(tags.items())[:50]]
