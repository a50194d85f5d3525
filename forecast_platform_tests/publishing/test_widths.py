"""How wide published intervals are: as the model's calibration says, and once."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from forecast_platform.levels import LEVELS, SUMS
from forecast_platform_tests.conftest import ForecastHome


@pytest.fixture(scope="module")
def published(forecast_home: ForecastHome) -> object:
    """The upper half width and the median of every row of a week, by level, published with other calibrations: all of
    them narrow, so that none reaches below 0, where there are no sales."""
    graph, week = forecast_home.restore(), forecast_home.week
    (digest,) = graph.lake.query("SELECT training_digest AS d FROM models WHERE week = ?", [week])["d"].to_pylist()
    path = graph.platform.engine.models / digest / "training.json"
    trained = json.loads(path.read_text())

    def with_calibration(factor: float, sums: Sequence[float]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        named = {level.name: each for level, each in zip(SUMS, sums, strict=True)}
        calibration = trained["calibration"] | {"factors": [[factor]], "edges": [], "sums": named}
        path.write_text(json.dumps(trained | {"calibration": calibration}))
        result = graph.week(week, only=["batch_predictions", "forecast_table"])
        assert result.success, result.failures
        sql = """SELECT p50, p90 - p50 AS half FROM forecasts WHERE forecast_week = ? AND level = ?
                 ORDER BY store, dept, horizon"""
        rows = {level.name: graph.lake.query(sql, [week, level.name]) for level in LEVELS}
        return {name: (found["half"].to_numpy(), found["p50"].to_numpy()) for name, found in rows.items()}

    return {
        "as it is": with_calibration(0.1, (1, 1, 1)),
        "sums": with_calibration(0.1, (2, 3, 4)),
        "series": with_calibration(0.2, (1, 1, 1)),
    }


def test_sums_are_widened_once_each_by_its_level_and_series_are_not(published) -> None:
    for level, factor in {"series": 1, "store": 2, "dept": 3, "total": 4}.items():
        (before, median), (after, same) = published["as it is"][level], published["sums"][level]
        assert (before > 0).any()
        np.testing.assert_allclose(after, factor * before)
        np.testing.assert_allclose(same, median)


def test_series_are_widened_once_and_their_sums_with_them(published) -> None:
    for level in LEVELS:
        (before, median), (after, same) = published["as it is"][level.name], published["series"][level.name]
        # Sums are of paths, of which some end where a series has been silent: nearly twice as wide.
        np.testing.assert_allclose(after, 2 * before, rtol=1e-7 if level.name == "series" else 0.01)
        np.testing.assert_allclose(same, median, rtol=1e-7 if level.name == "series" else 0.01)
