"""From panel to records: ragged targets, dense codes, and a digest that sees every change."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import numpy as np
import pytest

from forecast_platform.deepar import ContractError
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.holidays import Event
from forecast_platform.models.encoding import Categories, digest, ragged, to_series_set
from forecast_platform_tests.history.conftest import FRIDAY, make_panel


def test_codes_are_dense_and_in_natural_order(panel):
    categories = Categories.of(panel)
    assert categories == Categories(("2", "10"), ("1", "2", "10", "x"))
    codes = categories.encode(panel)
    assert codes.tolist() == [[0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    for column, names in zip(codes.T, (categories.stores, categories.depts), strict=True):
        assert set(column) == set(range(len(names))), "every code occurs in training"


def test_names_the_model_never_saw_get_the_code_after_the_last(panel):
    categories = Categories.of(panel.select(panel.store == "2"))
    assert categories.encode(panel).tolist() == [[0, 0], [0, 1], [0, 2], [1, 3], [1, 0]]


def test_categories_go_through_json(panel):
    categories = Categories.of(panel)
    assert Categories.from_json(json.loads(json.dumps(categories.to_json()))) == categories


def test_each_series_runs_from_its_first_week_to_the_cutoff(panel):
    values, indptr = ragged(panel)
    for i in range(len(panel)):
        np.testing.assert_array_equal(values[indptr[i] : indptr[i + 1]], panel.sales[i, panel.first[i] :])
    assert indptr[-1] == len(values)


def test_the_series_set_says_the_same(panel):
    series = to_series_set(panel, Categories.of(panel))
    for i in range(len(panel)):
        np.testing.assert_array_equal(series.target(i), panel.sales[i, panel.first[i] :].astype(series.target(i).dtype))
        assert series.start[i].astype("datetime64[D]") == panel.weeks[panel.first[i]]
    assert {int(start.astype("datetime64[D]").astype(int) + 3) % 7 for start in series.start} == {4}, "Fridays"
    np.testing.assert_array_equal(series.cat, Categories.of(panel).encode(panel))


def test_equal_content_has_an_equal_digest(panel):
    copy = dataclasses.replace(panel, sales=panel.sales.copy(order="F"), weeks=panel.weeks.astype("datetime64[s]"))
    assert digest(panel, "a") == digest(copy, "a")
    assert len(digest(panel)) == 20


@pytest.mark.parametrize("change", [
    lambda p: dataclasses.replace(p, sales=np.where(np.arange(12) == 3, np.nextafter(p.sales, 1e9), p.sales)),
    lambda p: dataclasses.replace(p, sales=np.where(np.arange(12) == 3, np.nan, p.sales)),
    lambda p: dataclasses.replace(p, weeks=p.weeks + 7),
    lambda p: dataclasses.replace(p, store=np.array(["2", "2", "2", "10", "11"])),
    lambda p: dataclasses.replace(p, dept=np.array(["2", "10", "x", "1", "3"])),
    lambda p: dataclasses.replace(p, store=p.dept, dept=p.store),
    lambda p: p.select(np.arange(5) != 2),
    lambda p: p.until(p.weeks[-2]),
])  # fmt: skip
def test_any_change_of_the_panel_changes_the_digest(panel, change):
    assert digest(change(panel)) != digest(panel)


def test_context_is_part_of_the_digest(panel):
    digests = [digest(panel), digest(panel, ""), digest(panel, "ab"), digest(panel, "a", "b"), digest(panel, "b", "a")]
    assert len(set(digests)) == 5


def test_names_cannot_run_into_each_other():
    one = make_panel({("1", "12"): [1.0], ("2", "1"): [2.0]})
    other = dataclasses.replace(one, dept=np.array(["1", "21"]))
    assert digest(one) != digest(other)


@pytest.mark.parametrize("ahead", [0, 3])
def test_features_start_with_their_series_and_reach_as_far_as_given(panel, ahead):
    features = np.arange(2 * 5 * (12 + ahead), dtype=float).reshape(2, 5, 12 + ahead)
    series = to_series_set(panel, Categories.of(panel), features)
    assert series.num_dynamic_feat == 2
    for i in range(len(panel)):
        np.testing.assert_array_equal(series.features(i), features[:, i, panel.first[i] :])
        assert series.features(i).shape[1] == len(series.target(i)) + ahead


@pytest.mark.parametrize("features", [None, np.zeros((0, 5, 12))])
def test_without_features_there_are_none(panel, features):
    assert to_series_set(panel, Categories.of(panel), features).dynamic_feat is None


def test_a_gap_in_the_features_is_refused(panel):
    features = np.zeros((1, 5, 12))
    features[0, 2, 4] = np.nan
    with pytest.raises(ContractError, match="series 2: dynamic_feat has a missing or infinite value at position 4"):
        to_series_set(panel, Categories.of(panel), features)


class TestDigestOfWhatElseIsKnown:
    @pytest.fixture
    def rich(self, panel):
        values = np.arange(2 * 5 * 15, dtype=float).reshape(2, 5, 15)
        columns = (Declaration("promo"), Declaration("rain", known=False))
        days = Covariates((Declaration("open_days"),), np.full((1, 5, 15), 6.0))
        last = panel.weeks[-1].astype(dt.date)
        event = Event("Sale", (FRIDAY, last, last + dt.timedelta(days=350)), 2, 0)
        return dataclasses.replace(panel, covariates=Covariates(columns, values), exposure=days, events=(event,))

    @pytest.mark.parametrize("week", [0, 11])
    @pytest.mark.parametrize("part", ["covariates", "exposure"])
    def test_a_value_of_the_history_counts(self, rich, part, week):
        given = getattr(rich, part)
        values = given.values.copy()
        values[0, 1, week] += 1
        assert digest(dataclasses.replace(rich, **{part: Covariates(given.columns, values)})) != digest(rich)

    @pytest.mark.parametrize("part", ["covariates", "exposure"])
    def test_a_later_plan_does_not(self, rich, part):
        given = getattr(rich, part)
        values = given.values.copy()
        values[:, :, 12:] += 1
        assert digest(dataclasses.replace(rich, **{part: Covariates(given.columns, values[..., :14])})) == digest(rich)

    def test_what_a_column_is_used_as_counts(self, rich):
        columns = (Declaration("promo", fill=0.0), Declaration("rain", known=False))
        changed = dataclasses.replace(rich, covariates=Covariates(columns, rich.covariates.values))
        assert digest(changed) != digest(rich)

    def test_the_presence_of_each_part_counts(self, rich):
        parts = [rich, *(dataclasses.replace(rich, **{n: None}) for n in ("covariates", "exposure", "events"))]
        assert len({digest(part) for part in parts}) == 4

    def test_an_event_counts_when_it_bears_on_the_weeks(self, rich):
        (event,) = rich.events
        week = dt.timedelta(days=7)
        later = dataclasses.replace(event, dates=(*event.dates[:2], event.dates[2] + week))
        near = dataclasses.replace(event, dates=(*event.dates[:2], event.dates[1] + 2 * week))
        assert digest(dataclasses.replace(rich, events=(later,))) == digest(rich)
        assert digest(dataclasses.replace(rich, events=(near,))) != digest(rich)
