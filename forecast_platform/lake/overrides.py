"""A person's own figure for a series and week: kept beside the forecast with its reason, author and expiry, never over
it. The view `forecast_with_overrides` shows both."""

from __future__ import annotations

import datetime as dt
import math

import pyarrow as pa

from forecast_platform.lake.lake import Lake, any_of


class OverrideRefused(ValueError):
    """The override names no published forecast, or says too little; the message says what is missing."""


def add_override(
    lake: Lake,
    store: str,
    dept: str,
    target_week: dt.date,
    value: float,
    reason: str,
    author: str,
    expires: dt.date,
    now: dt.datetime,
) -> None:
    """Put a figure beside the newest forecast of a series and week; the newest one given counts.

    Args:
        expires: the last forecast week it holds for. A past week withdraws what was given before.
        now: when it was given, timezone-aware.

    Raises:
        OverrideRefused: the series or week is not in the newest forecast, or value, reason or author are missing.
    """
    if not math.isfinite(value):
        raise OverrideRefused(f"the value is {value}; give a number")
    for name, text in (("reason", reason), ("author", author)):
        if not text.strip():
            raise OverrideRefused(f"an override needs a {name}, for whoever reads it later")
    weeks = lake.query(
        "SELECT target_week FROM latest_forecast WHERE level = 'series' AND store = ? AND dept = ? ORDER BY 1",
        [store, dept],
    )["target_week"].to_pylist()
    if not weeks:
        raise OverrideRefused(f"the newest forecast has no store {store}, department {dept}")
    if target_week not in weeks:
        raise OverrideRefused(f"the newest forecast reaches from {weeks[0]} to {weeks[-1]}; {target_week} is not in it")
    row = {
        "store": store,
        "dept": dept,
        "target_week": target_week,
        "value": float(value),
        "reason": reason.strip(),
        "author": author.strip(),
        "expires": expires,
        "made_at": now,
    }
    rows = pa.Table.from_pylist([row], schema=lake.specs["overrides"].schema)
    lake.replace("overrides", any_of("made_at", [now.isoformat()]), rows)
