"""Builds what Lambda takes: function.zip, our code, and layer.zip, the packages that it needs; same files, same bytes.

    python -m forecast_platform.serverless.package dist/serverless

The layer holds the packages installed here: build it on Linux on x86 with the Python of the Lambda's runtime, which is
printed. That is 3.12 or 3.13, as Lambda's 3.11 stands on a Linux that is too old for pyarrow's wheels. `strip`
(binutils) takes out what is for debuggers; what these functions never load is left out (tests, headers, Arrow's
Flight, other databases), since a function and its layers may have LIMIT bytes unpacked. boto3 comes with the runtime.
The home's settings.toml, if there is one, goes along: the functions' FORECAST_HOME is where their code is.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from forecast_platform.settings import home

LIMIT = 250 << 20  # bytes unpacked, function and layers together
GLIBC = (2, 34)  # the C library of Amazon Linux 2023, which Lambda's Python 3.12 and 3.13 stand on; 3.11's is 2.26
DIRECT = 50 << 20  # bytes of a zip that is not sent by way of S3
# What the two steps import, found by a test that runs them from the zips alone.
PACKAGES = (
    "annotated-types", "cachetools", "click", "duckdb", "filelock", "fsspec", "holidays", "mmh3", "numpy", "orjson",
    "pyarrow", "pydantic", "pydantic-core", "pydantic-settings", "pyiceberg", "pyparsing", "pyroaring",
    "python-calamine", "python-dateutil", "python-dotenv", "rich", "safetensors", "six", "sqlalchemy", "strictyaml",
    "tenacity", "typing-extensions", "typing-inspection", "zstandard",
)  # fmt: skip
_USELESS = re.compile(
    r"(^|/)(tests?|testing|__pycache__|include|src|f2py|distutils|bin|sboms)/|^\.\."
    r"|\.(pyi|pxd|pyx|pxi|h|hpp|a|lib|exe)$"
    r"|libarrow_(flight|python_flight)|/_(flight|substrait|pyarrow_cpp_tests)\.|numpy/_core/_simd\."
    r"|^hive_metastore/|^sqlalchemy/dialects/(mssql|mysql|oracle|postgresql)/|^duckdb/experimental/"
    r"|^sqlalchemy/.*_cy\.cpython|^zstandard/_cffi"  # each lies there in another form, too
    r"|libarrow_python\w*\.so(\.\d+\.\d+\.\d+)?$"  # each is there three times, and one is loaded: .so.NUMBER
)
_WITH_SYMBOLS = re.compile(r"^(pyroaring\.|zstandard/|pyarrow/).*\.so\b")  # for debuggers, up to nine tenths of a file
_SOURCE = Path(__file__).parents[1]
_DATA = ("*.py", "engines/rates.json", "models/pretrained/*.safetensors")


def function_files() -> dict[str, Path]:
    """Name in function.zip -> file. The handler lies on top, what it imports lies where it lies here."""
    found = {path for pattern in _DATA for path in _SOURCE.rglob(pattern)}
    names = {path.relative_to(_SOURCE.parent).as_posix(): path for path in found}
    names["lambda_function.py"] = Path(__file__).with_name("lambda_function.py")
    settings = home() / "settings.toml"
    return names | ({settings.name: settings} if settings.exists() else {})


def layer_files(work: Path) -> dict[str, Path]:
    """Name in layer.zip -> file, of the packages installed here.

    Args:
        work: folder for those that are stripped of symbols.

    Raises:
        PackageNotFoundError: one is not installed. FileNotFoundError: there is no `strip` here.
    """
    found = {}
    for package in PACKAGES:
        for file in importlib.metadata.files(package) or ():
            name, path = file.as_posix(), Path(str(file.locate()))
            if _USELESS.search(name):
                continue
            if _WITH_SYMBOLS.search(name):
                stripped = work / name
                stripped.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["strip", "--strip-unneeded", "-o", str(stripped), str(path)], check=True)  # noqa: S603, S607
                path = stripped
            found[f"python/{name}"] = path
    return found


def build(folder: Path) -> dict[str, tuple[int, int]]:
    """Write both zips. Returns of each its bytes, zipped and unpacked.

    Raises:
        ValueError: together they are larger than Lambda takes, or one needs a newer Linux. Else see `layer_files`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    with tempfile.TemporaryDirectory() as work:
        for name, files in {"function": function_files(), "layer": layer_files(Path(work))}.items():
            for member, file in files.items():
                if ".so" in member and (needs := glibc(file)) > GLIBC:
                    versions = (".".join(map(str, version)) for version in (needs, GLIBC))
                    raise ValueError("{} needs glibc {}, and Lambda's Linux has {}".format(member, *versions))
            sizes[name] = _zip(folder / f"{name}.zip", files), sum(file.stat().st_size for file in files.values())
    if (unpacked := sum(size for _, size in sizes.values())) > LIMIT:
        raise ValueError(f"{unpacked:,} bytes unpacked are more than the {LIMIT:,} that Lambda takes")
    return sizes


def glibc(library: Path) -> tuple[int, int]:
    """The newest version of the C library whose symbols a library asks for; (0, 0) where it asks for none."""
    command = ["readelf", "--version-info", str(library)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return max(((int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", said)), default=(0, 0))


def _zip(path: Path, files: dict[str, Path]) -> int:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, file in sorted(files.items()):
            info = zipfile.ZipInfo(name)  # dated 1980-01-01
            info.create_system, info.external_attr = 3, 0o755 << 16
            archive.writestr(info, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path.stat().st_size


def _lines(sizes: dict[str, tuple[int, int]]) -> Iterator[str]:
    for name, (zipped, unpacked) in sizes.items():
        how = "by S3 only" if zipped > DIRECT else "directly or by S3"
        yield f"{name}.zip: {zipped / 2**20:.1f} MB zipped ({how}), {unpacked / 2**20:.1f} MB unpacked"
    total = sum(unpacked for _, unpacked in sizes.values())
    yield f"together {total / 2**20:.1f} of {LIMIT / 2**20:.0f} MB unpacked"
    yield f"runtime: python{sys.version_info.major}.{sys.version_info.minor}, {platform.machine()}"


if __name__ == "__main__":
    print("\n".join(_lines(build(Path(sys.argv[1])))))
