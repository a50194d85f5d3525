"""Charts as SVG text. Every chart has a title and a description for those who hear it, its points as JSON for the
pointer, and all it draws as a table under it; colours are classes, so the style sheet decides (light, dark, print).
Shapes differ as well as colours."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from forecast_platform.words import PLAIN, Words

WIDTH, NARROW = 960, 400
# Where no style sheet reaches: colour, dashes and width of a line by its style.
BLUE = "#0067b1"
INKS = {
    "actual": ("#16202c", "-", 1.2),
    "forecast": (BLUE, "--", 1.6),
    "previous": ("#6b7684", ":", 1.2),
    "override": ("#a34700", "-.", 1.2),
}
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 34
Number = float | None
Place = Callable[[float], float]  # of a value or position on the picture


@dataclass(frozen=True)
class Line:
    """One line over the chart's x positions. style: a class of the style sheet: actual, forecast, previous, naive."""

    name: str
    style: str
    values: Sequence[Number]


@dataclass(frozen=True)
class Band:
    """An area between two lines, such as an interval. ends: what its two lines are called in a table."""

    name: str
    style: str
    low: Sequence[Number]
    high: Sequence[Number]
    ends: tuple[str, str]


@dataclass(frozen=True)
class Mark:
    """A named x position: a holiday.

    Attributes:
        lined_up: whether last year's weeks are lined up by it; drawn lighter where not.
    """

    position: int
    name: str
    lined_up: bool = True


@dataclass(frozen=True)
class Fan:
    """What the picture of a forecast shows, on whatever it is drawn: sales, the forecast, its intervals, holidays."""

    weeks: Sequence[dt.date] = ()
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()

    def svg(self, title: str, words: Words) -> str:
        return time_chart(title, self.weeks, self.lines, self.bands, self.marks, from_zero=True, words=words)

    def draw(self, axes: Any) -> None:
        """The same on axes of matplotlib, for pictures in mails and runs."""
        for k, band in enumerate(self.bands):
            axes.fill_between(*_known(self.weeks, band.low, band.high), color=BLUE, alpha=0.2 + 0.1 * k, linewidth=0,
                              label=band.name)  # fmt: skip
        for line in self.lines:
            color, dashes, width = INKS[line.style]
            axes.plot(*_known(self.weeks, line.values), color=color, linestyle=dashes, linewidth=width, label=line.name)
        axes.set_ylim(bottom=min(0, *axes.get_ylim()))


def _known(weeks: Sequence[dt.date], *columns: Sequence[Number]) -> list[list[Any]]:
    """Weeks and values for matplotlib: NaN where a column has none, which breaks its line."""
    return [list(weeks), *([math.nan if v is None else v for v in column] for column in columns)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span low .. high."""
    span = (high - low) or abs(high) or 1.0
    raw = span / max(count, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.floor(low / step)
    last = math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


@dataclass(frozen=True)
class Frame:
    """Where a chart's values lie on the picture. Every chart is drawn in two, and the style sheet shows one of them: a
    wide picture shrunk to a phone's width could not be read."""

    name: str
    width: int
    height: int
    low: float
    high: float
    count: int  # of positions from left to right
    most_ticks: int = 12

    @property
    def right(self) -> float:
        return self.width - _RIGHT

    @property
    def bottom(self) -> float:
        return self.height - _BOTTOM

    def x(self, position: float) -> float:
        return _LEFT + (self.right - _LEFT) * position / max(self.count - 1, 1)

    def y(self, value: float) -> float:
        return _TOP + (self.bottom - _TOP) * (1 - (value - self.low) / ((self.high - self.low) or 1))


def _frames(height: int, steps: Sequence[float], count: int) -> tuple[Frame, Frame]:
    low, high = steps[0], steps[-1]
    return (
        Frame("wide", WIDTH, height, low, high, count),
        Frame("narrow", NARROW, round(height * 0.8), low, high, count, most_ticks=4),
    )


def time_chart(
    title: str,
    weeks: Sequence[dt.date],
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    marks: Sequence[Mark] = (),
    height: int = 320,
    from_zero: bool = False,
    percent: bool = False,
    span: tuple[float, float] | None = None,
    table: bool = True,
    words: Words = PLAIN,
) -> str:
    """Lines over weeks, and a table of all that is drawn. Values are None where a line has none.

    Args:
        span: lowest and highest value of the axis; None: as the values need it.
        table: False where the page has a table of the same and more under the chart.
    """
    shown = [v for part in lines for v in part.values if v is not None]
    shown += [v for band in bands for part in (band.low, band.high) for v in part if v is not None]
    if not shown or not weeks:
        return _empty(title, words)
    low = min(shown)
    steps = ticks(*span) if span else ticks(min(low, 0) if from_zero or low < 0 else low, max(shown))
    about = words.gettext(
        "%(title)s, %(first)s to %(last)s: %(lines)s",
        title=title, first=words.week(weeks[0]), last=words.week(weeks[-1]), lines=", ".join(p.name for p in lines),
    )  # fmt: skip
    pictures = []
    for frame in _frames(height, steps, len(weeks)):
        drawn = [*_value_axis(frame, steps, percent, words), *_week_ticks(frame, weeks, words)]
        drawn += [_mark(frame, mark) for mark in marks]
        drawn += [_band(frame, band) for band in bands]
        drawn += [_line(frame, line) for line in lines]
        pictures.append(
            f'<svg class="{frame.name}" viewBox="0 0 {frame.width} {frame.height}" role="img" '
            f'aria-label="{escape(about)}" data-left="{_LEFT}" data-right="{frame.right}">{"".join(drawn)}'
            f'<line class="pointer" y1="{_TOP}" y2="{frame.bottom}"/></svg>'
        )
    points = json.dumps(
        {
            "weeks": [words.week_key(w) for w in weeks],
            "lines": [{"name": p.name, "style": p.style, "values": _rounded(p.values)} for p in lines],
            "bands": [
                {"name": b.name, "style": b.style, "low": _rounded(b.low), "high": _rounded(b.high)} for b in bands
            ],
            "marks": {str(m.position): m.name for m in marks},
            "percent": percent,
        },
        separators=(",", ":"),
    )
    legend = "".join(_key(p.name, p.style) for p in lines) + "".join(_key(b.name, f"band {b.style}") for b in bands)
    if any(mark.lined_up for mark in marks):
        legend += _key(words.gettext("holiday"), "holiday")
    if not all(mark.lined_up for mark in marks):
        legend += _key(words.gettext("holiday, not lined up"), "holiday light")
    return (
        f'<figure class="chart" data-chart="{escape(points)}">'
        f'<figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>{"".join(pictures)}</figure>'
        + (_week_table(title, weeks, lines, bands, marks, percent, words) if table else "")
    )


def _week_table(
    title: str,
    weeks: Sequence[dt.date],
    lines: Sequence[Line],
    bands: Sequence[Band],
    marks: Sequence[Mark],
    percent: bool,
    words: Words,
) -> str:
    """All that a chart of weeks draws; weeks of which it draws nothing are left out."""

    def write(values: Sequence[Number]) -> list[str]:
        return [words.percent(v) for v in values] if percent else words.numbers(values)

    columns = [(line.name, line.values) for line in lines]
    for band in bands:
        columns += [(band.ends[0], band.low), (band.ends[1], band.high)]
    texts = [
        ["" if v is None else text for v, text in zip(values, write(values), strict=True)] for _, values in columns
    ]
    drawn = [i for i in range(len(weeks)) if any(values[i] is not None for _, values in columns)]
    rows = [[words.week_key(weeks[i]), *(column[i] for column in texts)] for i in drawn]
    head = [words.gettext("Week"), *(name for name, _ in columns)]
    if marks:
        named = {mark.position: mark.name for mark in marks}
        head.append(words.gettext("Holiday"))
        rows = [[*row, named.get(i, "")] for row, i in zip(rows, drawn, strict=True)]
    return table(title, head, rows, words)


def _empty(title: str, words: Words) -> str:
    text = words.gettext("%(title)s: nothing to show yet.", title=title)
    return f'<p class="empty">{escape(text)}</p>'


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], words: Words = PLAIN) -> str:
    """A chart's numbers, folded away under it."""
    headings = [name if name[1:].isdigit() else name[:1].upper() + name[1:] for name in head]  # p10 stays as it is
    names = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    fold = words.gettext("The same as a table")
    return (
        f'<details class="twin"><summary>{escape(fold)}</summary>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table><thead><tr>{names}</tr>'
        f"</thead><tbody>{body}</tbody></table></div></details>"
    )


def bars(title: str, names: Sequence[str], parts: Sequence[Line], height: int = 260, percent: bool = True,
         words: Words = PLAIN) -> str:  # fmt: skip
    """Bars side by side: one group per name, one bar per part."""
    shown = [v for part in parts for v in part.values if v is not None]
    if not shown:
        return _empty(title, words)
    steps = ticks(min(0.0, *shown), max(shown))
    form: Callable[[float], str] = words.percent if percent else words.short
    about = "; ".join(
        f"{p.name}: " + ", ".join(f"{n} {form(v)}" for n, v in zip(names, p.values, strict=True) if v is not None)
        for p in parts
    )
    pictures = []
    for frame in _frames(height, steps, len(names)):
        drawn = _value_axis(frame, steps, percent, words)
        group = (frame.right - _LEFT) / len(names)
        width = min(group * 0.8 / len(parts), 40)
        for g, name in enumerate(names):
            middle = _LEFT + group * (g + 0.5)
            place = f'x="{middle:.1f}" y="{frame.height - 12}" text-anchor="middle"'
            drawn.append(f'<text class="tick" {place}>{escape(name)}</text>')
            for k, part in enumerate(parts):
                value = part.values[g]
                if value is None:
                    continue
                top, bottom = sorted((frame.y(value), frame.y(0)))
                drawn.append(
                    f'<rect class="bar {part.style}" x="{middle + (k - len(parts) / 2) * width:.1f}" y="{top:.1f}" '
                    f'width="{width * 0.9:.1f}" height="{max(bottom - top, 0.5):.1f}">'
                    f"<title>{escape(part.name)}, {escape(name)}: {form(value)}</title></rect>"
                )
        pictures.append(
            f'<svg class="{frame.name}" viewBox="0 0 {frame.width} {frame.height}" role="img" '
            f'aria-label="{escape(f"{title}. {about}")}">{"".join(drawn)}</svg>'
        )
    legend = "".join(_key(p.name, f"bar {p.style}") for p in parts)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f"{''.join(pictures)}</figure>"
    )


@dataclass(frozen=True)
class Spread:
    """A row of `ratio_chart`: one value for each of the chart's names, None where there is none, and their mean."""

    name: str
    style: str
    values: Sequence[Number]
    mean: Number


def ratio_chart(title: str, names: Sequence[str], rows: Sequence[Spread], words: Words = PLAIN) -> str:
    """Ratios to 1 as dots, a row for each of what is compared, and a bar at their mean; on a logarithmic axis, where
    twice and half are equally far."""
    shown = [v for row in rows for v in (*row.values, row.mean) if v is not None and v > 0]
    if not shown:
        return _empty(title, words)
    low, high = min(*shown, 1) * 0.97, max(*shown, 1.1) * 1.05
    step, left = 30, 140
    means = "; ".join(f"{row.name} {words.fixed(row.mean, 2)}" for row in rows if row.mean is not None)
    about = words.gettext("%(title)s. Means: %(means)s", title=title, means=means)
    pictures = []
    for size, width in (("wide", WIDTH), ("narrow", NARROW)):
        height = _TOP + step * len(rows) + _BOTTOM
        bottom = height - _BOTTOM

        def x(value: float, width: int = width) -> float:
            return left + (width - _RIGHT - left) * math.log(value / low) / math.log(high / low)

        drawn = []
        for tick in _ratio_ticks(low, high, x):
            drawn.append(f'<line class="{"line naive" if tick == 1 else "grid"}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" '
                         f'y1="{_TOP}" y2="{bottom}"/>')  # fmt: skip
            place = f'x="{x(tick):.1f}" y="{height - 12}" text-anchor="middle"'
            drawn.append(f'<text class="tick" {place}>{_ratio(tick, words)}</text>')
        for k, row in enumerate(rows):
            y = _TOP + step * (k + 0.5)
            drawn.append(
                f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>'
            )
            drawn += [
                f'<circle class="dot {row.style}" cx="{x(v):.1f}" cy="{y:.1f}" r="4.5">'
                f"<title>{escape(row.name)}, {escape(name)}: {words.fixed(v, 3)}</title></circle>"
                for name, v in zip(names, row.values, strict=True)
                if v is not None and v > 0
            ]
            if row.mean:
                told = f"{row.name}, {words.gettext('mean')}: {words.fixed(row.mean, 3)}"
                drawn.append(
                    f'<rect class="bar mean" x="{x(row.mean) - 1.5:.1f}" y="{y - 11:.1f}" width="3" height="22">'
                    f"<title>{escape(told)}</title></rect>"
                )
        pictures.append(
            f'<svg class="{size}" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(about)}">{"".join(drawn)}</svg>'
        )
    legend = _key(words.gettext("mean"), "bar mean") + _key(words.gettext("1, the best of each"), "naive")
    cells = [[row.name, *("" if v is None else words.fixed(v, 3) for v in (*row.values, row.mean))] for row in rows]
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f"{''.join(pictures)}</figure>"
        + table(title, (words.gettext("Candidate"), *names, words.gettext("Mean")), cells, words)
    )


def _ratio(tick: float, words: Words) -> str:
    return words.fixed(tick, len(f"{tick:g}".partition(".")[2]))


def _ratio_ticks(low: float, high: float, x: Place) -> list[float]:
    """1, and the round ratios to both sides of it that have room."""
    round_ones = (1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000)
    kept = [1.0]
    for side in ([v for v in round_ones if v <= high], [1 / v for v in (1.05, 1.11, 1.25, 2, 5, 10) if 1 / v >= low]):
        last = 1.0
        for value in side:
            if abs(x(value) - x(last)) >= 36:
                last = round(value, 2)
                kept.append(last)
    return sorted(kept)


def calibration_chart(title: str, points: Sequence[tuple[float, float]], size: int = 360, words: Words = PLAIN) -> str:
    """Share of sales at or below each quantile, beside what it should be."""
    if not points:
        return _empty(title, words)
    inner = size - _LEFT - _RIGHT

    def x(share: float) -> float:
        return _LEFT + inner * share

    def y(share: float) -> float:
        return _TOP + inner * (1 - share)

    def at_or_below(share: str) -> str:
        return words.gettext("%(share)s of sales lie at or below it", share=share)

    out = []
    for step in (0, 0.2, 0.4, 0.6, 0.8, 1):
        text = words.percent(step, 0)
        out.append(f'<line class="grid" x1="{x(0)}" x2="{x(1)}" y1="{y(step):.1f}" y2="{y(step):.1f}"/>')
        out.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(step) + 4:.1f}" text-anchor="end">{text}</text>')
        out.append(f'<text class="tick" x="{x(step):.1f}" y="{y(0) + 20}" text-anchor="middle">{text}</text>')
    out.append(f'<line class="line naive" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    path = " L".join(f"{x(q):.1f},{y(share):.1f}" for q, share in points)
    out.append(f'<path class="line forecast" d="M{path}"/>')
    out += [
        f'<circle class="dot forecast" cx="{x(q):.1f}" cy="{y(share):.1f}" r="5">'
        f"<title>p{q * 100:.0f}: {escape(at_or_below(words.percent(share)))}</title></circle>"
        for q, share in points
    ]
    about = ", ".join(f"p{q * 100:.0f} {words.percent(share, 0)}" for q, share in points)
    legend = _key(words.gettext("as it should be"), "naive") + _key(words.gettext("observed"), "forecast")
    return (
        f'<figure class="chart square"><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {size} {size - _RIGHT + 8}" role="img" aria-label="{escape(f"{title}: {about}")}">'
        f"{''.join(out)}</svg></figure>"
        + table(
            title,
            (words.gettext("Quantile"), words.gettext("Sales at or below it")),
            [(f"p{q * 100:.0f}", words.percent(s)) for q, s in points],
            words,
        )
    )


def sparkline(values: Sequence[Number], ahead: Sequence[Number] = (), width: int = 120, height: int = 28) -> str:
    """A line without axes: sales, then the forecast."""
    both = [*values, *ahead]
    known = [v for v in both if v is not None]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)

    def x(i: float) -> float:
        return 2 + (width - 4) * i / max(len(both) - 1, 1)

    def y(value: float) -> float:
        return 2 + (height - 4) * (1 - (value - low) / ((high - low) or 1))

    out = [f'<path class="line actual" d="{path}"/>' for path in _paths([*values, *[None] * len(ahead)], x, y)]
    joined = [*[None] * (len(values) - 1), *values[-1:], *ahead] if values else list(ahead)
    out += [f'<path class="line forecast" d="{path}"/>' for path in _paths(joined, x, y)]
    return f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(out)}</svg>'


def _value_axis(frame: Frame, steps: Sequence[float], percent: bool, words: Words) -> list[str]:
    """Grid lines with their values; percents get a decimal where whole ones would repeat."""
    digits = 1 if percent and any(round(step * 100, 6) % 1 for step in steps) else 0
    out = []
    for step in steps:
        text, y = words.percent(step, digits) if percent else words.short(step), frame.y(step)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return out


def _mark(frame: Frame, mark: Mark) -> str:
    x = frame.x(mark.position)
    return (
        f'<g class="mark{"" if mark.lined_up else " light"}">'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{frame.bottom}"/>'
        f"<title>{escape(mark.name)}</title></g>"
    )


def _band(frame: Frame, band: Band) -> str:
    both = [(i, lo, hi) for i, (lo, hi) in enumerate(zip(band.low, band.high, strict=True))]
    upper = [f"{frame.x(i):.1f},{frame.y(hi):.1f}" for i, lo, hi in both if lo is not None and hi is not None]
    lower = [f"{frame.x(i):.1f},{frame.y(lo):.1f}" for i, lo, hi in both if lo is not None and hi is not None]
    return f'<polygon class="band {band.style}" points="{" ".join(upper + lower[::-1])}"/>' if upper else ""


def _line(frame: Frame, line: Line) -> str:
    """One path for every run of known values, a dot for one alone."""
    paths = [f'<path class="line {line.style}" d="{path}"/>' for path in _paths(line.values, frame.x, frame.y)]
    dots = [
        f'<circle class="dot {line.style}" cx="{frame.x(i):.1f}" cy="{frame.y(v):.1f}" r="3"/>'
        for i, v in _lonely(line.values)
    ]
    return "".join(paths + dots)


def _paths(values: Sequence[Number], x: Place, y: Place) -> list[str]:
    """One path for every run of known values of two or more."""
    paths: list[str] = []
    run: list[str] = []
    for i, value in enumerate([*values, None]):
        if value is not None:
            run.append(f"{x(i):.1f},{y(value):.1f}")
            continue
        if len(run) > 1:
            paths.append("M" + " L".join(run))
        run = []
    return paths


def _lonely(values: Sequence[Number]) -> list[tuple[int, float]]:
    """Known values without a known neighbour, which no line shows."""
    padded = [None, *values, None]
    return [(i, v) for i, v in enumerate(values) if v is not None and padded[i] is None and padded[i + 2] is None]


def _week_ticks(frame: Frame, weeks: Sequence[dt.date], words: Words) -> list[str]:
    """Month names where there is room, with the year at the first and at each January; of a few weeks their days."""
    if len(weeks) <= 8:
        step = -(-len(weeks) // frame.most_ticks)
        return [_week_tick(frame, i, words.day_of_month(weeks[i])) for i in range(0, len(weeks), step)]
    firsts = [i for i in range(len(weeks)) if i == 0 or weeks[i].month != weeks[i - 1].month]
    every = next(k for k in (1, 2, 3, 6, 12, 24, 48) if len(firsts) / k <= frame.most_ticks)
    chosen = [i for i in firsts if (weeks[i].month - 1) % every == 0] if every > 1 else firsts
    out = []
    for n, i in enumerate(chosen):
        out.append(_week_tick(frame, i, words.month(weeks[i], n == 0 or weeks[i].month == 1 or every >= 12)))
    return out


def _week_tick(frame: Frame, position: int, text: str) -> str:
    """A label under the axis; one near the picture's end ends with it, or it would be cut."""
    x = frame.x(position)
    x, anchor = (frame.width - 2, "end") if x > frame.width - 40 else (x, "middle")
    return f'<text class="tick" x="{x:.1f}" y="{frame.height - 12}" text-anchor="{anchor}">{text}</text>'


def _rounded(values: Sequence[Number]) -> list[Number]:
    """Seven significant digits: more cannot be seen, and small figures keep theirs."""
    return [None if v is None else float(f"{v:.7g}") for v in values]


def _key(name: str, style: str) -> str:
    return f'<span class="key"><i class="{style}"></i>{escape(name)}</span>'
