"""A landing folder for histories: each file arrives when the test says."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from forecast_platform.landing.place import FolderLanding, LandingObject


class DatedLanding(FolderLanding):
    """A folder whose files arrived when they were last written, which `land` sets; and settle at once.

    A real one goes by the change time too, which nobody can set.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, settle_seconds=0)

    @staticmethod
    def arrived_at(status: os.stat_result) -> dt.datetime:
        return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=status.st_mtime_ns // 1000)

    def land(self, key: str, data: bytes, at: dt.datetime | None = None) -> LandingObject:
        obj = self.put(key, data)
        if at is None:
            return obj
        os.utime(self.root / key, (at.timestamp(), at.timestamp()))
        return self._landed(key, obj.version, (self.root / key).stat())
