"""What each ingredient of the shipped model is worth: python -m benchmarks.ablations [--quick] [--fresh].

The ingredients are no options of the package. Here they are taken out by patching names of it during a trial. Results
are kept per trial and cutoff, in benchmarks/results/ablations.json; the page is docs/ablations.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import ablations_report, protocol, trees
from benchmarks.__main__ import ROOT, SCRATCH, Data, commit, machine
from benchmarks.ablations_report import AS_IS, CALIBRATED
from benchmarks.measure import QUANTILES, Floats, timed
from benchmarks.protocol import CUTOFFS, HORIZON, MIN_WEEKS
from forecast_platform.history.panel import Panel
from forecast_platform.models import choose as selection
from forecast_platform.models import networks, registry
from forecast_platform.models.backtest import scored_window
from forecast_platform.models.calibration import volume
from forecast_platform.models.combine import least_sales, spread_about
from forecast_platform.models.last_year import outlook, reference
from forecast_platform.models.metrics import score
from forecast_platform.models.registry import CANDIDATES
from forecast_platform.models.target import RATIO, SALES, Target, build_target
from forecast_platform.models.trained import code_version
from forecast_platform.settings import Settings
from forecast_platform.weeks import WEEK

# Further cutoffs beside the protocol's two.
ROLLING = tuple(str(dt.date(2011, 9, 2) + 14 * k * WEEK) for k in range(4))
USUAL_SHARE = 0.5  # the network's weight in the forecast; the reference has the rest
_REFERENCE = "aligned_last_year"
_MIDDLE = QUANTILES.index(0.5)


@dataclass(frozen=True)
class Trial:
    """One training, or none, and the rows of the page that come from it.

    Attributes:
        rows: row of the page -> the network's weight in its forecast; the reference has the rest.
        replaced: name in forecast_platform -> what it is patched with.
        given: hyperparameters that differ from the shipped ones.
        candidate: the network; None: the reference alone, nothing is trained.
        calibrated: whether there are rows, too, whose weight and widths come from backtests before the cutoff.
        partner: forecasts sales, shape (N, H), given history, horizon and seed. Its forecast has half of the network's
            weight.
    """

    rows: Mapping[str, float]
    replaced: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    candidate: str | None = RATIO
    calibrated: bool = False
    partner: Callable[[Panel, int, int], Floats] | None = None

    @property
    def name(self) -> str:
        return next(iter(self.rows))


LAST_YEAR, PULSE, SECOND = (
    "models.last_year.outlook.last_year",
    "models.last_year.reference.STORE_PULSE",
    "models.last_year.reference.SECOND_YEAR",
)
WINDOWS, OWN_POWERS, PEAK_DAMPINGS, STORE, DEPARTMENT, TRIM = (
    f"models.last_year.outlook.{name}"
    for name in ("WINDOWS", "OWN_POWERS", "PEAK_DAMPINGS", "STORE", "DEPARTMENT", "TRIM")
)


def _steps() -> Iterator[Trial]:
    """The steps from last year's week to the shipped reference. Each step adds one ingredient to those before it."""
    given: dict[str, Any] = {
        LAST_YEAR: partial(reference.last_year, mix=0.0, events=()),
        PULSE: 0.0,
        SECOND: 0.0,
        # A single variant, without growth and with peaks at their full height.
        **{WINDOWS: (18,), OWN_POWERS: (0.0,), PEAK_DAMPINGS: (0.0,), STORE: 0.0, DEPARTMENT: 0.0, TRIM: 0.0},
    }
    steps: dict[str, dict[str, Any]] = {
        "the same week last year": {},
        "+ holidays lined up": {LAST_YEAR: partial(reference.last_year, mix=0.0)},
        "+ growth over 18 weeks, shrunk to 1": {OWN_POWERS: (0.7,)},
        "+ half from the department": {LAST_YEAR: partial(reference.last_year, mix=0.5)},
        "+ the mix fitted by department": {LAST_YEAR: reference.last_year},
        "+ the store's pulse": {PULSE: reference.STORE_PULSE},
        "+ the year before last": {SECOND: reference.SECOND_YEAR},
        "+ growth shrunk to store and department": {STORE: outlook.STORE, DEPARTMENT: outlook.DEPARTMENT},
        "+ growth without extreme weeks": {TRIM: outlook.TRIM},
        "+ variants of growth by department": {WINDOWS: outlook.WINDOWS, OWN_POWERS: outlook.OWN_POWERS},
        "+ lower peaks by department": {PEAK_DAMPINGS: outlook.PEAK_DAMPINGS},
    }
    for name, shipped in steps.items():
        given = {**given, **shipped}
        yield Trial({name: 0.0}, given, candidate=None)


STEPS = tuple(_steps())
# One network instead of two, with the training windows of both or of one; it is given the size of the week.
_ONE = {"num_networks": "1", "blind_features": "0"}
_WINDOWS, _REPEATS = "models.networks.TRAIN_WINDOWS", "models.networks.CASE_REPEATS"
_NETWORKS = int(networks.SHIPPED[RATIO]["num_networks"])
_EACH = {**networks.TRAIN_WINDOWS, RATIO: networks.TRAIN_WINDOWS[RATIO] // _NETWORKS}
_HALF = {**networks.TRAIN_WINDOWS, RATIO: networks.TRAIN_WINDOWS[RATIO] // 2}
_TWICE = {**networks.TRAIN_WINDOWS, RATIO: 2 * networks.TRAIN_WINDOWS[RATIO]}


def by_volume(panel: Panel, horizon: int, kind: str, **given: Any) -> Target:
    """The target with as many cases, drawn with probabilities proportional to the square root of their series' usual
    sales."""
    found = build_target(panel, horizon, kind, **given)
    rng = np.random.default_rng(0)
    sells = dict(zip(zip(panel.store.tolist(), panel.dept.tolist(), strict=True), found.offset.tolist(), strict=True))

    def drawn(case: Panel) -> Panel:
        names = zip(case.store.tolist(), case.dept.tolist(), strict=True)
        often = np.sqrt(np.maximum([sells[name] for name in names], 0))
        return case.select(np.sort(rng.choice(len(case), len(case), p=often / often.sum())))

    return dataclasses.replace(found, cases=lambda: tuple(map(drawn, found.cases())))


SHIPPED = Trial({"as shipped": USUAL_SHARE, "the reference alone": 0.0, "the network alone": 1.0}, calibrated=True)
TAKEN_OUT = (
    Trial({"another seed": USUAL_SHARE}, given={"seed": "1"}),
    Trial({"no damping of small weeks": USUAL_SHARE}, {"models.target.DAMPING": 0.0}),
    Trial(
        {"no network knows the size of the week": USUAL_SHARE},
        given={"blind_features": "0", "num_dynamic_feat": "ignore"},
    ),
    Trial({"all networks know the size of the week": USUAL_SHARE}, given={"blind_features": "0"}),
    Trial({"one network, windows of both": USUAL_SHARE}, {_REPEATS: _NETWORKS * networks.CASE_REPEATS}, _ONE),
    Trial({"one network, windows of one": USUAL_SHARE}, {_WINDOWS: _EACH}, _ONE),
    Trial({"half of the training": USUAL_SHARE}, {_WINDOWS: _HALF}),
    Trial({"twice the training": USUAL_SHARE}, {_WINDOWS: _TWICE, _REPEATS: 2 * networks.CASE_REPEATS}),
    Trial({"Gaussian instead of Student's t": USUAL_SHARE}, given={"likelihood": "gaussian"}),
    Trial({"cases drawn by volume": USUAL_SHARE}, {"models.networks.build_target": by_volume}),
    Trial({"with LightGBM, a third each": 2 / 3}, partner=trees.median),
    Trial({"12 weeks of context instead of 4": USUAL_SHARE}, given={"context_length": "12"}),
    Trial({"no year before last in the reference": USUAL_SHARE}, {SECOND: 0.0}),
    Trial({"time features": USUAL_SHARE}, given={"time_features": "auto"}),
    Trial({"sales instead of the ratio": 1.0}, candidate=SALES),
    Trial({"sales with a lag skip": 1.0}, candidate=networks.SKIP),
)
TRIALS = (*STEPS, SHIPPED, *TAKEN_OUT)


@contextlib.contextmanager
def replaced(names: Mapping[str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(mock.patch(f"forecast_platform.{name}", value))
        yield


def run(trial: Trial, panel: Panel, cutoff: dt.date, given: Mapping[str, str]) -> dict[str, Any]:
    """Scores by row, CPU seconds of training, and the weight that backtests gave the network (None where the history is
    too short for one).

    Args:
        given: further hyperparameters, for a quick try.
    """
    history = panel.until(cutoff)
    window = scored_window(panel, cutoff, HORIZON, MIN_WEEKS)
    past = panel.sales[window.scored, : panel.position(cutoff) + 1]

    def scores(found: Floats, lead: Floats, share: float, widths: Floats | None = None) -> dict[str, float]:
        mixed = share * found + (1 - share) * lead
        widths = np.ones_like(mixed[:, 0]) if widths is None else widths
        forecast = spread_about(mixed, mixed[:, _MIDDLE], widths, least_sales(history.sales))
        result = asdict(score(window.y, window.mask, forecast[window.among_known], QUANTILES, past))
        return {metric: result[metric] for metric in ("wape", "wql", "coverage80")}

    seconds: list[float] = []
    fit = networks.fit

    def timed_fit(*args: Any) -> Any:
        trained, spent = timed(lambda: fit(*args))
        seconds.append(spent)
        return trained

    with replaced({**trial.replaced, "models.networks.fit": timed_fit}):
        lead = CANDIDATES[_REFERENCE].forecast({}, history, HORIZON, QUANTILES)
        if trial.candidate is None:
            return {"part": "reference", "scores": {row: scores(lead, lead, s) for row, s in trial.rows.items()}}
        shipped = registry.plans(Settings.model_construct(), HORIZON)[trial.candidate]  # whatever the environment says
        parameters = {**shipped, **trial.given, **given}
        found = networks.network_forecast(trial.candidate, parameters, history, HORIZON, QUANTILES)
        if trial.partner:
            other, spent = timed(lambda p=trial.partner: p(history, HORIZON, int(parameters["seed"])))  # type: ignore[misc]
            seconds.append(spent)
            found = found + (other - found[:, _MIDDLE])[:, None] / 2
        result: dict[str, Any] = {"part": "network", "train_cpu_s": sum(seconds)}
        result["scores"] = {row: scores(found, lead, share) for row, share in trial.rows.items()}
        if trial.calibrated:
            plans = {trial.candidate: parameters, _REFERENCE: {"prediction_length": str(HORIZON)}}
            choice = selection.choose(history, plans)
            share = choice.blend.usual.get(trial.candidate, 0.0)
            widths = choice.calibration.widths(volume(history.sales), HORIZON)
            result["scores"][AS_IS] = scores(found, lead, share)
            result["scores"][CALIBRATED] = scores(found, lead, share, widths)
            result["share"] = None if choice.judgement.verdict == "unjudged" else share
        return result


def fingerprint(trial: Trial, cutoff: str, data: Data) -> str:
    """Digest of what decides a result. It does not see the code of functions that names are patched with: use --fresh
    after changing one."""
    plain = (float, int, dict, tuple)
    changes = {name: value if isinstance(value, plain) else "" for name, value in trial.replaced.items()}
    decides = [cutoff, trial.rows, changes, trial.given, trial.candidate, trial.calibrated, machine(), data.digest]
    content = hashlib.sha256(json.dumps(decides).encode())
    if trial.partner:
        content.update(Path(trees.__file__).read_bytes())
    content.update(code_version().encode())
    return content.hexdigest()[:16]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three stores, two cutoffs, a moment of training: a try")
    parser.add_argument("--fresh", action="store_true", help="run again what there are results of")
    options = parser.parse_args(arguments)
    folder = protocol.sales_folder(ROOT)
    source = protocol.sales_file(folder)
    if source is None:
        print(f"no sales.csv or sales.csv.gz in {folder}; name another in FORECAST_WALMART_DIR", file=sys.stderr)
        return 2
    quick = options.quick
    store = (SCRATCH / "quick" if quick else ROOT / "benchmarks") / "results" / "ablations.json"
    page = SCRATCH / "quick" / "ablations.md" if quick else ROOT / "docs" / "ablations.md"
    cutoffs = (ROLLING[-1], CUTOFFS[0]) if quick else (*ROLLING, *CUTOFFS)
    given = {"epochs": "2"} if quick else {}
    with tempfile.TemporaryDirectory() as exports:
        data = Data.load(source, Path(exports), quick)
    about = {"machine": machine(), "data": data.describe()}
    runs = json.loads(store.read_text())["runs"] if store.exists() and not options.fresh else []
    kept = {run["fingerprint"]: run for run in runs}
    runs = []
    trials = TRIALS
    if importlib.util.find_spec("lightgbm") is None:
        print("LightGBM is not installed (extra trees): its row is left out", flush=True)
        trials = tuple(trial for trial in TRIALS if trial.partner is None)
    # All fingerprints are taken now, because sources may change while the trials run.
    todo = [(cutoff, trial, fingerprint(trial, cutoff, data)) for cutoff in cutoffs for trial in trials]
    for number, (cutoff, trial, mark) in enumerate(todo, 1):
        if mark not in kept:
            result, spent = timed(lambda t=trial, c=cutoff: run(t, data.panel, dt.date.fromisoformat(c), given))  # type: ignore[misc]
            kept[mark] = {
                "fingerprint": mark,
                "date": str(dt.datetime.now(dt.UTC).date()),
                "commit": commit(),
                "cutoff": cutoff,
                **result,
            }
            _write(store, {**about, "runs": list(kept.values())})
            wape = result["scores"][trial.name]["wape"]
            print(f"[{number}/{len(todo)}] {cutoff}, {trial.name}: WAPE {wape:.4f}, {spent:.0f} CPU s", flush=True)
        runs.append(kept[mark])
    _write(store, {**about, "runs": runs})
    small = None if quick else ablations_report.small_results(ROOT)
    ablations_report.write(ablations_report.Results(runs=runs, **about), page, small)
    print(page)
    return 0


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(content, indent=1) + "\n")
    half.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
