"""`forecast demo`: a made-up retailer through the whole graph."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forecast_platform.cli.terminal import heading, open_runner, print_forecast, report
from forecast_platform.weeks import WEEK

if TYPE_CHECKING:
    from forecast_platform.runner import Runner

HISTORY_WEEKS = 148  # nearly three years


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--stores", default=12, show_default=True)
@click.option("--depts", default=14, show_default=True)
@click.option("--last", default="", help="its newest week, by the Friday it ends on; default: the newest that is over")
@click.option(
    "--scored", default=13, show_default=True, type=click.IntRange(1), help="weeks whose forecasts are scored"
)
def demo(seed: int, stores: int, depts: int, last: str, scored: int) -> None:
    """A made-up retailer from landed files to published forecasts, and then the week after that."""
    from forecast_platform import demo as retailer_data

    with open_runner() as runner:
        if runner.settings.contract.name != "canonical" or runner.settings.contract.week_ends != "FRI":
            raise click.ClickException("the demo lands canonical files, weeks end on Friday; use another FORECAST_HOME")
        calendar, landing = runner.settings.calendar, runner.platform.landing
        end = calendar.parse(last) if last else retailer_data.newest_finished_week(dt.datetime.now(dt.UTC))
        retailer = retailer_data.make_retailer(seed, stores, depts, first=end - (HISTORY_WEEKS - 1) * WEEK, last=end)
        before, missed = end - WEEK, end - min(4, scored) * WEEK
        heading(f"1. A retailer's ETL lands its history: {stores} stores x {depts} departments, weeks up to {before}")
        store, export, content = retailer_data.bad_week(retailer, missed)
        files = retailer_data.history_files(retailer, before, without=(store, missed))
        for name, data in {**files, export: content}.items():
            landing.put(name, data)
            click.echo(f"   landing/{name}  {len(data):,} bytes")
        click.echo(f"   (the ETL missed store {store} in the week of {missed}; the store's own export is refused)")
        outcome = runner.bring_in()
        if outcome:
            report(outcome)
        heading(f"2. The {scored} weeks before are forecast, each with the data up to it, by one model")
        forecast_earlier(runner, calendar.between(end - scored * WEEK, before))
        heading(f"3. The next week lands: {end}")
        name, data = retailer_data.week_file(retailer, end)
        landing.put(name, data)
        click.echo(f"   landing/{name}  {len(data):,} bytes")
        runner.settle()
        report(runner.run_week(end))
        heading("4. The forecast table, and a figure that a person puts beside it")
        add_override(runner, end)
        print_forecast(runner, end)
    forecast = os.path.relpath(Path(sys.executable).with_name("forecast"))
    click.echo(f"\nLook around:\n  {forecast} dashboard  what needs a person, every series with its fan")
    click.echo(f"  {forecast} ui         lineage, runs, and the sensor that watches {landing.url}")
    for sql in (
        "SELECT * FROM latest_forecast WHERE store = '1' AND dept = '1'",
        "SELECT source_key, line, rule, value, message FROM quarantine",
    ):
        click.echo(f'  {forecast} query "{sql}"')


def forecast_earlier(runner: Runner, weeks: list[dt.date]) -> None:
    """Forecast from each week by the model of the first, which knows nothing of the later ones; then score them. It is
    of one kind: choosing among all of them takes a minute, and the newest week does that."""
    from forecast_platform.defs.partitions import PINNED

    target = runner.settings.target
    one_kind = runner.settings.model_copy(update={"target": "ratio" if target == "auto" else target})
    report(runner.forecast_only(weeks[0], settings=one_kind))
    versions = runner.platform.lake.query("SELECT version FROM models WHERE week = ?", [weeks[0]])
    for week in weeks[1:]:
        outcome = runner.forecast_only(week, {PINNED: versions["version"][0].as_py()})
        if not outcome.success:
            report(outcome)
        click.echo(f"   {week}  {sum(stage['seconds'] for stage in outcome.stages.values()):5.1f} s")
    report(runner.score(weeks[0], weeks[-1]))


def add_override(runner: Runner, week: dt.date) -> None:
    """A third more than the forecast of a series in three weeks, by a person with a reason."""
    from forecast_platform.lake.overrides import add_override as add

    lake, target = runner.platform.lake, week + 3 * WEEK
    (row,) = lake.query(
        """SELECT store, dept, p50 FROM forecasts WHERE forecast_week = ? AND target_week = ? AND level = 'series'
           ORDER BY p50 DESC, store, dept LIMIT 1""",
        [week, target],
    ).to_pylist()
    value, reason = round(row["p50"] * 4 / 3, -2), "A local festival, which no calendar knows"
    now = dt.datetime.now(dt.UTC)
    add(lake, row["store"], row["dept"], target, value, reason, "demo", target, now)
    click.echo(f"   store {row['store']}, department {row['dept']}, week of {target}: {value:,.0f}. {reason}.\n")
