"""The benchmark of size: its retailers, what it measures of a process, and one short run of every stage."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import scale, scale_report
from benchmarks.retailers import DEPTS, Retailer
from forecast_platform.engines import capacity
from forecast_platform_tests.processes import python

SHOP = Retailer(series=2 * DEPTS + 50, weeks=61)


def test_any_range_of_series_is_the_same_by_itself() -> None:
    whole = SHOP.sales(0, SHOP.series)
    assert whole.shape == (250, 61)
    np.testing.assert_array_equal(SHOP.sales(90, 230), whole[90:230])
    np.testing.assert_array_equal(Retailer(10_000_000, 61).sales(0, 250), whole)
    assert not np.array_equal(Retailer(SHOP.series, 61, seed=1).sales(0, 250), whole, equal_nan=True)
    np.testing.assert_array_equal(np.isnan(Retailer(10**9, 61).sales(10**9 - 3, 10**9)).all(axis=1), [False] * 3)


def test_a_retailer_has_new_ended_and_rare_series_and_every_one_is_sold() -> None:
    there = ~np.isnan(Retailer(2_000, 100).sales(0, 2_000))
    assert there.any(axis=1).all()
    assert 0.02 < (~there[:, :10]).all(axis=1).mean() < 0.15  # began later
    assert 0.005 < (~there[:, -10:]).all(axis=1).mean() < 0.1  # ended
    assert 0.8 < there.mean() < 0.97


def test_files_hold_each_row_once_and_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = SHOP.write(tmp_path / "whole", range(60))
    monkeypatch.setattr("benchmarks.retailers._AT_ONCE", 1)
    assert SHOP.write(tmp_path / "blocks", range(60)) == written
    expected = SHOP.sales(0, SHOP.series)[:, :60]
    for folder in ("whole", "blocks"):
        files = sorted((tmp_path / folder).iterdir())
        assert [file.stem[-10:] for file in files] == [str(SHOP.week(w)) for w in (12, 25, 38, 51, 59)]
        rows = pq.read_table(files).to_pandas()
        assert len(rows) == written == (~np.isnan(expected)).sum()
        found = np.full(expected.shape, np.nan)
        week = ((rows["date"].to_numpy("datetime64[D]") - np.datetime64(SHOP.week(0))).astype(int)) // 7
        found[(rows["store"] - 1) * DEPTS + rows["dept"] - 1, week] = rows["weekly_sales"]
        np.testing.assert_array_equal(found, expected)


def test_children_count_in_memory(tmp_path: Path) -> None:
    child = "import time; x = bytearray(b'1') * (150 << 20); time.sleep(1.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); sys.exit(3)"
    ended, left_cpu_s, peak_mb = scale.watched([sys.executable, "-c", code], os.environ, tmp_path / "log")
    assert (ended, left_cpu_s) == (3, 0)
    if sys.platform == "linux":
        assert 150 < peak_mb < 250


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell of orphans")
def test_seconds_of_what_outlives_the_program_count(tmp_path: Path) -> None:
    """As workers do, whose parent is the server they are forked from."""
    worker = "import time\nwhile time.process_time() < .6: pass"
    server = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {server!r}]); time.sleep(1.5)"
    ended, left_cpu_s, _ = scale.watched([sys.executable, "-c", code], os.environ, tmp_path / "log")
    assert ended == 0
    assert 0.6 < left_cpu_s < 5


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (0, {"rows_accepted": 99, "rows_quarantined": 0}),
        (0, {"rows_accepted": 100, "rows_quarantined": 1}),
        (4, {"series": 6, "without_forecast": 1}),
        (5, {"series": 9, "without_forecast": 0}),
        (7, {"rows": 95}),
        (-1, {"rows": [12, 0, 12]}),
    ],
)
def test_a_stage_that_did_not_do_all_is_no_measurement(stage: int, said: Mapping[str, Any]) -> None:
    with pytest.raises(RuntimeError):
        scale.check(scale.STAGES[stage], said, {"history": 100, "next": 9, "published": 96}, 8)


@pytest.mark.kill
def test_every_stage_is_measured_and_every_number_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "SCRATCH", tmp_path)
    monkeypatch.setattr(scale, "start", _forked)
    assert scale.main(["--quick", "--series", "120"]) == 0

    results = tmp_path / "quick" / "scale"
    found = json.loads((results / "120.json").read_text())
    assert found["about"]["rows"] > 0.8 * 120 * scale.QUICK_WEEKS
    stages = found["trees"]["new"]["stages"]
    assert list(stages) == [stage.name for stage in scale.STAGES]
    for measured in stages.values():
        assert measured["wall_s"] > 0
        assert measured["cpu_s"] > 0
        assert measured["peak_mb"] > 50
        assert measured["load"] >= 0
    assert stages["import_history"]["disk_mb"] > 0
    assert stages["predict"]["said"]["series"] > 100
    assert stages["train"]["said"]["target"] == "sales"
    assert stages["exports"]["said"]["rows"] == stages["publish"]["said"]["rows"] > 400
    assert stages["exports"]["disk_mb"] > 0
    read = stages[scale_report.READ]["said"]
    assert read["rows"] == [4] * 21
    assert min(read[name] for name in ("ms", "first_ms", "cpu_ms")) > 0

    page = (tmp_path / "quick" / "throughput.md").read_text()
    assert "failed" not in page
    assert " - |" not in page
    for label in scale_report.LABELS.values():
        assert f"| {label} |" in page
    assert sorted(p.name for p in (tmp_path / "quick" / "images").iterdir()) == ["scale-dark.png", "scale-light.png"]

    rates = tmp_path / "rates.json"
    assert scale.main(["--quick", "--kept", "--rates", str(rates)]) == 1  # of one size
    (results / "240.json").write_text(json.dumps({**found, "about": {**found["about"], "series": 240}}))
    assert scale.main(["--quick", "--kept", "--rates", str(rates)]) == 0
    planned = capacity.plan(capacity.Rates.read(rates), capacity.Wanted(120, scale.QUICK_WEEKS, 3600))
    assert planned.disk_gb == pytest.approx(sum(stages[n]["disk_mb"] for n in capacity.HISTORY) / 1000, abs=1e-3)


def _forked(order: str, environment: Mapping[str, str], log: Path) -> tuple[int, float, float]:
    """In a process that has imported already what takes longest; it knows its own seconds and memory."""
    done = python("-m", "benchmarks.scale_stage", order, cwd=scale.ROOT, env=environment)
    log.write_text(done.stdout + done.stderr)
    return done.returncode, 0.0, 0.0


def test_the_page_is_of_the_results(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    scale_report.write(scale.RESULTS, tmp_path / "throughput.md")
    assert (tmp_path / "throughput.md").read_text() == scale.PAGE.read_text()


def kept(results: Path, series: int, new: float, old: float | None = None, **others: Any) -> None:
    """The result of a size: each stage took `new` seconds and GB, of the older tree `old`; that fails beyond 1,000."""
    names = [*capacity.HISTORY, capacity.TRAIN, *capacity.WEEK]
    trees: dict[str, Any] = {}
    for tree, s in {"new": new, "old": old}.items():
        if s is not None:
            stage = {"wall_s": 2 * s, "cpu_s": s, "start_cpu_s": 4, "peak_mb": 1024 * s, "disk_mb": 1000, "load": 1.0}
            stages = {name: stage | {"said": {"rows": 12}} | others for name in names}
            trees[tree] = {"commit": tree, "stages": stages, "failed": ""}
    if old and series > 1_000:
        del trees["old"]["stages"]["publish"]
        trees["old"]["failed"] = "publish: exit -9"
    about = {
        "series": series,
        "weeks": 143,
        "rows": 10,
        "seed": 0,
        "date": "2026-11-28",
        "settings": {"target": "sales"},
    }
    about |= {"versions": {}, "cores": 2, "cpu": "Xeon", "system": "Linux", "python": "3.11"}
    (results / f"{series}.json").write_text(json.dumps({"about": about, "trees": trees}))


def test_ratios_are_of_what_ran_together_and_a_failure_is_said(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    results = tmp_path / "results"
    results.mkdir()
    kept(results, 1_000, new=1, old=4)
    kept(results, 10_000, new=10, old=25)
    kept(results, 1_000_000, new=1_200)
    scale_report.write(results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    label = "CPU s per 1,000 series, weekly run without training"
    assert f"| {label} | **4.00 x** (28 / 7.00) | failed / 7.00 |" in page
    assert "1,000,000: old" not in page
    assert "| - of each 1,000 series more than at the size before | - | 7.00 | 8.41 | |" in page
    assert "a third of old: 1,000 met; 1,000,000 within 15% of 10,000: +20%, **missed**" in page
    assert "8 at 1,000,000: **missed**" in page
    assert "- old: publish: exit -9" in page
    assert "Other programs were running" not in page


def test_seconds_of_a_busy_machine_are_said_to_be_too_long_and_are_no_rates(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    results = tmp_path / "results"
    results.mkdir()
    machine = {"cpu": "Xeon", "cores": 2}
    kept(results, 1_000, new=10)
    with pytest.raises(ValueError, match="rates need two sizes, and 1 of one history"):
        scale_report.rates(results, machine)
    kept(results, 2_000, new=20)
    quiet = scale_report.rates(results, machine)["stages"]["predict"]
    assert quiet["wall_s"] == [(1_000, 20), (2_000, 40)]
    assert quiet["cpu_s"] == quiet["memory_gb"] == [(1_000, 10), (2_000, 20)]
    assert quiet["disk_gb"] == [(1_000, 1), (2_000, 1)]
    kept(results, 2_000, new=20, load=9.0)
    busy = scale_report.rates(results, machine)
    assert (busy["busy"], busy["settings"]) == (True, "target sales")
    assert busy["stages"]["predict"]["wall_s"] == [(1_000, 10), (2_000, 20)]
    scale_report.write(results, tmp_path / "page.md")
    assert "load average up to 9" in (tmp_path / "page.md").read_text()
    with pytest.raises(ValueError, match="2 cores of another"):
        scale_report.rates(results, machine | {"cpu": "another"})
