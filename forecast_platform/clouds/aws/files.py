"""The files under a table's folder in S3: what maintenance lists and deletes. See lake/files.py, Files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forecast_platform.clouds.aws.clients import client, split_s3
from forecast_platform.lake.files import File


class BucketFiles:
    """See lake/files.py, Files."""

    def __init__(self, warehouse: str) -> None:
        self._client: Any = client("s3")
        self._warehouse = warehouse

    def address(self, location: str) -> str:
        scheme, separator, key = location.partition("://")
        if scheme not in ("s3", "s3a", "s3n") or not separator:  # three names of one place; Spark writes the others
            raise ValueError(f"{location} is not in S3")
        return f"s3://{key}"

    def folder(self, location: str) -> str:
        warehouse, folder = self.address(self._warehouse), self.address(location)
        if not folder.startswith(f"{warehouse}/"):
            raise ValueError(f"its folder {folder} is outside the warehouse {warehouse}")
        return folder

    def under(self, folder: str) -> Iterator[File]:
        bucket, prefix = split_s3(folder)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        for page in pages:
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # the mark of an empty folder
                    yield File(f"s3://{bucket}/{found['Key']}", found["Size"], found["LastModified"].timestamp())

    def delete(self, addresses: list[str]) -> None:
        for start in range(0, len(addresses), 1000):  # the API's limit
            paths = [split_s3(address) for address in addresses[start : start + 1000]]
            objects = [{"Key": key} for _, key in paths]
            reply = self._client.delete_objects(Bucket=paths[0][0], Delete={"Objects": objects, "Quiet": True})
            for error in reply.get("Errors", ()):
                raise OSError(
                    f"{error['Key']} was not deleted: {error['Code']} {error['Message']}; allow s3:DeleteObject"
                )
