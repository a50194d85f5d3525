"""Where files land: a folder, or a prefix of an S3 bucket, behind one small protocol.

Both twins show the files under the folders named in KINDS, and those lying directly in the root: their kind
is None, so that a misplaced file can be named. Other folders are somebody else's and not looked into. Names
that start with "." or "_" or end like an unfinished copy are passed over.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from forecast_platform.landing.kinds import KINDS

UNFINISHED = (".tmp", ".part", ".partial", ".crdownload")
TEXTS = (".csv", ".tsv", ".txt")
UNENDED = 60  # a text file whose last line has no end settles so many times longer


class LandingError(Exception):
    """The landing place, or an object in it, can't be reached: what happened and how to mend it."""


@dataclass(frozen=True)
class LandingObject:
    """One version of one landed file.

    Attributes:
        key: path below the root, with "/": "sales/2012-10-26.csv".
        version: changes with the content. Folder: the first 16 hex digits of its SHA-256. S3: the ETag, which
            listings carry at no extra request, also for buckets without versioning.
        size: bytes.
        arrived_at: when it came to lie here, UTC. Folder: the later of mtime and ctime. S3: LastModified.
        modified_at: when its content was last written, UTC. Folder: mtime. S3: LastModified.
    """

    key: str
    version: str
    size: int
    arrived_at: dt.datetime
    modified_at: dt.datetime

    @property
    def kind(self) -> str | None:
        """The folder it lies in, if that is one of KINDS."""
        top, _, rest = self.key.partition("/")
        return top if rest and top in KINDS else None


class Landing(Protocol):
    """A place where files land."""

    url: str

    def list(self, known: Mapping[str, LandingObject] = {}) -> list[LandingObject]:
        """The objects that lie here now, by (arrived_at, key).

        Args:
            known: objects of an earlier listing by key; what did not change since need not be hashed again.

        Raises:
            LandingError: the place can't be listed; that is never the same as "no files".
        """
        ...

    def look(self, keys: Iterable[str]) -> Sequence[LandingObject]:
        """Those of the objects named by `keys` that lie here now, as `list` would show them.

        Raises:
            LandingError: one can't be looked at.
        """
        ...

    def settles_in(self) -> float:
        """Seconds until no file that lies here now is left for a later look because it changed just now.

        Raises:
            LandingError: the place can't be listed.
        """
        ...

    def read(self, obj: LandingObject) -> bytes:
        """The bytes of exactly this version.

        Raises:
            LandingError: it can't be read, or was replaced since it was listed.
        """
        ...

    def opened(self, obj: LandingObject) -> contextlib.AbstractContextManager[Path]:
        """A file on this machine that holds exactly this version, while it is needed.

        Raises:
            LandingError: see `read`; also at the end, when the file changed while it was in use.
        """
        ...

    def part(self, obj: LandingObject, start: int, length: int) -> bytes:
        """Some bytes of it, for a look at its head or footer: fewer where it ends, and no proof of its version.

        Raises:
            LandingError: it can't be read.
        """
        ...

    def put(self, key: str, data: bytes | Path) -> LandingObject:
        """Land `data`, bytes or a file of this machine, under `key`: whole or not at all, replacing what was there.

        Raises:
            LandingError: it can't be written.
            ValueError: the key leaves the landing place.
        """
        ...


def unended(key: str, tail: bytes) -> bool:
    """Whether a file is text and its last line has no end, so that a number in it may be cut short."""
    last = tail[-4:].rstrip(b"\0")  # of UTF-16
    return key.lower().endswith(TEXTS) and bool(last) and not last.endswith((b"\n", b"\r"))


def is_wanted(key: str) -> bool:
    parts = key.split("/")
    return (
        (len(parts) == 1 or parts[0] in KINDS)
        and all(part and part[0] not in "._" for part in parts)
        and not key.lower().endswith(UNFINISHED)
    )


def checked_key(key: str) -> str:
    parts = key.split("/")
    if "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{key!r} is no key; write a path such as sales/2012-10-26.csv")
    return key


def oldest_first(objects: Iterable[LandingObject]) -> list[LandingObject]:
    return sorted(objects, key=lambda obj: (obj.arrived_at, obj.key))


# --- folder


class FolderLanding:
    """A folder. Links are followed to files below the root only; linked folders are not entered.

    A file may still be under way: one that changed less than `settle_seconds` ago is left for a later look, and a text
    that ends in the middle of a line for UNENDED times as long (not what this process `put`: that is whole).

    Args:
        path: the folder, created when missing.
        settle_seconds: see above.
    """

    def __init__(self, path: str | Path, settle_seconds: float = 1.0) -> None:
        self.root = Path(path).expanduser().resolve()
        self.url = str(self.root)
        self.settle_seconds = settle_seconds
        with self._explained(self.url):
            self.root.mkdir(parents=True, exist_ok=True)

    def list(self, known: Mapping[str, LandingObject] = {}) -> list[LandingObject]:
        """See Landing.list."""
        with self._explained(self.url):
            return oldest_first(self._objects(self._files(), known))

    def look(self, keys: Iterable[str]) -> Sequence[LandingObject]:
        """See Landing.look."""
        with self._explained(self.url):
            return oldest_first(self._objects(self._path(key) for key in keys if is_wanted(key)))

    def read(self, obj: LandingObject) -> bytes:
        """See Landing.read."""
        with self._explained(obj.key):
            data = self._path(obj.key).read_bytes()
        if _hex(hashlib.sha256(data)) != obj.version:
            raise self._replaced(obj)
        return data

    @contextlib.contextmanager
    def opened(self, obj: LandingObject) -> Iterator[Path]:
        """See Landing.opened: the file itself, where it lies."""
        path = self._path(obj.key)
        with self._explained(obj.key), path.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            if _hex(hashlib.file_digest(file, "sha256")) != obj.version:
                raise self._replaced(obj)
        try:
            yield path
        finally:
            with self._explained(obj.key):
                if _identity(path.stat()) != identity:
                    raise self._replaced(obj)

    def settles_in(self) -> float:
        """See Landing.settles_in."""
        longest = 0.0
        with self._explained(self.url):
            for path in self._files():
                with contextlib.suppress(FileNotFoundError):  # gone again
                    longest = max(longest, self._settles_in(path.stat()))
        return longest

    def _settles_in(self, status: os.stat_result) -> float:
        if _identity(status) in _whole:
            return 0.0
        # By ctime, which a copy can't set. One in the future is a skewed clock, not a copy under way.
        age = time.time() - status.st_ctime
        return self.settle_seconds - age if 0 <= age < self.settle_seconds else 0.0

    def _replaced(self, obj: LandingObject) -> LandingError:
        return LandingError(f"{obj.key} in {self.url} was replaced since it was listed; look again")

    def part(self, obj: LandingObject, start: int, length: int) -> bytes:
        """See Landing.part."""
        with self._explained(obj.key), self._path(obj.key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def put(self, key: str, data: bytes | Path) -> LandingObject:
        """See Landing.put."""
        digest = hashlib.sha256()
        path = self._path(checked_key(key))
        with self._explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            # In the same folder, so that the replace is atomic; listings pass over its name.
            handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    for part in _parts(data):
                        digest.update(part)
                        file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from other users
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
            status = path.stat()
            _remember(_whole, _identity(status), "")
            return self._landed(key, _hex(digest), status)

    @staticmethod
    def arrived_at(status: os.stat_result) -> dt.datetime:
        """When a file came to lie here: never by its mtime alone, which `mv` and `cp -p` keep."""
        return max(_moment(status.st_mtime_ns), _moment(status.st_ctime_ns))

    def _landed(self, key: str, version: str, status: os.stat_result) -> LandingObject:
        moments = self.arrived_at(status), _moment(status.st_mtime_ns)
        return LandingObject(key, version, status.st_size, *moments)

    def _objects(self, paths: Iterable[Path], known: Mapping[str, LandingObject] = {}) -> Iterator[LandingObject]:
        for path in paths:
            key = path.relative_to(self.root).as_posix()
            with self._explained(key), contextlib.suppress(FileNotFoundError):  # gone again: not landed
                obj = self._look(key, path, known.get(key))
                if obj is not None:
                    yield obj

    def _files(self) -> Iterator[Path]:
        def fail(error: OSError) -> None:
            raise error

        for folder, folders, names in os.walk(self.root, onerror=fail):
            if folder == str(self.root):
                folders[:] = [name for name in folders if name in KINDS]
            for name in names:
                path = Path(folder, name)
                if is_wanted(path.relative_to(self.root).as_posix()):
                    yield path

    def _look(self, key: str, path: Path, known: LandingObject | None) -> LandingObject | None:
        """The object at `path`, or None for what is no file, lies outside, or is still changing."""
        if path.is_symlink() and not path.resolve().is_relative_to(self.root):
            return None
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        if self._settles_in(status) > 0:
            return None
        try:
            key.encode()
        except UnicodeEncodeError:
            raise LandingError(f"the file name {key!r} is not UTF-8; rename it") from None
        identity = _identity(status)
        obj = self._landed(key, "", status)
        if known is not None and (known.size, known.arrived_at) == (obj.size, obj.arrived_at):
            return self._landed(key, known.version, status)
        if digest := _hashed.get(identity):  # touched or copied since it landed: known by its bytes, not its times
            return self._landed(key, digest, status)
        with path.open("rb") as file:
            digest = _hex(hashlib.file_digest(file, "sha256"))
            file.seek(max(0, status.st_size - 4))
            cut = unended(key, file.read(4)) and identity not in _whole
        if _identity(path.stat()) != identity:
            return None
        if cut and 0 <= time.time() - status.st_ctime < UNENDED * self.settle_seconds:
            return None
        _remember(_hashed, identity, digest)
        return self._landed(key, digest, status)

    def _path(self, key: str) -> Path:
        return self.root / PurePosixPath(key)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise LandingError(
                f"{what}: access denied in {self.url}; let the user who runs this read and write there"
            ) from error
        except FileNotFoundError as error:
            if self.root.is_dir():
                raise LandingError(f"{what} is no longer in {self.url}; look again") from error
            raise LandingError(f"{self.url} is gone; create it or set FORECAST_LANDING_URL") from error
        except OSError as error:
            reason = error.strerror or error
            raise LandingError(f"{what} in {self.url}: {reason}; check the path and the disk") from error


def _hex(digest: Any) -> str:
    return str(digest.hexdigest()[:16])


def _parts(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        while part := file.read(1 << 20):
            yield part


_Identity = tuple[int, int, int, int, int]
# Of this process: what files hold that a look found changed in their times, and those it wrote itself.
_hashed: dict[_Identity, str] = {}
_whole: dict[_Identity, str] = {}


def _identity(status: os.stat_result) -> _Identity:
    """What changes whenever a file does."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _remember(memory: dict[_Identity, str], identity: _Identity, what: str) -> None:
    while len(memory) >= 100_000:
        del memory[next(iter(memory))]
    memory[identity] = what


def _moment(nanoseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=nanoseconds // 1000)
