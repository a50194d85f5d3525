"""Derived columns: what planners read off a plan, computed from covariates that are known ahead. From a price: its
ratio to the usual price and to the other prices in the store. From a promotion: the weeks before and after it, when
people wait or stock up.

A column is a flag, such as a promotion, where more than SELDOM of its values are 0. It is a price where it is not a
flag, has no value below 0 and more than FEW different values; a price of 0 is no price. From other columns, such as
open days, nothing is derived; nor from the flags of a retailer with fewer than ENOUGH observations, where a network
would overfit the weeks around a promotion.

There is no leakage: derived values come from the plan alone, and a cutoff knows the plan as far as it reaches.

F columns, N series, W weeks: those known and those ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forecast_platform.history.shards import Groups, Retailer

USUAL_WEEKS = 26  # the usual price is the mean of so many weeks before
SELDOM = 0.25  # share of cells
FEW = 10  # different values
ENOUGH = 10_000  # observations of the retailer

Floats = NDArray[np.float64]


def _to_usual(values: Floats, stores: Groups, retailer: Retailer) -> Floats:
    """log(price / usual price); 0 where either is missing."""
    priced = values > 0
    sums, counts = (_of_weeks_before(np.where(priced, each, 0)) for each in (values, np.ones_like(values)))
    usual = np.divide(sums, counts, out=np.zeros_like(values), where=counts > 0.5)
    both = priced & (usual > 0)
    return np.asarray(np.log(np.where(both, values, 1)) - np.log(np.where(both, usual, 1)))


def _to_rivals(values: Floats, stores: Groups, retailer: Retailer) -> Floats:
    """log(price / geometric mean of the store's other prices in that week); 0 where either is missing."""
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
    """For each row and week, the sum over the USUAL_WEEKS weeks before it."""
    until = np.concatenate([np.zeros((len(values), 1)), values.cumsum(axis=1)[:, :-1]], axis=1)
    return np.asarray(
        until - np.concatenate([np.zeros((len(values), USUAL_WEEKS)), until], axis=1)[:, : values.shape[1]]
    )


# How columns are derived from each kind, by the ending of the derived column's name.
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
    """The column that a derived one is computed from, by its name; None where the name is not a derived column's."""
    source, _, how = name.partition(", ")
    return source if how in _ALL else None


def derivable(names: Sequence[str], values: Floats, observed: NDArray[np.int64], retailer: Retailer) -> tuple[str, ...]:
    """The names of all columns that can be derived from the named ones, by the kind of each.

    Args:
        values: of the columns, without a gap, shape (F, N, W).
        observed: how many observations each series has, shape (N,).
    """
    if not names:
        return ()
    one = Groups.one(values.shape[1])
    counts = np.stack([values == 0, values < 0, np.ones_like(values, dtype=bool)]).sum(axis=-1)
    few = [np.unique(each)[: FEW + 1] for each in values]  # enough to see whether there are more than FEW
    parts = [(Groups.of(each), np.ones(len(each), dtype=np.int64)) for each in few]
    [total, seen, *different] = retailer.every((one, np.moveaxis(counts, -1, 0)), (one, observed), *parts)
    flags = _OF_FLAGS if seen.whole[0] >= ENOUGH else {}
    found: list[str] = []
    for name, zeros, below, cells, distinct in zip(names, *total.whole[0], different, strict=True):
        if zeros > SELDOM * cells:
            found += [f"{name}, {how}" for how in flags if len(distinct.names) > 1]
        elif not below and len(distinct.names) > FEW:
            found += [f"{name}, {how}" for how in _OF_PRICES]
    return tuple(found)


def derive(
    wanted: Sequence[str], names: Sequence[str], values: Floats, store: NDArray[np.str_], retailer: Retailer
) -> Floats:
    """The wanted columns, named as by `derivable`, shape (len(wanted), N, W), from columns (F, N, W) of these names."""
    stores, at = Groups.of(store), list(names)
    found = [
        _ALL[how](values[at.index(source)], stores, retailer) for source, _, how in (w.partition(", ") for w in wanted)
    ]
    return np.array(found).reshape(len(wanted), *values.shape[1:])
