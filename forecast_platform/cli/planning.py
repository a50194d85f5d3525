"""What people add to the forecast: `forecast override`."""

from __future__ import annotations

import datetime as dt

import click

from forecast_platform.figures import figure


@click.command()
@click.argument("store")
@click.argument("dept")
@click.argument("week")
@click.argument("value", type=float)
@click.option("--reason", required=True, help="why, for whoever reads it later")
@click.option("--author", required=True)
@click.option("--expires", default="", help="last forecast week it holds for; default: until WEEK has come")
def override(store: str, dept: str, week: str, value: float, reason: str, author: str, expires: str) -> None:
    """Put a figure of your own beside the forecast of STORE and DEPT for WEEK. The forecast itself stays as it is; the
    view forecast_with_overrides and the dashboard show both."""
    from forecast_platform.lake.lake import Lake
    from forecast_platform.lake.overrides import add_override
    from forecast_platform.settings import get_settings

    settings = get_settings()
    target = settings.calendar.parse(week)
    last = settings.calendar.parse(expires) if expires else target
    lake = Lake.of(settings)
    add_override(lake, store, dept, target, value, reason, author, last, dt.datetime.now(dt.UTC))
    click.echo(f"store {store}, department {dept}, week of {target}: {figure(value)} beside the forecast, until {last}")
