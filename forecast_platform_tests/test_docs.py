"""What README and docs say is so: pages written from the code are of this code, and links, files and names exist."""

from __future__ import annotations

import re

import pytest

from forecast_platform.lake.tables import VIEWS, table_specs
from forecast_platform_tests.reference_pages import DOCS, PAGES

ROOT = DOCS.parent
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_written_from_the_code_is_of_this_code(name: str) -> None:
    told = f"docs/{name} is of other code: python -m forecast_platform_tests.reference_pages"
    assert (DOCS / name).read_text() == PAGES[name](), told


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_link_and_every_file_named_exists() -> None:
    wrong = []
    for page in TEXTS:
        text = page.read_text()
        for link in re.findall(r"\]\((?!https?:|mailto:)([^)#]+)(?:#[^)]*)?\)", text):
            if not (page.parent / link).exists():
                wrong.append(f"{page.name}: {link}")
        if page.name == "CHANGELOG.md":  # which names what is gone
            continue
        for named in re.findall(r"`([a-z_]+(?:/[a-z_0-9]+)+\.py)`", text):
            places = (ROOT, ROOT / "forecast_platform", ROOT / "forecast_platform_tests")
            if not any((place / named).exists() for place in places):
                wrong.append(f"{page.name}: {named}")
    assert not wrong


def test_every_table_is_named_on_the_front_page_or_behind_it() -> None:
    text = "".join(page.read_text() for page in TEXTS)
    assert not [name for name in [*table_specs(("p50",)), *VIEWS] if f"`{name}`" not in text]


def test_candidates_are_all_described() -> None:
    from forecast_platform.models.registry import CANDIDATES

    text = (DOCS / "models.md").read_text()
    assert not [name for name in CANDIDATES if f"`{name}`" not in text]
