"""What benchmarks.spark measures is a prediction with all of its files; test_engine.py holds Spark's to be the same."""

from __future__ import annotations

from benchmarks.spark import measured


def test_a_prediction_is_measured_and_its_files_are_known(model, shards, here):
    found = measured(model, shards, map)
    assert found["cpu_ms_a_series"] > 0
    assert found["tasks"] % len(shards) == 0 < found["tasks"] // len(shards)
    assert found["files"].keys() == here.keys()
