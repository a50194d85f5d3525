"""What the platform serves with its shipped settings, judged afterwards: python -m benchmarks.served.

Of each case (a retailer, a cutoff, a seed) it chooses and trains as a weekly run does, forecasts 12 weeks and is scored
by the project's protocol (30 weeks of history; any of the orange juice), beside every candidate that needs no training
and every network that it served. Cases: all of Walmart; pieces of it, 1 to 5 stores and 3 to 20 departments drawn by
number; the orange juice with its prices and promotions. A case that is kept is not run again, so a run that was stopped
goes on. Results: benchmarks/results/served.json; the page is docs/served.md.

The cutoffs are those that figures are quoted for. Nothing may be tuned on them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol, served_report
from benchmarks.__main__ import ROOT, commit, machine
from benchmarks.small import JUICE, WALMART, Piece, juice_folder, orange_juice
from forecast_platform.history.panel import Panel
from forecast_platform.history.shards import Retailer
from forecast_platform.models.backtest import scored_window
from forecast_platform.models.blend import kinds
from forecast_platform.models.choose import LEVELS, choose
from forecast_platform.models.combine import Combination
from forecast_platform.models.metrics import score
from forecast_platform.models.registry import CANDIDATES, plans
from forecast_platform.settings import Settings

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "served.json", ROOT / "docs" / "served.md"
PIECE_CUTOFFS = ("2011-11-04", "2012-03-16", "2012-08-03")
JUICE_CUTOFF, JUICE_MIN_WEEKS = "1992-07-15", 1
PIECES, SEEDS = 30, 3


@dataclass(frozen=True)
class Case:
    """One choice, training and forecast.

    Attributes:
        piece: number of a piece; None for all of the retailer. seed: of the networks.
    """

    data: str
    piece: int | None
    cutoff: str
    seed: int

    def panel(self, retailers: Callable[[str], Panel]) -> Panel:
        whole = retailers(self.data)
        if self.piece is None:
            return whole
        rng = np.random.default_rng(1000 + self.piece)
        stores, depts = int(rng.integers(1, 6)), int(rng.integers(3, 21))
        return Piece.of(self.data, whole, self.piece, stores, depts).panel


def cases(pieces: int, seeds: int) -> Iterator[Case]:
    """The whole retailers of a seed before their pieces, so that a run that is stopped has some of each."""
    for seed in range(seeds):
        yield from (Case(WALMART, None, cutoff, seed) for cutoff in protocol.CUTOFFS)
        yield Case(JUICE, None, JUICE_CUTOFF, seed)
        yield from (Case(WALMART, piece, cutoff, seed) for piece in range(pieces) for cutoff in PIECE_CUTOFFS)


def run(case: Case, panel: Panel) -> dict[str, Any]:
    """CPU seconds of choice, training and forecast, and the scores of what is served and of candidates alone."""
    cutoff, horizon = dt.date.fromisoformat(case.cutoff), protocol.HORIZON
    history = panel.until(cutoff)
    candidates, whole = plans(Settings(), horizon, case.seed), Retailer()
    began = time.process_time()
    choice = choose(history, candidates)
    forecasts = {
        name: CANDIDATES[name].forecast(candidates[name], history, horizon, LEVELS, retailer=whole)
        for name in choice.blend.names
    }
    how = Combination.of(history, horizon, choice.calibration)
    served = how.quantiles(choice.blend.quantiles(forecasts, kinds(history.sales)), LEVELS)
    cpu_s = time.process_time() - began
    for name, given in candidates.items():
        if (
            name not in forecasts
            and not CANDIDATES[name].learns
            and not CANDIDATES[name].unable(history, horizon, given)
        ):
            forecasts[name] = CANDIDATES[name].forecast(given, history, horizon, LEVELS, retailer=whole)
    window = scored_window(panel, cutoff, horizon, JUICE_MIN_WEEKS if case.data == JUICE else protocol.MIN_WEEKS)
    end, mask = panel.position(cutoff) + 1, window.mask
    if case.data == JUICE:  # a week without a row is a brand that was not on the shelf
        mask = mask & panel.observed[window.scored][:, end : end + horizon]

    def scores(quantiles: Any) -> dict[str, float]:
        found = score(window.y, mask, quantiles[window.among_known], LEVELS, panel.sales[window.scored, :end])
        return {"wape": found.wape, "wql": found.wql, "coverage80": found.coverage80}

    return {
        "data": case.data,
        "piece": case.piece,
        "cutoff": case.cutoff,
        "seed": case.seed,
        "series": len(history),
        "cpu_s": round(cpu_s, 2),
        "served": scores(served),
        "alone": {name: scores(said) for name, said in forecasts.items()},
        "weights": {name: list(weights) for name, weights in choice.blend.weights.items()},
        "why": choice.judgement.why,
    }


def _retailer(data: str) -> Panel:
    """Raises FileNotFoundError where its files are not here."""
    if data == JUICE:
        return orange_juice(juice_folder())
    source = protocol.sales_file(protocol.sales_folder(ROOT))
    if source is None:
        raise FileNotFoundError("no sales of Walmart; name their folder in FORECAST_WALMART_DIR")
    return protocol.to_panel(protocol.read_sales(source))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served", description=__doc__)
    parser.add_argument("--pieces", type=int, default=PIECES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--kept", action="store_true", help="run nothing: write the page of what was kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    kept: list[dict[str, Any]] = json.loads(options.results.read_text()) if options.results.exists() else []
    about, read = {"machine": machine(), "commit": commit(), "date": str(dt.datetime.now(dt.UTC).date())}, {}
    done = {Case(each["data"], each["piece"], each["cutoff"], each["seed"]) for each in kept}
    for case in [] if options.kept else cases(options.pieces, options.seeds):
        if case in done:
            continue
        if case.data not in read:
            read[case.data] = _retailer(case.data)
        found = run(case, case.panel(read.__getitem__))
        kept.append({**found, **about})
        options.results.write_text(json.dumps(kept, indent=1) + "\n")
        said = " / ".join(f"{found['served'][name]:.4f}" for name in ("wape", "wql"))
        print(f"{case.data} {case.piece} {case.cutoff} seed {case.seed}: {said}, {found['cpu_s']} CPU s", flush=True)
    served_report.write(kept, options.page)
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
