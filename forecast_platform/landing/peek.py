"""A short look at a landed sales file: which weeks it is about, where that costs little.

Only the order of runs depends on it. Ingestion finds out what a file really holds, and the ledger records it.
"""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.place import Landing, LandingObject
from forecast_platform.landing.reading import canonical
from forecast_platform.landing.rules import weeks_in
from forecast_platform.weeks import WeekCalendar

WHOLE = 256 * 1024  # bytes; a file no larger is read whole


def peek(
    landing: Landing, obj: LandingObject, dialect: Dialect, calendar: WeekCalendar, most_weeks: int
) -> list[dt.date] | None:
    """The weeks a sales file holds, ascending; None: a short look does not tell.

    Args:
        most_weeks: of a parquet file only the first and last date are seen; when no more weeks than this lie between
            them, it is taken to hold all of those.

    Raises:
        FileRefused: it can't be read.
        LandingError: the place can't be reached.
    """
    if obj.size <= WHOLE:
        return weeks_in(landing.read(obj), obj.key, dialect, calendar)
    if not obj.key.lower().endswith(".parquet"):
        return None
    found = _span(_Bytes(landing, obj), dialect)
    if found is None:
        return None
    first, last = found
    if first.weekday() != calendar.weekday or last.weekday() != calendar.weekday:
        return None
    weeks = calendar.between(first, last)
    return [w for w in weeks if w >= calendar.first_week] if len(weeks) <= most_weeks else None


def _span(file: _Bytes, dialect: Dialect) -> tuple[dt.date, dt.date] | None:
    """First and last date by the statistics in a parquet file's footer."""
    import pyarrow.parquet as pq

    try:
        meta = pq.ParquetFile(io.BufferedReader(file, 1 << 16)).metadata
        names = canonical(meta.schema.to_arrow_schema().names, dialect)
        if names.count("date") != 1 or not meta.num_row_groups:
            return None
        groups = [meta.row_group(i).column(names.index("date")).statistics for i in range(meta.num_row_groups)]
    except Exception:  # damaged bytes surface as almost any error; ingestion will name it
        return None
    if not all(g is not None and g.has_min_max for g in groups):
        return None
    first, last = min(g.min for g in groups), max(g.max for g in groups)
    if isinstance(first, dt.datetime) and isinstance(last, dt.datetime):
        return first.date(), last.date()
    return (first, last) if isinstance(first, dt.date) and isinstance(last, dt.date) else None


class _Bytes(io.RawIOBase):
    """A landed object as a file of which only the parts asked for are fetched."""

    def __init__(self, landing: Landing, obj: LandingObject) -> None:
        self._landing, self._obj, self._at = landing, obj, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._obj.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._landing.part(self._obj, self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
