"""`forecast import` of files of unknown shape: without a terminal, with --yes, and with a terminal that answers."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from forecast_platform.cli.guide import guide
from forecast_platform.lake.lake import Lake
from forecast_platform.settings import Settings, get_settings, write
from forecast_platform_tests.landing.field_cases import (
    AMERICAN,
    EUROS,
    HEAD,
    SIGNS,
    TILL,
    TRANSACTIONS,
    days_of,
    weeks_from,
)
from forecast_platform_tests.test_cli import forecast

SATURDAYS = HEAD + weeks_from("2026-10-17", [100, 101, 102])
BAKER = (HEAD + "1,B\u00e4cker,2026-11-20,5\n").encode("cp1252")


@pytest.fixture(autouse=True)
def _settings_of_this_test() -> Iterator[None]:
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def in_lake(home: Path) -> list[float | None]:
    rows = Lake.local(home / "lake", ("p10", "p50", "p90")).query(
        "SELECT sales FROM raw_sales ORDER BY week, store, dept, line"
    )
    return rows["sales"].to_pylist()


def proposed(stdout: str) -> str:
    """The settings that a command printed."""
    return stdout[stdout.index("# settings.toml for") :]


def answered(text: str, *answers: str) -> str:
    """The same with the # taken from some lines."""
    for answer in answers:
        assert f"# {answer}" in text, text
        text = text.replace(f"# {answer}", answer)
    return text


@pytest.mark.parametrize(
    ("data", "before", "answers", "sales"),
    [
        (TILL, "", [], [1234.56, 1234, 850, 12500, 0.5]),
        (EUROS, "", ['decimal = ","'], [1234, 1250, 998, 1410]),
        (HEAD + days_of("2026-10-31", 21), "", [], [70, 70, 70]),
        (TRANSACTIONS, "", ['aggregate = "sum"'], [29.97, 12]),
        (BAKER, "", [], [5]),
        (SATURDAYS, "", ['week_ends = "SAT"'], [100, 101, 102]),
        (AMERICAN, 'preset = "walmart"  # kept\n', [], [1000 + i for i in range(52)]),
    ],
    ids=["till", "euros", "days", "transactions", "encoding", "weekday", "us dates"],
)
def test_what_is_printed_without_a_terminal_reads_the_file(
    data: str | bytes, before: str, answers: list[str], sales: list[float], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "settings.toml").write_text(before)
    (tmp_path / "sales.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
    first = forecast("import", "sales.csv", cwd=tmp_path, home=home)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "Traceback" not in first.stderr
    text = proposed(first.stdout)
    if answers:
        assert set(tomllib.loads(text)).isdisjoint(answer.split(" = ")[0] for answer in answers), "it is asked"
    else:
        assert "as understood" in first.stderr
    (home / "settings.toml").write_text(before + answered(text, *answers))
    again = forecast("import", "sales.csv", cwd=tmp_path, home=home)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "# settings.toml" not in again.stdout
    assert in_lake(home) == pytest.approx(sales)


def test_yes_takes_what_a_file_decides_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "settings.toml").write_text('# ours\nprediction_length = 4  # weeks\n\n[hyperparameters]\nepochs = "1"\n')
    (tmp_path / "till.csv").write_text(TILL)
    done = forecast("import", "--yes", "till.csv", cwd=tmp_path, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert in_lake(home) == pytest.approx([1234.56, 1234, 850, 12500, 0.5])
    text = (home / "settings.toml").read_text()
    assert text.startswith("# ours\nprediction_length = 4  # weeks\n")
    assert tomllib.loads(text) == {
        "prediction_length": 4,
        "delimiter": ";",
        "date_format": "%d.%m.%Y",
        "decimal": ",",
        "hyperparameters": {"epochs": "1"},
    }
    # What is not decided is not taken; and a home reads one kind of file.
    (tmp_path / "tx.csv").write_text(TRANSACTIONS.replace(",", "|"))
    done = forecast("import", "--yes", "tx.csv", cwd=tmp_path, home=home)
    assert done.returncode == 1
    assert "A home reads one kind of file" in done.stderr
    assert (home / "settings.toml").read_text() == text
    other = tmp_path / "other"
    done = forecast("import", "--yes", "tx.csv", cwd=tmp_path, home=other)
    assert done.returncode == 1
    assert '# aggregate = "last"' in done.stdout
    assert not (other / "settings.toml").exists()


@pytest.mark.parametrize("column", ["Netto", "revenue_net", "foo"])
def test_a_first_file_of_stores_weeks_and_figures_is_not_taken_for_features_in_silence(
    column: str, tmp_path: Path
) -> None:
    """It landed as what is known beside sales, "Next: forecast run", and no sales were there to forecast."""
    rows = [f"{store},2026-{day},{100 + store}" for day in ("10-30", "11-06") for store in (1, 2)]
    (tmp_path / "week.csv").write_text("\n".join([f"store,date,{column}", *rows, ""]))
    home = tmp_path / "home"
    asked = forecast("import", "week.csv", cwd=tmp_path, home=home)
    assert (asked.returncode, "forecast import --kind features week.csv" in asked.stderr) == (1, True), asked.stderr
    assert not home.exists()
    home.mkdir()
    (home / "settings.toml").write_text(answered(proposed(asked.stdout), f'columns = {{weekly_sales = "{column}"}}'))
    taken = forecast("import", "week.csv", cwd=tmp_path, home=home)
    assert (taken.returncode, taken.stdout.splitlines()[-1]) == (0, "Next: forecast run"), taken.stdout
    assert in_lake(home) == [101, 102, 101, 102]
    # Beside sales the same shape is what it looks like; and where a person says so, it is so from the first.
    (tmp_path / "rain.csv").write_text((tmp_path / "week.csv").read_text().replace(column, "rain"))
    beside = forecast("import", "rain.csv", cwd=tmp_path, home=home)
    assert "landed rain.csv as features/rain.csv" in beside.stdout
    first = forecast("import", "--kind", "features", "rain.csv", cwd=tmp_path, home=tmp_path / "other")
    assert first.stdout.splitlines()[-1] == "Next: forecast import FILE with sales, of which there are none yet"


@pytest.mark.parametrize(
    ("columns", "settings", "asked"),
    [
        ("rain,promo", "", False),
        ("rain,net_revenue", "", True),
        ("rain", 'covariates = {rain = "known:0"}\n', False),
        ("rain,net_revenue", 'covariates = {net_revenue = "past", rain = "past"}\n', False),
    ],
)
def test_what_is_known_beside_sales_may_come_first(columns: str, settings: str, asked: bool, tmp_path: Path) -> None:
    """Several columns none of which speaks of sales, or columns that are declared, are no sales."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "settings.toml").write_text(settings)
    values = ",".join("7" * (columns.count(",") + 1))
    (tmp_path / "beside.csv").write_text(f"store,date,{columns}\n1,2026-10-30,{values}\n1,2026-11-06,{values}\n")
    told = forecast("import", "beside.csv", cwd=tmp_path, home=home)
    assert told.returncode == asked, told.stderr
    assert ("may hold sales" in told.stderr) == asked
    assert (home / "landing" / "features" / "beside.csv").exists() != asked


def test_on_a_terminal_a_first_file_becomes_sales_or_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "week.csv").write_text("store,date,Netto\n1,2026-10-30,100\n1,2026-11-06,101\n")
    said = on_a_terminal(["import", "week.csv"], [("Answer", "0")], tmp_path, tmp_path / "none", fails=True)
    assert "week.csv is left out" in said
    home = tmp_path / "home"
    on_a_terminal(["import", "week.csv"], [("Answer", "1"), ("a setting to change", "yes")], tmp_path, home)
    assert in_lake(home) == [100, 101]


def test_a_terminal_asks(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "signs.csv").write_text(SIGNS)
    said = on_a_terminal(
        ["import", "signs.csv"],
        [("Answer", "9"), ("Answer", "1"), ("a setting to change", "currency"), ("currency =", "$ EUR"),
         ("a setting to change", "yes")],
        tmp_path,
        home,
    )  # fmt: skip
    assert "What does '-' mean" in said
    assert tomllib.loads((home / "settings.toml").read_text())["currency"] == "$ EUR"
    assert sorted(in_lake(home), key=lambda v: (v is None, v)) == pytest.approx(
        [-100, -55.1, -5, 1234.5, 1234.5, None, None]
    )


def test_a_terminal_that_says_no_leaves_everything(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "sales.csv").write_text(SATURDAYS)
    said = on_a_terminal(["import", "sales.csv"], [("Answer", "0")], tmp_path, home, fails=True)
    assert "nothing was imported" in said
    assert not home.exists()


def on_a_terminal(
    arguments: list[str], answers: list[tuple[str, str]], folder: Path, home: Path, fails: bool = False
) -> str:
    """What a command says to a terminal on which, after each of some words, something is typed."""
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FORECAST_", "DAGSTER_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "forecast_platform.cli", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, close_fds=True,
        env={**clean, "FORECAST_HOME": str(home), "TERM": "dumb", "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    os.close(theirs)
    said, seen, wanted, until = "", 0, list(answers), time.monotonic() + 240
    try:
        while time.monotonic() < until:
            if select.select([ours], [], [], 1)[0]:
                try:
                    part = os.read(ours, 1 << 16)
                except OSError:  # it has ended
                    break
                if not part:
                    break
                said += part.decode(errors="replace")
            if wanted and wanted[0][0] in said[seen:] and re.search(r"[:=] ?$", said):
                seen = len(said)
                os.write(ours, f"{wanted.pop(0)[1]}\n".encode())
    finally:
        if process.poll() is None and time.monotonic() >= until:
            process.kill()
        process.wait()
        os.close(ours)
    assert not wanted, said
    assert (process.returncode != 0) == fails, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_settings_are_added_to_what_is_there(end: str, home: Path) -> None:
    home.mkdir()
    before = end.join(
        ["\ufeff# mine", 'week_ends = "SUN"  # Sundays', "", "[columns]", 'store = "Filiale"  # shops', ""]
    )
    (home / "settings.toml").write_bytes(before.encode())
    write({"week_ends": "SAT", "columns": {"store": "Filiale", "dept": "Sparte"}, "missing": {"": ("NA", "-")}})
    text = (home / "settings.toml").read_bytes().decode()
    assert text.startswith(f"\ufeff# mine{end}")
    for kept in ("# Sundays", 'store = "Filiale"  # shops', 'week_ends = "SAT"'):
        assert kept in text
    read = Settings()
    assert read.columns == {"store": "Filiale", "dept": "Sparte"}
    assert read.missing == {"": ("NA", "-")}


def test_what_the_environment_says_is_not_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_DECIMAL", ".")
    with pytest.raises(Exception, match="FORECAST_DECIMAL"):
        write({"decimal": ","})
    assert not (home / "settings.toml").exists()


def test_files_of_one_kind_are_each_proposed_for(home: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "tidy.csv", tmp_path / "c.csv"]
    for file in files:
        file.write_text(HEAD + "1,a,2026-11-20,5\n" if file.stem == "tidy" else TILL)
    landing, proposals = guide(files, None, yes=False)
    assert landing == files
    assert [proposal.key for proposal in proposals] == ["a.csv", "b.csv"], (
        "c.csv would need what tidy.csv cannot be read by"
    )
    assert guide(files[:2], None, yes=True) == (files[:2], []), "the second is read by what the first decided"
    assert tomllib.loads((home / "settings.toml").read_text())["decimal"] == ","
