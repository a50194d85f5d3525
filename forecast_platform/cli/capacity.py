"""How large a machine, or how many: `forecast plan`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import click

_ENGINES = ("local", "spark", "sagemaker-container")


@click.command("plan")
@click.option("--series", required=True, type=int, help="stores x departments")
@click.option("--weeks", default=143, show_default=True, help="weeks of history")
@click.option("--deadline", default="30m", show_default=True, help="from landing to published: 30m, 2h, 1h30m")
@click.option("--engine", type=click.Choice(_ENGINES), default="local", show_default=True, help="where it would run")
@click.option("--workers", type=click.IntRange(min=1), help="of one machine; default: a core each, of this machine")
@click.option("--json", "as_json", is_flag=True, help="everything, for programs")
def plan_capacity(series: int, weeks: int, deadline: str, engine: Any, workers: int | None, as_json: bool) -> None:
    """What a weekly run of so many series needs to be published in time: workers, minutes, memory, disk and money.
    Reckoned from measured rates; python -m benchmarks.scale --rates measures those of your machine."""
    from forecast_platform.engines.capacity import RATES, SHIPPED, PlanRefused, Rates, Wanted, deadline_seconds, plan
    from forecast_platform.engines.sagemaker.cost import PRICES
    from forecast_platform.settings import get_settings

    settings = get_settings()
    own = settings.home / RATES
    try:
        found = plan(
            Rates.read(own if own.exists() else SHIPPED),
            Wanted(series, weeks, deadline_seconds(deadline)),
            engine,
            workers or settings.workers or os.cpu_count() or 1,
            settings.transform_instance,
            {**PRICES, **settings.prices},
            settings.retrain_every_weeks,
            _memory_gb(),
        )
    except PlanRefused as refused:
        raise click.ClickException(str(refused)) from None
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
        return
    many = f"{found.number} {found.unit}{'s' if found.number > 1 else ''}"
    click.secho(f"{series:,} series x {weeks} weeks, {engine}: {many}", bold=True)
    kept, kept_training = ("yes" if kept else "NO" for kept in (found.keeps, found.keeps_training))
    rows = [
        ("a week, from landing to published", f"{found.minutes:,.1f} minutes", f"within {deadline}: {kept}"),
        (
            "more in a week with training",
            f"{found.training_minutes:,.1f} minutes",
            f"within {deadline}: {kept_training}",
        ),
        ("the history, once", f"{found.history_minutes:,.1f} minutes", ""),
        ("memory", f"{found.memory_gb:,.1f} GB", "of the machine that runs the graph"),
        ("disk", f"{found.disk_gb:,.1f} GB", f"and {found.disk_gb_a_week:,.2f} more a week"),
        ("hired for it, a week", f"{found.usd_a_week:,.2f} USD", "" if engine != "local" else "this machine alone"),
    ]
    for name, figure, note in rows:
        click.echo(f"  {name:36}{figure:>16}  {note}".rstrip())
    click.echo("  of a week: " + ", ".join(f"{name} {m:.1f}" for name, m in found.stages.items()))
    for line in found.told:
        click.secho(line, fg="yellow")
    click.echo("Assumed:")
    for line in found.assumptions:
        click.echo(f"- {line}")


def _memory_gb() -> float | None:
    """Of this machine, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    except (AttributeError, OSError, ValueError):
        return None
