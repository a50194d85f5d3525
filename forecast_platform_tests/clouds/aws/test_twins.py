"""The twins of profile aws are chosen by the settings and opened when they are used."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from forecast_platform.defs.resources import Platform
from forecast_platform.engines.local import LocalEngine
from forecast_platform.engines.sagemaker.builtin import BuiltinEngine
from forecast_platform.engines.sagemaker.container.training import ContainerEngine
from forecast_platform.settings import Settings
from forecast_platform_tests.engines.sagemaker.test_requests import COMMON


@pytest.mark.parametrize(
    ("engine", "kind"),
    [("", ContainerEngine), ("sagemaker-container", ContainerEngine), ("sagemaker-builtin", BuiltinEngine)],
)
def test_a_platform_asks_nobody_before_it_is_used(home: Path, monkeypatch: pytest.MonkeyPatch, engine, kind):
    def refused(*given: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    platform = Platform(Settings(**COMMON, engine=engine))
    assert type(platform.engine) is kind
    assert platform.lake.namespace == "forecast"
    assert not home.exists()


def test_deepar_may_run_in_this_process(home: Path):
    assert isinstance(Platform(Settings(**COMMON, engine="local")).engine, LocalEngine)


@pytest.mark.parametrize("as_file", [False, True])
def test_what_people_keep_goes_to_the_bucket(home: Path, s3: Any, tmp_path: Path, as_file: bool):
    platform = Platform(Settings(**{**COMMON, "storage_url": "s3://drop/p"}))
    (tmp_path / "page").write_bytes(b"page")
    given = tmp_path / "page" if as_file else b"page"
    assert platform.cloud.keep("reports/a.html", given) == "s3://drop/p/reports/a.html"
    assert s3.get_object(Bucket="drop", Key="p/reports/a.html")["Body"].read() == b"page"
    assert not home.exists()
