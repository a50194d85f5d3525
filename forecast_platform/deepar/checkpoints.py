"""Saving and resuming a training run: safetensors and JSON in a folder, replaced whole."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.series import SeriesSet

_NAME = "checkpoint.safetensors"
_FORMAT = 2  # of a state's tensors; one of another format is not resumed


@dataclass(frozen=True)
class State:
    """All a run needs to go on: named tensors and JSON-able numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name starts with `prefix`, without it."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


def fingerprint(series: SeriesSet, hp: HyperParameters, lags: tuple[int, ...]) -> str:
    """Digest of everything a run depends on, so that a checkpoint of other data is never resumed."""
    digest = hashlib.sha256(json.dumps([_FORMAT, hp.to_strings(), lags], sort_keys=True).encode())
    for part in (series.start, series.values, series.indptr, series.cat, series.dynamic_feat):
        digest.update(b"-" if part is None else part.tobytes())
    return digest.hexdigest()


def save(folder: Path, identity: str, state: State) -> None:
    """Write the checkpoint beside the old one, then replace it: a kill leaves one of the two, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_NAME}.{secrets.token_hex(4)}"
    meta = {"identity": identity, "numbers": json.dumps(state.numbers)}
    try:
        save_file({k: v.contiguous().cpu() for k, v in state.tensors.items()}, temporary, metadata=meta)
        os.replace(temporary, folder / _NAME)
    finally:
        temporary.unlink(missing_ok=True)


def load(folder: Path, identity: str) -> State | None:
    """The checkpoint in `folder`, None when there is none. Raises ContractError when it is not this run's."""
    path = folder / _NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as f:
            meta = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
        numbers = json.loads(meta["numbers"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as e:
        raise ContractError(f"{path} is not a readable checkpoint ({e}); delete it to start afresh") from e
    if meta.get("identity") != identity:
        raise ContractError(
            f"{path} belongs to a run with other data or hyperparameters; delete it or choose another folder"
        )
    return State(tensors, numbers)
