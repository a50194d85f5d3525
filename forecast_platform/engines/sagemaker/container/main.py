"""Our DeepAR image: what SageMaker runs as `forecast-container train` and `forecast-container serve`.

SageMaker's contract: input, output and settings are files under /opt/ml (elsewhere: SAGEMAKER_BASE_DIR), the exit code
says whether it worked, and output/failure says why not. The records, hyperparameters, log lines and metrics are those
of Amazon's own DeepAR image, so a job made for one runs on the other.

A training job has the channel `train`, and to be scored `test`, of DeepAR records. With the hyperparameter
platform_training = "1" it has instead the channel `panel` with panel.npz (history/panel_file.py) and training.json,
{"key", "candidates", "num_samples", "code_version"}: then the job is the platform's whole training, choice included,
and the platform's training.json goes to output/data.

| exit code | what | output/failure begins with |
|---|---|---|
| 0 | trained | |
| 1 | a fault of ours; the log has the traceback | AlgorithmError: |
| 2 | the data or the request is at fault | ClientError: |
| 143 | stopped by SIGTERM, as on a spot interruption; checkpoints, where configured, are in place | AlgorithmError: |
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

PLATFORM_TRAINING = "platform_training"
_ROOT = "/opt/ml"
_FAILURE_CHARACTERS = 1024  # SageMaker cuts FailureReason there


class JobRefused(ValueError):
    """The job's request is at fault; the message says what to change."""


class Stopped(BaseException):
    """SIGTERM. Not an Exception, so that nothing on the way takes it for an error of its own."""


def main() -> None:
    """The image's entry point."""
    commands = {"train": train, "serve": serve}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit("usage: forecast-container train|serve")
    # Networks this small lose more to threads waiting for each other than they gain.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(commands[sys.argv[1]](Path(os.environ.get("SAGEMAKER_BASE_DIR", _ROOT))))


def serve(base: Path) -> int:
    """Serve the model in `base`/model until SIGTERM; returns the exit code."""
    from forecast_platform.engines.sagemaker.container import serving

    return serving.serve(base / "model", "0.0.0.0", int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")))  # noqa: S104


def train(base: Path) -> int:
    """Run the training job laid out under `base`; returns the exit code."""
    failure = base / "output" / "failure"
    failure.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    try:
        from forecast_platform import deepar
        from forecast_platform.history.panel_file import PanelFileError
        from forecast_platform.models.trained import TooLittleHistory

        try:
            _train(base)
            return 0
        except (JobRefused, deepar.ContractError, TooLittleHistory, PanelFileError) as error:
            code, text = 2, f"ClientError: {error}"
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code, text = 143, "AlgorithmError: training was stopped by SIGTERM; run again, it goes on from its checkpoint"
    except Exception as error:
        traceback.print_exc()
        code, text = 1, f"AlgorithmError: {type(error).__name__}: {error}"
    print(text, file=sys.stderr, flush=True)
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(text[:_FAILURE_CHARACTERS])
    return code


def _stop(number: int, frame: object) -> None:
    # A checkpoint is replaced whole and training makes one after each epoch, so it may end anywhere.
    raise Stopped


def _train(base: Path) -> None:
    import torch

    torch.set_num_threads(1)
    hyperparameters = _config(base, "hyperparameters")
    hosts = _config(base, "resourceconfig").get("hosts", [])
    if len(hosts) > 1:
        raise JobRefused(f"the job has {len(hosts)} hosts and this image trains on one: set InstanceCount to 1")
    channels = _config(base, "inputdataconfig")
    for name, channel in channels.items():
        mode = channel.get("TrainingInputMode", "File")
        if mode == "Pipe":
            raise JobRefused(f"channel {name} comes as a pipe; set TrainingInputMode to File or FastFile")
    checkpoint = None
    if configured := _config(base, "checkpointconfig"):
        local = Path(configured.get("LocalPath") or f"{_ROOT}/checkpoints")
        checkpoint = base / local.relative_to(_ROOT) if local.is_relative_to(_ROOT) else local
    platform = hyperparameters.pop(PLATFORM_TRAINING, "0") == "1"
    allowed = ("panel",) if platform else ("train", "test")
    if allowed[0] not in channels or not set(channels) <= set(allowed):
        raise JobRefused(
            f"the job's channels are {', '.join(sorted(channels)) or 'none'}; it takes {allowed[0]}"
            + (" alone" if platform else " and, to be scored, test")
        )
    (base / "model").mkdir(parents=True, exist_ok=True)
    if platform:
        _train_platform(base, checkpoint)
    else:
        _train_records(base, hyperparameters, "test" in channels, checkpoint)


def _train_records(base: Path, hyperparameters: dict[str, str], scored: bool, checkpoint: Path | None) -> None:
    from forecast_platform import deepar

    hp = deepar.HyperParameters.parse(hyperparameters)
    data = base / "input" / "data"
    model = deepar.train(
        deepar.read_records(data / "train", hp.time_freq),
        hp,
        test=deepar.read_records(data / "test", hp.time_freq) if scored else None,
        log=_say,
        checkpoint=checkpoint,
        checkpoint_every=1,
    )
    _say(f"model {deepar.save_artifact(model, base / 'model')}")


def _train_platform(base: Path, checkpoint: Path | None) -> None:
    from forecast_platform import deepar
    from forecast_platform.history.panel_file import load_panel
    from forecast_platform.models.trained import (
        ARTIFACT,
        TrainedModel,
        check_history,
        code_version,
        train_into,
        training_key,
    )
    from forecast_platform.models.trees import TREES, installed

    channel = base / "input" / "data" / "panel"
    try:
        asked = json.loads((channel / "training.json").read_bytes())
        key, candidates, samples, version = (asked[n] for n in ("key", "candidates", "num_samples", "code_version"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobRefused(f"training.json in channel panel can't be used: {error!r}") from error
    if version != code_version():
        raise JobRefused(
            f"the platform has code {version} and this image {code_version()}, whose models would differ: build "
            "and push the image of the platform's version (make image), and name it in FORECAST_IMAGE"
        )
    theirs = candidates.get(TREES.name, {}).get("lightgbm", installed())
    if theirs != installed():
        raise JobRefused(
            f"the platform has LightGBM {theirs or '(none)'} and this image {installed() or '(none)'}: their trees "
            "differ; build the image from the platform's constraints (make image)"
        )
    panel = load_panel(channel)
    try:
        found = training_key(panel, candidates, samples)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise JobRefused(f"the panel can't be trained on as training.json asks: {error!r}") from error
    if found != key:
        raise JobRefused(f"channel panel is the training {found}, training.json asks for {key}: upload both again")
    check_history(panel, candidates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_into(folder, key, panel, candidates, _Progress(), samples, checkpoint)
        trained = TrainedModel.load(folder)
        output = base / "output" / "data"
        output.mkdir(parents=True, exist_ok=True)
        (output / "training.json").write_bytes((folder / "training.json").read_bytes())
        for file in trained.files:
            if file != ARTIFACT:
                (output / file).write_bytes((folder / file).read_bytes())
        if trained.networks:
            deepar.save_artifact(deepar.load_artifact(folder / ARTIFACT), base / "model")
        else:  # SageMaker keeps no model of an empty folder
            (base / "model" / "training.json").write_bytes((folder / "training.json").read_bytes())
    _say(trained.judgement.why)
    if trained.networks:
        _say(f"#quality_metric: host=algo-1, train final_loss <loss>={trained.networks[0].loss_curve[-1]:.10g}")
    _say(f"model {trained.version}")


class _Progress:
    """Lines of at most every tenth part of each training, of which a choice takes many."""

    def __init__(self) -> None:
        self.last = -1

    def __call__(self, what: str, done: int, total: int) -> None:
        part = 10 * done // total if total else -1
        if part != self.last or not total:
            _say(f"{what}: {100 * done // total} %" if total else what)
        self.last = part


def _config(base: Path, name: str) -> dict[str, Any]:
    """input/config/<name>.json; empty where SageMaker wrote none."""
    path = base / "input" / "config" / f"{name}.json"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise JobRefused(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise JobRefused(f"{path} holds no JSON object")
    return found


def _say(line: str) -> None:
    print(line, flush=True)  # CloudWatch takes what the process prints, line by line


if __name__ == "__main__":
    main()
