"""The asset graph as tests drive it: real assets, checks, jobs, lake and engine over one home."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pytest
from dagster_duckdb import DuckDBResource

from forecast_platform import definitions
from forecast_platform.defs import pictures
from forecast_platform.defs.resources import Platform
from forecast_platform.landing.place import Landing
from forecast_platform.settings import Settings
from forecast_platform.weeks import key
from forecast_platform_tests.landing.dated import DatedLanding

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class PromptPlatform(Platform):
    """The platform, but a file counts as landed at once: nobody copies slowly here."""

    @property
    def landing(self) -> Landing:
        if "://" in self.settings.landing:
            return super().landing
        return DatedLanding(self.settings.landing)


class Graph:
    """Definitions over one home, and a Dagster instance of their own.

    Args:
        drawn: whether runs draw the week's page and the pictures of the assets' pages, a third of a weekly run's time.
    """

    def __init__(self, settings: Settings, drawn: bool = False) -> None:
        self.drawn = drawn
        self.platform = PromptPlatform(settings)
        self.lake = self.platform.lake
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = {"platform": self.platform, "duckdb": DuckDBResource(database=":memory:")}
        shipped = definitions.defs
        self.defs = dg.Definitions(
            assets=shipped.assets,
            asset_checks=shipped.asset_checks,
            jobs=shipped.jobs,
            executor=shipped.executor,
            resources=self.resources,
        )

    def land(self, files: Mapping[str, bytes], at: dt.datetime | None = None) -> None:
        """Drop files, as if they arrived `at` that time."""
        landing = self.platform.landing
        for name, data in files.items():
            if isinstance(landing, DatedLanding):
                landing.land(name, data, at)
            else:
                landing.put(name, data)

    def history(self, first: dt.date, last: dt.date, only: Sequence[str] = ("raw_sales", "cleaned_series")) -> Result:
        """Bring in many weeks in one run."""
        tags = {"dagster/asset_partition_range_start": key(first), "dagster/asset_partition_range_end": key(last)}
        return self.run("ingest_history", only=only, tags=tags)

    def week(
        self, week: dt.date, only: Sequence[str] | None = None, as_known: str = "now", drawn: bool = False
    ) -> Result:
        """The weekly run, or some of its assets."""
        tags = {} if as_known == "now" else {"forecast/as_known": as_known}
        return self.run("weekly_forecast", week, only, tags, drawn)

    def run(
        self,
        job: str,
        week: dt.date | None = None,
        only: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
        drawn: bool = False,
    ) -> Result:
        drawn, found = drawn or self.drawn, self.defs.resolve_job_def(job)
        if not drawn and not only:
            assets = {key.to_user_string() for key in found.asset_layer.executable_asset_keys}
            only = sorted(assets - {"weekly_report"})
        with pytest.MonkeyPatch.context() as patch:
            if not drawn:
                patch.setattr(pictures, "_markdown", lambda figure, alt: dg.MarkdownMetadataValue(alt))
                # It opens the lake as the dashboard does, a tenth of a weekly run.
                patch.setattr(pictures, "total_with_fan", lambda *_: dg.MarkdownMetadataValue("not drawn"))
            done = found.execute_in_process(
                instance=self.instance,
                partition_key=key(week) if week else None,
                tags=dict(tags or {}),
                raise_on_error=False,
                run_config=QUIET,
                asset_selection=[dg.AssetKey(name) for name in only] if only else None,
            )
        return Result(done)


class Result:
    """What a run did, by names."""

    def __init__(self, result: dg.ExecuteInProcessResult) -> None:
        self.run_id, self.success, self.events = result.run_id, result.success, list(result.all_events)

    @property
    def checks(self) -> dict[str, dg.AssetCheckEvaluation]:
        """Check name -> its evaluation."""
        found = [e.asset_check_evaluation_data for e in self.events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
        return {check.check_name: check for check in found}

    @property
    def materialized(self) -> dict[str, list[str]]:
        """Asset -> the partitions recorded."""
        done: dict[str, list[str]] = {}
        for event in self.events:
            if event.is_step_materialization:
                found = event.step_materialization_data.materialization
                done.setdefault(found.asset_key.to_user_string(), []).append(str(found.partition))
        return done

    def metadata(self, asset: str) -> dict[str, Any]:
        """Metadata of the asset's (last) materialization."""
        (*_, last) = [
            e.step_materialization_data.materialization
            for e in self.events
            if e.is_step_materialization and e.step_key == asset
        ]
        return {name: value.value for name, value in last.metadata.items()}

    @property
    def failures(self) -> dict[str, str]:
        """Step -> its error as a person reads it: a dagster.Failure's description, else the traceback."""
        found = {}
        for event in self.events:
            if event.is_step_failure:
                data = event.step_failure_data
                expected = data.user_failure_data
                found[event.step_key] = (
                    expected.description
                    if expected and expected.description
                    else data.error.to_string()
                    if data.error
                    else ""
                )
        return found
