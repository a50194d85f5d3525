"""Spend: estimated from a price table, written down before it is made, refused beyond the caps."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast_platform.clouds.aws.storage import Storage
from forecast_platform.engines.sagemaker.cost import PRICES, Spending, SpendRefused

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
C5 = "ml.c5.2xlarge"


def ledger(job: float = 10, month: float = 100, now: dt.datetime = NOW, prices: Any = None) -> Spending:
    return Spending(Storage("s3://drop/p"), prices or {}, job, month, lambda: now)


def stored() -> dict[str, dict[str, Any]]:
    storage = Storage("s3://drop/p")
    return {item.key: json.loads(storage.get_bytes(item.key)) for item in storage.list("spend")}


class TestPrices:
    def test_instances_times_hours_times_price(self):
        assert ledger().usd(C5, 3, 1800) == pytest.approx(3 * 0.5 * PRICES[C5])
        assert ledger(prices={C5: 1.5}).usd(C5, 2, 3600) == pytest.approx(3)
        assert ledger(prices={"ml.new": 2}).usd("ml.new", 1, 3600) == 2

    def test_an_unknown_price_is_refused_and_says_how_to_give_it(self):
        with pytest.raises(SpendRefused, match=r'ml.p9.large is not known.*FORECAST_PRICES to \{"ml.p9.large": <USD'):
            ledger().usd("ml.p9.large", 1, 60)

    def test_a_larger_size_of_a_family_costs_about_twice_the_smaller(self):
        for family in {name.rpartition(".")[0] for name in PRICES}:
            prices = [PRICES[f"{family}.{size}"] for size in ("large", "xlarge", "2xlarge", "4xlarge")]
            for small, large in itertools.pairwise(prices):
                assert large == pytest.approx(2 * small, rel=0.02)


class TestLedger:
    def test_the_worst_case_before_and_the_truth_after(self, s3):
        book = ledger()
        assert book.reserve("job-a1", C5, 2, 3600) == pytest.approx(0.816)
        key = "spend/2026-11/job-a1.json"
        assert stored() == {
            key: {"job": "job-a1", "instance": C5, "instances": 2, "seconds": 3600, "usd": 0.816, "settled": False}
        }
        assert book.month_usd(NOW) == pytest.approx(0.816)
        assert book.settle("job-a1", C5, 2, 300, NOW) == pytest.approx(0.068)
        assert (stored()[key]["usd"], stored()[key]["settled"]) == (pytest.approx(0.068), True)
        assert book.month_usd(NOW) == ledger().month_usd(NOW) == pytest.approx(0.068)

    def test_the_same_job_counts_once(self, s3):
        for _ in range(3):
            ledger().reserve("job-a1", C5, 1, 3600)
        assert ledger().month_usd(NOW) == pytest.approx(0.408)

    def test_one_reserved_before_midnight_and_created_after_moves_to_its_month(self, s3):
        book = ledger(now=dt.datetime(2026, 11, 30, 23, 59, tzinfo=dt.UTC))
        book.reserve("job-a1", C5, 1, 3600)
        book.settle("job-a1", C5, 1, 60, dt.datetime(2026, 12, 1, 0, 0, 5, tzinfo=dt.UTC))
        assert list(stored()) == ["spend/2026-12/job-a1.json"]

    def test_months_are_those_of_utc(self, s3):
        east = dt.datetime(2026, 12, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=9)))
        ledger(now=east).reserve("job-a1", C5, 1, 60)
        assert list(stored()) == ["spend/2026-11/job-a1.json"]

    def test_what_was_refused_is_taken_back(self, s3):
        book = ledger()
        book.reserve("job-a1", C5, 1, 60)
        book.forget("job-a1")
        assert stored() == {}


class TestCaps:
    def test_a_job_that_could_cost_too_much(self, s3):
        message = (
            r"job-a1 on 10 x ml.c5.2xlarge could cost 4.08 USD in 60 minutes, more than 4.00; raise FORECAST_MAX_JOB"
        )
        with pytest.raises(SpendRefused, match=message):
            ledger(job=4).reserve("job-a1", C5, 10, 3600)
        assert stored() == {}

    def test_a_month_that_could_cost_too_much(self, s3):
        book = ledger(month=1)
        book.reserve("job-a1", C5, 1, 3600)
        book.reserve("job-a2", C5, 1, 3600)
        message = r"job-a3 could cost 0.41 USD; with 0.82 of November 2026 so far .* than 1.00; .*MAX_MONTH_USD"
        with pytest.raises(SpendRefused, match=message):
            book.reserve("job-a3", C5, 1, 3600)
        assert len(stored()) == 2
        book.settle("job-a1", C5, 1, 60, NOW)
        book.reserve("job-a3", C5, 1, 3600)
        ledger(month=1, now=NOW + dt.timedelta(days=10)).reserve("job-a4", C5, 1, 3600)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(st.tuples(st.integers(60, 7200), st.none() | st.floats(0, 1)), max_size=6))
    def test_the_month_never_exceeds_its_cap(self, s3, jobs):
        Storage("s3://drop/p").delete("spend")
        book, real = ledger(month=1), 0.0
        for number, (seconds, part) in enumerate(jobs):
            name = f"job-{number}"
            try:
                worst = book.reserve(name, C5, 1, seconds)
            except SpendRefused:
                continue
            real += worst if part is None else book.settle(name, C5, 1, int(part * seconds), NOW)
            assert real <= 1
        assert ledger().month_usd(NOW) == pytest.approx(real)
