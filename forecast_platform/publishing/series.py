"""The series of a week: those to forecast, and those that get a reason instead."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecast_platform.history.covariates import complete, divide_exposure
from forecast_platform.history.panel import Panel
from forecast_platform.history.panel_file import save_panel
from forecast_platform.history.reading import KnownRows
from forecast_platform.history.shards import WHOLE, Retailer, Run, over_shards
from forecast_platform.history.silence import probability_of_return, stopping
from forecast_platform.lake.closures import Closing
from forecast_platform.levels import Level
from forecast_platform.models.last_year.reference import worth_lining_up
from forecast_platform.weeks import WEEK


@dataclass(frozen=True)
class Listed:
    """The series of a week.

    Attributes:
        shards: panels of those to forecast, or the folders of their panel files; none of them empty.
        beside: rows of the tables that say more of them: no_forecast, stopping_series, forecast_events.
    """

    shards: tuple[Panel | Path, ...]
    beside: Mapping[str, pa.Table]


@dataclass(frozen=True)
class _Listing:
    """`list_series` for one shard; it can be sent to another process."""

    active_weeks: int
    horizon: int
    closings: tuple[Closing, ...]
    levels: tuple[Level, ...]
    folder: Path | None

    def __call__(self, shard: tuple[int, KnownRows], retailer: Retailer) -> Listed:
        number, source = shard
        panel = replace(source.panel(retailer), levels=self.levels)
        active, without = forecastable(panel, self.active_weeks, self.horizon, self.closings, retailer)
        beside = {
            "no_forecast": without,
            "stopping_series": stopping(active, retailer),
            "forecast_events": event_rows(active, self.horizon, retailer),
        }
        place: Panel | Path = active
        if self.folder is not None and len(active):
            place = save_panel(active, self.folder / f"shard-{number:05d}").parent
        return Listed((place,) if len(active) else (), beside)


def list_series(
    sources: Sequence[KnownRows],
    folder: Path,
    active_weeks: int,
    horizon: int,
    closings: Sequence[Closing] = (),
    levels: Sequence[Level] = (),
    run: Run = map,
) -> Listed:
    """The series of a week, from their rows.

    Args:
        folder: where the panels of several shards go.
        active_weeks, horizon, closings: see `forecastable`. run: see `over_shards`.

    Raises:
        ValueError: see KnownRows.panel and `event_rows`.
    """
    several = folder if len(sources) > 1 else None
    step = _Listing(active_weeks, horizon, tuple(closings), tuple(levels), several)
    found = list(over_shards(list(enumerate(sources)), step, run, several and several / "work"))
    beside = {name: pa.concat_tables([each.beside[name] for each in found]) for name in found[0].beside}
    beside["forecast_events"] = found[0].beside["forecast_events"]  # the same of all
    return Listed(tuple(shard for each in found for shard in each.shards), beside)


def forecastable(
    panel: Panel, active_weeks: int, horizon: int = 1, closings: Sequence[Closing] = (), retailer: Retailer = WHOLE
) -> tuple[Panel, pa.Table]:
    """Split the series at a cutoff into those to forecast and those that get a reason instead.

    Args:
        panel: ends at the cutoff and holds every series, since they show how silences end; or a shard, with its
            `retailer`.
        closings: what people closed. A series closed in all weeks ahead is not forecast. One closed in some of them is
            forecast as 0 there.

    Returns:
        The panel of active series with `returns` for `horizon` weeks, and rows (store, dept, last_week, reason) for
        the others.
    """
    idle = len(panel.weeks) - 1 - panel.last_row
    last_week = panel.weeks[panel.last_row].astype("datetime64[D]")
    by_people, is_open = _closed_by_people(panel, horizon, closings)
    closed = (idle >= active_weeks) | ~is_open.any(axis=1)
    reasons = [
        by_people[i]
        or f"closed: no sales for {idle[i]} weeks, the last in the week of {last_week[i]}; a series is closed after "
        f"{active_weeks}"
        for i in np.flatnonzero(closed).tolist()
    ]
    panel = replace(panel, returns=probability_of_return(panel, horizon, retailer) * is_open)
    rows = pa.table(
        {
            "store": pa.array(panel.store[closed].tolist(), pa.string()),
            "dept": pa.array(panel.dept[closed].tolist(), pa.string()),
            "last_week": pa.array(last_week[closed], pa.date32()),
            "reason": pa.array(reasons, pa.string()),
        }
    )
    return panel.select(~closed), rows


def _closed_by_people(panel: Panel, horizon: int, closings: Sequence[Closing]) -> tuple[list[str], NDArray[np.bool_]]:
    """For each series the reason why people closed it, "" where nobody did, and its open weeks ahead (N, H)."""
    reasons, is_open = [""] * len(panel), np.ones((len(panel), horizon), dtype=bool)
    cutoff = panel.weeks[-1].astype(dt.date)
    ahead = [cutoff + step * WEEK for step in range(1, horizon + 1)]
    for closing in closings:
        covered = np.array([closing.covers(week) for week in ahead])
        mine = (panel.store == closing.store) & covered.any()
        if closing.dept is not None:
            mine = mine & (panel.dept == closing.dept)
        for i in np.flatnonzero(mine).tolist():
            is_open[i] &= ~covered
            until = "" if closing.to_week is None else f" to {closing.to_week}"
            what = "department" if closing.dept is not None else "store"
            reasons[i] = f"{what} closed from {closing.from_week}{until} by {closing.author}: {closing.reason}"
    return reasons, is_open


def event_rows(panel: Panel, horizon: int, retailer: Retailer = WHOLE) -> pa.Table:
    """Rows of `forecast_events` (name, date, lined_up): every date of the panel's events.

    Args:
        panel: the series that are forecast, up to the cutoff. horizon: weeks ahead.

    Raises:
        ValueError: the exposure of a week ahead is missing, see `complete`.
    """
    ready, _ = complete(panel, horizon, wanted=(), retailer=retailer)
    kept = worth_lining_up(divide_exposure(ready), retailer)
    events = panel.events or ()
    rows = [{"name": e.name, "date": day, "lined_up": e in kept} for e in events for day in e.dates]
    return pa.Table.from_pylist(rows, pa.schema({"name": pa.string(), "date": pa.date32(), "lined_up": pa.bool_()}))
