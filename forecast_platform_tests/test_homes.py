"""Backup, restore and move: what comes back is what was there, at one moment, or there is nothing at all.

The processes that die do so by SIGKILL at named points, forked from another (forecast_platform_tests/processes.py).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forecast_platform import homes
from forecast_platform.homes import HomeError, backup, move, restore
from forecast_platform.lake.lake import Lake
from forecast_platform.lake.maintenance import maintain
from forecast_platform.lake.tables import LakeError
from forecast_platform_tests.lake.conftest import QUANTILES, content, forecast_rows, one_week, tree, week
from forecast_platform_tests.processes import forked

TABLE = "cleaned_series"
PACKED = ["b.tar", "b.tar.gz", "b.tar.zst"]


def opened(home: Path) -> Lake:
    return Lake.local(home / "lake", QUANTILES)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with tables that were replaced, landed files, a model, a batch and a database as Dagster has them."""
    home = tmp_path_factory.mktemp("template") / "home"
    lake = opened(home)
    for value in (1.0, 2.0):
        lake.replace_weeks(TABLE, [week(0)], one_week(week(0), value))
    lake.replace_weeks("forecasts", [week(0)], forecast_rows(week(0), 1.0))
    for name, text in {
        "settings.toml": 'week_ends = "SUN"\n',
        "landing/sales/Umsätze 2024.csv": "store,dept\n",
        "landing/sales/empty.csv": "",
        "models/abc/training.json": "{}",
        "models/.abc.lock": "",
        "models/def.building/model.tar.gz": "half",
        "transforms/2024-01-05/manifest.parquet": "rows",
        "dagster/dagster.yaml": "telemetry:\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    con = sqlite3.connect(home / "dagster" / "runs.db")
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("CREATE TABLE runs (id INTEGER)")
    con.execute("INSERT INTO runs VALUES (1)")
    con.commit()
    con.close()
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "home"))


def kept(folder: Path) -> dict[str, str]:
    """Files that are to come back byte by byte: all but databases, locks, what was unfinished, and old files."""
    return {
        name: digest
        for name, digest in tree(folder).items()
        if not name.endswith((".db", ".lock", ".in_use", "-wal", "-shm")) and ".building" not in name
    }


@pytest.mark.parametrize("name", PACKED)
def test_what_is_restored_is_what_was_there(home, tmp_path, name):
    before = tree(home)
    seen: list[tuple[str, int, int]] = []
    made = backup(home, tmp_path / name, lambda *told: seen.append(told))
    assert tree(home) == before, "the home is only read"
    assert seen[-1][1] == seen[-1][2] == len(made.files)
    assert made.tables == {TABLE: 5, "forecasts": 2}
    assert made.left_out == {}
    back = restore(tmp_path / name, tmp_path / "deep" / "new")
    assert back == made
    assert kept(tmp_path / "deep" / "new") == kept(home)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["new"]
    shutil.rmtree(home)
    lake = opened(tmp_path / "deep" / "new")
    assert set(content(lake.read(TABLE)).values()) == {2.0}
    assert lake.table(TABLE).metadata.snapshots[0].snapshot_id, "time travel too"
    first = lake.table(TABLE).scan(snapshot_id=lake.table(TABLE).metadata.snapshots[0].snapshot_id).to_arrow()
    assert set(content(first).values()) == {1.0}
    assert lake.replace_weeks(TABLE, [week(1)], one_week(week(1), 3.0))
    with sqlite3.connect(tmp_path / "deep" / "new" / "dagster" / "runs.db") as con:
        assert con.execute("SELECT id FROM runs").fetchall() == [(1,)]
    con.close()


def test_a_backup_while_a_pipeline_writes_holds_one_moment(home, tmp_path):
    """Two tables that a writer keeps equal within one step of each other, many commits a backup."""
    lake, done, stop = opened(home), [], threading.Event()

    def write() -> None:
        writer, value = opened(home), 10
        while not stop.is_set():
            value += 1
            writer.replace_weeks(TABLE, [week(0)], one_week(week(0), float(value)))
            done.append(value)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            count = len(done)
            backup(home, tmp_path / f"{number}.tar")
            while len(done) <= count:
                stop.wait(0.01)
    finally:
        stop.set()
        thread.join()
    for number in range(3):
        restore(tmp_path / f"{number}.tar", tmp_path / str(number))
        values = set(content(opened(tmp_path / str(number)).read(TABLE)).values())
        assert len(values) == 1, "never half a week"
        assert values <= {2.0, *map(float, done)}
    assert set(content(lake.read(TABLE)).values()) == {float(done[-1])}


def test_states_swept_while_they_are_read_start_the_backup_anew(home, tmp_path, monkeypatch):
    """Maintenance that forgets and deletes a state between the catalog's copy and the copy of its files."""
    import datetime as dt

    lake, original, tries = opened(home), homes.Backup._tables, []

    def swept(self: Any) -> Any:
        found = original(self)
        tries.append(1)
        if len(tries) == 1:
            day = dt.timedelta(days=1)
            maintain(lake, keep=day, now=dt.datetime.now(dt.UTC) + 30 * day)
        return found

    monkeypatch.setattr(homes.Backup, "_tables", swept)
    backup(home, tmp_path / "b.tar")
    assert len(tries) == 2
    restore(tmp_path / "b.tar", tmp_path / "new")
    assert set(content(opened(tmp_path / "new").read(TABLE)).values()) == {2.0}


def test_a_file_that_changes_meanwhile_is_left_out_and_named(home, tmp_path):
    growing = home / "landing" / "sales" / "growing.csv"
    growing.write_bytes(b"x" * 4_000_000)

    def grow(what: str, done: int, total: int) -> None:
        if done == 1:
            original = homes.FileReader.read

            def read(self: Any, size: int) -> bytes:
                with open(growing, "ab") as file:
                    file.write(b"y")
                return original(self, size)

            patch.setattr(homes.FileReader, "read", read)

    with pytest.MonkeyPatch.context() as patch:
        made = backup(home, tmp_path / "b.tar", grow)
    assert made.left_out == {"landing/sales/growing.csv": "still being written"}
    restore(tmp_path / "b.tar", tmp_path / "new")
    assert not (tmp_path / "new" / "landing" / "sales" / "growing.csv").exists()
    assert (tmp_path / "new" / "landing" / "sales" / "empty.csv").exists()


def test_links_are_not_followed_and_are_named(home, tmp_path):
    (tmp_path / "secret.csv").write_text("not of this home")
    (home / "landing" / "link.csv").symlink_to(tmp_path / "secret.csv")
    (home / "landing" / "folder").symlink_to(tmp_path)
    made = backup(home, tmp_path / "b.tar")
    assert made.left_out == dict.fromkeys(("landing/link.csv", "landing/folder"), "no file of its own")


# --- refusals


def test_nothing_is_overwritten(home, tmp_path):
    file = tmp_path / "b.tar"
    backup(home, file)
    with pytest.raises(HomeError, match="there already"):
        backup(home, file)
    before = tree(home)
    for target in (home, file):
        with pytest.raises(HomeError, match="holds something already"):
            restore(file, target)
        with pytest.raises(HomeError, match=r"holds something already|lies in the home"):
            move(home, target)
    assert tree(home) == before
    (tmp_path / "empty").mkdir()
    restore(file, tmp_path / "empty")
    (tmp_path / "mine.restoring").mkdir()
    (tmp_path / "mine.restoring" / "precious").write_text("mine")
    with pytest.raises(HomeError, match="in the way"):
        restore(file, tmp_path / "mine")
    assert (tmp_path / "mine.restoring" / "precious").exists()


def test_places_that_make_no_sense_are_refused(home, tmp_path):
    with pytest.raises(HomeError, match=r"should end in \.tar"):
        backup(home, tmp_path / "b.zip")
    with pytest.raises(HomeError, match="would lie in the home"):
        backup(home, home / "landing" / "b.tar")
    with pytest.raises(HomeError, match="is no home"):
        backup(tmp_path / "nothing", tmp_path / "b.tar")
    with pytest.raises(HomeError, match="lies in the home"):
        move(home, home / "inner")
    with pytest.raises(HomeError, match="is not there"):
        restore(tmp_path / "none.tar", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_backup_is_refused_and_leaves_nothing(home, tmp_path, name, damage):
    file = tmp_path / name
    backup(home, file)
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[: len(data) * 2 // 3]
    elif damage == "other":
        data = bytearray(b"PK\3\4 something else") * 100
    else:
        with tarfile.open(file) if name != "b.tar.zst" else tarfile.open(fileobj=_unpacked(file)) as tar:
            member = next(m for m in tar if m.name.endswith(".parquet"))
        at = member.offset_data + 3 if name == "b.tar" else len(data) // 2
        data[at] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(HomeError, match=r"damaged|cut short|no backup"):
        restore(file, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "home"])


def _unpacked(file: Path) -> io.BytesIO:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
        return io.BytesIO(stream.read())


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "lake/./a", "a//b", "twice", "link"])
def test_a_tar_that_would_write_elsewhere_is_refused(tmp_path, name):
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as tar:
        for _ in range(2 if name == "twice" else 1):
            info = tarfile.TarInfo(name)
            if name == "link":
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = 0 if name == "link" else 1
            tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(HomeError, match="no backup of a home"):
        restore(file, tmp_path / "deep" / "new")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "evil.tar"]


def test_a_backup_whose_tables_do_not_fit_its_files_is_refused(home, tmp_path):
    """Every file as its manifest says, but the manifest is of other tables."""
    backup(home, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as old, tarfile.open(tmp_path / "c.tar", "w") as new:
        for member in old:
            data = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == homes.MANIFEST:
                manifest = json.loads(data)
                manifest["tables"][TABLE] += 1
                data = json.dumps(manifest).encode()
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    with pytest.raises(HomeError, match="is not whole: its tables have"):
        restore(tmp_path / "c.tar", tmp_path / "new")


# --- move


def test_a_moved_home_works_and_the_old_place_is_empty(home, tmp_path):
    before = kept(home)
    assert move(home, tmp_path / "deep" / "new") is None
    assert not home.exists()
    assert kept(tmp_path / "deep" / "new") == before
    assert set(content(opened(tmp_path / "deep" / "new").read(TABLE)).values()) == {2.0}


def test_a_home_in_use_is_not_moved(home, tmp_path):
    lake = opened(home)
    lake.read(TABLE)
    with pytest.raises(LakeError, match="in use"):
        move(home, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def other_disk(tmp_path: Path) -> Any:
    """A folder on another file system, where the machine has one."""
    place = Path("/dev/shm")
    if not place.is_dir() or place.stat().st_dev == tmp_path.stat().st_dev or not os.access(place, os.W_OK):
        pytest.skip("this machine has no second file system")
    folder = place / f"forecast-tests-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_home_moved_to_another_file_system_is_copied_verified_and_deleted(home, other_disk):
    before = kept(home)
    made = move(home, other_disk / "new")
    assert made is not None
    assert made.tables == {TABLE: 5, "forecasts": 2}
    assert not home.exists()
    assert kept(other_disk / "new") == before
    assert [p.name for p in other_disk.iterdir()] == ["new"]


def test_what_landed_during_a_move_to_another_file_system_is_not_lost(home, other_disk):
    def land(what: str, done: int, total: int) -> None:
        if what == "restore":
            (home / "landing" / "late.csv").write_text("late")

    with pytest.raises(HomeError, match=r"not copied, and still in .*: landing/late\.csv"):
        move(home, other_disk / "new", land)
    assert (home / "landing" / "late.csv").exists()
    with pytest.raises(LakeError, match="was moved to"):
        opened(home).read(TABLE)
    assert set(content(opened(other_disk / "new").read(TABLE)).values()) == {2.0}


# --- killed


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(command: str, arguments: tuple[Path, Path], point: str) -> None:
    """In a process of its own: run the command up to the point."""

    def progress(what: str, done: int, total: int) -> None:
        if point.startswith(what) and done >= total // int(point.rpartition("/")[2] or 1):
            _die()

    if "(" in point:  # "before os.sync()": around a call
        when, _, name = point.removesuffix("()").partition(" ")
        owner: Any = Path if name == "rename" or name == "replace" else {"sync": os, "rmtree": shutil}[name]
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            if when == "before":
                _die()
            result = original(*args, **named)
            _die()
            return result

        setattr(owner, name, call)
    getattr(homes, command)(*arguments, progress)


def killed(command: str, first: Path, second: Path, point: str) -> None:
    process = forked().Process(target=_deadly, args=(command, (first, second), point))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.kill
@pytest.mark.parametrize("point", ["backup/9", "backup/2", "backup/1", "before replace()", "after replace()"])
def test_a_killed_backup_is_whole_or_not_there_and_the_next_succeeds(home, tmp_path, point):
    before, file = kept(home), tmp_path / "b.tar.zst"
    killed("backup", home, file, point)
    assert kept(home) == before
    if point == "after replace()":
        with pytest.raises(HomeError, match="there already"):
            backup(home, file)
    else:
        assert not file.exists()
        backup(home, file)
    assert not list(tmp_path.glob(".*.partial"))
    restore(file, tmp_path / "new")
    assert kept(tmp_path / "new") == before


@pytest.mark.kill
@pytest.mark.parametrize(
    "point", ["restore/9", "restore/2", "restore/1", "before sync()", "before rename()", "after rename()"]
)
def test_a_killed_restore_is_no_home_and_the_next_succeeds(home, tmp_path, point):
    file, new = tmp_path / "b.tar", tmp_path / "new"
    backup(home, file)
    killed("restore", file, new, point)
    if point == "after rename()":
        assert kept(new) == kept(home)
        return
    assert not new.exists()
    half = tmp_path / "new.restoring"
    assert "Not a whole home" in (half / "README").read_text()
    if point.startswith("restore"):
        with pytest.raises(LakeError, match="not a whole home"):
            opened(half / "home").read(TABLE)
        with pytest.raises(LakeError, match="not a whole home"):
            backup(half / "home", tmp_path / "c.tar")
    restore(file, new)
    assert kept(new) == kept(home)
    assert not half.exists()


@pytest.mark.kill
@pytest.mark.parametrize("point", ["before rename()", "after rename()"])
def test_a_killed_move_leaves_one_whole_home(home, tmp_path, point):
    before, new = kept(home), tmp_path / "new"
    killed("move", home, new, point)
    assert [p.exists() for p in (home, new)] == [point.startswith("before"), point.startswith("after")]
    if home.exists():
        move(home, new)
    assert kept(new) == before


@pytest.mark.kill
@pytest.mark.parametrize("point", ["backup/2", "before replace()", "restore/2", "before sync()"])
def test_a_move_to_another_file_system_killed_before_the_home_is_there_starts_over(home, other_disk, point):
    before, new = kept(home), other_disk / "new"
    killed("move", home, new, point)
    assert kept(home) == before
    assert not new.exists()
    move(home, new)
    assert kept(new) == before
    assert not home.exists()
    assert [p.name for p in other_disk.iterdir()] == ["new"]
