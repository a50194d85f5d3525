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
    from forecast_platform.lake.lake import Lake
    from forecast_platform.settings import get_settings

    settings = get_settings()
    if settings.profile == "aws" and not local:
        from forecast_platform.clouds.aws.athena import Athena

        answer = Athena(settings.workgroup, settings.database).query(sql)
    else:
        answer = Lake.of(settings).query(sql)
    echo_table(answer, form, rows)


@click.command()
def views() -> None:
    """Create or renew the lake's views in Athena (profile aws; the local profile has them always)."""
    from forecast_platform.lake.lake import Lake
    from forecast_platform.settings import get_settings

    settings = get_settings()
    if settings.profile != "aws":
        raise click.ClickException("profile local has its views always; on AWS set FORECAST_PROFILE=aws")
    from forecast_platform.clouds.aws.athena import Athena, create_views

    for name in create_views(Athena(settings.workgroup, settings.database), Lake.of(settings)):
        click.echo(f"{settings.database}.{name}")
