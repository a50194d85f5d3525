"""Where files land: a folder, or a prefix of an S3 bucket, behind one small protocol.

Both twins show the files under the folders named in KINDS, and those lying directly in the root: their kind
is None, so that a misplaced file can be named. Other folders are somebody else's and not looked into. Names
that start with "." or "_" or end like an unfinished copy are passed over.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import os
import random
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

    def read(self, obj: LandingObject) -> bytes:
        """The bytes of exactly this version.

        Raises:
            LandingError: it can't be read, or was replaced since it was listed.
        """
        ...

    def part(self, obj: LandingObject, start: int, length: int) -> bytes:
        """Some bytes of it, for a look at its head or footer: fewer where it ends, and no proof of its version.

        Raises:
            LandingError: it can't be read.
        """
        ...

    def put(self, key: str, data: bytes) -> LandingObject:
        """Land `data` under `key`, whole or not at all, replacing what was there.

        Raises:
            LandingError: it can't be written.
            ValueError: the key leaves the landing place.
        """
        ...


def open_landing(url: str) -> Landing:
    """The landing place at `url`: "s3://bucket/prefix", else a folder, which is created when missing.

    Raises:
        LandingError: the folder can't be created, or the address is of another kind.
    """
    if url.startswith("s3://"):
        return S3Landing(url)
    if "://" in url:
        raise LandingError(f"{url} is no landing place; use a folder or s3://bucket/prefix")
    return FolderLanding(url)


def unended(key: str, tail: bytes) -> bool:
    """Whether a file is text and its last line has no end, so that a number in it may be cut short."""
    last = tail[-4:].rstrip(b"\0")  # of UTF-16
    return key.lower().endswith(TEXTS) and bool(last) and not last.endswith((b"\n", b"\r"))


def _wanted(key: str) -> bool:
    parts = key.split("/")
    return (
        (len(parts) == 1 or parts[0] in KINDS)
        and all(part and part[0] not in "._" for part in parts)
        and not key.lower().endswith(UNFINISHED)
    )


def _checked(key: str) -> str:
    parts = key.split("/")
    if "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{key!r} is no key; write a path such as sales/2012-10-26.csv")
    return key


def _oldest_first(objects: Iterable[LandingObject]) -> list[LandingObject]:
    return sorted(objects, key=lambda obj: (obj.arrived_at, obj.key))


# --- folder


class FolderLanding:
    """A folder. Links are followed to files below the root only; linked folders are not entered.

    A file may still be under way: one that changed less than `settle_seconds` ago is left for a later look, and a text
    that ends in the middle of a line for UNENDED times as long (not what `put` wrote: that is whole).

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
            return _oldest_first(self._objects(known))

    def read(self, obj: LandingObject) -> bytes:
        """See Landing.read."""
        with self._explained(obj.key):
            data = self._path(obj.key).read_bytes()
        if _digest(data) != obj.version:
            raise LandingError(f"{obj.key} in {self.url} was replaced since it was listed; look again")
        return data

    def part(self, obj: LandingObject, start: int, length: int) -> bytes:
        """See Landing.part."""
        with self._explained(obj.key), self._path(obj.key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def put(self, key: str, data: bytes) -> LandingObject:
        """See Landing.put."""
        path = self._path(_checked(key))
        with self._explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            # In the same folder, so that the replace is atomic; listings pass over its name.
            handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from other users
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
            status = path.stat()
            _remember(_whole, _identity(status), "")
            return self._landed(key, _digest(data), status)

    @staticmethod
    def arrived_at(status: os.stat_result) -> dt.datetime:
        """When a file came to lie here: never by its mtime alone, which `mv` and `cp -p` keep."""
        return max(_moment(status.st_mtime_ns), _moment(status.st_ctime_ns))

    def _landed(self, key: str, version: str, status: os.stat_result) -> LandingObject:
        moments = self.arrived_at(status), _moment(status.st_mtime_ns)
        return LandingObject(key, version, status.st_size, *moments)

    def _objects(self, known: Mapping[str, LandingObject]) -> Iterator[LandingObject]:
        for path in self._files():
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
                if _wanted(path.relative_to(self.root).as_posix()):
                    yield path

    def _look(self, key: str, path: Path, known: LandingObject | None) -> LandingObject | None:
        """The object at `path`, or None for what is no file, lies outside, or is still changing."""
        if path.is_symlink() and not path.resolve().is_relative_to(self.root):
            return None
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        # By ctime, which a copy can't set. One in the future is a skewed clock, not a copy under way.
        if 0 <= time.time() - status.st_ctime < self.settle_seconds:
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
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
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


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


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


# --- S3

TRIES = 5  # of one request, with waits that double and vary at random: some 8 seconds in all


class S3Landing:
    """A prefix of an S3 bucket. Credentials, region and endpoint (AWS_ENDPOINT_URL) are boto3's own business.

    Args:
        url: s3://bucket or s3://bucket/prefix.
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise LandingError(f"{url} names no bucket; write s3://bucket/prefix")
        self.bucket = bucket
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")

    @functools.cached_property
    def _client(self) -> Any:
        from forecast_platform.clouds.aws.clients import client

        # Less patience than elsewhere on AWS: a sensor's tick has 60 seconds, and the next one tries again. Adaptive
        # retries would add waits of their own to each request after a throttled one.
        return client("s3", retries={"mode": "standard", "total_max_attempts": TRIES})

    def list(self, known: Mapping[str, LandingObject] = {}) -> list[LandingObject]:
        """See Landing.list. Listings carry the ETag, so `known` saves nothing here."""
        with self._explained(self.url, "s3:ListBucket"):
            return _oldest_first(self._objects())

    def look(self, keys: Iterable[str]) -> Sequence[LandingObject]:
        """Those of the objects named by `keys` that lie here now, as `list` would show them.

        Raises:
            LandingError: one can't be looked at.
        """
        found = (self._look(key) for key in keys if _wanted(key))
        return _oldest_first(obj for obj in found if obj)

    def read(self, obj: LandingObject) -> bytes:
        """See Landing.read. A transfer that breaks off or arrives damaged is tried again; botocore retries requests,
        but not the bodies of their replies."""
        from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ResponseStreamingError

        where = {"Bucket": self.bucket, "Key": self.prefix + obj.key, "IfMatch": f'"{obj.version}"'}
        with self._explained(obj.key, "s3:GetObject"):
            for tries in range(1, TRIES):
                with contextlib.suppress(FlexibleChecksumError, IncompleteReadError, ResponseStreamingError):
                    return bytes(self._client.get_object(**where)["Body"].read())
                time.sleep(random.uniform(0, 2**tries))  # noqa: S311, jitter is no secret
            return bytes(self._client.get_object(**where)["Body"].read())

    def part(self, obj: LandingObject, start: int, length: int) -> bytes:
        """See Landing.part."""
        wanted = f"bytes={start}-{min(start + length, obj.size) - 1}"
        where = {"Bucket": self.bucket, "Key": self.prefix + obj.key, "IfMatch": f'"{obj.version}"', "Range": wanted}
        if start >= obj.size or length <= 0:
            return b""
        with self._explained(obj.key, "s3:GetObject"):
            return bytes(self._client.get_object(**where)["Body"].read())

    def put(self, key: str, data: bytes) -> LandingObject:
        """See Landing.put."""
        where = {"Bucket": self.bucket, "Key": self.prefix + _checked(key)}
        with self._explained(key, "s3:PutObject and s3:GetObject"):
            self._client.put_object(**where, Body=data)
            head = self._client.head_object(**where)
        return _s3_object(key, head["ETag"], head["ContentLength"], head["LastModified"])

    def _look(self, key: str) -> LandingObject | None:
        from botocore.exceptions import ClientError

        with self._explained(key, "s3:GetObject and s3:ListBucket"):
            try:
                head = self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)
            except ClientError as error:
                if error.response["Error"]["Code"] == "404":
                    return None
                raise
        return _s3_object(key, head["ETag"], head["ContentLength"], head["LastModified"])

    def _objects(self) -> Iterator[LandingObject]:
        paginator = self._client.get_paginator("list_objects_v2")
        root = {"Prefix": self.prefix, "Delimiter": "/"}
        for place in (root, *({"Prefix": f"{self.prefix}{kind}/"} for kind in KINDS)):
            for page in paginator.paginate(Bucket=self.bucket, **place):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self.prefix)
                    if _wanted(key):
                        yield _s3_object(key, item["ETag"], item["Size"], item["LastModified"])

    @contextlib.contextmanager
    def _explained(self, what: str, permission: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            advice = self._advice(code, permission)
            raise LandingError(f"{what}: {advice} ({code} from {self.url})") from error
        except BotoCoreError as error:
            raise LandingError(
                f"{what}: {error}; check the AWS credentials, AWS_REGION and AWS_ENDPOINT_URL of this process"
            ) from error

    def _advice(self, code: str, permission: str) -> str:
        if code in ("NoSuchBucket", "404"):
            return f"there is no bucket {self.bucket}; create it or set FORECAST_LANDING_URL"
        if code in ("PreconditionFailed", "412", "NoSuchKey"):
            return "it was replaced or removed since it was listed; look again"
        if code in ("AccessDenied", "403", "AllAccessDisabled"):
            return f"access denied; allow {permission} on the bucket to the identity this process runs as"
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
            return "the AWS credentials were refused; renew them"
        if code in ("SlowDown", "503", "ServiceUnavailable", "ThrottlingException", "RequestLimitExceeded"):
            return f"S3 asks to slow down; it was tried {TRIES} times, and the next look tries again"
        return "S3 refused the request; see the code and try again"


def _s3_object(key: str, etag: str, size: int, modified: dt.datetime) -> LandingObject:
    moment = modified.astimezone(dt.UTC)
    return LandingObject(key, etag.strip('"'), size, moment, moment)
