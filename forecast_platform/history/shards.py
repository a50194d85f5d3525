"""A shard: some of a retailer's series, and the few sums that couple them to the others.

Departments, stores and a handful of global numbers tie series together: a share of a department, a store that reported,
the usual number of open days. All of that is sums by some key. So a step is written once, as a function of a panel and
its Retailer, and asks it for sums over all series where it needs them. With the whole retailer in the panel the answer
is at hand. With a shard the step pauses; when all shards have paused at the same place their sums are added, and each
starts again with the sums known by then (`over_shards`). These sums, in the order they were asked for, are all that a
shard has to know of the others. What a shard has computed before a pause it keeps on disk (`Retailer.keep`), so that
starting again costs little. Shards are worked on one after the other, or wherever `run` sends them: other processes,
other machines.

Sums are exact: whole numbers of units of 2^-40, whose order does not matter. So results do not depend on the number of
shards, not even in the last bit, on which the randomness of sample paths depends.

Letters: N series (or other rows), G groups.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

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
        names: of the groups, ascending, shape (G,). member: the position of each row's group in names, shape (N,).
    """

    names: Names
    member: NDArray[np.int64]

    @classmethod
    def of(cls, names: Names) -> Groups:
        """From the name of each row's group, shape (N,)."""
        found, member = np.unique(names, return_inverse=True)
        return cls(found, np.asarray(member, dtype=np.int64).reshape(-1))

    @classmethod
    def one(cls, count: int) -> Groups:
        """One group of all `count` rows."""
        return cls(np.zeros(1, dtype=np.int64), np.zeros(count, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sums:
    """Exact sums of rows by group: `whole` + `rest` * 2^-40, both of shape (G, ...).

    `ranked`: the groups are values, counted to find their median.
    """

    names: Names
    whole: NDArray[np.int64]
    rest: NDArray[np.int64]
    ranked: bool = False

    @classmethod
    def of(cls, groups: Groups, values: NDArray[Any]) -> Sums:
        """The sums of values (N, ...) by group.

        Raises:
            ValueError: a value is not finite, or too large to be added exactly.
        """
        return cls.by_several([groups], values)[0]

    @classmethod
    def by_several(cls, several: Sequence[Groups], values: NDArray[Any]) -> list[Sums]:
        """The sums of the same values by each of several groupings. See `of`."""
        if values.dtype.kind in "bui":
            return [cls(each.names, total := _added(each, values.astype(np.int64)), total * 0) for each in several]
        if not (np.abs(values) < EXACT).all():  # also of NaN
            raise ValueError(f"values beyond {EXACT:.1e} can't be added exactly; give sales in a larger unit")
        rounded = np.rint(values)
        rest = np.subtract(values, rounded)
        rest *= _REST
        whole, rests = rounded.astype(np.int64), np.rint(rest, out=rest).astype(np.int64)
        return [cls(each.names, _added(each, whole), _added(each, rests)) for each in several]

    def __add__(self, other: Sums) -> Sums:
        names, at = np.unique(np.concatenate([self.names, other.names]), return_inverse=True)
        groups = Groups(names, np.asarray(at).reshape(-1))
        both = zip((self.whole, self.rest), (other.whole, other.rest), strict=True)
        whole, rest = (_added(groups, np.concatenate(pair)) for pair in both)
        return Sums(names, whole, rest, self.ranked)

    def settled(self) -> Sums:
        """What is kept once all shards are added: all of it, but of ranked values only the two in the middle."""
        if not self.ranked or not len(self.names):
            return self
        until = np.cumsum(self.whole)
        middle = self.names[np.searchsorted(until, [(until[-1] - 1) // 2, until[-1] // 2], side="right")]
        return Sums.of(Groups.of(middle), np.ones(2, dtype=np.int64))

    @property
    def values(self) -> Floats:
        """Shape (G, ...)."""
        return np.asarray(self.whole + self.rest / _REST)

    def of_groups(self, groups: Groups) -> Floats:
        """The sums of these groups, which are some of its own, in their order."""
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


Asked = tuple[Sums, ...]  # sums asked for together
_COUNTS = "counts.npz"  # written last, so that what lies beside it is whole


class _Pause(Exception):
    """A shard needs sums that are not known yet; it brings its own part of them."""

    def __init__(self, part: Asked) -> None:
        super().__init__("a step on a shard runs within over_shards")
        self.part = part


class Retailer:
    """Sums over all series of the retailer, for a step on a panel that holds all of them, or a shard.

    Args:
        known: the sums of all shards asked for so far, in order; None: the panel holds every series.
        kept: folder of what the shard has computed so far; None: nothing is kept between rounds.
        keeps: results of `once` are kept as long as this object.
    """

    def __init__(self, known: Sequence[Asked] | None = None, kept: Path | None = None, keeps: bool = True) -> None:
        self._known, self._kept = known, kept
        self._asked = self._made = 0
        self._once: dict[Hashable, Any] | None = {} if keeps else None

    def once(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result of `make`, which is called once for each key where results are kept, and every time otherwise.

        Args:
            key: differs wherever anything differs that the result depends on, sales included.
        """
        if self._once is None:
            return make()
        if key not in self._once:
            self._once[key] = make()
        found: Result = self._once[key]
        return found

    def every(self, *parts: tuple[Groups, NDArray[Any]]) -> Asked:
        """The sums of all shards, by all groups of any shard, for each part: (groups, values (N, ...)) of the panel.

        Parts asked for together cost one round of the shards.
        """
        if self._known is not None and self._asked < len(self._known):
            return self._every(())
        return self._every(tuple(Sums.of(groups, values) for groups, values in parts))

    def _every(self, own: Asked) -> Asked:
        if self._known is None:
            return own
        if self._asked == len(self._known):
            raise _Pause(own)
        self._asked += 1
        return self._known[self._asked - 1]

    def sums(self, *parts: tuple[Groups, NDArray[Any]]) -> list[Floats]:
        """The same, for the groups of the panel only: shape (G, ...) each."""
        totals = self.every(*parts)
        return [total.of_groups(groups) for total, (groups, _) in zip(totals, parts, strict=True)]

    def total(self, values: NDArray[Any]) -> Floats:
        """The sum of values (N, ...) over all rows of all shards: shape (...)."""
        [total] = self.sums((Groups.one(len(values)), values))
        return np.asarray(total[0])

    def median(self, values: Floats) -> float | None:
        """The median of the values of all shards, as by np.median; None where there is no value."""
        counted = Sums.of(Groups.of(values), np.ones(len(values), dtype=np.int64))
        [found] = self._every((replace(counted, ranked=True),))
        middle = found.settled().names
        return float((middle[0] + middle[-1]) / 2) if len(middle) else None

    def keeping(self, folder: Path) -> Retailer:
        """The same, with what the shard computes kept in a folder."""
        return Retailer(self._known, folder)

    def keep(self, make: Callable[[], tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
        """The arrays that `make` returns; it may ask for sums. A shard computes them in one round and reads them from
        its folder in later ones."""
        if self._kept is None:
            return make()
        path = self._kept / f"{self._made:03d}.npz"
        self._made += 1
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                *found, counts = (file[name] for name in file.files)
            self._asked, self._made = counts.tolist()
            return tuple(found)
        made = make()
        _save(path, (*made, np.array([self._asked, self._made])))
        return made

    def keep_as(
        self, make: Callable[[], Result], save: Callable[[Result, Path], object], load: Callable[[Path], Result]
    ) -> Result:
        """`keep` for a result that has files of its own.

        Args:
            save, load: to and from a folder of its own.
        """
        if self._kept is None:
            return make()
        folder = self._kept / f"{self._made:03d}"
        self._made += 1
        if (folder / _COUNTS).exists():
            with np.load(folder / _COUNTS, allow_pickle=False) as file:
                [counts] = (file[name] for name in file.files)
            self._asked, self._made = counts.tolist()
            return load(folder)
        made = make()
        save(made, folder)
        _save(folder / _COUNTS, [np.array([self._asked, self._made])])
        return made


WHOLE = Retailer(keeps=False)


@dataclass(frozen=True)
class Rounds(Sequence[Asked]):
    """The sums of all shards, round by round, as files of a folder."""

    folder: Path
    rounds: int

    @classmethod
    def at(cls, folder: Path) -> Rounds:
        """The rounds that the folder holds."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, len(list(folder.glob("[0-9]*.npz"))))

    def __len__(self) -> int:
        return self.rounds

    def __getitem__(self, at: int) -> Asked:  # type: ignore[override]  # no slices
        if at >= self.rounds:
            raise IndexError(at)
        with np.load(self.folder / f"{at:03d}.npz", allow_pickle=False) as file:
            found = [file[name] for name in file.files]
        return tuple(Sums(*found[k : k + 3]) for k in range(0, len(found), 3))

    def and_then(self, asked: Asked) -> Rounds:
        _save(self.folder / f"{self.rounds:03d}.npz", [a for s in asked for a in (s.names, s.whole, s.rest)])
        return Rounds(self.folder, self.rounds + 1)


def _save(path: Path, arrays: Iterable[NDArray[Any]]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("wb") as file:
        np.savez(file, *arrays)
    os.replace(temporary, path)


@dataclass(frozen=True)
class Attempt(Generic[Shard, Result]):
    """A step tried on a shard, with what is known of the others by now."""

    step: Callable[[Shard, Retailer], Result]
    shard: Shard
    known: Sequence[Asked]
    kept: Path | None = None


def attempted(given: Attempt[Shard, Result]) -> Result | Asked:
    """The step's result, or the shard's part of the sums it waits for."""
    try:
        return given.step(given.shard, Retailer(given.known, given.kept))
    except _Pause as pause:
        return pause.part


# Like `map`, in order; in this process or elsewhere.
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


def over_shards(
    shards: Sequence[Shard], step: Callable[[Shard, Retailer], Result], run: Run = map, folder: Path | None = None
) -> Iterator[Result]:
    """The results of a step for each shard, in order, as for the whole retailer at once.

    A step is started again for each round of sums, so it has no other effect than one that may happen twice.

    Args:
        shards: panels of the same weeks, or where to find them. A single one holds every series and needs no rounds.
        step: its result is no tuple.
        run: maps attempts to outcomes, by default one after the other in this process.
        folder: keeps the sums and what shards compute, so that a later call goes on from there. None: sums stay in
            memory, and shards compute everything again in each round.
    """
    if len(shards) == 1:
        yield step(shards[0], Retailer())
        return
    known: tuple[Asked, ...] | Rounds = Rounds.at(folder / "sums") if folder else ()
    kept = [folder and folder / f"kept-{number:05d}" for number in range(len(shards))]
    while shards:
        total: Asked | None = None
        done = 0
        attempts = [Attempt(step, shard, known, place) for shard, place in zip(shards, kept, strict=True)]
        for outcome in run(attempted, attempts):
            waits = isinstance(outcome, tuple)
            if done if waits else total is not None:  # sums without those that are done would be wrong
                raise RuntimeError(f"shards wait for sums that others no longer ask for; remove {folder}, run again")
            if waits:
                total = outcome if total is None else tuple(a + b for a, b in zip(total, outcome, strict=True))
            else:
                done += 1
                yield outcome
        if total is None:
            return
        total = tuple(sums.settled() for sums in total)
        known = known.and_then(total) if isinstance(known, Rounds) else (*known, total)
