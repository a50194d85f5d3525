"""A training job of the emulated SageMaker: channels down, the container to its end, artifacts up.

One host. Secondary states: Starting, Downloading, Training, Uploading. A stopped training keeps the model it had
written, as SageMaker's does, so that Stopped says nothing about what lies in S3.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from forecast_platform_tests.sagemaker_emulator import builtin as builtin
from forecast_platform_tests.sagemaker_emulator.jobs import INTERNAL, POLL, Job, JobFailed, JobStopped
from forecast_platform_tests.sagemaker_emulator.runtime import Container, make_layout, pack, unpack


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
    key = _digest(base, repr((algorithm["TrainingImage"], sorted(request.get("Environment", {}).items()))))
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
    limit = request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86400)
    to_interrupt, ended = job.has("interrupt"), ""
    container = Container(emulator.module, "train", base, environment, read, emulator.warm)
    while (code := container.wait(POLL)) is None:
        if job.stopping.is_set():
            ended = "Stopped"
        elif job.seconds() > limit:
            ended = "MaxRuntimeExceeded"
        elif to_interrupt and (checkpoints is None or any(checkpoints.iterdir())):
            to_interrupt = False
            container.stop(emulator.grace)
            _move_to_another_instance(job, base, checkpoints)
            container = Container(emulator.module, "train", base, environment, read, emulator.warm)
        if ended:
            code = container.stop(emulator.grace)
            break
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


def _move_to_another_instance(job: Job, base: Path, checkpoints: Path | None) -> None:
    """A spot instance is taken away: what the container wrote is gone, but for the checkpoints in S3."""
    job.enter("Interrupted", "The spot instance was reclaimed")
    if checkpoints is not None:
        job.emulator.bucket.upload(checkpoints, job.request["CheckpointConfig"]["S3Uri"])
    for folder in filter(None, (base / "model", base / "output/data", checkpoints)):
        shutil.rmtree(folder)
        folder.mkdir()
    if checkpoints is not None:
        job.emulator.bucket.download(job.request["CheckpointConfig"]["S3Uri"], checkpoints)
    job.enter("Training", "Restarted on another instance")


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


def _digest(base: Path, surroundings: str) -> str:
    """Of all that a training can read; equal trainings have equal results."""
    content = hashlib.sha256(surroundings.encode())
    for path in sorted(p for p in (base / "input").rglob("*") if p.is_file()):
        content.update(str(path.relative_to(base)).encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()
