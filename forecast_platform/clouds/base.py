"""What a cloud gives the platform: the landing place, the lake, SQL, a place for files that people fetch.

A cloud is chosen here, by the setting `profile`. Whoever needs one is given it; nobody else asks for the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa

from forecast_platform.lake.lake import Lake
from forecast_platform.landing.place import FolderLanding, Landing, LandingError
from forecast_platform.settings import Settings


class Cloud(Protocol):
    """One twin. Nothing is opened before it is used.

    Attributes:
        lake: the tables.
        beside: packages of the profile, whose versions `forecast doctor` shows.
        monitored: whether there is a monitoring that `report` tells.
    """

    lake: Lake
    beside: tuple[str, ...]
    monitored: bool

    def hold(self) -> IO[Any] | None:
        """Say that this process uses the lake, where that has to be said, until the file is closed or the process ends.

        Raises:
            LakeError: it is half a home, shares files with another, or is being moved.
        """
        ...

    def checks(self) -> dict[str, Callable[[], str]]:
        """What `forecast doctor` asks, by name: each says what is well, or raises what is wrong and how to mend it."""
        ...

    def begun(self) -> bool:
        """Whether there is a lake already."""
        ...

    def keep(self, name: str, data: bytes | Path) -> str:
        """Keep a file for people under its name, whole or not at all; `data` is what it holds, or a file that holds it.
        Returns where it is."""
        ...

    def kept(self, name: str) -> tuple[str, Path | None]:
        """Where a kept file is, for people; and the file, where it lies on this machine."""
        ...

    def query(self, sql: str) -> pa.Table:
        """Ask the SQL engine that people use.

        Raises:
            LakeError, AthenaError: it can't be answered; the text says why.
        """
        ...

    def report(self, measures: Mapping[str, float]) -> bool:
        """Tell the cloud's monitoring numbers by their names (monitoring.py). Never raises. Returns whether it took
        them."""
        ...

    def renew_views(self) -> list[str]:
        """Make the lake's views anew where an engine keeps its own. Returns their names."""
        ...


def cloud_of(settings: Settings) -> Cloud:
    """The twin of the settings' profile."""
    if settings.profile == "local":
        from forecast_platform.clouds.local import LocalCloud

        return LocalCloud(settings, open_landing)
    from forecast_platform.clouds.aws.cloud import AwsCloud

    return AwsCloud(settings)


def open_lake(settings: Settings) -> Lake:
    """The lake of the settings' profile."""
    return cloud_of(settings).lake


def open_landing(url: str) -> Landing:
    """The landing place at `url`: "s3://bucket/prefix", else a folder, which is created when missing. Each profile can
    have either.

    Raises:
        LandingError: the folder can't be created, or the address is of another kind.
    """
    if url.startswith("s3://"):
        from forecast_platform.clouds.aws.landing import S3Landing

        return S3Landing(url)
    if "://" in url:
        raise LandingError(f"{url} is no landing place; use a folder or s3://bucket/prefix")
    return FolderLanding(url)
