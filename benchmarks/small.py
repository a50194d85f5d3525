"""What single ingredients are worth with little data, and with promotions: python -m benchmarks.small.

Trials as in benchmarks.ablations, on pieces of two retailers: some departments of some stores of Walmart; all brands of
some stores that sell orange juice (Dominick's, Montgomery 1997: units by store and brand, with price, coupon and
advertisement known ahead). Results: benchmarks/results/ablations_small.json; the page is docs/ablations.md.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks import ablations_report, protocol
from benchmarks.__main__ import ROOT, commit, machine
from benchmarks.ablations import PEAK_DAMPINGS, PULSE, STORE, TRIM, USUAL_SHARE, Trial, run
from benchmarks.protocol import CUTOFFS
from forecast_platform.history.covariates import Declarations, attach
from forecast_platform.history.panel import Panel
from forecast_platform.weeks import WEEK

RESULTS = ROOT / "benchmarks" / "results" / "ablations_small.json"
WALMART, JUICE = "Walmart", "orange juice"
# (seed, stores, departments): 5 to 80 series
PIECES = ((0, 1, 5), (1, 1, 10), (2, 2, 10), (3, 4, 10), (4, 1, 60), (5, 4, 20))
JUICE_PIECES = ((0, 1, 11), (1, 2, 11), (2, 4, 11), (3, 7, 11))
# Cutoffs of trials that train networks; and more of them for trials of the reference alone.
NETWORK_CUTOFFS = {
    WALMART: ("2011-11-04", "2011-12-09", "2012-04-13", "2012-08-03"),
    JUICE: ("1992-02-26", "1992-04-15", "1992-06-03", "1992-07-15"),
}
CUTOFFS_ALONE = {
    WALMART: tuple(str(dt.date(2011, 5, 6) + 5 * k * WEEK) for k in range(14)),
    JUICE: tuple(str(dt.date(1991, 11, 27) + 3 * k * WEEK) for k in range(12)),
}
assert CUTOFFS_ALONE[WALMART][-1] == CUTOFFS[0]

ALONE = (
    Trial({"as shipped": 0.0}, candidate=None),
    Trial({"peaks not lowered": 0.0}, {PEAK_DAMPINGS: (0.0,)}, candidate=None),
    Trial({"no store's pulse": 0.0}, {PULSE: 0.0}, candidate=None),
    Trial({"growth not shrunk to the store's": 0.0}, {STORE: 0.0}, candidate=None),
    Trial({"growth with extreme weeks": 0.0}, {TRIM: 0.0}, candidate=None),
)
TRAINED = (
    Trial({"as shipped": USUAL_SHARE}),
    Trial({"another seed": USUAL_SHARE}, given={"seed": "1"}),
    Trial({"all networks know the size of the week": USUAL_SHARE}, given={"blind_features": "0"}),
    Trial({"no damping of small weeks": USUAL_SHARE}, {"models.target.DAMPING": 0.0}),
)


@dataclass(frozen=True)
class Piece:
    """Some series of a retailer, and the seed they were drawn with."""

    data: str
    seed: int
    panel: Panel

    @classmethod
    def of(cls, data: str, panel: Panel, seed: int, stores: int, depts: int) -> Piece:
        """Stores drawn at random, and departments drawn from those that each of these stores sells in more than half of
        the weeks."""
        rng = np.random.default_rng(seed)
        among = np.isin(panel.store, rng.choice(np.unique(panel.store), stores, replace=False))
        often = panel.observed.mean(axis=1) > 0.5
        names, count = np.unique(panel.dept[among & often], return_counts=True)
        names = names[count == stores]
        chosen = rng.choice(names, min(depts, len(names)), replace=False)
        return cls(data, seed, panel.select(among & np.isin(panel.dept, chosen)))


def orange_juice(folder: Path) -> Panel:
    """From sales/sales.csv.gz (store, dept, date, weekly_sales) and features/features.csv.gz (price, deal, feature)."""
    key = {"store": str, "dept": str}
    sales = pd.read_csv(folder / "sales" / "sales.csv.gz", dtype=key, parse_dates=["date"])
    sales["weekly_sales"] = sales["weekly_sales"].astype(float)
    panel = protocol.to_panel(sales.rename(columns={"date": "week", "weekly_sales": "sales"}))
    features = pd.read_csv(folder / "features" / "features.csv.gz", dtype=key, parse_dates=["date"])
    declared = {"price": "known:last", "deal": "known:0", "feature": "known:0"}
    rows = features.melt(["store", "dept", "date"], list(declared), "name").dropna()
    columns: dict[str, Any] = {name: pa.array(rows[name].tolist()) for name in ("store", "dept", "name")}
    columns |= {"week": rows["date"].to_numpy().astype("datetime64[D]"), "value": rows["value"].to_numpy(float)}
    return attach(panel, pa.table(columns), Declarations.of(declared))


def juice_folder() -> Path:
    """Where the orange juice should be: FORECAST_JUICE_DIR, or a folder beside the checkout."""
    return Path(os.environ.get("FORECAST_JUICE_DIR") or ROOT.parent / "shared" / "data" / "orange_juice")


def pieces() -> Iterator[Piece]:
    """The pieces of Walmart; and of the orange juice, if FORECAST_JUICE_DIR or a folder beside the checkout has it."""
    source = protocol.sales_file(protocol.sales_folder(ROOT))
    if source is None:
        raise FileNotFoundError("no sales of Walmart; name their folder in FORECAST_WALMART_DIR")
    walmart = protocol.to_panel(protocol.read_sales(source))
    yield from (Piece.of(WALMART, walmart, *each) for each in PIECES)
    folder = juice_folder()
    if folder.exists():
        juice = orange_juice(folder)
        yield from (Piece.of(JUICE, juice, *each) for each in JUICE_PIECES)
    else:
        print(f"no {folder}: orange juice is left out", flush=True)


def main(arguments: Sequence[str]) -> int:
    about = {"machine": machine(), "date": str(dt.datetime.now(dt.UTC).date()), "commit": commit()}
    runs = []
    for piece in pieces():
        for trials, cutoffs in ((ALONE, CUTOFFS_ALONE), (TRAINED, NETWORK_CUTOFFS)):
            for cutoff in cutoffs[piece.data]:
                for trial in trials:
                    found = run(trial, piece.panel, dt.date.fromisoformat(cutoff), {})
                    of = {"data": piece.data, "seed": piece.seed, "series": len(piece.panel), "cutoff": cutoff}
                    runs.append(of | found)
        print(f"{piece.data}, {len(piece.panel)} series: {len(runs)} runs", flush=True)
        RESULTS.write_text(json.dumps({**about, "runs": runs}, indent=1) + "\n")
    ablations_report.rewrite(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
