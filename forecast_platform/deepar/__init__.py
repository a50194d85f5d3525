"""DeepAR under SageMaker's contract, in PyTorch: train, predict, transform, and the artifact between them.

Importing this package loads numpy only; torch comes with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from forecast_platform.deepar.hyperparameters import ContractError, HyperParameters
from forecast_platform.deepar.series import SeriesSet

if TYPE_CHECKING:
    from forecast_platform.deepar.artifact import Model, load_artifact, save_artifact
    from forecast_platform.deepar.records import read_records, write_records
    from forecast_platform.deepar.sampling import Forecast, predict, transform
    from forecast_platform.deepar.training import train

_LAZY = {
    "Forecast": "sampling",
    "Model": "artifact",
    "load_artifact": "artifact",
    "predict": "sampling",
    "read_records": "records",
    "save_artifact": "artifact",
    "train": "training",
    "transform": "sampling",
    "write_records": "records",
}

__all__ = [
    "ContractError",
    "Forecast",
    "HyperParameters",
    "Model",
    "SeriesSet",
    "load_artifact",
    "predict",
    "read_records",
    "save_artifact",
    "train",
    "transform",
    "write_records",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
