"""`forecast`: everything a person starts by hand, a file a family of commands. Errors say what to do next."""

from __future__ import annotations

import warnings
from typing import Any

import click

from forecast_platform.cli.asking import query, views
from forecast_platform.cli.backtest import backtest
from forecast_platform.cli.deepar import deepar_group
from forecast_platform.cli.demo import demo
from forecast_platform.cli.doctor import doctor
from forecast_platform.cli.home import backup, move, restore
from forecast_platform.cli.landing import import_files, landing_group
from forecast_platform.cli.planning import override
from forecast_platform.cli.running import backfill, run
from forecast_platform.cli.serving import dashboard, ui


class _Friendly(click.Group):
    """Errors a person can mend are one line; anything else keeps its traceback, because it is our fault."""

    def invoke(self, ctx: click.Context) -> Any:
        from pydantic import ValidationError

        try:
            return super().invoke(ctx)
        except ValidationError as error:
            names = [f"FORECAST_{str(e['loc'][0]).upper()}: " if e["loc"] else "" for e in error.errors()]
            lines = [f"  {name}{e['msg']}" for name, e in zip(names, error.errors(), strict=True)]
            raise click.ClickException("the settings are not right\n" + "\n".join(lines)) from error
        except click.ClickException:
            raise
        except Exception as error:
            # Our own errors say in their text how to mend them, and AWS's what was denied or missing.
            if type(error).__module__.startswith(("forecast_platform", "botocore")) or isinstance(error, OSError):
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=_Friendly, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="forecast-platform")
def main() -> None:
    """Weekly department sales forecasts with DeepAR. All state lives under FORECAST_HOME (default ./.forecast)."""
    warnings.filterwarnings("ignore", category=UserWarning, module="pyiceberg")


for _command in (
    import_files,
    landing_group,
    run,
    backfill,
    ui,
    dashboard,
    override,
    demo,
    query,
    views,
    backtest,
    doctor,
    backup,
    restore,
    move,
    deepar_group,
):
    main.add_command(_command)
