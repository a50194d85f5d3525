"""The questions of `forecast import` about a file that the settings of now do not read, and what it proposes."""

from __future__ import annotations

import datetime as dt
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecast_platform.cli.terminal import echo_table

if TYPE_CHECKING:
    from forecast_platform.landing.proposal import Answer, Proposal, Question

_WEEKS = 6  # whose sums are shown at each end


def guide(files: Sequence[Path], kind: str | None, yes: bool) -> tuple[list[Path], list[Proposal]]:
    """Before files land: ask about those that the settings of now do not read, and keep what a person agrees to.

    Args:
        yes: take what a file decides without asking.

    Returns:
        The files to land, and what was proposed and not agreed to, because nobody was there to be asked.
    """
    from forecast_platform.settings import write

    landing: list[Path] = []
    proposals: list[Proposal] = []
    others = False  # files of this command that the settings of now read
    alone = kind is None and not any(_told(file) == "sales" for file in files) and not _has_sales()
    for file in files:
        proposal, of = _look(file, kind, {}, others), kind
        if alone and not others and (asked := _sales_perhaps(file, proposal)):
            proposal, of = asked, "sales"
        agreed: Mapping[str, Any] | None = {}
        if not proposal.helps:
            if proposal.refusal and (proposal.settings or proposal.refusal.rule in ("other_dialect", "no_dates")):
                click.secho(_no_settings(proposal), fg="yellow", err=True)
        elif yes and not proposal.questions:
            _show(proposal)
            agreed = proposal.settings
        elif sys.stdin.isatty() and sys.stdout.isatty():
            agreed = _agree(file, of, others, yes)
        else:
            proposals.append(proposal)
            if of != kind:
                continue  # it would land as what it may not be
        if agreed is None:
            click.echo(f"{file.name} is left out")
            continue
        if agreed:
            click.echo(f"wrote {write(agreed, f'forecast import {file.name}')}")
        others |= bool(agreed) or proposal.refusal is None
        landing.append(file)
    return landing, proposals


def _no_settings(proposal: Proposal) -> str:
    """What stands against reading a file, with the settings found up to there."""
    assert proposal.refusal is not None
    if not proposal.settings:
        return proposal.refusal.message
    from forecast_platform.settings import written

    so_far = ", ".join(written(proposal.settings).splitlines())
    return f"no settings read {proposal.key}. With {so_far}: {proposal.refusal.message}"


def _look(file: Path, kind: str | None, answers: Mapping[str, Any], others: bool) -> Proposal:
    from forecast_platform.landing.proposal import propose
    from forecast_platform.settings import Settings, get_settings

    settings = Settings(**answers)
    proposal = propose(
        file,
        file.name,
        settings.contract,
        dt.datetime.now(dt.UTC),
        settings.first_week,
        settings.limits,
        settings.model_fields_set,
        answers,
        kind or "",
    )
    if proposal.helps and (others or _has_sales()):
        return proposal.beside_others(get_settings().contract)
    return proposal


def _told(file: Path) -> str:
    """Which kind a file is by its columns and the settings of now; empty: they do not say."""
    from forecast_platform.landing.kinds import FileRefused
    from forecast_platform.landing.rules import kind_of
    from forecast_platform.settings import get_settings

    try:
        return kind_of(file, file.name, get_settings().contract)
    except FileRefused:
        return ""


def _sales_perhaps(file: Path, proposal: Proposal) -> Proposal | None:
    """What would read a file as sales that was read as features, where its only column of figures, or one whose name
    speaks of sales, may be what was sold; said to the person."""
    from forecast_platform.landing.evidence import speaks_of_sales
    from forecast_platform.settings import get_settings

    if proposal.refusal or proposal.kind != "features" or proposal.parsed is None:
        return None
    declared = get_settings().covariates
    columns = set(proposal.parsed.accepted["name"].unique().to_pylist())
    columns -= set(declared) if isinstance(declared, dict) else set()
    if not columns or (len(columns) > 1 and not any(map(speaks_of_sales, columns))):
        return None
    asked = _look(file, "sales", {}, False)
    if not asked.helps:
        return None
    click.secho(
        f"{file.name} may hold sales, of which this home has none yet. If it is what is known beside sales: "
        f"forecast import --kind features {file.name}",
        fg="yellow",
        err=True,
    )
    return asked


def _has_sales() -> bool:
    """Whether the home has sales, which the settings of now have read."""
    from forecast_platform.clouds.base import cloud_of, open_lake
    from forecast_platform.landing.ledger import INGESTED, Ledger
    from forecast_platform.settings import get_settings

    settings = get_settings()
    if not cloud_of(settings).begun():
        return False
    return any(e.kind == "sales" and e.status == INGESTED for e in Ledger.of(open_lake(settings)).entries)


def _agree(file: Path, kind: str | None, others: bool, yes: bool) -> Mapping[str, Any] | None:
    """What a person answers; None: the file is to be left alone."""
    from forecast_platform.landing.kinds import FileRefused

    answers: dict[str, Any] = {}
    proposal = _look(file, kind, answers, others)
    assert isinstance(proposal.refusal, FileRefused)
    click.secho(f"{file.name} is not read by the settings of now. {proposal.refusal.message}", fg="yellow")
    while True:
        if proposal.questions:
            answer = _answer(proposal.questions[0])
        elif not proposal.parsed:
            click.secho(str(proposal.refusal), fg="yellow")
            return None
        else:
            _show(proposal)
            if yes or (said := _confirmed()) == "yes":
                return {**answers, **proposal.settings}
            answer = _changed(said) if said != "no" else None
        if answer is None:
            return None
        if (looked := _checked(file, kind, {**answers, **answer}, others)) is not None:
            answers, proposal = {**answers, **answer}, looked


def _checked(file: Path, kind: str | None, answers: Mapping[str, Any], others: bool) -> Proposal | None:
    """What is proposed with these answers; None where one of them can be no setting, which is said."""
    from pydantic import ValidationError

    try:
        return _look(file, kind, answers, others)
    except ValidationError as error:
        click.secho("\n".join(str(e["msg"]) for e in error.errors()), fg="yellow")
        return None


def _answer(question: Question) -> dict[str, Any] | None:
    click.secho(f"\n{question.text}", bold=True)
    for number, choice in enumerate(question.choices, 1):
        click.echo(f"  {number}  {choice.words}")
    click.echo("  0  leave this file out")
    number = click.prompt("Answer", type=click.IntRange(0, len(question.choices)))
    if number == 0:
        return None
    choice = question.choices[number - 1]
    return choice.with_text(click.prompt("Which").strip() if choice.free else "")


def _confirmed() -> str:
    said: str = click.prompt("\nWrite these settings and import? yes, no, or the name of a setting to change")
    return {"y": "yes", "n": "no"}.get(said.strip().lower(), said.strip().lower())


def _changed(name: str) -> dict[str, Any]:
    """Another value of a setting, written as in settings.toml or without quotes."""
    from forecast_platform.settings import Settings

    if name not in Settings.model_fields:
        click.secho(f"there is no setting {name}", fg="yellow")
        return {}
    text = click.prompt(f"{name} =", default="", show_default=False).strip()
    try:
        return {name: tomllib.loads(f"value = {text}")["value"]}
    except tomllib.TOMLDecodeError:
        return {name: text}


# --- what is shown


def as_toml(proposal: Proposal) -> str:
    """Lines of settings.toml; what the file does not decide stands in comments, an answer below another."""
    from forecast_platform.settings import written

    asked = {name for question in proposal.questions for choice in question.choices for name in choice.settings}
    decided = {name: value for name, value in proposal.settings.items() if name not in asked}
    lines = [f"# settings.toml for {proposal.key}", *written(decided, proposal.why).splitlines()]
    for question in proposal.questions:
        lines += [f"# {question.text}", "# Take away the # of one answer:"]
        for choice in question.choices:
            lines += [f"#   {choice.words}", *(f"# {line}" for line in written(_shown(choice)).splitlines())]
    return "\n".join(lines)


def _shown(choice: Answer) -> dict[str, Any]:
    return choice.with_text("...") if choice.free else dict(choice.settings)


def tell(proposals: Sequence[Proposal]) -> None:
    """What would read files that nobody could be asked about: rows to standard error, settings to standard output."""
    from forecast_platform.settings import home

    for proposal in proposals:
        _show(proposal, err=True)
        click.echo(as_toml(proposal))
    if proposals:
        left = ", answer what it asks" if any(p.questions for p in proposals) else ""
        click.echo(
            f"Put these lines into {home() / 'settings.toml'}{left}, and import again. A terminal asks instead; --yes "
            "takes what a file decides.",
            err=True,
        )


def _show(proposal: Proposal, err: bool = False) -> None:
    parsed = proposal.parsed
    if not err:
        click.echo("\n" + as_toml(proposal))
    if parsed is None:
        return
    head = parsed.accepted.drop_columns(["line"]).slice(0, 10)
    click.secho(f"\nThe first rows of {proposal.key}, as understood:", bold=True, err=err)
    echo_table(head, "table", 10, err)
    if proposal.kind == "sales":
        click.secho("\nSums by week:" if proposal.whole else "\nSums by week, of its beginning:", bold=True, err=err)
        sums = parsed.accepted.group_by("week").aggregate([("sales", "sum"), ("sales", "count")]).sort_by("week")
        sums = sums.rename_columns(["week", "sales", "rows"])
        if len(sums) > 2 * _WEEKS:
            echo_table(sums.slice(0, _WEEKS), "table", _WEEKS, err)
            click.echo(f"... {len(sums) - 2 * _WEEKS} more weeks", err=err)
            sums = sums.slice(len(sums) - _WEEKS)
        echo_table(sums, "table", len(sums), err)
    if len(parsed.rejected):
        click.secho(f"\n{len(parsed.rejected):,} of {parsed.rows:,} rows would be refused:", fg="yellow", err=err)
        rejected = parsed.rejected.to_pylist()
        for rule, count in Counter(row["rule"] for row in rejected).most_common():
            first = next(row for row in rejected if row["rule"] == rule)
            click.echo(f"  {count:,} by {rule}; line {first['line']}: {first['message']}", err=err)
    if parsed.ignored_columns:
        click.echo(f"Not read: {', '.join(parsed.ignored_columns)}", err=err)
    for note in parsed.notes:
        click.echo(note, err=err)
