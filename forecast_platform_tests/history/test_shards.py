"""Sums that do not depend on the order of what is added, and steps that do not depend on the number of shards."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.history.shards import WHOLE, Groups, Retailer, Rounds, Sums, over_shards

sales = st.floats(-1e9, 1e9).map(lambda x: round(x, 2))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(sales, st.sampled_from("abc")), min_size=1, max_size=60), cut=st.integers(0, 60))
def test_sums_are_exact_in_any_order_and_partition(rows, cut):
    values, names = np.array([v for v, _ in rows]), np.array([n for _, n in rows])
    whole = Sums.of(Groups.of(names), values)
    mixed = np.random.default_rng(cut).permutation(len(rows))
    again = Sums.of(Groups.of(names[mixed]), values[mixed])
    np.testing.assert_array_equal(again.values, whole.values)
    cut = min(max(cut, 1), len(rows) - 1)
    if cut:
        parts = Sums.of(Groups.of(names[:cut]), values[:cut]) + Sums.of(Groups.of(names[cut:]), values[cut:])
        assert parts.names.tolist() == whole.names.tolist()
        np.testing.assert_array_equal(parts.values, whole.values)
    for name, total in zip(whole.names, whole.values, strict=True):
        assert total == pytest.approx(math.fsum(values[names == name]), rel=1e-15, abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e16])
def test_what_cannot_be_added_exactly_is_refused(bad):
    with pytest.raises(ValueError, match="can't be added exactly; give sales in a larger unit"):
        Sums.of(Groups.one(2), np.array([1.0, bad]))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), shards=st.integers(1, 5))
def test_the_median_is_numpys(values, shards):
    parts = [part for part in np.array_split(np.array(values), shards) if len(part)]
    assert set(over_shards(parts, lambda part, retailer: retailer.median(part))) == {float(np.median(values))}


def test_there_is_no_median_of_nothing():
    assert WHOLE.median(np.zeros(0)) is None


def test_what_is_made_once_is_kept_by_key_and_only_where_asked():
    kept, made = Retailer(keeps=True), []

    def make():
        made.append(1)
        return len(made)

    assert [kept.once("a", make), kept.once("a", make), kept.once("b", make)] == [1, 1, 2]
    assert [Retailer().once("a", make), Retailer([]).once("a", make)] == [3, 4]


class TestSteps:
    """A step that asks three times, each time for what the last answer made of it."""

    ROWS = np.arange(50)

    @staticmethod
    def step(rows, retailer: Retailer):
        store = Groups.of((rows % 7).astype(str))
        cells = np.sin(rows)[:, None] * [1.0, 1e6]
        by_store, count = retailer.sums((store, cells), (Groups.one(len(rows)), np.ones(len(rows), dtype=int)))
        share = cells / by_store[store.member]
        middle = retailer.median(share[:, 0])
        [every] = retailer.every((store, share**2))
        return np.concatenate([share * middle, np.full((len(rows), 1), every.values.sum() / count[0])], axis=1)

    @pytest.mark.parametrize("on_disk", [False, True])
    @pytest.mark.parametrize("shards", [1, 2, 7, 50])
    def test_results_are_those_of_the_whole_to_the_last_bit(self, shards, on_disk, tmp_path):
        whole = self.step(self.ROWS, WHOLE)
        mixed = np.random.default_rng(3).permutation(50)
        folder = tmp_path if on_disk else None
        parts = list(over_shards(np.array_split(mixed, shards), self.step, folder=folder))
        np.testing.assert_array_equal(np.concatenate(parts), whole[mixed])

    def test_no_shards_no_results(self):
        assert list(over_shards([], self.step)) == []

    def test_one_shard_is_one_pass(self):
        calls = []
        list(over_shards([self.ROWS], lambda rows, retailer: (calls.append(1), self.step(rows, retailer))))
        assert len(calls) == 1

    def test_what_a_shard_has_worked_out_it_keeps(self, tmp_path):
        made = []

        def step(rows, retailer: Retailer):
            def inner():
                made.append(("inner", rows[0]))
                return (np.sqrt(rows),)

            def outer():
                [roots] = retailer.keep(inner)
                total = retailer.total(roots)
                made.append(("outer", rows[0]))
                return roots / total, np.array(["of", "text"])

            shares, _ = retailer.keep(outer)
            middle = retailer.median(shares)
            [after] = retailer.keep(lambda: (shares - middle,))
            return after * retailer.total(after**2)

        whole = step(self.ROWS, WHOLE)
        made.clear()
        parts = list(over_shards(np.array_split(self.ROWS, 3), step, folder=tmp_path))
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert sorted(made) == sorted((what, first) for what in ("inner", "outer") for first in (0, 17, 34))

    def test_a_killed_one_goes_on_with_the_sums_and_work_that_are_there(self, tmp_path):
        whole = self.step(self.ROWS, WHOLE)
        parts = np.array_split(self.ROWS, 4)
        for calls in range(1, 40):  # die later and later
            count = iter(range(calls))

            def run(work, items, count=count):
                for item in items:
                    if next(count, None) is None:
                        raise KeyboardInterrupt
                    yield work(item)

            try:
                found = list(over_shards(parts, self.step, run, tmp_path))
                break
            except KeyboardInterrupt:
                continue
        assert calls < 16  # one undisturbed takes 4 rounds of 4 shards; the last of those before need not be repeated
        np.testing.assert_array_equal(np.concatenate(found), whole)


def test_of_a_median_no_more_is_kept_than_it_takes(tmp_path):
    values = np.random.default_rng(1).normal(size=1000)
    parts = np.array_split(values, 7)
    found = set(over_shards(parts, lambda part, retailer: retailer.median(part), folder=tmp_path))
    assert found == {float(np.median(values))}
    [[kept]] = Rounds.at(tmp_path / "sums")
    assert len(kept.names) == 2


def test_sums_that_lack_a_shard_are_not_added_up(tmp_path):
    """A shard that does not ask, beside one that waits: what is known is of another step."""

    def step(rows, retailer: Retailer, asks_nothing: int):
        return 0.0 if rows[0] == asks_nothing else float(retailer.total(rows))

    for first in (0, 5):
        with pytest.raises(RuntimeError, match="shards wait for sums that others no longer ask for"):
            list(over_shards(np.array_split(np.arange(10), 2), partial(step, asks_nothing=first), folder=tmp_path))
