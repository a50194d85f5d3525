"""Files of the platform in S3: models, batches, job inputs and outputs, the spend ledger.

Keys are relative to the storage's prefix and never begin with "/". A key's "folder" is every object below it.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from forecast_platform.clouds.aws.clients import client, split_s3, translated

_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


class StorageError(RuntimeError):
    """An object could not be read or written; the message says what to do."""


class NotStored(StorageError):
    """There is no such object."""


@dataclass(frozen=True)
class StoredObject:
    """One object: its key, its size in bytes, and its ETag without quotes."""

    key: str
    size: int
    etag: str


class Storage:
    """A prefix of an S3 bucket. No connection is opened before the first call.

    Args:
        url: s3://bucket or s3://bucket/prefix.

    Raises:
        StorageError: the URL names no bucket.
    """

    def __init__(self, url: str) -> None:
        bucket, prefix = split_s3(url)
        if not bucket:
            raise StorageError(f"{url!r} names no bucket; write s3://bucket/prefix (FORECAST_STORAGE_URL)")
        self.bucket, self._prefix = bucket, prefix and f"{prefix}/"
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")

    @functools.cached_property
    def _client(self) -> Any:
        return client("s3")

    def uri(self, key: str) -> str:
        """The whole address of a key, for AWS requests."""
        return f"{self.url}/{key}"

    def key(self, uri: str) -> str:
        """The key of a whole address. Raises StorageError when it lies elsewhere."""
        if not uri.startswith(self.url + "/"):
            raise StorageError(f"{uri} does not lie under {self.url}")
        return uri.removeprefix(self.url + "/")

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write one object, whole or not at all; what was there is replaced."""
        with self._explained(key, "s3:PutObject"):
            self._client.put_object(Bucket=self.bucket, Key=self._prefix + key, Body=data)

    def get_bytes(self, key: str) -> bytes:
        """Read one object. Raises NotStored when there is none."""
        with self._explained(key, "s3:GetObject"):
            data: bytes = self._client.get_object(Bucket=self.bucket, Key=self._prefix + key)["Body"].read()
        return data

    def find(self, key: str) -> StoredObject | None:
        """Size and ETag of one object; None when there is none."""
        try:
            with self._explained(key, "s3:GetObject and s3:ListBucket"):
                head = self._client.head_object(Bucket=self.bucket, Key=self._prefix + key)
        except NotStored:
            return None
        return StoredObject(key, head["ContentLength"], head["ETag"].strip('"'))

    def exists(self, key: str) -> bool:
        return self.find(key) is not None

    def list(self, folder: str = "") -> list[StoredObject]:
        """Every object below `folder`, by key."""
        below = self._prefix + (folder.rstrip("/") + "/" if folder else "")
        found = []
        with self._explained(folder or "/", "s3:ListBucket"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    found.append(StoredObject(key, item["Size"], item["ETag"].strip('"')))
        return found

    def put_file(self, path: Path, key: str) -> None:
        """Upload a file; the object appears whole or not at all."""
        with self._explained(key, "s3:PutObject"):
            self._client.upload_file(str(path), self.bucket, self._prefix + key)

    def get_file(self, key: str, path: Path) -> None:
        """Download an object; the file takes its name only when it is whole. Raises NotStored."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(key, "s3:GetObject"):
            self._client.download_file(self.bucket, self._prefix + key, str(path))

    def upload_folder(self, folder: Path, key: str) -> None:
        """Every file below a local folder, under the same names below `key`, in the order of their names."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put_file(path, f"{key}/{path.relative_to(folder).as_posix()}")

    def download_folder(self, key: str, folder: Path) -> None:
        """Every object below `key`, replacing the local `folder`, which changes only when all of it is there.

        Raises:
            NotStored: there is no object below it.
        """
        building = folder.with_name(folder.name + ".downloading")
        shutil.rmtree(building, ignore_errors=True)
        found = self.list(key)
        if not found:
            raise NotStored(f"nothing is stored under {self.uri(key)}")
        for item in found:
            name = PurePosixPath(item.key.removeprefix(key.rstrip("/") + "/"))
            if name.is_absolute() or ".." in name.parts:
                raise StorageError(f"{self.uri(item.key)} would be written outside {folder}; remove that object")
            self.get_file(item.key, building / name)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)

    def delete(self, key: str) -> None:
        """The object of that key and every object below it; nothing there is no error."""
        keys = [self._prefix + item.key for item in self.list(key)] + [self._prefix + key]
        with self._explained(key, "s3:DeleteObject"):
            for start in range(0, len(keys), 1000):  # the API's limit
                objects = [{"Key": k} for k in keys[start : start + 1000]]
                reply = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
                for refused in reply.get("Errors", ()):
                    raise StorageError(
                        f"{self.uri(key)}: {refused['Key']} was not deleted: {refused.get('Message')}; allow "
                        "s3:DeleteObject to the identity this process runs as"
                    )

    def _explained(self, key: str, permission: str) -> contextlib.AbstractContextManager[None]:
        def to(code: str, text: str) -> StorageError:
            kind = NotStored if code in ("NoSuchKey", "404") else StorageError
            return kind(
                f"{self.uri(key)}: {self._advice(code, permission)} ({code})" if code else f"{self.uri(key)}: {text}"
            )

        return translated(to)

    def _advice(self, code: str, permission: str) -> str:
        if code == "NoSuchBucket":
            return f"there is no bucket {self.bucket}; deploy infra/ or set FORECAST_STORAGE_URL"
        if code in ("NoSuchKey", "404"):
            return "there is no such object"
        if code in ("AccessDenied", "403", "AllAccessDisabled"):
            return f"access denied; allow {permission} on the bucket to the identity this process runs as"
        if code in _REFUSED:
            return "the AWS credentials were refused; renew them"
        return "S3 refused the request; see the code and try again"
