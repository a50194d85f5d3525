"""Stores and departments whose rows are sums of other rows: taken as they stand, what was sold would count twice.

A chain's export may hold its regions and itself beside the stores, and few of them say so by their names. What tells
them is arithmetic: in every week such a name equals the same others added up.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecast_platform.landing.by_week import ByWeek, sums_by
from forecast_platform.landing.kinds import TOTALS

Table = NDArray[np.float64]
Names = NDArray[np.int64]  # positions of names

_LARGE = 10  # from this many sales a week on, an equal sum is no coincidence
_CERTAIN = 10_000  # and from this many cents (or pieces, where all are whole) on not even in a single week
_CLOSE = 1e-4  # sums of rounded figures differ by no more than this share
_FEWEST = 8  # weeks, or cells, in which a sum of some others must be seen
_SPARE = 5  # and by how many they must outnumber those others
_ODDS = 15.0  # natural logarithm of the odds against chance
_INDEPENDENT = 1e-3  # least singular value of the others' changes: figures made up by one pattern add up in any way
_MOST_ROWS = 160  # weeks, or cells, that are solved for
_MOST_NAMES = 10_000
_SOLVED = 100_000  # names tried times names there are; but never fewer than
_TRIED = 50
_CELL_WEEKS = 8
_SHORT = 104  # weeks; of a shorter file cells are looked at, too


@dataclass(frozen=True)
class Total:
    """A store or department whose rows are sums.

    Attributes:
        column: store or dept.
        of: those that it is the sum of; one, where it is a copy among sums.
        others: "" where they are some; "all others", or "all others that are no sums".
    """

    column: str
    name: str
    of: tuple[str, ...]
    others: str

    @property
    def label(self) -> str:
        return f"{self.column} {self.name!r}"

    @property
    def what(self) -> str:
        if self.others:
            return f"the sum of {self.others}"
        if len(self.of) == 1:
            return f"the same as {self.of[0]!r}"
        shown = [repr(name) for name in self.of]
        if len(shown) > 6:
            shown = [*shown[:5], f"{len(shown) - 5:,} more"]
        return f"the sum of {', '.join(shown[:-1])} and {shown[-1]}"

    @property
    def said(self) -> bool:
        """Whether the name says so."""
        return says_so(self.name)

    def __str__(self) -> str:
        return f"{self.label} is {self.what}"


def totals(rows: ByWeek) -> list[Total]:
    """The stores and departments whose sales are the sum of others', week by week.

    Of all others: a name that says so needs one such week; any other name three others and three weeks, or one week
    of figures so large that it is no chance. Of some others, two or more: eight weeks and five more than there are
    others, whose sales must not all follow one pattern. Where the file is shorter than two years, the departments of
    a store (or stores of a department) in its last eight weeks serve as well as weeks do.

    Not found: sums of more names than there are weeks and cells to tell them by (160 at most); sums among more than
    10,000 names; and sums that are not among the largest names: 100,000 divided by the number of names are tried, and
    no fewer than 50.
    """
    names = {column: rows.names(column).to_pylist() for column in ("store", "dept")}
    tallies = {column: _Tally(len(found)) for column, found in names.items()}
    weekly: dict[str, list[Table]] = {column: [] for column, found in names.items() if len(found) <= _MOST_NAMES}
    weeks = sorted(rows.weeks)
    for week in weeks:
        coded = rows.coded(week)
        for column, tally in tallies.items():
            sums, there = sums_by(coded, column, len(names[column]))
            tally.add(sums, there)
            if column in weekly:
                weekly[column].append(sums)
    found = []
    for column, other in (("store", "dept"), ("dept", "store")):
        texts = names[column]
        whole = tallies[column].equal(texts)
        sums_of: dict[int, Sequence[int]] = {}
        left = tallies[column].left
        if column in weekly and len(left) - len(whole) > 2:
            by_week = np.array(weekly[column])
            cells = None
            if len(weeks) < _SHORT and len(names[other]) > 1 and other in weekly:
                cells = _cells(rows, weeks[-_CELL_WEEKS:], column, other, np.array(weekly[other]))
            sums_of = _of_some(by_week, cells, whole)
            if sums_of:  # what is the sum of all others may show only without them
                again = _Tally(len(texts))
                for sums in by_week:
                    sums = sums.copy()
                    sums[[*sums_of, *whole]] = 0
                    again.add(sums, sums != 0)
                whole += again.equal(texts)
        plain = [i for i in left.tolist() if i not in sums_of and i not in whole]
        sums_of |= dict.fromkeys(whole, plain)
        words = "all others" if len(sums_of) == 1 else "all others that are no sums"
        found += [
            Total(column, texts[i], tuple(texts[k] for k in of), words if len(of) == len(plain) > 1 else "")
            for i, of in sorted(sums_of.items())
        ]
    return found


def leaving_out(found: Sequence[Total], known: str | Mapping[str, Sequence[str]]) -> str | dict[str, list[str]]:
    """The value of the setting `totals` by which their rows are left out.

    Args:
        known: its value of now, whose names stay in it.
    """
    if isinstance(known, str) and all(total.said for total in found):
        return "leave_out"
    # By names, because a file of one week does not show of what a region is the sum.
    names: dict[str, list[str]] = {}
    for total in found:
        names.setdefault(total.column, []).append(total.name)
    return with_names(known, names)


def with_names(known: str | Mapping[str, Sequence[str]], more: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """A value of the setting `totals` with more names of sums, by column."""
    before = {} if isinstance(known, str) else known
    columns = [column for column in ("store", "dept") if column in before or column in more]
    return {c: list(dict.fromkeys([*before.get(c, ()), *more.get(c, ())])) for c in columns}


def says_so(name: str) -> bool:
    """Whether a name of a store or department says that it is a sum."""
    return name.strip().lower() in TOTALS


class _Tally:
    """Which names equal the sum of all others, while weeks are met."""

    def __init__(self, names: int) -> None:
        self._counts = np.zeros((5, names))

    def add(self, sums: Table, there: NDArray[np.bool_]) -> None:
        size = np.abs(sums)
        here = size > 0
        off = np.abs(sums.sum() - 2 * sums)
        equal = here & (off <= _CLOSE * size)
        unit = _unit(sums)
        certain = equal & (off < unit / 2) & (size >= _CERTAIN * unit)
        self._counts += [there, here, equal, certain, size]

    @property
    def left(self) -> Names:
        """Names that have rows."""
        return np.flatnonzero(self._counts[0])

    def equal(self, names: Sequence[str]) -> list[int]:
        _, here, equal, certain, size = self._counts
        left = self.left
        several = len(left) >= 4
        large = size >= _LARGE * here  # small counts can equal sums of each other by chance
        always = (equal == here) & (here > 0) & large & ((here >= 3) | (certain == here)) & several
        return [
            i for i in left.tolist() if len(left) > 1 and (always[i] or (says_so(names[i]) and equal[i] > here[i] / 2))
        ]


def _unit(values: Table) -> float:
    """A piece or a cent: what figures are counted in."""
    return 1.0 if (values == values.round()).all() else 0.01


def _cells(rows: ByWeek, weeks: Sequence[dt.date], column: str, other: str, of_others: Table) -> Table:
    """Sums by week and name of the other column, shape (cells, names): of its largest names in these weeks."""
    largest = np.argsort(-np.abs(of_others[-len(weeks) :]).sum(0), kind="stable")[: _MOST_ROWS // len(weeks)]
    at = np.full(of_others.shape[1], -1)
    at[largest] = np.arange(len(largest))
    names = len(rows.names(column))
    cells = []
    for week in weeks:
        coded = rows.coded(week)
        row = at[coded[other].combine_chunks().to_numpy()]
        some = coded.filter(pa.array(row >= 0))
        code = row[row >= 0] * names + some[column].combine_chunks().to_numpy()
        sales = np.asarray(pc.fill_null(some["sales"].combine_chunks(), 0.0))
        cells.append(np.bincount(code, sales, len(largest) * names).reshape(-1, names))
    return np.concatenate(cells).astype(np.float64)


def _of_some(weekly: Table, cells: Table | None, whole: Sequence[int]) -> dict[int, Sequence[int]]:
    """The names that are sums of some others, and of which.

    Args:
        weekly: shape (weeks, names). cells: shape (cells, names).
        whole: names that are sums of all others: they are left aside.
    """
    size = np.abs(weekly).sum(0)
    size[list(whole)] = 0
    # Of two that are alike one is enough: a sum could be told by either, or by a half of each.
    _, first, kind = np.unique(weekly, axis=1, return_index=True, return_inverse=True)
    alike = first[kind.ravel()]
    names = np.flatnonzero((size > 0) & (alike == np.arange(len(size))))
    names = names[np.argsort(size[names], kind="stable")]
    tried = max(_TRIED, _SOLVED // max(len(names), 1))
    found: dict[int, Sequence[int]] = {}
    # From small to large: a chain is then told by its stores, because its regions are known as sums by then.
    for name in names[-tried:].tolist():
        others = np.array([n for n in names.tolist() if n not in found and n != name and size[n] <= size[name]], int)
        for observed in (weekly, cells):
            if observed is None or len(others) < 2:
                continue
            members = _members(observed, name, others)
            if members is not None and _adds_up(weekly, name, members):
                found[name] = sorted(members.tolist())
                break
    if found:  # among sums, a copy is one, too: a region of one store
        for name in np.flatnonzero((size > 0) & (alike != np.arange(len(size)))).tolist():
            kept = int(alike[name])
            values = weekly[weekly[:, name] != 0, name]
            if len(values) >= _FEWEST and _against_chance(values, 1, len(names)):
                found[name] = found.get(kept, [kept])
    return found


def _members(observed: Table, name: int, others: Names) -> Names | None:
    """The others of which a name is the sum in each row; None: it is not, or it may be chance."""
    rows = observed[observed[:, name] != 0][-_MOST_ROWS:]
    if len(rows) < _FEWEST or np.abs(rows[:, name]).mean() < _LARGE:
        return None
    others = others[(rows[:, others] != 0).any(0)]
    if len(others) < 2:
        return None
    target, parts = rows[:, name], rows[:, others]
    length = np.sqrt((parts**2).sum(0))
    weights = _not_negative(parts / length, target)
    if weights is None:
        return None
    members = others[np.round(weights / length) == 1]
    if not 2 <= len(members) <= len(rows) - _SPARE or not _adds_up(rows, name, members):
        return None
    changes = rows[:, members] - rows[:, members].mean(0)
    length = np.sqrt((changes**2).sum(0))
    if (length <= _CLOSE * np.abs(rows[:, members]).max(0)).any():
        return None
    if np.linalg.svd(changes / length, compute_uv=False)[-1] < _INDEPENDENT:
        return None
    return members if _against_chance(target, len(members), len(others)) else None


def _not_negative(parts: Table, target: Table) -> Table | None:
    """The weights, none below 0, by which columns of length 1 come closest to the target: the method of Lawson and
    Hanson. (SciPy has it, and is too large for a Lambda, where files land as well.) None: too many would be needed."""
    weights, used = np.zeros(parts.shape[1]), np.zeros(parts.shape[1], bool)
    rest, enough = target, 1e-9 * float(np.linalg.norm(target))
    for _ in range(3 * len(target)):
        gain = np.where(used, -np.inf, rest @ parts)
        best = int(gain.argmax())
        if gain[best] <= enough:
            return weights
        used[best] = True
        if used.sum() > len(target) - _SPARE:
            return None
        while True:
            at = np.flatnonzero(used)
            solved = np.linalg.lstsq(parts[:, at], target)[0]
            below = solved <= 0
            if not below.any():
                break
            # As far towards the solution as no weight falls below 0; what reaches it is used no more.
            before = weights[at]
            reach = before[below] / (before[below] - solved[below])
            weights[at] = before + reach.min() * (solved - before)
            gone = at[np.flatnonzero(below)[reach <= reach.min()]]
            weights[gone], used[gone] = 0, False
        weights[at] = solved
        rest = target - parts[:, at] @ solved
    return None


def _adds_up(rows: Table, name: int, members: Names) -> bool:
    target = rows[:, name]
    here = target != 0
    return bool((np.abs(rows[:, members].sum(1) - target)[here] <= _CLOSE * np.abs(target[here])).all())


def _against_chance(values: Table, members: int, names: int) -> bool:
    """Whether so many figures are more than the choice of members can make equal: in each, a sum that is none hits
    one of about as many values as the figures spread over."""
    unit = np.maximum(_unit(values), _CLOSE * np.abs(values))
    return bool(np.log(np.maximum(values.std() / unit, 1)).sum() >= members * np.log(names) + _ODDS)
