"""What a run of the assets shows of SageMaker: jobs, cost and links on their pages, failures as sentences, and a job
that is stopped with its run."""

from __future__ import annotations

import time
from typing import Any

import pytest

from forecast_platform.engines.sagemaker import engine_of
from forecast_platform.engines.sagemaker.engine import SageMakerEngine
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL, weeks_of
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator

AWS: dict[str, Any] = {
    "profile": "aws",
    "storage_url": "s3://drop/p",
    "landing_url": "s3://drop/landing",
    "role_arn": "arn:aws:iam::123456789012:role/forecast-sagemaker",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/forecast:1",
    "target": "sales",
}
STEPS = ("deepar_model", "batch_predictions")


@pytest.fixture
def graph(with_history: Graph, sagemaker: Emulator) -> Graph:
    """The local platform, whose DeepAR runs on SageMaker."""
    sagemaker.reuse_trainings = True
    engine_on(with_history)
    return with_history


def engine_on(graph: Graph, **more: Any) -> SageMakerEngine:
    engine = engine_of(Settings(**{**SMALL, **AWS, **more}), sleep=lambda s: time.sleep(min(s, 0.02)))
    graph.platform.settings = graph.platform.settings.model_copy(update={"target": "sales"})
    graph.platform.engine = engine
    return engine


@pytest.fixture
def week(retailer: Any) -> Any:
    return weeks_of(retailer)[-4]


class TestPages:
    def test_jobs_cost_and_links(self, graph, sagemaker, week):
        result = graph.week(week, STEPS)
        assert result.success, result.failures
        for asset, kind, page in (
            ("deepar_model", "train", "jobs"),
            ("batch_predictions", "transform", "transform-jobs"),
        ):
            shown = result.metadata(asset)
            (job,) = shown["sagemaker_jobs"]
            assert f"-{kind}-" in job
            assert shown["cost_usd"] > 0
            assert shown["instances"] == ["1 x ml.c5.2xlarge"]
            assert f"[{job}](https://us-east-1.console.aws.amazon.com/sagemaker/" in shown["consoles"]
            assert f"#/{page}/{job})" in shown["consoles"]
            arn = next(j.arn for j in sagemaker.jobs.values() if j.name == job)
            assert sagemaker.tags[arn]["forecast:run"] == result.run_id
        again = graph.week(week, STEPS)
        assert again.success
        assert "sagemaker_jobs" not in again.metadata("deepar_model"), "the model was at hand"
        assert again.metadata("batch_predictions")["cost_usd"] == 0
        assert len(sagemaker.billed) == 2


class TestFailures:
    def test_they_are_sentences_with_what_was_spent(self, graph, sagemaker, week):
        sagemaker.faults.add("CreateTrainingJob", "algorithm")
        result = graph.week(week, STEPS)
        assert list(result.failures) == ["deepar_model"]
        assert "Failed: AlgorithmError: scripted failure" in result.failures["deepar_model"]
        assert "Traceback" not in result.failures["deepar_model"]
        (failed,) = [e.step_failure_data.user_failure_data for e in result.events if e.is_step_failure]
        assert failed.metadata["cost_usd"].value > 0
        assert graph.week(week, STEPS).success, "a person ran it again"

    def test_a_cap(self, graph, sagemaker, week):
        engine_on(graph, max_job_usd=0.01)
        result = graph.week(week, STEPS)
        assert "raise FORECAST_MAX_JOB_USD" in result.failures["deepar_model"]
        assert sagemaker.billed == []

    def test_a_setting_of_ours_for_amazons_image(self, graph, sagemaker, week):
        engine_on(graph, engine="sagemaker-builtin")
        result = graph.week(week, STEPS)
        assert "remove num_cells" not in result.failures["deepar_model"]
        assert "remove num_networks from FORECAST_HYPERPARAMETERS" in result.failures["deepar_model"]


class TestCancelled:
    def test_a_cancelled_run_stops_its_job(self, graph, sagemaker, week):
        from dagster._core.errors import DagsterExecutionInterruptedError

        def interrupt(seconds: float) -> None:
            raise DagsterExecutionInterruptedError

        graph.platform.engine._sleep = interrupt
        sagemaker.faults.add("CreateTrainingJob", "slow")
        result = graph.week(week, STEPS)
        assert not result.success
        sagemaker.wait_idle()
        assert [job.status for job in sagemaker.jobs.values()] == ["Stopped"]
