"""What people land by hand: `forecast import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecast_platform.cli.terminal import SEE_REFUSED, open_runner, report

if TYPE_CHECKING:
    from forecast_platform.runner import Runner

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

    refused, keys = [], []
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
            keys.append(f"{found}/{file.name}")
            landing.put(keys[-1], data)
            click.echo(f"landed {file.name} under {found}/ ({len(data):,} bytes)")
        outcome = runner.bring_in()
        if outcome is not None:
            report(outcome)
        elif not refused:
            click.echo("These files are in the lake already; nothing to do.")
        conclude(became_of(runner, keys) if outcome is not None else [], len(refused), len(files))


def became_of(runner: Runner, keys: list[str]) -> list[dict[str, Any]]:
    """The newest landing of each key: source_key, status, rows, accepted, quarantined, message."""
    rows = runner.platform.lake.read("landings").sort_by("landed_at").to_pylist()
    return list({row["source_key"]: row for row in rows if row["source_key"] in keys}.values())


def conclude(landed: list[dict[str, Any]], refused: int, files: int) -> None:
    """The last line, true to what happened: what to do next, about what was not taken in too.

    Raises:
        click.ClickException: nothing was taken in, or a whole file was refused.
    """
    for row in landed:
        if row["status"] == "refused":
            refused += 1
            click.secho(f"refused {row['source_key']}: {row['message']}", fg="yellow", err=True)
    if refused:
        others = "" if refused == files else "; the others went through"
        raise click.ClickException(f"{refused} of {files} files were refused; the reasons are above{others}")
    accepted, lost = (sum(row[name] or 0 for row in landed) for name in ("accepted", "quarantined"))
    if lost and not accepted:
        raise click.ClickException(
            f"none of the {lost:,} rows could be taken in, so there is nothing new to forecast from. {SEE_REFUSED}"
        )
    if lost:
        click.secho(f"{lost:,} of {accepted + lost:,} rows were refused. {SEE_REFUSED}", fg="yellow")
        click.echo("Next: forecast run; or mend those lines first, and import the file again")
    elif landed:
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
