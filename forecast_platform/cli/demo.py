"""`forecast demo`: a made-up retailer through the whole graph."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path

import click

from forecast_platform.cli.terminal import heading, open_runner, print_forecast, report


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--stores", default=12, show_default=True)
@click.option("--depts", default=14, show_default=True)
def demo(seed: int, stores: int, depts: int) -> None:
    """A made-up retailer from landed files to published forecasts, and then the week after that."""
    from forecast_platform import demo as retailer_data

    with open_runner() as runner:
        if runner.settings.contract.name != "canonical" or runner.settings.contract.week_ends != "FRI":
            raise click.ClickException("the demo lands canonical files, weeks end on Friday; use another FORECAST_HOME")
        landing = runner.platform.landing
        retailer = retailer_data.make_retailer(seed=seed, stores=stores, depts=depts)
        before, last = (w.astype(dt.date) for w in retailer.weeks[-2:])
        heading(f"1. A retailer's ETL lands its history: {stores} stores x {depts} departments, weeks up to {before}")
        for name, data in retailer_data.history_files(retailer, until=before).items():
            landing.put(name, data)
            click.echo(f"   landing/{name}  {len(data):,} bytes")
        outcome = runner.bring_in()
        if outcome:
            report(outcome)
        heading(f"2. The graph runs for the newest week, {before}")
        report(runner.run_week(before))
        heading(f"3. The next week lands: {last}")
        name, data = retailer_data.week_file(retailer, last)
        landing.put(name, data)
        click.echo(f"   landing/{name}  {len(data):,} bytes")
        runner.settle()
        report(runner.run_week(last))
        heading("4. The forecast table")
        print_forecast(runner, last)
    forecast = os.path.relpath(Path(sys.executable).with_name("forecast"))
    click.echo(f"\nLook around:\n  {forecast} dashboard  what needs a person, every series with its fan")
    click.echo(f"  {forecast} ui         lineage, runs, and the sensor that watches {landing.url}")
    for sql in (
        "SELECT * FROM latest_forecast WHERE store = '1' AND dept = '1'",
        "SELECT source_key, line, rule, value, message FROM quarantine",
    ):
        click.echo(f'  {forecast} query "{sql}"')
