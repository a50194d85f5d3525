"""Jobs: what is decided in each state, what a job is called, and that nothing is paid for twice.

The decisions are a table. The rest runs over the SageMaker emulator with a container that does next to nothing.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_platform.clouds.aws import clients
from forecast_platform.clouds.aws.storage import Storage
from forecast_platform.engines.sagemaker import job_logs, jobs
from forecast_platform.engines.sagemaker.cost import Spending, SpendRefused
from forecast_platform.engines.sagemaker.decision import (
    MAX_ATTEMPTS,
    Cause,
    JobState,
    answer,
    cause_of,
    decide,
    job_name,
)
from forecast_platform.engines.sagemaker.jobs import JobError, Jobs
from forecast_platform.engines.sagemaker.specs import TRAIN, TRANSFORM, Spec
from forecast_platform_tests.sagemaker_emulator.emulator import Emulator

WEEK = dt.date(2026, 11, 20)
ROLE = "arn:aws:iam::123456789012:role/forecast-sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/forecast:1"
QUOTA = (
    "The account-level service limit 'ml.c5.2xlarge for training job usage' is {} Instances, with current utilization "
    "of {} Instances and a request delta of 1 Instances. Please use AWS Service Quotas."
)

ENDED = [
    (JobState("Failed", "Failed", "CapacityError: Unable to provision requested ML compute capacity."), Cause.CAPACITY),
    (JobState("Failed", "Failed", "InternalServerError: We encountered an internal error."), Cause.INTERNAL),
    (JobState("Failed", reason="InternalServerError: We encountered an internal error."), Cause.INTERNAL),
    (JobState("Failed", "Failed", "AlgorithmError: See job logs for more information"), Cause.ALGORITHM),
    (JobState("Failed", "Failed", "AlgorithmError: Exit Code: 137"), Cause.MEMORY),
    (JobState("Failed", "Failed", "AlgorithmError: , exit code: 137"), Cause.MEMORY),
    (JobState("Failed", "Failed", "ClientError: training time series consist of only zeros"), Cause.DATA),
    (JobState("Failed", reason="ClientError: See job logs for more information"), Cause.ALGORITHM),
    (JobState("Failed", "Failed", "ClientError: Artifact upload failed: Insufficient disk space"), Cause.DISK),
    (JobState("Failed", "Failed", "ClientError: Artifact upload failed: AccessDenied"), Cause.ACCESS),
    (JobState("Failed", "Failed", "ClientError: Failed to use KMS key"), Cause.ACCESS),
    (JobState("Failed", "Failed", "a reason nobody has seen yet"), Cause.UNKNOWN),
    (JobState("Failed"), Cause.UNKNOWN),
    (JobState("Stopped", "MaxWaitTimeExceeded"), Cause.SPOT),
    (JobState("Stopped", "MaxRuntimeExceeded"), Cause.RUNTIME),
    (JobState("Stopped", "Stopped"), Cause.STOPPED),
    (JobState("Stopped"), Cause.STOPPED),
]
STATUS = st.sampled_from(["InProgress", "Completed", "Failed", "Stopping", "Stopped", "Deleting", "?"])
RETRIED = {Cause.CAPACITY: 3, Cause.INTERNAL: 2, Cause.SPOT: 1}  # in one call; the others not at all


class TestDecision:
    def test_missing_is_created_running_waited_for_and_completed_used(self):
        for ours in (False, True):
            assert decide(None, 1, ours).do == "create"
            for status in ("InProgress", "Stopping", "ANewStatus"):
                assert decide(JobState(status, "Training"), 1, ours).do == "attach"
            assert decide(JobState("Completed", "Completed"), 1, ours).do == "reuse"
        assert decide(JobState("Deleting"), 3).do == "next"

    @pytest.mark.parametrize(("state", "cause"), ENDED)
    def test_what_ended_badly_in_this_call_is_retried_as_often_as_its_cause_may_pass(self, state, cause):
        assert cause_of(state) is cause
        often = RETRIED.get(cause, 0)
        assert cause.retries == often
        waits = []
        for met in range(often):
            action = decide(state, 1 + met, True, Counter({cause: met, Cause.UNKNOWN: 9}))
            assert (action.do, action.cause) == ("next", cause)
            waits.append(action.wait)
        assert waits == [cause.wait * 2**met for met in range(often)]
        action = decide(state, 1 + often, True, Counter({cause: often}))
        assert action.do == "fail"
        assert action.why.startswith(state.status)
        assert state.reason in action.why
        assert cause.advice in action.why

    @pytest.mark.parametrize(("state", "cause"), ENDED)
    def test_what_ended_badly_before_gets_a_new_attempt_unless_the_data_is_refused(self, state, cause):
        action = decide(state, 4)
        assert action.do == ("fail" if cause is Cause.DATA else "next")
        assert action.wait == 0
        assert decide(state, MAX_ATTEMPTS).do == "fail"

    def test_completed_is_not_enough(self):
        """boto3's own waiters count even Stopped as success."""
        completed = JobState("Completed", "Completed")
        assert decide(completed, 1, ours=False, artefacts=False).do == "next"
        lost = decide(completed, 1, ours=True, artefacts=False)
        assert lost.do == "fail"
        assert "outputs are not there" in lost.why

    @given(
        st.none() | st.builds(JobState, STATUS, st.text(max_size=9), st.text(max_size=40)),
        st.integers(1, MAX_ATTEMPTS + 1),
        st.booleans(),
        st.dictionaries(st.sampled_from(Cause), st.integers(0, 9)),
        st.booleans(),
    )
    def test_every_case_has_an_answer_and_only_what_is_not_there_is_created(self, state, attempt, ours, met, there):
        action = decide(state, attempt, ours, met, there)
        assert (action.do == "create") == (state is None)
        assert action.do != "next" or attempt < MAX_ATTEMPTS
        assert action.do == "create" or action.why


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "message", "do", "words"),
        [
            ("ResourceInUse", "Training job names must be unique", "look", "exists"),
            ("ValidationException", 'Cannot create already existing model "arn"', "look", "exists"),
            ("ThrottlingException", "Rate exceeded", "look", "Rate exceeded"),
            ("InternalFailure", "", "look", ""),
            ("ResourceLimitExceeded", QUOTA.format(1, 1), "look", "utilization"),
            ("ResourceLimitExceeded", QUOTA.format(0, 0), "fail", "higher quota"),
            ("ResourceLimitExceeded", "in words nobody expects", "fail", "higher quota"),
            ("ValidationException", "1 validation error detected", "fail", "forecast doctor"),
            ("AccessDeniedException", "not authorized", "fail", "platform role"),
            ("ResourceNotFound", "", "fail", "exist"),
        ],
    )
    def test_each_has_its_answer(self, code, message, do, words):
        action = answer(code, message, 0)
        assert action.do == do
        assert words in action.why

    @pytest.mark.parametrize(
        ("code", "message"), [("ThrottlingException", ""), ("ResourceLimitExceeded", QUOTA.format(2, 2))]
    )
    def test_patience_grows_and_ends(self, code, message):
        waits = [answer(code, message, tries).wait for tries in range(6)]
        assert waits == sorted(waits)
        assert waits[0] > 0
        assert answer(code, message, 6).do == "fail"


class TestNames:
    @given(
        st.from_regex("[a-z][a-z0-9-]{1,20}", fullmatch=True).map(str),
        st.dates(dt.date(1990, 1, 1)),
        st.sampled_from(["train", "transform"]),
        st.integers(1, MAX_ATTEMPTS),
    )
    def test_they_are_what_sagemaker_takes(self, prefix, week, kind, attempt):
        name = job_name(prefix, week, kind, {"a": [1, {"b": "ä"}]}, attempt)
        assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name)
        assert len(name) <= 63

    @given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), min_size=1))
    def test_equal_requests_have_one_name_and_others_another(self, request_):
        name = job_name("forecast", WEEK, "train", request_, 1)
        assert name == job_name("forecast", WEEK, "train", dict(reversed(request_.items())), 1)
        key = next(iter(request_))
        assert name != job_name("forecast", WEEK, "train", {**request_, key: [request_[key]]}, 1)
        assert name != job_name("forecast", WEEK, "train", request_, 2)
        assert name.startswith("forecast-20261120-train-")


# --- over the emulator


@pytest.fixture
def emulator(sagemaker: Emulator, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    sagemaker.module = "forecast_platform_tests.sagemaker_emulator.stand_in"
    once = {"total_max_attempts": 1, "mode": "standard"}
    monkeypatch.setattr(jobs, "client", lambda service: clients.client(service, retries=once))
    s3.put_object(Bucket="drop", Key="p/in/a.json", Body=b'{"start": "2024-01-05 00:00:00", "target": [1]}\n')
    return sagemaker


class Clock:
    """Sleeps a little instead of long, and knows how long it should have been."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.before()
        time.sleep(0.01)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def make_jobs(clock: Clock, job_usd: float = 10, month_usd: float = 100, when: Callable[[], dt.datetime] = now) -> Jobs:
    storage = Storage("s3://drop/p")
    return Jobs(storage, Spending(storage, {}, job_usd, month_usd, when), clock, when)


@pytest.fixture
def made(emulator: Emulator, clock: Clock) -> Jobs:
    return make_jobs(clock)


def training(seconds: int = 600, spot: bool = False, **hyperparameters: str) -> Spec:
    stopping = {"MaxRuntimeInSeconds": seconds, **({"MaxWaitTimeInSeconds": seconds} if spot else {})}
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://drop/p/in/", "S3DataDistributionType": "FullyReplicated"}
    request = {
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "HyperParameters": hyperparameters,
        "InputDataConfig": [{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": "s3://drop/p/out"},
        "ResourceConfig": {"InstanceType": "ml.c5.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": spot,
    }
    return Spec(TRAIN, WEEK, request, ("out/{job}/output/model.tar.gz",), seconds, {"forecast:run": "a b(c)"})


def transform(made: Jobs, seconds: int = 600) -> Spec:
    model = made.ensure_model(WEEK, {"ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": IMAGE}}, {})
    source = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://drop/p/in/"}}}
    lines = "application/jsonlines"
    request = {
        "ModelName": model,
        "TransformInput": {**source, "SplitType": "Line", "ContentType": lines},
        "TransformOutput": {"S3OutputPath": "s3://drop/p/preds", "AssembleWith": "Line", "Accept": lines},
        "TransformResources": {"InstanceType": "ml.c5.2xlarge", "InstanceCount": 1},
    }
    return Spec(TRANSFORM, WEEK, request, ("preds/a.json.out",), seconds)


def ledger(made: Jobs) -> dict[str, tuple[float, bool]]:
    """Job -> (USD, settled)."""
    import json

    entries = [json.loads(made.storage.get_bytes(item.key)) for item in made.storage.list("spend")]
    return {entry["job"]: (entry["usd"], entry["settled"]) for entry in entries}


class TestBegin:
    """For who does not wait: a Lambda, which is told when the job has ended."""

    def test_a_job_is_begun_once_and_settled_when_it_has_ended(self, emulator, made, clock):
        spec = transform(made)
        emulator.hold()
        assert [made.begin(spec), make_jobs(clock).begin(spec)] == [spec.name(1)] * 2
        assert made.ended(TRANSFORM, spec.name(1)) is None
        assert ledger(made)[spec.name(1)][1] is False
        assert made.exists(TRANSFORM, spec.name(1))
        assert not made.exists(TRANSFORM, spec.name(2))
        emulator.release()
        emulator.wait_idle()
        described = made.ended(TRANSFORM, spec.name(1))
        assert described is not None
        assert described["TransformJobStatus"] == "Completed"
        assert ledger(made)[spec.name(1)][1] is True
        assert made.begin(spec) == spec.name(1)
        assert emulator.billed == [spec.name(1)]
        assert clock.slept == []

    def test_what_is_not_there_is_said(self, made):
        with pytest.raises(JobError, match="there is no transform job nobody"):
            made.ended(TRANSFORM, "nobody")
        with pytest.raises(JobError, match="describe_model nobody"):
            made.model("nobody")


class TestEnsure:
    @pytest.mark.parametrize("kind", ["train", "transform"])
    def test_work_is_done_once_and_found_again(self, emulator, made, clock, kind):
        spec = training() if kind == "train" else transform(made)
        done = made.ensure(spec)
        assert done.name == spec.name(1)
        assert all(made.storage.exists(key) for key in done.artefacts)
        again = make_jobs(clock)
        assert again.ensure(spec).name == done.name
        assert emulator.billed == [done.name]
        (charge,), (reused,) = made.charges, again.charges
        assert (charge.job, charge.instances, charge.instance) == (done.name, 1, "ml.c5.2xlarge")
        assert charge.seconds >= 1
        assert charge.usd == pytest.approx(charge.seconds * 0.408 / 3600)
        assert (reused.usd, reused.reused, charge.reused) == (0, True, False)
        assert ledger(made) == {done.name: (pytest.approx(charge.usd), True)}
        assert f"/{'jobs' if kind == 'train' else 'transform-jobs'}/{done.name}" in charge.url

    def test_tags_have_only_characters_that_aws_takes(self, emulator, made):
        done = made.ensure(training())
        arn = next(job.arn for (_, name), job in emulator.jobs.items() if name == done.name)
        assert emulator.tags[arn] == {"forecast:run": "a b_c_"}

    def test_two_at_once_share_one_job(self, emulator, clock):
        both = [make_jobs(clock), make_jobs(clock)]
        spec, found = training(wait="0.3"), []
        threads = [threading.Thread(target=lambda j=j: found.append(j.ensure(spec).name)) for j in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [spec.name(1)] * 2
        assert emulator.billed == [spec.name(1)]

    def test_a_running_job_of_a_process_that_died_is_waited_for(self, emulator, made, clock):
        spec = training()
        emulator.hold()
        made.begin(spec)
        clock.before = emulator.release
        assert make_jobs(clock).ensure(spec).name == spec.name(1)
        assert len(emulator.billed) == 1

    @pytest.mark.parametrize("fault", ["lost_response", "lost_request", "throttle", "server_error", "limit"])
    @pytest.mark.parametrize("times", [1, 3])
    def test_creation_that_goes_wrong_for_a_while(self, emulator, made, fault, times):
        spec = training()
        emulator.faults.add("CreateTrainingJob", fault, times)
        assert made.ensure(spec).name == spec.name(1)
        assert emulator.billed == [spec.name(1)]
        assert list(ledger(made)) == [spec.name(1)]

    def test_a_lost_answer_that_boto3_itself_asks_again_for(self, emulator, made, monkeypatch):
        monkeypatch.setattr(jobs, "client", clients.client)
        emulator.faults.add("CreateTrainingJob", "lost_response")
        assert made.ensure(training()).name == training().name(1)
        assert [c for c, _ in emulator.calls].count("CreateTrainingJob") == 2
        assert len(emulator.billed) == 1

    @pytest.mark.parametrize("fault", ["throttle", "server_error", "lost_response"])
    def test_a_storm_while_waiting_is_borne(self, emulator, made, fault):
        emulator.faults.add("DescribeTrainingJob", fault, 5)
        made.ensure(training())
        assert len(emulator.billed) == 1

    def test_and_one_that_does_not_end_leaves_the_job_running_and_says_so(self, emulator, made):
        emulator.faults.add("DescribeTrainingJob", "throttle", 100)
        with pytest.raises(JobError, match=r"cannot be reached .* running this again waits for it"):
            made.ensure(training())

    @pytest.mark.parametrize(("fault", "attempts"), [("capacity", 2), ("internal", 2), ("max_wait", 2)])
    def test_what_passes_is_tried_again(self, emulator, made, clock, fault, attempts):
        spec = training(spot=fault == "max_wait")
        emulator.faults.add("CreateTrainingJob", fault, attempts - 1)
        assert made.ensure(spec).name == spec.name(attempts)
        assert {name: settled for name, (_, settled) in ledger(made).items()} == {
            spec.name(1): True, spec.name(2): True,
        }  # fmt: skip
        if fault == "capacity":
            assert max(clock.slept) == Cause.CAPACITY.wait
            assert ledger(made)[spec.name(1)][0] == 0, "what never started costs nothing"
        if fault == "max_wait":
            assert not emulator.jobs["training", spec.name(2)].request["EnableManagedSpotTraining"]

    def test_internal_errors_are_borne_twice_in_a_call(self, emulator, made):
        spec = training()
        emulator.faults.add("CreateTrainingJob", "internal", 9)
        with pytest.raises(JobError, match=f"{spec.name(3)}: Failed: InternalServerError"):
            made.ensure(spec)
        assert emulator.billed == [spec.name(n) for n in (1, 2, 3)]

    def test_a_failure_of_the_container_is_told_with_the_end_of_its_log_and_run_again_by_hand(self, emulator, made):
        spec = training(exit="1", say="first|the reason is here", fail="in short")
        for attempt in (1, 2):
            with pytest.raises(JobError) as caught:
                made.ensure(spec)
            text = str(caught.value)
            assert f"train job {spec.name(attempt)}: Failed: AlgorithmError: in short" in text
            assert "the reason is here" in text
            assert f"#/jobs/{spec.name(attempt)}" in text
        assert emulator.billed == [spec.name(1), spec.name(2)]

    @pytest.mark.parametrize("kind", ["train", "transform"])
    def test_somebody_stops_it_the_call_fails_and_a_rerun_makes_a_new_attempt(self, emulator, made, clock, kind):
        spec = training() if kind == "train" else transform(made)
        emulator.faults.add(f"Create{spec.kind.title}Job", "stop")
        with pytest.raises(JobError, match=r"Stopped.*somebody stopped it"):
            made.ensure(spec)
        assert make_jobs(clock).ensure(spec).name == spec.name(2)

    def test_a_job_being_stopped_when_first_seen_is_not_of_this_call(self, emulator, made, clock):
        spec = training()
        emulator.hold()
        made.begin(spec)
        job = emulator.jobs["training", spec.name(1)]
        job.status = "Stopping"

        def stop() -> None:
            emulator.release()
            job.stopping.set()

        clock.before = stop
        assert make_jobs(clock).ensure(spec).name == spec.name(2)

    def test_outputs_that_were_removed_are_made_again(self, emulator, made):
        spec = training()
        done = made.ensure(spec)
        made.storage.delete(done.artefacts[0])
        assert made.ensure(spec).name == spec.name(2)

    def test_a_completed_job_without_its_outputs_fails(self, emulator, made):
        spec = training()
        with pytest.raises(JobError, match="it completed and its outputs are not there"):
            made.ensure(Spec(TRAIN, WEEK, spec.request, ("elsewhere/{job}",), 600))

    def test_a_refusal_for_good_is_explained_and_costs_nothing(self, emulator, made):
        emulator.faults.add("CreateTrainingJob", "access_denied")
        with pytest.raises(JobError, match=r"was not created: AccessDeniedException.*platform role"):
            made.ensure(training())
        assert ledger(made) == {}

    def test_a_transform_that_takes_too_long_is_stopped(self, emulator, clock):
        late = make_jobs(clock, when=lambda: now() + dt.timedelta(hours=1))
        emulator.faults.add("CreateTransformJob", "slow")
        spec = transform(late)
        with pytest.raises(JobError, match=r"stopped after 10 minutes: .*FORECAST_MAX_JOB_MINUTES"):
            late.ensure(spec)
        assert emulator.jobs["transform", spec.name(1)].status == "Stopped"
        assert ledger(late)[spec.name(1)][1]


class Cancelled(BaseException):
    """As Dagster's DagsterExecutionInterruptedError."""


class TestInterruption:
    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, Cancelled, SystemExit])
    @pytest.mark.parametrize("kind", ["train", "transform"])
    def test_stops_the_job_and_goes_on(self, emulator, made, clock, interruption, kind):
        spec = training(wait="60") if kind == "train" else transform(made)
        emulator.faults.add(f"Create{spec.kind.title}Job", "slow")

        def interrupt() -> None:
            raise interruption

        clock.before = interrupt
        with pytest.raises(interruption):
            made.ensure(spec)
        emulator.wait_idle()
        assert [job.status for job in emulator.jobs.values()] == ["Stopped"]
        clock.before = lambda: None
        if kind == "transform":
            assert made.ensure(spec).name == spec.name(2)

    def test_an_error_does_not_stop_it(self, emulator, made, clock):
        spec = training(wait="0.2")

        def fail() -> None:
            raise RuntimeError("the disk is full")

        clock.before = fail
        with pytest.raises(RuntimeError):
            made.ensure(spec)
        emulator.wait_idle()
        assert emulator.jobs["training", spec.name(1)].status == "Completed"


class TestLog:
    def test_the_log_and_the_progress_are_passed_on(self, emulator, made, caplog):
        progress: list[int] = []
        lines = "hello|#progress_metric: host=algo-1, completed 50 % of epochs|bye"
        with caplog.at_level("INFO", "forecast_platform.engines.sagemaker"):
            made.ensure(training(say=lines, wait="0.3"), progress.append)
        told = caplog.messages
        assert [told.count(line) for line in ("hello", "bye")] == [1, 1]
        assert progress == [50]
        assert any("created, at most 0.07 USD; https://" in line for line in told)

    def test_a_log_that_cannot_be_read_is_said_once_and_ends_nothing(self, emulator, made, caplog):
        emulator.faults.add("DescribeLogStreams", "access_denied", 100)
        with caplog.at_level("INFO", "forecast_platform.engines.sagemaker"):
            made.ensure(training(wait="0.2"))
        assert len([line for line in caplog.messages if "log cannot be read" in line]) == 1

    def test_more_lines_than_a_page(self, emulator, monkeypatch):
        for n in range(25):
            emulator.logs.add("/aws/sagemaker/TrainingJobs", "job/algo-1", f"line {n}")
        real = emulator.logs.get_log_events
        monkeypatch.setattr(emulator.logs, "get_log_events", lambda request: real({**request, "limit": 10}))
        got: list[str] = []
        tail = job_logs.LogTail("/aws/sagemaker/TrainingJobs", "job", got.append)
        tail.read()
        emulator.logs.add("/aws/sagemaker/TrainingJobs", "job/algo-1", "the last")
        emulator.logs.add("/aws/sagemaker/TrainingJobs", "job2/algo-1", "of another job")
        tail.read()
        assert got == [f"line {n}" for n in range(25)] + ["the last"]
        assert list(tail.last) == got[-job_logs.KEPT :]


class TestModels:
    def test_made_once_and_adopted_when_another_was_quicker(self, emulator, made, monkeypatch):
        request = {"ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": IMAGE}}
        name = made.ensure_model(WEEK, request, {"a": "b"})
        assert made.ensure_model(WEEK, request, {}) == name
        assert [c for c, _ in emulator.calls].count("CreateModel") == 1
        monkeypatch.setattr(jobs, "_missing", lambda error: True)
        emulator.faults.add("DescribeModel", "server_error")
        assert make_jobs(Clock()).ensure_model(WEEK, request, {}) == name
        assert [c for c, _ in emulator.calls].count("CreateModel") == 2

    def test_a_refusal_is_explained(self, emulator, made):
        request = {"ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": "docker.io/somebody/else:1"}}
        with pytest.raises(JobError, match=r"create_model forecast-.*Could not pull image"):
            made.ensure_model(WEEK, request, {})


class TestCaps:
    def test_nothing_is_created_beyond_a_cap(self, emulator, clock):
        with pytest.raises(SpendRefused, match="FORECAST_MAX_JOB_USD"):
            make_jobs(clock, job_usd=0.01).ensure(training())
        with pytest.raises(SpendRefused, match="FORECAST_MAX_MONTH_USD"):
            make_jobs(clock, month_usd=0.01).ensure(training())
        assert emulator.billed == []
        assert "CreateTrainingJob" not in [call for call, _ in emulator.calls]

    def test_a_job_whose_creation_nobody_heard_of_counts_until_it_is_seen_again(self, emulator, made, clock):
        spec = training()
        emulator.faults.add("CreateTrainingJob", "lost_response")
        made.begin(spec)  # and then the process died
        assert ledger(made) == {spec.name(1): (pytest.approx(0.068), False)}
        emulator.wait_idle()
        make_jobs(clock).ensure(spec)
        (usd, settled), = ledger(made).values()  # fmt: skip
        assert settled
        assert usd < 0.01


@pytest.mark.parametrize(
    ("region", "domain"),
    [
        ("eu-central-1", "eu-central-1.console.aws.amazon.com"),
        ("cn-north-1", "cn-north-1.console.amazonaws.cn"),
        ("us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
    ],
)
def test_a_job_is_linked_to_in_the_console_of_its_partition(
    region: str, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jobs, "region", region)
    page = jobs.Jobs._url(object.__new__(Jobs), TRANSFORM, "forecast-x")
    assert page == f"https://{domain}/sagemaker/home?region={region}#/transform-jobs/forecast-x"
