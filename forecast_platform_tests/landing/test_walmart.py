"""The real Walmart files, where they are at hand."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path

import pyarrow.compute as pc
import pytest

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.rules import kind_of, parse_features, parse_sales, parse_stores, weeks_in
from forecast_platform.landing.totals import totals
from forecast_platform.weeks import WeekCalendar

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / os.environ.get("FORECAST_WALMART_DIR", "../shared/data/walmart")
WALMART = Dialect.named("walmart")
CALENDAR = WeekCalendar()
NEWEST = dt.date(2012, 10, 26)

pytestmark = pytest.mark.skipif(
    not (FOLDER / "sales.csv.gz").is_file(),
    reason="the Walmart files are not here; set FORECAST_WALMART_DIR to the folder of sales.csv.gz, "
    "features.csv.gz and stores.csv",
)


def read(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def test_every_sale_is_accepted_and_the_sum_is_right_to_the_cent() -> None:
    data = read("sales.csv.gz")
    started = time.process_time()
    parsed = parse_sales(data, "sales/sales.csv.gz", WALMART, CALENDAR, NEWEST)
    assert time.process_time() - started < 5  # about half a second; slow machines may take more
    assert (parsed.rows, parsed.accepted_rows, len(parsed.rejected)) == (421_570, 421_570, 0)
    assert totals(parsed.sales) == []
    cents = pc.cast(pc.round(pc.multiply(parsed.accepted["sales"], 100)), "int64")
    assert pc.sum(cents).as_py() == 673_721_898_711
    assert parsed.accepted["line"].to_pylist()[::421_569] == [2, 421_571]
    assert parsed.accepted["is_holiday"].null_count == 0


def test_the_peek_finds_all_weeks_and_the_kinds() -> None:
    weeks = weeks_in(read("sales.csv.gz"), "sales.csv.gz", WALMART, CALENDAR)
    assert weeks == CALENDAR.between(dt.date(2010, 2, 5), NEWEST)
    for name, kind in (("sales.csv.gz", "sales"), ("features.csv.gz", "features"), ("stores.csv", "stores")):
        assert kind_of(read(name), name, WALMART) == kind


def test_features_and_stores() -> None:
    features = parse_features(read("features.csv.gz"), "features.csv.gz", WALMART, CALENDAR)
    assert (features.rows, features.accepted_rows, len(features.rejected)) == (8190, 8190, 0)
    assert len(features.accepted) == 8190 * 10
    assert features.accepted["name"].to_pylist()[:10] == [
        "temperature",
        "fuel_price",
        "markdown1",
        "markdown2",
        "markdown3",
        "markdown4",
        "markdown5",
        "cpi",
        "unemployment",
        "is_holiday",
    ]
    stores = parse_stores(read("stores.csv"), "stores.csv", WALMART)
    assert (stores.rows, stores.accepted_rows, len(stores.accepted)) == (45, 45, 90)
