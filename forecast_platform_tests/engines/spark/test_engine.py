"""Spark forecasts what one process forecasts, to the last bit, whatever dies on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from forecast_platform.engines.base import EngineError, predict_here, split
from forecast_platform.engines.predictions import Predictions, write_shard, written_shard
from forecast_platform.engines.spark.cluster import SparkEngine
from forecast_platform.settings import Settings
from forecast_platform_tests.engines.spark.conftest import contents
from forecast_platform_tests.engines.spark.work import executor
from forecast_platform_tests.engines.test_predictions import ASKED, retailer


def test_the_forecasts_are_those_of_one_process_byte_for_byte(cluster, model, shards, here, tmp_path):
    told: list[Any] = []
    spark = SparkEngine(Settings(engine="spark"))
    made, notices = spark.predict(model, shards, tmp_path / "week", ASKED, lambda *step: told.append(step))
    assert contents(made) == here
    assert len(here) == 2 * 4 + 1
    assert (notices, told[-1]) == ((), ("predict", 4, 4))
    assert [path.name for path in tmp_path.iterdir()] == ["week"], "nothing else is left"


def test_series_in_memory_are_sent_with_their_tasks(cluster, model, here, tmp_path):
    made, _ = SparkEngine(Settings(engine="spark")).predict(model, split(retailer(), 4), tmp_path / "week", ASKED)
    assert contents(made) == here


def test_one_shard_needs_no_cluster(model, tmp_path):
    settings = Settings(engine="spark", spark_master="spark://nowhere:7077")
    made, _ = SparkEngine(settings).predict(model, [retailer()], tmp_path / "week", ASKED)
    assert made.series == len(retailer())


class Deadly:
    """The step of a prediction; one attempt at shard 1 does harm once it has written its files."""

    def __init__(self, step: Any, marker: Path, how: str) -> None:
        self.step, self.marker, self.how = step, marker, how

    def __call__(self, shard: Any, retailer: Any) -> Any:
        said = self.step(shard, retailer)
        if shard[0] == 1 and not self.marker.exists():
            self.marker.touch()
            if self.how == "fails":
                raise OSError("the answer is lost")
            os.kill(executor() if self.how == "executor killed" else os.getpid(), signal.SIGKILL)
        return said


@pytest.mark.kill
@pytest.mark.parametrize("how", ["fails", "worker killed", "executor killed"])
def test_a_task_that_has_written_and_is_tried_again_publishes_once(cluster, model, shards, here, tmp_path, how):
    marker = tmp_path / "marker"

    def harmed(work, attempts):
        return cluster(work, [dataclasses.replace(each, step=Deadly(each.step, marker, how)) for each in attempts])

    made, _ = predict_here(model, shards, tmp_path / "week", ASKED, run=harmed)
    assert marker.exists()
    assert contents(made) == here


def test_an_attempt_that_dies_while_it_writes_leaves_what_another_one_wrote(model, tmp_path, monkeypatch):
    """As when Spark tries a slow task a second time beside the first, and ends one of them."""
    made, _ = predict_here(model, [retailer()], tmp_path / "week", ASKED)
    [forecast] = made.shards(ASKED.quantiles, 4)
    building = tmp_path / "building"
    building.mkdir()
    said = write_shard(building, 0, forecast, ASKED.quantiles)

    def dies(table, where, **how):
        Path(where).write_bytes(b"PAR1 half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shard(building, 0, forecast, ASKED.quantiles)
    assert written_shard(building, 0) == said
    for name, digest in said["files"].items():
        assert hashlib.sha256((building / name).read_bytes()).hexdigest() == digest
    published = Predictions.finish(building, tmp_path / "again", [said], ASKED.quantiles, 4, "m", "now")
    assert sorted(contents(published)) == ["predictions.json", "series-000.parquet", "sums-000.parquet"]


def test_workers_of_another_version_are_refused(cluster, model, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("forecast_platform.engines.spark.cluster.source_digest", lambda: "another")
    with pytest.raises(EngineError, match="Spark's workers have another version of the platform"):
        SparkEngine(Settings(engine="spark")).predict(model, shards, tmp_path / "week", ASKED)


def test_what_cannot_be_forecast_is_said_as_in_one_process(cluster, model, tmp_path):
    without = [dataclasses.replace(part, covariates=None) for part in split(retailer(), 2)]
    with pytest.raises(ValueError, match="the model was trained with promo, which the features no longer hold"):
        SparkEngine(Settings(engine="spark")).predict(model, without, tmp_path / "week", ASKED)
