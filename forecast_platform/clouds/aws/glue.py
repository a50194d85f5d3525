"""The lake on AWS: Iceberg tables in Glue's catalog, their files in S3.

Three things are ours on top of pyiceberg's Glue catalog. Files are opened with boto3's credentials of the moment, so
that profiles, roles and single sign-on work as everywhere else, and a table opened yesterday is read with today's.
A commit whose reply was lost is reported as unknown, never as failed. And passing errors of S3 (503 Slow
Down, 500) are retried.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, HTTPClientError
from pyarrow.fs import AwsStandardS3RetryStrategy
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.io.pyarrow import PyArrowFileIO

from forecast_platform.clouds.aws.clients import client, session
from forecast_platform.clouds.aws.files import BucketFiles
from forecast_platform.lake.lake import Lake

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials
    from pyiceberg.io import FileIO
    from pyiceberg.typedef import Properties


class Patience(AwsStandardS3RetryStrategy):  # type: ignore[misc]  # pyarrow is untyped
    """Ten tries of a request to S3, as boto3's clients make; pyarrow's default is three."""

    def __init__(self) -> None:
        super().__init__(max_attempts=10)


class Catalog(GlueCatalog):
    """One Glue database's tables, below one warehouse in S3.

    Raises:
        botocore.exceptions.ClientError: Glue or S3 said no; its text names the action that was denied.
    """

    def __init__(self, warehouse: str, database: str) -> None:
        super().__init__("glue", client=client("glue"), warehouse=warehouse)
        self._file_io = RenewedFileIO(session().get_credentials())  # its connections serve all tables
        # Infrastructure code makes the database; only where it did not is the right to make one needed.
        if not self.namespace_exists(database):
            self.create_namespace_if_not_exists(database)

    def _load_file_io(self, properties: Properties | None = None, location: str | None = None) -> FileIO:
        return self._file_io

    def _update_glue_table(self, *arguments: Any, **named: Any) -> None:
        commit(lambda: super(Catalog, self)._update_glue_table(*arguments, **named))


class RenewedFileIO(PyArrowFileIO):
    """Files in S3, each opened with the credentials of that moment; a file that is open keeps its own.

    pyarrow's S3FileSystem keeps the keys it was made with. A role's last some hours, while a dashboard shows one state
    of a table until the next week is published.
    """

    def __init__(self, credentials: Credentials | None) -> None:
        super().__init__()
        # pyarrow's own file system, never one written in Python: its threads would wait for the interpreter, which a
        # thread that waits for them may hold.
        self.fs_by_scheme = lambda scheme, bucket: self.of_now().fs_by_scheme(scheme, bucket)
        self._credentials = credentials
        self._frozen = functools.lru_cache(maxsize=2)(file_io)
        self._one_at_a_time = threading.Lock()  # tables are read by several threads, and making it takes a while

    def of_now(self) -> PyArrowFileIO:
        """The same with the keys of now. boto3 renews them at the latest 10 minutes before they end."""
        with self._one_at_a_time:
            return self._frozen(self._credentials.get_frozen_credentials() if self._credentials else None)


def glue_lake(
    warehouse: str,
    database: str,
    quantile_columns: Sequence[str],
    memory_gb: float | None = None,
    spill: Path | None = None,
) -> Lake:
    """The tables of a Glue database, their files below `warehouse` (s3://bucket/prefix); the rest as of Lake."""
    return Lake(
        lambda: Catalog(warehouse.rstrip("/"), database), database, quantile_columns, BucketFiles, memory_gb, spill
    )


def file_io(credentials: ReadOnlyCredentials | None) -> PyArrowFileIO:
    """Access to S3 with these credentials, where boto3's clients find it."""
    s3 = client("s3")
    properties = {
        "s3.region": s3.meta.region_name,
        "s3.connect-timeout": "10",
        "s3.request-timeout": "60",
        "s3.retry-strategy-impl": f"{__name__}.{Patience.__name__}",
    }
    # Amazon's own endpoint is best left to pyarrow, which then addresses buckets by host name.
    if not s3.meta.endpoint_url.startswith(("https://s3.amazonaws.com", f"https://s3.{s3.meta.region_name}.amazon")):
        properties["s3.endpoint"] = s3.meta.endpoint_url
    if credentials:
        properties["s3.access-key-id"] = credentials.access_key
        properties["s3.secret-access-key"] = credentials.secret_key
        if credentials.token:
            properties["s3.session-token"] = credentials.token
    return PyArrowFileIO(properties)


def commit(update: Callable[[], None]) -> None:
    """Point Glue at a new state. An outcome that is not known is never reported as a failure.

    Raises:
        CommitFailedException: another writer was first.
        CommitStateUnknownException: no reply, a 5xx, or a conflict on a second try, which may be with our first.
    """
    try:
        update()
    except HTTPClientError as error:
        raise CommitStateUnknownException(f"Glue did not answer: {error}") from error
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise CommitStateUnknownException(str(error)) from error
        raise
    except CommitFailedException as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and cause.response["ResponseMetadata"].get("RetryAttempts", 0):
            raise CommitStateUnknownException(str(error)) from error
        raise
