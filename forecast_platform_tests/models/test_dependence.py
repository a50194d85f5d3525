"""Joint sample paths: every series keeps its distribution, and sums of any kind vary as the past says they do."""

from __future__ import annotations

import dataclasses
import json
from statistics import NormalDist

import numpy as np
import pytest

from forecast_platform import kernels
from forecast_platform.deepar.randomness import mix
from forecast_platform.levels import LEVELS, SUMS, Level
from forecast_platform.models.calibration import Window
from forecast_platform.models.dependence import FADING, SHOCKS, USUAL, Dependence

QUANTILES = (0.1, 0.5, 0.9)
Z = np.array([NormalDist().inv_cdf(q) for q in QUANTILES])
SHARED = Dependence(
    {"total": 0.05, "store": 0.05, "dept": 0.10, "series": 0.45},
    {"total": 0.10, "store": 0.05, "dept": 0.05, "series": 0.15},
)


def retailer(stores: int, depts: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(stores), depts).astype(str), np.tile(np.arange(depts), stores).astype(str)


def ranks(of: Dependence, store, dept, horizon: int, samples: int, seed: int):
    """Which of its values, counted from the smallest, each path of the series takes in each week: (N, S, H)."""
    values = np.broadcast_to(np.arange(samples)[:, None], (len(store), samples, horizon))
    return of.arranged(values, store, dept, seed).astype(int)


def history(truth: Dependence, stores: int, depts: int, windows: int, horizon: int = 12, claimed: float = 1.0):
    """Backtests of a retailer whose errors are made by a dependence; each series is of a size of its own, and the model
    claims `claimed` times its spread."""
    store, dept = retailer(stores, depts)
    size = np.random.default_rng(1).lognormal(3, 0.5, len(store))[:, None]
    normal = np.array([NormalDist().inv_cdf((k + 0.5) / windows) for k in range(windows)])
    errors = normal[ranks(truth, store, dept, horizon, windows, seed=5)] / normal.std()
    quantiles = np.broadcast_to(
        100 * size[..., None] + claimed * size[..., None] * Z[:, None], (*size.shape[:1], 3, horizon)
    )
    mask = np.ones((len(store), horizon), bool)
    return [Window(100 * size + size * errors[:, s], mask, quantiles, size[:, 0], store, dept) for s in range(windows)]


def parts(found: Dependence) -> np.ndarray:
    return np.array([[found.passing[name], found.lasting[name]] for name in SHOCKS])


def test_paths_hold_every_value_of_the_marginals_once():
    store, dept = retailer(3, 4)
    samples = np.random.default_rng(0).gamma(2, 10, (12, 50, 5))
    paths = SHARED.arranged(samples, store, dept, seed=3)
    np.testing.assert_array_equal(np.sort(paths, axis=1), np.sort(samples, axis=1))
    dealt = ranks(SHARED, store, dept, 5, 50, seed=3)
    np.testing.assert_array_equal(np.sort(dealt, axis=1), np.broadcast_to(np.arange(50)[:, None], (12, 50, 5)))
    np.testing.assert_array_equal(paths.argsort(axis=1).argsort(axis=1), dealt)


def test_without_dependence_every_series_and_week_is_by_itself():
    """Whatever order the samples came in."""
    samples = np.sort(np.random.default_rng(0).random((12, 400, 5)), axis=1)
    found = Dependence().arranged(samples, *retailer(3, 4), seed=3)
    np.testing.assert_array_equal(np.sort(found, axis=1), samples)
    together = np.corrcoef(found.swapaxes(1, 2).reshape(60, 400))
    assert np.abs(together[~np.eye(60, dtype=bool)]).max() < 0.3


def test_pairs_of_series_and_weeks_are_as_alike_as_their_shocks_say():
    store, dept = retailer(2, 2)
    normal = np.array([NormalDist().inv_cdf((k + 0.5) / 4000) for k in range(4000)])
    scores = normal[ranks(SHARED, store, dept, 4, 4000, seed=1)]  # (4, S, 4)

    def alike(a: int, b: int, weeks: int = 0) -> float:
        return float(np.corrcoef(scores[a, :, 0], scores[b, :, weeks])[0, 1])

    assert alike(0, 3) == pytest.approx(0.15, abs=0.04)  # neither store nor department
    assert alike(0, 1) == pytest.approx(0.25, abs=0.04)  # one store
    assert alike(0, 2) == pytest.approx(0.30, abs=0.04)  # one department
    for weeks in (1, 3):
        assert alike(0, 0, weeks) == pytest.approx(0.35 * FADING**weeks, abs=0.04)
        assert alike(0, 2, weeks) == pytest.approx(0.15 * FADING**weeks, abs=0.04)


@pytest.mark.parametrize("level", [*SUMS, Level("region", of="store", values={"0": "n", "1": "n", "2": "s"})])
def test_sums_of_paths_spread_as_foretold(level: Level):
    store, dept = retailer(6, 8)
    widths = np.random.default_rng(2).lognormal(0, 1, (48, 1)) * np.array([1.0, 2.0])
    normal = np.array([NormalDist().inv_cdf((k + 0.5) / 2000) for k in range(2000)])
    paths = normal[ranks(SHARED, store, dept, 2, 2000, seed=0)] * widths[:, None]
    groups, group = level.groups(store, dept)
    sums = np.zeros((len(groups), 2000, 2))
    np.add.at(sums, group, paths)
    np.testing.assert_allclose(SHARED.spread(level, store, dept, widths), sums.std(axis=1), rtol=0.08)


def test_no_path_depends_on_which_other_series_are_drawn_or_in_which_order():
    store, dept = retailer(4, 5)
    samples = np.random.default_rng(0).random((20, 100, 6))
    whole = SHARED.arranged(samples, store, dept, seed=9)
    some = np.array([17, 3, 8])
    np.testing.assert_array_equal(SHARED.arranged(samples[some], store[some], dept[some], seed=9), whole[some])
    assert (SHARED.arranged(samples, store, dept, seed=10) != whole).any()


@pytest.mark.parametrize("claimed", [0.5, 1.0, 3.0])
def test_the_past_tells_how_much_is_shared_and_lasts_however_wide_the_intervals(claimed: float):
    found = Dependence.fit(history(SHARED, 20, 25, windows=60, claimed=claimed), QUANTILES)
    assert parts(found).sum() == pytest.approx(1)
    np.testing.assert_allclose(parts(found), parts(SHARED), atol=0.04)
    for level in SUMS:
        store, dept = retailer(20, 25)
        spreads = [each.spread(level, store, dept, np.ones((500, 1))).mean() for each in (found, SHARED)]
        assert spreads[0] == pytest.approx(spreads[1], rel=0.1)


def test_where_nothing_is_shared_many_windows_say_so():
    store, dept = retailer(20, 20)
    found = Dependence.fit(history(Dependence(), 20, 20, windows=20), QUANTILES)
    for level in SUMS:
        spread, alone = (each.spread(level, store, dept, np.ones((400, 1))).mean() for each in (found, Dependence()))
        assert spread == pytest.approx(alone, rel=0.15)
    assert sum(found.lasting.values()) < 0.03


def test_the_less_there_is_to_go_by_the_more_it_is_a_usual_retailer():
    usual = Dependence.fit([], QUANTILES)
    assert parts(usual)[:, 1].sum() == pytest.approx(USUAL[3, 1])
    assert parts(usual)[:3].sum() == pytest.approx(0.05 + 0.10 + 0.20)
    far = []
    for stores, depts, windows in ((1, 1, 2), (1, 5, 2), (2, 10, 2), (20, 20, 6)):
        found = Dependence.fit(history(Dependence(), stores, depts, windows), QUANTILES)
        far.append(float(np.abs(parts(found) - parts(usual))[:3].sum()))
    assert far == sorted(far)
    assert far[0] < 0.15  # of which nothing but the part that lasts could be seen
    assert far[-1] > 0.25


def test_one_store_learns_how_alike_its_departments_are():
    """There is no other store to tell the store's shock from the total's: what counts is their sum."""
    for truth, expected in ((SHARED, 0.25), (Dependence(), 0.0)):
        found = Dependence.fit(history(truth, 1, 60, windows=40), QUANTILES)
        assert parts(found)[:2].sum() == pytest.approx(expected, abs=0.03)


def test_cells_that_do_not_count_and_intervals_without_a_width_say_nothing():
    windows = history(SHARED, 5, 6, windows=8)
    asleep = [
        dataclasses.replace(
            w, y=np.where(np.arange(30)[:, None] < 6, 1e9, w.y), mask=w.mask & (np.arange(30)[:, None] >= 6)
        )
        for w in windows
    ]
    without = [Window(w.y[6:], w.mask[6:], w.quantiles[6:], w.volume[6:], w.store[6:], w.dept[6:]) for w in windows]
    np.testing.assert_allclose(parts(Dependence.fit(asleep, QUANTILES)), parts(Dependence.fit(without, QUANTILES)))
    points = [dataclasses.replace(w, quantiles=w.quantiles[:, [1, 1, 1]]) for w in windows]
    assert Dependence.fit(points, QUANTILES) == Dependence.fit([], QUANTILES)


@pytest.mark.parametrize(("horizon", "samples"), [(1, 1), (1, 10), (5, 1), (46, 2)])
def test_any_horizon_and_number_of_paths(horizon: int, samples: int):
    found = Dependence.fit(history(SHARED, 3, 3, windows=4, horizon=horizon), QUANTILES)
    assert ranks(found, *retailer(3, 3), horizon, samples, seed=0).shape == (9, samples, horizon)


def test_it_is_kept_as_json():
    assert Dependence(**json.loads(json.dumps(dataclasses.asdict(SHARED)))) == SHARED
    assert LEVELS[0].name == SHOCKS[-1]


@pytest.mark.parametrize(("names", "horizon", "paths"), [(0, 3, 4), (1, 1, 1), (5, 3, 7), (40, 12, 100)])
def test_the_compiled_loops_are_numpys_to_the_last_bit(names: int, horizon: int, paths: int):
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**63, names).astype(np.uint64)
    words, got = np.empty((names, horizon, paths), np.uint64), np.zeros((names, horizon, paths))
    kernels.random_words(keys, words)
    counter = (np.arange(horizon, dtype=np.uint64)[:, None] << np.uint64(32)) | np.arange(paths, dtype=np.uint64)
    assert np.array_equal(words, mix(mix(counter + np.uint64(1)) ^ keys[:, None, None]))
    order, normal, over_time = words.argsort(axis=2), rng.normal(size=paths), rng.normal(size=(horizon, horizon))
    kernels.add_over_time(order, normal, over_time, got)
    want = np.zeros_like(got)
    for week in range(horizon):
        for earlier in range(week + 1):
            want[:, week] += over_time[week, earlier] * normal[order][:, earlier]
    assert np.array_equal(got, want)
    ascending, dealt = rng.normal(size=(names, paths, horizon)), np.empty((names, paths, horizon))
    kernels.deal(ascending, order, dealt)
    assert np.array_equal(np.take_along_axis(dealt, order.swapaxes(1, 2), axis=1), ascending)
