"""Mapping on Spark's workers: like `map`, whatever dies on the way."""

from __future__ import annotations

import os
import re

import pytest

from forecast_platform.engines.base import EngineError
from forecast_platform.engines.spark.cluster import Cluster
from forecast_platform.settings import Settings
from forecast_platform_tests.engines.spark import work
from forecast_platform_tests.engines.spark.work import Item


@pytest.fixture
def items(tmp_path) -> list[Item]:
    return [Item(number, tmp_path) for number in range(5)]


def doubled(cluster, items, how=work.doubled) -> list[int]:
    return list(cluster(how, items))


def test_outcomes_are_in_order_and_each_item_is_worked_on_once(cluster, items):
    assert doubled(cluster, items) == [0, 2, 4, 6, 8]
    assert [work.attempts(item) for item in items] == [1] * 5


def test_work_is_done_by_other_processes(cluster, items):
    found = list(cluster(work.process, items))
    assert os.getpid() not in {worker for worker, _ in found}
    assert os.getpid() not in {executor for _, executor in found}


def test_what_was_imported_is_not_searched_for_garbage_after_each_task(cluster, items):
    """That was nine tenths of what a small task took."""
    assert min(cluster(work.passed_over, items)) > 10_000


@pytest.mark.parametrize(("master", "quick"), [("local[*]", True), ("local-cluster[2,1,1024]", True), ("yarn", False)])
def test_java_options_are_ours_on_this_machine_and_a_clusters_are_its_own(master, quick):
    options = [f"spark.{of}.defaultJavaOptions" for of in ("driver", "executor")]
    found = Cluster(Settings(engine="spark", spark_master=master)).configuration()
    assert [name in found for name in options] == [quick, quick]
    said = Settings(engine="spark", spark_master=master, spark_conf={options[0]: "-Xss4m"})
    assert Cluster(said).configuration()[options[0]] == "-Xss4m"


def test_the_doctor_says_what_is_there(cluster):
    assert re.match(r"Spark 4\.\S+ at local-cluster\S+, whose workers have this platform and Python 3", cluster.about())


def test_nothing_to_do(cluster):
    assert doubled(cluster, []) == []


def test_what_is_mapped_may_be_a_closure(cluster, items):
    assert list(cluster(lambda item: item.number + len(items), items)) == [5, 6, 7, 8, 9]


@pytest.mark.kill
@pytest.mark.parametrize("how", [work.kills_its_worker, work.kills_its_executor], ids=lambda how: how.__name__)
def test_a_process_killed_midway_changes_nothing(cluster, items, how):
    assert doubled(cluster, items, how) == [0, 2, 4, 6, 8]
    assert work.attempts(items[1]) == 2


def test_what_fails_for_a_while_is_tried_again(cluster, items):
    assert doubled(cluster, items, work.fails_once) == [0, 2, 4, 6, 8]
    assert [work.attempts(item) for item in items] == [1, 2, 1, 1, 1], "and its neighbours are left alone"


def test_what_goes_on_failing_is_named(cluster, items):
    with pytest.raises(EngineError, match="the folder is away for good"):
        doubled(cluster, items, work.always_fails)
    assert work.attempts(items[1]) == 4


def test_data_that_cannot_be_forecast_is_said_as_it_is_and_not_tried_again(cluster, items):
    with pytest.raises(ValueError, match=r"^promo has no value for the week of 2024-05-03$"):
        doubled(cluster, items, work.refuses)
    assert work.attempts(items[1]) == 1
