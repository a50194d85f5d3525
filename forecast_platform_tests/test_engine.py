"""The engine: a model is what decided it, stored once, judged before it serves, and the same after a kill."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import threading
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform import deepar, engine
from forecast_platform.engine import Judgement, LocalEngine, Model, TooLittleHistory, hyperparameters, training_week
from forecast_platform.series.batch import read_batch, write_batch
from forecast_platform.series.encoding import to_series_set
from forecast_platform.series.panel import Panel
from forecast_platform.series.target import build_target
from forecast_platform.weeks import WEEK, WEEKDAYS, WeekCalendar

QUANTILES = (0.1, 0.5, 0.9)
PARAMETERS = hyperparameters(
    4, 4, 0, {"epochs": "2", "num_cells": "8", "num_layers": "1", "embedding_dimension": "2", "mini_batch_size": "32"}
)


def make_panel(series: int = 9, weeks: int = 40, seed: int = 0) -> Panel:
    """Stores of three departments; one gap, and every third series starts late."""
    rng = np.random.default_rng(seed)
    sales = 100 * (1 + np.arange(series))[:, None] * (1 + 0.2 * rng.standard_normal((series, weeks)))
    sales[1, 3] = np.nan
    sales[2::3, : weeks // 8] = np.nan
    dates = np.datetime64("2024-01-05") + 7 * np.arange(weeks)
    store, dept = np.arange(series) // 3 + 1, np.arange(series) % 3 + 1
    return Panel(store.astype(str), dept.astype(str), dates, sales.round(2))


PANEL = make_panel()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[LocalEngine, Model]:
    local = LocalEngine(tmp_path_factory.mktemp("models"))
    return local, local.train(PANEL, PARAMETERS, num_samples=20)


@pytest.fixture
def short() -> Panel:
    """Long enough to train on and too short to hold weeks out of: quick, for it is not judged."""
    return make_panel(series=36, weeks=11)


class TestAddress:
    def test_the_same_training_again_is_the_stored_model(self, trained, monkeypatch):
        local, model = trained

        def no_training(*arguments, **named):
            raise AssertionError("trained again")

        monkeypatch.setattr(deepar, "train", no_training)
        before = {p: p.stat().st_mtime_ns for p in local.models.rglob("*")}
        copy = dataclasses.replace(PANEL, sales=PANEL.sales.copy())
        assert local.train(copy, dict(reversed(PARAMETERS.items())), num_samples=20) == model
        assert LocalEngine(local.models).train(PANEL, PARAMETERS, num_samples=20) == model
        assert {p: p.stat().st_mtime_ns for p in local.models.rglob("*")} == before

    def test_the_same_training_elsewhere_gives_the_same_model(self, tmp_path, short):
        models = [LocalEngine(tmp_path / name).train(short, PARAMETERS) for name in "ab"]
        assert models[0].digest == models[1].digest
        assert models[0].version == models[1].version
        assert models[0].loss_curve == models[1].loss_curve
        assert models[0].artifact.read_bytes() == models[1].artifact.read_bytes()

    def test_whatever_decides_a_model_changes_its_digest(self, tmp_path, short, monkeypatch):
        # What matters here is the address, so nothing is trained.
        asked = []

        def remember(folder):
            asked.append(folder.name)
            raise FileNotFoundError

        monkeypatch.setattr(engine.Model, "load", remember)
        monkeypatch.setattr(engine.Path, "exists", lambda path: True)

        def digest(panel=short, parameters=PARAMETERS, num_samples=100) -> str:
            with pytest.raises(FileNotFoundError):
                LocalEngine(tmp_path).train(panel, parameters, num_samples=num_samples)
            return asked[-1]

        changed = short.sales.copy()
        changed[0, -1] += 0.01
        digests = [
            digest(),
            digest(panel=dataclasses.replace(short, sales=changed)),
            digest(panel=short.until(short.weeks[-2])),
            digest(parameters={**PARAMETERS, "seed": "1"}),
            digest(parameters={**PARAMETERS, "num_cells": "9"}),
            digest(parameters={k: v for k, v in PARAMETERS.items() if k != "mini_batch_size"}),
            digest(num_samples=99),
        ]
        assert digest() == digests[0]
        monkeypatch.setattr(engine, "code_version", lambda: "other code")
        digests.append(digest())
        assert len(set(digests)) == len(digests)

    def test_code_version_is_of_the_engines_source(self):
        assert engine.code_version() == engine.code_version.__wrapped__()
        assert len(engine.code_version()) == 12

    def test_hyperparameters_are_strings_and_an_installations_own_win(self):
        parameters = hyperparameters(12, 8, 3, {"learning_rate": "0.1", "seed": "5"})
        assert all(isinstance(value, str) for value in parameters.values())
        assert (parameters["context_length"], parameters["prediction_length"]) == ("12", "8")
        assert (parameters["learning_rate"], parameters["seed"]) == ("0.1", "5")
        deepar.HyperParameters.parse({"epochs": "1", **parameters})


class TestRhythm:
    @settings(derandomize=True)
    @given(st.sampled_from(WEEKDAYS), st.integers(0, 600), st.integers(1, 60))
    def test_training_week_is_the_last_of_a_fixed_rhythm(self, end, position, every):
        calendar = WeekCalendar(end)
        week = calendar.first_week + position * WEEK
        trained = training_week(week, calendar, every)
        assert week - every * WEEK < trained <= week
        assert training_week(trained, calendar, every) == trained
        assert int(calendar.index(trained)) % every == 0
        assert calendar.require(trained) == trained

    def test_weeks_between_share_a_model(self):
        calendar = WeekCalendar("FRI")
        weeks = [calendar.first_week + i * WEEK for i in range(12)]
        assert len({training_week(w, calendar, 4) for w in weeks}) == 3
        assert [training_week(w, calendar, 1) for w in weeks] == weeks


class TestTooLittle:
    def test_weeks(self, tmp_path):
        with pytest.raises(TooLittleHistory, match=r"^7 weeks and 420 observations up to 2024-02-16; .* 8 weeks "):
            LocalEngine(tmp_path).train(Panel(*_flat(60, 7)), PARAMETERS)
        assert not list(tmp_path.iterdir())

    def test_observations(self, tmp_path):
        with pytest.raises(TooLittleHistory, match=r"^40 weeks and 280 observations .* and 300 observations"):
            LocalEngine(tmp_path).train(Panel(*_flat(7, 40)), PARAMETERS)

    def test_observations_that_suffice_to_train_but_not_to_hold_weeks_out(self, tmp_path):
        model = LocalEngine(tmp_path).train(Panel(*_flat(8, 39)), PARAMETERS)
        assert model.observations == 312
        assert model.judgement.verdict == "unjudged"
        assert "280 observations" in model.judgement.why
        assert model.judgement.wape is None


def _flat(series: int, weeks: int):
    names = np.arange(series).astype(str)
    rng = np.random.default_rng(0)
    return names, names, np.datetime64("2024-01-05") + 7 * np.arange(weeks), rng.uniform(50, 150, (series, weeks))


class TestJudgement:
    def test_a_history_too_short_is_not_judged_but_served(self, tmp_path, short):
        model = LocalEngine(tmp_path).train(short, PARAMETERS)
        assert model.judgement == Judgement("unjudged", "11 weeks of history are too few to hold out 4 of them")

    def test_the_backtest_held_out_the_last_weeks(self, trained):
        _, model = trained
        judgement = model.judgement
        assert judgement.cutoff == dt.date(2024, 1, 5) + 35 * WEEK
        assert model.trained_as_of == judgement.cutoff + 4 * WEEK
        assert 0 < judgement.wape < 5
        assert 0 < judgement.wql < 5
        assert 0 <= judgement.coverage80 <= 1
        assert f"{judgement.wape:.4f}" in judgement.why
        assert f"{judgement.naive_wape:.4f}" in judgement.why

    @pytest.mark.parametrize(("perfect", "verdict"), [(True, "passed"), (False, "below_naive")])
    def test_the_verdict_compares_with_last_years_week(self, tmp_path, monkeypatch, perfect, verdict):
        """Against a naive that repeats a year which was far off: knowing the answer passes, nonsense does not."""

        def forecaster(*arguments):
            def forecast(history, horizon, quantiles):
                assert len(history.weeks) == 36, "the last weeks are not shown"
                answer = PANEL.sales[:, 36:] if perfect else np.full((len(history), horizon), 1e6)
                return np.repeat(answer[:, None], len(quantiles), axis=1)

            return forecast

        monkeypatch.setattr(engine, "deepar_forecaster", forecaster)
        model = LocalEngine(tmp_path).train(PANEL, {**PARAMETERS, "epochs": "1"})
        assert model.judgement.verdict == verdict
        assert (model.judgement.wape == 0) is perfect

    def test_the_model_that_serves_has_seen_the_weeks_held_out(self, trained):
        _, model = trained
        assert model.series == len(PANEL)
        assert model.observations == int(PANEL.observed.sum())


class TestStored:
    def test_round_trip(self, trained, tmp_path):
        _, model = trained
        assert Model.load(model.folder) == model
        text = json.loads((model.folder / "training.json").read_text())
        assert text["folder"] is None, "a model folder may be moved"
        moved = model.folder.rename(tmp_path / "moved")
        try:
            assert Model.load(moved) == dataclasses.replace(model, folder=moved)
            assert Model.load(moved).artifact.exists()
        finally:
            moved.rename(model.folder)

    def test_an_unjudged_one_too(self, tmp_path, short):
        model = LocalEngine(tmp_path).train(short, PARAMETERS)
        assert Model.load(model.folder) == model
        assert model.judgement.cutoff is None

    def test_only_the_model_is_left_in_the_folder(self, trained):
        local, model = trained
        assert [p.name for p in local.models.glob("[!.]*")] == [model.digest]
        assert sorted(p.name for p in model.folder.iterdir()) == ["model.tar.gz", "training.json"]
        assert len(model.loss_curve) == 2
        assert model.train_windows > 0

    def test_two_runs_that_want_the_same_model_train_it_once(self, tmp_path, short):
        trained = []

        def wants():
            told = []
            model = LocalEngine(tmp_path).train(short, PARAMETERS, progress=lambda *step: told.append(step))
            trained.append((model.version, bool(told)))

        runs = [threading.Thread(target=wants) for _ in range(2)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert len({version for version, _ in trained}) == 1
        assert sorted(told for _, told in trained) == [False, True]

    def test_progress_is_told(self, tmp_path, short):
        told = []
        LocalEngine(tmp_path).train(short, PARAMETERS, progress=lambda *step: told.append(step))
        assert told == [("train", 1, 2), ("train", 2, 2)]


class TestKilled:
    LONG: ClassVar[dict[str, str]] = {**PARAMETERS, "epochs": "14"}

    def test_a_training_killed_half_way_goes_on_and_ends_in_the_same_model(self, tmp_path, short):
        whole = LocalEngine(tmp_path / "whole").train(short, self.LONG)

        def killed(what, done, total):
            if done == 12:
                raise KeyboardInterrupt

        local = LocalEngine(tmp_path / "killed")
        with pytest.raises(KeyboardInterrupt):
            local.train(short, self.LONG, progress=killed)
        assert not (local.models / whole.digest).exists(), "half a model is never found"
        steps = []
        model = local.train(short, self.LONG, progress=lambda what, done, total: steps.append(done))
        assert steps == [11, 12, 13, 14], "from the checkpoint of epoch 10"
        assert (model.version, model.loss_curve) == (whole.version, whole.loss_curve)
        assert model.artifact.read_bytes() == whole.artifact.read_bytes()
        assert [p.name for p in local.models.glob("[!.]*")] == [model.digest]

    def test_killed_while_writing_the_model(self, tmp_path, short, monkeypatch):
        save = deepar.save_artifact

        def killed(model, path):
            save(model, path)
            raise KeyboardInterrupt

        local = LocalEngine(tmp_path)
        monkeypatch.setattr(deepar, "save_artifact", killed)
        with pytest.raises(KeyboardInterrupt):
            local.train(short, PARAMETERS)
        monkeypatch.undo()
        model = local.train(short, PARAMETERS)
        assert [p.name for p in tmp_path.glob("[!.]*")] == [model.digest], "what was half written is gone"


class TestTransform:
    def transform(self, trained, folder, panel: Panel, shards: int, seed: int = 7):
        local, model = trained
        batch = write_batch(folder, panel, build_target(panel, 4, "sales"), model.categories, shards)
        assert local.transform(model, batch, 25, QUANTILES, seed) == len(panel)
        return list(read_batch(batch, QUANTILES, 4))

    @pytest.mark.parametrize("shards", [1, 3])
    def test_a_batch_says_what_predict_says(self, trained, tmp_path, shards):
        _, model = trained
        parts = self.transform(trained, tmp_path / "batch", PANEL, shards)
        assert len(parts) == shards
        direct = deepar.predict(
            deepar.load_artifact(model.artifact), to_series_set(PANEL, model.categories), num_samples=25,
            quantiles=("0.1", "0.5", "0.9"), seed=7, output_types=("mean", "quantiles", "samples"),
        )  # fmt: skip
        for name in ("mean", "quantiles", "samples"):
            found = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_allclose(found, getattr(direct, name), rtol=2e-5, atol=1e-3, err_msg=name)

    def test_the_same_seed_gives_the_same_bytes_and_another_does_not(self, trained, tmp_path):
        outputs = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            self.transform(trained, tmp_path / name, PANEL, 2, seed)
            outputs.append([p.read_bytes() for p in sorted((tmp_path / name / "output").iterdir())])
        assert outputs[0] == outputs[1] != outputs[2]

    def test_stores_and_departments_the_model_never_saw_are_served(self, trained, tmp_path):
        panel = dataclasses.replace(
            PANEL, store=np.array([*PANEL.store[:-2], "77", "77"]), dept=np.array([*PANEL.dept[:-1], "food"])
        )
        parts = self.transform(trained, tmp_path / "batch", panel, 1)
        assert np.isfinite(parts[0].samples).all()
        assert (parts[0].mean[-1] > 0).all()

    def test_a_series_of_one_week_is_served(self, trained, tmp_path):
        sales = PANEL.sales.copy()
        sales[0, :-1] = np.nan
        parts = self.transform(trained, tmp_path / "batch", dataclasses.replace(PANEL, sales=sales), 1)
        assert np.isfinite(parts[0].quantiles).all()

    def test_progress_counts_shards(self, trained, tmp_path):
        local, model = trained
        told = []
        batch = write_batch(tmp_path / "batch", PANEL, build_target(PANEL, 4, "sales"), model.categories, 3)
        local.transform(model, batch, 10, QUANTILES, 0, progress=lambda *step: told.append(step))
        assert told == [("predict", 1, 3), ("predict", 2, 3), ("predict", 3, 3)]

    def test_a_forecaster_of_the_backtest_gives_quantiles_in_order(self):
        forecast = engine.deepar_forecaster(PARAMETERS, 20)(PANEL.until(PANEL.weeks[35]), 4, QUANTILES)
        assert forecast.shape == (len(PANEL), 3, 4)
        assert (np.diff(forecast, axis=1) >= 0).all()


class TestTarget:
    """The choice between sales and their ratio to last year."""

    SALES: ClassVar[dict[str, str]] = {**PARAMETERS, "epochs": "150", "learning_rate": "0.01"}
    RATIO: ClassVar[dict[str, str]] = {
        **SALES,
        "scaling_length": "8",
        "scaling_power": "0.7",
        "time_features": "ignore",
        "lag_support": "8",
    }

    @staticmethod
    def seasonal(noise: float) -> Panel:
        """Two years whose season is nothing but last year's: a short training cannot learn it."""
        rng = np.random.default_rng(5)
        season = rng.lognormal(0, 0.8, 52)
        sales = np.tile(season, 3)[:130] * np.arange(2, 14)[:, None] * 50 * rng.lognormal(0, noise, (12, 130))
        weeks = np.datetime64("2022-01-07") + 7 * np.arange(130)
        return Panel(np.repeat(["1", "2", "3"], 4), np.tile(list("abcd"), 3), weeks, sales)

    def test_the_ratio_is_chosen_where_last_year_repeats_itself(self, tmp_path):
        panel = self.seasonal(0.02)
        model = LocalEngine(tmp_path).train(panel, self.SALES, ratio=self.RATIO)
        assert model.target == "ratio"
        assert model.judgement.wape < 0.1
        assert "sales" in model.judgement.why
        assert model.hyperparameters["scaling_length"] == "8"
        assert Model.load(model.folder) == model

    def test_sales_are_kept_where_the_ratio_is_not_asked_for_or_not_possible(self, tmp_path, short):
        panel = self.seasonal(0.02)
        assert LocalEngine(tmp_path).train(panel, self.SALES).target == "sales"
        assert LocalEngine(tmp_path).train(short, self.SALES, ratio=self.RATIO).target == "sales"

    def test_a_batch_of_the_ratio_comes_back_in_sales(self, tmp_path):
        panel = self.seasonal(0.02)
        local = LocalEngine(tmp_path / "models")
        model = local.train(panel, self.SALES, ratio=self.RATIO)
        view = build_target(panel, 4, "ratio")
        batch = write_batch(tmp_path / "batch", panel, view, model.categories, 2)
        local.transform(model, batch, 25, QUANTILES, 0)
        parts = list(read_batch(batch, QUANTILES, 4))
        median = np.concatenate([part.quantiles[:, 1] for part in parts])
        actual = np.tile(self.seasonal(0.0).sales[:, 26:30], 1)  # weeks 130 .. 133 repeat weeks 26 .. 29
        assert np.abs(median / actual - 1).mean() < 0.1
        mean, samples = (np.concatenate([getattr(p, name) for p in parts]) for name in ("mean", "samples"))
        np.testing.assert_allclose(samples.mean(axis=1), mean, rtol=1e-3)
        forecast = engine.deepar_forecaster(model.hyperparameters, 25, target="ratio")(panel, 4, QUANTILES)
        np.testing.assert_allclose(forecast[:, 1], median, rtol=1e-3)
