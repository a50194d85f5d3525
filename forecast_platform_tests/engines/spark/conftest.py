"""Spark as a cluster of two workers on this machine, each a JVM of its own with Python processes below it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
import pytest

from forecast_platform.engines.spark import Cluster
from forecast_platform.settings import Settings


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
        yield spark
        spark.session().stop()
