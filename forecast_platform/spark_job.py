"""What EMR Serverless starts: the shards of one prediction, by Spark; Dagster's run is told of it by Pipes."""

from __future__ import annotations

import sys


def main() -> None:
    """With the prediction's address in S3 as its only argument."""
    from dagster_pipes import open_dagster_pipes
    from pyspark.sql import SparkSession

    from forecast_platform.engines.spark.cluster import Cluster
    from forecast_platform.engines.spark.emr import finish_shards
    from forecast_platform.settings import Settings

    with open_dagster_pipes() as pipes:
        SparkSession.builder.getOrCreate()  # as spark-submit set it up
        finish_shards(sys.argv[1], Cluster(Settings()), pipes.log.info)
