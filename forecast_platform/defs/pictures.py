"""Pictures for the assets' pages: small PNGs inside Markdown metadata, so that a run shows what it did."""

from __future__ import annotations

import base64
import datetime as dt
import io
from collections.abc import Sequence
from typing import Any

import dagster as dg
import duckdb

BLUE, GREY = "#1f6fb4", "#4a4a4a"


def _markdown(figure: Any, alt: str) -> dg.MarkdownMetadataValue:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return dg.MarkdownMetadataValue(f"![{alt}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")


def _axes(title: str) -> tuple[Any, Any]:
    # Figure without pyplot: no global state, safe in any thread, no display needed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
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


def total_with_fan(
    con: duckdb.DuckDBPyConnection, week: dt.date, columns: Sequence[str], years: float = 2
) -> dg.MarkdownMetadataValue:
    """History of the total and its forecast: p50 with the outermost quantiles as a fan."""
    low, high = columns[0], columns[-1]
    past = con.execute(
        "SELECT week, sum(sales) FROM cleaned_series WHERE observed AND week <= ? AND week > ? "
        "GROUP BY week ORDER BY week",
        [week, week - dt.timedelta(weeks=52 * years)],
    ).fetchall()
    ahead = con.execute(
        f"""SELECT target_week, p50, {low}, {high} FROM forecasts
            WHERE forecast_week = ? AND level = 'total' ORDER BY target_week""",  # noqa: S608 (column names are ours)
        [week],
    ).fetchall()
    figure, axes = _axes(f"total sales and forecast from the week of {week} ({low} to {high})")
    axes.plot(*zip(*past, strict=True), color=GREY, linewidth=1.2, label="sales")
    if ahead:
        weeks, p50, lower, upper = zip(*ahead, strict=True)
        axes.fill_between(weeks, lower, upper, color=BLUE, alpha=0.25, linewidth=0)
        axes.plot([past[-1][0], *weeks], [past[-1][1], *p50], color=BLUE, linewidth=1.6, linestyle="--", label="p50")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1e6:,.1f}M" if abs(value) >= 1e5 else f"{value:,.0f}")
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return _markdown(figure, f"total sales and forecast from {week}")
