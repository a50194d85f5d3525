"""What planners read off a plan, derived from covariates that are known ahead: a price beside the usual one and beside
the rivals' in the store, a promotion beside the weeks around it, when people stock up or wait.

Price-like is a column without a value below 0, seldom 0, with more than FEW different values. Flag-like is one that is
0 more often than seldom; there, a retailer of few observations gains nothing, as networks would learn the weeks around
by heart. Others, such as open days, are left as they are. A price of 0 is no price.

Leak-free: a week's derived values are made of the plan alone, which a cutoff knows as far as it reaches.

F columns, N series, W weeks: those known and those ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.shards import Groups, Retailer

USUAL_WEEKS = 26  # the usual price is the mean of the weeks before, so many
SELDOM = 0.25  # of all cells at most
FEW = 10
ENOUGH = 10_000  # observations of the retailer from which on the weeks around a flag are derived

Floats = NDArray[np.float64]


def _to_usual(values: Floats, stores: Groups, retailer: Retailer) -> Floats:
    """The logarithm of a price over the usual one; 0 where there is neither."""
    priced = values > 0
    sums, counts = (_of_weeks_before(np.where(priced, each, 0)) for each in (values, np.ones_like(values)))
    usual = np.divide(sums, counts, out=np.zeros_like(values), where=counts > 0.5)
    both = priced & (usual > 0)
    return np.asarray(np.log(np.where(both, values, 1)) - np.log(np.where(both, usual, 1)))


def _to_rivals(values: Floats, stores: Groups, retailer: Retailer) -> Floats:
    """The logarithm of a price over the geometric mean of the other ones in the store; 0 where there is none."""
    priced = values > 0
    logs = np.log(np.where(priced, values, 1))
    sums, counts = (each[stores.member] for each in retailer.sums((stores, logs), (stores, priced)))
    others = counts - priced
    return np.where(priced & (others > 0), logs - (sums - logs) / np.maximum(others, 1), 0)


def _week_before(values: Floats, stores: Groups, retailer: Retailer) -> Floats:
    return np.concatenate([values[:, :1], values[:, :-1]], axis=1)


def _week_after(values: Floats, stores: Groups, retailer: Retailer) -> Floats:
    return np.concatenate([values[:, 1:], values[:, -1:]], axis=1)


def _to_usual_before(values: Floats, stores: Groups, retailer: Retailer) -> Floats:
    return _week_before(_to_usual(values, stores, retailer), stores, retailer)


def _of_weeks_before(values: Floats) -> Floats:
    """Of each row the sum over the USUAL_WEEKS weeks before each week."""
    until = np.concatenate([np.zeros((len(values), 1)), values.cumsum(axis=1)[:, :-1]], axis=1)
    return np.asarray(
        until - np.concatenate([np.zeros((len(values), USUAL_WEEKS)), until], axis=1)[:, : values.shape[1]]
    )


# What is derived of whom, by the ending of its name.
_Derivation = Callable[[Floats, Groups, Retailer], Floats]
TO_USUAL = "to usual"
_OF_PRICES: dict[str, _Derivation] = {
    TO_USUAL: _to_usual,
    "to rivals": _to_rivals,
    "to usual, week before": _to_usual_before,
}
_OF_FLAGS: dict[str, _Derivation] = {"week before": _week_before, "week after": _week_after}
_ALL = _OF_PRICES | _OF_FLAGS


def source_of(name: str) -> str | None:
    """The column that a derived one is made of, by its name; None for a name of another kind."""
    source, _, how = name.partition(", ")
    return source if how in _ALL else None


def derivable(names: Sequence[str], values: Floats, observed: NDArray[np.int64], retailer: Retailer) -> tuple[str, ...]:
    """The names of what is derived from columns, of each what its kind asks for.

    Args:
        values: of the columns, without a gap, shape (F, N, W).
        observed: how many observations each series has, shape (N,).
    """
    if not names:
        return ()
    one = Groups.one(values.shape[1])
    counts = np.stack([values == 0, values < 0, np.ones_like(values, dtype=bool)]).sum(axis=-1)
    few = [np.unique(each)[: FEW + 1] for each in values]  # as many as it takes to see that they are more
    parts = [(Groups.of(each), np.ones(len(each), dtype=np.int64)) for each in few]
    [total, seen, *different] = retailer.every((one, np.moveaxis(counts, -1, 0)), (one, observed), *parts)
    flags = _OF_FLAGS if seen.whole[0] >= ENOUGH else {}
    found: list[str] = []
    for name, zeros, below, cells, kinds in zip(names, *total.whole[0], different, strict=True):
        if zeros > SELDOM * cells:
            found += [f"{name}, {how}" for how in flags if len(kinds.names) > 1]
        elif not below and len(kinds.names) > FEW:
            found += [f"{name}, {how}" for how in _OF_PRICES]
    return tuple(found)


def derive(
    wanted: Sequence[str], names: Sequence[str], values: Floats, store: NDArray[np.str_], retailer: Retailer
) -> Floats:
    """The derived columns wanted, of `derivable`, shape (len(wanted), N, W), from columns (F, N, W) by name."""
    stores, at = Groups.of(store), list(names)
    found = [
        _ALL[how](values[at.index(source)], stores, retailer) for source, _, how in (w.partition(", ") for w in wanted)
    ]
    return np.array(found).reshape(len(wanted), *values.shape[1:])
