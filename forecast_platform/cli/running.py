"""Runs of the graph: `forecast run` and `forecast backfill`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from forecast_platform.cli.terminal import SEE_REFUSED, open_runner, print_forecast, report

if TYPE_CHECKING:
    from forecast_platform.runner import Runner


@click.command()
@click.option("--week", default="", help="week to forecast from, by the date it ends on; default: the newest complete")
def run(week: str) -> None:
    """Ingest what has landed, then forecast from one week: the same run the sensor would start."""
    with open_runner() as runner:
        chosen = runner.settings.calendar.parse(week) if week else None
        if chosen:
            require_begun(runner, chosen)
        outcome = runner.bring_in()
        if outcome is not None:
            report(outcome)
        if chosen is None:
            chosen = newest_complete(runner)
        require_data(runner, chosen)
        troubles = unread(runner)
        report(runner.run_week(chosen), title=f"week {chosen}")
        print_forecast(runner, chosen)
        if troubles:
            click.secho(troubles, fg="yellow")


@click.command()
@click.argument("first")
@click.argument("last")
@click.option("--as-known-then", is_flag=True, help="use only the data versions that had landed by each week's time")
def backfill(first: str, last: str, as_known_then: bool) -> None:
    """Forecast again from every week FIRST .. LAST, oldest first."""
    with open_runner() as runner:
        calendar = runner.settings.calendar
        weeks = calendar.between(calendar.parse(first), calendar.parse(last))
        if not weeks:
            raise click.ClickException(f"{first} comes after {last}; give the earlier week first")
        require_begun(runner, weeks[-1])
        require_data(runner, weeks[0])
        tags = {"forecast/backfill": f"{first}..{last}"}
        failed = []
        for number, week in enumerate(weeks, 1):
            outcome = runner.run_week(week, as_known_then, tags)
            seconds = sum(stage["seconds"] for stage in outcome.stages.values())
            state = "done" if outcome.success else "FAILED " + (outcome.error or "; ".join(outcome.blocked))
            click.echo(f"[{number}/{len(weeks)}] {week}  {seconds:6.1f} s  {state}")
            if not outcome.success:
                failed.append(week)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(weeks)} weeks failed; the others are published")


def newest_complete(runner: Runner) -> dt.date:
    from forecast_platform.history.cleaning import newest_complete_week

    with runner.platform.lake.connection("cleaned_series") as con:
        week = newest_complete_week(con, runner.settings.complete_share)
    if week is None:
        raise click.ClickException("the lake holds no complete week yet; bring sales in with: forecast import FILE...")
    return week


def require_begun(runner: Runner, week: dt.date) -> None:
    """Refuse a week that is still to come: nothing can be known of it."""
    newest = runner.settings.calendar.last_started(dt.datetime.now(dt.UTC))
    if week > newest:
        raise click.ClickException(f"the week of {week} is still to come; the newest there can be is that of {newest}")


def require_data(runner: Runner, week: dt.date) -> None:
    """Refuse a week that lies before all sales."""
    (first,) = runner.platform.lake.query("SELECT min(week) AS first FROM cleaned_series")["first"].to_pylist()
    if first is None:
        raise click.ClickException("the lake holds no sales yet; bring some in with: forecast import FILE...")
    if week < first:
        raise click.ClickException(f"the week of {week} lies before the data, which begin with the week of {first}")


def unread(runner: Runner) -> str:
    """One line about the files that landed since the last forecast and were refused, wholly or in part; empty when all
    were read. A forecast without them looks like one with them."""
    rows = runner.platform.lake.query(
        """
        SELECT l.source_key, l.status, l.rows, l.quarantined, l.message FROM landings AS l
        JOIN (SELECT source_key, max(landed_at) AS landed_at FROM landings GROUP BY source_key) AS n
          ON n.source_key = l.source_key AND n.landed_at = l.landed_at
        WHERE (l.status = 'refused' OR l.quarantined > 0)
          AND l.arrived_at > (SELECT coalesce(max(created_at), TIMESTAMPTZ '1970-01-01') FROM forecasts)
        ORDER BY l.status = 'refused' DESC, l.arrived_at DESC
        """
    ).to_pylist()
    if not rows:
        return ""
    worst = rows[0]
    what = (
        "was refused" if worst["status"] == "refused" else f"had {worst['quarantined']:,} of {worst['rows']:,} refused"
    )
    why = f" ({worst['message']})" if worst["message"] else ""
    more = f", and {len(rows) - 1} more files with refused rows" if len(rows) > 1 else ""
    return f"Not all that landed is in this forecast: {worst['source_key']} {what}{why}{more}. {SEE_REFUSED}"
