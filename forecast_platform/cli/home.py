"""A home as one thing: `forecast backup`, `forecast restore` and `forecast move`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from forecast_platform.homes import Contents


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Write all of FORECAST_HOME to FILE (.tar, .tar.gz or .tar.zst), also while a pipeline writes."""
    from forecast_platform import homes
    from forecast_platform.cli.terminal import Bar
    from forecast_platform.settings import home

    with Bar() as show:
        contents = homes.backup(home(), file, show)
    click.echo(f"{file}: {_told(contents)}")
    for name, why in contents.left_out.items():
        click.secho(f"   left out  {name}: {why}", fg="yellow")
    click.echo(f"Next, where it is needed: forecast restore {file} --home NEW_HOME")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--home", "new", type=click.Path(path_type=Path), help="empty or new folder; default: FORECAST_HOME")
def restore(file: Path, new: Path | None) -> None:
    """Make a home of the backup FILE. Everything is verified before the home appears; nothing is overwritten."""
    from forecast_platform import homes
    from forecast_platform.cli.terminal import Bar
    from forecast_platform.settings import home

    folder = (new or home()).absolute()
    with Bar() as show:
        contents = homes.restore(file, folder, show)
    click.echo(f"{folder}: {_told(contents)}, all verified")
    click.echo(f"Next: export FORECAST_HOME={folder}, then: forecast doctor")


@click.command()
@click.argument("new_home", type=click.Path(path_type=Path))
def move(new_home: Path) -> None:
    """Give FORECAST_HOME another place. End `forecast ui`, the dashboard and every run over it before."""
    from forecast_platform import homes
    from forecast_platform.cli.terminal import Bar
    from forecast_platform.settings import home

    old, new = home(), new_home.absolute()
    with Bar() as show:
        contents = homes.move(old, new, show)
    click.echo(f"{old} is now {new}" + (f": {_told(contents)}, all verified" if contents else ""))
    click.echo(f"Next: export FORECAST_HOME={new}, then: forecast doctor")


def _told(contents: Contents) -> str:
    rows = sum(contents.tables.values())
    return f"{len(contents.files):,} files, {contents.bytes:,} bytes, {len(contents.tables)} tables with {rows:,} rows"
