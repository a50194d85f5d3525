"""Runs of the graph: `forecast run` and `forecast backfill`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from forecast_platform.cli.terminal import open_runner, print_forecast, report

if TYPE_CHECKING:
    from forecast_platform.runner import Runner


@click.command()
@click.option("--week", default="", help="week to forecast from, by the date it ends on; default: the newest complete")
def run(week: str) -> None:
    """Ingest what has landed, then forecast from one week: the same run the sensor would start."""
    with open_runner() as runner:
        chosen = runner.settings.calendar.parse(week) if week else None
        outcome = runner.bring_in()
        if outcome is not None:
            report(outcome)
        if chosen is None:
            chosen = newest_complete(runner)
        report(runner.run_week(chosen), title=f"week {chosen}")
        print_forecast(runner, chosen)


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
    from forecast_platform.series.cleaning import newest_complete_week

    week = newest_complete_week(runner.platform.lake, runner.settings.complete_share)
    if week is None:
        raise click.ClickException("the lake holds no complete week yet; bring sales in with: forecast import FILE...")
    return week
