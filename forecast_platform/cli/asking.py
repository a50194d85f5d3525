"""Questions to the lake: `forecast query`, `forecast quantiles` and `forecast views`."""

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
@click.option("--weeks", type=click.IntRange(1), required=True, help="how many weeks ahead are added up")
@click.option("--level", default="series", show_default=True, help="series, store, dept, total or one of `levels`")
@click.option("--store", default="", help="only this store")
@click.option("--dept", default="", help="only this department")
@click.option("--member", default="", help="only this group of a level by an attribute")
@click.option("--week", default=None, help="the last week known then; without it the newest")
@click.option("--above", type=float, default=None, help="also the probability that more than this is sold; beyond p10 "
              "and p90 no more is known: 0.9 is 0.9 or more, 0.1 is 0.1 or less")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--rows", default=40, show_default=True, help="rows shown of a table (csv and json give all)")
def quantiles(
    weeks: int,
    level: str,
    store: str,
    dept: str,
    member: str,
    week: str | None,
    above: float | None,
    form: str,
    rows: int,
) -> None:
    """Lead-time demand: what is forecast of the sales of the next weeks added up, such as until an order arrives."""
    import pyarrow as pa

    from forecast_platform.levels import NAMES
    from forecast_platform.surface import Home

    try:
        frame = Home().lead_time_demand(weeks, week, level, store, dept, member, above)
    except (ValueError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    if frame.empty:
        raise click.ClickException("no such forecast; make the newest with: forecast run")
    leave = ["forecast_week", "weeks", "model_version", "as_known", "run_id", "created_at"]
    leave += [name for name in NAMES if frame[name].isna().all()]
    found = pa.Table.from_pandas(frame.drop(columns=leave), preserve_index=False)
    at = found.column_names.index("target_week")
    echo_table(found.set_column(at, "target_week", found["target_week"].cast(pa.date32())), form, rows)


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
