"""The page of what size costs, and the rates that `forecast plan` computes with, from the stored results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import report
from forecast_platform.engines import capacity
from forecast_platform.engines.capacity import HISTORY, PREDICT, PUBLISH, TRAIN, WEEK, Rates

READ, EXPORTS = "read_series", "exports"  # no stages of a week, as capacity.py counts it
NEW, OLD = "new", "old"
LABELS = {
    "import_history": "import the history",
    "clean_history": "clean the history",
    "train": "choose and train a model",
    "find_model": "find the model in force",
    "predict": "predict",
    "publish": "publish",
    "report": "the week on one page",
    EXPORTS: "the week as CSV and Parquet",
    "import_week": "import a week",
    "clean_week": "clean that week",
    "score_week": "score what was forecast of it",
    READ: "read series, one after the other",
}
# Size -> the most memory in GB that a weekly run is asked to take.
MEMORY_ASKED = {33_000: 2, 100_000: 4, 1_000_000: 8}

_HEAD = """\
# What size costs

<!-- Written by python -m benchmarks.scale from benchmarks/results/scale/*.json; do not edit. -->

Made-up retailers of {depts} departments a store and {weeks} weeks land as Parquet, a file a quarter. Then each stage of
the weekly run runs through Dagster's graph, with its checks, in a process of its own. CPU seconds are those of the
process and its children, without the {start:.1f} of starting it; memory is the peak of it and its children together.
With `--old TREE` another checkout did the same in turns. The files of the asset `exports`, CSV and Parquet, are a stage
of their own, which the sums of a week leave out. What to choose at which size: [scale.md](scale.md).

- Command: `{command}`, {when}, at commit {commits}.
- Machine: {machines}. numpy and torch on one thread; DuckDB and workers on all cores.
- Retailers of seed {seeds}; settings: {settings}.
- Versions: {versions}.{busy}
"""
_BUSY = """
- Other programs were running on the machine (load average up to {load:.0f}), so **seconds and minutes by the clock are
  too long**. CPU seconds and memory are the stages' own."""


BUSY = 1.5  # with a higher load average per core, other programs were running too


@dataclass(frozen=True)
class Size:
    """What was measured at one size, of one tree or two in turns."""

    about: Mapping[str, Any]
    trees: Mapping[str, Mapping[str, Any]]

    @property
    def series(self) -> int:
        return int(self.about["series"])

    def stages(self, tree: str) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.trees.get(tree, {}).get("stages", {})
        return found

    def total(self, tree: str, names: Sequence[str], measure: str) -> float | None:
        """A measure added up over stages, of peaks the highest; None where one of the stages was not reached."""
        stages = self.stages(tree)
        if not set(names) <= stages.keys():
            return None
        values = [float(stages[name][measure]) for name in names]
        return max(values) if measure == "peak_mb" else sum(values)

    @property
    def load(self) -> float:
        """The highest load average: how many programs wanted a core."""
        loads = [stage["load"] for tree in self.trees.values() for stage in tree["stages"].values()]
        return float(max(loads, default=0))

    @property
    def busy(self) -> bool:
        return self.load > BUSY * self.about["cores"]

    def said(self, tree: str, name: str, what: str) -> Any:
        return self.stages(tree).get(name, {}).get("said", {}).get(what)


def load(results: Path) -> list[Size]:
    """The stored results, ascending by size."""
    found = [Size(**json.loads(path.read_text())) for path in results.glob("*.json")]
    return sorted(found, key=lambda size: size.series)


def write(results: Path, page: Path) -> None:
    """Write the page and its picture; nothing where nothing was measured."""
    if sizes := load(results):
        parts = [_head(sizes), _picture(sizes, page.parent / "images"), _ratios(sizes), _asked(sizes)]
        parts += [*(_stages(size) for size in sizes), _on_paper(sizes)]
        page.write_text("\n\n".join(part.rstrip() for part in parts if part) + "\n")


def rates(results: Path, machine: Mapping[str, Any]) -> dict[str, Any]:
    """What this checkout's stages took on a machine, as capacity.Rates reads it.

    Raises:
        ValueError: fewer than two sizes were measured whole there.
    """
    stages = (*HISTORY, TRAIN, *WEEK)
    whole = [
        s
        for s in load(results)
        if all(s.about[k] == machine[k] for k in ("cpu", "cores")) and set(stages) <= s.stages(NEW).keys()
    ]
    whole = [s for s in whole if all(s.about[k] == whole[-1].about[k] for k in ("weeks", "settings"))]
    if len(whole) < 2:
        raise ValueError(
            f"rates need two sizes, and {len(whole)} of one history and settings was measured whole on "
            f"{machine['cores']} cores of {machine['cpu']}: --series 3300 10000"
        )
    weeks = whole[-1].about["weeks"]
    busy = any(s.busy for s in whole)
    measures: dict[str, Callable[[Mapping[str, Any]], float]] = {
        # On a busy machine a stage waits for other programs; alone it would take about its CPU seconds.
        "wall_s": lambda stage: round(min(stage["wall_s"], stage["cpu_s"]) if busy else stage["wall_s"], 2),
        "cpu_s": lambda stage: round(stage["cpu_s"], 2),
        "memory_gb": lambda stage: round(stage["peak_mb"] / 1024, 3),
        "disk_gb": lambda stage: round(max(stage["disk_mb"], 0) / 1000, 4),
    }
    found = Rates(
        cpu=machine["cpu"],
        cores=machine["cores"],
        date=whole[-1].about["date"],
        commit=whole[-1].trees[NEW]["commit"],
        weeks=weeks,
        stages={
            name: {m: [(s.series, value(s.stages(NEW)[name])) for s in whole] for m, value in measures.items()}
            for name in stages
        },
        settings=", ".join(f"{k} {v}" for k, v in whole[-1].about["settings"].items()),
        busy=busy,
        start_s=round(fmean(s.stages(NEW)[PREDICT]["start_cpu_s"] for s in whole), 1),
    )
    return asdict(found)


# --- the page


def _head(sizes: Sequence[Size]) -> str:
    from benchmarks.retailers import DEPTS

    def each(value: Callable[[Size], Any]) -> str:
        return ", ".join(dict.fromkeys(str(value(size)) for size in sizes))

    numbers = " ".join(str(size.series) for size in sizes)
    old = " --old TREE" if any(size.stages(OLD) for size in sizes) else ""
    commits = [f"{t['commit']}{' (old)' if name == OLD else ''}" for size in sizes for name, t in size.trees.items()]
    starts = [stage["start_cpu_s"] for size in sizes for stage in size.stages(NEW).values()]
    return _HEAD.format(
        depts=DEPTS,
        weeks=each(lambda s: s.about["weeks"]),
        start=fmean(starts) if starts else 0,
        command=f"python -m benchmarks.scale --series {numbers}{old}",
        when=each(lambda s: s.about["date"]),
        commits=", ".join(dict.fromkeys(commits)),
        machines=each(lambda s: "{cores} cores of {cpu}, {system}, Python {python}".format(**s.about)),
        seeds=each(lambda s: s.about["seed"]),
        settings=each(lambda s: ", ".join(f"{k} {v}" for k, v in s.about["settings"].items()) or "the defaults"),
        busy=_BUSY.format(load=max(s.load for s in sizes)) if any(s.busy for s in sizes) else "",
        versions=each(lambda s: ", ".join(f"{k} {v}" for k, v in s.about["versions"].items())),
    )


def _added(before: Size, size: Size) -> float | None:
    """CPU seconds a week for each 1,000 series more than at the size before: without what every week costs, however few
    series there are."""
    less, more = (s.total(NEW, WEEK, "cpu_s") for s in (before, size))
    return None if less is None or more is None else 1000 * (more - less) / (size.series - before.series)


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


Values = Sequence[tuple[Size, float]]  # a row's values, at the sizes where there are some


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Attributes:
        value: the figure of a size and tree; None where its stage was not reached.
        shown: the figure as text.
        asked: what was asked for, and whether the values, at least one, meet it.
    """

    label: str
    value: Callable[[Size, str], float | None]
    shown: Callable[[float], str]
    asked: Callable[[Values], str] = lambda values: ""


def _per_thousand(*names: str) -> Callable[[Size, str], float | None]:
    def value(size: Size, tree: str) -> float | None:
        total = size.total(tree, names, "cpu_s")
        return None if total is None else 1000 * total / size.series

    return value


def _peak_gb(*names: str) -> Callable[[Size, str], float | None]:
    def value(size: Size, tree: str) -> float | None:
        peak = size.total(tree, names, "peak_mb")
        return None if peak is None else peak / 1024

    return value


def _minutes(*names: str) -> Callable[[Size, str], float | None]:
    def value(size: Size, tree: str) -> float | None:
        wall_s = size.total(tree, names, "wall_s")
        return None if wall_s is None else wall_s / 60

    return value


def _figure(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def _below(most: float) -> Callable[[Values], str]:
    return lambda values: f"< {most:g}: {_verdict(max(value for _, value in values) < most)}"


def _cost_asked(values: Values) -> str:
    third = [
        (f"{size.series:,}", value <= old / 3) for size, value in values if (old := _per_thousand(*WEEK)(size, OLD))
    ]
    told = ["a third of old: " + (", ".join(f"{at} {_verdict(met)}" for at, met in third) or "not compared")]
    at = {size.series: value for size, value in values}
    if {10_000, 1_000_000} <= at.keys():
        ratio = at[1_000_000] / at[10_000]
        told.append(f"1,000,000 within 15% of 10,000: {ratio - 1:+.0%}, {_verdict(ratio <= 1.15)}")
    return "; ".join(told)


def _memory_asked(values: Values) -> str:
    asked = [(s.series, value, MEMORY_ASKED[s.series]) for s, value in values if s.series in MEMORY_ASKED]
    return "; ".join(f"{most} at {series:,}: {_verdict(value <= most)}" for series, value, most in asked)


def _training_asked(values: Values) -> str:
    ratio = values[-1][1] / values[0][1]
    return f"flat; largest / smallest {ratio:.2f}, at most 2: {_verdict(ratio <= 2)}" if len(values) > 1 else ""


def _history_asked(values: Values) -> str:
    at = {size.series: value for size, value in values}
    return f"1,000,000 under 40: {_verdict(at[1_000_000] < 40)}" if 1_000_000 in at else ""


COST = Row("CPU s per 1,000 series, weekly run without training", _per_thousand(*WEEK), _figure, _cost_asked)
MEMORY = Row("- peak memory, GB", _peak_gb(*WEEK), _figure, _memory_asked)
ROWS = (
    COST,
    Row("- of it predict", _per_thousand(PREDICT), _figure),
    Row("- of it publish", _per_thousand(PUBLISH), _figure),
    MEMORY,
    Row("history in and clean, CPU s per 1,000 series", _per_thousand(*HISTORY), _figure),
    Row("- minutes", _minutes(*HISTORY), _figure, _history_asked),
    Row("- peak memory, GB", _peak_gb(*HISTORY), _figure),
    Row("choose and train a model, CPU s", lambda s, t: s.total(t, [TRAIN], "cpu_s"), _figure, _training_asked),
    Row("- peak memory, GB", _peak_gb(TRAIN), _figure),
    Row("files for people (exports), CPU s per 1,000 series", _per_thousand(EXPORTS), _figure),
    Row("- peak memory, GB", _peak_gb(EXPORTS), _figure),
    Row("one series from the forecasts, ms", lambda s, t: s.said(t, READ, "ms"), _figure, _below(50)),
    Row("- CPU ms", lambda s, t: s.said(t, READ, "cpu_ms"), _figure),
    Row("- MB read", lambda s, t: s.said(t, READ, "mb"), lambda v: f"{v:.3f}", _below(1)),
)


def _ratios(sizes: Sequence[Size]) -> str:
    """The section that compares old and new, at sizes where both ran in turns."""
    both = [size for size in sizes if {OLD, NEW} <= size.trees.keys()]
    if not both:
        return ""
    heads = [f"{size.series:,}: old / new" for size in both]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(both)) + "|"]
    for row in ROWS:
        cells = []
        for size in both:
            new, old = row.value(size, NEW), row.value(size, OLD)
            if new is None or old is None:
                cells.append(" / ".join(_shown(size, tree, row) for tree in (OLD, NEW)))
            else:
                cells.append((f"**{old / new:.2f} x** " if new else "") + f"({row.shown(old)} / {row.shown(new)})")
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "## Ratios\n\n" + "\n".join(lines)


def _shown(size: Size, tree: str, row: Row) -> str:
    """A figure; of a tree that has no such stage a dash."""
    value = row.value(size, tree)
    return row.shown(value) if value is not None else "failed" if size.trees[tree]["failed"] else "-"


def _asked(sizes: Sequence[Size]) -> str:
    """The section with each row by size, and what was asked for."""
    lines = [f"| | {' | '.join(f'{s.series:,}' for s in sizes)} | asked |", "|---" * (2 + len(sizes)) + "|"]
    rows = [f"{s.about['rows'] / 1e6:,.1f}" for s in sizes]
    lines.append(f"| rows of the history, millions | {' | '.join(rows)} | |")
    for row in ROWS:
        found = [row.value(size, NEW) for size in sizes]
        reached = [(size, value) for size, value in zip(sizes, found, strict=True) if value is not None]
        cells = ["-" if value is None else row.shown(value) for value in found]
        lines.append(f"| {row.label} | {' | '.join(cells)} | {row.asked(reached) if reached else ''} |")
        if row is COST and len(sizes) > 1:
            each = [_added(before, size) for before, size in pairwise(sizes)]
            cells = ["-", *("-" if value is None else row.shown(value) for value in each)]
            lines.append(f"| - of each 1,000 series more than at the size before | {' | '.join(cells)} | |")
    return "## By size\n\n" + "\n".join(lines)


def _stages(size: Size) -> str:
    """The section with every stage of a size."""
    trees = [name for name in (NEW, OLD) if name in size.trees]
    heads = ["wall s", "CPU s", "CPU s per 1,000 series", "peak MB", "disk MB"]
    lines = [
        f"| stage | {' | '.join(h if t == NEW else f'old: {h}' for t in trees for h in heads)} |",
        "|---" * (1 + len(heads) * len(trees)) + "|",
    ]
    for name in (*HISTORY, TRAIN, *WEEK, EXPORTS, READ):
        cells = []
        for tree in trees:
            stage = size.stages(tree).get(name)
            if stage is None:
                cells += ["-"] * len(heads)
                continue
            per_thousand = 1000 * stage["cpu_s"] / size.series
            cells += [_figure(stage["wall_s"]), _figure(stage["cpu_s"]), f"{per_thousand:.2f}"]
            cells += [f"{stage['peak_mb']:,.0f}", f"{stage['disk_mb']:,.1f}"]
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} |")
    told = [f"{name}: {tree['failed']}" for name, tree in size.trees.items() if tree["failed"]]
    for tree in trees:
        weights, target = (size.said(tree, TRAIN, what) for what in ("weights", "target"))
        if target:
            what = f"{target}" + (f", weights {json.dumps(weights)}" if weights else "")
            told.append(f"model served by {tree}: {what}")
    title = f"## {size.series:,} series, {size.about['rows']:,} rows"
    return "\n".join([title, "", *lines, "", *(f"- {line}" for line in told)])


PAPER = 100_000_000  # series: a size that is only extrapolated to
FILE_MB = 512  # of each of a table's Parquet files at that size


def _on_paper(sizes: Sequence[Size]) -> str:
    """The section on PAPER series: what they would take, in proportion to the largest size measured."""
    whole = [size for size in sizes if set(capacity.WEEK) | set(HISTORY) <= size.stages(NEW).keys()]
    if not whole:
        return ""
    size = whole[-1]
    times = PAPER / size.series

    def total(names: Sequence[str], measure: str) -> float:
        return sum(size.stages(NEW)[name][measure] for name in names) * times

    alone = [name for name in WEEK if name != capacity.SHARED]
    predict_cpu_s = capacity.SPARK_CPU * total([capacity.SHARED], "cpu_s")
    executors = -(-predict_cpu_s // (3600 * capacity.EXECUTOR_CORES))
    an_hour = capacity.EXECUTOR_CORES * capacity.SPARK_CORE_USD + capacity.EXECUTOR_GB * capacity.SPARK_GB_USD
    history_gb, week_gb = (total(names, "disk_mb") / 1000 for names in (HISTORY, WEEK))
    rows = [
        ("rows of the history, billions", size.about["rows"] * times / 1e9),
        ("history in and clean, CPU hours", total(HISTORY, "cpu_s") / 3600),
        ("a week without training, CPU hours", total(WEEK, "cpu_s") / 3600),
        ("- of it predict, which executors share", total([capacity.SHARED], "cpu_s") / 3600),
        ("- hours of the rest on one machine like this one", total(alone, "wall_s") / 3600),
        (f"executors of {capacity.EXECUTOR_CORES} cores that predict in an hour", executors),
        ("- USD for that hour, EMR Serverless", executors * an_hour),
        ("rows published a week, billions", size.said(NEW, "publish", "rows") * times / 1e9),
        ("disk of the history, TB", history_gb / 1000),
        ("disk a week, GB", week_gb),
        (f"files of {FILE_MB} MB, of the history", history_gb * 1000 / FILE_MB),
        (f"files of {FILE_MB} MB, a week", week_gb * 1000 / FILE_MB),
    ]
    lines = [f"| {PAPER:,} series | |", "|---|---|", *(f"| {label} | {_figure(value)} |" for label, value in rows)]
    return (
        f"## On paper: {PAPER:,} series\n\nIn proportion to what {size.series:,} series took here. Nobody has run it; "
        "[scale.md](scale.md) says what would have to change.\n\n" + "\n".join(lines)
    )


def _picture(sizes: Sequence[Size], images: Path) -> str:
    alt = "CPU seconds per 1,000 series and peak memory of a weekly run, by number of series; lower is better"
    return report.themed_picture(images, "scale", alt, lambda ink: _draw(sizes, ink))


def _draw(sizes: Sequence[Size], ink: str) -> Any:
    figure, panels = report.blank_axes(2, 3.8, ink)
    for axes, row, title in zip(panels, (COST, MEMORY), ("CPU s per 1,000 series", "peak memory, GB"), strict=True):
        for tree, hue, marker in ((NEW, report.OUR_HUE, "D"), (OLD, report.PEER_HUE, "o")):
            points = [(s.series, v) for s in sizes if (v := row.value(s, tree)) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=hue, marker=marker, label=tree)
        axes.set_xscale("log")
        axes.set_xticks([size.series for size in sizes])
        axes.minorticks_off()
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("series", color=ink)
        axes.set_title(f"weekly run without training: {title}", loc="left", fontsize=10, color=ink)
        axes.legend(frameon=False, labelcolor=ink)
    return figure
