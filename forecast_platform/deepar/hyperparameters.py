"""DeepAR's hyperparameters under SageMaker's names: strings in, one frozen and validated record out.

Names and defaults are those of the SageMaker DeepAR algorithm. Everything this package adds stands in
`EXTENSIONS`; a request that leaves those out is a plain SageMaker request.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

DEFAULTS: dict[str, str] = {
    "cardinality": "auto",
    "num_dynamic_feat": "auto",
    "dropout_rate": "0.10",
    "early_stopping_patience": "",
    "embedding_dimension": "10",
    "learning_rate": "0.001",
    "likelihood": "student-t",
    "mini_batch_size": "128",
    "num_cells": "40",
    "num_layers": "2",
    "num_eval_samples": "100",
    "test_quantiles": "[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]",
}
"""SageMaker's optional hyperparameters and their defaults."""

REQUIRED = ("context_length", "epochs", "prediction_length", "time_freq")

EXTENSIONS: dict[str, str] = {
    "seed": "0",
    "learning_rate_schedule": "constant",
    "gradient_clip": "10.0",
    "scaling_length": "0",
    "time_features": "auto",
    "lag_support": "0",
    "num_networks": "1",
    "lag_skip": "off",
    "blind_features": "0",
    "training_windows": "all",
}
"""Ours, beyond SageMaker.

- seed of the training; learning_rate_schedule "constant" or "cosine" decay to zero; gradient_clip, the largest norm.
- scaling_length: a series' scale is its mean absolute value over so many steps; 0 means context_length.
- time_features "ignore" leaves out calendar and age, for targets with no season left.
- lag_support: steps by which the longest series must exceed a lag for it to be used, so that training has seen it.
- num_networks: networks trained from seed, seed + 1, ...; a forecast is the mixture of theirs.
- lag_skip "on": a linear skip connection from the lags to the location, past the recurrent layers. For series close to
  a random walk, where the last value is the best forecast.
- blind_features: of several networks the first, third, ... do not use this many of the last dynamic features. Their
  errors then differ from the others', and the mixture errs less than either.
- training_windows "last": only the last window of each series, for series made for one forecast start each.
"""

# SageMaker's own container is handed these by the service; they say nothing about the model.
_SERVICE_INTERNAL = frozenset({"_kvstore", "_num_gpus", "_num_kv_servers", "_tuning_objective_metric"})

LIKELIHOODS = ("student-t", "gaussian", "negative-binomial", "beta", "deterministic-L1")
SCHEDULES = ("constant", "cosine")
SKIPPABLE = ("student-t", "gaussian", "deterministic-L1")  # their location may be any number, in units of the lags


class ContractError(ValueError):
    """A request the DeepAR contract refuses. The message names the place, the rule and the way out."""


@dataclass(frozen=True)
class HyperParameters:
    """Validated hyperparameters. Build one with `parse`, which takes SageMaker's strings.

    `cardinality` and `num_dynamic_feat` are "auto", "ignore", or the given value; every other field holds
    its typed value. `early_stopping_patience` None means off. Raises ContractError on a value out of range.
    """

    context_length: int
    prediction_length: int
    epochs: int
    time_freq: str
    cardinality: str | tuple[int, ...] = "auto"
    num_dynamic_feat: str | int = "auto"
    dropout_rate: float = 0.10
    early_stopping_patience: int | None = None
    embedding_dimension: int = 10
    learning_rate: float = 0.001
    likelihood: str = "student-t"
    mini_batch_size: int = 128
    num_cells: int = 40
    num_layers: int = 2
    num_eval_samples: int = 100
    test_quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    seed: int = 0
    learning_rate_schedule: str = "constant"
    gradient_clip: float = 10.0
    scaling_length: int = 0
    time_features: str = "auto"
    lag_support: int = 0
    num_networks: int = 1
    lag_skip: str = "off"
    blind_features: int = 0
    training_windows: str = "all"

    def __post_init__(self) -> None:
        for name, low, high in _INT_RANGES:
            _within(name, getattr(self, name), low, high)
        _within("dropout_rate", self.dropout_rate, 0.0, 0.9)
        if not 0.0 < self.learning_rate <= 1.0:
            raise ContractError(f"learning_rate is {self.learning_rate}; it must be above 0 and at most 1")
        if not self.gradient_clip > 0.0 or math.isinf(self.gradient_clip):
            raise ContractError(f"gradient_clip is {self.gradient_clip}; it must be above 0 and finite")
        _one_of("time_features", self.time_features, ("auto", "ignore"))
        if self.early_stopping_patience is not None:
            _within("early_stopping_patience", self.early_stopping_patience, 1, 10**6)
        if not re.fullmatch(r"[1-9]\d{0,4}(M|W|D|H|min)", self.time_freq):
            raise ContractError(
                f"time_freq is {self.time_freq!r}; write a positive integer and one of M, W, D, H, min, "
                'such as "1W" or "5min"'
            )
        _one_of("likelihood", self.likelihood, LIKELIHOODS)
        _one_of("learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        _one_of("lag_skip", self.lag_skip, ("off", "on"))
        _one_of("training_windows", self.training_windows, ("all", "last"))
        if self.lag_skip == "on" and self.likelihood not in SKIPPABLE:
            raise ContractError(
                f"lag_skip is on with likelihood {self.likelihood}; it takes one of {', '.join(SKIPPABLE)}"
            )
        _check_cardinality(self.cardinality)
        if isinstance(self.num_dynamic_feat, str):
            _one_of("num_dynamic_feat", self.num_dynamic_feat, ("auto", "ignore"))
        else:
            _within("num_dynamic_feat", self.num_dynamic_feat, 1, 10**4)
        if not self.test_quantiles or not all(0.0 < q < 1.0 for q in self.test_quantiles):
            raise ContractError(
                f"test_quantiles is {list(self.test_quantiles)}; give at least one number above 0 and below 1"
            )

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> HyperParameters:
        """Read SageMaker's map of strings. Raises ContractError for unknown names and bad values."""
        known = (*REQUIRED, *DEFAULTS, *EXTENSIONS)
        for name, value in values.items():
            if name in _SERVICE_INTERNAL:
                continue
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                raise ContractError(f"there is no hyperparameter {name!r}; did you mean {near[0]!r}?")
            if not isinstance(value, str):
                raise ContractError(
                    f"hyperparameter {name} is {value!r} ({type(value).__name__}); "
                    f'SageMaker takes strings only, so write "{value}"'
                )
        missing = [name for name in REQUIRED if not values.get(name, "").strip()]
        if missing:
            raise ContractError(f"hyperparameter {missing[0]} is required and was not given")
        text = {**DEFAULTS, **EXTENSIONS, **{k: v.strip() for k, v in values.items()}}
        # An empty string means "not given" except where SageMaker gives it a meaning of its own.
        for name, default in {**DEFAULTS, **EXTENSIONS}.items():
            if text[name] == "" and name not in _EMPTY_IGNORES:
                text[name] = default
        parsed: dict[str, Any] = {name: _PARSERS[name](name, text[name]) for name in known}
        return cls(**parsed)

    def to_strings(self) -> dict[str, str]:
        """The same values as SageMaker's strings; `parse` of the result is equal to self."""
        out: dict[str, str] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, tuple):
                out[f.name] = json.dumps(list(value))
            else:
                out[f.name] = "" if value is None else str(value)
        return out


_INT_RANGES = (
    ("context_length", 1, 10**5),
    ("prediction_length", 1, 10**5),
    ("epochs", 1, 10**6),
    ("embedding_dimension", 1, 1000),
    ("mini_batch_size", 1, 10**5),
    ("num_cells", 1, 4096),
    ("num_layers", 1, 16),
    ("num_eval_samples", 1, 10**5),
    ("seed", 0, 2**63 - 1),
    ("scaling_length", 0, 10**5),
    ("lag_support", 0, 10**5),
    ("num_networks", 1, 100),
    ("blind_features", 0, 10**4),
)
_EMPTY_IGNORES = frozenset({"cardinality", "num_dynamic_feat"})


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ContractError(f"{name} is {value}; it must be between {low} and {high}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ContractError(f"{name} is {value!r}; use one of {', '.join(allowed)}{hint}")


def _check_cardinality(value: str | tuple[int, ...]) -> None:
    if isinstance(value, str):
        _one_of("cardinality", value, ("auto", "ignore"))
    elif not value or any(c < 1 for c in value):
        raise ContractError(f'cardinality is {list(value)}; give positive counts such as "[2,3]"')


def _int(name: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,20}", text):
        raise ContractError(f"{name} is {text!r}; it must be a whole number")
    return int(text)


def _optional_int(name: str, text: str) -> int | None:
    return None if text == "" else _int(name, text)


def _float(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ContractError(f"{name} is {text!r}; it must be a number")
    return value


def _text(name: str, text: str) -> str:
    return text


def _frequency(name: str, text: str) -> str:
    # The service has been seen to accept a bare unit ("D"); it means one of them.
    return f"1{text}" if re.fullmatch(r"M|W|D|H|min", text) else text


def _likelihood(name: str, text: str) -> str:
    # The documentation spells student-T, the container's own defaults student-t.
    by_lower = {known.lower(): known for known in LIKELIHOODS}
    return by_lower.get(text.lower(), text)


def _list(name: str, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, list):
        raise ContractError(f"{name} is {text!r}; it must be a JSON array such as {_LIST_EXAMPLES[name]}")
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value):
        raise ContractError(f"{name} is {text!r}; its entries must be numbers")
    return value


_LIST_EXAMPLES = {"cardinality": "[2,3]", "test_quantiles": "[0.1, 0.5, 0.9]"}


def _cardinality(name: str, text: str) -> str | tuple[int, ...]:
    if text in ("", "ignore"):
        return "ignore"
    if text == "auto":
        return "auto"
    values = _list(name, text)
    if any(not isinstance(v, int) for v in values):
        raise ContractError(f"cardinality is {text!r}; its entries must be whole numbers")
    return tuple(values)


def _num_dynamic_feat(name: str, text: str) -> str | int:
    if text in ("", "ignore"):
        return "ignore"
    return "auto" if text == "auto" else _int(name, text)


def _quantiles(name: str, text: str) -> tuple[float, ...]:
    return tuple(float(v) for v in _list(name, text))


_PARSERS: dict[str, Any] = {
    "context_length": _int,
    "prediction_length": _int,
    "epochs": _int,
    "time_freq": _frequency,
    "cardinality": _cardinality,
    "num_dynamic_feat": _num_dynamic_feat,
    "dropout_rate": _float,
    "early_stopping_patience": _optional_int,
    "embedding_dimension": _int,
    "learning_rate": _float,
    "likelihood": _likelihood,
    "mini_batch_size": _int,
    "num_cells": _int,
    "num_layers": _int,
    "num_eval_samples": _int,
    "test_quantiles": _quantiles,
    "seed": _int,
    "learning_rate_schedule": _text,
    "gradient_clip": _float,
    "scaling_length": _int,
    "time_features": _text,
    "lag_support": _int,
    "num_networks": _int,
    "lag_skip": _text,
    "blind_features": _int,
    "training_windows": _text,
}
