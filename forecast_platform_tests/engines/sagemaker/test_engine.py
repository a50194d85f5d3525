"""DeepAR on the emulated SageMaker: the container's models and forecasts are LocalEngine's to the last bit, Amazon's
image is trained, judged and asked by its own rules, and everything is found again from another machine."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import json
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast_platform import deepar
from forecast_platform.engines.base import Asked, EngineError, prepare, split
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.predictions import BatchError, Predictions
from forecast_platform.engines.sagemaker import builtin, engine_of
from forecast_platform.engines.sagemaker.batch import write_batch
from forecast_platform.engines.sagemaker.container.training import member
from forecast_platform.engines.sagemaker.engine import SageMakerEngine
from forecast_platform.engines.sagemaker.jobs import JobError
from forecast_platform.engines.sagemaker.records import RecordError, Rules, check_batch, write_training
from forecast_platform.history.covariates import Covariates, Declaration
from forecast_platform.history.panel import Panel
from forecast_platform.models.encoding import Categories
from forecast_platform.models.networks import SKIP
from forecast_platform.models.registry import plans
from forecast_platform.models.target import REFERENCE, SALES, build_target, feature_count, holidays_of
from forecast_platform.models.trained import ModelLost, TooLittleHistory, TrainedModel, training_key
from forecast_platform.models.without_learning import WITHOUT_LEARNING
from forecast_platform.settings import Settings
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator

QUANTILES = (0.1, 0.5, 0.9)
SMALL = {"epochs": "2", "num_cells": "8", "embedding_dimension": "2", "mini_batch_size": "32"}
AWS: dict[str, Any] = {
    "profile": "aws",
    "storage_url": "s3://drop/p",
    "landing_url": "s3://drop/landing",
    "role_arn": "arn:aws:iam::123456789012:role/forecast-sagemaker",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/forecast:1",
    "context_length": 4,
    "prediction_length": 4,
    "num_samples": 20,
    "quantiles": QUANTILES,
    "target": "sales",
    "hyperparameters": {**SMALL, "num_networks": "1"},
    "transform_shards": 3,
    "transform_instances": 2,
}


def make_panel(series: int = 9, weeks: int = 40, seed: int = 0) -> Panel:
    """Stores of three departments; one gap, and every third series starts late."""
    rng = np.random.default_rng(seed)
    sales = 100 * (1 + np.arange(series))[:, None] * (1 + 0.2 * rng.standard_normal((series, weeks)))
    sales[1, 3] = np.nan
    sales[2::3, : weeks // 8] = np.nan
    dates = np.datetime64("2024-01-05") + 7 * np.arange(weeks)
    store, dept = np.arange(series) // 3 + 1, np.arange(series) % 3 + 1
    return Panel(store.astype(str), dept.astype(str), dates, sales.round(2))


def short() -> Panel:
    """Too short to hold weeks out of: one training, not judged."""
    return make_panel(series=36, weeks=11)


def engine_at(home: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> SageMakerEngine:
    monkeypatch.setenv("FORECAST_HOME", str(home))
    return engine_of(Settings(**{**AWS, **more}), sleep=lambda seconds: time.sleep(min(seconds, 0.02)))


@pytest.fixture
def remote(sagemaker: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SageMakerEngine:
    sagemaker.reuse_trainings = True
    return engine_at(tmp_path / "home", monkeypatch)


def train(engine: SageMakerEngine | LocalEngine, panel: Panel, settings: Settings) -> TrainedModel:
    return engine.train(panel, engine.candidates(settings), num_samples=settings.num_samples)


def predict(engine: Any, model: TrainedModel, panel: Panel, folder: Path, settings: Settings) -> Predictions:
    asked = Asked(settings.quantiles, settings.num_samples, settings.seed)
    made, _ = engine.predict(model, split(panel, settings.transform_shards), folder, asked)
    assert made.series == len(panel)
    return made


def outputs(made: Predictions) -> dict[str, bytes]:
    """The bytes of every file."""
    files = [made.folder / name for shard in made.said["shards"] for name in shard["files"]]
    return {path.name: path.read_bytes() for path in files}


class TestContainer:
    def test_it_is_the_local_engine_to_the_last_bit_and_done_once(self, sagemaker, remote, tmp_path, monkeypatch):
        panel, settings = make_panel(), remote.settings
        local = LocalEngine(tmp_path / "local")
        here, there = train(local, panel, settings), train(remote, panel, settings)
        assert dataclasses.replace(there, folder=None) == dataclasses.replace(here, folder=None)
        assert there.judgement.verdict != "unjudged"
        assert there.artifact(there.networks[0]).read_bytes() == here.artifact(here.networks[0]).read_bytes()

        week = tmp_path / "home" / "transforms" / "2024-10-04"
        remote.run_id = "run (1)"
        sent = predict(remote, there, panel, week, settings)
        kept = predict(local, here, panel, tmp_path / "transforms" / "2024-10-04", settings)
        assert outputs(sent) == outputs(kept)
        assert len(sent.said["shards"]) == 3
        (name,) = (name for kind, name in sagemaker.jobs if kind == "transform")
        assert name.startswith("forecast-20241004-transform-")
        job = sagemaker.jobs["transform", name]
        assert sagemaker.tags[job.arn]["forecast:run"] == "run _1_"
        assert sagemaker.tags[job.arn]["forecast:version"] == there.version
        receipt = remote.receipt()
        assert len(receipt["sagemaker_jobs"]) == 2
        assert receipt["cost_usd"] > 0
        assert set(receipt["consoles"]) == set(receipt["sagemaker_jobs"])
        assert remote.receipt() == {}

        # Another machine finds all of it.
        billed = list(sagemaker.billed)
        other = engine_at(tmp_path / "other", monkeypatch)
        assert dataclasses.replace(train(other, panel, settings), folder=there.folder) == there
        assert outputs(other.predictions(tmp_path / "other" / "transforms" / "2024-10-04")) == outputs(kept)
        predict(other, there, panel, tmp_path / "other" / "transforms" / "2024-10-04", settings)
        assert sagemaker.billed == billed
        assert other.receipt()["cost_usd"] == 0
        assert other.receipt() == {}

    def test_a_blend_of_a_network_and_trees_comes_home_and_both_are_asked(self, sagemaker, remote, tmp_path):
        pytest.importorskip("lightgbm", reason="the extra `trees` is not installed")
        promo = (np.arange(104) * 7 + np.arange(9)[:, None] * 3) % 5 < 2
        panel = make_panel(weeks=80)
        sales = (panel.sales * (1 + 0.5 * promo[:, :80])).round(2)
        columns = Covariates((Declaration("promo"),), promo[None].astype(float))
        panel = dataclasses.replace(panel, sales=sales, covariates=columns)
        given = plans(remote.settings, only=(SALES, "trees"))
        local = LocalEngine(tmp_path / "local")
        here, there = (engine.train(panel, given, num_samples=20) for engine in (local, remote))
        assert [network.file for network in here.networks] == ["model.tar.gz"]
        assert here.trees is not None
        assert dataclasses.replace(there, folder=None) == dataclasses.replace(here, folder=None)
        for file in here.files:
            assert (there.folder / file).read_bytes() == (here.folder / file).read_bytes()
        sent = predict(remote, there, panel, tmp_path / "home" / "transforms" / "2024-10-04", remote.settings)
        kept = predict(local, here, panel, tmp_path / "transforms" / "2024-10-04", remote.settings)
        assert outputs(sent) == outputs(kept)
        assert len([name for kind, name in sagemaker.jobs if kind == "transform"]) == 1, "a job for all that learned"

    def test_a_blend_of_two_networks_comes_home_and_both_are_asked(self, sagemaker, remote, tmp_path):
        panel, given = make_panel(), plans(remote.settings, only=(SALES, SKIP))
        local = LocalEngine(tmp_path / "local")
        here, there = (engine.train(panel, given, num_samples=20) for engine in (local, remote))
        assert [network.file for network in there.networks] == ["model.tar.gz", "model-2.tar.gz"]
        assert dataclasses.replace(there, folder=None) == dataclasses.replace(here, folder=None)
        sent = predict(remote, there, panel, tmp_path / "home" / "transforms" / "2024-10-04", remote.settings)
        kept = predict(local, here, panel, tmp_path / "transforms" / "2024-10-04", remote.settings)
        assert outputs(sent) == outputs(kept)
        assert len([name for kind, name in sagemaker.jobs if kind == "transform"]) == 1

    def test_another_batch_of_the_week_replaces_the_one_here(self, sagemaker, remote, tmp_path, monkeypatch):
        panel, settings = short(), remote.settings
        model = train(remote, panel, settings)
        week = Path("transforms/2024-03-15")
        first = outputs(predict(remote, model, panel, tmp_path / "home" / week, settings))
        other = engine_at(tmp_path / "other", monkeypatch)
        changed = dataclasses.replace(panel, sales=panel.sales * 2)
        second = outputs(predict(other, model, changed, tmp_path / "other" / week, settings))
        assert outputs(remote.predictions(tmp_path / "home" / week)) == second != first

    def test_what_is_not_there_is_said(self, remote, tmp_path):
        with pytest.raises(ModelLost, match=r"s3://drop/p/models/0123 holds no model; materialize deepar_model"):
            remote.model("0123")
        with pytest.raises(BatchError, match=r"transforms/2024-03-15 holds no predictions; run batch_predictions"):
            remote.predictions(tmp_path / "2024-03-15")
        with pytest.raises(TooLittleHistory):
            train(remote, make_panel(3, 11), remote.settings)

    def test_a_model_is_there_when_all_of_it_is(self, sagemaker, remote, tmp_path, monkeypatch):
        panel = short()
        model = train(remote, panel, remote.settings)
        shutil.rmtree(model.folder)
        remote.storage.delete(f"models/{model.digest}/training.json")
        with pytest.raises(ModelLost):
            remote.model(model.digest)
        again = train(remote, panel, remote.settings)
        assert again.version == model.version
        assert len(sagemaker.billed) == 1, "the job's own outputs were still there"
        assert remote.storage.list(f"models/{model.digest}/checkpoints") == []

    def test_damaged_outputs_are_refused_and_made_again_by_a_rerun(self, sagemaker, remote, tmp_path):
        panel, settings = short(), remote.settings
        model = train(remote, panel, settings)
        folder = tmp_path / "home" / "transforms" / "2024-03-15"
        for how in ("truncate", "drop_line", "flip"):
            sagemaker.faults.add("CreateTransformJob", "corrupt_output", detail=how)
            with pytest.raises(BatchError, match=r"shard-000.zip.out is not the answer of its shard"):
                predict(remote, model, panel, folder, settings)
            with pytest.raises(BatchError, match="holds no predictions"):
                remote.predictions(folder)
        predict(remote, model, panel, folder, settings)
        assert [job[-3:] for job in sagemaker.billed if "transform" in job] == ["-a1", "-a2", "-a3", "-a4"]

    @pytest.mark.parametrize("shards", [1, 3])
    def test_a_covariate_that_is_missing_is_said_before_anything_is_sent(self, sagemaker, remote, tmp_path, shards):
        promo = Covariates((Declaration("promo"),), ((np.arange(15) + np.arange(36)[:, None]) % 3.0)[None])
        model = train(remote, dataclasses.replace(short(), covariates=promo), remote.settings)
        settings = remote.settings.model_copy(update={"transform_shards": shards})
        with pytest.raises(ValueError, match="the model was trained with promo"):
            predict(remote, model, short(), tmp_path / "home" / "transforms" / "2024-03-15", settings)
        assert ["transform" in job for job in sagemaker.billed] == [False], "the training alone"

    def test_shards_sent_by_other_code_are_refused_and_said(self, sagemaker, remote, tmp_path, monkeypatch):
        model = train(remote, short(), remote.settings)
        folder = tmp_path / "home" / "transforms" / "2024-03-15"
        monkeypatch.setattr("forecast_platform.engines.sagemaker.container.shards.code_version", lambda: "othercode")
        with pytest.raises(JobError):
            predict(remote, model, short(), folder, remote.settings)
        with pytest.raises(BatchError, match="holds no predictions"):
            remote.predictions(folder)

    def test_an_image_of_other_code_is_refused(self, sagemaker, remote, monkeypatch):
        monkeypatch.setattr("forecast_platform.engines.sagemaker.container.training.code_version", lambda: "othercode")
        with pytest.raises(JobError, match="code"):
            train(remote, short(), remote.settings)


class TestArchive:
    @staticmethod
    def archive(path: Path, name: str, data: bytes = b"{}", kind: bytes = tarfile.REGTYPE) -> Path:
        with tarfile.open(path, "w:gz") as tar:
            item = tarfile.TarInfo(name)
            item.size, item.type = len(data), kind
            tar.addfile(item, io.BytesIO(data))
        return path

    @pytest.mark.parametrize("name", ["training.json", "./training.json"])
    def test_the_named_member_is_read(self, tmp_path, name):
        assert member(self.archive(tmp_path / "a", name, b"[1]"), "training.json") == b"[1]"

    @pytest.mark.parametrize("name", ["../training.json", "/training.json", "other.json", "a/training.json"])
    def test_others_are_not_there(self, tmp_path, name):
        with pytest.raises(EngineError, match=r"holds no training\.json"):
            member(self.archive(tmp_path / "a", name), "training.json")

    def test_neither_is_a_link(self, tmp_path):
        with pytest.raises(EngineError, match=r"holds no training\.json"):
            member(self.archive(tmp_path / "a", "training.json", b"", tarfile.SYMTYPE), "training.json")

    def test_damage_is_said(self, tmp_path):
        whole = self.archive(tmp_path / "a", "training.json", bytes(100_000)).read_bytes()
        (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(EngineError, match="not a whole"):
            member(tmp_path / "half", "training.json")


class TestBuiltin:
    """Amazon's rules are enforced by the emulator; our engine stands in for Amazon's networks."""

    MORE: dict[str, Any] = {"engine": "sagemaker-builtin", "target": "auto", "hyperparameters": SMALL}  # noqa: RUF012

    @pytest.fixture
    def amazon(self, remote, tmp_path, monkeypatch) -> SageMakerEngine:
        return engine_at(tmp_path / "home", monkeypatch, **self.MORE)

    def test_trained_judged_and_asked(self, sagemaker, amazon, tmp_path):
        amazon.settings = amazon.settings.model_copy(update={"target": "reference", "train_instances": 2})
        panel = make_panel(weeks=80)
        model = train(amazon, panel, amazon.settings)
        (network,) = model.networks
        assert network.name == model.target == REFERENCE
        assert model.version.startswith("sagemaker-")
        assert model.judgement.verdict in ("passed", "below_naive")
        assert model.judgement.cutoff == panel.weeks[-5].astype(dt.date)
        assert "Thanksgiving" in network.holidays
        assert network.categories.stand_ins is not None
        assert set(model.hyperparameters) <= {*builtin.REQUIRED, *builtin.DEFAULTS}
        assert len(network.loss_curve) == 1
        assert [job.split("-")[2] for job in sagemaker.billed] == ["train", "transform", "train"]
        assert [job.split("-")[1] for job in sagemaker.billed] == ["20250613", "20250613", "20250711"]
        for job in sagemaker.jobs.values():
            if job.kind == "transform":
                assert job.request["BatchStrategy"] == "SingleRecord"
            else:
                # Each host is given its part of the files, and needs one (the emulator refuses fewer).
                (given,) = (channel["DataSource"]["S3DataSource"] for channel in job.request["InputDataConfig"])
                assert given["S3DataDistributionType"] == "ShardedByS3Key"
                assert job.request["ResourceConfig"]["InstanceCount"] == 2
        assert train(amazon, panel, amazon.settings) == model
        assert len(sagemaker.billed) == 3

        # A week later: a store that training never saw, and one more week.
        later = make_panel(series=12, weeks=81)
        made = predict(amazon, model, later, tmp_path / "home" / "transforms" / "2025-07-18", amazon.settings)
        assert sum(len(part.store) for part in made.shards(QUANTILES, 4)) == 12
        receipt = amazon.receipt()
        assert len(receipt["sagemaker_jobs"]) == len(sagemaker.billed) == 4

    def test_several_instances_train_another_model(self, amazon, monkeypatch, tmp_path):
        plans = amazon.candidates(amazon.settings)
        more = engine_at(tmp_path / "home", monkeypatch, **self.MORE, train_instances=2)
        assert more.key(short(), plans, 20) != amazon.key(short(), plans, 20)

    def test_its_models_are_not_ours(self, amazon, remote):
        plans = amazon.candidates(amazon.settings)
        assert training_key(short(), plans, 20) not in {p.name for p in amazon.models.glob("*")}

    def test_it_is_weighed_against_what_needs_no_training(self, amazon, sagemaker):
        """A job in the window held out; of noise about a level, last year's week knows nothing."""
        model = train(amazon, make_panel(series=18, weeks=80), amazon.settings)
        assert REFERENCE in model.judgement.alone
        assert set(model.blend.names) <= {REFERENCE, *(candidate.name for candidate in WITHOUT_LEARNING)}
        assert len([job for job in sagemaker.billed if job.split("-")[2] == "transform"]) == 1

    def test_too_short_a_history_for_the_network_is_served_without_and_says_why(self, amazon, sagemaker):
        model = train(amazon, short(), amazon.settings)
        assert model.networks == ()
        assert "reference: needs 60 weeks, of them a year to refer to; there are 11" in model.judgement.why
        assert not sagemaker.billed

    def test_too_short_a_history_for_the_network_asked_for_says_what_to_do(self, amazon):
        settings = amazon.settings.model_copy(update={"target": "reference"})
        with pytest.raises(ValueError, match="use the target 'sales'"):
            train(amazon, short(), settings)


class TestRecords:
    @staticmethod
    def target(panel: Panel, holidays: tuple[str, ...] = ()) -> Panel:
        return build_target(panel, 4, REFERENCE, holidays).panel

    def test_training_features_are_as_long_as_the_target_and_forecasts_longer(self, tmp_path):
        panel = make_panel(weeks=80)
        names = holidays_of(panel)
        view = self.target(panel, names)
        categories = Categories.of(view, stand_ins=True)
        assert write_training(view, categories, tmp_path) == len(panel)
        for line in (tmp_path / "train-000.json").read_bytes().splitlines():
            record = json.loads(line)
            assert len(record["dynamic_feat"]) == 1 + len(names)
            assert {len(row) for row in record["dynamic_feat"]} == {len(record["target"])}
        read = deepar.read_records(tmp_path / "train-000.json")
        assert len(read) == len(panel)
        first = (tmp_path / "train-000.json").read_bytes()
        write_training(view, categories, tmp_path)
        assert (tmp_path / "train-000.json").read_bytes() == first

    def test_files_of_training_hold_each_series_once(self, tmp_path):
        view = self.target(make_panel(weeks=80))
        categories = Categories.of(view, stand_ins=True)
        write_training(view, categories, tmp_path / "one")
        assert write_training(view, categories, tmp_path / "three", 3) == len(view)
        files = sorted((tmp_path / "three").iterdir())
        assert len(files) == 3
        assert len({round(len(path.read_bytes().splitlines()), -1) for path in files}) == 1
        assert b"".join(path.read_bytes() for path in files) == (tmp_path / "one/train-000.json").read_bytes()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s[:] * 0, "every observation of every series is 0"),
            (lambda s: np.where(np.arange(s.shape[1]) % 4, np.nan, s), "observations to train on; DeepAR needs 300"),
            (lambda s: s * 1e38, "^store 1, department 1: sales are too large"),
        ],
    )
    def test_what_deepar_would_not_train_on(self, tmp_path, change, message):
        panel = make_panel()
        panel = dataclasses.replace(panel, sales=change(panel.sales))
        with pytest.raises((RecordError, deepar.ContractError), match=message):
            write_training(panel, Categories.of(panel), tmp_path)

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(st.integers(0, 10**6), st.integers(1, 12), st.integers(57, 75), st.integers(1, 4))
    def test_whatever_the_platform_writes_passes_and_a_value_less_does_not(self, seed, series, weeks, shards):
        rng = np.random.default_rng(seed)
        panel = make_panel(12, weeks, seed).select(np.arange(12) < series)
        sales = np.where(rng.random(panel.sales.shape) < 0.3, np.nan, panel.sales - 500)
        sales[:, rng.integers(0, weeks)] = 1.0
        panel = dataclasses.replace(panel, sales=sales)
        target = build_target(panel, 4, REFERENCE, holidays_of(panel))
        categories = Categories.of(panel.select(panel.store == "1"), stand_ins=True)
        rules = Rules.of(categories, feature_count(REFERENCE, 0, len(holidays_of(panel))), 4)
        with tempfile.TemporaryDirectory() as folder:
            batch = write_batch(Path(folder) / "week", panel, target, categories, shards)
            check_batch(batch, rules)
            for changed in ({"ahead": 3}, {"features": 0}, {"cardinality": (0, 9)}):
                with pytest.raises(RecordError, match=r"^store 1, department 1 \(shard-000.json line 1\): "):
                    check_batch(batch, dataclasses.replace(rules, **changed))

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            ({"cat": [3, 0]}, "store code 3 was not seen in training, which had 0 .. 2"),
            ({"cat": [0]}, "cat has 1 codes; the model takes 2"),
            ({"cat": None}, "cat has 0 codes"),
            ({"dynamic_feat": None}, "dynamic_feat has 0 features; the model takes 1"),
            ({"dynamic_feat": [[1.0] * 44, [1.0] * 44]}, "dynamic_feat has 2 features"),
            ({"dynamic_feat": [[1.0] * 43]}, "dynamic_feat has 43 values a feature; it needs 44, 4 ahead"),
            ({"dynamic_feat": [[None] * 44]}, "dynamic features must be numbers, with none missing"),
            ({"start": "2024-01-05T00:00:00Z"}, "without a time zone"),
            ({"target": []}, "at least one value"),
            ({"target": [1e39] * 40}, "target holds a value too large"),
        ],
    )
    def test_each_rule_names_the_series(self, tmp_path, edit, message):
        panel = make_panel()
        record = {"start": "2024-01-05 00:00:00", "target": [1.0] * 40, "cat": [0, 0], "dynamic_feat": [[0.0] * 44]}
        from forecast_platform.engines.sagemaker.records import check_lines

        rules = Rules.of(Categories.of(panel, stand_ins=True), 1, 4)
        path = tmp_path / "shard-000.json"
        path.write_text(json.dumps(record) + "\n")
        assert len(check_lines(path, ["store 1, department 1"], rules)) == 1
        path.write_text(json.dumps({**record, **edit}) + "\n")
        with pytest.raises(RecordError, match=rf"^store 1, department 1 \(shard-000.json line 1\): .*{message}"):
            check_lines(path, ["store 1, department 1"], rules)

    def test_names_never_seen_go_by_the_code_of_the_most_series(self):
        panel = make_panel(series=11)
        categories = Categories.of(panel, stand_ins=True)
        assert categories.stand_ins == (0, 0)
        fewer = Categories.of(panel.select(panel.store != "1"), stand_ins=True)
        assert fewer.stand_ins == (0, 0)
        assert fewer.stores == ("2", "3", "4")
        codes = fewer.encode(panel)
        assert codes.max(axis=0).tolist() == [2, 2]
        assert (codes[panel.store == "1"] == [[0, 0], [0, 1], [0, 2]]).all()
        assert Categories.from_json(json.loads(json.dumps(fewer.to_json()))) == fewer
        assert Categories.of(panel).encode(make_panel(series=12)).max() == 3
        assert Categories.from_json({"stores": ["1"], "depts": ["2"]}).stand_ins is None

    def test_a_batch_of_a_model_is_checked_by_its_rules(self, tmp_path):
        local = LocalEngine(tmp_path / "models")
        settings = Settings(context_length=4, prediction_length=4, target="sales", hyperparameters=SMALL)
        model = train(local, short(), settings)
        (network,) = model.networks
        ready = prepare(model, make_panel(series=39, weeks=11))
        batch = write_batch(tmp_path / "week", ready.panel, ready.to_ask[0].target, network.categories, 2)
        check_batch(batch, Rules.of_network(network))
        with pytest.raises(RecordError, match=r"store 13, department 1 .*store code 12 was not seen"):
            check_batch(batch, dataclasses.replace(Rules.of_network(network), unseen=False))


class TestHolidays:
    def test_each_is_one_in_its_week_and_only_there(self):
        panel = make_panel(weeks=100)
        names = holidays_of(panel)
        view = build_target(panel, 4, SALES, names).panel
        assert view.covariates.values.shape == (len(names), 9, 104)
        flags = view.covariates.values[names.index("Thanksgiving"), 0]
        weeks = (panel.weeks[0] + 7 * np.arange(104))[flags == 1].tolist()
        assert weeks == [dt.date(2024, 11, 29), dt.date(2025, 11, 28)]
        assert view.covariates.names[0] == f"holiday {names[0]}"

    def test_one_that_is_known_no_more_is_never(self):
        panel = dataclasses.replace(make_panel(weeks=60), events=())
        assert holidays_of(panel) == ()
        flags = build_target(panel, 4, REFERENCE, ("Thanksgiving",)).panel.covariates.values
        assert flags.shape[0] == 2
        assert not flags[1].any()
