"""The page on intervals of sums: of the results kept, and its scores those of the rows."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import sums
from benchmarks.measure import COLUMNS, QUANTILES
from benchmarks.protocol import CUTOFFS
from forecast_platform.levels import LEVELS


def test_no_rolling_cutoff_is_one_of_the_protocol() -> None:
    assert len(sums.ROLLING) == 12
    assert not {str(cutoff) for cutoff in sums.ROLLING} & {*CUTOFFS, "2012-03-16"}


def test_the_page_is_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "PAGE", tmp_path / "sums.md")
    sums.write(json.loads(sums.RESULTS.read_text()))
    assert (tmp_path / "sums.md").read_text() == (sums.ROOT / "docs" / "sums.md").read_text()


@pytest.mark.parametrize("weeks", [1, 3])
def test_sums_are_scored_against_what_was_sold_of_their_series(weeks: int) -> None:
    friday = [dt.date(2024, 1, 5) + dt.timedelta(weeks=k) for k in range(4)]
    series = [("1", "a"), ("1", "b"), ("2", "a")]
    sold = pd.DataFrame(
        [(s, d, pd.Timestamp(week), 10.0 * (i + 1)) for i, (s, d) in enumerate(series) for week in friday],
        columns=["store", "dept", "target_week", "sales"],
    )
    targets = friday if weeks == 1 else friday[weeks - 1 : weeks]
    rows = []
    for level in LEVELS:
        of_store, of_dept = ("store" in level.by), ("dept" in level.by)
        for store, dept in {((of_store and s) or None, (of_dept and d) or None) for s, d in series}:
            whole = sum(10.0 * (i + 1) for i, (s, d) in enumerate(series) if store in (None, s) and dept in (None, d))
            off = 0.5 if (level.name, store) == ("store", "1") else 0.0  # one store's forecast is too low
            said = {c: weeks * whole * (1 - off + (k - 4) / 100) for k, c in enumerate(COLUMNS)}
            names_and_figures = {"level": level.name, "store": store, "dept": dept, **said}
            rows += [{**names_and_figures, "target_week": week} for week in targets]
    found = pd.DataFrame(sums.scores(pd.DataFrame(rows), sold, weeks)).set_index("level")
    assert found["coverage"].to_dict() == {"series": 1, "store": 0.5, "dept": 1, "total": 1}
    assert (found["sums"] / len(targets)).to_dict() == {"series": 3, "store": 2, "dept": 2, "total": 1}
    # Each quantile is k% of the sales off: 2 x that x the smaller of its level and what it leaves.
    losses = [2 * abs(k - 4) / 100 * min(q, 1 - q) for k, q in enumerate(QUANTILES)]
    assert found.loc["total", "wql"] == pytest.approx(np.mean(losses))
