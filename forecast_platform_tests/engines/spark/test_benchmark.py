"""What benchmarks.spark measures is the same prediction, here and on workers."""

from __future__ import annotations

from benchmarks.spark import measured
from forecast_platform.engines.spark.cluster import Cluster
from forecast_platform.settings import Settings


def test_one_process_is_measured_and_its_files_are_known(model, shards, here):
    found = measured(model, shards, map)
    assert found["cpu_ms_a_series"] > 0
    assert found["files"].keys() == here.keys()


def test_spark_is_measured_with_its_workers_and_writes_the_same_files(cluster, model, shards):
    spark = measured(model, shards, Cluster(Settings(engine="spark")))
    assert spark["files"] == measured(model, shards, map)["files"]
    assert spark["cpu_ms_a_series"] > 0
