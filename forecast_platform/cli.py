"""`forecast`: everything a person starts by hand. Errors say what to do next."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from forecast_platform.weeks import key

KINDS = ("sales", "stores", "features", "calendar")

if TYPE_CHECKING:
    import pyarrow as pa

    from forecast_platform.runner import Outcome, Runner
    from forecast_platform.series.panel import Panel
    from forecast_platform.settings import Settings


class _Friendly(click.Group):
    """Errors a person can mend are one line; anything else keeps its traceback, because it is our fault."""

    def invoke(self, ctx: click.Context) -> Any:
        from pydantic import ValidationError

        try:
            return super().invoke(ctx)
        except ValidationError as error:
            names = [f"FORECAST_{str(e['loc'][0]).upper()}: " if e["loc"] else "" for e in error.errors()]
            lines = [f"  {name}{e['msg']}" for name, e in zip(names, error.errors(), strict=True)]
            raise click.ClickException("the settings are not right\n" + "\n".join(lines)) from error
        except click.ClickException:
            raise
        except Exception as error:
            # Our own errors say in their text how to mend them, and AWS's what was denied or missing.
            if type(error).__module__.startswith(("forecast_platform", "botocore")) or isinstance(error, OSError):
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=_Friendly, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="forecast-platform")
def main() -> None:
    """Weekly department sales forecasts with DeepAR. All state lives under FORECAST_HOME (default ./.forecast)."""
    warnings.filterwarnings("ignore", category=UserWarning, module="pyiceberg")


# ---------------------------------------------------------------------------------------------- running the graph


@main.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--preset", default="", help="named mapping of columns and formats, remembered for later files")
@click.option("--kind", type=click.Choice(KINDS), help="what the files hold; by default told from their columns")
def import_files(files: tuple[Path, ...], preset: str, kind: str | None) -> None:
    """Land FILES (sales, stores, features, calendar), ingest and clean them. A file that cannot be read is named, and
    the others go through."""
    _remember_preset(preset)
    from forecast_platform.landing.contract import FileRefused, kind_of

    refused = []
    with _runner() as runner:
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
            _report(outcome)
        elif not refused:
            click.echo("These files are in the lake already; nothing to do.")
    if refused:
        raise click.ClickException(f"{len(refused)} of {len(files)} files were refused; the reasons are above")
    click.echo("Next: forecast run")


@main.command()
@click.option("--week", default="", help="week to forecast from, by the date it ends on; default: the newest complete")
def run(week: str) -> None:
    """Ingest what has landed, then forecast from one week: the same run the sensor would start."""
    with _runner() as runner:
        chosen = runner.settings.calendar.parse(week) if week else None
        outcome = runner.bring_in()
        if outcome is not None:
            _report(outcome)
        if chosen is None:
            chosen = _newest_complete_week(runner)
        _report(runner.run_week(chosen), title=f"week {chosen}")
        _print_forecast(runner, chosen)


@main.command()
@click.argument("first")
@click.argument("last")
@click.option("--as-known-then", is_flag=True, help="use only the data versions that had landed by each week's time")
def backfill(first: str, last: str, as_known_then: bool) -> None:
    """Forecast again from every week FIRST .. LAST, oldest first."""
    with _runner() as runner:
        calendar = runner.settings.calendar
        weeks = calendar.between(calendar.parse(first), calendar.parse(last))
        if not weeks:
            raise click.ClickException(f"{first} comes after {last}; give the earlier week first")
        tags = {"forecast/backfill": f"{first}..{last}"}
        failed = []
        for number, week in enumerate(weeks, 1):
            outcome = runner.run_week(week, as_known_then, tags)
            seconds = sum(stage["seconds"] for stage in outcome.stages.values())
            state = "done" if outcome.success else "FAILED " + (outcome.error or "; ".join(outcome.blocked))
            click.echo(f"[{number}/{len(weeks)}] {week}  {seconds:6.1f} s  {state}")
            if not outcome.success:
                failed.append(week)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(weeks)} weeks failed; the others are published")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3000, show_default=True)
def ui(host: str, port: int) -> None:
    """Dagster's UI, sensor and runs over FORECAST_HOME: `dagster dev` with the right DAGSTER_HOME."""
    from forecast_platform.runner import prepare_home
    from forecast_platform.settings import get_settings

    prepare_home(get_settings())
    dagster = str(Path(sys.executable).with_name("dagster"))
    # Our own program beside our own interpreter, so the path is known; exec so that Ctrl-C reaches it.
    os.execv(dagster, [dagster, "dev", "-m", "forecast_platform.definitions", "-h", host, "-p", str(port)])  # noqa: S606


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=8050, show_default=True)
@click.option("--name", "names", multiple=True, help="host name it is reached by, behind a proxy; may be repeated")
@click.option("--root-path", default="", help="prefix that a proxy puts before the dashboard's addresses")
def dashboard(host: str, port: int, names: tuple[str, ...], root_path: str) -> None:
    """The web dashboard over the lake: what needs a person, every series with its fan, errors, revisions, data."""
    import uvicorn

    from forecast_platform.dashboard.app import build_app
    from forecast_platform.dashboard.source import Source
    from forecast_platform.lake.lake import Lake
    from forecast_platform.settings import get_settings

    settings = get_settings()
    app = build_app(settings, Source(Lake.of(settings)), hosts=("localhost", "127.0.0.1", host, *names))
    click.echo(f"The dashboard is at http://{host}:{port}{root_path}  (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, root_path=root_path, log_level="warning", server_header=False)


@main.command()
@click.argument("store")
@click.argument("dept")
@click.argument("week")
@click.argument("value", type=float)
@click.option("--reason", required=True, help="why, for whoever reads it later")
@click.option("--author", required=True)
@click.option("--expires", default="", help="last forecast week it holds for; default: until WEEK has come")
def override(store: str, dept: str, week: str, value: float, reason: str, author: str, expires: str) -> None:
    """Put a figure of your own beside the forecast of STORE and DEPT for WEEK. The forecast itself stays as it is; the
    view forecast_with_overrides and the dashboard show both."""
    from forecast_platform.lake.lake import Lake
    from forecast_platform.lake.overrides import add_override
    from forecast_platform.settings import get_settings

    settings = get_settings()
    target = settings.calendar.parse(week)
    last = dt.date.fromisoformat(expires) if expires else target
    lake = Lake.of(settings)
    add_override(lake, store, dept, target, value, reason, author, last, dt.datetime.now(dt.UTC))
    click.echo(f"store {store}, department {dept}, week of {target}: {value:,.0f} beside the forecast, until {last}")


@main.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--stores", default=12, show_default=True)
@click.option("--depts", default=14, show_default=True)
def demo(seed: int, stores: int, depts: int) -> None:
    """A made-up retailer from landed files to published forecasts, and then the week after that."""
    from forecast_platform import demo as retailer_data

    with _runner() as runner:
        if runner.settings.contract.name != "canonical" or runner.settings.contract.week_ends != "FRI":
            raise click.ClickException("the demo lands canonical files, weeks end on Friday; use another FORECAST_HOME")
        landing = runner.platform.landing
        retailer = retailer_data.make_retailer(seed=seed, stores=stores, depts=depts)
        before, last = (w.astype(dt.date) for w in retailer.weeks[-2:])
        _heading(f"1. A retailer's ETL lands its history: {stores} stores x {depts} departments, weeks up to {before}")
        for name, data in retailer_data.history_files(retailer, until=before).items():
            landing.put(name, data)
            click.echo(f"   landing/{name}  {len(data):,} bytes")
        outcome = runner.bring_in()
        if outcome:
            _report(outcome)
        _heading(f"2. The graph runs for the newest week, {before}")
        _report(runner.run_week(before))
        _heading(f"3. The next week lands: {last}")
        name, data = retailer_data.week_file(retailer, last)
        landing.put(name, data)
        click.echo(f"   landing/{name}  {len(data):,} bytes")
        runner.settle()
        _report(runner.run_week(last))
        _heading("4. The forecast table")
        _print_forecast(runner, last)
    forecast = os.path.relpath(Path(sys.executable).with_name("forecast"))
    click.echo(f"\nLook around:\n  {forecast} dashboard  what needs a person, every series with its fan")
    click.echo(f"  {forecast} ui         lineage, runs, and the sensor that watches {landing.url}")
    for sql in (
        "SELECT * FROM latest_forecast WHERE store = '1' AND dept = '1'",
        "SELECT source_key, line, rule, value, message FROM quarantine",
    ):
        click.echo(f'  {forecast} query "{sql}"')


# ---------------------------------------------------------------------------------------------- asking


@main.command()
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
        from forecast_platform.aws.athena import Athena

        answer = Athena(settings.workgroup, settings.database).query(sql)
    else:
        answer = Lake.of(settings).query(sql)
    _echo_table(answer, form, rows)


@main.command()
def views() -> None:
    """Create or renew the lake's views in Athena (profile aws; the local profile has them always)."""
    from forecast_platform.lake.lake import Lake
    from forecast_platform.settings import get_settings

    settings = get_settings()
    if settings.profile != "aws":
        raise click.ClickException("profile local has its views always; on AWS set FORECAST_PROFILE=aws")
    from forecast_platform.aws.athena import Athena, create_views

    for name in create_views(Athena(settings.workgroup, settings.database), Lake.of(settings)):
        click.echo(f"{settings.database}.{name}")


@main.command()
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cutoff", "cutoffs", required=True, multiple=True, help="last week known to the models; repeatable")
@click.option("--horizon", default=12, show_default=True, help="weeks forecast and scored")
@click.option("--preset", default="", help="named mapping of columns and formats")
@click.option("--week-ends", default="", help="weekday a week ends on, MON .. SUN")
@click.option("--column", "columns", multiple=True, metavar="NAME=IN_FILE", help="column mapping; repeatable")
@click.option("--date-format", default="", help="strptime format of the dates")
@click.option("--delimiter", default="", help="CSV delimiter")
@click.option("--known", multiple=True, metavar="NAME[=FILL]", help="feature column known ahead; repeatable")
@click.option("--past", multiple=True, metavar="NAME[=FILL]", help="feature column known in the past only; repeatable")
@click.option("--exposure", default="", metavar="NAME", help="column of the days open, which sales are divided by")
@click.option("--country", default="", help="whose holidays count where there is no calendar file, e.g. US")
@click.option("--seed", default=0, show_default=True)
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

    from forecast_platform import selection
    from forecast_platform.evaluation.backtest import backtest as run_backtest
    from forecast_platform.evaluation.backtest import summary_table, to_json
    from forecast_platform.evaluation.baselines import seasonal_naive
    from forecast_platform.series.outlook import aligned_last_year
    from forecast_platform.settings import Settings

    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("preset", preset),
            ("week_ends", week_ends),
            ("date_format", date_format),
            ("delimiter", delimiter),
            ("columns", dict(_pair(c) for c in columns)),
            ("covariates", _declared("known", known) | _declared("past", past)),
            ("exposure", exposure),
            ("country", country),
        )
        if value
    }
    settings = Settings(**changes)
    panel = _read_panel(data, settings)
    candidates = selection.plans(settings, horizon, seed)
    with _bar() as show:

        def tell(message: str) -> None:
            click.echo(message, err=True)

        results = run_backtest(
            panel,
            [settings.calendar.parse(c) for c in cutoffs],
            horizon,
            {
                "deepar": selection.shipped_forecaster(candidates, settings.num_samples, show, tell),
                "aligned_last_year": aligned_last_year,
                "seasonal_naive": seasonal_naive,
            },
            quantiles=settings.quantiles,
            progress=tell,
        )
    click.echo(summary_table(results))
    if json_path:
        report = {"data": str(data), "seed": seed, "hyperparameters": candidates, **to_json(results)}
        json_path.write_text(json.dumps(report, indent=1))
    if forecasts_path:
        pq.write_table(pa.concat_tables([r.forecasts for r in results]), forecasts_path)


@main.command()
@click.option(
    "--profile", type=click.Choice(["local", "aws"]), help="check this profile, whatever FORECAST_PROFILE says"
)
def doctor(profile: Literal["local", "aws"] | None) -> None:
    """Check settings, access and versions; each finding says how to mend it."""
    from forecast_platform.lake.lake import Lake
    from forecast_platform.landing.store import open_landing
    from forecast_platform.runner import prepare_home
    from forecast_platform.settings import Settings, get_settings

    settings = Settings(profile=profile) if profile else get_settings()

    def versions() -> str:
        core = importlib.metadata.version("dagster")
        wanted = f"0.{int(core.split('.')[1]) + 16}.{core.split('.')[2]}"
        for package in ("dagster-duckdb", "dagster-aws") if settings.profile == "aws" else ("dagster-duckdb",):
            if (found := importlib.metadata.version(package)) != wanted:
                raise RuntimeError(f"dagster {core} needs {package} {wanted}, not {found}: make clean install")
        return f"Python {sys.version.split()[0]}, dagster {core} with its integrations {wanted}"

    def torch() -> str:
        import torch

        device = f"GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU"
        return f"torch {torch.__version__}, {device}"

    def home() -> str:
        prepare_home(settings)
        probe = settings.home / ".doctor"
        probe.write_text("ok")
        probe.unlink()
        free = shutil.disk_usage(settings.home).free / 1e9
        if free < 2:
            raise RuntimeError(f"{settings.home} has {free:.1f} GB free; give it 2 GB, or move it with FORECAST_HOME")
        return f"{settings.home} is writable, {free:.0f} GB free"

    def landing() -> str:
        return f"{settings.landing}: {len(open_landing(settings.landing).list())} files"

    def lake() -> str:
        rows = Lake.local(settings.warehouse, settings.quantile_columns).query(
            "SELECT (SELECT count(*) FROM raw_sales), (SELECT max(week) FROM cleaned_series), "
            "(SELECT max(forecast_week) FROM forecasts)"
        )
        count, week, forecast = (column[0].as_py() for column in rows.columns)
        return f"{settings.warehouse}: {count:,} raw rows, newest week {week}, newest forecast {forecast}"

    def contract() -> str:
        c = settings.contract
        names = dict(c.columns) or "canonical"
        return f"{c.name}: weeks end on {settings.calendar.weekday_name}, dates as {c.date_format}, columns {names}"

    checks = {"versions": versions, "torch": torch, "home": home, "contract": contract}
    if settings.profile == "aws":
        from forecast_platform.aws import doctor as aws

        checks |= aws.checks(settings)
    else:
        checks |= {"landing": landing, "lake": lake}
    failures = 0
    for name, check in checks.items():
        try:
            click.echo(f"ok    {name:9} {check()}")
        except Exception as error:
            # A doctor that stops at the first finding is no use: whatever goes wrong is a finding.
            failures += 1
            click.echo(f"FAIL  {name:9} {error}")
    if failures:
        raise click.ClickException(f"{failures} findings to mend")


# ---------------------------------------------------------------------------------------------- DeepAR alone


_EXISTING = click.Path(exists=True, path_type=Path)


@main.group("deepar")
def deepar_group() -> None:
    """The engine alone, under SageMaker's DeepAR contract: JSON Lines in, model.tar.gz, JSON Lines out."""


@deepar_group.command()
@click.option("--train", "train_path", required=True, type=_EXISTING, help="file or folder")
@click.option("--test", "test_path", type=_EXISTING, help="file or folder, scored")
@click.option("--hyperparameters", "file", type=_EXISTING, help="JSON object of strings")
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="wins over the file")
@click.option("--model", "model_path", default=Path("model.tar.gz"), show_default=True, type=click.Path(path_type=Path))
def train(
    train_path: Path, test_path: Path | None, file: Path | None, parameters: tuple[str, ...], model_path: Path
) -> None:
    """Train on JSON Lines (or Parquet) records and write model.tar.gz."""
    from forecast_platform import deepar

    values = json.loads(file.read_text()) if file else {}
    hp = deepar.HyperParameters.parse({**values, **dict(_pair(p) for p in parameters)})
    series = deepar.read_records(train_path, time_freq=hp.time_freq)
    test = deepar.read_records(test_path, time_freq=hp.time_freq) if test_path else None
    watched = sys.stderr.isatty()
    with _bar() as show:
        model = deepar.train(
            series,
            hp,
            test=test,
            progress=(lambda done, total, _: show("train", done, total)) if watched else None,
            log=None if watched else lambda line: click.echo(line, err=True),
        )
    version = deepar.save_artifact(model, model_path)
    click.echo(f"{model_path}: model {version}, final loss {min(model.loss_curve):.4f}")
    if model.test_metrics:
        click.echo(json.dumps(model.test_metrics, indent=1))


@deepar_group.command()
@click.argument("input_path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output_path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", "model_path", default=Path("model.tar.gz"), show_default=True, type=_EXISTING)
@click.option("--config", default="", help='DEEPAR_INFERENCE_CONFIG, e.g. {"num_samples": 50, "quantiles": ["0.5"]}')
@click.option("--seed", default=0, show_default=True)
def predict(input_path: Path, output_path: Path, model_path: Path, config: str, seed: int) -> None:
    """Forecast every line of INPUT_PATH, one JSON object a line, in the same order."""
    from forecast_platform import deepar

    model = deepar.load_artifact(model_path)
    lines = deepar.transform(model, input_path, output_path, json.loads(config) if config else None, seed=seed)
    click.echo(f"{output_path}: {lines:,} forecasts")


@deepar_group.command()
@click.option("--model", "model_path", default=Path("model.tar.gz"), show_default=True, type=_EXISTING)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def serve(model_path: Path, host: str, port: int) -> None:
    """Answer SageMaker's requests (/ping, /invocations) with a model, as our image does in Batch Transform.

    The environment says how, as there: DEEPAR_INFERENCE_CONFIG, DEEPAR_SEED, MODEL_SERVER_WORKERS.
    """
    from forecast_platform.aws.serving import serve as serve_model

    sys.exit(serve_model(model_path, host, port))


# ---------------------------------------------------------------------------------------------- shared


@contextlib.contextmanager
def _runner() -> Iterator[Runner]:
    """The graph in this process, showing its progress as bars."""
    from forecast_platform.defs.stage import show_progress
    from forecast_platform.runner import Runner

    with Runner() as runner, _bar() as show:
        show_progress(show)
        yield runner


def _remember_preset(preset: str) -> None:
    """Keep the preset in settings.toml, so that the sensor reads later files the same way."""
    from forecast_platform.landing.contract import SalesContract
    from forecast_platform.settings import get_settings, home

    if not preset:
        return
    try:
        SalesContract.named(preset)
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


def _newest_complete_week(runner: Runner) -> dt.date:
    from forecast_platform.series.cleaning import newest_complete_week

    week = newest_complete_week(runner.platform.lake, runner.settings.complete_share)
    if week is None:
        raise click.ClickException("the lake holds no complete week yet; bring sales in with: forecast import FILE...")
    return week


def _declared(known: str, options: Sequence[str]) -> dict[str, str]:
    """NAME[=FILL] options in the words of the setting `covariates`."""
    parts = (option.partition("=") for option in options)
    return {name.strip(): f"{known}:{fill.strip()}" if separator else known for name, separator, fill in parts}


def _read_panel(folder: Path, settings: Settings) -> Panel:
    """The panel of all sales, features and calendar files in a folder, by the settings' contract. What a file holds is
    told by its columns, or by the folder it lies in where that is named sales, features or calendar."""
    from functools import partial

    import pyarrow as pa

    from forecast_platform.landing import contract as contracts
    from forecast_platform.series.cleaning import build_panel
    from forecast_platform.series.covariates import describe

    contract, calendar = settings.contract, settings.calendar
    newest = calendar.last_started(dt.datetime.now(dt.UTC))
    readers: dict[str, Callable[[bytes, str], contracts.Parsed]] = {
        "sales": partial(contracts.parse_sales, contract=contract, calendar=calendar, newest_week=newest),
        "features": partial(contracts.parse_features, contract=contract, calendar=calendar),
        "calendar": partial(contracts.parse_calendar, contract=contract),
    }
    schemas = (contracts.SALES_SCHEMA, contracts.FEATURES_SCHEMA, contracts.CALENDAR_SCHEMA)
    tables = {kind: [schema.empty_table()] for kind, schema in zip(readers, schemas, strict=True)}
    for path in sorted(folder.iterdir()) + [path for kind in readers for path in sorted(folder.glob(f"{kind}/*"))]:
        if not path.name.endswith(contracts.FORMATS):
            continue
        data = path.read_bytes()
        try:
            kind = path.parent.name if path.parent != folder else contracts.kind_of(data, path.name, contract)
        except contracts.FileRefused as refusal:
            if refusal.rule == "unknown_kind":
                click.echo(f"not read: {refusal.message}", err=True)
                continue
            raise
        if kind not in readers:
            continue
        parsed = readers[kind](data, path.name)
        click.echo(f"{path.name}: {kind}, {parsed.accepted_rows:,} rows, {len(parsed.rejected):,} rejected", err=True)
        for bad in parsed.rejected.slice(0, 3).to_pylist():
            click.echo(f"  line {bad['line']}: {bad['rule']}: {bad['message']}", err=True)
        tables[kind].append(parsed.accepted)
    sales, features, days = (pa.concat_tables(found) for found in tables.values())
    if not len(sales):
        raise click.ClickException(
            f"no sales file in {folder}: a .csv, .csv.gz or .parquet with the columns store, dept, date, weekly_sales "
            "(map other names with --column weekly_sales=NAME, or use --preset)"
        )
    try:
        panel = build_panel(sales, features, days, settings.declarations, settings.country)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    events = ", ".join(dict.fromkeys(event.name for event in panel.events or ()))
    click.echo(f"{describe(panel, features['name'].unique().to_pylist())}; holidays {events or 'none'}", err=True)
    return panel


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.ClickException(f"{text!r} should read NAME=VALUE")
    return name.strip(), value.strip()


class _bar:
    """A progress bar for whatever reports progress; silent bars when standard error is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self.show

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if total == 0:
            self._close()
            click.echo(f"   {what} ...", err=True)
            return
        if self._bar is None or self._what != what or done < self._bar.n:
            self._close()
            # Where nobody watches (a pipe, CI) one line at the end is enough.
            interval = 0.1 if sys.stderr.isatty() else 3600
            self._bar = tqdm(total=total, desc=f"   {what}", file=sys.stderr, mininterval=interval, ncols=90)
            self._what = what
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._close()


def _heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


_NUMBERS = (
    "files",
    "rows_accepted",
    "rows_quarantined",
    "rows",
    "weeks",
    "series",
    "without_forecast",
    "trained_as_of",
    "target",
    "verdict",
    "why",
    "series_per_second",
    "seconds_from_landing",
)


def _report(outcome: Outcome, title: str = "") -> None:
    """Stages with their costs; then whatever did not pass.

    Raises:
        click.ClickException: the run failed.
    """
    if title:
        _heading(title)
    for name, numbers in outcome.stages.items():
        told = ", ".join(
            f"{n.replace('_', ' ')} " + (f"{numbers[n]:,}" if isinstance(numbers[n], int | float) else str(numbers[n]))
            for n in _NUMBERS
            if n in numbers
        )
        click.echo(f"   {name:18} {numbers['seconds']:7.1f} s  {numbers['process_peak_mb']:6,} MB  {told}")
    for check in outcome.failed_checks:
        click.secho(f"   check  {check}", fg="yellow")
    if not outcome.success:
        reasons = outcome.blocked or [outcome.error or "the run failed"]
        raise click.ClickException("\n".join(reasons) + f"\nThe run is {outcome.run_id}; see it with: forecast ui")


def _print_forecast(runner: Runner, week: dt.date) -> None:
    rows = runner.platform.lake.query(
        """
        SELECT level, store, dept, target_week, horizon, round(p10) AS p10, round(p50) AS p50, round(p90) AS p90
        FROM forecasts WHERE forecast_week = ? AND (level = 'total' OR (level = 'series' AND horizon = 1))
        ORDER BY level = 'total' DESC, TRY_CAST(store AS INT), store, TRY_CAST(dept AS INT), dept, target_week
        LIMIT 20
        """,
        [week],
    )
    _echo_table(rows, "table", 20)
    total = runner.platform.lake.query(
        "SELECT count(*), count(DISTINCT (store, dept)) FROM forecasts WHERE forecast_week = ? AND level = 'series'",
        [week],
    )
    count, series = (column[0].as_py() for column in total.columns)
    click.echo(f"{count:,} rows for {series:,} series, forecast from the week of {key(week)}")


def _echo_table(rows: pa.Table, form: str, limit: int) -> None:
    if form == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(rows, sys.stdout.buffer)
        return
    if form == "json":
        click.echo(json.dumps(rows.to_pylist(), default=str))
        return
    shown = rows.slice(0, limit).to_pylist()
    names = rows.column_names
    cells: Sequence[Sequence[str]] = [[_cell(row[name]) for name in names] for row in shown]
    widths = [max([len(name), *(len(c[i]) for c in cells)]) for i, name in enumerate(names)]
    click.echo("  ".join(name.ljust(width) for name, width in zip(names, widths, strict=True)))
    click.echo("  ".join("-" * width for width in widths))
    for row in cells:
        numeric = [c[:1].isdigit() or c[:1] == "-" for c in row]
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        click.echo("  ".join(padded))
    if len(rows) > limit:
        click.echo(f"... {len(rows) - limit:,} more rows; see them with --rows or --format csv")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}" if value % 1 else f"{value + 0.0:,.0f}"  # not -0
    return str(value)


if __name__ == "__main__":
    main()
