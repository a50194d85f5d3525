"""Builds the Lambda's zip; same code, same bytes.

python -m forecast_platform.clouds.aws.package_lambda dist/lambda.zip
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_IMPORTED = ("__init__", "clouds/__init__", "clouds/aws/__init__", "clouds/aws/events")
# Name in the zip -> file. The handler lies on top; what it imports lies where it lies here.
MEMBERS = {
    **{name: _ROOT / name for name in (f"forecast_platform/{module}.py" for module in _IMPORTED)},
    "lambda_function.py": Path(__file__).with_name("lambda_function.py"),
}


def build(path: Path) -> None:
    """Write the zip to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(MEMBERS):
            info = zipfile.ZipInfo(name)  # dated 1980-01-01
            info.create_system, info.external_attr = 3, 0o644 << 16
            # Stored, since compressors differ by version.
            archive.writestr(info, MEMBERS[name].read_bytes())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
