"""What stays up: `forecast ui` and `forecast dashboard`."""

from __future__ import annotations

import errno
import functools
import socket
import sys
from pathlib import Path

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3000, show_default=True)
def ui(host: str, port: int) -> None:
    """Dagster's UI, sensors and runs over FORECAST_HOME: `dagster dev` with the right DAGSTER_HOME."""
    import forecast_platform
    from forecast_platform.cli.supervision import supervise
    from forecast_platform.runner import prepare_home
    from forecast_platform.settings import get_settings

    prepare_home(get_settings())
    listen(host, port).close()
    # Dagster imports from its working directory first, so that is ours and not the folder the command was given in.
    ours = str(Path(forecast_platform.__file__).parents[1])
    dagster = [sys.executable, "-m", "dagster", "dev", "-m", "forecast_platform.definitions", "-d", ours]
    raise SystemExit(supervise([*dagster, "-h", host, "-p", str(port)]))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=8050, show_default=True)
@click.option("--name", "names", multiple=True, help="host name it is reached by, behind a proxy; may be repeated")
@click.option("--root-path", default="", help="prefix that a proxy puts before the dashboard's addresses")
def dashboard(host: str, port: int, names: tuple[str, ...], root_path: str) -> None:
    """The web dashboard over the lake: what needs a person, every series with its fan, errors, revisions, data."""
    import uvicorn

    from forecast_platform.clouds.base import open_lake
    from forecast_platform.dashboard.app import ask_ahead, build_app
    from forecast_platform.dashboard.source import Source
    from forecast_platform.settings import get_settings

    settings = get_settings()
    source = Source(open_lake(settings), prepare=functools.partial(ask_ahead, settings))
    app = build_app(settings, source, hosts=("localhost", "127.0.0.1", host, *names))
    sock = listen(host, port)  # before it says where it is
    click.echo(f"The dashboard is at http://{host}:{sock.getsockname()[1]}{root_path}  (Ctrl-C ends it)")
    config = uvicorn.Config(app, root_path=root_path, log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[sock])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that the port is reserved before anything is printed or started.

    Raises:
        click.ClickException: the port is in use, or the address is none of this machine.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        why = {
            errno.EADDRINUSE: f"port {port} is in use on {host}; end what listens there, or give another with --port",
            errno.EACCES: f"port {port} is not ours to listen on; give one above 1023 with --port",
        }.get(error.errno or 0, f"cannot listen on {host}:{port}: {error.strerror}; see --host and --port")
        raise click.ClickException(why) from error
    return sock
