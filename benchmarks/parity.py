"""Whether ours is the DeepAR that GluonTS has: python -m benchmarks.parity [--quick] [--fresh] (an hour).

GluonTS is trained as SageMaker's defaults have it, its weights are put into our network, and it is trained again with
our choices in place of its own. The figures go to benchmarks/results/parity, and into the page of the benchmarks.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import protocol, report
from benchmarks.__main__ import ROOT, SCRATCH, Data, Model, Runner

SEEDS = {"sagemaker": (0, 1), "steady": (0, 1), "alike": (0, 1), "settled": (0, 1, 2, 3)}
MODELS = tuple(Model(f"parity-{v}", "gluonts_parity", v, seeds=seeds) for v, seeds in SEEDS.items())


class ParityRunner(Runner):
    """The peer's process holds our engine too, so that a result is kept only as long as both are as they were."""

    def _fingerprint(self, model: Model) -> str:
        content = hashlib.sha256(super()._fingerprint(model).encode())
        if model.variant in ("sagemaker", "settled"):
            for path in sorted((ROOT / "forecast_platform" / "deepar").glob("*.py")):
                content.update(path.read_bytes())
        return content.hexdigest()[:16]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three stores, a moment of training: a try")
    parser.add_argument("--fresh", action="store_true", help="run again what there are results of")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="the peers' environment")
    options = parser.parse_args(arguments)
    source = protocol.sales_file(protocol.sales_folder(ROOT))
    python = options.peers.absolute() / "bin" / "python"
    if source is None or not python.exists():
        print("the sales or the peers' environment are not there: see python -m benchmarks", file=sys.stderr)
        return 2
    folder = SCRATCH / "quick" / "results" if options.quick else ROOT / "benchmarks" / "results"
    page = SCRATCH / "quick" / "benchmarks.md" if options.quick else ROOT / "docs" / "benchmarks.md"
    with tempfile.TemporaryDirectory() as exports:
        data = Data.load(source, Path(exports), options.quick)
        runner = ParityRunner(data, python, folder / "parity", options.quick, "python -m benchmarks.parity")
        for seed in range(1 if options.quick else 4):
            for model in MODELS:
                for cutoff in model.cutoffs if seed in model.seeds else ():
                    name = f"{model.name}, {cutoff}, seed {seed}"
                    if not options.fresh and runner.kept(model, cutoff, seed):
                        print(f"{name}: kept", flush=True)
                        continue
                    print(f"{name}: {runner.run(model, cutoff, seed)}", flush=True)
    report.write(folder, page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
