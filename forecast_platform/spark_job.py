"""What EMR Serverless starts: the shards of one prediction, by Spark; Dagster's run is told of it by Pipes."""

from __future__ import annotations

import sys

from dagster_pipes import open_dagster_pipes

from forecast_platform.engines.spark.cluster import Cluster
from forecast_platform.engines.spark.emr import finish_shards
from forecast_platform.settings import Settings


def main() -> None:
    """With the prediction's address in S3 as its only argument, in the session that spark-submit set up."""
    with open_dagster_pipes() as pipes:
        finish_shards(sys.argv[1], Cluster(Settings(spark_master="")), pipes.log.info)
