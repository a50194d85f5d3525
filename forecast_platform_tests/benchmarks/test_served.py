"""What is served, judged afterwards: a case is run once, and the page says what its figures are."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import served
from benchmarks.served import Case, cases
from forecast_platform.history.panel import Panel

SCORES = {"wape": 0.1, "wql": 0.08, "coverage80": 0.8}


def kept(piece: int | None, cutoff: str, wql: float, last_year: float, cpu_s: float, series: int) -> dict[str, Any]:
    return {
        "data": "Walmart",
        "piece": piece,
        "cutoff": cutoff,
        "seed": 0,
        "series": series,
        "cpu_s": cpu_s,
        "served": {**SCORES, "wql": wql},
        "alone": {"aligned_last_year": SCORES, "last_year": {**SCORES, "wql": last_year}},
        "machine": {"cores": 2, "cpu": "a processor"},
        "commit": "abc",
        "date": "2026-01-02",
    }


def test_the_page_holds_ratios_misses_and_parts(tmp_path: Path) -> None:
    runs = [
        kept(None, "2012-08-03", 0.06, 0.1, 100, 3_000),
        kept(0, "2011-11-04", 0.04, 0.1, 1, 6),
        kept(0, "2012-08-03", 0.16, 0.1, 3, 6),
        kept(1, "2011-11-04", 0.08, 0.1, 10, 77),
    ]
    results, page = tmp_path / "served.json", tmp_path / "served.md"
    results.write_text(json.dumps(runs))
    assert served.main(["--kept", "--results", str(results), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| Walmart, 2012-08-03 | 3,000 | 1 | **0.1000 / 0.0600 (0.80)** |" in text
    # Geometric means: of .5 and 1; of 2; of .5, 2 and 1.
    assert "| wQL, served / best in hindsight | 0.707 | 2.000 | 1.000 | 1.05 |" in text
    assert "| worse than last year's week in wQL | 0 of 2 | 1 of 1 | 1 of 3 | 0 |" in text
    assert "pieces of at most 8 series: 0.020 of what all of Walmart takes" in text
    assert "pieces of 60 series or more: 0.100 of what all of Walmart takes" in text


def test_each_case_is_another_one_and_those_of_one_seed_come_first() -> None:
    found = list(cases(30, 3))
    assert len(found) == len(set(found)) == 3 * (2 + 1 + 30 * 3)
    assert [case.seed for case in found] == sorted(case.seed for case in found)


def test_a_case_is_run_as_a_week_is_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weeks = np.datetime64("2010-02-05") + 7 * np.arange(143)
    level = np.array([100.0, 300.0, 50.0])[:, None]
    season = 1 + 0.3 * np.sin(2 * np.pi * np.arange(143) / 52.18)
    sales = level * season * np.random.default_rng(0).normal(1, 0.05, (3, 143))
    shop = Panel(np.array(["1", "1", "1"]), np.array(["1", "2", "3"]), weeks, sales, events=())
    case = Case("Walmart", None, "2012-08-03", 0)
    monkeypatch.setattr(served, "_retailer", lambda data: shop)
    monkeypatch.setattr(served, "cases", lambda pieces, seeds: [case])
    results, page = tmp_path / "served.json", tmp_path / "served.md"
    asked = ["--results", str(results), "--page", str(page)]
    assert served.main(asked) == 0
    (found,) = json.loads(results.read_text())
    assert found["series"] == 3
    assert 0.01 < found["served"]["wape"] < 0.1
    assert found["alone"].keys() >= {"aligned_last_year", "last_year", "recent_level"}
    assert sum(weights[0] for weights in found["weights"].values()) == pytest.approx(1)
    assert dt.date.fromisoformat(found["date"])
    before = results.read_bytes()
    assert served.main(asked) == 0
    assert results.read_bytes() == before


@pytest.mark.skipif(not served.RESULTS.exists(), reason="nothing was measured yet")
def test_the_page_is_of_the_results(tmp_path: Path) -> None:
    assert served.main(["--kept", "--page", str(tmp_path / "served.md")]) == 0
    assert (tmp_path / "served.md").read_text() == served.PAGE.read_text()
