"""What people add to the forecast: `forecast override`, `forecast close` and `forecast reopen`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from forecast_platform.figures import figure

if TYPE_CHECKING:
    from forecast_platform.lake.lake import Lake


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
    from forecast_platform.clouds.base import open_lake
    from forecast_platform.lake.overrides import add_override
    from forecast_platform.settings import get_settings

    settings = get_settings()
    target = settings.calendar.parse(week)
    last = settings.calendar.parse(expires) if expires else target
    lake = open_lake(settings)
    add_override(lake, store, dept, target, value, reason, author, last, dt.datetime.now(dt.UTC))
    click.echo(f"store {store}, department {dept}, week of {target}: {figure(value)} beside the forecast, until {last}")


@click.command()
@click.argument("store")
@click.argument("dept", required=False)
@click.option("--from", "since", default="", metavar="WEEK", help="first week it is closed; default: the next one")
@click.option("--to", "until", default="", metavar="WEEK", help="last week it is closed; default: for good")
@click.option("--reason", required=True, help="why, for whoever reads it later")
@click.option("--author", required=True)
def close(store: str, dept: str | None, since: str, until: str, reason: str, author: str) -> None:
    """Close DEPT of STORE, or without DEPT the whole store: from the next run on it has no forecast but this reason,
    and is in no total. Forecasts made before stay as they are."""
    from forecast_platform.clouds.base import open_lake
    from forecast_platform.lake.closures import Closing, add_closing
    from forecast_platform.settings import get_settings

    settings = get_settings()
    lake = open_lake(settings)
    first = settings.calendar.parse(since) if since else _next_week(lake)
    last = settings.calendar.parse(until) if until else None
    if last and last < first:
        raise click.ClickException(f"closed from {first} to {last} is an empty time; give --to a week from {first} on")
    closing = Closing(store, dept, first, last, reason, author)
    series = add_closing(lake, closing, dt.datetime.now(dt.UTC))
    what = f"store {store}" + (f", department {dept}" if dept else "")
    time = f"from the week of {first}" + (f" to {last}" if last else "")
    click.echo(f"{what} is closed {time}: {series:,} series. Next: forecast run")


@click.command()
@click.argument("store")
@click.argument("dept", required=False)
@click.option("--from", "since", default="", metavar="WEEK", help="first week it is open; default: the next one")
@click.option("--reason", required=True, help="why, for whoever reads it later")
@click.option("--author", required=True)
def reopen(store: str, dept: str | None, since: str, reason: str, author: str) -> None:
    """Take back what `forecast close` said of STORE and DEPT, from a week on."""
    from forecast_platform.clouds.base import open_lake
    from forecast_platform.lake import closures
    from forecast_platform.settings import get_settings

    settings = get_settings()
    lake = open_lake(settings)
    first = settings.calendar.parse(since) if since else _next_week(lake)
    closures.reopen(lake, store, dept, first, reason, author, dt.datetime.now(dt.UTC))
    what = f"store {store}" + (f", department {dept}" if dept else "")
    click.echo(f"{what} is open from the week of {first} on. Next: forecast run")


def _next_week(lake: Lake) -> dt.date:
    """The week after the newest one known."""
    newest = lake.query("SELECT max(week) AS week FROM cleaned_series")["week"][0].as_py()
    if newest is None:
        raise click.ClickException("no sales are known yet, so there is nothing to close; start with: forecast import")
    week: dt.date = newest + dt.timedelta(days=7)
    return week
