"""The scores in SQL, against what they are by hand over rows of every kind."""

from __future__ import annotations

import duckdb
import pytest

from forecast_platform.scores import SCORE, scores_sql

COLUMNS = "week, actual, error, abs_error, quantile_loss, in_interval, interval, naive, naive_abs_error"
WHOLE = "(1, 100.0, -10.0, 10.0, 4.0, true, 0.8, 80.0, 20.0)"
OUTSIDE = "(2, 200.0, 50.0, 50.0, 20.0, false, 0.9, 210.0, 10.0)"
WITHOUT_INTERVAL = "(2, 100.0, 20.0, 20.0, 8.0, NULL, NULL, 100.0, 0.0)"
WITHOUT_LAST_YEAR = "(3, -100.0, 30.0, 30.0, 9.0, true, 0.8, NULL, NULL)"
NOTHING_SOLD = "(3, 0.0, 5.0, 5.0, 3.0, false, 0.8, NULL, NULL)"


def scores(*rows: str) -> dict[str, float | None]:
    asked = f"SELECT {scores_sql()} FROM (VALUES {', '.join(rows)}) AS t({COLUMNS})"
    return duckdb.connect().sql(asked).to_arrow_table().to_pylist()[0]


def test_a_row_is_left_out_of_what_it_lacks_and_only_of_that() -> None:
    assert scores(WHOLE, OUTSIDE, WITHOUT_INTERVAL, WITHOUT_LAST_YEAR) == pytest.approx(
        {
            "wape": 110 / 500,
            "wape_where_naive": 80 / 400,
            "naive_wape": 30 / 400,
            "bias": 90 / 500,
            "coverage": 2 / 3,
            "held": 2.5 / 3,
            "wql": 41 / 500,
            "forecasts": 4,
            "weeks": 3,
        }
    )


def test_there_is_no_score_where_there_is_nothing_to_divide_by() -> None:
    nothing = {**dict.fromkeys(SCORE), "coverage": 0, "held": 0.8, "forecasts": 1, "weeks": 1}
    assert scores(NOTHING_SOLD) == pytest.approx(nothing)
    assert {scores(WITHOUT_INTERVAL)[name] for name in ("coverage", "held")} == {None}
