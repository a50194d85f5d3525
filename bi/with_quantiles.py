"""The files of this folder with the quantiles of the settings in place of p10 .. p90, and from then on with those.

    FORECAST_QUANTILES=0.05,0.5,0.95 python bi/with_quantiles.py

What was published with other quantiles before is null in the new columns; the old ones stay in the views.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from forecast_platform.settings import Settings

QUANTILE = re.compile(r"p\d{1,2}")


def quicksight(text: str, quantiles: tuple[str, ...]) -> str:
    sets = json.loads(text)
    for made in sets:
        for table in made["PhysicalTableMap"].values():
            relation = table["RelationalTable"]
            relation["InputColumns"] = _columns(relation["InputColumns"], quantiles)
    return json.dumps(sets, indent=1) + "\n"


def _columns(columns: list[dict[str, Any]], quantiles: tuple[str, ...]) -> list[dict[str, Any]]:
    """The columns with these quantiles; a view that has the median alone keeps it."""
    at = [n for n, column in enumerate(columns) if QUANTILE.fullmatch(column["Name"])]
    if len(at) < 2:
        return columns
    new = [{**columns[at[0]], "Name": name} for name in quantiles]
    return [*columns[: at[0]], *new, *columns[at[-1] + 1 :]]


def tableau(text: str, quantiles: tuple[str, ...]) -> str:
    lines = text.splitlines(keepends=True)
    at = [n for n, line in enumerate(lines) if re.search(r"name='\[p\d{1,2}\]'", line)]
    new = [re.sub(r"\[p\d{1,2}\]", f"[{name}]", lines[at[0]]) for name in quantiles]
    return "".join([*lines[: at[0]], *new, *lines[at[-1] + 1 :]])


FILES = {"quicksight/data_sets.json": quicksight, "tableau/forecast_athena.tds": tableau}


def main(folder: Path) -> None:
    for name, write in FILES.items():
        path = folder / name
        path.write_text(write(path.read_text(), Settings().quantile_columns))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
