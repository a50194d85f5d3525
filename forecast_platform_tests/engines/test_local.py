"""The engine: a model is what decided it, stored once, judged before it serves, and the same after a kill."""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform import deepar
from forecast_platform.engines.base import Asked, split
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import ShardForecast
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.models import choose as selection
from forecast_platform.models import networks
from forecast_platform.models import trained as module
from forecast_platform.models.blend import Blend
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.choose import Choice, Judgement, shipped_forecaster
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.encoding import to_series_set
from forecast_platform.models.networks import COUNTS, SHIPPED, SKIP
from forecast_platform.models.registry import plans
from forecast_platform.models.target import RATIO, REFERENCE, SALES
from forecast_platform.models.trained import ModelLost, TooLittleHistory, TrainedModel, training_panel, training_week
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK, WEEKDAYS, WeekCalendar

QUANTILES = (0.1, 0.5, 0.9)
SMALL = {"epochs": "2", "num_cells": "8", "embedding_dimension": "2", "mini_batch_size": "32", "num_networks": "1"}


def candidates(target: str = "sales", **changes: str) -> dict[str, dict[str, str]]:
    return plans(Settings(context_length=4, prediction_length=4, target=target, hyperparameters={**SMALL, **changes}))


ONE = candidates()
LONG = candidates(epochs="14")


def artifact(model: TrainedModel) -> bytes:
    """Of a model of one network."""
    (network,) = model.networks
    return model.artifact(network).read_bytes()


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
def trained(tmp_path_factory) -> tuple[LocalEngine, TrainedModel]:
    local = LocalEngine(tmp_path_factory.mktemp("models"))
    return local, local.train(PANEL, ONE, num_samples=20)


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
        reordered = {name: dict(reversed(parameters.items())) for name, parameters in ONE.items()}
        assert local.train(copy, reordered, num_samples=20) == model
        assert LocalEngine(local.models).train(PANEL, ONE, num_samples=20) == model
        assert {p: p.stat().st_mtime_ns for p in local.models.rglob("*")} == before

    def test_the_same_training_elsewhere_gives_the_same_model(self, tmp_path, short):
        models = [LocalEngine(tmp_path / name).train(short, ONE) for name in "ab"]
        assert models[0].digest == models[1].digest
        assert models[0].version == models[1].version
        assert models[0].networks[0].loss_curve == models[1].networks[0].loss_curve
        assert artifact(models[0]) == artifact(models[1])

    def test_whatever_decides_a_model_changes_its_digest(self, tmp_path, short, monkeypatch):
        # What matters here is the address, so nothing is trained.
        asked = []

        def remember(folder):
            asked.append(folder.name)
            raise FileNotFoundError

        monkeypatch.setattr(module.TrainedModel, "load", remember)
        monkeypatch.setattr(module.Path, "exists", lambda path: True)

        def digest(panel=short, plans=ONE, num_samples=100) -> str:
            with pytest.raises(FileNotFoundError):
                LocalEngine(tmp_path).train(panel, plans, num_samples=num_samples)
            return asked[-1]

        changed = short.sales.copy()
        changed[0, -1] += 0.01
        other, another = promoted(short), promoted(short)
        another.covariates.values[0, 0, 0] = 1 - another.covariates.values[0, 0, 0]
        digests = [
            digest(),
            digest(panel=dataclasses.replace(short, sales=changed)),
            digest(panel=short.until(short.weeks[-2])),
            digest(panel=other),
            digest(panel=another),
            digest(panel=dataclasses.replace(short, exposure=other.covariates)),
            digest(plans=candidates(seed="1")),
            digest(plans=candidates(num_cells="9")),
            digest(plans={SALES: {k: v for k, v in ONE[SALES].items() if k != "mini_batch_size"}}),
            digest(plans=candidates("auto")),
            digest(num_samples=99),
        ]
        assert digest() == digests[0]
        monkeypatch.setattr(module, "code_version", lambda: "other code")
        digests.append(digest())
        assert len(set(digests)) == len(digests)

    def test_code_version_is_kept_for_the_process(self):
        assert module.code_version() == module.code_version.__wrapped__()
        assert len(module.code_version()) == 12

    @pytest.mark.parametrize(
        "name",
        [
            "trained",
            "choose",
            "calibration",
            "dependence",
            "covariates",
            "holidays",
            "reference",
            "target",
            "panel",
            "network",
            "kernels",
        ],
    )
    def test_a_change_of_what_trains_chooses_and_prepares_is_a_change_of_model(self, monkeypatch, name):
        before, read = module.code_version.__wrapped__(), Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == f"{name}.py"))
        assert module.code_version.__wrapped__() != before

    @pytest.mark.parametrize("name", ["accuracy", "forecasts", "local", "batch", "rules", "app"])
    def test_a_change_of_what_scores_publishes_or_lands_is_none(self, monkeypatch, name):
        before, read = module.code_version.__wrapped__(), Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == f"{name}.py"))
        assert module.code_version.__wrapped__() == before

    def test_what_training_imports_is_among_what_decides(self):
        """A process that trains has these modules loaded; what decides a model is no less, by the imports written."""
        code = (
            "import sys, forecast_platform.models.trained, forecast_platform.deepar as d; d.train; d.save_artifact;"
            "print(*[n for n in sys.modules if n.startswith(('forecast_platform.models', 'forecast_platform.history',"
            "'forecast_platform.deepar'))])"
        )
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert set(loaded) <= set(module.deciding_modules())
        assert {"forecast_platform.kernels", "forecast_platform.history.panel"} <= set(module.deciding_modules())

    def test_every_import_of_ours_is_seen(self):
        """They are looked for by a pattern; here the source is parsed."""
        for path in module.deciding_modules().values():
            imported = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
            plain = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Import)]
            assert not [each.name for node in plain for each in node.names if each.name.startswith("forecast_platform")]
            written = {
                (node.module, each.name)
                for node in imported
                for each in node.names
                if node.module and node.module.startswith("forecast_platform")
            }
            seen = {(of, name) for of, names in module.imports_of(path.read_text()) for name in names}
            assert written <= seen, path


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
        weeks = calendar.dates(range(12)).tolist()
        assert len({training_week(w, calendar, 4) for w in weeks}) == 3
        assert [training_week(w, calendar, 1) for w in weeks] == weeks


class TestTrainingPanel:
    def test_a_model_is_trained_on_the_weeks_up_to_its_training_week(self):
        week = PANEL.weeks[37].item()
        panel = training_panel(make_panel(series=36), week, ONE)
        assert panel.weeks[-1] == PANEL.weeks[37]

    @pytest.mark.parametrize("position", [-5, 0, 10])
    def test_or_on_all_of_them_when_those_are_too_few_to_train_on_and_judge(self, position):
        week = PANEL.weeks[0].item() + position * WEEK
        assert training_panel(PANEL, week, ONE) is PANEL


class TestTooLittle:
    def test_weeks(self, tmp_path):
        with pytest.raises(TooLittleHistory, match=r"^7 weeks and 420 observations up to 2024-02-16; .* 8 weeks "):
            LocalEngine(tmp_path).train(Panel(*_flat(60, 7)), ONE)
        assert not list(tmp_path.iterdir())

    def test_observations(self, tmp_path):
        with pytest.raises(TooLittleHistory, match=r"^40 weeks and 280 observations .* and 300 observations"):
            LocalEngine(tmp_path).train(Panel(*_flat(7, 40)), ONE)

    def test_observations_that_suffice_to_train_but_not_to_hold_weeks_out(self, tmp_path):
        model = LocalEngine(tmp_path).train(Panel(*_flat(8, 39)), ONE)
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
        model = LocalEngine(tmp_path).train(short, ONE)
        assert model.judgement == Judgement(
            "unjudged",
            "served: 100% sales; not judged: no candidate is able with the weeks up to 2024-02-16 (sales: "
            "239 observations to train on, 300 are needed)",
            left_out={"sales": "239 observations to train on, 300 are needed"},
        )

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

    def test_the_model_that_serves_has_seen_the_weeks_held_out(self, trained):
        _, model = trained
        assert model.series == len(PANEL)
        assert model.observations == int(PANEL.observed.sum())


class TestStored:
    def test_round_trip(self, trained, tmp_path):
        _, model = trained
        assert TrainedModel.load(model.folder) == model
        text = json.loads((model.folder / "training.json").read_text())
        assert text["folder"] is None, "a model folder may be moved"
        moved = model.folder.rename(tmp_path / "moved")
        try:
            assert TrainedModel.load(moved) == dataclasses.replace(model, folder=moved)
            assert artifact(TrainedModel.load(moved))
        finally:
            moved.rename(model.folder)

    def test_one_of_before_there_were_blends_is_refused_and_says_what_to_do(self, trained, tmp_path):
        """It served one candidate about a mixed median; a blend of the same would have other intervals."""
        _, model = trained
        text = json.loads((model.folder / "training.json").read_text())
        del text["networks"], text["blend"]
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "training.json").write_text(json.dumps({**text, "share": 0.75}))
        with pytest.raises(
            ModelLost, match=r"made by an earlier version .* materialize deepar_model for its week again"
        ):
            LocalEngine(tmp_path).model("old")

    def test_one_of_another_version_of_the_code_is_told(self, trained, tmp_path):
        local, model = trained
        asked = Asked(QUANTILES, 5, 0)
        for code, told in ((model.code, 0), ("another", 1)):
            _, notices = local.predict(dataclasses.replace(model, code=code), [PANEL], tmp_path / "week", asked)
            assert sum("was made by another version of the platform" in notice for notice in notices) == told

    def test_an_unjudged_one_too(self, tmp_path, short):
        model = LocalEngine(tmp_path).train(short, ONE)
        assert TrainedModel.load(model.folder) == model
        assert model.judgement.cutoff is None

    def test_only_the_model_is_left_in_the_folder(self, trained):
        local, model = trained
        assert [p.name for p in local.models.glob("[!.]*")] == [model.digest]
        assert sorted(p.name for p in model.folder.iterdir()) == ["model.tar.gz", "training.json"]
        (network,) = model.networks
        assert len(network.loss_curve) == 2
        assert network.train_windows > 0

    def test_two_runs_that_want_the_same_model_train_it_once(self, tmp_path, short):
        trained = []

        def wants():
            told = []
            model = LocalEngine(tmp_path).train(short, ONE, progress=lambda *step: told.append(step))
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
        LocalEngine(tmp_path).train(short, ONE, progress=lambda *step: told.append(step))
        assert told == [("train", 1, 2), ("train", 2, 2)]


class TestKilled:
    def test_a_training_killed_half_way_goes_on_and_ends_in_the_same_model(self, tmp_path, short):
        whole = LocalEngine(tmp_path / "whole").train(short, LONG)

        def killed(what, done, total):
            if done == 12:
                raise KeyboardInterrupt

        local = LocalEngine(tmp_path / "killed")
        with pytest.raises(KeyboardInterrupt):
            local.train(short, LONG, progress=killed)
        assert not (local.models / whole.digest).exists(), "half a model is never found"
        steps = []
        model = local.train(short, LONG, progress=lambda what, done, total: steps.append(done))
        assert steps == [11, 12, 13, 14], "from the checkpoint of epoch 10"
        assert (model.version, model.networks) == (
            whole.version, (dataclasses.replace(whole.networks[0], train_seconds=model.networks[0].train_seconds,
                                                train_windows=model.networks[0].train_windows),)
        )  # fmt: skip
        assert artifact(model) == artifact(whole)
        assert [p.name for p in local.models.glob("[!.]*")] == [model.digest]

    def test_killed_while_writing_the_model(self, tmp_path, short, monkeypatch):
        save = deepar.save_artifact

        def killed(model, path):
            save(model, path)
            raise KeyboardInterrupt

        local = LocalEngine(tmp_path)
        monkeypatch.setattr(deepar, "save_artifact", killed)
        with pytest.raises(KeyboardInterrupt):
            local.train(short, ONE)
        monkeypatch.undo()
        model = local.train(short, ONE)
        assert [p.name for p in tmp_path.glob("[!.]*")] == [model.digest], "what was half written is gone"


def predicted(local: LocalEngine, model: TrainedModel, panel: Panel, folder: Path, shards: int = 1, seed: int = 0):
    """The forecasts of a panel, all shards together."""
    made, _ = local.predict(model, split(panel, shards), folder, Asked(QUANTILES, 25, seed))
    assert made.series == len(panel)
    return ShardForecast.together(list(made.shards(QUANTILES, 4)))


class TestPredict:
    @pytest.mark.parametrize("shards", [1, 3])
    def test_it_says_what_the_network_says(self, trained, tmp_path, shards):
        local, model = trained
        alone = dataclasses.replace(model, calibration=Calibration())
        asked = 7  # the seed
        found = predicted(local, alone, PANEL, tmp_path / "week", shards, seed=asked)
        direct = deepar.predict(
            deepar.load_artifact(model.artifact(model.networks[0])),
            to_series_set(PANEL, model.networks[0].categories), num_samples=25,
            quantiles=("0.1", "0.5", "0.9"), seed=7, output_types=("quantiles", "samples"),
        )  # fmt: skip
        # The network may go below 0; what is published of sales that never did, does not.
        np.testing.assert_allclose(found.quantiles, np.maximum(direct.quantiles, 0), rtol=1e-9)
        paths = np.maximum(direct.samples.astype(float), 0)
        np.testing.assert_allclose(found.mean, paths.mean(axis=1), rtol=1e-9)
        paths = Dependence().arranged(paths, PANEL.store, PANEL.dept, asked)
        np.testing.assert_allclose(found.sums["total"].values[0], paths.sum(axis=0), rtol=1e-9)

    def test_the_same_seed_gives_the_same_bytes_and_another_does_not(self, trained, tmp_path):
        outputs = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            predicted(*trained, PANEL, tmp_path / name, 2, seed)
            outputs.append([p.read_bytes() for p in sorted((tmp_path / name).iterdir())])
        assert outputs[0] == outputs[1] != outputs[2]

    def test_stores_and_departments_the_model_never_saw_are_served(self, trained, tmp_path):
        panel = dataclasses.replace(
            PANEL, store=np.array([*PANEL.store[:-2], "77", "77"]), dept=np.array([*PANEL.dept[:-1], "food"])
        )
        found = predicted(*trained, panel, tmp_path / "week")
        assert (found.mean[-1] > 0).all()

    def test_a_series_of_one_week_is_served(self, trained, tmp_path):
        sales = PANEL.sales.copy()
        sales[0, :-1] = np.nan
        found = predicted(*trained, dataclasses.replace(PANEL, sales=sales), tmp_path / "week")
        assert np.isfinite(found.quantiles).all()

    def test_progress_counts_shards(self, trained, tmp_path):
        local, model = trained
        told = []
        asked = Asked(QUANTILES, 10, 0)
        local.predict(model, split(PANEL, 3), tmp_path / "week", asked, progress=lambda *step: told.append(step))
        assert told == [("predict", 1, 3), ("predict", 2, 3), ("predict", 3, 3)]

    def test_no_series_at_all(self, trained, tmp_path):
        local, model = trained
        made, notices = local.predict(model, [], tmp_path / "week", Asked(QUANTILES, 5, 0))
        assert (made.series, notices, list(made.shards(QUANTILES, 4))) == (0, (), [])


def promoted(panel: Panel, name: str = "promo", weeks_ahead: int = 4) -> Panel:
    """With a covariate known that far ahead."""
    values = (np.arange(len(panel.weeks) + weeks_ahead) + np.arange(len(panel))[:, None]) % 3.0
    return dataclasses.replace(panel, covariates=Covariates((Declaration(name),), values[None]))


class TestChosen:
    """What the backtest chose is stored with the model and decides what is published."""

    WEEKS = 92
    CANDIDATES = candidates("auto") | candidates("reference")
    PLAYED = Judgement("unjudged", "played")
    CHOICES = (
        Choice(Blend.by({SALES: 3, "last_value": 1}), PLAYED,
               Calibration(((2.0, 0.5), (1.0, 3.0), (1.5, 1.0)), (500.0,))),
        Choice(Blend.by({SKIP: 1, RATIO: 2}), PLAYED),
        Choice(Blend.alone(REFERENCE), PLAYED),
        Choice(Blend({RATIO: (0.5, 0.9, 0.1), "aligned_last_year": (0.5, 0.1, 0.9)}), PLAYED,
               Calibration(((1.0, 2.0),), (300.0,))),
        Choice(Blend.by({"last_year": 1, "recent_level": 1}), PLAYED),
        Choice(Blend.by({"trees": 2, SALES: 1}), PLAYED),
    )  # fmt: skip

    @pytest.fixture(params=CHOICES, ids=lambda choice: " ".join(choice.blend.names))
    def choice(self, request, monkeypatch) -> Choice:
        if "trees" in request.param.blend.names:
            pytest.importorskip("lightgbm", reason="the extra `trees` is not installed")
        for place in (module, selection):
            monkeypatch.setattr(place, "choose", lambda *given: request.param)
        return request.param

    @pytest.fixture
    def panel(self) -> Panel:
        """With a promotion, and stores open for half of the first week ahead and not at all in the second."""
        panel = promoted(make_panel(weeks=self.WEEKS))
        days = np.full((1, len(panel), self.WEEKS + 4), 6.0)
        days[:, :, self.WEEKS : self.WEEKS + 2] = [3, 0]
        return dataclasses.replace(panel, exposure=Covariates((Declaration("open_days"),), days))

    @pytest.fixture
    def made(self, tmp_path, panel, choice) -> tuple[LocalEngine, TrainedModel]:
        local = LocalEngine(tmp_path / "models")
        return local, local.train(panel, self.CANDIDATES)

    def test_it_is_stored_and_loaded(self, made, choice):
        local, model = made
        assert (model.blend, model.calibration) == (choice.blend, choice.calibration)
        learned = [name for name in choice.blend.usual if name in SHIPPED]
        assert [network.name for network in model.networks] == learned
        assert (model.trees is not None) == ("trees" in choice.blend.names) == (model.folder / "trees.json").exists()
        assert model.target == next((n for n in choice.blend.usual if n in (*learned, "trees")), choice.blend.names[0])
        assert model.version.startswith("trees-") == (model.target == "trees")
        assert model.network_share == pytest.approx(sum(choice.blend.usual[name] for name in learned))
        for network in model.networks:
            assert model.artifact(network).exists()
            assert network.hyperparameters == self.CANDIDATES[network.name]
        assert model.features[:1] == (("promo",) if learned else ())
        assert model.hyperparameters == self.CANDIDATES[model.target]
        assert TrainedModel.load(model.folder) == model
        assert local.models / model.digest == model.folder

    def test_what_is_published_is_what_the_backtest_would_have_scored(self, made, panel, tmp_path):
        local, model = made
        found = predicted(local, model, panel, tmp_path / "week", 2).quantiles
        want = shipped_forecaster(self.CANDIDATES, 25, told=lambda line: None)(panel, 4, QUANTILES)
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=0.05)
        np.testing.assert_array_equal(found[:, :, 1], 0)


def test_a_return_landed_after_a_model_of_counts_was_trained_stops_nothing(tmp_path, monkeypatch):
    """Its network takes nothing but counts; the next training will choose another."""
    monkeypatch.setattr(module, "choose", lambda *given: Choice(Blend.alone(COUNTS), Judgement("unjudged", "played")))
    counts = dataclasses.replace(PANEL, sales=np.round(PANEL.sales / 100))
    local = LocalEngine(tmp_path / "models")
    model = local.train(counts, candidates("auto"))
    sales = counts.sales.copy()
    sales[0, -1], sales[1, -1] = -3.0, 2.5
    found = predicted(local, model, dataclasses.replace(counts, sales=sales), tmp_path / "week")
    assert np.isfinite(found.quantiles).all()
    assert found.quantiles[1:].min() >= 0


def test_the_choice_is_asked_for_as_the_backtest_asks(tmp_path, monkeypatch):
    """Epochs are for the history a network is trained on, which is shorter in the windows tried."""
    asked = []

    def played(panel, candidates, num_samples=100, progress=None):
        asked.append({name: dict(given) for name, given in candidates.items()})
        return Choice(Blend.alone(SALES), Judgement("unjudged", "played"))

    for place in (module, selection):
        monkeypatch.setattr(place, "choose", played)
        monkeypatch.setattr(networks, "TRAIN_WINDOWS", dict.fromkeys(networks.TRAIN_WINDOWS, 400))
    given = {name: {k: v for k, v in c.items() if k != "epochs"} for name, c in candidates("auto").items()}
    model = LocalEngine(tmp_path).train(PANEL, given)
    shipped_forecaster(given, 10, told=lambda line: None)(PANEL, 4, QUANTILES)
    assert asked[0] == asked[1]
    assert int(model.hyperparameters["epochs"]) >= 10


def test_a_column_that_was_left_out_makes_another_model_once_it_is_complete(tmp_path):
    local, whole = LocalEngine(tmp_path), promoted(make_panel(series=36, weeks=11))
    planned = dataclasses.replace(whole.covariates.columns[0], declared=False)
    whole = dataclasses.replace(whole, covariates=Covariates((planned,), whole.covariates.values))
    ends = dataclasses.replace(whole, covariates=Covariates((planned,), whole.covariates.values[:, :, :11]))
    without, with_it = local.train(ends, ONE), local.train(whole, ONE)
    assert (without.features, with_it.features[:1]) == ((), ("promo",))
    assert without.digest != with_it.digest


class TestPrepared:
    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory) -> tuple[LocalEngine, TrainedModel]:
        local = LocalEngine(tmp_path_factory.mktemp("models"))
        return local, local.train(promoted(make_panel(series=36, weeks=11)), ONE)

    def test_a_later_week_of_other_series_is_served(self, made, tmp_path):
        local, model = made
        found = predicted(local, model, promoted(make_panel(series=40, weeks=15)), tmp_path / "week", 3)
        assert len(found.store) == 40

    def test_columns_the_model_does_not_know_are_not_shown_to_it(self, made, tmp_path):
        local, model = made
        panel = promoted(make_panel(series=36, weeks=15))
        more = Covariates(
            (Declaration("aaa"), *panel.covariates.columns), np.concatenate([9 + panel.covariates.values] * 2)
        )
        more.values[1] -= 9
        one, other = (
            predicted(local, model, p, tmp_path / name)
            for name, p in (("a", panel), ("b", dataclasses.replace(panel, covariates=more)))
        )
        np.testing.assert_array_equal(one.quantiles, other.quantiles)

    def test_a_column_it_was_trained_with_that_no_longer_lands_is_named(self, made, tmp_path):
        local, model = made
        panel = make_panel(series=36, weeks=15)
        for there in (panel, promoted(panel, "price")):
            with pytest.raises(ValueError, match="the model was trained with promo, which the features no longer hold"):
                local.predict(model, [there], tmp_path / "week", Asked(QUANTILES, 5, 0))

    def test_a_column_that_ends_too_early_is_named(self, made, tmp_path):
        local, model = made
        panel = promoted(make_panel(series=36, weeks=15), weeks_ahead=2)
        with pytest.raises(ValueError, match=r"promo has no value for the week of 2024-05-03"):
            local.predict(model, [panel], tmp_path / "week", Asked(QUANTILES, 5, 0))


class TestTarget:
    """From the choice to the published forecast, on two and a half years whose season is nothing but last year's."""

    def test_the_ratio_is_chosen_and_comes_back_in_sales(self, tmp_path):
        rng = np.random.default_rng(5)
        season = np.tile(rng.lognormal(0, 0.8, 52), 3)[:130] * np.arange(2, 14)[:, None] * 50
        weeks = np.datetime64("2022-01-07") + 7 * np.arange(130)
        store, dept = np.repeat(["1", "2", "3"], 4), np.tile(list("abcd"), 3)
        panel = Panel(store, dept, weeks, season * rng.lognormal(0, 0.02, (12, 130)), events=())
        local = LocalEngine(tmp_path / "models")
        networks = {n: p for n, p in candidates("auto", epochs="40", learning_rate="0.02").items() if n in SHIPPED}
        model = local.train(panel, networks, num_samples=20)
        assert model.target == RATIO
        assert model.judgement.wape < 0.1
        median = predicted(local, model, panel, tmp_path / "week", 2).quantiles[:, 1]
        actual = season[:, 26:30]  # weeks 130 .. 133 repeat weeks 26 .. 29
        assert np.abs(median / actual - 1).mean() < 0.1
