"""Failed runs as rows of `run_failures`: what failed, of which week, and which later run mended it. The view
`open_failures` shows those that nobody has mended."""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from forecast_platform.lake.lake import Lake, any_of

logger = logging.getLogger(__name__)

WEEKLY, INGEST = "weekly_forecast", "ingest_history"
_INGEST_STEPS = ("raw_sales", "cleaned_series", "forecast_accuracy")
LONGEST_MESSAGE = 2_000
# What looks like a secret in other people's error texts: passwords in addresses, keys and tokens by their names, AWS's.
_SECRETS = (
    (re.compile(r"(\w+://[^\s:/@]+):[^\s@/]+@"), r"\1:***@"),
    (re.compile(r"(?i)\b(\w*(?:password|passwd|secret|token|signature|credential|api_?key)\w*[\"']?\s*[=:]\s*[\"']?)[^\s&\"',;]+"),
     r"\1***"),
    (re.compile(r"https://hooks\.slack\.com/\S+"), "https://hooks.slack.com/***"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run as far as failures are concerned.

    Attributes:
        weeks: its weeks, ascending; none for a job without weeks.
    """

    run_id: str
    job: str
    weeks: tuple[dt.date, ...] = ()


@dataclass(frozen=True)
class Failure:
    """One step that failed; an empty step is the run itself, such as a process that died."""

    step: str
    message: str


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without what `secrets` holds and without what looks like a secret."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def record_failures(
    lake: Lake, run: Run, failures: Sequence[Failure], now: dt.datetime, secrets: Iterable[str] = ()
) -> None:
    """Write a failed run down, once per step. The week is the newest of the run. Never raises: the failure itself is
    what people must see, not that it could not be written down."""
    rows = [
        {
            "week": run.weeks[-1] if run.weeks else None,
            "weeks": len(run.weeks),
            "run_id": run.run_id,
            "job": run.job,
            "step": failure.step,
            "message": without_secrets(failure.message, secrets).strip()[:LONGEST_MESSAGE],
            "failed_at": now,
            "mended_at": None,
            "mended_by": None,
        }
        for failure in failures
    ]
    try:
        table = pa.Table.from_pylist(rows, schema=lake.specs["run_failures"].schema)
        lake.replace("run_failures", any_of("run_id", [run.run_id]), table)
    except Exception:
        logger.exception("the failure of run %s could not be written down", run.run_id)


def record_success(lake: Lake, run: Run, now: dt.datetime) -> None:
    """Mark the earlier failures that a run that went through has mended. Never raises."""
    try:
        if lake.snapshot("run_failures") is None:
            return
        for failed_id, rows in _by_run(lake.read("run_failures").to_pylist()).items():
            mended = [
                row for row in rows if row["mended_at"] is None and row["run_id"] != run.run_id and _mends(run, row)
            ]
            for row in mended:
                row |= {"mended_at": now, "mended_by": run.run_id}
            if mended:
                table = pa.Table.from_pylist(rows, schema=lake.specs["run_failures"].schema)
                lake.replace("run_failures", any_of("run_id", [failed_id]), table)
    except Exception:
        logger.exception("what run %s mended could not be written down", run.run_id)


def _by_run(rows: list[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        found.setdefault(str(row["run_id"]), []).append(row)
    return found


def _mends(run: Run, failure: dict[str, object]) -> bool:
    """The same job for the same week mends a failure; the whole graph for its week mends any of it; bringing the week
    in mends what failed while it was brought in."""
    if failure["week"] is None:
        return run.job == failure["job"]
    if failure["week"] not in run.weeks:
        return False
    return run.job in (failure["job"], WEEKLY) or (run.job == INGEST and failure["step"] in _INGEST_STEPS)
