"""What SageMaker jobs cost, and the caps that refuse a job before it is created.

The ledger is one small JSON object a job in storage: `spend/2026-11/<job>.json`. It is written with the worst case
before the job is created and corrected when the job has ended. So a crash never loses spend, and a job whose creation
was not confirmed counts in full until it is seen again.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from forecast_platform.clouds.aws.storage import NotStored, Storage
from forecast_platform.engines.base import EngineError

# USD per instance hour of training and batch transform on demand, us-east-1, as known in January 2026. An estimate:
# other regions cost more, and AWS changes its prices. FORECAST_PRICES overrides and adds.
PRICES = {
    "ml.m5.large": 0.115, "ml.m5.xlarge": 0.23, "ml.m5.2xlarge": 0.461, "ml.m5.4xlarge": 0.922,
    "ml.m6i.large": 0.115, "ml.m6i.xlarge": 0.23, "ml.m6i.2xlarge": 0.461, "ml.m6i.4xlarge": 0.922,
    "ml.c5.large": 0.102, "ml.c5.xlarge": 0.204, "ml.c5.2xlarge": 0.408, "ml.c5.4xlarge": 0.816,
    "ml.c6i.large": 0.102, "ml.c6i.xlarge": 0.204, "ml.c6i.2xlarge": 0.408, "ml.c6i.4xlarge": 0.816,
}  # fmt: skip


class SpendRefused(EngineError):
    """A job was not created because of a cap, or its price is unknown; the message names the setting."""


@dataclass(frozen=True)
class JobCost:
    """One job in the ledger: the worst case until it is settled, then what was billed."""

    job: str
    instance: str
    instances: int
    seconds: int
    usd: float
    settled: bool


class Spending:
    """Prices, caps and the month's spend.

    Args:
        storage: where the objects live.
        prices: USD per instance hour, over PRICES.
        max_job_usd, max_month_usd: the caps; a month is a calendar month in UTC.
        now: the time, aware.
    """

    def __init__(
        self,
        storage: Storage,
        prices: Mapping[str, float],
        max_job_usd: float,
        max_month_usd: float,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._storage, self._prices = storage, {**PRICES, **prices}
        self._max_job, self._max_month, self._now = max_job_usd, max_month_usd, now
        self._read: dict[tuple[str, str], float] = {}  # (key, ETag) -> USD, so that an object is read once

    def usd(self, instance: str, instances: int, seconds: float) -> float:
        """Estimate for `instances` of a type over `seconds`.

        Raises:
            SpendRefused: the type's price is unknown.
        """
        price = self._prices.get(instance)
        if price is None:
            raise SpendRefused(
                f"the price of {instance} is not known, so no cap could hold; set FORECAST_PRICES to "
                f'{{"{instance}": <USD per hour>}}'
            )
        return instances * seconds * price / 3600

    def reserve(self, job: str, instance: str, instances: int, seconds: int) -> float:
        """Write down a job's worst case, before it is created. Returns it in USD. The same job again counts once.

        Raises:
            SpendRefused: it would exceed a cap, or its price is unknown; then nothing stays written.
        """
        worst = self.usd(instance, instances, seconds)
        if worst > self._max_job:
            raise SpendRefused(
                f"{job} on {instances} x {instance} could cost {worst:.2f} USD in {seconds / 60:.0f} minutes, more "
                f"than {self._max_job:.2f}; raise FORECAST_MAX_JOB_USD, or lower FORECAST_MAX_JOB_MINUTES"
            )
        month = self._now()
        # Written before the sum is taken: of two jobs at once each sees the other, so both may be refused, never both
        # let through.
        self._write(month, JobCost(job, instance, instances, seconds, worst, False))
        total = self.month_usd(month)
        if total > self._max_month:
            self.forget(job)
            raise SpendRefused(
                f"{job} could cost {worst:.2f} USD; with {total - worst:.2f} of {month:%B %Y} so far that is more than "
                f"{self._max_month:.2f}; raise FORECAST_MAX_MONTH_USD, or wait for the next month"
            )
        return worst

    def settle(self, job: str, instance: str, instances: int, seconds: int, created: dt.datetime) -> float:
        """Replace the worst case of a job that has ended by what it cost. Returns that in USD.

        Args:
            seconds: billed, of each instance.
            created: when AWS says it was created.
        """
        usd = self.usd(instance, instances, seconds)
        # It may have been reserved just before the month it was created in.
        if f"{created - dt.timedelta(hours=12):%Y-%m}" != f"{created:%Y-%m}":
            self._storage.delete(_key(created - dt.timedelta(hours=12), job))
        self._write(created, JobCost(job, instance, instances, seconds, usd, True))
        return usd

    def forget(self, job: str) -> None:
        """Take back what was reserved this month for a job that AWS refused to create."""
        self._storage.delete(_key(self._now(), job))

    def month_usd(self, month: dt.datetime) -> float:
        """Spend of a calendar month, the worst case of jobs not ended included."""
        total = 0.0
        for item in self._storage.list(f"spend/{month:%Y-%m}"):
            seen = (item.key, item.etag)
            if seen not in self._read:
                try:
                    self._read[seen] = float(json.loads(self._storage.get_bytes(item.key))["usd"])
                except NotStored:
                    continue  # its job was refused just now
            total += self._read[seen]
        return total

    def _write(self, month: dt.datetime, entry: JobCost) -> None:
        self._storage.put_bytes(_key(month, entry.job), json.dumps(asdict(entry), indent=1).encode())


def _key(month: dt.datetime, job: str) -> str:
    return f"spend/{month.astimezone(dt.UTC):%Y-%m}/{job}.json"
