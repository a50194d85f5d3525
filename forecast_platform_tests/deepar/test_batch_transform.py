from __future__ import annotations

import json

import numpy as np
import pytest

from forecast_platform import deepar
from forecast_platform.deepar import ContractError, batch_transform, write_records


def test_one_object_a_line_in_order_with_the_default_configuration(model, series, tmp_path):
    write_records(series, tmp_path / "in.json")
    assert deepar.transform(model, tmp_path / "in.json", tmp_path / "out.json.out") == 12
    rows = [json.loads(line) for line in (tmp_path / "out.json.out").read_text().splitlines()]
    want = deepar.predict(model, series)
    assert [list(r) for r in rows] == [["mean", "quantiles"]] * 12
    assert list(rows[0]["quantiles"]) == [f"0.{q}" for q in range(1, 10)]
    assert np.array([r["mean"] for r in rows], dtype=np.float32) == pytest.approx(want.mean)
    assert np.array([r["quantiles"]["0.9"] for r in rows], dtype=np.float32) == pytest.approx(want.quantiles[:, 8])


def test_the_configuration_is_followed(model, series, tmp_path):
    write_records(series, tmp_path / "in.json")
    config = {"num_samples": 7, "output_types": ["quantiles", "samples"], "quantiles": ["0.5"]}
    deepar.transform(model, tmp_path / "in.json", tmp_path / "o", config, seed=2)
    row = json.loads((tmp_path / "o").read_text().splitlines()[3])
    assert list(row) == ["quantiles", "samples"]
    assert np.array(row["samples"]).shape == (7, 6)
    assert np.median(row["samples"], axis=0) == pytest.approx(row["quantiles"]["0.5"], rel=1e-5)


def test_blocks_do_not_change_the_bytes(model, series, tmp_path, monkeypatch):
    write_records(series, tmp_path / "in.json")
    deepar.transform(model, tmp_path / "in.json", tmp_path / "a")
    monkeypatch.setattr(batch_transform, "BLOCK", 5)
    deepar.transform(model, tmp_path / "in.json", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"start":"2010-02-05","target":[NaN],"cat":[0,0]}', "in.json line 13: bare NaN"),
        ('{"start":"2010-02-05","target":[1],"cat":[0,9]}', r"in.json line 13: cat\[1\] is 9; training saw 0 .. 3"),
    ],
)
def test_one_bad_line_fails_the_whole_file(model, series, tmp_path, line, message):
    write_records(series, tmp_path / "in.json")
    with open(tmp_path / "in.json", "a") as f:
        f.write(line + "\n")
    with pytest.raises(ContractError, match=message):
        deepar.transform(model, tmp_path / "in.json", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in.json"]


def test_a_failure_on_the_way_leaves_nothing(model, series, tmp_path, monkeypatch):
    write_records(series, tmp_path / "in.json")
    monkeypatch.setattr(batch_transform, "BLOCK", 5)
    calls = []
    original = batch_transform.predict

    def fail_second(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("disk full")
        return original(*args, **kwargs)

    monkeypatch.setattr(batch_transform, "predict", fail_second)
    with pytest.raises(OSError, match="disk full"):
        deepar.transform(model, tmp_path / "in.json", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"samples": 3}, "the inference configuration has 'samples'"),
        ({"num_samples": "3"}, "num_samples is '3'"),
        ({"quantiles": "0.5"}, "quantiles is '0.5'; it must be an array"),
        ({"output_types": ["median"]}, "output_types is"),
    ],
)
def test_bad_configurations_are_named(model, series, tmp_path, config, message):
    write_records(series, tmp_path / "in.json")
    with pytest.raises(ContractError, match=message):
        deepar.transform(model, tmp_path / "in.json", tmp_path / "out", config)
