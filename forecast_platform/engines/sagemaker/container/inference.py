"""Forecasts by worker processes, one thread each, forked from one that has loaded the model.

They start at once, share the model's memory, and divide the lines of a large request among them. A forecast depends on
its record, configuration and seed alone, never on the other lines of its request nor on other requests.

| environment | meaning |
|---|---|
| DEEPAR_INFERENCE_CONFIG | JSON: num_samples, output_types, quantiles where a request does not say (as Amazon's) |
| DEEPAR_SEED | seed of the sample paths; default 0 |
| MODEL_SERVER_WORKERS | worker processes; default one for each CPU |
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from forecast_platform.deepar.hyperparameters import ContractError
from forecast_platform.engines.workers import end_with_parent

if TYPE_CHECKING:
    from forecast_platform.deepar.artifact import Model
    from forecast_platform.deepar.sampling import InferenceConfig
    from forecast_platform.models.trained import TrainedModel

BLOCK = 512  # lines a worker takes at once: what the network encodes together


class ForecastFailed(RuntimeError):
    """A fault of ours; the message says where, without data."""


class WorkerDied(RuntimeError):
    """A worker process is gone, and with it the pool."""


class Forecasters:
    """The processes that forecast with one model. Make it while this process has a single thread: it forks.

    Raises:
        ContractError: the model or the environment can't be used.
    """

    def __init__(self, model: Path) -> None:
        import torch

        from forecast_platform import deepar
        from forecast_platform.deepar.sampling import InferenceConfig

        torch.set_num_threads(1)
        _Worker.config = _from_environment("DEEPAR_INFERENCE_CONFIG", {}, dict)
        InferenceConfig.parse(_Worker.config)
        _Worker.seed = _from_environment("DEEPAR_SEED", 0, int)
        self.count: int = _from_environment("MODEL_SERVER_WORKERS", _cpus(), int)
        if self.count < 1 or not 0 <= _Worker.seed < 2**63:
            raise ContractError("MODEL_SERVER_WORKERS is at least 1, and DEEPAR_SEED from 0 to 2^63 - 1")
        _Worker.platform = _platform_model(model)
        _Worker.model = deepar.load_artifact(_first_network(model, _Worker.platform))
        self.version = _Worker.platform.version if _Worker.platform else _Worker.model.version
        context = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(self.count, context, _start_worker)
        self._pool.submit(_ready).result()  # the first submit forks all of them

    def forecast_lines(self, body: bytes) -> bytes:
        """JSON Lines in, one JSON object a line out, in order; empty lines are left out.

        Raises:
            ContractError: naming the first bad line. ForecastFailed, WorkerDied.
        """
        _check_some(body)
        lines = body.split(b"\n")
        return self._gather([(_forecast_lines, lines[i : i + BLOCK], i + 1) for i in range(0, len(lines), BLOCK)])

    def forecast_request(self, body: bytes) -> bytes:
        """An endpoint's {"instances": [..], "configuration": {..}} in, {"predictions": [..]} out.

        Raises:
            ContractError: naming the first bad instance. ForecastFailed, WorkerDied.
        """
        _check_some(body)
        return self._gather([(_forecast_request, body)])

    def forecast_shard(self, body: bytes) -> bytes:
        """A shard of a retailer in, its forecasts out, see shards.py.

        Raises:
            ContractError: it is damaged, or the model is no whole model of the platform. ForecastFailed, WorkerDied.
        """
        _check_some(body)
        return self._gather([(_forecast_shard, body)])

    def close(self, wait: bool) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _gather(self, calls: Sequence[tuple[Any, ...]]) -> bytes:
        parts: list[Future[Any]] = []
        answers = []
        try:
            parts += [self._pool.submit(guarded, *call) for call in calls]
            for part in parts:
                answer = part.result()
                if isinstance(answer, ContractError):
                    raise answer
                if isinstance(answer, str):
                    raise ForecastFailed(answer)
                answers.append(answer)
        except BrokenProcessPool as error:
            raise WorkerDied("a worker process died, perhaps for lack of memory") from error
        finally:
            for part in parts:
                part.cancel()  # after a failure the others are not waited for
        return b"".join(answers)


def _check_some(body: bytes) -> None:
    if not body.strip():
        raise ContractError("the request is empty; send at least one record")


class _Worker:
    """What a worker process has from its fork: the model and the settings."""

    model: Model
    platform: TrainedModel | None
    config: dict[str, Any]
    seed: int


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_with_parent()


def _ready() -> None:
    """Does nothing: its answer shows that the workers run."""


def _forecast_lines(lines: Sequence[bytes], first: int) -> bytes:
    """One JSON object a line. Raises ContractError naming the line, the first of which has the number `first`."""
    from forecast_platform.deepar.records import from_lines
    from forecast_platform.deepar.sampling import InferenceConfig

    if not any(line.strip() for line in lines):
        return b""  # the end of a request whose other lines are elsewhere
    records = from_lines(lines, "request", first)
    return b"".join(line + b"\n" for line in _forecast(records, InferenceConfig.parse(_Worker.config)))


def _forecast_request(body: bytes) -> bytes:
    """An endpoint's request. Raises ContractError naming the instance."""
    from forecast_platform.deepar.records import from_objects
    from forecast_platform.deepar.sampling import InferenceConfig

    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ContractError(f"the request is not JSON ({error}); a missing value is null, never NaN") from error
    if not isinstance(request, dict) or not isinstance(request.get("instances"), list) or not request["instances"]:
        raise ContractError('the request is {"instances": [..], "configuration": {..}} with at least one instance')
    own = request.get("configuration") or {}
    if not isinstance(own, dict):
        raise ContractError(f"configuration is a JSON object; this is a {type(own).__name__}")
    config = InferenceConfig.parse({**_Worker.config, **own})
    return b'{"predictions":[' + b",".join(_forecast(from_objects(request["instances"]), config)) + b"]}"


def _forecast_shard(body: bytes) -> bytes:
    from forecast_platform.engines.sagemaker.container.shards import answer_to

    if _Worker.platform is None:
        raise ContractError("the model is a network alone; a shard takes a whole model of the platform")
    try:
        return answer_to(_Worker.platform, body)
    except ValueError as error:  # a covariate that is missing, in words
        raise ContractError(str(error)) from error


def _platform_model(folder: Path) -> TrainedModel | None:
    """The platform's model that is served, or None where it is a network alone."""
    from forecast_platform.models.trained import TrainedModel

    return TrainedModel.load(folder) if (folder / "training.json").exists() else None


def _first_network(folder: Path, model: TrainedModel | None) -> Path:
    return folder if model is None else model.artifact(model.networks[0])


def _forecast(records: Any, config: InferenceConfig) -> list[bytes]:
    from forecast_platform.deepar.sampling import predictions

    series = _Worker.model.prepare(records)
    made = predictions(_Worker.model, series, config, _Worker.seed)
    return [orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY) for answer in made]


def guarded(function: Any, *arguments: Any) -> bytes | ContractError | str:
    """The answer, what the contract refuses, or where a fault of ours is."""
    try:
        return bytes(function(*arguments))
    except ContractError as error:
        return error
    except Exception as error:
        return where(error)


def where(error: Exception) -> str:
    """What kind of error and where, without its message, which may hold data."""
    return f"{type(error).__name__} in\n{''.join(traceback.format_tb(error.__traceback__))}"


def _from_environment(name: str, default: Any, kind: type) -> Any:
    text = os.environ.get(name, "")
    if not text.strip():
        return default
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if type(value) is not kind:
        wanted = "JSON object" if kind is dict else "whole number"
        raise ContractError(f"{name} is {text[:80]!r}; it must be a {wanted}")
    return value


def _cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
