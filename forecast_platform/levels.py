"""The levels at which sales are forecast, published, judged and shown: declared here and read everywhere else.

A level is a way to group the series, by some of the columns that name one. To add a level is to add a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEYS = ("store", "dept")  # what names a series


@dataclass(frozen=True)
class Level:
    """One level.

    Attributes:
        name: in the column `level` of every table.
        by: which of KEYS name a group of it; the others are null in its rows.
    """

    name: str
    by: tuple[str, ...]

    def groups(self, store: NDArray[np.str_], dept: NDArray[np.str_]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        """The groups of N series: their (store, dept) names, "" where not named, shape (G, 2), ascending; and which one
        each series is in, shape (N,)."""
        named = {"store": store, "dept": dept}
        names = np.stack([named[key] if key in self.by else np.full(len(store), "") for key in KEYS], axis=1)
        groups, member = np.unique(names, axis=0, return_inverse=True)
        return groups, np.asarray(member, dtype=np.int64).reshape(-1)


LEVELS = (Level("series", KEYS), Level("store", ("store",)), Level("dept", ("dept",)), Level("total", ()))
SUMS = LEVELS[1:]  # of several series


def by_level_sql(table: str, week: str, value: str, where: str = "true") -> str:
    """A SELECT of (level, store, dept, week, value): a table of series and its sums, level by level.

    Args:
        table: in SQL, with the columns of KEYS. week, value: expressions over it, the value to be summed.
    """
    parts = []
    for level in LEVELS:
        keys = ", ".join(key if key in level.by else f"NULL AS {key}" for key in KEYS)
        what = f"{value} AS value" if level is LEVELS[0] else f"sum({value}) AS value"
        groups = "" if level is LEVELS[0] else f" GROUP BY {', '.join([*level.by, week])}"
        columns = f"'{level.name}' AS level, {keys}, {week} AS week, {what}"
        parts.append(f"SELECT {columns} FROM {table} WHERE {where}{groups}")  # noqa: S608 (only our own SQL)
    return " UNION ALL ".join(parts)
