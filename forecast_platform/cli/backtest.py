"""`forecast backtest`: the shipped model scored on a folder of files."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecast_platform.cli.terminal import Bar, pair

if TYPE_CHECKING:
    from forecast_platform.history.panel import Panel
    from forecast_platform.settings import Settings


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cutoff", "cutoffs", required=True, multiple=True, help="last week known to the models; repeatable")
@click.option("--horizon", default=12, type=click.IntRange(min=1), show_default=True, help="weeks forecast and scored")
@click.option("--preset", default="", help="named mapping of columns and formats")
@click.option("--week-ends", default="", help="weekday a week ends on, MON .. SUN")
@click.option("--column", "columns", multiple=True, metavar="NAME=IN_FILE", help="column mapping; repeatable")
@click.option("--date-format", default="", help="strptime format of the dates")
@click.option("--delimiter", default="", help="CSV delimiter")
@click.option("--known", multiple=True, metavar="NAME[=FILL]", help="feature column known ahead; repeatable")
@click.option("--past", multiple=True, metavar="NAME[=FILL]", help="feature column known in the past only; repeatable")
@click.option("--exposure", default="", metavar="NAME", help="column of the days open, which sales are divided by")
@click.option("--country", default="", help="whose holidays count where there is no calendar file, e.g. US")
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="any setting, e.g. decimal=,; repeatable")
@click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="write the scores here")
@click.option("--forecasts", "forecasts_path", type=click.Path(dir_okay=False, path_type=Path), help="write rows here")
def backtest(
    data: Path,
    cutoffs: tuple[str, ...],
    horizon: int,
    preset: str,
    week_ends: str,
    columns: tuple[str, ...],
    date_format: str,
    delimiter: str,
    known: tuple[str, ...],
    past: tuple[str, ...],
    exposure: str,
    country: str,
    others: tuple[str, ...],
    seed: int,
    json_path: Path | None,
    forecasts_path: Path | None,
) -> None:
    """Score the shipped model and the 52-week seasonal naive on a folder of files, as of past weeks.

    The folder holds sales and, where there are any, features and a calendar of holidays. FILL stands in for missing
    values: a number, or last, the value before. Without --known and --past the columns are those of the settings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from forecast_platform.models.backtest import summary_table, to_json
    from forecast_platform.models.registry import plans
    from forecast_platform.settings import Settings
    from forecast_platform.surface import run_backtest

    changes: dict[str, Any] = {
        **{name: _value(value) for name, value in map(pair, others)},
        **{
            name: value
            for name, value in (
                ("preset", preset),
                ("week_ends", week_ends),
                ("date_format", date_format),
                ("delimiter", delimiter),
                ("columns", dict(pair(c) for c in columns)),
                ("covariates", declared("known", known) | declared("past", past)),
                ("exposure", exposure),
                ("country", country),
            )
            if value
        },
    }
    settings = Settings(**changes)
    panel = read_panel(data, settings)
    with Bar() as show:

        def tell(message: str) -> None:
            click.echo(message, err=True)

        weeks = [settings.calendar.parse(c) for c in cutoffs]
        results = run_backtest(panel, settings, weeks, horizon, seed, show, tell)
    click.echo(summary_table(results))
    if json_path:
        report = {
            "data": str(data),
            "seed": seed,
            "hyperparameters": plans(settings, horizon, seed),
            **to_json(results),
        }
        json_path.write_text(json.dumps(report, indent=1))
    if forecasts_path:
        pq.write_table(pa.concat_tables([r.forecasts for r in results]), forecasts_path)


def _value(text: str) -> Any:
    """A setting as the environment would hold it: JSON where it is a list or a table."""
    return json.loads(text) if text.startswith(("[", "{")) else text


def declared(known: str, options: Sequence[str]) -> dict[str, str]:
    """NAME[=FILL] options in the words of the setting `covariates`."""
    parts = (option.partition("=") for option in options)
    return {name.strip(): f"{known}:{fill.strip()}" if separator else known for name, separator, fill in parts}


def read_panel(folder: Path, settings: Settings) -> Panel:
    """The panel of all sales, features and calendar files in a folder, by the settings' contract. What a file holds is
    told by its columns, or by the folder it lies in where that is named sales, features or calendar."""
    import pyarrow as pa

    from forecast_platform.history.absence import told
    from forecast_platform.history.cleaning import build_panel
    from forecast_platform.history.covariates import describe
    from forecast_platform.landing import kinds, rules
    from forecast_platform.landing.judgement import Known, judge

    tables: dict[str, list[pa.Table]] = {
        "sales": [kinds.SALES_SCHEMA.empty_table()],
        "features": [kinds.FEATURES_SCHEMA.empty_table()],
        "calendar": [kinds.CALENDAR_SCHEMA.empty_table()],
    }
    dialect, calendar = settings.contract, settings.calendar
    newest = calendar.last_started(dt.datetime.now(dt.UTC))
    not_read = []
    for path in sorted(folder.iterdir()) + [path for kind in tables for path in sorted(folder.glob(f"{kind}/*"))]:
        if not path.name.lower().endswith(kinds.FORMATS):
            continue
        data = path.read_bytes()
        try:
            kind = path.parent.name if path.parent != folder else rules.kind_of(data, path.name, dialect)
        except kinds.FileRefused as refusal:
            if refusal.rule == "unknown_kind":
                not_read.append(refusal.message)
                click.echo(f"not read: {refusal.message}", err=True)
                continue
            raise
        if kind not in tables:
            continue
        parsed = rules.parse(kind, data, path.name, dialect, calendar, newest)
        click.echo(f"{path.name}: {kind}, {parsed.accepted_rows:,} rows, {len(parsed.rejected):,} rejected", err=True)
        if kind == "sales":
            verdict = judge(parsed, Known(kinds.SALES_SCHEMA.empty_table()), path.name, dialect, settings.limits)
            if verdict.refusal:
                raise verdict.refusal
            for warning in verdict.warnings:
                click.secho(f"  {warning}", fg="yellow", err=True)
        for bad in parsed.rejected.slice(0, 3).to_pylist():
            click.echo(f"  line {bad['line']}: {bad['rule']}: {bad['message']}", err=True)
        tables[kind].append(parsed.accepted)
    sales, features, days = (pa.concat_tables(found) for found in tables.values())
    if not len(sales):
        found = f": {not_read[0]}" if not_read else ""
        raise click.ClickException(
            f"no sales file in {folder}{found or ', which holds none of ' + ', '.join(kinds.FORMATS)}. Sales have the "
            "columns store, dept, date, weekly_sales (map other names with --column weekly_sales=NAME, or use --preset)"
        )
    try:
        panel = build_panel(
            sales, features, days, settings.declarations, settings.country, settings.no_row, settings.active_weeks
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    events = ", ".join(dict.fromkeys(event.name for event in panel.events or ()))
    click.echo(told(panel), err=True)
    click.echo(f"{describe(panel, features['name'].unique().to_pylist())}; holidays {events or 'none'}", err=True)
    return panel
