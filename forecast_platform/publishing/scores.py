"""What is told of accuracy, in SQL over rows of `forecast_accuracy`: once, for pages, assets and Python."""

from __future__ import annotations

# Null where there is nothing to divide by. A row without last year's week, or without an interval, is left out of what
# needs it. `held` is the share that the intervals were to hold.
SCORES = """
    sum(abs_error) / nullif(sum(abs(actual)), 0) AS wape,
    sum(CASE WHEN naive IS NOT NULL THEN abs_error END)
        / nullif(sum(CASE WHEN naive IS NOT NULL THEN abs(actual) END), 0) AS wape_where_naive,
    sum(naive_abs_error) / nullif(sum(CASE WHEN naive IS NOT NULL THEN abs(actual) END), 0) AS naive_wape,
    sum(error) / nullif(sum(abs(actual)), 0) AS bias,
    avg(CASE WHEN in_interval THEN 1.0 WHEN NOT in_interval THEN 0.0 END) AS coverage,
    avg(interval) AS held,
    sum(quantile_loss) / nullif(sum(abs(actual)), 0) AS wql,
    count(*) AS forecasts, count(DISTINCT week) AS weeks"""
