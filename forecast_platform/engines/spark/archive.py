"""Builds what Spark's workers need beside Spark and Python: one archive of the platform and its dependencies.

python -m forecast_platform.engines.spark.archive dist/spark.tar.gz

It is made of what is installed here, so that workers compute with the versions of the driver, and is for machines of
this one's kind: Linux or not, processor, minor version of Python. bin/python in it is their own Python that sees lib/.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

import forecast_platform

NAME = "forecast-platform"
# What only the machine needs that Dagster, the dashboard or the commands run on.
AT_HOME = {
    *("dagster", "dagster-webserver", "dagster-duckdb", "click", "matplotlib", "pyiceberg", "python-calamine"),
    *("starlette", "tqdm", "uvicorn"),
}
EXTRAS = ("boto3", "dagster-pipes", "lightgbm")  # where they are installed: storage and jobs on AWS, a candidate

_PYTHON = """#!/bin/sh
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/lib${PYTHONPATH:+:$PYTHONPATH}"
exec python%d.%d "$@"
"""


def packed() -> list[Distribution]:
    """The distributions that go into the archive, beside the platform itself: what it needs, and what these need."""
    installed = {_plain(each.name): each for each in distributions()}
    waiting = [name for name in _needs(distribution(NAME)) if name not in AT_HOME] + list(EXTRAS)
    found: dict[str, Distribution] = {}
    while waiting:
        name = waiting.pop()
        if name in installed and name not in found:
            found[name] = installed[name]
            waiting += _needs(installed[name])
    return [found[name] for name in sorted(found)]


def build(path: Path) -> None:
    """Write the archive to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        script = tarfile.TarInfo("bin/python")
        data = (_PYTHON % sys.version_info[:2]).encode()
        script.size, script.mode = len(data), 0o755
        archive.addfile(script, io.BytesIO(data))
        top = Path(forecast_platform.__file__).parent
        archive.add(top, f"lib/{top.name}", filter=_without_caches)
        for each in packed():
            for file in each.files or ():
                if ".." not in file.parts:  # its commands
                    archive.add(
                        str(file.locate()), f"lib/{PurePosixPath(file)}", recursive=False, filter=_without_caches
                    )


def _without_caches(found: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in found.name else found


def _needs(of: Distribution) -> list[str]:
    """Names of what it needs here, without extras."""
    wanted = [Requirement(line) for line in of.requires or ()]
    return [_plain(each.name) for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    build(Path(sys.argv[1]))
