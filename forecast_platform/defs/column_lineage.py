"""Which columns each table's columns are made from, for the lineage view: asset and column, as "raw_sales.week"."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

_SALES = "cleaned_series.sales cleaned_series.week"
_FORECAST = f"{_SALES} cleaned_series.observed deepar_model.version"
# A run's own columns (run_id, created_at) and constants come from no column.
SOURCES: dict[str, dict[str, str]] = {
    "cleaned_series": {
        "week": "raw_sales.week",
        "store": "raw_sales.store",
        "dept": "raw_sales.dept",
        "sales": "raw_sales.sales raw_sales.landed_at",  # the version in force
        "observed": "raw_sales.sales",
        "is_return": "raw_sales.sales",
        "is_restated": "raw_sales.landed_at",
        "is_holiday": "raw_sales.is_holiday",
        "landed_at": "raw_sales.landed_at",
        "source_key": "raw_sales.source_key",
        "filled": "raw_sales.sales raw_sales.week",
        "store_closed": "raw_sales.sales raw_sales.week",
    },
    "deepar_model": {
        "version": _SALES,
        "trained_as_of": "cleaned_series.week",
        "training_digest": _SALES,
        "target": _SALES,
        "network_share": _SALES,
        "series": "cleaned_series.store cleaned_series.dept",
        "observations": "cleaned_series.observed",
        "backtest_cutoff": "cleaned_series.week",
        "backtest_wape": _SALES,
        "backtest_wql": _SALES,
        "backtest_coverage80": _SALES,
        "naive_wape": _SALES,
        "naive_wql": _SALES,
        "verdict": _SALES,
        "why": _SALES,
        "candidates": _SALES,
    },
    "forecast_table": {
        "forecast_week": "cleaned_series.week",
        "store": "cleaned_series.store",
        "dept": "cleaned_series.dept",
        "target_week": "cleaned_series.week",
        "mean": _FORECAST,
        "quantiles": _FORECAST,
        "model_version": "deepar_model.version",
    },
    "forecast_accuracy": {
        "week": "cleaned_series.week",
        "forecast_week": "forecast_table.forecast_week",
        "horizon": "forecast_table.horizon",
        "level": "forecast_table.level",
        "store": "forecast_table.store",
        "dept": "forecast_table.dept",
        "member": "forecast_table.member",
        "actual": "cleaned_series.sales",
        "mean": "forecast_table.mean",
        "p50": "forecast_table.p50",
        "error": "forecast_table.p50 cleaned_series.sales",
        "abs_error": "forecast_table.p50 cleaned_series.sales",
        "quantile_loss": "forecast_table.p50 cleaned_series.sales",
        "in_interval": "forecast_table.p50 cleaned_series.sales",
        "interval": "forecast_table.p50",
        "naive": "cleaned_series.sales",
        "naive_abs_error": "cleaned_series.sales",
        "model_version": "forecast_table.model_version",
    },
}


def column_lineage(asset: str, quantile_columns: Sequence[str] = ()) -> dict[str, dg.TableColumnLineage]:
    """Metadata of a materialization; `quantile_columns` stand for the entry "quantiles"."""
    deps = {}
    for column, sources in SOURCES[asset].items():
        found = [dg.TableColumnDep(dg.AssetKey(key), name) for key, name in (s.split(".") for s in sources.split())]
        for name in quantile_columns if column == "quantiles" else (column,):
            deps[name] = found
    return {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=deps)}
