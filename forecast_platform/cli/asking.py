"""SQL over the lake: `forecast query` and `forecast views`."""

from __future__ import annotations

import click

from forecast_platform.cli.terminal import echo_table


@click.command()
@click.argument("sql")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--rows", default=40, show_default=True, help="rows shown of a table (csv and json give all)")
@click.option("--local", is_flag=True, help="DuckDB here, also where the profile (aws) would ask Athena")
def query(sql: str, form: str, rows: int, local: bool) -> None:
    """Run SQL over the lake's tables and views, also while a pipeline writes: in Athena on profile aws, else here."""
    from forecast_platform.clouds.base import cloud_of
    from forecast_platform.settings import get_settings

    cloud = cloud_of(get_settings())
    echo_table(cloud.lake.query(sql) if local else cloud.query(sql), form, rows)


@click.command()
def views() -> None:
    """Create or renew the lake's views in Athena (profile aws; the local profile has them always)."""
    from forecast_platform.clouds.base import cloud_of
    from forecast_platform.settings import get_settings

    settings = get_settings()
    names = cloud_of(settings).renew_views()
    if not names:
        raise click.ClickException("profile local has its views always; on AWS set FORECAST_PROFILE=aws")
    for name in names:
        click.echo(f"{settings.database}.{name}")
