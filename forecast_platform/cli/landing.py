"""What people land by hand, and what they decide about files that landed: `forecast import`, `forecast landing`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forecast_platform.cli.guide import guide, tell
from forecast_platform.cli.terminal import SEE_REFUSED, open_runner, report

if TYPE_CHECKING:
    from forecast_platform.landing.database import Ask
    from forecast_platform.landing.ingest import Order
    from forecast_platform.landing.ledger import Entry, Ledger
    from forecast_platform.landing.proposal import Proposal
    from forecast_platform.runner import Runner

KINDS = ("sales", "stores", "departments", "features", "calendar")


@click.command("import")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--preset", default="", help="named mapping of columns and formats, remembered for later files")
@click.option("--kind", type=click.Choice(KINDS), help="what the files hold; by default told from their columns")
@click.option("--again", is_flag=True, help="take the files as arriving now, also where the lake has their bytes")
@click.option("--yes", is_flag=True, help="take the settings that a file decides without asking")
@click.option("--from", "source", default="", metavar="URL", help="a database, such as postgresql://user@host/shop")
@click.option("--query", default="", help="SELECT that gives the rows, or a file NAME.sql; of sales with column names")
@click.option("--name", default="", help="what the database's files are called; default: as the database")
@click.option("--weeks", type=click.IntRange(1), help="known weeks to ask for again; default: setting import_weeks")
@click.option("--timeout", type=click.IntRange(1), help="seconds for the query; default: setting import_timeout")
def import_files(
    files: Sequence[Path],
    preset: str,
    kind: str | None,
    again: bool,
    yes: bool,
    source: str,
    query: str,
    name: str,
    weeks: int | None,
    timeout: int | None,
) -> None:
    """Land FILES (sales, stores, departments, features, calendar), ingest and clean them. A file that cannot be read
    is named, and the others go through.

    Where the settings do not read a file of sales, those that do are shown, with its rows as understood. On a terminal
    you are asked, and they are kept in settings.toml; elsewhere they are printed, and the file is refused.

    With --from and --query, or the settings import_from and import_query, rows come from a database: sales by week, and
    after the first time only what is new or restated."""
    if files and (source or query):
        raise click.UsageError("give FILES or --from, not both")
    remember_preset(preset)
    proposals: list[Proposal] = []
    if files:
        files, proposals = guide(files, kind, yes)
        if not files:
            tell(proposals)
            raise click.ClickException("nothing was imported")
    from forecast_platform.landing.ingest import Order
    from forecast_platform.landing.ledger import INGESTED

    with open_runner() as runner:
        if files:
            keys, refused = _land_files(runner, files, kind)
        else:
            ask = _ask(runner, source, query, name, kind or "sales", weeks, timeout, again)
            keys, refused = _land_answer(runner, ask), 0
        before = _ledger(runner)
        if again and keys:
            runner.settle()
            runner.ingest({key: Order("again") for key in keys})
        outcome = runner.bring_in()
        if outcome is not None:
            report(outcome)
        after = _ledger(runner)
        for key in keys:
            _say(key, before, after)
        entries = [entry for key in keys if (entry := after.newest.get(key))]
        tell(proposals)
        if keys or files:
            has_sales = any(e.kind == "sales" and e.status == INGESTED for e in after.entries)
            news = [entry for entry in entries if _is_news(entry, before)]
            conclude(entries, news, refused, len(files) or len(keys), has_sales)
    if proposals:
        raise click.ClickException("what would read these files is above")


def _land_files(runner: Runner, files: Sequence[Path], kind: str | None) -> tuple[list[str], int]:
    """Land files; their keys, and how many cannot be read at all."""
    from forecast_platform.landing.kinds import FileRefused
    from forecast_platform.landing.rules import kind_of

    settings, landing = runner.settings, runner.platform.landing
    keys: list[str] = []
    refused = 0
    for file in files:
        try:
            found = kind or kind_of(file, file.name, settings.contract)
        except FileRefused as refusal:
            refused += 1
            click.secho(f"refused {refusal}", fg="yellow", err=True)
            continue
        key = f"{found}/{file.name}"
        if key in keys:  # the same name in several folders: none may replace another before it is read
            key = f"{found}/{file.resolve().parent.name}/{file.name}"
        if key in keys:
            key = f"{found}/{len(keys) + 1}/{file.name}"
        landed = landing.put(key, file)
        keys.append(landed.key)
        click.echo(f"landed {file.name} as {key} ({landed.size:,} bytes)")
    return keys, refused


def _ask(
    runner: Runner, source: str, query: str, name: str, kind: str, weeks: int | None, timeout: int | None, again: bool
) -> Ask:
    """What is asked of a database, by the options and the settings.

    Raises:
        click.UsageError: nothing says what to import.
    """
    from forecast_platform.databases import has_password
    from forecast_platform.landing.database import asked

    settings = runner.settings
    if has_password(source):
        raise click.UsageError(
            "--from holds a password, which everyone on this machine can see: leave it out and set PGPASSWORD, or give "
            "the address as FORECAST_IMPORT_FROM"
        )
    url, query = source or settings.import_from.get_secret_value(), query or settings.import_query
    if not url:
        raise click.UsageError("give FILES; or a database with --from postgresql://user@host/name and --query")
    if not query:
        raise click.UsageError(
            '--from needs --query, such as "SELECT store, dept, week AS date, sales AS weekly_sales FROM sales"'
        )
    return asked(
        url, query, name or settings.import_name, kind, weeks or settings.import_weeks,
        timeout or settings.import_timeout, again, settings.home,
    )  # fmt: skip


def _land_answer(runner: Runner, ask: Ask) -> list[str]:
    from forecast_platform.landing.database import take

    settings, platform = runner.settings, runner.platform
    taken = take(ask, settings.contract, settings.calendar, platform.lake, platform.landing, dt.datetime.now(dt.UTC))
    click.echo(f"{ask.name}: {taken}")
    return [taken.landed.key] if taken.landed else []


def _is_news(entry: Entry, before: Ledger) -> bool:
    was = before.newest.get(entry.key)
    return was is None or was.landed_at != entry.landed_at


def conclude(landed: Sequence[Entry], news: Sequence[Entry], refused: int, files: int, has_sales: bool) -> None:
    """The last line, true to what happened: what to do next, about what was not taken in too.

    Args:
        landed: what became of the files.
        news: those that the lake did not have before.
        refused: files that did not even land.
        has_sales: whether the home has any.

    Raises:
        click.ClickException: a whole file was refused or waits for a person, or no row was taken in.
    """
    held = [entry for entry in landed if entry.status in ("refused", "waiting") and entry.rule != "not_begun"]
    if held or refused:
        number = len(held) + refused
        others = "" if number == files else "; the others went through"
        raise click.ClickException(f"{number} of {files} files were refused; the reasons are above{others}")
    accepted, lost = (sum(getattr(entry, name) for entry in news) for name in ("accepted", "quarantined"))
    if lost and not accepted:
        raise click.ClickException(
            f"none of the {lost:,} rows could be taken in, so there is nothing new to forecast from. {SEE_REFUSED}"
        )
    if lost:
        click.secho(f"{lost:,} of {accepted + lost:,} rows were refused. {SEE_REFUSED}", fg="yellow")
        click.echo("Next: forecast run; or mend those lines first, and import the file again")
    elif any(entry.status == "ingested" for entry in news):
        click.echo(
            "Next: forecast run" if has_sales else "Next: forecast import FILE with sales, of which there are none yet"
        )
    elif len(landed) == files:
        click.echo("These files are in the lake already; nothing to do. To read them again: --again")


def _say(key: str, before: Ledger, after: Ledger) -> None:
    """What became of a file that was landed just now."""
    from forecast_platform.landing.ingest import told

    was, entry = before.newest.get(key), after.newest.get(key)
    if entry is None:
        click.secho(f"   {key}: not taken yet; it is still changing, or its last line has no end", fg="yellow")
    elif was is not None and was.landed_at == entry.landed_at:
        state = {"ingested": f"{entry.accepted:,} rows", "known": "its rows are another file's"}.get(entry.status)
        state = state or f"{entry.status}: {entry.message}"
        click.echo(f"   {key}: the lake has these bytes since {_moment(entry.landed_at)} ({state}); no-op")
    else:
        click.secho(f"   {told(entry)}", fg=None if entry.status == "ingested" else "yellow")


@click.group("landing")
def landing_group() -> None:
    """Files that landed: what became of each, and what a person decides about one.

    KEY is the name in the list, such as sales/2024-10-25.csv; KEY@VERSION names an earlier landing of it.
    """


_reason = click.option("--reason", required=True, help="why, for those who look later")
_author = click.option("--author", default=getpass.getuser, help="who decides; default: the user of this computer")


@landing_group.command("list")
@click.option("--all", "everything", is_flag=True, help="every landing, not only the last of each name")
@click.option("--rows", default=60, show_default=True, help="landings shown, newest first")
def list_landings(everything: bool, rows: int) -> None:
    """What landed, newest first, what waits for whom, and which files in force no longer lie there."""
    ledger, gone = _what_landed()
    entries = ledger.entries if everything else list(ledger.newest.values())
    entries = sorted(entries, key=lambda e: e.order, reverse=True)
    if not entries:
        click.echo("nothing has landed yet; bring sales in with: forecast import FILE...")
    for entry in entries[:rows]:
        weeks = f"{entry.first_week} .. {entry.last_week}" if entry.first_week else ""
        counts = f"{entry.accepted:>10,} rows" + (f", {entry.quarantined:,} quarantined" if entry.quarantined else "")
        name = f"{entry.key}@{entry.version[:6]}" if everything else entry.key
        click.echo(f"{name:44} {entry.status:9} {counts}  {weeks:24}  arrived {_moment(entry.landed_at)}")
        if entry.status not in ("ingested", "known") and entry.message:
            click.secho(f"   {entry.message}", fg="yellow")
    if len(entries) > rows:
        click.echo(f"... {len(entries) - rows:,} more; see them with --rows")
    for name in sorted(gone):
        click.secho(
            f"{name}: deleted or renamed: its rows stay in force; withdraw them with: forecast landing withdraw {name}",
            fg="yellow",
        )


@landing_group.command()
@click.argument("name", metavar="KEY")
def show(name: str) -> None:
    """Every landing of KEY: what was in it, what it changed, what was decided."""
    ledger, gone = _what_landed()
    entry = ledger.find(name)
    entries = [e for e in ledger.entries if e.key == entry.key] if name == entry.key else [entry]
    for one in reversed(entries):
        click.secho(f"{one.key}@{one.version}", bold=True)
        for field in dataclasses.fields(one):
            value = getattr(one, field.name)
            if field.name in ("key", "version") or value in (None, (), 0):
                continue
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            text = _moment(text) if isinstance(text, dt.datetime) else text
            click.echo(f"   {field.name.replace('_', ' '):16} {text}")
    if entry.key in gone:
        click.secho(f"{entry.key} no longer lies in the landing place; its rows stay in force", fg="yellow")


@landing_group.command()
@click.argument("name", metavar="KEY")
@_reason
@_author
def withdraw(name: str, reason: str, author: str) -> None:
    """Take the rows of KEY out of force. They are kept, and what they had overridden counts again."""
    from forecast_platform.landing.withdrawal import withdraw as take_out

    with open_runner() as runner:
        entry, effect = take_out(
            runner.platform.lake, _ledger(runner).find(name), reason, author, dt.datetime.now(dt.UTC)
        )
        click.echo(
            f"withdrew {entry.key}@{entry.version[:6]}, landed {_moment(entry.landed_at)}: in force "
            f"{effect.vanished:,} rows vanished, {effect.changed:,} changed, {effect.appeared:,} appeared"
        )
        if others := [e for e in _ledger(runner).entries if e.key == entry.key and e.status == "ingested"]:
            click.echo(f"{len(others)} other landings of that name stay in force: forecast landing show {entry.key}")
        _clean(runner)


@landing_group.command()
@click.argument("name", metavar="KEY")
@_reason
@_author
def accept(name: str, reason: str, author: str) -> None:
    """Take a file that waits, although it removes rows or looks wrong."""
    from forecast_platform.landing.ingest import Order
    from forecast_platform.landing.ledger import NOT_BEGUN

    with open_runner() as runner:
        entry = _ledger(runner).find(name)
        if entry.status != "waiting" or entry.rule == NOT_BEGUN:
            raise click.ClickException(f"{entry.key} does not wait for a decision: it is {entry.status}")
        _take(runner, entry, Order("accept", reason, author))


@landing_group.command()
@click.argument("name", metavar="KEY")
def reread(name: str) -> None:
    """Read KEY again by the settings of now, in the place in the order that it has."""
    from forecast_platform.landing.ingest import Order

    with open_runner() as runner:
        entry = _ledger(runner).find(name)
        if entry.status == "withdrawn":
            raise click.ClickException(f"{entry.key} was withdrawn; to take it again: forecast import --again FILE")
        _take(runner, entry, Order("reread"))


def _take(runner: Runner, entry: Entry, order: Order) -> None:
    """Ingest one file as ordered, then clean the weeks it touched.

    Raises:
        click.ClickException: its bytes do not lie there any more, or it was not taken this time either.
    """
    from forecast_platform.landing.ingest import told

    lying = {o.key: o.version for o in runner.platform.landing.list()}
    if lying.get(entry.key) != entry.version:
        what = "other bytes lie there" if entry.key in lying else "it no longer lies there"
        raise click.ClickException(
            f"{entry.key}: {what} ({runner.platform.landing.url}); land the file again: forecast import FILE"
        )
    done = runner.ingest({entry.key: order})
    for one in done:
        click.secho(told(one), fg=None if one.status == "ingested" else "yellow")
    _clean(runner)
    if not done or done[0].status not in ("ingested", "known"):
        raise click.ClickException(f"{entry.key} was not taken; the reason is above")


def _clean(runner: Runner) -> None:
    outcome = runner.clean_touched()
    if outcome is None:
        return
    if outcome.blocked and not outcome.error:  # a week may be incomplete now: that was asked for
        for check in outcome.blocked:
            click.secho(f"   check  {check}", fg="yellow")
        outcome = dataclasses.replace(outcome, success=True)
    report(outcome)
    click.echo("Next: forecast run")


def _ledger(runner: Runner) -> Ledger:
    from forecast_platform.landing.ledger import Ledger

    return Ledger.of(runner.platform.lake)


def _what_landed() -> tuple[Ledger, set[str]]:
    """The ledger, and the files in force that no longer lie there. Dagster, which takes seconds to load, is not needed
    for it."""
    from forecast_platform.clouds.base import open_lake, open_landing
    from forecast_platform.landing.ledger import Ledger
    from forecast_platform.landing.report import no_longer_lying
    from forecast_platform.settings import get_settings

    settings = get_settings()
    lake = open_lake(settings)
    ledger = Ledger.of(lake)
    with lake.connection("raw_sales", "landings") as con:
        return ledger, set(no_longer_lying(con, ledger, open_landing(settings.landing)))


def _moment(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def remember_preset(preset: str) -> None:
    """Keep the preset in settings.toml, so that the sensor reads later files the same way."""
    from forecast_platform.landing.dialects import Dialect
    from forecast_platform.settings import get_settings, home, write

    if not preset:
        return
    try:
        Dialect.named(preset)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    current = get_settings().preset
    if current and current != preset:
        path = home() / "settings.toml"
        raise click.ClickException(f"{path} says preset {current!r}; a home reads one kind of file: use another one")
    if not current:
        write({"preset": preset})
