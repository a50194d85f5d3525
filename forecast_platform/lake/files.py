"""The files under a table's folder, on disk (in S3: clouds/aws/files.py): what maintenance lists and deletes.

An address is written one way only ("/lake/..." on disk, "s3://bucket/..." in S3), so that addresses can be compared.
On disk a location in Iceberg's metadata is looked up below the warehouse at hand, see lake/local.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from forecast_platform.lake.tables import LOCAL, NAMESPACE, LakeError

# A location on disk: the folder of the home it was written in, then a table's folder, then perhaps a file of it.
_LOCATION = re.compile(rf"(?:{LOCAL})?/(?:.*/)?({NAMESPACE}/\w+(?:/(?:data|metadata)/.+)?)", re.DOTALL)


class OutsideHome(LakeError, PermissionError):
    """A table names a file that is no part of its home."""


class Inside:
    """Paths below one warehouse on disk, by the locations in its tables' metadata.

    Args:
        warehouse: absolute path of the folder.
    """

    def __init__(self, warehouse: str) -> None:
        self.warehouse = warehouse
        self._folders: set[str] = set()  # seen to lie in the warehouse

    def path(self, location: str) -> str:
        """Where a table's folder or file lies. Names are taken as they are, never %-decoded.

        Raises:
            OutsideHome: the location is no table's, on other storage, or leaves the warehouse by ".." or by a link.
        """
        found = _LOCATION.fullmatch(location)
        parts = found[1].split("/") if found else []
        if not parts or {"", ".", ".."} & set(parts) or "\0" in location:
            raise OutsideHome(f"{location!r} is no file of a table under {self.warehouse}")
        path = "/".join((self.warehouse, *parts))
        self.check(path)
        return path

    def check(self, path: str) -> None:
        """Raises OutsideHome for a path that is not below the warehouse, or is a link or behind one."""
        folder = os.path.dirname(path)
        if folder not in self._folders:
            root = os.path.realpath(self.warehouse)
            if os.path.realpath(folder) != root + folder.removeprefix(self.warehouse):
                raise OutsideHome(f"{folder} is not a folder of its own below {self.warehouse}; a link leads elsewhere")
            if os.path.isdir(folder):
                self._folders.add(folder)
        if os.path.islink(path):
            raise OutsideHome(f"{path} is a link; what lies below {self.warehouse} has to be files of its own")


class File(NamedTuple):
    """One file: its address, bytes, and when it was written (seconds since 1970)."""

    address: str
    size: int
    written: float


class Files(Protocol):
    """Where the files of a warehouse are."""

    def address(self, location: str) -> str:
        """The address of a location in Iceberg's metadata. OutsideHome or ValueError: it is on other storage."""

    def folder(self, location: str) -> str:
        """The address of a table's folder. OutsideHome or ValueError: it is not below the warehouse."""

    def under(self, folder: str) -> Iterator[File]:
        """Every file below a folder, given by its address."""

    def delete(self, addresses: list[str]) -> None:
        """Delete files; those that are gone already are no error. OSError: one could not be deleted."""


class DiskFiles:
    """The files of a warehouse on disk."""

    def __init__(self, warehouse: str) -> None:
        self._inside = Inside(warehouse.removeprefix(LOCAL))

    def address(self, location: str) -> str:
        return self._inside.path(location)

    def folder(self, location: str) -> str:
        return self._inside.path(location)

    def under(self, folder: str) -> Iterator[File]:
        """Links are neither followed nor listed."""
        for parent, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a commit deletes metadata of long ago
                    found = Path(parent, name).lstat()
                    if stat.S_ISREG(found.st_mode):
                        yield File(f"{parent}/{name}", found.st_size, found.st_mtime)

    def delete(self, addresses: list[str]) -> None:
        for address in addresses:
            self._inside.check(address)  # whatever asked for it: nothing outside the home is ever deleted
            Path(address).unlink(missing_ok=True)
