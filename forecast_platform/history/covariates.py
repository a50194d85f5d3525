"""Covariates: what a retailer knows of a week beside its sales. Promotions and prices are known ahead, weather is not.

F columns, N series, T weeks of sales and A weeks after them, horizon H. Features land by store or by store and
department; here each series has its own row. Three steps from the landed table to the network's inputs:

    attach      the columns in use, as they landed, gaps and all
    Panel.until what was known of them at a cutoff
    complete    without gaps, for exactly H weeks ahead, with the columns derived from them (history/derived.py):
                features for training and forecasting
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecast_platform.history.derived import derivable, derive, source_of
from forecast_platform.history.panel import Panel, natural_key
from forecast_platform.history.shards import WHOLE, Groups, Retailer

Floats = NDArray[np.float64]

# Where nothing is declared, columns of these names are used as known ahead: retailers plan them.
PLANNED = (
    "promo", "promos", "promotion", "promotions", "promo_days", "promotion_days", "on_promotion", "onpromotion",
    "campaign", "coupon", "discount",
    "price", "prices", "unit_price", "sell_price", "sales_price", "list_price", "base_price", "shelf_price",
    "open", "open_days", "opening_days", "trading_days", "opening_hours",
    "school_holiday", "school_holidays", "schoolholiday", "state_holiday", "stateholiday", "public_holiday",
    "public_holidays", "holiday_days",
)  # fmt: skip
EXPOSURE = "open_days"

AUTO, NONE, LAST = "auto", "none", "last"
_DECLARATION = re.compile(r"(known|past)(?::(.+))?")


@dataclass(frozen=True)
class Declaration:
    """What a column is used as.

    Attributes:
        name: of the column, in lower case.
        known: known ahead; False: only in the past.
        fill: replaces missing values: a number, or LAST for the value before. None: in the history the value before;
            in the weeks ahead no value may be missing.
        declared: named in the settings. False: chosen by its name; a missing value ahead leaves it out and is no error.
    """

    name: str
    known: bool = True
    fill: float | Literal["last"] | None = None
    declared: bool = True

    @classmethod
    def parse(cls, name: str, text: str) -> Declaration:
        """From "known", "known:0", "known:last", "past", "past:0" or "past:last".

        Raises:
            ValueError: the text is none of these.
        """
        match = _DECLARATION.fullmatch(text.strip().lower())
        try:
            if match is None:
                raise ValueError
            fill: float | Literal["last"] | None = None
            if match[2] is not None:
                fill = "last" if match[2] == LAST else float(match[2])
            if isinstance(fill, float) and not np.isfinite(fill):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{name} is declared as {text!r}; write known, known:0 (or another number, for missing values), "
                "known:last, or the same with past"
            ) from None
        return cls(name.strip().lower(), match[1] == "known", fill)


@dataclass(frozen=True)
class Declarations:
    """Which columns are used.

    Attributes:
        covariates: those declared; None: the columns of PLANNED that landed.
        exposure: name of the column that says how much of a week a store was open. AUTO: EXPOSURE, where that column
            landed and covariates are not declared either. NONE: there is none.
    """

    covariates: tuple[Declaration, ...] | None = None
    exposure: str = AUTO

    @classmethod
    def of(cls, covariates: Mapping[str, str] | Literal["auto", "none"], exposure: str = AUTO) -> Declarations:
        """From the values of the settings.

        Raises:
            ValueError: Declaration.parse cannot read a declaration, or the exposure is declared as past.
        """
        exposure = exposure.strip().lower()
        if covariates == AUTO:
            return cls(None, exposure)
        declared = {} if isinstance(covariates, str) else covariates
        columns = tuple(Declaration.parse(*item) for item in declared.items())
        if any(column.name == exposure and not column.known for column in columns):
            raise ValueError(f"{exposure} is the exposure and must be known ahead: declare it as known, not as past")
        return cls(columns, exposure)

    def among(self, names: Collection[str]) -> tuple[tuple[Declaration, ...], tuple[Declaration, ...]]:
        """The covariates and the exposure (one or none) in use, given the names of the columns that landed.

        Raises:
            ValueError: a declared column did not land, and nothing says what to put in its place.
        """
        auto = self.covariates is None
        columns = self.covariates or ()
        if auto:
            columns = tuple(Declaration(name, declared=False) for name in sorted(set(PLANNED) & set(names)))
        exposure: tuple[Declaration, ...] = ()
        if self.exposure == AUTO:
            exposure = (Declaration(EXPOSURE, declared=False),) if auto and EXPOSURE in names else ()
        elif self.exposure != NONE:
            declared = {column.name: column for column in columns if column.declared}
            exposure = (declared.get(self.exposure, Declaration(self.exposure)),)
        for column in (*columns, *exposure):
            # Before the first feature has landed a fill rule may stand in; afterwards the name is a mistake.
            if column.name not in names and (names or column.fill is None):
                there = f"the columns that landed are {', '.join(sorted(names))}" if names else "no features landed yet"
                raise ValueError(
                    f"the declared column {column.name} is not among the features: {there}; land it under features/, "
                    "or take it out of the settings covariates and exposure"
                )
        return columns, exposure


@dataclass(frozen=True)
class Covariates:
    """F columns of N series over T + A weeks.

    Attributes:
        columns: what each is used as, F of them.
        values: shape (F, N, T + A), float64, NaN where nothing was given.
    """

    columns: tuple[Declaration, ...]
    values: Floats

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Shape (F,): known ahead."""
        return np.array([column.known for column in self.columns], dtype=bool)

    def until(self, end: int) -> Covariates:
        """What was known after `end` weeks: their values, and later values of columns known ahead."""
        values = _widened(self.values, end)
        if end < values.shape[-1] and not self.known.all():
            values = values.copy()
            values[~self.known, :, end:] = np.nan
        return Covariates(self.columns, values)

    def select(self, keep: NDArray[np.bool_]) -> Covariates:
        return Covariates(self.columns, self.values[:, keep])

    def joined(self, others: Sequence[Covariates], order: NDArray[np.int64]) -> Covariates:
        """The same columns for its own series followed by those of the others, then put in this order."""
        both = (self, *others)
        width = max(each.values.shape[2] for each in both)
        values = np.concatenate([_widened(each.values, width) for each in both], axis=1)
        return Covariates(self.columns, values[:, order])


def attach(
    panel: Panel, features: pa.Table, declarations: Declarations, landed: Collection[str] | None = None
) -> Panel:
    """The panel with the covariates and the exposure in use.

    Args:
        features: rows (store, dept, week, name, value); of several with the same key the last one counts. dept is null
            where a value holds for the whole store; a department's own value wins over it.
        landed: names of all columns that landed, where the panel is a shard; None: those of the features.

    Raises:
        ValueError: see Declarations.among.
    """
    columns, exposure = declarations.among(features["name"].unique().to_pylist() if landed is None else landed)
    return dataclasses.replace(
        panel,
        covariates=_on_grid(panel, features, columns) if columns else None,
        exposure=_on_grid(panel, features, exposure) if exposure else None,
    )


def _on_grid(panel: Panel, features: pa.Table, columns: tuple[Declaration, ...]) -> Covariates:
    stores, of_store = np.unique(panel.store, return_inverse=True)
    depts, of_dept = np.unique(panel.dept, return_inverse=True)
    column = _index(features["name"], np.array([c.name for c in columns]))
    store, dept = _index(features["store"], stores), _index(features["dept"], depts)
    week = (features["week"].to_numpy().astype("datetime64[D]") - panel.weeks[0]).astype(np.int64) // 7
    value = features["value"].to_numpy()
    used = (column >= 0) & (store >= 0) & (week >= 0)
    width = max(len(panel.weeks), int(week[used].max(initial=-1)) + 1)
    whole_store = used & pc.is_null(features["dept"]).to_numpy(zero_copy_only=False)
    by_store = np.full((len(columns), len(stores), width), np.nan)
    by_store[column[whole_store], store[whole_store], week[whole_store]] = value[whole_store]
    values = by_store[:, of_store]
    series = np.full((len(stores), len(depts)), -1)
    series[of_store, of_dept] = np.arange(len(panel))
    row = np.where(used & (dept >= 0), series[store, dept], -1)
    own = (row >= 0) & ~np.isnan(value)
    values[column[own], row[own], week[own]] = value[own]
    return Covariates(columns, values)


def _index(names: pa.ChunkedArray, among: NDArray[np.str_]) -> NDArray[np.int64]:
    """Position of each name, -1 for others and null."""
    found = pc.index_in(names, value_set=pa.array(among.tolist(), pa.string()), skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)


def complete(
    panel: Panel, horizon: int, wanted: Sequence[str] | None = None, retailer: Retailer = WHOLE
) -> tuple[Panel, tuple[str, ...]]:
    """The panel with covariates and exposure of T + horizon weeks, without a gap.

    A gap is filled by its column's fill rule. Without a rule, a gap in the history takes the value before it (else the
    first one, else 0); a gap in the weeks ahead is an error, or leaves the column out where nobody declared it. Columns
    known only in the past are shifted by the horizon: week t holds the value of week t - horizon, so that there is a
    value for the last week ahead too. Closed series, those without sales for `panel.active_weeks` weeks, need no values
    ahead. Exposure is divided by its usual value, the median of all positive ones up to the panel's end; 0 is a closed
    week. The columns are followed by those derived from them, see derived.py.

    For one cutoff, the panel's end: first `until`, then `complete`. The columns are then known for all their weeks, so
    `covariates.values[:, :, :T]` is what a network trains on and `covariates.values` what it forecasts with.

    Args:
        horizon: weeks ahead.
        wanted: the columns that a model was trained on, derived ones included: the result has exactly these, in this
            order. One that nobody declared is then filled instead of left out.

    Returns:
        The panel, and a sentence for each column that is left out or filled though nobody declared it.

    Raises:
        ValueError: a value ahead is missing, naming column, week and store; or a wanted column is not there.
    """
    given = panel.covariates if wanted is None else ordered(panel.covariates, wanted)
    covariates, notices = _complete(panel, given, horizon, wanted is not None, retailer)
    if covariates is not None and given is not None:
        planned = {column.name for column in given.columns if column.known}
        covariates = _with_derived(panel, covariates, planned, wanted, retailer)
    exposure, undivided = _complete(panel, panel.exposure, horizon, False, retailer)
    if exposure is not None:
        known = exposure.values[0][:, : len(panel.weeks)]
        usual = retailer.median(known[known > 0]) or 1.0
        exposure = dataclasses.replace(exposure, values=np.maximum(exposure.values, 0) / usual)
    notices += [f"sales are not divided: {notice}" for notice in undivided]
    return dataclasses.replace(panel, covariates=covariates, exposure=exposure), tuple(notices)


def ordered(given: Covariates | None, wanted: Sequence[str]) -> Covariates | None:
    """The columns wanted, in that order. Raises ValueError where one is not there, and is not derived from others."""
    if not wanted:
        return None
    there = given.names if given else ()
    wanted = [name for name in wanted if name in there or not source_of(name)]
    if lacking := [name for name in wanted if name not in there]:
        raise ValueError(
            f"the model was trained with {', '.join(lacking)}, which the features no longer hold (there are "
            f"{', '.join(there) or 'none'}); land it under features/ or train again"
        )
    assert given is not None
    at = [there.index(name) for name in wanted]
    return Covariates(tuple(given.columns[i] for i in at), given.values[at])


def _complete(
    panel: Panel, given: Covariates | None, horizon: int, keep: bool, retailer: Retailer
) -> tuple[Covariates | None, list[str]]:
    """`complete` for some columns. `keep`: continue a column that nobody declared instead of leaving it out."""
    if given is None:
        return None, []
    weeks = len(panel.weeks)
    values = _widened(given.values, weeks + horizon)[:, :, : weeks + horizon].copy()
    past = ~given.known
    values[past, :, horizon:] = values[past, :, :weeks]
    values[past, :, :horizon] = np.nan
    active = weeks - 1 - panel.last_row < panel.active_weeks
    kept, notices = [], []
    for i, column in enumerate(given.columns):
        gaps = np.isnan(values[i])
        if column.fill is None and column.known:
            trouble = _trouble(panel, column, gaps, active, retailer)
            if trouble and column.declared:
                raise ValueError(trouble)
            if trouble:
                fate = "is continued with its last value" if keep else "is left out"
                notices.append(f"{column.name} {fate}: {trouble}")
                if not keep:
                    continue
        kept.append(i)
        if isinstance(column.fill, float):
            values[i][gaps] = column.fill
        else:
            values[i] = _last_value(values[i])
    columns = tuple(dataclasses.replace(given.columns[i], known=True) for i in kept)
    return Covariates(columns, values[kept]) if kept else None, notices


def _with_derived(
    panel: Panel, covariates: Covariates, planned: Collection[str], wanted: Sequence[str] | None, retailer: Retailer
) -> Covariates:
    """Complete covariates followed by those derived from the planned ones: all that can be derived, or the wanted."""
    names = covariates.names
    if wanted is None:
        sources = [i for i, name in enumerate(names) if name in planned and not source_of(name)]
        observed = panel.observed.sum(axis=1)
        wanted = derivable([names[i] for i in sources], covariates.values[sources], observed, retailer)
    more = [name for name in wanted if name not in names]
    if not more:
        return covariates
    values = derive(more, names, covariates.values, panel.store, retailer)
    columns = (*covariates.columns, *(Declaration(name, declared=False) for name in more))
    return Covariates(columns, np.concatenate([covariates.values, values]))


def _trouble(
    panel: Panel, column: Declaration, gaps: NDArray[np.bool_], active: NDArray[np.bool_], retailer: Retailer
) -> str | None:
    """Why a column known ahead can't be used, given its gaps (N, T + H): where it ends, and what to land."""
    weeks = len(panel.weeks)
    rule = f'declare in the setting covariates what a missing value means: {column.name} = "known:0" or "known:last"'
    everywhere, stores = Groups.one(len(panel)), Groups.of(panel.store)
    ahead, observed = gaps[:, weeks:] & active[:, None], panel.observed
    cells = np.stack([(gaps[:, :weeks] & observed).sum(axis=1), observed.sum(axis=1)], axis=1)
    of_all, lacking, open_series = retailer.every((everywhere, cells), (stores, ahead), (stores, active))
    if not column.declared and of_all.whole[0, 0] > 0.5 * of_all.whole[0, 1]:
        return f"{column.name} has no value in most weeks of the history; {rule}"
    if not lacking.whole.any():
        return None
    dates = panel.weeks[-1] + 7 * (1 + np.arange(ahead.shape[1]))
    first = int(lacking.whole.any(axis=0).argmax())
    at = sorted(np.flatnonzero(lacking.whole[:, first]), key=lambda i: natural_key(str(lacking.names[i])))
    where = f"store {lacking.names[at[0]]}"
    rows = np.flatnonzero(ahead[:, first] & (panel.store == lacking.names[at[0]]))
    if lacking.whole[at[0], first] < open_series.whole[at[0]] and len(rows):
        where += f", department {panel.dept[rows[0]]}"
    others = len(at) - 1
    if others:
        where += f", and {others} other {'store' if others == 1 else 'stores'}"
    missing = f"{column.name} has no value for the week of {dates[first]} ({where})"
    return f"{missing}; land features/ up to {dates[-1]}, or {rule}"


def _last_value(values: Floats) -> Floats:
    """Gaps of each row filled with the value before, gaps before the first value with the first; a row without any
    value becomes 0."""
    given = ~np.isnan(values)
    before = np.maximum.accumulate(np.where(given, np.arange(values.shape[-1]), -1), axis=-1)
    source = np.where(before < 0, given.argmax(axis=-1)[:, None], before)
    return np.asarray(np.nan_to_num(np.take_along_axis(values, source, axis=-1)))


def _widened(values: Floats, width: int) -> Floats:
    """At least `width` weeks, NaN in the added ones."""
    more = width - values.shape[-1]
    return values if more <= 0 else np.pad(values, ((0, 0), (0, 0), (0, more)), constant_values=np.nan)


def divide_exposure(panel: Panel) -> Panel:
    """Sales divided by exposure, as weeks of the usual exposure would have them. A week without exposure becomes
    missing. A series for which no week would be left keeps its sales.

    Args:
        panel: from `complete`. Without exposure it is returned as it is.

    Returns:
        A panel without exposure, in the units of sales.
    """
    if panel.exposure is None:
        return panel
    share = panel.exposure.values[0][:, : len(panel.weeks)]
    sales = np.where(share > 0, panel.sales / np.where(share > 0, share, 1), np.nan)
    never = np.isnan(sales).all(axis=1)
    sales[never] = panel.sales[never]
    return dataclasses.replace(panel, sales=sales, exposure=None)


def multiply_exposure(forecasts: Floats, panel: Panel, horizon: int) -> Floats:
    """Forecasts of a divided panel back in sales; 0 where a store is closed.

    Args:
        forecasts: shape (N, H), or (N, Q, H) of quantiles or paths.
        panel: the one that was divided, with its exposure.
    """
    share = exposure_ahead(panel, horizon)
    if share is None:
        return forecasts
    return np.asarray(forecasts * (share if forecasts.ndim == 2 else share[:, None]))


def exposure_ahead(panel: Panel, horizon: int) -> Floats | None:
    """What forecasts of a divided panel are multiplied by, shape (N, H); None without exposure."""
    if panel.exposure is None:
        return None
    weeks = len(panel.weeks)
    return np.asarray(panel.exposure.values[0][:, weeks : weeks + horizon])


def describe(panel: Panel, landed: Collection[str]) -> str:
    """One line that says which of the `landed` columns the panel uses, and as what."""
    parts = []
    if panel.covariates:
        parts.append("covariates " + ", ".join(_words(column) for column in panel.covariates.columns))
    if panel.exposure:
        parts.append(f"exposure {panel.exposure.names[0]}")
    used = {name for part in (panel.covariates, panel.exposure) if part for name in part.names}
    if ignored := sorted(set(landed) - used):
        parts.append("not used " + ", ".join(ignored))
    return "; ".join(parts) or "no covariates"


def _words(column: Declaration) -> str:
    fill = "" if column.fill is None else f", else {column.fill if column.fill == LAST else f'{column.fill:g}'}"
    return f"{column.name} ({'known' if column.known else 'past'}{fill})"
