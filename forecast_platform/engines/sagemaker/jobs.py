"""SageMaker jobs and models: `ensure` that a piece of work is done, and pay for it once.

decision.py decides what to do in each case; here it is done. An interruption (Ctrl-C, a cancelled Dagster run: a
BaseException that is no Exception) stops the remote job and is raised again. A process that is killed leaves the job
running, and the next call for the same work waits for it.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from forecast_platform.clouds.aws.clients import client
from forecast_platform.clouds.aws.storage import Storage
from forecast_platform.engines.base import EngineError
from forecast_platform.engines.sagemaker.cost import Spending
from forecast_platform.engines.sagemaker.decision import BUSY, Cause, answer, decide, job_name
from forecast_platform.engines.sagemaker.job_logs import LogTail
from forecast_platform.engines.sagemaker.specs import (
    TRANSFORM,
    Charge,
    Done,
    Kind,
    Spec,
    as_tags,
    billed_seconds,
    on_demand_instead,
    state_of,
)

log = logging.getLogger("forecast_platform.engines.sagemaker")

Percent = Callable[[int], None]
_LOG_DELAY = 2.0  # seconds that the last lines take to CloudWatch
_LOST_SIGHT = 5  # Describe calls in a row that may fail, each after boto3's own retries


class JobError(EngineError):
    """A job failed, was refused or was stopped; the message says why, where to look and what to do."""


class Jobs:
    """Creates, finds, waits for and stops jobs.

    Args:
        storage: where outputs are looked for.
        ledger: asked before anything is created, told when it has ended.
        sleep: waits for so many seconds.
        now: the time, aware.
    """

    def __init__(
        self, storage: Storage, ledger: Spending, sleep: Callable[[float], None], now: Callable[[], dt.datetime]
    ) -> None:
        self.storage, self._ledger, self._sleep, self._now = storage, ledger, sleep, now
        self.charges: list[Charge] = []
        self._running = ""  # the job an interruption has to stop

    @functools.cached_property
    def _client(self) -> Any:
        return client("sagemaker")

    @property
    def region(self) -> str:
        return str(self._client.meta.region_name)

    def ensure(self, spec: Spec, progress: Percent | None = None) -> Done:
        """The outputs of a piece of work: found, waited for, or made now.

        Raises:
            JobError: it cannot be had; the message says why.
            SpendRefused: it would cost more than the caps allow; nothing was created.
        """
        self._running = ""
        try:
            found = self._ensure(spec, progress)
            assert isinstance(found, Done)
            return found
        except Exception:
            raise
        except BaseException:
            if self._running:
                log.warning("%s: interrupted; stopping it", self._running)
                self.stop(spec.kind, self._running)
            raise

    def begin(self, spec: Spec) -> str:
        """`ensure` without waiting: the name of the job that makes the outputs, this call's or an earlier one's, or
        that has made them. For who is told when it has ended, see `ended`."""
        found = self._ensure(spec, None, wait=False)
        return found.name if isinstance(found, Done) else found

    def ended(self, kind: Kind, name: str) -> Mapping[str, Any] | None:
        """What SageMaker says of a job that has ended, whose cost is then in the ledger; None while it runs.

        Raises:
            JobError: there is none of that name.
        """
        described = self._describe(kind, name)
        if described is None:
            raise JobError(f"there is no {kind.word} job {name} in this account and region")
        if not state_of(kind, described).ended:
            return None
        # Describe repeats the request, of which the instances count.
        self._settle(Spec(kind, described["CreationTime"].date(), described, (), 0), name, described, paid_now=True)
        return described

    def exists(self, kind: Kind, name: str) -> bool:
        """Whether there is, or was, a job of that name."""
        return self._describe(kind, name) is not None

    def model(self, name: str) -> Mapping[str, Any]:
        """What SageMaker says of a model. Raises JobError when there is none, or it can't be asked."""
        from botocore.exceptions import ClientError

        try:
            found: dict[str, Any] = self._client.describe_model(ModelName=name)
        except ClientError as error:
            raise _explained("describe_model", name, error) from error
        return found

    def _ensure(self, spec: Spec, progress: Percent | None, wait: bool = True) -> Done | str:
        # Without waiting, the name of a job that runs.
        attempt, refusals, ours, on_demand = 1, 0, False, False
        failures: Counter[Cause] = Counter()
        while True:
            name = spec.name(attempt)
            described = self._describe(spec.kind, name)
            state = state_of(spec.kind, described) if described else None
            artefacts = tuple(key.format(job=name) for key in spec.artefacts)
            there = state is not None and state.status == "Completed" and all(map(self.storage.exists, artefacts))
            if described and state and state.ended:
                self._running = ""
                self._settle(spec, name, described, paid_now=ours)
            action = decide(state, attempt, ours, failures, there)
            if action.do == "reuse" and described:
                return Done(name, described, artefacts)
            if action.do == "create":
                self._running = name
                ours = True
                pause = self._create(spec, name, on_demand, refusals)
                refusals += pause > 0
                self._pause(pause)
            elif action.do == "attach" and state and not wait:
                log.info("%s: %s; %s", name, action.why, self._url(spec.kind, name))
                return name
            elif action.do == "attach" and state:
                self._running = name
                log.info("%s: %s; %s", name, action.why, self._url(spec.kind, name))
                # One that was being stopped already was not stopped in this call.
                ours = ours or state.status != "Stopping"
                self._wait(spec, name, progress)
            elif action.do == "next" and action.cause:
                log.warning("%s: %s; trying again in %.0f s", name, action.why, action.wait)
                failures[action.cause] += ours
                on_demand = on_demand or action.cause is Cause.SPOT
                self._sleep(action.wait)
                attempt, ours = attempt + 1, False
            else:
                raise JobError(f"{spec.kind.word} job {name}: {action.why}{self._tail(spec, name)}")

    def ensure_model(
        self, week: dt.date, request: Mapping[str, Any], tags: Mapping[str, str], prefix: str = "forecast"
    ) -> str:
        """A SageMaker model of create_model's request (without name and tags); returns its name. It costs nothing.

        Raises:
            JobError: it was refused.
        """
        from botocore.exceptions import ClientError

        name = job_name(prefix, week, "model", request)
        try:
            self._client.describe_model(ModelName=name)
        except ClientError as error:
            if not _missing(error):
                raise _explained("describe_model", name, error) from error
            try:
                self._client.create_model(ModelName=name, **request, Tags=as_tags(tags))
            except ClientError as refused:
                if answer(*_said(refused), 0).why != "it exists":
                    raise _explained("create_model", name, refused) from refused
        return name

    # --- creating

    def _create(self, spec: Spec, name: str, on_demand: bool, refusals: int) -> float:
        """Ask for the job once. Returns seconds to wait before looking whether it is there, 0 when it is.

        Raises:
            JobError: it was refused for good.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        worst = self._ledger.reserve(name, *spec.instances, spec.seconds)
        request = on_demand_instead(spec.request) if on_demand else spec.request
        create = getattr(self._client, f"create_{spec.kind.title.lower()}_job")
        try:
            create(**{f"{spec.kind.title}JobName": name}, **request, Tags=as_tags(spec.tags))
        except ClientError as error:
            action = answer(*_said(error), refusals)
            if action.do == "fail":
                self._ledger.forget(name)
                raise JobError(f"{spec.kind.word} job {name} was not created: {action.why}") from error
            log.warning("%s: %s", name, action.why)
            return action.wait
        except BotoCoreError as error:
            # The answer was lost, not necessarily the request. The ledger keeps the worst case until we know.
            if refusals >= _LOST_SIGHT:
                raise JobError(
                    f"{spec.kind.word} job {name}: SageMaker cannot be reached ({error}); if it was created it runs "
                    "on, and running this again finds it"
                ) from error
            log.warning("%s: no answer to its creation (%s); looking whether it exists", name, error)
            return 2.0**refusals
        log.info("%s: created, at most %.2f USD; %s", name, worst, self._url(spec.kind, name))
        return 0.0

    # --- waiting

    def _wait(self, spec: Spec, name: str, progress: Percent | None) -> None:
        """Wait until the job has ended, passing on its log.

        Raises:
            JobError: it ran longer than it may and was stopped, or SageMaker cannot be reached any more.
        """
        tail, poll, overdue = LogTail(spec.kind.group, name, log.info, progress), 1.0, False
        while True:
            described = self._describe(spec.kind, name)
            tail.read()
            if described is None or state_of(spec.kind, described).ended:
                break
            started = described.get(f"{spec.kind.title}StartTime")
            if spec.kind is TRANSFORM and started and not overdue:
                overdue = self._now() - started > dt.timedelta(seconds=spec.seconds)
                if overdue:
                    self.stop(spec.kind, name)
            self._pause(poll)
            poll = min(1.3 * poll, 30.0)
        self._pause(_LOG_DELAY)
        tail.read()
        if described and overdue:
            self._settle(spec, name, described, paid_now=True)
            raise JobError(
                f"transform job {name} was stopped after {spec.seconds / 60:.0f} minutes: {Cause.RUNTIME.advice}"
            )

    def stop(self, kind: Kind, name: str) -> None:
        """Stop a job; one that has ended or never was is no error."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            getattr(self._client, f"stop_{kind.title.lower()}_job")(**{f"{kind.title}JobName": name})
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ValidationException":
                return
            log.error(
                "%s could not be stopped (%s) and may cost money; stop it at %s", name, error, self._url(kind, name)
            )

    def _describe(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """What SageMaker says of a job; None when there is none of that name."""
        from botocore.exceptions import BotoCoreError, ClientError

        call = getattr(self._client, f"describe_{kind.title.lower()}_job")
        for tries in range(_LOST_SIGHT + 1):
            try:
                reply: dict[str, Any] = call(**{f"{kind.title}JobName": name})
            except (ClientError, BotoCoreError) as error:
                if isinstance(error, ClientError):
                    if _missing(error):
                        return None
                    if _said(error)[0] not in BUSY:
                        raise _explained(f"describe_{kind.title.lower()}_job", name, error) from error
                if tries == _LOST_SIGHT:
                    raise JobError(
                        f"{kind.word} job {name}: SageMaker cannot be reached ({error}); if the job runs it goes on, "
                        f"and running this again waits for it; {self._url(kind, name)}"
                    ) from error
                self._pause(2.0 ** (tries + 1))
            else:
                return reply
        raise AssertionError("unreachable")

    def _pause(self, seconds: float) -> None:
        if seconds:
            self._sleep(seconds * random.uniform(0.75, 1.25))  # noqa: S311 (jitter)

    # --- accounts

    def _settle(self, spec: Spec, name: str, described: Mapping[str, Any], paid_now: bool) -> None:
        instance, count = spec.instances
        seconds = billed_seconds(spec.kind, described)
        usd = self._ledger.settle(name, instance, count, seconds, described["CreationTime"])
        if paid_now or state_of(spec.kind, described).status == "Completed":
            url, usd = self._url(spec.kind, name), usd if paid_now else 0.0
            self.charges.append(Charge(name, url, instance, count, seconds, usd, not paid_now))

    def _url(self, kind: Kind, name: str) -> str:
        region = self.region
        return f"https://{region}.{_console(region)}/sagemaker/home?region={region}#/{kind.page}/{name}"

    def _tail(self, spec: Spec, name: str) -> str:
        """The end of a failed job's log, and where to see the rest."""
        tail = LogTail(spec.kind.group, name, lambda line: None)
        tail.read()
        lines = "".join(f"\n  {line}" for line in tail.last)
        return f"\n{self._url(spec.kind, name)}" + (f"\nIts log ends with:{lines}" if lines else "")


def _console(region: str) -> str:
    """The domain of AWS's console in the region's partition, which botocore does not know."""
    domains = {"cn": "console.amazonaws.cn", "us-gov": "console.amazonaws-us-gov.com"}
    return next((name for start, name in domains.items() if region.startswith(f"{start}-")), "console.aws.amazon.com")


def _said(error: Any) -> tuple[str, str]:
    return str(error.response["Error"]["Code"]), str(error.response["Error"].get("Message", ""))


def _missing(error: Any) -> bool:
    # The service model says ResourceNotFound; the service has been seen to say ValidationException.
    code, message = _said(error)
    return code == "ResourceNotFound" or (
        code == "ValidationException" and ("not find" in message or "not found" in message)
    )


def _explained(call: str, name: str, error: Any) -> JobError:
    return JobError(f"{call} {name}: {answer(*_said(error), 99).why}")
