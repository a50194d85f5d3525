"""The section on parity of the benchmarks' page, from the results of benchmarks.parity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.protocol import CUTOFFS

Result = Mapping[str, Any]

THEIRS, TRANSPLANTED, BESIDE = "theirs", "ours with its weights", "ours told the same"  # forecasts in the results
CLOSE = 0.02

# Which of our choices GluonTS is given: each row adds to the one above.
_VARIANTS = {
    "sagemaker": "SageMaker's defaults, the rest its own",
    "steady": "+ windows drawn as ours are, and our constant learning rate",
    "alike": "+ our inputs and our initial weights",
}
_FUNCTION = """\
### The same function

With GluonTS's trained weights in both networks, on {windows:,} windows, the Student's t distributions differ by at most
{df:.0e} in degrees of freedom, {loc:.0e} in location and {width:.1e} in width; ours adds a floor of that size. From
the same initial weights, on the same windows, without dropout and with one bias for GluonTS's two, {steps} steps of
training lower the loss from {first} nats to {last}; the two losses are never more than {apart:.0e} apart. So network,
likelihood, gradient and optimiser are the same. With the same trained weights, forecasts differ by how paths are drawn:
ours spreads those of a series evenly.

| cutoff | wQL, GluonTS | wQL, its weights in ours | ratio | seeds | verdict |
|---|---|---|---|---|---|
"""
_CHOICES = """\
### What is not the same

What SageMaker does not document, each has chosen for itself. Here GluonTS is given our choices, one group after the
other:

| GluonTS's DeepAR with | {columns} | seeds |
|---|{rules}---|
"""
_WHAT = """\
At a constant
learning rate the last weights differ by chance, so read the ratios with the seeds in brackets.

- Windows and learning rate: GluonTS draws batches in the order of the series, so a batch of 128 holds one or two
  stores. It halves the learning rate, and picks the epoch to keep, by a loss in units of sales. That loss depends more
  on the sizes of the series that an epoch draws than on what is learned. Ours shuffles, keeps the learning rate and
  ends with the last epoch.
- Inputs and initial weights: ours standardises the log of the scale, tells the network which lags were observed, starts
  embeddings at a tenth of GluonTS's size and the forget gates open.
- Not made the same here: GluonTS's dropout draws a mask at every step, ours one for a window; GluonTS's two biases
  learn at twice the rate of one; in GluonTS a context without observations takes the batch's scale.
"""
_SETTLED = """\
### The same choices

Now neither has dropout, GluonTS has one bias, and in both the learning rate falls to 0 by half a cosine, so that the
last weights hardly depend on chance. The only known difference left is in series whose context holds no observation.

| cutoff | wQL, GluonTS (each seed) | wQL, ours (each seed) | ratio | seeds | verdict |
|---|---|---|---|---|---|
"""


def section(folder: Path, ours: Mapping[str, float | None]) -> str:
    """The section; "" where there are no results.

    Args:
        ours: cutoff -> wQL of ours at SageMaker's defaults.
    """
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    plain = [r for r in results if r["model"] == "parity-sagemaker"]
    if {r["cutoff"] for r in plain} != set(CUTOFFS):
        return ""
    dates = sorted({r["date"][:10] for r in results})
    commits = ", ".join(sorted({r["commit"] for r in results}))
    made = f"Command: `python -m benchmarks.parity`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, at {commits}."
    parts = [_function(plain), _choices(results, ours), _settled(results), made]
    return "\n\n".join(part for part in parts if part)


def _wql(results: Sequence[Result], cutoff: str, name: str = THEIRS) -> list[float]:
    return [r["scores"][name]["wql"] for r in results if r["cutoff"] == cutoff]


def _function(plain: Sequence[Result]) -> str:
    function = [r["outcome"]["extra"]["function"] for r in plain]
    training = [r["outcome"]["extra"]["training"] for r in plain]
    worst = max(training, key=lambda t: t["largest"])

    def pair(losses: Sequence[float]) -> str:
        return " and ".join(f"{loss:.4f}" for loss in losses)

    text = _FUNCTION.format(
        windows=sum(f["windows"] for f in function),
        df=max(f["degrees of freedom"] for f in function),
        loc=max(f["location"] for f in function),
        width=max(f["width"] for f in function),
        steps=worst["steps"],
        first=pair(worst["first"]),
        last=pair(worst["last"]),
        apart=worst["largest"],
    )
    lines = []
    for cutoff in CUTOFFS:
        theirs, ours = (_wql(plain, cutoff, name) for name in (THEIRS, TRANSPLANTED))
        lines.append(f"| {cutoff} | {fmean(theirs):.4f} | {fmean(ours):.4f} | {_verdict(ours, theirs)} |")
    return text + "\n".join(lines)


def _settled(results: Sequence[Result]) -> str:
    """The part with the same choices; empty before there are results of all cutoffs."""
    found = [r for r in results if r["model"] == "parity-settled"]
    if {r["cutoff"] for r in found} != set(CUTOFFS):
        return ""
    lines = []
    for cutoff in CUTOFFS:
        theirs, ours = (_wql(found, cutoff, name) for name in (THEIRS, BESIDE))
        lines.append(f"| {cutoff} | {_each(theirs)} | {_each(ours)} | {_verdict(ours, theirs)} |")
    return _SETTLED + "\n".join(lines)


def _each(values: Sequence[float]) -> str:
    return f"{fmean(values):.4f} ({', '.join(f'{x:.4f}' for x in values)})"


def _verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The cells ratio, seeds and verdict of a row."""
    ratio = fmean(ours) / fmean(theirs)
    return f"{ratio:.3f} | {len(theirs)} | {'within 2%' if abs(ratio - 1) <= CLOSE else '**a miss**: not within 2%'}"


def _choices(results: Sequence[Result], ours: Mapping[str, float | None]) -> str:
    lines, verdict = [], ""
    for variant, label in _VARIANTS.items():
        found = [r for r in results if r["model"] == f"parity-{variant}"]
        values = {cutoff: _wql(found, cutoff) for cutoff in CUTOFFS}
        if all(values.values()):
            cells = []
            for cutoff, each in values.items():
                mine = ours[cutoff]
                cells.append(_each(each))
                cells.append(f"{mine / fmean(each):.3f}" if mine else "-")
            ratios = [(c, mine / fmean(values[c])) for c, mine in ours.items() if mine]
            verdict = "; ".join(f"at {c} {'' if abs(r - 1) <= CLOSE else '**not** '}within 2%" for c, r in ratios)
            lines.append(f"| {label} | {' | '.join(cells)} | {min(len(v) for v in values.values())} |")
    head = _CHOICES.format(
        columns=" | ".join(f"wQL, {c} (each seed) | ours / it" for c in CUTOFFS), rules="---|---|" * len(CUTOFFS)
    )
    close = f"With all that the last row has, GluonTS and ours are {verdict}. " if verdict else ""
    return head + "\n".join(lines) + "\n\n" + close + _WHAT.rstrip()
