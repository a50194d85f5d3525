"""A week's forecast as files: the asset, whole runs, names and the plan."""

from __future__ import annotations

import csv
import datetime as dt
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from forecast_platform.lake.overrides import add_override
from forecast_platform.publishing.exports import READ, NothingToExport, write_exports
from forecast_platform.weeks import WEEK
from forecast_platform_tests.conftest import ForecastHome
from forecast_platform_tests.defs.graph import Graph

NOW = dt.datetime(2025, 1, 30, tzinfo=dt.UTC)


@pytest.fixture
def published(forecast_home: ForecastHome) -> Graph:
    """Two forecasts, with names of stores, and a person's figure for a week that both reach."""
    graph, week = forecast_home.restore(), forecast_home.week
    graph.land({"stores/names.csv": b'store,name\n1,"Ulm, ""am Dom"""\n2,=1+1\n'})
    assert graph.week(week, only=["raw_sales"]).success
    add_override(graph.lake, "1", "1", week + WEEK, 1e6, "campaign", "ann", week, NOW)
    return graph


def test_the_asset_writes_the_whole_run_with_names_and_plan(published: Graph, forecast_home: ForecastHome) -> None:
    week, folder = forecast_home.week, published.platform.settings.home / "exports" / "forecasts"
    result = published.week(week, only=["exports"])
    assert result.success, result.failures
    assert result.metadata("exports")["parquet"] == str(folder / f"{week}.parquet")
    table = pq.read_table(folder / f"{week}.parquet")
    rows = table.to_pylist()
    assert result.metadata("exports")["rows"] == len(rows)

    seen = published.lake.query("SELECT * FROM forecast_with_overrides").to_pylist()
    key = ("level", "store", "dept", "member", "target_week")
    shown = {tuple(row[name] for name in key): row for row in seen}
    assert len(shown) == len(rows)
    assert {row["level"] for row in rows} == {"series", "store", "dept", "total"}
    names = {"1": 'Ulm, "am Dom"', "2": "=1+1"}
    names = {r["store"]: r["value"] for r in published.lake.read("stores").to_pylist() if r["name"] == "name"} | names
    for row in rows:
        same = shown[tuple(row[name] for name in key)]
        assert {name: row[name] for name in row.keys() & same.keys()} == {n: same[n] for n in row.keys() & same.keys()}
        assert row["store_name"] == names.get(row["store"] or "")
    (given,) = [row for row in rows if row["override"] is not None]
    assert (given["plan"], given["store"], given["dept"]) == (1e6, "1", "1")
    moved = [row for row in rows if row["level"] == "total" and row["plan"] != row["p50"]]
    assert [row["plan"] - row["p50"] for row in moved] == [pytest.approx(1e6 - given["p50"])]

    with (folder / f"{week}.csv").open(newline="") as file:
        text = list(csv.DictReader(file))
    assert list(text[0]) == table.column_names
    # What a spreadsheet would run is text there.
    assert [
        (r["store_name"].replace("'=", "="), float(r["p50"]), float(r["plan"]), r["target_week"]) for r in text
    ] == [(r["store_name"] or "", r["p50"], r["plan"], str(r["target_week"])) for r in rows]
    assert {r["store_name"] for r in text if r["store"] == "2"} == {"'=1+1"}


def test_an_earlier_week_keeps_its_own_forecast_and_equal_tables_give_equal_files(
    published: Graph, forecast_home: ForecastHome, tmp_path: Path
) -> None:
    before = forecast_home.week - WEEK
    with duckdb.connect() as con:
        published.lake.attach(con, *READ)
        written = {name: path.read_bytes() for name, path, _ in write_exports(con, before, tmp_path / "a")}
        again = {name: path.read_bytes() for name, path, _ in write_exports(con, before, tmp_path / "b")}
    assert written == again
    assert sorted(written) == [f"exports/forecasts/{before}.{kind}" for kind in ("csv", "parquet")]
    found = pq.read_table(tmp_path / "a" / f"{before}.parquet")
    assert found["forecast_week"].unique().to_pylist() == [before]
    kept = published.lake.query("SELECT sum(p50) FROM forecasts WHERE forecast_week = ?", [before])[0][0].as_py()
    assert sum(found["p50"].to_pylist()) == pytest.approx(kept, rel=1e-12)


def test_quantiles_are_chosen_and_what_is_not_there_is_said(
    published: Graph, forecast_home: ForecastHome, tmp_path: Path
) -> None:
    week = forecast_home.week
    with duckdb.connect() as con:
        published.lake.attach(con, *READ)
        *_, (_, path, _) = write_exports(con, week, tmp_path, ["p90"])
        assert [name for name in pq.read_schema(path).names if name[1:].isdigit()] == ["p90"]
        with pytest.raises(NothingToExport, match="p42 is not published; there are p10, p50, p90"):
            next(write_exports(con, week, tmp_path, ["p42"]))
        with pytest.raises(NothingToExport, match="no forecast of 2020-01-03"):
            next(write_exports(con, dt.date(2020, 1, 3), tmp_path))
