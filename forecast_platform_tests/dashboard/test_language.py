"""What a person sees in other languages and currencies, and by the names of stores and departments."""

from __future__ import annotations

import datetime as dt
import gettext
import html
import io
import json
import re
import urllib.parse
import warnings
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from starlette.testclient import TestClient

from forecast_platform.dashboard import rendering
from forecast_platform.dashboard.app import PAGES, build_app
from forecast_platform.dashboard.pages import IN_WORDS, View
from forecast_platform.dashboard.report import fonts_for, give_fonts, weekly_report
from forecast_platform.dashboard.source import Source
from forecast_platform.dashboard.stages import ASSETS
from forecast_platform.lake.lake import Lake
from forecast_platform.models.leaderboard import Leaderboard
from forecast_platform.settings import Settings
from forecast_platform.words import LANGUAGES, Words
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.dashboard.test_app import links
from forecast_platform_tests.dashboard.test_troubles import MONDAY, Story
from forecast_platform_tests.defs.graph import Graph

ADDRESSES = [*PAGES, "explore?store=1&dept=1", "explore?store=2", "?store=2", "accuracy?of=sum&horizon=all",
             "heatmap?measure=bias", "misses?by=series", "leaderboard?measure=coverage", "nowhere", "?store=77",
             "explore?store=1&dept=1&above=500"]  # fmt: skip
NBSP = "\N{NO-BREAK SPACE}"


class Marked(Words):
    """A language in which every text is in brackets: what stands outside of them went past the translation."""

    @property
    def catalog(self) -> gettext.NullTranslations:
        class Brackets(gettext.NullTranslations):
            def gettext(self, message: str) -> str:
                return f"⟦{message}⟧"

            def ngettext(self, one: str, more: str, n: int) -> str:
                return f"⟦{one if n == 1 else more}⟧"

        return Brackets()


class MarkedSettings(Settings):
    @property
    def words(self) -> Words:
        return MARKED


MARKED = Marked("en")


def texts_of(page: str) -> list[str]:
    """Every text that a person sees or hears, of nodes and attributes."""
    page = re.sub(r"<(script|style|pre)\b.*?</\1>|</?b>", "", page, flags=re.S)
    said = re.findall(r'(?:aria-label|title|placeholder|data-more|data-unit)="([^"]*)"', page)
    for chart in re.findall(r'data-chart="([^"]*)"', page):
        data = json.loads(html.unescape(chart))
        said += [part["name"] for part in (*data["lines"], *data["bands"])]
    return [html.unescape(text).strip() for text in (*said, *re.split(r"<[^>]*>", page)) if text.strip()]


def outside(text: str) -> str:
    """What stands in no bracket."""
    while (shorter := re.sub(r"⟦[^⟦⟧]*⟧", " ", text)) != text:
        text = shorter
    return text


def data_of(lake: Lake) -> set[str]:
    """Texts that are data, or made in deeper rooms: whatever the tables hold."""
    found: set[str] = set()
    for name in lake.specs:
        for row in lake.read(name).to_pylist():
            found |= {str(value) for value in row.values() if isinstance(value, str) and value}
    return found


@pytest.mark.parametrize("address", [*ADDRESSES, "the report"])
def test_every_text_of_a_page_can_be_translated(published: Graph, source: Source, address: str) -> None:
    settings = MarkedSettings(**published.platform.settings.model_dump(include=set(SMALL)))
    settings._home = published.platform.settings.home
    if address == "the report":
        page = weekly_report(source.state(), settings, View(source.state(), settings, {}).week).html
    else:
        page = TestClient(build_app(settings, source, hosts=("testserver",))).get(f"/{address}").text
    assert page.count("⟦") > 15
    known = data_of(published.lake) | set(IN_WORDS) | {name.replace("_", " ") for name in ASSETS}
    board = Leaderboard.load(settings.home)
    assert board is not None
    known |= {each.why for each in board.decisions} | {why for _, why, _ in board.unable}
    known |= {Words("en").month(dt.date(2024, month, 1)) for month in range(1, 13)} | {source.state().version}
    own = {"English", "Deutsch", "한국어", "UTC", "WAPE", "wQL", "CSV", "Excel", "Parquet", "dept"}
    known |= own | {key.replace("_", " ") for key in known} | {"Promotion"}
    longest = sorted((text for text in known if re.search(r"[^\W\d_]", text)), key=len, reverse=True)
    lost = []
    for text in texts_of(page):
        left = outside(text)
        for each in longest:
            left = left.replace(each, " ")
        if re.search(r"[^\W\d_]{2,}", left):
            lost.append((text, left))
    assert not lost


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_page_in_another_language_has_that_language_and_keeps_it(
    client: TestClient, language: str, address: str
) -> None:
    joined = f"/{address}{'&' if '?' in address else '?'}lang={language}"
    answer = client.get(joined)
    assert f'<html lang="{language}">' in answer.text
    english = client.get(f"/{address}").text
    assert answer.status_code == client.get(f"/{address}").status_code
    sentences = {text for text in texts_of(english) if len(re.findall(r"[A-Za-z]{2,}", text)) > 3}
    same = sentences & set(texts_of(answer.text))
    # What is the same is data: reasons and messages of deeper rooms.
    assert not [text for text in same if re.search(r"\b(the|forecast|week|weeks|store) (of|after|week|is)\b", text)
                and "served" not in text and "trained" not in text and "seasons" not in text]  # fmt: skip
    own = [x for x in links(answer.text) if "/static/" not in x and "/version" not in x]
    changing = {x for x in own if urllib.parse.urlsplit(x).query.endswith(f"lang={language}") or "lang=" in x}
    # The choice of languages leads away; all other links stay.
    assert len(own) - len(changing) <= 1 + len(re.findall('hreflang="en"', answer.text))
    for form in re.findall(r"<form.*?</form>", answer.text, re.S):
        assert f'<input type="hidden" name="lang" value="{language}">' in form


def test_a_language_that_there_is_not_is_said(client: TestClient) -> None:
    answer = client.get("/?lang=xx")
    assert answer.status_code == 404
    assert "lang is &#39;xx&#39;; it is one of en, de, ko" in answer.text


def german(published: Graph, source: Source, **more: Any) -> TestClient:
    given = published.platform.settings.model_dump(include=set(SMALL))
    settings = Settings(**given, locale="de_DE", money="EUR", **more)
    settings._home = published.platform.settings.home
    return TestClient(build_app(settings, source, hosts=("testserver",)))


def test_the_page_by_value_in_german_and_euro(published: Graph, source: Source) -> None:
    plain = View(source.state(), published.platform.settings, {})
    client = german(published, source)
    page = html.unescape(client.get("/").text).replace(NBSP, " ")
    asked = "SELECT p50 FROM forecasts WHERE level = 'total' AND forecast_week = ? ORDER BY target_week LIMIT 4"
    total = sum(r["p50"] for r in source.state().rows(asked, [plain.week]))
    assert total > 1e6
    shown = f"{total / 1e6:.1f}".replace(".", ",")
    assert f"<dt>Nächste 4 Wochen</dt><dd>{shown} Mio. €<small>" in page
    ended = plain.week
    number = ended.isocalendar()[1]
    assert f"Prognose nach der Woche {ended:%d.%m.%Y} (KW {number})</small>" in page
    assert f"{ended} · KW {number} (neueste)" in page
    assert "Filiale 1 · Ashford, Abt. 1" in page
    (share,) = re.findall(r"<dt>Fehler, 3 Wochen</dt><dd>([^<]*)<", page)
    assert re.fullmatch(r"\d+,\d %", share)
    assert 'data-locale="de-DE"' in page
    # An address in English leads back.
    assert '<html lang="en">' in client.get("/?lang=en").text
    assert 'href="/?lang=en"' in page


def test_files_keep_their_columns_in_every_language(published: Graph, source: Source, client: TestClient) -> None:
    other = german(published, source)
    for address in ("/explore?store=1&dept=1&format=csv", "/?format=csv", "/export?format=csv"):
        assert other.get(address).text.partition("\n")[0] == client.get(address).text.partition("\n")[0]
    assert other.get("/explore?store=1&dept=1&format=csv").text == client.get("/explore?store=1&dept=1&format=csv").text


def test_in_a_workbook_sales_have_their_currency_and_excel_the_separators(published: Graph, source: Source) -> None:
    book = openpyxl.load_workbook(io.BytesIO(german(published, source).get("/explore?store=1&format=xlsx").content))
    head, first, *_ = book.active.iter_rows()  # type: ignore[union-attr]
    formats = {name.value: cell.number_format for name, cell in zip(head, first, strict=True)}
    assert re.fullmatch(r"#,##0(\.0+)? \[\$€\]", formats["p50"])
    assert "€" not in formats["horizon"]
    whole = openpyxl.load_workbook(io.BytesIO(german(published, source).get("/export?format=xlsx").content))
    head, first, *_ = whole["total"].iter_rows()
    formats = {name.value: cell.number_format for name, cell in zip(head, first, strict=True)}
    assert "[$€]" in formats["plan"]


def named(lake: Lake, stores: dict[str, str], depts: dict[str, str]) -> None:
    import pyarrow as pa
    from pyiceberg.expressions import AlwaysTrue

    for table, key, given in (("stores", "store", stores), ("departments", "dept", depts)):
        schema = lake.specs[table].schema
        rows = [{key: k, "name": "name", "value": v, "source_key": "s", "line": n, "landed_at": MONDAY}
                for n, (k, v) in enumerate(given.items())]  # fmt: skip
        rows += [{**row, "name": "region", "value": "Süd <b>"} for row in rows]
        lake.replace(table, AlwaysTrue(), pa.Table.from_pylist(rows, schema=schema))


def test_names_are_data_of_any_script_and_keys_tell_them_apart(lake: Lake) -> None:
    evil = '<script>alert("강남")</script>'
    named(lake, {"1": evil, "2": "강남", "3": "강남", "4": "x" * 300}, {"a": "Käse & Wurst"})
    Story(lake).week(1).week(0).told()
    with TestClient(build_app(Settings(**SMALL), Source(lake), hosts=("testserver",))) as client:
        page = client.get("/explore?store=1&dept=a").text
        assert "<script>alert" not in page
        assert html.escape(f"Store 1 · {evil}").replace("&quot;", "&#34;") in page
        assert "department a · Käse &amp; Wurst" in page
        assert '<p class="attributes">region: Süd &lt;b&gt;, Süd &lt;b&gt;</p>' in page
        offered = client.get("/explore").text
        assert '<option value="2" label="2 · 강남"><option value="3" label="3 · 강남">' in offered
        assert client.get("/names?of=store&like=강").json() == [
            {"value": key, "label": f"{key} · {name}"} for key, name in (("1", evil), ("2", "강남"), ("3", "강남"))
        ]
        # Somebody types the name where a key belongs.
        assert "there are 1 · " in client.get("/explore?store=강남").text
        assert "2 · 강남, 3 · 강남" in client.get("/explore?store=강남").text


def test_a_store_that_is_missing_is_called_by_its_name(lake: Lake) -> None:
    named(lake, {"9": "강남"}, {})
    story = Story(lake).week(4).week(3).week(2).week(1)
    (only,) = story.week(0, stores=tuple("12345678")).told().troubles
    assert "Nothing came from store 9 · 강남." in only.text


def font(path: Path, signs: str) -> str:
    """A font that has a square for each of some signs."""
    pen = TTGlyphPen(None)
    for k, point in enumerate(((100, 0), (100, 700), (600, 700), (600, 0))):
        (pen.lineTo if k else pen.moveTo)(point)
    pen.closePath()
    names = [".notdef", *(f"u{ord(sign)}" for sign in signs)]
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(sign): f"u{ord(sign)}" for sign in signs})
    made.setupGlyf(dict.fromkeys(names, pen.glyph()))
    made.setupHorizontalMetrics(dict.fromkeys(names, (700, 100)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(path)
    return str(path)


def test_labels_of_axes_have_those_fonts_too(tmp_path: Path) -> None:
    """They are made anew whenever a figure is drawn, and had boxes."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1f}가")
    families, lacking = fonts_for({"가"}, [font(tmp_path / "Labels.ttf", "가")])
    assert not lacking
    give_fonts(figure, families)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")


def test_a_picture_is_drawn_with_fonts_that_have_its_signs(tmp_path: Path) -> None:
    korean, other = font(tmp_path / "Squares.ttf", "강남예측"), font(tmp_path / "Other.ttf", "강")
    assert fonts_for(set("Sales ü €"), [korean]) == (["DejaVu Sans"], set())
    assert fonts_for(set("a강남"), [other, korean]) == (["DejaVu Sans", "Squares"], set())
    assert fonts_for(set("a강남힣"), [other, korean]) == (["DejaVu Sans", "Squares"], {"힣"})
    assert fonts_for(set("강"), [str(tmp_path / "none.ttf")]) == (["DejaVu Sans"], {"강"})


@pytest.mark.parametrize("locale", ["ko_KR", "de_DE"])
def test_the_report_is_in_the_language_and_its_picture_never_has_boxes(
    published: Graph, source: Source, locale: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    settings = Settings(**published.platform.settings.model_dump(include=set(SMALL)), locale=locale, money="KRW")
    settings._home = published.platform.settings.home
    week = View(source.state(), settings, {}).week
    report = weekly_report(source.state(), settings, week)
    assert settings.words.gettext("Review first") in report.html
    assert f'<html lang="{locale[:2]}">' in report.html
    assert "₩" in report.summary
    assert report.png.startswith(b"\x89PNG")
    assert not [w for w in recwarn if "missing from font" in str(w.message)]
    _, lacking = fonts_for(set("예측"))
    assert ("in English" in caplog.text) == (locale == "ko_KR" and bool(lacking))


def test_templates_are_made_once_a_language(client: TestClient) -> None:
    client.get("/?lang=de")
    before = rendering.environment.cache_info().misses
    client.get("/explore?lang=de")
    client.get("/?lang=de")
    assert rendering.environment.cache_info().misses == before
