"""Storage over an S3 server on loopback: whole objects, whole folders, and errors that say how to mend them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast_platform.clouds.aws import storage as module
from forecast_platform.clouds.aws.clients import client
from forecast_platform.clouds.aws.storage import NotStored, Storage, StorageError, StoredObject


@pytest.fixture(params=["s3://drop/some/prefix/", "s3://drop"])
def storage(request, s3) -> Storage:
    return Storage(request.param)


class TestAddress:
    @pytest.mark.parametrize("url", ["", "s3://", "s3:///prefix", "https://bucket/prefix", "/tmp/folder"])
    def test_an_address_without_a_bucket_is_refused(self, url):
        with pytest.raises(StorageError, match="FORECAST_STORAGE_URL"):
            Storage(url)

    def test_keys_and_whole_addresses(self):
        storage = Storage("s3://bucket/some/prefix/")
        assert storage.uri("models/a") == "s3://bucket/some/prefix/models/a"
        assert storage.key(storage.uri("models/a")) == "models/a"
        for elsewhere in ("s3://bucket/some/prefixes/models/a", "s3://other/some/prefix/models/a"):
            with pytest.raises(StorageError, match="does not lie under s3://bucket/some/prefix"):
                storage.key(elsewhere)


class TestObjects:
    def test_what_was_put_is_there_under_the_prefix(self, storage, s3):
        storage.put_bytes("a/b.json", b"one")
        storage.put_bytes("a/b.json", b"two")
        assert storage.get_bytes("a/b.json") == b"two"
        bucket, _, key = storage.uri("a/b.json").removeprefix("s3://").partition("/")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"two"
        assert storage.exists("a/b.json")
        assert not storage.exists("a/b")
        assert storage.list() == storage.list("a") == [storage.find("a/b.json")]
        assert storage.find("a/b.json") == StoredObject("a/b.json", 3, storage.list()[0].etag)
        assert '"' not in storage.list()[0].etag

    def test_what_is_not_there(self, storage, tmp_path):
        assert storage.find("nothing") is None
        assert storage.list("nothing") == []
        with pytest.raises(NotStored, match=f"^{storage.uri('nothing')}: there is no such object"):
            storage.get_bytes("nothing")
        with pytest.raises(NotStored, match="there is no such object"):
            storage.get_file("nothing", tmp_path / "file")
        with pytest.raises(NotStored, match="nothing is stored under"):
            storage.download_folder("nothing", tmp_path / "folder")
        assert not list(tmp_path.rglob("file*"))
        storage.delete("nothing")

    def test_a_folder_is_what_lies_below_its_name_not_what_begins_like_it(self, storage):
        for key in ("a/1", "a/b/2", "ab/3", "a"):
            storage.put_bytes(key, b"")
        assert [item.key for item in storage.list("a")] == ["a/1", "a/b/2"]
        storage.delete("a")
        assert [item.key for item in storage.list()] == ["ab/3"]

    def test_more_objects_than_a_page_or_a_deletion_takes(self, storage, monkeypatch):
        for n in range(7):
            storage.put_bytes(f"many/{n}", b"")
        real = storage._client.get_paginator("list_objects_v2").paginate

        class Small:
            def paginate(self, **asked):
                return real(PaginationConfig={"PageSize": 3}, **asked)

        monkeypatch.setattr(storage._client, "get_paginator", lambda name: Small())
        assert len(storage.list("many")) == 7
        storage.delete("many")
        assert storage.list("many") == []


NAMES = st.text("abcä .+%&=@_-", min_size=1, max_size=8).filter(lambda name: name.strip(" .") != "")


class TestFolders:
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=20), min_size=1, max_size=4))
    def test_a_folder_comes_back_as_it_was(self, s3, tmp_path_factory, files):
        storage, base = Storage("s3://drop/x"), tmp_path_factory.mktemp("folders")
        storage.delete("folder")
        for (folder, name), data in files.items():
            path = base / "out" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        storage.upload_folder(base / "out", "folder")
        (base / "back").mkdir()
        (base / "back" / "left over").write_text("from before")
        storage.download_folder("folder", base / "back")
        assert contents(base / "back") == contents(base / "out")

    def test_half_a_download_leaves_the_folder_as_it_was(self, storage, tmp_path, monkeypatch):
        for name in ("1", "2"):
            storage.put_bytes(f"folder/{name}", b"new")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "1").write_text("old")
        real = Storage.get_file

        def fails(self, key, path):
            if key.endswith("2"):
                raise StorageError("the line went dead")
            real(self, key, path)

        monkeypatch.setattr(Storage, "get_file", fails)
        with pytest.raises(StorageError, match="went dead"):
            storage.download_folder("folder", tmp_path / "folder")
        assert contents(tmp_path / "folder") == {"1": b"old"}
        monkeypatch.undo()
        storage.download_folder("folder", tmp_path / "folder")
        assert contents(tmp_path / "folder") == {"1": b"new", "2": b"new"}

    def test_no_key_leads_out_of_the_folder(self, storage, tmp_path):
        storage.put_bytes("folder/../../up", b"")
        with pytest.raises(StorageError, match="would be written outside"):
            storage.download_folder("folder", tmp_path / "a" / "folder")
        assert not list(tmp_path.rglob("up"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestErrors:
    def test_no_such_bucket(self, s3):
        with pytest.raises(StorageError, match=r"no bucket gone; deploy infra/ or set FORECAST_STORAGE_URL"):
            Storage("s3://gone/prefix").put_bytes("a", b"")
        with pytest.raises(StorageError, match="no bucket gone"):
            Storage("s3://gone/prefix").list()

    @pytest.mark.parametrize(
        ("code", "advice"),
        [
            ("AccessDenied", "allow s3:PutObject on the bucket"),
            ("ExpiredToken", "credentials were refused; renew them"),
            ("SignatureDoesNotMatch", "credentials were refused"),
            ("InternalError", "S3 refused the request"),
        ],
    )
    def test_what_s3_answers_is_said_with_the_way_out(self, s3, monkeypatch, code, advice):
        from botocore.exceptions import ClientError

        storage = Storage("s3://drop/prefix")

        def refused(**asked):
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")

        monkeypatch.setattr(storage._client, "put_object", refused)
        with pytest.raises(StorageError, match=rf"^s3://drop/prefix/a: .*{advice}.*\({code}\)"):
            storage.put_bytes("a", b"")

    def test_no_credentials_and_nobody_listening(self, s3, monkeypatch, tmp_path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setattr(
            module, "client", lambda service: client(service, retries={"total_max_attempts": 1}, connect_timeout=1)
        )
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
            Storage("s3://drop").put_bytes("a", b"")
        with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
            Storage("s3://drop").put_file(tmp_path / "file", "a")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with pytest.raises(StorageError, match="credentials"):
            Storage("s3://drop").list()

    def test_a_client_retries_with_patience_and_says_who_it_is(self, s3):
        config = client("s3", read_timeout=7).meta.config
        assert config.retries["mode"] == "adaptive"
        assert config.retries["total_max_attempts"] >= 10
        assert (config.connect_timeout, config.read_timeout) == (10, 7)
        assert "forecast-platform" in config.user_agent_extra
