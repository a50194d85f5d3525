"""Covariates: declared in words, on the panel's grid, never from after the cutoff, without a gap; and exposure."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform.history.covariates import (
    PLANNED,
    Covariates,
    Declaration,
    Declarations,
    attach,
    complete,
    describe,
    divide_exposure,
    exposure_ahead,
    multiply_exposure,
)
from forecast_platform.history.panel import Panel
from forecast_platform.landing.kinds import FEATURES_SCHEMA
from forecast_platform.weeks import WEEK
from forecast_platform_tests.history.conftest import FRIDAY, make_panel

H = 3
NAN = np.nan
RULE = 'declare in the setting covariates what a missing value means: promo = "known:0" or "known:last"'


def features(*rows: tuple, first: dt.date = FRIDAY) -> pa.Table:
    """Rows of (store, dept or None, week number, name, value or None)."""
    names = ("store", "dept", "week", "name", "value")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    schema = pa.schema([FEATURES_SCHEMA.field(name) for name in names])
    return pa.Table.from_pylist([r | {"week": first + r["week"] * WEEK} for r in found], schema=schema)


def by_week(name: str, values, store: str = "1", dept: str | None = None, since: int = 0) -> list[tuple]:
    return [(store, dept, since + w, name, None if x != x else x) for w, x in enumerate(values)]


def two_stores(weeks: int = 6, first: dt.date = FRIDAY) -> Panel:
    return make_panel({(s, d): [10.0] * weeks for s in ("1", "2") for d in ("a", "b")}, first)


def declared(**columns: str) -> Declarations:
    return Declarations.of(columns)


def ready(panel: Panel, rows, declarations: Declarations, horizon: int = H, **kwargs):
    return complete(attach(panel, features(*rows), declarations), horizon, **kwargs)


class TestDeclaring:
    @pytest.mark.parametrize(("text", "known", "fill"), [
        ("known", True, None), ("known:0", True, 0.0), ("known:-1.5", True, -1.5), ("known:last", True, "last"),
        ("past", False, None), ("past:0", False, 0.0), ("past:last", False, "last"), (" Known:Last ", True, "last"),
    ])  # fmt: skip
    def test_words(self, text, known, fill):
        assert Declaration.parse(" Promo ", text) == Declaration("promo", known, fill)

    @pytest.mark.parametrize(
        "text", ["", "knwon", "known:", "known:next", "known:nan", "known:inf", "past=0", "known:0:1"]
    )
    def test_other_words_are_refused_by_column_and_with_what_to_write(self, text):
        with pytest.raises(ValueError, match=r"promo is declared as .*write known, known:0") as error:
            Declarations.of({"promo": text})
        assert repr(text) in str(error.value)

    def test_planned_columns_are_known_and_open_days_the_exposure_where_nothing_is_declared(self):
        covariates, exposure = Declarations.of("auto").among(["temperature", "price", "open_days", "cpi", "fuel_price"])
        assert [(c.name, c.known, c.declared) for c in covariates] == [
            ("open_days", True, False),
            ("price", True, False),
        ]
        assert [c.name for c in exposure] == ["open_days"]

    @pytest.mark.parametrize("nothing", ["none", {}])
    def test_everything_can_be_turned_off(self, nothing):
        assert Declarations.of(nothing).among(["promo", "open_days"]) == ((), ())

    def test_what_is_declared_is_all_that_is_used(self):
        covariates, exposure = declared(rain="past").among(["rain", "promo", "open_days"])
        assert [c.name for c in covariates] == ["rain"]
        assert exposure == ()

    def test_an_exposure_of_ones_own_and_its_fill_rule(self):
        covariates, exposure = Declarations.of({"days": "known:6"}, "Days").among(["days"])
        assert covariates == exposure == (Declaration("days", True, 6.0),)
        covariates, exposure = Declarations.of("none", "days").among(["days", "promo"])
        assert covariates == ()
        assert exposure == (Declaration("days"),)
        assert Declarations.of("auto", "none").among(["open_days"])[1] == ()

    def test_an_exposure_known_only_in_the_past_is_refused(self):
        with pytest.raises(ValueError, match="days is the exposure and must be known ahead"):
            Declarations.of({"days": "past"}, "days")

    def test_a_declared_column_that_did_not_land(self):
        with pytest.raises(
            ValueError, match=r"promo is not among the features: the columns that landed are price, rain"
        ):
            declared(promo="known:0").among(["rain", "price"])
        with pytest.raises(ValueError, match="promo is not among the features: no features landed yet; land it"):
            declared(promo="known").among([])
        covariates, _ = declared(promo="known:0").among([])
        assert covariates[0].fill == 0, "before anything has landed the fill rule stands in"

    def test_planned_names_are_as_the_contract_writes_them(self):
        assert list(PLANNED) == [name.strip().lower() for name in PLANNED]
        assert len(set(PLANNED)) == len(PLANNED)
        assert not {"temperature", "fuel_price", "cpi", "unemployment", "is_holiday"} & set(PLANNED)


class TestAttaching:
    def test_a_store_value_goes_to_its_departments_and_a_departments_own_value_wins(self):
        panel = two_stores(3)
        rows = [("1", None, 0, "promo", 1.0), ("1", "b", 0, "promo", 2.0), ("2", "a", 1, "promo", 3.0),
                ("1", "b", 1, "promo", None), ("1", None, 1, "promo", 4.0), ("9", None, 0, "promo", 5.0),
                ("1", "z", 0, "promo", 6.0), ("1", None, 0, "rain", 7.0), ("2", None, 4, "promo", 8.0)]  # fmt: skip
        got = attach(panel, features(*rows), declared(promo="known")).covariates
        assert got.names == ("promo",)
        np.testing.assert_array_equal(got.values[0], [
            [1, 4, NAN, NAN, NAN], [2, 4, NAN, NAN, NAN], [NAN, 3, NAN, NAN, 8], [NAN, NAN, NAN, NAN, 8],
        ])  # fmt: skip

    def test_columns_come_in_the_order_declared_and_weeks_before_the_panel_are_left(self):
        panel = two_stores(2)
        rows = [*by_week("b", [1, 2, 3], since=-1), *by_week("a", [4, 5])]
        got = attach(panel, features(*rows), declared(b="known", a="past")).covariates
        assert got.names == ("b", "a")
        assert got.known.tolist() == [True, False]
        np.testing.assert_array_equal(got.values[:, 0], [[2, 3], [4, 5]])

    @pytest.mark.parametrize("first", [dt.date(2024, 1, 5), dt.date(2024, 1, 7), dt.date(2024, 1, 3)])
    def test_whatever_day_a_week_ends_on(self, first):
        panel = two_stores(3, first)
        got = attach(panel, features(*by_week("promo", [1, 2, 3, 4]), first=first), Declarations())
        np.testing.assert_array_equal(got.covariates.values[0, 0], [1, 2, 3, 4])
        assert got.weeks[0] == np.datetime64(first)

    def test_nothing_in_use_is_no_covariates(self):
        panel = attach(two_stores(), features(*by_week("rain", [1, 2])), Declarations())
        assert (panel.covariates, panel.exposure) == (None, None)

    def test_the_last_of_equal_keys_counts(self):
        rows = [("1", None, 0, "promo", 1.0), ("1", None, 0, "promo", 2.0)]
        assert attach(two_stores(), features(*rows), Declarations()).covariates.values[0, 0, 0] == 2

    def test_it_is_the_dictionary_one_would_write(self):
        rng = np.random.default_rng(1)
        panel = make_panel({(s, d): rng.uniform(1, 2, 9).tolist() for s in ("1", "2", "10") for d in ("a", "b", "c")})
        cells = {(s, d, int(w), n): float(rng.integers(9)) for s in ("1", "10", "x") for d in (None, "a", "c", "y")
                 for w in rng.choice(14, 5, replace=False) for n in ("promo", "price", "rain")}  # fmt: skip
        rows = [(s, d, w - 2, n, x) for (s, d, w, n), x in cells.items()]
        got = attach(panel, features(*rows), Declarations()).covariates
        for f, name in enumerate(got.names):
            for i in range(len(panel)):
                for t in range(got.values.shape[-1]):
                    store, dept = panel.store[i], panel.dept[i]
                    want = cells.get((store, dept, t + 2, name), cells.get((store, None, t + 2, name), NAN))
                    np.testing.assert_equal(got.values[f, i, t], want)


class TestLeak:
    @settings(derandomize=True, deadline=None, max_examples=60)
    @given(seed=st.integers(0, 999), cutoff=st.integers(0, 14), weeks=st.integers(1, 10), ahead=st.integers(0, 6))
    def test_past_only_values_after_the_cutoff_change_nothing_and_known_ones_stay(self, seed, cutoff, weeks, ahead):
        rng = np.random.default_rng(seed)
        panel = two_stores(weeks)
        values = rng.uniform(0, 9, (3, 4, weeks + ahead))
        values[rng.random(values.shape) < 0.3] = NAN
        columns = (Declaration("promo", fill="last"), Declaration("rain", known=False), Declaration("cpi", known=False))
        days = Covariates((Declaration("days", fill=6.0),), rng.integers(0, 7, (1, 4, weeks + ahead)).astype(float))
        panel = dataclasses.replace(panel, covariates=Covariates(columns, values), exposure=days)
        other = values.copy()
        other[1:, :, cutoff + 1 :] = rng.uniform(-9, 9, other[1:, :, cutoff + 1 :].shape)
        changed = dataclasses.replace(panel, covariates=Covariates(columns, other))
        week = FRIDAY + cutoff * WEEK
        before, after = panel.until(week), changed.until(week)
        np.testing.assert_array_equal(before.covariates.values, after.covariates.values)
        assert before.covariates.values.shape[-1] == max(weeks + ahead, cutoff + 1), "known ones reach as far as given"
        np.testing.assert_array_equal(before.covariates.values[0, :, : weeks + ahead], values[0])
        assert np.isnan(before.covariates.values[1:, :, cutoff + 1 :]).all()
        np.testing.assert_array_equal(before.exposure.values[..., : weeks + ahead], days.values)
        np.testing.assert_array_equal(complete(before, H)[0].covariates.values, complete(after, H)[0].covariates.values)

    @settings(derandomize=True, deadline=None, max_examples=30)
    @given(seed=st.integers(0, 999), horizon=st.integers(1, 5))
    def test_a_past_only_column_of_a_week_is_that_of_a_horizon_before(self, seed, horizon):
        rng = np.random.default_rng(seed)
        values = rng.uniform(0, 9, 8)
        panel, _ = ready(two_stores(8), by_week("rain", values), declared(rain="past"), horizon)
        got = panel.covariates.values[0, 0]
        np.testing.assert_array_equal(got[horizon:], values)
        np.testing.assert_array_equal(got[:horizon], values[0])

    def test_select_takes_the_same_series(self):
        rows = [("1", "a", 0, "promo", 1.0), ("2", "b", 0, "promo", 2.0), ("2", None, 0, "open_days", 5.0)]
        panel = attach(two_stores(), features(*rows), Declarations()).select(np.array([False, False, True, True]))
        np.testing.assert_array_equal(panel.covariates.values[1, :, 0], [NAN, 2])
        np.testing.assert_array_equal(panel.exposure.values[0, :, 0], [5, 5])

    def test_a_series_not_seen_by_the_cutoff_goes_with_its_covariates(self):
        panel = make_panel({("1", "a"): [None, None, 1.0], ("2", "a"): [1.0, 1.0, 1.0]})
        rows = [*by_week("promo", [1, 1, 1, 1]), *by_week("promo", [2, 2, 2, 2], store="2")]
        past = attach(panel, features(*rows), Declarations()).until(FRIDAY)
        assert past.store.tolist() == ["2"]
        np.testing.assert_array_equal(past.covariates.values, [[[2, 2, 2, 2]]])


class TestCompleting:
    def test_gaps_of_the_history_take_the_value_before_then_the_first_then_zero(self):
        values = [NAN, NAN, 3, NAN, 5, NAN, 7, 8, 9]
        nobody = dataclasses.replace(two_stores(), active_weeks=0)
        panel, notices = ready(nobody, by_week("promo", values), declared(promo="known"))
        np.testing.assert_array_equal(panel.covariates.values[0, 0], [3, 3, 3, 3, 5, 5, 7, 8, 9])
        np.testing.assert_array_equal(panel.covariates.values[0, 2], np.zeros(9))
        assert notices == ()

    @pytest.mark.parametrize(("rule", "filled"), [
        ("known:0", [0, 2, 0, 4, 0, 6, 0, 8, 0]), ("known:-1", [-1, 2, -1, 4, -1, 6, -1, 8, -1]),
        ("known:last", [2, 2, 2, 4, 4, 6, 6, 8, 8]),
    ])  # fmt: skip
    def test_a_fill_rule_holds_in_history_and_ahead_alike(self, rule, filled):
        values = [NAN, 2, NAN, 4, NAN, 6, NAN, 8, NAN]
        panel, _ = ready(two_stores(), by_week("promo", values), declared(promo=rule))
        np.testing.assert_array_equal(panel.covariates.values[0, 0], filled)

    def test_it_is_exactly_as_long_as_asked_for_and_leaves_the_panel_as_it_was(self):
        given = attach(two_stores(), features(*by_week("promo", range(20))), declared(promo="known:0"))
        before = given.covariates.values.copy()
        panel, _ = complete(given, H)
        assert panel.covariates.values.shape == (1, 4, 6 + H)
        np.testing.assert_array_equal(given.covariates.values, before)
        again, _ = complete(panel, H)
        np.testing.assert_array_equal(again.covariates.values, panel.covariates.values)

    @pytest.mark.parametrize(("rows", "where"), [
        (lambda ends: [r for s in "1234" for r in by_week("promo", [1] * (ends if s in "34" else 9), s)],
         "store 3, and 1 other store)"),
        (lambda ends: [r for s in "1234" for r in by_week("promo", [1] * (ends if s != "1" else 9), s)],
         "store 2, and 2 other stores)"),
        (lambda ends: [r for s in "1234" for r in by_week("promo", [1] * (ends if s == "3" else 9), s)], "store 3)"),
        (lambda ends: [r for s in "1234" for d in "ab" for r in
                       by_week("promo", [1] * (ends if (s, d) == ("2", "b") else 9), s, d)], "store 2, department b)"),
    ])  # fmt: skip
    def test_a_missing_value_ahead_is_an_error_with_column_week_store_and_what_to_do(self, rows, where):
        panel = make_panel({(s, d): [10.0] * 6 for s in "1234" for d in "ab"})
        with pytest.raises(ValueError, match="promo has no value") as error:
            ready(panel, rows(7), declared(promo="known"))
        assert str(error.value) == (
            f"promo has no value for the week of {FRIDAY + 7 * WEEK} ({where}; land features/ up to {FRIDAY + 8 * WEEK}"
            f", or {RULE}"
        )

    def test_a_column_nobody_declared_is_left_out_and_said_so(self):
        rows = [r for s in "12" for r in [*by_week("promo", [1] * 8, s), *by_week("price", [2] * 9, s)]]
        panel, notices = ready(two_stores(), rows, Declarations())
        assert panel.covariates.names == ("price",)
        assert notices == (
            f"promo is left out: promo has no value for the week of {FRIDAY + 8 * WEEK} (store 1, and 1 other store); "
            f"land features/ up to {FRIDAY + 8 * WEEK}, or {RULE}",
        )
        panel, notices = ready(two_stores(), [r for r in rows if r[3] == "promo"], Declarations())
        assert panel.covariates is None

    def test_a_column_nobody_declared_and_mostly_empty_teaches_nothing(self):
        rows = [r for s in "12" for r in by_week("promo", [1] * 5, s, since=4)]
        panel, notices = ready(two_stores(), rows, Declarations())
        assert panel.covariates is None
        assert notices == (f"promo is left out: promo has no value in most weeks of the history; {RULE}",)
        assert ready(two_stores(), rows, declared(promo="known"))[0].covariates.names == ("promo",)

    def test_what_a_model_was_trained_on_is_continued_in_its_order(self):
        rows = [r for s in "12" for r in [*by_week("promo", [1] * 7, s), *by_week("price", [2] * 9, s)]]
        panel, notices = ready(two_stores(), rows, Declarations(), wanted=["promo", "price"])
        assert panel.covariates.names == ("promo", "price")
        np.testing.assert_array_equal(panel.covariates.values[:, 0, -1], [1, 2])
        assert [n.split(":")[0] for n in notices] == ["promo is continued with its last value"]
        assert ready(two_stores(), rows, Declarations(), wanted=[])[0].covariates is None

    def test_what_a_model_was_trained_on_and_is_gone_is_an_error(self):
        with pytest.raises(ValueError, match=r"trained with price, .*\(there are promo\); land it under features/"):
            ready(two_stores(), by_week("promo", [1] * 9), Declarations(), wanted=["price", "promo"])

    def test_a_closed_store_needs_no_plans(self):
        panel = make_panel({("1", "a"): [10.0] * 6, ("2", "a"): [10.0, 10.0, None, None, None, None]})
        rows = [*by_week("promo", [1] * 9), *by_week("promo", [2] * 2, "2")]
        with pytest.raises(ValueError, match=r"store 2\)"):
            ready(dataclasses.replace(panel, active_weeks=5), rows, declared(promo="known"))
        got, _ = ready(dataclasses.replace(panel, active_weeks=4), rows, declared(promo="known"))
        np.testing.assert_array_equal(got.covariates.values[0, 1], [2] * 9)

    def test_no_series_and_no_covariates(self):
        assert complete(two_stores(), H)[0].covariates is None
        given = attach(two_stores(), features(*by_week("open_days", [6] * 9)), Declarations()).select(np.zeros(4, bool))
        panel, notices = complete(given, H)
        assert panel.covariates.values.shape == (1, 0, 9)
        assert notices == ()
        assert multiply_exposure(np.zeros((0, H)), panel, H).shape == (0, H)

    def test_past_and_known_together(self):
        rows = [r for s in "12" for r in [*by_week("rain", range(6), s), *by_week("promo", range(9), s)]]
        panel, _ = ready(two_stores(), rows, declared(rain="past", promo="known"))
        np.testing.assert_array_equal(panel.covariates.values[:, 0], [[0, 0, 0, 0, 1, 2, 3, 4, 5], list(range(9))])
        assert not np.isnan(panel.covariates.values).any()


class TestExposure:
    def panel(self, days=(6, 6, 3, 0, 6, 6, 6, 0, 3)) -> Panel:
        panel = make_panel({("1", "a"): [60.0, 60.0, 30.0, 0.0, 60.0, None], ("2", "a"): [12.0] * 6})
        rows = [*by_week("open_days", days), *by_week("open_days", [6] * 9, "2")]
        return ready(panel, rows, Declarations())[0]

    def test_sales_are_those_of_a_usual_week_and_closed_weeks_are_missing(self):
        divided = divide_exposure(self.panel())
        np.testing.assert_array_equal(divided.sales, [[60, 60, 60, NAN, 60, NAN], [12] * 6])
        assert divided.exposure is None
        assert divide_exposure(divided) is divided

    def test_forecasts_are_multiplied_back(self):
        panel = self.panel()
        ones = np.ones((2, H))
        np.testing.assert_array_equal(multiply_exposure(ones, panel, H), [[1, 0, 0.5], [1, 1, 1]])
        np.testing.assert_array_equal(exposure_ahead(panel, H), [[1, 0, 0.5], [1, 1, 1]])
        paths = np.arange(2 * 5 * H, dtype=float).reshape(2, 5, H)
        np.testing.assert_array_equal(
            multiply_exposure(paths, panel, H), paths * np.array([[[1, 0, 0.5]], [[1, 1, 1]]])
        )

    @settings(derandomize=True, deadline=None, max_examples=30)
    @given(seed=st.integers(0, 999))
    def test_divide_and_multiply_are_inverse_and_the_unit_is_the_median(self, seed):
        rng = np.random.default_rng(seed)
        panel = two_stores(10)
        days = rng.integers(0, 8, (1, 4, 10 + H)).astype(float)
        days[0, 0, 0] = 6
        given_, _ = complete(dataclasses.replace(panel, exposure=Covariates((Declaration("open_days"),), days)), H)
        divided = divide_exposure(given_)
        share = days[0] / np.median(days[0, :, :10][days[0, :, :10] > 0])
        opened = ~np.isnan(divided.sales)
        np.testing.assert_array_equal(opened, days[0, :, :10] > 0)
        np.testing.assert_allclose((divided.sales * share[:, :10])[opened], panel.sales[opened])
        np.testing.assert_allclose(multiply_exposure(np.ones((4, H)), given_, H), share[:, 10:])

    def test_the_unit_is_not_taken_from_after_the_cutoff(self):
        one, other = self.panel(), self.panel(days=(6, 6, 3, 0, 6, 6, 60, 60, 60))
        np.testing.assert_array_equal(divide_exposure(one).sales, divide_exposure(other).sales)

    def test_a_series_that_never_sold_while_open_keeps_its_sales(self):
        panel = self.panel(days=(0, 0, 0, 0, 0, 0, 0, 0, 6))
        divided = divide_exposure(panel)
        np.testing.assert_array_equal(divided.sales[0], panel.sales[0])
        np.testing.assert_array_equal(multiply_exposure(np.ones((2, H)), panel, H)[0], [0, 0, 1])

    def test_without_exposure_nothing_changes(self):
        panel, forecasts = two_stores(), np.ones((4, H))
        assert divide_exposure(panel) is panel
        assert multiply_exposure(forecasts, panel, H) is forecasts
        assert exposure_ahead(panel, H) is None

    def test_days_that_are_not_planned_to_the_end(self):
        panel, rows = two_stores(), [r for s in "12" for r in by_week("open_days", [6] * 8, s)]
        got, notices = ready(panel, rows, Declarations())
        assert got.exposure is None
        assert [n.split(":")[0] for n in notices] == ["open_days is left out", "sales are not divided"]
        with pytest.raises(ValueError, match=rf"open_days has no value for the week of {FRIDAY + 8 * WEEK} \(store 1"):
            ready(panel, rows, Declarations.of("none", "open_days"))
        got, _ = ready(panel, rows, Declarations.of({"open_days": "known:6"}, "open_days"))
        assert got.exposure.values[0, 0, -1] == 1, "as many days as usual"


def test_a_line_says_what_is_used_as_what():
    panel = two_stores()
    rows = [*by_week("promo", [1]), *by_week("rain", [1]), *by_week("cpi", [1]), *by_week("open_days", [6])]
    table = features(*rows)
    names = table["name"].unique().to_pylist()
    declarations = Declarations.of({"promo": "known:0", "rain": "past"}, "open_days")
    assert describe(attach(panel, table, declarations), names) == (
        "covariates promo (known, else 0), rain (past); exposure open_days; not used cpi"
    )
    assert describe(attach(panel, table, Declarations.of("none")), names) == "not used cpi, open_days, promo, rain"
    assert describe(panel, []) == "no covariates"
