"""Other people's databases: a connection by its address, through ADBC, and errors in words that hold no password.

An address is a URL, such as postgresql://user@host:5432/shop. PostgreSQL's library, libpq, finds the password in
PGPASSWORD or ~/.pgpass; an address that holds one comes from the environment only. Other schemes are those of ADBC's
drivers: SCHEME:// is served by the package adbc-driver-SCHEME.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_manager.dbapi import Connection, Cursor

_DRIVERS = {"postgres": "postgresql", "redshift": "postgresql"}  # scheme -> another driver's
_POSTGRES = "postgresql"
CONNECT_SECONDS = 10
_SECRETS = ("password", "sslpassword")  # also as parameters of an address


class DatabaseError(RuntimeError):
    """A database could not be reached, or did not do what it was asked; the message says why, and what to do."""


def is_address(text: str) -> bool:
    return re.match(r"[a-z][a-z0-9+]*://", text) is not None


def is_postgres(url: str) -> bool:
    return _driver(url) == _POSTGRES


def has_password(url: str) -> bool:
    return any(passwords(url))


def without_password(url: str) -> str:
    """The address as people and logs may see it."""
    if not has_password(url):
        return url
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = urlencode([(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k not in _SECRETS])
    return parts._replace(netloc=f"{user.partition(':')[0]}{at}{host}", query=query).geturl()


def database_name(url: str) -> str:
    """The name of the database, to call things by."""
    return unquote(urlsplit(url).path.rpartition("/")[2]) or urlsplit(url).hostname or "database"


@contextlib.contextmanager
def connected(url: str, seconds: float = 0, read_only: bool = False, time_zone: str = "") -> Iterator[Connection]:
    """A connection in one transaction, which is committed when the block ends and undone when it fails.

    Args:
        seconds: a statement that takes longer is stopped (PostgreSQL); 0: none is.
        read_only: the database refuses whatever writes (PostgreSQL).
        time_zone: of the session (PostgreSQL); what days are compared by.

    Raises:
        DatabaseError: also for whatever the block does with the database.
    """
    name = _driver(url)
    try:
        driver = importlib.import_module(f"adbc_driver_{name}.dbapi")
    except ImportError:
        extra = " (the extra postgres of this platform)" if name == _POSTGRES else ""
        raise DatabaseError(
            f"{name} needs the package adbc-driver-{name}{extra}: pip install adbc-driver-{name}"
        ) from None
    from adbc_driver_manager import Error

    try:
        with driver.connect(_uri(url, name)) as connection:
            if name == _POSTGRES:
                with connection.cursor() as cursor:
                    if read_only:
                        cursor.execute("SET TRANSACTION READ ONLY")
                    if seconds:
                        cursor.execute(f"SET LOCAL statement_timeout = {round(seconds * 1000)}")
                    if time_zone:
                        cursor.execute(f"SET LOCAL TIME ZONE '{time_zone.replace(chr(39), '')}'")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
    except Error as error:
        raise DatabaseError(_in_words(str(error), getattr(error, "sqlstate", None), url, seconds)) from None


def batches(cursor: Cursor, url: str, seconds: float = 0) -> Iterator[pa.RecordBatch]:
    """The rows that a statement gives, some at a time.

    Raises:
        DatabaseError: the database broke off.
    """
    import pyarrow as pa

    reader = cursor.fetch_record_batch()
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:  # what ADBC says while rows come
            raise DatabaseError(_in_words(str(error), None, url, seconds)) from None
        yield batch


def _driver(url: str) -> str:
    scheme = urlsplit(url).scheme
    if not scheme.isidentifier():
        raise DatabaseError(
            f"{without_password(url)!r} is no address of a database, such as postgresql://user@host/name"
        )
    return _DRIVERS.get(scheme, scheme)


def _uri(url: str, driver: str) -> str:
    if driver == "sqlite":
        return "file:" + urlsplit(url).path.removeprefix("/")  # sqlite:///here.db, sqlite:////there/it.db
    if driver != _POSTGRES:
        return url
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query = {"connect_timeout": str(CONNECT_SECONDS), "application_name": "forecast_platform"} | query
    return parts._replace(scheme=_POSTGRES, query=urlencode(query)).geturl()


def passwords(url: str) -> Iterator[str]:
    """The passwords in an address, as they are written there and as they are meant."""
    parts = urlsplit(url)
    _, _, password = parts.netloc.rpartition("@")[0].partition(":")
    yield from filter(None, (password, unquote(password)))
    yield from (value for name, value in parse_qsl(parts.query) if name in _SECRETS)


def _in_words(text: str, state: str | None, url: str, seconds: float) -> str:
    for secret in sorted(passwords(url), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"\s*Query was:.*|\s*\.?\s*SQLSTATE: .*", "", text, flags=re.S)
    text = re.sub(
        r"^[A-Z_]+: |\[libpq\] |Failed to connect: |Failed to \w+ query[^:]*: |Execution error \[\w+\]: ", "", text
    )
    text = " ".join(re.sub(r"\bERROR: +|\bLINE \d+:.*", "", text, flags=re.S).split()).rstrip(".")
    where = without_password(url)
    if state == "57014" or "statement timeout" in text:
        return (
            f"{where}: the statement took longer than {seconds:g} s and was stopped; give it more time, or ask for less"
        )
    if "password" in text:
        text += "; the password comes from PGPASSWORD, from ~/.pgpass, or with the address from the environment"
    return f"{where}: {text}"
