"""Taking a file's rows out of force, on a person's word. Nothing is deleted."""

from __future__ import annotations

import datetime as dt

from forecast_platform.lake.lake import Lake
from forecast_platform.landing.effect import Effect, Standing
from forecast_platform.landing.kinds import ATTRIBUTES
from forecast_platform.landing.ledger import INGESTED, KNOWN, WITHDRAWN, Entry, Ledger, LedgerError, change
from forecast_platform.weeks import WEEK


def withdraw(lake: Lake, entry: Entry, reason: str, author: str, now: dt.datetime) -> tuple[Entry, Effect]:
    """Withdraw a landing: what it had overridden is in force again, and the weeks it held wait to be cleaned. What was
    known before this moment stays known then.

    Returns:
        Its entry now, and what that did to the rows in force (sales).

    Raises:
        LedgerError: nothing of it is in force, or it holds attributes.
    """
    if entry.status == KNOWN:
        raise LedgerError(f"nothing of {entry.key} is in force: {entry.message}; withdraw that one")
    if entry.status != INGESTED:
        raise LedgerError(f"nothing of {entry.key} is in force: it is {entry.status}")
    if entry.kind in ATTRIBUTES:
        raise LedgerError(
            f"{entry.key} holds {entry.kind}, which are as they landed last: land a corrected file instead"
        )
    if entry.kind != "sales" or entry.first_week is None or entry.last_week is None:
        return change(lake, entry, status=WITHDRAWN, withdrawn_at=now, reason=reason, author=author), Effect()
    weeks = [entry.first_week + i * WEEK for i in range((entry.last_week - entry.first_week).days // 7 + 1)]

    standing = Standing(lake, Ledger.of(lake))
    try:
        effect = standing.effect_of_withdrawal(entry, weeks, now)
    finally:
        standing.close()
    values = {"status": WITHDRAWN, "withdrawn_at": now, "reason": reason, "author": author}
    return change(lake, entry, **values, to_clean=tuple(weeks)), effect
