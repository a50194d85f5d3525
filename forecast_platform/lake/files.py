"""The files under a table's folder, on disk or in S3: what maintenance lists and deletes.

An address is written one way only ("/lake/..." on disk, "s3://bucket/..." in S3), so that addresses can be compared.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class File(NamedTuple):
    """One file: its address, bytes, and when it was written (seconds since 1970)."""

    address: str
    size: int
    written: float


class Files(Protocol):
    """Where the files of a warehouse are."""

    def address(self, location: str) -> str:
        """The address of a location in Iceberg's metadata. ValueError: it is on another kind of storage."""

    def under(self, folder: str) -> Iterator[File]:
        """Every file below a folder, given by its address."""

    def delete(self, addresses: list[str]) -> None:
        """Delete files; those that are gone already are no error. OSError: one could not be deleted."""


def files_of(warehouse: str) -> Files:
    """The storage of a catalog's warehouse."""
    return _Disk() if warehouse.startswith(("file:", "/")) else _Bucket()


class _Disk:
    def address(self, location: str) -> str:
        path = location.removeprefix("file://")  # pyiceberg takes the rest as it is, never %-decoded
        if not path.startswith("/"):
            raise ValueError(f"{location} is not on this machine")
        return str(Path(path).resolve())

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
            Path(address).unlink(missing_ok=True)


class _Bucket:
    def __init__(self) -> None:
        from forecast_platform.aws.clients import client

        self._client: Any = client("s3")

    def address(self, location: str) -> str:
        scheme, separator, key = location.partition("://")
        if scheme not in ("s3", "s3a", "s3n") or not separator:  # three names of one place; Spark writes the others
            raise ValueError(f"{location} is not in S3")
        return f"s3://{key}"

    def under(self, folder: str) -> Iterator[File]:
        bucket, _, prefix = folder.removeprefix("s3://").partition("/")
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        for page in pages:
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # the mark of an empty folder
                    yield File(f"s3://{bucket}/{found['Key']}", found["Size"], found["LastModified"].timestamp())

    def delete(self, addresses: list[str]) -> None:
        for start in range(0, len(addresses), 1000):  # the API's limit
            paths = [address.removeprefix("s3://").partition("/") for address in addresses[start : start + 1000]]
            objects = [{"Key": key} for _, _, key in paths]
            reply = self._client.delete_objects(Bucket=paths[0][0], Delete={"Objects": objects, "Quiet": True})
            for error in reply.get("Errors", ()):
                raise OSError(
                    f"{error['Key']} was not deleted: {error['Code']} {error['Message']}; allow s3:DeleteObject"
                )
