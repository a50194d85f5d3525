"""A job of the emulated SageMaker: its states as Describe shows them, and the thread that runs it.

InProgress, then Completed or Failed, or Stopping and Stopped. The secondary states of a training pass as fast as the
work does; nothing sleeps to look real.
"""

from __future__ import annotations

import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast_platform_tests.sagemaker_emulator.validation import ACCOUNT, BUILTIN, REGION

if TYPE_CHECKING:
    from forecast_platform_tests.sagemaker_emulator.emulator import Emulator
    from forecast_platform_tests.sagemaker_emulator.faults import Fault

CAPACITY = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)
INTERNAL = "InternalServerError: We encountered an internal error.  Please try again."
SEE_LOGS = "AlgorithmError: See job logs for more information"
TERMINAL = ("Completed", "Failed", "Stopped")
POLL = 0.02  # seconds


class JobFailed(Exception):
    """Ends a job as Failed; the text is its FailureReason, of which SageMaker keeps 1024 characters."""


class JobStopped(Exception):
    """Ends a job as Stopped, with the secondary status that says why."""


@dataclass
class Job:
    """One training or transform job.

    Attributes:
        kind: "training" or "transform". model: a transform's container definition.
        created, started, ended: seconds since 1970. stopping: set when someone asked for a stop.
        held: stays InProgress.
    """

    kind: str
    name: str
    request: dict[str, Any]
    emulator: Emulator
    model: dict[str, Any]
    fault: Fault | None = None
    status: str = "InProgress"
    reason: str = ""
    created: float = field(default_factory=time.time)
    started: float = 0.0
    ended: float = 0.0
    transitions: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    artifact: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    held: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run, name=f"{self.kind} {self.name}", daemon=True)

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{self.kind}-job/{self.name}"

    @property
    def builtin(self) -> bool:
        return self.image == BUILTIN

    @property
    def image(self) -> str:
        if self.kind == "training":
            return str(self.request["AlgorithmSpecification"]["TrainingImage"])
        return str(self.model["Image"])

    @property
    def instances(self) -> tuple[str, int]:
        resources = self.request["ResourceConfig" if self.kind == "training" else "TransformResources"]
        return resources["InstanceType"], resources["InstanceCount"]

    def has(self, kind: str) -> bool:
        return self.fault is not None and self.fault.kind == kind

    def enter(self, secondary: str, message: str = "") -> None:
        """The next secondary status of a training job."""
        now = time.time()
        if self.transitions and "EndTime" not in self.transitions[-1]:
            self.transitions[-1]["EndTime"] = now
        self.transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message})

    def begin_paying(self) -> None:
        self.started = time.time()
        self.emulator.billed.append(self.name)

    def log(self, stream: str) -> Callable[[str], None]:
        group = f"/aws/sagemaker/{'TrainingJobs' if self.kind == 'training' else 'TransformJobs'}"
        return lambda line: self.emulator.logs.add(group, f"{self.name}/{stream}", line)

    def wait_while_held(self) -> None:
        """InProgress until released; a stop gets through."""
        while self.held and not self.stopping.is_set():
            time.sleep(POLL)

    def check_stop(self) -> None:
        if self.stopping.is_set():
            raise JobStopped("Stopped")

    def seconds(self) -> float:
        """How long it has been running, on the emulator's clock."""
        return (time.time() - self.started) * self.emulator.time_scale if self.started else 0.0

    def run(self) -> None:
        """The job's thread: do the work, and put down how it ended."""
        from forecast_platform_tests.sagemaker_emulator.training import run_training
        from forecast_platform_tests.sagemaker_emulator.transform import run_transform

        status, secondary, reason = "Completed", "Completed", ""
        try:
            with tempfile.TemporaryDirectory(prefix="sagemaker-", ignore_cleanup_errors=True) as folder:
                self.enter("Starting", "Launching requested ML instances")
                if self.has("capacity"):
                    raise JobFailed(CAPACITY)
                if self.has("max_wait"):
                    raise JobStopped("MaxWaitTimeExceeded")
                (run_training if self.kind == "training" else run_transform)(self, Path(folder))
        except JobStopped as end:
            status, secondary = "Stopped", str(end)
        except JobFailed as end:
            status, secondary, reason = "Failed", "Failed", str(end)[:1024]
        except Exception:  # of this emulator's own; a test should see it
            status, secondary, reason = "Failed", "Failed", f"EmulatorError: {traceback.format_exc()}"[-1024:]
        with self.emulator.lock:
            self.ended = time.time()
            self.enter(secondary, reason)
            self.transitions[-1]["EndTime"] = self.ended
            self.reason, self.status = reason, status

    def describe(self) -> dict[str, Any]:
        """What Describe*Job answers, beside the echo of the request."""
        start = {"TrainingStartTime": self.started} if self.kind == "training" else {"TransformStartTime": self.started}
        end = {"TrainingEndTime": self.ended} if self.kind == "training" else {"TransformEndTime": self.ended}
        title = "Training" if self.kind == "training" else "Transform"
        out: dict[str, Any] = {
            f"{title}JobArn": self.arn,
            f"{title}JobStatus": self.status,
            "CreationTime": self.created,
            **(start if self.started else {}),
            **(end if self.ended else {}),
            **({"FailureReason": self.reason} if self.reason else {}),
        }
        if self.kind == "training":
            moments = [t["StartTime"] for t in self.transitions] or [self.created]
            out["SecondaryStatus"] = self.transitions[-1]["Status"] if self.transitions else "Starting"
            out["SecondaryStatusTransitions"] = [dict(t) for t in self.transitions]
            out["LastModifiedTime"] = self.ended or moments[-1]
            if self.metrics:
                out["FinalMetricDataList"] = [
                    {"MetricName": name, "Value": value, "Timestamp": self.ended or moments[-1]}
                    for name, value in self.metrics.items()
                ]
            if self.artifact:
                out["ModelArtifacts"] = {"S3ModelArtifacts": self.artifact}
            if self.ended and self.started:
                took = max(1, round((self.ended - self.started) * self.emulator.time_scale))
                out["TrainingTimeInSeconds"] = took
                spot = self.request.get("EnableManagedSpotTraining")
                out["BillableTimeInSeconds"] = max(1, round(took * 0.3)) if spot else took
        return out
