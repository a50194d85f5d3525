"""The levels at which sales are forecast, published, judged and shown: declared here and read everywhere else.

A level is a way to group the series: by some of the columns that name one, or by an attribute of their stores or
departments. The former are LEVELS, all that two columns allow. The latter are asked for by the setting `levels`.

Which store or department was in which group is written down with every forecast, in the table `level_members`. Its
actuals, last year's sales and plan are summed by those groups, so a store that moves is never compared with others.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import duckdb

KEYS = ("store", "dept")  # what names a series
NAMES = (*KEYS, "member")  # what names a group of a level; those that do not are null in its rows
UNKNOWN = "unknown"  # the group of whoever has no value, so that the groups of a level add up to the total
_BETWEEN = "\x1f"  # joins NAMES
_LANDED = {"store": "stores", "dept": "departments"}  # tables of attributes


@dataclass(frozen=True)
class Level:
    """One level.

    Attributes:
        name: in the column `level` of every table.
        by: which of KEYS name a group of it.
        of: which of KEYS has the attribute whose values are the groups; "" where there is none.
        values: the attribute's value of each store (or department) that has one.
    """

    name: str
    by: tuple[str, ...] = ()
    of: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    def groups(self, store: NDArray[np.str_], dept: NDArray[np.str_]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        """The groups of N series: their NAMES, "" where not named, shape (G, 3), ascending; and which one each series
        is in, shape (N,)."""
        groups, group = np.unique(self.named(store, dept), axis=0, return_inverse=True)
        return groups, np.asarray(group, dtype=np.int64).reshape(-1)

    def named(self, store: NDArray[np.str_], dept: NDArray[np.str_]) -> NDArray[np.str_]:
        """The NAMES of the group that each of N series is in, shape (N, 3)."""
        known = {"store": store, "dept": dept}
        nothing = np.full(len(store), "")
        columns = [known[key] if key in self.by else nothing for key in KEYS]
        columns.append(self.member_of(known[self.of]) if self.of else nothing)
        return np.stack(columns, axis=1)

    def keys(self, store: NDArray[np.str_], dept: NDArray[np.str_]) -> NDArray[np.str_]:
        """The same in one string each, shape (N,). See `names_of`."""
        return np.array([_BETWEEN.join(names) for names in self.named(store, dept).tolist()], dtype=np.str_)

    def member_of(self, names: NDArray[np.str_]) -> NDArray[np.str_]:
        """The attribute's value of each store (or department), UNKNOWN where it has none."""
        distinct, at = np.unique(names, return_inverse=True)
        return np.array([self.values.get(name) or UNKNOWN for name in distinct.tolist()], dtype=np.str_)[at]


LEVELS = (Level("series", KEYS), Level("store", ("store",)), Level("dept", ("dept",)), Level("total"))
SUMS = LEVELS[1:]  # of several series


def names_of(keys: NDArray[np.str_]) -> NDArray[np.str_]:
    """The NAMES of groups from their `Level.keys`, shape (G, 3)."""
    return np.array([key.split(_BETWEEN) for key in keys.tolist()], dtype=np.str_).reshape(len(keys), len(NAMES))


def attribute_levels(con: duckdb.DuckDBPyConnection, asked: Sequence[str]) -> tuple[Level, ...]:
    """The levels by attributes that the setting `levels` asks for, with the values that have landed.

    Args:
        con: shows the tables `stores` and `departments`.
        asked: columns of them; store.type or dept.type where both have one of that name.

    Raises:
        ValueError: no such column has landed, or both have it.
    """
    if not asked:
        return ()
    landed = {(key, name) for key, table in _LANDED.items()
              for (name,) in con.execute(f"SELECT DISTINCT name FROM {table}").fetchall()}  # noqa: S608  # fmt: skip
    found = []
    for wanted in asked:
        fits = sorted((key, name) for key, name in landed if wanted in (name, f"{key}.{name}"))
        if len(fits) != 1:
            raise ValueError(_which(wanted, landed, len(fits)))
        ((key, name),) = fits
        rows = con.execute(f"SELECT {key}, value FROM {_LANDED[key]} WHERE name = ?", [name]).fetchall()  # noqa: S608
        found.append(Level(wanted, of=key, values={of: value for of, value in rows if value}))
    return tuple(found)


def _which(wanted: str, landed: set[tuple[str, str]], fits: int) -> str:
    if fits:
        return (
            f"levels asks for {wanted}, which stores and departments both have; write store.{wanted} or dept.{wanted}"
        )
    there = [f"{name} ({_LANDED[key]}/)" for key, name in sorted(landed, key=lambda each: each[::-1])]
    near = difflib.get_close_matches(wanted, [*(name for _, name in landed), *map(".".join, landed)], n=1)
    return f"levels asks for {wanted}, but no file under stores/ or departments/ has such a column." + (
        (f" Did you mean {near[0]}?" if near else "") + f" There are: {', '.join(there) or 'none'}"
    )


def by_level_sql(table: str, week: str, value: str, where: str = "true") -> str:
    """A SELECT of (level, store, dept, week, value): a table of series and its sums, for each of LEVELS.

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


def by_member_sql(sums: str, weeks: str) -> str:
    """A SELECT of (forecast_week, level, member, week, value): sums for the levels by attributes, by the groups of each
    forecast.

    Args:
        sums: in SQL, rows of `by_level_sql`: a group is the sum of its stores, or of its departments.
        weeks: in SQL, rows (forecast_week, level, week): which weeks are summed by the groups of which forecast.
    """
    return f"""
        SELECT w.forecast_week, w.level, m.member, w.week, sum(s.value) AS value
        FROM {weeks} AS w
        JOIN level_members AS m ON m.forecast_week = w.forecast_week AND m.level = w.level
        JOIN {sums} AS s
          ON s.week = w.week AND s.level = CASE WHEN m.store IS NULL THEN 'dept' ELSE 'store' END
         AND coalesce(s.store, s.dept) = coalesce(m.store, m.dept)
        GROUP BY w.forecast_week, w.level, m.member, w.week"""  # noqa: S608 (only our own SQL)
