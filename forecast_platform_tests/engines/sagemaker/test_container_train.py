"""`forecast-container train`, as real processes over folders laid out as SageMaker lays out /opt/ml."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform import deepar
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.sagemaker.container import main as container
from forecast_platform.history.panel_file import save_panel
from forecast_platform.models import trained
from forecast_platform.models.registry import plans
from forecast_platform.settings import Settings
from forecast_platform_tests.deepar.conftest import make_series
from forecast_platform_tests.engines.test_local import make_panel
from forecast_platform_tests.processes import forked
from forecast_platform_tests.sagemaker_emulator.runtime import MODULE, Container, make_layout

HP = {
    "time_freq": "1W",
    "context_length": "8",
    "prediction_length": "6",
    "epochs": "3",
    "num_cells": "8",
    "embedding_dimension": "2",
    "mini_batch_size": "32",
    "learning_rate": "0.01",
    "num_eval_samples": "20",
}
GOOD = {"start": "2010-02-05 00:00:00", "target": list(range(1, 61)), "cat": [0, 0]}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    forked()


class Job:
    """A training job's folder, and its processes."""

    def __init__(self, base: Path, hyperparameters: dict[str, str], **config: Any) -> None:
        self.base, self.lines = base, []  # type: Path, list[str]
        make_layout(base)
        config = {
            "hyperparameters": hyperparameters,
            "inputdataconfig": {"train": {"TrainingInputMode": "File"}},
            "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"},
            **config,
        }
        for name, content in config.items():
            (base / "input/config" / f"{name}.json").write_text(json.dumps(content))

    def channel(self, name: str) -> Path:
        folder = self.base / "input/data" / name
        folder.mkdir(exist_ok=True)
        return folder

    def start(self) -> Container:
        self.lines.clear()
        return Container(MODULE, "train", self.base, {}, self.lines.append)

    def run(self) -> int:
        process = self.start()
        code = process.wait(120)
        process.signal(signal.SIGKILL)
        assert code is not None
        return code

    def wait_for(self, line: str) -> None:
        end = time.monotonic() + 60
        while not any(line in said for said in self.lines):
            assert time.monotonic() < end, self.lines
            time.sleep(0.005)

    @property
    def failure(self) -> str:
        return (self.base / "output/failure").read_text()

    @property
    def model(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.base / "model").iterdir()}


def members(model: deepar.Model, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    deepar.save_artifact(model, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_job_of_amazons_contract_trains_is_scored_and_logs_as_amazons(tmp_path: Path) -> None:
    """Files of every kind, in folders, among Spark's leftovers."""
    series = make_series()
    both = {"train": {"TrainingInputMode": "File"}, "test": {"TrainingInputMode": "FastFile"}}
    job = Job(tmp_path / "ml", HP, inputdataconfig=both)
    (job.base / "output/failure").write_text("of an earlier run")
    train = job.channel("train")
    deepar.write_records(series.take(range(4)), train / "a.json")
    (train / "more").mkdir()
    deepar.write_records(series.take(range(4, 8)), train / "more/b.json.gz")
    rows = series.take(range(8, 12))
    columns = {
        "start": pa.array(rows.start.astype("datetime64[us]")),
        "target": [rows.target(i).tolist() for i in range(4)],
        "cat": rows.cat.tolist(),
    }
    pq.write_table(pa.table(columns), train / "z.parquet", compression="gzip")
    for junk in (".part.crc", "_SUCCESS", "more/._x.json"):
        (train / junk).write_text("junk")
    deepar.write_records(series, job.channel("test") / "all.json")

    assert job.run() == 0, job.lines
    assert not (job.base / "output/failure").exists()
    want = deepar.train(series, deepar.HyperParameters.parse(HP), test=series)
    assert job.model == members(want, tmp_path / "want")
    number = r"-?\d\S*"
    for epoch in range(3):
        assert any(
            re.fullmatch(rf"#quality_metric: host=algo-1, epoch={epoch}, train loss <loss>={number}", line)
            for line in job.lines
        )
    for pattern in (
        r"#progress_metric: host=algo-1, completed 100 % of epochs",
        rf"#quality_metric: host=algo-1, train final_loss <loss>={number}",
        rf"Final loss: {number} \(occurred at epoch 2\)",
        rf"#test_score \(algo-1, RMSE\): {number}",
        rf"#test_score \(algo-1, mean_wQuantileLoss\): {number}",
        rf"#test_score \(algo-1, wQuantileLoss\[0.1\]\): {number}",
        rf"#quality_metric: host=algo-1, test RMSE <loss>={number}",
        f"model {want.version}",
    ):
        assert any(re.fullmatch(pattern, line) for line in job.lines), pattern


def line(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


LINES: dict[str, tuple[list[str], str]] = {
    "NaN": ([line(), line().replace("[1,", "[NaN,", 1)], "a.json line 2: bare NaN or Infinity is not JSON"),
    "pretty": (json.dumps(GOOD, indent=1).splitlines(), "a.json line 1: the object does not end on this line"),
    "half": ([line(), line()[:50]], "a.json line 2: the object does not end on this line"),
    "no cat": ([line(), json.dumps({k: GOOD[k] for k in ("start", "target")})], "a.json line 2: cat has no values"),
    "features": (
        [line(dynamic_feat=[[1] * 60]), line(dynamic_feat=[[1] * 60, [2] * 60])],
        "a.json line 2: dynamic_feat has 2 values, in a.json line 1 it has 1",
    ),
    "short features": ([line(dynamic_feat=[[1] * 59])] * 6, "a.json line 1: dynamic_feat has 59 values per feature"),
    "empty": ([""], "hold no records"),
    "few": ([line()], "holds 60 observations; DeepAR needs at least 300"),
    "zeros": ([line(target=[0] * 60)] * 6, "consist of only zeros"),
    "gaps in categories": ([line(cat=[0, 1])] * 6, "examples for all categories of the 1-th categorical feature"),
}


@pytest.mark.parametrize("case", LINES)
def test_bad_records_fail_the_job_with_line_and_rule(tmp_path: Path, case: str) -> None:
    lines, says = LINES[case]
    job = Job(tmp_path, HP)
    (job.channel("train") / "a.json").write_text("\n".join(lines) + "\n")
    check_refused(job, says)


def check_refused(job: Job, says: str) -> None:
    assert job.run() == 2, job.lines
    assert job.failure.startswith("ClientError: ")
    assert says in job.failure
    assert len(job.failure) <= 1024
    assert any(says in line for line in job.lines)
    assert job.model == {}


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "hosts": ({"resourceconfig": {"hosts": ["algo-1", "algo-2"]}}, "has 2 hosts and this image trains on one"),
    "pipe": ({"inputdataconfig": {"train": {"TrainingInputMode": "Pipe"}}}, "channel train comes as a pipe"),
    "channel": ({"inputdataconfig": {"train": {}, "valid": {}}}, "the job's channels are train, valid; it takes train"),
    "no channel": ({"inputdataconfig": {}}, "the job's channels are none; it takes train"),
    "hyperparameter": ({"hyperparameters": {**HP, "epoch": "3"}}, "no hyperparameter 'epoch'; did you mean 'epochs'"),
    "type": ({"hyperparameters": {**HP, "epochs": 3}}, "SageMaker takes strings only"),
    "missing": ({"hyperparameters": {}}, "hyperparameter context_length is required"),
    "long": ({"hyperparameters": {**HP, "x" * 3000: "1"}}, "there is no hyperparameter 'xxx"),
    "no files": ({}, "no record files under"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_bad_requests_fail_the_job_with_what_to_change(tmp_path: Path, case: str) -> None:
    config, says = REQUESTS[case]
    job = Job(tmp_path, **{"hyperparameters": HP, **config})
    job.channel("train")
    check_refused(job, says)


def test_a_file_of_an_unknown_ending_is_named(tmp_path: Path) -> None:
    job = Job(tmp_path, HP)
    (job.channel("train") / "a.csv").write_text("1,2")
    check_refused(job, "a.csv: unknown ending; name record files .json, .json.gz, .parquet")


def test_a_fault_of_ours_is_an_algorithm_error_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    job = Job(tmp_path, HP)
    deepar.write_records(make_series(), job.channel("train") / "a.json")
    (tmp_path / "model").rmdir()
    (tmp_path / "model").write_text("where a folder should be")
    assert job.run() == 1
    assert job.failure.startswith("AlgorithmError: FileExistsError: ")
    assert any(said.startswith("Traceback") for said in job.lines)


@pytest.mark.kill
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 143)])
def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_artifact(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    series = make_series(n=40)
    hyperparameters = {**HP, "epochs": "60"}
    configured = {"S3Uri": "s3://b/c", "LocalPath": "/opt/ml/checkpoints"}
    job = Job(tmp_path / "ml", hyperparameters, checkpointconfig=configured)
    deepar.write_records(series, job.channel("train") / "a.json")
    process = job.start()
    job.wait_for("epoch=8,")
    began = time.monotonic()
    process.signal(number)
    assert process.wait(60) == code
    assert time.monotonic() - began < 10
    assert job.model == {}
    assert len(job.lines) < 120, "it was stopped long before its end"
    if number is signal.SIGTERM:
        assert (
            job.failure
            == job.lines[-1]
            == ("AlgorithmError: training was stopped by SIGTERM; run again, it goes on from its checkpoint")
        )
    # Another instance: nothing but the checkpoints comes along.
    assert job.run() == 0, job.lines
    epochs = [int(found[1]) for said in job.lines if (found := re.search(r"epoch=(\d+),", said))]
    assert epochs == list(range(epochs[0], 60))
    assert 7 <= epochs[0] < 60
    assert job.model == members(deepar.train(series, deepar.HyperParameters.parse(hyperparameters)), tmp_path / "want")
    assert not (job.base / "output/failure").exists()


SMALL = {"epochs": "2", "num_cells": "8", "embedding_dimension": "2", "mini_batch_size": "32", "num_networks": "1"}
ASKED = plans(Settings(context_length=4, prediction_length=4, target="sales", hyperparameters=SMALL))


@pytest.fixture
def platform_job(tmp_path: Path) -> Callable[..., Job]:
    """A job of the platform's own training; changes are of training.json."""

    def make(**changes: Any) -> Job:
        panel = make_panel()
        job = Job(tmp_path / "ml", {container.PLATFORM_TRAINING: "1"}, inputdataconfig={"panel": {}})
        save_panel(panel, job.channel("panel"))
        asked = {
            "key": trained.training_key(panel, ASKED, 20),
            "candidates": ASKED,
            "num_samples": 20,
            "code_version": trained.code_version(),
            **changes,
        }
        (job.channel("panel") / "training.json").write_text(json.dumps(asked))
        return job

    return make


def test_the_platforms_training_is_the_local_engines_choice_included(
    platform_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = platform_job()
    assert job.run() == 0, job.lines
    local = LocalEngine(tmp_path / "models").train(make_panel(), ASKED, num_samples=20)
    assert local.judgement.verdict != "unjudged"
    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "training.json").write_bytes((job.base / "output/data/training.json").read_bytes())
    fetched = trained.TrainedModel.load(folder)
    assert dataclasses.replace(fetched, folder=local.folder) == local
    model = deepar.load_artifact(job.base / "model")
    assert model.version == local.version
    deepar.save_artifact(model, tmp_path / "model.tar.gz")
    assert (tmp_path / "model.tar.gz").read_bytes() == local.artifact(local.networks[0]).read_bytes()
    assert any(local.judgement.why in line for line in job.lines)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"code_version": "0" * 12}, "the platform has code 000000000000 and this image"),
        ({"key": "0" * 20}, "training.json asks for 00000000000000000000"),
        ({"candidates": {}}, "can't be trained on as training.json asks"),
    ],
)
def test_a_platform_job_of_another_code_or_panel_is_refused(
    platform_job: Callable[..., Job], changes: dict[str, Any], says: str
) -> None:
    check_refused(platform_job(**changes), says)


def test_half_a_panel_is_refused(platform_job: Callable[..., Job]) -> None:
    job = platform_job()
    file = job.base / "input/data/panel/panel.npz"
    file.write_bytes(file.read_bytes()[:2000])
    check_refused(job, "panel.npz is no whole panel file")
    (job.base / "input/data/panel/training.json").unlink()
    check_refused(job, "training.json in channel panel can't be used")


def test_too_little_history_is_the_datas_fault(platform_job: Callable[..., Job]) -> None:
    job, panel = platform_job(), make_panel(series=2, weeks=12)
    save_panel(panel, job.channel("panel"))
    path = job.base / "input/data/panel/training.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": trained.training_key(panel, ASKED, 20)}))
    check_refused(job, "a model needs 8 weeks (context_length + prediction_length)")


def test_the_entry_point_knows_two_commands(tmp_path: Path) -> None:
    said: list[str] = []
    assert Container(MODULE, "deploy", tmp_path, {}, said.append).wait(30) == 1
    assert said == ["usage: forecast-container train|serve"]
