"""The week on one page, to be mailed or printed: HTML that needs nothing beside it, and the same page as a PNG for mail
programs that show no drawings."""

from __future__ import annotations

import datetime as dt
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecast_platform.dashboard import questions as ask
from forecast_platform.dashboard.charts import short
from forecast_platform.dashboard.pages import View, misses, this_week, total_fan
from forecast_platform.dashboard.questions import Scope, State
from forecast_platform.dashboard.rendering import change, environment, number, percent, signed, weeks
from forecast_platform.settings import Settings

HERE = Path(__file__).parent
LISTED = 10
INK, QUIET, BLUE, GREY, RED = "#16202c", "#516072", "#0067b1", "#6b7684", "#b3261e"


@dataclass(frozen=True)
class WeekPage:
    """One week's page. `summary` is its first line, for the subject of a mail."""

    week: dt.date
    summary: str
    html: str
    png: bytes


def weekly_report(state: State, settings: Settings, week: dt.date) -> WeekPage:
    """The report of a published week.

    Raises:
        BadView: no forecast was published for the week.
    """
    view = View(state, settings, {"week": str(week)})
    facts = this_week(view)
    worst = misses(view)["rows"][:LISTED]
    by_week = ask.scores(state, Scope(), week, 1, 26)
    against = facts["next_against_last_year"]
    summary = f"Forecast after the week of {week}: next {weeks(facts['next_count'])} {short(facts['next_total'])}" + (
        f", {change(against)} on last year" if against else ""
    )
    context = {**facts, "view": view, "worst": worst, "summary": summary, "queue": facts["queue"][:LISTED]}
    if week != view.weeks[0]:
        context["findings"] = None  # a report may be of a week long past, which what is wrong now does not concern
    html = (
        environment()
        .get_template("report.html")
        .render(style=(HERE / "static" / "style.css").read_text(), columns=view.columns, **context)
    )
    return WeekPage(week, summary, html, _png(view, context, by_week))


def _png(view: View, context: dict[str, Any], by_week: ask.Rows) -> bytes:
    """A portrait page of 1240 x 1754 pixels."""
    # Figure without pyplot: no global state, no display needed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.27, 11.69), dpi=150)
    figure.text(0.06, 0.965, "Sales forecast", fontsize=20, weight="bold", color=INK)
    figure.text(0.06, 0.945, context["summary"], fontsize=10.5, color=QUIET)
    serious = [t.text for t in context["findings"].troubles if t.serious] if context["findings"] else []
    if serious:
        more = f" And {len(serious) - 1} more." if len(serious) > 1 else ""
        text = textwrap.shorten(f"First: {serious[0]}", 150, placeholder=" ...") + more
        figure.text(0.36, 0.992, "\n".join(textwrap.wrap(text, 88)), fontsize=7.5, color=RED, va="top", weight="bold")
    for n, (label, value, note) in enumerate(_tiles(context)):
        x = 0.06 + 0.225 * n
        figure.text(x, 0.918, label, fontsize=8.5, color=QUIET)
        figure.text(x, 0.895, value, fontsize=16, weight="bold", color=INK)
        figure.text(x, 0.88, note, fontsize=8, color=QUIET)
    _draw_total(figure.add_axes((0.1, 0.63, 0.84, 0.21)), view)
    _draw_error(figure.add_axes((0.1, 0.43, 0.84, 0.13)), by_week)
    _list(figure, 0.375, "Review first, by the money at stake a week", (0.06, 0.32, 0.40), [
        (f"Store {r['store']}, dept {r['dept']}", number(r["money"]), _why(r)) for r in context["queue"]
    ])  # fmt: skip
    model = f"Model {context['model'].get('version', '–')}. {context['model'].get('why', '')}"
    figure.text(0.06, 0.018, "\n".join(textwrap.wrap(model, 130)[:3]), fontsize=7, color=QUIET)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})  # equal weeks give equal bytes
    return out.getvalue()


def _tiles(context: dict[str, Any]) -> list[tuple[str, str, str]]:
    recent, published, before = context["recent"], context["published"], context["next_against_previous"]
    has = "has" if published["without"] == 1 else "have"
    naive, scored = recent["naive_wape"], weeks(recent["weeks"])
    return [
        (f"Next {weeks(context['next_count'])}", short(context["next_total"]),
         f"{change(before)} since the run before" if before else "no run before"),
        (f"Error, {scored}", percent(recent["wape"]), f"52 weeks before {percent(naive)}"),
        ("Inside the interval", percent(recent["coverage"], 0), f"of {number(recent['forecasts'])}, {scored}"),
        ("Series forecast", number(published["series"]), f"{number(published['without'])} {has} a reason instead"),
    ]  # fmt: skip


def _draw_total(axes: Any, view: View) -> None:
    axes.set_title("All stores: sales and forecast", loc="left", fontsize=10, weight="bold", color=INK)
    total_fan(view).draw(axes)
    _plain(axes, short)


def _draw_error(axes: Any, by_week: ask.Rows) -> None:
    axes.set_title("Error of every series, one week ahead (WAPE)", loc="left", fontsize=10, weight="bold", color=INK)
    for name, label, style in (("wape", "forecast", (BLUE, "--")), ("naive_wape", "52 weeks before", (GREY, ":"))):
        axes.plot([r["week"] for r in by_week], [r[name] for r in by_week], color=style[0], linestyle=style[1],
                  marker="." if len(by_week) < 4 else "", label=label)  # fmt: skip
    axes.set_ylim(bottom=0)
    _plain(axes, lambda v: f"{v:.0%}")
    if len(by_week) < 4:  # too few for a choice of ticks
        axes.set_xticks([r["week"] for r in by_week], [str(r["week"]) for r in by_week])


def _plain(axes: Any, form: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.yaxis.set_major_formatter(lambda v, _: form(v))
    locator = AutoDateLocator(maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))


def _list(figure: Any, top: float, title: str, columns: Sequence[float], rows: Sequence[Sequence[str]]) -> None:
    figure.text(0.06, top, title, fontsize=10, weight="bold", color=INK)
    for n, row in enumerate(rows):
        y = top - 0.028 * (n + 1)
        for column, text in enumerate(row):
            side = "right" if column == 1 else "left"
            figure.text(columns[column], y, text, fontsize=8.5, color=INK, ha=side)


def _why(row: dict[str, Any]) -> str:
    parts = []
    if row["miss"]:
        parts.append(f"sold {number(row['actual'])}, forecast {number(row['forecast'])}")
    if row["bias"]:
        parts.append(f"runs {'high' if row['mean_error'] > 0 else 'low'} ({percent(row['bias_share'], 0, True)})")
    if row["change"]:
        parts.append(f"changed {signed(row['change'])} a week")
    return "; ".join(parts)
