"""What the images install is decided by docker/*.lock: whole, with a hash for each file, and of the tested versions."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
EXTRAS = {"platform": {"aws", "server", "stream", "trees"}, "deepar": {"trees"}}
TORCH = r"torch @ https://download\.pytorch\.org/whl/cpu/torch-([\d.]+)%2Bcpu-cp311-cp311-manylinux_2_28_x86_64\.whl"
IMAGE = {
    "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
    "python_version": "3.11", "python_full_version": "3.11.9", "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}  # fmt: skip
OF_CUDA = re.compile(r"nvidia|cuda|triton")


def lines(image: str) -> list[str]:
    first, *found = (DOCKER / f"{image}.lock").read_text().splitlines()
    assert "make lock" in first
    return found


def pinned(image: str) -> dict[str, str]:
    """Name -> version. Each line has one hash, of the one file that is for this platform."""
    found = {}
    for line in lines(image):
        match = re.fullmatch(rf"(?:([\w.-]+)==(\S+)|{TORCH}) --hash=sha256:[0-9a-f]{{64}}", line)
        assert match, line
        name, version, torch = match.groups()
        found[canonical(name or "torch")] = version or torch
    assert len(found) == len(lines(image))
    return found


def needed(image: str) -> set[str]:
    """Names of all that the extras need, by the metadata of what is installed here, which is what was tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    asked += [line for extra in EXTRAS[image] for line in extras[extra]]
    todo, seen = [Requirement(line) for line in asked], set()
    while todo:
        requirement = todo.pop()
        for extra in ("", *requirement.extras):
            key = canonical(requirement.name), extra
            if key in seen:
                continue
            seen.add(key)
            for line in importlib.metadata.requires(requirement.name) or ():
                other = Requirement(line)
                if not other.marker or other.marker.evaluate({**IMAGE, "extra": extra}):
                    todo.append(other)
    # Where PyPI's own torch is installed: the images have the build without CUDA.
    return {name for name, _ in seen if not OF_CUDA.search(name)}


@pytest.mark.parametrize("image", EXTRAS)
def test_a_lock_holds_what_the_image_needs_and_no_more_in_the_tested_versions(image: str) -> None:
    found = pinned(image)
    assert set(found) == needed(image), "make lock"
    constraints = (ROOT / "constraints.txt").read_text()
    tested = {canonical(name): version for name, version in re.findall(r"^(\S+)==(\S+)$", constraints, flags=re.M)}
    assert {name: tested[name] for name in found if name in tested} == {n: v for n, v in found.items() if n in tested}
    assert found.keys() - tested.keys() == {"setuptools"}, "pip freeze does not name what builds"


def test_no_lock_brings_cuda_and_the_smaller_image_is_a_part_of_the_larger() -> None:
    assert not [line for line in lines("platform") if OF_CUDA.search(line)]
    assert set(lines("deepar")) < set(lines("platform"))


@pytest.mark.parametrize("image", EXTRAS)
def test_nothing_enters_an_image_but_by_its_lock(image: str) -> None:
    text = (DOCKER / f"{image}.Dockerfile").read_text()
    by_lock, ours = re.findall(r"^RUN (?:python -m )?pip install (.*)$", text, flags=re.M)
    assert by_lock == f"--require-hashes --no-deps --requirement {image}.lock"
    assert re.fullmatch(r"--no-index --no-deps --no-build-isolation \. && (python -m )?pip check", ours)
    assert f"COPY docker/{image}.lock ./" in text
    # The tag of SageMaker's image follows what it is built on.
    assert "BUILT_ON = $(shell cat docker/deepar.Dockerfile docker/deepar.lock" in (ROOT / "Makefile").read_text()


def test_what_the_images_copy_is_let_through_to_docker() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (.*) \S+$", "".join(p.read_text() for p in DOCKER.glob("*.Dockerfile")), flags=re.M)
    assert {path.partition("/")[0] for line in copied for path in line.split()} == let_through


@pytest.mark.skipif(
    (sys.platform, sys.version_info[:2]) != ("linux", (3, 11)), reason="the images are Linux with Python 3.11"
)
@pytest.mark.timeout(900)  # it fetches them
def test_pip_finds_each_file_by_its_hash(tmp_path: Path) -> None:
    """What an index gives under these names has these hashes, down to the last package."""
    lock, text = tmp_path / "platform.lock", (DOCKER / "platform.lock").read_text()
    # PyTorch's index; else wherever pip is told to look for its wheels.
    for told in (text, re.sub(TORCH, r"torch==\1+cpu", text)):
        lock.write_text(told)
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--retries", "0"]
        options = ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--requirement", str(lock)]
        done = subprocess.run([*pip, *options], capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert "DO NOT MATCH" not in done.stderr, done.stderr
        unreachable = re.search(r"ConnectionError|Max retries|No matching distribution found for torch", done.stderr)
        assert unreachable, done.stderr
    else:
        pytest.skip("no index with these files can be reached from here")
    assert re.search(r"Would install .*torch-\d", done.stdout), done.stdout
