"""A home as one thing: backed up to a file, restored from it, moved.

A backup is a tar file with a manifest of every file's size and SHA-256 and every table's rows as its last member.
Tables are backed up as they were at one moment, also while a pipeline writes: the catalog is copied first, by SQLite
itself, and then the files that its states name, which nobody changes. What a catalog names was written before it, so
everything else (models, landed files, Dagster's databases) comes after.

Whatever is written appears under its name when it is whole, and not before. A process that was killed leaves
`.FILE.partial` or `HOME.restoring` behind; running the same command again starts over.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from forecast_platform.lake.tables import LOCAL, NAMESPACE, SPILL

if TYPE_CHECKING:
    from pyiceberg.table import Table

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

MANIFEST = ".forecast-backup.json"
_FORMAT = 1
_TRIES = 5
# Locks, and what a run under way or a killed one left unfinished.
_UNFINISHED = (".lock", ".building", ".checkpoint", ".partial", ".in_use")
_DATABASE = b"SQLite format 3\0"
_CHUNK = 1 << 20


class HomeError(RuntimeError):
    """A home or its backup cannot be used; the message says why, and what to do."""


class _Vanished(Exception):
    """A state of a table was deleted while it was being backed up."""


@dataclass
class Contents:
    """What a backup holds.

    Attributes:
        files: path in the home -> (bytes, SHA-256).
        tables: table -> rows.
        left_out: path in the home -> why it is not there.
    """

    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


# --- backup


def backup(home: Path, file: Path, progress: Progress | None = None) -> Contents:
    """Write a home to a tar file (.tar, .tar.gz, .tar.zst), whole or not at all. Runs over the home may go on.

    Raises:
        HomeError: there is no home, the file is there already, or would lie in the home.
        LakeError: the home is not whole, or shares files with another.
    """
    from forecast_platform.lake.guard import check, hold

    home, file = home.resolve(), file.absolute()
    _is_home(home)
    check(home / "lake")
    (home / "lake").mkdir(exist_ok=True)
    with hold(home / "lake"):
        return _backup(home, file, progress)


def _backup(home: Path, file: Path, progress: Progress | None) -> Contents:
    _suffix(file)
    if file.exists():
        raise HomeError(f"{file} is there already; name another file")
    if file.resolve().is_relative_to(home):
        raise HomeError(f"{file} would lie in the home it is a backup of; name a file elsewhere")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    with open(partial, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HomeError(f"another backup to {file} is under way; name another file") from error
        try:
            contents = _write(home, partial, _suffix(file), progress)
            _sync(partial)
            partial.replace(file)
            _sync(file.parent)
        except Exception:
            partial.unlink(missing_ok=True)
            raise
    return contents


def _write(home: Path, path: Path, suffix: str, progress: Progress | None) -> Contents:
    for _ in range(_TRIES):
        with (
            contextlib.suppress(_Vanished),
            _compressed(path, suffix) as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            return Backup(home, tar, progress or _silent).write()
    raise HomeError(f"the tables changed {_TRIES} times while they were read; run the backup when less is written")


class Backup:
    """One try at a backup."""

    def __init__(self, home: Path, tar: tarfile.TarFile, progress: Progress) -> None:
        self._home, self._tar, self._progress = home, tar, progress
        self._contents = Contents()

    def write(self) -> Contents:
        heads, files = self._tables()
        others = [path for path in _walk(self._home) if str(path.relative_to(self._home)) not in heads]
        total, done = len(heads) + len(files) + len(others), 0
        for name, data in heads.items():
            self._add(name, io.BytesIO(data), len(data))
            self._progress("backup", done := done + 1, total)
        for path, needed in sorted(files.items()):
            if not self._copy(path) and needed:
                raise _Vanished
            self._progress("backup", done := done + 1, total)
        for path in others:
            self._other(path)
            self._progress("backup", done := done + 1, total)
        self._manifest()
        return self._contents

    def _tables(self) -> tuple[dict[str, bytes], dict[Path, bool]]:
        """The catalog as of now with the current state of each table, read at once because commits delete old ones;
        and the files these name, each with whether the tables need it."""
        from forecast_platform.lake.maintenance import reachable

        database = self._home / "lake" / "catalog.db"
        if not database.exists():
            return {}, {}
        heads = {str(database.relative_to(self._home)): _snapshot(database)}
        files: dict[Path, bool] = {}
        tables = []
        for name, location in _catalogued(heads["lake/catalog.db"]):
            try:
                table, path = _table(self._home / "lake", name, location)
                heads[str(path.relative_to(self._home))] = path.read_bytes()
            except FileNotFoundError as error:
                raise _Vanished from error
            tables.append((name, table))
        for name, table in tables:
            try:
                log = {entry.metadata_file for entry in table.metadata.metadata_log}
                for location in reachable(table) - {table.metadata_location}:
                    files[_path(table, location)] = location not in log
                self._contents.tables[name] = _rows(table)
            except FileNotFoundError as error:
                raise _Vanished from error
        return heads, files

    def _other(self, path: Path) -> None:
        """A file that is no table's: a database as SQLite copies it, any other if it holds still meanwhile."""
        name = str(path.relative_to(self._home))
        if path.is_symlink() or not path.is_file():
            self._contents.left_out[name] = "no file of its own" if path.exists() else "deleted meanwhile"
            return
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            if file.read(len(_DATABASE)) == _DATABASE:
                data = _snapshot(path)
                return self._add(name, io.BytesIO(data), len(data))
        if not self._copy(path):
            self._contents.left_out[name] = "deleted meanwhile"

    def _copy(self, path: Path) -> bool:
        """Add a file; False when it is gone."""
        name = str(path.relative_to(self._home))
        try:
            with open(path, "rb") as file:
                before = os.fstat(file.fileno())
                self._add(name, file, before.st_size, before)
        except FileNotFoundError:
            return False
        after = path.stat() if path.exists() else None
        if after is None or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            del self._contents.files[name]
            self._contents.left_out[name] = "still being written"
        return True

    def _add(self, name: str, file: IO[bytes], size: int, status: os.stat_result | None = None) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        info.mode = stat.S_IMODE(status.st_mode) if status else 0o644
        info.mtime = status.st_mtime if status else dt.datetime.now().timestamp()  # noqa: DTZ005 (seconds since 1970)
        reader = FileReader(file, size)
        self._tar.addfile(info, reader)  # type: ignore[arg-type]  # it needs no more than read
        self._contents.files[name] = (size, reader.digest.hexdigest())

    def _manifest(self) -> None:
        contents = self._contents
        text = json.dumps(
            {
                "format": _FORMAT,
                "made_at": dt.datetime.now(dt.UTC).isoformat(),
                "version": importlib.metadata.version("forecast-platform"),
                "home": str(self._home),
                "tables": contents.tables,
                "files": contents.files,
                "left_out": contents.left_out,
            }
        ).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(text)
        self._tar.addfile(info, io.BytesIO(text))


class FileReader:
    """Exactly `size` bytes of a file, digested; one that became shorter is filled up, and found to have changed."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left, self.digest = file, size, hashlib.sha256()

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = self._file.read(size)
        data += b"\0" * (size - len(data))
        self._left -= size
        self.digest.update(data)
        return data


# --- restore


def restore(file: Path, home: Path, progress: Progress | None = None) -> Contents:
    """Make a home of a backup: every file verified by its size and digest, every table opened and counted, and only
    then under its name.

    Args:
        home: a folder that does not exist or is empty.

    Raises:
        HomeError: the folder holds something, or the backup is damaged, cut short, or no backup.
    """
    file, home = file.absolute(), home.absolute()
    if not file.is_file():
        raise HomeError(f"{file} is not there; name a file that forecast backup wrote")
    _is_free(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    building = home.with_name(f"{home.name}.restoring")
    mark = building / "README"
    if building.exists() and not mark.exists() and any(building.iterdir()):
        raise HomeError(f"{building} is in the way, and not what an earlier restore left; move it away")
    building.mkdir(exist_ok=True)
    with open(mark, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HomeError(f"another restore to {home} is under way; wait for it") from error
        lock.write(f"Not a whole home: a restore of {file} was under way. Run it again, it starts over.\n")
        lock.flush()
        try:
            shutil.rmtree(building / "home", ignore_errors=True)
            contents = _unpack(file, building / "home", progress or _silent)
            os.sync()
            (building / "home").rename(home)
            _sync(home.parent)
        finally:
            shutil.rmtree(building)
    return contents


def _unpack(file: Path, folder: Path, progress: Progress) -> Contents:
    from forecast_platform.lake.guard import UNFINISHED

    mark = folder / "lake" / UNFINISHED
    mark.parent.mkdir(parents=True)
    mark.write_text(f"the restore of {file} did not end; run it again")
    found: dict[str, tuple[int, str]] = {}
    manifest: dict[str, Any] | None = None
    size = file.stat().st_size
    try:
        with open(file, "rb") as raw, _decompressed(raw) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                data = tar.extractfile(member) if member.isreg() else None
                if data is None or manifest is not None:
                    raise HomeError(f"{file} is no backup of a home: {member.name!r} is no file of one")
                if member.name == MANIFEST:
                    manifest = json.loads(data.read())
                    continue
                path = folder.joinpath(*_safe(member.name, found, file))
                found[member.name] = _save(data, path, member)
                progress("restore", min(raw.tell(), size - 1), size)  # what was read may not be written yet
    except (tarfile.TarError, EOFError, zlib.error, pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk is not the backup's fault
            raise
        raise HomeError(f"{file} is damaged or was cut short ({error}); use another backup") from error
    if manifest is None:
        raise HomeError(f"{file} has no manifest: it was cut short, or is no backup of a home; use another backup")
    if manifest["format"] != _FORMAT:
        raise HomeError(f"{file} is of format {manifest['format']}, this release reads {_FORMAT}; use the one it names")
    for name in manifest["left_out"]:
        if found.pop(name, None):
            folder.joinpath(name).unlink()
    contents = Contents(
        {n: (s, d) for n, (s, d) in manifest["files"].items()}, manifest["tables"], manifest["left_out"]
    )
    if wrong := sorted(n for n in found.keys() | contents.files.keys() if found.get(n) != contents.files.get(n)):
        raise HomeError(
            f"{file} is damaged: {wrong[0]} is not what was backed up ({len(wrong)} files); use another backup"
        )
    _verify_tables(folder / "lake", contents.tables)
    progress("restore", size, size)
    mark.unlink()
    return contents


def _safe(name: str, found: dict[str, tuple[int, str]], file: Path) -> tuple[str, ...]:
    """The parts of a member's name. Raises HomeError for one that leaves the home, or comes twice."""
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in name or PurePosixPath(name).is_absolute() or name in found:
        raise HomeError(f"{file} is no backup of a home: {name!r} would be written elsewhere or twice; do not trust it")
    return tuple(parts)


def _save(data: IO[bytes], path: Path, member: tarfile.TarInfo) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        while chunk := data.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    path.chmod(member.mode & 0o777 | 0o600)
    os.utime(path, (member.mtime, member.mtime))
    return size, digest.hexdigest()


def _verify_tables(warehouse: Path, expected: dict[str, int]) -> None:
    """Every table can be read here, and has its rows. Raises HomeError."""
    from forecast_platform.lake.maintenance import reachable

    database = warehouse / "catalog.db"
    rows = {}
    for name, location in _catalogued(database.read_bytes()) if database.exists() else ():
        try:
            table, _ = _table(warehouse, name, location)
        except FileNotFoundError as error:
            raise HomeError(f"the backup is not whole: table {name} lacks its state {location}") from error
        log = {entry.metadata_file for entry in table.metadata.metadata_log}
        if missing := sorted(n for n in reachable(table) - log if not _path(table, n).exists()):
            raise HomeError(f"the backup is not whole: table {name} lacks {missing[0]}; use another backup")
        rows[name] = _rows(table)
    if rows != expected:
        raise HomeError(
            f"the backup is not whole: its tables have {rows} rows, should be {expected}; use another backup"
        )


# --- move


def move(home: Path, new: Path, progress: Progress | None = None) -> Contents | None:
    """Give a home another place; to another file system it is copied, verified, and then deleted here.

    Returns:
        None after a mere change of name; else what was copied. With files left out, the old home keeps them.

    Raises:
        HomeError: the new place holds something, or lies in the home; or files came meanwhile that were not copied.
        LakeError: somebody uses the home.
    """
    from forecast_platform.lake.guard import UNFINISHED, check, hold_alone

    home, new = home.resolve(), new.absolute()
    _is_home(home)
    check(home / "lake")
    if new.resolve().is_relative_to(home):
        raise HomeError(f"{new} lies in the home; name a place elsewhere")
    _is_free(new)
    new.parent.mkdir(parents=True, exist_ok=True)
    (home / "lake").mkdir(exist_ok=True)
    with hold_alone(home / "lake"):
        try:
            home.rename(new)
            _sync(new.parent)
            return None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        carried = new.with_name(f".{new.name}.moving.tar")
        carried.unlink(missing_ok=True)
        _backup(home, carried, progress)
        contents = restore(carried, new, progress)
        carried.unlink()
        late = {str(path.relative_to(home)) for path in _walk(home)} - contents.files.keys() - {"lake/catalog.db"}
        (home / "lake" / UNFINISHED).write_text(f"it was moved to {new}; delete what is left here")
        if late:
            names = ", ".join(sorted(late))
            raise HomeError(f"{new} is whole, and to be used from now on; not copied, and still in {home}: {names}")
        shutil.rmtree(home)
        return contents


# --- shared


def _is_home(home: Path) -> None:
    if not any((home / part).exists() for part in ("lake", "dagster", "landing", "settings.toml")):
        raise HomeError(f"{home} is no home; set FORECAST_HOME to the folder that holds lake/ and landing/")


def _is_free(home: Path) -> None:
    if home.is_symlink() or (home.exists() and (not home.is_dir() or any(home.iterdir()))):
        raise HomeError(f"{home} holds something already; name a folder that does not exist or is empty")


def _walk(home: Path) -> Iterator[Path]:
    """Every file of a home but its tables' and those of queries, in order: links are shown, not followed."""
    for parent, folders, names in os.walk(home):
        left_out = (_tables(home), home / "lake" / SPILL)
        folders[:] = sorted(f for f in folders if not f.endswith(_UNFINISHED) and Path(parent, f) not in left_out)
        links = [f for f in folders if Path(parent, f).is_symlink()]
        for name in sorted([*names, *links]):
            base = next((name.removesuffix(s) for s in ("-wal", "-shm", "-journal") if name.endswith(s)), "")
            if not name.endswith(_UNFINISHED) and not (base and base in names) and name != MANIFEST:
                yield Path(parent, name)


def _tables(home: Path) -> Path:
    return home / "lake" / NAMESPACE


def _snapshot(database: Path) -> bytes:
    """A SQLite database as of one moment, whoever writes to it."""
    with (
        contextlib.closing(sqlite3.connect(database, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(":memory:")) as copy,
    ):
        source.backup(copy)
        return copy.serialize()


def _catalogued(database: bytes) -> list[tuple[str, str]]:
    """(table, location of its current state) of a catalog."""
    with contextlib.closing(sqlite3.connect(":memory:")) as con:
        con.deserialize(database)
        return con.execute("SELECT table_name, metadata_location FROM iceberg_tables ORDER BY table_name").fetchall()


def _table(warehouse: Path, name: str, location: str) -> tuple[Table, Path]:
    """A table in the state at `location`, and where that lies."""
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import Table

    from forecast_platform.lake.local import HomeFiles

    files = HomeFiles({"warehouse": f"{LOCAL}{warehouse}"})
    metadata = FromInputFile.table_metadata(files.new_input(location))
    table = Table((NAMESPACE, name), metadata, location, files, None)  # type: ignore[arg-type]  # read only
    return table, _path(table, location)


def _path(table: Table, location: str) -> Path:
    from forecast_platform.lake.local import HomeFiles

    assert isinstance(table.io, HomeFiles)
    return Path(table.io.parse_location(location)[2])


def _rows(table: Table) -> int:
    return sum(task.file.record_count for task in table.scan().plan_files())


def _suffix(file: Path) -> str:
    for suffix in (".tar", ".tar.gz", ".tgz", ".tar.zst"):
        if file.name.lower().endswith(suffix):
            return suffix
    raise HomeError(f"{file.name} should end in .tar, .tar.gz or .tar.zst, which says how it is packed")


@contextlib.contextmanager
def _compressed(path: Path, suffix: str) -> Iterator[Any]:
    """The emptied file, open for writing, packed by its suffix."""
    with open(path, "r+b") as raw:
        raw.truncate(0)
        if suffix in (".tar.gz", ".tgz"):
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3, filename="") as packed:
                yield packed
        elif suffix == ".tar.zst":
            with pa.CompressedOutputStream(pa.PythonFile(raw, mode="w"), "zstd") as packed:
                yield packed
        else:
            yield raw


@contextlib.contextmanager
def _decompressed(raw: IO[bytes]) -> Iterator[Any]:
    """A backup's tar, however it is packed: by its first bytes, since files get renamed."""
    head = raw.read(4)
    raw.seek(0)
    if head[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream
    elif head == b"\x28\xb5\x2f\xfd":
        with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd") as stream:
            yield stream
    else:
        yield raw


def _sync(path: Path) -> None:
    """Have the system write a file or folder down."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _silent(what: str, done: int, total: int) -> None:
    pass
