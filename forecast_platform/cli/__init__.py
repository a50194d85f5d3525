"""`forecast`: everything a person starts by hand, a file a family of commands. Errors say what to do next."""

from __future__ import annotations

import warnings
from typing import Any

import click

from forecast_platform.cli.asking import quantiles, query, views
from forecast_platform.cli.backtest import backtest
from forecast_platform.cli.capacity import plan_capacity
from forecast_platform.cli.deepar import deepar_group
from forecast_platform.cli.demo import demo
from forecast_platform.cli.doctor import doctor
from forecast_platform.cli.export import export
from forecast_platform.cli.home import backup, move, restore
from forecast_platform.cli.landing import import_files, landing_group
from forecast_platform.cli.notifying import notify
from forecast_platform.cli.planning import close, override, reopen
from forecast_platform.cli.running import backfill, run
from forecast_platform.cli.serving import dashboard, ui
from forecast_platform.cli.streaming import stream


class _Friendly(click.Group):
    """Errors a person can mend are one line; anything else keeps its traceback, because it is a bug of ours."""

    def invoke(self, ctx: click.Context) -> Any:
        from pydantic import ValidationError
        from pydantic_settings import SettingsError

        try:
            return super().invoke(ctx)
        except ValidationError as error:
            lines = [f"  {e['msg']}" for e in error.errors()]
            raise click.ClickException("the settings are not right\n" + "\n".join(lines)) from error
        except SettingsError as error:
            raise click.ClickException(f"the settings are not right\n  {error}") from error
        except click.ClickException:
            raise
        except Exception as error:
            from forecast_platform.cli.troubles import in_words
            from forecast_platform.settings import home

            if (text := in_words(error, str(home()))) is not None:
                raise click.ClickException(text) from error
            raise


@click.group(cls=_Friendly, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="forecast-platform")
def main() -> None:
    """Weekly department sales forecasts with DeepAR. All state lives under FORECAST_HOME (default ./.forecast)."""
    warnings.filterwarnings("ignore", category=UserWarning, module="pyiceberg")


for _command in (
    import_files,
    stream,
    landing_group,
    run,
    backfill,
    ui,
    dashboard,
    override,
    notify,
    close,
    reopen,
    demo,
    query,
    quantiles,
    export,
    views,
    backtest,
    plan_capacity,
    doctor,
    backup,
    restore,
    move,
    deepar_group,
):
    main.add_command(_command)
