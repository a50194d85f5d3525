"""`forecast doctor`: settings, access and versions, each finding with its remedy."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import shutil
import sys
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from forecast_platform.lake.lake import Lake
    from forecast_platform.settings import Settings


def upgrade(settings: Settings, lake: Lake) -> str:
    """What an earlier version of the platform left in this home, and what happens to it: all of it is taken over.

    Raises:
        LakeError: a newer version wrote to the lake.
    """
    from forecast_platform.models.trained import code_of, code_version

    found = []
    if lacking := lake.lacking():
        tables = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in lacking.items())
        found.append(f"its tables get their new columns when they are next used, until then those are empty ({tables})")
    newest = lake.query("SELECT version, training_digest FROM models ORDER BY week DESC LIMIT 1").to_pylist()
    for model in newest:
        code = code_of(settings.models / model["training_digest"])
        if code is not None and code != code_version():
            found.append(
                f"the code that decides a model is not that of {model['version']}, so the next run trains once anew; "
                "forecasts that are published stay"
            )
    loggers = settings.dagster_home / "dagster.yaml"
    if loggers.exists() and "forecast_platform.aws" in loggers.read_text():
        found.append(
            f"to see the logs of jobs in Dagster, set managed_python_loggers: [forecast_platform] in {loggers}; "
            "forecast_platform.aws is gone"
        )
    return f"made by an earlier version: {'. '.join(found)}" if found else "nothing here is of another version"


@click.command()
@click.option(
    "--profile", type=click.Choice(["local", "aws"]), help="check this profile, whatever FORECAST_PROFILE says"
)
def doctor(profile: Literal["local", "aws"] | None) -> None:
    """Check settings, access and versions; each finding says how to mend it."""
    from forecast_platform.clouds.base import cloud_of
    from forecast_platform.runner import prepare_home
    from forecast_platform.settings import Settings, get_settings

    settings = Settings(profile=profile) if profile else get_settings()
    cloud = cloud_of(settings)

    def versions() -> str:
        core = importlib.metadata.version("dagster")
        wanted = f"0.{int(core.split('.')[1]) + 16}.{core.split('.')[2]}"
        for package in cloud.beside:
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

    def contract() -> str:
        c = settings.contract
        names = dict(c.columns) or "canonical"
        return f"{c.name}: weeks end on {settings.calendar.weekday_name}, dates as {c.date_format}, columns {names}"

    def words() -> str:
        w = settings.words
        none = "" if w.has_texts else f" (there are no texts in the language of {settings.locale}: CONTRIBUTING.md)"
        week = settings.calendar.week_of(dt.datetime.now(dt.UTC).date())
        held = settings.country.upper()
        other = f"; but holidays are those of {held}, see the setting country" if w.country not in ("", held) else ""
        return f"texts in {w.language_name}{none}, a figure is {w.cash(12345.0)}, a week {w.week(week)}{other}"

    checks = {"versions": versions, "torch": torch, "home": home, "contract": contract, "words": words}
    checks |= cloud.checks()
    if settings.engine_name == "spark" and not settings.spark_application:
        from forecast_platform.engines.spark.cluster import Cluster

        checks["spark"] = Cluster(settings).about
    if settings.engine_name.startswith("sagemaker"):
        from forecast_platform.engines.sagemaker import doctor as sagemaker

        checks |= sagemaker.checks(settings)
    checks["upgrade"] = lambda: upgrade(settings, cloud.lake)
    failures = 0
    for name, check in checks.items():
        try:
            click.echo(f"ok    {name:9} {check()}")
        except Exception as error:
            # Whatever goes wrong is a finding, so that one does not hide the others.
            failures += 1
            click.echo(f"FAIL  {name:9} {error}")
    if failures:
        raise click.ClickException(f"{failures} findings to mend")
