"""`forecast backtest`: the shipped model, and every candidate beside it, scored as of past weeks."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecast_platform.cli.terminal import Bar, echo_table, pair

if TYPE_CHECKING:
    from forecast_platform.history.panel import Panel
    from forecast_platform.models.backtest import BacktestResult
    from forecast_platform.models.leaderboard import Leaderboard
    from forecast_platform.settings import Settings

_OF_FILES = ("preset", "week_ends", "columns", "date_format", "delimiter")  # options that say how a folder is read


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="default: FORECAST_HOME")
@click.option("--cutoff", "cutoffs", multiple=True, help="last week known to the models; repeatable")
@click.option(
    "--cutoffs", "spread", type=click.IntRange(min=1), help="so many, spread over the last year and its seasons"
)
@click.option("--candidate", "candidates", multiple=True, metavar="all|NAME", help="scored as well; repeatable")
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
@click.pass_context
def backtest(
    context: click.Context,
    data: Path | None,
    cutoffs: tuple[str, ...],
    spread: int | None,
    candidates: tuple[str, ...],
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
    """Score the shipped model and the 52-week seasonal naive as of past weeks.

    The data are a folder of sales and, where there are any, features and a calendar of holidays; or without --data what
    has landed in FORECAST_HOME. FILL stands in for missing values: a number, or last, the value before. Without --known
    and --past the columns are those of the settings.

    With --candidate it becomes a leaderboard: each candidate, or all of them, beside the shipped model, by level, weeks
    ahead, volume and season, with the regret of the choice. That of FORECAST_HOME is kept for the dashboard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from forecast_platform.models.backtest import summary_table, to_json
    from forecast_platform.models.leaderboard import spread_cutoffs
    from forecast_platform.models.registry import plans
    from forecast_platform.settings import Settings
    from forecast_platform.surface import run_backtest, run_leaderboard

    if bool(cutoffs) == bool(spread):
        raise click.UsageError("name the cutoffs, --cutoff WEEK for each, or how many: --cutoffs 6")
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
    if not data and (given := [name for name in _OF_FILES if changes.get(name)]):
        raise click.UsageError(f"{', '.join(given)}: how files are read, and there are none: give their folder, --data")
    settings = Settings(**changes)
    asked = _asked(candidates)
    panel = read_folder(data, settings) if data else _landed(settings)
    results: list[BacktestResult] = []
    forecasts: list[pa.Table] = []

    def tell(message: str) -> None:
        click.echo(message, err=True)

    def keep(result: BacktestResult) -> None:
        """Forecasts where they are asked for; of many series they are large."""
        results.append(replace(result, forecasts=result.forecasts.schema.empty_table()))
        if forecasts_path:
            forecasts.append(result.forecasts)

    board = None
    with Bar() as show:
        weeks = spread_cutoffs(panel, spread, horizon) if spread else [settings.calendar.parse(c) for c in cutoffs]
        if asked:
            board = run_leaderboard(panel, settings, weeks, horizon, asked, seed, show, tell, keep)
            board = replace(board, made_at=dt.datetime.now(dt.UTC), command=_command(context, settings))
            board = replace(board, data=str(data.resolve()) if data else str(settings.home))
        else:
            for result in run_backtest(panel, settings, weeks, horizon, seed, show, tell):
                keep(result)
    if board:
        show_board(board)
        if not data:
            click.echo(f"\n{board.save(settings.home)}: shown by forecast dashboard, page Leaderboard", err=True)
    else:
        click.echo(summary_table(results))
    if json_path:
        report = {
            "data": str(data or settings.home),
            "seed": seed,
            "hyperparameters": plans(settings, horizon, seed)
            | (plans(settings, horizon, seed, asked) if asked else {}),
            **to_json(results),
            **({"leaderboard": board.to_json()} if board else {}),
        }
        json_path.write_text(json.dumps(report, indent=1))
    if forecasts_path:
        pq.write_table(pa.concat_tables(forecasts), forecasts_path)


def _asked(names: Sequence[str]) -> list[str]:
    """Candidates by name, all of them for `all`."""
    from forecast_platform.models.registry import CANDIDATES

    for name in names:
        if name != "all" and name not in CANDIDATES:
            raise click.UsageError(f"no candidate {name!r}; there are all, {', '.join(map(repr, CANDIDATES))}")
    return [name for name in CANDIDATES if "all" in names or name in names]


def _landed(settings: Settings) -> Panel:
    """What has landed in the home, up to its newest complete week."""
    from forecast_platform.clouds.base import cloud_of
    from forecast_platform.history.absence import told
    from forecast_platform.history.cleaning import newest_complete_week
    from forecast_platform.panels import KNOWN, known_panel

    cloud = cloud_of(settings)
    week = None
    if cloud.begun():  # to be asked is no reason to make a lake
        with cloud.lake.connection("cleaned_series") as con:
            week = newest_complete_week(con, settings.complete_share)
    if week is None:
        raise click.ClickException(
            f"no week of sales has landed in {settings.home}; land some with forecast import, or give --data FOLDER"
        )
    try:
        with cloud.lake.connection(*KNOWN) as con:
            panel, of_sample = known_panel(con, week, "now", settings)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{settings.home}: sales up to the week of {week}; {of_sample or told(panel)}", err=True)
    return panel


def _command(context: click.Context, settings: Settings) -> str:
    """What to type to make it again; without secrets."""
    words = ["forecast", "backtest"]
    for option in context.command.params:
        value = context.params[option.name or ""]
        if context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE:
            for each in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], str(each)]
    text = shlex.join(words)
    for secret in filter(None, settings.secrets):
        text = text.replace(secret, "...")
    return text


def show_board(board: Leaderboard) -> None:
    """The leaderboard as tables, best first."""
    import pyarrow as pa

    from forecast_platform.models.leaderboard import BY, SERVED, WHOLE

    def show(title: str, rows: list[dict[str, str]]) -> None:
        if title:
            click.secho(f"\n{title}", bold=True)
        echo_table(pa.Table.from_pylist(rows), "table", len(rows))

    def four(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    names = {name: "served" if name == SERVED else name for name in board.candidates}
    rows = []
    for name, shown in names.items():
        whole, at = board.tally(name), board.forecast_at(name)
        assert whole
        best = sum(board.best(cutoff) == name for cutoff in board.cutoffs)
        seconds = sum(each.cpu_seconds[name] for each in board.decisions if name in each.cpu_seconds)
        rows.append({
            "candidate": shown, "WAPE": four(whole.wape), "wQL": four(whole.wql), "cover80": four(whole.coverage80),
            "regret": four(board.mean_regret(name)), "best at": f"{best}" if name != SERVED else "",
            "cutoffs": f"{len(at)} of {len(board.cutoffs)}", "cells": f"{whole.cells:,}", "CPU s": f"{seconds:.1f}",
        })  # fmt: skip
    show("", rows)
    click.echo("regret: wQL / that of the best single candidate in hindsight, mean over the cutoffs")
    rows = []
    for cutoff in board.cutoffs:
        best_name = board.best(cutoff)
        mine, best_tally = board.tally(SERVED, WHOLE, cutoff), board.tally(best_name or SERVED, WHOLE, cutoff)
        rows.append({
            "cutoff": f"{cutoff}", "served": four(mine.wql if mine else None),
            "best": four(best_tally.wql if best_tally and best_name else None),
            "regret": four(board.regret(SERVED, cutoff)),
            "best in hindsight": best_name or "",
        })  # fmt: skip
    show("wQL by cutoff", rows)
    titles = {"level": "WAPE by level, of the sums of medians", "horizon": "wQL by weeks ahead",
              "volume": "wQL by volume, a quarter of the series each", "season": "wQL by months"}  # fmt: skip
    for by in BY:
        rows = []
        for name, shown in names.items():
            found = {of: board.tally(name, (kind, of)) for kind, of in board.slices if kind == by}
            scores = {of: (t.wape if by == "level" else t.wql) if t else None for of, t in found.items()}
            rows.append({"candidate": shown, **{of: four(score) for of, score in scores.items()}})
        show(titles[by], rows)
    if board.unable:
        click.secho("\nNot able", bold=True)
    for name, why, cutoffs in board.unable:
        click.echo(f"{name} at {', '.join(map(str, cutoffs))}: {why}")


def _value(text: str) -> Any:
    """A setting as the environment would hold it: JSON where it is a list or a table."""
    return json.loads(text) if text.startswith(("[", "{")) else text


def declared(known: str, options: Sequence[str]) -> dict[str, str]:
    """NAME[=FILL] options in the words of the setting `covariates`."""
    parts = (option.partition("=") for option in options)
    return {name.strip(): f"{known}:{fill.strip()}" if separator else known for name, separator, fill in parts}


def read_folder(folder: Path, settings: Settings) -> Panel:
    """The panel of all sales, features and calendar files in a folder, by the settings' contract. What a file holds is
    told by its columns, or by the folder it lies in where that is named sales, features or calendar."""
    import pyarrow as pa

    from forecast_platform.history.absence import told
    from forecast_platform.history.covariates import describe
    from forecast_platform.history.reading import build_panel
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
        panel = build_panel(sales, features, days, settings.meaning)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    events = ", ".join(dict.fromkeys(event.name for event in panel.events or ()))
    click.echo(told(panel), err=True)
    click.echo(f"{describe(panel, features['name'].unique().to_pylist())}; holidays {events or 'none'}", err=True)
    return panel
