"""From messages to a forecast: what a topic held is what the graph forecasts from, as if files had landed."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from forecast_platform.demo import MadeUpRetailer, week_file
from forecast_platform_tests.conftest import SMALL, HistoryHome, landing_day, weeks_of
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.streaming.broker import Broker, sale
from forecast_platform_tests.streaming.test_stream import Shop


def transactions(data: bytes) -> list[dict[str, Any]]:
    """A week's file as transactions: a third of each sum on each of three days of the week, the rest on its last."""
    found = []
    for line in data.decode().splitlines()[1:]:
        store, dept, week, text = line.split(",")[:4]
        if not text:
            continue
        cents, last = round(float(text) * 100), dt.date.fromisoformat(week)
        for day in (6, 4, 2):
            found.append(sale(store, dept, f"{last - dt.timedelta(days=day)}T09:30:00", cents // 3 / 100))
        found.append(sale(store, dept, f"{last}T18:00:00", (cents - cents // 3 * 3) / 100))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_messages_become_weeks_and_weeks_a_forecast(
    broker: Broker, topic: str, history_home: HistoryHome, retailer: MadeUpRetailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph: Graph = history_home.restore()
    home = graph.platform.settings.home
    monkeypatch.setenv("FORECAST_HOME", str(home))
    weeks = weeks_of(retailer)[-3:-1]
    shop = Shop(broker, topic, home)
    shop.now = landing_day(weeks[1]) + dt.timedelta(days=1)
    sold = [sold for week in weeks for sold in transactions(week_file(retailer, week)[1])]
    shop.send(*sold[::2], *sold[1::2])
    counts = shop.stream(first=weeks[0])
    assert counts.messages == len(sold)
    assert [key[-18:-8] for key in counts.files] == list(map(str, weeks))
    assert graph.week(weeks[0], ("raw_sales", "cleaned_series")).success
    result = graph.week(weeks[1])
    assert result.success, result.failures

    def rows(week: dt.date) -> list[tuple[Any, ...]]:
        found = graph.lake.query(
            "SELECT store, dept, sales FROM cleaned_series WHERE week = ? AND observed AND sales IS NOT NULL "
            "ORDER BY ALL", [week]
        )  # fmt: skip
        return [tuple(row.values()) for row in found.to_pylist()]

    for week in weeks:
        lines = [line.split(",")[:4] for line in week_file(retailer, week)[1].decode().splitlines()[1:]]
        assert rows(week) == sorted((s, d, float(text)) for s, d, _, text in lines if text)
    forecast = graph.lake.query(
        "SELECT count(*) AS n FROM forecasts WHERE forecast_week = ? AND level = 'series'", weeks[1:]
    )
    assert forecast["n"][0].as_py() >= 11 * SMALL["prediction_length"]

    # A late return restates its week: one row changes, none goes.
    first = sold[0]
    shop.send({**first, "weekly_sales": -1.5})
    shop.now += dt.timedelta(days=1)
    assert shop.stream(first=weeks[0]).files == counts.files[:1]
    before = {(s, d): v for s, d, v in rows(weeks[0])}
    assert graph.history(weeks[0], weeks[1]).success
    after = {(s, d): v for s, d, v in rows(weeks[0])}
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert after.keys() == before.keys()
    assert changed == {(first["store"], first["dept"]): (before[first["store"], first["dept"]], pytest.approx(
        before[first["store"], first["dept"]] - 1.5))}  # fmt: skip
    (landed,) = graph.lake.query(
        "SELECT changed, vanished, appeared FROM landings WHERE first_week = ? ORDER BY landed_at DESC LIMIT 1",
        weeks[:1],
    ).to_pylist()
    assert landed == {"changed": 1, "vanished": 0, "appeared": 0}
