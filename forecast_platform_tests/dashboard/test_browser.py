"""The dashboard in a real browser over real sales of Walmart, those of 13 stores: the main journeys, with every number
asserted taken from the tables by another path; accessibility by axe. (How soon a page comes: benchmarks/dashboard.py.)

Needs Chromium (Debian's package `chromium`, or FORECAST_CHROMIUM) and the Walmart files (FORECAST_WALMART_DIR, default
../shared/data/walmart); says so when it skips.
"""

from __future__ import annotations

import datetime as dt
import gzip
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from forecast_platform.dashboard.app import PAGES, build_app
from forecast_platform.dashboard.source import Source
from forecast_platform.figures import figure
from forecast_platform.lake.lake import Lake
from forecast_platform.settings import Settings
from forecast_platform.words import LANGUAGES, Words
from forecast_platform_tests.conftest import made_once
from forecast_platform_tests.dashboard.conftest import keep_leaderboard
from forecast_platform_tests.defs.graph import Graph
from forecast_platform_tests.landing.test_walmart import FOLDER as WALMART

CHROMIUM = os.environ.get("FORECAST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt install chromium, or set FORECAST_CHROMIUM"),
    pytest.mark.skipif(
        not (WALMART / "sales.csv.gz").exists(), reason=f"no Walmart files in {WALMART}: set FORECAST_WALMART_DIR"
    ),
]
STORES = {*map(str, range(1, 13)), "20"}
WEEKS = [dt.date(2012, 10, 12), dt.date(2012, 10, 19), dt.date(2012, 10, 26)]
# A network that hardly learns: what is looked at here is what the pages make of its numbers.
QUICK: dict[str, Any] = {
    "preset": "walmart",
    "target": "sales",
    "num_samples": 20,
    "hyperparameters": {"epochs": "1", "num_cells": "8", "num_networks": "1", "context_length": "4"},
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    def opened(folder: Path) -> Graph:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FORECAST_HOME", str(folder / "home"))
            return Graph(Settings(**QUICK))

    def make(folder: Path) -> None:
        graph = opened(folder)
        header, *lines = gzip.decompress((WALMART / "sales.csv.gz").read_bytes()).decode().splitlines(keepends=True)
        kept = [line for line in lines if line.partition(",")[0] in STORES]
        graph.land({"sales/sales.csv": "".join([header, *kept]).encode()})
        assert graph.history(dt.date(2010, 2, 5), WEEKS[-1]).success
        for week in WEEKS:
            assert graph.week(week).success
        keep_leaderboard(graph, [dt.date(2011, 12, 2), dt.date(2012, 8, 3)], ["aligned_last_year", "last_year"])

    graph = opened(made_once(tmp_path_factory, "walmart", make))
    graph.lake.settings = graph.platform.settings  # type: ignore[attr-defined]
    return graph.lake


@pytest.fixture(scope="module")
def address(lake: Lake) -> Iterator[str]:
    app = build_app(lake.settings, Source(lake))  # type: ignore[attr-defined]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox does not work for root
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    made = context.new_page()
    complaints: list[str] = []
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    yield made
    context.close()
    assert complaints == []


def rows(lake: Lake, name: str) -> list[dict[str, Any]]:
    return lake.read(name).to_pylist()


def test_from_the_review_queue_to_the_series_and_its_numbers(page: Page, lake: Lake) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_contain_text("This week")
    first = page.get_by_role("region", name="Series to review").get_by_role("row").nth(1)
    store, dept = first.get_by_role("link").inner_text().removeprefix("Store ").split(", dept ")
    first.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Store {store}, department {dept}")
    shown = page.get_by_role("region", name="Forecast by week").get_by_role("row").nth(1).inner_text().split("\t")
    key = (WEEKS[-1], "series", store, dept, 1)
    columns = ("forecast_week", "level", "store", "dept", "horizon")
    (wanted,) = [r for r in rows(lake, "forecasts") if tuple(r[c] for c in columns) == key]
    assert shown[0] == str(wanted["target_week"])
    assert shown[2:11] == [figure(wanted[c]) for c in lake.settings.quantile_columns]  # type: ignore[attr-defined]


def test_a_filter_is_an_address_somebody_else_can_open(page: Page, browser: Browser, address: str) -> None:
    page.goto("/explore")
    page.get_by_role("combobox", name="Store").fill("20")
    page.get_by_role("combobox", name="Department").fill("7")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Store 20, department 7")
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.get_by_role("heading", level=1)).to_contain_text("Store 20, department 7")
    other.context.close()


def test_the_total_of_a_store_is_what_its_departments_sold(page: Page, lake: Lake) -> None:
    page.goto("/misses")
    first = page.get_by_role("region", name="Biggest misses").get_by_role("row").nth(1)
    cells = first.inner_text().split("\t")
    store = cells[0].removeprefix("Store ")
    sold = sum(r["sales"] for r in rows(lake, "cleaned_series")
               if r["week"] == WEEKS[-1] and r["store"] == store and r["observed"])  # fmt: skip
    assert cells[3] == f"{sold:,.0f}"
    first.get_by_role("link", name=f"Store {store}", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"of store {store}")
    worst = page.get_by_role("region", name="Biggest misses").get_by_role("row").nth(1).inner_text().split("\t")
    off = [r for r in rows(lake, "forecast_accuracy")
           if (r["week"], r["level"], r["store"], r["horizon"]) == (WEEKS[-1], "series", store, 1)]  # fmt: skip
    assert worst[1].replace("\N{MINUS SIGN}", "-") == f"{max(off, key=lambda r: r['abs_error'])['error']:+,.0f}"


def test_the_heat_map_leads_to_the_series_under_the_pointer(page: Page, lake: Lake) -> None:
    page.goto("/heatmap?weeks=1")
    cells = page.locator("table.heatmap td a")
    scored = [
        r for r in rows(lake, "forecast_accuracy") if (r["week"], r["level"], r["horizon"]) == (WEEKS[-1], "series", 1)
    ]
    assert cells.count() == sum(r["actual"] != 0 for r in scored)
    cell = page.locator('table.heatmap a[href="/explore?store=7&dept=12"]')
    wanted = next(r for r in scored if (r["store"], r["dept"]) == ("7", "12"))
    assert cell.inner_text() == f"{100 * wanted['abs_error'] / abs(wanted['actual']):.0f}"
    cell.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Store 7, department 12")


def test_the_pointer_and_the_keyboard_read_the_chart(page: Page, lake: Lake) -> None:
    page.goto("/explore?store=1&dept=1")
    chart = page.locator("figure[data-chart]").first
    chart.locator("svg.wide").focus()
    page.keyboard.press("ArrowRight")  # the last week shown
    last = [r for r in rows(lake, "forecasts") if (r["forecast_week"], r["level"], r["store"], r["dept"])
            == (WEEKS[-1], "series", "1", "1")][-1]  # fmt: skip
    expect(chart.locator(".tip")).to_contain_text(str(last["target_week"]))
    expect(chart.locator(".tip")).to_contain_text(f"{last['p50']:,.0f}")
    page.keyboard.press("Escape")
    expect(chart.locator(".tip")).to_be_hidden()
    box = chart.locator("svg.wide").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    expect(chart.locator(".tip")).to_contain_text("sales")


def test_the_pointer_writes_figures_as_the_tables_do(page: Page, lake: Lake) -> None:
    page.goto("/explore?store=1&dept=1&lang=de")
    chart = page.locator("figure[data-chart]").first
    chart.locator("svg.wide").focus()
    page.keyboard.press("ArrowRight")
    last = [r for r in rows(lake, "forecasts") if (r["forecast_week"], r["level"], r["store"], r["dept"])
            == (WEEKS[-1], "series", "1", "1")][-1]  # fmt: skip
    words = Words("de")
    expect(chart.locator(".tip")).to_contain_text(words.week_key(last["target_week"]))
    for name in ("p10", "p50", "p90"):
        expect(chart.locator(".tip")).to_contain_text(words.number(last[name]))
    errors = page.locator("figure[data-chart]").last
    errors.locator("svg.wide").focus()
    page.keyboard.press("ArrowRight")
    expect(errors.locator(".tip")).to_contain_text(re.compile(r"\d,\d\s%"))


def test_an_earlier_week_is_one_choice_away(page: Page) -> None:
    page.goto("/")
    page.get_by_role("combobox", name="Forecast made after the week of").select_option(str(WEEKS[0]))
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"after the week of {WEEKS[0]}")
    assert f"week={WEEKS[0]}" in page.url
    page.get_by_role("link", name="Revisions").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"the run after {WEEKS[0]}")


def test_everything_can_be_reached_without_a_pointer(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    names = []
    for _ in range(len(PAGES) + 2):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert [title for title, _ in PAGES.values()] == names[1 : 1 + len(PAGES)]


def test_axe_finds_nothing_serious(browser: Browser, address: str) -> None:
    """By all of its rules on light paper; dark paper differs in colours only."""
    context = browser.new_context(base_url=address, color_scheme="light")
    page = context.new_page()
    found = []

    def look(scheme: str, **options: Any) -> None:
        for violation in Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:120] for node in violation["nodes"][:2]]
                found.append((page.url, scheme, violation["id"], nodes))

    for name in (*PAGES, "explore?store=1&dept=1"):
        page.goto(f"/{name}")
        look("light")
        page.emulate_media(color_scheme="dark")
        look("dark", runOnly={"type": "rule", "values": ["color-contrast"]})
        page.emulate_media(color_scheme="light")
    context.close()
    assert found == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_on_a_phone_nothing_hangs_over_the_edge(browser: Browser, address: str, lang: str) -> None:
    context = browser.new_context(base_url=address, viewport={"width": 390, "height": 844})
    page = context.new_page()
    wider = 0
    for name in (*PAGES, "explore?store=1&dept=1"):
        page.goto(f"/{name}{'&' if '?' in name else '?'}lang={lang}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        # The page one is on can be seen among its tabs, and no page goes on and on.
        tab = page.locator("nav a[aria-current]").bounding_box()
        assert tab, name
        assert tab["x"] >= 0, name
        assert tab["x"] + tab["width"] <= 390, name
        assert page.evaluate("document.documentElement.scrollHeight") < 7000, name
        # A table with columns to the side says so, until they were seen.
        for box in page.locator(".scroll:visible").all():
            wide = box.evaluate("e => e.scrollWidth - e.clientWidth > 8")
            says = box.get_attribute("data-more") or ""  # which its ::before shows
            assert bool(says) == wide, (name, box.get_attribute("aria-label"))
            wider += wide
            box.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
            expect(box).not_to_have_attribute("data-more", re.compile(""))
    assert wider
    context.close()


def test_headers_stand_over_their_columns(page: Page) -> None:
    """Headers were set to the right over text that is set to the left."""
    for name in (*PAGES, "explore?store=1&dept=1"):
        page.goto(f"/{name}")
        wrong = page.evaluate(
            """() => [...document.querySelectorAll("table:not(.heatmap)")].flatMap(t => {
                const side = e => getComputedStyle(e).textAlign;
                const first = t.tBodies[0] && t.tBodies[0].rows[0];
                if (!first || first.cells.length < 2) return [];
                const heads = [...t.tHead.rows[0].cells];
                return heads.filter((h, i) => side(h) !== side(first.cells[i])).map(h => h.textContent);
            })"""
        )
        assert wrong == [], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_worst_errors_stand_out_most_from_the_paper(browser: Browser, address: str, scheme: Any) -> None:
    """On dark paper the worst cells were the darkest."""
    context = browser.new_context(base_url=address, color_scheme=scheme)
    page = context.new_page()
    page.goto("/heatmap")
    colours = page.evaluate(
        """() => [document.body, ...[0, 1, 2, 3, 4].map(n => document.querySelector(`.scale .wape${n}`))]
            .map(e => getComputedStyle(e).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number))"""
    )
    context.close()
    paper, *steps = [_luminance(c) for c in colours]
    contrasts = [(max(paper, s) + 0.05) / (min(paper, s) + 0.05) for s in steps]
    assert contrasts == sorted(contrasts)
    assert contrasts[-1] > 7


def _luminance(rgb: list[int]) -> float:
    """As WCAG defines it, 0 for black and 1 for white."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
