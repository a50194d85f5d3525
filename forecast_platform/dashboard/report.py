"""The week on one page, to be mailed or printed: HTML that needs nothing beside it, and the same page as a PNG for mail
programs that show no drawings."""

from __future__ import annotations

import datetime as dt
import io
import logging
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecast_platform.dashboard import questions as ask
from forecast_platform.dashboard.names import Names
from forecast_platform.dashboard.pages import View, misses, this_week, total_fan
from forecast_platform.dashboard.questions import Scope, State
from forecast_platform.dashboard.recorded import recorded
from forecast_platform.dashboard.rendering import environment, sentence
from forecast_platform.settings import Settings
from forecast_platform.words import NONE, SOURCE, Words

logger = logging.getLogger(__name__)

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
    """The report of a published week, in the setting's language.

    Raises:
        BadView: no forecast was published for the week.
    """
    view = View(state, settings, {"week": str(week)})
    context = _context(view)
    html = (
        environment(view.words)
        .get_template("report.html")
        .render(words=view.words, style=(HERE / "static" / "style.css").read_text(), columns=view.columns, **context)
    )
    return WeekPage(week, context["summary"], html, _picture(view, context))


def _context(view: View) -> dict[str, Any]:
    facts = this_week(view)
    against, words, _ = facts["next_against_last_year"], view.words, view.words.gettext
    values = {"week": words.week(view.week), "weeks": words.weeks(facts["next_count"]),
              "sum": words.short_cash(facts["next_total"])}  # fmt: skip
    summary = (
        _("Forecast after the week of %(week)s: next %(weeks)s %(sum)s, %(change)s on last year",
          change=against.told(words), **values)
        if against
        else _("Forecast after the week of %(week)s: next %(weeks)s %(sum)s", **values)
    )  # fmt: skip
    worst = misses(view)["rows"][:LISTED]
    context = {**facts, "view": view, "worst": worst, "summary": summary, "queue": facts["queue"][:LISTED]}
    if view.week != view.weeks[0]:
        context["findings"] = None  # a report may be of a week long past, which what is wrong now does not concern
    return context


def _picture(view: View, context: dict[str, Any]) -> bytes:
    """The page as PNG. Fonts draw it, which a machine may lack: then it is in English, then without names, and what is
    left has question marks. It never has boxes."""
    figure = _draw(view, context)
    lacking = _find_fonts(figure)
    for more in ({"lang": SOURCE}, {"names": ""}):
        if not lacking:
            break
        logger.warning(
            "no font of this machine has %s: the report's PNG is %s; install one, such as Noto Sans CJK",
            "".join(sorted(lacking)[:10]), "in English" if "lang" in more else "without names",
        )  # fmt: skip
        view = View(view.state, view.settings, {"week": str(view.week), "lang": SOURCE})
        if "names" in more:
            view.names = Names(view.words, {"store": {}, "dept": {}})
        figure = _draw(view, _context(view))
        lacking = _find_fonts(figure)
    for text in _texts(figure):
        text.set_text("".join("?" if sign in lacking else sign for sign in text.get_text()))
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})  # equal weeks give equal bytes
    return out.getvalue()


def _texts(figure: Any) -> list[Any]:
    from matplotlib.text import Text

    figure.canvas.draw()  # labels of axes are made when they are drawn
    return [text for text in figure.findobj(Text) if text.get_text()]


def _find_fonts(figure: Any) -> set[str]:
    """Give the texts of a figure fonts that have all their signs, as far as there are such; the signs left over."""
    families, lacking = fonts_for({sign for text in _texts(figure) for sign in text.get_text() if sign != "\n"})
    give_fonts(figure, families)
    return lacking


def give_fonts(figure: Any, families: Sequence[str]) -> None:
    """Have all texts of a figure drawn in the first of the families that has their signs."""
    for text in _texts(figure):
        text.set_fontfamily(families)
    for axes in figure.axes:
        axes.tick_params(labelfontfamily=families)  # their labels are made anew at each drawing


def fonts_for(signs: set[str], files: Sequence[str] | None = None) -> tuple[list[str], set[str]]:
    """Families that have the signs together, matplotlib's own first, and the signs that none has.

    Args:
        files: fonts to choose from; None: those of the machine.
    """
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    def had(file: str) -> tuple[set[str], str]:
        """Of what is lacking, and the font's family."""
        try:
            font = FT2Font(file)
        except (OSError, RuntimeError):  # nothing that can be drawn with
            return set(), ""
        known = font.get_charmap()
        return {sign for sign in lacking if ord(sign) in known}, font.family_name

    families, lacking = ["DejaVu Sans"], set(signs)
    lacking -= had(font_manager.findfont(families[0]))[0]
    files = font_manager.findSystemFonts() if lacking and files is None else files
    while lacking and files:
        offered = {file: had(file) for file in sorted(files)}
        found, family = max(offered.values(), key=lambda font: len(font[0]))
        if not found:
            break
        for file in (file for file in offered if offered[file][1] == family):  # its bold face, too
            font_manager.fontManager.addfont(file)
        families.append(family)
        lacking -= found
    return families, lacking


def _draw(view: View, context: dict[str, Any]) -> Any:
    """A portrait page of 1240 x 1754 pixels."""
    # Figure without pyplot: no global state, no display needed.
    from matplotlib.figure import Figure

    words, _ = view.words, view.words.gettext
    figure = Figure(figsize=(8.27, 11.69), dpi=150)
    figure.text(0.06, 0.965, _("Sales forecast"), fontsize=20, weight="bold", color=INK)
    figure.text(0.06, 0.945, context["summary"], fontsize=10.5, color=QUIET)
    serious = [t.text for t in context["findings"].troubles if t.serious] if context["findings"] else []
    if serious:
        text = textwrap.shorten(_("First: %(text)s", text=serious[0]), 150, placeholder=" ...")
        if len(serious) > 1:
            text += " " + _("And %(count)s more.", count=words.number(len(serious) - 1))
        figure.text(0.36, 0.992, "\n".join(textwrap.wrap(text, 88)), fontsize=7.5, color=RED, va="top", weight="bold")
    for n, (label, value, note) in enumerate(_tiles(view, context)):
        x = 0.06 + 0.225 * n
        figure.text(x, 0.918, label, fontsize=8.5, color=QUIET)
        figure.text(x, 0.895, value, fontsize=16, weight="bold", color=INK)
        figure.text(x, 0.88, "\n".join(textwrap.wrap(note, 34)), fontsize=8, color=QUIET, va="top")
    _draw_total(figure.add_axes((0.1, 0.63, 0.84, 0.2)), view)
    _draw_error(figure.add_axes((0.1, 0.43, 0.84, 0.13)), view)
    _list(figure, 0.375, _("Review first, by the money at stake a week"), (0.06, 0.38, 0.40), [
        (textwrap.shorten(view.row_name(r, "series"), 44, placeholder=" ..."), words.cash(r["money"]), _why(words, r))
        for r in context["queue"]
    ])  # fmt: skip
    model = context["model"]
    about = _("Model %(version)s.", version=model.get("version", NONE))
    about += f" {recorded(words, model.get('why', ''))}"
    figure.text(0.06, 0.018, "\n".join(textwrap.wrap(about, 130)[:3]), fontsize=7,
                color=QUIET)  # fmt: skip
    return figure


def _tiles(view: View, context: dict[str, Any]) -> list[tuple[str, str, str]]:
    words, _ = view.words, view.words.gettext
    recent, published, before = context["recent"], context["published"], context["next_against_previous"]
    scored = words.weeks(recent["weeks"])
    without = words.ngettext(
        "%(count)s has a reason instead", "%(count)s have a reason instead", published["without"],
        count=words.number(published["without"]),
    )  # fmt: skip
    return [
        (_("Next %(weeks)s", weeks=words.weeks(context["next_count"])), words.short_cash(context["next_total"]),
         _("%(change)s since the run before", change=before.told(words)) if before else _("no run before")),
        (_("Error, %(weeks)s", weeks=scored), words.percent(recent["wape"]),
         _("52 weeks before %(share)s", share=words.percent(recent["naive_wape"]))),
        (_("Inside the interval"), words.percent(recent["coverage"], 0),
         _("of %(num)s, %(weeks)s", num=words.number(recent["forecasts"]), weeks=scored)),
        (_("Series forecast"), words.number(published["series"]), without),
    ]  # fmt: skip


def _draw_total(axes: Any, view: View) -> None:
    _ = view.words.gettext
    title = view.in_money(_("%(scope)s: sales and forecast", scope=sentence(view.names.scope(Scope()))))
    axes.set_title(title, loc="left", fontsize=10, weight="bold", color=INK)
    total_fan(view).draw(axes)
    _plain(axes, view.words.short, view.words)


def _draw_error(axes: Any, view: View) -> None:
    words, _ = view.words, view.words.gettext
    by_week = ask.scores(view.state, Scope(), view.week, 1, 26)
    axes.set_title(_("Error of every series, one week ahead (WAPE)"), loc="left", fontsize=10, weight="bold", color=INK)
    for name, label, style in (
        ("wape", _("forecast"), (BLUE, "--")),
        ("naive_wape", _("52 weeks before"), (GREY, ":")),
    ):
        axes.plot([r["week"] for r in by_week], [r[name] for r in by_week], color=style[0], linestyle=style[1],
                  marker="." if len(by_week) < 4 else "", label=label)  # fmt: skip
    axes.set_ylim(bottom=0)
    _plain(axes, lambda v: words.percent(v, 0), words)
    if len(by_week) < 4:  # too few for a choice of ticks
        axes.set_xticks([r["week"] for r in by_week], [words.week_key(r["week"]) for r in by_week])


def _plain(axes: Any, form: Any, words: Words) -> None:
    from matplotlib.dates import MonthLocator, num2date

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.yaxis.set_major_formatter(lambda v, _: form(v))
    first, last = (num2date(v) for v in axes.get_xlim())  # type: ignore[no-untyped-call]
    months = (last.year - first.year) * 12 + last.month - first.month + 1
    every = next(k for k in (1, 2, 3, 6, 12) if months / k <= 9 or k == 12)
    axes.xaxis.set_major_locator(MonthLocator(range(1, 13, every)))  # type: ignore[no-untyped-call]

    def label(value: float, position: int | None) -> str:
        day = num2date(value).date()  # type: ignore[no-untyped-call]
        return words.month(day, year=position == 0 or day.month == 1)

    axes.xaxis.set_major_formatter(label)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))


def _list(figure: Any, top: float, title: str, columns: Sequence[float], rows: Sequence[Sequence[str]]) -> None:
    figure.text(0.06, top, title, fontsize=10, weight="bold", color=INK)
    for n, row in enumerate(rows):
        y = top - 0.028 * (n + 1)
        for column, text in enumerate(row):
            side = "right" if column == 1 else "left"
            figure.text(columns[column], y, text, fontsize=8.5, color=INK, ha=side)


def _why(words: Words, row: dict[str, Any]) -> str:
    parts, _ = [], words.gettext
    if row["miss"]:
        parts.append(_("sold %(sold)s, forecast %(forecast)s", sold=words.cash(row["actual"]),
                       forecast=words.cash(row["forecast"])))  # fmt: skip
    if row["bias"]:
        share = words.percent(row["bias_share"], 0, True)
        high = row["mean_error"] > 0
        parts.append(_("runs high (%(share)s)", share=share) if high else _("runs low (%(share)s)", share=share))
    if row["change"]:
        parts.append(_("changed %(money)s a week", money=words.signed_cash(row["change"])))
    return "; ".join(parts)
