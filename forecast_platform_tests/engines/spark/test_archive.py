"""The archive for Spark's workers: everything that work on a shard imports, and a Python that finds it."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from forecast_platform.engines.spark import archive

# In a process of its own: both steps that workers take, on a retailer of two shards, then what is imported by then.
_WORK = """
import json, sys
from pathlib import Path
from forecast_platform.engines.base import predict_here
from forecast_platform.engines.spark import cluster, emr
from forecast_platform.models.trained import TrainedModel
from forecast_platform.publishing import series
from forecast_platform_tests.engines.test_predictions import ASKED
tested = set(sys.modules)
predict_here(TrainedModel.load(Path(sys.argv[1])), [Path(p) for p in sys.argv[3:]], Path(sys.argv[2]), ASKED)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_all_that_work_imports_is_packed(model, shards, tmp_path):
    given = [str(place) for place in (model.folder, tmp_path / "week", *shards)]
    done = subprocess.run([sys.executable, "-c", _WORK, *given], capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"torch", "numba", "pyarrow"} <= imported
    known = packages_distributions()
    packed = {each.name for each in archive.packed()} | {archive.NAME}
    of_tests = {"pytest", "pluggy", "iniconfig", "cloudpickle", "pygments"}  # cloudpickle is pyspark's own there
    missing = {
        name: known[name] for name in imported & known.keys() if not packed & set(known[name]) and name not in of_tests
    }
    assert not {n: d for n, d in missing.items() if not n.startswith("_")}, "left out of the archive"


def test_dagster_and_what_serves_pages_stay_at_home():
    assert not {"dagster", "dagster-webserver", "uvicorn", "pyspark"} & {each.name for each in archive.packed()}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """An archive without dependencies, which would be a gigabyte."""
    place = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "packed", list)
        archive.build(place / "dist" / "spark.tar.gz")
    with tarfile.open(place / "dist" / "spark.tar.gz") as file:
        file.extractall(place / "environment", filter="data")
    return place / "environment"


def test_its_python_finds_the_platform_wherever_it_was_unpacked(unpacked, tmp_path):
    asked = "import forecast_platform, sys; print(forecast_platform.__file__, sys.version_info[:2], sys.path)"
    done = subprocess.run(
        [unpacked / "bin" / "python", "-c", asked],
        capture_output=True, text=True, cwd=tmp_path, check=True,
        env={"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", "PYTHONPATH": "/spark/python"},
    )  # fmt: skip
    assert done.stdout.startswith(f"{unpacked}/lib/forecast_platform/__init__.py {sys.version_info[:2]}")
    assert "/spark/python" in done.stdout, "what Spark says of its own is kept"
