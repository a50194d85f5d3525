"""Batch transform: a file of JSON Lines in, one JSON object per line out, in the same order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from forecast_platform.deepar.hyperparameters import ContractError
from forecast_platform.deepar.model import Model
from forecast_platform.deepar.records import read_records, write_lines
from forecast_platform.deepar.sampling import DEFAULT_QUANTILES, check_request, predict
from forecast_platform.deepar.series import SeriesSet

BLOCK = 4000  # series forecast and written at a time: bounds memory when samples are asked for


@dataclass(frozen=True)
class InferenceConfig:
    """The shape and defaults of DEEPAR_INFERENCE_CONFIG."""

    num_samples: int = 100
    output_types: tuple[str, ...] = ("mean", "quantiles")
    quantiles: tuple[str, ...] = DEFAULT_QUANTILES

    @classmethod
    def parse(cls, config: Mapping[str, Any] | None) -> InferenceConfig:
        """Raises ContractError for unknown keys and bad values."""
        given = dict(config or {})
        unknown = set(given) - {"num_samples", "output_types", "quantiles"}
        if unknown:
            raise ContractError(
                f"the inference configuration has {sorted(unknown)[0]!r}; "
                "it takes num_samples, output_types and quantiles"
            )
        for name in ("output_types", "quantiles"):
            if name in given and not isinstance(given[name], (list, tuple)):
                raise ContractError(f"{name} is {given[name]!r}; it must be an array")
        out = cls(
            given.get("num_samples", 100),
            tuple(given.get("output_types", cls.output_types)),
            tuple(str(q) for q in given.get("quantiles", DEFAULT_QUANTILES)),
        )
        check_request(out.num_samples, out.quantiles, out.output_types)
        return out


def transform(
    model: Model,
    input_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Forecast every line of `input_path` into `output_path`; returns the number of lines.

    Every line is checked before anything is forecast, and the output takes its name only when it is whole.
    Raises ContractError naming the line and rule; then nothing is written.
    """
    wanted = InferenceConfig.parse(config)
    series = model.prepare(read_records(input_path, model.hyperparameters.time_freq))
    lines = predictions(model, series, wanted, seed, device)
    return write_lines((orjson.dumps(p, option=orjson.OPT_SERIALIZE_NUMPY) for p in lines), Path(output_path))


def predictions(
    model: Model, series: SeriesSet, config: InferenceConfig, seed: int = 0, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """The response objects of `series`, in order: {"mean": .., "quantiles": {"0.1": ..}, "samples": ..}."""
    for low in range(0, len(series), BLOCK):
        part = series.take(range(low, min(low + BLOCK, len(series))))
        forecast = predict(model, part, config.num_samples, config.quantiles, seed, config.output_types, device=device)
        for i in range(len(part)):
            out: dict[str, Any] = {}
            if forecast.mean is not None:
                out["mean"] = forecast.mean[i]
            if forecast.quantiles is not None:
                out["quantiles"] = dict(zip(config.quantiles, forecast.quantiles[i], strict=True))
            if forecast.samples is not None:
                out["samples"] = forecast.samples[i]
            yield out
