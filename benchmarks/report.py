"""The page of the benchmarks: tables and pictures made from the results; only figures that others published are typed
in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import parity_report
from benchmarks.protocol import CUTOFFS, FEV_HORIZON, FEV_SLACK

Result = dict[str, Any]
SPEED = "speed.json"  # what runs in turns took; in the folder of the models' results

# Name in the results -> on the page.
LABELS = {
    "deepar": "ours, as shipped",
    "ours-plain": "ours at SageMaker's defaults",
    "ours-network": "ours, the shipped ratio network",
    "aligned_last_year": "aligned last year, no learning",
    "seasonal_naive": "last year's week",
    "last_value": "last value",
    "gluonts-sagemaker": "GluonTS DeepAR, SageMaker's defaults",
    "gluonts-defaults": "GluonTS DeepAR, its defaults",
    "neuralforecast-deepar": "neuralforecast DeepAR",
    "neuralforecast-nhits": "neuralforecast NHITS",
    "neuralforecast-tft": "neuralforecast TFT",
    "pytorch-forecasting-deepar": "pytorch-forecasting DeepAR",
    "lightgbm-ratio": "LightGBM on our ratio",
    "statsforecast-theta": "statsforecast Theta",
    "statsforecast-autoets": "statsforecast AutoETS",
}
OURS = ("deepar", "ours-plain", "ours-network")
# LightGBM uses our reference, so it is not off the shelf.
OFF_THE_SHELF = tuple(n for n in LABELS if n.split("-")[0] in ("gluonts", "neuralforecast", "pytorch", "statsforecast"))
# fev-bench's leaderboard for its task walmart (arXiv 2509.26468): WAPE, WQL.
PUBLISHED = {
    "TabPFN-TS": (0.0928, 0.0745),
    "Chronos-2": (0.0934, 0.0739),
    "TimesFM-2.5": (0.1016, 0.0803),
    "Chronos-Bolt": (0.1173, 0.0950),
    "AutoARIMA": (0.1596, 0.1320),
    "TFT": (0.1773, 0.1411),
    "DeepAR": (0.1820, 0.1431),
}
METRICS = {"WAPE": "wape", "wQL": "wql", "80% coverage": "coverage80", "MASE": "mase", "bias": "bias"}

_PARITY = """\
## Parity

Ours with exactly SageMaker's defaults and none of our extensions, beside GluonTS's DeepAR with the same settings, on
the same data, with as many epochs of as many windows. What SageMaker does not document, each does its own way; "the
same choices", further down, is the comparison with these ways made the same.

| cutoff | wQL, ours | wQL, GluonTS | ratio | seeds | verdict |
|---|---|---|---|---|---|
"""
_IN_TURNS = """\
Ours, GluonTS and neuralforecast trained and forecast one after the other, in {rounds} rounds, so that faster and slower
hours of the machine meet all alike. Shown are medians, the ratio of medians, and in brackets the peer's speed and the
smallest and largest ratio of a round. pytorch-forecasting's column is from the runs of the tables below.
"""
_COST = """\
Ours as shipped is run by the command line, whose CPU seconds hold everything: the backtests that choose, the training
and the forecast. Theta and AutoETS fit and forecast in one. Importing is counted from the start of Python.

| model | training, CPU s | windows | windows / CPU s | series / CPU s: 100 paths | 200 | peak MB | import, CPU s |
|---|---|---|---|---|---|---|---|
"""
_FEV = f"""\
## fev-bench's task walmart, {FEV_HORIZON} weeks ahead

Each series is cut {FEV_HORIZON} weeks before its own last week, for every training. Nearly all series end together and
are forecast from one origin. The few that end earlier are forecast from at most {FEV_SLACK} weeks before their window,
over a horizon that is as much longer: that uses less data than is allowed, never more. Published figures are those of
arXiv 2509.26468; its last value (WAPE .1967) and last year's week (.113) must come out here too.

| model | WAPE | WQL |
|---|---|---|
"""
_METHOD = """\
## How it was run

All models see the same history up to the cutoff, of the series that are at least 30 weeks old; ours as shipped sees the
younger ones too. Of these series, the ones observed in the 12 weeks after the cutoff are scored. A missing week inside
a series' span counts as 0; weeks after its last observation do not count. WAPE = sum|y - p50| / sum|y|; wQL is the mean
over the quantiles .1 to .9 of 2 x pinball loss / sum|y|; MASE is the median over series, bias sum(p50 - y) / sum|y|.
The scores are by the project's own metrics; each was computed again by a second, independent implementation, which
agreed to six digits.

Read with care. Peers run at their defaults or at what is listed below, untuned, and their training budgets differ.
LightGBM uses our own holiday-aligned reference. Models without sample paths are timed without them. neuralforecast
feeds back the mean of its paths, so they are no joint forecasts. Peers that take no gaps get 0 in them; GluonTS and
ours mask them.

"""


@dataclass(frozen=True)
class Results:
    """All results, and the means over seeds that the page shows.

    Attributes:
        rounds: of each round of runs in turns, model -> outcome; empty if there were no such runs.
    """

    all: Sequence[Result]
    rounds: Sequence[Mapping[str, Mapping[str, Any]]] = ()

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The models' results in a folder; those of other benchmarks lie there too."""
        models = [json.loads(path.read_text()) for path in sorted(folder.glob("*.seed*.json"))]
        speed = folder / SPEED
        return cls(models, json.loads(speed.read_text())["rounds"] if speed.exists() else ())

    def scores(self, cutoff: str) -> dict[str, list[dict[str, float]]]:
        """Model -> its scores, an entry a seed."""
        found: dict[str, list[dict[str, float]]] = {}
        for result in self.all:
            if result["cutoff"] == cutoff:
                for name, scores in result["scores"].items():
                    found.setdefault(name, []).append(scores)
        return found

    def mean(self, cutoff: str, model: str, metric: str) -> float | None:
        values = [s[metric] for s in self.scores(cutoff).get(model, [])]
        return fmean(values) if values else None

    def outcomes(self, model: str, cutoff: str) -> list[dict[str, Any]]:
        """The outcomes of a model's processes. The shipped model is run by the process named ours."""
        name = "ours" if model == "deepar" else model
        return [r["outcome"] for r in self.all if r["model"] == name and r["cutoff"] == cutoff]

    def measure(
        self, model: str, of: Callable[[dict[str, Any]], float | None], cutoff: str = CUTOFFS[0]
    ) -> float | None:
        """Mean over seeds of a number of the outcome; None where the outcome does not have it."""
        values = [v for o in self.outcomes(model, cutoff) if (v := of(o)) is not None]
        return fmean(values) if values else None

    def rates(self, models: Sequence[str], of: Callable[[Mapping[str, Any]], float | None]) -> list[list[float]]:
        """Speeds of models to be compared, by model: one for each round where they ran in turns, else the mean."""
        if self.rounds and all(model in taken for taken in self.rounds for model in models):
            found = [[of(taken[model]) for taken in self.rounds] for model in models]
        else:
            found = [[self.measure(model, of)] for model in models]
        return [[value for value in each if value is not None] for each in found]


def windows_rate(outcome: Mapping[str, Any]) -> float | None:
    return outcome["windows"] / outcome["train_cpu_s"] if outcome["windows"] else None


def series_rate(paths: int) -> Callable[[Mapping[str, Any]], float | None]:
    def rate(outcome: Mapping[str, Any]) -> float | None:
        seconds = outcome["predict_cpu_s"].get(str(paths)) or outcome["predict_cpu_s"].get("0")
        return outcome["series"] / seconds if seconds else None

    return rate


def write(folder: Path, page: Path) -> None:
    """Write the page and, beside it, its pictures; nothing where there are no results."""
    results = Results.read(folder)
    if not results.all:
        return
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    ours = {cutoff: results.mean(cutoff, "ours-plain", "wql") for cutoff in CUTOFFS}
    parts = [_head(results), _ratios(results), _parity(results), parity_report.section(folder / "parity", ours)]
    parts += [_accuracy(results, c) for c in CUTOFFS]
    parts += [_picture(results, images, "accuracy"), _seeds(results), _costs(results)]
    parts += [_picture(results, images, "speed"), _fev(results), _method(results)]
    page.write_text("\n\n".join(part for part in parts if part) + "\n")


def _head(results: Results) -> str:
    def distinct(key: str) -> list[Any]:
        return list({json.dumps(r[key], sort_keys=True): r[key] for r in results.all}.values())

    dates = sorted(r["date"][:10] for r in results.all)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    machines = "; ".join(
        f"{m['cores']} cores of {m['cpu']}, {m['system']}, Python {m['python']}" for m in distinct("machine")
    )
    data = "; ".join(f"{d['rows']:,} rows, {d['series']:,} series, SHA-256 {d['sha256']}..." for d in distinct("data"))
    versions = {k: v for r in results.all for k, v in r["outcome"]["versions"].items()}
    commands = ", ".join(f"`{command}`" for command in sorted(distinct("command")))
    return (
        "# Benchmarks\n\n<!-- Written by python -m benchmarks from benchmarks/results/*.json; do not edit. -->\n\n"
        f"Command: {commands} (by `make bench`), {when}, at commit {', '.join(sorted(distinct('commit')))}.  \n"
        f"Machine: {machines}; one thread a process, shared with others, so everything is in CPU seconds.  \n"
        f"Data: Kaggle's Walmart weekly sales, {data}.  \n"
        f"Versions: {', '.join(f'{k} {v}' for k, v in sorted(versions.items()))}."
    )


# The speed that ours is asked to have, as a multiple of GluonTS's.
_SPEEDS: tuple[tuple[str, Callable[[Mapping[str, Any]], float | None], str, float | None], ...] = (
    ("training windows, 2x40 cells", windows_rate, "ours-plain", 5.0),
    ("series forecast, 100 paths, 2x40 cells", series_rate(100), "ours-plain", 8.0),
    ("series forecast, 100 paths, shipped network", series_rate(100), "ours-network", 8.0),
    ("series forecast, 200 paths, 2x40 cells", series_rate(200), "ours-plain", None),
    ("series forecast, 200 paths, shipped network", series_rate(200), "ours-network", None),
)
# The WAPE and wQL that are asked for at each cutoff, at most, as means over seeds.
_GOALS = {CUTOFFS[0]: (0.083, 0.066), CUTOFFS[1]: (0.095, 0.075)}


def _ratios(results: Results) -> str:
    rivals = ("gluonts-sagemaker", "neuralforecast-deepar", "pytorch-forecasting-deepar")
    speeds = []
    for what, of, model, goal in _SPEEDS:
        pairs = [results.rates((model, rival), of) for rival in rivals]
        if not any(mine and theirs for mine, theirs in pairs):
            continue
        cells = [_times(mine, theirs) for mine, theirs in pairs]
        asked = ""
        if goal and all(pairs[0]):
            asked = f"≥ {goal:g} x GluonTS: {_verdict(median(pairs[0][0]) / median(pairs[0][1]) >= goal)}"
        speeds.append(f"| {what} | {median(pairs[0][0]):,.0f} | {' | '.join(cells)} | {asked} |")
    errors = []
    for cutoff, goals in _GOALS.items():
        for name, metric, goal in zip(("WAPE", "wQL"), ("wape", "wql"), goals, strict=True):
            mine = results.mean(cutoff, "deepar", metric)
            known = {
                m: v for m in (*OFF_THE_SHELF, "seasonal_naive") if (v := results.mean(cutoff, m, metric)) is not None
            }
            if mine is None or not known:
                continue
            best = min(known, key=lambda m: known[m])
            peer = f"{LABELS[best]} | {known[best]:.4f} | **{mine / known[best]:.2f} x**"
            errors.append(f"| {name}, {cutoff} | {mine:.4f} | {peer} | ≤ {goal:g}: {_verdict(mine <= goal)} |")
        covered = results.mean(cutoff, "deepar", "coverage80")
        if covered is not None:
            asked = f".77 to .83: {_verdict(0.77 <= covered <= 0.83)}"
            errors.append(f"| 80% coverage, {cutoff} | {covered:.3f} | - | - | - | {asked} |")
    names = " | ".join(f"against {LABELS[rival]}" for rival in rivals)
    rule = "\n|---|---|---|---|---|---|\n"
    tables = [f"| per CPU second | ours | {names} | asked |{rule}" + "\n".join(speeds)] if speeds else []
    if speeds and results.rounds:
        tables.append(_IN_TURNS.format(rounds=len(results.rounds)).rstrip())
    error_head = f"| error | ours, as shipped | best peer off the shelf | its error | ours / its | asked |{rule}"
    tables += [error_head + "\n".join(errors)] if errors else []
    return "\n\n".join(["## Ratios", *tables]) if tables else ""


def _times(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of the medians; and, of several rounds, the smallest and the largest ratio of a round."""
    if not (mine and theirs):
        return "-"
    ratios = [m / t for m, t in zip(mine, theirs, strict=True)]
    spread = f"; {min(ratios):.1f} to {max(ratios):.1f}" if len(ratios) > 1 else ""
    return f"**{median(mine) / median(theirs):.1f} x** ({median(theirs):,.0f}{spread})"


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _parity(results: Results) -> str:
    lines = []
    for cutoff in CUTOFFS:
        ours, theirs = (results.mean(cutoff, m, "wql") for m in ("ours-plain", "gluonts-sagemaker"))
        if ours and theirs:
            seeds = " and ".join(str(len(results.scores(cutoff)[m])) for m in ("ours-plain", "gluonts-sagemaker"))
            verdict = "within 2%" if abs(ours / theirs - 1) <= 0.02 else "**a miss**: not within 2%"
            lines.append(f"| {cutoff} | {ours:.4f} | {theirs:.4f} | {ours / theirs:.3f} | {seeds} | {verdict} |")
    return _PARITY + "\n".join(lines) if lines else ""


def _accuracy(results: Results, cutoff: str) -> str:
    scores = results.scores(cutoff)
    rows = {m: [fmean(s[k] for s in seeds) for k in METRICS.values()] for m, seeds in scores.items()}
    lines = []
    for model, values in sorted(rows.items(), key=lambda item: item[1][0]):
        wape, wql, coverage, mase, bias = values
        seeds = len(results.outcomes(model, cutoff))
        label = f"**{LABELS[model]}**" if model in OURS else LABELS[model]
        seeds_text = f", mean of {seeds} seeds" if seeds > 1 else ""
        lines.append(f"| {label}{seeds_text} | {wape:.4f} | {wql:.4f} | {coverage:.2f} | {mase:.2f} | {bias:+.3f} |")
    if not lines:
        return ""
    holidays = " (its window holds Thanksgiving and Christmas)" if cutoff == CUTOFFS[1] else ""
    first = next(iter(scores.values()))[0]
    return (
        f"## Accuracy, 12 weeks after {cutoff}{holidays}\n\n{first['series']:,.0f} series, {first['cells']:,.0f} weeks "
        f"scored.\n\n| model | {' | '.join(METRICS)} |\n|---|---|---|---|---|---|\n" + "\n".join(lines)
    )


def _seeds(results: Results) -> str:
    lines = []
    for result in sorted(results.all, key=lambda r: (r["model"], r["cutoff"], r["seed"])):
        if result["model"] in ("ours", "ours-plain", "gluonts-sagemaker"):
            name = "deepar" if result["model"] == "ours" else result["model"]
            s = result["scores"].get(name)
            if s and "coverage80" in s:
                values = f"{s['wape']:.4f} | {s['wql']:.4f} | {s['coverage80']:.2f} | {s['mase']:.2f}"
                lines.append(f"| {LABELS[name]} | {result['cutoff']} | {result['seed']} | {values} |")
    if not lines:
        return ""
    head = "| model | cutoff | seed | WAPE | wQL | 80% coverage | MASE |\n|---|---|---|---|---|---|---|\n"
    return "### Each seed\n\n" + head + "\n".join(lines)


def _costs(results: Results) -> str:
    def cell(value: float | None, form: str = ",.0f") -> str:
        return "-" if value is None else format(value, form)

    lines = []
    for model, label in LABELS.items():
        if not (outcomes := results.outcomes(model, CUTOFFS[0])):
            continue
        pathless = "0" in outcomes[0]["predict_cpu_s"]
        cells = [
            cell(results.measure(model, lambda o: o["train_cpu_s"])),
            cell(results.measure(model, lambda o: o["windows"])),
            cell(results.measure(model, windows_rate)),
            cell(results.measure(model, series_rate(100))) + (" (no paths)" if pathless else ""),
            "-" if pathless else cell(results.measure(model, series_rate(200))),
            cell(results.measure(model, lambda o: o["peak_mb"])),
            cell(results.measure(model, lambda o: o["import_cpu_s"]), ".1f"),
        ]
        lines.append(f"| {f'**{label}**' if model in OURS else label} | {' | '.join(cells)} |")
    return f"## Cost, cutoff {CUTOFFS[0]}\n\n{_COST}" + "\n".join(lines) if lines else ""


def _fev(results: Results) -> str:
    scores = results.scores("fev-bench")
    if not scores:
        return ""
    rows = [(wape, wql, f"{name} (published)") for name, (wape, wql) in PUBLISHED.items()]
    for model, seeds in scores.items():
        label = f"**{LABELS[model]}**, mean of seeds" if model == "deepar" else LABELS[model]
        rows.append((fmean(s["wape"] for s in seeds), fmean(s["wql"] for s in seeds), label))
    each = ", ".join(f"{s['wape']:.4f} / {s['wql']:.4f}" for s in scores["deepar"])
    origins = next(r for r in results.all if r["cutoff"] == "fev-bench")["outcome"]["extra"]["origins"]
    runs = ", ".join(f"{count:,} from {week}" for week, count in origins.items())
    table = "\n".join(f"| {label} | {wape:.4f} | {wql:.4f} |" for wape, wql, label in sorted(rows))
    return f"{_FEV}{table}\n\nOurs, each seed, WAPE / WQL: {each}. Origins: {runs}."


def _method(results: Results) -> str:
    settings = []
    for model in dict.fromkeys(r["model"] for r in results.all if not r["model"].startswith("ours")):
        given = next(r["outcome"]["settings"] for r in results.all if r["model"] == model)
        settings.append(f"- {LABELS[model]}: {', '.join(f'{k} {v}' for k, v in given.items())}")
    return _METHOD + "\n".join(settings)


def _picture(results: Results, images: Path, kind: str) -> str:
    """Save one of the page's pictures; its Markdown."""
    draw, alt = {
        "accuracy": (_draw_accuracy, "WAPE against CPU seconds of training, by cutoff; lower left is better"),
        "speed": (_draw_speed, "series forecast per CPU second, by model; longer is better"),
    }[kind]
    return themed_picture(images, f"benchmarks-{kind}", alt, lambda ink: draw(results, ink))


def themed_picture(images: Path, name: str, alt: str, draw: Callable[[str], Any]) -> str:
    """Save a picture in two themes. Returns the Markdown that lets the reader's browser choose one.

    Args:
        draw: given the colour of the ink, the figure; None: there is nothing to draw, and the Markdown is "".
    """
    for theme, ink in (("light", "#1f2328"), ("dark", "#e6edf3")):
        figure = draw(ink)
        if figure is None:
            return ""
        figure.savefig(images / f"{name}-{theme}.png", dpi=110, transparent=True)
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="images/{name}-dark.png">\n'
        f'  <img alt="{alt}" src="images/{name}-light.png">\n</picture>'
    )


# Two hues of the Okabe-Ito palette; ours differ from peers by shape too.
OUR_HUE, PEER_HUE = "#D55E00", "#56B4E9"


def blank_axes(columns: int, height: float, ink: str) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), layout="constrained")
    all_axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(ink)
        axes.tick_params(colors=ink, which="both")
        axes.patch.set_alpha(0)
    return figure, all_axes


def _draw_accuracy(results: Results, ink: str) -> Any:
    figure, panels = blank_axes(len(CUTOFFS), 4.6, ink)
    drawn = False
    for axes, cutoff in zip(panels, CUTOFFS, strict=True):
        points = []
        for model in LABELS:
            wape = results.mean(cutoff, model, "wape")
            seconds = results.measure(model, lambda o: o["train_cpu_s"], cutoff)
            if wape is not None and seconds is not None:
                points.append((seconds, wape, model))
        drawn = drawn or bool(points)
        for seconds, wape, model in points:
            ours = model in OURS
            axes.scatter(seconds, wape, s=90 if ours else 45, marker="D" if ours else "o",
                         color=OUR_HUE if ours else PEER_HUE, edgecolors=ink, linewidths=0.6, zorder=3)  # fmt: skip
        _label(axes, [(x, y, LABELS[m], m in OURS) for x, y, m in points], ink)
        naive = results.mean(cutoff, "seasonal_naive", "wape")
        if naive is not None:
            axes.axhline(naive, color=ink, linestyle=":", linewidth=1)
            axes.annotate("last year's week", (1, naive), xycoords=("axes fraction", "data"), xytext=(0, 2),
                          textcoords="offset points", ha="right", fontsize=7, color=ink)  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.margins(x=0.08, y=0.08)
        axes.set_title(f"12 weeks after {cutoff}", loc="left", fontsize=10, color=ink)
        axes.set_xlabel("training, CPU seconds", color=ink)
    panels[0].set_ylabel("WAPE (lower is better)", color=ink)
    return figure if drawn else None


def _label(axes: Any, points: Sequence[tuple[float, float, str, bool]], ink: str) -> None:
    """Names beside the panel in the order of the points' heights, evenly spaced, each with a line to its point."""
    for i, (x, y, name, ours) in enumerate(sorted(points, key=lambda p: p[1])):
        axes.annotate(
            name,
            (x, y),
            xytext=(1.03, (i + 0.5) / len(points)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=ink,
            fontweight="bold" if ours else "normal",
            arrowprops={"arrowstyle": "-", "color": ink, "linewidth": 0.5, "alpha": 0.7, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def _draw_speed(results: Results, ink: str) -> Any:
    rates = {m: {p: results.measure(m, series_rate(p)) for p in (100, 200)} for m in LABELS}
    # Only models that sample paths: the others are timed doing something else.
    shown = [m for m, r in rates.items() if all(r.values()) and r[100] != r[200]]
    if not shown:
        return None
    shown.sort(key=lambda m: rates[m][100] or 0)
    figure, [axes] = blank_axes(1, 1.2 + 0.55 * len(shown), ink)
    for i, model in enumerate(shown):
        for paths, offset, alpha in ((100, 0.19, 1.0), (200, -0.19, 0.55)):
            rate = rates[model][paths] or 0.0
            hue = OUR_HUE if model in OURS else PEER_HUE
            axes.barh(i + offset, rate, 0.36, color=hue, alpha=alpha, hatch="" if paths == 100 else "//", edgecolor=ink)
            axes.annotate(f"{rate:,.0f}  ({paths} paths)", (rate, i + offset), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=7, color=ink)  # fmt: skip
    axes.set_yticks(range(len(shown)), [LABELS[m] for m in shown], fontsize=8)
    axes.margins(x=0.15)
    axes.set_xlabel("series forecast per CPU second, 12 weeks ahead", color=ink)
    return figure
