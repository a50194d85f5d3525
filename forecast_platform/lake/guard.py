"""Who may use a home's lake: nobody while it is half a home or shares files with another one, and one process alone
while the home is moved."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Any

from forecast_platform.lake.tables import NAMESPACE, LakeError

UNFINISHED = ".unfinished"  # in the lake's folder while a home is being restored there or taken away; says why


def check(warehouse: Path) -> None:
    """Raises LakeError for a folder that must not be used: half a home, or one that shares files with another."""
    if (mark := warehouse / UNFINISHED).exists():
        raise LakeError(f"{warehouse.parent} is not a whole home: {mark.read_text().strip()}")
    database = warehouse / "catalog.db"
    for linked in (path for path in (warehouse, warehouse / NAMESPACE, database) if path.is_symlink()):
        raise LakeError(
            f"{linked} is a link to {linked.resolve()}, so a copy of this home would write into the original; put the "
            "folder itself there, or move the whole home with: forecast move"
        )
    if database.exists() and database.stat().st_nlink > 1:
        raise LakeError(
            f"{database} is one file with another home's (a copy made of hard links); copy it for itself: "
            f"cp {database} {database}.own && mv {database}.own {database}"
        )


def hold(warehouse: Path) -> IO[Any]:
    """Say that this process uses the home, until the file returned is closed or the process ends.

    Raises:
        LakeError: the home is being moved.
    """
    return _lock(warehouse, fcntl.LOCK_SH, f"{warehouse.parent} is being moved; wait until that is done")


def hold_alone(warehouse: Path) -> IO[Any]:
    """Have the home to oneself, until the file returned is closed or the process ends.

    Raises:
        LakeError: somebody uses it.
    """
    message = f"{warehouse.parent} is in use; end forecast ui, forecast dashboard and every run over it, then try again"
    return _lock(warehouse, fcntl.LOCK_EX, message)


def _lock(warehouse: Path, how: int, message: str) -> IO[Any]:
    file = open(warehouse / ".in_use", "ab")  # noqa: SIM115 (held open by the caller)
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise LakeError(message) from error
    return file
