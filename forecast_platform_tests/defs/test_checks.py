"""Every check of the graph over rows that were spoilt: each is seen to fail, and none fails before."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from forecast_platform.definitions import defs
from forecast_platform.defs.partitions import weekly
from forecast_platform.weeks import WEEK, key
from forecast_platform_tests.conftest import ForecastHome, landing_day
from forecast_platform_tests.defs.graph import QUIET, Graph, Result

Row = dict[str, Any]
Spoil = Callable[[Graph, dt.date], dt.date | None]
SERIES = ("1", "2")  # store and department whose rows are spoilt


def change(graph: Graph, table: str, week: dt.date, spoil: Callable[[list[Row]], list[Row]]) -> None:
    """Put other rows of a week into a table, as only a bug or a hand in the tables could."""
    spec = graph.lake.specs[table]
    rows = [row for row in graph.lake.read(table).to_pylist() if row[spec.partition] == week]
    graph.lake.replace_weeks(table, [week], pa.Table.from_pylist(spoil(rows), spec.schema))


def is_mine(row: Row, horizon: int | None = None) -> bool:
    return (row["level"], row["store"], row["dept"]) == ("series", *SERIES) and horizon in (None, row["horizon"])


def in_one_row(**values: float) -> Callable[[list[Row]], list[Row]]:
    """One row of the published forecasts with other values."""
    return lambda rows: [row | values if is_mine(row, 2) else row for row in rows]


def a_line_that_is_no_sale(graph: Graph, week: dt.date) -> None:
    graph.land({"sales/more.csv": f"store,dept,date,weekly_sales\n9,1,{week},many\n9,2,{week},5\n".encode()})


def an_accepted_row_that_is_gone(graph: Graph, week: dt.date) -> None:
    change(graph, "raw_sales", week, lambda rows: rows[1:])


def a_store_that_did_not_report(graph: Graph, week: dt.date) -> None:
    change(
        graph,
        "cleaned_series",
        week,
        lambda rows: [r | {"observed": r["observed"] and r["store"] == "1"} for r in rows],
    )


def a_store_that_sold_nothing(graph: Graph, week: dt.date) -> None:
    change(graph, "cleaned_series", week, lambda rows: [r | {"store_closed": r["store"] == "2"} for r in rows])


def a_model_worse_than_last_years_week(graph: Graph, week: dt.date) -> None:
    (digest,) = graph.lake.query("SELECT training_digest FROM models WHERE week = ?", [week])[
        "training_digest"
    ].to_pylist()
    path = graph.platform.engine.models / digest / "training.json"
    trained = json.loads(path.read_text())
    path.write_text(json.dumps(trained | {"judgement": trained["judgement"] | {"verdict": "below_naive"}}))


def inputs_of_a_later_week(graph: Graph, week: dt.date) -> dt.date:
    """Of the forecast made a week earlier: this week's in the place of its own."""
    earlier, own = (graph.platform.settings.transforms / key(w) for w in (week - WEEK, week))
    shutil.copytree(own, earlier, dirs_exist_ok=True)
    return week - WEEK


def outputs_cut_short(graph: Graph, week: dt.date) -> None:
    found = [*(graph.platform.settings.transforms / key(week)).glob("*.parquet")]
    assert found
    for path in found:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])


def a_series_without_a_word(graph: Graph, week: dt.date) -> None:
    change(graph, "forecasts", week, lambda rows: [r for r in rows if not is_mine(r)])


def a_series_whose_last_week_is_missing(graph: Graph, week: dt.date) -> None:
    change(graph, "forecasts", week, lambda rows: [r for r in rows if not is_mine(r, 4)])


def a_series_with_a_week_too_many(graph: Graph, week: dt.date) -> None:
    more = {"horizon": 5, "target_week": week + 5 * WEEK}
    change(graph, "forecasts", week, lambda rows: [*rows, *(r | more for r in rows if is_mine(r, 4))])


def a_forecast_and_a_reason(graph: Graph, week: dt.date) -> None:
    store, dept = SERIES
    told = {"forecast_week": week, "store": store, "dept": dept, "last_week": week, "reason": "closed", "run_id": "x",
            "created_at": landing_day(week)}  # fmt: skip
    change(graph, "no_forecast", week, lambda rows: [*rows, told])


def quantiles_that_cross(graph: Graph, week: dt.date) -> None:
    change(graph, "forecasts", week, in_one_row(p10=5.0, p50=4.0, p90=6.0))


def a_quantile_that_is_no_number(graph: Graph, week: dt.date) -> None:
    change(graph, "forecasts", week, in_one_row(p90=float("nan")))


def a_quantile_without_end(graph: Graph, week: dt.date) -> None:
    change(graph, "forecasts", week, in_one_row(p90=float("inf")))


def every_actual_outside(graph: Graph, week: dt.date) -> None:
    change(graph, "forecast_accuracy", week, lambda rows: [r | {"in_interval": False} for r in rows])


def every_actual_inside(graph: Graph, week: dt.date) -> None:
    change(graph, "forecast_accuracy", week, lambda rows: [r | {"in_interval": True} for r in rows])


# check: what makes it fail (in another week than the one given, where it returns one), and the words it says so with
FAILS: dict[str, list[tuple[Spoil, str]]] = {
    "landing_contract": [(a_line_that_is_no_sale, "sales/more.csv")],
    "row_conservation": [(an_accepted_row_that_is_gone, "")],
    "week_complete": [(a_store_that_did_not_report, "stores not heard of: 2, 3")],
    "no_store_closed": [(a_store_that_sold_nothing, "closed: store 2 in the week of")],
    "beats_seasonal_naive": [(a_model_worse_than_last_years_week, "last year's week, the bar to pass")],
    "no_future_data": [(inputs_of_a_later_week, "newest week in the inputs")],
    "outputs_verified": [(outputs_cut_short, "run batch_predictions again")],
    "forecast_or_reason": [
        (a_series_without_a_word, "1 with neither"),
        (a_series_whose_last_week_is_missing, "0 with neither"),
        (a_series_with_a_week_too_many, "0 with neither"),
        (a_forecast_and_a_reason, "1 with a reason"),
    ],
    "quantiles_ordered": [
        (quantiles_that_cross, "1 of them wrong"),
        (a_quantile_that_is_no_number, "1 of them wrong"),
        (a_quantile_without_end, "1 of them wrong"),
    ],
    "interval_coverage": [(every_actual_outside, "0.0% of"), (every_actual_inside, "100.0% of")],
}  # fmt: skip
NODES = {node.key.name: node for node in defs.resolve_asset_graph().asset_check_nodes}
OWN = ("landing_contract", "row_conservation")  # evaluated by the asset itself, while it runs


def check(graph: Graph, name: str, week: dt.date) -> tuple[Result, dg.AssetCheckEvaluation]:
    """Run a check of a week as it is shipped, after an asset that leaves everything as it is."""
    asset = NODES[name].key.asset_key
    if name in OWN:
        result = graph.week(week, only=[asset.to_user_string()])
    else:

        @dg.asset(key=asset, partitions_def=weekly)
        def untouched() -> None:
            pass

        @dg.asset(name="after", deps=[asset], partitions_def=weekly)
        def after() -> None:
            pass

        checks = [c for c in defs.asset_checks or () if c.check_key.asset_key == asset]
        job = dg.define_asset_job("checks", selection="*")
        made = dg.Definitions(assets=[untouched, after], asset_checks=checks, jobs=[job], resources=graph.resources)
        result = Result(
            made.resolve_job_def("checks").execute_in_process(
                instance=graph.instance, partition_key=key(week), raise_on_error=False, run_config=QUIET
            )
        )
    assert name in result.checks, result.failures
    return result, result.checks[name]


def test_every_check_has_a_case_in_which_it_fails() -> None:
    assert FAILS.keys() | {"freshness_check"} == NODES.keys(), "of that one see test_freshness.py"
    assert all(FAILS.values())


def test_none_fails_where_nothing_was_spoilt(forecast_home: ForecastHome) -> None:
    graph = forecast_home.restore()
    found = {name: check(graph, name, forecast_home.week)[1] for name in FAILS}
    # A network of one epoch is no good: what it covers is as it comes.
    assert {name for name, done in found.items() if not done.passed} <= {"interval_coverage", "beats_seasonal_naive"}


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [pytest.param(name, *case, id=case[0].__name__) for name, cases in FAILS.items() for case in cases],
)
def test_it_fails(forecast_home: ForecastHome, name: str, spoil: Spoil, words: str) -> None:
    graph, week = forecast_home.restore(), forecast_home.week
    result, done = check(graph, name, spoil(graph, week) or week)
    assert not done.passed
    assert words in (done.description or "")
    if NODES[name].blocking:
        assert done.severity is dg.AssetCheckSeverity.ERROR
        assert not result.success
        assert "after" not in result.materialized
