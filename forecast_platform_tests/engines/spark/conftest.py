"""Spark as a cluster of two workers on this machine, each a JVM of its own with Python processes below it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from forecast_platform.engines.base import Shard, predict_here, split
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import Predictions
from forecast_platform.engines.spark.cluster import Cluster
from forecast_platform.history.panel_file import save_panel
from forecast_platform.models import trained as module
from forecast_platform.models.blend import Blend
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.choose import Choice, Judgement
from forecast_platform.models.registry import plans
from forecast_platform.models.trained import TrainedModel
from forecast_platform.settings import Settings
from forecast_platform_tests.engines.test_predictions import ASKED, SMALL, retailer


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Its session is the process's: whoever asks for one gets this."""
    pytest.importorskip("pyspark", reason="the extra `spark` is not installed: make spark")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17")
    quick = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # they live for seconds
    conf = {
        "spark.driver.extraJavaOptions": quick,
        "spark.executor.extraJavaOptions": quick,
        "spark.executor.memory": "512m",
        "spark.ui.enabled": "false",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_WORKER_DIR", str(tmp_path_factory.mktemp("workers")))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_PYTHON", "")  # as it was, when this is over
        spark = Cluster(Settings(engine="spark", spark_master="local-cluster[2,1,1024]", spark_conf=conf))
        session = spark.session()
        yield spark
        session.stop()


# A network, and what is summed over all shards in some rounds.
BLEND = Blend.by({"sales": 0.6, "recent_level": 0.4})


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> TrainedModel:
    settings = [Settings(context_length=4, prediction_length=4, target=name, hyperparameters=SMALL)
                for name in BLEND.names]  # fmt: skip
    given = {name: parameters for each in settings for name, parameters in plans(each).items()}
    choice = Choice(BLEND, Judgement("unjudged", "played"), Calibration(((1.5, 1.2),), ()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose", lambda *_: choice)
        return LocalEngine(tmp_path_factory.mktemp("models")).train(retailer(), given)


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> list[Shard]:
    place = tmp_path_factory.mktemp("shards")
    return [save_panel(part, place / str(number)).parent for number, part in enumerate(split(retailer(), 4))]


@pytest.fixture(scope="session")
def here(model, shards, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of it."""
    return contents(predict_here(model, shards, tmp_path_factory.mktemp("here") / "week", ASKED)[0])


def contents(made: Predictions) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(made.folder.iterdir())}
