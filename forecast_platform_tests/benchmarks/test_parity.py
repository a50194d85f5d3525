"""The page's part about parity. The run itself needs the peers' environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import parity_report
from benchmarks.protocol import CUTOFFS


def result(variant: str, cutoff: str, seed: int, theirs: float, ours: float | None = None) -> dict[str, Any]:
    scores = {"theirs": {"wql": theirs}} | ({} if ours is None else {"ours with its weights": {"wql": ours}})
    training = {"steps": 100, "first": [2.0, 2.0001], "last": [-0.1, -0.1], "largest": 2e-4}
    function = {"windows": 1000, "degrees of freedom": 2e-7, "location": 4e-7, "width": 1e-4}
    extra = {} if ours is None else {"function": function, "training": training}
    about = {"date": "2026-01-02T03:04:05", "commit": "abc", "outcome": {"extra": extra}, "scores": scores}
    return {"model": f"parity-{variant}", "cutoff": cutoff, "seed": seed, **about}


def test_the_page_compares_the_same_weights_and_then_choices(tmp_path: Path) -> None:
    first, second = CUTOFFS
    ours = {first: 0.0675, second: None}
    assert parity_report.section(tmp_path, ours) == ""
    for i, one in enumerate([
        result("sagemaker", first, 0, 0.0800, 0.0793), result("sagemaker", first, 1, 0.0700, 0.0693),
        result("sagemaker", second, 0, 0.15, 0.14),
        result("steady", first, 0, 0.075), result("steady", second, 0, 0.13), result("alike", first, 0, 0.07),
    ]):  # fmt: skip
        (tmp_path / f"{i}.json").write_text(json.dumps(one))
    text = parity_report.section(tmp_path, ours)
    assert f"| {first} | 0.0750 | 0.0743 | 0.991 | 2 | within 2% |" in text
    assert f"| {second} | 0.1500 | 0.1400 | 0.933 | 1 | **a miss**: not within 2% |" in text
    assert "3,000 windows" in text
    drawn = "| + windows drawn as ours are, and our constant learning rate"
    assert f"{drawn} | 0.0750 (0.0750) | 0.900 | 0.1300 (0.1300) | - | 1 |" in text
    assert "+ our inputs" not in text  # of one cutoff only
    assert "same choices" not in text


def test_the_page_compares_what_is_left_when_all_is_told(tmp_path: Path) -> None:
    first, second = CUTOFFS
    runs = [result("sagemaker", cutoff, 0, 0.08, 0.08) for cutoff in CUTOFFS]
    for cutoff, seed, theirs, mine in ((first, 0, 0.07, 0.071), (first, 1, 0.09, 0.089), (second, 0, 0.13, 0.12)):
        one = result("settled", cutoff, seed, theirs)
        one["scores"]["ours told the same"] = {"wql": mine}
        runs.append(one)
    for i, one in enumerate(runs):
        (tmp_path / f"{i}.json").write_text(json.dumps(one))
    text = parity_report.section(tmp_path, dict.fromkeys(CUTOFFS, 0.07))
    assert f"| {first} | 0.0800 (0.0700, 0.0900) | 0.0800 (0.0710, 0.0890) | 1.000 | 2 | within 2% |" in text
    assert f"| {second} | 0.1300 (0.1300) | 0.1200 (0.1200) | 0.923 | 1 | **a miss**: not within 2% |" in text
