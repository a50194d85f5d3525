"""Every line that goes to SageMaker is checked before it is sent: a job that fails on line 4711 has cost its start-up
and says little more than "see job logs". Messages name the series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forecast_platform import deepar
from forecast_platform.deepar.records import parse_line
from forecast_platform.engines.sagemaker.batch import Batch
from forecast_platform.history.panel import Panel
from forecast_platform.models.encoding import Categories, to_series_set
from forecast_platform.models.networks import MIN_OBSERVATIONS, target_of
from forecast_platform.models.target import feature_count
from forecast_platform.models.trained import TrainedNetwork

_LARGEST = float(np.finfo(np.float32).max)
MAX_PAYLOAD = 6 * 1000 * 1000  # bytes of one record, SageMaker's default limit of a request


class RecordError(ValueError):
    """A line that DeepAR would refuse; the message names the series, the place and the rule."""


@dataclass(frozen=True)
class Rules:
    """What a model takes.

    Attributes:
        cardinality: numbers of stores and departments; a code must lie below. In training each code must occur.
        features: number of dynamic features.
        ahead: weeks each feature reaches beyond the target: 0 to train, prediction_length to forecast.
        unseen: whether the code `cardinality` stands for a name the model never saw, as in our engine.
    """

    cardinality: tuple[int, int]
    features: int
    ahead: int
    unseen: bool = False

    @classmethod
    def of(cls, categories: Categories, features: int, ahead: int) -> Rules:
        counts = len(categories.stores), len(categories.depts)
        return cls(counts, features, ahead, unseen=categories.stand_ins is None)

    @classmethod
    def of_network(cls, network: TrainedNetwork) -> Rules:
        """To forecast with a network."""
        features = feature_count(target_of(network.name), len(network.features), len(network.holidays))
        return cls.of(network.categories, features, int(network.hyperparameters["prediction_length"]))


def write_training(panel: Panel, categories: Categories, folder: Path, files: int = 1) -> int:
    """Training records of a panel with its features, one series a line, shuffled and checked; returns how many.

    Args:
        files: train-000.json .., of about as many series each. Of several instances each reads its own.

    Raises:
        RecordError: DeepAR would refuse them.
    """
    too_large = (np.abs(panel.sales) > _LARGEST).any(axis=1)
    if too_large.any():
        i = int(too_large.argmax())
        raise RecordError(f"{_name(str(panel.store[i]), str(panel.dept[i]))}: sales are too large for 32-bit numbers")
    known = len(panel.weeks)
    features = None if panel.covariates is None else panel.covariates.values[:, :, :known]
    # DeepAR's authors ask for it. Always the same order, so that the same panel is the same job.
    order = np.random.default_rng(0).permutation(len(panel))
    folder.mkdir(parents=True, exist_ok=True)
    series = to_series_set(panel, categories, features)
    rules = Rules.of(categories, 0 if features is None else len(features), 0)
    records = []
    for number, part in enumerate(np.array_split(order, min(files, len(order)))):
        path = folder / f"train-{number:03d}.json"
        deepar.write_records(series.take(part), path)
        records += check_lines(path, [_name(str(panel.store[i]), str(panel.dept[i])) for i in part], rules)
    targets = [record["target"] for record in records]
    seen = sum(int((~np.isnan(target)).sum()) for target in targets)
    if seen < MIN_OBSERVATIONS:
        raise RecordError(f"{seen} observations to train on; DeepAR needs {MIN_OBSERVATIONS}. Land more history")
    if not any(np.nan_to_num(target).any() for target in targets):
        raise RecordError("every observation of every series is 0; DeepAR refuses to train on that")
    for k, (count, what) in enumerate(zip(rules.cardinality, ("store", "department"), strict=True)):
        if lacking := set(range(count)) - {record["cat"][k] for record in records}:
            raise RecordError(f"no series has {what} code {min(lacking)} of 0 .. {count - 1}; every code must occur")
    return len(records)


def check_batch(batch: Batch, rules: Rules) -> None:
    """Every input line of a batch.

    Raises:
        RecordError: DeepAR would refuse one.
    """
    manifest = batch.manifest
    names: dict[str, list[str]] = {}
    for shard, store, dept in zip(*(manifest[c].to_pylist() for c in ("shard", "store", "dept")), strict=True):
        names.setdefault(shard, []).append(_name(store, dept))
    for source, _ in batch.shards():
        check_lines(source, names.get(source.name, []), rules)


def check_lines(path: Path, names: Sequence[str], rules: Rules) -> list[dict[str, Any]]:
    """The records of a file of JSON Lines, each checked.

    Args:
        names: what each line's series is called, in order.

    Raises:
        RecordError: a line breaks a rule, or there are more or fewer lines than names.
    """
    lines = path.read_bytes().splitlines()
    if len(lines) != len(names):
        raise RecordError(f"{path.name} has {len(lines)} lines for {len(names)} series; run it again")
    return [
        _check(line, f"{name} ({path.name} line {number})", rules)
        for number, (line, name) in enumerate(zip(lines, names, strict=True), 1)
    ]


def _check(line: bytes, where: str, rules: Rules) -> dict[str, Any]:
    def refuse(why: str) -> RecordError:
        return RecordError(f"{where}: {why}")

    if len(line) > MAX_PAYLOAD:
        raise refuse(f"the record has {len(line)} bytes; at most {MAX_PAYLOAD} fit into a request")
    try:
        record = parse_line(line, where, 1)
    except deepar.ContractError as error:
        raise refuse(str(error).removeprefix(f"{where} line 1: ")) from error
    cat, features = record["cat"] or [], record["dynamic_feat"]
    if len(cat) != len(rules.cardinality):
        raise refuse(f"cat has {len(cat)} codes; the model takes {len(rules.cardinality)}, of store and department")
    for code, count, what in zip(cat, rules.cardinality, ("store", "department"), strict=True):
        if code >= count + rules.unseen:
            raise refuse(f"{what} code {code} was not seen in training, which had 0 .. {count - 1}")
    found = 0 if features is None else len(features)
    if found != rules.features:
        raise refuse(f"dynamic_feat has {found} features; the model takes {rules.features}")
    want = len(record["target"]) + rules.ahead
    if features is not None and features.shape[1] != want:
        raise refuse(f"dynamic_feat has {features.shape[1]} values a feature; it needs {want}, {rules.ahead} ahead")
    for name, values in (("target", record["target"]), ("dynamic_feat", features)):
        if values is not None and (np.abs(values) > _LARGEST).any():
            raise refuse(f"{name} holds a value too large for 32-bit numbers, which DeepAR computes with")
    return record


def _name(store: str, dept: str) -> str:
    return f"store {store}, department {dept}"
