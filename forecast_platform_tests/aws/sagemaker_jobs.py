"""A job of the emulated SageMaker: its states as Describe shows them, and the thread that runs it.

Training: Starting, Downloading, Training, Uploading, then Completed, Failed or Stopped. Transform: InProgress, then the
same. The secondary states pass as fast as the work does; nothing sleeps to look real.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast_platform_tests.aws import sagemaker_builtin as builtin
from forecast_platform_tests.aws.sagemaker_runtime import Container, make_layout, pack, unpack
from forecast_platform_tests.aws.sagemaker_validation import ACCOUNT, BUILTIN, REGION

if TYPE_CHECKING:
    from forecast_platform_tests.aws.sagemaker_emulator import Emulator, Fault

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
    """One training or transform job. `kind` is "training" or "transform"; times are seconds since 1970."""

    kind: str
    name: str
    request: dict[str, Any]
    emulator: Emulator
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
        return str(self.emulator.model_of(self)["PrimaryContainer"]["Image"])

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
        if self.has("slow"):
            self.held = True
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
        from forecast_platform_tests.aws.sagemaker_transform import run_transform

        status, secondary, reason = "Completed", "Completed", ""
        try:
            with tempfile.TemporaryDirectory(prefix="sagemaker-", ignore_cleanup_errors=True) as folder:
                self.enter("Starting", "Launching requested ML instances")
                if self.has("capacity"):
                    raise JobFailed(CAPACITY)
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


def run_training(job: Job, base: Path) -> None:
    """The life of a training job on one host, up to what it leaves in S3."""
    request, s3 = job.request, job.emulator.bucket
    algorithm, checkpoint = request["AlgorithmSpecification"], request.get("CheckpointConfig")
    make_layout(base)
    job.check_stop()
    job.begin_paying()
    job.enter("Downloading", "Downloading input data")
    _write_configuration(job, base)
    for channel in request.get("InputDataConfig", ()):
        s3.download(channel["DataSource"]["S3DataSource"]["S3Uri"], base / "input/data" / channel["ChannelName"])
    local = base / (checkpoint or {}).get("LocalPath", "/opt/ml/checkpoints").removeprefix("/opt/ml/")
    if checkpoint:
        local.mkdir(parents=True, exist_ok=True)
        s3.download(checkpoint["S3Uri"], local)
    job.enter("Training", "Training image download completed. Training in progress.")
    job.wait_while_held()
    if job.has("stop"):
        job.emulator.stop_job(job)  # as someone in the console would
    job.check_stop()
    if job.has("internal"):
        raise JobFailed(INTERNAL)
    if job.has("algorithm"):
        raise JobFailed("AlgorithmError: scripted failure, exit code: 1")
    ended = ""
    key = _digest(base, algorithm["TrainingImage"])
    try:
        if job.builtin:
            builtin.check_training(base)
        kept = job.emulator.trained.get(key) if job.emulator.reuse_trainings else None
        if kept:
            for part, data in zip(("model", "output/data"), kept, strict=True):
                if data:
                    unpack(data, base / part)
            job.log("algo-1-reused")("an equal training was run before; its results are used again")
        else:
            ended = _run_container(job, base, local if checkpoint else None)
    except builtin.ClientError as error:
        raise JobFailed(f"ClientError: {error}, exit code: 2") from error
    finally:
        output = f"{request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job.name}/output"
        data = pack(base / "output/data")
        if data:
            s3.put(f"{output}/output.tar.gz", data)
    job.enter("Uploading", "Uploading generated training model")
    model = pack(base / "model")
    if model:  # a stopped training keeps what it had written, too
        s3.put(f"{output}/model.tar.gz", model)
        job.artifact = f"{output}/model.tar.gz"
    if ended:
        raise JobStopped(ended)
    job.emulator.trained[key] = (model, data)


def _run_container(job: Job, base: Path, checkpoints: Path | None) -> str:
    """Run `train` to its end. Returns "" or the secondary status of a stopped job; raises JobFailed."""
    request, emulator = job.request, job.emulator
    definitions = builtin.METRICS if job.builtin else request["AlgorithmSpecification"].get("MetricDefinitions", [])
    write = job.log(f"algo-1-{round(time.time() * 1000)}")

    def read(line: str) -> None:
        write(line)
        for definition in definitions:
            if (found := re.search(definition["Regex"], line)) is not None:
                job.metrics[definition["Name"]] = float(found.group(1))

    environment = {"TRAINING_JOB_NAME": job.name, "TRAINING_JOB_ARN": job.arn, **request.get("Environment", {})}
    container = Container(emulator.module, "train", base, environment, read, emulator.warm)
    interrupted, code, ended = not job.has("interrupt"), None, ""
    limit = request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86400)
    while code is None:
        code = container.wait(POLL)
        if code is not None:
            break
        if job.stopping.is_set():
            ended, code = "Stopped", container.stop(emulator.grace)
        elif job.seconds() > limit:
            ended, code = "MaxRuntimeExceeded", container.stop(emulator.grace)
        elif not interrupted and checkpoints is not None and any(checkpoints.iterdir()):
            # A spot instance is taken away once there is a checkpoint, and another one goes on from it.
            interrupted = True
            container.stop(emulator.grace)
            job.enter("Interrupted", "Spot instance interrupted")
            job.enter("Training", "Restarted on another instance")
            container = Container(emulator.module, "train", base, environment, read, emulator.warm)
    if checkpoints is not None:
        emulator.bucket.upload(checkpoints, request["CheckpointConfig"]["S3Uri"])
    if ended:
        return ended
    if code:
        failure = base / "output/failure"
        text = failure.read_text(errors="replace")[:1024] if failure.exists() else ""
        kind = "ClientError" if job.builtin and code == 2 else "AlgorithmError"
        raise JobFailed(f"{kind}: {text}, exit code: {code}" if text else f"{kind}: Exit Code: {code}")
    return ""


def _write_configuration(job: Job, base: Path) -> None:
    request, config = job.request, base / "input/config"
    channels = {
        channel["ChannelName"]: {
            "TrainingInputMode": channel.get("InputMode", request["AlgorithmSpecification"]["TrainingInputMode"]),
            "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                "S3DataDistributionType", "FullyReplicated"
            ),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            **({"ContentType": channel["ContentType"]} if channel.get("ContentType") else {}),
        }
        for channel in request.get("InputDataConfig", ())
    }
    files: dict[str, Any] = {
        "hyperparameters": request.get("HyperParameters", {}),
        "inputdataconfig": channels,
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"},
    }
    if request.get("CheckpointConfig"):
        files["checkpointconfig"] = {"LocalPath": "/opt/ml/checkpoints", **request["CheckpointConfig"]}
    for name, content in files.items():
        (config / f"{name}.json").write_text(json.dumps(content))


def _digest(base: Path, image: str) -> str:
    """Of all that a training can read; equal trainings have equal results."""
    content = hashlib.sha256(image.encode())
    for path in sorted(p for p in (base / "input").rglob("*") if p.is_file()):
        content.update(str(path.relative_to(base)).encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()
