"""What is told of accuracy, in SQL over rows of `forecast_accuracy`: once, for views, pages, assets and Python."""

from __future__ import annotations

# Null where there is nothing to divide by. A row without last year's week, or without an interval, is left out of what
# needs it. `held` is the share that the intervals were to hold.
SCORE = {
    "wape": "sum(abs_error) / nullif(sum(abs(actual)), 0)",
    "wape_where_naive": "sum(CASE WHEN naive IS NOT NULL THEN abs_error END)"
    " / nullif(sum(CASE WHEN naive IS NOT NULL THEN abs(actual) END), 0)",
    "naive_wape": "sum(naive_abs_error) / nullif(sum(CASE WHEN naive IS NOT NULL THEN abs(actual) END), 0)",
    "bias": "sum(error) / nullif(sum(abs(actual)), 0)",
    "coverage": "avg(CASE WHEN in_interval THEN 1.0 WHEN NOT in_interval THEN 0.0 END)",
    "held": "avg(interval)",
    "wql": "sum(quantile_loss) / nullif(sum(abs(actual)), 0)",
    "forecasts": "count(*)",
    "weeks": "count(DISTINCT week)",
}


def scores_sql(*names: str) -> str:
    """These scores, or all of them, as columns of a SELECT."""
    return ", ".join(f"{SCORE[name]} AS {name}" for name in names or SCORE)


SCORES = scores_sql()
