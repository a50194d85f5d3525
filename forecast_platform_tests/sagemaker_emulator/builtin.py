"""Amazon's rules for its own forecasting-deepar image, enforced around our engine.

Amazon's algorithm cannot be run outside AWS. Here the platform's own engine stands in for it: the records, the
hyperparameters and the shape of the results are held to Amazon's contract (the DeepAR pages of the AWS documentation,
and awsdocs/amazon-sagemaker-developer-guide#31 for the lengths of dynamic_feat), the numbers are our engine's. A test
that passes shows that a request is one Amazon documents, never what Amazon's model would forecast. Of a training on
several instances the stand-in has all parts together.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REQUIRED = ("context_length", "epochs", "prediction_length", "time_freq")
OPTIONAL = (
    "cardinality",
    "dropout_rate",
    "early_stopping_patience",
    "embedding_dimension",
    "learning_rate",
    "likelihood",
    "mini_batch_size",
    "num_cells",
    "num_dynamic_feat",
    "num_eval_samples",
    "num_layers",
    "test_quantiles",
)
FIELDS = ("start", "target", "cat", "dynamic_feat")
MIN_OBSERVATIONS = 300

_LOSS = r"<loss>=(\S+)"
METRICS = [
    {"Name": "train:final_loss", "Regex": rf"#quality_metric: host=\S+, train final_loss {_LOSS}"},
    {"Name": "train:loss", "Regex": rf"#quality_metric: host=\S+, epoch=\d+, train loss {_LOSS}"},
    {"Name": "test:RMSE", "Regex": rf"#quality_metric: host=\S+, test RMSE {_LOSS}"},
    {"Name": "test:mean_wQuantileLoss", "Regex": rf"#quality_metric: host=\S+, test mean_wQuantileLoss {_LOSS}"},
]


class ClientError(Exception):
    """What Amazon's container would refuse: the data or the hyperparameters are at fault."""


def check_training(base: Path) -> None:
    """Hold a training's /opt/ml/input to Amazon's rules."""
    given = json.loads((base / "input/config/hyperparameters.json").read_text())
    if missing := [name for name in REQUIRED if not given.get(name)]:
        raise ClientError(f"{missing[0]!r} is a required hyperparameter")
    if unknown := sorted(set(given) - {*REQUIRED, *OPTIONAL}):
        raise ClientError(f"Additional hyperparameters are not allowed ({unknown[0]!r} was unexpected)")
    if unknown := sorted({p.name for p in (base / "input/data").iterdir()} - {"train", "test"}):
        raise ClientError(f"Additional channels are not allowed ({unknown[0]!r} was unexpected)")
    if not (base / "input/data/train").exists():
        raise ClientError("'train' is a required channel")
    train = list(_records(base / "input/data/train"))
    test = list(_records(base / "input/data/test"))
    cats, feats = {_width(r, "cat") for _, r in train + test}, {_width(r, "dynamic_feat") for _, r in train + test}
    if len(cats) > 1 or len(feats) > 1:
        raise ClientError("all series must have the same number of categorical and of dynamic features")
    for where, record in train + test:
        _check_record(where, record, ahead=0)
    observed = [v for _, r in train for v in r["target"] if v is not None and v != "NaN"]
    if len(observed) < MIN_OBSERVATIONS:
        raise ClientError(f"{len(observed)} observations over all series; at least {MIN_OBSERVATIONS} are required")
    if not any(observed):
        raise ClientError("training time series consist of only zeros")
    if given.get("cardinality", "auto") not in ("ignore", ""):
        _check_categories(given.get("cardinality", "auto"), [_cat(r) for _, r in train])


def _check_categories(cardinality: str, cats: list[list[int]]) -> None:
    stated = None if cardinality == "auto" else json.loads(cardinality)
    for position, values in enumerate(zip(*cats, strict=True)):
        count = stated[position] if stated else max(values) + 1
        if set(values) != set(range(count)):
            raise ClientError(
                f"Training set did not contain examples for all categories of the {position + 1}-th categorical "
                f"feature: {len(set(values))} of {count} were seen"
            )


class Inference:
    """Amazon's rules for what a trained model is asked.

    Args:
        model: the folder of the unpacked artifact, whose model.json says what the training saw.
    """

    def __init__(self, model: Path) -> None:
        config = json.loads((model / "model.json").read_text())
        self.horizon = int(config["hyperparameters"]["prediction_length"])
        self.cardinality: list[int] = config["cardinality"]
        self.features = int(config["num_dynamic_feat"])

    def refusal(self, body: bytes) -> str | None:
        """Why Amazon's container would answer a line with 400, or None."""
        try:
            record = json.loads(body, parse_constant=_no_constant)
            _check_record("the record", record, ahead=self.horizon if self.features else None)
            if self.cardinality and len(_cat(record)) != len(self.cardinality):
                raise ClientError(f"cat has {len(_cat(record))} values, the model {len(self.cardinality)}")
            if self.features and _width(record, "dynamic_feat") != self.features:
                raise ClientError(f"dynamic_feat has {_width(record, 'dynamic_feat')} rows, the model {self.features}")
            for value, count in zip(_cat(record), self.cardinality, strict=False):
                if value >= count:
                    raise ClientError(f"category {value} was not seen in training, which had 0 to {count - 1}")
        except (ClientError, ValueError) as error:
            return f"Unable to evaluate payload provided: {error}"
        return None


def _records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not folder.exists():
        return
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.name.startswith(".") or path.name == "_SUCCESS":
            continue
        if not path.name.endswith((".json", ".json.gz")):
            raise ClientError(f"{path.name}: the format is told by the name, which ends in .json or .json.gz")
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for number, line in enumerate(data.splitlines(), 1):
            where = f"{path.name} line {number}"
            try:
                yield where, json.loads(line, parse_constant=_no_constant)
            except ValueError as error:
                raise ClientError(f"{where}: {error}") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_record(where: str, record: dict[str, Any], ahead: int | None) -> None:
    """`ahead`: values a dynamic feature has beyond the target's; None: features are not looked at."""
    if missing := [name for name in ("start", "target") if record.get(name) is None]:
        raise ClientError(f"{where}: {missing[0]!r} is missing")
    if not record["target"]:
        raise ClientError(f"{where}: target is empty")
    if any(type(v) is not int or v < 0 for v in _cat(record)):
        raise ClientError(f"{where}: cat must be whole numbers from 0")
    for row in record.get("dynamic_feat") or () if ahead is not None else ():
        if len(row) != len(record["target"]) + (ahead or 0):
            raise ClientError(
                f"{where}: dynamic_feat has {len(row)} values for a target of {len(record['target'])}; "
                f"needed are {len(record['target']) + (ahead or 0)}"
            )
        if any(type(v) not in (int, float) for v in row):
            raise ClientError(f"{where}: dynamic_feat must have no missing values")


def _cat(record: dict[str, Any]) -> list[Any]:
    cat = record.get("cat")
    return [] if cat is None else cat if isinstance(cat, list) else [cat]


def _width(record: dict[str, Any], name: str) -> int:
    return len(_cat(record)) if name == "cat" else len(record.get(name) or ())
