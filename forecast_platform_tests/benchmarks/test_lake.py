"""The benchmark of reading, at a size that a test can afford: what is asked for is a small part of what is there."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lake import reading


def test_one_series_and_the_totals_are_read_without_the_rest(tmp_path: Path) -> None:
    found = reading(tmp_path, series=40_000)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")) / 1e6
    assert size > 20
    assert found["write"]["rows"] == 40_000 * 12
    assert found["one series"]["megabytes_read"] < 1.2
    assert found["totals"]["megabytes_read"] < 0.5
