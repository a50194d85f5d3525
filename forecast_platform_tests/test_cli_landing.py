"""`forecast landing` and a home as one thing (`backup`, `restore`, `move`), as commands, over one small retailer."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from forecast_platform.lake.lake import Lake
from forecast_platform_tests.test_cli import forecast

WEEKS = [dt.date(2024, 10, 4) + dt.timedelta(weeks=k) for k in range(6)]
KEYS = [(store, dept) for store in ("1", "2") for dept in ("1", "2", "3")]


def sales(weeks: list[dt.date], base: int, keys: list[tuple[str, str]] = KEYS) -> str:
    """Sales that a file is told by: base plus its cell's number."""
    cells = [(s, d, w) for w in weeks for s, d in keys]
    return "store,dept,date,weekly_sales\n" + "".join(
        f"{s},{d},{w},{base + 10 * KEYS.index((s, d)) + WEEKS.index(w)}\n" for s, d, w in cells
    )


def total(home: Path, week: dt.date) -> float:
    rows = Lake.local(home / "lake", ("p10", "p50", "p90")).query(
        "SELECT sum(sales) AS total FROM cleaned_series WHERE observed AND week = ?", [week]
    )
    return float(rows["total"][0].as_py())


def test_what_people_decide_about_files_is_done_and_recorded(tmp_path: Path) -> None:
    home, last = tmp_path / "home", WEEKS[-1]

    def ask(*args: str, fails: bool = False) -> str:
        done = forecast(*args, cwd=tmp_path, home=home)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    for name, text in {
        "year.csv": sales(WEEKS, 1000),
        "mended.csv": sales([last], 2000),
        "short.csv": sales([last], 3000, KEYS[:1]),  # of store 1 one of its three departments
    }.items():
        (tmp_path / name).write_text(text)
    ask("import", "year.csv", "mended.csv")
    mended = sum(2000 + 10 * k + 5 for k in range(6))
    assert total(home, last) == mended

    # One that would take two thirds of a store's week away waits, and nothing of it counts.
    said = ask("import", "short.csv", fails=True)
    assert "forecast landing accept sales/short.csv" in said
    said = ask("landing", "list")
    assert [line.split()[1] for line in said.splitlines() if line.startswith("sales/")] == [
        "waiting", "ingested", "ingested",
    ]  # fmt: skip
    assert total(home, last) == mended
    assert "did you mean sales/short.csv" in ask("landing", "accept", "sales/shrt.csv", "--reason", "x", fails=True)
    ask("landing", "accept", "sales/short.csv", "--reason", "closed for good", "--author", "ana")
    assert total(home, last) == 3005 + sum(2000 + 10 * k + 5 for k in range(3, 6))
    assert "does not wait" in ask("landing", "accept", "sales/short.csv", "--reason", "x", fails=True)

    # Withdrawn, what it had overridden counts again; both decisions stay on record.
    said = ask("landing", "withdraw", "sales/short.csv", "--reason", "a mistake", "--author", "ben")
    assert "2 appeared" in said
    assert "1 changed" in said
    assert total(home, last) == mended
    said = ask("landing", "show", "sales/short.csv")
    assert "a mistake" in said
    assert "ben" in said
    assert "withdrawn" in said
    assert "was withdrawn" in ask("landing", "reread", "sales/short.csv", fails=True)

    # A home comes back from its backup elsewhere, and moves: as it was, and on its own.
    ask("backup", "home.tar.gz")
    ask("restore", "home.tar.gz", "--home", "restored")
    ask("move", "moved")
    assert not home.exists()
    assert total(tmp_path / "moved", last) == total(tmp_path / "restored", last) == mended
    home = tmp_path / "moved"
    ask("landing", "withdraw", "sales/mended.csv", "--reason", "gone", "--author", "ana")
    assert total(home, last) == sum(1000 + 10 * k + 5 for k in range(6))
    assert total(tmp_path / "restored", last) == mended


def test_a_withdrawal_needs_a_reason(tmp_path: Path) -> None:
    done = forecast("landing", "withdraw", "sales/x.csv", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 2
    assert "--reason" in done.stderr
