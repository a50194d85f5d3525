"""The folder twin and the S3 twin keep the same promises; S3 is moto's server on loopback."""

from __future__ import annotations

import datetime as dt
import http.client
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.clouds.aws.landing import S3Landing
from forecast_platform.clouds.base import open_landing
from forecast_platform.landing.place import FolderLanding, Landing, LandingError, LandingObject


@pytest.fixture(params=["folder", "s3", "s3 without prefix"])
def twin(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Landing, Callable[[str, bytes], None]]:
    """A landing place and a way for somebody else to drop a file there, without it."""
    if request.param == "folder":
        root = tmp_path / "landing"

        def drop(key: str, data: bytes) -> None:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(data)

        return FolderLanding(root, settle_seconds=0), drop
    client = request.getfixturevalue("s3")
    prefix = "" if "without" in request.param else "in/here/"
    return (
        open_landing(f"s3://drop/{prefix}"),
        lambda key, data: client.put_object(Bucket="drop", Key=prefix + key, Body=data) and None,
    )


def keys(objects: list[LandingObject]) -> list[str]:
    return [obj.key for obj in objects]


class TestTwins:
    def test_an_empty_place_has_no_files(self, twin: Any) -> None:
        assert twin[0].list() == []

    def test_what_is_put_is_listed_and_read(self, twin: Any) -> None:
        landing, _ = twin
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)
        put = landing.put("sales/2012/a b+é.csv", b"hello")
        assert landing.list() == [put]
        assert landing.read(put) == b"hello"
        assert (put.key, put.kind, put.size) == ("sales/2012/a b+é.csv", "sales", 5)
        for moment in (put.arrived_at, put.modified_at):
            assert before <= moment <= dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
            assert moment.utcoffset() == dt.timedelta(0)

    def test_what_others_drop_is_listed_by_kind(self, twin: Any) -> None:
        landing, drop = twin
        for key in ("sales/a.csv", "stores/s.csv", "departments/d.csv", "features/f.csv", "calendar/c.csv",
                    "misplaced.csv", "other/x.csv"):  # fmt: skip
            drop(key, b"x")
        assert {obj.key: obj.kind for obj in landing.list()} == {
            "sales/a.csv": "sales",
            "stores/s.csv": "stores",
            "departments/d.csv": "departments",
            "features/f.csv": "features",
            "calendar/c.csv": "calendar",
            "misplaced.csv": None,
        }

    def test_unfinished_and_hidden_names_are_passed_over(self, twin: Any) -> None:
        landing, drop = twin
        for name in (
            ".a.csv",
            "_SUCCESS",
            "a.csv.tmp",
            "a.part",
            "a.PARTIAL",
            "a.crdownload",
            "_temporary/a.csv",
            "b.csv",
        ):
            drop(f"sales/{name}", b"x")
        assert keys(landing.list()) == ["sales/b.csv"]

    def test_the_version_follows_the_content(self, twin: Any) -> None:
        landing, _ = twin
        first = landing.put("sales/a.csv", b"one")
        again = landing.put("sales/a.csv", b"one")
        second = landing.put("sales/a.csv", b"two")
        assert first.version == again.version != second.version
        assert landing.list() == [second]

    def test_reading_a_replaced_or_removed_version_fails(self, twin: Any) -> None:
        landing, drop = twin
        old = landing.put("sales/a.csv", b"one")
        drop("sales/a.csv", b"two")
        with pytest.raises(LandingError, match=r"sales/a.csv.* replaced .*look again"):
            landing.read(old)
        with pytest.raises(LandingError, match=r"sales/gone.csv.* look again"):
            landing.read(LandingObject("sales/gone.csv", "0" * 16, 1, old.arrived_at, old.modified_at))
        with pytest.raises(LandingError, match=r"sales/a.csv.* replaced .*look again"), landing.opened(old):
            pytest.fail("what lies there now is another version")

    def test_a_version_is_opened_as_a_file_of_this_machine(self, twin: Any, tmp_path: Path) -> None:
        landing, _ = twin
        (tmp_path / "large.csv").write_bytes(b"one\n" * 1000)
        obj = landing.put("sales/a.csv", tmp_path / "large.csv")
        assert obj.size == 4000
        with landing.opened(obj) as path:
            assert path.read_bytes() == b"one\n" * 1000 == landing.read(obj)
        assert landing.list() == [obj]

    def test_objects_come_by_arrival_then_key(self, twin: Any) -> None:
        landing, drop = twin
        drop("sales/c.csv", b"x")
        time.sleep(1.1)  # S3 counts seconds
        drop("sales/b.csv", b"x")
        drop("sales/a.csv", b"x")
        found = landing.list()
        assert found == sorted(found, key=lambda obj: (obj.arrived_at, obj.key))
        assert keys(found)[0] == "sales/c.csv"

    def test_a_known_listing_changes_nothing_but_the_work(self, twin: Any) -> None:
        landing, drop = twin
        drop("sales/a.csv", b"one")
        first = landing.list()
        known = {obj.key: obj for obj in first}
        assert landing.list(known=known) == first
        time.sleep(0.02)
        drop("sales/a.csv", b"two")
        assert landing.list(known=known)[0].version != first[0].version

    @pytest.mark.parametrize(
        "key", ["../a.csv", "/a.csv", "sales/../../a.csv", "", "sales//a.csv", "sales/", "a\\b", "./a"]
    )
    def test_a_key_cannot_leave_the_place(self, twin: Any, key: str) -> None:
        with pytest.raises(ValueError, match="is no key"):
            twin[0].put(key, b"x")

    def test_an_empty_file_is_a_file(self, twin: Any) -> None:
        put = twin[0].put("sales/a.csv", b"")
        assert twin[0].read(put) == b""


class TestFolder:
    def test_it_is_created_and_named(self, tmp_path: Path) -> None:
        landing = open_landing(str(tmp_path / "new" / "landing"))
        assert Path(landing.url).is_dir()
        assert isinstance(landing, FolderLanding)
        assert landing.settle_seconds == 1.0

    def test_a_file_settles_before_it_is_listed(self, tmp_path: Path) -> None:
        landing = FolderLanding(tmp_path, settle_seconds=0.5)
        assert landing.settles_in() == 0
        copied = tmp_path / "sales" / "a.csv"
        copied.parent.mkdir()
        copied.write_bytes(b"x\n")
        assert landing.list() == []
        assert 0 < landing.settles_in() <= 0.5
        time.sleep(landing.settles_in())
        assert keys(landing.list()) == ["sales/a.csv"]
        assert landing.settles_in() == 0
        landing.put("sales/b.csv", b"y")  # whole, as this process wrote it
        assert keys(landing.list()) == ["sales/a.csv", "sales/b.csv"]
        os.utime(tmp_path / "sales" / "b.csv")  # somebody else does something with it
        assert keys(landing.list()) == ["sales/a.csv"]

    @pytest.mark.usefixtures("far_from_utc")
    def test_a_copy_that_keeps_old_times_counts_as_arrived_now(self, tmp_path: Path) -> None:
        landing = FolderLanding(tmp_path, settle_seconds=0)
        path = tmp_path / "sales" / "a.csv"
        landing.put("sales/a.csv", b"x")
        os.utime(path, (1e9, 1e9))
        (obj,) = landing.list()
        assert obj.modified_at == dt.datetime.fromtimestamp(1e9, dt.UTC)
        assert abs(obj.arrived_at.timestamp() - time.time()) < 3600

    def test_a_file_from_a_clock_ahead_is_not_held_back(self, tmp_path: Path) -> None:
        landing = FolderLanding(tmp_path, settle_seconds=0.3)
        landing.put("sales/a.csv", b"x\n")
        os.utime(tmp_path / "sales" / "a.csv", (time.time() + 9e5,) * 2)
        time.sleep(0.4)
        assert keys(landing.list()) == ["sales/a.csv"]

    def test_known_files_are_not_hashed_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        landing = FolderLanding(tmp_path, settle_seconds=0)
        obj = landing.put("sales/a.csv", b"x")
        monkeypatch.setattr("hashlib.file_digest", lambda *a: pytest.fail("hashed"))
        assert landing.list(known={obj.key: obj}) == [obj]

    def test_links_out_of_the_root_are_skipped(self, tmp_path: Path) -> None:
        landing = FolderLanding(tmp_path / "landing", settle_seconds=0)
        inside = landing.put("sales/a.csv", b"x")
        (tmp_path / "secret.csv").write_bytes(b"secret")
        sales = tmp_path / "landing" / "sales"
        (sales / "out.csv").symlink_to(tmp_path / "secret.csv")
        (sales / "in.csv").symlink_to(sales / "a.csv")
        (sales / "broken.csv").symlink_to(sales / "nowhere.csv")
        (sales / "loop").symlink_to(sales)
        os.mkfifo(sales / "pipe.csv")
        found = {obj.key: obj.version for obj in landing.list()}
        assert found == {"sales/a.csv": inside.version, "sales/in.csv": inside.version}

    def test_a_put_that_fails_leaves_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        landing = FolderLanding(tmp_path, settle_seconds=0)
        old = landing.put("sales/a.csv", b"old")

        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(LandingError, match=r"No space left.*check the path and the disk"):
            landing.put("sales/a.csv", b"new")
        assert landing.list() == [old]
        assert os.listdir(tmp_path / "sales") == ["a.csv"]

    def test_readers_never_see_half_a_put(self, tmp_path: Path) -> None:
        landing = FolderLanding(tmp_path, settle_seconds=0)
        stop = threading.Event()

        def write() -> None:
            for i in range(1000):
                landing.put("sales/a.csv", bytes([i % 256]) * 50_000)
                if stop.is_set():
                    return

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(100):
                assert [obj.size for obj in landing.list()] in ([], [50_000])
        finally:
            stop.set()
            writer.join()

    def test_trouble_is_never_no_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        landing = FolderLanding(tmp_path / "landing", settle_seconds=0)
        landing.put("sales/a.csv", b"x")

        def denied(*_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:  # root may read anything, so mode bits prove nothing
            patch.setattr(os, "scandir", denied)
            with pytest.raises(LandingError, match=r"access denied.*let the user"):
                landing.list()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", denied)
            with pytest.raises(LandingError, match=r"sales/a.csv: access denied"):
                landing.list()
        (tmp_path / "landing").rename(tmp_path / "moved")
        with pytest.raises(LandingError, match=r"is gone; create it or set FORECAST_LANDING_URL"):
            landing.list()

    def test_a_file_in_the_way_is_explained(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(LandingError, match="check the path"):
            open_landing(str(tmp_path / "file"))

    def test_a_name_that_is_no_text_is_explained(self, tmp_path: Path) -> None:
        landing = FolderLanding(tmp_path, settle_seconds=0)
        (tmp_path / "sales").mkdir()
        with open(os.fsencode(tmp_path / "sales") + b"/\xff.csv", "wb"):
            pass
        with pytest.raises(LandingError, match="not UTF-8; rename it"):
            landing.list()


def test_a_file_that_changes_while_it_is_read_is_not_that_version(tmp_path: Path) -> None:
    landing = FolderLanding(tmp_path, settle_seconds=0)
    obj = landing.put("sales/a.csv", b"one")

    def read() -> None:
        with landing.opened(obj) as path:
            path.write_bytes(b"two")
            raise ValueError("what was made of half of each must not be told")

    with pytest.raises(LandingError, match="replaced"):
        read()


class TestS3:
    def test_more_keys_than_one_page(self, s3: Any) -> None:
        landing = open_landing("s3://drop/in")
        from moto.s3.models import s3_backends  # the server runs in this process: no need for 1005 requests

        for i in range(1005):
            s3_backends["123456789012"]["aws"].put_object("drop", f"in/sales/{i:04}.csv", b"x")
        assert sorted(keys(landing.list())) == [f"sales/{i:04}.csv" for i in range(1005)]

    def test_a_folder_marker_is_no_file(self, s3: Any) -> None:
        s3.put_object(Bucket="drop", Key="in/sales/", Body=b"")
        s3.put_object(Bucket="drop", Key="in/", Body=b"")
        assert open_landing("s3://drop/in").list() == []

    def test_no_such_bucket(self, s3: Any) -> None:
        landing = open_landing("s3://nowhere/in")
        for call in (landing.list, lambda: landing.put("sales/a.csv", b"")):
            with pytest.raises(LandingError, match="there is no bucket nowhere; create it"):
                call()

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("AccessDenied", "access denied; allow s3:ListBucket"),
            ("InvalidAccessKeyId", "renew them"),
            ("InternalError", "try again"),
        ],
    )
    def test_refusals_are_explained(self, s3: Any, code: str, words: str) -> None:
        from botocore.stub import Stubber

        landing = S3Landing("s3://drop/in")
        with Stubber(landing._client) as stub:
            stub.add_client_error("list_objects_v2", code)
            with pytest.raises(LandingError, match=words):
                landing.list()

    def test_no_credentials(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(LandingError, match="check the AWS credentials"):
            open_landing("s3://drop").list()

    def test_addresses(self) -> None:
        assert open_landing("s3://drop/a/b/").url == "s3://drop/a/b"
        assert open_landing("s3://drop").url == "s3://drop"
        for bad in ("s3://", "gs://bucket/x"):
            with pytest.raises(LandingError, match=r"s3://bucket/prefix"):
                open_landing(bad)

    def test_folders_do_not_pay_for_boto3(self) -> None:
        code = "import sys, forecast_platform.landing.place; sys.exit('botocore' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class FaultyS3:
    """A proxy before the S3 server: one fault a request, as listed in `faults`, and then none.

    "503": SlowDown. "500": InternalError. "reset": the connection is torn down. "truncated": half of the body, then the
    end of the connection. "damaged": the first byte of the body is another.
    """

    def __init__(self, endpoint: str) -> None:
        self.faults: list[str] = []
        self.requests: list[str] = []
        proxy, target = self, endpoint.removeprefix("http://")

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                proxy.requests.append(f"{self.command} {self.path}")
                fault = proxy.faults.pop(0) if proxy.faults else ""
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if fault == "reset":
                    # Closing with zero linger sends a reset instead of a farewell.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                if fault in ("500", "503"):
                    code = {"500": "InternalError", "503": "SlowDown"}[fault]
                    body = f"<Error><Code>{code}</Code><Message>as asked</Message></Error>".encode()
                    self.reply(int(fault), {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body)
                    return
                upstream = http.client.HTTPConnection(target)
                upstream.request(self.command, self.path, sent, dict(self.headers))
                answer = upstream.getresponse()
                body = answer.read()
                upstream.close()
                headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "date", "server")}
                if fault == "truncated":
                    body, self.close_connection = body[: len(body) // 2], True
                if fault == "damaged":
                    body = bytes([body[0] ^ 1]) + body[1:]
                self.reply(answer.status, headers, body)

            do_GET = do_PUT = do_HEAD = forward

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def faulty(s3: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    found = FaultyS3(endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds slept between tries, none of them really."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


class TestS3UnderFaults:
    @pytest.mark.parametrize("fault", ["503", "500", "reset"])
    def test_a_request_is_tried_again_with_longer_waits(self, faulty: FaultyS3, waits: Any, fault: str) -> None:
        landing = S3Landing("s3://drop/in")
        put = landing.put("sales/a.csv", b"x")
        faulty.faults = [fault] * 3
        assert landing.list() == [put]
        assert faulty.faults == []
        assert len(waits) == 3
        assert all(0 <= wait <= 2**i for i, wait in enumerate(waits))
        assert len(set(waits)) == 3, "jitter"

    @pytest.mark.parametrize("fault", ["truncated", "damaged"])
    def test_a_body_that_does_not_arrive_whole_is_read_again(self, faulty: FaultyS3, waits: Any, fault: str) -> None:
        landing = S3Landing("s3://drop/in")
        put = landing.put("sales/a.csv", b"0123456789")
        faulty.faults = [fault] * 2
        assert landing.read(put) == b"0123456789"
        assert len(waits) == 2
        faulty.faults = [fault] * 99
        with pytest.raises(LandingError, match=r"sales/a.csv: "):
            landing.read(put)

    def test_a_place_that_stays_slow_is_named_so(self, faulty: FaultyS3, waits: Any) -> None:
        landing = S3Landing("s3://drop/in")
        faulty.faults = ["503"] * 99
        with pytest.raises(LandingError, match="asks to slow down; it was tried 5 times"):
            landing.list()
        assert len(faulty.requests) == 5

    def test_a_put_whose_reply_is_lost_has_landed_once(self, faulty: FaultyS3, waits: Any) -> None:
        landing = S3Landing("s3://drop/in")
        faulty.faults = ["truncated", "reset"]  # an answer to a PUT has no body: this one comes through; HEAD does not
        put = landing.put("sales/a.csv", b"x")
        assert landing.list() == [put]


class TestLook:
    def test_it_shows_what_a_listing_shows(self, twin: Any) -> None:
        landing, drop = twin
        for key in ("sales/a b+ä.csv", "stores/s.csv", "misplaced.csv", "other/x.csv", "sales/.hidden"):
            drop(key, b"x")
        names = ["sales/a b+ä.csv", "misplaced.csv", "other/x.csv", "sales/.hidden", "sales/gone.csv", "../up"]
        assert set(keys(landing.look(names))) == {"sales/a b+ä.csv", "misplaced.csv"}
        assert landing.look(names) == [o for o in landing.list() if o.key in names]
        assert landing.look([]) == []

    def test_a_versioned_bucket_shows_the_newest_and_not_the_deleted(self, s3: Any) -> None:
        s3.put_bucket_versioning(Bucket="drop", VersioningConfiguration={"Status": "Enabled"})
        landing = S3Landing("s3://drop/in")
        old = landing.put("sales/a.csv", b"one")
        new = landing.put("sales/a.csv", b"two")
        landing.put("sales/b.csv", b"gone")
        s3.delete_object(Bucket="drop", Key="in/sales/b.csv")
        assert landing.look(["sales/a.csv", "sales/b.csv"]) == landing.list() == [new]
        assert landing.read(new) == b"two"
        with pytest.raises(LandingError, match="replaced"):
            landing.read(old)

    def test_access_denied_is_no_absence(self, s3: Any) -> None:
        from botocore.stub import Stubber

        landing = S3Landing("s3://drop/in")
        with Stubber(landing._client) as stub:
            stub.add_client_error("head_object", "403")
            with pytest.raises(LandingError, match="access denied; allow s3:GetObject and s3:ListBucket"):
                landing.look(["sales/a.csv"])
