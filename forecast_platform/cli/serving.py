"""What stays up: `forecast ui` and `forecast dashboard`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3000, show_default=True)
def ui(host: str, port: int) -> None:
    """Dagster's UI, sensor and runs over FORECAST_HOME: `dagster dev` with the right DAGSTER_HOME."""
    from forecast_platform.runner import prepare_home
    from forecast_platform.settings import get_settings

    prepare_home(get_settings())
    dagster = str(Path(sys.executable).with_name("dagster"))
    # Our own program beside our own interpreter, so the path is known; exec so that Ctrl-C reaches it.
    os.execv(dagster, [dagster, "dev", "-m", "forecast_platform.definitions", "-h", host, "-p", str(port)])  # noqa: S606


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=8050, show_default=True)
@click.option("--name", "names", multiple=True, help="host name it is reached by, behind a proxy; may be repeated")
@click.option("--root-path", default="", help="prefix that a proxy puts before the dashboard's addresses")
def dashboard(host: str, port: int, names: tuple[str, ...], root_path: str) -> None:
    """The web dashboard over the lake: what needs a person, every series with its fan, errors, revisions, data."""
    import uvicorn

    from forecast_platform.dashboard.app import build_app
    from forecast_platform.dashboard.source import Source
    from forecast_platform.lake.lake import Lake
    from forecast_platform.settings import get_settings

    settings = get_settings()
    app = build_app(settings, Source(Lake.of(settings)), hosts=("localhost", "127.0.0.1", host, *names))
    click.echo(f"The dashboard is at http://{host}:{port}{root_path}  (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, root_path=root_path, log_level="warning", server_header=False)
