"""The page docs/served.md of the results of `benchmarks.served`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

Run = Mapping[str, Any]

ALIGNED, LAST_YEAR = "aligned_last_year", "last_year"
SMALL, LARGER = 8, 60  # series of pieces whose training time is told beside that of all of Walmart


def write(runs: Sequence[Run], page: Path) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(_lines(runs)) + "\n")


def _lines(runs: Sequence[Run]) -> Iterable[str]:
    yield "# What is served, judged afterwards"
    yield ""
    yield "<!-- Written by python -m benchmarks.served from benchmarks/results/served.json; do not edit. -->"
    yield ""
    yield from (
        "Forecasts of the next 12 weeks with the shipped settings: candidates are chosen and weighed, and networks",
        "trained, on what was known at the cutoff. Scores are those of the protocol in benchmarks/protocol.py.",
        "In pieces of Walmart, 1 to 5 stores and 3 to 20 departments are drawn by number. `aligned last year` is the",
        "candidate without learning `aligned_last_year`; the best in hindsight is the one with the lowest wQL of all",
        "candidates that need no training and the networks that were served. CPU seconds are those of choice, training",
        "and forecast on one thread. No figure here was tuned on: the cutoffs are for scoring alone.",
    )
    yield ""
    for machine, of in _grouped(
        runs, lambda run: f"{run['machine']['cores']} cores of {run['machine']['cpu']}"
    ).items():
        commits = ", ".join(_grouped(of, lambda run: f"{run['commit']} of {run['date']}"))
        yield f"- {len(of)} runs on {machine}; commits {commits}."
    yield ""
    whole = [run for run in runs if run["piece"] is None]
    if whole:
        yield "## Whole retailers"
        yield ""
        heads = (
            "data, cutoff",
            "series",
            "seeds",
            "WAPE / wQL (80% coverage)",
            "aligned last year",
            "last year's week",
        )
        yield f"| {' | '.join((*heads, 'CPU s'))} |"
        yield "|---" * (len(heads) + 1) + "|"
        for (data, cutoff), of in _grouped(whole, lambda run: (run["data"], run["cutoff"])).items():
            cells = (
                f"{data}, {cutoff}",
                f"{of[0]['series']:,}",
                str(len(of)),
                f"**{_scores(run['served'] for run in of)}**",
                _alone(of, ALIGNED),
                _alone(of, LAST_YEAR),
                f"{fmean(run['cpu_s'] for run in of):.0f}",
            )
            yield f"| {' | '.join(cells)} |"
        yield ""
    if pieces := [run for run in runs if run["piece"] is not None]:
        yield from _of_pieces(pieces, whole)


def _of_pieces(pieces: Sequence[Run], whole: Sequence[Run]) -> Iterable[str]:
    yield "## Pieces of Walmart"
    yield ""
    drawn = len({run["piece"] for run in pieces})
    sizes = sorted(run["series"] for run in pieces)
    seeds = len({run["seed"] for run in pieces})
    yield f"{drawn} pieces of {sizes[0]} to {sizes[-1]} series, {seeds} seed{'s' if seeds > 1 else ''}."
    yield ""
    yield "| | " + " | ".join(cutoffs := sorted({run["cutoff"] for run in pieces})) + " | all | asked |"
    yield "|---" * (len(cutoffs) + 3) + "|"

    def row(name: str, said: Callable[[Sequence[Run]], str], asked: str = "") -> str:
        found = [said([run for run in pieces if run["cutoff"] == cutoff]) for cutoff in cutoffs]
        return f"| {name} | {' | '.join(found)} | {said(pieces)} | {asked} |"

    def against(of: Sequence[Run], other: Callable[[Run], float]) -> str:
        return f"{geometric_mean(run['served']['wql'] / other(run) for run in of):.3f}"

    def worse(of: Sequence[Run], score: str) -> str:
        among = [run for run in of if LAST_YEAR in run["alone"]]
        return f"{sum(run['served'][score] > run['alone'][LAST_YEAR][score] for run in among)} of {len(among)}"

    yield row("wQL, served / best in hindsight", lambda of: against(of, _best), "1.05")
    yield row(
        "wQL, served / aligned last year", lambda of: against(of, lambda run: run["alone"][ALIGNED]["wql"]), ".97"
    )
    yield row("worse than last year's week in wQL", lambda of: worse(of, "wql"), "0")
    yield row("worse than last year's week in WAPE", lambda of: worse(of, "wape"), "0")
    yield row("80% coverage, mean", lambda of: f"{fmean(run['served']['coverage80'] for run in of):.2f}", ".77-.83")
    yield row("CPU s, mean", lambda of: f"{fmean(run['cpu_s'] for run in of):.1f}")
    yield ""
    yield "Ratios are geometric means over the runs."
    all_cpu_s = [run["cpu_s"] for run in whole if run["data"] == "Walmart"]
    if all_cpu_s:
        yield ""
        for name, most, asked in ((f"at most {SMALL} series", SMALL, ".1"), (f"{LARGER} series or more", None, ".2")):
            among = [run["cpu_s"] for run in pieces if (run["series"] <= SMALL if most else run["series"] >= LARGER)]
            if among:
                part = fmean(among) / fmean(all_cpu_s)
                yield f"- Choice, training and forecast of pieces of {name}: {part:.3f} of what all of Walmart takes"
                yield f"  ({fmean(among):.1f} CPU s on average; asked: {asked})."


def _best(run: Run) -> float:
    return min(float(scores["wql"]) for scores in run["alone"].values())


def _scores(found: Iterable[Mapping[str, float]]) -> str:
    each = list(found)
    wape, wql, coverage = (fmean(scores[name] for scores in each) for name in ("wape", "wql", "coverage80"))
    return f"{wape:.4f} / {wql:.4f} ({coverage:.2f})"


def _alone(runs: Sequence[Run], name: str) -> str:
    found = [run["alone"][name] for run in runs if name in run["alone"]]
    return _scores(found) if found else "-"


def _grouped(runs: Sequence[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    found: dict[Any, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found
