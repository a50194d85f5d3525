"""The page of proofs has a row for each command that the pages about AWS give, and the tests that it names are there.

That the commands exist and take their options is held by test_docs_blocks.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
AWS = ROOT / "docs" / "aws"
PROOF = AWS / "proof.md"
PAGES = [ROOT / "docs" / "aws.md", *sorted({*AWS.glob("*.md")} - {PROOF})]


def written(page: Path) -> Iterator[str]:
    """Commands of a page: the lines of its shell blocks, and what stands in code within a sentence."""
    text = page.read_text()
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)).replace("\\\n", " ")
    parts = [part for line in blocks.splitlines() for part in re.split(r";|&&|\|", line.partition("  #")[0])]
    parts += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for part in parts:
        plain = re.sub(r"^\S*/(forecast|python)\b", r"\1", part.strip())
        if re.match(r"(aws \w+|make|docker compose|forecast|python -m) [\w-]", plain):
            yield plain.replace("make -s", "make")


def names(command: str) -> set[str]:
    """By which of these a row may have it: make takes several targets at once."""
    words = command.split()
    if words[0] == "make":
        return {f"make {word}" for word in words[1:]}
    return {" ".join(words[:end]) for end in range(2, len(words) + 1)}


def test_each_command_has_a_row_and_each_row_its_tests() -> None:
    table = PROOF.read_text().partition("## Each documented command")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    rows = {name: line for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    seen = {(page.name, command) for page in PAGES for command in written(page)}
    assert len(seen) > 20
    assert not {(page, command) for page, command in seen if not names(command) & rows.keys()}
    for row in rows.values():
        tests = re.findall(r"`([\w/]+/test_\w+\.py)` `(test_\w+)`", row)
        assert tests or "options alone" in row, row
        for file, test in tests:
            assert f"def {test}(" in (ROOT / "forecast_platform_tests" / file).read_text(), row
