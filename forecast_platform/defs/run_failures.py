"""Runs that fail are recorded, and marked as mended when a later run mends them; see failures.py for the rules."""

import datetime as dt
from collections.abc import Iterable, Mapping

import dagster as dg

from forecast_platform import failures
from forecast_platform.defs.resources import Platform
from forecast_platform.engines.sagemaker.jobs import JobError
from forecast_platform.monitoring import JOBS_FAILED

_TELLING = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.ASSET_CHECK_EVALUATION}


def run_of(run_id: str, job: str, tags: Mapping[str, str]) -> failures.Run:
    """The run with its weeks, which its tags name."""
    first = tags.get("dagster/asset_partition_range_start") or tags.get("dagster/partition")
    last = tags.get("dagster/asset_partition_range_end") or first
    weeks: tuple[dt.date, ...] = ()
    if first and last:
        start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
        weeks = tuple(start + dt.timedelta(days=d) for d in range(0, (end - start).days + 1, 7))
    return failures.Run(run_id, job, weeks)


def failed_steps(events: Iterable[dg.DagsterEvent]) -> list[failures.Failure]:
    """Each step that failed and why: a blocking check by what it found, an error by its message."""
    found: dict[str, str] = {}
    blocked: dict[str, str] = {}
    for event in events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            if check.blocking and not check.passed:
                name = f"{check.asset_key.to_user_string()}.{check.check_name}"
                blocked[event.step_key or name] = f"{name}: {check.description or 'failed'}"
        elif event.is_step_failure:
            data = event.step_failure_data
            cause, error = data.user_failure_data, data.error
            text = cause.description if cause and cause.description else (error.cause or error).message if error else ""
            found[event.step_key or ""] = text.strip()
    return [failures.Failure(step, text) for step, text in (found | blocked).items()]


def jobs_failed(events: Iterable[dg.DagsterEvent]) -> int:
    """How many steps failed because a job of SageMaker's did."""
    count = 0
    for event in events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error and error.cls_name != JobError.__name__:
            error = error.cause
        count += error is not None
    return count


@dg.run_failure_sensor(
    name="failed_runs",
    description="Records failed runs in run_failures.",
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def failed_runs(context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform]) -> None:
    run = context.dagster_run
    logs = context.instance.all_logs(run.run_id, of_type=_TELLING)
    events = [entry.dagster_event for entry in logs if entry.dagster_event]
    steps = failed_steps(events)
    what = run_of(run.run_id, run.job_name, run.tags)
    told = steps or [failures.Failure("", context.failure_event.message or "the run failed")]
    failures.record_failures(platform.lake, what, told, dt.datetime.now(dt.UTC), platform.settings.secrets)
    if failed := jobs_failed(events):
        platform.cloud.report({JOBS_FAILED: failed})


@dg.run_status_sensor(
    name="mended_runs",
    run_status=dg.DagsterRunStatus.SUCCESS,
    description="Marks the failures that a later run mended.",
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def mended_runs(context: dg.RunStatusSensorContext, platform: dg.ResourceParam[Platform]) -> None:
    run = context.dagster_run
    failures.record_success(platform.lake, run_of(run.run_id, run.job_name, run.tags), dt.datetime.now(dt.UTC))
