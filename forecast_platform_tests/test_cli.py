"""The `forecast` command as a person uses it: a process of its own, its output, its exit status, its files."""

import csv
import datetime as dt
import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from types import SimpleNamespace

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecast_platform import demo
from forecast_platform.cli import main
from forecast_platform.cli.landing import conclude
from forecast_platform.cli.running import unread
from forecast_platform.cli.troubles import in_words
from forecast_platform.lake.lake import Lake, any_of
from forecast_platform.landing.ledger import Entry
from forecast_platform.models.leaderboard import Leaderboard
from forecast_platform.settings import get_settings
from forecast_platform_tests import help_texts
from forecast_platform_tests.conftest import made_once
from forecast_platform_tests.processes import python

QUICK = {
    "FORECAST_HYPERPARAMETERS": '{"epochs": "1", "num_cells": "8", "num_networks": "1"}',
    "FORECAST_NUM_SAMPLES": "20",
    "FORECAST_CONTEXT_LENGTH": "4",
    "FORECAST_PREDICTION_LENGTH": "4",
}
# One candidate, where the choice among all, as in the run of `home`, is not what is looked at.
ONE = {**QUICK, "FORECAST_TARGET": "sales"}


def forecast(*args: str, cwd: Path, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FORECAST_", "DAGSTER_"))}
    environment = {**clean, "FORECAST_HOME": str(home), "OMP_NUM_THREADS": "1", **env}
    return python("-m", "forecast_platform.cli", *args, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def retailer() -> demo.MadeUpRetailer:
    return demo.make_retailer(seed=1, stores=3, depts=4, first=dt.date(2023, 9, 1), last=dt.date(2024, 12, 27))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, retailer: demo.MadeUpRetailer) -> Path:
    """A home into which a retailer's files were imported and from which one week was forecast, by commands only."""

    def make(folder: Path) -> None:
        files = demo.history_files(retailer, until=dt.date(2024, 12, 20))
        for name, data in files.items():
            path = folder / Path(name).name
            path.write_bytes(data)
        imported = forecast("import", *[Path(n).name for n in files], cwd=folder, home=folder / "home", **QUICK)
        assert imported.returncode == 0, imported.stderr
        assert "6" in re.search(r"rows quarantined (\d+)", imported.stdout).group(1)  # the dirty rows of the demo
        ran = forecast("run", cwd=folder, home=folder / "home", **QUICK)
        assert ran.returncode == 0, ran.stderr
        assert "forecast from the week of 2024-12-20" in ran.stdout

    made = made_once(tmp_path_factory, "cli", make)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("cli") / "copy")) / "home"


def test_query_formats_agree(home: Path) -> None:
    sql = "SELECT level, count(*) AS n FROM forecasts GROUP BY level ORDER BY level"
    as_json = json.loads(forecast("query", sql, "--format", "json", cwd=home, home=home, **QUICK).stdout)
    text = forecast("query", sql, "--format", "csv", cwd=home, home=home, **QUICK).stdout
    as_csv = list(csv.DictReader(text.splitlines()))
    assert [(r["level"], str(r["n"])) for r in as_json] == [(r["level"], r["n"]) for r in as_csv]
    assert {r["level"] for r in as_json} == {"series", "store", "dept", "total"}


def test_quantiles_of_the_next_weeks_added_up(home: Path) -> None:
    sql = "SELECT p10, p90 FROM latest_lead_time_demand WHERE level = 'total' AND weeks = 3"
    ((want,), (found,)) = (
        json.loads(forecast(*asked, "--format", "json", cwd=home, home=home, **QUICK).stdout)
        for asked in (("query", sql), ("quantiles", "--weeks", "3", "--level", "total", "--above", "1"))
    )
    assert (found["p10"], found["p90"], found["target_week"]) == (want["p10"], want["p90"], "2025-01-10")
    assert found["above"] == pytest.approx(0.9)
    assert "store" not in found
    table = forecast("quantiles", "--weeks", "2", "--store", "1", cwd=home, home=home, **QUICK).stdout
    assert table.splitlines()[0].split()[:4] == ["level", "store", "dept", "target_week"]
    assert len(table.splitlines()) == 2 + 4
    for asked, why in ((("--weeks", "99"), "99 weeks are asked for; forecasts are of 1 to"),
                       (("--weeks", "1", "--store", "x"), "no such forecast"),
                       (("--weeks", "1", "--level", "region"), "no level 'region'")):  # fmt: skip
        refused = forecast("quantiles", *asked, cwd=home, home=home, **QUICK)
        assert (refused.returncode, why in refused.stderr) == (1, True), refused.stderr


def test_importing_the_same_file_again_does_nothing(home: Path) -> None:
    again = forecast("import", str(home.parent / "sales_history.csv.gz"), cwd=home.parent, home=home, **QUICK)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_a_file_that_cannot_be_read_does_not_stop_the_others(home: Path, retailer: demo.MadeUpRetailer) -> None:
    name, data = demo.week_file(retailer, dt.date(2024, 12, 27))
    good, bad = home.parent / Path(name).name, home.parent / "broken.csv.gz"
    good.write_bytes(data)
    bad.write_bytes(b"\x1f\x8b\x08truncated")
    result = forecast("import", str(bad), str(good), cwd=home.parent, home=home, **QUICK)
    assert result.returncode == 1
    assert "broken.csv.gz" in result.stderr
    assert "Traceback" not in result.stderr
    sql = "SELECT max(week) AS week FROM raw_sales"
    weeks = forecast("query", sql, "--format", "json", cwd=home, home=home, **QUICK)
    assert json.loads(weeks.stdout) == [{"week": "2024-12-27"}]


def test_what_runs_in_the_background_of_a_script_can_be_ended_by_sigterm(home: Path) -> None:
    """A shell starts it with Ctrl-C ignored, and Dagster gave SIGTERM the same handler after a run. So did the workers
    that were started then."""
    code = """
import datetime as dt, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from forecast_platform.runner import Runner
with Runner() as runner:
    assert runner.score(dt.date(2024, 12, 20), dt.date(2024, 12, 20)).success
print(signal.getsignal(signal.SIGTERM).name, signal.getsignal(signal.SIGINT).name)
"""
    environment = {**os.environ, "FORECAST_HOME": str(home), **QUICK}
    ran = python("-c", code, cwd=home, env=environment)
    assert ran.stdout.splitlines()[-1:] == ["SIG_DFL SIG_IGN"], ran.stderr


def test_backfill_names_each_week_and_fails_on_the_empty_one(home: Path) -> None:
    done = forecast("backfill", "2024-12-06", "2024-12-13", cwd=home, home=home, **ONE)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(2024-\d\d-\d\d) .* done", done.stdout) == ["2024-12-06", "2024-12-13"]
    failed = forecast("backfill", "2025-01-03", "2025-01-03", cwd=home, home=home, **ONE)
    assert failed.returncode == 1
    assert "week_complete" in failed.stdout
    asked = forecast("query", "SELECT week, job, message FROM open_failures", "--format", "json", cwd=home, home=home)
    (row,) = json.loads(asked.stdout)
    assert (row["week"], row["job"]) == ("2025-01-03", "weekly_forecast")
    assert "week_complete" in row["message"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("query", "SELECT nope FROM forecasts"), "nope"),
        (("query", "SELECT * FROM read_csv('/etc/passwd')"), "Error"),
        (("run", "--week", "2024-12-21"), "weeks end on Friday"),
        (("run", "--week", "yesterday"), "YYYY-MM-DD"),
        (("run", "--week", "2999-12-27"), "the week of 2999-12-27 is still to come"),
        (("run", "--week", "2020-01-03"), "lies before the data, which begin with the week of 2023-09-01"),
        (("run", "--week", "1999-01-01"), "lies before the data"),
        (("backfill", "2024-12-13", "2999-12-27"), "is still to come"),
        (("backfill", "2020-01-03", "2024-12-13"), "lies before the data"),
        (
            ("override", "1", "1", "2024-12-27", "5", "--reason", "r", "--author", "a", "--expires", "soon"),
            "YYYY-MM-DD",
        ),
        (("backfill", "2024-12-20", "2024-12-13"), "earlier week first"),
        (("import", "--preset", "nosuch", __file__), "walmart"),
        (("backtest", "--data", ".", "--cutoff", "2024-12-20"), "no sales file"),
    ],
)
def test_errors_say_what_to_do(args: tuple[str, ...], says: str, home: Path, tmp_path: Path) -> None:
    result = forecast(*args, cwd=tmp_path, home=home, **QUICK)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("weeks", "cutoff", "says"),
    [
        (3, "2023-12-29", "cutoff 2023-12-29 must lie from 2024-01-05 to 2024-01-12"),
        (40, "2030-01-04", "must lie from 2024-01-05 to 2024-09-27"),
        (3, "2024-01-12", "give a later cutoff or a longer history"),
        (1, "2024-01-05", "the data hold one week"),
        (34, "2024-08-16 --set target=sales", "DeepAR needs at least 300"),  # other candidates need less
    ],
)
def test_a_backtest_with_too_little_data_says_what_is_missing(
    weeks: int,
    cutoff: str,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        f"{s},{d},{dt.date(2024, 1, 5) + dt.timedelta(weeks=w)},{100 + w % 7}"
        for w in range(weeks)
        for s in "12"
        for d in "ab"
    ]
    (tmp_path / "sales.csv").write_text("\n".join(["store,dept,date,weekly_sales", *rows, ""]))
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["backtest", "--data", str(tmp_path), "--horizon", "4", "--cutoff", *cutoff.split()])
    assert ended.value.code == 1
    assert says in capsys.readouterr().err


@pytest.fixture(autouse=True)
def settings_of_each_test():
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def told(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a command in this process; for those that never reach the graph."""
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_home_that_is_no_folder_is_named(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "file" / "home"))
    code, _, err = told("query", "SELECT 1", capsys=capsys)
    assert (code, err.startswith(f"Error: {tmp_path}")) == (1, True)
    assert "does FORECAST_HOME name a folder?" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('wek_ends = "SUN"', "unknown setting wek_ends in {path}; did you mean week_ends?"),
        ("week_ends = SUN", "{path} is no TOML: Invalid value (at line 1, column 13)"),
        ("complete_share = 2", "complete_share, set in {path}, is 2: Input should be less than or equal to 1"),
    ],
)
def test_a_wrong_settings_file_is_named(text: str, says: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    (tmp_path / "settings.toml").write_text(text + "\n")
    code, _, err = told("query", "SELECT 1", capsys=capsys)
    assert code == 1
    assert err.startswith("Error: the settings are not right\n  " + says.format(path=tmp_path / "settings.toml"))


def test_an_unknown_variable_ends_every_command(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    monkeypatch.setenv("FORECAST_WEEK_END", "SUN")
    code, _, err = told("query", "SELECT 1", capsys=capsys)
    assert code == 1
    assert "unknown setting FORECAST_WEEK_END in the environment; did you mean FORECAST_WEEK_ENDS?" in err


def test_a_damaged_catalog_is_named(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "catalog.db").write_text("this was a database once " * 100)
    code, _, err = told("query", "SELECT 1 FROM forecasts", capsys=capsys)
    assert code == 1
    assert "lake/catalog.db" in err
    assert "file is not a database; the file is damaged" in err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/home/lake/x.parquet"),
            "/home/lake/x.parquet: No space left",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (
            OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
            "free some space",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/root/.forecast"), "give this user the right to it"),
        (OSError(errno.EROFS, "Read-only file system", "/srv"), "set FORECAST_HOME to a folder"),
        (sqlite3.OperationalError("database or disk is full"), "free some space"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "give this user the right to it"),
        (KeyError("ours"), None),
    ],
)
def test_errors_of_the_machine_come_with_their_remedy(error: Exception, says: str | None) -> None:
    text = in_words(error, "/home")
    assert (text is None) if says is None else says in (text or "")


def test_a_file_that_waits_or_was_refused_before_is_no_success(capsys) -> None:
    now = dt.datetime(2025, 1, 6, tzinfo=dt.UTC)
    for status in ("waiting", "refused"):
        held = Entry("sales/a.csv", "1", "sales", now, status)
        for news in ([held], []):  # landed now, or before and not mended since
            with pytest.raises(click.ClickException, match="1 of 1 files were refused"):
                conclude([held], news, 0, 1, True)
    known = Entry("sales/a.csv", "1", "sales", now, "ingested", accepted=5)
    conclude([known], [], 0, 1, True)
    assert "in the lake already; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("landed", "refused", "says", "fails"),
    [
        ([(5, 0)], 0, "Next: forecast run\n", False),
        ([(5, 2)], 0, "2 of 7 rows were refused", False),
        ([(0, 7)], 0, "none of the 7 rows could be taken in", True),
        ([(5, 0)], 1, "1 of 2 files were refused; the reasons are above; the others went through", True),
        ([], 2, "2 of 2 files were refused; the reasons are above", True),
        ([], 0, "", False),
    ],
)
def test_the_last_line_of_an_import_is_true(landed, refused, says, fails, capsys) -> None:
    now = dt.datetime(2025, 1, 6, tzinfo=dt.UTC)
    rows = [Entry("sales/a.csv", "1", "sales", now, "ingested", accepted=a, quarantined=q) for a, q in landed]
    files = len(rows) + refused
    if fails:
        with pytest.raises(click.ClickException) as error:
            conclude(rows, rows, refused, files, True)
        assert str(error.value).startswith(says)
        assert "Next: forecast run" not in capsys.readouterr().out
    else:
        conclude(rows, rows, refused, files, True)
        assert capsys.readouterr().out.startswith(says)


def test_an_import_of_nothing_readable_fails(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("store,dept,date,weekly_sales\n1,1,2024-12-20,abc\n1,2,2024-12-20,1O\n")
    result = forecast("import", "bad.csv", cwd=tmp_path, home=home, **QUICK)
    assert result.returncode == 1
    assert "Next: forecast run" not in result.stdout
    assert "Traceback" not in result.stderr


def test_a_forecast_says_which_files_it_is_without(tmp_path: Path) -> None:
    lake = Lake.local(tmp_path / "lake", ("p10", "p50", "p90"))
    day = dt.datetime(2025, 1, 7, tzinfo=dt.UTC)

    def land(key: str, hours: int, status: str = "ingested", quarantined: int = 0, message: str | None = None) -> None:
        when = day + dt.timedelta(hours=hours)
        row = {"source_key": key, "source_version": str(hours), "landed_at": when, "arrived_at": when, "status": status}
        row |= {"rows": 9, "accepted": 9 - quarantined, "quarantined": quarantined, "message": message}
        rows = pa.Table.from_pylist([row], schema=lake.specs["landings"].schema)
        lake.replace("landings", any_of("landed_at", [when.isoformat()]), rows)

    runner = SimpleNamespace(platform=SimpleNamespace(lake=lake))
    assert unread(runner) == ""
    land("sales/good.csv", 1)
    land("sales/mended.csv", 2, "refused", message="lacks a column")
    land("sales/mended.csv", 3)
    assert unread(runner) == ""
    land("sales/part.csv", 4, quarantined=2)
    assert "sales/part.csv had 2 of 9 refused" in unread(runner)
    land("sales/bad.csv", 5, "refused", message="lacks the column dept")
    told = unread(runner)
    assert "sales/bad.csv was refused (lacks the column dept), and 1 more files with refused rows" in told
    published = {"forecast_week": dt.date(2025, 1, 3), "level": "total", "created_at": day + dt.timedelta(hours=6)}
    forecasts = pa.Table.from_pylist([published], schema=lake.specs["forecasts"].schema)
    lake.replace_weeks("forecasts", [dt.date(2025, 1, 3)], forecasts)
    assert unread(runner) == "", "said after the forecast that followed, once is enough"


def test_what_help_says_is_changed_on_purpose_only() -> None:
    told = "the help of a command changed; if it was to: python -m forecast_platform_tests.help_texts"
    assert help_texts.FILE.read_text() == help_texts.help_texts(), told


def test_doctor_passes_on_a_sound_home_and_names_a_bad_setting(home: Path) -> None:
    sound = forecast("doctor", cwd=home, home=home, **QUICK)
    assert sound.returncode == 0, sound.stdout
    names = ["versions", "torch", "home", "contract", "words", "landing", "lake", "upgrade"]
    assert [line.split()[:2] for line in sound.stdout.splitlines()] == [["ok", name] for name in names]
    french = forecast("doctor", cwd=home, home=home, **QUICK, FORECAST_LOCALE="fr_FR", FORECAST_MONEY="EUR")
    assert "texts in English (there are no texts in the language of fr_FR" in french.stdout
    assert "12\N{NARROW NO-BREAK SPACE}345\N{NO-BREAK SPACE}€" in french.stdout
    bad = forecast("doctor", cwd=home, home=home, **{**QUICK, "FORECAST_COMPLETE_SHARE": "2"})
    assert bad.returncode == 1
    assert "FORECAST_COMPLETE_SHARE" in bad.stderr


def test_backtest_of_a_sunday_retailer_with_other_names(tmp_path: Path) -> None:
    first = dt.date(2022, 1, 2)
    with (tmp_path / "umsatz.csv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["Filiale", "Gruppe", "Woche", "Umsatz"])
        for week in range(100):
            for store in ("A1", "B2"):
                for dept in ("Food", "Toys"):
                    sales = 100 + 10 * (dept == "Toys") + week % 7
                    rows.writerow([store, dept, f"{first + dt.timedelta(weeks=week):%d.%m.%Y}", sales])
    result = forecast(
        "backtest",
        "--data",
        str(tmp_path),
        "--week-ends",
        "SUN",
        "--column",
        "store=Filiale",
        "--column",
        "dept=Gruppe",
        "--column",
        "date=Woche",
        "--column",
        "weekly_sales=Umsatz",
        "--date-format",
        "%d.%m.%Y",
        "--delimiter",
        ";",
        "--cutoff",
        "2023-11-05",
        "--horizon",
        "4",
        "--json",
        "scores.json",
        "--forecasts",
        "f.parquet",
        cwd=tmp_path,
        home=tmp_path / "home",
        **ONE,
    )
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["deepar"]["2023-11-05"]["wape"] > 0
    assert scores["seasonal_naive"]["2023-11-05"]["series"] == 4
    rows = pq.read_table(tmp_path / "f.parquet")
    assert set(rows.column_names) >= {"model", "cutoff", "store", "dept", "target_week", "p10", "p50", "p90"}
    assert {d.weekday() for d in rows["target_week"].to_pylist()} == {6}
    assert len(rows) == 3 * 4 * 4  # three models, four series, four weeks


@pytest.fixture(scope="module")
def wednesday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a Wednesday retailer: sales, features by store, others by department, a calendar, and a note."""
    folder = tmp_path_factory.mktemp("wednesday")
    weeks = [dt.date(2022, 1, 5) + dt.timedelta(weeks=w) for w in range(104)]
    pairs = [(s, d) for s in "12" for d in "ab"]
    files = {
        "sales.csv": ["store,dept,date,weekly_sales", *(f"{s},{d},{w},1{w.day}" for w in weeks[:90] for s, d in pairs)],
        "planned.csv": ["store,date,promo,open_days,rain", *(f"{s},{w},{w.day % 2},6,3" for w in weeks for s in "12")],
        "calendar.csv": ["name,date", "Fair,2022-06-02", "Fair,2023-06-09"],
        "features/prices.csv": ["store,dept,date,price", *(f"{s},{d},{w},{9.5}" for w in weeks[:95] for s, d in pairs)],
        "notes.csv": ["week,note", "2022-01-05,opened"],
    }  # fmt: skip
    for name, lines in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join([*lines, ""]))
    return folder


def backtest_of(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    week = ("--week-ends", "WED", "--cutoff", "2023-08-02", "--horizon", "4")
    return forecast("backtest", "--data", str(folder), *week, *options, cwd=folder, home=folder / "home", **ONE)


def test_backtest_says_what_of_the_folder_it_uses_as_what(wednesday: Path) -> None:
    result = backtest_of(wednesday, "--json", "scores.json")
    assert result.returncode == 0, result.stderr
    assert (
        "covariates open_days (known), price (known), promo (known); exposure open_days; not used rain; holidays Fair\n"
        in result.stderr
    )
    for line in ("planned.csv: features, 208 rows, 0 rejected", "prices.csv: features, 380 rows", "calendar.csv: "):
        assert line in result.stderr
    assert "not read: notes.csv is neither sales" in result.stderr
    assert json.loads((wednesday / "scores.json").read_text())["deepar"]["2023-08-02"]["wape"] > 0


def test_backtest_with_columns_of_ones_own(
    wednesday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from forecast_platform.cli.backtest import declared, read_folder
    from forecast_platform.settings import Settings

    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    covariates = declared("known", ("promo=0", "price = last")) | declared("past", ("rain",))
    assert covariates == {"promo": "known:0", "price": "known:last", "rain": "past"}
    panel = read_folder(wednesday, Settings(week_ends="WED", covariates=covariates, exposure="open_days"))
    says = "covariates promo (known, else 0), price (known, else last), rain (past); exposure open_days; holidays Fair"
    assert says in capsys.readouterr().err
    assert panel.covariates is not None
    assert panel.covariates.values.shape == (3, 4, 104)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--known", "prmo"), "the columns that landed are open_days, price, promo, rain; land it under features/"),
        (("--known", "promo=soon"), "promo is declared as 'known:soon'; write known, known:0"),
        (("--past", "days", "--exposure", "days"), "days is the exposure and must be known ahead"),
        (("--country", "Germany"), "country, set in an option or argument, is 'Germany'"),
        (("--country", "XX"), "write an ISO code such as US"),
    ],
)
def test_a_wrong_declaration_says_what_to_write(wednesday: Path, options: tuple[str, ...], says: str) -> None:
    result = backtest_of(wednesday, *options)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_leaderboard_of_what_landed_is_kept_in_the_home(home: Path, tmp_path: Path) -> None:
    asked = ("--cutoff", "2024-11-15", "--candidate", "recent_level", "--candidate", "sales, counts", "--horizon", "4")
    result = forecast(
        "backtest", *asked, "--json", "b.json", "--forecasts", "f.parquet", cwd=tmp_path, home=home, **ONE
    )
    assert result.returncode == 0, result.stderr
    assert "sales up to the week of 2024-12-2" in result.stderr
    assert "recent_level at 2024-11-15: WAPE" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "candidate",
        "WAPE",
        "wQL",
        "cover80",
        "regret",
        "best",
        "at",
        "cutoffs",
        "cells",
        "CPU",
        "s",
    ]
    assert {line.split("  ")[0] for line in lines[2:4]} == {"served", "recent_level"}
    assert "sales, counts at 2024-11-15: sales are not small whole numbers" in lines
    board = Leaderboard.load(home)
    assert board
    assert board.command == (
        "forecast backtest --cutoff 2024-11-15 --candidate recent_level --candidate 'sales, counts' --horizon 4 "
        "--json b.json --forecasts f.parquet"
    )
    assert board.data == str(home)
    assert "its WAPE / wQL are" in board.decisions[0].why
    assert "from store to store" in board.decisions[0].why
    scores = json.loads((tmp_path / "b.json").read_text())
    for name in ("deepar", "recent_level"):
        whole = board.tally(name)
        assert whole
        assert scores[name]["2024-11-15"]["wql"] == pytest.approx(whole.wql)
    assert scores["leaderboard"] == board.to_json()
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()
    assert {row["model"] for row in rows} == {"deepar", "recent_level"}
    assert len(rows) == 2 * 4 * 12


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--cutoff", "2024-11-15", "--cutoffs", "3"), "name the cutoffs, --cutoff WEEK for each, or how many"),
        ((), "name the cutoffs, --cutoff WEEK for each, or how many: --cutoffs 6"),
        (("--cutoffs", "3", "--candidate", "luck"), "no candidate 'luck'; there are all, 'sales', 'sales, lag skip'"),
        (("--cutoffs", "3", "--delimiter", ";"), "delimiter: how files are read, and there are none"),
        (("--cutoffs", "3"), "; land some with forecast import, or give --data FOLDER"),
    ],
)
def test_what_cannot_be_backtested_is_said(args, says, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    code, _, err = told("backtest", *args, capsys=capsys)
    assert code in (1, 2)
    assert says in err.replace("\n", " ")
    assert not (tmp_path / "home").exists()


def test_deepar_alone_trains_and_predicts_json_lines(tmp_path: Path) -> None:
    lines = [
        {"start": "2020-01-05 00:00:00", "target": [10 + i + t % 5 for t in range(60)], "cat": [i % 2]}
        for i in range(8)
    ]
    (tmp_path / "train.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained = forecast(
        "deepar",
        "train",
        "--train",
        "train.json",
        "-p",
        "time_freq=1W",
        "-p",
        "context_length=4",
        "-p",
        "prediction_length=4",
        "-p",
        "epochs=2",
        cwd=tmp_path,
        home=tmp_path / "home",
    )
    assert trained.returncode == 0, trained.stderr
    assert "#quality_metric: host=algo-1, epoch=1, train loss <loss>=" in trained.stderr
    predicted = forecast(
        "deepar",
        "predict",
        "train.json",
        "out.jsonl",
        "--config",
        '{"num_samples": 10, "quantiles": ["0.5", "0.9"]}',
        cwd=tmp_path,
        home=tmp_path / "home",
    )
    assert predicted.returncode == 0, predicted.stderr
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(answers) == len(lines)
    assert set(answers[0]["quantiles"]) == {"0.5", "0.9"}
    assert len(answers[0]["mean"]) == 4


def test_every_command_has_help_and_the_readme_names_only_real_ones(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    named = set(re.findall(r"(?m)(?:^|`|\(|bin/)forecast ([a-z]+)", readme))
    listed = forecast("--help", cwd=tmp_path, home=tmp_path).stdout.split("Commands:")[1]
    commands = set(re.findall(r"^  ([a-z]+) ", listed, flags=re.MULTILINE))
    assert named <= commands
    assert commands - named == set(), "a command the README does not name"
    assert not re.findall(r"^  [a-z]+\s*$", listed, flags=re.MULTILINE), "a command without help"
