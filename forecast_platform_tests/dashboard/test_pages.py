"""What pages say and hand out: a table and a file of every chart, what a figure rests on, filters, plans."""

from __future__ import annotations

import csv
import datetime as dt
import html
import io
import json
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from pyiceberg.expressions import AlwaysTrue
from starlette.testclient import TestClient

from forecast_platform.dashboard.app import PAGES, build_app
from forecast_platform.dashboard.pages import IN_WORDS
from forecast_platform.dashboard.source import Source
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.overrides import add_override
from forecast_platform.models.registry import CANDIDATES
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.dashboard.test_troubles import MONDAY, NEWEST, WEEK, Story
from forecast_platform_tests.defs.graph import Graph


def serve(lake: Lake) -> TestClient:
    return TestClient(build_app(Settings(**SMALL), Source(lake), hosts=("testserver",)))


def rows_of(client: TestClient, address: str) -> list[dict[str, str]]:
    answer = client.get(address)
    assert answer.headers["content-type"].startswith("text/csv"), address
    return list(csv.DictReader(io.StringIO(answer.text)))


@pytest.mark.parametrize("address", [*PAGES, "explore?store=1&dept=1", "?store=2"])
def test_every_chart_has_its_table_and_every_table_is_a_file(client: TestClient, address: str) -> None:
    text = client.get(f"/{address}").text
    # A table comes before the next chart, or the page's end.
    for after in text.split('<figure class="chart')[1:]:
        assert re.search(
            r'<details class="twin"[^>]*><summary>[^<]*</summary>\s*<div class="scroll".*?<td', after, re.S
        )
    files = {html.unescape(link) for link in re.findall(r'href="([^"]*format=csv[^"]*)"', text)}
    assert files
    for link in files:
        rows = rows_of(client, link)
        assert rows, link
        assert len(set(map(len, rows))) == 1
    assert text.count("<table") <= len(files) + text.count('<details class="twin"')


def test_a_file_is_named_by_its_page_filter_and_week(client: TestClient, source: Source) -> None:
    """Every download was explore.csv."""
    week = source.state().rows("SELECT max(forecast_week) AS week FROM forecasts")[0]["week"]

    def name(address: str) -> str:
        return client.get(address).headers["content-disposition"]

    assert f'filename="explore-forecast-store-2-dept-3-{week}.csv"' in name("/explore?store=2&dept=3&format=csv")
    assert f'filename="week-queue-store-1-{week}.csv"' in name("/?store=1&format=csv")
    assert f'filename="misses-by-series-{week}.csv"' in name("/misses?by=series&format=csv")
    assert f'filename="runs-quarantine-{week}.csv"' in name("/runs?format=csv&table=quarantine")
    answer = client.get("/runs?format=csv&table=luck")
    assert answer.status_code == 404
    assert "table is &#39;luck&#39;; it is one of files, quarantine" in answer.text


def test_names_of_files_are_harmless_whatever_stores_are_called(lake: Lake) -> None:
    store = 'Zü"rich; X=\\y'
    Story(lake).week(1, stores=(store,)).week(0, stores=(store,)).told()
    with serve(lake) as client:
        # Names stay as they are written, also where they begin a heading.
        assert f"<h1>Store {store} " in html.unescape(client.get("/explore", params={"store": store}).text)
        answer = client.get("/explore", params={"store": store, "format": "csv", "table": "sales"})
    assert answer.headers["content-disposition"] == (
        'attachment; filename="explore-sales-store-Z-rich-X-y-2025-01-31.csv"; '
        "filename*=UTF-8''explore-sales-store-Z%C3%BC-rich-X-y-2025-01-31.csv"
    )


@pytest.mark.parametrize(
    ("sold", "p50", "shown"),
    [(1.25, 12.34567890123456, "12.35"), (1.0, 123456.789012, "123457"), (1.25, 0.0012345678, "0.00123"),
     (1.25, 0.0, "0.0"), (1.25, -12.345678, "-12.35")],
)  # fmt: skip
def test_figures_in_files_have_the_decimals_of_the_data(lake: Lake, sold: float, p50: float, shown: str) -> None:
    """Small figures keep three digits."""
    story = Story(lake).week(0)
    change(lake, "cleaned_series", sales=sold)
    change(lake, "forecasts", p50=p50)
    story.told()
    with serve(lake) as client:
        (row,) = rows_of(client, "/explore?store=1&dept=a&format=csv")
    assert row["p50"] == shown


def change(lake: Lake, table: str, **values: float) -> None:
    """Give all rows of a table these values."""
    rows = [row | values for row in lake.read(table).to_pylist()]
    lake.replace(table, AlwaysTrue(), pa.Table.from_pylist(rows, lake.specs[table].schema))


def test_shares_in_files_have_four_decimals(client: TestClient) -> None:
    rows = rows_of(client, "/accuracy?format=csv")
    assert rows
    for row in rows:
        assert 0 < len(row["wape"].partition(".")[2]) <= 4


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "-x", "+1", "@a"])
def test_a_spreadsheet_does_not_run_what_a_store_was_named(lake: Lake, name: str) -> None:
    story = Story(lake).week(0)
    story.file(name, MONDAY).told()
    with serve(lake) as client:
        keys = {row["source_key"] for row in rows_of(client, "/runs?format=csv&table=files")}
    assert keys == {f"'{name}", f"sales/{NEWEST}.csv"}


def test_a_file_of_sales_is_the_lakes_own(client: TestClient, published: Graph) -> None:
    rows = rows_of(client, "/explore?store=1&dept=1&format=csv&table=sales")
    sold = published.lake.query(
        "SELECT week, sales FROM cleaned_series WHERE store = '1' AND dept = '1' AND observed ORDER BY week"
    ).to_pylist()
    assert [r["week"] for r in rows if r["sales"]] == [str(r["week"]) for r in sold]
    assert [float(r["sales"]) for r in rows if r["sales"]] == pytest.approx([r["sales"] for r in sold], abs=0.005)
    assert all(len(r["sales"].partition(".")[2]) <= 2 for r in rows)


def test_the_queue_is_whole_in_its_file(lake: Lake) -> None:
    """It ended at 500 of 3,250 without a word."""
    story = Story(lake).week(0)
    made = [
        {"forecast_week": NEWEST, "level": "series", "store": str(k), "dept": "a", "target_week": NEWEST + WEEK,
         "horizon": 1, "p50": float(k), "created_at": MONDAY}
        for k in range(2500)
    ]  # fmt: skip
    total = made[0] | {"level": "total", "store": None, "dept": None}
    story._replace("forecasts", NEWEST, [*made, total])
    story.told()
    with serve(lake) as client:
        text = client.get("/").text
        assert "2,500 series" in text
        assert "12 of 2,500 are shown" in text
        rows = rows_of(client, "/?format=csv")
    assert {r["store"] for r in rows} == {str(k) for k in range(2500)}


def test_a_filter_without_entries_says_why(client: TestClient, lake: Lake) -> None:
    """A store without entries was told that no week that was forecast had sales yet."""
    answer = client.get("/?store=77")
    assert answer.status_code == 404
    assert "There is no store 77; there are 1 · Ashford, 2 · Birchwood" in answer.text
    Story(lake).week(0).told()  # a forecast of store 1, department a alone
    with serve(lake) as other:
        text = other.get("/?store=2&dept=b").text
    assert "No series of store 2, department b has a forecast of this week: store 2, department b never sold" in text


def test_labels_say_on_how_many_weeks_a_figure_rests(client: TestClient, source: Source) -> None:
    """What was called the error of the last 8 weeks rested on one."""
    weeks = [r["week"] for r in source.state().rows("SELECT DISTINCT forecast_week AS week FROM forecasts ORDER BY 1")]
    assert "Error, 3 weeks" in client.get("/").text
    assert "Error, 1 week<" in client.get(f"/?week={weeks[1]}").text
    assert "no week that was forecast has sales yet" in client.get(f"/?week={weeks[0]}").text
    assert "3 weeks with sales of the 8 weeks up to" in client.get("/heatmap").text
    assert "3 weeks of the last 26 scored" in client.get("/explore?store=1").text
    text = client.get("/accuracy").text
    assert "3 weeks scored of the last 52" in text
    assert "3 weeks with sales of the last 4" in text
    assert "Up to 3 weeks with sales of the last 13" in text


@pytest.fixture
def given(published: Graph) -> Iterator[dict[str, Any]]:
    """A figure of one series' next week, 1,000 above its forecast; taken away afterwards."""
    row: dict[str, Any] = published.lake.query(
        "SELECT * FROM latest_forecast WHERE level = 'series' AND store = '1' AND dept = '1' AND horizon = 1"
    ).to_pylist()[0]
    add_override(published.lake, "1", "1", row["target_week"], row["p50"] + 1000, "fair & <b>", "ana",
                 row["target_week"], MONDAY)  # fmt: skip
    yield row
    published.lake.replace("overrides", AlwaysTrue(), published.lake.specs["overrides"].schema.empty_table())


def test_a_figure_given_reaches_the_plan_of_every_sum_above_it(
    client: TestClient, published: Graph, given: dict[str, Any]
) -> None:
    shown = published.lake.query("SELECT * FROM forecast_with_overrides WHERE horizon = 1").to_pylist()
    plans = {(r["level"], r["store"], r["dept"]): r["plan"] for r in shown}
    for level, query in (("total", {}), ("store", {"store": "1"}), ("dept", {"dept": "1"}),
                         ("series", {"store": "1", "dept": "1"})):  # fmt: skip
        address = f"/explore?{urllib.parse.urlencode(query)}"
        text = html.unescape(client.get(address).text)
        assert "plan with people's own figures" in text
        assert "fair & <b>" in text
        first, *others = rows_of(client, f"{address}&format=csv")
        assert float(first["plan"]) == pytest.approx(float(first["p50"]) + 1000, abs=0.02)
        assert float(first["plan"]) == pytest.approx(plans[level, query.get("store"), query.get("dept")], abs=0.01)
        assert all(r["plan"] == "" for r in others)
    assert "<b>" not in re.sub(r"</?b( class=\"kind\")?>", "", client.get("/explore").text.replace("&lt;b&gt;", ""))
    assert "fair" not in client.get("/explore?store=2").text
    assert "Plan of the next 4 weeks, with the figures that people gave" in client.get("/").text


def test_what_the_model_is_given_stands_under_the_chart_of_a_series(client: TestClient) -> None:
    text = client.get("/explore?store=1&dept=1").text
    assert text.index("Store 1 · Ashford, department 1: sales and forecast") < text.index(
        "Promotion, as the model is given it"
    )
    assert "as the model is given it" not in client.get("/explore").text


def test_what_serves_is_told_in_words(lake: Lake) -> None:
    """Names of candidates are those of settings and tables; a planner knows none of them."""
    assert IN_WORDS.keys() == CANDIDATES.keys()
    Story(lake).week(0).told()
    tried = {"last_year": {"weights": {"steady": 0.2, "young": 0.0}}, "sales, counts": {"left_out": "few"},
             "pretrained": {"weights": {"steady": 0.8, "young": 1.0}}}  # fmt: skip
    row = {"week": NEWEST, "version": "m", "why": "served: 80% pretrained, 20% last_year"}
    for candidates, told in ((json.dumps(tried), True), (None, False)):
        rows = [{**row, "candidates": candidates}]
        lake.replace_weeks("models", [NEWEST], pa.Table.from_pylist(rows, schema=lake.specs["models"].schema))
        with serve(lake) as client:
            text = html.unescape(client.get("/").text)
        assert "served: 80% pretrained, 20% last_year." in text
        words = f"<b>pretrained</b>: {IN_WORDS['pretrained']}; <b>last_year</b>: {IN_WORDS['last_year']}."
        assert (words in text, "WAPE is how far" in text) == (told, told)


def test_lists_of_the_data_page_are_short_and_say_so(lake: Lake) -> None:
    """It was 17,000 pixels long on a phone."""
    story = Story(lake).week(1).week(0)
    for k in range(150):
        story.file(f"sales/{k}.csv", MONDAY + dt.timedelta(minutes=k), accepted=1, rows=1)
        story.line("sales/1.csv", MONDAY, k, "no_date", "write it as YYYY-MM-DD")
    story.told()
    with serve(lake) as client:
        text = client.get("/runs").text
        assert text.count("<tr>") < 40
        assert "12 of 152 are shown." in text
        assert "12 of 150 are shown." in text
        assert "100 of 152 are shown." in client.get("/runs?rows=100").text
        rows = rows_of(client, "/runs?format=csv&table=quarantine")
    assert [int(r["line"]) for r in rows] == list(range(150))


def test_every_table_is_a_workbook_too_with_all_its_rows(client: TestClient) -> None:
    for address in ("/?store=1", "/explore?store=1&dept=1&table=sales", "/accuracy", "/runs?table=models"):
        join = "&" if "?" in address else "?"
        answer = client.get(f"{address}{join}format=xlsx")
        assert answer.headers["content-type"].endswith("spreadsheetml.sheet"), answer.text
        assert re.search(r'filename="[a-z]+-[\w-]+-\d{4}-\d\d-\d\d\.xlsx"', answer.headers["content-disposition"])
        (sheet,) = openpyxl.load_workbook(io.BytesIO(answer.content)).worksheets
        rows = rows_of(client, f"{address}{join}format=csv")
        assert [cell.value for cell in sheet[1]] == list(rows[0])
        assert sheet.max_row - 1 == len(rows)
    assert client.get("/?format=parquet").status_code == client.get("/?format=pdf").status_code == 404


def test_the_forecast_is_handed_over_whole_as_the_command_does(client: TestClient, published: Graph) -> None:
    week = published.lake.query("SELECT max(forecast_week) FROM forecasts")[0][0].as_py()
    text = html.unescape(client.get("/explore?store=1").text)
    assert f"/export?week={week}&store=1&format=xlsx" in text
    answer = client.get(f"/export?week={week}&store=1&format=csv")
    assert f'filename="forecast-{week}-store-1.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    kept = published.lake.query("SELECT * FROM latest_forecast WHERE store = '1'").to_pylist()
    assert {(r["level"], r["dept"], r["target_week"]) for r in rows} == {
        (r["level"], r["dept"] or "", str(r["target_week"])) for r in kept
    }
    assert len(rows) == len(kept)
    book = openpyxl.load_workbook(io.BytesIO(client.get("/export").content))
    assert book.sheetnames == ["total", "dept", "store", "series", "columns"]
    assert client.get("/export?format=parquet").content[:4] == b"PAR1"
    for wrong in ("store=nowhere", "week=2001-01-05", "format=pdf"):
        assert client.get(f"/export?{wrong}").status_code == 404
