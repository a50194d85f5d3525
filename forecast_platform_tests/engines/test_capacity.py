"""What a plan says, by value, from rates made up to be reckoned with by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from forecast_platform.cli import main
from forecast_platform.engines import capacity
from forecast_platform.engines.capacity import HISTORY, TRAIN, WEEK, PlanRefused, Rates, Wanted, deadline_seconds, plan

SIZES = (1_000, 10_000)


def made_up_rates(**others: dict[str, Any]) -> Rates:
    """Of stages that take 10 s and 1 s more for each 1,000 series; 1 GB of memory, and .1 GB of disk for each 1,000."""
    usual = {
        "wall_s": [(n, 10 + n / 1000) for n in SIZES],
        "cpu_s": [(n, 10 + n / 1000) for n in SIZES],
        "memory_gb": [(n, 1.0) for n in SIZES],
        "disk_gb": [(n, n / 10_000) for n in SIZES],
    }
    stages = {name: usual | others.get(name, {}) for name in (*HISTORY, TRAIN, *WEEK)}
    return Rates("a Xeon", 2, "2026-11-28", "abc", 100, "", False, stages, 5.0)


RATES = made_up_rates()
# The stages of a week but predict are six: 10 s each and 1 s for each 1,000 series; and 5 s to start.


@pytest.mark.parametrize(
    ("series", "seconds"), [(1_000, 11), (10_000, 20), (5_500, 15.5), (20_000, 30), (500, 10.5), (1, 10.001)]
)
def test_between_sizes_rates_are_joined_and_beyond_them_they_go_on(series: int, seconds: float) -> None:
    assert RATES.at("predict", "wall_s", series) == pytest.approx(seconds)


def test_what_shrank_from_size_to_size_is_not_taken_to_shrink_on() -> None:
    rates = made_up_rates(predict={"memory_gb": [(1_000, 3.0), (10_000, 2.0)]})
    assert rates.at("predict", "memory_gb", 100_000) == 2
    assert rates.at("predict", "memory_gb", 10) == 3


def test_one_size_alone_goes_in_proportion_and_not_below_itself() -> None:
    rates = made_up_rates(predict={"cpu_s": [(1_000, 8.0)]})
    assert rates.at("predict", "cpu_s", 4_000) == 32
    assert rates.at("predict", "cpu_s", 10) == 8


def test_between_three_sizes_the_neighbours_count() -> None:
    rates = made_up_rates(predict={"cpu_s": [(1_000, 1.0), (2_000, 2.0), (4_000, 10.0)]})
    assert [rates.at("predict", "cpu_s", n) for n in (1_500, 2_000, 3_000, 5_000)] == [1.5, 2, 6, 14]


def test_on_one_machine_workers_share_what_is_shared() -> None:
    found = plan(RATES, Wanted(10_000, 100, 600), "local", workers=4)
    assert found.stages["predict"] == pytest.approx(20 / 4 / 60)
    assert found.stages["publish"] == pytest.approx(20 / 60)
    assert found.minutes == pytest.approx((5 + 6 * 20 + 5) / 60)
    assert (found.number, found.unit, found.keeps, found.told) == (4, "worker", True, ())
    assert found.training_minutes == pytest.approx(20 / 60)
    assert found.history_minutes == pytest.approx(40 / 60)
    assert (found.disk_gb, found.disk_gb_a_week, found.usd_a_week) == (2, 7, 0)
    assert found.memory_gb == 1


def test_a_missed_deadline_names_the_workers_that_would_keep_it() -> None:
    rates = made_up_rates(predict={"wall_s": [(n, 600.0) for n in SIZES], "cpu_s": [(n, 600.0) for n in SIZES]})
    found = plan(rates, Wanted(10_000, 100, 300), "local", workers=2)  # 125 s are not shared out, 600 s are
    assert not found.keeps
    [told] = found.told
    assert told.startswith("4 workers would keep 5 minutes: a machine of as many cores, FORECAST_WORKERS=4, or several")
    assert plan(rates, Wanted(10_000, 100, 300), "local", workers=4).keeps
    assert not plan(rates, Wanted(10_000, 100, 300), "local", workers=3).keeps


def test_a_deadline_that_nothing_keeps_says_what_is_in_the_way() -> None:
    rates = made_up_rates(publish={"wall_s": [(n, 400.0) for n in SIZES]})
    found = plan(rates, Wanted(10_000, 100, 300), "local", workers=2)
    [told] = found.told
    assert told.startswith("no number of workers keeps 5 minutes: 8.4 minutes are not shared out, most of them publish")
    assert "(6.7); give it more time" in told
    spark = plan(rates, Wanted(10_000, 100, 300), "spark")
    assert (spark.keeps, spark.number) == (False, capacity.MOST["spark"])
    assert "no number of executors" in spark.told[0]


def test_more_than_is_considered_is_said() -> None:
    rates = made_up_rates(predict={"wall_s": [(n, 1e6) for n in SIZES], "cpu_s": [(n, 1e6) for n in SIZES]})
    [told] = plan(rates, Wanted(10_000, 100, 600), "sagemaker-container").told
    assert told.startswith("100 instances, the most considered, do not keep 10 minutes")


def test_spark_takes_as_many_executors_as_it_needs() -> None:
    rates = made_up_rates(predict={"wall_s": [(n, 2_000.0) for n in SIZES], "cpu_s": [(n, 3_000.0) for n in SIZES]})
    # 5 s and 180 s to start, 120 s not shared out: 295 s are left for 1.5 x 3,000 s on 4 cores each.
    found = plan(rates, Wanted(10_000, 100, 600), "spark")
    assert (found.number, found.unit, found.keeps) == (4, "executor", True)


def test_spark_costs_its_executors_and_a_driver_while_they_are_held() -> None:
    found = plan(RATES, Wanted(10_000, 100, 3600), "spark")
    held_s = 180 + 1.5 * 20 / 4
    an_hour = 4 * capacity.SPARK_CORE_USD + 16 * capacity.SPARK_GB_USD
    assert found.number == 1
    assert found.usd_a_week == pytest.approx(2 * an_hour * held_s / 3600)


def test_sagemaker_takes_as_many_instances_as_it_needs() -> None:
    rates = made_up_rates(predict={"wall_s": [(n, 9_600.0) for n in SIZES], "cpu_s": [(n, 9_600.0) for n in SIZES]})
    wanted = Wanted(10_000, 100, 900)  # 5 s and 360 s to start, 120 s here: 415 s are left for 9,600 on 8 cores each
    found = plan(rates, wanted, "sagemaker-container", instance="ml.c5.2xlarge", retrain_every_weeks=4)
    assert (found.number, found.unit, found.keeps) == (3, "instance", True)
    held_s, training_s = 360 + 9_600 / 24, 360 + 20
    assert found.usd_a_week == pytest.approx(0.408 * (3 * held_s + training_s / 4) / 3600)
    assert found.training_minutes == pytest.approx(training_s / 60)


def test_a_history_of_more_weeks_than_measured_costs_more_and_one_of_fewer_only_less_to_bring_in() -> None:
    usual, longer, shorter = (plan(RATES, Wanted(10_000, weeks, 600), "local") for weeks in (100, 200, 50))
    assert longer.stages["predict"] * 60 == pytest.approx(30)
    assert (longer.disk_gb, longer.history_minutes * 60) == (4, pytest.approx(60))
    assert shorter.stages == usual.stages
    assert shorter.history_minutes * 60 == pytest.approx(30)


def test_beyond_what_was_measured_is_said() -> None:
    assert not any("nothing was measured" in a for a in plan(RATES, Wanted(10_000, 100, 600)).assumptions)
    assert any("nothing was measured" in a for a in plan(RATES, Wanted(10_001, 100, 600)).assumptions)


def test_too_little_memory_is_said() -> None:
    rates = made_up_rates(train={"memory_gb": [(n, 20.0) for n in SIZES]}, predict={"memory_gb": [(1_000, 9.0)]})
    here = plan(rates, Wanted(1_000, 100, 600), memory_gb=16)
    assert here.told == ("this machine has 16 GB of memory; about 20.0 are needed",)
    there = plan(rates, Wanted(2_000, 100, 3600), "sagemaker-container", instance="ml.c5.2xlarge")
    assert there.told == ("ml.c5.2xlarge has 16 GB of memory; its jobs take 20.0: FORECAST_TRANSFORM_INSTANCE",)
    assert plan(rates, Wanted(2_000, 100, 3600), "sagemaker-container", instance="ml.m5.2xlarge").told == ()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400)]
)
def test_deadlines(text: str, seconds: float) -> None:
    assert deadline_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "half an hour", "-5m", "30m2h"])
def test_what_is_no_deadline_is_refused(text: str) -> None:
    with pytest.raises(PlanRefused, match="is no deadline"):
        deadline_seconds(text)


@pytest.mark.parametrize("given", [(0, 100, 60), (-1, 100, 60), (10**10, 100, 60), (10, 0, 60), (10, 9_999, 60)])
def test_what_cannot_be_is_refused(given: tuple[int, int, float]) -> None:
    with pytest.raises(PlanRefused):
        Wanted(*given)


def test_a_deadline_of_no_time_is_refused() -> None:
    with pytest.raises(PlanRefused, match="leave some time"):
        Wanted(10, 100, deadline_seconds("0m"))


def test_an_instance_that_is_not_known_is_refused() -> None:
    wanted = Wanted(1_000, 100, 600)
    with pytest.raises(PlanRefused, match=r"price of ml\.c9\.2xlarge is not known"):
        plan(RATES, wanted, "sagemaker-container", instance="ml.c9.2xlarge")
    with pytest.raises(PlanRefused, match="how many cores"):
        plan(RATES, wanted, "sagemaker-container", instance="ml.c5.18xlarge", prices={"ml.c5.18xlarge": 3.0})


def test_rates_are_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    written = dataclasses.asdict(RATES)
    path.write_text(json.dumps(written))
    assert plan(Rates.read(path), Wanted(5_000, 100, 600)) == plan(RATES, Wanted(5_000, 100, 600))
    for spoiled in ("", "[]", "{}", json.dumps({**written, "stages": {**written["stages"], "predict": {}}})):
        path.write_text(spoiled)
        with pytest.raises(PlanRefused, match="holds no whole rates"):
            Rates.read(path)


def test_the_command_uses_the_homes_rates_and_else_the_shipped_ones(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)

    def asked(*options: str) -> Any:
        done = CliRunner().invoke(main, ["plan", "--series", "10000", "--weeks", "100", "--json", *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    assert any(Rates.read(capacity.SHIPPED).cpu in line for line in asked()["assumptions"])
    (home / capacity.RATES).write_text(json.dumps(dataclasses.asdict(RATES)))
    found = asked("--workers", "4", "--deadline", "10m")
    assert found["minutes"] == pytest.approx(130 / 60)
    assert any("a Xeon" in line for line in found["assumptions"])


def test_the_command_tells_people_what_they_asked_and_refuses_nonsense(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / capacity.RATES).write_text(json.dumps(dataclasses.asdict(RATES)))
    done = CliRunner().invoke(main, ["plan", "--series", "10000", "--weeks", "100", "--deadline", "1m"])
    assert done.exit_code == 0
    assert "within 1m: NO" in done.output
    assert "no number of workers keeps 1 minutes" in done.output
    for wrong in (["--series", "0"], ["--series", "10", "--deadline", "soon"]):
        refused = CliRunner().invoke(main, ["plan", *wrong])
        assert refused.exit_code == 1
        assert refused.output.startswith("Error: ")
