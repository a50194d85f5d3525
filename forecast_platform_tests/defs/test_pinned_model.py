"""A pinned model serves instead of training: the rule, and the graph under it."""

from __future__ import annotations

import datetime as dt

import pytest

from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform.models.pinning import PinRefused, pinned_training
from forecast_platform_tests.conftest import weeks_of
from forecast_platform_tests.defs.graph import Graph

W = [dt.date(2025, 1, 3) + dt.timedelta(weeks=i) for i in range(4)]
MODELS = [
    {"version": "a", "trained_as_of": W[0], "training_digest": "ta"},
    {"version": "a", "trained_as_of": W[0], "training_digest": "ta"},
    {"version": "b", "trained_as_of": W[2], "training_digest": "tb"},
]


def test_a_version_is_found_for_its_week_and_later_ones():
    assert [pinned_training(MODELS, "a", week) for week in W] == ["ta"] * 4
    assert pinned_training(MODELS, "b", W[2]) == "tb"


def test_a_model_that_knows_the_future_is_refused_and_others_are_named():
    with pytest.raises(
        PinRefused, match=r"b was trained as of 2025-01-17 .* there are: a \(trained as of 2025-01-03\)"
    ):
        pinned_training(MODELS, "b", W[1])


def test_an_unknown_version_is_refused_and_the_known_are_named():
    with pytest.raises(PinRefused, match=r"'x' is not in the models table; for 2025-01-24 there are: a .*, b "):
        pinned_training(MODELS, "x", W[3])
    with pytest.raises(PinRefused, match="there are: none"):
        pinned_training([], "x", W[3])


def test_a_run_forecasts_with_the_pinned_model_and_never_with_one_of_the_future(
    with_forecast: Graph, retailer: MadeUpRetailer
):
    graph, (before, week) = with_forecast, weeks_of(retailer)[-4:-2]
    graph.platform.settings = graph.platform.settings.model_copy(update={"retrain_every_weeks": 1})
    graph.land(dict([week_file(retailer, week)]))
    assert graph.week(week).success
    old, new = (row["version"] for row in graph.lake.read("models").sort_by("week").to_pylist())
    assert old != new

    assert graph.run("weekly_forecast", week, tags={"forecast/model": old}).success
    row = graph.lake.read("models").sort_by("week").to_pylist()[-1]
    assert (row["week"], row["version"], row["trained_as_of"]) == (week, old, before)
    assert row["why"].startswith("pinned by forecast/model; when trained: ")
    served = graph.lake.query(f"SELECT DISTINCT model_version v FROM forecasts WHERE forecast_week = DATE '{week}'")
    assert served.to_pylist() == [{"v": old}]

    graph.platform.settings = graph.platform.settings.model_copy(update={"model_name": "unheard"})
    failed = graph.week(week, only=["deepar_model"])
    assert f"'unheard' is not in the models table; for {week} there are: {old}" in failed.failures["deepar_model"]
    # The new one left the table when its week was pinned to the old; make it again to ask for it too early.
    graph.platform.settings = graph.platform.settings.model_copy(update={"model_name": ""})
    assert graph.week(week, only=["deepar_model"]).success
    failed = graph.run("weekly_forecast", before, ["deepar_model"], {"forecast/model": new})
    assert f"the pinned model {new} was trained as of {week}" in failed.failures["deepar_model"]
