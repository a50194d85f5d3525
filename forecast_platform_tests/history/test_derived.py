"""What is derived from a plan: by the kind of column, as of a cutoff, and the same for any number of shards."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math

import numpy as np
import pytest

from forecast_platform.history import derived
from forecast_platform.history.covariates import Covariates, Declaration, complete, ordered
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import over_shards
from forecast_platform_tests.history.conftest import FRIDAY, make_panel

WEEKS, H = 40, 3


@pytest.fixture(autouse=True)
def enough(monkeypatch):
    monkeypatch.setattr(derived, "ENOUGH", 6 * WEEKS)


def shop(seed: int = 0) -> Panel:
    """Two stores of three articles; a price, a promotion in one week of five, and rain, which nobody plans."""
    rng = np.random.default_rng(seed)
    panel = make_panel({(s, d): rng.uniform(5, 9, WEEKS).tolist() for s in "12" for d in "abc"})
    shape = (6, WEEKS + H + 2)
    values = [rng.uniform(2, 4, shape), rng.random(shape) < 0.2, rng.uniform(0, 9, shape)]
    declared = tuple(Declaration.parse(*item) for item in {"price": "known", "promo": "known", "rain": "past"}.items())
    return dataclasses.replace(panel, covariates=Covariates(declared, np.array(values, dtype=float)))


def named(panel: Panel) -> dict[str, np.ndarray]:
    return dict(zip(panel.covariates.names, panel.covariates.values, strict=True))


def with_column(values: np.ndarray, name: str = "price", known: bool = True) -> Panel:
    return dataclasses.replace(shop(), covariates=Covariates((Declaration(name, known),), values[None].astype(float)))


def test_prices_and_promotions_gain_what_planners_read_off_them():
    assert complete(shop(), H)[0].covariates.names == (
        "price", "promo", "rain", "price, to usual", "price, to rivals", "price, to usual, week before",
        "promo, week before", "promo, week after",
    )  # fmt: skip


def test_a_small_retailer_is_not_given_the_weeks_around_a_promotion(monkeypatch):
    monkeypatch.setattr(derived, "ENOUGH", 6 * WEEKS + 1)
    names = complete(shop(), H)[0].covariates.names
    assert names[3:] == ("price, to usual", "price, to rivals", "price, to usual, week before")


def test_a_price_is_measured_by_the_weeks_before_and_by_the_others_in_the_store():
    panel = shop()
    price = panel.covariates.values[0]
    got = named(complete(panel, H)[0])
    assert got["price, to usual"].shape == (6, WEEKS + H)
    np.testing.assert_array_equal(got["price, to usual"][:, 0], 0, "no week before")
    for i, t in ((0, 1), (4, 7), (2, 26), (5, 27), (1, WEEKS + H - 1)):
        usual = price[i, max(t - 26, 0) : t].mean()
        assert got["price, to usual"][i, t] == pytest.approx(math.log(price[i, t] / usual))
        others = [j for j in range(6) if panel.store[j] == panel.store[i] and j != i]
        rivals = np.log(price[others, t]).mean()
        assert got["price, to rivals"][i, t] == pytest.approx(math.log(price[i, t]) - rivals)
    np.testing.assert_array_equal(got["price, to usual, week before"][:, 1:], got["price, to usual"][:, :-1])


def test_a_promotion_stands_beside_the_weeks_around_it():
    panel = shop()
    got = named(complete(panel, H)[0])
    promo = panel.covariates.values[1, :, : WEEKS + H]
    np.testing.assert_array_equal(got["promo, week before"][:, 1:], promo[:, :-1])
    np.testing.assert_array_equal(got["promo, week after"][:, :-1], promo[:, 1:])
    np.testing.assert_array_equal(got["promo, week after"][:, -1], promo[:, -1], "what comes then nobody asked")


def test_a_price_of_nothing_is_no_price():
    prices = np.linspace(2, 3, 6 * (WEEKS + H)).reshape(6, -1)
    prices[0, 10] = prices[1, 10] = 0
    prices[3] = 0  # an article without prices
    got = named(complete(with_column(prices), H)[0])
    assert np.isfinite(list(got.values())).all()
    assert got["price, to usual"][0, 10] == got["price, to rivals"][0, 10] == got["price, to rivals"][2, 10] == 0
    assert got["price, to usual"][0, 11] == pytest.approx(math.log(prices[0, 11] / prices[0, :10].mean()))
    assert (got["price, to usual"][3] == 0).all()
    rivals = np.log(prices[5, 20])
    assert got["price, to rivals"][4, 20] == pytest.approx(math.log(prices[4, 20]) - rivals)


@pytest.mark.parametrize(("values", "known"), [
    (lambda rng, shape: rng.integers(5, 8, shape), True),  # open days: neither
    (lambda rng, shape: rng.normal(0, 9, shape), True),  # degrees: below 0
    (lambda rng, shape: np.zeros(shape), True),  # nothing planned ever
    (lambda rng, shape: rng.uniform(2, 4, shape), False),  # not known ahead
    (lambda rng, shape: rng.integers(0, 2, shape), False),
])  # fmt: skip
def test_of_others_nothing_is_derived(values, known):
    values = values(np.random.default_rng(1), (6, WEEKS + H))
    assert complete(with_column(values, "x", known), H)[0].covariates.names == ("x",)


def test_it_is_exactly_what_a_model_was_trained_on():
    panel = shop()
    trained = complete(panel, H)[0].covariates.names
    without = complete(panel, H, wanted=["price", "promo"])[0]
    assert without.covariates.names == ("price", "promo"), "a model of before this was derived"
    dear = dataclasses.replace(panel.covariates, values=panel.covariates.values * np.array([0, 1, 1])[:, None, None])
    assert complete(dataclasses.replace(panel, covariates=dear), H, wanted=trained)[0].covariates.names == trained
    with pytest.raises(ValueError, match="trained with price, which the features no longer hold"):
        complete(with_column(np.ones((6, WEEKS + H)), "promo"), H, wanted=["price", "promo", "price, to usual"])
    planned = complete(dataclasses.replace(panel, covariates=ordered(panel.covariates, ["price", "promo"])), H)[0]
    np.testing.assert_array_equal(complete(planned, H)[0].covariates.values, planned.covariates.values)


def test_as_of_a_cutoff_only_plans_count(monkeypatch):
    monkeypatch.setattr(derived, "ENOUGH", 0)
    panel, cutoff = shop(), FRIDAY + dt.timedelta(weeks=20)
    changed = panel.covariates.values.copy()
    changed[2, :, 21:] += 5  # rain, which was not known
    changed[:, :, 21 + H :] += 3  # what is planned for later than is asked
    other = dataclasses.replace(
        panel, sales=panel.sales.copy(), covariates=Covariates(panel.covariates.columns, changed)
    )
    other.sales[:, 21:] *= 9
    one, two = (complete(each.until(cutoff), H)[0].covariates for each in (panel, other))
    assert one.names == two.names
    np.testing.assert_array_equal(one.values, two.values)


@pytest.mark.parametrize("shards", [2, 3, 6])
def test_shards_say_the_same_to_the_last_bit(shards):
    panel = shop(7)
    whole = complete(panel, H)[0].covariates
    mixed = np.random.default_rng(1).permutation(6)  # so that stores are torn apart
    parts = [panel.select(np.isin(np.arange(6), rows)) for rows in np.array_split(mixed, shards)]
    found = list(over_shards(parts, lambda part, retailer: complete(part, H, retailer=retailer)[0]))
    for part in found:
        rows = [
            np.flatnonzero((panel.store == s) & (panel.dept == d))[0]
            for s, d in zip(part.store, part.dept, strict=True)
        ]
        assert part.covariates.names == whole.names
        np.testing.assert_array_equal(part.covariates.values, whole.values[:, rows])
