"""What forecasts is chosen by backtests before the cutoff: the target, the network's share and the widths.

Where only the choice matters, a network is played by a forecast made up for each candidate; the other tests train.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from forecast_platform import deepar
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.models import choose as selection
from forecast_platform.models import networks
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.choose import LEVELS, choose, shipped_forecaster
from forecast_platform.models.networks import COUNTS, SHIPPED, SKIP, network_forecast
from forecast_platform.models.registry import AUTO, CANDIDATES, plans
from forecast_platform.models.target import RATIO, REFERENCE, SALES, origins
from forecast_platform.settings import Settings

HORIZON = 4
NETWORKS = tuple(name for name in AUTO if name in SHIPPED)  # of those tried where nothing is said
QUANTILES = (0.1, 0.5, 0.9)
OF_ANY_SALES = tuple(name for name in SHIPPED if name != COUNTS)


def candidates(*names: str, **changes: str) -> dict[str, dict[str, str]]:
    """The shipped ones, small and quick."""
    common = {
        "time_freq": "1W",
        "prediction_length": str(HORIZON),
        "context_length": "4",
        "seed": "0",
        "num_networks": "1",
        "num_cells": "8",
        "epochs": "2",
        "learning_rate": "0.01",
    }
    return {name: {**SHIPPED[name], **common, **changes} for name in names or NETWORKS}


def panel_of(sales, first: str = "2022-01-07") -> Panel:
    """Stores of four departments, without named holidays."""
    n, weeks = np.shape(sales)
    store, dept = np.arange(n) // 4 + 1, np.arange(n) % 4 + 1
    return Panel(
        store.astype(str), dept.astype(str), np.datetime64(first) + 7 * np.arange(weeks), np.array(sales), events=()
    )


def seasonal(weeks: int = 130, noise: float = 0.02) -> Panel:
    """A season that is nothing but last year's, under a level that moves."""
    rng = np.random.default_rng(5)
    season = np.tile(rng.lognormal(0, 0.8, 52), 3)[:weeks]
    level = np.exp(np.cumsum(rng.normal(0, 0.03, weeks)))
    return panel_of(50 * np.arange(2, 14)[:, None] * season * level * rng.lognormal(0, noise, (12, weeks)))


def walking(weeks: int = 60, n: int = 16) -> Panel:
    steps = np.random.default_rng(2).normal(0, 20, (n, weeks))
    return panel_of(1000 + np.cumsum(steps, axis=1))


def promoted(weeks: int = 60, n: int = 16, known: bool = True) -> Panel:
    """Sales that treble in the weeks of a promotion, which come at random and are planned ahead."""
    rng = np.random.default_rng(1)
    promo = (rng.random((n, weeks + 20)) < 0.3).astype(float)
    sales = rng.uniform(50, 500, (n, 1)) * (1 + 2 * promo[:, :weeks]) * rng.lognormal(0, 0.05, (n, weeks))
    return dataclasses.replace(panel_of(sales), covariates=Covariates((Declaration("promo", known),), promo[None]))


def pieces(mean: float = 2.0, weeks: int = 60, n: int = 16) -> Panel:
    """Whole numbers sold a week, often 0."""
    return panel_of(np.random.default_rng(3).poisson(mean, (n, weeks)).astype(float))


Play = Callable[[str, Panel, int], tuple[np.ndarray, np.ndarray, float]]


def play(monkeypatch: pytest.MonkeyPatch, answer: Play) -> list[tuple[str, int]]:
    """Networks that answer (median, lead, half width) given (candidate, history, horizon). Returns who was asked when:
    (candidate, weeks of history)."""
    asked = []

    def found(name, parameters, history, horizon, quantiles, num_samples=100, progress=None):
        asked.append((name, len(history.weeks)))
        median, lead, half = answer(name, history, horizon)
        spread = half * (np.array(quantiles) - 0.5)[None, :, None]
        return median[:, None] + spread, np.asarray(lead)

    monkeypatch.setattr(networks, "network_forecast", found)
    return asked


def actual(panel: Panel, history: Panel, horizon: int) -> np.ndarray:
    end = len(history.weeks)
    return panel.sales[:, end : end + horizon]


class TestPlans:
    def test_auto_tries_several_and_a_target_of_ones_own_is_the_only_one(self):
        assert list(plans(Settings())) == list(AUTO)
        for target in (SALES, REFERENCE, RATIO):
            assert list(plans(Settings(target=target))) == [target]

    def test_they_are_strings_the_engine_accepts_and_an_installations_own_win(self):
        settings = Settings(seed=3, hyperparameters={"learning_rate": "0.1", "seed": "5"})
        of_all = plans(settings, 8) | plans(settings.model_copy(update={"target": REFERENCE}), 8)
        assert of_all.keys() == CANDIDATES.keys()
        for name in CANDIDATES.keys() - SHIPPED.keys():
            assert of_all[name] == {"prediction_length": "8", "seed": "3"}, "what networks are told is not for it"
        for name, parameters in ((name, of_all[name]) for name in SHIPPED):
            assert all(isinstance(value, str) for value in parameters.values())
            assert parameters["prediction_length"] == "8"
            assert (parameters["learning_rate"], parameters["seed"]) == ("0.1", "5")
            assert parameters["context_length"] == SHIPPED[name]["context_length"]
            deepar.HyperParameters.parse({"epochs": "1", **parameters})

    def test_with_a_likelihood_of_ones_own_counts_are_no_candidate_of_their_own(self):
        assert list(plans(Settings(hyperparameters={"likelihood": "gaussian"})))[:3] == [SALES, SKIP, RATIO]

    def test_a_context_length_of_ones_own_is_that_of_all(self):
        assert {p["context_length"] for n, p in plans(Settings(context_length=9)).items() if n in SHIPPED} == {"9"}

    def test_the_seed_and_horizon_asked_for_win_over_the_settings(self):
        for parameters in plans(Settings(seed=3, prediction_length=12), 8, seed=0).values():
            assert (parameters["seed"], parameters["prediction_length"]) == ("0", "8")

    @pytest.mark.parametrize("name", SHIPPED)
    def test_epochs_of_ones_own_are_kept_and_else_fewer_for_more_series(self, name):
        few, many = seasonal().select(np.arange(12) < 3), seasonal()
        given = candidates(name)[name]
        assert networks.with_epochs(name, given, few) == given
        open_ = {key: value for key, value in given.items() if key != "epochs"}
        epochs = [int(networks.with_epochs(name, open_, panel)["epochs"]) for panel in (few, many)]
        assert epochs[0] >= epochs[1] >= (1 if name == RATIO else 10)

    def test_the_ratio_sees_a_case_at_most_five_times_and_a_large_retailer_some_windows_only(self, monkeypatch):
        given = {"num_networks": "2"}
        assert networks.with_epochs(RATIO, given, seasonal())["epochs"] == "5"
        cases = len(seasonal()) * len(origins(seasonal()))
        for windows, epochs in ((4 * cases, "2"), (cases, "1"), (10, "1")):
            monkeypatch.setitem(networks.TRAIN_WINDOWS, RATIO, windows)
            assert networks.with_epochs(RATIO, given, seasonal())["epochs"] == epochs


class TestChoice:
    """Among candidates whose forecasts are made up."""

    PANEL = seasonal(weeks=110)

    @pytest.mark.parametrize("best", SHIPPED)
    def test_the_one_that_would_have_been_best_is_chosen(self, monkeypatch, best):
        panel = dataclasses.replace(self.PANEL, sales=np.ceil(self.PANEL.sales / 10))  # which is counts as well

        def answer(name, history, horizon):
            y = actual(panel, history, horizon)
            return (y if name == best else 3 * y), 3 * y, 1.0

        play(monkeypatch, answer)
        choice = choose(panel, candidates(*SHIPPED))
        assert choice.name == best
        assert choice.judgement.verdict == "passed"
        assert choice.judgement.wape == 0
        for name in SHIPPED:
            assert f"{name} " in choice.judgement.why

    def test_intervals_count_not_only_medians(self, monkeypatch):
        """All medians are equally wrong; the network whose intervals say so is the better one."""

        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            wrong = y * np.where(np.arange(len(y)) % 2, 1.2, 0.8)[:, None]
            return wrong, wrong, 0.6 * y[:, None] if name == SKIP else 1e-3

        play(monkeypatch, answer)
        assert choose(self.PANEL, candidates()).name == SKIP

    def test_one_season_alone_does_not_decide_between_candidates_that_are_near(self, monkeypatch):
        """In the last weeks sales are a little ahead; in those before far behind."""
        errors = {(SALES, 106): 0.050, (SALES, 102): 0.5, (RATIO, 106): 0.052, (RATIO, 102): 0.05}

        def answer(name, history, horizon):
            wrong = (1 + errors[name, len(history.weeks)]) * actual(self.PANEL, history, horizon)
            return wrong, wrong, 1.0

        play(monkeypatch, answer)
        choice = choose(self.PANEL, candidates(SALES, RATIO))
        assert choice.name == RATIO
        assert choice.judgement.wape == pytest.approx(0.052), "what the verdict tells is the last window"
        assert "chosen by wQL, the mean of 2 windows" in choice.judgement.why

    def test_last_years_week_is_the_bar(self, monkeypatch):
        play(monkeypatch, lambda name, history, horizon: (np.full((12, horizon), 1e7),) * 2 + (1.0,))
        judgement = choose(self.PANEL, candidates()).judgement
        assert judgement.verdict == "below_naive"
        assert judgement.wape > judgement.naive_wape
        assert f"last year's week as it is, {judgement.naive_wape:.4f} / {judgement.naive_wql:.4f}" in judgement.why

    @pytest.mark.parametrize("name", OF_ANY_SALES)
    @pytest.mark.parametrize(("network_is", "lead_is", "share"), [(1.0, 2.0, 1.0), (2.0, 1.0, 0.0), (0.9, 1.1, 0.5)])
    def test_the_share_is_the_one_that_would_have_erred_least(self, monkeypatch, name, network_is, lead_is, share):
        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            return network_is * y, lead_is * y, 1.0

        play(monkeypatch, answer)
        assert choose(self.PANEL, candidates(name)).share == share

    def test_a_difference_too_small_to_mean_anything_leaves_the_ratio_its_half(self, monkeypatch):
        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            return 1.100 * y, 1.101 * y, 1.0

        play(monkeypatch, answer)
        assert choose(self.PANEL, candidates(RATIO)).share == 0.5

    def test_the_last_value_is_not_leaned_on_where_it_is_a_little_worse(self, monkeypatch):
        """It is so in the weeks tried; where the level stands still it is noise in the weeks to come."""

        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            return 1.1 * y, 1.108 * y, 1.0

        play(monkeypatch, answer)
        assert choose(self.PANEL, candidates(SALES)).share == 1.0
        assert choose(self.PANEL, candidates(RATIO)).share == 0.8

    def test_intervals_that_held_too_little_are_widened_and_good_ones_are_not(self, monkeypatch):
        panel = panel_of(np.random.default_rng(0).uniform(900, 1100, (400, 60)))
        factors = []
        for claimed in (40, 200):  # the width from the lowest to the highest level: 0.8 of the sales' range is right
            flat = np.full((400, HORIZON), 1000.0)
            play(monkeypatch, lambda name, history, horizon, f=flat, c=claimed: (f, f, c))
            factors.append(np.array(choose(panel, candidates(SALES)).calibration.factors))
        assert factors[0].min() > 2
        np.testing.assert_allclose(factors[1], 1, atol=0.1)

    def test_intervals_are_as_wide_as_they_should_have_been_about_the_median_that_is_served(self, monkeypatch):
        """A network far off, whose share is 0: what it erred by itself is no matter of the intervals about the lead."""
        panel, flat = panel_of(np.random.default_rng(0).uniform(900, 1100, (400, 60))), np.full((400, HORIZON), 1000.0)
        found = []
        for said in (flat, 2 * flat):
            play(monkeypatch, lambda name, history, horizon, said=said: (said, flat, 200))
            found.append(choose(panel, candidates(SALES)))
        assert found[1].share == 0, "the lead alone is right"
        one, other = (c.calibration for c in found)
        np.testing.assert_allclose(other.factors, one.factors, rtol=1e-6)
        assert other.sums == pytest.approx(one.sums, rel=1e-6)
        assert one.sums.keys() == {"store", "dept", "total"}

    def test_no_window_tried_reaches_past_the_cutoff_or_into_its_own_answer(self, monkeypatch):
        def answer(name, history, horizon):
            assert horizon == HORIZON
            y = actual(self.PANEL, history, horizon)
            assert y.shape == (12, HORIZON), "all of what is asked for is known by the cutoff"
            return y, y, 1.0

        asked = play(monkeypatch, answer)
        judgement = choose(self.PANEL, candidates()).judgement
        assert {(name, 106) for name in NETWORKS if name != COUNTS} <= set(asked)
        assert {weeks for _, weeks in asked} == {106, 102}, "an earlier season too"
        assert len(set(asked)) == len(asked)
        assert judgement.cutoff == self.PANEL.weeks[105].item()

    def test_a_long_horizon_is_judged_by_a_quarter_of_a_year(self, monkeypatch):
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((12, horizon)),) * 2 + (1.0,))
        choose(self.PANEL, candidates(SALES, prediction_length="26"))
        assert [weeks for _, weeks in asked] == [97, 84]


class TestUnjudged:
    """What cannot be held out is not judged: the network alone, its intervals as they are."""

    def verdict(self, panel: Panel, *names: str) -> selection.Choice:
        choice = choose(panel, candidates(*names))
        assert (choice.share, choice.calibration) == (1.0, Calibration())
        assert choice.judgement.verdict == "unjudged"
        assert choice.judgement.wape is None
        return choice

    def test_too_few_weeks(self):
        choice = self.verdict(seasonal(weeks=11))
        assert choice.judgement.why == "11 weeks of history are too few to hold out 4 of them"
        assert choice.name == SALES

    def test_too_few_observations(self):
        panel = walking(weeks=40, n=8)
        assert "sales 288 observations to train on, 300 are needed" in self.verdict(panel).judgement.why

    def test_nobody_sold_anything_in_the_weeks_held_out(self):
        panel = walking(weeks=60)
        panel.sales[:, -HORIZON:] = np.nan
        new = np.full((4, 60), np.nan)
        new[:, -1] = 5.0
        panel = panel_of(np.concatenate([panel.sales, new]))
        assert "no trained series was observed in the 4 weeks after" in self.verdict(panel).judgement.why

    @pytest.mark.parametrize("name", [REFERENCE, RATIO])
    def test_last_years_week_alone_asked_of_a_year(self, name):
        assert self.verdict(walking(weeks=56, n=40), name).name == name

    @pytest.mark.parametrize(("weeks", "series"), [(76, 4), (100, 3)])
    def test_enough_weeks_for_the_reference_and_too_few_observations(self, weeks, series):
        assert weeks * series >= 300, "enough to train on in the end"
        self.verdict(walking(weeks, series), REFERENCE)

    @pytest.mark.parametrize(("weeks", "tried"), [(63, {SALES, SKIP}), (64, {SALES, SKIP, RATIO})])
    def test_the_ratio_is_tried_when_weeks_to_learn_from_are_left_after_the_first_year(self, monkeypatch, weeks, tried):
        """52 to refer to, 4 to condition on, 4 to forecast and 4 to hold out."""
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((40, horizon)),) * 2 + (1.0,))
        choose(walking(weeks, 40), candidates())
        assert {name for name, _ in asked} == tried

    @pytest.mark.parametrize(("names", "held_out"), [((SALES, RATIO), 8), ((SALES,), 12)])
    def test_hardly_more_than_a_year_holds_out_less_so_that_the_ratio_can_be_tried(self, names, held_out):
        panel = walking(72, 40)
        choice = choose(panel, candidates(*names, prediction_length="12"), num_samples=10)
        assert choice.judgement.cutoff == panel.weeks[-1 - held_out].item()
        assert all(f"{name} " in choice.judgement.why for name in names)
        assert choice.calibration.widths(np.ones(3), 12).shape == (3, 12)

    def test_a_ratio_that_could_not_be_trained_for_the_whole_horizon_is_not_tried(self, monkeypatch):
        """Enough for the windows tried, a quarter of a year ahead, is not enough for 45 weeks ahead."""
        asked = play(monkeypatch, lambda name, history, horizon: (*np.ones((2, len(history), horizon)), 1.0))
        panel = seasonal(weeks=96)
        choose(panel, candidates(prediction_length="45"))
        assert {name for name, _ in asked} == {SALES, SKIP}

    def test_a_ratio_of_series_too_young_to_train_on_is_not_tried(self, monkeypatch):
        """All but two of a dozen stores closed; a hundred others opened two weeks before the weeks held out."""
        old, new = walking(100, 12).sales, walking(100, 100).sales
        old[2:, 60:], new[:, :94] = np.nan, np.nan
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((len(history), horizon)),) * 2 + (1.0,))
        choose(panel_of(np.concatenate([old, new])), candidates())
        assert {name for name, weeks in asked if weeks == 96} == {SALES, SKIP}


class TestCounts:
    """Sales counted in pieces have a candidate of their own."""

    @staticmethod
    def tried(monkeypatch: pytest.MonkeyPatch, panel: Panel) -> set[str]:
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((16, horizon)),) * 2 + (1.0,))
        choose(panel, candidates())
        return {name for name, _ in asked}

    def test_it_is_tried_where_few_are_sold(self, monkeypatch):
        assert self.tried(monkeypatch, pieces()) == {SALES, SKIP, COUNTS}

    def test_not_where_a_week_is_no_count(self, monkeypatch):
        panel = pieces()
        panel.sales[3, 5] = 2.5
        assert COUNTS not in self.tried(monkeypatch, panel)

    @pytest.mark.parametrize(("share", "counts"), [(0.01, True), (0.03, False)])
    def test_few_weeks_of_returns_do_not_rule_it_out(self, monkeypatch, share, counts):
        panel = pieces()
        panel.sales.ravel()[: round(share * panel.sales.size)] = -1.0
        assert (COUNTS in self.tried(monkeypatch, panel)) == counts

    def test_a_week_of_returns_is_one_without_sales_to_the_network(self):
        panel = pieces(weeks=40, n=12)
        none = dataclasses.replace(panel, sales=panel.sales.copy())
        panel.sales[2, [7, -1]], none.sales[2, [7, -1]] = -3.0, 0.0
        found, again = (
            CANDIDATES[COUNTS].forecast(candidates(COUNTS)[COUNTS], each, HORIZON, QUANTILES, 20)[0]
            for each in (panel, none)
        )
        np.testing.assert_array_equal(found, again)

    def test_not_where_many_are_sold(self, monkeypatch):
        assert COUNTS not in self.tried(monkeypatch, pieces(mean=500))

    def test_not_where_sales_are_divided_by_the_days_open(self, monkeypatch):
        days = Covariates((Declaration("open_days"),), np.full((1, 16, 70), 6.0))
        assert COUNTS not in self.tried(monkeypatch, dataclasses.replace(pieces(), exposure=days))

    def test_not_when_counts_end_only_in_the_weeks_held_out(self, monkeypatch):
        """What is trained in the end sees them all."""
        panel = pieces()
        panel.sales[3, -1] = 1.5
        assert COUNTS not in self.tried(monkeypatch, panel)

    def test_a_distribution_of_counts_is_not_moved(self, monkeypatch):
        def answer(name, history, horizon):
            y = actual(pieces(), history, horizon)
            return y + 1.0, y, 1.0

        play(monkeypatch, answer)
        assert choose(pieces(), candidates(COUNTS)).share == 1.0
        assert choose(pieces(), candidates(SALES)).share == 0.0

    def test_networks_that_learn_choose_it_and_err_less(self):
        panel = pieces(mean=0.3, n=40)
        known, y = panel.until(panel.weeks[-1 - HORIZON].item()), panel.sales[:, None, -HORIZON:]
        loss = {}
        for names in (NETWORKS, (SALES, SKIP)):
            told: list[str] = []
            given = candidates(*names, epochs="60")
            found = shipped_forecaster(given, 50, told=told.append)(known, HORIZON, LEVELS)
            assert (COUNTS in told[0]) == (COUNTS in names)
            assert (found >= 0).all()
            level = np.array(LEVELS)[:, None]
            loss[names] = np.maximum(level * (y - found), (level - 1) * (y - found)).sum()
        assert loss[NETWORKS] < 0.95 * loss[SALES, SKIP]


class TestTrained:
    """With networks that learn."""

    def test_the_ratio_where_a_strong_season_repeats_itself_under_a_moving_level(self):
        choice = choose(seasonal(noise=0.05), candidates(epochs="40", learning_rate="0.02"), num_samples=20)
        assert choice.name == RATIO
        assert choice.judgement.wape < 0.1 < choice.judgement.naive_wape

    def test_sales_with_covariates_where_promotions_move_them(self):
        panel = promoted()
        choice = choose(panel, candidates(epochs="60"), num_samples=20)
        assert choice.name in (SALES, SKIP)
        blind = choose(dataclasses.replace(panel, covariates=None), candidates(epochs="60"), num_samples=20)
        assert choice.judgement.wape < 0.7 * blind.judgement.wape
        assert choice.share > 0.5, "the last value knows nothing of the promotion"

    def test_the_last_value_leads_on_a_random_walk(self):
        assert choose(walking(), candidates(epochs="20"), num_samples=20).share < 0.5

    def test_it_is_the_same_every_time(self):
        panel = seasonal(100)
        assert choose(panel, candidates(), 20) == choose(panel, candidates(), 20)


class TestCutoff:
    """Sales after the cutoff changed at will, and what was past-only of the covariates."""

    CUTOFF = np.datetime64("2022-01-07") + 7 * 89

    @pytest.fixture(params=["sales", "known ahead", "past only", "exposure"])
    def both(self, request) -> tuple[Panel, Panel]:
        panel = seasonal(100)
        if request.param in ("known ahead", "past only"):
            panel = promoted(100, 12, request.param == "known ahead")
        if request.param == "exposure":
            days = np.where(np.random.default_rng(0).random((1, 12, 110)) < 0.1, 0.0, 6.0)
            panel = dataclasses.replace(panel, exposure=Covariates((Declaration("open_days"),), days))
        later = panel.sales.copy()
        later[:, 90:] = np.random.default_rng(9).uniform(0, 1e6, later[:, 90:].shape)
        later[3, 90:] = np.nan
        changed = dataclasses.replace(panel, sales=later)
        if request.param == "past only":
            values = panel.covariates.values.copy()
            values[:, :, 90:] = 77
            changed = dataclasses.replace(changed, covariates=Covariates(panel.covariates.columns, values))
        return panel, changed

    def test_nothing_after_it_changes_choice_or_forecast(self, both):
        past = [panel.until(self.CUTOFF.item()) for panel in both]
        given = candidates(SALES, RATIO)
        chosen = [choose(panel, given, 10) for panel in past]
        assert chosen[0] == chosen[1]
        told: list[str] = []
        forecasts = [shipped_forecaster(given, 10, told=told.append)(p, HORIZON, QUANTILES) for p in past]
        np.testing.assert_array_equal(*forecasts)
        assert told == [chosen[0].judgement.why] * 2

    @pytest.mark.parametrize("name", OF_ANY_SALES)
    def test_a_window_tried_does_not_know_its_answer(self, name, both):
        given = candidates(name)[name]
        found = [network_forecast(name, given, p.until(self.CUTOFF.item()), HORIZON, LEVELS, 10) for p in both]
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


class TestForecaster:
    @pytest.mark.parametrize("quantiles", [(0.5,), QUANTILES, (0.05, 0.95)])
    def test_the_quantiles_asked_for_in_order(self, quantiles):
        forecast = shipped_forecaster(candidates(SALES), 20, told=lambda line: None)(walking(), 6, quantiles)
        assert forecast.shape == (16, len(quantiles), 6)
        assert (np.diff(forecast, axis=1) > 0).all()

    def test_it_is_the_networks_forecast_as_the_choice_combines_it(self, monkeypatch):
        median, lead = np.full((16, HORIZON), 100.0), np.full((16, HORIZON), 200.0)
        play(monkeypatch, lambda name, history, horizon: (median, lead, 10.0))
        choice = selection.Choice(SALES, selection.Judgement("unjudged", ""), 0.75, Calibration(((2.0,),)))
        monkeypatch.setattr(selection, "choose", lambda *given: choice)
        forecast = shipped_forecaster(candidates(SALES), told=lambda line: None)(walking(), HORIZON, QUANTILES)
        np.testing.assert_allclose(forecast[0, :, 0], [125 - 8, 125, 125 + 8])


class TestExposure:
    """A chain that closes for a week every now and then, and is known to close in the second week ahead."""

    @staticmethod
    def panel(closed: bool) -> Panel:
        rng = np.random.default_rng(4)
        days = np.full((1, 12, 110), 6.0)
        sales = 100 * np.arange(5, 17)[:, None] * rng.lognormal(0, 0.03, (12, 100))
        if closed:
            shut = [*range(7, 100, 13), 98, 99, 101]
            days[:, :, shut] = 0
            sales[:, [w for w in shut if w < 100]] = 0
        return dataclasses.replace(panel_of(sales), exposure=Covariates((Declaration("open_days"),), days))

    @pytest.mark.parametrize("name", OF_ANY_SALES)
    def test_a_closed_week_is_forecast_0_and_past_ones_leave_the_level(self, name):
        given = candidates(name, epochs="15")
        closed, whole = (
            shipped_forecaster(given, 50, told=lambda line: None)(self.panel(c), HORIZON, QUANTILES) for c in (1, 0)
        )
        np.testing.assert_array_equal(closed[:, :, 1], 0)
        usual = 100 * np.arange(5, 17)[:, None]
        for forecast, weeks in ((closed, [0, 2, 3]), (whole, [0, 1, 2, 3])):
            median = forecast[:, 1, weeks]
            assert np.abs(median / usual - 1).mean() < 0.1
