"""What the pages show in blocks works as it is written: commands are run, settings are read, SQL is asked.

A block of commands is run, in the page's order, over a copy of one small home, unless the line before it says
`<!-- not run: WHY -->`. Of those, and of commands named within sentences, commands, options, make targets and files
must exist.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import botocore
import botocore.session
import click
import pytest

from forecast_platform import demo
from forecast_platform.cli import main
from forecast_platform.landing.dialects import Dialect
from forecast_platform.landing.rules import parse_features
from forecast_platform.settings import Settings
from forecast_platform.weeks import WeekCalendar
from forecast_platform_tests.conftest import made_once
from forecast_platform_tests.processes import python
from forecast_platform_tests.reference_pages import DOCS
from forecast_platform_tests.streaming.broker import Broker

ROOT = DOCS.parent
PAGES = {page.name: page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))}
# What checks the blocks of a language; a page with another one fails.
LANGUAGES = {
    "sh": "run here, or their commands parsed",
    "sql": "asked here",
    "toml": "read here as settings",
    "csv": "read here as a file of features",
    "python": "run by test_surface.py",
    "mermaid": "pictures",
}
# The programs that blocks may name. Each is replaced by one that writes down how it was called.
PROGRAMS = ("forecast", ".venv/bin/forecast", "make", "docker", "aws", "python", "oauth2-proxy", "sudo")
# What the aws command has beside the services' operations.
OWN_OF_AWS = {("s3", "cp"), ("s3", "ls"), ("s3", "sync"), ("cloudformation", "deploy"), ("logs", "tail")}
QUICK = {
    "FORECAST_HYPERPARAMETERS": '{"epochs": "1", "num_cells": "8", "num_networks": "1"}',
    "FORECAST_NUM_SAMPLES": "20",
    "FORECAST_CONTEXT_LENGTH": "4",
    "FORECAST_PREDICTION_LENGTH": "4",
    "FORECAST_TARGET": "sales",
}
LAST = date(2025, 10, 24)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Call:
    arguments: list[str]
    environment: dict[str, str]


@functools.cache
def blocks(language: str = "") -> list[Block]:
    found = []
    for name, page in PAGES.items():
        text = page.read_text()
        for m in re.finditer(r"(?:<!-- not run: (\S[^\n]*) -->\n)?^```([^\n]*)\n(.*?)^```$", text, flags=re.M | re.S):
            found.append(Block(name, text.count("\n", 0, m.start(2)) + 1, m[2], m[3], m[1]))
    return [block for block in found if block.language == language or not language]


def calls(block: Block, folder: Path) -> list[Call]:
    """The programs that a shell starts for a block of commands in a folder, in order."""
    log = folder / "calls.jsonl"
    log.touch()
    for program in PROGRAMS:
        stub = folder / program if "/" in program else folder / "bin" / program
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(
            f"#!{sys.executable} -IS\nimport json, os, sys\n"
            f"print(json.dumps([[{program!r}, *sys.argv[1:]], dict(os.environ)]), file=open({str(log)!r}, 'a'))\n"
        )
        stub.chmod(0o755)
    shutil.copytree(ROOT / "docker", folder / "docker", dirs_exist_ok=True)  # blocks write into it
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder / "user")}
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-eu"], input=block.text, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{block}: {done.stderr}"
    found = [Call(*json.loads(line)) for line in log.read_text().splitlines()]
    log.unlink()
    assert found, f"{block} starts nothing"
    return found


def parse(arguments: list[str], whole: bool) -> None:
    """Check that `forecast ...` has these commands and options; with `whole`, that no argument is missing either.

    Raises:
        click.UsageError: it does not.
    """
    context = main.make_context("forecast", list(arguments))
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        if not rest and isinstance(command, click.Group) and not whole:
            return
        try:
            context = command.make_context(name, rest, parent=context)
        except click.MissingParameter:
            if whole:
                raise
            return
        except click.exceptions.Exit:  # --help
            return


def wrong_with(call: list[str], folder: Path, whole: bool) -> str | None:
    """Why a call cannot work, as far as that is seen without making it; None where nothing is wrong."""
    program, *arguments = call
    if program.endswith("forecast"):
        try:
            parse(arguments, whole)
        except click.UsageError as error:
            return error.format_message()
        return None
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        lacking = [a for a in arguments if not a.startswith("-") and "=" not in a and a not in targets]
        return f"no target {lacking}" if lacking else None
    if program == "aws":
        return wrong_with_aws(*arguments)
    if program == "sudo":
        cases = re.findall(r"^    ([\w |]+)\)", (ROOT / "infra" / "host.sh").read_text(), flags=re.M)
        commands = {name.strip() for case in cases for name in case.split("|")}
        known = arguments[0] == "forecast-host" and arguments[1] in commands
        return None if known else f"no command {' '.join(arguments[:2])}"
    if program == "python":
        return None if arguments[0] == "-m" and find_spec(arguments[1]) else f"no module {arguments[1]}"
    named = [a for a in arguments if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)+", a) and a != "linux/amd64"]
    lacking = [name for name in named if not (folder / name).exists()]
    return f"no file {lacking}" if lacking else None


def wrong_with_aws(service: str, operation: str, *rest: str) -> str | None:
    """By the models that the aws command is made of: whether it has the operation, and the operation the options."""
    session = botocore.session.get_session()
    if (service, operation) in OWN_OF_AWS:
        return None
    if operation == "wait":
        waiters = [botocore.xform_name(name, "-") for name in session.get_waiter_model(service).waiter_names]
        return None if rest[0] in waiters else f"no waiter {rest[0]}"
    model = session.get_service_model(service)
    operations = {botocore.xform_name(name, "-"): name for name in model.operation_names}
    if operation not in operations:
        return f"no operation {operation}"
    shape = model.operation_model(operations[operation]).input_shape
    options = {f"--{botocore.xform_name(name, '-')}" for name in shape.members} | {"--cli-input-json"}
    lacking = [word for word in rest if word.startswith("--") and word not in options]
    return f"no option {lacking}" if lacking else None


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 stores x 7 departments up to LAST, forecast once, with the levels of docs/levels.md; one file waits."""

    def make(folder: Path) -> None:
        retailer, home = demo.make_retailer(stores=12, depts=7, first=date(2025, 3, 7), last=LAST), folder / "home"
        demo.write_landing(retailer, home / "landing", recent=2)
        (home / "landing/departments").mkdir()
        (home / "landing/departments/departments.csv").write_text("dept,category\n1,food\n2,food\n3,food\n")
        (home / "settings.toml").write_text(next(b.text for b in blocks("toml") if b.page == "levels.md"))
        _, week = demo.week_file(retailer, LAST)
        (home / "landing/sales/corrected.csv").write_bytes(b"".join(week.splitlines(keepends=True)[:5]))
        run(["run"], folder, {"FORECAST_HOME": str(home)})

    return made_once(tmp_path_factory, "docs", make) / "home"


@pytest.fixture(scope="module")
def transactions() -> Iterator[dict[str, str]]:
    """The settings of docs/streams.md, with a broker that holds some of its messages."""
    broker, settings = Broker(), tomllib.loads(next(b.text for b in blocks("toml") if b.page == "streams.md"))
    sold = [{"store": "1", "dept": "2", "sold_at": f"2025-10-{day}T10:00:00+01:00", "amount": 5} for day in (27, 31)]
    broker.send(settings["kafka_topic"], [*sold, "no transaction"])
    yield {
        "FORECAST_KAFKA_SERVERS": broker.servers,
        "FORECAST_KAFKA_TOPIC": settings["kafka_topic"],
        "FORECAST_TIME_ZONE": settings["time_zone"],
        "FORECAST_COLUMNS": json.dumps(settings["columns"]),
    }
    del broker  # it lives until here


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FORECAST_", "DAGSTER_"))}
    given = {**clean, "OMP_NUM_THREADS": "1", **QUICK, **environment}
    done = python("-m", "forecast_platform.cli", *arguments, cwd=folder, env=given)
    assert done.returncode == 0, f"forecast {shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", sorted({b.page for b in blocks("sh") if b.not_run is None}, key=str.lower))
def test_commands_run_as_they_are_written(
    page: str, made_home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = request.getfixturevalue("transactions") if page == "streams.md" else {}
    shutil.copytree(made_home, tmp_path / ".forecast")
    history = made_home / "landing/sales/sales_history.csv.gz"
    (tmp_path / "sales.csv").write_bytes(gzip.decompress(history.read_bytes()))
    for block in blocks("sh"):
        if block.page == page and block.not_run is None:
            for call in calls(block, tmp_path):
                assert call.arguments[0].endswith("forecast"), f"{block}: {call.arguments[0]} is not run here"
                run(call.arguments[1:], tmp_path, {**environment, **call.environment})


@pytest.mark.parametrize("block", [b for b in blocks("sh") if b.not_run is not None], ids=str)
def test_commands_that_are_not_run_exist(block: Block, tmp_path: Path) -> None:
    wrong = [(c.arguments, wrong_with(c.arguments, tmp_path, whole=True)) for c in calls(block, tmp_path)]
    assert not [(arguments, why) for arguments, why in wrong if why]


@pytest.mark.parametrize(
    "call",
    [
        ["forecast", "runn"],
        ["forecast", "run", "--wek", "2025-10-24"],
        ["forecast", "landing", "shown", "KEY"],
        [".venv/bin/forecast", "override", "1", "2"],
        ["make", "-s", "demos"],
        ["docker", "compose", "-f", "docker/compos.yaml"],
        ["aws", "cloudformation", "create-change-set", "--import-existing"],
        ["aws", "cloudformation", "wait", "stack-made"],
        ["sudo", "forecast-host", "upgrade"],
        ["python", "-m", "forecast_platform.serverles"],
    ],
)
def test_a_call_that_cannot_work_is_found(call: list[str]) -> None:
    assert wrong_with(call, ROOT, whole=True)


def test_commands_within_sentences_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    Path("model.tar.gz").touch()
    Path("FOLDER").mkdir()
    wrong, seen = [], 0
    for name, page in PAGES.items():
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        for said in re.findall(r"`((?:forecast|make)\s[^`]*)`", text):
            seen += 1
            call = [word for word in shlex.split(said) if word != "..."]
            if why := wrong_with(call, ROOT, whole=False):
                wrong.append((name, said, why))
    assert not wrong
    assert seen > 50


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert not [str(block) for block in blocks() if block.language not in LANGUAGES]
    assert {block.page for block in blocks("python")} == {"python.md"}
    assert sum(page.read_text().count("\n```") for page in PAGES.values()) == 2 * len(blocks())


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_are_read(block: Block, home: Path) -> None:
    home.mkdir()
    (home / "settings.toml").write_text(block.text)
    assert Settings().model_fields_set


def test_sql_is_answered(made_home: Path) -> None:
    for block in blocks("sql"):
        run(["query", block.text], made_home.parent, {"FORECAST_HOME": str(made_home)})


def test_files_are_read() -> None:
    (block,) = blocks("csv")
    parsed = parse_features(block.text.encode(), "features/a.csv", Dialect.named("canonical"), WeekCalendar())
    assert parsed.accepted["name"].to_pylist() == ["promotion", "price", "open_days"]
    assert not parsed.rejected.num_rows
