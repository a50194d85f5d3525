r"""What only an account can prove of Glue and Athena. Skipped until it is told which one to use:

    FORECAST_LIVE_URL=s3://bucket/prefix FORECAST_LIVE_WORKGROUP=forecast \
        .venv/bin/python -m pytest forecast_platform_tests/lake/test_live.py

with AWS credentials and region as for any other tool. It makes a database forecast_live_check and drops it afterwards;
files stay under the prefix. (Against moto the first test fails: its Glue lets one writer undo another's commit.)
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyiceberg.exceptions import NoSuchNamespaceError

from forecast_platform.clouds.aws.athena import Athena, create_views
from forecast_platform.clouds.aws.glue import glue_lake
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.tables import VIEWS
from forecast_platform_tests.lake.conftest import QUANTILES, content, forecast_rows, one_week, week

URL, WORKGROUP = os.environ.get("FORECAST_LIVE_URL", ""), os.environ.get("FORECAST_LIVE_WORKGROUP", "")
DATABASE, TABLE = "forecast_live_check", "cleaned_series"

pytestmark = pytest.mark.skipif(not (URL and WORKGROUP), reason="needs an AWS account: see the head of this file")


def open_lake() -> Lake:
    return glue_lake(URL, DATABASE, QUANTILES)


@pytest.fixture
def lake():
    opened = open_lake()
    yield opened
    glue = opened.catalog.glue
    with contextlib.suppress(NoSuchNamespaceError):
        for name in [*VIEWS, *(table for _, table in opened.catalog.list_tables(DATABASE))]:
            with contextlib.suppress(glue.exceptions.EntityNotFoundException):
                glue.delete_table(DatabaseName=DATABASE, Name=name)
        opened.catalog.drop_namespace(DATABASE)


def test_glue_refuses_the_second_of_two_writers_and_no_commit_is_lost(lake):
    lake.table(TABLE)

    def write(writer: int) -> None:
        mine = open_lake()
        for number in range(10 * writer, 10 * writer + 10):
            mine.replace_weeks(TABLE, [week(number)], one_week(week(number), float(number)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert content(lake.read(TABLE)) == {(week(n), str(i), "1"): float(n) for n in range(40) for i in range(5)}


def test_athena_takes_our_views_and_gives_the_lakes_rows(lake):
    for number in range(2):
        lake.replace_weeks("forecasts", [week(number)], forecast_rows(week(number), float(number)))
    athena = Athena(WORKGROUP, DATABASE)
    create_views(athena, lake)
    for view in VIEWS:
        assert len(athena.query(f"SELECT * FROM {view}")) == len(lake.query(f"SELECT * FROM {view}"))
    sql = "SELECT target_week, p50, model_version FROM forecasts WHERE forecast_week = ? AND store = ? ORDER BY 1"
    assert athena.query(sql, [week(1), "1"]).to_pylist() == lake.query(sql, [week(1), "1"]).to_pylist()
    assert len(athena.query(sql, [week(1), "1' OR '1' = '1"])) == 0
