"""Pictures for the assets' pages: small PNGs inside Markdown metadata, so that a run shows what it did."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import io
from collections.abc import Sequence
from typing import Any

import dagster as dg
import duckdb

from forecast_platform.lake.lake import Lake
from forecast_platform.scores import scores_sql
from forecast_platform.settings import Settings

BLUE, GREY = "#1f6fb4", "#4a4a4a"


def _markdown(figure: Any, alt: str) -> dg.MarkdownMetadataValue:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return dg.MarkdownMetadataValue(f"![{alt}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")


def _axes(title: str) -> tuple[Any, Any]:
    # Figure without pyplot: no global state, safe in any thread, no display needed.
    from matplotlib.figure import Figure

    # Fixed margins: a layout made to fit draws everything twice.
    figure = Figure(figsize=(8, 3))
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.17, top=0.9)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def loss_curve(losses: Sequence[float]) -> dg.MarkdownMetadataValue:
    figure, axes = _axes("training loss by epoch (negative log-likelihood)")
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE)
    axes.set_xlabel("epoch")
    return _markdown(figure, "training loss by epoch")


def total_with_fan(lake: Lake, settings: Settings, week: dt.date) -> dg.MarkdownMetadataValue:
    """The total's sales and its forecast, as the dashboard draws them."""
    from forecast_platform.dashboard.pages import BadView, View, total_fan
    from forecast_platform.dashboard.source import Source

    try:
        with contextlib.closing(Source(lake)) as source:
            fan = total_fan(View(source.state(), settings, {"week": str(week)}))
    except BadView as error:  # every series is closed
        return dg.MarkdownMetadataValue(str(error))
    figure, axes = _axes(f"total sales and forecast from the week of {week}")
    fan.draw(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=5)
    return _markdown(figure, f"total sales and forecast from {week}")


def largest_revisions(con: duckdb.DuckDBPyConnection, week: dt.date) -> dg.MarkdownMetadataValue:
    """The series whose forecast changed most since the run before, over the weeks that both forecast."""
    before = con.execute("SELECT max(forecast_week) FROM forecasts WHERE forecast_week < ?", [week]).fetchone()
    rows = con.execute(
        """SELECT n.store, n.dept, sum(b.p50), sum(n.p50), sum(n.p50 - b.p50) AS change
           FROM forecasts AS n JOIN forecasts AS b USING (level, store, dept, target_week)
           WHERE n.level = 'series' AND n.forecast_week = $week AND b.level = 'series' AND b.forecast_week = $before
           GROUP BY n.store, n.dept ORDER BY abs(change) DESC LIMIT 10""",
        {"week": week, "before": before[0] if before else None},
    ).fetchall()
    return _table(("store", "dept", "run before", "this run", "change"), rows, "no run before this one")


def worst_series(con: duckdb.DuckDBPyConnection, week: dt.date) -> dg.MarkdownMetadataValue:
    """The series furthest off in a week, forecast one week before."""
    rows = con.execute(
        """SELECT store, dept, actual, p50, error FROM forecast_accuracy
           WHERE week = ? AND level = 'series' AND horizon = 1
           ORDER BY abs_error DESC LIMIT 10""",
        [week],
    ).fetchall()
    return _table(("store", "dept", "sold", "forecast", "off by"), rows, "no forecast made one week before")


def coverage_by_horizon(con: duckdb.DuckDBPyConnection, first: dt.date, last: dt.date) -> dg.MarkdownMetadataValue:
    """How many of the sales of these weeks lay inside their interval, by weeks ahead, and how many should:
    forecasts made before the quantiles changed had another interval."""
    found = con.execute(
        f"""SELECT horizon, {scores_sql("coverage", "held")} FROM forecast_accuracy
            WHERE week BETWEEN ? AND ? AND level = 'series' AND in_interval IS NOT NULL
            GROUP BY horizon ORDER BY horizon""",  # noqa: S608 (only our own SQL is composed)
        [first, last],
    ).fetchall()
    if not found:
        return dg.MarkdownMetadataValue("no forecast with an interval")
    horizons, shares, held = zip(*found, strict=True)
    figure, axes = _axes("share of sales inside the published interval, by weeks ahead (dotted: as it should be)")
    axes.bar(horizons, shares, color=BLUE, width=0.7)
    axes.plot(horizons, held, color=GREY, linestyle=":", linewidth=1.5)
    axes.set_ylim(0, 1)
    axes.set_xlabel("weeks ahead")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _markdown(figure, "share of sales inside the interval by weeks ahead")


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]], nothing: str) -> dg.MarkdownMetadataValue:
    """A Markdown table: numbers without decimals, names as they are."""
    if not rows:
        return dg.MarkdownMetadataValue(nothing)
    cells = [[f"{v:,.0f}" if isinstance(v, float) else str(v).replace("|", "\\|") for v in row] for row in rows]
    lines = [names, ["---"] * 2 + ["---:"] * (len(names) - 2), *cells]
    return dg.MarkdownMetadataValue("\n".join(f"| {' | '.join(line)} |" for line in lines))
