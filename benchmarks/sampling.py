"""What learning on a sample of series costs in accuracy: python -m benchmarks.sampling [SERIES ...].

Walmart's 3,331 series are brought into a home once. Then, at each cutoff of the protocol and for each number of
FORECAST_TRAINING_SERIES, the assets of the weekly run choose and train a model, predict and publish, and what is
published is scored (`protocol.py`). All else is as shipped. Needs FORECAST_WALMART_DIR; the results are printed as
JSON, a line each.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import forecast_platform
from benchmarks import protocol, scale
from benchmarks.__main__ import ROOT, commit, machine

ALL, THIRD, TENTH = 5_000, 1_110, 333
ASSETS = ("deepar_model", "batch_predictions", "forecast_table")


def cpu_seconds(asset: str, week: str, home: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Materialize an asset for a week in a process of its own; its CPU seconds, and of a model why it serves.

    Raises:
        RuntimeError: it failed.
    """
    out, log = home / "stage.json", home / "stage.log"
    order = {"tree": str(ROOT), "asset": asset, "job": "weekly_forecast", "weeks": [week, week]}
    order |= {"keep": ["why"], "out": str(out)}
    code, left_cpu_s, _ = scale.start(json.dumps(order), environment, log)
    if code:
        raise RuntimeError(f"{asset} of {week}: {log.read_text().strip()[-300:]}")
    found = json.loads(out.read_text())
    return found["own_cpu_s"] + left_cpu_s - found["start_cpu_s"], found["said"].get("why", "")


def main(numbers: Sequence[int]) -> None:
    if (file := protocol.sales_file(protocol.sales_folder(ROOT))) is None:
        sys.exit("FORECAST_WALMART_DIR names no folder with the Walmart files")
    sales = protocol.read_sales(file)
    panel = protocol.to_panel(sales)
    print(json.dumps({**machine(), "commit": commit(ROOT)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        at_home = scale.environment_of(ROOT, {"FORECAST_HOME": folder})
        order = [sys.executable, "-P", "-m", "forecast_platform.cli", "import", "--preset", "walmart", str(file)]
        subprocess.run(order, env=at_home, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
        for cutoff in protocol.CUTOFFS:
            for number in numbers:
                environment = at_home | {"FORECAST_TRAINING_SERIES": str(number)}
                (train_s, why), *_ = [cpu_seconds(asset, cutoff, home, environment) for asset in ASSETS]
                forecasts = forecast_platform.open(home).forecasts(cutoff)
                scores = protocol.checked_score(sales, panel, dt.date.fromisoformat(cutoff), forecasts)
                kept = {name: round(scores[name], 5) for name in ("wape", "wql", "coverage80")}
                found = {"cutoff": cutoff, "at_most": number, "train_cpu_s": round(train_s, 1), **kept, "why": why}
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]] or [ALL, THIRD, TENTH])
