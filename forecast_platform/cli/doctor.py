"""`forecast doctor`: settings, access and versions, each finding with its remedy."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from typing import Literal

import click


@click.command()
@click.option(
    "--profile", type=click.Choice(["local", "aws"]), help="check this profile, whatever FORECAST_PROFILE says"
)
def doctor(profile: Literal["local", "aws"] | None) -> None:
    """Check settings, access and versions; each finding says how to mend it."""
    from forecast_platform.clouds.base import cloud_of, open_landing
    from forecast_platform.lake.lake import Lake
    from forecast_platform.runner import prepare_home
    from forecast_platform.settings import Settings, get_settings

    settings = Settings(profile=profile) if profile else get_settings()

    def versions() -> str:
        core = importlib.metadata.version("dagster")
        wanted = f"0.{int(core.split('.')[1]) + 16}.{core.split('.')[2]}"
        for package in cloud_of(settings).beside:
            if (found := importlib.metadata.version(package)) != wanted:
                raise RuntimeError(f"dagster {core} needs {package} {wanted}, not {found}: make clean install")
        return f"Python {sys.version.split()[0]}, dagster {core} with its integrations {wanted}"

    def torch() -> str:
        import torch

        device = f"GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU"
        return f"torch {torch.__version__}, {device}"

    def home() -> str:
        prepare_home(settings)
        probe = settings.home / ".doctor"
        probe.write_text("ok")
        probe.unlink()
        free = shutil.disk_usage(settings.home).free / 1e9
        if free < 2:
            raise RuntimeError(f"{settings.home} has {free:.1f} GB free; give it 2 GB, or move it with FORECAST_HOME")
        return f"{settings.home} is writable, {free:.0f} GB free"

    def landing() -> str:
        return f"{settings.landing}: {len(open_landing(settings.landing).list())} files"

    def lake() -> str:
        rows = Lake.local(settings.warehouse, settings.quantile_columns).query(
            "SELECT (SELECT count(*) FROM raw_sales), (SELECT max(week) FROM cleaned_series), "
            "(SELECT max(forecast_week) FROM forecasts)"
        )
        count, week, forecast = (column[0].as_py() for column in rows.columns)
        return f"{settings.warehouse}: {count:,} raw rows, newest week {week}, newest forecast {forecast}"

    def contract() -> str:
        c = settings.contract
        names = dict(c.columns) or "canonical"
        return f"{c.name}: weeks end on {settings.calendar.weekday_name}, dates as {c.date_format}, columns {names}"

    checks = {"versions": versions, "torch": torch, "home": home, "contract": contract}
    if settings.profile == "aws":
        from forecast_platform.clouds.aws import doctor as aws

        checks |= aws.checks(settings)
    else:
        checks |= {"landing": landing, "lake": lake}
    failures = 0
    for name, check in checks.items():
        try:
            click.echo(f"ok    {name:9} {check()}")
        except Exception as error:
            # A doctor that stops at the first finding is no use: whatever goes wrong is a finding.
            failures += 1
            click.echo(f"FAIL  {name:9} {error}")
    if failures:
        raise click.ClickException(f"{failures} findings to mend")
