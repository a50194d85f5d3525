"""One short run of the ablations on made-up sales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import ablations, ablations_report, protocol, report, small
from benchmarks.protocol import CUTOFFS
from forecast_platform.history.panel import Panel
from forecast_platform.models.last_year import outlook, reference
from forecast_platform.models.registry import CANDIDATES


def write_sales(folder: Path) -> None:
    weeks = pd.date_range("2010-02-05", "2012-10-26", freq="7D").astype(str)
    rows = pd.MultiIndex.from_product([list("123"), ["1", "2", "7", "9"], weeks], names=["Store", "Dept", "Date"])
    frame = rows.to_frame(index=False)
    frame["Weekly_Sales"] = np.random.default_rng(0).gamma(5, 200, len(frame)).round(2)
    frame.to_csv(folder / "sales.csv", index=False)


def test_a_quick_run_writes_every_row_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sales(tmp_path)
    monkeypatch.setenv("FORECAST_WALMART_DIR", str(tmp_path))
    monkeypatch.setattr(ablations, "SCRATCH", tmp_path)
    assert ablations.main(["--quick"]) == 0
    out = tmp_path / "quick"
    page = (out / "ablations.md").read_text()
    for trial in ablations.TRIALS:
        for row in trial.rows:
            assert f"\n| {row} | 0." in page or f"\n| {row} | 1." in page
    for cutoff in (ablations.ROLLING[-1], CUTOFFS[0]):
        assert f"\n| {cutoff} | 0." in page or f"\n| {cutoff} | 1." in page  # its calibration
    assert "nan" not in page
    assert {p.name for p in (out / "images").iterdir()} == {"ablations-light.png", "ablations-dark.png"}
    assert capsys.readouterr().out.count("WAPE") == 2 * len(ablations.TRIALS)

    monkeypatch.setattr(ablations, "run", None)  # what is kept is not run again
    assert ablations.main(["--quick"]) == 0
    assert (out / "ablations.md").read_text() == page
    # The benchmarks' own page does not take them for a model's.
    assert report.Results.read(out / "results").all == []


def test_the_steps_end_with_what_ships_and_names_are_put_back() -> None:
    before = reference.SECOND_YEAR, outlook.WINDOWS
    with ablations.replaced(ablations.STEPS[0].replaced):
        assert reference.SECOND_YEAR == 0
        assert outlook.WINDOWS == (18,)
    assert before == (reference.SECOND_YEAR, outlook.WINDOWS)
    last: dict[str, Any] = dict(ablations.STEPS[-1].replaced)
    assert last.pop(ablations.LAST_YEAR) is reference.last_year
    assert last == {
        ablations.PULSE: reference.STORE_PULSE,
        ablations.SECOND: reference.SECOND_YEAR,
        ablations.WINDOWS: outlook.WINDOWS,
        ablations.OWN_POWERS: outlook.OWN_POWERS,
        ablations.PEAK_DAMPINGS: outlook.PEAK_DAMPINGS,
        ablations.STORE: outlook.STORE,
        ablations.DEPARTMENT: outlook.DEPARTMENT,
        ablations.TRIM: outlook.TRIM,
    }


def test_the_steps_change_what_is_scored() -> None:
    """The reference alone is a candidate; the first step makes it the week 52 weeks before, without growth."""
    weeks = np.datetime64("2020-01-03") + 7 * np.arange(70)
    sales = np.random.default_rng(0).uniform(50, 150, (3, 70)).cumsum(axis=1)
    panel = Panel(np.array(["1", "1", "2"]), np.array(["1", "2", "1"]), weeks, sales)

    def said() -> Any:
        return CANDIDATES["aligned_last_year"].forecast({}, panel, 4, (0.1, 0.5, 0.9))[:, 1]

    with ablations.replaced(ablations.STEPS[0].replaced):
        np.testing.assert_allclose(said(), sales[:, 18:22])
    assert not np.allclose(said(), sales[:, 18:22], rtol=0.1)


def test_no_rolling_cutoff_is_one_of_the_protocol() -> None:
    assert len({*ablations.ROLLING}) == 4
    assert not {*ablations.ROLLING} & {*CUTOFFS}


def test_pieces_are_chosen_by_their_seed_and_their_table_counts_what_errs_more(tmp_path: Path) -> None:
    write_sales(tmp_path)
    panel = protocol.to_panel(protocol.read_sales(tmp_path / "sales.csv"))
    piece = small.Piece.of(small.WALMART, panel, 0, 2, 3)
    assert len(piece.panel) == 6
    again, other = (small.Piece.of(small.WALMART, panel, seed, 2, 3).panel for seed in (0, 1))
    assert [*piece.panel.dept] == [*again.dept]
    assert [*zip(piece.panel.store, piece.panel.dept, strict=True)] != [*zip(other.store, other.dept, strict=True)]

    errors = {"as shipped": (0.10, 0.20, 0.30), "another": (0.11, 0.19, 0.33)}
    runs = [
        {"data": small.WALMART, "seed": 0, "series": 6, "cutoff": str(at), "part": "reference",
         "scores": {row: {"wape": error[at]}}}
        for row, error in errors.items() for at in range(3)
    ]  # fmt: skip
    about = {
        "machine": {"cores": 1, "cpu": "a CPU", "system": "Linux", "python": "3"},
        "date": "2026-01-01",
        "commit": "1234567",
        "runs": runs,
    }
    page = ablations_report.of_small_pieces(about)
    assert "| the reference alone: another | +10.0%, 2 of 3 | - |" in page
