"""A PostgreSQL of the tests' own: a real server on loopback, with a password, in a folder that is thrown away."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

# Where Debian, PGDG's packages and others put the programs beside the PATH.
_PLACES = ("/usr/local/bin", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


@dataclass(frozen=True)
class Postgres:
    """A running server. `url` has no password; it is PGPASSWORD's to say."""

    url: str
    password: str

    @property
    def with_password(self) -> str:
        return self.url.replace("shop@", f"shop:{self.password}@")

    def database(self, name: str) -> Postgres:
        """A new, empty database of that name."""
        self.run(f"DROP DATABASE IF EXISTS {name}")
        self.run(f"CREATE DATABASE {name}")
        return Postgres(urlsplit(self.url)._replace(path=f"/{name}").geturl(), self.password)

    def run(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements one after the other, each in a transaction of its own; the rows of the last."""
        from adbc_driver_postgresql import dbapi

        rows: list[tuple[object, ...]] = []
        with dbapi.connect(self.with_password, autocommit=True) as con, con.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows


def lacking() -> str:
    """Why no server can be started here; empty where one can."""
    if _program("initdb") is None or _program("postgres") is None:
        return "no PostgreSQL: initdb and postgres are not installed"
    if os.geteuid() == 0 and not _other_user():
        return "PostgreSQL refuses to run as root, and there is no other user and setpriv to run it as"
    return ""


@contextmanager
def serving() -> Iterator[Postgres]:
    """A server with the user `shop`, until the block ends. Not durable: it lives as long as its test run."""
    folder = Path(tempfile.mkdtemp(prefix="forecast-postgres-"))
    data, secret = folder / "data", folder / "password"
    password = secrets.token_urlsafe(12)
    secret.write_text(password)
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        for path in (folder, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
    options = ["--auth=scram-sha-256", "--username=shop", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
    _run([_program("initdb") or "", f"--pgdata={data}", *options, "--no-sync"])
    port = _free_port()
    server = subprocess.Popen(
        [*_as_user(), _program("postgres") or "", "-D", str(data), "-h", "127.0.0.1", "-p", str(port),
         "-c", f"unix_socket_directories={folder}", "-c", "fsync=off", "-c", "synchronous_commit=off",
         "-c", "full_page_writes=off", "-c", "shared_buffers=16MB"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"),
    )  # fmt: skip
    try:
        made = Postgres(f"postgresql://shop@127.0.0.1:{port}/postgres", password)
        _await(made, server, folder / "log")
        yield made
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _await(made: Postgres, server: subprocess.Popen[bytes], log: Path) -> None:
    import time

    from adbc_driver_manager import Error

    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            made.run("SELECT 1")
        except Error:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"PostgreSQL does not start: {log.read_text()}")


def _program(name: str) -> str | None:
    import glob

    found = [shutil.which(name), *(f"{place}/{name}" for pattern in _PLACES for place in sorted(glob.glob(pattern)))]
    return next((path for path in found if path and os.access(path, os.X_OK)), None)


def _other_user() -> bool:
    try:
        pwd.getpwnam("nobody")
    except KeyError:
        return False
    return shutil.which("setpriv") is not None


def _as_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("nobody")
    # It ends with whoever started it, also where that is killed.
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig", "TERM"]


def _run(command: list[str]) -> None:
    done = subprocess.run([*_as_user(), *command], capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
