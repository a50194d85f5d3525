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

# In a process in which only what is packed can be imported: what workers do.
_WORK = """
import json, sys
from pathlib import Path

left_out, model, folder, *shards = json.loads(sys.stdin.read())

class LeftOut:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in left_out:
            raise ModuleNotFoundError(f"{name} is not in the archive", name=name)

sys.meta_path.insert(0, LeftOut())
from forecast_platform.engines.base import Asked, predict_here
from forecast_platform.engines.spark import cluster, emr
from forecast_platform.models.trained import TrainedModel
from forecast_platform.publishing import series
asked = Asked((0.1, 0.5, 0.9), 20, 5)
made, _ = predict_here(TrainedModel.load(Path(model)), [Path(p) for p in shards], Path(folder), asked)
print(made.series, "torch" in sys.modules, "numba" in sys.modules)
"""


def test_what_workers_do_needs_nothing_that_is_not_packed(model, shards, tmp_path):
    packed = {each.name for each in archive.packed()} | {archive.NAME}
    left_out = [name for name, of in packages_distributions().items() if not packed & set(of)]
    assert "dagster" in left_out
    given = json.dumps([left_out, *map(str, (model.folder, tmp_path / "week", *shards))])
    done = subprocess.run([sys.executable, "-c", _WORK], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["14", "True", "True"]


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
