"""`forecast notify`: tell people now, or try whether they can be told."""

from __future__ import annotations

import datetime as dt

import click


@click.command()
@click.option("--test", is_flag=True, help="send a test message to every target, whatever was told before")
def notify(test: bool) -> None:
    """Tell the targets of the setting notify what they were not told yet: failures, late weeks, refusals, reports."""
    from forecast_platform import notify as telling
    from forecast_platform.clouds.base import open_lake
    from forecast_platform.failures import without_secrets
    from forecast_platform.settings import get_settings

    settings = get_settings()
    targets = telling.targets(settings)
    if not targets:
        raise click.ClickException(
            "nobody is to be told: set FORECAST_NOTIFY, e.g. to https://hooks.slack.com/services/... or mailto:me@here"
        )
    if not test:
        lines = telling.tell_news(open_lake(settings), settings, dt.datetime.now(dt.UTC))
        click.echo("\n".join(lines) or "nothing new to tell")
        if any(line.startswith("could not tell") for line in lines):
            raise click.ClickException("not everyone could be told; it is tried again the next time")
        return
    message = telling.Notice(
        "test",
        "test",
        "Test: forecast_platform can reach you",
        "This is how you will be told of failures, late weeks, refused files and of each week's report.",
        "nothing to do",
        settings.dashboard_url,
    )
    failed = 0
    for target in targets:
        try:
            target.send(message)
            click.echo(f"told {target.name}")
        except telling.NotSent as error:
            failed += 1
            click.secho(f"could not tell {target.name}: {without_secrets(str(error), settings.secrets)}", fg="yellow")
    if failed:
        raise click.ClickException(f"{failed} of {len(targets)} targets could not be told")
