"""docs/settings.md and docs/tables.md, written from the code: python -m forecast_platform_tests.reference_pages"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from forecast_platform import settings as module
from forecast_platform.lake.tables import VIEWS, about_column, table_specs
from forecast_platform.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
ABOUT_VIEWS = {
    "latest_forecast": "the forecasts of the newest week",
    "latest_lead_time_demand": "the newest forecasts of the next weeks added up",
    "forecast_revisions": "each forecast beside the run before it of the same target week",
    "forecast_accuracy_by_department": "error, bias and coverage by week, weeks ahead and department",
    "store_closures": "weeks in which a whole store was closed, and after which it opened again",
    "forecast_with_overrides": "the newest forecasts with people's figures, and the plan that follows at every level",
    "open_failures": "failed runs that nothing has mended since",
}


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Each is `FORECAST_<NAME>` in the environment, or `name = value` in `$FORECAST_HOME/settings.toml`; the "
        "environment wins. Unknown names are errors that say the nearest one. From `forecast_platform/settings.py`.",
    ]
    source = Path(module.__file__).read_text().splitlines()
    titles = {n: line.strip(" #") for n, line in enumerate(source) if re.match(r"    # [A-Z]", line)}
    at = {m[1]: n for n, line in enumerate(source) if (m := re.match(r"    (\w+): ", line))}
    shown = None
    for name, field in Settings.model_fields.items():
        title = max((n for n in titles if n < at[name]), default=None)
        if title != shown or (shown is None and len(lines) == 3):
            heading = titles[title].split(". ")[0].rstrip(".") if title is not None else "Where"
            lines += ["", f"## {heading}", "", "| setting | default | |", "|---|---|---|"]
            shown = title
        lines.append(f"| `{name}` | {_default(field)} | {_cell(field.description or '')}{_choices(field)} |")
    return "\n".join(lines) + "\n"


def _default(field: Any) -> str:
    value = field.default_factory() if field.default_factory else field.default
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, SecretStr) or value in ("", (), {}, None):
        return ""
    return f"`{_cell(str(value))}`"


def _choices(field: Any) -> str:
    if typing.get_origin(field.annotation) is not Literal:
        return ""
    found = [f"`{value}`" for value in typing.get_args(field.annotation) if value]
    return f" ({', '.join(found)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def tables_page() -> str:
    lines = [
        "# Tables",
        "",
        "Iceberg tables of the lake, for `forecast query` and every engine that reads Iceberg. Written from "
        "`forecast_platform/lake/tables.py`; the quantiles are those of the setting `quantiles`.",
    ]
    for spec in table_specs(("p10", "p50", "p90")).values():
        by = f" Partitioned by `{spec.partition}`." if spec.partition else ""
        key = ", ".join(f"`{name}`" for name in spec.key)
        lines += ["", f"## `{spec.name}`", "", f"{spec.about}. One row for each {key}.{by}", ""]
        lines += ["| column | type | |", "|---|---|---|"]
        lines += [f"| `{f.name}` | {_type(f.type)} | {_cell(about_column(spec.name, f.name))} |" for f in spec.schema]
    lines += ["", "## Views", "", "| view | |", "|---|---|"]
    lines += [f"| `{name}` | {ABOUT_VIEWS[name]} |" for name in VIEWS]
    return "\n".join(lines) + "\n"


def _type(kind: Any) -> str:
    return {"date32[day]": "date", "string": "text", "timestamp[us, tz=UTC]": "time"}.get(str(kind), str(kind))


PAGES = {"settings.md": settings_page, "tables.md": tables_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
