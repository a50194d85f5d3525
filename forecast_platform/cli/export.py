"""`forecast export`: a week's forecast for people and other systems, as a file or in a database's table."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("output", required=False, type=click.Path(path_type=Path))
@click.option("--week", default="", help="the last week known then; without it the newest")
@click.option(
    "--format", "form", type=click.Choice(["xlsx", "csv", "parquet", "duckdb"]), help="default: by OUTPUT, else xlsx"
)
@click.option(
    "--level", "levels", multiple=True, help="only this level: series, store, dept, total ...; may be repeated"
)
@click.option("--store", "stores", multiple=True, help="only this store; may be repeated")
@click.option("--dept", "depts", multiple=True, help="only this department; may be repeated")
@click.option(
    "--group", "groups", multiple=True, metavar="LEVEL=NAME", help="only this group and what is in it: region=North"
)
@click.option("--quantiles", default="", metavar="p10,p50,p90", help="columns of quantiles; default: all published")
@click.option(
    "--to",
    "url",
    default="",
    metavar="URL",
    help="a database: postgresql://user@host/name, or the word export_to: that setting",
)
@click.option("--table", default="", help="its table, or SCHEMA.TABLE; default: setting export_table")
def export(
    output: Path | None,
    week: str,
    form: str | None,
    levels: tuple[str, ...],
    stores: tuple[str, ...],
    depts: tuple[str, ...],
    groups: tuple[str, ...],
    quantiles: str,
    url: str,
    table: str,
) -> None:
    """Hand a week's forecast over: keys, names, plan and quantiles, rounded by the data's digits, as an Excel workbook,
    CSV, Parquet or DuckDB file OUTPUT (a file or a folder; here, if not given), or in a table of a database."""
    from forecast_platform.clouds.base import cloud_of
    from forecast_platform.databases import has_password, without_password
    from forecast_platform.publishing import exports
    from forecast_platform.settings import get_settings

    settings = get_settings()
    if has_password(url):
        raise click.UsageError(
            "--to holds a password, which everyone on this machine can see: leave it out and set PGPASSWORD, or give "
            "the address as FORECAST_EXPORT_TO and write --to export_to"
        )
    if url == "export_to":
        url = settings.export_to.get_secret_value()
        if not url:
            raise click.UsageError("--to export_to: the setting export_to is empty")
    if url and (output or form):
        raise click.UsageError("give OUTPUT or --to, not both")
    suffix = output.suffix[1:].lower() if output and not output.is_dir() else ""
    if form and suffix in exports.FORMS and suffix != form:
        raise click.UsageError(f"OUTPUT ends in .{suffix}, and --format is {form}")
    if suffix and not form and suffix not in exports.FORMS:
        raise click.UsageError(f"{output} ends in none of {', '.join(exports.FORMS)}; say which with --format")
    form = form or suffix or "xlsx"
    chosen = exports.Selection(
        levels,
        stores,
        depts,
        tuple(map(_group, groups)),
        tuple(name.strip() for name in quantiles.split(",") if name.strip()),
    )
    cloud = cloud_of(settings)
    if not cloud.begun():
        raise click.ClickException(f"{settings.home} has no forecast yet; start with: forecast import FILE")
    with cloud.lake.connection(*exports.READ_SELECTED) as con:
        of = settings.calendar.parse(week) if week else exports.newest_week(con)
        if url:
            from forecast_platform.publishing.warehouse import write_week

            table = table or settings.export_table
            written = write_week(url, table, con, of, chosen, settings.home)
            click.echo(f"{without_password(url)}, table {table}, forecast of {of}: {written}")
            return
        path = output if output and suffix else (output or Path()) / exports.file_name(of, chosen, form)
        counts = exports.export(con, of, chosen, path, form, settings.words.unit)
    click.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")
    for name, rows in counts.items():
        if name != "columns":
            click.echo(f"   {name:32} {rows:>10,} rows")


def _group(text: str) -> tuple[str, str]:
    level, separator, name = text.partition("=")
    if not separator:
        raise click.UsageError(f"--group is LEVEL=NAME, such as region=North; got {text!r}")
    return level.strip(), name.strip()
