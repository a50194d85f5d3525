"""The page of the ablations: tables and a picture from their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import report
from benchmarks.protocol import CUTOFFS, HORIZON

AS_IS, CALIBRATED = "intervals as they are", "intervals calibrated"  # rows of the third table

_HEAD = """\
# What each ingredient is worth

<!-- Written by python -m benchmarks.ablations from benchmarks/results/ablations.json; do not edit. -->

- Command: `python -m benchmarks.ablations` (by `make ablations`), {when}, at commit {commits}.
- Machine: {cores} cores of {cpu}, {system}, Python {python}; CPU seconds, one thread.
- Data: Kaggle's Walmart weekly sales, {rows:,} rows, {series:,} series, SHA-256 {sha256}...

Every figure is by the protocol of the [benchmarks](benchmarks.md), {horizon} weeks ahead: the mean of {count} rolling
cutoffs from {first} to {last}, and beside it the protocol's own two. The settings were chosen on windows like the
rolling ones, so the gains are a little optimistic. Changes are differences of WAPE or wQL; "worse at" is the number of
rolling cutoffs at which a row errs more than the row it is compared with. What another seed changes is chance."""
_STEPS = """\
## The reference, without learning

From last year's week to the outlook of the shipped model: each row adds one thing to the row above and is compared
with it. Where a series was not sold a year ago, its share of its department's sales stands in, in every row. At the
earliest cutoffs there is no year before last.

"""
_NETWORK = """\
## The network

The ratio networks as they ship, and with one thing changed at a time, compared with the first row. The forecast is the
mean of the networks' quantiles and those of the reference, unless a row says that one of them is alone. The networks
for sales have no reference and are always alone. One of the two networks is given the size of the week; where there is
only one network, it is given it. Intervals are not calibrated. Training is in CPU seconds.

"""
_CALIBRATION = """\
## Calibration

The mean of the quantiles of the ratio networks and the reference, weighted by backtests before each cutoff, without and
with the widths that these backtests find. At the earliest cutoffs the history is too short for a backtest.

"""

_SMALL = """\
## Little data, and promotions

The same for {pieces} pieces of retailers: of Walmart some departments of one to four stores, {least} to {most} series,
drawn by the seeds {seeds}; of Dominick's orange juice (units by store and brand, with price, coupon and
advertisement known ahead) all brands of one to seven stores. A window is a piece at a cutoff. A figure is the median
over windows of the change of the error, in percent of the shipped model's, and the number of windows in which a row
errs more. What another seed changes is chance.

- Command: `python -m benchmarks.small`, {date}, at commit {commit}.
- Machine: {cores} cores of {cpu}, {system}, Python {python}.
"""


@dataclass(frozen=True)
class Results:
    """Machine, data and runs. A run has a cutoff, a part of the page and scores: row of a table -> metric -> value."""

    machine: Mapping[str, Any]
    data: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]

    @property
    def rolling(self) -> list[str]:
        return sorted({run["cutoff"] for run in self.runs} - {*CUTOFFS})

    def rows(self, part: str) -> list[str]:
        found = [row for run in self.runs if run["part"] == part for row in run["scores"]]
        return [row for row in dict.fromkeys(found) if row not in (AS_IS, CALIBRATED)]

    def at(self, row: str, metric: str, cutoffs: Sequence[str]) -> list[float]:
        return [r["scores"][row][metric] for r in self.runs if row in r["scores"] and r["cutoff"] in cutoffs]

    def mean(self, row: str, metric: str = "wape") -> float:
        return fmean(self.at(row, metric, self.rolling))

    def compared(self, part: str) -> dict[str, str]:
        """Row -> the row it is compared with: the step before, or the shipped network; all rows but the first."""
        rows = self.rows(part)
        return (
            {after: before for before, after in pairwise(rows)}
            if part == "reference"
            else dict.fromkeys(rows[1:], rows[0])
        )

    def change(self, row: str, base: str, metric: str = "wape") -> float:
        return self.mean(row, metric) - self.mean(base, metric)


def rewrite(root: Path) -> None:
    """Write the page again from the stored results."""
    kept = json.loads((root / "benchmarks" / "results" / "ablations.json").read_text())
    write(Results(**kept), root / "docs" / "ablations.md", small_results(root))


def small_results(root: Path) -> Mapping[str, Any] | None:
    """What benchmarks.small kept."""
    kept = root / "benchmarks" / "results" / "ablations_small.json"
    return json.loads(kept.read_text()) if kept.exists() else None


def write(results: Results, page: Path, small: Mapping[str, Any] | None = None) -> None:
    """The page and, beside it, its picture."""
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    alt = "change in WAPE: of the reference step by step, and of the network with one thing otherwise"
    picture = report.themed_picture(images, "ablations", alt, lambda ink: _draw(results, ink))
    parts = [_head(results), picture, _reference(results), _network(results), _calibration(results)]
    parts += [of_small_pieces(small)] if small else []
    page.write_text("\n\n".join(parts) + "\n")


def _head(results: Results) -> str:
    dates, commits = (sorted({run[key] for run in results.runs}) for key in ("date", "commit"))
    rolling = results.rolling
    return _HEAD.format(
        when=" to ".join(dict.fromkeys((dates[0], dates[-1]))),
        commits=", ".join(commits),
        horizon=HORIZON,
        count=len(rolling),
        first=rolling[0],
        last=rolling[-1],
        **results.machine,
        **results.data,
    )


def _reference(results: Results) -> str:
    lines = [
        [row, *_compared(results, "reference", row), *(_scores(results, row, cutoff, "wape") for cutoff in CUTOFFS)]
        for row in results.rows("reference")
    ]
    return _STEPS + _table(["", "WAPE", "change", "worse at", *(f"WAPE, {cutoff}" for cutoff in CUTOFFS)], lines)


def _network(results: Results) -> str:
    lines = []
    for row in results.rows("network"):
        base = results.compared("network").get(row)
        # Several rows can come from one training; its seconds are shown in the first of them.
        runs = [run for run in results.runs if next(iter(run["scores"])) == row and run["cutoff"] in results.rolling]
        lines.append([
            row,
            *_compared(results, "network", row),
            f"{results.mean(row, 'wql'):.4f}",
            f"{results.change(row, base, 'wql'):+.4f}" if base else "-",
            f"{results.mean(row, 'coverage80'):.2f}",
            *(_scores(results, row, cutoff, "wape", "wql") for cutoff in CUTOFFS),
            f"{fmean(run['train_cpu_s'] for run in runs):.1f}" if runs else "-",
        ])  # fmt: skip
    heads = ["", "WAPE", "change", "worse at", "wQL", "change", "80% coverage"]
    return _NETWORK + _table([*heads, *(f"WAPE / wQL, {cutoff}" for cutoff in CUTOFFS), "training, s"], lines)


def _calibration(results: Results) -> str:
    def cells(cutoffs: Sequence[str]) -> list[str]:
        pairs = [(metric, row) for metric in ("coverage80", "wql") for row in (AS_IS, CALIBRATED)]
        return [f"{fmean(results.at(row, metric, cutoffs)):.4f}" for metric, row in pairs]

    shares = {run["cutoff"]: run["share"] for run in results.runs if "share" in run}
    lines = [
        [cutoff, f"{share:.1f}", *cells([cutoff])] if share is not None else [cutoff, *5 * ["-"]]
        for cutoff, share in shares.items()
    ]
    chosen = [cutoff for cutoff in results.rolling if shares.get(cutoff) is not None]
    if chosen:
        lines.append([f"mean of {len(chosen)} rolling", "-", *cells(chosen)])
    heads = ["cutoff", "network's part", "80% coverage", "calibrated", "wQL", "calibrated"]
    return _CALIBRATION + _table(heads, lines)


def of_small_pieces(small: Mapping[str, Any]) -> str:
    runs = small["runs"]
    datas = list(dict.fromkeys(run["data"] for run in runs))
    pieces = {(run["data"], run["seed"]): run["series"] for run in runs}
    text = _SMALL.format(
        pieces=len(pieces),
        least=min(n for (data, _), n in pieces.items() if data == datas[0]),
        most=max(n for (data, _), n in pieces.items() if data == datas[0]),
        seeds=", ".join(str(seed) for data, seed in pieces if data == datas[0]),
        **{key: small[key] for key in ("date", "commit")},
        **small["machine"],
    )
    lines = []
    for part, alone in (("reference", "the reference alone"), ("network", "reference and networks")):
        metrics = ("wape", "wql") if part == "network" else ("wape",)
        scores: dict[str, dict[tuple[Any, ...], Mapping[str, float]]] = {}
        for run in (run for run in runs if run["part"] == part):
            for row, found in run["scores"].items():
                scores.setdefault(row, {})[run["data"], run["seed"], run["cutoff"]] = found
        for row, errors in scores.items():
            shipped = next(iter(scores.values()))
            if errors is shipped:
                continue
            cells = [f"{alone}: {row}"]
            for data in datas:
                for metric in metrics:
                    pairs = [(found[metric], shipped[at][metric]) for at, found in errors.items() if at[0] == data]
                    change = median(100 * (one / other - 1) for one, other in pairs)
                    cells.append(f"{change:+.1f}%, {sum(one > other for one, other in pairs)} of {len(pairs)}")
                cells += ["-"] * (2 - len(metrics))
            lines.append(cells)
    heads = ["", *(f"{metric}, {data}" for data in datas for metric in ("WAPE", "wQL"))]
    return text + "\n" + _table(heads, lines)


def _compared(results: Results, part: str, row: str) -> list[str]:
    """The cells WAPE, its change, and the number of rolling cutoffs at which it is worse."""
    mean, base = f"{results.mean(row):.4f}", results.compared(part).get(row)
    if base is None:
        return [mean, "-", "-"]
    pairs = zip(*(results.at(name, "wape", results.rolling) for name in (row, base)), strict=True)
    return [mean, f"{results.change(row, base):+.4f}", f"{sum(one > other for one, other in pairs)}"]


def _scores(results: Results, row: str, cutoff: str, *metrics: str) -> str:
    return " / ".join(f"{value:.4f}" for metric in metrics for value in results.at(row, metric, [cutoff])) or "-"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


def _draw(results: Results, ink: str) -> Any:
    figure, panels = report.blank_axes(2, 4.4, ink)
    titles = {"reference": "the reference, step by step", "network": "the network, not as shipped"}
    for axes, (part, title) in zip(panels, titles.items(), strict=True):
        changes = {row: results.change(row, base) for row, base in results.compared(part).items()}
        # A bar far longer than the others is cut, or these could not be seen; its number is written beside it.
        reach = 3 * sorted(map(abs, changes.values()))[-4]
        for at, change in enumerate(changes.values()):
            end, more = max(-reach, min(change, reach)), change > 0
            hue = report.OUR_HUE if more else report.PEER_HUE
            axes.barh(at, end, 0.7, color=hue, edgecolor=ink, linewidth=0.6)
            text = f"{change:+.4f}" + (", cut" if end != change else "")
            axes.annotate(text, (end, at), xytext=(4 if more else -4, 0), ha="left" if more else "right",
                          va="center", textcoords="offset points", fontsize=7, color=ink)  # fmt: skip
        axes.set_yticks(range(len(changes)), list(changes), fontsize=8)
        axes.invert_yaxis()
        axes.use_sticky_edges = False  # so that there is a margin beside 0 too
        axes.margins(x=0.3)
        axes.locator_params(axis="x", nbins=5)
        axes.tick_params(axis="x", labelsize=8)
        axes.axvline(0, color=ink, linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=10, color=ink)
        axes.set_xlabel("change in WAPE (left: less error)", color=ink)
    return figure
