"""What people land by hand: `forecast import`."""

from __future__ import annotations

from pathlib import Path

import click

from forecast_platform.cli.terminal import open_runner, report

KINDS = ("sales", "stores", "features", "calendar")


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--preset", default="", help="named mapping of columns and formats, remembered for later files")
@click.option("--kind", type=click.Choice(KINDS), help="what the files hold; by default told from their columns")
def import_files(files: tuple[Path, ...], preset: str, kind: str | None) -> None:
    """Land FILES (sales, stores, features, calendar), ingest and clean them. A file that cannot be read is named, and
    the others go through."""
    remember_preset(preset)
    from forecast_platform.landing.kinds import FileRefused
    from forecast_platform.landing.rules import kind_of

    refused = []
    with open_runner() as runner:
        settings, landing = runner.settings, runner.platform.landing
        for file in files:
            data = file.read_bytes()
            try:
                found = kind or kind_of(data, file.name, settings.contract)
            except FileRefused as refusal:
                refused.append(str(refusal))
                click.secho(f"refused {refusal}", fg="yellow", err=True)
                continue
            landing.put(f"{found}/{file.name}", data)
            click.echo(f"landed {file.name} under {found}/ ({len(data):,} bytes)")
        outcome = runner.bring_in()
        if outcome is not None:
            report(outcome)
        elif not refused:
            click.echo("These files are in the lake already; nothing to do.")
    if refused:
        raise click.ClickException(f"{len(refused)} of {len(files)} files were refused; the reasons are above")
    click.echo("Next: forecast run")


def remember_preset(preset: str) -> None:
    """Keep the preset in settings.toml, so that the sensor reads later files the same way."""
    from forecast_platform.landing.dialects import Dialect
    from forecast_platform.settings import get_settings, home

    if not preset:
        return
    try:
        Dialect.named(preset)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    path = home() / "settings.toml"
    current = get_settings().preset
    if current and current != preset:
        raise click.ClickException(f"{path} says preset {current!r}; a home reads one kind of file: use another one")
    if not current:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f'preset = "{preset}"\n')
        get_settings.cache_clear()
