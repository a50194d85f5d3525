"""Whether intervals of sums hold the share of sales that they promise: python -m benchmarks.sums.

For Walmart and pieces of it, at rolling cutoffs: backtests before the cutoff fit the dependence and the widths, the
engine forecasts, and publication adds up. Joint paths are compared with independent ones without a factor. The
candidate is one that needs no training. Results: benchmarks/results/sums.json; the page is docs/sums.md.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks import protocol
from benchmarks.__main__ import ROOT, commit, machine
from benchmarks.measure import COLUMNS, QUANTILES
from benchmarks.small import PIECES, WALMART, Piece
from forecast_platform.engines.base import Asked
from forecast_platform.engines.local import LocalEngine
from forecast_platform.history.panel import Panel
from forecast_platform.levels import KEYS, LEVELS
from forecast_platform.models.calibration import Calibration
from forecast_platform.models.dependence import Dependence
from forecast_platform.models.metrics import weighted_quantile_loss
from forecast_platform.models.registry import plans
from forecast_platform.publishing.forecasts import forecast_rows
from forecast_platform.publishing.series import forecastable
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "sums.json", ROOT / "docs" / "sums.md"
ROLLING = [dt.date(2011, 9, 23) + 4 * k * WEEK for k in range(12)]  # none of them is one of the protocol's
CANDIDATE = "aligned_last_year"
ADDED = 4  # weeks of lead time
JOINT, INDEPENDENT = "joint", "independent"

_HEAD = """\
# Do intervals of sums hold what they promise?

<!-- Written by python -m benchmarks.sums from benchmarks/results/sums.json; do not edit. -->

The share of sales inside the interval from p10 to p90, which should be 80%, and wQL: means over {count} rolling
cutoffs of Walmart from {first} to {last}, {horizon} weeks ahead, by `{candidate}`. "Joint" are the sample paths as
published ([models.md](models.md)). "Independent" are paths in which every series and week is drawn by itself, without
the last factor of a level. The pieces of Walmart are some departments of some stores, drawn by seeds. In a piece of
one store the store is the total, and its departments are the series.

- Command: `python -m benchmarks.sums`, {date}, at commit {commit}.
- Machine: {cores} cores of {cpu}, {system}, Python {python}.
"""


def measure(panel: Panel, cutoff: dt.date, candidate: str) -> list[dict[str, Any]]:
    """Coverage and wQL at a cutoff, by paths, level and number of weeks added up."""
    settings = Settings(target=candidate, prediction_length=protocol.HORIZON)
    history = panel.until(cutoff)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        engine = LocalEngine(Path(folder) / "models")
        model = engine.train(history, plans(settings))
        active, _ = forecastable(history, settings.active_weeks, protocol.HORIZON)
        actuals = _actuals(panel, active)
        independent = dataclasses.replace(model.calibration, dependence=Dependence(), sums=Calibration().sums)
        for paths, calibration in ((JOINT, model.calibration), (INDEPENDENT, independent)):
            served = dataclasses.replace(model, calibration=calibration)
            asked = Asked(QUANTILES, settings.num_samples, settings.seed)
            made, _ = engine.predict(served, [active], Path(folder) / paths, asked)
            for weeks in (1, ADDED):
                lead = weeks > 1
                series = made.forecasts(QUANTILES, protocol.HORIZON, lead_time=lead)
                blocks = forecast_rows(
                    made.sums(), series, cutoff, QUANTILES, COLUMNS, calibration.sums, lead_time=lead
                )
                forecasts = pa.concat_tables(blocks).to_pandas()
                found = forecasts[forecasts["weeks"] == weeks] if lead else forecasts
                rows += [{"paths": paths, "weeks": weeks, **each} for each in scores(found, actuals, weeks)]
    return rows


def _actuals(panel: Panel, active: Panel) -> pd.DataFrame:
    """Sales of the forecast series in the weeks ahead, 0 where not observed: store, dept, target_week, sales."""
    ahead = slice(len(active.weeks), len(active.weeks) + protocol.HORIZON)
    forecast = {*zip(active.store, active.dept, strict=True)}
    among = [(s, d) in forecast for s, d in zip(panel.store, panel.dept, strict=True)]
    sales, weeks = np.nan_to_num(panel.sales[among, ahead]), panel.weeks[ahead].astype("datetime64[s]")
    names = {key: np.repeat(getattr(panel, key)[among].astype(object), len(weeks)) for key in KEYS}
    return pd.DataFrame({**names, "target_week": np.tile(weeks, len(sales)), "sales": sales.ravel()})


def scores(forecasts: pd.DataFrame, actuals: pd.DataFrame, weeks: int) -> list[dict[str, Any]]:
    """Coverage and wQL of each level, for forecasts of single weeks or of the first `weeks` added up."""
    forecasts = forecasts.assign(target_week=pd.to_datetime(forecasts["target_week"]), everything="")
    actuals = actuals.assign(everything="")
    if weeks > 1:
        last = forecasts["target_week"].max()
        actuals = actuals[actuals["target_week"] <= last].assign(target_week=last)
    rows = []
    for level in LEVELS:
        by = [*level.by, "everything", "target_week"]
        actual = actuals.groupby(by, as_index=False)["sales"].sum()
        joined = forecasts[forecasts["level"] == level.name].merge(actual, on=by, validate="one_to_one")
        y, q = joined["sales"].to_numpy(), joined[list(COLUMNS)].to_numpy().T
        loss = weighted_quantile_loss(y[:, None], q.T[:, :, None], QUANTILES, np.ones((len(y), 1), bool))
        coverage = ((q[0] <= y) & (y <= q[-1])).mean()
        rows.append({"level": level.name, "sums": len(joined), "coverage": float(coverage), "wql": loss})
    return rows


def write(kept: dict[str, Any]) -> None:
    """Write the page from results."""
    runs = pd.DataFrame(kept["runs"])
    cutoffs = sorted(set(runs["cutoff"]))
    head = {"count": len(cutoffs), "first": cutoffs[0], "last": cutoffs[-1], "horizon": protocol.HORIZON}
    parts = [_HEAD.format(**kept["about"], **head, candidate=CANDIDATE)]
    for piece, of in runs.groupby("piece", sort=False):
        columns = ("level", "weeks added up", "coverage, joint", "independent", "wQL, joint", "independent")
        lines = [f"## {piece}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for weeks in (1, ADDED):
            for level in LEVELS:
                at = of[(of["weeks"] == weeks) & (of["level"] == level.name)].groupby("paths")
                coverage, wql = at["coverage"].mean(), at["wql"].mean()
                figures = [f"{coverage[paths]:.3f}" for paths in (JOINT, INDEPENDENT)]
                figures += [f"{wql[paths]:.4f}" for paths in (JOINT, INDEPENDENT)]
                lines.append(f"| {level.name} | {weeks} | {' | '.join(figures)} |")
        parts.append("\n".join(lines))
    PAGE.write_text("\n\n".join(part.rstrip() for part in parts) + "\n")


def main() -> int:
    source = protocol.sales_file(protocol.sales_folder(ROOT))
    if source is None:
        raise FileNotFoundError("no sales of Walmart; name their folder in FORECAST_WALMART_DIR")
    whole = protocol.to_panel(protocol.read_sales(source))
    pieces = [(f"All of Walmart, {len(whole):,} series", whole)]
    for seed, stores, depts in PIECES:
        panel = Piece.of(WALMART, whole, seed, stores, depts).panel
        pieces.append((f"{len(panel)} series of {stores} store{'s' * (stores > 1)}, seed {seed}", panel))
    runs: list[dict[str, Any]] = []
    for piece, panel in pieces:
        for cutoff in ROLLING:
            runs += [{"piece": piece, "cutoff": str(cutoff)} | each for each in measure(panel, cutoff, CANDIDATE)]
        print(f"{piece}: done", flush=True)
    kept = {"about": {**machine(), "date": str(dt.datetime.now(dt.UTC).date()), "commit": commit()}, "runs": runs}
    RESULTS.write_text(json.dumps(kept) + "\n")
    write(kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
