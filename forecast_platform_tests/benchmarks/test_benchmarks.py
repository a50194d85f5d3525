"""The pure parts of the benchmarks, and one short run of the whole on made-up sales."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import __main__ as command
from benchmarks import protocol, report
from benchmarks.measure import COLUMNS, QUANTILES, Floats, Job, forecast_table, peak_mb, timed
from forecast_platform.history.panel import Panel

WEEKS = pd.date_range("2010-02-05", "2012-10-26", freq="7D")
CUTOFF = dt.date(2012, 8, 3)


@pytest.fixture
def sales() -> pd.DataFrame:
    """3 stores x 4 departments: gaps, a young series, one that closes within the window and one long before."""
    rng = np.random.default_rng(0)
    rows = pd.MultiIndex.from_product([list("123"), ["1", "2", "7", "9"], WEEKS], names=["store", "dept", "week"])
    frame = rows.to_frame(index=False)
    frame["sales"] = rng.gamma(5, 200, len(frame)).round(2)
    gone = rng.random(len(frame)) < 0.03
    gone |= (frame["store"] == "1") & (frame["dept"] == "1") & (frame["week"] < "2012-05-01")
    gone |= (frame["store"] == "2") & (frame["dept"] == "9") & (frame["week"] > "2012-09-07")
    gone |= (frame["store"] == "3") & (frame["dept"] == "7") & (frame["week"] > "2011-12-30")
    return frame[~gone].reset_index(drop=True)


def some_forecasts(sales: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    keys = sales[["store", "dept"]].drop_duplicates()
    weeks = pd.DataFrame({"target_week": pd.Timestamp(CUTOFF) + pd.to_timedelta(7 * np.arange(1, 13), unit="D")})
    rows = keys.merge(weeks, how="cross")
    values = np.sort(rng.gamma(5, 200, (len(rows), len(COLUMNS))), axis=1)
    return rows.assign(**dict(zip(COLUMNS, values.T, strict=True))).sample(frac=0.95, random_state=0)


def test_both_scores_agree_on_gaps_closed_and_young_series_and_missing_forecasts(sales: pd.DataFrame) -> None:
    rows = some_forecasts(sales)
    scores = protocol.checked_score(sales, protocol.to_panel(sales), CUTOFF, rows)
    assert scores["series"] == 10  # neither the one of 14 weeks nor the one closed before
    assert scores["cells"] < 120  # one closes within the window


def test_a_slip_in_the_metrics_is_noticed(sales: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = protocol.score
    monkeypatch.setattr(protocol, "score", lambda *given: {**honest(*given), "wql": honest(*given)["wql"] * 1.001})
    with pytest.raises(AssertionError, match="wql"):
        protocol.checked_score(sales, protocol.to_panel(sales), CUTOFF, some_forecasts(sales))


def test_the_peers_are_shown_nothing_after_the_cutoff(sales: pd.DataFrame, tmp_path: Path) -> None:
    changed = sales.assign(sales=sales["sales"].where(sales["week"] <= pd.Timestamp(CUTOFF), 1e6))
    exports = []
    for name, frame in (("a", sales), ("b", changed)):
        paths = tmp_path / f"{name}.parquet", tmp_path / f"{name}.reference.parquet"
        protocol.export(protocol.to_panel(frame), CUTOFF, *paths)
        exports.append([pd.read_parquet(path) for path in paths])
    for before, after in zip(*exports, strict=True):
        pd.testing.assert_frame_equal(before, after)
    history, reference = exports[0]
    assert history["week"].max() == pd.Timestamp(CUTOFF)
    assert history.groupby("series").size().min() >= protocol.MIN_WEEKS
    assert reference["week"].max() == pd.Timestamp(CUTOFF) + pd.Timedelta(weeks=protocol.HORIZON)


def test_forecasts_of_a_peer_become_rows_with_ordered_quantiles(sales: pd.DataFrame, tmp_path: Path) -> None:
    panel, reference = tmp_path / "panel.parquet", tmp_path / "reference.parquet"
    protocol.export(protocol.to_panel(sales), CUTOFF, panel, reference)
    job = Job("x", str(CUTOFF), 12, 0, str(panel), str(reference), "", "", True)
    n = len(job.targets())
    assert len(job.static()) == n == 11
    assert np.isnan(np.concatenate(job.targets())).any()
    quantiles = np.random.default_rng(2).random((n, len(QUANTILES), 12))
    rows = forecast_table(job, quantiles)
    assert len(rows) == n * 12
    assert (np.diff(rows[list(COLUMNS)].to_numpy(), axis=1) >= 0).all()
    np.testing.assert_allclose(rows["p90"].to_numpy().reshape(n, 12), quantiles.max(axis=1))
    with pytest.raises(ValueError, match="3 series were forecast"):
        forecast_table(job, quantiles[:3])


def positions(history: Panel, horizon: int, quantiles: Sequence[float]) -> Floats:
    """A forecaster that answers with the position of each week on the grid."""
    ahead = len(history.weeks) + np.arange(horizon)
    return np.broadcast_to(ahead, (len(history), len(quantiles), horizon)).astype(float)


def test_fev_forecasts_each_series_own_last_weeks(sales: pd.DataFrame) -> None:
    panel = protocol.to_panel(
        sales[~((sales["store"] == "1") & (sales["dept"] == "2") & (sales["week"] > "2012-10-12"))]
    )
    history, cut, truth = protocol.fev_task(panel)
    full = panel.select(panel.observed.sum(axis=1) >= protocol.FEV_MIN_OBSERVED)
    assert len(history) == 11
    np.testing.assert_array_equal(cut, full.last - protocol.FEV_HORIZON)
    forecast = protocol.fev_forecast(history, cut, positions)
    np.testing.assert_array_equal(forecast[:, 4, 0], cut + 1)
    np.testing.assert_array_equal(forecast[:, 4, -1], full.last)
    np.testing.assert_array_equal(truth[:, -1], full.sales[np.arange(len(full)), full.last])
    # What is to be forecast is nowhere in the history, in no series.
    assert not (history.observed & (np.arange(len(history.weeks)) > cut[:, None])).any()


def test_fev_origins_serve_every_series_once_and_never_from_the_future() -> None:
    cut = np.array([103, 87, 88, 94, 95, 102, 103, 103])
    origins = protocol.fev_origins(cut)
    assert sorted(i for members in origins.values() for i in members) == list(range(len(cut)))
    assert list(origins) == [103, 87, 95]
    for origin, members in origins.items():
        assert ((cut[members] >= origin) & (cut[members] <= origin + protocol.FEV_SLACK)).all()


def test_fev_scores_only_what_was_observed() -> None:
    truth = np.array([[10.0, np.nan, 30.0]])
    exact = np.repeat(np.array([[[10.0, 5.0, 30.0]]]), len(QUANTILES), axis=1)
    assert protocol.fev_score(truth, exact) == {"wape": 0.0, "wql": 0.0, "series": 1, "cells": 2}


def result(model: str, cutoff: str, wql: float, windows: int | None = 4000, seed: int = 0) -> dict[str, Any]:
    scores = {"wape": wql * 1.2, "wql": wql, "coverage80": 0.8, "width80": 0.3, "mase": 0.7, "bias": 0.0}
    name = "deepar" if model == "ours" else model
    return {
        "model": model, "cutoff": cutoff, "seed": seed, "date": "2026-01-02T03:04:05", "commit": "abc", "command": "",
        "machine": {"cpu": "a CPU", "cores": 2, "system": "Linux", "python": "3.11"},
        "data": {"rows": 1000, "series": 10, "sha256": "00"},
        "outcome": {
            "train_cpu_s": 2.0, "windows": windows,
            "predict_cpu_s": {"100": 1.0, "200": 2.0} if windows else {"0": 1.0},
            "series": 10, "settings": {"epochs": 1}, "extra": {}, "peak_mb": 500.0, "import_cpu_s": 1.5, "versions": {},
        },
        "scores": {name: {**scores, "series": 10, "cells": 120}},
    }  # fmt: skip


def test_the_page_is_of_the_results_that_are_kept(tmp_path: Path) -> None:
    """Those of other benchmarks lie beside them."""
    report.write(command.ROOT / "benchmarks" / "results", tmp_path / "benchmarks.md")
    assert (tmp_path / "benchmarks.md").read_text() == (command.ROOT / "docs" / "benchmarks.md").read_text()


def test_the_page_says_ratios_and_misses(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    first, second = protocol.CUTOFFS
    for i, one in enumerate([
        result("ours", first, 0.060), result("ours", first, 0.062, seed=1), result("ours", second, 0.09),
        result("ours-plain", first, 0.0805, 44_000), result("ours-plain", second, 0.15, 44_000),
        result("gluonts-sagemaker", first, 0.08), result("gluonts-sagemaker", second, 0.14),
        result("statsforecast-theta", first, 0.10, None),
    ]):  # fmt: skip
        (results / f"{i}.seed0.json").write_text(json.dumps(one))
    page = tmp_path / "docs" / "benchmarks.md"
    report.write(results, page)
    text = page.read_text()
    assert "| training windows, 2x40 cells | 22,000 | **11.0 x** (2,000) | - | - | ≥ 5 x GluonTS: met |" in text
    assert (
        "| wQL, 2012-08-03 | 0.0610 | GluonTS DeepAR, SageMaker's defaults | 0.0800 | **0.76 x** | ≤ 0.066: met |"
        in text
    )
    assert "≤ 0.075: **missed**" in text
    assert "| 2012-08-03 | 0.0805 | 0.0800 | 1.006 | 1 and 1 | within 2% |" in text
    assert "| 2011-11-04 | 0.1500 | 0.1400 | 1.071 | 1 and 1 | **a miss**: not within 2% |" in text
    assert {p.name for p in (page.parent / "images").iterdir()} == {
        f"benchmarks-{kind}-{theme}.png" for kind in ("accuracy", "speed") for theme in ("light", "dark")
    }


def test_speeds_are_compared_within_rounds_and_by_their_medians(tmp_path: Path) -> None:
    taken = []
    for ours, theirs in ((1.0, 4.0), (1.0, 6.0), (2.0, 10.0)):  # the last in a slow hour
        outcome = {"windows": 6000, "predict_cpu_s": {"100": 1.0, "200": 2.0}, "series": 10}
        taken.append({m: {**outcome, "train_cpu_s": ours} for m in ("ours-plain", "ours-network")})
        taken[-1] |= {m: {**outcome, "train_cpu_s": theirs} for m in ("gluonts-sagemaker", "neuralforecast-deepar")}
    (tmp_path / report.SPEED).write_text(json.dumps({"rounds": taken}))
    first = protocol.CUTOFFS[0]
    for model, windows in (("ours-plain", 99), ("gluonts-sagemaker", 99), ("pytorch-forecasting-deepar", 11)):
        (tmp_path / f"{model}.seed0.json").write_text(json.dumps(result(model, first, 0.08, windows)))
    page = tmp_path / "docs" / "benchmarks.md"
    report.write(tmp_path, page)
    text = page.read_text()
    ours_to_theirs = "**6.0 x** (1,000; 4.0 to 6.0)"
    line = f"| training windows, 2x40 cells | 6,000 | {ours_to_theirs} | {ours_to_theirs} | **9.0 x** (6) |"
    assert f"{line} ≥ 5 x GluonTS: met |" in text
    assert "in 3 rounds" in text


def test_without_data_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECAST_WALMART_DIR", str(tmp_path))
    assert command.main(["--quick"]) == 2
    assert "FORECAST_WALMART_DIR" in capsys.readouterr().err


def test_a_quick_run_scores_writes_the_page_and_keeps_what_is_there(
    sales: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    named = sales.rename(columns={"store": "Store", "dept": "Dept", "week": "Date", "sales": "Weekly_Sales"})
    named.assign(IsHoliday="FALSE").to_csv(data / "sales.csv", index=False, date_format="%d/%m/%Y")
    monkeypatch.setenv("FORECAST_WALMART_DIR", str(data))
    monkeypatch.setattr(command, "SCRATCH", tmp_path / "scratch")
    assert command.main(["--quick", "--only", "ours-plain"]) == 0
    assert "WAPE" in capsys.readouterr().out
    assert command.main(["--quick", "--only", "ours-plain"]) == 0
    assert capsys.readouterr().out.count("kept") == len(protocol.CUTOFFS)
    stored = json.loads(next((tmp_path / "scratch/quick/results").glob("*2012*")).read_text())
    assert stored["outcome"]["windows"] > 0
    assert set(stored["outcome"]["predict_cpu_s"]) == {"100", "200"}
    assert 0 < stored["outcome"]["import_cpu_s"] < 60
    assert "ours at SageMaker's defaults" in (tmp_path / "scratch/quick/benchmarks.md").read_text()

    monkeypatch.setattr(command, "IN_TURNS", ("ours-plain",))
    assert command.main(["--quick", "--speed"]) == 0
    stored = json.loads((tmp_path / "scratch/quick/results" / report.SPEED).read_text())
    assert [list(taken) for taken in stored["rounds"]] == [["ours-plain"]]
    assert stored["rounds"][0]["ours-plain"]["train_cpu_s"] > 0


def test_time_and_memory_are_of_this_process() -> None:
    total, seconds = timed(lambda: sum(range(10**6)))
    assert total == 499999500000
    assert 0 < seconds < 5
    assert 20 < peak_mb() < 100_000
