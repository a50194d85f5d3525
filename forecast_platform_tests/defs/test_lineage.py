"""What each asset says it depends on, beside the tables that it reads."""

from __future__ import annotations

import collections
import re
from typing import Any

import pytest

from forecast_platform import panels
from forecast_platform.dashboard import source
from forecast_platform.definitions import defs
from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.tables import VIEWS
from forecast_platform.publishing import tableau
from forecast_platform_tests.conftest import landing_day, weeks_of
from forecast_platform_tests.defs.graph import Graph

# What each asset writes. Of the rest (overrides, closures, failures, notices) people and runs are the authors.
WRITES = {
    "raw_sales": {"landings", "quarantine", "raw_sales", "stores", "features", "calendar"},
    "cleaned_series": {"cleaned_series"},
    "deepar_model": {"models"},
    "batch_predictions": set(),  # a folder
    "forecast_table": {"forecasts", "lead_time_demand", "no_forecast", "stopping_series", "forecast_events"},
    "forecast_accuracy": {"forecast_accuracy"},
    "exports": set(),  # files
    "weekly_report": set(),
}
AUTHOR = {table: asset for asset, tables in WRITES.items() for table in tables}


def tables_in(text: str) -> set[str]:
    """The tables that SQL, or a name, speaks of: of views, those beneath."""
    words = set(re.findall(r"\w+", text))
    return (words & AUTHOR.keys()).union(*(tables_in(VIEWS[view]) for view in words & VIEWS.keys()))


def parents(asset: str) -> set[str]:
    graph = defs.resolve_asset_graph()
    (node,) = [n for n in graph.asset_nodes if n.key.to_user_string() == asset]
    return {key.to_user_string() for key in node.parent_keys}


def test_every_asset_names_those_whose_tables_it_reads(
    with_history: Graph, retailer: MadeUpRetailer, monkeypatch: pytest.MonkeyPatch
):
    graph, week = with_history, weeks_of(retailer)[-3]
    read: dict[str, set[str]] = collections.defaultdict(set)
    of_series: list[str] = []
    now = ""

    def watch(owner: Any, method: str) -> None:
        real = getattr(owner, method)

        def watched(self: Any, *args: Any, **more: Any) -> Any:
            names = [a for a in args if isinstance(a, str)]
            read[now] |= set().union(*map(tables_in, names))
            return real(self, *args, **more)

        monkeypatch.setattr(owner, method, watched)

    def count(name: str) -> None:
        real = getattr(panels, name)
        monkeypatch.setattr(panels, name, lambda *args: (of_series.append(now), real(*args))[1])

    count("read_panel")
    count("sources")
    watch(Lake, "attach")
    watch(Lake, "read")
    watch(source.LakeState, "rows")
    graph.land(dict([week_file(retailer, week)]), at=landing_day(week))
    for now in WRITES:
        result = graph.week(week, only=[now], drawn=True)
        assert result.success, result.failures
    found = {asset: {AUTHOR[table] for table in read[asset]} - {asset} for asset in WRITES}
    # It scores what it publishes: what it reads of the scores are the rows it replaces.
    found["forecast_table"] -= {"forecast_accuracy"}
    # Files, no tables.
    found["raw_sales"] |= {"landing"}
    found["forecast_table"] |= {"batch_predictions"}
    assert found == {asset: parents(asset) for asset in WRITES}
    assert of_series == ["deepar_model", "batch_predictions"], "the history is read once by each, and by no check"


def test_the_extract_names_those_whose_tables_it_reads():
    read = set().union(*map(tables_in, tableau.TABLES.values()))
    assert {AUTHOR[table] for table in read} == parents("tableau_extract")
