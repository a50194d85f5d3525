"""`forecast stream`: transactions from Kafka become weekly files in the landing place."""

from __future__ import annotations

import datetime as dt
import gc
import signal
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from forecast_platform.settings import Settings
    from forecast_platform.streaming.state import StreamState
    from forecast_platform.streaming.stream import Counts


@click.command()
@click.option("--once", is_flag=True, help="take what is there now, land the weeks that are closed, and end")
@click.option("--first-week", default="", metavar="WEEK", help="the first week of which all sales come by the topic")
@click.option("--restart", is_flag=True, help="forget sums and offsets; weeks from --first-week on are counted anew")
def stream(once: bool, first_week: str, restart: bool) -> None:
    """Take transactions from the topic FORECAST_KAFKA_TOPIC into weekly files in the landing place: each week when it
    has been over for FORECAST_STREAM_LATENESS_HOURS, and again when late ones come. Ends by itself with --once, else on
    SIGTERM or Ctrl-C; when killed it loses nothing and counts nothing twice."""
    from forecast_platform.clouds.base import cloud_of
    from forecast_platform.settings import get_settings

    settings = get_settings()
    if missing := [name for name in ("kafka_servers", "kafka_topic") if not getattr(settings, name)]:
        raise click.ClickException(f"set FORECAST_{missing[0].upper()}; see docs/streams.md")
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        raise click.ClickException(
            "the extra `stream` is not installed: pip install forecast-platform[stream]"
        ) from None
    from forecast_platform.streaming.state import StreamState

    used = cloud_of(settings).hold()
    state = StreamState(settings.home / "streams" / f"{settings.kafka_topic}.duckdb", settings.memory_gb / 2)
    try:
        _begin(state, settings, first_week, restart)
        counts = _run(state, settings, once)
    finally:
        state.close()
        if used is not None:
            used.close()
    _conclude(counts)


def _begin(state: StreamState, settings: Settings, first_week: str, restart: bool) -> None:
    contract = settings.contract
    reading = f"week_ends {contract.week_ends}, time_zone {contract.time_zone or 'none'}"
    reading += f", normalise_keys {' '.join(contract.normalise_keys) or 'none'}"
    week = settings.calendar.parse(first_week) if first_week else None
    if week and (restart or not state.positions):
        state.begin(week, reading)
    elif restart or state.first_week is None:
        now = dt.datetime.now(dt.UTC)
        raise click.ClickException(
            "say with --first-week from which week on all sales come by the topic: earlier weeks are left to files, "
            "and a week that the topic began in the middle of would be too small. The first whole week from now on is "
            f"{settings.calendar.week_of(now.date() + dt.timedelta(days=7))}"
        )
    elif week and week != state.first_week:
        raise click.ClickException(
            f"the stream answers for the weeks from {state.first_week} on; to count anew: --restart --first-week {week}"
        )
    state.check(reading)


def _run(state: StreamState, settings: Settings, once: bool) -> Counts:
    from forecast_platform.clouds.base import open_lake, open_landing
    from forecast_platform.streaming.kafka import Topic
    from forecast_platform.streaming.messages import Reader
    from forecast_platform.streaming.stream import Stream, Windows

    assert state.first_week is not None
    conf = {"bootstrap.servers": settings.kafka_servers}
    conf |= {name: value.get_secret_value() for name, value in settings.kafka_conf.items()}
    if password := settings.kafka_password.get_secret_value():
        conf["sasl.password"] = password
    stopping: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopping.append(number)

    windows = Windows(
        dt.timedelta(hours=settings.stream_lateness_hours),
        dt.timedelta(weeks=settings.stream_keep_weeks),
        settings.most_refused,
    )
    topic = Topic(settings.kafka_topic, conf)
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    # Messages live as long as their batch and refer to nothing: to look through them for circles costs a third.
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        return Stream(
            topic,
            state,
            Reader(settings.contract, settings.calendar, state.first_week),
            windows,
            open_landing(settings.landing),
            open_lake(settings),
            f"stream_{settings.kafka_topic}",
            lambda: dt.datetime.now(dt.UTC),
            lambda line: click.echo(f"   {line}", err=True),
        ).run(once, lambda: bool(stopping))
    finally:
        gc.set_threshold(*thresholds)
        for number, handler in before.items():
            signal.signal(number, handler)
        topic.close()


def _conclude(counts: Counts) -> None:
    click.echo(f"{counts.messages:,} messages, {len(counts.files)} weeks landed")
    if counts.earlier:
        click.echo(f"{counts.earlier:,} were of weeks before the first one, and left out")
    if counts.poison:
        from forecast_platform.cli.terminal import SEE_REFUSED

        click.secho(f"{counts.poison:,} were refused. {SEE_REFUSED}", fg="yellow")
    if counts.files:
        click.echo("Next: forecast run")
