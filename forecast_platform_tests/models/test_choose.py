"""What forecasts is decided by backtests before the cutoff: the weights of the candidates and the widths.

Where only the choice matters, a network is played by a forecast made up for each candidate; the other tests train.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from forecast_platform import deepar
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.holidays import retail_events
from forecast_platform.history.panel import Panel
from forecast_platform.models import choose as selection
from forecast_platform.models import networks
from forecast_platform.models.blend import Blend
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.choose import LEVELS, choose, shipped_forecaster
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.last_year import outlook
from forecast_platform.models.last_year.reference import last_year
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
    of_networks = {name: {**SHIPPED[name], **common, **changes} for name in names or NETWORKS if name in SHIPPED}
    return of_networks | {name: {"prediction_length": str(HORIZON), "seed": "0", **changes} for name in names
                          if name not in SHIPPED}  # fmt: skip


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


Play = Callable[[str, Panel, int], tuple[np.ndarray, float]]


def play(monkeypatch: pytest.MonkeyPatch, answer: Play) -> list[tuple[str, int]]:
    """Networks that answer (median, half width) given (candidate, history, horizon). Returns who was asked when:
    (candidate, weeks of history)."""
    asked = []

    def found(name, parameters, history, horizon, quantiles, num_samples=100, progress=None, retailer=None):
        asked.append((name, len(history.weeks)))
        median, half = answer(name, history, horizon)
        return median[:, None] + half * (np.array(quantiles) - 0.5)[None, :, None]

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
            own = CANDIDATES[name].parameters
            assert of_all[name] == {**own, "prediction_length": "8", "seed": "3"}, (
                "what networks are told is not for it"
            )
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

    def test_the_ratio_sees_a_case_five_times_more_often_of_few_and_of_a_large_retailer_some_windows(self, monkeypatch):
        given = {"num_networks": "2"}
        cases = len(seasonal()) * len(origins(seasonal()))
        for least, epochs in ((10**6, "15"), (7 * cases, "7"), (10, "5")):
            monkeypatch.setattr(networks, "LEAST_WINDOWS", least)
            assert networks.with_epochs(RATIO, given, seasonal())["epochs"] == epochs
        for windows, epochs in ((4 * cases, "2"), (cases, "1"), (10, "1")):
            monkeypatch.setitem(networks.TRAIN_WINDOWS, RATIO, windows)
            assert networks.with_epochs(RATIO, given, seasonal())["epochs"] == epochs


class TestChoice:
    """Among candidates whose forecasts are made up."""

    PANEL = seasonal(weeks=110)

    @pytest.mark.parametrize("best", SHIPPED)
    def test_the_one_that_would_have_been_best_serves(self, monkeypatch, best):
        panel = dataclasses.replace(self.PANEL, sales=np.ceil(self.PANEL.sales / 10))  # which is counts as well

        def answer(name, history, horizon):
            y = actual(panel, history, horizon)
            return (y if name == best else 3 * y), 1.0

        play(monkeypatch, answer)
        choice = choose(panel, candidates(*SHIPPED))
        assert choice.blend == Blend.alone(best)
        assert choice.judgement.verdict == "passed"
        assert choice.judgement.wape == 0
        assert choice.judgement.why.startswith(f"served: 100% {best}; ")
        assert choice.judgement.alone.keys() == SHIPPED.keys()
        assert choice.judgement.alone[best][0] == 0

    def test_why_is_short_however_many_serve(self):
        rng, names = np.random.default_rng(0), list(CANDIDATES)
        blend = Blend(dict(zip(names, map(tuple, rng.dirichlet(np.ones(len(names)), 3).T.tolist()), strict=True)))
        told = selection.in_words(blend, np.array([0, 0, 1, 2]))
        assert len(told) < 260
        assert told.count("% the other ") == 3
        assert "; young series " in told
        weights = sorted(blend.weights.items(), key=lambda item: -item[1][0])
        assert told.startswith(f"{100 * weights[0][1][0]:.0f}% {weights[0][0]}, ")

    def test_intervals_count_not_only_medians(self, monkeypatch):
        """All medians are equally wrong; the network whose intervals say so is the better one."""

        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            wrong = y * np.where(np.arange(len(y)) % 2, 1.2, 0.8)[:, None]
            return wrong, 0.6 * y[:, None] if name == SKIP else 1e-3

        play(monkeypatch, answer)
        assert next(iter(choose(self.PANEL, candidates(SALES, SKIP)).blend.usual)) == SKIP

    def test_two_that_err_to_either_side_are_served_together(self, monkeypatch):
        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            return (1.2 if name == SALES else 0.8) * y, 0.1 * y[:, None]

        play(monkeypatch, answer)
        choice = choose(self.PANEL, candidates(SALES, SKIP))
        assert choice.blend.usual[SALES] == pytest.approx(0.5, abs=0.1)
        assert choice.judgement.wape < 0.05

    def test_one_season_alone_does_not_decide_between_candidates_that_are_near(self, monkeypatch):
        """In the last weeks the lag skip is a little ahead; in those before far behind."""
        errors = {(SKIP, 106): 0.50, (SKIP, 58): 2.0, (SALES, 106): 0.52, (SALES, 58): 0.5}
        panel = seasonal(weeks=110)

        def answer(name, history, horizon):
            wrong = (1 + errors[name, len(history.weeks)]) * actual(panel, history, horizon)
            return wrong, 1.0

        monkeypatch.setattr(selection, "FIRST_ORIGIN", 50)  # so that the window a year ago is one of two
        play(monkeypatch, answer)
        choice = choose(panel, candidates(SALES, SKIP))
        assert next(iter(choice.blend.usual)) == SALES
        assert choice.judgement.wape == pytest.approx(0.52, abs=0.01), "what the verdict tells is the last window"

    def test_last_years_week_is_the_bar(self, monkeypatch):
        play(monkeypatch, lambda name, history, horizon: (np.full((12, horizon), 1e7), 1.0))
        judgement = choose(self.PANEL, candidates()).judgement
        assert judgement.verdict == "below_naive"
        assert judgement.wape > judgement.naive_wape
        assert (
            f"last year's week, the bar to pass, {judgement.naive_wape:.4f} / {judgement.naive_wql:.4f}"
            in judgement.why
        )

    def test_a_network_far_off_is_left_out_and_what_needs_no_training_serves(self, monkeypatch):
        play(monkeypatch, lambda name, history, horizon: (np.full((12, horizon), 1e7), 1.0))
        choice = choose(self.PANEL, candidates(*AUTO))
        assert not any(CANDIDATES[name].learns for name in choice.blend.names), choice.judgement.why
        assert choice.judgement.verdict == "passed"

    def test_at_most_two_networks_serve(self, monkeypatch):
        """Each is too high in series of its own and too low in the others, so each adds to the others."""
        high = {RATIO: 0, SALES: 1, SKIP: 2}

        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            return y * np.where(np.arange(len(y)) % 3 == high[name], 1.4, 0.8)[:, None], 0.01 * y[:, None]

        play(monkeypatch, answer)
        choice = choose(self.PANEL, candidates(SALES, SKIP, RATIO))
        assert not choice.judgement.left_out
        assert RATIO in choice.blend.names, "which has the largest prior"
        assert len(choice.blend.names) == 2

    def test_a_network_that_adds_next_to_nothing_to_one_expected_more_of_is_tried_once_and_left_out(self, monkeypatch):
        """Sales by themselves are as good as the ratio, and wrong as it is; the lag skip is too low where they are too
        high."""

        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            return (0.7 if name == SKIP else 1.3) * y, 0.01 * y[:, None]

        asked = play(monkeypatch, answer)
        choice = choose(self.PANEL, candidates(SALES, SKIP, RATIO))
        assert choice.judgement.left_out == {SALES: "changes the blend's error by +0.0%"}
        assert choice.blend.names == (SKIP, RATIO)
        assert sorted(name for name, weeks in asked if weeks < 106) == sorted([SKIP, RATIO])
        assert choice.judgement.alone[SALES] == pytest.approx(choice.judgement.alone[RATIO])

    def test_intervals_that_held_too_little_are_widened_and_good_ones_are_not(self, monkeypatch):
        panel = panel_of(np.random.default_rng(0).uniform(900, 1100, (400, 60)))
        factors = []
        for claimed in (40, 200):  # the width from the lowest to the highest level: 0.8 of the sales' range is right
            flat = np.full((400, HORIZON), 1000.0)
            play(monkeypatch, lambda name, history, horizon, f=flat, c=claimed: (f, c))
            factors.append(np.array(choose(panel, candidates(SALES)).calibration.factors))
        assert factors[0].min() > 2
        np.testing.assert_allclose(factors[1], 1, atol=0.1)

    def test_intervals_are_as_wide_as_they_should_have_been_about_what_is_served(self, monkeypatch):
        """A network far off, which is left out: what it erred by itself is no matter of the intervals."""
        panel = panel_of(np.random.default_rng(0).uniform(900, 1100, (400, 60)))
        found = []
        for said in (5000.0, 9000.0):
            play(monkeypatch, lambda name, history, horizon, said=said: (np.full((400, horizon), said), 200))
            found.append(choose(panel, candidates(SALES, "recent_level")))
        assert [choice.blend.names for choice in found] == [("recent_level",)] * 2
        one, other = (c.calibration for c in found)
        np.testing.assert_allclose(other.factors, one.factors, rtol=1e-6)
        assert other.sums == pytest.approx(one.sums, rel=1e-6)
        assert one.sums.keys() == {"store", "dept", "total"}

    def test_intervals_are_those_of_the_blend_and_not_of_one_of_its_candidates(self, monkeypatch):
        """Two err to either side, so that together they hardly err: each alone would need far wider intervals."""

        def answer(name, history, horizon):
            y = actual(self.PANEL, history, horizon)
            return (1.2 if name == SALES else 0.8) * y, 0.1 * y[:, None]

        play(monkeypatch, answer)
        choice = choose(self.PANEL, candidates(SALES, SKIP))
        assert len(choice.blend.names) == 2
        assert np.max(choice.calibration.factors) < 1

    def test_no_window_tried_reaches_past_the_cutoff_or_into_its_own_answer(self, monkeypatch):
        def answer(name, history, horizon):
            assert horizon == HORIZON
            y = actual(self.PANEL, history, horizon)
            assert y.shape == (12, HORIZON), "all of what is asked for is known by the cutoff"
            return y, 1.0

        asked = play(monkeypatch, answer)
        judgement = choose(self.PANEL, candidates()).judgement
        assert {(name, 106) for name in NETWORKS if name != COUNTS} <= set(asked)
        assert {weeks for _, weeks in asked} == {106, 102}, "an earlier one too; a year ago there was no year before it"
        assert len(set(asked)) == len(asked)
        assert judgement.cutoff == self.PANEL.weeks[105].item()

    def test_what_needs_no_training_is_tried_in_the_season_ahead_a_year_and_two_ago(self, monkeypatch):
        """And back through the history; of many series there alone."""
        asked, known = [], CANDIDATES["last_year"]

        def heard(history, *given):
            asked.append(len(history.weeks))
            return known.quantiles_of(history, *given)

        monkeypatch.setitem(CANDIDATES, "last_year", dataclasses.replace(known, quantiles_of=heard))
        for series_by_windows, weeks in ((12_000, [152, 104, 52, 148, 144, 140, 136, 132]), (36, [152, 104, 52])):
            monkeypatch.setattr(selection, "FREE_SERIES", series_by_windows)
            choose(seasonal(weeks=156), candidates("last_year", "recent_level"))
            assert sorted(asked) == sorted(weeks), "once each"
            asked.clear()

    @pytest.mark.parametrize(("lately", "in_season"), [("last_value", "last_year"), ("last_year", "last_value")])
    def test_the_season_ahead_a_year_ago_outweighs_the_last_weeks(self, monkeypatch, lately, in_season):
        panel, right = seasonal(weeks=156), {152: lately, 104: in_season}

        def play_free(name: str) -> None:
            def said(history, horizon, quantiles, retailer):
                wrong = 1.0 if right[len(history.weeks)] == name else 1.2
                return np.repeat(wrong * actual(panel, history, horizon)[:, None], len(quantiles), axis=1)

            monkeypatch.setitem(CANDIDATES, name, dataclasses.replace(CANDIDATES[name], quantiles_of=said))

        play_free(lately)
        play_free(in_season)
        monkeypatch.setattr(selection, "FREE_SERIES", 24)  # so that it is one window against one
        assert next(iter(choose(panel, candidates(lately, in_season)).blend.usual)) == in_season

    def test_the_outlook_of_a_window_is_made_once_whoever_starts_from_it(self, monkeypatch):
        made = []

        def counted(panel, horizon, **given):
            made.append(len(panel.weeks))
            return last_year(panel, horizon, **given)

        monkeypatch.setattr(outlook, "last_year", counted)
        given = candidates(RATIO, "aligned_last_year", "pretrained")
        panel = seasonal(weeks=130)
        choice = choose(panel, given, num_samples=10)
        assert choice.judgement.alone.keys() == given.keys(), "all three, each of which looks at the outlook"
        assert made.count(126) == 1
        assert sorted(made) == sorted(set(made))
        again = choose(panel, given, num_samples=10)
        assert again == choice

    def test_a_long_horizon_is_judged_by_a_quarter_of_a_year(self, monkeypatch):
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((12, horizon)), 1.0))
        choose(self.PANEL, candidates(SALES, prediction_length="26"))
        assert [weeks for _, weeks in asked] == [97, 84]


class TestUnjudged:
    """What cannot be held out is not judged: one candidate alone, its intervals as they are."""

    def verdict(self, panel: Panel, *names: str) -> selection.Choice:
        choice = choose(panel, candidates(*names))
        assert len(choice.blend.names) == 1
        assert choice.calibration == Calibration(dependence=Dependence.fit([], LEVELS)), "sums as a usual retailer's"
        assert choice.judgement.verdict == "unjudged"
        assert choice.judgement.wape is None
        return choice

    def test_too_few_weeks(self):
        panel = walking(weeks=3, n=200)
        assert [(name, CANDIDATES[name].unable(panel, HORIZON, given)) for name, given in candidates().items()] == [
            (SALES, "0 observations to train on, 300 are needed"),
            (SKIP, "0 observations to train on, 300 are needed"),
            (COUNTS, "sales are not small whole numbers"),
            (RATIO, "needs 60 weeks, of them a year to refer to; there are 3"),
        ]
        why = self.verdict(panel).judgement.why
        assert why.startswith("served: 100% sales; not judged: no candidate is able (sales: 0 observations to train on")
        assert set(NETWORKS) <= self.verdict(panel).judgement.left_out.keys()

    def test_too_few_observations(self):
        panel = walking(weeks=40, n=8)
        assert "sales: 288 observations to train on, 300 are needed" in self.verdict(panel).judgement.why

    def test_nobody_sold_anything_in_the_weeks_held_out(self):
        panel = walking(weeks=60)
        panel.sales[:, -HORIZON:] = np.nan
        new = np.full((4, 60), np.nan)
        new[:, -1] = 5.0
        panel = panel_of(np.concatenate([panel.sales, new]))
        assert "no series of 4 weeks or more was observed in the 4 weeks after" in self.verdict(panel).judgement.why

    @pytest.mark.parametrize("name", [REFERENCE, RATIO])
    def test_last_years_week_alone_asked_of_a_year(self, name):
        assert self.verdict(walking(weeks=60, n=40), name).blend == Blend.alone(name)

    @pytest.mark.parametrize(("weeks", "series"), [(76, 4), (100, 3)])
    def test_enough_weeks_for_the_reference_and_too_few_observations(self, weeks, series):
        assert weeks * series >= 300, "enough to train on in the end"
        self.verdict(walking(weeks, series), REFERENCE)

    @pytest.mark.parametrize(("weeks", "tried"), [(63, {SALES, SKIP}), (64, {SALES, SKIP, RATIO})])
    def test_the_ratio_is_tried_when_weeks_to_learn_from_are_left_after_the_first_year(self, monkeypatch, weeks, tried):
        """52 to refer to, 4 to condition on, 4 to forecast and 4 to hold out."""
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((40, horizon)), 1.0))
        choose(walking(weeks, 40), candidates())
        assert {name for name, _ in asked} == tried

    def test_hardly_more_than_a_year_holds_out_less_so_that_the_ratio_can_be_tried(self):
        panel, names = walking(72, 40), (SALES, RATIO)
        choice = choose(panel, candidates(*names, prediction_length="12"), num_samples=10)
        assert choice.judgement.cutoff == panel.weeks[-1 - 8].item()
        assert choice.judgement.alone.keys() == set(names)
        assert choice.calibration.widths(np.ones(3), 12).shape == (3, 12)

    def test_a_ratio_that_could_not_be_trained_for_the_whole_horizon_is_not_tried(self, monkeypatch):
        """Enough for the windows tried, a quarter of a year ahead, is not enough for 45 weeks ahead."""
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((len(history), horizon)), 1.0))
        panel = seasonal(weeks=96)
        choose(panel, candidates(prediction_length="45"))
        assert {name for name, _ in asked} == {SALES, SKIP}

    def test_a_ratio_of_series_too_young_to_train_on_is_not_tried(self, monkeypatch):
        """All but two of a dozen stores closed; a hundred others opened two weeks before the weeks held out."""
        old, new = walking(100, 12).sales, walking(100, 100).sales
        old[2:, 60:], new[:, :94] = np.nan, np.nan
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((len(history), horizon)), 1.0))
        choose(panel_of(np.concatenate([old, new])), candidates())
        assert {name for name, weeks in asked if weeks == 96} == {SALES, SKIP}


class TestCounts:
    """Sales counted in pieces have a candidate of their own."""

    @staticmethod
    def tried(monkeypatch: pytest.MonkeyPatch, panel: Panel) -> set[str]:
        asked = play(monkeypatch, lambda name, history, horizon: (np.ones((16, horizon)), 1.0))
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
            CANDIDATES[COUNTS].forecast(candidates(COUNTS)[COUNTS], each, HORIZON, QUANTILES, 20)
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

    def test_networks_that_learn_choose_it_and_err_less(self):
        panel = pieces(mean=0.3, n=40)
        known, y = panel.until(panel.weeks[-1 - HORIZON].item()), panel.sales[:, None, -HORIZON:]
        loss = {}
        for names in (NETWORKS, (SALES, SKIP)):
            told: list[selection.Choice] = []
            given = candidates(*names, epochs="60")
            found = shipped_forecaster(given, 50, told=told.append)(known, HORIZON, LEVELS)
            assert (COUNTS in told[0].blend.names) == (COUNTS in names)
            assert (found >= 0).all()
            level = np.array(LEVELS)[:, None]
            loss[names] = np.maximum(level * (y - found), (level - 1) * (y - found)).sum()
        assert loss[NETWORKS] < 0.95 * loss[SALES, SKIP]


class TestTrained:
    """With networks that learn."""

    def test_the_ratio_where_a_strong_season_repeats_itself_under_a_moving_level(self):
        choice = choose(seasonal(noise=0.05), candidates(epochs="40", learning_rate="0.02"), num_samples=20)
        assert next(iter(choice.blend.usual)) == RATIO
        assert choice.judgement.wape < 0.1 < choice.judgement.naive_wape

    def test_the_ratio_of_five_series_has_intervals_as_wide_as_they_should_be(self):
        """As it ships: few series once left it with medians that were right and intervals many times too wide."""
        rng = np.random.default_rng(8)
        season = np.tile(rng.lognormal(0, 0.5, 52), 3)[:130]
        panel = panel_of(100 * np.arange(1, 6)[:, None] * season * rng.lognormal(0, 0.1, (5, 130)))
        known, y = panel.until(panel.weeks[-13].item()), panel.sales[:, -12:]
        given = plans(Settings(target=RATIO), 12)[RATIO]
        low, middle, high = CANDIDATES[RATIO].forecast(given, known, 12, QUANTILES).swapaxes(0, 1)
        assert np.abs(y - middle).sum() / y.sum() < 0.13
        assert 0.6 < ((low <= y) & (y <= high)).mean() < 0.95
        assert (high - low).sum() / y.sum() < 0.5

    def test_sales_with_covariates_where_promotions_move_them(self):
        panel = promoted()
        given = candidates(*AUTO) | candidates(*NETWORKS, epochs="60")
        choice = choose(panel, given, num_samples=20)
        assert sum(choice.blend.usual.get(name, 0) for name in (SALES, SKIP, "trees")) > 0.7
        blind = choose(dataclasses.replace(panel, covariates=None), given, num_samples=20)
        assert choice.judgement.wape < 0.7 * blind.judgement.wape

    def test_the_last_value_serves_on_a_random_walk(self):
        given = candidates(*NETWORKS, "last_year", "recent_level", "last_value", epochs="20")
        choice = choose(walking(), given, num_samples=20)
        assert next(iter(choice.blend.usual)) == "last_value"

    def test_it_is_the_same_every_time(self):
        panel = seasonal(100)
        assert choose(panel, candidates(), 20) == choose(panel, candidates(), 20)


class TestChristmas:
    """Twice the usual week before Christmas of 2019 and of 2020; in 2021 its days lie in two weeks."""

    @pytest.mark.parametrize("series", [1, 6])
    def test_of_two_the_third_is_forecast(self, series):
        rng = np.random.default_rng(6)
        panel = panel_of(1000 * rng.normal(1, 0.02, (series, 150)), "2019-01-18")
        panel.sales[:, np.isin(panel.weeks, np.array(["2019-12-27", "2020-12-25"], "datetime64[D]"))] *= 2
        first, last = panel.weeks[[0, -1]].tolist()
        panel = dataclasses.replace(panel, events=retail_events(first, last))
        told: list[selection.Choice] = []
        found = shipped_forecaster(plans(Settings(), 8), told=told.append)(panel, 8, QUANTILES)
        low, middle, high = found[:, :, 3:5].sum(axis=2).T  # the weeks to 24 and to 31 December
        np.testing.assert_allclose(middle, 3000, rtol=0.1)
        assert ((low < 3000) & (high > 3000)).mean() > 0.6
        assert (found[:, 1, 3] > 1700).all()
        np.testing.assert_allclose(found[:, 1, [0, 1, 2, 5, 6, 7]], 1000, rtol=0.06)
        assert told[0].judgement.verdict == "passed"


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
        told: list[selection.Choice] = []
        forecasts = [shipped_forecaster(given, 10, told=told.append)(p, HORIZON, QUANTILES) for p in past]
        np.testing.assert_array_equal(*forecasts)
        assert told == [chosen[0]] * 2

    @pytest.mark.parametrize("name", OF_ANY_SALES)
    def test_a_window_tried_does_not_know_its_answer(self, name, both):
        given = candidates(name)[name]
        found = [network_forecast(name, given, p.until(self.CUTOFF.item()), HORIZON, LEVELS, 10) for p in both]
        np.testing.assert_array_equal(*found)


class TestForecaster:
    @pytest.mark.parametrize("quantiles", [(0.5,), QUANTILES, (0.05, 0.95)])
    def test_the_quantiles_asked_for_in_order(self, quantiles):
        forecast = shipped_forecaster(candidates(SALES), 20, told=lambda line: None)(walking(), 6, quantiles)
        assert forecast.shape == (16, len(quantiles), 6)
        assert (np.diff(forecast, axis=1) > 0).all()

    def test_it_is_what_the_candidates_say_as_the_choice_blends_it(self, monkeypatch):
        said = {SALES: np.full((16, HORIZON), 100.0), SKIP: np.full((16, HORIZON), 200.0)}
        play(monkeypatch, lambda name, history, horizon: (said[name], 10.0))
        blend = Blend.by({SALES: 3, SKIP: 1})
        choice = selection.Choice(blend, selection.Judgement("unjudged", ""), Calibration(((2.0,),)))
        monkeypatch.setattr(selection, "choose", lambda *given: choice)
        forecast = shipped_forecaster(candidates(SALES, SKIP), told=lambda line: None)(walking(), HORIZON, QUANTILES)
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
