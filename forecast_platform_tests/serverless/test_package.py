"""The zips: small enough for Lambda, the same bytes each time, and all that the functions need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from forecast_platform.serverless import package
from forecast_platform_tests.conftest import SMALL
from forecast_platform_tests.serverless.test_pipeline import AWS, Cloud, as_variables, cloud, created, ended

__all__ = ["cloud"]  # the fixture

RUN = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import lambda_function
print("\\n" + json.dumps(getattr(lambda_function, sys.argv[2])(json.loads(sys.argv[3]))))
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(loaded & {"torch", "dagster", "pandas", "numba", "scipy", "matplotlib"})))
"""


def unpacked(files: dict[str, Path], folder: Path) -> Path:
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(file)
    return folder


def runtime(folder: Path) -> Path:
    """What every Lambda has, and nothing else that is installed here."""
    folder.mkdir(exist_ok=True)
    for name in ("boto3", "botocore", "s3transfer", "jmespath", "urllib3"):
        if not (folder / name).exists():
            (folder / name).symlink_to(Path(__import__(name).__file__ or "").parent)
    return folder


needs_strip = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("strip"), reason="a layer is of Linux, and stripped by binutils"
)


@needs_strip
def test_the_zips_alone_take_a_file_to_its_forecast(cloud: Cloud, tmp_path: Path) -> None:
    """By Python without any installed package, but for those that the Lambda's runtime brings."""
    function = unpacked(package.function_files(), tmp_path / "task")
    layer = unpacked(package.layer_files(tmp_path / "work"), tmp_path / "opt")
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment = aws | as_variables(SMALL | AWS) | {"MODEL_NAME": cloud.model, "FORECAST_HOME": str(function)}
    place = json.dumps([str(function), str(layer / "python"), str(runtime(tmp_path / "runtime"))])

    def call(handler: str, event: object) -> dict[str, object]:
        command = [sys.executable, "-I", "-S", "-c", RUN, place, handler, json.dumps(event)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        *_, said, heavy = done.stdout.splitlines()
        assert json.loads(heavy) == []
        return dict(json.loads(said))

    kept = {file for file in function.rglob("*") if "__pycache__" not in file.parts}
    (*_, last) = cloud.files
    begun = call("lambda_handler", created("landing/" + last.relative_to(cloud.home / "landing").as_posix()))
    assert cloud.paid == [begun["job"]]
    assert call("transform_handler", ended(str(begun["job"])))["published"]
    assert {file for file in function.rglob("*") if "__pycache__" not in file.parts} == kept, "there it is read-only"
    ours = (cloud.home / "exports" / "forecasts" / f"{cloud.week}.csv").read_bytes()
    assert cloud.storage.get_bytes(f"exports/forecasts/{cloud.week}.csv") == ours


@needs_strip
def test_they_fit_into_lambda_s_limit_with_some_room(tmp_path: Path) -> None:
    files = [*package.function_files().values(), *package.layer_files(tmp_path).values()]
    assert sum(file.stat().st_size for file in files) < 0.95 * package.LIMIT


@needs_strip
def test_lambda_s_linux_has_the_c_library_that_each_file_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Python 3.12 and 3.13, Amazon Linux 2023. Python 3.11's has 2.26, so make refuses it (test_deploy.py)."""
    files = package.layer_files(tmp_path / "work")
    needed = {name: package.glibc(file) for name, file in files.items() if ".so" in name}
    assert len(needed) > 50
    assert (2, 26) < max(needed.values()) <= package.GLIBC
    monkeypatch.setattr(package, "PACKAGES", ("mmh3",))
    monkeypatch.setattr(package, "GLIBC", (2, 1))
    with pytest.raises(ValueError, match=r"python/mmh3.* needs glibc 2\.2, and Lambda's Linux has 2\.1"):
        package.build(tmp_path / "zips")


def test_the_code_goes_directly_and_is_the_same_bytes_each_time(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "PACKAGES", ("six",))
    home.mkdir()
    (home / "settings.toml").write_text('week_ends = "SUN"\n')
    sizes = package.build(tmp_path / "a")
    package.build(tmp_path / "b")
    assert sizes["function"][0] < package.DIRECT
    for name in ("function.zip", "layer.zip"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    names = zipfile.ZipFile(tmp_path / "a" / "function.zip").namelist()
    assert {"lambda_function.py", "settings.toml", "forecast_platform/levels.py"} <= set(names)
    assert "python/six.py" in zipfile.ZipFile(tmp_path / "a" / "layer.zip").namelist()
    monkeypatch.setattr(package, "LIMIT", 1000)
    with pytest.raises(ValueError, match="more than the 1,000 that Lambda takes"):
        package.build(tmp_path / "c")


def test_the_requirements_are_those_of_the_project() -> None:
    """A package that the project drops is to go here, too."""
    text = (Path(package.__file__).parents[2] / "constraints.txt").read_text().lower().replace("_", "-")
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))
    assert set(package.PACKAGES) <= pinned
