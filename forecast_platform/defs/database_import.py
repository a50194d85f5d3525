"""Asks a database for sales and lands what is new, by the schedule of the setting import_schedule; the landing sensor
takes it from there. See landing/database.py."""

import datetime as dt

import dagster as dg

from forecast_platform.defs.jobs import MAX_RUNTIME
from forecast_platform.defs.resources import Platform
from forecast_platform.landing.database import asked, take
from forecast_platform.settings import get_settings


@dg.op(description=__doc__)
def ask_database(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    settings = platform.settings
    url, query = settings.import_from.get_secret_value(), settings.import_query
    if not (url and query):
        raise dg.Failure("there is no database to ask: set import_from and import_query", allow_retries=False)
    ask = asked(
        url, query, settings.import_name, "sales", settings.import_weeks, settings.import_timeout, False, settings.home
    )
    now = dt.datetime.now(dt.UTC)
    taken = take(ask, settings.contract, settings.calendar, platform.lake, platform.landing, now)
    context.log.info(f"{ask.name}: {taken}")
    context.add_output_metadata(
        {
            "rows": taken.rows,
            "landed": taken.landed.key if taken.landed else "nothing",
            "weeks": ", ".join(map(str, taken.weeks)),
        }
    )


@dg.job(description=__doc__, tags=MAX_RUNTIME)
def database_import() -> None:
    ask_database()


if get_settings().import_schedule:  # off where nothing is configured
    database_schedule = dg.ScheduleDefinition(
        job=database_import,
        cron_schedule=get_settings().import_schedule,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
