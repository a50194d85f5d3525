"""The pages as a browser gets them, without one: every link leads somewhere, nothing can be written or smuggled in."""

from __future__ import annotations

import datetime as dt
import html
import re
import threading
import time
import urllib.parse
from collections import Counter
from typing import Any

import pytest
from starlette.testclient import TestClient

from forecast_platform.dashboard import source as source_module
from forecast_platform.dashboard.app import PAGES, ask_ahead, build_app
from forecast_platform.dashboard.source import Source
from forecast_platform.lake.lake import Lake
from forecast_platform.settings import Settings
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.dashboard.test_troubles import Story
from forecast_platform_tests.defs.graph import Graph

LINK = re.compile(r'(?:href|src)="([^"]+)"')


def links(text: str) -> set[str]:
    return {html.unescape(link) for link in LINK.findall(text) if not link.startswith(("#", "http"))} - {""}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_answers_and_says_what_it_is(client: TestClient, page: str) -> None:
    answer = client.get(f"/{page}")
    assert answer.status_code == 200
    title = PAGES[page][0]
    assert f"<title>{title}" in answer.text
    assert 'aria-current="page"' in answer.text
    assert answer.text.count("<h1>") == 1
    assert "{{" not in answer.text
    assert "None" not in answer.text


def test_every_link_leads_somewhere(client: TestClient) -> None:
    """Of links that differ by their stores, departments and weeks alone, two."""
    seen: set[str] = set()
    alike: Counter[tuple] = Counter()
    waiting = {"/"}
    while waiting:
        link = min(waiting)
        waiting.remove(link)
        seen.add(link)
        address = urllib.parse.urlsplit(link)
        asked = urllib.parse.parse_qsl(address.query)
        kind = address.path, *((k, "" if k in ("store", "dept", "week") else v) for k, v in asked)
        alike[kind] += 1
        if alike[kind] > 2:
            continue
        answer = client.get(link)
        assert answer.status_code == 200, link
        if "html" in answer.headers["content-type"]:
            found = {
                urllib.parse.urljoin(f"http://testserver{link}", x).removeprefix("http://testserver")
                for x in links(answer.text)
            }
            waiting |= {x.partition("#")[0] for x in found} - seen
    assert sum(min(n, 2) for n in alike.values()) > 60


def test_a_view_is_its_address(client: TestClient, source: Source) -> None:
    weeks = [r["week"] for r in source.state().rows("SELECT DISTINCT forecast_week AS week FROM forecasts ORDER BY 1")]
    answer = client.get(f"/explore?week={weeks[0]}&store=2&dept=3")
    assert f"forecast made after the week of {weeks[0]}" in answer.text
    assert "<h1>Store 2 · Birchwood, department 3 <small>" in answer.text
    # The links of the page keep the week.
    others = [x for x in links(answer.text) if x.startswith("/misses")]
    assert others
    assert all(f"week={weeks[0]}" in x for x in others)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/?week=2011-01-01", "No forecast was published for the week of 2011-01-01"),
        ("/?week=soon", "week is &#39;soon&#39;"),
        ("/explore?store=999", "There is no store 999; there are 1 · Ashford, 2 · Birchwood, 3 · Cedar Hill"),
        ("/heatmap?measure=luck", "measure is &#39;luck&#39;; it is one of wape, bias, coverage"),
        ("/accuracy?horizon=99", "horizon is"),
        ("/explore?above=many", "above is &#39;many&#39;; write a number, such as 500"),
        ("/nowhere", "There is no such page"),
    ],
)
def test_what_is_not_there_is_explained(client: TestClient, address: str, says: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404
    assert says in answer.text


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_nothing_can_be_written(client: TestClient, method: str) -> None:
    for page in ("", "explore", "version"):
        assert client.request(method, f"/{page}").status_code == 405


def test_other_names_are_refused(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_a_page_can_run_only_our_own_script(client: TestClient) -> None:
    for page in PAGES:
        answer = client.get(f"/{page}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)", answer.text)
        assert not re.search(r"\sstyle=|\son\w+=", answer.text)


def test_what_was_asked_cannot_smuggle_markup(client: TestClient) -> None:
    evil = "<script>alert(1)</script>"
    for page in PAGES:
        for name in ("store", "dept", "week", "by", "measure"):
            assert evil not in client.get(f"/{page}", params={name: evil}).text


def test_sql_comes_from_nobody(client: TestClient) -> None:
    for page in PAGES:
        answer = client.get(f"/{page}", params={"store": "1' OR '1'='1", "dept": "1; DROP TABLE forecasts"})
        assert answer.status_code in (200, 404)
    assert client.get("/").status_code == 200


def test_the_review_queue_opens_the_series(client: TestClient) -> None:
    (first, *_) = re.findall(
        r'<a href="(/explore\?[^"]*store=[^"]*)"><span class="named">Store ([\w ·]+), dept (\w+)<', client.get("/").text
    )
    answer = client.get(html.unescape(first[0]))
    assert f"<h1>Store {first[1]}, department {first[2]}" in answer.text


def test_behind_a_proxy_the_links_carry_its_prefix(published: Graph, source: Source) -> None:
    app = build_app(published.platform.settings, source, hosts=("testserver",))
    with TestClient(app, root_path="/forecast") as client:
        found = links(client.get("/forecast/").text)
    assert found
    assert all(link.startswith("/forecast/") for link in found)


def test_an_empty_lake_says_what_to_do(home: object) -> None:
    settings = Settings(**SMALL)
    source = Source(Lake.local(settings.warehouse, settings.quantile_columns))
    with TestClient(build_app(settings, source, hosts=("testserver",))) as client:
        answer = client.get("/")
    assert answer.status_code == 404
    assert "No forecast has been published yet" in answer.text


def test_a_new_week_is_seen_without_a_restart(with_history: Graph) -> None:
    graph, now = with_history, [0.0]
    source = Source(graph.lake, clock=lambda: now[0])
    week = max(graph.lake.read("cleaned_series", columns=["week"])["week"].to_pylist())
    with TestClient(build_app(graph.platform.settings, source, hosts=("testserver",))) as client:
        before = client.get("/version").json()
        assert client.get("/").status_code == 404
        assert graph.week(week).success
        assert client.get("/version").json() == before  # looked up a moment ago
        now[0] += 60
        assert client.get("/version").json() != before
        assert f"forecast made after the week of {week}" in client.get("/").text


def test_dates_are_the_weeks_that_end(client: TestClient, published: Graph) -> None:
    newest = dt.date.fromisoformat(re.findall(r"forecast made after the week of ([\d-]+)", client.get("/").text)[0])
    assert newest.weekday() == published.platform.settings.calendar.day_offset - 1


@pytest.mark.parametrize("page", ["explore", "accuracy", "misses"])
def test_every_choice_offered_can_be_chosen(client: TestClient, page: str) -> None:
    text = client.get(f"/{page}").text
    selects = re.findall(r'<select name="(\w+)">(.*?)</select>', text, re.DOTALL)
    assert {"week", "horizon"} <= {name for name, _ in selects}
    for select in selects:
        values = re.findall(r'<option value="([^"]*)"', select[1])
        assert values
        assert len(values) == len(set(values))
        for value in values:
            assert client.get(f"/{page}", params={select[0]: value}).status_code == 200, (select[0], value)


def test_a_new_state_is_shown_once_what_pages_ask_of_it_is_known(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to open a page after a publication waited for its answers, at a million series for many seconds."""
    monkeypatch.setattr(source_module, "WATCH_SECONDS", 0.05)
    story, settings = Story(lake).week(1), Settings(**SMALL)
    story.told()
    first, goes_on = threading.Event(), threading.Event()

    def prepare(state: Any) -> None:
        ask_ahead(settings, state)
        assert not first.is_set() or goes_on.wait(60)
        first.set()

    source = Source(lake, prepare=prepare)
    before = source.state()
    assert first.wait(60)
    story.week(0).told()
    newest = Source(lake).state().version
    assert source.state().version == before.version != newest
    goes_on.set()
    for _ in range(600):
        if source.state().version == newest:
            break
        time.sleep(0.1)
    state = source.state()
    assert state.version == newest
    asked: list[str] = []
    monkeypatch.setattr(state, "_ask", lambda sql, parameters: asked.append(sql))
    with TestClient(build_app(settings, source, hosts=("testserver",))) as client:
        for page in PAGES:
            assert client.get(f"/{page}").status_code == 200
    assert asked == []


def test_names_are_offered_by_the_page_or_for_what_is_typed_where_there_are_many(lake: Lake) -> None:
    """A page named every store, ten thousand of them."""
    story, many = Story(lake).week(1), [f"s{k}" for k in range(300)]
    story.week(0, stores=many).told()
    with TestClient(build_app(Settings(**SMALL), Source(lake), hosts=("testserver",))) as client:
        text = client.get("/explore").text
        assert 'data-names="/names?of=store"' in text
        assert '<option value="s7">' not in text
        assert '<option value="a">' in text, "of two departments the page has both"
        assert client.get("/names?of=store&like=S29").json() == [
            {"value": key, "label": key} for key in ("s29", *(f"s29{k}" for k in range(10)))
        ]
        assert [one["value"] for one in client.get("/names?of=store&like=99").json()] == ["s199", "s299", "s99"]
        assert len(client.get("/names?of=store").json()) == 12
        assert client.get("/names?of=week").json() == []
        assert client.get("/explore?store=s299").status_code == 200
