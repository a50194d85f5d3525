"""A short look at large files: the weeks of a parquet file from its footer, without its body, in a folder and in S3."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform.clouds.base import open_landing
from forecast_platform.landing import peek as looking
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.peek import peek
from forecast_platform.landing.place import Landing, LandingObject
from forecast_platform.weeks import WeekCalendar

CALENDAR = WeekCalendar()
FIRST = dt.date(2024, 1, 5)


def parquet(dates: list[dt.date], kind: pa.DataType, rows_a_group: int = 20_000, **how: Any) -> bytes:
    rows = 40_000
    table = pa.table(
        {
            "store": pa.array(np.arange(rows) % 97),
            "dept": pa.array(np.arange(rows) % 89),
            "date": pa.array([dates[i % len(dates)] for i in range(rows)], pa.date32()).cast(kind),
            "weekly_sales": np.random.default_rng(1).normal(1000, 100, rows),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=rows_a_group, **how)
    return out.getvalue()


class Counting:
    """A landing place, and how many bytes were taken from it."""

    def __init__(self, place: Landing) -> None:
        self.place, self.taken, self.whole = place, 0, 0

    def part(self, obj: LandingObject, start: int, length: int) -> bytes:
        data = self.place.part(obj, start, length)
        self.taken += len(data)
        return data

    def read(self, obj: LandingObject) -> bytes:
        self.whole += 1
        return self.place.read(obj)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Landing:
    if request.param == "folder":
        return open_landing(str(tmp_path / "landing"))
    request.getfixturevalue("s3")
    return open_landing("s3://drop/landing")


WEEKS = [FIRST + dt.timedelta(weeks=k) for k in (0, 3, 5)]


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.timestamp("ns")], ids=str)
def test_the_footer_tells_the_weeks(place: Landing, kind: pa.DataType) -> None:
    data = parquet(WEEKS, kind)
    assert len(data) > looking.WHOLE
    obj, counting = place.put("sales/large.parquet", data), Counting(place)
    found = peek(counting, obj, Dialect.named("canonical"), CALENDAR, most_weeks=12)  # type: ignore[arg-type]
    assert found == [FIRST + dt.timedelta(weeks=k) for k in range(6)]  # those between are taken to be held
    assert counting.whole == 0
    assert 0 < counting.taken < len(data) / 2


def test_what_the_footer_does_not_tell_is_left_to_ingestion(place: Landing) -> None:
    def look(data: bytes, name: str = "x.parquet", most: int = 12) -> list[dt.date] | None:
        return peek(place, place.put(f"sales/{name}", data), Dialect.named("canonical"), CALENDAR, most)

    good = parquet(WEEKS, pa.date32())
    assert look(good, most=5) is None  # too many to believe that all between are there
    assert look(parquet([FIRST, FIRST + dt.timedelta(days=3)], pa.date32())) is None  # days
    assert look(parquet(WEEKS, pa.date32(), write_statistics=False)) is None
    assert look(parquet(WEEKS, pa.string())) is None
    assert look(good[:-40]) is None  # cut short
    assert look(b"store,dept,date,weekly_sales\n" + b"1,1,2024-01-05,3.5\n" * 20_000, "x.csv") is None
