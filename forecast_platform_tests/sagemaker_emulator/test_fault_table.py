"""The guide's table of what fails names a test in each row, and the tests are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_row_is_a_test() -> None:
    page = (ROOT / "docs" / "aws" / "faults.md").read_text()

    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what fails")]
    assert len(rows) >= 19
    for row in rows:
        (found,) = re.findall(r"`([\w/]+/test_\w+\.py)` `(test_\w+)` \|$", row)
        assert f"def {found[1]}(" in (ROOT / "forecast_platform_tests" / found[0]).read_text(), row
