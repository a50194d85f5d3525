"""A shard: some of a retailer's series, and the few sums that couple them to the others.

Departments, stores and a handful of global numbers tie series together: a share of a department, a store that reported,
the usual number of open days. All of that is sums by some key. So a step is written once, as a function of a panel and
its Retailer, and asks it for sums over all series where it needs them. With the whole retailer in the panel the answer
is at hand. With a shard the step pauses; when all shards have paused at the same place their sums are added, and each
starts again with what is known by then (`over_shards`). What has been asked for, in order, is all that a shard has to
know of the others.

Sums are exact: whole numbers of units of 2^-40, whose order does not matter. So results do not depend on the number of
shards, not even in the last bit, on which the randomness of sample paths depends.

Letters: N series (or other rows), G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Names = NDArray[Any]

_REST = 2.0**40
EXACT = 2.0**52  # beyond it whole numbers are no longer exact, and thousands of them no longer fit into 64 bits

Shard = TypeVar("Shard")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Groups:
    """Which group each of N rows is in.

    Attributes:
        names: of the groups, ascending, shape (G,). member: positions in it, shape (N,).
    """

    names: Names
    member: NDArray[np.int64]

    @classmethod
    def of(cls, names: Names) -> Groups:
        """By the name of each row's group, shape (N,)."""
        found, member = np.unique(names, return_inverse=True)
        return cls(found, np.asarray(member, dtype=np.int64).reshape(-1))

    @classmethod
    def one(cls, count: int) -> Groups:
        """All of `count` rows in one."""
        return cls(np.zeros(1, dtype=np.int64), np.zeros(count, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sums:
    """Exact sums of rows by group: `whole` + `rest` * 2^-40, both of shape (G, ...)."""

    names: Names
    whole: NDArray[np.int64]
    rest: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Groups, values: NDArray[Any]) -> Sums:
        """Of rows, shape (N, ...).

        Raises:
            ValueError: a value is not finite, or too large to be added exactly.
        """
        if values.dtype.kind in "bui":
            whole = _added(groups, values.astype(np.int64))
            return cls(groups.names, whole, np.zeros_like(whole))
        if not (np.abs(values) < EXACT).all():  # also of NaN
            raise ValueError(f"values beyond {EXACT:.1e} can't be added exactly; give sales in a larger unit")
        whole = np.rint(values)
        rest = np.rint((values - whole) * _REST)
        return cls(groups.names, _added(groups, whole.astype(np.int64)), _added(groups, rest.astype(np.int64)))

    def __add__(self, other: Sums) -> Sums:
        names, at = np.unique(np.concatenate([self.names, other.names]), return_inverse=True)
        groups = Groups(names, np.asarray(at).reshape(-1))
        both = zip((self.whole, self.rest), (other.whole, other.rest), strict=True)
        return Sums(names, *(_added(groups, np.concatenate(pair)) for pair in both))

    @property
    def values(self) -> Floats:
        """Shape (G, ...)."""
        return np.asarray(self.whole + self.rest / _REST)

    def of_groups(self, groups: Groups) -> Floats:
        """Those of some of the groups, in their order."""
        at = np.searchsorted(self.names, groups.names)
        return np.asarray(self.whole[at] + self.rest[at] / _REST)


def _added(groups: Groups, values: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros((len(groups), *values.shape[1:]), dtype=np.int64)
    member = groups.member
    if len(member):
        if (np.diff(member) < 0).any():
            order = np.argsort(member, kind="stable")
            member, values = member[order], values[order]
        starts = np.flatnonzero(np.diff(member, prepend=-1))
        total[member[starts]] = np.add.reduceat(values, starts, axis=0)
    return total


class _Pause(Exception):
    """A shard needs sums that are not known yet; it brings its own part of them."""

    def __init__(self, part: tuple[Sums, ...]) -> None:
        super().__init__("a step on a shard runs within over_shards")
        self.part = part


class Retailer:
    """Sums over all series of the retailer, for a step on a panel that holds all of them, or a shard.

    Args:
        known: the sums of all shards asked for so far, in order; None: the panel holds every series.
        keeps: what is made `once` is kept as long as this object.
    """

    def __init__(self, known: Sequence[tuple[Sums, ...]] | None = None, keeps: bool = False) -> None:
        self._known, self._asked = known, 0
        self._kept: dict[Hashable, Any] | None = {} if keeps else None

    def once(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """What `make` gives: the first time it is asked for by a key, where results are kept, and again otherwise.

        Args:
            key: tells all apart that the result depends on, sales included.
        """
        if self._kept is None:
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        found: Result = self._kept[key]
        return found

    def every(self, *parts: tuple[Groups, NDArray[Any]]) -> tuple[Sums, ...]:
        """The sums of each of the parts, of all groups there are; given as (groups, values (N, ...)).

        What is asked for together costs one round of the shards.
        """
        own = tuple(Sums.of(groups, values) for groups, values in parts)
        if self._known is None:
            return own
        if self._asked == len(self._known):
            raise _Pause(own)
        self._asked += 1
        return self._known[self._asked - 1]

    def sums(self, *parts: tuple[Groups, NDArray[Any]]) -> list[Floats]:
        """The same, of the groups in the panel alone: shape (G, ...)."""
        totals = self.every(*parts)
        return [total.of_groups(groups) for total, (groups, _) in zip(totals, parts, strict=True)]

    def total(self, values: NDArray[Any]) -> Floats:
        """The sum over the rows (N, ...)."""
        [total] = self.sums((Groups.one(len(values)), values))
        return np.asarray(total[0])

    def median(self, values: Floats) -> float | None:
        """The median of N values, as np.median has it; None of none."""
        groups = Groups.of(values)
        [found] = self.every((groups, np.ones(len(values), dtype=np.int64)))
        until = np.cumsum(found.whole)
        if not len(until):
            return None
        low, high = np.searchsorted(until, [(until[-1] - 1) // 2, until[-1] // 2], side="right")
        return float((found.names[low] + found.names[high]) / 2)


WHOLE = Retailer()


def over_shards(shards: Sequence[Shard], step: Callable[[Shard, Retailer], Result]) -> Iterator[Result]:
    """The results of a step for each shard, in order, as for the whole retailer at once.

    One shard is at work at a time. A step is started again for each round of sums, so it has no other effect.

    Args:
        shards: panels of the same weeks, none of them empty. One holds every series: then there are no rounds.
    """
    if len(shards) == 1:
        yield step(shards[0], Retailer(keeps=True))
        return
    known: list[tuple[Sums, ...]] = []
    while shards:
        total: tuple[Sums, ...] | None = None
        for shard in shards:
            try:
                yield step(shard, Retailer(known))
            except _Pause as pause:
                part = pause.part
                total = part if total is None else tuple(a + b for a, b in zip(total, part, strict=True))
        if total is None:
            return
        known.append(total)
