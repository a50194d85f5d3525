"""The newest week that should have a forecast is missed when it has none, whatever was forecast of other weeks."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from forecast_platform.definitions import defs
from forecast_platform_tests.defs.graph import QUIET, Result

THURSDAY, FRIDAY = (dt.datetime(2025, 1, day, hour, 7, tzinfo=dt.UTC) for day, hour in ((30, 23), (31, 0)))


def asked(at: dt.datetime, *forecast: str) -> dg.AssetCheckEvaluation:
    """What the nightly job says at a moment, where these weeks were forecast in this order."""
    with dg.DagsterInstance.ephemeral() as instance:
        for week in forecast:
            instance.report_runless_asset_event(dg.AssetMaterialization("forecast_table", partition=week))
        with freeze_time(at):
            job = defs.resolve_job_def("freshness")
            result = Result(job.execute_in_process(instance=instance, run_config=QUIET))
    assert result.success
    assert result.materialized == {}
    (check,) = result.checks.values()
    assert check.severity is dg.AssetCheckSeverity.WARN
    return check


@pytest.mark.parametrize(
    ("at", "due", "before"), [(THURSDAY, "2025-01-17", "2025-01-10"), (FRIDAY, "2025-01-24", "2025-01-17")]
)
def test_a_week_should_have_a_forecast_when_the_next_one_ends(at: dt.datetime, due: str, before: str) -> None:
    assert asked(at, before, due).passed
    missed = asked(at, before)
    assert not missed.passed
    assert due in (missed.description or "")


def test_a_week_of_years_ago_forecast_again_makes_nothing_fresh() -> None:
    assert not asked(FRIDAY, "2025-01-17", "2023-01-06").passed
    assert asked(FRIDAY, "2025-01-24", "2023-01-06").passed, "and nothing stale"
