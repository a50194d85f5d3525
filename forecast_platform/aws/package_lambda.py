"""Builds the Lambda's zip: python -m forecast_platform.aws.package_lambda dist/lambda.zip. Same code, same bytes."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Name in the zip -> file. The handler lies on top; what it imports lies where it lies here.
MEMBERS = {
    "forecast_platform/__init__.py": _PACKAGE / "__init__.py",
    "forecast_platform/aws/__init__.py": _PACKAGE / "aws" / "__init__.py",
    "forecast_platform/aws/events.py": _PACKAGE / "aws" / "events.py",
    "lambda_function.py": _PACKAGE / "aws" / "lambda_function.py",
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
