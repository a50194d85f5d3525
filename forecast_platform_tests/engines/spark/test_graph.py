"""FORECAST_ENGINE=spark on a home: nothing else in the graph changes, and no row."""

from __future__ import annotations

from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL, contents, weeks_of
from forecast_platform_tests.defs.graph import Graph


def test_a_week_forecast_by_spark_is_the_week_forecast_here(cluster, with_history, retailer):
    week = weeks_of(retailer)[-4]
    done = with_history.week(week)
    assert done.success, done.failures
    before = contents(with_history.lake)
    assert len(before["forecasts"]) == 80
    spark = Graph(Settings(**SMALL, engine="spark", transform_shards=3))
    again = spark.week(week, only=["batch_predictions", "forecast_table"])
    assert again.success, again.failures
    assert again.metadata("batch_predictions")["shards"] == 3
    assert contents(spark.lake) == before
