"""Where files land on S3: a prefix of a bucket. See landing/place.py, Landing."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import io
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from forecast_platform.clouds.aws.clients import client, split_s3, translated
from forecast_platform.landing.kinds import KINDS
from forecast_platform.landing.place import LandingError, LandingObject, checked_key, is_wanted, oldest_first

TRIES = 5  # of one request, with waits that double and vary at random: some 8 seconds in all


class S3Landing:
    """A prefix of an S3 bucket. Credentials, region and endpoint (AWS_ENDPOINT_URL) are boto3's own business.

    Args:
        url: s3://bucket or s3://bucket/prefix.
    """

    def __init__(self, url: str) -> None:
        bucket, prefix = split_s3(url)
        if not bucket:
            raise LandingError(f"{url} names no bucket; write s3://bucket/prefix")
        self.bucket = bucket
        self.prefix = prefix and f"{prefix}/"
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")

    @functools.cached_property
    def _client(self) -> Any:
        # Less patience than elsewhere on AWS: a sensor's tick has 60 seconds, and the next one tries again. Adaptive
        # retries would add waits of their own to each request after a throttled one.
        return client("s3", retries={"mode": "standard", "total_max_attempts": TRIES})

    def list(self, known: Mapping[str, LandingObject] = {}) -> list[LandingObject]:
        """See Landing.list. Listings carry the ETag, so `known` saves nothing here."""
        with self._explained(self.url, "s3:ListBucket"):
            return oldest_first(self._objects())

    def look(self, keys: Iterable[str]) -> Sequence[LandingObject]:
        """See Landing.look."""
        found = (self._look(key) for key in keys if is_wanted(key))
        return oldest_first(obj for obj in found if obj)

    def settles_in(self) -> float:
        """See Landing.settles_in: objects come whole."""
        return 0.0

    def read(self, obj: LandingObject) -> bytes:
        """See Landing.read."""
        data = io.BytesIO()
        self._download(obj, data)
        return data.getvalue()

    @contextlib.contextmanager
    def opened(self, obj: LandingObject) -> Iterator[Path]:
        """See Landing.opened: a temporary copy."""
        with tempfile.TemporaryDirectory(prefix="landing-") as folder:
            path = Path(folder, "object")
            with path.open("wb") as file:
                self._download(obj, file)
            yield path

    def _download(self, obj: LandingObject, file: IO[bytes]) -> None:
        """A transfer that breaks off or arrives damaged is tried again: botocore retries requests, but not the bodies
        of their replies."""
        from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ResponseStreamingError

        where = {"Bucket": self.bucket, "Key": self.prefix + obj.key, "IfMatch": f'"{obj.version}"'}
        with self._explained(obj.key, "s3:GetObject"):
            for tries in range(1, TRIES + 1):
                file.seek(0)
                file.truncate()
                try:
                    body = self._client.get_object(**where)["Body"]
                    while part := body.read(1 << 23):
                        file.write(part)
                    return
                except (FlexibleChecksumError, IncompleteReadError, ResponseStreamingError):
                    if tries == TRIES:
                        raise
                time.sleep(random.uniform(0, 2**tries))  # noqa: S311, jitter is no secret

    def part(self, obj: LandingObject, start: int, length: int) -> bytes:
        """See Landing.part."""
        wanted = f"bytes={start}-{min(start + length, obj.size) - 1}"
        where = {"Bucket": self.bucket, "Key": self.prefix + obj.key, "IfMatch": f'"{obj.version}"', "Range": wanted}
        if start >= obj.size or length <= 0:
            return b""
        with self._explained(obj.key, "s3:GetObject"):
            return bytes(self._client.get_object(**where)["Body"].read())

    def put(self, key: str, data: bytes | Path) -> LandingObject:
        """See Landing.put."""
        where = {"Bucket": self.bucket, "Key": self.prefix + checked_key(key)}
        with self._explained(key, "s3:PutObject and s3:GetObject"):
            if isinstance(data, Path):
                self._client.upload_file(str(data), self.bucket, where["Key"])  # in parts, where it is large
            else:
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
                    if is_wanted(key):
                        yield _s3_object(key, item["ETag"], item["Size"], item["LastModified"])

    def _explained(self, what: str, permission: str) -> contextlib.AbstractContextManager[None]:
        def to(code: str, text: str) -> LandingError:
            said = f"{self._advice(code, permission)} ({code} from {self.url})" if code else text
            return LandingError(f"{what}: {said}")

        return translated(to)

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
