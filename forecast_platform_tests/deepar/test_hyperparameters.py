from __future__ import annotations

import json
import subprocess
import sys

import pytest

from forecast_platform.deepar import ContractError, HyperParameters
from forecast_platform.deepar.hyperparameters import DEFAULTS, EXTENSIONS, REQUIRED

NEEDED = {"context_length": "12", "prediction_length": "12", "epochs": "10", "time_freq": "1W"}


def test_names_and_defaults_are_sagemakers():
    assert sorted(REQUIRED) == ["context_length", "epochs", "prediction_length", "time_freq"]
    assert {
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
        "test_quantiles": json.dumps([q / 10 for q in range(1, 10)]),
    } == DEFAULTS
    assert set(EXTENSIONS) == {
        "seed",
        "learning_rate_schedule",
        "gradient_clip",
        "scaling_length",
        "time_features",
        "lag_support",
        "num_networks",
        "lag_skip",
        "blind_features",
        "training_windows",
    }


def test_the_dataclass_defaults_are_the_string_defaults():
    assert HyperParameters.parse(NEEDED) == HyperParameters(12, 12, 10, "1W")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cardinality": "[2,3]", "num_dynamic_feat": "2", "early_stopping_patience": "7", "seed": "5"},
        {"cardinality": "ignore", "num_dynamic_feat": "ignore", "test_quantiles": "[0.5]"},
        {"likelihood": "negative-binomial", "learning_rate_schedule": "cosine", "gradient_clip": "1e-3"},
        {"num_networks": "3", "lag_skip": "on", "training_windows": "last"},
    ],
)
def test_to_strings_round_trips(changes):
    hp = HyperParameters.parse(NEEDED | changes)
    strings = hp.to_strings()
    assert all(isinstance(v, str) for v in strings.values())
    assert HyperParameters.parse(strings) == hp


@pytest.mark.parametrize("spelling", ["student-t", "student-T", "Student-T"])
def test_both_spellings_of_student_t(spelling):
    assert HyperParameters.parse(NEEDED | {"likelihood": spelling}).likelihood == "student-t"


def test_empty_cardinality_means_ignore_and_other_empty_strings_mean_default():
    hp = HyperParameters.parse(
        NEEDED | {"cardinality": "", "num_dynamic_feat": "", "learning_rate": "", "_kvstore": "auto"}
    )
    assert (hp.cardinality, hp.num_dynamic_feat, hp.learning_rate) == ("ignore", "ignore", 0.001)


def test_a_bare_unit_is_one_of_it():
    assert HyperParameters.parse(NEEDED | {"time_freq": "D"}).time_freq == "1D"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": "0.1"}, "no hyperparameter 'learning_rat'; did you mean 'learning_rate'?"),
        ({"epochs": 10}, "SageMaker takes strings only"),
        ({"epochs": "0"}, "epochs is 0; it must be between 1 and"),
        ({"epochs": "ten"}, "epochs is 'ten'; it must be a whole number"),
        ({"epochs": ""}, "epochs is required"),
        ({"dropout_rate": "0.95"}, r"dropout_rate is 0.95; it must be between 0.0 and 0.9"),
        ({"dropout_rate": "nan"}, "dropout_rate is 'nan'; it must be a number"),
        ({"learning_rate": "0"}, "learning_rate is 0.0; it must be above 0"),
        ({"gradient_clip": "inf"}, "gradient_clip is inf"),
        ({"time_freq": "W-FRI"}, "time_freq is 'W-FRI'; write a positive integer and one of"),
        ({"time_freq": "0D"}, "time_freq is '0D'"),
        ({"likelihood": "student"}, "did you mean 'student-t'"),
        ({"cardinality": "3"}, r"must be a JSON array such as \[2,3\]"),
        ({"cardinality": "[0]"}, "give positive counts"),
        ({"cardinality": "[1.5]"}, "entries must be whole numbers"),
        ({"cardinality": "all"}, "cardinality is 'all'"),
        ({"num_dynamic_feat": "0"}, "num_dynamic_feat is 0"),
        ({"test_quantiles": "[0.1, 1.0]"}, "above 0 and below 1"),
        ({"test_quantiles": "[]"}, "at least one number"),
        ({"early_stopping_patience": "0"}, "early_stopping_patience is 0"),
        ({"learning_rate_schedule": "step"}, "use one of constant, cosine"),
        ({"seed": "-1"}, "seed is -1"),
        ({"num_networks": "0"}, "num_networks is 0; it must be between 1 and 100"),
        ({"lag_skip": "yes"}, "lag_skip is 'yes'; use one of off, on"),
        ({"lag_skip": "on", "likelihood": "beta"}, "lag_skip is on with likelihood beta; it takes one of student-t"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ContractError, match=message):
        HyperParameters.parse(NEEDED | changes)


def test_contract_modules_import_without_torch():
    code = (
        "import sys; import forecast_platform.deepar as d; import forecast_platform.deepar.records;"
        "d.HyperParameters; d.read_records; assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
