"""Runs of the asset graph from the command line, in this process and in the same Dagster instance the UI shows."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from forecast_platform.failures import Failure, record_failures, record_success
from forecast_platform.landing.ingest import Order, ingest_landed
from forecast_platform.landing.kinds import KINDS
from forecast_platform.landing.ledger import Entry, Ledger
from forecast_platform.settings import Settings, get_settings
from forecast_platform.weeks import key

if TYPE_CHECKING:
    import dagster as dg

_ADD_UP = ("seconds", "files", "rows_accepted", "rows_quarantined", "rows_appeared", "rows_changed", "rows_vanished")
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Outcome:
    """What a run did, for people: numbers per asset, checks that did not pass, and why it stopped."""

    run_id: str
    success: bool
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed_checks: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    error: str = ""

    def then(self, later: Outcome) -> Outcome:
        """Both in one. Of an asset that ran in both, counts of files and rows add up, and the later check is told."""
        stages = {**self.stages, **later.stages}
        for name in self.stages.keys() & later.stages.keys():
            both = self.stages[name], later.stages[name]
            stages[name] = {
                **later.stages[name],
                **{n: sum(numbers.get(n, 0) for numbers in both) for n in _ADD_UP if any(n in ns for ns in both)},
            }
        checks = list(dict.fromkeys([*self.failed_checks, *later.failed_checks]))
        return Outcome(
            later.run_id, later.success, stages, checks, [*self.blocked, *later.blocked], self.error or later.error
        )


def prepare_home(settings: Settings) -> None:
    """Create $FORECAST_HOME with Dagster's settings, point Dagster and child processes at it, and say that it is used.

    Raises:
        LakeError: it is half a home, shares files with another, or is being moved.
    """
    from forecast_platform.clouds.base import cloud_of

    if held := cloud_of(settings).hold():
        _used[settings.home] = held
        os.set_inheritable(held.fileno(), True)  # `forecast ui` becomes Dagster's process
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    if not (settings.dagster_home / "dagster.yaml").exists():
        shutil.copy(Path(__file__).with_name("dagster.yaml"), settings.dagster_home / "dagster.yaml")
    if "://" not in settings.landing:
        for kind in KINDS:
            (Path(settings.landing) / kind).mkdir(parents=True, exist_ok=True)
    os.environ["FORECAST_HOME"] = str(settings.home)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    # Dagster starts its processes with `python -m`, which looks for modules in the working directory first: a file
    # click.py or holidays.py there would break every run.
    os.environ["PYTHONSAFEPATH"] = "1"


_used: dict[Path, IO[Any]] = {}  # by home, open until this process ends


class Runner:
    """Starts the jobs. Opens Dagster once; `close` it, or use it as a context manager."""

    def __init__(self) -> None:
        self.settings = get_settings()
        prepare_home(self.settings)
        warnings.filterwarnings("ignore", module="dagster")
        import dagster as dg

        from forecast_platform.definitions import defs
        from forecast_platform.defs.event_log import keep_open
        from forecast_platform.defs.resources import Platform

        self.defs = defs
        self.instance = dg.DagsterInstance.get()
        keep_open(self.instance)
        self.platform = Platform(self.settings)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.instance.dispose()

    def settle(self) -> None:
        """Wait until a file written just now counts as landed: a folder leaves it alone until it stops changing."""
        time.sleep(self.platform.landing.settles_in())

    def bring_in(self) -> Outcome | None:
        """Ingest whatever has landed, then clean the weeks that it touched; None when there was nothing to do.

        The files are read by the first run. The second is over the weeks that the ledger names then, also those that an
        earlier run ingested and died before it cleaned.
        """
        settings, lake, now = self.settings, self.platform.lake, dt.datetime.now(dt.UTC)
        self.settle()
        ledger, newest = Ledger.of(lake), settings.calendar.last_started(now)
        objects = self.platform.landing.list(known=ledger.objects)
        outcome = None
        if any(ledger.is_news(o, settings.reading, newest) for o in objects):
            outcome = self._run("ingest_history", newest, only=["raw_sales"])
            if not outcome.success:
                return outcome
        cleaned = self.clean_touched()
        return outcome.then(cleaned) if outcome and cleaned else outcome or cleaned

    def ingest(self, orders: Mapping[str, Order]) -> list[Entry]:
        """Ingest files as a person ordered, whatever the ledger says of them; `clean_touched` comes next."""
        settings, platform = self.settings, self.platform
        return ingest_landed(
            platform.lake,
            platform.landing,
            settings.contract,
            settings.calendar,
            dt.datetime.now(dt.UTC),
            limits=settings.limits,
            orders=orders,
        )

    def clean_touched(self) -> Outcome | None:
        """Clean the weeks whose rows changed since they were cleaned last; None when there are none."""
        from forecast_platform.defs.jobs import history_assets

        newest = self.settings.calendar.last_started(dt.datetime.now(dt.UTC))
        weeks = [w for w in Ledger.of(self.platform.lake).to_clean(self.settings.calendar) if w <= newest]
        if not weeks:
            return None
        return self._run(
            "ingest_history",
            only=history_assets(self.platform.lake),
            tags={
                "dagster/asset_partition_range_start": key(weeks[0]),
                "dagster/asset_partition_range_end": key(weeks[-1]),
            },
        )

    def forecast_only(
        self, week: dt.date, tags: dict[str, str] | None = None, settings: Settings | None = None
    ) -> Outcome:
        """Model, predictions and table of a week whose series are there already; by other settings than the home's,
        where they are given."""
        stages = ["deepar_model", "batch_predictions", "forecast_table"]
        # The resource of every run in this process; Dagster takes no other one for a single run.
        platform = (self.defs.resources or {})["platform"]
        before, platform.settings = platform.settings, settings or platform.settings
        try:
            return self._run("weekly_forecast", week, tags, stages)
        finally:
            platform.settings = before

    def score(self, first: dt.date, last: dt.date) -> Outcome:
        """Score what was forecast of the weeks first .. last."""
        span = {"dagster/asset_partition_range_start": key(first), "dagster/asset_partition_range_end": key(last)}
        return self._run("ingest_history", tags=span, only=["forecast_accuracy"])

    def run_week(self, week: dt.date, as_known_then: bool = False, tags: dict[str, str] | None = None) -> Outcome:
        """The whole graph for one week."""
        mode = {"forecast/as_known": "then"} if as_known_then else {}
        return self._run("weekly_forecast", week, tags={**(tags or {}), **mode})

    def _run(
        self,
        job: str,
        week: dt.date | None = None,
        tags: dict[str, str] | None = None,
        only: Sequence[str] | None = None,
    ) -> Outcome:
        import dagster as dg

        with _sigterm_kept():
            result = self.defs.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                partition_key=key(week) if week else None,
                tags=tags or {},
                raise_on_error=False,
                run_config=_QUIET,
                asset_selection=[dg.AssetKey(name) for name in only] if only else None,
            )
        outcome = _outcome(result)
        self._write_down(job, result, outcome)
        return outcome

    def _write_down(self, job: str, result: dg.ExecuteInProcessResult, outcome: Outcome) -> None:
        """The failure, or what was mended: as the sensors do for the runs that Dagster starts."""
        from forecast_platform.defs.run_failures import failed_steps, run_of

        now, run = dt.datetime.now(dt.UTC), run_of(result.run_id, job, result.dagster_run.tags)
        if outcome.success:
            record_success(self.platform.lake, run, now)
        else:
            failed = failed_steps(result.all_events) or [Failure("", outcome.error or "the run failed")]
            record_failures(self.platform.lake, run, failed, now, self.settings.secrets)

    def tell(self) -> None:
        """Tell whoever is to be told what is new (setting notify)."""
        from forecast_platform.notify import tell_news

        tell_news(self.platform.lake, self.settings, dt.datetime.now(dt.UTC))


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Dagster leaves SIGTERM with the handler of Ctrl-C. A shell starts what runs in the background of a script with
    Ctrl-C ignored: it could not be ended any more, nor could the workers it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _outcome(result: dg.ExecuteInProcessResult) -> Outcome:
    outcome = Outcome(result.run_id, result.success)
    for event in result.all_events:
        if event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            numbers = {name: value.value for name, value in materialization.metadata.items()}
            if "seconds" in numbers:
                outcome.stages[materialization.asset_key.to_user_string()] = numbers
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            if not check.passed:
                text = f"{check.asset_key.to_user_string()}.{check.check_name}: {check.description or 'failed'}"
                (outcome.blocked if check.blocking else outcome.failed_checks).append(text)
        elif event.is_step_failure and not outcome.error:
            error = event.step_failure_data.error
            if error and error.cls_name == "DagsterAssetCheckFailedError":
                continue  # the check itself says more, and is among the blocked
            cause = event.step_failure_data.user_failure_data
            text = cause.description if cause and cause.description else (error.cause or error).message if error else ""
            outcome.error = f"{event.step_key}: {text.strip()}"
    return outcome
