"""Writes docker/platform.lock and docker/deepar.lock: what the images install, file by file, each with its hash.

    make lock                                # on Linux on x86-64 with Python 3.11, as the images are
    make lock TORCH_WHEEL=FILE_OR_ADDRESS    # torch's wheel, where its own index cannot be reached

pip resolves the extras that an image installs under constraints.txt, with what builds our own package, from wheels
alone. Torch comes from PyTorch's index by its address, without CUDA: PyPI's for Linux brings 3 GB of it.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {"platform": "aws,server,stream,trees", "deepar": "trees"}
TORCH = "https://download.pytorch.org/whl/cpu/torch-{}%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl"


def lock(image: str, torch: str | None = None) -> str:
    """The text of an image's lock.

    Args:
        image: a key of EXTRAS.
        torch: path or address of torch's wheel, in the place of its address in PyTorch's index.

    Raises:
        CalledProcessError: pip found no versions that go together, or could not reach an index; it has said so.
    """
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M))
    address = TORCH.format(pins.pop("torch"))
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())
    with tempfile.TemporaryDirectory() as work:
        # pip takes no constraint for what is given by its address.
        constraints, report = Path(work, "constraints.txt"), Path(work, "report.json")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        wanted = [torch or address, f"{ROOT}[{EXTRAS[image]}]", *ours["build-system"]["requires"]]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        options = ["--only-binary", ":all:", "--constraint", str(constraints), "--report", str(report)]
        subprocess.run([*pip, *options, *wanted], check=True)  # noqa: S603
        found = json.loads(report.read_text())["install"]
    lines = {}
    for item in found:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name != ours["project"]["name"]:
            given = f"torch @ {address}" if name == "torch" else f"{name}=={version}"
            lines[name.lower()] = f"{given} --hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}\n"
    head = f"# What docker/{image}.Dockerfile installs on linux/amd64 with Python 3.11. Written by: make lock\n"
    return head + "".join(line for _, line in sorted(lines.items()))


if __name__ == "__main__":
    here = sys.platform, platform.machine(), sys.version_info[:2]
    if here != ("linux", "x86_64", (3, 11)):
        sys.exit(f"The images are Linux on x86-64 with Python 3.11, and pip resolves for where it runs: {here}")
    for image in EXTRAS:
        text = lock(image, *sys.argv[1:])
        (ROOT / "docker" / f"{image}.lock").write_text(text)
        print(f"docker/{image}.lock: {len(text.splitlines()) - 1} packages")
