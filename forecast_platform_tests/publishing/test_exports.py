"""A week's forecast as files: the asset, whole runs, names and the plan."""

from __future__ import annotations

import csv
import datetime as dt
import math
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import AlwaysTrue, EqualTo

from forecast_platform.lake.overrides import add_override
from forecast_platform.publishing import sheets
from forecast_platform.publishing.exports import (
    READ,
    READ_SELECTED,
    NothingToExport,
    Selection,
    export,
    file_name,
    newest_week,
    write_exports,
)
from forecast_platform.publishing.sheets import Sheet
from forecast_platform.weeks import WEEK
from forecast_platform_tests.conftest import ForecastHome
from forecast_platform_tests.defs.graph import Graph

NOW = dt.datetime(2025, 1, 30, tzinfo=dt.UTC)
EVERYTHING = Selection()


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


# ------------------------------------------------------------ what people ask for: forecast export


def exported(graph: Graph, path: Path, chosen: Selection = EVERYTHING, form: str = "") -> dict[str, int]:
    with graph.lake.connection(*READ_SELECTED) as con:
        return export(con, newest_week(con), chosen, path, form or path.suffix[1:])


def test_a_workbook_has_a_sheet_a_level_made_for_people(published: Graph, tmp_path: Path) -> None:
    graph = published
    counts = exported(graph, tmp_path / "f.xlsx")
    book = openpyxl.load_workbook(tmp_path / "f.xlsx")
    assert book.sheetnames == ["total", "dept", "store", "series", "columns"] == list(counts)
    assert not [path for path in tmp_path.iterdir() if path.name != "f.xlsx"]
    for level in book.sheetnames[:4]:
        sheet = book[level]
        assert sheet.freeze_panes == "A2"
        assert sheet.auto_filter.ref == f"A1:{sheet.cell(1, sheet.max_column).column_letter}{sheet.max_row}"
        assert all(cell.font.bold for cell in sheet[1])
        assert sheet.max_row - 1 == counts[level]
    assert [c.value for c in book["total"][1]][:2] == [
        "forecast_week",
        "target_week",
    ]  # what is empty there is left out
    assert {"store", "store_name", "dept"} <= {c.value for c in book["series"][1]}
    # The lake's own values, by the decimals of the sales (two), as numbers; dates as dates.
    found = sheet_rows(book["series"])
    kept = graph.lake.query(
        "SELECT store, dept, target_week, p50, override, plan FROM forecast_with_overrides WHERE level = 'series'"
    ).to_pylist()
    assert {(r["store"], r["dept"], r["target_week"].date()): (r["p50"], r["override"], r["plan"]) for r in found} == {
        (r["store"], r["dept"], r["target_week"]): (round(r["p50"], 2), r["override"], round(r["plan"], 2))
        for r in kept
    }
    heads = [c.value for c in book["series"][1]]
    assert book["series"].cell(2, heads.index("p50") + 1).number_format == "#,##0.00"
    assert book["series"].cell(2, heads.index("target_week") + 1).number_format == "yyyy-mm-dd"
    meanings = {row[0].value: row[1].value for row in book["columns"].iter_rows(min_row=2)}
    assert meanings.keys() == {*pq.read_schema(graph_parquet(graph, tmp_path)).names}
    assert all(meanings.values())


def test_a_name_that_looks_like_a_formula_is_text_in_every_file(published: Graph, tmp_path: Path) -> None:
    exported(published, tmp_path / "f.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "f.xlsx")["series"]
    at = [c.value for c in sheet[1]].index("store_name")
    cells = [row[at] for row in sheet.iter_rows(min_row=2) if row[at].value and row[at].value.startswith("=")]
    assert cells
    for cell in cells:
        assert (cell.value, cell.data_type, cell.quotePrefix) == ("=1+1", "s", True)
    with zipfile.ZipFile(tmp_path / "f.xlsx") as archive:
        assert not [name for name in archive.namelist() if "sheets/sheet" in name and b"<f>" in archive.read(name)]
    exported(published, tmp_path / "f.csv")
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["store_name"] for r in rows if r["store"] == "2"} == {"'=1+1"}
    assert all(float(r["p50"]) == round(float(r["p50"]), 2) for r in rows)  # numbers stay numbers, also below 0


def test_what_is_chosen_is_all_that_is_written_and_says_so_in_its_name(published: Graph, tmp_path: Path) -> None:
    chosen = Selection(stores=("1",), quantiles=("p90",))
    counts = exported(published, tmp_path / "a.parquet", chosen)
    rows = pq.read_table(tmp_path / "a.parquet")
    assert {(r["level"], r["store"]) for r in rows.to_pylist()} == {("series", "1"), ("store", "1")}
    assert [name for name in rows.column_names if name[1:].isdigit()] == ["p90"]
    assert counts == {"a.parquet": len(rows)}
    exported(published, tmp_path / "a.duckdb", Selection(levels=("total",), depts=()))
    with duckdb.connect(str(tmp_path / "a.duckdb"), read_only=True) as con:
        assert con.sql("SELECT DISTINCT level FROM forecasts").fetchall() == [("total",)]
    week = dt.date(2025, 1, 31)
    assert file_name(week, chosen, "csv") == "forecast-2025-01-31-store-1.csv"
    assert file_name(week, Selection(levels=("region",), groups=(("region", "N/W"),)), "xlsx") == (
        "forecast-2025-01-31-level-region-group-region-N-W.xlsx"
    )
    for wrong, said in (
        (Selection(stores=("99",)), "no row of store 99"),
        (Selection(levels=("region",)), "no level region; it has dept, series, store, total"),
        (Selection(quantiles=("p42",)), "p42 is not published"),
    ):
        with pytest.raises(NothingToExport, match=said):
            exported(published, tmp_path / "b.csv", wrong)
    assert not (tmp_path / "b.csv").exists()


def test_a_group_is_its_sum_its_stores_and_their_series_with_the_plan_of_all(
    published: Graph, forecast_home: ForecastHome, tmp_path: Path
) -> None:
    """Members are looked up as they were in the forecast; the rows of a sum keep the plan that other rows make."""
    lake, week = published.lake, forecast_home.week
    member = {"forecast_week": week, "level": "region", "member": "North", "dept": None}
    spec = lake.specs["level_members"]
    rows = [{**dict.fromkeys(spec.schema.names), **member, "store": store} for store in ("1", "2")]
    lake.replace("level_members", AlwaysTrue(), pa.Table.from_pylist(rows, spec.schema))
    sums = [r for r in lake.read("forecasts").to_pylist() if r["level"] == "total" and r["forecast_week"] == week]
    of_group = [r | {"level": "region", "member": "North"} for r in sums]
    lake.replace(
        "forecasts", EqualTo("level", "region"), pa.Table.from_pylist(of_group, lake.specs["forecasts"].schema)
    )
    exported(published, tmp_path / "g.parquet", Selection(groups=(("region", "North"),)))
    found = pq.read_table(tmp_path / "g.parquet").to_pylist()
    assert {r["level"] for r in found} == {"region", "store", "series"}
    assert {r["store"] for r in found} == {None, "1", "2"}
    moved = [r for r in found if r["level"] == "region" and r["plan"] != r["p50"]]
    assert len(moved) == 1  # by the figure that somebody gave for a series of it


def test_more_rows_than_a_sheet_holds_go_on_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "SHEET_ROWS", 4)
    rows = ({"store": str(n), "p50": n / 4} for n in range(10))
    assert sheets.write_xlsx(tmp_path / "a.xlsx", [Sheet.of("series", rows), Sheet.of("Series", [])], 2) == {
        "series": 4, "series 2": 4, "series 3": 2, "Series 4": 0,
    }  # fmt: skip
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    found = [r for name in book.sheetnames[:3] for r in sheet_rows(book[name])]
    assert [r["store"] for r in found] == [str(n) for n in range(10)]
    assert book["series 2"].auto_filter.ref == "A1:B5"


def test_figures_are_rounded_alike_in_sql_and_python(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    values = [0.0, -0.0, *(rng.normal(size=400) * 10.0 ** rng.integers(-9, 9, 400)).tolist(), math.inf, math.nan]
    with duckdb.connect() as con:
        con.register("v", pa.table({"x": values}))
        for digits in range(5):
            found = [x for (x,) in con.execute(f"SELECT {sheets.rounded_sql('x', digits)} FROM v").fetchall()]
            np.testing.assert_allclose(found, [sheets.rounded("x", x, digits) for x in values], rtol=1e-12)
    small = [x for x in values if x and math.isfinite(x)]
    assert all(sheets.rounded("x", x, 0) for x in small)  # none is shown as 0
    assert sheets.rounded("wape", 0.123456, 0) == 0.1235


def test_cells_of_every_kind_are_written(tmp_path: Path) -> None:
    """What a spreadsheet has no form for is left empty; what it cannot hold is cut, and says so."""
    row = {"a": None, "b": True, "c": 7, "d": math.nan, "e": "x" * 40_000, "f": "-1", "g": -1.5, "h": 0.00123456,
           "i": dt.datetime(2025, 1, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=2))), "wape": 0.12345}  # fmt: skip
    sheets.write_xlsx(tmp_path / "a.xlsx", [Sheet.of("it's [one]/two: a name that is too long for it", [row])], 0)
    (sheet,) = openpyxl.load_workbook(tmp_path / "a.xlsx").worksheets
    assert sheet.title == "it s  one  two  a name that is"
    cells = dict(zip(row, sheet[2], strict=True))
    assert (cells["a"].value, cells["b"].value, cells["c"].value, cells["d"].value) == (None, True, 7, None)
    assert (len(cells["e"].value), cells["e"].value[-3:]) == (32_767, "...")
    assert (cells["f"].value, cells["f"].data_type, cells["g"].value, cells["g"].data_type) == ("-1", "s", -1.5, "n")
    assert (cells["h"].value, cells["h"].number_format) == (0.00123, "#,##0.00000")
    assert cells["i"].value == dt.datetime(2025, 1, 31, 10)
    assert cells["wape"].value == 0.1235


def sheet_rows(sheet: Any) -> list[dict[str, Any]]:
    names = [cell.value for cell in sheet[1]]
    return [dict(zip(names, row, strict=True)) for row in sheet.iter_rows(min_row=2, values_only=True)]


def graph_parquet(graph: Graph, folder: Path) -> Path:
    exported(graph, folder / "all.parquet")
    return folder / "all.parquet"
